/* Exactly-once: retries, windows, eviction, snapshots, persistent machines, crashes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shards/engine/test/harness.h"

#include <cmocka.h>

static uint64_t open_session(struct cluster *c)
{
    for (;;) {
        struct op *o = op_open_session(c, cluster_wait_leader(c));
        op_wait(o);
        uint64_t id = o->r.status.code == THOLE_OK ? o->r.code : 0;
        op_free(o);
        if (id) {
            return id;
        }
    }
}

/* A client's loop: retry with the same sequence until a reply arrives. */
static void once(struct cluster *c, uint64_t session, uint64_t sequence, struct op **ret)
{
    for (int i = 0; i < 100; i++) {
        struct op *o = op_propose_in(c, cluster_wait_leader(c), session, sequence, "x");
        op_wait(o);
        if (o->r.status.code == THOLE_OK || o->r.status.code == THOLE_FAILED_PRECONDITION) {
            *ret = o;
            return;
        }
        op_free(o);
        cluster_run(c, 20);
    }
    fail_msg("no answer");
}

static uint64_t code_of(struct cluster *c, uint64_t session, uint64_t sequence, bool duplicate)
{
    struct op *o;
    once(c, session, sequence, &o);
    assert_int_equal(o->r.status.code, THOLE_OK);
    assert_int_equal(o->r.duplicate, duplicate);
    assert_int_equal(o->r.result.bytes.size, 8);
    assert_int_equal(get_le64(o->r.result.bytes.data), o->r.code);
    uint64_t code = o->r.code;
    op_free(o);
    return code;
}

static enum thole_reason reason_of(struct cluster *c, uint64_t session, uint64_t sequence)
{
    struct op *o;
    once(c, session, sequence, &o);
    enum thole_reason reason = o->r.status.reason;
    op_free(o);
    return reason;
}

static void check_retries(const char *machine)
{
    struct cluster *c = cluster_new(3, 21);
    c->machine = machine;
    cluster_bootstrap(c, 3);
    uint64_t s = open_session(c);
    assert_int_equal(code_of(c, s, 1, false), 1);
    assert_int_equal(code_of(c, s, 2, false), 2);
    assert_int_equal(code_of(c, s, 1, true), 1);
    /* The same sequence twice in one batch. */
    int leader = cluster_wait_leader(c);
    struct op *a = op_propose_in(c, leader, s, 3, "x"), *b = op_propose_in(c, leader, s, 3, "x");
    op_wait(a);
    op_wait(b);
    assert_false(a->r.duplicate);
    assert_true(b->r.duplicate);
    assert_int_equal(a->r.code, b->r.code);
    assert_int_equal(a->r.index, b->r.index);
    op_free(a);
    op_free(b);
    for (int h = 0; h < 3; h++) {
        host_stop(c, h);
    }
    for (int h = 0; h < 3; h++) {
        host_start(c, h);
    }
    assert_int_equal(code_of(c, s, 2, true), 2);
    assert_int_equal(query_ok(c, 0).count, 3);
    cluster_free(c);
}

static void test_engine_retry_gets_the_first_answer(void **state)
{
    (void)state;
    check_retries("tally");
    check_retries("ledger");
}

static void test_engine_unknown_session_is_expired(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(1, 22);
    cluster_bootstrap(c, 1);
    assert_int_equal(reason_of(c, 12345, 1), THOLE_REASON_SESSION_EXPIRED);
    assert_int_equal(query_ok(c, 0).count, 0);
    cluster_free(c);
}

static void check_window(const char *machine)
{
    struct cluster *c = cluster_new(1, 23);
    c->machine = machine;
    cluster_bootstrap(c, 1);
    uint64_t s = open_session(c);
    for (uint64_t i = 1; i <= LIMIT_SESSION_RESULTS + 3; i++) {
        assert_int_equal(code_of(c, s, i, false), i);
    }
    assert_int_equal(reason_of(c, s, 1), THOLE_REASON_SEQUENCE_TOO_OLD);
    assert_int_equal(code_of(c, s, 4, true), 4);
    host_crash(c, 0);
    host_start(c, 0);
    assert_int_equal(reason_of(c, s, 3), THOLE_REASON_SEQUENCE_TOO_OLD);
    assert_int_equal(code_of(c, s, 4, true), 4);
    assert_int_equal(query_ok(c, 0).count, LIMIT_SESSION_RESULTS + 3);
    cluster_free(c);
}

static void test_engine_window_of_answers_moves(void **state)
{
    (void)state;
    check_window("tally");
    check_window("ledger");
}

static void test_engine_least_recently_used_session_is_evicted(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(1, 24);
    c->machine = "ledger";
    cluster_bootstrap(c, 1);
    uint64_t first = open_session(c), second = open_session(c);
    (void)code_of(c, second, 1, false);
    (void)code_of(c, first, 1, false); /* now `second` is the older one */
    struct op **ops = xcalloc(LIMIT_SESSIONS, sizeof(struct op *));
    for (int i = 0; i < LIMIT_SESSIONS - 1; i++) {
        ops[i] = op_open_session(c, 0);
    }
    for (int i = 0; i < LIMIT_SESSIONS - 1; i++) {
        op_wait(ops[i]);
        assert_int_equal(ops[i]->r.status.code, THOLE_OK);
        op_free(ops[i]);
    }
    free(ops);
    assert_int_equal(reason_of(c, second, 1), THOLE_REASON_SESSION_EXPIRED);
    assert_int_equal(code_of(c, first, 1, true), 2);
    host_crash(c, 0);
    host_start(c, 0);
    assert_int_equal(reason_of(c, second, 1), THOLE_REASON_SESSION_EXPIRED);
    assert_int_equal(code_of(c, first, 1, true), 2);
    cluster_free(c);
}

static void check_through_snapshot(const char *machine)
{
    struct cluster *c = cluster_new(3, 25);
    c->machine = machine;
    c->compact_log_bytes = 2000;
    c->keep_log_bytes = 200;
    cluster_bootstrap(c, 3);
    uint64_t s = open_session(c);
    assert_int_equal(code_of(c, s, 1, false), 1);
    int behind = (cluster_wait_leader(c) + 1) % 3;
    isolate(c, behind, true);
    for (uint64_t i = 2; i <= 300; i++) {
        (void)code_of(c, s, i, false);
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
    assert_int_equal(code_of(c, s, 299, true), 299);
    assert_int_equal(reason_of(c, s, 1), THOLE_REASON_SEQUENCE_TOO_OLD);
    assert_int_equal(code_of(c, s, 301, false), 301);
    cluster_free(c);
}

static void test_engine_sessions_travel_in_snapshots(void **state)
{
    (void)state;
    check_through_snapshot("tally");
    check_through_snapshot("ledger");
}

/* ---- The table alone ------------------------------------------------------------------------- */

static void test_session_table_encodes_and_decodes(void **state)
{
    (void)state;
    struct session_table t = {0}, u = {0};
    const struct session_result *r = NULL;
    struct bytes out = {0};
    assert_true(session_open(&t, 5, 5, NULL));
    for (uint64_t i = 0; i < 100; i++) {
        assert_int_equal(session_begin(&t, 5, i * 2, 10 + i, NULL, &r), SESSION_APPLY);
        (void)session_finish(&t, 5, i * 2, i, slice_of("answer", 6), NULL);
    }
    session_encode(t.oldest, &out);
    assert_true(session_decode(&u, bytes_slice(&out)));
    session_table_sort(&u);
    assert_int_equal(u.oldest->count, LIMIT_SESSION_RESULTS);
    assert_int_equal(u.oldest->floor, t.oldest->floor);
    assert_int_equal(session_begin(&u, 5, 198, 500, NULL, &r), SESSION_DUPLICATE);
    assert_int_equal(r->code, 99);
    assert_int_equal(session_begin(&u, 5, 10, 501, NULL, &r), SESSION_TOO_OLD);
    assert_false(session_decode(&u, slice_of("\xff\xff\xff", 3)));
    session_table_deinit(&t);
    session_table_deinit(&u);
    bytes_deinit(&out);
}

static size_t answer_bytes(const struct session_table *t, size_t *ret_cut)
{
    size_t sum = 0;
    *ret_cut = 0;
    for (const struct session *s = t->oldest; s != NULL; s = s->newer) {
        for (uint32_t i = 0; i < s->count; i++) {
            sum += s->results[i].result != NULL ? s->results[i].result->size : 0;
            *ret_cut += s->results[i].cut;
        }
    }
    return sum;
}

static void encode_table(const struct session_table *t, struct bytes *out)
{
    for (const struct session *s = t->oldest; s != NULL; s = s->newer) {
        session_encode(s, out);
    }
}

/* 4,096 sessions with 64 results of 64 KiB each would be 16 GiB. The table is the same however
 * entries are batched. */
static void test_session_answers_are_bounded_together(void **state)
{
    (void)state;
    enum { SESSIONS = 50, ROUNDS = 60, BATCHES = 3 };
    static const unsigned batch[BATCHES] = {1, 7, SESSIONS};
    static uint8_t answer[LIMIT_SESSION_RESULT_BYTES];
    struct bytes encoded[BATCHES] = {{0}};
    for (int k = 0; k < BATCHES; k++) {
        struct session_table t = {0}, u = {0};
        const struct session_result *r = NULL;
        uint64_t index = 1;
        size_t cut = 0;
        for (uint64_t s = 1; s <= SESSIONS; s++) {
            assert_true(session_open(&t, s, index++, NULL));
        }
        for (unsigned i = 0; i < SESSIONS * ROUNDS; i += batch[k]) {
            unsigned n = SESSIONS * ROUNDS - i < batch[k] ? SESSIONS * ROUNDS - i : batch[k];
            for (unsigned j = i; j < i + n; j++) {
                assert_int_equal(
                    session_begin(&t, 1 + j % SESSIONS, 1 + j / SESSIONS, index + j, NULL, &r),
                    SESSION_APPLY);
            }
            for (unsigned j = i; j < i + n; j++) {
                assert_non_null(session_finish(&t, 1 + j % SESSIONS, 1 + j / SESSIONS, j,
                                               slice_of(answer, sizeof answer - j % 3), NULL));
            }
            assert_true(answer_bytes(&t, &cut) <= LIMIT_SESSION_ANSWERS_BYTES_MAX);
        }
        assert_true(answer_bytes(&t, &cut) > LIMIT_SESSION_ANSWERS_BYTES / 2);
        assert_true(cut > 0);
        /* An old command is still known to be applied; a new command has its result. */
        assert_int_equal(session_begin(&t, 1, 1, 900000, NULL, &r), SESSION_DUPLICATE);
        assert_true(r->cut && r->result == NULL);
        assert_int_equal(session_begin(&t, 1, ROUNDS, 900001, NULL, &r), SESSION_DUPLICATE);
        assert_true(!r->cut && r->result != NULL);
        for (const struct session *s = t.oldest; s != NULL; s = s->newer) {
            struct bytes one = {0};
            session_encode(s, &one);
            assert_true(session_decode(&u, bytes_slice(&one)));
            bytes_deinit(&one);
        }
        session_table_sort(&u);
        assert_int_equal(u.answer_bytes, t.answer_bytes);
        encode_table(&t, &encoded[k]);
        session_table_deinit(&t);
        session_table_deinit(&u);
        assert_true(slice_equal(bytes_slice(&encoded[k]), bytes_slice(&encoded[0])));
    }
    for (int k = 0; k < BATCHES; k++) {
        bytes_deinit(&encoded[k]);
    }
}

static void test_session_reserved_answer_is_busy(void **state)
{
    (void)state;
    struct session_table t = {0};
    const struct session_result *r = NULL;
    assert_true(session_open(&t, 1, 1, NULL));
    for (uint64_t i = 1; i <= LIMIT_SESSION_RESULTS; i++) {
        assert_int_equal(session_begin(&t, 1, i, 1 + i, NULL, &r), SESSION_APPLY);
    }
    assert_int_equal(session_begin(&t, 1, 5, 100, NULL, &r), SESSION_BUSY);
    assert_int_equal(session_begin(&t, 1, 1000, 100, NULL, &r), SESSION_BUSY); /* would trim one */
    (void)session_finish(&t, 1, 1, 0, (struct slice){0}, NULL);
    assert_int_equal(session_begin(&t, 1, 1000, 100, NULL, &r), SESSION_APPLY);
    assert_int_equal(session_begin(&t, 1, 1, 101, NULL, &r), SESSION_TOO_OLD);
    session_table_deinit(&t);
}

/* A command older than every sequence in its session's window reserves nothing. So the session may
 * be evicted before the machine has run the command. */
static void test_session_evicted_before_its_command_ended(void **state)
{
    (void)state;
    struct session_table t = {0};
    const struct session_result *r = NULL;
    uint64_t index = 1;
    assert_true(session_open(&t, index, index, NULL));
    index++;
    for (uint64_t i = 0; i < LIMIT_SESSION_RESULTS; i++) {
        assert_int_equal(session_begin(&t, 1, 100 + i, index++, NULL, &r), SESSION_APPLY);
        (void)session_finish(&t, 1, 100 + i, 0, (struct slice){0}, NULL);
    }
    assert_int_equal(session_begin(&t, 1, 5, index++, NULL, &r), SESSION_APPLY);
    assert_null(r);
    for (int i = 0; i < LIMIT_SESSIONS; i++, index++) {
        assert_true(session_open(&t, index, index, NULL));
    }
    assert_null(session_finish(&t, 1, 5, 0, (struct slice){0}, NULL));
    assert_int_equal(session_begin(&t, 1, 5, index, NULL, &r), SESSION_EXPIRED);
    session_table_deinit(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_session_table_encodes_and_decodes),
        cmocka_unit_test(test_session_answers_are_bounded_together),
        cmocka_unit_test(test_session_reserved_answer_is_busy),
        cmocka_unit_test(test_session_evicted_before_its_command_ended),
        cmocka_unit_test(test_engine_retry_gets_the_first_answer),
        cmocka_unit_test(test_engine_unknown_session_is_expired),
        cmocka_unit_test(test_engine_window_of_answers_moves),
        cmocka_unit_test(test_engine_least_recently_used_session_is_evicted),
        cmocka_unit_test(test_engine_sessions_travel_in_snapshots),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
