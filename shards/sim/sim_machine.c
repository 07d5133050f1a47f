/* The machine under test: registers by key. A command swaps a register's value; its answer is the
 * value before. The state has a hash that stands for every command ever executed, in order, and
 * for the registers; the checkers get it after each command.
 *
 * Three types: with views, without, and one that keeps its data on disk, where a crash goes back to
 * the last flush (or, by chance, keeps more). */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "shards/sim/sim_internal.h"

struct kv {
    uint64_t last, chain, content; /* index of the last command; hashes */
    struct map values;             /* key + 1 -> value, as a pointer */
    struct sim_timers timers;
};

struct meta_record {
    struct meta_record *next;
    struct bytes key, value;
};
struct space { /* one generation of a persistent replica */
    struct space *next;
    uint64_t replica, generation;
    struct kv kv;
    struct meta_record *meta;
};
struct kv_disk {
    struct sim_host *h;
    struct space *live, *durable;
};
struct kv_machine {
    struct sim_host *h;
    uint64_t shard_id, replica_id;
    struct kv *kv, own;
    struct space *space; /* persistent */
    bool restored;       /* and not used since */
};

static uint64_t mix(uint64_t a, uint64_t b)
{
    uint64_t x = a ^ (b + UINT64_C(0x9e3779b97f4a7c15) + (a << 6) + (a >> 2));
    x ^= x >> 31;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    return x ^ x >> 29;
}

static uint64_t kv_state(const struct kv *kv)
{
    return mix(mix(kv->chain, kv->content), sim__timers_hash(&kv->timers)) | 1;
}

static void kv_copy(struct kv *to, const struct kv *from)
{
    size_t it = 0;
    uint64_t key;
    void *value;
    *to = *from;
    to->values = (struct map){0};
    while ((value = map_next(&from->values, &it, &key)) != NULL) {
        (void)map_put(&to->values, key, value);
    }
}

const struct sim_timers *sim__kv_timers(const void *machine)
{
    return &((const struct kv_machine *)machine)->kv->timers;
}

/* A restored generation counts when it is first used. It may be discarded before that, if its
 * snapshot is of a group that was forced meanwhile. */
static void check_use(struct kv_machine *m)
{
    if (!m->restored || m->h->ending) {
        return;
    }
    m->restored = false;
    sim__check_apply(m->h->s, m->h, m->shard_id, m->replica_id, m->kv->last, kv_state(m->kv), true);
}

static uint64_t kv_get(const struct kv *kv, uint64_t key)
{
    return (uint64_t)(uintptr_t)map_get(&kv->values, key + 1);
}

static uint64_t kv_swap(struct kv *kv, uint64_t index, struct thole_slice command)
{
    const uint8_t *p = command.data;
    uint64_t key = get_be64(p), value = get_be64(p + 8);
    uint64_t old = (uint64_t)(uintptr_t)map_put(&kv->values, key + 1, (void *)(uintptr_t)value);
    if (old != 0) {
        kv->content ^= mix(key + 1, old);
    }
    kv->content ^= mix(key + 1, value);
    kv->chain = mix(kv->chain ^ index, hash64(command.data, command.size, 0));
    kv->last = index;
    return old;
}

static void apply_command(struct kv_machine *m, struct thole_entry *e)
{
    uint64_t old = kv_swap(m->kv, e->index, e->command);
    uint64_t value = get_be64((const uint8_t *)e->command.data + 8);
    uint8_t out[8];
    put_be64(out, old);
    e->code = old;
    (void)e->result->write(e->result, out, sizeof out);
    sim__timers_set(&m->kv->timers, value, e);
    /* Also on a host that is about to go down: a persistent machine may keep it. */
    sim__check_execute(m->h->s, sim__shadow_member(m->h->s, m->replica_id), e->index, value, old);
}

/* It reports a time only when that changes, so that nothing else can make up for a lost one. */
static void report_due(struct thole_apply *b, struct thole_due before, struct thole_due after)
{
    if (before.now_ms != after.now_ms || before.alive_ms != after.alive_ms) {
        b->due = after;
    }
}

static enum thole_code kv_apply(void *machine, struct thole_apply *b, struct thole_status *st)
{
    (void)st;
    struct kv_machine *m = machine;
    struct sim *s = m->h->s;
    check_use(m);
    struct thole_due before = sim__timers_due(&m->kv->timers);
    for (size_t i = 0; i < b->entry_count; i++) {
        struct thole_entry *e = thole_apply_entry(b, i);
        if (e->index <= m->kv->last) {
            sim__fail(s,
                      "shard %" PRIu64 ", replica %" PRIu64 ": index %" PRIu64
                      " is executed after %" PRIu64,
                      m->shard_id, m->replica_id, e->index, m->kv->last);
        }
        sim__check_times(s, sim__shadow_member(s, m->replica_id), &m->kv->timers, e);
        if (e->kind == THOLE_ENTRY_TICK) {
            sim__timers_tick(&m->kv->timers, e);
            m->kv->last = e->index;
            s->report->ticks++;
        } else {
            apply_command(m, e);
        }
        if (m->h->ending) {
            continue; /* the state is never used */
        }
        s->report->applied++;
        sim__check_apply(s, m->h, m->shard_id, m->replica_id, e->index, kv_state(m->kv), false);
    }
    report_due(b, before, sim__timers_due(&m->kv->timers));
    return THOLE_OK;
}

static enum thole_code kv_query(void *machine, const void *view, struct thole_slice query,
                                struct thole_sink *answer, struct thole_status *st)
{
    struct kv_machine *m = machine;
    const struct kv *kv = view != NULL ? view : m->kv;
    uint8_t out[8];
    check_use(m);
    if (query.size != 8) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, "not a key");
    }
    put_be64(out, kv_get(kv, get_be64(query.data)));
    return answer->write(answer, out, sizeof out);
}

static enum thole_code kv_view(void *machine, void **ret, struct thole_status *st)
{
    (void)st;
    struct kv_machine *m = machine;
    struct kv *copy = xmalloc(sizeof *copy);
    check_use(m);
    kv_copy(copy, m->kv);
    *ret = copy;
    return THOLE_OK;
}

static void kv_release(void *machine, void *view)
{
    (void)machine;
    struct kv *kv = view;
    map_deinit(&kv->values);
    free(kv);
}

/* ---- Snapshots ------------------------------------------------------------------------------- */

static void put_number(struct bytes *b, uint64_t v)
{
    put_be64(bytes_extend(b, 8), v);
}

static enum thole_code kv_save(void *machine, const void *view, struct thole_save *to,
                               struct thole_status *st)
{
    struct thole_sink *out = to->out;
    (void)st;
    struct kv_machine *m = machine;
    const struct kv *kv = view != NULL ? view : m->kv;
    struct bytes b = {0};
    check_use(m);
    size_t it = 0;
    uint64_t key;
    void *value;
    put_number(&b, kv->last);
    put_number(&b, kv->chain);
    put_number(&b, kv->content);
    put_number(&b, kv->timers.fired);
    for (int i = 0; i < SIM_TIMERS; i++) {
        put_number(&b, kv->timers.due_ms[i]);
    }
    put_number(&b, kv->values.count);
    while ((value = map_next(&kv->values, &it, &key)) != NULL) {
        put_number(&b, key);
        put_number(&b, (uint64_t)(uintptr_t)value);
    }
    uint64_t ballast = m->h->s->c.ballast; /* with a cap: several chunks */
    put_number(&b, ballast);
    memset(bytes_extend(&b, ballast), 7, ballast);
    enum thole_code code = out->write(out, b.data, b.size);
    bytes_deinit(&b);
    return code;
}

static bool take_number(struct thole_source *in, uint64_t *ret)
{
    uint8_t b[8];
    size_t have = 0;
    while (have < sizeof b) {
        int64_t n = in->read(in, b + have, sizeof b - have);
        if (n <= 0) {
            return false;
        }
        have += (size_t)n;
    }
    *ret = get_be64(b);
    return true;
}

static bool load(struct kv *kv, struct thole_source *in)
{
    uint64_t count, key, value, ballast, content = 0;
    if (!take_number(in, &kv->last) || !take_number(in, &kv->chain) ||
        !take_number(in, &kv->content) || !take_number(in, &kv->timers.fired)) {
        return false;
    }
    for (int i = 0; i < SIM_TIMERS; i++) {
        if (!take_number(in, &kv->timers.due_ms[i])) {
            return false;
        }
    }
    if (!take_number(in, &count)) {
        return false;
    }
    for (uint64_t i = 0; i < count; i++) {
        if (!take_number(in, &key) || !take_number(in, &value) || value == 0) {
            return false;
        }
        (void)map_put(&kv->values, key, (void *)(uintptr_t)value);
        content ^= mix(key, value);
    }
    if (!take_number(in, &ballast) || content != kv->content) {
        return false;
    }
    uint8_t page[4096];
    int64_t n;
    while ((n = in->read(in, page, sizeof page)) > 0) {
        ballast -= (uint64_t)n;
    }
    return n == 0 && ballast == 0;
}

static void store_meta(struct space *space, const struct thole_meta *meta, size_t n);

static enum thole_code kv_restore(void *machine, struct thole_restore *from,
                                  struct thole_status *st)
{
    struct thole_source *in = from->in;
    struct kv_machine *m = machine;
    struct kv fresh = {0};
    if (!load(&fresh, in)) {
        map_deinit(&fresh.values);
        return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "not a snapshot");
    }
    map_deinit(&m->kv->values);
    *m->kv = fresh;
    m->kv->timers.now_ms = from->now_ms;
    m->kv->timers.alive_ms = from->alive_ms;
    from->due = sim__timers_due(&m->kv->timers);
    m->restored = fresh.last != 0;
    if (m->space == NULL) {
        return THOLE_OK;
    }
    store_meta(m->space, from->meta, from->meta_count);
    return m->h->types_[2].flush(machine, st);
}

/* ---- In memory ------------------------------------------------------------------------------- */

static enum thole_code kv_open(const struct thole_machine_env *env, void **ret,
                               struct thole_status *st)
{
    (void)st;
    struct kv_machine *m = xcalloc(1, sizeof *m);
    m->h = env->type_ctx;
    m->shard_id = env->shard_id;
    m->replica_id = env->replica_id;
    m->kv = &m->own;
    *ret = m;
    return THOLE_OK;
}

static void kv_close(void *machine)
{
    struct kv_machine *m = machine;
    map_deinit(&m->own.values);
    free(m);
}

struct thole_machine_type sim__kv_type(struct sim_host *h, const char *name, bool views)
{
    return (struct thole_machine_type){
        .size = sizeof(struct thole_machine_type),
        .version = 1,
        .name = name,
        .type_ctx = h,
        .open = kv_open,
        .close = kv_close,
        .apply = kv_apply,
        .query = kv_query,
        .view_acquire = views ? kv_view : NULL,
        .view_release = views ? kv_release : NULL,
        .save = kv_save,
        .restore = kv_restore,
    };
}

/* ---- On disk --------------------------------------------------------------------------------- */

static void free_meta(struct meta_record *r)
{
    while (r != NULL) {
        struct meta_record *next = r->next;
        bytes_deinit(&r->key);
        bytes_deinit(&r->value);
        free(r);
        r = next;
    }
}

static void set_meta(struct space *space, struct slice key, struct slice value, bool gone)
{
    struct meta_record **at = &space->meta;
    while (*at != NULL && slice_compare(bytes_slice(&(*at)->key), key) < 0) {
        at = &(*at)->next;
    }
    bool found = *at != NULL && slice_equal(bytes_slice(&(*at)->key), key);
    if (gone && found) {
        struct meta_record *r = *at;
        *at = r->next;
        r->next = NULL;
        free_meta(r);
    }
    if (gone) {
        return;
    }
    if (!found) {
        struct meta_record *r = xcalloc(1, sizeof *r);
        bytes_append_slice(&r->key, key);
        r->next = *at;
        *at = r;
    }
    bytes_clear(&(*at)->value);
    bytes_append_slice(&(*at)->value, value);
}

static void store_meta(struct space *space, const struct thole_meta *meta, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        set_meta(space, slice_of(meta[i].key.data, meta[i].key.size),
                 slice_of(meta[i].value.data, meta[i].value.size), meta[i].value.data == NULL);
    }
}

static void free_space(struct space *space)
{
    map_deinit(&space->kv.values);
    free_meta(space->meta);
    free(space);
}

static struct space **find(struct space **list, uint64_t replica, uint64_t generation)
{
    while (*list != NULL && ((*list)->replica != replica || (*list)->generation != generation)) {
        list = &(*list)->next;
    }
    return list;
}

static struct space *copy_space(const struct space *from)
{
    struct space *to = xcalloc(1, sizeof *to);
    to->replica = from->replica;
    to->generation = from->generation;
    kv_copy(&to->kv, &from->kv);
    for (const struct meta_record *r = from->meta; r != NULL; r = r->next) {
        set_meta(to, bytes_slice(&r->key), bytes_slice(&r->value), false);
    }
    return to;
}

static void replace(struct space **list, const struct space *with)
{
    struct space **at = find(list, with->replica, with->generation);
    struct space *copy = copy_space(with), *old = *at;
    copy->next = old != NULL ? old->next : NULL;
    *at = copy;
    if (old != NULL) {
        free_space(old);
    }
}

static enum thole_code disk_open(const struct thole_machine_env *env, void **ret,
                                 struct thole_status *st)
{
    void *opened;
    (void)kv_open(env, &opened, st);
    struct kv_machine *m = opened;
    struct space **at = find(&m->h->kv->live, env->replica_id, env->generation);
    if (*at == NULL) {
        *at = xcalloc(1, sizeof **at);
        (*at)->replica = env->replica_id;
        (*at)->generation = env->generation;
    }
    m->space = *at;
    m->kv = &m->space->kv;
    *env->due = sim__timers_due(&m->kv->timers);
    for (const struct meta_record *r = m->space->meta; r != NULL; r = r->next) {
        env->meta(env->meta_ctx, (struct thole_slice){r->key.data, r->key.size},
                  (struct thole_slice){r->value.data, r->value.size});
    }
    *ret = m;
    return THOLE_OK;
}

/* The database may flush by itself after any write, and the host crash right then. */
static void crash_after_write(struct kv_machine *m)
{
    struct sim_host *h = m->h;
    if (!h->crash_in_apply) {
        return;
    }
    h->crash_in_apply = false;
    SIM_TRACE(h->s, "host %d: crashes after a write of replica %" PRIu64, h->id, m->replica_id);
    replace(&h->kv->durable, m->space);
    h->ending = true;
    engine__crash(h->engine);
}

static enum thole_code disk_apply(void *machine, struct thole_apply *b, struct thole_status *st)
{
    struct kv_machine *m = machine;
    enum thole_code code = kv_apply(machine, b, st);
    size_t meta_count = 0;
    const struct thole_meta *meta = b->metadata(b, &meta_count);
    store_meta(m->space, meta, meta_count);
    crash_after_write(m);
    return code;
}

static enum thole_code disk_flush(void *machine, struct thole_status *st)
{
    (void)st;
    struct kv_machine *m = machine;
    replace(&m->h->kv->durable, m->space);
    return THOLE_OK;
}

static enum thole_code disk_destroy(const struct thole_machine_env *env, struct thole_status *st)
{
    (void)st;
    struct kv_disk *d = ((struct sim_host *)env->type_ctx)->kv;
    struct space *live = *find(&d->live, env->replica_id, env->generation);
    if (live != NULL) { /* emptied in place: a machine may still be about to close */
        map_deinit(&live->kv.values);
        live->kv = (struct kv){0};
        free_meta(live->meta);
        live->meta = NULL;
    }
    struct space **at = find(&d->durable, env->replica_id, env->generation), *durable = *at;
    if (durable != NULL) {
        *at = durable->next;
        free_space(durable);
    }
    return THOLE_OK;
}

struct thole_machine_type sim__kv_persistent_type(struct sim_host *h, const char *name)
{
    struct thole_machine_type t = sim__kv_type(h, name, true);
    t.flags = THOLE_MACHINE_PERSISTENT;
    t.open = disk_open;
    t.apply = disk_apply;
    t.flush = disk_flush;
    t.destroy = disk_destroy;
    return t;
}

struct kv_disk *sim__kv_disk_new(struct sim_host *h)
{
    struct kv_disk *d = xcalloc(1, sizeof *d);
    d->h = h;
    return d;
}

static void free_spaces(struct space **list)
{
    while (*list != NULL) {
        struct space *next = (*list)->next;
        free_space(*list);
        *list = next;
    }
}

void sim__kv_disk_free(struct kv_disk *d)
{
    free_spaces(&d->live);
    free_spaces(&d->durable);
    free(d);
}

void sim__kv_disk_crash(struct kv_disk *d)
{
    /* The database may have flushed by itself, all spaces at once. */
    if (rand_chance(&d->h->s->rand[SIM_CRASH], 0.3)) {
        for (const struct space *x = d->live; x != NULL; x = x->next) {
            replace(&d->durable, x);
        }
        return;
    }
    free_spaces(&d->live);
    for (const struct space *x = d->durable; x != NULL; x = x->next) {
        replace(&d->live, x);
    }
}
