/* Benchmark of the bus: unary calls with 1 and 16 in flight, exchanges with 1,000 in flight, and
 * one-way frames of 64 B to 64 KiB. The server runs in its own process. Each figure prints one
 * line: rate, latency, and CPU per operation (of both processes). Usage: bench_bus [seconds per
 * figure [part of a figure's name]] */
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/process.h"
#include "bus/bus.h"

static struct bus *client;
static pid_t server_pid;
static struct bus_channel *channel;
static struct uuid server_id;
static struct shared { /* shared by both processes */
    _Atomic uint64_t frames_in, bytes_in;
    _Atomic bool serving;
    char address[64];
} * shared;
static _Atomic uint64_t done_count;
static _Atomic bool up, stop;
static struct histogram latency;
static const char *wanted; /* filter on the names of figures; NULL: all */

static uint64_t now(void)
{
    return clock_now(&clock_system);
}

static uint64_t cpu_ns(void)
{
    struct timespec ours, theirs = {0};
    clockid_t clock;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ours);
    if (clock_getcpuclockid(server_pid, &clock) == 0) {
        clock_gettime(clock, &theirs);
    }
    return (uint64_t)(ours.tv_sec + theirs.tv_sec) * NS_PER_S +
           (uint64_t)(ours.tv_nsec + theirs.tv_nsec);
}

static struct bufslice fresh(size_t size)
{
    struct buf *b = buf_new(size);
    memset(b->data, 'x', size);
    return (struct bufslice){b, {b->data, size}};
}

static void on_frame(void *ctx, const struct uuid *from, uint64_t incarnation, enum bus_lane lane,
                     struct bufslice frame)
{
    (void)ctx;
    (void)from;
    (void)incarnation;
    (void)lane;
    atomic_fetch_add_explicit(&shared->frames_in, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&shared->bytes_in, frame.bytes.size, memory_order_relaxed);
}

static void on_state(void *ctx, const struct uuid *host, bool is_up, uint64_t incarnation)
{
    (void)ctx;
    (void)host;
    (void)incarnation;
    atomic_store(&up, is_up);
}

static void on_request(void *ctx, struct bus_request *r)
{
    (void)ctx;
    struct slice body = bus_request_body(r);
    struct buf *b = buf_copy(body.data, body.size);
    bus_answer(r, (struct bufslice){b, {b->data, b->size}}, false);
}

static void on_echo(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    (void)ctx;
    struct buf *b = buf_copy(message.data, message.size);
    bus_rpc_reply(rpc, (struct bufslice){b, {b->data, b->size}});
}

/* ---- Measuring ------------------------------------------------------------------------------- */

static uint64_t began_ns, began_cpu, began_count;

static bool skip(const char *what)
{
    return wanted != NULL && strstr(what, wanted) == NULL;
}

static void begin(void)
{
    memset(&latency, 0, sizeof latency);
    began_count = atomic_load(&done_count);
    began_ns = now();
    began_cpu = cpu_ns();
}

static void report(const char *what)
{
    uint64_t n = atomic_load(&done_count) - began_count;
    double seconds = (double)(now() - began_ns) / 1e9;
    printf("%-28s %10.0f/s  p50 %6.0f us  p99 %6.0f us  cpu %6.2f us/op\n", what,
           (double)n / seconds, (double)histogram_percentile(&latency, 50) / 1e3,
           (double)histogram_percentile(&latency, 99) / 1e3,
           (double)(cpu_ns() - began_cpu) / 1e3 / (double)(n ? n : 1));
}

static void sleep_for(double seconds)
{
    nanosleep(
        &(struct timespec){(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)},
        NULL);
}

/* ---- Closed loops: each answer starts the next call ------------------------------------------ */

struct flight {
    uint64_t sent_ns;
    bool exchange;
};
static _Atomic uint32_t flying;

static void fly(struct flight *f);

static void landed(struct flight *f, const struct thole_status *st)
{
    ASSERT(st->code == THOLE_OK);
    histogram_record(&latency, now() - f->sent_ns);
    atomic_fetch_add_explicit(&done_count, 1, memory_order_relaxed);
    if (atomic_load_explicit(&stop, memory_order_relaxed)) {
        atomic_fetch_sub(&flying, 1);
    } else {
        fly(f);
    }
}

static void on_reply(void *ctx, const struct thole_status *st, struct bufslice reply)
{
    (void)reply;
    landed(ctx, st);
}

static void on_answer(void *ctx, const struct thole_status *st, struct bufslice body, bool more)
{
    (void)body;
    (void)more;
    landed(ctx, st);
}

static void fly(struct flight *f)
{
    f->sent_ns = now();
    if (f->exchange) {
        bus_exchange(client, &server_id, 1, fresh(16), 5000, on_answer, f);
    } else {
        bus_channel_call_async(channel, "/bench.Bench/Echo", fresh(16), 5000, on_reply, f);
    }
}

static void closed_loop(const char *what, bool exchange, uint32_t in_flight, double seconds)
{
    if (skip(what)) {
        return;
    }
    struct flight *all = calloc(in_flight, sizeof *all);
    atomic_store(&stop, false);
    atomic_store(&flying, in_flight);
    begin();
    for (uint32_t i = 0; i < in_flight; i++) {
        all[i].exchange = exchange;
        fly(&all[i]);
    }
    sleep_for(seconds);
    report(what);
    atomic_store(&stop, true);
    while (atomic_load(&flying) > 0) {
        sleep_for(0.001);
    }
    free(all);
}

static void blocking_calls(double seconds)
{
    if (skip("unary, blocking")) {
        return;
    }
    begin();
    while (now() - began_ns < (uint64_t)(seconds * 1e9)) {
        struct buf *reply;
        struct thole_status st;
        uint64_t sent_ns = now();
        enum thole_code code = bus_channel_call(channel, "/bench.Bench/Echo",
                                                slice_str("0123456789abcdef"), 5000, &reply, &st);
        ASSERT(code == THOLE_OK);
        buf_unref(reply);
        histogram_record(&latency, now() - sent_ns);
        atomic_fetch_add(&done_count, 1);
    }
    report("unary, blocking");
}

/* ---- Frames ---------------------------------------------------------------------------------- */

static void frames(const char *what, size_t size, double seconds)
{
    uint64_t frames0 = atomic_load(&shared->frames_in), bytes0 = atomic_load(&shared->bytes_in);
    uint64_t sent = 0;
    if (skip(what)) {
        return;
    }
    struct bufslice one = fresh(size);
    begin();
    while (now() - began_ns < (uint64_t)(seconds * 1e9)) {
        for (int i = 0; i < 64; i++) {
            enum thole_code code = bus_send(client, &server_id, BUS_LANE_APPEND, bufslice_ref(one));
            if (code == THOLE_OK) {
                sent++;
            } else {
                sleep_for(0.0002);
            }
        }
    }
    while (atomic_load(&shared->frames_in) - frames0 < sent) {
        sleep_for(0.0002);
    }
    double took = (double)(now() - began_ns) / 1e9;
    printf("%-28s %10.0f/s  %8.1f MB/s  cpu %6.2f us/op\n", what, (double)sent / took,
           (double)(atomic_load(&shared->bytes_in) - bytes0) / took / 1e6,
           (double)(cpu_ns() - began_cpu) / 1e3 / (double)sent);
    bufslice_unref(one);
}

static struct bus_options options(struct uuid id, struct uuid cluster)
{
    return (struct bus_options){.listen_address = "127.0.0.1:0",
                                .host_id = id,
                                .cluster_id = cluster,
                                .incarnation = 1,
                                .version = "bench",
                                .clock = &clock_system};
}

static void serve(struct uuid cluster)
{
    struct thole_status st;
    struct bus *server;
    struct bus_options o = options(server_id, cluster);
    o.handler = (struct bus_handler){.frame = on_frame, .request = on_request};
    const struct bus_method echo = {"/bench.Bench/Echo", BUS_RPC_UNARY, NULL, on_echo, NULL, 0};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    enum thole_code code = bus_new(&o, &server, &st);
    ASSERT(code == THOLE_OK);
    bus_register(server, &echo, 1);
    bus_start(server);
    snprintf(shared->address, sizeof shared->address, "%s", bus_address(server));
    atomic_store(&shared->serving, true);
    for (;;) {
        pause();
    }
}

static void open_all(void)
{
    struct thole_status st;
    struct uuid cluster = uuid_random(), client_id = uuid_random();
    server_id = uuid_random();
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT(shared != MAP_FAILED);
    server_pid = fork();
    if (server_pid == 0) {
        serve(cluster);
    }
    while (!atomic_load(&shared->serving)) {
        sleep_for(0.001);
    }
    struct bus_options o = options(client_id, cluster);
    o.handler.peer_state = on_state;
    enum thole_code code = bus_new(&o, &client, &st);
    ASSERT(code == THOLE_OK);
    bus_start(client);
    code = bus_peer_set(client, &server_id, shared->address, &st);
    ASSERT(code == THOLE_OK);
    code = bus_channel_new(shared->address, &channel, &st);
    ASSERT(code == THOLE_OK);
    while (!atomic_load(&up)) {
        sleep_for(0.001);
    }
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 2.0;
    wanted = argc > 2 ? argv[2] : NULL;
    process_own();
    log_configure(LOG_LEVEL_WARN, false);
    open_all();
    blocking_calls(seconds);
    closed_loop("unary, 1 in flight", false, 1, seconds);
    closed_loop("unary, 16 in flight", false, 16, seconds);
    closed_loop("unary, 128 in flight", false, 128, seconds);
    closed_loop("exchange, 1 in flight", true, 1, seconds);
    closed_loop("exchange, 1000 in flight", true, 1000, seconds);
    closed_loop("exchange, 10000 in flight", true, 10000, seconds);
    frames("frames of 64 B", 64, seconds);
    frames("frames of 4 KiB", 4096, seconds);
    frames("frames of 64 KiB", 65536, seconds);
    bus_channel_free(channel);
    bus_stop(client, 0);
    bus_free(client);
    kill(server_pid, SIGKILL);
    waitpid(server_pid, NULL, 0);
    return 0;
}
