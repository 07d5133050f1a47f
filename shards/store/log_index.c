#include "shards/store/log_index.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

void log_index_deinit(struct log_index *x)
{
    free(x->runs);
    free(x->terms);
    *x = (struct log_index){0};
}

void log_index_reset(struct log_index *x, uint64_t start, uint64_t start_term)
{
    x->start = x->last = start;
    x->start_term = start_term;
    x->bytes = 0;
    x->run_head = x->run_end = 0;
    x->term_head = x->term_end = 0;
}

/* Make room for one more element: first by moving to the front what a long head has freed. */
static void *queue_room(void *items, size_t size, size_t *head, size_t *end, size_t *capacity)
{
    if (*end < *capacity) {
        return items;
    }
    if (*head > *capacity / 2) {
        memmove(items, (char *)items + *head * size, (*end - *head) * size);
        *end -= *head;
        *head = 0;
        return items;
    }
    *capacity = *capacity == 0 ? 4 : *capacity * 2;
    return xrealloc(items, *capacity * size);
}

void log_index_add_run(struct log_index *x, uint32_t count, bool config, size_t bytes)
{
    ASSERT(count > 0 && count <= INT32_MAX && bytes <= UINT32_MAX);
    x->runs = queue_room(x->runs, sizeof *x->runs, &x->run_head, &x->run_end, &x->run_capacity);
    x->runs[x->run_end++] = (struct store_run){
        .first = x->last + 1,
        .count = count & INT32_MAX,
        .config = config,
        .bytes = (uint32_t)bytes,
    };
    x->last += count;
    x->bytes += bytes;
}

void log_index_add_term(struct log_index *x, uint64_t index, uint64_t term)
{
    if (x->term_end > x->term_head && x->terms[x->term_end - 1].term == term) {
        return;
    }
    x->terms =
        queue_room(x->terms, sizeof *x->terms, &x->term_head, &x->term_end, &x->term_capacity);
    x->terms[x->term_end++] = (struct raft_term_run){.first_index = index, .term = term};
}

void log_index_truncate(struct log_index *x, uint64_t from, size_t cut_bytes, bool cut_config)
{
    ASSERT(from > x->start && from <= x->last + 1);
    while (x->run_end > x->run_head && x->runs[x->run_end - 1].first >= from) {
        x->bytes -= x->runs[--x->run_end].bytes;
    }
    struct store_run *cut = x->run_end > x->run_head ? &x->runs[x->run_end - 1] : NULL;
    if (cut != NULL && cut->first + cut->count > from) {
        x->bytes -= cut->bytes - cut_bytes;
        cut->count = (from - cut->first) & INT32_MAX;
        cut->config = cut_config;
        cut->bytes = (uint32_t)cut_bytes;
    }
    while (x->term_end > x->term_head && x->terms[x->term_end - 1].first_index >= from) {
        x->term_end--;
    }
    x->last = from - 1;
}

void log_index_compact(struct log_index *x, uint64_t start, uint64_t start_term)
{
    ASSERT(start >= x->start);
    if (start >= x->last) {
        log_index_reset(x, start, start_term);
        return;
    }
    while (x->run_head < x->run_end &&
           x->runs[x->run_head].first + x->runs[x->run_head].count - 1 <= start) {
        x->bytes -= x->runs[x->run_head++].bytes;
    }
    while (x->term_head + 1 < x->term_end && x->terms[x->term_head + 1].first_index <= start + 1) {
        x->term_head++;
    }
    x->terms[x->term_head].first_index = start + 1;
    x->start = start;
    x->start_term = start_term;
}

const struct store_run *log_index_find(const struct log_index *x, uint64_t index)
{
    size_t lo = x->run_head, hi = x->run_end;

    while (lo < hi) { /* the first run that begins beyond `index` */
        size_t mid = lo + (hi - lo) / 2;

        if (x->runs[mid].first <= index) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    if (lo == x->run_head || index >= x->runs[lo - 1].first + x->runs[lo - 1].count) {
        return NULL;
    }
    return &x->runs[lo - 1];
}

uint64_t log_index_term(const struct log_index *x, uint64_t index)
{
    size_t lo = x->term_head, hi = x->term_end;

    ASSERT(index >= x->start && index <= x->last);
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (x->terms[mid].first_index <= index) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo == x->term_head ? x->start_term : x->terms[lo - 1].term;
}
