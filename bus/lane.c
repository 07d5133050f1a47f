/* The callee's side of Bus.Lane: frames received. */
#include "bus/bus_internal.h"

#define LANE_METRICS(name)                                                                         \
    static METRIC_DEFINE_COUNTER(metric_##name##_in, "thole_bus_" #name "_frames_in_total",        \
                                 "Frames received on the " #name " lane");                         \
    static METRIC_DEFINE_COUNTER(metric_##name##_out, "thole_bus_" #name "_frames_out_total",      \
                                 "Frames queued for the " #name " lane");                          \
    static METRIC_DEFINE_COUNTER(metric_##name##_in_bytes, "thole_bus_" #name "_in_bytes_total",   \
                                 "Bytes of frames received on the " #name " lane");                \
    static METRIC_DEFINE_COUNTER(metric_##name##_out_bytes, "thole_bus_" #name "_out_bytes_total", \
                                 "Bytes of frames queued for the " #name " lane")
LANE_METRICS(control);
LANE_METRICS(append);
LANE_METRICS(snapshot);

void bus__frame_sent(enum bus_lane lane, size_t bytes)
{
    bool control = lane == BUS_LANE_CONTROL, append = lane == BUS_LANE_APPEND;
    metric_add(control  ? &metric_control_out
               : append ? &metric_append_out
                        : &metric_snapshot_out,
               1);
    metric_add(control  ? &metric_control_out_bytes
               : append ? &metric_append_out_bytes
                        : &metric_snapshot_out_bytes,
               (int64_t)bytes);
}

void bus__frame_received(enum bus_lane lane, size_t bytes)
{
    bool control = lane == BUS_LANE_CONTROL, append = lane == BUS_LANE_APPEND;
    metric_add(control ? &metric_control_in : append ? &metric_append_in : &metric_snapshot_in, 1);
    metric_add(control  ? &metric_control_in_bytes
               : append ? &metric_append_in_bytes
                        : &metric_snapshot_in_bytes,
               (int64_t)bytes);
}

static void on_message(void *ctx, struct bus_rpc *rpc, struct bufslice message)
{
    struct bus *b = ctx;
    struct bus_inbound *in = bus__inbound_of(b, rpc, true);
    struct bus_hello hello;
    bool has_hello = false;
    struct slice body = {0};
    if (!bus__lane_decode(message.bytes, &has_hello, &hello, &body)) {
        bus__inbound_malformed(in, "not a LaneMessage");
        return;
    }
    if (!in->known) {
        bus__inbound_greet(in, has_hello ? &hello : NULL);
        return;
    }
    if (has_hello) {
        bus__inbound_malformed(in, "a second hello");
        return;
    }
    enum bus_lane lane = (enum bus_lane)in->hello.lane;
    bus__frame_received(lane, body.size);
    if (b->o.handler.frame != NULL) {
        b->o.handler.frame(b->o.handler.ctx, &in->hello.host, in->incarnation, lane,
                           (struct bufslice){message.owner, body});
    }
}

static void on_end(void *ctx, struct bus_rpc *rpc)
{
    bus__inbound_end(bus__inbound_of(ctx, rpc, true), NULL);
}

void bus__lane_register(struct bus *b)
{
    const struct bus_method m = {
        .path = "/thole.bus.v1.Bus/Lane", .kind = BUS_RPC_BIDI_STREAM, .ctx = b, .end = on_end};
    struct bus_entry *e = bus__register(b, &m);
    e->handle_buf = on_message;
    e->inward = true;
}
