/* The last phase: a random set of hosts that holds a quorum of every shard becomes free of faults;
 * the other hosts are gone. Every shard must then elect a leader, accept a write, serve
 * linearizable reads at each of its replicas, and bring all replicas to the same index. */
#include <inttypes.h>

#include "shards/sim/sim_internal.h"

#define PATIENCE_MS 60000

/* Is a change of members under way? A change that is not yet in force may need other hosts for its
 * quorum. It may be on a disk, in memory, or for a while in a frame. */
#define SETTLED_AFTER_MS 3000

/* After this long no frame arrives that was sent while links were bad. */
#define LATE_MS 5000

static bool change_in_memory(struct sim *s, const struct shard *shard)
{
    for (int h = 0; h < s->c.hosts; h++) {
        const struct replica *r = sim__replica(s, h, shard);
        if (r == NULL || r->state != GROUP_RUNNING) {
            continue;
        }
        for (uint64_t i = sim_status(r).commit + 1; i <= sim_status(r).last_index; i++) {
            const struct raft_entry *e = raft_entry_at(r->core, i);
            if (e != NULL && e->kind == RAFT_ENTRY_CONFIG) {
                return true;
            }
        }
    }
    return false;
}

bool sim__final_changing(struct sim *s, const struct shard *shard)
{
    uint64_t from = shard->configs[shard->config_count - 1].index + 1;
    for (uint64_t i = from; i < shard->slot_count; i++) {
        for (const struct shadow_entry *e = shard->slots[i].entries; e != NULL; e = e->other) {
            if (e->kind == RAFT_ENTRY_CONFIG) {
                return true;
            }
        }
    }
    return change_in_memory(s, shard);
}

static bool settled(struct sim *s, const struct shard *shard)
{
    return shard->config_count > 0 && s->now_ns >= shard->changed_ns + SETTLED_AFTER_MS * SIM_MS &&
           !sim__final_changing(s, shard);
}

struct losses {
    uint32_t hosts;      /* bits */
    uint64_t replica_id; /* and this replica; 0: none */
};

static bool lives(struct sim *s, uint64_t replica_id, struct losses lost)
{
    const struct member *m = sim__shadow_member(s, replica_id);
    return m != NULL && !m->gone && !m->damaged && !sim__member_superseded(m) &&
           !(lost.hosts >> m->host & 1) && replica_id != lost.replica_id;
}

static bool works(struct sim *s, const struct raft_config *c, struct losses lost)
{
    int data = 0;
    bool witness = false, complete = true;
    for (int half = 0; half <= (c->joint ? 1 : 0); half++) {
        int voters = 0, alive = 0;
        for (uint32_t i = 0; i < c->member_count; i++) {
            uint8_t role = half ? c->members[i].outgoing_role : c->members[i].role;
            if (role != RAFT_VOTER && role != RAFT_WITNESS) {
                continue;
            }
            bool live = lives(s, c->members[i].replica_id, lost);
            voters++;
            alive += live;
            complete = complete && live;
            witness = witness || role == RAFT_WITNESS;
            data += live && role == RAFT_VOTER;
        }
        if (2 * alive <= voters) {
            return false;
        }
    }
    /* Beside a witness, the only copy of a write may be on the voter that is lost. */
    return data > 0 && (complete || !witness);
}

/* Can the shard still work without these hosts? A change acts at a replica once the replica knows
 * that the change is committed, which a crash may make it forget. So every configuration counts
 * that some disk may come back with. */
bool sim__final_survives(struct sim *s, const struct shard *shard, uint32_t hosts,
                         uint64_t replica_id)
{
    struct losses lost = {hosts, replica_id};
    if (!settled(s, shard)) {
        return false;
    }
    uint64_t known = UINT64_MAX;
    const struct raft_config *newest = &shard->configs[shard->config_count - 1].config;
    for (uint32_t i = 0; i < newest->member_count; i++) {
        const struct member *m = sim__shadow_member(s, newest->members[i].replica_id);
        if (m != NULL && m->hard.commit < known) {
            known = m->hard.commit;
        }
    }
    for (size_t i = shard->config_count; i-- > 0;) {
        if (!works(s, &shard->configs[i].config, lost)) {
            return false;
        }
        if (shard->configs[i].index <= known) {
            break;
        }
    }
    return true;
}

static void choose_dead(struct sim *s, bool leader_too)
{
    struct rand *r = &s->rand[SIM_RAND_NEMESIS];
    for (int attempt = 0; attempt < 4; attempt++) {
        uint32_t dead = (uint32_t)rand_u64(r) & ((1u << s->c.hosts) - 1);
        int leader = sim__leader(s, &s->shards[rand_below(r, (uint64_t)s->c.groups)]);
        if (leader_too && leader >= 0) {
            dead = attempt == 3 ? 1u << leader : dead | 1u << leader;
        }
        bool all = dead != 0;
        for (int g = 0; g < s->c.groups && all; g++) {
            all = sim__final_survives(s, &s->shards[g], dead, 0);
        }
        for (int i = 0; i < s->c.hosts && all; i++) {
            s->hosts[i].dead = dead >> i & 1;
        }
        if (all) {
            return;
        }
    }
}

static void probed(struct sim *s, struct shard *shard, int host, bool ok)
{
    uint32_t bit = 1u << host;
    (void)s;
    if (shard->write_sent && !shard->write_done) {
        shard->write_sent = shard->write_done = ok;
        return;
    }
    shard->reads_sent &= ~bit;
    if (ok) {
        shard->reads_done |= bit;
    }
}

/* The replica that should work on this host, or NULL. */
static struct replica *expected(struct sim *s, struct shard *shard, int host)
{
    struct replica *r = sim__replica(s, host, shard);
    if (r == NULL || r->state == GROUP_FAILED) {
        return NULL;
    }
    const struct shadow_config *c = &shard->configs[shard->config_count - 1];
    const struct member *m = sim__shadow_member(s, r->replica_id);
    return raft_config_find(&c->config, r->replica_id) != NULL && !m->damaged ? r : NULL;
}

/* Advance a shard; true when it has converged. */
static bool progress(struct sim *s, struct shard *shard)
{
    int leader = sim__leader(s, shard);
    if (leader < 0) {
        return false;
    }
    const struct replica *l = sim__replica(s, leader, shard);
    if (!shard->write_sent && sim_status(l).leader_ready) {
        shard->write_sent = true;
        sim__client_probe(s, shard, leader, true, probed);
    }
    if (!shard->write_done) {
        return false;
    }
    bool all = true;
    for (int h = 0; h < s->c.hosts; h++) {
        const struct replica *r = expected(s, shard, h);
        uint32_t bit = 1u << h;
        if (r == NULL) {
            continue;
        }
        if (!r->kind->witness && !((shard->reads_sent | shard->reads_done) & bit)) {
            shard->reads_sent |= bit;
            sim__client_probe(s, shard, h, false, probed);
        }
        all = all && r->state == GROUP_RUNNING && r->applied == l->applied &&
              sim_status(r).commit == sim_status(l).last_index &&
              sim_status(r).leader == l->replica_id &&
              (r->kind->witness || (shard->reads_done & bit));
    }
    return all;
}

static void check_leaks(struct sim *s)
{
    for (int g = 0; g < s->c.groups; g++) {
        for (int h = 0; h < s->c.hosts; h++) {
            /* A removed replica that does not know of its removal waits for ever. */
            const struct replica *r = expected(s, &s->shards[g], h);
            /* After a snapshot, the outcome of old proposals is known only with the next entry. */
            bool undecided =
                r != NULL && sim_status(r).role == RAFT_LEADER && sim_work(r)->pending.count > 0;
            if (r != NULL && (sim_work(r)->reads != NULL || sim_work(r)->reading.count ||
                              undecided || r->parked != NULL)) {
                sim__fail(s,
                          "replica %" PRIu64 ": left over: %d batches of reads, %zu reads, %zu "
                          "outcomes, %d parked",
                          r->replica_id, sim_work(r)->reads != NULL, sim_work(r)->reading.count,
                          sim_work(r)->pending.count, r->parked != NULL);
            }
        }
    }
}

/* Run until every shard has converged. */
static bool converge(struct sim *s)
{
    uint64_t end = s->now_ns + PATIENCE_MS * SIM_MS;
    bool done = false;
    while (!done && s->now_ns < end && !s->report->failed && !s->hopeless) {
        sim__advance(s, s->now_ns + 50 * SIM_MS);
        done = s->op_count == 0;
        for (int g = 0; g < s->c.groups; g++) {
            done = progress(s, &s->shards[g]) && done;
        }
    }
    return done;
}

static void explain(struct sim *s, const struct shard *shard)
{
    int leader = sim__leader(s, shard);
    struct bytes b = {0};
    for (int h = 0; h < s->c.hosts; h++) {
        const struct replica *r = sim__replica(s, h, shard);
        if (r != NULL) {
            bytes_printf(&b,
                         " [%" PRIu64 "@%d state=%d role=%d term=%" PRIu64 " commit=%" PRIu64
                         " applied=%" PRIu64 " last=%" PRIu64 "%s]",
                         r->replica_id, h, (int)r->state, (int)sim_status(r).role,
                         sim_status(r).term, sim_status(r).commit, r->applied,
                         sim_status(r).last_index, r->kind->witness ? " witness" : "");
        }
    }
    bytes_append(&b, "", 1);
    sim__fail(s, "no convergence: shard %" PRIu64 ", leader at host %d, write %d, reads %x:%s",
              shard->id, leader, shard->write_done, shard->reads_done, (const char *)b.data);
    bytes_deinit(&b);
}

static void explain_all(struct sim *s)
{
    if (s->report->failed) {
        return;
    }
    for (int g = 0; g < s->c.groups && !s->report->failed; g++) {
        if (!progress(s, &s->shards[g])) {
            explain(s, &s->shards[g]);
        }
    }
    if (!s->report->failed) {
        sim__fail(s, "no convergence: %zu requests are still open", s->op_count);
    }
}

/* Without faults leaders do not change: not because a group sleeps for long, and not when it is
 * woken. */
static void check_calm(struct sim *s)
{
    sim__advance(s, s->now_ns + LATE_MS * SIM_MS);
    if (!converge(s)) { /* a late message may have caused an election */
        explain_all(s);
        return;
    }
    for (int g = 0; g < s->c.groups; g++) {
        struct shard *shard = &s->shards[g];
        shard->calm_term = sim_status(sim__replica(s, sim__leader(s, shard), shard)).term;
        shard->write_sent = shard->write_done = false;
        shard->reads_sent = shard->reads_done = 0;
    }
    sim__advance(s, s->now_ns + (s->c.sleep_ms + 10 * s->c.election_ms) * SIM_MS);
    if (!converge(s)) {
        explain_all(s);
        return;
    }
    for (int g = 0; g < s->c.groups && !s->report->failed; g++) {
        const struct shard *shard = &s->shards[g];
        uint64_t term = sim_status(sim__replica(s, sim__leader(s, shard), shard)).term;
        if (term != shard->calm_term) {
            sim__fail(s,
                      "shard %" PRIu64 ": term %" PRIu64 " became %" PRIu64 " while nothing failed",
                      shard->id, shard->calm_term, term);
        }
    }
}

/* Stop the clients until the groups sleep, so that a host which dies next is not missed at once. */
static void lull(struct sim *s)
{
    for (int i = 0; i < s->c.hosts; i++) {
        sim__host_start(&s->hosts[i]);
    }
    sim__nemesis_stop(s, true);
    sim__advance(s, s->now_ns + (s->c.sleep_ms + 10 * s->c.election_ms) * SIM_MS);
}

void sim__final_phase(struct sim *s)
{
    bool asleep = sim_has(&s->c, SIM_SLEEP) && rand_chance(&s->rand[SIM_SLEEP], 0.5);
    if (asleep) {
        lull(s);
    }
    choose_dead(s, asleep);
    for (int i = 0; i < s->c.hosts; i++) {
        if (s->hosts[i].dead) {
            sim__host_crash(&s->hosts[i]);
        } else {
            sim__host_start(&s->hosts[i]);
        }
    }
    sim__nemesis_stop(s, asleep);
    SIM_TRACE(s, "the last phase begins");
    bool done = converge(s);
    if (s->report->failed || s->hopeless) {
        return;
    }
    if (!done) {
        explain_all(s);
    } else if (sim_has(&s->c, SIM_SLEEP)) {
        check_calm(s);
    }
    if (!s->report->failed) {
        sim__timers_final(s);
    }
    check_leaks(s);
}
