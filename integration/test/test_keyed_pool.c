/* A pool with keys on three hosts: a client of another language that computes slots itself, and
 * `thole`, while shards move. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "integration/test/cluster.h"

#define HOSTS 3
#define SHARDS 64 /* the default */
#define MOVES 8
#define CLIENT_SECONDS 12

static const char pool_yaml[] =
    "kind: ShardPool\nname: k\nspec: {keys: SLOTS, shard: {type: kv, voters: 1}}\n";

/* Move a shard from its only host to the next. */
static void move_shard(struct cluster *c, int i)
{
    char shard[16];
    snprintf(shard, sizeof shard, "k-%d", i);
    int at = leader_of(c, 0, shard);
    cli_ok(c, 0, "shard move %s --from %s --to %s --wait", shard, c->hosts[at].name,
           c->hosts[(at + 1) % HOSTS].name);
}

static void expect_output(struct cluster *c, int i, const char *command, const char *text)
{
    const char *out = cli_ok(c, i, "%s", command);
    if (strstr(out, text) == NULL) {
        fail_msg("%s printed: %s", command, out);
    }
}

/* Every command with a key, through every host; key "foo" has the slot 12182: k-47. */
static void check_commands(struct cluster *c)
{
    char out[4096];
    for (int i = 0; i < HOSTS; i++) {
        cli_ok(c, i, "kv put k foo value%d", i);
        cli_ok(c, (i + 1) % HOSTS, "propose k --key foo 'put {foo}b %d'", i);
        char value[16];
        snprintf(value, sizeof value, "value%d", i);
        expect_output(c, i, "kv get k foo", value);
        expect_output(c, i, "query k --key foo 'get foo'", value);
        expect_output(c, i, "kv get k-47 foo", value);
        expect_output(c, i, "kv get k-47 {foo}b --from-key", "{foo}b");
        assert_int_not_equal(cli(c, i, out, sizeof out, "query k 'get foo'"), 0);
        assert_non_null(strstr(out, "key: is needed"));
        assert_int_not_equal(cli(c, i, out, sizeof out, "kv get k"), 0);
        assert_non_null(strstr(out, "name one of its shards"));
    }
    cli_ok(c, 0, "kv del k foo");
    cli_ok(c, 0, "session open k --key foo");
    const char *described = cli_ok(c, 1, "describe pool k");
    assert_int_equal(count_lines(described, "k-"), SHARDS);
    assert_int_equal(count_lines(described, "12032"), 1); /* k-47 owns 12032 to 12287 */
    expect_output(c, 1, "describe pool k -o json", "\"slots\":{\"first\":0,\"last\":255}");
    expect_output(c, 1, "get shard k-47 -o json", "\"slots\":{\"first\":12032,\"last\":12287}");
}

static void test_keyed_pool_serves_any_client_while_shards_move(void **state)
{
    (void)state;
    char out[4096];
    struct cluster *c = cluster_of_peers(HOSTS, pool_yaml);
    FILE *client = client_begin("'%s' k %d %d %s %s %s", KEYED_CLIENT, SHARDS, CLIENT_SECONDS,
                                c->hosts[0].address, c->hosts[1].address, c->hosts[2].address);
    for (int i = 0; i < MOVES; i++) {
        move_shard(c, i * (SHARDS / MOVES));
    }
    int status = client_end(client, out, sizeof out);
    print_message("%s", out);
    if (status == CLIENT_SKIPPED) {
        print_message("python3-grpcio is not installed\n");
    } else {
        assert_int_equal(status, 0);
        char *in = strstr(out, "keys in ");
        assert_non_null(in);
        assert_true(atoi(in + strlen("keys in ")) > SHARDS / 2);
    }
    check_commands(c);

    /* The count is fixed, and the spec that was applied first applies again. */
    char yaml[256];
    snprintf(yaml, sizeof yaml, "%s/again.yaml", c->dir);
    FILE *f = fopen(yaml, "we");
    assert_non_null(f);
    fputs(pool_yaml, f);
    assert_int_equal(fclose(f), 0);
    expect_output(c, 2, "get pools", "64");
    cli_ok(c, 2, "apply -f %s", yaml);
    f = fopen(yaml, "we");
    assert_non_null(f);
    fputs("kind: ShardPool\nname: k\nspec: {count: 65, keys: SLOTS, shard: {voters: 1}}\n", f);
    assert_int_equal(fclose(f), 0);
    assert_int_not_equal(cli(c, 2, out, sizeof out, "apply -f %s", yaml), 0);
    assert_non_null(strstr(out, "cannot change from 64 to 65"));
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keyed_pool_serves_any_client_while_shards_move),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
