/* Proposals on their loop: queued during a turn, appended together, and tracked by (index, term)
 * until a committed entry decides them.
 *
 * An entry that was truncated from this log may still be committed by a later leader that has it.
 * So truncation decides nothing. A committed entry decides: with the same (index, term) the
 * proposal succeeded. Another term at that index, or a later term at a lower index, proves that it
 * can never be committed, because terms never decrease along a log. */
#include <stdlib.h>
#include <string.h>

#include "shards/engine/engine_internal.h"

/* ---- The ring of outstanding entries, ascending by index ------------------------------------- */

static struct pending *slot_at(const struct pending_ring *ring, size_t i)
{
    ASSERT(i < ring->capacity);
    return &ring->slots[(ring->head + i) & (ring->capacity - 1)];
}

static void ring_grow(struct pending_ring *ring)
{
    size_t capacity = ring->capacity ? ring->capacity * 2 : 4;
    struct pending *slots = xcalloc(capacity, sizeof *slots);
    ASSERT((capacity & (capacity - 1)) == 0); /* slot_at takes the remainder by a mask */
    for (size_t i = 0; i < ring->count; i++) {
        slots[i] = *slot_at(ring, i);
    }
    free(ring->slots);
    *ring = (struct pending_ring){slots, capacity, 0, ring->count};
}

void engine__pending_push(struct replica *r, const struct pending *p)
{
    struct pending_ring *ring = &work_of(r)->pending;
    if (ring->count == ring->capacity) {
        ring_grow(ring);
    }
    ASSERT((p->request == NULL) != (p->control == NULL));
    ASSERT(ring->count == 0 || (slot_at(ring, ring->count - 1)->index < p->index &&
                                slot_at(ring, ring->count - 1)->term <= p->term));
    *slot_at(ring, ring->count++) = *p;
}

static bool is_ascending(const struct pending_ring *ring)
{
    for (size_t i = 1; i < ring->count; i++) {
        if (slot_at(ring, i - 1)->index >= slot_at(ring, i)->index ||
            slot_at(ring, i - 1)->term > slot_at(ring, i)->term) {
            return false;
        }
    }
    return true;
}

static struct pending pop_front(struct pending_ring *ring)
{
    ASSERT(ring->count > 0);
    struct pending p = *slot_at(ring, 0);
    ring->head = (ring->head + 1) & (ring->capacity - 1);
    ring->count--;
    return p;
}

static void fail_pending(struct loop *l, struct pending *p, enum thole_code code,
                         enum thole_reason reason, const char *message)
{
    if (p->request != NULL) {
        engine__request_disarm(l, p->request);
        engine__request_fail(p->request, code, reason, message);
    }
    if (p->control != NULL) {
        (void)THOLE_FAIL(&p->control->st, code, reason, "%s", message);
        engine__control_answer(p->control);
    }
}

void engine__pending_trim(struct loop *l, struct replica *r, uint64_t first)
{
    struct pending_ring *ring = &work_of(r)->pending;
    while (ring->count > 0 && slot_at(ring, ring->count - 1)->index >= first) {
        ring->count--;
        metric_add(&engine_pending, -1);
        struct pending *p = slot_at(ring, ring->count);
        fail_pending(l, p, THOLE_UNKNOWN, THOLE_REASON_OUTCOME_UNKNOWN,
                     "the entry was replaced in this log; another replica may still have it");
    }
}

/* ---- From the inbox to the log --------------------------------------------------------------- */

static bool refuse_early(struct loop *l, struct replica *r, struct engine_request *q)
{
    enum thole_code code = THOLE_UNAVAILABLE;
    enum thole_reason reason = THOLE_REASON_NOT_READY;
    const char *message = NULL;
    if (q->deadline_ns <= l->now_ns) {
        code = THOLE_DEADLINE_EXCEEDED;
        reason = THOLE_REASON_NONE;
        message = "the deadline passed before the proposal was appended";
    } else if (q->payload.bytes.size > LIMIT_PAYLOAD_BYTES) {
        code = THOLE_INVALID_ARGUMENT;
        reason = THOLE_REASON_TOO_LARGE;
        message = "the payload exceeds " LIMIT_PAYLOAD_TEXT;
    } else if (q->request_id.size > LIMIT_REQUEST_ID_BYTES) {
        code = THOLE_INVALID_ARGUMENT;
        reason = THOLE_REASON_TOO_LARGE;
        message = "the request id exceeds 64 bytes";
    } else if (q->request_id.size > 0 && q->session != 0) {
        code = THOLE_INVALID_ARGUMENT;
        reason = THOLE_REASON_BAD_REQUEST;
        message = "a proposal has a session or a request id, not both";
    } else if (r->state == GROUP_FAILED) {
        reason = THOLE_REASON_MACHINE_FAILED;
        message = "this replica has failed";
    } else if (r->state != GROUP_RUNNING) {
        message = "this replica is not running yet";
    } else if (engine_space_refuses(l->e, r->shard_id)) {
        code = THOLE_RESOURCE_EXHAUSTED;
        reason = THOLE_REASON_LOW_SPACE;
        message = "the disk of this host is nearly full";
    } else if (engine__loop_writer_stalled(l, l->now_ns)) {
        reason = THOLE_REASON_DISK;
        message = "the log of this host makes no progress";
    }
    if (message == NULL) {
        return false;
    }
    engine__request_fail(q, code, reason, message);
    return true;
}

void engine__proposal_submit(struct loop *l, struct engine_request *q)
{
    struct replica *r = map_get(&l->by_shard, q->shard_id);
    ASSERT(r != NULL);
    if (refuse_early(l, r, q)) {
        return;
    }
    if (!r->led) {
        engine__request_not_leader(l, r, q);
        return;
    }
    ASSERT(r->state == GROUP_RUNNING && worker_is_current(l->w));
    msgq_push(&work_of(r)->proposing, &q->msg);
    engine__loop_dirty(l, r);
}

static struct raft_entry *entry_of(const struct replica *r, struct engine_request *q)
{
    struct bufslice payload = q->payload;
    q->payload = (struct bufslice){0};
    if (q->kind == ENGINE_OPEN_SESSION || q->kind == ENGINE_CLOSE_SESSION) {
        bool opens = q->kind == ENGINE_OPEN_SESSION;
        bufslice_unref(payload);
        return raft_entry_new(RAFT_ENTRY_SESSION, opens ? raft_config(r->core)->epoch : q->session,
                              opens ? 0 : RAFT_SESSION_CLOSE, (struct bufslice){0});
    }
    if (q->request_id.size > 0) {
        return raft_entry_new_with_id(q->request_id, payload);
    }
    return raft_entry_new(RAFT_ENTRY_COMMAND, q->session, q->session ? q->sequence : 0, payload);
}

static void appended(struct loop *l, struct replica *r, struct engine_request **requests, size_t n,
                     uint64_t first)
{
    struct raft_status s;
    raft_status(r->core, &s);
    ASSERT(s.role == RAFT_LEADER && s.last_index == first + n - 1);
    engine__pending_trim(l, r, first);
    for (size_t i = 0; i < n; i++) {
        requests[i]->index = first + i;
        engine__request_arm(l, requests[i]);
        engine__pending_push(r, &(struct pending){first + i, s.term, requests[i], NULL, l->now_ns});
    }
    engine__note_proposals(r, n, l->now_ns);
    metric_add(&engine_proposals, (int64_t)n);
    metric_add(&engine_pending, (int64_t)n);
}

static void refused(struct loop *l, struct replica *r, struct engine_request **requests, size_t n,
                    const struct thole_status *st)
{
    for (size_t i = 0; i < n; i++) {
        if (st->reason == THOLE_REASON_NOT_LEADER) {
            engine__request_not_leader(l, r, requests[i]);
        } else {
            requests[i]->status = *st;
            engine__request_finish(requests[i]);
        }
    }
}

void engine__proposals_flush(struct loop *l, struct replica *r)
{
    struct engine_request *requests[ENGINE_PAGE_ENTRIES];
    struct raft_entry *entries[ENGINE_PAGE_ENTRIES];
    struct msgq *queue = &work_of(r)->proposing;
    while (queue->count > 0) {
        size_t n = 0, bytes = 0;
        while (n < ENGINE_PAGE_ENTRIES && bytes < ENGINE_PAGE_BYTES && queue->count > 0) {
            struct worker_msg *m = msgq_pop(queue);
            requests[n] = CONTAINER_OF(m, struct engine_request, msg);
            entries[n] = entry_of(r, requests[n]);
            bytes += raft_entry_size(entries[n]);
            n++;
        }
        uint64_t first = 0;
        struct thole_status st;
        if (raft_propose(r->core, entries, n, l->now_ms, l->wall_ms, &first, &st) == THOLE_OK) {
            appended(l, r, requests, n, first);
            continue;
        }
        refused(l, r, requests, n, &st);
        for (size_t i = 0; i < n; i++) { /* the core has taken none */
            raft_entry_unref(entries[i]);
        }
    }
}

/* ---- Outcomes -------------------------------------------------------------------------------- */

/* The entry of a membership change is applied. The change took effect unless the configuration in
 * force is older than the entry. */
static void change_decided(struct replica *r, struct pending *p)
{
    struct raft_status s;
    raft_status(r->core, &s);
    if (s.config_index < p->index) {
        (void)THOLE_FAIL(&p->control->st, THOLE_FAILED_PRECONDITION, THOLE_REASON_STALE_REVISION,
                         "a newer decision was applied first");
    }
    engine__control_answer(p->control);
}

void engine__proposals_take(struct loop *l, struct replica *r, uint64_t last, struct apply_job *j)
{
    struct pending_ring *ring = &work_of(r)->pending;
    uint64_t last_term = 0;
    if (ring->count == 0) {
        return;
    }
    bool known = raft_term_at(r->core, last, &last_term);
    ASSERT(known && j->first <= last);
    size_t before = ring->count;
    if (slot_at(ring, 0)->index <= last) {
        metric_record(&engine_decided_ns, l->now_ns - slot_at(ring, 0)->appended_ns);
    }
    while (ring->count > 0) {
        struct pending *head = slot_at(ring, 0);
        uint64_t term = last_term;
        if (head->index > last && head->term >= last_term) {
            break;
        }
        bool decided = head->index <= last && raft_term_at(r->core, head->index, &term);
        struct pending p = pop_front(ring);
        if (!decided || term != p.term) {
            fail_pending(l, &p, THOLE_ABORTED, THOLE_REASON_DROPPED,
                         "leadership changed: the entry was replaced and will never be applied");
        } else if (p.control != NULL) {
            change_decided(r, &p);
        } else if (p.request != NULL) {
            engine__request_disarm(l, p.request);
            j->requests = j->requests != NULL
                              ? j->requests
                              : xmalloc((last - j->first + 1) * sizeof(struct pending));
            ASSERT(p.index >= j->first && j->request_count <= last - j->first);
            j->requests[j->request_count++] = p;
        }
    }
    metric_add(&engine_pending, (int64_t)ring->count - (int64_t)before);
}

void engine__proposals_installed(struct loop *l, struct replica *r, uint64_t index)
{
    struct pending_ring *ring = &work_of(r)->pending;
    while (ring->count > 0 && slot_at(ring, 0)->index <= index) {
        struct pending p = pop_front(ring);
        metric_add(&engine_pending, -1);
        fail_pending(l, &p, THOLE_UNKNOWN, THOLE_REASON_OUTCOME_UNKNOWN,
                     "a snapshot was installed over the entry");
    }
}

void engine__proposals_end(struct loop *l, struct replica *r, const struct thole_status *st)
{
    struct worker_msg *m;
    while ((m = msgq_pop(&work_of(r)->proposing)) != NULL) {
        struct engine_request *q = CONTAINER_OF(m, struct engine_request, msg);
        q->status = *st;
        engine__request_finish(q);
    }
    while (work_of(r)->pending.count > 0) {
        struct pending p = pop_front(&work_of(r)->pending);
        metric_add(&engine_pending, -1);
        fail_pending(l, &p, THOLE_UNKNOWN, THOLE_REASON_OUTCOME_UNKNOWN,
                     "the replica stopped before the entry was applied");
    }
}

void engine__proposals_abandon(struct loop *l, struct replica *r)
{
    ASSERT(!r->led && worker_is_current(l->w));
    while (work_of(r)->pending.count > 0) {
        struct pending p = pop_front(&work_of(r)->pending);
        metric_add(&engine_pending, -1);
        fail_pending(l, &p, THOLE_UNKNOWN, THOLE_REASON_OUTCOME_UNKNOWN,
                     "a write to the log of this host hangs; another replica may have the entry");
    }
}

void engine__proposal_expired(struct loop *l, struct engine_request *q)
{
    struct replica *r = map_get(&l->by_shard, q->shard_id);
    ASSERT(r != NULL);
    const struct pending_ring *ring = &work_of(r)->pending;
    ASSERT_SLOW(is_ascending(ring)); /* the search relies on it */
    size_t low = 0, high = ring->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (slot_at(ring, middle)->index < q->index) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    ASSERT(low < ring->count && slot_at(ring, low)->request == q);
    slot_at(ring, low)->request = NULL;
    engine__request_fail(q, THOLE_UNKNOWN, THOLE_REASON_OUTCOME_UNKNOWN,
                         "the deadline passed while the proposal was being replicated");
}
