/* Placement of a user's shard. First what is missing is added (existing non-voting replicas are
 * promoted before new ones are made), and only when all that is wanted runs does what is too much
 * leave, one voter at a time. So at every moment all wanted voters that can run, run:
 *
 *   missing voters      promote non-voting ones, else place new ones        all at once
 *   missing non-voting  demote surplus voters, else place new ones
 *   leaving host        (draining, removed, dead, against a constraint) remove, once replaced
 *   surplus             remove: not running, on suspect hosts, on loaded hosts first; leader last
 *
 * Users' replicas count as what they are, and are never touched. */
#include "registry/placement_internal.h"

#include "base/hash.h"

#include <stdio.h>

struct tally {
    uint32_t voters, non_voting; /* wanted to run, on hosts that keep them */
    uint32_t voters_running, non_voting_running;
    uint32_t my_voters;      /* of `voters`: not users' own */
    uint32_t leaving_voters; /* desired REMOVE and not yet out */
    bool waiting;            /* anything that has not arrived where it is wanted */
};

static void tally(const struct placement *p, struct tally *t)
{
    *t = (struct tally){0};
    for (size_t i = 0; i < p->member_count; i++) {
        const struct placement_member *m = &p->members[i];
        bool out = thole_v1_Replica_phase(m->row) == thole_v1_REPLICA_PHASE_OUT;
        if (!m->run) {
            t->leaving_voters += m->voter && !out;
            t->waiting |= !out;
        } else if (m->keep) {
            t->voters += m->voter;
            t->my_voters += m->voter && m->mine;
            t->voters_running += m->voter && m->running;
            t->non_voting += !m->voter;
            t->non_voting_running += !m->voter && m->running;
            t->waiting |= !m->running;
        }
    }
}

/* ---- What is missing ------------------------------------------------------------------------- */

static uint64_t member_hash(const struct placement *p, const struct placement_member *m)
{
    return hash64(m->host_id.bytes, sizeof(m->host_id.bytes), thole_v1_Shard_id(p->shard));
}

static struct placement_member *promotable(struct placement *p)
{
    struct placement_member *best = NULL;
    for (size_t i = 0; i < p->member_count; i++) {
        struct placement_member *m = &p->members[i];
        if (m->run && m->keep && !m->voter && m->running && m->mine &&
            (best == NULL || member_hash(p, m) < member_hash(p, best))) {
            best = m;
        }
    }
    return best;
}

/* Returns how many could not be placed. */
static uint32_t place(struct placement *p, thole_registry_v1_PlaceReplicas **op, uint32_t count,
                      bool voter, const char *reason)
{
    struct placement_host host;
    size_t rows = p->member_count;
    while (count > 0 && rows < LIMIT_MEMBERS && placement__take_host(p, &host)) {
        placement__place(p, op, &host, voter, reason);
        count--;
        rows++;
    }
    return count;
}

static void decide_initial(struct placement *p)
{
    uint32_t voters = thole_v1_ShardSpec_voters(p->spec);
    uint32_t non_voting = thole_v1_ShardSpec_non_voting(p->spec);
    placement__load_hosts(p);
    if (p->host_count < voters) {
        uint32_t missing = voters - (uint32_t)p->host_count;
        p->ret->verdict = PLACEMENT_UNSATISFIABLE;
        placement__explain(p, missing, non_voting);
        return;
    }
    thole_registry_v1_PlaceReplicas *op = NULL;
    place(p, &op, voters, true, "a new shard");
    place(p, &op, non_voting, false, "a new shard"); /* what does not fit is explained next time */
}

/* True if something is missing that cannot be added. */
static bool add_missing(struct placement *p, struct tally *t)
{
    uint32_t voters = thole_v1_ShardSpec_voters(p->spec);
    uint32_t non_voting = thole_v1_ShardSpec_non_voting(p->spec);
    struct placement_member *m;
    while (t->voters < voters && (m = promotable(p)) != NULL) {
        placement__set_role(p, m, true, "a voter is missing");
        t->voters++;
        t->my_voters++;
        t->non_voting--;
    }
    uint32_t missing_voters = voters > t->voters ? voters - t->voters : 0;
    uint32_t missing_others = non_voting > t->non_voting ? non_voting - t->non_voting : 0;
    uint32_t surplus = t->voters > voters ? t->voters - voters : 0;
    surplus = surplus < t->my_voters ? surplus : t->my_voters;
    missing_others -= surplus < missing_others ? surplus : missing_others;
    if (missing_voters + missing_others == 0) {
        return false;
    }
    thole_registry_v1_PlaceReplicas *op = NULL;
    placement__load_hosts(p);
    missing_voters = place(p, &op, missing_voters, true, "a voter is missing");
    missing_others = place(p, &op, missing_others, false, "a non-voting replica is missing");
    if (missing_voters + missing_others == 0) {
        return false;
    }
    placement__explain(p, missing_voters, missing_others);
    return true;
}

/* ---- What is too much ------------------------------------------------------------------------ */

static bool host_suspect(const struct placement_member *m)
{
    return thole_v1_HostStatus_liveness(thole_v1_Host_status(m->host)) ==
           thole_v1_HOST_LIVENESS_SUSPECT;
}

/* Should `a` go rather than `b`? */
static bool goes_first(const struct placement *p, const struct placement_member *a,
                       const struct placement_member *b)
{
    if (a->keep != b->keep) {
        return !a->keep;
    }
    if (a->host_up != b->host_up) {
        return !a->host_up;
    }
    if (a->running != b->running) {
        return !a->running;
    }
    if (a->leader != b->leader) {
        return !a->leader;
    }
    if (a->host != NULL && b->host != NULL && host_suspect(a) != host_suspect(b)) {
        return host_suspect(a);
    }
    uint32_t load_a = placement__host_load(p, &a->host_id);
    uint32_t load_b = placement__host_load(p, &b->host_id);
    return load_a != load_b ? load_a > load_b : member_hash(p, a) > member_hash(p, b);
}

static struct placement_member *pick(struct placement *p, bool voter, bool keep)
{
    struct placement_member *best = NULL;
    for (size_t i = 0; i < p->member_count; i++) {
        struct placement_member *m = &p->members[i];
        if (m->run && m->mine && m->voter == voter && m->keep == keep &&
            (best == NULL || goes_first(p, m, best))) {
            best = m;
        }
    }
    return best;
}

static const char *leaving_reason(const struct placement_member *m)
{
    if (m->host == NULL || placement__host_state_is(m->host, thole_v1_HOST_STATE_REMOVED)) {
        return "its host was removed";
    }
    if (placement__host_dead(m->host)) {
        return "its host is dead";
    }
    if (placement__host_state_is(m->host, thole_v1_HOST_STATE_DRAINING)) {
        return "its host is draining";
    }
    return "its host does not satisfy the constraints";
}

/* One voter at a time, and only when those that stay run. */
static void reduce_voters(struct placement *p, const struct tally *t)
{
    uint32_t voters = thole_v1_ShardSpec_voters(p->spec);
    uint32_t non_voting = thole_v1_ShardSpec_non_voting(p->spec);
    if (t->leaving_voters > 0) {
        return;
    }
    struct placement_member *m = pick(p, true, false);
    if (m != NULL && t->voters >= voters && t->voters_running == t->voters) {
        placement__remove(p, m, leaving_reason(m));
        return;
    }
    m = pick(p, true, true);
    if (m == NULL || t->voters <= voters || t->voters_running - m->running < t->voters - 1 ||
        t->non_voting_running < t->non_voting) {
        return;
    }
    if (t->non_voting < non_voting && m->running) {
        placement__set_role(p, m, false, "there are more voters than wanted");
    } else {
        placement__remove(p, m, "there are more voters than wanted");
    }
}

static void reduce_non_voting(struct placement *p, const struct tally *t)
{
    uint32_t non_voting = thole_v1_ShardSpec_non_voting(p->spec);
    struct placement_member *m;
    while (t->non_voting_running >= non_voting && (m = pick(p, false, false)) != NULL) {
        placement__remove(p, m, leaving_reason(m));
        m->run = false;
    }
    /* Those that stay should be the running ones, which goes_first sees to. */
    for (uint32_t count = t->non_voting; count > non_voting; count--) {
        m = pick(p, false, true);
        if (m == NULL) {
            return;
        }
        placement__remove(p, m, "there are more non-voting replicas than wanted");
        m->run = false;
    }
}

void placement__decide_user(struct placement *p)
{
    size_t initial_count = 0;
    thole_v1_Shard_initial(p->shard, &initial_count);
    if (initial_count == 0) {
        decide_initial(p);
        return;
    }
    const thole_v1_ShardStatus *status = thole_v1_Shard_status(p->shard);
    if (status == NULL || !thole_v1_ShardStatus_formed(status)) {
        p->ret->verdict = PLACEMENT_WAIT;
        snprintf(p->ret->explanation, sizeof(p->ret->explanation), "the shard has not formed yet");
        return;
    }
    struct tally t;
    tally(p, &t);
    bool waiting = t.waiting;
    bool unsatisfiable = add_missing(p, &t);
    if (p->appended == 0) {
        reduce_voters(p, &t);
        reduce_non_voting(p, &t);
    }
    if (p->appended > 0) {
        return;
    }
    p->ret->verdict = unsatisfiable ? PLACEMENT_UNSATISFIABLE
                      : waiting     ? PLACEMENT_WAIT
                                    : PLACEMENT_SETTLED;
    if (waiting && !unsatisfiable) {
        snprintf(p->ret->explanation, sizeof(p->ret->explanation),
                 "replicas are joining or leaving");
    }
}
