/* A bus for clients in other languages: prints its port, ends with its standard input. */
#include <stdio.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/log.h"
#include "bus/bus.h"

static void on_fail(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    const char *const metadata[] = {"leader", "h2", NULL};
    struct thole_status st;
    (void)ctx;
    (void)message;
    thole_status_set(&st, THOLE_UNAVAILABLE, THOLE_REASON_NO_LEADER, __FILE__, __LINE__,
                     "no leader");
    bus_rpc_fail(rpc, &st, 250, metadata);
}

/* Endless: a message each time the last ones were read. */
static void on_drained(void *ctx)
{
    struct bus_rpc *rpc = ctx;
    struct buf *b;
    do {
        b = buf_copy("tick", 4);
    } while (bus_rpc_send(rpc, (struct bufslice){b, {b->data, b->size}}));
}

static void on_cancel(void *ctx)
{
    struct bus_rpc *rpc = ctx;
    bus_rpc_reply(rpc, (struct bufslice){0});
}

static void on_watch(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    (void)ctx;
    struct buf *b = buf_copy(message.data, message.size);
    bus_rpc_on_cancel(rpc, on_cancel, rpc);
    bus_rpc_on_drained(rpc, on_drained, rpc);
    bus_rpc_send(rpc, (struct bufslice){b, {b->data, b->size}});
}

int main(void)
{
    struct thole_status st;
    struct bus *b;
    const struct bus_method methods[] = {
        {"/thole.v1.Test/Fail", BUS_RPC_UNARY, NULL, on_fail, NULL, 0},
        {"/thole.v1.Test/Watch", BUS_RPC_SERVER_STREAM, NULL, on_watch, NULL, 0},
    };
    struct bus_options o = {.listen_address = "127.0.0.1:0",
                            .host_id = uuid_random(),
                            .cluster_id = uuid_random(),
                            .incarnation = 1,
                            .clock = &clock_system};
    log_configure(LOG_LEVEL_WARN, false);
    enum thole_code code = bus_new(&o, &b, &st);
    ASSERT(code == THOLE_OK);
    bus_register(b, methods, sizeof methods / sizeof *methods);
    bus_start(b);
    printf("%u\n", (unsigned)bus_port(b));
    fflush(stdout);
    char byte;
    while (read(STDIN_FILENO, &byte, 1) > 0) {
    }
    bus_stop(b, 100);
    bus_free(b);
    return 0;
}
