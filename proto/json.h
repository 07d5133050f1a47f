/* Messages of the services in thole.v1 as JSON: canonical proto3 JSON, for callers without
 * protobuf. `method` is "Hosts/GetHost". Each call builds the definitions anew, which takes
 * milliseconds: for calls of the control plane, not for data. */
#ifndef PROTO_JSON_H
#define PROTO_JSON_H

#include <stdbool.h>

#include "base/buf.h"

/* Is there such a method, and does one message answer it, or a stream? Streams of requests do not
 * count. */
enum proto_method { PROTO_NO_METHOD, PROTO_UNARY, PROTO_ANSWERS };
enum proto_method proto_method_of(const char *method);

/* The request's bytes are appended. False: `json` is no such message, and `ret_why` has the reason
 * for people. */
bool proto_json_request(const char *method, struct slice json, struct bytes *ret, char *ret_why,
                        size_t why_size);
/* The answer's text is appended. False: the bytes are no such message. */
bool proto_json_answer(const char *method, struct slice message, struct bytes *ret);

#endif
