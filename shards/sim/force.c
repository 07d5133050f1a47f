/* Quorum loss, once in some runs with one group: hosts are wiped for good until no configuration
 * has a quorum left, then the replica with the greatest (last term, last index) among those left is
 * forced.
 *
 * What is checked of it: it has every entry of which some replica that is left could know that it
 * was committed, that is, one whose log reaches to an entry of the term in which that was
 * committed. If it has all that ever was committed, the histories of the registers go on and must
 * be linearizable; else they end here. From then on all invariants hold again, of the forced
 * replica's log. */
#include <inttypes.h>
#include <stdlib.h>

#include "shards/sim/sim_internal.h"

static struct rand *dice(struct sim *s)
{
    return &s->rand[SIM_RAND_NEMESIS];
}

/* A member that the group has removed may be buried at any time: it cannot be relied on. */
static bool has_data(const struct member *m, const struct shard *shard, uint32_t hosts)
{
    const struct shadow_config *newest =
        shard->config_count > 0 ? &shard->configs[shard->config_count - 1] : NULL;
    if (newest && raft_config_is_removed(&newest->config, m->replica_id))
        return false;
    return m->shard == shard && m->created && !m->gone && !m->damaged && !m->witness &&
           (hosts >> m->host & 1) && m->config.member_count > 0 &&
           raft_config_find(&m->config, m->replica_id);
}

static bool quorum_in_half(struct sim *s, const struct raft_config *c, uint32_t hosts,
                           bool outgoing)
{
    int voters = 0, alive = 0;
    for (uint32_t i = 0; i < c->member_count; i++) {
        const struct raft_member *v = &c->members[i];
        uint8_t role = outgoing ? v->outgoing_role : v->role;
        if (role != RAFT_VOTER && role != RAFT_WITNESS)
            continue;
        const struct member *m = shadow_member(s, v->replica_id);
        voters++;
        alive += m && !m->gone && (hosts >> m->host & 1);
    }
    return 2 * alive > voters;
}

/* Could these hosts elect anybody, in whatever configuration they come back with? */
static bool has_quorum(struct sim *s, const struct shard *shard, uint32_t hosts)
{
    for (size_t i = 0; i < shard->config_count; i++) {
        const struct raft_config *c = &shard->configs[i].config;
        if (quorum_in_half(s, c, hosts, false) && (!c->joint || quorum_in_half(s, c, hosts, true)))
            return true;
    }
    return false;
}

/* Of those left, the one to be forced. */
static struct member *choose(struct sim *s, const struct shard *shard, uint32_t hosts)
{
    struct member *best = NULL, *m;
    size_t it = 0;
    while ((m = map_next(&s->members, &it, NULL))) {
        uint64_t term = 0, best_term = 0;
        if (!has_data(m, shard, hosts))
            continue;
        (void)member_term_at(m, member_last(m), &term);
        if (best)
            (void)member_term_at(best, member_last(best), &best_term);
        if (!best || term > best_term ||
            (term == best_term && member_last(m) > member_last(best)) ||
            (term == best_term && member_last(m) == member_last(best) &&
             m->replica_id < best->replica_id))
            best = m;
    }
    return best;
}

/* ---- What is lost ---------------------------------------------------------------------------- */

/* How far the log is what was committed. */
static uint64_t matched(const struct member *m, const struct shard *shard)
{
    uint64_t index = shard->committed < member_last(m) ? shard->committed : member_last(m), term;
    while (index > m->start && member_term_at(m, index, &term) &&
           term != shard->slots[index].committed_term)
        index--;
    return index;
}

/* Does one that nobody may rely on, because it is damaged or removed, know of more commits than
 * those that one may? It would go on to say so. */
static bool unreliable_one_knows_more(struct sim *s, const struct shard *shard, uint32_t hosts)
{
    uint64_t has = matched(choose(s, shard, hosts), shard);
    struct member *m;
    for (size_t it = 0; (m = map_next(&s->members, &it, NULL));) {
        bool lives = m->shard == shard && m->created && !m->gone && (hosts >> m->host & 1);
        if (lives && !has_data(m, shard, hosts) &&
            (m->status.commit > has || m->hard.commit > has || m->applied > has))
            return true;
    }
    return false;
}

static void check_choice(struct sim *s, const struct shard *shard, const struct member *chosen,
                         uint32_t hosts)
{
    uint64_t has = matched(chosen, shard);
    struct member *m;
    size_t it = 0;
    while ((m = map_next(&s->members, &it, NULL))) {
        uint64_t term = 0, index = shard->committed;
        if (!has_data(m, shard, hosts))
            continue;
        (void)member_term_at(m, member_last(m), &term);
        while (index > 0 && (index > member_last(m) || shard->slots[index].commit_in > term))
            index--;
        if (index > has)
            sim_fail(s,
                     "forced replica %" PRIu64 " has what was committed up to %" PRIu64
                     ", replica %" PRIu64 " up to %" PRIu64,
                     chosen->replica_id, has, m->replica_id, index);
    }
}

static void drop_entries(struct shadow_slot *slot, uint64_t keep_term)
{
    struct shadow_entry **at = &slot->entries;
    while (*at) {
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
    size_t it = 0;
    while ((e = map_next(&shard->executed, &it, &value)))
        if (e->index > after) {
            (void)map_remove(&shard->executed, value);
            free(e);
            it = 0; /* the order may have changed */
        }
}

/* The shadow forgets what the forced replica does not have. */
static void lose(struct sim *s, struct shard *shard, struct member *chosen, const struct replica *r)
{
    uint64_t kept = matched(chosen, shard);
    /* Its disk may hang: what it knows to be committed is there, and is written before the force
     * is. */
    uint64_t knows =
        sim_status(r).commit < shard->committed ? sim_status(r).commit : shard->committed;
    kept = knows > kept ? knows : kept;
    bool lost = kept < shard->committed;
    SIM_TRACE(s, "shard %" PRIu64 ": committed was %" PRIu64 ", of which %" PRIu64 " is left",
              shard->id, shard->committed, kept);
    for (uint64_t i = kept + 1; i < shard->slot_count; i++) {
        uint64_t term = 0;
        (void)member_term_at(chosen, i, &term);
        drop_entries(&shard->slots[i], term);
        shard->slots[i].committed_term = shard->slots[i].commit_in = shard->slots[i].state = 0;
    }
    shard->committed = kept;
    while (shard->config_count > 0 && shard->configs[shard->config_count - 1].index > kept)
        raft_config_deinit(&shard->configs[--shard->config_count].config);
    struct member *leader;
    uint64_t term;
    for (size_t it = 0; (leader = map_next(&shard->leaders, &it, &term));)
        if (leader != chosen && term > chosen->hard.term) {
            (void)map_remove(&shard->leaders, term);
            it = 0;
        }
    drop_executed(shard, kept);
    for (int k = 0; k < SIM_KEYS; k++)
        shard->keys[k].lost = shard->keys[k].lost || lost;
}

/* ---- The event ------------------------------------------------------------------------------- */

static void wipe(struct sim *s, struct sim_host *h)
{
    struct member *m;
    size_t it = 0;
    host_crash(h);
    SIM_TRACE(s, "host %d: all that it had is gone", h->id);
    while ((m = map_next(&s->members, &it, NULL)))
        if (m->host == h->id) {
            m->wiped = m->wiped || !m->gone;
            m->gone = true;
        }
    disk_free(h->log);
    h->files->ops->free(h->files);
    kv_disk_free(h->kv);
    h->log = disk_new(h);
    h->files = files_new(h);
    h->kv = kv_disk_new(h);
    host_restart_later(h, rand_between(dice(s), 1, 3000) * SIM_MS);
}

static void force(struct sim *s, void *arg);

static void forced(void *ctx, const struct thole_status *st)
{
    struct sim *s = ctx;
    SIM_TRACE(s, "force ends: %s %s", thole_code_name(st->code), st->message);
    s->report->forces += st->code == THOLE_OK;
    if (st->code != THOLE_OK)
        sim_at(s, s->now_ns + 500 * SIM_MS, force, NULL);
}

/* Again until it succeeds: a crash may come between. Each attempt has an epoch of its own. */
static void force(struct sim *s, void *arg)
{
    struct shard *shard = &s->shards[0];
    (void)arg;
    struct member *chosen = choose(s, shard, shard->survivors), *m;
    const struct replica *r = chosen ? sim_replica(s, chosen->host, shard) : NULL;
    if (!r || r->state != GROUP_RUNNING || r->replica_id != chosen->replica_id) {
        sim_at(s, s->now_ns + 200 * SIM_MS, force, NULL);
        return;
    }
    check_choice(s, shard, chosen, shard->survivors);
    lose(s, shard, chosen, r);
    chosen->forced = true;
    for (size_t it = 0; (m = map_next(&s->members, &it, NULL));)
        m->superseded = m->superseded || (m->shard == shard && m != chosen);
    SIM_TRACE(s, "host %d: replica %" PRIu64 " is forced", chosen->host, chosen->replica_id);
    engine_force(s->hosts[chosen->host].engine, shard->id, ++shard->epoch, forced, s);
}

static void lose_quorum(struct sim *s, void *arg)
{
    struct shard *shard = &s->shards[0];
    (void)arg;
    if (s->calm)
        return;
    for (int attempt = 0; attempt < 16; attempt++) {
        uint32_t left = (uint32_t)rand_u64(dice(s)) & ((1u << s->c.hosts) - 1);
        if (has_quorum(s, shard, left) || !choose(s, shard, left) ||
            unreliable_one_knows_more(s, shard, left))
            continue;
        shard->survivors = left;
        for (int i = 0; i < s->c.hosts; i++)
            if (!(left >> i & 1))
                wipe(s, &s->hosts[i]);
        sim_at(s, s->now_ns + rand_between(dice(s), 1, 4000) * SIM_MS, force, NULL);
        return;
    }
}

void force_start(struct sim *s)
{
    struct rand r;
    rand_seed(&r, s->o.seed * 64 + 62);
    if (s->c.groups == 1 && rand_chance(&r, 0.4) && !s->o.bench)
        sim_at(s, s->now_ns + rand_below(&r, s->end_ns - s->now_ns - s->o.ticks), lose_quorum,
               NULL);
}
