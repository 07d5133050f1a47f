/* What both executors share. */
#ifndef BASE_WORKER_INTERNAL_H
#define BASE_WORKER_INTERNAL_H

#include <pthread.h>

#include "base/worker.h"

struct executor {
    const struct clock *clock;
    struct worker *(*create)(struct executor *ex); /* allocates, zeroed */
    void (*begin)(struct worker *w);               /* after worker__init */
    void (*wake)(struct worker *w); /* its mutex held; something to do where nothing was */
    void (*join)(struct worker *w); /* stopping is set: run the final turn, wait for its end */
    void (*destroy)(struct worker *w);
    void (*free)(struct executor *ex);
    size_t worker_count; /* under mutex */
    pthread_mutex_t mutex;
};

struct worker {
    struct executor *executor;
    worker_turn_fn turn;
    void *ctx;
    size_t capacity;
    char name[16];

    pthread_mutex_t mutex;
    struct msgq inbox;
    size_t counted; /* messages in the inbox that worker_post put there */
    bool stopping;
    bool joined;
    uint64_t deadline_ns;
};

/* Take everything that waits; the caller holds the mutex. */
struct msgq worker__take(struct worker *w);
void worker__init(struct worker *w, struct executor *ex, const char *name, size_t capacity,
                  worker_turn_fn turn, void *ctx);
void worker__deinit(struct worker *w);

#endif
