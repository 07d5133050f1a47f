/* The state machine of the clients' shards: registers by key. A command [key][value] swaps a value
 * and returns the previous one. A query [key] reads it. Numbers are 8 bytes, little endian. The
 * state includes a hash of all commands in order, to compare replicas. */
#include <stdlib.h>
#include <string.h>

#include "agent/sim/register_machine.h"
#include "base/buf.h"
#include "base/hash.h"
#include "base/map.h"

struct registers {
    uint64_t shard_id, replica_id;
    uint64_t count, hash;
    uint64_t values[REGISTER_KEYS];
};

static enum thole_code open_machine(const struct thole_machine_env *env, void **ret,
                                    struct thole_status *st)
{
    (void)st;
    struct registers *m = xcalloc(1, sizeof *m);
    m->shard_id = env->shard_id;
    m->replica_id = env->replica_id;
    *ret = m;
    return THOLE_OK;
}

static void close_machine(void *machine)
{
    free(machine);
}

static enum thole_code apply(void *machine, struct thole_apply *batch, struct thole_status *st)
{
    struct registers *m = machine;
    (void)st;
    for (size_t i = 0; i < batch->entry_count; i++) {
        const struct thole_entry *e = thole_apply_entry(batch, i);
        if (e->command.size != REGISTER_COMMAND_BYTES) {
            continue;
        }
        const uint8_t *in = e->command.data;
        uint64_t key = get_le64(in) % REGISTER_KEYS;
        uint8_t out[8];
        put_le64(out, m->values[key]);
        m->values[key] = get_le64(in + 8);
        m->count++;
        m->hash = hash64(in, REGISTER_COMMAND_BYTES, m->hash);
        register_executed(m->shard_id, m->replica_id, m->count, m->hash);
        enum thole_code code = e->result->write(e->result, out, sizeof out);
        if (code != THOLE_OK) {
            return code;
        }
    }
    return THOLE_OK;
}

static enum thole_code query(void *machine, const void *view, struct thole_slice in,
                             struct thole_sink *answer, struct thole_status *st)
{
    const struct registers *m = view != NULL ? view : machine;
    uint8_t out[8];
    if (in.size != 8) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, "not a key");
    }
    put_le64(out, m->values[get_le64(in.data) % REGISTER_KEYS]);
    return answer->write(answer, out, sizeof out);
}

static enum thole_code acquire(void *machine, void **ret, struct thole_status *st)
{
    struct registers *view = xmalloc(sizeof *view);
    (void)st;
    *view = *(struct registers *)machine;
    *ret = view;
    return THOLE_OK;
}

static void release(void *machine, void *view)
{
    (void)machine;
    free(view);
}

static enum thole_code save(void *machine, const void *view, struct thole_save *to,
                            struct thole_status *st)
{
    struct thole_sink *out = to->out;
    const struct registers *m = view != NULL ? view : machine;
    uint8_t bytes[8 * (2 + REGISTER_KEYS)];
    (void)st;
    put_le64(bytes, m->count);
    put_le64(bytes + 8, m->hash);
    for (size_t i = 0; i < REGISTER_KEYS; i++) {
        put_le64(bytes + 16 + 8 * i, m->values[i]);
    }
    return out->write(out, bytes, sizeof bytes);
}

static enum thole_code restore(void *machine, struct thole_restore *from, struct thole_status *st)
{
    struct thole_source *in = from->in;
    struct registers *m = machine;
    uint8_t bytes[8 * (2 + REGISTER_KEYS)];
    size_t have = 0;
    int64_t n;
    while (have < sizeof bytes && (n = in->read(in, bytes + have, sizeof bytes - have)) > 0) {
        have += (size_t)n;
    }
    if (have != sizeof bytes) {
        return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "not a snapshot of registers");
    }
    m->count = get_le64(bytes);
    m->hash = get_le64(bytes + 8);
    for (size_t i = 0; i < REGISTER_KEYS; i++) {
        m->values[i] = get_le64(bytes + 16 + 8 * i);
    }
    return THOLE_OK;
}

static const struct thole_machine_type type = {
    .size = sizeof(struct thole_machine_type),
    .version = 1,
    .name = REGISTER_TYPE,
    .open = open_machine,
    .close = close_machine,
    .apply = apply,
    .query = query,
    .view_acquire = acquire,
    .view_release = release,
    .save = save,
    .restore = restore,
};

const struct thole_machine_type *const *host__types(size_t *ret_count)
{
    static const struct thole_machine_type *const all[] = {&type};
    *ret_count = 1;
    return all;
}

/* ---- Equal states after equal numbers of commands -------------------------------------------- */

/* A forced repair: replicas of the shard from before it are void, except the one that was kept. */
struct split {
    struct split *next;
    uint64_t shard_id, kept, first_replica, number;
};
static struct split *splits; /* newest first */
static struct map seen; /* hash of (shard, split, count) -> hash of the state; kept for the run */

void register_split(uint64_t shard_id, uint64_t kept, uint64_t first_replica)
{
    struct split *s = xcalloc(1, sizeof *s);
    *s = (struct split){splits, shard_id, kept, first_replica,
                        splits != NULL ? splits->number + 1 : 1};
    splits = s;
}

void register_executed(uint64_t shard_id, uint64_t replica_id, uint64_t count, uint64_t hash)
{
    const struct split *s = splits;
    while (s != NULL && s->shard_id != shard_id) {
        s = s->next;
    }
    if (s != NULL && replica_id < s->first_replica && replica_id != s->kept) {
        return;
    }
    const uint64_t words[] = {shard_id, count, s != NULL ? s->number : 0};
    uint64_t key = hash64(words, sizeof words, 1) | 1;
    uintptr_t before = (uintptr_t)map_get(&seen, key);
    if (before == 0) {
        (void)map_put(&seen, key, (void *)(uintptr_t)(hash | 1));
    } else if (before != (uintptr_t)(hash | 1)) {
        world__fail("shard %u: replica %u has another state than others after %u commands",
                    (unsigned)shard_id, (unsigned)replica_id, (unsigned)count);
    }
}
