/* Our status type to and from gRPC's: code and message, and the trailer grpc-status-details-bin
 * with a google.rpc.Status that always has an ErrorInfo, and a RetryInfo when a pause is
 * advised. */
#include <stdlib.h>
#include <string.h>

#include "bus/bus_internal.h"
#include "google/protobuf/any.upb.h"
#include "google/protobuf/duration.upb.h"
#include "google/rpc/error_details.upb.h"
#include "google/rpc/status.upb.h"
#include "proto/decode.h"

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
    /* Without a reason of ours the code names the cause: an ErrorInfo must have one. */
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

static enum thole_reason reason_of(grpc_slice value)
{
    enum thole_reason reason = THOLE_REASON_NONE;
    upb_Arena *arena = upb_Arena_New();
    const google_rpc_Status *status = PROTO_DECODE(
        google_rpc_Status, slice_of(GRPC_SLICE_START_PTR(value), GRPC_SLICE_LENGTH(value)), arena);
    size_t n = 0;
    const google_protobuf_Any *const *details =
        status != NULL ? google_rpc_Status_details(status, &n) : NULL;
    for (size_t i = 0; i < n; i++) {
        if (!equals(google_protobuf_Any_type_url(details[i]), TYPE_ERROR_INFO)) {
            continue;
        }
        upb_StringView v = google_protobuf_Any_value(details[i]);
        const google_rpc_ErrorInfo *info =
            PROTO_DECODE(google_rpc_ErrorInfo, slice_of(v.data, v.size), arena);
        if (info == NULL || !equals(google_rpc_ErrorInfo_domain(info), DOMAIN)) {
            continue;
        }
        upb_StringView name = google_rpc_ErrorInfo_reason(info);
        char *text = xstrndup(name.data, name.size);
        reason = thole_reason_from_name(text);
        free(text);
        break;
    }
    upb_Arena_Free(arena);
    return reason;
}

void bus__status_decode(grpc_status_code code, grpc_slice message,
                        const grpc_metadata_array *trailing, bool sent, struct thole_status *st)
{
    *st = (struct thole_status){0};
    if (code == GRPC_STATUS_OK) {
        return;
    }
    bool known = code > GRPC_STATUS_OK && code <= GRPC_STATUS_UNAUTHENTICATED;
    enum thole_reason reason = THOLE_REASON_NONE;
    bool details = false;
    for (size_t i = 0; i < trailing->count; i++) {
        if (!grpc_slice_eq(trailing->metadata[i].key, bus__details_key())) {
            continue;
        }
        reason = reason_of(trailing->metadata[i].value);
        details = true;
    }
    /* Every refusal of our servers has details; without them the connection failed, or the call was
     * ended here, and the server may have handled what it was sent. */
    if (!details && sent && code == GRPC_STATUS_UNAVAILABLE) {
        code = GRPC_STATUS_UNKNOWN;
    }
    if (!details && code == GRPC_STATUS_UNAVAILABLE) {
        reason = THOLE_REASON_UNREACHABLE;
    } else if (!details && sent &&
               (code == GRPC_STATUS_UNKNOWN || code == GRPC_STATUS_DEADLINE_EXCEEDED ||
                code == GRPC_STATUS_CANCELLED)) {
        reason = THOLE_REASON_OUTCOME_UNKNOWN;
    }
    size_t n = GRPC_SLICE_LENGTH(message);
    if (n > THOLE_STATUS_MESSAGE_BYTES) {
        n = THOLE_STATUS_MESSAGE_BYTES;
    }
    thole_status_set(st, known ? (enum thole_code)code : THOLE_UNKNOWN, reason, __FILE__, __LINE__,
                     "%.*s", (int)n, (const char *)GRPC_SLICE_START_PTR(message));
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
