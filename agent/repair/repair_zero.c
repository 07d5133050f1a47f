/* Offline repair of shard zero. See repair_zero.h. */
#include "agent/repair/repair_zero.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/core/textfile.h"
#include "base/file.h"
#include "shards/store/store.h"

#define MARK_FILE "force-zero"
#define MARK_FORMAT 1

/* ---- Reading a directory --------------------------------------------------------------------- */

/* The newest configuration in the log. */
static enum thole_code read_config(struct log_store *log, const struct store_replica *s,
                                   struct raft_config *ret, struct thole_status *st)
{
    struct raft_entry **entries = NULL;
    size_t n = 0;
    enum thole_code code = THOLE_OK;
    if (s->start_config.size > 0) {
        code = raft_config_decode(s->start_config, ret, st);
    }
    if (code == THOLE_OK) {
        code = log->ops->config_entries(log, s->replica_id, &entries, &n, st);
    }
    for (size_t i = 0; i < n; i++) {
        struct raft_change change;
        struct raft_config next = {0};
        struct thole_status refused; /* a stale change has no effect when it is applied */
        if (code == THOLE_OK) {
            code = raft_change_decode(entries[i]->payload.bytes, &change, st);
        }
        if (code == THOLE_OK && raft_change_apply(ret, &change, &next, &refused) == THOLE_OK) {
            raft_config_deinit(ret);
            *ret = next;
        }
        raft_entry_unref(entries[i]);
    }
    free(entries);
    return code;
}

static enum thole_code read_replica(struct log_store *log, struct repair_replica *ret,
                                    struct thole_status *st)
{
    const struct store_replica *s;
    for (size_t it = 0; (s = log->ops->next(log, &it)) != NULL;) {
        if (s->shard_id != REGISTRY_SHARD_ID || s->removed) {
            continue;
        }
        ret->replica_id = s->replica_id;
        ret->answered = true;
        if (s->hard.term == UINT64_MAX) {
            snprintf(ret->problem, sizeof ret->problem, "its log records are damaged");
            return THOLE_OK;
        }
        ret->last_index = s->last_index;
        ret->last_term = s->run_count > 0 ? s->runs[s->run_count - 1].term : s->start_term;
        ret->applied = s->hard.commit;
        enum thole_code code = read_config(log, s, &ret->config, st);
        ret->epoch = ret->config.epoch;
        return code;
    }
    snprintf(ret->problem, sizeof ret->problem, "its log has no replica of shard zero");
    return THOLE_OK;
}

static enum thole_code read_dir(const char *path, struct datadir *dir, struct uuid *cluster,
                                struct repair_replica *ret, struct thole_status *st)
{
    struct identity *i = xcalloc(1, sizeof *i);
    char *identity = xasprintf("%s/identity", path);
    enum thole_code code = THOLE_OK;
    if (access(identity, F_OK) != 0) { /* datadir_open would create it */
        code = THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_FORMAT,
                          "%s is not a data directory of a host", path);
    }
    if (code == THOLE_OK) {
        code = datadir_open(path, NULL, dir, i, st);
    }
    if (code == THOLE_OK && !uuid_is_nil(cluster) && !uuid_equal(cluster, &i->cluster)) {
        code = THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_WRONG_CLUSTER,
                          "%s belongs to another cluster than the first directory", path);
    }
    if (code == THOLE_OK) {
        char *log_path = datadir_file(dir, "log");
        const struct log_store_options o = {.path = log_path};
        struct log_store *log = NULL;
        *cluster = i->cluster;
        ret->host_id = i->host;
        ret->replica_id = i->zero_replica;
        snprintf(ret->host, sizeof ret->host, "%s", i->name);
        code = log_store_open(&o, &log, st);
        if (code == THOLE_OK) {
            code = read_replica(log, ret, st);
            log->ops->close(log);
        }
        free(log_path);
    }
    free(identity);
    free(i);
    return code;
}

/* Add the members of the chosen replica's configuration whose directories were not given. */
static void add_absent(struct repair_plan *p)
{
    const struct raft_config *c = &p->replicas[p->chosen].config;
    size_t given = p->count;
    for (uint32_t i = 0; i < c->member_count && p->count < LIMIT_MEMBERS; i++) {
        bool here = false;
        for (size_t k = 0; k < given; k++) {
            here = here || p->replicas[k].replica_id == c->members[i].replica_id;
        }
        if (here) {
            continue;
        }
        struct repair_replica *r = &p->replicas[p->count++];
        char id[UUID_TEXT_BYTES];
        r->replica_id = c->members[i].replica_id;
        memcpy(r->host_id.bytes, c->members[i].host, sizeof r->host_id.bytes);
        uuid_format(&r->host_id, id);
        snprintf(r->host, sizeof r->host, "%s", id);
        snprintf(r->problem, sizeof r->problem, "its data directory was not given");
    }
}

enum thole_code repair_zero_open(const char *const *paths, size_t n, struct repair_zero *ret,
                                 struct thole_status *st)
{
    struct uuid cluster = {{0}};
    enum thole_code code = THOLE_OK;
    memset(ret, 0, sizeof *ret);
    if (n == 0 || n > REPAIR_ZERO_DIRS_MAX) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "1 to %d data directories are required", REPAIR_ZERO_DIRS_MAX);
    }
    snprintf(ret->plan.shard, sizeof ret->plan.shard, "zero");
    for (size_t i = 0; i < n; i++) {
        ret->dirs[i].lock_fd = -1;
    }
    for (size_t i = 0; code == THOLE_OK && i < n; i++) {
        ret->dir_count = ret->plan.count = i + 1;
        code = read_dir(paths[i], &ret->dirs[i], &cluster, &ret->plan.replicas[i], st);
    }
    if (code == THOLE_OK) {
        repair_decide(&ret->plan);
        if (ret->plan.chosen < ret->plan.count) {
            add_absent(&ret->plan);
        }
        repair_decide(&ret->plan);
    } else {
        repair_zero_close(ret);
    }
    return code;
}

void repair_zero_close(struct repair_zero *z)
{
    for (size_t i = 0; i < z->dir_count; i++) {
        datadir_close(&z->dirs[i]);
    }
    for (size_t i = 0; i < z->plan.count; i++) {
        raft_config_deinit(&z->plan.replicas[i].config);
    }
    z->dir_count = z->plan.count = 0;
}

/* ---- The mark -------------------------------------------------------------------------------- */

enum thole_code repair_zero_mark(struct repair_zero *z, struct thole_status *st)
{
    const struct repair_plan *p = &z->plan;
    if (!p->possible) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_UNSATISFIABLE, "%s",
                          p->refused);
    }
    struct bytes out = {0};
    char *path = datadir_file(&z->dirs[p->chosen], MARK_FILE);
    bytes_printf(&out, "replica %" PRIu64 "\nepoch %" PRIu64 "\n",
                 p->replicas[p->chosen].replica_id, p->epoch);
    enum thole_code code = textfile_write(path, "thole-force-zero", MARK_FORMAT, &out, st);
    free(path);
    return code;
}

static bool mark_line(void *ctx, const char *key, char *value)
{
    uint64_t *epoch = ctx, replica;
    if (strcmp(key, "epoch") == 0) {
        return sscanf(value, "%" SCNu64, epoch) == 1 && *epoch > 0;
    }
    return strcmp(key, "replica") == 0 && sscanf(value, "%" SCNu64, &replica) == 1;
}

enum thole_code repair_zero_marked(struct datadir *d, uint64_t *ret_epoch, struct thole_status *st)
{
    char *path = datadir_file(d, MARK_FILE);
    *ret_epoch = 0;
    enum thole_code code = THOLE_OK;
    if (access(path, F_OK) == 0) {
        code = textfile_read(path, "thole-force-zero", MARK_FORMAT, mark_line, ret_epoch, st);
    }
    free(path);
    return code;
}

enum thole_code repair_zero_unmark(struct datadir *d, struct thole_status *st)
{
    char *path = datadir_file(d, MARK_FILE);
    enum thole_code code = THOLE_OK;
    if (unlink(path) != 0 && errno != ENOENT) {
        code = THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_DISK, "cannot remove %s: %s", path,
                          strerror(errno));
    }
    if (code == THOLE_OK) {
        code = file_sync_dir(d->path, st);
    }
    free(path);
    return code;
}
