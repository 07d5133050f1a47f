/* Placement of shard zero. Every host that is not removed has a replica; as many of them vote as
 * the largest of 1, 3, 5 that is not above the number of hosts that are active and not dead. One
 * step at a time: promote what is missing, then take votes away, one after the other:
 *
 *   on draining and removed hosts   once enough others vote
 *   on dead hosts                   likewise, but not below three voters while the cluster has
 *                                   three hosts: of three, one dead, every entry is still on
 *                                   two disks
 *   the one that makes them even    four tolerate no more than three, two no more than one
 *
 * Else a voter on a host in order keeps its vote, even when fewer would do: votes do not wander
 * because a host comes or goes. The replica of a removed host goes when it is the last one there:
 * without it that host would not learn that its other replicas are to hand over what they lead. */
#include "registry/placement_internal.h"

#include <stdio.h>

struct zero {
    uint32_t hosts;   /* active and not dead */
    uint32_t all;     /* active, dead or not */
    uint32_t target;  /* voters */
    uint32_t least;   /* of which the dead may be some */
    uint32_t good;    /* voters on hosts in order */
    uint32_t running; /* of them */
    bool leaving;     /* a voter is being removed */
    bool emptied;     /* a voter must go although its host is not dead */
};

static bool has_replica(const struct placement *p, const struct uuid *host)
{
    for (size_t i = 0; i < p->member_count; i++) {
        const struct placement_member *m = &p->members[i];
        if (uuid_equal(&m->host_id, host) && (m->run || !m->out)) {
            return true;
        }
    }
    return false;
}

/* Cordoned hosts keep their vote; the constraints of shard zero are none. */
static void place_missing(struct placement *p)
{
    thole_registry_v1_PlaceReplicas *op = NULL;
    const thole_v1_Host *row = NULL;
    struct slice name = {0};
    size_t rows = p->member_count;
    while (rows < LIMIT_MEMBERS && (row = registry_next_host(p->v, name)) != NULL) {
        struct uuid id;
        name = registry_str(thole_v1_Host_name(row));
        if (placement__host_state_is(row, thole_v1_HOST_STATE_REMOVED) ||
            !registry__parse_uuid(thole_v1_Host_id(row), &id) || has_replica(p, &id)) {
            continue;
        }
        placement__place(p, &op, row, thole_v1_REPLICA_ROLE_NON_VOTING,
                         "every host has a replica of shard zero");
        rows++;
    }
}

static bool is_removed(const struct placement_member *m)
{
    return m->host == NULL || placement__host_state_is(m->host, thole_v1_HOST_STATE_REMOVED);
}

static bool kept_while_dead(const struct placement_member *m)
{
    return !is_removed(m) && placement__host_dead(m->host) &&
           !placement__host_state_is(m->host, thole_v1_HOST_STATE_DRAINING);
}

static void count(const struct placement *p, struct zero *z)
{
    const thole_v1_Host *row = NULL;
    struct slice name = {0};
    while ((row = registry_next_host(p->v, name)) != NULL) {
        name = registry_str(thole_v1_Host_name(row));
        bool active = placement__host_state_is(row, thole_v1_HOST_STATE_ACTIVE);
        z->all += active;
        z->hosts += active && !placement__host_dead(row);
    }
    z->target = z->hosts >= 5 ? 5 : z->hosts >= 3 ? 3 : 1;
    z->least = z->all >= 3 ? 3 : 1;
    for (size_t i = 0; i < p->member_count; i++) {
        const struct placement_member *m = &p->members[i];
        bool out = m->out;
        z->leaving |= !m->run && m->voting && !out;
        z->good += m->run && m->voting && m->keep;
        z->running += m->run && m->voting && m->keep && m->running;
        z->emptied |= m->run && m->voting && !m->keep && !kept_while_dead(m);
    }
}

/* Best the least loaded host; dead, draining, suspect and cordoned ones do not get a vote. */
static struct placement_member *promotable(struct placement *p)
{
    struct placement_member *best = NULL;
    uint32_t best_load = 0;
    for (size_t i = 0; i < p->member_count; i++) {
        struct placement_member *m = &p->members[i];
        if (!m->run || m->voting || !m->running || !m->keep ||
            !placement__host_state_is(m->host, thole_v1_HOST_STATE_ACTIVE) ||
            thole_v1_HostStatus_liveness(thole_v1_Host_status(m->host)) ==
                thole_v1_HOST_LIVENESS_SUSPECT) {
            continue;
        }
        uint32_t load = placement__host_load(p, &m->host_id);
        if (best == NULL || load < best_load) {
            best = m;
            best_load = load;
        }
    }
    return best;
}

/* A voter that must lose its vote: removed and dead hosts first, the leader last. */
static struct placement_member *unfit_voter(struct placement *p, const struct zero *z)
{
    struct placement_member *best = NULL;
    for (size_t i = 0; i < p->member_count; i++) {
        struct placement_member *m = &p->members[i];
        if (!m->run || !m->voting || m->keep ||
            (kept_while_dead(m) && z->good < z->least && !z->emptied)) {
            continue;
        }
        if (best == NULL || (best->leader && !m->leader) ||
            (best->leader == m->leader && best->host_up && !m->host_up)) {
            best = m;
        }
    }
    return best;
}

static bool is_suspect(const struct placement_member *m)
{
    return thole_v1_HostStatus_liveness(thole_v1_Host_status(m->host)) ==
           thole_v1_HOST_LIVENESS_SUSPECT;
}

/* Should `a` lose its vote rather than `b`? */
static bool less_fit(const struct placement *p, const struct placement_member *a,
                     const struct placement_member *b)
{
    if (a->leader != b->leader) {
        return b->leader;
    }
    if (is_suspect(a) != is_suspect(b)) {
        return is_suspect(a);
    }
    return placement__host_load(p, &a->host_id) > placement__host_load(p, &b->host_id);
}

/* The voter that makes their number even, or NULL. */
static struct placement_member *even_voter(struct placement *p, const struct zero *z)
{
    struct placement_member *best = NULL;
    for (size_t i = 0; i < p->member_count; i++) {
        struct placement_member *m = &p->members[i];
        if (z->good % 2 == 0 && z->good > z->target && z->good > z->least && m->run && m->voting &&
            m->keep && (best == NULL || less_fit(p, m, best))) {
            best = m;
        }
    }
    return best;
}

static void wait_for(struct placement *p, const char *what)
{
    if (p->appended == 0) {
        p->ret->verdict = PLACEMENT_WAIT;
        snprintf(p->ret->explanation, sizeof(p->ret->explanation), "%s", what);
    }
}

static void remove_non_voting(struct placement *p)
{
    for (size_t i = 0; i < p->member_count; i++) {
        struct placement_member *m = &p->members[i];
        if (m->run && !m->voting && is_removed(m) &&
            registry__count_of_host(&p->v->s, &m->host_id) == 1) {
            placement__remove(p, m, "its host was removed");
        }
    }
}

void placement__decide_zero(struct placement *p)
{
    const thole_v1_ShardStatus *status = thole_v1_Shard_status(p->shard);
    struct zero z = {0};
    place_missing(p);
    if (status == NULL || !thole_v1_ShardStatus_formed(status)) {
        wait_for(p, "the first leader has not reported yet");
        return;
    }
    remove_non_voting(p);
    count(p, &z);
    if (p->appended > 0) {
        return;
    }
    if (z.leaving || z.running < z.good) {
        wait_for(p, "a vote is being given or taken");
        return;
    }
    if (z.good < z.target) {
        struct placement_member *m = promotable(p);
        if (m == NULL) {
            wait_for(p, "more voters are wanted, and no other host is ready to vote");
            return;
        }
        placement__set_role(p, m, thole_v1_REPLICA_ROLE_VOTER, "more hosts allow more voters");
        return;
    }
    struct placement_member *unfit = unfit_voter(p, &z);
    if (unfit == NULL && (unfit = even_voter(p, &z)) == NULL) {
        return;
    }
    placement__set_role(p, unfit, thole_v1_REPLICA_ROLE_NON_VOTING,
                        unfit->keep         ? "an even number of voters is no better than one less"
                        : is_removed(unfit) ? "its host was removed"
                        : placement__host_dead(unfit->host) ? "its host is dead"
                                                            : "its host is draining");
}
