/* Benchmark: three hosts on loopback with real stores; the load runs in the same processes.
 * Measures proposals (and queries) per second, their latency and CPU time.
 *
 *   bench_cluster [--shards N] [--in-flight N] [--payload BYTES] [--read-share PERCENT]
 *                 [--seconds S] [--warmup S] [--hosts N] [--processes 1|HOSTS] [--at leader|any]
 *                 [--type NAME] [--port FIRST] [--dir DIR] [--pki DIR] [--json FILE]
 *                 [--request-ids 0|1]
 *
 * The load uses the public API in batches. It calls the host that leads the shard when the load
 * begins, or all hosts in turn. Each completed operation is replaced at once by another one on the
 * same shard. */
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
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
#define SHARDS_MAX 16384

struct config {
    uint64_t shards, in_flight, payload, read_share, seconds, warmup, hosts, processes, port;
    uint64_t request_ids; /* 1: each proposal has one, of 16 bytes */
    const char *type, *dir, *at;
    const char *pki;  /* folder with ca.crt, h1.crt, h1.key, ...: TLS; NULL: plain text */
    const char *json; /* result file; metrics: FILE.before.PROCESS, FILE.after.PROCESS */
};

struct shared { /* shared by all processes */
    pthread_barrier_t barrier;
    struct histogram writes, reads;
    _Atomic uint64_t failed, cpu_ns;
    _Atomic size_t outstanding;
    _Atomic bool measuring, ending;
    uint8_t leader[SHARDS_MAX]; /* index of the host that leads each shard when the load begins */
};

struct slot { /* one operation in flight */
    uint64_t begun_ns;
    uint32_t shard;
    bool query;
    uint64_t id[2]; /* of the request */
};

struct load { /* the load of this process */
    struct config c;
    struct shared *shared;
    uint64_t from, to; /* range of the hosts of this process */
    struct thole *hosts[HOSTS_MAX];
    struct thole_shard **shards[HOSTS_MAX];
    struct slot *slots;
    uint8_t *payload;
};

struct lane { /* the slots of one host */
    struct load *l;
    uint32_t host;
    uint64_t random;
    uint64_t proposals;
};

static void die(const char *what, const struct thole_status *st)
{
    fprintf(stderr, "bench_cluster: %s: %s (%s)\n", what, st->message,
            thole_reason_name(st->reason));
    exit(1);
}

/* ---- The load -------------------------------------------------------------------------------- */

static void prepare(struct lane *ln, struct slot *s, uint64_t now, struct thole_op *op)
{
    const struct load *l = ln->l;
    ASSERT(l != NULL && l->shards[ln->host] != NULL);
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
    if (l->c.request_ids && !s->query) {
        s->id[0] = ln->host;
        s->id[1] = ++ln->proposals;
        op->request_id = (struct thole_slice){s->id, sizeof s->id};
    }
}

static void completed(void *ctx, const struct thole_result *results, size_t count)
{
    struct lane *ln = ctx;
    struct shared *sh = ln->l->shared;
    struct thole_op ops[256];
    size_t n = 0;
    uint64_t now = clock_now(&clock_system);
    bool measuring = atomic_load_explicit(&sh->measuring, memory_order_relaxed);
    bool ending = atomic_load_explicit(&sh->ending, memory_order_relaxed);
    for (size_t i = 0; i < count; i++) {
        struct slot *s = results[i].user;
        if (results[i].code != THOLE_OK) {
            if (atomic_fetch_add(&sh->failed, 1) == 0) {
                fprintf(stderr, "bench_cluster: first failure: %s\n", results[i].message);
            }
        } else if (measuring) {
            histogram_record(s->query ? &sh->reads : &sh->writes, now - s->begun_ns);
        }
        if (!ending && n < 256) {
            prepare(ln, s, now, &ops[n++]);
        } else {
            atomic_fetch_sub(&sh->outstanding, 1);
        }
    }
    struct thole_status st = {0};
    if (n > 0 && thole_submit(ln->l->hosts[ln->host], ops, n, completed, ln, &st) != THOLE_OK) {
        die("submit", &st);
    }
}

/* ---- The cluster ----------------------------------------------------------------------------- */

struct certificates {
    struct thole_tls tls;
    char *cert, *key, *ca;
};

static void certificates_of(const char *pki, const char *name, struct certificates *ret)
{
    ret->cert = xasprintf("%s/%s.crt", pki, name);
    ret->key = xasprintf("%s/%s.key", pki, name);
    ret->ca = xasprintf("%s/ca.crt", pki);
    ret->tls = (struct thole_tls){
        .size = sizeof ret->tls, .cert = ret->cert, .key = ret->key, .ca = ret->ca};
}

static void certificates_deinit(struct certificates *c)
{
    free(c->cert);
    free(c->key);
    free(c->ca);
}

static void start_hosts(struct load *l)
{
    struct thole_status st = {0};
    struct bytes peers = {0};
    for (uint64_t i = 0; i < l->c.hosts; i++) {
        bytes_printf(&peers, "%s127.0.0.1:%" PRIu64, i > 0 ? "," : "", l->c.port + i);
    }
    char *addresses = xstrndup((const char *)peers.data, peers.size);
    bytes_deinit(&peers);
    for (uint64_t i = l->from; i < l->to; i++) {
        struct thole_options o = THOLE_OPTIONS_INIT;
        o.owns_process = 1;
        char *dir = xasprintf("%s/h%" PRIu64, l->c.dir, i + 1);
        char *listen = xasprintf("127.0.0.1:%" PRIu64, l->c.port + i);
        char *name = xasprintf("h%" PRIu64, i + 1);
        o.bootstrap = l->c.hosts > 1 ? THOLE_BOOTSTRAP_PEERS : THOLE_BOOTSTRAP_DEV;
        o.data_dir = dir;
        o.listen = listen;
        o.name = name;
        o.addresses = addresses;
        struct certificates files = {0};
        if (l->c.pki != NULL) {
            certificates_of(l->c.pki, name, &files);
            o.tls = &files.tls;
        }
        if (thole_new(&o, &l->hosts[i], &st) != THOLE_OK ||
            thole_start(l->hosts[i], &st) != THOLE_OK) {
            die("start", &st);
        }
        certificates_deinit(&files);
        free(dir);
        free(listen);
        free(name);
    }
    for (uint64_t i = l->from; i < l->to; i++) {
        if (thole_wait_ready(l->hosts[i], 30000, &st) != THOLE_OK) {
            die("ready", &st);
        }
    }
    free(addresses);
}

static void barrier(const struct load *l)
{
    (void)pthread_barrier_wait(&l->shared->barrier);
}

static void shard_name(char *to, size_t size, uint64_t i)
{
    snprintf(to, size, "bench-%" PRIu64, i);
}

static void make_shards(const struct load *l)
{
    struct thole_status st = {0};
    char name[32];
    for (uint64_t i = 0; i < l->c.shards; i++) {
        shard_name(name, sizeof name, i);
        const struct thole_shard_spec spec = {
            .size = sizeof spec, .name = name, .type = l->c.type, .voters = (uint32_t)l->c.hosts};
        if (thole_shard_create(l->hosts[0], &spec, 20000, &st) != THOLE_OK) {
            die("create shard", &st);
        }
    }
}

static void open_shards(struct load *l)
{
    struct thole_status st = {0};
    char name[32];
    for (uint64_t h = l->from; h < l->to; h++) {
        l->shards[h] = xcalloc(l->c.shards, sizeof(struct thole_shard *));
    }
    for (uint64_t i = 0; i < l->c.shards; i++) {
        shard_name(name, sizeof name, i);
        if (thole_shard_wait_ready(l->hosts[l->from], name, 30000, &st) != THOLE_OK) {
            die("shard ready", &st);
        }
        for (uint64_t h = l->from; h < l->to; h++) {
            if (thole_shard_open(l->hosts[h], name, &l->shards[h][i], &st) != THOLE_OK) {
                die("open shard", &st);
            }
        }
    }
}

/* The host that leads each shard, by its name: h1 is host 0. Returns the first shard without a
 * leader, or the number of shards. */
static uint64_t read_leaders(const struct load *l)
{
    struct thole_status st = {0};
    struct thole_view *view;
    char name[32];
    uint64_t i = 0;
    if (thole_view_acquire(l->hosts[0], true, 10000, &view, &st) != THOLE_OK) {
        die("view", &st);
    }
    for (; i < l->c.shards; i++) {
        struct thole_shard_info info = {.size = sizeof info};
        shard_name(name, sizeof name, i);
        uint64_t host = thole_view_shard(view, name, &info) && info.leader_host[0] == 'h'
                            ? strtoull(info.leader_host + 1, NULL, 10)
                            : 0;
        if (host == 0 || host > l->c.hosts) {
            break;
        }
        l->shared->leader[i] = (uint8_t)(host - 1);
    }
    thole_view_release(view);
    return i;
}

/* A shard that is ready may be without a leader for a moment, when its leadership moves. */
static void find_leaders(const struct load *l)
{
    uint64_t end_ns = clock_now(&clock_system) + 30 * NS_PER_S, without;
    while ((without = read_leaders(l)) < l->c.shards) {
        if (clock_now(&clock_system) > end_ns) {
            fprintf(stderr, "bench_cluster: nobody is known to lead bench-%" PRIu64 "\n", without);
            exit(1);
        }
        nanosleep(&(struct timespec){.tv_nsec = 20 * NS_PER_MS}, NULL);
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
    if (histogram_count(h) == 0) {
        return;
    }
    printf("%-9s %10.0f/s  p50 %7.3f ms  p99 %7.3f ms  p99.9 %7.3f ms\n", what,
           (double)histogram_count(h) / seconds, (double)histogram_percentile(h, 50) / 1e6,
           (double)histogram_percentile(h, 99) / 1e6, (double)histogram_percentile(h, 99.9) / 1e6);
}

/* ---- For programs ---------------------------------------------------------------------------- */

static FILE *open_for_write(const char *path)
{
    FILE *f = fopen(path, "w");
    if (f == NULL) {
        fprintf(stderr, "bench_cluster: cannot write %s\n", path);
        exit(1);
    }
    return f;
}

/* Save the metrics once per process: all its hosts share them. */
static void save_metrics(const struct load *l, const char *suffix)
{
    struct bytes text = {0};
    if (l->c.json == NULL) {
        return;
    }
    char *path = xasprintf("%s.%s.%" PRIu64, l->c.json, suffix, l->from);
    FILE *f = open_for_write(path);
    metrics_render(&text);
    fprintf(f, "%.*s", (int)text.size, (const char *)text.data);
    fclose(f);
    bytes_deinit(&text);
    free(path);
}

/* Bytes written to the disk below the directory, by all processes of the machine; 0 if there is no
 * disk. A process's counter in /proc counts dirtied pages instead, and the file system's pages are
 * large. */
static uint64_t disk_bytes(const struct load *l)
{
    struct stat info;
    char path[128];
    uint64_t sectors = 0;
    if (stat(l->c.dir, &info) != 0) {
        return 0;
    }
    snprintf(path, sizeof path, "/sys/dev/block/%u:%u/stat", major(info.st_dev),
             minor(info.st_dev));
    FILE *f = fopen(path, "r");
    if (f == NULL) {
        return 0;
    }
    if (fscanf(f, "%*u %*u %*u %*u %*u %*u %" SCNu64, &sectors) != 1) {
        sectors = 0;
    }
    fclose(f);
    return sectors * 512;
}

static void save_json(const struct load *l, double seconds, double cpu, uint64_t bytes)
{
    const struct shared *sh = l->shared;
    uint64_t writes = histogram_count(&sh->writes), reads = histogram_count(&sh->reads);
    const struct histogram *h = writes > 0 ? &sh->writes : &sh->reads;
    uint64_t done = writes + reads > 0 ? writes + reads : 1;
    if (l->c.json == NULL) {
        return;
    }
    FILE *f = open_for_write(l->c.json);
    fprintf(f,
            "{\"seconds\":%.3f,\"proposalsPerSecond\":%.0f,\"queriesPerSecond\":%.0f,"
            "\"failed\":%" PRIu64 ",\"latencyMs\":{\"p50\":%.3f,\"p99\":%.3f,\"max\":%.3f},"
            "\"cpuMicroseconds\":%.3f,\"diskBytes\":%" PRIu64 "}\n",
            seconds, (double)writes / seconds, (double)reads / seconds,
            (uint64_t)atomic_load(&sh->failed), (double)histogram_percentile(h, 50) / 1e6,
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

/* Start the slots of this process's hosts. */
static void start_slots(struct load *l, struct lane *lanes)
{
    struct thole_status st = {0};
    bool at_leader = strcmp(l->c.at, "leader") == 0;
    uint64_t now = clock_now(&clock_system);
    for (uint64_t i = 0; i < l->c.in_flight; i++) {
        uint64_t shard = at_leader ? i % l->c.shards : i / l->c.hosts % l->c.shards;
        uint64_t host = at_leader ? l->shared->leader[shard] : i % l->c.hosts;
        struct thole_op op;
        if (host < l->from || host >= l->to) {
            continue;
        }
        l->slots[i].shard = (uint32_t)shard;
        prepare(&lanes[host], &l->slots[i], now, &op);
        atomic_fetch_add(&l->shared->outstanding, 1);
        if (thole_submit(l->hosts[host], &op, 1, completed, &lanes[host], &st) != THOLE_OK) {
            die("submit", &st);
        }
    }
}

static void report(const struct load *l, double seconds, uint64_t disk)
{
    const struct shared *sh = l->shared;
    uint64_t done = histogram_count(&sh->writes) + histogram_count(&sh->reads);
    double cpu = (double)atomic_load(&sh->cpu_ns) / 1e9;
    save_json(l, seconds, cpu, disk);
    printf("hosts %" PRIu64 "  processes %" PRIu64 "  shards %" PRIu64 "  in flight %" PRIu64
           "  at %s  payload %" PRIu64 " B  reads %" PRIu64 " %%  type %s\n",
           l->c.hosts, l->c.processes, l->c.shards, l->c.in_flight, l->c.at, l->c.payload,
           l->c.read_share, l->c.type);
    show("proposals", &sh->writes, seconds);
    show("queries", &sh->reads, seconds);
    printf("%-9s %10.2f s per million operations (%.2f of %.1f s)  failed %" PRIu64 "\n", "cpu",
           done ? cpu / (double)done * 1e6 : 0, cpu, seconds, (uint64_t)atomic_load(&sh->failed));
}

/* All processes run this in step; the first process keeps the time. */
static void run(struct load *l)
{
    struct lane lanes[HOSTS_MAX] = {0};
    struct shared *sh = l->shared;
    bool first = l->from == 0;
    l->slots = xcalloc(l->c.in_flight, sizeof *l->slots);
    l->payload = xcalloc(l->c.payload + 1, 1);
    memset(l->payload, 'x', l->c.payload);
    for (uint32_t h = 0; h < l->c.hosts; h++) {
        lanes[h] = (struct lane){.l = l, .host = h, .random = h + 1};
    }
    start_slots(l, lanes);
    if (first) {
        sleep_ms(l->c.warmup * 1000);
    }
    barrier(l);
    save_metrics(l, "before");
    uint64_t disk = disk_bytes(l), begin = clock_now(&clock_system);
    double cpu = cpu_seconds();
    if (first) {
        atomic_store(&sh->measuring, true);
        sleep_ms(l->c.seconds * 1000);
        atomic_store(&sh->measuring, false);
    }
    barrier(l);
    double seconds = (double)(clock_now(&clock_system) - begin) / 1e9;
    atomic_fetch_add(&sh->cpu_ns, (uint64_t)((cpu_seconds() - cpu) * 1e9));
    disk = disk_bytes(l) - disk;
    save_metrics(l, "after");
    atomic_store(&sh->ending, true);
    while (atomic_load(&sh->outstanding) > 0) {
        sleep_ms(10);
    }
    barrier(l);
    if (first) {
        report(l, seconds, disk);
    }
}

static void finish(struct load *l)
{
    for (uint64_t h = l->from; h < l->to; h++) {
        for (uint64_t i = 0; i < l->c.shards; i++) {
            thole_shard_release(l->shards[h][i]);
        }
        free(l->shards[h]);
    }
    for (uint64_t h = l->from; h < l->to; h++) {
        thole_close(l->hosts[h]);
    }
    free(l->slots);
    free(l->payload);
}

static void whole(struct load *l)
{
    start_hosts(l);
    if (l->from == 0) {
        make_shards(l);
    }
    barrier(l);
    open_shards(l);
    if (l->from == 0 && strcmp(l->c.at, "leader") == 0) {
        find_leaders(l);
    }
    barrier(l);
    run(l);
    finish(l);
    barrier(l); /* all processes have released the directory */
}

/* Fork a process for each host but the first, before any thread exists. If one process dies, all
 * end. */
static void fork_hosts(struct load *l)
{
    l->to = 1;
    for (uint64_t i = 1; i < l->c.hosts; i++) {
        pid_t pid = fork();
        if (pid < 0) {
            perror("bench_cluster: fork");
            exit(1);
        }
        if (pid == 0) {
            (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
            l->from = i;
            l->to = i + 1;
            whole(l);
            exit(0);
        }
    }
}

static void child_ended(int signal)
{
    int status;
    (void)signal;
    while (waitpid(-1, &status, WNOHANG) > 0) {
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
            _exit(1);
        }
    }
}

static struct shared *shared_new(const struct config *c)
{
    struct shared *sh =
        mmap(NULL, sizeof *sh, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_barrierattr_t attr;
    if (sh == MAP_FAILED) {
        perror("bench_cluster: mmap");
        exit(1);
    }
    pthread_barrierattr_init(&attr);
    pthread_barrierattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(&sh->barrier, &attr, (unsigned)c->processes);
    pthread_barrierattr_destroy(&attr);
    return sh;
}

static bool read_option(struct config *c, const char *name, const char *value)
{
    const struct {
        const char *name;
        uint64_t *to;
    } numbers[] = {{"--shards", &c->shards},       {"--in-flight", &c->in_flight},
                   {"--payload", &c->payload},     {"--read-share", &c->read_share},
                   {"--seconds", &c->seconds},     {"--warmup", &c->warmup},
                   {"--hosts", &c->hosts},         {"--port", &c->port},
                   {"--processes", &c->processes}, {"--request-ids", &c->request_ids}};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        if (strcmp(name, numbers[i].name) == 0) {
            *numbers[i].to = strtoull(value, NULL, 10);
            return true;
        }
    }
    if (strcmp(name, "--type") == 0) {
        c->type = value;
    } else if (strcmp(name, "--dir") == 0) {
        c->dir = value;
    } else if (strcmp(name, "--at") == 0) {
        c->at = value;
    } else if (strcmp(name, "--pki") == 0) {
        c->pki = value;
    } else if (strcmp(name, "--json") == 0) {
        c->json = value;
    } else {
        return false;
    }
    return true;
}

static bool is_sound(const struct config *c)
{
    return c->hosts > 0 && c->hosts <= HOSTS_MAX && c->shards > 0 && c->shards <= SHARDS_MAX &&
           c->in_flight > 0 && (c->processes == 1 || c->processes == c->hosts) &&
           (strcmp(c->at, "leader") == 0 || strcmp(c->at, "any") == 0);
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
                           .processes = 1,
                           .port = 7481,
                           .at = "any",
                           .type = "noop"};
    bool sound = true;
    for (int i = 1; sound && i < argc; i += 2) {
        sound = i + 1 < argc && read_option(&l->c, argv[i], argv[i + 1]);
    }
    if (!sound || !is_sound(&l->c)) {
        fprintf(stderr, "usage: bench_cluster [--shards N] [--in-flight N] [--payload BYTES] "
                        "[--read-share PERCENT]\n  [--seconds S] [--warmup S] [--hosts N] "
                        "[--processes 1|HOSTS] [--at leader|any]\n"
                        "  [--type NAME] [--port FIRST] [--dir DIR] [--json FILE]\n"
                        "  [--request-ids 0|1]\n");
        return 2;
    }
    bool temporary = l->c.dir == NULL;
    if (temporary) {
        l->c.dir = mkdtemp(dir);
    }
    log_configure(LOG_LEVEL_WARN, false);
    l->shared = shared_new(&l->c);
    l->to = l->c.hosts;
    if (l->c.processes > 1) {
        (void)signal(SIGCHLD, child_ended);
        fork_hosts(l);
    }
    whole(l);
    if (temporary && file_remove_tree(dir, NULL) != THOLE_OK) {
        fprintf(stderr, "bench_cluster: could not delete %s\n", dir);
    }
    free(l);
    return 0;
}
