/* A client of several hosts: its proposals go to the host that leads their shard. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/core/test/agent_fixture.h"
#include "agent/routing/forward_codec.h"
#include "agent/routing/router.h"
#include "agent/routing/router_cache.h"
#include "base/metrics.h"

#include <cmocka.h>

#define HOSTS 3
#define CALLS 20

/* Requests from one host or client to another, in this process. */
static uint64_t remote_requests(void)
{
    struct bytes text = {0};
    metrics_render(&text);
    bytes_append(&text, "", 1);
    const char *at = strstr((const char *)text.data, "\nthole_router_remote_total ");
    uint64_t n = at != NULL ? strtoull(strchr(at, ' ') + 1, NULL, 10) : 0;
    bytes_deinit(&text);
    return n;
}

static int leader_of(struct fixture *f, uint64_t shard, int other_than)
{
    for (int tries = 0; tries < 1000; tries++) {
        for (int i = 0; i < HOSTS; i++) {
            struct route_hint h;
            if (i != other_than && f->agents[i] != NULL &&
                router_cache_get(router_get_cache(f->agents[i]->router), shard, &h) &&
                h.local_leads) {
                return i;
            }
        }
        fixture_pause_ms(10);
    }
    fail_msg("nobody leads");
    return 0;
}

static void propose(struct thole *client, struct thole_shard *s, int times)
{
    struct thole_op op = {
        .kind = THOLE_PROPOSE, .shard = s, .payload = {.data = "add 1", .size = 5}};
    for (int i = 0; i < times; i++) {
        struct thole_status st = {0};
        if (thole_call(client, &op, NULL, &st) != THOLE_OK) {
            fail_msg("call %d: %s", i, st.message);
        }
    }
}

/* Wait until one proposal takes one request: the client has found the leader. */
static void wait_direct(struct thole *client, struct thole_shard *s)
{
    for (int tries = 0; tries < 1000; tries++) {
        uint64_t before = remote_requests();
        propose(client, s, 1);
        if (remote_requests() == before + 1) {
            return;
        }
    }
    fail_msg("proposals are still forwarded");
}

static void test_client_proposes_at_the_leader_and_follows_it(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(HOSTS);
    struct thole *client;
    struct thole_shard *s;
    struct thole_status st = {0};
    for (int i = 0; i < HOSTS; i++) {
        fixture_start_ok(f, i, AGENT_BOOTSTRAP_PEERS);
    }
    for (int i = 0; i < HOSTS; i++) {
        fixture_wait_ready(f, i);
    }
    assert_int_equal(fixture_create_shard(f, 0, "c", "counter", HOSTS, NULL), THOLE_OK);
    fixture_wait_shard(f, 0, "c", HOSTS);
    uint64_t shard = fixture_shard_id(f, 0, "c");
    int leader = leader_of(f, shard, -1);

    /* The first address belongs to a host that does not lead. */
    char addresses[256];
    snprintf(addresses, sizeof addresses, "%s,%s,%s", fixture_address(f, (leader + 1) % HOSTS),
             fixture_address(f, (leader + 2) % HOSTS), fixture_address(f, leader));
    assert_int_equal(thole_connect(addresses, &client, &st), THOLE_OK);
    assert_int_equal(thole_shard_open(client, "c", &s, &st), THOLE_OK);
    wait_direct(client, s);
    propose(client, s, CALLS);

    /* Another host leads: the cached leader is stale, and the client finds the new leader. */
    struct router_request r;
    assert_int_equal(fixture_request(f, leader, ROUTER_TRANSFER, shard, "", 0, &r), THOLE_OK);
    int next = leader_of(f, shard, leader);
    assert_int_not_equal(next, leader);
    wait_direct(client, s);

    /* The leader's host stops: requests to it fail, and the client retries at the other hosts. */
    fixture_stop(f, next);
    propose(client, s, CALLS);
    thole_shard_release(s);
    thole_close(client);
    fixture_free(f);
}

/* ---- Shard zero ------------------------------------------------------------------------------ */

/* The reply to a bus client without a host id that sends a request about shard zero. */
static struct forward_reply ask_zero(struct bus *bus, const char *address, uint32_t method,
                                     bool open_session, struct slice payload, upb_Arena *arena)
{
    struct forward_reply f;
    struct forward_space space;
    struct buf *reply = NULL;
    struct bus_ask_peer peer;
    struct router_request r = {.kind = open_session ? ROUTER_OPEN_SESSION : ROUTER_PROPOSE,
                               .payload = {.bytes = payload}};
    struct bufslice body = router_encode_forward(&r, NULL, &space);
    router_reply_init(&f);
    if (bus_ask(bus, address, method, body.bytes, 5000, &reply, &peer, &f.failure) != THOLE_OK) {
        return f;
    }
    char *copy = upb_Arena_Malloc(arena, reply->size);
    memcpy(copy, reply->data, reply->size);
    assert_true(router_decode_reply(slice_of(copy, reply->size), &f));
    buf_unref(reply);
    return f;
}

static void no_frame(void *ctx, const struct uuid *from, uint64_t incarnation, enum bus_lane lane,
                     struct bufslice frame)
{
    (void)ctx, (void)from, (void)incarnation, (void)lane, (void)frame;
}

static void no_state(void *ctx, const struct uuid *host, bool up, uint64_t incarnation)
{
    (void)ctx, (void)host, (void)up, (void)incarnation;
}

static struct slice command_bytes(thole_registry_v1_Command *c, upb_Arena *arena)
{
    size_t size = 0;
    const char *bytes = thole_registry_v1_Command_serialize(c, arena, &size);
    return slice_of(bytes, size);
}

/* The last event about shards/mine. */
static void assert_event_is_of_a_user(struct fixture *f)
{
    struct registry_event_buf event_buf;
    const thole_v1_Event *e = NULL, *next;
    struct registry_view *v = registry_view_acquire(agent_registry(f->agents[0]));
    for (uint64_t it = 0; (next = registry_next_event(v, 0, &it, &event_buf)) != NULL;) {
        if (slice_equal(registry_str(thole_v1_Event_object(next)), slice_str("shards/mine"))) {
            e = next;
            assert_true(slice_equal(registry_str(thole_v1_Event_actor(e)), slice_str("user")));
            assert_true(thole_v1_Event_time_ms(e) > 1000);
        }
    }
    assert_non_null(e);
    registry_view_release(v);
}

static void test_shard_zero_takes_no_forged_command_of_a_client(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(1);
    struct thole_status st = {0};
    struct bus *bus = NULL;
    upb_Arena *arena = upb_Arena_New();
    const struct bus_options o = {.version = "test",
                                  .clock = &clock_system,
                                  .handler = {.frame = no_frame, .peer_state = no_state}};
    fixture_start_ok(f, 0, AGENT_BOOTSTRAP_DEV);
    fixture_wait_ready(f, 0);
    const char *at = fixture_address(f, 0);
    assert_int_equal(bus_new(&o, &bus, &st), THOLE_OK);
    bus_start(bus);

    struct forward_reply r =
        ask_zero(bus, at, METHOD_PROPOSE, false, slice_str("\xff no command"), arena);
    assert_int_equal(r.failure.code, THOLE_INVALID_ARGUMENT);
    r = ask_zero(bus, at, METHOD_PROPOSE, true, slice_str(""), arena);
    assert_int_equal(r.failure.code, THOLE_INVALID_ARGUMENT);
    r = ask_zero(bus, at, METHOD_QUERY, false, slice_str(""), arena);
    assert_int_equal(r.failure.code, THOLE_INVALID_ARGUMENT);
    r = ask_zero(bus, at, METHOD_WATCH, false, slice_str(""), arena);
    assert_int_equal(r.failure.code, THOLE_INVALID_ARGUMENT);
    r = ask_zero(bus, at, METHOD_TRANSFER, false, slice_str(""), arena);
    assert_int_equal(r.failure.code, THOLE_PERMISSION_DENIED);

    /* Commands that only hosts may propose. */
    thole_registry_v1_Command *c = thole_registry_v1_Command_new(arena);
    thole_registry_v1_Operation_mutable_repair_zero(
        thole_registry_v1_Command_add_operations(c, arena), arena);
    r = ask_zero(bus, at, METHOD_PROPOSE, false, command_bytes(c, arena), arena);
    assert_int_equal(r.failure.code, THOLE_PERMISSION_DENIED);

    /* A command that users may propose runs as a user's, at the current time. */
    c = thole_registry_v1_Command_new(arena);
    thole_registry_v1_CreateShard *create = thole_registry_v1_Operation_mutable_create_shard(
        thole_registry_v1_Command_add_operations(c, arena), arena);
    thole_v1_ShardSpec *spec = thole_registry_v1_CreateShard_mutable_spec(create, arena);
    thole_registry_v1_CreateShard_set_name(create, upb_StringView_FromString("mine"));
    thole_v1_ShardSpec_set_type(spec, upb_StringView_FromString("noop"));
    thole_v1_ShardSpec_set_voters(spec, 1);
    thole_registry_v1_Command_set_actor(c, upb_StringView_FromString("placement"));
    thole_registry_v1_Command_set_time_ms(c, 1);
    r = ask_zero(bus, at, METHOD_PROPOSE, false, command_bytes(c, arena), arena);
    assert_int_equal(r.failure.code, THOLE_OK);
    assert_int_equal(r.code, THOLE_OK);
    assert_event_is_of_a_user(f);
    bus_stop(bus, 0);
    bus_free(bus);
    upb_Arena_Free(arena);
    fixture_free(f);
}

static void test_library_serves_no_shard_zero(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(1);
    struct thole *client;
    struct thole_shard *s = NULL;
    struct thole_status st = {0};
    fixture_start_ok(f, 0, AGENT_BOOTSTRAP_DEV);
    fixture_wait_ready(f, 0);
    assert_int_equal(thole_connect(fixture_address(f, 0), &client, &st), THOLE_OK);
    assert_int_equal(thole_shard_open(client, "zero", &s, &st), THOLE_INVALID_ARGUMENT);
    assert_non_null(strstr(st.message, "registry"));
    thole_close(client);
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shard_zero_takes_no_forged_command_of_a_client),
        cmocka_unit_test(test_library_serves_no_shard_zero),
        cmocka_unit_test(test_client_proposes_at_the_leader_and_follows_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
