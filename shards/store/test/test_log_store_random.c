/* Random operations on both log stores: same codes, same contents, across reopens, while segments
 * fill up and are reused. THOLE_SEED=n repeats a run, THOLE_STEPS=n makes it longer. */
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

#include "shards/store/disk_log.h"
#include "shards/store/test/random_updates.h"
#include "shards/store/test/store_fixture.h"

/* The oldest segments are emptied as fast as the log grows. */
static void expect_bounded(struct log_store *disk)
{
    const struct segments *g = &((struct disk_log *)disk)->files;
    static uint64_t peak;
    uint64_t sum = 0;

    for (size_t i = 0; i < g->live.count; i++) {
        sum += g->live.items[g->live.head + i]->live;
    }
    assert_int_equal(sum, g->live_bytes);
    peak = g->live_bytes > peak ? g->live_bytes : peak; /* old entries are reclaimed late */
    assert_true(g->live.count <= 8 + 3 * (peak / TEST_SEGMENT_BYTES + 1));
}

static void test_log_random_operations_equal_the_memory_store(void **state)
{
    uint64_t seed = random_option("THOLE_SEED", (uint64_t)time(NULL));
    uint64_t steps = random_option("THOLE_STEPS", 600);
    char *dir = dir_new();
    struct log_store *disk = log_open(dir), *memory = log_store_memory_new();
    static struct guess guesses[RANDOM_IDS];
    struct random_batch b;
    uint64_t accepted = 0;
    struct rand r;

    (void)state;
    print_message("THOLE_SEED=%" PRIu64 "\n", seed);
    rand_seed(&r, seed);
    for (uint64_t step = 0; step < steps; step++) {
        random_batch(&r, guesses, &b);
        enum thole_code code = memory->ops->write(memory, b.u, b.count, NULL);
        assert_int_equal(disk->ops->write(disk, b.u, b.count, NULL), code);
        random_batch_free(&b);
        accepted += code == THOLE_OK;
        if (code != THOLE_OK) {
            random_correct(guesses, memory);
        }
        expect_bounded(disk);
        if (rand_chance(&r, 0.03)) {
            log_shut(disk);
            disk = log_open(dir);
        }
        if (rand_chance(&r, 0.1)) {
            log_expect_same(memory, disk);
        }
    }
    log_expect_same(memory, disk);
    log_shut(disk);
    disk = log_open(dir);
    log_expect_same(memory, disk);
    assert_true(accepted > steps / 4);
    log_shut(disk);
    log_shut(memory);
    dir_free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_log_random_operations_equal_the_memory_store),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
