/* Blocking until a callback has come.
 *
 * A latch is opened once, with a status, and stays open. One thread (or several) waits for that;
 * any thread opens it: a callback with its outcome, or whoever cancels the wait. The first opening
 * decides the status, and later ones change nothing.
 *
 * The latch may be on the waiting thread's stack only if nothing can open it after latch_deinit: a
 * thread that gave up at a deadline must still wait for the callback that holds the pointer. */
#ifndef BASE_LATCH_H
#define BASE_LATCH_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <thole/status.h>

struct latch {
    pthread_mutex_t mutex; /* the rest */
    pthread_cond_t opened;
    bool open;
    struct thole_status st; /* with which it was opened */
};

void latch_init(struct latch *l);
void latch_deinit(struct latch *l);
/* NULL: THOLE_OK. What was written before this is visible after the wait. Any thread. */
void latch_open(struct latch *l, const struct thole_status *st);
/* The same as a callback: `ctx` is the latch. */
void latch_callback(void *ctx, const struct thole_status *st);
bool latch_is_open(struct latch *l);
/* Returns the code with which the latch was opened; `st` as for every fallible call. */
enum thole_code latch_wait(struct latch *l, struct thole_status *st);
/* False: it was not opened before the deadline (of clock_system). */
bool latch_wait_until(struct latch *l, uint64_t deadline_ns);

#endif
