/* The history of configurations since the log start, and the changes that wait to act. */
#include "shards/raft/config_history.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

static struct raft_config_version *version_of(const struct raft_config *c)
{
    return (struct raft_config_version *)((uintptr_t)c -
                                          offsetof(struct raft_config_version, config));
}

static void push_version(struct raft_membership *m, uint64_t index, const struct raft_config *c)
{
    size_t members = c->member_count * sizeof *c->members;
    size_t removed = c->removed_count * sizeof *c->removed;
    struct raft_config_version *v = xmalloc(sizeof *v + members + removed);

    ASSERT(c->member_count <= LIMIT_MEMBERS);
    atomic_init(&v->refs, 1);
    v->index = index;
    v->before = m->current;
    v->config = *c;
    v->config.members = v->members;
    v->config.removed = (uint64_t *)&v->members[c->member_count];
    if (members > 0) {
        memcpy(v->config.members, c->members, members);
    }
    if (removed > 0) {
        memcpy(v->config.removed, c->removed, removed);
    }
    m->current = v;
}

static void drop_versions(struct raft_config_version *v)
{
    while (v != NULL) {
        struct raft_config_version *before = v->before;
        raft_config_release(&v->config);
        v = before;
    }
}

void raft__membership_init(struct raft_membership *m, uint64_t index, const struct raft_config *c)
{
    push_version(m, index, c);
}

void raft__membership_deinit(struct raft_membership *m)
{
    drop_versions(m->current);
    raft__membership_truncate(m, 0);
    free(m->pending);
    *m = (struct raft_membership){0};
}

void raft__membership_reset(struct raft_membership *m, uint64_t index, const struct raft_config *c)
{
    struct raft_config_version *old = m->current;

    raft__membership_truncate(m, 0);
    push_version(m, index, c); /* first, because `c` may be one of ours */
    m->current->before = NULL;
    drop_versions(old);
}

const struct raft_config *raft__membership_current(const struct raft_membership *m)
{
    return &m->current->config;
}

const struct raft_config *raft__membership_hold(const struct raft_membership *m)
{
    atomic_fetch_add_explicit(&m->current->refs, 1, memory_order_relaxed);
    return &m->current->config;
}

void raft_config_release(const struct raft_config *c)
{
    if (c != NULL &&
        atomic_fetch_sub_explicit(&version_of(c)->refs, 1, memory_order_acq_rel) == 1) {
        free(version_of(c));
    }
}

uint64_t raft__membership_index(const struct raft_membership *m)
{
    return m->current->index;
}

uint64_t raft__membership_epoch_index(const struct raft_membership *m)
{
    const struct raft_config_version *v = m->current;
    uint64_t epoch = v->config.epoch;

    if (epoch == 0) {
        return 0;
    }
    while (v->before != NULL && v->before->config.epoch == epoch) {
        v = v->before;
    }
    return v->index;
}

static struct raft_config_version *version_at(const struct raft_membership *m, uint64_t index)
{
    struct raft_config_version *v = m->current;

    while (v->before != NULL && v->index > index) {
        v = v->before;
    }
    return v;
}

const struct raft_config *raft__membership_at(const struct raft_membership *m, uint64_t index)
{
    return &version_at(m, index)->config;
}

void raft__membership_note(struct raft_membership *m, struct raft_entry *e)
{
    ASSERT(e->kind == RAFT_ENTRY_CONFIG);
    ASSERT(m->pending_count == 0 || m->pending[m->pending_count - 1]->index < e->index);
    if (m->pending_count == m->pending_capacity) {
        m->pending_capacity = m->pending_capacity == 0 ? 2 : m->pending_capacity * 2;
        m->pending = xrealloc(m->pending, m->pending_capacity * sizeof(struct raft_entry *));
    }
    m->pending[m->pending_count++] = raft_entry_ref(e);
}

void raft__membership_truncate(struct raft_membership *m, uint64_t first)
{
    while (m->pending_count > 0 && m->pending[m->pending_count - 1]->index >= first) {
        raft_entry_unref(m->pending[--m->pending_count]);
    }
}

bool raft__membership_apply_next(struct raft_membership *m)
{
    ASSERT(m->pending_count > 0);
    struct raft_entry *e = m->pending[0];
    struct raft_config next = {0};
    struct raft_change change;

    m->pending_count--;
    memmove(m->pending, m->pending + 1, m->pending_count * sizeof(struct raft_entry *));
    if (m->pending_count == 0) {
        free(m->pending);
        m->pending = NULL;
        m->pending_capacity = 0;
    }

    /* A change that does not decode or is refused (for a stale revision, for instance) is a no-op:
     * every replica decides so from the same bytes and the same configuration. */
    bool changed = raft_change_decode(e->payload.bytes, &change, NULL) == THOLE_OK &&
                   raft_change_apply(raft__membership_current(m), &change, &next, NULL) == THOLE_OK;
    if (changed) {
        ASSERT(e->index > m->current->index);
        push_version(m, e->index, &next);
        raft_config_deinit(&next);
    }
    raft_entry_unref(e);
    return changed;
}

void raft__membership_compact(struct raft_membership *m, uint64_t index)
{
    struct raft_config_version *oldest = version_at(m, index);

    drop_versions(oldest->before);
    oldest->before = NULL;
}

/* What a change may do: see raft_change_apply. */
static void check_step(const struct raft_config *from, const struct raft_config *to)
{
    if (to->epoch != from->epoch) {
        ASSERT(to->epoch > from->epoch && to->member_count == 1 && !to->joint);
        return; /* raft_force: the remaining voter may have been removed before */
    }
    ASSERT(to->revision >= from->revision);
    ASSERT(to->removed_count >= from->removed_count);
    for (uint32_t i = 0; i < from->removed_count; i++) {
        ASSERT(raft_config_is_removed(to, from->removed[i]));
    }
    ASSERT(!from->joint || !to->joint); /* a joint one is left before the next begins */
}

void raft__membership_check(const struct raft_membership *m)
{
    const struct raft_config_version *v = m->current;

    ASSERT(raft__config_validate(&v->config, NULL) == THOLE_OK);
    if (v->before != NULL) { /* earlier steps were checked when they were the last */
        ASSERT(v->before->index < v->index);
        check_step(&v->before->config, &v->config);
    }
    for (uint32_t i = 0; i < m->pending_count; i++) {
        ASSERT(m->pending[i]->kind == RAFT_ENTRY_CONFIG);
        ASSERT(m->pending[i]->index > (i == 0 ? m->current->index : m->pending[i - 1]->index));
    }
}
