/* Plain gRPC clients. Several addresses become one gRPC target. gRPC's pick-first policy tries them
 * in order and keeps the one that answers; the bus never repeats a call. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "bus/bus_internal.h"
#include "bus/channel.h"

/* Append all IP addresses of host:port. IPv4 addresses are written in their IPv6 form unless all
 * are IPv4. */
static bool add_addresses(struct bytes *out, const char *one, bool want_v6, bool *all_v4)
{
    const char *colon = strrchr(one, ':');
    if (colon == NULL || !colon[1]) {
        return false;
    }
    size_t n = (size_t)(colon - one);
    bool bracket = n >= 2 && one[0] == '[' && one[n - 1] == ']';
    char *host = bracket ? xstrndup(one + 1, n - 2) : xstrndup(one, n);
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *all = NULL;
    int e = getaddrinfo(*host ? host : "localhost", colon + 1, &hints, &all);
    free(host);
    if (e != 0) {
        return false;
    }
    for (struct addrinfo *a = all; a != NULL; a = a->ai_next) {
        char text[INET6_ADDRSTRLEN];
        bool v4 = a->ai_family == AF_INET;
        if (getnameinfo(a->ai_addr, a->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST)) {
            continue;
        }
        *all_v4 = *all_v4 && v4;
        const char *comma = out->size > 0 ? "," : "";
        if (want_v6) {
            bytes_printf(out, "%s[%s%s]:%s", comma, v4 ? "::ffff:" : "", text, colon + 1);
        } else {
            bytes_printf(out, "%s%s:%s", comma, text, colon + 1);
        }
    }
    freeaddrinfo(all);
    return true;
}

/* The gRPC target of a comma-separated list, or NULL. */
static char *target_of(const char *addresses)
{
    if (strchr(addresses, ',') == NULL) {
        return strchr(addresses, ':') != NULL ? xstrdup(addresses) : NULL;
    }
    for (int want_v6 = 0; want_v6 < 2; want_v6++) {
        struct bytes out = {0};
        bool all_v4 = true;
        char *list = xstrdup(addresses), *save = NULL;
        for (char *one = strtok_r(list, ", ", &save); one != NULL;
             one = strtok_r(NULL, ", ", &save)) {
            if (!add_addresses(&out, one, want_v6, &all_v4)) {
                LOG_WARN(BUS, "cannot resolve an address; ignoring it address=%s", one);
            }
        }
        free(list);
        char *target = NULL;
        if (out.size > 0 && (all_v4 || want_v6)) {
            target = xasprintf("%s:%.*s", want_v6 ? "ipv6" : "ipv4", (int)out.size,
                               (const char *)out.data);
        }
        bytes_deinit(&out);
        if (target != NULL) {
            return target;
        }
    }
    return NULL;
}

enum thole_code bus_channel_new(const char *addresses, struct bus_channel **ret,
                                struct thole_status *st)
{
    return bus_channel_new_tls(addresses, NULL, ret, st);
}

enum thole_code bus_channel_new_tls(const char *addresses, struct bus_tls *tls,
                                    struct bus_channel **ret, struct thole_status *st)
{
    char *target = addresses != NULL ? target_of(addresses) : NULL;
    if (target == NULL) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "no usable address in \"%s\": use host:port[,host:port...]",
                          addresses != NULL ? addresses : "");
    }
    struct bus_channel *c = xcalloc(1, sizeof *c);
    bus__grpc_init();
    bus__loop_init(&c->loop, &clock_system);
    c->channel = bus__channel_open(target, false, tls, addresses);
    free(target);
    bus__loop_run(&c->loop, "bus-channel", NULL);
    *ret = c;
    return THOLE_OK;
}

void bus_channel_set_token(struct bus_channel *c, const char *token)
{
    bus__loop_set_token(&c->loop, token);
}

enum thole_code bus_check_token(const char *addresses, bool tls, struct thole_status *st)
{
    char *list = xstrdup(addresses), *save = NULL;
    enum thole_code code = THOLE_OK;
    for (char *one = strtok_r(list, ", ", &save); one != NULL && code == THOLE_OK && !tls;
         one = strtok_r(NULL, ", ", &save)) {
        if (!address_is_loopback(one)) {
            code = THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_TOKEN,
                              "a token is sent over TLS only, and %.80s is another machine: give "
                              "the CA of the hosts (tls-ca)",
                              one);
        }
    }
    free(list);
    return code;
}

/* Running calls end with CANCELLED. Streams must have been freed. */
void bus_channel_free(struct bus_channel *c)
{
    if (c == NULL) {
        return;
    }
    bus__loop_stop(&c->loop);
    grpc_channel_destroy(c->channel);
    bus__loop_deinit(&c->loop);
    free(c);
    bus__grpc_shutdown();
}

enum thole_code bus_channel_call(struct bus_channel *c, const char *path, struct slice request,
                                 uint32_t timeout_ms, struct buf **ret_reply,
                                 struct thole_status *st)
{
    const struct bufslice body = {NULL, request};
    return bus__unary_wait(&c->loop, c->channel, path, body, timeout_ms, ret_reply, NULL, st);
}

struct async_call {
    bus_reply_fn done;
    void *ctx;
};

static void async_done(void *ctx, const struct thole_status *st, grpc_byte_buffer *reply,
                       grpc_call *call)
{
    (void)call;
    struct async_call *a = ctx;
    struct bufslice body = {0};
    if (st->code == THOLE_OK) {
        body.owner = bus__buf_of(reply);
        body.bytes = (struct slice){body.owner->data, body.owner->size};
    }
    a->done(a->ctx, st, body);
    bufslice_unref(body);
    free(a);
}

void bus_channel_call_async(struct bus_channel *c, const char *path, struct bufslice request,
                            uint32_t timeout_ms, bus_reply_fn done, void *ctx)
{
    struct async_call *a = xcalloc(1, sizeof *a);
    a->done = done;
    a->ctx = ctx;
    if (bus__unary(&c->loop, c->channel, path, request, timeout_ms, async_done, a)) {
        return;
    }
    struct thole_status st;
    thole_status_set(&st, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, __FILE__, __LINE__,
                     "the channel was freed");
    async_done(a, &st, NULL, NULL);
}
