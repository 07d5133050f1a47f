/* Bad input of every kind gets a clear error, for the caller and in the log. The cluster keeps
 * working. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/rand.h"
#include "integration/test/cluster.h"

static struct cluster *cluster;

static int setup(void **state)
{
    (void)state;
    cluster = cluster_new();
    cluster_start_dev(cluster);
    apply_yaml(cluster, 0, "kind: Shard\nname: orders\nspec: {type: kv, voters: 1}\n");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    cluster_free(cluster);
    return 0;
}

/* The cluster serves after the bad input. */
static void assert_goes_on(void)
{
    cli_ok(cluster, 0, "propose orders 'put still here'");
    assert_non_null(strstr(cli_ok(cluster, 0, "query orders 'get still'"), "here"));
}

/* The command must fail and say `needle`. */
static void assert_refused(const char *needle, const char *command)
{
    char out[16384];
    int status = cli(cluster, 0, out, sizeof out, "%s", command);
    if (status == 0 || strstr(out, needle) == NULL) {
        fail_msg("thole %s: exit status %d, wanted a failure that says \"%s\", got: %s", command,
                 status, needle, out);
    }
}

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void test_malformed_spec_is_refused_with_its_place(void **state)
{
    (void)state;
    static const struct {
        const char *yaml, *needle;
    } cases[] = {
        {"kind: Shard\nname: a\nspec: {type: kv, voters: [}\n", ":3:"},
        {"kind: Shard\nname: a\nspec: {type: kv, voterz: 3}\n", "voterz"},
        {"kind: Shard\nname: a\nspec: {type: kv, voters: many}\n", "voters"},
        {"kind: Shark\nname: a\nspec: {type: kv}\n", "Shark"},
        {"kind: Shard\nspec: {type: kv, voters: 1}\n", "name"},
        {"kind: Shard\nname: a\nspec: {type: no-such-type, voters: 1}\n", "no-such-type"},
        {"kind: Shard\nname: \"Not A Name\"\nspec: {type: kv, voters: 1}\n", "name"},
        {"kind: Shard\nname: a\nspec: {type: kv, voters: 0}\n", "voters"},
    };
    char path[256], command[320];
    snprintf(path, sizeof path, "%s/bad.yaml", cluster->dir);
    snprintf(command, sizeof command, "apply -f %s", path);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_file(path, cases[i].yaml);
        assert_refused(cases[i].needle, command);
    }
    assert_refused("no-such-file", "apply -f /no-such-file.yaml");
    assert_goes_on();
}

static void test_unknown_names_are_not_found(void **state)
{
    (void)state;
    assert_refused("nowhere", "propose nowhere 'put a 1'");
    assert_refused("nowhere", "query nowhere 'get a'");
    assert_refused("nowhere", "delete shard nowhere");
    assert_refused("frobnicate", "frobnicate");
    assert_goes_on();
}

/* A command for one type of machine is invalid for another type. */
static void test_kv_commands_do_not_change_a_counter(void **state)
{
    (void)state;
    char out[16384];
    apply_yaml(cluster, 0, "kind: Shard\nname: clicks\nspec: {type: counter, voters: 1}\n");
    cli_ok(cluster, 0, "propose clicks 'add 3'");
    assert_refused("type counter, not kv", "kv put clicks key value");
    assert_refused("type counter, not kv", "kv get clicks key");
    (void)cli(cluster, 0, out, sizeof out, "propose clicks 'put a bc'"); /* eight bytes */
    assert_string_equal(cli_ok(cluster, 0, "query clicks get"), "3\n");
    cli_ok(cluster, 0, "kv put orders key value");
    assert_goes_on();
}

/* Every command that takes a name or a number, with a wrong one: check the exit code. */
static void test_each_command_refuses_wrong_input_with_its_exit_code(void **state)
{
    (void)state;
    static const struct {
        int code;
        const char *command;
    } rows[] = {
        {2, "get things"},
        {3, "get shard nowhere"},
        {3, "get host nowhere"},
        {3, "get pool nowhere"},
        {3, "get replica 999999"},
        {2, "get replica x"},
        {3, "get operation 999999"},
        {3, "get replicas --shard nowhere"},
        {3, "get replicas --host nowhere"},
        {2, "get events --object foo"},
        {1, "get events --since-revision 1125899906842624"},
        {3, "describe shard nowhere"},
        {3, "describe host nowhere"},
        {3, "describe pool nowhere"},
        {2, "describe thing orders"},
        {3, "delete shard nowhere"},
        {0, "delete shard nowhere --allow-missing"},
        {3, "delete pool nowhere"},
        {3, "delete replica 999999"},
        {2, "delete replica x"},
        {3, "delete host nowhere"},
        {2, "delete thing orders"},
        {2, "wait orders"},
        {3, "wait shard/nowhere"},
        {2, "wait --for drained shard/orders"},
        {3, "propose nowhere x"},
        {1, "propose orders rubbish"},
        {1, "propose orders 'put a 1' --session 7"},
        {1, "propose orders 'put a 1' --session 7 --sequence 1 --request-id x"},
        {3, "query nowhere x"},
        {1, "query orders 'get a' --max-staleness 1s"},
        {3, "watch nowhere"},
        {3, "session open nowhere"},
        {2, "session close orders x"},
        {3, "session close nowhere 5"},
        {3, "kv put nowhere a 1"},
        {3, "kv get nowhere a"},
        {3, "kv get orders no-such-key"},
        {3, "shard transfer-leader nowhere"},
        {2, "shard move orders"},
        {3, "shard move nowhere --from h1 --to h2"},
        {3, "replica create nowhere h1"},
        {3, "replica create orders nowhere"},
        {1, "replica create orders h1"},
        {2, "replica delete x"},
        {3, "host drain nowhere"},
        {3, "host undrain nowhere"},
        {3, "host cordon nowhere"},
        {3, "host uncordon nowhere"},
        {3, "host decommission nowhere"},
        {2, "operation wait x"},
        {3, "operation wait 999999"},
        {3, "operation cancel 999999"},
        {2, "pause everything"},
        {3, "snapshot status /no-such-file"},
        {3, "repair shard nowhere"},
    };
    char out[16384];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int code = cli(cluster, 0, out, sizeof out, "%s", rows[i].command);
        if (code != rows[i].code || (code != 0 && strstr(out, "thole: ") == NULL)) {
            fail_msg("thole %s: exit code %d, wanted %d: %s", rows[i].command, code, rows[i].code,
                     out);
        }
    }
    assert_goes_on();
}

static void test_oversize_proposal_is_refused(void **state)
{
    (void)state;
    char path[256], command[320];
    snprintf(path, sizeof path, "%s/big", cluster->dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs("put big ", f);
    for (int i = 0; i < 2 * 1024 * 1024; i++) {
        fputc('x', f);
    }
    fclose(f);
    snprintf(command, sizeof command, "propose orders --data-file %s", path);
    assert_refused("1572864", command);
    assert_goes_on();
}

/* Start a daemon that must fail, with `needle` in its log. */
static void assert_does_not_start(int i, const char *const *args, const char *needle)
{
    host_start(cluster, i, args);
    int status = host_wait_exit(cluster, i, 20000);
    assert_true(WIFEXITED(status));
    assert_int_not_equal(WEXITSTATUS(status), 0);
    if (!host_log_has(cluster, i, needle)) {
        fail_msg("%s does not say \"%s\"", cluster->hosts[i].log_path, needle);
    }
}

static void test_locked_data_directory_is_refused(void **state)
{
    (void)state;
    memcpy(cluster->hosts[1].data_dir, cluster->hosts[0].data_dir,
           sizeof cluster->hosts[1].data_dir);
    assert_does_not_start(1, (const char *[]){"--listen", cluster->hosts[1].address, NULL},
                          "locked by process");
    assert_goes_on();
}

static void test_foreign_data_directory_is_refused(void **state)
{
    (void)state;
    struct host *h = &cluster->hosts[2];
    char path[300];
    assert_int_equal(mkdir(h->data_dir, 0700), 0);
    snprintf(path, sizeof path, "%s/holiday-pictures", h->data_dir);
    write_file(path, "not a data directory");
    assert_does_not_start(2, (const char *[]){"--listen", h->address, "--dev", NULL}, h->data_dir);
    assert_int_equal(access(path, F_OK), 0);
    assert_goes_on();
}

/* What the registry would always refuse is refused at the start, before a cluster has formed. */
static void test_bad_tags_and_names_are_refused_at_the_start(void **state)
{
    (void)state;
    char config[300], text[200] = "zone=";
    const char *listen = cluster->hosts[2].address;
    memset(text + 5, 'a', 129);
    snprintf(config, sizeof config, "%s/daemon.yaml", cluster->dir);
    write_file(config, "dev: true\ntag: {zone: null}\n");
    assert_does_not_start(2, (const char *[]){"--listen", listen, "--tag", "zone=caf\xe9", NULL},
                          "is not valid UTF-8");
    assert_does_not_start(2, (const char *[]){"--listen", listen, "--tag", text, NULL},
                          "has more than 128 bytes");
    assert_does_not_start(2, (const char *[]){"--listen", listen, "--name", "h%1", NULL},
                          "host name");
    assert_does_not_start(2, (const char *[]){"--listen", listen, "--config", config, NULL},
                          "daemon.yaml:2:");
    assert_goes_on();
}

static void test_data_directory_of_another_cluster_cannot_join(void **state)
{
    (void)state;
    struct host *h = &cluster->hosts[3];
    host_start(cluster, 3,
               (const char *[]){"--name", h->name, "--listen", h->address, "--dev", NULL});
    cluster_wait_ready(cluster, 3, 20000);
    host_stop(cluster, 3);
    assert_does_not_start(3, (const char *[]){"--join", cluster->hosts[0].address, NULL},
                          "cluster");
    assert_goes_on();
}

static void test_port_in_use_is_refused(void **state)
{
    (void)state;
    assert_does_not_start(
        4, (const char *[]){"--name", "h5", "--listen", cluster->hosts[0].address, "--dev", NULL},
        cluster->hosts[0].address);
    assert_goes_on();
}

static void test_unknown_flag_is_refused(void **state)
{
    (void)state;
    assert_does_not_start(5, (const char *[]){"--frobnicate", NULL}, "frobnicate");
    assert_goes_on();
}

static void test_garbage_on_the_bus_port_is_survived(void **state)
{
    (void)state;
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    struct rand r;
    rand_seed(&r, 7);
    for (int i = 0; i < 200; i++) {
        unsigned char bytes[2048];
        for (size_t k = 0; k < sizeof bytes; k++) {
            bytes[k] = (unsigned char)rand_u64(&r);
        }
        int fd = host_dial(&cluster->hosts[0], BUS_PORT);
        struct timeval limit = {.tv_sec = 2};
        assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit), 0);
        if (i % 2) {
            (void)!send(fd, preface, sizeof preface - 1, MSG_NOSIGNAL);
        }
        (void)!send(fd, bytes, 1 + rand_below(&r, sizeof bytes - 1), MSG_NOSIGNAL);
        close(fd);
    }
    assert_goes_on();
    assert_true(host_running(cluster, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_malformed_spec_is_refused_with_its_place),
        cmocka_unit_test(test_unknown_names_are_not_found),
        cmocka_unit_test(test_kv_commands_do_not_change_a_counter),
        cmocka_unit_test(test_each_command_refuses_wrong_input_with_its_exit_code),
        cmocka_unit_test(test_oversize_proposal_is_refused),
        cmocka_unit_test(test_locked_data_directory_is_refused),
        cmocka_unit_test(test_foreign_data_directory_is_refused),
        cmocka_unit_test(test_bad_tags_and_names_are_refused_at_the_start),
        cmocka_unit_test(test_data_directory_of_another_cluster_cannot_join),
        cmocka_unit_test(test_port_in_use_is_refused),
        cmocka_unit_test(test_unknown_flag_is_refused),
        cmocka_unit_test(test_garbage_on_the_bus_port_is_survived),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
