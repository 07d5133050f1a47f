#include "shards/engine/test/machines.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/hash.h"

/* ---- tally ----------------------------------------------------------------------------------- */

static enum thole_code pad(struct thole_sink *out, size_t size)
{
    enum thole_code code = THOLE_OK;
    uint8_t page[4096];
    memset(page, 7, sizeof page);
    for (size_t left = size; left > 0 && code == THOLE_OK;) {
        size_t n = left < sizeof page ? left : sizeof page;
        code = out->write(out, page, n);
        left -= n;
    }
    return code;
}

struct tally_machine {
    struct tally_ctx *ctx;
    struct tally t;
};

static enum thole_code tally_open(const struct thole_machine_env *env, void **ret,
                                  struct thole_status *st)
{
    (void)st;
    struct tally_machine *m = xcalloc(1, sizeof *m);
    m->ctx = env->type_ctx;
    *ret = m;
    return THOLE_OK;
}

static void tally_step(struct tally *t, struct thole_entry *e)
{
    uint8_t out[8];
    t->count++;
    t->hash = hash64(e->command.data, e->command.size, t->hash);
    put_le64(out, t->count);
    e->code = t->count;
    (void)e->result->write(e->result, out, sizeof out);
}

static enum thole_code tally_apply(void *machine, struct thole_apply *b, struct thole_status *st)
{
    struct tally_machine *m = machine;
    for (size_t i = 0; i < b->entry_count; i++) {
        struct thole_entry *e = thole_apply_entry(b, i);
        if (m->ctx->poisoned && e->command.size == strlen(TALLY_POISON) &&
            memcmp(e->command.data, TALLY_POISON, e->command.size) == 0) {
            return THOLE_FAIL(st, THOLE_INTERNAL, THOLE_REASON_MACHINE_FAILED, "poisoned");
        }
        tally_step(&m->t, e);
        (void)pad(e->result, m->ctx->padding);
        if (b->watch != NULL) {
            b->watch->event(b->watch, e->index, (struct thole_slice){"k", 1}, e->command);
        }
    }
    size_t most = m->ctx->batch;
    while (b->entry_count > most) {
        if (atomic_compare_exchange_weak(&m->ctx->batch, &most, b->entry_count)) {
            break;
        }
    }
    return THOLE_OK;
}

static enum thole_code tally_query(void *machine, const void *view, struct thole_slice query,
                                   struct thole_sink *answer, struct thole_status *st)
{
    const struct tally_machine *m = machine;
    if (atomic_load(&m->ctx->damaged)) {
        return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "a table cannot be read");
    }
    if (query.size > 0 && *(const char *)query.data == '!') {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, "bad query");
    }
    return answer->write(answer, view != NULL ? view : &m->t, sizeof m->t);
}

static enum thole_code tally_view(void *machine, void **ret, struct thole_status *st)
{
    (void)st;
    const struct tally_machine *m = machine;
    struct tally *copy = xmalloc(sizeof *copy);
    *copy = m->t;
    *ret = copy;
    return THOLE_OK;
}

static void tally_release(void *machine, void *view)
{
    (void)machine;
    free(view);
}

static enum thole_code write_tally(struct thole_sink *out, const struct tally *t, size_t ballast)
{
    enum thole_code code = out->write(out, t, sizeof *t);
    return code == THOLE_OK ? pad(out, ballast) : code;
}

static enum thole_code tally_save(void *machine, const void *view, struct thole_save *to,
                                  struct thole_status *st)
{
    struct thole_sink *out = to->out;
    (void)st;
    const struct tally_machine *m = machine;
    return write_tally(out, view != NULL ? view : &m->t, m->ctx->ballast);
}

static enum thole_code tally_restore(void *machine, struct thole_restore *from,
                                     struct thole_status *st)
{
    struct thole_source *in = from->in;
    struct tally_machine *m = machine;
    if (in->read(in, &m->t, sizeof m->t) != sizeof m->t) {
        return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "cut");
    }
    uint8_t page[4096];
    int64_t n;
    do {
        n = in->read(in, page, sizeof page);
    } while (n > 0);
    return n == 0 ? THOLE_OK : THOLE_DATA_LOSS;
}

struct thole_machine_type tally_type(struct tally_ctx *ctx)
{
    return (struct thole_machine_type){
        .size = sizeof(struct thole_machine_type),
        .version = 1,
        .name = "tally",
        .type_ctx = ctx,
        .open = tally_open,
        .close = free,
        .apply = tally_apply,
        .query = tally_query,
        .view_acquire = tally_view,
        .view_release = tally_release,
        .save = tally_save,
        .restore = tally_restore,
    };
}

struct thole_machine_type tally_plain_type(struct tally_ctx *ctx)
{
    struct thole_machine_type t = tally_type(ctx);
    t.name = "tally-plain";
    t.view_acquire = NULL;
    t.view_release = NULL;
    return t;
}

/* ---- ledger ---------------------------------------------------------------------------------- */

struct record {
    struct record *next;
    struct bytes key, value;
};
struct space {
    struct space *next;
    uint64_t replica, generation;
    struct tally t;
    struct record *records;
    bool absent;
};
struct ledger_disk {
    pthread_mutex_t lock;
    struct space *live, *durable;
    _Atomic size_t ballast;
};
struct ledger_machine {
    struct ledger_disk *disk;
    struct space *space;
};

static void free_records(struct record *r)
{
    while (r != NULL) {
        struct record *next = r->next;
        bytes_deinit(&r->key);
        bytes_deinit(&r->value);
        free(r);
        r = next;
    }
}

static void free_spaces(struct space *s)
{
    while (s != NULL) {
        struct space *next = s->next;
        free_records(s->records);
        free(s);
        s = next;
    }
}

static struct space *copy_spaces(const struct space *s)
{
    if (s == NULL) {
        return NULL;
    }
    struct space *c = xcalloc(1, sizeof *c);
    *c = *s;
    c->next = copy_spaces(s->next);
    c->records = NULL;
    struct record **at = &c->records;
    for (const struct record *r = s->records; r != NULL; r = r->next) {
        *at = xcalloc(1, sizeof **at);
        bytes_append_slice(&(*at)->key, bytes_slice(&r->key));
        bytes_append_slice(&(*at)->value, bytes_slice(&r->value));
        at = &(*at)->next;
    }
    return c;
}

struct ledger_disk *ledger_disk_new(void)
{
    struct ledger_disk *d = xcalloc(1, sizeof *d);
    pthread_mutex_init(&d->lock, NULL);
    return d;
}

void ledger_disk_crash(struct ledger_disk *d)
{
    free_spaces(d->live);
    d->live = copy_spaces(d->durable);
}

void ledger_disk_free(struct ledger_disk *d)
{
    if (d == NULL) {
        return;
    }
    free_spaces(d->live);
    free_spaces(d->durable);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

size_t ledger_disk_spaces(struct ledger_disk *d)
{
    size_t n = 0;
    pthread_mutex_lock(&d->lock);
    for (const struct space *s = d->live; s != NULL; s = s->next) {
        n += !s->absent;
    }
    pthread_mutex_unlock(&d->lock);
    return n;
}

static void set_record(struct space *s, struct slice key, struct thole_slice value)
{
    struct record **at = &s->records;
    while (*at != NULL && slice_compare(bytes_slice(&(*at)->key), key) < 0) {
        at = &(*at)->next;
    }
    bool found = *at != NULL && slice_equal(bytes_slice(&(*at)->key), key);
    if (value.data == NULL) {
        if (found) {
            struct record *gone = *at;
            *at = gone->next;
            gone->next = NULL;
            free_records(gone);
        }
        return;
    }
    if (!found) {
        struct record *r = xcalloc(1, sizeof *r);
        bytes_append_slice(&r->key, key);
        r->next = *at;
        *at = r;
    }
    bytes_clear(&(*at)->value);
    bytes_append(&(*at)->value, value.data, value.size);
}

static struct space *find_space(struct ledger_disk *d, uint64_t replica, uint64_t generation)
{
    struct space *s = d->live;
    while (s != NULL && (s->replica != replica || s->generation != generation)) {
        s = s->next;
    }
    return s;
}

static enum thole_code ledger_open(const struct thole_machine_env *env, void **ret,
                                   struct thole_status *st)
{
    (void)st;
    struct ledger_machine *m = xcalloc(1, sizeof *m);
    m->disk = env->type_ctx;
    pthread_mutex_lock(&m->disk->lock);
    m->space = find_space(m->disk, env->replica_id, env->generation);
    if (m->space == NULL) {
        m->space = xcalloc(1, sizeof *m->space);
        m->space->replica = env->replica_id;
        m->space->generation = env->generation;
        m->space->next = m->disk->live;
        m->disk->live = m->space;
    }
    m->space->absent = false;
    for (const struct record *r = m->space->records; r != NULL; r = r->next) {
        env->meta(env->meta_ctx, (struct thole_slice){r->key.data, r->key.size},
                  (struct thole_slice){r->value.data, r->value.size});
    }
    pthread_mutex_unlock(&m->disk->lock);
    *ret = m;
    return THOLE_OK;
}

static void store_meta(struct space *s, const struct thole_meta *meta, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        set_record(s, slice_of(meta[i].key.data, meta[i].key.size), meta[i].value);
    }
}

static enum thole_code ledger_apply(void *machine, struct thole_apply *b, struct thole_status *st)
{
    (void)st;
    struct ledger_machine *m = machine;
    pthread_mutex_lock(&m->disk->lock);
    for (size_t i = 0; i < b->entry_count; i++) {
        tally_step(&m->space->t, thole_apply_entry(b, i));
    }
    size_t meta_count = 0;
    const struct thole_meta *meta = b->metadata(b, &meta_count);
    store_meta(m->space, meta, meta_count);
    pthread_mutex_unlock(&m->disk->lock);
    return THOLE_OK;
}

static enum thole_code ledger_query(void *machine, const void *view, struct thole_slice query,
                                    struct thole_sink *answer, struct thole_status *st)
{
    (void)machine, (void)query, (void)st;
    return answer->write(answer, view, sizeof(struct tally));
}

static enum thole_code ledger_view(void *machine, void **ret, struct thole_status *st)
{
    (void)st;
    struct ledger_machine *m = machine;
    struct tally *copy = xmalloc(sizeof *copy);
    *copy = m->space->t;
    *ret = copy;
    return THOLE_OK;
}

static enum thole_code ledger_save(void *machine, const void *view, struct thole_save *to,
                                   struct thole_status *st)
{
    struct thole_sink *out = to->out;
    (void)st;
    const struct ledger_machine *m = machine;
    return write_tally(out, view, m->disk->ballast);
}

void ledger_disk_set_ballast(struct ledger_disk *d, size_t ballast)
{
    d->ballast = ballast;
}

static enum thole_code flush_all(struct ledger_disk *d)
{
    free_spaces(d->durable);
    d->durable = copy_spaces(d->live);
    return THOLE_OK;
}

static enum thole_code ledger_restore(void *machine, struct thole_restore *from,
                                      struct thole_status *st)
{
    struct thole_source *in = from->in;
    struct ledger_machine *m = machine;
    struct tally t;
    if (in->read(in, &t, sizeof t) != sizeof t) {
        return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "cut");
    }
    pthread_mutex_lock(&m->disk->lock);
    m->space->t = t;
    store_meta(m->space, from->meta, from->meta_count);
    enum thole_code code = flush_all(m->disk);
    pthread_mutex_unlock(&m->disk->lock);
    return code;
}

static enum thole_code ledger_flush(void *machine, struct thole_status *st)
{
    (void)st;
    struct ledger_machine *m = machine;
    pthread_mutex_lock(&m->disk->lock);
    enum thole_code code = flush_all(m->disk);
    pthread_mutex_unlock(&m->disk->lock);
    return code;
}

static enum thole_code ledger_destroy(const struct thole_machine_env *env, struct thole_status *st)
{
    (void)st;
    struct ledger_disk *d = env->type_ctx;
    pthread_mutex_lock(&d->lock);
    struct space *s = find_space(d, env->replica_id, env->generation);
    if (s != NULL) { /* emptied in place: a machine may still be about to close */
        free_records(s->records);
        s->records = NULL;
        s->t = (struct tally){0};
        s->absent = true;
    }
    pthread_mutex_unlock(&d->lock);
    return THOLE_OK;
}

struct thole_machine_type ledger_type(struct ledger_disk *d)
{
    return (struct thole_machine_type){
        .size = sizeof(struct thole_machine_type),
        .version = 1,
        .name = "ledger",
        .flags = THOLE_MACHINE_PERSISTENT,
        .type_ctx = d,
        .open = ledger_open,
        .close = free,
        .apply = ledger_apply,
        .query = ledger_query,
        .view_acquire = ledger_view,
        .view_release = tally_release,
        .save = ledger_save,
        .restore = ledger_restore,
        .flush = ledger_flush,
        .destroy = ledger_destroy,
    };
}
