/* The certificate files of a process, as last read, and the gRPC credentials made from them.
 *
 * The files are checked for changes when a connection is made, at most once a second, and when
 * bus_tls_reload is called. New files take effect once they are consistent with each other; until
 * then the old ones stay in use. A reload does not close open connections. But each call checks
 * that its peer's certificate is valid *now*: see bus__tls_identify. */
#ifndef BUS_TLS_H
#define BUS_TLS_H

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>

#include "bus/bus.h"
#include "bus/certificate.h"

/* A peer's verified certificate. Immutable, reference-counted. */
struct bus_certificate {
    _Atomic uint32_t refs;
    struct certificate c;
    enum certificate_use use;
    char *pem;
    struct thole_status verdict; /* cached until c.not_after_s */
    _Atomic uint64_t counts_in;  /* the newest set of files in which it is known to count */
};
void bus__certificate_unref(struct bus_certificate *c); /* NULL is fine */

/* Verify the certificate of the call's peer, or use the cached result. OK with NULL: the peer
 * showed no certificate, or the connection is not TLS. UNAUTHENTICATED CERTIFICATE. */
THOLE_MUST_CHECK enum thole_code bus__tls_identify(struct bus_tls *t, grpc_call *call,
                                                   enum certificate_use use,
                                                   struct bus_certificate **ret,
                                                   struct thole_status *st);

/* Does a certificate that was accepted still count? Cheap, unless the files have changed. */
THOLE_MUST_CHECK enum thole_code bus__tls_recheck(struct bus_tls *t, struct bus_certificate *c,
                                                  struct thole_status *st);

/* Credentials for the server. `t` must outlive them. */
grpc_server_credentials *bus__tls_server_credentials(struct bus_tls *t);
/* Credentials for a channel. The server's certificate must be for the host name or address of one
 * of `addresses` ("host:port,..."). NULL: it must be that of a host of this cluster. */
grpc_channel_credentials *bus__tls_channel_credentials(struct bus_tls *t, const char *addresses);

/* Check that a verified certificate names this host's cluster. A client accepts any cluster. */
THOLE_MUST_CHECK enum thole_code bus__tls_check_host(struct bus_tls *t, const struct certificate *c,
                                                     struct thole_status *st);

#endif
