/* `thole cert`: makes certificates for a cluster, signed by a private CA. Works on files only and
 * contacts no host.
 *
 * Private keys are readable by their owner only (0600). No file but the list of revoked
 * certificates is ever overwritten. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "agent/cli/cli.h"
#include "base/file.h"
#include "bus/certificate.h"
#include "bus/certificate_make.h"

#define DAY_S 86400
#define SKEW_S 300                   /* tolerance for machines whose clocks are behind */
#define FILE_BYTES_MAX (1024 * 1024) /* hosts read no longer lists of revoked certificates */
#define CA_DAYS 3650
#define DAYS 365
#define ADDRESSES_MAX 64

static const char *directory(const struct cli *c)
{
    const char *dir = cli_text(c, OPT_DIR);
    return dir != NULL ? dir : ".";
}

/* DIR/NAME.crt or DIR/NAME.key; freed by the caller. */
static char *path_of(const struct cli *c, const char *name, const char *ending)
{
    return xasprintf("%s/%s.%s", directory(c), name, ending);
}

static enum thole_code failed(const char *what, const char *path, struct thole_status *st)
{
    if (errno == EEXIST) {
        return THOLE_FAIL(st, THOLE_ALREADY_EXISTS, THOLE_REASON_EXISTS,
                          "%.160s is there already, and is not overwritten", path);
    }
    return THOLE_FAIL(st, THOLE_PERMISSION_DENIED, THOLE_REASON_DISK, "cannot %s %.140s: %s", what,
                      path, strerror(errno));
}

static enum thole_code write_new(const char *path, const char *text, mode_t mode,
                                 struct thole_status *st)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd < 0) {
        return failed("create", path, st);
    }
    const size_t size = strlen(text);
    bool ok = write(fd, text, size) == (ssize_t)size && fsync(fd) == 0;
    enum thole_code code = ok ? THOLE_OK : failed("write", path, st);
    close(fd);
    if (!ok) {
        unlink(path);
    }
    return code;
}

static bool is_there(const char *path)
{
    struct stat s;
    return lstat(path, &s) == 0;
}

/* Write both the certificate and the key, or neither. */
static enum thole_code write_both(const struct cli *c, const char *name, const char *pem,
                                  const char *key, struct thole_status *st)
{
    char *cert_path = path_of(c, name, "crt"), *key_path = path_of(c, name, "key");
    enum thole_code code = file_make_dirs(directory(c), st);
    if (code == THOLE_OK && is_there(cert_path)) {
        errno = EEXIST;
        code = failed("create", cert_path, st);
    }
    if (code == THOLE_OK) {
        code = write_new(key_path, key, 0600, st);
    }
    if (code == THOLE_OK) {
        code = write_new(cert_path, pem, 0644, st);
        if (code != THOLE_OK) {
            unlink(key_path);
        }
    }
    if (code == THOLE_OK) {
        printf("%s\n%s\n", cert_path, key_path);
    }
    free(cert_path);
    free(key_path);
    return code;
}

static void set_times(const struct cli *c, uint64_t standard_days, struct certificate_request *q)
{
    uint64_t days = cli_given(c, OPT_DAYS) ? cli_number(c, OPT_DAYS) : standard_days;
    int64_t now_s = (int64_t)time(NULL);
    q->not_before_s = now_s - SKEW_S;
    q->not_after_s = now_s + (int64_t)days * DAY_S;
}

/* The name becomes part of a path and of a URI, so restrict its characters. */
static bool name_fits(const char *name, bool label)
{
    size_t n = strlen(name);
    bool ok = n > 0 && n < CERTIFICATE_NAME_BYTES && name[0] != '.' && name[0] != '-';
    for (size_t i = 0; i < n && ok; i++) {
        char ch = name[i];
        bool plain = (ch >= 'a' && ch <= 'z') || (ch >= '0' && ch <= '9') || ch == '.' || ch == '-';
        ok = plain || (!label && ((ch >= 'A' && ch <= 'Z') || ch == '_' || ch == '@' || ch == '+'));
    }
    return ok;
}

static int usage(const struct cli *c, const char *what, const char *name, bool label)
{
    return cli__say_usage(c, "%s \"%s\": %s, digits, dots and dashes%s, at most %d", what, name,
                          label ? "lower case letters" : "letters", label ? "" : ", also _ @ +",
                          CERTIFICATE_NAME_BYTES - 1);
}

int cli__command_cert_ca(struct cli *c)
{
    struct thole_status st = {0};
    char *pem = NULL, *key = NULL;
    struct certificate_request q = {
        .kind = CERTIFICATE_CA, .name = c->args[0], .cluster = c->args[0]};
    if (!name_fits(c->args[0], true)) {
        return usage(c, "cluster", c->args[0], true);
    }
    set_times(c, CA_DAYS, &q);
    enum thole_code code = certificate_make(&q, NULL, NULL, &pem, &key, &st);
    if (code == THOLE_OK) {
        code = write_both(c, "ca", pem, key, &st);
    }
    free(pem);
    free(key);
    return code == THOLE_OK ? cli__flush() : cli__say_status("cannot make a CA", &st);
}

struct ca {
    char *pem, *key, *cluster;
};

static void ca_deinit(struct ca *ca)
{
    free(ca->pem);
    free(ca->key);
    free(ca->cluster);
}

static enum thole_code read_text(const char *path, char **ret, struct thole_status *st)
{
    struct buf *b = NULL;
    enum thole_code code = file_read(path, FILE_BYTES_MAX, &b, st);
    if (code == THOLE_OK) {
        *ret = xstrndup((const char *)b->data, b->size);
        buf_unref(b);
    }
    return code;
}

static enum thole_code read_of_ca(const struct cli *c, const char *ending, char **ret,
                                  struct thole_status *st)
{
    char *path = path_of(c, "ca", ending);
    enum thole_code code = read_text(path, ret, st);
    if (code == THOLE_NOT_FOUND) {
        code = THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_CERTIFICATE,
                          "there is no %.120s: make a CA first, with thole cert ca CLUSTER", path);
    }
    free(path);
    return code;
}

static enum thole_code read_ca(const struct cli *c, struct ca *ret, struct thole_status *st)
{
    enum thole_code code = read_of_ca(c, "crt", &ret->pem, st);
    if (code == THOLE_OK) {
        code = read_of_ca(c, "key", &ret->key, st);
    }
    return code;
}

static int issue(struct cli *c, struct certificate_request *q)
{
    struct ca ca = {0};
    struct certificate authority;
    struct thole_status st = {0};
    char *pem = NULL, *key = NULL;
    set_times(c, DAYS, q);
    enum thole_code code = read_ca(c, &ca, &st);
    if (code == THOLE_OK) {
        code = certificate_read(ca.pem, &authority, &st);
    }
    if (code == THOLE_OK) {
        code = certificate_ca_cluster(ca.pem, &ca.cluster, &st);
    }
    if (code == THOLE_OK) {
        q->cluster = ca.cluster;
        if (q->not_after_s > authority.not_after_s) {
            q->not_after_s = authority.not_after_s; /* a certificate must not outlive its CA */
        }
        code = certificate_make(q, ca.pem, ca.key, &pem, &key, &st);
    }
    if (code == THOLE_OK) {
        code = write_both(c, q->name, pem, key, &st);
    }
    ca_deinit(&ca);
    free(pem);
    free(key);
    return code == THOLE_OK ? cli__flush() : cli__say_status("cannot make a certificate", &st);
}

int cli__command_cert_host(struct cli *c)
{
    static const char *const always[] = {"localhost", "127.0.0.1", "::1"};
    const size_t own = sizeof always / sizeof always[0];
    const char *addresses[ADDRESSES_MAX];
    struct certificate_request q = {.kind = CERTIFICATE_HOST,
                                    .name = c->args[0],
                                    .addresses = addresses,
                                    .address_count = c->arg_count + own};
    if (!name_fits(q.name, true) || strcmp(q.name, "ca") == 0) {
        return usage(c, "host", q.name, true);
    }
    if (q.address_count > ADDRESSES_MAX) {
        return cli__say_usage(c, "at most %zu addresses", ADDRESSES_MAX - own - 1);
    }
    for (size_t i = 0; i < q.address_count;
         i++) { /* the first argument is the name, also a DNS name */
        addresses[i] = i < c->arg_count ? c->args[i] : always[i - c->arg_count];
    }
    return issue(c, &q);
}

int cli__command_cert_client(struct cli *c)
{
    struct certificate_request q = {.kind = CERTIFICATE_USER, .name = c->args[0]};
    if (!name_fits(q.name, false) || strcmp(q.name, "ca") == 0) {
        return usage(c, "user", q.name, false);
    }
    return issue(c, &q);
}

/* ca.crl may be replaced: it is not secret, and each list includes the entries of the last one. */
int cli__command_cert_revoke(struct cli *c)
{
    struct ca ca = {0};
    struct thole_status st = {0};
    char *pem = NULL, *before = NULL, *after = NULL, *list = path_of(c, "ca", "crl");
    enum thole_code code = read_ca(c, &ca, &st);
    if (code == THOLE_OK) {
        code = read_text(c->args[0], &pem, &st);
    }
    if (code == THOLE_OK && is_there(list)) {
        code = read_text(list, &before, &st);
    }
    if (code == THOLE_OK) {
        code = certificate_revoke(pem, before, ca.pem, ca.key, &after, &st);
    }
    if (code == THOLE_OK) {
        code = file_write_atomic(list, slice_str(after), &st);
    }
    if (code == THOLE_OK) {
        printf("%s\n", list);
    }
    ca_deinit(&ca);
    free(pem);
    free(before);
    free(after);
    free(list);
    return code == THOLE_OK ? cli__flush() : cli__say_status("cannot revoke the certificate", &st);
}
