/* Any bytes as a peer's certificate: refused with a message, or accepted with a name. The input is
 * DER, so that mutations get past the PEM around it. */
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/buf.h"
#include "bus/certificate.h"
#include "bus/certificate_make.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct trust *make_trust(void)
{
    const struct certificate_request q = {.kind = CERTIFICATE_CA,
                                          .name = "fuzz",
                                          .cluster = "fuzz",
                                          .not_before_s = 0,
                                          .not_after_s = INT64_C(4102444800)};
    char *pem, *key;
    struct trust *t;
    ASSERT(certificate_make(&q, NULL, NULL, &pem, &key, NULL) == THOLE_OK);
    ASSERT(trust_new(pem, "fuzz", &t, NULL) == THOLE_OK);
    free(pem);
    free(key);
    return t;
}

static char *pem_of(const uint8_t *data, size_t size)
{
    const size_t line = 48; /* becomes 64 characters */
    struct bytes out = {0};
    bytes_append_str(&out, "-----BEGIN CERTIFICATE-----\n");
    for (size_t at = 0; at < size; at += line) {
        unsigned char text[80];
        size_t n = size - at < line ? size - at : line;
        (void)EVP_EncodeBlock(text, data + at, (int)n);
        bytes_printf(&out, "%s\n", (const char *)text);
    }
    bytes_append_str(&out, "-----END CERTIFICATE-----\n");
    char *pem = xstrndup((const char *)out.data, out.size);
    bytes_deinit(&out);
    return pem;
}

static void check_name(const char *name)
{
    for (const char *p = name; *p != '\0'; p++) {
        ASSERT((unsigned char)*p >= 0x20 && *p != 0x7f);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct trust *trust;
    if (trust == NULL) {
        trust = make_trust();
    }
    char *pem = pem_of(data, size);
    struct certificate c;
    struct thole_status st = {0};
    if (certificate_read(pem, &c, &st) == THOLE_OK) {
        ASSERT(c.name[0] != '\0' && strlen(c.name) < sizeof c.name);
        check_name(c.name);
        check_name(c.cluster);
    } else {
        ASSERT(st.reason == THOLE_REASON_CERTIFICATE && st.message[0] != '\0');
    }
    ASSERT(certificate_verify(pem, CERTIFICATE_CLIENT, trust, trust, &c, &st) != THOLE_OK);
    (void)certificate_check_address(pem, "h1.example.com", &st);
    free(pem);
    return 0;
}
