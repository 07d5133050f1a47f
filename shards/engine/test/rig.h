/* Hosts on real threads, for the threaded tests and the benchmark: the threaded executor, logs on
 * disk or in memory, snapshot files on disk. The transport passes frames to one delivery thread per
 * host. Shards are 1 .. shard_count, each with a voter on every host. */
#ifndef SHARDS_ENGINE_TEST_RIG_H
#define SHARDS_ENGINE_TEST_RIG_H

#include "shards/engine/engine_internal.h"

#define RIG_HOSTS_MAX 5

struct rig;
struct rig_host {
    struct rig *rig;
    int id;
    struct uuid uuid;
    uint64_t incarnation;
    char *directory;
    struct log_store *log;
    struct state_db *state;
    struct engine *engine;
    struct worker *net;
    _Atomic bool up;
};
struct rig_options {
    const char *directory; /* emptied by the caller */
    int hosts;
    uint64_t shards;
    const char *machine;
    const struct thole_machine_type *const *types;
    bool memory_log;
    uint32_t loops, appliers;
    uint64_t compact_log_bytes, keep_log_bytes;
};
struct rig {
    struct rig_options o;
    struct executor *ex;
    struct rig_host hosts[RIG_HOSTS_MAX];
};

struct rig *rig_new(const struct rig_options *o); /* hosts started, replicas created */
void rig_free(struct rig *r);
void rig_stop_host(struct rig *r, int i);
void rig_start_host(struct rig *r, int i); /* restarts its replicas, too */
/* The host that leads a shard, or -1 if no leader is known. */
int rig_leader(struct rig *r, uint64_t shard);
void rig_wait_leaders(struct rig *r); /* aborts the process after 30 s */
/* A fresh directory below $TMPDIR or /tmp; the caller frees the path. */
char *rig_directory(void);

#endif
