/* Commands, queries and snapshots from outside: the machine must answer each one without
 * failing. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/file.h"
#include "shards/machine/builtin.h"
#include "shards/machine/test/machine_fixture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct test_machine machine;

static void at_exit(void)
{
    test_machine_deinit(&machine);
}

/* Commands: repeated [size 1][payload], in one batch. */
static void fuzz_commands(const uint8_t *data, size_t size)
{
    struct thole_entry e[32] = {0};
    struct test_sink sinks[32];
    size_t n = 0;

    for (; n < 32 && size > 0; n++) {
        size_t take = data[0] < size ? data[0] : size - 1;

        e[n] = test_entry(++machine.index, slice_of(data + 1, take), &sinks[n]);
        data += 1 + take;
        size -= 1 + take;
    }
    struct thole_apply batch = test_batch(e, n);
    ASSERT(machine.type->apply(machine.m, &batch, NULL) == THOLE_OK);
    for (size_t i = 0; i < n; i++) {
        ASSERT(e[i].code <= THOLE_UNAUTHENTICATED);
        bytes_deinit(&sinks[i].out);
    }
}

static void fuzz_query(const uint8_t *data, size_t size)
{
    struct test_sink sink;
    void *view = NULL;

    test_sink_init(&sink);
    ASSERT(machine.type->view_acquire(machine.m, &view, NULL) == THOLE_OK);
    enum thole_code code =
        machine.type->query(machine.m, view, (struct thole_slice){data, size}, &sink.base, NULL);
    ASSERT(code == THOLE_OK || code == THOLE_INVALID_ARGUMENT || code == THOLE_NOT_FOUND ||
           code == THOLE_OUT_OF_RANGE || code == THOLE_FAILED_PRECONDITION ||
           code == THOLE_PERMISSION_DENIED || code == THOLE_ABORTED ||
           code == THOLE_UNAUTHENTICATED);
    machine.type->view_release(machine.m, view);
    bytes_deinit(&sink.out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (machine.m == NULL) {
        test_machine_init(&machine, &machine_kv);
        atexit(at_exit);
    }
    if (size == 0) {
        return 0;
    }
    if (data[0] % 8 == 0) {
        enum thole_code code = test_restore(&machine, slice_of(data + 1, size - 1), 7, NULL);
        ASSERT(code == THOLE_OK || code == THOLE_DATA_LOSS);
        /* Records that are sound by themselves may contradict each other: start anew. */
        machine.type->close(machine.m);
        machine.env.generation++;
        ASSERT(machine.type->open(&machine.env, &machine.m, NULL) == THOLE_OK);
    } else if (data[0] % 2 == 0) {
        fuzz_query(data + 1, size - 1);
    } else {
        fuzz_commands(data + 1, size - 1);
    }
    return 0;
}
