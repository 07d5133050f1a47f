/* libthole: handles, and requests in general. */
#include <stdlib.h>
#include <string.h>

#include "agent/lib/api_agent.h"
#include "agent/lib/api_internal.h"
#include "agent/services/services.h"
#include "base/assert.h"
#include "base/latch.h"
#include "base/map.h"
#include "base/process.h"
#include "base/slot.h"

const char *thole_version(void)
{
    return THOLE_VERSION;
}

void api__copy_struct(void *to, size_t to_size, const void *from, uint32_t from_size)
{
    memset(to, 0, to_size);
    memcpy(to, from, from_size < to_size ? from_size : to_size);
}

static char *copy(const char *s)
{
    return s != NULL ? xstrdup(s) : NULL;
}

static struct thole *handle_new(void)
{
    struct thole *t = xcalloc(1, sizeof *t);
    pthread_mutex_init(&t->lock, NULL);
    t->executor = executor_threaded_new(&clock_system);
    t->results = api__results_new(t);
    return t;
}

enum thole_code thole_new(const struct thole_options *options, struct thole **ret,
                          struct thole_status *st)
{
    struct thole_options o;
    if (options == NULL || options->size < offsetof(struct thole_options, listen)) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "options.size is not set: use THOLE_OPTIONS_INIT");
    }
    api__copy_struct(&o, sizeof o, options, options->size);
    if (o.data_dir == NULL || !o.data_dir[0]) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "options.data_dir is required");
    }
    if (o.bootstrap > THOLE_BOOTSTRAP_JOIN) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "options.bootstrap is unknown");
    }
    struct thole *t = handle_new();
    t->o = o;
    t->o.data_dir = copy(o.data_dir);
    t->o.listen = copy(o.listen);
    t->o.advertise = copy(o.advertise);
    t->o.name = copy(o.name);
    t->o.addresses = copy(o.addresses);
    t->o.tls = NULL;
    t->has_tls = o.tls != NULL;
    if (t->has_tls) {
        api__copy_struct(&t->tls, sizeof t->tls, o.tls, o.tls->size);
        t->tls.cert = copy(t->tls.cert);
        t->tls.key = copy(t->tls.key);
        t->tls.ca = copy(t->tls.ca);
        t->tls.client_ca = copy(t->tls.client_ca);
        t->tls.crl = copy(t->tls.crl);
    }
    size_t n = 0;
    while (o.tags != NULL && o.tags[n] != NULL) {
        n++;
    }
    t->tags = xcalloc(n + 1, sizeof *t->tags);
    for (size_t i = 0; i < n; i++) {
        t->tags[i] = xstrdup(o.tags[i]);
    }
    *ret = t;
    return THOLE_OK;
}

enum thole_code thole_register(struct thole *t, const struct thole_machine_type *type,
                               struct thole_status *st)
{
    if (t->is_client || t->agent != NULL) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_NONE,
                          "machine types are registered on a host, before thole_start");
    }
    enum thole_code code = agent_check_machine_type(type, st);
    if (code != THOLE_OK) {
        return code;
    }
    for (size_t i = 0; i < t->type_count; i++) {
        if (strcmp(t->types[i]->name, type->name) == 0) {
            return THOLE_FAIL(st, THOLE_ALREADY_EXISTS, THOLE_REASON_EXISTS,
                              "machine type \"%s\" is registered already", type->name);
        }
    }
    if (t->type_count == AGENT_TYPES_MAX - 8) {
        return THOLE_FAIL(st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_TOO_LARGE,
                          "too many machine types");
    }
    t->types[t->type_count++] = type;
    return THOLE_OK;
}

enum thole_code thole_start(struct thole *t, struct thole_status *st)
{
    if (t->is_client || t->agent != NULL) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_NONE,
                          "only a host can be started, and only once");
    }
    if (t->o.owns_process) {
        process_own();
    }
    size_t tags = 0;
    while (t->tags[tags] != NULL) {
        tags++;
    }
    const struct bus_tls_files files = {.cert = t->tls.cert,
                                        .key = t->tls.key,
                                        .ca = t->tls.ca,
                                        .client_ca = t->tls.client_ca,
                                        .crl = t->tls.crl};
    const struct agent_options o = {
        .data_dir = t->o.data_dir,
        .listen = t->o.listen,
        .advertise = t->o.advertise,
        .name = t->o.name,
        .tags = (const char *const *)t->tags,
        .tag_count = tags,
        .bootstrap = (enum agent_bootstrap)t->o.bootstrap,
        .addresses = t->o.addresses,
        .election_timeout_ms = t->o.election_timeout_ms,
        .heartbeat_ms = t->o.heartbeat_ms,
        .suspect_after_ms = t->o.suspect_after_ms,
        .suspect_after_ms_max = t->o.suspect_after_ms_max,
        .dead_after_ms = t->o.dead_after_ms,
        .loop_count = t->o.loops,
        .applier_count = t->o.appliers,
        .snapshot_bytes_per_s = t->o.snapshot_bytes_per_s,
        .tls = t->has_tls ? &files : NULL,
        .insecure = t->o.insecure != 0,
        .reflection_for_all = t->o.reflection_for_all != 0,
        .default_shard = t->o.default_shard != 0,
        .types = t->types,
        .type_count = t->type_count,
        .services = services_register,
        .services_end = services_unregister,
        .failed = t->o.failed,
        .failed_ctx = t->o.ctx,
        .stop_fd = t->o.stop_fd > 0 ? &t->o.stop_fd : NULL,
    };
    enum thole_code code = agent_new(&o, &t->agent, st);
    if (code == THOLE_OK) {
        api__readiness_begin(t);
    }
    return code;
}

_Static_assert((int)THOLE_BOOTSTRAP_DEV == (int)AGENT_BOOTSTRAP_DEV &&
                   (int)THOLE_BOOTSTRAP_PEERS == (int)AGENT_BOOTSTRAP_PEERS &&
                   (int)THOLE_BOOTSTRAP_JOIN == (int)AGENT_BOOTSTRAP_JOIN,
               "the public numbers are the agent's");

enum thole_code thole_connect(const char *addresses, struct thole **ret, struct thole_status *st)
{
    return thole_connect_tls(addresses, NULL, ret, st);
}

enum thole_code thole_connect_tls(const char *addresses, const struct thole_tls *tls,
                                  struct thole **ret, struct thole_status *st)
{
    struct bus_tls *certificates = NULL;
    struct thole_tls given = {0};
    enum thole_code code = THOLE_OK;
    if (tls != NULL) {
        api__copy_struct(&given, sizeof given, tls, tls->size);
        const struct bus_tls_files files = {.cert = given.cert, .key = given.key, .ca = given.ca};
        bool plain = given.token != NULL && given.ca == NULL && given.cert == NULL;
        code = plain ? THOLE_OK : bus_tls_new(&files, false, &certificates, st);
    }
    if (code != THOLE_OK) {
        return code;
    }
    struct thole *t = handle_new();
    t->is_client = true;
    code = given.token == NULL
               ? THOLE_OK
               : bus_check_token(addresses != NULL ? addresses : "", certificates != NULL, st);
    if (code == THOLE_OK) {
        code = api__client_new(t, addresses != NULL ? addresses : "", certificates, given.token,
                               &t->client, st);
    }
    bus_tls_unref(certificates);
    if (code == THOLE_OK) {
        *ret = t;
    } else {
        thole_close(t);
    }
    return code;
}

static bool is_ready(struct agent *a, void *ctx)
{
    char *why = ctx;
    return agent_is_ready(a, why, 200);
}

enum thole_code thole_wait_ready(struct thole *t, uint32_t timeout_ms, struct thole_status *st)
{
    char why[200] = "";
    enum thole_code code = api__need_running(t, st);
    if (code != THOLE_OK) {
        return code;
    }
    bool ok = t->is_client ? api__client_wait(t->client, timeout_ms)
                           : agent_wait(t->agent, clock_now(&clock_system) + timeout_ms * NS_PER_MS,
                                        is_ready, why);
    if (ok) {
        return THOLE_OK;
    }
    return THOLE_FAIL(st, THOLE_DEADLINE_EXCEEDED, THOLE_REASON_NOT_READY, "%s",
                      t->is_client ? "no host answers" : why);
}

void thole_close(struct thole *t)
{
    if (t == NULL) {
        return;
    }
    if (t->channel != NULL) {
        bus_channel_free(t->channel);
    }
    if (t->agent != NULL) {
        api__readiness_end(t);
        api__leaderships_end(t);
        agent_stop(t->agent);
    }
    if (t->client != NULL) {
        api__client_stop(t->client);
    }
    api__results_free(t->results);
    api__views_end(t);
    agent_free(t->agent);
    api__client_free(t->client);
    executor_free(t->executor);
    for (size_t i = 0; t->tags != NULL && t->tags[i] != NULL; i++) {
        free(t->tags[i]);
    }
    free(t->tags);
    free((char *)(uintptr_t)t->o.data_dir);
    free((char *)(uintptr_t)t->o.listen);
    free((char *)(uintptr_t)t->o.advertise);
    free((char *)(uintptr_t)t->o.name);
    free((char *)(uintptr_t)t->o.addresses);
    free((char *)(uintptr_t)t->tls.cert);
    free((char *)(uintptr_t)t->tls.key);
    free((char *)(uintptr_t)t->tls.ca);
    free((char *)(uintptr_t)t->tls.client_ca);
    free((char *)(uintptr_t)t->tls.crl);
    map_deinit(&t->watches);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

struct agent *api_agent(struct thole *t)
{
    return t->agent;
}

const char *thole_address(const struct thole *t)
{
    return t->agent != NULL ? agent_address(t->agent) : "";
}

const char *thole_host_name(const struct thole *t)
{
    return t->agent != NULL ? agent_name(t->agent) : "";
}

enum thole_code api__need_host(const struct thole *t, struct thole_status *st)
{
    if (t->agent != NULL) {
        return THOLE_OK;
    }
    return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_NONE,
                      t->is_client ? "this call is for hosts, not for clients"
                                   : "the host has not been started");
}

enum thole_code api__need_running(const struct thole *t, struct thole_status *st)
{
    return t->is_client ? THOLE_OK : api__need_host(t, st);
}

/* ---- Shards by name -------------------------------------------------------------------------- */

enum thole_code thole_shard_open(struct thole *t, const char *name, struct thole_shard **ret,
                                 struct thole_status *st)
{
    if (name == NULL || strlen(name) >= THOLE_NAME_BYTES ||
        !registry_name_is_valid(slice_str(name))) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "\"%.64s\" is not a valid shard name", name != NULL ? name : "");
    }
    if (strcmp(name, REGISTRY_SHARD_NAME) == 0) {
        return agent_refuse_zero(st);
    }
    struct thole_shard *s = xcalloc(1, sizeof *s);
    s->t = t;
    ref_init(&s->refs, 1);
    memcpy(s->name, name, strlen(name));
    *ret = s;
    return THOLE_OK;
}

enum thole_code thole_shard_open_key(struct thole *t, const char *pool, struct thole_slice key,
                                     struct thole_shard **ret, struct thole_status *st)
{
    if (key.size == 0 || key.size > LIMIT_KEY_BYTES) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT,
                          key.size == 0 ? THOLE_REASON_BAD_REQUEST : THOLE_REASON_TOO_LARGE,
                          "key: has %zu bytes, not 1 to %d", key.size, LIMIT_KEY_BYTES);
    }
    enum thole_code code = thole_shard_open(t, pool, ret, st);
    if (code == THOLE_OK) {
        (*ret)->slot_plus_1 = 1 + slot_of_key(slice_of(key.data, key.size));
    }
    return code;
}

struct thole_shard *thole_shard_ref(struct thole_shard *s)
{
    ref_take(&s->refs);
    return s;
}

static void shard_free(struct ref *refs)
{
    struct thole_shard *s = CONTAINER_OF(refs, struct thole_shard, refs);
    free(atomic_load(&s->by_slot));
    free(s);
}

void thole_shard_release(struct thole_shard *s)
{
    if (s != NULL) {
        ref_drop(&s->refs, shard_free);
    }
}

static shard_hint *hints_by_slot(struct thole_shard *s)
{
    shard_hint *have = atomic_load_explicit(&s->by_slot, memory_order_acquire);
    if (have != NULL) {
        return have;
    }
    shard_hint *made = xcalloc(SLOT_COUNT, sizeof *made);
    if (atomic_compare_exchange_strong(&s->by_slot, &have, made)) {
        return made;
    }
    free(made); /* another thread was faster */
    return have;
}

shard_hint *api__hint(struct thole_shard *s, const struct router_request *r)
{
    bool own_key = r->slot_plus_1 == s->slot_plus_1;
    return own_key ? &s->hint : &hints_by_slot(s)[r->slot_plus_1 - 1];
}

/* ---- Requests -------------------------------------------------------------------------------- */

uint64_t api__deadline(uint32_t timeout_ms)
{
    return clock_now(&clock_system) + (timeout_ms ? timeout_ms : API_TIMEOUT_MS) * NS_PER_MS;
}

static void fail_unsent(struct api_request *q, const struct thole_status *st)
{
    bufslice_unref(q->r.payload);
    q->r.payload = (struct bufslice){0};
    if (st != &q->r.status) {
        q->r.status = *st;
    }
    q->r.result = (struct bufslice){0};
    q->done(q);
}

static void resolved(void *ctx, const struct thole_status *st, uint64_t shard_id)
{
    struct api_request *q = ctx;
    if (st->code != THOLE_OK) {
        fail_unsent(q, st);
        return;
    }
    atomic_store(api__hint(q->shard, &q->r), shard_id + 1);
    q->r.shard_id = shard_id;
    agent_route(q->t->agent, &q->r);
}

static void request_done(struct router_request *r)
{
    struct api_request *q = CONTAINER_OF(r, struct api_request, r);
    if (r->status.reason != THOLE_REASON_NO_SUCH_SHARD || q->shard == NULL) {
        q->done(q);
        return;
    }
    /* A new shard may have the name. */
    atomic_store(api__hint(q->shard, r), 0);
    if (q->resolved_anew || q->t->is_client) {
        fail_unsent(q, &r->status);
        return;
    }
    q->resolved_anew = true;
    agent_resolve_anew(q->t->agent, slice_str(q->shard->name), r->slot_plus_1, r->deadline_ns,
                       resolved, q);
}

void api__route(struct api_request *q)
{
    q->r.done = request_done;
    if (q->t->is_client) {
        api__client_route(q->t->client, &q->r, q->shard != NULL ? q->shard->name : NULL);
        return;
    }
    uint64_t id = q->shard != NULL
                      ? atomic_load_explicit(api__hint(q->shard, &q->r), memory_order_relaxed)
                      : REGISTRY_SHARD_ID + 1;
    if (id == 0) {
        agent_resolve(q->t->agent, slice_str(q->shard->name), q->r.slot_plus_1, q->r.deadline_ns,
                      resolved, q);
        return;
    }
    q->r.shard_id = id - 1;
    agent_route(q->t->agent, &q->r);
}

static void run_done(struct api_request *q)
{
    latch_open(q->r.ctx, NULL);
}

void api__run(struct api_request *q)
{
    struct latch done;
    latch_init(&done);
    q->done = run_done;
    q->r.ctx = &done;
    api__route(q);
    (void)latch_wait(&done, NULL);
    latch_deinit(&done);
}

enum thole_code api__finish(const struct api_request *q, struct thole_status *st)
{
    if (q->r.status.code != THOLE_OK && st != NULL) {
        *st = q->r.status;
    }
    return q->r.status.code;
}
