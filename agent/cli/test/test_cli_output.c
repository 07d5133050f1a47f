/* Tables and JSON as they are printed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/cli/rows.h"
#include "agent/cli/test/captured.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void add_shard(struct cli *c, struct rows *rows, const char *name, uint32_t voters)
{
    thole_v1_Shard *s = thole_v1_Shard_new(c->arena);
    thole_v1_ShardSpec *spec = thole_v1_Shard_mutable_spec(s, c->arena);
    thole_v1_Shard_set_name(s, cli__sv(name));
    thole_v1_Shard_set_id(s, 7);
    thole_v1_ShardSpec_set_type(spec, cli__sv("kv"));
    thole_v1_ShardSpec_set_voters(spec, voters);
    rows_add(rows, s);
}

static void print_two(struct cli *c)
{
    struct rows rows = {.kind = ROWS_SHARDS};
    add_shard(c, &rows, "a", 3);
    add_shard(c, &rows, "a-long-name", 15);
    rows_show(c, &rows, true, false);
    rows_deinit(&rows);
}

static void print_none(struct cli *c)
{
    struct rows rows = {.kind = ROWS_SHARDS};
    rows_show(c, &rows, false, false);
}

static void test_a_table_is_aligned_and_has_no_trailing_blanks(void **state)
{
    (void)state;
    struct cli c = cli_with("table");
    assert_string_equal(captured(print_two, &c),
                        "NAME         TYPE  VOTERS  READY  LEADER  TERM  AGE\n"
                        "a            kv         3  no     -          0  -\n"
                        "a-long-name  kv        15  no     -          0  -\n");
    cli__deinit(&c);
}

static void test_a_watch_has_one_header(void **state)
{
    (void)state;
    struct cli c = cli_with("table");
    struct cli_table_layout layout = {0};
    c.layout = &layout;
    (void)captured(print_two, &c);
    assert_string_equal(captured(print_two, &c),
                        "a            kv         3  no     -          0  -\n"
                        "a-long-name  kv        15  no     -          0  -\n");
    cli__deinit(&c);
}

#define REST                                                                      \
    ",\"nonVoting\":[],\"constraints\":[],\"witnesses\":0,\"spread\":[],"         \
    "\"leaderPreference\":[],\"deletionProtection\":false,\"leaseReads\":false}," \
    "\"etag\":\"\",\"generation\":\"0\","                                         \
    "\"revision\":\"0\",\"createTime\":null,\"initial\":[],\"deleting\":false,"   \
    "\"pool\":\"\",\"awaitsRestore\":false,\"beginsAgain\":false}"
#define SHARD(name) "{\"kind\":\"Shard\",\"name\":\"" name "\",\"id\":\"7\",\"spec\":"

static void test_json_has_defaults_and_a_kind(void **state)
{
    (void)state;
    struct cli c = cli_with("json");
    assert_string_equal(
        captured(print_two, &c),
        "[" SHARD("a") "{\"type\":\"kv\",\"config\":\"\",\"voters\":3" REST ",\n " SHARD(
            "a-long-name") "{\"type\":\"kv\",\"config\":\"\",\"voters\":15" REST "]\n");
    assert_string_equal(captured(print_none, &c), "[]\n");
    cli__deinit(&c);
}

static void test_json_names_enums_as_specs_do_and_times_by_date(void **state)
{
    (void)state;
    struct cli c = cli_with("json");
    struct bytes out = {0};
    thole_v1_Operation *o = thole_v1_Operation_new(c.arena);
    thole_v1_Operation_set_kind(o, thole_v1_OPERATION_KIND_DRAIN);
    thole_v1_Operation_set_message(o, cli__sv("a \"b\"\n\x01"));
    thole_v1_Operation_set_start_time_ms(o, 1732973532123);
    thole_v1_Operation_add_controllers(o, thole_v1_CONTROLLER_BALANCE, c.arena);
    cli__json_object("Operation", o, rows_def(&c, ROWS_OPERATIONS), &out);
    bytes_append(&out, "", 1);
    static const char *const parts[] = {
        "{\"id\":\"0\",\"kind\":\"DRAIN\"", "\"state\":null", "\"controllers\":[\"BALANCE\"]",
        "\"message\":\"a \\\"b\\\"\\u000a\\u0001\"",
        "\"startTime\":\"2024-11-30T13:32:12.123Z\",\"endTime\":null"};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (strstr((const char *)out.data, parts[i]) == NULL) {
            fail_msg("no %s in %s", parts[i], (const char *)out.data);
        }
    }
    bytes_deinit(&out);
    cli__deinit(&c);
}

static void test_names_are_one_a_line(void **state)
{
    (void)state;
    struct cli c = cli_with("name");
    assert_string_equal(captured(print_two, &c), "shards/a\nshards/a-long-name\n");
    cli__deinit(&c);
}

static void test_yaml_is_a_spec_again(void **state)
{
    (void)state;
    struct cli c = cli_with("yaml");
    const char *text = captured(print_two, &c);
    assert_ptr_equal(strstr(text, "kind: Shard\nname: a\nid: \"7\"\nspec:\n  type: kv\n"), text);
    assert_non_null(strstr(text, "  voters: 3\n"));
    assert_non_null(strstr(text, "\n---\nkind: Shard\nname: a-long-name\n"));
    assert_non_null(strstr(text, "\ncreateTime: null\n"));
    assert_non_null(strstr(text, "  leaseReads: false\n"));
    cli__deinit(&c);
}

static void print_hostile(struct cli *c)
{
    static const char *const columns[] = {"TAGS", NULL};
    (void)c;
    cli__line("tag %s", "\x1b[31mred\r\n\x7f \xc2\x9b end \xc3\xa9");
    struct cli_table *t = cli__table_new(false, columns);
    cli__table_row(t);
    cli__table_cell(t, "%s", "a\x1b]0;title\x07");
    cli__table_print(t, NULL);
}

static void test_control_characters_in_data_are_shown(void **state)
{
    (void)state;
    struct cli c = cli_with("table");
    const char *text = captured(print_hostile, &c);
    assert_null(strpbrk(text, "\x1b\r\x07\x7f"));
    assert_non_null(strstr(text, "tag \\x1b[31mred\\x0d\\x0a\\x7f \\x9b end \xc3\xa9\n"));
    assert_non_null(strstr(text, "a\\x1b]0;title\\x07"));
    cli__deinit(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_table_is_aligned_and_has_no_trailing_blanks),
        cmocka_unit_test(test_a_watch_has_one_header),
        cmocka_unit_test(test_control_characters_in_data_are_shown),
        cmocka_unit_test(test_json_has_defaults_and_a_kind),
        cmocka_unit_test(test_json_names_enums_as_specs_do_and_times_by_date),
        cmocka_unit_test(test_names_are_one_a_line),
        cmocka_unit_test(test_yaml_is_a_spec_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
