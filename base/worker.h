/* Workers and the executor: the only way in which Thole's own code meets threads.
 *
 * A worker is a mailbox with a turn function. Anybody may post messages from any thread; the
 * executor calls `turn` with everything that has piled up, one turn at a time per worker, so a
 * worker's state needs no locks. Nothing polls: a worker is run when a message arrives or when the
 * deadline that its last turn returned has passed.
 *
 * Two executors exist. The threaded one gives each worker a thread of its own. The manual one runs
 * workers on the caller's thread in a deterministic order under a virtual clock: it is what the
 * single-threaded harness and the simulator use, with the same workers.
 *
 * Messages are intrusive: embed `struct worker_msg` in the object that is handed over; ownership
 * passes with the post and comes back only through another message or callback. */
#ifndef BASE_WORKER_H
#define BASE_WORKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"

struct worker_msg {
    struct worker_msg *next;
    uint32_t kind; /* the owner's enumeration */
};

/* A singly linked FIFO of messages; zero-initialised is empty. */
struct msgq {
    struct worker_msg *head;
    struct worker_msg *tail;
    size_t count;
};
void msgq_push(struct msgq *q, struct worker_msg *m);
struct worker_msg *msgq_pop(struct msgq *q);
void msgq_concat(struct msgq *to, struct msgq *from); /* empties `from` */

#define CONTAINER_OF(ptr, type, member) ((type *)(void *)(((char *)(ptr)) - offsetof(type, member)))

struct worker;
struct executor;

/* Handle every message of `batch` (the worker may keep some by moving them elsewhere).
 * `now_ns` is the executor's monotonic time at the start of the turn.
 * Returns the time of the next turn wanted even without messages, or CLOCK_NEVER. */
typedef uint64_t (*worker_turn_fn)(void *ctx, struct msgq *batch, uint64_t now_ns);

/* `name` (at most 15 characters) also names the thread and the worker's log lines.
 * `capacity` bounds the messages that worker_post may have waiting. */
struct worker *worker_new(struct executor *ex, const char *name, size_t capacity,
                          worker_turn_fn turn, void *ctx);

/* The same for long work, of which others have no need to be held up: its thread gets what time of
 * the processors they leave. */
struct worker *worker_new_background(struct executor *ex, const char *name, size_t capacity,
                                     worker_turn_fn turn, void *ctx);

/* Hand `m` over. False if the mailbox is full or the worker was stopped: `m` stays the caller's. */
bool worker_post(struct worker *w, struct worker_msg *m) __attribute__((warn_unused_result));

/* Hand over a message whose number is bounded elsewhere (an answer to something outstanding, a
 * command of the owner); it does not count against the capacity. False only after worker_stop. */
bool worker_post_internal(struct worker *w, struct worker_msg *m)
    __attribute__((warn_unused_result));
bool worker_post_internal_q(struct worker *w, struct msgq *q) __attribute__((warn_unused_result));

/* Is the caller in a turn of `w`? For assertions about what belongs to a worker. Any thread. */
bool worker_is_current(const struct worker *w);
/* The calling thread counts as in a turn of `w` (NULL: of none) from now on. Returns what it was
 * before. For the executors, and for tests that call a worker's functions themselves. */
const struct worker *worker_assume(const struct worker *w);

/* Messages waiting now (for metrics and for back-pressure decisions). */
size_t worker_depth(const struct worker *w);

/* Stop after the messages posted so far have been handled, and wait for the last turn to end.
 * Must not be called from the worker's own turn. Later posts return false. */
void worker_stop(struct worker *w);
void worker_free(struct worker *w); /* after worker_stop; NULL is fine */

struct executor *executor_threaded_new(const struct clock *clock);
/* The host that the workers' log lines name; copied. Before the first worker. */
void executor_set_host(struct executor *ex, const char *name);
void executor_free(struct executor *ex); /* every worker must have been freed */
const struct clock *executor_clock(const struct executor *ex);
/* May a turn wait for what another worker does? Only where each has a thread of its own. */
bool executor_may_wait(const struct executor *ex);

/* The manual executor: virtual time starts at `start_ns`. executor_manual_run runs one turn of
 * each worker that has messages or a passed deadline, in creation order, until none has; returns
 * the number of turns. executor_manual_advance moves virtual time forward to `to_ns`, stopping at
 * each deadline on the way to run what is due. `max_turns` guards against livelock (ASSERT). */
struct executor *executor_manual_new(uint64_t start_ns);
size_t executor_manual_run(struct executor *ex, size_t max_turns);
void executor_manual_advance(struct executor *ex, uint64_t to_ns, size_t max_turns);
uint64_t executor_manual_next_deadline(const struct executor *ex);

#endif
