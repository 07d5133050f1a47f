/* Looking at the stores of a host that does not run, without changing a byte. Damage is reported
 * and does not end the look. The caller keeps other processes from writing meanwhile. */
#ifndef SHARDS_STORE_INSPECT_H
#define SHARDS_STORE_INSPECT_H

#include "shards/store/scan.h"
#include "shards/store/store.h"

enum log_damage_kind {
    LOG_DAMAGE_FILE,    /* of a segment file, or one is missing; `what` says it */
    LOG_DAMAGE_FRAMES,  /* acknowledged writes are lost from `offset` on */
    LOG_DAMAGE_RECORD,  /* of a record of `replica_id` (0: of the host): `what` */
    LOG_DAMAGE_REPLICA, /* the log of `replica_id` is not whole: `what` */
    LOG_DAMAGE_TORN,    /* none: the last write, which was not acknowledged, begins at `offset` */
};
struct log_damage {
    enum log_damage_kind kind;
    uint32_t file; /* its number, see SEGMENT_NAME_FORMAT; 0: no single file */
    uint64_t offset;
    uint64_t replica_id;
    const char *what;
};

/* Where a record is: it begins at `offset` of the file. */
struct log_where {
    uint32_t file, offset;
    uint64_t sequence; /* of the frame */
};

/* Called during log_inspect, in the order of the log. What they get lives until they return. */
struct log_visitor {
    void *ctx;
    void (*record)(void *ctx, const struct log_where *where, const struct log_scan_record *r);
    void (*damage)(void *ctx, const struct log_damage *d);
};

/* Like log_store_open, but the store that it returns refuses every write. NOT_FOUND: no file ID;
 * DATA_LOSS: the file ID is unreadable; FAILED_PRECONDITION FORMAT; UNAVAILABLE DISK. */
THOLE_MUST_CHECK enum thole_code log_inspect(const char *path, const struct log_visitor *v,
                                             struct log_store **ret, struct thole_status *st);

/* The state database: as state_db_open, but nothing can be written, and nothing is flushed when it
 * is closed by state_inspect_close. Its tables are opened one by one: what is damaged is met when
 * it is read. NOT_FOUND: no database; DATA_LOSS CORRUPT; FAILED_PRECONDITION FORMAT. */
THOLE_MUST_CHECK enum thole_code state_inspect(const char *path, struct state_db **ret,
                                               struct thole_status *st);
void state_inspect_close(struct state_db *db); /* NULL is fine */
/* Read every record, also those of no replica. DATA_LOSS CORRUPT: the first damage, with its file
 * and offset. */
THOLE_MUST_CHECK enum thole_code state_inspect_all(struct state_db *db, uint64_t *ret_records,
                                                   struct thole_status *st);
/* Was the database found damaged by its host, which has not salvaged it yet? */
bool state_inspect_is_marked(const char *path);

#endif
