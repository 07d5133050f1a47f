/* Snapshot transfers: snapshot_send.c and snapshot_receive.c, both on the streamer. */
#ifndef SHARDS_ENGINE_STREAMS_H
#define SHARDS_ENGINE_STREAMS_H

#include "shards/engine/engine_internal.h"

/* `tick` returns the next deadline. */
struct snapshot_sends;
struct snapshot_sends *sends_new(struct engine *e);
void sends_free(struct snapshot_sends *s);
void sends_start(struct snapshot_sends *s, struct stream_msg *m, uint64_t now_ns);
void sends_reply(struct snapshot_sends *s, struct stream_msg *m, uint64_t now_ns);
uint64_t sends_tick(struct snapshot_sends *s, uint64_t now_ns);
struct snapshot_receives;
struct snapshot_receives *receives_new(struct engine *e);
void receives_free(struct snapshot_receives *s);
void receives_chunk(struct snapshot_receives *s, struct stream_msg *m, uint64_t now_ns);
void receives_end(struct snapshot_receives *s, struct stream_msg *m);
uint64_t receives_tick(struct snapshot_receives *s, uint64_t now_ns);

#endif
