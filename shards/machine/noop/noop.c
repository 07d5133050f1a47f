/* The machine that does nothing but count: for benchmarks, and to compare replicas. Its state is
 * the number of entries and bytes applied, the last index, and a hash of all payloads in order.
 * Any payload is a command; results are empty. The query "get", or an empty one, is answered with
 * "entries=N bytes=N index=N hash=X". */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/hash.h"
#include "shards/machine/builtin.h"

struct noop {
    uint64_t entries, bytes, index, hash;
};
#define SNAPSHOT_BYTES 32

static enum thole_code noop_open(const struct thole_machine_env *env, void **ret,
                                 struct thole_status *st)
{
    (void)env, (void)st;
    *ret = xcalloc(1, sizeof(struct noop));
    return THOLE_OK;
}

static void noop_close(void *machine)
{
    free(machine);
}

static enum thole_code noop_apply(void *machine, struct thole_apply *batch, struct thole_status *st)
{
    struct noop *m = machine;

    (void)st;
    for (size_t i = 0; i < batch->entry_count; i++) {
        const struct thole_entry *e = thole_apply_entry(batch, i);

        m->entries++;
        m->bytes += e->command.size;
        m->index = e->index;
        m->hash = hash64(e->command.data, e->command.size, m->hash);
    }
    return THOLE_OK;
}

static enum thole_code noop_view_acquire(void *machine, void **ret, struct thole_status *st)
{
    struct noop *view = xmalloc(sizeof *view);

    (void)st;
    *view = *(struct noop *)machine;
    *ret = view;
    return THOLE_OK;
}

static void noop_view_release(void *machine, void *view)
{
    (void)machine;
    free(view);
}

static enum thole_code noop_query(void *machine, const void *view, struct thole_slice query,
                                  struct thole_sink *answer, struct thole_status *st)
{
    const struct noop *m = view;
    char text[128];

    (void)machine;
    if (query.size > 0 && !slice_equal(slice_of(query.data, query.size), slice_str("get"))) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "noop's queries are \"get\" and nothing at all");
    }
    int n = snprintf(text, sizeof text,
                     "entries=%" PRIu64 " bytes=%" PRIu64 " index=%" PRIu64 " hash=%016" PRIx64,
                     m->entries, m->bytes, m->index, m->hash);
    return answer->write(answer, text, (size_t)n);
}

static enum thole_code noop_save(void *machine, const void *view, struct thole_save *to,
                                 struct thole_status *st)
{
    struct thole_sink *out = to->out;
    const struct noop *m = view;
    uint8_t bytes[SNAPSHOT_BYTES];

    (void)machine, (void)st;
    put_le64(bytes, m->entries);
    put_le64(bytes + 8, m->bytes);
    put_le64(bytes + 16, m->index);
    put_le64(bytes + 24, m->hash);
    return out->write(out, bytes, sizeof bytes);
}

static enum thole_code noop_restore(void *machine, struct thole_restore *from,
                                    struct thole_status *st)
{
    struct thole_source *in = from->in;
    struct noop *m = machine;
    uint8_t bytes[SNAPSHOT_BYTES + 1];
    size_t have = 0;
    int64_t n;

    while (have < sizeof bytes && (n = in->read(in, bytes + have, sizeof bytes - have)) > 0) {
        have += (size_t)n;
    }
    if (have != SNAPSHOT_BYTES) {
        return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "not a noop's snapshot");
    }
    *m = (struct noop){
        .entries = get_le64(bytes),
        .bytes = get_le64(bytes + 8),
        .index = get_le64(bytes + 16),
        .hash = get_le64(bytes + 24),
    };
    return THOLE_OK;
}

const struct thole_machine_type machine_noop = {
    .size = sizeof(struct thole_machine_type),
    .version = 1,
    .name = "noop",
    .open = noop_open,
    .close = noop_close,
    .apply = noop_apply,
    .query = noop_query,
    .view_acquire = noop_view_acquire,
    .view_release = noop_view_release,
    .save = noop_save,
    .restore = noop_restore,
};
