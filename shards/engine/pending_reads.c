/* Queries on their loop. All linearizable queries of a group in one turn share one read point. Once
 * the core confirms its index, the queries go to the applier, which serves them when that index is
 * applied. */
#include <stdlib.h>

#include "shards/engine/engine_internal.h"

static void hand_over(struct replica *r, uint64_t index, struct msgq *requests)
{
    ASSERT(requests->count > 0);
    ASSERT(!r->kind->witness && worker_is_current(r->loop->w));
    struct query_job *j = xcalloc(1, sizeof *j);
    j->msg.kind = MSG_QUERY;
    j->r = replica_ref(r);
    j->index = index;
    msgq_concat(&j->requests, requests);
    if (!worker_post_internal(r->applier->w, &j->msg)) {
        engine__loop_discard(r->loop, &j->msg);
    }
}

/* Serve it from the local state, if a leader was heard recently enough. */
static void serve_stale(struct loop *l, struct replica *r, struct engine_request *q)
{
    bool fresh = q->max_staleness_ms == 0;
    struct raft_status s;
    replica_status(r, &s);
    if (!fresh && s.role == RAFT_LEADER && s.leader_ready) {
        fresh = !engine__loop_writer_stalled(l, l->now_ns);
    } else if (!fresh && r->leader_heard_ns != 0) {
        fresh =
            l->now_ns - engine__heartbeats_leader_heard_ns(l, r) <= q->max_staleness_ms * NS_PER_MS;
    }
    if (!fresh) {
        engine__request_fail(q, THOLE_UNAVAILABLE, THOLE_REASON_TOO_STALE,
                             "this replica has heard no leader within the staleness bound");
        return;
    }
    struct msgq one = {0};
    msgq_push(&one, &q->msg);
    hand_over(r, 0, &one);
}

void engine__read_submit(struct loop *l, struct engine_request *q)
{
    struct replica *r = map_get(&l->by_shard, q->shard_id);
    ASSERT(r != NULL);
    metric_add(&engine_queries, 1);
    if (q->deadline_ns <= l->now_ns) {
        engine__request_fail(q, THOLE_DEADLINE_EXCEEDED, THOLE_REASON_NONE,
                             "the deadline passed before the query was served");
    } else if (r->state == GROUP_FAILED) {
        engine__request_fail(q, THOLE_UNAVAILABLE, THOLE_REASON_MACHINE_FAILED,
                             "this replica has failed");
    } else if (r->state != GROUP_RUNNING) {
        engine__request_fail(q, THOLE_UNAVAILABLE, THOLE_REASON_NOT_READY,
                             "this replica is not running yet");
    } else if (r->kind->witness) {
        engine__request_fail(q, THOLE_UNAVAILABLE, THOLE_REASON_NOT_READY,
                             "a witness holds no data");
    } else if (q->payload.bytes.size > LIMIT_PAYLOAD_BYTES) {
        engine__request_fail(q, THOLE_INVALID_ARGUMENT, THOLE_REASON_TOO_LARGE,
                             "the query exceeds " LIMIT_PAYLOAD_TEXT);
    } else if (q->stale) {
        serve_stale(l, r, q);
    } else {
        engine__request_arm(l, q);
        msgq_push(&work_of(r)->reading, &q->msg);
        engine__loop_dirty(l, r);
    }
}

static void fail_queue(struct loop *l, struct replica *r, struct msgq *requests,
                       const struct thole_status *st)
{
    struct worker_msg *m;
    while ((m = msgq_pop(requests)) != NULL) {
        struct engine_request *q = CONTAINER_OF(m, struct engine_request, msg);
        engine__request_disarm(l, q);
        if (st->reason == THOLE_REASON_NOT_LEADER || st->reason == THOLE_REASON_NO_LEADER) {
            engine__request_not_leader(l, r, q);
            continue;
        }
        q->status = *st;
        engine__request_finish(q);
    }
}

void engine__reads_flush(struct loop *l, struct replica *r)
{
    if (work_of(r)->reading.count == 0) {
        return;
    }
    struct thole_status st;
    uint64_t context = ++work_of(r)->read_context;
    if (engine__loop_writer_stalled(l, l->now_ns)) {
        (void)THOLE_FAIL(&st, THOLE_UNAVAILABLE, THOLE_REASON_DISK,
                         "the log of this host makes no progress");
        fail_queue(l, r, &work_of(r)->reading, &st);
        return;
    }
    ASSERT(work_of(r)->reads == NULL || work_of(r)->reads->context < context);
    if (raft_read(r->core, context, l->now_ms, &st) != THOLE_OK) {
        fail_queue(l, r, &work_of(r)->reading, &st);
        return;
    }
    struct read_batch *b = xcalloc(1, sizeof *b);
    b->context = context;
    msgq_concat(&b->requests, &work_of(r)->reading);
    *work_of(r)->reads_tail = b;
    work_of(r)->reads_tail = &b->next;
}

static struct read_batch *take_batch(struct replica *r, uint64_t context)
{
    for (struct read_batch **at = &work_of(r)->reads; *at != NULL; at = &(*at)->next) {
        struct read_batch *b = *at;
        if (b->context != context) {
            continue;
        }
        *at = b->next;
        if (*at == NULL) {
            work_of(r)->reads_tail = at;
        }
        return b;
    }
    return NULL;
}

void engine__reads_answer(struct loop *l, struct replica *r, const struct raft_read_result *results,
                          size_t n)
{
    struct thole_status st;
    struct msgq ready = {0};
    uint64_t index = 0;
    for (size_t i = 0; i < n; i++) {
        struct read_batch *b = take_batch(r, results[i].context);
        if (b == NULL) {
            continue;
        }
        if (results[i].failed) {
            (void)THOLE_FAIL(&st, THOLE_UNAVAILABLE, THOLE_REASON_NO_LEADER,
                             "no leader confirmed the read");
            fail_queue(l, r, &b->requests, &st);
        } else {
            for (struct worker_msg *m = b->requests.head; m != NULL; m = m->next) {
                engine__request_disarm(l, CONTAINER_OF(m, struct engine_request, msg));
            }
            index = results[i].index > index ? results[i].index : index;
            msgq_concat(&ready, &b->requests);
        }
        free(b);
    }
    if (ready.count > 0) {
        hand_over(r, index, &ready);
    }
}

void engine__reads_end(struct loop *l, struct replica *r, const struct thole_status *st)
{
    fail_queue(l, r, &work_of(r)->reading, st);
    while (work_of(r)->reads != NULL) {
        struct read_batch *b = work_of(r)->reads;
        work_of(r)->reads = b->next;
        fail_queue(l, r, &b->requests, st);
        free(b);
    }
    work_of(r)->reads_tail = &work_of(r)->reads;
}

/* Remove `q` from the queue; false if it is not in it. */
static bool take_out(struct msgq *queue, struct engine_request *q)
{
    struct msgq kept = {0};
    struct worker_msg *m;
    bool found = false;
    while ((m = msgq_pop(queue)) != NULL) {
        if (m == &q->msg) {
            found = true;
        } else {
            msgq_push(&kept, m);
        }
    }
    *queue = kept;
    return found;
}

void engine__read_expired(struct loop *l, struct replica *r, struct engine_request *q)
{
    ASSERT(r->loop == l);
    bool found = take_out(&work_of(r)->reading, q);
    for (struct read_batch *b = work_of(r)->reads; b != NULL && !found; b = b->next) {
        found = take_out(&b->requests, q);
    }
    ASSERT(found); /* a request that leaves the queues has its timer disarmed */
    engine__request_fail(q, THOLE_DEADLINE_EXCEEDED, THOLE_REASON_NONE,
                         "the deadline passed before the read was confirmed");
}
