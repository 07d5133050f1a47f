/* Nothing grows without bound: the memory of a replica, a loop and a machine, checked after every
 * turn. */
#include <inttypes.h>

#include "shards/raft/raft_internal.h"
#include "shards/sim/sim_internal.h"

/* An isolated leader takes proposals for two election timeouts; clients are few, and patient. */
#define PENDING_MAX 1000
/* One raft_propose, or one append, may exceed by this much a bound that it meets just below. */
#define ONE_MORE (2 * LIMIT_PAYLOAD_BYTES)

#define FAIL(s, m, format, ...)                                                     \
    sim__fail(s, "shard %" PRIu64 ", replica %" PRIu64 ": " format, (m)->shard->id, \
              (m)->replica_id, __VA_ARGS__)

/* ---- The core -------------------------------------------------------------------------------- */

static void check_window(struct sim *s, struct member *m, const struct raft_progress *p,
                         uint64_t peer)
{
    uint64_t bytes = 0, last = p->match;
    for (uint32_t i = 0; i < p->inflight_count; i++) {
        const struct raft_inflight *f = &p->inflight[(p->inflight_head + i) % p->inflight_capacity];
        bytes += f->bytes;
        if (f->last <= last || f->last >= p->next) {
            FAIL(s, m, "peer %" PRIu64 ": up to %" PRIu64 " is in flight, after %" PRIu64, peer,
                 f->last, last);
        }
        last = f->last;
    }
    if (bytes != p->inflight_bytes) {
        FAIL(s, m, "peer %" PRIu64 ": %" PRIu64 " bytes in flight, counted as %" PRIu64, peer,
             bytes, p->inflight_bytes);
    }
    if (p->inflight_count > LIMIT_INFLIGHT_MESSAGES ||
        bytes > LIMIT_INFLIGHT_BYTES + LIMIT_APPEND_BYTES + LIMIT_PAYLOAD_BYTES) {
        FAIL(s, m, "peer %" PRIu64 ": %u messages of %" PRIu64 " bytes in flight", peer,
             p->inflight_count, bytes);
    }
    if (p->state != RAFT_REPLICATE && p->inflight_count > 0) {
        FAIL(s, m, "peer %" PRIu64 ": %u messages in flight in state %d", peer, p->inflight_count,
             (int)p->state);
    }
}

/* The count must be exact: a leak would make the leader refuse all proposals one day. */
static void check_uncommitted(struct sim *s, struct member *m, const struct raft *r)
{
    uint64_t first = r->commit + 1 > r->lead->first_index ? r->commit + 1 : r->lead->first_index;
    uint64_t bytes = 0;
    for (uint64_t i = first; i <= r->log.last_index; i++) {
        bytes += raft_entry_size(raft__log_entry(&r->log, i));
    }
    if (bytes != r->lead->uncommitted_bytes) {
        FAIL(s, m, "%" PRIu64 " bytes are uncommitted, counted as %" PRIu64, bytes,
             r->lead->uncommitted_bytes);
    }
    if (bytes > LIMIT_UNCOMMITTED_BYTES + ONE_MORE) {
        FAIL(s, m, "%" PRIu64 " bytes are uncommitted", bytes);
    }
}

/* Beyond its limit the cache holds only entries that are not applied; far beyond it, only entries
 * that are not durable. */
static void check_cache(struct sim *s, struct member *m, const struct raft *r)
{
    const struct raft_log *l = &r->log;
    size_t applied = 0, durable = 0, all = 0;
    uint64_t counted = UINT64_MAX;
    if (r->role == RAFT_LEADER) {
        counted = r->commit >= r->lead->first_index ? r->commit : r->lead->first_index - 1;
    }
    for (uint64_t i = raft__log_cache_first(l); i <= l->last_index; i++) {
        all += raft_entry_size(raft__log_entry(l, i));
        applied = i <= r->applied ? all : applied;
        durable = i <= l->durable && i <= counted ? all : durable;
    }
    if (all != raft__log_cached_bytes(l)) {
        FAIL(s, m, "%zu bytes are cached, counted as %zu", all, raft__log_cached_bytes(l));
    }
    if (applied > r->options.cache_bytes) {
        FAIL(s, m, "%zu bytes of applied entries are cached", applied);
    }
    if (durable > r->options.cache_bytes + LIMIT_APPLYING_BYTES + ONE_MORE) {
        FAIL(s, m, "%zu bytes of durable entries are cached", durable);
    }
}

static void check_core(struct sim *s, struct member *m, const struct raft *r)
{
    check_cache(s, m, r);
    if (r->role == RAFT_LEADER) {
        check_uncommitted(s, m, r);
        for (uint32_t i = 0; r->lead->peers != NULL && i < r->lead->peer_count; i++) {
            check_window(s, m, &r->lead->peers[i], raft__config(r)->members[i].replica_id);
        }
    }
    if (r->awake == NULL && !r->asleep) {
        FAIL(s, m, "awake in term %" PRIu64 " without what that takes", r->term);
    }
    const struct raft_awake none = {0}, *a = r->awake != NULL ? r->awake : &none;
    if (a->outbox.withheld_count > RAFT_WITHHELD_MAX) {
        FAIL(s, m, "%zu messages wait for the disk", a->outbox.withheld_count);
    }
    if (a->reads.count > RAFT_READS_MAX || a->reads.count < a->reads.started) {
        FAIL(s, m, "%zu reads are outstanding, %zu of them started", a->reads.count,
             a->reads.started);
    }
    /* One token for each write under way: the batch at the writer, and the one that grows. */
    if (a->persist.token - a->persist.done > raft__log_write_count(&r->log)) {
        FAIL(s, m, "%" PRIu64 " writes under way, %zu known", a->persist.token - a->persist.done,
             raft__log_write_count(&r->log));
    }
}

/* ---- The engine's part of a replica ---------------------------------------------------------- */

static void check_request_ids(struct sim *s, struct member *m, const struct session_table *t)
{
    size_t linked = 0, live = 0, bytes = 0;
    bool is_live = false;
    for (const struct request_answer *r = t->ids.oldest; r != NULL; r = r->newer) {
        linked++;
        is_live = is_live || r == t->ids.live;
        live += is_live;
        bytes += r->result != NULL ? r->result->size : 0;
        if (r->newer != NULL && (r->newer->index <= r->index || r->newer->older != r)) {
            FAIL(s, m, "request ids are not in the order of the log at %" PRIu64, r->index);
        }
    }
    if (linked != t->ids.count || live != t->ids.live_count) {
        FAIL(s, m, "%zu request ids, %zu of them live, counted as %zu and %zu", linked, live,
             t->ids.count, t->ids.live_count);
    }
    if (live > LIMIT_REQUEST_IDS || linked > LIMIT_REQUEST_IDS_MAX ||
        bytes > LIMIT_SESSION_ANSWERS_BYTES_MAX) {
        FAIL(s, m, "%zu request ids are remembered with %zu bytes of answers", linked, bytes);
    }
}

static void check_sessions(struct sim *s, struct member *m, const struct session_table *t)
{
    struct session *x;
    size_t it = 0, linked = 0, bytes = 0;
    if (t->by_id.count > LIMIT_SESSIONS) {
        FAIL(s, m, "%zu sessions", t->by_id.count);
    }
    while ((x = map_next(&t->by_id, &it, NULL)) != NULL) {
        if (x->count > LIMIT_SESSION_RESULTS) {
            FAIL(s, m, "session %" PRIu64 " remembers %u answers", x->id, x->count);
        }
        for (uint32_t i = 0; i < x->count; i++) {
            size_t size = x->results[i].result != NULL ? x->results[i].result->size : 0;
            bytes += size;
            if (size > LIMIT_SESSION_RESULT_BYTES) {
                FAIL(s, m, "session %" PRIu64 " remembers an answer of %zu bytes", x->id, size);
            }
        }
    }
    if (bytes > LIMIT_SESSION_ANSWERS_BYTES_MAX) {
        FAIL(s, m, "sessions remember %zu bytes of answers", bytes);
    }
    for (x = t->oldest; x != NULL && linked <= t->by_id.count; x = x->newer) {
        linked++;
    }
    if (linked != t->by_id.count) {
        FAIL(s, m, "%zu sessions, %zu of them in order of use", t->by_id.count, linked);
    }
}

void sim__check_bounds(struct sim *s, struct member *m, struct replica *r)
{
    check_core(s, m, r->core);
    if (r->machine != NULL) {
        check_sessions(s, m, &r->machine->sessions);
        check_request_ids(s, m, &r->machine->sessions);
    }
    if (sim_work(r)->applying_bytes >
        LIMIT_APPLYING_BYTES + LIMIT_APPLYING_BYTES / 4 + LIMIT_PAYLOAD_BYTES) {
        FAIL(s, m, "%zu bytes wait for the applier", sim_work(r)->applying_bytes);
    }
    if ((sim_work(r)->applying_jobs == 0) != (sim_work(r)->applying_bytes == 0)) {
        FAIL(s, m, "%zu bytes wait for the applier in %zu jobs", sim_work(r)->applying_bytes,
             sim_work(r)->applying_jobs);
    }
    if (sim_work(r)->pending.count >
        PENDING_MAX) { /* given up by their clients, and not yet decided */
        FAIL(s, m, "%zu outcomes are awaited, there are %zu clients' requests",
             sim_work(r)->pending.count, s->op_count);
    }
}

/* ---- Loops ----------------------------------------------------------------------------------- */

/* One batch grows while at most one is at the writer; a replica has one update in it. */
static void check_batches(struct sim *s, struct sim_host *h, const struct loop *l)
{
    size_t posted = 0;
    for (const struct worker_msg *m = h->engine->writer->mailbox.head; m != NULL; m = m->next) {
        posted += CONTAINER_OF(m, struct write_batch, msg)->loop == l;
    }
    if (posted > (l->in_flight != NULL ? 1 : 0)) {
        sim__fail(s, "host %d: %zu batches of a loop at the writer", h->id, posted);
    }
    for (size_t i = 0; l->next != NULL && i < l->next->count; i++) {
        const struct write_update *u = &l->next->updates[i];
        if (u->r != NULL && u->r->core != NULL && u->entry_count > u->r->core->log.last_index) {
            sim__fail(s, "host %d: %zu entries wait to be written, the log ends at %" PRIu64, h->id,
                      u->entry_count, u->r->core->log.last_index);
        }
        if (u->r != NULL && u->r->state == GROUP_RUNNING && u->token != 0 &&
            (sim_work(u->r)->update_batch != l->next || sim_work(u->r)->update_slot != i)) {
            sim__fail(s, "host %d: replica %" PRIu64 " has two updates in a batch", h->id,
                      u->r->replica_id);
        }
    }
}

void sim__check_loop_bounds(struct sim *s, struct sim_host *h, struct loop *l)
{
    size_t waiting = 0;
    for (struct worker_msg *m = l->w->mailbox.head; m != NULL; m = m->next) {
        waiting += m->kind == MSG_INBOUND ? CONTAINER_OF(m, struct inbound, msg)->bytes : 0;
    }
    if (waiting != l->inbound_bytes || waiting > ENGINE_INBOUND_BYTES_MAX) {
        sim__fail(s, "host %d: %zu bytes of frames wait, counted as %zu", h->id, waiting,
                  (size_t)l->inbound_bytes);
    }
    check_batches(s, h, l);
}
