/* Requests between hosts whose leader caches are wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include "agent/core/test/agent_fixture.h"
#include "agent/routing/router.h"
#include "agent/routing/router_cache.h"

#include <cmocka.h>

#define HOSTS 3
#define FAR_TERM 1000

/* The host that runs the only replica. */
static int home_of(struct fixture *f, uint64_t shard_id)
{
    int home = -1;
    for (int tries = 0; home < 0 && tries < 200; tries++) {
        for (int i = 0; i < HOSTS; i++) {
            struct engine_replica_status s;
            if (engine_shard_status(f->agents[i]->engine, shard_id, &s) && s.leader_ready) {
                home = i;
            }
        }
        if (home < 0) {
            fixture_pause_ms(20);
        }
    }
    assert_true(home >= 0);
    return home;
}

/* Each of two hosts takes the other host for the leader. They must detect the loop, and not forward
 * a request to and fro until its deadline. */
static void test_router_request_between_hosts_that_name_each_other_ends(void **state)
{
    (void)state;
    struct thole_status st = {0};
    struct fixture *f = fixture_new(HOSTS);
    for (int i = 0; i < HOSTS; i++) {
        fixture_start_ok(f, i, AGENT_BOOTSTRAP_PEERS);
    }
    for (int i = 0; i < HOSTS; i++) {
        fixture_wait_ready(f, i);
    }
    assert_int_equal(fixture_create_shard(f, 0, "s", "counter", 1, &st), THOLE_OK);
    fixture_wait_shard(f, 0, "s", 1);
    uint64_t shard_id = fixture_shard_id(f, 0, "s");
    int home = home_of(f, shard_id);
    struct agent *a = f->agents[(home + 1) % HOSTS];
    struct agent *b = f->agents[(home + 2) % HOSTS];
    router_cache_set_leader(router_get_cache(a->router), shard_id, FAR_TERM, agent_host_id(b));
    router_cache_set_leader(router_get_cache(b->router), shard_id, FAR_TERM, agent_host_id(a));
    struct router_request r = {0};
    enum thole_code code =
        fixture_request(f, (home + 1) % HOSTS, ROUTER_PROPOSE, shard_id, "add 1", 5, &r);
    if (code != THOLE_OK) {
        fail_msg("%s: %s", thole_code_name(code), r.status.message);
    }
    bufslice_unref(r.result);
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_router_request_between_hosts_that_name_each_other_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
