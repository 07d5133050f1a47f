/* The cluster of core_cluster.h: life cycle, disks and the driving loop. The network is in
 * core_network.c, the helpers that tests call most in cluster_util.c. */
#include "shards/raft/test/core_cluster.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "shards/raft/test/core_cluster_internal.h"

struct node *node_at(struct cluster *c, uint64_t id)
{
    ASSERT(id >= 1 && id <= c->node_count);
    return &c->nodes[id];
}

static struct node *add_node(struct cluster *c, const struct raft_config *config)
{
    ASSERT(c->node_count < NODES_MAX);
    struct node *n = &c->nodes[++c->node_count];

    n->id = c->node_count;
    n->options = (struct raft_options){
        .replica_id = n->id,
        .seed = rand_u64(&c->rand),
        .election_timeout_ms = TIMEOUT_MS,
        .heartbeat_ms = HEARTBEAT_MS,
        .cache_bytes = 64 * MIB,
        .pre_vote = true,
        .check_quorum = true,
    };
    n->clock_ahead_ns = n->id * 1000 * NS_PER_S;
    raft_config_copy(&n->disk.start_config, config);
    return n;
}

void cluster_init_config(struct cluster *c, const struct raft_config *config, uint64_t seed)
{
    memset(c, 0, sizeof *c);
    c->now_ms = 1000;
    rand_seed(&c->rand, seed);
    for (uint32_t i = 0; i < config->member_count; i++) {
        struct node *n = add_node(c, config);
        ASSERT(config->members[i].replica_id == n->id);
        n->options.witness = config->members[i].role == RAFT_WITNESS;
        node_start(c, n->id);
    }
}

void cluster_init(struct cluster *c, size_t n, uint64_t seed)
{
    uint64_t ids[NODES_MAX];

    for (size_t i = 0; i < n; i++) {
        ids[i] = i + 1;
    }
    struct raft_config config = config_of(ids, n, NULL, 0);
    cluster_init_config(c, &config, seed);
    raft_config_deinit(&config);
}

struct node *cluster_join(struct cluster *c)
{
    struct node *n = add_node(c, &(struct raft_config){0});

    node_start(c, n->id);
    return n;
}

static void write_deinit(struct disk_write *w)
{
    for (size_t i = 0; i < w->entry_count; i++) {
        raft_entry_unref(w->entries[i]);
    }
    free(w->entries);
    raft_config_deinit(&w->start_config);
}

static void drop_writes(struct node *n)
{
    for (size_t i = 0; i < n->write_count; i++) {
        write_deinit(&n->writes[i]);
    }
    n->write_count = 0;
}

void cluster_deinit(struct cluster *c)
{
    for (size_t i = 1; i <= c->node_count; i++) {
        struct node *n = &c->nodes[i];
        raft_free(n->raft);
        drop_writes(n);
        free(n->writes);
        disk_truncate(&n->disk, 0);
        free(n->disk.entries);
        raft_config_deinit(&n->disk.start_config);
    }
    network_deinit(c);
    checker_deinit(&c->checker);
}

void disk_truncate(struct disk *d, size_t count)
{
    while (d->count > count) {
        raft_entry_unref(d->entries[--d->count]);
    }
}

static void disk_append(struct disk *d, struct raft_entry *e)
{
    if (d->count == d->capacity) {
        d->capacity = d->capacity == 0 ? 64 : d->capacity * 2;
        d->entries = xrealloc(d->entries, d->capacity * sizeof(struct raft_entry *));
    }
    d->entries[d->count++] = raft_entry_ref(e);
}

static void disk_start_moves(struct disk *d, const struct disk_write *w)
{
    if (w->snapshot) {
        disk_truncate(d, 0);
    } else {
        ASSERT(w->start_index > d->start_index && w->start_index <= d->start_index + d->count);
        size_t gone = w->start_index - d->start_index;
        for (size_t i = 0; i < gone; i++) {
            raft_entry_unref(d->entries[i]);
        }
        d->count -= gone;
        memmove(d->entries, d->entries + gone, d->count * sizeof(struct raft_entry *));
    }
    d->start_index = w->start_index;
    d->start_term = w->start_term;
    d->start_stamp = w->start_stamp;
    raft_config_copy(&d->start_config, &w->start_config);
}

static void disk_apply(struct disk *d, const struct disk_write *w)
{
    ASSERT(w->hard.term >= d->hard.term);
    d->hard = w->hard;
    if (w->snapshot) {
        disk_start_moves(d, w);
    }
    if (w->entry_count > 0) {
        uint64_t first = w->entries[0]->index;
        ASSERT(first > d->start_index && first <= d->start_index + d->count + 1);
        disk_truncate(d, first - d->start_index - 1);
        for (size_t i = 0; i < w->entry_count; i++) {
            disk_append(d, w->entries[i]);
        }
    }
    if (w->start_changed && !w->snapshot) {
        disk_start_moves(d, w);
    }
}

size_t node_sync(struct cluster *c, uint64_t id, size_t max)
{
    struct node *n = node_at(c, id);
    size_t done = 0;

    while (done < max && n->write_count > 0) {
        struct disk_write w = n->writes[0];
        n->write_count--;
        memmove(n->writes, n->writes + 1, n->write_count * sizeof n->writes[0]);
        disk_apply(&n->disk, &w);
        checker_synced(c, n);
        raft_persisted(n->raft, w.token, c->now_ms);
        write_deinit(&w);
        done++;
    }
    return done;
}

static void queue_write(struct cluster *c, struct node *n, const struct raft_update *u)
{
    struct disk_write w = {
        .token = u->persist,
        .hard = u->hard,
        .snapshot = u->snapshot,
        .start_changed = u->log_start_changed,
        .start_index = u->log_start_index,
        .start_term = u->log_start_term,
        .start_stamp = u->log_start_stamp,
        .entry_count = u->entry_count,
        .due_ms = c->now_ms + (c->disk_max_ms > 0 ? rand_below(&c->rand, c->disk_max_ms + 1) : 0),
    };

    if (u->log_start_changed) {
        raft_config_copy(&w.start_config, u->log_start_config);
    }
    if (u->entry_count > 0) {
        w.entries = xmalloc(u->entry_count * sizeof(struct raft_entry *));
        for (size_t i = 0; i < u->entry_count; i++) {
            w.entries[i] = raft_entry_ref(u->entries[i]);
        }
    }
    if (n->write_count > 0 && n->writes[n->write_count - 1].due_ms > w.due_ms) {
        w.due_ms = n->writes[n->write_count - 1].due_ms;
    }
    if (n->write_count == n->write_capacity) {
        n->write_capacity = n->write_capacity == 0 ? 8 : n->write_capacity * 2;
        n->writes = xrealloc(n->writes, n->write_capacity * sizeof n->writes[0]);
    }
    n->writes[n->write_count++] = w;
    c->persists++;
}

static struct raft_entry *find_entry(struct node *n, uint64_t index)
{
    struct raft_entry *e = raft_entry_at(n->raft, index);

    if (e == NULL && index > n->disk.start_index) {
        e = n->disk.entries[index - n->disk.start_index - 1];
    }
    return e;
}

static uint64_t entry_value(const struct raft_entry *e)
{
    return e->payload.bytes.size >= 8 ? get_le64(e->payload.bytes.data) : e->kind;
}

void node_apply(struct cluster *c, uint64_t id)
{
    struct node *n = node_at(c, id);

    if (n->raft == NULL || n->applied >= n->apply_to) {
        return;
    }
    while (n->applied < n->apply_to) {
        struct raft_entry *e = find_entry(n, n->applied + 1);
        ASSERT(e != NULL);
        if (!n->options.witness) {
            checker_applies(c, n, e->index, e->term, entry_value(e));
        }
        n->applied++;
        c->stamps[e->index % STAMPS_MAX] = e->stamp;
    }
    raft_applied(n->raft, n->applied);
}

static void answer_need_log(struct cluster *c, struct node *n, struct raft_peer_request q)
{
    struct raft_entry *found[64];
    size_t count = 0;
    (void)c;

    for (uint64_t i = q.first; i <= n->disk.start_index + n->disk.count && count < 64; i++) {
        if (i > n->disk.start_index) {
            found[count++] = raft_entry_ref(n->disk.entries[i - n->disk.start_index - 1]);
        }
    }
    raft_log_read(n->raft, q.peer, q.first, found, count);
}

static void note_requests(struct node *n, const struct raft_update *u)
{
    for (size_t i = 0; i < u->need_log_count; i++) {
        n->need_log = u->need_log[i];
        n->need_log_count++;
    }
    for (size_t i = 0; i < u->need_snapshot_count; i++) {
        n->need_snapshot = u->need_snapshot[i];
        n->need_snapshot_count++;
    }
}

static void handle_requests(struct cluster *c, struct node *n, const struct raft_update *u)
{
    /* Copied: answering is an event, after which the arrays are gone. */
    struct raft_peer_request logs[NODES_MAX];
    struct raft_peer_request snapshots[NODES_MAX];
    size_t log_count = u->need_log_count;
    size_t snapshot_count = u->need_snapshot_count;

    ASSERT(log_count <= NODES_MAX && snapshot_count <= NODES_MAX);
    note_requests(n, u);
    for (size_t i = 0; i < log_count; i++) {
        logs[i] = u->need_log[i];
    }
    for (size_t i = 0; i < snapshot_count; i++) {
        snapshots[i] = u->need_snapshot[i];
    }
    for (size_t i = 0; i < snapshot_count && !n->manual_snapshot; i++) {
        network_send_snapshot(c, n, snapshots[i].peer, snapshots[i].min_index);
    }
    for (size_t i = 0; i < log_count && !n->manual_log; i++) {
        answer_need_log(c, n, logs[i]);
    }
}

static uint64_t clock_of(const struct cluster *c, const struct node *n)
{
    return c->now_ms * NS_PER_MS + n->clock_ahead_ns;
}

void node_harvest(struct cluster *c, uint64_t id)
{
    struct node *n = node_at(c, id);
    struct raft_update u;

    raft_clock(n->raft, clock_of(c, n));
    raft_harvest(n->raft, &u);
    checker_harvested(c, n, &u);
    if (u.persist != 0) {
        queue_write(c, n, &u);
    }
    if (u.snapshot) {
        n->applied = u.log_start_index; /* the staged machine takes over */
        n->apply_to = n->applied;
    }
    for (size_t i = 0; i < u.message_count; i++) {
        checker_sends(c, n, &u.messages[i]);
        network_send(c, &u.messages[i]);
    }
    for (size_t i = 0; i < u.read_count; i++) {
        ASSERT(n->read_count < 256);
        n->reads[n->read_count++] = u.reads[i];
    }
    n->removed = n->removed || u.removed;
    if (u.apply_first != 0) {
        ASSERT(u.apply_first == n->apply_to + 1 && u.apply_last >= u.apply_first);
        n->apply_to = u.apply_last;
    }
    if (u.status_changed) {
        trace_state(c, n);
    }
    handle_requests(c, n, &u);
    raft_trim(n->raft);
}

static bool step_node(struct cluster *c, struct node *n)
{
    bool busy = false;

    if (n->raft == NULL) {
        return false;
    }
    if (raft_has_update(n->raft)) {
        node_harvest(c, n->id);
        busy = true;
    }
    if (!n->manual_disk && n->write_count > 0 && n->writes[0].due_ms <= c->now_ms) {
        busy = node_sync(c, n->id, 1) > 0 || busy;
    }
    if (!n->manual_apply && n->applied < n->apply_to) {
        node_apply(c, n->id);
        busy = true;
    }
    return busy;
}

void cluster_settle(struct cluster *c)
{
    bool busy = true;

    for (int round = 0; busy; round++) {
        ASSERT(round < 100000); /* otherwise two nodes keep each other busy for ever */
        busy = network_deliver_due(c);
        for (size_t i = 1; i <= c->node_count; i++) {
            busy = step_node(c, &c->nodes[i]) || busy;
        }
    }
}

static uint64_t next_event(struct cluster *c)
{
    uint64_t next = network_next_due(c);

    for (size_t i = 1; i <= c->node_count; i++) {
        struct node *n = &c->nodes[i];
        if (n->raft == NULL) {
            continue;
        }
        uint64_t due = raft_deadline_ms(n->raft);
        next = due < next ? due : next;
        if (!n->manual_disk && n->write_count > 0 && n->writes[0].due_ms < next) {
            next = n->writes[0].due_ms;
        }
    }
    return next;
}

void cluster_run(struct cluster *c, uint64_t ms)
{
    uint64_t end = c->now_ms + ms;

    cluster_settle(c);
    while (c->now_ms < end) {
        uint64_t next = next_event(c);
        next = next < end ? next : end;
        c->now_ms = next > c->now_ms ? next : c->now_ms; /* a node that just woke is overdue */
        for (size_t i = 1; i <= c->node_count; i++) {
            struct raft *r = c->nodes[i].raft;
            if (r != NULL && raft_deadline_ms(r) <= c->now_ms) {
                raft_clock(r, clock_of(c, &c->nodes[i]));
                raft_tick(r, c->now_ms);
            }
        }
        cluster_settle(c);
    }
    checker_logs(c);
}

void node_crash(struct cluster *c, uint64_t id)
{
    struct node *n = node_at(c, id);

    raft_free(n->raft);
    n->raft = NULL;
    drop_writes(n);
    n->read_count = 0;
}

static size_t make_runs(const struct disk *d, struct raft_term_run *runs)
{
    size_t n = 0;

    for (size_t i = 0; i < d->count; i++) {
        if (n == 0 || runs[n - 1].term != d->entries[i]->term) {
            runs[n++] = (struct raft_term_run){d->entries[i]->index, d->entries[i]->term};
        }
    }
    return n;
}

void node_start(struct cluster *c, uint64_t id)
{
    struct node *n = node_at(c, id);
    struct disk *d = &n->disk;
    struct raft_term_run *runs = xmalloc((d->count + 1) * sizeof *runs);
    struct raft_entry **configs = xmalloc((d->count + 1) * sizeof(struct raft_entry *));
    struct raft_boot boot = {
        .hard = d->hard,
        .start_index = d->start_index,
        .start_term = d->start_term,
        .config = &d->start_config,
        .last_index = d->start_index + d->count,
        .runs = runs,
        .run_count = make_runs(d, runs),
        .config_entries = configs,
        .applied = d->start_index, /* machines in memory start from the snapshot */
        .now_ms = c->now_ms,
        .last_stamp = d->count > 0 ? d->entries[d->count - 1]->stamp : d->start_stamp,
    };
    struct thole_status st = {0};

    ASSERT(n->raft == NULL);
    for (size_t i = 0; i < d->count; i++) {
        if (d->entries[i]->kind == RAFT_ENTRY_CONFIG) {
            configs[boot.config_entry_count++] = d->entries[i];
        }
    }
    n->options.seed++;
    enum thole_code code = raft_new(&n->options, &boot, &n->raft, &st);
    ASSERT(code == THOLE_OK);
    n->applied = boot.applied;
    n->apply_to = boot.applied;
    free(runs);
    free(configs);
    checker_started(c, n);
}

void node_restart(struct cluster *c, uint64_t id)
{
    node_crash(c, id);
    node_start(c, id);
}

void node_restart_with_log(struct cluster *c, uint64_t id, const uint64_t *terms, size_t count,
                           uint64_t term, uint64_t vote)
{
    struct node *n = node_at(c, id);

    node_crash(c, id);
    disk_truncate(&n->disk, 0);
    n->disk.hard = (struct raft_hard){.term = term, .vote = vote};
    for (size_t i = 0; i < count; i++) {
        struct raft_entry *e = raft_entry_new(RAFT_ENTRY_NOOP, 0, 0, (struct bufslice){0});
        e->index = n->disk.start_index + i + 1;
        e->term = terms[i];
        disk_append(&n->disk, e);
        raft_entry_unref(e);
    }
    node_start(c, id);
}
