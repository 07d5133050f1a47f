/* Names of codes and reasons, and how a status is filled. */
#include <thole/status.h>

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/text.h"

static const char *const code_names[] = {
    [THOLE_OK] = "OK",
    [THOLE_CANCELLED] = "CANCELLED",
    [THOLE_UNKNOWN] = "UNKNOWN",
    [THOLE_INVALID_ARGUMENT] = "INVALID_ARGUMENT",
    [THOLE_DEADLINE_EXCEEDED] = "DEADLINE_EXCEEDED",
    [THOLE_NOT_FOUND] = "NOT_FOUND",
    [THOLE_ALREADY_EXISTS] = "ALREADY_EXISTS",
    [THOLE_PERMISSION_DENIED] = "PERMISSION_DENIED",
    [THOLE_RESOURCE_EXHAUSTED] = "RESOURCE_EXHAUSTED",
    [THOLE_FAILED_PRECONDITION] = "FAILED_PRECONDITION",
    [THOLE_ABORTED] = "ABORTED",
    [THOLE_OUT_OF_RANGE] = "OUT_OF_RANGE",
    [THOLE_UNIMPLEMENTED] = "UNIMPLEMENTED",
    [THOLE_INTERNAL] = "INTERNAL",
    [THOLE_UNAVAILABLE] = "UNAVAILABLE",
    [THOLE_DATA_LOSS] = "DATA_LOSS",
    [THOLE_UNAUTHENTICATED] = "UNAUTHENTICATED",
};

static const char *const reason_names[] = {
    [THOLE_REASON_NONE] = "NONE",
    [THOLE_REASON_NOT_LEADER] = "NOT_LEADER",
    [THOLE_REASON_NO_LEADER] = "NO_LEADER",
    [THOLE_REASON_DROPPED] = "DROPPED",
    [THOLE_REASON_OUTCOME_UNKNOWN] = "OUTCOME_UNKNOWN",
    [THOLE_REASON_QUEUE_FULL] = "QUEUE_FULL",
    [THOLE_REASON_LOW_SPACE] = "LOW_SPACE",
    [THOLE_REASON_TOO_LARGE] = "TOO_LARGE",
    [THOLE_REASON_SESSION_EXPIRED] = "SESSION_EXPIRED",
    [THOLE_REASON_SEQUENCE_TOO_OLD] = "SEQUENCE_TOO_OLD",
    [THOLE_REASON_TRANSFERRING] = "TRANSFERRING",
    [THOLE_REASON_CHANGE_IN_FLIGHT] = "CHANGE_IN_FLIGHT",
    [THOLE_REASON_STALE_REVISION] = "STALE_REVISION",
    [THOLE_REASON_TOO_STALE] = "TOO_STALE",
    [THOLE_REASON_NO_SUCH_SHARD] = "NO_SUCH_SHARD",
    [THOLE_REASON_NO_SUCH_HOST] = "NO_SUCH_HOST",
    [THOLE_REASON_NO_SUCH_REPLICA] = "NO_SUCH_REPLICA",
    [THOLE_REASON_NO_SUCH_TYPE] = "NO_SUCH_TYPE",
    [THOLE_REASON_EXISTS] = "EXISTS",
    [THOLE_REASON_ETAG_MISMATCH] = "ETAG_MISMATCH",
    [THOLE_REASON_COMPACTED] = "COMPACTED",
    [THOLE_REASON_UNSATISFIABLE] = "UNSATISFIABLE",
    [THOLE_REASON_STOPPED] = "STOPPED",
    [THOLE_REASON_DISK] = "DISK",
    [THOLE_REASON_CORRUPT] = "CORRUPT",
    [THOLE_REASON_LOCKED] = "LOCKED",
    [THOLE_REASON_FORMAT] = "FORMAT",
    [THOLE_REASON_WRONG_CLUSTER] = "WRONG_CLUSTER",
    [THOLE_REASON_WRONG_HOST] = "WRONG_HOST",
    [THOLE_REASON_STALE_INCARNATION] = "STALE_INCARNATION",
    [THOLE_REASON_UNREACHABLE] = "UNREACHABLE",
    [THOLE_REASON_PEER_UNREACHABLE] = "PEER_UNREACHABLE",
    [THOLE_REASON_NOT_READY] = "NOT_READY",
    [THOLE_REASON_ADDRESS_IN_USE] = "ADDRESS_IN_USE",
    [THOLE_REASON_REMOVED] = "REMOVED",
    [THOLE_REASON_MACHINE_FAILED] = "MACHINE_FAILED",
    [THOLE_REASON_BAD_REQUEST] = "BAD_REQUEST",
    [THOLE_REASON_CERTIFICATE] = "CERTIFICATE",
    [THOLE_REASON_HOSTS_ONLY] = "HOSTS_ONLY",
    [THOLE_REASON_NO_CREDENTIALS] = "NO_CREDENTIALS",
    [THOLE_REASON_TOKEN] = "TOKEN",
    [THOLE_REASON_NO_RIGHT] = "NO_RIGHT",
};

#define CODE_COUNT (sizeof code_names / sizeof code_names[0])
#define REASON_COUNT (sizeof reason_names / sizeof reason_names[0])

_Static_assert(REASON_COUNT == THOLE_REASON_NO_RIGHT + 1, "every reason has a name");

const char *thole_code_name(enum thole_code code)
{
    size_t i = (size_t)code;
    return i < CODE_COUNT ? code_names[i] : "?";
}

const char *thole_reason_name(enum thole_reason reason)
{
    size_t i = (size_t)reason;
    return i < REASON_COUNT ? reason_names[i] : "?";
}

enum thole_reason thole_reason_from_name(const char *name)
{
    for (size_t i = 0; i < REASON_COUNT; i++) {
        if (strcmp(reason_names[i], name) == 0) {
            return (enum thole_reason)i;
        }
    }
    return THOLE_REASON_NONE;
}

/* A message is sent as a protobuf string, which must be UTF-8, and is logged: it is never cut
 * inside a character, and bad bytes are replaced. */
static size_t cut_to_character(const char *text, size_t size)
{
    while (size > 0 && ((unsigned char)text[size] & 0xc0) == 0x80) {
        size--;
    }
    return size;
}

enum thole_code thole_status_set(struct thole_status *st, enum thole_code code,
                                 enum thole_reason reason, const char *file, int line,
                                 const char *format, ...)
{
    ASSERT(code != THOLE_OK);
    if (st == NULL) {
        return code;
    }
    /* Formatted into a separate buffer, so that the arguments may include the message of `st`. One
     * extra byte shows where a cut falls. */
    char text[THOLE_STATUS_MESSAGE_BYTES + 1];
    va_list args;
    va_start(args, format);
    int wanted = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    size_t size = wanted < 0 ? 0 : (size_t)wanted;
    if (size >= THOLE_STATUS_MESSAGE_BYTES) {
        size = cut_to_character(text, THOLE_STATUS_MESSAGE_BYTES - 1);
    }
    memcpy(st->message, text, size);
    st->message[size] = '\0';
    text_clean(st->message);
    st->code = code;
    st->reason = reason;
    st->file = file;
    st->line = line;
    return code;
}
