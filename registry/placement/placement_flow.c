/* The cheapest way to send units through a network of edges that each take one: successive shortest
 * paths (Busacker and Gowen), found by label correction, because the residual network has edges of
 * negative cost. Networks are of some hundred edges, and flows of at most some dozen units. */
#include "registry/placement/placement_internal.h"

#include <stdlib.h>
#include <string.h>

struct edge {
    int to;
    int next; /* of the same node; -1: none */
    bool open;
    struct flow_cost cost;
};

struct flow {
    struct edge *edges; /* 2k goes forward, 2k + 1 back */
    size_t edge_count, edge_capacity;
    int *first; /* edge of each node */
    size_t node_count, node_capacity;
};

struct flow *placement__flow_new(void)
{
    return xcalloc(1, sizeof(struct flow));
}

void placement__flow_free(struct flow *f)
{
    free(f->edges);
    free(f->first);
    free(f);
}

int placement__flow_node(struct flow *f)
{
    if (f->node_count == f->node_capacity) {
        f->node_capacity = f->node_capacity == 0 ? 64 : 2 * f->node_capacity;
        f->first = xrealloc(f->first, f->node_capacity * sizeof *f->first);
    }
    f->first[f->node_count] = -1;
    return (int)f->node_count++;
}

static void add_edge(struct flow *f, int from, int to, bool open, const struct flow_cost *cost)
{
    if (f->edge_count == f->edge_capacity) {
        f->edge_capacity = f->edge_capacity == 0 ? 128 : 2 * f->edge_capacity;
        f->edges = xrealloc(f->edges, f->edge_capacity * sizeof *f->edges);
    }
    f->edges[f->edge_count] =
        (struct edge){.to = to, .next = f->first[from], .open = open, .cost = *cost};
    f->first[from] = (int)f->edge_count++;
}

int placement__flow_edge(struct flow *f, int from, int to, const struct flow_cost *cost)
{
    struct flow_cost back;
    for (size_t i = 0; i < FLOW_LEVELS; i++) {
        back.level[i] = -cost->level[i];
    }
    add_edge(f, from, to, true, cost);
    add_edge(f, to, from, false, &back);
    return (int)f->edge_count - 2;
}

bool placement__flow_is_used(const struct flow *f, int edge)
{
    return !f->edges[edge].open;
}

/* a + b < c? The sum goes to `ret`. */
static bool closer(const struct flow_cost *a, const struct flow_cost *b, const struct flow_cost *c,
                   struct flow_cost *ret)
{
    int order = 0;
    for (size_t i = 0; i < FLOW_LEVELS; i++) {
        ret->level[i] = a->level[i] + b->level[i];
        if (order == 0 && ret->level[i] != c->level[i]) {
            order = ret->level[i] < c->level[i] ? -1 : 1;
        }
    }
    return order < 0;
}

struct search {
    struct flow_cost *distance;
    int *by;    /* edge that reached the node; -1: not reached */
    int *queue; /* a ring of nodes; each is in it at most once */
    bool *queued;
};

static bool find_path(const struct flow *f, struct search *s, int source, int sink)
{
    ASSERT(f->node_count > 0);
    size_t head = 0;
    size_t count = 1;
    for (size_t i = 0; i < f->node_count; i++) {
        s->by[i] = -1;
        s->queued[i] = false;
    }
    memset(&s->distance[source], 0, sizeof s->distance[source]);
    s->queue[0] = source;
    while (count > 0) {
        int node = s->queue[head];
        head = (head + 1) % f->node_count;
        count--;
        s->queued[node] = false;
        for (int e = f->first[node]; e >= 0; e = f->edges[e].next) {
            const struct edge *edge = &f->edges[e];
            struct flow_cost sum;
            bool reached = edge->to == source || s->by[edge->to] >= 0;
            bool better =
                closer(&s->distance[node], &edge->cost, &s->distance[edge->to], &sum) || !reached;
            if (!edge->open || !better) {
                continue;
            }
            s->distance[edge->to] = sum;
            s->by[edge->to] = e;
            if (!s->queued[edge->to]) {
                s->queued[edge->to] = true;
                s->queue[(head + count++) % f->node_count] = edge->to;
            }
        }
    }
    return s->by[sink] >= 0;
}

void placement__flow_run(struct flow *f, int source, int sink)
{
    struct search s = {
        .distance = xcalloc(f->node_count, sizeof *s.distance),
        .by = xcalloc(f->node_count, sizeof *s.by),
        .queue = xcalloc(f->node_count, sizeof *s.queue),
        .queued = xcalloc(f->node_count, sizeof *s.queued),
    };
    while (find_path(f, &s, source, sink)) {
        for (int node = sink; node != source; node = f->edges[s.by[node] ^ 1].to) {
            f->edges[s.by[node]].open = false;
            f->edges[s.by[node] ^ 1].open = true;
        }
    }
    free(s.distance);
    free(s.by);
    free(s.queue);
    free(s.queued);
}
