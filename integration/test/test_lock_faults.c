/* Locks of etcd's clients while leaders die, hosts restart and the shard moves: never two holders,
 * and everybody gets the lock in the end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "integration/test/cluster.h"

#define HOSTS 3

static void test_nobody_holds_a_lock_twice_while_leaders_die(void **state)
{
    static char out[65536];
    struct cluster *c = cluster_new();

    (void)state;
    cluster_start_peers(c, HOSTS);
    apply_yaml(c, 0, "kind: Shard\nname: default\nspec: {type: kv, voters: 3}\n");
    FILE *client = client_begin("'%s' '%s' 12 %s %s %s", LOCKING_CLIENT, DESCRIPTORS,
                                c->hosts[0].address, c->hosts[1].address, c->hosts[2].address);
    for (int round = 0; round < 3; round++) {
        int leader = leader_of(c, 0, "default");
        host_kill(c, leader);
        (void)leader_of(c, (leader + 1) % HOSTS, "default");
        host_restart(c, leader);
        cluster_wait_ready(c, leader, 20000);
        cli_ok(c, leader, "shard transfer-leader default");
    }
    int status = client_end(client, out, sizeof out);
    if (status == CLIENT_SKIPPED) {
        skip(); /* without grpcio */
    }
    if (status != 0) {
        fail_msg("the client failed: %s", out);
    }
    print_message("%s", out);
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nobody_holds_a_lock_twice_while_leaders_die),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
