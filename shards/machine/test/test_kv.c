/* The kv machine's operations, and its refusals word by word. beside_etcd.py compares answers to
 * random requests with those of etcd. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/limits.h"
#include "base/rand.h"
#include "etcd/kv.upb.h"
#include "etcd/rpc.upb.h"
#include "proto/decode.h"
#include "shards/machine/builtin.h"
#include "shards/machine/test/machine_fixture.h"
#include "thole/kv/v1/kv.upb.h"
#include "thole/kv/v1/modify.upb.h"

struct fixture {
    struct test_machine t;
    upb_Arena *arena;
    struct bytes out;
};

static int setup_with(void **state, const char *config)
{
    struct fixture *f = xcalloc(1, sizeof *f);

    test_machine_init(&f->t, &machine_kv);
    if (config != NULL) {
        f->t.env.config = (struct thole_slice){config, strlen(config)};
        test_machine_reopen(&f->t);
    }
    f->arena = upb_Arena_New();
    *state = f;
    return 0;
}

static int setup(void **state)
{
    return setup_with(state, NULL);
}

static int setup_quota(void **state)
{
    return setup_with(state, "ignored\nquota_bytes=2000\n");
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    test_machine_deinit(&f->t);
    upb_Arena_Free(f->arena);
    bytes_deinit(&f->out);
    free(f);
    return 0;
}

static upb_StringView sv(const char *s)
{
    return upb_StringView_FromString(s);
}

/* ---- Commands -------------------------------------------------------------------------------- */

static thole_kv_v1_Command *command(struct fixture *f)
{
    return thole_kv_v1_Command_new(f->arena);
}

static struct slice with_marker(struct fixture *f, const char *data, size_t size)
{
    uint8_t *p = upb_Arena_Malloc(f->arena, size + 1);

    p[0] = 0;
    if (size > 0) {
        memcpy(p + 1, data, size);
    }
    return slice_of(p, size + 1);
}

/* The answer is in f->out. */
static uint64_t apply(struct fixture *f, const thole_kv_v1_Command *m)
{
    size_t n = 0;
    char *data = thole_kv_v1_Command_serialize(m, f->arena, &n);

    return test_apply(&f->t, with_marker(f, data, n), &f->out);
}

static void refused(struct fixture *f, const thole_kv_v1_Command *m, enum thole_code code,
                    const char *text)
{
    uint64_t got = apply(f, m);

    if (got != (uint64_t)code || !slice_equal(bytes_slice(&f->out), slice_str(text))) {
        fail_msg("%d %.*s", (int)got, (int)f->out.size, (const char *)f->out.data);
    }
}

#define ANSWER(f, type) answer_is_sound(PROTO_DECODE(type, copy_of(f), (f)->arena))

static struct slice copy_of(struct fixture *f)
{
    uint8_t *p = upb_Arena_Malloc(f->arena, f->out.size + 1);

    if (f->out.size > 0) {
        memcpy(p, f->out.data, f->out.size);
    }
    return slice_of(p, f->out.size);
}

static void *answer_is_sound(void *m)
{
    assert_non_null(m);
    return m;
}

static enum thole_code query(struct fixture *f, const thole_kv_v1_Query *m, struct thole_status *st)
{
    struct test_sink sink;
    size_t n = 0;
    void *view = NULL;
    char *data = thole_kv_v1_Query_serialize(m, f->arena, &n);
    struct slice q = with_marker(f, data, n);

    test_sink_init(&sink);
    assert_int_equal(f->t.type->view_acquire(f->t.m, &view, NULL), THOLE_OK);
    enum thole_code code =
        f->t.type->query(f->t.m, view, (struct thole_slice){q.data, q.size}, &sink.base, st);
    f->t.type->view_release(f->t.m, view);
    bytes_clear(&f->out);
    bytes_append_slice(&f->out, bytes_slice(&sink.out));
    bytes_deinit(&sink.out);
    return code;
}

static void put(struct fixture *f, const char *key, const char *value, int64_t lease)
{
    thole_kv_v1_Command *m = command(f);
    etcdserverpb_PutRequest *p = thole_kv_v1_Command_mutable_put(m, f->arena);

    etcdserverpb_PutRequest_set_key(p, sv(key));
    etcdserverpb_PutRequest_set_value(p, sv(value));
    etcdserverpb_PutRequest_set_lease(p, lease);
    assert_int_equal(apply(f, m), 0);
}

static etcdserverpb_RangeRequest *range_query(struct fixture *f, thole_kv_v1_Query **ret,
                                              const char *key, upb_StringView end)
{
    *ret = thole_kv_v1_Query_new(f->arena);
    etcdserverpb_RangeRequest *r = thole_kv_v1_Query_mutable_range(*ret, f->arena);

    etcdserverpb_RangeRequest_set_key(r, sv(key));
    etcdserverpb_RangeRequest_set_range_end(r, end);
    return r;
}

/* "key=value;" of everything, as of a revision. */
static void expect_all(struct fixture *f, int64_t revision, const char *expected)
{
    static const char zero = '\0';
    thole_kv_v1_Query *q;
    struct bytes seen = {0};
    size_t n = 0;
    etcdserverpb_RangeRequest *r = range_query(f, &q, "", (upb_StringView){&zero, 1});

    etcdserverpb_RangeRequest_set_key(r, (upb_StringView){&zero, 1});
    etcdserverpb_RangeRequest_set_revision(r, revision);
    assert_int_equal(query(f, q, NULL), THOLE_OK);
    const etcdserverpb_RangeResponse *answer = ANSWER(f, etcdserverpb_RangeResponse);
    const mvccpb_KeyValue *const *kvs = etcdserverpb_RangeResponse_kvs(answer, &n);
    assert_int_equal(etcdserverpb_RangeResponse_count(answer), n);
    for (size_t i = 0; i < n; i++) {
        upb_StringView key = mvccpb_KeyValue_key(kvs[i]), value = mvccpb_KeyValue_value(kvs[i]);
        bytes_printf(&seen, "%.*s=%.*s;", (int)key.size, key.data, (int)value.size, value.data);
    }
    if (!slice_equal(bytes_slice(&seen), slice_str(expected))) {
        fail_msg("%.*s instead of %s", (int)seen.size, (const char *)seen.data, expected);
    }
    bytes_deinit(&seen);
}

static const thole_kv_v1_StoreStatus *status(struct fixture *f)
{
    thole_kv_v1_Query *q = thole_kv_v1_Query_new(f->arena);

    thole_kv_v1_Query_mutable_status(q, f->arena);
    assert_int_equal(query(f, q, NULL), THOLE_OK);
    return ANSWER(f, thole_kv_v1_StoreStatus);
}

/* ---- History and compaction ------------------------------------------------------------------ */

static void test_kv_earlier_revisions_can_be_read(void **state)
{
    struct fixture *f = *state;
    char large[2000] = "", expected[2010];

    memset(large, 'x', sizeof large - 1); /* not stored with the latest key */
    put(f, "a", "1", 0);                  /* revision 2 */
    put(f, "b", large, 0);
    put(f, "a", "2", 0);
    test_text(&f->t, "delete a", 0, "deleted 1");
    put(f, "b", "small", 0); /* 6 */
    put(f, "a", "3", 0);
    expect_all(f, 1, "");
    expect_all(f, 2, "a=1;");
    snprintf(expected, sizeof expected, "b=%s;", large);
    expect_all(f, 5, expected);
    expect_all(f, 6, "b=small;");
    expect_all(f, 0, "a=3;b=small;");
}

static void test_kv_compaction_drops_what_was_superseded(void **state)
{
    struct fixture *f = *state;
    struct thole_status st = {0};
    thole_kv_v1_Query *q;
    char text[64];

    for (int i = 0; i < 200; i++) {
        snprintf(text, sizeof text, "%d", i);
        put(f, "a", text, 0); /* 2 to 201 */
    }
    put(f, "b", "kept", 0);
    test_text(&f->t, "delete a", 0, "deleted 1"); /* 203 */
    uint64_t before = thole_kv_v1_StoreStatus_bytes(status(f));
    test_text(&f->t, "compact 203", 0, "ok");
    expect_all(f, 203, "b=kept;");
    etcdserverpb_RangeRequest *r = range_query(f, &q, "a", sv(""));
    etcdserverpb_RangeRequest_set_revision(r, 202);
    assert_int_equal(query(f, q, &st), THOLE_OUT_OF_RANGE);
    assert_string_equal(st.message, "etcdserver: mvcc: required revision has been compacted");
    etcdserverpb_RangeRequest_set_revision(r, 204);
    assert_int_equal(query(f, q, &st), THOLE_OUT_OF_RANGE);
    assert_string_equal(st.message, "etcdserver: mvcc: required revision is a future revision");
    for (int i = 0; i < 10; i++) { /* the walk goes on with each entry */
        test_text(&f->t, "get b", 0, "kept");
    }
    const thole_kv_v1_StoreStatus *after = status(f);
    assert_int_equal(thole_kv_v1_StoreStatus_walked_revision(after), 203);
    /* b, the last version of a, and its deletion are left. */
    assert_true(thole_kv_v1_StoreStatus_bytes(after) < before / 20);
    assert_int_equal(thole_kv_v1_StoreStatus_keys(after), 1);
    /* Nothing of a is left once the deletion is below the compacted revision. */
    put(f, "b", "again", 0);
    test_text(&f->t, "compact 204", 0, "ok");
    test_text(&f->t, "compact 204", 11,
              "error: etcdserver: mvcc: required revision has been compacted");
    assert_true(thole_kv_v1_StoreStatus_bytes(status(f)) < 120);
}

/* ---- Events ---------------------------------------------------------------------------------- */

static const thole_kv_v1_EventsResponse *events(struct fixture *f, int64_t from, uint32_t sub,
                                                uint32_t max_changes)
{
    thole_kv_v1_Query *q = thole_kv_v1_Query_new(f->arena);
    thole_kv_v1_EventsRequest *e = thole_kv_v1_Query_mutable_events(q, f->arena);

    thole_kv_v1_EventsRequest_set_key(e, sv("a"));
    thole_kv_v1_EventsRequest_set_range_end(e, sv("c"));
    thole_kv_v1_EventsRequest_set_start_revision(e, from);
    thole_kv_v1_EventsRequest_set_start_sub(e, sub);
    thole_kv_v1_EventsRequest_set_prev_kv(e, true);
    thole_kv_v1_EventsRequest_set_max_changes(e, max_changes);
    assert_int_equal(query(f, q, NULL), THOLE_OK);
    return ANSWER(f, thole_kv_v1_EventsResponse);
}

static void test_kv_events_go_on_where_a_page_ended(void **state)
{
    struct fixture *f = *state;
    struct bytes seen = {0};
    int64_t at = 1;
    uint32_t sub = 0;
    size_t n = 0;

    put(f, "a", "1", 0);
    put(f, "x", "not watched", 0);
    put(f, "b", "2", 0);
    put(f, "a", "3", 0);
    test_text(&f->t, "delete-range -", 0, "deleted 3"); /* one revision, 6 */
    while (at <= 6) {
        const thole_kv_v1_EventsResponse *page = events(f, at, sub, 1);
        const mvccpb_Event *const *list = thole_kv_v1_EventsResponse_events(page, &n);
        assert_true(n <= 1);
        if (n == 1) {
            const mvccpb_KeyValue *kv = mvccpb_Event_kv(list[0]),
                                  *old = mvccpb_Event_prev_kv(list[0]);
            upb_StringView key = mvccpb_KeyValue_key(kv);
            upb_StringView was = old != NULL ? mvccpb_KeyValue_value(old) : sv("-");
            bytes_printf(&seen, "%d%s%.*s(%.*s) ", (int)mvccpb_KeyValue_mod_revision(kv),
                         mvccpb_Event_type(list[0]) == mvccpb_Event_DELETE ? "!" : "",
                         (int)key.size, key.data, (int)was.size, was.data);
        }
        assert_int_equal(thole_kv_v1_EventsResponse_current_revision(page), 6);
        at = thole_kv_v1_EventsResponse_next_revision(page);
        sub = thole_kv_v1_EventsResponse_next_sub(page);
    }
    assert_true(slice_equal(bytes_slice(&seen), slice_str("2a(-) 4b(-) 5a(1) 6!a(3) 6!b(2) ")));
    assert_int_equal(at, 7);
    bytes_deinit(&seen);
    test_text(&f->t, "compact 6", 0, "ok");
    assert_int_equal(thole_kv_v1_EventsResponse_compact_revision(events(f, 5, 0, 0)), 6);
    const thole_kv_v1_EventsResponse *page = events(f, 6, 0, 0);
    const mvccpb_Event *const *list = thole_kv_v1_EventsResponse_events(page, &n);
    assert_int_equal(n, 2); /* deletions at the compacted revision are still there */
    assert_null(mvccpb_Event_prev_kv(list[0]));
}

/* ---- Refusals -------------------------------------------------------------------------------- */

static void test_kv_requests_are_refused_in_etcds_words(void **state)
{
    struct fixture *f = *state;
    thole_kv_v1_Command *m = command(f);
    etcdserverpb_PutRequest *p = thole_kv_v1_Command_mutable_put(m, f->arena);

    refused(f, m, THOLE_INVALID_ARGUMENT, "etcdserver: key is not provided");
    etcdserverpb_PutRequest_set_key(p, sv("k"));
    etcdserverpb_PutRequest_set_ignore_value(p, true);
    refused(f, m, THOLE_INVALID_ARGUMENT, "etcdserver: key not found");
    etcdserverpb_PutRequest_set_value(p, sv("v"));
    refused(f, m, THOLE_INVALID_ARGUMENT, "etcdserver: value is provided");
    etcdserverpb_PutRequest_set_ignore_value(p, false);
    etcdserverpb_PutRequest_set_lease(p, 5);
    refused(f, m, THOLE_NOT_FOUND, "etcdserver: requested lease not found");
    etcdserverpb_PutRequest_set_ignore_lease(p, true);
    refused(f, m, THOLE_INVALID_ARGUMENT, "etcdserver: lease is provided");

    m = command(f);
    etcdserverpb_TxnRequest *txn = thole_kv_v1_Command_mutable_txn(m, f->arena);
    for (int i = 0; i < 2; i++) {
        etcdserverpb_RequestOp *op = etcdserverpb_TxnRequest_add_success(txn, f->arena);
        p = etcdserverpb_RequestOp_mutable_request_put(op, f->arena);
        etcdserverpb_PutRequest_set_key(p, sv("k"));
    }
    refused(f, m, THOLE_INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request");
    for (int i = 0; i < 127; i++) {
        (void)etcdserverpb_TxnRequest_add_success(txn, f->arena);
    }
    refused(f, m, THOLE_INVALID_ARGUMENT, "etcdserver: too many operations in txn request");

    m = command(f);
    etcdserverpb_RangeRequest *r = thole_kv_v1_Command_mutable_range(m, f->arena);
    etcdserverpb_RangeRequest_set_key(r, sv("k"));
    etcdserverpb_RangeRequest_set_sort_target(r, 5);
    refused(f, m, THOLE_INVALID_ARGUMENT, "etcdserver: invalid sort option");
    assert_int_equal(thole_kv_v1_StoreStatus_revision(status(f)), 1);
}

static etcdserverpb_TxnRequest *nest(struct fixture *f, etcdserverpb_TxnRequest *in)
{
    return etcdserverpb_RequestOp_mutable_request_txn(
        etcdserverpb_TxnRequest_add_success(in, f->arena), f->arena);
}

static void add_put(struct fixture *f, etcdserverpb_TxnRequest *in, bool success, const char *key)
{
    etcdserverpb_RequestOp *op = success ? etcdserverpb_TxnRequest_add_success(in, f->arena)
                                         : etcdserverpb_TxnRequest_add_failure(in, f->arena);
    char *copy = upb_Arena_Malloc(f->arena, strlen(key) + 1);
    memcpy(copy, key, strlen(key) + 1);
    etcdserverpb_PutRequest_set_key(etcdserverpb_RequestOp_mutable_request_put(op, f->arena),
                                    sv(copy));
}

static void add_delete(struct fixture *f, etcdserverpb_TxnRequest *in, const char *from,
                       const char *to)
{
    etcdserverpb_DeleteRangeRequest *d = etcdserverpb_RequestOp_mutable_request_delete_range(
        etcdserverpb_TxnRequest_add_success(in, f->arena), f->arena);
    etcdserverpb_DeleteRangeRequest_set_key(d, sv(from));
    etcdserverpb_DeleteRangeRequest_set_range_end(d, sv(to));
}

/* A Txn deletes a key and puts it again: this creates the key, so etcd shows nothing before it. */
static void test_kv_event_of_a_created_key_has_no_previous_version(void **state)
{
    struct fixture *f = *state;
    thole_kv_v1_Command *m = command(f);
    etcdserverpb_TxnRequest *txn = thole_kv_v1_Command_mutable_txn(m, f->arena);
    size_t n = 0;

    put(f, "a", "1", 0); /* revision 2 */
    etcdserverpb_DeleteRangeRequest *d = etcdserverpb_RequestOp_mutable_request_delete_range(
        etcdserverpb_TxnRequest_add_success(txn, f->arena), f->arena);
    etcdserverpb_DeleteRangeRequest_set_key(d, sv("a"));
    etcdserverpb_DeleteRangeRequest_set_range_end(d, upb_StringView_FromDataAndSize("", 1));
    add_put(f, txn, true, "a");
    assert_int_equal(apply(f, m), 0);
    const mvccpb_Event *const *list = thole_kv_v1_EventsResponse_events(events(f, 3, 0, 0), &n);
    assert_int_equal(n, 2);
    assert_int_equal(mvccpb_Event_type(list[0]), mvccpb_Event_DELETE);
    assert_non_null(mvccpb_Event_prev_kv(list[0]));
    assert_int_equal(mvccpb_KeyValue_create_revision(mvccpb_Event_kv(list[1])), 3);
    assert_null(mvccpb_Event_prev_kv(list[1]));
}

/* Each level has fewer operations than etcd allows; all together they would cost the square of
 * their number. */
static void test_kv_nested_transactions_are_bounded_as_a_whole(void **state)
{
    struct fixture *f = *state;
    static const int widths[] = {15, 16, 60};
    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++) {
        thole_kv_v1_Command *m = command(f);
        etcdserverpb_TxnRequest *txn = thole_kv_v1_Command_mutable_txn(m, f->arena);
        for (int nested = 0; nested < widths[i]; nested++) {
            etcdserverpb_TxnRequest *inner = nest(f, txn);
            for (int k = 0; k < 64; k++) {
                char key[32];
                snprintf(key, sizeof key, "%d/%d", nested, k);
                add_put(f, inner, k % 2 == 0, key);
            }
        }
        if (widths[i] * 65 <= 1024) {
            assert_int_equal(apply(f, m), 0);
        } else {
            refused(f, m, THOLE_INVALID_ARGUMENT, "etcdserver: too many operations in txn request");
        }
    }
}

/* A path takes one branch of each nested transaction. */
static void test_kv_keys_are_put_once_on_a_path(void **state)
{
    struct fixture *f = *state;
    static const char duplicate[] = "etcdserver: duplicate key given in txn request";
    thole_kv_v1_Command *m = command(f);
    etcdserverpb_TxnRequest *txn = thole_kv_v1_Command_mutable_txn(m, f->arena);
    etcdserverpb_TxnRequest *one = nest(f, txn);
    add_put(f, one, true, "a");
    add_put(f, one, false, "a"); /* the other branch */
    assert_int_equal(apply(f, m), 0);
    add_put(f, nest(f, one), true, "b");
    add_put(f, one, false, "b");
    assert_int_equal(apply(f, m), 0);
    etcdserverpb_TxnRequest *two = nest(f, txn);
    add_put(f, two, false, "b");
    refused(f, m, THOLE_INVALID_ARGUMENT, duplicate);

    m = command(f);
    txn = thole_kv_v1_Command_mutable_txn(m, f->arena);
    one = nest(f, txn);
    add_put(f, one, true, "c");
    two = nest(f, txn);
    add_delete(f, two, "a", "z"); /* after the put, as etcd has it */
    assert_int_equal(apply(f, m), 0);
    add_put(f, nest(f, txn), true, "d");
    refused(f, m, THOLE_INVALID_ARGUMENT, duplicate);

    m = command(f);
    txn = thole_kv_v1_Command_mutable_txn(m, f->arena);
    add_put(f, nest(f, txn), true, "c");
    add_delete(f, txn, "c", "");
    refused(f, m, THOLE_INVALID_ARGUMENT, duplicate);
}

static void test_kv_leases_are_refused_in_etcds_words(void **state)
{
    struct fixture *f = *state;
    thole_kv_v1_Command *m = command(f);
    etcdserverpb_LeaseGrantRequest *g = thole_kv_v1_Command_mutable_lease_grant(m, f->arena);

    etcdserverpb_LeaseGrantRequest_set_ID(g, 7);
    etcdserverpb_LeaseGrantRequest_set_TTL(g, INT64_C(9000000001));
    refused(f, m, THOLE_OUT_OF_RANGE, "etcdserver: too large lease TTL");
    etcdserverpb_LeaseGrantRequest_set_TTL(g, 1);
    assert_int_equal(apply(f, m), 0);
    const etcdserverpb_LeaseGrantResponse *granted = ANSWER(f, etcdserverpb_LeaseGrantResponse);
    assert_int_equal(etcdserverpb_LeaseGrantResponse_TTL(granted), 2);
    refused(f, m, THOLE_FAILED_PRECONDITION, "etcdserver: lease already exists");
    etcdserverpb_LeaseGrantRequest_set_ID(g, 0); /* any */
    assert_int_equal(apply(f, m), 0);
    granted = ANSWER(f, etcdserverpb_LeaseGrantResponse);
    assert_true(etcdserverpb_LeaseGrantResponse_ID(granted) > 0);
    put(f, "b", "1", 7);
    put(f, "a", "2", 7);
    put(f, "c", "3", 7);
    put(f, "c", "3", 0); /* detached */
    m = command(f);
    etcdserverpb_LeaseRevokeRequest *r = thole_kv_v1_Command_mutable_lease_revoke(m, f->arena);
    etcdserverpb_LeaseRevokeRequest_set_ID(r, 7);
    assert_int_equal(apply(f, m), 0);
    refused(f, m, THOLE_NOT_FOUND, "etcdserver: requested lease not found");
    expect_all(f, 0, "c=3;");
    assert_int_equal(thole_kv_v1_StoreStatus_revision(status(f)), 6); /* one for the two */
    assert_int_equal(thole_kv_v1_StoreStatus_leases(status(f)), 1);
}

static void grant(struct fixture *f, int64_t id, int64_t ttl_s)
{
    thole_kv_v1_Command *m = command(f);
    etcdserverpb_LeaseGrantRequest *g = thole_kv_v1_Command_mutable_lease_grant(m, f->arena);

    etcdserverpb_LeaseGrantRequest_set_ID(g, id);
    etcdserverpb_LeaseGrantRequest_set_TTL(g, ttl_s);
    assert_int_equal(apply(f, m), 0);
}

static int64_t keep_alive(struct fixture *f, int64_t id)
{
    thole_kv_v1_Command *m = command(f);
    etcdserverpb_LeaseKeepAliveRequest *k =
        thole_kv_v1_Command_mutable_lease_keep_alive(m, f->arena);

    etcdserverpb_LeaseKeepAliveRequest_set_ID(k, id);
    assert_int_equal(apply(f, m), 0);
    return etcdserverpb_LeaseKeepAliveResponse_TTL(ANSWER(f, etcdserverpb_LeaseKeepAliveResponse));
}

static int64_t seconds_left(struct fixture *f, int64_t id)
{
    thole_kv_v1_Query *q = thole_kv_v1_Query_new(f->arena);
    etcdserverpb_LeaseTimeToLiveRequest *r =
        thole_kv_v1_Query_mutable_lease_time_to_live(q, f->arena);

    etcdserverpb_LeaseTimeToLiveRequest_set_ID(r, id);
    assert_int_equal(query(f, q, NULL), THOLE_OK);
    return etcdserverpb_LeaseTimeToLiveResponse_TTL(
        ANSWER(f, etcdserverpb_LeaseTimeToLiveResponse));
}

static void test_kv_leases_expire_by_a_tick_and_not_earlier(void **state)
{
    struct fixture *f = *state;
    struct test_machine *t = &f->t;

    assert_true(t->due.alive_ms == THOLE_NEVER);
    t->alive_ms = 1000;
    grant(f, 1, 10);
    grant(f, 2, 20);
    assert_int_equal(t->due.alive_ms, 11000);
    put(f, "a", "1", 1);
    put(f, "b", "2", 2);
    put(f, "c", "1", 1);
    t->alive_ms = 9000;
    assert_int_equal(keep_alive(f, 1), 10); /* until 19000 */
    assert_int_equal(seconds_left(f, 2), 12);
    t->alive_ms = 11000;
    test_tick(t); /* it was kept alive: only the timer moves */
    assert_int_equal(t->due.alive_ms, 19000);
    expect_all(f, 0, "a=1;b=2;c=1;");
    test_machine_reopen(t);
    assert_int_equal(t->due.alive_ms, 19000);
    t->alive_ms = 50000;
    test_text(t, "get a", 0, "1"); /* nothing expires before the TICK */
    assert_int_equal(keep_alive(f, 2), 20);
    int64_t before = thole_kv_v1_StoreStatus_revision(status(f));
    test_tick(t);
    expect_all(f, 0, "b=2;");
    assert_int_equal(thole_kv_v1_StoreStatus_revision(status(f)), before + 1);
    assert_int_equal(thole_kv_v1_StoreStatus_leases(status(f)), 1);
    assert_int_equal(seconds_left(f, 1), -1);
    assert_int_equal(keep_alive(f, 1), 0);
    assert_int_equal(t->due.alive_ms, 70000);
    t->alive_ms = 70000;
    test_tick(t);
    expect_all(f, 0, "");
    assert_true(t->due.alive_ms == THOLE_NEVER);
}

/* Thousands of keys of leases that are due at once go in several TICKs, a lease at a time. */
static void test_kv_many_leases_expire_in_several_ticks(void **state)
{
    enum { LEASES = 30, KEYS = 100 };
    struct fixture *f = *state;
    char key[32];
    uint64_t keys, left = LEASES * KEYS;

    for (int i = 0; i < LEASES; i++) {
        grant(f, i + 1, 10);
        for (int k = 0; k < KEYS; k++) {
            snprintf(key, sizeof key, "k%d-%d", i, k);
            put(f, key, "v", i + 1);
        }
    }
    int64_t before = thole_kv_v1_StoreStatus_revision(status(f));
    f->t.alive_ms = 10000;
    do {
        keys = left;
        test_tick(&f->t);
        left = thole_kv_v1_StoreStatus_keys(status(f));
        assert_in_range(keys - left, 1, THOLE_TICK_ITEMS_MAX + KEYS);
    } while (f->t.due.alive_ms <= f->t.alive_ms);
    assert_int_equal(thole_kv_v1_StoreStatus_keys(status(f)), 0);
    assert_int_equal(thole_kv_v1_StoreStatus_revision(status(f)), before + LEASES);
}

static void test_kv_ticks_finish_a_compaction(void **state)
{
    struct fixture *f = *state;

    for (int i = 0; i < 3000; i++) {
        put(f, "a", "v", 0);
    }
    test_text(&f->t, "compact 3001", 0, "ok");
    for (int i = 0; i < 4 && f->t.due.alive_ms != THOLE_NEVER; i++) {
        f->t.alive_ms = f->t.due.alive_ms;
        test_tick(&f->t);
    }
    assert_true(f->t.due.alive_ms == THOLE_NEVER);
    assert_int_equal(thole_kv_v1_StoreStatus_walked_revision(status(f)), 3001);
}

/* ---- Quota ----------------------------------------------------------------------------------- */

static void test_kv_the_quota_refuses_what_adds_until_the_alarm_is_taken_away(void **state)
{
    static const char text[] = "etcdserver: mvcc: database space exceeded";
    struct fixture *f = *state;
    char large[1500] = "";
    thole_kv_v1_Command *m = command(f), *alarm = command(f);
    etcdserverpb_PutRequest *p = thole_kv_v1_Command_mutable_put(m, f->arena);

    memset(large, 'x', sizeof large - 1);
    put(f, "a", large, 0);
    etcdserverpb_PutRequest_set_key(p, sv("b"));
    etcdserverpb_PutRequest_set_value(p, sv(large));
    refused(f, m, THOLE_RESOURCE_EXHAUSTED, text);
    etcdserverpb_PutRequest_set_value(p, sv("small"));
    refused(f, m, THOLE_RESOURCE_EXHAUSTED, text);
    test_text(&f->t, "put b small", 8, "error: etcdserver: mvcc: database space exceeded");
    test_text(&f->t, "delete a", 0, "deleted 1");
    test_text(&f->t, "compact 3", 0, "ok");
    test_machine_reopen(&f->t);
    refused(f, m, THOLE_RESOURCE_EXHAUSTED, text);
    etcdserverpb_AlarmRequest *a = thole_kv_v1_Command_mutable_alarm(alarm, f->arena);
    assert_int_equal(apply(f, alarm), 0);
    size_t n = 0;
    (void)etcdserverpb_AlarmResponse_alarms(ANSWER(f, etcdserverpb_AlarmResponse), &n);
    assert_int_equal(n, 1);
    etcdserverpb_AlarmRequest_set_action(a, etcdserverpb_AlarmRequest_DEACTIVATE);
    etcdserverpb_AlarmRequest_set_alarm(a, etcdserverpb_NOSPACE);
    assert_int_equal(apply(f, alarm), 0);
    test_text(&f->t, "put c small", 0, "ok revision=4 version=1");
    test_text(&f->t, "compact 4", 0, "ok"); /* a is gone for good */
    assert_int_equal(apply(f, m), 0);
}

/* ---- Transactions ---------------------------------------------------------------------------- */

static thole_kv_v1_ModifyRequest *add_modify(struct fixture *f, etcdserverpb_TxnRequest *txn,
                                             const char *key)
{
    thole_kv_v1_ModifyRequest *m = etcdserverpb_RequestOp_mutable_request_modify(
        etcdserverpb_TxnRequest_add_success(txn, f->arena), f->arena);

    thole_kv_v1_ModifyRequest_set_key(m, sv(key));
    return m;
}

static void test_kv_values_are_modified_in_a_transaction(void **state)
{
    struct fixture *f = *state;
    thole_kv_v1_Command *m = command(f);
    etcdserverpb_TxnRequest *txn = thole_kv_v1_Command_mutable_txn(m, f->arena);

    thole_kv_v1_ModifyRequest_set_add(add_modify(f, txn, "n"), -5);
    thole_kv_v1_ModifyRequest_set_min(add_modify(f, txn, "low"), 3);
    thole_kv_v1_ModifyRequest_set_max(add_modify(f, txn, "top"), 3);
    thole_kv_v1_ModifyRequest_set_append(add_modify(f, txn, "log"), sv("x"));
    put(f, "low", "7", 0);
    put(f, "top", "7", 0);
    assert_int_equal(apply(f, m), 0);
    assert_int_equal(apply(f, m), 0);
    expect_all(f, 0, "log=xx;low=3;n=-10;top=7;");
    put(f, "n", "-9223372036854775808", 0);
    refused(f, m, THOLE_FAILED_PRECONDITION, "the sum is out of the range of 64 bits");
    put(f, "n", "nine", 0);
    refused(f, m, THOLE_FAILED_PRECONDITION, "the value is not a 64-bit decimal number");
    expect_all(f, 0, "log=xx;low=3;n=nine;top=7;");
}

/* A deletion with an open end is not seen by the check for duplicate keys, as in etcd. */
static void test_kv_a_transaction_that_fails_half_way_leaves_nothing(void **state)
{
    static const char zero = '\0';
    struct fixture *f = *state;
    thole_kv_v1_Command *m = command(f);
    etcdserverpb_TxnRequest *txn = thole_kv_v1_Command_mutable_txn(m, f->arena);
    etcdserverpb_DeleteRangeRequest *d = etcdserverpb_RequestOp_mutable_request_delete_range(
        etcdserverpb_TxnRequest_add_success(txn, f->arena), f->arena);
    struct test_watch watch;
    struct test_sink sink;
    size_t n = 0;

    etcdserverpb_DeleteRangeRequest_set_key(d, sv("a"));
    etcdserverpb_DeleteRangeRequest_set_range_end(d, (upb_StringView){&zero, 1});
    etcdserverpb_PutRequest *p = etcdserverpb_RequestOp_mutable_request_put(
        etcdserverpb_TxnRequest_add_success(txn, f->arena), f->arena);
    etcdserverpb_PutRequest_set_key(p, sv("b"));
    etcdserverpb_PutRequest_set_ignore_value(p, true);
    put(f, "a", "1", 0);
    put(f, "b", "2", 0);
    char *data = thole_kv_v1_Command_serialize(m, f->arena, &n);
    struct slice bytes = with_marker(f, data, n);
    struct thole_entry e[2] = {
        test_entry(10, slice_str("put c 3"), &sink),
        test_entry(11, bytes, &sink),
    };
    struct thole_apply batch = test_batch(e, 2);
    test_watch_init(&watch);
    batch.watch = &watch.base;
    assert_int_equal(f->t.type->apply(f->t.m, &batch, NULL), THOLE_OK);
    assert_int_equal(e[1].code, THOLE_INVALID_ARGUMENT);
    assert_int_equal(watch.count, 1);
    test_watch_clear(&watch);
    bytes_deinit(&sink.out);
    expect_all(f, 0, "a=1;b=2;c=3;");
    const thole_kv_v1_StoreStatus *s = status(f);
    assert_int_equal(thole_kv_v1_StoreStatus_revision(s), 4);
    assert_int_equal(thole_kv_v1_StoreStatus_keys(s), 3);
}

static void test_kv_an_answer_that_is_too_large_undoes_the_command(void **state)
{
    struct fixture *f = *state;
    char *large = xmalloc(1200 * KIB + 1), key[] = "a";
    thole_kv_v1_Command *m = command(f);
    etcdserverpb_DeleteRangeRequest *d = thole_kv_v1_Command_mutable_delete_range(m, f->arena);

    memset(large, 'x', 1200 * KIB);
    large[1200 * KIB] = '\0';
    for (; key[0] <= 'c'; key[0]++) {
        put(f, key, large, 0);
    }
    free(large);
    etcdserverpb_DeleteRangeRequest_set_key(d, sv("a"));
    etcdserverpb_DeleteRangeRequest_set_range_end(d, sv("z"));
    etcdserverpb_DeleteRangeRequest_set_prev_kv(d, true);
    refused(f, m, THOLE_RESOURCE_EXHAUSTED,
            "the answer would be larger than 3.25 MiB; nothing was changed");
    assert_int_equal(thole_kv_v1_StoreStatus_keys(status(f)), 3);
    etcdserverpb_DeleteRangeRequest_set_prev_kv(d, false);
    assert_int_equal(apply(f, m), 0);
    assert_int_equal(thole_kv_v1_StoreStatus_keys(status(f)), 0);
}

/* ---- Answers in pieces ----------------------------------------------------------------------- */

/* All pieces of about that size, of a view that is older than the change of `meanwhile`. */
static void read_in_pieces(struct fixture *f, const thole_kv_v1_Query *m, size_t bytes,
                           const char *meanwhile, size_t *ret_pieces)
{
    struct test_sink sink;
    size_t n = 0;
    void *view = NULL, *reader = NULL;
    bool end = false;
    char *data = thole_kv_v1_Query_serialize(m, f->arena, &n);
    struct slice q = with_marker(f, data, n);
    const struct thole_machine_type *type = f->t.type;

    test_sink_init(&sink);
    assert_int_equal(type->view_acquire(f->t.m, &view, NULL), THOLE_OK);
    assert_int_equal(
        type->read_open(f->t.m, view, (struct thole_slice){q.data, q.size}, &reader, NULL),
        THOLE_OK);
    assert_non_null(reader);
    put(f, meanwhile, "later", 0);
    for (*ret_pieces = 0; !end; ++*ret_pieces) {
        size_t before = sink.out.size;
        assert_int_equal(type->read_next(f->t.m, reader, bytes, &sink.base, &end, NULL), THOLE_OK);
        assert_true(sink.out.size - before <= bytes + 128); /* one item more, and the counts */
    }
    type->read_close(f->t.m, reader);
    type->view_release(f->t.m, view);
    bytes_clear(&f->out);
    bytes_append_slice(&f->out, bytes_slice(&sink.out));
    bytes_deinit(&sink.out);
}

static void test_kv_pieces_of_a_range_are_its_answer(void **state)
{
    struct fixture *f = *state;
    struct bytes whole = {0};
    char key[16];

    for (unsigned i = 0; i < 300; i++) {
        (void)snprintf(key, sizeof key, "k%03u", i);
        put(f, key, "0123456789", 0);
        put(f, key, i % 7 == 0 ? "" : "9876543210", 0);
    }
    for (unsigned i = 0; i < 64; i++) {
        thole_kv_v1_Query *q;
        size_t pieces = 0;
        etcdserverpb_RangeRequest *r = range_query(f, &q, "k", sv("l"));

        etcdserverpb_RangeRequest_set_limit(r, i % 3 == 0 ? 100 : i % 3 == 1 ? 300 : 0);
        etcdserverpb_RangeRequest_set_keys_only(r, (i & 4) != 0);
        etcdserverpb_RangeRequest_set_revision(r, (i & 8) != 0 ? 201 : 0);
        etcdserverpb_RangeRequest_set_min_mod_revision(r, (i & 16) != 0 ? 150 : 0);
        etcdserverpb_RangeRequest_set_count_only(r, (i & 32) != 0);
        assert_int_equal(query(f, q, NULL), THOLE_OK);
        bytes_clear(&whole);
        bytes_append_slice(&whole, bytes_slice(&f->out));
        (void)snprintf(key, sizeof key, "m%u", i); /* is not in the range */
        read_in_pieces(f, q, 1 + i * 40, key, &pieces);
        assert_true(i >= 8 || pieces > 5);
        assert_true(slice_equal(bytes_slice(&whole), bytes_slice(&f->out)));
    }
    bytes_deinit(&whole);
}

static void test_kv_a_reader_keeps_to_its_view(void **state)
{
    struct fixture *f = *state;
    thole_kv_v1_Query *q;
    size_t pieces = 0, n = 0;

    put(f, "k1", "one", 0);
    put(f, "k2", "two", 0);
    (void)range_query(f, &q, "k", sv("l"));
    read_in_pieces(f, q, 1, "k2", &pieces);
    const mvccpb_KeyValue *const *kvs =
        etcdserverpb_RangeResponse_kvs(ANSWER(f, etcdserverpb_RangeResponse), &n);
    assert_int_equal(n, 2);
    assert_true(upb_StringView_IsEqual(mvccpb_KeyValue_value(kvs[1]), sv("two")));
}

static void test_kv_what_cannot_be_read_in_pieces_is_left_to_the_query(void **state)
{
    struct fixture *f = *state;
    thole_kv_v1_Query *q;
    void *view = NULL, *reader = NULL;
    size_t n = 0;
    struct thole_status st = {0};
    etcdserverpb_RangeRequest *r = range_query(f, &q, "k", sv("l"));

    assert_int_equal(f->t.type->view_acquire(f->t.m, &view, NULL), THOLE_OK);
    assert_int_equal(
        f->t.type->read_open(f->t.m, view, (struct thole_slice){"get k", 5}, &reader, &st),
        THOLE_OK);
    assert_null(reader);
    etcdserverpb_RangeRequest_set_sort_target(r, etcdserverpb_RangeRequest_VALUE);
    char *data = thole_kv_v1_Query_serialize(q, f->arena, &n);
    struct slice in = with_marker(f, data, n);
    assert_int_equal(
        f->t.type->read_open(f->t.m, view, (struct thole_slice){in.data, in.size}, &reader, &st),
        THOLE_OK);
    assert_null(reader);
    etcdserverpb_RangeRequest_set_revision(r, 1000);
    data = thole_kv_v1_Query_serialize(q, f->arena, &n);
    in = with_marker(f, data, n);
    assert_int_equal(
        f->t.type->read_open(f->t.m, view, (struct thole_slice){in.data, in.size}, &reader, &st),
        THOLE_OUT_OF_RANGE);
    assert_null(reader);
    f->t.type->view_release(f->t.m, view);
}

static void test_kv_a_whole_answer_that_is_too_large_says_so(void **state)
{
    struct fixture *f = *state;
    char *large = xmalloc(1200 * KIB + 1), key[] = "a";
    thole_kv_v1_Query *q;
    struct thole_status st = {0};

    memset(large, 'x', 1200 * KIB);
    large[1200 * KIB] = '\0';
    for (; key[0] <= 'c'; key[0]++) {
        put(f, key, large, 0);
    }
    free(large);
    (void)range_query(f, &q, "a", sv("z"));
    assert_int_equal(query(f, q, &st), THOLE_RESOURCE_EXHAUSTED);
    assert_int_equal(st.reason, THOLE_REASON_TOO_LARGE);
}

/* ---- Counts ---------------------------------------------------------------------------------- */

static int64_t count(struct fixture *f, const char *from, const char *to, int64_t revision)
{
    thole_kv_v1_Query *q;
    upb_Arena *arena = f->arena;

    f->arena = upb_Arena_New();
    etcdserverpb_RangeRequest *r = range_query(f, &q, from, sv(to));
    etcdserverpb_RangeRequest_set_count_only(r, true);
    etcdserverpb_RangeRequest_set_revision(r, revision);
    assert_int_equal(query(f, q, NULL), THOLE_OK);
    int64_t n = etcdserverpb_RangeResponse_count(ANSWER(f, etcdserverpb_RangeResponse));
    upb_Arena_Free(f->arena);
    f->arena = arena;
    return n;
}

/* The second count builds the tree; each apply and each earlier revision has to agree with it. */
static void test_kv_counts_stay_exact_while_keys_come_and_go(void **state)
{
    enum { KEYS = 30000, FIRST = 5000, LAST = 25000, ROUNDS = 300 };
    struct fixture *f = *state;
    struct rand r;
    char text[64], *there = xcalloc(KEYS, 1);
    int64_t expected = LAST - FIRST, at[ROUNDS], counts[ROUNDS];

    rand_seed(&r, 1);
    for (int i = 0; i < KEYS; i++) {
        snprintf(text, sizeof text, "put k%05d v", i);
        assert_int_equal(test_apply(&f->t, slice_str(text), NULL), 0);
        there[i] = 1;
    }
    assert_int_equal(count(f, "k05000", "k25000", 0), expected);
    for (int i = 0; i < ROUNDS; i++) {
        int k = (int)rand_below(&r, KEYS);
        bool in = k >= FIRST && k < LAST, put_it = rand_chance(&r, 0.5);
        snprintf(text, sizeof text, "%s k%05d%s", put_it ? "put" : "delete", k, put_it ? " v" : "");
        assert_int_equal(test_apply(&f->t, slice_str(text), NULL), 0);
        expected += in ? put_it - there[k] : 0;
        there[k] = put_it;
        assert_int_equal(count(f, "k05000", "k25000", 0), expected);
        at[i] = thole_kv_v1_StoreStatus_revision(status(f));
        counts[i] = expected;
        if (i == ROUNDS / 2) { /* the tree is built again */
            test_machine_reopen(&f->t);
        }
    }
    for (int i = 0; i < ROUNDS; i++) {
        assert_int_equal(count(f, "k05000", "k25000", at[i]), counts[i]);
    }
    assert_int_equal(test_apply(&f->t, slice_str("delete-range k10000 k20000"), NULL), 0);
    int64_t left = count(f, "k05000", "k25000", 0);
    assert_int_equal(left, count(f, "k05000", "k10000", 0) + count(f, "k20000", "k25000", 0));
    assert_int_equal(count(f, "k05000", "k25000", at[ROUNDS - 1]), expected);
    assert_int_equal(count(f, "k1", "k2", 0), 0);
    free(there);
}

/* ---- Layout ---------------------------------------------------------------------------------- */

static void test_kv_data_of_the_first_layout_is_refused(void **state)
{
    struct fixture *f = *state;
    struct thole_status st = {0};
    struct state_batch *b = state_batch_new(f->t.db);

    f->t.type->close(f->t.m);
    f->t.env.replica_id = 12;
    state_batch_put(b, (struct state_space){12, 1}, slice_str("\x01key"), slice_str("value"));
    assert_int_equal(state_batch_write(b, NULL), THOLE_OK);
    state_batch_free(b);
    assert_int_equal(f->t.type->open(&f->t.env, &f->t.m, &st), THOLE_FAILED_PRECONDITION);
    assert_int_equal(st.reason, THOLE_REASON_FORMAT);
    f->t.env.replica_id = 11;
    assert_int_equal(f->t.type->open(&f->t.env, &f->t.m, NULL), THOLE_OK);
}

int main(void)
{
#define KV(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        KV(test_kv_earlier_revisions_can_be_read),
        KV(test_kv_compaction_drops_what_was_superseded),
        KV(test_kv_events_go_on_where_a_page_ended),
        KV(test_kv_event_of_a_created_key_has_no_previous_version),
        KV(test_kv_requests_are_refused_in_etcds_words),
        KV(test_kv_nested_transactions_are_bounded_as_a_whole),
        KV(test_kv_keys_are_put_once_on_a_path),
        KV(test_kv_leases_expire_by_a_tick_and_not_earlier),
        KV(test_kv_many_leases_expire_in_several_ticks),
        KV(test_kv_ticks_finish_a_compaction),
        KV(test_kv_leases_are_refused_in_etcds_words),
        cmocka_unit_test_setup_teardown(
            test_kv_the_quota_refuses_what_adds_until_the_alarm_is_taken_away, setup_quota,
            teardown),
        KV(test_kv_values_are_modified_in_a_transaction),
        KV(test_kv_a_transaction_that_fails_half_way_leaves_nothing),
        KV(test_kv_an_answer_that_is_too_large_undoes_the_command),
        KV(test_kv_pieces_of_a_range_are_its_answer),
        KV(test_kv_a_reader_keeps_to_its_view),
        KV(test_kv_what_cannot_be_read_in_pieces_is_left_to_the_query),
        KV(test_kv_a_whole_answer_that_is_too_large_says_so),
        KV(test_kv_counts_stay_exact_while_keys_come_and_go),
        KV(test_kv_data_of_the_first_layout_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
