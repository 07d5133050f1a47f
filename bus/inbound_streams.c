/* Streams that peers and clients opened: which are accepted, and when they end. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bus/bus_internal.h"
#include "bus/hello_rules.h"

#define SEEN_MAX 1024 /* remembered host ids that are not peers */

/* Streams with a reference each, for use after the lock was released. */
struct inbounds {
    struct bus_inbound **all;
    size_t count;
};

static void inbounds_add(struct inbounds *list, struct bus_inbound *in)
{
    if ((list->count & (list->count - 1)) == 0) { /* a power of two: full */
        list->all =
            xrealloc(list->all, (list->count ? list->count * 2 : 1) * sizeof(struct bus_inbound *));
    }
    bus__inbound_ref(in);
    list->all[list->count++] = in;
}

static void inbounds_deinit(struct inbounds *list)
{
    for (size_t i = 0; i < list->count; i++) {
        bus__inbound_unref(list->all[i]);
    }
    free(list->all);
}

/* ---- Whom to accept -------------------------------------------------------------------------- */

/* The mutex is held. Moves the entry to the front of the list: the last one is the least recently
 * used. */
static struct bus_seen *seen_of(struct bus *b, const struct uuid *host)
{
    struct bus_seen **at = &b->seen;
    while (*at != NULL && !uuid_equal(&(*at)->host, host)) {
        at = &(*at)->next;
    }
    struct bus_seen *s = *at;
    if (s != NULL) {
        *at = s->next;
        s->next = b->seen;
        b->seen = s;
    }
    return s;
}

/* The mutex is held. Callers can invent host ids, so those of hosts that are not peers are
 * remembered only up to a bound. */
static struct bus_seen *seen_add(struct bus *b, const struct uuid *host)
{
    struct bus_seen **victim = NULL;
    for (struct bus_seen **at = &b->seen; *at != NULL && b->seen_count >= SEEN_MAX;
         at = &(*at)->next) {
        if (!bus__peer_known(b, &(*at)->host)) {
            victim = at;
        }
    }
    struct bus_seen *s = victim != NULL ? *victim : xcalloc(1, sizeof *s);
    if (victim != NULL) {
        *victim = s->next;
    } else {
        b->seen_count++;
    }
    *s = (struct bus_seen){.next = b->seen, .host = *host};
    b->seen = s;
    return s;
}

static void end_older(struct bus *b, const struct uuid *host, uint64_t incarnation)
{
    struct inbounds found = {0};
    struct thole_status st;
    thole_status_set(&st, THOLE_FAILED_PRECONDITION, THOLE_REASON_STALE_INCARNATION, __FILE__,
                     __LINE__, "a newer process of this host has connected");
    pthread_mutex_lock(&b->mutex);
    for (struct bus_inbound *in = b->inbound; in != NULL; in = in->next) {
        if (uuid_equal(&in->hello.host, host) && in->hello.incarnation < incarnation) {
            in->hello.incarnation = UINT64_MAX; /* only once */
            inbounds_add(&found, in);
        }
    }
    pthread_mutex_unlock(&b->mutex);
    for (size_t i = 0; i < found.count; i++) {
        bus__inbound_end(found.all[i], &st);
    }
    inbounds_deinit(&found);
}

void bus__seen(struct bus *b, const struct bus_hello *h)
{
    pthread_mutex_lock(&b->mutex);
    struct bus_seen *s = seen_of(b, &h->host);
    if (s == NULL) {
        s = seen_add(b, &h->host);
    }
    bool newer = h->incarnation > s->incarnation;
    bool known = s->incarnation > 0;
    if (newer) {
        s->incarnation = h->incarnation;
        s->lineage = h->lineage;
        memcpy(s->address, h->address, sizeof s->address);
    }
    pthread_mutex_unlock(&b->mutex);
    if (newer && known) {
        end_older(b, &h->host, h->incarnation);
    }
}

static enum thole_code check_cluster(struct bus *b, const struct bus_hello *h, bool stream,
                                     struct thole_status *st)
{
    struct uuid ours;
    bus__cluster(b, &ours);
    return hello_check_cluster(&ours, &h->cluster, !uuid_is_nil(&h->host), stream, st);
}

static bool is_connected(struct bus *b, const struct uuid *host, uint64_t incarnation)
{
    bool found = false;
    pthread_mutex_lock(&b->mutex);
    for (const struct bus_inbound *in = b->inbound; in != NULL && !found; in = in->next) {
        found = uuid_equal(&in->hello.host, host) && in->hello.incarnation == incarnation;
    }
    pthread_mutex_unlock(&b->mutex);
    return found || bus_peer_up(b, host);
}

static void forget_start(struct bus *b, const struct uuid *host, uint64_t incarnation)
{
    pthread_mutex_lock(&b->mutex);
    struct bus_seen *s = seen_of(b, host);
    if (s != NULL && s->incarnation == incarnation) {
        s->incarnation = 0;
    }
    pthread_mutex_unlock(&b->mutex);
    end_older(b, host, incarnation + 1);
}

enum thole_code bus__check_start(struct bus *b, const struct bus_hello *h, struct thole_status *st)
{
    struct bus_seen seen = {0};
    struct recorded_start recorded = {0};
    pthread_mutex_lock(&b->mutex);
    const struct bus_seen *s = seen_of(b, &h->host);
    if (s != NULL) {
        seen = *s;
    }
    pthread_mutex_unlock(&b->mutex);
    if (seen.incarnation > 0 && b->o.handler.recorded != NULL) {
        recorded.asked = true;
        recorded.found = b->o.handler.recorded(b->o.handler.ctx, &h->host, &recorded.incarnation,
                                               &recorded.number);
    }
    struct known_start known = {
        .incarnation = seen.incarnation, .number = seen.lineage.start, .address = seen.address};
    enum known_verdict v = hello_judge_known(&recorded, &seen.lineage, &known);
    if (v == KNOWN_IS_FORGOTTEN ||
        (v == KNOWN_STAYS_IF_CONNECTED && !is_connected(b, &h->host, seen.incarnation))) {
        forget_start(b, &h->host, seen.incarnation);
        known = (struct known_start){.address = ""};
    }
    return hello_check_start(&known, h->incarnation, &h->lineage, h->address, st);
}

static bool same_cluster(struct bus *b, const struct bus_hello *h)
{
    struct uuid ours;
    bus__cluster(b, &ours);
    return !uuid_is_nil(&ours) && uuid_equal(&ours, &h->cluster);
}

void bus__met(struct bus *b, const struct bus_hello *h)
{
    if (b->o.handler.met != NULL && !uuid_is_nil(&h->host) && same_cluster(b, h) &&
        bus__check_start(b, h, NULL) == THOLE_OK) {
        b->o.handler.met(b->o.handler.ctx, &h->host, h->incarnation, h->address);
    }
}

enum thole_code bus__check_host(struct bus *b, const struct bus_hello *h,
                                const struct bus_certificate *c, const char *address,
                                struct thole_status *st)
{
    bool secure = b->o.tls != NULL;
    if (uuid_is_nil(&h->host)) {
        return THOLE_OK; /* a client: what it may do is another question */
    }
    if (secure && (c == NULL || !c->c.host)) {
        return THOLE_FAIL(st, THOLE_PERMISSION_DENIED, THOLE_REASON_HOSTS_ONLY,
                          "only a host may speak as one, and %s%.80s%s",
                          c == NULL ? "no certificate was shown" : "the certificate is that of \"",
                          c == NULL ? "" : c->c.name, c == NULL ? "" : "\", a user");
    }
    if (b->o.handler.admit == NULL || !same_cluster(b, h)) {
        return THOLE_OK;
    }
    const struct bus_identity who = {.kind = BUS_HOST,
                                     .secure = secure,
                                     .host_id = h->host,
                                     .name = c != NULL ? c->c.name : "",
                                     .address = address};
    return b->o.handler.admit(b->o.handler.ctx, &who, h->incarnation, &h->lineage, st);
}

enum thole_code bus__admit(struct bus *b, const struct bus_hello *h,
                           const struct bus_certificate *c, const char *address, bool stream,
                           struct thole_status *st)
{
    if (!uuid_is_nil(&h->callee) && !uuid_equal(&h->callee, &b->o.host_id)) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_WRONG_HOST,
                          "another host has this address now");
    }
    enum thole_code code = check_cluster(b, h, stream, st);
    if (code != THOLE_OK || uuid_is_nil(&h->host)) {
        return code;
    }
    const bool secure = b->o.tls != NULL; /* then whose certificate it is comes first */
    code = secure ? bus__check_host(b, h, c, address, st) : THOLE_OK;
    if (code == THOLE_OK) {
        code = bus__check_start(b, h, st);
    }
    if (code != THOLE_OK) {
        return code;
    }
    if (uuid_equal(&h->host, &b->o.host_id)) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_WRONG_HOST,
                          "the caller has the host id of the callee; is its disk a copy?");
    }
    code = secure ? THOLE_OK : bus__check_host(b, h, c, address, st);
    if (code != THOLE_OK) {
        return code;
    }
    if (stream) {
        bus__seen(b, h);
    }
    bus__met(b, h);
    return THOLE_OK;
}

/* ---- The streams ----------------------------------------------------------------------------- */

void bus__inbound_ref(struct bus_inbound *in)
{
    atomic_fetch_add_explicit(&in->refs, 1, memory_order_relaxed);
}

void bus__inbound_unref(struct bus_inbound *in)
{
    if (!bus__drop(&in->refs)) {
        return;
    }
    ASSERT(in->requests.count == 0);
    map_deinit(&in->requests);
    bus__charge(in->bus, &in->charged, 0);
    bus__pipe_unref(in->pipe);
    pthread_mutex_destroy(&in->mutex);
    struct bus *b = in->bus;
    free(in);
    bus__unref(b);
}

static void forget(void *data)
{
    struct bus_inbound *in = data;
    pthread_mutex_lock(&in->bus->mutex);
    *in->prev = in->next;
    if (in->next != NULL) {
        in->next->prev = in->prev;
    }
    pthread_mutex_unlock(&in->bus->mutex);
    bus__inbound_unref(in);
}

static void gone(void *ctx)
{
    struct bus_inbound *in = ctx;
    bus__inbound_end(in, NULL);
    bus__request_cancel_all(in);
}

struct bus_inbound *bus__inbound_of(struct bus *b, struct bus_rpc *rpc, bool lane)
{
    struct bus_inbound *in = bus_rpc_data(rpc);
    if (in != NULL) {
        return in;
    }
    in = xcalloc(1, sizeof *in);
    in->bus = b;
    bus__ref(b);
    in->rpc = rpc;
    in->pipe = bus__pipe_ref(rpc->pipe);
    in->lane = lane;
    atomic_init(&in->refs, 1);
    pthread_mutex_init(&in->mutex, NULL);
    in->hello.incarnation = UINT64_MAX;
    pthread_mutex_lock(&b->mutex);
    in->next = b->inbound;
    in->prev = &b->inbound;
    if (in->next != NULL) {
        in->next->prev = &in->next;
    }
    b->inbound = in;
    pthread_mutex_unlock(&b->mutex);
    bus_rpc_set_data(rpc, in, forget);
    bus_rpc_on_cancel(rpc, gone, in);
    return in;
}

void bus__inbound_end(struct bus_inbound *in, const struct thole_status *st)
{
    pthread_mutex_lock(&in->mutex);
    bool now = !in->ended;
    in->ended = true;
    pthread_mutex_unlock(&in->mutex);
    if (!now) {
        return;
    }
    if (st != NULL) {
        bus_rpc_fail(in->rpc, st, 0, NULL);
    } else {
        bus_rpc_reply(in->rpc, (struct bufslice){0});
    }
}

void bus__inbound_malformed(struct bus_inbound *in, const char *what)
{
    struct thole_status st;
    if (bus__log_allowed(in->bus)) {
        LOG_WARN(BUS, "closing stream after a malformed message peer=%s what=\"%s\"",
                 bus_rpc_peer(in->rpc), what);
    }
    thole_status_set(&st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, __FILE__, __LINE__,
                     "malformed message: %s", what);
    bus__inbound_end(in, &st);
}

bool bus__inbound_greet(struct bus_inbound *in, const struct bus_hello *hello)
{
    struct bus *b = in->bus;
    struct thole_status st;
    if (hello == NULL) {
        bus__inbound_malformed(in, "the first message of a stream has no hello");
        return false;
    }
    if (in->lane && (uuid_is_nil(&hello->host) || hello->lane < BUS_LANE_CONTROL ||
                     hello->lane > BUS_LANE_SNAPSHOT)) {
        bus__inbound_malformed(in, "a lane's hello needs a host id and a lane");
        return false;
    }
    if (atomic_load(&b->stopping)) {
        thole_status_set(&st, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, __FILE__, __LINE__,
                         "this host is shutting down");
        bus__inbound_end(in, &st);
        return false;
    }
    if (bus__admit(b, hello, in->rpc->certificate, bus_rpc_peer(in->rpc), true, &st) != THOLE_OK) {
        char host[UUID_TEXT_BYTES];
        uuid_format(&hello->host, host);
        /* A host opens several streams at once: log one line only. */
        bool tell = hello->lane <= BUS_LANE_CONTROL && bus__log_allowed(b);
        if (tell && st.code == THOLE_UNAVAILABLE) { /* temporary: the caller tries again */
            LOG_INFO(BUS, "refused a caller for now peer=%s address=%s reason=\"%s\"", host,
                     hello->address, st.message);
        } else if (tell) {
            LOG_WARN(BUS, "refused a caller peer=%s address=%s incarnation=%" PRIu64 " why=\"%s\"",
                     host, hello->address, hello->incarnation, st.message);
        }
        bus__inbound_end(in, &st);
        return false;
    }
    pthread_mutex_lock(&b->mutex);
    in->hello = *hello;
    pthread_mutex_unlock(&b->mutex);
    in->incarnation = hello->incarnation;
    in->known = true;
    struct peer *peer = uuid_is_nil(&hello->host) ? NULL : bus__peer_find(b, &hello->host);
    if (peer != NULL) {
        bus__accept_peer(b->acceptor, bus_rpc_peer(in->rpc));
    }
    bus__peer_unref(peer);
    bus__pipe_put(in->pipe, (struct slice){0}, bus__hello_encode(b, hello->lane, &hello->host),
                  true, NULL);
    return true;
}

void bus__inbound_stop(struct bus *b)
{
    struct thole_status st;
    thole_status_set(&st, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, __FILE__, __LINE__,
                     "this host is shutting down");
    struct inbounds idle = {0};
    pthread_mutex_lock(&b->mutex);
    for (struct bus_inbound *in = b->inbound; in != NULL; in = in->next) {
        pthread_mutex_lock(&in->mutex);
        if (!in->draining && in->requests.count == 0) {
            inbounds_add(&idle, in);
        }
        in->draining = true;
        pthread_mutex_unlock(&in->mutex);
    }
    pthread_mutex_unlock(&b->mutex);
    for (size_t i = 0; i < idle.count; i++) {
        bus__inbound_end(idle.all[i], &st);
    }
    inbounds_deinit(&idle);
}
