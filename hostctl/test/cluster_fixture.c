#include "hostctl/test/cluster_fixture.h"

#include "proto/decode.h"
#include "shards/machine/builtin.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define TURNS_MAX 1000000

static struct cluster_host *shard_leader(struct cluster *h, uint64_t shard_id);

/* ---- The network ----------------------------------------------------------------------------- */

struct packet {
    struct packet *next;
    uint64_t due_ns;
    uint64_t from, to;
    uint64_t incarnation;
    enum engine_lane lane;
    struct bufslice frame;
};

uint64_t cluster_now_ms(const struct cluster *h)
{
    return clock_now(executor_clock(h->ex)) / NS_PER_MS;
}

static bool connected(const struct cluster *h, uint64_t a, uint64_t b)
{
    return h->hosts[a].hostctl != NULL && h->hosts[b].hostctl != NULL && a != b && !h->cut[a] &&
           !h->cut[b] && !h->apart[a][b];
}

static enum thole_code net_send(void *ctx, const struct uuid *to, enum engine_lane lane,
                                struct bufslice frame)
{
    struct cluster_host *from = ctx;
    struct cluster *h = from->cluster;
    uint64_t n = 0;
    while (n < CLUSTER_HOSTS && !uuid_equal(&h->hosts[n].id, to)) {
        n++;
    }
    /* As over the bus: a host without a known address cannot be reached. */
    if (n == CLUSTER_HOSTS || !connected(h, from->n, n) || !from->address_known[n]) {
        bufslice_unref(frame);
        return THOLE_UNAVAILABLE;
    }
    struct packet *p = xcalloc(1, sizeof *p);
    p->due_ns = clock_now(executor_clock(h->ex)) + rand_below(&h->rand, 2 * NS_PER_MS);
    p->from = from->n;
    p->to = n;
    p->incarnation = from->incarnation;
    p->lane = lane;
    p->frame = frame;
    struct packet **at = &h->packets;
    while (*at != NULL && (*at)->due_ns <= p->due_ns) {
        at = &(*at)->next;
    }
    p->next = *at;
    *at = p;
    return THOLE_OK;
}

static void deliver(struct cluster *h, struct packet *p)
{
    if (connected(h, p->from, p->to) && !h->mute[p->from]) {
        hostctl_heard(h->hosts[p->to].hostctl, &h->hosts[p->from].id);
        engine_deliver(h->hosts[p->to].engine, &h->hosts[p->from].id, p->incarnation, p->lane,
                       p->frame);
    } else {
        bufslice_unref(p->frame);
    }
    free(p);
}

void cluster_run(struct cluster *h, uint64_t ms)
{
    uint64_t end = clock_now(executor_clock(h->ex)) + ms * NS_PER_MS;
    for (;;) {
        executor_manual_run(h->ex, TURNS_MAX);
        uint64_t now = clock_now(executor_clock(h->ex));
        uint64_t next = executor_manual_next_deadline(h->ex);
        if (h->packets != NULL && h->packets->due_ns < next) {
            next = h->packets->due_ns;
        }
        if (next > end) {
            break;
        }
        executor_manual_advance(h->ex, next > now ? next : now, TURNS_MAX);
        while (h->packets != NULL && h->packets->due_ns <= clock_now(executor_clock(h->ex))) {
            struct packet *p = h->packets;
            h->packets = p->next;
            deliver(h, p);
        }
    }
    executor_manual_advance(h->ex, end, TURNS_MAX);
}

/* ---- Commands -------------------------------------------------------------------------------- */

struct request {
    struct engine_request r;
    void (*done)(void *ctx, const struct thole_status *st, uint64_t code, struct slice result);
    void *ctx;
    bool lose; /* the answer */
};

static void request_done(struct engine_request *r)
{
    struct request *q = CONTAINER_OF(r, struct request, r);
    if (q->lose) {
        (void)THOLE_FAIL(&r->status, THOLE_UNKNOWN, THOLE_REASON_OUTCOME_UNKNOWN, "a test says so");
    }
    q->done(q->ctx, &r->status, r->code, r->result.bytes);
    bufslice_unref(r->result);
    free(q);
}

static struct cluster_host *zero_leader(struct cluster *h)
{
    struct engine_replica_status status;
    for (uint64_t i = 0; i < CLUSTER_HOSTS; i++) {
        if (h->hosts[i].hostctl != NULL && !h->cut[i] &&
            engine_shard_status(h->hosts[i].engine, REGISTRY_SHARD_ID, &status) &&
            status.leader_ready) {
            return &h->hosts[i];
        }
    }
    return NULL;
}

static void submit(struct cluster *h, struct bufslice command, bool lose,
                   void (*done)(void *, const struct thole_status *, uint64_t, struct slice),
                   void *ctx)
{
    struct cluster_host *leader = zero_leader(h);
    if (leader == NULL) {
        struct thole_status st;
        (void)THOLE_FAIL(&st, THOLE_UNAVAILABLE, THOLE_REASON_NO_LEADER, "nobody leads");
        bufslice_unref(command);
        done(ctx, &st, 0, (struct slice){0});
        return;
    }
    struct request *q = xcalloc(1, sizeof *q);
    q->done = done;
    q->ctx = ctx;
    q->lose = lose;
    q->r.kind = ENGINE_PROPOSE;
    q->r.shard_id = REGISTRY_SHARD_ID;
    q->r.payload = command;
    q->r.deadline_ns = clock_now(executor_clock(h->ex)) + 2 * NS_PER_S;
    q->r.done = request_done;
    engine_submit(leader->engine, &q->r);
}

static void callback_propose(void *ctx, struct bufslice command,
                             void (*done)(void *, const struct thole_status *, uint64_t,
                                          struct slice),
                             void *done_ctx)
{
    struct cluster_host *host = ctx;
    host->cluster->proposals++;
    if (host->cluster->cut[host->n] || rand_chance(&host->cluster->rand, host->cluster->refuse)) {
        struct thole_status st;
        (void)THOLE_FAIL(&st, THOLE_UNAVAILABLE, THOLE_REASON_UNREACHABLE, "a test says so");
        bufslice_unref(command);
        done(done_ctx, &st, 0, (struct slice){0});
        return;
    }
    submit(host->cluster, command, rand_chance(&host->cluster->rand, host->cluster->lose), done,
           done_ctx);
}

static void callback_host_address(void *ctx, const struct uuid *id, uint64_t incarnation,
                                  const char *address)
{
    struct cluster_host *host = ctx;
    (void)incarnation;
    for (uint64_t i = 0; i < CLUSTER_HOSTS; i++) {
        if (uuid_equal(&host->cluster->hosts[i].id, id)) {
            host->address_known[i] = address != NULL;
        }
    }
}

static uint64_t number_of(const struct cluster *h, const struct uuid *id)
{
    uint64_t n = 0;
    while (n < CLUSTER_HOSTS && !uuid_equal(&h->hosts[n].id, id)) {
        n++;
    }
    assert_true(n < CLUSTER_HOSTS);
    return n;
}

static void callback_reaches(void *ctx, const struct uuid *asked, const struct uuid *about,
                             void (*done)(void *done_ctx, bool answered, bool reaches),
                             void *done_ctx)
{
    struct cluster_host *host = ctx;
    const struct cluster *h = host->cluster;
    uint64_t a = number_of(h, asked);
    bool answered = connected(h, host->n, a);
    done(done_ctx, answered, answered && connected(h, a, number_of(h, about)));
}

struct waiting {
    bool done;
    struct thole_status st;
    uint64_t code;
    uint64_t replica;
};

static void waited(void *ctx, const struct thole_status *st, uint64_t code, struct slice result)
{
    struct waiting *w = ctx;
    w->done = true;
    w->st = *st;
    w->code = code;
    if (st->code == THOLE_OK && code == THOLE_OK) {
        upb_Arena *arena = upb_Arena_New();
        const thole_registry_v1_Result *r = PROTO_DECODE(thole_registry_v1_Result, result, arena);
        assert_non_null(r);
        if (thole_registry_v1_Result_has_replica(r)) {
            w->replica = thole_v1_Replica_id(thole_registry_v1_Result_replica(r));
        }
        upb_Arena_Free(arena);
    }
}

static struct waiting command_wait(struct cluster *h, struct cmd *c)
{
    size_t size = 0;
    struct waiting w = {.st = {.code = THOLE_UNAVAILABLE}};
    thole_registry_v1_Command_set_time_ms(c->c, (int64_t)cluster_now_ms(h));
    char *bytes = thole_registry_v1_Command_serialize(c->c, c->arena, &size);
    for (int i = 0; i < 200 && w.st.code != THOLE_OK; i++) {
        struct buf *b = buf_copy(bytes, size);
        w = (struct waiting){0};
        submit(h, (struct bufslice){b, slice_of(b->data, b->size)}, false, waited, &w);
        for (int k = 0; k < 400 && !w.done; k++) {
            cluster_run(h, 10);
        }
        assert_true(w.done);
        if (w.st.code != THOLE_OK) {
            cluster_run(h, 50);
        }
    }
    upb_Arena_Free(c->arena);
    return w;
}

enum thole_code cluster_command(struct cluster *h, struct cmd *c)
{
    struct waiting w = command_wait(h, c);
    return w.st.code != THOLE_OK ? w.st.code : (enum thole_code)w.code;
}

int32_t cluster_operation_state(struct cluster *h, uint64_t id)
{
    struct registry_view *v = cluster_view(h);
    const thole_v1_Operation *row = registry_operation(v, id);
    int32_t state = row == NULL ? 0 : thole_v1_Operation_state(row);
    registry_view_release(v);
    return state;
}

/* ---- Hosts ----------------------------------------------------------------------------------- */

static void on_replica_changed(void *ctx, const struct engine_replica_status *s)
{
    struct cluster_host *host = ctx;
    if (host->hostctl != NULL) {
        hostctl_replica_changed(host->hostctl, s);
    }
}

static void on_host_failed(void *ctx, const struct thole_status *st)
{
    (void)ctx;
    fail_msg("host failed: %s", st->message);
}

static void tell_peers(struct cluster *h, uint64_t n)
{
    for (uint64_t i = 0; i < CLUSTER_HOSTS; i++) {
        bool up = connected(h, i, n);
        if (i == n) {
            continue;
        }
        if (h->hosts[i].hostctl != NULL) {
            hostctl_peer_state(h->hosts[i].hostctl, &h->hosts[n].id, up);
            engine_peer_state(h->hosts[i].engine, &h->hosts[n].id, up);
        }
        if (h->hosts[n].hostctl != NULL && h->hosts[i].incarnation > 0) {
            hostctl_peer_state(h->hosts[n].hostctl, &h->hosts[i].id, up);
            engine_peer_state(h->hosts[n].engine, &h->hosts[i].id, up);
        }
    }
}

static void on_leader_moved(void *ctx, uint64_t shard_id, uint64_t from, uint64_t to,
                            enum engine_move_reason reason)
{
    struct cluster_host *host = ctx;
    if (host->hostctl != NULL) {
        hostctl_leader_moved(host->hostctl, shard_id, from, to, reason);
    }
}

static void on_fitness_changed(void *ctx)
{
    struct cluster_host *host = ctx;
    if (host->hostctl != NULL) {
        hostctl_fitness_changed(host->hostctl);
    }
}

static enum thole_code never_opens(const struct thole_machine_env *env, void **ret,
                                   struct thole_status *st)
{
    (void)env;
    (void)ret;
    return THOLE_FAIL(st, THOLE_INTERNAL, THOLE_REASON_MACHINE_FAILED, "it never opens");
}

void cluster_start(struct cluster *h, uint64_t n)
{
    struct cluster_host *host = &h->hosts[n];
    struct thole_status st;
    assert_null(host->hostctl);
    host->incarnation++;
    host->registry = registry_new();
    host->failing = machine_counter;
    host->failing.name = "failing";
    host->failing.open = never_opens;
    host->types[0] = registry_machine_type(host->registry);
    host->types[1] = &machine_counter;
    host->types[2] = &host->failing;
    host->flaky = flaky_type(host);
    host->types[3] = &host->flaky;
    struct engine_options o = {
        .host_id = host->id,
        .incarnation = host->incarnation,
        .log = host->log,
        .files = host->files,
        .executor = h->ex,
        .transport = {host, net_send},
        .observer = {.ctx = host,
                     .replica_changed = on_replica_changed,
                     .leader_moved = on_leader_moved,
                     .fitness_changed = on_fitness_changed,
                     .host_failed = on_host_failed},
        .loop_count = 1,
        .applier_count = 1,
        .compact_log_bytes = 64 * 1024,
        .keep_log_bytes = 8 * 1024,
        .snapshot_bytes_per_s = h->snapshot_bytes_per_s,
        .seed = rand_u64(&h->rand) | 1,
        .types = host->types,
    };
    if (engine_new(&o, &host->engine, &st) != THOLE_OK) {
        fail_msg("engine_new: %s", st.message);
    }
    const struct hostctl_options ho = {
        .host_id = host->id,
        .incarnation = host->incarnation,
        .engine = host->engine,
        .registry = host->registry,
        .executor = h->ex,
        .callbacks = {host, callback_propose, callback_host_address, callback_reaches},
        .retry_ms = 50,
        .report_interval_ms = 20,
        .suspect_after_ms = 500,
        .dead_after_ms = CLUSTER_DEAD_MS,
    };
    host->hostctl = hostctl_new(&ho);
    tell_peers(h, n);
}

void cluster_stop(struct cluster *h, uint64_t n)
{
    struct cluster_host *host = &h->hosts[n];
    if (host->hostctl == NULL) {
        return;
    }
    hostctl_stop(host->hostctl);
    engine_stop(host->engine);
    hostctl_free(host->hostctl);
    host->hostctl = NULL;
    engine_free(host->engine);
    host->engine = NULL;
    registry_free(host->registry);
    host->registry = NULL;
    tell_peers(h, n);
}

void cluster_cut(struct cluster *h, uint64_t n, bool cut)
{
    h->cut[n] = cut;
    tell_peers(h, n);
}

void cluster_part(struct cluster *h, uint64_t a, uint64_t b, bool apart)
{
    h->apart[a][b] = apart;
    h->apart[b][a] = apart;
    tell_peers(h, a);
    tell_peers(h, b);
}

struct cluster *cluster_new(uint64_t seed)
{
    struct cluster *h = xcalloc(1, sizeof *h);
    h->ex = executor_manual_new(NS_PER_S);
    rand_seed(&h->rand, seed);
    for (uint64_t i = 0; i < CLUSTER_HOSTS; i++) {
        h->hosts[i].cluster = h;
        h->hosts[i].n = i;
        h->hosts[i].id = test_uuid(i);
        h->hosts[i].log = log_store_memory_new();
        h->hosts[i].files = engine_files_memory_new();
    }
    return h;
}

void cluster_free(struct cluster *h)
{
    for (uint64_t i = 0; i < CLUSTER_HOSTS; i++) {
        cluster_stop(h, i);
    }
    while (h->packets != NULL) {
        struct packet *p = h->packets;
        h->packets = p->next;
        bufslice_unref(p->frame);
        free(p);
    }
    for (uint64_t i = 0; i < CLUSTER_HOSTS; i++) {
        h->hosts[i].log->ops->close(h->hosts[i].log);
        h->hosts[i].files->ops->free(h->hosts[i].files);
    }
    executor_free(h->ex);
    free(h);
}

/* ---- The cluster's beginnings ---------------------------------------------------------------- */

static void started(void *ctx, const struct thole_status *st)
{
    struct waiting *w = ctx;
    w->done = true;
    w->st = *st;
}

static void start_zero(struct cluster *h, uint64_t n, uint64_t replica,
                       const struct raft_member *initial, size_t count)
{
    struct waiting w = {0};
    struct engine_replica_spec spec = {
        .replica_id = replica,
        .shard_id = REGISTRY_SHARD_ID,
        .machine_type = REGISTRY_MACHINE_TYPE,
        .initial = initial,
        .initial_count = count,
    };
    engine_replica_start(h->hosts[n].engine, &spec, started, &w);
    RUN_UNTIL(h, 5000, w.done);
    assert_int_equal(w.st.code, THOLE_OK);
}

static void fill(const struct cluster *h, thole_v1_Host *row, upb_Arena *arena, uint64_t n)
{
    fill_host(row, arena, n, h->hosts[n].incarnation);
    thole_v1_HostStatus *status = thole_v1_Host_mutable_status(row, arena);
    static const char *const types[] = {"counter", "failing", "flaky"};
    for (size_t i = 0; i < 3; i++) {
        thole_v1_MachineType_set_name(thole_v1_HostStatus_add_machine_types(status, arena),
                                      upb_StringView_FromString(types[i]));
    }
}

void cluster_bootstrap(struct cluster *h, uint64_t hosts)
{
    struct raft_member initial[CLUSTER_HOSTS] = {{0}};
    struct cmd c = cmd_new("user");
    thole_registry_v1_Bootstrap *b =
        thole_registry_v1_Operation_mutable_bootstrap(cmd_op(&c), c.arena);
    thole_registry_v1_Bootstrap_set_cluster_id(
        b, upb_StringView_FromDataAndSize("0123456789abcdef", 16));
    for (uint64_t i = 0; i < hosts; i++) {
        initial[i].replica_id = i + 1;
        initial[i].role = RAFT_VOTER;
        memcpy(initial[i].host, h->hosts[i].id.bytes, 16);
        cluster_start(h, i);
    }
    for (uint64_t i = 0; i < hosts; i++) {
        memset(h->hosts[i].address_known, true, sizeof h->hosts[i].address_known);
        start_zero(h, i, i + 1, initial, hosts);
        fill(h, thole_registry_v1_Bootstrap_add_hosts(b, c.arena), c.arena, i);
    }
    assert_int_equal(cluster_command(h, &c), THOLE_OK);
}

enum thole_code cluster_admit(struct cluster *h, uint64_t n, uint64_t *ret_replica)
{
    struct cmd c = cmd_new("host");
    thole_registry_v1_AdmitHost *a =
        thole_registry_v1_Operation_mutable_admit_host(cmd_op(&c), c.arena);
    fill(h, thole_registry_v1_AdmitHost_mutable_host(a, c.arena), c.arena, n);
    struct waiting w = command_wait(h, &c);
    *ret_replica = w.replica;
    return w.st.code != THOLE_OK ? w.st.code : (enum thole_code)w.code;
}

void cluster_join(struct cluster *h, uint64_t n)
{
    uint64_t replica = 0;
    cluster_start(h, n);
    assert_int_equal(cluster_admit(h, n, &replica), THOLE_OK);
    assert_true(replica != 0);
    memset(h->hosts[n].address_known, true, sizeof h->hosts[n].address_known);
    start_zero(h, n, replica, NULL, 0);
}

/* ---- Users' commands ------------------------------------------------------------------------- */

static void fill_counter(thole_v1_ShardSpec *spec, upb_Arena *arena, uint32_t voters,
                         uint32_t non_voting)
{
    fill_spec(spec, arena, voters, non_voting);
    thole_v1_ShardSpec_set_type(spec, upb_StringView_FromString("counter"));
}

enum thole_code cluster_create_type(struct cluster *h, const char *shard, const char *type,
                                    uint32_t voters, uint32_t non_voting)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_CreateShard *s =
        thole_registry_v1_Operation_mutable_create_shard(cmd_op(&c), c.arena);
    thole_registry_v1_CreateShard_set_name(s, upb_StringView_FromString(shard));
    thole_v1_ShardSpec *spec = thole_registry_v1_CreateShard_mutable_spec(s, c.arena);
    fill_counter(spec, c.arena, voters, non_voting);
    thole_v1_ShardSpec_set_type(spec, upb_StringView_FromString(type));
    return cluster_command(h, &c);
}

enum thole_code cluster_create(struct cluster *h, const char *shard, uint32_t voters,
                               uint32_t non_voting)
{
    return cluster_create_type(h, shard, "counter", voters, non_voting);
}

struct adding {
    struct engine_request r;
    bool done, ok;
};

static void added(struct engine_request *r)
{
    struct adding *a = CONTAINER_OF(r, struct adding, r);
    a->done = true;
    a->ok = r->status.code == THOLE_OK;
    bufslice_unref(r->result);
}

bool cluster_add(struct cluster *h, const char *shard, int count)
{
    uint64_t id = cluster_shard_id(h, shard);
    for (int i = 0; i < count; i++) {
        struct adding a = {.done = false};
        struct cluster_host *leader = shard_leader(h, id);
        if (leader == NULL) {
            return false;
        }
        struct buf *b = buf_copy("add 1", 5);
        a.r = (struct engine_request){.kind = ENGINE_PROPOSE,
                                      .shard_id = id,
                                      .payload = {b, slice_of(b->data, b->size)},
                                      .deadline_ns = CLOCK_NEVER,
                                      .done = added};
        engine_submit(leader->engine, &a.r);
        for (int k = 0; k < 1000 && !a.done; k++) {
            cluster_run(h, 10);
        }
        assert_true(a.done);
        if (!a.ok) {
            return false;
        }
    }
    return true;
}

enum thole_code cluster_update(struct cluster *h, const char *shard, uint32_t voters,
                               uint32_t non_voting)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_UpdateShard *s =
        thole_registry_v1_Operation_mutable_update_shard(cmd_op(&c), c.arena);
    thole_registry_v1_UpdateShard_set_name(s, upb_StringView_FromString(shard));
    fill_counter(thole_registry_v1_UpdateShard_mutable_spec(s, c.arena), c.arena, voters,
                 non_voting);
    return cluster_command(h, &c);
}

enum thole_code cluster_delete(struct cluster *h, const char *shard)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_DeleteShard *s =
        thole_registry_v1_Operation_mutable_delete_shard(cmd_op(&c), c.arena);
    thole_registry_v1_DeleteShard_set_name(s, upb_StringView_FromString(shard));
    return cluster_command(h, &c);
}

enum thole_code cluster_host_state(struct cluster *h, uint64_t n, int32_t state)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_UpdateHost *u =
        thole_registry_v1_Operation_mutable_update_host(cmd_op(&c), c.arena);
    thole_v1_Host *row = thole_v1_Host_new(c.arena);
    fill(h, row, c.arena, n);
    thole_v1_HostSpec_set_state(thole_v1_Host_mutable_spec(row, c.arena), state);
    thole_registry_v1_UpdateHost_set_name(u, thole_v1_Host_name(row));
    thole_registry_v1_UpdateHost_set_spec(u, thole_v1_Host_mutable_spec(row, c.arena));
    return cluster_command(h, &c);
}

enum thole_code cluster_delete_host(struct cluster *h, uint64_t n)
{
    char name[8];
    snprintf(name, sizeof name, "h%" PRIu64, n);
    struct cmd c = cmd_new("user");
    thole_registry_v1_DeleteHost *d =
        thole_registry_v1_Operation_mutable_delete_host(cmd_op(&c), c.arena);
    thole_registry_v1_DeleteHost_set_name(d, upb_StringView_FromString(name));
    thole_registry_v1_DeleteHost_set_decommission(d, true);
    return cluster_command(h, &c);
}

/* ---- What is so ------------------------------------------------------------------------------ */

struct registry_view *cluster_view(struct cluster *h)
{
    struct cluster_host *leader = zero_leader(h);
    for (uint64_t i = 0; i < CLUSTER_HOSTS && leader == NULL; i++) {
        leader = h->hosts[i].hostctl != NULL ? &h->hosts[i] : NULL;
    }
    assert_non_null(leader);
    return registry_view_acquire(leader->registry);
}

static struct cluster_host *shard_leader(struct cluster *h, uint64_t shard_id)
{
    struct engine_replica_status status;
    for (uint64_t i = 0; i < CLUSTER_HOSTS; i++) {
        if (h->hosts[i].hostctl != NULL && !h->cut[i] &&
            engine_shard_status(h->hosts[i].engine, shard_id, &status) && status.leader_ready) {
            return &h->hosts[i];
        }
    }
    return NULL;
}

static bool conditions_true(const thole_v1_Shard *shard)
{
    const thole_v1_ShardStatus *status = thole_v1_Shard_status(shard);
    size_t count = 0;
    const thole_v1_Condition *const *c = thole_v1_ShardStatus_conditions(status, &count);
    bool ok = count == 4 &&
              thole_v1_ShardStatus_observed_generation(status) == thole_v1_Shard_generation(shard);
    for (size_t i = 0; i < count; i++) {
        bool bad = upb_StringView_IsEqual(thole_v1_Condition_type(c[i]),
                                          upb_StringView_FromString("Degraded"));
        ok &= thole_v1_Condition_status(c[i]) != bad;
    }
    return ok;
}

/* Exactly the running rows are members, in their roles; no replica is leaving. */
static bool config_agrees(const struct registry_view *v, const struct raft_config *c,
                          uint64_t shard_id)
{
    struct registry_replica_buf replica_buf;
    uint64_t after = 0;
    size_t count = 0;
    const thole_v1_Replica *row;
    while ((row = registry_next_replica_of_shard(v, shard_id, after, &replica_buf)) != NULL) {
        after = thole_v1_Replica_id(row);
        const struct raft_member *m = raft_config_find(c, after);
        bool voter = thole_v1_Replica_role(row) == thole_v1_REPLICA_ROLE_VOTER;
        if (thole_v1_Replica_desired(row) != thole_v1_REPLICA_DESIRED_RUN || m == NULL ||
            (m->role == RAFT_VOTER) != voter) {
            return false;
        }
        count++;
    }
    return !c->joint && count == c->member_count;
}

bool cluster_settled(struct cluster *h, const char *shard)
{
    struct registry_shard_buf shard_buf;
    struct registry_view *v = cluster_view(h);
    const thole_v1_Shard *row = registry_shard_by_name(v, slice_str(shard), &shard_buf);
    bool ok = row != NULL && conditions_true(row);
    struct cluster_host *leader = ok ? shard_leader(h, thole_v1_Shard_id(row)) : NULL;
    struct raft_config c = {0};
    if (leader != NULL && engine_shard_config(leader->engine, thole_v1_Shard_id(row), &c)) {
        ok = config_agrees(v, &c, thole_v1_Shard_id(row));
        raft_config_deinit(&c);
    } else {
        ok = false;
    }
    registry_view_release(v);
    return ok;
}

bool cluster_gone(struct cluster *h, const char *shard, uint64_t shard_id)
{
    struct registry_view *v = cluster_view(h);
    bool gone = !registry_has_shard_name(v, slice_str(shard));
    registry_view_release(v);
    for (uint64_t i = 0; i < CLUSTER_HOSTS; i++) {
        struct engine_replica_status status;
        if (h->hosts[i].hostctl == NULL) {
            continue;
        }
        uint64_t *ids = NULL;
        gone &= !engine_shard_status(h->hosts[i].engine, shard_id, &status);
        gone &= engine_tombstones(h->hosts[i].engine, &ids) == 0;
        free(ids);
    }
    return gone;
}

bool cluster_all_see_same(struct cluster *h)
{
    uint64_t revision = 0;
    for (uint64_t i = 0; i < CLUSTER_HOSTS; i++) {
        if (h->hosts[i].hostctl == NULL) {
            continue;
        }
        struct registry_view *v = registry_view_acquire(h->hosts[i].registry);
        uint64_t mine = registry_view_revision(v);
        registry_view_release(v);
        if (revision != 0 && mine != revision) {
            return false;
        }
        revision = mine;
    }
    return true;
}

uint64_t cluster_shard_id(struct cluster *h, const char *shard)
{
    struct registry_shard_buf shard_buf;
    struct registry_view *v = cluster_view(h);
    const thole_v1_Shard *row = registry_shard_by_name(v, slice_str(shard), &shard_buf);
    uint64_t id = row == NULL ? UINT64_MAX : thole_v1_Shard_id(row);
    registry_view_release(v);
    return id;
}

uint32_t cluster_voters(struct cluster *h, const char *shard)
{
    struct raft_config c = {0};
    uint32_t voters = 0;
    uint64_t id = cluster_shard_id(h, shard);
    struct cluster_host *leader = shard_leader(h, id);
    if (leader == NULL || !engine_shard_config(leader->engine, id, &c)) {
        return 0;
    }
    for (uint32_t i = 0; i < c.member_count; i++) {
        voters += c.members[i].role == RAFT_VOTER;
    }
    raft_config_deinit(&c);
    return voters;
}

uint64_t cluster_zero_leader(struct cluster *h)
{
    const struct cluster_host *leader = zero_leader(h);
    return leader == NULL ? UINT64_MAX : leader->n;
}

int32_t cluster_liveness(struct cluster *h, uint64_t n)
{
    struct registry_view *v = cluster_view(h);
    struct uuid id = test_uuid(n);
    int32_t liveness = thole_v1_HostStatus_liveness(thole_v1_Host_status(registry_host(v, &id)));
    registry_view_release(v);
    return liveness;
}

size_t cluster_events(struct cluster *h, const char *object, const char *reason, char *ret_last,
                      size_t size)
{
    struct registry_event_buf event_buf;
    struct registry_view *v = cluster_view(h);
    uint64_t it = 0;
    size_t count = 0;
    const thole_v1_Event *e;
    while ((e = registry_next_event(v, 0, &it, &event_buf)) != NULL) {
        if (slice_equal(registry_str(thole_v1_Event_object(e)), slice_str(object)) &&
            slice_equal(registry_str(thole_v1_Event_reason(e)), slice_str(reason))) {
            upb_StringView message = thole_v1_Event_message(e);
            snprintf(ret_last, size, "%.*s", (int)message.size, message.data);
            count++;
        }
    }
    registry_view_release(v);
    return count;
}

size_t cluster_replicas_on(struct cluster *h, uint64_t n)
{
    struct registry_replica_buf replica_buf;
    struct registry_view *v = cluster_view(h);
    struct uuid id = test_uuid(n);
    size_t count = 0;
    uint64_t after = 0;
    const thole_v1_Replica *row;
    while ((row = registry_next_replica_of_host(v, &id, after, &replica_buf)) != NULL) {
        after = thole_v1_Replica_id(row);
        count++;
    }
    registry_view_release(v);
    return count;
}

static void dump_shard(const struct registry_view *v, const thole_v1_Shard *s)
{
    struct registry_replica_buf replica_buf;
    const thole_v1_ShardStatus *status = thole_v1_Shard_status(s);
    upb_StringView name = thole_v1_Shard_name(s);
    print_message("shard %.*s id=%" PRIu64 " voters=%u non_voting=%u formed=%d deleting=%d\n",
                  (int)name.size, name.data, thole_v1_Shard_id(s),
                  thole_v1_ShardSpec_voters(thole_v1_Shard_spec(s)),
                  registry_non_voting(thole_v1_Shard_spec(s)), thole_v1_ShardStatus_formed(status),
                  thole_v1_Shard_deleting(s));
    size_t count = 0;
    const thole_v1_Condition *const *c = thole_v1_ShardStatus_conditions(status, &count);
    for (size_t i = 0; i < count; i++) {
        upb_StringView type = thole_v1_Condition_type(c[i]);
        upb_StringView message = thole_v1_Condition_message(c[i]);
        print_message("  %.*s=%d %.*s\n", (int)type.size, type.data,
                      thole_v1_Condition_status(c[i]), (int)message.size, message.data);
    }
    uint64_t after = 0;
    const thole_v1_Replica *r;
    while ((r = registry_next_replica_of_shard(v, thole_v1_Shard_id(s), after, &replica_buf)) !=
           NULL) {
        after = thole_v1_Replica_id(r);
        upb_StringView host = thole_v1_Replica_host(r);
        upb_StringView message = thole_v1_Replica_message(r);
        print_message("  replica %" PRIu64 " on %.*s role=%d desired=%d phase=%d initial=%d %.*s\n",
                      after, (int)host.size, host.data, thole_v1_Replica_role(r),
                      thole_v1_Replica_desired(r), thole_v1_Replica_phase(r),
                      thole_v1_Replica_initial(r), (int)message.size, message.data);
    }
}

void cluster_dump(struct cluster *h)
{
    struct registry_shard_buf shard_buf;
    struct registry_view *v = cluster_view(h);
    struct slice name = {0};
    const thole_v1_Shard *s;
    const thole_v1_Host *row;
    print_message("revision %" PRIu64 "\n", registry_view_revision(v));
    while ((row = registry_next_host(v, name)) != NULL) {
        name = registry_str(thole_v1_Host_name(row));
        print_message("host %.*s state=%d liveness=%d\n", (int)name.size, name.data,
                      thole_v1_HostSpec_state(thole_v1_Host_spec(row)),
                      thole_v1_HostStatus_liveness(thole_v1_Host_status(row)));
    }
    name = (struct slice){0};
    while ((s = registry_next_shard(v, name, &shard_buf)) != NULL) {
        name = registry_str(thole_v1_Shard_name(s));
        dump_shard(v, s);
    }
    registry_view_release(v);
    for (uint64_t i = 0; i < CLUSTER_HOSTS; i++) {
        struct engine_replica_status *all = NULL;
        size_t count = h->hosts[i].hostctl == NULL ? 0 : engine_replicas(h->hosts[i].engine, &all);
        for (size_t k = 0; k < count; k++) {
            print_message("h%" PRIu64 " shard=%" PRIu64 " replica=%" PRIu64 " role=%d term=%" PRIu64
                          " leader=%" PRIu64 " ready=%d voter=%d init=%d removed=%d failed=%d "
                          "commit=%" PRIu64 " last=%" PRIu64 "\n",
                          i, all[k].shard_id, all[k].replica_id, (int)all[k].role, all[k].term,
                          all[k].leader_replica, all[k].leader_ready, all[k].voter,
                          all[k].initialised, all[k].removed_by_peer, all[k].failed, all[k].commit,
                          all[k].last_index);
        }
        free(all);
    }
}
