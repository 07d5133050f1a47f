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
    struct worker *worker; /* NULL: gone */
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
    uint64_t code;     /* proposals: the registry's answer */
    uint64_t revision; /* proposals: where the answer takes effect */
    struct uuid asked; /* OP_REACHES: the host that answered about `host` */
    bool answered, reaches;
    uint64_t *shards;    /* OP_REPORT, OP_PLACE: the shards of the command */
    size_t count;        /* of them */
    struct uuid *placed; /* OP_PLACE: hosts that get a replica */
    size_t placed_count;
    struct ctl_move *move; /* recorded if the operation succeeds; NULL: no event */
    struct ctl_op *next;   /* OP_PLACE: answered, but not yet in our view */
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
    uint64_t lead_after_ms; /* no transfer for balance before */
    /* Host controller. */
    uint64_t host_after_ms; /* not before */
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
    /* Reports. */
    struct ctl_shard *next_report;
    uint64_t report_after_ms;
    uint64_t report_revision;
};

/* A shard that is led here, or that has a step pending; on shard zero's leader host every shard.
 * Of most shards there is nothing to remember. */
struct ctl_shard {
    uint64_t id;
    struct ctl_shard *next_dirty;
    const struct ctl_work *work; /* to read; hostctl__work to change it. hostctl__no_work: none */
    bool dirty;
    bool leads;                       /* the local replica, as the log says */
    bool starting, seeding, removing; /* host controller */
    bool changing, fencing;           /* membership controller */
    bool placing, place_blocked;      /* blocked: until a command is answered */
    bool unbalanced, moving, decided; /* placement controller */
    bool healing;                     /* of failed replicas */
    bool sending;                  /* balance of leaders: a snapshot; looked at again after that */
    bool report_queued, reporting; /* reports */
    uint8_t verdict;               /* enum placement_verdict; if decided */
};
extern const struct ctl_work hostctl__no_work;

/* A host row, or a host that the bus spoke of. */
struct ctl_host {
    struct uuid id;
    bool in_view;
    char *address;        /* as the layer above was told; NULL: none */
    uint64_t address_of;  /* the incarnation that has it */
    bool up;              /* as the bus says */
    uint64_t incarnation; /* of its row; a new one is a sign of life */
    int32_t extra;        /* replicas on their way to it, less those that are to leave it */
    int64_t leads;        /* shards, as they reported */
    int64_t expected;     /* with what is being handed on now */
    /* Liveness: the answers of other hosts during its last silence. */
    uint32_t questions; /* under way */
    uint32_t unreached; /* hosts that do not reach it either */
    bool reached;       /* by `witness` */
    struct uuid witness;
    uint64_t asked_ms; /* 0: nobody yet */
    bool reporting;
    uint64_t report_after_ms, report_revision;
};

/* Signs of life arrive on the bus's threads, far more often than they are read. */
struct ctl_signs {
    _Atomic bool wanted; /* by a leader of shard zero */
    pthread_mutex_t lock;
    struct ctl_sign {
        struct uuid host;
        struct detector detector;
    } * of; /* as many as hosts, in their order */
    size_t count;
};

/* Where an operation is, as the view shows it. */
struct ctl_progress {
    thole_v1_OperationState state;
    const char *step;
    uint32_t done, total;
    char message[THOLE_STATUS_MESSAGE_BYTES];
    bool remove; /* its host, by the same command */
    bool retire; /* its shard */
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
    _Atomic bool all_dirty; /* a message was lost to a full mailbox */

    struct registry_view *view; /* NULL before the first turn */
    bool tombstones_dirty;
    bool forgetting;
    /* After a start the registry's machine replays, and old views show replicas that are long gone
     * as new. So nothing is created before the view has caught up with the revision at the start.
     */
    bool barrier_asked, barrier_known;
    uint64_t barrier_revision;
    struct map shards; /* id -> struct ctl_shard */
    struct ctl_shard *dirty, **dirty_tail;
    struct ctl_host *hosts;
    size_t host_count, host_capacity;
    struct ctl_signs signs;

    bool zero_leader;
    /* Placement: the command of this turn's decisions, and the commands under way. */
    struct {
        upb_Arena *arena; /* NULL: none yet */
        thole_registry_v1_Command *command;
        struct ctl_op *op;
        size_t operations;
    } batch;
    size_t placements;
    size_t place_limit; /* shards of one command */
    struct ctl_op *unseen_placements;
    struct ctl_shard *blocked, **blocked_tail;
    size_t unsettled; /* shards whose last decision was ACT or WAIT */
    /* Pools. */
    bool pools_dirty, pool_outstanding;
    uint64_t pool_after_ms;
    uint64_t pool_revision;   /* the view must have it before the next step */
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
    uint64_t operate_revision; /* the view must have it before the next step */
    uint64_t operate_due_ms;   /* UINT64_MAX: nothing has changed */
    uint64_t leaders_due_ms;   /* UINT64_MAX: nothing has changed */
    bool leaders_preferred;    /* a shard was seen that has a preference */
    bool leaders_all;          /* hosts changed: look at every shard that is led here */
    bool leaders_moved;        /* leaders changed: the same, if hosts lead unevenly */
    struct map
        leaders_look; /* ids of shards led here that changed since they were looked at: a set */
    uint64_t leaders_revision; /* the view must have it before more are handed on */
    size_t leaders_at;         /* position in `shards` of the next look at all */
    uint64_t liveness_due_ms;  /* UINT64_MAX: nothing to wait for */
    uint64_t liveness_ran_ms;

    /* Changes of leadership in the log: some lines in a second, then one with the count. */
    struct {
        uint64_t window_end_ms;
        uint32_t lines, more;
    } leader_log;
    /* Local events: moves of leadership that shard zero has not acknowledged, the oldest first. */
    struct ctl_move moves[HOSTCTL_MOVES_KEPT];
    size_t move_count;
    size_t moves_proposed; /* the first ones are a batch that was proposed; 0: none was */
    uint64_t moves_batch;  /* its number */
    uint64_t moves_lost;   /* dropped for newer ones since the last acknowledgement */
    bool events_outstanding;
    bool events_disk; /* the last command is, or was, about the disk */
    uint64_t events_after_ms, events_revision;

    struct ctl_shard *reports, **reports_tail;
    bool report_outstanding;
    size_t report_limit;
    uint64_t report_due_ms; /* UINT64_MAX: nothing queued */
};

/* ---- hostctl.c ------------------------------------------------------------------------------- */

struct ctl_shard *hostctl__shard(struct hostctl *h, uint64_t id); /* made if there is none */
struct ctl_work *hostctl__work(struct ctl_shard *s);              /* the same */
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
/* Ask shard zero for its revision now; comes back as OP_BARRIER. */
void hostctl__barrier(struct hostctl *h);
/* Commit one more entry in the shard, which opens a session that nobody uses; comes back as
 * OP_FENCE. A member stores its commit index along with entries. When an entry that was appended
 * under a configuration is committed, a quorum of this configuration has stored that the
 * configuration is committed. That quorum can elect a leader without the removed members: only
 * then may those be deleted. */
void hostctl__fence(struct hostctl *h, uint64_t shard_id);
void hostctl__op_engine_done(void *ctx, const struct thole_status *st); /* an engine_done_fn */
/* A command by `actor` at this time; add operations, then propose it. */
thole_registry_v1_Command *hostctl__command(struct hostctl *h, const char *actor, upb_Arena *arena);
/* The actor is this host: "host/NAME". */
thole_registry_v1_Command *hostctl__host_command(struct hostctl *h, upb_Arena *arena);
/* `op` comes back as MSG_OP. The arena stays the caller's. */
void hostctl__propose(struct hostctl *h, const thole_registry_v1_Command *c, upb_Arena *arena,
                      struct ctl_op *op);
/* Ask `asked` whether it reaches `about`; comes back as OP_REACHES. */
void hostctl__ask_reaches(struct hostctl *h, const struct uuid *asked, const struct uuid *about);

/* ---- view_changes.c: views and host rows ----------------------------------------------------- */

void hostctl__refresh_view(struct hostctl *h);
struct ctl_host *hostctl__host(struct hostctl *h, const struct uuid *id); /* made if none */
const thole_v1_Host *hostctl__own_row(const struct hostctl *h);
bool hostctl__host_has_state(const thole_v1_Host *row, thole_v1_HostState state);

/* ---- The controllers ------------------------------------------------------------------------- */

/* host_controller.c. `local` NULL: the shard has no replica here. */
void hostctl__host_evaluate(struct hostctl *h, struct ctl_shard *s,
                            const struct engine_replica_status *local);
void hostctl__host_done(struct hostctl *h, struct ctl_op *op);
void hostctl__forget_tombstones(struct hostctl *h);
void hostctl__barrier_done(struct hostctl *h, struct ctl_op *op);
/* If not, the shard is looked at again later. */
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
    struct raft_change_item items[RAFT_CHANGE_ITEMS_MAX]; /* of one change */
    uint32_t count;
    bool look_again;  /* a wanted change is not possible yet */
    bool self_leaves; /* the local replica, which leads, loses its vote ... */
    /* ... and leadership should go to this replica first; 0: no remaining voter answers. */
    uint64_t successor;
};
void hostctl__plan_add(struct vote_plan *plan, uint8_t op, uint64_t replica_id,
                       const uint8_t host[static 16]);
/* Add all votes to give and take in this change. */
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
/* A new leader of shard zero does not know the decisions of the last one. */
void hostctl__place_reset(struct hostctl *h);
void hostctl__place_forget(struct hostctl *h, struct ctl_shard *s);

/* pool_controller.c: on shard zero's leader host. */
bool hostctl__pools_are_due(const struct hostctl *h);
void hostctl__pools_run(struct hostctl *h);
void hostctl__pools_done(struct hostctl *h, struct ctl_op *op);

/* operations_controller.c: on shard zero's leader host; pauses on every host. */
bool hostctl__is_paused(const struct hostctl *h, thole_v1_Controller controller);
void hostctl__operations_changed(struct hostctl *h);
/* Something changed that progress may be derived from. */
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
/* For tests: leaders are counted by changes; does the count agree with the rows? Recounts. */
bool hostctl__leaders_are_counted_right(struct hostctl *h);
/* The number of shards that the host leads by the rows, without shard zero. */
uint32_t hostctl__leads(const struct hostctl *h, const struct uuid *host);
/* A shard that is led here, or its replica, changed. */
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
/* An operation that hands leadership on to replica `to`, with the actor and the reason. */
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

#endif
