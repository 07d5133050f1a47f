/* Words, transactions and output of `thole kv`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/cli/cmd_kv.h"
#include "agent/cli/test/captured.h"
#include "thole/kv/v1/modify.upb.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

/* ---- Words ----------------------------------------------------------------------------------- */

static void test_escapes_are_read_back(void **state)
{
    (void)state;
    static const char raw[] = "a\\b\n\t\0\x7f\xff z";
    upb_StringView bytes = {raw, sizeof raw - 1};
    for (int hex = 0; hex < 2; hex++) {
        struct bytes shown = {0}, back = {0};
        kv_escape(bytes, hex == 1, &shown);
        upb_StringView text = {(const char *)shown.data, shown.size};
        assert_true(kv_unescape(text, &back));
        assert_int_equal(back.size, bytes.size);
        assert_memory_equal(back.data, raw, back.size);
        bytes_append(&shown, "", 1);
        assert_string_equal((const char *)shown.data,
                            hex == 1 ? "\\x61\\x5c\\x62\\x0a\\x09\\x00\\x7f\\xff\\x20\\x7a"
                                     : "a\\\\b\\n\\t\\x00\\x7f\\xff z");
        bytes_deinit(&shown);
        bytes_deinit(&back);
    }
}

static void test_text_of_other_languages_is_no_escape(void **state)
{
    (void)state;
    struct bytes shown = {0};
    kv_escape(cli__sv("größe \"1\""), false, &shown);
    bytes_append(&shown, "", 1);
    assert_string_equal((const char *)shown.data, "größe \"1\"");
    bytes_deinit(&shown);
}

static void test_wrong_escapes_are_refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {"\\", "a\\", "\\q", "\\x", "\\x1", "\\xg0", "\\x0g"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct bytes out = {0};
        assert_false(kv_unescape(cli__sv(wrong[i]), &out));
        bytes_deinit(&out);
    }
}

static void test_a_prefix_ends_before_the_next(void **state)
{
    (void)state;
    upb_Arena *arena = upb_Arena_New();
    assert_true(upb_StringView_IsEqual(kv_prefix_end(arena, cli__sv("ab")), cli__sv("ac")));
    assert_true(upb_StringView_IsEqual(kv_prefix_end(arena, cli__sv("a\xff\xff")), cli__sv("b")));
    assert_true(upb_StringView_IsEqual(kv_prefix_end(arena, cli__sv("\xff")), kv_no_end));
    assert_true(upb_StringView_IsEqual(kv_prefix_end(arena, KV_NONE), kv_no_end));
    upb_Arena_Free(arena);
}

static void test_ids_of_leases_are_hexadecimal(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "", "0", "-1", "0x12", "g", "1 ", "8000000000000000", "00000000000000001"};
    int64_t id = 0;
    assert_true(kv_lease_id("7fffffffffffffff", &id));
    assert_int_equal(id, INT64_MAX);
    assert_true(kv_lease_id("1F", &id));
    assert_int_equal(id, 31);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_false(kv_lease_id(wrong[i], &id));
    }
}

/* ---- Arguments ------------------------------------------------------------------------------- */

#define COPY_BYTES 128

/* The words of one command line; `c` keeps pointing into `copy`, of COPY_BYTES. */
static int parse(struct cli *c, char *copy, const char *line)
{
    const char *words[16];
    int count = 1;
    char *save = NULL;
    snprintf(copy, COPY_BYTES, "%s", line);
    words[0] = "thole";
    for (char *w = strtok_r(copy, " ", &save); w != NULL; w = strtok_r(NULL, " ", &save)) {
        words[count++] = strcmp(w, "''") == 0 ? "" : w;
    }
    *c = (struct cli){.arena = upb_Arena_New(), .pool = upb_DefPool_New()};
    return cli__parse(c, count, words);
}

static void test_ranges_are_of_key_end_prefix_or_all(void **state)
{
    (void)state;
    static const struct {
        const char *line, *key, *end;
        size_t key_size, end_size;
        int code;
    } cases[] = {
        {"kv get s a", "a", "", 1, 0, CLI_OK},
        {"kv get s a c", "a", "c", 1, 1, CLI_OK},
        {"kv get s '' c", "\0", "c", 1, 1, CLI_OK},
        {"kv get s", "\0", "\0", 1, 1, CLI_OK},
        {"kv get s a --prefix", "a", "b", 1, 1, CLI_OK},
        {"kv get s '' --prefix", "\0", "\0", 1, 1, CLI_OK},
        {"kv get s a --from-key", "a", "\0", 1, 1, CLI_OK},
        {"kv get s a\\x00\\xff --escaped", "a\0\xff", "", 3, 0, CLI_OK},
        {"kv get s ''", NULL, NULL, 0, 0, CLI_USAGE},
        {"kv get s a\\ --escaped", NULL, NULL, 0, 0, CLI_USAGE},
        {"kv get s a b --prefix", NULL, NULL, 0, 0, CLI_USAGE},
        {"kv get s --prefix", NULL, NULL, 0, 0, CLI_USAGE},
        {"kv get s a --from-key --prefix", NULL, NULL, 0, 0, CLI_USAGE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cli c;
        char copy[COPY_BYTES];
        upb_StringView key = KV_NONE, end = KV_NONE;
        assert_int_equal(parse(&c, copy, cases[i].line), CLI_OK);
        assert_int_equal(kv_range_arguments(&c, true, &key, &end), cases[i].code);
        if (cases[i].code == CLI_OK) {
            assert_int_equal(key.size, cases[i].key_size);
            assert_memory_equal(key.data, cases[i].key, key.size);
            assert_int_equal(end.size, cases[i].end_size);
            assert_true(end.size == 0 || memcmp(end.data, cases[i].end, end.size) == 0);
        }
        cli__deinit(&c);
    }
}

static void test_values_are_text_files_or_begin_with_an_at(void **state)
{
    (void)state;
    struct cli c;
    char copy[COPY_BYTES], line[128], path[] = "/tmp/test-cli-kv-XXXXXX";
    upb_StringView value = KV_NONE;
    int fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, "a\0b\n", 4) == 4);
    close(fd);
    snprintf(line, sizeof line, "kv put s k @%s", path);
    assert_int_equal(parse(&c, copy, line), CLI_OK);
    assert_int_equal(kv_value_argument(&c, 2, &value), CLI_OK);
    assert_int_equal(value.size, 4);
    assert_memory_equal(value.data, "a\0b\n", 4);
    cli__deinit(&c);
    unlink(path);
    assert_int_equal(parse(&c, copy, line), CLI_OK);
    assert_int_equal(kv_value_argument(&c, 2, &value), CLI_FAILED);
    cli__deinit(&c);
    assert_int_equal(parse(&c, copy, "kv put s k @@home"), CLI_OK);
    assert_int_equal(kv_value_argument(&c, 2, &value), CLI_OK);
    assert_true(upb_StringView_IsEqual(value, cli__sv("@home")));
    cli__deinit(&c);
}

/* ---- Transactions ---------------------------------------------------------------------------- */

struct reading {
    upb_Arena *arena;
    struct kv_txn_reader r;
    struct thole_status st;
};

/* The status of the first line that is wrong. */
static enum thole_code read_text(struct reading *x, const char *text)
{
    enum thole_code code = THOLE_OK;
    x->arena = upb_Arena_New();
    kv_txn_reader_init(&x->r, x->arena);
    while (*text != '\0' && code == THOLE_OK) {
        size_t size = strcspn(text, "\n");
        code = kv_txn_read_line(&x->r, slice_of(text, size), &x->st);
        text += size + (text[size] == '\n');
    }
    return code;
}

static void test_a_transaction_has_three_parts(void **state)
{
    (void)state;
    struct reading x;
    size_t n = 0;
    assert_int_equal(read_text(&x, "mod(\"key 1\") > \"0\"\n"
                                   "value('k') = \"a \\x00\\\"b\"\n"
                                   "lease(k) != 1f\n"
                                   "ver(k)<3\n"
                                   "\n"
                                   "put \"key 1\" 'a value' --lease=1f --prev-kv\n"
                                   "get a b --limit=3 --rev=7 --keys-only\n"
                                   "del a --prefix --prev-kv\n"
                                   "add n -5\n"
                                   "append t \" more\"\n"
                                   "\n"
                                   "get k\n"
                                   "put -- --k v\n\n"),
                     THOLE_OK);
    assert_int_equal(x.r.section, KV_TXN_END);
    const etcdserverpb_Compare *const *compares = etcdserverpb_TxnRequest_compare(x.r.txn, &n);
    assert_int_equal(n, 4);
    assert_true(upb_StringView_IsEqual(etcdserverpb_Compare_key(compares[0]), cli__sv("key 1")));
    assert_int_equal(etcdserverpb_Compare_target(compares[0]), etcdserverpb_Compare_MOD);
    assert_int_equal(etcdserverpb_Compare_result(compares[0]), etcdserverpb_Compare_GREATER);
    upb_StringView value = etcdserverpb_Compare_value(compares[1]);
    assert_int_equal(value.size, 5);
    assert_memory_equal(value.data, "a \0\"b", 5);
    assert_int_equal(etcdserverpb_Compare_lease(compares[2]), 31);
    assert_int_equal(etcdserverpb_Compare_result(compares[2]), etcdserverpb_Compare_NOT_EQUAL);
    assert_int_equal(etcdserverpb_Compare_version(compares[3]), 3);

    const etcdserverpb_RequestOp *const *ops = etcdserverpb_TxnRequest_success(x.r.txn, &n);
    assert_int_equal(n, 5);
    const etcdserverpb_PutRequest *put = etcdserverpb_RequestOp_request_put(ops[0]);
    assert_true(upb_StringView_IsEqual(etcdserverpb_PutRequest_value(put), cli__sv("a value")));
    assert_int_equal(etcdserverpb_PutRequest_lease(put), 31);
    assert_true(etcdserverpb_PutRequest_prev_kv(put));
    const etcdserverpb_RangeRequest *get = etcdserverpb_RequestOp_request_range(ops[1]);
    assert_int_equal(etcdserverpb_RangeRequest_limit(get), 3);
    assert_int_equal(etcdserverpb_RangeRequest_revision(get), 7);
    assert_true(etcdserverpb_RangeRequest_keys_only(get));
    assert_true(upb_StringView_IsEqual(etcdserverpb_RangeRequest_range_end(get), cli__sv("b")));
    const etcdserverpb_DeleteRangeRequest *del =
        etcdserverpb_RequestOp_request_delete_range(ops[2]);
    assert_true(
        upb_StringView_IsEqual(etcdserverpb_DeleteRangeRequest_range_end(del), cli__sv("b")));
    assert_int_equal(thole_kv_v1_ModifyRequest_add(etcdserverpb_RequestOp_request_modify(ops[3])),
                     -5);
    assert_true(upb_StringView_IsEqual(
        thole_kv_v1_ModifyRequest_append(etcdserverpb_RequestOp_request_modify(ops[4])),
        cli__sv(" more")));

    ops = etcdserverpb_TxnRequest_failure(x.r.txn, &n);
    assert_int_equal(n, 2);
    put = etcdserverpb_RequestOp_request_put(ops[1]);
    assert_true(upb_StringView_IsEqual(etcdserverpb_PutRequest_key(put), cli__sv("--k")));
    upb_Arena_Free(x.arena);
}

static void test_wrong_lines_are_refused_with_their_number(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"mod(k)", "line 1 of the transaction: a comparison is like"},
        {"mod k = 1", "line 1 of the transaction: a comparison is like"},
        {"size(k) = 1", "line 1 of the transaction: compare value, version"},
        {"mod(k) ~ 1", "line 1 of the transaction: compare with"},
        {"mod(k) = x", "\"x\" is no number"},
        {"mod(k) = 99999999999999999999", "is no number"},
        {"lease(k) = xyz", "is no number, in hexadecimal"},
        {"mod(k) = 1 mod(l) = 2", "is too much"},
        {"value(\"k) = 1", "a comparison is like"},
        {"\nput k", "line 2 of the transaction: usage: put KEY VALUE"},
        {"\nput k a b", "quote a value with blanks"},
        {"\nput k \"a", "a quote is not closed"},
        {"\nput k \"\\q\"", "wrong escape"},
        {"\nget k --limit", "no option \"--limit\""},
        {"\nget k --limit=x", "no option \"--limit=x\""},
        {"\nget k --lease=1", "get has no such option"},
        {"\ndel k --limit=1", "del has no such option"},
        {"\ndel k l --prefix", "usage: del KEY"},
        {"\nadd k x", "usage: add KEY NUMBER"},
        {"\nfrobnicate k", "operations are get, put, del"},
        {"\nget 1 2 3 4 5 6 7 8", "too many words"},
        {"\n\n\nget k", "line 4 of the transaction: a transaction has three parts"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct reading x;
        assert_int_equal(read_text(&x, cases[i].text), THOLE_INVALID_ARGUMENT);
        if (strstr(x.st.message, cases[i].says) == NULL) {
            fail_msg("%s: %s", cases[i].text, x.st.message);
        }
        upb_Arena_Free(x.arena);
    }
}

/* ---- Output ---------------------------------------------------------------------------------- */

static void print_items(struct cli *c)
{
    mvccpb_KeyValue *a = mvccpb_KeyValue_new(c->arena), *b = mvccpb_KeyValue_new(c->arena);
    mvccpb_KeyValue_set_key(a, cli__sv("a\nb"));
    mvccpb_KeyValue_set_value(a, (upb_StringView){"\0x", 2});
    mvccpb_KeyValue_set_version(a, 1);
    mvccpb_KeyValue_set_create_revision(a, 12);
    mvccpb_KeyValue_set_mod_revision(a, 12);
    mvccpb_KeyValue_set_key(b, cli__sv("c"));
    mvccpb_KeyValue_set_value(b, cli__sv("two words"));
    mvccpb_KeyValue_set_lease(b, 0x7b);
    const mvccpb_KeyValue *items[] = {a, b};
    struct kv_list list = {.c = c};
    kv_list_add(&list, items, 1);
    kv_list_add(&list, items + 1, 1);
    assert_int_equal(kv_list_end(&list), CLI_OK);
}

static void test_lists_have_a_line_for_each_key(void **state)
{
    (void)state;
    struct cli c = cli_with("table");
    assert_string_equal(captured(print_items, &c), "a\\nb \\x00x\nc two words\n");
    c.options.values[OPT_HEX].number = 1;
    assert_string_equal(captured(print_items, &c),
                        "\\x61\\x0a\\x62 \\x00\\x78\n"
                        "\\x63 \\x74\\x77\\x6f\\x20\\x77\\x6f\\x72\\x64\\x73\n");
    c.options.values[OPT_HEX].number = 0;
    c.options.values[OPT_OUTPUT].text = "name";
    assert_string_equal(captured(print_items, &c), "a\\nb\nc\n");
    c.options.values[OPT_OUTPUT].text = "wide";
    assert_string_equal(captured(print_items, &c),
                        "a\\nb version=1 created=12 changed=12 \\x00x\n"
                        "c version=0 created=0 changed=0 lease=7b two words\n");
    cli__deinit(&c);
}

static void test_documents_are_one_list(void **state)
{
    (void)state;
    struct cli c = cli_with("json");
    assert_string_equal(captured(print_items, &c),
                        "[{\"key\":\"YQpi\",\"createRevision\":\"12\",\"modRevision\":\"12\","
                        "\"version\":\"1\",\"value\":\"AHg=\",\"lease\":\"0\"},\n "
                        "{\"key\":\"Yw==\",\"createRevision\":\"0\",\"modRevision\":\"0\","
                        "\"version\":\"0\",\"value\":\"dHdvIHdvcmRz\",\"lease\":\"123\"}]\n");
    c.options.values[OPT_OUTPUT].text = "yaml";
    assert_non_null(strstr(captured(print_items, &c), "key: YQpi"));
    cli__deinit(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_escapes_are_read_back),
        cmocka_unit_test(test_text_of_other_languages_is_no_escape),
        cmocka_unit_test(test_wrong_escapes_are_refused),
        cmocka_unit_test(test_a_prefix_ends_before_the_next),
        cmocka_unit_test(test_ids_of_leases_are_hexadecimal),
        cmocka_unit_test(test_ranges_are_of_key_end_prefix_or_all),
        cmocka_unit_test(test_values_are_text_files_or_begin_with_an_at),
        cmocka_unit_test(test_a_transaction_has_three_parts),
        cmocka_unit_test(test_wrong_lines_are_refused_with_their_number),
        cmocka_unit_test(test_lists_have_a_line_for_each_key),
        cmocka_unit_test(test_documents_are_one_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
