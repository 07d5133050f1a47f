/* Specs: a valid spec becomes messages, an invalid one reports a line number and a field's name. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/cli/cli.h"
#include "agent/cli/spec.h"
#include "thole/v1/resources.upb.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

struct fixture {
    upb_DefPool *pool;
    upb_Arena *arena;
    struct spec_list list;
    struct spec_error error;
};

static int setup(void **state)
{
    struct fixture *f = xcalloc(1, sizeof *f);
    f->pool = upb_DefPool_New();
    f->arena = upb_Arena_New();
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    spec_list_deinit(&f->list);
    upb_DefPool_Free(f->pool);
    upb_Arena_Free(f->arena);
    free(f);
    return 0;
}

static bool parse(struct fixture *f, const char *text)
{
    return spec_parse(f->pool, f->arena, "x.yaml", slice_str(text), &f->list, &f->error);
}

static void assert_good(struct fixture *f, const char *text)
{
    if (!parse(f, text)) {
        fail_msg("%s", f->error.text);
    }
}

static void assert_bad(struct fixture *f, const char *text, const char *error)
{
    f->error.text[0] = '\0';
    if (parse(f, text)) {
        fail_msg("accepted: %s", text);
    }
    if (strncmp(f->error.text, error, strlen(error)) != 0) {
        fail_msg("expected: %s\n     got: %s", error, f->error.text);
    }
}

static void test_shard_with_everything_is_read(void **state)
{
    struct fixture *f = *state;
    assert_good(f, "# comment\n"
                   "kind: Shard\n"
                   "name: orders\n"
                   "etag: abc\n"
                   "spec:\n"
                   "  type: kv\n"
                   "  config: aGVsbG8=\n"
                   "  voters: 3\n"
                   "  nonVoting:\n"
                   "    - count: 2\n"
                   "    - {cover: true, constraints: [{key: edge, operator: EXISTS}]}\n"
                   "  witnesses: 1\n"
                   "  spread: [zone, rack]\n"
                   "  leaderPreference: [{key: zone, operator: IN, values: [a]}]\n"
                   "  constraints:\n"
                   "    - {key: zone, operator: IN, values: [a, \"1\", 2]}\n"
                   "    - key: disk\n"
                   "      operator: CONSTRAINT_OPERATOR_NOT_EXISTS\n");
    assert_int_equal(f->list.count, 1);
    const thole_v1_Shard *s = (const thole_v1_Shard *)f->list.items[0].row;
    const thole_v1_ShardSpec *spec = thole_v1_Shard_spec(s);
    assert_int_equal(f->list.items[0].kind, SPEC_SHARD);
    assert_int_equal(f->list.items[0].line, 2);
    assert_true(upb_StringView_IsEqual(thole_v1_Shard_name(s), cli__sv("orders")));
    assert_true(upb_StringView_IsEqual(thole_v1_Shard_etag(s), cli__sv("abc")));
    assert_true(upb_StringView_IsEqual(thole_v1_ShardSpec_config(spec), cli__sv("hello")));
    assert_int_equal(thole_v1_ShardSpec_voters(spec), 3);
    size_t n = 0, values = 0;
    const thole_v1_ReplicaGroup *const *groups = thole_v1_ShardSpec_non_voting(spec, &n);
    assert_int_equal(n, 2);
    assert_int_equal(thole_v1_ReplicaGroup_count(groups[0]), 2);
    assert_true(thole_v1_ReplicaGroup_cover(groups[1]));
    assert_int_equal(thole_v1_ShardSpec_witnesses(spec), 1);
    thole_v1_ShardSpec_spread(spec, &n);
    assert_int_equal(n, 2);
    const thole_v1_Constraint *const *k = thole_v1_ShardSpec_constraints(spec, &n);
    assert_int_equal(n, 2);
    assert_int_equal(thole_v1_Constraint_operator(k[0]), thole_v1_CONSTRAINT_OPERATOR_IN);
    const upb_StringView *value = thole_v1_Constraint_values(k[0], &values);
    assert_int_equal(values, 3);
    assert_true(upb_StringView_IsEqual(value[2], cli__sv("2")));
    assert_int_equal(thole_v1_Constraint_operator(k[1]), thole_v1_CONSTRAINT_OPERATOR_NOT_EXISTS);
}

static void test_several_documents_and_json_are_read(void **state)
{
    struct fixture *f = *state;
    assert_good(f, "---\nkind: Host\nname: h1\nspec:\n  state: draining\n  tags: {zone: a, n: 1}\n"
                   "---\n"
                   "{\"kind\": \"Shard\", \"name\": \"a\",\n\t\"spec\": {\"type\": \"kv\", "
                   "\"voters\": 1, \"non_voting\": null}}\n"
                   "---\n");
    assert_int_equal(f->list.count, 2);
    const thole_v1_Host *h = (const thole_v1_Host *)f->list.items[0].row;
    assert_int_equal(thole_v1_HostSpec_state(thole_v1_Host_spec(h)), thole_v1_HOST_STATE_DRAINING);
    upb_StringView zone;
    assert_true(thole_v1_HostSpec_tags_get(thole_v1_Host_spec(h), cli__sv("n"), &zone));
    assert_true(upb_StringView_IsEqual(zone, cli__sv("1")));
    assert_int_equal(f->list.items[1].line, 8);
}

static void test_observed_fields_are_ignored(void **state)
{
    struct fixture *f = *state;
    assert_good(f, "kind: Shard\nname: a\nid: '7'\ngeneration: '3'\ncreateTimeMs: '17'\n"
                   "status: {leaderHost: h1, conditions: [{type: Ready}]}\ninitial: []\n"
                   "deleting: false\nspec: {type: kv, voters: 1}\n");
    assert_int_equal(thole_v1_Shard_id((const thole_v1_Shard *)f->list.items[0].row), 0);
}

static void test_nothing_in_a_file_is_no_document(void **state)
{
    struct fixture *f = *state;
    assert_good(f, "");
    assert_good(f, "# only a comment\n---\n");
    assert_int_equal(f->list.count, 0);
}

static void test_bad_documents_name_line_and_field(void **state)
{
    struct fixture *f = *state;
    assert_bad(f, "kind: Shard\nname: a\nspec:\n  type: kv\n  votrs: 3\n",
               "x.yaml:5: spec: there is no field votrs; the fields are type, config, voters");
    assert_bad(f, "kind: Shard\nname: a\nspec:\n  voters: three\n",
               "x.yaml:4: spec.voters: \"three\" is not a whole number");
    assert_bad(f, "kind: Shard\nname: a\nspec:\n  voters: -1\n",
               "x.yaml:4: spec.voters: -1 is out of range");
    assert_bad(f, "kind: Shard\nname: a\nspec:\n  voters: 4294967296\n",
               "x.yaml:4: spec.voters: 4294967296 is out of range");
    assert_bad(f, "kind: Shard\nname: a\nspec:\n  voters: [3]\n",
               "x.yaml:4: spec.voters: expected one value");
    assert_bad(f, "kind: Shard\nname: a\nspec:\n  config: '***'\n",
               "x.yaml:4: spec.config: is not base64");
    assert_bad(f, "kind: Shard\nname: a\nspec:\n  voters: 1\n  voters: 2\n",
               "x.yaml:5: spec.voters: is set twice");
    assert_bad(f, "kind: Shard\nname: a\nspec:\n  constraints:\n  - {key: z, operator: LIKE}\n",
               "x.yaml:5: spec.constraints[0].operator: \"LIKE\" is not one of IN, NOT_IN, EXISTS");
    assert_bad(f, "kind: Shard\nname: a\nspec:\n  constraints: {key: z}\n",
               "x.yaml:4: spec.constraints: expected a list");
    assert_bad(f, "kind: Host\nname: a\nspec:\n  tags: [a]\n",
               "x.yaml:4: spec.tags: expected \"key: value\" pairs");
    assert_bad(f, "kind: Host\nname: a\nspec: {tags: {a: 1, a: 2}}\n",
               "x.yaml:3: spec.tags: \"a\" is set twice");
    assert_bad(f, "kind: Host\nname: a\nspec: 7\n", "x.yaml:3: spec: expected fields");
}

/* A plain null is not text, and text must be printable on a terminal. */
static void test_nulls_and_bad_text_name_the_field(void **state)
{
    struct fixture *f = *state;
    static const char *const nulls[] = {"null", "~", "", "Null", "NULL"};
    char yaml[200];
    for (size_t i = 0; i < sizeof nulls / sizeof nulls[0]; i++) {
        snprintf(yaml, sizeof yaml, "kind: Host\nname: a\nspec:\n  tags:\n    zone: %s\n",
                 nulls[i]);
        assert_bad(f, yaml, "x.yaml:5: spec.tags.zone: has no value");
        snprintf(yaml, sizeof yaml, "kind: Shard\nname: a\nspec:\n  spread:\n  - %s\n", nulls[i]);
        assert_bad(f, yaml, "x.yaml:5: spec.spread[0]: has no value");
        snprintf(yaml, sizeof yaml, "kind: Shard\nname: %s\nspec: {}\n", nulls[i]);
        assert_bad(f, yaml, "x.yaml:1: name is missing");
    }
    assert_bad(f, "kind: Host\nname: a\nspec:\n  tags: {null: b}\n",
               "x.yaml:4: spec.tags: has no value");
    assert_bad(f, "kind: Host\nname: a\nspec:\n  tags: {zone: \"a\\nb\"}\n",
               "x.yaml:4: spec.tags.zone: has a control character");
    assert_bad(f, "kind: Host\nname: a\nspec:\n  tags: {\"a\\0b\": c}\n",
               "x.yaml:4: spec.tags: has a control character");
    assert_bad(f, "kind: Shard\nname: \"a\\e[1m\"\nspec: {}\n",
               "x.yaml:2: name: has a control character");
    assert_bad(f, "kind: Host\nname: a\nspec:\n  tags: {zone: caf\xe9}\n",
               "x.yaml:1: invalid trailing UTF-8 octet");
    assert_good(f, "kind: Host\nname: a\nspec:\n  tags: {zone: \"null\", n: 1, c: caf\xc3\xa9}\n");
}

static void test_bad_frames_are_refused(void **state)
{
    struct fixture *f = *state;
    assert_bad(f, "name: a\n", "x.yaml:1: kind is missing");
    assert_bad(f, "kind: Pod\nname: a\n", "x.yaml:1: kind: \"Pod\" is not one of");
    assert_bad(f, "kind: Shard\nspec: {type: kv}\n", "x.yaml:1: name is missing");
    assert_bad(f, "kind: Shard\nname: a\n", "x.yaml:1: spec is missing");
    assert_bad(f, "kind: Shard\nname: a\nspecs: {}\nspec: {}\n",
               "x.yaml:3: there is no field specs");
    assert_bad(f, "kind: Shard\nname: a\nname: b\nspec: {}\n", "x.yaml:3: name: is set twice");
    assert_bad(f, "kind: Shard\nname: [a]\nspec: {}\n", "x.yaml:2: name: expected one value");
    assert_bad(f, "- a\n- b\n", "x.yaml:1: expected a document with kind");
    assert_bad(f, "kind: Shard\nname: {\n", "x.yaml:");
    assert_bad(f, "kind: Shard\n\tname: a\n", "x.yaml:2:");
}

static void test_aliases_that_explode_or_loop_are_refused(void **state)
{
    struct fixture *f = *state;
    assert_bad(f, "kind: Shard\nname: a\nspec: &s\n  constraints: [*s]\n", "x.yaml:");
    struct bytes text = {0};
    bytes_append_str(&text, "kind: Host\nname: a\nx: &a0 [a,a,a,a,a,a,a,a,a,a]\n");
    for (int i = 1; i < 12; i++) {
        bytes_printf(&text, "x%d: &a%d [*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d]\n", i, i,
                     i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1);
    }
    bytes_append(&text, "", 1);
    assert_bad(f, (const char *)text.data, "x.yaml:3: there is no field x");
    bytes_deinit(&text);
}

static uint64_t cpu_ms(void)
{
    struct timespec t;
    assert_int_equal(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t), 0);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void assert_bad_soon(struct fixture *f, const char *line, size_t times, const char *expected)
{
    struct bytes text = {0};
    for (size_t i = 0; i < times; i++) {
        bytes_append_str(&text, line);
    }
    bytes_append(&text, "", 1);
    uint64_t begin = cpu_ms();
    assert_bad(f, (const char *)text.data, expected);
    assert_true(cpu_ms() - begin < 1000);
    bytes_deinit(&text);
}

static void test_deep_nesting_costs_little(void **state)
{
    struct fixture *f = *state;
    assert_bad_soon(f, "[", 100000, "x.yaml:1: is nested too deeply");
    assert_bad_soon(f, "{", 100000, "x.yaml:1: is nested too deeply");
    assert_bad_soon(f, "- ", 50000, "x.yaml:1: is nested too deeply");
    assert_bad_soon(f, "[\n", 100000, "x.yaml:33: is nested too deeply");
    assert_bad_soon(f, "[", 30, "x.yaml:"); /* unfinished, but not too deep */
}

static void test_many_anchors_cost_little(void **state)
{
    struct fixture *f = *state;
    struct bytes text = {0};
    for (int i = 0; i < 100000; i++) {
        bytes_printf(&text, "- &a%d x\n", i);
    }
    bytes_append(&text, "", 1);
    uint64_t begin = cpu_ms();
    assert_bad(f, (const char *)text.data, "x.yaml:1001: has too many anchors");
    assert_true(cpu_ms() - begin < 1000);
    bytes_deinit(&text);
}

static void test_yaml_output_can_be_read_again(void **state)
{
    struct fixture *f = *state;
    struct bytes out = {0};
    assert_true(
        cli__yaml("Host",
                  slice_str("{\"name\":\"no\",\"spec\":{\"tags\":{\"a\":\"1\",\"b\":\"x y\","
                            "\"c\":\"- z\",\"d\":\"\",\"e\":\"2026-01-01\",\"f\":\"a: b\"}},"
                            "\"generation\":\"12\"}"),
                  &out));
    bytes_append(&out, "", 1);
    assert_string_equal((const char *)out.data, "kind: Host\nname: \"no\"\nspec:\n  tags:\n"
                                                "    a: \"1\"\n    b: x y\n    c: '- z'\n"
                                                "    d: \"\"\n    e: \"2026-01-01\"\n"
                                                "    f: 'a: b'\ngeneration: \"12\"\n");
    assert_good(f, (const char *)out.data);
    bytes_deinit(&out);
}

static void test_units_are_read_and_shown(void **state)
{
    (void)state;
    uint64_t ms = 0;
    char text[32];
    assert_true(options_parse_duration("250ms", UINT32_MAX, &ms) && ms == 250);
    assert_true(options_parse_duration("10", UINT32_MAX, &ms) && ms == 10000);
    assert_true(options_parse_duration("2m", UINT32_MAX, &ms) && ms == 120000);
    assert_true(options_parse_duration("1h", UINT32_MAX, &ms) && ms == 3600000);
    assert_false(options_parse_duration("", UINT32_MAX, &ms));
    assert_false(options_parse_duration("-1s", UINT32_MAX, &ms));
    assert_true(options_parse_duration("1d", UINT32_MAX, &ms) && ms == 86400000);
    assert_false(options_parse_duration("50d", UINT32_MAX, &ms));
    assert_true(options_parse_duration("50d", UINT64_MAX, &ms));
    assert_false(options_parse_duration("99999999999h", UINT32_MAX, &ms));
    assert_string_equal(cli__bytes(1536, text, sizeof text), "1.5K");
    assert_string_equal(cli__bytes(12, text, sizeof text), "12B");
    assert_string_equal(cli__time(1700000000123, text, sizeof text), "2023-11-14T22:13:20.123Z");
    assert_string_equal(cli__strip("shards/a", "shard"), "a");
    assert_string_equal(cli__strip("shard/a", "shard"), "a");
    assert_string_equal(cli__strip("sharded", "shard"), "sharded");
}

static void test_base64_round_trip(void **state)
{
    (void)state;
    for (size_t size = 0; size < 40; size++) {
        uint8_t in[40];
        struct bytes text = {0}, out = {0};
        for (size_t i = 0; i < size; i++) {
            in[i] = (uint8_t)(i * 91 + size);
        }
        cli__base64_encode(slice_of(in, size), &text);
        assert_true(cli__base64_decode((const char *)text.data, text.size, &out));
        assert_int_equal(out.size, size);
        assert_true(size == 0 || memcmp(out.data, in, size) == 0);
        bytes_deinit(&text);
        bytes_deinit(&out);
    }
    struct bytes out = {0};
    assert_false(cli__base64_decode("a", 1, &out));
    assert_false(cli__base64_decode("a===", 4, &out));
    assert_false(cli__base64_decode("ab$d", 4, &out));
    bytes_deinit(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_shard_with_everything_is_read, setup, teardown),
        cmocka_unit_test_setup_teardown(test_several_documents_and_json_are_read, setup, teardown),
        cmocka_unit_test_setup_teardown(test_observed_fields_are_ignored, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_in_a_file_is_no_document, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_documents_name_line_and_field, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nulls_and_bad_text_name_the_field, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_frames_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_aliases_that_explode_or_loop_are_refused, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_deep_nesting_costs_little, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_anchors_cost_little, setup, teardown),
        cmocka_unit_test_setup_teardown(test_yaml_output_can_be_read_again, setup, teardown),
        cmocka_unit_test(test_units_are_read_and_shown),
        cmocka_unit_test(test_base64_round_trip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
