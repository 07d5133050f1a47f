/* Heartbeats and their answers: liveness, the commit index, and read rounds. */
#include "shards/raft/raft_internal.h"

#include <inttypes.h>

enum thole_code raft__take_heartbeat(struct raft *r, const struct raft_message *m,
                                     struct thole_status *st)
{
    if (r->role == RAFT_LEADER || (r->leader != 0 && r->leader != m->from)) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "heartbeat: replica %" PRIu64 " leads the same term as replica %" PRIu64,
                          m->from, r->leader);
    }
    if (m->commit > r->log.last_index) {
        /* A heartbeat commits only what this replica acknowledged, and its log has lost that. */
        return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                          "heartbeat: this replica acknowledged %" PRIu64
                          ", its log ends at %" PRIu64,
                          m->commit, r->log.last_index);
    }
    raft__heard_leader(r, m->from);
    ASSERT(r->role == RAFT_FOLLOWER && r->leader == m->from);
    raft__commit_to(r, m->commit);
    return THOLE_OK;
}

enum thole_code raft__recv_heartbeat(struct raft *r, const struct raft_message *m,
                                     struct thole_status *st)
{
    enum thole_code code = raft__take_heartbeat(r, m, st);

    if (code == THOLE_OK) {
        struct raft_message reply = {
            .kind = RAFT_MSG_HEARTBEAT_REPLY,
            .to = m->from,
            .term = r->term,
            .context = m->context,
            .hint = raft__lease_promise_ms(r),
        };
        raft__send(r, reply, 0);
    }
    return code;
}

enum thole_code raft__recv_heartbeat_reply(struct raft *r, const struct raft_message *m,
                                           struct thole_status *st)
{
    struct raft_progress *p = raft__peer(r, m->from);

    if (p == NULL) {
        return THOLE_OK;
    }
    if (m->context > r->read_number) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "heartbeat reply: read round %" PRIu64 " was never opened", m->context);
    }
    raft__lead_answered(r, p, m);
    p->paused = false;
    raft__lease_acked(r, p, m);
    if (p->state == RAFT_PROBE && p->match == r->log.last_index) {
        raft__progress_replicate(p); /* caught up: no append would follow to end the probing */
    }
    if (p->state == RAFT_PROBE || p->match < r->log.last_index) {
        p->want_append = true;
        r->work = true;
    }
    ASSERT(p->read_acked <= r->read_number);
    uint64_t round = CANARY(duplicate_read_context) ? r->read_number : m->context;
    if (round > p->read_acked) {
        p->read_acked = round;
        raft__reads_confirm(r);
    }
    return THOLE_OK;
}
