/* Entries from the leader. Dissertation 3.5. */
#include "shards/raft/raft_internal.h"

#include <inttypes.h>

static void reject(struct raft *r, const struct raft_message *m)
{
    struct raft_message reply = {
        .kind = RAFT_MSG_APPEND_REPLY,
        .to = m->from,
        .term = r->term,
        .reject = true,
        .index = m->index,
        .commit = r->commit,
    };

    /* Skip whole terms: the logs cannot agree where this one has a term above the leader's. */
    reply.hint = raft__log_guess(&r->log, m->index, m->log_term);
    ASSERT(reply.hint <= m->index && reply.hint <= r->log.last_index);
    (void)raft__log_term(&r->log, reply.hint, &reply.log_term);
    raft__send(r, reply, 0);
}

/* Position of the first entry that this log does not have; entry_count if it has all. */
static uint32_t first_new(const struct raft *r, const struct raft_message *m)
{
    uint32_t i = 0;

    while (i < m->entry_count &&
           raft__log_matches(&r->log, m->entries[i]->index, m->entries[i]->term)) {
        i++;
    }
    return i;
}

/* The times of the first entry do not fall behind those of the entry before it here, as far as that
 * one is in memory. */
static bool times_continue(const struct raft *r, const struct raft_message *m)
{
    const struct raft_entry *before = raft__log_entry(&r->log, m->index);
    struct raft_stamp stamp = before != NULL ? before->stamp : r->log.last_stamp;

    if (m->entry_count == 0 || (before == NULL && m->index != r->log.last_index) ||
        !raft__log_matches(&r->log, m->index, m->log_term)) {
        return true;
    }
    return raft_stamp_precedes(stamp, m->entries[0]->stamp) || CANARY(stamp_falls);
}

static void take_entries(struct raft *r, const struct raft_message *m, uint32_t from)
{
    uint64_t first = m->entries[from]->index;

    ASSERT(r->role == RAFT_FOLLOWER && first > r->commit && first <= r->log.last_index + 1);
    if (first <= r->log.last_index) {
        raft__log_truncate(&r->log, first);
        raft__membership_truncate(&r->membership, first);
    }
    for (uint32_t i = from; i < m->entry_count; i++) {
        raft__log_append(&r->log, m->entries[i]);
        if (m->entries[i]->kind == RAFT_ENTRY_CONFIG) {
            raft__membership_note(&r->membership, m->entries[i]);
        }
    }
    ASSERT(r->log.last_index == m->index + m->entry_count);
}

enum thole_code raft__recv_append(struct raft *r, struct raft_message *m, struct thole_status *st)
{
    if (r->role == RAFT_LEADER || (r->leader != 0 && r->leader != m->from)) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "append: replica %" PRIu64 " leads the same term as replica %" PRIu64,
                          m->from, r->leader);
    }
    if (!times_continue(r, m)) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "append: the times of entry %" PRIu64 " are before those of the log",
                          m->entries[0]->index);
    }
    raft__heard_leader(r, m->from);

    bool joining = raft__config(r)->member_count == 0 && r->log.start_index == 0;
    if (joining && m->index == 0) {
        reject(r, m); /* the first configuration is in no entry: only a snapshot can start us */
        return THOLE_OK;
    }
    if (m->index < r->commit) {
        raft__send_ack(r, m->from, r->commit); /* old: up to the commit index all logs agree */
        return THOLE_OK;
    }
    if (!raft__log_matches(&r->log, m->index, m->log_term) &&
        !(CANARY(empty_append_term_zero) && m->log_term == 0)) {
        reject(r, m);
        return THOLE_OK;
    }
    uint32_t i = first_new(r, m);
    if (i < m->entry_count) {
        if (m->entries[i]->index <= r->commit) {
            return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                              "append: entry %" PRIu64 " would replace a committed one",
                              m->entries[i]->index);
        }
        take_entries(r, m, i);
    }
    uint64_t last = m->index + m->entry_count; /* up to here the log is the leader's */
    ASSERT(last <= r->log.last_index || CANARY(empty_append_term_zero));
    if (CANARY(old_append_truncates) && last >= r->commit && last < r->log.last_index) {
        raft__log_truncate(&r->log, last + 1);
        raft__membership_truncate(&r->membership, last + 1);
    }
    raft__send_ack(r, m->from, last);
    last = CANARY(commit_past_match) ? r->log.last_index : last;
    raft__commit_to(r, m->commit < last ? m->commit : last);
    return THOLE_OK;
}
