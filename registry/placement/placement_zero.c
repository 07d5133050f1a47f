/* Placement of shard zero. Every host that is not removed has a replica. Who votes is decided at
 * once for all of them, so that the group goes from one odd number of voters to another in one
 * change (hostctl/votes.c makes it):
 *
 *   target   the largest of 1, 3, 5 that is not above the number of hosts that live: draining and
 *            cordoned ones, too
 *   keep     voters on hosts in order, even when fewer would do: votes do not wander because a host
 *            comes or goes
 *   add      running replicas on active hosts, up to the target
 *   fill     what is then missing, and was there: voters on draining hosts keep their vote; in
 *            place of removed ones, and as the third beside two, replicas on cordoned and on
 *            draining hosts get it; voters on removed hosts that live keep it while another host
 *            may still be ready for it
 *   dead     voters on dead hosts keep their vote only up to three, while the cluster has three
 *            hosts: of three, one dead, every entry is still on two disks
 *   odd      four tolerate no more than three, two no more than one: one newcomer waits, or the
 *            least useful voter loses its vote
 *
 * The replica of a removed host goes when it is the last one there: without it that host would not
 * learn that its other replicas are to hand over what they lead. */
#include "base/canary.h"
#include "registry/placement/placement_internal.h"

#include <stdio.h>

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

/* Cordoned hosts keep their vote. Shard zero has no constraints. */
static void place_missing(struct placement *p)
{
    thole_registry_v1_PlaceReplicas *op = NULL;
    const thole_v1_Host *row = NULL;
    struct slice name = {0};
    size_t rows = p->member_count;
    while (rows < LIMIT_MEMBERS && (row = registry_next_host(p->v, name)) != NULL) {
        struct uuid id;
        name = registry_str(thole_v1_Host_name(row));
        if (placement__host_has_state(row, thole_v1_HOST_STATE_REMOVED) ||
            !uuid_parse(registry_str(thole_v1_Host_id(row)), &id) || has_replica(p, &id)) {
            continue;
        }
        placement__place(p, &op, row, thole_v1_REPLICA_ROLE_NON_VOTING,
                         "every host has a replica of shard zero");
        rows++;
    }
}

static bool is_removed(const struct placement_member *m)
{
    return m->host == NULL || placement__host_has_state(m->host, thole_v1_HOST_STATE_REMOVED);
}

static bool is_state(const struct placement_member *m, thole_v1_HostState state)
{
    return m->host != NULL && placement__host_has_state(m->host, state);
}

static bool is_dead(const struct placement_member *m)
{
    return m->host == NULL || placement__host_is_dead(m->host);
}

static bool is_suspect(const struct placement_member *m)
{
    return thole_v1_HostStatus_liveness(thole_v1_Host_status(m->host)) ==
           thole_v1_HOST_LIVENESS_SUSPECT;
}

/* ---- The voters that should be --------------------------------------------------------------- */

/* Rank of a host, lower is better: the best gets the next vote, the worst loses one first. */
enum rank {
    RANK_FIT,      /* a voter on a host in order */
    RANK_NEW,      /* on an active host, and running */
    RANK_DRAINING, /* a voter */
    RANK_CORDONED, /* no voter */
    RANK_LEAVING,  /* no voter, on a draining host */
    RANK_REMOVED,  /* a voter on a removed host that lives */
    RANK_DEAD,     /* a voter */
    RANK_NEVER,
};

struct zero {
    uint32_t target; /* voters, by the hosts that live */
    uint32_t hosts;  /* not removed */
    uint32_t had;    /* voters, by the rows as they are */
    size_t count;
    struct placement_member *order[LIMIT_MEMBERS]; /* best first; in the end, the voters */
};

static enum rank rank_of(const struct placement_member *m)
{
    bool draining = is_state(m, thole_v1_HOST_STATE_DRAINING);
    if (!m->run) {
        return RANK_NEVER;
    }
    if (m->voting) {
        return m->keep                        ? RANK_FIT
               : is_removed(m) && !is_dead(m) ? RANK_REMOVED
               : is_removed(m)                ? RANK_NEVER
               : is_dead(m)                   ? (draining ? RANK_NEVER : RANK_DEAD)
                                              : RANK_DRAINING;
    }
    if (!m->running || is_removed(m) || is_dead(m) || is_suspect(m)) {
        return RANK_NEVER;
    }
    return is_state(m, thole_v1_HOST_STATE_ACTIVE) ? RANK_NEW
           : draining                              ? RANK_LEAVING
                                                   : RANK_CORDONED;
}

static bool goes_before(const struct placement *p, const struct placement_member *a,
                        const struct placement_member *b)
{
    if (rank_of(a) != rank_of(b)) {
        return rank_of(a) < rank_of(b);
    }
    if (a->leader != b->leader) {
        return a->leader;
    }
    if (a->host != NULL && b->host != NULL && is_suspect(a) != is_suspect(b)) {
        return is_suspect(b);
    }
    return placement__host_load(p, &a->host_id) < placement__host_load(p, &b->host_id);
}

static void order_members(struct placement *p, struct zero *z)
{
    for (size_t i = 0; i < p->member_count; i++) {
        struct placement_member *m = &p->members[i];
        size_t k = z->count;
        if (rank_of(m) == RANK_NEVER) {
            continue;
        }
        for (; k > 0 && goes_before(p, m, z->order[k - 1]); k--) {
            z->order[k] = z->order[k - 1];
        }
        z->order[k] = m;
        z->count++;
    }
}

static void count(const struct placement *p, struct zero *z)
{
    const thole_v1_Host *row = NULL;
    struct slice name = {0};
    uint32_t live = 0;
    while ((row = registry_next_host(p->v, name)) != NULL) {
        name = registry_str(thole_v1_Host_name(row));
        bool removed = placement__host_has_state(row, thole_v1_HOST_STATE_REMOVED);
        z->hosts += !removed;
        live += !removed && !placement__host_is_dead(row);
    }
    z->target = live >= 5 ? 5 : live >= 3 ? 3 : 1;
    for (size_t i = 0; i < p->member_count; i++) {
        const struct placement_member *m = &p->members[i];
        z->had += m->run && m->voting;
    }
}

static bool is_wanted(const struct zero *z, const struct placement_member *m, size_t have)
{
    uint32_t least = z->hosts >= 3 ? 3 : 1;
    uint32_t kept = z->target > least ? z->target : least;
    switch (rank_of(m)) {
    case RANK_FIT:
        return true;
    case RANK_NEW:
        return have < z->target;
    case RANK_DRAINING:
        return have < kept && !CANARY(drain_shrinks_zero);
    case RANK_CORDONED:
    case RANK_LEAVING:
    case RANK_REMOVED: /* two voters tolerate no failure, so they get a third one */
        return have < z->target && (have < z->had || z->had == 2);
    case RANK_DEAD:
        return have < least;
    case RANK_NEVER:
        break;
    }
    return false;
}

static void choose(struct zero *z)
{
    size_t least = z->hosts >= 3 ? 3 : 1;
    size_t n = 0;
    for (size_t i = 0; i < z->count; i++) {
        if (is_wanted(z, z->order[i], n)) {
            z->order[n++] = z->order[i];
        }
    }
    /* One voter less: a newcomer waits, or a voter loses its vote; of three hosts two wait for the
     * third. */
    if (n > 1 && n % 2 == 0 && (!z->order[n - 1]->voting || n > least)) {
        n--;
    }
    z->count = n;
}

static void wait_for(struct placement *p, const char *what)
{
    if (p->appended == 0) {
        p->ret->verdict = PLACEMENT_WAIT;
        snprintf(p->ret->explanation, sizeof p->ret->explanation, "%s", what);
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

static const char *reason_of(const struct placement_member *m)
{
    return is_removed(m)                               ? "its host was removed"
           : placement__host_is_dead(m->host)          ? "its host is dead"
           : is_state(m, thole_v1_HOST_STATE_DRAINING) ? "its host is draining"
                                                       : "an odd number of voters is enough";
}

/* Votes are given before others are taken: the registry keeps one voter at every step. */
static void set_roles(struct placement *p, const struct zero *z)
{
    bool votes[LIMIT_MEMBERS] = {false};
    for (size_t i = 0; i < z->count; i++) {
        struct placement_member *m = z->order[i];
        votes[m - p->members] = true;
        if (!m->voting) {
            placement__set_role(p, m, thole_v1_REPLICA_ROLE_VOTER,
                                z->had < z->count ? "more hosts allow more voters"
                                                  : "it replaces a voter");
        }
    }
    for (size_t i = 0; i < p->member_count; i++) {
        struct placement_member *m = &p->members[i];
        if (m->run && m->voting && !votes[i]) {
            placement__set_role(p, m, thole_v1_REPLICA_ROLE_NON_VOTING, reason_of(m));
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
    order_members(p, &z);
    choose(&z);
    if (z.count == 0) {
        wait_for(p, "no host is ready to vote");
        return;
    }
    set_roles(p, &z);
    size_t live = 0;
    for (size_t i = 0; i < z.count; i++) {
        live += !is_dead(z.order[i]);
    }
    if (live < z.target) {
        wait_for(p, "more voters are wanted, and no other host is ready to vote");
    }
    for (size_t i = 0; i < z.count; i++) {
        if (is_removed(z.order[i])) {
            wait_for(p, "a removed host keeps its vote until another host is ready for it");
        } else if (!z.order[i]->running) {
            wait_for(p, "a vote is being given or taken");
        }
    }
}
