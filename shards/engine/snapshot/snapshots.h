/* The stream of a snapshot (snapshot_body.c), written to and read from a file (staged_file.c) or a
 * pipe (snapshot_stream.c). */
#ifndef SHARDS_ENGINE_SNAPSHOT_SNAPSHOTS_H
#define SHARDS_ENGINE_SNAPSHOT_SNAPSHOTS_H

#include "shards/engine/frame_codec.h"

struct snapshot_pipe;

/* ---- Files ----------------------------------------------------------------------------------- */

enum thole_code engine__snapshot_save(struct engine *e, struct task *t, struct thole_status *st);
enum thole_code engine__snapshot_load(struct engine *e, struct replica *r, const char *name,
                                      uint64_t generation, struct machine **ret,
                                      struct thole_status *st);
struct snapshot_info {
    uint64_t shard_id, index, index_term, bytes;
    uint64_t epoch; /* two epochs may have the same (index, term) with different states */
};
/* Verify the whole file, and read its header. DATA_LOSS: damaged. */
enum thole_code engine__snapshot_check(struct engine_files *files, const char *name,
                                       struct snapshot_info *ret, struct thole_status *st);
/* TASK_SEED: verify the seed `t->name`, and write a snapshot file of this replica from it. Sets
 * `t->name` to that file, and index, term and config. */
enum thole_code engine__snapshot_import(struct engine *e, struct task *t, struct thole_status *st);
/* A file is the stream and this trailer: its checksum (XXH3, 8 bytes little-endian) and a magic. */
#define SNAPSHOT_TRAILER_BYTES 16
void engine__snapshot_trailer(uint64_t checksum, uint8_t ret[SNAPSHOT_TRAILER_BYTES]);
bool engine__snapshot_trailer_read(const uint8_t in[SNAPSHOT_TRAILER_BYTES],
                                   uint64_t *ret_checksum);
/* Does the replica restart from its snapshot files? Otherwise a file is only for sending and
 * export, and is deleted at start. */
bool engine__snapshot_restarts_from_file(const struct replica *r);
/* Parses "<replica>-<index>.snap"; false for anything else. */
bool engine__snapshot_name_parse(const char *name, uint64_t *ret_replica, uint64_t *ret_index);

/* ---- Streams --------------------------------------------------------------------------------- */

/* Where a snapshot is read from. `next` replaces the window by the bytes that follow it: false at
 * the end, or with `st` set if they cannot be had. The window's bytes belong to the source. */
struct body_source {
    struct thole_source base;
    bool (*next)(struct body_source *s);
    struct slice window;    /* what was not read yet */
    struct thole_status st; /* why `next` failed; it takes precedence over the reader's own error */
};
void engine__body_source_init(struct body_source *s, bool (*next)(struct body_source *s));

/* TASK_SAVE and TASK_SEED: header and sessions. `out` keeps its own errors. */
void engine__body_write_head(struct thole_sink *out, const struct task *t);
/* TASK_SAVE: the whole stream. */
enum thole_code engine__body_save(struct thole_sink *out, const struct task *t,
                                  struct thole_status *st);
/* `piece` holds what `ret` points to; release ret->arena. */
enum thole_code engine__body_read_head(struct body_source *s, const char *name, struct bytes *piece,
                                       struct codec_header *ret, struct thole_status *st);
/* Read the whole stream, from `pipe` unless that is NULL, into a new machine of this generation. */
enum thole_code engine__body_load(struct body_source *s, struct replica *r,
                                  struct snapshot_pipe *pipe, const char *name, uint64_t generation,
                                  struct machine **ret, struct thole_status *st);

#endif
