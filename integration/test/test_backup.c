/* `thole backup` and `thole restore`: a whole cluster into a folder, and from there into a new
 * cluster. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "integration/test/cluster.h"

#define SPECS                                                           \
    "kind: Shard\nname: orders\nspec: {type: kv, voters: 1}\n---\n"     \
    "kind: Shard\nname: cache\nspec: {type: counter, voters: 1}\n---\n" \
    "kind: ShardPool\nname: p\nspec: {count: 3, shard: {type: kv, voters: 1}}\n"

static const char *folder(const struct cluster *c)
{
    static char path[300];
    snprintf(path, sizeof path, "%s/backup", c->dir);
    return path;
}

static void expect_text(const char *out, const char *text)
{
    if (strstr(out, text) == NULL) {
        fail_msg("no \"%s\" in: %s", text, out);
    }
}

/* `thole ARGS`, which fails with this code and says so. */
static void expect_failure(struct cluster *c, int via, int code, const char *text,
                           const char *command)
{
    char out[8192];
    int got = cli(c, via, out, sizeof out, "%s", command);
    if (got != code || strstr(out, text) == NULL) {
        fail_msg("%s: %d instead of %d and \"%s\": %s", command, got, code, text, out);
    }
}

static void expect_backups(struct cluster *c, int count)
{
    char out[8192];
    assert_int_equal(cli(c, 0, out, sizeof out, "backup verify %s", folder(c)), 0);
    assert_int_equal(count_lines(out, "all right"), count);
}

static void test_backup_reads_only_what_changed_and_keeps_the_newest(void **state)
{
    (void)state;
    struct cluster *c = cluster_of_peers(1, SPECS);
    char command[600], spoilt[600], file[600];
    cli_ok(c, 0, "kv put orders colour blue");
    expect_text(cli_ok(c, 0, "backup %s", folder(c)), "5 shards: 5 saved");
    expect_text(cli_ok(c, 0, "backup %s", folder(c)), "0 saved (0B), 5 unchanged");
    cli_ok(c, 0, "kv put p-1 colour red");
    expect_text(cli_ok(c, 0, "backup %s --parallel 1", folder(c)), "1 saved");
    cli_ok(c, 0, "propose cache add 5");
    expect_text(cli_ok(c, 0, "backup %s --keep 2", folder(c)), "2 old backups removed");
    expect_backups(c, 2);
    assert_int_equal(count_lines(cli_ok(c, 0, "backup list %s", folder(c)), "complete"), 2);
    /* What only removed backups had is gone: 5 shards, one of them twice, and two registries. */
    shell("test $(ls %s/shards | wc -l) = 8 || { ls %s/shards; false; }", folder(c), folder(c));

    /* A damaged file is named, and saved again once it is gone. */
    snprintf(file, sizeof file, "%s/shards/3-4.snap", folder(c));
    snprintf(spoilt, sizeof spoilt, "%s/spoilt", c->dir);
    copy_spoilt(file, spoilt, 100, true, -20);
    shell("mv %s %s", spoilt, file);
    snprintf(command, sizeof command, "backup verify %s", folder(c));
    expect_failure(c, 0, 1, "3-4.snap", command);
    shell("rm %s", file);
    expect_failure(c, 0, 1, "3-4.snap", command);
    expect_text(cli_ok(c, 0, "backup list %s", folder(c)), "files missing");
    expect_text(cli_ok(c, 0, "backup %s --keep 1", folder(c)), "1 saved");
    expect_backups(c, 1);
    cluster_free(c);
}

static void test_backup_killed_at_any_instant_leaves_earlier_ones_valid(void **state)
{
    (void)state;
    struct cluster *c = cluster_of_peers(1, SPECS);
    cli_ok(c, 0, "backup %s", folder(c));
    for (int i = 1; i <= 12; i++) {
        cli_ok(c, 0, "kv put orders colour blue%d", i);
        shell("timeout -s KILL 0.0%02d %s --endpoints %s backup %s >/dev/null 2>&1; true", 4 * i,
              THOLE_PATH, c->hosts[0].address, folder(c));
        cli_ok(c, 0, "backup verify %s", folder(c));
    }
    /* A disk that is full (SIGXFSZ ignored): no backup, and what there was stays. */
    const char *before = cli_ok(c, 0, "backup list %s", folder(c));
    int count = count_lines(before, "complete");
    assert_true(count >= 1);
    shell("trap '' XFSZ; ulimit -f 1; ! %s --endpoints %s backup %s 2>%s/said", THOLE_PATH,
          c->hosts[0].address, folder(c), c->dir);
    shell("grep -q 'File too large' %s/said || { cat %s/said; false; }", c->dir, c->dir);
    expect_backups(c, count);
    cli_ok(c, 0, "backup %s", folder(c));
    expect_backups(c, count + 1);
    shell("! ls %s/shards | grep part", folder(c));
    cluster_free(c);
}

static void test_backup_refuses_a_second_one_and_another_cluster(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    struct thole_status st;
    char command[600], lock[600];
    int fd = -1;
    cluster_start_dev(c);
    cli_ok(c, 0, "backup %s", folder(c));
    snprintf(lock, sizeof lock, "%s/LOCK", folder(c));
    snprintf(command, sizeof command, "backup %s", folder(c));
    assert_int_equal(file_lock(lock, &fd, &st), THOLE_OK);
    expect_failure(c, 0, 1, "another backup into", command);
    close(fd);
    /* A host with another data directory is another cluster. */
    host_stop(c, 0);
    shell("rm -rf %s", c->hosts[0].data_dir);
    cluster_start_dev(c);
    expect_failure(c, 0, 1, "backups of another cluster", command);
    expect_backups(c, 1);
    shell("test $(ls %s/shards | wc -l) = 2", folder(c));
    cluster_free(c);
}

/* ---- Restore --------------------------------------------------------------------------------- */

#define SPECS3                                                                           \
    "kind: Shard\nname: orders\nspec: {type: kv, voters: 3}\n---\n"                      \
    "kind: Shard\nname: cache\nspec: {type: counter, voters: 1}\n---\n"                  \
    "kind: Role\nname: clerk\nspec: {data: [{rights: [READ], shards: [orders]}]}\n---\n" \
    "kind: ShardPool\nname: p\nspec: {count: 4, shard: {type: kv, voters: 3}}\n"

static void fill(struct cluster *c, const char *colour)
{
    cli_ok(c, 0, "kv put orders colour %s", colour);
    cli_ok(c, 0, "kv put p-2 colour %s", colour);
    cli_ok(c, 0, "propose cache add 5");
}

/* All data of the second backup. A revision goes on from it. */
static void expect_all(struct cluster *c, const char *revision)
{
    char next[64];
    expect_text(cli_ok(c, 1, "kv get orders colour"), "red");
    expect_text(cli_ok(c, 2, "kv get p-2 colour"), "red");
    expect_text(cli_ok(c, 0, "query cache get"), "10");
    expect_text(cli_ok(c, 0, "get roles"), "clerk");
    assert_int_equal(count_lines(cli_ok(c, 0, "get shards"), "p-"), 4);
    snprintf(next, sizeof next, "revision=%s", revision);
    expect_text(cli_ok(c, 0, "propose orders put size 1"), next);
    cli_ok(c, 0, "kv put p-0 size 1");
}

static void restore_killed(struct cluster *c, const char *from, int ms)
{
    shell("timeout -s KILL 0.%03d %s --endpoints %s restore %s >/dev/null 2>&1; true", ms,
          THOLE_PATH, c->hosts[0].address, from);
}

static void test_restore_brings_all_data_into_a_new_cluster(void **state)
{
    (void)state;
    struct cluster *c = cluster_of_peers(3, SPECS3);
    char from[300], command[600], spoilt[600], file[600];
    snprintf(from, sizeof from, "%s", folder(c));
    snprintf(command, sizeof command, "restore %s", from);
    fill(c, "blue");
    cli_ok(c, 0, "backup %s", from);
    fill(c, "red");
    /* How many are saved is not certain: balance may move a leader, which adds an entry. */
    expect_text(cli_ok(c, 1, "backup %s", from), "backup 2 of the registry and 6 shards");
    expect_failure(c, 0, 1, "is not empty", command);
    for (int i = 0; i < 3; i++) {
        host_kill(c, i);
        shell("rm -rf %s", c->hosts[i].data_dir);
    }
    cluster_start_peers(c, 3);

    /* A damaged file is named, and nothing is changed. */
    snprintf(file, sizeof file, "%s/shards/2-0.snap", from);
    snprintf(spoilt, sizeof spoilt, "%s/spoilt", c->dir);
    copy_spoilt(file, spoilt, 100, true, -20);
    shell("mv %s %s.kept; mv %s %s", file, file, spoilt, file);
    expect_failure(c, 0, 1, "2-0.snap", command);
    shell("mv %s.kept %s", file, file);
    assert_int_equal(count_lines(cli_ok(c, 0, "get shards"), "p-"), 0);

    for (int i = 1; i <= 6; i++) {
        restore_killed(c, from, 40 * i);
    }
    expect_text(cli_ok(c, 0, "%s", command), "6 of 6 shards serve");
    expect_text(cli_ok(c, 0, "%s", command), "6 were there");
    expect_all(c, "4");
    cli_ok(c, 0, "wait shard/orders pool/p");
    cluster_free(c);
}

static void test_shard_without_a_leader_leaves_a_partial_backup(void **state)
{
    (void)state;
    struct cluster *c =
        cluster_of_peers(3, "kind: Shard\nname: orders\nspec: {type: kv, voters: 3}\n"
                            "---\nkind: Shard\nname: alone\nspec: {type: kv, "
                            "voters: 1}\n");
    char command[600];
    int lost = leader_of(c, 0, "alone"), via = (lost + 1) % 3;
    cli_ok(c, via, "backup %s", folder(c));
    host_kill(c, lost);
    cli_ok(c, via, "kv put orders colour blue");
    snprintf(command, sizeof command, "backup %s --keep 1", folder(c));
    expect_failure(c, via, 6, "shards/alone was not saved", command);
    expect_text(cli_ok(c, via, "backup list %s", folder(c)), "partial: 1 older, 0 missing");
    expect_backups(c, 2); /* the complete one stays */
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_backup_reads_only_what_changed_and_keeps_the_newest),
        cmocka_unit_test(test_backup_killed_at_any_instant_leaves_earlier_ones_valid),
        cmocka_unit_test(test_backup_refuses_a_second_one_and_another_cluster),
        cmocka_unit_test(test_restore_brings_all_data_into_a_new_cluster),
        cmocka_unit_test(test_shard_without_a_leader_leaves_a_partial_backup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
