/* Shared by the executors: the mailbox, and the operations in which they differ. */
#ifndef BASE_WORKER_INTERNAL_H
#define BASE_WORKER_INTERNAL_H

#include <bsd/sys/queue.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/cork.h"
#include "base/worker.h"

#define WORKER_NAME_BYTES 16 /* with the NUL; what Linux allows a thread */

struct worker {
    struct executor *ex;
    char name[WORKER_NAME_BYTES];
    worker_turn_fn turn;
    void *ctx;
    bool background;
    size_t capacity;

    pthread_mutex_t mutex; /* guards the members down to `stopped` */
    struct msgq mailbox;
    size_t counted; /* messages of the mailbox that count against the capacity */
    bool sleeping;  /* threaded: waits on `wake`, and nobody has signalled yet */
    bool stopped;   /* takes no more messages */

    uint64_t deadline_ns; /* of the next turn without messages; the executor's */

    /* Threaded executor */
    pthread_cond_t wake;
    pthread_t thread;
    bool joined;
    _Atomic uint32_t signallers; /* threads between unlocking `mutex` and having signalled */
    _Atomic uint64_t signals;    /* sent so far; for tests */
    struct cork_item late_wake;  /* of the corked thread that will wake it */
    bool wake_promised;          /* under mutex: late_wake is in use */

    /* Manual executor */
    TAILQ_ENTRY(worker) entry;
    _Atomic bool has_mail; /* set under mutex; read without, since each step looks at all workers */
    bool running;
};

struct executor_ops {
    bool threads; /* each worker has its own */
    void (*start)(struct worker *w);
    /* Called with the mutex held; releases it. Ensures that a turn follows. */
    void (*unlock_and_wake)(struct worker *w);
    /* `stopped` is set: handle the remaining messages, and return after the last turn. */
    void (*finish)(struct worker *w);
    void (*release)(struct worker *w);
    void (*free)(struct executor *ex);
};

struct executor {
    const struct executor_ops *ops;
    const struct clock *clock;
    char *host; /* NULL: none */
    _Atomic size_t workers;
};

/* Empty the mailbox into `batch`; the mutex is held. */
void worker__take(struct worker *w, struct msgq *batch);
/* Run one turn; the mutex is not held. Sets deadline_ns. */
void worker__turn(struct worker *w, struct msgq *batch);

#endif
