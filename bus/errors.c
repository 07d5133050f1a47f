/* Thole's status to and from gRPC's: code, message, and the trailer grpc-status-details-bin with a
 * google.rpc.Status, which always has an ErrorInfo, and a RetryInfo if a retry delay is advised. */
#include <stdlib.h>
#include <string.h>

#include "bus/bus_internal.h"
#include "google/protobuf/any.upb.h"
#include "google/protobuf/duration.upb.h"
#include "google/rpc/error_details.upb.h"
#include "google/rpc/status.upb.h"
#include "proto/decode.h"
#include "proto/status_decode.h"

#define DOMAIN "thole"
#define TYPE_ERROR_INFO "type.googleapis.com/google.rpc.ErrorInfo"
#define TYPE_RETRY_INFO "type.googleapis.com/google.rpc.RetryInfo"

grpc_slice bus__details_key(void)
{
    return grpc_slice_from_static_string("grpc-status-details-bin");
}

static upb_StringView view(const char *s)
{
    return upb_StringView_FromString(s);
}

static void add_detail(google_rpc_Status *status, const char *type, const char *data, size_t size,
                       upb_Arena *arena)
{
    google_protobuf_Any *any = google_rpc_Status_add_details(status, arena);
    if (any == NULL || data == NULL) {
        return;
    }
    google_protobuf_Any_set_type_url(any, view(type));
    google_protobuf_Any_set_value(any, upb_StringView_FromDataAndSize(data, size));
}

grpc_slice bus__details_encode(const struct thole_status *st, uint32_t retry_ms,
                               const char *const *metadata)
{
    upb_Arena *arena = upb_Arena_New();
    google_rpc_Status *status = google_rpc_Status_new(arena);
    google_rpc_Status_set_code(status, (int32_t)st->code);
    google_rpc_Status_set_message(status, view(st->message));
    google_rpc_ErrorInfo *info = google_rpc_ErrorInfo_new(arena);
    /* An ErrorInfo must have a reason: without one of ours, use the name of the code. */
    google_rpc_ErrorInfo_set_reason(info, view(st->reason != THOLE_REASON_NONE
                                                   ? thole_reason_name(st->reason)
                                                   : thole_code_name(st->code)));
    google_rpc_ErrorInfo_set_domain(info, view(DOMAIN));
    for (const char *const *m = metadata; m != NULL && m[0] != NULL && m[1] != NULL; m += 2) {
        google_rpc_ErrorInfo_metadata_set(info, view(m[0]), view(m[1]), arena);
    }
    size_t size = 0;
    const char *data = google_rpc_ErrorInfo_serialize(info, arena, &size);
    add_detail(status, TYPE_ERROR_INFO, data, size, arena);
    if (retry_ms > 0) {
        google_rpc_RetryInfo *retry = google_rpc_RetryInfo_new(arena);
        google_protobuf_Duration *delay = google_rpc_RetryInfo_mutable_retry_delay(retry, arena);
        google_protobuf_Duration_set_seconds(delay, retry_ms / 1000);
        google_protobuf_Duration_set_nanos(delay, (int32_t)(retry_ms % 1000 * NS_PER_MS));
        data = google_rpc_RetryInfo_serialize(retry, arena, &size);
        add_detail(status, TYPE_RETRY_INFO, data, size, arena);
    }
    data = google_rpc_Status_serialize(status, arena, &size);
    grpc_slice out = data != NULL ? grpc_slice_from_copied_buffer(data, size) : grpc_empty_slice();
    upb_Arena_Free(arena);
    return out;
}

static bool equals(upb_StringView a, const char *b)
{
    return a.size == strlen(b) && memcmp(a.data, b, a.size) == 0;
}

/* The name of the reason in a google.rpc.Status, within `arena`; empty if it has none of ours. */
static struct slice find_reason(grpc_slice details, upb_Arena *arena)
{
    const struct slice bytes = slice_of(GRPC_SLICE_START_PTR(details), GRPC_SLICE_LENGTH(details));
    const google_rpc_Status *status = PROTO_DECODE(google_rpc_Status, bytes, arena);
    size_t n = 0;
    const google_protobuf_Any *const *any =
        status != NULL ? google_rpc_Status_details(status, &n) : NULL;
    for (size_t i = 0; i < n; i++) {
        if (!equals(google_protobuf_Any_type_url(any[i]), TYPE_ERROR_INFO)) {
            continue;
        }
        upb_StringView value = google_protobuf_Any_value(any[i]);
        const google_rpc_ErrorInfo *info =
            PROTO_DECODE(google_rpc_ErrorInfo, slice_of(value.data, value.size), arena);
        if (info != NULL && equals(google_rpc_ErrorInfo_domain(info), DOMAIN)) {
            upb_StringView reason = google_rpc_ErrorInfo_reason(info);
            return slice_of(reason.data, reason.size);
        }
    }
    return (struct slice){0};
}

/* Why tls.c refused the server's certificate, from gRPC's words on the connection; NULL: it did
 * not. */
static const char *find_verdict(const char *text)
{
    static const char *const before = "verification check failed with error: UNAUTHENTICATED: ";
    const char *at = strstr(text, before);
    return at != NULL ? at + strlen(before) : NULL;
}

/* For people, what gRPC's words on a failed connection mean; NULL: they are as good as ours. */
static char *explain_connection(const char *text)
{
    static const char *const endings[] = {"Socket closed", "Connection reset", "wrong version",
                                          "handshake failed"};
    bool connecting = strstr(text, "failed to connect") != NULL;
    for (size_t i = 0; i < sizeof endings / sizeof endings[0] && connecting; i++) {
        if (strstr(text, endings[i]) != NULL) {
            return xasprintf("the connection was ended while it was set up; is one side set up for "
                             "TLS and the other not? (%.120s)",
                             strstr(text, endings[i]));
        }
    }
    return NULL;
}

void bus__status_decode(grpc_status_code code, grpc_slice message,
                        const grpc_metadata_array *trailing, bool sent, struct thole_status *st)
{
    *st = (struct thole_status){0};
    if (code == GRPC_STATUS_OK) {
        return;
    }
    upb_Arena *arena = upb_Arena_New();
    struct slice reason = {0};
    bool details = false;
    for (size_t i = 0; i < trailing->count; i++) {
        if (grpc_slice_eq(trailing->metadata[i].key, bus__details_key())) {
            reason = find_reason(trailing->metadata[i].value, arena);
            details = true;
        }
    }
    /* Every refusal by our servers has details. Without them the connection failed or the call was
     * ended here; the server may have handled what was sent. */
    if (!details && sent && code == GRPC_STATUS_UNAVAILABLE) {
        code = GRPC_STATUS_UNKNOWN;
    }
    if (!details && code == GRPC_STATUS_UNAVAILABLE) {
        reason = slice_str(thole_reason_name(THOLE_REASON_UNREACHABLE));
    } else if (!details && sent &&
               (code == GRPC_STATUS_UNKNOWN || code == GRPC_STATUS_DEADLINE_EXCEEDED ||
                code == GRPC_STATUS_CANCELLED)) {
        reason = slice_str(thole_reason_name(THOLE_REASON_OUTCOME_UNKNOWN));
    }
    char *text = xstrndup((const char *)GRPC_SLICE_START_PTR(message), GRPC_SLICE_LENGTH(message));
    const char *verdict = details || sent ? NULL : find_verdict(text);
    if (verdict != NULL) {
        proto_status_decode(THOLE_UNAUTHENTICATED,
                            slice_str(thole_reason_name(THOLE_REASON_CERTIFICATE)),
                            slice_str(verdict), st);
    } else {
        char *plain = details ? NULL : explain_connection(text);
        proto_status_decode((uint64_t)code, reason, slice_str(plain != NULL ? plain : text), st);
        free(plain);
    }
    free(text);
    upb_Arena_Free(arena);
}

#define LOG_WINDOW_NS (10 * NS_PER_S)
#define LOG_WINDOW_LINES 10

bool bus__log_allowed(struct bus *b)
{
    uint64_t now = clock_now(b->clock);
    pthread_mutex_lock(&b->mutex);
    if (now - b->log_window_ns >= LOG_WINDOW_NS) {
        b->log_window_ns = now;
        b->log_count = 0;
    }
    bool allowed = b->log_count < LOG_WINDOW_LINES;
    b->log_count++;
    pthread_mutex_unlock(&b->mutex);
    return allowed;
}
