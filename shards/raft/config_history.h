/* Configurations: validity, and the history of those in force since the log start.
 * The payload of a CONFIG entry is raft_change_encode of the change; the configuration that it
 * makes follows from the one before it, so every replica computes the same. */
#ifndef SHARDS_RAFT_CONFIG_HISTORY_H
#define SHARDS_RAFT_CONFIG_HISTORY_H

#include <stdatomic.h>

#include "shards/raft/raft.h"

/* INVALID_ARGUMENT if `c` breaks a rule of struct raft_config. An empty one is valid. */
THOLE_MUST_CHECK enum thole_code raft__config_validate(const struct raft_config *c,
                                                       struct thole_status *st);
/* Position of a member in c->members, or member_count. */
uint32_t raft__config_position(const struct raft_config *c, uint64_t replica_id);
/* Add a tombstone; idempotent. */
void raft__config_tombstone(struct raft_config *c, uint64_t replica_id);

/* One allocation: the configuration's arrays follow. It is immutable and counted, because callers
 * of the core may hold the configuration (raft_config_hold); `before` is the core's. */
struct raft_config_version {
    _Atomic uint32_t refs;
    uint64_t index; /* of the entry that made it; the first one's is at or before the log start */
    struct raft_config_version *before;
    struct raft_config config;
    struct raft_member members[];
};

/* `current` is in force; the oldest one before it is the configuration at the log start. `pending`
 * are the CONFIG entries of the log that do not act yet, ascending. */
struct raft_membership {
    struct raft_config_version *current;
    struct raft_entry **pending;
    uint32_t pending_count, pending_capacity;
};

void raft__membership_init(struct raft_membership *m, uint64_t index, const struct raft_config *c);
void raft__membership_deinit(struct raft_membership *m);
/* Forget everything; `c` is in force from `index`. */
void raft__membership_reset(struct raft_membership *m, uint64_t index, const struct raft_config *c);
const struct raft_config *raft__membership_current(const struct raft_membership *m);
/* The same, with a reference: see raft_config_hold. */
const struct raft_config *raft__membership_hold(const struct raft_membership *m);
uint64_t raft__membership_index(const struct raft_membership *m);
/* The index of raft_force's entry, from which on the log is of the present epoch. If that is before
 * the log start, the index of the oldest known configuration. 0: the first epoch. */
uint64_t raft__membership_epoch_index(const struct raft_membership *m);
/* The configuration in force at `index`. */
const struct raft_config *raft__membership_at(const struct raft_membership *m, uint64_t index);
/* A CONFIG entry entered the log. Takes a reference of its own. */
void raft__membership_note(struct raft_membership *m, struct raft_entry *e);
/* The log lost its entries from `first` on. */
void raft__membership_truncate(struct raft_membership *m, uint64_t first);
/* Let the oldest pending entry act. True if the configuration changed, false if it was a no-op. */
bool raft__membership_apply_next(struct raft_membership *m);
/* The log now starts at `index`: drop the versions that only older indexes need. */
void raft__membership_compact(struct raft_membership *m, uint64_t index);
/* As assertions: the configuration in force is valid, pending entries are in order, and revision,
 * tombstones and epoch follow from the version before as a change may make them. */
void raft__membership_check(const struct raft_membership *m);

#endif
