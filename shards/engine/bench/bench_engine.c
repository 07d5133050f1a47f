/* Benchmark: three engines in one process, with logs on disk. A thread per host delivers messages
 * instead of a network. Measures proposals per second, latencies, CPU per proposal, and the size of
 * the synced batches.
 *
 *   bench_engine [--shards N] [--in-flight N] [--seconds N] [--bytes N] [--loops N] [--memory]
 *                [--queries] [--machine NAME] */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/file.h"
#include "base/process.h"
#include "shards/engine/test/rig.h"
#include "shards/machine/builtin.h"

struct settings {
    uint64_t shards, in_flight, seconds, bytes;
    uint32_t loops;
    bool memory, queries;
    const char *machine;
};
struct bench {
    struct settings s;
    struct rig *rig;
    struct buf *payload;
    _Atomic bool measuring, stopping;
    _Atomic uint64_t completed, failed, outstanding;
    _Atomic int *leaders; /* by shard: index of the leader's host */
    struct histogram latency_ns;
    _Atomic uint64_t next_shard;
};
struct slot {
    struct engine_request r;
    struct bench *b;
    uint64_t begun_ns;
};

static void on_done(struct engine_request *q);

static void submit(struct slot *s)
{
    struct bench *b = s->b;
    uint64_t shard =
        1 + atomic_fetch_add_explicit(&b->next_shard, 1, memory_order_relaxed) % b->s.shards;
    s->begun_ns = clock_now(&clock_system);
    s->r = (struct engine_request){
        .kind = b->s.queries ? ENGINE_QUERY : ENGINE_PROPOSE,
        .shard_id = shard,
        .payload = {buf_ref(b->payload), slice_of(b->payload->data, b->payload->size)},
        .deadline_ns = s->begun_ns + 10 * NS_PER_S,
        .done = on_done,
    };
    int leader = atomic_load_explicit(&b->leaders[shard], memory_order_relaxed);
    engine_submit(b->rig->hosts[leader].engine, &s->r);
}

static void on_done(struct engine_request *q)
{
    struct slot *s = CONTAINER_OF(q, struct slot, r);
    struct bench *b = s->b;
    bufslice_unref(q->result);
    if (q->status.code != THOLE_OK) {
        atomic_fetch_add(&b->failed, 1);
        if (q->leader_host.bytes[15]) {
            atomic_store(&b->leaders[q->shard_id], q->leader_host.bytes[15] - 1);
        }
    } else if (atomic_load_explicit(&b->measuring, memory_order_relaxed)) {
        atomic_fetch_add_explicit(&b->completed, 1, memory_order_relaxed);
        histogram_record(&b->latency_ns, clock_now(&clock_system) - s->begun_ns);
    }
    if (atomic_load_explicit(&b->stopping, memory_order_relaxed)) {
        atomic_fetch_sub(&b->outstanding, 1);
    } else {
        submit(s);
    }
}

static double cpu_seconds(void)
{
    struct rusage u;
    (void)getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static void show(const char *name, const struct metric *m)
{
    printf("  %-28s n=%-9" PRIu64 " mean=%-10.1f p50=%-9" PRIu64 " p99=%" PRIu64 "\n", name,
           histogram_count(m->histogram), histogram_mean(m->histogram),
           histogram_percentile(m->histogram, 50), histogram_percentile(m->histogram, 99));
}

static void measure(struct bench *b)
{
    struct slot *slots = xcalloc(b->s.in_flight, sizeof *slots);
    atomic_store(&b->outstanding, b->s.in_flight);
    for (uint64_t i = 0; i < b->s.in_flight; i++) {
        slots[i].b = b;
        submit(&slots[i]);
    }
    sleep(1);
    double cpu = cpu_seconds();
    uint64_t begun = clock_now(&clock_system);
    atomic_store(&b->measuring, true);
    sleep((unsigned)b->s.seconds);
    atomic_store(&b->measuring, false);
    double seconds = (double)(clock_now(&clock_system) - begun) / 1e9;
    cpu = cpu_seconds() - cpu;
    atomic_store(&b->stopping, true);
    while (atomic_load(&b->outstanding) > 0) {
        usleep(1000);
    }
    double n = (double)atomic_load(&b->completed);
    printf("%.0f %s/s  p50 %.2f ms  p99 %.2f ms  p99.9 %.2f ms  "
           "%.2f us CPU each (%.3f cores)  failed %" PRIu64 "\n",
           n / seconds, b->s.queries ? "queries" : "proposals",
           (double)histogram_percentile(&b->latency_ns, 50) / 1e6,
           (double)histogram_percentile(&b->latency_ns, 99) / 1e6,
           (double)histogram_percentile(&b->latency_ns, 99.9) / 1e6, n > 0 ? cpu * 1e6 / n : 0,
           cpu / seconds, atomic_load(&b->failed));
    free(slots);
}

static void parse(int argc, char **argv, struct settings *s)
{
    static const struct option options[] = {
        {"shards", required_argument, NULL, 's'},
        {"in-flight", required_argument, NULL, 'i'},
        {"seconds", required_argument, NULL, 't'},
        {"bytes", required_argument, NULL, 'b'},
        {"loops", required_argument, NULL, 'l'},
        {"memory", no_argument, NULL, 'm'},
        {"queries", no_argument, NULL, 'q'},
        {"machine", required_argument, NULL, 'k'},
        {NULL, 0, NULL, 0},
    };
    int c;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case 's':
            s->shards = strtoull(optarg, NULL, 10);
            break;
        case 'i':
            s->in_flight = strtoull(optarg, NULL, 10);
            break;
        case 't':
            s->seconds = strtoull(optarg, NULL, 10);
            break;
        case 'b':
            s->bytes = strtoull(optarg, NULL, 10);
            break;
        case 'l':
            s->loops = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 'm':
            s->memory = true;
            break;
        case 'q':
            s->queries = true;
            break;
        case 'k':
            s->machine = optarg;
            break;
        default:
            exit(2);
        }
    }
}

int main(int argc, char **argv)
{
    struct bench b = {.s = {.shards = 48,
                            .in_flight = 1000,
                            .seconds = 5,
                            .bytes = 16,
                            .loops = 1,
                            .machine = "noop"}};
    parse(argc, argv, &b.s);
    const struct thole_machine_type *types[MACHINE_BUILTIN_COUNT + 1] = {NULL};
    for (int i = 0; i < MACHINE_BUILTIN_COUNT; i++) {
        types[i] = machine_builtin[i];
    }
    char *directory = rig_directory();
    struct rig_options o = {
        .directory = directory,
        .hosts = 3,
        .shards = b.s.shards,
        .machine = b.s.machine,
        .types = types,
        .memory_log = b.s.memory,
        .loops = b.s.loops,
        .appliers = b.s.loops,
    };
    log_configure(LOG_LEVEL_WARN, false);
    process_own();
    b.rig = rig_new(&o);
    rig_wait_leaders(b.rig);
    b.payload = buf_new(b.s.bytes);
    memset(b.payload->data, 'x', b.s.bytes);
    b.leaders = xcalloc(b.s.shards + 1, sizeof b.leaders[0]);
    for (uint64_t shard = 1; shard <= b.s.shards; shard++) {
        int leader = rig_leader(b.rig, shard);
        atomic_init(&b.leaders[shard], leader < 0 ? 0 : leader);
    }
    measure(&b);
    show("sync ns", &engine_sync_ns);
    show("replicas per sync", &engine_batch_updates);
    show("entries per sync", &engine_batch_entries);
    show("batch wait ns", &engine_commit_ns);
    show("entries per apply job", &engine_apply_entries);
    show("apply ns", &engine_apply_ns);
    show("apply lag ns", &engine_apply_lag_ns);
    show("messages per loop turn", &engine_loop_depth);
    rig_free(b.rig);
    buf_unref(b.payload);
    free(b.leaders);
    struct thole_status st;
    if (file_remove_tree(directory, &st) != THOLE_OK) {
        (void)fprintf(stderr, "%s\n", st.message);
    }
    free(directory);
    return 0;
}
