/* Shards that start from a snapshot, and the event of a saved one.
 *
 * A restore is one command: the shard with its seed, its first voter on the host that has the file
 * (and with it the immutable initial list), and the operation that tracks it. From then on it is a
 * shard whose group has not formed yet, like any other: it forms, or it is deleted as a whole. */
#include "registry/registry_internal.h"

#include <inttypes.h>

#define SEED_FILE_BYTES 64

/* The host builds a path from the name. */
static bool is_plain_name(upb_StringView name)
{
    for (size_t i = 0; i < name.size; i++) {
        char c = name.data[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || c == '-')) {
            return false;
        }
    }
    return name.size > 0 && name.size <= SEED_FILE_BYTES;
}

static enum thole_code find_seed_host(struct txn *t, const thole_registry_v1_RestoreShard *o,
                                      struct row **ret)
{
    const thole_v1_ShardSeed *seed = thole_registry_v1_RestoreShard_seed(o);
    struct uuid id;
    struct row *host = NULL;
    if (seed == NULL || !is_plain_name(thole_v1_ShardSeed_file(seed))) {
        return registry__refuse(t, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, "seed.file",
                                "a plain name is needed");
    }
    if (uuid_parse(registry_str(thole_v1_ShardSeed_host_id(seed)), &id)) {
        host = registry__host(&t->s, &id);
    }
    if (host == NULL || !registry__host_has_state(host, thole_v1_HOST_STATE_ACTIVE)) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_UNSATISFIABLE,
                          "the host that has the file takes no new replicas: restore through "
                          "another one");
    }
    upb_StringView type = thole_v1_ShardSpec_type(thole_registry_v1_RestoreShard_spec(o));
    if (!registry__host_runs(host->host, type)) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_NO_SUCH_TYPE,
                          "the host that has the file runs no machines of type \"%.*s\": restore "
                          "through another one",
                          (int)type.size, type.data);
    }
    *ret = host;
    return registry__check_text(t, "seed.source", thole_v1_ShardSeed_source(seed),
                                REGISTRY_TEXT_BYTES);
}

uint64_t registry__place_seed(struct txn *t, uint64_t shard_id, const struct row *host,
                              const thole_v1_ShardSeed *seed)
{
    const struct row *replica =
        registry__replica_add(t, registry__shard(&t->s, shard_id), host,
                              thole_v1_REPLICA_ROLE_VOTER, thole_v1_REPLICA_OWNER_PLACEMENT, true);
    struct row *shard = registry__txn_edit(t, registry__shard(&t->s, shard_id));
    upb_Arena *arena = shard->arena;
    thole_v1_InitialReplica *initial = thole_v1_Shard_add_initial(shard->shard, arena);
    uint64_t id = thole_v1_Replica_id(replica->replica);
    thole_v1_InitialReplica_set_replica_id(initial, id);
    thole_v1_InitialReplica_set_host_id(
        initial, registry__dup(arena, registry_str(thole_v1_Host_id(host->host))));
    thole_v1_Shard_set_seed(shard->shard,
                            registry__message_copy(seed, &thole_v1_ShardSeed_msginit, arena));
    registry__txn_put(t, shard);
    upb_StringView name = thole_v1_Host_name(host->host);
    registry__txn_event(t, replica, "ReplicaPlaced", "voter on %.*s: it has the snapshot",
                        (int)name.size, name.data);
    return id;
}

/* A shard that awaits its data keeps its id, its pool and its spec, which may be newer than the
 * file's. */
static enum thole_code restore_awaiting(struct txn *t, const struct row *shard,
                                        const thole_v1_ShardSpec *saved)
{
    const thole_v1_ShardSpec *spec = thole_v1_Shard_spec(shard->shard);
    if (thole_v1_Shard_deleting(shard->shard) || thole_v1_Shard_has_seed(shard->shard)) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_EXISTS,
                          "a restore of the shard is under way, or is being taken back");
    }
    upb_StringView type = thole_v1_ShardSpec_type(spec);
    upb_StringView config = thole_v1_ShardSpec_config(spec);
    if (saved == NULL ||
        !slice_equal(registry_str(type), registry_str(thole_v1_ShardSpec_type(saved))) ||
        !slice_equal(registry_str(config), registry_str(thole_v1_ShardSpec_config(saved)))) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_BAD_REQUEST,
                          "the shard is of type \"%.*s\", and the snapshot of another one, or of "
                          "another config",
                          (int)type.size, type.data);
    }
    return THOLE_OK;
}

static enum thole_code make_shard(struct txn *t, upb_StringView name,
                                  const thole_v1_ShardSpec *spec)
{
    const struct row *shard = registry__shard_by_name(&t->s, registry_str(name));
    return shard != NULL && thole_v1_Shard_awaits_restore(shard->shard)
               ? restore_awaiting(t, shard, spec)
               : registry__shard_create(t, name, spec);
}

enum thole_code registry__op_restore_shard(struct txn *t, const thole_registry_v1_Operation *op)
{
    const thole_registry_v1_RestoreShard *o = thole_registry_v1_Operation_restore_shard(op);
    const thole_v1_ShardSeed *seed = thole_registry_v1_RestoreShard_seed(o);
    upb_StringView name = thole_registry_v1_RestoreShard_name(o);
    struct row *host = NULL;
    enum thole_code code = registry__operation_room(t);
    if (code == THOLE_OK) {
        code = make_shard(t, name, thole_registry_v1_RestoreShard_spec(o));
    }
    if (code == THOLE_OK) {
        code = find_seed_host(t, o, &host);
    }
    if (code != THOLE_OK) {
        return code;
    }
    const struct row *shard = registry__shard_by_name(&t->s, registry_str(name));
    uint64_t id = thole_v1_Shard_id(shard->shard);
    (void)registry__place_seed(t, id, host, seed);
    struct row *row =
        registry__operation_new(t, thole_v1_OPERATION_KIND_RESTORE, registry__shard(&t->s, id));
    thole_v1_Operation_set_shard_id(row->operation, id);
    registry__operation_add(t, row);
    return THOLE_OK;
}

enum thole_code registry__restore_cancel(struct txn *t, const thole_v1_Operation *operation)
{
    struct row *shard = registry__shard(&t->s, thole_v1_Operation_shard_id(operation));
    if (shard == NULL) {
        return THOLE_OK;
    }
    if (thole_v1_ShardStatus_formed(thole_v1_Shard_status(shard->shard))) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_BAD_REQUEST,
                          "the shard serves already: delete it instead");
    }
    if (thole_v1_Shard_awaits_restore(shard->shard)) {
        registry__shard_begin_again(t, shard);
    } else {
        registry__shard_retire(t, shard);
    }
    return THOLE_OK;
}

enum thole_code registry__op_record_snapshot(struct txn *t, const thole_registry_v1_Operation *op)
{
    const thole_registry_v1_RecordSnapshot *o = thole_registry_v1_Operation_record_snapshot(op);
    upb_StringView host = thole_registry_v1_RecordSnapshot_host(o);
    struct row *shard = registry__shard(&t->s, thole_registry_v1_RecordSnapshot_shard_id(o));
    enum thole_code code = registry__check_text(t, "host", host, LIMIT_NAME_BYTES);
    if (code == THOLE_OK && shard == NULL) {
        code = registry__refuse(t, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD, "shard_id",
                                "no shard has this id");
    }
    if (code == THOLE_OK) {
        registry__txn_event(t, shard, "SnapshotSaved",
                            "%" PRIu64 " bytes, up to log index %" PRIu64 ", through %.*s",
                            thole_registry_v1_RecordSnapshot_bytes(o),
                            thole_registry_v1_RecordSnapshot_index(o), (int)host.size,
                            host.size > 0 ? host.data : "");
    }
    return code;
}
