/* The HTTP port, with libmicrohttpd. See http.h.
 *
 * libmicrohttpd stops accepting at its limit of connections. So that silent connections cannot keep
 * a probe out, we stay below that limit: a new connection ends the one that has been silent for the
 * longest time. */
#include "agent/doors/http_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <thole/thole.h>
#include <unistd.h>

#include "agent/core/agent.h"
#include "agent/lib/api_agent.h"
#include "agent/services/services.h"
#include "base/address.h"
#include "base/assert.h"
#include "base/buf.h"
#include "base/log.h"
#include "base/metrics.h"

#define CONNECTIONS_MAX 512 /* our limit; libmicrohttpd's is higher */
#define CONNECTIONS_LIMIT (2 * CONNECTIONS_MAX)
#define SILENCE_S_MAX 10u
#define BACKLOG 128
#define CIPHERS "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"

struct http {
    struct thole *host;
    struct http_calls *calls;
    struct MHD_Daemon *daemon;
    int listener;          /* ours, and the daemons' */
    char *cert, *key;      /* PEM, of the running daemon; NULL: plain text */
    uint64_t certificates; /* their number, see thole_tls_pem */
    char *address;
    struct http_connection *oldest,
        *newest;  /* used by the polling thread only, like the fields below */
    size_t count; /* connections not being ended */
};

static METRIC_DEFINE_COUNTER(metric_cut, "thole_http_cut_connections_total",
                             "Connections of the HTTP port that were closed to make room");

#define TEXT_PLAIN "text/plain; charset=utf-8"

enum MHD_Result http__respond(struct MHD_Connection *c, unsigned status, const char *type,
                              struct MHD_Response *r)
{
    if (r == NULL) {
        return MHD_NO;
    }
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    MHD_add_response_header(r, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
    enum MHD_Result result = MHD_queue_response(c, status, r);
    MHD_destroy_response(r);
    return result;
}

enum MHD_Result http__reply(struct MHD_Connection *c, unsigned status, const char *type,
                            struct slice body)
{
    return http__respond(c, status, type,
                         MHD_create_response_from_buffer(body.size, (void *)(uintptr_t)body.data,
                                                         MHD_RESPMEM_MUST_COPY));
}

enum MHD_Result http__reply_text(struct MHD_Connection *c, unsigned status, const char *type,
                                 struct bytes *body)
{
    /* Give back the room that the text did not take: it lives until the client has read it. */
    void *text = xrealloc(body->data, body->size);
    struct MHD_Response *r =
        MHD_create_response_from_buffer(body->size, text, MHD_RESPMEM_MUST_FREE);
    if (r == NULL) {
        free(text);
    }
    *body = (struct bytes){0};
    return http__respond(c, status, type, r);
}

static enum MHD_Result get_metrics(struct http *h, struct MHD_Connection *c)
{
    char *text = thole_metrics(h->host);
    struct bytes body = {.data = (uint8_t *)text, .size = strlen(text)};
    return http__reply_text(c, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8", &body);
}

static enum MHD_Result get_ready(struct http *h, struct MHD_Connection *c)
{
    char text[600];
    struct thole_status st;
    struct thole_host_state s = {.size = sizeof s};
    if (thole_host_state(h->host, &s, &st) != THOLE_OK) {
        return http__reply(c, MHD_HTTP_SERVICE_UNAVAILABLE, TEXT_PLAIN, slice_str(st.message));
    }
    if (MHD_lookup_connection_value_n(c, MHD_GET_ARGUMENT_KIND, "verbose", 7, NULL, NULL) ==
        MHD_YES) {
        snprintf(text, sizeof text,
                 "[%c] member of a cluster\n[%c] replica of shard zero runs\n"
                 "[%c] ready%s%s\nreadyz check %s\n",
                 s.member ? '+' : '-', s.registry ? '+' : '-', s.ready ? '+' : '-',
                 s.ready ? "" : ": ", s.waiting_for, s.ready ? "passed" : "failed");
    } else {
        snprintf(text, sizeof text, "%s%s\n", s.ready ? "ok" : "not ready: ", s.waiting_for);
    }
    return http__reply(c, s.ready ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE, TEXT_PLAIN,
                       slice_str(text));
}

static enum MHD_Result get_version(struct http *h, struct MHD_Connection *c)
{
    char text[512];
    snprintf(text, sizeof text,
             "{\"etcdserver\":\"" ETCD_VERSION "\",\"etcdcluster\":\"" ETCD_CLUSTER "\","
             "\"version\":\"%s\",\"host\":\"%s\",\"address\":\"%s\"}\n",
             thole_version(), thole_host_name(h->host), thole_address(h->host));
    return http__reply(c, MHD_HTTP_OK, "application/json", slice_str(text));
}

/* As etcd's clients ask for it. */
static enum MHD_Result get_health(struct http *h, struct MHD_Connection *c)
{
    struct thole_host_state s = {.size = sizeof s};
    struct thole_status st;
    bool ready = thole_host_state(h->host, &s, &st) == THOLE_OK && s.ready;
    return http__reply(c, ready ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE, "application/json",
                       slice_str(ready ? "{\"health\":\"true\"}" : "{\"health\":\"false\"}"));
}

/* ---- Connections ----------------------------------------------------------------------------- */

/* Ends a connection that has sent no request, or else one that waits for the next request. Those
 * with a call are spared: their number has limits of its own. */
static void cut_oldest(struct http *h)
{
    struct http_connection *victim = NULL;
    for (struct http_connection *n = h->oldest; n != NULL; n = n->newer) {
        if (!n->cut && !n->busy && (victim == NULL || (victim->asked && !n->asked))) {
            victim = n;
        }
    }
    if (victim == NULL) {
        return;
    }
    victim->cut = true;
    h->count--;
    shutdown(victim->fd, SHUT_RDWR); /* libmicrohttpd sees the end and closes the socket */
    metric_add(&metric_cut, 1);
}

static void begun(struct http *h, struct MHD_Connection *c, void **context)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (info == NULL) {
        return;
    }
    if (h->count >= CONNECTIONS_MAX) {
        cut_oldest(h);
    }
    struct http_connection *n = xcalloc(1, sizeof *n);
    n->fd = info->connect_fd;
    n->older = h->newest;
    if (n->older != NULL) {
        n->older->newer = n;
    } else {
        h->oldest = n;
    }
    h->newest = n;
    h->count++;
    *context = n;
}

static void ended(struct http *h, struct http_connection *n)
{
    if (n->older != NULL) {
        n->older->newer = n->newer;
    } else {
        h->oldest = n->newer;
    }
    if (n->newer != NULL) {
        n->newer->older = n->older;
    } else {
        h->newest = n->older;
    }
    h->count -= !n->cut;
    free(n);
}

static void on_connection(void *ctx, struct MHD_Connection *c, void **context,
                          enum MHD_ConnectionNotificationCode what)
{
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        begun(ctx, c, context);
    } else if (*context != NULL) {
        ended(ctx, *context);
    }
}

struct http_connection *http__connection(struct MHD_Connection *c)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    ASSERT(info != NULL && info->socket_context != NULL);
    return info->socket_context;
}

/* ---- The daemon ------------------------------------------------------------------------------ */

static enum MHD_Result get(struct http *h, struct MHD_Connection *c, const char *url)
{
    if (strcmp(url, "/metrics") == 0) {
        return get_metrics(h, c);
    }
    if (strcmp(url, "/livez") == 0) {
        return http__reply(c, MHD_HTTP_OK, TEXT_PLAIN, slice_str("ok\n"));
    }
    if (strcmp(url, "/readyz") == 0) {
        return get_ready(h, c);
    }
    if (strcmp(url, "/health") == 0) {
        return get_health(h, c);
    }
    if (strcmp(url, "/version") == 0) {
        return get_version(h, c);
    }
    if (strcmp(url, "/") == 0 || strncmp(url, "/ui", 3) == 0) {
        return http__ui(c, url);
    }
    return http__reply(
        c, MHD_HTTP_NOT_FOUND, TEXT_PLAIN,
        slice_str("there are GET /ui/ /metrics /livez /readyz?verbose /health /version, "
                  "and POST /v1/SERVICE/CALL and /v3/...\n"));
}

static enum MHD_Result post(struct http *h, struct MHD_Connection *c, const char *url,
                            const char *body, size_t *size, void **state)
{
    struct http_route route;
    if (*state == NULL && !http_route_find(url, &route)) {
        return http__reply(
            c, MHD_HTTP_NOT_FOUND, "application/json",
            slice_str("{\"error\":\"Not Found\",\"message\":\"there is no such call\","
                      "\"code\":5}\n"));
    }
    return http__call(h->calls, c, &route, body, size, state);
}

static enum MHD_Result answer(void *ctx, struct MHD_Connection *c, const char *url,
                              const char *method, const char *version, const char *upload,
                              size_t *upload_size, void **state)
{
    (void)version;
    http__connection(c)->asked = true;
    if (strcmp(method, MHD_HTTP_METHOD_POST) == 0) {
        return post(ctx, c, url, upload, upload_size, state);
    }
    if (strcmp(method, MHD_HTTP_METHOD_GET) == 0 || strcmp(method, MHD_HTTP_METHOD_HEAD) == 0) {
        return get(ctx, c, url);
    }
    return http__reply(c, MHD_HTTP_METHOD_NOT_ALLOWED, TEXT_PLAIN,
                       slice_str("only GET and POST\n"));
}

static void over(void *ctx, struct MHD_Connection *c, void **state,
                 enum MHD_RequestTerminationCode why)
{
    struct http *h = ctx;
    (void)c;
    (void)why;
    if (*state != NULL) {
        http__call_over(h->calls, *state);
    }
}

/* A socket, or -1 with errno. */
static int listen_on(const struct addrinfo *ai, uint16_t *ret_port)
{
    struct sockaddr_storage at = {0};
    socklen_t size = sizeof at;
    char port[8] = "0";
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;
    if (fd < 0) {
        return -1;
    }
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0 ||
        getsockname(fd, (struct sockaddr *)&at, &size) != 0 ||
        getnameinfo((struct sockaddr *)&at, size, NULL, 0, port, sizeof port, NI_NUMERICSERV)) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    *ret_port = (uint16_t)strtoul(port, NULL, 10);
    return fd;
}

/* Listens on the first address of the name that this machine has, and sets h->address. */
static enum thole_code listen_at(struct http *h, const char *address, struct thole_status *st)
{
    struct address_parts parts;
    struct addrinfo *all = NULL;
    const struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    uint16_t port = 0;
    bool ok = address_split(slice_str(address), &parts);
    ASSERT(ok); /* address_check passed */
    int rc = getaddrinfo(parts.host[0] != '\0' ? parts.host : NULL, parts.port, &hints, &all);
    if (rc != 0) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "http address \"%.64s\": %s", address, gai_strerror(rc));
    }
    int error = EADDRNOTAVAIL;
    for (const struct addrinfo *ai = all;
         ai != NULL && (error == EADDRNOTAVAIL || error == EAFNOSUPPORT); ai = ai->ai_next) {
        h->listener = listen_on(ai, &port);
        error = h->listener < 0 ? errno : 0;
    }
    freeaddrinfo(all);
    if (error == EADDRINUSE) {
        return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_ADDRESS_IN_USE,
                          "cannot listen for http on \"%s\": another process uses this address",
                          address);
    }
    if (error != 0) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "cannot listen for http on \"%s\": %s", address, strerror(error));
    }
    h->address = xasprintf(parts.bracket ? "[%s]:%u" : "%s:%u", parts.host, (unsigned)port);
    return THOLE_OK;
}

/* libmicrohttpd closes the socket that it is given, so it gets a copy. */
static bool start_daemon(struct http *h)
{
    int fd = fcntl(h->listener, F_DUPFD_CLOEXEC, 0);
    struct MHD_OptionItem plain[] = {{MHD_OPTION_END, 0, NULL}};
    struct MHD_OptionItem secure[] = {{MHD_OPTION_HTTPS_MEM_CERT, 0, NULL},
                                      {MHD_OPTION_HTTPS_MEM_KEY, 0, NULL},
                                      {MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)(uintptr_t)CIPHERS},
                                      {MHD_OPTION_END, 0, NULL}};
    free(h->cert);
    free(h->key);
    h->cert = h->key = NULL;
    if (fd < 0) {
        return false;
    }
    h->certificates = thole_tls_pem(h->host, &h->cert, &h->key);
    bool tls = h->certificates != 0;
    if (tls) {
        secure[0].ptr_value = h->cert;
        secure[1].ptr_value = h->key;
    }
    http__calls_begin(h->calls);
    h->oldest = h->newest = NULL;
    h->count = 0;
    unsigned flags = MHD_USE_AUTO | MHD_USE_INTERNAL_POLLING_THREAD | MHD_ALLOW_SUSPEND_RESUME |
                     (tls ? MHD_USE_TLS : 0);
    h->daemon = MHD_start_daemon(
        flags, 0, NULL, NULL, answer, h, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)CONNECTIONS_LIMIT, MHD_OPTION_CONNECTION_TIMEOUT, SILENCE_S_MAX,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, h, MHD_OPTION_NOTIFY_COMPLETED, over, h,
        MHD_OPTION_ARRAY, tls ? secure : plain, MHD_OPTION_END);
    if (h->daemon == NULL) {
        close(fd);
    }
    return h->daemon != NULL;
}

enum thole_code http_new(struct thole *host, const char *address, struct http **ret,
                         struct thole_status *st)
{
    struct http *h = xcalloc(1, sizeof *h);
    h->host = host;
    h->listener = -1;
    h->calls = http__calls_new(agent_bus(api_agent(host)));
    enum thole_code code = listen_at(h, address, st);
    if (code == THOLE_OK && !start_daemon(h)) {
        code =
            THOLE_FAIL(st, THOLE_INTERNAL, THOLE_REASON_NONE, "cannot serve http on %s", address);
    }
    if (code != THOLE_OK) {
        http_free(h);
        return code;
    }
    *ret = h;
    return THOLE_OK;
}

/* The listener stays, so newcomers wait; connections end, as after any answer. */
void http_renew(struct http *h)
{
    if (thole_tls_pem(h->host, NULL, NULL) == h->certificates) {
        return;
    }
    if (h->daemon != NULL) {
        /* Take the listener away first: the daemon's end would shut it down, and so the copies. */
        MHD_socket fd = MHD_quiesce_daemon(h->daemon);
        http__calls_end(h->calls);
        MHD_stop_daemon(h->daemon);
        h->daemon = NULL;
        if (fd != MHD_INVALID_SOCKET) {
            close(fd);
        }
    }
    if (!start_daemon(h)) {
        LOG_ERROR(DAEMON, "the HTTP port cannot use the new certificates; it is closed");
    }
}

void http_free(struct http *h)
{
    if (h == NULL) {
        return;
    }
    if (h->daemon != NULL) {
        http__calls_end(h->calls);
        MHD_stop_daemon(h->daemon);
    }
    http__calls_free(h->calls);
    if (h->listener >= 0) {
        close(h->listener);
    }
    free(h->cert);
    free(h->key);
    free(h->address);
    free(h);
}

const char *http_address(const struct http *h)
{
    return h->address;
}
