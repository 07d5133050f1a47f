/* Which watchers are interested in a key: a tree of ranges of keys, each with its watchers. */
#ifndef AGENT_SERVICES_WATCH_RANGES_H
#define AGENT_SERVICES_WATCH_RANGES_H

#include <stdbool.h>
#include <sys/queue.h>

#include "base/buf.h"
#include "base/rand.h"

struct watch_range;

/* Embed it in a watcher. */
struct watch_interest {
    struct watch_range *range; /* NULL: in no tree */
    TAILQ_ENTRY(watch_interest) link;
};

/* [from, to); without an end: all keys from `from` on. */
struct watch_keys {
    struct slice from, to;
    bool no_end;
};

/* Zero-initialise. */
struct watch_ranges {
    struct watch_range *root;
    struct rand random;
};

bool services__watch_keys_contain(const struct watch_keys *k, struct slice key);
/* The smallest range that contains both. Its bytes are those of the two. */
struct watch_keys services__watch_keys_join(const struct watch_keys *a, const struct watch_keys *b);

/* The keys are copied. */
void services__watch_ranges_add(struct watch_ranges *r, const struct watch_keys *keys,
                                struct watch_interest *i);
void services__watch_ranges_remove(struct watch_ranges *r, struct watch_interest *i);
/* The keys that it was added with, valid until it is removed. */
struct watch_keys services__watch_interest_keys(const struct watch_interest *i);
/* Calls `found` for each; it must not change the tree. */
void services__watch_ranges_match(const struct watch_ranges *r, struct slice key,
                                  void (*found)(void *ctx, struct watch_interest *i), void *ctx);

#endif
