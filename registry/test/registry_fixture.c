#include "registry/test/registry_fixture.h"

#include "base/assert.h"
#include "proto/decode.h"
#include "registry/registry_internal.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <upb/encode.h>
#include <cmocka.h>

static void count_published(void *ctx, uint64_t revision)
{
    struct fixture *f = ctx;
    (void)revision;
    f->published++;
}

static void open_machine(struct fixture *f)
{
    struct thole_machine_env env = {
        .size = sizeof env, .version = 1, .replica_id = 1, .type_ctx = f->type->type_ctx};
    struct thole_status st;
    assert_int_equal(f->type->open(&env, &f->machine, &st), THOLE_OK);
}

void fixture_init(struct fixture *f)
{
    memset(f, 0, sizeof *f);
    f->r = registry_new();
    f->type = registry_machine_type(f->r);
    f->time_ms = 1000;
    registry_subscribe(f->r, count_published, f);
    open_machine(f);
}

void fixture_deinit(struct fixture *f)
{
    if (f->arena != NULL) {
        upb_Arena_Free(f->arena);
    }
    f->type->close(f->machine);
    registry_free(f->r);
}

int fixture_setup_three(void **state)
{
    static struct fixture f;
    fixture_init(&f);
    *state = &f;
    return do_bootstrap(&f, 3) == THOLE_OK ? 0 : -1;
}

int fixture_teardown(void **state)
{
    struct fixture *f = *state;
    struct registry_view *v = registry_view_acquire(f->r);
    check_invariants(v);
    registry_view_release(v);
    fixture_deinit(f);
    return 0;
}

struct cmd cmd_new(const char *actor)
{
    struct cmd c = {.arena = upb_Arena_New()};
    c.c = registry_command_new(actor, 0, c.arena);
    return c;
}

thole_registry_v1_Operation *cmd_op(struct cmd *c)
{
    return thole_registry_v1_Command_add_operations(c->c, c->arena);
}

struct memory_sink {
    struct thole_sink sink;
    struct bytes bytes;
};

static enum thole_code memory_write(struct thole_sink *s, const void *data, size_t size)
{
    struct memory_sink *m = (struct memory_sink *)(void *)s;
    bytes_append(&m->bytes, data, size);
    return THOLE_OK;
}

uint64_t fixture_apply(struct fixture *f, struct slice bytes)
{
    struct memory_sink sink = {.sink = {sizeof(struct thole_sink), memory_write}};
    struct thole_entry entry = {
        .size = sizeof entry,
        .kind = THOLE_ENTRY_COMMAND,
        .index = ++f->index,
        .command = {bytes.data, bytes.size},
        .result = &sink.sink,
    };
    struct thole_apply batch = {
        .size = sizeof batch,
        .entry_size = sizeof entry,
        .entries = &entry,
        .entry_count = 1,
        .applied_index = f->index,
    };
    struct thole_status st;
    assert_int_equal(f->type->apply(f->machine, &batch, &st), THOLE_OK);
    if (f->arena != NULL) {
        upb_Arena_Free(f->arena);
    }
    f->arena = upb_Arena_New();
    f->result = PROTO_DECODE(thole_registry_v1_Result, bytes_slice(&sink.bytes), f->arena);
    assert_non_null(f->result);
    bytes_deinit(&sink.bytes);
    return entry.code;
}

uint64_t fixture_run(struct fixture *f, struct cmd *c)
{
    thole_registry_v1_Command_set_time_ms(c->c, ++f->time_ms);
    size_t size = 0;
    char *bytes = thole_registry_v1_Command_serialize(c->c, c->arena, &size);
    uint64_t code = fixture_apply(f, slice_of(bytes, size));
    upb_Arena_Free(c->arena);
    return code;
}

const char *fixture_reason(const struct fixture *f)
{
    static char text[64];
    upb_StringView reason = thole_registry_v1_Result_reason(f->result);
    snprintf(text, sizeof text, "%.*s", (int)reason.size, reason.data != NULL ? reason.data : "");
    return text;
}

struct uuid test_uuid(uint64_t n)
{
    struct uuid id = {.bytes = {0xaa, 0xbb}};
    put_be64(id.bytes + 8, n + 1);
    return id;
}

const char *test_uuid_text(uint64_t n)
{
    static char text[8][UUID_TEXT_BYTES];
    static size_t next;
    char *ret = text[next++ % 8];
    struct uuid id = test_uuid(n);
    uuid_format(&id, ret);
    return ret;
}

static upb_StringView text(upb_Arena *arena, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static upb_StringView text(upb_Arena *arena, const char *format, ...)
{
    va_list args;
    char *ret = upb_Arena_Malloc(arena, 256);
    va_start(args, format);
    vsnprintf(ret, 256, format, args);
    va_end(args);
    return upb_StringView_FromString(ret);
}

void fill_host(thole_v1_Host *host, upb_Arena *arena, uint64_t n, uint64_t incarnation)
{
    thole_v1_Host_set_name(host, text(arena, "h%" PRIu64, n));
    thole_v1_Host_set_id(host, text(arena, "%s", test_uuid_text(n)));
    thole_v1_HostSpec *spec = thole_v1_Host_mutable_spec(host, arena);
    thole_v1_HostSpec_tags_set(spec, upb_StringView_FromString("zone"),
                               text(arena, "z%" PRIu64, n % 3), arena);
    thole_v1_HostSpec_tags_set(spec, upb_StringView_FromString("n"), text(arena, "%" PRIu64, n),
                               arena);
    thole_v1_HostStatus *status = thole_v1_Host_mutable_status(host, arena);
    thole_v1_HostStatus_set_address(status, text(arena, "10.0.0.%" PRIu64 ":7000", n));
    thole_v1_HostStatus_set_incarnation(status, incarnation);
    thole_v1_MachineType *type = thole_v1_HostStatus_add_machine_types(status, arena);
    thole_v1_MachineType_set_name(type, upb_StringView_FromString("kv"));
    thole_v1_MachineType_set_version(type, 1);
}

uint64_t do_bootstrap(struct fixture *f, uint64_t hosts)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_Bootstrap *b =
        thole_registry_v1_Operation_mutable_bootstrap(cmd_op(&c), c.arena);
    thole_registry_v1_Bootstrap_set_cluster_id(
        b, upb_StringView_FromDataAndSize("0123456789abcdef", 16));
    for (uint64_t i = 0; i < hosts; i++) {
        fill_host(thole_registry_v1_Bootstrap_add_hosts(b, c.arena), c.arena, i, 1);
    }
    return fixture_run(f, &c);
}

uint64_t do_admit(struct fixture *f, uint64_t host, uint64_t incarnation)
{
    return do_admit_failed(f, host, incarnation, 0);
}

uint64_t do_admit_failed(struct fixture *f, uint64_t host, uint64_t incarnation, uint64_t failed)
{
    struct cmd c = cmd_new("host");
    thole_registry_v1_AdmitHost *a =
        thole_registry_v1_Operation_mutable_admit_host(cmd_op(&c), c.arena);
    fill_host(thole_registry_v1_AdmitHost_mutable_host(a, c.arena), c.arena, host, incarnation);
    thole_registry_v1_AdmitHost_set_failed_replica(a, failed);
    return fixture_run(f, &c);
}

uint64_t do_host_state(struct fixture *f, uint64_t host, int32_t state)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_UpdateHost *u =
        thole_registry_v1_Operation_mutable_update_host(cmd_op(&c), c.arena);
    thole_v1_Host *filled = thole_v1_Host_new(c.arena);
    fill_host(filled, c.arena, host, 0);
    thole_v1_HostSpec *spec = thole_v1_Host_mutable_spec(filled, c.arena);
    thole_v1_HostSpec_set_state(spec, state);
    thole_registry_v1_UpdateHost_set_name(u, thole_v1_Host_name(filled));
    thole_registry_v1_UpdateHost_set_spec(u, spec);
    return fixture_run(f, &c);
}

uint64_t do_delete_host(struct fixture *f, uint64_t host)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_DeleteHost *d =
        thole_registry_v1_Operation_mutable_delete_host(cmd_op(&c), c.arena);
    thole_registry_v1_DeleteHost_set_name(d, text(c.arena, "h%" PRIu64, host));
    thole_registry_v1_DeleteHost_set_decommission(d, true);
    return fixture_run(f, &c);
}

uint64_t do_liveness(struct fixture *f, uint64_t host, int32_t liveness)
{
    struct registry_view *v = registry_view_acquire(f->r);
    struct uuid id = test_uuid(host);
    const thole_v1_Host *row = registry_host(v, &id);
    uint64_t incarnation =
        row == NULL ? 0 : thole_v1_HostStatus_incarnation(thole_v1_Host_status(row));
    registry_view_release(v);
    struct cmd c = cmd_new("placement");
    thole_registry_v1_ObserveHost *o =
        thole_registry_v1_Operation_mutable_observe_host(cmd_op(&c), c.arena);
    thole_registry_v1_ObserveHost_set_host_id(o, text(c.arena, "%s", test_uuid_text(host)));
    thole_v1_HostStatus *status = thole_registry_v1_ObserveHost_mutable_status(o, c.arena);
    thole_v1_HostStatus_set_liveness(status, liveness);
    thole_v1_HostStatus_set_incarnation(status, incarnation);
    return fixture_run(f, &c);
}

void fill_spec(thole_v1_ShardSpec *spec, upb_Arena *arena, uint32_t voters, uint32_t non_voting)
{
    thole_v1_ShardSpec_set_type(spec, upb_StringView_FromString("kv"));
    thole_v1_ShardSpec_set_voters(spec, voters);
    if (non_voting > 0) {
        thole_v1_ReplicaGroup_set_count(thole_v1_ShardSpec_add_non_voting(spec, arena), non_voting);
    }
}

uint64_t do_create_shard(struct fixture *f, const char *name, uint32_t voters, uint32_t non_voting)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_CreateShard *s =
        thole_registry_v1_Operation_mutable_create_shard(cmd_op(&c), c.arena);
    thole_registry_v1_CreateShard_set_name(s, upb_StringView_FromString(name));
    fill_spec(thole_registry_v1_CreateShard_mutable_spec(s, c.arena), c.arena, voters, non_voting);
    return fixture_run(f, &c);
}

uint64_t do_update_shard(struct fixture *f, const char *name, uint32_t voters, uint32_t non_voting,
                         const char *etag)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_UpdateShard *s =
        thole_registry_v1_Operation_mutable_update_shard(cmd_op(&c), c.arena);
    thole_registry_v1_UpdateShard_set_name(s, upb_StringView_FromString(name));
    thole_registry_v1_UpdateShard_set_etag(s, upb_StringView_FromString(etag));
    fill_spec(thole_registry_v1_UpdateShard_mutable_spec(s, c.arena), c.arena, voters, non_voting);
    return fixture_run(f, &c);
}

uint64_t do_delete_shard(struct fixture *f, const char *name)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_DeleteShard *s =
        thole_registry_v1_Operation_mutable_delete_shard(cmd_op(&c), c.arena);
    thole_registry_v1_DeleteShard_set_name(s, upb_StringView_FromString(name));
    return fixture_run(f, &c);
}

static void add_placed(struct cmd *c, thole_registry_v1_PlaceReplicas *p, uint64_t host,
                       int32_t role)
{
    thole_registry_v1_Placed *placed = thole_registry_v1_PlaceReplicas_add_replicas(p, c->arena);
    thole_registry_v1_Placed_set_host_id(placed, text(c->arena, "%s", test_uuid_text(host)));
    thole_registry_v1_Placed_set_role(placed, role);
}

uint64_t do_place(struct fixture *f, uint64_t shard, uint64_t first, uint64_t voters)
{
    struct cmd c = cmd_new("placement");
    thole_registry_v1_PlaceReplicas *p =
        thole_registry_v1_Operation_mutable_place_replicas(cmd_op(&c), c.arena);
    thole_registry_v1_PlaceReplicas_set_shard_id(p, shard);
    for (uint64_t i = 0; i < voters; i++) {
        add_placed(&c, p, first + i, thole_v1_REPLICA_ROLE_VOTER);
    }
    return fixture_run(f, &c);
}

uint64_t do_place_one(struct fixture *f, uint64_t shard, uint64_t host, int32_t role)
{
    struct cmd c = cmd_new("placement");
    thole_registry_v1_PlaceReplicas *p =
        thole_registry_v1_Operation_mutable_place_replicas(cmd_op(&c), c.arena);
    thole_registry_v1_PlaceReplicas_set_shard_id(p, shard);
    add_placed(&c, p, host, role);
    return fixture_run(f, &c);
}

uint64_t do_create_replica(struct fixture *f, const char *shard, uint64_t host, int32_t role)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_CreateReplica *r =
        thole_registry_v1_Operation_mutable_create_replica(cmd_op(&c), c.arena);
    thole_registry_v1_CreateReplica_set_shard(r, upb_StringView_FromString(shard));
    thole_registry_v1_CreateReplica_set_host(r, text(c.arena, "h%" PRIu64, host));
    thole_registry_v1_CreateReplica_set_role(r, role);
    return fixture_run(f, &c);
}

uint64_t do_remove_replica(struct fixture *f, uint64_t replica)
{
    struct cmd c = cmd_new("placement");
    thole_registry_v1_RemoveReplica *r =
        thole_registry_v1_Operation_mutable_remove_replica(cmd_op(&c), c.arena);
    thole_registry_v1_RemoveReplica_set_replica_id(r, replica);
    thole_registry_v1_RemoveReplica_set_reason(r, upb_StringView_FromString("a test"));
    return fixture_run(f, &c);
}

uint64_t do_set_role(struct fixture *f, uint64_t replica, int32_t role)
{
    struct cmd c = cmd_new("placement");
    thole_registry_v1_SetRole *r =
        thole_registry_v1_Operation_mutable_set_role(cmd_op(&c), c.arena);
    thole_registry_v1_SetRole_set_replica_id(r, replica);
    thole_registry_v1_SetRole_set_role(r, role);
    return fixture_run(f, &c);
}

uint64_t do_observe(struct fixture *f, uint64_t replica, int32_t phase, uint64_t out_index)
{
    struct cmd c = cmd_new("host/x");
    thole_registry_v1_ObserveReplica *o =
        thole_registry_v1_Operation_mutable_observe_replica(cmd_op(&c), c.arena);
    thole_registry_v1_ObserveReplica_set_replica_id(o, replica);
    thole_registry_v1_ObserveReplica_set_phase(o, phase);
    thole_registry_v1_ObserveReplica_set_out_index(o, out_index);
    return fixture_run(f, &c);
}

uint64_t do_formed(struct fixture *f, uint64_t shard, uint64_t leader, uint64_t term)
{
    struct cmd c = cmd_new("host/x");
    thole_registry_v1_ObserveShard *o =
        thole_registry_v1_Operation_mutable_observe_shard(cmd_op(&c), c.arena);
    thole_registry_v1_ObserveShard_set_shard_id(o, shard);
    thole_v1_ShardStatus *status = thole_registry_v1_ObserveShard_mutable_status(o, c.arena);
    thole_v1_ShardStatus_set_formed(status, true);
    thole_v1_ShardStatus_set_leader_replica(status, leader);
    thole_v1_ShardStatus_set_leader_term(status, term);
    return fixture_run(f, &c);
}

/* ---- Whole states ---------------------------------------------------------------------------- */

void fixture_save(struct fixture *f, struct bytes *out)
{
    struct memory_sink sink = {.sink = {sizeof(struct thole_sink), memory_write}};
    struct thole_status st;
    void *view = NULL;
    assert_int_equal(f->type->view_acquire(f->machine, &view, &st), THOLE_OK);
    struct thole_save to = {.size = sizeof to, .out = &sink.sink, .index = f->index};
    assert_int_equal(f->type->save(f->machine, view, &to, &st), THOLE_OK);
    f->type->view_release(f->machine, view);
    bytes_append_slice(out, bytes_slice(&sink.bytes));
    bytes_deinit(&sink.bytes);
}

struct piece_source {
    struct thole_source source;
    struct slice rest;
};

static int64_t memory_read(struct thole_source *s, void *data, size_t size)
{
    struct piece_source *m = (struct piece_source *)(void *)s;
    /* In odd pieces, as a stream would deliver them. */
    size_t n = size < 13 ? size : 13;
    n = n < m->rest.size ? n : m->rest.size;
    if (n > 0) {
        memcpy(data, m->rest.data, n);
        m->rest = slice_of(m->rest.data + n, m->rest.size - n);
    }
    return (int64_t)n;
}

enum thole_code fixture_restore(struct fixture *f, struct slice bytes, struct thole_status *st)
{
    struct piece_source source = {
        .source = {sizeof(struct thole_source), memory_read},
        .rest = bytes,
    };
    struct thole_restore from = {.size = sizeof from, .in = &source.source};
    return f->type->restore(f->machine, &from, st);
}

static void digest(struct bytes *out, const void *msg, const upb_MiniTable *table)
{
    upb_Arena *arena = upb_Arena_New();
    char *bytes = NULL;
    size_t size = 0;
    assert_int_equal(upb_Encode(msg, table, kUpb_EncodeOption_Deterministic, arena, &bytes, &size),
                     kUpb_EncodeStatus_Ok);
    bytes_append(out, bytes, size);
    upb_Arena_Free(arena);
}

void view_digest(const struct registry_view *v, struct bytes *out)
{
    struct registry_shard_buf shard_buf;
    struct registry_replica_buf replica_buf;
    struct registry_event_buf event_buf;
    const thole_v1_Host *host = NULL;
    struct slice name = {0};
    while ((host = registry_next_host(v, name)) != NULL) {
        name = registry_str(thole_v1_Host_name(host));
        digest(out, host, &thole_v1_Host_msginit);
    }
    const thole_v1_Shard *shard = NULL;
    name = (struct slice){0};
    while ((shard = registry_next_shard(v, name, &shard_buf)) != NULL) {
        name = registry_str(thole_v1_Shard_name(shard));
        digest(out, shard, &thole_v1_Shard_msginit);
    }
    const thole_v1_Replica *replica = NULL;
    uint64_t id = 0;
    while ((replica = registry_next_replica(v, id, &replica_buf)) != NULL) {
        id = thole_v1_Replica_id(replica);
        digest(out, replica, &thole_v1_Replica_msginit);
    }
    const thole_v1_ShardPool *pool = NULL;
    name = (struct slice){0};
    while ((pool = registry_next_pool(v, name)) != NULL) {
        name = registry_str(thole_v1_ShardPool_name(pool));
        digest(out, pool, &thole_v1_ShardPool_msginit);
    }
    uint64_t it = 0;
    const thole_v1_Event *event = NULL;
    while ((event = registry_next_event(v, 0, &it, &event_buf)) != NULL) {
        digest(out, event, &thole_v1_Event_msginit);
    }
}

void check_invariants(const struct registry_view *v)
{
    assert_true(registry__check_state(&v->s));
}

size_t count_replicas(const struct registry_view *v, uint64_t shard)
{
    struct registry_replica_buf replica_buf;
    size_t count = 0;
    uint64_t id = 0;
    const thole_v1_Replica *r = NULL;
    while ((r = registry_next_replica_of_shard(v, shard, id, &replica_buf)) != NULL) {
        id = thole_v1_Replica_id(r);
        count++;
    }
    return count;
}
