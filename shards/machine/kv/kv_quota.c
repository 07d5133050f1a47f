/* The quota, and alarms. The size that counts is logical, so every replica refuses the same entry.
 * Once the alarm is raised, what adds data is refused until the alarm is taken away. */
#include <stdlib.h>

#include "shards/machine/kv/kv_internal.h"

enum { ALARM_MEMBER = 1, ALARM_TYPE = 2, RESPONSE_ALARMS = 2 };

uint64_t kv__parse_quota(struct thole_slice config)
{
    static const char name[] = "quota_bytes=";
    struct slice in = slice_of(config.data, config.size);
    uint64_t v = 0;

    while (in.size > 0) {
        size_t n = 0;
        while (n < in.size && in.data[n] != '\n') {
            n++;
        }
        struct slice line = slice_of(in.data, n);
        in = slice_of(in.data + n + (n < in.size), in.size - n - (n < in.size));
        if (line.size < sizeof name ||
            !slice_equal(slice_of(line.data, sizeof name - 1), slice_str(name))) {
            continue;
        }
        v = 0;
        for (size_t i = sizeof name - 1; i < line.size; i++) {
            uint8_t c = line.data[i];
            if (c < '0' || c > '9' || v > (UINT64_MAX - 9) / 10) {
                return 0;
            }
            v = v * 10 + (uint64_t)(c - '0');
        }
    }
    return v;
}

static void key_alarm(struct bytes *out, uint64_t member, int type)
{
    uint8_t byte = (uint8_t)type;

    kv__key_u64_rest(out, KV_PREFIX_ALARM, member, slice_of(&byte, 1));
}

static uint32_t *counter(struct kv *kv, int type)
{
    return type == etcdserverpb_NOSPACE ? &kv->state.no_space : &kv->state.corrupt;
}

/* Whether the alarm is there. */
static enum thole_code look(struct kv_exec *x, uint64_t member, int type, bool *ret,
                            struct thole_status *st)
{
    struct buf *stored = NULL;

    key_alarm(&x->key, member, type);
    enum thole_code code = kv__get(&x->reader, bytes_slice(&x->key), &stored, st);
    buf_unref(stored);
    *ret = code == THOLE_OK;
    return code == THOLE_NOT_FOUND ? THOLE_OK : code;
}

static void raise_alarm(struct kv_exec *x, uint64_t member, int type)
{
    key_alarm(&x->key, member, type);
    kv__batch_put(x, bytes_slice(&x->key), (struct slice){0});
    (*counter(x->kv, type))++;
}

const struct kv_refusal *kv__check_space(struct kv_exec *x, uint64_t cost)
{
    struct kv *kv = x->kv;

    if (kv->state.no_space == 0 && kv->quota_bytes != 0 &&
        kv->state.bytes + cost > kv->quota_bytes) {
        raise_alarm(x, 0, etcdserverpb_NOSPACE); /* of no single member: the size is logical */
    }
    return kv->state.no_space > 0 ? &kv__no_space : NULL;
}

static void append_alarm(struct bytes *out, uint64_t member, int type)
{
    struct bytes one = {0};

    kv__wire_number(&one, ALARM_MEMBER, member);
    kv__wire_number(&one, ALARM_TYPE, (uint64_t)type);
    kv__wire_message(out, RESPONSE_ALARMS, bytes_slice(&one));
    bytes_deinit(&one);
}

enum thole_code kv__do_alarm(struct kv_exec *x, const etcdserverpb_AlarmRequest *m,
                             struct thole_status *st)
{
    uint64_t member = etcdserverpb_AlarmRequest_memberID(m);
    int type = etcdserverpb_AlarmRequest_alarm(m), action = etcdserverpb_AlarmRequest_action(m);
    bool known = type == etcdserverpb_NOSPACE || type == etcdserverpb_CORRUPT;
    bool there = false;
    enum thole_code code = THOLE_OK;

    if (action == etcdserverpb_AlarmRequest_GET) {
        return kv__alarm_list(&x->reader, m, &x->out, st);
    }
    kv__wire_header(&x->out, kv__revision(x));
    if (known) {
        code = look(x, member, type, &there, st);
    }
    if (code != THOLE_OK || !known) {
        return code;
    }
    if (action == etcdserverpb_AlarmRequest_ACTIVATE && !there) {
        if (x->kv->state.no_space + x->kv->state.corrupt >= KV_ALARMS_MAX) {
            x->refusal = &kv__too_many_alarms;
            return THOLE_OK;
        }
        raise_alarm(x, member, type);
        there = true;
    } else if (action == etcdserverpb_AlarmRequest_DEACTIVATE && there) {
        key_alarm(&x->key, member, type);
        kv__batch_delete(x, bytes_slice(&x->key));
        (*counter(x->kv, type))--;
    }
    if (there) {
        append_alarm(&x->out, member, type);
    }
    return THOLE_OK;
}

enum thole_code kv__alarm_list(const struct kv_reader *r, const etcdserverpb_AlarmRequest *m,
                               struct bytes *out, struct thole_status *st)
{
    int wanted = etcdserverpb_AlarmRequest_alarm(m);
    struct state_iter *it = kv__iter_prefix(r, KV_PREFIX_ALARM, (struct slice){0});
    struct slice key, value;

    kv__wire_header(out, r->revision);
    while (state_iter_next(it, &key, &value)) {
        if (wanted == etcdserverpb_NONE || wanted == key.data[9]) {
            append_alarm(out, get_be64(key.data + 1), key.data[9]);
        }
    }
    enum thole_code code = state_iter_status(it, st);
    state_iter_free(it);
    return code;
}
