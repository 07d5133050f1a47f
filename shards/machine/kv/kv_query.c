/* Queries: reads on a view, on any thread. */
#include "proto/decode.h"
#include "shards/machine/kv/kv_internal.h"

static void status(const struct kv_reader *r, struct bytes *out)
{
    const struct kv_state *s = r->state;

    kv__wire_number(out, 1, (uint64_t)s->revision);
    kv__wire_number(out, 2, (uint64_t)s->compacted);
    kv__wire_number(out, 3, (uint64_t)s->walk.revision);
    kv__wire_number(out, 4, s->keys);
    kv__wire_number(out, 5, s->leases);
    kv__wire_number(out, 6, s->bytes);
    kv__wire_number(out, 7, r->kv->quota_bytes);
}

static const struct kv_refusal *check_form(const thole_kv_v1_Query *m)
{
    switch ((int)thole_kv_v1_Query_op_case(m)) {
    case thole_kv_v1_Query_op_range:
        return kv__check_range(thole_kv_v1_Query_range(m));
    case thole_kv_v1_Query_op_txn:
        return kv__check_txn(thole_kv_v1_Query_txn(m));
    case thole_kv_v1_Query_op_NOT_SET:
        return &kv__malformed;
    default:
        return NULL;
    }
}

static enum thole_code dispatch(const struct kv_reader *r, const thole_kv_v1_Query *m,
                                struct bytes *out, const struct kv_refusal **refusal,
                                struct thole_status *st)
{
    switch ((int)thole_kv_v1_Query_op_case(m)) {
    case thole_kv_v1_Query_op_range:
        return kv__range(r, thole_kv_v1_Query_range(m), out, refusal, st);
    case thole_kv_v1_Query_op_txn:
        return kv__do_txn(NULL, r, thole_kv_v1_Query_txn(m), out, refusal, st);
    case thole_kv_v1_Query_op_lease_time_to_live:
        return kv__lease_time_to_live(r, thole_kv_v1_Query_lease_time_to_live(m), out, st);
    case thole_kv_v1_Query_op_lease_leases:
        return kv__lease_list(r, out, st);
    case thole_kv_v1_Query_op_hash_kv:
        return kv__hash(r, thole_kv_v1_Query_hash_kv(m), out, refusal, st);
    case thole_kv_v1_Query_op_alarm:
        return kv__alarm_list(r, thole_kv_v1_Query_alarm(m), out, st);
    case thole_kv_v1_Query_op_events:
        return kv__events(r, thole_kv_v1_Query_events(m), kv__slice(thole_kv_v1_Query_token(m)),
                          out, refusal, st);
    case thole_kv_v1_Query_op_status:
        status(r, out);
        return THOLE_OK;
    case thole_kv_v1_Query_op_permit:
        return kv__permit_ranges(r, m, out, refusal, st);
    case thole_kv_v1_Query_op_salt:
    case thole_kv_v1_Query_op_login:
        return kv__token_query(r, m, out, refusal, st);
    default:
        return kv__auth_query(r, m, out, refusal, st);
    }
}

enum thole_code kv__admit_query(const struct kv_reader *r, const thole_kv_v1_Query *m,
                                const struct kv_refusal **ret_refusal, struct thole_status *st)
{
    *ret_refusal = check_form(m);
    return *ret_refusal == NULL ? kv__permit_query(r, m, ret_refusal, st) : THOLE_OK;
}

static enum thole_code query_message(const struct kv_reader *r, const thole_kv_v1_Query *m,
                                     struct bytes *out, const struct kv_refusal **refusal,
                                     struct thole_status *st)
{
    enum thole_code code = kv__admit_query(r, m, refusal, st);
    return code == THOLE_OK && *refusal == NULL ? dispatch(r, m, out, refusal, st) : code;
}

enum thole_code kv__query(void *machine, const void *view, struct thole_slice query,
                          struct thole_sink *answer, struct thole_status *st)
{
    const struct kv_view *v = view;
    struct kv_reader r = {
        .kv = machine, .view = v->db, .state = &v->state, .revision = v->state.revision};
    struct slice in = slice_of(query.data, query.size);
    const struct kv_refusal *refusal = NULL;
    struct bytes out = {0};
    enum thole_code code;

    if (in.size == 0 || in.data[0] != KV_PROTO_BYTE) {
        code = kv__text_query(&r, in, &out, &refusal, st);
    } else {
        upb_Arena *arena = upb_Arena_New();
        const thole_kv_v1_Query *m =
            PROTO_DECODE_ALIAS(thole_kv_v1_Query, slice_of(in.data + 1, in.size - 1), arena);
        refusal = m == NULL ? &kv__malformed : NULL;
        code = m != NULL ? query_message(&r, m, &out, &refusal, st) : THOLE_OK;
        upb_Arena_Free(arena);
    }
    if (code == THOLE_OK && refusal != NULL) {
        enum thole_reason reason =
            refusal == &kv__too_large ? THOLE_REASON_TOO_LARGE : THOLE_REASON_NONE;
        code = THOLE_FAIL(st, refusal->code, reason, "%s", refusal->text);
    }
    if (code == THOLE_OK && out.size > 0) {
        code = answer->write(answer, out.data, out.size);
    }
    bytes_deinit(&out);
    return code;
}
