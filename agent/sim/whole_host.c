/* A simulated host: the state that outlives its lives, and how it starts, stops and crashes. */
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/services/services.h"
#include "agent/sim/world.h"
#include "base/assert.h"
#include "base/buf.h"

static struct world_host hosts[WORLD_MACHINES_MAX];
static int host_count;

struct world_host *world__host(int n)
{
    return &hosts[n];
}

int world__host_count(void)
{
    return host_count;
}

/* Names are m1.sim, m2.sim, ... */
const char *world__resolve(const char *address)
{
    int n = 0, end = 0;
    if (sscanf(address, "m%d.sim%n", &n, &end) == 1 && end > 0 && n >= 1 && n <= host_count) {
        return hosts[n - 1].resolved;
    }
    return address;
}

/* Names of hosts in life are resolved here, and no others. */
int __real_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                       struct addrinfo **ret);
int __wrap_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                       struct addrinfo **ret);
int __wrap_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                       struct addrinfo **ret)
{
    char address[WORLD_ADDRESS_BYTES];
    struct addrinfo numeric = hints != NULL ? *hints : (struct addrinfo){0};
    if (life__now == NULL || node == NULL) {
        return __real_getaddrinfo(node, service, hints, ret);
    }
    snprintf(address, sizeof address, "%s", world__resolve(node));
    address[strcspn(address, ":")] = '\0';
    numeric.ai_flags |= AI_NUMERICHOST;
    return __real_getaddrinfo(address, service, &numeric, ret);
}

/* ---- Its clock ------------------------------------------------------------------------------- */

uint64_t host__clock_ns(const struct world_host *h)
{
    return skewed_clock_ns(&h->clock, world__now_ns());
}

uint64_t host__world_ns(const struct world_host *h, uint64_t clock_ns)
{
    return skewed_clock_when(&h->clock, clock_ns);
}

void host__set_rate(struct world_host *h, uint64_t rate_ppm)
{
    skewed_clock_set_rate(&h->clock, world__now_ns(), rate_ppm);
    if (h->life != NULL) {
        life__clock_changed(h->life);
    }
}

/* ---- Its life -------------------------------------------------------------------------------- */

void host__init(struct world_host *h, int n, const char *root)
{
    memset(h, 0, sizeof *h);
    h->n = n;
    snprintf(h->name, sizeof h->name, "h%d", n + 1);
    snprintf(h->dir, sizeof h->dir, "%s/%s", root, h->name);
    snprintf(h->address, sizeof h->address, "10.0.0.%d:7400", n + 1);
    snprintf(h->resolved, sizeof h->resolved, "%s", h->address);
    h->clock = (struct skewed_clock){WORLD_START_NS, world__now_ns(), SKEWED_CLOCK_EXACT_PPM};
    h->free_bytes = UINT64_MAX;
    h->log = sim_log__new(h);
    host_count = n + 1 > host_count && n < WORLD_HOSTS_MAX ? n + 1 : host_count;
}

static void on_failed(void *ctx, const struct thole_status *st)
{
    struct world_host *h = ctx;
    h->failure = *st;
    world__trace("%s: cannot go on: %s", h->name, st->message);
}

struct starting {
    struct world_host *host;
    struct life *life;
    struct host_start o;
};

static void start_main(void *ctx)
{
    struct starting *s = ctx;
    struct world_host *h = s->host;
    struct thole_status st = {0};
    struct agent *a = NULL;
    size_t types = 0;
    const struct thole_machine_type *const *all = host__types(&types);
    const struct agent_options o = {
        .data_dir = h->dir,
        .listen = h->address,
        .advertise = h->advertise[0] != '\0' ? h->advertise : NULL,
        .insecure = true, /* required for addresses outside loopback */
        .name = h->name,
        .tags = s->o.tags,
        .tag_count = s->o.tag_count,
        .bootstrap = s->o.bootstrap,
        .addresses = s->o.addresses,
        .election_timeout_ms = s->o.election_timeout_ms,
        .heartbeat_ms = s->o.heartbeat_ms,
        .compact_log_bytes = s->o.compact_log_bytes,
        .loop_count = 1,
        .applier_count = 1,
        .types = all,
        .type_count = types,
        .services = services_register,
        .services_end = services_unregister,
        .failed = on_failed,
        .failed_ctx = h,
    };
    if (agent_new(&o, &a, &st) == THOLE_OK) {
        s->life->agent = a;
        h->id = *agent_host_id(a);
        world__trace("%s: runs at %s", h->name, agent_address(a));
    } else {
        h->failure = st;
        s->life->ended = true;
        h->life = NULL;
        world__trace("%s: does not start: %s", h->name, st.message);
    }
    free(s);
}

void host__start(struct world_host *h, const struct host_start *o)
{
    if (h->life != NULL) {
        return;
    }
    struct starting *s = xcalloc(1, sizeof *s);
    h->starts++;
    memset(&h->failure, 0, sizeof h->failure);
    h->life = s->life = life__new(h);
    s->host = h;
    s->o = *o;
    world__trace("%s: starts, for the %u. time", h->name, (unsigned)h->starts);
    fiber__start(s->life, "start", start_main, s);
}

static void stop_main(void *ctx)
{
    struct world_host *h = ctx;
    struct life *life = h->life;
    agent_stop(life->agent);
    life->ended = true;
    h->life = NULL;
    h->stopping = false;
    sim_bus__stopped(life);
    world__trace("%s: has stopped", h->name);
}

void host__stop(struct world_host *h)
{
    if (h->life == NULL || h->life->agent == NULL || h->stopping) {
        return;
    }
    world__trace("%s: stops", h->name);
    h->stopping = true;
    fiber__start(h->life, "stop", stop_main, h);
}

void host__crash(struct world_host *h, bool silent)
{
    struct life *life = h->life;
    if (life == NULL) {
        return;
    }
    world__trace("%s: crashes%s", h->name, silent ? ", and its machine with it" : "");
    life->ended = true;
    h->life = NULL;
    h->stopping = false;
    h->paused_until_ns = h->disk_stalled_until_ns = 0;
    sim_bus__crashed(life, silent);
}

bool host__ready(struct world_host *h)
{
    char why[256];
    if (h->life == NULL || h->life->agent == NULL || h->stopping) {
        return false;
    }
    struct life *earlier = life__enter(h->life);
    bool ready = agent_is_ready(h->life->agent, why, sizeof why);
    life__leave(earlier);
    return ready;
}

/* A crashed life cannot unlock its files in this process, so take no locks at all. */
enum thole_code __wrap_file_lock(const char *path, int *ret_fd, struct thole_status *st);
enum thole_code __wrap_file_lock(const char *path, int *ret_fd, struct thole_status *st)
{
    (void)path;
    (void)st;
    *ret_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    return THOLE_OK;
}

/* Returns the free space of the host whose code calls it. */
enum thole_code __wrap_file_space(const char *path, uint64_t *ret_free_bytes,
                                  uint64_t *ret_total_bytes, struct thole_status *st);
enum thole_code __wrap_file_space(const char *path, uint64_t *ret_free_bytes,
                                  uint64_t *ret_total_bytes, struct thole_status *st)
{
    (void)path;
    (void)st;
    uint64_t bytes = life__now != NULL ? life__now->host->free_bytes : UINT64_MAX;
    if (ret_free_bytes != NULL) {
        *ret_free_bytes = bytes;
    }
    if (ret_total_bytes != NULL) {
        *ret_total_bytes = UINT64_MAX;
    }
    return THOLE_OK;
}
