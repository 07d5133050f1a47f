/* The files in which users take snapshots away (docs/formats.md): writing the head, and checking a
 * file piece by piece, whoever sends it: a disk, a host, a user. Nothing here knows of any of
 * them. */
#ifndef AGENT_SNAPSHOTS_SNAPSHOT_FILE_H
#define AGENT_SNAPSHOTS_SNAPSHOT_FILE_H

#include <thole/status.h>

#include "base/buf.h"
#include "thole/v1/snapshots.upb.h"

#define SNAPSHOT_FILE_FORMAT 1
#define SNAPSHOT_FILE_HEAD_BYTES_MAX (4 * MIB)
/* At the end of the body: the checksum of what is before it, and a word. */
#define SNAPSHOT_FILE_TRAILER_BYTES 16

/* Everything before the body. */
void snapshot_file_head(const thole_v1_SnapshotFile *head, struct bytes *out);
/* The checksum that a body's trailer holds; false if it is none. */
bool snapshot_file_trailer(const uint8_t trailer[SNAPSHOT_FILE_TRAILER_BYTES], uint64_t *ret);

void snapshot_file_end(uint64_t checksum, struct bytes *out); /* such a trailer */

struct snapshot_check;
struct snapshot_check *snapshot_check_new(void);
void snapshot_check_free(struct snapshot_check *k); /* NULL is fine */
/* The next bytes of the file. `ret_body` (optional): which of them are of the body. DATA_LOSS
 * CORRUPT: damaged, or no such file; FAILED_PRECONDITION FORMAT: of another version. After a
 * failure nothing more may be fed. */
THOLE_MUST_CHECK enum thole_code snapshot_check_feed(struct snapshot_check *k, struct slice in,
                                                     struct slice *ret_body,
                                                     struct thole_status *st);
/* The file ends here. DATA_LOSS CORRUPT if it should not. */
THOLE_MUST_CHECK enum thole_code snapshot_check_end(const struct snapshot_check *k,
                                                    struct thole_status *st);
/* NULL until enough of it was fed. */
const thole_v1_SnapshotFile *snapshot_check_head(const struct snapshot_check *k);
uint64_t snapshot_check_total(const struct snapshot_check *k); /* of the whole file; 0: not known */
uint64_t snapshot_check_fed(const struct snapshot_check *k);

#endif
