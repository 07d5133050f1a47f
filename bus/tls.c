/* TLS of a process: certificate files, gRPC credentials, and the identity of each call's peer. See
 * tls.h.
 *
 * gRPC does not verify certificates here. It proves that the peer has the private key of the
 * certificate it shows; certificate.c verifies the certificate. A client verifies before its
 * handshake ends. A server verifies at each call, so that the answer can say what is wrong. Results
 * are cached by certificate until the files change. */
#include "bus/tls.h"

#include <errno.h>
#include <grpc/support/alloc.h>
#include <grpc/support/string_util.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/file.h"
#include "base/hash.h"
#include "bus/bus_internal.h"

#define FILE_BYTES_MAX MIB
#define LOOK_NS (1 * NS_PER_S) /* minimum time between two checks of the files */
#define REMEMBERED_MAX 1024    /* verified certificates in the cache; when full, it is emptied */
#define REFUSED_S 2            /* lifetime of a cached refusal: time may cure it */
#define ADDRESSES_MAX 64

static METRIC_DEFINE_COUNTER(metric_reloads, "thole_tls_reloads_total",
                             "Times that changed certificate files were taken into use");
static METRIC_DEFINE_COUNTER(metric_reload_failures, "thole_tls_reload_failures_total",
                             "Times that changed certificate files could not be used");
static METRIC_DEFINE_COUNTER(metric_refused, "thole_tls_refused_total",
                             "Certificates of peers that were refused");

enum { FILE_CERT, FILE_KEY, FILE_CA, FILE_CLIENT_CA, FILE_CRL, FILES };
static const char *const file_roles[FILES] = {"certificate", "private key", "CA of hosts",
                                              "CA of clients", "revoked certificates"};

struct file_mark { /* identifies a file's content, to notice a replaced file */
    dev_t device;
    ino_t inode;
    off_t size;
    struct timespec changed;
};

/* The content of the files at one time. Immutable except for the cache. */
struct tls_set {
    _Atomic uint32_t refs;
    uint64_t number;  /* sequence number among the sets of this process */
    char *pem[FILES]; /* NULL: file not configured */
    struct trust *hosts, *users;
    struct certificate own;
    int64_t expiry_s;
    pthread_mutex_t mutex; /* guards `remembered` */
    struct map remembered; /* hash of the PEM -> struct bus_certificate */
};

struct bus_tls {
    _Atomic uint32_t refs;
    bool host;
    char *path[FILES];
    pthread_mutex_t mutex; /* guards the members below */
    struct file_mark marks[FILES];
    uint64_t looked_ns;
    struct tls_set *set;
    uint64_t loaded, served; /* numbers of the newest set, and of the set the server uses */
    char said[THOLE_STATUS_MESSAGE_BYTES]; /* last logged failure, to log each once */
};

/* ---- Cache of verified certificates ---------------------------------------------------------- */

void bus__certificate_unref(struct bus_certificate *c)
{
    if (c == NULL || atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    free(c->pem);
    free(c);
}

/* The caller holds the set's mutex. */
static void forget_all(struct tls_set *s)
{
    size_t it = 0;
    struct bus_certificate *c;
    while ((c = map_next(&s->remembered, &it, NULL)) != NULL) {
        bus__certificate_unref(c);
    }
    map_deinit(&s->remembered);
    s->remembered = (struct map){0};
}

static struct bus_certificate *verify(struct tls_set *s, char *pem, enum certificate_use use)
{
    struct bus_certificate *c = xcalloc(1, sizeof *c);
    atomic_init(&c->refs, 1);
    c->use = use;
    c->pem = pem;
    if (certificate_verify(pem, use, s->hosts, s->users, &c->c, &c->verdict) != THOLE_OK) {
        metric_add(&metric_refused, 1);
        c->c.not_after_s = (int64_t)time(NULL) + REFUSED_S;
    } else {
        atomic_init(&c->counts_in, s->number);
    }
    return c;
}

/* Returns a reference; takes ownership of `pem`. A certificate that was not yet valid, or has
 * expired, is verified again. */
static struct bus_certificate *look_up(struct tls_set *s, char *pem, enum certificate_use use)
{
    uint64_t key = hash64(pem, strlen(pem), use);
    int64_t now_s = (int64_t)time(NULL);
    pthread_mutex_lock(&s->mutex);
    struct bus_certificate *c = map_get(&s->remembered, key);
    bool same = c != NULL && c->use == use && strcmp(c->pem, pem) == 0;
    bool fresh = same && now_s >= c->c.not_before_s && now_s <= c->c.not_after_s;
    if (fresh) {
        free(pem);
    } else {
        if (s->remembered.count >= REMEMBERED_MAX) {
            forget_all(s);
        }
        c = verify(s, pem, use);
        bus__certificate_unref(map_put(&s->remembered, key, c));
    }
    atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
    pthread_mutex_unlock(&s->mutex);
    return c;
}

/* ---- The files ------------------------------------------------------------------------------- */

static void set_unref(struct tls_set *s)
{
    if (s == NULL || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    forget_all(s);
    if (s->users != s->hosts) {
        trust_free(s->users);
    }
    trust_free(s->hosts);
    for (int i = 0; i < FILES; i++) {
        free(s->pem[i]);
    }
    pthread_mutex_destroy(&s->mutex);
    free(s);
}

static void mark_of(const char *path, struct file_mark *ret)
{
    struct stat s;
    *ret = (struct file_mark){0};
    if (path != NULL && stat(path, &s) == 0) {
        *ret = (struct file_mark){s.st_dev, s.st_ino, s.st_size, s.st_mtim};
    }
}

static bool same_mark(const struct file_mark *a, const struct file_mark *b)
{
    return a->device == b->device && a->inode == b->inode && a->size == b->size &&
           a->changed.tv_sec == b->changed.tv_sec && a->changed.tv_nsec == b->changed.tv_nsec;
}

static enum thole_code read_text(const char *path, int role, char **ret, struct thole_status *st)
{
    struct buf *b = NULL;
    struct thole_status why = {0};
    if (file_read(path, FILE_BYTES_MAX, &b, &why) != THOLE_OK) {
        return THOLE_FAIL(st, why.code, THOLE_REASON_CERTIFICATE, "cannot read the %s: %.200s",
                          file_roles[role], why.message);
    }
    *ret = xstrndup((const char *)b->data, b->size);
    buf_unref(b);
    return THOLE_OK;
}

/* As PostgreSQL has it: a key of root's may be readable for the group that runs the host. */
static void warn_of_shared_key(const char *path)
{
    struct stat s;
    if (stat(path, &s) != 0) {
        return;
    }
    const mode_t allowed = s.st_uid == 0 ? S_IRGRP : 0;
    if (s.st_mode & (S_IRWXG | S_IRWXO) & ~allowed) {
        LOG_WARN(BUS,
                 "other users have access to the private key path=%s mode=%04o; run \"chmod "
                 "go-rwx %s\"",
                 path, (unsigned)s.st_mode & 07777, path);
    }
}

/* Check this process's own certificate. A host's must also verify, as server and client. */
static enum thole_code check_own(const struct bus_tls *t, struct tls_set *s,
                                 struct thole_status *st)
{
    struct thole_status why = {0};
    enum thole_code code = certificate_read(s->pem[FILE_CERT], &s->own, &why);
    if (code != THOLE_OK) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_CERTIFICATE, "%.80s: %s",
                          t->path[FILE_CERT], why.message);
    }
    s->expiry_s = s->own.not_after_s;
    code = certificate_check_key(s->pem[FILE_CERT], s->pem[FILE_KEY], t->path[FILE_KEY], st);
    if (code != THOLE_OK || !t->host) {
        return code; /* hosts may trust a CA for users that this client does not know */
    }
    if (!s->own.host) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_CERTIFICATE,
                          "%.80s is not the certificate of a host: its alternative names must have "
                          "the URI thole://CLUSTER/host/NAME",
                          t->path[FILE_CERT]);
    }
    for (int use = CERTIFICATE_SERVER; use <= CERTIFICATE_CLIENT && code == THOLE_OK; use++) {
        struct certificate c;
        code = certificate_verify(s->pem[FILE_CERT], (enum certificate_use)use, s->hosts, s->users,
                                  &c, &why);
        if (code == THOLE_OK) {
            s->expiry_s = c.not_after_s < s->expiry_s ? c.not_after_s : s->expiry_s;
        } else {
            code = THOLE_FAIL(st, code, THOLE_REASON_CERTIFICATE, "%.80s: %s", t->path[FILE_CERT],
                              why.message);
        }
    }
    return code;
}

static enum thole_code load(const struct bus_tls *t, struct tls_set **ret, struct thole_status *st)
{
    struct tls_set *s = xcalloc(1, sizeof *s);
    atomic_init(&s->refs, 1);
    pthread_mutex_init(&s->mutex, NULL);
    s->expiry_s = INT64_MAX;
    enum thole_code code = THOLE_OK;
    for (int i = 0; i < FILES && code == THOLE_OK; i++) {
        code = t->path[i] != NULL ? read_text(t->path[i], i, &s->pem[i], st) : THOLE_OK;
    }
    if (code == THOLE_OK) {
        code = trust_new(s->pem[FILE_CA], t->path[FILE_CA], &s->hosts, st);
    }
    s->users = s->hosts;
    if (code == THOLE_OK && s->pem[FILE_CLIENT_CA] != NULL) {
        code = trust_new(s->pem[FILE_CLIENT_CA], t->path[FILE_CLIENT_CA], &s->users, st);
    }
    if (code == THOLE_OK && s->pem[FILE_CRL] != NULL) {
        code = trust_add_crls(s->hosts, s->pem[FILE_CRL], t->path[FILE_CRL], st);
    }
    if (code == THOLE_OK && s->pem[FILE_CRL] != NULL && s->users != s->hosts) {
        code = trust_add_crls(s->users, s->pem[FILE_CRL], t->path[FILE_CRL], st);
    }
    if (code == THOLE_OK && s->pem[FILE_CERT] != NULL) {
        code = check_own(t, s, st);
    }
    if (code == THOLE_OK && s->pem[FILE_KEY] != NULL) {
        warn_of_shared_key(t->path[FILE_KEY]);
    }
    if (code != THOLE_OK) {
        set_unref(s);
    } else {
        *ret = s;
    }
    return code;
}

/* The caller holds the mutex. Another name or cluster would be another host: this takes a
 * restart. */
static enum thole_code check_same_host(const struct bus_tls *t, const struct tls_set *s,
                                       struct thole_status *st)
{
    if (!t->host || t->set == NULL ||
        (strcmp(t->set->own.name, s->own.name) == 0 &&
         strcmp(t->set->own.cluster, s->own.cluster) == 0)) {
        return THOLE_OK;
    }
    return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_CERTIFICATE,
                      "%.80s is now of the host \"%s\" of cluster \"%s\", and this is \"%s\"",
                      t->path[FILE_CERT], s->own.name, s->own.cluster, t->set->own.name);
}

/* The caller holds the mutex. */
static enum thole_code reload(struct bus_tls *t, struct thole_status *st)
{
    struct file_mark marks[FILES];
    struct tls_set *fresh = NULL;
    struct thole_status why = {0};
    for (int i = 0; i < FILES; i++) {
        mark_of(t->path[i], &marks[i]);
    }
    enum thole_code code = load(t, &fresh, &why);
    if (code == THOLE_OK) {
        code = check_same_host(t, fresh, &why);
    }
    if (code != THOLE_OK) {
        set_unref(fresh);
        if (st != NULL) {
            *st = why;
        }
        return code;
    }
    memcpy(t->marks, marks, sizeof marks);
    fresh->number = ++t->loaded;
    set_unref(t->set);
    t->set = fresh;
    t->said[0] = '\0';
    return THOLE_OK;
}

/* The caller holds the mutex. */
static void look(struct bus_tls *t)
{
    uint64_t now_ns = clock_now(&clock_system);
    struct file_mark mark;
    struct thole_status st = {0};
    bool changed = false;
    if (now_ns - t->looked_ns < LOOK_NS) {
        return;
    }
    t->looked_ns = now_ns;
    for (int i = 0; i < FILES; i++) {
        mark_of(t->path[i], &mark);
        changed = changed || !same_mark(&mark, &t->marks[i]);
    }
    if (!changed) {
        return;
    }
    if (reload(t, &st) == THOLE_OK) {
        metric_add(&metric_reloads, 1);
        LOG_INFO(BUS, "certificates were read again, as their files changed");
    } else if (strcmp(t->said, st.message) != 0) { /* log once: files are replaced one at a time */
        snprintf(t->said, sizeof t->said, "%s", st.message);
        metric_add(&metric_reload_failures, 1);
        LOG_WARN(BUS, "changed certificate files cannot be used: %s; keeping the old ones",
                 st.message);
    }
}

/* Returns a reference. */
static struct tls_set *current(struct bus_tls *t)
{
    pthread_mutex_lock(&t->mutex);
    look(t);
    struct tls_set *s = t->set;
    atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
    pthread_mutex_unlock(&t->mutex);
    return s;
}

enum thole_code bus_tls_reload(struct bus_tls *t, struct thole_status *st)
{
    pthread_mutex_lock(&t->mutex);
    enum thole_code code = reload(t, st);
    t->looked_ns = clock_now(&clock_system);
    pthread_mutex_unlock(&t->mutex);
    metric_add(code == THOLE_OK ? &metric_reloads : &metric_reload_failures, 1);
    return code;
}

/* ---- Life ------------------------------------------------------------------------------------ */

static enum thole_code check_given(const struct bus_tls_files *f, bool host,
                                   struct thole_status *st)
{
    const char *missing = f->ca == NULL             ? "CA of hosts (tls-ca)"
                          : host && f->cert == NULL ? "certificate (tls-cert)"
                          : (f->cert == NULL) != (f->key == NULL)
                              ? "certificate or its private key (tls-cert and tls-key go together)"
                              : NULL;
    if (missing == NULL) {
        return THOLE_OK;
    }
    return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_CERTIFICATE,
                      "TLS needs a %s as well", missing);
}

enum thole_code bus_tls_new(const struct bus_tls_files *files, bool host, struct bus_tls **ret,
                            struct thole_status *st)
{
    enum thole_code code = check_given(files, host, st);
    if (code != THOLE_OK) {
        return code;
    }
    const char *paths[FILES] = {files->cert, files->key, files->ca, files->client_ca, files->crl};
    struct bus_tls *t = xcalloc(1, sizeof *t);
    atomic_init(&t->refs, 1);
    pthread_mutex_init(&t->mutex, NULL);
    t->host = host;
    for (int i = 0; i < FILES; i++) {
        t->path[i] = paths[i] != NULL ? xstrdup(paths[i]) : NULL;
    }
    code = reload(t, st);
    if (code != THOLE_OK) {
        bus_tls_unref(t);
    } else {
        *ret = t;
    }
    return code;
}

struct bus_tls *bus_tls_ref(struct bus_tls *t)
{
    if (t != NULL) {
        atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed);
    }
    return t;
}

void bus_tls_unref(struct bus_tls *t)
{
    if (t == NULL || atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    set_unref(t->set);
    for (int i = 0; i < FILES; i++) {
        free(t->path[i]);
    }
    pthread_mutex_destroy(&t->mutex);
    free(t);
}

void bus_tls_name(struct bus_tls *t, char *ret, size_t size)
{
    struct tls_set *s = current(t);
    snprintf(ret, size, "%s", s->own.name);
    set_unref(s);
}

int64_t bus_tls_expiry_s(struct bus_tls *t)
{
    struct tls_set *s = current(t);
    int64_t at_s = s->expiry_s;
    set_unref(s);
    return at_s;
}

uint64_t bus_tls_pem(struct bus_tls *t, char **ret_cert, char **ret_key)
{
    struct tls_set *s = current(t);
    uint64_t number = s->number;
    if (ret_cert != NULL) {
        *ret_cert = xstrdup(s->pem[FILE_CERT]);
        *ret_key = xstrdup(s->pem[FILE_KEY]);
    }
    set_unref(s);
    return number;
}

/* ---- Identity of a call's peer --------------------------------------------------------------- */

static char *property(const grpc_auth_context *context, const char *name)
{
    grpc_auth_property_iterator it = grpc_auth_context_find_properties_by_name(context, name);
    const grpc_auth_property *p = grpc_auth_property_iterator_next(&it);
    return p != NULL && p->value_length > 0 ? xstrndup(p->value, p->value_length) : NULL;
}

/* Returns the peer's own certificate followed by its chain, or NULL. A server's chain begins with
 * the server's own certificate. */
static char *peer_pem(grpc_call *call)
{
    grpc_auth_context *context = grpc_call_auth_context(call);
    if (context == NULL) {
        return NULL;
    }
    char *leaf = property(context, GRPC_X509_PEM_CERT_PROPERTY_NAME);
    char *chain = property(context, GRPC_X509_PEM_CERT_CHAIN_PROPERTY_NAME);
    grpc_auth_context_release(context);
    char *all = leaf != NULL ? xasprintf("%s%s", leaf, chain != NULL ? chain : "") : NULL;
    free(leaf);
    free(chain);
    return all;
}

enum thole_code bus__tls_identify(struct bus_tls *t, grpc_call *call, enum certificate_use use,
                                  struct bus_certificate **ret, struct thole_status *st)
{
    *ret = NULL;
    char *pem = t != NULL ? peer_pem(call) : NULL;
    if (pem == NULL) {
        return THOLE_OK;
    }
    struct tls_set *s = current(t);
    struct bus_certificate *c = look_up(s, pem, use);
    enum thole_code code = c->verdict.code;
    if (code == THOLE_OK && t->host && c->c.cluster[0]) {
        code = bus__tls_check_host(t, &c->c, st);
    } else if (code != THOLE_OK && st != NULL) {
        *st = c->verdict;
    }
    set_unref(s);
    if (code != THOLE_OK) {
        bus__certificate_unref(c);
        return code;
    }
    *ret = c;
    return THOLE_OK;
}

enum thole_code bus__tls_recheck(struct bus_tls *t, struct bus_certificate *c,
                                 struct thole_status *st)
{
    struct tls_set *s = current(t);
    const int64_t now_s = (int64_t)time(NULL);
    if (atomic_load(&c->counts_in) == s->number && now_s <= c->c.not_after_s) {
        set_unref(s);
        return THOLE_OK;
    }
    struct bus_certificate *now = look_up(s, xstrdup(c->pem), c->use);
    enum thole_code code = now->verdict.code;
    if (code != THOLE_OK) {
        *st = now->verdict;
    } else if (now->c.not_after_s >= c->c.not_after_s) {
        atomic_store(&c->counts_in, s->number);
    }
    bus__certificate_unref(now);
    set_unref(s);
    return code;
}

enum thole_code bus__tls_check_host(struct bus_tls *t, const struct certificate *c,
                                    struct thole_status *st)
{
    struct tls_set *s = current(t);
    enum thole_code code = THOLE_OK;
    if (t->host && strcmp(c->cluster, s->own.cluster) != 0) {
        code = THOLE_FAIL(st, THOLE_UNAUTHENTICATED, THOLE_REASON_CERTIFICATE,
                          "the certificate of \"%.80s\" is for cluster \"%.60s\", and this is "
                          "cluster \"%.60s\"",
                          c->name, c->cluster, s->own.cluster);
    }
    set_unref(s);
    return code;
}

/* ---- gRPC's credentials ---------------------------------------------------------------------- */

/* gRPC calls this at the start of each handshake, while it holds a lock. */
static grpc_ssl_certificate_config_reload_status fetch(void *ctx,
                                                       grpc_ssl_server_certificate_config **ret)
{
    struct bus_tls *t = ctx;
    pthread_mutex_lock(&t->mutex);
    look(t);
    const struct tls_set *s = t->set;
    bool fresh = s->number != t->served;
    if (fresh) {
        const grpc_ssl_pem_key_cert_pair pair = {.private_key = s->pem[FILE_KEY],
                                                 .cert_chain = s->pem[FILE_CERT]};
        /* The handshake's request names these CAs: clients choose a certificate by them. */
        const char *users = s->pem[FILE_CLIENT_CA];
        char *all = xasprintf("%s\n%s", s->pem[FILE_CA], users != NULL ? users : "");
        *ret = grpc_ssl_server_certificate_config_create(all, &pair, 1);
        free(all);
        t->served = s->number;
    }
    pthread_mutex_unlock(&t->mutex);
    return fresh ? GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW
                 : GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
}

grpc_server_credentials *bus__tls_server_credentials(struct bus_tls *t)
{
    return grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config_fetcher(
            GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_BUT_DONT_VERIFY, fetch, t));
}

/* Verifies the certificate of the server that a channel connects to. */
struct verifier {
    grpc_tls_certificate_verifier_external external;
    struct bus_tls *tls;
    char *hosts[ADDRESSES_MAX]; /* the expected names; none: see bus__tls_check_host */
    size_t count;
};

static enum thole_code check_server(struct verifier *v, const char *pem, const char *all,
                                    struct thole_status *st)
{
    struct tls_set *s = current(v->tls);
    char *text = xasprintf("%s%s", pem, all != NULL ? all : "");
    struct bus_certificate *c = look_up(s, text, CERTIFICATE_SERVER);
    enum thole_code code = c->verdict.code;
    if (code != THOLE_OK) {
        *st = c->verdict;
    } else if (!c->c.host) {
        code = THOLE_FAIL(st, THOLE_UNAUTHENTICATED, THOLE_REASON_CERTIFICATE,
                          "the certificate of \"%.80s\", who answers there, is not of a host",
                          c->c.name);
    } else if (v->count == 0) {
        code = bus__tls_check_host(v->tls, &c->c, st);
    }
    bool named = v->count == 0;
    for (size_t i = 0; i < v->count && code == THOLE_OK && !named; i++) {
        named = certificate_check_address(pem, v->hosts[i], st) == THOLE_OK;
    }
    bus__certificate_unref(c);
    set_unref(s);
    return code == THOLE_OK && !named ? st->code : code;
}

static int verify_server(void *ctx, grpc_tls_custom_verification_check_request *request,
                         grpc_tls_on_custom_verification_check_done_cb done, void *done_ctx,
                         grpc_status_code *ret_code, char **ret_error)
{
    struct thole_status st = {0};
    (void)done;
    (void)done_ctx;
    const char *pem = request->peer_info.peer_cert;
    enum thole_code code = THOLE_OK;
    if (pem == NULL) {
        code = THOLE_FAIL(&st, THOLE_UNAUTHENTICATED, THOLE_REASON_CERTIFICATE,
                          "the server shows no certificate");
    } else {
        code = check_server(ctx, pem, request->peer_info.peer_cert_full_chain, &st);
    }
    *ret_code = (grpc_status_code)code;
    *ret_error = code != THOLE_OK ? gpr_strdup(st.message) : NULL;
    return 1;
}

static void cancel_verify(void *ctx, grpc_tls_custom_verification_check_request *request)
{
    (void)ctx;
    (void)request;
}

static void verifier_free(void *ctx)
{
    struct verifier *v = ctx;
    for (size_t i = 0; i < v->count; i++) {
        free(v->hosts[i]);
    }
    bus_tls_unref(v->tls);
    free(v);
}

static void add_hosts(struct verifier *v, const char *addresses)
{
    char *copy = xstrdup(addresses), *save = NULL;
    for (char *one = strtok_r(copy, ", ", &save); one != NULL && v->count < ADDRESSES_MAX;
         one = strtok_r(NULL, ", ", &save)) {
        char *colon = strrchr(one, ':');
        if (colon != NULL) {
            *colon = '\0';
        }
        size_t n = strlen(one);
        bool bracket = n >= 2 && one[0] == '[' && one[n - 1] == ']';
        v->hosts[v->count++] =
            bracket ? xstrndup(one + 1, n - 2) : xstrdup(n > 0 ? one : "localhost");
    }
    free(copy);
}

grpc_channel_credentials *bus__tls_channel_credentials(struct bus_tls *t, const char *addresses)
{
    struct tls_set *s = current(t);
    grpc_tls_credentials_options *o = grpc_tls_credentials_options_create();
    if (s->pem[FILE_CERT] != NULL) {
        grpc_tls_identity_pairs *pairs = grpc_tls_identity_pairs_create();
        grpc_tls_identity_pairs_add_pair(pairs, s->pem[FILE_KEY], s->pem[FILE_CERT]);
        grpc_tls_certificate_provider *provider =
            grpc_tls_certificate_provider_static_data_create(NULL, pairs);
        grpc_tls_credentials_options_set_certificate_provider(o, provider);
        grpc_tls_credentials_options_watch_identity_key_cert_pairs(o);
        grpc_tls_certificate_provider_release(provider);
    }
    set_unref(s);
    struct verifier *v = xcalloc(1, sizeof *v);
    v->external = (grpc_tls_certificate_verifier_external){.user_data = v,
                                                           .verify = verify_server,
                                                           .cancel = cancel_verify,
                                                           .destruct = verifier_free};
    v->tls = bus_tls_ref(t);
    if (addresses != NULL) {
        add_hosts(v, addresses);
    }
    grpc_tls_certificate_verifier *verifier =
        grpc_tls_certificate_verifier_external_create(&v->external);
    grpc_tls_credentials_options_set_verify_server_cert(o, 0); /* the verifier above verifies */
    grpc_tls_credentials_options_set_check_call_host(o, 0);
    grpc_tls_credentials_options_set_certificate_verifier(o, verifier);
    grpc_tls_certificate_verifier_release(verifier);
    return grpc_tls_credentials_create(o);
}
