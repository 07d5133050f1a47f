/* Two machines for the tests. "tally" lives in memory: it counts commands and chains their hash.
 * "ledger" does the same and is persistent: it keeps its state in a struct ledger_disk that
 * survives the engine, and loses at a crash what was not flushed. */
#ifndef SHARDS_ENGINE_TEST_MACHINES_H
#define SHARDS_ENGINE_TEST_MACHINES_H

#include <pthread.h>
#include <thole/machine.h>

#include "base/buf.h"

/* A query answers this; a command's result is its count (8 bytes), and code the count too. */
struct tally {
    uint64_t count, hash;
};
/* A command with this text makes the machine fail on hosts whose context says so. */
#define TALLY_POISON "poison"

struct tally_ctx {
    bool poisoned;
    size_t ballast; /* bytes that a snapshot carries on top */
    size_t padding; /* ... and a result */
    /* Most entries that came in one call. Hosts of one process may share it and apply at once. */
    _Atomic size_t batch;
};
struct thole_machine_type tally_type(struct tally_ctx *ctx);
/* Without views: guarded by the engine's lock. */
struct thole_machine_type tally_plain_type(struct tally_ctx *ctx);

struct ledger_disk;
struct ledger_disk *ledger_disk_new(void);
void ledger_disk_crash(struct ledger_disk *d); /* back to what was flushed */
void ledger_disk_free(struct ledger_disk *d);
/* Bytes that a snapshot carries on top. Its restore does not read them: what is missing there only
 * the engine can tell. */
void ledger_disk_set_ballast(struct ledger_disk *d, size_t ballast);
size_t ledger_disk_spaces(struct ledger_disk *d); /* how many generations hold data */
struct thole_machine_type ledger_type(struct ledger_disk *d);

#endif
