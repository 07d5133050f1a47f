/* The key-value machine: a persistent machine over the host's state database. */
#include <stdlib.h>

#include "shards/machine/builtin.h"
#include "shards/machine/kv/kv_internal.h"

bool kv__item_decode(struct slice stored, struct kv_item *ret)
{
    if (stored.size < KV_STORED_HEADER_BYTES) {
        return false;
    }
    ret->create_index = get_le64(stored.data);
    ret->mod_index = get_le64(stored.data + 8);
    ret->version = get_le64(stored.data + 16);
    ret->value =
        slice_of(stored.data + KV_STORED_HEADER_BYTES, stored.size - KV_STORED_HEADER_BYTES);
    return true;
}

void kv__item_encode(const struct kv_item *item, struct bytes *out)
{
    bytes_clear(out);
    uint8_t *p = bytes_extend(out, KV_STORED_HEADER_BYTES);
    put_le64(p, item->create_index);
    put_le64(p + 8, item->mod_index);
    put_le64(p + 16, item->version);
    bytes_append_slice(out, item->value);
}

void kv__user_key(struct bytes *out, struct slice key)
{
    uint8_t prefix = KV_PREFIX_USER;

    bytes_clear(out);
    bytes_append(out, &prefix, 1);
    bytes_append_slice(out, key);
}

/* ---- Open and close -------------------------------------------------------------------------- */

static void kv_close(void *machine)
{
    free(machine);
}

void kv__work_begin(struct kv *kv)
{
    kv->batch = state_batch_new(kv->db);
    kv->arena = arena_new();
}

void kv__work_end(struct kv *kv)
{
    state_batch_free(kv->batch);
    arena_free(kv->arena);
    bytes_deinit(&kv->out);
    kv->batch = NULL;
    kv->arena = NULL;
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
    enum thole_code code = report_meta(kv, env, st);
    if (code != THOLE_OK) {
        kv_close(kv);
        return code;
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

const char *kv__parse_command(struct thole_slice payload, upb_Arena *arena, struct kv_op *ret)
{
    struct slice in = slice_of(payload.data, payload.size);

    *ret = (struct kv_op){.text = in.size == 0 || in.data[0] != KV_PROTO_BYTE};
    return ret->text ? kv__text_command(in, ret)
                     : kv__proto_command(slice_of(in.data + 1, in.size - 1), arena, ret);
}

static enum thole_code apply_entry(struct kv_batch *b, struct thole_entry *e,
                                   struct thole_status *st)
{
    struct kv_result result = {0};
    struct kv_op op;

    result.error = kv__parse_command(e->command, b->upb, &op);
    if (result.error != NULL) {
        result.code = KV_INVALID;
    } else {
        enum thole_code code = kv__exec(b, &op, e->index, &result, st);
        if (code != THOLE_OK) {
            return code;
        }
    }
    e->code = result.code;
    if (op.text) {
        kv__text_result(&result, &b->kv->out);
    } else {
        kv__proto_result(&result, b->upb, &b->kv->out);
    }
    enum thole_code code = e->result->write(e->result, b->kv->out.data, b->kv->out.size);
    return code == THOLE_OK
               ? THOLE_OK
               : THOLE_FAIL(st, code, THOLE_REASON_NONE, "the result could not be written");
}

/* Called after the changes are in the database. */
static void send_events(struct kv_batch *b, struct thole_watch_sink *watch)
{
    for (size_t i = 0; i < b->event_count; i++) {
        const struct kv_event *ev = &b->events[i];

        kv__proto_event(&ev->item, ev->deleted, b->upb, &b->kv->out);
        watch->event(watch, ev->index, (struct thole_slice){ev->item.key.data, ev->item.key.size},
                     (struct thole_slice){b->kv->out.data, b->kv->out.size});
    }
}

static enum thole_code kv_apply(void *machine, struct thole_apply *batch, struct thole_status *st)
{
    struct kv *kv = machine;
    struct kv_batch b;
    enum thole_code code = THOLE_OK;

    kv__batch_init(&b, kv, batch->watch != NULL);
    for (size_t i = 0; i < batch->entry_count && code == THOLE_OK; i++) {
        code = apply_entry(&b, &batch->entries[i], st);
    }
    if (code == THOLE_OK) {
        size_t meta_count = 0;
        const struct thole_meta *meta =
            batch->metadata != NULL ? batch->metadata(batch, &meta_count) : NULL;
        code = kv__batch_write(&b, meta, meta_count, st);
    }
    if (code == THOLE_OK && batch->watch != NULL) {
        send_events(&b, batch->watch);
    }
    kv__batch_deinit(&b);
    return code;
}

/* ---- Views ----------------------------------------------------------------------------------- */

static enum thole_code kv_view_acquire(void *machine, void **ret, struct thole_status *st)
{
    (void)st;
    *ret = state_view_acquire(((struct kv *)machine)->db);
    return THOLE_OK;
}

static void kv_view_release(void *machine, void *view)
{
    state_view_release(((struct kv *)machine)->db, view);
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
};
