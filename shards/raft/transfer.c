/* Leadership transfer. Dissertation 3.10. */
#include "shards/raft/raft_internal.h"

#include <inttypes.h>

void raft__timeout_now(struct raft *r, uint64_t target)
{
    struct raft_message m = {.kind = RAFT_MSG_TIMEOUT_NOW, .to = target, .term = r->term};

    ASSERT(r->role == RAFT_LEADER && target != r->options.replica_id);
    r->lead->lease_void = true; /* the target's votes bypass the voters' promises */
    raft__send(r, m, 0);
}

uint64_t raft__transfer_choose(const struct raft *r)
{
    const struct raft_config *c = raft__config(r);
    uint64_t best = 0;
    uint64_t best_match = 0;

    ASSERT(r->role == RAFT_LEADER && r->lead->peer_count == c->member_count);
    for (uint32_t i = 0; i < c->member_count; i++) {
        const struct raft_progress *p = &r->lead->peers[i];
        uint64_t id = c->members[i].replica_id;
        if (id == r->options.replica_id || c->members[i].role != RAFT_VOTER ||
            p->state != RAFT_REPLICATE) {
            continue;
        }
        if (best == 0 || p->match > best_match) {
            best = id;
            best_match = p->match;
        }
    }
    return best;
}

void raft__transfer_step(struct raft *r, uint64_t peer)
{
    struct raft_progress *p = raft__peer(r, peer);

    if (p == NULL || r->lead->transfer_target != peer || r->lead->transfer_sent ||
        p->match != r->log.last_index) {
        return;
    }
    ASSERT(p->match <= r->log.last_index && !r->asleep);
    r->lead->transfer_sent = true;
    raft__timeout_now(r, peer);
}

void raft__transfer_end(struct raft *r)
{
    ASSERT(r->role == RAFT_LEADER && r->lead->transfer_target != 0);
    r->lead->transfer_target = 0;
    r->lead->transfer_sent = false;
    r->status_changed = true;
}

static enum thole_code check_transfer(const struct raft *r, uint64_t target,
                                      struct thole_status *st)
{
    const struct raft_member *m = raft_config_find(raft__config(r), target);

    if (r->lead->transfer_target != 0) {
        return THOLE_FAIL(st, THOLE_ABORTED, THOLE_REASON_TRANSFERRING,
                          "transfer: another one, to replica %" PRIu64 ", is under way",
                          r->lead->transfer_target);
    }
    if (target == 0) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_UNSATISFIABLE,
                          "transfer: no other voter is reachable");
    }
    if (m == NULL) {
        return THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_REPLICA,
                          "transfer: replica %" PRIu64 " is no member", target);
    }
    if (m->role != RAFT_VOTER) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_UNSATISFIABLE,
                          "transfer: replica %" PRIu64 " may not lead", target);
    }
    return THOLE_OK;
}

enum thole_code raft_transfer(struct raft *r, uint64_t target, uint64_t now_ms,
                              struct thole_status *st)
{
    raft__begin(r, now_ms);
    raft__wake(r, now_ms);
    if (r->role != RAFT_LEADER) {
        return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_NOT_LEADER,
                          "transfer: this replica does not lead");
    }
    if (target == r->options.replica_id) {
        return THOLE_OK; /* it leads already */
    }
    if (target == 0) {
        target = raft__transfer_choose(r);
    }
    enum thole_code code = check_transfer(r, target, st);
    if (code != THOLE_OK) {
        return code;
    }
    ASSERT(r->lead->transfer_target == 0 && raft__peer(r, target) != NULL);
    r->lead->transfer_target = target;
    r->lead->transfer_deadline_ms = now_ms + r->options.election_timeout_ms;
    r->lead->transfer_sent = false;
    r->status_changed = true;
    raft__busy(r);
    raft__peer(r, target)->want_append = true;
    r->work = true;
    raft__transfer_step(r, target);
    raft__check(r);
    return THOLE_OK;
}

/* The receiver checks again that it may campaign: a learner or a removed replica may not. */
void raft__recv_timeout_now(struct raft *r, const struct raft_message *m)
{
    if (r->role != RAFT_FOLLOWER || r->leader != m->from) {
        return;
    }
    if (raft__change_is_due(r)) {
        /* The successor of a removed leader gets TIMEOUT_NOW together with the removal's commit. */
        r->awake->transfer_term = r->term;
    } else {
        raft__campaign(r, true);
    }
}

void raft__transfer_resume(struct raft *r)
{
    if (r->awake->transfer_term != 0 && r->awake->transfer_term == r->term &&
        r->role == RAFT_FOLLOWER && !raft__change_is_due(r)) {
        r->awake->transfer_term = 0;
        raft__campaign(r, true);
    }
}
