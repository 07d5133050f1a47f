/* Snapshot transfers, on the streamer: snapshot_send.c and snapshot_receive.c. Machines write and
 * read their snapshots on the workers of stream_jobs.c, through pipes (snapshot_pipe.c). */
#ifndef SHARDS_ENGINE_SNAPSHOT_STREAMS_H
#define SHARDS_ENGINE_SNAPSHOT_STREAMS_H

#include "shards/engine/engine_internal.h"

/* ---- Pipes: pieces of a snapshot between the streamer, which never blocks, and a job --------- */

struct snapshot_pipe;
struct piece {
    struct bufslice bytes;
    bool last; /* and this is the checksum of all: */
    uint64_t checksum;
};
enum pipe_state {
    PIPE_EMPTY, /* for now */
    PIPE_PIECE,
    PIPE_END,    /* the last piece was taken */
    PIPE_BROKEN, /* one side gave up before the last piece */
};
/* One reference. Beyond `bound` bytes there is no room. */
struct snapshot_pipe *engine__pipe_new(struct engine *e, uint64_t bound);
struct snapshot_pipe *engine__pipe_ref(struct snapshot_pipe *p);
void engine__pipe_unref(struct snapshot_pipe *p); /* NULL is fine */
/* Takes the piece over. False if the pipe is broken. */
bool engine__pipe_put(struct snapshot_pipe *p, const struct piece *piece);
enum pipe_state engine__pipe_take(struct snapshot_pipe *p, struct piece *ret);
/* The same for jobs, which block until there is room, or a piece. If workers may not block
 * (worker.h), there is always room, and an empty pipe counts as broken. */
bool engine__pipe_put_wait(struct snapshot_pipe *p, const struct piece *piece);
enum pipe_state engine__pipe_take_wait(struct snapshot_pipe *p, struct piece *ret);
/* False: no room; the streamer gets a turn when there is. */
bool engine__pipe_has_room(struct snapshot_pipe *p);
/* Give up: no piece can be put any more. No effect after the last piece. NULL is fine. */
void engine__pipe_break(struct snapshot_pipe *p);
uint64_t engine__pipe_bytes(struct snapshot_pipe *p);
bool engine__pipe_is_open(struct snapshot_pipe *p); /* neither broken nor ended */
bool engine__pipe_is_broken(struct snapshot_pipe *p);

/* ---- Jobs: machines that write into pipes, and machines that read from them ------------------ */

#define STREAM_JOBS_MAX 4 /* of each kind at a time */
struct stream_jobs;
struct stream_jobs *engine__jobs_new(struct engine *e);
void engine__jobs_free(struct stream_jobs *j);
/* Takes a TASK_SAVE or TASK_RESTORE with a pipe, which comes back to the streamer. False: all
 * workers are busy, or a job of this kind and replica is running. */
bool engine__jobs_start(struct stream_jobs *j, struct task *t);
/* The task came back. */
void engine__jobs_ended(struct stream_jobs *j, const struct task *t);
/* Holds a TASK_DESTROY until no job uses the data; then it goes to the snapshotter. */
void engine__jobs_destroy(struct stream_jobs *j, struct task *t);
/* Every pipe must have been broken. */
void engine__jobs_stop(struct stream_jobs *j);

/* snapshot_stream.c */
enum thole_code engine__snapshot_save_stream(struct task *t, struct thole_status *st);
enum thole_code engine__snapshot_load_stream(struct task *t, struct thole_status *st);

/* ---- Transfers ------------------------------------------------------------------------------- */

/* `tick` returns the time of the next tick. `stop` ends the transfers of a replica: all of them, or
 * those of one generation of its machine. */
#define ANY_GENERATION UINT64_MAX
struct snapshot_sends;
struct snapshot_sends *engine__sends_new(struct engine *e, struct stream_jobs *jobs);
void engine__sends_free(struct snapshot_sends *s);
void engine__sends_start(struct snapshot_sends *s, struct stream_msg *m, uint64_t now_ns);
void engine__sends_reply(struct snapshot_sends *s, struct stream_msg *m, uint64_t now_ns);
void engine__sends_stop(struct snapshot_sends *s, const struct replica *r, uint64_t generation);
void engine__sends_break(struct snapshot_sends *s); /* all pipes */
uint64_t engine__sends_tick(struct snapshot_sends *s, uint64_t now_ns);
struct snapshot_receives;
struct snapshot_receives *engine__receives_new(struct engine *e, struct stream_jobs *jobs);
void engine__receives_free(struct snapshot_receives *s);
void engine__receives_chunk(struct snapshot_receives *s, struct stream_msg *m, uint64_t now_ns);
void engine__receives_end(struct snapshot_receives *s, struct stream_msg *m);
/* The loop has accepted an announced transfer. Takes over the TASK_RESTORE. */
void engine__receives_restore(struct snapshot_receives *s, struct task *t);
void engine__receives_stop(struct snapshot_receives *s, const struct replica *r);
void engine__receives_break(struct snapshot_receives *s);
uint64_t engine__receives_tick(struct snapshot_receives *s, uint64_t now_ns);

#endif
