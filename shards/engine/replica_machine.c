/* One generation of a replica's state machine: opening, closing, queries. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "shards/engine/meta.h"

const struct thole_machine_type *engine__machine_type_find(const struct engine *e, const char *name)
{
    for (const struct thole_machine_type *const *t = e->o.types; t != NULL && *t != NULL; t++) {
        if (strcmp((*t)->name, name) == 0) {
            return *t;
        }
    }
    return NULL;
}

/* NULL if the type keeps no files. A type without a flush of its own uses only the state database.
 * It gets no directory, because creating one costs a sync for each part of its path: with a
 * thousand shards, seconds at start. */
static char *directory_of(const struct replica *r, uint64_t generation,
                          const struct thole_machine_type *type)
{
    if (r->e->directory == NULL || !(type->flags & THOLE_MACHINE_PERSISTENT) ||
        type->flush == NULL) {
        return NULL;
    }
    return xasprintf("%s/machines/%" PRIu64 "/%" PRIu64, r->e->directory, r->replica_id,
                     generation);
}

enum thole_code engine__machine_result(enum thole_code code, struct thole_status *st)
{
    if (code == THOLE_OK) {
        *st = (struct thole_status){0};
    } else if (st->code != code) {
        THOLE_FAIL(st, code, THOLE_REASON_MACHINE_FAILED, "the machine failed: %s",
                   thole_code_name(code));
    }
    return code;
}

struct meta_reader {
    struct machine *m;
    bool bad;
};

static void take_meta(void *ctx, struct thole_slice key, struct thole_slice value)
{
    struct meta_reader *reader = ctx;
    if (!meta_read(reader->m, slice_of(key.data, key.size), slice_of(value.data, value.size))) {
        reader->bad = true;
    }
}

static struct thole_machine_env env_of(const struct replica *r, uint64_t generation,
                                       const struct thole_machine_type *type, const char *directory)
{
    return (struct thole_machine_env){
        .size = sizeof(struct thole_machine_env),
        .version = r->kind->type_version,
        .shard_id = r->shard_id,
        .replica_id = r->replica_id,
        .generation = generation,
        .config = {r->kind->type_config.data, r->kind->type_config.size},
        .directory = directory,
        .state_db = r->e->o.state,
        .type_ctx = type->type_ctx,
    };
}

static enum thole_code open_state(struct replica *r, struct machine *m, struct thole_status *st)
{
    struct meta_reader reader = {m, false};
    struct thole_machine_env env = env_of(r, m->generation, m->type, m->directory);
    env.meta = take_meta;
    env.meta_ctx = &reader;
    env.due = &m->due;
    if (m->directory != NULL) {
        enum thole_code code = file_make_dirs(m->directory, st);
        if (code != THOLE_OK) {
            return code;
        }
    }
    enum thole_code code = engine__machine_result(m->type->open(&env, &m->state, st), st);
    if (code == THOLE_OK && reader.bad) {
        return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                          "the machine holds unreadable engine metadata");
    }
    session_table_sort(&m->sessions);
    return code;
}

enum thole_code engine__machine_open(struct replica *r, uint64_t generation, struct machine **ret,
                                     struct thole_status *st)
{
    const struct thole_machine_type *type = engine__machine_type_find(r->e, r->kind->type_name);
    if (type == NULL || type->version < r->kind->type_version) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_NO_SUCH_TYPE,
                          "this host cannot run machine type %s version %u", r->kind->type_name,
                          r->kind->type_version);
    }
    struct machine *m = xcalloc(1, sizeof *m);
    atomic_init(&m->refs, 1);
    m->type = type;
    m->generation = generation;
    m->due = (struct thole_due){THOLE_NEVER, THOLE_NEVER};
    m->sessions.ids.seed = r->e->o.seed;
    m->sessions.ids.window_ms = r->e->o.request_id_ms;
    m->persistent = (type->flags & THOLE_MACHINE_PERSISTENT) != 0;
    m->directory = directory_of(r, generation, type);
    if (type->view_acquire == NULL || type->flush != NULL) {
        m->lock = xmalloc(sizeof *m->lock);
        pthread_rwlock_init(m->lock, NULL);
    }
    enum thole_code code = open_state(r, m, st);
    if (code != THOLE_OK) {
        engine__machine_unref(m);
        return code;
    }
    *ret = m;
    return THOLE_OK;
}

enum thole_code engine__machine_view(struct machine *m, void **ret, struct thole_status *st)
{
    ASSERT(m->type->view_acquire != NULL);
    if (m->lock != NULL) { /* the type has a flush, which may run now */
        pthread_rwlock_wrlock(m->lock);
    }
    enum thole_code code = engine__machine_result(m->type->view_acquire(m->state, ret, st), st);
    if (m->lock != NULL) {
        pthread_rwlock_unlock(m->lock);
    }
    return code;
}

struct machine *engine__machine_ref(struct machine *m)
{
    uint32_t before = atomic_fetch_add_explicit(&m->refs, 1, memory_order_relaxed);
    ASSERT(before > 0);
    return m;
}

void engine__machine_unref(struct machine *m)
{
    if (m == NULL || atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    if (m->state != NULL) {
        m->type->close(m->state);
    }
    session_table_deinit(&m->sessions);
    if (m->lock != NULL) {
        pthread_rwlock_destroy(m->lock);
    }
    free(m->lock);
    free(m->directory);
    free(m);
}

enum thole_code engine__machine_destroy(struct replica *r, uint64_t generation,
                                        struct thole_status *st)
{
    const struct thole_machine_type *type = engine__machine_type_find(r->e, r->kind->type_name);
    if (type == NULL || !(type->flags & THOLE_MACHINE_PERSISTENT)) {
        return THOLE_OK;
    }
    char *directory = directory_of(r, generation, type);
    enum thole_code code = THOLE_OK;
    if (type->destroy != NULL) {
        struct thole_machine_env env = env_of(r, generation, type, directory);
        code = engine__machine_result(type->destroy(&env, st), st);
    }
    if (code == THOLE_OK && directory != NULL) {
        code = file_remove_tree(directory, st);
    }
    free(directory);
    return code == THOLE_NOT_FOUND ? THOLE_OK : code;
}

struct bytes_sink {
    struct thole_sink base;
    struct bytes *out;
    bool full;
};

static enum thole_code write_bytes(struct thole_sink *s, const void *data, size_t size)
{
    struct bytes_sink *sink = CONTAINER_OF(s, struct bytes_sink, base);
    if (size > LIMIT_RESULT_BYTES - sink->out->size) {
        sink->full = true;
        return THOLE_RESOURCE_EXHAUSTED;
    }
    bytes_append(sink->out, data, size);
    return THOLE_OK;
}

enum thole_code engine__machine_query(struct machine *m, void *view, struct slice query,
                                      struct bytes *out, struct thole_status *st)
{
    struct bytes_sink sink = {{sizeof(struct thole_sink), write_bytes}, out, false};
    struct thole_slice q = {query.data, query.size};
    enum thole_code code =
        engine__machine_result(m->type->query(m->state, view, q, &sink.base, st), st);
    if (code == THOLE_RESOURCE_EXHAUSTED && sink.full) {
        return THOLE_FAIL(st, code, THOLE_REASON_TOO_LARGE,
                          "the answer is larger than " LIMIT_RESULT_TEXT
                          ": ask for less, or for a stream");
    }
    return code;
}

bool engine__machine_has_reader(const struct machine *m)
{
    const struct thole_machine_type *type = m->type;
    return THOLE_HAS(type, read_close) && type->read_close != NULL;
}

enum thole_code engine__machine_read(struct machine *m, void *reader, struct bytes *out,
                                     bool *ret_end, struct thole_status *st)
{
    struct bytes_sink sink = {{sizeof(struct thole_sink), write_bytes}, out, false};
    return engine__machine_result(
        m->type->read_next(m->state, reader, LIMIT_PIECE_BYTES, &sink.base, ret_end, st), st);
}
