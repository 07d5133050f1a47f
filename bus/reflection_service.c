/* Server reflection, under both of its names, from the embedded descriptors: what clients may call.
 * Services and messages between hosts are left out.
 *
 * The two protos differ only in their package, so one codec serves both. A definition pool finds
 * symbols; the answers are the files' own bytes, each with all its imports. */
#include <stdlib.h>
#include <string.h>

#include "bus/bus_internal.h"
#include "google/protobuf/descriptor.upb.h"
#include "grpc/reflection/v1/reflection.upb.h"
#include "proto/decode.h"
#include "thole_descriptors.h"
#include "upb/def.h"

struct file {
    struct slice bytes; /* into the embedded set */
    const upb_FileDef *def;
};

struct bus_reflection {
    struct bus *bus;
    upb_Arena *arena;
    upb_DefPool *pool;
    struct file *files; /* imports come first */
    size_t count;
};

typedef grpc_reflection_v1_ServerReflectionRequest Request;
typedef grpc_reflection_v1_ServerReflectionResponse Response;

/* ---- The descriptors ------------------------------------------------------------------------- */

static bool begins_with(upb_StringView name, const char *text)
{
    return name.size >= strlen(text) && memcmp(name.data, text, strlen(text)) == 0;
}

/* No public proto imports an internal one. */
static bool is_public(upb_StringView name)
{
    return !begins_with(name, "thole/") || begins_with(name, "thole/v1/") ||
           begins_with(name, "thole/kv/");
}

static void add_file(struct bus_reflection *f, struct slice bytes)
{
    upb_Status status = {.ok = true};
    const google_protobuf_FileDescriptorProto *proto =
        PROTO_DECODE(google_protobuf_FileDescriptorProto, bytes, f->arena);
    if (proto != NULL && !is_public(google_protobuf_FileDescriptorProto_name(proto))) {
        return;
    }
    const upb_FileDef *def = proto != NULL ? upb_DefPool_AddFile(f->pool, proto, &status) : NULL;
    if (def == NULL) {
        LOG_ERROR(BUS, "a descriptor is damaged; reflection lacks it error=\"%s\"",
                  upb_Status_ErrorMessage(&status));
        return;
    }
    f->files = xrealloc(f->files, (f->count + 1) * sizeof *f->files);
    f->files[f->count++] = (struct file){bytes, def};
}

/* FileDescriptorSet: field 1, length-delimited, repeated. */
static void load(struct bus_reflection *f)
{
    struct slice rest = {thole_descriptor_set, thole_descriptor_set_size};
    uint64_t tag, size;
    struct slice bytes;
    while (rest.size > 0 && slice_take_varint(&rest, &tag) && tag == (1 << 3 | 2) &&
           slice_take_varint(&rest, &size) && slice_take(&rest, size, &bytes)) {
        add_file(f, bytes);
    }
}

static size_t index_of(const struct bus_reflection *f, const upb_FileDef *def)
{
    size_t i = 0;
    while (i < f->count && f->files[i].def != def) {
        i++;
    }
    return i;
}

/* The file that declares a symbol: a message, enum, service, method, field, enum value or
 * extension. */
static const upb_FileDef *file_of_symbol(const struct bus_reflection *f, upb_StringView name)
{
    char *text = xstrndup(name.data != NULL ? name.data : "", name.size);
    const upb_FileDef *def = upb_DefPool_FindFileContainingSymbol(f->pool, text);
    char *dot = strrchr(text, '.');
    if (def == NULL && dot != NULL) {
        /* The pool does not find methods and fields by their full names. */
        const char *last = dot + 1;
        *dot = '\0';
        const upb_ServiceDef *s = upb_DefPool_FindServiceByName(f->pool, text);
        const upb_MessageDef *m = upb_DefPool_FindMessageByName(f->pool, text);
        if (s != NULL && upb_ServiceDef_FindMethodByName(s, last) != NULL) {
            def = upb_ServiceDef_File(s);
        } else if (m != NULL && (upb_MessageDef_FindFieldByName(m, last) != NULL ||
                                 upb_MessageDef_FindOneofByName(m, last) != NULL)) {
            def = upb_MessageDef_File(m);
        }
    }
    free(text);
    return def;
}

/* ---- Answers --------------------------------------------------------------------------------- */

static void answer_error(Response *out, int code, const char *what, upb_Arena *arena)
{
    grpc_reflection_v1_ErrorResponse *e =
        grpc_reflection_v1_ServerReflectionResponse_mutable_error_response(out, arena);
    grpc_reflection_v1_ErrorResponse_set_error_code(e, code);
    grpc_reflection_v1_ErrorResponse_set_error_message(e, upb_StringView_FromString(what));
}

static void add_with_imports(const struct bus_reflection *f, const upb_FileDef *def, bool *added,
                             grpc_reflection_v1_FileDescriptorResponse *out, upb_Arena *arena)
{
    size_t i = index_of(f, def);
    if (i == f->count || added[i]) {
        return;
    }
    added[i] = true;
    grpc_reflection_v1_FileDescriptorResponse_add_file_descriptor_proto(
        out,
        upb_StringView_FromDataAndSize((const char *)f->files[i].bytes.data,
                                       f->files[i].bytes.size),
        arena);
    for (int d = 0; d < upb_FileDef_DependencyCount(def); d++) {
        add_with_imports(f, upb_FileDef_Dependency(def, d), added, out, arena);
    }
}

static void answer_file(const struct bus_reflection *f, const upb_FileDef *def, Response *out,
                        upb_Arena *arena)
{
    if (def == NULL) {
        answer_error(out, THOLE_NOT_FOUND, "there is no such file or symbol", arena);
        return;
    }
    bool *added = xcalloc(f->count, sizeof *added);
    add_with_imports(
        f, def, added,
        grpc_reflection_v1_ServerReflectionResponse_mutable_file_descriptor_response(out, arena),
        arena);
    free(added);
}

static void answer_services(const struct bus_reflection *f, Response *out, upb_Arena *arena)
{
    grpc_reflection_v1_ListServiceResponse *list =
        grpc_reflection_v1_ServerReflectionResponse_mutable_list_services_response(out, arena);
    for (size_t i = 0; i < f->count; i++) {
        for (int k = 0; k < upb_FileDef_ServiceCount(f->files[i].def); k++) {
            const char *name = upb_ServiceDef_FullName(upb_FileDef_Service(f->files[i].def, k));
            if (!bus__serves(f->bus, name, strlen(name))) {
                continue;
            }
            grpc_reflection_v1_ServiceResponse *s =
                grpc_reflection_v1_ListServiceResponse_add_service(list, arena);
            grpc_reflection_v1_ServiceResponse_set_name(s, upb_StringView_FromString(name));
        }
    }
}

static void answer_extension_numbers(const struct bus_reflection *f, upb_StringView type,
                                     Response *out, upb_Arena *arena)
{
    if (upb_DefPool_FindMessageByNameWithSize(f->pool, type.data != NULL ? type.data : "",
                                              type.size) == NULL) {
        answer_error(out, THOLE_NOT_FOUND, "there is no such message type", arena);
        return;
    }
    /* Proto3 messages have no extensions; an error would look like a failure in some clients. */
    grpc_reflection_v1_ExtensionNumberResponse_set_base_type_name(
        grpc_reflection_v1_ServerReflectionResponse_mutable_all_extension_numbers_response(out,
                                                                                           arena),
        type);
}

static void answer(const struct bus_reflection *f, const Request *q, Response *out,
                   upb_Arena *arena)
{
    upb_StringView name;
    switch (grpc_reflection_v1_ServerReflectionRequest_message_request_case(q)) {
    case grpc_reflection_v1_ServerReflectionRequest_message_request_file_by_filename:
        name = grpc_reflection_v1_ServerReflectionRequest_file_by_filename(q);
        answer_file(f, upb_DefPool_FindFileByNameWithSize(f->pool, name.data, name.size), out,
                    arena);
        return;
    case grpc_reflection_v1_ServerReflectionRequest_message_request_file_containing_symbol:
        name = grpc_reflection_v1_ServerReflectionRequest_file_containing_symbol(q);
        answer_file(f, file_of_symbol(f, name), out, arena);
        return;
    case grpc_reflection_v1_ServerReflectionRequest_message_request_file_containing_extension:
        answer_error(out, THOLE_NOT_FOUND, "there are no extensions", arena);
        return;
    case grpc_reflection_v1_ServerReflectionRequest_message_request_all_extension_numbers_of_type:
        answer_extension_numbers(
            f, grpc_reflection_v1_ServerReflectionRequest_all_extension_numbers_of_type(q), out,
            arena);
        return;
    case grpc_reflection_v1_ServerReflectionRequest_message_request_list_services:
        answer_services(f, out, arena);
        return;
    case grpc_reflection_v1_ServerReflectionRequest_message_request_NOT_SET:
        break;
    }
    answer_error(out, THOLE_INVALID_ARGUMENT, "the kind of reflection request is not supported",
                 arena);
}

static void on_message(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    const struct bus_reflection *f = ctx;
    struct thole_status st;
    upb_Arena *arena = upb_Arena_New();
    Request *q = PROTO_DECODE(grpc_reflection_v1_ServerReflectionRequest, message, arena);
    Response *out = grpc_reflection_v1_ServerReflectionResponse_new(arena);
    bool sent = true;
    if (q != NULL) {
        grpc_reflection_v1_ServerReflectionResponse_set_original_request(out, q);
        grpc_reflection_v1_ServerReflectionResponse_set_valid_host(
            out, grpc_reflection_v1_ServerReflectionRequest_host(q));
        answer(f, q, out, arena);
        size_t size = 0;
        const char *data = grpc_reflection_v1_ServerReflectionResponse_serialize(out, arena, &size);
        ASSERT(data != NULL);
        struct buf *buf = buf_copy(data, size);
        sent = bus_rpc_send(rpc, (struct bufslice){buf, {buf->data, buf->size}});
        thole_status_set(&st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_QUEUE_FULL, __FILE__, __LINE__,
                         "the client does not read its answers");
    } else {
        thole_status_set(&st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, __FILE__, __LINE__,
                         "malformed reflection request");
    }
    if (q == NULL || !sent) {
        bus_rpc_fail(rpc, &st, 0, NULL);
    }
    upb_Arena_Free(arena);
}

static void on_end(void *ctx, struct bus_rpc *rpc)
{
    (void)ctx;
    bus_rpc_reply(rpc, (struct bufslice){0});
}

void bus__reflection_init(struct bus *b)
{
    struct bus_reflection *f = xcalloc(1, sizeof *f);
    f->bus = b;
    f->arena = upb_Arena_New();
    f->pool = upb_DefPool_New();
    b->reflection = f;
    load(f);
    const struct bus_method methods[] = {
        {.path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
         .kind = BUS_RPC_BIDI_STREAM,
         .ctx = f,
         .handle = on_message,
         .end = on_end},
        {.path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
         .kind = BUS_RPC_BIDI_STREAM,
         .ctx = f,
         .handle = on_message,
         .end = on_end},
    };
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        bus__register(b, &methods[i])->ends_itself = true;
    }
}

void bus__reflection_free(struct bus *b)
{
    struct bus_reflection *f = b->reflection;
    if (f == NULL) {
        return;
    }
    upb_DefPool_Free(f->pool);
    upb_Arena_Free(f->arena);
    free(f->files);
    free(f);
}
