/* See progress.h. */
#include "shards/raft/progress.h"

#include <stdlib.h>

#include "base/assert.h"
#include "base/canary.h"

static void inflight_reset(struct raft_progress *p)
{
    p->inflight_head = 0;
    p->inflight_count = 0;
    p->inflight_bytes = 0;
}

void raft__progress_init(struct raft_progress *p, uint64_t next)
{
    ASSERT(next > 0);
    *p = (struct raft_progress){.next = next, .state = RAFT_PROBE};
}

void raft__progress_slept(struct raft_progress *p, uint64_t last, uint64_t commit)
{
    *p = (struct raft_progress){
        .match = last,
        .next = last + 1,
        .state = RAFT_REPLICATE,
        .recently_active = true,
        .commit_sent = commit,
    };
}

void raft__progress_deinit(struct raft_progress *p)
{
    free(p->inflight);
    *p = (struct raft_progress){0};
}

static void become(struct raft_progress *p, enum raft_peer_state state)
{
    p->state = state;
    p->paused = false;
    p->want_append = false;
    p->log_wait = false;
    inflight_reset(p);
}

void raft__progress_probe(struct raft_progress *p, uint64_t next)
{
    become(p, RAFT_PROBE);
    p->next = next > p->match ? next : p->match + 1;
}

void raft__progress_replicate(struct raft_progress *p)
{
    ASSERT(p->state != RAFT_REPLICATE);
    become(p, RAFT_REPLICATE);
    p->next = p->match + 1;
}

void raft__progress_snapshot(struct raft_progress *p)
{
    become(p, RAFT_SNAPSHOT);
}

static void inflight_free_to(struct raft_progress *p, uint64_t index)
{
    index -= CANARY(inflight_leak) ? 1 : 0;
    while (p->inflight_count > 0 && p->inflight[p->inflight_head].last <= index) {
        p->inflight_bytes -= p->inflight[p->inflight_head].bytes;
        p->inflight_head = (p->inflight_head + 1) % p->inflight_capacity;
        p->inflight_count--;
    }
    ASSERT(p->inflight_count > 0 || p->inflight_bytes == 0);
}

bool raft__progress_acked(struct raft_progress *p, uint64_t index)
{
    bool news = index > p->match;

    ASSERT(p->match < p->next);
    if (news) {
        p->match = index;
    }
    if (p->next <= index) {
        p->next = index + 1;
    }
    inflight_free_to(p, index);
    ASSERT(p->match < p->next);
    return news;
}

bool raft__progress_rejected(struct raft_progress *p, uint64_t rejected, uint64_t guess)
{
    switch (p->state) {
    case RAFT_REPLICATE:
        if (rejected <= p->match || rejected >= p->next) {
            return false; /* overtaken by an acknowledgement, or about another window */
        }
        raft__progress_probe(p, p->match + 1);
        return true;
    case RAFT_PROBE: {
        if (rejected != p->next - 1) {
            return false; /* the answer to an earlier probe */
        }
        uint64_t next = rejected < guess + 1 ? rejected : guess + 1;
        p->next = next > p->match ? next : p->match + 1;
        p->paused = false;
        return true;
    }
    case RAFT_SNAPSHOT:
        break;
    }
    return false;
}

static void inflight_grow(struct raft_progress *p)
{
    uint32_t capacity = p->inflight_capacity == 0 ? 2 : p->inflight_capacity * 2;
    struct raft_inflight *ring = xcalloc(capacity, sizeof *ring);

    for (uint32_t i = 0; i < p->inflight_count; i++) {
        ring[i] = p->inflight[(p->inflight_head + i) % p->inflight_capacity];
    }
    free(p->inflight);
    p->inflight = ring;
    p->inflight_capacity = capacity;
    p->inflight_head = 0;
}

void raft__progress_sent(struct raft_progress *p, uint64_t last, uint32_t count, uint64_t bytes)
{
    if (p->state == RAFT_PROBE) {
        p->paused = true;
        return;
    }
    ASSERT(p->state == RAFT_REPLICATE);
    if (count == 0) {
        return;
    }
    ASSERT(!raft__progress_window_full(p) && last + 1 == p->next + count);
    if (p->inflight_count == p->inflight_capacity) {
        inflight_grow(p);
    }
    uint32_t slot = (p->inflight_head + p->inflight_count) % p->inflight_capacity;
    p->inflight[slot] = (struct raft_inflight){.last = last, .bytes = bytes};
    p->inflight_count++;
    p->inflight_bytes += bytes;
    p->next = last + 1;
}

void raft__progress_trim(struct raft_progress *p)
{
    if (p->inflight_count == 0) {
        free(p->inflight);
        p->inflight = NULL;
        p->inflight_capacity = 0;
        p->inflight_head = 0;
    }
}

bool raft__progress_window_full(const struct raft_progress *p)
{
    return p->inflight_count >= LIMIT_INFLIGHT_MESSAGES ||
           p->inflight_bytes >= LIMIT_INFLIGHT_BYTES;
}

void raft__progress_check(const struct raft_progress *p)
{
    uint64_t last = p->match;
    uint64_t bytes = 0;

    ASSERT(p->match < p->next);
    ASSERT(p->state == RAFT_PROBE || !p->paused);
    ASSERT(p->state == RAFT_REPLICATE || (p->inflight_count == 0 && !p->log_wait));
    ASSERT(p->inflight_count <= p->inflight_capacity);
    ASSERT(p->inflight_count <= LIMIT_INFLIGHT_MESSAGES);
    for (uint32_t i = 0; i < p->inflight_count; i++) {
        const struct raft_inflight *f = &p->inflight[(p->inflight_head + i) % p->inflight_capacity];
        ASSERT(f->last > last);
        last = f->last;
        bytes += f->bytes;
    }
    ASSERT(bytes == p->inflight_bytes);
    ASSERT(p->inflight_count == 0 || last + 1 == p->next);
}
