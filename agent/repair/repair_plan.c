/* The decision of a repair: whether it is allowed, and which replica it keeps. Pure. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "agent/repair/shard_repair.h"
#include "base/hash.h"

static bool has_more(const struct repair_replica *a, const struct repair_replica *b)
{
    if (a->epoch != b->epoch) {
        return a->epoch > b->epoch;
    }
    if (a->last_term != b->last_term) {
        return a->last_term > b->last_term;
    }
    if (a->last_index != b->last_index) {
        return a->last_index > b->last_index;
    }
    return a->replica_id < b->replica_id;
}

static size_t choose(const struct repair_plan *p)
{
    size_t best = p->count;
    for (size_t i = 0; i < p->count; i++) {
        const struct repair_replica *r = &p->replicas[i];
        if (r->answered && !r->witness && r->config.member_count > 0 && !r->problem[0] &&
            (best == p->count || has_more(r, &p->replicas[best]))) {
            best = i;
        }
    }
    return best;
}

static bool votes(uint8_t role)
{
    return role == RAFT_VOTER || role == RAFT_WITNESS;
}

/* The voters of one half of the configuration, and those of them that answer with its epoch. */
static void count_half(const struct repair_plan *p, const struct raft_config *c, bool outgoing,
                       uint32_t *ret_all, uint32_t *ret_alive)
{
    *ret_all = *ret_alive = 0;
    for (uint32_t i = 0; i < c->member_count; i++) {
        const struct raft_member *m = &c->members[i];
        if (!votes(outgoing ? m->outgoing_role : m->role)) {
            continue;
        }
        ++*ret_all;
        for (size_t k = 0; k < p->count; k++) {
            *ret_alive += p->replicas[k].replica_id == m->replica_id && p->replicas[k].answered &&
                          !p->replicas[k].problem[0] && p->replicas[k].epoch == c->epoch;
        }
    }
}

static bool quorum_alive(const struct repair_plan *p, const struct raft_config *c,
                         uint32_t *ret_all, uint32_t *ret_alive)
{
    count_half(p, c, false, ret_all, ret_alive);
    bool quorum = *ret_alive * 2 > *ret_all;
    if (c->joint) {
        uint32_t all, alive;
        count_half(p, c, true, &all, &alive);
        quorum = quorum && alive * 2 > all;
    }
    return quorum;
}

static uint64_t hash_of(const struct repair_plan *p)
{
    struct bytes b = {0};
    bytes_printf(&b, "%" PRIu64 " %zu %" PRIu64 " %d\n", p->shard_id, p->chosen, p->epoch,
                 p->possible);
    for (size_t i = 0; i < p->count; i++) {
        const struct repair_replica *r = &p->replicas[i];
        bytes_printf(&b, "%" PRIu64 " %d %d %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", r->replica_id,
                     r->answered, r->leads, r->epoch, r->last_term, r->last_index);
    }
    uint64_t hash = hash64(b.data, b.size, 0);
    bytes_deinit(&b);
    return hash;
}

static void describe(struct repair_plan *p)
{
    const struct repair_replica *best = &p->replicas[p->chosen];
    size_t n = (size_t)snprintf(
        p->consequence, sizeof p->consequence,
        "replica %" PRIu64 " on %s becomes the only voter, with its log up to index %" PRIu64
        " of term %" PRIu64 "; the other replicas are rebuilt from it. Lost are entries that were "
        "acknowledged later by a quorum without it, which only these hosts could have:",
        best->replica_id, best->host, best->last_index, best->last_term);
    bool any = false;
    for (size_t i = 0; i < p->count && n < sizeof p->consequence; i++) {
        if (p->replicas[i].voter && (!p->replicas[i].answered || p->replicas[i].problem[0])) {
            n += (size_t)snprintf(p->consequence + n, sizeof p->consequence - n, "%s %s",
                                  any ? "," : "", p->replicas[i].host);
            any = true;
        }
    }
    if (!any && n < sizeof p->consequence) {
        snprintf(p->consequence + n, sizeof p->consequence - n, " none");
    }
}

static void decide(struct repair_plan *p)
{
    uint64_t epoch = 0;
    p->possible = false;
    p->chosen = choose(p);
    p->consequence[0] = p->refused[0] = 0;
    for (size_t i = 0; i < p->count; i++) {
        const struct repair_replica *r = &p->replicas[i];
        epoch = r->answered && r->epoch > epoch ? r->epoch : epoch;
    }
    p->epoch = epoch + 1;
    if (p->chosen == p->count) {
        snprintf(p->refused, sizeof p->refused, "no replica with data answers");
        return;
    }
    const struct raft_config *c = &p->replicas[p->chosen].config;
    for (size_t i = 0; i < p->count; i++) {
        p->replicas[i].voter = raft_config_is_voter(c, p->replicas[i].replica_id);
    }
    describe(p);
    for (size_t i = 0; i < p->count; i++) {
        if (p->replicas[i].answered && p->replicas[i].leads) {
            snprintf(p->refused, sizeof p->refused, "replica %" PRIu64 " on %s leads",
                     p->replicas[i].replica_id, p->replicas[i].host);
            return;
        }
    }
    uint32_t all, alive;
    if (quorum_alive(p, c, &all, &alive)) {
        snprintf(p->refused, sizeof p->refused,
                 "a quorum is alive: %" PRIu32 " of %" PRIu32
                 " voters answer, and will elect a leader",
                 alive, all);
        return;
    }
    p->possible = true;
}

void repair_decide(struct repair_plan *p)
{
    decide(p);
    p->hash = hash_of(p);
}
