/* Looking at the data directory of a host that does not run: its log, its replicas, its state, its
 * snapshots, and what is damaged or wrong in it. Nothing in the directory is changed, and no daemon
 * can start with it meanwhile. Not thread safe. */
#ifndef AGENT_INSPECT_INSPECT_H
#define AGENT_INSPECT_INSPECT_H

#include "agent/core/datadir.h"
#include "shards/machine/kv/kv_inspect.h"

struct inspect;

/* Opens the directory and reads all of its log. NOT_FOUND: no data directory; FAILED_PRECONDITION
 * LOCKED: a daemon runs with it. Damage is no failure: see inspect_findings. */
THOLE_MUST_CHECK enum thole_code inspect_open(const char *path, struct inspect **ret,
                                              struct thole_status *st);
void inspect_close(struct inspect *i);                            /* NULL is fine */
const struct identity *inspect_identity(const struct inspect *i); /* NULL: unreadable */

/* ---- Findings -------------------------------------------------------------------------------- */

/* A sentence or two about `object` (a file of the directory, with an offset where there is one, or
 * a replica), and what to do. */
struct inspect_finding {
    bool problem; /* false: a remark */
    const char *object, *what, *advice;
};
typedef void (*inspect_finding_fn)(void *ctx, const struct inspect_finding *f);

/* What was found damaged in the log when it was read. */
void inspect_log_findings(const struct inspect *i, inspect_finding_fn each, void *ctx);
/* Reads and verifies everything else: small files, the state database, snapshots. Counts what was
 * read. */
struct inspect_verified {
    uint64_t log_records, state_records, snapshots;
};
void inspect_verify(struct inspect *i, inspect_finding_fn each, void *ctx,
                    struct inspect_verified *ret);
/* What else is worth knowing: modes, disk space, replicas, tombstones, unfinished work. */
void inspect_circumstances(struct inspect *i, inspect_finding_fn each, void *ctx);

/* ---- Replicas -------------------------------------------------------------------------------- */

struct inspect_replica {
    uint64_t replica_id, shard_id;
    bool removed; /* a tombstone; nothing below is set */
    bool damaged; /* its log; it stays stopped */
    bool witness;
    char machine_type[LIMIT_NAME_BYTES + 1]; /* "": unknown */
    uint32_t machine_version;
    uint64_t term, vote, commit;
    uint64_t start_index, last_index, generation;
    uint64_t log_bytes;
};
/* Ascending by id; NULL at the end. `it` begins at 0. */
const struct inspect_replica *inspect_next_replica(const struct inspect *i, size_t *it);

/* Where the state of a replica is, and how far it goes. */
struct inspect_state {
    enum { STATE_NONE, STATE_DATABASE, STATE_SNAPSHOT } where;
    uint64_t applied; /* of a snapshot: its index */
    uint64_t now_ms;  /* of that entry; 0: unknown */
    uint64_t bytes;   /* keys and values; of a snapshot: the file */
    uint64_t sessions, request_ids;
    struct kv_seen kv; /* of a kv machine in the database */
    char snapshot[64]; /* name of the newest sound file */
    char problem[256]; /* "": none */
};
void inspect_state_of(struct inspect *i, const struct inspect_replica *r,
                      struct inspect_state *ret);
/* Is its state keys in the database, as far as this program knows the machine type? */
bool inspect_has_keys(const struct inspect_replica *r);
/* Keys of such a replica, as they are now. */
THOLE_MUST_CHECK enum thole_code inspect_keys(struct inspect *i, const struct inspect_replica *r,
                                              bool (*each)(void *ctx,
                                                           const struct kv_key_seen *key),
                                              void *ctx, struct thole_status *st);

/* ---- Records of the log ---------------------------------------------------------------------- */

/* A record, or an entry of a run of entries, in the order of the log. Records that are replaced,
 * removed, or copies are among them. */
struct inspect_record {
    const char *file; /* the log's file that the record begins in */
    uint32_t offset;
    uint64_t write; /* the number of the synced write */
    uint64_t replica_id, shard_id;
    const char *machine_type; /* "": unknown */
    const char *kind;         /* IDENTITY, START, HARD, HOST, DAMAGED; of entries: NOOP, COMMAND,
                                 CONFIG, SESSION, TICK; of damaged entries: RUN */
    bool entry, copy, damaged;
    uint32_t epoch;       /* entries: of the log, raised by each installed snapshot */
    uint64_t index, term; /* entries */
    uint64_t now_ms;      /* entries: the leader's clock */
    uint64_t bytes;       /* of the record; of an entry: its payload */
    uint64_t session, sequence;
    struct slice request_id;
    struct slice payload; /* commands */
    const char *text;     /* what else is in it, for people; may be "" */
};
struct inspect_log_filter {
    bool has_shard;
    uint64_t shard_id;
    uint64_t from; /* entries: the least index; 0: other records, too */
};
THOLE_MUST_CHECK enum thole_code inspect_log(
    struct inspect *i, const struct inspect_log_filter *filter,
    void (*each)(void *ctx, const struct inspect_record *r), void *ctx, struct thole_status *st);

#endif
