/* The HTTP port: GET /metrics, /livez, /readyz, /health, /version, for which callers need no
 * rights; and calls of services in JSON, POST /v1/SERVICE/CALL and etcd's /v3/..., with the rights
 * of the token that comes with them. In one thread of its own. Over TLS if the host has
 * certificates. */
#ifndef AGENT_DOORS_HTTP_H
#define AGENT_DOORS_HTTP_H

#include <stdint.h>
#include <thole/status.h>

struct http;
struct thole;
/* `address` passed address_check for ADDRESS_LISTEN; port 0 picks one. UNAVAILABLE ADDRESS_IN_USE,
 * INVALID_ARGUMENT (its name is not known, or its address is not one of this machine). */
THOLE_MUST_CHECK enum thole_code http_new(struct thole *host, const char *address,
                                          struct http **ret, struct thole_status *st);
/* Serve with the certificates that the host has now, if they changed. */
void http_renew(struct http *h);
void http_free(struct http *h);                 /* NULL is fine */
const char *http_address(const struct http *h); /* with the real port */

#endif
