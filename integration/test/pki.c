#include "integration/test/pki.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

void pki_make_host(struct cluster *c, int i)
{
    char ip[32];
    snprintf(ip, sizeof ip, "%s", c->hosts[i].address);
    *strrchr(ip, ':') = '\0';
    cli_ok(c, i, "cert host %s %s --dir %s", c->hosts[i].name, ip, pki);
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
