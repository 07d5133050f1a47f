/* A flipped byte in a host's state database affects only the replicas whose bytes it hits, and
 * those are rebuilt. No acknowledged write is missing, and no caller gets DATA_LOSS. */
#include <glob.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "integration/test/cluster.h"
#include "integration/test/load.h"

#define HOSTS 3
#define WRITES 4000

struct scene {
    struct cluster *c;
    struct load *before; /* what orders, and its copies a and b, hold */
};

static const char *const shards[] = {"orders", "a", "b"};
#define SHARDS (sizeof shards / sizeof shards[0])

static bool log_has(void *ctx)
{
    const struct expect *e = ctx;
    return host_log_has(e->c, e->via, e->needle);
}

static void expect_log(struct cluster *c, int i, const char *needle)
{
    eventually(30000, needle, log_has, &(struct expect){.c = c, .via = i, .needle = needle});
}

/* The log of a shard that begins with a snapshot does not reach back to the first entry: data that
 * the state database loses cannot be replayed. */
static void begin(struct scene *s)
{
    char file[512];
    struct load_report r;
    s->c = cluster_new();
    cluster_start_peers(s->c, HOSTS);
    apply_yaml(s->c, 0, "kind: Shard\nname: orders\nspec: {type: kv, voters: 3}\n");
    s->before = load_start(cluster_endpoints(s->c, HOSTS), "orders", 64);
    load_wait_progress(s->before, WRITES, 60000);
    load_stop(s->before, &r);
    snprintf(file, sizeof file, "%s/orders.snap", s->c->dir);
    cli_ok(s->c, 0, "snapshot save orders %s", file);
    for (size_t i = 1; i < SHARDS; i++) {
        cli_ok(s->c, 0, "snapshot restore %s %s --wait --timeout 60s", file, shards[i]);
    }
    for (size_t i = 0; i < SHARDS; i++) {
        char command[64];
        snprintf(command, sizeof command, "get replicas --shard %s", shards[i]);
        expect_lines(s->c, 0, command, " voter ", 3);
        expect_lines(s->c, 0, command, " running ", 3);
    }
}

/* The largest file of the state database that matches the pattern. */
static void find_file(const struct cluster *c, int i, const char *pattern, char *ret, size_t size)
{
    char all[512];
    glob_t g;
    struct stat info;
    off_t most = -1;
    snprintf(all, sizeof all, "%s/state/%s", c->hosts[i].data_dir, pattern);
    assert_int_equal(glob(all, 0, NULL, &g), 0);
    for (size_t k = 0; k < g.gl_pathc; k++) {
        if (stat(g.gl_pathv[k], &info) == 0 && info.st_size > most) {
            most = info.st_size;
            snprintf(ret, size, "%s", g.gl_pathv[k]);
        }
    }
    globfree(&g);
    assert_true(most > 0);
}

/* Flips a byte at each of `n` places, evenly spread. */
static void flip(const struct cluster *c, int i, const char *pattern, long n)
{
    char path[512];
    find_file(c, i, pattern, path, sizeof path);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    long size = ftell(f);
    for (long k = 1; k <= n; k++) {
        long at = size * k / (n + 1);
        assert_int_equal(fseek(f, at, SEEK_SET), 0);
        int byte = fgetc(f);
        assert_int_equal(fseek(f, at, SEEK_SET), 0);
        assert_int_not_equal(fputc(byte ^ 4, f), EOF);
    }
    assert_int_equal(fclose(f), 0);
}

/* Every replica runs, and every host answers with what was written. */
static void expect_whole(struct scene *s)
{
    for (size_t i = 0; i < SHARDS; i++) {
        char command[64];
        snprintf(command, sizeof command, "get replicas --shard %s", shards[i]);
        expect_lines(s->c, 0, command, " running ", 3);
        expect_lines(s->c, 0, command, " failed ", 0);
        assert_int_equal(load_verify_in(s->before, cluster_endpoints(s->c, HOSTS), shards[i]), 0);
    }
}

/* Reads all data of the host, ignoring answers, until the host reports the damage. A replica that
 * is not open yet is not read: another host answers. */
static bool salvaged(void *ctx)
{
    const struct expect *e = ctx;
    char out[4096];
    for (size_t k = 0; k < SHARDS && !log_has(ctx); k++) {
        (void)cli(e->c, e->via, out, sizeof out,
                  "snapshot save %s %s/read.snap --command-timeout 5s", shards[k], e->c->dir);
    }
    return log_has(ctx);
}

static void expect_made_anew(struct cluster *c, int i)
{
    eventually(60000, "the state database is salvaged", salvaged,
               &(struct expect){.c = c, .via = i, .needle = "state database salvaged"});
}

static bool h2_leads_a(void *ctx)
{
    struct cluster *c = ctx;
    char out[4096];
    if (leader_of(c, 0, "a") == 1) {
        return true;
    }
    const char *row = strchr(cli_ok(c, 0, "get replicas --shard a --host h2"), '\n');
    assert_non_null(row);
    (void)cli(c, 0, out, sizeof out, "shard transfer-leader a --to %d", (int)strtol(row, NULL, 10));
    return false;
}

static void test_flipped_bytes_of_the_state_cost_the_replicas_they_hit(void **state)
{
    (void)state;
    struct scene s;
    struct load_report r;
    begin(&s);

    /* Damage a table of a stopped host; the others accept writes meanwhile. */
    struct load *load = load_start(cluster_endpoints(s.c, HOSTS), "b", 16);
    host_stop(s.c, 2);
    flip(s.c, 2, "*.sst", 1);
    host_restart(s.c, 2);
    pid_t pid = s.c->hosts[2].pid;
    cluster_wait_ready(s.c, 2, 20000);
    expect_made_anew(s.c, 2);
    cluster_wait_ready(s.c, 2, 20000);
    assert_int_equal(s.c->hosts[2].pid, pid); /* the host restarted within its process */
    expect_whole(&s);

    /* Damage tables of a host that runs and leads: its reads are served elsewhere. */
    host_stop(s.c, 1);
    host_restart(s.c, 1);
    cluster_wait_ready(s.c, 1, 20000);
    eventually(20000, "h2 leads a", h2_leads_a, s.c);
    flip(s.c, 1, "*.sst", 50);
    assert_int_equal(load_verify_in(s.before, cluster_endpoints(s.c, HOSTS), "a"), 0);
    expect_made_anew(s.c, 1);
    cluster_wait_ready(s.c, 1, 20000);
    expect_whole(&s);

    /* Damage the file that lists the tables. */
    host_stop(s.c, 0);
    flip(s.c, 0, "MANIFEST-*", 1);
    host_restart(s.c, 0);
    expect_log(s.c, 0, "state database salvaged");
    cluster_wait_ready(s.c, 0, 20000);
    expect_whole(&s);

    load_wait_progress(load, 100, 20000);
    load_stop(load, &r);
    assert_int_equal(load_verify(load, cluster_endpoints(s.c, HOSTS)), 0);
    load_free(load);
    load_free(s.before);
    cluster_free(s.c);
}

static void make_dir(struct cluster *c, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", c->hosts[0].data_dir, name);
    assert_int_equal(mkdir(path, 0700), 0);
}

static void old_databases(struct cluster *c, int from, int to, bool there)
{
    for (int i = from; i <= to; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/state.damaged-%d", c->hosts[0].data_dir, i);
        assert_int_equal(there ? mkdir(path, 0700) : rmdir(path), 0);
    }
}

/* A salvage that finds no room for the new database says nothing about the disk: as many of them as
 * are counted do not make it a broken one. What a deletion of an old database left goes, too. */
static void test_salvage_without_room_is_tried_again(void **state)
{
    (void)state;
    enum { KEPT_MAX = 1000, TRIES = 5 };
    struct cluster *c = cluster_new();
    cluster_start_dev(c);
    apply_yaml(c, 0, "kind: Shard\nname: orders\nspec: {type: kv, voters: 1}\n");
    cli_ok(c, 0, "propose orders 'put colour green'");
    host_stop(c, 0);
    make_dir(c, "state/DAMAGED");
    old_databases(c, 1, KEPT_MAX, true);
    for (int i = 0; i < TRIES; i++) {
        host_restart(c, 0);
        assert_int_not_equal(WEXITSTATUS(host_wait_exit(c, 0, 20000)), 0);
    }
    old_databases(c, 2, KEPT_MAX, false);
    host_restart(c, 0);
    cluster_wait_ready(c, 0, 20000);
    expect_log(c, 0, "state database salvaged");
    assert_non_null(strstr(cli_ok(c, 0, "query orders 'get colour'"), "green"));
    old_databases(c, 1, 1, true); /* it was deleted */
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flipped_bytes_of_the_state_cost_the_replicas_they_hit),
        cmocka_unit_test(test_salvage_without_room_is_tried_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
