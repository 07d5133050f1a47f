/* Calls that could make a host hold memory without bound: unread answers, endless messages,
 * messages that expand when they are decoded. The host stays below a bound and serves afterwards.
 * With THOLE_MEMORY_SECONDS=60 each attack takes that long. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/core/agent.h"
#include "base/buf.h"
#include "bus/bus.h"
#include "integration/test/cluster.h"

#define BUS_PORT 7400
#define MIB_OF_VALUE 1000000
/* 256 MiB in gRPC, as much in the bus, an applier's batch, and what an idle host needs. */
#define RSS_MIB_MAX 800

/* ---- A client that does as little as HTTP/2 lets it ------------------------------------------ */

#define STREAMS_MAX 512
struct h2 {
    int fd;
    int64_t window, windows[STREAMS_MAX];
    uint32_t streams; /* opened */
    uint8_t in[65536];
    size_t in_size;
    bool closed;
};

static void put_be32(uint8_t *p, uint32_t v)
{
    uint8_t wide[8];
    put_be64(wide, v);
    memcpy(p, wide + 4, 4);
}

static uint32_t get_be32(const uint8_t *p)
{
    uint8_t wide[8] = {0};
    memcpy(wide + 4, p, 4);
    return (uint32_t)get_be64(wide);
}

static void h2_write(struct h2 *h, const void *data, size_t size)
{
    for (const uint8_t *p = data; size > 0 && !h->closed;) {
        ssize_t n = send(h->fd, p, size, MSG_NOSIGNAL);
        if (n <= 0) {
            h->closed = true;
            return;
        }
        p += n;
        size -= (size_t)n;
    }
}

static void h2_frame(struct h2 *h, uint8_t type, uint8_t flags, uint32_t stream, struct slice body)
{
    uint8_t head[9] = {(uint8_t)(body.size >> 16), (uint8_t)(body.size >> 8), (uint8_t)body.size,
                       type, flags};
    put_be32(head + 5, stream);
    h2_write(h, head, sizeof head);
    h2_write(h, body.data, body.size);
}

static void h2_open(struct h2 *h, const struct host *host)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(BUS_PORT)};
    char ip[32];
    *h = (struct h2){.window = 65535};
    snprintf(ip, sizeof ip, "%s", host->address);
    *strchr(ip, ':') = '\0';
    assert_int_equal(inet_pton(AF_INET, ip, &a.sin_addr), 1);
    h->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(h->fd, (struct sockaddr *)&a, sizeof a), 0);
    h2_write(h, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
    h2_frame(h, 4, 0, 0, (struct slice){0});
}

/* Tracks the windows that the server grants; acknowledges its settings and pings. */
static void h2_take(struct h2 *h, const uint8_t *frame, size_t size)
{
    uint32_t stream = get_be32(frame + 5) & 0x7fffffff;
    struct slice body = slice_of(frame + 9, size - 9);
    if (frame[3] == 4 && !(frame[4] & 1)) {
        for (size_t i = 0; i + 6 <= body.size; i += 6) {
            bool initial = body.data[i] == 0 && body.data[i + 1] == 4;
            for (size_t s = 0; initial && s < STREAMS_MAX; s++) {
                h->windows[s] += (int64_t)get_be32(body.data + i + 2) - 65535;
            }
        }
        h2_frame(h, 4, 1, 0, (struct slice){0});
    } else if (frame[3] == 6 && !(frame[4] & 1)) {
        h2_frame(h, 6, 1, 0, body);
    } else if (frame[3] == 8 && stream == 0) {
        h->window += get_be32(body.data);
    } else if (frame[3] == 8 && stream / 2 < STREAMS_MAX) {
        h->windows[stream / 2] += get_be32(body.data);
    }
}

/* Reads what has arrived, for at most `ms`. */
static void h2_read(struct h2 *h, int wait_ms)
{
    struct pollfd p = {.fd = h->fd, .events = POLLIN};
    while (!h->closed && poll(&p, 1, wait_ms) == 1) {
        ssize_t n = recv(h->fd, h->in + h->in_size, sizeof h->in - h->in_size, 0);
        h->closed = n <= 0;
        h->in_size += n > 0 ? (size_t)n : 0;
        size_t at = 0;
        while (h->in_size - at >= 9) {
            size_t size =
                9 + ((size_t)h->in[at] << 16 | (size_t)h->in[at + 1] << 8 | h->in[at + 2]);
            if (h->in_size - at < size) {
                break;
            }
            h2_take(h, h->in + at, size);
            at += size;
        }
        memmove(h->in, h->in + at, h->in_size - at);
        h->in_size -= at;
        wait_ms = 0;
    }
}

static void add_header(struct bytes *out, const char *name, const char *value)
{
    uint8_t n = (uint8_t)strlen(name), v = (uint8_t)strlen(value);
    bytes_append(out, "\0", 1); /* literal, not indexed */
    bytes_append(out, &n, 1);
    bytes_append_str(out, name);
    bytes_append(out, &v, 1);
    bytes_append_str(out, value);
}

static uint32_t h2_call(struct h2 *h, const char *path, const char *encoding)
{
    struct bytes out = {0};
    add_header(&out, ":method", "POST");
    add_header(&out, ":scheme", "http");
    add_header(&out, ":path", path);
    add_header(&out, ":authority", "x");
    add_header(&out, "content-type", "application/grpc");
    add_header(&out, "te", "trailers");
    if (encoding != NULL) {
        add_header(&out, "grpc-encoding", encoding);
    }
    uint32_t stream = h->streams++ * 2 + 1;
    assert_true(h->streams <= STREAMS_MAX);
    h->windows[stream / 2] += 65535;
    h2_frame(h, 1, 4, stream, bytes_slice(&out));
    bytes_deinit(&out);
    return stream;
}

/* Sends as much as the server accepts at once. Returns how much that is. */
static size_t h2_send_some(struct h2 *h, uint32_t stream, struct slice data)
{
    size_t sent = 0;
    h2_read(h, 0);
    while (sent < data.size && !h->closed) {
        int64_t window = h->windows[stream / 2] < h->window ? h->windows[stream / 2] : h->window;
        size_t n = data.size - sent < 16384 ? data.size - sent : 16384;
        n = (int64_t)n > window ? (window > 0 ? (size_t)window : 0) : n;
        if (n == 0) {
            break;
        }
        h2_frame(h, 0, 0, stream, slice_of(data.data + sent, n));
        h->windows[stream / 2] -= (int64_t)n;
        h->window -= (int64_t)n;
        sent += n;
    }
    return sent;
}

static void message_head(uint8_t *head, bool compressed, size_t size)
{
    head[0] = compressed;
    put_be32(head + 1, (uint32_t)size);
}

static void h2_send(struct h2 *h, uint32_t stream, bool compressed, struct slice body)
{
    struct bytes out = {0};
    uint8_t head[5];
    message_head(head, compressed, body.size);
    bytes_append(&out, head, sizeof head);
    bytes_append_slice(&out, body);
    uint64_t begin = now_ms();
    for (size_t at = 0; at < out.size && !h->closed && now_ms() - begin < 3000;) {
        at += h2_send_some(h, stream, slice_of(out.data + at, out.size - at));
        if (at < out.size) {
            h2_read(h, 100);
        }
    }
    bytes_deinit(&out);
}

/* ---- The host -------------------------------------------------------------------------------- */

static long peak_rss_mib(const struct cluster *c)
{
    char path[64], line[256];
    long kib = 0;
    snprintf(path, sizeof path, "/proc/%d/status", (int)c->hosts[0].pid);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, "VmHWM:", 6) == 0) {
            kib = strtol(line + 6, NULL, 10);
        }
    }
    fclose(f);
    return kib / 1024;
}

static void put_field(struct bytes *out, unsigned field, struct slice bytes)
{
    uint8_t tag = (uint8_t)(field << 3 | 2);
    bytes_append(out, &tag, 1);
    bytes_append_varint(out, bytes.size);
    bytes_append_slice(out, bytes);
}

static void put_number(struct bytes *out, unsigned field, uint64_t value)
{
    uint8_t tag = (uint8_t)(field << 3);
    bytes_append(out, &tag, 1);
    bytes_append_varint(out, value);
}

static int setup(void **state)
{
    struct cluster *c = cluster_new();
    struct thole_status st = {0};
    struct bus_channel *channel;
    struct bytes text = {0}, request = {0};
    struct buf *reply = NULL;
    cluster_start_dev(c);
    apply_yaml(c, 0, "kind: Shard\nname: orders\nspec: {type: kv, voters: 1}\n");
    bytes_append_str(&text, "put big ");
    memset(bytes_extend(&text, MIB_OF_VALUE), 'x', MIB_OF_VALUE);
    put_field(&request, 1, slice_str("orders"));
    put_field(&request, 3, bytes_slice(&text));
    assert_int_equal(bus_channel_new(c->hosts[0].address, &channel, &st), THOLE_OK);
    assert_int_equal(bus_channel_call(channel, "/thole.v1.Data/Propose", bytes_slice(&request),
                                      10000, &reply, &st),
                     THOLE_OK);
    buf_unref(reply);
    bus_channel_free(channel);
    bytes_deinit(&text);
    bytes_deinit(&request);
    *state = c;
    return 0;
}

static int teardown(void **state)
{
    cluster_free(*state);
    return 0;
}

static bool serves(void *ctx)
{
    char out[1024];
    return cli(ctx, 0, out, sizeof out, "propose orders 'put still here'") == 0;
}

/* The clients stay for a while. Then the host's memory is below the bound, and it serves. */
static void check(struct cluster *c, struct h2 *clients, size_t n, long rss_mib_max)
{
    const char *seconds = getenv("THOLE_MEMORY_SECONDS");
    uint64_t until = now_ms() + (seconds != NULL ? strtoull(seconds, NULL, 10) : 3) * 1000;
    long rss = 0;
    while (now_ms() < until && rss <= rss_mib_max) {
        (void)poll(NULL, 0, 50);
        rss = peak_rss_mib(c);
    }
    assert_true(host_running(c, 0));
    if (rss > rss_mib_max) {
        fail_msg("the host held %ld MiB", rss);
    }
    eventually(30000, "the host serves meanwhile", serves, c); /* it has much to do */
    for (size_t i = 0; i < n; i++) {
        close(clients[i].fd);
    }
    eventually(30000, "the host serves afterwards", serves, c);
    printf("peak: %ld MiB\n", rss);
}

/* ---- The doors ------------------------------------------------------------------------------- */

static void test_unread_answers_of_exchanges(void **state)
{
    enum { CLIENTS = 4, GETS = 1200 };
    struct h2 *h = xcalloc(CLIENTS, sizeof *h);
    struct bytes hello = {0}, gets = {0};
    put_field(&hello, 1, (struct slice){0});
    for (uint64_t id = 1; id <= GETS; id++) {
        struct bytes forward = {0}, item = {0};
        put_field(&forward, 2, slice_str("orders"));
        put_field(&forward, 3, slice_str("get big"));
        put_number(&item, 1, id);
        put_number(&item, 2, METHOD_QUERY);
        put_field(&item, 3, bytes_slice(&forward));
        put_field(&gets, 2, bytes_slice(&item));
        bytes_deinit(&forward);
        bytes_deinit(&item);
    }
    for (int i = 0; i < CLIENTS; i++) {
        h2_open(&h[i], &((struct cluster *)*state)->hosts[0]);
        uint32_t stream = h2_call(&h[i], "/thole.bus.v1.Bus/Exchange", NULL);
        h2_send(&h[i], stream, false, bytes_slice(&hello));
        h2_send(&h[i], stream, false, bytes_slice(&gets));
        assert_false(h[i].closed);
    }
    check(*state, h, CLIENTS, RSS_MIB_MAX);
    bytes_deinit(&hello);
    bytes_deinit(&gets);
    free(h);
}

/* Requests of 8 bytes each, which are refused with answers of 90 bytes. */
static void test_unread_failures_of_exchanges(void **state)
{
    enum { CLIENTS = 4, STREAMS = 24, REQUESTS = 130000, NO_METHOD = 99 };
    struct h2 *h = xcalloc(CLIENTS, sizeof *h);
    struct bytes hello = {0}, requests = {0};
    put_field(&hello, 1, (struct slice){0});
    for (uint64_t id = 1; id <= REQUESTS; id++) {
        struct bytes item = {0};
        put_number(&item, 1, id);
        put_number(&item, 2, NO_METHOD);
        put_field(&requests, 2, bytes_slice(&item));
        bytes_deinit(&item);
    }
    for (int i = 0; i < CLIENTS; i++) {
        h2_open(&h[i], &((struct cluster *)*state)->hosts[0]);
        for (int k = 0; k < STREAMS && !h[i].closed; k++) {
            uint32_t stream = h2_call(&h[i], "/thole.bus.v1.Bus/Exchange", NULL);
            h2_send(&h[i], stream, false, bytes_slice(&hello));
            h2_send(&h[i], stream, false, bytes_slice(&requests));
        }
    }
    check(*state, h, CLIENTS, 450);
    bytes_deinit(&hello);
    bytes_deinit(&requests);
    free(h);
}

static void test_unread_answers_of_data_streams(void **state)
{
    enum { CLIENTS = 4, GETS = 512 };
    struct h2 *h = xcalloc(CLIENTS, sizeof *h);
    for (int i = 0; i < CLIENTS; i++) {
        h2_open(&h[i], &((struct cluster *)*state)->hosts[0]);
        uint32_t stream = h2_call(&h[i], "/thole.v1.Data/Stream", NULL);
        for (uint64_t id = 1; id <= GETS; id++) {
            struct bytes propose = {0}, request = {0};
            put_field(&propose, 1, slice_str("orders"));
            put_field(&propose, 3, slice_str("get big"));
            put_number(&request, 1, id);
            put_field(&request, 2, bytes_slice(&propose));
            h2_send(&h[i], stream, false, bytes_slice(&request));
            bytes_deinit(&propose);
            bytes_deinit(&request);
        }
    }
    check(*state, h, CLIENTS, RSS_MIB_MAX);
    free(h);
}

struct door {
    struct cluster *c;
    struct h2 *clients;
    int n;
};

/* The clients answer pings meanwhile, or their connections would be taken for broken. */
static bool lists_hosts(void *ctx)
{
    const struct door *d = ctx;
    char out[1024];
    for (int i = 0; i < d->n; i++) {
        h2_read(&d->clients[i], 0);
    }
    return cli(d->c, 0, out, sizeof out, "get hosts --command-timeout 1s") == 0;
}

/* As many calls as the host takes at a time, whose answers nobody reads: the first answer of each
 * connection uses its window up. Others are let in after a while. */
static void test_unread_answers_of_calls(void **state)
{
    enum { CLIENTS = 12, CALLS = 500 };
    struct h2 *h = xcalloc(CLIENTS, sizeof *h);
    cli_ok(*state, 0, "propose orders 'put small 1'");
    for (int i = 0; i < CLIENTS; i++) {
        h2_open(&h[i], &((struct cluster *)*state)->hosts[0]);
        for (int k = 0; k < CALLS && !h[i].closed; k++) {
            struct bytes query = {0};
            put_field(&query, 1, slice_str("orders"));
            put_field(&query, 3, slice_str(k == 0 ? "get big" : "get small"));
            uint32_t stream = h2_call(&h[i], "/thole.v1.Data/Query", NULL);
            h2_send(&h[i], stream, false, bytes_slice(&query));
            h2_frame(&h[i], 0, 1, stream, (struct slice){0});
            bytes_deinit(&query);
            (void)poll(NULL, 0, k == 0 ? 300 : 0);
        }
        h2_read(&h[i], 100);
        assert_false(h[i].closed);
    }
    eventually(20000, "calls are let in", lists_hosts,
               &(struct door){.c = *state, .clients = h, .n = CLIENTS});
    check(*state, h, CLIENTS, RSS_MIB_MAX);
    free(h);
}

static void test_messages_that_never_end(void **state)
{
    enum { CLIENTS = 2, CALLS = 300 };
    struct h2 *h = xcalloc(CLIENTS, sizeof *h);
    static uint8_t most[4 * 1024 * 1024];
    message_head(most, false, sizeof most);
    for (int i = 0; i < CLIENTS; i++) {
        size_t sent[CALLS] = {0};
        uint32_t streams[CALLS];
        h2_open(&h[i], &((struct cluster *)*state)->hosts[0]);
        h2_read(&h[i], 200);
        for (int k = 0; k < CALLS; k++) {
            streams[k] = h2_call(&h[i], "/thole.bus.v1.Bus/Exchange", NULL);
        }
        uint64_t begin = now_ms();
        while (now_ms() - begin < 4000 && !h[i].closed) {
            for (int k = 0; k < CALLS; k++) {
                sent[k] += h2_send_some(&h[i], streams[k],
                                        slice_of(most + sent[k], sizeof most - sent[k]));
            }
        }
    }
    check(*state, h, CLIENTS, RSS_MIB_MAX);
    free(h);
}

static void test_compressed_message_is_not_unpacked(void **state)
{
    struct h2 *h = xcalloc(1, sizeof *h);
    struct bytes bomb = {0};
    FILE *p = popen("head -c 800000000 /dev/zero | gzip -1", "r");
    assert_non_null(p);
    char piece[4096];
    for (size_t n; (n = fread(piece, 1, sizeof piece, p)) > 0;) {
        bytes_append(&bomb, piece, n);
    }
    assert_int_equal(pclose(p), 0);
    h2_open(h, &((struct cluster *)*state)->hosts[0]);
    h2_read(h, 200);
    uint32_t stream = h2_call(h, "/thole.v1.Data/Propose", "gzip");
    h2_send(h, stream, true, bytes_slice(&bomb));
    check(*state, h, 1, 200);
    bytes_deinit(&bomb);
    free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_unread_answers_of_exchanges, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unread_failures_of_exchanges, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unread_answers_of_data_streams, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unread_answers_of_calls, setup, teardown),
        cmocka_unit_test_setup_teardown(test_messages_that_never_end, setup, teardown),
        cmocka_unit_test_setup_teardown(test_compressed_message_is_not_unpacked, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
