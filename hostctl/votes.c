/* Plans which replicas of a shard gain a vote and which lose one, all in one change, from rows and
 * the configuration. The core checks the plan again (raft_change_membership), by the same facts
 * (struct raft_peer_status).
 *
 *   incoming   learners whose row says that they vote, and witnesses that are not members yet.
 *              Ready when they have caught up; a witness when its host runs it and is connected.
 *   outgoing   voters whose row says that they do not vote any more, or that have no row. Also
 *              voters that an incoming one replaces: on a dead or draining host, being moved, or
 *              above the shard's target. Those are `spare`.
 *
 * If all incoming replicas are ready, one change takes all of them. Otherwise each ready one takes
 * the place of an outgoing voter. Further ready ones get a vote only if the number of voters is
 * then odd: if one of three never catches up, one voter stays one, and five stay three. A voter
 * that must leave keeps its vote until its replacement is ready. A dead incoming replica delays
 * nothing: placement removes its row and places another replica. */
#include "base/canary.h"
#include "hostctl/hostctl_internal.h"

#include <string.h>

struct vote {
    uint64_t replica_id;
    uint8_t op;
    uint8_t host[16];
    bool ready;   /* incoming, and may have its vote */
    bool answers; /* outgoing, but still answers */
    bool spare;   /* loses its vote only if an incoming replica replaces it */
};

struct votes {
    struct vote incoming[LIMIT_MEMBERS], outgoing[LIMIT_MEMBERS];
    uint32_t incoming_count, ready_count, outgoing_count, spare_count;
    uint32_t voting; /* voters and witnesses of the configuration */
    uint32_t wanted; /* the same, when all changes are done */
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

/* Does every replica vote whose row says so? */
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

/* ---- Progress of members, as the leader knows it --------------------------------------------- */

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

/* ---- Incoming and outgoing voters ------------------------------------------------------------ */

static void add_incoming(struct votes *s, uint8_t op, uint64_t replica_id,
                         const uint8_t host[static 16], bool ready)
{
    struct vote vote = {.replica_id = replica_id, .op = op, .ready = ready};
    ASSERT(s->incoming_count < LIMIT_MEMBERS && s->ready_count <= s->incoming_count);
    memcpy(vote.host, host, sizeof vote.host);
    s->incoming[s->incoming_count++] = vote;
    if (ready) { /* the list begins with the ready ones */
        s->incoming[s->incoming_count - 1] = s->incoming[s->ready_count];
        s->incoming[s->ready_count++] = vote;
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
                           struct votes *s)
{
    struct registry_replica_buf replica_buf;
    uint64_t after = 0;
    const thole_v1_Replica *row;
    while (c->member_count + s->incoming_count < LIMIT_MEMBERS &&
           (row = registry_next_replica_of_shard(h->view, shard_id, after, &replica_buf)) != NULL) {
        struct uuid host;
        after = thole_v1_Replica_id(row);
        if (wants(row, thole_v1_REPLICA_ROLE_WITNESS) && raft_config_find(c, after) == NULL &&
            !raft_config_is_removed(c, after) &&
            uuid_parse(registry_str(thole_v1_Replica_host_id(row)), &host)) {
            bool runs = thole_v1_Replica_phase(row) == thole_v1_REPLICA_PHASE_JOINING;
            add_incoming(s, RAFT_CHANGE_ADD_WITNESS, after, host.bytes,
                         runs && hostctl__host(h, &host)->up);
        }
    }
}

static void find_members(const struct hostctl *h, const struct engine_replica_status *local,
                         const struct raft_config *c, struct votes *s)
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
                add_incoming(s, RAFT_CHANGE_ADD_VOTER, m->replica_id, m->host,
                             peer.caught_up || CANARY(promoted_unanswered));
            }
            continue;
        }
        bool remove = hostctl__should_go(h, c, local->shard_id, m->replica_id);
        bool demote =
            m->role == RAFT_VOTER && !remove && (is_spare || !wants_vote(row)) && row != NULL;
        s->voting++;
        s->unknown |= !peer.known;
        if (remove || demote) {
            s->outgoing[s->outgoing_count++] =
                (struct vote){.replica_id = m->replica_id,
                              .op = remove ? RAFT_CHANGE_REMOVE : RAFT_CHANGE_DEMOTE,
                              .answers = peer.answers,
                              .spare = demote && !wants(row, thole_v1_REPLICA_ROLE_NON_VOTING)};
            s->spare_count += s->outgoing[s->outgoing_count - 1].spare;
        }
    }
    ASSERT(s->spare_count <= s->outgoing_count && s->outgoing_count <= s->voting);
}

/* The order in which votes are lost: replicas that do not answer, then those that must leave, then
 * spare ones, and the leader last. */
static uint32_t rank(const struct vote *vote, uint64_t self)
{
    return (vote->replica_id == self ? 4u : 0) + (vote->answers ? 2u : 0) + (vote->spare ? 1u : 0);
}

static void order_outgoing(struct votes *s, uint64_t self)
{
    for (uint32_t i = 1; i < s->outgoing_count; i++) {
        struct vote vote = s->outgoing[i];
        uint32_t k = i;
        for (; k > 0 && rank(&s->outgoing[k - 1], self) > rank(&vote, self); k--) {
            s->outgoing[k] = s->outgoing[k - 1];
        }
        s->outgoing[k] = vote;
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
    uint32_t incoming, outgoing;
    uint32_t spare; /* how many of the outgoing may be spare voters */
};

static struct numbers choose(const struct votes *s)
{
    uint32_t must_leave = s->outgoing_count - s->spare_count;
    uint32_t replaced = min_u32(s->spare_count, minus(s->incoming_count, must_leave));
    uint32_t outgoing = must_leave + replaced;
    uint32_t swapped = min_u32(s->ready_count, outgoing);
    bool all = s->ready_count == s->incoming_count;
    uint32_t more = s->ready_count - swapped;
    uint32_t less = minus(outgoing, s->incoming_count);
    bool complete = all && s->voting + more == s->wanted;
    if ((s->voting + more) % 2 == 0 && !complete) {
        more = minus(more, 1);
    }
    if ((s->voting - less) % 2 == 0 && !all) {
        less = minus(less, 1);
    }
    struct numbers n = {swapped + more, swapped + less, replaced};
    ASSERT(n.incoming <= s->ready_count && n.outgoing <= s->outgoing_count &&
           n.spare <= s->spare_count);
    return n;
}

/* Move the voters that leave in this step to the front and keep their order. A spare voter without
 * a replacement keeps its vote. */
static void pick_outgoing(struct votes *s, struct numbers n)
{
    struct vote rest[LIMIT_MEMBERS];
    uint32_t picked = 0;
    uint32_t rest_count = 0;
    uint32_t spare = 0;
    for (uint32_t i = 0; i < s->outgoing_count; i++) {
        const struct vote vote = s->outgoing[i];
        if (picked < n.outgoing && (!vote.spare || spare < n.spare)) {
            spare += vote.spare;
            s->outgoing[picked++] = vote;
        } else {
            rest[rest_count++] = vote;
        }
    }
    ASSERT(picked == n.outgoing && picked + rest_count == s->outgoing_count);
    memcpy(s->outgoing + picked, rest, rest_count * sizeof rest[0]);
}

/* Does a majority of the voters before the change, and of those after it, hold everything that is
 * committed? Answering is not enough: the disk of a voter that answers may hang. An added witness
 * counts as silent. */
static bool can_commit(const struct hostctl *h, const struct engine_replica_status *local,
                       const struct raft_config *c, const struct votes *s, struct numbers n)
{
    uint32_t now = 0;
    uint32_t then = 0;
    for (uint32_t i = 0; i < c->member_count; i++) {
        const struct raft_member *m = &c->members[i];
        bool leaves = false;
        for (uint32_t k = 0; k < n.outgoing; k++) {
            leaves |= s->outgoing[k].replica_id == m->replica_id;
        }
        bool follows = m->role != RAFT_LEARNER && peer_of(h, local, m->replica_id).caught_up;
        now += follows;
        then += follows && !leaves;
    }
    for (uint32_t k = 0; k < n.incoming; k++) {
        then += s->incoming[k].op == RAFT_CHANGE_ADD_VOTER;
    }
    ASSERT(now <= s->voting && then <= now + n.incoming);
    return now * 2 > s->voting && then * 2 > s->voting + n.incoming - n.outgoing;
}

/* The voter with the longest log that answers and is not among the first `count` outgoing ones; 0:
 * there is none. */
static uint64_t find_successor(const struct hostctl *h, const struct engine_replica_status *local,
                               const struct raft_config *c, const struct votes *s, uint32_t count)
{
    uint64_t best = 0;
    uint64_t best_match = 0;
    for (uint32_t i = 0; i < c->member_count; i++) {
        const struct raft_member *m = &c->members[i];
        struct raft_peer_status peer = peer_of(h, local, m->replica_id);
        bool leaves = false;
        for (uint32_t k = 0; k < count; k++) {
            leaves |= s->outgoing[k].replica_id == m->replica_id;
        }
        if (m->role == RAFT_VOTER && m->replica_id != local->replica_id && !leaves &&
            peer.answers && peer.match >= best_match) {
            best = m->replica_id;
            best_match = peer.match;
        }
    }
    return best;
}

/* Prefers a voter that stays for good over one that leaves in a later step. */
static uint64_t successor(const struct hostctl *h, const struct engine_replica_status *local,
                          const struct raft_config *c, const struct votes *s, uint32_t count)
{
    uint64_t stays = find_successor(h, local, c, s, s->outgoing_count);
    return stays != 0 ? stays : find_successor(h, local, c, s, count);
}

void hostctl__plan_votes(struct hostctl *h, const struct engine_replica_status *local,
                         const struct raft_config *c, struct vote_plan *plan)
{
    struct votes s = {0};
    find_members(h, local, c, &s);
    find_witnesses(h, c, local->shard_id, &s);
    order_outgoing(&s, local->replica_id);
    struct numbers n = choose(&s);
    pick_outgoing(&s, n);
    plan->look_again = s.incoming_count > 0 || s.outgoing_count > s.spare_count;
    /* A new leader does not know yet which voters answer, and would remove a healthy voter in
     * favour of an incoming replica that may fail. */
    if (n.outgoing > 0 && s.unknown) {
        return;
    }
    if (n.incoming + n.outgoing == 0 || n.incoming + n.outgoing > RAFT_CHANGE_ITEMS_MAX ||
        !can_commit(h, local, c, &s, n)) {
        return;
    }
    ASSERT(s.voting + n.incoming > n.outgoing); /* at least one vote remains */
    plan->self_leaves =
        n.outgoing > 0 && s.outgoing[n.outgoing - 1].replica_id == local->replica_id;
    plan->successor = plan->self_leaves ? successor(h, local, c, &s, n.outgoing) : 0;
    if (plan->self_leaves && plan->successor == 0 && n.incoming == 0) {
        return; /* no successor: the leader keeps its vote until another voter answers */
    }
    for (uint32_t i = 0; i < n.incoming; i++) {
        hostctl__plan_add(plan, s.incoming[i].op, s.incoming[i].replica_id, s.incoming[i].host);
    }
    for (uint32_t i = 0; i < n.outgoing; i++) {
        hostctl__plan_add(plan, s.outgoing[i].op, s.outgoing[i].replica_id, s.outgoing[i].host);
    }
}
