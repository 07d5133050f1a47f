/* Proposals with request ids: retries, snapshots, persistent machines, expiry, bounds; and closed
 * sessions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shards/engine/test/harness.h"

#include <cmocka.h>

static struct op *submit(struct cluster *c, int h, const char *id)
{
    struct op *o = op_new(c, ENGINE_PROPOSE, "x");
    o->r.request_id = slice_str(id);
    op_submit(o, h);
    return o;
}

/* A client's loop: the same id until there is an answer. Returns the machine's number. */
static uint64_t once(struct cluster *c, const char *id, bool duplicate)
{
    for (int i = 0; i < 100; i++) {
        struct op *o = submit(c, cluster_wait_leader(c), id);
        op_wait(o);
        bool ok = o->r.status.code == THOLE_OK;
        uint64_t code = o->r.code;
        if (ok) {
            assert_int_equal(o->r.duplicate, duplicate);
            assert_false(o->r.forgotten);
            assert_int_equal(o->r.result.bytes.size, 8);
            assert_int_equal(get_le64(o->r.result.bytes.data), code);
        }
        op_free(o);
        if (ok) {
            return code;
        }
        cluster_run(c, 20);
    }
    fail_msg("no answer");
    return 0;
}

static void check_retries(const char *machine)
{
    struct cluster *c = cluster_new(3, 31);
    c->machine = machine;
    cluster_bootstrap(c, 3);
    assert_int_equal(once(c, "a", false), 1);
    assert_int_equal(once(c, "b", false), 2);
    assert_int_equal(once(c, "a", true), 1);
    propose_ok(c, "without an id");
    /* The same id twice in one batch. */
    int leader = cluster_wait_leader(c);
    struct op *x = submit(c, leader, "c"), *y = submit(c, leader, "c");
    op_wait(x);
    op_wait(y);
    assert_false(x->r.duplicate);
    assert_true(y->r.duplicate);
    assert_int_equal(x->r.code, y->r.code);
    assert_int_equal(x->r.index, y->r.index);
    op_free(x);
    op_free(y);
    for (int h = 0; h < 3; h++) {
        host_stop(c, h);
    }
    for (int h = 0; h < 3; h++) {
        host_start(c, h);
    }
    assert_int_equal(once(c, "b", true), 2);
    assert_int_equal(query_ok(c, 0).count, 4);
    cluster_free(c);
}

static void test_engine_repeated_id_gets_the_first_answer(void **state)
{
    (void)state;
    check_retries("tally");
    check_retries("ledger");
}

static void check_through_snapshot(const char *machine)
{
    struct cluster *c = cluster_new(3, 32);
    c->machine = machine;
    c->compact_log_bytes = 2000;
    c->keep_log_bytes = 200;
    cluster_bootstrap(c, 3);
    assert_int_equal(once(c, "first", false), 1);
    int behind = (cluster_wait_leader(c) + 1) % 3;
    isolate(c, behind, true);
    for (uint64_t i = 2; i <= 300; i++) {
        char id[16];
        snprintf(id, sizeof id, "id-%u", (unsigned)i);
        assert_int_equal(once(c, id, false), i);
    }
    isolate(c, behind, false);
    RUN_UNTIL(c, 20000, stale_state(c, behind).count == 300);
    for (int h = 0; h < 3; h++) {
        if (h != behind) {
            host_crash(c, h);
        }
    }
    host_start(c, (behind + 1) % 3);
    RUN_UNTIL(c, 20000, cluster_leader(c) >= 0);
    assert_int_equal(once(c, "first", true), 1);
    assert_int_equal(once(c, "id-299", true), 299);
    assert_int_equal(once(c, "id-301", false), 301);
    cluster_free(c);
}

static void test_engine_ids_travel_in_snapshots(void **state)
{
    (void)state;
    check_through_snapshot("tally");
    check_through_snapshot("ledger");
}

static void expect_refused(struct op *o, enum thole_reason reason)
{
    op_wait(o);
    assert_int_equal(o->r.status.code, THOLE_INVALID_ARGUMENT);
    assert_int_equal(o->r.status.reason, reason);
    op_free(o);
}

static void test_engine_refuses_ids_that_are_wrong(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(1, 33);
    cluster_bootstrap(c, 1);
    int leader = cluster_wait_leader(c);
    char id[LIMIT_REQUEST_ID_BYTES + 2];
    memset(id, 'x', sizeof id);
    id[LIMIT_REQUEST_ID_BYTES + 1] = '\0';
    expect_refused(submit(c, leader, id), THOLE_REASON_TOO_LARGE);
    id[LIMIT_REQUEST_ID_BYTES] = '\0';
    assert_int_equal(once(c, id, false), 1);
    struct op *both = op_new(c, ENGINE_PROPOSE, "x");
    both->r.session = both->r.sequence = 1;
    both->r.request_id = slice_str("a");
    op_submit(both, leader);
    expect_refused(both, THOLE_REASON_BAD_REQUEST);
    assert_int_equal(query_ok(c, 0).count, 1);
    cluster_free(c);
}

static enum thole_reason close_session(struct cluster *c, uint64_t session)
{
    struct op *o = op_new(c, ENGINE_CLOSE_SESSION, NULL);
    o->r.session = session;
    op_submit(o, cluster_wait_leader(c));
    op_wait(o);
    assert_int_equal(o->r.status.code, THOLE_OK);
    enum thole_reason reason = o->r.status.reason;
    op_free(o);
    return reason;
}

static void check_close(const char *machine)
{
    struct cluster *c = cluster_new(1, 34);
    c->machine = machine;
    cluster_bootstrap(c, 1);
    int leader = cluster_wait_leader(c);
    struct op *o = op_open_session(c, leader);
    op_wait(o);
    uint64_t session = o->r.code;
    op_free(o);
    /* A proposal and the end of its session in one batch. */
    struct op *p = op_propose_in(c, leader, session, 1, "x");
    close_session(c, session);
    op_wait(p);
    assert_int_equal(p->r.code, 1);
    op_free(p);
    for (int i = 0; i < 2; i++) {
        close_session(c, session);
        close_session(c, 12345);
        p = op_propose_in(c, cluster_wait_leader(c), session, 1, "x");
        op_wait(p);
        assert_int_equal(p->r.status.reason, THOLE_REASON_SESSION_EXPIRED);
        op_free(p);
        host_crash(c, 0);
        host_start(c, 0);
    }
    (void)cluster_wait_leader(c);
    assert_int_equal(query_ok(c, 0).count, 1);
    cluster_free(c);
}

static void test_engine_closed_session_is_expired(void **state)
{
    (void)state;
    check_close("tally");
    check_close("ledger");
}

/* ---- The table alone ------------------------------------------------------------------------- */

#define WINDOW_MS 1000

static struct slice id_of(uint64_t i, uint8_t space[8])
{
    put_be64(space, i);
    return slice_of(space, 8);
}

/* An entry with this id, as the applier handles it. */
static enum session_verdict apply(struct session_table *t, uint64_t id, uint64_t index,
                                  uint64_t alive_ms, struct slice answer)
{
    uint8_t space[8];
    struct request_answer *r = NULL;
    request_ids_expire(t, alive_ms, NULL);
    enum session_verdict v = request_id_begin(t, id_of(id, space), index, alive_ms, NULL, &r);
    if (v == SESSION_APPLY) {
        request_id_finish(t, r, index, answer, NULL);
    }
    return v;
}

static void test_request_ids_expire_by_the_time_of_entries(void **state)
{
    (void)state;
    struct session_table t = {.ids.window_ms = WINDOW_MS};
    const struct slice answer = slice_str("answer");
    assert_int_equal(apply(&t, 1, 1, 5000, answer), SESSION_APPLY);
    assert_int_equal(apply(&t, 1, 2, 5000 + WINDOW_MS - 1, answer), SESSION_DUPLICATE);
    /* A repeat does not make it younger. */
    assert_int_equal(apply(&t, 1, 3, 5000 + WINDOW_MS, answer), SESSION_APPLY);
    assert_int_equal(t.ids.count, 1);
    assert_int_equal(t.ids.oldest->index, 3);
    /* Many expire at once: they are unknown at once, and freed by and by. */
    for (uint64_t i = 10; i < 1010; i++) {
        assert_int_equal(apply(&t, i, i, 7000, answer), SESSION_APPLY);
    }
    assert_int_equal(t.ids.live_count, 1000);
    assert_int_equal(apply(&t, 1009, 1100, 7000 + WINDOW_MS, answer), SESSION_APPLY);
    assert_int_equal(t.ids.live_count, 1);
    assert_true(t.ids.count > 900);
    for (uint64_t i = 0; i < 100; i++) {
        request_ids_expire(&t, 7000 + WINDOW_MS, NULL);
    }
    assert_int_equal(t.ids.count, 1);
    session_table_deinit(&t);
}

static void test_request_ids_of_a_batch_are_busy(void **state)
{
    (void)state;
    struct session_table t = {.ids.window_ms = WINDOW_MS};
    struct request_answer *r = NULL, *again = NULL;
    uint8_t space[8];
    assert_int_equal(request_id_begin(&t, id_of(1, space), 1, 0, NULL, &r), SESSION_APPLY);
    /* Also if it has expired meanwhile. */
    request_ids_expire(&t, 2 * WINDOW_MS, NULL);
    assert_int_equal(request_id_begin(&t, id_of(1, space), 2, 2 * WINDOW_MS, NULL, &again),
                     SESSION_BUSY);
    request_id_finish(&t, r, 0, (struct slice){0}, NULL);
    assert_int_equal(request_id_begin(&t, id_of(1, space), 2, 2 * WINDOW_MS, NULL, &again),
                     SESSION_APPLY);
    request_id_finish(&t, again, 0, (struct slice){0}, NULL);
    assert_int_equal(t.ids.count, 1);
    session_table_deinit(&t);
}

static void test_request_ids_are_bounded(void **state)
{
    (void)state;
    struct session_table t = {.ids.window_ms = WINDOW_MS};
    uint64_t index = 1;
    for (; index <= LIMIT_REQUEST_IDS; index++) {
        assert_int_equal(apply(&t, index, index, 100, (struct slice){0}), SESSION_APPLY);
    }
    assert_int_equal(apply(&t, index, index, 100, (struct slice){0}), REQUEST_IDS_FULL);
    /* Repeats still get their answers. */
    assert_int_equal(apply(&t, 7, index + 1, 100, (struct slice){0}), SESSION_DUPLICATE);
    for (uint64_t i = 2; i < LIMIT_REQUEST_IDS; i++) {
        assert_int_equal(apply(&t, index + i, index + i, 100 + WINDOW_MS, (struct slice){0}),
                         SESSION_APPLY);
        assert_true(t.ids.count <= LIMIT_REQUEST_IDS_MAX);
    }
    session_table_deinit(&t);
}

/* Sessions and request ids share the bytes. */
static void test_request_ids_answers_are_bounded(void **state)
{
    (void)state;
    static uint8_t answer[LIMIT_SESSION_RESULT_BYTES];
    struct session_table t = {.ids.window_ms = WINDOW_MS};
    const struct session_result *s = NULL;
    uint64_t index = 2;
    assert_true(session_open(&t, 1, 1, NULL));
    for (uint64_t i = 1; i <= 2000; i++, index++) {
        assert_int_equal(session_begin(&t, 1, i, index, NULL, &s), SESSION_APPLY);
        (void)session_finish(&t, 1, i, 0, slice_of(answer, sizeof answer), NULL);
        assert_int_equal(apply(&t, i, index, 100, slice_of(answer, sizeof answer)), SESSION_APPLY);
    }
    size_t bytes = 0, cut = 0;
    for (const struct request_answer *r = t.ids.oldest; r != NULL; r = r->newer) {
        bytes += r->result != NULL ? r->result->size : 0;
        cut += r->cut;
    }
    assert_true(bytes > LIMIT_SESSION_ANSWERS_BYTES / 3);
    assert_true(bytes <= LIMIT_SESSION_ANSWERS_BYTES_MAX);
    assert_true(cut > 1000 && t.ids.oldest->cut && !t.ids.newest->cut);
    assert_int_equal(t.answer_bytes, 4000 * sizeof answer);
    session_table_deinit(&t);
}

static void test_request_ids_encode_and_decode(void **state)
{
    (void)state;
    struct session_table t = {.ids.window_ms = WINDOW_MS}, u = {.ids.window_ms = WINDOW_MS};
    struct bytes out = {0};
    for (uint64_t i = 1; i <= 100; i++) {
        assert_int_equal(apply(&t, i, i, 100 + i, slice_str("answer")), SESSION_APPLY);
    }
    /* In any order. */
    for (const struct request_answer *r = t.ids.newest; r != NULL; r = r->older) {
        bytes_clear(&out);
        session_encode_request(r, &out);
        assert_true(session_decode(&u, bytes_slice(&out)));
        assert_false(session_decode(&u, bytes_slice(&out))); /* twice */
    }
    session_table_sort(&u);
    assert_int_equal(u.answer_bytes, t.answer_bytes);
    for (struct request_answer *x = t.ids.oldest, *y = u.ids.oldest; x != NULL;
         x = x->newer, y = y->newer) {
        assert_true(x->index == y->index && x->alive_ms == y->alive_ms && x->code == y->code);
        assert_true(slice_equal(slice_of(x->result->data, x->result->size),
                                slice_of(y->result->data, y->result->size)));
    }
    assert_int_equal(apply(&u, 50, 200, 150, (struct slice){0}), SESSION_DUPLICATE);
    assert_int_equal(apply(&u, 50, 200, 150 + WINDOW_MS, (struct slice){0}), SESSION_APPLY);
    assert_false(session_decode_answer(&u, slice_of("\xff\xff", 2)));
    session_table_deinit(&t);
    session_table_deinit(&u);
    bytes_deinit(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_request_ids_expire_by_the_time_of_entries),
        cmocka_unit_test(test_request_ids_of_a_batch_are_busy),
        cmocka_unit_test(test_request_ids_are_bounded),
        cmocka_unit_test(test_request_ids_answers_are_bounded),
        cmocka_unit_test(test_request_ids_encode_and_decode),
        cmocka_unit_test(test_engine_repeated_id_gets_the_first_answer),
        cmocka_unit_test(test_engine_ids_travel_in_snapshots),
        cmocka_unit_test(test_engine_refuses_ids_that_are_wrong),
        cmocka_unit_test(test_engine_closed_session_is_expired),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
