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

#include "agent/repair/zero_file.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"

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

static enum thole_code fill(struct datadir *d, struct identity *i, const struct zero_file *z,
                            struct restored_zero *ret, struct thole_status *st)
{
    struct bytes out = {0};
    struct uuid seed = uuid_random();
    struct registry_refound o = {.cluster = uuid_random(),
                                 .host = i->host,
                                 .host_name = i->name,
                                 .seed_file = i->zero_seed,
                                 .index =
                                     thole_v1_SnapshotFile_index(snapshot_check_head(z->check)),
                                 .time_ms = (int64_t)clock_system.wall_ms(&clock_system)};
    uuid_format(&seed, i->zero_seed);
    bytes_append(&out, z->body.data, z->machine);
    enum thole_code code = registry_refound(zero_file_machine(z), &o, &out, &ret->registry, st);
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

static enum thole_code make_dir(const char *path, const char *name, const struct zero_file *z,
                                struct restored_zero *ret, struct thole_status *st)
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
        code = fill(&d, i, z, ret, st);
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
    struct zero_file z = {0};
    struct restored_zero *done = xcalloc(1, sizeof *done);
    enum thole_code code = zero_file_open(file, &z, st);
    if (code == THOLE_OK) {
        code = make_dir(dir, name, &z, done, st);
    }
    if (code == THOLE_OK) {
        *ret = *done;
    }
    zero_file_close(&z);
    free(done);
    return code;
}
