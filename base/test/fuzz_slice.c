/* Any bytes as varints and slices: no read is out of bounds, and accepted input encodes the same
 * again. The same bytes as a log message give one line. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/buf.h"
#include "base/log_internal.h"
#include "base/uuid.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void take_varints(struct slice s)
{
    uint64_t v;
    struct slice before = s, part;
    struct bytes again = {0};
    while (slice_take_varint(&s, &v)) {
        bytes_clear(&again);
        bytes_append_varint(&again, v);
        size_t taken = before.size - s.size;
        ASSERT(slice_equal(bytes_slice(&again), slice_of(before.data, taken)));
        if (slice_take(&s, (size_t)(v % 16), &part)) {
            ASSERT(part.size == v % 16);
        }
        before = s;
    }
    bytes_deinit(&again);
}

static void render(const char *text)
{
    struct bytes out = {0};
    struct log_line line = {.subject = LOG_BASE, .message = text, .host = text};
    log__render_text(&out, &line);
    ASSERT(memchr(out.data, '\n', out.size) == out.data + out.size - 1);
    bytes_clear(&out);
    log__render_json(&out, &line);
    ASSERT(memchr(out.data, '\n', out.size) == out.data + out.size - 1);
    bytes_deinit(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    take_varints(slice_of(data, size));
    char *text = xstrndup((const char *)data, size);
    struct uuid u;
    if (uuid_parse(slice_str(text), &u)) {
        char again[UUID_TEXT_BYTES];
        uuid_format(&u, again);
        ASSERT(strcmp(text, again) == 0);
    }
    render(text);
    (void)log_configure_text(text);
    free(text);
    return 0;
}
