/* thole.v1.Diagnostics, and calls about one host: the host that is called asks that host. */
#include <stdio.h>
#include <string.h>
#include <upb/encode.h>

#include "agent/core/host_report.h"
#include "agent/services/services_internal.h"
#include "base/log.h"
#include "proto/decode.h"
#include "thole/bus/v1/agent.upb.h"

static upb_StringView copy_text(struct call *c, const char *text)
{
    size_t size = strlen(text);
    char *copy = upb_Arena_Malloc(c->arena, size + 1);
    memcpy(copy, text, size + 1);
    return (upb_StringView){copy, size};
}

/* ---- Calls about one host -------------------------------------------------------------------- */

static void answered(void *ctx, const struct thole_status *st, struct bufslice body, bool more)
{
    struct call *c = ctx;
    struct bytes reply = {0};
    if (more) {
        return;
    }
    if (st->code != THOLE_OK) {
        services__call_fail(c, st);
        return;
    }
    bytes_append_slice(&reply, body.bytes);
    services__call_reply_bytes(c, &reply);
}

static void ask(struct call *c, const struct uuid *host)
{
    char *request = NULL;
    size_t size = 0;
    (void)upb_Encode(c->request, c->unary->request, 0, c->arena, &request, &size);
    thole_bus_v1_HostCall *call = thole_bus_v1_HostCall_new(c->arena);
    thole_bus_v1_HostCall_set_path(call, upb_StringView_FromString(c->unary->path));
    thole_bus_v1_HostCall_set_request(call, upb_StringView_FromDataAndSize(request, size));
    uint64_t now = clock_now(&clock_system);
    uint64_t left_ms = c->deadline_ns > now ? (c->deadline_ns - now) / NS_PER_MS : 0;
    (void)bus_exchange(agent_bus(c->s->agent), host, METHOD_CALL,
                       services__encode(call, &thole_bus_v1_HostCall_msginit, c->arena),
                       left_ms > 0 ? (uint32_t)left_ms : 1, answered, c);
}

void services__call_on_host(struct call *c, upb_StringView name, call_fn here)
{
    struct agent *a = c->s->agent;
    struct thole_status st;
    struct uuid host;
    if (c->peer != NULL || name.size == 0 ||
        slice_equal(registry_str(name), slice_str(agent_name(a)))) {
        here(c);
        return;
    }
    services__call_about(c, "host", name);
    if (!services__call_name(c, "name", name)) {
        return;
    }
    struct registry_view *v = registry_view_acquire(agent_registry(a));
    const thole_v1_Host *row = registry_host_by_name(v, registry_str(name));
    bool found = row != NULL && uuid_parse(registry_str(thole_v1_Host_id(row)), &host);
    registry_view_release(v);
    if (!found) {
        (void)THOLE_FAIL(&st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_HOST, "host \"%.*s\" not found",
                         (int)name.size, name.data);
        services__call_fail(c, &st);
        return;
    }
    ask(c, &host);
}

void services__serve_peer(void *ctx, struct bus_request *q)
{
    upb_Arena *arena = upb_Arena_New();
    struct thole_status st;
    struct slice body = bus_request_body(q);
    const thole_bus_v1_HostCall *call = PROTO_DECODE(thole_bus_v1_HostCall, body, arena);
    const struct unary *method =
        call != NULL ? services__method_of_host(registry_str(thole_bus_v1_HostCall_path(call)))
                     : NULL;
    if (method != NULL) {
        services__call_of_peer(ctx, method, q, registry_str(thole_bus_v1_HostCall_request(call)));
    } else {
        (void)THOLE_FAIL(&st, THOLE_UNIMPLEMENTED, THOLE_REASON_NONE,
                         "this host does not answer that call for other hosts");
        bus_answer_failure(q, &st);
    }
    upb_Arena_Free(arena);
}

/* ---- Log levels ------------------------------------------------------------------------------ */

static void reply_levels(struct call *c)
{
    char levels[LOG_LEVELS_BYTES];
    thole_v1_LogLevels *reply = thole_v1_LogLevels_new(c->arena);
    log_levels_text(levels);
    thole_v1_LogLevels_set_host(reply, copy_text(c, agent_name(c->s->agent)));
    thole_v1_LogLevels_set_levels(reply, copy_text(c, levels));
    services__call_reply(c, reply, &thole_v1_LogLevels_msginit);
}

void services__log_levels_get(struct call *c)
{
    services__call_on_host(c, services__name_of_GetLogLevels(c), reply_levels);
}

static void set_levels(struct call *c)
{
    upb_StringView levels = thole_v1_SetLogLevelsRequest_levels(c->request);
    char text[LOG_LEVELS_BYTES];
    snprintf(text, sizeof text, "%.*s", (int)levels.size, levels.size > 0 ? levels.data : "");
    if (levels.size >= sizeof text || strlen(text) != levels.size || !log_configure_text(text)) {
        services__call_refuse(c, "levels",
                              "must be a level (error, warn, info, debug), or a list such as "
                              "info,raft=debug; subjects are base, store, raft, engine, machine, "
                              "bus, registry, hostctl, agent, daemon");
        return;
    }
    LOG_WARN(AGENT, "log levels changed levels=%s; the next start has those of its options", text);
    reply_levels(c);
}

void services__log_levels_set(struct call *c)
{
    services__call_on_host(c, services__name_of_SetLogLevels(c), set_levels);
}

/* ---- Reports --------------------------------------------------------------------------------- */

static void report_here(struct call *c)
{
    thole_v1_HostReport *report = thole_v1_HostReport_new(c->arena);
    thole_v1_HostReport_set_status(report, services__status(c));
    agent_host_report(c->s->agent, report, c->arena);
    services__call_reply(c, report, &thole_v1_HostReport_msginit);
}

void services__host_report(struct call *c)
{
    services__call_on_host(c, services__name_of_GetHostReport(c), report_here);
}
