/* Accepting connections: our own listener with a thread, in front of gRPC's server.
 *
 * gRPC's own listener has no bound, and stops silently for good when accept fails once, for example
 * because the process has no descriptor left. This listener has a bound: of `max` connections the
 * last quarter is reserved for other hosts. A connection that takes a reserved place is on
 * probation: it must send the hello of a known peer soon, or it is evicted for the next connection.
 *
 * gRPC takes accepted sockets, with any credentials, through its "external" addresses. They are
 * handed over by an object with a virtual function. There is no C interface for it, so its layout
 * is declared here by the C++ ABI. */
#include <arpa/inet.h>
#include <errno.h>
#include <grpc/support/alloc.h>
#include <inttypes.h>
#include <linux/tcp.h> /* glibc's lacks tcpi_bytes_received */
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bus/bus_internal.h"

#define LISTENERS_MAX 8
#define BACKLOG 4096
#define SWEEP_NS (20 * NS_PER_MS) /* shortest time between two searches for closed connections */
#define PROBATION_NS (300 * NS_PER_MS) /* no connection is evicted sooner */
#define FAILED_PAUSE_MS 100
#define INTAKE_CHECK_MS 100
#define INTAKE_CHECK_MS_WATCHING 20
#define CONNECTIONS_PER_CHECK_MS 10 /* with many connections, checks are further apart */
#define INTAKE_FREE_BYTES_PER_S (UINT64_C(32) << 20)
#define MESSAGE_OVERHEAD_BYTES 256 /* headers and frames of a message, roughly */
#define CUTS_MAX 64                /* per check */
#define WASTED_MAX 1000            /* calls without a message that a connection may make ... */
#define WASTED_FREE_PER_CHECK 50   /* ... and how many of them each check forgives */

static METRIC_DEFINE_GAUGE(metric_open, "thole_bus_connections",
                           "Accepted connections, of clients and of other hosts");
static METRIC_DEFINE_COUNTER(metric_refused, "thole_bus_connections_refused_total",
                             "Connections closed at once because too many were open");
static METRIC_DEFINE_COUNTER(metric_accept_failed, "thole_bus_accept_failures_total",
                             "Failed accepts, for example without a free descriptor");

static METRIC_DEFINE_COUNTER(
    metric_cut, "thole_bus_connections_cut_total",
    "Connections closed because they sent much and completed few messages");

/* struct TcpServerFdHandler of gRPC 1.51: two destructors, then Handle. */
#define CORE_VERSION "29."
struct fd_handler {
    void (*const *vtable)(void);
};
typedef void (*handle_fn)(struct fd_handler *self, int listener_fd, int fd,
                          grpc_byte_buffer *pending);
#define HANDLE_SLOT 2

struct connection {
    int fd; /* owned by gRPC, which may close it; `inode` tells whether it was reused */
    ino_t inode;
    uint64_t accepted_ns;
    struct in6_addr ip;
    uint16_t port;
    bool peer;
    bool probation;
    uint64_t received; /* by the kernel, at the last check */
    uint64_t unread;   /* received lately, less what became messages */
    uint32_t wasted;   /* calls that ended without a message, lately */
};

struct bus_acceptor {
    struct bus *bus;
    struct fd_handler *handler; /* gRPC's */
    int listeners[LISTENERS_MAX];
    size_t listener_count;
    int wake;
    bool running;
    pthread_t thread;
    size_t max, max_strangers;
    uint64_t swept_ns;
    bool told_full, told_failed; /* log once per episode */
    uint64_t checked_ns, delivered_seen;
    uint64_t unread;            /* received lately on all connections, less what became messages */
    _Atomic uint64_t delivered; /* bytes of messages */
    _Atomic bool watching;      /* `unread` is high: deliveries are counted by connection */
    pthread_mutex_t mutex;      /* below */
    struct connection *all;
    size_t count;
};

/* ---- The table ------------------------------------------------------------------------------- */

static bool is_open(const struct connection *c)
{
    struct stat s;
    return fstat(c->fd, &s) == 0 && S_ISSOCK(s.st_mode) && s.st_ino == c->inode;
}

/* The mutex is held. */
static void sweep(struct bus_acceptor *a, uint64_t now_ns)
{
    if (a->swept_ns + SWEEP_NS > now_ns) {
        return;
    }
    a->swept_ns = now_ns;
    size_t left = 0;
    for (size_t i = 0; i < a->count; i++) {
        if (is_open(&a->all[i])) {
            a->all[left++] = a->all[i];
        }
    }
    metric_add(&metric_open, (int64_t)left - (int64_t)a->count);
    a->count = left;
}

static size_t strangers(const struct bus_acceptor *a)
{
    size_t n = 0;
    for (size_t i = 0; i < a->count; i++) {
        n += !a->all[i].peer;
    }
    return n;
}

/* The mutex is held. Evict the oldest connection whose probation has ended. gRPC sees the shutdown
 * and closes the socket. */
static bool turn_out(struct bus_acceptor *a, uint64_t now_ns)
{
    size_t victim = a->count;
    for (size_t i = 0; i < a->count; i++) {
        const struct connection *c = &a->all[i];
        if (c->probation && !c->peer && c->accepted_ns + PROBATION_NS <= now_ns &&
            (victim == a->count || c->accepted_ns < a->all[victim].accepted_ns)) {
            victim = i;
        }
    }
    if (victim == a->count) {
        return false;
    }
    if (is_open(&a->all[victim])) {
        shutdown(a->all[victim].fd, SHUT_RDWR);
    }
    a->all[victim] = a->all[--a->count];
    metric_add(&metric_open, -1);
    return true;
}

static void read_address(const struct sockaddr_storage *from, struct connection *c)
{
    if (from->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)from;
        c->ip = in6->sin6_addr;
        c->port = ntohs(in6->sin6_port);
    } else if (from->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)from;
        c->ip = (struct in6_addr){.s6_addr = {[10] = 0xff, [11] = 0xff}};
        memcpy(&c->ip.s6_addr[12], &in->sin_addr, 4);
        c->port = ntohs(in->sin_port);
    }
}

/* Enter the connection in the table; false: there is no room. */
static bool enter(struct bus_acceptor *a, int fd, const struct sockaddr_storage *from)
{
    struct stat s;
    uint64_t now_ns = clock_now(a->bus->clock);
    if (fstat(fd, &s) != 0) {
        return false;
    }
    pthread_mutex_lock(&a->mutex);
    if (a->count >= a->max_strangers) {
        sweep(a, now_ns);
    }
    bool probation = strangers(a) >= a->max_strangers;
    bool room = a->count < a->max || turn_out(a, now_ns);
    bool tell = probation && !a->told_full;
    a->told_full = probation;
    if (room) {
        struct connection *c = &a->all[a->count++];
        *c = (struct connection){
            .fd = fd, .inode = s.st_ino, .accepted_ns = now_ns, .probation = probation};
        read_address(from, c);
    }
    pthread_mutex_unlock(&a->mutex);
    if (tell) {
        LOG_WARN(
            BUS,
            "connection limit reached connections_max=%zu; accepting only other hosts until some "
            "connections end",
            a->max_strangers);
    }
    metric_add(room ? &metric_open : &metric_refused, 1);
    return room;
}

/* "ipv4:127.0.0.1:80" or "ipv6:%5B::1%5D:80" */
static bool parse_peer(const char *text, struct in6_addr *ret_ip, uint16_t *ret_port)
{
    char ip[INET6_ADDRSTRLEN + 8] = "::ffff:";
    const char *colon = strrchr(text, ':');
    bool v6 = strncmp(text, "ipv6:%5B", 8) == 0;
    const char *begin = text + (v6 ? 8 : 5), *end = colon != NULL ? colon - (v6 ? 3 : 0) : begin;
    size_t at = v6 ? 0 : strlen(ip);
    if (end <= begin || (size_t)(end - begin) >= sizeof ip - at) {
        return false;
    }
    memcpy(ip + at, begin, (size_t)(end - begin));
    ip[at + (size_t)(end - begin)] = '\0';
    *ret_port = (uint16_t)strtoul(colon + 1, NULL, 10);
    return inet_pton(AF_INET6, ip, ret_ip) == 1;
}

/* The mutex is held. */
static struct connection *find(struct bus_acceptor *a, const char *peer)
{
    struct in6_addr ip;
    uint16_t port;
    if (!parse_peer(peer, &ip, &port)) {
        return NULL;
    }
    for (size_t i = a->count; i-- > 0;) { /* newest first */
        if (a->all[i].port == port && memcmp(&a->all[i].ip, &ip, sizeof ip) == 0) {
            return &a->all[i];
        }
    }
    return NULL;
}

void bus__accept_peer(struct bus_acceptor *a, const char *peer)
{
    if (a == NULL) {
        return;
    }
    pthread_mutex_lock(&a->mutex);
    struct connection *c = find(a, peer);
    if (c != NULL) {
        c->peer = true;
    }
    pthread_mutex_unlock(&a->mutex);
}

/* ---- Intake ---------------------------------------------------------------------------------- */

/* gRPC lets each open call send a whole message, and cancels calls when its quota is used up: but
 * late. Its reclaimer waits behind the reads of the connection that floods, for a second and more,
 * while 200 MB and more come in. So the bytes that arrive are compared with the messages that come
 * of them. When more than the memory for callers did not become messages, the connections close
 * that sent most of it. What comes slowly is left to the quota, and so is what frames and headers
 * cost: both are within INTAKE_FREE_BYTES_PER_S. */

void bus__accept_delivered(struct bus_acceptor *a, grpc_call *call, size_t bytes)
{
    if (a == NULL) {
        return;
    }
    uint64_t n = bytes + MESSAGE_OVERHEAD_BYTES;
    atomic_fetch_add_explicit(&a->delivered, n, memory_order_relaxed);
    if (!atomic_load_explicit(&a->watching, memory_order_relaxed)) {
        return;
    }
    char *peer = grpc_call_get_peer(call);
    pthread_mutex_lock(&a->mutex);
    struct connection *c = find(a, peer);
    if (c != NULL) {
        c->unread -= n < c->unread ? n : c->unread;
    }
    pthread_mutex_unlock(&a->mutex);
    gpr_free(peer);
}

void bus__accept_wasted(struct bus_acceptor *a, grpc_call *call)
{
    if (a == NULL) {
        return;
    }
    char *peer = grpc_call_get_peer(call);
    pthread_mutex_lock(&a->mutex);
    struct connection *c = find(a, peer);
    bool cut = c != NULL && !c->peer && ++c->wasted == WASTED_MAX && is_open(c);
    if (cut) {
        metric_add(&metric_cut, 1);
        shutdown(c->fd, SHUT_RDWR);
    }
    pthread_mutex_unlock(&a->mutex);
    if (cut && bus__log_allowed(a->bus)) {
        LOG_WARN(BUS, "closing a connection that makes calls without a message address=%s", peer);
    }
    gpr_free(peer);
}

static uint64_t received_by(int fd)
{
    struct tcp_info info = {0};
    socklen_t size = sizeof info;
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 ? info.tcpi_bytes_received : 0;
}

/* The mutex is held. What all connections received since the last time. */
static uint64_t take_received(struct bus_acceptor *a)
{
    bool watching = atomic_load_explicit(&a->watching, memory_order_relaxed);
    uint64_t all = 0;
    for (size_t i = 0; i < a->count; i++) {
        struct connection *c = &a->all[i];
        uint64_t received = received_by(c->fd);
        uint64_t since = received > c->received && is_open(c) ? received - c->received : 0;
        c->received += since;
        c->wasted -= c->wasted < WASTED_FREE_PER_CHECK ? c->wasted : WASTED_FREE_PER_CHECK;
        c->unread = (watching ? c->unread : 0) + since;
        all += since;
    }
    return all;
}

/* The mutex is held. Clients before other hosts. */
static bool cut_one(struct bus_acceptor *a)
{
    struct connection *c = NULL;
    for (size_t i = 0; i < a->count; i++) {
        struct connection *d = &a->all[i];
        bool more =
            c == NULL || (c->peer && !d->peer) || (c->peer == d->peer && d->unread > c->unread);
        if (d->unread > 0 && more) {
            c = d;
        }
    }
    if (c == NULL) {
        return false;
    }
    if (is_open(c)) {
        metric_add(&metric_cut, 1);
        if (bus__log_allowed(a->bus)) {
            LOG_WARN(BUS,
                     "closing a connection that sent much without completing its messages "
                     "port=%u unread_bytes=%" PRIu64,
                     (unsigned)c->port, c->unread);
        }
        shutdown(c->fd, SHUT_RDWR);
    }
    a->unread -= c->unread < a->unread ? c->unread : a->unread;
    c->unread = 0;
    return true;
}

static uint64_t check_pause_ms(const struct bus_acceptor *a)
{
    bool watching = atomic_load_explicit(&a->watching, memory_order_relaxed);
    return (watching ? INTAKE_CHECK_MS_WATCHING : INTAKE_CHECK_MS) +
           a->count / CONNECTIONS_PER_CHECK_MS;
}

static void check_intake(struct bus_acceptor *a)
{
    uint64_t now_ns = clock_now(a->bus->clock);
    uint64_t elapsed_ns = now_ns - a->checked_ns;
    if (elapsed_ns < check_pause_ms(a) * NS_PER_MS) {
        return;
    }
    uint64_t limit = a->bus->o.memory_bytes;
    a->checked_ns = now_ns;
    pthread_mutex_lock(&a->mutex);
    sweep(a, now_ns);
    a->unread += take_received(a);
    uint64_t delivered = atomic_load_explicit(&a->delivered, memory_order_relaxed);
    uint64_t gone =
        delivered - a->delivered_seen + elapsed_ns / NS_PER_MS * INTAKE_FREE_BYTES_PER_S / 1000;
    a->delivered_seen = delivered;
    a->unread -= gone < a->unread ? gone : a->unread;
    int cuts = 0;
    while (cuts < CUTS_MAX && a->unread > limit && cut_one(a)) {
        cuts++;
    }
    atomic_store_explicit(&a->watching, a->unread > limit / 8, memory_order_relaxed);
    pthread_mutex_unlock(&a->mutex);
}

/* ---- The thread ------------------------------------------------------------------------------ */

static void hand_over(struct bus_acceptor *a, int listener, int fd)
{
    handle_fn handle = (handle_fn)a->handler->vtable[HANDLE_SLOT];
    handle(a->handler, listener, fd, NULL);
}

/* False: nothing to accept now, or (after a failure) wait before the next attempt. */
static bool accept_one(struct bus_acceptor *a, int listener, bool *ret_failed)
{
    struct sockaddr_storage from = {0};
    socklen_t size = sizeof from;
    int fd = accept4(listener, (struct sockaddr *)&from, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0 && !enter(a, fd, &from)) {
        close(fd);
    } else if (fd >= 0) {
        hand_over(a, listener, fd);
    }
    if (fd >= 0 || errno == EINTR || errno == ECONNABORTED) {
        return true;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
        return false;
    }
    metric_add(&metric_accept_failed, 1);
    if (!a->told_failed) {
        LOG_ERROR(BUS, "cannot accept connections: %s; retrying every %d ms", strerror(errno),
                  FAILED_PAUSE_MS);
    }
    a->told_failed = *ret_failed = true;
    return false;
}

static bool accept_all(struct bus_acceptor *a, const struct pollfd *fds)
{
    bool failed = false;
    for (size_t i = 0; i < a->listener_count && !failed; i++) {
        bool more = fds[i].revents != 0;
        while (more) {
            more = accept_one(a, a->listeners[i], &failed);
        }
    }
    return !failed;
}

static void *accept_main(void *ctx)
{
    struct bus_acceptor *a = ctx;
    struct pollfd fds[LISTENERS_MAX + 1];
    size_t n = a->listener_count;
    pthread_setname_np(pthread_self(), "accept");
    for (size_t i = 0; i < n; i++) {
        fds[i] = (struct pollfd){.fd = a->listeners[i], .events = POLLIN};
    }
    fds[n] = (struct pollfd){.fd = a->wake, .events = POLLIN};
    for (bool ok = true;;) {
        int pause_ms = a->count > 0 ? (int)check_pause_ms(a) : -1;
        (void)poll(ok ? fds : &fds[n], ok ? (nfds_t)n + 1 : 1, ok ? pause_ms : FAILED_PAUSE_MS);
        if (fds[n].revents) {
            return NULL;
        }
        check_intake(a);
        ok = accept_all(a, fds);
        if (ok && a->told_failed) {
            LOG_INFO(BUS, "accepting connections again");
        }
        a->told_failed = a->told_failed && !ok;
    }
}

/* ---- Listening ------------------------------------------------------------------------------- */

/* One address; 0 or errno. */
static int listen_one(struct bus_acceptor *a, const struct addrinfo *ai, bool alone, uint16_t *port)
{
    struct sockaddr_storage at = {0};
    socklen_t size = ai->ai_addrlen;
    memcpy(&at, ai->ai_addr, size);
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return errno == EAFNOSUPPORT ? 0 : errno; /* a family that this kernel lacks */
    }
    int on = 1, v6only = !alone, timeout_ms = BUS_KEEPALIVE_TIMEOUT_MS;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    /* Accepted connections inherit these options. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof timeout_ms);
    if (ai->ai_family == AF_INET6) {
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only, sizeof v6only);
    }
    in_port_t *number = ai->ai_family == AF_INET6 ? &((struct sockaddr_in6 *)&at)->sin6_port
                                                  : &((struct sockaddr_in *)&at)->sin_port;
    *number = htons(*port);
    if (bind(fd, (struct sockaddr *)&at, size) != 0 || listen(fd, BACKLOG) != 0 ||
        getsockname(fd, (struct sockaddr *)&at, &size) != 0) {
        int error = errno;
        close(fd);
        return error;
    }
    *port = ntohs(*number);
    a->listeners[a->listener_count++] = fd;
    return 0;
}

static enum thole_code listen_all(struct bus_acceptor *a, const char *host, const char *port,
                                  const char *address, uint16_t *ret_port, struct thole_status *st)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *all = NULL;
    int e = getaddrinfo(*host ? host : NULL, port, &hints, &all);
    if (e != 0) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "cannot listen on \"%s\": %s", address, gai_strerror(e));
    }
    int error = 0;
    bool alone = all != NULL && all->ai_next == NULL;
    *ret_port = (uint16_t)strtoul(port, NULL, 10);
    for (const struct addrinfo *ai = all; ai != NULL && !error && a->listener_count < LISTENERS_MAX;
         ai = ai->ai_next) {
        error = listen_one(a, ai, alone, ret_port);
    }
    freeaddrinfo(all);
    if (!error && a->listener_count == 0) {
        error = EAFNOSUPPORT;
    }
    if (error == 0) {
        return THOLE_OK;
    }
    if (error == EADDRINUSE) {
        return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_ADDRESS_IN_USE,
                          "cannot listen on \"%s\": another process uses this address", address);
    }
    return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                      "cannot listen on \"%s\": %s", address, strerror(error));
}

enum thole_code bus__accept_new(struct bus *b, const char *host, const char *port,
                                const char *address, struct bus_acceptor **ret, uint16_t *ret_port,
                                struct thole_status *st)
{
    if (strncmp(grpc_version_string(), CORE_VERSION, sizeof CORE_VERSION - 1) != 0) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_FORMAT,
                          "gRPC's core is version %s; this program works with %sx only",
                          grpc_version_string(), CORE_VERSION);
    }
    struct bus_acceptor *a = xcalloc(1, sizeof *a);
    a->bus = b;
    a->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ASSERT(a->wake >= 0);
    pthread_mutex_init(&a->mutex, NULL);
    a->max = b->o.connections_max;
    a->max_strangers = a->max - a->max / 4;
    a->all = xcalloc(a->max, sizeof *a->all);
    enum thole_code code = listen_all(a, host, port, address, ret_port, st);
    if (code != THOLE_OK) {
        bus__accept_free(a);
    } else {
        *ret = a;
    }
    return code;
}

static void *arg_copy(void *p)
{
    return p;
}

static void arg_destroy(void *p)
{
    (void)p;
}

static int arg_compare(void *p, void *q)
{
    return (p > q) - (p < q);
}

grpc_arg bus__accept_arg(struct bus_acceptor *a)
{
    static const grpc_arg_pointer_vtable plain = {arg_copy, arg_destroy, arg_compare};
    return (grpc_arg){.type = GRPC_ARG_POINTER,
                      .key = (char *)(uintptr_t)BUS_ACCEPT_ADDRESS,
                      .value.pointer = {&a->handler, &plain}};
}

bool bus__accept_ready(const struct bus_acceptor *a)
{
    return a->handler != NULL;
}

void bus__accept_start(struct bus_acceptor *a)
{
    int e = pthread_create(&a->thread, NULL, accept_main, a);
    ASSERT(e == 0);
    a->running = true;
}

void bus__accept_stop(struct bus_acceptor *a)
{
    uint64_t one = 1;
    if (a->running) {
        ssize_t n = write(a->wake, &one, sizeof one);
        ASSERT(n == sizeof one);
        pthread_join(a->thread, NULL);
    }
    a->running = false;
    while (a->listener_count > 0) {
        close(a->listeners[--a->listener_count]);
    }
    metric_add(&metric_open, -(int64_t)a->count);
    a->count = 0;
}

void bus__accept_free(struct bus_acceptor *a)
{
    if (a == NULL) {
        return;
    }
    bus__accept_stop(a);
    close(a->wake);
    pthread_mutex_destroy(&a->mutex);
    free(a->all);
    free(a);
}
