/* Any bytes as the registry snapshot that founds a new cluster. The result is an error, or a
 * snapshot that restores. The restored registry keeps its invariants, and can found another
 * cluster. */
#include "base/assert.h"
#include "registry/test/registry_fixture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(struct slice snapshot)
{
    struct fixture f;
    struct thole_status st;
    fixture_init(&f);
    ASSERT(fixture_restore(&f, snapshot, &st) == THOLE_OK);
    struct registry_view *v = registry_view_acquire(f.r);
    check_invariants(v);
    registry_view_release(v);
    fixture_deinit(&f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct registry_refound o = {.cluster = test_uuid(77),
                                       .host = test_uuid(9),
                                       .host_name = "h9",
                                       .seed_file = "0f3a-1",
                                       .index = 12,
                                       .time_ms = 1000};
    struct registry_refounded done;
    struct thole_status st = {0};
    struct bytes once = {0}, twice = {0};
    if (registry_refound(slice_of(data, size), &o, &once, &done, &st) == THOLE_OK) {
        check(bytes_slice(&once));
        ASSERT(registry_refound(bytes_slice(&once), &o, &twice, &done, &st) == THOLE_OK);
        check(bytes_slice(&twice));
    } else {
        ASSERT(st.message[0] != '\0' && once.size == 0);
    }
    bytes_deinit(&once);
    bytes_deinit(&twice);
    return 0;
}
