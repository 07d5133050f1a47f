/* Benchmark of view reads against writes. One thread applies status changes to ten thousand shards,
 * while other threads look at rows of the newest view. A reader takes no lock, so readers should
 * slow writes only by sharing processors and caches. BENCH_SECONDS=n. */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "registry/test/registry_fixture.h"

#define SHARDS 10000
#define READERS_MAX 4

struct reading {
    struct fixture *f;
    _Atomic bool stop;
    _Atomic uint64_t rows;
};

static double now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Acquire a view, read a shard and its replicas, release it. */
static void *reader(void *ctx)
{
    struct registry_shard_buf shard_buf;
    struct registry_replica_buf replica_buf;
    struct reading *r = ctx;
    uint64_t id = 1;
    while (!atomic_load(&r->stop)) {
        struct registry_view *v = registry_view_acquire(r->f->r);
        if (registry_shard(v, id, &shard_buf) != NULL) {
            (void)registry_next_replica_of_shard(v, id, 0, &replica_buf);
        }
        registry_view_release(v);
        id = id % SHARDS + 1;
        atomic_fetch_add_explicit(&r->rows, 1, memory_order_relaxed);
    }
    return NULL;
}

static void measure(struct fixture *f, int readers, double seconds, uint64_t *term)
{
    struct reading r = {.f = f};
    pthread_t threads[READERS_MAX];
    for (int i = 0; i < readers; i++) {
        if (pthread_create(&threads[i], NULL, reader, &r) != 0) {
            exit(1);
        }
    }
    double begin = now(CLOCK_MONOTONIC);
    double cpu = now(CLOCK_THREAD_CPUTIME_ID);
    uint64_t writes = 0;
    while (now(CLOCK_MONOTONIC) - begin < seconds) {
        (void)do_formed(f, writes % SHARDS + 1, 1, ++*term);
        writes++;
    }
    double time = now(CLOCK_MONOTONIC) - begin;
    cpu = now(CLOCK_THREAD_CPUTIME_ID) - cpu;
    atomic_store(&r.stop, true);
    for (int i = 0; i < readers; i++) {
        pthread_join(threads[i], NULL);
    }
    /* Print the CPU time, too: on a busy machine it is more telling than the rate. */
    printf("%d readers: %9.0f writes/s (%5.1f us of the processor each) %11.0f reads/s\n", readers,
           (double)writes / time, cpu / (double)writes * 1e6, (double)atomic_load(&r.rows) / time);
    fflush(stdout);
}

/* Read all shards by name, and the replicas of each, as a controller does for a full pass. */
static void walk(struct fixture *f)
{
    struct registry_shard_buf shard_buf;
    struct registry_replica_buf replica_buf;
    struct registry_view *v = registry_view_acquire(f->r);
    uint64_t rows = 0;
    double cpu = now(CLOCK_THREAD_CPUTIME_ID);
    for (int i = 0; i < 10; i++) {
        struct slice name = {0};
        const thole_v1_Shard *s;
        while ((s = registry_next_shard(v, name, &shard_buf)) != NULL) {
            uint64_t after = 0;
            const thole_v1_Replica *r;
            name = registry_str(thole_v1_Shard_name(s));
            while ((r = registry_next_replica_of_shard(v, thole_v1_Shard_id(s), after,
                                                       &replica_buf)) != NULL) {
                after = thole_v1_Replica_id(r);
                rows++;
            }
            rows++;
        }
    }
    printf("a walk: %5.0f ns of the processor for each row\n",
           (now(CLOCK_THREAD_CPUTIME_ID) - cpu) / (double)rows * 1e9);
    registry_view_release(v);
}

int main(void)
{
    const char *given = getenv("BENCH_SECONDS");
    double seconds = given != NULL ? strtod(given, NULL) : 3;
    struct fixture f;
    uint64_t term = 0;
    fixture_init(&f);
    (void)do_bootstrap(&f, 3);
    for (uint64_t i = 1; i <= SHARDS; i++) {
        char name[16];
        snprintf(name, sizeof name, "s%" PRIu64, i);
        (void)do_create_shard(&f, name, 3, 0);
        (void)do_place(&f, i, 0, 3);
    }
    printf("%ld processors\n", sysconf(_SC_NPROCESSORS_ONLN));
    for (int readers = 0; readers <= READERS_MAX; readers = readers == 0 ? 1 : 2 * readers) {
        measure(&f, readers, seconds, &term);
    }
    walk(&f);
    fixture_deinit(&f);
    return 0;
}
