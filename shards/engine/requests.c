/* Deadlines and answers of requests: proposals and queries. */
#include <string.h>

#include "shards/engine/engine_internal.h"

_Static_assert(sizeof(struct wheel_timer) <= sizeof(((struct engine_request *)0)->internal),
               "a request's deadline timer fits in its private words");

struct wheel_timer *engine__request_timer(struct engine_request *q)
{
    return (struct wheel_timer *)(void *)q->internal;
}

void engine__request_arm(struct loop *l, struct engine_request *q)
{
    ASSERT(worker_is_current(l->w));
    *engine__request_timer(q) = (struct wheel_timer){0};
    if (q->deadline_ns == CLOCK_NEVER) {
        return;
    }
    /* Rounded up: a request never expires early. */
    wheel_arm(l->deadlines, engine__request_timer(q), q->deadline_ns / NS_PER_MS + 1);
}

void engine__request_disarm(struct loop *l, struct engine_request *q)
{
    wheel_cancel(l->deadlines, engine__request_timer(q));
}

void engine__request_finish(struct engine_request *q)
{
    ASSERT(q->status.code == THOLE_OK || q->result.owner == NULL);
    bufslice_unref(q->payload);
    q->payload = (struct bufslice){0};
    if (q->status.code != THOLE_OK) {
        metric_add(&engine_refused, 1);
    }
    q->done(q);
}

void engine__request_fail(struct engine_request *q, enum thole_code code, enum thole_reason reason,
                          const char *message)
{
    (void)THOLE_FAIL(&q->status, code, reason, "%s", message);
    engine__request_finish(q);
}

bool engine__replica_host(const struct replica *r, uint64_t replica_id, struct uuid *ret)
{
    const struct raft_member *m =
        r->core != NULL ? raft_config_find(raft_config(r->core), replica_id) : NULL;
    if (m != NULL) {
        memcpy(ret->bytes, m->host, sizeof ret->bytes);
        return true;
    }
    const struct uuid *learnt = r->work != NULL ? map_get(&r->work->peer_hosts, replica_id) : NULL;
    if (learnt == NULL) {
        return false;
    }
    *ret = *learnt;
    return true;
}

void engine__request_not_leader(struct loop *l, struct replica *r, struct engine_request *q)
{
    (void)l;
    struct raft_status s;
    replica_status(r, &s);
    q->leader_term = s.term;
    q->leader_host = (struct uuid){0};
    if (s.leader != 0 && s.leader != r->replica_id &&
        engine__replica_host(r, s.leader, &q->leader_host)) {
        engine__request_fail(q, THOLE_UNAVAILABLE, THOLE_REASON_NOT_LEADER,
                             "another replica leads");
        return;
    }
    engine__request_fail(q, THOLE_UNAVAILABLE,
                         s.leader ? THOLE_REASON_NOT_LEADER : THOLE_REASON_NO_LEADER,
                         "this replica does not lead, and knows no host that does");
}
