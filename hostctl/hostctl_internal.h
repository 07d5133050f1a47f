/* Inside the controllers. Everything here except `struct ctl_port` belongs to one worker.
 *
 * Level-triggered: an event only marks a shard dirty. Evaluating a shard compares the newest view
 * with the engine and starts at most one step per controller. The end of the step marks the shard
 * dirty again. A failed step is retried after a pause (the shard's timer). When view and engine
 * agree no timer is armed. */
#ifndef HOSTCTL_HOSTCTL_INTERNAL_H
#define HOSTCTL_HOSTCTL_INTERNAL_H

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/assert.h"
#include "base/map.h"
#include "base/wheel.h"
#include "hostctl/detector.h"
#include "hostctl/hostctl.h"
#include "registry/placement/placement.h"

#define HOSTCTL_MAILBOX 65536
#define HOSTCTL_REPORT_SHARDS_MAX 256 /* in one command */
#define HOSTCTL_PLACEMENTS_MAX 4      /* commands of the placement controller under way */
#define HOSTCTL_PLACE_SHARDS_MAX 128  /* shards that one of them decides */
#define HOSTCTL_POOL_SHARDS_MAX 256   /* of a pool, changed by one command */
#define HOSTCTL_EVALUATIONS_MAX 1024  /* of shards in one turn */
#define HOSTCTL_MOVES_MAX 4           /* replicas that move only for balance, at one time */
#define HOSTCTL_LEADER_LINES_MAX 32   /* in a second */
#define HOSTCTL_TRANSFERS_MIN 4  /* leaders that move for balance from one host at a time ... */
#define HOSTCTL_TRANSFERS_MAX 64 /* ... and if it leads hundreds more than another */

#define HOSTCTL_MOVES_KEPT 256 /* of leaders, until shard zero acknowledges them */

enum ctl_msg { MSG_WAKE, MSG_REPLICA, MSG_PEER, MSG_OP, MSG_MOVE };

/* A move of leadership from this host, to be recorded as an event. */
struct ctl_move {
    struct worker_msg msg;
    uint64_t shard_id, from, to;
    const char *by; /* static */
    char why[160];
};

/* Where answers are posted; outlives the controllers as long as an operation is under way. */
struct ctl_port {
    _Atomic uint32_t refs;
    pthread_mutex_t lock;
    struct worker *worker; /* NULL: the controllers no longer exist */
};

enum ctl_op_kind {
    OP_START,
    OP_SEED,
    OP_REMOVE,
    OP_FORGET,
    OP_BARRIER,
    OP_CHANGE,   /* a membership change, or a transfer */
    OP_TRANSFER, /* of a leader, for balance */
    OP_FENCE,    /* see hostctl__fence */
    OP_PLACE,
    OP_POOL,
    OP_OPERATE, /* a step of an operation */
    OP_REPORT,
    OP_LIVENESS,
    OP_REACHES, /* another host's answer about a silent host */
    OP_HEAL,
    OP_LOCAL_EVENTS,
};

/* An engine call or a proposal under way. */
struct ctl_op {
    struct worker_msg msg;
    struct ctl_port *port;
    enum ctl_op_kind kind;
    uint64_t shard_id, replica_id;
    struct uuid host;
    struct thole_status st;
    uint64_t code;     /* of proposals: the registry's answer */
    uint64_t revision; /* of proposals: the revision of the effect */
    struct uuid asked; /* OP_REACHES: the host that answered about `host` */
    bool answered, reaches;
    uint64_t *shards;    /* OP_REPORT, OP_PLACE: the shards of the command */
    size_t count;        /* how many of these */
    struct uuid *placed; /* OP_PLACE: hosts that get a replica */
    size_t placed_count;
    struct ctl_move *move; /* recorded if the operation succeeds; NULL: no event */
    struct ctl_op *next;   /* OP_PLACE: answered, but our view does not show the effect yet */
};

struct ctl_replica_msg {
    struct worker_msg msg;
    uint64_t shard_id;
};

struct ctl_peer_msg {
    struct worker_msg msg;
    struct uuid host;
    bool up;
};

/* State of a shard while a step is pending. */
struct ctl_work {
    uint64_t shard_id;
    struct wheel_timer timer;
    uint64_t lead_after_ms; /* no transfer for balance earlier */
    /* Host controller. */
    uint64_t host_after_ms; /* no step earlier */
    uint64_t failed_replica;
    char *failure; /* of starting failed_replica */
    /* Membership controller. */
    uint64_t fenced_index, fenced_term; /* the configuration that is fenced, and by which leader */
    uint64_t fencing_index, fencing_term;
    uint64_t change_after_ms;
    /* Placement controller. */
    struct ctl_shard *next_blocked;
    struct uuid moving_from;
    uint64_t place_after_ms;
    uint64_t place_revision; /* our last decision took effect here: wait for the view to have it */
    char *explanation;       /* NULL: none */
    /* Rebuilding of failed replicas. */
    uint64_t heal_after_ms;
    uint64_t failed_seen, failed_seen_ms; /* the replica that is to be rebuilt; since when it is */
    /* Reports. */
    struct ctl_shard *next_report;
    uint64_t report_after_ms;
    uint64_t report_revision;
};

/* A shard that is led here, or that has a step pending; on shard zero's leader host every shard.
 * Most shards have no step and no state here. */
struct ctl_shard {
    uint64_t id;
    struct ctl_shard *next_dirty;
    const struct ctl_work
        *work; /* read-only, see hostctl__work; hostctl__no_work: no step is pending */
    bool dirty;
    bool leads;                       /* the local replica, as its log last reported it */
    bool starting, seeding, removing; /* host controller */
    bool changing, fencing;           /* membership controller */
    bool placing, place_blocked;      /* blocked: until a command is answered */
    bool unbalanced, moving, decided; /* placement controller */
    bool healing;                     /* of failed replicas */
    bool sending; /* balance of leaders: the replica sends a snapshot; its end wakes this */
    bool report_queued, reporting; /* reports */
    uint8_t verdict;               /* enum placement_verdict; if decided */
};
extern const struct ctl_work hostctl__no_work;

/* A host with a row, or one that the bus has reported. */
struct ctl_host {
    struct uuid id;
    bool in_view;
    char *address;        /* as last reported to the layer above; NULL: never */
    uint64_t address_of;  /* the incarnation at that address */
    bool up;              /* the connection, as the bus reports it */
    uint64_t incarnation; /* of its row; a new one is a sign of life */
    int32_t extra;        /* replicas on their way to this host, less those that will leave it */
    int64_t leads;        /* shards that it leads, by reports */
    int64_t expected;     /* with the transfers that are under way */
    /* Liveness: the answers of other hosts during its last silence. */
    uint32_t questions; /* requests under way */
    uint32_t unreached; /* other hosts that do not reach it either */
    bool reached;       /* by `witness`, a host that reaches it */
    struct uuid witness;
    uint64_t asked_ms; /* 0: no other host yet */
    bool reporting;
    uint64_t report_after_ms, report_revision;
    int64_t failed_ms;       /* when replicas last failed there, as its row says */
    uint64_t failed_seen_ms; /* and since when it says so */
};

/* Signs of life arrive on the bus's threads, far more often than the worker reads them. */
struct ctl_signs {
    _Atomic bool wanted; /* a leader of shard zero set it */
    pthread_mutex_t lock;
    struct ctl_sign {
        struct uuid host;
        struct detector detector;
    } * of; /* one for each host, in the same order */
    size_t count;
};

/* The progress of an operation, as the view shows it. */
struct ctl_progress {
    thole_v1_OperationState state;
    const char *step;
    uint32_t done, total;
    char message[THOLE_STATUS_MESSAGE_BYTES];
    bool remove; /* the same command changes its host */
    bool retire; /* the same command changes its shard */
};

struct hostctl {
    struct hostctl_options o;
    struct worker *worker;
    struct ctl_port *port;
    const struct clock *clock;
    struct wheel *wheel;
    uint64_t now_ms;
    uint64_t turns;
    _Atomic bool stopping;

    _Atomic bool wake_posted;
    struct worker_msg wake;
    _Atomic bool all_dirty; /* a full mailbox dropped a message */

    struct registry_view *view; /* NULL before the first turn */
    bool tombstones_dirty;
    bool forgetting;
    /* After a start the registry's machine replays its log, and old views show removed replicas as
     * new. So create nothing before the view has reached the revision at the start. */
    bool barrier_asked, barrier_known;
    uint64_t barrier_revision;
    struct map shards; /* id -> struct ctl_shard */
    struct ctl_shard *dirty, **dirty_tail;
    struct ctl_host *hosts;
    size_t host_count, host_capacity;
    struct ctl_signs signs;

    bool zero_leader;
    /* Placement: the command with this turn's decisions, and the commands under way. */
    struct {
        upb_Arena *arena; /* NULL: no decision yet */
        thole_registry_v1_Command *command;
        struct ctl_op *op;
        size_t operations;
    } batch;
    size_t placements;
    size_t place_limit; /* shards in one command */
    struct ctl_op *unseen_placements;
    struct ctl_shard *blocked, **blocked_tail;
    size_t unsettled; /* shards whose last decision was ACT or WAIT */
    /* Pools. */
    bool pools_dirty, pool_outstanding;
    uint64_t pool_after_ms;
    uint64_t pool_revision;   /* the next step waits until the view has reached it */
    struct map pool_attempts; /* hash of a name -> revision of the row, as a number */
    /* Balance. */
    size_t moving;
    uint64_t balance_due_ms;               /* UINT64_MAX: nothing has changed */
    uint64_t balance_after, balance_begin; /* replica ids: position and start of the round */
    bool balance_wrapped;
    bool balance_even; /* a whole round found nothing to move, and nothing has changed since */
    size_t transfers;
    /* Users' operations. */
    uint32_t paused;    /* bits of thole_v1_Controller */
    uint64_t rebalance; /* operation that is under way; 0: none */
    bool operate_outstanding;
    uint64_t operate_after;    /* id of the last one that was looked at */
    uint64_t operate_revision; /* the next step waits until the view has reached it */
    uint64_t operate_due_ms;   /* UINT64_MAX: nothing has changed */
    uint64_t leaders_due_ms;   /* UINT64_MAX: nothing has changed */
    bool leaders_preferred;    /* a shard was seen that has a preference */
    bool leaders_all;          /* hosts changed: look at every shard that is led here */
    bool leaders_moved;        /* leaders changed: the same, if hosts lead unevenly */
    struct map
        leaders_look; /* ids of shards led here that changed since they were looked at: a set */
    uint64_t leaders_revision; /* the next transfers wait until the view has reached it */
    size_t leaders_at;         /* position in `shards` of the next look at all */
    uint64_t liveness_due_ms;  /* UINT64_MAX: nothing to wait for */
    uint64_t liveness_ran_ms;

    /* Changes of leadership in the log: some lines in a second, then one with the count. */
    struct {
        uint64_t window_end_ms;
        uint32_t lines, more;
    } leader_log;
    /* Local events: transfers of leadership that shard zero has not acknowledged, oldest first. */
    struct ctl_move moves[HOSTCTL_MOVES_KEPT];
    size_t move_count;
    size_t moves_proposed; /* that many form the batch under way; 0: there is none */
    uint64_t moves_batch;  /* the number of the batch */
    uint64_t moves_lost;   /* how many were dropped for newer ones since the last acknowledgement */
    bool events_outstanding;
    bool events_host; /* a report of the host is under way, or was the last command */
    uint64_t events_after_ms, events_revision;

    struct ctl_shard *reports, **reports_tail;
    bool report_outstanding;
    size_t report_limit;
    uint64_t report_due_ms; /* UINT64_MAX: nothing queued */
};

/* ---- hostctl.c ------------------------------------------------------------------------------- */

/* Each creates what does not exist yet. */
struct ctl_shard *hostctl__shard(struct hostctl *h, uint64_t id);
struct ctl_work *hostctl__work(struct ctl_shard *s);
void hostctl__dirty(struct hostctl *h, uint64_t shard_id);
void hostctl__dirty_all(struct hostctl *h);
/* Evaluate the shard again at this time, or earlier. */
void hostctl__again(struct hostctl *h, struct ctl_shard *s, uint64_t at_ms);

/* tables_check.c: asserts that tables and counts agree; returns true. */
bool hostctl__check_tables(struct hostctl *h);

/* ---- controller_ops.c ------------------------------------------------------------------------ */

struct ctl_port *hostctl__port_new(void);
void hostctl__port_unref(struct ctl_port *p);
struct ctl_op *hostctl__op_new(struct hostctl *h, enum ctl_op_kind kind, uint64_t shard_id,
                               uint64_t replica_id);
void hostctl__op_free(struct ctl_op *op);
/* Ask shard zero for its current revision; answered by OP_BARRIER. */
void hostctl__barrier(struct hostctl *h);
/* Commit one more entry in the shard, which opens a session that nobody uses; answered by OP_FENCE.
 * A member stores its commit index along with entries. When an entry that was appended under a
 * configuration is committed, a quorum of this configuration has stored that the configuration is
 * committed. That quorum can elect a leader without the removed members: only then may those be
 * deleted. */
void hostctl__fence(struct hostctl *h, uint64_t shard_id);
void hostctl__op_engine_done(void *ctx, const struct thole_status *st); /* an engine_done_fn */
/* A command by `actor` at this time; add operations, then propose it. */
thole_registry_v1_Command *hostctl__command(struct hostctl *h, const char *actor, upb_Arena *arena);
/* The actor is this host: "host/NAME". */
thole_registry_v1_Command *hostctl__host_command(struct hostctl *h, upb_Arena *arena);
/* Answered by `op` as MSG_OP. The caller keeps the arena. */
void hostctl__propose(struct hostctl *h, const thole_registry_v1_Command *c, upb_Arena *arena,
                      struct ctl_op *op);
/* Ask `asked` whether it reaches `about`; answered by OP_REACHES. */
void hostctl__ask_reaches(struct hostctl *h, const struct uuid *asked, const struct uuid *about);

/* ---- view_changes.c: views and host rows ----------------------------------------------------- */

void hostctl__refresh_view(struct hostctl *h);
/* Creates what does not exist yet. */
struct ctl_host *hostctl__host(struct hostctl *h, const struct uuid *id);
const thole_v1_Host *hostctl__own_row(const struct hostctl *h);
bool hostctl__host_has_state(const thole_v1_Host *row, thole_v1_HostState state);

/* ---- The controllers ------------------------------------------------------------------------- */

/* How long ago it was `at_ms` by the wall clock of some host; at least since `seen_ms` of this
 * host's own clock. Wall clocks differ and jump: no pause may depend on them alone. */
uint64_t hostctl__passed_ms(const struct hostctl *h, uint64_t at_ms, uint64_t seen_ms);

/* host_controller.c. `local` NULL: the shard has no replica here. */
void hostctl__host_evaluate(struct hostctl *h, struct ctl_shard *s,
                            const struct engine_replica_status *local);
void hostctl__host_done(struct hostctl *h, struct ctl_op *op);
void hostctl__forget_tombstones(struct hostctl *h);
void hostctl__barrier_done(struct hostctl *h, struct ctl_op *op);
/* False: the shard is evaluated again later. */
bool hostctl__view_is_fresh(struct hostctl *h, struct ctl_shard *s);

/* membership_controller.c: the local replica leads and is ready. */
void hostctl__membership_evaluate(struct hostctl *h, struct ctl_shard *s,
                                  const struct engine_replica_status *local);
void hostctl__membership_done(struct hostctl *h, struct ctl_op *op);
/* The row says REMOVE, or the id was given out and has no row. A member that a repair of shard
 * zero does not know may hold the only copy of the group's data: it is removed when the wanted
 * members have caught up. */
bool hostctl__should_go(const struct hostctl *h, const struct raft_config *c, uint64_t shard_id,
                        uint64_t replica_id);
/* Is the configuration in force fenced? If not, starts a fence. */
bool hostctl__config_is_fenced(struct hostctl *h, struct ctl_shard *s,
                               const struct engine_replica_status *local);
void hostctl__fence_done(struct hostctl *h, struct ctl_op *op);

/* votes.c */
struct vote_plan {
    struct raft_change_item items[RAFT_CHANGE_ITEMS_MAX]; /* in one change */
    uint32_t count;
    bool look_again;  /* evaluate again: a wanted change is not possible yet */
    bool self_leaves; /* the local replica, which leads, loses its vote ... */
    /* ... and leadership should move to this replica first; 0: no remaining voter answers */
    uint64_t successor;
};
void hostctl__plan_add(struct vote_plan *plan, uint8_t op, uint64_t replica_id,
                       const uint8_t host[static 16]);
/* Appends all votes to give and to take in one change. */
void hostctl__plan_votes(struct hostctl *h, const struct engine_replica_status *local,
                         const struct raft_config *c, struct vote_plan *plan);

/* placement_controller.c: on shard zero's leader host. */
void hostctl__place_evaluate(struct hostctl *h, struct ctl_shard *s);
void hostctl__place_done(struct hostctl *h, struct ctl_op *op);
void hostctl__place_view_changed(struct hostctl *h);
/* Propose what this turn decided. */
void hostctl__place_flush(struct hostctl *h);
/* Append to this turn's command between begin and commit. */
thole_registry_v1_Command *hostctl__place_begin(struct hostctl *h, upb_Arena **ret_arena);
void hostctl__place_commit(struct hostctl *h, struct ctl_shard *s);
int32_t hostctl__extra_load(void *ctx, const struct uuid *host);
/* A new leader of shard zero does not know the decisions of the previous one. */
void hostctl__place_reset(struct hostctl *h);
void hostctl__place_forget(struct hostctl *h, struct ctl_shard *s);

/* pool_controller.c: on shard zero's leader host. */
bool hostctl__pools_are_due(const struct hostctl *h);
void hostctl__pools_run(struct hostctl *h);
void hostctl__pools_done(struct hostctl *h, struct ctl_op *op);

/* operations_controller.c: on shard zero's leader host; pauses on every host. */
bool hostctl__is_paused(const struct hostctl *h, thole_v1_Controller controller);
void hostctl__operations_changed(struct hostctl *h);
/* The rows that progress is derived from may have changed. */
void hostctl__operate_again(struct hostctl *h);
bool hostctl__operations_are_due(const struct hostctl *h);
void hostctl__operate_run(struct hostctl *h);
void hostctl__operate_done(struct hostctl *h, struct ctl_op *op);

void hostctl__progress_end(struct ctl_progress *p, thole_v1_OperationState state,
                           const char *message);
void hostctl__progress_left(struct ctl_progress *p, uint32_t left);
/* restore_progress.c */
void hostctl__restore_progress(const struct hostctl *h, const thole_v1_Operation *row,
                               struct ctl_progress *p);
/* rebalance_progress.c */
void hostctl__rebalance_progress(const struct hostctl *h, struct ctl_progress *p);

/* replica_balance.c: replicas, on shard zero's leader host; leaders, on every host. */
bool hostctl__may_rebalance(const struct hostctl *h);
void hostctl__balance_changed(struct hostctl *h);
void hostctl__balance_run(struct hostctl *h);
/* leader_balance.c */
void hostctl__leaders_count(struct hostctl *h, const struct registry_view *v,
                            const thole_v1_Shard *shard, bool more);
void hostctl__leaders_recount(struct hostctl *h);
/* For tests: recounts leaders from the rows; do the counts agree? */
bool hostctl__leaders_are_counted_right(struct hostctl *h);
/* The number of shards that the host leads by the rows, without shard zero. */
uint32_t hostctl__leads(const struct hostctl *h, const struct uuid *host);
/* A shard that is led here changed, or its local replica did. */
void hostctl__leaders_note(struct hostctl *h, struct ctl_shard *s);
/* Hosts changed, or may be used again. */
void hostctl__leaders_hosts_changed(struct hostctl *h);
void hostctl__leaders_changed(struct hostctl *h);
void hostctl__leaders_run(struct hostctl *h);
void hostctl__leaders_done(struct hostctl *h, struct ctl_op *op);

/* heal.c: on shard zero's leader host. */
void hostctl__heal_evaluate(struct hostctl *h, struct ctl_shard *s);
void hostctl__heal_done(struct hostctl *h, struct ctl_op *op);

/* liveness.c: on shard zero's leader host. */
void hostctl__liveness_begin(
    struct hostctl *h); /* this host leads shard zero now: restarts all clocks */
void hostctl__liveness_end(struct hostctl *h);
void hostctl__liveness_peer(struct hostctl *h, const struct uuid *id, bool up);
void hostctl__liveness_run(struct hostctl *h);
void hostctl__liveness_done(struct hostctl *h, struct ctl_op *op);
void hostctl__liveness_answer(struct hostctl *h, const struct ctl_op *op);

/* local_events.c */
/* An operation that records a transfer of leadership to replica `to`, with the actor and the
 * reason. */
struct ctl_op *hostctl__op_move(struct hostctl *h, enum ctl_op_kind kind, uint64_t shard_id,
                                uint64_t to, const char *by, const char *why);
void hostctl__note_move(struct hostctl *h, const struct ctl_move *move);
bool hostctl__local_events_are_due(const struct hostctl *h);
void hostctl__local_events_run(struct hostctl *h);
void hostctl__local_events_done(struct hostctl *h, struct ctl_op *op);

/* report.c */
void hostctl__report_evaluate(struct hostctl *h, struct ctl_shard *s,
                              const struct engine_replica_status *local);
void hostctl__report_run(struct hostctl *h);
void hostctl__report_done(struct hostctl *h, struct ctl_op *op);
upb_StringView hostctl__copy(upb_Arena *arena, struct slice s);

#endif
