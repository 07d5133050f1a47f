/* Two machines for the tests. "tally" lives in memory: it counts commands and chains their hash.
 * "ledger" does the same and is persistent. Its state is in a struct ledger_disk that survives the
 * engine; a crash loses the unflushed part. */
#ifndef SHARDS_ENGINE_TEST_MACHINES_H
#define SHARDS_ENGINE_TEST_MACHINES_H

#include <pthread.h>
#include <thole/machine.h>

#include "base/buf.h"

/* The reply to a query. A command's result is its count (8 bytes), and its code is the count
 * too. */
struct tally {
    uint64_t count, hash;
};
/* A command with this text makes the machine fail on hosts whose context is `poisoned`. */
#define TALLY_POISON "poison"

struct tally_ctx {
    bool poisoned;
    _Atomic bool damaged; /* queries meet damage */
    size_t ballast;       /* bytes that a snapshot carries on top */
    size_t padding;       /* ... and a result */
    /* The most entries in one call. Hosts of one process may share the context and apply at
     * once. */
    _Atomic size_t batch;
};
struct thole_machine_type tally_type(struct tally_ctx *ctx);
/* Without views: guarded by the engine's lock. */
struct thole_machine_type tally_plain_type(struct tally_ctx *ctx);

struct ledger_disk;
struct ledger_disk *ledger_disk_new(void);
void ledger_disk_crash(struct ledger_disk *d); /* back to the flushed state */
void ledger_disk_free(struct ledger_disk *d);
/* Extra bytes in a snapshot. The machine's restore does not read them: only the engine can detect
 * that some are missing. */
void ledger_disk_set_ballast(struct ledger_disk *d, size_t ballast);
size_t ledger_disk_spaces(struct ledger_disk *d); /* how many generations hold data */
struct thole_machine_type ledger_type(struct ledger_disk *d);

#endif
