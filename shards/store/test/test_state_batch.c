/* Readable batches beside a model: random puts, deletions, marks and undos, reads and ranges, and
 * what the database has after the write. THOLE_SEED repeats one run. */
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
#include "shards/store/store.h"
#include "shards/store/test/random_updates.h"
#include "shards/store/test/store_fixture.h"

#define KEYS 60
#define ROUNDS 400
#define STEPS_MAX 120
#define VALUE_BYTES_MAX 300

static const struct state_space space = {7, 3};

struct model { /* by key: the number in its value; 0: no such key */
    uint64_t values[KEYS];
};

struct fixture {
    struct state_db *db;
    struct state_batch *batch;
    struct model model, at_mark;
    struct rand rand;
    uint64_t written;
    bool marked;
};

/* Keys of several lengths; none is the prefix of all. */
static struct slice key_of(uint64_t key, char text[32])
{
    int n = snprintf(text, 32, key % 3 == 0 ? "%02" PRIu64 : "%02" PRIu64 "/%s", key, "longer");
    return slice_of(text, (size_t)n);
}

/* The number, and as many more bytes as it says. */
static struct slice value_of(uint64_t number, char text[VALUE_BYTES_MAX + 32])
{
    int n = snprintf(text, 32, "%" PRIu64, number);
    size_t more = number % VALUE_BYTES_MAX;

    memset(text + n, 'v', more);
    return slice_of(text, (size_t)n + more);
}

static void check_value(struct slice value, uint64_t number)
{
    char text[VALUE_BYTES_MAX + 32];

    assert_true(slice_equal(value, value_of(number, text)));
}

static void change(struct fixture *f)
{
    char key[32], value[VALUE_BYTES_MAX + 32];
    uint64_t k = rand_below(&f->rand, KEYS);

    if (rand_chance(&f->rand, 0.3)) {
        state_batch_delete(f->batch, space, key_of(k, key));
        f->model.values[k] = 0;
    } else {
        f->model.values[k] = ++f->written;
        state_batch_put(f->batch, space, key_of(k, key), value_of(f->written, value));
    }
}

static void check_key(struct fixture *f, uint64_t k)
{
    char key[32];
    struct buf *found = NULL;
    enum thole_code code = state_batch_get(f->batch, space, key_of(k, key), &found, NULL);

    assert_int_equal(code, f->model.values[k] != 0 ? THOLE_OK : THOLE_NOT_FOUND);
    if (found != NULL) {
        check_value(slice_of(found->data, found->size), f->model.values[k]);
        buf_unref(found);
    }
}

/* [from, to); to = KEYS: to the end. */
static void check_range(struct fixture *f, uint64_t from, uint64_t to)
{
    char key[32], first[32], last[32];
    struct slice found, value;
    struct state_iter *it = state_batch_iter_new(f->batch, space, key_of(from, first),
                                                 to < KEYS ? key_of(to, last) : (struct slice){0});

    for (uint64_t k = from; k < to; k++) {
        if (f->model.values[k] != 0) {
            assert_true(state_iter_next(it, &found, &value));
            assert_true(slice_equal(found, key_of(k, key)));
            check_value(value, f->model.values[k]);
        }
    }
    assert_false(state_iter_next(it, &found, &value));
    assert_int_equal(state_iter_status(it, NULL), THOLE_OK);
    state_iter_free(it);
}

static void step(struct fixture *f)
{
    switch (rand_below(&f->rand, 12)) {
    case 0:
        check_key(f, rand_below(&f->rand, KEYS));
        break;
    case 1: {
        uint64_t from = rand_below(&f->rand, KEYS);
        check_range(f, from, from + rand_below(&f->rand, KEYS + 1 - from));
        break;
    }
    case 2:
        state_batch_mark(f->batch);
        f->at_mark = f->model;
        f->marked = true;
        break;
    case 3:
        if (f->marked) {
            state_batch_undo(f->batch);
            f->model = f->at_mark;
            f->marked = false;
        }
        break;
    default:
        change(f);
    }
}

static void test_state_batch_agrees_with_a_model(void **state)
{
    char *dir = dir_new();
    uint64_t seed = random_option("THOLE_SEED", (uint64_t)time(NULL));
    struct fixture f = {0};
    struct model before;
    struct thole_status st;

    (void)state;
    print_message("THOLE_SEED=%" PRIu64 "\n", seed);
    rand_seed(&f.rand, seed);
    assert_int_equal(state_db_open(&(struct state_db_options){.path = dir}, &f.db, &st), THOLE_OK);
    for (int round = 0; round < ROUNDS; round++) {
        f.batch = state_batch_new_readable(f.db);
        before = f.model;
        f.marked = false;
        for (uint64_t n = rand_below(&f.rand, STEPS_MAX); n > 0; n--) {
            step(&f);
        }
        check_range(&f, 0, KEYS);
        if (rand_chance(&f.rand, 0.8)) {
            assert_int_equal(state_batch_write(f.batch, &st), THOLE_OK);
        } else {
            state_batch_clear(f.batch); /* nothing of it reaches the database */
            f.model = before;
            check_range(&f, 0, KEYS);
        }
        state_batch_free(f.batch);
    }
    state_db_close(f.db);
    dir_free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_state_batch_agrees_with_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
