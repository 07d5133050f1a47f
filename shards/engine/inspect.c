/* Looking at the engine's files and metadata. See inspect.h. */
#include "shards/engine/inspect.h"

#include <stdlib.h>

#include "shards/engine/meta.h"
#include "shards/engine/snapshot/snapshots.h"

enum thole_code engine_snapshot_look(struct engine_files *files, const char *name,
                                     struct engine_snapshot_seen *ret, struct thole_status *st)
{
    struct snapshot_info info;
    uint64_t replica = 0, index;
    enum thole_code code = engine__snapshot_check(files, name, &info, st);
    if (code != THOLE_OK) {
        return code;
    }
    bool named = engine__snapshot_name_parse(name, &replica, &index);
    *ret = (struct engine_snapshot_seen){
        .replica_id = named ? replica : 0,
        .shard_id = info.shard_id,
        .index = info.index,
        .term = info.index_term,
        .bytes = info.bytes,
        .epoch = info.epoch,
    };
    return THOLE_OK;
}

struct engine_meta {
    struct machine machine; /* only what meta_read fills */
};

struct engine_meta *engine_meta_new(void)
{
    return xcalloc(1, sizeof(struct engine_meta));
}

bool engine_meta_add(struct engine_meta *m, struct slice key, struct slice value)
{
    return meta_read(&m->machine, key, value);
}

struct engine_meta_seen engine_meta_sum(const struct engine_meta *m)
{
    return (struct engine_meta_seen){
        .applied = m->machine.applied,
        .applied_term = m->machine.applied_term,
        .now_ms = m->machine.applied_stamp.now_ms,
        .sessions = m->machine.sessions.by_id.count,
        .request_ids = m->machine.sessions.ids.count,
    };
}

void engine_meta_free(struct engine_meta *m)
{
    if (m != NULL) {
        session_table_deinit(&m->machine.sessions);
        free(m);
    }
}
