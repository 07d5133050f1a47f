/* `thole restore`: a backup into a new cluster.
 *
 * 1. All files of the backup are read and checked, before anything is changed.
 * 2. The cluster must be empty, but for what an earlier run restored from the same backup.
 * 3. Roles; pools, whose shards are created awaiting their data; then every shard from its file,
 *    from several threads and through several hosts.
 *
 * Every step looks first at whether it was done, so a run that was stopped is repeated. Placement
 * adds the other replicas by itself. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/cli/cmd_backup.h"
#include "agent/cli/cmd_wait.h"
#include "agent/cli/snapshot_io.h"
#include "agent/repair/zero_file.h"
#include "base/clock.h"
#include "base/map.h"
#include "bus/bus.h"
#include "proto/decode.h"
#include "registry/registry.h"

#define TRIES 4
#define POLL_MS 100

struct item {
    upb_StringView name;
    const thole_v1_ShardSpec *spec;
    const thole_v1_BackupFile *file; /* NULL: none */
    bool in_pool;
    char *failure; /* malloced; NULL: none */
};

struct restore {
    struct cli *c;
    struct backup_dir dir;
    const thole_v1_Backup *backup;
    struct zero_file zero;
    struct map files; /* by shard id */
    struct item *items;
    size_t count;
    struct rows hosts; /* of the new cluster */
    size_t roles, pools;
    struct parallel parallel;
};

/* ---- The backup ------------------------------------------------------------------------------ */

/* Names every file that is damaged or missing. */
static enum thole_code check_files(struct restore *r, struct thole_status *st)
{
    size_t count = 0, bad = 0;
    const thole_v1_BackupFile *const *files = thole_v1_Backup_files(r->backup, &count);
    cli__note("checking %zu files of backup %" PRIu64, count, thole_v1_Backup_number(r->backup));
    for (size_t i = 0; i < count; i++) {
        if (backup_dir_check(&r->dir, files[i], thole_v1_Backup_cluster_id(r->backup), st) !=
            THOLE_OK) {
            (void)cli__say_failed("shards/%.*s: %s", CLI_SV(thole_v1_BackupFile_shard(files[i])),
                                  st->message);
            bad++;
        }
        uint64_t id = thole_v1_SnapshotPoint_shard_id(thole_v1_BackupFile_point(files[i]));
        (void)map_put(&r->files, id, (void *)(uintptr_t)files[i]);
    }
    if (bad > 0) {
        return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                          "%zu of %zu files of backup %" PRIu64
                          " are damaged or missing; --number restores another backup",
                          bad, count, thole_v1_Backup_number(r->backup));
    }
    return THOLE_OK;
}

static void list_items(struct restore *r)
{
    struct registry_shard_buf buf;
    struct slice name = {0};
    const thole_v1_Shard *row;
    size_t room = 0;
    while ((row = registry_next_shard(r->zero.view, name, &buf)) != NULL) {
        name = registry_str(thole_v1_Shard_name(row));
        uint64_t id = thole_v1_Shard_id(row);
        const thole_v1_ShardPool *pool =
            registry_pool_by_name(r->zero.view, registry_str(thole_v1_Shard_pool(row)));
        if (id == REGISTRY_SHARD_ID || thole_v1_Shard_deleting(row) ||
            (pool != NULL && thole_v1_ShardPool_deleting(pool))) {
            continue;
        }
        if (r->count == room) {
            room = 2 * room + 64;
            r->items = xrealloc(r->items, room * sizeof *r->items);
        }
        r->items[r->count++] = (struct item){.name = thole_v1_Shard_name(row),
                                             .spec = thole_v1_Shard_spec(row),
                                             .file = map_get(&r->files, id),
                                             .in_pool = pool != NULL};
    }
}

static enum thole_code read_backup(struct restore *r, struct thole_status *st)
{
    size_t count = 0;
    char *path = NULL;
    enum thole_code code = backup_dir_choose(&r->dir, r->c, &r->backup, st);
    if (code == THOLE_OK) {
        code = check_files(r, st);
    }
    if (code == THOLE_OK) {
        path = backup_dir_file(&r->dir, thole_v1_Backup_files(r->backup, &count)[0]);
        code = zero_file_open(path, &r->zero, st);
    }
    if (code == THOLE_OK) {
        code = zero_file_read(&r->zero, st);
    }
    if (code == THOLE_OK) {
        list_items(r);
    }
    free(path);
    return code;
}

/* ---- Is the cluster empty? ------------------------------------------------------------------- */

static const struct item *find_item(const struct restore *r, upb_StringView name)
{
    size_t low = 0, high = r->count; /* in order of names */
    while (low < high) {
        size_t middle = (low + high) / 2;
        upb_StringView at = r->items[middle].name;
        size_t n = at.size < name.size ? at.size : name.size;
        int order = memcmp(at.data, name.data, n);
        order = order != 0 ? order : (at.size > name.size) - (at.size < name.size);
        if (order == 0) {
            return &r->items[middle];
        }
        low = order < 0 ? middle + 1 : low;
        high = order < 0 ? high : middle;
    }
    return NULL;
}

/* Was this shard made from the file of the backup? */
static bool is_restored(const thole_v1_Shard *row, const struct item *i)
{
    const thole_v1_ShardSeed *seed = thole_v1_Shard_seed(row);
    return seed != NULL && i->file != NULL && !thole_v1_Shard_deleting(row) &&
           proto_equal(thole_v1_ShardSeed_source(seed), i->name) &&
           thole_v1_ShardSeed_index(seed) ==
               thole_v1_SnapshotPoint_index(thole_v1_BackupFile_point(i->file));
}

/* A shard that is being deleted may be a restore that is taken back. */
static bool may_exist(const struct restore *r, const thole_v1_Shard *row)
{
    const struct item *i = find_item(r, thole_v1_Shard_name(row));
    return thole_v1_Shard_id(row) == REGISTRY_SHARD_ID || thole_v1_Shard_deleting(row) ||
           (i != NULL && (thole_v1_Shard_awaits_restore(row) || is_restored(row, i) ||
                          (i->file == NULL && i->in_pool)));
}

static enum thole_code refuse_occupied(const char *kind, upb_StringView name,
                                       struct thole_status *st)
{
    return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_EXISTS,
                      "the cluster is not empty: %s/%.*s exists, and is not from this backup; "
                      "restore into a new cluster, or delete it",
                      kind, CLI_SV(name));
}

static enum thole_code check_shards(struct restore *r, struct thole_status *st)
{
    struct rows rows = {0};
    enum thole_code code = rows_list(r->c, &(struct rows_query){.kind = ROWS_SHARDS}, &rows, st);
    for (size_t n = 0; code == THOLE_OK && n < rows.count; n++) {
        const thole_v1_Shard *row = rows.items[n];
        if (!may_exist(r, row)) {
            code = refuse_occupied("shards", thole_v1_Shard_name(row), st);
        }
    }
    rows_deinit(&rows);
    return code;
}

static enum thole_code check_pools(struct restore *r, struct thole_status *st)
{
    struct rows rows = {0};
    enum thole_code code = rows_list(r->c, &(struct rows_query){.kind = ROWS_POOLS}, &rows, st);
    for (size_t n = 0; code == THOLE_OK && n < rows.count; n++) {
        const thole_v1_ShardPool *row = rows.items[n];
        const thole_v1_ShardPool *saved =
            registry_pool_by_name(r->zero.view, registry_str(thole_v1_ShardPool_name(row)));
        if (saved == NULL || thole_v1_ShardPoolSpec_count(rows_pool_spec(row)) !=
                                 thole_v1_ShardPoolSpec_count(rows_pool_spec(saved))) {
            code = refuse_occupied("pools", thole_v1_ShardPool_name(row), st);
        }
    }
    rows_deinit(&rows);
    return code;
}

/* ---- Roles and pools ------------------------------------------------------------------------- */

/* Roles of the new cluster stay as they are; a built-in one without members gets those of the
 * backup. */
static enum thole_code restore_role(struct restore *r, const thole_v1_Role *saved,
                                    struct thole_status *st)
{
    size_t has = 0, had = 0;
    struct cli *c = r->c;
    const thole_v1_Role *row = NULL, *reply = NULL;
    char *name =
        upb_strdup2(thole_v1_Role_name(saved).data, thole_v1_Role_name(saved).size, c->arena);
    enum thole_code code = rows_get_role(c, name, false, &row, st);
    (void)thole_v1_RoleSpec_members(rows_role_spec(saved), &had);
    if (code == THOLE_OK) {
        (void)thole_v1_RoleSpec_members(rows_role_spec(row), &has);
    }
    if ((code != THOLE_OK && code != THOLE_NOT_FOUND) ||
        (code == THOLE_OK && (!thole_v1_Role_builtin(row) || has > 0 || had == 0))) {
        return code;
    }
    thole_v1_UpdateRoleRequest *q = thole_v1_UpdateRoleRequest_new(c->arena);
    thole_v1_Role *role = thole_v1_UpdateRoleRequest_mutable_role(q, c->arena);
    thole_v1_Role_set_name(role, thole_v1_Role_name(saved));
    thole_v1_Role_set_spec(role, (thole_v1_RoleSpec *)(uintptr_t)rows_role_spec(saved));
    thole_v1_UpdateRoleRequest_set_allow_missing(q, true);
    thole_v1_UpdateRoleRequest_set_request_id(q, cli__request_id(c));
    r->roles++;
    return CLI_CALL(c, Roles, UpdateRole, q, &reply, Role, st);
}

static enum thole_code restore_roles(struct restore *r, struct thole_status *st)
{
    struct slice name = {0};
    const thole_v1_Role *saved;
    enum thole_code code = THOLE_OK;
    while (code == THOLE_OK && (saved = registry_next_role(r->zero.view, name)) != NULL) {
        name = registry_str(thole_v1_Role_name(saved));
        code = restore_role(r, saved, st);
    }
    return code;
}

/* Until all its shards exist, and await their data. */
static enum thole_code await_pool(struct restore *r, const char *name, struct thole_status *st)
{
    uint64_t begin = clock_now(&clock_system), limit_ms = wait_timeout_ms(r->c);
    for (;;) {
        const thole_v1_ShardPool *row = NULL;
        if (rows_get_pool(r->c, name, false, &row, st) != THOLE_OK) {
            return st->code;
        }
        if (thole_v1_ShardPoolStatus_observed_generation(rows_pool_status(row)) ==
            thole_v1_ShardPool_generation(row)) {
            return THOLE_OK;
        }
        if (limit_ms > 0 && (clock_now(&clock_system) - begin) / NS_PER_MS > limit_ms) {
            return THOLE_FAIL(st, THOLE_DEADLINE_EXCEEDED, THOLE_REASON_NONE,
                              "the shards of pools/%s are not all created; --timeout gives more "
                              "time",
                              name);
        }
        cli__pause_ms(POLL_MS);
    }
}

static enum thole_code restore_pool(struct restore *r, const thole_v1_ShardPool *saved,
                                    struct thole_status *st)
{
    struct cli *c = r->c;
    const thole_v1_ShardPool *row = NULL;
    upb_StringView name = thole_v1_ShardPool_name(saved);
    char *text = upb_strdup2(name.data, name.size, c->arena);
    enum thole_code code = rows_get_pool(c, text, false, &row, st);
    if (code == THOLE_NOT_FOUND) {
        thole_v1_CreatePoolRequest *q = thole_v1_CreatePoolRequest_new(c->arena);
        thole_v1_ShardPool *pool = thole_v1_CreatePoolRequest_mutable_pool(q, c->arena);
        thole_v1_ShardPool_set_name(pool, name);
        thole_v1_ShardPool_set_spec(pool,
                                    (thole_v1_ShardPoolSpec *)(uintptr_t)rows_pool_spec(saved));
        thole_v1_CreatePoolRequest_set_awaits_restore(q, true);
        thole_v1_CreatePoolRequest_set_request_id(q, cli__request_id(c));
        code = CLI_CALL(c, Pools, CreatePool, q, &row, ShardPool, st);
        r->pools++;
    }
    return code == THOLE_OK ? await_pool(r, text, st) : code;
}

static enum thole_code restore_pools(struct restore *r, struct thole_status *st)
{
    struct slice name = {0};
    const thole_v1_ShardPool *saved;
    enum thole_code code = THOLE_OK;
    while (code == THOLE_OK && (saved = registry_next_pool(r->zero.view, name)) != NULL) {
        name = registry_str(thole_v1_ShardPool_name(saved));
        if (!thole_v1_ShardPool_deleting(saved)) {
            code = restore_pool(r, saved, st);
        }
    }
    return code;
}

/* ---- One shard ------------------------------------------------------------------------------- */

/* Its group serves with the data of the file. */
static bool serves(const thole_v1_Shard *row)
{
    return thole_v1_ShardStatus_formed(rows_shard_status(row)) &&
           !thole_v1_Shard_awaits_restore(row);
}

/* Until the shard serves, or the restore is taken back: ABORTED. */
static enum thole_code await_shard(struct restore *r, struct cli *mine, const struct item *i,
                                   const char *name, struct thole_status *st)
{
    uint64_t begin = clock_now(&clock_system), limit_ms = wait_timeout_ms(r->c);
    for (;;) {
        const thole_v1_Shard *row = NULL;
        enum thole_code code = rows_get_shard(mine, name, false, &row, st);
        if (code == THOLE_OK && is_restored(row, i) && serves(row)) {
            return THOLE_OK;
        }
        if (code == THOLE_NOT_FOUND || (code == THOLE_OK && !is_restored(row, i))) {
            return THOLE_FAIL(st, THOLE_ABORTED, THOLE_REASON_NONE,
                              "the first replica did not start: see `thole get operations`");
        }
        if (code != THOLE_OK) {
            return code;
        }
        if (limit_ms > 0 && (clock_now(&clock_system) - begin) / NS_PER_MS > limit_ms) {
            return THOLE_FAIL(st, THOLE_DEADLINE_EXCEEDED, THOLE_REASON_NONE,
                              "it does not serve yet; it goes on; --timeout gives more time");
        }
        cli__pause_ms(POLL_MS);
    }
}

/* Sends the file to the host of `mine`, and makes the shard of it. */
static enum thole_code send(struct restore *r, struct cli *mine, const struct item *i, bool exists,
                            struct thole_status *st)
{
    char upload[UUID_TEXT_BYTES];
    const thole_v1_Operation *reply = NULL;
    struct transfer t = {.p = &r->parallel};
    char *path = backup_dir_file(&r->dir, i->file);
    enum thole_code code = snapshot_upload(mine, path, transfer_progress, &t, upload, st);
    free(path);
    if (code != THOLE_OK) {
        return code;
    }
    thole_v1_RestoreSnapshotRequest *q = thole_v1_RestoreSnapshotRequest_new(mine->arena);
    thole_v1_RestoreSnapshotRequest_set_upload(q, cli__sv(upload));
    thole_v1_RestoreSnapshotRequest_set_name(q, i->name);
    thole_v1_RestoreSnapshotRequest_set_request_id(q, cli__request_id(mine));
    if (!exists) { /* else it has its spec */
        thole_v1_RestoreSnapshotRequest_set_spec(q, (thole_v1_ShardSpec *)(uintptr_t)i->spec);
    }
    return CLI_CALL(mine, Snapshots, RestoreSnapshot, q, &reply, Operation, st);
}

/* Through the n-th live host, so that the first replicas are spread; or, every second try, through
 * --endpoints, in case that address cannot be reached from here. */
static enum thole_code send_through(struct restore *r, struct cli *mine, const struct item *i,
                                    size_t n, bool exists, struct thole_status *st)
{
    struct cli other = *mine;
    other.channel = NULL;
    const thole_v1_Host *host = r->hosts.items[(n + n / r->hosts.count) % r->hosts.count];
    const thole_v1_HostStatus *status = thole_v1_Host_status(host);
    upb_StringView address = thole_v1_HostStatus_address(status);
    char *text = upb_strdup2(address.data, address.size, mine->arena);
    enum thole_code code = cli__open_channel(&other, text, &other.channel, st);
    if (code == THOLE_OK) {
        code = send(r, &other, i, exists, st);
    }
    bus_channel_free(other.channel);
    return code;
}

static enum thole_code try_once(struct restore *r, struct cli *mine, const struct item *i, size_t n,
                                const char *name, struct thole_status *st)
{
    const thole_v1_Shard *row = NULL;
    enum thole_code code = rows_get_shard(mine, name, false, &row, st);
    bool exists = code == THOLE_OK;
    if (code != THOLE_OK && code != THOLE_NOT_FOUND) {
        return code;
    }
    if (exists && is_restored(row, i)) {
        if (serves(row)) {
            parallel_skipped(&r->parallel);
        }
    } else {
        code = n % 2 == 0 && r->hosts.count > 0 ? send_through(r, mine, i, n / 2, exists, st)
                                                : send(r, mine, i, exists, st);
        if (code != THOLE_OK) {
            return code;
        }
    }
    return await_shard(r, mine, i, name, st);
}

/* Parallel: failures are the shard's. */
static enum thole_code restore_one(void *ctx, struct cli *mine, size_t item,
                                   struct thole_status *st)
{
    struct restore *r = ctx;
    struct item *i = &r->items[item];
    if (i->file == NULL) {
        return THOLE_OK;
    }
    char *name = upb_strdup2(i->name.data, i->name.size, mine->arena);
    enum thole_code code = cli__connect(mine, st);
    for (size_t n = 0; code == THOLE_OK && n < TRIES; n++) {
        code = try_once(r, mine, i, 2 * item + n, name, st);
        if (code == THOLE_OK || code == THOLE_DEADLINE_EXCEEDED ||
            code == THOLE_PERMISSION_DENIED || n + 1 == TRIES) {
            break;
        }
        cli__pause_ms(1000);
        code = THOLE_OK;
    }
    if (code != THOLE_OK) {
        i->failure = xstrdup(st->message);
    }
    return THOLE_OK;
}

/* ---- Command --------------------------------------------------------------------------------- */

static enum thole_code list_hosts(struct restore *r, struct thole_status *st)
{
    size_t live = 0;
    enum thole_code code = rows_list(r->c, &(struct rows_query){.kind = ROWS_HOSTS}, &r->hosts, st);
    for (size_t n = 0; code == THOLE_OK && n < r->hosts.count; n++) {
        const thole_v1_Host *host = r->hosts.items[n];
        const thole_v1_HostStatus *status = thole_v1_Host_status(host);
        if (status != NULL && thole_v1_HostStatus_liveness(status) == thole_v1_HOST_LIVENESS_LIVE &&
            thole_v1_HostSpec_state(rows_host_spec(host)) == thole_v1_HOST_STATE_ACTIVE) {
            r->hosts.items[live++] = host;
        }
    }
    r->hosts.count = live;
    return code;
}

static enum thole_code run(struct restore *r, struct thole_status *st)
{
    enum thole_code code = read_backup(r, st);
    if (code == THOLE_OK) {
        code = cli__connect(r->c, st);
    }
    if (code == THOLE_OK) {
        code = check_shards(r, st);
    }
    if (code == THOLE_OK) {
        code = check_pools(r, st);
    }
    if (code != THOLE_OK || cli_flag(r->c, OPT_DRY_RUN)) {
        return code;
    }
    code = list_hosts(r, st);
    if (code == THOLE_OK) {
        code = restore_roles(r, st);
    }
    if (code == THOLE_OK) {
        code = restore_pools(r, st);
    }
    if (code == THOLE_OK) {
        r->parallel.count = r->count;
        code = parallel_run(&r->parallel, st);
    }
    return code;
}

static const char *why_missing(const struct restore *r, const struct item *i)
{
    size_t count = 0;
    const thole_v1_BackupGap *const *gaps = thole_v1_Backup_gaps(r->backup, &count);
    if (i->failure != NULL) {
        return i->failure;
    }
    for (size_t n = 0; i->file == NULL && n < count; n++) {
        if (proto_equal(thole_v1_BackupGap_shard(gaps[n]), i->name)) {
            return "the backup has nothing of it";
        }
    }
    if (i->file == NULL && i->in_pool) {
        return "it was created again while the backup ran, which has nothing of it";
    }
    return NULL;
}

static int say_result(struct restore *r)
{
    char bytes[16];
    size_t missing = 0, restored = 0;
    for (size_t n = 0; n < r->count; n++) {
        const char *why = why_missing(r, &r->items[n]);
        missing += why != NULL;
        restored += why == NULL && r->items[n].file != NULL;
        if (why != NULL) {
            (void)cli__say_failed("shards/%.*s was not restored: %s%s", CLI_SV(r->items[n].name),
                                  why,
                                  r->items[n].file == NULL && r->items[n].in_pool
                                      ? "; `thole delete shard` lets it begin empty"
                                      : "");
        }
    }
    cli__line("%s: backup %" PRIu64 " restored: %zu roles and %zu pools created, %zu of %zu shards "
              "serve (%s sent, %zu were there)",
              r->dir.path, thole_v1_Backup_number(r->backup), r->roles, r->pools, restored,
              r->count, cli__bytes(r->parallel.bytes, bytes, sizeof bytes), r->parallel.skipped);
    int flushed = cli__flush();
    return missing > 0 ? CLI_PARTIAL : flushed;
}

static void restore_deinit(struct restore *r)
{
    for (size_t n = 0; n < r->count; n++) {
        free(r->items[n].failure);
    }
    free(r->items);
    map_deinit(&r->files);
    rows_deinit(&r->hosts);
    zero_file_close(&r->zero);
    backup_dir_close(&r->dir);
}

int cli__command_restore(struct cli *c)
{
    struct thole_status st;
    struct restore r = {.c = c};
    if (backup_dir_open(c->args[0], BACKUP_DIR_READ, &r.dir, &st) != THOLE_OK) {
        return cli__say_status("cannot read the backups", &st);
    }
    parallel_init(&r.parallel, c, "restored", &r, restore_one);
    int result = CLI_OK;
    if (run(&r, &st) != THOLE_OK) {
        result = cli__say_status(r.parallel.count == 0 && r.pools + r.roles == 0
                                     ? "nothing was restored"
                                     : "the restore stopped; run it again to go on",
                                 &st);
    } else if (cli_flag(c, OPT_DRY_RUN)) {
        cli__line("%s: backup %" PRIu64 " is whole, and the cluster is empty or has parts of it: "
                  "%zu shards can be restored",
                  r.dir.path, thole_v1_Backup_number(r.backup), r.count);
        result = cli__flush();
    } else {
        result = say_result(&r);
    }
    parallel_deinit(&r.parallel);
    restore_deinit(&r);
    return result;
}
