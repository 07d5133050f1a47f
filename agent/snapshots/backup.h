/* Folders of backups (docs/formats.md): the manifests, the names of files, and which backups are
 * kept. Does no I/O.
 *
 * Invariant of a folder: a manifest is written after the files that it names, and a file never
 * changes once a manifest names it. So an interrupted backup leaves all earlier ones valid. */
#ifndef AGENT_SNAPSHOTS_BACKUP_H
#define AGENT_SNAPSHOTS_BACKUP_H

#include <thole/status.h>

#include "base/buf.h"
#include "thole/v1/snapshots.upb.h"

#define BACKUP_FORMAT 1
#define BACKUP_MANIFEST_BYTES_MAX (256 * MIB)
#define BACKUP_FILES_DIR "shards"
#define BACKUP_NAME_BYTES 64

void backup_manifest_name(uint64_t number, char ret[BACKUP_NAME_BYTES]); /* "backup-12" */
bool backup_manifest_number(const char *name, uint64_t *ret); /* false: no manifest's name */
/* Within the folder: "shards/12-7.snap", by the backup that saved it and the shard. */
void backup_file_name(uint64_t saved_by, uint64_t shard_id, char ret[BACKUP_NAME_BYTES]);

/* Appends the bytes of a manifest. */
void backup_encode(const thole_v1_Backup *b, struct bytes *out);
/* A manifest in `arena`, in which every file has a point and a name, the registry first. DATA_LOSS
 * CORRUPT: damaged, or no manifest; FAILED_PRECONDITION FORMAT: another version. */
THOLE_MUST_CHECK enum thole_code backup_decode(struct slice bytes, upb_Arena *arena,
                                               const thole_v1_Backup **ret,
                                               struct thole_status *st);

bool backup_is_complete(const thole_v1_Backup *b);
/* Of backups in ascending order, the first one to keep, so that `keep` (at least 1) complete ones
 * whose files are all there remain, with all later ones. 0: all are kept. */
size_t backup_first_kept(const thole_v1_Backup *const *all, const bool *is_whole, size_t count,
                         size_t keep);
/* Do the point and cluster in a snapshot file's header match? */
bool backup_head_matches(const thole_v1_SnapshotFile *head, const thole_v1_BackupFile *f,
                         upb_StringView cluster);
/* An entry for a saved file, without saved_by. */
thole_v1_BackupFile *backup_file_of(const thole_v1_SnapshotFile *head, uint64_t bytes,
                                    uint64_t checksum, upb_Arena *arena);

#endif
