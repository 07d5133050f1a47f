/* TLS: which peers may connect, how a caller is identified, and the text of a refusal. Certificates
 * can be replaced while everything runs. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/metrics.h"
#include "bus/test/authority.h"
#include "bus/test/fixture.h"

#define CALL_MS 5000
#define DAY_S 86400

/* ---- A host with one method, which answers who called ---------------------------------------- */

static void who(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    struct bus_identity i;
    char text[300];
    (void)ctx;
    (void)message;
    bus_rpc_identity(rpc, &i);
    assert_non_null(strstr(i.address, "127.0.0.1"));
    snprintf(text, sizeof text, "%s %s%s",
             i.kind == BUS_HOST     ? "host"
             : i.kind == BUS_CLIENT ? "user"
                                    : "anonymous",
             i.name, i.secure ? "" : " plain");
    bus_rpc_reply(rpc, body_of(text));
}

static struct host *serve_aged(uint8_t n, struct bus_tls *tls, uint32_t connection_age_ms)
{
    static const struct bus_method method = {"/test.Test/Who", BUS_RPC_UNARY, NULL, who, NULL, 0};
    struct host *h = host_alloc();
    struct thole_status st = {0};
    struct bus_options o = host_options(h, n, 9, 1, "127.0.0.1:0");
    o.tls = tls;
    o.connection_age_ms = connection_age_ms;
    if (bus_new(&o, &h->bus, &st) != THOLE_OK) {
        fail_msg("bus_new: %s", st.message);
    }
    bus_register(h->bus, &method, 1);
    bus_start(h->bus);
    h->id = o.host_id;
    snprintf(h->address, sizeof h->address, "%s", bus_address(h->bus));
    bus_tls_unref(tls);
    return h;
}

static struct host *serve(uint8_t n, struct bus_tls *tls)
{
    return serve_aged(n, tls, 0);
}

/* Make one call; returns the code, and the reply or the message in `ret`. */
static enum thole_code call_who(const char *address, struct bus_tls *tls, char ret[300])
{
    struct thole_status st = {0};
    struct bus_channel *c;
    struct buf *reply = NULL;
    assert_int_equal(bus_channel_new_tls(address, tls, &c, &st), THOLE_OK);
    enum thole_code code =
        bus_channel_call(c, "/test.Test/Who", (struct slice){0}, CALL_MS, &reply, &st);
    if (code == THOLE_OK) {
        snprintf(ret, 300, "%.*s", (int)reply->size, (const char *)reply->data);
        buf_unref(reply);
    } else {
        snprintf(ret, 300, "%s", st.message);
    }
    bus_channel_free(c);
    bus_tls_unref(tls);
    return code;
}

static void expect(const char *text, const char *part)
{
    if (strstr(text, part) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", text, part);
    }
}

struct scene {
    struct authority *ca;
    struct issued h1;
    struct host *h;
};

static struct scene scene_new(void)
{
    struct scene s = {.ca = authority_new("prod")};
    s.h1 = authority_issue(s.ca, CERTIFICATE_HOST, "h1");
    s.h = serve(1, tls_of(s.ca, &s.h1, true));
    return s;
}

static void scene_free(struct scene *s)
{
    host_free(s->h);
    authority_free(s->ca);
}

/* ---- Callers --------------------------------------------------------------------------------- */

static void test_a_caller_is_who_its_certificate_names(void **state)
{
    (void)state;
    struct scene s = scene_new();
    char said[300];
    struct issued alice = authority_issue(s.ca, CERTIFICATE_USER, "alice@example.com");
    assert_int_equal(call_who(s.h->address, tls_of(s.ca, NULL, false), said), THOLE_OK);
    assert_string_equal(said, "anonymous ");
    assert_int_equal(call_who(s.h->address, tls_of(s.ca, &alice, false), said), THOLE_OK);
    assert_string_equal(said, "user alice@example.com");
    assert_int_equal(call_who(s.h->address, tls_of(s.ca, &s.h1, false), said), THOLE_OK);
    assert_string_equal(said, "host h1");
    scene_free(&s);
}

static void test_without_tls_nobody_is_anybody(void **state)
{
    (void)state;
    struct host *h = serve(1, NULL);
    char said[300];
    assert_int_equal(call_who(h->address, NULL, said), THOLE_OK);
    assert_string_equal(said, "anonymous  plain");
    host_free(h);
}

static void test_certificates_that_do_not_count_are_refused_with_the_reason(void **state)
{
    (void)state;
    struct scene s = scene_new();
    char said[300];
    int64_t now_s = (int64_t)time(NULL);
    const struct certificate_request old = {.kind = CERTIFICATE_USER,
                                            .name = "bob",
                                            .not_before_s = now_s - 2 * DAY_S,
                                            .not_after_s = now_s - DAY_S};
    const struct certificate_request early = {.kind = CERTIFICATE_USER,
                                              .name = "carol",
                                              .not_before_s = now_s + DAY_S,
                                              .not_after_s = now_s + 2 * DAY_S};
    const struct certificate_request foreign = {
        .kind = CERTIFICATE_USER, .name = "dave", .cluster = "test"};
    struct issued i = authority_issue_as(s.ca, "old", &old);
    assert_int_equal(call_who(s.h->address, tls_of(s.ca, &i, false), said), THOLE_UNAUTHENTICATED);
    expect(said, "certificate of \"bob\", or its CA's, has expired");
    i = authority_issue_as(s.ca, "early", &early);
    assert_int_equal(call_who(s.h->address, tls_of(s.ca, &i, false), said), THOLE_UNAUTHENTICATED);
    expect(said, "certificate of \"carol\" is not valid yet");
    i = authority_issue_as(s.ca, "foreign", &foreign);
    assert_int_equal(call_who(s.h->address, tls_of(s.ca, &i, false), said), THOLE_UNAUTHENTICATED);
    expect(said, "is for cluster \"test\", and this is cluster \"prod\"");
    scene_free(&s);
}

static void test_certificates_of_a_stranger_ca_are_refused_by_either_side(void **state)
{
    (void)state;
    struct scene s = scene_new();
    struct authority *other = authority_new("prod");
    char said[300];
    struct issued eve = authority_issue(other, CERTIFICATE_USER, "eve");
    struct bus_tls_files files = files_of(s.ca, &eve);
    struct bus_tls *tls;
    struct thole_status st = {0};
    assert_int_equal(bus_tls_new(&files, false, &tls, &st), THOLE_OK);
    assert_int_equal(call_who(s.h->address, tls, said), THOLE_UNAUTHENTICATED);
    expect(said, "certificate of \"eve\" was not signed by a CA in ");
    assert_int_equal(call_who(s.h->address, tls_of(other, NULL, false), said),
                     THOLE_UNAUTHENTICATED);
    expect(said, "certificate of \"h1\" was not signed by a CA in ");
    authority_free(other);
    scene_free(&s);
}

static void test_a_server_must_be_a_host_and_at_its_address(void **state)
{
    (void)state;
    struct authority *ca = authority_new("prod");
    const char *const away[] = {"h1.example.com", "10.1.2.3"};
    const struct certificate_request q = {
        .kind = CERTIFICATE_HOST, .name = "h1", .addresses = away, .address_count = 2};
    struct issued i = authority_issue_as(ca, "h1", &q);
    struct host *h = serve(1, tls_of(ca, &i, true));
    char said[300];
    assert_int_equal(call_who(h->address, tls_of(ca, NULL, false), said), THOLE_UNAUTHENTICATED);
    expect(said, "is not for that name or address; it is for: h1.example.com, 10.1.2.3");
    host_free(h);
    struct issued user = authority_issue(ca, CERTIFICATE_USER, "mallory");
    struct bus_tls_files files = files_of(ca, &user);
    struct bus_tls *tls;
    struct thole_status st = {0};
    assert_int_equal(bus_tls_new(&files, true, &tls, &st), THOLE_INVALID_ARGUMENT);
    expect(st.message, "is not the certificate of a host");
    authority_free(ca);
}

/* ---- Hosts ----------------------------------------------------------------------------------- */

static void test_hosts_with_certificates_of_the_cluster_connect(void **state)
{
    (void)state;
    struct scene s = scene_new();
    struct issued i = authority_issue(s.ca, CERTIFICATE_HOST, "h2");
    struct host *h2 = serve(2, tls_of(s.ca, &i, true));
    struct outcome o;
    host_knows(s.h, h2);
    host_knows(h2, s.h);
    eventually(s.h, s.h->ups == 1);
    eventually(h2, h2->ups == 1);
    frame_send(s.h, h2, BUS_LANE_APPEND, 0, 64);
    eventually(h2, h2->frames == 1);
    ask(h2, s.h, METHOD_ECHO, "hello", CALL_MS, &o);
    eventually(&o, o.done);
    assert_string_equal(o.body, "hello");
    struct bus_ask_peer peer;
    struct thole_status st = {0};
    assert_int_equal(
        bus_ask(h2->bus, s.h->address, METHOD_ECHO, slice_str("x"), CALL_MS, NULL, &peer, &st),
        THOLE_OK);
    assert_string_equal(peer.name, "h1");
    host_free(h2);
    scene_free(&s);
}

/* The caller's bus claims to be a host, whatever its certificate says. */
static void expect_no_host(struct scene *s, struct bus_tls *tls, const char *why)
{
    struct host *bad = host_alloc();
    struct thole_status st = {0};
    struct bus_options o = host_options(bad, 7, 9, 1, NULL);
    struct outcome out;
    o.tls = tls;
    host_open(bad, &o);
    bus_tls_unref(tls);
    host_knows(bad, s->h);
    ask(bad, s->h, METHOD_ECHO, "hello", 1000, &out);
    eventually(&out, out.done);
    assert_int_not_equal(out.st.code, THOLE_OK);
    assert_int_not_equal(
        bus_ask(bad->bus, s->h->address, METHOD_ECHO, slice_str("x"), CALL_MS, NULL, NULL, &st),
        THOLE_OK);
    expect(st.message, why);
    assert_int_equal(locked(bad, bad->ups), 0);
    assert_int_equal(locked(s->h, s->h->requests), 0);
    host_free(bad);
}

static void test_only_hosts_speak_as_hosts(void **state)
{
    (void)state;
    struct scene s = scene_new();
    struct issued user = authority_issue(s.ca, CERTIFICATE_USER, "alice");
    const struct certificate_request q = {
        .kind = CERTIFICATE_HOST, .name = "h2", .cluster = "test"};
    struct issued foreign = authority_issue_as(s.ca, "foreign", &q);
    struct authority *other = authority_new("prod");
    struct issued stranger = authority_issue(other, CERTIFICATE_HOST, "h2");
    struct bus_tls_files files = files_of(s.ca, &stranger);
    struct bus_tls *tls;
    struct thole_status st = {0};
    expect_no_host(&s, tls_of(s.ca, NULL, false), "no certificate was shown");
    expect_no_host(&s, tls_of(s.ca, &user, false), "that of \"alice\", a user");
    expect_no_host(&s, tls_of(s.ca, &foreign, true), "cluster \"test\"");
    assert_int_equal(bus_tls_new(&files, false, &tls, &st), THOLE_OK);
    expect_no_host(&s, tls, "was not signed by a CA in ");
    authority_free(other);
    scene_free(&s);
}

/* A CA for users cannot certify hosts. */
static void test_the_ca_of_clients_makes_no_hosts(void **state)
{
    (void)state;
    struct authority *ca = authority_new("prod"), *people = authority_new("prod");
    struct issued h1 = authority_issue(ca, CERTIFICATE_HOST, "h1");
    struct bus_tls_files files = files_of(ca, &h1);
    struct bus_tls *tls;
    struct thole_status st = {0};
    char said[300];
    files.client_ca = people->ca_path;
    assert_int_equal(bus_tls_new(&files, true, &tls, &st), THOLE_OK);
    struct scene s = {.ca = ca, .h1 = h1, .h = serve(1, tls)};
    struct issued alice = authority_issue(people, CERTIFICATE_USER, "alice");
    files = files_of(ca, &alice);
    assert_int_equal(bus_tls_new(&files, false, &tls, &st), THOLE_OK);
    assert_int_equal(call_who(s.h->address, tls, said), THOLE_OK);
    assert_string_equal(said, "user alice");
    struct issued forged = authority_issue(people, CERTIFICATE_HOST, "h2");
    files = files_of(ca, &forged);
    assert_int_equal(bus_tls_new(&files, false, &tls, &st), THOLE_OK);
    expect_no_host(&s, tls, "certificate of \"h2\" was not signed by a CA in ");
    scene_free(&s);
    authority_free(people);
}

/* ---- Downgrades ------------------------------------------------------------------------------ */

static void test_plain_text_and_tls_do_not_meet(void **state)
{
    (void)state;
    struct scene s = scene_new();
    struct host *plain = serve(2, NULL);
    char said[300];
    assert_int_equal(call_who(s.h->address, NULL, said), THOLE_UNAVAILABLE);
    expect(said, "TLS");
    assert_int_equal(call_who(plain->address, tls_of(s.ca, NULL, false), said), THOLE_UNAVAILABLE);
    expect(said, "TLS");
    host_free(plain);
    scene_free(&s);
}

/* With at most this version of TLS: does the handshake succeed? */
static bool handshake(uint16_t port, int version)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    const struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_non_null(ctx);
    SSL_CTX_set_security_level(ctx, 0);
    SSL_CTX_set_min_proto_version(ctx, TLS1_VERSION);
    SSL_CTX_set_max_proto_version(ctx, version);
    SSL_CTX_set_alpn_protos(ctx, (const unsigned char *)"\x02h2", 3);
    SSL *ssl = SSL_new(ctx);
    assert_int_equal(connect(fd, (const struct sockaddr *)&to, sizeof to), 0);
    SSL_set_fd(ssl, fd);
    bool ok = SSL_connect(ssl) == 1;
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    close(fd);
    return ok;
}

static void test_old_versions_of_tls_are_refused(void **state)
{
    (void)state;
    struct scene s = scene_new();
    assert_false(handshake(bus_port(s.h->bus), TLS1_1_VERSION));
    assert_true(handshake(bus_port(s.h->bus), TLS1_2_VERSION));
    assert_true(handshake(bus_port(s.h->bus), TLS1_3_VERSION));
    scene_free(&s);
}

/* ---- Files ----------------------------------------------------------------------------------- */

static void expect_unusable(const struct bus_tls_files *files, const char *why)
{
    struct bus_tls *tls;
    struct thole_status st = {0};
    assert_int_not_equal(bus_tls_new(files, true, &tls, &st), THOLE_OK);
    assert_int_equal(st.reason, THOLE_REASON_CERTIFICATE);
    expect(st.message, why);
}

static void test_files_that_do_not_fit_are_named(void **state)
{
    (void)state;
    struct authority *ca = authority_new("prod"), *other = authority_new("prod");
    struct issued h1 = authority_issue(ca, CERTIFICATE_HOST, "h1");
    struct issued h2 = authority_issue(ca, CERTIFICATE_HOST, "h2");
    struct issued far = authority_issue(other, CERTIFICATE_HOST, "h1");
    struct bus_tls_files files = files_of(ca, &h1);
    files.key = NULL;
    expect_unusable(&files, "tls-cert and tls-key go together");
    files.key = h2.key;
    expect_unusable(&files, "h2.key is not the private key of the certificate");
    files.key = h1.cert;
    expect_unusable(&files, "h1.crt holds no private key");
    files = files_of(ca, &far);
    expect_unusable(&files, "was not signed by a CA in ");
    files = files_of(ca, &h1);
    files.ca = h1.key;
    expect_unusable(&files, "h1.key holds no certificates of a CA");
    files.ca = "/nonexistent/ca.crt";
    expect_unusable(&files, "cannot read the CA of hosts");
    files.ca = NULL;
    expect_unusable(&files, "TLS needs a CA of hosts");
    authority_free(other);
    authority_free(ca);
}

/* All certificates are replaced while calls continue over open and new connections. First both CAs
 * are trusted, then the certificates change to the new CA, then the old CA is removed. */
static void test_all_certificates_are_replaced_while_calls_go_on(void **state)
{
    (void)state;
    struct scene s = scene_new();
    struct authority *next = authority_new("prod");
    struct issued alice = authority_issue(s.ca, CERTIFICATE_USER, "alice");
    struct bus_tls *tls = tls_of(s.ca, &alice, false);
    struct bus_channel *open;
    struct thole_status st = {0};
    char said[300];
    assert_int_equal(bus_channel_new_tls(s.h->address, tls, &open, &st), THOLE_OK);
    char *both = xasprintf("%s%s", s.ca->pem, next->pem);
    for (int step = 0; step < 4; step++) {
        if (step == 1) {
            write_text(s.ca->ca_path, both);
        } else if (step == 2) {
            struct issued h = authority_issue(next, CERTIFICATE_HOST, "h1");
            struct issued a = authority_issue(next, CERTIFICATE_USER, "alice");
            assert_int_equal(rename(h.cert, s.h1.cert) | rename(h.key, s.h1.key), 0);
            assert_int_equal(rename(a.cert, alice.cert) | rename(a.key, alice.key), 0);
        } else if (step == 3) {
            write_text(s.ca->ca_path, next->pem);
        }
        for (uint64_t until = now_ms() + 1500; now_ms() < until; pause_ms(10)) {
            struct buf *reply = NULL;
            enum thole_code code = call_who(s.h->address, bus_tls_ref(tls), said);
            if (code != THOLE_OK) {
                fail_msg("step %d, a new connection: %s", step, said);
            }
            code =
                bus_channel_call(open, "/test.Test/Who", (struct slice){0}, CALL_MS, &reply, &st);
            if (step == 3) { /* its certificate is signed by a removed CA */
                buf_unref(reply);
            } else if (code != THOLE_OK) {
                fail_msg("step %d, an open connection: %s", step, st.message);
            } else {
                buf_unref(reply);
            }
        }
    }
    /* Open connections are affected, too: a peer whose CA is no longer trusted is
     * unauthenticated. */
    struct buf *reply = NULL;
    assert_int_equal(
        bus_channel_call(open, "/test.Test/Who", (struct slice){0}, CALL_MS, &reply, &st),
        THOLE_UNAUTHENTICATED);
    expect(st.message, "was not signed by a CA in ");
    free(both);
    bus_channel_free(open);
    bus_tls_unref(tls);
    authority_free(next);
    scene_free(&s);
}

/* An aged connection takes no new calls, which go over a new connection. Streams of hosts stay on
 * the old one. */
static void test_aged_connections_fail_no_call_and_keep_their_streams(void **state)
{
    (void)state;
    struct authority *ca = authority_new("prod");
    struct issued h1 = authority_issue(ca, CERTIFICATE_HOST, "h1");
    struct issued h2 = authority_issue(ca, CERTIFICATE_HOST, "h2");
    struct host *a = serve_aged(1, tls_of(ca, &h1, true), 300);
    struct host *b = serve_aged(2, tls_of(ca, &h2, true), 300);
    struct bus_tls *tls = tls_of(ca, NULL, false);
    struct bus_channel *c;
    struct thole_status st = {0};
    uint64_t number = 0;
    host_knows(a, b);
    host_knows(b, a);
    eventually(a, a->ups == 1);
    eventually(b, b->ups == 1);
    assert_int_equal(bus_channel_new_tls(a->address, tls, &c, &st), THOLE_OK);
    for (uint64_t until = now_ms() + 2000; now_ms() < until; pause_ms(2)) {
        struct buf *reply = NULL;
        struct outcome o;
        if (bus_channel_call(c, "/test.Test/Who", (struct slice){0}, CALL_MS, &reply, &st) !=
            THOLE_OK) {
            fail_msg("a call: %s", st.message);
        }
        buf_unref(reply);
        frame_send(a, b, BUS_LANE_APPEND, number++, 64);
        ask(a, b, METHOD_ECHO, "hello", CALL_MS, &o);
        eventually(&o, o.done);
        assert_int_equal(o.st.code, THOLE_OK);
    }
    eventually(b, b->frames == number);
    assert_int_equal(locked(a, a->downs), 0);
    assert_int_equal(locked(b, b->downs), 0);
    bus_channel_free(c);
    bus_tls_unref(tls);
    host_free(a);
    host_free(b);
    authority_free(ca);
}

/* Unusable files change nothing, and the explicit reload reports the error. */
static void test_files_that_became_unusable_leave_the_old_ones_in_use(void **state)
{
    (void)state;
    struct scene s = scene_new();
    struct bus_tls *tls = tls_of(s.ca, &s.h1, true);
    struct thole_status st = {0};
    char said[300], name[CALL_MS];
    write_text(s.h1.key, "nonsense");
    assert_int_equal(bus_tls_reload(tls, &st), THOLE_INVALID_ARGUMENT);
    expect(st.message, "h1.key holds no private key");
    pause_ms(1100);
    assert_int_equal(call_who(s.h->address, tls_of(s.ca, NULL, false), said), THOLE_OK);
    (void)authority_issue(s.ca, CERTIFICATE_HOST, "h1");
    assert_int_equal(bus_tls_reload(tls, &st), THOLE_OK);
    const struct certificate_request q = {.kind = CERTIFICATE_HOST, .name = "h2"};
    (void)authority_issue_as(s.ca, "h1", &q);
    assert_int_equal(bus_tls_reload(tls, &st), THOLE_INVALID_ARGUMENT);
    expect(st.message, "is now of the host \"h2\"");
    bus_tls_name(tls, name, sizeof name);
    assert_string_equal(name, "h1");
    bus_tls_unref(tls);
    scene_free(&s);
}

/* ---- Streams that are open ------------------------------------------------------------------- */

static char *text_of(const char *path)
{
    struct buf *b = NULL;
    struct thole_status st = {0};
    if (file_read(path, 1 << 20, &b, &st) != THOLE_OK) {
        fail_msg("%s", st.message);
    }
    char *text = xstrndup((const char *)b->data, b->size);
    buf_unref(b);
    return text;
}

/* `crl` exists, unless this is the first one. */
static void take_back(const struct authority *ca, const struct issued *i, const char *crl,
                      bool first)
{
    struct thole_status st = {0};
    char *pem = text_of(i->cert), *list = first ? NULL : text_of(crl), *longer;
    if (certificate_revoke(pem, list, ca->pem, ca->key, &longer, &st) != THOLE_OK) {
        fail_msg("%s", st.message);
    }
    write_text(crl, longer);
    free(pem);
    free(list);
    free(longer);
}

/* A client of the library; takes `tls` over. */
static struct host *library(struct bus_tls *tls, const struct host *server)
{
    struct host *h = host_alloc();
    struct bus_options o = host_options(h, 0, 0, 0, NULL);
    o.tls = tls;
    host_open(h, &o);
    bus_tls_unref(tls);
    host_knows(h, server);
    return h;
}

/* A request that is not answered for months, as a watch is. */
static void hold(struct host *from, struct host *server, struct outcome *o)
{
    int before = locked(server, server->held_count);
    ask(from, server, METHOD_HOLD, "watch", 0, o);
    eventually(server, server->held_count == before + 1);
}

static int64_t ended_total(void)
{
    static const char name[] = "\nthole_tls_streams_ended_total ";
    struct bytes text = {0};
    metrics_render(&text);
    bytes_append(&text, "", 1);
    const char *at = strstr((const char *)text.data, name);
    int64_t n = at != NULL ? strtoll(at + sizeof name - 1, NULL, 10) : 0;
    bytes_deinit(&text);
    return n;
}

/* They had two seconds to be answered. */
static void test_open_requests_end_when_their_certificate_is_revoked(void **state)
{
    (void)state;
    struct authority *ca = authority_new("prod");
    struct issued h1 = authority_issue(ca, CERTIFICATE_HOST, "h1");
    struct issued h2 = authority_issue(ca, CERTIFICATE_HOST, "h2");
    struct issued eve = authority_issue(ca, CERTIFICATE_USER, "eve");
    struct issued alice = authority_issue(ca, CERTIFICATE_USER, "alice");
    struct issued bob = authority_issue(ca, CERTIFICATE_USER, "bob");
    struct bus_tls_files files = files_of(ca, &h1);
    struct bus_tls *tls;
    struct thole_status st = {0};
    struct outcome by_alice, by_bob, by_host;
    char *crl = xasprintf("%s/ca.crl", ca->dir);
    take_back(ca, &eve, crl, true);
    files.crl = crl;
    assert_int_equal(bus_tls_new(&files, true, &tls, &st), THOLE_OK);
    struct host *server = serve(1, tls);
    struct host *a = library(tls_of(ca, &alice, false), server);
    struct host *b = library(tls_of(ca, &bob, false), server);
    struct host *other = serve(2, tls_of(ca, &h2, true));
    host_knows(other, server);
    hold(a, server, &by_alice);
    hold(b, server, &by_bob);
    hold(other, server, &by_host);
    const int64_t before = ended_total();
    take_back(ca, &alice, crl, false);
    eventually(&by_alice, by_alice.done);
    expect(by_alice.st.message, "the certificate of \"alice\", or its CA's, was revoked");
    eventually(server, server->cancels == 1);
    assert_int_equal(ended_total(), before + 1);
    take_back(ca, &h2, crl, false);
    eventually(&by_host, by_host.done);
    eventually(server, server->cancels == 2);
    assert_false(locked(&by_bob, by_bob.done));
    assert_true(ended_total() <= before + 1 + 4); /* each stream of h2 once */
    free(crl);
    host_free(a);
    host_free(b);
    host_free(other);
    host_free(server);
    authority_free(ca);
}

/* A host that nobody renewed goes on, a user does not. */
static void test_open_requests_of_users_end_with_their_certificate(void **state)
{
    (void)state;
    struct scene s = scene_new();
    const int64_t until_s = (int64_t)time(NULL) + 4;
    struct issued alice =
        authority_issue_as(s.ca, "alice",
                           &(struct certificate_request){
                               .kind = CERTIFICATE_USER, .name = "alice", .not_after_s = until_s});
    struct issued h2 =
        authority_issue_as(s.ca, "h2",
                           &(struct certificate_request){
                               .kind = CERTIFICATE_HOST, .name = "h2", .not_after_s = until_s});
    struct host *other = serve(2, tls_of(s.ca, &h2, true));
    struct host *a = library(tls_of(s.ca, &alice, false), s.h);
    struct outcome by_alice, by_host;
    host_knows(other, s.h);
    hold(other, s.h, &by_host);
    hold(a, s.h, &by_alice);
    eventually(&by_alice, by_alice.done);
    expect(by_alice.st.message, "has expired");
    assert_false(locked(&by_host, by_host.done));
    host_free(a);
    host_free(other);
    scene_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_caller_is_who_its_certificate_names),
        cmocka_unit_test(test_without_tls_nobody_is_anybody),
        cmocka_unit_test(test_certificates_that_do_not_count_are_refused_with_the_reason),
        cmocka_unit_test(test_certificates_of_a_stranger_ca_are_refused_by_either_side),
        cmocka_unit_test(test_a_server_must_be_a_host_and_at_its_address),
        cmocka_unit_test(test_hosts_with_certificates_of_the_cluster_connect),
        cmocka_unit_test(test_only_hosts_speak_as_hosts),
        cmocka_unit_test(test_the_ca_of_clients_makes_no_hosts),
        cmocka_unit_test(test_plain_text_and_tls_do_not_meet),
        cmocka_unit_test(test_old_versions_of_tls_are_refused),
        cmocka_unit_test(test_files_that_do_not_fit_are_named),
        cmocka_unit_test(test_all_certificates_are_replaced_while_calls_go_on),
        cmocka_unit_test(test_aged_connections_fail_no_call_and_keep_their_streams),
        cmocka_unit_test(test_files_that_became_unusable_leave_the_old_ones_in_use),
        cmocka_unit_test(test_open_requests_end_when_their_certificate_is_revoked),
        cmocka_unit_test(test_open_requests_of_users_end_with_their_certificate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
