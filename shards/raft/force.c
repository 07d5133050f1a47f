/* Quorum loss: raft_force makes one replica the group's only voter, under a new epoch.
 *
 * That breaks Raft's guarantee once, on purpose: entries that only the lost majority had are gone.
 * To make this final, every message carries the sender's epoch. A sender with a lower epoch is
 * answered with REMOVED. A replica that has data of a lower epoch is superseded and must stop. Only
 * a replica without data takes over a higher epoch. Logs of two epochs never mix: all members of
 * the old configuration are removed for good, and new members start from a snapshot that includes
 * the forced entry. Until that entry is durable nothing acts, and this replica ignores all
 * messages: a crash before then leaves everything as it was. */
#include "shards/raft/raft_internal.h"

#include <inttypes.h>

bool raft__has_no_data(const struct raft *r)
{
    return raft__config(r)->member_count == 0 && r->log.start_index == 0 && r->log.last_index == 0;
}

/* Who forces a group was one of its members: an epoch that only strangers know is none. */
static bool is_stranger(const struct raft *r, uint64_t from)
{
    const struct raft_config *c = raft__config(r);
    return c->member_count > 0 && raft_config_find(c, from) == NULL;
}

enum thole_code raft__check_epoch(struct raft *r, uint64_t from, uint8_t kind, uint64_t epoch,
                                  bool *ret_ours, struct thole_status *st)
{
    if (epoch > r->epoch && raft__has_no_data(r) && !r->superseded) {
        r->epoch = epoch;
    }
    if (epoch > r->epoch && is_stranger(r, from)) {
        *ret_ours = false;
        return THOLE_OK;
    }
    if (epoch > r->epoch || r->superseded) {
        r->superseded = true;
        raft__wake(r, r->now_ms);
        raft__become_follower(r, r->term, 0);
        raft__rearm_election(r);
        return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_REMOVED,
                          "superseded: the group was forced without this replica, whose data is of "
                          "epoch %" PRIu64,
                          r->epoch);
    }
    *ret_ours = epoch == r->epoch && r->awake->force_index == 0;
    if (epoch < r->epoch && kind != RAFT_MSG_REMOVED) {
        raft__answer_removed(r, from);
    }
    return THOLE_OK;
}

/* The host of this replica, by its configuration or by a change that does not act yet. */
static bool find_self(const struct raft *r, struct raft_change_item *ret)
{
    const struct raft_member *m = raft_config_find(raft__config(r), r->options.replica_id);
    struct raft_change change;

    if (m != NULL) {
        memcpy(ret->host, m->host, sizeof ret->host);
        return true;
    }
    for (size_t i = 0; i < r->membership.pending_count; i++) {
        const struct raft_entry *e = r->membership.pending[i];
        if (raft_change_decode(e->payload.bytes, &change, NULL) != THOLE_OK) {
            continue;
        }
        for (uint32_t k = 0; k < change.item_count; k++) {
            if (change.items[k].replica_id == r->options.replica_id &&
                change.items[k].op < RAFT_CHANGE_REMOVE) {
                memcpy(ret->host, change.items[k].host, sizeof ret->host);
                return true;
            }
        }
    }
    return false;
}

static enum thole_code check_force(const struct raft *r, uint64_t epoch, struct thole_status *st)
{
    if (r->options.witness || raft__has_no_data(r) || r->superseded) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_UNSATISFIABLE,
                          "force: this replica has no data of the group");
    }
    if (epoch <= r->epoch || epoch > RAFT_NUMBER_MAX) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_STALE_REVISION,
                          "force: epoch %" PRIu64 " is not above %" PRIu64, epoch, r->epoch);
    }
    if (r->awake->persist.snapshot_dirty || r->log.durable < r->log.start_index) {
        return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_NOT_READY,
                          "force: a snapshot is being installed");
    }
    return THOLE_OK;
}

enum thole_code raft_force(struct raft *r, uint64_t epoch, uint64_t now_ms, struct thole_status *st)
{
    struct raft_change change = {.epoch = epoch, .item_count = 1};

    raft__begin(r, now_ms);
    enum thole_code code = check_force(r, epoch, st);
    if (code != THOLE_OK) {
        return code;
    }
    change.items[0].op = RAFT_CHANGE_ADD_VOTER;
    change.items[0].replica_id = r->options.replica_id;
    if (!find_self(r, &change.items[0])) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_NO_SUCH_REPLICA,
                          "force: this replica is no member");
    }
    ASSERT(epoch > r->epoch && r->epoch >= raft__config(r)->epoch);
    raft__wake(r, r->now_ms);
    raft__become_follower(r, r->term + 1, 0);
    if (r->options.lease) {
        r->contact_ms = r->now_ms; /* a leader may still hold a lease that others promised */
    }
    struct raft_entry *e = raft__change_entry(&change);
    e->index = r->log.last_index + 1;
    e->term = r->term;
    e->stamp = r->log.last_stamp;
    raft__log_append(&r->log, e);
    raft__membership_note(&r->membership, e);
    raft_entry_unref(e);
    r->epoch = epoch;
    r->awake->force_index = r->log.last_index;
    r->awake->force_token = 0;
    raft__check(r);
    return THOLE_OK;
}

void raft__force_durable(struct raft *r, uint64_t token)
{
    if (r->awake->force_index != 0 && r->awake->force_token != 0 &&
        r->awake->force_token <= token) {
        uint64_t index = r->awake->force_index;
        ASSERT(index <= r->log.durable && r->commit < index);
        r->awake->force_index = 0;
        r->awake->persist.commit = index;
        raft__commit_to(r, index);
    }
}

void raft__force_acts(struct raft *r)
{
    const struct raft_config *c = raft__config(r);

    ASSERT(c->epoch != 0 && r->awake->force_index == 0);
    r->epoch = c->epoch > r->epoch ? c->epoch : r->epoch;
    if (raft_config_find(c, r->options.replica_id) != NULL) {
        r->removed = false; /* overrides a removal by the lost majority */
        r->removed_changed = false;
        raft__rearm_election(r);
        raft__hurry_if_only_voter(r);
    }
}
