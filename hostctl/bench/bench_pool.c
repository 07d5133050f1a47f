/* Benchmark of one pool spec that makes many shards: three hosts in one thread, with real engines,
 * registries and controllers, in virtual time. Measures the entries of shard zero, the CPU time
 * (all three hosts together) and the memory until every shard is ready. Also measures the cost of
 * an unchanged cluster, of one changed row, and of the failure of a host that leads a third of the
 * shards. */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "hostctl/test/cluster_fixture.h"

static void check(bool so, const char *what)
{
    if (!so) {
        fprintf(stderr, "not so: %s\n", what);
        exit(1);
    }
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static long memory_mib(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_maxrss / 1024;
}

static uint64_t zero_commit(const struct cluster *h)
{
    uint64_t commit = 0;
    for (uint64_t n = 0; n < 3; n++) {
        struct engine_replica_status s;
        if (h->hosts[n].hostctl != NULL && engine_shard_status(h->hosts[n].engine, 0, &s)) {
            commit = s.commit > commit ? s.commit : commit;
        }
    }
    return commit;
}

struct phase {
    const char *name;
    double cpu;
    uint64_t entries, now_ms;
};

static struct phase begin(const struct cluster *h, const char *name)
{
    return (struct phase){name, cpu_seconds(), zero_commit(h), cluster_now_ms(h)};
}

static void end(const struct cluster *h, const struct phase *p)
{
    printf("%-44s %6" PRIu64 " entries  %7.2f s cpu  %7.1f s of time  %5ld MiB at most\n", p->name,
           zero_commit(h) - p->entries, cpu_seconds() - p->cpu,
           (double)(cluster_now_ms(h) - p->now_ms) / 1000, memory_mib());
    fflush(stdout);
}

static void create_pool(struct cluster *h, uint32_t count)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_CreatePool *p =
        thole_registry_v1_Operation_mutable_create_pool(cmd_op(&c), c.arena);
    thole_v1_ShardPoolSpec *spec = thole_registry_v1_CreatePool_mutable_spec(p, c.arena);
    thole_registry_v1_CreatePool_set_name(p, upb_StringView_FromString("p"));
    thole_v1_ShardPoolSpec_set_count(spec, count);
    thole_v1_ShardSpec *shard = thole_v1_ShardPoolSpec_mutable_shard(spec, c.arena);
    fill_spec(shard, c.arena, 3, 0);
    thole_v1_ShardSpec_set_type(shard, upb_StringView_FromString("counter"));
    check(cluster_command(h, &c) == THOLE_OK, "the pool is created");
}

static void start_rebalance(struct cluster *h)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_StartOperation_set_kind(
        thole_registry_v1_Operation_mutable_start_operation(cmd_op(&c), c.arena),
        thole_v1_OPERATION_KIND_REBALANCE);
    check(cluster_command(h, &c) == THOLE_OK, "a rebalance is started");
}

static uint32_t ready(struct cluster *h)
{
    struct registry_view *v = cluster_view(h);
    const thole_v1_ShardPool *p = registry_pool_by_name(v, slice_str("p"));
    uint32_t count = p == NULL ? 0 : thole_v1_ShardPoolStatus_ready(thole_v1_ShardPool_status(p));
    registry_view_release(v);
    return count;
}

/* Run until no host has proposed anything for a while. */
static void quiet(struct cluster *h)
{
    size_t before;
    do {
        before = h->proposals;
        cluster_run(h, 3000);
    } while (h->proposals != before);
}

int main(void)
{
    const char *given = getenv("BENCH_SHARDS");
    uint32_t count = given != NULL ? (uint32_t)strtoul(given, NULL, 10) : 10000;
    struct cluster *h = cluster_new(1);
    cluster_bootstrap(h, 3);
    while (!cluster_settled(h, "zero")) {
        cluster_run(h, 20);
    }
    struct phase p = begin(h, "create the pool, until all are ready");
    create_pool(h, count);
    while (ready(h) < count) {
        cluster_run(h, 500);
        check(cluster_now_ms(h) - p.now_ms < 3600 * 1000, "all are ready within an hour");
    }
    end(h, &p);
    p = begin(h, "until leaders are balanced and all is quiet");
    quiet(h);
    end(h, &p);
    p = begin(h, "60 s in which nothing changes");
    cluster_run(h, 60000);
    end(h, &p);
    p = begin(h, "one more shard, and 10 s");
    check(cluster_create(h, "one", 3, 0) == THOLE_OK, "a shard is created");
    cluster_run(h, 10000);
    end(h, &p);
    p = begin(h, "a rebalance of what is even");
    start_rebalance(h);
    quiet(h);
    end(h, &p);
    p = begin(h, "a host that leads a third goes and comes back");
    uint64_t replica;
    cluster_stop(h, 2);
    cluster_run(h, CLUSTER_DEAD_MS / 2);
    cluster_start(h, 2);
    memset(h->hosts[2].address_known, true, sizeof h->hosts[2].address_known);
    while (cluster_admit(h, 2, &replica) != THOLE_OK) {
        cluster_run(h, 100);
    }
    quiet(h);
    end(h, &p);
    cluster_free(h);
    return 0;
}
