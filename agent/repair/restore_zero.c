/* Offline restore of the registry. See restore_zero.h.
 *
 * The body of the file is a snapshot file of the engine. Its head and sessions are copied, and the
 * machine's bytes are rewritten for the new cluster (registry_refound). The result is the seed of
 * shard zero's first replica, which the identity names. The identity is written last: until then
 * the directory belongs to a host without a cluster. */
#include "agent/repair/restore_zero.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/snapshots/snapshot_file.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"

/* A registry has a few hundred bytes per shard; this bounds what is read into memory. */
#define FILE_BYTES_MAX (UINT64_C(4) << 30)

/* ---- The file -------------------------------------------------------------------------------- */

static enum thole_code check_file(struct snapshot_check *k, const struct buf *file,
                                  struct slice *ret_body, struct thole_status *st)
{
    enum thole_code code = snapshot_check_feed(k, slice_of(file->data, file->size), ret_body, st);
    if (code == THOLE_OK) {
        code = snapshot_check_end(k, st);
    }
    if (code != THOLE_OK) {
        return code;
    }
    const thole_v1_SnapshotFile *head = snapshot_check_head(k);
    upb_StringView type = thole_v1_ShardSpec_type(thole_v1_SnapshotFile_spec(head));
    if (thole_v1_SnapshotFile_shard_id(head) != REGISTRY_SHARD_ID ||
        !slice_equal(registry_str(type), slice_str(REGISTRY_MACHINE_TYPE))) {
        upb_StringView name = thole_v1_SnapshotFile_shard(head);
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_BAD_REQUEST,
                          "this is a snapshot of shard \"%.*s\", not of the registry (shard zero)",
                          (int)name.size, name.size > 0 ? name.data : "");
    }
    return THOLE_OK;
}

/* Where the machine's bytes begin: after pieces prefixed by their sizes, ended by size 0. */
static enum thole_code find_machine(struct slice body, size_t *ret, struct thole_status *st)
{
    size_t end = body.size - SNAPSHOT_FILE_TRAILER_BYTES;
    for (size_t at = 0; end - at >= 4;) {
        uint32_t size = get_le32(body.data + at);
        at += 4;
        if (size == 0) {
            *ret = at;
            return THOLE_OK;
        }
        if (size > end - at) {
            break;
        }
        at += size;
    }
    return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                      "the snapshot file is damaged: its body is malformed");
}

/* ---- The directory --------------------------------------------------------------------------- */

static enum thole_code fail_not_empty(const char *path, const char *name, struct thole_status *st)
{
    return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_EXISTS,
                      "%s is not empty: it contains \"%.64s\"", path, name);
}

/* A killed restore leaves a lock, an identity without a cluster, and a partial seed, which the next
 * restore overwrites. A host that was started has more files. */
static bool is_leftover(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strcmp(name, "lost+found") == 0 ||
           strcmp(name, "LOCK") == 0 || strcmp(name, "restores") == 0 ||
           strncmp(name, "identity", strlen("identity")) == 0;
}

static enum thole_code check_empty(const char *path, struct thole_status *st)
{
    DIR *dir = opendir(path);
    enum thole_code code = THOLE_OK;
    for (struct dirent *e; code == THOLE_OK && dir != NULL && (e = readdir(dir)) != NULL;) {
        if (!is_leftover(e->d_name)) {
            code = fail_not_empty(path, e->d_name, st);
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return code;
}

static void remove_in(const char *dir, const char *name)
{
    struct thole_status ignored;
    char *path = xasprintf("%s/%s", dir, name);
    enum thole_code code = file_remove_tree(path, &ignored); /* best effort, after a failure */
    (void)code;
    free(path);
}

static enum thole_code write_seed(struct datadir *d, const char *name, struct slice bytes,
                                  struct thole_status *st)
{
    char *dir = datadir_file(d, "restores");
    char *path = xasprintf("%s/%s", dir, name);
    enum thole_code code = file_make_dirs(dir, st);
    if (code == THOLE_OK) {
        code = file_write_atomic(path, bytes, st);
    }
    free(path);
    free(dir);
    return code;
}

/* ---- Restore --------------------------------------------------------------------------------- */

static enum thole_code fill(struct datadir *d, struct identity *i, struct slice body,
                            uint64_t index, struct restored_zero *ret, struct thole_status *st)
{
    size_t machine = 0;
    struct bytes out = {0};
    struct uuid seed = uuid_random();
    struct registry_refound o = {.cluster = uuid_random(),
                                 .host = i->host,
                                 .host_name = i->name,
                                 .seed_file = i->zero_seed,
                                 .index = index,
                                 .time_ms = (int64_t)clock_system.wall_ms(&clock_system)};
    uuid_format(&seed, i->zero_seed);
    enum thole_code code = find_machine(body, &machine, st);
    if (code == THOLE_OK) {
        bytes_append(&out, body.data, machine);
        code = registry_refound(
            slice_of(body.data + machine, body.size - SNAPSHOT_FILE_TRAILER_BYTES - machine), &o,
            &out, &ret->registry, st);
    }
    if (code == THOLE_OK) {
        snapshot_file_end(hash64(out.data, out.size, 0), &out);
        code = write_seed(d, i->zero_seed, bytes_slice(&out), st);
    }
    if (code == THOLE_OK) {
        i->cluster = ret->cluster = o.cluster;
        i->zero_replica = ret->registry.replica_id;
        code = datadir_save_identity(d, i, st);
    }
    snprintf(ret->name, sizeof ret->name, "%s", i->name);
    bytes_deinit(&out);
    return code;
}

static enum thole_code make_dir(const char *path, const char *name, struct slice body,
                                uint64_t index, struct restored_zero *ret, struct thole_status *st)
{
    struct datadir d = {.lock_fd = -1};
    struct identity *i = xcalloc(1, sizeof *i);
    bool was_there = access(path, F_OK) == 0;
    enum thole_code code = check_empty(path, st);
    if (code == THOLE_OK) {
        code = datadir_open(path, NULL, &d, i, st);
    }
    if (code == THOLE_OK && !uuid_is_nil(&i->cluster)) {
        code = fail_not_empty(path, "identity", st);
    } else if (code == THOLE_OK) {
        if (name != NULL) {
            snprintf(i->name, sizeof i->name, "%s", name);
        }
        remove_in(path, "restores"); /* of a killed restore */
        code = fill(&d, i, body, index, ret, st);
        if (code != THOLE_OK) {
            remove_in(path, "identity");
            remove_in(path, "restores");
            remove_in(path, "LOCK");
            if (!was_there) {
                (void)rmdir(path);
            }
        }
    }
    datadir_close(&d);
    free(i);
    return code;
}

enum thole_code restore_zero(const char *file, const char *dir, const char *name,
                             struct restored_zero *ret, struct thole_status *st)
{
    struct buf *bytes = NULL;
    struct slice body = {0};
    struct restored_zero *done = xcalloc(1, sizeof *done);
    struct snapshot_check *k = snapshot_check_new();
    enum thole_code code = file_read(file, FILE_BYTES_MAX, &bytes, st);
    if (code == THOLE_OK) {
        code = check_file(k, bytes, &body, st);
    }
    if (code == THOLE_OK) {
        code = make_dir(dir, name, body, thole_v1_SnapshotFile_index(snapshot_check_head(k)), done,
                        st);
    }
    if (code == THOLE_OK) {
        *ret = *done;
    }
    buf_unref(bytes);
    snapshot_check_free(k);
    free(done);
    return code;
}
