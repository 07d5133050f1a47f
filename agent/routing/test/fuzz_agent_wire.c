/* Any bytes as the body of an exchange: refused, or decoded to a message that encodes the same way
 * again. */
#include "agent/lib/api_internal.h"
#include "agent/routing/forward_codec.h"
#include "agent/routing/registry_command.h"
#include "agent/routing/router.h"
#include "base/assert.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void inside(struct slice in, struct slice part)
{
    ASSERT(part.size == 0 || (part.data >= in.data && part.data + part.size <= in.data + in.size));
}

static void request(struct slice in)
{
    struct forwarded f, again;
    struct forward_space space;
    if (!router_decode_forward(in, &f)) {
        return;
    }
    inside(in, f.payload);
    inside(in, f.shard_name);
    inside(in, f.request_id);
    struct router_request r = {.kind = f.close_session  ? ROUTER_CLOSE_SESSION
                                       : f.open_session ? ROUTER_OPEN_SESSION
                                                        : ROUTER_PROPOSE,
                               .shard_id = f.shard_id,
                               .payload = {.bytes = f.payload},
                               .session = f.session,
                               .sequence = f.sequence,
                               .request_id = f.request_id,
                               .stale = f.stale,
                               .max_staleness_ms = f.max_staleness_ms,
                               .hops = f.hops};
    struct bufslice out = router_encode_forward(&r, NULL, &space);
    ASSERT(router_decode_forward(out.bytes, &again));
    ASSERT(slice_equal(again.payload, f.payload) && again.session == f.session &&
           again.hops == f.hops && slice_equal(again.request_id, f.request_id) &&
           again.close_session == f.close_session &&
           again.open_session == (f.open_session && !f.close_session));
    bufslice_unref(out);
}

static void reply(struct slice in)
{
    struct forward_reply f, again;
    struct forward_space space;
    if (!router_decode_reply(in, &f)) {
        return;
    }
    inside(in, f.result);
    inside(in, f.key);
    struct bufslice out = router_encode_reply(&f, &space);
    ASSERT(router_decode_reply(out.bytes, &again));
    ASSERT(slice_equal(again.result, f.result) && again.failure.code == f.failure.code &&
           again.index == f.index);
    bufslice_unref(out);
}

static void command(struct slice in)
{
    static struct access *nothing_enforced;
    struct bufslice out, again;
    struct bus_denial d;
    if (nothing_enforced == NULL) {
        nothing_enforced = access_new(&(struct access_options){.clock = &clock_system});
    }
    const struct router_client client = {.access = nothing_enforced, .address = "fuzz"};
    if (router_admit_command(in, NULL, &out, &d) == THOLE_OK) {
        ASSERT(out.bytes.data == in.data && out.bytes.size == in.size);
    }
    if (router_admit_command(in, &client, &out, &d) == THOLE_OK) {
        ASSERT(router_admit_command(out.bytes, &client, &again, &d) == THOLE_OK);
        bufslice_unref(again);
        bufslice_unref(out);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    struct slice in = slice_of(data + 1, size - 1);
    switch (data[0] % 3) {
    case 0:
        request(in);
        break;
    case 1:
        reply(in);
        break;
    default:
        command(in);
    }
    return 0;
}
