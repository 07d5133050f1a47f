/* Snapshots in files: saved under load through a host without a replica, checked, and restored as
 * new shards while hosts are killed. */
#include <dirent.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "integration/test/cluster.h"
#include "integration/test/load.h"

#define SHARD "kind: Shard\nname: orders\nspec: {type: kv, voters: 3}\n"
#define HOSTS 4

static struct cluster *four_hosts(void)
{
    struct cluster *c = cluster_new();
    cluster_start_peers(c, 3);
    cluster_join(c, 3, 0);
    apply_yaml(c, 0, SHARD);
    return c;
}

/* The host without a replica of the shard. */
static int stranger_of(struct cluster *c)
{
    char out[16384];
    for (int i = 0; i < HOSTS; i++) {
        assert_int_equal(
            cli(c, 0, out, sizeof out, "get replicas --shard orders --host h%d", i + 1), 0);
        if (count_lines(out, "orders") == 0) {
            return i;
        }
    }
    fail_msg("every host has a replica");
    return -1;
}

static const char *path_of(struct cluster *c, const char *name)
{
    static char path[4][512];
    static int next;
    char *at = path[next++ % 4];
    snprintf(at, sizeof path[0], "%s/%s", c->dir, name);
    return at;
}

static void expect_damaged(struct cluster *c, const char *file)
{
    char out[4096];
    assert_int_equal(cli(c, 0, out, sizeof out, "snapshot status %s", file), 1);
    if (strstr(out, "damaged") == NULL && strstr(out, "not a snapshot file") == NULL) {
        fail_msg("%s", out);
    }
    assert_int_equal(cli(c, 0, out, sizeof out, "snapshot restore %s spoilt", file), 1);
}

static bool has_no_uploads(void *ctx)
{
    const struct cluster *c = ctx;
    bool empty = true;
    for (int i = 0; i < HOSTS; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/restores", c->hosts[i].data_dir);
        DIR *dir = opendir(path);
        for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
            empty = empty && e->d_name[0] == '.';
        }
        if (dir != NULL) {
            closedir(dir);
        }
    }
    return empty;
}

static uint64_t open_session(struct cluster *c)
{
    return strtoull(cli_ok(c, 0, "session open orders"), NULL, 10);
}

static void test_saved_under_load_and_restored(void **state)
{
    (void)state;
    struct cluster *c = four_hosts();
    struct load_report report;
    char file[512], spoilt[512], out[16384];
    snprintf(file, sizeof file, "%s", path_of(c, "orders.snap"));
    snprintf(spoilt, sizeof spoilt, "%s", path_of(c, "spoilt.snap"));
    int stranger = stranger_of(c);
    uint64_t session = open_session(c);
    cli_ok(c, 0, "propose orders --session %" PRIu64 " --sequence 1 put once 1", session);
    struct load *before = load_start(cluster_endpoints(c, HOSTS), "orders", 64);
    load_wait_progress(before, 3000, 30000);
    load_stop(before, &report);
    struct load *during = load_start(cluster_endpoints(c, HOSTS), "orders", 64);
    load_wait_progress(during, 500, 30000);
    cli_ok(c, stranger, "snapshot save orders %s", file);
    load_wait_progress(during, 500, 30000);
    load_stop(during, &report);
    load_free(during);

    const char *text = cli_ok(c, 0, "snapshot status -o json %s", file);
    assert_non_null(strstr(text, "\"shard\":\"orders\""));
    assert_non_null(strstr(text, "\"type\":\"kv\""));
    expect_lines(c, 0, "get events --object shards/orders", "SnapshotSaved", 1);
    static const long places[] = {0, 9, 40, 4000, -3, -300};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        copy_spoilt(file, spoilt, 1000, true, places[i]);
        expect_damaged(c, spoilt);
        copy_spoilt(file, spoilt, 1000, false, places[i]);
        expect_damaged(c, spoilt);
    }
    assert_int_equal(cli(c, 0, out, sizeof out, "snapshot restore %s orders", file), 1);
    assert_non_null(strstr(out, "nothing is overwritten"));

    cli_ok(c, stranger, "snapshot restore %s copy --wait --timeout 60s", file);
    expect_lines(c, 0, "get replicas --shard copy", "running", 3);
    assert_int_equal(load_verify_in(before, cluster_endpoints(c, HOSTS), "copy"), 0);
    /* Proposals that were answered before the snapshot are not applied again; later ones are. */
    cli_ok(c, 0, "propose copy --session %" PRIu64 " --sequence 1 put once 2", session);
    assert_int_equal(strncmp(cli_ok(c, 0, "kv get copy once"), "1", 1), 0);
    cli_ok(c, 0, "propose copy --session %" PRIu64 " --sequence 2 put once 3", session);
    assert_int_equal(strncmp(cli_ok(c, 0, "kv get copy once"), "3", 1), 0);
    assert_int_equal(strncmp(cli_ok(c, 0, "kv get orders once"), "1", 1), 0);
    eventually(20000, "the uploaded file goes", has_no_uploads, c);

    for (int i = 0; i < HOSTS; i++) {
        host_kill(c, i);
    }
    for (int i = 0; i < HOSTS; i++) {
        host_restart(c, i);
    }
    for (int i = 0; i < HOSTS; i++) {
        cluster_wait_ready(c, i, 60000);
    }
    assert_int_equal(load_verify_in(before, cluster_endpoints(c, HOSTS), "copy"), 0);
    assert_int_equal(strncmp(cli_ok(c, 0, "kv get copy once"), "3", 1), 0);
    load_free(before);
    cluster_free(c);
}

static void test_registry_is_saved_and_is_no_shard(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    char out[4096];
    cluster_start_dev(c);
    apply_yaml(c, 0, "kind: Shard\nname: orders\nspec: {type: kv, voters: 1}\n");
    cli_ok(c, 0, "snapshot save zero %s", path_of(c, "zero.snap"));
    const char *text = cli_ok(c, 0, "snapshot status %s", path_of(c, "zero.snap"));
    assert_non_null(strstr(text, "registry"));
    assert_int_equal(
        cli(c, 0, out, sizeof out, "snapshot restore %s second", path_of(c, "zero.snap")), 1);
    assert_non_null(strstr(out, "registry"));
    cluster_wait_ready(c, 0, 5000);
    cluster_free(c);
}

/* ---- Faults ---------------------------------------------------------------------------------- */

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

/* In the background, because the host that it calls will be killed. */
static pid_t restore_begin(struct cluster *c, int via, const char *file, const char *name)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        char out[4096];
        (void)cli(c, via, out, sizeof out, "snapshot restore %s %s", file, name);
        _exit(0);
    }
    return pid;
}

/* The operation that created the shard; 0: the host was killed before there was one. */
static int operation_for(struct cluster *c, int via, const char *name)
{
    char out[65536], needle[64];
    snprintf(needle, sizeof needle, "shards/%s ", name);
    assert_int_equal(cli(c, via, out, sizeof out, "get operations"), 0);
    char *at = strstr(out, needle);
    while (at != NULL && at > out && at[-1] != '\n') {
        at--;
    }
    return at != NULL ? atoi(at) : 0;
}

static void check_end(struct cluster *c, struct load *l, int via, const char *name)
{
    char out[4096], command[128];
    int id = operation_for(c, via, name);
    int ended = id == 0 ? 1 : cli(c, via, out, sizeof out, "operation wait %d --timeout 60s", id);
    if (ended == 0) {
        assert_int_equal(load_verify_in(l, cluster_endpoints(c, HOSTS), name), 0);
        return;
    }
    if (id != 0 && strstr(out, "failed") == NULL) {
        fail_msg("operation %d: %s", id, out);
    }
    snprintf(command, sizeof command, "get replicas --shard %s", name);
    expect_lines(c, via, "get shards", name, 0);
}

static int rounds(void)
{
    const char *text = getenv("THOLE_RESTORE_KILLS");
    return text != NULL ? atoi(text) : 5;
}

static void test_restore_survives_the_death_of_its_host(void **state)
{
    (void)state;
    struct cluster *c = four_hosts();
    struct load_report report;
    char file[512], name[16];
    snprintf(file, sizeof file, "%s", path_of(c, "orders.snap"));
    struct load *l = load_start(cluster_endpoints(c, HOSTS), "orders", 64);
    load_wait_progress(l, 3000, 30000);
    load_stop(l, &report);
    cli_ok(c, 0, "snapshot save orders %s", file);
    srand(19);
    for (int round = 0; round < rounds(); round++) {
        int via = round % HOSTS, other = (via + 1) % HOSTS;
        snprintf(name, sizeof name, "copy%d", round);
        pid_t pid = restore_begin(c, via, file, name);
        pause_ms(rand() % 600); /* the instant of the fault, not a wait for anything */
        host_kill(c, via);
        (void)waitpid(pid, NULL, 0);
        host_restart(c, via);
        cluster_wait_ready(c, via, 30000);
        check_end(c, l, other, name);
    }
    eventually(20000, "no uploaded file is left", has_no_uploads, c);
    load_free(l);
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_saved_under_load_and_restored),
        cmocka_unit_test(test_registry_is_saved_and_is_no_shard),
        cmocka_unit_test(test_restore_survives_the_death_of_its_host),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
