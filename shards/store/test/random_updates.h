/* Random updates of a few replicas, for the tests that compare log stores. A store accepts most of
 * them. */
#ifndef SHARDS_STORE_TEST_RANDOM_UPDATES_H
#define SHARDS_STORE_TEST_RANDOM_UPDATES_H

#include "base/rand.h"
#include "shards/store/store.h"

enum { RANDOM_IDS = 1000, RANDOM_UPDATES_MAX = 8, RANDOM_ENTRIES_MAX = 30 };

/* The generator's model of a replica. */
struct guess {
    bool live, used;
    uint64_t start, last, term;
};

struct random_batch {
    struct store_update u[RANDOM_UPDATES_MAX];
    struct store_identity identity[RANDOM_UPDATES_MAX];
    struct raft_entry *entries[RANDOM_UPDATES_MAX][RANDOM_ENTRIES_MAX];
    size_t count;
};

/* `guesses` has RANDOM_IDS elements, initially zero. */
void random_batch(struct rand *r, struct guess *guesses, struct random_batch *b);
void random_batch_free(struct random_batch *b);
/* After a refused batch the guesses are wrong: reload them from a store. */
void random_correct(struct guess *guesses, struct log_store *s);
/* A number from an environment variable. */
uint64_t random_option(const char *name, uint64_t otherwise);

#endif
