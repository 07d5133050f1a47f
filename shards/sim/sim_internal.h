/* What the files of the simulator share. */
#ifndef SHARDS_SIM_SIM_INTERNAL_H
#define SHARDS_SIM_SIM_INTERNAL_H

#include "base/rand.h"
#include "base/worker_internal.h"
#include "shards/engine/engine_internal.h"
#include "shards/sim/linear.h"
#include "shards/sim/sim.h"
#include "shards/sim/skewed_clock.h"

#define SIM_MS NS_PER_MS
#define SIM_START_NS (1000 * NS_PER_MS)
#define SIM_WORKERS_MAX 20
#define SIM_KEYS 4 /* of a group, at a time */
#define SIM_CLIENTS_MAX 24
#define SIM_OPEN_MAX 20 /* a key with this many open operations is replaced by a fresh one */

struct sim;
struct sim_host;
struct shard;

/* ---- Options as drawn (sim_options.c) -------------------------------------------------------- */

struct sim_config {
    uint32_t faults;
    int hosts, groups, clients;
    uint32_t loops, appliers;
    uint32_t election_ms, heartbeat_ms;
    uint64_t delay_min_ns, delay_max_ns; /* of a frame, usually */
    double loss, duplicate, delay, reorder;
    uint64_t think_ns;   /* between operations of a client */
    uint64_t nemesis_ns; /* mean between faults */
    uint64_t sync_ns;    /* a log write, usually */
    uint64_t compact_bytes, keep_bytes, cache_bytes, ballast, snapshot_rate;
    uint32_t skew_ppm;
    uint32_t sleep_ms;      /* idle before a group sleeps */
    uint32_t request_id_ms; /* how long a request id is remembered */
    double reads;           /* part of the operations */
    double leases;          /* chance that a group serves lease reads */
};
void sim__config_draw(const struct sim_options *o, struct sim_config *ret);
static inline bool sim_has(const struct sim_config *c, enum sim_fault f)
{
    return c->faults >> f & 1;
}

/* ---- Events (sim.c) -------------------------------------------------------------------------- */

typedef void (*sim_fire_fn)(struct sim *s, void *arg);
struct sim_event {
    uint64_t at_ns, number;
    sim_fire_fn fire;
    void *arg;
};
void sim__at(struct sim *s, uint64_t at_ns, sim_fire_fn fire, void *arg);
/* The first failure is kept; the run then ends. */
void sim__fail(struct sim *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
void sim__trace_line(struct sim *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Part of the run's fingerprint, and a line of the trace. */
void sim__mix(struct sim *s, uint64_t a, uint64_t b);
#define SIM_TRACE(s, ...)                      \
    do {                                       \
        if ((s)->o.trace != NULL) {            \
            sim__trace_line((s), __VA_ARGS__); \
        }                                      \
    } while (0)

/* ---- Hosts (sim_host.c), their workers (executor.c) ------------------------------------------ */

enum worker_kind { WORKER_LOOP, WORKER_WRITER, WORKER_APPLIER, WORKER_OTHER };
struct sim_worker {
    struct worker *w;
    enum worker_kind kind;
    uint64_t ready_ns;    /* a message waits, and may be handled then; virtual time */
    uint64_t deadline_ns; /* virtual time */
};

struct sim_host {
    struct sim *s;
    int id;
    struct uuid uuid;
    uint64_t incarnation;
    struct executor executor;
    struct clock clock;
    struct sim_worker workers[SIM_WORKERS_MAX];
    int worker_count;
    uint64_t next_ns; /* the earliest of its workers, or of the end of a pause */
    bool next_stale;
    struct skewed_clock skew; /* what `clock` shows */
    int64_t wall_step_ms;     /* what its wall clock is off, beside the skew */
    uint64_t paused_until_ns, stalled_until_ns;
    struct engine *engine; /* NULL: down */
    bool ending;           /* crashed or its log failed: taken down after this turn */
    bool dead;             /* stays down: not in the quorum of the last phase */
    bool away;             /* sim_force.c: given up; stays down until the shard is repaired */
    struct log_store *log;
    struct engine_files *files;
    struct kv_disk *kv;
    struct thole_machine_type types_[3];
    const struct thole_machine_type *types[4];
    /* Armed faults. */
    bool crash_in_write, fail_write, crash_in_commit, fail_file, crash_in_apply;
    bool space_low;
};

void sim__executor_init(struct sim_host *h);
uint64_t sim__host_clock(const struct sim_host *h);
void sim__host_set_rate(struct sim_host *h, uint64_t rate_ppm);
uint64_t sim__host_next(struct sim_host *h);
/* Runs what is due at the simulation's time; one turn. */
void sim__host_turn(struct sim_host *h);

void sim__host_init(struct sim *s, int id);
void sim__host_deinit(struct sim_host *h);
void sim__host_start(struct sim_host *h);
void sim__host_stop(struct sim_host *h);
void sim__host_crash(struct sim_host *h); /* not from inside a turn: see `ending` */
void sim__host_restart_later(struct sim_host *h, uint64_t delay_ns);

/* ---- Disk (disk.c), files (files.c), machines (sim_machine.c) -------------------------------- */

struct log_store *sim__disk_new(struct sim_host *h);
void sim__disk_free(struct log_store *base);
/* Damage records of a replica: found at the next read, or at the next start. */
void sim__disk_flip(struct log_store *base, uint64_t replica_id);

struct engine_files *sim__files_new(struct sim_host *h);
void sim__files_crash(struct engine_files *base);
bool sim__files_flip(struct engine_files *base, uint64_t replica_id);

struct kv_disk *sim__kv_disk_new(struct sim_host *h);
void sim__kv_disk_free(struct kv_disk *d);
void sim__kv_disk_crash(struct kv_disk *d);
struct thole_machine_type sim__kv_type(struct sim_host *h, const char *name, bool views);
struct thole_machine_type sim__kv_persistent_type(struct sim_host *h, const char *name);

#define KV_COMMAND_BYTES 16 /* key, value; then padding */

/* ---- Timers and leases of the machine (sim_timers.c) ----------------------------------------- */

#define SIM_TIMERS 16 /* the first half by the wall clock, the rest by the time with a leader */
#define SIM_STEP_MS_MAX 12000 /* how far a wall clock is off */
struct sim_timers {
    uint64_t due_ms[SIM_TIMERS]; /* 0: not set */
    uint64_t fired;              /* hash of what TICKs have ended */
    uint64_t now_ms, alive_ms;   /* of the last entry */
};
void sim__timers_set(struct sim_timers *t, uint64_t value, const struct thole_entry *e);
void sim__timers_tick(struct sim_timers *t, const struct thole_entry *e);
struct thole_due sim__timers_due(const struct sim_timers *t);
uint64_t sim__timers_hash(const struct sim_timers *t);
const struct sim_timers *sim__kv_timers(const void *machine);
void sim__timers_start(struct sim *s);
void sim__timers_final(struct sim *s);

/* ---- Network (sim_network.c) ----------------------------------------------------------------- */

struct sim_link {
    bool cut;
    double loss, duplicate, delay, reorder;
    uint64_t clogged_until_ns;
    uint64_t resumed_ns;     /* frames that a pause held back arrive until then */
    uint64_t last_due_ns[4]; /* by lane: frames of a lane arrive in order, unless reordered */
};
enum thole_code sim__network_send(void *ctx, const struct uuid *uuid, enum engine_lane lane,
                                  struct bufslice frame);
void sim__network_init(struct sim *s);
void sim__network_heal(struct sim *s);
void sim__network_drop_all(struct sim *s);

/* ---- The shadow: the true state (sim_check.c, shadow.c) -------------------------------------- */

/* A log entry that some replica has written. Alternatives at one index have different terms. */
struct shadow_entry {
    uint64_t term, prev_term, hash;
    uint8_t kind;
    struct shadow_entry *other;
};
struct shadow_slot {
    struct shadow_entry *entries;
    uint64_t committed_term; /* of the entry; 0: not committed */
    uint64_t commit_in;      /* the term of the leader that committed it */
    uint64_t state;          /* hash of the machine's state after it; 0: not known */
};
/* A replica, over all its lives. */
struct member {
    uint64_t replica_id;
    struct shard *shard;
    int host;
    bool witness, gone;
    bool wiped;       /* gone with its host; the fields below are what its disk held then */
    bool created;     /* durably */
    bool damaged;     /* by us: it may fail */
    bool unforceable; /* it refused to be forced */
    bool asleep;      /* as last seen */
    /* What its disk holds. */
    bool has_data, joined; /* of the group; its log begins as a member */
    uint64_t epoch;        /* of its newest configuration entry */
    struct raft_hard hard;
    uint64_t start, start_term;
    uint64_t *terms; /* of start + 1 ... */
    size_t count, capacity;
    /* This life. */
    uint64_t life; /* incarnation */
    struct raft_status status;
    uint64_t applied, peer_checks;
    struct raft_config config; /* as last seen */
};
struct shadow_config {
    uint64_t index;
    struct raft_config config;
};
struct executed {
    uint64_t index, result;
};

struct key {
    uint64_t number;
    struct linear *history;
    int running; /* operations */
    bool lost;   /* part of it was lost with a quorum: not looked at any more */
};

struct shard {
    uint64_t id;
    const char *type;
    bool lease_reads;
    /* sim_force.c */
    uint64_t epoch;            /* the last one given out */
    uint64_t forced_epoch;     /* the last one that began: its entry is on a disk */
    uint64_t first_epoch;      /* of the repair under way */
    uint64_t losses;           /* still to come */
    uint32_t survivors;        /* hosts that are left; 0: the quorum is not lost */
    struct member *forcing;    /* an attempt is under way */
    uint64_t needed;           /* the committed index that the replica must have then */
    struct shadow_slot *slots; /* by index */
    size_t slot_count;
    uint64_t committed;
    struct map leaders;  /* term -> struct member */
    struct map executed; /* value -> struct executed */
    struct map refused;  /* value -> anything */
    struct shadow_config *configs;
    size_t config_count;
    struct key keys[SIM_KEYS];
    uint64_t key_number;
    uint64_t revision, changed_ns; /* of the last change asked for */
    uint64_t unheard_until_ns;     /* the links to its leader are clogged for a transfer */
    /* The last phase: a write, then a read at each host (bits). */
    bool write_sent, write_done;
    uint32_t reads_sent, reads_done;
    uint64_t calm_term; /* when it had converged */
    uint64_t led_ns;    /* how long some replica led */
    bool led;
};

struct member *sim__shadow_member(struct sim *s, uint64_t replica_id);
struct member *sim__shadow_add_member(struct sim *s, struct shard *shard, uint64_t replica_id,
                                      int host);
void sim__shadow_free(struct sim *s);
struct shadow_slot *sim__shadow_slot(struct shard *shard, uint64_t index);
bool sim__member_term_at(const struct member *m, uint64_t index, uint64_t *ret);
uint64_t sim__member_last(const struct member *m);
/* An update has reached the disk. */
void sim__shadow_write(struct sim *s, struct sim_host *h, const struct store_update *u);
/* A replica that sleeps has no work: then this is what it would begin with. */
static inline struct raft_status sim_status(const struct replica *r)
{
    struct raft_status s;
    replica_status(r, &s);
    return s;
}
static inline const struct replica_work *sim_work(const struct replica *r)
{
    static const struct replica_work none;
    return r->work != NULL ? r->work : &none;
}
void sim__check_config(struct sim *s, struct shard *shard, uint64_t index,
                       const struct raft_config *c);

/* sim_force.c: does the member have data of an earlier epoch on disk, or the replica in memory? */
bool sim__member_superseded(const struct member *m);
bool sim__replica_superseded(const struct member *m, const struct replica *r);
/* The entry that begins an epoch reaches the member's disk, behind what its log holds now. */
void sim__force_written(struct sim *s, struct member *m, const struct raft_entry *e,
                        uint64_t epoch);

/* bounds.c */
void sim__check_bounds(struct sim *s, struct member *m, struct replica *r);
void sim__check_loop_bounds(struct sim *s, struct sim_host *h, struct loop *l);

void sim__check_loop(struct sim *s, struct sim_host *h, struct loop *l);
void sim__check_frame(struct sim *s, struct sim_host *h, struct bufslice frame);
void sim__check_chunk(struct sim *s, struct sim_host *h, struct bufslice frame);
/* A machine has executed a command; and its state after it. */
void sim__check_apply(struct sim *s, struct sim_host *h, uint64_t shard_id, uint64_t replica_id,
                      uint64_t index, uint64_t state, bool restored);
void sim__check_execute(struct sim *s, const struct member *m, uint64_t index, uint64_t value,
                        uint64_t result);
/* The times of an entry that a machine gets. */
void sim__check_times(struct sim *s, const struct member *m, struct sim_timers *t,
                      const struct thole_entry *e);
void sim__check_end(struct sim *s);

/* ---- Clients (sim_client.c), controller (admin.c), faults (nemesis.c), the end (final.c)
 * --------- */

struct used_id {
    struct shard *shard;
    uint64_t id, used_ns;
};
struct client {
    struct sim *s;
    int host;            /* where it asks */
    struct shard *shard; /* of its session; NULL: it works without */
    uint64_t session, sequence;
    struct op *retry;    /* to be sent again, in the session or with its request id */
    bool with_ids;       /* it works with request ids */
    struct used_id used; /* an earlier one */
};
void sim__clients_start(struct sim *s);
void sim__clients_free(struct sim *s);
/* One operation for the last phase: `done` says whether it succeeded. */
void sim__client_probe(struct sim *s, struct shard *shard, int host, bool write,
                       void (*done)(struct sim *s, struct shard *shard, int host, bool ok));

void sim__admin_start(struct sim *s);
void sim__admin_bootstrap(struct sim *s);
void sim__nemesis_start(struct sim *s);
void sim__nemesis_stop(struct sim *s, bool silently); /* without reports that hosts are dead */
void sim__force_start(struct sim *s);
void sim__final_phase(struct sim *s);
/* Is a change of members under way, on any disk or in memory? */
bool sim__final_changing(struct sim *s, const struct shard *shard);
/* Would the shard still be able to work, and lose nothing, without these hosts and this replica? */
bool sim__final_survives(struct sim *s, const struct shard *shard, uint32_t hosts,
                         uint64_t replica_id);

/* ---- The simulation -------------------------------------------------------------------------- */

struct sim {
    struct sim_options o;
    struct sim_config c;
    struct sim_report *report;
    uint64_t now_ns, end_ns;
    struct sim_event *events;
    size_t event_count, event_capacity;
    uint64_t event_number;
    struct rand rand[SIM_FAULTS + 4]; /* by fault, and the four below */
    struct sim_host hosts[SIM_HOSTS_MAX];
    struct sim_link links[SIM_HOSTS_MAX][SIM_HOSTS_MAX];
    struct shard shards[SIM_GROUPS_MAX];
    struct map members;  /* replica id -> struct member */
    uint64_t replica_id; /* the last one given out */
    struct client clients[SIM_CLIENTS_MAX];
    size_t op_count;        /* clients' requests outstanding */
    uint64_t value;         /* the last one written */
    bool calm;              /* the last phase: no more faults */
    bool hopeless;          /* nothing is left that could be forced: the run ends */
    uint64_t lull_until_ns; /* clients pause */
    uint64_t in_flight;     /* frames */
    uint64_t wall_ms_max;   /* the latest that any wall clock has shown */
};
#define SIM_RAND_NET SIM_FAULTS
#define SIM_RAND_CLIENT (SIM_FAULTS + 1)
#define SIM_RAND_WORK (SIM_FAULTS + 2)
#define SIM_RAND_NEMESIS (SIM_FAULTS + 3)

static inline struct shard *sim_shard(struct sim *s, uint64_t id)
{
    ASSERT(id >= 1 && id <= (uint64_t)s->c.groups);
    return &s->shards[id - 1];
}
void sim__advance(struct sim *s, uint64_t to_ns);
/* The replica of a shard on a host; NULL if the host is down or has none. */
struct replica *sim__replica(struct sim *s, int host, const struct shard *shard);
/* A host whose replica leads, of the highest epoch and term; -1 if none. */
int sim__leader(struct sim *s, const struct shard *shard);

#endif
