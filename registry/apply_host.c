/* Operations on hosts: bootstrap, admission, spec, removal. Observed state: observe_host.c.
 *
 * A removed host keeps its row, in state REMOVED, until its last replica row is dropped. Then the
 * row loses its name, which is free again, and stays as a tombstone: the id is never accepted
 * again. */
#include "registry/registry_internal.h"

#include "base/lineage.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

bool registry__host_has_state(const struct row *host, thole_v1_HostState state)
{
    const thole_v1_HostSpec *spec = thole_v1_Host_spec(host->host);
    return spec != NULL && thole_v1_HostSpec_state(spec) == (int32_t)state;
}

enum thole_code registry__find_host(struct txn *t, upb_StringView name, struct row **ret)
{
    struct row *host = registry__host_by_name(&t->s, registry_str(name));
    if (host == NULL) {
        return THOLE_FAIL(&t->st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_HOST,
                          "no host is named \"%.*s\"", (int)(name.size < 128 ? name.size : 128),
                          name.data != NULL ? name.data : "");
    }
    *ret = host;
    return THOLE_OK;
}

/* A new row from the host's own description. */
void registry__host_add(struct txn *t, const thole_v1_Host *host, const struct uuid *id)
{
    struct row *row = registry__row_new(&t->scope, ROW_HOST);
    upb_Arena *arena = row->arena;
    ASSERT(!uuid_is_nil(id) && registry__host(&t->s, id) == NULL);
    row->host_id = *id;
    row->host = registry__message_copy(host, &thole_v1_Host_msginit, arena);
    thole_v1_HostSpec *spec = thole_v1_Host_mutable_spec(row->host, arena);
    if (thole_v1_HostSpec_state(spec) != thole_v1_HOST_STATE_CORDONED) {
        thole_v1_HostSpec_set_state(spec, thole_v1_HOST_STATE_ACTIVE);
    }
    thole_v1_HostStatus *status = thole_v1_Host_mutable_status(row->host, arena);
    thole_v1_HostStatus_set_liveness(status, thole_v1_HOST_LIVENESS_LIVE);
    thole_v1_Host_set_etag(row->host, registry__txn_etag(t, arena));
    thole_v1_Host_set_generation(row->host, 1);
    thole_v1_Host_set_create_time_ms(row->host, thole_registry_v1_Command_time_ms(t->command));
    t->s.hosts_revision = t->revision;
    registry__txn_put(t, row);
}

static bool is_live(const struct row *host)
{
    const thole_v1_HostStatus *status = thole_v1_Host_status(host->host);
    return thole_v1_HostStatus_liveness(status) == thole_v1_HOST_LIVENESS_LIVE;
}

static bool is_dead(const struct row *host)
{
    const thole_v1_HostStatus *status = thole_v1_Host_status(host->host);
    return thole_v1_HostStatus_liveness(status) == thole_v1_HOST_LIVENESS_DEAD;
}

/* A removed host's row stays until its replicas have been moved, which may need the very host that
 * wants its name now. So it is renamed to its name and the beginning of its id. */
static void give_up_name(struct txn *t, struct row *host)
{
    char name[LIMIT_NAME_BYTES + 1];
    upb_StringView before = thole_v1_Host_name(host->host);
    struct uuid id = host->host_id;
    struct row *row = registry__txn_edit(t, host);
    int size = (int)(before.size < LIMIT_NAME_BYTES - 9 ? before.size : LIMIT_NAME_BYTES - 9);
    snprintf(name, sizeof name, "%.*s.%.8s", size, before.data, thole_v1_Host_id(host->host).data);
    registry__txn_event(t, host, "HostRenamed", "another host takes its name; its name is now %s",
                        name);
    thole_v1_Host_set_name(row->host, registry__dup_str(row->arena, name));
    registry__txn_drop(t, host);
    registry__txn_put(t, row);
    uint64_t after = 0;
    const struct row *r;
    while ((r = registry__next_of_host(&t->s, &id, after)) != NULL) {
        struct row *edit = registry__txn_edit(t, r);
        after = thole_v1_Replica_id(r->replica);
        thole_v1_Replica_set_host(edit->replica, registry__dup_str(edit->arena, name));
        registry__txn_put(t, edit);
    }
}

static enum thole_code check_new_host(struct txn *t, const thole_v1_Host *host,
                                      const struct uuid *id)
{
    upb_StringView name = thole_v1_Host_name(host);
    struct row *other = registry__host_by_name(&t->s, registry_str(name));
    if (other != NULL && registry__host_has_state(other, thole_v1_HOST_STATE_REMOVED)) {
        give_up_name(t, other);
        other = NULL;
    }
    if (registry__host(&t->s, id) != NULL || (other != NULL && is_live(other))) {
        return THOLE_FAIL(&t->st, THOLE_ALREADY_EXISTS, THOLE_REASON_EXISTS,
                          "a host named \"%.*s\" is a member and alive: give this one another name",
                          (int)name.size, name.data);
    }
    if (other != NULL) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_EXISTS,
                          "host \"%.*s\" is a member, silent, and had another data directory: if "
                          "that is lost, \"thole host decommission %.*s\" lets this one in; else "
                          "give this one another name",
                          (int)name.size, name.data, (int)name.size, name.data);
    }
    if (registry__count_of_shard(&t->s, REGISTRY_SHARD_ID) >= LIMIT_MEMBERS) {
        return THOLE_FAIL(&t->st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_TOO_LARGE,
                          "the cluster has %d hosts, which is the limit", LIMIT_MEMBERS);
    }
    return THOLE_OK;
}

/* ---- Bootstrap ------------------------------------------------------------------------------- */

static struct row *add_shard_zero(struct txn *t, const thole_registry_v1_Bootstrap *b)
{
    struct row *row = registry__row_new(&t->scope, ROW_SHARD);
    upb_Arena *arena = row->arena;
    size_t count = 0;
    const thole_v1_Host *const *hosts = thole_registry_v1_Bootstrap_hosts(b, &count);
    thole_v1_Shard_set_name(row->shard, registry__dup_str(arena, REGISTRY_SHARD_NAME));
    thole_v1_Shard_set_id(row->shard, REGISTRY_SHARD_ID);
    thole_v1_ShardSpec *spec = thole_v1_Shard_mutable_spec(row->shard, arena);
    thole_v1_ShardSpec_set_type(spec, registry__dup_str(arena, REGISTRY_MACHINE_TYPE));
    thole_v1_ShardSpec_set_voters(spec, (uint32_t)count);
    thole_v1_Shard_mutable_status(row->shard, arena);
    thole_v1_Shard_set_etag(row->shard, registry__txn_etag(t, arena));
    thole_v1_Shard_set_generation(row->shard, 1);
    thole_v1_Shard_set_create_time_ms(row->shard, thole_registry_v1_Command_time_ms(t->command));
    for (size_t i = 0; i < count; i++) {
        thole_v1_InitialReplica *initial = thole_v1_Shard_add_initial(row->shard, arena);
        thole_v1_InitialReplica_set_replica_id(initial, i + 1);
        upb_StringView id = thole_v1_Host_id(hosts[i]);
        thole_v1_InitialReplica_set_host_id(initial, registry__dup(arena, registry_str(id)));
    }
    registry__txn_put(t, row);
    return registry__shard(&t->s, REGISTRY_SHARD_ID);
}

static enum thole_code check_bootstrap(struct txn *t, const thole_registry_v1_Bootstrap *b)
{
    size_t count = 0;
    thole_registry_v1_Bootstrap_hosts(b, &count);
    if (count == 0 || count > LIMIT_MEMBERS) {
        return registry__refuse(t, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                                "bootstrap.hosts", "must be 1 to %d", LIMIT_MEMBERS);
    }
    upb_StringView id = thole_registry_v1_Bootstrap_cluster_id(b);
    struct uuid cluster;
    if (id.size != sizeof cluster.bytes) {
        return registry__refuse(t, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                                "bootstrap.cluster_id", "must be 16 bytes");
    }
    memcpy(cluster.bytes, id.data, sizeof cluster.bytes);
    if (t->s.bootstrapped && !uuid_equal(&cluster, &t->s.cluster)) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_WRONG_CLUSTER,
                          "another cluster has been bootstrapped here");
    }
    t->s.cluster = cluster;
    return THOLE_OK;
}

enum thole_code registry__op_bootstrap(struct txn *t, const thole_registry_v1_Operation *op)
{
    const thole_registry_v1_Bootstrap *b = thole_registry_v1_Operation_bootstrap(op);
    enum thole_code code = check_bootstrap(t, b);
    if (code != THOLE_OK || t->s.bootstrapped) {
        return code; /* a second one for the same cluster changes nothing */
    }
    size_t count = 0;
    const thole_v1_Host *const *hosts = thole_registry_v1_Bootstrap_hosts(b, &count);
    t->s.bootstrapped = true;
    for (size_t i = 0; i < count; i++) {
        struct uuid id;
        code = registry__check_host(t, hosts[i], &id);
        if (code == THOLE_OK) {
            code = check_new_host(t, hosts[i], &id);
        }
        if (code != THOLE_OK) {
            return code;
        }
        registry__host_add(t, hosts[i], &id);
    }
    const struct row *zero = add_shard_zero(t, b);
    registry__txn_event(t, zero, "ClusterBootstrapped", "with %zu hosts", count);
    for (size_t i = 0; i < count; i++) {
        upb_StringView name = thole_v1_Host_name(hosts[i]);
        registry__replica_add(t, zero, registry__host_by_name(&t->s, registry_str(name)),
                              thole_v1_REPLICA_ROLE_VOTER, thole_v1_REPLICA_OWNER_PLACEMENT, true);
    }
    return THOLE_OK;
}

/* ---- Admission ------------------------------------------------------------------------------- */

/* A data directory belongs to one process, and a process has one address. Refuse a start from a
 * copy of the directory. */
static enum thole_code refuse_copy(struct txn *t, const struct row *host,
                                   const thole_v1_HostStatus *given, const struct lineage *lineage)
{
    const thole_v1_HostStatus *have = thole_v1_Host_status(host->host);
    uint64_t newest = thole_v1_HostStatus_incarnation(have);
    uint64_t incarnation = thole_v1_HostStatus_incarnation(given);
    upb_StringView address = thole_v1_HostStatus_address(have);
    struct slice elsewhere = registry_str(thole_v1_HostStatus_address(given));
    bool twice = incarnation == newest && newest > 0 && address.size > 0 && elsewhere.size > 0 &&
                 !slice_equal(registry_str(address), elsewhere);
    enum lineage_verdict v =
        lineage_judge(lineage, incarnation, newest, thole_v1_HostStatus_start(have));
    if (v == LINEAGE_FOLLOWS && !twice) {
        return THOLE_OK;
    }
    return THOLE_FAIL(
        &t->st, THOLE_ABORTED, THOLE_REASON_STALE_INCARNATION,
        "%s, at %.*s: this data directory is a copy of that one, or was restored "
        "from a backup; wipe it and join as a new host",
        v != LINEAGE_FOLLOWS ? lineage_words(v) : "a simultaneous start of this host is known",
        (int)(address.size < 100 ? address.size : 100), address.size > 0 ? address.data : "");
}

static void copy_tags(thole_v1_HostSpec *to, const thole_v1_HostSpec *from, upb_Arena *arena)
{
    size_t it = kUpb_Map_Begin;
    const thole_v1_HostSpec_TagsEntry *tag;
    thole_v1_HostSpec_tags_clear(to);
    while ((tag = thole_v1_HostSpec_tags_next(from, &it)) != NULL) {
        struct slice key = registry_str(thole_v1_HostSpec_TagsEntry_key(tag));
        struct slice value = registry_str(thole_v1_HostSpec_TagsEntry_value(tag));
        thole_v1_HostSpec_tags_set(to, registry__dup(arena, key), registry__dup(arena, value),
                                   arena);
    }
}

/* The spec changed. */
static void next_generation(struct txn *t, struct row *row)
{
    thole_v1_Host_set_generation(row->host, thole_v1_Host_generation(row->host) + 1);
    thole_v1_Host_set_etag(row->host, registry__txn_etag(t, row->arena));
    t->s.hosts_revision = t->revision;
}

/* The row of a refounded cluster's host (refound.c) is made before its first start, so its tags
 * arrive with that start, as a new host's do. */
static void take_tags(struct txn *t, const struct uuid *id, const thole_v1_Host *given)
{
    const struct row *host = registry__host(&t->s, id);
    const thole_v1_HostSpec *spec = thole_v1_Host_spec(given);
    if (spec == NULL || thole_v1_HostSpec_tags_size(thole_v1_Host_spec(host->host)) > 0 ||
        thole_v1_HostSpec_tags_size(spec) == 0) {
        return;
    }
    struct row *row = registry__txn_edit(t, host);
    copy_tags(thole_v1_Host_mutable_spec(row->host, row->arena), spec, row->arena);
    next_generation(t, row);
    registry__txn_put(t, row);
}

static enum thole_code readmit(struct txn *t, struct row *host, const thole_v1_Host *given,
                               const struct lineage *lineage)
{
    if (registry__host_has_state(host, thole_v1_HOST_STATE_REMOVED)) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_REMOVED,
                          "this host was removed from the cluster; with an empty data directory it "
                          "can join as a new host");
    }
    const thole_v1_HostStatus *status = thole_v1_Host_status(given);
    if (status == NULL) {
        registry__txn_show(t, host);
        return THOLE_OK;
    }
    uint64_t newest = thole_v1_HostStatus_incarnation(thole_v1_Host_status(host->host));
    uint64_t incarnation = thole_v1_HostStatus_incarnation(status);
    enum thole_code code = refuse_copy(t, host, status, lineage);
    if (code != THOLE_OK) {
        return code;
    }
    registry__txn_show(t, host);
    thole_v1_HostStatus *live =
        registry__message_copy(status, &thole_v1_HostStatus_msginit, t->arena);
    thole_v1_HostStatus_set_liveness(live, thole_v1_HOST_LIVENESS_LIVE);
    struct uuid id = host->host_id;
    registry__host_observe(t, host, live, upb_StringView_FromString("the host restarted"));
    if (newest == 0) {
        take_tags(t, &id, given);
    }
    if (incarnation > newest) {
        registry__txn_event(t, registry__host(&t->s, &id), "HostStarted", "incarnation %" PRIu64,
                            incarnation);
    }
    return THOLE_OK;
}

enum thole_code registry__op_admit_host(struct txn *t, const thole_registry_v1_Operation *op)
{
    const thole_registry_v1_AdmitHost *admit = thole_registry_v1_Operation_admit_host(op);
    const thole_v1_Host *host = thole_registry_v1_AdmitHost_host(admit);
    struct uuid id;
    enum thole_code code = registry__check_host(t, host, &id);
    if (code == THOLE_OK) {
        code = registry__check_text(t, "failure", thole_registry_v1_AdmitHost_failure(admit),
                                    REGISTRY_TEXT_BYTES);
    }
    struct lineage lineage;
    upb_StringView told = thole_registry_v1_AdmitHost_lineage(admit);
    if (code == THOLE_OK && !lineage_decode(registry_str(told), &lineage)) {
        code = registry__refuse(t, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, "lineage",
                                "is malformed");
    }
    if (code != THOLE_OK) {
        return code;
    }
    struct row *known = registry__host(&t->s, &id);
    if (known == NULL) {
        code = check_new_host(t, host, &id);
        if (code != THOLE_OK) {
            return code;
        }
        registry__host_add(t, host, &id);
        known = registry__host(&t->s, &id);
        registry__txn_event(t, known, "HostAdmitted", "%s", "");
    } else {
        code = readmit(t, known, host, &lineage);
        if (code != THOLE_OK) {
            return code;
        }
        known = registry__host(&t->s, &id);
    }
    struct row *zero = registry__occupant(&t->s, REGISTRY_SHARD_ID, &id);
    if (zero != NULL &&
        thole_v1_Replica_id(zero->replica) == thole_registry_v1_AdmitHost_failed_replica(admit)) {
        registry__replica_failed(t, zero, thole_registry_v1_AdmitHost_failure(admit));
    } else if (zero == NULL) {
        registry__replica_add(t, registry__shard(&t->s, REGISTRY_SHARD_ID), known,
                              thole_v1_REPLICA_ROLE_NON_VOTING, thole_v1_REPLICA_OWNER_PLACEMENT,
                              false);
    }
    return THOLE_OK;
}

/* ---- Spec and removal ------------------------------------------------------------------------ */

static const char *state_name(int32_t state)
{
    return state == thole_v1_HOST_STATE_ACTIVE     ? "active"
           : state == thole_v1_HOST_STATE_CORDONED ? "cordoned"
           : state == thole_v1_HOST_STATE_DRAINING ? "draining"
                                                   : "removed";
}

void registry__host_set_state(struct txn *t, const struct uuid *id, thole_v1_HostState state)
{
    const struct row *host = registry__host(&t->s, id);
    ASSERT(host != NULL);
    if (registry__host_has_state(host, state)) {
        return;
    }
    struct row *row = registry__txn_edit(t, host);
    thole_v1_HostSpec_set_state(thole_v1_Host_mutable_spec(row->host, row->arena), (int32_t)state);
    next_generation(t, row);
    registry__txn_put(t, row);
    registry__txn_event(t, registry__host(&t->s, id), "HostUpdated", "state %s",
                        state_name((int32_t)state));
}

static void set_spec(struct txn *t, struct row *host, const thole_v1_HostSpec *spec)
{
    struct row *row = registry__txn_edit(t, host);
    thole_v1_HostSpec *to = thole_v1_Host_mutable_spec(row->host, row->arena);
    copy_tags(to, spec, row->arena);
    thole_v1_HostSpec_set_capacity(to, thole_v1_HostSpec_capacity(spec));
    if (thole_v1_HostSpec_state(spec) != thole_v1_HOST_STATE_UNSPECIFIED) {
        thole_v1_HostSpec_set_state(to, thole_v1_HostSpec_state(spec));
    }
    registry__txn_show(t, host);
    if (registry__message_equal(host->host, row->host, &thole_v1_Host_msginit, t->arena)) {
        return;
    }
    next_generation(t, row);
    int32_t state = thole_v1_HostSpec_state(to);
    struct uuid id = host->host_id;
    registry__txn_put(t, row);
    registry__txn_event(t, registry__host(&t->s, &id), "HostUpdated", "state %s",
                        state_name(state));
}

enum thole_code registry__op_update_host(struct txn *t, const thole_registry_v1_Operation *op)
{
    const thole_registry_v1_UpdateHost *u = thole_registry_v1_Operation_update_host(op);
    const thole_v1_HostSpec *spec = thole_registry_v1_UpdateHost_spec(u);
    struct row *host = NULL;
    enum thole_code code = registry__find_host(t, thole_registry_v1_UpdateHost_name(u), &host);
    if (code == THOLE_OK) {
        code = registry__check_revision(t, op, host);
    }
    if (code == THOLE_OK) {
        code = registry__check_etag(t, thole_v1_Host_etag(host->host),
                                    thole_registry_v1_UpdateHost_etag(u));
    }
    if (code == THOLE_OK) {
        struct registry_violation v;
        code = registry__checked(t, registry_check_host_spec("host.spec", spec, &v), &v);
    }
    if (code != THOLE_OK) {
        return code;
    }
    if (registry__host_has_state(host, thole_v1_HOST_STATE_REMOVED)) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_REMOVED,
                          "the host is being removed");
    }
    set_spec(t, host, spec);
    return THOLE_OK;
}

bool registry__host_another_stays(const struct state *s, const struct row *host)
{
    const struct row *row =
        registry__open(s->scope, registry__tree_first(s->index[INDEX_HOST_NAMES]));
    while (row != NULL) {
        if (!uuid_equal(&row->host_id, &host->host_id) &&
            !registry__host_has_state(row, thole_v1_HOST_STATE_REMOVED)) {
            return true;
        }
        struct key key = registry__key_name(registry_str(thole_v1_Host_name(row->host)));
        row = registry__open(s->scope, registry__find_after(s, INDEX_HOST_NAMES, key));
    }
    return false;
}

void registry__host_settle(struct txn *t, const struct uuid *id)
{
    struct row *host = registry__host(&t->s, id);
    if (host == NULL || thole_v1_Host_name(host->host).size == 0 ||
        !registry__host_has_state(host, thole_v1_HOST_STATE_REMOVED) ||
        registry__next_of_host(&t->s, id, 0) != NULL) {
        return;
    }
    registry__txn_event(t, host, "HostRemoved", "its last replica is gone");
    registry__txn_drop(t, host);
    struct row *tombstone = registry__row_new(&t->scope, ROW_HOST);
    upb_StringView text = thole_v1_Host_id(host->host);
    tombstone->host_id = *id;
    thole_v1_Host_set_id(tombstone->host, registry__dup(tombstone->arena, registry_str(text)));
    thole_v1_HostSpec_set_state(thole_v1_Host_mutable_spec(tombstone->host, tombstone->arena),
                                thole_v1_HOST_STATE_REMOVED);
    thole_v1_Host_mutable_status(tombstone->host, tombstone->arena);
    thole_v1_Host_set_revision(tombstone->host, t->revision);
    registry__state_put(&t->s, tombstone);
}

/* The group was never reported to have formed, and every replica is on a removed host. Initial
 * members are never edited, so the shard would wait for ever. Recreating it loses nothing: no
 * replica is left that could hold what the group may have acknowledged. */
static bool cannot_form(const struct txn *t, const struct row *shard)
{
    uint64_t id = thole_v1_Shard_id(shard->shard), after = 0;
    const struct row *row;
    while ((row = registry__next_of_shard(&t->s, id, after)) != NULL) {
        after = thole_v1_Replica_id(row->replica);
        if (!registry__host_has_state(registry__host(&t->s, &row->host_id),
                                      thole_v1_HOST_STATE_REMOVED)) {
            return false;
        }
    }
    return id != REGISTRY_SHARD_ID && !thole_v1_Shard_has_seed(shard->shard) &&
           !thole_v1_Shard_deleting(shard->shard) &&
           !thole_v1_ShardStatus_formed(thole_v1_Shard_status(shard->shard));
}

/* Placement moves the replicas that can be moved. A replica that is OUT is dropped at once. */
static void hand_over_replicas(struct txn *t, const struct uuid *id)
{
    uint64_t after = 0;
    struct row *row;
    while ((row = registry__next_of_host(&t->s, id, after)) != NULL) {
        const thole_v1_Replica *r = row->replica;
        after = thole_v1_Replica_id(r);
        struct row *shard = registry__shard(&t->s, thole_v1_Replica_shard_id(r));
        if (cannot_form(t, shard)) {
            registry__shard_begin_again(t, shard);
            continue;
        }
        bool leaving = thole_v1_Replica_phase(r) == thole_v1_REPLICA_PHASE_OUT ||
                       thole_v1_Shard_deleting(shard->shard);
        if (thole_v1_Replica_desired(r) == thole_v1_REPLICA_DESIRED_REMOVE && leaving) {
            registry__replica_drop(t, row, "its host was removed");
        } else if (thole_v1_Replica_owner(r) != thole_v1_REPLICA_OWNER_PLACEMENT) {
            struct row *edit = registry__txn_edit(t, row);
            thole_v1_Replica_set_owner(edit->replica, thole_v1_REPLICA_OWNER_PLACEMENT);
            registry__txn_put(t, edit);
        }
    }
}

/* A user's DeleteHost takes only dead hosts without replicas: their data could be lost with the
 * host. */
static enum thole_code check_empty(struct txn *t, const struct row *host)
{
    upb_StringView name = thole_v1_Host_name(host->host);
    uint64_t after = 0;
    const struct row *row;
    if (!is_dead(host)) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_UNSATISFIABLE,
                          "host \"%.*s\" is not dead: \"thole host decommission %.*s\" moves away "
                          "what it has, then removes it",
                          (int)name.size, name.data, (int)name.size, name.data);
    }
    while ((row = registry__next_of_host(&t->s, &host->host_id, after)) != NULL) {
        after = thole_v1_Replica_id(row->replica);
        upb_StringView shard = thole_v1_Replica_shard(row->replica);
        if (thole_v1_Replica_shard_id(row->replica) != REGISTRY_SHARD_ID &&
            thole_v1_Replica_phase(row->replica) != thole_v1_REPLICA_PHASE_OUT) {
            return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_UNSATISFIABLE,
                              "host \"%.*s\" has replicas, one of shard \"%.*s\" among them: "
                              "\"thole host decommission %.*s\" waits until others do without",
                              (int)name.size, name.data, (int)shard.size, shard.data,
                              (int)name.size, name.data);
        }
    }
    return THOLE_OK;
}

/* A removed host is refused for ever, and its data is lost with it. */
static enum thole_code check_removable(struct txn *t, const struct row *host, bool decommission)
{
    char why[REGISTRY_TEXT_BYTES] = "";
    enum thole_code code = decommission ? THOLE_OK : check_empty(t, host);
    if (code == THOLE_OK && registry__host_is_needed(&t->s, &host->host_id, why, sizeof why)) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_UNSATISFIABLE, "%s", why);
    }
    return code;
}

enum thole_code registry__op_delete_host(struct txn *t, const thole_registry_v1_Operation *op)
{
    const thole_registry_v1_DeleteHost *d = thole_registry_v1_Operation_delete_host(op);
    struct row *host = NULL;
    enum thole_code code = registry__find_host(t, thole_registry_v1_DeleteHost_name(d), &host);
    if (code == THOLE_OK) {
        code = registry__check_revision(t, op, host);
    }
    if (code != THOLE_OK) {
        return code;
    }
    registry__txn_show(t, host);
    if (registry__host_has_state(host, thole_v1_HOST_STATE_REMOVED)) {
        return THOLE_OK;
    }
    if (!registry__host_another_stays(&t->s, host)) {
        return THOLE_FAIL(&t->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_UNSATISFIABLE,
                          "this is the last host of the cluster");
    }
    code = check_removable(t, host, thole_registry_v1_DeleteHost_decommission(d));
    if (code != THOLE_OK) {
        return code;
    }
    struct uuid id = host->host_id;
    struct row *row = registry__txn_edit(t, host);
    thole_v1_HostSpec_set_state(thole_v1_Host_mutable_spec(row->host, row->arena),
                                thole_v1_HOST_STATE_REMOVED);
    next_generation(t, row);
    registry__txn_put(t, row);
    registry__txn_event(t, registry__host(&t->s, &id), "HostDeleted",
                        "its replicas are being moved away");
    hand_over_replicas(t, &id);
    registry__host_settle(t, &id);
    return THOLE_OK;
}
