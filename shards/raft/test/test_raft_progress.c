/* A leader's view of a member: struct raft_progress by itself. */
#include "shards/raft/test/raft_test.h"

static struct raft_progress replicating(uint64_t match)
{
    struct raft_progress p;

    raft__progress_init(&p, match + 1);
    p.match = match;
    raft__progress_replicate(&p);
    return p;
}

TEST(inflights_add)
{
    struct raft_progress p = replicating(0);
    (void)state;

    for (uint64_t i = 1; i <= LIMIT_INFLIGHT_MESSAGES; i++) {
        assert_false(raft__progress_window_full(&p));
        raft__progress_sent(&p, i, 1, 10);
        assert_int_equal(p.next, i + 1);
    }
    assert_int_equal(p.inflight_bytes, 10 * LIMIT_INFLIGHT_MESSAGES);
    assert_true(raft__progress_window_full(&p));
    raft__progress_deinit(&p);
}

TEST(inflight_free_to)
{
    struct raft_progress p = replicating(0);
    (void)state;

    for (uint64_t i = 1; i <= 100; i++) {
        raft__progress_sent(&p, i * 2, 2, 10);
    }
    assert_true(raft__progress_acked(&p, 9)); /* within the fifth message */
    assert_int_equal(p.inflight_count, 96);
    assert_int_equal(p.inflight_bytes, 960);
    assert_false(raft__progress_acked(&p, 3)); /* older */
    assert_int_equal(p.inflight_count, 96);
    /* Wrap around the ring. */
    for (uint64_t i = 101; i <= 400; i++) {
        raft__progress_acked(&p, i * 2 - 100);
        raft__progress_sent(&p, i * 2, 2, 10);
    }
    raft__progress_acked(&p, 800);
    assert_int_equal(p.inflight_count, 0);
    assert_int_equal(p.inflight_bytes, 0);
    raft__progress_deinit(&p);
}

TEST(inflights_full)
{
    struct raft_progress p = replicating(0);
    (void)state;

    raft__progress_sent(&p, 1, 1, LIMIT_INFLIGHT_BYTES - 1);
    assert_false(raft__progress_window_full(&p));
    raft__progress_sent(&p, 2, 1, 1);
    assert_true(raft__progress_window_full(&p)); /* by bytes */
    raft__progress_sent(&p, 2, 0, 0);            /* empty ones always pass */
    assert_true(raft__progress_acked(&p, 1));
    assert_false(raft__progress_window_full(&p));
    raft__progress_deinit(&p);
}

TEST(inflights_reset)
{
    struct raft_progress p = replicating(0);
    (void)state;

    raft__progress_sent(&p, 5, 5, 100);
    raft__progress_probe(&p, 3);
    assert_int_equal(p.inflight_count, 0);
    assert_int_equal(p.inflight_bytes, 0);
    assert_int_equal(p.next, 3);
    raft__progress_deinit(&p);
}

TEST(progress_become_probe)
{
    struct raft_progress p = replicating(10);
    (void)state;

    raft__progress_probe(&p, 5); /* never at or below the match */
    assert_int_equal(p.next, 11);
    assert_int_equal(p.state, RAFT_PROBE);
    raft__progress_probe(&p, 20);
    assert_int_equal(p.next, 20);
    raft__progress_deinit(&p);
}

TEST(progress_become_replicate)
{
    struct raft_progress p;
    (void)state;

    raft__progress_init(&p, 9);
    p.match = 3;
    raft__progress_replicate(&p);
    assert_int_equal(p.next, 4);
    assert_int_equal(p.state, RAFT_REPLICATE);
}

TEST(progress_become_snapshot)
{
    struct raft_progress p = replicating(1);
    (void)state;

    raft__progress_snapshot(&p);
    assert_int_equal(p.state, RAFT_SNAPSHOT);
    assert_false(raft__progress_rejected(&p, 5, 0)); /* paused: rejections mean nothing */
    assert_int_equal(p.match, 1);
}

TEST(progress_is_paused)
{
    struct raft_progress p;
    (void)state;

    raft__progress_init(&p, 5);
    assert_false(p.paused);
    raft__progress_sent(&p, 5, 1, 10);
    assert_true(p.paused);
    assert_int_equal(p.next, 5); /* PROBE is not optimistic */
}

TEST(progress_resume)
{
    struct raft_progress p;
    (void)state;

    raft__progress_init(&p, 5);
    raft__progress_sent(&p, 5, 1, 10);
    assert_true(raft__progress_rejected(&p, 4, 2));
    assert_false(p.paused);
    assert_int_equal(p.next, 3);
}

TEST(progress_update)
{
    struct raft_progress p;
    (void)state;

    raft__progress_init(&p, 6);
    p.match = 3;
    assert_false(raft__progress_acked(&p, 2));
    assert_false(raft__progress_acked(&p, 3));
    assert_true(raft__progress_acked(&p, 4));
    assert_int_equal(p.match, 4);
    assert_int_equal(p.next, 6);
    assert_true(raft__progress_acked(&p, 7));
    assert_int_equal(p.next, 8);
}

TEST(progress_maybe_decr)
{
    static const struct {
        enum raft_peer_state state;
        uint64_t match, next, rejected, guess;
        bool want;
        uint64_t want_next;
    } cases[] = {
        {RAFT_REPLICATE, 5, 10, 5, 5, false, 10}, /* not above match */
        {RAFT_REPLICATE, 5, 10, 4, 4, false, 10},
        {RAFT_REPLICATE, 5, 10, 9, 9, true, 6},
        {RAFT_PROBE, 0, 0 + 1, 9, 0, false, 1}, /* stale */
        {RAFT_PROBE, 0, 10, 5, 5, false, 10},
        {RAFT_PROBE, 0, 10, 9, 9, true, 9},
        {RAFT_PROBE, 0, 10, 9, 2, true, 3},
        {RAFT_PROBE, 0, 2, 1, 1, true, 1},
        {RAFT_PROBE, 0, 10, 9, 0, true, 1},
        {RAFT_PROBE, 6, 10, 9, 2, true, 7}, /* never at or below match */
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct raft_progress p = {
            .state = cases[i].state, .match = cases[i].match, .next = cases[i].next};
        assert_int_equal(raft__progress_rejected(&p, cases[i].rejected, cases[i].guess),
                         cases[i].want);
        assert_int_equal(p.next, cases[i].want_next);
        assert_true(p.match < p.next);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RUN(inflights_add),
        RUN(inflight_free_to),
        RUN(inflights_full),
        RUN(inflights_reset),
        RUN(progress_become_probe),
        RUN(progress_become_replicate),
        RUN(progress_become_snapshot),
        RUN(progress_is_paused),
        RUN(progress_resume),
        RUN(progress_update),
        RUN(progress_maybe_decr),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
