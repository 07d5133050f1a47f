/* Making certificates: a CA of one's own, and what it signs. For `thole cert` and tests.
 *
 * Keys are ECDSA P-256. A host's certificate is for servers and clients, a user's for clients. */
#ifndef BUS_CERTIFICATE_MAKE_H
#define BUS_CERTIFICATE_MAKE_H

#include <stddef.h>
#include <stdint.h>
#include <thole/status.h>

enum certificate_kind { CERTIFICATE_CA, CERTIFICATE_HOST, CERTIFICATE_USER };

struct certificate_request {
    enum certificate_kind kind;
    const char *name;             /* of the host or user; a CA's is its cluster's */
    const char *cluster;          /* lower case letters, digits, dots and dashes */
    const char *const *addresses; /* HOST: names and IP addresses at which it is reached */
    size_t address_count;
    int64_t not_before_s, not_after_s; /* Unix time */
};

/* PEM of the certificate and of its private key, to be freed. `ca_pem` and `ca_key` sign it; NULL
 * for a CA, which signs itself. INVALID_ARGUMENT. */
THOLE_MUST_CHECK enum thole_code certificate_make(const struct certificate_request *q,
                                                  const char *ca_pem, const char *ca_key,
                                                  char **ret_pem, char **ret_key,
                                                  struct thole_status *st);
/* The cluster that a CA made here signs for; INVALID_ARGUMENT: it was made otherwise. To be
 * freed. */
THOLE_MUST_CHECK enum thole_code certificate_ca_cluster(const char *ca_pem, char **ret,
                                                        struct thole_status *st);

#endif
