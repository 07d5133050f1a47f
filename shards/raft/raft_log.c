/* See raft_log.h for the invariants L1 to L5. */
#include "shards/raft/raft_log.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

#define RING_CAPACITY_MIN 4
/* A check after each event must not make a long cache quadratic. */
#define CHECKED_ENTRIES_MAX 256

static struct raft_log_work *work_of(struct raft_log *l)
{
    if (l->work == NULL) {
        l->work = xcalloc(1, sizeof *l->work);
        l->work->unsaved = l->last_index + 1;
        l->work->cache_first = l->last_index + 1;
    }
    return l->work;
}

static void push_run(struct raft_log *l, uint64_t first_index, uint64_t term)
{
    if (l->run_count == l->run_capacity) {
        struct raft_term_run *old = l->runs == &l->first_run ? NULL : l->runs;
        ASSERT(l->run_capacity < UINT32_MAX / 2);
        l->run_capacity *= 2;
        l->runs = xrealloc(old, l->run_capacity * sizeof *l->runs);
        l->runs[0] = old == NULL ? l->first_run : l->runs[0];
    }
    l->runs[l->run_count++] = (struct raft_term_run){.first_index = first_index, .term = term};
}

void raft__log_init(struct raft_log *l, const struct raft_boot *b)
{
    *l = (struct raft_log){
        .start_index = b->start_index,
        .start_term = b->start_term,
        .last_index = b->last_index,
        .last_stamp = b->last_stamp,
        .durable = b->last_index,
        .runs = &l->first_run,
        .run_capacity = 1,
    };
    for (size_t i = 0; i < b->run_count; i++) {
        push_run(l, b->runs[i].first_index, b->runs[i].term);
    }
}

void raft__log_deinit(struct raft_log *l)
{
    raft__log_evict(l, 0, l->last_index);
    if (l->runs != &l->first_run) {
        free(l->runs);
    }
    if (l->work != NULL) {
        free(l->work->writes);
        free(l->work);
    }
    *l = (struct raft_log){0};
}

uint64_t raft__log_last_term(const struct raft_log *l)
{
    return l->run_count > 0 ? l->runs[l->run_count - 1].term : l->start_term;
}

/* The run that holds `index`, which is in (start_index, last_index]. */
static uint32_t run_of(const struct raft_log *l, uint64_t index)
{
    uint32_t lo = 0;
    uint32_t hi = l->run_count;

    ASSERT(hi > 0 && l->runs[0].first_index <= index);
    if (l->runs[hi - 1].first_index <= index) {
        return hi - 1; /* nearly always */
    }
    while (hi - lo > 1) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (l->runs[mid].first_index <= index) {
            lo = mid;
        } else {
            hi = mid;
        }
    }
    return lo;
}

bool raft__log_term(const struct raft_log *l, uint64_t index, uint64_t *ret)
{
    if (index < l->start_index || index > l->last_index) {
        return false;
    }
    *ret = index == l->start_index ? l->start_term : l->runs[run_of(l, index)].term;
    return true;
}

bool raft__log_matches(const struct raft_log *l, uint64_t index, uint64_t term)
{
    uint64_t ours;
    return raft__log_term(l, index, &ours) && ours == term;
}

static struct raft_entry **slot(const struct raft_log *l, uint64_t index)
{
    return &l->work->ring[index & (l->work->ring_capacity - 1)];
}

struct raft_entry *raft__log_entry(const struct raft_log *l, uint64_t index)
{
    if (index < raft__log_cache_first(l) || index > l->last_index) {
        return NULL;
    }
    return *slot(l, index);
}

static void resize_ring(struct raft_log *l, size_t capacity)
{
    struct raft_entry **ring = xcalloc(capacity, sizeof(struct raft_entry *));

    for (uint64_t i = l->work->cache_first; i <= l->last_index; i++) {
        ring[i & (capacity - 1)] = *slot(l, i);
    }
    free(l->work->ring);
    l->work->ring = ring;
    l->work->ring_capacity = capacity;
}

void raft__log_append(struct raft_log *l, struct raft_entry *e)
{
    uint64_t last_term = raft__log_last_term(l);
    struct raft_log_work *w = work_of(l);

    ASSERT(e->index == l->last_index + 1);
    ASSERT(e->term >= last_term);
    if (l->last_index + 1 - w->cache_first == w->ring_capacity) {
        resize_ring(l, w->ring_capacity == 0 ? RING_CAPACITY_MIN : w->ring_capacity * 2);
    }
    if (l->run_count == 0 || e->term > last_term) {
        push_run(l, e->index, e->term);
    }
    l->last_index = e->index;
    l->last_stamp = e->stamp;
    *slot(l, e->index) = raft_entry_ref(e);
    w->cached_bytes += raft_entry_size(e);
}

static void uncache(struct raft_log *l, uint64_t index)
{
    struct raft_entry **s = slot(l, index);

    l->work->cached_bytes -= raft_entry_size(*s);
    raft_entry_unref(*s);
    *s = NULL;
}

static void clamp_writes(struct raft_log *l, uint64_t last)
{
    struct raft_log_work *w = l->work;

    for (size_t i = raft__log_write_count(l); i > 0 && w->writes[i - 1].last > last; i--) {
        w->writes[i - 1].last = last;
    }
}

void raft__log_truncate(struct raft_log *l, uint64_t first)
{
    ASSERT(first > l->start_index && first <= l->last_index + 1);
    struct raft_log_work *w = l->work;
    for (uint64_t i = l->last_index; w != NULL && i >= first && i >= w->cache_first; i--) {
        uncache(l, i);
    }
    while (l->run_count > 0 && l->runs[l->run_count - 1].first_index >= first) {
        l->run_count--;
    }
    l->last_index = first - 1;
    if (w != NULL && w->cache_first > first) {
        w->cache_first = first;
    }
    if (w != NULL && w->unsaved > first) {
        w->unsaved = first;
    }
    if (l->durable >= first) {
        l->durable = first - 1;
    }
    clamp_writes(l, first - 1);
}

void raft__log_compact(struct raft_log *l, uint64_t index)
{
    uint64_t term = 0;
    bool known = raft__log_term(l, index, &term);

    ASSERT(known && index > l->start_index && index <= l->durable);
    raft__log_evict(l, 0, index);
    uint32_t drop = run_of(l, index);
    uint64_t next_run = drop + 1 < l->run_count ? l->runs[drop + 1].first_index : l->last_index + 1;
    if (index + 1 == next_run) {
        drop++; /* no entry of it stays */
    }
    memmove(l->runs, l->runs + drop, (l->run_count - drop) * sizeof *l->runs);
    l->run_count -= drop;
    if (l->run_count > 0 && l->runs[0].first_index <= index) {
        l->runs[0].first_index = index + 1;
    }
    l->start_index = index;
    l->start_term = term;
    if (l->work != NULL && l->work->cache_first <= index) {
        l->work->cache_first = index + 1;
    }
}

void raft__log_reset(struct raft_log *l, uint64_t index, uint64_t term, struct raft_stamp stamp)
{
    raft__log_evict(l, 0, l->last_index);
    clamp_writes(l, 0);
    l->run_count = 0;
    l->start_index = index;
    l->start_term = term;
    l->last_index = index;
    l->last_stamp = stamp;
    l->durable = 0;
    if (l->work != NULL) {
        l->work->unsaved = index + 1;
        l->work->cache_first = index + 1;
    }
}

uint64_t raft__log_guess(const struct raft_log *l, uint64_t index, uint64_t term)
{
    if (index > l->last_index) {
        index = l->last_index;
    }
    if (index <= l->start_index) {
        return index;
    }
    size_t i = run_of(l, index);
    while (l->runs[i].term > term) {
        index = l->runs[i].first_index - 1;
        if (i == 0) {
            return l->start_index;
        }
        i--;
    }
    return index;
}

void raft__log_evict(struct raft_log *l, size_t limit, uint64_t up_to)
{
    struct raft_log_work *w = l->work;

    if (w == NULL) {
        return;
    }
    while (w->cached_bytes > limit && w->cache_first <= up_to && w->cache_first <= l->last_index) {
        uncache(l, w->cache_first);
        w->cache_first++;
    }
    if (w->cache_first > l->last_index) {
        free(w->ring);
        w->ring = NULL;
        w->ring_capacity = 0;
    } else if (w->ring_capacity > 1024 &&
               l->last_index + 1 - w->cache_first < w->ring_capacity / 8) {
        resize_ring(l, w->ring_capacity / 2);
    }
}

void raft__log_trim(struct raft_log *l)
{
    struct raft_log_work *w = l->work;

    if (l->run_count <= 1 && l->runs != &l->first_run) {
        l->first_run = l->runs[0];
        free(l->runs);
        l->runs = &l->first_run;
        l->run_capacity = 1;
    }
    if (w != NULL && w->write_count == 0) {
        free(w->writes);
        w->writes = NULL;
        w->write_capacity = 0;
        if (w->ring == NULL && w->unsaved > l->last_index) {
            free(w);
            l->work = NULL;
        }
    }
}

void raft__log_write_started(struct raft_log *l, uint64_t token, uint64_t now_ms)
{
    struct raft_log_work *w = work_of(l);

    ASSERT(w->write_count == 0 || w->writes[w->write_count - 1].token < token);
    if (w->write_count == w->write_capacity) {
        w->write_capacity = w->write_capacity == 0 ? 2 : w->write_capacity * 2;
        w->writes = xrealloc(w->writes, w->write_capacity * sizeof *w->writes);
    }
    w->writes[w->write_count++] =
        (struct raft_write){.token = token, .last = l->last_index, .started_ms = now_ms};
    w->unsaved = l->last_index + 1;
}

void raft__log_write_done(struct raft_log *l, uint64_t token)
{
    struct raft_log_work *w = work_of(l);
    size_t done = 0;

    while (done < w->write_count && w->writes[done].token <= token) {
        if (w->writes[done].last > l->durable) {
            l->durable = w->writes[done].last;
        }
        done++;
    }
    w->write_count -= done;
    memmove(w->writes, w->writes + done, w->write_count * sizeof *w->writes);
    ASSERT(l->durable < w->unsaved && w->unsaved <= l->last_index + 1);
}

void raft__log_check(const struct raft_log *l)
{
    uint64_t unsaved = raft__log_unsaved(l);
    uint64_t cache_first = raft__log_cache_first(l);

    ASSERT(l->start_index <= l->last_index && l->durable <= l->last_index);
    ASSERT((l->run_count == 0) == (l->start_index == l->last_index)); /* L1 */
    ASSERT(l->start_index < cache_first && cache_first <= unsaved); /* L2; a write takes it here */
    ASSERT(l->durable < unsaved && unsaved <= l->last_index + 1);   /* L3 */
    ASSERT(l->work != NULL || l->durable == l->last_index || l->durable < l->start_index);
}

static void check_runs(const struct raft_log *l)
{
    for (uint32_t i = 0; i < l->run_count; i++) {
        const struct raft_term_run *run = &l->runs[i];
        ASSERT(run->first_index <= l->last_index);
        if (i == 0) {
            ASSERT(run->first_index == l->start_index + 1 && run->term >= l->start_term);
        } else {
            ASSERT(run->first_index > l->runs[i - 1].first_index);
            ASSERT(run->term > l->runs[i - 1].term);
        }
    }
}

/* L4: every index is durable, under way or unsaved, and a write makes nothing durable twice. */
static void check_writes(const struct raft_log *l)
{
    const struct raft_log_work *w = l->work;
    uint64_t covered = l->durable;

    for (size_t i = 0; i < w->write_count; i++) {
        ASSERT(w->writes[i].last < w->unsaved);
        ASSERT(i == 0 || w->writes[i].token > w->writes[i - 1].token);
        ASSERT(i == 0 || w->writes[i].last >= w->writes[i - 1].last);
        covered = w->writes[i].last > covered ? w->writes[i].last : covered;
    }
    ASSERT(l->durable < l->start_index || covered + 1 == w->unsaved);
}

static void check_cache(const struct raft_log *l)
{
    uint64_t count = l->last_index + 1 - l->work->cache_first;
    size_t bytes = 0;

    ASSERT(count <= l->work->ring_capacity);
    if (count > CHECKED_ENTRIES_MAX) {
        return;
    }
    for (uint64_t i = l->work->cache_first; i <= l->last_index; i++) {
        const struct raft_entry *e = raft__log_entry(l, i);
        ASSERT(e != NULL && e->index == i && raft__log_matches(l, i, e->term));
        bytes += raft_entry_size(e);
    }
    ASSERT(bytes == l->work->cached_bytes);
}

void raft__log_check_all(const struct raft_log *l)
{
    raft__log_check(l);
    check_runs(l);
    if (l->work != NULL) {
        check_writes(l);
        check_cache(l);
    }
}
