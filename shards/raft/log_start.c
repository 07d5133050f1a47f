/* The beginning of the log moves: compaction, and snapshots installed here. Dissertation 5. */
#include "shards/raft/raft_internal.h"

#include <inttypes.h>

void raft_compact(struct raft *r, uint64_t index)
{
    raft__begin(r, r->now_ms);
    /* The caller's index may be ahead of the machine: ignored until the machine has applied it. */
    if (index <= r->log.start_index || index > r->applied || index > r->log.durable ||
        r->awake->persist.snapshot_dirty) {
        return;
    }
    ASSERT(index <= r->commit && index <= r->handed);
    raft__log_compact(&r->log, index);
    raft__membership_compact(&r->membership, index);
    r->awake->persist.start_dirty = true;
    r->work = r->role == RAFT_LEADER;
    raft__check(r);
}

static enum thole_code check_snapshot(const struct raft *r, uint64_t from, uint64_t term,
                                      uint64_t index, uint64_t index_term,
                                      const struct raft_config *config, struct thole_status *st)
{
    if (from == 0 || from == r->options.replica_id || term == 0 || term > RAFT_NUMBER_MAX ||
        index == 0 || index > RAFT_NUMBER_MAX || index_term == 0 || index_term > term ||
        config->member_count == 0) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "snapshot from replica %" PRIu64 ": index %" PRIu64 ", term %" PRIu64
                          ", %u members",
                          from, index, index_term, config->member_count);
    }
    if (term == r->term && (r->role == RAFT_LEADER || (r->leader != 0 && r->leader != from))) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "snapshot: replica %" PRIu64 " leads the same term as replica %" PRIu64,
                          from, r->leader);
    }
    return raft__config_validate(config, st);
}

static void install(struct raft *r, uint64_t index, uint64_t index_term, struct raft_stamp stamp,
                    const struct raft_config *config)
{
    ASSERT(index > r->commit && index_term <= r->term && config->epoch == r->epoch);
    ASSERT(r->role == RAFT_FOLLOWER && r->awake->force_index == 0);
    raft__log_reset(&r->log, index, index_term, stamp);
    raft__membership_reset(&r->membership, index, config);
    r->commit = index;
    r->applied = index; /* as the staged snapshot is */
    r->handed = index;
    r->awake->persist.snapshot_dirty = true;
    r->awake->persist.start_dirty = true;
    r->config_changed = true;
    r->status_changed = true;
    if (raft_config_is_removed(config, r->options.replica_id) && !r->removed) {
        r->removed = true;
        r->removed_changed = true;
    }
    raft__redraw_election(r);
}

static enum thole_code take_snapshot(struct raft *r, uint64_t from, uint64_t term, uint64_t index,
                                     uint64_t index_term, struct raft_stamp stamp,
                                     const struct raft_config *config, bool *ret_install,
                                     struct thole_status *st)
{
    bool ours = true;
    enum thole_code code = raft__check_epoch(r, from, RAFT_MSG_APPEND, config->epoch, &ours, st);

    if (code != THOLE_OK || !ours) {
        return code;
    }
    if (term < r->term) {
        struct raft_message stale = {
            .kind = RAFT_MSG_APPEND_REPLY, .to = from, .term = r->term, .reject = true};
        raft__send(r, stale, 0);
        return THOLE_OK;
    }
    raft__become_follower(r, term, from);
    raft__heard_leader(r, from);
    if (index <= r->commit) {
        raft__send_ack(r, from, r->commit);
        return THOLE_OK;
    }
    if (raft__log_matches(&r->log, index, index_term)) {
        raft__send_ack(r, from, index); /* the log has it all: only the commit index moves */
        raft__commit_to(r, index);
        return THOLE_OK;
    }
    install(r, index, index_term, stamp, config);
    raft__send_ack(r, from, index);
    *ret_install = true;
    return THOLE_OK;
}

enum thole_code raft_snapshot_received(struct raft *r, uint64_t from, uint64_t term, uint64_t index,
                                       uint64_t index_term, struct raft_stamp stamp,
                                       const struct raft_config *config, uint64_t now_ms,
                                       bool *ret_install, struct thole_status *st)
{
    raft__begin(r, now_ms);
    enum thole_code code = check_snapshot(r, from, term, index, index_term, config, st);

    if (code != THOLE_OK) {
        return code;
    }
    raft__wake(r, now_ms);
    *ret_install = false;
    code = take_snapshot(r, from, term, index, index_term, stamp, config, ret_install, st);
    raft__check(r);
    return code;
}

enum thole_code raft_seed(struct raft *r, uint64_t index, uint64_t index_term,
                          struct raft_stamp stamp, const struct raft_config *config,
                          uint64_t now_ms, struct thole_status *st)
{
    raft__begin(r, now_ms);
    if (!raft__has_no_data(r) || r->term > index_term || r->epoch > config->epoch ||
        r->superseded || r->removed) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_EXISTS,
                          "only an empty replica of a group that is not there yet can be seeded");
    }
    if (index == 0 || index > RAFT_NUMBER_MAX || index_term == 0 || index_term > RAFT_NUMBER_MAX ||
        config->member_count != 1 || config->joint ||
        !raft_config_is_voter(config, r->options.replica_id)) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "seed: index %" PRIu64 ", term %" PRIu64 ", %u members", index,
                          index_term, config->member_count);
    }
    enum thole_code code = raft__config_validate(config, st);
    if (code != THOLE_OK) {
        return code;
    }
    raft__wake(r, now_ms);
    raft__become_follower(r, index_term, 0);
    r->epoch = config->epoch;
    install(r, index, index_term, stamp, config);
    raft__check(r);
    return THOLE_OK;
}
