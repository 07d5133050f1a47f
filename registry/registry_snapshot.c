/* The state as a stream of records, each [4-byte little-endian size][SnapshotRecord]: the header,
 * hosts, shards, replicas, pools, operations, roles and tokens by id or name, then events and
 * remembered requests in order.
 *
 * The journal and sequence numbers belong to one host and are left out, so the snapshots of two
 * replicas at one revision are equal, byte for byte. */
#include "base/slot.h"
#include "proto/decode.h"
#include "registry/registry_internal.h"

#include <string.h>

/* A row is at most a shard with its configuration; the rest is far smaller. */
#define RECORD_BYTES_MAX (4 * MIB)

/* ---- Saving ---------------------------------------------------------------------------------- */

static enum thole_code write_record(struct thole_sink *out,
                                    thole_registry_v1_SnapshotRecord *record, upb_Arena *arena)
{
    struct slice bytes = registry__encode(record, &thole_registry_v1_SnapshotRecord_msginit, arena);
    uint8_t size[4];
    ASSERT(bytes.size <= RECORD_BYTES_MAX);
    put_le32(size, (uint32_t)bytes.size);
    enum thole_code code = out->write(out, size, sizeof size);
    return code != THOLE_OK ? code : out->write(out, bytes.data, bytes.size);
}

/* A buffer to open a row of any saved kind in. */
union row_buf {
    struct registry_shard_buf shard;
    struct registry_replica_buf replica;
    struct registry_event_buf event;
    struct request_buf request;
};

static enum thole_code write_row(struct thole_sink *out, const struct packed *row)
{
    union row_buf buf;
    void *msg = (void *)(uintptr_t)registry__packed_message(row, &buf); /* NOLINT: only encoded */
    upb_Arena *arena = upb_Arena_New();
    thole_registry_v1_SnapshotRecord *record = thole_registry_v1_SnapshotRecord_new(arena);
    switch ((enum row_kind)row->kind) {
    case ROW_HOST:
        thole_registry_v1_SnapshotRecord_set_host(record, msg);
        break;
    case ROW_SHARD:
        thole_registry_v1_SnapshotRecord_set_shard(record, msg);
        break;
    case ROW_REPLICA:
        thole_registry_v1_SnapshotRecord_set_replica(record, msg);
        break;
    case ROW_POOL:
        thole_registry_v1_SnapshotRecord_set_pool(record, msg);
        break;
    case ROW_OPERATION:
        thole_registry_v1_SnapshotRecord_set_operation(record, msg);
        break;
    case ROW_ROLE:
        thole_registry_v1_SnapshotRecord_set_role(record, msg);
        break;
    case ROW_TOKEN:
        thole_registry_v1_SnapshotRecord_set_token(record, msg);
        break;
    case ROW_EVENT:
        thole_registry_v1_SnapshotRecord_set_event(record, msg);
        break;
    case ROW_REQUEST:
        thole_registry_v1_SnapshotRecord_set_request(record, msg);
        break;
    case ROW_MARKS:
        ASSERT(false);
        break;
    }
    enum thole_code code = write_record(out, record, arena);
    upb_Arena_Free(arena);
    return code;
}

static enum thole_code write_header(const struct state *s, struct thole_sink *out)
{
    upb_Arena *arena = upb_Arena_New();
    thole_registry_v1_SnapshotRecord *record = thole_registry_v1_SnapshotRecord_new(arena);
    thole_registry_v1_Header *h = thole_registry_v1_SnapshotRecord_mutable_header(record, arena);
    thole_registry_v1_Header_set_format(h, REGISTRY_FORMAT);
    if (s->bootstrapped) {
        struct slice cluster = slice_of(s->cluster.bytes, sizeof s->cluster.bytes);
        thole_registry_v1_Header_set_cluster_id(h, registry_view_of(cluster));
    }
    thole_registry_v1_Header_set_revision(h, s->revision);
    thole_registry_v1_Header_set_next_shard_id(h, s->next_shard_id);
    thole_registry_v1_Header_set_next_replica_id(h, s->next_replica_id);
    thole_registry_v1_Header_set_next_operation_id(h, s->next_operation_id);
    thole_registry_v1_Header_set_compacted_revision(h, s->revision);
    thole_registry_v1_Header_set_repair_epoch(h, s->repair_epoch);
    thole_registry_v1_Header_set_lost_from(h, s->lost_from);
    thole_registry_v1_Header_set_lost_to(h, s->lost_to);
    thole_registry_v1_Header_set_hosts_revision(h, s->hosts_revision);
    thole_registry_v1_Header_set_access_revision(h, s->access_revision);
    enum thole_code code = write_record(out, record, arena);
    upb_Arena_Free(arena);
    return code;
}

enum thole_code registry__save(const struct state *s, struct thole_sink *out,
                               struct thole_status *st)
{
    static const enum registry_index order[] = {
        INDEX_HOSTS, INDEX_SHARDS, INDEX_REPLICAS, INDEX_POOLS,        INDEX_OPERATIONS,
        INDEX_ROLES, INDEX_TOKENS, INDEX_EVENTS,   INDEX_REQUEST_ORDER};
    enum thole_code code = write_header(s, out);
    for (size_t i = 0; code == THOLE_OK && i < sizeof order / sizeof order[0]; i++) {
        const struct node *root = s->index[order[i]];
        const struct packed *row = registry__tree_first(root);
        while (code == THOLE_OK && row != NULL) {
            struct key key = registry__packed_key(order[i], row);
            code = write_row(out, row);
            row = registry__tree_after(root, &key);
        }
    }
    if (code != THOLE_OK) {
        return THOLE_FAIL(st, code, THOLE_REASON_NONE, "the registry's snapshot was cut off");
    }
    return THOLE_OK;
}

/* ---- Restoring ------------------------------------------------------------------------------- */

static enum thole_code corrupt(struct thole_status *st, const char *what)
{
    return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "registry snapshot: %s", what);
}

/* 1 when `size` bytes were read, 0 at the end of the stream, -1 otherwise. */
static int read_exactly(struct thole_source *in, void *data, size_t size)
{
    size_t have = 0;
    while (have < size) {
        int64_t n = in->read(in, (uint8_t *)data + have, size - have);
        if (n <= 0) {
            return n == 0 && have == 0 ? 0 : -1;
        }
        have += (size_t)n;
    }
    return 1;
}

static const char *restore_header(struct state *s, const thole_registry_v1_Header *h)
{
    upb_StringView cluster = thole_registry_v1_Header_cluster_id(h);
    if (thole_registry_v1_Header_format(h) != REGISTRY_FORMAT) {
        return "written in another format";
    }
    if (cluster.size != 0 && cluster.size != sizeof s->cluster.bytes) {
        return "bad cluster id";
    }
    s->bootstrapped = cluster.size != 0;
    if (s->bootstrapped) {
        memcpy(s->cluster.bytes, cluster.data, cluster.size);
    }
    s->revision = thole_registry_v1_Header_revision(h);
    s->next_shard_id = thole_registry_v1_Header_next_shard_id(h);
    s->next_replica_id = thole_registry_v1_Header_next_replica_id(h);
    s->next_operation_id = thole_registry_v1_Header_next_operation_id(h);
    s->compacted_revision = s->revision;
    s->repair_epoch = thole_registry_v1_Header_repair_epoch(h);
    s->lost_from = thole_registry_v1_Header_lost_from(h);
    s->lost_to = thole_registry_v1_Header_lost_to(h);
    s->hosts_revision = thole_registry_v1_Header_hosts_revision(h);
    s->access_revision = thole_registry_v1_Header_access_revision(h);
    return NULL;
}

static const char *restore_host(struct state *s, struct row *row)
{
    if (!uuid_parse(registry_str(thole_v1_Host_id(row->host)), &row->host_id) ||
        registry__find(s, INDEX_HOSTS, registry__key_host(&row->host_id, 0)) != NULL ||
        !thole_v1_Host_has_spec(row->host) || !thole_v1_Host_has_status(row->host)) {
        return "bad host";
    }
    struct slice name = registry_str(thole_v1_Host_name(row->host));
    if (name.size > 0 && (!registry_name_is_valid(name) ||
                          registry__find(s, INDEX_HOST_NAMES, registry__key_name(name)) != NULL)) {
        return "bad host name";
    }
    registry__state_put(s, row);
    return NULL;
}

static const char *restore_shard(struct state *s, struct row *row)
{
    struct slice name = registry_str(thole_v1_Shard_name(row->shard));
    uint64_t id = thole_v1_Shard_id(row->shard);
    if (!registry_name_is_valid(name) ||
        registry__find(s, INDEX_SHARD_NAMES, registry__key_name(name)) != NULL ||
        registry__find(s, INDEX_SHARDS, registry__key_id(id)) != NULL || id >= s->next_shard_id ||
        !thole_v1_Shard_has_spec(row->shard) || !thole_v1_Shard_has_status(row->shard)) {
        return "bad shard";
    }
    registry__state_put(s, row);
    return NULL;
}

static const char *restore_replica(struct state *s, struct row *row)
{
    uint64_t id = thole_v1_Replica_id(row->replica);
    if (!uuid_parse(registry_str(thole_v1_Replica_host_id(row->replica)), &row->host_id) ||
        registry__find(s, INDEX_HOSTS, registry__key_host(&row->host_id, 0)) == NULL || id == 0 ||
        id >= s->next_replica_id ||
        registry__find(s, INDEX_REPLICAS, registry__key_id(id)) != NULL ||
        registry__find(s, INDEX_SHARDS,
                       registry__key_id(thole_v1_Replica_shard_id(row->replica))) == NULL) {
        return "bad replica";
    }
    registry__state_put(s, row);
    return NULL;
}

static bool keys_are_sound(const thole_v1_ShardPoolSpec *spec)
{
    uint32_t count = thole_v1_ShardPoolSpec_count(spec);
    return thole_v1_ShardPoolSpec_keys(spec) != thole_v1_POOL_KEYS_SLOTS ||
           (count > 0 && count <= SLOT_COUNT);
}

static const char *restore_pool(struct state *s, struct row *row)
{
    struct slice name = registry_str(thole_v1_ShardPool_name(row->pool));
    if (!registry_name_is_valid(name) || name.size > REGISTRY_POOL_NAME_BYTES ||
        registry__pool(s, name) != NULL || !thole_v1_ShardPool_has_spec(row->pool) ||
        !thole_v1_ShardPoolSpec_has_shard(thole_v1_ShardPool_spec(row->pool)) ||
        !keys_are_sound(thole_v1_ShardPool_spec(row->pool)) ||
        !thole_v1_ShardPool_has_status(row->pool)) {
        return "bad pool";
    }
    registry__state_put(s, row);
    return NULL;
}

static const char *restore_operation(struct state *s, struct row *row)
{
    uint64_t id = thole_v1_Operation_id(row->operation);
    if (id == 0 || id >= s->next_operation_id ||
        registry__find(s, INDEX_OPERATIONS, registry__key_id(id)) != NULL) {
        return "bad operation";
    }
    registry__state_put(s, row);
    return NULL;
}

static const char *restore_role(struct state *s, struct row *row)
{
    struct slice name = registry_str(thole_v1_Role_name(row->role));
    if (!registry_name_is_valid(name) || registry__role(s, name) != NULL ||
        !thole_v1_Role_has_spec(row->role)) {
        return "bad role";
    }
    registry__state_put(s, row);
    return NULL;
}

static const char *restore_token(struct state *s, struct row *row)
{
    const thole_v1_Token *token = thole_registry_v1_StoredToken_token(row->token);
    struct slice id = token != NULL ? registry_str(thole_v1_Token_id(token)) : (struct slice){0};
    if (!registry_name_is_valid(id) || registry__token(s, id) != NULL ||
        thole_registry_v1_StoredToken_hash(row->token).size != REGISTRY_TOKEN_HASH_BYTES) {
        return "bad token";
    }
    registry__state_put(s, row);
    return NULL;
}

static const char *restore_request(struct state *s, struct row *row)
{
    upb_StringView id = thole_registry_v1_RememberedRequest_request_id(row->request);
    struct key key = registry__key_name(registry_str(id));
    if (id.size == 0 || id.size > LIMIT_NAME_BYTES ||
        registry__tree_get(s->index[INDEX_REQUESTS], &key) != NULL) {
        return "bad request";
    }
    registry__state_remember(s, row);
    return NULL;
}

static const char *restore_row(struct state *s, enum row_kind kind, const void *msg)
{
    struct row *row = registry__row_adopt(s->scope, kind, (void *)(uintptr_t)msg); /* NOLINT */
    const char *problem = NULL;
    switch (kind) {
    case ROW_HOST:
        problem = restore_host(s, row);
        break;
    case ROW_SHARD:
        problem = restore_shard(s, row);
        break;
    case ROW_REPLICA:
        problem = restore_replica(s, row);
        break;
    case ROW_POOL:
        problem = restore_pool(s, row);
        break;
    case ROW_OPERATION:
        problem = restore_operation(s, row);
        break;
    case ROW_ROLE:
        problem = restore_role(s, row);
        break;
    case ROW_TOKEN:
        problem = restore_token(s, row);
        break;
    case ROW_EVENT:
        registry__state_event(s, row);
        break;
    case ROW_REQUEST:
        problem = restore_request(s, row);
        break;
    case ROW_MARKS:
        problem = "a mark";
        break;
    }
    return problem;
}

static const char *restore_record(struct state *s, bool first,
                                  const thole_registry_v1_SnapshotRecord *r)
{
    bool header = thole_registry_v1_SnapshotRecord_has_header(r);
    if (header != first) {
        return "the header must come first, and once";
    }
    switch (thole_registry_v1_SnapshotRecord_record_case(r)) {
    case thole_registry_v1_SnapshotRecord_record_host:
        return restore_row(s, ROW_HOST, thole_registry_v1_SnapshotRecord_host(r));
    case thole_registry_v1_SnapshotRecord_record_shard:
        return restore_row(s, ROW_SHARD, thole_registry_v1_SnapshotRecord_shard(r));
    case thole_registry_v1_SnapshotRecord_record_replica:
        return restore_row(s, ROW_REPLICA, thole_registry_v1_SnapshotRecord_replica(r));
    case thole_registry_v1_SnapshotRecord_record_pool:
        return restore_row(s, ROW_POOL, thole_registry_v1_SnapshotRecord_pool(r));
    case thole_registry_v1_SnapshotRecord_record_operation:
        return restore_row(s, ROW_OPERATION, thole_registry_v1_SnapshotRecord_operation(r));
    case thole_registry_v1_SnapshotRecord_record_role:
        return restore_row(s, ROW_ROLE, thole_registry_v1_SnapshotRecord_role(r));
    case thole_registry_v1_SnapshotRecord_record_token:
        return restore_row(s, ROW_TOKEN, thole_registry_v1_SnapshotRecord_token(r));
    case thole_registry_v1_SnapshotRecord_record_event:
        return restore_row(s, ROW_EVENT, thole_registry_v1_SnapshotRecord_event(r));
    case thole_registry_v1_SnapshotRecord_record_request:
        return restore_row(s, ROW_REQUEST, thole_registry_v1_SnapshotRecord_request(r));
    case thole_registry_v1_SnapshotRecord_record_header:
    case thole_registry_v1_SnapshotRecord_record_NOT_SET:
        break;
    }
    return header ? restore_header(s, thole_registry_v1_SnapshotRecord_header(r))
                  : "unknown record";
}

static enum thole_code restore_one(struct thole_source *in, struct state *s, bool first,
                                   size_t size, struct thole_status *st)
{
    struct row_scope scope;
    registry__scope_init(&scope);
    char *bytes = upb_Arena_Malloc(scope.arena, size);
    ASSERT(bytes != NULL);
    enum thole_code code = THOLE_OK;
    if (size > 0 && read_exactly(in, bytes, size) != 1) {
        code = THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_NONE,
                          "registry snapshot: cut off in a record");
    } else {
        const thole_registry_v1_SnapshotRecord *r =
            PROTO_DECODE(thole_registry_v1_SnapshotRecord, slice_of(bytes, size), scope.arena);
        s->scope = &scope;
        const char *problem = r == NULL ? "a record does not decode" : restore_record(s, first, r);
        s->scope = NULL;
        code = problem == NULL ? THOLE_OK : corrupt(st, problem);
    }
    registry__scope_deinit(&scope);
    return code;
}

enum thole_code registry__restore(struct thole_source *in, struct state *ret,
                                  struct thole_status *st)
{
    struct state s;
    registry__state_init(&s);
    enum thole_code code = THOLE_OK;
    for (bool first = true; code == THOLE_OK; first = false) {
        uint8_t head[4];
        int got = read_exactly(in, head, sizeof head);
        if (got == 0 && !first) {
            s.compacted_revision = s.revision;
            *ret = s;
            return THOLE_OK;
        }
        if (got != 1) {
            code =
                THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_NONE, "registry snapshot: cut off");
        } else if (get_le32(head) > RECORD_BYTES_MAX) {
            code = corrupt(st, "a record is too large");
        } else {
            code = restore_one(in, &s, first, get_le32(head), st);
        }
    }
    registry__state_deinit(&s);
    return code;
}
