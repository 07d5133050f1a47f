/* Calls of services in JSON over the HTTP port.
 *
 *   request read -> call begun, connection suspended -> resumed by the call -> answer queued
 *   a stream: answer queued; its reader suspends the connection whenever no message is there
 *
 * Nothing waits on a thread. libmicrohttpd does not notice that the client of a suspended
 * connection has gone, so those of streams, and of calls that wait, are watched by an epoll of our
 * own, whose thread sleeps in it. Answers are turned into text on the polling thread.
 *
 * Who refers to an exchange: its request in libmicrohttpd, and its call. Exchanges refer to what
 * all calls share. */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "agent/doors/http_internal.h"
#include "base/assert.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/metrics.h"

/* etcd takes requests of 1.5 MiB, which base64 makes a third larger. */
#define BODY_BYTES_MAX (3 * MIB)
#define MEMORY_BYTES_MAX (256 * MIB) /* of all requests and answers */
#define STREAMS_MAX 384
#define MESSAGES_MAX 4096 /* in the body of one stream */
#define BLOCK_BYTES (16 * KIB)
#define PEER_BYTES 80
#define JSON_TYPE "application/json"

static METRIC_DEFINE_COUNTER(metric_calls, "thole_http_calls_total",
                             "Calls of services in JSON over HTTP");
static METRIC_DEFINE_GAUGE(metric_streams, "thole_http_streams", "Open streams over HTTP");

struct exchange {
    struct http_calls *calls;
    _Atomic uint32_t refs;
    struct http_route route;
    struct bus_call *call; /* polling thread; NULL before it has begun */
    struct bytes body;
    size_t counted; /* in calls->bytes */
    bool too_large, no_room;
    bool streams;     /* may last: counted in calls->streams, and watched for its client's end */
    struct bytes out; /* of a stream: what the reader gives next, from `given` on */
    size_t given;
    bool last; /* nothing comes after `out` */
    /* Under calls->lock: */
    struct exchange *next, **prev;
    uint64_t id;
    struct MHD_Connection *connection; /* NULL: the request is over */
    bool suspended, gone, watched;
};

static void calls_unref(struct http_calls *c)
{
    if (atomic_fetch_sub(&c->refs, 1) == 1) {
        close(c->hangups);
        close(c->stop_fd);
        pthread_mutex_destroy(&c->lock);
        free(c);
    }
}

static void exchange_unref(void *ctx)
{
    struct exchange *x = ctx;
    if (atomic_fetch_sub(&x->refs, 1) == 1) {
        bytes_deinit(&x->body);
        bytes_deinit(&x->out);
        calls_unref(x->calls);
        free(x);
    }
}

/* Counts memory of the exchange. False: there is too much in all. */
static bool count(struct exchange *x, size_t bytes)
{
    size_t all = atomic_fetch_add(&x->calls->bytes, bytes) + bytes;
    x->counted += bytes;
    return all <= MEMORY_BYTES_MAX;
}

/* ---- Suspending ------------------------------------------------------------------------------ */

/* With the lock held. */
static void resume(struct exchange *x)
{
    if (x->suspended && x->connection != NULL) {
        x->suspended = false;
        MHD_resume_connection(x->connection);
    }
}

static void wake(void *ctx)
{
    struct exchange *x = ctx;
    pthread_mutex_lock(&x->calls->lock);
    resume(x);
    pthread_mutex_unlock(&x->calls->lock);
}

/* With the lock held. */
static void watch_hangup(struct exchange *x)
{
    struct http_calls *c = x->calls;
    int fd = http__connection(x->connection)->fd;
    struct epoll_event e = {.events = EPOLLRDHUP | EPOLLONESHOT, .data.u64 = x->id};
    if (epoll_ctl(c->hangups, x->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &e) != 0) {
        x->gone = true; /* no memory: better than one that is never noticed */
    }
    x->watched = true;
}

/* Suspend until the call has something, or the client has gone. With the lock held. False: it has
 * gone. */
static bool suspend(struct exchange *x)
{
    if (x->streams && !x->gone) {
        watch_hangup(x);
    }
    if (x->gone || x->calls->stopping) {
        return false;
    }
    x->suspended = true;
    MHD_suspend_connection(x->connection);
    return true;
}

static void hung_up(struct http_calls *c, uint64_t id)
{
    pthread_mutex_lock(&c->lock);
    for (struct exchange *x = c->first; x != NULL; x = x->next) {
        if (x->id == id) {
            x->gone = true;
            resume(x);
        }
    }
    pthread_mutex_unlock(&c->lock);
}

static void *watch_hangups(void *ctx)
{
    struct http_calls *c = ctx;
    pthread_setname_np(pthread_self(), "http-hangups");
    for (;;) {
        struct epoll_event e;
        int n = epoll_wait(c->hangups, &e, 1, -1);
        if (n == 1 && e.data.u64 == 0) {
            return NULL;
        }
        if (n == 1) {
            hung_up(c, e.data.u64);
        } else if (n < 0 && errno != EINTR) {
            LOG_ERROR(DAEMON, "HTTP: epoll failed error=\"%s\"", strerror(errno));
            return NULL;
        }
    }
}

/* ---- Answers --------------------------------------------------------------------------------- */

static enum MHD_Result reply_error(struct exchange *x, struct MHD_Connection *connection,
                                   const struct thole_status *st, struct slice details)
{
    struct bytes body = {0};
    http__error_body(&x->route, st, details, false, &body);
    enum MHD_Result r =
        http__reply(connection, http__status_of(st->code), JSON_TYPE, bytes_slice(&body));
    bytes_deinit(&body);
    return r;
}

/* One answer as text, a line of a stream or a whole body. Takes the message. */
static bool append_answer(struct exchange *x, struct bufslice message, bool in_stream,
                          struct bytes *out)
{
    size_t before = out->size;
    if (in_stream) {
        bytes_append_str(out, "{\"result\":");
    }
    bool ok = proto_json_write(x->route.method.answer, message.bytes, x->route.etcd, out);
    bytes_append_str(out, in_stream ? "}\n" : "");
    bufslice_unref(message);
    if (!ok) {
        out->size = before;
    }
    return ok;
}

static enum MHD_Result reply_message(struct exchange *x, struct MHD_Connection *connection,
                                     struct bufslice message)
{
    struct bytes body = {0};
    struct thole_status st;
    if (!append_answer(x, message, false, &body)) {
        (void)THOLE_FAIL(&st, THOLE_INTERNAL, THOLE_REASON_NONE, "the answer does not decode");
    } else if (!count(x, body.size)) {
        (void)THOLE_FAIL(&st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_OUTCOME_UNKNOWN,
                         "the answer was dropped: the memory for unread answers is full");
    } else {
        return http__reply_text(connection, MHD_HTTP_OK, JSON_TYPE, &body);
    }
    bytes_deinit(&body);
    return reply_error(x, connection, &st, (struct slice){0});
}

/* Fills `out` with the next line: of a message, or of the end. */
static void next_line(struct exchange *x, enum bus_call_state state, struct bufslice message)
{
    const struct thole_status broken = {.code = THOLE_INTERNAL,
                                        .message = "an answer does not decode"};
    struct slice details = {0};
    bytes_clear(&x->out);
    x->given = 0;
    if (state == BUS_CALL_MESSAGE) {
        if (!append_answer(x, message, true, &x->out)) {
            http__error_body(&x->route, &broken, details, true, &x->out);
            x->last = true;
        }
        return;
    }
    ASSERT(state == BUS_CALL_ENDED);
    const struct thole_status *st = bus_call_status(x->call, &details);
    if (st->code != THOLE_OK) {
        http__error_body(&x->route, st, details, true, &x->out);
    }
    x->last = true;
}

/* libmicrohttpd asks for more of a stream. */
static ssize_t read_stream(void *ctx, uint64_t at, char *ret, size_t max)
{
    struct exchange *x = ctx;
    (void)at;
    while (x->given == x->out.size) {
        struct bufslice message = {0};
        if (x->last) {
            return MHD_CONTENT_READER_END_OF_STREAM;
        }
        pthread_mutex_lock(&x->calls->lock);
        enum bus_call_state state = bus_call_take(x->call, &message);
        bool waits = state == BUS_CALL_WAITS || state == BUS_CALL_BEGUN;
        bool suspended = waits && suspend(x);
        pthread_mutex_unlock(&x->calls->lock);
        if (waits) {
            return suspended ? 0 : MHD_CONTENT_READER_END_WITH_ERROR;
        }
        next_line(x, state, message);
    }
    size_t n = x->out.size - x->given < max ? x->out.size - x->given : max;
    memcpy(ret, x->out.data + x->given, n);
    x->given += n;
    return (ssize_t)n;
}

static enum MHD_Result reply_stream(struct exchange *x, struct MHD_Connection *connection)
{
    return http__respond(
        connection, MHD_HTTP_OK, JSON_TYPE,
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_BYTES, read_stream, x, NULL));
}

/* The call has begun: answer, or suspend the connection. */
static enum MHD_Result go_on(struct exchange *x, struct MHD_Connection *connection)
{
    struct bufslice message = {0};
    struct slice details = {0};
    const bool stream = x->route.method.answers;
    pthread_mutex_lock(&x->calls->lock);
    enum bus_call_state state = bus_call_take(x->call, &message);
    bool waits = state == BUS_CALL_WAITS || (state == BUS_CALL_BEGUN && !stream);
    bool suspended = waits && suspend(x);
    pthread_mutex_unlock(&x->calls->lock);
    if (waits) {
        return suspended ? MHD_YES : MHD_NO;
    }
    if (state == BUS_CALL_MESSAGE && !stream) {
        return reply_message(x, connection, message);
    }
    if (state == BUS_CALL_ENDED && bus_call_status(x->call, &details)->code != THOLE_OK) {
        return reply_error(x, connection, bus_call_status(x->call, &details), details);
    }
    if (state != BUS_CALL_BEGUN) {
        next_line(x, state, message);
    }
    return reply_stream(x, connection);
}

/* ---- Requests -------------------------------------------------------------------------------- */

/* In gRPC's notation. */
static void peer_of(struct MHD_Connection *connection, char ret[static PEER_BYTES])
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *a = info != NULL ? info->client_addr : NULL;
    char text[INET6_ADDRSTRLEN] = "?";
    if (a != NULL && a->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)a;
        (void)inet_ntop(AF_INET, &in->sin_addr, text, sizeof text);
        snprintf(ret, PEER_BYTES, "ipv4:%s:%u", text, (unsigned)ntohs(in->sin_port));
    } else if (a != NULL && a->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const void *)a;
        (void)inet_ntop(AF_INET6, &in->sin6_addr, text, sizeof text);
        snprintf(ret, PEER_BYTES, "ipv6:[%s]:%u", text, (unsigned)ntohs(in->sin6_port));
    } else {
        snprintf(ret, PEER_BYTES, "?");
    }
}

static const char *header(struct MHD_Connection *connection, const char *name)
{
    return MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);
}

static bool has_tls(struct MHD_Connection *connection)
{
    return MHD_get_connection_info(connection, MHD_CONNECTION_INFO_GNUTLS_SESSION) != NULL;
}

/* Is the part before the port "localhost" or an IP address? Whoever owns another name can let it
 * resolve to this machine, and a browser then takes this host for that site. */
static bool is_own_address(const char *host)
{
    struct in6_addr ip;
    char name[INET6_ADDRSTRLEN + 2];
    const char *colon = strrchr(host, ':');
    bool bracket = host[0] == '[';
    size_t n = colon != NULL && strchr(colon, ']') == NULL ? (size_t)(colon - host) : strlen(host);
    if (n >= sizeof name || n < 1 || (bracket && (n < 2 || host[n - 1] != ']'))) {
        return false;
    }
    memcpy(name, host + bracket, n - 2 * bracket);
    name[n - 2 * bracket] = '\0';
    return strcasecmp(name, "localhost") == 0 ||
           inet_pton(bracket ? AF_INET6 : AF_INET, name, &ip) == 1;
}

/* A page of another site must not call this host by the browser of somebody who may. Browsers name
 * the page's site; programs do not. */
static bool is_cross_site(struct MHD_Connection *connection)
{
    const char *origin = header(connection, MHD_HTTP_HEADER_ORIGIN);
    const char *host = header(connection, MHD_HTTP_HEADER_HOST);
    const char *site = origin != NULL ? strstr(origin, "://") : NULL;
    if (origin == NULL) {
        return false;
    }
    return site == NULL || host == NULL || strcmp(site + 3, host) != 0 ||
           (!has_tls(connection) && !is_own_address(host));
}

#define HEADERS_MAX 2

/* A token of ours is "authorization" for the services, with "Bearer" or, as etcd's clients send it,
 * without; any other one is a token of etcd's users. */
static size_t headers_of(struct exchange *x, struct MHD_Connection *connection,
                         struct bytes *authorization, struct bus_header ret[static HEADERS_MAX])
{
    const char *given = header(connection, MHD_HTTP_HEADER_AUTHORIZATION);
    const char *shard = header(connection, "Thole-Shard");
    size_t n = 0;
    if (given != NULL) {
        const char *token = strncasecmp(given, "Bearer ", 7) == 0 ? given + 7 : given;
        bool ours = !x->route.etcd || strncmp(token, "thole_", 6) == 0;
        bytes_append_str(authorization, ours && x->route.etcd ? "Bearer " : "");
        bytes_append_str(authorization, x->route.etcd ? token : given);
        ret[n++] =
            (struct bus_header){ours ? "authorization" : "token", bytes_slice(authorization)};
    }
    if (shard != NULL) {
        ret[n++] = (struct bus_header){"thole-shard", slice_str(shard)};
    }
    return n;
}

/* The messages in the body: their bytes one after the other in `ret`, and where each of at most
 * `max` ends. */
static enum thole_code read_messages(struct exchange *x, size_t max, struct bytes *ret,
                                     size_t *ends, size_t *ret_count, struct thole_status *st)
{
    struct slice rest = bytes_slice(&x->body);
    char why[200] = "something follows the request";
    bool ok = true;
    if (rest.size == 0 && !x->route.method.requests) {
        rest = slice_str("{}");
    }
    *ret_count = 0;
    while (ok && rest.size > 0 && *ret_count < max) {
        ok = proto_json_read(x->route.method.request, &rest, x->route.etcd, ret, why, sizeof why);
        ends[*ret_count] = ret->size;
        *ret_count += ok;
    }
    return ok && rest.size == 0 ? THOLE_OK
                                : THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                                             "request: %s", why);
}

static void begin_call(struct exchange *x, struct MHD_Connection *connection,
                       const struct bytes *bytes, const size_t *ends, size_t n)
{
    struct http_calls *c = x->calls;
    char peer[PEER_BYTES];
    struct bytes authorization = {0};
    struct bus_header headers[HEADERS_MAX];
    struct slice *messages = xcalloc(n + 1, sizeof *messages);
    for (size_t i = 0; i < n; i++) {
        size_t from = i > 0 ? ends[i - 1] : 0;
        messages[i] = slice_of(bytes->data + from, ends[i] - from);
    }
    peer_of(connection, peer);
    const struct bus_call_options o = {
        .path = x->route.path,
        .peer = peer,
        .headers = headers,
        .header_count = headers_of(x, connection, &authorization, headers),
        .messages = messages,
        .message_count = n,
        .stays_open = x->route.stays_open,
        .wake = wake,
        .released = exchange_unref,
        .ctx = x,
    };
    metric_add(&metric_calls, 1);
    atomic_fetch_add(&x->refs, 1);
    pthread_mutex_lock(&c->lock);
    x->id = ++c->next_id;
    x->connection = connection;
    x->next = c->first;
    x->prev = &c->first;
    if (x->next != NULL) {
        x->next->prev = &x->next;
    }
    c->first = x;
    pthread_mutex_unlock(&c->lock);
    http__connection(connection)->busy = true;
    x->call = bus_call_begin(c->bus, &o);
    bytes_deinit(&authorization);
    free(messages);
}

static bool may_last(const struct exchange *x)
{
    return x->route.method.answers || x->route.waits;
}

/* Before the body is read. */
static enum thole_code check_request(struct exchange *x, struct MHD_Connection *connection,
                                     struct thole_status *st)
{
    if (x->too_large) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_TOO_LARGE,
                          "etcdserver: request is too large");
    }
    if (x->no_room) {
        return THOLE_FAIL(st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_QUEUE_FULL,
                          "this host has too many bytes of waiting calls; retry after a pause");
    }
    if (is_cross_site(connection)) {
        return THOLE_FAIL(st, THOLE_PERMISSION_DENIED, THOLE_REASON_NO_RIGHT,
                          "a page of another site may not call this host");
    }
    if (may_last(x) && x->calls->streams >= STREAMS_MAX) {
        return THOLE_FAIL(st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_QUEUE_FULL,
                          "this host has too many streams over HTTP; retry after a pause");
    }
    return THOLE_OK;
}

static enum MHD_Result begin(struct exchange *x, struct MHD_Connection *connection)
{
    struct bytes bytes = {0};
    struct thole_status st;
    size_t n = 0, max = x->route.method.requests ? MESSAGES_MAX : 1;
    if (check_request(x, connection, &st) != THOLE_OK) {
        return reply_error(x, connection, &st, (struct slice){0});
    }
    size_t *ends = xcalloc(max, sizeof *ends);
    bool ok = read_messages(x, max, &bytes, ends, &n, &st) == THOLE_OK;
    bytes_deinit(&x->body);
    if (ok) {
        x->streams = may_last(x);
        x->calls->streams += x->streams;
        metric_add(&metric_streams, x->streams);
        begin_call(x, connection, &bytes, ends, n);
    }
    bytes_deinit(&bytes);
    free(ends);
    return ok ? go_on(x, connection) : reply_error(x, connection, &st, (struct slice){0});
}

static void take_body(struct exchange *x, const char *data, size_t size)
{
    if (x->too_large || x->no_room) {
        return; /* libmicrohttpd must read it to the end before it can be answered */
    }
    x->too_large = x->body.size + size > BODY_BYTES_MAX;
    x->no_room = !x->too_large && !count(x, size);
    if (x->too_large || x->no_room) {
        bytes_deinit(&x->body);
        x->body = (struct bytes){0};
    } else {
        bytes_append(&x->body, data, size);
    }
}

enum MHD_Result http__call(struct http_calls *c, struct MHD_Connection *connection,
                           const struct http_route *route, const char *body, size_t *size,
                           void **state)
{
    struct exchange *x = *state;
    if (x == NULL) {
        x = xcalloc(1, sizeof *x);
        x->calls = c;
        atomic_fetch_add(&c->refs, 1);
        atomic_init(&x->refs, 1);
        x->route = *route;
        *state = x;
        return MHD_YES;
    }
    if (*size > 0) {
        take_body(x, body, *size);
        *size = 0;
        return MHD_YES;
    }
    return x->call == NULL ? begin(x, connection) : go_on(x, connection);
}

void http__call_over(struct http_calls *c, void *state)
{
    struct exchange *x = state;
    if (x->call != NULL) {
        pthread_mutex_lock(&c->lock);
        struct http_connection *n = http__connection(x->connection);
        if (x->watched) {
            (void)epoll_ctl(c->hangups, EPOLL_CTL_DEL, n->fd, NULL);
        }
        n->busy = false;
        x->connection = NULL;
        *x->prev = x->next;
        if (x->next != NULL) {
            x->next->prev = x->prev;
        }
        pthread_mutex_unlock(&c->lock);
        bus_call_release(x->call);
    }
    c->streams -= x->streams;
    metric_add(&metric_streams, -(int64_t)x->streams);
    atomic_fetch_sub(&c->bytes, x->counted);
    exchange_unref(x);
}

/* ---- Life ------------------------------------------------------------------------------------ */

struct http_calls *http__calls_new(struct bus *bus)
{
    struct epoll_event stop = {.events = EPOLLIN, .data.u64 = 0};
    struct http_calls *c = xcalloc(1, sizeof *c);
    c->bus = bus;
    atomic_init(&c->refs, 1);
    pthread_mutex_init(&c->lock, NULL);
    c->hangups = epoll_create1(EPOLL_CLOEXEC);
    c->stop_fd = eventfd(0, EFD_CLOEXEC);
    ASSERT(c->hangups >= 0 && c->stop_fd >= 0);
    int rc = epoll_ctl(c->hangups, EPOLL_CTL_ADD, c->stop_fd, &stop);
    ASSERT(rc == 0);
    rc = pthread_create(&c->thread, NULL, watch_hangups, c);
    ASSERT(rc == 0);
    return c;
}

void http__calls_begin(struct http_calls *c)
{
    pthread_mutex_lock(&c->lock);
    c->stopping = false;
    pthread_mutex_unlock(&c->lock);
}

void http__calls_end(struct http_calls *c)
{
    pthread_mutex_lock(&c->lock);
    c->stopping = true;
    for (struct exchange *x = c->first; x != NULL; x = x->next) {
        resume(x);
    }
    pthread_mutex_unlock(&c->lock);
}

void http__calls_free(struct http_calls *c)
{
    uint64_t one = 1;
    ssize_t n = write(c->stop_fd, &one, sizeof one);
    ASSERT(n == sizeof one && c->first == NULL);
    pthread_join(c->thread, NULL);
    calls_unref(c); /* a call that was released may be ending still */
}
