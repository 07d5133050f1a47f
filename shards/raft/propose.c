/* A leader's new entries: proposals and membership changes. */
#include "shards/raft/raft_internal.h"

#include <inttypes.h>

static enum thole_code check_leader(const struct raft *r, struct thole_status *st)
{
    if (r->role != RAFT_LEADER) {
        return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_NOT_LEADER,
                          "this replica does not lead");
    }
    if (r->lead->transfer_target != 0) {
        return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_TRANSFERRING,
                          "leadership moves to replica %" PRIu64, r->lead->transfer_target);
    }
    return THOLE_OK;
}

static enum thole_code check_entries(struct raft_entry *const *entries, size_t n,
                                     uint64_t *ret_bytes, struct thole_status *st)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < n; i++) {
        if (entries[i]->kind != RAFT_ENTRY_COMMAND && entries[i]->kind != RAFT_ENTRY_SESSION &&
            entries[i]->kind != RAFT_ENTRY_TICK) {
            return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                              "proposal: kind %u is not for proposing", entries[i]->kind);
        }
        if (entries[i]->payload.bytes.size > LIMIT_PAYLOAD_BYTES) {
            return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_TOO_LARGE,
                              "proposal: %zu bytes, at most %d", entries[i]->payload.bytes.size,
                              LIMIT_PAYLOAD_BYTES);
        }
        bytes += raft_entry_size(entries[i]);
    }
    *ret_bytes = bytes;
    return THOLE_OK;
}

enum thole_code raft_propose(struct raft *r, struct raft_entry *const *entries, size_t n,
                             uint64_t now_ms, uint64_t wall_ms, uint64_t *ret_first,
                             struct thole_status *st)
{
    uint64_t bytes = 0;

    raft__begin(r, CANARY(asleep_is_stalled) ? r->now_ms : now_ms);
    enum thole_code code = check_leader(r, st);
    if (code == THOLE_OK) {
        code = check_entries(entries, n, &bytes, st);
    }
    if (code != THOLE_OK) {
        return code;
    }
    /* With nothing uncommitted any batch passes, or one of the limit's size never would. */
    if (r->lead->uncommitted_bytes > 0 &&
        r->lead->uncommitted_bytes + bytes > LIMIT_UNCOMMITTED_BYTES) {
        return THOLE_FAIL(st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_QUEUE_FULL,
                          "%" PRIu64 " bytes are proposed and not committed",
                          r->lead->uncommitted_bytes);
    }
    *ret_first = r->log.last_index + 1;
    for (size_t i = 0; i < n; i++) {
        raft__lead_append(r, entries[i], wall_ms);
        raft_entry_unref(entries[i]);
    }
    raft__check(r);
    return THOLE_OK;
}

static enum thole_code not_ready(struct thole_status *st, uint64_t id, const char *why)
{
    return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_NOT_READY,
                      "membership change: replica %" PRIu64 " %s", id, why);
}

/* A learner gets a vote only if it has caught up (raft__lead_caught_up). A new witness has
 * nothing to catch up with, and counts as a member that does not answer. After each change the
 * members that are caught up now must be a majority of both halves: one that answers and stores
 * nothing, because its disk hangs, would not let the change commit. */
static enum thole_code check_votes(const struct raft *r, const struct raft_config *after,
                                   struct thole_status *st)
{
    const struct raft_config *now = raft__config(r);
    uint8_t votes[LIMIT_MEMBERS];

    ASSERT(r->role == RAFT_LEADER && after->member_count <= LIMIT_MEMBERS);
    for (uint32_t i = 0; i < after->member_count; i++) {
        const struct raft_member *m = &after->members[i];
        uint32_t at = raft__config_position(now, m->replica_id);
        bool member = at < now->member_count;
        bool promoted = m->role == RAFT_VOTER && !raft_config_is_voter(now, m->replica_id);
        if (promoted && !member) {
            return not_ready(st, m->replica_id, "is no learner yet");
        }
        if (promoted && !raft__lead_answers(r, at)) {
            return not_ready(st, m->replica_id, "has not answered lately");
        }
        if (promoted && !raft__lead_caught_up(r, at)) {
            return not_ready(st, m->replica_id, "has not caught up yet");
        }
        votes[i] = member && raft__lead_caught_up(r, at) ? RAFT_VOTE_GRANTED : RAFT_VOTE_REFUSED;
    }
    if (raft__quorum_joint_tally(after, votes) != RAFT_TALLY_WON) {
        return THOLE_FAIL(
            st, THOLE_UNAVAILABLE, THOLE_REASON_NOT_READY,
            "membership change: the members that answer and have what is committed would be no "
            "majority of the voters");
    }
    return THOLE_OK;
}

static enum thole_code check_change(const struct raft *r, const struct raft_change *c,
                                    struct thole_status *st)
{
    struct raft_config after = {0};
    enum thole_code code = check_leader(r, st);

    if (code != THOLE_OK) {
        return code;
    }
    if (c->epoch != 0) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "membership change: an epoch is not for proposing");
    }
    if (r->membership.pending_count > 0 && !CANARY(two_changes_in_flight)) {
        return THOLE_FAIL(st, THOLE_ABORTED, THOLE_REASON_CHANGE_IN_FLIGHT,
                          "membership change: entry %" PRIu64 " is not applied yet",
                          r->membership.pending[0]->index);
    }
    if (raft__config(r)->joint && c->item_count > 0) {
        return THOLE_FAIL(st, THOLE_ABORTED, THOLE_REASON_CHANGE_IN_FLIGHT,
                          "membership change: the last one is still in its joint configuration");
    }
    if (r->commit < r->lead->first_index) {
        /* Without this, changes of two leaders may overlap (the 2015 erratum to 4.1). */
        return THOLE_FAIL(st, THOLE_ABORTED, THOLE_REASON_CHANGE_IN_FLIGHT,
                          "membership change: nothing is committed in term %" PRIu64 " yet",
                          r->term);
    }
    code = raft_change_apply(raft__config(r), c, &after, st);
    if (code == THOLE_OK && raft__has_witness(raft__config(r)) &&
        raft__best_match(r, &after) < r->commit) {
        /* Commits would wait until a voter that stays has caught up: see raft__staying_match. */
        code = THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_UNSATISFIABLE,
                          "membership change: beside witnesses no caught-up voter would stay");
    }
    if (code == THOLE_OK && c->item_count > 0 && !CANARY(vote_unanswered) &&
        !CANARY(promoted_unanswered)) {
        code = check_votes(r, &after, st);
    }
    raft_config_deinit(&after);
    return code;
}

/* The log's entry for a change. One reference, the caller's. */
struct raft_entry *raft__change_entry(const struct raft_change *c)
{
    struct bytes encoded = {0};

    raft_change_encode(c, &encoded);
    struct buf *b = bytes_to_buf(&encoded);
    bytes_deinit(&encoded);
    struct bufslice payload = {.owner = b, .bytes = {.data = b->data, .size = b->size}};
    return raft_entry_new(RAFT_ENTRY_CONFIG, 0, 0, payload);
}

enum thole_code raft_change_membership(struct raft *r, const struct raft_change *c, uint64_t now_ms,
                                       uint64_t *ret_index, struct thole_status *st)
{
    raft__begin(r, now_ms);
    enum thole_code code = check_change(r, c, st);

    if (code != THOLE_OK) {
        return code;
    }
    /* Invariant 8: one in flight, after a commit of this term. */
    ASSERT(r->membership.pending_count == 0 || CANARY(two_changes_in_flight));
    ASSERT(r->commit >= r->lead->first_index);
    struct raft_entry *e = raft__change_entry(c);
    raft__lead_append(r, e, 0);
    *ret_index = e->index;
    raft_entry_unref(e);
    raft__check(r);
    return THOLE_OK;
}
