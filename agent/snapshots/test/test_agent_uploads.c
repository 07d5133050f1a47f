/* Uploads of snapshot files never use the disk's reserve, whatever else is written at the same
 * time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/core/test/agent_fixture.h"
#include "agent/snapshots/snapshot_file.h"
#include "agent/snapshots/uploads.h"
#include "base/latch.h"
#include "shards/engine/snapshot/files.h"

#include <cmocka.h>

static _Atomic uint64_t disk_free;

static enum thole_code fake_space(struct engine_files *f, uint64_t *ret, struct thole_status *st)
{
    (void)f;
    (void)st;
    *ret = atomic_load(&disk_free);
    return THOLE_OK;
}

/* The header of a file with a body of that many bytes, and a part of the body. */
static void make_beginning(uint64_t body_bytes, size_t some, struct bytes *out)
{
    upb_Arena *arena = upb_Arena_New();
    thole_v1_SnapshotFile *head = thole_v1_SnapshotFile_new(arena);
    thole_v1_SnapshotFile_set_format(head, SNAPSHOT_FILE_FORMAT);
    thole_v1_SnapshotFile_set_shard(head, upb_StringView_FromString("orders"));
    (void)thole_v1_SnapshotFile_mutable_spec(head, arena);
    thole_v1_SnapshotFile_set_index(head, 7);
    thole_v1_SnapshotFile_set_term(head, 2);
    thole_v1_SnapshotFile_set_body_bytes(head, body_bytes);
    bytes_clear(out);
    snapshot_file_head(head, out);
    memset(bytes_extend(out, some), 'x', some);
    upb_Arena_Free(arena);
}

struct put {
    struct latch done;
    struct thole_status st;
    char name[64];
    uint64_t received;
};

static void on_put(void *ctx, const struct thole_status *st, const struct upload_state *state)
{
    struct put *p = ctx;
    if (state != NULL) {
        (void)snprintf(p->name, sizeof p->name, "%s", state->name);
        p->received = state->received;
    }
    latch_open(&p->done, st);
}

static struct put put(struct agent *a, const char *name, uint64_t offset, struct slice bytes)
{
    struct put p = {.received = 0};
    latch_init(&p.done);
    struct buf *b = buf_copy(bytes.data, bytes.size);
    uploads_put(agent_uploads(a), slice_str(name), offset,
                (struct bufslice){b, slice_of(b->data, b->size)}, on_put, &p);
    (void)latch_wait(&p.done, &p.st);
    latch_deinit(&p.done);
    return p;
}

static void test_uploads_share_what_is_free_and_keep_the_reserve(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(1);
    fixture_start_ok(f, 0, AGENT_BOOTSTRAP_DEV);
    struct agent *a = f->agents[0];
    struct engine_files *files = uploads_files(agent_uploads(a));
    struct engine_files_ops ops = *files->ops;
    ops.space = fake_space;
    files->ops = &ops;

    struct bytes file = {0};
    const uint64_t mib = MIB;
    atomic_store(&disk_free, 1024 * mib); /* 256 of which stay free */
    make_beginning(300 * mib, 1000, &file);
    struct put first = put(a, "", 0, bytes_slice(&file));
    assert_int_equal(first.st.code, THOLE_OK);
    assert_int_equal(first.received, file.size);
    struct put second = put(a, "", 0, bytes_slice(&file)); /* alone it would fit */
    assert_int_equal(second.st.code, THOLE_RESOURCE_EXHAUSTED);
    assert_int_equal(second.st.reason, THOLE_REASON_DISK);
    make_beginning(10 * mib, 0, &file);
    struct put small = put(a, "", 0, bytes_slice(&file));
    assert_int_equal(small.st.code, THOLE_OK);

    atomic_store(&disk_free, 256 * mib + 500); /* another process wrote */
    struct put rest = put(a, first.name, first.received, slice_of(file.data, 10));
    assert_int_equal(rest.st.code, THOLE_OK);
    uint8_t more[1000] = {0};
    rest = put(a, first.name, rest.received, slice_of(more, sizeof more));
    assert_int_equal(rest.st.code, THOLE_RESOURCE_EXHAUSTED);
    assert_int_equal(rest.st.reason, THOLE_REASON_DISK);
    rest = put(a, first.name, rest.received, slice_of(more, 10)); /* the upload was aborted */
    assert_int_equal(rest.st.code, THOLE_NOT_FOUND);

    atomic_store(&disk_free, 1024 * mib); /* so its reservation is free again */
    make_beginning(300 * mib, 0, &file);
    assert_int_equal(put(a, "", 0, bytes_slice(&file)).st.code, THOLE_OK);
    bytes_deinit(&file);
    fixture_stop(f, 0);
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uploads_share_what_is_free_and_keep_the_reserve),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
