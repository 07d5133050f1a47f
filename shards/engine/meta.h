/* The engine's metadata in persistent machines: the applied index and the dedupe table, record by
 * record. Keys: "a" applied (index, term and the two times of the entry: 8 bytes little-endian
 * each); "s" + session id (8 bytes big-endian): SnapshotSession without results; "r" + session id +
 * sequence: SessionResult; "q" + log index: RequestAnswer. */
#ifndef SHARDS_ENGINE_META_H
#define SHARDS_ENGINE_META_H

#include <thole/machine.h>

#include "shards/engine/engine_internal.h"

struct meta_list {
    struct thole_meta *metas; /* filled by meta_list_ready */
    size_t count, capacity;
    struct meta_span *spans;
    struct bytes bytes;
};
void meta_list_clear(struct meta_list *l);
void meta_list_deinit(struct meta_list *l);
void meta_add_applied(struct meta_list *l, uint64_t index, uint64_t term, struct raft_stamp stamp);
void meta_add_head(struct meta_list *l, const struct session *s);
void meta_remove_head(struct meta_list *l, uint64_t session);
void meta_add_result(struct meta_list *l, uint64_t session, const struct session_result *r);
void meta_remove_result(struct meta_list *l, uint64_t session, uint64_t sequence);
void meta_add_answer(struct meta_list *l, const struct request_answer *r);
void meta_remove_answer(struct meta_list *l, uint64_t index);
void meta_add_table(struct meta_list *l, const struct session_table *t);
/* The records for the machine; valid until the list changes. */
const struct thole_meta *meta_list_ready(struct meta_list *l);
/* A record that a machine holds, at open. False if malformed. */
bool meta_read(struct machine *m, struct slice key, struct slice value);

#endif
