/* Verification of everything but the log, and the circumstances. See inspect.h. */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/core/textfile.h"
#include "agent/inspect/inspect_internal.h"
#include "base/file.h"
#include "shards/engine/engine.h"
#include "shards/engine/inspect.h"

/* ---- Small files ----------------------------------------------------------------------------- */

static bool any_line(void *ctx, const char *key, char *value)
{
    (void)ctx, (void)key, (void)value;
    return true;
}

static const char *advice_of(const struct thole_status *why, const char *damaged)
{
    return why->reason == THOLE_REASON_FORMAT
               ? "Use the version of Thole that wrote it, or a newer one; if the file is another "
                 "program's, remove it."
               : damaged;
}

static void verify_small_files(const struct inspect *i, inspect_finding_fn each, void *ctx)
{
    static const struct {
        const char *name, *kind, *advice;
    } files[] = {
        {"incarnation", "thole-incarnation", inspect__advice_disk_lost},
        {"promise", "thole-promise", inspect__advice_disk_lost},
        {"peers", "thole-peers", "Start the host with --join ADDRESS: it writes the file anew."},
        {"salvages", "thole-salvages", "Start the host: it writes the file anew."},
        {"force-zero", "thole-force-zero", "Run `thole repair zero` again."},
    };
    if (i->identity_why.code != THOLE_OK) {
        inspect__find(each, ctx, true, "identity",
                      advice_of(&i->identity_why, inspect__advice_disk_lost),
                      "the host cannot be told: %s", i->identity_why.message);
    }
    for (size_t k = 0; k < sizeof files / sizeof files[0]; k++) {
        struct thole_status st;
        char *path = datadir_file(&i->dir, files[k].name);
        enum thole_code code =
            textfile_read(path, files[k].kind, DATADIR_FORMAT, any_line, NULL, &st);
        if (code != THOLE_OK && code != THOLE_NOT_FOUND) {
            inspect__find(each, ctx, true, files[k].name, advice_of(&st, files[k].advice), "%s",
                          st.message);
        }
        free(path);
    }
}

/* ---- States ---------------------------------------------------------------------------------- */

static void verify_replicas(struct inspect *i, inspect_finding_fn each, void *ctx)
{
    for (size_t k = 0; k < i->replica_count; k++) {
        const struct inspect_replica *r = &i->replicas[k];
        struct inspect_state s = {0};
        if (inspect_has_keys(r)) {
            inspect_state_of(i, r, &s);
        }
        if (s.problem[0] != '\0') {
            inspect__find(each, ctx, true, "state",
                          r->start_index == 0
                              ? "Start the host: the log has all entries, so that nothing is lost."
                              : inspect__advice_replica,
                          "state of replica %" PRIu64 " of shard %" PRIu64 ": %s", r->replica_id,
                          r->shard_id, s.problem);
        }
    }
}

/* Records of no replica: the format's number, remains. */
static void verify_rest(struct inspect *i, inspect_finding_fn each, void *ctx,
                        struct inspect_verified *ret)
{
    struct thole_status st;
    if (state_inspect_all(i->state, &ret->state_records, &st) != THOLE_OK) {
        inspect__find(each, ctx, true, "state",
                      "Start the host: it copies what can be read into a new database. Replicas "
                      "that lose data are named above.",
                      "the first damage in it: %s", st.message);
    }
}

static void verify_states(struct inspect *i, inspect_finding_fn each, void *ctx,
                          struct inspect_verified *ret)
{
    char *path = datadir_file(&i->dir, "state");
    if (state_inspect_is_marked(path)) {
        inspect__find(each, ctx, true, "state",
                      "Start the host: it copies what can be read into a new database.",
                      "the host has found it damaged, and not salvaged it yet");
    }
    free(path);
    if (inspect__state(i) == NULL && i->state_why.code != THOLE_NOT_FOUND) {
        inspect__find(each, ctx, true, "state",
                      advice_of(&i->state_why,
                                "Start the host: replicas whose log is not complete are rebuilt "
                                "from their peers."),
                      "it cannot be opened: %s", i->state_why.message);
        return;
    }
    if (i->state != NULL) {
        verify_replicas(i, each, ctx);
        verify_rest(i, each, ctx, ret);
    }
}

/* ---- Snapshots ------------------------------------------------------------------------------- */

static bool is_complete_name(const char *name)
{
    size_t n = strlen(name);
    return name[0] != '.' && !(n > 4 && strcmp(name + n - 4, ".tmp") == 0) &&
           !(n > 5 && strcmp(name + n - 5, ".part") == 0);
}

/* Of machines that are not persistent, and uploads. Unfinished files are deleted at start. */
static void verify_snapshots(struct inspect *i, const char *folder, const char *advice,
                             inspect_finding_fn each, void *ctx, struct inspect_verified *ret)
{
    struct engine_files *files = NULL;
    struct thole_status st;
    char *path = datadir_file(&i->dir, folder);
    DIR *dir = opendir(path);
    if (dir != NULL && engine_files_disk_new(path, &files, &st) == THOLE_OK) {
        for (struct dirent *e; (e = readdir(dir)) != NULL;) {
            struct engine_snapshot_seen seen;
            struct stat info;
            if (!is_complete_name(e->d_name) ||
                fstatat(dirfd(dir), e->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0 ||
                S_ISDIR(info.st_mode)) {
                continue;
            }
            ret->snapshots++;
            if (engine_snapshot_look(files, e->d_name, &seen, &st) != THOLE_OK) {
                char object[300];
                snprintf(object, sizeof object, "%s/%s", folder, e->d_name);
                inspect__find(each, ctx, true, object, advice, "%s", st.message);
            }
        }
        files->ops->free(files);
    }
    if (dir != NULL) {
        (void)closedir(dir);
    }
    free(path);
}

void inspect_verify(struct inspect *i, inspect_finding_fn each, void *ctx,
                    struct inspect_verified *ret)
{
    *ret = (struct inspect_verified){.log_records = i->log_records};
    verify_small_files(i, each, ctx);
    verify_states(i, each, ctx, ret);
    verify_snapshots(i, "snapshots",
                     "Start the host: an older snapshot or the log may do; else the replica fails, "
                     "and is rebuilt from its peers.",
                     each, ctx, ret);
    verify_snapshots(i, "restores", "Cancel that restore, and run it again from the file.", each,
                     ctx, ret);
}

/* ---- Circumstances --------------------------------------------------------------------------- */

static void look_at_modes(const struct inspect *i, inspect_finding_fn each, void *ctx)
{
    struct stat info;
    char example[256] = "";
    size_t count = 0;
    if (stat(i->dir.path, &info) == 0 && (info.st_mode & S_IWOTH) != 0) {
        inspect__find(each, ctx, true, "the directory", "Run `chmod go-rwx` on it.",
                      "every user can write to it, so that the host does not start");
    } else if (file_shared_bits(i->dir.path) != 0) {
        inspect__find(each, ctx, true, "the directory", "Run `chmod go-rwx` on it.",
                      "other users have access to it: whoever reads it has all data, and can "
                      "impersonate this host");
    }
    if (stat(i->dir.path, &info) == 0 && info.st_uid != geteuid()) {
        inspect__find(each, ctx, false, "the directory", "Run the daemon as the user who owns it.",
                      "it belongs to user %u, not to the user who runs this command",
                      (unsigned)info.st_uid);
    }
    DIR *dir = opendir(i->dir.path);
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        char *full = datadir_file(&i->dir, e->d_name);
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 &&
            file_shared_bits(full) != 0 && count++ == 0) {
            snprintf(example, sizeof example, "%s", e->d_name);
        }
        free(full);
    }
    if (dir != NULL) {
        (void)closedir(dir);
    }
    if (count > 0) {
        inspect__find(each, ctx, true, example, "Run `chmod -R go-rwx` on the directory.",
                      "other users have access to it%s", count > 1 ? ", and to other entries" : "");
    }
}

static void look_at_space(const struct inspect *i, inspect_finding_fn each, void *ctx)
{
    uint64_t free_bytes, total;
    struct thole_status st;
    if (file_space(i->dir.path, &free_bytes, &total, &st) != THOLE_OK) {
        inspect__find(each, ctx, true, "the disk", "Look at the mount and the kernel log.", "%s",
                      st.message);
    } else if (free_bytes < ENGINE_FREE_BYTES_MIN) {
        inspect__find(each, ctx, true, "the disk",
                      "Free space on it, or make it larger, before the host starts.",
                      "it is nearly full: %" PRIu64 " MiB are free, and below %d MiB the host "
                      "refuses proposals and leads nothing",
                      free_bytes / MIB, (int)(ENGINE_FREE_BYTES_MIN / MIB));
    }
}

static void look_at_entries(const struct inspect *i, inspect_finding_fn each, void *ctx)
{
    static const char kept[] = "state.damaged-";
    DIR *dir = opendir(i->dir.path);
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        if (strncmp(e->d_name, kept, sizeof kept - 1) == 0) {
            inspect__find(each, ctx, false, e->d_name,
                          "The host deletes it when its replicas are rebuilt.",
                          "a damaged state database, kept until then");
        } else if (strcmp(e->d_name, "force-zero") == 0) {
            inspect__find(each, ctx, false, "force-zero",
                          "Start this host first, then the others (docs/operations.md, Quorum "
                          "loss).",
                          "`thole repair zero` has marked it: its next start makes it the only "
                          "voter of shard zero");
        }
    }
    if (dir != NULL) {
        (void)closedir(dir);
    }
}

static void look_at_membership(const struct inspect *i, inspect_finding_fn each, void *ctx)
{
    uint64_t incarnation, admitted;
    struct thole_status st;
    const struct identity *id = inspect_identity(i);
    if (id != NULL && uuid_is_nil(&id->cluster)) {
        inspect__find(each, ctx, false, "identity", "Start it with --dev, --peers or --join.",
                      "host %s is not a member of a cluster yet", id->name);
        return;
    }
    if (datadir_look_at_starts(&i->dir, &incarnation, &admitted, &st) == THOLE_OK &&
        admitted < incarnation && incarnation > 1) {
        inspect__find(each, ctx, false, "incarnation",
                      "If the host starts and goes on, this is nothing. If it is refused, its log "
                      "lines say why: a copy of a directory, or one from a backup, must be wiped "
                      "and join as a new host.",
                      "the cluster is not known to have accepted its last %" PRIu64 " start(s)",
                      incarnation - admitted);
    }
}

static void look_at_replicas(const struct inspect *i, inspect_finding_fn each, void *ctx)
{
    size_t live = 0, tombstones = 0, unknown = 0;
    for (size_t k = 0; k < i->replica_count; k++) {
        const struct inspect_replica *r = &i->replicas[k];
        tombstones += r->removed;
        live += !r->removed;
        unknown += !r->removed && r->machine_type[0] == '\0';
    }
    if (unknown > 0) {
        inspect__find(each, ctx, true, "log", inspect__advice_replica,
                      "%zu replica(s) have an unreadable descriptor", unknown);
    }
    if (tombstones > 100 && tombstones > live) {
        inspect__find(each, ctx, false, "log",
                      "Let the host run: it drops them once shard zero has confirmed the removals.",
                      "%zu tombstones of removed replicas, beside %zu replicas", tombstones, live);
    }
}

void inspect_circumstances(struct inspect *i, inspect_finding_fn each, void *ctx)
{
    look_at_modes(i, each, ctx);
    look_at_space(i, each, ctx);
    look_at_entries(i, each, ctx);
    look_at_membership(i, each, ctx);
    look_at_replicas(i, each, ctx);
}
