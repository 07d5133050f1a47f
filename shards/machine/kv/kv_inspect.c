/* Looking at the data of a kv machine that is not open. See kv_inspect.h. */
#include "shards/machine/kv/kv_inspect.h"

#include "shards/machine/kv/kv_internal.h"

static enum thole_code take_state(struct slice value, struct kv_seen *ret, struct thole_status *st)
{
    struct kv_state s;

    if (!kv__state_is_current(value)) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_FORMAT,
                          "the data was written by another version of the kv machine");
    }
    if (!kv__state_decode(value, &s)) {
        return kv__damaged(st, "state");
    }
    ret->exists = true;
    ret->revision = s.revision;
    ret->compacted = s.compacted;
    ret->keys = s.keys;
    ret->leases = s.leases;
    ret->bytes = s.bytes;
    ret->auth = s.auth.enabled;
    ret->users = s.auth.users;
    ret->roles = s.auth.roles;
    return THOLE_OK;
}

enum thole_code kv_look(struct state_db *db, struct state_space space,
                        void (*meta)(void *ctx, struct slice key, struct slice value), void *ctx,
                        struct kv_seen *ret, struct thole_status *st)
{
    struct slice key, value;
    enum thole_code code = THOLE_OK;
    struct state_iter *it = state_iter_new(db, NULL, space, (struct slice){0}, (struct slice){0});

    *ret = (struct kv_seen){0};
    while (code == THOLE_OK && state_iter_next(it, &key, &value)) {
        ret->records++;
        ret->record_bytes += key.size + value.size;
        if (key.size > 0 && key.data[0] == KV_PREFIX_META) {
            meta(ctx, slice_of(key.data + 1, key.size - 1), value);
        } else if (key.size == 1 && key.data[0] == KV_PREFIX_STATE) {
            code = take_state(value, ret, st);
        } else if (!kv__record_sound(key, value)) {
            ret->malformed++;
        }
    }
    if (code == THOLE_OK) {
        code = state_iter_status(it, st);
    }
    state_iter_free(it);
    return code;
}

enum thole_code kv_look_at_keys(struct state_db *db, struct state_space space,
                                bool (*each)(void *ctx, const struct kv_key_seen *key), void *ctx,
                                struct thole_status *st)
{
    static const uint8_t from = KV_PREFIX_LATEST, to = KV_PREFIX_LATEST + 1;
    struct state_iter *it = state_iter_new(db, NULL, space, slice_of(&from, 1), slice_of(&to, 1));
    struct slice key, value;
    struct kv_item item;
    bool more = true;

    while (more && state_iter_next(it, &key, &value)) {
        if (!kv__latest_decode(value, &item)) {
            continue; /* kv_look counts it */
        }
        const struct kv_key_seen seen = {
            .key = slice_of(key.data + 1, key.size - 1),
            .create = item.create,
            .mod = item.mod,
            .version = item.version,
            .lease = item.lease,
            .bytes = item.whole_bytes,
        };
        more = each(ctx, &seen);
    }
    enum thole_code code = state_iter_status(it, st);
    state_iter_free(it);
    return code;
}
