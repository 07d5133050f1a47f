/* The certificates of a cluster: a CA, its hosts, users. One cluster at a time. */
#ifndef INTEGRATION_TEST_PKI_H
#define INTEGRATION_TEST_PKI_H

#include <thole/thole.h>

#include "integration/test/cluster.h"

extern char pki[256]; /* the folder: ca.crt, ca.key, and a .crt and .key for each host and user */

/* Make a CA, certificates of the first `hosts` hosts, and that of the user admin. The daemons start
 * with theirs, and commands are run as admin. */
void pki_make(struct cluster *c, int hosts);
/* A token of `thole token create`, in a static buffer; its id is the part from PKI_TOKEN_ID, 12
 * characters. */
#define PKI_TOKEN_ID 6
const char *pki_token(struct cluster *c, const char *user, const char *life);
/* The library as a client at host i, with this user's certificate. */
struct thole *pki_connect(struct cluster *c, int i, const char *user);
void pki_make_host(struct cluster *c, int i);
/* Run commands over TLS, as this user; NULL: as nobody. */
void call_as(const char *user);
void call_in_plain_text(void);

#endif
