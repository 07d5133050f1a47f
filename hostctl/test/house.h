/* Several hosts in one thread: real engines, registries and controllers on the manual executor,
 * with logs and snapshot files in memory that survive a stop, and a network in virtual time. The
 * layer above (routing of commands, liveness of peers) is played by the harness. */
#ifndef HOSTCTL_TEST_HOUSE_H
#define HOSTCTL_TEST_HOUSE_H

#include "base/rand.h"
#include "hostctl/hostctl.h"
#include "registry/test/registry_fixture.h"
#include "shards/engine/snapshot/files.h"

#define HOUSE_HOSTS 8
#define HOUSE_DEAD_MS 3000

struct house;
struct house_host {
    struct house *house;
    uint64_t n; /* named "h<n>", with id test_uuid(n) */
    struct uuid id;
    uint64_t incarnation;
    struct log_store *log;
    struct engine_files *files;
    struct registry *registry;
    struct thole_machine_type failing; /* "failing": never opens */
    struct thole_machine_type flaky;   /* "flaky": a counter that fails as its host says */
    bool flaky_open, flaky_apply, flaky_restore;
    const struct thole_machine_type *types[5];
    struct engine *engine;
    struct hostctl *hostctl; /* NULL: down */
    bool address_known[HOUSE_HOSTS];
};

struct packet;
struct house {
    struct executor *ex;
    struct rand rand;
    struct house_host hosts[HOUSE_HOSTS];
    bool cut[HOUSE_HOSTS]; /* from everybody */
    bool apart[HOUSE_HOSTS][HOUSE_HOSTS];
    bool mute[HOUSE_HOSTS]; /* connected, but no frame of it arrives */
    struct packet *packets;
    size_t proposals;              /* by controllers */
    double refuse;                 /* chance that a controller's proposal is not made */
    double lose;                   /* chance that one is made, and its answer lost */
    uint64_t snapshot_bytes_per_s; /* of the hosts that are started next */
};

struct thole_machine_type flaky_type(struct house_host *host); /* flaky.c */
struct house *house_new(uint64_t seed);
void house_free(struct house *h);
uint64_t house_now_ms(const struct house *h);
void house_run(struct house *h, uint64_t ms);
#define RUN_UNTIL(h, ms, condition)                                  \
    do {                                                             \
        uint64_t end_ = house_now_ms(h) + (ms);                      \
        while (!(condition) && house_now_ms(h) < end_) {             \
            house_run(h, 20);                                        \
        }                                                            \
        if (!(condition)) {                                          \
            house_dump(h);                                           \
            fail_msg("not within %d ms: %s", (int)(ms), #condition); \
        }                                                            \
    } while (0)

void house_start(struct house *h, uint64_t n);
void house_stop(struct house *h, uint64_t n);
void house_cut(struct house *h, uint64_t n, bool cut);
void house_part(struct house *h, uint64_t a, uint64_t b, bool apart); /* only these two */
void house_bootstrap(struct house *h, uint64_t hosts);
void house_join(struct house *h, uint64_t n);

/* Propose and wait; the code. */
enum thole_code house_command(struct house *h, struct cmd *c);
/* Of an operation; 0: there is none. */
int32_t house_operation_state(struct house *h, uint64_t id);
enum thole_code house_admit(struct house *h, uint64_t n, uint64_t *ret_replica);
enum thole_code house_create(struct house *h, const char *shard, uint32_t voters,
                             uint32_t non_voting);
enum thole_code house_create_type(struct house *h, const char *shard, const char *type,
                                  uint32_t voters, uint32_t non_voting);
/* Commit some commands of the counters. False: no leader took them. */
bool house_add(struct house *h, const char *shard, int count);
enum thole_code house_update(struct house *h, const char *shard, uint32_t voters,
                             uint32_t non_voting);
enum thole_code house_delete(struct house *h, const char *shard);
enum thole_code house_host_state(struct house *h, uint64_t n, int32_t state);
enum thole_code house_delete_host(struct house *h, uint64_t n);

/* The view of the first host that is up; release it. */
struct registry_view *house_view(struct house *h);
/* The shard is Placed and Ready for its newest spec, no replica is leaving, and its leader's
 * configuration is what the rows say. */
bool house_settled(struct house *h, const char *shard);
void house_dump(struct house *h); /* for people */
/* Nothing of the shard is left: no row, no replica, no tombstone on any host that is up. */
bool house_gone(struct house *h, const char *shard, uint64_t shard_id);
bool house_all_see_same(struct house *h);
uint32_t house_voters(struct house *h, const char *shard); /* in the leader's configuration */
size_t house_replicas_on(struct house *h, uint64_t n);     /* rows */
uint64_t house_shard_id(struct house *h, const char *shard);
uint64_t house_zero_leader(struct house *h); /* UINT64_MAX: nobody */
int32_t house_liveness(struct house *h, uint64_t n);
/* How many events with this reason there are about the object; the last one's message. */
size_t house_events(struct house *h, const char *object, const char *reason, char *ret_last,
                    size_t size);

#endif
