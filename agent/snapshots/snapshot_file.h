/* The format of snapshot files that users save (docs/formats.md): writing the head, and checking a
 * file piece by piece. Does no I/O. */
#ifndef AGENT_SNAPSHOTS_SNAPSHOT_FILE_H
#define AGENT_SNAPSHOTS_SNAPSHOT_FILE_H

#include <thole/status.h>

#include "base/buf.h"
#include "thole/v1/snapshots.upb.h"

#define SNAPSHOT_FILE_FORMAT 1
#define SNAPSHOT_FILE_HEAD_BYTES_MAX (4 * MIB)
/* At the end of the body: the checksum of the bytes before it, and a magic number. */
#define SNAPSHOT_FILE_TRAILER_BYTES 16

/* Everything before the body. */
void snapshot_file_head(const thole_v1_SnapshotFile *head, struct bytes *out);
/* The checksum in a trailer; false: these bytes are no trailer. */
bool snapshot_file_trailer(const uint8_t trailer[SNAPSHOT_FILE_TRAILER_BYTES], uint64_t *ret);

void snapshot_file_end(uint64_t checksum, struct bytes *out); /* appends a trailer */

struct snapshot_check;
struct snapshot_check *snapshot_check_new(void);
void snapshot_check_free(struct snapshot_check *k); /* NULL is fine */
/* The next bytes of the file. `ret_body` (optional): the part of them that belongs to the body.
 * DATA_LOSS CORRUPT: damaged, or no snapshot file; FAILED_PRECONDITION FORMAT: another version.
 * After a failure nothing more may be fed. */
THOLE_MUST_CHECK enum thole_code snapshot_check_feed(struct snapshot_check *k, struct slice in,
                                                     struct slice *ret_body,
                                                     struct thole_status *st);
/* The file ends here. DATA_LOSS CORRUPT: the file is incomplete, or a checksum is wrong. */
THOLE_MUST_CHECK enum thole_code snapshot_check_end(const struct snapshot_check *k,
                                                    struct thole_status *st);
/* NULL until the head is complete. */
const thole_v1_SnapshotFile *snapshot_check_head(const struct snapshot_check *k);
uint64_t snapshot_check_total(
    const struct snapshot_check *k); /* of the whole file; 0: not known yet */
uint64_t snapshot_check_fed(const struct snapshot_check *k);

#endif
