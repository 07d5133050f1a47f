/* Accessors of a call for its handler: context, deadline and caller. */
#include <grpc/support/alloc.h>
#include <stdlib.h>
#include <string.h>

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

/* ---- Who calls ------------------------------------------------------------------------------- */

struct slice bus_rpc_metadata(const struct bus_rpc *rpc, const char *name)
{
    size_t size = strlen(name);

    if (rpc->local != NULL) {
        return bus__local_header(rpc->local, name);
    }
    for (size_t i = 0; i < rpc->metadata.count; i++) {
        const grpc_metadata *m = &rpc->metadata.metadata[i];
        if (GRPC_SLICE_LENGTH(m->key) == size &&
            memcmp(GRPC_SLICE_START_PTR(m->key), name, size) == 0) {
            return slice_of(GRPC_SLICE_START_PTR(m->value), GRPC_SLICE_LENGTH(m->value));
        }
    }
    return (struct slice){0};
}

void bus_rpc_who(const struct bus_rpc *rpc, struct bus_identity *ret)
{
    const struct bus_certificate *c = rpc->certificate;
    *ret = (struct bus_identity){
        .kind = c == NULL   ? BUS_ANONYMOUS
                : c->c.host ? BUS_HOST
                            : BUS_CLIENT,
        .secure = rpc->bus->o.tls != NULL,
        .name = c != NULL ? c->c.name : "",
        .ours = c != NULL && c->c.cluster[0] != '\0',
        .authorization = bus_rpc_metadata(rpc, "authorization"),
    };
}

void bus_rpc_identity(const struct bus_rpc *rpc, struct bus_identity *ret)
{
    bus_rpc_who(rpc, ret);
    ret->address = bus_rpc_peer(rpc);
}

void bus_rpc_set_user(struct bus_rpc *rpc, void *user, void (*free_fn)(void *user))
{
    ASSERT(rpc->user == NULL);
    rpc->user = user;
    rpc->user_free = free_fn;
}

void *bus_rpc_user(const struct bus_rpc *rpc)
{
    return rpc->user;
}

void *bus_rpc_scratch(struct bus_rpc *rpc)
{
    return rpc->scratch;
}

void bus__rpc_forget_caller(struct bus_rpc *r)
{
    gpr_free(r->peer);
    r->peer = NULL;
    bus__certificate_unref(r->certificate);
    r->certificate = NULL;
    r->denied = false;
    if (r->user != NULL) {
        r->user_free(r->user);
        r->user = NULL;
        memset(r->scratch, 0, sizeof r->scratch);
    }
}

/* ---- What the caller may do ------------------------------------------------------------------ */

#define LOOK_MS 500

static enum thole_code authorise(struct bus_rpc *r, struct bus_denial *ret)
{
    const struct bus_handler *h = &r->bus->o.handler;
    ret->right[0] = '\0';
    return h->authorise == NULL ? THOLE_OK : h->authorise(h->ctx, r, r->entry->m.path, ret);
}

bool bus__rpc_admit(struct bus_rpc *r)
{
    struct bus_denial d;
    if (authorise(r, &d) == THOLE_OK) {
        return true;
    }
    const char *metadata[] = {"right", d.right, NULL};
    bus_rpc_fail(r, &d.st, 0, d.right[0] != '\0' ? metadata : NULL);
    return false;
}

void bus__streams_add(struct bus_streams *s, struct bus_rpc *r)
{
    if (!bus__rpc_ref_if_used(r)) {
        return;
    }
    if ((s->count & (s->count - 1)) == 0) { /* a power of two: full */
        s->all = xrealloc(s->all, (s->count ? s->count * 2 : 1) * sizeof(struct bus_rpc *));
    }
    s->all[s->count++] = r;
}

void bus__streams_deinit(struct bus_streams *s)
{
    for (size_t i = 0; i < s->count; i++) {
        bus__rpc_unref(s->all[i]);
    }
    free(s->all);
}

static void list_streams(struct bus *b, struct bus_streams *ret)
{
    pthread_mutex_lock(&b->mutex);
    for (struct bus_rpc *r = b->streams; r != NULL; r = r->next_stream) {
        bus__streams_add(ret, r);
    }
    for (struct bus_inbound *in = b->inbound; in != NULL; in = in->next) {
        if (uuid_is_nil(&in->hello.host)) {
            bus__streams_add(ret, in->rpc);
        }
    }
    pthread_mutex_unlock(&b->mutex);
}

static void look(struct bus_timer *timer)
{
    struct bus *b = CONTAINER_OF(timer, struct bus, look);
    struct bus_streams open = {0};
    list_streams(b, &open);
    b->looking = false;
    for (size_t i = 0; i < open.count; i++) {
        struct bus_rpc *r = open.all[i];
        struct bus_denial d;
        if (!r->denied && !atomic_load(&r->finished) && authorise(r, &d) != THOLE_OK) {
            bus__rpc_end_stream(r, &d);
        }
    }
    if (open.count > 0) {
        bus__rpc_watch_streams(b);
    }
    bus__streams_deinit(&open);
}

void bus__rpc_watch_streams(struct bus *b)
{
    if (b->looking || b->o.tls == NULL || b->o.handler.authorise == NULL ||
        atomic_load(&b->stopping)) {
        return;
    }
    b->looking = true;
    b->look.fn = look;
    bus__loop_arm(&b->loop, &b->look, LOOK_MS);
}
