/* Any bytes as a command on a small cluster: the machine never fails, and every invariant holds
 * afterwards. */
#include "registry/test/registry_fixture.h"

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Well-formed commands, four bytes each. */
static void run_commands(struct fixture *f, const uint8_t *data, size_t size)
{
    static const char *const names[] = {"a", "b", "c", "zero"};
    for (; size >= 4; data += 4, size -= 4) {
        uint64_t n = data[1] % 6;
        const char *name = names[data[1] % 4];
        uint64_t replica = data[2] % 32;
        int32_t number = data[3] % 8;
        switch (data[0] % 13) {
        case 0:
            do_admit(f, n, data[3]);
            break;
        case 1:
            do_host_state(f, n, number);
            break;
        case 2:
            do_delete_host(f, n);
            break;
        case 3:
            do_liveness(f, n, number);
            break;
        case 4:
            do_create_shard(f, name, data[2], data[3]);
            break;
        case 5:
            do_update_shard(f, name, data[2], data[3], "");
            break;
        case 6:
            do_delete_shard(f, name);
            break;
        case 7:
            do_place_one(f, replica, n, number);
            break;
        case 8:
            do_create_replica(f, name, data[2] % 6, number);
            break;
        case 9:
            do_remove_replica(f, replica);
            break;
        case 10:
            do_set_role(f, replica, number);
            break;
        case 11:
            do_formed(f, replica, n, data[3]);
            break;
        default:
            do_observe(f, replica, number, data[3]);
            break;
        }
    }
}

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
    run_commands(&f, data, size);
    struct registry_view *v = registry_view_acquire(f.r);
    check_invariants(v);
    registry_view_release(v);
    (void)fixture_restore(&f, slice_of(data, size), &st);
    fixture_deinit(&f);
    return 0;
}
