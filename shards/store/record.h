/* The log's keys and records: pure encoding. docs/formats.md describes them.
 *
 * Key:    [replica id BE 8][kind 1], and for a run [epoch BE 4][first index BE 8].
 * Record: a header of 16 bytes [version 1][flags 1][0 2][count LE 4][XXH3 LE 8], then the body. The
 *         checksum is seeded with the key and the header's first half, so that a record that was
 *         moved to another key, or whose header was damaged, is damaged too. */
#ifndef SHARDS_STORE_RECORD_H
#define SHARDS_STORE_RECORD_H

#include "base/buf.h"
#include "base/limits.h"
#include "shards/raft/raft.h"

#define STORE_RECORD_VERSION 1
#define STORE_HEADER_BYTES 16

enum store_kind {
    STORE_KIND_IDENTITY = 1, /* or a tombstone */
    STORE_KIND_START = 2,
    STORE_KIND_HARD = 3,
    STORE_KIND_RUN = 4,
    STORE_KIND_HOST = 5,    /* under replica id 0, followed by the host record's name */
    STORE_KIND_DAMAGED = 6, /* empty: recovery found a damaged record of this replica */
};

enum store_flag {
    STORE_FLAG_CONFIG = 1,    /* run: holds at least one CONFIG entry */
    STORE_FLAG_HARD = 2,      /* run: its body begins with a hard state */
    STORE_FLAG_TOMBSTONE = 4, /* identity: the replica was removed */
};

#define STORE_KEY_BYTES 9
#define STORE_RUN_KEY_BYTES 21
/* The longest key: a host record's. */
#define STORE_HOST_NAME_BYTES_MAX 64
#define STORE_KEY_BYTES_MAX (STORE_KEY_BYTES + STORE_HOST_NAME_BYTES_MAX)

struct store_key {
    uint8_t bytes[STORE_KEY_BYTES_MAX];
    size_t size;
};
struct store_key store_key(uint64_t replica_id, enum store_kind kind);
struct store_key store_key_run(uint64_t replica_id, uint32_t epoch, uint64_t first);
struct store_key store_key_host(const char *name);
static inline struct slice store_key_slice(const struct store_key *k)
{
    return (struct slice){k->bytes, k->size};
}

struct store_key_parts {
    uint64_t replica_id;
    uint8_t kind;
    uint32_t epoch; /* runs only */
    uint64_t first; /* runs only */
};
bool store_key_parse(struct slice key, struct store_key_parts *ret);

/* The newest record of a replica that can carry its hard state does. `stamp` counts those records;
 * at recovery the highest stamp wins. */
struct store_hard {
    uint64_t stamp;
    struct raft_hard hard;
};

/* The content of a START record. */
struct store_start {
    struct store_hard hard;
    uint32_t epoch; /* of the runs that are alive; a reset begins a new one */
    uint64_t index, term;
    uint64_t machine_generation;
    struct raft_stamp stamp; /* see raft_update.log_start_stamp */
    struct slice config;
};
struct store_identity_record {
    bool tombstone;
    uint64_t shard_id, incarnation_created;
    struct slice descriptor;
};

/* Encoders append to `out`. */
void store_encode_identity(struct bytes *out, struct slice key,
                           const struct store_identity_record *r);
void store_encode_start(struct bytes *out, struct slice key, const struct store_start *r);
void store_encode_hard(struct bytes *out, struct slice key, const struct store_hard *r);
void store_encode_host(struct bytes *out, struct slice key, struct slice value);
/* Decoders borrow from `value`. False: damaged or malformed. */
bool store_decode_identity(struct slice key, struct slice value, struct store_identity_record *ret);
bool store_decode_start(struct slice key, struct slice value, struct store_start *ret);
bool store_decode_hard(struct slice key, struct slice value, struct store_hard *ret);
bool store_decode_host(struct slice key, struct slice value, struct slice *ret);

/* ---- Runs ------------------------------------------------------------------------------------ */

/* An entry as a run holds it; the payload is borrowed. */
struct store_entry {
    uint8_t kind; /* enum raft_entry_kind */
    uint64_t index, term, session, sequence;
    struct slice payload;
    struct slice id; /* of the request; at most LIMIT_REQUEST_ID_BYTES */
    struct raft_stamp stamp;
};

/* Builds one run at the end of `out`: begin, add entries with ascending index and term, end. */
struct store_run_writer {
    struct bytes *out;
    size_t at; /* where in `out` it begins */
    uint32_t count;
    uint8_t flags;
    uint64_t term;
    struct raft_stamp stamp; /* of the last entry */
};
void store_run_begin(struct store_run_writer *w, struct bytes *out);
/* The encoded size of an entry, at most. */
static inline size_t store_run_entry_bytes_max(size_t payload)
{
    /* Term delta, two of the times, session, sequence, size; the request id and its size. */
    return 1 + 6 * VARINT_BYTES_MAX + payload + LIMIT_REQUEST_ID_BYTES + 1;
}
void store_run_add(struct store_run_writer *w, const struct store_entry *e);
/* With `hard`, the run carries it. */
void store_run_end(struct store_run_writer *w, struct slice key, const struct store_hard *hard);

/* Reads one run. The checksum covers everything, so it is verified once at the start. */
struct store_run_reader {
    struct slice rest;
    uint32_t left; /* entries not yet taken */
    uint32_t count;
    uint8_t flags;
    uint64_t index, term;    /* of the next entry; of the last one */
    struct raft_stamp stamp; /* of the last one */
    struct store_hard hard;
};
bool store_run_open(struct store_run_reader *r, struct slice key, struct slice value);
/* True and an entry; false at the end or if malformed, which store_run_done tells apart. */
bool store_run_next(struct store_run_reader *r, struct store_entry *ret);
static inline bool store_run_done(const struct store_run_reader *r)
{
    return r->left == 0 && r->rest.size == 0;
}

#endif
