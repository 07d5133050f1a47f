/* Any bytes as a command on a small cluster: never a failure, and every invariant holds after. */
#include "registry/test/registry_fixture.h"

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct bytes start;
    struct fixture f;
    struct thole_status st;
    fixture_init(&f);
    if (start.size == 0) {
        do_bootstrap(&f, 3);
        do_create_shard(&f, "a", 3, 1);
        do_place(&f, 1, 0, 3);
        do_formed(&f, 1, 4, 1);
        do_remove_replica(&f, 4);
        do_create_shard(&f, "b", 1, 0);
        fixture_save(&f, &start);
    } else if (fixture_restore(&f, bytes_slice(&start), &st) != THOLE_OK) {
        __builtin_trap();
    }
    fixture_apply(&f, slice_of(data, size));
    struct registry_view *v = registry_view_acquire(f.r);
    check_invariants(v);
    registry_view_release(v);
    (void)fixture_restore(&f, slice_of(data, size), &st);
    fixture_deinit(&f);
    return 0;
}
