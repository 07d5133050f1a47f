/* The replica object (replica.c; its life cycle is in group.c). A host may have tens of thousands,
 * nearly all of them asleep. Fields that only an awake replica needs are in struct replica_work. */
#ifndef SHARDS_ENGINE_REPLICA_H
#define SHARDS_ENGINE_REPLICA_H

#include <assert.h>
#include <stdatomic.h>

#include "base/map.h"
#include "base/wheel.h"
#include "base/worker.h"
#include "shards/engine/engine.h"

struct loop;
struct applier;
struct machine;
struct query_job;
struct watch_list;
struct write_batch;
struct save_waiter;
struct due_timer;
struct control;
struct pending;
struct task;

enum group_state {
    GROUP_CREATING, /* its identity is being written */
    GROUP_OPENING,  /* its machine is being opened */
    GROUP_RUNNING,
    GROUP_FAILED, /* its status shows why; it answers and sends nothing */
    GROUP_REMOVING,
    GROUP_GONE,
};

struct pending_ring {
    struct pending *slots;
    size_t capacity, head, count;
};

struct read_batch {
    struct read_batch *next;
    uint64_t context;
    struct msgq requests;
};

struct log_mark { /* the index at which the log had `bytes`: finds the tail to keep */
    uint64_t index, bytes;
};

struct peer_view {
    uint64_t replica_id;
    struct raft_peer_status status;
};

struct replica_boot { /* the recovered state, or the first one */
    struct raft_boot raft;
    struct raft_term_run *runs;
    struct bytes descriptor, config;
    uint64_t bytes; /* of its log */
};
/* See struct engine_replica_status. */
struct replica_shown {
    uint64_t term, leader, epoch, last_term, commit, applied;
    uint64_t last_index, first_index, config_index, config_revision, log_bytes, snapshot_index;
    struct uuid leader_host;
    uint32_t votes;
    uint8_t role; /* enum raft_role */
    bool leader_ready, initialised, voter, removed_by_peer, failed, unopened, superseded,
        sends_snapshot;
};

/* Machine type and roles of a replica. Equal for many replicas of a host, which share it.
 * Immutable. */
struct replica_kind {
    uint32_t refs; /* under the engine's kinds_lock */
    uint32_t type_version;
    uint64_t key; /* in engine.kinds */
    char *type_name;
    _Atomic uint64_t *type_proposals; /* of engine.type_proposals; NULL: the type is unknown here */
    struct bytes type_config;
    bool witness, lease_reads;
};

/* The loop's state of a replica that is awake, or has something outstanding. */
struct replica_work {
    struct replica *r;
    struct wheel_timer tick;
    struct raft_status status; /* after the last harvest */
    struct control *starting;
    struct msgq proposing, reading;
    struct pending_ring pending;
    struct read_batch *reads, **reads_tail;
    uint64_t read_context;
    uint64_t apply_next, apply_last; /* committed and durable, not at the applier: [next, last] */
    size_t applying_bytes, applying_jobs;
    struct write_batch *update_batch; /* the accumulating batch that holds update_slot */
    size_t update_slot;
    uint64_t merged_token, durable_token; /* of the core's updates: both ascend */
    struct map peer_hosts; /* replica id -> struct uuid *: senders that are not members */
    struct control *transfers, *forces;
    struct task *install; /* restored, waiting for its batch */
    struct save_waiter *save_waiters;
    struct control *exports;         /* wait for the save in progress */
    uint64_t sending, sending_index; /* snapshot transfers in flight; the index of the oldest */
};

struct replica {
    _Atomic uint32_t refs;
    /* The loop's. */
    uint8_t state;            /* enum group_state */
    uint8_t restore_failures; /* of received snapshots, consecutive */
    bool dirty, publish, notify;
    bool led, slept;     /* after the last harvest */
    uint8_t handed_over; /* enum engine_move_reason of the move under way; 0: none */
    bool removed_by_peer;
    /* Snapshot tasks, at most one of each kind; and whether jobs for the applier wait for them. */
    bool restoring, saving, compacting, checking, holding_applies;
    bool holding_for_save; /* no applies while a machine without views is saved */
    bool persistent, has_views;
    /* The applier's. */
    bool machine_failed;
    /* Anyone's. */
    _Atomic bool peers_wanted, removing;
    /* Written by the loop, read by anyone: proposals appended here since the start. `recent` is
     * halved each minute: as of the minute `recent_minute` of the clock. */
    _Atomic uint64_t proposed;
    _Atomic uint32_t recent, recent_minute;

    /* Immutable. */
    struct engine *e;
    uint64_t replica_id, shard_id;
    struct loop *loop;
    struct applier *applier;
    const struct replica_kind *kind;

    /* The loop's. */
    struct raft *core;
    struct replica_work *work;    /* NULL: asleep; use work_of */
    struct thole_status *failure; /* NULL: none; set once, and before `shown` says so */
    struct replica_boot *boot;    /* until the core exists */
    uint64_t applied;
    struct due_timer *timer;  /* NULL unless its machine waits for a time: timers.c */
    uint64_t leader_heard_ns; /* its last append, heartbeat or SLEEP */
    uint64_t generation;
    uint64_t snapshot_index, snapshot_term; /* of the newest file; 0: none */
    uint64_t snapshot_bytes;                /* of an in-memory machine's last one; 0: none yet */
    uint64_t log_bytes, compact_at_bytes;
    uint64_t appended_bytes; /* to the log since start; marks are in these */
    struct log_mark *marks;  /* NULL: room for one, in first_mark */
    struct log_mark first_mark;
    uint32_t mark_count, mark_capacity;

    /* The applier's (set by tasks). */
    struct machine *machine;
    struct query_job *parked;

    /* Under the applier's watch_lock; `watch_applied` is for a consistent start. */
    struct watch_list *watches;
    bool watches_walked;
    uint64_t watch_applied;

    /* Under the engine's lock. */
    struct replica_shown shown;
    const struct raft_config *shown_config; /* held; NULL before the core exists */
    struct peer_view *shown_peers;          /* of a leader, once engine_shard_peer asked */
    size_t shown_peer_count;
};
static_assert(sizeof(struct replica) <= 424, "one for each replica of the host");
struct replica *replica_new(struct engine *e, uint64_t replica_id, uint64_t shard_id,
                            struct slice descriptor);
struct replica *replica_ref(struct replica *r);
void replica_unref(struct replica *r);
void replica_boot_free(struct replica *r);
struct replica_work *replica_begin_work(struct replica *r); /* on the loop, as what follows */
static inline struct replica_work *work_of(struct replica *r)
{
    return r->work != NULL ? r->work : replica_begin_work(r);
}
void replica_release_work(
    struct replica *r); /* give the work back, if it sleeps and none is left */
void replica_status(const struct replica *r, struct raft_status *ret); /* after the last harvest */
uint64_t replica_leader(const struct replica *r);                      /* likewise; 0: none known */
void replica_set_failure(struct replica *r, const struct thole_status *st); /* the first counts */
/* Under the engine's lock, or on the loop. */
void replica_show(const struct replica *r, struct engine_replica_status *ret);

#endif
