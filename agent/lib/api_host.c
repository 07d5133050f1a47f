/* libthole: what a program needs that runs a host as a service, such as tholed: the host's state,
 * changes of readiness, a watchdog's probe, metrics, certificates. */
#include <stdlib.h>
#include <string.h>

#include "agent/core/host_metrics.h"
#include "agent/lib/api_internal.h"
#include "base/log.h"
#include "base/metrics.h"

/* ---- State ----------------------------------------------------------------------------------- */

enum thole_code thole_host_state(struct thole *t, struct thole_host_state *io,
                                 struct thole_status *st)
{
    enum thole_code code = api__need_host(t, st);
    if (code != THOLE_OK) {
        return code;
    }
    struct thole_host_state s = {.size = io->size};
    struct engine_replica_status replica;
    struct uuid cluster;
    s.member = agent_cluster(t->agent, &cluster);
    if (s.member) {
        uuid_format(&cluster, s.cluster);
    }
    s.registry = engine_shard_status(agent_engine(t->agent), REGISTRY_SHARD_ID, &replica);
    s.ready = agent_is_ready(t->agent, s.waiting_for, sizeof s.waiting_for);
    if (s.ready) {
        s.waiting_for[0] = '\0';
    }
    s.tls = agent_tls(t->agent) != NULL;
    s.exposed = agent_exposed(t->agent);
    s.incarnation = agent_incarnation(t->agent);
    uuid_format(agent_host_id(t->agent), s.id);
    memcpy(io, &s, io->size < sizeof s ? io->size : sizeof s);
    return THOLE_OK;
}

/* ---- Readiness ------------------------------------------------------------------------------- */

struct readiness {
    struct thole *t;
    pthread_t thread;
    _Atomic bool closing;
    bool ready; /* the state last reported */
    char why[sizeof((struct thole_host_state *)0)->waiting_for];
};

static bool readiness_changed(struct agent *a, void *ctx)
{
    const struct readiness *r = ctx;
    char why[sizeof r->why] = "";
    bool ready = agent_is_ready(a, why, sizeof why);
    return atomic_load(&r->closing) || ready != r->ready || (!ready && strcmp(why, r->why) != 0);
}

static void *readiness_main(void *ctx)
{
    struct readiness *r = ctx;
    struct thole *t = r->t;
    pthread_setname_np(pthread_self(), "readiness");
    (void)log_context_host(agent_name(t->agent));
    while (!atomic_load(&r->closing) && !agent_is_stopping(t->agent)) {
        uint64_t deadline = clock_now(&clock_system) + 3600 * NS_PER_S;
        if (!agent_wait(t->agent, deadline, readiness_changed, r) || atomic_load(&r->closing)) {
            continue;
        }
        r->ready = agent_is_ready(t->agent, r->why, sizeof r->why);
        if (r->ready) {
            r->why[0] = '\0';
        }
        t->o.ready(t->o.ctx, r->ready, r->why);
    }
    return NULL;
}

void api__readiness_begin(struct thole *t)
{
    if (t->o.ready == NULL) {
        return;
    }
    struct readiness *r = xcalloc(1, sizeof *r);
    r->t = t;
    if (pthread_create(&r->thread, NULL, readiness_main, r) != 0) {
        LOG_ERROR(AGENT, "cannot start the thread that reports readiness; it is not reported");
        free(r);
        return;
    }
    t->readiness = r;
}

void api__readiness_end(struct thole *t)
{
    struct readiness *r = t->readiness;
    if (r == NULL) {
        return;
    }
    atomic_store(&r->closing, true);
    agent_signal(t->agent);
    pthread_join(r->thread, NULL);
    t->readiness = NULL;
    free(r);
}

/* ---- The probe ------------------------------------------------------------------------------- */

struct probe {
    struct router_request r;
    void (*done)(void *ctx, enum thole_code code);
    void *ctx;
};

static void probe_done(struct router_request *r)
{
    struct probe *p = CONTAINER_OF(r, struct probe, r);
    p->done(p->ctx, r->status.code);
    bufslice_unref(r->result);
    free(p);
}

enum thole_code thole_probe(struct thole *t, uint32_t timeout_ms,
                            void (*done)(void *ctx, enum thole_code code), void *ctx,
                            struct thole_status *st)
{
    enum thole_code code = api__need_host(t, st);
    if (code != THOLE_OK) {
        return code;
    }
    if (engine_disk(agent_engine(t->agent)) == ENGINE_DISK_STALLED) {
        return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_DISK,
                          "the disk of the log has not finished a write");
    }
    struct probe *p = xcalloc(1, sizeof *p);
    p->done = done;
    p->ctx = ctx;
    p->r.kind = ROUTER_QUERY;
    p->r.shard_id = REGISTRY_SHARD_ID;
    p->r.stale = true;
    p->r.deadline_ns = api__deadline(timeout_ms);
    p->r.done = probe_done;
    agent_route(t->agent, &p->r);
    return THOLE_OK;
}

/* ---- Metrics and certificates ---------------------------------------------------------------- */

static struct bus_tls *tls_of(struct thole *t)
{
    return t->agent != NULL ? agent_tls(t->agent) : NULL;
}

char *thole_metrics(struct thole *t)
{
    struct bytes text = {0};
    metrics_render_process(&text);
    if (t->agent != NULL) {
        agent_metrics(t->agent, &text);
    }
    metrics_render(&text);
    bytes_append(&text, "", 1);
    return (char *)text.data;
}

enum thole_code thole_tls_reload(struct thole *t, struct thole_status *st)
{
    if (tls_of(t) == NULL) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_NONE,
                          "this is no host with certificates");
    }
    return bus_tls_reload(tls_of(t), st);
}

uint64_t thole_tls_pem(struct thole *t, char **ret_cert, char **ret_key)
{
    return tls_of(t) != NULL ? bus_tls_pem(tls_of(t), ret_cert, ret_key) : 0;
}

enum thole_code thole_check_plain(const char *what, const char *address, bool insecure,
                                  struct thole_status *st)
{
    return agent_check_plain(what, address, insecure, st);
}
