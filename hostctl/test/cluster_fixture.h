/* Several hosts in one thread: real engines, registries and controllers on the manual executor.
 * Logs and snapshot files are in memory and survive a stop; the network is in virtual time. The
 * harness stands in for the layer above (routing of commands, liveness of peers). */
#ifndef HOSTCTL_TEST_CLUSTER_FIXTURE_H
#define HOSTCTL_TEST_CLUSTER_FIXTURE_H

#include "base/rand.h"
#include "hostctl/hostctl.h"
#include "registry/test/registry_fixture.h"
#include "shards/engine/snapshot/files.h"

#define CLUSTER_HOSTS 8
#define CLUSTER_DEAD_MS 3000

struct cluster;
struct cluster_host {
    struct cluster *cluster;
    uint64_t n; /* named "h<n>", with id test_uuid(n) */
    struct uuid id;
    uint64_t incarnation;
    struct log_store *log;
    struct engine_files *files;
    struct registry *registry;
    struct thole_machine_type failing; /* "failing": never opens */
    struct thole_machine_type flaky;   /* "flaky": a counter that fails on demand */
    bool flaky_open, flaky_apply, flaky_restore;
    const struct thole_machine_type *types[5];
    struct engine *engine;
    struct hostctl *hostctl; /* NULL: down */
    bool address_known[CLUSTER_HOSTS];
};

struct packet;
struct cluster {
    struct executor *ex;
    struct rand rand;
    struct cluster_host hosts[CLUSTER_HOSTS];
    bool cut[CLUSTER_HOSTS]; /* from every other host */
    bool apart[CLUSTER_HOSTS][CLUSTER_HOSTS];
    bool mute[CLUSTER_HOSTS]; /* connected, but none of its frames arrive */
    struct packet *packets;
    size_t proposals;              /* by controllers */
    double refuse;                 /* chance that a controller's proposal is not made */
    double lose;                   /* chance that a proposal is made, and its answer lost */
    uint64_t snapshot_bytes_per_s; /* of the hosts that are started next */
};

struct thole_machine_type flaky_type(struct cluster_host *host); /* flaky.c */
struct cluster *cluster_new(uint64_t seed);
void cluster_free(struct cluster *h);
uint64_t cluster_now_ms(const struct cluster *h);
void cluster_run(struct cluster *h, uint64_t ms);
#define RUN_UNTIL(h, ms, condition)                                  \
    do {                                                             \
        uint64_t end_ = cluster_now_ms(h) + (ms);                    \
        while (!(condition) && cluster_now_ms(h) < end_) {           \
            cluster_run(h, 20);                                      \
        }                                                            \
        if (!(condition)) {                                          \
            cluster_dump(h);                                         \
            fail_msg("not within %d ms: %s", (int)(ms), #condition); \
        }                                                            \
    } while (0)

void cluster_start(struct cluster *h, uint64_t n);
void cluster_stop(struct cluster *h, uint64_t n);
void cluster_cut(struct cluster *h, uint64_t n, bool cut);
void cluster_part(struct cluster *h, uint64_t a, uint64_t b, bool apart); /* only these two */
void cluster_bootstrap(struct cluster *h, uint64_t hosts);
void cluster_join(struct cluster *h, uint64_t n);

/* Propose a command and wait; returns the code. */
enum thole_code cluster_command(struct cluster *h, struct cmd *c);
/* State of an operation; 0: no such operation. */
int32_t cluster_operation_state(struct cluster *h, uint64_t id);
enum thole_code cluster_admit(struct cluster *h, uint64_t n, uint64_t *ret_replica);
enum thole_code cluster_create(struct cluster *h, const char *shard, uint32_t voters,
                               uint32_t non_voting);
enum thole_code cluster_create_type(struct cluster *h, const char *shard, const char *type,
                                    uint32_t voters, uint32_t non_voting);
/* Commit some commands of the counters; false if no leader accepted them. */
bool cluster_add(struct cluster *h, const char *shard, int count);
enum thole_code cluster_update(struct cluster *h, const char *shard, uint32_t voters,
                               uint32_t non_voting);
enum thole_code cluster_delete(struct cluster *h, const char *shard);
enum thole_code cluster_host_state(struct cluster *h, uint64_t n, int32_t state);
enum thole_code cluster_delete_host(struct cluster *h, uint64_t n);

/* The view of the first host that is up; the caller releases it. */
struct registry_view *cluster_view(struct cluster *h);
/* The shard is Placed and Ready for its newest spec, no replica is leaving, and the leader's
 * configuration matches the rows. */
bool cluster_settled(struct cluster *h, const char *shard);
void cluster_dump(struct cluster *h); /* for people */
/* The shard has left no row, and no replica or tombstone on any host that is up. */
bool cluster_gone(struct cluster *h, const char *shard, uint64_t shard_id);
bool cluster_all_see_same(struct cluster *h);
uint32_t cluster_voters(struct cluster *h, const char *shard); /* in the leader's configuration */
size_t cluster_replicas_on(struct cluster *h, uint64_t n);     /* rows */
uint64_t cluster_shard_id(struct cluster *h, const char *shard);
uint64_t cluster_zero_leader(struct cluster *h); /* UINT64_MAX: no leader */
int32_t cluster_liveness(struct cluster *h, uint64_t n);
/* The number of events with this reason about the object; `text` receives the last one's
 * message. */
size_t cluster_events(struct cluster *h, const char *object, const char *reason, char *ret_last,
                      size_t size);

#endif
