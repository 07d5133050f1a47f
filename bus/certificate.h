/* X.509 certificates: who they name, whether a CA of ours signed them, and how long they count.
 *
 * A certificate names a host or a user of a cluster:
 *
 *   URI SAN thole://CLUSTER/host/NAME    the host NAME
 *   URI SAN thole://CLUSTER/user/NAME    the user NAME
 *   any other                            a user: its first URI SAN, else its common name (CN)
 *
 * All of it is verified here, for servers and clients alike, and not by gRPC: so a refusal can say
 * what is wrong, and an end of validity counts on open connections, too. gRPC (OpenSSL) proves in
 * the handshake that the peer has the private key. */
#ifndef BUS_CERTIFICATE_H
#define BUS_CERTIFICATE_H

#include <stdbool.h>
#include <stdint.h>
#include <thole/status.h>

#include "base/buf.h"

#define CERTIFICATE_NAME_BYTES 129 /* with the NUL */

struct certificate {
    bool host;                            /* false: a user */
    char name[CERTIFICATE_NAME_BYTES];    /* of the host or user */
    char cluster[CERTIFICATE_NAME_BYTES]; /* "": it names none */
    int64_t not_before_s, not_after_s;    /* Unix time, of the whole chain */
};

enum certificate_use { CERTIFICATE_SERVER, CERTIFICATE_CLIENT };

/* CAs that are believed. Immutable. */
struct trust;
/* `pem` holds one or more certificates; `path` is where they came from, for messages. */
THOLE_MUST_CHECK enum thole_code trust_new(const char *pem, const char *path, struct trust **ret,
                                           struct thole_status *st);
void trust_free(struct trust *t); /* NULL is fine */

/* Read the first certificate of `pem`, and verify nothing. */
THOLE_MUST_CHECK enum thole_code certificate_read(const char *pem, struct certificate *ret,
                                                  struct thole_status *st);
/* Verify the chain in `pem` (the peer's own certificate first) now, and read it. UNAUTHENTICATED
 * CERTIFICATE, with a message that says what is wrong with it. A host's must be signed by a CA of
 * `hosts`, a user's by one of `users`. */
THOLE_MUST_CHECK enum thole_code certificate_verify(const char *pem, enum certificate_use use,
                                                    const struct trust *hosts,
                                                    const struct trust *users,
                                                    struct certificate *ret,
                                                    struct thole_status *st);
/* Is it for this host name or address? The message names those that it is for. */
THOLE_MUST_CHECK enum thole_code certificate_check_address(const char *pem, const char *host,
                                                           struct thole_status *st);
/* Is `key` the private key of the first certificate of `pem`? */
THOLE_MUST_CHECK enum thole_code certificate_check_key(const char *pem, const char *key,
                                                       const char *key_path,
                                                       struct thole_status *st);

#endif
