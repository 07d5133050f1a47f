/* The invariants, checked after every turn of a loop and for every frame that leaves a host. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "shards/engine/frame_codec.h"
#include "shards/sim/sim_internal.h"

#define FAIL(s, m, format, ...)                                                     \
    sim__fail(s, "shard %" PRIu64 ", replica %" PRIu64 ": " format, (m)->shard->id, \
              (m)->replica_id, __VA_ARGS__)

/* ---- Quorums --------------------------------------------------------------------------------- */

static bool votes_in(const struct raft_member *m, bool outgoing)
{
    uint8_t role = outgoing ? m->outgoing_role : m->role;
    return role == RAFT_VOTER || role == RAFT_WITNESS;
}

/* Voters of one half as a set over positions in a list of ids. */
static uint32_t voters_of(const struct raft_config *c, bool outgoing, uint64_t *ids, size_t *n)
{
    uint32_t set = 0;
    for (uint32_t i = 0; i < c->member_count; i++) {
        if (!votes_in(&c->members[i], outgoing)) {
            continue;
        }
        size_t at = 0;
        while (at < *n && ids[at] != c->members[i].replica_id) {
            at++;
        }
        ASSERT(at < 32);
        if (at == *n) {
            ids[(*n)++] = c->members[i].replica_id;
        }
        set |= 1u << at;
    }
    return set;
}

static bool is_quorum(uint32_t set, uint32_t voters, uint32_t outgoing)
{
    if (2 * __builtin_popcount(set & voters) <= __builtin_popcount(voters)) {
        return false;
    }
    return outgoing == 0 || 2 * __builtin_popcount(set & outgoing) > __builtin_popcount(outgoing);
}

static void check_adjacent(struct sim *s, struct shard *shard, const struct shadow_config *a,
                           const struct shadow_config *b)
{
    if (a->config.epoch != b->config.epoch) {
        return; /* raft_force gives up on purpose that quorums meet */
    }
    uint64_t ids[32];
    size_t n = 0;
    uint32_t in_a = voters_of(&a->config, false, ids, &n);
    uint32_t out_a = a->config.joint ? voters_of(&a->config, true, ids, &n) : 0;
    uint32_t in_b = voters_of(&b->config, false, ids, &n);
    uint32_t out_b = b->config.joint ? voters_of(&b->config, true, ids, &n) : 0;
    if (n > 12) {
        return; /* too many to enumerate; does not happen with five hosts */
    }
    uint32_t all = (1u << n) - 1;
    for (uint32_t q = 0; q <= all; q++) {
        if (is_quorum(q, in_a, out_a) && is_quorum(all & ~q, in_b, out_b)) {
            sim__fail(s,
                      "shard %" PRIu64 ": quorums of the configurations at %" PRIu64 " and %" PRIu64
                      " need not meet",
                      shard->id, a->index, b->index);
            return;
        }
    }
}

/* The configuration that an index makes is the same for all, and one step from its neighbours. */
void sim__check_config(struct sim *s, struct shard *shard, uint64_t index,
                       const struct raft_config *c)
{
    size_t at = shard->config_count;
    while (at > 0 && shard->configs[at - 1].index > index) {
        at--;
    }
    if (at > 0 && shard->configs[at - 1].index == index) {
        if (!raft_config_equal(&shard->configs[at - 1].config, c)) {
            sim__fail(s, "shard %" PRIu64 ": two configurations at %" PRIu64, shard->id, index);
        }
        return;
    }
    shard->configs = xrealloc(shard->configs, (shard->config_count + 1) * sizeof shard->configs[0]);
    memmove(shard->configs + at + 1, shard->configs + at,
            (shard->config_count - at) * sizeof shard->configs[0]);
    shard->config_count++;
    shard->configs[at] = (struct shadow_config){.index = index};
    raft_config_copy(&shard->configs[at].config, c);
    if (at > 0) {
        check_adjacent(s, shard, &shard->configs[at - 1], &shard->configs[at]);
    }
    if (at + 1 < shard->config_count) {
        check_adjacent(s, shard, &shard->configs[at], &shard->configs[at + 1]);
    }
}

static bool on_disk(struct sim *s, uint64_t replica_id, uint64_t index, uint64_t term)
{
    const struct member *m = sim__shadow_member(s, replica_id);
    uint64_t found;
    /* The acknowledgement of a lost host may still arrive, and was true when it was sent. */
    if (m == NULL || (m->gone && !m->wiped)) {
        return false;
    }
    return index < m->start || (sim__member_term_at(m, index, &found) && found == term);
}

/* Is the entry on the disks of a quorum of `c`? */
static bool quorum_has(struct sim *s, const struct raft_config *c, uint64_t index, uint64_t term)
{
    for (int outgoing = 0; outgoing <= (c->joint ? 1 : 0); outgoing++) {
        int voters = 0, have = 0;
        for (uint32_t i = 0; i < c->member_count; i++) {
            if (!votes_in(&c->members[i], outgoing != 0)) {
                continue;
            }
            voters++;
            have += on_disk(s, c->members[i].replica_id, index, term);
        }
        if (2 * have <= voters) {
            return false;
        }
    }
    return true;
}

/* Do a quorum's disks hold the vote? Voters may have moved on to a later term meanwhile. */
static bool quorum_voted(struct sim *s, const struct raft_config *c, const struct member *leader,
                         uint64_t term)
{
    for (int outgoing = 0; outgoing <= (c->joint ? 1 : 0); outgoing++) {
        int voters = 0, have = 0;
        for (uint32_t i = 0; i < c->member_count; i++) {
            if (!votes_in(&c->members[i], outgoing != 0)) {
                continue;
            }
            const struct member *m = sim__shadow_member(s, c->members[i].replica_id);
            voters++;
            have += m != NULL && (m->hard.term > term ||
                                  (m->hard.term == term && m->hard.vote == leader->replica_id));
        }
        if (2 * have <= voters) {
            return false;
        }
    }
    return true;
}

/* ---- Roles, terms, commits ------------------------------------------------------------------- */

static void check_leader(struct sim *s, struct member *m, struct replica *r)
{
    const struct raft_status status = sim_status(r), *now = &status;
    struct shard *shard = m->shard;
    struct member *other = map_put(&shard->leaders, now->term, m);
    s->report->elections++;
    if (other != NULL && other != m) {
        FAIL(s, m, "leads term %" PRIu64 ", which replica %" PRIu64 " leads", now->term,
             other->replica_id);
    }
    if (!quorum_voted(s, &m->config, m, now->term) &&
        !quorum_voted(s, raft_config(r->core), m, now->term)) {
        FAIL(s, m, "leads term %" PRIu64 " without the votes of a quorum", now->term);
    }
    /* Leader completeness: entries committed in earlier terms. `commit_in` never decreases. */
    uint64_t low = 0, high = shard->committed;
    while (low < high) {
        uint64_t middle = (low + high + 1) / 2;
        if (shard->slots[middle].commit_in < now->term) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    uint64_t term = 0;
    if (low > 0 && low >= now->first_index - 1 &&
        (!raft_term_at(r->core, low, &term) || term != shard->slots[low].committed_term)) {
        FAIL(s, m, "leads term %" PRIu64 " without committed entry %" PRIu64 " of term %" PRIu64,
             now->term, low, shard->slots[low].committed_term);
    }
}

static void first_commit(struct sim *s, struct member *m, struct replica *r, uint64_t index,
                         uint64_t term)
{
    struct shard *shard = m->shard;
    struct shadow_slot *slot = sim__shadow_slot(shard, index);
    if (index != shard->committed + 1) {
        FAIL(s, m, "commits %" PRIu64 ", the shard is at %" PRIu64, index, shard->committed);
        return;
    }
    slot->committed_term = term;
    slot->commit_in = sim_status(r).term;
    if (index > 1 && shard->slots[index - 1].commit_in > slot->commit_in) {
        slot->commit_in = shard->slots[index - 1].commit_in;
    }
    shard->committed = index;
    if (index < sim_status(r).commit) {
        return; /* checked with the last one */
    }
    const struct raft_config *before = &m->config;
    /* It may commit and step down in one turn. */
    if (sim_status(r).role != RAFT_LEADER && m->status.role != RAFT_LEADER) {
        FAIL(s, m, "is the first to commit %" PRIu64 " and does not lead", index);
    } else if (!quorum_has(s, raft_config(r->core), index, term) &&
               !quorum_has(s, before, index, term)) {
        FAIL(s, m, "commits %" PRIu64 " of term %" PRIu64 ", which no quorum has on disk", index,
             term);
    }
}

static void check_commits(struct sim *s, struct member *m, struct replica *r, uint64_t from)
{
    struct shard *shard = m->shard;
    for (uint64_t i = from + 1; i <= sim_status(r).commit && !s->report->failed; i++) {
        uint64_t term;
        if (!raft_term_at(r->core, i, &term)) {
            continue; /* below a snapshot, which is checked by its state */
        }
        const struct shadow_slot *slot = sim__shadow_slot(shard, i);
        if (slot->committed_term == 0) {
            first_commit(s, m, r, i, term);
        } else if (slot->committed_term != term) {
            FAIL(s, m, "commits %" PRIu64 " of term %" PRIu64 ", committed was term %" PRIu64, i,
                 term, slot->committed_term);
        }
    }
}

static void check_peers(struct sim *s, struct member *m, struct replica *r)
{
    const struct raft_config *c = raft_config(r->core);
    for (uint32_t i = 0; i < c->member_count; i++) {
        struct raft_peer_status p;
        const struct member *peer = sim__shadow_member(s, c->members[i].replica_id);
        if (peer == NULL || peer->gone || peer == m || peer->hard.term > sim_status(r).term ||
            !raft_peer(r->core, peer->replica_id, &p)) {
            continue;
        }
        if (p.match > sim__member_last(peer)) {
            FAIL(s, m, "believes %" PRIu64 " on replica %" PRIu64 ", whose disk ends at %" PRIu64,
                 p.match, peer->replica_id, sim__member_last(peer));
        }
        if (p.match >= p.next) {
            FAIL(s, m, "peer %" PRIu64 ": match %" PRIu64 ", next %" PRIu64, peer->replica_id,
                 p.match, p.next);
        }
    }
}

/* No replica campaigns while a change that it knows to be committed is not in force for it. */
static void check_campaign(struct sim *s, struct member *m, struct replica *r)
{
    const struct shard *shard = m->shard;
    for (size_t i = shard->config_count; i-- > 0;) {
        uint64_t index = shard->configs[i].index;
        if (index <= sim_status(r).config_index) {
            break;
        }
        /* After a compaction the same configuration has a later index. */
        if (index <= sim_status(r).commit &&
            !raft_config_equal(&shard->configs[i].config, raft_config(r->core))) {
            FAIL(s, m, "campaigns, the configuration at %" PRIu64 " is not yet in force for it",
                 index);
        }
    }
}

/* A member that is new to the leader counts as active at first, or the leader may lose its quorum.
 * (If no member is active, the leader has just begun another period of its quorum check.) */
static void check_new_peers(struct sim *s, struct member *m, struct replica *r)
{
    const struct raft_config *c = raft_config(r->core);
    uint64_t gone = 0;
    bool somebody = false;
    for (uint32_t i = 0; i < c->member_count; i++) {
        struct raft_peer_status p;
        uint64_t id = c->members[i].replica_id;
        if (id == m->replica_id || !raft_peer(r->core, id, &p)) {
            continue;
        }
        somebody = somebody || p.recently_active;
        if (!p.recently_active && raft_config_find(&m->config, id) == NULL) {
            gone = id;
        }
    }
    if (gone != 0 && somebody) {
        FAIL(s, m, "new peer %" PRIu64 " counts as gone", gone);
    }
}

/* A learner that gets a vote has answered in this leader's term, so its disk has the term. */
static void check_new_voters(struct sim *s, struct member *m, const struct replica *r,
                             const struct raft_entry *e)
{
    struct raft_change change;
    if (raft_change_decode(e->payload.bytes, &change, NULL) != THOLE_OK || change.epoch != 0) {
        return;
    }
    for (uint32_t i = 0; i < change.item_count; i++) {
        uint64_t id = change.items[i].replica_id;
        const struct member *peer = sim__shadow_member(s, id);
        if (change.items[i].op == RAFT_CHANGE_ADD_VOTER && !raft_config_is_voter(&m->config, id) &&
            (peer == NULL || peer->hard.term < sim_status(r).term)) {
            FAIL(s, m, "gives a vote to replica %" PRIu64 ", which never answered it", id);
        }
    }
}

static void check_new_changes(struct sim *s, struct member *m, const struct replica *r,
                              uint64_t from)
{
    for (uint64_t i = from + 1; i <= sim_status(r).last_index; i++) {
        const struct raft_entry *e = raft_entry_at(r->core, i);
        if (e != NULL && e->kind == RAFT_ENTRY_CONFIG) {
            check_new_voters(s, m, r, e);
        }
    }
}

/* Membership changes that are appended and not yet in force. */
static void check_in_flight(struct sim *s, struct member *m, struct replica *r)
{
    int count = 0;
    for (uint64_t i = sim_status(r).commit + 1; i <= sim_status(r).last_index; i++) {
        const struct raft_entry *e = raft_entry_at(r->core, i);
        count += e != NULL && e->kind == RAFT_ENTRY_CONFIG;
    }
    if (count > 1) {
        FAIL(s, m, "has %d membership changes in flight", count);
    }
}

static void trace_status(struct sim *s, const struct member *m, const struct raft_status *now)
{
    SIM_TRACE(s,
              "host %d: shard %" PRIu64 " replica %" PRIu64 " role=%d term=%" PRIu64
              " vote=%" PRIu64 " leader=%" PRIu64 " commit=%" PRIu64 " applied=%" PRIu64
              " log=[%" PRIu64 ",%" PRIu64 "] durable=%" PRIu64 " epoch=%" PRIu64,
              m->host, m->shard->id, m->replica_id, (int)now->role, now->term, now->vote,
              now->leader, now->commit, now->applied, now->first_index, now->last_index,
              now->durable_index, now->epoch);
}

static void check_status(struct sim *s, struct member *m, struct replica *r)
{
    const struct raft_status status = sim_status(r), *was = &m->status, *now = &status;
    struct shard *shard = m->shard;
    if (now->term < was->term || now->commit < was->commit || now->applied < was->applied) {
        FAIL(s, m,
             "goes back: term %" PRIu64 " to %" PRIu64 ", commit %" PRIu64 " to %" PRIu64
             ", applied %" PRIu64 " to %" PRIu64,
             was->term, now->term, was->commit, now->commit, was->applied, now->applied);
    }
    if (now->term == was->term && was->vote != 0 && now->vote != was->vote) {
        FAIL(s, m, "votes for %" PRIu64 " and %" PRIu64 " in term %" PRIu64, was->vote, now->vote,
             now->term);
    }
    if (now->applied > now->commit || now->commit > now->last_index) {
        FAIL(s, m, "applied %" PRIu64 ", commit %" PRIu64 ", last %" PRIu64, now->applied,
             now->commit, now->last_index);
    }
    if (now->durable_index > sim__member_last(m)) {
        FAIL(s, m, "believes %" PRIu64 " durable, its disk ends at %" PRIu64, now->durable_index,
             sim__member_last(m));
    }
    if (sim__replica_superseded(m, r)) {
        raft_config_copy(&m->config, raft_config(r->core));
        trace_status(s, m, now);
        return; /* its state is of a lost group */
    }
    if (now->role == RAFT_LEADER && (was->role != RAFT_LEADER || was->term != now->term)) {
        check_leader(s, m, r);
    }
    check_commits(s, m, r, was->commit);
    if (now->role == RAFT_PRE_CANDIDATE || now->role == RAFT_CANDIDATE) {
        check_campaign(s, m, r);
    }
    if (now->role == RAFT_LEADER && was->role == RAFT_LEADER && was->term == now->term) {
        check_new_changes(s, m, r, was->last_index);
    }
    if (!raft_config_equal(&m->config, raft_config(r->core))) {
        if (now->role == RAFT_LEADER && was->role == RAFT_LEADER) {
            check_new_peers(s, m, r);
        }
        sim__check_config(s, shard, now->config_index, raft_config(r->core));
        raft_config_copy(&m->config, raft_config(r->core));
    }
    if (now->role == RAFT_LEADER) {
        check_peers(s, m, r);
        if (now->last_index > now->commit + 1) {
            check_in_flight(s, m, r);
        }
    }
    sim__check_bounds(s, m, r);
    trace_status(s, m, now);
}

/* After a restart a replica begins with the state on its disk. */
static void begin_life(struct sim *s, struct sim_host *h, struct member *m, struct replica *r)
{
    m->life = h->incarnation;
    m->status =
        (struct raft_status){.term = m->hard.term, .vote = m->hard.vote, .commit = m->hard.commit};
    if (sim_status(r).commit < m->hard.commit) {
        FAIL(s, m, "commit %" PRIu64 " after a restart, its disk says %" PRIu64,
             sim_status(r).commit, m->hard.commit);
    }
    raft_config_copy(&m->config, raft_config(r->core));
    if (m->config.member_count > 0 && !sim__replica_superseded(m, r)) {
        sim__check_config(s, m->shard, sim_status(r).config_index, &m->config);
    }
}

static bool same_status(const struct raft_status *a, const struct raft_status *b)
{
    return a->term == b->term && a->vote == b->vote && a->commit == b->commit &&
           a->applied == b->applied && a->last_index == b->last_index &&
           a->durable_index == b->durable_index && a->first_index == b->first_index &&
           a->leader == b->leader && a->config_index == b->config_index && a->role == b->role;
}

/* Check a replica if its status changed since the last check. */
static void check_replica(struct sim *s, struct sim_host *h, struct replica *r)
{
    struct member *m = sim__shadow_member(s, r->replica_id);
    ASSERT(m != NULL);
    bool superseded = m->epoch < m->shard->forced_epoch && r->failure != NULL &&
                      r->failure->reason == THOLE_REASON_REMOVED;
    if (r->state == GROUP_FAILED && !m->damaged && !superseded) {
        FAIL(s, m, "failed: %s", r->failure->message);
    }
    if (r->state != GROUP_RUNNING) {
        return;
    }
    if (m->life != h->incarnation) {
        begin_life(s, h, m, r);
    }
    bool asleep = r->core != NULL && raft_asleep(r->core);
    if (asleep != m->asleep) {
        SIM_TRACE(s, "host %d: replica %" PRIu64 " %s", h->id, m->replica_id,
                  asleep ? "sleeps" : "wakes");
        s->report->sleeps += asleep;
        m->asleep = asleep;
    }
    const struct raft_status status = sim_status(r);
    if (same_status(&m->status, &status)) {
        return;
    }
    check_status(s, m, r);
    m->status = sim_status(r);
}

void sim__check_loop(struct sim *s, struct sim_host *h, struct loop *l)
{
    size_t it = 0;
    struct replica *r;
    while ((r = map_next(&l->by_replica, &it, NULL)) != NULL) {
        check_replica(s, h, r);
    }
    sim__check_loop_bounds(s, h, l);
}

/* ---- Frames: no message attests to what is not on disk --------------------------------------- */

struct speaker {
    struct sim *s;
    struct sim_host *h;
};

static void check_vote_message(struct sim *s, const struct member *m, const struct raft_message *r)
{
    bool now = r->term == m->hard.term + (r->kind == RAFT_MSG_PREVOTE);
    if ((r->kind == RAFT_MSG_VOTE || r->kind == RAFT_MSG_PREVOTE) && now &&
        r->index > sim__member_last(m)) {
        FAIL(s, m, "asks for a vote with index %" PRIu64 ", its disk ends at %" PRIu64, r->index,
             sim__member_last(m));
    }
    if (r->kind == RAFT_MSG_VOTE && m->hard.term == r->term && m->hard.vote != m->replica_id) {
        FAIL(s, m, "asks for votes in term %" PRIu64 " without its own on disk", r->term);
    }
    if (r->kind == RAFT_MSG_VOTE_REPLY && !r->reject && m->hard.term == r->term &&
        m->hard.vote != r->to) {
        FAIL(s, m, "grants a vote in term %" PRIu64 " that is not on disk", r->term);
    }
}

static void check_message(void *ctx, uint64_t shard_id, uint64_t to_incarnation,
                          struct raft_message *r)
{
    const struct speaker *speaker = ctx;
    struct sim *s = speaker->s;
    const struct member *m = sim__shadow_member(s, r->from);
    struct replica *sender = map_get(&speaker->h->engine->by_replica, r->from);
    (void)to_incarnation;
    if (sender != NULL) {
        check_replica(s, speaker->h, sender);
    }
    SIM_TRACE(s,
              "host %d: shard %" PRIu64 " %" PRIu64 " > %" PRIu64 " kind=%d%s term=%" PRIu64
              " index=%" PRIu64 " log_term=%" PRIu64 " commit=%" PRIu64 " entries=%u",
              speaker->h->id, shard_id, r->from, r->to, r->kind, r->reject ? " reject" : "",
              r->term, r->index, r->log_term, r->commit, r->entry_count);
    if (m != NULL && r->epoch > m->shard->forced_epoch) {
        FAIL(s, m, "sends epoch %" PRIu64 ", which has not begun", r->epoch);
    }
    if (m != NULL && !m->gone && r->kind != RAFT_MSG_REMOVED) {
        bool echo = r->kind == RAFT_MSG_PREVOTE_REPLY && !r->reject;
        if (!echo && r->term > m->hard.term + (r->kind == RAFT_MSG_PREVOTE)) {
            FAIL(s, m, "sends term %" PRIu64 ", its disk has %" PRIu64 " (kind %d)", r->term,
                 m->hard.term, r->kind);
        }
        check_vote_message(s, m, r);
        /* An entry acknowledged in an earlier term may be replaced, in the same write even. */
        if (r->kind == RAFT_MSG_APPEND_REPLY && !r->reject && r->term == m->hard.term &&
            r->index > sim__member_last(m)) {
            FAIL(s, m, "acknowledges %" PRIu64 ", its disk ends at %" PRIu64, r->index,
                 sim__member_last(m));
        }
        if (r->commit > m->shard->committed && r->epoch == m->shard->forced_epoch) {
            FAIL(s, m, "sends commit index %" PRIu64 ", the shard is at %" PRIu64, r->commit,
                 m->shard->committed);
        }
    }
    raft_message_deinit(r);
}

static void ignore_reply(void *ctx, const struct stream_msg *m, uint64_t from, uint64_t to)
{
    (void)ctx, (void)m, (void)from, (void)to;
}

static void ignore_beat(void *ctx, const struct host_beat *b)
{
    (void)ctx, (void)b;
}

void sim__check_frame(struct sim *s, struct sim_host *h, struct bufslice frame)
{
    struct speaker speaker = {s, h};
    struct codec_sink sink = {&speaker, check_message, ignore_reply, ignore_beat};
    struct thole_status st;
    if (codec_read_frame(frame, &sink, &st) != THOLE_OK) {
        sim__fail(s, "host %d sends a frame that cannot be read: %s", h->id, st.message);
    }
}

/* The sender of a snapshot leads the term that its chunks name. */
void sim__check_chunk(struct sim *s, struct sim_host *h, struct bufslice frame)
{
    struct codec_chunk c;
    struct thole_status st;
    if (codec_read_chunk(frame.bytes, &c, &st) != THOLE_OK) {
        sim__fail(s, "host %d sends a chunk that cannot be read: %s", h->id, st.message);
        return;
    }
    const struct member *m = sim__shadow_member(s, c.from);
    if (m != NULL && !sim__member_superseded(m) && map_get(&m->shard->leaders, c.term) != m) {
        FAIL(s, m, "sends a snapshot in term %" PRIu64 ", which it does not lead", c.term);
    }
    codec_release(c.arena);
}

/* ---- Machines -------------------------------------------------------------------------------- */

void sim__check_apply(struct sim *s, struct sim_host *h, uint64_t shard_id, uint64_t replica_id,
                      uint64_t index, uint64_t state, bool restored)
{
    struct shard *shard = sim_shard(s, shard_id);
    struct shadow_slot *slot = sim__shadow_slot(shard, index);
    struct member *m = sim__shadow_member(s, replica_id);
    ASSERT(m != NULL);
    sim__mix(s, replica_id, state);
    if (sim__member_superseded(m)) {
        return;
    }
    if (slot->state == 0) {
        slot->state = state;
    }
    if (slot->state != state) {
        FAIL(s, m, "another state after %" PRIu64, index);
    }
    if (index > shard->committed) {
        FAIL(s, m, "applies %" PRIu64 ", committed is %" PRIu64, index, shard->committed);
    }
    /* Entries at the applier are still applied after the host went down or the removal. */
    if (!h->ending && !m->gone && !restored && index > sim__member_last(m)) {
        FAIL(s, m, "applies %" PRIu64 ", its disk ends at %" PRIu64, index, sim__member_last(m));
    }
}

void sim__check_execute(struct sim *s, const struct member *m, uint64_t index, uint64_t value,
                        uint64_t result)
{
    struct shard *shard = m->shard;
    if (sim__member_superseded(m)) {
        return;
    }
    struct executed *e = map_get(&shard->executed, value);
    if (e == NULL) {
        e = xmalloc(sizeof *e);
        *e = (struct executed){index, result};
        (void)map_put(&shard->executed, value, e);
    }
    if (e->index != index || e->result != result) {
        sim__fail(
            s, "shard %" PRIu64 ": command %" PRIx64 " is executed at %" PRIu64 " and at %" PRIu64,
            shard->id, value, e->index, index);
    }
    if (map_get(&shard->refused, value) != NULL) {
        sim__fail(s,
                  "shard %" PRIu64 ": command %" PRIx64 ", refused for good, is executed at "
                  "%" PRIu64,
                  shard->id, value, index);
    }
}

void sim__check_end(struct sim *s)
{
    for (int i = 0; i < s->c.groups; i++) {
        for (int k = 0; k < SIM_KEYS; k++) {
            if (s->shards[i].keys[k].lost) {
                continue;
            }
            enum linear_verdict v = linear_check(s->shards[i].keys[k].history, true);
            if (v == LINEAR_VIOLATION) {
                sim__fail(s, "shard %d, key %" PRIu64 ": the history is not linearizable", i + 1,
                          s->shards[i].keys[k].number);
            }
            s->report->inconclusive += v == LINEAR_INCONCLUSIVE;
        }
    }
}
