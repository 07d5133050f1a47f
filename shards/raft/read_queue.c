/* The queue of read_queue.h; read_index.c holds the protocol. */
#include "shards/raft/read_queue.h"

#include <stdlib.h>

#include "base/assert.h"

void raft__reads_deinit(struct raft_reads *q)
{
    free(q->queue);
    free(q->results);
    *q = (struct raft_reads){0};
}

bool raft__reads_full(const struct raft_reads *q)
{
    return q->count >= RAFT_READS_MAX;
}

static void grow(struct raft_reads *q)
{
    size_t capacity = q->capacity == 0 ? 2 : q->capacity * 2;
    struct raft_read_wait *ring = xmalloc(capacity * sizeof *ring);

    for (size_t i = 0; i < q->count; i++) {
        ring[i] = *raft__reads_at(q, i);
    }
    free(q->queue);
    q->queue = ring;
    q->capacity = capacity;
    q->head = 0;
}

void raft__reads_push(struct raft_reads *q, struct raft_read_wait w)
{
    ASSERT(!raft__reads_full(q) && w.number == 0);
    if (q->count == q->capacity) {
        grow(q);
    }
    q->count++;
    *raft__reads_at(q, q->count - 1) = w;
}

struct raft_read_wait *raft__reads_at(const struct raft_reads *q, size_t i)
{
    ASSERT(i < q->count);
    return &q->queue[(q->head + i) & (q->capacity - 1)];
}

struct raft_read_wait *raft__reads_front(struct raft_reads *q)
{
    return q->count > 0 ? raft__reads_at(q, 0) : NULL;
}

struct raft_read_wait raft__reads_pop(struct raft_reads *q)
{
    struct raft_read_wait w = *raft__reads_at(q, 0);

    q->head = (q->head + 1) & (q->capacity - 1);
    q->count--;
    if (q->started > 0) {
        q->started--;
    }
    if (q->count == 0 && q->capacity > 64) {
        /* Read storms must not hold memory afterwards. */
        free(q->queue);
        q->queue = NULL;
        q->capacity = 0;
        q->head = 0;
    }
    return w;
}

void raft__reads_result(struct raft_reads *q, uint64_t context, uint64_t index, bool failed)
{
    if (q->result_count == q->result_capacity) {
        q->result_capacity = q->result_capacity == 0 ? 2 : q->result_capacity * 2;
        q->results = xrealloc(q->results, q->result_capacity * sizeof *q->results);
    }
    q->results[q->result_count++] =
        (struct raft_read_result){.context = context, .index = index, .failed = failed};
}

void raft__reads_take_back(struct raft_reads *q)
{
    if (!q->lent) {
        return;
    }
    q->lent = false;
    q->result_count = 0;
    if (q->result_capacity > 64) {
        free(q->results);
        q->results = NULL;
        q->result_capacity = 0;
    }
}

void raft__reads_check(const struct raft_reads *q, uint64_t number)
{
    /* Of a long queue only the front, which is answered and expires next. */
    size_t n = q->count < 64 ? q->count : 64;

    ASSERT(q->started <= q->count && q->count <= q->capacity && q->count <= RAFT_READS_MAX);
    ASSERT((q->capacity & (q->capacity - 1)) == 0);
    for (size_t i = 0; i < n; i++) {
        const struct raft_read_wait *w = raft__reads_at(q, i);
        ASSERT((w->number != 0) == (i < q->started) && w->number <= number);
        if (i > 0) {
            const struct raft_read_wait *before = raft__reads_at(q, i - 1);
            ASSERT(before->deadline_ms <= w->deadline_ms);
            ASSERT(w->number == 0 || before->number <= w->number);
            ASSERT(w->number == 0 || before->index <= w->index);
        }
    }
}
