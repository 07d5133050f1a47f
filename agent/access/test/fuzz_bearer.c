/* Any bytes as "authorization", and as a pattern with a name: refused, or a token that is its own
 * text again; never a read outside, or a loop. */
#include "agent/access/bearer.h"
#include "agent/access/rights.h"
#include "base/assert.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice text;
    struct bearer b;
    struct slice value = slice_of(data, size);
    if (bearer_of_authorization(value, &text)) {
        ASSERT(text.size > 0 && text.size < size);
        if (bearer_parse(text, &b)) {
            ASSERT(text.size == BEARER_BYTES);
        }
    }
    (void)bearer_parse(value, &b);
    size_t half = size > 0 ? data[0] % size : 0;
    (void)rights_pattern_fits(slice_of(data, half), slice_of(data + half, size - half));
    return 0;
}
