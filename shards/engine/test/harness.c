#include "shards/engine/test/harness.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define TURNS_MAX 100000

/* ---- A log store that counts and fails ------------------------------------------------------- */

struct proxy {
    struct log_store base;
    struct host *h;
};

static struct host *host_of(struct log_store *s)
{
    return CONTAINER_OF(s, struct proxy, base)->h;
}

static enum thole_code proxy_write(struct log_store *s, const struct store_update *updates,
                                   size_t n, struct thole_status *st)
{
    struct host *h = host_of(s);
    if (h->fail_writes) {
        return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_DISK, "injected");
    }
    h->writes++;
    return h->storage->ops->write(h->storage, updates, n, st);
}

static enum thole_code proxy_read(struct log_store *s, uint64_t replica_id, uint64_t first,
                                  uint64_t last, size_t max_bytes, size_t max_entries,
                                  struct raft_entry **ret, size_t *ret_count,
                                  struct thole_status *st)
{
    struct log_store *to = host_of(s)->storage;
    return to->ops->read(to, replica_id, first, last, max_bytes, max_entries, ret, ret_count, st);
}

static const struct store_replica *proxy_next(struct log_store *s, size_t *it)
{
    struct log_store *to = host_of(s)->storage;
    return to->ops->next(to, it);
}

static enum thole_code proxy_config_entries(struct log_store *s, uint64_t replica_id,
                                            struct raft_entry ***ret, size_t *ret_count,
                                            struct thole_status *st)
{
    struct log_store *to = host_of(s)->storage;
    return to->ops->config_entries(to, replica_id, ret, ret_count, st);
}

static const struct log_store_ops proxy_ops = {
    .write = proxy_write,
    .read = proxy_read,
    .next = proxy_next,
    .config_entries = proxy_config_entries,
};

/* ---- The network ----------------------------------------------------------------------------- */

struct packet {
    struct packet *next;
    uint64_t due_ns;
    int from, to;
    uint64_t incarnation;
    enum engine_lane lane;
    struct bufslice frame;
};

static int host_index(const struct cluster *c, const struct uuid *u)
{
    for (int i = 0; i < c->count; i++) {
        if (uuid_equal(&c->hosts[i].uuid, u)) {
            return i;
        }
    }
    return -1;
}

static enum thole_code net_send(void *ctx, const struct uuid *to, enum engine_lane lane,
                                struct bufslice frame)
{
    struct host *h = ctx;
    struct cluster *c = h->c;
    int index = host_index(c, to);
    if (lane == ENGINE_LANE_SNAPSHOT) {
        c->snapshot_frames++;
        c->snapshot_bytes += frame.bytes.size;
    } else {
        c->control_frames++;
    }
    if (index < 0 || c->cut[h->id][index] || rand_chance(&c->rand, c->drop) ||
        (c->no_appends[index] && lane == ENGINE_LANE_APPEND)) {
        bufslice_unref(frame);
        return THOLE_UNAVAILABLE;
    }
    struct packet *p = xcalloc(1, sizeof *p);
    uint64_t delay = c->delay_ms_max ? rand_below(&c->rand, c->delay_ms_max * MS) : 0;
    *p = (struct packet){
        .due_ns = cluster_now(c) + delay,
        .from = h->id,
        .to = index,
        .incarnation = h->incarnation,
        .lane = lane,
        .frame = frame,
    };
    struct packet **at = &c->packets;
    while (*at != NULL && (*at)->due_ns <= p->due_ns) {
        at = &(*at)->next;
    }
    p->next = *at;
    *at = p;
    return THOLE_OK;
}

static void deliver(struct cluster *c, struct packet *p)
{
    struct host *to = &c->hosts[p->to];
    if (to->engine != NULL && !c->cut[p->from][p->to]) {
        engine_deliver(to->engine, &c->hosts[p->from].uuid, p->incarnation, p->lane, p->frame);
    } else {
        bufslice_unref(p->frame);
    }
    free(p);
}

uint64_t cluster_now(const struct cluster *c)
{
    return clock_now(executor_clock(c->ex));
}

void cluster_run(struct cluster *c, uint64_t ms)
{
    uint64_t end = cluster_now(c) + ms * MS;
    for (;;) {
        executor_manual_run(c->ex, TURNS_MAX);
        uint64_t next = executor_manual_next_deadline(c->ex), now = cluster_now(c);
        if (c->packets != NULL && c->packets->due_ns < next) {
            next = c->packets->due_ns;
        }
        if (next > end) {
            break;
        }
        executor_manual_advance(c->ex, next > now ? next : now, TURNS_MAX);
        while (c->packets != NULL && c->packets->due_ns <= cluster_now(c)) {
            struct packet *p = c->packets;
            c->packets = p->next;
            deliver(c, p);
        }
    }
    executor_manual_advance(c->ex, end, TURNS_MAX);
}

/* ---- Hosts ----------------------------------------------------------------------------------- */

static void on_host_failed(void *ctx, const struct thole_status *st)
{
    struct host *h = ctx;
    (void)st;
    h->host_failed++;
}

void host_start(struct cluster *c, int i)
{
    struct host *h = &c->hosts[i];
    struct thole_status st;
    assert_null(h->engine);
    h->incarnation++;
    struct engine_options o = {
        .host_id = h->uuid,
        .incarnation = h->incarnation,
        .log = h->log,
        .files = h->files,
        .seeds = h->seeds,
        .executor = c->ex,
        .transport = {h, net_send},
        .observer = {.ctx = h, .host_failed = on_host_failed},
        .loop_count = c->loops ? c->loops : 1,
        .applier_count = 1,
        .compact_log_bytes = c->compact_log_bytes,
        .keep_log_bytes = c->keep_log_bytes,
        .snapshot_bytes_per_s = c->snapshot_bytes_per_s,
        .cache_bytes = 4096,
        .seed = rand_u64(&c->rand) | 1,
        .types = h->types,
    };
    if (engine_new(&o, &h->engine, &st) != THOLE_OK) {
        fail_msg("engine_new: %s", st.message);
    }
    executor_manual_run(c->ex, TURNS_MAX); /* machines are open */
}

void host_stop(struct cluster *c, int i)
{
    struct host *h = &c->hosts[i];
    if (h->engine == NULL) {
        return;
    }
    engine_stop(h->engine);
    engine_free(h->engine);
    h->engine = NULL;
    (void)c;
}

void host_crash(struct cluster *c, int i)
{
    struct host *h = &c->hosts[i];
    if (h->engine == NULL) {
        return;
    }
    engine__crash(h->engine);
    host_stop(c, i);
    ledger_disk_crash(h->ledger);
}

void isolate(struct cluster *c, int h, bool cut)
{
    for (int i = 0; i < c->count; i++) {
        if (i != h) {
            c->cut[h][i] = c->cut[i][h] = cut;
        }
    }
}

struct cluster *cluster_new(int hosts, uint64_t seed)
{
    struct cluster *c = xcalloc(1, sizeof *c);
    c->ex = executor_manual_new(1000 * MS);
    c->count = hosts;
    c->machine = "tally";
    rand_seed(&c->rand, seed);
    log_configure(LOG_LEVEL_ERROR, false);
    if (getenv("HARNESS_LOG") != NULL) {
        (void)log_configure_text(getenv("HARNESS_LOG"));
    }
    for (int i = 0; i < hosts; i++) {
        struct host *h = &c->hosts[i];
        h->c = c;
        h->id = i;
        h->uuid.bytes[0] = 0xaa;
        h->uuid.bytes[15] = (uint8_t)(i + 1);
        struct proxy *p = xcalloc(1, sizeof *p);
        p->base.ops = &proxy_ops;
        p->h = h;
        h->log = &p->base;
        h->storage = log_store_memory_new();
        h->files = engine_files_memory_new();
        h->seeds = engine_files_memory_new();
        h->ledger = ledger_disk_new();
        h->types_[0] = tally_type(&h->tally);
        h->types_[1] = tally_plain_type(&h->tally);
        h->types_[2] = ledger_type(h->ledger);
        for (int t = 0; t < 3; t++) {
            h->types[t] = &h->types_[t];
        }
    }
    return c;
}

void cluster_free(struct cluster *c)
{
    for (int i = 0; i < c->count; i++) {
        host_stop(c, i);
    }
    while (c->packets != NULL) {
        struct packet *p = c->packets;
        c->packets = p->next;
        bufslice_unref(p->frame);
        free(p);
    }
    for (int i = 0; i < c->count; i++) {
        struct host *h = &c->hosts[i];
        h->storage->ops->close(h->storage);
        free(CONTAINER_OF(h->log, struct proxy, base));
        h->files->ops->free(h->files);
        h->seeds->ops->free(h->seeds);
        ledger_disk_free(h->ledger);
    }
    executor_free(c->ex);
    free(c);
}

void on_done(void *ctx, const struct thole_status *st)
{
    struct done *d = ctx;
    assert_false(d->done);
    d->done = true;
    d->st = *st;
}

static void start_replica(struct cluster *c, int h, const struct raft_member *initial, size_t n)
{
    struct done d = {0};
    struct engine_replica_spec spec = {
        .replica_id = (uint64_t)h + 1,
        .shard_id = SHARD,
        .machine_type = c->machine,
        .lease_reads = c->lease_reads,
        .initial = initial,
        .initial_count = n,
    };
    engine_replica_start(c->hosts[h].engine, &spec, on_done, &d);
    RUN_UNTIL(c, 1000, d.done);
    if (d.st.code != THOLE_OK) {
        fail_msg("start of replica: %s", d.st.message);
    }
}

void cluster_bootstrap(struct cluster *c, int voters)
{
    struct raft_member initial[HOSTS_MAX] = {0};
    for (int i = 0; i < voters; i++) {
        initial[i].replica_id = (uint64_t)i + 1;
        initial[i].role = RAFT_VOTER;
        memcpy(initial[i].host, c->hosts[i].uuid.bytes, 16);
    }
    for (int i = 0; i < voters; i++) {
        host_start(c, i);
        start_replica(c, i, initial, (size_t)voters);
    }
}

void host_join(struct cluster *c, int h)
{
    if (c->hosts[h].engine == NULL) {
        host_start(c, h);
    }
    start_replica(c, h, NULL, 0);
}

struct engine_replica_status status_of(struct cluster *c, int h)
{
    struct engine_replica_status s = {0};
    if (c->hosts[h].engine != NULL) {
        (void)engine_shard_status(c->hosts[h].engine, SHARD, &s);
    }
    return s;
}

int cluster_leader(struct cluster *c)
{
    int leader = -1;
    uint64_t term = 0;
    for (int i = 0; i < c->count; i++) {
        struct engine_replica_status s = status_of(c, i);
        if (s.role == RAFT_LEADER && s.leader_ready && s.term > term) {
            leader = i;
            term = s.term;
        }
    }
    return leader;
}

int cluster_wait_leader(struct cluster *c)
{
    RUN_UNTIL(c, 20000, cluster_leader(c) >= 0);
    return cluster_leader(c);
}

/* ---- Requests -------------------------------------------------------------------------------- */

static void op_done(struct engine_request *r)
{
    struct op *o = CONTAINER_OF(r, struct op, r);
    o->done = true;
    o->dones++;
    o->done_ns = cluster_now(o->c);
    assert_int_equal(o->dones, 1);
}

struct op *op_new(struct cluster *c, enum engine_request_kind kind, const char *text)
{
    struct op *o = xcalloc(1, sizeof *o);
    o->c = c;
    o->r.kind = kind;
    o->r.shard_id = SHARD;
    o->r.deadline_ns = cluster_now(c) + 10000 * MS;
    o->r.done = op_done;
    if (text != NULL) {
        struct buf *b = buf_copy(text, strlen(text));
        o->r.payload = (struct bufslice){b, slice_of(b->data, b->size)};
    }
    return o;
}

void op_submit(struct op *o, int h)
{
    engine_submit(o->c->hosts[h].engine, &o->r);
}

struct op *op_propose_in(struct cluster *c, int h, uint64_t session, uint64_t sequence,
                         const char *text)
{
    struct op *o = op_new(c, ENGINE_PROPOSE, text);
    o->r.session = session;
    o->r.sequence = sequence;
    op_submit(o, h);
    return o;
}

struct op *op_propose(struct cluster *c, int h, const char *text)
{
    return op_propose_in(c, h, 0, 0, text);
}

struct op *op_open_session(struct cluster *c, int h)
{
    struct op *o = op_new(c, ENGINE_OPEN_SESSION, NULL);
    op_submit(o, h);
    return o;
}

struct op *op_query(struct cluster *c, int h)
{
    struct op *o = op_new(c, ENGINE_QUERY, "q");
    op_submit(o, h);
    return o;
}

struct op *op_query_stale(struct cluster *c, int h, uint32_t max_staleness_ms)
{
    struct op *o = op_new(c, ENGINE_QUERY, "q");
    o->r.stale = true;
    o->r.max_staleness_ms = max_staleness_ms;
    op_submit(o, h);
    return o;
}

void op_wait(struct op *o)
{
    RUN_UNTIL(o->c, 20000, o->done);
}

void op_free(struct op *o)
{
    assert_true(o->done);
    bufslice_unref(o->r.result);
    free(o);
}

uint64_t propose_ok(struct cluster *c, const char *text)
{
    for (int attempt = 0; attempt < 50; attempt++) {
        struct op *o = op_propose(c, cluster_wait_leader(c), text);
        op_wait(o);
        uint64_t index = o->r.status.code == THOLE_OK ? o->r.index : 0;
        op_free(o);
        if (index) {
            return index;
        }
        cluster_run(c, 50);
    }
    fail_msg("no proposal succeeded");
    return 0;
}

static struct tally tally_of(struct op *o)
{
    struct tally t;
    op_wait(o);
    if (o->r.status.code != THOLE_OK) {
        fail_msg("query: %s", o->r.status.message);
    }
    assert_int_equal(o->r.result.bytes.size, sizeof t);
    memcpy(&t, o->r.result.bytes.data, sizeof t);
    op_free(o);
    return t;
}

struct tally query_ok(struct cluster *c, int h)
{
    return tally_of(op_query(c, h));
}

struct tally stale_state(struct cluster *c, int h)
{
    return tally_of(op_query_stale(c, h, 0));
}

struct raft_change change_one(int op, int h)
{
    struct raft_change c = {.item_count = 1};
    c.items[0].op = (uint8_t)op;
    c.items[0].replica_id = (uint64_t)h + 1;
    c.items[0].host[0] = 0xaa;
    c.items[0].host[15] = (uint8_t)(h + 1);
    return c;
}

enum thole_code change_wait(struct cluster *c, int h, const struct raft_change *change)
{
    struct done d = {0};
    engine_change(c->hosts[h].engine, SHARD, change, on_done, &d);
    RUN_UNTIL(c, 20000, d.done);
    return d.st.code;
}
