/* The controller: creates the shards, then changes their members and leaders at random, one step at
 * a time, by the state that a shard's leader shows. It replaces damaged replicas. */
#include <inttypes.h>
#include <string.h>

#include "shards/sim/sim_internal.h"

static struct rand *dice(struct sim *s)
{
    return &s->rand[SIM_MEMBERSHIP];
}

static void ignore_done(void *ctx, const struct thole_status *st)
{
    struct sim *s = ctx;
    SIM_TRACE(s, "a command ends: %s %s", thole_code_name(st->code), st->message);
}

static void change_done(void *ctx, const struct thole_status *st)
{
    struct sim *s = ctx;
    s->report->changes += st->code == THOLE_OK;
    SIM_TRACE(s, "a change ends: %s %s", thole_code_name(st->code), st->message);
}

static uint64_t start_replica(struct sim *s, struct shard *shard, int host, uint64_t id,
                              bool witness, const struct raft_member *initial, size_t n)
{
    struct engine_replica_spec spec = {
        .replica_id = id,
        .shard_id = shard->id,
        .machine_type = shard->type,
        .witness = witness,
        .lease_reads = shard->lease_reads,
        .initial = initial,
        .initial_count = n,
    };
    struct member *m = sim__shadow_add_member(s, shard, id, host);
    m->witness = witness;
    SIM_TRACE(s, "host %d: shard %" PRIu64 " gets replica %" PRIu64 "%s", host, shard->id, id,
              witness ? ", a witness" : "");
    engine_replica_start(s->hosts[host].engine, &spec, ignore_done, s);
    return id;
}

void sim__admin_bootstrap(struct sim *s)
{
    for (int g = 0; g < s->c.groups; g++) {
        struct shard *shard = &s->shards[g];
        int voters = 3, first = (int)rand_below(dice(s), (uint64_t)s->c.hosts);
        if (s->c.hosts == 5 && rand_chance(dice(s), 0.5)) {
            voters = 5;
        }
        bool witness = sim_has(&s->c, SIM_WITNESS) && rand_chance(dice(s), 0.3);
        struct raft_member initial[SIM_HOSTS_MAX] = {0};
        for (int i = 0; i < voters; i++) {
            initial[i].replica_id = ++s->replica_id;
            initial[i].role = witness && i == voters - 1 ? RAFT_WITNESS : RAFT_VOTER;
            memcpy(initial[i].host, s->hosts[(first + i) % s->c.hosts].uuid.bytes, 16);
        }
        for (int i = 0; i < voters; i++) {
            (void)start_replica(s, shard, (first + i) % s->c.hosts, initial[i].replica_id,
                                initial[i].role == RAFT_WITNESS, initial, (size_t)voters);
        }
    }
    sim__advance(s, s->now_ns + 200 * SIM_MS);
}

/* ---- Changes --------------------------------------------------------------------------------- */

struct view { /* of a shard, from its leader */
    struct sim *s;
    struct shard *shard;
    int leader;
    const struct raft_config *config;
    struct raft_change change;
};

static void crash_in_step(struct sim *s, void *arg)
{
    struct sim_host *h = arg;
    if (s->calm || h->engine == NULL || h->ending) {
        return;
    }
    sim__host_crash(h);
    sim__host_restart_later(h, rand_between(dice(s), 1, 3000) * SIM_MS);
}

static void pause_in_step(struct sim *s, void *arg)
{
    struct sim_host *h = arg;
    if (s->calm) {
        return;
    }
    h->paused_until_ns = s->now_ns + rand_between(dice(s), 1, 3000) * SIM_MS;
    h->next_stale = true;
    SIM_TRACE(s, "host %d: pauses until %" PRIu64, h->id, h->paused_until_ns / NS_PER_MS);
}

/* The host of a replica that the change names, or the leader's, fails while the change is made. */
static void strike_later(const struct view *v)
{
    struct sim *s = v->s;
    uint64_t n = rand_below(dice(s), v->change.item_count + 1);
    const struct member *m =
        n > 0 ? sim__shadow_member(s, v->change.items[n - 1].replica_id) : NULL;
    struct sim_host *h = &s->hosts[m != NULL ? m->host : v->leader];
    bool crash = rand_chance(dice(s), 0.5);
    if (sim_has(&s->c, crash ? SIM_CRASH : SIM_PAUSE)) {
        sim__at(s, s->now_ns + rand_below(dice(s), 100) * SIM_MS,
                crash ? crash_in_step : pause_in_step, h);
    }
}

static void propose(struct view *v)
{
    struct sim *s = v->s;
    v->change.revision = rand_chance(dice(s), 0.05) ? v->shard->revision / 2 : ++v->shard->revision;
    v->shard->changed_ns = s->now_ns;
    for (uint32_t i = 0; i < v->change.item_count; i++) {
        SIM_TRACE(s, "host %d: shard %" PRIu64 " change: operation %d of replica %" PRIu64,
                  v->leader, v->shard->id, v->change.items[i].op, v->change.items[i].replica_id);
    }
    engine_change(s->hosts[v->leader].engine, v->shard->id, &v->change, change_done, s);
    if (rand_chance(dice(s), 0.15)) {
        strike_later(v);
    }
}

static void add_item(struct view *v, enum raft_change_op op, uint64_t replica_id, int host)
{
    for (uint32_t i = 0; i < v->change.item_count; i++) {
        if (v->change.items[i].replica_id == replica_id) {
            return;
        }
    }
    struct raft_change_item *item = &v->change.items[v->change.item_count++];
    item->op = (uint8_t)op;
    item->replica_id = replica_id;
    if (host >= 0) {
        memcpy(item->host, v->s->hosts[host].uuid.bytes, 16);
    }
}

static int count_role(const struct raft_config *c, uint8_t role)
{
    int n = 0;
    for (uint32_t i = 0; i < c->member_count; i++) {
        n += c->members[i].role == role;
    }
    return n;
}

/* Delete the data of removed replicas; true if there was one. */
static void bury_removed(struct view *v)
{
    struct sim *s = v->s;
    for (int h = 0; h < s->c.hosts; h++) {
        const struct replica *r = sim__replica(s, h, v->shard);
        if (r != NULL && raft_config_is_removed(v->config, r->replica_id) &&
            rand_chance(dice(s), 0.5)) {
            engine_replica_remove(s->hosts[h].engine, r->replica_id, ignore_done, s);
        }
    }
}

static bool remove_damaged(struct view *v)
{
    for (uint32_t i = 0; i < v->config->member_count; i++) {
        const struct member *m = sim__shadow_member(v->s, v->config->members[i].replica_id);
        if (m == NULL || (!m->damaged && !sim__member_superseded(m))) {
            continue;
        }
        add_item(v, RAFT_CHANGE_REMOVE, m->replica_id, -1);
        if (!v->config->joint) {
            propose(v);
        }
        return true;
    }
    return false;
}

/* Give an empty host a replica, or make a replica that is no member yet a member. */
static bool add_somewhere(struct view *v)
{
    struct sim *s = v->s;
    int h = (int)rand_below(dice(s), (uint64_t)s->c.hosts);
    const struct replica *r = sim__replica(s, h, v->shard);
    if (s->hosts[h].engine == NULL) {
        return false;
    }
    if (r == NULL) {
        bool witness = sim_has(&s->c, SIM_WITNESS) && rand_chance(dice(s), 0.2);
        (void)start_replica(s, v->shard, h, ++s->replica_id, witness, NULL, 0);
        return true;
    }
    if (!sim__shadow_member(s, r->replica_id)->created ||
        raft_config_find(v->config, r->replica_id) != NULL ||
        raft_config_is_removed(v->config, r->replica_id)) {
        return false;
    }
    enum raft_change_op op = r->kind->witness ? RAFT_CHANGE_ADD_WITNESS : RAFT_CHANGE_ADD_LEARNER;
    bool superseded = sim__member_superseded(sim__shadow_member(s, r->replica_id));
    if (!r->kind->witness && !superseded && rand_chance(dice(s), 0.2)) {
        op = RAFT_CHANGE_ADD_VOTER;
    }
    add_item(v, op, r->replica_id, h);
    return true;
}

static void change_somebody(struct view *v)
{
    struct sim *s = v->s;
    const struct raft_config *c = v->config;
    if (c->member_count == 0) {
        return;
    }
    const struct raft_member *m = &c->members[rand_below(dice(s), c->member_count)];
    const struct member *known = sim__shadow_member(s, m->replica_id);
    if (m->role == RAFT_LEARNER && known != NULL && !known->witness && rand_chance(dice(s), 0.8)) {
        add_item(v, RAFT_CHANGE_ADD_VOTER, m->replica_id, known->host);
    } else if (m->role == RAFT_VOTER && count_role(c, RAFT_VOTER) > 2 &&
               rand_chance(dice(s), 0.3)) {
        add_item(v, RAFT_CHANGE_DEMOTE, m->replica_id, -1);
    } else if (m->role == RAFT_LEARNER || m->role == RAFT_WITNESS ||
               count_role(c, RAFT_VOTER) > 2) {
        add_item(v, RAFT_CHANGE_REMOVE, m->replica_id, -1);
    }
}

static void change(struct sim *s, struct shard *shard)
{
    struct view v = {.s = s, .shard = shard, .leader = sim__leader(s, shard)};
    if (v.leader < 0) {
        return;
    }
    const struct replica *r = sim__replica(s, v.leader, shard);
    v.config = raft_config(r->core);
    bury_removed(&v);
    if (remove_damaged(&v)) {
        return;
    }
    int items = rand_chance(dice(s), 0.2) ? 2 : 1;
    for (int i = 0; i < items; i++) {
        if (!rand_chance(dice(s), 0.5) || !add_somewhere(&v)) {
            change_somebody(&v);
        }
    }
    if (v.change.item_count > 0) {
        propose(&v);
    }
}

static void change_some(struct sim *s, void *arg)
{
    (void)arg;
    if (s->calm) {
        return;
    }
    change(s, &s->shards[rand_below(dice(s), (uint64_t)s->c.groups)]);
    sim__at(s, s->now_ns + rand_between(dice(s), 20, 1500) * SIM_MS / (uint64_t)s->c.groups,
            change_some, NULL);
}

static void transfer(struct sim *s, struct shard *shard, int leader, uint64_t target)
{
    SIM_TRACE(s, "host %d: shard %" PRIu64 " is told to hand over to %" PRIu64, leader, shard->id,
              target);
    engine_transfer(s->hosts[leader].engine, shard->id, target, NULL, ignore_done, s);
}

static void hold_back(struct sim *s, int from, int to, uint64_t until_ns)
{
    if (from != to && s->links[from][to].clogged_until_ns < until_ns) {
        s->links[from][to].clogged_until_ns = until_ns;
    }
}

/* Clog the successor's link too. */
static void transfer_unheard(struct sim *s, void *arg)
{
    struct shard *shard = arg;
    int leader = sim__leader(s, shard);
    if (s->calm || leader < 0) {
        return;
    }
    for (int h = 0; h < s->c.hosts; h++) {
        const struct replica *r = sim__replica(s, h, shard);
        if (h == leader || r == NULL || s->links[h][leader].clogged_until_ns > s->now_ns) {
            continue;
        }
        hold_back(s, h, leader, shard->unheard_until_ns);
        transfer(s, shard, leader, r->replica_id);
        return;
    }
}

/* A leader learns late that it lost leadership, and first gets answers from before: the links to it
 * are clogged, except that of one host, which soon becomes its successor. */
static void begin_unheard(struct sim *s, struct shard *shard, int leader)
{
    struct rand *r = &s->rand[SIM_CLOG];
    int away = (int)rand_between(r, 1, (uint64_t)s->c.hosts - 1);
    int successor = (leader + away) % s->c.hosts;
    shard->unheard_until_ns =
        s->now_ns + rand_between(r, s->c.election_ms, 2 * (uint64_t)s->c.election_ms) * SIM_MS;
    for (int h = 0; h < s->c.hosts; h++) {
        if (h != successor) {
            hold_back(s, h, leader, shard->unheard_until_ns);
        }
    }
    SIM_TRACE(s, "links to %d, but from %d, are clogged", leader, successor);
    sim__at(s, s->now_ns + rand_below(r, s->c.heartbeat_ms) * SIM_MS, transfer_unheard, shard);
}

static void transfer_some(struct sim *s, void *arg)
{
    (void)arg;
    struct rand *r = &s->rand[SIM_TRANSFER];
    if (s->calm) {
        return;
    }
    struct shard *shard = &s->shards[rand_below(r, (uint64_t)s->c.groups)];
    int leader = sim__leader(s, shard);
    if (leader >= 0) {
        const struct raft_config *c = raft_config(sim__replica(s, leader, shard)->core);
        uint64_t target = 0;
        if (c->member_count > 0 && rand_chance(r, 0.7)) {
            target = c->members[rand_below(r, c->member_count)].replica_id;
        }
        if (sim_has(&s->c, SIM_CLOG) && rand_chance(&s->rand[SIM_CLOG], 0.3)) {
            begin_unheard(s, shard, leader);
        } else {
            transfer(s, shard, leader, target);
        }
    }
    sim__at(s, s->now_ns + rand_between(r, 50, 3000) * SIM_MS / (uint64_t)s->c.groups,
            transfer_some, NULL);
}

void sim__admin_start(struct sim *s)
{
    if (sim_has(&s->c, SIM_MEMBERSHIP)) {
        sim__at(s, s->now_ns + 500 * SIM_MS, change_some, NULL);
    }
    if (sim_has(&s->c, SIM_TRANSFER)) {
        sim__at(s, s->now_ns + 500 * SIM_MS, transfer_some, NULL);
    }
}
