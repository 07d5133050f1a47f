/* Reads: single records, and the keys of a range in order as of a revision.
 *
 * As of now, a scan is a walk over the latest keys. As of an earlier revision R it merges two:
 * over the latest keys, of which those changed at or before R count; and over the history, where
 * the newest version at or before R of every other key counts, unless it is a deletion. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "shards/machine/kv/kv_internal.h"

enum thole_code kv__damaged(struct thole_status *st, const char *what)
{
    return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "a stored %s is damaged", what);
}

enum thole_code kv__get(const struct kv_reader *r, struct slice key, struct buf **ret,
                        struct thole_status *st)
{
    struct kv *kv = r->kv;
    struct thole_status why;
    enum thole_code code = r->batch != NULL ? state_batch_get(r->batch, kv->space, key, ret, &why)
                                            : state_get(kv->db, r->view, kv->space, key, ret, &why);

    if (code != THOLE_OK && code != THOLE_NOT_FOUND && st != NULL) {
        *st = why;
    }
    return code;
}

struct state_iter *kv__iter(const struct kv_reader *r, struct slice from, struct slice to)
{
    struct kv *kv = r->kv;

    return r->batch != NULL ? state_batch_iter_new(r->batch, kv->space, from, to)
                            : state_iter_new(kv->db, r->view, kv->space, from, to);
}

struct state_iter *kv__iter_prefix(const struct kv_reader *r, enum kv_prefix prefix,
                                   struct slice from)
{
    uint8_t end = (uint8_t)(prefix + 1);
    struct bytes lower = {0};

    kv__key(&lower, prefix, from);
    struct state_iter *it = kv__iter(r, bytes_slice(&lower), slice_of(&end, 1));
    bytes_deinit(&lower);
    return it;
}

enum thole_code kv__get_change(const struct kv_reader *r, struct kv_at at, struct kv_change *ret,
                               struct buf **ret_buf, struct thole_status *st)
{
    struct bytes key = {0};
    struct buf *stored = NULL;

    kv__key_change(&key, at);
    enum thole_code code = kv__get(r, bytes_slice(&key), &stored, st);
    bytes_deinit(&key);
    if (code != THOLE_OK) {
        return code;
    }
    if (!kv__change_decode(slice_of(stored->data, stored->size), ret)) {
        buf_unref(stored);
        return kv__damaged(st, "change");
    }
    ret->at = at;
    *ret_buf = stored;
    return THOLE_OK;
}

/* The whole item from its change's record, which must exist. */
static enum thole_code fetch_item(const struct kv_reader *r, struct kv_at at, struct kv_item *ret,
                                  struct buf **ret_buf, struct thole_status *st)
{
    struct kv_change change;
    enum thole_code code = kv__get_change(r, at, &change, ret_buf, st);

    if (code == THOLE_NOT_FOUND) {
        return kv__damaged(st, "key");
    }
    if (code == THOLE_OK) {
        ret->value_elsewhere = false;
        ret->sub = at.sub;
        ret->encoded = change.encoded;
        ret->whole_bytes = change.encoded.size;
        if (change.deletion || !kv__wire_item_decode(change.encoded, ret)) {
            buf_unref(*ret_buf);
            return kv__damaged(st, "change");
        }
    }
    return code;
}

/* The slices of the item point into `stored`, or after the copy into the arena. */
static bool decode_copy(struct slice stored, struct arena *arena, struct kv_item *ret)
{
    return kv__latest_decode(arena_copy(arena, stored), ret);
}

enum thole_code kv__get_latest(const struct kv_reader *r, struct slice key, bool with_value,
                               struct arena *arena, struct kv_item *ret, bool *ret_found,
                               struct thole_status *st)
{
    struct bytes full = {0};
    struct buf *stored = NULL;

    kv__key(&full, KV_PREFIX_LATEST, key);
    enum thole_code code = kv__get(r, bytes_slice(&full), &stored, st);
    bytes_deinit(&full);
    *ret_found = code == THOLE_OK;
    if (code != THOLE_OK) {
        return code == THOLE_NOT_FOUND ? THOLE_OK : code;
    }
    bool ok = decode_copy(slice_of(stored->data, stored->size), arena, ret);
    buf_unref(stored);
    if (!ok) {
        return kv__damaged(st, "key");
    }
    if (with_value && ret->value_elsewhere) {
        struct kv_item whole = {0};
        code = fetch_item(r, (struct kv_at){ret->mod, ret->sub}, &whole, &stored, st);
        if (code == THOLE_OK) {
            ret->encoded = arena_copy(arena, whole.encoded);
            ret->value_elsewhere = false;
            ok = kv__wire_item_decode(ret->encoded, ret);
            ASSERT(ok);
            buf_unref(stored);
        }
    }
    return code;
}

/* ---- Ranges ---------------------------------------------------------------------------------- */

struct kv_keys kv__keys_of(struct slice key, struct slice range_end)
{
    struct kv_keys k = {.from = key, .to = range_end};

    k.one = k.to.size == 0;
    if (k.to.size == 1 && k.to.data[0] == 0) {
        k.to = (struct slice){0};
    }
    return k;
}

struct kv_keys kv__keys(upb_StringView key, upb_StringView range_end)
{
    return kv__keys_of(kv__slice(key), kv__slice(range_end));
}

bool kv__keys_contain(const struct kv_keys *k, struct slice key)
{
    if (k->one) {
        return slice_equal(k->from, key);
    }
    return slice_compare(key, k->from) >= 0 && (k->to.size == 0 || slice_compare(key, k->to) < 0);
}

struct kv_scan {
    const struct kv_reader *r;
    struct kv_keys keys;
    int64_t revision;
    bool with_values;
    enum thole_code code;
    struct thole_status st;
    /* Latest keys: the next one, not yet taken. A range of one key needs no iterator. */
    struct state_iter *latest;
    struct buf *one;
    bool has_latest;
    bool taken; /* `next` was returned by the last call: move on in the next one */
    struct kv_item next;
    /* History: the newest version at or before the revision of the next key, not yet taken. */
    struct state_iter *history;
    bool has_history;
    struct bytes past_key;
    struct kv_at past_at;
    bool past_deleted;
    /* The first record of the key after it, where the walk stands. */
    bool has_ahead;
    struct bytes ahead_key;
    struct kv_at ahead_at;
    bool ahead_deleted;
    struct buf *fetched; /* what the returned item points into, if not into `latest` */
    struct bytes key_copy;
};

static bool fail(struct kv_scan *s, enum thole_code code)
{
    s->code = code;
    return false;
}

static void find_one(struct kv_scan *s)
{
    struct bytes key = {0};

    kv__key(&key, KV_PREFIX_LATEST, s->keys.from);
    enum thole_code code = kv__get(s->r, bytes_slice(&key), &s->one, &s->st);
    bytes_deinit(&key);
    s->has_latest = code == THOLE_OK;
    if (code != THOLE_OK && code != THOLE_NOT_FOUND) {
        (void)fail(s, code);
    } else if (s->has_latest &&
               !kv__latest_decode(slice_of(s->one->data, s->one->size), &s->next)) {
        s->has_latest = fail(s, kv__damaged(&s->st, "key"));
    }
}

static void advance_latest(struct kv_scan *s)
{
    struct slice key, stored;

    if (s->keys.one) {
        s->has_latest = false;
        return;
    }
    s->has_latest = state_iter_next(s->latest, &key, &stored);
    if (s->has_latest && !kv__latest_decode(stored, &s->next)) {
        s->has_latest = fail(s, kv__damaged(&s->st, "key"));
    }
}

static bool read_ahead(struct kv_scan *s)
{
    struct slice key, stored;
    struct kv_past past;

    s->has_ahead = state_iter_next(s->history, &key, &stored);
    if (s->has_ahead &&
        (!kv__parse_history(slice_of(key.data + 1, key.size - 1), &s->ahead_key, &s->ahead_at) ||
         !kv__past_decode(stored, &past))) {
        s->has_ahead = fail(s, kv__damaged(&s->st, "version"));
    }
    s->ahead_deleted = s->has_ahead && past.deletion;
    return s->has_ahead;
}

/* Versions of a key come newest first: take the first that is not too new, skip the others. */
static void advance_history(struct kv_scan *s)
{
    s->has_history = false;
    while (s->has_ahead && !s->has_history) {
        if (s->ahead_at.revision > s->revision) {
            (void)read_ahead(s);
            continue;
        }
        bytes_clear(&s->past_key);
        bytes_append_slice(&s->past_key, bytes_slice(&s->ahead_key));
        s->past_at = s->ahead_at;
        s->past_deleted = s->ahead_deleted;
        s->has_history = true;
        while (read_ahead(s) &&
               slice_equal(bytes_slice(&s->ahead_key), bytes_slice(&s->past_key))) {
        }
    }
}

/* [from, to) of a prefix; `to` of one key is the key and a zero byte, the next possible key. */
static struct state_iter *iter_of(struct kv_scan *s, enum kv_prefix prefix)
{
    static const uint8_t zero = 0;
    bool history = prefix == KV_PREFIX_HISTORY;
    struct bytes lower = {0}, upper = {0}, to = {0};

    bytes_append_slice(&to, s->keys.one ? s->keys.from : s->keys.to);
    if (s->keys.one) {
        bytes_append(&to, &zero, 1);
    }
    if (history) {
        if (s->keys.one) { /* skip the newer versions */
            kv__key_history(&lower, s->keys.from, (struct kv_at){s->revision, UINT32_MAX});
        } else {
            kv__key_history_start(&lower, s->keys.from);
        }
        kv__key_history_start(&upper, bytes_slice(&to));
    } else {
        kv__key(&lower, prefix, s->keys.from);
        kv__key(&upper, prefix, bytes_slice(&to));
    }
    if (to.size == 0) {
        kv__key(&upper, prefix + 1, (struct slice){0});
    }
    struct state_iter *it = kv__iter(s->r, bytes_slice(&lower), bytes_slice(&upper));
    bytes_deinit(&lower);
    bytes_deinit(&upper);
    bytes_deinit(&to);
    return it;
}

struct kv_scan *kv__scan_new(const struct kv_reader *r, const struct kv_keys *keys,
                             int64_t revision, bool with_values)
{
    struct kv_scan *s = xcalloc(1, sizeof *s);

    s->r = r;
    s->keys = *keys;
    s->revision = revision;
    s->with_values = with_values;
    if (!keys->one && keys->to.size > 0 && slice_compare(keys->from, keys->to) >= 0) {
        return s; /* an empty range */
    }
    if (keys->one) {
        find_one(s);
    } else {
        s->latest = iter_of(s, KV_PREFIX_LATEST);
        advance_latest(s);
    }
    if (revision < r->revision) {
        s->history = iter_of(s, KV_PREFIX_HISTORY);
        if (read_ahead(s)) {
            advance_history(s);
        }
    }
    return s;
}

static bool give_latest(struct kv_scan *s, struct kv_item *ret)
{
    *ret = s->next;
    if (ret->value_elsewhere && s->with_values) {
        enum thole_code code =
            fetch_item(s->r, (struct kv_at){ret->mod, ret->sub}, ret, &s->fetched, &s->st);
        return code == THOLE_OK || fail(s, code);
    }
    return true;
}

static bool give_past(struct kv_scan *s, struct kv_item *ret)
{
    if (!s->with_values) {
        bytes_clear(&s->key_copy);
        bytes_append_slice(&s->key_copy, bytes_slice(&s->past_key));
        *ret = (struct kv_item){.key = bytes_slice(&s->key_copy), .value_elsewhere = true};
        return true;
    }
    enum thole_code code = fetch_item(s->r, s->past_at, ret, &s->fetched, &s->st);
    return code == THOLE_OK || fail(s, code);
}

bool kv__scan_next(struct kv_scan *s, struct kv_item *ret)
{
    buf_unref(s->fetched);
    s->fetched = NULL;
    if (s->taken) {
        s->taken = false;
        advance_latest(s);
    }
    while (s->code == THOLE_OK && (s->has_latest || s->has_history)) {
        int order = !s->has_latest    ? 1
                    : !s->has_history ? -1
                                      : slice_compare(s->next.key, bytes_slice(&s->past_key));
        bool current = order <= 0 && s->next.mod <= s->revision;
        bool past = order >= 0 && !current && !s->past_deleted;
        bool given = false;

        if (current) {
            given = give_latest(s, ret);
        } else if (past) {
            given = give_past(s, ret);
        }
        if (order >= 0) {
            advance_history(s);
        }
        if (current && given) {
            s->taken = true;
        } else if (order <= 0) {
            advance_latest(s);
        }
        if (given || s->code != THOLE_OK) {
            return given && s->code == THOLE_OK;
        }
    }
    return false;
}

enum thole_code kv__scan_status(struct kv_scan *s, struct thole_status *st)
{
    if (s->code != THOLE_OK) {
        if (st != NULL) {
            *st = s->st;
        }
        return s->code;
    }
    enum thole_code code = s->latest != NULL ? state_iter_status(s->latest, st) : THOLE_OK;
    return code == THOLE_OK && s->history != NULL ? state_iter_status(s->history, st) : code;
}

void kv__scan_free(struct kv_scan *s)
{
    if (s != NULL) {
        state_iter_free(s->latest);
        state_iter_free(s->history);
        bytes_deinit(&s->past_key);
        bytes_deinit(&s->ahead_key);
        bytes_deinit(&s->key_copy);
        buf_unref(s->one);
        buf_unref(s->fetched);
        free(s);
    }
}
