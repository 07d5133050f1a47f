/* The one status type of Thole: what every fallible call returns.
 *
 * A fallible function returns an `enum thole_code` (0 is success) and fills its last parameter,
 * a `struct thole_status *`, only on failure; it is untouched on success, and may be NULL when the
 * caller only wants the code. `code` is for callers in general (the numbers are gRPC's), `reason`
 * is what a program branches on, `message` is for people and is never parsed. */
#ifndef THOLE_STATUS_H
#define THOLE_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define THOLE_API __attribute__((visibility("default")))
#define THOLE_MUST_CHECK __attribute__((warn_unused_result))

enum thole_code {
    THOLE_OK = 0,
    THOLE_CANCELLED = 1,
    THOLE_UNKNOWN = 2, /* the outcome is unknown: it may have happened, or may yet happen */
    THOLE_INVALID_ARGUMENT = 3,
    THOLE_DEADLINE_EXCEEDED = 4,
    THOLE_NOT_FOUND = 5,
    THOLE_ALREADY_EXISTS = 6,
    THOLE_PERMISSION_DENIED = 7,
    THOLE_RESOURCE_EXHAUSTED = 8,
    THOLE_FAILED_PRECONDITION = 9,
    THOLE_ABORTED = 10,
    THOLE_OUT_OF_RANGE = 11,
    THOLE_UNIMPLEMENTED = 12,
    THOLE_INTERNAL = 13,
    THOLE_UNAVAILABLE = 14,
    THOLE_DATA_LOSS = 15,
    THOLE_UNAUTHENTICATED = 16,
};

enum thole_reason {
    THOLE_REASON_NONE = 0,
    /* Data path */
    THOLE_REASON_NOT_LEADER, /* this replica does not lead; nothing was appended; retry there */
    THOLE_REASON_NO_LEADER,  /* no leader is known now; retry after a pause */
    THOLE_REASON_DROPPED,    /* the proposal will certainly never be applied */
    THOLE_REASON_OUTCOME_UNKNOWN,  /* accepted, then the answer was lost; retry in a session */
    THOLE_REASON_QUEUE_FULL,       /* a bounded queue is full; retry after a pause */
    THOLE_REASON_LOW_SPACE,        /* the host's disk is nearly full; proposals are refused */
    THOLE_REASON_TOO_LARGE,        /* exceeds a documented limit */
    THOLE_REASON_SESSION_EXPIRED,  /* the session is not (or no longer) in the shard's table */
    THOLE_REASON_SEQUENCE_TOO_OLD, /* a sequence below the session's retained window */
    THOLE_REASON_TRANSFERRING,     /* a leadership transfer is in progress */
    THOLE_REASON_CHANGE_IN_FLIGHT, /* another membership change is not yet applied */
    THOLE_REASON_STALE_REVISION,   /* decided at an older registry revision than one applied */
    THOLE_REASON_TOO_STALE, /* a stale query: no leader was heard within its staleness bound */
    /* Names and rows */
    THOLE_REASON_NO_SUCH_SHARD,
    THOLE_REASON_NO_SUCH_HOST,
    THOLE_REASON_NO_SUCH_REPLICA,
    THOLE_REASON_NO_SUCH_TYPE,
    THOLE_REASON_EXISTS,
    THOLE_REASON_ETAG_MISMATCH,
    THOLE_REASON_COMPACTED, /* the revision asked for is no longer kept */
    THOLE_REASON_UNSATISFIABLE,
    /* Host and disk */
    THOLE_REASON_STOPPED, /* the host, engine or replica is shutting down */
    THOLE_REASON_DISK,
    THOLE_REASON_CORRUPT,
    THOLE_REASON_LOCKED,
    THOLE_REASON_FORMAT, /* written by another version, or not Thole's */
    THOLE_REASON_WRONG_CLUSTER,
    THOLE_REASON_WRONG_HOST,
    THOLE_REASON_STALE_INCARNATION,
    THOLE_REASON_UNREACHABLE,      /* the host that was called does not answer */
    THOLE_REASON_PEER_UNREACHABLE, /* it answers, but another host that was needed does not */
    THOLE_REASON_NOT_READY,
    THOLE_REASON_ADDRESS_IN_USE,
    THOLE_REASON_REMOVED,
    THOLE_REASON_MACHINE_FAILED,
    THOLE_REASON_BAD_REQUEST, /* malformed input; the message names the field */
    THOLE_REASON_CERTIFICATE, /* a certificate or key is missing or refused; the message says why */
    THOLE_REASON_HOSTS_ONLY,  /* only hosts of the cluster may do this */
    THOLE_REASON_NO_CREDENTIALS, /* neither a user's certificate nor a token came with the call */
    THOLE_REASON_TOKEN,          /* the token is malformed, unknown, revoked or expired */
    THOLE_REASON_NO_RIGHT,       /* the user lacks the right that the message names */
};

#define THOLE_STATUS_MESSAGE_BYTES 240

struct thole_status {
    enum thole_code code;
    enum thole_reason reason;
    const char *file; /* static string: where it was raised */
    int line;
    char message[THOLE_STATUS_MESSAGE_BYTES]; /* always NUL-terminated, cut if too long */
};

/* "NOT_FOUND" and the like; "?" for a number that is no code. Static strings. */
THOLE_API const char *thole_code_name(enum thole_code code);
/* "NO_SUCH_SHARD" and the like, as used in google.rpc.ErrorInfo.reason. Static strings. */
THOLE_API const char *thole_reason_name(enum thole_reason reason);
/* The inverse of thole_reason_name; THOLE_REASON_NONE for an unknown name. */
THOLE_API enum thole_reason thole_reason_from_name(const char *name);

/* Fill `st` (unless NULL) and return `code`; use the macro, which records the place. */
THOLE_API enum thole_code thole_status_set(struct thole_status *st, enum thole_code code,
                                           enum thole_reason reason, const char *file, int line,
                                           const char *format, ...)
    __attribute__((format(printf, 6, 7)));

#define THOLE_FAIL(st, code, reason, ...) \
    thole_status_set((st), (code), (reason), __FILE__, __LINE__, __VA_ARGS__)

#ifdef __cplusplus
}
#endif
#endif
