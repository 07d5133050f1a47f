/* The state within an apply batch: changes of its earlier entries, over the database. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "shards/machine/kv/kv_internal.h"

#define TABLE_SIZE_MIN 64

void kv__batch_init(struct kv_batch *b, struct kv *kv, bool watched)
{
    *b = (struct kv_batch){.kv = kv, .upb = upb_Arena_New(), .watched = watched};
    b->table_size = TABLE_SIZE_MIN;
    b->table = xcalloc(b->table_size, sizeof *b->table);
    kv__work_begin(kv);
}

void kv__batch_deinit(struct kv_batch *b)
{
    upb_Arena_Free(b->upb);
    kv__work_end(b->kv);
    free(b->cells);
    free(b->table);
    free(b->events);
}

/* ---- Cells ----------------------------------------------------------------------------------- */

static uint32_t *table_slot(const struct kv_batch *b, struct slice key, uint64_t hash)
{
    size_t i = hash & (b->table_size - 1);

    for (; b->table[i] != 0; i = (i + 1) & (b->table_size - 1)) {
        const struct kv_cell *c = b->cells[b->table[i] - 1];
        if (c->hash == hash && slice_equal(c->item.key, key)) {
            break;
        }
    }
    return &b->table[i];
}

static struct kv_cell *find_cell(const struct kv_batch *b, struct slice key, uint64_t hash)
{
    const uint32_t *slot = table_slot(b, key, hash);

    return *slot != 0 ? b->cells[*slot - 1] : NULL;
}

static struct kv_cell *add_cell(struct kv_batch *b, struct slice key, uint64_t hash)
{
    struct kv_cell *c = arena_alloc(b->kv->arena, sizeof *c);

    c->item.key = key;
    c->hash = hash;
    if (b->cell_count == b->cell_capacity) {
        b->cell_capacity = b->cell_capacity * 2 + 32;
        b->cells = xrealloc(b->cells, b->cell_capacity * sizeof(struct kv_cell *));
    }
    b->cells[b->cell_count++] = c;
    if (b->cell_count * 2 > b->table_size) {
        free(b->table);
        b->table_size *= 4;
        b->table = xcalloc(b->table_size, sizeof *b->table);
        for (size_t i = 0; i < b->cell_count; i++) {
            *table_slot(b, b->cells[i]->item.key, b->cells[i]->hash) = (uint32_t)i + 1;
        }
    } else {
        *table_slot(b, key, hash) = (uint32_t)b->cell_count;
    }
    return c;
}

static enum thole_code corrupt(struct thole_status *st)
{
    return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "a stored value is malformed");
}

enum thole_code kv__batch_cell(struct kv_batch *b, struct slice key, struct kv_cell **ret,
                               struct thole_status *st)
{
    uint64_t hash = hash64(key.data, key.size, 0);
    struct kv_cell *c = find_cell(b, key, hash);
    struct kv *kv = b->kv;
    struct buf *stored = NULL;

    if (c == NULL) {
        struct thole_status missing; /* a missing key is not an error: leave `st` alone */
        kv__user_key(&kv->out, key);
        enum thole_code code =
            state_get(kv->db, NULL, kv->space, bytes_slice(&kv->out), &stored, &missing);
        if (code != THOLE_OK && code != THOLE_NOT_FOUND) {
            if (st != NULL) {
                *st = missing;
            }
            return code;
        }
        c = add_cell(b, key, hash);
        if (code == THOLE_OK) {
            struct slice copy = arena_copy(kv->arena, slice_of(stored->data, stored->size));
            buf_unref(stored);
            if (!kv__item_decode(copy, &c->item)) {
                return corrupt(st);
            }
            c->present = true;
        }
    }
    *ret = c;
    return THOLE_OK;
}

/* ---- Changes --------------------------------------------------------------------------------- */

static void add_event(struct kv_batch *b, const struct kv_cell *c, uint64_t index, bool deleted)
{
    if (!b->watched) {
        return;
    }
    if (b->event_count == b->event_capacity) {
        b->event_capacity = b->event_capacity * 2 + 32;
        b->events = xrealloc(b->events, b->event_capacity * sizeof *b->events);
    }
    b->events[b->event_count++] = (struct kv_event){c->item, index, deleted};
}

void kv__batch_put(struct kv_batch *b, struct kv_cell *c, struct slice value, uint64_t index)
{
    if (!c->present) {
        c->item.create_index = index;
        c->item.version = 0;
    }
    c->item.mod_index = index;
    c->item.version++;
    c->item.value = value;
    c->present = c->dirty = true;
    add_event(b, c, index, false);
}

void kv__batch_delete(struct kv_batch *b, struct kv_cell *c, uint64_t index)
{
    c->item = (struct kv_item){.key = c->item.key, .mod_index = index};
    c->present = false;
    c->dirty = true;
    add_event(b, c, index, true);
}

/* ---- Range deletion -------------------------------------------------------------------------- */

static int by_key(const void *a, const void *b)
{
    return slice_compare((*(struct kv_cell *const *)a)->item.key,
                         (*(struct kv_cell *const *)b)->item.key);
}

/* The batch's own present keys in the range, in order; malloced. */
static struct kv_cell **cells_in_range(const struct kv_batch *b, struct slice from, struct slice to,
                                       size_t *ret_count)
{
    struct kv_cell **list = xmalloc((b->cell_count + 1) * sizeof(struct kv_cell *));
    size_t n = 0;

    for (size_t i = 0; i < b->cell_count; i++) {
        struct slice key = b->cells[i]->item.key;
        if (b->cells[i]->present && slice_compare(key, from) >= 0 &&
            (to.size == 0 || slice_compare(key, to) < 0)) {
            list[n++] = b->cells[i];
        }
    }
    qsort(list, n, sizeof(struct kv_cell *), by_key);
    *ret_count = n;
    return list;
}

struct range_deletion {
    struct kv_batch *b;
    struct kv_cell **own;
    size_t own_count, own_next;
    uint32_t limit;
    uint64_t index, deleted;
    bool more;
};

static void range_take(struct range_deletion *d, struct kv_cell *c)
{
    if (d->deleted == d->limit) {
        d->more = true;
    } else {
        kv__batch_delete(d->b, c, d->index);
        d->deleted++;
    }
}

/* The batch's keys before `key` (size 0: all that are left) come first. */
static void range_take_own(struct range_deletion *d, struct slice key)
{
    while (!d->more && d->own_next < d->own_count &&
           (key.size == 0 || slice_compare(d->own[d->own_next]->item.key, key) < 0)) {
        range_take(d, d->own[d->own_next++]);
    }
}

enum thole_code kv__batch_delete_range(struct kv_batch *b, struct slice from, struct slice to,
                                       uint32_t limit, uint64_t index, uint64_t *ret_deleted,
                                       bool *ret_more, struct thole_status *st)
{
    static const uint8_t end = KV_PREFIX_USER + 1;
    struct kv *kv = b->kv;
    struct range_deletion d = {.b = b, .limit = limit, .index = index};
    struct bytes lower = {0}, upper = {0};
    struct slice stored_key, value;

    d.own = cells_in_range(b, from, to, &d.own_count);
    kv__user_key(&lower, from);
    if (to.size > 0) {
        kv__user_key(&upper, to);
    } else {
        bytes_append(&upper, &end, 1);
    }
    struct state_iter *it =
        state_iter_new(kv->db, NULL, kv->space, bytes_slice(&lower), bytes_slice(&upper));
    while (!d.more && state_iter_next(it, &stored_key, &value)) {
        struct slice key = slice_of(stored_key.data + 1, stored_key.size - 1);
        uint64_t hash = hash64(key.data, key.size, 0);

        range_take_own(&d, key);
        /* A key that the batch has touched is in its cells: range_take_own handles it. */
        if (!d.more && find_cell(b, key, hash) == NULL) {
            if (d.deleted == limit) {
                d.more = true;
            } else {
                struct kv_cell *c = add_cell(b, arena_copy(kv->arena, key), hash);
                range_take(&d, c);
            }
        }
    }
    range_take_own(&d, (struct slice){0});
    enum thole_code code = state_iter_status(it, st);
    state_iter_free(it);
    bytes_deinit(&lower);
    bytes_deinit(&upper);
    free(d.own);
    *ret_deleted = d.deleted;
    *ret_more = d.more;
    return code;
}

/* ---- The write ------------------------------------------------------------------------------- */

void kv__put_meta(struct kv *kv, const struct thole_meta *meta, size_t meta_count)
{
    struct bytes key = {0};
    uint8_t prefix = KV_PREFIX_META;

    for (size_t i = 0; i < meta_count; i++) {
        bytes_clear(&key);
        bytes_append(&key, &prefix, 1);
        bytes_append(&key, meta[i].key.data, meta[i].key.size);
        if (meta[i].value.data == NULL) {
            state_batch_delete(kv->batch, kv->space, bytes_slice(&key));
        } else {
            state_batch_put(kv->batch, kv->space, bytes_slice(&key),
                            slice_of(meta[i].value.data, meta[i].value.size));
        }
    }
    bytes_deinit(&key);
}

enum thole_code kv__batch_write(struct kv_batch *b, const struct thole_meta *meta,
                                size_t meta_count, struct thole_status *st)
{
    struct kv *kv = b->kv;
    struct bytes key = {0};

    for (size_t i = 0; i < b->cell_count; i++) {
        const struct kv_cell *c = b->cells[i];

        if (!c->dirty) {
            continue;
        }
        kv__user_key(&key, c->item.key);
        if (c->present) {
            kv__item_encode(&c->item, &kv->out);
            state_batch_put(kv->batch, kv->space, bytes_slice(&key), bytes_slice(&kv->out));
        } else {
            state_batch_delete(kv->batch, kv->space, bytes_slice(&key));
        }
    }
    kv__put_meta(kv, meta, meta_count);
    bytes_deinit(&key);
    return state_batch_write(kv->batch, st);
}
