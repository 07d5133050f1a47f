/* Writes under load, and the proof that none was lost.
 *
 * A load is one client of the library with `in_flight` proposals outstanding. Each puts a new key
 * into a kv shard; the load remembers the acknowledged ones. Writes that were certainly not applied
 * are sent again. Unknown outcomes are counted and left open. */
#ifndef INTEGRATION_TEST_LOAD_H
#define INTEGRATION_TEST_LOAD_H

#include "integration/test/cluster.h"

struct load;

struct load_report {
    uint64_t acknowledged;
    uint64_t unknown;
    uint64_t refused;    /* certainly not applied, and sent again */
    uint64_t gap_ms_max; /* longest time without any acknowledgement while it ran */
};

struct load *load_start(const char *endpoints, const char *shard, unsigned in_flight);
/* Acknowledgements so far. */
uint64_t load_acknowledged(const struct load *l);
/* The time of the last acknowledgement (clock of now_ms). Resets the longest gap. */
void load_reset_gap(struct load *l);
uint64_t load_gap_ms_max(const struct load *l);
/* Stops sending and waits for the writes in flight (up to 15 s). */
void load_stop(struct load *l, struct load_report *ret);
/* After load_stop: reads every acknowledged key through the given endpoints. Returns how many are
 * missing or wrong. */
uint64_t load_verify(struct load *l, const char *endpoints);
/* The same in a copy of the shard; may be repeated. */
uint64_t load_verify_in(struct load *l, const char *endpoints, const char *shard);
void load_free(struct load *l);

/* Wait until `n` more writes have been acknowledged. */
void load_wait_progress(struct load *l, uint64_t n, int timeout_ms);

#endif
