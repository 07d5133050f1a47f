#include "shards/store/log_index.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

/* Up to this many runs, capacity grows by one: most logs are of idle groups, with few runs. */
#define EXACT_CAPACITY 4

static uint64_t last_of(const struct store_run *r)
{
    ASSERT(r->count > 0);
    return r->first + r->count - 1;
}

static void drop_all(struct log_index *x, struct segments *g)
{
    while (x->end > x->head) {
        segments_drop(g, &x->runs[--x->end].place);
    }
    x->head = x->end = 0;
}

void log_index_deinit(struct log_index *x, struct segments *g)
{
    drop_all(x, g);
    free(x->runs);
    *x = (struct log_index){0};
}

void log_index_reset(struct log_index *x, struct segments *g, uint64_t start, uint64_t start_term)
{
    drop_all(x, g);
    x->start = x->last = start;
    x->start_term = start_term;
}

void log_index_compact(struct log_index *x, struct segments *g, uint64_t start, uint64_t start_term)
{
    while (x->head < x->end && last_of(&x->runs[x->head]) <= start) {
        segments_drop(g, &x->runs[x->head++].place);
    }
    x->start = start;
    x->start_term = start_term;
    if (x->head == x->end) {
        x->last = start;
    }
}

/* Make room for one more run: reuse the space before `head` if it is large, else grow. */
static void make_room(struct log_index *x)
{
    ASSERT(x->head <= x->end && x->end <= x->capacity);
    if (x->end < x->capacity) {
        return;
    }
    if (x->head > x->capacity / 2) {
        memmove(x->runs, x->runs + x->head, (x->end - x->head) * sizeof *x->runs);
        x->end -= x->head;
        x->head = 0;
        return;
    }
    ASSERT(x->capacity < UINT32_MAX / 2);
    x->capacity = x->capacity < EXACT_CAPACITY ? x->capacity + 1 : x->capacity * 2;
    x->runs = xrealloc(x->runs, x->capacity * sizeof *x->runs);
}

size_t log_index_find(const struct log_index *x, uint64_t index)
{
    size_t lo = x->head, hi = x->end;

    while (lo < hi) { /* the first run that ends at or beyond `index` */
        size_t mid = lo + (hi - lo) / 2;

        if (last_of(&x->runs[mid]) < index) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo;
}

/* Runs do not overlap, and the last one ends the log. Gaps there may be, during recovery. */
static __attribute__((unused)) bool is_ascending(const struct log_index *x)
{
    for (size_t i = x->head; i + 1 < x->end; i++) {
        if (last_of(&x->runs[i]) >= x->runs[i + 1].first) {
            return false;
        }
    }
    return x->head == x->end || last_of(&x->runs[x->end - 1]) == x->last;
}

static void insert(struct log_index *x, struct segments *g, struct store_run run)
{
    make_room(x);
    size_t at = log_index_find(x, run.first);
    memmove(x->runs + at + 1, x->runs + at, (x->end - at) * sizeof *x->runs);
    x->runs[at] = run;
    x->end++;
    ASSERT(x->head <= at && at < x->end && x->end <= x->capacity);
    segments_add_live(g, run.place);
    if (last_of(&run) > x->last) {
        x->last = last_of(&run);
    }
}

void log_index_append(struct log_index *x, struct segments *g, struct store_run run)
{
    while (x->end > x->head && x->runs[x->end - 1].first >= run.first) {
        segments_drop(g, &x->runs[--x->end].place);
    }
    if (x->end > x->head) {
        struct store_run *before = &x->runs[x->end - 1];

        if (last_of(before) >= run.first) {
            before->count = (run.first - before->first) & INT32_MAX;
            ASSERT(last_of(before) + 1 == run.first);
            if (last_of(before) <= x->start) {
                segments_drop(g, &before->place);
                x->end--;
            }
        }
    }
    x->last = 0;
    insert(x, g, run);
    ASSERT_SLOW(is_ascending(x));
}

void log_index_move(struct log_index *x, struct segments *g, struct store_run run)
{
    size_t at = log_index_find(x, run.first);

    if (last_of(&run) <= x->start) {
        return;
    }
    if (at == x->end || x->runs[at].first > run.first) {
        insert(x, g, run);
        return;
    }
    segments_drop(g, &x->runs[at].place);
    x->runs[at] = run;
    segments_add_live(g, run.place);
}

uint64_t log_index_bytes(const struct log_index *x)
{
    uint64_t sum = 0;

    for (size_t i = x->head; i < x->end; i++) {
        sum += x->runs[i].place.bytes;
    }
    return sum;
}

bool log_index_whole(const struct log_index *x)
{
    uint64_t next = x->start + 1, term = x->start_term;

    for (size_t i = x->head; i < x->end; i++) {
        const struct store_run *r = &x->runs[i];

        if (r->first > next || (r->first < next && i > x->head) || r->term < term) {
            return false;
        }
        term = r->term;
        next = last_of(r) + 1;
    }
    return next == x->last + 1;
}

size_t log_index_terms(const struct log_index *x, struct raft_term_run *ret)
{
    size_t n = 0;

    for (size_t i = x->head; i < x->end; i++) {
        const struct store_run *r = &x->runs[i];

        if (n == 0 || ret[n - 1].term != r->term) {
            uint64_t first = r->first > x->start ? r->first : x->start + 1;
            ret[n++] = (struct raft_term_run){.first_index = first, .term = r->term};
        }
    }
    return n;
}
