/* Linearizable reads: ReadIndex, dissertation 6.4. Queue and numbers are in read_queue.h. */
#include "shards/raft/raft_internal.h"

static bool may_confirm(const struct raft *r)
{
    return r->role == RAFT_LEADER &&
           (r->commit >= r->lead->first_index || CANARY(read_before_commit));
}

static void reply(struct raft *r, uint64_t to, uint64_t context, uint64_t index, bool reject)
{
    struct raft_message m = {
        .kind = RAFT_MSG_READ_REPLY,
        .to = to,
        .index = index,
        .context = context,
        .reject = reject,
    };
    raft__send(r, m, 0);
}

static void answer(struct raft *r, const struct raft_read_wait *w, uint64_t index, bool failed)
{
    ASSERT(w->from != 0 && (!failed || index == 0 || w->from == r->options.replica_id));
    if (w->from == r->options.replica_id) {
        raft__reads_result(&r->awake->reads, w->context, index, failed);
    } else {
        reply(r, w->from, w->context, index, failed);
    }
}

enum thole_code raft_read(struct raft *r, uint64_t context, uint64_t now_ms,
                          struct thole_status *st)
{
    raft__begin(r, now_ms);
    raft__wake(r, now_ms);
    if (r->leader == 0) {
        return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_NO_LEADER,
                          "read: no leader is known");
    }
    if (raft__reads_full(&r->awake->reads)) {
        return THOLE_FAIL(st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_QUEUE_FULL,
                          "read: %d are outstanding", RAFT_READS_MAX);
    }
    r->real_fresh = false;
    raft__reads_push(&r->awake->reads,
                     (struct raft_read_wait){
                         .context = context,
                         .from = r->options.replica_id,
                         .deadline_ms = r->now_ms + 2 * r->options.election_timeout_ms,
                     });
    raft__check(r);
    return THOLE_OK;
}

void raft__recv_read(struct raft *r, const struct raft_message *m)
{
    if (r->role != RAFT_LEADER || raft__reads_full(&r->awake->reads)) {
        reply(r, m->from, m->context, 0, true);
        return;
    }
    r->real_fresh = false;
    raft__reads_push(&r->awake->reads,
                     (struct raft_read_wait){
                         .context = m->context,
                         .from = m->from,
                         .deadline_ms = r->now_ms + 2 * r->options.election_timeout_ms,
                     });
}

/* The leader's answer to forward number `context`. Its read point is after every read that was here
 * when that number was given, so it serves the reads with lower numbers too. */
void raft__recv_read_reply(struct raft *r, const struct raft_message *m)
{
    struct raft_read_wait *w;

    if (r->role == RAFT_LEADER || m->from != r->leader || m->context > r->read_number) {
        return; /* also an answer to a read from before a restart */
    }
    while ((w = raft__reads_front(&r->awake->reads)) != NULL && w->number != 0 &&
           w->number <= m->context) {
        struct raft_read_wait done = raft__reads_pop(&r->awake->reads);
        answer(r, &done, m->index, m->reject);
    }
}

static uint64_t open_round(struct raft *r)
{
    struct raft_reads *q = &r->awake->reads;

    ASSERT(r->leader != 0 && q->started < q->count);
    r->read_number++;
    for (size_t i = q->started; i < q->count; i++) {
        struct raft_read_wait *w = raft__reads_at(q, i);
        w->number = r->read_number;
        w->index = r->commit;
    }
    q->started = q->count;
    return r->read_number;
}

void raft__reads_start(struct raft *r)
{
    if (r->awake->reads.started == r->awake->reads.count) {
        return;
    }
    if (raft__lease_valid(r)) {
        while (raft__reads_front(&r->awake->reads) != NULL) {
            struct raft_read_wait w = raft__reads_pop(&r->awake->reads);
            answer(r, &w, r->commit, false);
        }
    } else if (may_confirm(r)) {
        (void)open_round(r);
        raft__busy(r);
        raft__reads_confirm(r); /* at once if this is the only voter */
        if (r->awake->reads.started > 0) {
            raft__heartbeat(r, true);
        }
    } else if (r->role != RAFT_LEADER && r->leader != 0) {
        struct raft_message m = {.kind = RAFT_MSG_READ, .to = r->leader};
        m.context = open_round(r);
        raft__send(r, m, 0);
    }
    /* A leader without a commit of its own term keeps them parked (6.4, step 1). */
}

void raft__reads_confirm(struct raft *r)
{
    const struct raft_config *c = raft__config(r);
    uint64_t acked[LIMIT_MEMBERS];
    struct raft_read_wait *w;

    if (r->awake->reads.started == 0 || r->role != RAFT_LEADER) {
        return;
    }
    for (uint32_t i = 0; i < c->member_count; i++) {
        bool self = c->members[i].replica_id == r->options.replica_id;
        acked[i] = self ? r->read_number : r->lead->peers[i].read_acked;
    }
    ASSERT(r->commit >= r->lead->first_index || CANARY(read_before_commit)); /* invariant 10 */
    uint64_t confirmed = CANARY(stale_lease) ? r->read_number : raft__quorum_joint_value(c, acked);
    while ((w = raft__reads_front(&r->awake->reads)) != NULL && w->number != 0 &&
           w->number <= confirmed) {
        struct raft_read_wait done = raft__reads_pop(&r->awake->reads);
        ASSERT(done.index <= r->commit);
        answer(r, &done, done.index, false);
    }
}

void raft__reads_fail(struct raft *r)
{
    while (raft__reads_front(&r->awake->reads) != NULL) {
        struct raft_read_wait w = raft__reads_pop(&r->awake->reads);
        if (!CANARY(reads_parked)) {
            answer(r, &w, 0, true);
        }
    }
}

void raft__reads_tick(struct raft *r)
{
    struct raft_read_wait *w;

    while ((w = raft__reads_front(&r->awake->reads)) != NULL && w->deadline_ms <= r->now_ms) {
        struct raft_read_wait late = raft__reads_pop(&r->awake->reads);
        answer(r, &late, 0, true);
    }
}

uint64_t raft__reads_deadline(const struct raft *r)
{
    return r->awake->reads.count > 0 ? r->awake->reads.queue[r->awake->reads.head].deadline_ms
                                     : RAFT_NEVER_MS;
}
