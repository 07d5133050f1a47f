/* Which method a path of the HTTP port means. */
#ifndef AGENT_DOORS_HTTP_ROUTES_H
#define AGENT_DOORS_HTTP_ROUTES_H

#include <stdbool.h>
#include <stddef.h>

#include "proto/json.h"

#define HTTP_PATH_BYTES 96

struct http_route {
    char path[HTTP_PATH_BYTES]; /* of the method: "/etcdserverpb.KV/Range" */
    struct proto_method method;
    bool etcd;       /* names as in the .proto, and etcd's way to write errors */
    bool stays_open; /* the end of the request's body is not the end of its messages */
    bool waits;      /* one answer, which may take hours */
};

/* POST: /v3/kv/range, /v3beta/..., and /v1/Shards/GetShard. False: there is none. */
bool http_route_find(const char *url, struct http_route *ret);

/* For tests: etcd's paths, without "/v3"; NULL behind the last one. */
const char *http_route_etcd(size_t i);

#endif
