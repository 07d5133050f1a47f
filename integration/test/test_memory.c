/* Calls that could make a host hold memory without bound: unread answers, endless messages,
 * messages that expand when they are decoded. The host stays below a bound and serves afterwards.
 * With THOLE_MEMORY_SECONDS=60 each attack takes that long. */
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/core/agent.h"
#include "base/buf.h"
#include "bus/bus.h"
#include "integration/test/cluster.h"
#include "integration/test/h2.h"
#include "integration/test/scrape.h"

#define MIB_OF_VALUE 1000000
/* 256 MiB in gRPC, as much in the bus, an applier's batch, and what an idle host needs. */
#define RSS_MIB_MAX 800

/* ---- The host -------------------------------------------------------------------------------- */

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
        rss = host_peak_mib(c, 0);
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

struct held {
    struct cluster *c;
    double bytes;
};

static bool holds(void *ctx)
{
    const struct held *h = ctx;
    return scrape_value(scrape(&h->c->hosts[0]), "thole_bus_held_bytes") >= h->bytes;
}

/* Large requests that wait for a leader count as memory held for callers. */
static void test_waiting_requests_of_etcd_clients_are_counted(void **state)
{
    enum { CALLS = 20 };
    (void)state;
    struct cluster *c = cluster_new();
    struct h2 *h = xcalloc(1, sizeof *h);
    struct bytes value = {0}, request = {0};
    c->http = true;
    cluster_start_peers(c, 3);
    apply_yaml(c, 0, "kind: Shard\nname: default\nspec: {type: kv, voters: 3}\n");
    memset(bytes_extend(&value, MIB_OF_VALUE), 'x', MIB_OF_VALUE);
    put_field(&request, 1, slice_str("key"));
    put_field(&request, 2, bytes_slice(&value));
    host_pause(c, 1, true);
    host_pause(c, 2, true);
    h2_open(h, &c->hosts[0]);
    for (int k = 0; k < CALLS; k++) {
        uint32_t stream = h2_call(h, "/etcdserverpb.KV/Put", NULL);
        h2_send(h, stream, false, bytes_slice(&request));
        h2_frame(h, H2_DATA, 1, stream, (struct slice){0});
    }
    eventually(20000, "they are counted", holds, &(struct held){c, (double)MIB_OF_VALUE * CALLS});
    close(h->fd);
    free(h);
    bytes_deinit(&value);
    bytes_deinit(&request);
    cluster_free(c);
}

static void test_messages_that_never_end(void **state)
{
    enum { CLIENTS = 2, CALLS = 300 };
    struct h2 *h = xcalloc(CLIENTS, sizeof *h);
    static uint8_t most[4 * 1024 * 1024];
    h2_message_head(most, false, sizeof most);
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
        cmocka_unit_test(test_waiting_requests_of_etcd_clients_are_counted),
        cmocka_unit_test_setup_teardown(test_messages_that_never_end, setup, teardown),
        cmocka_unit_test_setup_teardown(test_compressed_message_is_not_unpacked, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
