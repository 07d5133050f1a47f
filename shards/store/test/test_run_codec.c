/* The record codecs: encoded records decode to the same, and all damage is detected. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "shards/store/record.h"

static const struct store_entry examples[] = {
    {RAFT_ENTRY_NOOP, 10, 3, 0, 0, {0}, {0}, {0}},
    {RAFT_ENTRY_COMMAND, 11, 3, 7, 9, {(const uint8_t *)"payload", 7}, {0}, {1700000000000, 1}},
    {RAFT_ENTRY_CONFIG, 12, 4, 0, 0, {(const uint8_t *)"change", 6}, {0}, {1700000000000, 1}},
    {RAFT_ENTRY_TICK, 13, UINT64_MAX - 1, 0, 0, {0}, {0}, {1700000000000, 7}},
    {RAFT_ENTRY_COMMAND,
     14,
     UINT64_MAX - 1,
     UINT64_MAX,
     UINT64_MAX,
     {(const uint8_t *)"", 0},
     {0},
     {UINT64_MAX, UINT64_MAX}},
    {RAFT_ENTRY_COMMAND,
     15,
     UINT64_MAX - 1,
     0,
     0,
     {(const uint8_t *)"x", 1},
     {(const uint8_t *)"id", 2},
     {UINT64_MAX, UINT64_MAX}},
};
enum { COUNT = sizeof examples / sizeof examples[0] };

static void encode(struct bytes *out, const struct store_key *k, const struct store_hard *hard)
{
    struct store_run_writer w;

    bytes_clear(out);
    store_run_begin(&w, out);
    for (size_t i = 0; i < COUNT; i++) {
        store_run_add(&w, &examples[i]);
    }
    store_run_end(&w, store_key_slice(k), hard);
}

static void test_run_round_trip(void **state)
{
    struct store_key k = store_key_run(5, 1, 10);
    struct store_hard hard = {99, {4, 2, 9}};
    struct bytes b = {0};

    (void)state;
    for (int with_hard = 0; with_hard < 2; with_hard++) {
        struct store_run_reader r;
        struct store_entry e;

        encode(&b, &k, with_hard ? &hard : NULL);
        assert_true(store_run_open(&r, store_key_slice(&k), bytes_slice(&b)));
        assert_int_equal(r.flags, STORE_FLAG_CONFIG | (with_hard ? STORE_FLAG_HARD : 0));
        assert_int_equal(r.hard.stamp, with_hard ? 99 : 0);
        assert_int_equal(r.hard.hard.vote, with_hard ? 2 : 0);
        for (size_t i = 0; i < COUNT; i++) {
            assert_true(store_run_next(&r, &e));
            assert_int_equal(e.kind, examples[i].kind);
            assert_int_equal(e.index, examples[i].index);
            assert_int_equal(e.term, examples[i].term);
            assert_memory_equal(&e.stamp, &examples[i].stamp, sizeof e.stamp);
            assert_int_equal(e.session, examples[i].session);
            assert_int_equal(e.sequence, examples[i].sequence);
            assert_true(slice_equal(e.payload, examples[i].payload));
            assert_true(slice_equal(e.id, examples[i].id));
        }
        assert_false(store_run_next(&r, &e));
        assert_true(store_run_done(&r));
    }
    bytes_deinit(&b);
}

static void test_run_any_flipped_bit_is_found(void **state)
{
    struct store_key k = store_key_run(5, 1, 10), other = store_key_run(6, 1, 10);
    struct store_hard hard = {99, {4, 2, 9}};
    struct store_run_reader r;
    struct bytes b = {0};

    (void)state;
    encode(&b, &k, &hard);
    for (size_t bit = 0; bit < b.size * 8; bit++) {
        b.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_false(store_run_open(&r, store_key_slice(&k), bytes_slice(&b)));
        b.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t n = 0; n < b.size; n++) {
        assert_false(store_run_open(&r, store_key_slice(&k), slice_of(b.data, n)));
    }
    assert_false(store_run_open(&r, store_key_slice(&other), bytes_slice(&b)));
    bytes_deinit(&b);
}

static void test_small_records_round_trip(void **state)
{
    struct store_key k = store_key(3, STORE_KIND_START), id = store_key(3, STORE_KIND_IDENTITY);
    struct store_start s = {{5, {1, 2, 3}}, UINT32_MAX, 7, 6, 8, {9, 10}, slice_str("config")}, t;
    struct store_identity_record i = {true, 4, 5, slice_str("descriptor")}, j;
    struct store_hard h;
    struct bytes b = {0};

    (void)state;
    store_encode_start(&b, store_key_slice(&k), &s);
    assert_true(store_decode_start(store_key_slice(&k), bytes_slice(&b), &t));
    assert_int_equal(t.epoch, UINT32_MAX);
    assert_int_equal(t.index, 7);
    assert_int_equal(t.hard.hard.commit, 3);
    assert_int_equal(t.stamp.now_ms, 9);
    assert_int_equal(t.stamp.alive_ms, 10);
    assert_true(slice_equal(t.config, s.config));
    assert_false(store_decode_hard(store_key_slice(&k), bytes_slice(&b), &h));
    b.data[20] ^= 1;
    assert_false(store_decode_start(store_key_slice(&k), bytes_slice(&b), &t));
    bytes_clear(&b);
    store_encode_identity(&b, store_key_slice(&id), &i);
    assert_true(store_decode_identity(store_key_slice(&id), bytes_slice(&b), &j));
    assert_true(j.tombstone);
    assert_int_equal(j.shard_id, 4);
    assert_false(store_decode_identity(store_key_slice(&k), bytes_slice(&b), &j));
    bytes_deinit(&b);
}

static void test_keys_are_parsed_as_they_are_made(void **state)
{
    struct store_key run = store_key_run(1, 256, 7),
                     start = store_key(UINT64_MAX, STORE_KIND_START);
    struct store_key_parts p;

    (void)state;
    assert_true(store_key_parse(store_key_slice(&run), &p));
    assert_int_equal(p.replica_id, 1);
    assert_int_equal(p.epoch, 256);
    assert_int_equal(p.first, 7);
    assert_false(store_key_parse(slice_of(run.bytes, 20), &p));
    assert_false(store_key_parse(slice_of(run.bytes, 8), &p));
    assert_true(store_key_parse(store_key_slice(&start), &p));
    assert_true(p.replica_id == UINT64_MAX);
    assert_int_equal(p.kind, STORE_KIND_START);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_run_round_trip),
        cmocka_unit_test(test_run_any_flipped_bit_is_found),
        cmocka_unit_test(test_small_records_round_trip),
        cmocka_unit_test(test_keys_are_parsed_as_they_are_made),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
