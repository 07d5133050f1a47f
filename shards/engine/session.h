/* The dedupe table of one shard: the applied proposals of each session, those with a request id,
 * and their answers.
 *
 * It is replicated state: every operation depends on the log alone, so all replicas keep and evict
 * the same sessions, ids and answers. Not thread safe; it belongs to the applier.
 *
 * Before a batch goes to the machine, answers are *reserved* (session_begin and request_id_begin
 * return SESSION_APPLY). They are filled in when the machine has answered (session_finish,
 * request_id_finish). A proposal that needs a reserved answer gets SESSION_BUSY: finish the batch
 * first, then call the function again. */
#ifndef SHARDS_ENGINE_SESSION_H
#define SHARDS_ENGINE_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/map.h"

struct session_result {
    uint64_t sequence, index, code;
    struct buf *result;    /* NULL: empty */
    uint64_t answer_bytes; /* the table's just after this one was counted: its age */
    bool cut;              /* the answer was too large to remember, or too old */
    bool reserved;
};
struct session {
    uint64_t id, used, floor;
    uint32_t count, capacity;
    struct session_result *results; /* ascending by sequence */
    struct session *older, *newer;
    uint32_t reserved;
};

/* The answer of a proposal with a request id. */
struct request_answer {
    struct request_answer *older, *newer; /* by log index */
    struct request_answer *same_hash;
    uint64_t hash;
    uint64_t index, alive_ms, code; /* of the entry that was applied */
    struct buf *result;             /* NULL: empty */
    uint64_t answer_bytes;          /* as in struct session_result */
    bool cut, reserved;
    uint8_t id_size;
    uint8_t id[];
};
struct request_ids {
    struct map by_hash;
    size_t count;
    struct request_answer *oldest, *newest;
    struct request_answer *uncut; /* all older ones are cut, or have no answer */
    struct request_answer *live;  /* all older ones have expired */
    size_t live_count;            /* it and all newer ones */
    uint64_t window_ms;           /* how long an id is remembered; the same on all replicas */
    uint64_t seed;                /* of the hash, which is not replicated */
};

struct session_table {
    struct request_ids ids;
    struct map by_id;
    struct session *oldest, *newest; /* by log index of the last use */
    size_t decoded;                  /* bytes of answers read from a snapshot or metadata */
    uint64_t answer_bytes;           /* bytes of all answers ever remembered; never decreases */
};

/* What changed, for the metadata of persistent machines. */
enum session_change { SESSION_CHANGED, SESSION_GONE, RESULT_GONE, RESULT_CUT };
struct session_observer {
    void *ctx;
    void (*changed)(void *ctx, enum session_change what, const struct session *s,
                    uint64_t sequence);
    /* RESULT_GONE or RESULT_CUT. */
    void (*request_changed)(void *ctx, enum session_change what, const struct request_answer *r);
};

/* A session's id is the log index of the entry that opened it, and above it the group's epoch
 * (raft_force). A group that was forced may use indexes again. A client from before must not share
 * a session with a client from after. */
#define SESSION_EPOCH_SHIFT 48
static inline uint64_t session_id(uint64_t epoch, uint64_t index)
{
    return epoch << SESSION_EPOCH_SHIFT | (index & ((UINT64_C(1) << SESSION_EPOCH_SHIFT) - 1));
}

void session_table_deinit(struct session_table *t);
/* False (nothing done) if a session with reserved answers would have to be evicted. */
bool session_open(struct session_table *t, uint64_t id, uint64_t index,
                  const struct session_observer *o);
/* True if it is closed now; it need not have been open. False (nothing done) if it has reserved
 * answers. */
bool session_close(struct session_table *t, uint64_t id, const struct session_observer *o);

enum session_verdict {
    SESSION_APPLY,     /* *ret is the reserved answer; NULL: it will not be remembered */
    SESSION_DUPLICATE, /* *ret is the first answer */
    SESSION_EXPIRED,
    SESSION_TOO_OLD,
    SESSION_BUSY,
    REQUEST_IDS_FULL, /* the table has LIMIT_REQUEST_IDS: not applied */
};
enum session_verdict session_begin(struct session_table *t, uint64_t id, uint64_t sequence,
                                   uint64_t index, const struct session_observer *o,
                                   const struct session_result **ret);
/* Fill in the answer of a reserved proposal; NULL if it is not remembered any more. Answers with
 * LIMIT_SESSION_ANSWERS_BYTES of newer answers after them are cut. The rule counts the bytes that
 * came since, not the bytes that are present: the latter depend on how entries were batched. */
const struct session_result *session_finish(struct session_table *t, uint64_t id, uint64_t sequence,
                                            uint64_t code, struct slice result,
                                            const struct session_observer *o);
/* ---- Request ids (request_ids.c) ------------------------------------------------------------- */

/* Forget the ids that have expired at this time, an entry's. */
void request_ids_expire(struct session_table *t, uint64_t alive_ms,
                        const struct session_observer *o);
/* After request_ids_expire at the same time. */
enum session_verdict request_id_begin(struct session_table *t, struct slice id, uint64_t index,
                                      uint64_t alive_ms, const struct session_observer *o,
                                      struct request_answer **ret);
void request_id_finish(struct session_table *t, struct request_answer *r, uint64_t code,
                       struct slice result, const struct session_observer *o);
/* A record for this id, without content; NULL if the table has it or is full. */
struct request_answer *request_ids_add(struct session_table *t, struct slice id);
/* session.c: the answer of a proposal has become known. May cut older ones. */
void session__count_answer(struct session_table *t, const struct buf *result,
                           uint64_t *ret_answer_bytes, const struct session_observer *o);
void request_ids__cut(struct session_table *t, const struct session_observer *o);
void request_ids__sort(struct session_table *t);
void request_ids__deinit(struct request_ids *ids);

const struct session_result *session_result_of(const struct session *s, uint64_t sequence);

/* Records, as stored: whole sessions in snapshots; heads and single results as metadata. */
void session_encode(const struct session *s, struct bytes *out);      /* with all results */
void session_encode_head(const struct session *s, struct bytes *out); /* without */
void session_encode_result(const struct session_result *r, struct bytes *out);
void session_encode_request(const struct request_answer *r, struct bytes *out); /* in snapshots */
void session_encode_answer(const struct request_answer *r, struct bytes *out);  /* as metadata */
/* False if malformed, or more than a table holds. Sessions may come in any order; call
 * session_table_sort at the end. */
bool session_decode(struct session_table *t, struct slice in);
bool session_decode_result(struct session_table *t, uint64_t id, struct slice in);
bool session_decode_answer(struct session_table *t, struct slice in);
void session_table_sort(struct session_table *t);

#endif
