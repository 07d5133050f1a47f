/* Makes certificates: a private CA, and the certificates it signs. For `thole cert` and tests.
 *
 * Keys are ECDSA P-256. A host's certificate serves for servers and clients, a user's for clients
 * only. */
#ifndef BUS_CERTIFICATE_MAKE_H
#define BUS_CERTIFICATE_MAKE_H

#include <stddef.h>
#include <stdint.h>
#include <thole/status.h>

enum certificate_kind { CERTIFICATE_CA, CERTIFICATE_HOST, CERTIFICATE_USER };

struct certificate_request {
    enum certificate_kind kind;
    const char *name;             /* of the host or user; for a CA, the cluster's name */
    const char *cluster;          /* lower case letters, digits, dots and dashes */
    const char *const *addresses; /* HOST: its DNS names and IP addresses */
    size_t address_count;
    int64_t not_before_s, not_after_s; /* Unix time */
};

/* Returns PEM of the certificate and of its private key, which the caller frees. `ca_pem` and
 * `ca_key` sign the certificate; both are NULL for a CA, which signs itself. INVALID_ARGUMENT. */
THOLE_MUST_CHECK enum thole_code certificate_make(const struct certificate_request *q,
                                                  const char *ca_pem, const char *ca_key,
                                                  char **ret_pem, char **ret_key,
                                                  struct thole_status *st);
/* Returns the CA's list of revoked certificates with that of `pem` added, which the caller frees.
 * `crl`: the list so far; NULL: there is none. INVALID_ARGUMENT: the CA did not sign it. */
THOLE_MUST_CHECK enum thole_code certificate_revoke(const char *pem, const char *crl,
                                                    const char *ca_pem, const char *ca_key,
                                                    char **ret, struct thole_status *st);
/* Returns the cluster of a CA made here, which the caller frees. INVALID_ARGUMENT: another tool
 * made the CA. */
THOLE_MUST_CHECK enum thole_code certificate_ca_cluster(const char *ca_pem, char **ret,
                                                        struct thole_status *st);

#endif
