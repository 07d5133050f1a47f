/* Harvest: collects the effects of the events since the last harvest, for the engine. */
#include "shards/raft/raft_internal.h"

/* Not beyond a configuration that does not act yet: a snapshot at an applied index, and a log that
 * starts there, hold the configuration of that index. */
static uint64_t apply_last(const struct raft *r)
{
    const struct raft_membership *m = &r->membership;
    uint64_t last = r->commit < r->log.durable ? r->commit : r->log.durable;

    if (m->pending_count > 0 && m->pending[0]->index <= last && !CANARY(campaign_unapplied)) {
        last = m->pending[0]->index - 1;
    }
    return last;
}

static bool reads_can_start(const struct raft *r)
{
    return r->awake->reads.started < r->awake->reads.count && r->leader != 0 &&
           (r->role != RAFT_LEADER || r->commit >= r->lead->first_index);
}

static bool has_answers(const struct raft *r)
{
    const struct raft_outbox *o = &r->awake->outbox;
    bool requests = !o->requests_lent && o->need_log_count + o->need_snapshot_count > 0;
    bool results = !r->awake->reads.lent && r->awake->reads.result_count > 0;

    return o->ready.count > 0 || requests || results || reads_can_start(r);
}

bool raft_has_update(const struct raft *r)
{
    return raft__dirty(r) || r->work || apply_last(r) > r->handed || r->status_changed ||
           r->config_changed || r->removed_changed || (r->awake != NULL && has_answers(r));
}

static void harvest_persist(struct raft *r, struct raft_update *ret)
{
    const struct raft_log *l = &r->log;

    if (!raft__dirty(r)) {
        return;
    }
    ret->persist = ++r->awake->persist.token;
    ret->hard = (struct raft_hard){.term = r->term, .vote = r->vote, .commit = r->commit};
    if (r->awake->force_index != 0 && !CANARY(force_uncommitted)) {
        /* In memory the commit index stays behind until this is durable. */
        ret->hard.commit = r->awake->force_index;
    }
    if (r->awake->force_index != 0) {
        r->awake->force_token = r->awake->force_token == 0 ? ret->persist : r->awake->force_token;
    }
    uint64_t first = raft__log_unsaved(l);
    ret->entry_count = l->last_index + 1 - first;
    ret->entries = raft__outbox_entries(&r->awake->outbox, ret->entry_count);
    for (size_t i = 0; i < ret->entry_count; i++) {
        ret->entries[i] = raft__log_entry(l, first + i);
        ASSERT(ret->entries[i] != NULL && ret->entries[i]->index == first + i);
    }
    ret->snapshot = r->awake->persist.snapshot_dirty;
    ret->log_start_changed = r->awake->persist.start_dirty;
    if (ret->log_start_changed) {
        ret->log_start_index = l->start_index;
        ret->log_start_term = l->start_term;
        ret->log_start_stamp = l->last_stamp;
        ret->log_start_config = raft__membership_at(&r->membership, l->start_index);
    }
    r->awake->persist.hard_dirty = false;
    r->awake->persist.snapshot_dirty = false;
    r->awake->persist.start_dirty = false;
    raft__log_write_started(&r->log, ret->persist, r->now_ms);
}

static void harvest_apply(struct raft *r, struct raft_update *ret)
{
    uint64_t last = apply_last(r);

    ASSERT(last <= r->commit);
    if (last > r->handed) {
        ret->apply_first = r->handed + 1;
        ret->apply_last = last;
        r->handed = last;
    }
}

void raft_harvest(struct raft *r, struct raft_update *ret)
{
    raft__begin(r, r->now_ms);
    struct raft_outbox *o = &r->awake->outbox;
    *ret = (struct raft_update){0};
    raft__reads_start(r);
    raft__replicate(r);
    harvest_persist(r, ret);
    harvest_apply(r, ret);

    raft__outbox_lend(o);
    ret->messages = o->lent.items;
    ret->message_count = o->lent.count;
    ret->need_log = o->need_log;
    ret->need_log_count = o->need_log_count;
    ret->need_snapshot = o->need_snapshot;
    ret->need_snapshot_count = o->need_snapshot_count;
    r->awake->reads.lent = true;
    ret->reads = r->awake->reads.results;
    ret->read_count = r->awake->reads.result_count;

    ret->status_changed = r->status_changed;
    ret->config_changed = r->config_changed;
    ret->removed = r->removed_changed;
    r->status_changed = false;
    r->config_changed = false;
    r->removed_changed = false;
    raft__check_leaving(r, ret->messages, ret->message_count);
    raft__check(r);
}
