/* Any bytes as a spec: an error or messages, never a crash, a loop or much memory. */
#include "agent/cli/cli.h"
#include "agent/cli/spec.h"
#include "base/assert.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static upb_DefPool *pool;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (pool == NULL) {
        pool = upb_DefPool_New();
    }
    upb_Arena *arena = upb_Arena_New();
    struct spec_list list = {0};
    struct spec_error error = {{0}};
    bool ok = spec_parse(pool, arena, "fuzz", slice_of(data, size), &list, &error);
    ASSERT(ok || error.text[0] != '\0');
    spec_list_deinit(&list);
    upb_Arena_Free(arena);
    return 0;
}
