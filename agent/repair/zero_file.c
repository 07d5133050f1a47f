/* Reading a snapshot file of the registry. See zero_file.h. */
#include "agent/repair/zero_file.h"

#include "base/file.h"

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
    if (z->view != NULL) {
        registry_view_release(z->view);
    }
    registry_free(z->registry);
    buf_unref(z->bytes);
    snapshot_check_free(z->check);
    *z = (struct zero_file){0};
}

struct slice zero_file_machine(const struct zero_file *z)
{
    return slice_of(z->body.data + z->machine,
                    z->body.size - SNAPSHOT_FILE_TRAILER_BYTES - z->machine);
}

enum thole_code zero_file_read(struct zero_file *z, struct thole_status *st)
{
    enum thole_code code = registry_of_snapshot(zero_file_machine(z), &z->registry, st);
    if (code == THOLE_OK) {
        z->view = registry_view_acquire(z->registry);
    }
    return code;
}
