/* Any text as the token of a page: refused, or the one token of its key. */
#include "agent/services/services_internal.h"
#include "base/assert.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes key = {0}, token = {0};
    if (size > 0 &&
        services__page_token_decode((enum page_kind)data[0], slice_of(data + 1, size - 1), &key)) {
        services__page_token_encode((enum page_kind)data[0], bytes_slice(&key), &token);
        ASSERT(slice_equal(bytes_slice(&token), slice_of(data + 1, size - 1)));
    }
    bytes_deinit(&key);
    bytes_deinit(&token);
    return 0;
}
