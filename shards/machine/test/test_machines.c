/* The built-in machines through the machine interface. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "etcd/kv.upb.h"
#include "proto/decode.h"
#include "shards/machine/builtin.h"
#include "shards/machine/test/machine_fixture.h"

static void test_builtin_types_are_well_formed(void **state)
{
    (void)state;
    for (size_t i = 0; i < MACHINE_BUILTIN_COUNT; i++) {
        const struct thole_machine_type *t = machine_builtin[i];
        assert_int_equal(t->size, sizeof *t);
        assert_true(t->version >= 1);
        assert_true(strspn(t->name, "abcdefghijklmnopqrstuvwxyz0123456789-") == strlen(t->name));
        assert_non_null(t->open);
        assert_non_null(t->close);
        assert_non_null(t->apply);
        assert_non_null(t->query);
        assert_non_null(t->save);
        assert_non_null(t->restore);
        assert_true((t->view_acquire == NULL) == (t->view_release == NULL));
    }
}

/* ---- counter --------------------------------------------------------------------------------- */

static void test_counter_adds_and_answers(void **state)
{
    struct test_machine t;
    uint8_t amount[10] = {1};
    struct bytes out = {0};

    (void)state;
    test_machine_init(&t, &machine_counter);
    test_text(&t, "add 5", 0, "5");
    test_text(&t, "add -7\n", 0, "-2");
    test_text(&t, "add 1000", 0, "998"); /* eight bytes, and still text */
    test_text(&t, "get", 0, "998");
    put_le64(amount + 1, 2);
    assert_int_equal(test_apply(&t, slice_of(amount, 9), &out), 0);
    assert_int_equal(out.size, 8);
    assert_int_equal(get_le64(out.data), 1000);
    static const char *const bad[] = {"",
                                      "add",
                                      "add ",
                                      "add x",
                                      "add 5 ",
                                      "add --",
                                      "nope",
                                      "add -",
                                      "add 99999999999999999999",
                                      "add 9223372036854775808"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(test_apply(&t, slice_str(bad[i]), &out), 1);
    }
    test_ask(&t, "get", "1000");
    test_ask(&t, "add 5", NULL);
    /* A command in another machine's format, or in no valid format, is not a number. */
    assert_int_equal(test_apply(&t, slice_str("put a bc"), &out), 1);
    assert_int_equal(test_apply(&t, slice_of("\0\x0a\x05\x0a\x01k\x12\0", 8), &out), 1);
    assert_int_equal(test_apply(&t, slice_of(amount, 8), &out), 1);
    assert_int_equal(test_apply(&t, slice_of(amount, 10), &out), 1);
    assert_int_equal(test_apply(&t, slice_of(amount + 1, 8), &out), 1);
    test_ask(&t, "12345678", NULL);
    test_ask(&t, "get", "1000");
    bytes_deinit(&out);
    test_machine_deinit(&t);
}

static void test_counter_snapshot_and_views(void **state)
{
    struct test_machine t, u;
    struct bytes snapshot = {0};
    struct test_sink sink;
    void *view = NULL;

    (void)state;
    test_machine_init(&t, &machine_counter);
    test_machine_init(&u, &machine_counter);
    test_text(&t, "add 41", 0, "41");
    assert_int_equal(t.type->view_acquire(t.m, &view, NULL), THOLE_OK);
    test_text(&t, "add 1", 0, "42");
    test_sink_init(&sink);
    assert_int_equal(t.type->query(t.m, view, (struct thole_slice){"get", 3}, &sink.base, NULL),
                     THOLE_OK);
    assert_true(test_sink_is(&sink, "41"));
    t.type->view_release(t.m, view);
    test_save(&t, &snapshot);
    assert_int_equal(test_restore(&u, bytes_slice(&snapshot), 3, NULL), THOLE_OK);
    test_ask(&u, "get", "42");
    snapshot.size--;
    assert_int_equal(test_restore(&u, bytes_slice(&snapshot), 0, NULL), THOLE_DATA_LOSS);
    bytes_deinit(&snapshot);
    bytes_deinit(&sink.out);
    test_machine_deinit(&t);
    test_machine_deinit(&u);
}

/* ---- noop ------------------------------------------------------------------------------------ */

static void test_noop_counts_and_hashes(void **state)
{
    struct test_machine t, u;
    struct bytes snapshot = {0}, other = {0};

    (void)state;
    test_machine_init(&t, &machine_noop);
    test_machine_init(&u, &machine_noop);
    test_text(&t, "abc", 0, "");
    test_text(&t, "", 0, "");
    test_save(&t, &snapshot);
    assert_int_equal(test_restore(&u, bytes_slice(&snapshot), 0, NULL), THOLE_OK);
    u.index = t.index;
    test_text(&t, "x", 0, "");
    test_text(&u, "x", 0, "");
    test_save(&t, &snapshot);
    test_save(&u, &other);
    assert_true(slice_equal(bytes_slice(&snapshot), bytes_slice(&other)));
    test_text(&t, "y", 0, "");
    test_text(&u, "z", 0, "");
    test_save(&t, &snapshot);
    test_save(&u, &other);
    assert_false(slice_equal(bytes_slice(&snapshot), bytes_slice(&other)));
    bytes_deinit(&snapshot);
    bytes_deinit(&other);
    test_machine_deinit(&t);
    test_machine_deinit(&u);
}

/* ---- kv -------------------------------------------------------------------------------------- */

static int kv_setup(void **state)
{
    struct test_machine *t = xcalloc(1, sizeof *t);

    test_machine_init(t, &machine_kv);
    *state = t;
    return 0;
}

static int kv_teardown(void **state)
{
    test_machine_deinit(*state);
    free(*state);
    return 0;
}

static void test_kv_text_commands(void **state)
{
    struct test_machine *t = *state;

    test_text(t, "put a 1", 0, "ok revision=2 version=1");
    test_text(t, "put a one and more\n", 0, "ok revision=3 version=2");
    test_text(t, "get a", 0, "one and more");
    test_text(t, "get b", 5, "error: no such key");
    test_text(t, "cas a wrong x", 10, "error: not as expected, it is: one and more");
    test_text(t, "put a 1", 0, "ok revision=4 version=3");
    test_text(t, "cas a 1 2", 0, "ok revision=5 version=4");
    test_text(t, "cas-absent a 3", 10, "error: not as expected, it is: 2");
    test_text(t, "cas-absent b 3", 0, "ok revision=6 version=1");
    test_text(t, "cas c 1 2", 10, "error: not as expected, it does not exist");
    test_text(t, "delete b", 0, "deleted 1");
    test_text(t, "delete b", 0, "deleted 0");
    test_text(t, "put b x", 0, "ok revision=8 version=1");
    test_text(t, "put empty", 0, "ok revision=9 version=1");
    test_ask(t, "get empty", "");
    test_ask(t, "get a", "2");
    test_ask(t, "get nothing", NULL);
    test_ask(t, "range", "a 2\nb x\nempty \n");
    test_ask(t, "range a b", "a 2\n");
    test_ask(t, "range b", "b x\nempty \n");
    test_ask(t, "range - - 2", "a 2\nb x\n(more from empty)\n");
    test_text(t, "delete-range a c", 0, "deleted 2");
    test_ask(t, "range", "empty \n");
    test_text(t, "delete-range -", 0, "deleted 1");
    test_ask(t, "range", "");
    test_text(t, "compact 3", 0, "ok");
    test_text(t, "compact 3", 11, "error: etcdserver: mvcc: required revision has been compacted");
    test_text(t, "compact 99", 11,
              "error: etcdserver: mvcc: required revision is a future revision");
}

static void test_kv_malformed_commands_change_nothing(void **state)
{
    static const char *const bad[] = {
        "",
        "put",
        "put ",
        "nope",
        "get",
        "get a b",
        "delete",
        "cas a",
        "cas",
        "cas-absent",
        "delete-range",
        "PUT a",
        " put a",
        "range a",
        "\n",
        "\r\n",
        "delete-range a b c",
        "compact",
        "compact x",
        "compact 0",
    };
    struct test_machine *t = *state;
    struct bytes out = {0};

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(test_apply(t, slice_str(bad[i]), &out), THOLE_INVALID_ARGUMENT);
        assert_memory_equal(out.data, "error: ", 7);
    }
    static const char proto[][6] = {"\0", "\0\x0a", "\0\x0a\x7f", "\0\xff\xff", "\0\x0a\x01\x0a"};
    for (size_t i = 0; i < sizeof proto / sizeof proto[0]; i++) {
        assert_int_equal(test_apply(t, slice_of(proto[i], 1 + strlen(proto[i] + 1)), &out),
                         THOLE_INVALID_ARGUMENT);
    }
    bytes_deinit(&out);
    test_ask(t, "range", "");
    test_ask(t, "", NULL);
    test_ask(t, "range a b x", NULL);
    test_ask(t, "range a b 0", NULL);
    test_ask(t, "put a 1", NULL);
}

static void test_kv_batch_sees_its_own_changes(void **state)
{
    static const char *const commands[] = {"put a 1", "put c 3",          "delete a",
                                           "put b 2", "delete-range a c", "put a again",
                                           "get b",   "cas c 3 4",        "delete-range a -"};
    static const char *const results[] = {"ok revision=4 version=1",
                                          "ok revision=5 version=1",
                                          "deleted 1",
                                          "ok revision=7 version=1",
                                          "deleted 2", /* b, and the stored aa */
                                          "ok revision=9 version=1",
                                          "error: no such key",
                                          "ok revision=10 version=2",
                                          "deleted 3"}; /* a, c, and the stored z */
    enum { N = sizeof commands / sizeof commands[0] };
    struct test_machine *t = *state;
    struct test_sink sinks[N];
    struct thole_entry e[N];
    struct test_watch watch;

    test_text(t, "put aa stored", 0, "ok revision=2 version=1");
    test_text(t, "put z stored", 0, "ok revision=3 version=1");
    for (size_t i = 0; i < N; i++) {
        e[i] = test_entry(101 + i, slice_str(commands[i]), &sinks[i]);
    }
    test_watch_init(&watch);
    struct thole_apply batch = test_batch(e, N);
    batch.watch = &watch.base;
    assert_int_equal(t->type->apply(t->m, &batch, NULL), THOLE_OK);
    for (size_t i = 0; i < N; i++) {
        if (!test_sink_is(&sinks[i], results[i])) {
            fail_msg("%s: %.*s", commands[i], (int)sinks[i].out.size,
                     (const char *)sinks[i].out.data);
        }
        bytes_deinit(&sinks[i].out);
    }
    static const char keys[] = "a c a b aa b a c a c z ";
    char seen[128] = "";
    for (size_t i = 0; i < watch.count; i++) {
        size_t n = strlen(seen);
        snprintf(seen + n, sizeof seen - n, "%s ", watch.events[i].key);
    }
    assert_string_equal(seen, keys);
    upb_Arena *arena = upb_Arena_New();
    const mvccpb_Event *last = PROTO_DECODE(
        mvccpb_Event, slice_of(watch.events[10].event->data, watch.events[10].event->size), arena);
    assert_int_equal(mvccpb_Event_type(last), mvccpb_Event_DELETE);
    assert_int_equal(mvccpb_KeyValue_mod_revision(mvccpb_Event_kv(last)), 11);
    upb_Arena_Free(arena);
    test_watch_clear(&watch);
    test_ask(t, "range", "");
}

struct batch_with_meta {
    struct thole_apply base;
    struct thole_meta meta;
};

static const struct thole_meta *one_record(struct thole_apply *batch, size_t *ret_count)
{
    *ret_count = 1;
    return &((struct batch_with_meta *)(void *)batch)->meta;
}

static void apply_meta(struct test_machine *t, const char *key, const char *value)
{
    struct batch_with_meta batch = {
        test_batch(NULL, 0),
        {{key, strlen(key)}, {value, value != NULL ? strlen(value) : 0}},
    };
    batch.base.metadata = one_record;

    assert_int_equal(t->type->apply(t->m, &batch.base, NULL), THOLE_OK);
}

static void test_kv_reopen_keeps_data_and_metadata(void **state)
{
    struct test_machine *t = *state;

    test_text(t, "put a 1", 0, "ok revision=2 version=1");
    apply_meta(t, "applied", "5");
    apply_meta(t, "session", "x");
    apply_meta(t, "gone", "x");
    apply_meta(t, "gone", NULL);
    assert_true(state_db_unflushed_bytes(t->db) > 0);
    assert_int_equal(state_db_flush(t->db, NULL), THOLE_OK);
    assert_int_equal(state_db_unflushed_bytes(t->db), 0);
    test_machine_reopen(t);
    assert_string_equal(t->meta, "applied=5;session=x;");
    test_ask(t, "range", "a 1\n");
    t->index = 1;
    test_text(t, "put a 2", 0, "ok revision=3 version=2");
}

static void test_kv_save_and_restore_to_another_replica(void **state)
{
    struct test_machine *t = *state;
    struct bytes snapshot = {0}, again = {0};
    char text[64];

    for (int i = 0; i < 3000; i++) {
        snprintf(text, sizeof text, "put key%04d value-%d", i, i);
        assert_int_equal(test_apply(t, slice_str(text), NULL), 0);
    }
    apply_meta(t, "applied", "5");
    test_save(t, &snapshot);
    assert_int_equal(test_apply(t, slice_str("put later x"), NULL), 0);

    /* Another replica on the same host, with leftovers of an interrupted restore. */
    t->type->close(t->m);
    t->env.replica_id = 12;
    t->env.generation = 3;
    t->meta[0] = '\0';
    assert_int_equal(t->type->open(&t->env, &t->m, NULL), THOLE_OK);
    assert_int_equal(test_apply(t, slice_str("put rubbish x"), NULL), 0);
    assert_int_equal(test_restore(t, bytes_slice(&snapshot), 777, NULL), THOLE_OK);
    test_save(t, &again);
    assert_true(slice_equal(bytes_slice(&snapshot), bytes_slice(&again)));
    test_machine_reopen(t);
    assert_string_equal(t->meta, "applied=77;");
    test_ask(t, "get key2999", "value-2999");
    test_ask(t, "get later", NULL);

    /* Both spaces are in place; the first can be dropped. */
    struct state_space *spaces;
    size_t n = 0;
    assert_int_equal(state_spaces(t->db, &spaces, &n, NULL), THOLE_OK);
    assert_int_equal(n, 2);
    assert_int_equal(spaces[0].replica_id, 11);
    assert_int_equal(spaces[1].generation, 3);
    free(spaces);
    struct thole_machine_env old = t->env;
    old.replica_id = 11;
    old.generation = 1;
    assert_int_equal(t->type->destroy(&old, NULL), THOLE_OK);
    assert_int_equal(state_spaces(t->db, &spaces, &n, NULL), THOLE_OK);
    assert_int_equal(n, 1);
    assert_int_equal(spaces[0].replica_id, 12);
    free(spaces);
    bytes_deinit(&snapshot);
    bytes_deinit(&again);
}

static void test_kv_damaged_snapshots_are_refused(void **state)
{
    struct test_machine *t = *state;
    struct bytes snapshot = {0};

    test_text(t, "put a 1", 0, "ok revision=2 version=1");
    test_text(t, "put b 2", 0, "ok revision=3 version=1");
    test_save(t, &snapshot);
    for (size_t n = 0; n < snapshot.size; n++) {
        assert_int_equal(test_restore(t, slice_of(snapshot.data, n), 0, NULL), THOLE_DATA_LOSS);
    }
    bytes_append(&snapshot, "x", 1);
    assert_int_equal(test_restore(t, bytes_slice(&snapshot), 0, NULL), THOLE_DATA_LOSS);
    snapshot.data[0] = 1;
    assert_int_equal(test_restore(t, bytes_slice(&snapshot), 0, NULL), THOLE_DATA_LOSS);
    bytes_deinit(&snapshot);
}

int main(void)
{
#define KV(test) cmocka_unit_test_setup_teardown(test, kv_setup, kv_teardown)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_builtin_types_are_well_formed),
        cmocka_unit_test(test_counter_adds_and_answers),
        cmocka_unit_test(test_counter_snapshot_and_views),
        cmocka_unit_test(test_noop_counts_and_hashes),
        KV(test_kv_text_commands),
        KV(test_kv_malformed_commands_change_nothing),
        KV(test_kv_batch_sees_its_own_changes),
        KV(test_kv_reopen_keeps_data_and_metadata),
        KV(test_kv_save_and_restore_to_another_replica),
        KV(test_kv_damaged_snapshots_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
