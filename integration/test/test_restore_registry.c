/* All hosts are lost for good: a new cluster from a file of the registry, its shards from their own
 * files. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/core/datadir.h"
#include "integration/test/cluster.h"
#include "integration/test/control.h"

#define OLD 3 /* hosts 0 to 2 are lost, 3 to 5 are the new cluster's */
#define SPECS                                                       \
    "kind: Shard\nname: orders\nspec: {type: kv, voters: 3}\n---\n" \
    "kind: Shard\nname: cache\nspec: {type: kv, voters: 1}\n---\n"  \
    "kind: ShardPool\nname: p\nspec: {count: 2, shard: {type: kv, voters: 1}}\n"

static const char *path_of(const struct cluster *c, const char *name)
{
    static char path[4][512];
    static int next;
    char *at = path[next++ % 4];
    snprintf(at, sizeof path[0], "%s/%s", c->dir, name);
    return at;
}

static int entries_of(const char *path)
{
    DIR *dir = opendir(path);
    int count = dir == NULL ? -1 : 0;
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        count += e->d_name[0] != '.';
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return count;
}

static void expect_refused(struct cluster *c, const char *file, const char *dir, const char *why)
{
    char out[4096];
    int before = entries_of(dir);
    assert_int_not_equal(cli(c, 0, out, sizeof out, "snapshot restore-zero %s %s", file, dir), 0);
    if (strstr(out, why) == NULL) {
        fail_msg("%s", out);
    }
    assert_int_equal(entries_of(dir), before);
}

static void test_bad_files_and_directories_are_refused_and_leave_nothing(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    char zero[512], spoilt[512], dir[512], out[4096];
    snprintf(zero, sizeof zero, "%s", path_of(c, "zero.snap"));
    snprintf(spoilt, sizeof spoilt, "%s", path_of(c, "spoilt.snap"));
    snprintf(dir, sizeof dir, "%s", path_of(c, "new"));
    cluster_start_dev(c);
    apply_yaml(c, 0, "kind: Shard\nname: orders\nspec: {type: kv, voters: 1}\n");
    cli_ok(c, 0, "snapshot save zero %s", zero);
    cli_ok(c, 0, "snapshot save orders %s", path_of(c, "orders.snap"));
    static const long places[] = {0, 9, 40, 300, -3, -100};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        const char *why = places[i] == 0 ? "not a snapshot file" : "damaged";
        copy_spoilt(zero, spoilt, 400, true, places[i]);
        expect_refused(c, spoilt, dir, why);
        copy_spoilt(zero, spoilt, 400, false, places[i]);
        expect_refused(c, spoilt, dir, "damaged");
    }
    expect_refused(c, path_of(c, "none.snap"), dir, "none.snap");
    expect_refused(c, path_of(c, "orders.snap"), dir, "not of the registry");
    expect_refused(c, zero, c->hosts[0].data_dir, "is not empty");
    assert_int_equal(mkdir(dir, 0700), 0);
    copy_spoilt(zero, spoilt, 400, true, -100);
    expect_refused(c, spoilt, dir, "damaged");
    assert_int_not_equal(
        cli(c, 0, out, sizeof out, "snapshot restore-zero %s %s --name 'bad name'", zero, dir), 0);
    assert_non_null(strstr(out, "host.name"));
    assert_int_equal(entries_of(dir), 0);
    cli_ok(c, 0, "snapshot restore-zero %s %s", zero, dir);
    expect_refused(c, zero, dir, "is not empty");
    cluster_free(c);
}

/* ---- Killed at its first start --------------------------------------------------------------- */

static void test_first_start_killed_at_any_instant_is_done_again(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    cluster_start_dev(c);
    apply_yaml(c, 0, "kind: Shard\nname: orders\nspec: {type: kv, voters: 1}\n");
    cli_ok(c, 0, "snapshot save zero %s", path_of(c, "zero.snap"));
    host_kill(c, 0);
    for (int i = 1; i < HOSTS_MAX; i++) {
        const struct host *h = &c->hosts[i];
        cli_ok(c, i, "snapshot restore-zero %s %s --name %s", path_of(c, "zero.snap"), h->data_dir,
               h->name);
        const char *const args[] = {"--listen", h->address, NULL};
        host_start(c, i, args);
        /* This sleep sets the instant of the fault; it waits for nothing. */
        nanosleep(&(struct timespec){.tv_nsec = (i - 1) * 12 * 1000000L}, NULL);
        host_kill(c, i);
        host_start(c, i, args);
        cluster_wait_ready(c, i, 30000);
        /* Ready for what comes next: whose row has no types is refused new replicas. */
        expect_lines(c, i, "get hosts -o yaml --stale", "counter", 1);
        expect_lines(c, i, "get events", "RegistryRestored", 1);
        expect_lines(c, i, "describe shard orders", "false   AwaitsRestore", 1);
        host_stop(c, i);
    }
    cluster_free(c);
}

/* ---- Restored from what was restored --------------------------------------------------------- */

/* Starts a host founded on a file of the registry of host `from`. */
static void refound_on(struct cluster *c, int from, int to)
{
    const struct host *h = &c->hosts[to];
    char zero[64];
    snprintf(zero, sizeof zero, "zero%d.snap", from);
    cli_ok(c, from, "snapshot save zero %s", path_of(c, zero));
    host_stop(c, from);
    cli_ok(c, to, "snapshot restore-zero %s %s --name %s", path_of(c, zero), h->data_dir, h->name);
    host_start(c, to, (const char *[]){"--listen", h->address, NULL});
    cluster_wait_ready(c, to, 30000);
}

/* Restores `from` as a shard of that name and checks that it has the saved content. */
static void restore_as(struct cluster *c, int via, const char *file, const char *shard)
{
    cli_ok(c, via, "snapshot restore %s %s --wait --timeout 60s", path_of(c, file), shard);
    assert_int_equal(strncmp(cli_ok(c, via, "kv get %s colour", shard), "blue", 4), 0);
}

/* The files that are left when a restore is killed between writing the identity and the seed. */
static void leave_a_killed_try(const struct cluster *c, int i)
{
    char command[512];
    struct thole_status st;
    struct datadir d = {.lock_fd = -1};
    struct identity *identity = calloc(1, sizeof *identity);
    assert_int_equal(datadir_open(c->hosts[i].data_dir, NULL, &d, identity, &st), THOLE_OK);
    datadir_close(&d);
    free(identity);
    snprintf(command, sizeof command, "cd '%s' && mkdir restores && echo half >restores/half",
             c->hosts[i].data_dir);
    assert_int_equal(system(command), 0);
}

static void test_chains_of_restores_go_on_from_what_was_restored(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    char name[64];
    cluster_start_dev(c);
    apply_yaml(c, 0, "kind: Shard\nname: orders\nspec: {type: kv, voters: 1}\n");
    cli_ok(c, 0, "kv put orders colour blue");
    cli_ok(c, 0, "snapshot save orders %s", path_of(c, "orders.snap"));
    restore_as(c, 0, "orders.snap", "copy");
    cli_ok(c, 0, "snapshot save copy %s", path_of(c, "copy.snap"));
    restore_as(c, 0, "copy.snap", "copy2");
    for (int i = 1; i < 3; i++) {
        if (i == 2) {
            leave_a_killed_try(c, i);
        }
        refound_on(c, i - 1, i);
        restore_as(c, i, "orders.snap", "orders");
        restore_as(c, i, "copy.snap", "copy2");
        snprintf(name, sizeof name, "again%d.snap", i);
        cli_ok(c, i, "snapshot save copy2 %s", path_of(c, name));
        restore_as(c, i, name, "copy");
        cli_ok(c, i, "snapshot save copy %s", path_of(c, "copy.snap"));
    }
    cluster_free(c);
}

/* ---- All hosts lost -------------------------------------------------------------------------- */

static void lose_all(struct cluster *c)
{
    char command[512];
    for (int i = 0; i < OLD; i++) {
        host_kill(c, i);
        snprintf(command, sizeof command, "rm -rf '%s'", c->hosts[i].data_dir);
        assert_int_equal(system(command), 0);
    }
}

static void start_restored(struct cluster *c)
{
    const struct host *h = &c->hosts[OLD];
    cli_ok(c, OLD, "snapshot restore-zero %s %s --name %s", path_of(c, "zero.snap"), h->data_dir,
           h->name);
    host_start(c, OLD, (const char *[]){"--listen", h->address, "--tag", "zone=a", NULL});
    cluster_wait_ready(c, OLD, 30000);
}

static void check_first_host(struct cluster *c)
{
    char out[16384];
    expect_lines(c, OLD, "get hosts", "active", 1);
    expect_lines(c, OLD, "get replicas", "orders", 0);
    expect_lines(c, OLD, "describe shard orders", "false   AwaitsRestore", 1);
    expect_lines(c, OLD, "get events --object shards/zero", "RegistryRestored", 1);
    expect_lines(c, OLD, "get events", "HostLost", OLD);
    expect_lines(c, OLD, "describe host h4", "zone=a", 1);
    /* Events from before the loss can still be read. */
    assert_true(count_lines(cli_ok(c, OLD, "get events --object shards/orders"), "ShardCreated") ==
                1);
    assert_int_not_equal(cli(c, OLD, out, sizeof out, "kv get orders colour --command-timeout 1s"),
                         0);
}

static void test_all_hosts_lost_registry_and_shards_come_back_from_files(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    char out[4096];
    control_reset();
    cluster_start_peers(c, OLD);
    apply_yaml(c, 0, SPECS);
    cli_ok(c, 0, "kv put orders colour blue");
    cli_ok(c, 0, "kv put p-1 colour red");
    control_agree(c, 0);
    cli_ok(c, 0, "snapshot save orders %s", path_of(c, "orders.snap"));
    cli_ok(c, 0, "snapshot save p-1 %s", path_of(c, "p1.snap"));
    cli_ok(c, 0, "snapshot save zero %s", path_of(c, "zero.snap"));
    /* These ids are given out, and this name is used, after the file was made. */
    apply_yaml(c, 0, "kind: Shard\nname: later\nspec: {type: kv, voters: 3}\n");
    control_agree(c, 0);
    lose_all(c);

    start_restored(c);
    check_first_host(c);
    host_kill(c, OLD); /* it is a host like any other from its first start on */
    host_restart(c, OLD);
    cluster_wait_ready(c, OLD, 30000);
    cluster_join(c, OLD + 1, OLD);
    cluster_join(c, OLD + 2, OLD);
    expect_lines(c, OLD, "get replicas --shard zero", "running", 3);
    assert_int_equal(count_lines(cli_ok(c, OLD, "get replicas"), "orders"), 0);

    int via = OLD + 1;
    assert_int_equal(
        cli(c, via, out, sizeof out, "snapshot restore %s p-0", path_of(c, "zero.snap")), 1);
    cli_ok(c, via, "snapshot restore %s orders --wait --timeout 60s", path_of(c, "orders.snap"));
    cli_ok(c, OLD, "snapshot restore %s p-1 --wait --timeout 60s", path_of(c, "p1.snap"));
    assert_int_equal(strncmp(cli_ok(c, OLD, "kv get orders colour"), "blue", 4), 0);
    assert_int_equal(strncmp(cli_ok(c, OLD, "kv get p-1 colour"), "red", 3), 0);
    expect_lines(c, OLD, "get replicas --shard orders", "running", 3);
    assert_int_equal(
        cli(c, OLD, out, sizeof out, "snapshot restore %s orders", path_of(c, "orders.snap")), 1);
    /* The data of the other shards is given up: one shard disappears, one of a pool begins
     * empty. */
    cli_ok(c, OLD, "delete shard cache");
    cli_ok(c, OLD, "delete shard p-0");
    cli_ok(c, OLD, "kv put p-0 colour green");
    expect_lines(c, OLD, "get shards", "cache", 0);
    expect_lines(c, OLD, "describe pool p", "2 are ready", 1);
    cli_ok(c, OLD, "kv put orders colour white");
    control_agree(c,
                  OLD); /* no replica id has another shard or host than it had in the old cluster */

    for (int i = OLD; i < 2 * OLD; i++) {
        host_kill(c, i);
    }
    for (int i = OLD; i < 2 * OLD; i++) {
        host_restart(c, i);
    }
    for (int i = OLD; i < 2 * OLD; i++) {
        cluster_wait_ready(c, i, 60000);
    }
    assert_int_equal(strncmp(cli_ok(c, OLD, "kv get orders colour"), "white", 5), 0);
    assert_int_equal(strncmp(cli_ok(c, OLD, "kv get p-1 colour"), "red", 3), 0);
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_files_and_directories_are_refused_and_leave_nothing),
        cmocka_unit_test(test_first_start_killed_at_any_instant_is_done_again),
        cmocka_unit_test(test_chains_of_restores_go_on_from_what_was_restored),
        cmocka_unit_test(test_all_hosts_lost_registry_and_shards_come_back_from_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
