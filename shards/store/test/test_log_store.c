/* The log store on disk: each situation is checked before and after a reopen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "shards/store/test/store_fixture.h"

struct fixture {
    char *dir;
    struct log_store *s;
};

static int setup(void **state)
{
    struct fixture *f = xcalloc(1, sizeof *f);

    f->dir = dir_new();
    f->s = log_open(f->dir);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    if (f->s != NULL) {
        log_shut(f->s);
    }
    dir_free(f->dir);
    free(f);
    return 0;
}

static void reopen(struct fixture *f)
{
    log_shut(f->s);
    f->s = log_open(f->dir);
}

static void test_log_round_trip(void **state)
{
    struct fixture *f = *state;

    log_create(f->s, 7);
    log_append(f->s, 7, 1, 10, 2);
    log_append(f->s, 7, 11, 5, 3);
    for (int i = 0; i < 2; i++) {
        const struct store_replica *r = log_find(f->s, 7);
        assert_int_equal(r->shard_id, 1007);
        assert_true(slice_equal(r->descriptor, slice_str("descriptor")));
        assert_true(slice_equal(r->start_config, slice_str("config0")));
        assert_int_equal(r->machine_generation, 1);
        assert_int_equal(r->hard.term, 3);
        assert_int_equal(r->hard.vote, 1);
        assert_int_equal(r->hard.commit, 10);
        assert_int_equal(r->run_count, 2);
        assert_int_equal(r->runs[1].first_index, 11);
        assert_true(r->bytes > 100);
        log_expect(f->s, 7, 0, 15);
        reopen(f);
    }
}

static void test_log_sessions_and_kinds_survive(void **state)
{
    struct fixture *f = *state;
    struct raft_entry *e[4], *got[4];
    size_t n = 0;

    e[0] = entry_new(RAFT_ENTRY_NOOP, 1, 1, "");
    e[1] = entry_new(RAFT_ENTRY_SESSION, 2, 1, "");
    e[2] = entry_new(RAFT_ENTRY_COMMAND, 3, UINT64_MAX - 1, "x");
    e[2]->session = 2;
    e[2]->sequence = UINT64_MAX;
    e[3] = entry_new(RAFT_ENTRY_CONFIG, 4, UINT64_MAX - 1, "change");
    e[1]->stamp = e[2]->stamp = (struct raft_stamp){1700000000000, 42};
    e[3]->stamp = (struct raft_stamp){1700000000001, 42};
    log_create(f->s, 1);
    assert_int_equal(
        log_write_one(f->s,
                      &(struct store_update){.replica_id = 1, .entries = e, .entry_count = 4}),
        THOLE_OK);
    reopen(f);
    assert_int_equal(f->s->ops->read(f->s, 1, 1, 4, SIZE_MAX, 4, got, &n, NULL), THOLE_OK);
    assert_int_equal(n, 4);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(got[i]->kind, e[i]->kind);
        assert_int_equal(got[i]->term, e[i]->term);
        assert_int_equal(got[i]->session, e[i]->session);
        assert_int_equal(got[i]->sequence, e[i]->sequence);
        assert_memory_equal(&got[i]->stamp, &e[i]->stamp, sizeof e[i]->stamp);
        raft_entry_unref(e[i]);
        raft_entry_unref(got[i]);
    }
    struct raft_entry **configs;
    assert_int_equal(f->s->ops->config_entries(f->s, 1, &configs, &n, NULL), THOLE_OK);
    assert_int_equal(n, 1);
    assert_int_equal(configs[0]->index, 4);
    entries_free(configs, n);
}

static void test_log_start_keeps_the_times(void **state)
{
    struct fixture *f = *state;

    log_create(f->s, 1);
    assert_int_equal(log_write_one(f->s, &(struct store_update){.replica_id = 1,
                                                                .has_start = true,
                                                                .start_reset = true,
                                                                .start_index = 9,
                                                                .start_term = 2,
                                                                .start_stamp = {170, 42},
                                                                .start_config = slice_str("c")}),
                     THOLE_OK);
    for (int i = 0; i < 2; i++) {
        size_t it = 0;
        const struct store_replica *r = f->s->ops->next(f->s, &it);
        assert_int_equal(r->start_stamp.now_ms, 170);
        assert_int_equal(r->start_stamp.alive_ms, 42);
        reopen(f);
    }
}

static void test_log_times_that_fall_are_refused(void **state)
{
    struct fixture *f = *state;
    struct raft_entry *e[2] = {entry_new(RAFT_ENTRY_COMMAND, 1, 1, "a"),
                               entry_new(RAFT_ENTRY_COMMAND, 2, 1, "b")};

    e[0]->stamp.alive_ms = 1;
    log_create(f->s, 1);
    assert_int_equal(
        log_write_one(f->s,
                      &(struct store_update){.replica_id = 1, .entries = e, .entry_count = 2}),
        THOLE_INVALID_ARGUMENT);
    raft_entry_unref(e[0]);
    raft_entry_unref(e[1]);
}

static void test_log_truncation_inside_a_run(void **state)
{
    struct fixture *f = *state;

    log_create(f->s, 1);
    log_append(f->s, 1, 1, 10, 1);
    log_append(f->s, 1, 11, 10, 1);
    log_append(f->s, 1, 21, 10, 1);
    log_append(f->s, 1, 15, 2, 2); /* cuts the second run, deletes the third */
    log_expect(f->s, 1, 0, 16);
    reopen(f);
    log_expect(f->s, 1, 0, 16);
    log_append(f->s, 1, 1, 1, 3); /* everything */
    log_expect(f->s, 1, 0, 1);
    reopen(f);
    log_expect(f->s, 1, 0, 1);
    assert_int_equal(log_find(f->s, 1)->hard.term, 3);
}

static void test_log_truncation_twice_in_one_batch(void **state)
{
    struct fixture *f = *state;
    struct raft_entry **a = entries_new(1, 5, 10, 2), **b = entries_new(1, 8, 4, 3),
                      **c = entries_new(1, 10, 1, 4);
    struct store_update u[3] = {
        {.replica_id = 1, .entries = a, .entry_count = 10},
        {.replica_id = 1, .entries = b, .entry_count = 4, .has_hard = true, .hard = {3, 2, 1}},
        {.replica_id = 1, .entries = c, .entry_count = 1},
    };

    log_create(f->s, 1);
    log_append(f->s, 1, 1, 10, 1);
    assert_int_equal(f->s->ops->write(f->s, u, 3, NULL), THOLE_OK);
    entries_free(a, 10);
    entries_free(b, 4);
    entries_free(c, 1);
    for (int i = 0; i < 2; i++) {
        const struct store_replica *r = log_find(f->s, 1);
        assert_int_equal(r->hard.vote, 2);
        assert_int_equal(r->run_count, 4);
        log_expect(f->s, 1, 0, 10);
        reopen(f);
    }
}

static void test_log_gap_is_refused_and_nothing_written(void **state)
{
    struct fixture *f = *state;
    struct raft_entry **good = entries_new(1, 1, 3, 1), **bad = entries_new(2, 2, 1, 1);
    struct store_update u[2] = {{.replica_id = 1, .entries = good, .entry_count = 3},
                                {.replica_id = 2, .entries = bad, .entry_count = 1}};
    struct thole_status st = {0};

    log_create(f->s, 1);
    log_create(f->s, 2);
    assert_int_equal(f->s->ops->write(f->s, u, 2, &st), THOLE_INVALID_ARGUMENT);
    u[1].replica_id = 99; /* not there */
    assert_int_equal(f->s->ops->write(f->s, u, 2, &st), THOLE_INVALID_ARGUMENT);
    log_expect(f->s, 1, 0, 0);
    assert_int_equal(f->s->ops->write(f->s, u, 1, &st), THOLE_OK);
    log_expect(f->s, 1, 0, 3);
    entries_free(good, 3);
    entries_free(bad, 1);
}

static void test_log_entries_beyond_the_last_index_are_refused(void **state)
{
    struct fixture *f = *state;
    struct raft_entry **e = entries_new(1, UINT64_MAX - 1, 2, 1);
    struct store_update u = {.replica_id = 1, .entries = e, .entry_count = 2};

    log_create(f->s, 1);
    log_start(f->s, 1, UINT64_MAX - 2, 1, true);
    assert_int_equal(log_write_one(f->s, &u), THOLE_INVALID_ARGUMENT);
    u.entry_count = 1;
    assert_int_equal(log_write_one(f->s, &u), THOLE_OK);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(log_find(f->s, 1)->last_index, UINT64_MAX - 1);
        reopen(f);
    }
    u.entries = e + 1;
    assert_int_equal(log_write_one(f->s, &u), THOLE_INVALID_ARGUMENT);
    entries_free(e, 2);
}

static void test_log_many_groups_in_one_batch(void **state)
{
    enum { GROUPS = 500 };
    struct fixture *f = *state;
    struct store_update *u = xcalloc(GROUPS, sizeof *u);
    struct raft_entry **e[GROUPS];

    for (uint64_t g = 0; g < GROUPS; g++) {
        log_create(f->s, g + 1);
        e[g] = entries_new(g + 1, 1, 1 + g % 5, 1);
        u[g] = (struct store_update){.replica_id = g + 1,
                                     .has_hard = true,
                                     .hard = {1, g + 1, 0},
                                     .entries = e[g],
                                     .entry_count = 1 + g % 5};
    }
    assert_int_equal(f->s->ops->write(f->s, u, GROUPS, NULL), THOLE_OK);
    reopen(f);
    for (uint64_t g = 0; g < GROUPS; g++) {
        log_expect(f->s, g + 1, 0, 1 + g % 5);
        assert_int_equal(log_find(f->s, g + 1)->hard.vote, g + 1);
        entries_free(e[g], 1 + g % 5);
    }
    free(u);
}

static void test_log_large_batch_is_split_into_runs(void **state)
{
    enum { COUNT = 9 };
    struct fixture *f = *state;
    char *payload = xmalloc(400001);
    struct raft_entry *e[COUNT], *got[COUNT];
    size_t n = 0;

    memset(payload, 'x', 400000);
    payload[400000] = '\0';
    for (size_t i = 0; i < COUNT; i++) {
        e[i] = entry_new(RAFT_ENTRY_COMMAND, i + 1, 1, payload);
    }
    log_create(f->s, 1);
    assert_int_equal(
        log_write_one(f->s,
                      &(struct store_update){.replica_id = 1, .entries = e, .entry_count = COUNT}),
        THOLE_OK);
    reopen(f);
    assert_int_equal(f->s->ops->read(f->s, 1, 1, COUNT, SIZE_MAX, COUNT, got, &n, NULL), THOLE_OK);
    assert_int_equal(n, COUNT);
    for (size_t i = 0; i < COUNT; i++) {
        assert_int_equal(got[i]->payload.bytes.size, 400000);
        raft_entry_unref(got[i]);
        raft_entry_unref(e[i]);
    }
    assert_int_equal(f->s->ops->read(f->s, 1, 2, COUNT, 900000, COUNT, got, &n, NULL), THOLE_OK);
    assert_int_equal(n, 2);
    raft_entry_unref(got[0]);
    raft_entry_unref(got[1]);
    free(payload);
}

static void test_log_start_drops_the_front(void **state)
{
    struct fixture *f = *state;

    log_create(f->s, 1);
    log_create(f->s, 2);
    for (uint64_t i = 0; i < 20; i++) {
        log_append(f->s, 1, 1 + i * 10, 10, 1);
        log_append(f->s, 2, 1 + i * 10, 10, 1);
    }
    uint64_t before = log_live_bytes(f->s);
    log_start(f->s, 1, 105, 1, false);
    assert_true(log_live_bytes(f->s) < before * 4 / 5); /* the run with 105 in it stays */
    log_expect(f->s, 1, 105, 200);
    reopen(f);
    log_expect(f->s, 1, 105, 200);
    assert_int_equal(log_find(f->s, 1)->hard.commit, 190);
    log_turn_over(f->s);
    log_expect(f->s, 1, 105, 200);
    log_expect(f->s, 2, 0, 200);
    reopen(f);
    log_expect(f->s, 1, 105, 200);
    assert_true(slice_equal(log_find(f->s, 1)->start_config, slice_str("config-compact")));
    log_append(f->s, 1, 106, 4, 2); /* cut right behind the start */
    log_expect(f->s, 1, 105, 109);
    log_start(f->s, 1, 109, 2, false); /* everything */
    log_expect(f->s, 1, 109, 109);
    log_turn_over(f->s);
    reopen(f);
    log_expect(f->s, 1, 109, 109);
    log_append(f->s, 1, 110, 4, 3);
    log_expect(f->s, 1, 109, 113);
    assert_int_equal(log_find(f->s, 1)->start_term, 2);
}

static void test_log_reset_hides_old_runs_at_once(void **state)
{
    struct fixture *f = *state;
    struct raft_entry **e = entries_new(1, 51, 3, 5);

    log_create(f->s, 1);
    log_append(f->s, 1, 1, 100, 1); /* a run that begins below and ends beyond the new start */
    assert_int_equal(log_write_one(f->s, &(struct store_update){.replica_id = 1,
                                                                .has_hard = true,
                                                                .hard = {5, 0, 50},
                                                                .has_start = true,
                                                                .start_reset = true,
                                                                .start_index = 50,
                                                                .start_term = 4,
                                                                .machine_generation = 9,
                                                                .entries = e,
                                                                .entry_count = 3}),
                     THOLE_OK);
    log_expect(f->s, 1, 50, 53);
    reopen(f);
    log_expect(f->s, 1, 50, 53);
    log_start(f->s, 1, 500, 6, true);
    log_expect(f->s, 1, 500, 500);
    reopen(f);
    log_expect(f->s, 1, 500, 500);
    log_turn_over(f->s);
    log_append(f->s, 1, 501, 2, 7);
    reopen(f);
    log_expect(f->s, 1, 500, 502);
    assert_int_equal(log_find(f->s, 1)->hard.term, 7);
    entries_free(e, 3);
}

static void test_log_remove_leaves_a_tombstone(void **state)
{
    struct fixture *f = *state;
    struct raft_entry *got[1];
    size_t n = 0;

    log_create(f->s, 1);
    log_append(f->s, 1, 1, 10, 1);
    log_create(f->s, 2);
    log_append(f->s, 2, 1, 10, 1);
    log_remove(f->s, 1);
    for (int i = 0; i < 2; i++) {
        const struct store_replica *r = log_find(f->s, 1);
        assert_true(r->removed);
        assert_int_equal(r->shard_id, 1001);
        assert_int_equal(f->s->ops->read(f->s, 1, 1, 1, 1, 1, got, &n, NULL), THOLE_NOT_FOUND);
        log_expect(f->s, 2, 0, 10);
        reopen(f);
    }
    struct store_identity again = {.replica_id = 1};
    assert_int_equal(log_write_one(f->s, &(struct store_update){.replica_id = 1, .create = &again}),
                     THOLE_INVALID_ARGUMENT);
    log_turn_over(f->s);
    log_forget(f->s, 1);
    assert_null(log_find(f->s, 1));
    reopen(f);
    assert_null(log_find(f->s, 1));
    log_expect(f->s, 2, 0, 10);
}

static void test_log_forgotten_stays_forgotten(void **state)
{
    struct fixture *f = *state;

    log_create(f->s, 1);
    log_append(f->s, 1, 1, 10, 1);
    log_remove(f->s, 1);
    log_forget(f->s, 1);
    reopen(f);
    assert_null(log_find(f->s, 1));
    log_turn_over(f->s);
    log_remove(f->s, 44); /* a removal of a replica that never existed: only the tombstone */
    reopen(f);
    assert_true(log_find(f->s, 44)->removed);
}

static void test_log_hard_state_alone(void **state)
{
    struct fixture *f = *state;

    log_create(f->s, 1);
    log_append(f->s, 1, 1, 5, 1);
    log_hard(f->s, 1, 9, 3, 4);
    reopen(f);
    assert_int_equal(log_find(f->s, 1)->hard.term, 9);
    assert_int_equal(log_find(f->s, 1)->hard.vote, 3);
    log_append(f->s, 1, 6, 1, 10);
    reopen(f);
    assert_int_equal(log_find(f->s, 1)->hard.term, 10);
    log_start(f->s, 1, 6, 10, false); /* the run that carries the hard state is dropped */
    log_turn_over(f->s);
    reopen(f);
    assert_int_equal(log_find(f->s, 1)->hard.term, 10);
    assert_int_equal(log_find(f->s, 1)->hard.commit, 5);
}

static void test_host_records(void **state)
{
    struct fixture *f = *state;
    struct buf *b = NULL;

    assert_int_equal(f->s->ops->get_host(f->s, "identity", &b, NULL), THOLE_NOT_FOUND);
    assert_int_equal(f->s->ops->put_host(f->s, "identity", slice_str("one"), NULL), THOLE_OK);
    assert_int_equal(f->s->ops->put_host(f->s, "identity", slice_str("two"), NULL), THOLE_OK);
    reopen(f);
    assert_int_equal(f->s->ops->get_host(f->s, "identity", &b, NULL), THOLE_OK);
    assert_true(slice_equal(slice_of(b->data, b->size), slice_str("two")));
    buf_unref(b);
    size_t it = 0;
    assert_null(f->s->ops->next(f->s, &it));
}

static void test_newer_format_is_refused(void **state)
{
    struct fixture *f = *state;
    struct thole_status st = {0};
    char path[512];

    log_shut(f->s);
    f->s = NULL;
    snprintf(path, sizeof path, "%s/log/ID", f->dir);
    assert_int_equal(file_write_atomic(path, slice_str("thole log 3 of the future\n"), &st),
                     THOLE_OK);
    assert_int_equal(log_try_open(f->dir, &f->s, &st), THOLE_FAILED_PRECONDITION);
    assert_int_equal(st.reason, THOLE_REASON_FORMAT);
}

static void test_second_open_is_locked_out(void **state)
{
    struct fixture *f = *state;
    struct thole_status st = {0};
    struct log_store *second = NULL;

    assert_int_equal(log_try_open(f->dir, &second, &st), THOLE_FAILED_PRECONDITION);
    assert_int_equal(st.reason, THOLE_REASON_LOCKED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_log_round_trip, setup, teardown),
        cmocka_unit_test_setup_teardown(test_log_sessions_and_kinds_survive, setup, teardown),
        cmocka_unit_test_setup_teardown(test_log_start_keeps_the_times, setup, teardown),
        cmocka_unit_test_setup_teardown(test_log_times_that_fall_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_log_truncation_inside_a_run, setup, teardown),
        cmocka_unit_test_setup_teardown(test_log_truncation_twice_in_one_batch, setup, teardown),
        cmocka_unit_test_setup_teardown(test_log_gap_is_refused_and_nothing_written, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_log_entries_beyond_the_last_index_are_refused, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_log_many_groups_in_one_batch, setup, teardown),
        cmocka_unit_test_setup_teardown(test_log_large_batch_is_split_into_runs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_log_start_drops_the_front, setup, teardown),
        cmocka_unit_test_setup_teardown(test_log_reset_hides_old_runs_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_log_remove_leaves_a_tombstone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_log_forgotten_stays_forgotten, setup, teardown),
        cmocka_unit_test_setup_teardown(test_log_hard_state_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_host_records, setup, teardown),
        cmocka_unit_test_setup_teardown(test_newer_format_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_second_open_is_locked_out, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
