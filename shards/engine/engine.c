/* The engine as a whole: workers, the table of replicas, and the calls that go straight to a
 * loop. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "shards/engine/frame_codec.h"

#define CORES_PER_LOOP 4
#define BAD_FRAME_LOG_NS (10 * NS_PER_S)

/* ---- Helpers of all files -------------------------------------------------------------------- */

struct loop *engine__loop(struct engine *e, uint64_t shard_id)
{
    return e->loops[shard_id % e->o.loop_count];
}

struct replica *engine__find_replica(struct engine *e, uint64_t replica_id)
{
    pthread_mutex_lock(&e->lock);
    struct replica *r = map_get(&e->by_replica, replica_id);
    if (r != NULL) {
        (void)replica_ref(r);
    }
    pthread_mutex_unlock(&e->lock);
    return r;
}

struct replica *engine__find_shard(struct engine *e, uint64_t shard_id)
{
    pthread_mutex_lock(&e->lock);
    struct replica *r = map_get(&e->by_shard, shard_id);
    if (r != NULL) {
        (void)replica_ref(r);
    }
    pthread_mutex_unlock(&e->lock);
    return r;
}

bool engine__is_tombstone(struct engine *e, uint64_t replica_id)
{
    pthread_mutex_lock(&e->lock);
    bool found = map_get(&e->tombstones, replica_id) != NULL;
    pthread_mutex_unlock(&e->lock);
    return found;
}

static void add_tombstone(struct engine *e, uint64_t replica_id)
{
    pthread_mutex_lock(&e->lock);
    (void)map_put(&e->tombstones, replica_id, e); /* any pointer: it is a set */
    pthread_mutex_unlock(&e->lock);
}

void engine__drop(struct engine *e, struct replica *r)
{
    ASSERT(worker_is_current(r->loop->w));
    pthread_mutex_lock(&e->lock);
    (void)map_put(&e->tombstones, r->replica_id, e);
    bool held = map_remove(&e->by_replica, r->replica_id) != NULL;
    if (map_get(&e->by_shard, r->shard_id) == r) {
        (void)map_remove(&e->by_shard, r->shard_id);
    }
    pthread_mutex_unlock(&e->lock);
    if (held) {
        replica_unref(r);
    }
}

void engine__send(struct engine *e, const struct uuid *host, enum engine_lane lane,
                  struct bufslice frame)
{
    ASSERT(lane >= ENGINE_LANE_CONTROL && lane <= ENGINE_LANE_SNAPSHOT);
    ASSERT(frame.bytes.size > 0 && frame.bytes.size <= LIMIT_FRAME_BYTES);
    /* After a failed write nothing is sent: a message might promise state that is not durable. */
    if (atomic_load(&e->failed) || atomic_load(&e->crashed)) {
        bufslice_unref(frame);
        return;
    }
    (void)e->o.transport.send(e->o.transport.ctx, host, lane, frame);
}

void engine__send_reply(struct engine *e, const struct uuid *host, const struct stream_msg *m)
{
    engine__send(e, host, ENGINE_LANE_CONTROL, codec_reply_frame(m));
}

void engine__bad_frame(struct engine *e, const struct uuid *host, const struct thole_status *st)
{
    uint64_t now = clock_now(e->clock), last = atomic_load(&e->bad_logged_ns);
    metric_add(&engine_bad_frames, 1);
    if (now - last < BAD_FRAME_LOG_NS && last != 0) {
        return;
    }
    if (!atomic_compare_exchange_strong(&e->bad_logged_ns, &last, now)) {
        return;
    }
    char text[UUID_TEXT_BYTES];
    uuid_format(host, text);
    LOG_WARN(ENGINE, "malformed frame dropped, more are only counted for 10 s error=\"%s\" peer=%s",
             st->message, text);
}

void engine__host_failed(struct engine *e, const struct thole_status *st)
{
    ASSERT(st->code != THOLE_OK);
    if (atomic_exchange(&e->failed, true)) {
        return;
    }
    LOG_ERROR(ENGINE, "log write failed, this host stops error=\"%s\"", st->message);
    if (e->o.observer.host_failed != NULL && !atomic_load(&e->crashed)) {
        e->o.observer.host_failed(e->o.observer.ctx, st);
    }
}

void engine_submit(struct engine *e, struct engine_request *r)
{
    struct loop *l = engine__loop(e, r->shard_id);
    ASSERT(r->done != NULL && r->kind <= ENGINE_READ_POINT);
    r->status.code = THOLE_OK; /* the message counts only with another code */
    r->status.reason = THOLE_REASON_NONE;
    r->status.message[0] = 0;
    r->index = r->term = r->code = r->leader_term = 0;
    r->duplicate = false;
    r->result = (struct bufslice){0};
    r->reader = NULL;
    r->leader_host = (struct uuid){0};
    r->msg.kind = MSG_REQUEST;
    if (worker_post(l->w, &r->msg)) {
        return;
    }
    r->msg.kind = MSG_REFUSE;
    engine__loop_post(l, &r->msg);
}

void engine_peer_state(struct engine *e, const struct uuid *host, bool up)
{
    for (uint32_t i = 0; i < e->o.loop_count; i++) {
        struct peer_change *p = xcalloc(1, sizeof *p);
        p->msg.kind = MSG_PEER;
        p->host = *host;
        p->up = up;
        engine__loop_post(e->loops[i], &p->msg);
    }
}

/* ---- Start ----------------------------------------------------------------------------------- */

static void resolve(struct engine *e, const struct engine_options *o)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t count = cores > CORES_PER_LOOP ? (uint32_t)(cores / CORES_PER_LOOP) : 1;
    e->o = *o;
    e->o.loop_count = o->loop_count ? o->loop_count : count;
    e->o.loop_count = e->o.loop_count < ENGINE_LOOPS_MAX ? e->o.loop_count : ENGINE_LOOPS_MAX;
    e->o.applier_count = o->applier_count ? o->applier_count : count;
    e->o.election_timeout_ms =
        o->election_timeout_ms ? o->election_timeout_ms : ENGINE_ELECTION_TIMEOUT_MS;
    e->o.heartbeat_ms = o->heartbeat_ms ? o->heartbeat_ms : ENGINE_HEARTBEAT_MS;
    e->o.sleep_after_ms = o->sleep_after_ms ? o->sleep_after_ms : 1000;
    e->o.request_id_ms = o->request_id_ms ? o->request_id_ms : LIMIT_REQUEST_ID_MS;
    e->o.compact_log_bytes = o->compact_log_bytes ? o->compact_log_bytes : 64 * MIB;
    e->o.keep_log_bytes = o->keep_log_bytes ? o->keep_log_bytes : 8 * MIB;
    e->o.cache_bytes = o->cache_bytes ? o->cache_bytes : 1 * MIB;
    e->o.free_bytes_min = o->free_bytes_min ? o->free_bytes_min : ENGINE_FREE_BYTES_MIN;
    if (o->seed == 0) {
        struct uuid u = uuid_random();
        e->o.seed = get_be64(u.bytes);
    }
    size_t types = 0;
    while (o->types != NULL && o->types[types] != NULL) {
        types++;
    }
    e->type_proposals = xcalloc(types + 1, sizeof *e->type_proposals);
    e->o.directory = e->directory;
    e->clock = executor_clock(o->executor);
}

/* Every replica's core checks this too; here it fails once, at start. */
static enum thole_code check_times(const struct engine_options *o, struct thole_status *st)
{
    uint32_t heartbeat_ms = o->heartbeat_ms ? o->heartbeat_ms : ENGINE_HEARTBEAT_MS;
    uint32_t election_ms =
        o->election_timeout_ms ? o->election_timeout_ms : ENGINE_ELECTION_TIMEOUT_MS;
    if (heartbeat_ms <= election_ms / 3) {
        return THOLE_OK;
    }
    return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                      "heartbeats every %u ms are too slow for an election timeout of %u ms: at "
                      "most a third",
                      (unsigned)heartbeat_ms, (unsigned)election_ms);
}

static enum thole_code open_files(struct engine *e, const struct engine_options *o,
                                  struct thole_status *st)
{
    if (o->directory != NULL) {
        e->directory = xstrdup(o->directory);
        enum thole_code code = file_make_dirs(o->directory, st);
        if (code != THOLE_OK) {
            return code;
        }
    }
    e->files = o->files;
    if (e->files != NULL) {
        return THOLE_OK;
    }
    if (o->directory == NULL) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "the engine needs a directory, or files");
    }
    char *path = xasprintf("%s/snapshots", o->directory);
    enum thole_code code = engine_files_disk_new(path, &e->files, st);
    e->owns_files = code == THOLE_OK;
    free(path);
    return code;
}

static void start_workers(struct engine *e)
{
    e->loops = xcalloc(e->o.loop_count, sizeof(struct loop *));
    e->appliers = xcalloc(e->o.applier_count, sizeof(struct applier *));
    e->snapshotter =
        worker_new(e->o.executor, "snapshotter", SIZE_MAX, engine__snapshotter_turn, e);
    e->writer = worker_new(e->o.executor, "writer", SIZE_MAX, engine__writer_turn, e);
    e->streamer = engine__streamer_new(e);
    for (uint32_t i = 0; i < e->o.applier_count; i++) {
        e->appliers[i] = engine__applier_new(e, i);
    }
    for (uint32_t i = 0; i < e->o.loop_count; i++) {
        e->loops[i] = engine__loop_new(e, i);
    }
}

/* A replica found in the log. The snapshotter opens its machine. */
static void recover(struct engine *e, const struct store_replica *s)
{
    if (s->removed) {
        add_tombstone(e, s->replica_id);
        return;
    }
    struct replica *r = replica_new(e, s->replica_id, s->shard_id, s->descriptor);
    struct thole_status st = {0};
    if (s->hard.term == UINT64_MAX &&
        THOLE_FAIL(&st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                   "the replica's log records are damaged") != THOLE_OK) {
        replica_set_failure(r, &st);
    }
    struct replica_boot *b = r->boot;
    b->runs = xmalloc((s->run_count + 1) * sizeof b->runs[0]);
    for (size_t i = 0; i < s->run_count; i++) {
        b->runs[i] = s->runs[i];
    }
    b->raft = (struct raft_boot){
        .hard = s->hard,
        .start_index = s->start_index,
        .start_term = s->start_term,
        .last_stamp = s->start_stamp,
        .last_index = s->last_index,
        .runs = b->runs,
        .run_count = s->run_count,
    };
    b->bytes = s->bytes;
    r->generation = s->machine_generation;
    bytes_append_slice(&b->config, s->start_config);
    r->state = GROUP_OPENING;
    r->shown.log_bytes = s->bytes;
    (void)map_put(&e->by_replica, r->replica_id, r);
    (void)map_put(&e->by_shard, r->shard_id, r);
    (void)map_put(&r->loop->by_replica, r->replica_id, replica_ref(r));
    (void)map_put(&r->loop->by_shard, r->shard_id, r);
}

static void open_replicas(struct engine *e)
{
    size_t it = 0;
    struct replica *r;
    while ((r = map_next(&e->by_replica, &it, NULL)) != NULL) {
        struct task *t = engine__task_new(TASK_OPEN, r);
        bool posted = worker_post_internal(e->snapshotter, &t->msg);
        ASSERT(posted);
    }
}

uint32_t engine_election_timeout_ms(const struct engine *e)
{
    return e->o.election_timeout_ms;
}

enum thole_code engine_new(const struct engine_options *o, struct engine **ret,
                           struct thole_status *st)
{
    struct engine *e = xcalloc(1, sizeof *e);
    enum thole_code code = check_times(o, st);
    if (code == THOLE_OK) {
        code = open_files(e, o, st);
    }
    if (code != THOLE_OK) {
        free(e->directory);
        free(e);
        return code;
    }
    resolve(e, o);
    /* Transfer ids are unique across restarts. */
    atomic_init(&e->transfer_id, o->incarnation << 32);
    pthread_mutex_init(&e->lock, NULL);
    pthread_mutex_init(&e->kinds_lock, NULL);
    pthread_mutex_init(&e->readers_lock, NULL);
    start_workers(e);
    const struct store_replica *s;
    for (size_t i = 0; (s = e->o.log->ops->next(e->o.log, &i)) != NULL;) {
        recover(e, s);
    }
    engine__snapshots_find(e);
    code = engine__spaces_clean(e, st);
    if (code != THOLE_OK) {
        engine_stop(e);
        engine_free(e);
        return code;
    }
    open_replicas(e);
    *ret = e;
    return THOLE_OK;
}

/* ---- Stop ------------------------------------------------------------------------------------ */

void engine_fence(struct engine *e, const struct thole_status *st)
{
    ASSERT(st->code != THOLE_OK);
    pthread_mutex_lock(&e->lock);
    bool first = !atomic_load(&e->fenced);
    if (first) {
        e->fence = *st;
        atomic_store(&e->failed, true);
        atomic_store(&e->fenced, true);
    }
    pthread_mutex_unlock(&e->lock);
    for (uint32_t i = 0; first && i < e->o.loop_count; i++) {
        /* A loop that has stopped already does nothing any more. */
        bool posted = worker_post_internal(e->loops[i]->w, &e->loops[i]->fence_msg);
        (void)posted;
    }
}

void engine_stop(struct engine *e)
{
    if (e->stopped) {
        return;
    }
    e->stopped = true;
    atomic_store(&e->stopping, true);
    /* A message to a stopped worker goes to engine__loop_discard. So any order is correct; loops
     * are first, because they hold the outstanding requests. */
    for (uint32_t i = 0; i < e->o.loop_count; i++) {
        bool posted = worker_post_internal(e->loops[i]->w, &e->loops[i]->stop_msg);
        ASSERT(posted); /* only engine_stop stops loops, and it does so once */
    }
    for (uint32_t i = 0; i < e->o.loop_count; i++) {
        worker_stop(e->loops[i]->w);
    }
    worker_stop(e->writer);
    for (uint32_t i = 0; i < e->o.applier_count; i++) {
        worker_stop(e->appliers[i]->w);
    }
    engine__streamer_stop(e->streamer);
    worker_stop(e->snapshotter);
}

void engine__crash(struct engine *e)
{
    atomic_store(&e->crashed, true);
}

static void drop_watches(struct engine *e)
{
    size_t it = 0;
    struct replica *r;
    while ((r = map_next(&e->by_replica, &it, NULL)) != NULL) {
        engine__watch_end(r, THOLE_REASON_STOPPED, "the host is stopping");
    }
    map_deinit(&e->watches);
}

void engine_free(struct engine *e)
{
    if (e == NULL) {
        return;
    }
    ASSERT(e->stopped);
    drop_watches(e);
    for (uint32_t i = 0; i < e->o.loop_count; i++) {
        engine__loop_free(e->loops[i]);
    }
    worker_free(e->writer);
    worker_free(e->snapshotter);
    engine__streamer_free(e->streamer);
    size_t it = 0;
    struct replica *r;
    while ((r = map_next(&e->by_replica, &it, NULL)) != NULL) {
        replica_unref(r);
    }
    for (uint32_t i = 0; i < e->o.applier_count; i++) {
        engine__applier_free(e->appliers[i]);
    }
    map_deinit(&e->by_replica);
    map_deinit(&e->by_shard);
    map_deinit(&e->tombstones);
    map_deinit(&e->forgotten);
    engine__heartbeats_free(e);
    map_deinit(&e->kinds);
    ASSERT(e->readers == NULL);
    pthread_mutex_destroy(&e->readers_lock);
    pthread_mutex_destroy(&e->kinds_lock);
    pthread_mutex_destroy(&e->lock);
    if (e->owns_files) {
        e->files->ops->free(e->files);
    }
    free(e->loops);
    free(e->appliers);
    free(e->found);
    free(e->type_proposals);
    free(e->directory);
    free(e);
}
