/* The fixture's network: messages and snapshots under way. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "shards/raft/test/core_cluster_internal.h"

static struct raft_message message_copy(const struct raft_message *m)
{
    struct raft_message copy = *m;

    if (m->entry_count > 0) {
        copy.entries = xmalloc(m->entry_count * sizeof(struct raft_entry *));
        for (uint32_t i = 0; i < m->entry_count; i++) {
            copy.entries[i] = raft_entry_ref(m->entries[i]);
        }
    }
    return copy;
}

static void packet_deinit(struct packet *p)
{
    raft_message_deinit(&p->message);
    raft_config_deinit(p->snapshot_config);
    free(p->snapshot_config);
}

static void push(struct packet **list, size_t *count, size_t *capacity, struct packet p)
{
    if (*count == *capacity) {
        *capacity = *capacity == 0 ? 64 : *capacity * 2;
        *list = xrealloc(*list, *capacity * sizeof **list);
    }
    (*list)[(*count)++] = p;
}

static uint64_t latency(struct cluster *c)
{
    return c->latency_max_ms == 0 ? 0
                                  : rand_between(&c->rand, c->latency_min_ms, c->latency_max_ms);
}

static void enqueue(struct cluster *c, struct packet p)
{
    if (p.message.to > c->node_count) {
        packet_deinit(&p); /* a member that was never started */
        return;
    }
    p.due_ms = c->now_ms + latency(c);
    p.order = c->next_order++;
    push(&c->packets, &c->packet_count, &c->packet_capacity, p);
}

void network_send(struct cluster *c, const struct raft_message *m)
{
    c->sent[m->kind]++;
    c->sent_entries += m->entry_count;
    if (m->to <= NODES_MAX && c->cut[m->from][m->to]) {
        return;
    }
    if (c->drop > 0 && rand_chance(&c->rand, c->drop)) {
        return;
    }
    switch (c->filter != NULL ? c->filter(c, m) : PASS) {
    case DROP:
        return;
    case HOLD:
        push(&c->held, &c->held_count, &c->held_capacity,
             (struct packet){.message = message_copy(m)});
        return;
    case PASS:
        break;
    }
    enqueue(c, (struct packet){.message = message_copy(m)});
    if (c->duplicate > 0 && rand_chance(&c->rand, c->duplicate)) {
        enqueue(c, (struct packet){.message = message_copy(m)});
    }
}

/* Taken from the machine as it is applied now; refused if that is not far enough. */
void network_send_snapshot(struct cluster *c, struct node *from, uint64_t to, uint64_t min_index)
{
    struct raft_status s = node_status(from);
    struct packet p = {
        .message = {.from = from->id, .to = to, .term = s.term},
        .snapshot_index = from->applied,
        .snapshot_config = xcalloc(1, sizeof(struct raft_config)),
    };

    bool known = raft_term_at(from->raft, from->applied, &p.snapshot_term);
    p.snapshot_stamp = c->stamps[from->applied % STAMPS_MAX];
    if (!known || from->applied < min_index || to > c->node_count || c->cut[from->id][to]) {
        packet_deinit(&p);
        raft_snapshot_sent(from->raft, to, from->applied, false);
        return;
    }
    raft_config_copy(p.snapshot_config, raft_config_at(from->raft, from->applied));
    enqueue(c, p);
}

static void deliver_snapshot(struct cluster *c, struct packet *p)
{
    struct node *to = node_at(c, p->message.to);
    struct node *from = node_at(c, p->message.from);
    bool install = false;

    trace_line(c, "%" PRIu64 " < snapshot from %" PRIu64 " at %" PRIu64 "/%" PRIu64, to->id,
               from->id, p->snapshot_index, p->snapshot_term);
    enum thole_code code = raft_snapshot_received(
        to->raft, from->id, p->message.term, p->snapshot_index, p->snapshot_term, p->snapshot_stamp,
        p->snapshot_config, c->now_ms, &install, NULL);
    if (code == THOLE_OK && install) {
        node_harvest(c, to->id);
    }
    /* Half of the reports get lost, which must not matter. */
    if (from->raft != NULL && rand_chance(&c->rand, 0.5)) {
        raft_snapshot_sent(from->raft, to->id, p->snapshot_index, code == THOLE_OK);
    }
}

static void deliver(struct cluster *c, struct packet *p)
{
    struct node *to = node_at(c, p->message.to);

    if (to->raft == NULL || c->cut[p->message.from][p->message.to]) {
        if (p->message.kind == 0 && node_at(c, p->message.from)->raft != NULL) {
            raft_snapshot_sent(node_at(c, p->message.from)->raft, to->id, p->snapshot_index, false);
        }
        return;
    }
    if (p->message.kind == 0) {
        deliver_snapshot(c, p);
        return;
    }
    trace_message(c, to, &p->message);
    to->last_error = raft_receive(to->raft, &p->message, c->now_ms, NULL);
}

static bool earlier(const struct packet *a, const struct packet *b)
{
    return a->due_ms < b->due_ms || (a->due_ms == b->due_ms && a->order < b->order);
}

bool network_deliver_due(struct cluster *c)
{
    bool any = false;
    size_t n = c->packet_count; /* messages sent meanwhile wait for the next round */

    while (n > 0) {
        size_t best = 0;
        for (size_t i = 1; i < n; i++) {
            best = earlier(&c->packets[i], &c->packets[best]) ? i : best;
        }
        if (c->packets[best].due_ms > c->now_ms) {
            break;
        }
        struct packet p = c->packets[best];
        c->packet_count--;
        n--;
        memmove(&c->packets[best], &c->packets[best + 1],
                (c->packet_count - best) * sizeof c->packets[0]);
        deliver(c, &p);
        packet_deinit(&p);
        any = true;
    }
    return any;
}

uint64_t network_next_due(struct cluster *c)
{
    uint64_t next = UINT64_MAX;

    for (size_t i = 0; i < c->packet_count; i++) {
        next = c->packets[i].due_ms < next ? c->packets[i].due_ms : next;
    }
    return next;
}

void cluster_release_held(struct cluster *c)
{
    for (size_t i = 0; i < c->held_count; i++) {
        enqueue(c, c->held[i]);
    }
    c->held_count = 0;
}

void cluster_drop_held(struct cluster *c)
{
    for (size_t i = 0; i < c->held_count; i++) {
        packet_deinit(&c->held[i]);
    }
    c->held_count = 0;
}

void network_deinit(struct cluster *c)
{
    cluster_drop_held(c);
    for (size_t i = 0; i < c->packet_count; i++) {
        packet_deinit(&c->packets[i]);
    }
    free(c->packets);
    free(c->held);
}
