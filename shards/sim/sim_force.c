/* Quorum loss and its repair. Hosts are wiped or stay down until no configuration has a quorum
 * left. Then the replica with the greatest (last term, last index) among the remaining ones is
 * forced, by an operator that makes mistakes and repeats commands.
 *
 * The shadow changes when the forced entry is on the disk of that replica: an attempt that fails or
 * crashes before changes nothing. From then on every replica with data of an earlier epoch is
 * superseded, and its messages and state are not checked. All invariants hold for the others.
 *
 * The forced replica must have every entry that a remaining replica could know to be committed: one
 * whose log reaches to an entry of the term in which the entry was committed. If it has all entries
 * that ever were committed, the histories of the registers go on and must be linearizable.
 * Otherwise they end, and new registers begin. */
#include <inttypes.h>
#include <stdlib.h>

#include "shards/sim/sim_internal.h"

#define RETRY_MS 500

static struct rand *dice(struct sim *s)
{
    return &s->rand[SIM_FORCE];
}

bool sim__member_superseded(const struct member *m)
{
    return m->has_data && m->epoch < m->shard->forced_epoch;
}

bool sim__replica_superseded(const struct member *m, const struct replica *r)
{
    return sim__member_superseded(m) ||
           (r->core != NULL && sim_status(r).epoch < m->shard->forced_epoch);
}

/* ---- Remaining replicas ---------------------------------------------------------------------- */

/* Could it be forced, by the data on its disk? A removal unknown to it is no obstacle. */
static bool has_data(const struct member *m, const struct shard *shard, uint32_t hosts)
{
    return m->shard == shard && m->created && m->joined && !m->gone && !m->damaged && !m->witness &&
           !m->unforceable && !sim__member_superseded(m) && (hosts >> m->host & 1);
}

/* ... for certain: a replica that the group has removed may be deleted at any time. */
static bool stays(const struct member *m, const struct shard *shard, uint32_t hosts)
{
    const struct shadow_config *newest =
        shard->config_count > 0 ? &shard->configs[shard->config_count - 1] : NULL;
    return has_data(m, shard, hosts) && newest != NULL &&
           raft_config_find(&newest->config, m->replica_id) != NULL;
}

static bool quorum_in_half(struct sim *s, const struct raft_config *c, uint32_t hosts,
                           bool outgoing)
{
    int voters = 0, alive = 0;
    for (uint32_t i = 0; i < c->member_count; i++) {
        const struct raft_member *v = &c->members[i];
        uint8_t role = outgoing ? v->outgoing_role : v->role;
        if (role != RAFT_VOTER && role != RAFT_WITNESS) {
            continue;
        }
        const struct member *m = sim__shadow_member(s, v->replica_id);
        voters++;
        alive += m != NULL && !m->gone && !sim__member_superseded(m) && (hosts >> m->host & 1);
    }
    return 2 * alive > voters;
}

/* The lowest commit index on a disk of these hosts. */
static uint64_t least_known(struct sim *s, const struct shard *shard, uint32_t hosts)
{
    uint64_t known = UINT64_MAX;
    struct member *m;
    for (size_t it = 0; (m = map_next(&s->members, &it, NULL)) != NULL;) {
        if (m->shard == shard && m->has_data && !m->gone && !sim__member_superseded(m) &&
            (hosts >> m->host & 1) && m->hard.commit < known) {
            known = m->hard.commit;
        }
    }
    return known;
}

/* Could these hosts elect a leader, in any configuration that they may come back with? */
static bool has_quorum(struct sim *s, const struct shard *shard, uint32_t hosts)
{
    uint64_t known = least_known(s, shard, hosts);
    for (size_t i = shard->config_count; i-- > 0;) {
        const struct raft_config *c = &shard->configs[i].config;
        if (quorum_in_half(s, c, hosts, false) &&
            (!c->joint || quorum_in_half(s, c, hosts, true))) {
            return true;
        }
        if (shard->configs[i].index <= known) {
            break;
        }
    }
    return false;
}

/* (last term, last index), as the status shows it: from memory, if the replica runs. */
static void last_of(struct sim *s, const struct member *m, uint64_t *ret_term, uint64_t *ret_index)
{
    const struct replica *r = sim__replica(s, m->host, m->shard);
    *ret_term = 0;
    *ret_index = sim__member_last(m);
    (void)sim__member_term_at(m, sim__member_last(m), ret_term);
    if (r != NULL && r->state == GROUP_RUNNING && r->replica_id == m->replica_id) {
        *ret_term = sim_status(r).last_term;
        *ret_index = sim_status(r).last_index;
    }
}

/* The remaining replica that is to be forced. */
static struct member *choose(struct sim *s, const struct shard *shard, uint32_t hosts)
{
    struct member *best = NULL, *m;
    uint64_t best_term = 0, best_index = 0, term, index;
    for (size_t it = 0; (m = map_next(&s->members, &it, NULL)) != NULL;) {
        if (!has_data(m, shard, hosts)) {
            continue;
        }
        last_of(s, m, &term, &index);
        if (best == NULL || term > best_term || (term == best_term && index > best_index) ||
            (term == best_term && index == best_index && m->replica_id < best->replica_id)) {
            best = m;
            best_term = term;
            best_index = index;
        }
    }
    return best;
}

/* ---- What is lost ---------------------------------------------------------------------------- */

/* The index up to which the log holds the committed entries. */
static uint64_t matched(const struct member *m, const struct shard *shard)
{
    uint64_t index =
                 shard->committed < sim__member_last(m) ? shard->committed : sim__member_last(m),
             term;
    while (index > m->start && sim__member_term_at(m, index, &term) &&
           term != shard->slots[index].committed_term) {
        index--;
    }
    return index;
}

/* Entries that a remaining replica could know to be committed: the forced one must have them. */
static uint64_t could_be_known(struct sim *s, const struct shard *shard, uint32_t hosts)
{
    uint64_t most = 0;
    struct member *m;
    for (size_t it = 0; (m = map_next(&s->members, &it, NULL)) != NULL;) {
        uint64_t term = 0, index = shard->committed;
        if (!has_data(m, shard, hosts)) {
            continue;
        }
        (void)sim__member_term_at(m, sim__member_last(m), &term);
        while (index > 0 && (index > sim__member_last(m) || shard->slots[index].commit_in > term)) {
            index--;
        }
        most = index > most ? index : most;
    }
    return most;
}

static void drop_entries(struct shadow_slot *slot, uint64_t keep_term)
{
    struct shadow_entry **at = &slot->entries;
    while (*at != NULL) {
        struct shadow_entry *e = *at;
        if (e->term == keep_term) {
            at = &e->other;
            continue;
        }
        *at = e->other;
        free(e);
    }
}

static void drop_executed(struct shard *shard, uint64_t after)
{
    struct executed *e;
    uint64_t value;
    for (size_t it = 0; (e = map_next(&shard->executed, &it, &value)) != NULL;) {
        if (e->index > after) {
            (void)map_remove(&shard->executed, value);
            free(e);
            it = 0; /* the order may have changed */
        }
    }
}

static void drop_leaders(struct shard *shard, uint64_t after)
{
    uint64_t term;
    for (size_t it = 0; map_next(&shard->leaders, &it, &term) != NULL;) {
        if (term > after) {
            (void)map_remove(&shard->leaders, term);
            it = 0;
        }
    }
}

/* Committed entries are gone: histories end, and a command that was refused because of such an
 * entry may be executed after all. */
static void end_histories(struct shard *shard, uint64_t kept)
{
    drop_executed(shard, kept);
    map_deinit(&shard->refused);
    shard->refused = (struct map){0};
    for (int k = 0; k < SIM_KEYS; k++) {
        shard->keys[k].lost = true;
    }
}

/* The forced entry commits everything before it, in its term. */
static void commit_by_force(struct shard *shard, const struct member *m, uint64_t kept,
                            const struct raft_entry *e)
{
    (void)sim__shadow_slot(shard, e->index);
    for (uint64_t i = kept + 1; i < shard->slot_count; i++) {
        uint64_t term = 0;
        (void)sim__member_term_at(m, i, &term);
        drop_entries(&shard->slots[i], term);
        term = i == e->index ? e->term : term;
        shard->slots[i].state = 0;
        shard->slots[i].committed_term = i <= e->index ? term : 0;
        shard->slots[i].commit_in = i <= e->index ? e->term : 0;
    }
    for (uint64_t i = kept; i > 0 && shard->slots[i].commit_in > e->term; i--) {
        shard->slots[i].commit_in = e->term; /* by leaders of the lost group */
    }
    shard->committed = e->index;
}

void sim__force_written(struct sim *s, struct member *m, const struct raft_entry *e, uint64_t epoch)
{
    struct shard *shard = m->shard;
    uint64_t kept = matched(m, shard);
    m->epoch = epoch;
    if (epoch <= shard->forced_epoch || epoch > shard->epoch) {
        sim__fail(s, "replica %" PRIu64 ": epoch %" PRIu64 " begins, the shard is at %" PRIu64,
                  m->replica_id, epoch, shard->forced_epoch);
        return;
    }
    if (m == shard->forcing && kept < shard->needed) {
        sim__fail(s,
                  "forced replica %" PRIu64 " has what was committed up to %" PRIu64
                  ", another one up to %" PRIu64,
                  m->replica_id, kept, shard->needed);
    }
    SIM_TRACE(s,
              "shard %" PRIu64 ": replica %" PRIu64 " begins epoch %" PRIu64 " at %" PRIu64
              "; committed was %" PRIu64 ", of which %" PRIu64 " is left",
              shard->id, m->replica_id, epoch, e->index, shard->committed, kept);
    if (kept < shard->committed) {
        end_histories(shard, kept);
    }
    commit_by_force(shard, m, kept, e);
    while (shard->config_count > 0 && shard->configs[shard->config_count - 1].index > kept) {
        raft_config_deinit(&shard->configs[--shard->config_count].config);
    }
    drop_leaders(shard, e->term);
    shard->forced_epoch = epoch;
}

/* ---- The operator ---------------------------------------------------------------------------- */

static void force(struct sim *s, void *arg);
static void lose_quorum(struct sim *s, void *arg);

static void wipe(struct sim *s, struct sim_host *h)
{
    struct member *m;
    sim__host_crash(h);
    SIM_TRACE(s, "host %d: all that it had is gone", h->id);
    for (size_t it = 0; (m = map_next(&s->members, &it, NULL)) != NULL;) {
        if (m->host == h->id) {
            m->wiped = m->wiped || !m->gone;
            m->gone = true;
        }
    }
    sim__disk_free(h->log);
    h->files->ops->free(h->files);
    sim__kv_disk_free(h->kv);
    h->log = sim__disk_new(h);
    h->files = sim__files_new(h);
    h->kv = sim__kv_disk_new(h);
    sim__host_restart_later(h, rand_between(dice(s), 1, 3000) * SIM_MS);
}

/* Hosts that were given up come back with their data, unless they are a quorum of the lost group:
 * the lost group would go on working, without a message of the new epoch. */
static void return_away(struct sim *s, struct shard *shard)
{
    for (int i = 0; i < s->c.hosts; i++) {
        struct sim_host *h = &s->hosts[i];
        if (!h->away) {
            continue;
        }
        h->away = false;
        SIM_TRACE(s, "host %d: comes back with data of the lost group", h->id);
        sim__host_restart_later(h, rand_between(dice(s), 1, 3000) * SIM_MS);
    }
    shard->survivors = 0;
}

static void lose_again(struct sim *s, struct shard *shard)
{
    if (shard->losses > 0) {
        shard->losses--;
        sim__at(s, s->now_ns + rand_between(dice(s), 500, 8000) * SIM_MS, lose_quorum, NULL);
    }
}

/* Forcing a group that works is harmless only if the replica is the only voter and no change is
 * under way. */
static bool is_alone(struct sim *s, const struct shard *shard, const struct member *m)
{
    const struct shadow_config *newest = &shard->configs[shard->config_count - 1];
    uint32_t others = ~(UINT32_C(1) << m->host);
    return !sim__final_changing(s, shard) && raft_config_is_voter(&newest->config, m->replica_id) &&
           raft_config_votes(&newest->config) == 1 && !has_quorum(s, shard, others);
}

/* As if the answer was lost: force the same replica once more. */
static void force_again(struct sim *s, void *arg)
{
    struct shard *shard = &s->shards[0];
    struct member *m = arg;
    const struct replica *r = sim__replica(s, m->host, shard);
    if (shard->survivors != 0 || m->gone || sim__member_superseded(m) || r == NULL ||
        r->replica_id != m->replica_id || !is_alone(s, shard, m)) {
        return;
    }
    shard->survivors = UINT32_C(1) << m->host;
    shard->first_epoch = 0;
    force(s, NULL);
}

static void repaired(struct sim *s, struct shard *shard)
{
    return_away(s, shard);
    lose_again(s, shard);
}

/* Only a replica that knows of its removal, or of an earlier attempt's effect, may refuse. */
static void check_refusal(struct sim *s, struct member *m, const struct thole_status *st)
{
    const struct replica *r = sim__replica(s, m->host, m->shard);
    m->unforceable =
        r != NULL && r->core != NULL && raft_config_is_removed(raft_config(r->core), m->replica_id);
    if (r != NULL && !m->unforceable) {
        sim__fail(s, "replica %" PRIu64 " refuses to be forced: %s", m->replica_id, st->message);
    }
}

static void forced(void *ctx, const struct thole_status *st)
{
    struct sim *s = ctx;
    struct shard *shard = &s->shards[0];
    struct member *m = shard->forcing;
    SIM_TRACE(s, "force ends: %s %s", thole_code_name(st->code), st->message);
    shard->forcing = NULL;
    if (st->code != THOLE_OK) {
        if (st->code == THOLE_FAILED_PRECONDITION) {
            check_refusal(s, m, st);
        }
        sim__at(s, s->now_ns + RETRY_MS * SIM_MS, force, NULL);
        return;
    }
    s->report->forces++;
    repaired(s, shard);
    if (!s->calm && m != NULL && rand_chance(dice(s), 0.3)) {
        sim__at(s, s->now_ns + rand_below(dice(s), 1500) * SIM_MS, force_again, m);
    }
}

static void repeated(void *ctx, const struct thole_status *st)
{
    struct sim *s = ctx;
    SIM_TRACE(s, "a repeated force ends: %s %s", thole_code_name(st->code), st->message);
}

static void refused(void *ctx, const struct thole_status *st)
{
    struct sim *s = ctx;
    SIM_TRACE(s, "a wrong force ends: %s %s", thole_code_name(st->code), st->message);
    if (st->code == THOLE_OK) {
        sim__fail(s, "a replica is forced that has no data, or with an old epoch");
    }
}

/* A mistake: force with an epoch that is over, or at a replica without data of the group. */
static void force_wrongly(struct sim *s, struct shard *shard)
{
    int host = (int)rand_below(dice(s), (uint64_t)s->c.hosts);
    const struct replica *r = sim__replica(s, host, shard);
    if (r == NULL || r->core == NULL) {
        return;
    }
    const struct member *m = sim__shadow_member(s, r->replica_id);
    uint64_t epoch = sim_status(r).epoch;
    if (m->witness || !m->has_data) {
        epoch = ++shard->epoch;
    }
    SIM_TRACE(s, "host %d: replica %" PRIu64 " is forced by mistake, epoch %" PRIu64, host,
              m->replica_id, epoch);
    engine_force(s->hosts[host].engine, shard->id, epoch, refused, s);
}

static void power_loss(struct sim *s, void *arg)
{
    struct sim_host *h = arg;
    if (s->calm || h->engine == NULL || h->ending) {
        return;
    }
    sim__host_crash(h);
    sim__host_restart_later(h, rand_between(dice(s), 1, 3000) * SIM_MS);
}

static void force_twice(struct sim *s, void *arg)
{
    struct shard *shard = &s->shards[0];
    struct member *m = arg;
    const struct replica *r = sim__replica(s, m->host, shard);
    if (shard->forcing == m && r != NULL && r->replica_id == m->replica_id) {
        engine_force(s->hosts[m->host].engine, shard->id, ++shard->epoch, repeated, s);
    }
}

/* Faults of the host, and commands of the operator, during an attempt. */
static void disturb(struct sim *s, struct member *m)
{
    struct sim_host *h = &s->hosts[m->host];
    uint64_t what = rand_below(dice(s), 8);
    uint64_t soon = s->now_ns + rand_below(dice(s), 30) * SIM_MS;
    if (s->calm) {
        return;
    }
    if (what == 0) {
        h->crash_in_write = true;
    } else if (what == 1) {
        sim__at(s, soon, power_loss, h);
    } else if (what == 2) {
        sim__at(s, soon, force_twice, m);
    } else if (what == 3) {
        h->fail_write = true;
    }
}

/* Repeat until it succeeds, each time with an epoch of its own. An earlier attempt may have taken
 * effect without an answer: a group that works again, and has grown, is not forced. */
static void force(struct sim *s, void *arg)
{
    struct shard *shard = &s->shards[0];
    (void)arg;
    if (shard->survivors == 0 || shard->forcing != NULL) {
        return;
    }
    struct member *chosen = choose(s, shard, shard->survivors);
    if (shard->forced_epoch >= shard->first_epoch &&
        (chosen == NULL || !is_alone(s, shard, chosen))) {
        repaired(s, shard);
        return;
    }
    if (chosen == NULL) {
        SIM_TRACE(s, "shard %" PRIu64 ": what is left knows that it was removed", shard->id);
        s->hopeless = true;
        return;
    }
    const struct replica *r = sim__replica(s, chosen->host, shard);
    if (r == NULL || r->state != GROUP_RUNNING || r->replica_id != chosen->replica_id) {
        sim__at(s, s->now_ns + 200 * SIM_MS, force, NULL);
        return;
    }
    if (rand_chance(dice(s), 0.2)) {
        force_wrongly(s, shard);
    }
    shard->needed = could_be_known(s, shard, shard->survivors);
    shard->forcing = chosen;
    shard->epoch++;
    SIM_TRACE(s, "host %d: replica %" PRIu64 " is forced, epoch %" PRIu64, chosen->host,
              chosen->replica_id, shard->epoch);
    disturb(s, chosen);
    engine_force(s->hosts[chosen->host].engine, shard->id, shard->epoch, forced, s);
}

/* ---- The loss -------------------------------------------------------------------------------- */

static bool some_stay(struct sim *s, const struct shard *shard, uint32_t hosts)
{
    struct member *m;
    for (size_t it = 0; (m = map_next(&s->members, &it, NULL)) != NULL;) {
        if (stays(m, shard, hosts)) {
            return true;
        }
    }
    return false;
}

static void lose(struct sim *s, struct shard *shard, uint32_t left)
{
    uint32_t old = left;
    shard->survivors = left;
    shard->first_epoch = shard->epoch + 1;
    for (int i = 0; i < s->c.hosts; i++) {
        struct sim_host *h = &s->hosts[i];
        if (left >> i & 1) {
            continue;
        }
        if (rand_chance(dice(s), 0.4) && !has_quorum(s, shard, old | UINT32_C(1) << i)) {
            old |= UINT32_C(1) << i;
            sim__host_crash(h);
            h->away = true;
            SIM_TRACE(s, "host %d: is given up", h->id);
        } else {
            wipe(s, h);
        }
    }
    uint64_t patience = rand_chance(dice(s), 0.3) ? 20 : 4000;
    sim__at(s, s->now_ns + rand_between(dice(s), 1, patience) * SIM_MS, force, NULL);
}

static void lose_quorum(struct sim *s, void *arg)
{
    struct shard *shard = &s->shards[0];
    (void)arg;
    if (s->calm) {
        return;
    }
    for (int attempt = 0; attempt < 16 && shard->survivors == 0; attempt++) {
        uint32_t left = (uint32_t)rand_u64(dice(s)) & ((1u << s->c.hosts) - 1);
        if (!has_quorum(s, shard, left) && some_stay(s, shard, left)) {
            lose(s, shard, left);
            return;
        }
    }
    sim__at(s, s->now_ns + RETRY_MS * SIM_MS, lose_quorum, NULL);
}

void sim__force_start(struct sim *s)
{
    struct shard *shard = &s->shards[0];
    if (s->c.groups != 1 || !sim_has(&s->c, SIM_FORCE)) {
        return;
    }
    uint64_t span = s->end_ns - s->now_ns;
    bool often = s->o.force || rand_chance(dice(s), 0.3);
    shard->losses = often ? rand_below(dice(s), 4) : 0;
    sim__at(s, s->now_ns + rand_below(dice(s), s->o.force ? span / 3 : span), lose_quorum, NULL);
}
