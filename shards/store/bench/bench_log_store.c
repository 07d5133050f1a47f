/* Benchmark of the log store: entries of 16 bytes over 1,000 groups. Each write() is one batch with
 * one sync. Prints entries/s and CPU per entry (all threads of the process).
 *
 * bench_log_store [DIR [SECONDS PER LINE]] */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "base/file.h"
#include "shards/store/store.h"

enum { GROUPS = 1000, PAYLOAD_BYTES = 16, BATCH_MAX = 10000, COMPACT_EVERY = 500 };

static struct log_store *store;
static uint64_t last[GROUPS], start[GROUPS];

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double cpu_s(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void check(enum thole_code code, const struct thole_status *st)
{
    if (code != THOLE_OK) {
        fprintf(stderr, "%s\n", st->message);
        exit(1);
    }
}

static struct raft_entry *make_entry(void)
{
    struct buf *b = buf_new(PAYLOAD_BYTES);

    memset(b->data, 'x', PAYLOAD_BYTES);
    struct raft_entry *e =
        raft_entry_new(RAFT_ENTRY_COMMAND, 0, 0, (struct bufslice){b, {b->data, PAYLOAD_BYTES}});
    e->term = 1;
    return e;
}

/* Fill a batch: `n` entries over `groups` groups from `group` on, round robin. */
static void write_batch(struct raft_entry **entries, size_t n, size_t groups, size_t group)
{
    static struct store_update u[GROUPS];
    static struct raft_entry **slots;
    struct thole_status st = {0};
    size_t per_group = n / groups;

    slots = entries;
    for (size_t i = 0; i < groups; i++) {
        size_t g = (group + i) % GROUPS;

        u[i] = (struct store_update){
            .replica_id = g + 1,
            .has_hard = true,
            .hard = {1, 1, last[g]},
            .entries = slots + i * per_group,
            .entry_count = per_group,
        };
        for (size_t j = 0; j < per_group; j++) {
            u[i].entries[j]->index = ++last[g];
        }
        /* Compact as the engine does: a group now and then, not all at once. */
        if (last[g] - start[g] > COMPACT_EVERY) {
            u[i].has_start = true;
            u[i].start_index = start[g] = last[g] - COMPACT_EVERY / 2 - per_group;
            u[i].start_term = 1;
        }
    }
    check(store->ops->write(store, u, groups, &st), &st);
}

static void run(size_t batch, size_t groups, double seconds, struct raft_entry **entries)
{
    double t0 = now_s(), c0 = cpu_s(), elapsed;
    uint64_t written = 0;
    size_t group = 0;

    do {
        write_batch(entries, batch, groups, group);
        group = (group + groups) % GROUPS;
        written += batch;
        elapsed = now_s() - t0;
    } while (elapsed < seconds);
    printf("batch %6zu over %4zu groups: %9.0f entries/s  %6.2f us CPU/entry  %6.0f writes/s\n",
           batch, groups, (double)written / elapsed, (cpu_s() - c0) / (double)written * 1e6,
           (double)written / (double)batch / elapsed);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static const size_t batches[] = {1, 10, 100, 1000, 10000};
    const char *dir = argc > 1 ? argv[1] : "/tmp/bench_log_store";
    double seconds = argc > 2 ? strtod(argv[2], NULL) : 3;
    struct thole_status st = {0};
    struct raft_entry **entries = xmalloc(BATCH_MAX * sizeof(struct raft_entry *));

    check(file_remove_tree(dir, &st), &st);
    check(log_store_open(&(struct log_store_options){.path = dir}, &store, &st), &st);
    for (uint64_t g = 0; g < GROUPS; g++) {
        struct store_identity id = {.replica_id = g + 1, .shard_id = g + 1};
        check(store->ops->write(store, &(struct store_update){.replica_id = g + 1, .create = &id},
                                1, &st),
              &st);
    }
    for (size_t i = 0; i < BATCH_MAX; i++) {
        entries[i] = make_entry();
    }
    for (size_t i = 0; i < sizeof batches / sizeof batches[0]; i++) {
        size_t groups = batches[i] < GROUPS ? batches[i] : GROUPS;
        run(batches[i], groups, seconds, entries);
        if (groups > 10) { /* the same batch size over few groups gives long runs */
            run(batches[i], 10, seconds, entries);
        }
    }
    for (size_t i = 0; i < BATCH_MAX; i++) {
        raft_entry_unref(entries[i]);
    }
    free(entries);
    store->ops->close(store);
    double t0 = now_s();
    check(log_store_open(&(struct log_store_options){.path = dir}, &store, &st), &st);
    printf("reopen: %.2f s\n", now_s() - t0);
    store->ops->close(store);
    check(file_remove_tree(dir, &st), &st);
    return 0;
}
