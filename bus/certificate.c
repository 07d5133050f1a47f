/* Parses certificates and verifies their chains. See certificate.h. */
#include "bus/certificate.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"

#define SCHEME "thole://"
#define CHAIN_MAX 16  /* limit on the certificates read from a peer's chain */
#define AUTH_LEVEL 2  /* OpenSSL's security level: no SHA-1, no RSA below 2048 bits */
#define NAMES_SHOWN 8 /* limit on the names listed in an error message */

struct trust {
    X509_STORE *store;
    char *path;
    bool revokes; /* the store has CRLs */
};

static enum thole_code refused(struct thole_status *st, const char *what)
{
    return THOLE_FAIL(st, THOLE_UNAUTHENTICATED, THOLE_REASON_CERTIFICATE, "%s", what);
}

/* ---- Reading PEM ----------------------------------------------------------------------------- */

/* Parse all certificates of `pem`, in order. NULL if `pem` has none, or if one does not parse. */
static STACK_OF(X509) * read_all(const char *pem)
{
    STACK_OF(X509) *all = sk_X509_new_null();
    BIO *in = BIO_new_mem_buf(pem, -1);
    ASSERT(all != NULL && in != NULL);
    X509 *one;
    while ((one = PEM_read_bio_X509(in, NULL, NULL, NULL)) != NULL) {
        ASSERT(sk_X509_push(all, one) > 0);
    }
    /* The end is PEM's "no start line"; anything else is damage. */
    bool damaged = ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE;
    ERR_clear_error();
    BIO_free(in);
    if (damaged || sk_X509_num(all) == 0) {
        sk_X509_pop_free(all, X509_free);
        return NULL;
    }
    return all;
}

static X509 *read_first(const char *pem)
{
    BIO *in = BIO_new_mem_buf(pem, -1);
    ASSERT(in != NULL);
    X509 *one = PEM_read_bio_X509(in, NULL, NULL, NULL);
    ERR_clear_error();
    BIO_free(in);
    return one;
}

enum thole_code trust_new(const char *pem, const char *path, struct trust **ret,
                          struct thole_status *st)
{
    STACK_OF(X509) *all = read_all(pem);
    if (all == NULL) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_CERTIFICATE,
                          "%s holds no certificates of a CA in PEM", path);
    }
    struct trust *t = xcalloc(1, sizeof *t);
    t->store = X509_STORE_new();
    t->path = xstrdup(path);
    ASSERT(t->store != NULL);
    for (int i = 0; i < sk_X509_num(all); i++) {
        (void)X509_STORE_add_cert(t->store, sk_X509_value(all, i)); /* duplicates are fine */
    }
    ERR_clear_error();
    sk_X509_pop_free(all, X509_free);
    *ret = t;
    return THOLE_OK;
}

/* Missing and old lists must not end a cluster: the operator decides what is in the file. */
static int forgive_lists(int ok, X509_STORE_CTX *ctx)
{
    int error = X509_STORE_CTX_get_error(ctx);
    return ok || error == X509_V_ERR_UNABLE_TO_GET_CRL || error == X509_V_ERR_CRL_HAS_EXPIRED;
}

enum thole_code trust_add_crls(struct trust *t, const char *pem, const char *path,
                               struct thole_status *st)
{
    BIO *in = BIO_new_mem_buf(pem, -1);
    ASSERT(in != NULL);
    int count = 0;
    X509_CRL *one;
    while ((one = PEM_read_bio_X509_CRL(in, NULL, NULL, NULL)) != NULL) {
        count += X509_STORE_add_crl(t->store, one) == 1;
        X509_CRL_free(one);
    }
    /* As in read_all. */
    bool damaged = ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE;
    ERR_clear_error();
    BIO_free(in);
    if (damaged || count == 0) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_CERTIFICATE,
                          "%s holds no list of revoked certificates (X509 CRL) in PEM", path);
    }
    X509_STORE_set_verify_cb(t->store, forgive_lists);
    t->revokes = true;
    return THOLE_OK;
}

void trust_free(struct trust *t)
{
    if (t == NULL) {
        return;
    }
    X509_STORE_free(t->store);
    free(t->path);
    free(t);
}

/* ---- Reading a certificate ------------------------------------------------------------------- */

static int64_t unix_time(const ASN1_TIME *at)
{
    struct tm tm = {0};
    return ASN1_TIME_to_tm(at, &tm) == 1 ? (int64_t)timegm(&tm) : 0;
}

static void format_time(int64_t at_s, char ret[32])
{
    time_t t = (time_t)at_s;
    struct tm tm;
    if (gmtime_r(&t, &tm) == NULL || strftime(ret, 32, "%Y-%m-%d %H:%M UTC", &tm) == 0) {
        ret[0] = '\0';
    }
}

/* Copy text that logs print and checks compare: no control characters, no spaces at the ends. */
static bool copy_name(const unsigned char *text, int size, char ret[CERTIFICATE_NAME_BYTES])
{
    if (size <= 0 || size >= CERTIFICATE_NAME_BYTES || text[0] == ' ' || text[size - 1] == ' ') {
        return false;
    }
    for (int i = 0; i < size; i++) {
        if (text[i] < 0x20 || text[i] == 0x7f) {
            return false;
        }
    }
    memcpy(ret, text, (size_t)size);
    ret[size] = '\0';
    return true;
}

/* Copy a label with the characters of host names: lower case letters, digits, dots and dashes. */
static bool copy_label(const char *text, size_t size, char ret[CERTIFICATE_NAME_BYTES])
{
    if (size == 0 || size >= CERTIFICATE_NAME_BYTES) {
        return false;
    }
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        bool ok = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '-';
        if (!ok) {
            return false;
        }
    }
    memcpy(ret, text, size);
    ret[size] = '\0';
    return true;
}

/* thole://CLUSTER/host/NAME or thole://CLUSTER/user/NAME */
static bool read_uri(const unsigned char *text, int size, struct certificate *ret)
{
    const char *p = (const char *)text + sizeof SCHEME - 1;
    const char *end = (const char *)text + size;
    const char *slash = memchr(p, '/', (size_t)(end - p));
    if (slash == NULL || !copy_label(p, (size_t)(slash - p), ret->cluster)) {
        return false;
    }
    p = slash + 1;
    slash = memchr(p, '/', (size_t)(end - p));
    if (slash == NULL) {
        return false;
    }
    size_t kind = (size_t)(slash - p), rest = (size_t)(end - slash - 1);
    ret->host = kind == 4 && memcmp(p, "host", 4) == 0;
    if (ret->host) {
        return copy_label(slash + 1, rest, ret->name);
    }
    return kind == 4 && memcmp(p, "user", 4) == 0 &&
           copy_name((const unsigned char *)slash + 1, (int)rest, ret->name);
}

static bool read_common_name(X509 *x, struct certificate *ret)
{
    const X509_NAME *subject = X509_get_subject_name(x);
    int at = -1, last = -1;
    while ((at = X509_NAME_get_index_by_NID(subject, NID_commonName, at)) >= 0) {
        last = at;
    }
    if (last < 0) {
        return false;
    }
    unsigned char *text = NULL;
    int size =
        ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, last)));
    bool ok = size > 0 && copy_name(text, size, ret->name);
    OPENSSL_free(text);
    return ok;
}

enum uris { URIS_NONE, URIS_NAMED, URIS_BAD };

/* Read the name from the URIs among the alternative names. */
static enum uris read_uris(const GENERAL_NAMES *names, struct certificate *ret)
{
    enum uris found = URIS_NONE;
    bool ours = false;
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *n = sk_GENERAL_NAME_value(names, i);
        if (n->type != GEN_URI) {
            continue;
        }
        const unsigned char *text = ASN1_STRING_get0_data(n->d.uniformResourceIdentifier);
        int size = ASN1_STRING_length(n->d.uniformResourceIdentifier);
        bool thole = size >= (int)sizeof SCHEME - 1 && memcmp(text, SCHEME, sizeof SCHEME - 1) == 0;
        if (thole && (ours || !read_uri(text, size, ret))) {
            return URIS_BAD; /* more than one thole URI, or a malformed one */
        }
        if (!thole && !ours && found == URIS_NONE && copy_name(text, size, ret->name)) {
            found = URIS_NAMED;
        }
        ours = ours || thole;
    }
    return ours ? URIS_NAMED : found;
}

static enum thole_code read_leaf(X509 *x, struct certificate *ret, struct thole_status *st)
{
    struct certificate c = {.not_before_s = unix_time(X509_get0_notBefore(x)),
                            .not_after_s = unix_time(X509_get0_notAfter(x))};
    GENERAL_NAMES *names = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
    enum uris uris = names != NULL ? read_uris(names, &c) : URIS_NONE;
    GENERAL_NAMES_free(names);
    if (uris == URIS_BAD) {
        return refused(st, "the certificate's thole:// name is malformed, or there are two; it "
                           "must be thole://CLUSTER/host/NAME or thole://CLUSTER/user/NAME");
    }
    if (uris == URIS_NONE && !read_common_name(x, &c)) {
        return refused(st, "the certificate names nobody: it has neither a URI among its "
                           "alternative names nor a usable common name (CN)");
    }
    *ret = c;
    return THOLE_OK;
}

enum thole_code certificate_read(const char *pem, struct certificate *ret, struct thole_status *st)
{
    X509 *x = read_first(pem);
    if (x == NULL) {
        return refused(st, "it is no certificate in PEM");
    }
    enum thole_code code = read_leaf(x, ret, st);
    X509_free(x);
    return code;
}

/* ---- Verifying a chain ----------------------------------------------------------------------- */

static enum thole_code explain(int error, const struct certificate *c, const struct trust *t,
                               enum certificate_use use, struct thole_status *st)
{
    char when[32];
    switch (error) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
        format_time(c->not_after_s, when);
        return THOLE_FAIL(st, THOLE_UNAUTHENTICATED, THOLE_REASON_CERTIFICATE,
                          "the certificate of \"%.80s\", or its CA's, has expired (it was valid "
                          "until %s)",
                          c->name, when);
    case X509_V_ERR_CERT_NOT_YET_VALID:
        format_time(c->not_before_s, when);
        return THOLE_FAIL(st, THOLE_UNAUTHENTICATED, THOLE_REASON_CERTIFICATE,
                          "the certificate of \"%.80s\" is not valid yet (only from %s); are the "
                          "clocks right?",
                          c->name, when);
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
        return THOLE_FAIL(st, THOLE_UNAUTHENTICATED, THOLE_REASON_CERTIFICATE,
                          "the certificate of \"%.64s\" was not signed by a CA in %.90s, nor by "
                          "one whose certificate is beside it",
                          c->name, t->path);
    case X509_V_ERR_CERT_REVOKED:
        return THOLE_FAIL(st, THOLE_UNAUTHENTICATED, THOLE_REASON_CERTIFICATE,
                          "the certificate of \"%.80s\", or its CA's, was revoked", c->name);
    case X509_V_ERR_INVALID_PURPOSE:
        return THOLE_FAIL(st, THOLE_UNAUTHENTICATED, THOLE_REASON_CERTIFICATE,
                          "the certificate of \"%.80s\" is not for %s (extended key usage)",
                          c->name, use == CERTIFICATE_SERVER ? "servers" : "clients");
    default:
        return THOLE_FAIL(st, THOLE_UNAUTHENTICATED, THOLE_REASON_CERTIFICATE,
                          "the certificate of \"%.80s\" is refused: %s", c->name,
                          X509_verify_cert_error_string(error));
    }
}

/* The chain is valid only while all its certificates are valid: intersect their periods. */
static void narrow(X509_STORE_CTX *ctx, struct certificate *c)
{
    const STACK_OF(X509) *chain = X509_STORE_CTX_get0_chain(ctx);
    for (int i = 0; i < sk_X509_num(chain); i++) {
        const X509 *x = sk_X509_value(chain, i);
        int64_t from_s = unix_time(X509_get0_notBefore(x));
        int64_t to_s = unix_time(X509_get0_notAfter(x));
        c->not_before_s = from_s > c->not_before_s ? from_s : c->not_before_s;
        c->not_after_s = to_s < c->not_after_s ? to_s : c->not_after_s;
    }
}

static enum thole_code verify_chain(STACK_OF(X509) * all, enum certificate_use use,
                                    const struct trust *t, struct certificate *c,
                                    struct thole_status *st)
{
    X509_STORE_CTX *ctx = X509_STORE_CTX_new();
    ASSERT(ctx != NULL);
    int ok = X509_STORE_CTX_init(ctx, t->store, sk_X509_value(all, 0), all);
    if (ok == 1) {
        X509_VERIFY_PARAM *param = X509_STORE_CTX_get0_param(ctx);
        X509_VERIFY_PARAM_set_auth_level(param, AUTH_LEVEL);
        if (t->revokes) {
            ok = X509_VERIFY_PARAM_set_flags(param,
                                             X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
        }
        ok = ok == 1 ? X509_STORE_CTX_set_default(ctx, use == CERTIFICATE_SERVER ? "ssl_server"
                                                                                 : "ssl_client")
                     : 0;
    }
    bool good = ok == 1 && X509_verify_cert(ctx) == 1;
    enum thole_code code = THOLE_OK;
    if (good) {
        narrow(ctx, c);
    } else {
        int error = X509_STORE_CTX_get_error(ctx);
        code = explain(error != X509_V_OK ? error : X509_V_ERR_UNSPECIFIED, c, t, use, st);
    }
    ERR_clear_error();
    X509_STORE_CTX_free(ctx);
    return code;
}

enum thole_code certificate_verify(const char *pem, enum certificate_use use,
                                   const struct trust *hosts, const struct trust *users,
                                   struct certificate *ret, struct thole_status *st)
{
    STACK_OF(X509) *all = read_all(pem);
    if (all == NULL || sk_X509_num(all) > CHAIN_MAX) {
        sk_X509_pop_free(all, X509_free);
        return refused(st, "the peer shows no certificate that can be read, or too long a chain");
    }
    struct certificate c = {0};
    enum thole_code code = read_leaf(sk_X509_value(all, 0), &c, st);
    if (code == THOLE_OK) {
        code = verify_chain(all, use, c.host ? hosts : users, &c, st);
    }
    sk_X509_pop_free(all, X509_free);
    if (code == THOLE_OK) {
        *ret = c;
    }
    return code;
}

/* ---- Addresses and keys ---------------------------------------------------------------------- */

static void append_name(struct bytes *out, const GENERAL_NAME *n)
{
    char text[INET6_ADDRSTRLEN] = "";
    const unsigned char *data;
    const char *comma = out->size > 0 ? ", " : "";
    if (n->type == GEN_DNS) {
        data = ASN1_STRING_get0_data(n->d.dNSName);
        bytes_printf(out, "%s%.*s", comma, ASN1_STRING_length(n->d.dNSName), (const char *)data);
    } else if (n->type == GEN_IPADD) {
        data = ASN1_STRING_get0_data(n->d.iPAddress);
        int family = ASN1_STRING_length(n->d.iPAddress) == 4 ? AF_INET : AF_INET6;
        if (inet_ntop(family, data, text, sizeof text) != NULL) {
            bytes_printf(out, "%s%s", comma, text);
        }
    }
}

static enum thole_code wrong_address(X509 *x, const char *host, struct thole_status *st)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
    struct bytes list = {0};
    int n = names != NULL ? sk_GENERAL_NAME_num(names) : 0;
    for (int i = 0; i < n && i < NAMES_SHOWN; i++) {
        append_name(&list, sk_GENERAL_NAME_value(names, i));
    }
    GENERAL_NAMES_free(names);
    enum thole_code code =
        THOLE_FAIL(st, THOLE_UNAUTHENTICATED, THOLE_REASON_CERTIFICATE,
                   "the certificate of the host at %.80s is not for that name or address; it is "
                   "for: %.*s",
                   host, list.size > 0 ? (int)list.size : 7,
                   list.size > 0 ? (const char *)list.data : "nothing");
    bytes_deinit(&list);
    return code;
}

enum thole_code certificate_check_address(const char *pem, const char *host,
                                          struct thole_status *st)
{
    X509 *x = read_first(pem);
    if (x == NULL) {
        return refused(st, "the peer shows no certificate that can be read");
    }
    struct in6_addr ip;
    bool numeric = inet_pton(AF_INET, host, &ip) == 1 || inet_pton(AF_INET6, host, &ip) == 1;
    int ok = numeric ? X509_check_ip_asc(x, host, 0)
                     : X509_check_host(x, host, 0, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT, NULL);
    enum thole_code code = ok == 1 ? THOLE_OK : wrong_address(x, host, st);
    ERR_clear_error();
    X509_free(x);
    return code;
}

enum thole_code certificate_check_key(const char *pem, const char *key, const char *key_path,
                                      struct thole_status *st)
{
    X509 *x = read_first(pem);
    BIO *in = BIO_new_mem_buf(key, -1);
    ASSERT(in != NULL);
    /* With an empty password, OpenSSL does not ask at the terminal for that of an encrypted key. */
    EVP_PKEY *k = PEM_read_bio_PrivateKey(in, NULL, NULL, (void *)(uintptr_t) "");
    enum thole_code code = THOLE_OK;
    if (k == NULL) {
        code = THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_CERTIFICATE,
                          "%s holds no private key in PEM without a password", key_path);
    } else if (x == NULL || X509_check_private_key(x, k) != 1) {
        code = THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_CERTIFICATE,
                          "%s is not the private key of the certificate", key_path);
    }
    ERR_clear_error();
    EVP_PKEY_free(k);
    BIO_free(in);
    X509_free(x);
    return code;
}
