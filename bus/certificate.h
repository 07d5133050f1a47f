/* X.509 certificates: the host or user a certificate names, the CA that signed it, and its period
 * of validity.
 *
 * A certificate names a host or a user of a cluster:
 *
 *   URI SAN thole://CLUSTER/host/NAME    the host NAME
 *   URI SAN thole://CLUSTER/user/NAME    the user NAME
 *   any other                            a user: its first URI SAN, else its common name (CN)
 *
 * This module, not gRPC, verifies certificates, for servers and clients alike. So a refusal can say
 * what is wrong, and a certificate that expires also counts on open connections. gRPC (OpenSSL)
 * proves in the handshake that the peer has the private key. */
#ifndef BUS_CERTIFICATE_H
#define BUS_CERTIFICATE_H

#include <stdbool.h>
#include <stdint.h>
#include <thole/status.h>

#include "base/buf.h"

#define CERTIFICATE_NAME_BYTES 129 /* including the NUL */

struct certificate {
    bool host;                            /* false: a user */
    char name[CERTIFICATE_NAME_BYTES];    /* of the host or user */
    char cluster[CERTIFICATE_NAME_BYTES]; /* "": the certificate names no cluster */
    int64_t not_before_s, not_after_s;    /* Unix time; validity of the whole chain */
};

enum certificate_use { CERTIFICATE_SERVER, CERTIFICATE_CLIENT };

/* A set of trusted CAs. Immutable. */
struct trust;
/* `pem` holds one or more CA certificates. `path` is their file, for error messages. */
THOLE_MUST_CHECK enum thole_code trust_new(const char *pem, const char *path, struct trust **ret,
                                           struct thole_status *st);
/* Refuse what these lists of revoked certificates (CRLs) name; before the set is shared. A CA
 * without a list has revoked nothing; a list counts also after the time of its next update. */
THOLE_MUST_CHECK enum thole_code trust_add_crls(struct trust *t, const char *pem, const char *path,
                                                struct thole_status *st);
void trust_free(struct trust *t); /* NULL is fine */

/* Read the first certificate of `pem` without verifying it. */
THOLE_MUST_CHECK enum thole_code certificate_read(const char *pem, struct certificate *ret,
                                                  struct thole_status *st);
/* Verify the chain in `pem` (the peer's own certificate first) at the current time, and read it. A
 * CA of `hosts` must have signed a host's certificate; a CA of `users`, a user's. Fails with
 * UNAUTHENTICATED CERTIFICATE and a message that says what is wrong. */
THOLE_MUST_CHECK enum thole_code certificate_verify(const char *pem, enum certificate_use use,
                                                    const struct trust *hosts,
                                                    const struct trust *users,
                                                    struct certificate *ret,
                                                    struct thole_status *st);
/* Check that the certificate is for this host name or address. The message lists its names. */
THOLE_MUST_CHECK enum thole_code certificate_check_address(const char *pem, const char *host,
                                                           struct thole_status *st);
/* Check that `key` is the private key of the first certificate of `pem`. */
THOLE_MUST_CHECK enum thole_code certificate_check_key(const char *pem, const char *key,
                                                       const char *key_path,
                                                       struct thole_status *st);

#endif
