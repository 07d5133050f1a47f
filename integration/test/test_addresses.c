/* Hosts restart at other addresses. Any address that reaches one host connects all of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "integration/test/cluster.h"

static void set_port(struct cluster *c, int i, unsigned port)
{
    struct host *h = &c->hosts[i];
    char *colon = strrchr(h->address, ':');
    snprintf(colon, sizeof h->address - (size_t)(colon - h->address), ":%u", port);
}

static void take_address(struct host *h, const struct host *of)
{
    memcpy(h->ip, of->ip, sizeof h->ip);
    memcpy(h->address, of->address, sizeof h->address);
}

static void start_at(struct cluster *c, int i, const char *flag, const char *seeds)
{
    host_start(c, i, (const char *[]){"--listen", c->hosts[i].address, flag, seeds, NULL});
}

/* The host knows the new address of every host, and the data is there. */
static void expect_whole(struct cluster *c, int n)
{
    for (int i = 0; i < n; i++) {
        cluster_wait_ready(c, i, 30000);
    }
    for (int i = 0; i < n; i++) {
        expect_lines(c, 0, "get hosts -o wide", c->hosts[i].address, 1);
    }
    expect_lines(c, 0, "get hosts", "live", n);
    assert_non_null(strstr(cli_ok(c, n - 1, "query orders 'get a'"), "1"));
}

static struct cluster *cluster_with_data(void)
{
    struct cluster *c =
        cluster_of_peers(3, "kind: Shard\nname: orders\nspec: {type: kv, voters: 3}\n");
    cli_ok(c, 0, "propose orders 'put a 1'");
    return c;
}

static void test_all_hosts_move_and_meet_by_seeds_or_what_is_left(void **state)
{
    (void)state;
    struct cluster *c = cluster_with_data();
    /* All ports are new. Each host is started with the same single address of another host. */
    for (int i = 0; i < 3; i++) {
        host_kill(c, i);
    }
    for (int i = 0; i < 3; i++) {
        set_port(c, i, 7501);
    }
    for (int i = 0; i < 3; i++) {
        start_at(c, i, "--join", c->hosts[0].address);
    }
    expect_whole(c, 3);
    /* All ports are new again. One host alone is started with the addresses of the others. */
    for (int i = 0; i < 3; i++) {
        host_kill(c, i);
    }
    for (int i = 0; i < 3; i++) {
        set_port(c, i, 7502);
    }
    char peers[128];
    snprintf(peers, sizeof peers, "%s,%s", c->hosts[0].address, c->hosts[2].address);
    start_at(c, 0, NULL, NULL);
    start_at(c, 1, "--peers", peers);
    start_at(c, 2, NULL, NULL);
    expect_whole(c, 3);
    /* A majority has new ports, and no host is started with any address. The third is where it
     * was. */
    for (int i = 0; i < 3; i++) {
        host_kill(c, i);
    }
    set_port(c, 0, 7503);
    set_port(c, 1, 7503);
    for (int i = 0; i < 3; i++) {
        start_at(c, i, NULL, NULL);
    }
    expect_whole(c, 3);
    /* Each host has the former address of another host. */
    const struct host first = c->hosts[0];
    for (int i = 0; i < 3; i++) {
        host_kill(c, i);
    }
    take_address(&c->hosts[0], &c->hosts[1]);
    take_address(&c->hosts[1], &c->hosts[2]);
    take_address(&c->hosts[2], &first);
    for (int i = 0; i < 3; i++) {
        start_at(c, i, NULL, NULL);
    }
    expect_whole(c, 3);
    cluster_free(c);
}

static void write_hosts(struct cluster *c, const char *path)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    for (int i = 0; i < 3; i++) {
        fprintf(f, "%s h%d.thole.test\n", c->hosts[i].ip, i + 1);
    }
    assert_int_equal(fclose(f), 0);
}

/* As on a container platform: host names stay, but resolve to other addresses. */
static void test_names_are_resolved_anew(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    char path[256], names[3][32];
    const char *peers = "h1.thole.test:7400,h2.thole.test:7400,h3.thole.test:7400";
    snprintf(path, sizeof path, "%s/hosts", c->dir);
    setenv("THOLE_TEST_HOSTS", path, 1);
    c->preload = HOSTS_FILE_SHIM;
    write_hosts(c, path);
    for (int i = 0; i < 3; i++) {
        snprintf(names[i], sizeof names[i], "h%d.thole.test:7400", i + 1);
        host_start(c, i,
                   (const char *[]){"--name", c->hosts[i].name, "--listen", c->hosts[i].address,
                                    "--advertise", names[i], "--peers", peers, NULL});
    }
    for (int i = 0; i < 3; i++) {
        cluster_wait_ready(c, i, 20000);
    }
    /* Restart one host at a time: the others must look its name up again. Then restart all at
     * once. */
    host_kill(c, 2);
    take_address(&c->hosts[2], &c->hosts[5]);
    write_hosts(c, path);
    start_at(c, 2, NULL, NULL);
    cluster_wait_ready(c, 2, 20000);
    for (int i = 0; i < 3; i++) {
        host_kill(c, i);
    }
    take_address(&c->hosts[0], &c->hosts[3]);
    take_address(&c->hosts[1], &c->hosts[4]);
    take_address(&c->hosts[2], &c->hosts[6]);
    write_hosts(c, path);
    for (int i = 0; i < 3; i++) {
        start_at(c, i, NULL, NULL);
    }
    for (int i = 0; i < 3; i++) {
        cluster_wait_ready(c, i, 20000);
    }
    expect_lines(c, 0, "get hosts", "live", 3);
    unsetenv("THOLE_TEST_HOSTS");
    cluster_free(c);
}

/* An address at which no host listens. The next start of either side corrects it. */
static void test_wrong_advertise_is_not_final(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    char wrong[2][32];
    for (int i = 0; i < 2; i++) {
        snprintf(wrong[i], sizeof wrong[i], "%s", c->hosts[i].address);
        snprintf(strrchr(wrong[i], ':'), 8, ":7999");
    }
    host_start(c, 0,
               (const char *[]){"--name", "h1", "--listen", c->hosts[0].address, "--advertise",
                                wrong[0], "--dev", NULL});
    cluster_wait_ready(c, 0, 20000);
    host_start(c, 1,
               (const char *[]){"--name", "h2", "--listen", c->hosts[1].address, "--advertise",
                                wrong[1], "--join", c->hosts[0].address, NULL});
    expect_lines(c, 0, "get hosts -o wide", wrong[1], 1);
    host_stop(c, 0);
    host_start(c, 0,
               (const char *[]){"--listen", c->hosts[0].address, "--advertise", c->hosts[0].address,
                                NULL});
    cluster_wait_ready(c, 0, 20000);
    host_kill(c, 1);
    host_start(c, 1,
               (const char *[]){"--listen", c->hosts[1].address, "--advertise", c->hosts[1].address,
                                "--join", c->hosts[0].address, NULL});
    cluster_wait_ready(c, 1, 20000);
    expect_lines(c, 1, "get hosts", "live", 2);
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_hosts_move_and_meet_by_seeds_or_what_is_left),
        cmocka_unit_test(test_names_are_resolved_anew),
        cmocka_unit_test(test_wrong_advertise_is_not_final),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
