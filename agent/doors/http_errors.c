/* Errors over HTTP: the status, and the body as etcd's gateway or our own services write it. */
#include <stdio.h>
#include <string.h>

#include "agent/doors/http_internal.h"

unsigned http__status_of(enum thole_code code)
{
    switch ((int)code) {
    case THOLE_OK:
        return MHD_HTTP_OK;
    case THOLE_INVALID_ARGUMENT:
    case THOLE_OUT_OF_RANGE:
        return MHD_HTTP_BAD_REQUEST;
    case THOLE_FAILED_PRECONDITION:
        return MHD_HTTP_PRECONDITION_FAILED;
    case THOLE_UNAUTHENTICATED:
        return MHD_HTTP_UNAUTHORIZED;
    case THOLE_PERMISSION_DENIED:
        return MHD_HTTP_FORBIDDEN;
    case THOLE_NOT_FOUND:
        return MHD_HTTP_NOT_FOUND;
    case THOLE_ALREADY_EXISTS:
    case THOLE_ABORTED:
        return MHD_HTTP_CONFLICT;
    case THOLE_RESOURCE_EXHAUSTED:
        return MHD_HTTP_TOO_MANY_REQUESTS;
    case THOLE_UNIMPLEMENTED:
        return MHD_HTTP_NOT_IMPLEMENTED;
    case THOLE_UNAVAILABLE:
        return MHD_HTTP_SERVICE_UNAVAILABLE;
    case THOLE_DEADLINE_EXCEEDED:
        return MHD_HTTP_GATEWAY_TIMEOUT;
    default:
        return MHD_HTTP_INTERNAL_SERVER_ERROR;
    }
}

static void append_string(struct bytes *out, const char *text)
{
    bytes_append_str(out, "\"");
    for (const char *p = text; *p != '\0'; p++) {
        if (*p == '"' || *p == '\\') {
            bytes_append_str(out, "\\");
        }
        if ((unsigned char)*p < 0x20) {
            bytes_printf(out, "\\u%04x", (unsigned)*p);
        } else {
            bytes_append(out, p, 1);
        }
    }
    bytes_append_str(out, "\"");
}

/* etcd's gateway in its two forms. */
static void append_etcd(const struct thole_status *st, bool in_stream, struct bytes *out)
{
    unsigned status = http__status_of(st->code);
    if (in_stream) {
        bytes_printf(out, "{\"grpc_code\":%d,\"http_code\":%u,\"message\":", (int)st->code, status);
        append_string(out, st->message);
        bytes_append_str(out, ",\"http_status\":");
        append_string(out, MHD_get_reason_phrase_for(status));
    } else {
        bytes_append_str(out, "{\"error\":");
        append_string(out, st->message);
        bytes_append_str(out, ",\"message\":");
        append_string(out, st->message);
        bytes_printf(out, ",\"code\":%d", (int)st->code);
    }
    bytes_append_str(out, "}");
}

/* A google.rpc.Status, also for an error that no service made. */
static void append_own(const struct thole_status *st, struct slice details, struct bytes *out)
{
    size_t before = out->size;
    if (details.size > 0 && proto_json_write(proto_status_def(), details, false, out)) {
        return;
    }
    out->size = before;
    bytes_printf(out, "{\"code\":%d,\"message\":", (int)st->code);
    append_string(out, st->message);
    bytes_printf(out,
                 ",\"details\":[{\"@type\":\"type.googleapis.com/google.rpc.ErrorInfo\","
                 "\"reason\":\"%s\",\"domain\":\"thole\"}]}",
                 st->reason != THOLE_REASON_NONE ? thole_reason_name(st->reason)
                                                 : thole_code_name(st->code));
}

void http__error_body(const struct http_route *route, const struct thole_status *st,
                      struct slice details, bool in_stream, struct bytes *out)
{
    if (in_stream) {
        bytes_append_str(out, "{\"error\":");
    }
    if (route->etcd) {
        append_etcd(st, in_stream, out);
    } else {
        append_own(st, details, out);
    }
    bytes_append_str(out, in_stream ? "}\n" : "\n");
}
