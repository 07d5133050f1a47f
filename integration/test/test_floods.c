/* Strangers who flood a host with what costs them little: calls of headers alone, calls that are
 * reset slowly, settings and pings, headers that expand or never end, handshakes that stop
 * half-way. The memory of the host stays below a bound where there is one, and three hosts answer
 * afterwards.
 *
 * THOLE_FLOOD_SECONDS says for how long each of them lasts (3). */
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"
#include "integration/test/cluster.h"
#include "integration/test/h2.h"
#include "integration/test/pki.h"

#define CLIENTS 4
#define MEMORY_MIB_MAX 200

/* ---- The cluster ----------------------------------------------------------------------------- */

static int setup(void **state)
{
    struct cluster *c =
        cluster_of_peers(3, "kind: Shard\nname: orders\nspec: {type: kv, voters: 3}\n");
    cli_ok(c, 0, "propose orders 'put a b'");
    *state = c;
    return 0;
}

static int teardown(void **state)
{
    cluster_free(*state);
    return 0;
}

/* The number of times that a host of the cluster has become a leader. */
static int elections(const struct cluster *c)
{
    char line[4096];
    int n = 0;
    for (int i = 0; i < 3; i++) {
        FILE *f = fopen(c->hosts[i].log_path, "r");
        assert_non_null(f);
        while (fgets(line, sizeof line, f) != NULL) {
            n += strstr(line, "became leader") != NULL;
        }
        fclose(f);
    }
    return n;
}

/* ---- Attackers ------------------------------------------------------------------------------- */

struct attacker {
    const struct host *host;
    void (*send)(struct h2 *h, struct bytes *scratch);
    _Atomic bool stop;
    _Atomic uint64_t rounds, connections;
    pthread_t thread;
};

/* Connects again when the host closes the connection. */
static void *attack_main(void *ctx)
{
    struct attacker *a = ctx;
    struct h2 *h = xcalloc(1, sizeof *h);
    struct bytes scratch = {0};
    while (!atomic_load(&a->stop)) {
        h2_open(h, a->host);
        atomic_fetch_add(&a->connections, 1);
        const struct timeval limit = {.tv_sec = 1};
        (void)setsockopt(h->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
        while (!h->closed && !atomic_load(&a->stop)) {
            a->send(h, &scratch);
            atomic_fetch_add(&a->rounds, 1);
        }
        close(h->fd);
        bytes_clear(&scratch);
        (void)poll(NULL, 0, 10);
    }
    bytes_deinit(&scratch);
    free(h);
    return NULL;
}

static void frame(struct bytes *out, uint8_t type, uint8_t flags, uint32_t stream,
                  struct slice body)
{
    const uint8_t head[9] = {(uint8_t)(body.size >> 16),
                             (uint8_t)(body.size >> 8),
                             (uint8_t)body.size,
                             type,
                             flags,
                             (uint8_t)(stream >> 24),
                             (uint8_t)(stream >> 16),
                             (uint8_t)(stream >> 8),
                             (uint8_t)stream};
    bytes_append(out, head, sizeof head);
    bytes_append_slice(out, body);
}

static void call_headers(struct bytes *out)
{
    h2_add_header(out, ":method", "POST");
    h2_add_header(out, ":scheme", "http");
    h2_add_header(out, ":path", "/thole.v1.Cluster/Status");
    h2_add_header(out, ":authority", "x");
    h2_add_header(out, "content-type", "application/grpc");
    h2_add_header(out, "te", "trailers");
}

/* CVE-2023-44487, at a pace at which the host keeps up. */
static void send_resets(struct h2 *h, struct bytes *out)
{
    struct bytes headers = {0};
    call_headers(&headers);
    bytes_clear(out);
    for (int i = 0; i < 100; i++) {
        uint32_t stream = h->streams++ * 2 + 1;
        frame(out, H2_HEADERS, H2_END_HEADERS, stream, bytes_slice(&headers));
        frame(out, H2_RST_STREAM, 0, stream, slice_of("\0\0\0\10", 4));
    }
    h2_write(h, out->data, out->size);
    bytes_deinit(&headers);
    h2_read(h, 20);
}

/* CVE-2019-9515, CVE-2019-9512: each wants an answer, and none is read. */
static void send_settings(struct h2 *h, struct bytes *out)
{
    bytes_clear(out);
    for (int i = 0; i < 500; i++) {
        frame(out, H2_SETTINGS, 0, 0, slice_of("\0\4\0\1\0\0", 6));
        frame(out, H2_PING, 0, 0, slice_of("12345678", 8));
    }
    h2_write(h, out->data, out->size);
}

/* As many calls as a connection may have, which are kept open. */
static void send_calls_of_headers(struct h2 *h, struct bytes *out)
{
    if (h->streams > 0) {
        h2_read(h, 100);
        return;
    }
    struct bytes headers = {0};
    call_headers(&headers);
    bytes_clear(out);
    for (int i = 0; i < 1000; i++) {
        frame(out, H2_HEADERS, H2_END_HEADERS, h->streams++ * 2 + 1, bytes_slice(&headers));
    }
    h2_write(h, out->data, out->size);
    bytes_deinit(&headers);
}

/* CVE-2024-27316: a block of headers that does not end. */
static void send_continuations(struct h2 *h, struct bytes *out)
{
    struct bytes header = {0};
    bool first = h->streams == 0;
    uint32_t stream = 1;
    bytes_clear(out);
    if (first) {
        h->streams++;
        call_headers(&header);
        frame(out, H2_HEADERS, 0, stream, bytes_slice(&header));
        bytes_clear(&header);
    }
    for (int i = 0; i < 100; i++) {
        h2_add_header(&header, "x-padding", "0123456789012345678901234567890123456789");
    }
    for (int i = 0; i < 20; i++) {
        frame(out, H2_CONTINUATION, 0, stream, bytes_slice(&header));
    }
    h2_write(h, out->data, out->size);
    bytes_deinit(&header);
    h2_read(h, 0);
}

/* A value of 3 KB that the table keeps, and then a byte for each repetition: 16,000 of them make 48
 * MB of headers. */
static void send_hpack_bomb(struct h2 *h, struct bytes *out)
{
    enum { VALUE_BYTES = 3000, REPEATED = 16000 };
    static const uint8_t head[] = {0x40, 1, 'x', 0x7f, 0xb9, 0x16}; /* indexed, 127 + 2873 bytes */
    uint32_t stream = h->streams++ * 2 + 1;
    struct bytes block = {0};
    bytes_clear(out);
    call_headers(&block);
    if (stream == 1) {
        bytes_append(&block, head, sizeof head);
        memset(bytes_extend(&block, VALUE_BYTES), 'v', VALUE_BYTES);
    }
    memset(bytes_extend(&block, REPEATED - block.size), 0xbe, REPEATED - block.size); /* entry 62 */
    frame(out, H2_HEADERS, H2_END_HEADERS, stream, bytes_slice(&block));
    h2_write(h, out->data, out->size);
    bytes_deinit(&block);
    h2_read(h, 5);
}

/* Every host answers, the one under attack too. Returns how many did not. */
static int ask_all(struct cluster *c, uint64_t *slowest_ms)
{
    int failed = 0;
    for (int i = 0; i < 3; i++) {
        char out[4096];
        uint64_t begin = now_ms();
        if (cli(c, i, out, sizeof out, "propose orders 'put c d' --command-timeout 10s") != 0) {
            printf("h%d: %s", i + 1, out);
            failed++;
        }
        uint64_t took = now_ms() - begin;
        *slowest_ms = took > *slowest_ms ? took : *slowest_ms;
    }
    return failed;
}

static bool all_answer(void *ctx)
{
    uint64_t slowest_ms = 0;
    return ask_all(ctx, &slowest_ms) == 0;
}

/* Returns how many connections the clients made; `ret_mib` is what the victim's process holds. */
static uint64_t attack(struct cluster *c, const char *what, int clients, long *ret_mib,
                       void (*send)(struct h2 *h, struct bytes *scratch))
{
    const char *seconds = getenv("THOLE_FLOOD_SECONDS");
    struct attacker *a = xcalloc((size_t)clients, sizeof *a);
    uint64_t slowest_ms = 0, rounds = 0, connections = 0;
    int failed = 0, victim = leader_of(c, 0, "orders");
    const int before = elections(c);
    uint64_t until = now_ms() + (seconds != NULL ? strtoull(seconds, NULL, 10) : 3) * 1000;
    for (int i = 0; i < clients; i++) {
        a[i].host = &c->hosts[victim];
        a[i].send = send;
        assert_int_equal(pthread_create(&a[i].thread, NULL, attack_main, &a[i]), 0);
    }
    while (now_ms() < until) {
        failed += ask_all(c, &slowest_ms);
    }
    long mib = host_peak_mib(c, victim);
    int after = elections(c);
    for (int i = 0; i < clients; i++) {
        atomic_store(&a[i].stop, true);
        pthread_join(a[i].thread, NULL);
        rounds += atomic_load(&a[i].rounds);
        connections += atomic_load(&a[i].connections);
    }
    free(a);
    printf("%s: %" PRIu64 " rounds on %" PRIu64 " connections, slowest answer %" PRIu64
           " ms, %d failed, %ld MiB, %d elections\n",
           what, rounds, connections, slowest_ms, failed, mib, after - before);
    assert_true(rounds > 0);
    *ret_mib = mib;
    assert_true(host_running(c, victim));
    eventually(20000, "all hosts answer afterwards", all_answer, c);
    expect_lines(c, 0, "get hosts", "live", 3);
    return connections;
}

static void test_settings_and_pings(void **state)
{
    long mib = 0;
    (void)attack(*state, "settings and pings", CLIENTS, &mib, send_settings);
    assert_in_range(mib, 1, MEMORY_MIB_MAX);
}

/* 32,000 calls: gRPC needs 12 KB for each. */
static void test_calls_of_headers_alone(void **state)
{
    long mib = 0;
    (void)attack(*state, "calls of headers", 32, &mib, send_calls_of_headers);
    assert_in_range(mib, 1, MEMORY_MIB_MAX);
}

/* Each connection ends after some 9 MB. The memory of all has no bound (docs/security.md). */
static void test_headers_that_never_end_cost_the_connection(void **state)
{
    long mib = 0;
    assert_true(attack(*state, "continuations", CLIENTS, &mib, send_continuations) > CLIENTS);
}

static void test_headers_that_expand(void **state)
{
    long mib = 0;
    (void)attack(*state, "repeated headers", CLIENTS, &mib, send_hpack_bomb);
    assert_in_range(mib, 1, MEMORY_MIB_MAX);
}

/* The memory has no bound here: gRPC reads on until the connection ends (docs/security.md). */
static void test_slow_resets_end_the_connection(void **state)
{
    long mib = 0;
    assert_true(attack(*state, "resets", CLIENTS, &mib, send_resets) > CLIENTS);
}

/* ---- Half handshakes ------------------------------------------------------------------------- */

static void test_half_handshakes(void **state)
{
    enum { N = 2000 };
    /* The head of a TLS record of 512 bytes with a ClientHello, and no more of it. */
    static const uint8_t hello[] = {22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3};
    struct cluster *c = cluster_new();
    (void)state;
    pki_make(c, 1);
    cluster_start_dev(c);
    long before = host_peak_mib(c, 0);
    struct h2 *h = xcalloc(N, sizeof *h);
    for (int i = 0; i < N; i++) {
        h2_dial(&h[i], &c->hosts[0]);
        h2_write(&h[i], hello, 1 + (size_t)i % sizeof hello);
    }
    cli_ok(c, 0, "get hosts");
    uint64_t until = now_ms() + 9000; /* the handshake's time, and the time of a check */
    int closed = 0;
    while (now_ms() < until && closed < N) {
        closed = 0;
        for (int i = 0; i < N; i++) {
            h2_read(&h[i], 0);
            closed += h[i].closed;
        }
        (void)poll(NULL, 0, 100);
    }
    long after = host_peak_mib(c, 0);
    printf("half handshakes: %d of %d closed, %ld to %ld MiB\n", closed, N, before, after);
    assert_int_equal(closed, N);
    assert_true(after - before < 200);
    cli_ok(c, 0, "get hosts");
    for (int i = 0; i < N; i++) {
        close(h[i].fd);
    }
    free(h);
    call_in_plain_text();
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_calls_of_headers_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slow_resets_end_the_connection, setup, teardown),
        cmocka_unit_test_setup_teardown(test_settings_and_pings, setup, teardown),
        cmocka_unit_test_setup_teardown(test_headers_that_never_end_cost_the_connection, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_headers_that_expand, setup, teardown),
        cmocka_unit_test(test_half_handshakes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
