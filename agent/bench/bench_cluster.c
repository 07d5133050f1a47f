/* Three hosts in one process on loopback, with real stores: how many proposals (and queries) a second,
 * at what latency and for how much CPU.
 *
 *   bench_cluster [--shards N] [--in-flight N] [--payload BYTES] [--read-share PERCENT] [--seconds S]
 *                 [--warmup S] [--hosts N] [--type NAME] [--dir DIR] [--json FILE]
 *
 * The load uses the public API on all hosts in turn, in batches: a completed operation is at once
 * replaced by another to the same shard. */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <thole/thole.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/metrics.h"

#define HOSTS_MAX 7

struct config {
    uint64_t shards, in_flight, payload, read_share, seconds, warmup, hosts, port;
    const char *type, *dir;
    const char *json; /* the result also goes here, and the metrics to FILE.before and FILE.after */
};

struct slot { /* one operation in flight */
    uint64_t begun_ns;
    uint32_t shard;
    bool query;
};

struct load {
    struct config c;
    struct thole *hosts[HOSTS_MAX];
    struct thole_shard **shards[HOSTS_MAX];
    struct slot *slots;
    uint8_t *payload;
    struct histogram *writes, *reads;
    _Atomic uint64_t failed;
    _Atomic size_t outstanding;
    _Atomic bool measuring, ending;
};

struct lane { /* a host's share of the slots */
    struct load *l;
    uint32_t host;
    uint64_t random;
};

static void die(const char *what, const struct thole_status *st)
{
    fprintf(stderr, "bench_cluster: %s: %s (%s)\n", what, st->message,
            thole_reason_name(st->reason));
    exit(1);
}

/* ---- The load ---------------------------------------------------------------------------------- */

static void prepare(struct lane *ln, struct slot *s, uint64_t now, struct thole_op *op)
{
    struct load *l = ln->l;
    ASSERT(l && l->shards[ln->host]);
    ln->random = ln->random * UINT64_C(6364136223846793005) + 1442695040888963407;
    s->query = (ln->random >> 33) % 100 < l->c.read_share;
    s->begun_ns = now;
    *op = (struct thole_op){
        .kind = s->query ? THOLE_QUERY : THOLE_PROPOSE,
        .shard = l->shards[ln->host][s->shard],
        .payload = {.data = l->payload, .size = s->query ? 0 : (size_t)l->c.payload},
        .timeout_ms = 20000,
        .user = s,
    };
}

static void completed(void *ctx, const struct thole_result *results, size_t count)
{
    struct lane *ln = ctx;
    struct load *l = ln->l;
    struct thole_op ops[256];
    size_t n = 0;
    uint64_t now = clock_now(&clock_system);
    bool measuring = atomic_load_explicit(&l->measuring, memory_order_relaxed);
    bool ending = atomic_load_explicit(&l->ending, memory_order_relaxed);
    for (size_t i = 0; i < count; i++) {
        struct slot *s = results[i].user;
        if (results[i].code != THOLE_OK) {
            if (atomic_fetch_add(&l->failed, 1) == 0)
                fprintf(stderr, "bench_cluster: first failure: %s\n", results[i].message);
        } else if (measuring) {
            histogram_record(s->query ? l->reads : l->writes, now - s->begun_ns);
        }
        if (!ending && n < 256)
            prepare(ln, s, now, &ops[n++]);
        else
            atomic_fetch_sub(&l->outstanding, 1);
    }
    struct thole_status st = {0};
    if (n > 0 && thole_submit(l->hosts[ln->host], ops, n, completed, ln, &st) != THOLE_OK)
        die("submit", &st);
}

/* ---- The cluster ------------------------------------------------------------------------------- */

static void start_hosts(struct load *l)
{
    struct thole_status st = {0};
    struct bytes peers = {0};
    for (uint64_t i = 0; i < l->c.hosts; i++)
        bytes_printf(&peers, "%s127.0.0.1:%" PRIu64, i > 0 ? "," : "", l->c.port + i);
    char *addresses = xstrndup((const char *)peers.data, peers.size);
    bytes_deinit(&peers);
    for (uint64_t i = 0; i < l->c.hosts; i++) {
        struct thole_options o = THOLE_OPTIONS_INIT;
        char *dir = xasprintf("%s/h%" PRIu64, l->c.dir, i + 1);
        char *listen = xasprintf("127.0.0.1:%" PRIu64, l->c.port + i);
        char *name = xasprintf("h%" PRIu64, i + 1);
        o.bootstrap = l->c.hosts > 1 ? THOLE_BOOTSTRAP_PEERS : THOLE_BOOTSTRAP_DEV;
        o.data_dir = dir;
        o.listen = listen;
        o.name = name;
        o.addresses = addresses;
        if (thole_new(&o, &l->hosts[i], &st) != THOLE_OK ||
            thole_start(l->hosts[i], &st) != THOLE_OK)
            die("start", &st);
        free(dir);
        free(listen);
        free(name);
    }
    for (uint64_t i = 0; i < l->c.hosts; i++)
        if (thole_wait_ready(l->hosts[i], 30000, &st) != THOLE_OK)
            die("ready", &st);
    free(addresses);
}

static void make_shards(struct load *l)
{
    struct thole_status st = {0};
    char name[32];
    for (uint64_t i = 0; i < l->c.shards; i++) {
        snprintf(name, sizeof name, "bench-%" PRIu64, i);
        const struct thole_shard_spec spec = {
            .size = sizeof spec, .name = name, .type = l->c.type, .voters = (uint32_t)l->c.hosts};
        if (thole_shard_create(l->hosts[0], &spec, 20000, &st) != THOLE_OK)
            die("create shard", &st);
    }
    for (uint64_t h = 0; h < l->c.hosts; h++)
        l->shards[h] = xcalloc(l->c.shards, sizeof(struct thole_shard *));
    for (uint64_t i = 0; i < l->c.shards; i++) {
        snprintf(name, sizeof name, "bench-%" PRIu64, i);
        if (thole_shard_wait_ready(l->hosts[0], name, 30000, &st) != THOLE_OK)
            die("shard ready", &st);
        for (uint64_t h = 0; h < l->c.hosts; h++)
            if (thole_shard_open(l->hosts[h], name, &l->shards[h][i], &st) != THOLE_OK)
                die("open shard", &st);
    }
}

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void show(const char *what, const struct histogram *h, double seconds)
{
    if (histogram_count(h) == 0)
        return;
    printf("%-9s %10.0f/s  p50 %7.3f ms  p99 %7.3f ms  p99.9 %7.3f ms\n", what,
           (double)histogram_count(h) / seconds, (double)histogram_percentile(h, 50) / 1e6,
           (double)histogram_percentile(h, 99) / 1e6, (double)histogram_percentile(h, 99.9) / 1e6);
}

/* ---- For programs ------------------------------------------------------------------------------ */

static FILE *open_for_write(const char *path)
{
    FILE *f = fopen(path, "w");
    if (!f) {
        fprintf(stderr, "bench_cluster: cannot write %s\n", path);
        exit(1);
    }
    return f;
}

/* All hosts of the process share its metrics. */
static void save_metrics(const struct load *l, const char *suffix)
{
    struct bytes text = {0};
    if (!l->c.json)
        return;
    char *path = xasprintf("%s.%s", l->c.json, suffix);
    FILE *f = open_for_write(path);
    metrics_render(&text);
    fprintf(f, "%.*s", (int)text.size, (const char *)text.data);
    fclose(f);
    bytes_deinit(&text);
    free(path);
}

/* What the disk below the directory was made to write, by everybody: a process's own count in /proc
 * is of pages made dirty, and the file system's pages are large. 0 if it is no disk. */
static uint64_t disk_bytes(const struct load *l)
{
    struct stat info;
    char path[128];
    unsigned long long sectors = 0;
    if (stat(l->c.dir, &info) != 0)
        return 0;
    snprintf(path, sizeof path, "/sys/dev/block/%u:%u/stat", major(info.st_dev),
             minor(info.st_dev));
    FILE *f = fopen(path, "r");
    if (!f)
        return 0;
    if (fscanf(f, "%*u %*u %*u %*u %*u %*u %llu", &sectors) != 1)
        sectors = 0;
    fclose(f);
    return sectors * 512;
}

static void save_json(const struct load *l, double seconds, double cpu, uint64_t bytes)
{
    const struct histogram *h = histogram_count(l->writes) > 0 ? l->writes : l->reads;
    uint64_t writes = histogram_count(l->writes), reads = histogram_count(l->reads);
    uint64_t done = writes + reads > 0 ? writes + reads : 1;
    if (!l->c.json)
        return;
    FILE *f = open_for_write(l->c.json);
    fprintf(f,
            "{\"seconds\":%.3f,\"proposalsPerSecond\":%.0f,\"queriesPerSecond\":%.0f,"
            "\"failed\":%" PRIu64 ",\"latencyMs\":{\"p50\":%.3f,\"p99\":%.3f,\"max\":%.3f},"
            "\"cpuMicroseconds\":%.3f,\"diskBytes\":%" PRIu64 "}\n",
            seconds, (double)writes / seconds, (double)reads / seconds,
            (uint64_t)atomic_load(&l->failed), (double)histogram_percentile(h, 50) / 1e6,
            (double)histogram_percentile(h, 99) / 1e6, (double)histogram_percentile(h, 100) / 1e6,
            cpu / (double)done * 1e6, bytes);
    fclose(f);
}

static void sleep_ms(uint64_t ms)
{
    nanosleep(
        &(struct timespec){.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000},
        NULL);
}

static void run(struct load *l)
{
    struct lane lanes[HOSTS_MAX] = {0};
    struct thole_status st = {0};
    l->slots = xcalloc(l->c.in_flight, sizeof *l->slots);
    l->payload = xcalloc(l->c.payload + 1, 1);
    memset(l->payload, 'x', l->c.payload);
    l->writes = xcalloc(1, sizeof *l->writes);
    l->reads = xcalloc(1, sizeof *l->reads);
    for (uint32_t h = 0; h < l->c.hosts; h++)
        lanes[h] = (struct lane){.l = l, .host = h, .random = h + 1};
    uint64_t now = clock_now(&clock_system);
    atomic_store(&l->outstanding, l->c.in_flight);
    for (uint64_t i = 0; i < l->c.in_flight; i++) {
        struct lane *ln = &lanes[i % l->c.hosts];
        struct thole_op op;
        l->slots[i].shard = (uint32_t)(i / l->c.hosts % l->c.shards);
        prepare(ln, &l->slots[i], now, &op);
        if (thole_submit(l->hosts[ln->host], &op, 1, completed, ln, &st) != THOLE_OK)
            die("submit", &st);
    }
    sleep_ms(l->c.warmup * 1000);
    save_metrics(l, "before");
    uint64_t disk = disk_bytes(l);
    double cpu = cpu_seconds();
    now = clock_now(&clock_system);
    atomic_store(&l->measuring, true);
    sleep_ms(l->c.seconds * 1000);
    atomic_store(&l->measuring, false);
    double seconds = (double)(clock_now(&clock_system) - now) / 1e9;
    cpu = cpu_seconds() - cpu;
    disk = disk_bytes(l) - disk;
    save_metrics(l, "after");
    save_json(l, seconds, cpu, disk);
    atomic_store(&l->ending, true);
    while (atomic_load(&l->outstanding) > 0)
        sleep_ms(10);
    uint64_t done = histogram_count(l->writes) + histogram_count(l->reads);
    printf("hosts %" PRIu64 "  shards %" PRIu64 "  in flight %" PRIu64 "  payload %" PRIu64
           " B  reads %" PRIu64 " %%  type %s\n",
           l->c.hosts, l->c.shards, l->c.in_flight, l->c.payload, l->c.read_share, l->c.type);
    show("proposals", l->writes, seconds);
    show("queries", l->reads, seconds);
    printf("%-9s %10.2f s per million operations (%.2f of %.1f s)  failed %" PRIu64 "\n", "cpu",
           done ? cpu / (double)done * 1e6 : 0, cpu, seconds, (uint64_t)atomic_load(&l->failed));
}

static void finish(struct load *l)
{
    for (uint64_t h = 0; h < l->c.hosts; h++) {
        for (uint64_t i = 0; i < l->c.shards; i++)
            thole_shard_release(l->shards[h][i]);
        free(l->shards[h]);
    }
    for (uint64_t h = 0; h < l->c.hosts; h++)
        thole_close(l->hosts[h]);
    free(l->slots);
    free(l->payload);
    free(l->writes);
    free(l->reads);
}

static bool read_option(struct config *c, const char *name, const char *value)
{
    const struct {
        const char *name;
        uint64_t *to;
    } numbers[] = {{"--shards", &c->shards},   {"--in-flight", &c->in_flight},
                   {"--payload", &c->payload}, {"--read-share", &c->read_share},
                   {"--seconds", &c->seconds}, {"--warmup", &c->warmup},
                   {"--hosts", &c->hosts},     {"--port", &c->port}};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if (strcmp(name, numbers[i].name) == 0) {
            *numbers[i].to = strtoull(value, NULL, 10);
            return true;
        }
    if (strcmp(name, "--type") == 0)
        c->type = value;
    else if (strcmp(name, "--dir") == 0)
        c->dir = value;
    else if (strcmp(name, "--json") == 0)
        c->json = value;
    else
        return false;
    return true;
}

int main(int argc, char **argv)
{
    struct load *l = xcalloc(1, sizeof *l);
    char dir[] = "/tmp/bench_cluster.XXXXXX";
    l->c = (struct config){.shards = 1,
                           .in_flight = 100,
                           .payload = 16,
                           .seconds = 5,
                           .warmup = 1,
                           .hosts = 3,
                           .port = 7481,
                           .type = "noop"};
    for (int i = 1; i < argc; i += 2)
        if (i + 1 >= argc || !read_option(&l->c, argv[i], argv[i + 1])) {
            fprintf(stderr, "usage: bench_cluster [--shards N] [--in-flight N] [--payload BYTES] "
                            "[--read-share PERCENT]\n  [--seconds S] [--warmup S] [--hosts N] "
                            "[--type NAME] [--port FIRST] [--dir DIR]\n  [--json FILE]\n");
            return 2;
        }
    if (l->c.hosts == 0 || l->c.hosts > HOSTS_MAX || l->c.shards == 0 || l->c.in_flight == 0)
        return 2;
    bool temporary = l->c.dir == NULL;
    if (temporary)
        l->c.dir = mkdtemp(dir);
    log_configure(LOG_LEVEL_WARN, false);
    start_hosts(l);
    make_shards(l);
    run(l);
    finish(l);
    if (temporary && file_remove_tree(dir, NULL) != THOLE_OK)
        fprintf(stderr, "bench_cluster: could not delete %s\n", dir);
    free(l);
    return 0;
}
