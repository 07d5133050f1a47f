/* Looking at the data of a kv machine that is not open. Nothing is changed; the database may be one
 * that is only looked at (shards/store/inspect.h). */
#ifndef SHARDS_MACHINE_KV_INSPECT_H
#define SHARDS_MACHINE_KV_INSPECT_H

#include "shards/store/store.h"

#define KV_MACHINE_TYPE "kv"

struct kv_seen {
    bool exists; /* false: nothing was written yet */
    int64_t revision, compacted;
    uint64_t keys, leases, bytes;
    bool auth;
    uint32_t users, roles;
    uint64_t records, record_bytes; /* all that was read, keys and values */
    uint64_t malformed;             /* records that are not what their key says */
};
/* Reads every record of the space. `meta` gets those of the engine. FAILED_PRECONDITION FORMAT:
 * written by another version; DATA_LOSS CORRUPT; UNAVAILABLE DISK. After a failure `ret` has what
 * was read before it. */
THOLE_MUST_CHECK enum thole_code kv_look(struct state_db *db, struct state_space space,
                                         void (*meta)(void *ctx, struct slice key,
                                                      struct slice value),
                                         void *ctx, struct kv_seen *ret, struct thole_status *st);

/* A key as it is now, without its value. */
struct kv_key_seen {
    struct slice key; /* until the callback returns */
    int64_t create, mod, version, lease;
    uint64_t bytes; /* of the key, the value and the numbers, encoded */
};
/* In the order of the keys, until `each` returns false. */
THOLE_MUST_CHECK enum thole_code kv_look_at_keys(struct state_db *db, struct state_space space,
                                                 bool (*each)(void *ctx,
                                                              const struct kv_key_seen *key),
                                                 void *ctx, struct thole_status *st);

#endif
