#include "shards/store/plan.h"

#include <inttypes.h>

#include "base/assert.h"

#define REFUSE(u, st, what)                                                                       \
    THOLE_FAIL((st), THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, "replica %" PRIu64 ": %s", \
               (u)->replica_id, (what))

static enum thole_code plan_entries(struct log_plan *p, const struct store_update *u,
                                    struct thole_status *st)
{
    uint64_t first = u->entries[0]->index;
    uint64_t term = 0;
    struct raft_stamp stamp = {0};

    if (first <= p->start || first - 1 > p->last) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "replica %" PRIu64 ": entry %" PRIu64 " leaves a gap in the log (%" PRIu64
                          ", %" PRIu64 "]",
                          u->replica_id, first, p->start, p->last);
    }
    if (first > UINT64_MAX - u->entry_count) {
        return REFUSE(u, st, "more entries than there are indexes");
    }
    for (size_t i = 0; i < u->entry_count; i++) {
        const struct raft_entry *e = u->entries[i];

        if (e->index != first + i || e->term < term || e->kind > RAFT_ENTRY_KIND_MAX ||
            !raft_stamp_precedes(stamp, e->stamp) || e->payload.bytes.size > LIMIT_PAYLOAD_BYTES) {
            return REFUSE(u, st, "entries out of order, of an unknown kind, or too large");
        }
        term = e->term;
        stamp = e->stamp;
    }
    p->last = first + u->entry_count - 1;
    ASSERT(p->start < p->last);
    return THOLE_OK;
}

static enum thole_code plan_end(struct log_plan *p, const struct store_update *u,
                                struct thole_status *st)
{
    if (u->create != NULL || u->has_hard || u->has_start || u->entry_count > 0 ||
        (u->remove && u->forget)) {
        return REFUSE(u, st, "a removal comes alone");
    }
    if (u->forget) {
        if (p->state == LOG_LIVE || p->state == LOG_DAMAGED) {
            return REFUSE(u, st, "only a removed replica can be forgotten");
        }
        p->state = LOG_GONE;
        return THOLE_OK;
    }
    if (p->state == LOG_GONE) {
        return REFUSE(u, st, "was removed and forgotten");
    }
    p->state = LOG_TOMBSTONE;
    return THOLE_OK;
}

enum thole_code store__plan(struct log_plan *p, const struct store_update *u,
                            struct thole_status *st)
{
    if (u->replica_id == 0 || u->replica_id == UINT64_MAX) {
        return REFUSE(u, st, "not a replica id");
    }
    if (u->remove || u->forget) {
        return plan_end(p, u, st);
    }
    if (u->create != NULL) {
        if (p->state != LOG_ABSENT || u->create->replica_id != u->replica_id) {
            return REFUSE(u, st, "exists or existed");
        }
        *p = (struct log_plan){.state = LOG_LIVE};
    }
    if (p->state != LOG_LIVE) {
        return REFUSE(u, st, p->state == LOG_DAMAGED ? "is damaged" : "is not there");
    }
    if (u->has_hard && u->hard.term == UINT64_MAX) {
        return REFUSE(u, st, "not a term");
    }
    if (u->has_start) {
        if (!u->start_reset && u->start_index < p->start) {
            return REFUSE(u, st, "the log's start cannot move back");
        }
        if (u->start_reset || u->start_index > p->last) {
            p->last = u->start_index;
        }
        p->start = u->start_index;
    }
    return u->entry_count > 0 ? plan_entries(p, u, st) : THOLE_OK;
}
