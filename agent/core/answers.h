/* Answers in pieces (agent/routing/answers.c): what a streamed query began, on a replica of this
 * host (struct engine_reader) or on another host, which is asked for each piece (METHOD_ANSWER).
 * The reader sets the pace, and nothing is made ahead.
 *
 * To read one: route a router_request with `streamed`, give it to answers_add once it is done, call
 * answers_next until `end` or an error. What is not read for LIMIT_ANSWER_IDLE_MS, or lives for
 * LIMIT_ANSWER_MS, ends; so does the view that it is made from.
 *
 * A client of the library has such a table, too; all its answers are on other hosts. */
#ifndef AGENT_CORE_ANSWERS_H
#define AGENT_CORE_ANSWERS_H

#include "agent/core/agent.h"
#include "base/worker.h"

struct answers;

struct answers *answers_new(struct executor *executor, struct bus *bus);
void answers_stop(struct answers *a); /* running calls of answers_next end; NULL is fine */
void answers_free(struct answers *a); /* after answers_stop, before engine_free; NULL is fine */

/* Keep the answer that a request began, and is answered with OK. *ret_id is a secret: who knows it
 * may read the answer. 0: r->result is the whole answer. RESOURCE_EXHAUSTED QUEUE_FULL: closed. */
THOLE_MUST_CHECK enum thole_code answers_add(struct answers *a, struct router_request *r,
                                             uint64_t *ret_id, struct thole_status *st);
/* `done` is called exactly once, on any thread, perhaps before this returns; it must not block.
 * `piece` is borrowed, and may be empty. After `end` or an error the id is unknown. One call at a
 * time for each answer. */
typedef void (*answer_piece_fn)(void *ctx, const struct thole_status *st, struct bufslice piece,
                                bool end);
void answers_next(struct answers *a, uint64_t id, answer_piece_fn done, void *ctx);
/* Read no further. A running answers_next still ends with its `done`. Unknown ids are ignored. */
void answers_close(struct answers *a, uint64_t id);
/* The shard that is read; false: no such answer. */
bool answers_shard(struct answers *a, uint64_t id, uint64_t *ret_shard_id);

#endif
