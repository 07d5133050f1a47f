/* Balance of leaders, on every host, for the shards that it leads. Leadership goes where the
 * shard's preference says, and otherwise from a host that leads at least two more than another
 * eligible one. A few transfers are under way at a time. The next ones wait until the registry
 * shows the last ones: otherwise many hosts would all fill the same idle host.
 *
 * A host that is being drained hands on all its leaders, as many at a time as the engine takes.
 * Shard zero's leader moves only from such a host. A leader that is sending a snapshot stays until
 * the snapshot ends. A leader that a user placed stays until hosts change, unless the shard has a
 * preference.
 *
 * Only changes are evaluated: shards that are led here and changed, if a shard has a preference;
 * all shards that are led here when hosts changed, or when hosts lead unevenly and a leader
 * changed. */
#include "hostctl/hostctl_internal.h"

#include "base/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* In units of retry_ms: changes are collected for this long, and reports of transfers arrive
 * meanwhile. */
#define LEADERS_PAUSE_RETRIES 4
/* Pause after a failed transfer of a shard. */
#define LEADERS_FAILED_MS 30000

void hostctl__leaders_changed(struct hostctl *h)
{
    uint64_t due_ms = h->now_ms + (uint64_t)LEADERS_PAUSE_RETRIES * h->o.retry_ms;
    h->leaders_due_ms = due_ms < h->leaders_due_ms ? due_ms : h->leaders_due_ms;
}

void hostctl__leaders_hosts_changed(struct hostctl *h)
{
    h->leaders_all = true;
    hostctl__leaders_changed(h);
}

void hostctl__leaders_note(struct hostctl *h, struct ctl_shard *s)
{
    (void)map_put(&h->leaders_look, s->id, h);
    if (h->leaders_preferred || s->sending) {
        hostctl__leaders_changed(h);
    }
    s->sending = false;
}

void hostctl__leaders_count(struct hostctl *h, const struct registry_view *v,
                            const thole_v1_Shard *shard, bool more)
{
    if (shard == NULL || thole_v1_Shard_id(shard) == REGISTRY_SHARD_ID) {
        return;
    }
    size_t preferences = 0;
    struct slice leader =
        registry_str(thole_v1_ShardStatus_leader_host(thole_v1_Shard_status(shard)));
    const thole_v1_Host *row = registry_host_by_name(v, leader);
    struct uuid id;
    (void)thole_v1_ShardSpec_leader_preference(thole_v1_Shard_spec(shard), &preferences);
    h->leaders_preferred |= preferences > 0;
    if (row != NULL && uuid_parse(registry_str(thole_v1_Host_id(row)), &id)) {
        hostctl__host(h, &id)->leads += more ? 1 : -1;
    }
}

void hostctl__leaders_recount(struct hostctl *h)
{
    struct registry_shard_buf shard_buf;
    struct slice name = {0};
    const thole_v1_Shard *row;
    for (size_t i = 0; i < h->host_count; i++) {
        h->hosts[i].leads = 0;
    }
    h->leaders_moved = true;
    while ((row = registry_next_shard(h->view, name, &shard_buf)) != NULL) {
        name = registry_str(thole_v1_Shard_name(row));
        hostctl__leaders_count(h, h->view, row, true);
    }
}

uint32_t hostctl__leads(const struct hostctl *h, const struct uuid *host)
{
    for (size_t i = 0; i < h->host_count; i++) {
        if (uuid_equal(&h->hosts[i].id, host)) {
            return (uint32_t)h->hosts[i].leads;
        }
    }
    return 0;
}

bool hostctl__leaders_are_counted_right(struct hostctl *h)
{
    bool right = true;
    bool moved = h->leaders_moved;
    size_t count = h->host_count; /* hosts are never forgotten */
    int64_t *leads = xcalloc(count + 1, sizeof *leads);
    for (size_t i = 0; i < count; i++) {
        leads[i] = h->hosts[i].leads;
    }
    hostctl__leaders_recount(h);
    for (size_t i = 0; i < count; i++) {
        right &= leads[i] == h->hosts[i].leads;
    }
    h->leaders_moved = moved;
    free(leads);
    return right;
}

/* How many more shards this host leads than the host that leads least. */
static int64_t lead(struct hostctl *h)
{
    const struct ctl_host *own = hostctl__host(h, &h->o.host_id);
    int64_t most = 0;
    for (size_t i = 0; i < h->host_count; i++) {
        int64_t more = own->leads - h->hosts[i].leads;
        most = h->hosts[i].in_view && more > most ? more : most;
    }
    return most;
}

struct choice {
    struct ctl_host *host; /* NULL: none */
    uint64_t replica_id;
    bool preferred;
};

/* The best of the other voters: on a preferred host first, then on the host that leads least. A
 * voter that lags is eligible: the transfer waits for it, or is aborted. An unconnected voter is
 * not: a restarting host is unconnected before it is suspect. */
static struct choice best_other(struct hostctl *h, const struct engine_replica_status *local,
                                const thole_v1_Shard *shard)
{
    struct registry_replica_buf replica_buf;
    struct choice best = {NULL, 0, false};
    uint64_t after = 0;
    const thole_v1_Replica *row;
    while ((row = registry_next_replica_of_shard(h->view, local->shard_id, after, &replica_buf)) !=
           NULL) {
        struct uuid id;
        bool preferred = false;
        after = thole_v1_Replica_id(row);
        if (after == local->replica_id ||
            thole_v1_Replica_desired(row) != thole_v1_REPLICA_DESIRED_RUN ||
            thole_v1_Replica_moving_by(row) != 0 ||
            thole_v1_Replica_role(row) != thole_v1_REPLICA_ROLE_VOTER ||
            thole_v1_Replica_phase(row) != thole_v1_REPLICA_PHASE_RUNNING ||
            !uuid_parse(registry_str(thole_v1_Replica_host_id(row)), &id)) {
            continue;
        }
        const thole_v1_Host *host = registry_host(h->view, &id);
        if (host == NULL || !placement_host_leads(host, thole_v1_Shard_spec(shard), &preferred)) {
            continue;
        }
        struct ctl_host *other = hostctl__host(h, &id);
        if (!other->up) {
            continue; /* no answer: proposals would wait for a whole timeout */
        }
        if (engine_peer_refuses(h->o.engine, &id, local->shard_id)) {
            continue; /* its beats say so before its row does */
        }
        if (best.host == NULL || (preferred && !best.preferred) ||
            (preferred == best.preferred && other->expected < best.host->expected)) {
            best = (struct choice){other, after, preferred};
        }
    }
    return best;
}

static void look_later(struct hostctl *h, const struct ctl_shard *s)
{
    (void)map_put(&h->leaders_look, s->id, h);
    if (s->work->lead_after_ms < h->leaders_due_ms) {
        h->leaders_due_ms = s->work->lead_after_ms;
    }
}

/* Hand leadership of the shard on, if that improves the balance. A shard with a membership change
 * is evaluated again when the change has ended. */
static void look_at(struct hostctl *h, struct ctl_shard *s)
{
    struct registry_shard_buf shard_buf;
    struct engine_replica_status local;
    const thole_v1_Host *own_row = hostctl__own_row(h);
    bool leaving = hostctl__host_has_state(own_row, thole_v1_HOST_STATE_DRAINING);
    if ((s->id == REGISTRY_SHARD_ID && !leaving) || s->changing || own_row == NULL ||
        !engine_shard_status(h->o.engine, s->id, &local) || !local.leader_ready || local.failed) {
        return;
    }
    const thole_v1_Shard *shard = registry_shard(h->view, s->id, &shard_buf);
    if (shard == NULL || thole_v1_Shard_deleting(shard)) {
        return;
    }
    if (h->now_ms < s->work->lead_after_ms) {
        look_later(h, s);
        return;
    }
    s->sending = local.sends_snapshot && !leaving;
    if (s->sending) {
        return; /* the next leader would restart the snapshot; its end wakes the controller */
    }
    bool preferred = false;
    (void)placement_host_leads(own_row, thole_v1_Shard_spec(shard), &preferred);
    struct choice best = best_other(h, &local, shard);
    struct ctl_host *own = hostctl__host(h, &h->o.host_id);
    /* A leader that a user placed stays. */
    bool held = h->rebalance == 0 && registry_leader_is_held(h->view, shard);
    bool better =
        best.host != NULL &&
        (leaving || (best.preferred && !preferred) ||
         (best.preferred == preferred && !held && own->expected >= best.host->expected + 2));
    if (!better) {
        return;
    }
    char why[160];
    snprintf(why, sizeof why, "its host is draining");
    if (!leaving && best.preferred && !preferred) {
        snprintf(why, sizeof why, "the shard's leader preference");
    } else if (!leaving) {
        snprintf(why, sizeof why, "its host led %" PRId64 " shards, the other one %" PRId64,
                 own->expected, best.host->expected);
    }
    LOG_INFO(HOSTCTL, "handing leadership on shard=%" PRIu64 " to=%" PRIu64 " why=\"%s\"", s->id,
             best.replica_id, why);
    own->expected--;
    best.host->expected++;
    s->changing = true;
    h->transfers++;
    engine_transfer(h->o.engine, s->id, best.replica_id, NULL, hostctl__op_engine_done,
                    hostctl__op_move(h, OP_TRANSFER, s->id, best.replica_id,
                                     leaving ? "drain" : "balance", why));
}

/* Continue where the last turn ended, so that shards that cannot move are not evaluated over and
 * over. */
static void look_at_all(struct hostctl *h, size_t limit)
{
    map_deinit(&h->leaders_look);
    for (size_t looked = 0; h->transfers < limit && looked < h->shards.count;) {
        struct ctl_shard *s = map_next(&h->shards, &h->leaders_at, NULL);
        if (s == NULL) {
            h->leaders_at = 0;
            continue;
        }
        looked++;
        look_at(h, s);
    }
    if (h->transfers < limit) {
        h->leaders_all = h->leaders_moved = false;
    }
}

static void look_at_changed(struct hostctl *h, size_t limit)
{
    size_t it = 0;
    uint64_t id;
    struct map look = h->leaders_look;
    h->leaders_look = (struct map){0};
    while (map_next(&look, &it, &id) != NULL) {
        struct ctl_shard *s = map_get(&h->shards, id);
        if (s != NULL && h->transfers < limit) {
            look_at(h, s);
        } else if (s != NULL) {
            (void)map_put(&h->leaders_look, id, h);
        }
    }
    map_deinit(&look);
}

void hostctl__leaders_run(struct hostctl *h)
{
    bool leaving = hostctl__host_has_state(hostctl__own_row(h), thole_v1_HOST_STATE_DRAINING);
    h->leaders_due_ms = UINT64_MAX;
    if (h->transfers > 0 || (!leaving && !hostctl__may_rebalance(h))) {
        return; /* the end of the last transfer starts the next round */
    }
    if (!leaving && registry_view_revision(h->view) < h->leaders_revision) {
        return; /* retry with a newer view: an old one would repeat the same transfer */
    }
    ASSERT_SLOW(hostctl__leaders_are_counted_right(h));
    int64_t more = lead(h);
    if (more < 2 && !h->leaders_preferred && !leaving) {
        h->leaders_all = h->leaders_moved = false;
        map_deinit(&h->leaders_look);
        return;
    }
    size_t limit = leaving || more / 8 > HOSTCTL_TRANSFERS_MAX ? HOSTCTL_TRANSFERS_MAX
                   : more / 8 < HOSTCTL_TRANSFERS_MIN          ? HOSTCTL_TRANSFERS_MIN
                                                               : (size_t)(more / 8);
    for (size_t i = 0; i < h->host_count; i++) {
        h->hosts[i].expected = h->hosts[i].leads;
    }
    if (leaving || h->leaders_all || (h->leaders_moved && more >= 2)) {
        look_at_all(h, limit);
    } else {
        look_at_changed(h, limit);
    }
}

void hostctl__leaders_done(struct hostctl *h, struct ctl_op *op)
{
    struct ctl_shard *s = hostctl__shard(h, op->shard_id);
    ASSERT(h->transfers > 0);
    h->transfers--;
    s->changing = false;
    if (op->st.code != THOLE_OK) {
        hostctl__work(s)->lead_after_ms = h->now_ms + LEADERS_FAILED_MS;
    } else {
        h->leaders_revision = registry_view_revision(h->view) + 1;
    }
    hostctl__dirty(h, op->shard_id);
    hostctl__leaders_changed(h);
}
