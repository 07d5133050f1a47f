/* Reading a snapshot file of the registry. See zero_file.h. */
#include "agent/repair/zero_file.h"

#include <string.h>

#include "base/file.h"
#include "base/worker.h"

/* A registry has a few hundred bytes per shard; this bounds what is read into memory. */
#define FILE_BYTES_MAX (UINT64_C(4) << 30)

/* ---- The file -------------------------------------------------------------------------------- */

static enum thole_code check_file(struct snapshot_check *k, const struct buf *file,
                                  struct slice *ret_body, struct thole_status *st)
{
    enum thole_code code = snapshot_check_feed(k, slice_of(file->data, file->size), ret_body, st);
    if (code == THOLE_OK) {
        code = snapshot_check_end(k, st);
    }
    if (code != THOLE_OK) {
        return code;
    }
    const thole_v1_SnapshotFile *head = snapshot_check_head(k);
    upb_StringView type = thole_v1_ShardSpec_type(thole_v1_SnapshotFile_spec(head));
    if (thole_v1_SnapshotFile_shard_id(head) != REGISTRY_SHARD_ID ||
        !slice_equal(registry_str(type), slice_str(REGISTRY_MACHINE_TYPE))) {
        upb_StringView name = thole_v1_SnapshotFile_shard(head);
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_BAD_REQUEST,
                          "this is a snapshot of shard \"%.*s\", not of the registry (shard zero)",
                          (int)name.size, name.size > 0 ? name.data : "");
    }
    return THOLE_OK;
}

/* Where the machine's bytes begin: after pieces prefixed by their sizes, ended by size 0. */
static enum thole_code find_machine(struct slice body, size_t *ret, struct thole_status *st)
{
    size_t end = body.size - SNAPSHOT_FILE_TRAILER_BYTES;
    for (size_t at = 0; end - at >= 4;) {
        uint32_t size = get_le32(body.data + at);
        at += 4;
        if (size == 0) {
            *ret = at;
            return THOLE_OK;
        }
        if (size > end - at) {
            break;
        }
        at += size;
    }
    return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                      "the snapshot file is damaged: its body is malformed");
}

/* ---- Face ------------------------------------------------------------------------------------ */

enum thole_code zero_file_open(const char *path, struct zero_file *ret, struct thole_status *st)
{
    struct zero_file z = {.check = snapshot_check_new()};
    enum thole_code code = file_read(path, FILE_BYTES_MAX, &z.bytes, st);
    if (code == THOLE_OK) {
        code = check_file(z.check, z.bytes, &z.body, st);
    }
    if (code == THOLE_OK) {
        code = find_machine(z.body, &z.machine, st);
    }
    if (code == THOLE_OK) {
        *ret = z;
    } else {
        zero_file_close(&z);
    }
    return code;
}

void zero_file_close(struct zero_file *z)
{
    buf_unref(z->bytes);
    snapshot_check_free(z->check);
    *z = (struct zero_file){0};
}

struct slice zero_file_machine(const struct zero_file *z)
{
    return slice_of(z->body.data + z->machine,
                    z->body.size - SNAPSHOT_FILE_TRAILER_BYTES - z->machine);
}

struct memory_source {
    struct thole_source base;
    struct slice rest;
};

static int64_t read_memory(struct thole_source *base, void *data, size_t size)
{
    struct memory_source *s = CONTAINER_OF(base, struct memory_source, base);
    size_t n = size < s->rest.size ? size : s->rest.size;
    if (n > 0) {
        memcpy(data, s->rest.data, n);
        s->rest = slice_of(s->rest.data + n, s->rest.size - n);
    }
    return (int64_t)n;
}

enum thole_code zero_file_view(const struct zero_file *z, struct registry **ret_registry,
                               struct registry_view **ret_view, struct thole_status *st)
{
    struct registry *r = registry_new();
    const struct thole_machine_type *type = registry_machine_type(r);
    struct memory_source source = {.base = {sizeof(struct thole_source), read_memory},
                                   .rest = zero_file_machine(z)};
    struct thole_restore from = {.size = sizeof from, .in = &source.base};
    const struct thole_machine_env env = {
        .size = sizeof env, .version = type->version, .replica_id = 1, .type_ctx = type->type_ctx};
    void *machine = NULL;
    enum thole_code code = type->open(&env, &machine, st);
    if (code == THOLE_OK) {
        code = type->restore(machine, &from, st);
        type->close(machine);
    }
    if (code == THOLE_OK) {
        *ret_view = registry_view_acquire(r);
        *ret_registry = r;
    } else {
        registry_free(r);
    }
    return code;
}
