/* Messages as JSON (canonical proto3 JSON), for callers without protobuf. Any thread. */
#ifndef PROTO_JSON_H
#define PROTO_JSON_H

#include <stdbool.h>

#include "base/buf.h"

struct upb_MessageDef;

/* A method of a public service: those of thole.v1, and etcd's. */
struct proto_method {
    const struct upb_MessageDef *request, *answer;
    bool requests, answers; /* streams of them */
};
/* `path` is "/thole.v1.Hosts/GetHost". False: there is no such method. */
bool proto_method_find(const char *path, struct proto_method *ret);

/* Takes one message from the front of `json`, with the blanks around it, and appends its bytes in
 * protobuf. Fields have either of their names. Strings are not checked for UTF-8: the decoder will.
 * lenient: fields that the message does not have are skipped; otherwise they are refused.
 * False: it is no such message, and `ret_why` has the reason for people. */
bool proto_json_read(const struct upb_MessageDef *def, struct slice *json, bool lenient,
                     struct bytes *ret, char *ret_why, size_t why_size);
/* Appends the message's text. proto_names: fields are named as in the .proto, not in camel case.
 * False: the bytes are no such message. */
bool proto_json_write(const struct upb_MessageDef *def, struct slice message, bool proto_names,
                      struct bytes *ret);
/* google.rpc.Status, whose details it knows. */
const struct upb_MessageDef *proto_status_def(void);

#endif
