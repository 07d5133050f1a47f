/* Several hosts in one thread: real engines on the manual executor, memory log stores and snapshot
 * files that survive a crash. The network is in virtual time, and loses, delays and partitions. */
#ifndef SHARDS_ENGINE_TEST_HARNESS_H
#define SHARDS_ENGINE_TEST_HARNESS_H

#include "base/rand.h"
#include "shards/engine/engine_internal.h"
#include "shards/engine/test/machines.h"

#define HOSTS_MAX 7
#define SHARD 7u
#define MS NS_PER_MS

struct host {
    struct cluster *c;
    int id;
    struct uuid uuid;
    uint64_t incarnation;
    struct log_store *log;     /* the engine's store: counts, and fails on demand */
    struct log_store *storage; /* survives a crash */
    struct engine_files *files, *seeds;
    struct tally_ctx tally;
    struct ledger_disk *ledger;
    struct thole_machine_type types_[3];
    const struct thole_machine_type *types[4];
    struct engine *engine; /* NULL: down */
    bool fail_writes;
    int host_failed;
    uint64_t writes;
};

struct packet;
struct cluster {
    struct executor *ex;
    struct rand rand;
    struct host hosts[HOSTS_MAX];
    int count;
    const char *machine;
    double drop;
    uint64_t delay_ms_max;
    bool cut[HOSTS_MAX][HOSTS_MAX]; /* [from][to] */
    bool no_appends[HOSTS_MAX];     /* to this host, which receives all other frames */
    struct packet *packets;
    /* Options of the next engine that is started. */
    uint64_t compact_log_bytes, keep_log_bytes, snapshot_bytes_per_s;
    uint32_t loops;                                           /* 0: one loop */
    uint64_t snapshot_frames, snapshot_bytes, control_frames; /* sent so far */
    bool lease_reads; /* of the next replica that is started */
};

struct cluster *cluster_new(int hosts, uint64_t seed);
void cluster_free(struct cluster *c); /* stops a running host */
uint64_t cluster_now(const struct cluster *c);
void cluster_run(struct cluster *c, uint64_t ms);
/* Runs until the condition holds; fails the test after `ms`. */
#define RUN_UNTIL(c, ms, condition)                     \
    do {                                                \
        uint64_t end_ = cluster_now(c) + (ms)*MS;       \
        while (!(condition) && cluster_now(c) < end_) { \
            cluster_run(c, 10);                         \
        }                                               \
        assert_true(condition);                         \
    } while (0)

/* Host h has replica h + 1 of SHARD. */
void host_start(struct cluster *c, int i);
void host_crash(struct cluster *c, int i);
void host_stop(struct cluster *c, int i);
void isolate(struct cluster *c, int h, bool cut);
/* The shard on hosts [0, voters), bootstrapped with these as voters. */
void cluster_bootstrap(struct cluster *c, int voters);
/* An empty, passive replica. */
void host_join(struct cluster *c, int h);
int cluster_leader(struct cluster *c); /* a ready leader of the highest term, or -1 */
int cluster_wait_leader(struct cluster *c);

/* A request in flight; free with op_free once done. */
struct op {
    struct engine_request r;
    struct cluster *c;
    bool done;
    int dones;
    uint64_t done_ns;
};
struct op *op_propose(struct cluster *c, int h, const char *text);
struct op *op_propose_in(struct cluster *c, int h, uint64_t session, uint64_t sequence,
                         const char *text);
struct op *op_open_session(struct cluster *c, int h);
struct op *op_query(struct cluster *c, int h);
struct op *op_query_stale(struct cluster *c, int h, uint32_t max_staleness_ms);
struct op *op_new(struct cluster *c, enum engine_request_kind kind, const char *text);
void op_submit(struct op *o, int h);
void op_free(struct op *o);
/* Runs until the request is done; fails the test on a timeout. */
void op_wait(struct op *o);
/* Retries at the current leader until it succeeds; returns the index. */
uint64_t propose_ok(struct cluster *c, const char *text);
struct tally query_ok(struct cluster *c, int h);
struct tally stale_state(struct cluster *c, int h);

struct done { /* the callback for calls with engine_done_fn */
    bool done;
    struct thole_status st;
};
void on_done(void *ctx, const struct thole_status *st);
enum thole_code change_wait(struct cluster *c, int h, const struct raft_change *change);
struct raft_change change_one(int op, int h);
struct engine_replica_status status_of(struct cluster *c, int h);

#endif
