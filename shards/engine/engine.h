/* The multi-group engine of one host. It runs every local replica. Of other hosts it knows only how
 * to send them frames.
 *
 * Workers (base/worker.h): loops own groups and their Raft cores; the writer merges the batches of
 * all loops into one synced write; appliers hand committed ranges to machines and complete
 * proposals; the snapshotter and the streamer save, send, receive and restore snapshots. With the
 * manual executor all of them run in one thread: the harness and the simulator drive this same
 * code.
 *
 * Failures: a replica whose machine or records fail stops alone (status.failed). A failed log write
 * stops the host (observer.host_failed); nothing is acknowledged after it. */
#ifndef SHARDS_ENGINE_ENGINE_H
#define SHARDS_ENGINE_ENGINE_H

#include <stdbool.h>
#include <stdint.h>
#include <thole/machine.h>
#include <thole/status.h>

#include "base/buf.h"
#include "base/uuid.h"
#include "base/worker.h"
#include "shards/raft/raft.h"
#include "shards/store/store.h"

struct engine;
struct engine_files; /* files.h */

enum engine_lane { ENGINE_LANE_CONTROL = 1, ENGINE_LANE_APPEND = 2, ENGINE_LANE_SNAPSHOT = 3 };

struct engine_transport {
    void *ctx;
    /* Takes over `frame`. Any failure means "dropped"; must not block nor call back inline. */
    enum thole_code (*send)(void *ctx, const struct uuid *host, enum engine_lane lane,
                            struct bufslice frame);
};

struct engine_replica_status {
    uint64_t replica_id, shard_id;
    uint64_t term, leader_replica; /* 0: unknown */
    struct uuid leader_host;       /* nil: unknown */
    enum raft_role role;
    bool leader_ready;
    bool initialised;     /* its configuration contains it, now or at any time before */
    bool witness;         /* holds no data: serves no queries and no events */
    bool voter;           /* in the configuration in force */
    uint32_t votes;       /* voters and witnesses in it; of both halves if it is joint */
    bool removed_by_peer; /* a peer answered that this replica was removed */
    bool failed;
    bool unopened;       /* failed: it could not be opened; its data is not known to be damaged */
    bool superseded;     /* failed: the group was forced without this replica; its data is void */
    bool sends_snapshot; /* a leadership transfer would restart it */
    char failure[THOLE_STATUS_MESSAGE_BYTES];
    uint64_t epoch;     /* of the group as this replica knows it; raised by engine_force */
    uint64_t last_term; /* of the last log entry; (last_term, last_index) compares two logs */
    uint64_t commit, applied, last_index, first_index, config_index, config_revision;
    uint64_t log_bytes;
    uint64_t snapshot_index; /* of the newest compaction point */
};

/* Why this host moves a leadership to another one. */
enum engine_move_reason {
    ENGINE_MOVE_SHUTDOWN = 1, /* engine_hand_over */
    ENGINE_MOVE_DISK,         /* engine_disk is not ENGINE_DISK_OK */
    ENGINE_MOVE_CLOCK,        /* engine_clock_is_wrong */
};
const char *engine_move_reason_name(enum engine_move_reason reason); /* static */

struct engine_observer {
    void *ctx;
    /* Role, leader, term, configuration or failure of a replica changed. On a loop's thread. */
    void (*replica_changed)(void *ctx, const struct engine_replica_status *s);
    /* Leadership of a group moved to another replica; `reason` as of the begin of the move. On a
     * loop's thread. May be NULL. */
    void (*leader_moved)(void *ctx, uint64_t shard_id, uint64_t from, uint64_t to,
                         enum engine_move_reason reason);
    /* The result of engine_disk, engine_clock_is_wrong or engine_peer_refuses changed. On a loop's
     * thread, or the thread of engine_deliver. May be NULL. */
    void (*fitness_changed)(void *ctx);
    /* The log cannot be written any more: the caller should stop the process. Called once, on the
     * writer's thread. */
    void (*host_failed)(void *ctx, const struct thole_status *st);
};

#define ENGINE_SLEEP_NEVER UINT32_MAX
#define ENGINE_ELECTION_TIMEOUT_MS 500
#define ENGINE_HEARTBEAT_MS 100
#define ENGINE_FREE_BYTES_MIN ((uint64_t)128 * MIB)
struct engine_options {
    struct uuid host_id;
    uint64_t incarnation;
    struct log_store *log;  /* borrowed until engine_free */
    struct state_db *state; /* may be NULL: no built-in persistent machines then */
    const char *directory;  /* for staged snapshots and machines' own files; created */
    struct engine_files
        *files; /* snapshot files; NULL: in `directory`. Borrowed until engine_free */
    struct engine_files
        *seeds; /* of engine_seed; NULL: there are none. Borrowed until engine_free */
    struct executor *executor;
    struct engine_transport transport;
    struct engine_observer observer;
    uint32_t loop_count, applier_count; /* 0: by core count */
    /* 0: ENGINE_ELECTION_TIMEOUT_MS, ENGINE_HEARTBEAT_MS. With lease reads, a host that restarts
     * with a shorter election timeout must stay down for at least the difference: its earlier
     * promises to leaders hold that long. */
    uint32_t election_timeout_ms, heartbeat_ms;
    /* A group that is idle for this long sleeps: no timers, no messages. 0: 1000.
     * ENGINE_SLEEP_NEVER also turns the heartbeats of hosts off. */
    uint32_t sleep_after_ms;
    /* Upper bound of a group's log before it is compacted; lower if its snapshots are small
     * (compact.c). 0: 64 MiB */
    uint64_t compact_log_bytes;
    uint64_t keep_log_bytes; /* most of a log that is kept for slow followers; 0: 8 MiB */
    uint64_t cache_bytes; /* entries in memory for followers that lack them, per group; 0: 1 MiB */
    uint64_t free_bytes_min; /* refuse proposals below this much free disk; 0:
                                ENGINE_FREE_BYTES_MIN. Group 0, by which a host is told what to do
                                about it, goes on to a quarter */
    /* How long a request id is remembered; equal on all hosts. 0: LIMIT_REQUEST_ID_MS. Another
     * value is for tests. */
    uint32_t request_id_ms;
    uint64_t snapshot_bytes_per_s;                 /* cap on sending; 0: none */
    uint64_t seed;                                 /* of the cores' random generators; 0: random */
    const struct thole_machine_type *const *types; /* NULL-terminated; borrowed for ever */
};

uint32_t engine_election_timeout_ms(const struct engine *e);

/* Can this host write its log? While it cannot, handover.c moves its leaderships to other hosts. */
enum engine_disk {
    ENGINE_DISK_OK = 1,
    ENGINE_DISK_LOW,     /* less free space than options.free_bytes_min */
    ENGINE_DISK_STALLED, /* a log write has been in flight for longer than an election timeout */
};
enum engine_disk engine_disk(struct engine *e); /* any thread */
/* Does this host refuse proposals of the group for that reason? Any thread. */
bool engine_disk_refuses(struct engine *e, uint64_t shard_id);

/* Is this host's wall clock LIMIT_CLOCK_AHEAD_MS or more from the median of all hosts? While it is,
 * handover.c moves its leaderships to other hosts, because machines see the leader's clock. Any
 * thread. */
bool engine_clock_is_wrong(struct engine *e);
/* Its distance from that median, by the last check; positive: ahead. Any thread. */
int64_t engine_clock_ahead_ms(struct engine *e);

/* Does another host, which shares a group with this one, refuse them for lack of space? As its last
 * heartbeat says. Any thread. */
bool engine_peer_refuses(struct engine *e, const struct uuid *host, uint64_t shard_id);

/* Opens every replica found in the log (each restarts by itself). */
THOLE_MUST_CHECK enum thole_code engine_new(const struct engine_options *o, struct engine **ret,
                                            struct thole_status *st);
/* Before a clean stop: transfer the leadership of every group that another voter could lead, now
 * and until the engine stops. The engine goes on serving. Done when nothing is left to transfer and
 * every proposal that was appended here is decided; DEADLINE_EXCEEDED (`deadline_ns`, monotonic) if
 * that takes too long. Call it once. */
void engine_hand_over(struct engine *e, uint64_t deadline_ns,
                      void (*done)(void *ctx, const struct thole_status *st), void *ctx);
/* Another process has taken this host's place: from now on nothing is sent or written, every
 * replica fails with `st`, and every request is refused with STOPPED. engine_stop must follow. Any
 * thread; only the first call counts. */
void engine_fence(struct engine *e, const struct thole_status *st);
/* Completes everything outstanding with STOPPED or OUTCOME_UNKNOWN. Blocks until all workers have
 * ended; with the manual executor it runs them. */
void engine_stop(struct engine *e);
void engine_free(struct engine *e);

/* A frame from `host`. Malformed ones are dropped, counted and logged (rate limited). Any
 * thread. */
void engine_deliver(struct engine *e, const struct uuid *host, uint64_t incarnation,
                    enum engine_lane lane, struct bufslice frame);
/* A connection to a host came up or broke: leaders stop probing it, followers forget it as their
 * leader. Any thread. */
void engine_peer_state(struct engine *e, const struct uuid *host, bool up);

/* ---- Replicas -------------------------------------------------------------------------------- */

struct engine_replica_spec {
    uint64_t replica_id, shard_id;
    const char *machine_type;
    uint32_t machine_version; /* 0: the highest this host has */
    struct slice machine_config;
    bool witness;
    bool lease_reads; /* must be equal on all replicas of the shard: shards/raft/lease.c */
    const struct raft_member *initial; /* bootstraps with exactly these; none: waits for a leader */
    size_t initial_count;
};
/* Called once, on an engine thread. */
typedef void (*engine_done_fn)(void *ctx, const struct thole_status *st);

/* Create (durably) and start. OK if it already runs with the same shard; ALREADY_EXISTS if another
 * replica of the shard is active here; FAILED_PRECONDITION REMOVED for a tombstone; NOT_FOUND
 * NO_SUCH_TYPE; INVALID_ARGUMENT for ids 0 and UINT64_MAX and an impossible first
 * configuration. `spec` is copied. */
void engine_replica_start(struct engine *e, const struct engine_replica_spec *spec,
                          engine_done_fn done, void *ctx);
/* Stop, delete all its data and leave a tombstone. OK if already removed. */
void engine_replica_remove(struct engine *e, uint64_t replica_id, engine_done_fn done, void *ctx);
/* Drop a tombstone. */
void engine_replica_forget(struct engine *e, uint64_t replica_id, engine_done_fn done, void *ctx);

/* The status of all local replicas, ascending by replica id; a malloced array. Any thread. */
size_t engine_replicas(struct engine *e, struct engine_replica_status **ret);
size_t engine_shard_count(struct engine *e); /* that have a replica here */

/* What metrics show of the local replicas. */
#define ENGINE_TOP_SHARDS 20
struct engine_load {
    uint64_t leaders, followers, candidates, failed; /* replicas; one that failed has no role */
    uint64_t leaderless;                             /* replicas that know no leader */
    uint64_t unapplied; /* entries that are committed and not applied, of all replicas */
    /* The shards that got most proposals here lately, the busiest first: each minute counts half of
     * the next, and a single proposal is seen for five. */
    struct engine_shard_load {
        uint64_t shard_id;
        uint64_t proposals; /* since the replica started */
        uint64_t recent;    /* only to compare them */
    } top[ENGINE_TOP_SHARDS];
    size_t top_count;
};
void engine_load(struct engine *e, struct engine_load *ret); /* any thread */
/* Proposals appended here, since the start, to shards of a machine type. Any thread. */
uint64_t engine_type_proposals(struct engine *e, const char *type);
/* Ids of removed replicas, ascending; a malloced array. Any thread. */
size_t engine_tombstones(struct engine *e, uint64_t **ret);
/* The local replica of a shard; false if none. Any thread; cheap (no loop round trip). */
bool engine_shard_status(struct engine *e, uint64_t shard_id, struct engine_replica_status *ret);
/* The configuration in force of a local shard, copied. False if none. `ret` zeroed or a config. */
bool engine_shard_config(struct engine *e, uint64_t shard_id, struct raft_config *ret);
/* The leader's view of a member's progress; false unless the local replica leads. */
bool engine_shard_peer(struct engine *e, uint64_t shard_id, uint64_t replica_id,
                       struct raft_peer_status *ret);

/* ---- Data path ------------------------------------------------------------------------------- */

/* A request belongs to the caller and must stay untouched until `done`. `done` is called exactly
 * once for every submitted request, on an engine thread, never inline, and must not block. Requests
 * of one batch complete one after the other, so `done` may collect them. */
enum engine_request_kind {
    ENGINE_PROPOSE,
    ENGINE_OPEN_SESSION,
    ENGINE_CLOSE_SESSION, /* `session`; OK if it is not open */
    ENGINE_QUERY,
    ENGINE_READ_POINT, /* a query without the machine: done when a query would be served */
};

struct engine_request {
    struct worker_msg msg; /* the engine's */
    void *internal[4];     /* the engine's */
    enum engine_request_kind kind;
    uint64_t shard_id;
    struct bufslice payload; /* taken over; without an owner, its bytes live until `done` */
    uint64_t session, sequence;
    /* Proposals without a session: at most LIMIT_REQUEST_ID_BYTES, which live until `done`. A
     * repeat within LIMIT_REQUEST_ID_MS gets the first answer. */
    struct slice request_id;
    bool streamed;             /* queries: the answer may be left to `reader` */
    bool stale;                /* queries: read the local state ... */
    uint32_t max_staleness_ms; /* ... if it heard a leader this recently; 0: however old */
    uint64_t deadline_ns;      /* monotonic; CLOCK_NEVER for none */
    void (*done)(struct engine_request *r);

    /* Results. */
    uint64_t index;         /* proposals: of the entry; queries: applied index of the view read */
    uint64_t term;          /* proposals: of the entry; queries: of the last one applied */
    uint64_t code;          /* proposals: the machine's number. OPEN_SESSION: the session's id */
    bool duplicate;         /* the first answer of a retried proposal ... */
    bool forgotten;         /* ... which was too large or is too old to be remembered: no result */
    struct bufslice result; /* owned by the request's owner after done: release it */
    /* Of a streamed query: makes the answer, instead of `result`; NULL: `result` is all of it.
     * Close it. */
    struct engine_reader *reader;
    /* With NOT_LEADER: the leader, if it is known. */
    uint64_t leader_term;
    struct uuid leader_host; /* nil: unknown */
    /* Last, because a success does not touch it. */
    struct thole_status status;
};
/* Any thread. Never fails inline: `done` reports refusals (NOT_FOUND NO_SUCH_SHARD, NOT_LEADER,
 * QUEUE_FULL, ...). */
void engine_submit(struct engine *e, struct engine_request *r);

/* An answer in pieces, on a view of the machine (reader.c). Calls for one reader come one at a
 * time, on any thread; a call may take as long as the machine does for a piece. At most
 * LIMIT_READERS are open. If the replica is removed, they end: UNAVAILABLE STOPPED. */
struct engine_reader;
/* The next piece of about LIMIT_PIECE_BYTES; NULL: nothing yet, call again. After *ret_end or an
 * error only engine_reader_close may be called. */
THOLE_MUST_CHECK enum thole_code engine_reader_next(struct engine_reader *rd,
                                                    struct buf **ret_piece, bool *ret_end,
                                                    struct thole_status *st);
void engine_reader_close(struct engine_reader *rd); /* before engine_free; NULL is fine */

/* Watch the events of a local shard's machine from now on. `event` runs on an applier thread with
 * borrowed bytes and must not block. `ended` runs once when the replica stops or installs a
 * snapshot, since events may then be missing. Returns an id, or 0 if the shard has no replica here
 * that serves events. Every event after `ret_from_index` is reported. */
struct engine_watcher {
    void *ctx;
    void (*event)(void *ctx, uint64_t index, struct slice key, struct slice event);
    void (*ended)(void *ctx, const struct thole_status *st);
};
uint64_t engine_watch(struct engine *e, uint64_t shard_id, const struct engine_watcher *w,
                      uint64_t *ret_from_index);
void engine_unwatch(struct engine *e, uint64_t watch_id);

/* ---- Snapshots for users (export.c) ---------------------------------------------------------- */

/* A snapshot file of a replica, open for reading. The caller closes it, before engine_free. */
struct engine_export {
    const struct engine_files_ops *ops;
    struct engine_file *file; /* format: README.md */
    uint64_t size, index, term;
    uint32_t machine_version;
};
/* A snapshot of the local replica at `min_index` (committed, and applied here) or later. `ret` must
 * live until `done`, and is filled if that reports OK. NOT_FOUND, UNAVAILABLE: no running replica;
 * FAILED_PRECONDITION: a witness, or nothing is committed at `min_index`; errors of the save. */
void engine_export(struct engine *e, uint64_t shard_id, uint64_t min_index,
                   struct engine_export *ret, engine_done_fn done, void *ctx);
/* Start a group from the exported file `name` of options.seeds. The local replica, which was
 * started without initial members and is empty, becomes the only voter. It gets the file's data,
 * sessions and log position, under the next epoch. Done when that is durable; OK if the replica has
 * data already. UNAVAILABLE, RESOURCE_EXHAUSTED: try again. Other errors also fail the replica
 * (NOT_FOUND: no such file; DATA_LOSS, INVALID_ARGUMENT, FAILED_PRECONDITION: its content). `name`
 * is copied. */
void engine_seed(struct engine *e, uint64_t shard_id, const char *name, engine_done_fn done,
                 void *ctx);

/* ---- Membership ------------------------------------------------------------------------------ */

/* On the leader. Done when the change is applied, or refused with a code of
 * raft_change_membership. */
void engine_change(struct engine *e, uint64_t shard_id, const struct raft_change *change,
                   engine_done_fn done, void *ctx);
/* Done when another replica leads (OK; `ret_leader`, which may be NULL, is set before), or when the
 * transfer was aborted. target 0: the voter with the most of the log. */
void engine_transfer(struct engine *e, uint64_t shard_id, uint64_t target_replica,
                     uint64_t *ret_leader, engine_done_fn done, void *ctx);
/* For a group that lost its quorum for good: make the local replica its only voter, under `epoch`,
 * which must exceed the present one. The group's log is then this replica's log. All other members
 * are removed, and refused if they come back. Done when the replica leads under the new epoch.
 * FAILED_PRECONDITION: a witness, a replica without data, or an epoch that is not new; UNAVAILABLE
 * or NOT_FOUND: no running replica. */
void engine_force(struct engine *e, uint64_t shard_id, uint64_t epoch, engine_done_fn done,
                  void *ctx);

#endif
