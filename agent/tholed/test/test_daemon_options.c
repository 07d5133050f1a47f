/* The daemon's option table: its defaults, and the values it refuses. */
#include <stdlib.h>
#include <string.h>

#include "agent/tholed/daemon_options.h"
#include "hostctl/hostctl.h"
#include "shards/engine/engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static enum thole_code read_line(struct options *o, const char *line, struct thole_status *st)
{
    static char copy[512];
    static char program[] = "tholed";
    char *argv[16] = {program};
    int argc = 1;
    char *save = NULL;
    snprintf(copy, sizeof copy, "%s", line);
    for (char *word = strtok_r(copy, " ", &save); word != NULL; word = strtok_r(NULL, " ", &save)) {
        argv[argc++] = word;
    }
    return daemon_options_read(argc, argv, o, st);
}

static void test_defaults_are_those_of_the_parts(void **state)
{
    (void)state;
    struct options o;
    struct thole_status st = {0};
    assert_int_equal(read_line(&o, "--dev", &st), THOLE_OK);
    assert_true(options_on(&o, DAEMON_DEV));
    assert_string_equal(o.values[DAEMON_DATA_DIR].text, "thole-data");
    assert_null(o.values[DAEMON_LISTEN].text);
    assert_int_equal(o.values[DAEMON_ELECTION_TIMEOUT_MS].number, ENGINE_ELECTION_TIMEOUT_MS);
    assert_int_equal(o.values[DAEMON_HEARTBEAT_MS].number, ENGINE_HEARTBEAT_MS);
    assert_int_equal(o.values[DAEMON_SUSPECT_AFTER_MS].number, HOSTCTL_SUSPECT_AFTER_MS);
    assert_int_equal(o.values[DAEMON_DEAD_AFTER_MS].number, HOSTCTL_DEAD_AFTER_MS);
    options_deinit(&o);
}

static void test_rows_are_consistent(void **state)
{
    (void)state;
    for (size_t id = 0; id < DAEMON_OPTIONS; id++) {
        const struct option_def *d = &daemon_options[id];
        assert_non_null(d->name);
        assert_non_null(d->help);
        assert_true(d->kind == OPTION_FLAG || d->value != NULL);
        if (d->kind == OPTION_NUMBER && id != DAEMON_SNAPSHOT_BYTES_PER_S) {
            assert_true(d->max > 0 && d->max <= UINT32_MAX);
        }
    }
}

static void test_wrong_lines_are_refused_by_the_name_of_the_option(void **state)
{
    (void)state;
    static const struct {
        const char *line, *message;
    } rows[] = {
        {"extra", "\"extra\" is not an option"},
        {"--frobnicate", "there is no option --frobnicate"},
        {"--listen foo", "--listen \"foo\": must be HOST:PORT"},
        {"--advertise 0.0.0.0:1", "--advertise \"0.0.0.0:1\": must be HOST:PORT"},
        {"--peers a:1,b", "--peers \"b\": must be HOST:PORT"},
        {"--join a:1,", "--join \"\": must be HOST:PORT"},
        {"--http on", "--http \"on\": must be HOST:PORT"},
        {"--tag zone", "--tag \"zone\": must be KEY=VALUE"},
        {"--tag =a", "--tag \"=a\": must be KEY=VALUE"},
        {"--log-format xml", "--log-format \"xml\": must be one of text|json"},
        {"--loops 257", "--loops \"257\": must be a number from 0 to 256"},
        {"--dev --join a:1", "--dev and --join exclude each other"},
        {"--listen :1 --listen :2", "--listen is given twice"},
        {"--config /nonexistent", "cannot read /nonexistent"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct options o;
        struct thole_status st = {0};
        if (read_line(&o, rows[i].line, &st) == THOLE_OK ||
            strstr(st.message, rows[i].message) == NULL) {
            fail_msg("%s: expected \"%s\", got \"%s\"", rows[i].line, rows[i].message, st.message);
        }
        options_deinit(&o);
    }
}

/* Flags that end the program at once do not read the settings, which may be broken. */
static void test_help_needs_no_settings(void **state)
{
    (void)state;
    struct options o;
    struct thole_status st = {0};
    setenv("THOLED_LOOPS", "many", 1);
    assert_int_equal(read_line(&o, "-h", &st), THOLE_OK);
    assert_true(options_on(&o, DAEMON_HELP));
    options_deinit(&o);
    assert_int_not_equal(read_line(&o, "--dev", &st), THOLE_OK);
    assert_non_null(strstr(st.message, "THOLED_LOOPS \"many\""));
    options_deinit(&o);
    unsetenv("THOLED_LOOPS");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults_are_those_of_the_parts),
        cmocka_unit_test(test_rows_are_consistent),
        cmocka_unit_test(test_wrong_lines_are_refused_by_the_name_of_the_option),
        cmocka_unit_test(test_help_needs_no_settings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
