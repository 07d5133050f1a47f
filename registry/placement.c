/* Placement: classification of replicas and hosts, choice of hosts, explanations, and operations.
 * What to do with them is decided in placement_user.c and placement_zero.c. */
#include "registry/placement_internal.h"

#include "base/hash.h"

#include <stdio.h>
#include <string.h>

/* ---- Hosts ----------------------------------------------------------------------------------- */

bool placement__host_state_is(const thole_v1_Host *host, thole_v1_HostState state)
{
    const thole_v1_HostSpec *spec = thole_v1_Host_spec(host);
    return spec != NULL && thole_v1_HostSpec_state(spec) == (int32_t)state;
}

static int32_t liveness(const thole_v1_Host *host)
{
    const thole_v1_HostStatus *status = thole_v1_Host_status(host);
    return status == NULL ? thole_v1_HOST_LIVENESS_UNSPECIFIED
                          : thole_v1_HostStatus_liveness(status);
}

bool placement__host_dead(const thole_v1_Host *host)
{
    return liveness(host) == thole_v1_HOST_LIVENESS_DEAD;
}

static bool satisfies(const thole_v1_Host *host, const thole_v1_Constraint *c)
{
    upb_StringView have = {NULL, 0};
    const thole_v1_HostSpec *spec = thole_v1_Host_spec(host);
    bool has = spec != NULL && thole_v1_HostSpec_tags_get(spec, thole_v1_Constraint_key(c), &have);
    size_t count = 0;
    const upb_StringView *values = thole_v1_Constraint_values(c, &count);
    bool in = false;
    for (size_t i = 0; has && i < count; i++) {
        in |= slice_equal(registry_str(have), registry_str(values[i]));
    }
    switch (thole_v1_Constraint_operator(c)) {
    case thole_v1_CONSTRAINT_OPERATOR_IN:
        return in;
    case thole_v1_CONSTRAINT_OPERATOR_NOT_IN:
        return !in;
    case thole_v1_CONSTRAINT_OPERATOR_EXISTS:
        return has;
    case thole_v1_CONSTRAINT_OPERATOR_NOT_EXISTS:
        return !has;
    default:
        return false;
    }
}

bool placement_host_matches(const thole_v1_Host *host, const thole_v1_ShardSpec *spec,
                            size_t *ret_failed)
{
    size_t count = 0;
    const thole_v1_Constraint *const *constraints = thole_v1_ShardSpec_constraints(spec, &count);
    for (size_t i = 0; i < count; i++) {
        if (!satisfies(host, constraints[i])) {
            *ret_failed = i;
            return false;
        }
    }
    return true;
}

bool registry__host_runs(const thole_v1_Host *host, upb_StringView type)
{
    const thole_v1_HostStatus *status = thole_v1_Host_status(host);
    size_t count = 0;
    const thole_v1_MachineType *const *types =
        status == NULL ? NULL : thole_v1_HostStatus_machine_types(status, &count);
    for (size_t i = 0; i < count; i++) {
        if (slice_equal(registry_str(thole_v1_MachineType_name(types[i])), registry_str(type))) {
            return true;
        }
    }
    return false;
}

static bool uses(const struct placement *p, const struct uuid *host)
{
    for (size_t i = 0; i < p->member_count; i++) {
        if (uuid_equal(&p->members[i].host_id, host)) {
            return true;
        }
    }
    return false;
}

uint32_t placement__host_load(const struct placement *p, const struct uuid *id)
{
    uint32_t load = registry__count_of_host(&p->v->s, id);
    return load + (p->load == NULL ? 0 : p->load->extra(p->load->ctx, id));
}

/* Count the host under the first thing that rules it out. */
static bool is_candidate(struct placement *p, const thole_v1_Host *host, const struct uuid *id)
{
    size_t failed = 0;
    p->all++;
    if (!placement__host_state_is(host, thole_v1_HOST_STATE_ACTIVE)) {
        p->not_active++;
    } else if (placement__host_dead(host)) {
        p->dead++;
    } else if (!registry__host_runs(host, thole_v1_ShardSpec_type(p->spec))) {
        p->without_type++;
    } else if (!placement_host_matches(host, p->spec, &failed)) {
        p->ruled_out[failed < REGISTRY_CONSTRAINTS_MAX ? failed : 0]++;
    } else if (uses(p, id)) {
        p->used++;
    } else {
        return true;
    }
    return false;
}

void placement__load_hosts(struct placement *p)
{
    const thole_v1_Host *row = NULL;
    struct slice name = {0};
    while ((row = registry_next_host(p->v, name)) != NULL) {
        struct placement_host host = {.row = row};
        name = registry_str(thole_v1_Host_name(row));
        if (!registry__parse_uuid(thole_v1_Host_id(row), &host.id) ||
            !is_candidate(p, row, &host.id) || p->host_count == PLACEMENT_HOSTS_MAX) {
            continue;
        }
        host.suspect = liveness(row) == thole_v1_HOST_LIVENESS_SUSPECT;
        host.load = placement__host_load(p, &host.id);
        host.hash = hash64(name.data, name.size, thole_v1_Shard_id(p->shard));
        p->hosts[p->host_count++] = host;
    }
}

static bool better(const struct placement_host *a, const struct placement_host *b)
{
    if (a->suspect != b->suspect) {
        return !a->suspect;
    }
    if (a->load != b->load) {
        return a->load < b->load;
    }
    return a->hash != b->hash ? a->hash < b->hash : uuid_compare(&a->id, &b->id) < 0;
}

bool placement__take_host(struct placement *p, struct placement_host *ret)
{
    size_t best = 0;
    if (p->host_count == 0) {
        return false;
    }
    for (size_t i = 1; i < p->host_count; i++) {
        if (better(&p->hosts[i], &p->hosts[best])) {
            best = i;
        }
    }
    *ret = p->hosts[best];
    p->hosts[best] = p->hosts[--p->host_count];
    return true;
}

/* ---- Members --------------------------------------------------------------------------------- */

static void classify(const struct placement *p, struct placement_member *m)
{
    size_t failed = 0;
    uint64_t leader = thole_v1_ShardStatus_leader_replica(thole_v1_Shard_status(p->shard));
    m->run = thole_v1_Replica_desired(m->row) == thole_v1_REPLICA_DESIRED_RUN;
    m->voter = thole_v1_Replica_role(m->row) == thole_v1_REPLICA_ROLE_VOTER;
    m->running = thole_v1_Replica_phase(m->row) == thole_v1_REPLICA_PHASE_RUNNING;
    m->mine = thole_v1_Replica_owner(m->row) == thole_v1_REPLICA_OWNER_PLACEMENT;
    m->leader = thole_v1_Replica_id(m->row) == leader;
    if (m->host != NULL) {
        m->host_up = !placement__host_dead(m->host) &&
                     !placement__host_state_is(m->host, thole_v1_HOST_STATE_REMOVED);
        m->keep = m->host_up && !placement__host_state_is(m->host, thole_v1_HOST_STATE_DRAINING) &&
                  placement_host_matches(m->host, p->spec, &failed);
    }
}

void placement__load_members(struct placement *p)
{
    uint64_t shard_id = thole_v1_Shard_id(p->shard);
    const thole_v1_Replica *row = NULL;
    uint64_t after = 0;
    while (p->member_count < LIMIT_MEMBERS &&
           (row = registry_next_replica_of_shard(p->v, shard_id, after)) != NULL) {
        struct placement_member *m = &p->members[p->member_count++];
        after = thole_v1_Replica_id(row);
        m->row = row;
        if (registry__parse_uuid(thole_v1_Replica_host_id(row), &m->host_id)) {
            m->host = registry_host(p->v, &m->host_id);
        }
        classify(p, m);
    }
}

/* ---- Explanations ---------------------------------------------------------------------------- */

static const char *operator_name(int32_t op)
{
    return op == thole_v1_CONSTRAINT_OPERATOR_IN       ? "in"
           : op == thole_v1_CONSTRAINT_OPERATOR_NOT_IN ? "not in"
           : op == thole_v1_CONSTRAINT_OPERATOR_EXISTS ? "exists"
                                                       : "does not exist";
}

static void append_count(struct bytes *out, uint32_t count, const char *why)
{
    if (count > 0) {
        bytes_printf(out, "; %" PRIu32 " %s", count, why);
    }
}

static void append_constraint(struct bytes *out, const struct placement *p, size_t i)
{
    size_t count = 0;
    const thole_v1_Constraint *c = thole_v1_ShardSpec_constraints(p->spec, &count)[i];
    upb_StringView key = thole_v1_Constraint_key(c);
    bytes_printf(out, "; %" PRIu32 " ruled out by tag %.*s %s", p->ruled_out[i], (int)key.size,
                 key.data, operator_name(thole_v1_Constraint_operator(c)));
    const upb_StringView *values = thole_v1_Constraint_values(c, &count);
    for (size_t v = 0; v < count && v < 4; v++) {
        bytes_printf(out, "%s%.*s", v == 0 ? " (" : ", ", (int)values[v].size, values[v].data);
    }
    if (count > 0) {
        bytes_append_str(out, count > 4 ? ", ...)" : ")");
    }
}

void placement__explain(struct placement *p, uint32_t voters_missing, uint32_t non_voting_missing)
{
    struct bytes out = {0};
    upb_StringView type = thole_v1_ShardSpec_type(p->spec);
    size_t count = 0;
    thole_v1_ShardSpec_constraints(p->spec, &count);
    bytes_printf(&out,
                 "no host for %" PRIu32 " voters and %" PRIu32 " non-voting; of %" PRIu32 " hosts",
                 voters_missing, non_voting_missing, p->all);
    append_count(&out, p->used, "have a replica");
    append_count(&out, p->not_active, "take no new replicas");
    append_count(&out, p->dead, "are dead");
    if (p->without_type > 0) {
        bytes_printf(&out, "; %" PRIu32 " do not run type %.*s", p->without_type, (int)type.size,
                     type.data);
    }
    for (size_t i = 0; i < count && i < REGISTRY_CONSTRAINTS_MAX; i++) {
        if (p->ruled_out[i] > 0) {
            append_constraint(&out, p, i);
        }
    }
    snprintf(p->ret->explanation, sizeof(p->ret->explanation), "%.*s", (int)out.size,
             (const char *)out.data);
    registry__trim_utf8(p->ret->explanation);
    bytes_deinit(&out);
}

/* ---- Operations ------------------------------------------------------------------------------ */

static thole_registry_v1_Operation *add_operation(struct placement *p)
{
    p->appended++;
    p->ret->verdict = PLACEMENT_ACT;
    return thole_registry_v1_Command_add_operations(p->command, p->arena);
}

void placement__place(struct placement *p, thole_registry_v1_PlaceReplicas **op,
                      const struct placement_host *host, bool voter, const char *reason)
{
    if (*op == NULL) {
        thole_registry_v1_Operation *o = add_operation(p);
        thole_registry_v1_Operation_set_expected_revision(o, thole_v1_Shard_revision(p->shard));
        *op = thole_registry_v1_Operation_mutable_place_replicas(o, p->arena);
        thole_registry_v1_PlaceReplicas_set_shard_id(*op, thole_v1_Shard_id(p->shard));
        thole_registry_v1_PlaceReplicas_set_reason(*op, registry__dup_str(p->arena, reason));
    }
    thole_registry_v1_Placed *placed = thole_registry_v1_PlaceReplicas_add_replicas(*op, p->arena);
    upb_StringView id = thole_v1_Host_id(host->row);
    thole_registry_v1_Placed_set_host_id(placed, registry__dup(p->arena, registry_str(id)));
    thole_registry_v1_Placed_set_role(placed, voter ? thole_v1_REPLICA_ROLE_VOTER
                                                    : thole_v1_REPLICA_ROLE_NON_VOTING);
}

void placement__remove(struct placement *p, const struct placement_member *m, const char *reason)
{
    thole_registry_v1_Operation *o = add_operation(p);
    thole_registry_v1_Operation_set_expected_revision(o, thole_v1_Replica_revision(m->row));
    thole_registry_v1_RemoveReplica *r =
        thole_registry_v1_Operation_mutable_remove_replica(o, p->arena);
    thole_registry_v1_RemoveReplica_set_replica_id(r, thole_v1_Replica_id(m->row));
    thole_registry_v1_RemoveReplica_set_reason(r, registry__dup_str(p->arena, reason));
}

void placement__set_role(struct placement *p, struct placement_member *m, bool voter,
                         const char *reason)
{
    thole_registry_v1_Operation *o = add_operation(p);
    thole_registry_v1_Operation_set_expected_revision(o, thole_v1_Replica_revision(m->row));
    thole_registry_v1_SetRole *r = thole_registry_v1_Operation_mutable_set_role(o, p->arena);
    thole_registry_v1_SetRole_set_replica_id(r, thole_v1_Replica_id(m->row));
    thole_registry_v1_SetRole_set_role(r, voter ? thole_v1_REPLICA_ROLE_VOTER
                                                : thole_v1_REPLICA_ROLE_NON_VOTING);
    thole_registry_v1_SetRole_set_reason(r, registry__dup_str(p->arena, reason));
    m->voter = voter;
    m->running = false;
}

/* ---- Entry points ---------------------------------------------------------------------------- */

void placement_decide_loaded(const struct registry_view *v, const thole_v1_Shard *shard,
                             const struct placement_load *load, thole_registry_v1_Command *command,
                             upb_Arena *arena, struct placement_result *ret)
{
    struct placement p = {.v = v,
                          .shard = shard,
                          .spec = thole_v1_Shard_spec(shard),
                          .load = load,
                          .command = command,
                          .arena = arena,
                          .ret = ret};
    ret->verdict = PLACEMENT_SETTLED;
    ret->explanation[0] = '\0';
    if (thole_v1_Shard_deleting(shard)) {
        ret->verdict = PLACEMENT_WAIT;
        snprintf(ret->explanation, sizeof(ret->explanation), "the shard is being deleted");
        return;
    }
    thole_registry_v1_Command_set_decided_at(command, registry_view_revision(v));
    placement__load_members(&p);
    if (thole_v1_Shard_id(shard) == REGISTRY_SHARD_ID) {
        placement__decide_zero(&p);
    } else {
        placement__decide_user(&p);
    }
}

void placement_decide(const struct registry_view *v, const thole_v1_Shard *shard,
                      thole_registry_v1_Command *command, upb_Arena *arena,
                      struct placement_result *ret)
{
    placement_decide_loaded(v, shard, NULL, command, arena, ret);
}
