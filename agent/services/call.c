/* One unary call of the control plane: decode, wait for the registry, answer or fail. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <upb/encode.h>

#include "agent/services/services_internal.h"
#include "base/assert.h"
#include "base/log.h"
#include "base/metrics.h"
#include "proto/decode.h"

uint64_t services__deadline(struct bus_rpc *rpc)
{
    uint64_t now = clock_now(&clock_system);
    uint64_t wanted = bus_rpc_deadline_ns(rpc);
    if (wanted == CLOCK_NEVER) {
        return now + SERVICES_DEADLINE_DEFAULT_MS * NS_PER_MS;
    }
    uint64_t latest = now + SERVICES_DEADLINE_MAX_MS * NS_PER_MS;
    return wanted < latest ? wanted : latest;
}

struct thole_status services__of_peer(const struct thole_status *st)
{
    struct thole_status ret = *st;
    if (ret.reason == THOLE_REASON_UNREACHABLE) {
        ret.reason = THOLE_REASON_PEER_UNREACHABLE;
    }
    return ret;
}

void services__fail(struct bus_rpc *rpc, const struct thole_status *st, const char *const *metadata)
{
    uint32_t retry_ms = 0;
    const struct thole_status shown = services__of_peer(st);
    if (st->code == THOLE_UNAVAILABLE) {
        retry_ms = SERVICES_RETRY_UNAVAILABLE_MS;
    } else if (st->reason == THOLE_REASON_QUEUE_FULL) {
        retry_ms = SERVICES_RETRY_BUSY_MS;
    }
    bus_rpc_fail(rpc, &shown, retry_ms, metadata);
}

enum thole_code services__no_room(struct thole_status *st)
{
    return THOLE_FAIL(st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_QUEUE_FULL,
                      "this host has too many bytes of waiting calls; retry after a pause");
}

const void *services__decode(struct bus_rpc *rpc, const upb_MiniTable *kind, struct slice message,
                             upb_Arena *arena)
{
    const char *why = NULL;
    const void *q = proto_decode(kind, message, false, arena, &why);
    if (q == NULL) {
        struct thole_status st;
        (void)THOLE_FAIL(&st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, "request: %s", why);
        services__fail(rpc, &st, (const char *const[]){"field", "request", NULL});
    }
    return q;
}

struct bufslice services__encode(const void *message, const upb_MiniTable *kind, upb_Arena *arena)
{
    char *bytes = NULL;
    size_t size = 0;
    upb_EncodeStatus status = upb_Encode(message, kind, 0, arena, &bytes, &size);
    ASSERT(status == kUpb_EncodeStatus_Ok); /* fails only if memory runs out */
    struct buf *copy = buf_copy(bytes, size);
    return (struct bufslice){copy, slice_of(copy->data, size)};
}

/* The memory of a call. The size of a request does not bound the memory of decoding it: an empty
 * message in a list takes 2 bytes on the wire and 50 when decoded. */
#define DECODED_BYTES_MAX (8 * MIB)
#define FIRST_BYTES 2048 /* enough for most calls */

struct call_memory {
    upb_alloc alloc;
    size_t used;
    size_t max;
    _Alignas(16) char first[FIRST_BYTES];
};

/* A upb_alloc_func. An arena frees nothing before its end. */
static void *bounded_alloc(upb_alloc *alloc, void *block, size_t old_size, size_t size)
{
    struct call_memory *m = CONTAINER_OF(alloc, struct call_memory, alloc);
    if (size > m->max - m->used) {
        return NULL;
    }
    m->used += size;
    return upb_alloc_global.func(&upb_alloc_global, block, old_size, size);
}

static struct call *call_new(void)
{
    struct call_memory *m = xmalloc(sizeof *m);
    m->alloc.func = bounded_alloc;
    m->used = 0;
    m->max = SIZE_MAX;
    upb_Arena *arena = upb_Arena_Init(m->first, sizeof m->first, &m->alloc);
    ASSERT(arena != NULL);
    struct call *c = upb_Arena_Malloc(arena, sizeof *c);
    ASSERT(c != NULL);
    *c = (struct call){.arena = arena, .memory = m};
    return c;
}

/* False: the call is over. */
static bool call_decode(struct call *c, const upb_MiniTable *kind, struct slice message)
{
    const char *why = NULL;
    c->memory->max = DECODED_BYTES_MAX;
    c->request = proto_decode(kind, message, false, c->arena, &why);
    c->memory->max = SIZE_MAX;
    if (c->request == NULL) {
        services__call_refuse(c, "request", "%s", why);
        return false;
    }
    if (c->rpc != NULL && !bus_rpc_hold(c->rpc, NULL, c->memory->used)) {
        struct thole_status st;
        (void)services__no_room(&st);
        services__call_fail(c, &st);
        return false;
    }
    return true;
}

static void call_free(struct call *c)
{
    struct call_memory *m = c->memory;
    if (c->view != NULL) {
        registry_view_release(c->view);
    }
    bufslice_unref(c->route.result);
    upb_Arena_Free(c->arena); /* with the call itself */
    free(m);
}

void services__call_handle(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    const struct unary_binding *binding = ctx;
    struct call *c = call_new();
    c->s = binding->s;
    c->unary = binding->unary;
    c->rpc = rpc;
    c->deadline_ns = services__deadline(rpc);
    if (call_decode(c, binding->unary->request, message) && services__call_is_allowed(c)) {
        binding->unary->run(c);
    }
}

void services__call_of_peer(struct services *s, const struct unary *unary, struct bus_request *q,
                            struct slice message)
{
    struct call *c = call_new();
    c->s = s;
    c->unary = unary;
    c->peer = q;
    if (call_decode(c, unary->request, message)) {
        unary->run(c);
    }
}

void services__call_about(struct call *c, const char *name, upb_StringView value)
{
    /* Longer names are refused elsewhere. Error details must fit into 8 KiB, clients' default. */
    if (value.size > LIMIT_NAME_BYTES) {
        return;
    }
    char *copy = upb_Arena_Malloc(c->arena, value.size + 1);
    if (value.size > 0) {
        memcpy(copy, value.data, value.size);
    }
    copy[value.size] = '\0';
    c->metadata[0] = name;
    c->metadata[1] = copy;
    c->metadata[2] = NULL;
}

void services__call_reply(struct call *c, const void *message, const upb_MiniTable *kind)
{
    struct bufslice reply = services__encode(message, kind, c->arena);
    if (c->peer != NULL) {
        (void)bus_answer(c->peer, reply, false);
    } else {
        bus_rpc_reply(c->rpc, reply);
    }
    call_free(c);
}

void services__call_reply_bytes(struct call *c, struct bytes *bytes)
{
    struct buf *reply = bytes_to_buf(bytes);
    bus_rpc_reply(c->rpc, (struct bufslice){reply, slice_of(reply->data, reply->size)});
    call_free(c);
}

void services__call_fail(struct call *c, const struct thole_status *st)
{
    services__call_fail_field(c, st, NULL);
}

void services__call_fail_field(struct call *c, const struct thole_status *st, const char *field)
{
    if (c->peer != NULL) {
        bus_answer_failure(c->peer, st);
        call_free(c);
        return;
    }
    const char *metadata[7] = {c->metadata[0], c->metadata[1], NULL};
    size_t at = metadata[0] != NULL ? 2 : 0;
    if (field != NULL) {
        metadata[at++] = "field";
        metadata[at++] = field;
    }
    if (c->right != NULL) {
        metadata[at++] = "right";
        metadata[at] = c->right;
    }
    services__fail(c->rpc, st, metadata[0] != NULL ? metadata : NULL);
    call_free(c);
}

void services__call_refuse(struct call *c, const char *field, const char *format, ...)
{
    char why[THOLE_STATUS_MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    struct thole_status st;
    (void)THOLE_FAIL(&st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, "%s: %s", field, why);
    services__call_fail_field(c, &st, field);
}

/* ---- Reads ----------------------------------------------------------------------------------- */

static void barrier_done(void *ctx, const struct thole_status *st)
{
    struct call *c = ctx;
    if (st->code != THOLE_OK) {
        services__call_fail(c, st);
        return;
    }
    ASSERT(c->view == NULL && c->next != NULL);
    c->view = registry_view_acquire(agent_registry(c->s->agent));
    c->next(c);
}

void services__call_read(struct call *c, bool stale, call_fn next)
{
    ASSERT(c->view == NULL);
    c->next = next;
    struct thole_status st;
    if (stale && !agent_has_view(c->s->agent, &st)) {
        services__call_fail(c, &st);
        return;
    }
    if (stale) {
        c->view = registry_view_acquire(agent_registry(c->s->agent));
        next(c);
        return;
    }
    agent_barrier(c->s->agent, c->deadline_ns, barrier_done, c);
}

/* ---- Commands -------------------------------------------------------------------------------- */

thole_registry_v1_Operation *services__call_operation(struct call *c)
{
    return thole_registry_v1_Operation_new(c->arena);
}

/* A refusal is not recorded as an event: a client that repeats a mistake would fill shard zero's
 * log. It is counted, and logged at a limited rate by the host that was asked. */
#define REFUSALS_LOGGED_PER_S 10

static METRIC_DEFINE_COUNTER(metric_refused, "thole_control_refused_total",
                             "Changes of clients that the registry refused");

static void note_refusal(const struct call *c, const struct thole_status *st)
{
    static _Atomic uint64_t second;
    static _Atomic uint32_t logged;
    if (st->code == THOLE_UNAVAILABLE || st->code == THOLE_UNKNOWN ||
        st->code == THOLE_DEADLINE_EXCEEDED) {
        return;
    }
    metric_add(&metric_refused, 1);
    uint64_t now_s = clock_now(&clock_system) / NS_PER_S;
    if (atomic_exchange(&second, now_s) != now_s) {
        atomic_store(&logged, 0);
    }
    if (atomic_fetch_add(&logged, 1) < REFUSALS_LOGGED_PER_S) {
        LOG_INFO(AGENT, "change refused %s=%.128s code=%s reason=%s error=\"%s\"",
                 c->metadata[0] != NULL ? c->metadata[0] : "about",
                 c->metadata[1] != NULL ? c->metadata[1] : "-", thole_code_name(st->code),
                 thole_reason_name(st->reason), st->message);
    }
}

/* The row changed between the check and the command: check again. */
static void decide_again(struct call *c)
{
    registry_view_release(c->view);
    c->view = NULL;
    c->decided_at = 0;
    services__call_read(c, false, c->next);
}

/* The field that shard zero blames; NULL: none. */
static const char *refused_field(const thole_registry_v1_Result *result,
                                 char ret[static REGISTRY_FIELD_BYTES])
{
    upb_StringView field =
        result != NULL ? thole_registry_v1_Result_field(result) : (upb_StringView){0};
    snprintf(ret, REGISTRY_FIELD_BYTES, "%.*s", (int)field.size, field.size > 0 ? field.data : "");
    return field.size > 0 ? ret : NULL;
}

static void command_done(void *ctx, const struct thole_status *st,
                         const thole_registry_v1_Result *result)
{
    struct call *c = ctx;
    char field[REGISTRY_FIELD_BYTES];
    if (st->code == THOLE_ABORTED && c->decided_at != 0) {
        decide_again(c);
        return;
    }
    if (c->settled != NULL) {
        c->settled(c, st->code == THOLE_OK ? thole_registry_v1_Result_revision(result) : 0);
    }
    if (st->code != THOLE_OK) {
        note_refusal(c, st);
        services__call_fail_field(c, st, refused_field(result, field));
        return;
    }
    if (c->answer != NULL) {
        c->answer(c, result);
        return;
    }
    const void *row = NULL;
    if (c->row == &thole_v1_Host_msginit) {
        row = thole_registry_v1_Result_host(result);
    } else if (c->row == &thole_v1_Shard_msginit) {
        row = thole_registry_v1_Result_shard(result);
    } else if (c->row == &thole_v1_Replica_msginit) {
        row = thole_registry_v1_Result_replica(result);
    } else if (c->row == &thole_v1_ShardPool_msginit) {
        row = thole_registry_v1_Result_pool(result);
    } else if (c->row == &thole_v1_Operation_msginit) {
        row = thole_registry_v1_Result_operation(result);
    } else if (c->row == &thole_v1_Role_msginit) {
        row = thole_registry_v1_Result_role(result);
    } else if (c->row == &thole_v1_Token_msginit) {
        row = thole_registry_v1_Result_token(result);
    }
    if (row == NULL) { /* deletions; the answer has no fields */
        bus_rpc_reply(c->rpc, (struct bufslice){buf_new(0), {NULL, 0}});
        call_free(c);
        return;
    }
    services__call_reply(c, row, c->row);
}

thole_registry_v1_Command *services__command_new(const struct bus_rpc *rpc, const char *path,
                                                 upb_Arena *arena)
{
    char actor[ACCESS_ACTOR_BYTES], method[ACCESS_METHOD_BYTES];
    thole_registry_v1_Command *command =
        agent_command_new(access_actor(bus_rpc_user(rpc), actor), arena);
    registry_command_set_origin(command, bus_rpc_peer(rpc), access_method(path, method), arena);
    return command;
}

void services__call_command(struct call *c, thole_registry_v1_Operation *op,
                            upb_StringView request_id, bool validate_only, const upb_MiniTable *row)
{
    thole_registry_v1_Command *command = services__command_new(c->rpc, c->unary->path, c->arena);
    registry_command_set_request_id(command, registry_str(request_id), c->arena);
    thole_registry_v1_Command_set_decided_at(command, c->decided_at);
    thole_registry_v1_Command_set_validate_only(command, validate_only);
    thole_registry_v1_Operation **ops =
        thole_registry_v1_Command_resize_operations(command, 1, c->arena);
    ops[0] = op;
    c->row = row;
    struct bufslice bytes = registry_command_encode(command, c->arena);
    agent_command(c->s->agent, bytes, c->deadline_ns, command_done, c);
}

bool services__call_answered(const struct call *c, upb_StringView request_id)
{
    return registry_request_is_answered(c->view, registry_str(request_id));
}
