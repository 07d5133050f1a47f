/* A snapshot file: the stream of snapshot_body.c, which is also what a peer gets, and a trailer. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "shards/engine/snapshot/snapshots.h"

#define IO_BYTES (256 * KIB)
static const char magic[8] = "tholsnap";

void engine__snapshot_trailer(uint64_t checksum, uint8_t ret[SNAPSHOT_TRAILER_BYTES])
{
    put_le64(ret, checksum);
    memcpy(ret + 8, magic, sizeof magic);
}

bool engine__snapshot_trailer_read(const uint8_t in[SNAPSHOT_TRAILER_BYTES], uint64_t *ret_checksum)
{
    *ret_checksum = get_le64(in);
    return memcmp(in + 8, magic, sizeof magic) == 0;
}

bool engine__snapshot_name_parse(const char *name, uint64_t *ret_replica, uint64_t *ret_index)
{
    char again[ENGINE_NAME_BYTES];
    if (sscanf(name, "%" SCNu64 "-%" SCNu64 ".snap", ret_replica, ret_index) != 2) {
        return false;
    }
    (void)snprintf(again, sizeof again, "%" PRIu64 "-%" PRIu64 ".snap", *ret_replica, *ret_index);
    return strcmp(again, name) == 0;
}

bool engine__snapshot_restarts_from_file(const struct replica *r)
{
    const struct thole_machine_type *type = engine__machine_type_find(r->e, r->kind->type_name);
    return !r->kind->witness && !(type != NULL && (type->flags & THOLE_MACHINE_PERSISTENT));
}

/* ---- Writing --------------------------------------------------------------------------------- */

struct file_sink {
    struct thole_sink base;
    const struct engine_files_ops *ops;
    struct engine_file *file;
    struct hash_state *hash;
    struct bytes pending;
    uint64_t size; /* bytes written, without `pending` */
    struct thole_status st;
};

static enum thole_code drain(struct file_sink *s)
{
    if (s->st.code != THOLE_OK || s->pending.size == 0) {
        return s->st.code;
    }
    hash_state_update(s->hash, s->pending.data, s->pending.size);
    s->size += s->pending.size;
    enum thole_code code = s->ops->append(s->file, s->pending.data, s->pending.size, &s->st);
    bytes_clear(&s->pending);
    return code;
}

static enum thole_code write_file(struct thole_sink *base, const void *data, size_t size)
{
    struct file_sink *s = CONTAINER_OF(base, struct file_sink, base);
    bytes_append(&s->pending, data, size);
    return s->pending.size >= IO_BYTES ? drain(s) : s->st.code;
}

/* Write the trailer and commit the file, or discard it after an error. */
static enum thole_code finish_file(struct file_sink *s, struct task *t, struct thole_status *st)
{
    uint8_t trailer[SNAPSHOT_TRAILER_BYTES];
    enum thole_code code = drain(s);
    ASSERT(t->index != 0 && (code != THOLE_OK || s->pending.size == 0));
    engine__snapshot_trailer(hash_state_digest(s->hash), trailer);
    if (code != THOLE_OK) {
        *st = s->st;
    } else {
        code = s->ops->append(s->file, trailer, sizeof trailer, st);
    }
    t->bytes = s->size + sizeof trailer;
    engine__snapshot_name(t->r, t->index, t->name);
    if (code == THOLE_OK) {
        code = s->ops->commit(s->file, t->name, st);
    } else {
        s->ops->discard(s->file);
    }
    hash_state_free(s->hash);
    bytes_deinit(&s->pending);
    return code;
}

static enum thole_code create_file(struct engine *e, const struct task *t, struct file_sink *ret,
                                   struct thole_status *st)
{
    char staged[ENGINE_NAME_BYTES];
    *ret =
        (struct file_sink){.base = {sizeof(struct thole_sink), write_file}, .ops = e->files->ops};
    (void)snprintf(staged, sizeof staged, "%" PRIu64 ".tmp", t->r->replica_id);
    enum thole_code code = ret->ops->create(
        e->files, staged, engine__snapshot_restarts_from_file(t->r), &ret->file, st);
    if (code == THOLE_OK) {
        ret->hash = hash_state_new(0);
    }
    return code;
}

enum thole_code engine__snapshot_save(struct engine *e, struct task *t, struct thole_status *st)
{
    struct file_sink s;
    enum thole_code code = create_file(e, t, &s, st);
    if (code != THOLE_OK) {
        return code;
    }
    code = engine__body_save(&s.base, t, st);
    if (code != THOLE_OK) {
        s.st = *st;
    }
    return finish_file(&s, t, st);
}

/* ---- Reading --------------------------------------------------------------------------------- */

struct file_source {
    struct body_source body;
    const struct engine_files_ops *ops;
    struct engine_file *file;
    uint64_t at, end; /* of what is not in the window yet */
    uint8_t *buffer;
};

static bool fill(struct body_source *body)
{
    struct file_source *s = CONTAINER_OF(body, struct file_source, body);
    ASSERT(s->at <= s->end);
    size_t n = s->end - s->at < IO_BYTES ? (size_t)(s->end - s->at) : IO_BYTES;
    body->window = (struct slice){0};
    if (n == 0 || s->ops->read(s->file, s->at, s->buffer, n, &body->st) != THOLE_OK) {
        return false;
    }
    s->at += n;
    body->window = slice_of(s->buffer, n);
    return true;
}

static enum thole_code open_source(struct engine_files *files, const char *name,
                                   struct file_source *s, uint64_t *ret_checksum,
                                   struct thole_status *st)
{
    uint64_t size;
    uint8_t trailer[SNAPSHOT_TRAILER_BYTES];
    *s = (struct file_source){.ops = files->ops};
    engine__body_source_init(&s->body, fill);
    enum thole_code code = s->ops->open(files, name, &s->file, &size, st);
    if (code != THOLE_OK) {
        return code;
    }
    if (size < sizeof trailer) {
        code = THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "snapshot %s is cut", name);
    }
    if (code == THOLE_OK) {
        code = s->ops->read(s->file, size - sizeof trailer, trailer, sizeof trailer, st);
    }
    if (code == THOLE_OK && !engine__snapshot_trailer_read(trailer, ret_checksum)) {
        code = THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "%s is no snapshot", name);
    }
    if (code != THOLE_OK) {
        s->ops->close(s->file);
        return code;
    }
    s->end = size - sizeof trailer;
    s->buffer = xmalloc(IO_BYTES);
    return THOLE_OK;
}

static void close_source(struct file_source *s)
{
    s->ops->close(s->file);
    free(s->buffer);
}

/* Verify the checksum of the whole file; then rewind `s`. */
static enum thole_code check_stream(struct file_source *s, const char *name, uint64_t checksum,
                                    struct thole_status *st)
{
    struct hash_state *hash = hash_state_new(0);
    while (fill(&s->body)) {
        hash_state_update(hash, s->body.window.data, s->body.window.size);
    }
    bool good = s->body.st.code == THOLE_OK && hash_state_digest(hash) == checksum;
    hash_state_free(hash);
    s->at = 0;
    s->body.window = (struct slice){0};
    if (!good) {
        return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "snapshot %s is damaged",
                          name);
    }
    return THOLE_OK;
}

enum thole_code engine__snapshot_check(struct engine_files *files, const char *name,
                                       struct snapshot_info *ret, struct thole_status *st)
{
    struct file_source s;
    struct codec_header h = {0};
    struct bytes piece = {0};
    struct raft_config config = {0};
    uint64_t checksum;
    enum thole_code code = open_source(files, name, &s, &checksum, st);
    if (code != THOLE_OK) {
        return code;
    }
    code = check_stream(&s, name, checksum, st);
    if (code == THOLE_OK) {
        code = engine__body_read_head(&s.body, name, &piece, &h, st);
    }
    if (code == THOLE_OK) {
        code = raft_config_decode(h.config, &config, st);
    }
    if (code == THOLE_OK) {
        *ret = (struct snapshot_info){h.shard_id, h.index, h.index_term,
                                      s.end + SNAPSHOT_TRAILER_BYTES, config.epoch};
    }
    raft_config_deinit(&config);
    codec_release(h.arena);
    bytes_deinit(&piece);
    close_source(&s);
    return code;
}

/* ---- Seeds ----------------------------------------------------------------------------------- */

/* The new group begins with this replica alone, under the next epoch. So sessions of clients that
 * the saved group opened after the snapshot are not mistaken for sessions of the new group. */
static void first_config(const struct engine *e, const struct replica *r, uint64_t epoch,
                         struct bytes *out)
{
    struct raft_config c = {.epoch = epoch};
    struct raft_member self = {.replica_id = r->replica_id, .role = RAFT_VOTER};
    memcpy(self.host, e->o.host_id.bytes, sizeof self.host);
    *raft_config_insert(&c, 0) = self;
    raft_config_encode(&c, out);
    raft_config_deinit(&c);
}

static enum thole_code read_seed(struct engine *e, struct file_source *s, struct task *t,
                                 struct thole_status *st)
{
    const struct replica *r = t->r;
    struct codec_header h = {0};
    struct bytes piece = {0};
    struct raft_config saved = {0};
    enum thole_code code = engine__body_read_head(&s->body, t->name, &piece, &h, st);
    if (code == THOLE_OK && (!slice_equal(h.machine_type, slice_str(r->kind->type_name)) ||
                             h.machine_version > r->kind->type_version)) {
        code = THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_NO_SUCH_TYPE,
                          "the snapshot is of machine type %.*s version %u, not of %s version %u",
                          (int)h.machine_type.size, (const char *)h.machine_type.data,
                          h.machine_version, r->kind->type_name, r->kind->type_version);
    }
    if (code == THOLE_OK) {
        code = raft_config_decode(h.config, &saved, st);
    }
    if (code == THOLE_OK) {
        first_config(e, r, saved.epoch + 1, &t->config);
        t->index = h.index;
        t->term = h.index_term;
        t->stamp = h.stamp;
    }
    raft_config_deinit(&saved);
    codec_release(h.arena);
    bytes_deinit(&piece);
    return code;
}

/* Copy what follows the head. */
static void copy_rest(struct file_source *from, struct file_sink *to)
{
    uint8_t piece[4096];
    int64_t n;
    while ((n = from->body.base.read(&from->body.base, piece, sizeof piece)) > 0) {
        (void)write_file(&to->base, piece, (size_t)n);
    }
    if (to->st.code == THOLE_OK) {
        to->st = from->body.st;
    }
}

static enum thole_code copy_seed(struct engine *e, struct file_source *from, struct task *t,
                                 struct thole_status *st)
{
    struct file_sink to;
    enum thole_code code = create_file(e, t, &to, st);
    if (code != THOLE_OK) {
        return code;
    }
    engine__body_write_head(&to.base, t);
    copy_rest(from, &to);
    code = finish_file(&to, t, st);
    return code;
}

enum thole_code engine__snapshot_import(struct engine *e, struct task *t, struct thole_status *st)
{
    struct file_source s;
    uint64_t checksum;
    if (e->o.seeds == NULL) {
        return THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_NONE, "this host has no seeds");
    }
    enum thole_code code = open_source(e->o.seeds, t->name, &s, &checksum, st);
    if (code != THOLE_OK) {
        return code;
    }
    code = check_stream(&s, t->name, checksum, st);
    if (code == THOLE_OK) {
        code = read_seed(e, &s, t, st);
    }
    if (code == THOLE_OK) {
        code = copy_seed(e, &s, t, st);
    }
    close_source(&s);
    return code;
}

/* ---- Loading --------------------------------------------------------------------------------- */

enum thole_code engine__snapshot_load(struct engine *e, struct replica *r, const char *name,
                                      uint64_t generation, struct machine **ret,
                                      struct thole_status *st)
{
    struct file_source s;
    uint64_t checksum;
    enum thole_code code = open_source(e->files, name, &s, &checksum, st);
    if (code != THOLE_OK) {
        return code;
    }
    code = engine__body_load(&s.body, r, NULL, name, generation, ret, st);
    close_source(&s);
    return code;
}
