/* Changes of a range from a revision on: what all watchers read, at the head and behind it. */
#include "shards/machine/kv/kv_internal.h"

enum {
    EVENTS_EVENT = 1,
    EVENTS_NEXT,
    EVENTS_NEXT_SUB,
    EVENTS_CURRENT,
    EVENTS_COMPACTED,
    EVENTS_AUTH
};
#define EVENTS_BYTES_MAX ((size_t)1 * MIB)
#define EVENTS_CHANGES_MAX 10000

struct walk {
    const struct kv_reader *r;
    struct kv_keys keys;
    struct kv_sight *sight;
    bool with_previous;
    struct bytes event, item, previous;
};

/* The key as of the revision before the change. A Txn can change a key more than once. */
static enum thole_code look_up(struct walk *w, const struct kv_change *c, struct slice key,
                               struct slice *ret, struct thole_status *st)
{
    struct kv_keys keys = {.from = key, .one = true};
    struct kv_scan *scan = kv__scan_new(w->r, &keys, c->at.revision - 1, true);
    struct kv_item item;

    bytes_clear(&w->previous);
    if (kv__scan_next(scan, &item)) {
        kv__wire_item(&w->previous, &item);
        *ret = bytes_slice(&w->previous);
    }
    enum thole_code code = kv__scan_status(scan, st);
    kv__scan_free(scan);
    return code;
}

/* The version before the change's revision, unless it was superseded at or before the compacted
 * revision. A put that creates its key has none, as in etcd, although a Txn can delete the key
 * first. */
static enum thole_code previous_of(struct walk *w, const struct kv_change *c,
                                   const struct kv_item *item, struct buf **ret_buf,
                                   struct slice *ret, struct thole_status *st)
{
    struct kv_change previous;
    bool creates = !c->deletion && item->create == c->at.revision;

    if (!w->with_previous || creates || c->at.revision <= w->r->state->compacted) {
        return THOLE_OK;
    }
    if (c->previous.revision == c->at.revision || (c->previous.revision == 0 && c->at.sub > 0)) {
        return look_up(w, c, item->key, ret, st);
    }
    if (c->previous.revision == 0) {
        return THOLE_OK;
    }
    enum thole_code code = kv__get_change(w->r, c->previous, &previous, ret_buf, st);
    if (code == THOLE_OK) {
        *ret = previous.encoded;
    }
    return code == THOLE_NOT_FOUND ? kv__damaged(st, "change") : code;
}

/* The event into w->event; nothing if the key is not in the range, or not to be seen. */
static enum thole_code encode(struct walk *w, struct kv_change *c, struct thole_status *st)
{
    struct slice previous = {0};
    struct buf *held = NULL;
    struct kv_item item;

    bytes_clear(&w->event);
    if (!kv__wire_item_decode(c->encoded, &item)) {
        return kv__damaged(st, "change");
    }
    if (!kv__keys_contain(&w->keys, item.key) || !kv__sight_has(w->sight, item.key)) {
        return THOLE_OK;
    }
    enum thole_code code = previous_of(w, c, &item, &held, &previous, st);
    if (code != THOLE_OK) {
        return code;
    }
    if (c->deletion) {
        item.mod = c->at.revision;
        bytes_clear(&w->item);
        kv__wire_item(&w->item, &item);
        c->encoded = bytes_slice(&w->item);
    }
    kv__append_event(&w->event, c->deletion, c->encoded, previous);
    buf_unref(held);
    return THOLE_OK;
}

static size_t limit(uint32_t wanted, size_t most)
{
    return wanted != 0 && wanted < most ? wanted : most;
}

/* `*at` is where to begin, then where the next request goes on. */
static enum thole_code collect(struct walk *w, const thole_kv_v1_EventsRequest *m, struct kv_at *at,
                               struct bytes *out, struct thole_status *st)
{
    size_t bytes_max = limit(thole_kv_v1_EventsRequest_max_bytes(m), EVENTS_BYTES_MAX);
    size_t changes_max = limit(thole_kv_v1_EventsRequest_max_changes(m), EVENTS_CHANGES_MAX);
    struct bytes from = {0};
    struct slice key, stored;
    size_t start = out->size, looked = 0;
    enum thole_code code = THOLE_OK;
    bool full = false;

    kv__key_change(&from, *at);
    struct state_iter *it =
        kv__iter_prefix(w->r, KV_PREFIX_CHANGE, slice_of(from.data + 1, from.size - 1));
    while (code == THOLE_OK && !full && state_iter_next(it, &key, &stored)) {
        struct kv_change c;
        if (!kv__parse_at(slice_of(key.data + 1, key.size - 1), &c.at) ||
            !kv__change_decode(stored, &c)) {
            code = kv__damaged(st, "change");
            break;
        }
        *at = c.at;
        full = looked++ == changes_max;
        if (!full) {
            code = encode(w, &c, st);
        }
        full = full || (out->size > start && out->size - start + w->event.size > bytes_max);
        if (!full && code == THOLE_OK && w->event.size > 0) {
            kv__wire_message(out, EVENTS_EVENT, bytes_slice(&w->event));
        }
    }
    if (code == THOLE_OK) {
        code = state_iter_status(it, st);
    }
    if (!full) {
        *at = (struct kv_at){w->r->revision + 1, 0};
    }
    state_iter_free(it);
    bytes_deinit(&from);
    return code;
}

enum thole_code kv__events(const struct kv_reader *r, const thole_kv_v1_EventsRequest *m,
                           struct slice token, struct bytes *out,
                           const struct kv_refusal **ret_refusal, struct thole_status *st)
{
    struct kv_at at = {thole_kv_v1_EventsRequest_start_revision(m),
                       thole_kv_v1_EventsRequest_start_sub(m)};
    struct walk w = {
        .r = r,
        .keys = kv__keys(thole_kv_v1_EventsRequest_key(m), thole_kv_v1_EventsRequest_range_end(m)),
        .with_previous = thole_kv_v1_EventsRequest_prev_kv(m),
    };

    if (w.keys.from.size == 0) {
        *ret_refusal = &kv__empty_key;
        return THOLE_OK;
    }
    enum thole_code code = kv__sight_new(r, token, &w.sight, st);
    if (code != THOLE_OK) {
        return code;
    }
    if (at.revision < r->state->compacted) {
        kv__wire_number(out, EVENTS_COMPACTED, (uint64_t)r->state->compacted);
    } else if (at.revision <= r->revision) {
        at.revision = at.revision < 1 ? 1 : at.revision;
        code = collect(&w, m, &at, out, st);
    }
    kv__wire_number(out, EVENTS_NEXT, (uint64_t)at.revision);
    kv__wire_number(out, EVENTS_NEXT_SUB, at.sub);
    kv__wire_number(out, EVENTS_CURRENT, (uint64_t)r->revision);
    kv__wire_number(out, EVENTS_AUTH, kv__auth_revision(r));
    kv__sight_free(w.sight);
    bytes_deinit(&w.event);
    bytes_deinit(&w.item);
    bytes_deinit(&w.previous);
    return code;
}
