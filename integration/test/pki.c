#include "integration/test/pki.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

char pki[256];

void call_in_plain_text(void)
{
    unsetenv("THOLE_TLS_CA");
    unsetenv("THOLE_TLS_CERT");
    unsetenv("THOLE_TLS_KEY");
    unsetenv("THOLE_TOKEN_FILE");
}

void call_as(const char *user)
{
    char path[400];
    call_in_plain_text();
    snprintf(path, sizeof path, "%s/ca.crt", pki);
    setenv("THOLE_TLS_CA", path, 1);
    if (user != NULL) {
        snprintf(path, sizeof path, "%s/%s.crt", pki, user);
        setenv("THOLE_TLS_CERT", path, 1);
        snprintf(path, sizeof path, "%s/%s.key", pki, user);
        setenv("THOLE_TLS_KEY", path, 1);
    }
}

const char *pki_token(struct cluster *c, const char *user, const char *life)
{
    static char token[84];
    const char *secret =
        strstr(cli_ok(c, 0, "token create --for %s --expires %s", user, life), "thole_");
    assert_non_null(secret);
    snprintf(token, sizeof token, "%s", secret);
    return token;
}

struct thole *pki_connect(struct cluster *c, int i, const char *user)
{
    char ca[300], cert[300], key[300];
    const struct thole_tls tls = {.size = sizeof tls, .ca = ca, .cert = cert, .key = key};
    struct thole *t = NULL;
    struct thole_status st = {0};
    snprintf(ca, sizeof ca, "%s/ca.crt", pki);
    snprintf(cert, sizeof cert, "%s/%s.crt", pki, user);
    snprintf(key, sizeof key, "%s/%s.key", pki, user);
    if (thole_connect_tls(c->hosts[i].address, &tls, &t, &st) != THOLE_OK) {
        fail_msg("%s", st.message);
    }
    return t;
}

void pki_make_host(struct cluster *c, int i)
{
    cli_ok(c, i, "cert host %s %s --dir %s", c->hosts[i].name, c->hosts[i].ip, pki);
}

void pki_make(struct cluster *c, int hosts)
{
    call_in_plain_text();
    snprintf(pki, sizeof pki, "%s/pki", c->dir);
    cli_ok(c, 0, "cert ca prod --dir %s", pki);
    cli_ok(c, 0, "cert client admin --dir %s", pki);
    for (int i = 0; i < hosts; i++) {
        pki_make_host(c, i);
    }
    c->pki = pki;
    call_as("admin");
}
