/* The command-line parser, and its option tables. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/cli/cli.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static int parse(struct cli *c, const char *line)
{
    static char copy[512];
    static const char *argv[64];
    int argc = 0;
    char *save = NULL;
    snprintf(copy, sizeof copy, "thole %s", line);
    for (char *word = strtok_r(copy, " ", &save); word != NULL; word = strtok_r(NULL, " ", &save)) {
        argv[argc++] = word;
    }
    *c = (struct cli){.arena = upb_Arena_New()};
    return cli__parse(c, argc, argv);
}

static void assert_usage(const char *line)
{
    struct cli c;
    if (parse(&c, line) != CLI_USAGE) {
        fail_msg("accepted: %s", line);
    }
    cli__deinit(&c);
}

static void test_options_stand_anywhere(void **state)
{
    (void)state;
    struct cli c;
    assert_int_equal(parse(&c, "-o json get --stale shards orders --endpoints=a:1,b:2"), CLI_OK);
    assert_string_equal(c.command->name, "get");
    assert_int_equal(c.arg_count, 2);
    assert_string_equal(c.args[1], "orders");
    assert_int_equal(cli__format(&c), FORMAT_JSON);
    assert_true(cli_flag(&c, OPT_STALE));
    assert_string_equal(cli_text(&c, OPT_ENDPOINTS), "a:1,b:2");
    cli__deinit(&c);
    assert_int_equal(parse(&c, "get hosts -owide -w"), CLI_OK);
    assert_int_equal(cli__format(&c), FORMAT_WIDE);
    assert_true(cli_flag(&c, OPT_WATCH));
    cli__deinit(&c);
}

static void test_two_word_commands_are_found(void **state)
{
    (void)state;
    struct cli c;
    assert_int_equal(parse(&c, "kv put orders k v"), CLI_OK);
    assert_string_equal(c.command->name, "kv put");
    assert_int_equal(c.arg_count, 3);
    cli__deinit(&c);
    assert_int_equal(parse(&c, "shard transfer-leader orders --to 12"), CLI_OK);
    assert_string_equal(cli_text(&c, OPT_TO), "12");
    cli__deinit(&c);
}

static void test_after_two_dashes_nothing_is_an_option(void **state)
{
    (void)state;
    struct cli c;
    assert_int_equal(parse(&c, "propose orders -- put --stale -x"), CLI_OK);
    assert_int_equal(c.arg_count, 4);
    assert_string_equal(c.args[2], "--stale");
    cli__deinit(&c);
}

static void test_wrong_usage_is_refused(void **state)
{
    (void)state;
    assert_usage("frobnicate");
    assert_usage("kv");
    assert_usage("kv frobnicate");
    assert_usage("get");
    assert_usage("get shards a b");
    assert_usage("get shards --frobnicate");
    assert_usage("get shards -x");
    assert_usage("get shards --to 1");
    assert_usage("get shards -o xml");
    assert_usage("get shards -o jso");
    assert_usage("get shards --limit many");
    assert_usage("get shards --command-timeout soon");
    assert_usage("get shards --endpoints");
    assert_usage("get shards --stale=maybe");
    assert_usage("get shards --stale --stale");
    assert_usage("get shards -o json --output json");
    assert_usage("get shards --endpoints foo");
    assert_usage("get shards --endpoints a:1,b");
    assert_usage("get shards --endpoints ,");
    assert_usage("bench --in-flight 0");
    assert_usage("bench --read-share 101");
}

static void test_flag_beats_environment_beats_file(void **state)
{
    (void)state;
    struct cli c;
    char path[] = "/tmp/test-cli-XXXXXX";
    int fd = mkstemp(path);
    static const char text[] = "endpoints: file:1\ncommand-timeout: 3s\noutput: yaml\n";
    assert_int_equal(write(fd, text, sizeof text - 1), sizeof text - 1);
    close(fd);
    setenv("THOLE_ENDPOINTS", "environment:1", 1);
    setenv("THOLE_COMMAND_TIMEOUT", "2s", 1);
    unsetenv("THOLE_OUTPUT");
    assert_int_equal(parse(&c, "status --endpoints flag:1"), CLI_OK);
    assert_int_equal(cli__read_settings(&c, path), CLI_OK);
    assert_string_equal(cli_text(&c, OPT_ENDPOINTS), "flag:1");
    assert_int_equal(cli_number(&c, OPT_COMMAND_TIMEOUT), 2000);
    assert_int_equal(cli__format(&c), FORMAT_YAML);
    cli__deinit(&c);
    unsetenv("THOLE_ENDPOINTS");
    unsetenv("THOLE_COMMAND_TIMEOUT");
    assert_int_equal(parse(&c, "status"), CLI_OK);
    assert_int_equal(cli__read_settings(&c, "/nonexistent"), CLI_OK);
    assert_string_equal(cli_text(&c, OPT_ENDPOINTS), "127.0.0.1:7400");
    assert_int_equal(cli_number(&c, OPT_COMMAND_TIMEOUT), 10000);
    cli__deinit(&c);
    unlink(path);
}

static void test_wrong_settings_are_usage_errors(void **state)
{
    (void)state;
    static const char *const bad[] = {"endpoint: a\n", "endpoints: foo\n", "output: [a]\n",
                                      "output: xml\n", "watch: true\n",    "output: {\n"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct cli c;
        char path[] = "/tmp/test-cli-XXXXXX";
        int fd = mkstemp(path);
        assert_int_equal(write(fd, bad[i], strlen(bad[i])), strlen(bad[i]));
        close(fd);
        assert_int_equal(parse(&c, "status"), CLI_OK);
        assert_int_equal(cli__read_settings(&c, path), CLI_USAGE);
        cli__deinit(&c);
        unlink(path);
    }
}

/* A read that fails without a leader names shard zero, and suggests --stale if the command has
 * it. */
static void test_no_leader_of_the_control_plane_is_explained(void **state)
{
    (void)state;
    static const struct {
        const char *line, *path, *message;
    } rows[] = {
        {"get shards", "/thole.v1.Shards/ListShards",
         "shard zero has no leader; --stale shows what the called host knows"},
        {"describe shard orders", "/thole.v1.Shards/GetShard",
         "shard zero has no leader; --stale shows what the called host knows"},
        {"get shards --stale", "/thole.v1.Shards/ListShards", "shard zero has no leader"},
        {"apply -f x", "/thole.v1.Shards/UpdateShard", "shard zero has no leader"},
        {"kv get orders k", "/thole.v1.Data/Query", "no leader of shard 3"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct cli c;
        struct thole_status st;
        (void)THOLE_FAIL(&st, THOLE_UNAVAILABLE, THOLE_REASON_NO_LEADER, "no leader of shard 3");
        assert_int_equal(parse(&c, rows[i].line), CLI_OK);
        cli__explain_no_leader(&c, rows[i].path, &st);
        assert_string_equal(st.message, rows[i].message);
        assert_int_equal(st.reason, THOLE_REASON_NO_LEADER);
        cli__deinit(&c);
    }
}

/* The tables are consistent: names are unique, defaults are valid, options exist. */
static void test_tables_are_consistent(void **state)
{
    (void)state;
    struct cli c = {.arena = upb_Arena_New()};
    struct thole_status st = {0};
    options_init(&c.options, cli_options, OPT_OPTIONS);
    assert_int_equal(options_complete(&c.options, &st), THOLE_OK); /* the defaults are valid */
    for (unsigned id = 1; id < OPT_OPTIONS; id++) {
        const struct option_def *o = &cli_options[id];
        assert_non_null(o->name);
        assert_non_null(o->help);
        assert_int_equal(options_find(&c.options, o->name, strlen(o->name)), id);
        assert_true(o->kind == OPTION_FLAG || o->value != NULL);
        for (unsigned other = 1; o->letter != 0 && other < id; other++) {
            assert_int_not_equal(cli_options[other].letter, o->letter);
        }
    }
    for (size_t i = 0; i < cli_command_count; i++) {
        const struct cli_command *command = &cli_commands[i];
        char name[64], *save = NULL;
        const char *words[4];
        size_t count = 0;
        snprintf(name, sizeof name, "%s", command->name);
        for (char *w = strtok_r(name, " ", &save); w != NULL; w = strtok_r(NULL, " ", &save)) {
            words[count++] = w;
        }
        assert_int_equal(cli__name_words(command->name), count);
        words[count] = "more";
        assert_ptr_equal(cli__command_find(words, count + 1), command);
        assert_ptr_not_equal(cli__command_find(words, count - 1), command);
        assert_non_null(command->run);
        for (size_t k = 0; k < CLI_COMMAND_OPTIONS_MAX; k++) {
            assert_true(command->options[k] < OPT_OPTIONS);
            assert_false(command->options[k] != 0 &&
                         cli__option_global((enum cli_option_id)command->options[k]));
        }
    }
    cli__deinit(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_options_stand_anywhere),
        cmocka_unit_test(test_two_word_commands_are_found),
        cmocka_unit_test(test_after_two_dashes_nothing_is_an_option),
        cmocka_unit_test(test_wrong_usage_is_refused),
        cmocka_unit_test(test_flag_beats_environment_beats_file),
        cmocka_unit_test(test_wrong_settings_are_usage_errors),
        cmocka_unit_test(test_no_leader_of_the_control_plane_is_explained),
        cmocka_unit_test(test_tables_are_consistent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
