/* The key-value machine: a persistent machine over the host's state database. */
#include <inttypes.h>
#include <stdlib.h>

#include "base/assert.h"
#include "shards/machine/builtin.h"
#include "shards/machine/kv/kv_internal.h"

/* Changes that the walk of a compaction looks at with each command and with each TICK, and how long
 * after an entry the next TICK should come while the walk is under way. */
#define WALK_PER_ENTRY 32
#define WALK_PER_TICK 1000
#define WALK_PAUSE_MS 10

/* ---- Open and close -------------------------------------------------------------------------- */

static void kv_close(void *machine)
{
    struct kv *kv = machine;

    kv__counts_free(kv->counts);
    free(kv);
}

/* Report the metadata records that the engine stored with the data. */
static enum thole_code report_meta(struct kv *kv, const struct thole_machine_env *env,
                                   struct thole_status *st)
{
    static const uint8_t from = KV_PREFIX_META, to = KV_PREFIX_META + 1;
    struct slice key, value;
    struct state_iter *it =
        state_iter_new(kv->db, NULL, kv->space, slice_of(&from, 1), slice_of(&to, 1));

    while (state_iter_next(it, &key, &value)) {
        if (env->meta != NULL) {
            env->meta(env->meta_ctx, (struct thole_slice){key.data + 1, key.size - 1},
                      (struct thole_slice){value.data, value.size});
        }
    }
    enum thole_code code = state_iter_status(it, st);
    state_iter_free(it);
    return code;
}

static enum thole_code fail_old(struct thole_status *st)
{
    return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_FORMAT,
                      "the data was written by another version of the kv machine");
}

/* Data of the first layout would be taken for an empty store. */
static enum thole_code refuse_old(struct kv *kv, struct thole_status *st)
{
    static const uint8_t from = KV_PREFIX_OLD, to = KV_PREFIX_OLD + 1;
    struct slice key, value;
    struct state_iter *it =
        state_iter_new(kv->db, NULL, kv->space, slice_of(&from, 1), slice_of(&to, 1));
    bool old = state_iter_next(it, &key, &value);

    state_iter_free(it);
    return old ? fail_old(st) : THOLE_OK;
}

enum thole_code kv__load_state(struct kv *kv, struct thole_status *st)
{
    struct kv_reader r = {.kv = kv, .state = &kv->state};
    struct bytes key = {0};
    struct buf *stored = NULL;

    kv->state = (struct kv_state){.revision = 1, .compacted = -1, .auth.revision = 1};
    kv->due_floor_ms = 0;
    kv->due_floor_id = 0;
    kv__key(&key, KV_PREFIX_STATE, (struct slice){0});
    enum thole_code code = kv__get(&r, bytes_slice(&key), &stored, st);
    bytes_deinit(&key);
    if (code == THOLE_NOT_FOUND) {
        code = refuse_old(kv, st);
    } else if (code == THOLE_OK) {
        struct slice record = slice_of(stored->data, stored->size);
        code = !kv__state_is_current(record)           ? fail_old(st)
               : !kv__state_decode(record, &kv->state) ? kv__damaged(st, "state")
                                                       : THOLE_OK;
        buf_unref(stored);
    }
    kv__counts_reset(kv);
    return code == THOLE_OK ? kv__lease_next_due(&r, &kv->next_due_ms, st) : code;
}

/* When the next TICK has something to do. */
struct thole_due kv__due(const struct kv *kv)
{
    struct thole_due due = {THOLE_NEVER, kv->next_due_ms};

    if (kv__walk_pending(&kv->state) && due.alive_ms > kv->state.alive_ms + WALK_PAUSE_MS) {
        due.alive_ms = kv->state.alive_ms + WALK_PAUSE_MS;
    }
    return due;
}

static enum thole_code kv_open(const struct thole_machine_env *env, void **ret,
                               struct thole_status *st)
{
    if (env->state_db == NULL) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_NOT_READY,
                          "this host has no state database");
    }
    struct kv *kv = xcalloc(1, sizeof *kv);
    kv->db = env->state_db;
    kv->space = (struct state_space){env->replica_id, env->generation};
    kv->shard_id = env->shard_id;
    kv->quota_bytes = kv__parse_quota(env->config);
    kv->counts = kv__counts_new();
    enum thole_code code = report_meta(kv, env, st);
    if (code == THOLE_OK) {
        code = kv__load_state(kv, st);
    }
    if (code != THOLE_OK) {
        kv_close(kv);
        return code;
    }
    if (env->due != NULL) {
        *env->due = kv__due(kv);
    }
    *ret = kv;
    return THOLE_OK;
}

static enum thole_code kv_destroy(const struct thole_machine_env *env, struct thole_status *st)
{
    if (env->state_db == NULL) {
        return THOLE_OK;
    }
    return state_space_drop(env->state_db, (struct state_space){env->replica_id, env->generation},
                            st);
}

/* ---- Apply ----------------------------------------------------------------------------------- */

static void exec_init(struct kv_exec *x, struct kv *kv, bool watched)
{
    *x = (struct kv_exec){.kv = kv, .watched = watched, .begin = kv->state.revision};
    x->reader = (struct kv_reader){
        .kv = kv,
        .batch = state_batch_new_readable(kv->db),
        .state = &kv->state,
        .revision = kv->state.revision,
    };
    x->upb = upb_Arena_New();
    x->arena = arena_new();
    kv__count_begin(x);
}

static void exec_deinit(struct kv_exec *x)
{
    state_batch_free(x->reader.batch);
    upb_Arena_Free(x->upb);
    arena_free(x->arena);
    bytes_deinit(&x->key);
    bytes_deinit(&x->key2);
    bytes_deinit(&x->value);
    bytes_deinit(&x->item);
    bytes_deinit(&x->out);
    bytes_deinit(&x->event_bytes);
    bytes_deinit(&x->delta_bytes);
    free(x->deltas);
    free(x->events);
}

/* What is due at the time of the TICK: leases, and the walk of a compaction. */
static enum thole_code apply_tick(struct kv_exec *x, struct thole_status *st)
{
    enum thole_code code = kv__expire(x, st);

    if (code == THOLE_OK && kv__walk_pending(&x->kv->state)) {
        arena_reset(x->arena);
        code = kv__walk(x, WALK_PER_TICK, st);
    }
    return code;
}

static enum thole_code apply_command(struct kv_exec *x, struct thole_entry *e,
                                     struct thole_status *st)
{
    enum thole_code code = kv__execute(x, e->command, st);
    if (code == THOLE_OK && kv__walk_pending(&x->kv->state)) {
        code = kv__walk(x, WALK_PER_ENTRY, st);
    }
    if (code != THOLE_OK) {
        return code;
    }
    struct slice result = bytes_slice(&x->out);
    if (x->refusal != NULL) {
        e->code = (uint64_t)x->refusal->code;
        /* Text has its words already. */
        bool text = e->command.size == 0 || *(const uint8_t *)e->command.data != KV_PROTO_BYTE;
        result = text ? result : slice_str(x->refusal->text);
    }
    code = e->result->write(e->result, result.data, result.size);
    return code == THOLE_OK
               ? THOLE_OK
               : THOLE_FAIL(st, code, THOLE_REASON_NONE, "the result could not be written");
}

/* No entry takes anything back: times, revisions, what was compacted, how far the walk went. */
static void check_step(const struct kv_state *before, const struct kv_state *after)
{
    ASSERT(after->revision >= before->revision && after->compacted >= before->compacted);
    ASSERT(after->alive_ms >= before->alive_ms && after->now_ms >= before->now_ms);
    ASSERT(after->walk.revision > before->walk.revision ||
           (after->walk.revision == before->walk.revision && after->walk.sub >= before->walk.sub));
}

static enum thole_code run_entry(struct kv_exec *x, struct thole_entry *e, struct thole_status *st)
{
    struct kv_state *state = &x->kv->state;

    x->index = e->index;
    state->alive_ms = e->alive_ms > state->alive_ms ? e->alive_ms : state->alive_ms;
    state->now_ms = e->now_ms > state->now_ms ? e->now_ms : state->now_ms;
    switch (e->kind) {
    case THOLE_ENTRY_COMMAND:
        return apply_command(x, e, st);
    case THOLE_ENTRY_TICK:
        return apply_tick(x, st);
    default:
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_FORMAT,
                          "entry %" PRIu64 " is of the unknown kind %u", e->index, e->kind);
    }
}

static enum thole_code apply_entry(struct kv_exec *x, struct thole_entry *e,
                                   struct thole_status *st)
{
    const struct kv_state before = x->kv->state;
    enum thole_code code = run_entry(x, e, st);
    if (code == THOLE_OK) {
        check_step(&before, &x->kv->state);
    }
    return code;
}

void kv__put_meta(struct kv *kv, struct state_batch *batch, const struct thole_meta *meta,
                  size_t meta_count)
{
    struct bytes key = {0};

    for (size_t i = 0; i < meta_count; i++) {
        kv__key(&key, KV_PREFIX_META, slice_of(meta[i].key.data, meta[i].key.size));
        if (meta[i].value.data == NULL) {
            state_batch_delete(batch, kv->space, bytes_slice(&key));
        } else {
            state_batch_put(batch, kv->space, bytes_slice(&key),
                            slice_of(meta[i].value.data, meta[i].value.size));
        }
    }
    bytes_deinit(&key);
}

static void put_state(struct kv_exec *x)
{
    kv__key(&x->key, KV_PREFIX_STATE, (struct slice){0});
    kv__state_encode(&x->kv->state, &x->value);
    kv__batch_put(x, bytes_slice(&x->key), bytes_slice(&x->value));
}

/* Called after the changes are in the database. */
static void send_events(const struct kv_exec *x, struct thole_watch_sink *watch)
{
    for (size_t i = 0; i < x->event_count; i++) {
        const struct kv_event *e = &x->events[i];
        const uint8_t *data = x->event_bytes.data;

        watch->event(watch, e->index, (struct thole_slice){data + e->key_at, e->key_size},
                     (struct thole_slice){data + e->event_at, e->event_size});
    }
}

static enum thole_code kv_apply(void *machine, struct thole_apply *batch, struct thole_status *st)
{
    struct kv *kv = machine;
    struct kv_exec x;
    enum thole_code code = THOLE_OK;

    exec_init(&x, kv, batch->watch != NULL);
    for (size_t i = 0; i < batch->entry_count && code == THOLE_OK; i++) {
        code = apply_entry(&x, thole_apply_entry(batch, i), st);
    }
    if (code == THOLE_OK) {
        if (batch->entry_count > 0) {
            put_state(&x);
        }
        /* All results are final: the metadata has the answers. */
        size_t meta_count = 0;
        const struct thole_meta *meta =
            batch->metadata != NULL ? batch->metadata(batch, &meta_count) : NULL;
        kv__put_meta(kv, x.reader.batch, meta, meta_count);
        code = state_batch_write(x.reader.batch, st);
    }
    if (code == THOLE_OK) {
        kv__count_commit(&x);
        batch->due = kv__due(kv);
    }
    if (code == THOLE_OK && batch->watch != NULL) {
        send_events(&x, batch->watch);
    }
    exec_deinit(&x);
    return code;
}

/* ---- Views ----------------------------------------------------------------------------------- */

static enum thole_code kv_view_acquire(void *machine, void **ret, struct thole_status *st)
{
    struct kv *kv = machine;
    struct kv_view *v = xmalloc(sizeof *v);

    (void)st;
    *v = (struct kv_view){.db = state_view_acquire(kv->db), .state = kv->state};
    *ret = v;
    return THOLE_OK;
}

static void kv_view_release(void *machine, void *view)
{
    struct kv_view *v = view;

    state_view_release(((struct kv *)machine)->db, v->db);
    free(v);
}

const struct thole_machine_type machine_kv = {
    .size = sizeof(struct thole_machine_type),
    .version = 1,
    .name = "kv",
    .flags = THOLE_MACHINE_PERSISTENT,
    .open = kv_open,
    .close = kv_close,
    .apply = kv_apply,
    .query = kv__query,
    .view_acquire = kv_view_acquire,
    .view_release = kv_view_release,
    .save = kv__save,
    .restore = kv__restore,
    .flush = NULL, /* the engine flushes the state database of the host */
    .destroy = kv_destroy,
    .read_open = kv__read_open,
    .read_next = kv__read_next,
    .read_close = kv__read_close,
};
