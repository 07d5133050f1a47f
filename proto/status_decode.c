/* Failures from the wire. See status_decode.h. */
#include "proto/status_decode.h"

#include <string.h>

void proto_status_decode(uint64_t code, struct slice reason, struct slice message,
                         struct thole_status *ret)
{
    char name[64] = "";
    bool known = code > THOLE_OK && code <= THOLE_UNAUTHENTICATED;
    size_t size =
        message.size < THOLE_STATUS_MESSAGE_BYTES ? message.size : THOLE_STATUS_MESSAGE_BYTES;
    if (reason.size > 0 && reason.size < sizeof name) {
        memcpy(name, reason.data, reason.size);
    }
    thole_status_set(ret, known ? (enum thole_code)code : THOLE_UNKNOWN,
                     thole_reason_from_name(name), __FILE__, __LINE__, "%.*s", (int)size,
                     size > 0 ? (const char *)message.data : "");
}
