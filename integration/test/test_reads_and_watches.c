/* Watches and stale reads at hosts without data: a witness, a host beside a frozen one, a host
 * behind a partition, a host that stops. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "integration/test/cluster.h"

static struct cluster *cluster;

static int setup(void **state)
{
    (void)state;
    cluster = cluster_new();
    cluster_start_peers(cluster, 3);
    apply_yaml(cluster, 0,
               "kind: Shard\nname: orders\nspec: {type: kv, voters: 2, witnesses: 1}\n---\n"
               "kind: Shard\nname: alone\nspec: {type: kv, voters: 1}\n");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    cluster_free(cluster);
    return 0;
}

/* `thole ...` in the background; its output goes to a file. */
struct background {
    pid_t pid;
    int status; /* once it has ended */
    char path[256];
};

static struct background begin_at(const char *endpoints, const char *name, const char *command)
{
    struct background b = {0};
    char line[1024];
    snprintf(b.path, sizeof b.path, "%s/%s", cluster->dir, name);
    snprintf(line, sizeof line, "exec %s --endpoints %s %s >%s 2>&1", THOLE_PATH, endpoints,
             command, b.path);
    b.pid = fork();
    if (b.pid == 0) {
        execl("/bin/sh", "sh", "-c", line, (char *)NULL);
        _exit(127);
    }
    assert_true(b.pid > 0);
    return b;
}

static struct background begin(int via, const char *name, const char *command)
{
    return begin_at(cluster->hosts[via].address, name, command);
}

struct saying {
    const struct background *b;
    const char *text;
};

static bool says(void *ctx)
{
    const struct saying *s = ctx;
    static char out[16384];
    FILE *f = fopen(s->b->path, "re");
    size_t n = f != NULL ? fread(out, 1, sizeof out - 1, f) : 0;
    if (f != NULL) {
        fclose(f);
    }
    out[n] = 0;
    return strstr(out, s->text) != NULL;
}

static void wait_until_it_says(const struct background *b, const char *text)
{
    struct saying s = {b, text};
    eventually(15000, text, says, &s);
}

static bool has_ended(void *ctx)
{
    struct background *b = ctx;
    return waitpid(b->pid, &b->status, WNOHANG) == b->pid;
}

static int end_of(struct background *b)
{
    eventually(30000, b->path, has_ended, b);
    return WIFEXITED(b->status) ? WEXITSTATUS(b->status) : -1;
}

static int host_of(const char *shard, const char *role)
{
    char line[64], host[16] = "";
    const char *rows = cli_ok(cluster, 0, "get replicas --shard %s", shard);
    for (const char *at = rows; at != NULL && *at;
         at = strchr(at, '\n') != NULL ? strchr(at, '\n') + 1 : NULL) {
        size_t n = strcspn(at, "\n");
        char *copy = strndup(at, n);
        bool match = strstr(copy, role) != NULL;
        for (int i = 0; match && i < 3; i++) {
            snprintf(line, sizeof line, " %s ", cluster->hosts[i].name);
            if (strstr(copy, line) != NULL) {
                snprintf(host, sizeof host, "%s", cluster->hosts[i].name);
            }
        }
        free(copy);
    }
    for (int i = 0; i < 3; i++) {
        if (strcmp(cluster->hosts[i].name, host) == 0) {
            return i;
        }
    }
    fail_msg("no %s of %s in: %s", role, shard, rows);
    return -1;
}

static void test_watch_and_queries_at_a_witness_are_of_a_replica_with_data(void **state)
{
    (void)state;
    int witness = host_of("orders", "witness");
    struct background w = begin(witness, "watch", "watch orders --count 1");
    wait_until_it_says(&w, "watching from index");
    cli_ok(cluster, witness, "kv put orders colour blue");
    assert_int_equal(end_of(&w), 0);
    wait_until_it_says(&w, "blue");
    assert_non_null(strstr(cli_ok(cluster, witness, "kv get orders colour"), "blue"));
    assert_non_null(strstr(cli_ok(cluster, witness, "kv get orders colour --stale"), "blue"));
}

static void test_stream_of_an_answer_and_top_without_a_terminal_are_plain_text(void **state)
{
    (void)state;
    cli_ok(cluster, 0, "kv put orders colour red");
    for (int i = 0; i < 3; i++) {
        assert_string_equal(cli_ok(cluster, i, "query orders 'get colour' --stream"), "red");
    }
    expect_lines(cluster, 0, "get hosts", " live ", 3);
    const char *top = cli_ok(cluster, 0, "top");
    assert_non_null(strstr(top, "hosts 3/3 live  shards 3/3 ready"));
    assert_int_equal(count_lines(top, "orders "), 1);
    assert_int_equal(count_lines(top, "alone "), 1);
    assert_null(strchr(top, '\x1b'));
}

/* A watch is a read, so it goes on at another host when its own is killed. */
static void test_watch_of_keys_goes_on_at_another_host(void **state)
{
    (void)state;
    int first = host_of("orders", "witness"), next = (first + 1) % 3;
    char endpoints[128];
    snprintf(endpoints, sizeof endpoints, "%s,%s", cluster->hosts[first].address,
             cluster->hosts[next].address);
    struct background w = begin_at(endpoints, "keys", "kv watch orders --count 1");
    wait_until_it_says(&w, "watching from revision");
    host_kill(cluster, first);
    cli_ok(cluster, next, "kv put orders colour green");
    assert_int_equal(end_of(&w), 0);
    wait_until_it_says(&w, "green");
    host_restart(cluster, first);
    cluster_wait_ready(cluster, first, 20000);
}

/* The host with the only replica is paused. Watches and calls through another host fail with a
 * clear message. */
static void test_watch_of_a_frozen_host_ends_as_a_watch(void **state)
{
    (void)state;
    int has = host_of("alone", "voter"), via = (has + 1) % 3;
    char out[4096];
    struct background w = begin(via, "frozen", "watch alone");
    wait_until_it_says(&w, "watching from index");
    host_pause(cluster, has, true);
    assert_int_equal(end_of(&w), 4);
    assert_int_equal(cli(cluster, via, out, sizeof out, "--command-timeout 3s kv get alone x"), 4);
    host_pause(cluster, has, false);
    wait_until_it_says(&w, "watch again");
    assert_false(says(&(struct saying){&w, "applied"}));
    assert_null(strstr(out, "--endpoints")); /* this endpoint is not to blame */
    cluster_wait_ready(cluster, has, 20000);
    cli_ok(cluster, via, "wait --for ready shard/alone --timeout 20s");
}

/* The other hosts are paused: a stale read without a bound works, one with a bound is refused at
 * once. */
static void test_read_that_is_too_stale_is_refused_at_once(void **state)
{
    (void)state;
    int witness = host_of("orders", "witness");
    int via = -1, other = -1;
    for (int i = 0; i < 3; i++) {
        if (i == witness) {
            continue;
        }
        other = via < 0 ? other : i;
        via = via < 0 ? i : via;
    }
    char out[4096];
    host_pause(cluster, witness, true);
    host_pause(cluster, other, true);
    uint64_t begin_ms = now_ms();
    int code = 0;
    do { /* a leader needs a moment to see that it is alone */
        code = cli(cluster, via, out, sizeof out,
                   "--command-timeout 8s query orders 'get colour' --stale --max-staleness 1s");
    } while (code == 0 && now_ms() - begin_ms < 10000);
    begin_ms = now_ms();
    code = cli(cluster, via, out, sizeof out,
               "--command-timeout 8s query orders 'get colour' --stale --max-staleness 1s");
    uint64_t took_ms = now_ms() - begin_ms;
    int unbounded =
        cli(cluster, via, out + 2048, sizeof out - 2048, "kv get orders colour --stale");
    host_pause(cluster, witness, false);
    host_pause(cluster, other, false);
    assert_int_equal(code, 4);
    assert_non_null(strstr(out, "TOO_STALE"));
    assert_true(took_ms < 4000);
    assert_int_equal(unbounded, 0);
    for (int i = 0; i < 3; i++) {
        cluster_wait_ready(cluster, i, 20000);
    }
}

/* A host that stops answers the calls that it forwarded to a host which does not answer. */
static void test_stopping_host_says_what_became_of_forwarded_calls(void **state)
{
    (void)state;
    int has = host_of("alone", "voter"), via = (has + 1) % 3;
    cli_ok(cluster, via, "kv put alone a 1");
    host_pause(cluster, has, true);
    struct background p = begin(via, "put", "--command-timeout 25s kv put alone a 2");
    struct background w = begin(via, "status", "get events --watch");
    wait_until_it_says(&w, "ShardReady");
    host_stop(cluster, via);
    int code = end_of(&p);
    host_pause(cluster, has, false);
    kill(w.pid, SIGKILL);
    (void)end_of(&w);
    assert_true(code == 4 || code == 5);
    assert_false(says(&(struct saying){&p, "CANCELLED"}));
    assert_false(says(&(struct saying){&p, "ancelled"}));
    host_restart(cluster, via);
    cluster_wait_ready(cluster, via, 20000);
}

/* Two of three hosts freeze, so no row can change. A watch shows what the host that is asked
 * observes, and how many replicas each host has. */
static void test_watch_of_hosts_shows_what_holds_now(void **state)
{
    (void)state;
    expect_lines(cluster, 0, "get hosts", " live ", 3); /* a host was restarted before */
    struct background w = begin(0, "hosts", "get hosts --watch");
    wait_until_it_says(&w, "h3");
    wait_until_it_says(&w, " live ");
    assert_false(says(&(struct saying){&w, " suspect "}));
    assert_false(says(&(struct saying){&w, "-/-"}));
    host_pause(cluster, 1, true);
    host_pause(cluster, 2, true);
    wait_until_it_says(&w, " suspect ");
    host_pause(cluster, 1, false);
    host_pause(cluster, 2, false);
    kill(w.pid, SIGKILL);
    (void)end_of(&w);
    for (int i = 0; i < 3; i++) {
        cluster_wait_ready(cluster, i, 20000);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_watch_and_queries_at_a_witness_are_of_a_replica_with_data),
        cmocka_unit_test(test_stream_of_an_answer_and_top_without_a_terminal_are_plain_text),
        cmocka_unit_test(test_watch_of_keys_goes_on_at_another_host),
        cmocka_unit_test(test_watch_of_a_frozen_host_ends_as_a_watch),
        cmocka_unit_test(test_read_that_is_too_stale_is_refused_at_once),
        cmocka_unit_test(test_stopping_host_says_what_became_of_forwarded_calls),
        cmocka_unit_test(test_watch_of_hosts_shows_what_holds_now),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
