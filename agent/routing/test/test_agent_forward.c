/* Messages between hosts, and the hosts' cache of leaders. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include "agent/routing/forward_codec.h"
#include "agent/routing/router.h"
#include "agent/routing/router_cache.h"

#include <cmocka.h>

static void test_forward_goes_round_with_and_without_payload(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 127, 128, 20000, LIMIT_PAYLOAD_BYTES};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct buf *b = buf_new(sizes[i]);
        struct forwarded f;
        struct forward_space space;
        memset(b->data, 'p', sizes[i]);
        const struct router_request r = {
            .kind = ROUTER_PROPOSE,
            .shard_id = 7,
            .payload = {.owner = b, .bytes = {b->data, b->size}},
            .session = 11,
            .sequence = 1u << 30,
            .hops = 3,
            .stale = true,
            .max_staleness_ms = 250,
            .slot_plus_1 = 16384,
        };
        struct bufslice out = router_encode_forward(&r, "orders", &space);
        assert_true(router_decode_forward(out.bytes, &f));
        assert_int_equal(f.shard_id, 7);
        assert_int_equal(f.shard_name.size, 6);
        assert_memory_equal(f.shard_name.data, "orders", 6);
        assert_int_equal(f.payload.size, sizes[i]);
        if (sizes[i] > 0) {
            assert_memory_equal(f.payload.data, b->data, sizes[i]);
        }
        assert_int_equal(f.session, 11);
        assert_int_equal(f.sequence, 1u << 30);
        assert_int_equal(f.hops, 3);
        assert_true(f.stale && !f.open_session);
        assert_int_equal(f.max_staleness_ms, 250);
        assert_int_equal(f.slot_plus_1, 16384);
        assert_true((out.owner == NULL) == (sizes[i] < 256));
        bufslice_unref(out);
        buf_unref(b);
    }
}

static void test_proposal_carries_its_request_id(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, LIMIT_REQUEST_ID_BYTES, 400};
    static const uint8_t id[400] = "id";
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct forwarded f;
        struct forward_space space;
        const struct router_request r = {.kind = ROUTER_PROPOSE,
                                         .shard_id = 7,
                                         .payload = {.bytes = slice_str("command")},
                                         .request_id = slice_of(id, sizes[i])};
        struct bufslice out = router_encode_forward(&r, NULL, &space);
        assert_true(router_decode_forward(out.bytes, &f));
        assert_true(slice_equal(f.request_id, r.request_id));
        assert_true(slice_equal(f.payload, r.payload.bytes));
        assert_false(f.close_session);
        bufslice_unref(out);
    }
}

static void test_end_of_a_session_names_it(void **state)
{
    (void)state;
    struct forwarded f;
    struct forward_space space;
    const struct router_request r = {.kind = ROUTER_CLOSE_SESSION, .shard_id = 7, .session = 12};
    struct bufslice out = router_encode_forward(&r, NULL, &space);
    assert_true(router_decode_forward(out.bytes, &f));
    assert_true(f.close_session && !f.open_session && f.session == 12);
    bufslice_unref(out);
}

static void test_transfer_carries_its_target(void **state)
{
    (void)state;
    struct forwarded f;
    struct forward_space space;
    const struct router_request r = {.kind = ROUTER_TRANSFER, .shard_id = 7, .target_replica = 12};
    struct bufslice out = router_encode_forward(&r, NULL, &space);
    assert_true(router_decode_forward(out.bytes, &f));
    assert_int_equal(f.sequence, 12);
    bufslice_unref(out);
}

static void test_reply_goes_round_with_failure_and_hint(void **state)
{
    (void)state;
    struct forward_reply in = {.code = 3, .index = 9, .duplicate = true, .leader_term = 4}, out;
    struct forward_space space;
    in.leader_host = uuid_random();
    in.result = slice_str("result");
    in.key = slice_str("key");
    thole_status_set(&in.failure, THOLE_UNAVAILABLE, THOLE_REASON_NOT_LEADER, __FILE__, __LINE__,
                     "somebody else leads");
    struct bufslice bytes = router_encode_reply(&in, &space);
    assert_true(router_decode_reply(bytes.bytes, &out));
    assert_int_equal(out.code, 3);
    assert_int_equal(out.index, 9);
    assert_true(out.duplicate);
    assert_true(slice_equal(out.result, in.result));
    assert_true(slice_equal(out.key, in.key));
    assert_true(uuid_equal(&out.leader_host, &in.leader_host));
    assert_int_equal(out.leader_term, 4);
    assert_int_equal(out.failure.code, THOLE_UNAVAILABLE);
    assert_int_equal(out.failure.reason, THOLE_REASON_NOT_LEADER);
    assert_string_equal(out.failure.message, "somebody else leads");
    bufslice_unref(bytes);
    assert_false(router_decode_reply(slice_str("\xff\xff\xff"), &out));
    assert_true(router_decode_reply(slice_str(""), &out));
    assert_int_equal(out.failure.code, THOLE_OK);
}

static void test_cache_prefers_newer_terms_and_the_local_leader(void **state)
{
    (void)state;
    struct uuid self = uuid_random(), a = uuid_random(), b = uuid_random();
    struct router_cache *c = router_cache_new(&self);
    struct route_hint h;
    assert_false(router_cache_get(c, 5, &h));
    router_cache_set_leader(c, 5, 3, &a);
    router_cache_set_leader(c, 5, 2, &b);
    assert_true(router_cache_get(c, 5, &h));
    assert_true(uuid_equal(&h.leader_host, &a));
    assert_false(h.local);
    router_cache_forget_leader(c, 5, &b);
    assert_true(router_cache_get(c, 5, &h) && uuid_equal(&h.leader_host, &a));
    router_cache_forget_leader(c, 5, &a);
    assert_true(router_cache_get(c, 5, &h) && uuid_is_nil(&h.leader_host));

    struct engine_replica_status s = {
        .shard_id = 5, .term = 4, .role = RAFT_LEADER, .initialised = true};
    router_cache_set_local(c, &s);
    router_cache_set_leader(c, 5, 9, &a);
    assert_true(router_cache_get(c, 5, &h) && h.local_leads && h.local_serves);
    assert_true(uuid_equal(&h.leader_host, &self));
    s.role = RAFT_FOLLOWER;
    router_cache_set_local(c, &s);
    assert_true(router_cache_get(c, 5, &h) && !h.local_leads && uuid_is_nil(&h.leader_host));
    s.leader_host = b;
    s.term = 5;
    router_cache_set_local(c, &s);
    assert_true(router_cache_get(c, 5, &h) && uuid_equal(&h.leader_host, &b));
    router_cache_remove_local(c, 5);
    assert_false(router_cache_get(c, 5, &h));
    router_cache_free(c);
}

static void test_cache_is_bounded(void **state)
{
    (void)state;
    struct uuid self = uuid_random(), a = uuid_random();
    struct router_cache *c = router_cache_new(&self);
    struct route_hint h;
    struct engine_replica_status s = {.shard_id = 16, .initialised = true};
    router_cache_set_local(c, &s);
    for (uint64_t i = 0; i < 300000; i++) {
        router_cache_set_leader(c, 1000 + i, 1, &a);
    }
    assert_true(router_cache_get(c, 16, &h) && h.local);
    router_cache_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward_goes_round_with_and_without_payload),
        cmocka_unit_test(test_transfer_carries_its_target),
        cmocka_unit_test(test_proposal_carries_its_request_id),
        cmocka_unit_test(test_end_of_a_session_names_it),
        cmocka_unit_test(test_reply_goes_round_with_failure_and_hint),
        cmocka_unit_test(test_cache_prefers_newer_terms_and_the_local_leader),
        cmocka_unit_test(test_cache_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
