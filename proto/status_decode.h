/* A failure as it travels: a gRPC status code, the name of a reason, and a message. */
#ifndef PROTO_STATUS_DECODE_H
#define PROTO_STATUS_DECODE_H

#include <thole/status.h>

#include "base/buf.h"

/* The status that another process sent. It is a failure in any case: code 0, and a code that gRPC
 * does not have, become UNKNOWN. A reason that this version does not know becomes NONE. The message
 * is cut to what a status holds. */
void proto_status_decode(uint64_t code, struct slice reason, struct slice message,
                         struct thole_status *ret);

#endif
