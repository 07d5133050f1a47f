/* A cluster of real cores in virtual time. Their writes go to simulated disks with explicit write
 * and sync steps, their messages through a simulated network, and every step is checked against the
 * safety properties of Raft (checker.h). One thread; a failure aborts the test. */
#ifndef SHARDS_RAFT_TEST_CORE_CLUSTER_H
#define SHARDS_RAFT_TEST_CORE_CLUSTER_H

#include "base/rand.h"
#include "shards/raft/raft.h"
#include "shards/raft/test/checker.h"

#define NODES_MAX 12
#define TIMEOUT_MS 100
#define HEARTBEAT_MS 10

/* The data of one replica on a disk. */
struct disk {
    struct raft_hard hard;
    uint64_t start_index, start_term;
    struct raft_stamp start_stamp;
    struct raft_config start_config;
    struct raft_entry **entries; /* (start_index, start_index + count], references owned */
    size_t count, capacity;
};

/* One batch handed out by a harvest and not durable yet. */
struct disk_write {
    uint64_t token;
    struct raft_hard hard;
    bool snapshot, start_changed;
    uint64_t start_index, start_term;
    struct raft_stamp start_stamp;
    struct raft_config start_config;
    struct raft_entry **entries;
    size_t entry_count;
    uint64_t due_ms;
};

struct node {
    uint64_t id;
    struct raft *raft; /* NULL while it is down */
    struct raft_options options;
    struct disk disk;
    struct disk_write *writes;
    size_t write_count, write_capacity;
    bool manual_disk;     /* writes become durable only by node_sync */
    bool manual_apply;    /* raft_applied only by node_apply */
    bool manual_log;      /* need_log is recorded, not answered */
    bool manual_snapshot; /* need_snapshot is recorded, not answered */
    uint64_t applied, apply_to;
    struct raft_read_result reads[256];
    size_t read_count;
    struct raft_peer_request need_log, need_snapshot; /* the last ones; peer 0: none */
    size_t need_log_count, need_snapshot_count;
    bool removed;
    enum thole_code last_error; /* of a raft_receive */
    uint64_t clock_ahead_ns;    /* of raft_clock: hosts' clocks have different beginnings */
};

struct packet {
    struct raft_message message; /* kind 0: a snapshot */
    uint64_t due_ms, order;
    uint64_t snapshot_index, snapshot_term;
    struct raft_stamp snapshot_stamp;
    struct raft_config *snapshot_config;
};

#define STAMPS_MAX 8192

enum verdict { PASS, DROP, HOLD };
struct cluster;
typedef enum verdict (*message_filter)(struct cluster *c, const struct raft_message *m);

struct cluster {
    struct node nodes[NODES_MAX + 1]; /* by id; [0] is unused */
    size_t node_count;
    uint64_t now_ms;
    struct rand rand;
    struct checker checker;

    struct packet *packets; /* under way */
    size_t packet_count, packet_capacity;
    struct packet *held;
    size_t held_count, held_capacity;
    uint64_t next_order;

    bool cut[NODES_MAX + 1][NODES_MAX + 1]; /* [from][to] */
    message_filter filter;
    uint64_t latency_min_ms, latency_max_ms; /* 0: messages arrive in the same instant */
    double drop, duplicate;
    uint64_t disk_max_ms;                 /* syncs take up to this */
    struct raft_stamp stamps[STAMPS_MAX]; /* of applied entries, by index: snapshots carry them */
    uint64_t sent[RAFT_MSG_KIND_MAX + 1];
    uint64_t sent_entries, persists;
    struct bytes
        *trace; /* if set, one line for each message that arrives and each change of state */
};

/* Nodes 1..n are the voters of the first configuration. Options may be changed before a restart. */
void cluster_init(struct cluster *c, size_t n, uint64_t seed);
void cluster_init_config(struct cluster *c, const struct raft_config *config, uint64_t seed);
void cluster_deinit(struct cluster *c);
struct node *node_at(struct cluster *c, uint64_t id);
/* A node that is in no configuration: starts empty and passive. */
struct node *cluster_join(struct cluster *c);
struct raft_config config_of(const uint64_t *voters, size_t voter_count, const uint64_t *learners,
                             size_t learner_count);

/* Process crash: in-memory state and writes that are not synced are lost. */
void node_crash(struct cluster *c, uint64_t id);
void node_start(struct cluster *c, uint64_t id);
void node_restart(struct cluster *c, uint64_t id);
/* With a log made of these terms, as if recovered; term of the hard state = `term`. */
void node_restart_with_log(struct cluster *c, uint64_t id, const uint64_t *terms, size_t count,
                           uint64_t term, uint64_t vote);

/* Harvest one node: writes go to its queue, messages to the network. */
void node_harvest(struct cluster *c, uint64_t id);
/* Make the oldest `max` writes durable (SIZE_MAX: all). Returns how many. */
size_t node_sync(struct cluster *c, uint64_t id, size_t max);
void node_apply(struct cluster *c, uint64_t id);
/* Hand a message to a node now, without the network; its code. */
enum thole_code node_receive(struct cluster *c, struct raft_message m);
/* Deliver what is due, harvest, sync and apply until nothing happens at this instant. */
void cluster_settle(struct cluster *c);
/* Let time pass. */
void cluster_run(struct cluster *c, uint64_t ms);
/* Until some node leads with a commit of its term; fails the test after `ms`. Returns its id. */
uint64_t cluster_elect(struct cluster *c, uint64_t ms);
/* Make this node campaign and settle; fails the test unless it leads. */
void cluster_make_leader(struct cluster *c, uint64_t id);
uint64_t cluster_leader(struct cluster *c); /* of the highest term, 0: none */
void cluster_release_held(struct cluster *c);
void cluster_drop_held(struct cluster *c);

void cluster_cut(struct cluster *c, uint64_t a, uint64_t b); /* both directions */
void cluster_isolate(struct cluster *c, uint64_t id);
void cluster_heal(struct cluster *c);

/* A COMMAND of `size` bytes whose content is a number of the cluster's own. */
struct raft_entry *command_new(size_t size);
enum thole_code node_propose(struct cluster *c, uint64_t id, size_t size); /* no settling */
void cluster_propose(struct cluster *c, size_t n); /* at the leader, must be accepted; settles */
enum thole_code node_change(struct cluster *c, uint64_t id, const struct raft_change *change);
/* Add a node as a learner and let it catch up: it may get a vote then. */
void cluster_learn(struct cluster *c, uint64_t leader, uint64_t id);
struct raft_change change_one(enum raft_change_op op, uint64_t replica_id);
void change_add(struct raft_change *change, enum raft_change_op op, uint64_t replica_id);
/* raft_force, which must be accepted; no settling. */
void node_force(struct cluster *c, uint64_t id, uint64_t epoch);
void node_compact(struct cluster *c, uint64_t id, uint64_t index);
/* Take away the result of a read; false if there is none with this context. */
bool node_take_read(struct node *n, uint64_t context, struct raft_read_result *ret);

struct raft_status node_status(const struct node *n);
uint64_t node_term(struct cluster *c, uint64_t id);
enum raft_role node_role(struct cluster *c, uint64_t id);
uint64_t node_commit(struct cluster *c, uint64_t id);
uint64_t node_last(struct cluster *c, uint64_t id);
/* All running members have the same log end, commit and applied index. */
void cluster_assert_converged(struct cluster *c);

#endif
