/* Work on many shards with a bounded number of threads, each with a channel of its own. See
 * cmd_backup.h. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/cli/cmd_backup.h"
#include "base/assert.h"
#include "base/clock.h"
#include "bus/bus.h"

struct worker {
    struct parallel *p;
    struct cli mine;
    pthread_t thread;
};

/* ---- Progress, with the mutex ---------------------------------------------------------------- */

static void tell(struct parallel *p, bool end)
{
    char bytes[16], left[48] = "";
    uint64_t now = clock_now(&clock_system);
    uint64_t pause = p->terminal ? NS_PER_S / 5 : NS_PER_S;
    if (p->count == 0 || (now - p->told_ns < pause && !(end && p->terminal))) {
        return;
    }
    p->told_ns = now;
    double seconds = (double)(now - p->begin_ns) / 1e9;
    size_t total = p->count - p->first;
    if (p->done > p->skipped && p->done < total && seconds > 1) {
        snprintf(left, sizeof left, ", about %.0f s left",
                 seconds / (double)p->done * (double)(total - p->done));
    }
    fprintf(stderr, "%s%s %zu of %zu shards, %zu unchanged, %s%s%s", p->terminal ? "\r\033[K" : "",
            p->what, p->done, total, p->skipped, cli__bytes(p->bytes, bytes, sizeof bytes), left,
            p->terminal && !end ? "" : "\n");
    fflush(stderr);
}

void transfer_progress(void *ctx, uint64_t done, uint64_t total)
{
    struct transfer *t = ctx;
    (void)total;
    pthread_mutex_lock(&t->p->mutex);
    t->p->bytes += done - t->counted;
    t->counted = done;
    tell(t->p, false);
    pthread_mutex_unlock(&t->p->mutex);
}

void parallel_skipped(struct parallel *p)
{
    pthread_mutex_lock(&p->mutex);
    p->skipped++;
    pthread_mutex_unlock(&p->mutex);
}

/* ---- Threads --------------------------------------------------------------------------------- */

static bool take(struct parallel *p, size_t *ret)
{
    pthread_mutex_lock(&p->mutex);
    bool more = p->first + p->taken < p->count && p->failure.code == THOLE_OK;
    if (more) {
        *ret = p->first + p->taken++;
    }
    pthread_mutex_unlock(&p->mutex);
    return more;
}

static void *work(void *arg)
{
    struct worker *w = arg;
    struct parallel *p = w->p;
    size_t item = 0;
    while (take(p, &item)) {
        struct thole_status st;
        enum thole_code code = p->one(p->ctx, &w->mine, item, &st);
        pthread_mutex_lock(&p->mutex);
        p->done++;
        if (code != THOLE_OK && p->failure.code == THOLE_OK) {
            p->failure = st;
        }
        tell(p, p->first + p->done == p->count);
        pthread_mutex_unlock(&p->mutex);
    }
    bus_channel_free(w->mine.channel);
    return NULL;
}

void parallel_init(struct parallel *p, struct cli *c, const char *what, void *ctx,
                   enum thole_code (*one)(void *ctx, struct cli *mine, size_t item,
                                          struct thole_status *st))
{
    *p = (struct parallel){.c = c, .what = what, .ctx = ctx, .one = one};
    pthread_mutex_init(&p->mutex, NULL);
    p->begin_ns = p->told_ns = clock_now(&clock_system);
    p->terminal = isatty(STDERR_FILENO) != 0;
}

enum thole_code parallel_run(struct parallel *p, struct thole_status *st)
{
    struct worker workers[PARALLEL_MAX];
    size_t count = (size_t)cli_number(p->c, OPT_PARALLEL);
    count = count < p->count - p->first ? count : p->count - p->first;
    ASSERT(count <= PARALLEL_MAX && p->c->channel != NULL);
    for (size_t i = 0; i < count; i++) {
        workers[i] = (struct worker){.p = p, .mine = *p->c};
        workers[i].mine.channel = NULL;
        workers[i].mine.arena = p->arenas[p->arena_count++] = upb_Arena_New();
        int failed = pthread_create(&workers[i].thread, NULL, work, &workers[i]);
        ASSERT(failed == 0);
    }
    for (size_t i = 0; i < count; i++) {
        (void)pthread_join(workers[i].thread, NULL);
    }
    if (p->failure.code != THOLE_OK) {
        *st = p->failure;
    }
    return p->failure.code;
}

void parallel_deinit(struct parallel *p)
{
    for (size_t i = 0; i < p->arena_count; i++) {
        upb_Arena_Free(p->arenas[i]);
    }
    pthread_mutex_destroy(&p->mutex);
}
