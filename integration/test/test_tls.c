/* Real processes over mutual TLS: a cluster with certificates of `thole cert`, who is let in, what
 * the others are told, and all certificates replaced under load. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <thole/thole.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/uuid.h"
#include "bus/bus.h"
#include "bus/certificate_make.h"
#include "integration/test/cluster.h"
#include "integration/test/pki.h"

#define DAY_S 86400
#define EXIT_USAGE 2

/* ---- Certificates ---------------------------------------------------------------------------- */

static struct cluster *secure_cluster(int hosts)
{
    struct cluster *c = cluster_new();
    pki_make(c, hosts);
    return c;
}

static char *read_file(const char *folder, const char *name)
{
    char path[300];
    struct buf *b = NULL;
    struct thole_status st = {0};
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (file_read(path, 65536, &b, &st) != THOLE_OK) {
        fail_msg("%s", st.message);
    }
    char *text = xstrndup((const char *)b->data, b->size);
    buf_unref(b);
    return text;
}

static void replace_file(const char *name, const char *text)
{
    char path[300], fresh[320];
    snprintf(path, sizeof path, "%s/%s", pki, name);
    snprintf(fresh, sizeof fresh, "%s.new", path);
    FILE *f = fopen(fresh, "we");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0 && fclose(f) == 0 && rename(fresh, path) == 0);
}

/* What `thole cert` does not make: other times, another cluster. FILE.crt and FILE.key. */
static void make_odd(const char *file, struct certificate_request q)
{
    char *ca = read_file(pki, "ca.crt"), *ca_key = read_file(pki, "ca.key");
    char *pem, *key, name[64];
    const int64_t now_s = (int64_t)time(NULL);
    struct thole_status st = {0};
    q.cluster = q.cluster != NULL ? q.cluster : "prod";
    q.not_before_s = q.not_before_s != 0 ? q.not_before_s : now_s - DAY_S;
    q.not_after_s = q.not_after_s != 0 ? q.not_after_s : now_s + DAY_S;
    if (certificate_make(&q, ca, ca_key, &pem, &key, &st) != THOLE_OK) {
        fail_msg("%s", st.message);
    }
    snprintf(name, sizeof name, "%s.crt", file);
    replace_file(name, pem);
    snprintf(name, sizeof name, "%s.key", file);
    replace_file(name, key);
    free(ca);
    free(ca_key);
    free(pem);
    free(key);
}

struct log_wait {
    struct cluster *c;
    int i;
    const char *text;
};

static bool log_says(void *ctx)
{
    const struct log_wait *w = ctx;
    return host_log_has(w->c, w->i, w->text);
}

static void expect_refused(struct cluster *c, const char *command, const char *why)
{
    char out[4096];
    if (cli(c, 0, out, sizeof out, "%s", command) == 0 || strstr(out, why) == NULL) {
        fail_msg("thole %s: \"%s\" does not say \"%s\"", command, out, why);
    }
}

/* ---- Callers --------------------------------------------------------------------------------- */

static void test_users_and_strangers(void **state)
{
    (void)state;
    struct cluster *c = secure_cluster(3);
    const int64_t now_s = (int64_t)time(NULL);
    char out[4096];
    cluster_start_peers(c, 3);
    apply_yaml(c, 1, "kind: Shard\nname: orders\nspec: {type: kv, voters: 3}\n");
    cli_ok(c, 2, "propose orders 'put a b'");
    assert_non_null(strstr(cli_ok(c, 0, "status"), "transport TLS, certificate valid for 36"));
    make_odd("old", (struct certificate_request){.kind = CERTIFICATE_USER,
                                                 .name = "bob",
                                                 .not_before_s = now_s - 2 * DAY_S,
                                                 .not_after_s = now_s - DAY_S});
    make_odd("early", (struct certificate_request){.kind = CERTIFICATE_USER,
                                                   .name = "carol",
                                                   .not_before_s = now_s + DAY_S,
                                                   .not_after_s = now_s + 2 * DAY_S});
    make_odd("foreign", (struct certificate_request){
                            .kind = CERTIFICATE_USER, .name = "dave", .cluster = "test"});
    call_as("old");
    expect_refused(c, "get hosts", "certificate of \"bob\", or its CA's, has expired");
    call_as("early");
    expect_refused(c, "get hosts", "certificate of \"carol\" is not valid yet");
    call_as("foreign");
    expect_refused(c, "get hosts", "is for cluster \"test\", and this is cluster \"prod\"");
    cli_ok(c, 0, "cert ca prod --dir %s/other", pki);
    cli_ok(c, 0, "cert client mallory --dir %s/other", pki);
    shell("cp %s/other/mallory.* %s", pki, pki);
    call_as("mallory");
    expect_refused(c, "get hosts", "certificate of \"mallory\" was not signed by a CA in ");
    call_as("admin");
    snprintf(out, sizeof out, "%s/other/ca.crt", pki);
    setenv("THOLE_TLS_CA", out, 1);
    expect_refused(c, "get hosts", "certificate of \"h1\" was not signed by a CA in ");
    call_as("admin");
    unsetenv("THOLE_TLS_CA");
    expect_refused(c, "get hosts", "TLS needs a CA of hosts (tls-ca)");
    unsetenv("THOLE_TLS_CERT");
    unsetenv("THOLE_TLS_KEY");
    expect_refused(c, "get hosts", "is one side set up for TLS and the other not?");
    cluster_free(c);
}

/* As the user of that name; NULL: as nobody. */
static void run_python_as(struct cluster *c, const char *user, const char *option, int expected,
                          const char *says)
{
    char out[1024], own[700] = "- -";
    if (user != NULL) {
        snprintf(own, sizeof own, "%s/%s.crt %s/%s.key", pki, user, pki, user);
    }
    int status = run_client(out, sizeof out, "'%s' %s %s/ca.crt %s %s", TLS_CLIENT,
                            c->hosts[0].address, pki, own, option);
    if (status == CLIENT_SKIPPED) {
        return; /* there is no python3-grpcio */
    }
    if (status != expected || strstr(out, says) == NULL) {
        fail_msg("%s %s: exit %d, \"%s\" does not say \"%s\"", own, option, status, out, says);
    }
}

static void run_python(struct cluster *c, const char *user, int expected, const char *says)
{
    run_python_as(c, user, "", expected, says);
}

/* By default only who says who it is may ask which methods there are. */
static void test_reflection_is_for_users_or_for_all(void **state)
{
    (void)state;
    struct cluster *c = secure_cluster(1);
    cluster_start_dev(c);
    run_python_as(c, NULL, "--services", 1, "UNAUTHENTICATED");
    run_python_as(c, "admin", "--services", 0, "thole.v1.Shards");
    host_stop(c, 0);
    c->extra_args[0] = "--reflection=all";
    host_restart(c, 0);
    cluster_wait_ready(c, 0, 20000);
    run_python_as(c, NULL, "--services", 0, "thole.v1.Shards");
    run_python(c, NULL, 1, "UNAUTHENTICATED"); /* other methods */
    cluster_free(c);
}

static void test_a_client_of_another_language(void **state)
{
    (void)state;
    struct cluster *c = secure_cluster(1);
    const int64_t now_s = (int64_t)time(NULL);
    cluster_start_dev(c);
    make_odd("old", (struct certificate_request){.kind = CERTIFICATE_USER,
                                                 .name = "bob",
                                                 .not_before_s = now_s - 2 * DAY_S,
                                                 .not_after_s = now_s - DAY_S});
    run_python(c, "admin", 0, "status ");
    run_python(c, "admin", 0, "thole.v1.Hosts");
    run_python(c, NULL, 1, "UNAUTHENTICATED the call needs the right \"READ of CLUSTER\"");
    run_python(c, "old", 1, "UNAUTHENTICATED the certificate of \"bob\"");
    cluster_free(c);
}

static void test_a_server_at_another_address_is_not_believed(void **state)
{
    (void)state;
    struct cluster *c = secure_cluster(1);
    make_odd("h1", (struct certificate_request){.kind = CERTIFICATE_HOST, .name = "h1"});
    host_start(c, 0, (const char *[]){"--dev", "--listen", c->hosts[0].address, NULL});
    eventually(20000, "the host is ready", log_says, &(struct log_wait){c, 0, "ready address="});
    expect_refused(c, "get hosts", "is not for that name or address; it is for: nothing");
    cluster_free(c);
}

/* What `openssl s_client` says to the end of a handshake, and of what comes after it. */
static void expect_no_handshake(const struct cluster *c, const char *options, const char *why)
{
    char command[700], out[8192];
    snprintf(command, sizeof command,
             "openssl s_client -connect %s -CAfile %s/ca.crt %s </dev/null 2>&1",
             c->hosts[0].address, pki, options);
    FILE *p = popen(command, "r");
    assert_non_null(p);
    size_t n = fread(out, 1, sizeof out - 1, p);
    out[n] = '\0';
    if (pclose(p) == 0 || strstr(out, why) == NULL) {
        fail_msg("%s: \"%s\" does not say \"%s\"", command, out, why);
    }
}

static void test_downgrades_are_refused(void **state)
{
    (void)state;
    struct cluster *c = secure_cluster(1);
    char out[1024] = "";
    cluster_start_dev(c);
    shell("openssl s_client -connect %s -CAfile %s/ca.crt -alpn h2 -tls1_2 </dev/null "
          ">/dev/null 2>&1",
          c->hosts[0].address, pki);
    expect_no_handshake(c, "-alpn h2 -tls1_1 -cipher ALL:@SECLEVEL=0", "Cipher is (NONE)");
    expect_no_handshake(c, "-alpn h2 -tls1 -cipher ALL:@SECLEVEL=0", "Cipher is (NONE)");
    /* Plain text to the port of TLS: it is closed, and no call is answered. */
    shell("printf 'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n' > %s/preface", c->dir);
    snprintf(out, sizeof out,
             "python3 -c 'import socket, sys; s = socket.create_connection((\"%s\", 7400), 5); "
             "s.sendall(open(sys.argv[1], \"rb\").read()); s.settimeout(8); "
             "sys.exit(s.recv(100)[:2] == bytes(2))' %s/preface", /* a frame of settings */
             c->hosts[0].ip, c->dir);
    shell("%s", out);
    host_stop(c, 0);
    /* And a client of TLS does not fall back to the plain text of a server. */
    c->pki = NULL;
    host_restart(c, 0);
    eventually(20000, "the host is ready", log_says,
               &(struct log_wait){c, 0, "for this machine only"});
    expect_refused(c, "get hosts", "is one side set up for TLS and the other not?");
    cluster_free(c);
}

/* ---- Hosts ----------------------------------------------------------------------------------- */

static void expect_no_start(struct cluster *c, int i, const char *why)
{
    host_start(
        c, i,
        (const char *[]){"--listen", c->hosts[i].address, "--join", c->hosts[0].address, NULL});
    int status = host_wait_exit(c, i, 20000);
    if (!WIFEXITED(status) || WEXITSTATUS(status) == 0 || !host_log_has(c, i, why)) {
        fail_msg("status %#x, or its log does not say \"%s\"", (unsigned)status, why);
    }
    assert_int_equal(truncate(c->hosts[i].log_path, 0), 0);
}

static void test_hosts_that_do_not_belong(void **state)
{
    (void)state;
    struct cluster *c = secure_cluster(2);
    const int64_t now_s = (int64_t)time(NULL);
    cluster_start_dev(c);
    cluster_join(c, 1, 0);
    make_odd("h3", (struct certificate_request){.kind = CERTIFICATE_USER, .name = "h3"});
    expect_no_start(c, 2, "h3.crt is not the certificate of a host");
    make_odd("h3", (struct certificate_request){.kind = CERTIFICATE_HOST,
                                                .name = "h3",
                                                .not_before_s = now_s - 2 * DAY_S,
                                                .not_after_s = now_s - DAY_S});
    expect_no_start(c, 2, "has expired");
    make_odd("h3", (struct certificate_request){.kind = CERTIFICATE_HOST, .name = "h2"});
    host_start(
        c, 2,
        (const char *[]){"--listen", c->hosts[2].address, "--join", c->hosts[0].address, NULL});
    eventually(20000, "the taken name is told", log_says, &(struct log_wait){c, 2, "joining: "});
    host_kill(c, 2);
    assert_int_equal(count_lines(cli_ok(c, 0, "get hosts"), "active"), 2);
    make_odd("h3", (struct certificate_request){
                       .kind = CERTIFICATE_HOST, .name = "h3", .cluster = "test"});
    char command[300];
    snprintf(command, sizeof command, "rm -rf %s", c->hosts[2].data_dir);
    assert_int_equal(system(command), 0);
    host_start(
        c, 2,
        (const char *[]){"--listen", c->hosts[2].address, "--join", c->hosts[0].address, NULL});
    eventually(20000, "the other cluster is told", log_says,
               &(struct log_wait){c, 2, "is for cluster \"prod\", and this is cluster \"test\""});
    host_kill(c, 2);
    assert_int_equal(count_lines(cli_ok(c, 0, "get hosts"), "active"), 2);
    cluster_free(c);
}

static struct bus_tls *tls_of(const char *name, bool host)
{
    char cert[300], key[300], ca[300];
    struct thole_status st = {0};
    struct bus_tls *tls;
    snprintf(cert, sizeof cert, "%s/%s.crt", pki, name);
    snprintf(key, sizeof key, "%s/%s.key", pki, name);
    snprintf(ca, sizeof ca, "%s/ca.crt", pki);
    const struct bus_tls_files files = {.cert = cert, .key = key, .ca = ca};
    if (bus_tls_new(&files, host, &tls, &st) != THOLE_OK) {
        fail_msg("%s", st.message);
    }
    return tls;
}

/* Speaks the bus as the host `as`, with a certificate of `name`, to h1. */
static void speak(struct cluster *c, const char *name, bool host, const struct uuid *as,
                  uint64_t incarnation, const char *why)
{
    const struct bus_options o = {
        .host_id = *as,
        .cluster_id = cli_uuid(cli_ok(c, 0, "status -o json"), "clusterId"),
        .incarnation = incarnation,
        .clock = &clock_system,
        .tls = tls_of(name, host),
    };
    struct thole_status st = {0};
    struct bus *bus;
    assert_int_equal(bus_new(&o, &bus, &st), THOLE_OK);
    bus_start(bus);
    assert_int_not_equal(
        bus_ask(bus, c->hosts[0].address, 7, slice_str("x"), 5000, NULL, NULL, &st), THOLE_OK);
    if (strstr(st.message, why) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", st.message, why);
    }
    bus_stop(bus, 0);
    bus_free(bus);
    bus_tls_unref(o.tls);
}

/* h2's own certificate, which is good, and the id of h3; a user's certificate; none. */
static void test_a_host_cannot_speak_as_another(void **state)
{
    (void)state;
    struct cluster *c = secure_cluster(3);
    cluster_start_peers(c, 3);
    const struct uuid h3 = cli_uuid(cli_ok(c, 0, "get host h3 -o json"), "id");
    speak(c, "h2", true, &h3, UINT64_MAX, "a host may speak for itself only");
    speak(c, "admin", false, &h3, UINT64_MAX, "that of \"admin\", a user");
    cluster_wait_ready(c, 2, 20000);
    assert_true(host_running(c, 2));
    cluster_free(c);
}

/* ---- Rotation -------------------------------------------------------------------------------- */

struct bench_run {
    struct cluster *c;
    const char *endpoints, *mode; /* further arguments */
    char out[8192];
    int status;
};

static void *bench_main(void *ctx)
{
    struct bench_run *b = ctx;
    char command[1024];
    snprintf(command, sizeof command,
             "'%s' --endpoints %s bench --shards 2 --in-flight 32 --seconds 12 --warmup 1 %s 2>&1",
             THOLE_PATH, b->endpoints, b->mode);
    FILE *p = popen(command, "r");
    size_t n = p != NULL ? fread(b->out, 1, sizeof b->out - 1, p) : 0;
    b->out[n] = '\0';
    b->status = p != NULL ? pclose(p) : -1;
    return NULL;
}

/* Every certificate, twice: once by the files alone, once with SIGHUP. */
static void test_all_certificates_are_replaced_under_load(void **state)
{
    (void)state;
    struct cluster *c = secure_cluster(3);
    const char *endpoints = cluster_endpoints(c, 3);
    struct bench_run b[2] = {{.c = c, .endpoints = endpoints, .mode = "--mode async"},
                             {.c = c, .endpoints = endpoints, .mode = "--mode unary"}};
    pthread_t threads[2];
    cluster_start_peers(c, 3);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, bench_main, &b[i]), 0);
    }
    for (int round = 0; round < 2; round++) {
        sleep(3);
        for (int i = 0; i < 3; i++) {
            const char *const addresses[] = {c->hosts[i].ip, "127.0.0.1"};
            make_odd(c->hosts[i].name, (struct certificate_request){.kind = CERTIFICATE_HOST,
                                                                    .name = c->hosts[i].name,
                                                                    .addresses = addresses,
                                                                    .address_count = 2});
            if (round == 1) {
                assert_int_equal(kill(c->hosts[i].pid, SIGHUP), 0);
            }
        }
        make_odd("admin", (struct certificate_request){.kind = CERTIFICATE_USER, .name = "admin"});
        cli_ok(c, round, "status");
    }
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        if (b[i].status != 0 || strstr(b[i].out, "failed      0\n") == NULL) {
            fail_msg("%s: status %d: %s", b[i].mode, b[i].status, b[i].out);
        }
    }
    eventually(20000, "SIGHUP is logged", log_says,
               &(struct log_wait){c, 0, "certificates were read again"});
    assert_non_null(strstr(cli_ok(c, 0, "status"), "WARNING: certificate valid for 0 more days"));
    cluster_free(c);
}

/* ---- Revocation ------------------------------------------------------------------------------ */

struct refusal {
    struct cluster *c;
    int via;
    const char *why; /* NULL: it succeeds */
};

static bool call_ends_so(void *ctx)
{
    const struct refusal *r = ctx;
    char out[4096];
    bool ok = cli(r->c, r->via, out, sizeof out, "get hosts --command-timeout 2s") == 0;
    return r->why == NULL ? ok : !ok && strstr(out, r->why) != NULL;
}

static void expect_ends(struct cluster *c, int via, const char *why)
{
    eventually(10000, why != NULL ? why : "the call succeeds", call_ends_so,
               &(struct refusal){c, via, why});
}

static void test_revoked_certificates_end(void **state)
{
    (void)state;
    struct cluster *c = secure_cluster(3);
    char crl[300];
    snprintf(crl, sizeof crl, "--tls-crl=%s/ca.crl", pki);
    c->extra_args[0] = crl;
    cli_ok(c, 0, "cert client bob --dir %s", pki);
    cli_ok(c, 0, "cert client nobody --dir %s", pki);
    cli_ok(c, 0, "cert revoke %s/nobody.crt --dir %s", pki, pki);
    cluster_start_peers(c, 3);
    apply_yaml(c, 0, "kind: Role\nname: viewer\nspec: {members: [bob]}\n");
    expect_ends(c, 0, NULL);
    cli_ok(c, 0, "cert revoke %s/admin.crt --dir %s", pki, pki);
    for (int i = 0; i < 3; i++) {
        expect_ends(c, i, "the certificate of \"admin\", or its CA's, was revoked");
    }
    call_as("nobody");
    expect_refused(c, "get hosts", "the certificate of \"nobody\", or its CA's, was revoked");
    call_as("bob");
    expect_ends(c, 0, NULL);
    /* A host's. With another certificate the host is back. */
    host_kill(c, 2);
    cli_ok(c, 0, "cert revoke %s/h3.crt --dir %s", pki, pki);
    host_restart(c, 2);
    int status = host_wait_exit(c, 2, 20000);
    assert_int_not_equal(WEXITSTATUS(status), 0);
    assert_true(host_log_has(c, 2, "the certificate of \"h3\", or its CA's, was revoked"));
    shell("rm %s/h3.crt %s/h3.key", pki, pki);
    pki_make_host(c, 2);
    host_restart(c, 2);
    cluster_wait_ready(c, 2, 20000);
    cluster_free(c);
}

/* It began before. Streams between hosts go on. */
static void test_an_open_watch_ends_with_its_certificate(void **state)
{
    (void)state;
    struct cluster *c = secure_cluster(3);
    char out[8192];
    const int64_t now_s = (int64_t)time(NULL);
    cluster_start_peers(c, 3);
    apply_yaml(c, 0,
               "kind: Shard\nname: orders\nspec: {type: kv, voters: 3}\n---\n"
               "kind: Role\nname: readers\nspec:\n  data: [{rights: [READ], shards: [orders]}]\n"
               "  members: [bob]\n");
    make_odd("bob", (struct certificate_request){.kind = CERTIFICATE_USER,
                                                 .name = "bob",
                                                 .not_before_s = now_s - DAY_S,
                                                 .not_after_s = now_s + 6});
    call_as("bob");
    int status = run_client(out, sizeof out, "'%s' --endpoints %s watch orders", THOLE_PATH,
                            c->hosts[0].address);
    if (status == 0 || strstr(out, "has expired") == NULL) {
        fail_msg("status %d: %s", status, out);
    }
    assert_true((int64_t)time(NULL) - now_s < 30);
    call_as("admin");
    cli_ok(c, 1, "propose orders 'put a b'");
    assert_false(host_log_has(c, 0, "peer disconnected"));
    cluster_free(c);
}

/* Watches of the library, whose streams are those of hosts: its own, and one that a host forwards
 * whose certificate is revoked. */
struct library_watch {
    _Atomic bool watching, ended;
};

static void on_event(void *ctx, uint64_t index, struct thole_slice key, struct thole_slice event,
                     bool bookmark)
{
    struct library_watch *w = ctx;
    (void)index;
    (void)key;
    (void)event;
    if (bookmark) {
        w->watching = true;
    }
}

static void on_ended(void *ctx, const struct thole_status *st)
{
    struct library_watch *w = ctx;
    (void)st;
    w->ended = true;
}

static bool is_watching(void *ctx)
{
    struct library_watch *w = ctx;
    return w->watching;
}

static bool is_ended(void *ctx)
{
    struct library_watch *w = ctx;
    return w->ended;
}

static struct thole *watch_orders(struct cluster *c, int i, const char *user,
                                  struct library_watch *w)
{
    const struct thole_watcher watcher = {.ctx = w, .event = on_event, .ended = on_ended};
    struct thole *t = pki_connect(c, i, user);
    struct thole_shard *s = NULL;
    struct thole_status st = {0};
    uint64_t id = 0;
    if (thole_shard_open(t, "orders", &s, &st) != THOLE_OK ||
        thole_watch(t, s, &watcher, &id, &st) != THOLE_OK) {
        fail_msg("%s", st.message);
    }
    thole_shard_release(s);
    eventually(20000, "orders is watched", is_watching, w);
    return t;
}

static void test_watches_of_the_library_end_with_a_revoked_certificate(void **state)
{
    (void)state;
    struct cluster *c = secure_cluster(2);
    struct library_watch by_bob = {0}, by_admin = {0};
    char crl[300], out[8192] = "";
    snprintf(crl, sizeof crl, "--tls-crl=%s/ca.crl", pki);
    c->extra_args[0] = crl;
    cli_ok(c, 0, "cert client bob --dir %s", pki);
    cli_ok(c, 0, "cert client nobody --dir %s", pki);
    cli_ok(c, 0, "cert revoke %s/nobody.crt --dir %s", pki, pki);
    cluster_start_peers(c, 2);
    apply_yaml(c, 0,
               "kind: Shard\nname: orders\nspec: {type: kv, voters: 1}\n---\n"
               "kind: Role\nname: readers\nspec:\n  data: [{rights: [READ], shards: [orders]}]\n"
               "  members: [bob]\n");
    const int leader = leader_of(c, 0, "orders");
    struct thole *bob = watch_orders(c, leader, "bob", &by_bob);
    struct thole *admin = watch_orders(c, leader, "admin", &by_admin);
    cli_ok(c, 0, "cert revoke %s/bob.crt --dir %s", pki, pki);
    eventually(20000, "bob's watch ends", is_ended, &by_bob);
    FILE *forwarded =
        client_begin("'%s' --endpoints %s watch orders", THOLE_PATH, c->hosts[1 - leader].address);
    while (strstr(out, "watching") == NULL) {
        assert_non_null(fgets(out, sizeof out, forwarded));
    }
    cli_ok(c, 0, "cert revoke %s/%s.crt --dir %s", pki, c->hosts[1 - leader].name, pki);
    int status = client_end(forwarded, out, sizeof out);
    if (status == 0) {
        fail_msg("the forwarded watch ended with 0: %s", out);
    }
    assert_false(is_ended(&by_admin));
    thole_close(bob);
    thole_close(admin);
    cluster_free(c);
}

/* The thief does not have the list. */
static void test_a_revoked_host_cannot_speak_as_one(void **state)
{
    (void)state;
    struct cluster *c = secure_cluster(3);
    char crl[300];
    snprintf(crl, sizeof crl, "--tls-crl=%s/ca.crl", pki);
    cli_ok(c, 0, "cert revoke %s/h3.crt --dir %s", pki, pki);
    c->extra_args[0] = crl;
    cluster_start_peers(c, 2);
    const struct uuid h3 = uuid_random();
    speak(c, "h3", true, &h3, 1, "the certificate of \"h3\", or its CA's, was revoked");
    cluster_free(c);
}

/* ---- Another CA ------------------------------------------------------------------------------ */

/* The three steps of docs/security.md under load, then nothing that the old CA signed counts. */
static void test_another_ca_takes_over_under_load(void **state)
{
    (void)state;
    struct cluster *c = secure_cluster(3);
    struct bench_run b = {.c = c, .endpoints = cluster_endpoints(c, 3), .mode = "--mode unary"};
    pthread_t thread;
    cluster_start_peers(c, 3);
    cli_ok(c, 0, "cert client bob --dir %s", pki);
    assert_int_equal(pthread_create(&thread, NULL, bench_main, &b), 0);
    sleep(2);
    char *old = read_file(pki, "ca.crt");
    shell("mkdir %s/before && mv %s/ca.* %s/before", pki, pki, pki);
    cli_ok(c, 0, "cert ca prod --dir %s", pki);
    char *fresh = read_file(pki, "ca.crt"), *both = xasprintf("%s%s", old, fresh);
    replace_file("ca.crt", both);
    sleep(2);
    shell("cd %s && mkdir new && cp ca.key new", pki);
    replace_file("new/ca.crt", fresh);
    for (int i = 0; i < 3; i++) {
        cli_ok(c, i, "cert host %s %s --dir %s/new", c->hosts[i].name, c->hosts[i].ip, pki);
        shell("cd %s/new && mv %s.key %s.crt ..", pki, c->hosts[i].name, c->hosts[i].name);
    }
    cli_ok(c, 0, "cert client admin --dir %s/new", pki);
    shell("cd %s/new && mv admin.key admin.crt ..", pki);
    assert_int_equal(pthread_join(thread, NULL), 0);
    if (b.status != 0 || strstr(b.out, "failed      0\n") == NULL) {
        fail_msg("status %d: %s", b.status, b.out);
    }
    replace_file("ca.crt", fresh);
    call_as("bob");
    for (int i = 0; i < 3; i++) {
        expect_ends(c, i, "the certificate of \"bob\" was not signed by a CA in ");
    }
    call_as("admin");
    for (int i = 0; i < 3; i++) {
        expect_ends(c, i, NULL);
    }
    free(old);
    free(fresh);
    free(both);
    cluster_free(c);
}

/* ---- The commands of docs/security.md -------------------------------------------------------- */

static void test_certificates_of_openssl(void **state)
{
    (void)state;
    struct cluster *c = secure_cluster(1);
    const int ip_size = (int)strcspn(c->hosts[0].address, ":");
    shell("cd %s && rm h1.* admin.* ca.* && "
          "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key "
          "-subj /CN=ours -days 30 -out ca.crt 2>/dev/null && "
          "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout h1.key "
          "-subj /CN=h1 -out h1.csr 2>/dev/null && "
          "printf '%%s\n' 'subjectAltName=URI:thole://prod/host/h1,IP:%.*s' "
          "'extendedKeyUsage=serverAuth,clientAuth' 'basicConstraints=critical,CA:FALSE' > h1.ext "
          "&& openssl x509 -req -in h1.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 "
          "-extfile h1.ext -out h1.crt 2>/dev/null && "
          "openssl req -new -newkey rsa:2048 -nodes -keyout admin.key -subj /CN=admin "
          "-out admin.csr 2>/dev/null && printf '%%s\n' 'extendedKeyUsage=clientAuth' "
          "'subjectAltName=URI:thole://prod/user/admin' > admin.ext && "
          "openssl x509 -req -in admin.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 "
          "-extfile admin.ext -out admin.crt 2>/dev/null",
          pki, ip_size, c->hosts[0].address);
    cluster_start_dev(c);
    cli_ok(c, 0, "get hosts");
    host_stop(c, 0);
    shell("chmod 644 %s/h1.key", pki);
    host_restart(c, 0);
    cluster_wait_ready(c, 0, 20000);
    assert_true(host_log_has(c, 0, "other users have access to the private key path="));
    cluster_free(c);
}

/* What the HTTP port shows is h1.crt. */
static bool http_shows_file(void *ctx)
{
    const struct cluster *c = ctx;
    char command[400], shown[8192];
    char *wanted = read_file(pki, "h1.crt");
    snprintf(command, sizeof command,
             "python3 -c 'import ssl; print(ssl.get_server_certificate((\"%s\", 7401)), end=\"\")'",
             c->hosts[0].ip);
    FILE *p = popen(command, "r");
    assert_non_null(p);
    size_t n = fread(shown, 1, sizeof shown - 1, p);
    shown[n] = '\0';
    bool same = pclose(p) == 0 && strcmp(shown, wanted) == 0;
    free(wanted);
    return same;
}

static void test_the_http_port_follows_the_files(void **state)
{
    (void)state;
    struct cluster *c = secure_cluster(1);
    char http[64];
    snprintf(http, sizeof http, "%s:7401", c->hosts[0].ip);
    host_start(c, 0,
               (const char *[]){"--dev", "--listen", c->hosts[0].address, "--http", http, NULL});
    cluster_wait_ready(c, 0, 20000);
    eventually(20000, "the HTTP port shows the certificate", http_shows_file, c);
    make_odd("h1", (struct certificate_request){.kind = CERTIFICATE_HOST, .name = "h1"});
    eventually(20000, "the HTTP port shows the new certificate", http_shows_file, c);
    cluster_free(c);
}

/* ---- Files ----------------------------------------------------------------------------------- */

static void test_cert_keeps_keys_private_and_overwrites_nothing(void **state)
{
    (void)state;
    struct cluster *c = secure_cluster(1);
    char path[300], out[1024];
    struct stat s;
    static const char *const keys[] = {"ca", "h1", "admin"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        snprintf(path, sizeof path, "%s/%s.key", pki, keys[i]);
        assert_int_equal(stat(path, &s), 0);
        assert_int_equal(s.st_mode & 0777, 0600);
    }
    char *before = read_file(pki, "h1.key");
    snprintf(out, sizeof out, "cert host h1 --dir %s", pki);
    expect_refused(c, out, "h1.crt is there already, and is not overwritten");
    snprintf(path, sizeof path, "%s/h1.crt", pki);
    assert_int_equal(unlink(path), 0);
    expect_refused(c, out, "h1.key is there already, and is not overwritten");
    char *after = read_file(pki, "h1.key");
    assert_string_equal(before, after);
    free(before);
    free(after);
    snprintf(out, sizeof out, "cert ca prod --dir %s", pki);
    expect_refused(c, out, "ca.crt is there already, and is not overwritten");
    expect_refused(c, "cert host h9 --dir /nonexistent", "make a CA first");
    expect_refused(c, "cert host ../x", "lower case letters");
    cluster_free(c);
}

/* The base64 of each private key, in lines of 64. */
static void test_no_key_is_logged(void **state)
{
    (void)state;
    struct cluster *c = secure_cluster(2);
    c->extra_args[0] = "--log-level=debug";
    cluster_start_dev(c);
    cluster_join(c, 1, 0);
    cli_ok(c, 0, "status");
    assert_int_equal(kill(c->hosts[0].pid, SIGHUP), 0);
    eventually(20000, "SIGHUP is logged", log_says,
               &(struct log_wait){c, 0, "certificates were read again"});
    setenv("THOLE_LOG", "debug", 1);
    shell("'%s' --endpoints %s status > %s/cli.log 2>&1", THOLE_PATH, c->hosts[0].address, c->dir);
    unsetenv("THOLE_LOG");
    shell("cd %s && cat pki/*.key | grep -v -e ----- > secrets && test -s secrets && "
          "! grep -F -f secrets *.log && ! grep -e 'PRIVATE KEY' *.log",
          c->dir);
    cluster_free(c);
}

/* ---- Without TLS ----------------------------------------------------------------------------- */

static void test_plain_text_beyond_the_loopback_must_be_meant(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    call_in_plain_text();
    host_start(c, 0, (const char *[]){"--dev", "--listen", ":0", NULL});
    int status = host_wait_exit(c, 0, 20000);
    assert_int_equal(WEXITSTATUS(status), EXIT_USAGE);
    assert_true(host_log_has(c, 0, "or --insecure if that is meant"));
    host_start(c, 0,
               (const char *[]){"--dev", "--listen", c->hosts[0].address, "--http", ":0", NULL});
    status = host_wait_exit(c, 0, 20000);
    assert_int_equal(WEXITSTATUS(status), EXIT_USAGE);
    cluster_start_dev(c);
    assert_non_null(
        strstr(cli_ok(c, 0, "status"), "transport plain text, for its own machine only"));
    host_stop(c, 0);
    char port[16];
    snprintf(port, sizeof port, ":%u", (unsigned)c->everywhere_port);
    host_start(c, 0, (const char *[]){"--listen", port, "--insecure", NULL});
    snprintf(c->hosts[0].address, sizeof c->hosts[0].address, "127.0.0.1%s", port);
    cluster_wait_ready(c, 0, 20000);
    assert_non_null(strstr(cli_ok(c, 0, "status"), "transport plain text, NOT SECURE"));
    assert_true(host_log_has(c, 0, "anybody who reaches this host may do anything"));
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_users_and_strangers),
        cmocka_unit_test(test_a_server_at_another_address_is_not_believed),
        cmocka_unit_test(test_downgrades_are_refused),
        cmocka_unit_test(test_a_client_of_another_language),
        cmocka_unit_test(test_reflection_is_for_users_or_for_all),
        cmocka_unit_test(test_hosts_that_do_not_belong),
        cmocka_unit_test(test_a_host_cannot_speak_as_another),
        cmocka_unit_test(test_all_certificates_are_replaced_under_load),
        cmocka_unit_test(test_revoked_certificates_end),
        cmocka_unit_test(test_an_open_watch_ends_with_its_certificate),
        cmocka_unit_test(test_watches_of_the_library_end_with_a_revoked_certificate),
        cmocka_unit_test(test_a_revoked_host_cannot_speak_as_one),
        cmocka_unit_test(test_another_ca_takes_over_under_load),
        cmocka_unit_test(test_certificates_of_openssl),
        cmocka_unit_test(test_the_http_port_follows_the_files),
        cmocka_unit_test(test_cert_keeps_keys_private_and_overwrites_nothing),
        cmocka_unit_test(test_no_key_is_logged),
        cmocka_unit_test(test_plain_text_beyond_the_loopback_must_be_meant),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
