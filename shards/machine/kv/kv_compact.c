/* Compaction. The entry records the revision; from then on older reads are refused. The walk then
 * looks once at each change below that revision, in order, and deletes the version that it
 * superseded. A deletion deletes itself as well. Every replica walks equally far with every entry,
 * so that the logical size, which the quota is about, is the same everywhere. */
#include "shards/machine/kv/kv_internal.h"

enum thole_code kv__do_compact(struct kv_exec *x, const etcdserverpb_CompactionRequest *m,
                               struct thole_status *st)
{
    struct kv_state *state = &x->kv->state;
    int64_t revision = etcdserverpb_CompactionRequest_revision(m);

    (void)st;
    if (revision <= state->compacted) {
        x->refusal = &kv__compacted;
    } else if (revision > kv__revision(x)) {
        x->refusal = &kv__future;
    } else {
        state->compacted = revision;
        kv__wire_header(&x->out, kv__revision(x));
    }
    return THOLE_OK;
}

bool kv__walk_pending(const struct kv_state *s)
{
    return s->walk.revision < s->compacted;
}

/* What the walk found, in the arena: the batch must not grow while it is read. */
struct found {
    struct slice key;
    struct kv_change change;
};

static void drop_version(struct kv_exec *x, struct slice key, struct kv_at at, uint64_t bytes)
{
    kv__key_change(&x->key, at);
    kv__batch_delete(x, bytes_slice(&x->key));
    kv__key_history(&x->key, key, at);
    kv__batch_delete(x, bytes_slice(&x->key));
    x->kv->state.bytes -= kv__change_bytes(bytes);
}

static void drop(struct kv_exec *x, const struct found *f)
{
    if (f->change.previous.revision != 0) {
        drop_version(x, f->key, f->change.previous, f->change.previous_bytes);
    }
    if (f->change.deletion) {
        drop_version(x, f->key, f->change.at, f->change.encoded.size);
    }
}

enum thole_code kv__walk(struct kv_exec *x, size_t budget, struct thole_status *st)
{
    struct kv_state *state = &x->kv->state;
    struct found *list = arena_alloc(x->arena, budget * sizeof *list);
    struct slice key, stored;
    struct kv_item item;
    size_t n = 0;
    enum thole_code code = THOLE_OK;

    kv__key_change(&x->key, state->walk);
    kv__key_change(&x->key2, (struct kv_at){state->compacted, 0});
    struct state_iter *it = kv__iter(&x->reader, bytes_slice(&x->key), bytes_slice(&x->key2));
    while (n < budget && state_iter_next(it, &key, &stored)) {
        struct found *f = &list[n];
        if (!kv__change_decode(stored, &f->change) ||
            !kv__parse_at(slice_of(key.data + 1, key.size - 1), &f->change.at) ||
            !kv__wire_item_decode(f->change.encoded, &item)) {
            code = kv__damaged(st, "change");
            break;
        }
        f->key = arena_copy(x->arena, item.key);
        n++;
    }
    if (code == THOLE_OK) {
        code = state_iter_status(it, st);
    }
    state_iter_free(it);
    for (size_t i = 0; i < n && code == THOLE_OK; i++) {
        drop(x, &list[i]);
    }
    if (n < budget) {
        state->walk = (struct kv_at){state->compacted, 0};
    } else {
        state->walk = (struct kv_at){list[n - 1].change.at.revision, list[n - 1].change.at.sub + 1};
    }
    return code;
}
