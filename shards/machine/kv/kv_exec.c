/* One command of the log. */
#include "proto/decode.h"
#include "shards/machine/kv/kv_internal.h"

/* What is refused while an alarm is raised, or because of the quota. */
static const struct kv_refusal *check_alarms(struct kv_exec *x, const thole_kv_v1_Command *m)
{
    uint64_t cost = 0;

    if (thole_kv_v1_Command_has_alarm(m)) {
        return NULL;
    }
    if (x->kv->state.corrupt > 0) {
        return &kv__corrupt;
    }
    if (thole_kv_v1_Command_has_put(m)) {
        const etcdserverpb_PutRequest *put = thole_kv_v1_Command_put(m);
        cost = kv__change_bytes(etcdserverpb_PutRequest_key(put).size +
                                etcdserverpb_PutRequest_value(put).size);
    } else if (thole_kv_v1_Command_has_txn(m)) {
        cost = kv__txn_cost(thole_kv_v1_Command_txn(m));
    } else if (thole_kv_v1_Command_has_lease_grant(m)) {
        cost = 1;
    }
    return cost > 0 ? kv__check_space(x, cost) : NULL;
}

static const struct kv_refusal *check_form(const thole_kv_v1_Command *m)
{
    switch ((int)thole_kv_v1_Command_op_case(m)) {
    case thole_kv_v1_Command_op_put:
        return kv__check_put(thole_kv_v1_Command_put(m));
    case thole_kv_v1_Command_op_delete_range:
        return kv__check_delete(thole_kv_v1_Command_delete_range(m));
    case thole_kv_v1_Command_op_txn:
        return kv__check_txn(thole_kv_v1_Command_txn(m));
    case thole_kv_v1_Command_op_range:
        return kv__check_range(thole_kv_v1_Command_range(m));
    case thole_kv_v1_Command_op_NOT_SET:
        return &kv__malformed;
    case thole_kv_v1_Command_op_compact:
    case thole_kv_v1_Command_op_lease_grant:
    case thole_kv_v1_Command_op_lease_revoke:
    case thole_kv_v1_Command_op_lease_keep_alive:
    case thole_kv_v1_Command_op_alarm:
    default: /* of auth: see kv__do_auth */
        return NULL;
    }
}

static enum thole_code dispatch(struct kv_exec *x, const thole_kv_v1_Command *m,
                                struct thole_status *st)
{
    switch ((int)thole_kv_v1_Command_op_case(m)) {
    case thole_kv_v1_Command_op_put:
        return kv__do_put(x, thole_kv_v1_Command_put(m), &x->out, st);
    case thole_kv_v1_Command_op_delete_range:
        return kv__do_delete(x, thole_kv_v1_Command_delete_range(m), &x->out, st);
    case thole_kv_v1_Command_op_txn:
        return kv__do_txn(x, &x->reader, thole_kv_v1_Command_txn(m), &x->out, &x->refusal, st);
    case thole_kv_v1_Command_op_compact:
        return kv__do_compact(x, thole_kv_v1_Command_compact(m), st);
    case thole_kv_v1_Command_op_lease_grant:
        return kv__do_grant(x, thole_kv_v1_Command_lease_grant(m), st);
    case thole_kv_v1_Command_op_lease_revoke:
        return kv__do_revoke(x, thole_kv_v1_Command_lease_revoke(m), st);
    case thole_kv_v1_Command_op_lease_keep_alive:
        return kv__do_keep_alive(x, thole_kv_v1_Command_lease_keep_alive(m), st);
    case thole_kv_v1_Command_op_alarm:
        return kv__do_alarm(x, thole_kv_v1_Command_alarm(m), st);
    case thole_kv_v1_Command_op_range:
        return kv__range(&x->reader, thole_kv_v1_Command_range(m), &x->out, &x->refusal, st);
    case thole_kv_v1_Command_op_NOT_SET:
        return THOLE_OK;
    default:
        return kv__do_auth(x, m, st);
    }
}

/* Whether the answer can be larger than results may be. */
static bool may_answer_much(const thole_kv_v1_Command *m)
{
    return thole_kv_v1_Command_has_txn(m) ||
           (thole_kv_v1_Command_has_delete_range(m) &&
            etcdserverpb_DeleteRangeRequest_prev_kv(thole_kv_v1_Command_delete_range(m)));
}

static enum thole_code execute_message(struct kv_exec *x, const thole_kv_v1_Command *m,
                                       struct thole_status *st)
{
    struct kv_state before = x->kv->state;
    size_t events = x->event_count, event_bytes = x->event_bytes.size, deltas = x->delta_count;
    bool much = may_answer_much(m);

    enum thole_code code = THOLE_OK;

    x->refusal = check_form(m);
    if (x->refusal == NULL) {
        code = kv__permit_command(x, m, &x->refusal, st);
    }
    if (code == THOLE_OK && x->refusal == NULL) {
        x->refusal = check_alarms(x, m);
    }
    if (code != THOLE_OK || x->refusal != NULL) {
        return code;
    }
    if (much) {
        state_batch_mark(x->reader.batch);
    }
    code = dispatch(x, m, st);
    if (x->out.size > LIMIT_RESULT_BYTES) {
        x->refusal = &kv__too_large;
    }
    if (much && x->refusal != NULL) {
        state_batch_undo(x->reader.batch);
        x->kv->state = before;
        x->event_count = events;
        x->event_bytes.size = event_bytes;
        x->delta_count = deltas;
        x->subs = 0;
    }
    return code;
}

void kv__finish_revision(struct kv_exec *x)
{
    x->kv->state.revision = kv__revision(x);
    x->begin = x->kv->state.revision;
    x->subs = 0;
    x->reader.revision = x->begin;
}

enum thole_code kv__execute(struct kv_exec *x, struct thole_slice payload, struct thole_status *st)
{
    struct slice in = slice_of(payload.data, payload.size);
    enum thole_code code = THOLE_OK;

    arena_reset(x->arena);
    bytes_clear(&x->out);
    x->refusal = NULL;
    if (in.size == 0 || in.data[0] != KV_PROTO_BYTE) {
        code = kv__text_execute(x, in, st); /* refuses all while auth is enabled */
    } else {
        const thole_kv_v1_Command *m =
            PROTO_DECODE_ALIAS(thole_kv_v1_Command, slice_of(in.data + 1, in.size - 1), x->upb);
        if (m == NULL) {
            x->refusal = &kv__malformed;
        } else {
            code = execute_message(x, m, st);
        }
    }
    kv__finish_revision(x);
    return code;
}
