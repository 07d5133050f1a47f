/* The files of a process's certificates, as last read, and what gRPC is given of them.
 *
 * The files are looked at again when a connection is made, at most once a second, and when
 * bus_tls_reload is called. New ones are used if they fit together; until then, and if they never
 * do, the old ones stay. Open connections stay as they are; but each of their calls is of a peer
 * whose certificate counts *now*: see bus__tls_identify. */
#ifndef BUS_TLS_H
#define BUS_TLS_H

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>

#include "bus/bus.h"
#include "bus/certificate.h"

/* A peer's certificate that was verified; immutable, counted. */
struct bus_certificate {
    _Atomic uint32_t refs;
    struct certificate c;
    enum certificate_use use;
    char *pem;
    struct thole_status verdict; /* counts until c.not_after_s */
};
void bus__certificate_unref(struct bus_certificate *c); /* NULL is fine */

/* Takes the certificate of the call's peer and verifies it, or remembers that it did. OK with NULL:
 * the peer showed none (or the connection is not TLS). UNAUTHENTICATED CERTIFICATE. */
THOLE_MUST_CHECK enum thole_code bus__tls_identify(struct bus_tls *t, grpc_call *call,
                                                   enum certificate_use use,
                                                   struct bus_certificate **ret,
                                                   struct thole_status *st);

/* For the server; `t` must live as long as they do. */
grpc_server_credentials *bus__tls_server_credentials(struct bus_tls *t);
/* For a channel. `addresses` ("host:port,..."): the server's certificate must be for the host name
 * or address of one of them; NULL: it must be that of a host of our cluster. */
grpc_channel_credentials *bus__tls_channel_credentials(struct bus_tls *t, const char *addresses);

/* What a host's certificate must say to be one of ours, beside its signature. */
THOLE_MUST_CHECK enum thole_code bus__tls_check_host(struct bus_tls *t, const struct certificate *c,
                                                     struct thole_status *st);

#endif
