#include "bus/test/authority.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/test/temp_dir.h"
#include "bus/test/fixture.h"

#define HOUR_S 3600

static const char *const here[] = {"127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4",
                                   "127.0.0.5", "127.0.0.6", "127.0.0.7", "127.0.0.8",
                                   "127.0.0.9", "::1",       "localhost"};

void write_text(const char *path, const char *text)
{
    char *fresh = xasprintf("%s.new", path);
    FILE *f = fopen(fresh, "we");
    ASSERT(f != NULL && fputs(text, f) >= 0 && fclose(f) == 0 && rename(fresh, path) == 0);
    free(fresh);
}

struct authority *authority_new(const char *cluster)
{
    struct authority *a = xcalloc(1, sizeof *a);
    struct thole_status st = {0};
    int64_t now_s = (int64_t)time(NULL);
    a->dir = temp_dir_new();
    a->cluster = xstrdup(cluster);
    const struct certificate_request q = {.kind = CERTIFICATE_CA,
                                          .name = cluster,
                                          .cluster = cluster,
                                          .not_before_s = now_s - 10000 * HOUR_S,
                                          .not_after_s = now_s + 10000 * HOUR_S};
    if (certificate_make(&q, NULL, NULL, &a->pem, &a->key, &st) != THOLE_OK) {
        fail_msg("certificate_make: %s", st.message);
    }
    a->ca_path = path_in(a->dir, "ca.crt");
    write_text(a->ca_path, a->pem);
    return a;
}

void authority_free(struct authority *a)
{
    temp_dir_free(a->dir);
    free(a->pem);
    free(a->key);
    free(a->ca_path);
    free(a->cluster);
    free(a);
}

struct issued authority_issue_as(struct authority *a, const char *file,
                                 const struct certificate_request *given)
{
    struct certificate_request q = *given;
    struct thole_status st = {0};
    struct issued out;
    char *pem, *key;
    int64_t now_s = (int64_t)time(NULL);
    q.cluster = q.cluster != NULL ? q.cluster : a->cluster;
    q.not_before_s = q.not_before_s != 0 ? q.not_before_s : now_s - HOUR_S;
    q.not_after_s = q.not_after_s != 0 ? q.not_after_s : now_s + 24 * HOUR_S;
    if (q.kind == CERTIFICATE_HOST && q.addresses == NULL) {
        q.addresses = here;
        q.address_count = sizeof here / sizeof here[0];
    }
    if (certificate_make(&q, a->pem, a->key, &pem, &key, &st) != THOLE_OK) {
        fail_msg("certificate_make: %s", st.message);
    }
    snprintf(out.cert, sizeof out.cert, "%s/%s.crt", a->dir, file);
    snprintf(out.key, sizeof out.key, "%s/%s.key", a->dir, file);
    write_text(out.cert, pem);
    write_text(out.key, key);
    free(pem);
    free(key);
    return out;
}

struct issued authority_issue(struct authority *a, enum certificate_kind kind, const char *name)
{
    const struct certificate_request q = {.kind = kind, .name = name};
    return authority_issue_as(a, name, &q);
}

struct bus_tls_files files_of(const struct authority *a, const struct issued *i)
{
    return (struct bus_tls_files){
        .cert = i != NULL ? i->cert : NULL, .key = i != NULL ? i->key : NULL, .ca = a->ca_path};
}

struct bus_tls *tls_of(const struct authority *a, const struct issued *i, bool host)
{
    const struct bus_tls_files files = files_of(a, i);
    struct thole_status st = {0};
    struct bus_tls *t;
    if (bus_tls_new(&files, host, &t, &st) != THOLE_OK) {
        fail_msg("bus_tls_new: %s", st.message);
    }
    return t;
}
