/* Outgoing messages: `withheld` ones wait until a write token is durable, `ready` ones for the next
 * harvest, `lent` ones were in the last update and still belong to the core. */
#ifndef SHARDS_RAFT_OUTBOX_H
#define SHARDS_RAFT_OUTBOX_H

#include "shards/raft/raft.h"

/* A hung disk must not let the queue grow: the oldest messages are dropped, as a network may do. */
#define RAFT_WITHHELD_MAX 4096

struct raft_message_list {
    struct raft_message *items;
    size_t count, capacity;
};

struct raft_withheld {
    uint64_t token;
    struct raft_message message;
};

struct raft_outbox {
    struct raft_message_list ready;
    struct raft_message_list lent;
    struct raft_withheld *withheld;
    size_t withheld_count, withheld_capacity;

    struct raft_entry **entries; /* of an update; borrowed from the log's cache */
    size_t entry_capacity;
    struct raft_peer_request *need_log;
    size_t need_log_count, need_log_capacity;
    struct raft_peer_request *need_snapshot;
    size_t need_snapshot_count, need_snapshot_capacity;
    bool requests_lent; /* need_log and need_snapshot were in the last update */
};

void raft__outbox_deinit(struct raft_outbox *o);
void raft__outbox_ready(struct raft_outbox *o, const struct raft_message *m);
void raft__outbox_withhold(struct raft_outbox *o, const struct raft_message *m, uint64_t token);
/* Writes up to `done` are durable. */
void raft__outbox_release(struct raft_outbox *o, uint64_t done);
/* A campaign is over: drop its requests, because the log that they advertise may change. */
void raft__outbox_drop_campaign(struct raft_outbox *o);
/* Lend out the ready messages. */
void raft__outbox_lend(struct raft_outbox *o);
void raft__outbox_take_back(struct raft_outbox *o);
bool raft__outbox_is_empty(const struct raft_outbox *o);
/* As assertions: each withheld message waits for a token above `done` and at most `newest`. */
void raft__outbox_check(const struct raft_outbox *o, uint64_t done, uint64_t newest);
/* Room for `n` entries of an update. */
struct raft_entry **raft__outbox_entries(struct raft_outbox *o, size_t n);
void raft__outbox_need_log(struct raft_outbox *o, struct raft_peer_request request);
void raft__outbox_need_snapshot(struct raft_outbox *o, struct raft_peer_request request);

#endif
