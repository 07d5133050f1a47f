/* Watches of etcd's clients while leaders die, hosts restart and the shard moves; and clients that
 * do not read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "integration/test/cluster.h"

#define HOSTS 4
/* Streams that do not read, each of so much: without bounds that would be 10 GiB. */
#define UNREAD_MIB 100
#define MEMORY_MIB_MAX 400

static const char shard_yaml[] = "kind: Shard\nname: default\nspec: {type: kv, voters: 3}\n";

/* Starts the client, with the addresses of all hosts. */
static FILE *begin(struct cluster *c, const char *args)
{
    return client_begin("'%s' '%s' %s %s %s %s %s", WATCHING_CLIENT, DESCRIPTORS, args,
                        c->hosts[0].address, c->hosts[1].address, c->hosts[2].address,
                        c->hosts[3].address);
}

static void end(FILE *client)
{
    static char out[65536];
    int status = client_end(client, out, sizeof out);
    if (status == CLIENT_SKIPPED) {
        skip(); /* without grpcio */
    }
    if (status != 0) {
        fail_msg("the client failed: %s", out);
    }
    print_message("%s", out);
}

static struct cluster *cluster_with_shard(void)
{
    struct cluster *c = cluster_new();

    cluster_start_peers(c, HOSTS);
    apply_yaml(c, 0, shard_yaml);
    return c;
}

/* A host without a replica of the shard. */
static int host_without(struct cluster *c)
{
    const char *rows = cli_ok(c, 0, "get replicas --shard default");

    for (int i = 0; i < HOSTS; i++) {
        if (strstr(rows, c->hosts[i].name) == NULL) {
            return i;
        }
    }
    fail_msg("every host has a replica: %s", rows);
    return -1;
}

static void move_leader_away(struct cluster *c)
{
    int from = leader_of(c, 0, "default"), to = host_without(c);

    cli_ok(c, 0, "shard move default --from %s --to %s --wait", c->hosts[from].name,
           c->hosts[to].name);
}

static void test_watchers_get_every_change_once_while_hosts_die_and_the_shard_moves(void **state)
{
    struct cluster *c = cluster_with_shard();

    (void)state;
    FILE *client = begin(c, "faults 20");
    for (int round = 0; round < 3; round++) {
        int leader = leader_of(c, 0, "default");
        host_kill(c, leader);
        (void)leader_of(c, (leader + 1) % HOSTS, "default");
        host_restart(c, leader);
        cluster_wait_ready(c, leader, 20000);
        expect_lines(c, 0, "get replicas --shard default", "running", 3);
        move_leader_away(c);
    }
    end(client);
    cluster_free(c);
}

static void test_clients_that_do_not_read_are_slowed_in_bounded_memory(void **state)
{
    struct cluster *c = cluster_with_shard();
    char args[32];

    (void)state;
    snprintf(args, sizeof args, "slow %d", UNREAD_MIB);
    end(begin(c, args));
    for (int i = 0; i < HOSTS; i++) {
        long mib = host_peak_mib(c, i);
        print_message("%s: at most %ld MiB\n", c->hosts[i].name, mib);
        assert_true(mib < MEMORY_MIB_MAX);
    }
    cluster_free(c);
}

static void test_streams_that_need_a_leader_end_without_one(void **state)
{
    struct cluster *c = cluster_with_shard();
    char line[256] = "";
    int apart = host_without(c), stays = (apart + 1) % HOSTS;

    (void)state;
    FILE *client = client_begin("'%s' '%s' leaderless %s", WATCHING_CLIENT, DESCRIPTORS,
                                c->hosts[stays].address);
    if (fgets(line, sizeof line, client) != NULL && strcmp(line, "watching\n") == 0) {
        for (int i = 0; i < HOSTS; i++) {
            if (i != apart && i != stays) {
                host_kill(c, i);
            }
        }
    }
    end(client);
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_watchers_get_every_change_once_while_hosts_die_and_the_shard_moves),
        cmocka_unit_test(test_clients_that_do_not_read_are_slowed_in_bounded_memory),
        cmocka_unit_test(test_streams_that_need_a_leader_end_without_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
