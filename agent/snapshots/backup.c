/* Manifests of backups. See backup.h. */
#include "agent/snapshots/backup.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "agent/snapshots/snapshot_file.h"
#include "base/hash.h"
#include "base/limits.h"
#include "proto/decode.h"

#define CHECKSUM_BYTES 8
#define CLUSTER_BYTES 16

static const char magic[8] = "tholback";
static const char manifest_prefix[] = "backup-";

void backup_manifest_name(uint64_t number, char ret[BACKUP_NAME_BYTES])
{
    (void)snprintf(ret, BACKUP_NAME_BYTES, "%s%" PRIu64, manifest_prefix, number);
}

bool backup_manifest_number(const char *name, uint64_t *ret)
{
    size_t prefix = sizeof manifest_prefix - 1;
    uint64_t number = 0;
    if (strncmp(name, manifest_prefix, prefix) != 0 || name[prefix] < '1' || name[prefix] > '9') {
        return false;
    }
    for (const char *at = name + prefix; *at != '\0'; at++) {
        if (*at < '0' || *at > '9' || number > UINT64_MAX / 100) {
            return false;
        }
        number = 10 * number + (uint64_t)(*at - '0');
    }
    *ret = number;
    return true;
}

void backup_file_name(uint64_t saved_by, uint64_t shard_id, char ret[BACKUP_NAME_BYTES])
{
    (void)snprintf(ret, BACKUP_NAME_BYTES, BACKUP_FILES_DIR "/%" PRIu64 "-%" PRIu64 ".snap",
                   saved_by, shard_id);
}

void backup_encode(const thole_v1_Backup *b, struct bytes *out)
{
    uint8_t checksum[CHECKSUM_BYTES];
    size_t size = 0, begin = out->size;
    upb_Arena *arena = upb_Arena_New();
    const char *bytes = thole_v1_Backup_serialize(b, arena, &size);
    bytes_append(out, magic, sizeof magic);
    bytes_append(out, bytes, size);
    put_le64(checksum, hash64(out->data + begin, out->size - begin, 0));
    bytes_append(out, checksum, sizeof checksum);
    upb_Arena_Free(arena);
}

static bool is_file(const thole_v1_BackupFile *f, bool first, uint64_t number)
{
    const thole_v1_SnapshotPoint *p = thole_v1_BackupFile_point(f);
    upb_StringView name = thole_v1_BackupFile_shard(f);
    uint64_t saved_by = thole_v1_BackupFile_saved_by(f);
    return p != NULL && name.size > 0 && name.size <= LIMIT_NAME_BYTES && saved_by > 0 &&
           saved_by <= number && (thole_v1_SnapshotPoint_shard_id(p) == 0) == first;
}

static bool is_sound(const thole_v1_Backup *b)
{
    size_t count = 0;
    uint64_t number = thole_v1_Backup_number(b);
    const thole_v1_BackupFile *const *files = thole_v1_Backup_files(b, &count);
    for (size_t i = 0; i < count; i++) {
        if (!is_file(files[i], i == 0, number)) {
            return false;
        }
    }
    return count > 0 && number > 0 && thole_v1_Backup_cluster_id(b).size == CLUSTER_BYTES;
}

enum thole_code backup_decode(struct slice bytes, upb_Arena *arena, const thole_v1_Backup **ret,
                              struct thole_status *st)
{
    size_t least = sizeof magic + CHECKSUM_BYTES;
    if (bytes.size < least || memcmp(bytes.data, magic, sizeof magic) != 0) {
        return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "not a manifest of a backup");
    }
    size_t end = bytes.size - CHECKSUM_BYTES;
    const thole_v1_Backup *b = NULL;
    if (get_le64(bytes.data + end) == hash64(bytes.data, end, 0)) {
        b = PROTO_DECODE(thole_v1_Backup, slice_of(bytes.data + sizeof magic, end - sizeof magic),
                         arena);
    }
    if (b != NULL && thole_v1_Backup_format(b) != BACKUP_FORMAT) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_FORMAT,
                          "the backup has format %" PRIu32 "; this program reads format %d",
                          thole_v1_Backup_format(b), BACKUP_FORMAT);
    }
    if (b == NULL || !is_sound(b)) {
        return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                          "the manifest is damaged: its checksum or content is wrong");
    }
    *ret = b;
    return THOLE_OK;
}

bool backup_is_complete(const thole_v1_Backup *b)
{
    size_t gaps = 0;
    (void)thole_v1_Backup_gaps(b, &gaps);
    return gaps == 0;
}

size_t backup_first_kept(const thole_v1_Backup *const *all, const bool *is_whole, size_t count,
                         size_t keep)
{
    size_t found = 0;
    for (size_t i = count; i > 0; i--) {
        found += is_whole[i - 1] && backup_is_complete(all[i - 1]);
        if (found == keep) {
            return i - 1;
        }
    }
    return 0;
}

bool backup_head_matches(const thole_v1_SnapshotFile *head, const thole_v1_BackupFile *f,
                         upb_StringView cluster)
{
    const thole_v1_SnapshotPoint *p = thole_v1_BackupFile_point(f);
    return proto_equal(thole_v1_SnapshotFile_cluster_id(head), cluster) &&
           proto_equal(thole_v1_SnapshotFile_shard(head), thole_v1_BackupFile_shard(f)) &&
           thole_v1_SnapshotFile_shard_id(head) == thole_v1_SnapshotPoint_shard_id(p) &&
           thole_v1_SnapshotFile_epoch(head) == thole_v1_SnapshotPoint_epoch(p) &&
           thole_v1_SnapshotFile_index(head) == thole_v1_SnapshotPoint_index(p) &&
           thole_v1_SnapshotFile_term(head) == thole_v1_SnapshotPoint_term(p);
}

static upb_StringView copied(upb_StringView s, upb_Arena *arena)
{
    char *to = upb_Arena_Malloc(arena, s.size + 1);
    if (s.size > 0) {
        memcpy(to, s.data, s.size);
    }
    return upb_StringView_FromDataAndSize(to, s.size);
}

thole_v1_BackupFile *backup_file_of(const thole_v1_SnapshotFile *head, uint64_t bytes,
                                    uint64_t checksum, upb_Arena *arena)
{
    thole_v1_BackupFile *f = thole_v1_BackupFile_new(arena);
    thole_v1_SnapshotPoint *p = thole_v1_BackupFile_mutable_point(f, arena);
    thole_v1_BackupFile_set_shard(f, copied(thole_v1_SnapshotFile_shard(head), arena));
    thole_v1_SnapshotPoint_set_shard_id(p, thole_v1_SnapshotFile_shard_id(head));
    thole_v1_SnapshotPoint_set_epoch(p, thole_v1_SnapshotFile_epoch(head));
    thole_v1_SnapshotPoint_set_index(p, thole_v1_SnapshotFile_index(head));
    thole_v1_SnapshotPoint_set_term(p, thole_v1_SnapshotFile_term(head));
    thole_v1_BackupFile_set_time_ms(f, thole_v1_SnapshotFile_time_ms(head));
    thole_v1_BackupFile_set_bytes(f, bytes);
    thole_v1_BackupFile_set_checksum(f, checksum);
    return f;
}
