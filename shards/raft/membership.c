/* The history of configurations since the log start, and the changes that wait to act. */
#include "shards/raft/membership.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

static void push_version(struct raft_membership *m, struct raft_config_version *v)
{
    if (m->version_count == m->version_capacity) {
        m->version_capacity = m->version_capacity == 0 ? 1 : m->version_capacity * 2;
        m->versions =
            xrealloc(m->versions, m->version_capacity * sizeof(struct raft_config_version *));
    }
    m->versions[m->version_count++] = v;
}

static void drop_versions(struct raft_membership *m, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        raft_config_deinit(&m->versions[i]->config);
        free(m->versions[i]);
    }
    m->version_count -= n;
    memmove(m->versions, m->versions + n, m->version_count * sizeof(struct raft_config_version *));
}

void raft__membership_init(struct raft_membership *m, uint64_t index, const struct raft_config *c)
{
    struct raft_config_version *v = xcalloc(1, sizeof *v);

    v->index = index;
    raft_config_copy(&v->config, c);
    push_version(m, v);
}

void raft__membership_deinit(struct raft_membership *m)
{
    drop_versions(m, m->version_count);
    raft__membership_truncate(m, 0);
    free(m->versions);
    free(m->pending);
    *m = (struct raft_membership){0};
}

void raft__membership_reset(struct raft_membership *m, uint64_t index, const struct raft_config *c)
{
    size_t old = m->version_count;

    raft__membership_truncate(m, 0);
    raft__membership_init(m, index, c); /* first, because `c` may be one of ours */
    drop_versions(m, old);
}

const struct raft_config *raft__membership_current(const struct raft_membership *m)
{
    return &m->versions[m->version_count - 1]->config;
}

uint64_t raft__membership_index(const struct raft_membership *m)
{
    return m->versions[m->version_count - 1]->index;
}

uint64_t raft__membership_epoch_index(const struct raft_membership *m)
{
    uint64_t epoch = raft__membership_current(m)->epoch;
    size_t i = m->version_count - 1;

    if (epoch == 0) {
        return 0;
    }
    while (i > 0 && m->versions[i - 1]->config.epoch == epoch) {
        i--;
    }
    return m->versions[i]->index;
}

static size_t version_at(const struct raft_membership *m, uint64_t index)
{
    size_t i = m->version_count - 1;

    while (i > 0 && m->versions[i]->index > index) {
        i--;
    }
    return i;
}

const struct raft_config *raft__membership_at(const struct raft_membership *m, uint64_t index)
{
    return &m->versions[version_at(m, index)]->config;
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
    struct raft_config_version *v = xcalloc(1, sizeof *v);
    struct raft_change change;

    m->pending_count--;
    memmove(m->pending, m->pending + 1, m->pending_count * sizeof(struct raft_entry *));

    /* A change that does not decode or is refused (a stale revision, say) is a no-op: every replica
     * decides so from the same bytes and the same configuration. */
    v->index = e->index;
    bool changed =
        raft_change_decode(e->payload.bytes, &change, NULL) == THOLE_OK &&
        raft_change_apply(raft__membership_current(m), &change, &v->config, NULL) == THOLE_OK;
    if (changed) {
        push_version(m, v);
    } else {
        free(v);
    }
    raft_entry_unref(e);
    return changed;
}

void raft__membership_compact(struct raft_membership *m, uint64_t index)
{
    drop_versions(m, version_at(m, index));
}
