/* Snapshot files: from the cluster into a folder, checking them, and back into a cluster. For
 * `thole snapshot`, `backup` and `restore`. Each call uses its own `struct cli`, so that several
 * threads can work, each with its own. */
#ifndef AGENT_CLI_SNAPSHOT_IO_H
#define AGENT_CLI_SNAPSHOT_IO_H

#include "agent/cli/cli.h"
#include "agent/snapshots/snapshot_file.h"
#include "base/uuid.h"

/* Called after each piece. */
typedef void (*snapshot_progress_fn)(void *ctx, uint64_t done, uint64_t total);

struct snapshot_fetch {
    struct cli *c;
    upb_StringView shard;
    bool stale;
    const thole_v1_SnapshotPoint *unless; /* NULL: save in any case */
    snapshot_progress_fn progress;
    void *ctx;
    /* Results. `check` is the caller's, and is filled. */
    struct snapshot_check *check;
    uint64_t checksum;   /* XXH3 of the file */
    bool unchanged;      /* the newest state is that of `unless`: there is no file */
    bool is_own_failure; /* of this machine's disk, not of the cluster */
};

/* `path` appears, or is replaced, when it is complete, checked and synced. A failure leaves
 * nothing. */
enum thole_code snapshot_fetch(struct snapshot_fetch *q, const char *path, struct thole_status *st);

/* The whole file; `check` is filled. `ret_checksum` (may be NULL): XXH3 of it. */
enum thole_code snapshot_check_path(const char *path, struct snapshot_check *check,
                                    uint64_t *ret_checksum, struct thole_status *st);

/* Checks the file, then sends it to the called host. `ret_name`: of the upload there. */
enum thole_code snapshot_upload(struct cli *c, const char *path, snapshot_progress_fn progress,
                                void *ctx, char ret_name[UUID_TEXT_BYTES], struct thole_status *st);

#endif
