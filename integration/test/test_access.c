/* Real processes over mutual TLS: who may do what, by certificate and by token, and what happens to
 * open streams when that changes. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <thole/thole.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/buf.h"
#include "base/file.h"
#include "integration/test/cluster.h"
#include "integration/test/pki.h"

/* The file with a token of `thole token create`, kept at FILE. */
static void call_with(const char *file)
{
    char path[400];
    call_as(NULL);
    snprintf(path, sizeof path, "%s/%s", pki, file);
    setenv("THOLE_TOKEN_FILE", path, 1);
}

static struct cluster *secure_cluster(int hosts)
{
    struct cluster *c = cluster_new();
    static const char *const users[] = {"olga", "victor", "carol", "eve"};
    pki_make(c, hosts);
    for (size_t i = 0; i < sizeof users / sizeof users[0]; i++) {
        cli_ok(c, 0, "cert client %s --dir %s", users[i], pki);
    }
    cluster_start_peers(c, hosts);
    apply_yaml(c, 0,
               "kind: Shard\nname: orders\nspec: {type: kv, voters: 1}\n---\n"
               "kind: Shard\nname: other\nspec: {type: kv, voters: 1}\n---\n"
               "kind: Role\nname: operator\nspec: {members: [olga]}\n---\n"
               "kind: Role\nname: viewer\nspec: {members: [victor]}\n---\n"
               "kind: Role\nname: clerks\nspec:\n  data: [{rights: [READ, WRITE], shards: "
               "[\"ord*\"]}]\n  members: [carol]\n");
    return c;
}

static void refused(struct cluster *c, int host, const char *command, const char *why)
{
    char out[4096];
    if (cli(c, host, out, sizeof out, "%s", command) == 0 || strstr(out, why) == NULL) {
        fail_msg("thole %s: \"%s\" does not say \"%s\"", command, out, why);
    }
}

/* A token of this user in pki/FILE; returns its id in a static buffer. */
static const char *make_token(struct cluster *c, const char *user, const char *life,
                              const char *file)
{
    static char id[16];
    char path[400];
    const char *token = pki_token(c, user, life);
    snprintf(path, sizeof path, "%s/%s", pki, file);
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    assert_true(fprintf(f, "%s\n", token) > 0 && fclose(f) == 0);
    snprintf(id, sizeof id, "%.12s", token + PKI_TOKEN_ID);
    return id;
}

struct
try {
    struct cluster *c;
    int host;
    const char *command, *why; /* why NULL: it succeeds */
};

/* What another host has decided takes a moment to arrive. */
static bool ends_so(void *ctx)
{
    const struct try *t = ctx;
    char out[4096];
    int status = cli(t->c, t->host, out, sizeof out, "%s", t->command);
    return t->why == NULL ? status == 0 : status != 0 && strstr(out, t->why) != NULL;
}

static void ends(struct cluster *c, int host, const char *command, const char *why)
{
    eventually(3000, why != NULL ? why : command, ends_so, &(struct try){c, host, command, why});
}

/* ---- Roles ----------------------------------------------------------------------------------- */

static void test_roles_by_certificate(void **state)
{
    (void)state;
    struct cluster *c = secure_cluster(3);
    call_as(NULL);
    refused(c, 0, "get hosts", "neither a user's certificate nor a token");
    call_as("eve");
    refused(c, 0, "get hosts", "user \"eve\" lacks the right \"READ of HOSTS\" (NO_RIGHT)");
    refused(c, 0, "propose orders 'put a b'", "user \"eve\" lacks the right \"data WRITE");
    call_as("victor");
    ends(c, 1, "get hosts", NULL);
    cli_ok(c, 0, "status");
    cli_ok(c, 0, "describe shard orders");
    refused(c, 0, "delete shard orders", "lacks the right \"DELETE of SHARDS\"");
    refused(c, 0, "host cordon h2", "lacks the right \"OPERATE of HOSTS\"");
    refused(c, 0, "query orders 'get a'", "lacks the right \"data READ of shards\"");
    call_as("olga");
    ends(c, 2, "host cordon h2", NULL);
    cli_ok(c, 0, "host uncordon h2");
    cli_ok(c, 0, "get roles");
    refused(c, 0, "token create --for olga", "lacks the right \"CREATE of TOKENS\"");
    refused(c, 0, "delete role clerks", "lacks the right \"DELETE of ROLES\"");
    call_as("carol");
    ends(c, 1, "propose orders 'put a b'", NULL);
    cli_ok(c, 0, "query orders 'get a'");
    cli_ok(c, 2, "kv get orders a");
    refused(c, 0, "propose other 'put a b'", "lacks the right \"data WRITE of shards other\"");
    refused(c, 0, "query other 'get a'", "lacks the right \"data READ of shards other\"");
    refused(c, 0, "watch other", "lacks the right \"data READ of shards other\"");
    refused(c, 0, "snapshot save orders /dev/null", "lacks the right \"data ADMIN of shards\"");
    /* Who was refused, from where, and what for. */
    call_as("admin");
    const char *events = cli_ok(c, 0, "get events -o json");
    assert_non_null(strstr(events, "\"actor\":\"user/eve\""));
    assert_non_null(strstr(events, "\"reason\":\"CallRefused\""));
    assert_non_null(strstr(events, "\"method\":\"Hosts.ListHosts\""));
    assert_non_null(strstr(events, "\"address\":\"ipv4:127."));
    assert_non_null(strstr(events, "\"actor\":\"user/admin\""));
    cluster_free(c);
}

/* ---- Open streams ---------------------------------------------------------------------------- */

struct running {
    pid_t pid;
    char path[300];
};

static void run(struct cluster *c, int host, struct running *r, const char *a, const char *b,
                const char *option)
{
    snprintf(r->path, sizeof r->path, "%s/out-%s-%s", c->dir, a, b);
    r->pid = fork();
    if (r->pid == 0) {
        int fd = open(r->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (fd >= 0 && dup2(fd, STDOUT_FILENO) >= 0 && dup2(fd, STDERR_FILENO) >= 0) {
            execl(THOLE_PATH, "thole", "--endpoints", c->hosts[host].address, a, b, option,
                  (char *)NULL);
        }
        _exit(127);
    }
    assert_true(r->pid > 0);
}

static bool has_text(const struct running *r, const char *text)
{
    struct buf *b = NULL;
    struct thole_status st;
    if (file_read(r->path, 1 << 20, &b, &st) != THOLE_OK) {
        return false;
    }
    bool yes = memmem(b->data, b->size, text, strlen(text)) != NULL;
    buf_unref(b);
    return yes;
}

struct awaited {
    const struct running *r;
    const char *text;
};

static bool says(void *ctx)
{
    const struct awaited *w = ctx;
    return has_text(w->r, w->text);
}

static bool is_over(void *ctx)
{
    struct running *r = ctx;
    if (r->pid != 0 && waitpid(r->pid, NULL, WNOHANG) == r->pid) {
        r->pid = 0;
    }
    return r->pid == 0;
}

/* Within a second; the rest is for a busy machine. */
static void over(struct running *r, const char *why)
{
    eventually(3000, why, is_over, r);
    if (!has_text(r, why)) {
        fail_msg("%s does not say \"%s\"", r->path, why);
    }
}

static void test_changes_end_open_streams(void **state)
{
    (void)state;
    struct cluster *c = secure_cluster(3);
    struct running rows, token, expiring;
    const char *id = make_token(c, "carol", "1h", "carol.token");
    char revoke[64];
    snprintf(revoke, sizeof revoke, "token revoke %s", id);
    call_as("victor");
    ends(c, 1, "get hosts", NULL);
    run(c, 1, &rows, "get", "shards", "--watch");
    call_as("carol");
    ends(c, 2, "propose orders 'put a b'", NULL);
    call_with("carol.token");
    ends(c, 1, "query orders 'get a'", NULL);
    run(c, 1, &token, "watch", "orders", "--count=99");
    eventually(10000, "rows are watched", says, &(struct awaited){&rows, "orders"});
    eventually(10000, "a token watches", says, &(struct awaited){&token, "watching"});
    call_as("admin");
    (void)make_token(c, "carol", "6s", "short.token");
    call_with("short.token");
    ends(c, 0, "query orders 'get a'", NULL);
    run(c, 0, &expiring, "watch", "orders", "--count=98");
    call_as("admin");
    cli_ok(c, 0, "%s", revoke);
    over(&token, "was revoked");
    apply_yaml(c, 0, "kind: Role\nname: viewer\nspec: {members: []}\n");
    over(&rows, "user \"victor\" lacks the right");
    call_as("victor");
    refused(c, 1, "get shards", "lacks the right");
    eventually(12000, "the token expires", is_over, &expiring);
    assert_true(has_text(&expiring, "has expired"));
    call_with("carol.token");
    refused(c, 2, "query orders 'get a'", "was revoked");
    call_as("admin");
    assert_non_null(strstr(cli_ok(c, 0, "token list"), "revoked"));
    cluster_free(c);
}

/* Reads the watch until it has the bookmark after `marker`; does it name `text`? */
static bool watch_names(struct thole_stream *w, const char *marker, const char *text)
{
    bool found = false, marked = false;
    for (;;) {
        struct thole_answer a = {0};
        struct thole_status st = {0};
        if (thole_stream_next(w, 20000, &a, &st) != THOLE_OK) {
            fail_msg("the watch ends: %s", st.message);
        }
        found = found || strstr(a.data, text) != NULL;
        marked = marked || strstr(a.data, marker) != NULL;
        bool end = marked && strstr(a.data, "\"bookmark\":true") != NULL;
        free(a.data);
        if (end) {
            return found;
        }
    }
}

static struct thole_stream *watch_cluster(struct cluster *c, const char *user, struct thole **ret)
{
    struct thole_stream *w = NULL;
    struct thole_status st = {0};
    *ret = pki_connect(c, 0, user);
    if (thole_stream_open(*ret, "Cluster/Watch", THOLE_JSON,
                          (struct thole_slice){.data = "{}", .size = 2}, &w, &st) != THOLE_OK) {
        fail_msg("%s", st.message);
    }
    (void)watch_names(w, "\"bookmark\":true", ""); /* the rows so far */
    return w;
}

static void test_a_watch_hides_what_was_deleted_from_those_who_may_not_read_it(void **state)
{
    (void)state;
    struct cluster *c = secure_cluster(1);
    struct thole *eve = NULL, *admin = NULL;
    apply_yaml(
        c, 0,
        "kind: Role\nname: watchers\nspec:\n  rules: [{verbs: [READ], kinds: [HOSTS, SHARDS, "
        "POOLS, REPLICAS, OPERATIONS, EVENTS, CLUSTER]}]\n  members: [eve]\n---\n"
        "kind: Role\nname: secret\nspec: {members: [carol]}\n");
    call_as("eve");
    ends(c, 0, "get hosts", NULL);
    struct thole_stream *by_eve = watch_cluster(c, "eve", &eve);
    struct thole_stream *by_admin = watch_cluster(c, "admin", &admin);
    call_as("admin");
    cli_ok(c, 0, "delete role secret");
    apply_yaml(c, 0, "kind: Shard\nname: marker\nspec: {type: kv, voters: 1}\n");
    assert_true(watch_names(by_admin, "\"marker\"", "\"deleted\":\"roles/secret\""));
    assert_false(watch_names(by_eve, "\"marker\"", "\"deleted\":\"roles/secret\""));
    thole_stream_close(by_eve);
    thole_stream_close(by_admin);
    thole_close(eve);
    thole_close(admin);
    cluster_free(c);
}

/* ---- Other doors ----------------------------------------------------------------------------- */

static enum thole_code propose(struct thole *t, const char *shard, struct thole_status *st)
{
    struct thole_shard *s = NULL;
    assert_int_equal(thole_shard_open(t, shard, &s, st), THOLE_OK);
    const struct thole_op op = {
        .kind = THOLE_PROPOSE, .shard = s, .payload = {"put x y", 7}, .timeout_ms = 5000};
    enum thole_code code = thole_call(t, &op, NULL, st);
    thole_shard_release(s);
    return code;
}

static void test_the_library_passes_the_same_door(void **state)
{
    (void)state;
    struct cluster *c = secure_cluster(1);
    struct thole *t = NULL;
    struct thole_status st = {0};
    char ca[300], path[300], token[100] = "";
    snprintf(ca, sizeof ca, "%s/ca.crt", pki);
    char id[16];
    snprintf(id, sizeof id, "%s", make_token(c, "carol", "1h", "carol.token"));
    snprintf(path, sizeof path, "%s/carol.token", pki);
    struct buf *b = NULL;
    assert_int_equal(file_read(path, 200, &b, &st), THOLE_OK);
    snprintf(token, sizeof token, "%.83s", (const char *)b->data);
    buf_unref(b);
    struct thole_tls tls = {.size = sizeof tls, .ca = ca};
    assert_int_equal(thole_connect_tls(c->hosts[0].address, &tls, &t, &st), THOLE_UNAVAILABLE);
    assert_non_null(strstr(st.message, "needs a user's certificate or a token"));
    tls.token = token;
    if (thole_connect_tls(c->hosts[0].address, &tls, &t, &st) != THOLE_OK) {
        fail_msg("%s", st.message);
    }
    if (propose(t, "orders", &st) != THOLE_OK) {
        fail_msg("%s", st.message);
    }
    assert_int_equal(propose(t, "other", &st), THOLE_PERMISSION_DENIED);
    const struct thole_shard_spec spec = {
        .size = sizeof spec, .name = "mine", .type = "kv", .voters = 1};
    assert_int_equal(thole_shard_create(t, &spec, 5000, &st), THOLE_PERMISSION_DENIED);
    cli_ok(c, 0, "token revoke %s", id);
    enum thole_code code = propose(t, "orders", &st);
    assert_true(code == THOLE_UNAUTHENTICATED || code == THOLE_UNAVAILABLE);
    thole_close(t);
    cluster_free(c);
}

static void test_a_client_of_another_language_has_a_token(void **state)
{
    (void)state;
    struct cluster *c = secure_cluster(1);
    char out[1024];
    (void)make_token(c, "victor", "1h", "victor.token");
    int status = run_client(out, sizeof out, "'%s' %s %s/ca.crt - - %s/victor.token", TLS_CLIENT,
                            c->hosts[0].address, pki, pki);
    if (status != CLIENT_SKIPPED && (status != 0 || strstr(out, "status ") == NULL)) {
        fail_msg("exit %d, \"%s\"", status, out);
    }
    /* In plain text it would be everybody's. */
    call_with("victor.token");
    unsetenv("THOLE_TLS_CA");
    assert_true(run_client(out, sizeof out, "'%s' --endpoints 192.0.2.1:7400 status", THOLE_PATH) >
                0);
    assert_non_null(strstr(out, "a token is sent over TLS only"));
    cluster_free(c);
}

/* Each door names the missing right in the same words. */
static void test_a_refusal_has_the_right_at_every_door(void **state)
{
    (void)state;
    struct cluster *c = secure_cluster(1);
    static const char *const lines[] = {
        "/thole.v1.Data/Propose PERMISSION_DENIED data WRITE of shards other\n",
        "/thole.v1.Data/Query PERMISSION_DENIED data READ of shards other\n",
        "/thole.v1.Data/OpenSession PERMISSION_DENIED data WRITE of shards other\n",
        "/thole.v1.Data/CloseSession PERMISSION_DENIED data WRITE of shards other\n",
        "/thole.v1.Data/Watch PERMISSION_DENIED data READ of shards other\n",
        "/thole.v1.Snapshots/SaveSnapshot PERMISSION_DENIED data ADMIN of shards\n",
        "/thole.v1.Shards/DeleteShard PERMISSION_DENIED DELETE of SHARDS\n",
        "/etcdserverpb.KV/Range PERMISSION_DENIED data READ of shards default\n",
    };
    char out[4096];
    int status =
        run_client(out, sizeof out, "'%s' %s %s/ca.crt %s/carol.crt %s/carol.key --rights other",
                   TLS_CLIENT, c->hosts[0].address, pki, pki, pki);
    for (size_t i = 0; status != CLIENT_SKIPPED && i < sizeof lines / sizeof lines[0]; i++) {
        if (status != 0 || strstr(out, lines[i]) == NULL) {
            fail_msg("exit %d, no \"%s\" in \"%s\"", status, lines[i], out);
        }
    }
    cluster_free(c);
}

/* ---- Rescue ---------------------------------------------------------------------------------- */

/* docs/security.md, "Rescue": the last certificate of an admin and the CA's key are lost. */
static void test_a_new_ca_of_users_rescues_one_who_lost_all(void **state)
{
    (void)state;
    struct cluster *c = secure_cluster(1);
    char option[400];
    char command[1200];
    host_stop(c, 0);
    snprintf(command, sizeof command,
             "cd %s && rm ca.key admin.* olga.* victor.* carol.* eve.* && mkdir users", pki);
    assert_int_equal(system(command), 0);
    cli_ok(c, 0, "cert ca prod --dir %s/users", pki);
    cli_ok(c, 0, "cert client admin --dir %s/users", pki);
    snprintf(command, sizeof command, "mv %s/users/admin.* %s", pki, pki);
    assert_int_equal(system(command), 0);
    snprintf(option, sizeof option, "--tls-client-ca=%s/users/ca.crt", pki);
    c->extra_args[0] = option;
    host_restart(c, 0);
    cluster_wait_ready(c, 0, 20000);
    call_as("admin");
    cli_ok(c, 0, "get roles");
    apply_yaml(c, 0, "kind: Role\nname: admin\nspec: {members: [anna]}\n");
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_roles_by_certificate),
        cmocka_unit_test(test_changes_end_open_streams),
        cmocka_unit_test(test_the_library_passes_the_same_door),
        cmocka_unit_test(test_a_client_of_another_language_has_a_token),
        cmocka_unit_test(test_a_refusal_has_the_right_at_every_door),
        cmocka_unit_test(test_a_watch_hides_what_was_deleted_from_those_who_may_not_read_it),
        cmocka_unit_test(test_a_new_ca_of_users_rescues_one_who_lost_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
