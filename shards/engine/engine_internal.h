/* Shared by the files of the engine. README.md says which worker owns what; here fields are grouped
 * by their owner. */
#ifndef SHARDS_ENGINE_ENGINE_INTERNAL_H
#define SHARDS_ENGINE_ENGINE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/assert.h"
#include "base/canary.h"
#include "base/cork.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/map.h"
#include "base/metrics.h"
#include "base/wheel.h"
#include "shards/engine/engine.h"
#include "shards/engine/replica.h"
#include "shards/engine/session.h"
#include "shards/engine/snapshot/files.h"

struct loop;
struct applier;
struct replica;
struct machine;
struct write_batch;
struct watch_list;
struct save_waiter;

#define ENGINE_LOOPS_MAX 64 /* engine_deliver splits a frame over this many */
/* Messages waiting for one worker, beyond which it refuses (requests) or drops (frames). */
#define ENGINE_QUEUE_MAX 65536
/* Bytes of frames that wait for one loop. */
#define ENGINE_INBOUND_BYTES_MAX (64 * MIB)
/* Entries of one frame at most: the sender's byte bound allows no more. */
#define ENGINE_FRAME_ENTRIES_MAX (LIMIT_FRAME_BYTES / RAFT_ENTRY_OVERHEAD_BYTES)
/* Entries of one page read from the store, and proposals of one raft_propose. */
#define ENGINE_PAGE_ENTRIES 1024
#define ENGINE_PAGE_BYTES (1 * MIB)
#define ENGINE_SPACE_CHECK_NS (NS_PER_S / 2)
#define ENGINE_NAME_BYTES 96 /* of a snapshot file */

/* ---- Machines (replica_machine.c): owned by the applier; the snapshotter saves, flushes, opens
 * ------- */

struct machine {
    _Atomic uint32_t refs; /* the replica, and each save or flush in progress */
    bool overtaken;        /* applier only: a snapshot replaced the log that it was to apply */
    bool persistent;
    const struct thole_machine_type *type;
    void *state;
    char *directory; /* NULL unless it keeps files of its own */
    uint64_t generation;
    /* Write: apply and flush. Read: query and save of a type without views. NULL for a type with
     * views and without a flush of its own: nothing runs beside its apply. */
    pthread_rwlock_t *lock;
    struct session_table sessions; /* applier only, once the machine is switched in */
    uint64_t applied, applied_term;
    struct raft_stamp applied_stamp; /* of the entry at `applied` */
    struct thole_due due;            /* as the machine reported it last */
    size_t largest_result;           /* applier only, bytes: bounds the entries of a batch */
};

enum thole_code engine__machine_open(struct replica *r, uint64_t generation, struct machine **ret,
                                     struct thole_status *st);
/* Machines are user code: `st` counts only if it has the returned code. Otherwise it is
 * replaced. */
enum thole_code engine__machine_result(enum thole_code code, struct thole_status *st);
/* A view of a machine whose type has views. On the applier, so never beside apply. */
enum thole_code engine__machine_view(struct machine *m, void **ret, struct thole_status *st);
struct machine *engine__machine_ref(struct machine *m);
void engine__machine_unref(struct machine *m); /* the last one closes it */
enum thole_code engine__machine_destroy(struct replica *r, uint64_t generation,
                                        struct thole_status *st);
enum thole_code engine__machine_query(struct machine *m, void *view, struct slice query,
                                      struct bytes *out, struct thole_status *st);
bool engine__machine_has_reader(const struct machine *m);
enum thole_code engine__machine_read(struct machine *m, void *reader, struct bytes *out,
                                     bool *ret_end, struct thole_status *st);
/* Begin a streamed answer. OK with *ret NULL: the type has no reader for this query. On the
 * applier. */
enum thole_code engine__reader_open(struct replica *r, struct slice query,
                                    struct engine_reader **ret, struct thole_status *st);
/* End all readers of these data, which are about to be deleted. `generation` may be
 * ANY_GENERATION. */
void engine__readers_end(struct replica *r, uint64_t generation);
const struct thole_machine_type *engine__machine_type_find(const struct engine *e,
                                                           const char *name);

/* ---- Messages between workers ---------------------------------------------------------------- */

enum msg_kind {
    MSG_REQUEST = 1, /* struct engine_request: to a loop */
    MSG_REFUSE,      /* struct engine_request: did not fit into the mailbox of its loop */
    MSG_INBOUND,     /* struct inbound: deliver -> loop */
    MSG_WRITE,       /* struct write_batch: loop -> writer -> loop */
    MSG_APPLY,       /* struct apply_job: loop -> applier -> loop */
    MSG_QUERY,       /* struct query_job: loop -> applier */
    MSG_LOG_READ,    /* struct log_read: loop -> streamer -> loop */
    MSG_TASK,        /* struct task: loop <-> applier, snapshotter */
    MSG_CONTROL,     /* struct control: anyone -> loop */
    MSG_PEER,        /* struct peer_change: anyone -> loop */
    MSG_STOP,        /* the loop's own */
    MSG_FENCE,       /* ... as well */
    MSG_CHUNK,       /* struct stream_msg: deliver -> streamer */
    MSG_REPLY,       /* struct stream_msg */
    MSG_SEND,        /* struct stream_msg: loop -> streamer */
    MSG_RECEIVE_END, /* struct stream_msg: loop -> streamer */
    MSG_SENT,        /* struct stream_msg: streamer -> loop */
    MSG_RECEIVED,    /* struct stream_msg: streamer -> loop; of a stream: its beginning */
    MSG_FLOW,        /* struct stream_msg, empty: a job -> streamer, a pipe has data or room */
    MSG_BEAT,        /* struct host_beat: deliver -> loop */
};

struct inbound_msg {
    uint64_t shard_id;
    struct raft_message raft;
};
struct inbound {
    struct worker_msg msg;
    struct uuid host;
    uint64_t incarnation;
    size_t bytes;
    size_t count, capacity;
    struct inbound_msg *messages;
};

/* An entry that this replica appended, and the caller that waits for its outcome. */
struct pending {
    uint64_t index, term;
    struct engine_request *request; /* NULL: a control, or its deadline passed */
    struct control *control;
    uint64_t appended_ns;
};

struct apply_job {
    bool overtaken; /* result: not applied, see apply_overtaken */
    struct worker_msg msg;
    struct replica *r;
    uint64_t first, last;
    size_t bytes;
    struct raft_entry **entries; /* NULL: the applier reads them from the store */
    struct pending *requests;    /* ascending by index, all matched */
    size_t request_count;
    uint64_t handed_ns;
    struct thole_due due;   /* result: of the machine now */
    bool ticked;            /* result: there was a TICK among the entries */
    struct thole_status st; /* result: why the machine failed */
};

struct query_job {
    struct worker_msg msg;
    struct query_job *next;
    struct replica *r;
    uint64_t index; /* serve once this is applied */
    struct msgq requests;
    struct wheel_timer expiry; /* while parked: the earliest deadline of its requests */
};

struct log_read {
    struct worker_msg msg;
    struct replica *r;
    uint64_t peer, first, last;
    size_t max_bytes;
    struct raft_entry **entries;
    size_t count;
    struct thole_status st;
};

enum task_kind {
    TASK_OPEN,    /* snapshotter: open the machine, load its snapshot */
    TASK_VIEW,    /* applier: acquire a view and the sessions ... */
    TASK_SAVE,    /* snapshotter: ... and write the file; a job: into a pipe */
    TASK_FLUSH,   /* snapshotter: make a persistent machine durable */
    TASK_RESTORE, /* snapshotter: a received file into a new generation; a job: from a pipe */
    TASK_SWITCH,  /* applier: the restored machine takes over */
    TASK_CLOSE,   /* applier: end watchers and queries, close the machine */
    TASK_DESTROY, /* snapshotter: delete the data of one generation, or of everything */
    TASK_REMOVE,  /* snapshotter: delete snapshot files below `index` */
    TASK_CHECK,   /* snapshotter: verify the file `name` */
    TASK_SPACE,   /* snapshotter: measure free space */
    TASK_EXPORT,  /* snapshotter: open the file `name` for a user; `everything`: check it first */
    TASK_DAMAGED, /* from the applier: a query met damage in the machine's data */
    TASK_SEED,    /* snapshotter: the seed `name` into a new generation, and a file of our own */
};
struct task {
    struct worker_msg msg;
    enum task_kind kind;
    struct replica *r; /* a reference, or NULL */
    struct loop *loop; /* gets the answer */
    struct machine *machine;
    void *view;
    uint64_t index, term, generation;
    struct raft_stamp stamp; /* of the entry at `index`; TASK_OPEN: of the last one in the log */
    uint64_t bytes;          /* of the snapshot file that was written or loaded */
    struct bytes config, sessions;
    struct raft_entry **config_entries; /* TASK_OPEN */
    size_t config_entry_count;
    char name[ENGINE_NAME_BYTES];
    struct stream_msg *received; /* TASK_RESTORE; TASK_DESTROY after a restore that is not used */
    struct snapshot_pipe *pipe;  /* TASK_SAVE, TASK_RESTORE: a reference; NULL: a file */
    size_t piece_bytes;          /* of what goes into the pipe */
    bool ran;                    /* TASK_SAVE, TASK_RESTORE: a job has run it */
    uint64_t peer;   /* TASK_VIEW, TASK_SAVE: the peer to stream it to; 0: save a file */
    bool everything; /* TASK_DESTROY, TASK_EXPORT */
    struct control *control;
    struct thole_status st;
};
struct task *engine__task_new(enum task_kind kind, struct replica *r);
void engine__task_free(struct task *t); /* releases what it still holds */

enum control_kind {
    CONTROL_START,
    CONTROL_REMOVE,
    CONTROL_TOMBSTONE, /* a removed replica that this host never had */
    CONTROL_FORGET,
    CONTROL_CHANGE,
    CONTROL_TRANSFER,
    CONTROL_FORCE,
    CONTROL_HAND_OVER,
    CONTROL_FITNESS, /* disk or clock changed: check the leaderships here */
    CONTROL_EXPORT,
    CONTROL_SEED,
    CONTROL_ANSWER, /* only calls done */
};
struct control {
    struct worker_msg msg;
    enum control_kind kind;
    struct control *next;
    uint64_t shard_id, replica_id;
    struct replica *r;            /* a reference, or NULL */
    uint64_t epoch;               /* CONTROL_FORCE */
    uint64_t deadline_ns;         /* CONTROL_HAND_OVER */
    uint64_t min_index;           /* CONTROL_EXPORT */
    uint64_t *ret_leader;         /* CONTROL_TRANSFER: the caller's, or NULL */
    struct engine_export *export; /* CONTROL_EXPORT: the caller's */
    char name[ENGINE_NAME_BYTES]; /* CONTROL_SEED */
    struct raft_change change;
    struct thole_status st;
    engine_done_fn done;
    void *ctx;
};
struct control *engine__control_new(enum control_kind kind, engine_done_fn done, void *ctx);
void engine__control_answer(struct control *c); /* calls done with c->st and frees it */
void engine__control_fail_list(struct control **list, const struct thole_status *st);

struct peer_change {
    struct worker_msg msg;
    struct uuid host;
    bool up;
};

/* A heartbeat of a host (heartbeats.c). `heard`: the receiver's last beat that the sender has. */
#define BEAT_WOKEN_MAX 64
struct host_beat {
    struct worker_msg msg;
    struct uuid host;
    uint64_t incarnation, number, heard;
    bool all_woken;
    bool low_space, critical_space; /* the sender's disk */
    bool wrong_clock;               /* the sender's */
    uint64_t wall_ms;               /* the sender's wall clock */
    uint32_t woken_count;
    uint64_t woken[BEAT_WOKEN_MAX];
};
struct beat_peer { /* beats sent to and received from another host; under the engine's lock */
    struct uuid host;
    uint64_t sent;                  /* number of the last beat to it */
    uint64_t incarnation, heard;    /* of its last beat */
    bool low_space, critical_space; /* as that beat says */
    uint64_t heard_ns;              /* when it came; 0: none came */
    int64_t clock_ahead_ms;         /* its wall clock then, less ours */
    uint64_t woken_from;            /* the first beat to it that names all of `woken` */
    bool all_woken;
    uint32_t woken_count;
    uint64_t woken[BEAT_WOKEN_MAX];
};

/* A step of a snapshot transfer, between loops and the streamer. */
struct stream_msg {
    struct worker_msg msg;
    struct replica *r; /* a reference, or NULL */
    struct uuid host;
    struct bufslice frame;                 /* MSG_CHUNK */
    uint64_t shard_id, from, to, transfer; /* `from` sends the snapshot, in replies too */
    uint64_t term, index, index_term;
    uint64_t received;
    bool installed, refused, gap, ok;
    bool superseded; /* MSG_SENT: a newer transfer to that peer took its place */
    struct bytes config;
    char name[ENGINE_NAME_BYTES]; /* the file to send, or the one received */
    struct control *seeding;      /* not received but a seed: the command that waits for it */
    struct task *save;            /* MSG_SEND: no file; the machine writes while it is sent */
    struct snapshot_pipe
        *pipe; /* MSG_RECEIVED: a reference to the pipe that it arrives in; NULL: a file */
};
void engine__stream_msg_free(struct stream_msg *m);

/* ---- Batches (batch.c, log_writer.c) --------------------------------------------------------- */

struct write_update {
    struct replica *r; /* a reference; NULL: a tombstone of a replica that is not here */
    struct store_update u;
    struct store_identity identity;
    uint64_t token; /* of the newest core update in it; 0: none */
    bool create, install;
    struct raft_entry **entries;
    size_t entry_count, entry_capacity;
    struct bytes config;
    struct control *control; /* answered when durable */
};
struct write_batch {
    struct worker_msg msg;
    struct loop *loop;
    struct write_update *updates;
    size_t count, capacity;
    uint64_t posted_ns;
    struct thole_status st;
};
struct write_batch *engine__write_batch_new(struct loop *l);
void engine__write_batch_free(struct write_batch *b);
struct write_update *engine__write_batch_add(struct write_batch *b, struct replica *r);
void engine__write_batch_merge(struct loop *l, struct replica *r, const struct raft_update *u);

/* ---- Loops ----------------------------------------------------------------------------------- */

struct out_msg {
    uint64_t shard_id, to_incarnation;
    struct raft_message raft;
};
struct out_lane {
    struct out_msg *messages;
    size_t count, capacity;
};
struct peer_host {
    struct uuid host;
    uint64_t incarnation;
    bool alive;                /* a beat came within the election timeout */
    bool unfit;                /* as its last beat says: no space, or a wrong clock */
    uint64_t beat_number;      /* of its last beat */
    uint64_t beat_ms, beat_ns; /* when that came: logical, real time */
    bool touched;
    struct out_lane lanes[2]; /* control, append */
};

struct loop {
    struct engine *e;
    uint32_t index;
    struct worker *w;
    struct worker_msg stop_msg, fence_msg;
    struct map by_shard, by_replica; /* of struct replica; each entry holds a reference */
    struct map hosts;                /* uuid_hash -> struct peer_host */
    struct wheel *ticks;             /* logical milliseconds */
    struct wheel *deadlines;         /* real milliseconds */
    uint64_t now_ns, real_ms, now_ms;
    uint64_t wall_ms;        /* wall clock at the begin of the turn */
    struct wheel *timers;    /* of replicas that lead and have something due: timers.c */
    uint64_t wall_offset_ms; /* wall_ms - now_ms when they were armed */
    uint64_t drained_ns; /* real time, read after the turn's messages were handled: for leases */
    uint64_t planned_ms; /* the last turn asked for the next one this long after real_ms */
    struct replica **dirty;
    size_t dirty_count, dirty_capacity;
    struct replica **published;
    size_t published_count, published_capacity;
    struct peer_host **touched;
    size_t touched_count, touched_capacity;
    uint64_t beat_due_ms; /* logical: next time for engine__heartbeats_run */
    size_t freed_works;   /* replicas that gave back their work, since memory was given back */
    struct write_batch *next, *in_flight;
    bool handing_over;
    struct control *hand_over; /* answered when nothing is left, or at hand_over_ms (real time) */
    uint64_t hand_over_ms;
    uint64_t unfit_due_ms; /* real: next check of the leaderships while this host should not lead */
    /* Read by loop 0. 0: not in a turn; no batch at the writer. */
    _Atomic uint64_t turn_since_ns, in_flight_since_ns;
    uint64_t space_checked_ns;
    bool space_checking;
    bool stopping, failed;
    _Atomic size_t inbound_bytes;
};

uint64_t engine__loop_turn(void *ctx, struct msgq *batch, uint64_t now_ns);
struct loop *engine__loop_new(struct engine *e, uint32_t index);
void engine__loop_free(struct loop *l);
void engine__loop_dirty(struct loop *l, struct replica *r);
void engine__loop_publish(struct loop *l, struct replica *r); /* at the end of the turn */
void engine__loop_check_space(struct loop *l);
/* The batch at the writer is there for longer than an election timeout. Then this loop sends no
 * heartbeats and appends, so that followers elect another leader. */
bool engine__loop_writer_stalled(const struct loop *l, uint64_t now_ns);
/* Post a message to a loop. If the loop has stopped, the message is discarded: its callers get
 * STOPPED. Any thread. */
void engine__loop_post(struct loop *l, struct worker_msg *m);
void engine__loop_discard(struct loop *l, struct worker_msg *m);

/* inbound_frames.c */
void engine__inbound_free(struct inbound *in);
void engine__loop_inbound(struct loop *l, struct inbound *in);
/* heartbeats.c */
void engine__heartbeats_add_peer(struct engine *e, const struct uuid *host);
void engine__heartbeats_free(struct engine *e);
void engine__heartbeats_deliver(struct engine *e, const struct uuid *host, uint64_t incarnation,
                                const struct host_beat *heard);
uint64_t engine__heartbeats_sent(struct engine *e,
                                 const struct uuid *host); /* number of the last beat to it */
void engine__heartbeats_leader_ended(struct loop *l, struct replica *r);
void engine__heartbeats_heard(struct loop *l, struct host_beat *b);
void engine__heartbeats_incarnation(struct loop *l, struct peer_host *h, uint64_t incarnation);
/* May a follower act on this SLEEP? Only if its sender's host is alive, and sent it after the last
 * beat that arrived here. */
bool engine__heartbeats_accepts_sleep(struct loop *l, const struct uuid *host,
                                      const struct raft_message *m);
/* Wake the replica if it sleeps. Its election timer counts from the last beat of the leader's
 * host. */
void engine__heartbeats_wake(struct loop *l, struct replica *r);
void engine__heartbeats_show_leader(struct loop *l, struct replica *r);
/* When this replica last heard its leader, or while it sleeps the leader's host. */
uint64_t engine__heartbeats_leader_heard_ns(struct loop *l, const struct replica *r);
void engine__heartbeats_run(struct loop *l);

/* host_clock.c */
void engine__clock_heard(struct engine *e, struct beat_peer *p, const struct host_beat *b);
void engine__clock_check(struct loop *l); /* loop 0 */
/* frame_outbox.c */
struct peer_host *engine__loop_host(struct loop *l, const struct uuid *host);
void engine__outbox_add(struct loop *l, struct replica *r, struct raft_message *m);
void engine__outbox_add_to(struct loop *l, const struct uuid *host, uint64_t shard_id,
                           const struct raft_message *m);
void engine__outbox_flush(struct loop *l);

/* group.c: the life of a replica on its loop */
void engine__group_boot(struct loop *l, struct task *t);
void engine__group_receive(struct loop *l, struct replica *r, struct raft_message *m,
                           const struct uuid *host);
void engine__group_tick(struct loop *l, struct replica *r);
void engine__group_harvest(struct loop *l, struct replica *r);
void engine__group_applied(struct loop *l, struct apply_job *j);
void engine__group_persisted(struct loop *l, struct write_update *w);
void engine__group_fail(struct loop *l, struct replica *r, const struct thole_status *st);
void engine__group_stop(struct loop *l, struct replica *r, const struct thole_status *st);
void engine__group_dispatch(struct loop *l, struct replica *r);
/* replica_control.c */
void engine__control_handle(struct loop *l, struct control *c);
/* The running replica of the command's shard, or NULL and the command is answered. */
struct replica *engine__control_running(struct loop *l, struct control *c);
void engine__control_removed(struct loop *l, struct replica *r, struct control *c);
void engine__control_check_transfers(struct loop *l, struct replica *r);
void engine__control_check_forces(struct replica *r);
void engine__control_fail_all(struct replica *r, const struct thole_status *st);
void engine__control_fail_transfers(struct replica *r, const struct thole_status *st);
/* handover.c */
void engine__hand_over_begin(struct loop *l, struct control *c);
bool engine__hand_over_run(struct loop *l);   /* true: there is something to harvest */
bool engine__hand_over_unfit(struct loop *l); /* likewise */
void engine__hand_over_check(struct loop *l, struct replica *r);
void engine__hand_over_end(struct loop *l); /* answers the command */
/* proposals.c */
void engine__proposal_submit(struct loop *l, struct engine_request *q);
void engine__proposals_flush(struct loop *l, struct replica *r);
/* Entries up to `last` are committed: outstanding ones that match by (index, term) move into `j`,
 * the others have failed. */
void engine__proposals_take(struct loop *l, struct replica *r, uint64_t last, struct apply_job *j);
void engine__proposals_installed(struct loop *l, struct replica *r, uint64_t index);
void engine__proposals_end(struct loop *l, struct replica *r, const struct thole_status *st);
/* Fail all outstanding ones as OUTCOME_UNKNOWN: this replica does not lead, and its log hangs. */
void engine__proposals_abandon(struct loop *l, struct replica *r);
void engine__pending_push(struct replica *r, const struct pending *p);
void engine__pending_trim(struct loop *l, struct replica *r, uint64_t first);
void engine__proposal_expired(struct loop *l, struct engine_request *q);
/* timers.c */
/* When a TICK could not be appended (too much is uncommitted, the disk is full): try again. */
#define TICK_RETRY_MS 500
/* At each harvest: if the replica leads and something is due, append a TICK, else arm its timer. */
void engine__timer_consider(struct loop *l, struct replica *r);
/* What the machine of the replica reported; `ticked`: after a TICK. */
void engine__timer_due(struct loop *l, struct replica *r, const struct thole_due *due, bool ticked);
void engine__timer_cancel(struct loop *l, struct replica *r); /* it leads no more */
void engine__timers_run(struct loop *l);
uint64_t engine__timers_next(const struct loop *l); /* logical ms; UINT64_MAX: none */
/* pending_reads.c */
void engine__read_submit(struct loop *l, struct engine_request *q);
void engine__reads_flush(struct loop *l, struct replica *r);
void engine__reads_answer(struct loop *l, struct replica *r, const struct raft_read_result *results,
                          size_t n);
void engine__reads_end(struct loop *l, struct replica *r, const struct thole_status *st);
void engine__read_expired(struct loop *l, struct replica *r, struct engine_request *q);
/* requests.c */
struct wheel_timer *engine__request_timer(struct engine_request *q);
void engine__request_arm(struct loop *l, struct engine_request *q);
void engine__request_disarm(struct loop *l, struct engine_request *q);
void engine__request_fail(struct engine_request *q, enum thole_code code, enum thole_reason reason,
                          const char *message);
void engine__request_finish(struct engine_request *q); /* status is set */
void engine__request_not_leader(struct loop *l, struct replica *r, struct engine_request *q);
bool engine__replica_host(const struct replica *r, uint64_t replica_id, struct uuid *ret);

/* compact.c and snapshot_install.c, on the loop */
void engine__compact_boot(struct replica *r);
void engine__compact_later(struct replica *r); /* not before the log has grown by half */
void engine__compact_to(struct loop *l, struct replica *r, uint64_t index);
void engine__snapshot_start_save(struct loop *l, struct replica *r);
void engine__compact_note_entries(struct replica *r, struct raft_entry *const *entries, size_t n);
void engine__compact_consider(struct loop *l, struct replica *r);
void engine__compact_started(struct replica *r, uint64_t start_index);
void engine__snapshot_task_done(struct loop *l, struct task *t);
void engine__snapshot_wanted(struct loop *l, struct replica *r, const struct raft_peer_request *q);
void engine__snapshot_sent(struct loop *l, struct stream_msg *m);
bool engine__snapshot_is_sent(const struct replica *r); /* or waits for a save */
void engine__snapshot_received(struct loop *l, struct stream_msg *m);
void engine__snapshot_installed(struct loop *l, struct replica *r);
void engine__snapshot_end(struct replica *r);
void engine__snapshot_name(const struct replica *r, uint64_t index, char ret[ENGINE_NAME_BYTES]);
/* Have the snapshotter delete the replica's files below this index. */
void engine__snapshot_remove_files(struct loop *l, struct replica *r, uint64_t below);
void engine__snapshot_post(struct loop *l, struct task *t); /* to the snapshotter */
/* A restored machine waits for the batch that makes it live. Takes over `t` and `t->received`. */
void engine__snapshot_install(struct replica *r, struct task *t);
/* Delete the next generation, which was restored and will not be used. */
void engine__snapshot_discard(struct loop *l, struct replica *r);
/* export.c */
void engine__export_begin(struct loop *l, struct control *c);
void engine__exports_saved(struct loop *l, struct replica *r);
void engine__exports_fail(struct replica *r, const struct thole_status *st);
void engine__export_opened(struct loop *l, struct task *t);
void engine__seed_begin(struct loop *l, struct control *c);
void engine__seed_loaded(struct loop *l, struct task *t); /* takes `t` over */

/* ---- Other workers --------------------------------------------------------------------------- */

struct applier {
    struct engine *e;
    struct worker *w;
    struct apply_batch *batch;
    struct wheel *deadlines;    /* of parked queries, in real milliseconds */
    pthread_mutex_t watch_lock; /* recursive: a watcher may end itself from its own event */
};
struct applier *engine__applier_new(struct engine *e, uint32_t index);
void engine__applier_free(struct applier *a);
/* apply_entries.c: the entries of one job, page by page. */
struct apply_batch;
struct apply_batch *engine__apply_batch_new(void);
void engine__apply_batch_free(struct apply_batch *b);
void engine__apply_begin(struct apply_batch *b, struct replica *r, struct apply_job *j);
enum thole_code engine__apply_entries(struct apply_batch *b, struct raft_entry *const *entries,
                                      size_t n, struct thole_status *st);
void engine__apply_done(struct apply_batch *b); /* the machine has all of the job */
/* The machine has failed: all requests of the job that are not answered get OUTCOME_UNKNOWN. */
void engine__apply_abandon(struct apply_batch *b);

uint64_t engine__writer_turn(void *ctx, struct msgq *batch, uint64_t now_ns);
uint64_t engine__snapshotter_turn(void *ctx, struct msgq *batch, uint64_t now_ns);
/* Snapshot files found at start, sorted by replica, newest first. */
struct found_snapshot {
    uint64_t replica_id, index;
    char name[ENGINE_NAME_BYTES];
};
void engine__snapshots_find(struct engine *e);
/* Drop from the state database the data of unknown replicas, and of generations that are not
 * live. */
enum thole_code engine__spaces_clean(struct engine *e, struct thole_status *st);
void engine__snapshotter_open(struct engine *e, struct task *t);

struct streamer;
struct streamer *engine__streamer_new(struct engine *e);
void engine__streamer_stop(struct streamer *s);
void engine__streamer_free(struct streamer *s); /* after engine__streamer_stop */
void engine__streamer_post(struct engine *e, struct worker_msg *m); /* releases it if it cannot */
void engine__log_read_free(struct log_read *m);
void engine__apply_job_free(struct apply_job *j);
void engine__query_job_fail(struct query_job *j, enum thole_code code, enum thole_reason reason,
                            const char *message); /* and frees it */
/* watch.c */
void engine__watch_event(struct replica *r, uint64_t index, struct slice key, struct slice event);
void engine__watch_end(struct replica *r, enum thole_reason reason, const char *message);

/* ---- The engine ------------------------------------------------------------------------------ */

struct engine {
    struct engine_options o; /* directory and types as given; counts and times resolved */
    char *directory;
    const struct clock *clock;
    struct engine_files *files;
    bool owns_files;
    struct loop **loops;
    struct applier **appliers;
    struct worker *writer, *snapshotter;
    struct streamer *streamer;
    _Atomic bool stopping, failed;
    _Atomic bool fenced;                    /* with `failed` */
    struct thole_status fence;              /* written before `fenced` */
    _Atomic bool low_space, critical_space; /* critical: group 0 is refused too */
    _Atomic bool stalled;           /* a log write has been in flight for too long; set by loop 0 */
    _Atomic bool wrong_clock;       /* host_clock.c; set by loop 0 */
    _Atomic int64_t clock_ahead_ms; /* likewise */
    uint64_t clock_due_ns;          /* loop 0: the next check */
    uint64_t clock_disputed_ns; /* loop 0: since when the check contradicts wrong_clock; 0: not */
    _Atomic bool crashed;       /* harnesses: nothing reaches disk, peers or observers any more */
    bool stopped;

    /* Under lock: which replicas exist, and what is shown of them. */
    pthread_mutex_t lock;
    struct map by_shard, by_replica; /* struct replica; by_replica holds a reference */
    struct map tombstones;           /* replica id -> anything: a set */
    struct map forgotten;            /* since this start; their ids cannot be used again */
    struct map watches;              /* watch id -> struct replica, a reference */
    struct map beat_peers;           /* uuid_hash -> struct beat_peer */
    uint64_t watch_id;
    pthread_mutex_t kinds_lock;
    struct map kinds;                 /* hash of the descriptor -> struct replica_kind */
    _Atomic uint64_t *type_proposals; /* appended here, by index in o.types */
    _Atomic uint64_t transfer_id;
    _Atomic uint64_t bad_logged_ns;

    pthread_mutex_t readers_lock; /* struct engine_reader has its own */
    struct engine_reader *readers;
    size_t reader_count;

    struct found_snapshot *found; /* written by engine_new, then read only */
    size_t found_count;
};

void engine__fitness_changed(struct engine *e); /* on a loop */
static inline bool engine_space_refuses(const struct engine *e, uint64_t shard_id)
{
    return atomic_load_explicit(shard_id == 0 ? &e->critical_space : &e->low_space,
                                memory_order_relaxed);
}
struct loop *engine__loop(struct engine *e, uint64_t shard_id);
struct replica *engine__find_replica(struct engine *e,
                                     uint64_t replica_id); /* a reference, or NULL */
struct replica *engine__find_shard(struct engine *e, uint64_t shard_id);
bool engine__is_tombstone(struct engine *e, uint64_t replica_id);
void engine__drop(struct engine *e, struct replica *r);
void engine__send(struct engine *e, const struct uuid *host, enum engine_lane lane,
                  struct bufslice frame);
void engine__send_reply(struct engine *e, const struct uuid *host, const struct stream_msg *m);
/* Counts it, and logs at most one per BAD_FRAME_LOG_NS. */
void engine__bad_frame(struct engine *e, const struct uuid *host, const struct thole_status *st);
void engine__host_failed(struct engine *e, const struct thole_status *st);
/* Harnesses only: from now on nothing that this engine does has an effect. Then stop and free
 * it. */
void engine__crash(struct engine *e);

/* engine_load.c */
_Atomic uint64_t *engine__type_proposals(struct engine *e, const char *type); /* NULL: unknown */
void engine__note_proposals(struct replica *r, size_t n, uint64_t now_ns);    /* on the loop */

extern struct metric engine_proposals, engine_queries, engine_refused, engine_dropped_frames,
    engine_bad_frames, engine_sync_ns, engine_batch_updates, engine_batch_entries,
    engine_apply_entries, engine_apply_ns, engine_apply_lag_ns, engine_turn_ns, engine_commit_ns,
    engine_sleeping, engine_decided_ns, engine_pending, engine_frame_entries,
    engine_snapshots_saved, engine_snapshots_sent, engine_snapshots_installed, engine_loop_depth,
    engine_snapshot_bytes, engine_save_ns, engine_transfer_ns, engine_restore_ns, engine_ticks,
    engine_answer_ns, engine_leader_changes;

#endif
