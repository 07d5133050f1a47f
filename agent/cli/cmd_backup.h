/* Shared by backup and restore: work on many shards, with progress. */
#ifndef AGENT_CLI_CMD_BACKUP_H
#define AGENT_CLI_CMD_BACKUP_H

#include <pthread.h>

#include "agent/cli/backup_dir.h"

#define PARALLEL_MAX 16 /* docs/operations.md: a host has at most so many uploads */

/* What the threads of one command share. */
struct parallel {
    struct cli *c;    /* connected */
    const char *what; /* "saved" */
    void *ctx;
    size_t first, count; /* items [first, count) */
    /* On any thread, with a `struct cli` of that thread, whose arena lives until parallel_deinit.
     * A failure ends the command. */
    enum thole_code (*one)(void *ctx, struct cli *mine, size_t item, struct thole_status *st);

    pthread_mutex_t mutex; /* what follows */
    size_t taken, done, skipped;
    uint64_t bytes;
    struct thole_status failure;
    uint64_t begin_ns, told_ns;
    bool terminal;
    upb_Arena *arenas[PARALLEL_MAX];
    size_t arena_count;
};

/* Without items. */
void parallel_init(struct parallel *p, struct cli *c, const char *what, void *ctx,
                   enum thole_code (*one)(void *ctx, struct cli *mine, size_t item,
                                          struct thole_status *st));
/* Calls `one` for items [first, count), from --parallel threads. OK, or the first failure. */
enum thole_code parallel_run(struct parallel *p, struct thole_status *st);
void parallel_deinit(struct parallel *p);
void parallel_skipped(struct parallel *p); /* an item needed nothing */

/* Counts the bytes of one transfer: a snapshot_progress_fn. */
struct transfer {
    struct parallel *p;
    uint64_t counted;
};
void transfer_progress(void *ctx, uint64_t done, uint64_t total);

#endif
