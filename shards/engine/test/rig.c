#include "shards/engine/test/rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

static void die(const char *what, const struct thole_status *st)
{
    (void)fprintf(stderr, "rig: %s: %s\n", what, st != NULL ? st->message : "");
    abort();
}

/* ---- The transport --------------------------------------------------------------------------- */

struct packet {
    struct worker_msg msg;
    struct uuid from;
    uint64_t incarnation;
    enum engine_lane lane;
    struct bufslice frame;
};

static uint64_t net_turn(void *ctx, struct msgq *batch, uint64_t now_ns)
{
    (void)now_ns;
    struct rig_host *h = ctx;
    struct worker_msg *m;
    while ((m = msgq_pop(batch)) != NULL) {
        struct packet *p = CONTAINER_OF(m, struct packet, msg);
        if (atomic_load(&h->up)) {
            engine_deliver(h->engine, &p->from, p->incarnation, p->lane, p->frame);
        } else {
            bufslice_unref(p->frame);
        }
        free(p);
    }
    return CLOCK_NEVER;
}

static enum thole_code net_send(void *ctx, const struct uuid *to, enum engine_lane lane,
                                struct bufslice frame)
{
    struct rig_host *h = ctx;
    int index = to->bytes[15] - 1;
    struct rig_host *target = index < h->rig->o.hosts ? &h->rig->hosts[index] : NULL;
    struct packet *p = xcalloc(1, sizeof *p);
    *p = (struct packet){
        .from = h->uuid, .incarnation = h->incarnation, .lane = lane, .frame = frame};
    if (target != NULL && atomic_load(&target->up) && worker_post(target->net, &p->msg)) {
        return THOLE_OK;
    }
    bufslice_unref(frame);
    free(p);
    return THOLE_UNAVAILABLE;
}

/* ---- Hosts ----------------------------------------------------------------------------------- */

static void open_stores(struct rig_host *h)
{
    struct thole_status st;
    char *path = xasprintf("%s/log", h->directory);
    char *state = xasprintf("%s/state", h->directory);
    if (h->rig->o.memory_log) {
        if (h->log == NULL) {
            h->log = log_store_memory_new();
        }
    } else if (log_store_open(&(struct log_store_options){.path = path}, &h->log, &st) !=
               THOLE_OK) {
        die("log", &st);
    }
    if (state_db_open(&(struct state_db_options){.path = state}, &h->state, &st) != THOLE_OK) {
        die("state", &st);
    }
    free(path);
    free(state);
}

void rig_start_host(struct rig *r, int i)
{
    struct rig_host *h = &r->hosts[i];
    struct thole_status st;
    open_stores(h);
    h->incarnation++;
    struct engine_options o = {
        .host_id = h->uuid,
        .incarnation = h->incarnation,
        .log = h->log,
        .state = h->state,
        .directory = h->directory,
        .executor = r->ex,
        .transport = {h, net_send},
        .loop_count = r->o.loops,
        .applier_count = r->o.appliers,
        .compact_log_bytes = r->o.compact_log_bytes,
        .keep_log_bytes = r->o.keep_log_bytes,
        .types = r->o.types,
    };
    if (engine_new(&o, &h->engine, &st) != THOLE_OK) {
        die("engine", &st);
    }
    atomic_store(&h->up, true);
}

void rig_stop_host(struct rig *r, int i)
{
    struct rig_host *h = &r->hosts[i];
    if (!atomic_load(&h->up)) {
        return;
    }
    atomic_store(&h->up, false);
    engine_stop(h->engine);
    /* A delivery that saw `up` may still be inside the engine: wait until the thread's turn is
     * over. */
    worker_stop(h->net);
    worker_free(h->net);
    h->net = worker_new(r->ex, "net", 4096, net_turn, h);
    engine_free(h->engine);
    h->engine = NULL;
    state_db_close(h->state);
    if (!r->o.memory_log) {
        h->log->ops->close(h->log);
        h->log = NULL;
    }
}

struct started {
    _Atomic int left;
};

static void on_started(void *ctx, const struct thole_status *st)
{
    struct started *s = ctx;
    if (st->code != THOLE_OK) {
        die("replica", st);
    }
    atomic_fetch_sub(&s->left, 1);
}

static void start_replicas(struct rig *r, struct started *s)
{
    struct raft_member members[RIG_HOSTS_MAX] = {0};
    for (uint64_t shard = 1; shard <= r->o.shards; shard++) {
        for (int i = 0; i < r->o.hosts; i++) {
            members[i].replica_id = shard * 16 + (uint64_t)i + 1;
            members[i].role = RAFT_VOTER;
            memcpy(members[i].host, r->hosts[i].uuid.bytes, 16);
        }
        for (int i = 0; i < r->o.hosts; i++) {
            struct engine_replica_spec spec = {
                .replica_id = members[i].replica_id,
                .shard_id = shard,
                .machine_type = r->o.machine,
                .initial = members,
                .initial_count = (size_t)r->o.hosts,
            };
            engine_replica_start(r->hosts[i].engine, &spec, on_started, s);
        }
    }
}

struct rig *rig_new(const struct rig_options *o)
{
    struct rig *r = xcalloc(1, sizeof *r);
    r->o = *o;
    r->ex = executor_threaded_new(&clock_system);
    for (int i = 0; i < o->hosts; i++) {
        struct rig_host *h = &r->hosts[i];
        h->rig = r;
        h->id = i;
        h->uuid.bytes[0] = 0xbb;
        h->uuid.bytes[15] = (uint8_t)(i + 1);
        h->directory = xasprintf("%s/host-%d", o->directory, i + 1);
        struct thole_status st;
        if (file_make_dirs(h->directory, &st) != THOLE_OK) {
            die("directory", &st);
        }
        h->net = worker_new(r->ex, "net", 4096, net_turn, h);
    }
    for (int i = 0; i < o->hosts; i++) {
        rig_start_host(r, i);
    }
    struct started s;
    atomic_init(&s.left, (int)o->shards * o->hosts);
    start_replicas(r, &s);
    while (atomic_load(&s.left) > 0) {
        usleep(1000);
    }
    return r;
}

void rig_free(struct rig *r)
{
    for (int i = 0; i < r->o.hosts; i++) {
        rig_stop_host(r, i);
    }
    for (int i = 0; i < r->o.hosts; i++) {
        struct rig_host *h = &r->hosts[i];
        worker_stop(h->net);
        worker_free(h->net);
        if (r->o.memory_log) {
            h->log->ops->close(h->log);
        }
        free(h->directory);
    }
    executor_free(r->ex);
    free(r);
}

int rig_leader(struct rig *r, uint64_t shard)
{
    for (int i = 0; i < r->o.hosts; i++) {
        struct engine_replica_status s;
        if (atomic_load(&r->hosts[i].up) && engine_shard_status(r->hosts[i].engine, shard, &s) &&
            s.leader_ready) {
            return i;
        }
    }
    return -1;
}

void rig_wait_leaders(struct rig *r)
{
    for (uint64_t shard = 1; shard <= r->o.shards; shard++) {
        for (int tries = 0; rig_leader(r, shard) < 0; tries++) {
            if (tries > 30000) {
                die("no leader", NULL);
            }
            usleep(1000);
        }
    }
}

char *rig_directory(void)
{
    const char *base = getenv("TMPDIR");
    char *path = xasprintf("%s/thole-engine-XXXXXX", base != NULL ? base : "/tmp");
    if (mkdtemp(path) == NULL) {
        die("mkdtemp", NULL);
    }
    return path;
}
