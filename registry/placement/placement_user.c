/* Placement of a user's shard: one step towards its target. First what is missing is added
 * (existing replicas change their role before new ones are made), and only when all of the target
 * that votes runs does what is too much leave. So at every moment all wanted voters that can run,
 * run. The votes themselves are given and taken by the membership controller (hostctl/votes.c),
 * which lets a newcomer take the vote of one that is too many by the same target:
 *
 *   missing voters      promote non-voting ones, else place new ones        all at once
 *   missing others      place new ones; demote surplus voters
 *   leaving host        (draining, removed, dead, against a constraint) remove, once replaced
 *   a better spread     one replica at a time, when nothing else is to be done
 *   surplus             remove: all of them at once
 *
 * Users' replicas count as what they are, and are not touched while their hosts stay. */
#include "registry/placement/placement_internal.h"

#include <stdio.h>

/* ---- What is missing ------------------------------------------------------------------------- */

struct adding {
    struct placement *p;
    thole_registry_v1_PlaceReplicas *op;
    size_t rows;
};

static const char *missing_reason(int32_t role)
{
    return role == thole_v1_REPLICA_ROLE_VOTER     ? "a voter is missing"
           : role == thole_v1_REPLICA_ROLE_WITNESS ? "a witness is missing"
                                                   : "a non-voting replica is missing";
}

/* Place at most `count` of what the target has of the class. Returns how many were placed. */
static uint32_t place(struct adding *a, int class, uint32_t count, const char *reason)
{
    struct placement *p = a->p;
    int32_t role = class == CLASS_COVER ? thole_v1_REPLICA_ROLE_NON_VOTING : p->classes[class].role;
    uint32_t placed = 0;
    for (size_t i = 0; i < p->host_count && placed < count && a->rows < LIMIT_MEMBERS; i++) {
        struct placement_host *h = &p->hosts[i];
        if (h->member < 0 && h->target == class) {
            placement__place(p, &a->op, h->row, role, reason);
            a->rows++;
            placed++;
        }
    }
    return placed;
}

static uint32_t new_in_target(const struct placement *p, int class)
{
    uint32_t count = 0;
    for (size_t i = 0; i < p->host_count; i++) {
        count += p->hosts[i].member < 0 && p->hosts[i].target == class;
    }
    return count;
}

/* Replicas of the class's role on hosts that keep them, users' own too. */
static uint32_t members_that_fit(const struct placement *p, size_t class)
{
    uint32_t count = 0;
    for (size_t i = 0; i < p->member_count; i++) {
        const struct placement_member *m = &p->members[i];
        /* A replica in another group's slot does not count here. */
        bool free = m->target == CLASS_NONE || m->target == CLASS_COVER ||
                    m->target == (int)class || class <= CLASS_WITNESSES;
        count += m->role == p->classes[class].role && free && placement__member_fits(p, m, class);
    }
    return count;
}

static uint32_t promote(struct placement *p, uint32_t count)
{
    uint32_t done = 0;
    for (size_t i = 0; i < p->member_count && done < count; i++) {
        struct placement_member *m = &p->members[i];
        if (m->target == CLASS_VOTERS && m->role == thole_v1_REPLICA_ROLE_NON_VOTING && m->mine) {
            placement__set_role(p, m, thole_v1_REPLICA_ROLE_VOTER, "a voter is missing");
            done++;
        }
    }
    return done;
}

/* Voters that the target makes non-voting, in slots that nobody has yet. */
static uint32_t demotions(const struct placement *p, size_t class)
{
    uint32_t count = 0;
    for (size_t i = 0; i < p->member_count; i++) {
        const struct placement_member *m = &p->members[i];
        count += m->role == thole_v1_REPLICA_ROLE_VOTER && m->target == (int)class;
    }
    return count;
}

static void add_missing(struct adding *a)
{
    struct placement *p = a->p;
    for (size_t c = 0; c < p->class_count; c++) {
        uint32_t have = members_that_fit(p, c) + (c > CLASS_WITNESSES ? demotions(p, c) : 0);
        uint32_t missing = p->classes[c].wanted > have ? p->classes[c].wanted - have : 0;
        if (c == CLASS_VOTERS) {
            missing -= promote(p, missing);
        }
        place(a, (int)c, missing, missing_reason(p->classes[c].role));
    }
    place(a, CLASS_COVER, UINT32_MAX, "every matching host has a replica");
}

/* Is there a slot that should be on another host? */
static bool wants_better_spread(const struct placement *p)
{
    bool better = false;
    for (size_t c = 0; c < p->class_count; c++) {
        better |= new_in_target(p, (int)c) > 0;
    }
    for (size_t i = 0; i < p->member_count; i++) {
        const struct placement_member *m = &p->members[i];
        better |= m->target == CLASS_VOTERS && m->role == thole_v1_REPLICA_ROLE_NON_VOTING;
    }
    return better;
}

static void improve(struct adding *a)
{
    struct placement *p = a->p;
    if (promote(p, 1) > 0) {
        return;
    }
    for (size_t c = 0; c < p->class_count; c++) {
        if (place(a, (int)c, 1, "a better spread") > 0) {
            return;
        }
    }
}

/* ---- What is too much ------------------------------------------------------------------------ */

static bool target_votes(const struct placement_member *m)
{
    return m->target == CLASS_VOTERS || m->target == CLASS_WITNESSES;
}

static const char *leaving_reason(const struct placement_member *m, bool surplus)
{
    if (m->host == NULL || placement__host_has_state(m->host, thole_v1_HOST_STATE_REMOVED)) {
        return "its host was removed";
    }
    if (placement__host_is_dead(m->host)) {
        return "its host is dead";
    }
    if (placement__host_has_state(m->host, thole_v1_HOST_STATE_DRAINING)) {
        return "its host is draining";
    }
    if (m->moving) {
        return "it was moved to another host";
    }
    if (!m->keep) {
        return "its host does not satisfy the constraints";
    }
    return surplus ? "there are more than wanted" : "another host has its place";
}

/* A voting replica that the target has no place for. */
static bool is_surplus(const struct placement_member *m)
{
    return m->run && m->voting && m->mine && !target_votes(m);
}

/* The replica was placed and never got its vote: removing it loses nothing. */
static bool is_unfinished(const struct placement_member *m)
{
    return !m->running && !m->failed;
}

static void take_vote(struct placement *p, struct placement_member *m)
{
    if (m->target != CLASS_NONE) {
        placement__set_role(p, m, thole_v1_REPLICA_ROLE_NON_VOTING,
                            "there are more voters than wanted");
    } else {
        placement__remove(p, m, leaving_reason(m, true));
    }
}

struct voting {
    uint32_t wanted, in_place;        /* by the target */
    uint32_t surplus, stay, stay_run; /* voting replicas; of those that stay, how many run */
    bool leaving;                     /* another voter is being removed */
};

static struct voting count_voting(const struct placement *p)
{
    struct voting v = {.wanted =
                           p->classes[CLASS_VOTERS].wanted + p->classes[CLASS_WITNESSES].wanted};
    for (size_t i = 0; i < p->member_count; i++) {
        const struct placement_member *m = &p->members[i];
        if (!m->voting) {
            continue;
        }
        v.leaving |= !m->run && !m->out;
        v.in_place += m->run && target_votes(m) && m->running;
        v.surplus += is_surplus(m);
        v.stay += m->run && !is_surplus(m);
        v.stay_run += m->run && !is_surplus(m) && m->running && m->host_up;
    }
    return v;
}

/* The replica's host is dead, and an operator has said that it will not come back. */
static bool is_given_up(const struct placement_member *m)
{
    return m->host == NULL || placement__host_has_state(m->host, thole_v1_HOST_STATE_REMOVED) ||
           (placement__host_is_dead(m->host) &&
            placement__host_has_state(m->host, thole_v1_HOST_STATE_DRAINING));
}

/* Remove all surplus votes at once, so that the group does not pass through an even number of
 * voters. All wanted voters must vote, and most of them run. A replica that never got its vote is
 * removed in any case. So is one on a host that is given up, while another voter is being removed:
 * without its answers, that other voter might never be able to leave. False: surplus voters have
 * to stay for now. */
static bool reduce_voting(struct placement *p)
{
    struct voting v = count_voting(p);
    bool rest_runs = v.stay_run * 2 > v.stay;
    bool all = !v.leaving && v.in_place >= v.wanted && rest_runs;
    for (size_t i = 0; i < p->member_count; i++) {
        struct placement_member *m = &p->members[i];
        if (is_surplus(m) &&
            (all || is_unfinished(m) || (v.leaving && rest_runs && is_given_up(m)))) {
            take_vote(p, m);
            v.surplus--;
        }
    }
    return v.surplus == 0;
}

size_t placement_spare_voters(const struct registry_view *v, const thole_v1_Shard *shard,
                              const struct placement_options *o, uint64_t ret[static LIMIT_MEMBERS],
                              uint32_t *ret_wanted)
{
    struct placement_result result;
    struct placement p = {
        .v = v, .shard = shard, .spec = thole_v1_Shard_spec(shard), .o = o, .ret = &result};
    size_t count = 0;
    uint32_t voting = 0;
    uint32_t users = 0;
    bool zero = thole_v1_Shard_id(shard) == REGISTRY_SHARD_ID;
    placement__load_members(&p);
    if (!zero) {
        placement__load_hosts(&p);
        placement__target(&p, o->hold);
    }
    for (size_t i = 0; i < p.member_count; i++) {
        const struct placement_member *m = &p.members[i];
        bool votes = m->run && m->voting;
        voting += votes;
        users += votes && !m->mine;
        if (votes && !zero && m->mine && !target_votes(m)) {
            ret[count++] = m->id;
        }
    }
    uint32_t wanted = thole_v1_ShardSpec_voters(p.spec) + thole_v1_ShardSpec_witnesses(p.spec);
    *ret_wanted = zero ? voting : wanted > users ? wanted : users;
    return count;
}

/* Does the member still stand in for a slot that has no running replica? */
static bool is_needed(const struct placement *p, const struct placement_member *m)
{
    for (size_t c = CLASS_WITNESSES + 1; c < p->class_count; c++) {
        uint32_t running = 0;
        for (size_t i = 0; i < p->member_count; i++) {
            const struct placement_member *other = &p->members[i];
            running += other->target == (int)c && other->running &&
                       other->role == thole_v1_REPLICA_ROLE_NON_VOTING;
        }
        bool could = m->host_index >= 0 && (p->hosts[m->host_index].matches >> c & 1) != 0;
        if (could && running < p->classes[c].wanted) {
            return true;
        }
    }
    return false;
}

static void reduce_non_voting(struct placement *p)
{
    for (size_t i = 0; i < p->member_count; i++) {
        struct placement_member *m = &p->members[i];
        if (m->run && m->mine && !m->voting && m->target == CLASS_NONE &&
            (!is_needed(p, m) || m->failed)) {
            placement__remove(p, m, leaving_reason(m, true));
        }
    }
}

/* ---- The decision ---------------------------------------------------------------------------- */

static bool is_unmet(const struct placement *p)
{
    bool unmet = p->cover_unmet > 0;
    for (size_t c = 0; c < p->class_count; c++) {
        unmet |= p->classes[c].unmet > 0;
    }
    return unmet;
}

static void say(struct placement *p, enum placement_verdict verdict, const char *why)
{
    p->ret->verdict = verdict;
    snprintf(p->ret->explanation, sizeof p->ret->explanation, "%s", why);
}

static void decide_initial(struct placement *p)
{
    struct adding a = {.p = p};
    placement__target(p, false);
    if (p->classes[CLASS_VOTERS].unmet > 0) {
        p->ret->verdict = PLACEMENT_UNSATISFIABLE;
        placement__explain(p);
        return;
    }
    for (size_t c = 0; c < p->class_count; c++) { /* the next decision explains what does not fit */
        place(&a, (int)c, UINT32_MAX, "a new shard");
    }
    place(&a, CLASS_COVER, UINT32_MAX, "a new shard");
}

/* Is a replica not yet in its wanted place or role? */
static bool is_waiting(const struct placement *p)
{
    bool waiting = false;
    for (size_t i = 0; i < p->member_count; i++) {
        const struct placement_member *m = &p->members[i];
        bool out = m->out;
        waiting |= m->run ? m->keep && !m->running : !out;
    }
    return waiting;
}

void placement__decide_user(struct placement *p)
{
    const thole_v1_ShardStatus *status = thole_v1_Shard_status(p->shard);
    struct adding a = {.p = p, .rows = p->member_count};
    bool hold = p->o != NULL && p->o->hold;
    size_t initial_count = 0;
    thole_v1_Shard_initial(p->shard, &initial_count);
    if (initial_count == 0) {
        decide_initial(p);
        return;
    }
    if (status == NULL || !thole_v1_ShardStatus_formed(status)) {
        say(p, PLACEMENT_WAIT, "the shard has not formed yet");
        return;
    }
    bool waiting = is_waiting(p);
    bool stuck = false;
    if (hold) {
        placement__target(p, false);
        p->ret->unbalanced = wants_better_spread(p);
    }
    placement__target(p, hold);
    add_missing(&a);
    if (p->appended == 0) {
        stuck = !reduce_voting(p);
        reduce_non_voting(p);
        p->ret->unbalanced |= wants_better_spread(p);
    }
    if (p->appended == 0 && !waiting && wants_better_spread(p)) {
        improve(&a);
    }
    if (p->appended > 0) {
        return;
    }
    if (is_unmet(p)) {
        p->ret->verdict = PLACEMENT_UNSATISFIABLE;
        placement__explain(p);
    } else if (waiting) {
        say(p, PLACEMENT_WAIT, "replicas are joining or leaving");
    } else if (stuck) {
        say(p, PLACEMENT_WAIT,
            "voting replicas are too many, and can only leave when a majority of the others runs");
    }
}
