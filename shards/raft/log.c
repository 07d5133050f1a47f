/* See log.h for the invariants L1 to L5. */
#include "shards/raft/log.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

#define RING_CAPACITY_MIN 16

static void push_run(struct raft_log *l, uint64_t first_index, uint64_t term)
{
    if (l->run_count == l->run_capacity) {
        l->run_capacity = l->run_capacity == 0 ? 1 : l->run_capacity * 2;
        l->runs = xrealloc(l->runs, l->run_capacity * sizeof *l->runs);
    }
    l->runs[l->run_count++] = (struct raft_term_run){.first_index = first_index, .term = term};
}

void raft__log_init(struct raft_log *l, const struct raft_boot *b)
{
    *l = (struct raft_log){
        .start_index = b->start_index,
        .start_term = b->start_term,
        .last_index = b->last_index,
        .durable = b->last_index,
        .unsaved = b->last_index + 1,
        .cache_first = b->last_index + 1,
    };
    for (size_t i = 0; i < b->run_count; i++) {
        push_run(l, b->runs[i].first_index, b->runs[i].term);
    }
}

void raft__log_deinit(struct raft_log *l)
{
    raft__log_evict(l, 0, l->last_index);
    free(l->runs);
    free(l->ring);
    free(l->writes);
    *l = (struct raft_log){0};
}

uint64_t raft__log_last_term(const struct raft_log *l)
{
    return l->run_count > 0 ? l->runs[l->run_count - 1].term : l->start_term;
}

/* The run that holds `index`, which is in (start_index, last_index]. */
static size_t run_of(const struct raft_log *l, uint64_t index)
{
    size_t lo = 0;
    size_t hi = l->run_count;

    ASSERT(hi > 0 && l->runs[0].first_index <= index);
    if (l->runs[hi - 1].first_index <= index) {
        return hi - 1; /* nearly always */
    }
    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;
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
    return &l->ring[index & (l->ring_capacity - 1)];
}

struct raft_entry *raft__log_entry(const struct raft_log *l, uint64_t index)
{
    if (index < l->cache_first || index > l->last_index) {
        return NULL;
    }
    return *slot(l, index);
}

static void resize_ring(struct raft_log *l, size_t capacity)
{
    struct raft_entry **ring = xcalloc(capacity, sizeof(struct raft_entry *));

    for (uint64_t i = l->cache_first; i <= l->last_index; i++) {
        ring[i & (capacity - 1)] = *slot(l, i);
    }
    free(l->ring);
    l->ring = ring;
    l->ring_capacity = capacity;
}

void raft__log_append(struct raft_log *l, struct raft_entry *e)
{
    uint64_t last_term = raft__log_last_term(l);

    ASSERT(e->index == l->last_index + 1);
    ASSERT(e->term >= last_term);
    if (l->last_index + 1 - l->cache_first == l->ring_capacity) {
        resize_ring(l, l->ring_capacity == 0 ? RING_CAPACITY_MIN : l->ring_capacity * 2);
    }
    if (l->run_count == 0 || e->term > last_term) {
        push_run(l, e->index, e->term);
    }
    l->last_index = e->index;
    *slot(l, e->index) = raft_entry_ref(e);
    l->cached_bytes += raft_entry_size(e);
}

static void uncache(struct raft_log *l, uint64_t index)
{
    struct raft_entry **s = slot(l, index);

    l->cached_bytes -= raft_entry_size(*s);
    raft_entry_unref(*s);
    *s = NULL;
}

static void clamp_writes(struct raft_log *l, uint64_t last)
{
    for (size_t i = l->write_count; i > 0 && l->writes[i - 1].last > last; i--) {
        l->writes[i - 1].last = last;
    }
}

void raft__log_truncate(struct raft_log *l, uint64_t first)
{
    ASSERT(first > l->start_index && first <= l->last_index + 1);
    for (uint64_t i = l->last_index; i >= first && i >= l->cache_first; i--) {
        uncache(l, i);
    }
    while (l->run_count > 0 && l->runs[l->run_count - 1].first_index >= first) {
        l->run_count--;
    }
    l->last_index = first - 1;
    if (l->cache_first > first) {
        l->cache_first = first;
    }
    if (l->unsaved > first) {
        l->unsaved = first;
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
    size_t drop = run_of(l, index);
    if (index == l->last_index) {
        drop = l->run_count;
    }
    memmove(l->runs, l->runs + drop, (l->run_count - drop) * sizeof *l->runs);
    l->run_count -= drop;
    if (l->run_count > 0 && l->runs[0].first_index <= index) {
        l->runs[0].first_index = index + 1;
    }
    l->start_index = index;
    l->start_term = term;
    if (l->cache_first <= index) {
        l->cache_first = index + 1;
    }
}

void raft__log_reset(struct raft_log *l, uint64_t index, uint64_t term)
{
    raft__log_evict(l, 0, l->last_index);
    clamp_writes(l, 0);
    l->run_count = 0;
    l->start_index = index;
    l->start_term = term;
    l->last_index = index;
    l->durable = 0;
    l->unsaved = index + 1;
    l->cache_first = index + 1;
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
    while (l->cached_bytes > limit && l->cache_first <= up_to && l->cache_first <= l->last_index) {
        uncache(l, l->cache_first);
        l->cache_first++;
    }
    if (l->cache_first > l->last_index) {
        free(l->ring);
        l->ring = NULL;
        l->ring_capacity = 0;
    } else if (l->ring_capacity > 1024 &&
               l->last_index + 1 - l->cache_first < l->ring_capacity / 8) {
        resize_ring(l, l->ring_capacity / 2);
    }
}

void raft__log_trim(struct raft_log *l)
{
    if (l->write_count == 0) {
        free(l->writes);
        l->writes = NULL;
        l->write_capacity = 0;
    }
}

void raft__log_write_started(struct raft_log *l, uint64_t token, uint64_t now_ms)
{
    ASSERT(l->write_count == 0 || l->writes[l->write_count - 1].token < token);
    if (l->write_count == l->write_capacity) {
        l->write_capacity = l->write_capacity == 0 ? 4 : l->write_capacity * 2;
        l->writes = xrealloc(l->writes, l->write_capacity * sizeof *l->writes);
    }
    l->writes[l->write_count++] =
        (struct raft_write){.token = token, .last = l->last_index, .started_ms = now_ms};
    l->unsaved = l->last_index + 1;
}

void raft__log_write_done(struct raft_log *l, uint64_t token)
{
    size_t done = 0;

    while (done < l->write_count && l->writes[done].token <= token) {
        if (l->writes[done].last > l->durable) {
            l->durable = l->writes[done].last;
        }
        done++;
    }
    l->write_count -= done;
    memmove(l->writes, l->writes + done, l->write_count * sizeof *l->writes);
    ASSERT(l->durable < l->unsaved && l->unsaved <= l->last_index + 1);
}
