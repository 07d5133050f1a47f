/* Who gets a vote and who loses one, in one change: rows and the configuration -> a plan. The core
 * checks it again (raft_change_membership), by the same facts (struct raft_peer_status).
 *
 *   come   learners whose rows say that they vote, and witnesses that are not members yet; ready
 *          when they have caught up (a witness: when its host runs it and is connected)
 *   go     voters whose rows say that they do not vote any more, or not at all; and as many of
 *          those that a newcomer replaces: on a dead or draining host, moved, or too many by the
 *          shard's target
 *
 * When all that come are ready, all of it is one change. Else those who are ready take the places
 * of as many that go, and others of them get their votes only if the number of voters is odd then:
 * three of which one never catches up stay one, five stay three. A voter that goes keeps its vote
 * as long as somebody is to come for it who is not ready. Whoever comes and is dead is not waited
 * for: placement takes its row away and places another one. */
#include "base/canary.h"
#include "hostctl/hostctl_internal.h"

#include <string.h>

struct seat {
    uint64_t replica_id;
    uint8_t op;
    uint8_t host[16];
    bool ready;   /* comes, and may have its vote */
    bool answers; /* goes, but still answers */
    bool spare;   /* loses its vote only if a newcomer replaces it */
};

struct seats {
    struct seat come[LIMIT_MEMBERS], go[LIMIT_MEMBERS];
    uint32_t come_count, ready_count, go_count, spare_count;
    uint32_t voting; /* in the configuration */
    uint32_t wanted; /* voting, in the end */
    bool unknown;    /* the leader is too new to know which voters answer */
};

void hostctl__plan_add(struct vote_plan *plan, uint8_t op, uint64_t replica_id,
                       const uint8_t host[static 16])
{
    if (plan->count < RAFT_CHANGE_ITEMS_MAX) {
        struct raft_change_item *item = &plan->items[plan->count++];
        item->op = op;
        item->replica_id = replica_id;
        memcpy(item->host, host, sizeof item->host);
    }
}

/* ---- Rows ------------------------------------------------------------------------------------ */

static bool wants(const thole_v1_Replica *row, thole_v1_ReplicaRole role)
{
    return row != NULL && thole_v1_Replica_desired(row) == thole_v1_REPLICA_DESIRED_RUN &&
           thole_v1_Replica_role(row) == (int32_t)role;
}

/* A replica that is being moved never gets back the vote that it gave away. */
static bool wants_vote(const thole_v1_Replica *row)
{
    return wants(row, thole_v1_REPLICA_ROLE_VOTER) && thole_v1_Replica_moving_by(row) == 0;
}

/* Do all vote that should? */
static bool wanted_voters_vote(const struct hostctl *h, const struct raft_config *c,
                               uint64_t shard_id)
{
    struct registry_replica_buf replica_buf;
    uint64_t after = 0;
    const thole_v1_Replica *row;
    while ((row = registry_next_replica_of_shard(h->view, shard_id, after, &replica_buf)) != NULL) {
        after = thole_v1_Replica_id(row);
        const struct raft_member *m = raft_config_find(c, after);
        if (wants(row, thole_v1_REPLICA_ROLE_VOTER) && (m == NULL || m->role != RAFT_VOTER)) {
            return false;
        }
    }
    return true;
}

bool hostctl__should_go(const struct hostctl *h, const struct raft_config *c, uint64_t shard_id,
                        uint64_t replica_id)
{
    struct registry_replica_buf replica_buf;
    const thole_v1_Replica *row = registry_replica(h->view, replica_id, &replica_buf);
    if (row == NULL) {
        return replica_id < registry_next_replica_id(h->view) &&
               (!registry_replica_is_lost(h->view, replica_id) ||
                wanted_voters_vote(h, c, shard_id));
    }
    return thole_v1_Replica_desired(row) == thole_v1_REPLICA_DESIRED_REMOVE;
}

/* ---- What the leader knows of members -------------------------------------------------------- */

static struct raft_peer_status peer_of(const struct hostctl *h,
                                       const struct engine_replica_status *local,
                                       uint64_t replica_id)
{
    struct raft_peer_status peer;
    if (replica_id == local->replica_id) {
        return (struct raft_peer_status){.answers = true, .known = true, .caught_up = true};
    }
    if (!engine_shard_peer(h->o.engine, local->shard_id, replica_id, &peer)) {
        peer = (struct raft_peer_status){0};
    }
    return peer;
}

/* ---- Who comes, who goes --------------------------------------------------------------------- */

static void add_coming(struct seats *s, uint8_t op, uint64_t replica_id,
                       const uint8_t host[static 16], bool ready)
{
    struct seat seat = {.replica_id = replica_id, .op = op, .ready = ready};
    ASSERT(s->come_count < LIMIT_MEMBERS && s->ready_count <= s->come_count);
    memcpy(seat.host, host, sizeof seat.host);
    s->come[s->come_count++] = seat;
    if (ready) { /* first in the list */
        s->come[s->come_count - 1] = s->come[s->ready_count];
        s->come[s->ready_count++] = seat;
    }
}

static bool is_among(const uint64_t *ids, size_t count, uint64_t id)
{
    size_t i = 0;
    while (i < count && ids[i] != id) {
        i++;
    }
    return i < count;
}

static void find_witnesses(struct hostctl *h, const struct raft_config *c, uint64_t shard_id,
                           struct seats *s)
{
    struct registry_replica_buf replica_buf;
    uint64_t after = 0;
    const thole_v1_Replica *row;
    while (c->member_count + s->come_count < LIMIT_MEMBERS &&
           (row = registry_next_replica_of_shard(h->view, shard_id, after, &replica_buf)) != NULL) {
        struct uuid host;
        after = thole_v1_Replica_id(row);
        if (wants(row, thole_v1_REPLICA_ROLE_WITNESS) && raft_config_find(c, after) == NULL &&
            !raft_config_is_removed(c, after) &&
            uuid_parse(registry_str(thole_v1_Replica_host_id(row)), &host)) {
            bool runs = thole_v1_Replica_phase(row) == thole_v1_REPLICA_PHASE_JOINING;
            add_coming(s, RAFT_CHANGE_ADD_WITNESS, after, host.bytes,
                       runs && hostctl__host(h, &host)->up);
        }
    }
}

static void find_members(const struct hostctl *h, const struct engine_replica_status *local,
                         const struct raft_config *c, struct seats *s)
{
    struct registry_replica_buf replica_buf;
    struct registry_shard_buf shard_buf;
    const thole_v1_Shard *shard = registry_shard(h->view, local->shard_id, &shard_buf);
    const struct placement_options o = {.unpinned = h->rebalance,
                                        .hold = !hostctl__may_rebalance(h)};
    uint64_t spare[LIMIT_MEMBERS];
    size_t spares = placement_spare_voters(h->view, shard, &o, spare, &s->wanted);
    for (uint32_t i = 0; i < c->member_count; i++) {
        const struct raft_member *m = &c->members[i];
        const thole_v1_Replica *row = registry_replica(h->view, m->replica_id, &replica_buf);
        bool is_spare = is_among(spare, spares, m->replica_id);
        struct raft_peer_status peer = peer_of(h, local, m->replica_id);
        if (m->role == RAFT_LEARNER) {
            if (wants_vote(row) && !is_spare) {
                add_coming(s, RAFT_CHANGE_ADD_VOTER, m->replica_id, m->host,
                           peer.caught_up || CANARY(promoted_unanswered));
            }
            continue;
        }
        bool go = hostctl__should_go(h, c, local->shard_id, m->replica_id);
        bool demote = m->role == RAFT_VOTER && !go && (is_spare || !wants_vote(row)) && row != NULL;
        s->voting++;
        s->unknown |= !peer.known;
        if (go || demote) {
            s->go[s->go_count++] =
                (struct seat){.replica_id = m->replica_id,
                              .op = go ? RAFT_CHANGE_REMOVE : RAFT_CHANGE_DEMOTE,
                              .answers = peer.answers,
                              .spare = demote && !wants(row, thole_v1_REPLICA_ROLE_NON_VOTING)};
            s->spare_count += s->go[s->go_count - 1].spare;
        }
    }
    ASSERT(s->spare_count <= s->go_count && s->go_count <= s->voting);
}

/* Members that are gone lose their vote first, then those that must, and the leader last. */
static uint32_t rank(const struct seat *seat, uint64_t self)
{
    return (seat->replica_id == self ? 4u : 0) + (seat->answers ? 2u : 0) + (seat->spare ? 1u : 0);
}

static void order_going(struct seats *s, uint64_t self)
{
    for (uint32_t i = 1; i < s->go_count; i++) {
        struct seat seat = s->go[i];
        uint32_t k = i;
        for (; k > 0 && rank(&s->go[k - 1], self) > rank(&seat, self); k--) {
            s->go[k] = s->go[k - 1];
        }
        s->go[k] = seat;
    }
}

/* ---- How many -------------------------------------------------------------------------------- */

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint32_t minus(uint32_t a, uint32_t b)
{
    return a > b ? a - b : 0;
}

struct numbers {
    uint32_t come, go;
    uint32_t spare; /* of those that go, at most so many may stay otherwise */
};

static struct numbers choose(const struct seats *s)
{
    uint32_t must_go = s->go_count - s->spare_count;
    uint32_t replaced = min_u32(s->spare_count, minus(s->come_count, must_go));
    uint32_t go = must_go + replaced;
    uint32_t swapped = min_u32(s->ready_count, go);
    bool all = s->ready_count == s->come_count;
    uint32_t more = s->ready_count - swapped;
    uint32_t less = minus(go, s->come_count);
    bool complete = all && s->voting + more == s->wanted;
    if ((s->voting + more) % 2 == 0 && !complete) {
        more = minus(more, 1);
    }
    if ((s->voting - less) % 2 == 0 && !all) {
        less = minus(less, 1);
    }
    struct numbers n = {swapped + more, swapped + less, replaced};
    ASSERT(n.come <= s->ready_count && n.go <= s->go_count && n.spare <= s->spare_count);
    return n;
}

/* Move those that go in this step to the front, in their order. A spare one that nobody replaces
 * keeps its vote, while those that must go lose theirs. */
static void pick_going(struct seats *s, struct numbers n)
{
    struct seat rest[LIMIT_MEMBERS];
    uint32_t picked = 0;
    uint32_t rest_count = 0;
    uint32_t spare = 0;
    for (uint32_t i = 0; i < s->go_count; i++) {
        const struct seat seat = s->go[i];
        if (picked < n.go && (!seat.spare || spare < n.spare)) {
            spare += seat.spare;
            s->go[picked++] = seat;
        } else {
            rest[rest_count++] = seat;
        }
    }
    ASSERT(picked == n.go && picked + rest_count == s->go_count);
    memcpy(s->go + picked, rest, rest_count * sizeof rest[0]);
}

/* Do majorities of the voters before and after the change answer, with all that is committed? One
 * that answers and does not catch up may have a disk that hangs. A witness that is added counts as
 * silent. */
static bool can_commit(const struct hostctl *h, const struct engine_replica_status *local,
                       const struct raft_config *c, const struct seats *s, struct numbers n)
{
    uint32_t now = 0;
    uint32_t then = 0;
    for (uint32_t i = 0; i < c->member_count; i++) {
        const struct raft_member *m = &c->members[i];
        bool goes = false;
        for (uint32_t k = 0; k < n.go; k++) {
            goes |= s->go[k].replica_id == m->replica_id;
        }
        bool follows = m->role != RAFT_LEARNER && peer_of(h, local, m->replica_id).caught_up;
        now += follows;
        then += follows && !goes;
    }
    for (uint32_t k = 0; k < n.come; k++) {
        then += s->come[k].op == RAFT_CHANGE_ADD_VOTER;
    }
    ASSERT(now <= s->voting && then <= now + n.come);
    return now * 2 > s->voting && then * 2 > s->voting + n.come - n.go;
}

/* The voter with the most entries that is not among the first `going` of those that go; 0: none
 * answers. */
static uint64_t find_successor(const struct hostctl *h, const struct engine_replica_status *local,
                               const struct raft_config *c, const struct seats *s, uint32_t going)
{
    uint64_t best = 0;
    uint64_t best_match = 0;
    for (uint32_t i = 0; i < c->member_count; i++) {
        const struct raft_member *m = &c->members[i];
        struct raft_peer_status peer = peer_of(h, local, m->replica_id);
        bool goes = false;
        for (uint32_t k = 0; k < going; k++) {
            goes |= s->go[k].replica_id == m->replica_id;
        }
        if (m->role == RAFT_VOTER && m->replica_id != local->replica_id && !goes && peer.answers &&
            peer.match >= best_match) {
            best = m->replica_id;
            best_match = peer.match;
        }
    }
    return best;
}

/* Rather one that is to stay for good. */
static uint64_t successor(const struct hostctl *h, const struct engine_replica_status *local,
                          const struct raft_config *c, const struct seats *s, uint32_t going)
{
    uint64_t stays = find_successor(h, local, c, s, s->go_count);
    return stays != 0 ? stays : find_successor(h, local, c, s, going);
}

void hostctl__plan_votes(struct hostctl *h, const struct engine_replica_status *local,
                         const struct raft_config *c, struct vote_plan *plan)
{
    struct seats s = {0};
    find_members(h, local, c, &s);
    find_witnesses(h, c, local->shard_id, &s);
    order_going(&s, local->replica_id);
    struct numbers n = choose(&s);
    pick_going(&s, n);
    plan->look_again = s.come_count > 0 || s.go_count > s.spare_count;
    /* A new leader would take a voter's vote that did not answer yet, for one that never will. */
    if (n.go > 0 && s.unknown) {
        return;
    }
    if (n.come + n.go == 0 || n.come + n.go > RAFT_CHANGE_ITEMS_MAX ||
        !can_commit(h, local, c, &s, n)) {
        return;
    }
    ASSERT(s.voting + n.come > n.go); /* somebody votes afterwards */
    plan->self_leaves = n.go > 0 && s.go[n.go - 1].replica_id == local->replica_id;
    plan->successor = plan->self_leaves ? successor(h, local, c, &s, n.go) : 0;
    if (plan->self_leaves && plan->successor == 0 && n.come == 0) {
        return; /* no successor: the leader keeps its vote until another voter answers */
    }
    for (uint32_t i = 0; i < n.come; i++) {
        hostctl__plan_add(plan, s.come[i].op, s.come[i].replica_id, s.come[i].host);
    }
    for (uint32_t i = 0; i < n.go; i++) {
        hostctl__plan_add(plan, s.go[i].op, s.go[i].replica_id, s.go[i].host);
    }
}
