/* Any bytes from a peer: the decoders accept or refuse them, and every decoded slice lies in the
 * input. */
#include <string.h>

#include "bus/bus_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void inside(struct slice in, struct slice part)
{
    ASSERT(part.size == 0 || (part.data >= in.data && part.data + part.size <= in.data + in.size));
}

static void on_item(void *ctx, struct bus_item *item)
{
    inside(*(struct slice *)ctx, item->body);
    ASSERT(item->failure == NULL || item->failure->code != THOLE_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice in = {data, size}, body = {0};
    struct bus_hello hello;
    struct bus_item item = {0};
    bool has_hello;
    if (bus__lane_decode(in, &has_hello, &hello, &body)) {
        inside(in, body);
    }
    if (bus__ask_decode(in, &hello, &item)) {
        inside(in, item.body);
    }
    if (bus__answer_decode(in, &hello, &body)) {
        inside(in, body);
    }
    bus__exchange_decode(in, &has_hello, &hello, on_item, &in);
    struct thole_status st;
    grpc_metadata m = {.key = bus__details_key(),
                       .value = grpc_slice_from_copied_buffer((const char *)data, size)};
    const grpc_metadata_array trailing = {.count = 1, .capacity = 1, .metadata = &m};
    bus__status_decode(GRPC_STATUS_ABORTED, m.value, &trailing, true, &st);
    grpc_slice_unref(m.value);
    return 0;
}
