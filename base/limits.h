/* Every size limit of Thole in one place, with its arithmetic. Documented for users in
 * docs/operations.md; each is refused politely (RESOURCE_EXHAUSTED or INVALID_ARGUMENT). */
#ifndef BASE_LIMITS_H
#define BASE_LIMITS_H

#define KIB 1024
#define MIB (1024 * 1024)

/* One proposal's or query's payload: as etcd's default. A larger one would need
 * results that clients of gRPC refuse: see below. */
#define LIMIT_PAYLOAD_BYTES (3 * MIB / 2)
#define LIMIT_PAYLOAD_TEXT "1.5 MiB"
/* Results of proposals and queries: an item and its previous version have a payload's bytes each.
 * Clients of gRPC take messages of 4 MiB unless they are told otherwise. */
#define LIMIT_RESULT_BYTES (2 * LIMIT_PAYLOAD_BYTES + 256 * KIB)
#define LIMIT_RESULT_TEXT "3.25 MiB"
/* Streamed answers: a piece, unless one item of the machine is larger, and the readers of a host. A
 * reader keeps a view of its machine for at most LIMIT_ANSWER_IDLE_MS between two pieces, and
 * LIMIT_ANSWER_MS in all. */
#define LIMIT_PIECE_BYTES (512 * KIB)
#define LIMIT_READERS 64
#define LIMIT_ANSWER_IDLE_MS (30 * 1000)
#define LIMIT_ANSWER_MS (10 * 60 * 1000)
/* One run of entries in the log; a run holds at least one entry, so a payload must fit. */
#define LIMIT_RUN_BYTES (LIMIT_PAYLOAD_BYTES + 64 * KIB)
/* Entries of one append message: at least one entry, then up to this. */
#define LIMIT_APPEND_BYTES (1 * MIB)
/* One bus frame: an append message that just passed its limit with one more entry, and headers. */
#define LIMIT_FRAME_BYTES (4 * MIB)
/* Bytes in flight to one follower of one group. */
#define LIMIT_INFLIGHT_BYTES (8 * MIB)
#define LIMIT_INFLIGHT_MESSAGES 256
/* Proposed and not committed, per group. */
#define LIMIT_UNCOMMITTED_BYTES (64 * MIB)
/* Committed, handed to an applier and not applied, per group. */
#define LIMIT_APPLYING_BYTES (16 * MIB)
/* One snapshot chunk. */
#define LIMIT_CHUNK_BYTES (1 * MIB)
/* Names of hosts, shards, machine types, tags. */
#define LIMIT_NAME_BYTES 128
#define LIMIT_KEY_BYTES (64 * KIB)            /* the key of a request to a pool */
#define LIMIT_MEMBERS 64                      /* replicas of one shard, tombstones not counted */
#define LIMIT_SESSIONS 4096                   /* per shard; the least recently used is evicted */
#define LIMIT_SESSION_RESULTS 64              /* remembered answers per session */
#define LIMIT_SESSION_RESULT_BYTES (64 * KIB) /* a larger answer is remembered as "applied" only */
/* Proposals that carry a request id instead of a session: for how long (in the engine's time) a
 * repeat gets the first answer, and how many of them a shard remembers. More are refused:
 * LIMIT_REQUEST_IDS / 120 s = 2,184 a second and shard, continuously. */
#define LIMIT_REQUEST_ID_BYTES 64
#define LIMIT_REQUEST_ID_MS (120 * 1000)
#define LIMIT_REQUEST_IDS (256 * 1024)
/* With those that have expired and are not freed yet: no more than that, and a batch's. */
#define LIMIT_REQUEST_IDS_MAX (LIMIT_REQUEST_IDS + 1024)
/* A host whose wall clock is that far from the median of all hosts hands its leaderships over. */
#define LIMIT_CLOCK_AHEAD_MS (10 * 1000)
/* Remembered answers of a shard, of sessions and request ids together: the oldest are then
 * remembered as "applied" only. They are looked through whenever so many more bytes of answers came
 * (a step), so that a shard keeps at most the bound, a step and an answer. */
#define LIMIT_SESSION_ANSWERS_BYTES (64 * MIB)
#define LIMIT_SESSION_ANSWERS_STEP_BYTES (8 * MIB)
#define LIMIT_SESSION_ANSWERS_BYTES_MAX                               \
    (LIMIT_SESSION_ANSWERS_BYTES + LIMIT_SESSION_ANSWERS_STEP_BYTES + \
     2 * LIMIT_SESSION_RESULT_BYTES)
/* How much of the time that one host's clock measures another's may lack, at most: what lease reads
 * rely on. Clocks that are slewed may run 8.3% fast or slow for a while (the most that chrony's
 * defaults allow; NTP's own 0.05% and a crystal's 0.02% are nothing beside it). With 10%, a fast
 * clock measures 1.1 s where a slow one measures 0.9 s: 0.9 / 1.1 = 0.818 > 1 - 20%. */
#define LIMIT_CLOCK_DRIFT_PERCENT 20
#define LIMIT_EVENTS 10000 /* kept by the registry */

_Static_assert(LIMIT_RUN_BYTES > LIMIT_PAYLOAD_BYTES, "an entry must fit in a run");
_Static_assert(LIMIT_FRAME_BYTES > LIMIT_APPEND_BYTES + LIMIT_PAYLOAD_BYTES, "append < frame");
_Static_assert(LIMIT_INFLIGHT_BYTES > LIMIT_FRAME_BYTES, "frame < window");
_Static_assert(LIMIT_FRAME_BYTES > 2 * LIMIT_CHUNK_BYTES, "chunk < frame");
_Static_assert(LIMIT_FRAME_BYTES > LIMIT_RESULT_BYTES, "result < frame");

#endif
