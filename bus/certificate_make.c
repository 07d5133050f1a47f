/* Makes certificates. See certificate_make.h. */
#include "bus/certificate_make.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/buf.h"
#include "bus/certificate.h"

#define SERIAL_BITS 127
#define CA_TITLE "Thole CA of "

/* The issuer that signs a certificate. */
struct signer {
    X509 *x; /* NULL: the certificate signs itself */
    EVP_PKEY *key;
};

static bool add_extension(X509 *x, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, issuer, x, NULL, NULL, 0);
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    bool ok = e != NULL && X509_add_ext(x, e, -1) == 1;
    X509_EXTENSION_free(e);
    return ok;
}

static bool add_general_name(GENERAL_NAMES *names, int type, const char *text)
{
    GENERAL_NAME *n = GENERAL_NAME_new();
    ASN1_IA5STRING *s = ASN1_IA5STRING_new();
    ASSERT(n != NULL && s != NULL);
    bool ok = ASN1_STRING_set(s, text, -1) == 1 && sk_GENERAL_NAME_push(names, n) > 0;
    GENERAL_NAME_set0_value(n, type, s);
    return ok;
}

static bool add_ip(GENERAL_NAMES *names, const char *text)
{
    ASN1_OCTET_STRING *ip = a2i_IPADDRESS(text);
    if (ip == NULL) {
        return false;
    }
    GENERAL_NAME *n = GENERAL_NAME_new();
    ASSERT(n != NULL);
    GENERAL_NAME_set0_value(n, GEN_IPADD, ip);
    return sk_GENERAL_NAME_push(names, n) > 0;
}

/* Build the names directly, not from OpenSSL's configuration syntax: there, a crafted name could
 * add further names. */
static bool add_alternative_names(X509 *x, const struct certificate_request *q)
{
    GENERAL_NAMES *names = GENERAL_NAMES_new();
    ASSERT(names != NULL);
    char *uri = xasprintf("thole://%s/%s/%s", q->cluster,
                          q->kind == CERTIFICATE_HOST ? "host" : "user", q->name);
    bool ok = add_general_name(names, GEN_URI, uri);
    for (size_t i = 0; i < q->address_count && ok; i++) {
        struct in6_addr ip;
        const char *a = q->addresses[i];
        bool numeric = inet_pton(AF_INET, a, &ip) == 1 || inet_pton(AF_INET6, a, &ip) == 1;
        ok = numeric ? add_ip(names, a) : add_general_name(names, GEN_DNS, a);
    }
    ok = ok && X509_add1_ext_i2d(x, NID_subject_alt_name, names, 0, 0) == 1;
    GENERAL_NAMES_free(names);
    free(uri);
    return ok;
}

static bool add_extensions(X509 *x, X509 *issuer, const struct certificate_request *q)
{
    bool ca = q->kind == CERTIFICATE_CA;
    bool ok = add_extension(x, issuer, NID_basic_constraints,
                            ca ? "critical,CA:TRUE,pathlen:0" : "critical,CA:FALSE") &&
              add_extension(x, issuer, NID_key_usage,
                            ca ? "critical,keyCertSign,cRLSign" : "critical,digitalSignature") &&
              add_extension(x, issuer, NID_subject_key_identifier, "hash") &&
              add_extension(x, issuer, NID_authority_key_identifier, "keyid:always");
    if (ok && !ca) {
        ok = add_extension(x, issuer, NID_ext_key_usage,
                           q->kind == CERTIFICATE_HOST ? "serverAuth,clientAuth" : "clientAuth") &&
             add_alternative_names(x, q);
    }
    return ok;
}

static bool set_serial(X509 *x)
{
    BIGNUM *n = BN_new();
    bool ok = n != NULL && BN_rand(n, SERIAL_BITS, BN_RAND_TOP_ANY, BN_RAND_BOTTOM_ANY) == 1 &&
              BN_to_ASN1_INTEGER(n, X509_get_serialNumber(x)) != NULL;
    BN_free(n);
    return ok;
}

static bool set_subject(X509 *x, const struct certificate_request *q)
{
    X509_NAME *subject = X509_get_subject_name(x);
    bool ca = q->kind == CERTIFICATE_CA;
    char *title = ca ? xasprintf(CA_TITLE "%s", q->cluster) : xstrdup(q->name);
    bool ok = X509_NAME_add_entry_by_txt(subject, "O", MBSTRING_UTF8,
                                         (const unsigned char *)q->cluster, -1, -1, 0) == 1 &&
              X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, (const unsigned char *)title,
                                         -1, -1, 0) == 1;
    free(title);
    return ok;
}

static X509 *build(const struct certificate_request *q, EVP_PKEY *key, const struct signer *by)
{
    X509 *x = X509_new();
    ASSERT(x != NULL);
    X509 *issuer = by->x != NULL ? by->x : x;
    bool ok = X509_set_version(x, X509_VERSION_3) == 1 && set_serial(x) && set_subject(x, q) &&
              X509_set_issuer_name(x, X509_get_subject_name(issuer)) == 1 &&
              X509_set_pubkey(x, key) == 1 &&
              ASN1_TIME_set(X509_getm_notBefore(x), (time_t)q->not_before_s) != NULL &&
              ASN1_TIME_set(X509_getm_notAfter(x), (time_t)q->not_after_s) != NULL &&
              add_extensions(x, issuer, q) && X509_sign(x, by->key, EVP_sha256()) > 0;
    if (!ok) {
        X509_free(x);
        return NULL;
    }
    return x;
}

static char *take_text(BIO *out)
{
    char *data = NULL;
    long size = BIO_get_mem_data(out, &data);
    char *text = xstrndup(data, (size_t)size);
    BIO_free(out);
    return text;
}

static char *pem_of(X509 *x)
{
    BIO *out = BIO_new(BIO_s_mem());
    ASSERT(out != NULL && PEM_write_bio_X509(out, x) == 1);
    return take_text(out);
}

static char *pem_of_key(EVP_PKEY *key)
{
    BIO *out = BIO_new(BIO_s_secmem());
    ASSERT(out != NULL && PEM_write_bio_PKCS8PrivateKey(out, key, NULL, NULL, 0, NULL, NULL) == 1);
    return take_text(out);
}

static X509 *parse_certificate(const char *pem)
{
    BIO *in = BIO_new_mem_buf(pem, -1);
    ASSERT(in != NULL);
    X509 *x = PEM_read_bio_X509(in, NULL, NULL, NULL);
    BIO_free(in);
    return x;
}

static EVP_PKEY *parse_key(const char *pem)
{
    BIO *in = BIO_new_mem_buf(pem, -1);
    ASSERT(in != NULL);
    EVP_PKEY *key = PEM_read_bio_PrivateKey(in, NULL, NULL, (void *)(uintptr_t) "");
    BIO_free(in);
    return key;
}

enum thole_code certificate_make(const struct certificate_request *q, const char *ca_pem,
                                 const char *ca_key, char **ret_pem, char **ret_key,
                                 struct thole_status *st)
{
    struct signer by = {0};
    enum thole_code code = THOLE_OK;
    X509 *x = NULL;
    EVP_PKEY *key = EVP_EC_gen("P-256");
    ASSERT(key != NULL);
    if (ca_pem != NULL) {
        by = (struct signer){parse_certificate(ca_pem), parse_key(ca_key)};
    } else {
        by.key = key;
        EVP_PKEY_up_ref(key);
    }
    if (by.key == NULL || (ca_pem != NULL && by.x == NULL)) {
        code = THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_CERTIFICATE,
                          "the CA's certificate or its private key is not in PEM, or has a "
                          "password");
    } else if (by.x != NULL && X509_check_private_key(by.x, by.key) != 1) {
        code = THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_CERTIFICATE,
                          "the CA's private key does not belong to its certificate");
    } else if ((x = build(q, key, &by)) == NULL) {
        code = THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_CERTIFICATE,
                          "cannot make a certificate for \"%.64s\": %s", q->name,
                          ERR_reason_error_string(ERR_peek_last_error()));
    } else {
        *ret_pem = pem_of(x);
        *ret_key = pem_of_key(key);
    }
    ERR_clear_error();
    X509_free(x);
    X509_free(by.x);
    EVP_PKEY_free(by.key);
    EVP_PKEY_free(key);
    return code;
}

/* ---- Revocation ------------------------------------------------------------------------------ */

static X509_CRL *parse_crl(const char *pem)
{
    BIO *in = BIO_new_mem_buf(pem, -1);
    ASSERT(in != NULL);
    X509_CRL *crl = PEM_read_bio_X509_CRL(in, NULL, NULL, NULL);
    BIO_free(in);
    return crl;
}

/* Certificates stay in the list; the time of the next update is when the CA ends. */
static bool add_revoked(X509_CRL *crl, X509 *x, const struct signer *by)
{
    X509_REVOKED *known = NULL, *one = X509_REVOKED_new();
    ASN1_TIME *now = ASN1_TIME_set(NULL, time(NULL));
    ASSERT(one != NULL && now != NULL);
    bool add = X509_CRL_get0_by_cert(crl, &known, x) == 0;
    bool ok = X509_REVOKED_set_serialNumber(one, X509_get_serialNumber(x)) == 1 &&
              X509_REVOKED_set_revocationDate(one, now) == 1 &&
              (!add || X509_CRL_add0_revoked(crl, one) == 1);
    if (!ok || !add) {
        X509_REVOKED_free(one);
    }
    ok = ok && X509_CRL_set_version(crl, X509_CRL_VERSION_2) == 1 &&
         X509_CRL_set_issuer_name(crl, X509_get_subject_name(by->x)) == 1 &&
         X509_CRL_set1_lastUpdate(crl, now) == 1 &&
         X509_CRL_set1_nextUpdate(crl, X509_get0_notAfter(by->x)) == 1 && X509_CRL_sort(crl) == 1 &&
         X509_CRL_sign(crl, by->key, EVP_sha256()) > 0;
    ASN1_TIME_free(now);
    return ok;
}

enum thole_code certificate_revoke(const char *pem, const char *crl_pem, const char *ca_pem,
                                   const char *ca_key, char **ret, struct thole_status *st)
{
    struct signer by = {parse_certificate(ca_pem), parse_key(ca_key)};
    X509 *x = parse_certificate(pem);
    X509_CRL *crl = crl_pem != NULL ? parse_crl(crl_pem) : X509_CRL_new();
    const char *wrong = NULL;
    if (by.x == NULL || by.key == NULL || X509_check_private_key(by.x, by.key) != 1) {
        wrong = "the CA's certificate and its private key do not fit together";
    } else if (x == NULL || X509_verify(x, by.key) != 1) {
        wrong = "it is not a certificate that this CA signed";
    } else if (crl == NULL || (crl_pem != NULL && X509_CRL_verify(crl, by.key) != 1)) {
        wrong = "the list of revoked certificates is not this CA's";
    } else if (!add_revoked(crl, x, &by)) {
        wrong = "the list cannot be signed";
    }
    if (wrong == NULL) {
        BIO *out = BIO_new(BIO_s_mem());
        ASSERT(out != NULL && PEM_write_bio_X509_CRL(out, crl) == 1);
        *ret = take_text(out);
    }
    ERR_clear_error();
    X509_CRL_free(crl);
    X509_free(x);
    X509_free(by.x);
    EVP_PKEY_free(by.key);
    return wrong == NULL
               ? THOLE_OK
               : THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_CERTIFICATE, "%s", wrong);
}

enum thole_code certificate_ca_cluster(const char *ca_pem, char **ret, struct thole_status *st)
{
    X509 *x = parse_certificate(ca_pem);
    char title[256] = "";
    if (x != NULL) {
        (void)X509_NAME_get_text_by_NID(X509_get_subject_name(x), NID_commonName, title,
                                        sizeof title);
    }
    X509_free(x);
    ERR_clear_error();
    if (strncmp(title, CA_TITLE, sizeof CA_TITLE - 1) != 0) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_CERTIFICATE,
                          "the CA was not made by `thole cert ca`, so it does not say for which "
                          "cluster it is");
    }
    *ret = xstrdup(title + sizeof CA_TITLE - 1);
    return THOLE_OK;
}
