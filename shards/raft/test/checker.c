#include "shards/raft/test/checker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "shards/raft/raft_internal.h"
#include "shards/raft/test/core_cluster.h"

/* Not assert_true: a broken safety property ends the program wherever it is found. */
#define CHECK(e) ASSERT(e)

void checker_deinit(struct checker *k)
{
    free(k->committed_terms);
    free(k->committed_values);
    free(k->leaders);
    *k = (struct checker){0};
}

void checker_started(struct cluster *c, struct node *n)
{
    struct raft_status s = node_status(n);

    c->checker.commits[n->id] = s.commit;
}

static void check_leader(struct checker *k, struct node *n, const struct raft_status *s)
{
    if (s->term >= k->leader_capacity) {
        size_t capacity = (size_t)s->term * 2 + 16;
        k->leaders = xrealloc(k->leaders, capacity * sizeof *k->leaders);
        memset(k->leaders + k->leader_capacity, 0,
               (capacity - k->leader_capacity) * sizeof *k->leaders);
        k->leader_capacity = capacity;
    }
    CHECK(k->leaders[s->term] == 0 || k->leaders[s->term] == n->id); /* election safety */
    if (k->leaders[s->term] == n->id) {
        return;
    }
    k->leaders[s->term] = n->id;
    /* Leader completeness: all that was ever committed is in a new leader's log. */
    for (uint64_t i = s->first_index; i <= k->committed_count; i++) {
        uint64_t term;
        CHECK(raft_term_at(n->raft, i, &term) && term == k->committed_terms[i - 1]);
    }
    CHECK(s->last_index >= k->committed_count);
}

void checker_harvested(struct cluster *c, struct node *n, const struct raft_update *u)
{
    struct checker *k = &c->checker;
    struct raft_status s = node_status(n);

    CHECK(s.commit >= k->commits[n->id]);
    CHECK(s.commit <= s.last_index && s.applied <= s.commit);
    k->commits[n->id] = s.commit;
    if (s.role == RAFT_LEADER) {
        check_leader(k, n, &s);
        const struct raft_config *config = raft_config(n->raft);
        for (uint32_t i = 0; i < config->member_count; i++) {
            struct raft_peer_status p;
            CHECK(raft_peer(n->raft, config->members[i].replica_id, &p));
            CHECK(p.match < p.next && p.match <= s.last_index);
        }
    }
    if (u->persist != 0) {
        CHECK(u->hard.term == s.term && u->hard.commit <= s.last_index);
    } else {
        CHECK(u->entry_count == 0 && !u->snapshot && !u->log_start_changed);
    }
    CHECK(u->apply_first == 0 || u->apply_last <= n->disk.start_index + n->disk.count);
    raft__check_all(n->raft); /* in a release build it is not part of the event */
}

static uint64_t disk_last(const struct node *n)
{
    return n->disk.start_index + n->disk.count;
}

static uint64_t disk_last_term(const struct node *n)
{
    return n->disk.count == 0 ? n->disk.start_term : n->disk.entries[n->disk.count - 1]->term;
}

/* A sent message attests only to what is on this node's disk. */
void checker_sends(struct cluster *c, struct node *n, const struct raft_message *m)
{
    const struct raft_hard *h = &n->disk.hard;
    (void)c;

    switch ((enum raft_message_kind)m->kind) {
    case RAFT_MSG_VOTE:
        CHECK(h->term == m->term && h->vote == n->id);
        CHECK(disk_last(n) == m->index && disk_last_term(n) == m->log_term);
        break;
    case RAFT_MSG_PREVOTE:
        CHECK(h->term + 1 == m->term);
        CHECK(disk_last(n) == m->index && disk_last_term(n) == m->log_term);
        break;
    case RAFT_MSG_VOTE_REPLY:
        CHECK(h->term >= m->term);
        CHECK(m->reject || h->term > m->term || h->vote == m->to);
        break;
    case RAFT_MSG_APPEND_REPLY:
        CHECK(h->term >= m->term);
        CHECK(m->reject || h->term > m->term || disk_last(n) >= m->index);
        break;
    case RAFT_MSG_SLEEP_REPLY:
        CHECK(h->term >= m->term && disk_last(n) >= m->index);
        break;
    case RAFT_MSG_SLEEP:
    case RAFT_MSG_HEARTBEAT_REPLY:
    case RAFT_MSG_APPEND:
    case RAFT_MSG_HEARTBEAT:
    case RAFT_MSG_TIMEOUT_NOW:
        CHECK(h->term >= m->term);
        break;
    case RAFT_MSG_PREVOTE_REPLY:
    case RAFT_MSG_READ:
    case RAFT_MSG_READ_REPLY:
    case RAFT_MSG_REMOVED:
        break;
    }
}

/* State machine safety: one value per index, for ever. */
void checker_applies(struct cluster *c, struct node *n, uint64_t index, uint64_t term,
                     uint64_t value)
{
    struct checker *k = &c->checker;
    (void)n;

    if (k->loose) {
        return;
    }
    if (index <= k->committed_count) {
        CHECK(k->committed_terms[index - 1] == term && k->committed_values[index - 1] == value);
        return;
    }
    CHECK(index == k->committed_count + 1);
    if (k->committed_count == k->committed_capacity) {
        k->committed_capacity = k->committed_capacity == 0 ? 256 : k->committed_capacity * 2;
        size_t size = k->committed_capacity * sizeof(uint64_t);
        k->committed_terms = xrealloc(k->committed_terms, size);
        k->committed_values = xrealloc(k->committed_values, size);
    }
    k->committed_terms[k->committed_count] = term;
    k->committed_values[k->committed_count] = value;
    k->committed_count++;
}

void checker_forced(struct cluster *c, struct node *n)
{
    struct checker *k = &c->checker;
    struct raft_status s = node_status(n);
    uint64_t term;

    /* Entries beyond its log, and entries where its log has another one, are lost. */
    for (uint64_t i = 1; i <= k->committed_count; i++) {
        if (i > s.last_index || (i >= s.first_index && raft_term_at(n->raft, i, &term) &&
                                 term != k->committed_terms[i - 1])) {
            k->committed_count = (size_t)i - 1;
        }
    }
}

/* A term never falls and its vote never changes, across restarts. */
void checker_synced(struct cluster *c, struct node *n)
{
    struct checker *k = &c->checker;
    const struct raft_hard *h = &n->disk.hard;

    CHECK(n->id < 16);
    if (h->vote == 0 || h->term >= 4096) {
        return;
    }
    CHECK(k->votes[n->id][h->term] == 0 || k->votes[n->id][h->term] == h->vote);
    k->votes[n->id][h->term] = h->vote;
}

static void check_pair(struct node *a, struct node *b)
{
    struct raft_status sa = node_status(a);
    struct raft_status sb = node_status(b);
    uint64_t last = sa.last_index < sb.last_index ? sa.last_index : sb.last_index;
    uint64_t first = sa.first_index > sb.first_index ? sa.first_index : sb.first_index;
    bool agreed = false;

    for (uint64_t i = last; i >= first && i > 0; i--) {
        uint64_t ta = 0;
        uint64_t tb = 0;
        CHECK(raft_term_at(a->raft, i, &ta) && raft_term_at(b->raft, i, &tb));
        CHECK(!agreed || ta == tb); /* log matching */
        agreed = agreed || ta == tb;
    }
}

void checker_logs(struct cluster *c)
{
    for (size_t i = 1; i <= c->node_count; i++) {
        for (size_t j = i + 1; j <= c->node_count; j++) {
            if (c->nodes[i].raft != NULL && c->nodes[j].raft != NULL) {
                check_pair(&c->nodes[i], &c->nodes[j]);
            }
        }
    }
}
