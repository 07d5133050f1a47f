/* Only replicas that answer get a vote, and a vote is removed only after its replacement has one:
 * hosts are paused or killed while a shard grows, moves, or gets a replica. Shard zero keeps its
 * votes while hosts are drained. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "integration/test/cluster.h"

static void set_voters(struct cluster *c, int via, const char *shard, int voters)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s.yaml", c->dir, shard);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f, "kind: Shard\nname: %s\nspec: {type: kv, voters: %d}\n", shard, voters);
    assert_int_equal(fclose(f), 0);
    cli_ok(c, via, "apply -f %s", path);
}

/* The shard accepts writes for longer than a change of members or an election takes. */
static void assert_serves(struct cluster *c, int via, const char *shard)
{
    uint64_t until = now_ms() + 4 * ELECTION_TIMEOUT_MS;
    for (int i = 0; now_ms() < until; i++) {
        cli_ok(c, via, "propose %s 'put k %d'", shard, i);
    }
}

/* A cluster of n hosts with a shard "one" of one voter, which has applied a write. Returns the
 * leader's host and the other hosts too. */
static struct cluster *one_voter(int n, int *ret_leader, int *ret_others)
{
    struct cluster *c =
        cluster_of_peers(n, "kind: Shard\nname: one\nspec: {type: kv, voters: 1}\n");
    cli_ok(c, 0, "propose one 'put a 1'");
    *ret_leader = leader_of(c, 0, "one");
    for (int i = 0, k = 0; i < n; i++) {
        if (i != *ret_leader) {
            ret_others[k++] = i;
        }
    }
    return c;
}

static void test_votes_are_for_replicas_that_answer(void **state)
{
    (void)state;
    int o[4];
    int via;
    struct cluster *c = one_voter(5, &via, o);
    /* Only o[0] and o[1] may have new replicas, and they do not answer. */
    cli_ok(c, via, "host cordon %s", c->hosts[o[2]].name);
    cli_ok(c, via, "host cordon %s", c->hosts[o[3]].name);
    host_pause(c, o[0], true);
    host_pause(c, o[1], true);
    set_voters(c, via, "one", 3);
    expect_lines(c, via, "get replicas --shard one -o name", "replicas/", 3);
    assert_serves(c, via, "one");
    set_voters(c, via, "one", 1);
    expect_lines(c, via, "get replicas --shard one -o wide", "running", 1);
    assert_serves(c, via, "one");
    /* A user creates a replica on a host that does not answer. */
    const char *made =
        strstr(cli_ok(c, via, "replica create one %s", c->hosts[o[0]].name), "replicas/");
    assert_non_null(made);
    int id = atoi(made + strlen("replicas/"));
    assert_serves(c, via, "one");
    cli_ok(c, via, "replica delete %d", id);
    assert_serves(c, via, "one");
    host_pause(c, o[0], false);
    host_pause(c, o[1], false);
    expect_lines(c, via, "get hosts", "live", 5);
    expect_lines(c, via, "get replicas --shard one -o name", "replicas/", 1);
    /* Now both hosts answer, and the shard no longer needs its first voter. */
    set_voters(c, via, "one", 3);
    expect_lines(c, o[2], "get replicas --shard one -o wide", "running", 3);
    host_kill(c, via);
    cli_ok(c, o[2], "--command-timeout 20s propose one 'put a 2'");
    cluster_free(c);
}

static void test_move_to_a_host_that_stops_is_taken_back(void **state)
{
    (void)state;
    int o[3];
    int via;
    struct cluster *c = one_voter(4, &via, o);
    host_pause(c, o[0], true);
    const char *text =
        cli_ok(c, via, "shard move one --from %s --to %s", c->hosts[via].name, c->hosts[o[0]].name);
    const char *at = strstr(text, "operations/");
    assert_non_null(at);
    int operation = atoi(at + strlen("operations/"));
    expect_lines(c, via, "get replicas --shard one -o name", "replicas/", 2);
    assert_serves(c, via, "one");
    cli_ok(c, via, "operation cancel %d", operation);
    assert_serves(c, via, "one");
    host_pause(c, o[0], false);
    expect_lines(c, via, "get replicas --shard one -o name", "replicas/", 1);
    assert_int_equal(leader_of(c, o[1], "one"), via);
    expect_lines(c, via, "get hosts", "live", 4);
    /* A move that nothing disturbs: from one voter to another in one change. */
    cli_ok(c, via, "shard move one --from %s --to %s --wait --timeout 60s", c->hosts[via].name,
           c->hosts[o[0]].name);
    assert_serves(c, o[1], "one");
    assert_int_equal(leader_of(c, o[1], "one"), o[0]);
    cluster_free(c);
}

static void test_drained_hosts_keep_their_votes_of_shard_zero(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    cluster_start_peers(c, 3);
    cli_ok(c, 0, "host drain h2 --wait --timeout 60s");
    cli_ok(c, 0, "host drain h3 --wait --timeout 60s");
    expect_lines(c, 0, "members", "voter", 3);
    expect_lines(c, 0, "status", "zero      3 voters, 3 live: 1 more may fail", 1);
    /* Two of three votes are on drained hosts, and any one host may fail. */
    host_kill(c, 0);
    expect_lines(c, 1, "members", "voter", 3);
    cluster_wait_ready(c, 1, 20000);
    expect_lines(c, 1, "status", "zero      3 voters, 2 live: 0 more may fail", 1);
    host_restart(c, 0);
    cluster_wait_ready(c, 0, 20000);
    /* A replacement has a vote before a drained host loses its own. */
    cluster_join(c, 3, 0);
    expect_lines(c, 0, "members", "non-voting", 1);
    expect_lines(c, 0, "get replicas --shard zero -o wide", "running", 4);
    char out[16384];
    assert_int_equal(cli(c, 0, out, sizeof out, "members"), 0);
    const char *line = strstr(out, " h4 ");
    assert_non_null(line);
    assert_null(memmem(line, strcspn(line, "\n"), "non-voting", strlen("non-voting")));
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_votes_are_for_replicas_that_answer),
        cmocka_unit_test(test_move_to_a_host_that_stops_is_taken_back),
        cmocka_unit_test(test_drained_hosts_keep_their_votes_of_shard_zero),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
