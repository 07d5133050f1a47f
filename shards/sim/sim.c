/* One run: virtual time, and the events in their order. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "shards/sim/sim_internal.h"

/* ---- Events: a binary heap by (time, number) ------------------------------------------------- */

static bool before(const struct sim_event *a, const struct sim_event *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->number < b->number;
}

void sim__at(struct sim *s, uint64_t at_ns, sim_fire_fn fire, void *arg)
{
    if (s->event_count == s->event_capacity) {
        s->event_capacity = s->event_capacity ? s->event_capacity * 2 : 256;
        s->events = xrealloc(s->events, s->event_capacity * sizeof s->events[0]);
    }
    struct sim_event e = {at_ns, s->event_number++, fire, arg};
    size_t i = s->event_count++;
    while (i > 0 && before(&e, &s->events[(i - 1) / 2])) {
        s->events[i] = s->events[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    s->events[i] = e;
}

static struct sim_event pop(struct sim *s)
{
    struct sim_event top = s->events[0], last = s->events[--s->event_count];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= s->event_count) {
            break;
        }
        if (child + 1 < s->event_count && before(&s->events[child + 1], &s->events[child])) {
            child++;
        }
        if (!before(&s->events[child], &last)) {
            break;
        }
        s->events[i] = s->events[child];
        i = child;
    }
    if (s->event_count > 0) {
        s->events[i] = last;
    }
    return top;
}

/* ---- Failure and trace ----------------------------------------------------------------------- */

void sim__mix(struct sim *s, uint64_t a, uint64_t b)
{
    uint64_t h = s->report->hash ^ s->now_ns;
    h = (h ^ a) * UINT64_C(0x9e3779b97f4a7c15);
    h = (h ^ h >> 29 ^ b) * UINT64_C(0xbf58476d1ce4e5b9);
    s->report->hash = h ^ h >> 32;
}

__attribute__((format(printf, 2, 0))) static void print_line(struct sim *s, const char *format,
                                                             va_list args)
{
    (void)fprintf(s->o.trace, "%6" PRIu64 ".%06" PRIu64 " ", s->now_ns / NS_PER_MS,
                  s->now_ns % NS_PER_MS);
    (void)vfprintf(s->o.trace, format, args);
    (void)fputc('\n', s->o.trace);
}

void sim__trace_line(struct sim *s, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    print_line(s, format, args);
    va_end(args);
}

void sim__fail(struct sim *s, const char *format, ...)
{
    va_list args;
    if (s->report->failed) {
        return;
    }
    s->report->failed = true;
    s->report->at_ns = s->now_ns;
    va_start(args, format);
    (void)vsnprintf(s->report->why, sizeof s->report->why, format, args);
    va_end(args);
    SIM_TRACE(s, "FAILED: %s", s->report->why);
}

/* ---- Time ------------------------------------------------------------------------------------ */

static void after_turn(struct sim *s, struct sim_host *h)
{
    if (!h->ending || h->engine == NULL) {
        return;
    }
    sim__host_crash(h);
    sim__host_restart_later(h, rand_between(&s->rand[SIM_CRASH], 1, 3000) * SIM_MS);
}

void sim__advance(struct sim *s, uint64_t to_ns)
{
    while (!s->report->failed && !s->hopeless) {
        uint64_t next = s->event_count ? s->events[0].at_ns : CLOCK_NEVER;
        struct sim_host *host = NULL;
        for (int i = 0; i < s->c.hosts; i++) {
            struct sim_host *h = &s->hosts[i];
            uint64_t at = h->engine != NULL ? sim__host_next(h) : CLOCK_NEVER;
            if (at < next) {
                next = at;
                host = h;
            }
        }
        if (next > to_ns) {
            break;
        }
        if (next > s->now_ns) {
            s->now_ns = next;
        }
        if (host != NULL) {
            sim__host_turn(host);
            after_turn(s, host);
        } else {
            struct sim_event e = pop(s);
            e.fire(s, e.arg);
        }
    }
    if (!s->report->failed) {
        s->now_ns = to_ns;
    }
}

struct replica *sim__replica(struct sim *s, int host, const struct shard *shard)
{
    struct sim_host *h = &s->hosts[host];
    if (h->engine == NULL || h->ending) {
        return NULL;
    }
    return map_get(&h->engine->by_shard, shard->id);
}

int sim__leader(struct sim *s, const struct shard *shard)
{
    int best = -1;
    uint64_t term = 0, epoch = 0;
    for (int i = 0; i < s->c.hosts; i++) {
        const struct replica *r = sim__replica(s, i, shard);
        if (r == NULL || r->state != GROUP_RUNNING || sim_status(r).role != RAFT_LEADER) {
            continue;
        }
        const struct raft_status status = sim_status(r);
        if (best < 0 || status.epoch > epoch || (status.epoch == epoch && status.term > term)) {
            best = i;
            term = status.term;
            epoch = status.epoch;
        }
    }
    return best;
}

/* ---- A run ----------------------------------------------------------------------------------- */

static void init(struct sim *s)
{
    static const char *const types[] = {"views", "plain", "persistent"};
    sim__config_draw(&s->o, &s->c);
    s->now_ns = SIM_START_NS;
    s->end_ns = s->now_ns + s->o.ticks * SIM_TICK_MS * NS_PER_MS;
    for (int i = 0; i < SIM_FAULTS + 4; i++) {
        rand_seed(&s->rand[i], s->o.seed * 64 + (uint64_t)i);
    }
    struct rand leases;
    rand_seed(&leases, s->o.seed * 64 + 63);
    for (int i = 0; i < s->c.groups; i++) {
        struct shard *shard = &s->shards[i];
        uint64_t n = sim_has(&s->c, SIM_PERSISTENT) ? 3 : 2;
        shard->id = (uint64_t)i + 1;
        shard->type = types[rand_below(&s->rand[SIM_PERSISTENT], n)];
        shard->lease_reads = rand_chance(&leases, s->c.leases);
        for (int k = 0; k < SIM_KEYS; k++) {
            shard->keys[k] = (struct key){++shard->key_number, linear_new(0), 0, false};
        }
    }
    sim__network_init(s);
    for (int i = 0; i < s->c.hosts; i++) {
        sim__host_init(s, i);
        if (s->c.skew_ppm > 0) {
            sim__host_set_rate(&s->hosts[i], 1000000 - s->c.skew_ppm +
                                                 rand_below(&s->rand[SIM_SKEW], 2 * s->c.skew_ppm));
        }
        sim__host_start(&s->hosts[i]);
    }
}

static void deinit(struct sim *s)
{
    for (int i = 0; i < s->c.hosts; i++) {
        sim__host_deinit(&s->hosts[i]);
    }
    sim__network_drop_all(s);
    sim__clients_free(s);
    sim__shadow_free(s);
    free(s->events);
}

void sim_run(const struct sim_options *o, struct sim_report *ret)
{
    struct sim *s = xcalloc(1, sizeof *s);
    *ret = (struct sim_report){0};
    s->o = *o;
    s->report = ret;
    init(s);
    sim__admin_bootstrap(s);
    sim__clients_start(s);
    sim__timers_start(s);
    if (!o->bench) {
        sim__admin_start(s);
        sim__nemesis_start(s);
        sim__force_start(s);
    }
    sim__advance(s, s->end_ns);
    if (!o->bench && !ret->failed && !s->hopeless) {
        sim__final_phase(s);
    }
    if (!ret->failed && !s->hopeless) {
        sim__check_end(s);
    }
    if (!ret->failed) {
        ret->at_ns = s->now_ns;
    }
    deinit(s);
    free(s);
}
