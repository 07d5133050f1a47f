/* Addresses of the other hosts. See peer_addresses.h. */
#include "agent/join/peer_addresses.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/core/reconciler.h"
#include "base/address.h"
#include "base/assert.h"
#include "base/canary.h"
#include "base/log.h"
#include "proto/decode.h"

/* All members, and as many hosts that are joining or leaving. */
#define HOSTS_MAX (2 * LIMIT_MEMBERS)
#define ASK_MS 1000
#define PAUSE_MS_FIRST 200
#define PAUSE_MS_MAX 5000

struct host_address {
    struct uuid host;
    uint64_t incarnation;
    bool from_hello;
    char address[ADDRESS_BYTES];
};

struct addresses {
    struct agent *agent;
    pthread_t thread;
    bool running;
    pthread_mutex_t save_lock; /* one writer of the file at a time */
    pthread_mutex_t lock;      /* below */
    pthread_cond_t changed;
    bool stopping;
    bool unsaved;     /* since the last join__addresses_save */
    uint64_t changes; /* counts changed addresses and lost connections */
    size_t count;
    struct host_address hosts[HOSTS_MAX];
};

/* The lock is held. */
static struct host_address *find(struct addresses *as, const struct uuid *host)
{
    ASSERT(as->count <= HOSTS_MAX);
    for (size_t i = 0; i < as->count; i++) {
        if (uuid_equal(&as->hosts[i].host, host)) {
            return &as->hosts[i];
        }
    }
    return NULL;
}

static void mark_changed(struct addresses *as)
{
    as->unsaved = true;
    as->changes++;
    pthread_cond_signal(&as->changed);
}

/* Does this replace the known address? */
static bool is_newer(const struct host_address *p, uint64_t incarnation,
                     enum addresses_source source, bool up)
{
    switch (source) {
    case ADDRESSES_HELLO:
        return true; /* the bus has checked that this start is not a stale copy */
    case ADDRESSES_ROW:
        return incarnation > p->incarnation || (incarnation == p->incarnation && !p->from_hello);
    case ADDRESSES_RELAYED: /* may be outdated; a connected host needs no relayed address */
        return !up &&
               (incarnation > p->incarnation || (incarnation == p->incarnation && !p->from_hello));
    }
    return false;
}

/* Ignore addresses of a removed host, which other hosts may still relay. */
static bool is_removed_host(struct agent *a, const struct uuid *host)
{
    struct registry_view *v = registry_view_acquire(a->registry);
    const thole_v1_Host *row = registry_host(v, host);
    bool removed = row != NULL && thole_v1_Host_name(row).size == 0;
    registry_view_release(v);
    return removed;
}

void join__addresses_learn(struct addresses *as, const struct uuid *host, uint64_t incarnation,
                           const char *address, enum addresses_source source)
{
    struct agent *a = as->agent;
    if (uuid_is_nil(host) || uuid_equal(host, agent_host_id(a)) ||
        !address_valid(slice_str(address), ADDRESS_REACH) || is_removed_host(a, host)) {
        return;
    }
    bool up = source == ADDRESSES_RELAYED && bus_peer_up(a->bus, host);
    bool moved = false, fresh = false;
    pthread_mutex_lock(&as->lock);
    struct host_address *p = find(as, host);
    fresh = p == NULL && as->count < HOSTS_MAX;
    if (fresh) {
        p = &as->hosts[as->count++];
        *p = (struct host_address){.host = *host};
    }
    bool counts = source == ADDRESSES_ROW || !CANARY(addresses_from_rows);
    if (p != NULL && (fresh || (counts && is_newer(p, incarnation, source, up)))) {
        moved = strcmp(p->address, address) != 0;
        if (moved || p->incarnation != incarnation) {
            mark_changed(as);
        }
        p->incarnation = incarnation;
        p->from_hello = source == ADDRESSES_HELLO;
        snprintf(p->address, sizeof p->address, "%s", address);
    }
    /* Under the lock, so that the bus gets the newer of two concurrent changes. */
    if (moved && bus_peer_set(a->bus, host, address, NULL) != THOLE_OK) {
        moved = false; /* the bus stops */
    }
    pthread_mutex_unlock(&as->lock);
    if (moved && !fresh) {
        char id[UUID_TEXT_BYTES];
        uuid_format(host, id);
        LOG_INFO(AGENT, "host moved peer=%s address=%s incarnation=%" PRIu64, id, address,
                 incarnation);
    }
    if (moved && a->reconciler != NULL) {
        agent__reconciler_wake(a->reconciler);
    }
}

void join__addresses_forget(struct addresses *as, const struct uuid *host)
{
    pthread_mutex_lock(&as->lock);
    struct host_address *p = find(as, host);
    if (p != NULL) {
        *p = as->hosts[--as->count];
        mark_changed(as);
    }
    bus_peer_remove(as->agent->bus, host);
    pthread_mutex_unlock(&as->lock);
}

void join__addresses_wake(struct addresses *as)
{
    pthread_mutex_lock(&as->lock);
    as->changes++;
    pthread_cond_signal(&as->changed);
    pthread_mutex_unlock(&as->lock);
}

size_t join__addresses_list(struct addresses *as, char (**ret)[ADDRESS_BYTES])
{
    pthread_mutex_lock(&as->lock);
    size_t n = as->count;
    *ret = xmalloc((n + 1) * sizeof **ret);
    for (size_t i = 0; i < n; i++) {
        memcpy((*ret)[i], as->hosts[i].address, sizeof **ret);
    }
    pthread_mutex_unlock(&as->lock);
    return n;
}

bool join__addresses_changed(struct addresses *as)
{
    pthread_mutex_lock(&as->lock);
    bool unsaved = as->unsaved;
    pthread_mutex_unlock(&as->lock);
    return unsaved;
}

enum thole_code join__addresses_save(struct addresses *as, struct thole_status *st)
{
    struct bytes lines = {0}, *out = &lines;
    pthread_mutex_lock(&as->save_lock);
    pthread_mutex_lock(&as->lock);
    as->unsaved = false;
    for (size_t i = 0; i < as->count; i++) {
        char id[UUID_TEXT_BYTES];
        uuid_format(&as->hosts[i].host, id);
        bytes_printf(out, "%s %" PRIu64 " %s\n", id, as->hosts[i].incarnation,
                     as->hosts[i].address);
    }
    pthread_mutex_unlock(&as->lock);
    enum thole_code code = datadir_save_peers(&as->agent->dir, bytes_slice(&lines), st);
    pthread_mutex_unlock(&as->save_lock);
    bytes_deinit(&lines);
    return code;
}

/* ---- The exchange ---------------------------------------------------------------------------- */

static void add(thole_bus_v1_Addresses *m, const struct uuid *host, uint64_t incarnation,
                const char *address, upb_Arena *arena)
{
    thole_bus_v1_HostAddress *h = thole_bus_v1_Addresses_add_hosts(m, arena);
    thole_bus_v1_HostAddress_set_host_id(
        h, upb_StringView_FromDataAndSize((const char *)host->bytes, sizeof host->bytes));
    thole_bus_v1_HostAddress_set_incarnation(h, incarnation);
    thole_bus_v1_HostAddress_set_address(h, upb_StringView_FromString(address));
}

static struct buf *encode(struct addresses *as)
{
    struct agent *a = as->agent;
    upb_Arena *arena = upb_Arena_New();
    thole_bus_v1_Addresses *m = thole_bus_v1_Addresses_new(arena);
    add(m, agent_host_id(a), a->incarnation, agent_address(a), arena);
    pthread_mutex_lock(&as->lock);
    for (size_t i = 0; i < as->count; i++) {
        add(m, &as->hosts[i].host, as->hosts[i].incarnation, as->hosts[i].address, arena);
    }
    size_t size = 0;
    const char *bytes = thole_bus_v1_Addresses_serialize(m, arena, &size);
    struct buf *b = buf_copy(bytes, size);
    pthread_mutex_unlock(&as->lock);
    upb_Arena_Free(arena);
    return b;
}

static void merge(struct addresses *as, struct slice body)
{
    upb_Arena *arena = upb_Arena_New();
    const thole_bus_v1_Addresses *m = PROTO_DECODE(thole_bus_v1_Addresses, body, arena);
    size_t n = 0;
    const thole_bus_v1_HostAddress *const *hosts =
        m != NULL ? thole_bus_v1_Addresses_hosts(m, &n) : NULL;
    for (size_t i = 0; i < n && i < HOSTS_MAX; i++) {
        char address[ADDRESS_BYTES];
        struct uuid host;
        upb_StringView id = thole_bus_v1_HostAddress_host_id(hosts[i]);
        upb_StringView text = thole_bus_v1_HostAddress_address(hosts[i]);
        if (id.size != sizeof host.bytes || text.size >= sizeof address ||
            !address_valid(slice_of(text.data, text.size), ADDRESS_REACH)) {
            continue;
        }
        memcpy(host.bytes, id.data, sizeof host.bytes);
        snprintf(address, sizeof address, "%.*s", (int)text.size, text.data);
        join__addresses_learn(as, &host, thole_bus_v1_HostAddress_incarnation(hosts[i]), address,
                              ADDRESSES_RELAYED);
    }
    upb_Arena_Free(arena);
}

void join__addresses_serve(struct addresses *as, struct bus_request *request)
{
    struct uuid from, cluster;
    struct thole_status st = {0};
    if (!bus_request_from(request, &from) || !agent_cluster(as->agent, &cluster)) {
        thole_status_set(&st, THOLE_FAILED_PRECONDITION, THOLE_REASON_NOT_READY, __FILE__, __LINE__,
                         "only members of this cluster may exchange addresses");
        bus_answer_failure(request, &st);
        return;
    }
    merge(as, bus_request_body(request));
    struct buf *b = encode(as);
    bus_answer(request, (struct bufslice){.owner = b, .bytes = slice_of(b->data, b->size)}, false);
}

/* ---- Searching for hosts that are not connected -----------------------------------------------
 * */

static void on_reply(void *ctx, const struct thole_status *st, struct bufslice body, bool more)
{
    if (!more && st->code == THOLE_OK) {
        merge(ctx, body.bytes);
    }
}

static bool is_stopping(struct addresses *as)
{
    pthread_mutex_lock(&as->lock);
    bool stopping = as->stopping;
    pthread_mutex_unlock(&as->lock);
    return stopping;
}

/* The host at the address answers with its own address and all that it knows. */
static void ask_address(struct addresses *as, const char *address, const struct buf *table)
{
    struct thole_status st = {0};
    struct buf *reply = NULL;
    struct bus_ask_peer peer;
    if (strcmp(address, agent_address(as->agent)) == 0) {
        return;
    }
    if (bus_ask(as->agent->bus, address, METHOD_ADDRESSES, slice_of(table->data, table->size),
                ASK_MS, &reply, &peer, &st) == THOLE_OK) {
        merge(as, slice_of(reply->data, reply->size));
        buf_unref(reply);
    } else {
        LOG_DEBUG(AGENT, "request for addresses failed address=%s error=\"%s\"", address,
                  st.message);
    }
}

static void ask_seeds(struct addresses *as, const struct buf *table)
{
    char *copy = xstrdup(as->agent->addresses != NULL ? as->agent->addresses : ""), *save = NULL;
    for (char *p = strtok_r(copy, ",", &save); p != NULL && !is_stopping(as);
         p = strtok_r(NULL, ",", &save)) {
        ask_address(as, p, table);
    }
    free(copy);
}

bool join__addresses_all_down(struct addresses *as)
{
    if (as == NULL) {
        return false;
    }
    pthread_mutex_lock(&as->lock);
    bool all_down = as->count > 0;
    for (size_t i = 0; i < as->count; i++) {
        all_down = all_down && !bus_peer_up(as->agent->bus, &as->hosts[i].host);
    }
    pthread_mutex_unlock(&as->lock);
    return all_down;
}

/* Returns how many hosts are not connected. */
static size_t search_round(struct addresses *as)
{
    struct agent *a = as->agent;
    struct host_address *hosts = xmalloc(sizeof as->hosts);
    bool up[HOSTS_MAX];
    size_t missing = 0;
    pthread_mutex_lock(&as->lock);
    size_t n = as->count;
    memcpy(hosts, as->hosts, n * sizeof *hosts);
    pthread_mutex_unlock(&as->lock);
    for (size_t i = 0; i < n; i++) {
        up[i] = bus_peer_up(a->bus, &hosts[i].host);
        missing += !up[i];
    }
    if (missing > 0) {
        struct buf *table = encode(as);
        for (size_t i = 0; i < n; i++) {
            if (up[i]) {
                bus_exchange(a->bus, &hosts[i].host, METHOD_ADDRESSES,
                             (struct bufslice){.owner = buf_ref(table),
                                               .bytes = slice_of(table->data, table->size)},
                             ASK_MS, on_reply, as);
            }
        }
        ask_seeds(as, table);
        for (size_t i = 0; i < n && !is_stopping(as); i++) {
            if (!up[i]) {
                ask_address(as, hosts[i].address, table);
            }
        }
        buf_unref(table);
    }
    free(hosts);
    return missing;
}

static void *addresses_main(void *ctx)
{
    struct addresses *as = ctx;
    struct uuid cluster;
    uint32_t pause_ms = PAUSE_MS_FIRST;
    size_t missing_before = 0;
    pthread_setname_np(pthread_self(), "addresses");
    (void)log_context_host(agent_name(as->agent));
    pthread_mutex_lock(&as->lock);
    while (!as->stopping) {
        uint64_t seen = as->changes;
        pthread_mutex_unlock(&as->lock);
        bool member = agent_cluster(as->agent, &cluster);
        size_t missing = member ? search_round(as) : 0;
        pthread_mutex_lock(&as->lock);
        /* Hosts disconnect and reconnect in bursts: changes do not shorten the pause. */
        pause_ms = missing == 0 || missing != missing_before ? PAUSE_MS_FIRST : 2 * pause_ms;
        pause_ms = pause_ms < PAUSE_MS_MAX ? pause_ms : PAUSE_MS_MAX;
        missing_before = missing;
        while (!as->stopping && missing == 0 && as->changes == seen) {
            pthread_cond_wait(&as->changed, &as->lock);
        }
        if (!as->stopping) {
            uint64_t until_ns = clock_now(&clock_system) + pause_ms * NS_PER_MS;
            (void)clock_cond_wait(&as->changed, &as->lock, until_ns);
        }
    }
    pthread_mutex_unlock(&as->lock);
    return NULL;
}

struct addresses *join__addresses_new(struct agent *a)
{
    struct addresses *as = xcalloc(1, sizeof *as);
    as->agent = a;
    pthread_mutex_init(&as->lock, NULL);
    pthread_mutex_init(&as->save_lock, NULL);
    clock_cond_init(&as->changed);
    return as;
}

void join__addresses_start(struct addresses *as)
{
    ASSERT(!as->running && !as->stopping);
    as->running = pthread_create(&as->thread, NULL, addresses_main, as) == 0;
    if (!as->running) {
        LOG_WARN(AGENT, "cannot start a thread; only the registry reports hosts that moved");
    }
}

void join__addresses_stop(struct addresses *as)
{
    pthread_mutex_lock(&as->lock);
    as->stopping = true;
    pthread_cond_signal(&as->changed);
    pthread_mutex_unlock(&as->lock);
    if (as->running) {
        pthread_join(as->thread, NULL);
    }
    as->running = false;
}

void join__addresses_free(struct addresses *as)
{
    if (as == NULL) {
        return;
    }
    pthread_cond_destroy(&as->changed);
    pthread_mutex_destroy(&as->lock);
    pthread_mutex_destroy(&as->save_lock);
    free(as);
}
