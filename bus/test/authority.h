/* A CA with its files in a directory of its own, for tests of TLS. */
#ifndef BUS_TEST_AUTHORITY_H
#define BUS_TEST_AUTHORITY_H

#include "bus/bus.h"
#include "bus/certificate_make.h"

struct authority {
    char *dir, *pem, *key;
    char *ca_path; /* DIR/ca.crt */
    char *cluster;
};

/* Paths of a certificate and its key: DIR/FILE.crt and DIR/FILE.key. */
struct issued {
    char cert[256], key[256];
};

struct authority *authority_new(const char *cluster);
void authority_free(struct authority *a);
/* A certificate for 127.0.0.1 to 127.0.0.9, ::1 and localhost, valid for a day. Files are replaced
 * by renaming. */
struct issued authority_issue(struct authority *a, enum certificate_kind kind, const char *name);
/* The same with everything in `given`, and defaults for absent fields: cluster, addresses,
 * times. */
struct issued authority_issue_as(struct authority *a, const char *file,
                                 const struct certificate_request *given);
/* The TLS files of a process: the paths belong to `i` and `a`. */
struct bus_tls_files files_of(const struct authority *a, const struct issued *i);
struct bus_tls *tls_of(const struct authority *a, const struct issued *i, bool host);
void write_text(const char *path, const char *text); /* by renaming */

#endif
