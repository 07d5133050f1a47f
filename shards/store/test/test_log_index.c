/* The index of one log against an array with the term and the record of each entry. THOLE_SEED=n
 * repeats a run, THOLE_STEPS=n makes it longer. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/rand.h"
#include "shards/store/log_index.h"
#include "shards/store/test/random_updates.h"

enum { ENTRIES = 4000, RUN_MAX = 9, RECORD_BYTES = 100 };

/* Records differ in their offsets; all are in one segment. */
struct naive {
    uint64_t term[ENTRIES];
    uint32_t record[ENTRIES]; /* of entry i */
    uint64_t start, last;
};

struct fixture {
    struct log_index x;
    struct segments files;
    struct segment segment;
    struct segment *items[1];
    struct naive n;
    uint32_t next_record;
    struct rand rand;
};

static struct store_run new_run(struct fixture *f, uint64_t first, uint32_t count, uint64_t term)
{
    return (struct store_run){
        .first = first,
        .term = term,
        .place = {1, ++f->next_record, RECORD_BYTES},
        .count = count & INT32_MAX,
    };
}

/* Which records hold a part of the log behind the start? */
static size_t wanted(const struct naive *n)
{
    size_t count = 0;

    for (uint64_t i = n->start + 1; i <= n->last; i++) {
        count += i == n->start + 1 || n->record[i] != n->record[i - 1];
    }
    return count;
}

static void expect_equal(const struct fixture *f)
{
    struct raft_term_run terms[ENTRIES];
    const struct naive *n = &f->n;
    size_t count = log_index_terms(&f->x, terms), t = 0;

    assert_int_equal(f->x.start, n->start);
    assert_int_equal(f->x.last, n->last);
    assert_true(log_index_whole(&f->x));
    assert_int_equal(f->x.end - f->x.head, wanted(n));
    assert_int_equal(log_index_bytes(&f->x), wanted(n) * RECORD_BYTES);
    assert_int_equal(f->files.live_bytes, log_index_bytes(&f->x));
    for (uint64_t i = n->start + 1; i <= n->last; i++) {
        const struct store_run *r = &f->x.runs[log_index_find(&f->x, i)];

        assert_true(r->first <= i && i < r->first + r->count);
        assert_int_equal(r->place.offset, n->record[i]);
        assert_int_equal(r->term, n->term[i]);
        if (i == n->start + 1 || n->term[i] != n->term[i - 1]) {
            assert_int_equal(terms[t].first_index, i);
            assert_int_equal(terms[t++].term, n->term[i]);
        }
    }
    assert_int_equal(t, count);
    assert_int_equal(log_index_find(&f->x, n->last + 1), f->x.end);
}

static void append(struct fixture *f)
{
    struct naive *n = &f->n;
    uint64_t first = rand_chance(&f->rand, 0.3) ? rand_between(&f->rand, n->start + 1, n->last + 1)
                                                : n->last + 1;
    uint32_t count = 1 + (uint32_t)rand_below(&f->rand, RUN_MAX);
    uint64_t term = n->last > n->start ? n->term[n->last] : 1;

    if (first + count >= ENTRIES) {
        return;
    }
    term += first <= n->last || rand_chance(&f->rand, 0.1);
    struct store_run run = new_run(f, first, count, term);
    log_index_append(&f->x, &f->files, run);
    for (uint64_t i = first; i < first + count; i++) {
        n->term[i] = term;
        n->record[i] = run.place.offset;
    }
    n->last = first + count - 1;
}

/* As the cleaner does: copy the live part of a run to a new place. */
static void move(struct fixture *f)
{
    struct naive *n = &f->n;

    if (n->last == n->start) {
        return;
    }
    struct store_run run = f->x.runs[rand_between(&f->rand, f->x.head, f->x.end - 1)];
    uint32_t old = run.place.offset;
    run.place.offset = ++f->next_record;
    log_index_move(&f->x, &f->files, run);
    for (uint64_t i = run.first; i < run.first + run.count; i++) {
        assert_true(i <= n->start || n->record[i] == old);
        n->record[i] = run.place.offset;
    }
}

static void compact(struct fixture *f, bool reset)
{
    struct naive *n = &f->n;
    uint64_t to = rand_between(&f->rand, n->start, n->last + (rand_chance(&f->rand, 0.1) ? 5 : 0));

    if (reset || to >= ENTRIES - 2 * RUN_MAX) {
        log_index_reset(&f->x, &f->files, reset ? to % 50 : 0, 0);
        n->start = n->last = reset ? to % 50 : 0;
        return;
    }
    log_index_compact(&f->x, &f->files, to, 0);
    n->start = to;
    n->last = n->last > to ? n->last : to;
}

static void init(struct fixture *f, uint64_t seed)
{
    *f = (struct fixture){.segment = {.number = 1}};
    f->items[0] = &f->segment;
    f->files.live = (struct segment_ring){.items = f->items, .count = 1, .capacity = 1};
    rand_seed(&f->rand, seed);
}

static void test_log_index_random_changes_equal_an_array(void **state)
{
    static struct fixture f;
    uint64_t seed = random_option("THOLE_SEED", (uint64_t)time(NULL));
    uint64_t steps = random_option("THOLE_STEPS", 20000);

    (void)state;
    print_message("THOLE_SEED=%" PRIu64 "\n", seed);
    init(&f, seed);
    for (uint64_t i = 0; i < steps; i++) {
        uint64_t what = rand_below(&f.rand, 100);

        if (what < 60) {
            append(&f);
        } else if (what < 90) {
            move(&f);
        } else {
            compact(&f, what == 99 && rand_chance(&f.rand, 0.2));
        }
        expect_equal(&f);
    }
    log_index_deinit(&f.x, &f.files);
    assert_int_equal(f.files.live_bytes, 0);
    assert_int_equal(f.segment.live, 0);
}

/* At open, copies may be found without their originals, behind later records. */
static void test_log_index_copies_fill_gaps(void **state)
{
    static struct fixture f;
    (void)state;
    init(&f, 1);
    log_index_append(&f.x, &f.files, new_run(&f, 11, 10, 2));
    log_index_append(&f.x, &f.files, new_run(&f, 21, 5, 2));
    assert_false(log_index_whole(&f.x));
    log_index_move(&f.x, &f.files, new_run(&f, 1, 4, 1));
    assert_false(log_index_whole(&f.x));
    log_index_move(&f.x, &f.files, new_run(&f, 5, 6, 1));
    assert_true(log_index_whole(&f.x));
    assert_int_equal(f.x.last, 25);
    log_index_compact(&f.x, &f.files, 7, 1);
    log_index_move(&f.x, &f.files, new_run(&f, 1, 4, 1)); /* entries below the start stay hidden */
    assert_int_equal(log_index_bytes(&f.x), 3 * RECORD_BYTES);
    assert_int_equal(f.files.live_bytes, 3 * RECORD_BYTES);
    log_index_append(&f.x, &f.files,
                     new_run(&f, 8, 1, 3)); /* a run without live entries is dropped */
    assert_int_equal(log_index_bytes(&f.x), RECORD_BYTES);
    assert_true(log_index_whole(&f.x));
    log_index_deinit(&f.x, &f.files);
    assert_int_equal(f.files.live_bytes, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_log_index_random_changes_equal_an_array),
        cmocka_unit_test(test_log_index_copies_fill_gaps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
