/* What may come next on a command line; every row of the tables is reached. */
#include <stdlib.h>
#include <string.h>

#include "agent/cli/complete.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

/* `line` in words; a blank at its end begins a new one. */
static void complete(const char *line, struct complete *ret)
{
    static char copy[512];
    const char *words[64];
    size_t count = 0;
    snprintf(copy, sizeof copy, "%s", line);
    for (char *at = copy; at != NULL;) {
        words[count++] = strsep(&at, " ");
    }
    complete_line(words, count, ret);
}

static bool offers(const struct complete *c, const char *word)
{
    for (size_t i = 0; i < c->count; i++) {
        if (strcmp(c->words[i].word, word) == 0) {
            return true;
        }
    }
    return false;
}

static void assert_offers(const char *line, const char *word, const char *absent)
{
    struct complete c;
    complete(line, &c);
    assert_int_equal(c.kind, COMPLETE_WORDS);
    if (!offers(&c, word) || (absent != NULL && offers(&c, absent))) {
        fail_msg("\"%s\" does not offer %s, or offers %s", line, word, absent);
    }
    complete_deinit(&c);
}

static void assert_kind(const char *line, enum complete_kind kind, enum rows_kind rows)
{
    struct complete c;
    complete(line, &c);
    if (c.kind != kind || c.rows != rows) {
        fail_msg("\"%s\": kind %d of rows %d", line, (int)c.kind, (int)c.rows);
    }
    complete_deinit(&c);
}

static void test_every_command_and_option_is_offered(void **state)
{
    (void)state;
    for (size_t i = 0; i < cli_command_count; i++) {
        const struct cli_command *command = &cli_commands[i];
        char line[80];
        /* Each word of its name, after those before it. */
        for (const char *word = command->name; word != NULL;) {
            char own[64];
            const char *space = strchr(word, ' ');
            snprintf(own, sizeof own, "%.*s", (int)strcspn(word, " "), word);
            snprintf(line, sizeof line, "%.*s", (int)(word - command->name), command->name);
            assert_offers(line, own, NULL);
            snprintf(line, sizeof line, "help %.*s", (int)(word - command->name), command->name);
            assert_offers(line, own, NULL);
            word = space != NULL ? space + 1 : NULL;
        }
        for (size_t o = 0; o < CLI_COMMAND_OPTIONS_MAX && command->options[o] != 0; o++) {
            char option[64];
            snprintf(option, sizeof option, "--%s", cli_options[command->options[o]].name);
            snprintf(line, sizeof line, "%s -", command->name);
            assert_offers(line, option, NULL);
            assert_offers(line, "--endpoints", NULL);
        }
    }
}

static void test_arguments_follow_their_descriptions(void **state)
{
    (void)state;
    assert_offers("get ", "operations", "NAME");
    assert_offers("-e h:1 describe ", "pool", NULL);
    assert_offers("completion ", "zsh", "WORD");
    assert_offers("help ", "kv", NULL);
    assert_kind("get shards ", COMPLETE_NAMES, ROWS_SHARDS);
    assert_kind("get events ", COMPLETE_NOTHING, 0);
    assert_kind("describe host ", COMPLETE_NAMES, ROWS_HOSTS);
    assert_kind("delete role a", COMPLETE_NAMES, ROWS_ROLES);
    assert_kind("kv put ", COMPLETE_NAMES, ROWS_SHARDS);
    assert_kind("kv put orders ", COMPLETE_NOTHING, 0);
    assert_offers("kv ", "lease", NULL);
    assert_offers("kv lease ", "keep-alive", "put");
    assert_offers("help kv lease ", "grant", NULL);
    assert_kind("kv lease grant ", COMPLETE_NAMES, ROWS_SHARDS);
    assert_kind("kv txn orders ", COMPLETE_FILES, 0);
    assert_kind("host drain ", COMPLETE_NAMES, ROWS_HOSTS);
    assert_kind("host drain h1 ", COMPLETE_NOTHING, 0);
    assert_kind("shard move orders --from ", COMPLETE_NAMES, ROWS_HOSTS);
    assert_kind("shard transfer-leader orders --to ", COMPLETE_NAMES, ROWS_HOSTS);
    assert_kind("replica create orders ", COMPLETE_NAMES, ROWS_HOSTS);
    assert_kind("operation cancel ", COMPLETE_NAMES, ROWS_OPERATIONS);
    assert_kind("token revoke ", COMPLETE_NAMES, ROWS_TOKENS);
    assert_kind("get replicas --shard ", COMPLETE_NAMES, ROWS_SHARDS);
    assert_kind("snapshot save orders ", COMPLETE_FILES, 0);
    assert_kind("repair zero a b ", COMPLETE_DIRS, 0);
    assert_kind("status extra ", COMPLETE_NOTHING, 0);
    assert_kind("no-such-command ", COMPLETE_NOTHING, 0);
    assert_offers("backup ", "verify", NULL);
    assert_offers("backup l", "list", NULL);
    assert_kind("backup /var", COMPLETE_DIRS, 0);
    assert_kind("backup list ", COMPLETE_DIRS, 0);
}

static void test_values_of_options_are_no_arguments(void **state)
{
    (void)state;
    assert_offers("-o ", "json", NULL);
    assert_offers("get hosts --output ", "yaml", NULL);
    assert_kind("apply -f ", COMPLETE_FILES, 0);
    assert_kind("cert ca c --dir ", COMPLETE_DIRS, 0);
    assert_kind("get -o json shards ", COMPLETE_NAMES, ROWS_SHARDS);
    assert_kind("get -wo json shards ", COMPLETE_NAMES, ROWS_SHARDS);
    assert_kind("--endpoints ", COMPLETE_NOTHING, 0);
    assert_kind("propose orders -- -", COMPLETE_NOTHING, 0); /* after "--" nothing is an option */
}

/* The manual has every command and option that the help has. */
static void test_the_manual_has_the_whole_help(void **state)
{
    (void)state;
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    cli__print_manual(out);
    fclose(out);
    for (size_t i = 0; i < cli_command_count; i++) {
        char heading[128];
        snprintf(heading, sizeof heading, ".SS \"thole %s", cli_commands[i].name);
        if (strstr(text, heading) == NULL) {
            fail_msg("the manual lacks %s", cli_commands[i].name);
        }
    }
    for (unsigned id = 1; id < OPT_OPTIONS; id++) {
        char *entry = NULL;
        FILE *one = open_memstream(&entry, &size);
        options_print_manual(one, &cli_options[id]);
        fclose(one);
        if (strstr(text, entry) == NULL) {
            fail_msg("the manual lacks --%s: no command has it", cli_options[id].name);
        }
        free(entry);
    }
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_command_and_option_is_offered),
        cmocka_unit_test(test_arguments_follow_their_descriptions),
        cmocka_unit_test(test_values_of_options_are_no_arguments),
        cmocka_unit_test(test_the_manual_has_the_whole_help),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
