/* A client of several hosts: its proposals go to the host that leads their shard. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/router.h"
#include "agent/test/agent_fixture.h"
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
    uint64_t n = at ? strtoull(strchr(at, ' ') + 1, NULL, 10) : 0;
    bytes_deinit(&text);
    return n;
}

static int leader_of(struct fixture *f, uint64_t shard, int other_than)
{
    for (int tries = 0; tries < 1000; tries++) {
        for (int i = 0; i < HOSTS; i++) {
            struct route_hint h;
            if (i != other_than && f->agents[i] &&
                route_cache_get(router_cache(f->agents[i]->router), shard, &h) && h.local_leads)
                return i;
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
        if (thole_call(client, &op, NULL, &st) != THOLE_OK)
            fail_msg("call %d: %s", i, st.message);
    }
}

/* Until a single proposal is a single request: the leader was found. */
static void wait_direct(struct thole *client, struct thole_shard *s)
{
    for (int tries = 0; tries < 1000; tries++) {
        uint64_t before = remote_requests();
        propose(client, s, 1);
        if (remote_requests() == before + 1)
            return;
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
    for (int i = 0; i < HOSTS; i++)
        fixture_start_ok(f, i, AGENT_BOOTSTRAP_PEERS);
    for (int i = 0; i < HOSTS; i++)
        fixture_wait_ready(f, i);
    assert_int_equal(fixture_create_shard(f, 0, "c", "counter", HOSTS, NULL), THOLE_OK);
    fixture_wait_shard(f, 0, "c", HOSTS);
    uint64_t shard = fixture_shard_id(f, 0, "c");
    int leader = leader_of(f, shard, -1);

    /* The first address is of a host that does not lead. */
    char addresses[256];
    snprintf(addresses, sizeof addresses, "%s,%s,%s", fixture_address(f, (leader + 1) % HOSTS),
             fixture_address(f, (leader + 2) % HOSTS), fixture_address(f, leader));
    assert_int_equal(thole_connect(addresses, &client, &st), THOLE_OK);
    assert_int_equal(thole_shard_open(client, "c", &s, &st), THOLE_OK);
    wait_direct(client, s);
    propose(client, s, CALLS);

    /* Another one leads: what was learned is of the past, and is learned anew. */
    struct router_request r;
    assert_int_equal(fixture_request(f, leader, ROUTER_TRANSFER, shard, "", 0, &r), THOLE_OK);
    int next = leader_of(f, shard, leader);
    assert_int_not_equal(next, leader);
    wait_direct(client, s);

    /* It goes: what is sent there finds nobody, and goes to the others. */
    fixture_stop(f, next);
    propose(client, s, CALLS);
    thole_shard_release(s);
    thole_close(client);
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_client_proposes_at_the_leader_and_follows_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
