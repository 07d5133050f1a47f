/* The log alone: terms, cache, truncation, compaction, and what counts as durable. */
#include "shards/raft/test/raft_test.h"

static void add(struct raft_log *l, uint64_t term)
{
    struct raft_entry *e = raft_entry_new(RAFT_ENTRY_NOOP, 0, 0, (struct bufslice){0});

    e->index = l->last_index + 1;
    e->term = term;
    raft__log_append(l, e);
    raft_entry_unref(e);
}

static void log_at(struct raft_log *l, uint64_t index, uint64_t term)
{
    struct raft_boot b = {.start_index = index, .start_term = term, .last_index = index};

    raft__log_init(l, &b);
}

static void log_with(struct raft_log *l, const uint64_t *terms, size_t n)
{
    log_at(l, 0, 0);
    for (size_t i = 0; i < n; i++) {
        add(l, terms[i]);
    }
}

static void save(struct raft_log *l, uint64_t token)
{
    raft__log_write_started(l, token, 0);
}

TEST(term)
{
    struct raft_log l;
    uint64_t t;
    log_at(&l, 100, 1);
    (void)state;

    for (uint64_t i = 1; i < 100; i++) {
        add(&l, i);
    }
    assert_false(raft__log_term(&l, 99, &t));
    assert_true(raft__log_term(&l, 100, &t) && t == 1);
    assert_true(raft__log_term(&l, 150, &t) && t == 50);
    assert_true(raft__log_term(&l, 199, &t) && t == 99);
    assert_false(raft__log_term(&l, 200, &t));
    assert_false(raft__log_matches(&l, 150, 51));
    raft__log_deinit(&l);
}

TEST(is_out_of_bounds)
{
    struct raft_log l;
    log_with(&l, (uint64_t[]){1, 1, 2}, 3);
    (void)state;

    assert_null(raft__log_entry(&l, 0));
    assert_non_null(raft__log_entry(&l, 1));
    assert_non_null(raft__log_entry(&l, 3));
    assert_null(raft__log_entry(&l, 4));
    raft__log_deinit(&l);
}

TEST(find_conflict_by_term)
{
    struct raft_log l;
    log_with(&l, (uint64_t[]){2, 2, 2, 5, 5, 5, 9}, 7);
    (void)state;

    assert_int_equal(raft__log_guess(&l, 7, 9), 7);
    assert_int_equal(raft__log_guess(&l, 7, 8), 6);
    assert_int_equal(raft__log_guess(&l, 5, 5), 5);
    assert_int_equal(raft__log_guess(&l, 6, 4), 3);
    assert_int_equal(raft__log_guess(&l, 6, 1), 0);
    assert_int_equal(raft__log_guess(&l, 99, 9), 7);
    raft__log_deinit(&l);
}

TEST(append)
{
    struct raft_log l;
    log_with(&l, (uint64_t[]){1, 2}, 2);
    (void)state;

    save(&l, 1);
    raft__log_write_done(&l, 1);
    add(&l, 2);
    assert_int_equal(raft__log_unsaved(&l), 3);
    raft__log_truncate(&l, 2); /* into what is durable */
    assert_int_equal(l.durable, 1);
    assert_int_equal(raft__log_unsaved(&l), 2);
    add(&l, 3);
    assert_true(raft__log_matches(&l, 2, 3));
    assert_int_equal(raft__log_last_term(&l), 3);
    raft__log_deinit(&l);
}

TEST(compaction)
{
    struct raft_log l;
    uint64_t t;
    log_with(&l, (uint64_t[]){1, 1, 2, 2, 3, 3}, 6);
    (void)state;

    save(&l, 1);
    raft__log_write_done(&l, 1);
    raft__log_compact(&l, 3);
    assert_int_equal(l.start_index, 3);
    assert_int_equal(l.start_term, 2);
    assert_int_equal(raft__log_cache_first(&l), 4);
    assert_false(raft__log_term(&l, 2, &t));
    assert_true(raft__log_matches(&l, 4, 2) && raft__log_matches(&l, 5, 3));
    assert_int_equal(raft__log_guess(&l, 5, 1), 3);
    raft__log_compact(&l, 6);
    assert_int_equal(l.run_count, 0);
    assert_int_equal(raft__log_last_term(&l), 3);
    add(&l, 3);
    assert_true(raft__log_matches(&l, 7, 3));
    raft__log_deinit(&l);
}

/* A run that ends at the new start has no entries left, so it must go. */
TEST(compaction_to_the_end_of_a_run)
{
    struct raft_log l;
    log_with(&l, (uint64_t[]){1, 1, 2, 3}, 4);
    (void)state;

    save(&l, 1);
    raft__log_write_done(&l, 1);
    raft__log_compact(&l, 2);
    assert_int_equal(l.run_count, 2);
    assert_int_equal(l.runs[0].first_index, 3);
    assert_int_equal(l.runs[0].term, 2);
    raft__log_compact(&l, 3);
    assert_int_equal(l.run_count, 1);
    assert_true(raft__log_matches(&l, 3, 2) && raft__log_matches(&l, 4, 3));
    raft__log_check_all(&l);
    raft__log_deinit(&l);
}

TEST(compaction_side_effects)
{
    struct raft_log l;
    log_at(&l, 0, 0);
    (void)state;

    for (uint64_t i = 1; i <= 1000; i++) {
        add(&l, i);
        if (i == 750) {
            save(&l, 1);
            raft__log_write_done(&l, 1);
        }
    }
    raft__log_compact(&l, 500);
    assert_int_equal(l.last_index, 1000);
    for (uint64_t i = 501; i <= 1000; i++) {
        assert_true(raft__log_matches(&l, i, i));
    }
    assert_int_equal(raft__log_unsaved(&l), 751);
    assert_int_equal(l.durable, 750);
    raft__log_deinit(&l);
}

TEST(log_restore)
{
    struct raft_log l;
    log_with(&l, (uint64_t[]){1, 1, 1}, 3);
    (void)state;

    save(&l, 1);
    raft__log_reset(&l, 1000, 5, (struct raft_stamp){0});
    assert_int_equal(l.last_index, 1000);
    assert_int_equal(raft__log_unsaved(&l), 1001);
    assert_int_equal(raft__log_last_term(&l), 5);
    raft__log_write_done(&l, 1); /* of the log before: makes nothing durable */
    assert_int_equal(l.durable, 0);
    save(&l, 2);
    raft__log_write_done(&l, 2);
    assert_int_equal(l.durable, 1000);
    raft__log_deinit(&l);
}

TEST(stable_to)
{
    struct raft_log l;
    log_with(&l, (uint64_t[]){1, 1}, 2);
    (void)state;

    save(&l, 1);
    add(&l, 1);
    save(&l, 2);
    raft__log_write_done(&l, 1);
    assert_int_equal(l.durable, 2);
    raft__log_write_done(&l, 2);
    assert_int_equal(l.durable, 3);
    raft__log_deinit(&l);
}

TEST(stable_to_with_snap)
{
    struct raft_log l;
    log_at(&l, 5, 2);
    (void)state;

    assert_int_equal(l.durable, 5);
    add(&l, 2);
    save(&l, 1);
    raft__log_write_done(&l, 1);
    assert_int_equal(l.durable, 6);
    raft__log_deinit(&l);
}

/* (index, term) come to be equal again, but the write that finishes was of other entries. */
TEST(unstable_stable_to_after_truncation)
{
    struct raft_log l;
    log_with(&l, (uint64_t[]){1, 2, 2}, 3);
    (void)state;

    save(&l, 1);
    raft__log_truncate(&l, 2);
    add(&l, 3);
    save(&l, 2);
    raft__log_truncate(&l, 2);
    add(&l, 3);
    add(&l, 3);
    raft__log_write_done(&l, 1);
    assert_int_equal(l.durable, 1);
    raft__log_write_done(&l, 2);
    assert_int_equal(l.durable, 1);
    save(&l, 3);
    raft__log_write_done(&l, 3);
    assert_int_equal(l.durable, 3);
    raft__log_deinit(&l);
}

TEST(unstable_truncate_and_append)
{
    struct raft_log l;
    log_with(&l, (uint64_t[]){1, 1, 1, 1}, 4);
    (void)state;

    save(&l, 1);
    raft__log_truncate(&l, 3);
    add(&l, 2);
    assert_int_equal(raft__log_unsaved(&l), 3);
    assert_int_equal(l.last_index, 3);
    raft__log_truncate(&l, 1);
    add(&l, 4);
    assert_int_equal(raft__log_unsaved(&l), 1);
    assert_int_equal(l.run_count, 1);
    assert_int_equal(l.work->writes[0].last, 0);
    raft__log_deinit(&l);
}

TEST(cache_evicts_from_the_front)
{
    struct raft_log l;
    log_at(&l, 0, 0);
    (void)state;

    for (int i = 0; i < 5000; i++) {
        add(&l, 1);
    }
    size_t each = raft__log_cached_bytes(&l) / 5000;
    raft__log_evict(&l, 100 * each, 4000);
    assert_int_equal(raft__log_cache_first(&l), 4001); /* not beyond what may go */
    raft__log_evict(&l, 100 * each, 5000);
    assert_int_equal(raft__log_cached_bytes(&l), 100 * each);
    assert_null(raft__log_entry(&l, 4900));
    assert_int_equal(raft__log_entry(&l, 4901)->index, 4901);
    assert_true(l.work->ring_capacity < 8192); /* and gives its memory back */
    raft__log_evict(&l, 0, 5000);
    assert_null(l.work->ring);
    add(&l, 1);
    assert_int_equal(raft__log_entry(&l, 5001)->index, 5001);
    raft__log_deinit(&l);
}

/* Against a plain array, with random appends, truncations, compactions, resets, writes. */
TEST(random_against_array)
{
    static uint64_t terms[4096];
    struct raft_log l;
    struct rand r;
    uint64_t term = 1;
    uint64_t token = 0;
    uint64_t done = 0;
    log_at(&l, 0, 0);
    (void)state;

    rand_seed(&r, 9);
    for (int round = 0; round < 4000 && l.last_index < 4000; round++) {
        uint64_t span = l.last_index - l.start_index;
        switch (rand_below(&r, 8)) {
        case 0:
            if (span > 0) {
                raft__log_truncate(&l, l.start_index + 1 + rand_below(&r, span));
                term++;
            }
            break;
        case 1:
            if (l.durable > l.start_index && rand_below(&r, 4) == 0) {
                uint64_t i = l.start_index + 1 + rand_below(&r, l.durable - l.start_index);
                raft__log_compact(&l, i);
            }
            break;
        case 2:
            save(&l, ++token);
            break;
        case 3:
            if (token > done) {
                done += 1 + rand_below(&r, token - done);
                raft__log_write_done(&l, done);
            }
            break;
        case 4:
            raft__log_evict(&l, rand_below(&r, 2000), l.durable);
            break;
        default:
            term += rand_below(&r, 4) == 0;
            add(&l, term);
            terms[l.last_index] = term;
            break;
        }
        for (uint64_t i = l.start_index + 1; i <= l.last_index; i++) {
            assert_true(raft__log_matches(&l, i, terms[i]));
            assert_true(i < raft__log_cache_first(&l) || raft__log_entry(&l, i)->index == i);
        }
        raft__log_check_all(&l);
    }
    raft__log_deinit(&l);
}

/* An installed snapshot knows the term of its own index, and of none before, durable or not. */
TEST(term_with_unstable_snapshot)
{
    struct raft_log l;
    uint64_t term = 0;
    log_with(&l, (uint64_t[]){1, 1, 1}, 3);
    (void)state;

    raft__log_reset(&l, 100, 5, (struct raft_stamp){0});
    for (int durable = 0; durable < 2; durable++) {
        if (durable == 1) {
            save(&l, 1);
            raft__log_write_done(&l, 1);
        }
        assert_int_equal(l.durable == 100, durable);
        assert_false(raft__log_term(&l, 3, &term));
        assert_false(raft__log_term(&l, 99, &term));
        assert_true(raft__log_term(&l, 100, &term));
        assert_int_equal(term, 5);
        assert_false(raft__log_term(&l, 101, &term));
    }
    raft__log_deinit(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RUN(term),
        RUN(is_out_of_bounds),
        RUN(find_conflict_by_term),
        RUN(append),
        RUN(compaction),
        RUN(compaction_to_the_end_of_a_run),
        RUN(compaction_side_effects),
        RUN(log_restore),
        RUN(stable_to),
        RUN(stable_to_with_snap),
        RUN(unstable_stable_to_after_truncation),
        RUN(unstable_truncate_and_append),
        RUN(cache_evicts_from_the_front),
        RUN(random_against_array),
        RUN(term_with_unstable_snapshot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
