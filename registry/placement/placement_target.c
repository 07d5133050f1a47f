/* The target: which host should have which replica of a shard, as a flow of slots to hosts.
 *
 *   source -> class -> value of the first spread key -> of the second -> ... -> host -> sink
 *
 * Every host takes one slot. The k-th slot of a class that goes through one value costs 2k - 1 at
 * the level of that key, so that the cheapest flow has the least sum of squares, which is the
 * evenest spread. A slot that finds no host goes from its class to the sink, at a cost above
 * everything else. The levels of the costs are the order of what matters.
 *
 * Voters and witnesses are spread together: witnesses are chosen twice, first to see that there is
 * room for them, then once more around the voters. */
#include "registry/placement/placement_internal.h"

#include <stdlib.h>
#include <string.h>

enum level {
    LEVEL_USER,  /* replicas of users are there anyway: they fill slots first */
    LEVEL_UNMET, /* voters, witnesses, others */
    LEVEL_AWKWARD =
        LEVEL_UNMET + 3, /* a new one on a suspect host; a witness where data should be */
    LEVEL_FIRST,         /* moves and spread, in either order */
    LEVEL_STAY = LEVEL_FIRST + REGISTRY_SPREAD_MAX + 1, /* who stays if one is too many */
    LEVEL_RANK,                                         /* loaded hosts last */
};
_Static_assert(LEVEL_RANK < FLOW_LEVELS, "levels");

/* What a slot on a host costs in moves. New voters cost more than new other ones and a promotion
 * together, because what is promoted has the data. */
enum { MOVE_ROLE = 1, MOVE_FAILED = 63, MOVE_NEW = 64, MOVE_NEW_VOTER = 67 };

struct leaf {
    int edge, host;
};

struct network {
    struct placement *p;
    struct flow *flow;
    int source, sink, moves_level, spread_level;
    int host_nodes[PLACEMENT_HOSTS_MAX];
    struct leaf leaves[PLACEMENT_CLASSES_MAX][PLACEMENT_HOSTS_MAX];
    size_t leaf_count[PLACEMENT_CLASSES_MAX];
};

/* ---- Values of the spread keys --------------------------------------------------------------- */

/* Are the hosts in one place, as far as the first `depth` keys tell? */
static bool same_place(const struct placement *p, int a, int b, size_t depth)
{
    return depth == 0 || p->hosts[a].place[depth - 1] == p->hosts[b].place[depth - 1];
}

/* Voting replicas of the other kind that are in the place already, and are to stay. */
static uint32_t others_in_place(const struct placement *p, size_t class, int host, size_t depth)
{
    uint32_t sum = 0;
    size_t other = class == CLASS_VOTERS ? CLASS_WITNESSES : CLASS_VOTERS;
    if (class > CLASS_WITNESSES || p->classes[other].wanted == 0) {
        return 0;
    }
    for (size_t i = 0; i < p->host_count; i++) {
        const struct placement_host *h = &p->hosts[i];
        const struct placement_member *m = h->member >= 0 ? &p->members[h->member] : NULL;
        bool counts = class == CLASS_VOTERS ? m != NULL && placement__member_fits(p, m, other)
                      : m != NULL           ? m->target == (int)other
                                            : h->target == (int)other;
        sum += counts && same_place(p, (int)i, host, depth);
    }
    return sum;
}

/* ---- The network ----------------------------------------------------------------------------- */

static bool has_data(int target)
{
    return target == CLASS_COVER || target == CLASS_VOTERS || target > CLASS_WITNESSES;
}

/* May class `c` have a slot on the host, and at what cost? */
static bool host_cost(const struct network *n, size_t c, int host, struct flow_cost *ret)
{
    const struct placement *p = n->p;
    const struct placement_host *h = &p->hosts[host];
    const struct placement_member *m = h->member >= 0 ? &p->members[h->member] : NULL;
    memset(ret, 0, sizeof *ret);
    ret->level[LEVEL_RANK] = (int32_t)h->rank;
    ret->level[LEVEL_AWKWARD] = c == CLASS_WITNESSES && h->covers;
    if (m == NULL) {
        ret->level[LEVEL_AWKWARD] += h->suspect + (int32_t)(h->failures < 100 ? h->failures : 100);
        ret->level[n->moves_level] = c == CLASS_VOTERS ? MOVE_NEW_VOTER : MOVE_NEW;
        return h->open && (h->matches >> c & 1) != 0;
    }
    if (!m->mine) {
        ret->level[LEVEL_USER] = -1;
    }
    /* One that runs is promoted first, and demoted last: else one that has just lost its vote would
     * get it back for another one, and so on for ever. */
    bool awkward = m->running != (c == CLASS_VOTERS);
    ret->level[n->moves_level] =
        (m->role != p->classes[c].role ? MOVE_ROLE + awkward : 0) + (m->failed ? MOVE_FAILED : 0);
    /* Not whether it runs already: else a move would be given up as soon as it has begun. */
    ret->level[LEVEL_STAY] = 8 * h->over + 4 * !m->pinned + 2 * h->suspect + !m->leader;
    return placement__member_fits(p, m, c);
}

/* From `from` to the hosts of the place of `like`, at this depth. `done` marks those that are
 * in. */
static void add_place(struct network *n, size_t c, int from, int like, size_t depth, bool *done)
{
    struct placement *p = n->p;
    struct flow_cost cost;
    bool seen[PLACEMENT_HOSTS_MAX] = {false};
    for (int i = 0; i < (int)p->host_count; i++) {
        if (done[i] || !host_cost(n, c, i, &cost) ||
            (like >= 0 && !same_place(p, like, i, depth))) {
            continue;
        }
        if (depth == p->spread_count) {
            struct leaf *leaf = &n->leaves[c][n->leaf_count[c]++];
            *leaf = (struct leaf){placement__flow_edge(n->flow, from, n->host_nodes[i], &cost), i};
            done[i] = true;
            continue;
        }
        if (seen[i]) {
            continue;
        }
        uint32_t size = 0;
        for (int k = i; k < (int)p->host_count; k++) {
            seen[k] |= same_place(p, i, k, depth + 1);
            size += seen[k] && same_place(p, i, k, depth + 1);
        }
        int node = placement__flow_node(n->flow);
        uint32_t base = others_in_place(p, c, i, depth + 1);
        for (uint32_t k = 0; k < size && k < p->classes[c].wanted; k++) {
            memset(&cost, 0, sizeof cost);
            cost.level[n->spread_level + (int)depth] = (int32_t)(2 * (base + k) + 1);
            placement__flow_edge(n->flow, from, node, &cost);
        }
        add_place(n, c, node, i, depth + 1, done);
    }
}

static void add_class(struct network *n, size_t c)
{
    struct flow_cost cost = {{0}};
    bool done[PLACEMENT_HOSTS_MAX] = {false};
    int node = placement__flow_node(n->flow);
    size_t unmet = LEVEL_UNMET + (c < 2 ? c : 2);
    for (uint32_t k = 0; k < n->p->classes[c].wanted; k++) {
        cost.level[unmet] = 0;
        placement__flow_edge(n->flow, n->source, node, &cost);
        cost.level[unmet] = 1;
        placement__flow_edge(n->flow, node, n->sink, &cost);
    }
    add_place(n, c, node, -1, 0, done);
}

/* Solve for the classes of the mask; hosts that have a target of another class are taken. */
static void solve(struct placement *p, uint32_t classes, bool hold)
{
    struct network *n = xcalloc(1, sizeof *n);
    n->p = p;
    n->flow = placement__flow_new();
    n->source = placement__flow_node(n->flow);
    n->sink = placement__flow_node(n->flow);
    n->moves_level = hold ? LEVEL_FIRST : LEVEL_FIRST + REGISTRY_SPREAD_MAX;
    n->spread_level = hold ? LEVEL_FIRST + 1 : LEVEL_FIRST;
    for (size_t i = 0; i < p->host_count; i++) {
        const struct flow_cost none = {{0}};
        struct placement_host *h = &p->hosts[i];
        int target = h->member >= 0 ? p->members[h->member].target : h->target;
        n->host_nodes[i] = placement__flow_node(n->flow);
        if (target == CLASS_NONE) {
            placement__flow_edge(n->flow, n->host_nodes[i], n->sink, &none);
        }
    }
    for (size_t c = 0; c < p->class_count; c++) {
        if ((classes >> c & 1) != 0 && p->classes[c].wanted > 0) {
            add_class(n, c);
        }
    }
    placement__flow_run(n->flow, n->source, n->sink);
    for (size_t c = 0; c < p->class_count; c++) {
        uint32_t met = 0;
        for (size_t i = 0; i < n->leaf_count[c]; i++) {
            struct placement_host *h = &p->hosts[n->leaves[c][i].host];
            if (placement__flow_is_used(n->flow, n->leaves[c][i].edge)) {
                *(h->member >= 0 ? &p->members[h->member].target : &h->target) = (int)c;
                met++;
            }
        }
        if ((classes >> c & 1) != 0) {
            p->classes[c].unmet = p->classes[c].wanted - met;
        }
    }
    placement__flow_free(n->flow);
    free(n);
}

static void clear_class(struct placement *p, int c)
{
    for (size_t i = 0; i < p->member_count; i++) {
        p->members[i].target = p->members[i].target == c ? CLASS_NONE : p->members[i].target;
    }
    for (size_t i = 0; i < p->host_count; i++) {
        p->hosts[i].target = p->hosts[i].target == c ? CLASS_NONE : p->hosts[i].target;
    }
}

/* Every host that matches a covering group and has no data yet. */
static void cover(struct placement *p)
{
    p->cover_unmet = 0;
    for (size_t i = 0; i < p->host_count; i++) {
        struct placement_host *h = &p->hosts[i];
        struct placement_member *m = h->member >= 0 ? &p->members[h->member] : NULL;
        if (!h->covers || !h->stays || has_data(m != NULL ? m->target : h->target)) {
            continue;
        }
        bool witness =
            m != NULL ? m->role == thole_v1_REPLICA_ROLE_WITNESS : h->target == CLASS_WITNESSES;
        if (witness) {
            p->cover_unmet++;
        } else if (m != NULL) {
            m->target = CLASS_COVER;
        } else if (h->open) {
            h->target = CLASS_COVER;
        } else if (placement__host_has_state(h->row, thole_v1_HOST_STATE_ACTIVE) && !h->failing) {
            p->cover_unmet++;
        }
    }
}

void placement__target(struct placement *p, bool hold)
{
    for (size_t i = 0; i < p->member_count; i++) {
        p->members[i].target = CLASS_NONE;
    }
    for (size_t i = 0; i < p->host_count; i++) {
        p->hosts[i].target = CLASS_NONE;
    }
    solve(p, (UINT32_C(1) << p->class_count) - 1, hold);
    if (p->classes[CLASS_WITNESSES].wanted > 0) {
        clear_class(p, CLASS_WITNESSES);
        solve(p, UINT32_C(1) << CLASS_WITNESSES, hold);
    }
    cover(p);
}

/* ---- The cost of what there is --------------------------------------------------------------- */

static bool in_class(const struct placement *p, int host, size_t class)
{
    const struct placement_host *h = &p->hosts[host];
    const struct placement_member *m = h->member >= 0 ? &p->members[h->member] : NULL;
    bool voting = class <= CLASS_WITNESSES;
    return m != NULL && (voting ? m->voting : m->target == (int)class);
}

void placement__spread_cost(const struct placement *p, size_t class, int without, int with,
                            int32_t ret[static REGISTRY_SPREAD_MAX])
{
    for (size_t depth = 0; depth < REGISTRY_SPREAD_MAX; depth++) {
        ret[depth] = 0;
        for (int i = 0; i < (int)p->host_count && depth < p->spread_count; i++) {
            for (int k = 0; k < (int)p->host_count; k++) {
                bool a = i == with || (i != without && in_class(p, i, class));
                bool b = k == with || (k != without && in_class(p, k, class));
                ret[depth] += a && b && same_place(p, i, k, depth + 1);
            }
        }
    }
}
