/* The Raft core: a pure state machine for one replica of one group. Events in, effects out.
 *
 * What it does not do: I/O, clocks, threads, locks, logging, global state. It sees only base/.
 * Randomness comes from a generator seeded per replica; time is the `now_ms` that each call gets
 * (the engine's logical milliseconds, which never jump by more than a heartbeat interval).
 *
 * Driving it:
 *   1. Feed events: raft_receive, raft_tick, raft_propose, raft_read, raft_persisted, ...
 *   2. When a turn's events are in, call raft_harvest once and carry out the update:
 *        - write `hard`, `entries` and `snapshot` in ONE batch under the token `persist`,
 *        - send `messages`, release `reads`, hand `apply` to the machine, and so on.
 *   3. When the batch that carries a token is durable, call raft_persisted(token).
 * Messages that attest to something not yet durable are *kept inside the core* until the token
 * that covers them has been reported, so an engine cannot send them too early. `messages` of an
 * update may always be sent at once. A token reported twice, backwards or never handed out is an
 * assertion.
 *
 * Sources: Ongaro, "Consensus: Bridging Theory and Practice" (2014), cited by section where a rule
 * is implemented. Replica ids name members; 0 is never a replica. */
#ifndef SHARDS_RAFT_RAFT_H
#define SHARDS_RAFT_RAFT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <thole/status.h>

#include "base/buf.h"
#include "base/limits.h"

/* ---- Entries and membership ------------------------------------------------------------------ */

enum raft_entry_kind {
    RAFT_ENTRY_NOOP = 0,    /* a new leader's first entry */
    RAFT_ENTRY_COMMAND = 1, /* for the machine; may carry (session, sequence) or a request id */
    RAFT_ENTRY_CONFIG = 2,  /* payload: an encoded struct raft_change, see config_history.h */
    RAFT_ENTRY_SESSION = 3, /* sequence 0: opens a session, `session` is the epoch of the group;
                               RAFT_SESSION_CLOSE: closes `session` */
    RAFT_ENTRY_TICK = 4,    /* for the machine: do what is due */
    RAFT_ENTRY_KIND_MAX = 4,
};

#define RAFT_SESSION_CLOSE 1

/* The two times of an entry, in ms: the leader's wall clock, and the time during which the group
 * had a leader (stamp.c). Neither falls along a log. */
struct raft_stamp {
    uint64_t now_ms;
    uint64_t alive_ms;
};
/* May `b` follow `a` in a log? Neither time falls. */
static inline bool raft_stamp_precedes(struct raft_stamp a, struct raft_stamp b)
{
    return a.now_ms <= b.now_ms && a.alive_ms <= b.alive_ms;
}
static inline bool raft_stamp_equal(struct raft_stamp a, struct raft_stamp b)
{
    return a.now_ms == b.now_ms && a.alive_ms == b.alive_ms;
}

/* Immutable and ref-counted: the log cache, write batches, frames and appliers share it. */
struct raft_entry {
    _Atomic uint32_t refs;
    uint8_t kind;    /* enum raft_entry_kind */
    uint8_t id_size; /* of the request id; 0: none */
    uint64_t index;
    uint64_t term;
    uint64_t session;  /* 0: none */
    uint64_t sequence; /* meaningful only with a session */
    struct raft_stamp stamp;
    struct bufslice payload;
    uint8_t copied[]; /* the request id, then a small payload */
};
/* Takes over the caller's reference to payload.owner; the core sets index and term. A payload that
 * is small, or has no owner, is copied: a reference count shared by several threads costs more, and
 * keeps a whole frame in memory. */
#define RAFT_ENTRY_COPIED_BYTES 256
struct raft_entry *raft_entry_new(enum raft_entry_kind kind, uint64_t session, uint64_t sequence,
                                  struct bufslice payload);
/* A COMMAND with a request id of at most LIMIT_REQUEST_ID_BYTES, which is copied. */
struct raft_entry *raft_entry_new_with_id(struct slice id, struct bufslice payload);
static inline struct slice raft_entry_id(const struct raft_entry *e)
{
    return slice_of(e->copied, e->id_size);
}
struct raft_entry *raft_entry_ref(struct raft_entry *e);
void raft_entry_unref(struct raft_entry *e);
/* The size of an entry in every byte bound: its payload and request id, and a fixed overhead. */
#define RAFT_ENTRY_OVERHEAD_BYTES 32
static inline size_t raft_entry_size(const struct raft_entry *e)
{
    return e->payload.bytes.size + e->id_size + RAFT_ENTRY_OVERHEAD_BYTES;
}

enum raft_member_role {
    RAFT_VOTER = 1,
    RAFT_LEARNER = 2, /* "non-voting" to users */
    RAFT_WITNESS = 3, /* votes, keeps entry metadata only, never leads */
};

struct raft_member {
    uint64_t replica_id;
    uint8_t host[16]; /* the host it runs on, so that every member can be reached */
    uint8_t role;     /* in the incoming (newest) configuration: enum raft_member_role, 0 = none */
    uint8_t outgoing_role; /* in the outgoing configuration of a joint one; 0 when not joint */
    bool learner_next;     /* joint only: an outgoing voter that becomes a learner on leaving */
};

/* A (possibly joint) configuration. Sorted by replica_id. */
struct raft_config {
    uint64_t revision; /* the registry revision that asked for it; never decreases */
    uint64_t epoch;    /* how often the group was forced (raft_force): only it raises this */
    struct raft_member *members; /* owned, as is `removed`; at most LIMIT_MEMBERS */
    uint64_t *removed;           /* tombstones: ids that may never come back; sorted */
    uint32_t member_count, removed_count;
    bool joint;
    bool auto_leave;
};
void raft_config_deinit(struct raft_config *c);
/* A zeroed member at this position (at most member_count); the caller keeps the order. */
struct raft_member *raft_config_insert(struct raft_config *c, uint32_t at);
void raft_config_copy(struct raft_config *to,
                      const struct raft_config *from); /* `to` is zeroed or a config */
bool raft_config_equal(const struct raft_config *a, const struct raft_config *b);
const struct raft_member *raft_config_find(const struct raft_config *c, uint64_t replica_id);
bool raft_config_is_voter(const struct raft_config *c, uint64_t replica_id); /* either half */
uint32_t raft_config_votes(const struct raft_config *c); /* members that vote in either half */
bool raft_config_is_removed(const struct raft_config *c, uint64_t replica_id);
/* The stable encoding used in snapshots and log starts (docs/formats.md). */
void raft_config_encode(const struct raft_config *c, struct bytes *out);
THOLE_MUST_CHECK enum thole_code raft_config_decode(struct slice in, struct raft_config *ret,
                                                    struct thole_status *st);

enum raft_change_op {
    RAFT_CHANGE_ADD_LEARNER = 1,
    RAFT_CHANGE_ADD_VOTER = 2, /* promotes a learner; only those may be proposed */
    RAFT_CHANGE_ADD_WITNESS = 3,
    RAFT_CHANGE_REMOVE = 4,
    RAFT_CHANGE_DEMOTE = 5, /* voter to learner */
};
struct raft_change_item {
    uint8_t op; /* enum raft_change_op */
    uint64_t replica_id;
    uint8_t host[16]; /* for the ADD operations */
};
/* One item is a simple change; several go through joint consensus with auto-leave. No item means
 * "leave the joint configuration". */
#define RAFT_CHANGE_ITEMS_MAX 16
struct raft_change {
    uint64_t
        revision;   /* must be >= the configuration's, or the change becomes a no-op when applied */
    uint64_t epoch; /* 0. Otherwise raft_force made it: its one item names the only voter, all other
                       members are removed, and no other rule of changes holds */
    uint32_t item_count;
    struct raft_change_item items[RAFT_CHANGE_ITEMS_MAX];
};
void raft_change_encode(const struct raft_change *c, struct bytes *out);
THOLE_MUST_CHECK enum thole_code raft_change_decode(struct slice in, struct raft_change *ret,
                                                    struct thole_status *st);
/* Pure: the configuration that `c` makes of `from`. FAILED_PRECONDITION with a reason when it is
 * not allowed (removed id, stale revision, no voter left, unknown member, too many). `ret` is
 * zeroed or a config. */
THOLE_MUST_CHECK enum thole_code raft_change_apply(const struct raft_config *from,
                                                   const struct raft_change *c,
                                                   struct raft_config *ret,
                                                   struct thole_status *st);

/* ---- Messages -------------------------------------------------------------------------------- */

enum raft_message_kind {
    RAFT_MSG_PREVOTE = 1,
    RAFT_MSG_PREVOTE_REPLY = 2,
    RAFT_MSG_VOTE = 3,
    RAFT_MSG_VOTE_REPLY = 4,
    RAFT_MSG_APPEND = 5,
    RAFT_MSG_APPEND_REPLY = 6,
    RAFT_MSG_HEARTBEAT = 7,
    RAFT_MSG_HEARTBEAT_REPLY = 8,
    RAFT_MSG_READ = 9,        /* follower -> leader: `context` is the follower's read number */
    RAFT_MSG_READ_REPLY = 10, /* `index` to wait for; `reject` when the sender does not lead */
    RAFT_MSG_TIMEOUT_NOW = 11,
    RAFT_MSG_REMOVED = 12, /* "you were removed": answers a call of a removed replica */
    RAFT_MSG_SLEEP = 13, /* a heartbeat of an idle leader that asks the member to sleep: sleep.c */
    RAFT_MSG_SLEEP_REPLY = 14, /* consent: the sender's timer is stopped */
    RAFT_MSG_KIND_MAX = 14,
};

/* Every message between replicas except snapshots, which the engine streams. */
struct raft_message {
    uint8_t kind;
    bool reject;
    bool transfer;     /* votes: forced by a leadership transfer */
    uint64_t from, to; /* replica ids */
    uint64_t epoch;    /* of the sender, set by the core; a message of another epoch is refused */
    uint64_t term;     /* READ and READ_REPLY carry no term (0) */
    uint64_t index;    /* APPEND: prev index; APPEND_REPLY: acknowledged or rejected index;
                          votes, SLEEP: last index; READ_REPLY: read index */
    uint64_t log_term; /* APPEND: prev term; votes, SLEEP: last term; rejection: hint term */
    uint64_t commit;
    uint64_t commit_term;      /* votes, REMOVED: term of `commit`, or 0 */
    uint64_t hint;             /* APPEND_REPLY rejection: the follower's best guess of the match;
                                  HEARTBEAT_REPLY: it will not vote for this many ms (leases) */
    uint64_t context;          /* HEARTBEAT(_REPLY): read round; READ(_REPLY): read number;
                                  SLEEP(_REPLY): the leader's round of asking */
    uint64_t sent_ms;          /* APPEND, HEARTBEAT, SLEEP: the leader's time (now_ms) when it sent
                                  this; their replies repeat it. Set by the core */
    uint64_t incarnation_from; /* set by the engine on receipt; 0 in a single-process test */
    uint64_t
        incarnation_to; /* a reply: of the message that it answers, or 0 if that is not known */
    uint32_t entry_count;
    struct raft_entry **entries; /* APPEND; references owned by the message */
};
/* Releases the entries and, if entry_count > 0, frees their (malloced) array; not `m` itself. */
void raft_message_deinit(struct raft_message *m);

/* ---- Life cycle ------------------------------------------------------------------------------ */

struct raft_hard {
    uint64_t term;
    uint64_t vote;   /* replica id, 0 none */
    uint64_t commit; /* a lower bound; synced only together with something else */
};

struct raft_options {
    uint64_t replica_id;
    uint64_t seed; /* another one for each start; replicas may share it: their ids go in too */
    uint32_t election_timeout_ms; /* T; elections fire uniformly in [T, 2T) */
    uint32_t heartbeat_ms;        /* at most T / 3 */
    uint32_t sleep_after_ms;      /* a group that is idle for this long sleeps; 0: never */
    uint64_t cache_bytes;         /* of applied entries kept in memory for followers */
    bool pre_vote;                /* on, except in tests */
    bool check_quorum;            /* on, except in tests */
    bool lease;                   /* lease reads; the same on all members, needs check_quorum */
    bool witness;
};

/* A stretch of the log with one term: terms of all indexes are known without reading the log. */
struct raft_term_run {
    uint64_t first_index;
    uint64_t term;
};

/* The state that recovery found. All arrays are copied. A replica that bootstraps gets the initial
 * configuration of the group, at index 0 and term 0. A replica that joins later gets an empty
 * configuration and stays passive until it receives a message from a leader. */
struct raft_boot {
    struct raft_hard hard;
    uint64_t start_index; /* the log holds (start_index, last_index]; 0 for a new one */
    uint64_t start_term;
    const struct raft_config *config; /* at start_index */
    uint64_t last_index;
    const struct raft_term_run *runs; /* covering (start_index, last_index], ascending */
    size_t run_count;
    struct raft_entry *const *config_entries; /* every CONFIG entry in the log, ascending */
    size_t config_entry_count;
    uint64_t applied; /* the machine's applied index (>= start_index): where `apply` resumes */
    struct raft_stamp last_stamp; /* of the entry at last_index, or of the log's start */
    uint64_t now_ms;
};

struct raft;
/* INVALID_ARGUMENT / DATA_LOSS if `boot` contradicts itself (it comes from a disk). */
THOLE_MUST_CHECK enum thole_code raft_new(const struct raft_options *o, const struct raft_boot *b,
                                          struct raft **ret, struct thole_status *st);
void raft_free(struct raft *r);

/* ---- Events ---------------------------------------------------------------------------------- */

/* A message from a peer. Takes over `m->entries`: the references and, if entry_count > 0, the
 * malloced array; entry_count is 0 afterwards, whatever the result. Malformed input is
 * INVALID_ARGUMENT and changes nothing. DATA_LOSS: this replica must stop, because its log and the
 * leader's contradict each other about an entry that is committed or acknowledged; or (REMOVED)
 * because the group was forced without it and it is superseded. */
THOLE_MUST_CHECK enum thole_code raft_receive(struct raft *r, struct raft_message *m,
                                              uint64_t now_ms, struct thole_status *st);
/* Real time, which leases need: CLOCK_BOOTTIME in ns. Read the clock after the turn's events were
 * fed to the core, and before raft_tick and raft_harvest. Without it reads are confirmed by a
 * round, as without leases. */
void raft_clock(struct raft *r, uint64_t real_ns);
/* Time passed. Call when raft_deadline_ms says so (earlier is harmless). */
void raft_tick(struct raft *r, uint64_t now_ms);
uint64_t raft_deadline_ms(const struct raft *r);

/* Append `n` entries as the leader: sets index, term and stamp of each and takes one reference each
 * on success. All of them get one stamp, with `wall_ms` (a wall clock) unless the log has a later
 * one. All or nothing. UNAVAILABLE NOT_LEADER / TRANSFERRING; RESOURCE_EXHAUSTED QUEUE_FULL
 * (uncommitted bytes). On failure the entries stay the caller's. The first index is ret_first. */
THOLE_MUST_CHECK enum thole_code raft_propose(struct raft *r, struct raft_entry *const *entries,
                                              size_t n, uint64_t now_ms, uint64_t wall_ms,
                                              uint64_t *ret_first, struct thole_status *st);
/* The stamp that a proposal would get now; on a replica that does not lead, the last one in its
 * log. A getter. */
struct raft_stamp raft_stamp_now(const struct raft *r, uint64_t now_ms, uint64_t wall_ms);
/* Propose a membership change: UNAVAILABLE NOT_LEADER, ABORTED CHANGE_IN_FLIGHT,
 * FAILED_PRECONDITION (raft_change_apply's reasons), UNAVAILABLE NOT_READY: a new voter is not
 * caught up (struct raft_peer_status), or those that are would be no majority afterwards;
 * retry later. It acts when committed and durable here. */
THOLE_MUST_CHECK enum thole_code raft_change_membership(struct raft *r, const struct raft_change *c,
                                                        uint64_t now_ms, uint64_t *ret_index,
                                                        struct thole_status *st);
/* Ask for a linearizable read point. `context` is the engine's number for it, unique per replica
 * while outstanding; answered once in an update's `reads`. On a follower it is sent to the leader;
 * UNAVAILABLE NO_LEADER when none is known. The core gives up after 2T (reads[i].failed). */
THOLE_MUST_CHECK enum thole_code raft_read(struct raft *r, uint64_t context, uint64_t now_ms,
                                           struct thole_status *st);
/* Start handing leadership to `target` (0: the best caught-up voter). UNAVAILABLE NOT_LEADER,
 * NOT_FOUND, ABORTED TRANSFERRING, FAILED_PRECONDITION. Aborted after T. */
THOLE_MUST_CHECK enum thole_code raft_transfer(struct raft *r, uint64_t target, uint64_t now_ms,
                                               struct thole_status *st);
/* The caller knows that the leader is gone: a follower or learner forgets it, and so no longer
 * refuses votes because of it. Term, vote and election timer stay. No effect on a leader, on a
 * (pre-)candidate, or without a leader. FAILED_PRECONDITION with lease reads, because leases rely
 * on that refusal. */
THOLE_MUST_CHECK enum thole_code raft_forget_leader(struct raft *r, uint64_t now_ms,
                                                    struct thole_status *st);
/* The group has lost its quorum for good: make this replica its only voter. Its whole log becomes
 * committed, and every other member is removed. From then on a message of an earlier epoch is
 * refused, so that members which come back cannot undo it. Acts when the next update is
 * durable; then the replica campaigns. FAILED_PRECONDITION: a witness, a replica without data or
 * that never was a member, an epoch that is not above the replica's; UNAVAILABLE: a snapshot is
 * being installed. */
THOLE_MUST_CHECK enum thole_code raft_force(struct raft *r, uint64_t epoch, uint64_t now_ms,
                                            struct thole_status *st);
void raft_campaign(struct raft *r, uint64_t now_ms); /* tests, and "leader preference" */

/* The batch that carried `token` (and all before it) is durable. */
void raft_persisted(struct raft *r, uint64_t token, uint64_t now_ms);
/* The machine has applied everything up to `index`; cached entries below it may be dropped. */
void raft_applied(struct raft *r, uint64_t index);
/* The engine could not reach `peer` (its stream broke or its queue was full). */
void raft_unreachable(struct raft *r, uint64_t peer);
/* A sleeping replica has no deadline. Instead the caller watches the hosts of its leader, or of its
 * members, and calls this when such a host falls silent or restarts, or when the leader there
 * stopped. `heard_ms`: when the leader's host was last heard, for the election timer. Every other
 * event wakes the replica by itself. No effect on a replica that is awake. */
void raft_wake(struct raft *r, uint64_t heard_ms, uint64_t now_ms);
bool raft_asleep(const struct raft *r);
/* Free the memory that a sleeping replica does not need: queues and windows that are empty, and
 * entries that are applied. Ends what the last update lent. No effect on an awake replica. */
void raft_trim(struct raft *r);
/* Leader: the host of a member is not heard (or is heard again). The leader does not wait for the
 * consent of an absent member to sleep. Forgotten when leadership ends; a member that is new to the
 * configuration is not absent. */
void raft_absent(struct raft *r, uint64_t peer, bool absent, uint64_t now_ms);
/* Answer of an update's `need_log`: entries from the store, ascending and contiguous from
 * `first`; references are taken. n == 0: no longer in the log (compacted), a snapshot is needed. */
void raft_log_read(struct raft *r, uint64_t peer, uint64_t first, struct raft_entry *const *entries,
                   size_t n);
/* The snapshot that `need_snapshot` asked for: index it was taken at, and whether the peer has
 * installed it. A lost report is harmless: an append reply from the peer also frees it. */
void raft_snapshot_sent(struct raft *r, uint64_t peer, uint64_t index, bool ok);
/* A complete, verified snapshot from `from` is staged here. If it is newer than our log's commit,
 * the core forgets its log and the next update carries `snapshot`; if stale, commit may advance
 * and ret_install is false. `stamp` is that of the entry at `index`. `config` is copied. */
THOLE_MUST_CHECK enum thole_code raft_snapshot_received(
    struct raft *r, uint64_t from, uint64_t term, uint64_t index, uint64_t index_term,
    struct raft_stamp stamp, const struct raft_config *config, uint64_t now_ms, bool *ret_install,
    struct thole_status *st);
/* A snapshot that comes from no leader is staged here: the state that a group begins with, of which
 * this replica is the only voter in `config`. Only for a replica that has nothing yet, was given no
 * configuration, and heard of no higher epoch (FAILED_PRECONDITION otherwise). The next update
 * carries `snapshot`. */
THOLE_MUST_CHECK enum thole_code raft_seed(struct raft *r, uint64_t index, uint64_t index_term,
                                           struct raft_stamp stamp,
                                           const struct raft_config *config, uint64_t now_ms,
                                           struct thole_status *st);
/* The log up to `index` (<= applied, known durable in the machine or a snapshot) may go. The next
 * update carries `log_start`. Ignored if index is not beyond the current start. */
void raft_compact(struct raft *r, uint64_t index);

/* ---- Effects --------------------------------------------------------------------------------- */

enum raft_role {
    RAFT_FOLLOWER = 0, /* learners and witnesses too */
    RAFT_PRE_CANDIDATE = 1,
    RAFT_CANDIDATE = 2,
    RAFT_LEADER = 3,
};

struct raft_read_result {
    uint64_t context;
    uint64_t index; /* serve when the machine's applied index is at least this */
    bool failed;    /* no confirmation: leadership was lost or timed out; ask again */
};

struct raft_peer_request {
    uint64_t peer;
    uint64_t first;     /* need_log: the first index wanted */
    size_t max_bytes;   /* need_log: about this much */
    uint64_t min_index; /* need_snapshot: the snapshot must be at least at this index */
};

/* Arrays belong to the core and are valid until the next call on it that is not a pure getter; take
 * references of what must live longer. */
struct raft_update {
    /* Persist, all in one batch. persist == 0: nothing to write. Otherwise `hard` is always set,
     * because hard state and entries go together; entries[0] truncates everything from its index
     * on. */
    uint64_t persist;
    struct raft_hard hard;
    struct raft_entry **entries;
    size_t entry_count;
    bool snapshot; /* install the staged snapshot: log_start_* and config below describe it, and
                      the old log goes in the same batch; `entries` then follow it */
    bool log_start_changed; /* a compaction, or with `snapshot` an install */
    uint64_t log_start_index, log_start_term;
    const struct raft_config *log_start_config; /* at log_start_index */
    struct raft_stamp log_start_stamp; /* of the log's last entry now: it counts at a start that
                                          finds no entry behind log_start_index */

    struct raft_message *messages; /* may be sent now, in order; valid like the arrays, but the
                                      engine may take over `entries` by zeroing entry_count */
    size_t message_count;

    /* Committed and durable here: hand (apply_first .. apply_last) to the machine. Cached ones are
     * in raft_entry_at; others are read from the store. apply_first == 0: nothing. */
    uint64_t apply_first, apply_last;

    struct raft_read_result *reads;
    size_t read_count;
    struct raft_peer_request *need_log;
    size_t need_log_count;
    struct raft_peer_request *need_snapshot;
    size_t need_snapshot_count;

    bool status_changed; /* role, leader, term or configuration: see raft_status */
    bool config_changed;
    /* This replica was removed for good, by a REMOVED message or by the configuration. */
    bool removed;
};
bool raft_has_update(const struct raft *r);
void raft_harvest(struct raft *r, struct raft_update *ret);

/* ---- Getters --------------------------------------------------------------------------------- */

struct raft_status {
    uint64_t term, vote, commit, applied, last_index, durable_index, first_index;
    uint64_t last_term; /* of the entry at last_index */
    uint64_t epoch;
    uint64_t leader; /* replica id, 0 unknown */
    uint64_t transfer_target;
    uint64_t config_index; /* index of the entry that made the current configuration; 0 = initial */
    enum raft_role role;
    bool leader_ready; /* leads and has committed an entry of its term */
};
void raft_status(const struct raft *r, struct raft_status *ret);
const struct raft_config *raft_config(const struct raft *r); /* in force (applied) */
/* The same with a reference, so that it outlives the next event. Immutable; may be read and
 * released on any thread. */
const struct raft_config *raft_config_hold(const struct raft *r);
void raft_config_release(const struct raft_config *c); /* NULL is fine */
const struct raft_config *raft_config_at(const struct raft *r,
                                         uint64_t index); /* index >= log start */
/* The cached entry, borrowed; NULL when it must be read from the store. */
struct raft_entry *raft_entry_at(const struct raft *r, uint64_t index);
/* Term of an index in [log start, last]; false outside. */
bool raft_term_at(const struct raft *r, uint64_t index, uint64_t *ret_term);

enum raft_peer_state { RAFT_PROBE, RAFT_REPLICATE, RAFT_SNAPSHOT };
struct raft_peer_status {
    uint64_t match, next;
    enum raft_peer_state state;
    bool recently_active; /* or new: the leader's quorum check counts it */
    bool answers;         /* since it became a member, in this term, it answered a message sent
                             within the last election timeout; asleep: its host is heard */
    bool known;           /* `answers` can be relied on: it answered once in this term, or the
                             leader has led for an election timeout */
    bool caught_up;       /* it answers, and has all entries that were committed a timeout or two
                             ago, of this term at the least: it may be given a vote */
};
/* A leader's view of a member; false if not leading or unknown. */
bool raft_peer(const struct raft *r, uint64_t replica_id, struct raft_peer_status *ret);

#endif
