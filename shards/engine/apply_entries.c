/* Applies the committed entries of one job: dedupe table, machine, answers to proposers.
 *
 * The answer of an entry in a session is known only after the machine has run. So a persistent
 * machine asks for the metadata of the batch when its results are final, and stores the answers in
 * the same write as its data: no crash can leave one without the other. */
#include <stdlib.h>
#include <string.h>

#include "shards/engine/meta.h"

#define BATCH_ENTRIES 512
/* Results of a batch may take this many bytes, estimated from the machine's largest one so far. */
#define BATCH_RESULT_BYTES (16 * MIB)
/* Results beyond this are dropped, unless the dedupe table must remember them: its content must not
 * depend on how entries were batched. */
#define BATCH_RESULT_BYTES_MAX (64 * MIB)
/* Small results of a batch share a buffer of this size; a large one has its own. So a result that a
 * caller keeps for long keeps little else in memory. */
#define SHARED_RESULT_BYTES (64 * KIB)
#define OWN_RESULT_BYTES (SHARED_RESULT_BYTES / 16)

struct result_sink {
    struct thole_sink base;
    struct apply_batch *b;
    size_t offset, size;
    bool wanted;     /* a request waits for it, or the dedupe table remembers it */
    bool remembered; /* by the dedupe table */
    bool dropped;
};
struct item {
    struct raft_entry *entry; /* borrowed from the job */
    struct engine_request *request;
    struct request_answer *answer; /* reserved for it; NULL: it has no request id */
};
struct apply_batch {
    struct replica *r;
    struct machine *m;
    struct apply_job *job;
    size_t request_at;
    uint64_t last_index, last_term; /* of the newest entry that was looked at */
    struct raft_stamp last_stamp;
    uint64_t stored_index; /* the applied index that the machine has stored */
    size_t count;
    struct thole_entry entries[BATCH_ENTRIES];
    struct result_sink sinks[BATCH_ENTRIES];
    struct item items[BATCH_ENTRIES];
    struct bytes results;
    struct meta_list metas;
    bool remembered; /* the answers of the batch are in the dedupe table, and in `metas` */
    struct thole_apply apply;
    struct thole_watch_sink watch;
};

struct apply_batch *engine__apply_batch_new(void)
{
    return xcalloc(1, sizeof(struct apply_batch));
}

void engine__apply_batch_free(struct apply_batch *b)
{
    bytes_deinit(&b->results);
    meta_list_deinit(&b->metas);
    free(b);
}

static void emit(struct thole_watch_sink *s, uint64_t index, struct thole_slice key,
                 struct thole_slice event)
{
    struct apply_batch *b = CONTAINER_OF(s, struct apply_batch, watch);
    engine__watch_event(b->r, index, slice_of(key.data, key.size),
                        slice_of(event.data, event.size));
}

void engine__apply_begin(struct apply_batch *b, struct replica *r, struct apply_job *j)
{
    ASSERT(worker_is_current(r->applier->w));
    ASSERT(b->count == 0); /* the job before was done or abandoned */
    b->r = r;
    b->m = r->machine;
    b->job = j;
    b->request_at = 0;
    b->watch = (struct thole_watch_sink){sizeof b->watch, emit};
    b->last_index = b->m != NULL ? b->m->applied : 0;
    b->last_term = b->m != NULL ? b->m->applied_term : 0;
    b->last_stamp = b->m != NULL ? b->m->applied_stamp : (struct raft_stamp){0};
    b->stored_index = b->last_index;
    bytes_clear(&b->results);
    meta_list_clear(&b->metas);
}

/* ---- Results --------------------------------------------------------------------------------- */

static enum thole_code write_result(struct thole_sink *s, const void *data, size_t size)
{
    struct result_sink *sink = CONTAINER_OF(s, struct result_sink, base);
    struct bytes *all = &sink->b->results;
    if (size > LIMIT_RESULT_BYTES - sink->size) {
        return THOLE_RESOURCE_EXHAUSTED;
    }
    bool remembered = sink->remembered && sink->size + size <= LIMIT_SESSION_RESULT_BYTES;
    if (!remembered && all->size + size > BATCH_RESULT_BYTES_MAX) {
        sink->dropped = true;
    }
    if (sink->wanted && !sink->dropped) {
        if (sink->offset + sink->size !=
            all->size) { /* another entry has written since: move this result to the end */
            size_t from = sink->offset;
            sink->offset = all->size;
            uint8_t *to = bytes_extend(all, sink->size);
            memcpy(to, all->data + from, sink->size);
        }
        bytes_append(all, data, size);
    }
    sink->size += size;
    return THOLE_OK;
}

/* The buffer for small results. `left`: bytes of results of the batch still to come, at most. */
struct shared_buf {
    struct buf *buf;
    size_t used, left;
};

static struct bufslice keep_result(struct shared_buf *to, struct slice result)
{
    if (result.size == 0) {
        return (struct bufslice){0};
    }
    if (result.size >= OWN_RESULT_BYTES) {
        struct buf *own = buf_copy(result.data, result.size);
        return (struct bufslice){own, slice_of(own->data, own->size)};
    }
    if (to->buf == NULL || to->buf->size - to->used < result.size) {
        buf_unref(to->buf);
        to->buf = buf_new(to->left < SHARED_RESULT_BYTES ? to->left : SHARED_RESULT_BYTES);
        to->used = 0;
    }
    ASSERT(result.size <= to->buf->size - to->used);
    uint8_t *at = to->buf->data + to->used;
    memcpy(at, result.data, result.size);
    to->used += result.size;
    return (struct bufslice){buf_ref(to->buf), slice_of(at, result.size)};
}

static void session_changed(void *ctx, enum session_change what, const struct session *s,
                            uint64_t sequence)
{
    struct apply_batch *b = ctx;
    if (!b->m->persistent) {
        return;
    }
    switch (what) {
    case SESSION_CHANGED:
        meta_add_head(&b->metas, s);
        break;
    case SESSION_GONE:
        meta_remove_head(&b->metas, s->id);
        break;
    case RESULT_GONE:
        meta_remove_result(&b->metas, s->id, sequence);
        break;
    case RESULT_CUT:
        meta_add_result(&b->metas, s->id, session_result_of(s, sequence));
        break;
    }
}

static void request_changed(void *ctx, enum session_change what, const struct request_answer *r)
{
    struct apply_batch *b = ctx;
    if (!b->m->persistent) {
        return;
    }
    if (what == RESULT_GONE) {
        meta_remove_answer(&b->metas, r->index);
    } else {
        ASSERT(what == RESULT_CUT);
        meta_add_answer(&b->metas, r);
    }
}

static struct session_observer observer(struct apply_batch *b)
{
    return (struct session_observer){b, session_changed, request_changed};
}

static struct slice result_of(const struct apply_batch *b, size_t slot)
{
    const struct result_sink *sink = &b->sinks[slot];
    ASSERT(slot < b->count && sink->b == b);
    return sink->wanted && sink->size > 0 ? slice_of(b->results.data + sink->offset, sink->size)
                                          : (struct slice){0};
}

static void remember_answer(struct apply_batch *b, size_t slot, const struct session_observer *o)
{
    struct request_answer *answer = b->items[slot].answer;
    request_id_finish(&b->m->sessions, answer, b->entries[slot].code, result_of(b, slot), o);
    if (b->m->persistent) {
        meta_add_answer(&b->metas, answer);
    }
}

/* The results of the batch are final: put its answers into the dedupe table, and into the
 * metadata. */
static void remember(struct apply_batch *b)
{
    const struct session_observer o = observer(b);
    ASSERT(!b->remembered);
    b->remembered = true;
    for (size_t i = 0; i < b->count; i++) {
        const struct raft_entry *e = b->items[i].entry;
        if (b->items[i].answer != NULL) {
            remember_answer(b, i, &o);
        }
        if (e->session == 0) {
            continue;
        }
        const struct session_result *known = session_finish(
            &b->m->sessions, e->session, e->sequence, b->entries[i].code, result_of(b, i), &o);
        if (known != NULL && b->m->persistent) {
            struct session_result stored = *known;
            if (CANARY(answers_apart)) {
                stored.code = 0;
                stored.result = NULL;
            }
            meta_add_result(&b->metas, e->session, &stored);
        }
    }
}

/* struct thole_apply: a persistent machine asks for the metadata of the batch. */
static const struct thole_meta *metadata(struct thole_apply *apply, size_t *ret_count)
{
    struct apply_batch *b = CONTAINER_OF(apply, struct apply_batch, apply);
    if (!b->remembered) {
        remember(b);
        meta_add_applied(&b->metas, b->last_index, b->last_term, b->last_stamp);
    }
    *ret_count = b->metas.count;
    return meta_list_ready(&b->metas);
}

static void complete(struct apply_batch *b, const struct item *item, size_t slot,
                     struct shared_buf *shared)
{
    struct engine_request *q = item->request;
    const struct result_sink *sink = &b->sinks[slot];
    struct slice result = result_of(b, slot);
    if (sink->size > b->m->largest_result) {
        b->m->largest_result = sink->size;
    }
    if (q == NULL) {
        return;
    }
    q->index = item->entry->index;
    q->term = item->entry->term;
    q->code = b->entries[slot].code;
    if (sink->dropped) {
        engine__request_fail(
            q, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_OUTCOME_UNKNOWN,
            "applied, but the answer was dropped: too many large answers at the same time");
        return;
    }
    q->result = keep_result(shared, result);
    shared->left -= result.size;
    engine__request_finish(q);
}

static enum thole_code call_machine(struct apply_batch *b, struct thole_status *st)
{
    struct machine *m = b->m;
    if (m->lock != NULL) {
        pthread_rwlock_wrlock(m->lock);
    }
    enum thole_code code = engine__machine_result(m->type->apply(m->state, &b->apply, st), st);
    m->due = b->apply.due;
    if (m->lock != NULL) {
        pthread_rwlock_unlock(m->lock);
    }
    return code;
}

/* The canary answers_apart: the answers follow the data in a second write. */
static enum thole_code store_answers_apart(struct apply_batch *b, struct thole_status *st)
{
    meta_list_clear(&b->metas);
    for (size_t i = 0; i < b->count; i++) {
        const struct raft_entry *e = b->items[i].entry;
        const struct session *s = map_get(&b->m->sessions.by_id, e->session);
        const struct session_result *r = s != NULL ? session_result_of(s, e->sequence) : NULL;
        if (r != NULL) {
            meta_add_result(&b->metas, e->session, r);
        }
    }
    b->apply.entry_count = 0;
    return call_machine(b, st);
}

static enum thole_code run_machine(struct apply_batch *b, struct thole_status *st)
{
    b->remembered = false;
    b->apply = (struct thole_apply){
        .size = sizeof b->apply,
        .entry_size = sizeof b->entries[0],
        .entries = b->entries,
        .entry_count = b->count,
        .applied_index = b->last_index,
        .metadata = b->m->persistent ? metadata : NULL,
        .watch = b->r->watches != NULL ? &b->watch : NULL,
        .due = b->m->due,
    };
    enum thole_code code = call_machine(b, st);
    if (code == THOLE_OK && b->m->persistent && !b->remembered) {
        code = THOLE_FAIL(st, THOLE_INTERNAL, THOLE_REASON_MACHINE_FAILED,
                          "the machine did not store the metadata of a batch");
    }
    if (code == THOLE_OK && !b->m->persistent) {
        remember(b);
    }
    if (CANARY(answers_apart) && code == THOLE_OK && b->m->persistent) {
        code = store_answers_apart(b, st);
    }
    return code;
}

static enum thole_code flush(struct apply_batch *b, struct thole_status *st)
{
    /* Entries that are not for the machine advance its applied index too. */
    bool behind = b->m->persistent && b->stored_index != b->last_index;
    ASSERT(b->stored_index <= b->last_index);
    if (b->count == 0 && b->metas.count == 0 && !behind) {
        return THOLE_OK;
    }
    pthread_mutex_lock(&b->r->applier->watch_lock);
    enum thole_code code = run_machine(b, st);
    if (code == THOLE_OK) {
        b->r->watch_applied = b->stored_index = b->last_index;
    }
    pthread_mutex_unlock(&b->r->applier->watch_lock);
    if (code != THOLE_OK) {
        return code;
    }
    struct shared_buf shared = {.left = b->results.size};
    for (size_t i = 0; i < b->count; i++) {
        complete(b, &b->items[i], i, &shared);
    }
    buf_unref(shared.buf);
    b->count = 0;
    bytes_clear(&b->results);
    if (b->results.capacity > BATCH_RESULT_BYTES) {
        bytes_deinit(&b->results);
    }
    meta_list_clear(&b->metas);
    return THOLE_OK;
}

/* ---- Entries --------------------------------------------------------------------------------- */

static struct engine_request *request_of(struct apply_batch *b, uint64_t index)
{
    struct apply_job *j = b->job;
    if (b->request_at == j->request_count || j->requests[b->request_at].index != index) {
        return NULL;
    }
    struct engine_request *q = j->requests[b->request_at].request;
    j->requests[b->request_at++].request = NULL;
    return q;
}

static void add_item(struct apply_batch *b, struct raft_entry *e, struct engine_request *q,
                     struct request_answer *answer)
{
    ASSERT(b->count < BATCH_ENTRIES);
    size_t i = b->count++;
    b->items[i] = (struct item){e, q, answer};
    bool remembered = e->session != 0 || answer != NULL;
    b->sinks[i] = (struct result_sink){.base = {sizeof(struct thole_sink), write_result},
                                       .b = b,
                                       .wanted = q != NULL || remembered,
                                       .remembered = remembered};
    b->entries[i] = (struct thole_entry){
        .size = sizeof b->entries[i],
        .kind = e->kind == RAFT_ENTRY_TICK ? THOLE_ENTRY_TICK : THOLE_ENTRY_COMMAND,
        .index = e->index,
        .term = e->term,
        .now_ms = e->stamp.now_ms,
        .alive_ms = e->stamp.alive_ms,
        .command = {e->payload.bytes.data, e->payload.bytes.size},
        .result = &b->sinks[i].base,
    };
}

static void answer_again(struct engine_request *q, uint64_t index, uint64_t code,
                         struct buf *result, bool cut)
{
    q->duplicate = true;
    q->forgotten = cut;
    q->index = index;
    q->code = code;
    if (result != NULL) {
        q->result = (struct bufslice){buf_ref(result), slice_of(result->data, result->size)};
    }
    engine__request_finish(q);
}

static void answer(struct engine_request *q, const struct raft_entry *e,
                   enum session_verdict verdict, const struct session_result *first)
{
    if (q == NULL) {
        return;
    }
    q->index = e->index;
    q->term = e->term;
    if (verdict == SESSION_DUPLICATE) {
        answer_again(q, first->index, first->code, first->result, first->cut);
    } else if (verdict == SESSION_EXPIRED) {
        engine__request_fail(q, THOLE_FAILED_PRECONDITION, THOLE_REASON_SESSION_EXPIRED,
                             "the session is not, or no longer, known to the shard");
    } else {
        engine__request_fail(q, THOLE_FAILED_PRECONDITION, THOLE_REASON_SEQUENCE_TOO_OLD,
                             "the sequence is below what the session remembers");
    }
}

static enum thole_code apply_in_session(struct apply_batch *b, struct raft_entry *e,
                                        struct thole_status *st)
{
    const struct session_observer o = observer(b);
    const struct session_result *first = NULL;
    enum session_verdict v =
        session_begin(&b->m->sessions, e->session, e->sequence, e->index, &o, &first);
    if (v == SESSION_BUSY) {
        enum thole_code code = flush(b, st);
        if (code != THOLE_OK) {
            return code;
        }
        v = session_begin(&b->m->sessions, e->session, e->sequence, e->index, &o, &first);
    }
    ASSERT(v != SESSION_BUSY);
    struct engine_request *q = request_of(b, e->index);
    if (v != SESSION_APPLY) {
        answer(q, e, v, first);
        return THOLE_OK;
    }
    add_item(b, e, q, NULL);
    return THOLE_OK;
}

/* The time by which request ids expire. */
static uint64_t alive_ms(const struct apply_batch *b, const struct raft_entry *e)
{
    return CANARY(request_ids_by_clock) ? clock_now(b->r->e->clock) / NS_PER_MS : e->stamp.alive_ms;
}

static enum thole_code apply_with_id(struct apply_batch *b, struct raft_entry *e,
                                     struct thole_status *st)
{
    const struct session_observer o = observer(b);
    struct session_table *t = &b->m->sessions;
    struct request_answer *first = NULL;
    uint64_t alive = alive_ms(b, e);
    enum session_verdict v = request_id_begin(t, raft_entry_id(e), e->index, alive, &o, &first);
    if (v == SESSION_BUSY) {
        enum thole_code code = flush(b, st);
        if (code != THOLE_OK) {
            return code;
        }
        v = request_id_begin(t, raft_entry_id(e), e->index, alive, &o, &first);
    }
    struct engine_request *q = request_of(b, e->index);
    if (v == SESSION_APPLY) {
        add_item(b, e, q, first);
        return THOLE_OK;
    }
    ASSERT(v == SESSION_DUPLICATE || v == REQUEST_IDS_FULL);
    if (q != NULL && v == SESSION_DUPLICATE) {
        q->term = e->term;
        answer_again(q, first->index, first->code, first->result, first->cut);
    } else if (q != NULL) {
        engine__request_fail(q, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_QUEUE_FULL,
                             "the shard remembers as many request ids as it can: retry later, or "
                             "use a session");
    }
    return THOLE_OK;
}

static enum thole_code close_session(struct apply_batch *b, struct raft_entry *e,
                                     struct thole_status *st)
{
    const struct session_observer o = observer(b);
    if (!session_close(&b->m->sessions, e->session, &o)) {
        enum thole_code code = flush(b, st);
        if (code != THOLE_OK) {
            return code;
        }
        bool closed = session_close(&b->m->sessions, e->session, &o);
        ASSERT(closed); /* nothing is reserved after a flush */
    }
    struct engine_request *q = request_of(b, e->index);
    if (q != NULL) {
        q->index = e->index;
        engine__request_finish(q);
    }
    return THOLE_OK;
}

static enum thole_code open_session(struct apply_batch *b, struct raft_entry *e,
                                    struct thole_status *st)
{
    const struct session_observer o = observer(b);
    uint64_t id = session_id(e->session, e->index);
    if (!session_open(&b->m->sessions, id, e->index, &o)) {
        enum thole_code code = flush(b, st);
        if (code != THOLE_OK) {
            return code;
        }
        bool opened = session_open(&b->m->sessions, id, e->index, &o);
        ASSERT(opened); /* nothing is reserved after a flush */
    }
    struct engine_request *q = request_of(b, e->index);
    if (q != NULL) {
        q->index = e->index;
        q->code = id;
        engine__request_finish(q);
    }
    return THOLE_OK;
}

/* Entries of a batch, at most. Estimated, since the size of a result is known only afterwards. */
static size_t most_entries(const struct apply_batch *b)
{
    size_t largest = b->m->largest_result;
    ASSERT(largest <= LIMIT_RESULT_BYTES);
    return largest <= BATCH_RESULT_BYTES / BATCH_ENTRIES ? BATCH_ENTRIES
                                                         : BATCH_RESULT_BYTES / largest;
}

enum thole_code engine__apply_entries(struct apply_batch *b, struct raft_entry *const *entries,
                                      size_t n, struct thole_status *st)
{
    enum thole_code code = THOLE_OK;
    for (size_t i = 0; i < n && code == THOLE_OK; i++) {
        struct raft_entry *e = entries[i];
        /* Committed entries, in order, each once. */
        ASSERT(e->index > b->last_index);
        ASSERT(e->index == b->last_index + 1 || CANARY(apply_skips));
        if (b->m->sessions.ids.oldest != NULL) {
            const struct session_observer o = observer(b);
            request_ids_expire(&b->m->sessions, alive_ms(b, e), &o);
        }
        if (e->kind == RAFT_ENTRY_SESSION && e->sequence == RAFT_SESSION_CLOSE) {
            code = close_session(b, e, st);
        } else if (e->kind == RAFT_ENTRY_SESSION) {
            code = open_session(b, e, st);
        } else if (e->kind == RAFT_ENTRY_COMMAND && e->session != 0) {
            code = apply_in_session(b, e, st);
        } else if (e->kind == RAFT_ENTRY_COMMAND && e->id_size > 0) {
            code = apply_with_id(b, e, st);
        } else if (e->kind == RAFT_ENTRY_COMMAND || e->kind == RAFT_ENTRY_TICK) {
            add_item(b, e, request_of(b, e->index), NULL);
        }
        b->job->ticked = b->job->ticked || e->kind == RAFT_ENTRY_TICK;
        b->last_index = e->index;
        b->last_term = e->term;
        b->last_stamp = e->stamp;
        if (code == THOLE_OK && b->count >= most_entries(b)) {
            code = flush(b, st);
        }
    }
    /* The caller releases the entries of this page when we return. */
    return code == THOLE_OK ? flush(b, st) : code;
}

void engine__apply_done(struct apply_batch *b)
{
    ASSERT(b->request_at == b->job->request_count && b->count == 0);
    ASSERT(b->last_index == b->job->last && b->m->applied < b->job->last);
    b->m->applied = b->job->last;
    b->m->applied_term = b->last_term;
    b->m->applied_stamp = b->last_stamp;
    b->job->due = b->m->due;
}

void engine__apply_abandon(struct apply_batch *b)
{
    for (size_t i = 0; i < b->count; i++) {
        if (b->items[i].request != NULL) {
            engine__request_fail(b->items[i].request, THOLE_UNKNOWN, THOLE_REASON_OUTCOME_UNKNOWN,
                                 "the machine failed while it applied the entry");
        }
    }
    b->count = 0;
    for (; b->request_at < b->job->request_count; b->request_at++) {
        struct pending *p = &b->job->requests[b->request_at];
        engine__request_fail(p->request, THOLE_UNKNOWN, THOLE_REASON_OUTCOME_UNKNOWN,
                             "the machine failed before it applied the entry");
        p->request = NULL;
    }
}
