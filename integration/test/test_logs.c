/* What an operator reads in the daemons' logs when a leader dies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "integration/test/cluster.h"

#include <cmocka.h>

struct wanted {
    struct cluster *c;
    int host;
    const char *text;
};

static bool is_logged(void *ctx)
{
    struct wanted *w = ctx;
    return host_log_has(w->c, w->host, w->text);
}

static void expect_logged(struct cluster *c, int i, const char *text)
{
    eventually(20000, text, is_logged, &(struct wanted){c, i, text});
}

/* Every line is a JSON object that names the host. */
static void check_lines(struct cluster *c, int i)
{
    char host[32];
    char line[4096];
    int lines = 0;
    snprintf(host, sizeof host, ",\"host\":\"%s\"", c->hosts[i].name);
    FILE *f = fopen(c->hosts[i].log_path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f) != NULL) {
        if (line[0] != '{' && strstr(line, "Z ") == NULL) {
            continue; /* the banner, on standard output */
        }
        lines++;
        size_t size = strlen(line);
        bool is_object = line[0] == '{' && size > 2 && strcmp(line + size - 2, "}\n") == 0;
        if (!is_object || count_text(line, "\"host\":") != 1 || strstr(line, host) == NULL) {
            fail_msg("%s logged: %s", c->hosts[i].name, line);
        }
    }
    fclose(f);
    assert_true(lines > 5);
}

struct successor {
    struct cluster *c;
    int via, old, now;
};

static bool leads_elsewhere(void *ctx)
{
    struct successor *s = ctx;
    s->now = shard_leader(s->c, s->via, "orders");
    return s->now >= 0 && s->now != s->old;
}

static int new_leader(struct cluster *c, int via, int old)
{
    struct successor s = {c, via, old, -1};
    eventually(20000, "another host leads", leads_elsewhere, &s);
    return s.now;
}

static void test_leader_that_dies_is_told_by_name(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    c->extra_args[0] = "--log-format";
    c->extra_args[1] = "json";
    c->extra_args[2] = "--log-level";
    c->extra_args[3] = "info,raft=debug";
    cluster_start_peers(c, 3);
    apply_yaml(c, 0, "kind: Shard\nname: orders\nspec: {type: kv, voters: 3}\n");
    int leader = leader_of(c, 0, "orders");
    expect_logged(c, leader, "\"message\":\"became leader\",\"host\":");
    expect_logged(c, leader, "\"shard\":\"orders\"");
    host_kill(c, leader);
    int other = (leader + 1) % 3;
    int third = (leader + 2) % 3;
    expect_logged(c, other,
                  "\"level\":\"warn\",\"subject\":\"bus\",\"message\":\"peer disconnected");
    expect_logged(c, new_leader(c, other, leader), "\"shard\":\"orders\"");
    expect_logged(c, other, "\"level\":\"debug\",\"subject\":\"raft\"");
    char peer[64];
    snprintf(peer, sizeof peer, "\"peer\":\"%s\",\"peer_id\":\"", c->hosts[leader].name);
    expect_logged(c, other, peer);
    check_lines(c, other);
    check_lines(c, third);
    cluster_free(c);
}

/* Through a host for another one. */
static void test_levels_change_at_run_time(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    char out[4096];
    cluster_start_peers(c, 3);
    assert_string_equal(cli_ok(c, 0, "host log-level h2"), "info\n");
    assert_false(host_log_has(c, 1, " DEBUG "));
    assert_string_equal(cli_ok(c, 0, "host log-level h2 info,raft=debug,bus=debug"),
                        "info,raft=debug,bus=debug\n");
    apply_yaml(c, 0, "kind: Shard\nname: orders\nspec: {type: kv, voters: 3}\n");
    expect_logged(c, 1, " DEBUG raft ");
    expect_logged(c, 1, "log levels changed levels=info,raft=debug,bus=debug;");
    assert_false(host_log_has(c, 0, " DEBUG "));
    assert_string_equal(cli_ok(c, 2, "host log-level h2 -o name"), "info,raft=debug,bus=debug\n");
    assert_int_equal(cli(c, 0, out, sizeof out, "host log-level h2 loud"), 1);
    assert_non_null(strstr(out, "levels: must be a level"));
    assert_int_equal(cli(c, 0, out, sizeof out, "host log-level h9"), 3);
    host_kill(c, 1);
    assert_int_equal(cli(c, 0, out, sizeof out, "--command-timeout 1s host log-level h2"), 4);
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_leader_that_dies_is_told_by_name),
        cmocka_unit_test(test_levels_change_at_run_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
