/* Views are read and released on many threads while commands are applied. Meant for the thread and
 * address sanitizers. */
#include "registry/test/registry_fixture.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#define READERS 3

struct reader {
    pthread_t thread;
    struct fixture *f;
    _Atomic bool *stop;
    pthread_barrier_t *begin; /* so that readers and writer really overlap */
    uint64_t views;
    bool ok;
};

static void *read_views(void *ctx)
{
    struct registry_shard_buf shard_buf;
    struct reader *r = ctx;
    uint64_t last = 0;
    struct registry_view *held = NULL;
    r->ok = true;
    pthread_barrier_wait(r->begin);
    do {
        struct registry_view *v = registry_view_acquire(r->f->r);
        struct slice name = {0};
        const thole_v1_Shard *s;
        r->ok &= registry_view_revision(v) >= last;
        last = registry_view_revision(v);
        while ((s = registry_next_shard(v, name, &shard_buf)) != NULL) {
            name = registry_str(thole_v1_Shard_name(s));
            r->ok &= thole_v1_Shard_revision(s) <= last;
        }
        if (r->views++ % 4 == 0) {
            registry_view_release(held);
            held = registry_view_ref(v);
        }
        registry_view_release(v);
    } while (!atomic_load(r->stop));
    registry_view_release(held);
    return NULL;
}

static void test_views_on_many_threads_stay_consistent(void **state)
{
    (void)state;
    struct fixture f;
    struct reader readers[READERS] = {0};
    _Atomic bool stop = false;
    pthread_barrier_t begin;
    fixture_init(&f);
    pthread_barrier_init(&begin, NULL, READERS + 1);
    assert_int_equal(do_bootstrap(&f, 3), THOLE_OK);
    for (size_t i = 0; i < READERS; i++) {
        readers[i].f = &f;
        readers[i].stop = &stop;
        readers[i].begin = &begin;
        assert_int_equal(pthread_create(&readers[i].thread, NULL, read_views, &readers[i]), 0);
    }
    pthread_barrier_wait(&begin);
    for (int i = 0; i < 600; i++) {
        char name[16];
        snprintf(name, sizeof name, "s%d", i % 50);
        if (i % 100 < 50) {
            assert_int_equal(do_create_shard(&f, name, 3, 0), THOLE_OK);
        } else {
            assert_int_equal(do_delete_shard(&f, name), THOLE_OK);
        }
    }
    atomic_store(&stop, true);
    for (size_t i = 0; i < READERS; i++) {
        pthread_join(readers[i].thread, NULL);
        assert_true(readers[i].ok);
        assert_true(readers[i].views > 0);
    }
    pthread_barrier_destroy(&begin);
    fixture_deinit(&f);
}

#define TAKEN_EACH 60000 /* far more than are counted beside the address */

static void *take_views(void *ctx)
{
    struct reader *r = ctx;
    struct registry_view *held[8] = {0};
    pthread_barrier_wait(r->begin);
    for (size_t i = 0; i < TAKEN_EACH; i++) {
        registry_view_release(held[i % 8]);
        held[i % 8] = registry_view_acquire(r->f->r);
    }
    for (size_t i = 0; i < 8; i++) {
        r->views += registry_view_revision(held[i]);
        registry_view_release(held[i]);
    }
    return NULL;
}

/* Views held between two writes and across several: registry_free fails if one leaks, or is
 * released twice. */
static void test_views_taken_very_often_are_all_given_back(void **state)
{
    (void)state;
    struct fixture f;
    struct reader readers[READERS] = {0};
    pthread_barrier_t begin;
    fixture_init(&f);
    pthread_barrier_init(&begin, NULL, READERS + 1);
    assert_int_equal(do_bootstrap(&f, 3), THOLE_OK);
    struct registry_view *before = registry_view_acquire(f.r);
    for (size_t i = 0; i < READERS; i++) {
        readers[i].f = &f;
        readers[i].begin = &begin;
        assert_int_equal(pthread_create(&readers[i].thread, NULL, take_views, &readers[i]), 0);
    }
    pthread_barrier_wait(&begin);
    for (int i = 0; i < 20; i++) {
        char name[16];
        snprintf(name, sizeof name, "s%d", i);
        assert_int_equal(do_create_shard(&f, name, 3, 0), THOLE_OK);
    }
    for (size_t i = 0; i < READERS; i++) {
        pthread_join(readers[i].thread, NULL);
        assert_true(readers[i].views > 0);
    }
    assert_non_null(registry_host_by_name(before, slice_str("h0")));
    registry_view_release(before);
    pthread_barrier_destroy(&begin);
    fixture_deinit(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_views_on_many_threads_stay_consistent),
        cmocka_unit_test(test_views_taken_very_often_are_all_given_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
