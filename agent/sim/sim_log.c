/* The log of a simulated host. It outlives the host's lives. A write is durable, unless a crash or
 * an error interrupts it: then a prefix of its updates remains. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/sim/world.h"
#include "base/assert.h"
#include "base/buf.h"

#define CLONE_ENTRIES 4096 /* read at a time */

struct sim_log {
    struct log_store base; /* must be the first member */
    struct world_host *host;
    struct log_store *memory;
    bool crash, fail, failed;
    uint64_t damaged; /* this replica's records are damaged; 0: none */
    struct store_replica report;
};

static struct sim_log *log_of(struct log_store *base)
{
    return (struct sim_log *)base;
}

static void close_log(struct log_store *base)
{
    log_of(base)->failed = false;
}

static enum thole_code write_log(struct log_store *base, const struct store_update *updates,
                                 size_t n, struct thole_status *st)
{
    struct sim_log *s = log_of(base);
    bool crash = s->crash;
    if (!crash && !s->fail && !s->failed) {
        return s->memory->ops->write(s->memory, updates, n, st);
    }
    size_t kept = s->failed ? 0 : rand_below(world__rand(), n + 1);
    if (kept > 0) {
        enum thole_code code = s->memory->ops->write(s->memory, updates, kept, st);
        ASSERT(code == THOLE_OK);
    }
    s->crash = s->fail = false;
    s->failed = true;
    if (crash) {
        host__crash(s->host, rand_chance(world__rand(), 0.5));
    }
    return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_DISK, "the disk failed");
}

static enum thole_code read_log(struct log_store *base, uint64_t replica_id, uint64_t first,
                                uint64_t last, size_t max_bytes, size_t max_entries,
                                struct raft_entry **ret, size_t *ret_count, struct thole_status *st)
{
    struct sim_log *s = log_of(base);
    return s->memory->ops->read(s->memory, replica_id, first, last, max_bytes, max_entries, ret,
                                ret_count, st);
}

static const struct store_replica *next_replica(struct log_store *base, size_t *it)
{
    struct sim_log *s = log_of(base);
    const struct store_replica *r = s->memory->ops->next(s->memory, it);
    if (r == NULL || r->removed || r->replica_id != s->damaged) {
        return r;
    }
    s->report = *r;
    s->report.hard.term = UINT64_MAX;
    return &s->report;
}

static enum thole_code config_entries(struct log_store *base, uint64_t replica_id,
                                      struct raft_entry ***ret, size_t *ret_count,
                                      struct thole_status *st)
{
    struct sim_log *s = log_of(base);
    return s->memory->ops->config_entries(s->memory, replica_id, ret, ret_count, st);
}

static enum thole_code put_host(struct log_store *base, const char *key, struct slice value,
                                struct thole_status *st)
{
    struct sim_log *s = log_of(base);
    return s->memory->ops->put_host(s->memory, key, value, st);
}

static enum thole_code get_host(struct log_store *base, const char *key, struct buf **ret,
                                struct thole_status *st)
{
    struct sim_log *s = log_of(base);
    return s->memory->ops->get_host(s->memory, key, ret, st);
}

static const struct log_store_ops ops = {
    .close = close_log,
    .write = write_log,
    .read = read_log,
    .next = next_replica,
    .config_entries = config_entries,
    .put_host = put_host,
    .get_host = get_host,
};

struct sim_log *sim_log__new(struct world_host *host)
{
    struct sim_log *s = xcalloc(1, sizeof *s);
    s->base.ops = &ops;
    s->host = host;
    s->memory = log_store_memory_new();
    return s;
}

void sim_log__crash_in_write(struct sim_log *log)
{
    log->crash = true;
}

void sim_log__fail_write(struct sim_log *log)
{
    log->fail = true;
}

/* ---- Copies and damage ----------------------------------------------------------------------- */

static void clone_write(struct log_store *to, const struct store_update *u)
{
    struct thole_status st = {0};
    enum thole_code code = to->ops->write(to, u, 1, &st);
    ASSERT(code == THOLE_OK);
}

static void clone_entries(struct log_store *from, struct log_store *to,
                          const struct store_replica *r)
{
    struct raft_entry **entries = xcalloc(CLONE_ENTRIES, sizeof(struct raft_entry *));
    struct thole_status st = {0};
    for (uint64_t next = r->start_index + 1; next <= r->last_index;) {
        size_t n = 0;
        enum thole_code code = from->ops->read(from, r->replica_id, next, r->last_index, SIZE_MAX,
                                               CLONE_ENTRIES, entries, &n, &st);
        ASSERT(code == THOLE_OK && n > 0);
        const struct store_update u = {
            .replica_id = r->replica_id, .entries = entries, .entry_count = n};
        clone_write(to, &u);
        for (size_t i = 0; i < n; i++) {
            raft_entry_unref(entries[i]);
        }
        next += n;
    }
    free(entries);
}

static void clone_replica(struct log_store *from, struct log_store *to,
                          const struct store_replica *r)
{
    const struct store_identity create = {
        .replica_id = r->replica_id, .shard_id = r->shard_id, .descriptor = r->descriptor};
    const struct store_update begin = {.replica_id = r->replica_id,
                                       .create = &create,
                                       .has_hard = !r->removed,
                                       .hard = r->hard,
                                       .has_start = !r->removed,
                                       .start_reset = !r->removed,
                                       .start_index = r->start_index,
                                       .start_term = r->start_term,
                                       .start_config = r->start_config,
                                       .machine_generation = r->machine_generation};
    clone_write(to, &begin);
    if (r->removed) {
        clone_write(to, &(struct store_update){.replica_id = r->replica_id, .remove = true});
    } else {
        clone_entries(from, to, r);
    }
}

struct log_store *sim_log__copy_of(struct log_store *memory)
{
    struct log_store *copy = log_store_memory_new();
    const struct store_replica *r;
    for (size_t it = 0; memory != NULL && (r = memory->ops->next(memory, &it)) != NULL;) {
        const struct store_replica one = *r;
        clone_replica(memory, copy, &one);
    }
    return copy;
}

struct log_store *sim_log__copy(const struct sim_log *log)
{
    return sim_log__copy_of(log != NULL ? log->memory : NULL);
}

void sim_log__replace(struct sim_log *log, struct log_store *memory)
{
    log->memory = memory; /* the old one is not freed: code of ended lives may refer to it */
    log->damaged = 0;
}

uint64_t sim_log__damage(struct sim_log *log, uint64_t shard_id)
{
    const struct store_replica *r;
    for (size_t it = 0; (r = log->memory->ops->next(log->memory, &it)) != NULL;) {
        if (!r->removed && r->shard_id == shard_id) {
            log->damaged = r->replica_id;
            return r->replica_id;
        }
    }
    return 0;
}

/* ---- Replacements for the stores, at link time ----------------------------------------------- */

enum thole_code __wrap_log_store_open(const struct log_store_options *o, struct log_store **ret,
                                      struct thole_status *st);
enum thole_code __wrap_log_store_open(const struct log_store_options *o, struct log_store **ret,
                                      struct thole_status *st)
{
    (void)st;
    struct sim_log *s = NULL;
    for (int n = 0; n < WORLD_MACHINES_MAX; n++) {
        const struct world_host *h = world__host(n);
        size_t size = strlen(h->dir);
        if (size > 0 && strncmp(o->path, h->dir, size) == 0 && o->path[size] == '/') {
            s = h->log;
        }
    }
    ASSERT(s != NULL && (life__now == NULL || life__now->host->log == s));
    s->failed = s->crash = s->fail = false;
    *ret = &s->base;
    return THOLE_OK;
}

/* Hosts have no state database: their machines keep their state in memory and snapshots. */
enum thole_code __wrap_state_db_open(const struct state_db_options *o, struct state_db **ret,
                                     struct thole_status *st);
enum thole_code __wrap_state_db_open(const struct state_db_options *o, struct state_db **ret,
                                     struct thole_status *st)
{
    (void)o;
    (void)st;
    *ret = NULL;
    return THOLE_OK;
}
