/* Faults: how each affects a host, and how it ends. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/sim/play.h"
#include "base/buf.h"

#define SLOW_NS (400 * NS_PER_MS)
#define LOW_BYTES (20 * 1024 * 1024)

static void down_for(int n, uint64_t ns)
{
    uint64_t until = world__now_ns() + ns;
    if (until > play.wanted[n].down_until_ns) {
        play.wanted[n].down_until_ns = until;
    }
}

/* ---- Ending faults --------------------------------------------------------------------------- */

struct cut_end {
    int from, to;
};

static void cut_ends(void *ctx)
{
    struct cut_end *e = ctx;
    world__cut(e->from, e->to, false);
    world__link(e->from, e->to)->delay_max_ns = 0;
    free(e);
}

static void cut_for(int from, int to, uint64_t ns)
{
    struct cut_end *e = xmalloc(sizeof *e);
    *e = (struct cut_end){from, to};
    world__cut(from, to, true);
    world__at(world__now_ns() + ns, NULL, cut_ends, e);
}

static void slow_for(int from, int to, uint64_t ns)
{
    struct cut_end *e = xmalloc(sizeof *e);
    *e = (struct cut_end){from, to};
    world__link(from, to)->delay_min_ns = SLOW_NS / 8;
    world__link(from, to)->delay_max_ns = SLOW_NS;
    world__at(world__now_ns() + ns, NULL, cut_ends, e);
}

static void space_is_back(void *ctx)
{
    struct world_host *h = ctx;
    h->free_bytes = UINT64_MAX;
}

void faults__end_all(void)
{
    for (int a = 0; a < world__host_count(); a++) {
        struct world_host *h = world__host(a);
        for (int b = 0; b < world__host_count(); b++) {
            world__cut(a, b, false);
            world__link(a, b)->delay_max_ns = 0;
        }
        h->paused_until_ns = h->disk_stalled_until_ns = 0;
        h->free_bytes = UINT64_MAX;
        host__set_rate(h, 1000000);
        play.wanted[a].down_until_ns = 0;
    }
}

/* ---- Beginning faults ------------------------------------------------------------------------ */

static void move_address(struct world_host *h)
{
    unsigned n = (unsigned)h->n + 1, k = ++play.wanted[h->n].moves;
    snprintf(h->address, sizeof h->address, "10.0.%u.%u:7400", k, n);
}

void faults__do(const struct step *p)
{
    struct world_host *h = world__host(p->host);
    int n = p->host, o = p->other;
    bool alone = world__host_count() == 1;
    switch ((int)p->kind) {
    case STEP_CRASH:
    case STEP_POWER_LOSS:
        down_for(n, p->for_ns);
        host__crash(h, p->kind == STEP_POWER_LOSS);
        break;
    case STEP_RESTART:
        down_for(n, p->for_ns);
        host__stop(h);
        break;
    case STEP_MOVE:
        down_for(n, p->for_ns);
        if (h->life != NULL && h->life->agent != NULL) {
            host__stop(h);
            move_address(h);
        }
        break;
    case STEP_PAUSE:
        h->paused_until_ns = world__now_ns() + p->for_ns;
        break;
    case STEP_ISOLATE:
        for (int i = 0; i < world__host_count(); i++) {
            if (i != n) {
                cut_for(n, i, p->for_ns);
                cut_for(i, n, p->for_ns);
            }
        }
        break;
    case STEP_CUT:
        if (!alone) {
            cut_for(n, o, p->for_ns);
            cut_for(o, n, p->for_ns);
        }
        break;
    case STEP_CUT_ONE_WAY:
        if (!alone) {
            cut_for(n, o, p->for_ns);
        }
        break;
    case STEP_SLOW_LINK:
        if (!alone) {
            slow_for(n, o, p->for_ns);
        }
        break;
    case STEP_SLOW_DISK:
        h->disk_stalled_until_ns = world__now_ns() + p->for_ns;
        break;
    case STEP_CUT_WRITE:
        down_for(n, p->for_ns);
        sim_log__crash_in_write(h->log);
        break;
    case STEP_FAIL_WRITE:
        sim_log__fail_write(h->log);
        break;
    case STEP_LOW_SPACE:
        h->free_bytes = LOW_BYTES;
        world__at(world__now_ns() + p->for_ns, NULL, space_is_back, h);
        break;
    case STEP_CLOCK: /* leases allow for such a difference between two clocks */
        host__set_rate(h, p->amount % 2 != 0 ? 1050000 : 950000);
        break;
    default:
        break;
    }
}
