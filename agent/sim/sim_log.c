/* The log of a simulated host. It outlives the host's lives. A write is durable, unless a crash or
 * an error interrupts it: then a prefix of its updates remains. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/sim/world.h"
#include "base/assert.h"
#include "base/buf.h"

struct sim_log {
    struct log_store base; /* must be the first member */
    struct world_host *host;
    struct log_store *memory;
    bool crash, fail, failed;
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
    return s->memory->ops->next(s->memory, it);
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

/* ---- Replacements for the stores, at link time ----------------------------------------------- */

enum thole_code __wrap_log_store_open(const struct log_store_options *o, struct log_store **ret,
                                      struct thole_status *st);
enum thole_code __wrap_log_store_open(const struct log_store_options *o, struct log_store **ret,
                                      struct thole_status *st)
{
    (void)st;
    ASSERT(life__now != NULL);
    struct sim_log *s = life__now->host->log;
    ASSERT(strncmp(o->path, life__now->host->dir, strlen(life__now->host->dir)) == 0);
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
