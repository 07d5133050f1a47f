/* Messages from bytes: the only place that decodes data from a client, a peer, a disk or a log.
 * `.ci/check-deps` keeps upb's own decoder out of the rest of the code.
 *
 * upb of gRPC 1.51 reads and writes out of bounds when a map entry has a field other than key and
 * value. A message that can contain a map is therefore checked first, and refused. */
#ifndef PROTO_DECODE_H
#define PROTO_DECODE_H

#include <stdbool.h>
#include <upb/decode.h>

#include "base/buf.h"

/* The message of type `table`, in `arena`; NULL if the bytes do not decode, with the reason for
 * people in `ret_why` (may be NULL). `table` belongs to generated code, so it lives as long as the
 * process.
 * alias: strings point into `bytes`, except short ones near its end, which are copied; `bytes` must
 * then outlive the message. */
void *proto_decode(const upb_MiniTable *table, struct slice bytes, bool alias, upb_Arena *arena,
                   const char **ret_why);

#define PROTO_DECODE(type, bytes, arena) \
    ((type *)proto_decode(&type##_msginit, (bytes), false, (arena), NULL))
#define PROTO_DECODE_ALIAS(type, bytes, arena) \
    ((type *)proto_decode(&type##_msginit, (bytes), true, (arena), NULL))

/* Strings of messages. upb_StringView_IsEqual hands NULL to memcmp if both are empty. */
static inline bool proto_equal(upb_StringView a, upb_StringView b)
{
    return slice_equal(slice_of(a.data, a.size), slice_of(b.data, b.size));
}

#endif
