/* Blocking until a callback has come. See latch.h. */
#include "base/latch.h"

#include "base/assert.h"
#include "base/clock.h"

void latch_init(struct latch *l)
{
    pthread_mutex_init(&l->mutex, NULL);
    clock_cond_init(&l->opened);
    l->open = false;
    l->st = (struct thole_status){.code = THOLE_OK};
}

void latch_deinit(struct latch *l)
{
    pthread_cond_destroy(&l->opened);
    pthread_mutex_destroy(&l->mutex);
}

/* Signals under the mutex: the waiting thread may destroy the latch as soon as it has the mutex. */
void latch_open(struct latch *l, const struct thole_status *st)
{
    pthread_mutex_lock(&l->mutex);
    if (!l->open) {
        if (st != NULL) {
            l->st = *st;
        }
        l->open = true;
        pthread_cond_broadcast(&l->opened);
    }
    pthread_mutex_unlock(&l->mutex);
}

void latch_callback(void *ctx, const struct thole_status *st)
{
    latch_open(ctx, st);
}

bool latch_is_open(struct latch *l)
{
    pthread_mutex_lock(&l->mutex);
    bool open = l->open;
    pthread_mutex_unlock(&l->mutex);
    return open;
}

bool latch_wait_until(struct latch *l, uint64_t deadline_ns)
{
    pthread_mutex_lock(&l->mutex);
    while (!l->open && clock_cond_wait(&l->opened, &l->mutex, deadline_ns)) {
    }
    bool open = l->open;
    pthread_mutex_unlock(&l->mutex);
    return open;
}

enum thole_code latch_wait(struct latch *l, struct thole_status *st)
{
    bool open = latch_wait_until(l, CLOCK_NEVER);
    ASSERT(open);
    if (l->st.code != THOLE_OK && st != NULL) {
        *st = l->st;
    }
    return l->st.code;
}
