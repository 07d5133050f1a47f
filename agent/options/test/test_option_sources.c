/* Flags, environment and file combined: one table of inputs and of the values read or errors
 * reported. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "agent/options/options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

enum { NOTHING, NAME, FORM, LIMIT, PAUSE, QUIET, TAG, ALONE, PEERS, ONLY_FLAG, OPTIONS };

static enum thole_code check_name(const char *origin, const char *text, struct thole_status *st)
{
    if (strchr(text, '!') != NULL) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "%s \"%s\": must be quiet", origin, text);
    }
    return THOLE_OK;
}

static const struct option_def defs[OPTIONS] = {
    [NAME] = {.name = "name",
              .letter = 'n',
              .kind = OPTION_TEXT,
              .value = "NAME",
              .standard = "nobody",
              .environment = "TEST_NAME",
              .in_file = true,
              .check = check_name,
              .help = "a name"},
    [FORM] = {.name = "form",
              .letter = 'f',
              .kind = OPTION_CHOICE,
              .value = "text|json",
              .environment = "TEST_FORM",
              .in_file = true,
              .help = "a choice"},
    [LIMIT] = {.name = "limit",
               .kind = OPTION_NUMBER,
               .min = 1,
               .max = 100,
               .value = "N",
               .environment = "TEST_LIMIT",
               .in_file = true,
               .help = "a number"},
    [PAUSE] = {.name = "pause",
               .kind = OPTION_DURATION,
               .value = "TIME",
               .environment = "TEST_PAUSE",
               .in_file = true,
               .help = "a time"},
    [QUIET] = {.name = "quiet",
               .letter = 'q',
               .kind = OPTION_FLAG,
               .environment = "TEST_QUIET",
               .in_file = true,
               .help = "a flag"},
    [TAG] = {.name = "tag",
             .kind = OPTION_LIST,
             .value = "KEY=VALUE",
             .environment = "TEST_TAG",
             .in_file = true,
             .check = check_name,
             .help = "a list"},
    [ALONE] = {.name = "alone",
               .letter = 'a',
               .kind = OPTION_FLAG,
               .exclusive = 1,
               .environment = "TEST_ALONE",
               .in_file = true,
               .help = "one way"},
    [PEERS] = {.name = "peers",
               .kind = OPTION_TEXT,
               .value = "A,B",
               .exclusive = 1,
               .environment = "TEST_PEERS",
               .in_file = true,
               .help = "another way"},
    [ONLY_FLAG] = {.name = "only-flag", .kind = OPTION_TEXT, .value = "FILE", .help = "no setting"},
};

struct row {
    const char *arguments;   /* separated by blanks */
    const char *environment; /* "VARIABLE=TEXT", one */
    const char *file;        /* NULL: no file is read */
    const char *expected;    /* the values read, or, behind a "!", the message */
};

static const struct row rows[] = {
    /* Precedence, value by value. */
    {"", NULL, NULL, "name=nobody(the default)"},
    {"", NULL, "name: f\n", "name=f(t.yaml:1: name)"},
    {"", "TEST_NAME=e", "name: f\n", "name=e(TEST_NAME)"},
    {"--name a", "TEST_NAME=e", "name: f\n", "name=a(--name)"},
    {"", "TEST_NAME=", "name: f\n", "name=f(t.yaml:1: name)"},
    {"--name a", "TEST_LIMIT=7", "pause: 3s\nquiet: yes\n",
     "name=a(--name) limit=7(TEST_LIMIT) pause=3000(t.yaml:1: pause) quiet=1(t.yaml:2: quiet)"},
    {"", "TEST_LIMIT=7", "limit: 8\n", "name=nobody(the default) limit=7(TEST_LIMIT)"},
    /* A list comes from one source as a whole. */
    {"--tag a=1 --tag b=2,c=3", "TEST_TAG=e=1", "tag: [f=1]\n",
     "name=nobody(the default) tag=[a=1 b=2 c=3](--tag)"},
    {"", "TEST_TAG=e=1,g=2", "tag: [f=1]\n", "name=nobody(the default) tag=[e=1 g=2](TEST_TAG)"},
    {"", NULL, "tag:\n- a=1\n- 'null'\n", "name=nobody(the default) tag=[a=1 null](t.yaml:3: tag)"},
    {"", NULL, "tag: {zone: a, rack: 2}\n",
     "name=nobody(the default) tag=[zone=a rack=2](t.yaml:1: tag)"},
    {"", NULL, "tag: a=1,b=2\n", "name=nobody(the default) tag=[a=1 b=2](t.yaml:1: tag)"},
    {"", NULL, "tag: []\n", "name=nobody(the default)"},
    /* Forms of flags. */
    {"-n a -qf json x y", NULL, NULL, "name=a(-n) form=json(-f) quiet=1(-q) x y"},
    {"-na -f=json", NULL, NULL, "name=a(-n) form=json(-f)"},
    {"--name=a --quiet=false --", NULL, NULL, "name=a(--name) quiet=0(--quiet)"},
    {"--name= -- --name b -", NULL, NULL, "name=(--name) --name b -"},
    {"--pause 250ms --limit 100", NULL, NULL,
     "name=nobody(the default) limit=100(--limit) pause=250(--pause)"},
    /* Unknown names. */
    {"--nam a", NULL, NULL, "!there is no option --nam"},
    {"--namely=a", NULL, NULL, "!there is no option --namely"},
    {"-x", NULL, NULL, "!there is no option -x"},
    {"-qx", NULL, NULL, "!there is no option -x"},
    {"", NULL, "\nnam: a\n", "!t.yaml:2: there is no setting \"nam\""},
    {"", NULL, "only-flag: a\n", "!t.yaml:1: there is no setting \"only-flag\""},
    {"", NULL, "--name: a\n", "!t.yaml:1: there is no setting \"--name\""},
    {"", "TEST_UNKNOWN=1", NULL, "name=nobody(the default)"},
    /* Wrong kinds, with the origin. */
    {"--limit 0", NULL, NULL, "!--limit \"0\": must be a number from 1 to 100"},
    {"--limit 101", NULL, NULL, "!--limit \"101\": must be a number from 1 to 100"},
    {"--limit -1", NULL, NULL, "!--limit \"-1\": must be a number from 1 to 100"},
    {"--limit 1k", NULL, NULL, "!--limit \"1k\": must be a number from 1 to 100"},
    {"", "TEST_LIMIT=18446744073709551616", NULL,
     "!TEST_LIMIT \"18446744073709551616\": must be a number from 1 to 100"},
    {"", NULL, "name: a\nlimit: many\n",
     "!t.yaml:2: limit \"many\": must be a number from 1 to 100"},
    {"-f xml", NULL, NULL, "!-f \"xml\": must be one of text|json"},
    {"-f tex", NULL, NULL, "!-f \"tex\": must be one of text|json"},
    {"-f text|json", NULL, NULL, "!-f \"text|json\": must be one of text|json"},
    {"", "TEST_PAUSE=soon", NULL, "!TEST_PAUSE \"soon\": must be a time such as 500ms, 10s, 5m"},
    {"--pause 4294968s", NULL, NULL,
     "!--pause \"4294968s\": must be a time such as 500ms, 10s, 5m"},
    {"--quiet=maybe", NULL, NULL, "!--quiet \"maybe\": must be true or false"},
    {"--name a!", NULL, NULL, "!--name \"a!\": must be quiet"},
    {"", "TEST_TAG=a=1,b!", NULL, "!TEST_TAG \"b!\": must be quiet"},
    {"", NULL, "tag: {a: '!'}\n", "!t.yaml:1: tag \"a=!\": must be quiet"},
    {"--name", NULL, NULL, "!--name needs a value: NAME"},
    {"-qn", NULL, NULL, "!-n needs a value: NAME"},
    {"--quiet a", NULL, NULL, "name=nobody(the default) quiet=1(--quiet) a"},
    /* A stronger source overrides a wrong value, but not a wrong name. */
    {"--limit 5", "TEST_LIMIT=many", "limit: much\n", "name=nobody(the default) limit=5(--limit)"},
    {"--limit 5", NULL, "limitless: 1\n", "!t.yaml:1: there is no setting \"limitless\""},
    /* Twice. */
    {"--name a --name b", NULL, NULL, "!--name is given twice"},
    {"-n a --name b", NULL, NULL, "!--name is given twice"},
    {"-qq", NULL, NULL, "!--quiet is given twice"},
    {"", NULL, "name: a\nlimit: 1\nname: b\n", "!t.yaml:3: name is set twice, first at line 1"},
    {"", NULL, "tag: [a]\ntag: [b]\n", "!t.yaml:2: tag is set twice, first at line 1"},
    /* Exclusive options, from any combination of sources. */
    {"--alone --peers a", NULL, NULL,
     "!--alone and --peers exclude each other; give only one of them"},
    {"-a", "TEST_PEERS=a", NULL, "!-a and TEST_PEERS exclude each other; give only one of them"},
    {"--alone", NULL, "peers: a\n",
     "!--alone and t.yaml:1: peers exclude each other; give only one of them"},
    {"--alone=false --peers a", NULL, NULL,
     "name=nobody(the default) alone=0(--alone) peers=a(--peers)"},
    /* Forms of the file. */
    {"", NULL, "", "name=nobody(the default)"},
    {"", NULL, "# nothing\n", "name=nobody(the default)"},
    {"", NULL, "---\n", "name=nobody(the default)"},
    {"", NULL, "---\nname: a\n...\n", "name=a(t.yaml:2: name)"},
    {"", NULL, "{\"name\": \"a\", \"limit\": 3}",
     "name=a(t.yaml:1: name) limit=3(t.yaml:1: limit)"},
    {"", NULL, "name: a\n---\nname: b\n",
     "!t.yaml:2: has a second document; one mapping is expected"},
    {"", NULL, "- name\n", "!t.yaml:1: expected lines such as \"name: value\""},
    {"", NULL, "name\n", "!t.yaml:1: expected lines such as \"name: value\""},
    {"", NULL, "name:\n", "!t.yaml:1: name: expected one value: NAME"},
    {"", NULL, "name: ~\n", "!t.yaml:1: name: expected one value: NAME"},
    {"", NULL, "name: '~'\n", "name=~(t.yaml:1: name)"},
    {"", NULL, "name: [a]\n", "!t.yaml:1: name: expected one value: NAME"},
    {"", NULL, "quiet: {a: b}\n", "!t.yaml:1: quiet: expected one value: true or false"},
    {"", NULL, "tag: ~\n", "!t.yaml:1: tag: expected a list of values: KEY=VALUE"},
    {"", NULL, "tag: [[a]]\n", "!t.yaml:1: expected a value; text is put in quotes"},
    {"", NULL, "tag: {a: [b]}\n", "!t.yaml:1: expected a value; text is put in quotes"},
    {"", NULL, "tag: {a: null}\n", "!t.yaml:1: expected a value; text is put in quotes"},
    {"", NULL, "? [a]\n: b\n", "!t.yaml:1: expected \"name: value\""},
    {"", NULL, "name: &a x\nform: *a\n", "!t.yaml:2: aliases are not supported"},
    {"", NULL, "name: \"a\\0b\"\n", "!t.yaml:1: name: expected one value: NAME"},
};

static void show(const struct options *o, struct bytes *out)
{
    for (size_t id = 1; id < OPTIONS; id++) {
        const struct option_value *v = &o->values[id];
        if (v->source == OPTION_UNSET) {
            continue;
        }
        bytes_printf(out, "%s%s=", out->size > 0 ? " " : "", defs[id].name);
        if (defs[id].kind == OPTION_LIST) {
            for (size_t i = 0; i < v->item_count; i++) {
                bytes_printf(out, "%s%s", i == 0 ? "[" : " ", v->items[i]);
            }
            bytes_append_str(out, "]");
        } else if (defs[id].kind == OPTION_TEXT || defs[id].kind == OPTION_CHOICE) {
            bytes_append_str(out, v->text);
        } else {
            bytes_printf(out, "%" PRIu64, v->number);
        }
        bytes_printf(out, "(%s)", v->origin);
    }
    for (size_t i = 0; i < o->argument_count; i++) {
        bytes_printf(out, " %s", o->arguments[i]);
    }
}

static enum thole_code read_all(struct options *o, char *arguments, const char *file,
                                struct thole_status *st)
{
    const char *argv[16] = {"test"};
    int argc = 1;
    char *save = NULL;
    for (char *word = strtok_r(arguments, " ", &save); word != NULL;
         word = strtok_r(NULL, " ", &save)) {
        argv[argc++] = word;
    }
    enum thole_code code = options_read_arguments(o, argc, argv, st);
    if (code == THOLE_OK) {
        code = options_read_environment(o, st);
    }
    if (code == THOLE_OK && file != NULL) {
        code = options_read_yaml(o, "t.yaml", slice_str(file), st);
    }
    return code == THOLE_OK ? options_complete(o, st) : code;
}

static void run_row(const struct row *row)
{
    struct options o;
    struct bytes out = {0};
    struct thole_status st = {0};
    char *arguments = xstrdup(row->arguments);
    char *variable = row->environment != NULL ? xstrdup(row->environment) : NULL;
    if (variable != NULL) {
        char *equals = strchr(variable, '=');
        *equals = '\0';
        setenv(variable, equals + 1, 1);
    }
    options_init(&o, defs, OPTIONS);
    enum thole_code code = read_all(&o, arguments, row->file, &st);
    if (code == THOLE_OK) {
        show(&o, &out);
    } else {
        assert_int_equal(code, THOLE_INVALID_ARGUMENT);
        bytes_printf(&out, "!%s", st.message);
    }
    if (out.size != strlen(row->expected) || memcmp(out.data, row->expected, out.size) != 0) {
        fail_msg("[%s] [%s] [%s]\nexpected: %s\nread:     %.*s", row->arguments,
                 row->environment != NULL ? row->environment : "",
                 row->file != NULL ? row->file : "", row->expected, (int)out.size,
                 (const char *)out.data);
    }
    options_deinit(&o);
    bytes_deinit(&out);
    if (variable != NULL) {
        unsetenv(variable);
    }
    free(variable);
    free(arguments);
}

static void test_options_from_all_sources_are_read_or_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        run_row(&rows[i]);
    }
}

static void assert_refused(const char *text, size_t size, const char *message)
{
    struct options o;
    struct thole_status st = {0};
    options_init(&o, defs, OPTIONS);
    assert_int_equal(options_read_yaml(&o, "t.yaml", slice_of(text, size), &st),
                     THOLE_INVALID_ARGUMENT);
    assert_non_null(strstr(st.message, message));
    options_deinit(&o);
}

/* Size, depth, and input for which libyaml's documents would take quadratic time. */
static void test_files_beyond_bounds_are_refused_at_once(void **state)
{
    (void)state;
    size_t size = OPTIONS_FILE_BYTES_MAX;
    char *text = xmalloc(size + 1);
    memset(text, '#', size + 1);
    assert_refused(text, size + 1, "more than 65536 bytes");
    memset(text, '[', size);
    assert_refused(text, size, "t.yaml:1: expected lines");
    text[snprintf(text, size, "tag: ")] = '['; /* over the NUL */
    assert_refused(text, size, "t.yaml:1: expected a value");
    struct bytes lines = {0};
    bytes_append_str(&lines, "tag:\n");
    for (size_t i = 0; i <= OPTIONS_ITEMS_MAX; i++) {
        bytes_printf(&lines, "- &a%zu x\n", i);
    }
    assert_refused((const char *)lines.data, lines.size, "t.yaml:66: tag \"x\": more than 64");
    bytes_deinit(&lines);
    free(text);
}

static void test_files_that_cannot_be_read_are_told_apart(void **state)
{
    (void)state;
    struct options o;
    struct thole_status st = {0};
    options_init(&o, defs, OPTIONS);
    assert_int_equal(options_read_file(&o, "/nonexistent/t.yaml", &st), THOLE_NOT_FOUND);
    assert_string_equal(st.message, "cannot read /nonexistent/t.yaml: No such file or directory");
    assert_int_equal(options_read_file(&o, "/tmp", &st), THOLE_INVALID_ARGUMENT);
    assert_string_equal(st.message, "cannot read /tmp: Is a directory");
    options_deinit(&o);
}

static char *printed_help(size_t id)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    options_print_help(out, &defs[id]);
    fclose(out);
    return text;
}

static void test_help_shows_the_columns_of_the_table(void **state)
{
    (void)state;
    char *help = printed_help(NAME);
    assert_string_equal(help, "  -n, --name NAME                   a name (default: nobody) "
                              "[TEST_NAME]\n");
    free(help);
    help = printed_help(ONLY_FLAG);
    assert_string_equal(help, "      --only-flag FILE              no setting\n");
    free(help);
}

static char *printed(void (*print)(FILE *, const struct option_def *), int id)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    print(out, &defs[id]);
    fclose(out);
    return text;
}

static void test_manual_and_example_show_the_columns_of_the_table(void **state)
{
    (void)state;
    char *text = printed(options_print_manual, NAME);
    assert_string_equal(text, ".TP\n\\fB\\-n\\fR, \\fB\\-\\-name\\fR \\fINAME\\fR\na name "
                              "(default: nobody)\n[TEST_NAME]\n");
    free(text);
    text = printed(options_print_example, NAME);
    assert_string_equal(text, "\n# A name.\n#name: nobody\n");
    free(text);
    text = printed(options_print_example, QUIET);
    assert_string_equal(text, "\n# A flag.\n#quiet: true\n");
    free(text);
    text = printed(options_print_example, ONLY_FLAG); /* may not stand in a file */
    assert_string_equal(text, "");
    free(text);
}

static void test_roff_keeps_what_it_would_read_as_its_own(void **state)
{
    (void)state;
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    options_print_roff(out, ".dot 'and' a\\b -x\nflows\n\n  .as it is\n'quoted");
    fclose(out);
    assert_string_equal(text, "\\&.dot 'and' a\\(rsb \\-x\nflows\n.PP\n.nf\n  .as it is\n.fi\n"
                              "\\&'quoted\n");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_options_from_all_sources_are_read_or_refused),
        cmocka_unit_test(test_files_beyond_bounds_are_refused_at_once),
        cmocka_unit_test(test_files_that_cannot_be_read_are_told_apart),
        cmocka_unit_test(test_help_shows_the_columns_of_the_table),
        cmocka_unit_test(test_manual_and_example_show_the_columns_of_the_table),
        cmocka_unit_test(test_roff_keeps_what_it_would_read_as_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
