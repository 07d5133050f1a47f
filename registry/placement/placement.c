/* Placement: classifies replicas and hosts, and appends operations. placement_target.c finds the
 * target, placement_user.c and placement_zero.c the next step towards it. */
#include "registry/placement/placement_internal.h"

#include "base/hash.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Hosts ----------------------------------------------------------------------------------- */

bool placement__host_has_state(const thole_v1_Host *host, thole_v1_HostState state)
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

bool placement__host_is_dead(const thole_v1_Host *host)
{
    return liveness(host) == thole_v1_HOST_LIVENESS_DEAD;
}

bool placement__satisfies(const thole_v1_Host *host, const thole_v1_Constraint *c)
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

bool placement_host_matches(const thole_v1_Host *host,
                            const thole_v1_Constraint *const *constraints, size_t count,
                            size_t *ret_failed)
{
    for (size_t i = 0; i < count; i++) {
        if (!placement__satisfies(host, constraints[i])) {
            *ret_failed = i;
            return false;
        }
    }
    return true;
}

static bool cannot_write(const thole_v1_Host *host)
{
    return thole_v1_HostStatus_disk(thole_v1_Host_status(host)) > thole_v1_HOST_DISK_OK;
}

static bool has_wrong_clock(const thole_v1_Host *host)
{
    return thole_v1_HostStatus_clock(thole_v1_Host_status(host)) == thole_v1_HOST_CLOCK_WRONG;
}

bool placement_host_is_failing(const thole_v1_Host *host)
{
    const thole_v1_HostFailures *f = thole_v1_HostStatus_failures(thole_v1_Host_status(host));
    return f != NULL && thole_v1_HostFailures_failing(f);
}

bool placement_host_leads(const thole_v1_Host *host, const thole_v1_ShardSpec *spec,
                          bool *ret_preferred)
{
    size_t count = 0;
    size_t failed;
    const thole_v1_Constraint *const *preferred =
        thole_v1_ShardSpec_leader_preference(spec, &count);
    *ret_preferred = placement_host_matches(host, preferred, count, &failed);
    return placement__host_has_state(host, thole_v1_HOST_STATE_ACTIVE) && !cannot_write(host) &&
           !has_wrong_clock(host) && liveness(host) == thole_v1_HOST_LIVENESS_LIVE;
}

uint32_t placement_host_replicas(const struct registry_view *v, const struct uuid *host)
{
    return registry__count_of_host(&v->s, host);
}

uint32_t registry_non_voting(const thole_v1_ShardSpec *spec)
{
    size_t count = 0;
    uint32_t sum = 0;
    const thole_v1_ReplicaGroup *const *groups = thole_v1_ShardSpec_non_voting(spec, &count);
    for (size_t i = 0; i < count; i++) {
        sum += thole_v1_ReplicaGroup_count(groups[i]);
    }
    return sum;
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

uint32_t placement__host_load(const struct placement *p, const struct uuid *id)
{
    int64_t load = registry__count_of_host(&p->v->s, id);
    if (p->o != NULL && p->o->extra != NULL) {
        load += p->o->extra(p->o->ctx, id);
    }
    return load > 0 ? (uint32_t)load : 0;
}

/* ---- Members --------------------------------------------------------------------------------- */

/* What a user created stays as long as its host does. A vote on a dead host helps nobody; a copy
 * without vote may come back with it. */
static bool must_leave(const struct placement_member *m)
{
    return m->host == NULL || placement__host_has_state(m->host, thole_v1_HOST_STATE_REMOVED) ||
           placement__host_has_state(m->host, thole_v1_HOST_STATE_DRAINING) ||
           (placement__host_is_dead(m->host) && m->voting);
}

static void classify(const struct placement *p, struct placement_member *m,
                     const thole_v1_Replica *row)
{
    uint64_t leader = thole_v1_ShardStatus_leader_replica(thole_v1_Shard_status(p->shard));
    m->host_index = -1;
    m->target = CLASS_NONE;
    m->role = thole_v1_Replica_role(row);
    m->run = thole_v1_Replica_desired(row) == thole_v1_REPLICA_DESIRED_RUN;
    m->voting = m->role != thole_v1_REPLICA_ROLE_NON_VOTING;
    m->running = thole_v1_Replica_phase(row) == thole_v1_REPLICA_PHASE_RUNNING;
    m->out = thole_v1_Replica_phase(row) == thole_v1_REPLICA_PHASE_OUT;
    m->failed = thole_v1_Replica_phase(row) == thole_v1_REPLICA_PHASE_FAILED;
    /* The only voter always leads, so leading is no reason to keep it. */
    m->leader = m->id == leader && thole_v1_ShardSpec_voters(p->spec) != 1;
    m->moving = thole_v1_Replica_moving_by(row) != 0;
    m->pinned = thole_v1_Replica_moved_by(row) > (p->o != NULL ? p->o->unpinned : 0);
    if (m->host != NULL) {
        m->host_up = !placement__host_is_dead(m->host) &&
                     !placement__host_has_state(m->host, thole_v1_HOST_STATE_REMOVED);
        m->keep = m->host_up && !m->moving &&
                  !placement__host_has_state(m->host, thole_v1_HOST_STATE_DRAINING);
    }
    m->mine = thole_v1_Replica_owner(row) == thole_v1_REPLICA_OWNER_PLACEMENT || must_leave(m);
}

void placement__load_members(struct placement *p)
{
    struct registry_replica_buf replica_buf;
    uint64_t shard_id = thole_v1_Shard_id(p->shard);
    const thole_v1_Replica *row = NULL;
    uint64_t after = 0;
    while (p->member_count < LIMIT_MEMBERS &&
           (row = registry_next_replica_of_shard(p->v, shard_id, after, &replica_buf)) != NULL) {
        struct placement_member *m = &p->members[p->member_count++];
        after = thole_v1_Replica_id(row);
        m->id = after;
        m->revision = thole_v1_Replica_revision(row);
        if (uuid_parse(registry_str(thole_v1_Replica_host_id(row)), &m->host_id)) {
            m->host = registry_host(p->v, &m->host_id);
        }
        classify(p, m, row);
    }
}

/* ---- Classes --------------------------------------------------------------------------------- */

const thole_v1_Constraint *const *placement__group_constraints(const thole_v1_ShardSpec *spec,
                                                               const thole_v1_ReplicaGroup *group,
                                                               size_t *ret_count)
{
    const thole_v1_Constraint *const *own = thole_v1_ReplicaGroup_constraints(group, ret_count);
    return *ret_count > 0 ? own : thole_v1_ShardSpec_constraints(spec, ret_count);
}

static struct placement_class *add_class(struct placement *p, int32_t role, uint32_t wanted)
{
    struct placement_class *c = &p->classes[p->class_count++];
    c->role = role;
    c->wanted = wanted;
    return c;
}

static void load_classes(struct placement *p)
{
    size_t count = 0;
    const thole_v1_ShardSpec *spec = p->spec;
    const thole_v1_ReplicaGroup *const *groups = thole_v1_ShardSpec_non_voting(spec, &count);
    struct placement_class *c =
        add_class(p, thole_v1_REPLICA_ROLE_VOTER, thole_v1_ShardSpec_voters(spec));
    c->constraints = thole_v1_ShardSpec_constraints(spec, &c->constraint_count);
    c = add_class(p, thole_v1_REPLICA_ROLE_WITNESS, thole_v1_ShardSpec_witnesses(spec));
    c->constraints = thole_v1_ShardSpec_constraints(spec, &c->constraint_count);
    for (size_t i = 0; i < count && p->class_count < PLACEMENT_CLASSES_MAX; i++) {
        if (!thole_v1_ReplicaGroup_cover(groups[i])) {
            c = add_class(p, thole_v1_REPLICA_ROLE_NON_VOTING,
                          thole_v1_ReplicaGroup_count(groups[i]));
            c->constraints = placement__group_constraints(spec, groups[i], &c->constraint_count);
        }
    }
}

/* ---- Hosts ----------------------------------------------------------------------------------- */

static bool matches_cover(const struct placement *p, const thole_v1_Host *host)
{
    size_t count = 0;
    const thole_v1_ReplicaGroup *const *groups = thole_v1_ShardSpec_non_voting(p->spec, &count);
    for (size_t i = 0; i < count; i++) {
        size_t constraint_count = 0;
        size_t failed;
        const thole_v1_Constraint *const *constraints =
            placement__group_constraints(p->spec, groups[i], &constraint_count);
        if (thole_v1_ReplicaGroup_cover(groups[i]) &&
            placement_host_matches(host, constraints, constraint_count, &failed)) {
            return true;
        }
    }
    return false;
}

/* Replicas of users' shards on a host. Those that are moving away count until their rows are gone:
 * what is expected to leave makes no room yet. */
static uint32_t users_load(const struct placement *p, const struct placement_host *h)
{
    uint32_t rows = registry__count_of_host(&p->v->s, &h->id);
    uint32_t load = h->load > rows ? h->load : rows;
    struct registry_replica_buf replica_buf;
    uint64_t after = 0;
    const thole_v1_Replica *row;
    while ((row = registry_next_replica_of_shard(p->v, REGISTRY_SHARD_ID, after, &replica_buf)) !=
           NULL) {
        struct uuid id;
        after = thole_v1_Replica_id(row);
        if (uuid_parse(registry_str(thole_v1_Replica_host_id(row)), &id) &&
            uuid_equal(&id, &h->id)) {
            return load - 1;
        }
    }
    return load;
}

static void count_failures(const struct placement *p, struct placement_host *h)
{
    size_t count = 0;
    const thole_v1_ReplicaFailure *const *failures =
        thole_v1_ShardStatus_failures(thole_v1_Shard_status(p->shard), &count);
    for (size_t i = 0; i < count; i++) {
        if (slice_equal(registry_str(thole_v1_ReplicaFailure_host_id(failures[i])),
                        registry_str(thole_v1_Host_id(h->row)))) {
            h->failures = thole_v1_ReplicaFailure_count(failures[i]);
            h->failed_ms = thole_v1_ReplicaFailure_time_ms(failures[i]);
        }
    }
}

static void classify_host(struct placement *p, struct placement_host *h, int index)
{
    const thole_v1_Host *row = h->row;
    struct slice name = registry_str(thole_v1_Host_name(row));
    uint32_t capacity = thole_v1_HostSpec_capacity(thole_v1_Host_spec(row));
    bool up = !placement__host_is_dead(row) &&
              !placement__host_has_state(row, thole_v1_HOST_STATE_REMOVED);
    h->member = -1;
    h->target = CLASS_NONE;
    h->hash = hash64(name.data, name.size, thole_v1_Shard_id(p->shard));
    h->suspect = liveness(row) == thole_v1_HOST_LIVENESS_SUSPECT || cannot_write(row);
    h->failing = placement_host_is_failing(row);
    count_failures(p, h);
    h->stays = up && !placement__host_has_state(row, thole_v1_HOST_STATE_DRAINING);
    for (size_t i = 0; i < p->member_count; i++) {
        if (uuid_equal(&p->members[i].host_id, &h->id)) {
            p->members[i].host_index = index;
            h->member = p->members[i].run ? (int)i : h->member;
            h->used = true;
        }
    }
    /* Several hosts decide which replica is surplus, from the same rows: the order must be the
     * same everywhere. */
    h->load = h->used ? registry__count_of_host(&p->v->s, &h->id) : placement__host_load(p, &h->id);
    h->full = capacity > 0 && users_load(p, h) >= capacity;
    h->over = capacity > 0 && users_load(p, h) > capacity;
    h->open = up && !h->used && !h->full && (!h->failing || h->failures > 0) &&
              placement__host_has_state(row, thole_v1_HOST_STATE_ACTIVE) &&
              registry__host_runs(row, thole_v1_ShardSpec_type(p->spec));
    for (size_t c = 0; c < p->class_count; c++) {
        size_t failed;
        if (placement_host_matches(row, p->classes[c].constraints, p->classes[c].constraint_count,
                                   &failed)) {
            h->matches |= UINT32_C(1) << c;
        }
    }
    h->covers = matches_cover(p, row);
}

static bool same_tag(const struct placement_host *a, const struct placement_host *b,
                     upb_StringView key)
{
    upb_StringView left = {NULL, 0};
    upb_StringView right = {NULL, 0};
    bool has_left = thole_v1_HostSpec_tags_get(thole_v1_Host_spec(a->row), key, &left);
    bool has_right = thole_v1_HostSpec_tags_get(thole_v1_Host_spec(b->row), key, &right);
    return has_left == has_right && slice_equal(registry_str(left), registry_str(right));
}

static void locate_hosts(struct placement *p)
{
    size_t count = 0;
    const upb_StringView *keys = thole_v1_ShardSpec_spread(p->spec, &count);
    p->spread_count = count < REGISTRY_SPREAD_MAX ? count : REGISTRY_SPREAD_MAX;
    for (size_t depth = 0; depth < p->spread_count; depth++) {
        for (size_t i = 0; i < p->host_count; i++) {
            size_t first = 0;
            while (first < i && !((depth == 0 || p->hosts[first].place[depth - 1] ==
                                                     p->hosts[i].place[depth - 1]) &&
                                  same_tag(&p->hosts[first], &p->hosts[i], keys[depth]))) {
                first++;
            }
            p->hosts[i].place[depth] = (int)first;
        }
    }
}

struct ranking {
    struct placement_host *host;
};

static int compare_load(const void *a, const void *b)
{
    const struct placement_host *x = ((const struct ranking *)a)->host;
    const struct placement_host *y = ((const struct ranking *)b)->host;
    if (x->load != y->load) {
        return x->load < y->load ? -1 : 1;
    }
    return x->hash != y->hash ? (x->hash < y->hash ? -1 : 1) : uuid_compare(&x->id, &y->id);
}

static void rank_hosts(struct placement *p)
{
    struct ranking order[PLACEMENT_HOSTS_MAX];
    for (size_t i = 0; i < p->host_count; i++) {
        order[i].host = &p->hosts[i];
    }
    qsort(order, p->host_count, sizeof order[0], compare_load);
    for (size_t i = 0; i < p->host_count; i++) {
        order[i].host->rank = (uint32_t)i;
    }
}

bool placement__member_fits(const struct placement *p, const struct placement_member *m, size_t c)
{
    bool witness = m->role == thole_v1_REPLICA_ROLE_WITNESS;
    if (!m->run || m->moving || m->host_index < 0 || !p->hosts[m->host_index].stays ||
        witness != (c == CLASS_WITNESSES) || (!m->mine && p->classes[c].role != m->role)) {
        return false;
    }
    return (p->hosts[m->host_index].matches >> c & 1) != 0;
}

/* Members' `keep`: in the role that they have. */
static void judge_members(struct placement *p)
{
    for (size_t i = 0; i < p->member_count; i++) {
        struct placement_member *m = &p->members[i];
        bool fits = m->host_index >= 0 && m->role == thole_v1_REPLICA_ROLE_NON_VOTING &&
                    p->hosts[m->host_index].covers;
        for (size_t c = 0; c < p->class_count; c++) {
            fits |= p->classes[c].role == m->role && m->host_index >= 0 &&
                    (p->hosts[m->host_index].matches >> c & 1) != 0;
        }
        m->keep &= fits || (m->role == thole_v1_REPLICA_ROLE_NON_VOTING && p->class_count == 2);
    }
}

void placement__load_hosts(struct placement *p)
{
    const thole_v1_Host *row = NULL;
    struct slice name = {0};
    load_classes(p);
    while (p->host_count < PLACEMENT_HOSTS_MAX && (row = registry_next_host(p->v, name)) != NULL) {
        struct placement_host *h = &p->hosts[p->host_count];
        name = registry_str(thole_v1_Host_name(row));
        *h = (struct placement_host){.row = row};
        if (uuid_parse(registry_str(thole_v1_Host_id(row)), &h->id)) {
            classify_host(p, h, (int)p->host_count++);
        }
    }
    rank_hosts(p);
    locate_hosts(p);
    judge_members(p);
}

/* ---- Operations ------------------------------------------------------------------------------ */

static thole_registry_v1_Operation *add_operation(struct placement *p)
{
    p->appended++;
    p->ret->verdict = PLACEMENT_ACT;
    return thole_registry_v1_Command_add_operations(p->command, p->arena);
}

void placement__place(struct placement *p, thole_registry_v1_PlaceReplicas **op,
                      const thole_v1_Host *host, int32_t role, const char *reason)
{
    if (*op == NULL) {
        thole_registry_v1_Operation *o = add_operation(p);
        thole_registry_v1_Operation_set_expected_revision(o, thole_v1_Shard_revision(p->shard));
        *op = thole_registry_v1_Operation_mutable_place_replicas(o, p->arena);
        thole_registry_v1_PlaceReplicas_set_shard_id(*op, thole_v1_Shard_id(p->shard));
        thole_registry_v1_PlaceReplicas_set_reason(*op, registry__dup_str(p->arena, reason));
    }
    thole_registry_v1_Placed *placed = thole_registry_v1_PlaceReplicas_add_replicas(*op, p->arena);
    upb_StringView id = thole_v1_Host_id(host);
    thole_registry_v1_Placed_set_host_id(placed, registry__dup(p->arena, registry_str(id)));
    thole_registry_v1_Placed_set_role(placed, role);
}

void placement__remove(struct placement *p, const struct placement_member *m, const char *reason)
{
    thole_registry_v1_Operation *o = add_operation(p);
    thole_registry_v1_Operation_set_expected_revision(o, m->revision);
    thole_registry_v1_RemoveReplica *r =
        thole_registry_v1_Operation_mutable_remove_replica(o, p->arena);
    thole_registry_v1_RemoveReplica_set_replica_id(r, m->id);
    thole_registry_v1_RemoveReplica_set_reason(r, registry__dup_str(p->arena, reason));
}

void placement__set_role(struct placement *p, struct placement_member *m, int32_t role,
                         const char *reason)
{
    thole_registry_v1_Operation *o = add_operation(p);
    thole_registry_v1_Operation_set_expected_revision(o, m->revision);
    thole_registry_v1_SetRole *r = thole_registry_v1_Operation_mutable_set_role(o, p->arena);
    thole_registry_v1_SetRole_set_replica_id(r, m->id);
    thole_registry_v1_SetRole_set_role(r, role);
    thole_registry_v1_SetRole_set_reason(r, registry__dup_str(p->arena, reason));
    m->role = role;
    m->voting = role != thole_v1_REPLICA_ROLE_NON_VOTING;
    m->running = false;
}

/* ---- Entry point ----------------------------------------------------------------------------- */

void placement_decide(const struct registry_view *v, const thole_v1_Shard *shard,
                      const struct placement_options *o, thole_registry_v1_Command *command,
                      upb_Arena *arena, struct placement_result *ret)
{
    struct placement p = {.v = v,
                          .shard = shard,
                          .spec = thole_v1_Shard_spec(shard),
                          .o = o,
                          .command = command,
                          .arena = arena,
                          .ret = ret};
    ret->verdict = PLACEMENT_SETTLED;
    ret->unbalanced = false;
    ret->explanation[0] = '\0';
    if (thole_v1_Shard_deleting(shard)) {
        ret->verdict = PLACEMENT_WAIT;
        snprintf(ret->explanation, sizeof ret->explanation, "the shard is being deleted");
        return;
    }
    if (thole_v1_Shard_awaits_restore(shard)) {
        ret->verdict = PLACEMENT_WAIT;
        snprintf(ret->explanation, sizeof ret->explanation, "%s",
                 thole_v1_Shard_has_seed(shard)
                     ? "its data is being restored"
                     : "the shard awaits its data: restore a snapshot, or delete the shard");
        return;
    }
    thole_registry_v1_Command_set_decided_at(command, registry_view_revision(v));
    placement__load_members(&p);
    if (thole_v1_Shard_id(shard) == REGISTRY_SHARD_ID) {
        placement__decide_zero(&p);
    } else {
        placement__load_hosts(&p);
        placement__decide_user(&p);
    }
}
