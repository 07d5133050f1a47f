/* The records of the log, one by one. See inspect.h. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/inspect/inspect_internal.h"
#include "base/uuid.h"

struct walk {
    struct inspect *i;
    const struct inspect_log_filter *filter;
    void (*each)(void *ctx, const struct inspect_record *r);
    void *ctx;
    struct bytes text;
};

static const char *text_of(struct walk *w)
{
    bytes_append(&w->text, "", 1);
    return (const char *)w->text.data;
}

static void emit(struct walk *w, struct inspect_record *r)
{
    bool wanted =
        !w->filter->has_shard || (r->replica_id != 0 && r->shard_id == w->filter->shard_id);
    if (wanted && (w->filter->from == 0 || (r->entry && r->index >= w->filter->from))) {
        w->each(w->ctx, r);
    }
}

/* ---- What is in a record --------------------------------------------------------------------- */

static void put_hard(struct bytes *out, const struct store_hard *h)
{
    bytes_printf(out, "term %" PRIu64 ", vote %" PRIu64 ", commit %" PRIu64, h->hard.term,
                 h->hard.vote, h->hard.commit);
}

static const char *role_name(uint8_t role)
{
    return role == RAFT_VOTER     ? "voter"
           : role == RAFT_LEARNER ? "non-voting"
           : role == RAFT_WITNESS ? "witness"
                                  : "none";
}

static void put_config(struct bytes *out, struct slice encoded)
{
    struct raft_config c = {0};
    struct thole_status st;
    if (encoded.size == 0) {
        return;
    }
    if (raft_config_decode(encoded, &c, &st) != THOLE_OK) {
        bytes_printf(out, ", malformed configuration");
        return;
    }
    bytes_printf(out, ", epoch %" PRIu64 "%s, members:", c.epoch, c.joint ? ", joint" : "");
    for (uint32_t k = 0; k < c.member_count; k++) {
        bytes_printf(out, "%s %" PRIu64 " %s", k > 0 ? "," : "", c.members[k].replica_id,
                     role_name(c.members[k].role));
    }
    raft_config_deinit(&c);
}

static void put_change(struct bytes *out, struct slice encoded)
{
    static const char *const operations[] = {"?",           "add non-voting", "add voter",
                                             "add witness", "remove",         "make non-voting"};
    struct raft_change c;
    struct thole_status st;
    if (raft_change_decode(encoded, &c, &st) != THOLE_OK) {
        bytes_printf(out, "malformed change");
        return;
    }
    bytes_printf(out, "revision %" PRIu64 "%s:", c.revision, c.epoch != 0 ? ", forced" : "");
    for (uint32_t k = 0; k < c.item_count; k++) {
        char host[UUID_TEXT_BYTES];
        struct uuid id;
        uint8_t op = c.items[k].op <= RAFT_CHANGE_DEMOTE ? c.items[k].op : 0;
        bytes_printf(out, "%s %s %" PRIu64, k > 0 ? "," : "", operations[op],
                     c.items[k].replica_id);
        memcpy(id.bytes, c.items[k].host, sizeof id.bytes);
        if (!uuid_is_nil(&id)) {
            uuid_format(&id, host);
            bytes_printf(out, " on %s", host);
        }
    }
    bytes_printf(out, "%s", c.item_count == 0 ? " leave the joint configuration" : "");
}

static void put_identity(struct walk *w, struct slice key, const struct log_scan_record *s)
{
    struct store_identity_record id;
    const struct inspect_replica *r = map_get(&w->i->by_id, s->entry.replica_id);
    if (!store_decode_identity(key, s->sealed, &id)) {
        return;
    }
    if (id.tombstone) {
        bytes_printf(&w->text, "removed: a tombstone");
        return;
    }
    bytes_printf(&w->text, "created in start %" PRIu64, id.incarnation_created);
    if (r != NULL && !r->removed && r->machine_type[0] != '\0') {
        bytes_printf(&w->text, ", type %s version %" PRIu32 "%s", r->machine_type,
                     r->machine_version, r->witness ? ", witness" : "");
    }
}

static void put_start(struct walk *w, struct slice key, const struct log_scan_record *s)
{
    struct store_start start;
    if (store_decode_start(key, s->sealed, &start)) {
        bytes_printf(&w->text,
                     "the log begins after index %" PRIu64 " of term %" PRIu64
                     ", generation %" PRIu64 ", ",
                     start.index, start.term, start.machine_generation);
        put_hard(&w->text, &start.hard);
        put_config(&w->text, start.config);
    }
}

static void put_hard_record(struct walk *w, struct slice key, const struct log_scan_record *s)
{
    struct store_hard h;
    if (store_decode_hard(key, s->sealed, &h)) {
        put_hard(&w->text, &h);
    }
}

/* ---- Entries --------------------------------------------------------------------------------- */

static void put_entry(struct walk *w, const struct store_entry *e, struct inspect_record *r)
{
    static const char *const kinds[] = {"NOOP", "COMMAND", "CONFIG", "SESSION", "TICK"};
    bytes_clear(&w->text);
    r->kind = e->kind <= RAFT_ENTRY_KIND_MAX ? kinds[e->kind] : "?";
    r->index = e->index;
    r->term = e->term;
    r->now_ms = e->stamp.now_ms;
    r->bytes = e->payload.size;
    r->session = e->session;
    r->sequence = e->sequence;
    r->request_id = e->id;
    r->payload = e->kind == RAFT_ENTRY_COMMAND ? e->payload : (struct slice){0};
    if (e->kind == RAFT_ENTRY_CONFIG) {
        put_change(&w->text, e->payload);
    } else if (e->kind == RAFT_ENTRY_SESSION && e->sequence == 0) {
        bytes_printf(&w->text, "opened under epoch %" PRIu64, e->session);
    } else if (e->kind == RAFT_ENTRY_SESSION) {
        bytes_printf(&w->text, "session %" PRIu64 " closed", e->session);
    }
    r->text = text_of(w);
    emit(w, r);
}

static void walk_run(struct walk *w, struct slice key, const struct log_scan_record *s,
                     struct inspect_record *r)
{
    struct store_run_reader reader;
    struct store_entry e;
    if (!store_run_open(&reader, key, s->sealed)) {
        emit(w, r);
        return;
    }
    r->entry = true;
    r->epoch = s->entry.epoch;
    while (store_run_next(&reader, &e)) {
        put_entry(w, &e, r);
    }
    if (!store_run_done(&reader)) {
        r->entry = false;
        r->damaged = true;
        r->kind = "RUN";
        r->payload = (struct slice){0};
        r->text = "malformed, though its checksum is right";
        emit(w, r);
    }
}

/* ---- The walk -------------------------------------------------------------------------------- */

static const char *kind_name(uint8_t kind)
{
    switch (kind) {
    case STORE_KIND_IDENTITY:
        return "IDENTITY";
    case STORE_KIND_START:
        return "START";
    case STORE_KIND_HARD:
        return "HARD";
    case STORE_KIND_RUN:
        return "RUN";
    case STORE_KIND_HOST:
        return "HOST";
    case STORE_KIND_DAMAGED:
        return "DAMAGED";
    default:
        return "?";
    }
}

static void put_record(struct walk *w, struct slice key, const struct log_scan_record *s)
{
    switch (s->entry.kind) {
    case STORE_KIND_IDENTITY:
        put_identity(w, key, s);
        break;
    case STORE_KIND_START:
        put_start(w, key, s);
        break;
    case STORE_KIND_HARD:
        put_hard_record(w, key, s);
        break;
    case STORE_KIND_HOST:
        bytes_printf(&w->text, "%s", s->name);
        break;
    case STORE_KIND_DAMAGED:
        bytes_printf(&w->text, "an earlier start found the log of this replica damaged");
        break;
    default:
        break;
    }
}

static void on_record(void *ctx, const struct log_where *where, const struct log_scan_record *s)
{
    struct walk *w = ctx;
    char file[24];
    const struct inspect_replica *known = map_get(&w->i->by_id, s->entry.replica_id);
    struct inspect_record r = {
        .file = file,
        .offset = where->offset,
        .write = where->sequence,
        .replica_id = s->entry.replica_id,
        .shard_id = known != NULL ? known->shard_id : 0,
        .machine_type = known != NULL ? known->machine_type : "",
        .kind = kind_name(s->entry.kind),
        .copy = (s->entry.flags & FRAME_COPY) != 0,
        .damaged = !s->intact,
        .bytes = s->entry.bytes,
        .text = "",
    };
    struct slice key = store_key_slice(&s->key);
    snprintf(file, sizeof file, SEGMENT_NAME_FORMAT, where->file);
    bytes_clear(&w->text);
    if (!s->intact) {
        r.text = "damaged: its checksum is wrong";
        emit(w, &r);
    } else if ((s->entry.flags & FRAME_DELETE) != 0) {
        r.text = "forgotten";
        emit(w, &r);
    } else if (s->entry.kind == STORE_KIND_RUN) {
        walk_run(w, key, s, &r);
    } else {
        put_record(w, key, s);
        r.text = text_of(w);
        emit(w, &r);
    }
}

enum thole_code inspect_log(struct inspect *i, const struct inspect_log_filter *filter,
                            void (*each)(void *ctx, const struct inspect_record *r), void *ctx,
                            struct thole_status *st)
{
    struct walk w = {.i = i, .filter = filter, .each = each, .ctx = ctx};
    const struct log_visitor v = {.ctx = &w, .record = on_record};
    struct log_store *log = NULL;
    char *path = datadir_file(&i->dir, "log");
    enum thole_code code = log_inspect(path, &v, &log, st);
    if (code == THOLE_OK) {
        log->ops->close(log);
    }
    bytes_deinit(&w.text);
    free(path);
    return code;
}
