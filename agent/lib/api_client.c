/* libthole: a client, which is a handle without a host.
 *
 * A client sends its requests to one endpoint that answers, and that host forwards them. Answers
 * name the leader. If the leader is one of the client's endpoints, the client sends the shard's
 * next proposals to it.
 *
 * Endpoints are addresses, but the bus addresses hosts by id. A worker identifies the host at each
 * address at the start, and again after an exchange with that host failed. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/core/answers.h"
#include "agent/lib/api_internal.h"
#include "base/address.h"
#include "base/assert.h"

#define ENDPOINTS_MAX 32
#define ASK_MS 1000
#define ASK_AGAIN_NS (500 * NS_PER_MS)
#define ASK_PAUSE_NS (50 * NS_PER_MS)

struct endpoint {
    const char *address;
    struct uuid host; /* nil: not identified yet */
    bool identify;    /* the worker must find out its host id */
};

struct client {
    struct thole *t;
    struct bus *bus;
    struct bus_tls *tls;
    char *token; /* NULL: none */
    struct router *router;
    struct answers *answers;
    struct worker *worker;
    struct worker_msg wake;
    _Atomic bool woken;
    char *copy, *addresses;

    pthread_mutex_t lock;
    struct endpoint endpoints[ENDPOINTS_MAX];
    size_t count, current;
};

static bool identify(struct client *c, size_t i, struct thole_status *ret_why)
{
    struct buf *reply = NULL;
    struct bus_ask_peer peer = {0};
    struct thole_status *st = ret_why;
    const char *address = c->endpoints[i].address; /* never changes */
    if (bus_ask(c->bus, address, METHOD_PEER_BOOTSTRAP, (struct slice){0}, ASK_MS, &reply, &peer,
                st) != THOLE_OK) {
        return false;
    }
    buf_unref(reply);
    if (uuid_is_nil(&peer.host_id) ||
        bus_peer_set(c->bus, &peer.host_id, address, st) != THOLE_OK) {
        return false;
    }
    pthread_mutex_lock(&c->lock);
    struct uuid before = c->endpoints[i].host;
    c->endpoints[i].host = peer.host_id;
    c->endpoints[i].identify = false;
    pthread_mutex_unlock(&c->lock);
    if (!uuid_is_nil(&before) && !uuid_equal(&before, &peer.host_id)) {
        bus_peer_remove(c->bus, &before);
    }
    return true;
}

static uint64_t client_turn(void *ctx, struct msgq *batch, uint64_t now_ns)
{
    struct client *c = ctx;
    bool again = false;
    while (msgq_pop(batch) != NULL) {
        atomic_store(&c->woken, false);
    }
    for (size_t i = 0; i < c->count; i++) {
        pthread_mutex_lock(&c->lock);
        bool wanted = c->endpoints[i].identify;
        pthread_mutex_unlock(&c->lock);
        struct thole_status why = {0};
        if (wanted && !identify(c, i, &why)) {
            again = true;
        }
    }
    return again ? now_ns + ASK_AGAIN_NS : CLOCK_NEVER;
}

static void client_wake(struct client *c)
{
    if (!atomic_exchange(&c->woken, true) && !worker_post_internal(c->worker, &c->wake)) {
        return; /* the worker is stopping */
    }
}

/* ---- For the router -------------------------------------------------------------------------- */

static bool client_pick_host(void *ctx, uint64_t shard_id, uint32_t attempt,
                             const struct uuid *avoid, struct uuid *ret)
{
    struct client *c = ctx;
    bool found = false;
    (void)shard_id;
    (void)attempt;
    ASSERT(c->count > 0 && c->count <= ENDPOINTS_MAX);
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i < c->count && !found; i++) {
        size_t k = (c->current + i) % c->count;
        const struct uuid *host = &c->endpoints[k].host;
        if (!uuid_is_nil(host) && !uuid_equal(host, avoid)) {
            *ret = *host;
            c->current = k; /* keep using this endpoint */
            found = true;
        }
    }
    pthread_mutex_unlock(&c->lock);
    return found;
}

/* All requests of a client are api_requests. */
static struct thole_shard *shard_of(const struct router_request *r)
{
    const struct api_request *q = (const void *)((const char *)r - offsetof(struct api_request, r));
    return q->shard;
}

static bool client_find_leader(void *ctx, const struct router_request *r, const struct uuid *avoid,
                               struct uuid *ret)
{
    struct client *c = ctx;
    struct thole_shard *s = shard_of(r);
    uint64_t leader_plus_1 =
        s != NULL ? atomic_load_explicit(api__hint(s, r), memory_order_relaxed) : 0;
    if (leader_plus_1 == 0) {
        return false;
    }
    ASSERT(leader_plus_1 <= c->count);
    pthread_mutex_lock(&c->lock);
    struct uuid host = c->endpoints[leader_plus_1 - 1].host;
    pthread_mutex_unlock(&c->lock);
    if (uuid_is_nil(&host) || uuid_equal(&host, avoid)) {
        return false;
    }
    *ret = host;
    return true;
}

/* The bus can address only the client's endpoints, so any other leader is ignored. */
static void client_learn_leader(void *ctx, const struct router_request *r, const struct uuid *host)
{
    struct client *c = ctx;
    struct thole_shard *s = shard_of(r);
    uint32_t leader_plus_1 = 0;
    if (s == NULL) {
        return;
    }
    pthread_mutex_lock(&c->lock);
    for (uint32_t i = 0; i < c->count && leader_plus_1 == 0; i++) {
        if (!uuid_is_nil(host) && uuid_equal(&c->endpoints[i].host, host)) {
            leader_plus_1 = i + 1;
        }
    }
    pthread_mutex_unlock(&c->lock);
    atomic_store_explicit(api__hint(s, r), leader_plus_1, memory_order_relaxed);
}

static bool client_shard_exists(void *ctx, uint64_t shard_id)
{
    (void)ctx;
    (void)shard_id;
    return true;
}

static void client_host_unreachable(void *ctx, const struct uuid *host)
{
    struct client *c = ctx;
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i < c->count; i++) {
        if (uuid_equal(&c->endpoints[i].host, host)) {
            c->endpoints[i].identify = true;
        }
    }
    pthread_mutex_unlock(&c->lock);
    client_wake(c);
}

void api__client_route(struct client *c, struct router_request *r, const char *shard_name)
{
    router_route(c->router, r, shard_name);
}

struct bus *api__client_bus(struct client *c)
{
    return c->bus;
}

struct answers *api__client_answers(struct client *c)
{
    return c->answers;
}

bool api__client_host(struct client *c, struct uuid *ret)
{
    return client_pick_host(c, 0, 0, &(struct uuid){{0}}, ret);
}

const char *api__client_token(const struct client *c)
{
    return c->token;
}

struct bus_tls *api__client_tls(struct client *c)
{
    return c->tls;
}

const char *api__client_addresses(const struct client *c)
{
    return c->addresses;
}

/* A refused connection fails at once, so pause between rounds of attempts. */
bool api__client_wait(struct client *c, uint32_t timeout_ms)
{
    uint64_t deadline = clock_now(&clock_system) + timeout_ms * NS_PER_MS;
    for (;;) {
        for (size_t i = 0; i < c->count; i++) {
            struct thole_status why = {0};
            if (identify(c, i, &why)) {
                return true;
            }
        }
        uint64_t now = clock_now(&clock_system);
        if (now >= deadline) {
            return false;
        }
        uint64_t pause_ns = deadline - now < ASK_PAUSE_NS ? deadline - now : ASK_PAUSE_NS;
        nanosleep(&(struct timespec){.tv_nsec = (long)pause_ns}, NULL);
    }
}

/* ---- Life ------------------------------------------------------------------------------------ */

static void no_frame(void *ctx, const struct uuid *from, uint64_t incarnation, enum bus_lane lane,
                     struct bufslice frame)
{
    (void)ctx;
    (void)from;
    (void)incarnation;
    (void)lane;
    (void)frame;
}

static void no_peer_state(void *ctx, const struct uuid *host, bool up, uint64_t incarnation)
{
    (void)ctx;
    (void)host;
    (void)up;
    (void)incarnation;
}

static void no_request(void *ctx, struct bus_request *r)
{
    struct thole_status st = {0};
    (void)ctx;
    thole_status_set(&st, THOLE_UNIMPLEMENTED, THOLE_REASON_NONE, __FILE__, __LINE__,
                     "a client serves no requests");
    bus_answer_failure(r, &st);
}

static enum thole_code open_bus(struct client *c, struct thole_status *st)
{
    const struct bus_options o = {
        .version = THOLE_VERSION,
        .clock = &clock_system,
        .tls = c->tls,
        .token = c->token,
        .handler = {.ctx = c,
                    .frame = no_frame,
                    .peer_state = no_peer_state,
                    .request = no_request},
    };
    enum thole_code code = bus_new(&o, &c->bus, st);
    if (code != THOLE_OK) {
        return code;
    }
    bus_start(c->bus);
    const struct router_options ro = {
        .bus = c->bus,
        .executor = c->t->executor,
        .ctx = c,
        .pick_host = client_pick_host,
        .find_leader = client_find_leader,
        .learn_leader = client_learn_leader,
        .shard_exists = client_shard_exists,
        .host_unreachable = client_host_unreachable,
    };
    c->router = router_new(&ro);
    c->answers = answers_new(c->t->executor, c->bus);
    c->worker = worker_new(c->t->executor, "client", 16, client_turn, c);
    return THOLE_OK;
}

enum thole_code api__client_new(struct thole *t, const char *addresses, struct bus_tls *tls,
                                const char *token, struct client **ret, struct thole_status *st)
{
    struct client *c = xcalloc(1, sizeof *c);
    const char *parts[ENDPOINTS_MAX];
    pthread_mutex_init(&c->lock, NULL);
    c->t = t;
    c->addresses = xstrdup(addresses);
    c->tls = bus_tls_ref(tls);
    c->token = token != NULL ? xstrdup(token) : NULL;
    *ret = c; /* thole_close frees it */
    enum thole_code code =
        address_list_split(addresses, &c->copy, parts, ENDPOINTS_MAX, &c->count, st);
    if (code != THOLE_OK) {
        return code;
    }
    for (size_t i = 0; i < c->count; i++) {
        c->endpoints[i] = (struct endpoint){.address = parts[i], .identify = true};
    }
    code = open_bus(c, st);
    if (code != THOLE_OK) {
        return code;
    }
    bool found = false;
    struct thole_status why = {0};
    for (size_t i = 0; i < c->count && !found; i++) {
        found = identify(c, i, &why);
    }
    if (!found) {
        bool refused = why.reason == THOLE_REASON_CERTIFICATE;
        return THOLE_FAIL(st, refused ? why.code : THOLE_UNAVAILABLE,
                          refused ? why.reason : THOLE_REASON_UNREACHABLE,
                          "no host answers at %.64s: %s", addresses, why.message);
    }
    client_wake(c); /* identify the other endpoints */
    return THOLE_OK;
}

void api__client_stop(struct client *c)
{
    if (c->worker != NULL) {
        worker_stop(c->worker);
    }
    if (c->router != NULL) {
        router_stop(c->router);
    }
    if (c->bus != NULL) {
        bus_stop(c->bus, 0);
    }
    answers_stop(c->answers);
}

void api__client_free(struct client *c)
{
    if (c == NULL) {
        return;
    }
    answers_free(c->answers);
    bus_free(c->bus);
    bus_tls_unref(c->tls);
    free(c->token);
    router_free(c->router);
    worker_free(c->worker);
    pthread_mutex_destroy(&c->lock);
    free(c->addresses);
    free(c->copy);
    free(c);
}
