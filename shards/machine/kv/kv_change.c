/* Put and delete: the records of a change. A change of a key writes
 *   the change itself, which holds the whole KeyValue;
 *   the latest record of the key, or its deletion;
 *   a history record for the version that it supersedes, and for itself if it is a deletion. */
#include <stdlib.h>

#include "shards/machine/kv/kv_internal.h"

void kv__batch_put(struct kv_exec *x, struct slice key, struct slice value)
{
    state_batch_put(x->reader.batch, x->kv->space, key, value);
}

void kv__batch_delete(struct kv_exec *x, struct slice key)
{
    state_batch_delete(x->reader.batch, x->kv->space, key);
}

void kv__changed(struct kv_exec *x)
{
    x->subs++;
    x->reader.revision = kv__revision(x);
}

void kv__append_event(struct bytes *out, bool deletion, struct slice encoded, struct slice previous)
{
    kv__wire_number(out, 1, deletion);
    kv__wire_message(out, 2, encoded);
    kv__wire_bytes(out, 3, previous);
}

static void add_event(struct kv_exec *x, struct slice key, bool deletion, struct slice encoded)
{
    if (!x->watched) {
        return;
    }
    /* The engine's watches know no users, so their events only say that something changed. */
    if (x->kv->state.auth.enabled) {
        key = encoded = (struct slice){0};
    }
    if (x->event_count == x->event_capacity) {
        x->event_capacity = x->event_capacity * 2 + 32;
        x->events = xrealloc(x->events, x->event_capacity * sizeof *x->events);
    }
    struct kv_event *e = &x->events[x->event_count++];
    *e = (struct kv_event){.index = x->index, .key_at = x->event_bytes.size, .key_size = key.size};
    bytes_append_slice(&x->event_bytes, key);
    e->event_at = x->event_bytes.size;
    kv__append_event(&x->event_bytes, deletion, encoded, (struct slice){0});
    e->event_size = x->event_bytes.size - e->event_at;
}

/* Writes the change; `x->item` is the KeyValue. */
static void put_change(struct kv_exec *x, struct kv_at at, bool deletion, const struct kv_item *old)
{
    struct kv_change change = {.deletion = deletion};

    if (old != NULL) {
        change.previous = (struct kv_at){old->mod, old->sub};
        change.previous_bytes = old->whole_bytes;
    }
    kv__change_encode(&change, bytes_slice(&x->item), &x->value);
    kv__key_change(&x->key, at);
    kv__batch_put(x, bytes_slice(&x->key), bytes_slice(&x->value));
    x->kv->state.bytes += kv__change_bytes(x->item.size);
}

static void put_history(struct kv_exec *x, struct slice key, struct kv_at at, struct kv_past past)
{
    kv__key_history(&x->key, key, at);
    kv__past_encode(&past, &x->value);
    kv__batch_put(x, bytes_slice(&x->key), bytes_slice(&x->value));
}

static void put_latest(struct kv_exec *x, struct kv_item *item)
{
    item->value_elsewhere = item->value.size > KV_INLINE_BYTES;
    item->whole_bytes = x->item.size;
    item->encoded = bytes_slice(&x->item);
    kv__latest_encode(item, &x->value);
    kv__key(&x->key, KV_PREFIX_LATEST, item->key);
    kv__batch_put(x, bytes_slice(&x->key), bytes_slice(&x->value));
    item->value_elsewhere = false;
}

void kv__put(struct kv_exec *x, struct slice key, struct slice value, int64_t lease,
             const struct kv_item *old, struct kv_item *ret)
{
    struct kv_at at = {x->begin + 1, x->subs};
    struct kv_item item = {
        .key = key,
        .value = value,
        .create = old != NULL ? old->create : at.revision,
        .mod = at.revision,
        .version = old != NULL ? old->version + 1 : 1,
        .lease = lease,
        .sub = at.sub,
    };

    bytes_clear(&x->item);
    kv__wire_item(&x->item, &item);
    put_change(x, at, false, old);
    put_latest(x, &item);
    if (old != NULL) {
        put_history(x, key, (struct kv_at){old->mod, old->sub},
                    (struct kv_past){.next = at.revision});
    } else {
        x->kv->state.keys++;
        kv__count_add(x, key);
    }
    if (old != NULL && old->lease != 0 && old->lease != lease) {
        kv__lease_detach(x, old->lease, key);
    }
    if (lease != 0 && (old == NULL || old->lease != lease)) {
        kv__lease_attach(x, lease, key);
    }
    add_event(x, key, false, bytes_slice(&x->item));
    kv__changed(x);
    if (ret != NULL) {
        *ret = item;
    }
}

void kv__delete(struct kv_exec *x, const struct kv_item *old)
{
    struct kv_at at = {x->begin + 1, x->subs};
    struct kv_item gone = {.key = old->key};

    /* A stored deletion has the key only, as etcd's has; events add the revision. */
    bytes_clear(&x->item);
    kv__wire_item(&x->item, &gone);
    put_change(x, at, true, old);
    put_history(x, old->key, (struct kv_at){old->mod, old->sub},
                (struct kv_past){.next = at.revision});
    put_history(x, old->key, at, (struct kv_past){.deletion = true});
    kv__key(&x->key, KV_PREFIX_LATEST, old->key);
    kv__batch_delete(x, bytes_slice(&x->key));
    if (old->lease != 0) {
        kv__lease_detach(x, old->lease, old->key);
    }
    x->kv->state.keys--;
    kv__count_remove(x, old->key);
    gone.mod = at.revision;
    bytes_clear(&x->item);
    kv__wire_item(&x->item, &gone);
    add_event(x, old->key, true, bytes_slice(&x->item));
    kv__changed(x);
}

/* ---- Requests -------------------------------------------------------------------------------- */

enum thole_code kv__do_put(struct kv_exec *x, const etcdserverpb_PutRequest *m, struct bytes *out,
                           struct thole_status *st)
{
    bool keep_value = etcdserverpb_PutRequest_ignore_value(m);
    bool keep_lease = etcdserverpb_PutRequest_ignore_lease(m);
    bool with_previous = etcdserverpb_PutRequest_prev_kv(m);
    struct slice key = kv__slice(etcdserverpb_PutRequest_key(m));
    struct slice value = kv__slice(etcdserverpb_PutRequest_value(m));
    int64_t lease = etcdserverpb_PutRequest_lease(m);
    struct kv_item old;
    struct kv_lease found_lease;
    bool found = false;
    enum thole_code code = THOLE_OK;

    if (lease != 0) {
        code = kv__lease_get(&x->reader, lease, &found_lease, &found, st);
        if (code != THOLE_OK || !found) {
            x->refusal = &kv__lease_not_found;
            return code;
        }
    }
    code = kv__get_latest(&x->reader, key, keep_value || with_previous, x->arena, &old, &found, st);
    if (code != THOLE_OK) {
        return code;
    }
    if (!found && (keep_value || keep_lease)) {
        x->refusal = &kv__key_not_found;
        return THOLE_OK;
    }
    if (keep_value) {
        value = old.value;
    }
    if (keep_lease) {
        lease = old.lease;
    }
    kv__put(x, key, value, lease, found ? &old : NULL, NULL);
    kv__wire_header(out, kv__revision(x));
    if (found && with_previous) {
        kv__wire_message(out, 2, old.encoded);
    }
    return THOLE_OK;
}

/* The items of a range, in the arena; they are deleted afterwards, because the batch must not grow
 * while it is walked. */
struct doomed {
    struct kv_item *items;
    size_t count, capacity;
};

static enum thole_code collect(struct kv_exec *x, const struct kv_keys *keys, bool with_values,
                               struct doomed *d, struct thole_status *st)
{
    struct kv_scan *scan = kv__scan_new(&x->reader, keys, x->reader.revision, with_values);
    struct kv_item item;

    while (kv__scan_next(scan, &item)) {
        if (d->count == d->capacity) {
            d->capacity = d->capacity * 2 + 16;
            d->items = xrealloc(d->items, d->capacity * sizeof *d->items);
        }
        struct kv_item *copy = &d->items[d->count++];
        *copy = item;
        copy->encoded = arena_copy(x->arena, item.encoded);
        copy->key =
            slice_of(copy->encoded.data + (item.key.data - item.encoded.data), item.key.size);
    }
    enum thole_code code = kv__scan_status(scan, st);
    kv__scan_free(scan);
    return code;
}

/* Deletes the keys; `d` has what they were. */
static enum thole_code delete_keys(struct kv_exec *x, const struct kv_keys *keys, bool with_values,
                                   struct doomed *d, struct thole_status *st)
{
    enum thole_code code = collect(x, keys, with_values, d, st);

    for (size_t i = 0; i < d->count && code == THOLE_OK; i++) {
        kv__delete(x, &d->items[i]);
    }
    return code;
}

enum thole_code kv__delete_keys(struct kv_exec *x, const struct kv_keys *keys, size_t *ret_deleted,
                                struct thole_status *st)
{
    struct doomed d = {0};
    enum thole_code code = delete_keys(x, keys, false, &d, st);

    *ret_deleted = d.count;
    free(d.items);
    return code;
}

enum thole_code kv__do_delete(struct kv_exec *x, const etcdserverpb_DeleteRangeRequest *m,
                              struct bytes *out, struct thole_status *st)
{
    struct kv_keys keys = kv__keys(etcdserverpb_DeleteRangeRequest_key(m),
                                   etcdserverpb_DeleteRangeRequest_range_end(m));
    bool with_previous = etcdserverpb_DeleteRangeRequest_prev_kv(m);
    struct doomed d = {0};
    enum thole_code code = delete_keys(x, &keys, with_previous, &d, st);

    kv__wire_header(out, kv__revision(x));
    kv__wire_number(out, 2, d.count);
    for (size_t i = 0; i < d.count && with_previous; i++) {
        kv__wire_message(out, 3, d.items[i].encoded);
    }
    free(d.items);
    return code;
}
