/* Any bytes as a snapshot file, in pieces of any size: an error, or a valid file. */
#include "agent/snapshots/snapshot_file.h"
#include "base/assert.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct thole_status st = {0};
    struct snapshot_check *k = snapshot_check_new();
    size_t piece = size > 0 ? 1 + data[0] % 64 : 1;
    enum thole_code code = THOLE_OK;
    uint64_t body = 0;
    for (size_t at = 0; at < size && code == THOLE_OK; at += piece) {
        struct slice got = {0};
        size_t n = size - at < piece ? size - at : piece;
        code = snapshot_check_feed(k, slice_of(data + at, n), &got, &st);
        ASSERT(got.size <= n);
        body += got.size;
    }
    ASSERT(code == THOLE_OK || st.message[0] != '\0');
    if (code == THOLE_OK && snapshot_check_end(k, &st) == THOLE_OK) {
        ASSERT(snapshot_check_fed(k) == size && snapshot_check_total(k) == size);
        ASSERT(body == thole_v1_SnapshotFile_body_bytes(snapshot_check_head(k)));
    }
    snapshot_check_free(k);
    return 0;
}
