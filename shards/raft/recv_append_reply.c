/* A member's answer to an append: how far its log agrees with the leader's. */
#include "shards/raft/raft_internal.h"

#include <inttypes.h>

static void rejected(struct raft *r, struct raft_progress *p, const struct raft_message *m)
{
    uint64_t guess = m->hint;

    ASSERT(r->role == RAFT_LEADER && m->reject);
    if (m->log_term > 0) {
        guess = raft__log_guess(&r->log, m->hint, m->log_term);
    }
    if (raft__progress_rejected(p, m->index, guess)) {
        r->work = true;
    }
}

static void accepted(struct raft *r, struct raft_progress *p, const struct raft_message *m)
{
    ASSERT(r->role == RAFT_LEADER && m->index <= r->log.last_index);
    bool news = raft__progress_acked(p, m->index);

    r->work = true;
    switch (p->state) {
    case RAFT_PROBE:
        if (news || m->index == p->match) {
            raft__progress_replicate(p);
        }
        break;
    case RAFT_SNAPSHOT:
        /* The log reaches the member again; a lost report of the snapshot does not strand it. */
        if (p->match >= r->log.start_index && news) {
            raft__progress_replicate(p);
        }
        break;
    case RAFT_REPLICATE:
        break;
    }
    raft__transfer_step(r, m->from);
    if (news) {
        raft__commit_by_quorum(r); /* last: it may end this leadership, and free `p` */
    }
}

enum thole_code raft__recv_append_reply(struct raft *r, const struct raft_message *m,
                                        struct thole_status *st)
{
    struct raft_progress *p = raft__peer(r, m->from);

    if (p == NULL) {
        return THOLE_OK;
    }
    if (m->index > r->log.last_index) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "append reply: index %" PRIu64 " is beyond the leader's log", m->index);
    }
    raft__lead_answered(r, p, m);
    if (m->reject) {
        rejected(r, p, m);
    } else {
        accepted(r, p, m);
    }
    return THOLE_OK;
}
