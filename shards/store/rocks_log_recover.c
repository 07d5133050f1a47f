/* The scan at open: every record is read and its checksum verified; what it says becomes the
 * in-memory state of each replica.
 *
 * Damage. A record that fails its checksum, a gap between runs, terms that fall, or a file block
 * that RocksDB rejects: the replicas that have a part in it are reported, the others run. The scan
 * reads one replica's key range at a time, so a bad block stops the scan of that replica; the next
 * one is then looked for by an iterator that does not verify blocks. What that finds must be a
 * verified identity record: otherwise we could not say who is hurt, and the store stays shut. So
 * it does if the block holds the format or a host record.
 *
 * Runs without an identity are what is left of replicas that were removed and forgotten. */
#include <inttypes.h>

#include "base/log.h"
#include "shards/store/rocks.h"
#include "shards/store/rocks_log.h"

#define SCAN_READAHEAD_BYTES ((size_t)1 * MIB)

struct scan {
    struct rocks_log *s;
    rocksdb_iterator_t *it;
    struct log_replica *r; /* the replica being read */
    const char *why;       /* it is damaged */
};

static void newest_hard(struct log_replica *r, const struct store_hard *h)
{
    if (h->stamp >= r->hard.stamp) {
        r->hard = *h;
    }
}

/* ---- Records ---------------------------------------------------------------------------------- */

static void scan_identity(struct scan *c, struct slice key, struct slice value)
{
    struct log_replica *r = c->r;
    struct store_identity_record id;

    if (!store_decode_identity(key, value, &id)) {
        c->why = "identity";
        return;
    }
    r->shard_id = id.shard_id;
    r->state = id.tombstone ? LOG_TOMBSTONE : LOG_LIVE;
    if (!id.tombstone) {
        buf_unref(r->descriptor);
        r->descriptor = buf_copy(id.descriptor.data, id.descriptor.size);
    }
}

static void scan_start(struct scan *c, struct slice key, struct slice value)
{
    struct log_replica *r = c->r;
    struct store_start start;

    if (!store_decode_start(key, value, &start)) {
        c->why = "log start";
        return;
    }
    newest_hard(r, &start.hard);
    r->epoch = start.epoch;
    r->machine_generation = start.machine_generation;
    r->start_config = buf_copy(start.config.data, start.config.size);
    log_index_reset(&r->index, start.index, start.term);
}

static void scan_run(struct scan *c, struct slice key, struct slice value)
{
    struct log_index *x = &c->r->index;
    struct store_run_reader reader;
    struct store_entry e;
    uint64_t last_term = log_index_term(x, x->last);

    if (!store_run_open(&reader, key, value)) {
        c->why = "run";
        return;
    }
    if ((reader.flags & STORE_FLAG_HARD) != 0) {
        newest_hard(c->r, &reader.hard);
    }
    uint64_t first = reader.index, last = first + reader.count - 1;
    if (last <= x->start) {
        return; /* not yet dropped by a compaction */
    }
    if (first > x->last + 1 || (first <= x->last && x->last > x->start)) {
        c->why = "gap in the log";
        return;
    }
    while (store_run_next(&reader, &e)) {
        if (e.index <= x->start) {
            continue;
        }
        if (e.term < last_term) {
            break;
        }
        last_term = e.term;
        log_index_add_term(x, e.index, e.term);
    }
    if (!store_run_done(&reader)) {
        c->why = "run";
        return;
    }
    log_index_add_run(x, reader.count, (reader.flags & STORE_FLAG_CONFIG) != 0,
                      key.size + value.size);
    /* A run that reaches below the start keeps its key, so that it can be found. */
    x->runs[x->run_end - 1].first = first;
    x->last = last;
}

/* ---- One replica ------------------------------------------------------------------------------ */

static bool at_replica(const struct scan *c, struct store_key_parts *ret)
{
    return c->why == NULL && rocksdb_iter_valid(c->it) &&
           store_key_parse(rocks_iter_key(c->it), ret) && ret->replica_id == c->r->id;
}

static bool at_run(const struct scan *c)
{
    struct store_key_parts k;

    return at_replica(c, &k) && k.kind == STORE_KIND_RUN && k.epoch == c->r->epoch;
}

/* To the run that holds the first index after the start, skipping what is only garbage. */
static void seek_first_run(struct scan *c)
{
    struct store_key k = store_key_run(c->r->id, c->r->epoch, c->r->index.start + 1);
    char *error = NULL;

    rocksdb_iter_seek_for_prev(c->it, (const char *)k.bytes, k.size);
    rocksdb_iter_get_error(c->it, &error);
    if (error != NULL) { /* the second seek would forget it */
        c->why = "file block";
        c->s->bad_blocks = true;
        rocksdb_free(error);
    } else if (!at_run(c)) {
        rocks_iter_seek(c->it, store_key_slice(&k));
    }
}

static void scan_replica(struct scan *c)
{
    struct store_key first = store_key(c->r->id, STORE_KIND_FORMAT);
    struct store_key_parts k;

    rocks_iter_seek(c->it, store_key_slice(&first));
    for (; at_replica(c, &k) && k.kind != STORE_KIND_RUN; rocksdb_iter_next(c->it)) {
        struct slice key = rocks_iter_key(c->it), value = rocks_iter_value(c->it);

        if (k.kind == STORE_KIND_IDENTITY) {
            scan_identity(c, key, value);
        } else if (c->r->state == LOG_TOMBSTONE) {
            return;
        } else if (c->r->state == LOG_ABSENT) {
            c->why = "no identity";
        } else if (k.kind == STORE_KIND_START) {
            scan_start(c, key, value);
        } else if (k.kind == STORE_KIND_HARD) {
            struct store_hard h;
            if (store_decode_hard(key, value, &h)) {
                newest_hard(c->r, &h);
            } else {
                c->why = "hard state";
            }
        } else {
            c->why = k.kind == STORE_KIND_DAMAGED ? "earlier" : "unknown record";
        }
    }
    if (c->why != NULL || c->r->state != LOG_LIVE) {
        return;
    }
    for (seek_first_run(c); at_run(c); rocksdb_iter_next(c->it)) {
        scan_run(c, rocks_iter_key(c->it), rocks_iter_value(c->it));
    }
}

static void finish_replica(struct scan *c)
{
    struct log_replica *r = c->r;
    char *error = NULL;

    rocksdb_iter_get_error(c->it, &error);
    if (error != NULL) {
        c->why = "file block";
        c->s->bad_blocks = true;
        rocksdb_free(error);
    }
    if (r->state == LOG_TOMBSTONE) { /* verified; what may be damaged is garbage */
        log_filter_set_gone(c->s->filter, r->id);
    } else if (c->why != NULL) {
        LOG_ERROR(STORE,
                  "the log of a replica is damaged; it stays off, the others run replica=%" PRIu64
                  " damaged=\"%s\" after_index=%" PRIu64,
                  r->id, c->why, r->index.last);
        r->state = LOG_DAMAGED;
    } else if (r->state == LOG_LIVE) {
        r->visible = (struct log_visible){r->index.start, r->index.last, r->epoch, 1};
        log_filter_set_start(c->s->filter, r->id, r->epoch, r->index.start);
    } else { /* runs without an identity */
        r->state = LOG_GONE;
        log_filter_set_gone(c->s->filter, r->id);
    }
}

/* ---- All replicas ----------------------------------------------------------------------------- */

/* The next replica at or after `from`, although its file block is damaged. UINT64_MAX: none. */
static enum thole_code next_past_damage(struct rocks_log *s, uint64_t from, uint64_t *ret,
                                        struct thole_status *st)
{
    rocksdb_readoptions_t *ro = rocksdb_readoptions_create();
    struct store_key target = store_key(from, STORE_KIND_FORMAT);
    struct store_identity_record id;
    struct store_key_parts k;
    enum thole_code code = THOLE_OK;
    char *error = NULL;

    rocksdb_readoptions_set_verify_checksums(ro, 0);
    rocksdb_readoptions_set_fill_cache(ro, 0); /* others would find the block there and trust it */
    rocksdb_iterator_t *it = rocksdb_create_iterator(s->db, ro);
    rocks_iter_seek(it, store_key_slice(&target));
    rocksdb_iter_get_error(it, &error);
    if (error != NULL) {
        code = rocks_fail(st, "recovery", error);
    } else if (!rocksdb_iter_valid(it)) {
        *ret = UINT64_MAX;
    } else if (store_key_parse(rocks_iter_key(it), &k) && k.kind == STORE_KIND_IDENTITY &&
               store_decode_identity(rocks_iter_key(it), rocks_iter_value(it), &id)) {
        struct scan one = {.s = s, .r = rocks_log__replica(s, k.replica_id)};

        scan_identity(&one, rocks_iter_key(it), rocks_iter_value(it));
        *ret = k.replica_id;
    } else {
        code = THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                          "a damaged file block after replica %" PRIu64 " hides whose it is", from);
    }
    rocksdb_iter_destroy(it);
    rocksdb_readoptions_destroy(ro);
    return code;
}

/* The next replica with an id of at least `from`; UINT64_MAX: none. */
static enum thole_code next_replica(struct rocks_log *s, rocksdb_iterator_t *it, uint64_t from,
                                    uint64_t *ret, struct thole_status *st)
{
    struct store_key target = store_key(from, STORE_KIND_FORMAT);
    struct store_key_parts k;
    char *error = NULL;

    rocks_iter_seek(it, store_key_slice(&target));
    rocksdb_iter_get_error(it, &error);
    if (error != NULL) {
        rocksdb_free(error);
        return next_past_damage(s, from, ret, st);
    }
    if (!rocksdb_iter_valid(it)) {
        *ret = UINT64_MAX;
        return THOLE_OK;
    }
    if (!store_key_parse(rocks_iter_key(it), &k) || k.replica_id < from) {
        return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "malformed key");
    }
    *ret = k.replica_id;
    return THOLE_OK;
}

enum thole_code rocks_log__recover(struct rocks_log *s, struct thole_status *st)
{
    rocksdb_readoptions_t *ro = rocksdb_readoptions_create();
    struct scan c = {.s = s};
    enum thole_code code = THOLE_OK;
    uint64_t id = 0;

    rocksdb_readoptions_set_fill_cache(ro, 0);
    rocksdb_readoptions_set_readahead_size(ro, SCAN_READAHEAD_BYTES);
    rocksdb_iterator_t *all = rocksdb_create_iterator(s->db, ro);
    while ((code = next_replica(s, all, id + 1, &id, st)) == THOLE_OK && id != UINT64_MAX) {
        struct store_key end = store_key(id + 1, STORE_KIND_FORMAT);

        /* With the bound, and first keys in the file indexes, blocks of the next replica are not
         * touched: damage there is not ours. */
        rocksdb_readoptions_set_iterate_upper_bound(ro, (const char *)end.bytes, end.size);
        c.it = rocksdb_create_iterator(s->db, ro);
        c.r = rocks_log__replica(s, id);
        c.why = NULL;
        scan_replica(&c);
        finish_replica(&c);
        rocksdb_iter_destroy(c.it);
    }
    rocksdb_iter_destroy(all);
    rocksdb_readoptions_destroy(ro);
    return code;
}
