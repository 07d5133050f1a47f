/* Faults: how each affects a host, and how it ends. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/sim/play.h"
#include "base/buf.h"

#define SLOW_NS (400 * NS_PER_MS)
#define LOW_BYTES (20 * 1024 * 1024)
/* After a move, the host's name leads to its old address for up to this time. */
#define NAME_NS_MAX (10 * NS_PER_S)
#define WALL_MS_MAX (INT64_C(24) * 3600 * 1000)

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

/* ---- Disks ----------------------------------------------------------------------------------- */

/* At most one host has another disk than its own, or a copy of its disk elsewhere: two old disks
 * together may be a quorum that has forgotten what it acknowledged. */
static struct {
    int host; /* -1: none */
    struct disk_image *own;
} odd = {.host = -1};

static void odd_disk_ends(void *ctx)
{
    (void)ctx;
    struct world_host *copy = world__host(WORLD_COPY);
    if (odd.host < 0) {
        return;
    }
    if (odd.own != NULL) {
        struct world_host *h = world__host(odd.host);
        world__trace("--- %s gets its own disk back", h->name);
        host__crash(h, false);
        disk__put(h, odd.own);
    } else if (copy->life != NULL) {
        world__trace("--- the copy of the disk of %s is switched off", copy->name);
        host__crash(copy, false);
    }
    odd.host = -1;
    play.copy_until_ns = 0;
    odd.own = NULL;
}

/* A host that starts without the newest rows does not know which disk is the old one. So no other
 * host starts meanwhile. */
static bool others_know_its_start(int n)
{
    for (int i = 0; i < world__host_count(); i++) {
        if (i != n && (!play.wanted[i].admitted || world__host(i)->life == NULL)) {
            return false;
        }
    }
    return true;
}

static void end_odd_disk_before(const struct step *p)
{
    bool restarts = p->kind <= STEP_MOVE || p->kind == STEP_CUT_WRITE ||
                    p->kind == STEP_FAIL_WRITE || p->kind == STEP_FLAGS || p->kind == STEP_WIPE ||
                    p->kind == STEP_FLIP_LOG;
    if (restarts && odd.host >= 0 && odd.host != p->host) {
        odd_disk_ends(NULL);
    }
}

static bool may_be_odd(int n)
{
    const struct wanted *w = &play.wanted[n];
    return odd.host < 0 && others_know_its_start(n) && world__host_count() >= 3 &&
           w->image != NULL && w->admitted && !w->out;
}

static void run_on_backup(const struct step *p)
{
    struct world_host *h = world__host(p->host);
    if (!may_be_odd(p->host)) {
        return;
    }
    host__crash(h, false);
    odd.host = p->host;
    odd.own = disk__image(h);
    disk__put(h, play.wanted[p->host].image);
    world__at(world__now_ns() + p->for_ns, NULL, odd_disk_ends, NULL);
}

static void run_copy(const struct step *p)
{
    struct world_host *copy = world__host(WORLD_COPY);
    if (!may_be_odd(p->host)) {
        return;
    }
    odd.host = p->host;
    disk__put(copy, play.wanted[p->host].image);
    snprintf(copy->address, sizeof copy->address, "10.9.0.%d:7400", p->host + 1);
    play.copy_until_ns = world__now_ns() + p->for_ns;
    world__at(play.copy_until_ns, NULL, odd_disk_ends, NULL);
}

/* A disk that shard zero needs is not lost. */
static void wipe(const struct step *p)
{
    struct wanted *w = &play.wanted[p->host];
    disks__note();
    if (!play.formed || w->out || odd.host == p->host || !disks__survives(0, p->host)) {
        return;
    }
    disks__lose(p->host);
    w->joins = true;
    w->image = NULL;
    w->admitted = false;
    down_for(p->host, p->for_ns);
}

static void flip_log(const struct step *p)
{
    uint64_t shard_id = story__is_of_zero(p) ? 0 : clients__shard_id(p->shard);
    if (play.formed && odd.host != p->host && (shard_id != 0 || story__is_of_zero(p)) &&
        disks__damage(p->host, shard_id)) {
        down_for(p->host, p->for_ns);
    }
}

/* ---- The end --------------------------------------------------------------------------------- */

void faults__end_all(void)
{
    odd_disk_ends(NULL);
    for (int a = 0; a < world__host_count(); a++) {
        struct world_host *h = world__host(a);
        for (int b = 0; b < world__host_count(); b++) {
            world__cut(a, b, false);
            world__link(a, b)->delay_max_ns = 0;
        }
        h->paused_until_ns = h->disk_stalled_until_ns = 0;
        h->free_bytes = UINT64_MAX;
        host__set_rate(h, 1000000);
        h->wall_ms = 0;
        memcpy(h->resolved, h->address, sizeof h->resolved);
        play.wanted[a].down_until_ns = 0;
    }
}

/* ---- Beginning faults ------------------------------------------------------------------------ */

static void name_follows(void *ctx)
{
    struct world_host *h = ctx;
    memcpy(h->resolved, h->address, sizeof h->resolved);
}

static void move_address(struct world_host *h)
{
    unsigned n = (unsigned)h->n + 1, k = ++play.wanted[h->n].moves;
    snprintf(h->address, sizeof h->address, "10.0.%u.%u:7400", k, n);
    world__at(world__now_ns() + world__draw_ns(0, NAME_NS_MAX), NULL, name_follows, h);
}

/* Faults of disks, of wall clocks and of configurations. */
static void do_to_host(const struct step *p)
{
    struct world_host *h = world__host(p->host);
    switch ((int)p->kind) {
    case STEP_WALL:
        h->wall_ms = (int64_t)(p->for_ns % (uint64_t)(2 * WALL_MS_MAX)) - WALL_MS_MAX;
        break;
    case STEP_FLAGS:
        down_for(p->host, p->for_ns);
        play.wanted[p->host].flags = p->amount;
        host__stop(h);
        break;
    case STEP_WIPE:
        wipe(p);
        break;
    case STEP_OLD_DISK:
        run_on_backup(p);
        break;
    case STEP_COPY_DISK:
        run_copy(p);
        break;
    case STEP_FLIP_LOG:
        flip_log(p);
        break;
    default:
        break;
    }
}

void faults__do(const struct step *p)
{
    struct world_host *h = world__host(p->host);
    int n = p->host, o = p->other;
    bool alone = world__host_count() == 1;
    end_odd_disk_before(p);
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
        do_to_host(p);
        break;
    }
}
