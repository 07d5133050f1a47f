/* The log store of a host. A completed write is durable, as the interface promises. A crash or an
 * error in the middle of a write leaves a prefix of its updates, each whole or absent: a torn last
 * record fails its checksum and is dropped at recovery. The time that a write takes is the writer's
 * delay (executor.c). */
#include <stdlib.h>

#include "shards/sim/sim_internal.h"

struct disk {
    struct log_store base;
    struct sim_host *h;
    struct log_store *synced;
    struct map flipped; /* replica id -> anything: damaged records */
    struct store_replica report;
};

static struct disk *disk_of(struct log_store *s)
{
    return CONTAINER_OF(s, struct disk, base);
}

static enum thole_code write_prefix(struct disk *d, const struct store_update *updates, size_t n,
                                    struct thole_status *st)
{
    enum thole_code code = d->synced->ops->write(d->synced, updates, n, st);
    for (size_t i = 0; i < n && code == THOLE_OK; i++) {
        sim__shadow_write(d->h->s, d->h, &updates[i]);
        if (updates[i].remove || updates[i].forget) {
            (void)map_remove(&d->flipped, updates[i].replica_id);
        }
    }
    return code;
}

static enum thole_code disk_write(struct log_store *base, const struct store_update *updates,
                                  size_t n, struct thole_status *st)
{
    struct disk *d = disk_of(base);
    struct sim_host *h = d->h;
    struct sim *s = h->s;
    s->report->writes++;
    sim__mix(s, (uint64_t)h->id, n);
    SIM_TRACE(s, "host %d: writes %zu updates", h->id, n);
    if (!h->crash_in_write && !h->fail_write) {
        enum thole_code code = write_prefix(d, updates, n, st);
        if (code != THOLE_OK) {
            sim__fail(s, "host %d: the log refused a write: %s", h->id, st->message);
        }
        return code;
    }
    struct rand *r = &s->rand[h->crash_in_write ? SIM_CRASH_WRITE : SIM_EIO];
    size_t kept = rand_below(r, n + 1);
    struct thole_status ignored;
    if (kept > 0) {
        (void)write_prefix(d, updates, kept, &ignored);
    }
    SIM_TRACE(s, "host %d: %s in a write, %zu of %zu updates stay", h->id,
              h->crash_in_write ? "crashes" : "fails", kept, n);
    if (h->crash_in_write) {
        h->ending = true;
        engine__crash(h->engine);
    }
    return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_DISK, "injected: input/output error");
}

static enum thole_code disk_read(struct log_store *base, uint64_t replica_id, uint64_t first,
                                 uint64_t last, size_t max_bytes, size_t max_entries,
                                 struct raft_entry **ret, size_t *ret_count,
                                 struct thole_status *st)
{
    struct disk *d = disk_of(base);
    if (map_get(&d->flipped, replica_id) != NULL) {
        return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "injected: a flipped bit");
    }
    return d->synced->ops->read(d->synced, replica_id, first, last, max_bytes, max_entries, ret,
                                ret_count, st);
}

static const struct store_replica *disk_next(struct log_store *base, size_t *it)
{
    struct disk *d = disk_of(base);
    const struct store_replica *r = d->synced->ops->next(d->synced, it);
    if (r == NULL || r->removed || map_get(&d->flipped, r->replica_id) == NULL) {
        return r;
    }
    d->report = *r;
    d->report.hard.term = UINT64_MAX;
    return &d->report;
}

static enum thole_code disk_config_entries(struct log_store *base, uint64_t replica_id,
                                           struct raft_entry ***ret, size_t *ret_count,
                                           struct thole_status *st)
{
    struct log_store *to = disk_of(base)->synced;
    return to->ops->config_entries(to, replica_id, ret, ret_count, st);
}

static const struct log_store_ops disk_ops = {
    .write = disk_write,
    .read = disk_read,
    .next = disk_next,
    .config_entries = disk_config_entries,
};

struct log_store *sim__disk_new(struct sim_host *h)
{
    struct disk *d = xcalloc(1, sizeof *d);
    d->base.ops = &disk_ops;
    d->h = h;
    d->synced = log_store_memory_new();
    return &d->base;
}

void sim__disk_free(struct log_store *base)
{
    struct disk *d = disk_of(base);
    d->synced->ops->close(d->synced);
    map_deinit(&d->flipped);
    free(d);
}

void sim__disk_flip(struct log_store *base, uint64_t replica_id)
{
    (void)map_put(&disk_of(base)->flipped, replica_id, base);
}
