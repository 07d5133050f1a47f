/* Accessors of a call for its handler: context, deadline and caller. */
#include "bus/bus_internal.h"

/* Treat a later deadline as none: adding its nanoseconds to the clock would overflow. Clients may
 * send 99999999 hours. */
#define DEADLINE_S_MAX (UINT64_MAX / NS_PER_S / 4)

void bus_rpc_set_data(struct bus_rpc *rpc, void *data, void (*free_fn)(void *data))
{
    rpc->data = data;
    rpc->data_free = free_fn;
}

void *bus_rpc_data(const struct bus_rpc *rpc)
{
    return rpc->data;
}

uint64_t bus__deadline_ns(uint64_t now_ns, int64_t left_s, int32_t left_ns)
{
    if (left_s < 0) {
        return now_ns;
    }
    if ((uint64_t)left_s >= DEADLINE_S_MAX) {
        return CLOCK_NEVER;
    }
    return now_ns + (uint64_t)left_s * NS_PER_S + (uint64_t)left_ns;
}

uint64_t bus_rpc_deadline_ns(const struct bus_rpc *rpc)
{
    gpr_timespec d = gpr_convert_clock_type(rpc->deadline, GPR_CLOCK_MONOTONIC);
    if (gpr_time_cmp(d, gpr_inf_future(GPR_CLOCK_MONOTONIC)) == 0) {
        return CLOCK_NEVER;
    }
    gpr_timespec left = gpr_time_sub(d, gpr_now(GPR_CLOCK_MONOTONIC));
    return bus__deadline_ns(clock_now(rpc->bus->clock), left.tv_sec, left.tv_nsec);
}

const char *bus_rpc_peer(const struct bus_rpc *rpc)
{
    struct bus_rpc *r = (struct bus_rpc *)(uintptr_t)rpc;
    pthread_mutex_lock(&r->mutex);
    if (r->peer == NULL) {
        r->peer = grpc_call_get_peer(r->call);
    }
    pthread_mutex_unlock(&r->mutex);
    return r->peer != NULL ? r->peer : "?";
}

void bus_rpc_identity(const struct bus_rpc *rpc, struct bus_identity *ret)
{
    const struct bus_certificate *c = rpc->certificate;
    *ret = (struct bus_identity){
        .kind = c == NULL   ? BUS_ANONYMOUS
                : c->c.host ? BUS_HOST
                            : BUS_CLIENT,
        .secure = rpc->bus->o.tls != NULL,
        .name = c != NULL ? c->c.name : "",
        .address = bus_rpc_peer(rpc),
    };
}
