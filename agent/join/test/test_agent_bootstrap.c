/* Ways into a cluster: alone, together, through a member; and crashes on the way. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/core/test/agent_fixture.h"

#include <cmocka.h>

static void assert_same_cluster(struct fixture *f, int n)
{
    struct uuid first, other;
    assert_true(agent_cluster(f->agents[0], &first));
    for (int i = 1; i < n; i++) {
        assert_true(agent_cluster(f->agents[i], &other));
        assert_true(uuid_equal(&first, &other));
    }
}

static void count_once(struct fixture *f, int i, const char *want)
{
    struct router_request r;
    uint64_t id = fixture_shard_id(f, i, "c");
    assert_int_equal(fixture_request(f, i, ROUTER_PROPOSE, id, "add 1", 5, &r), THOLE_OK);
    if (r.result.bytes.size != strlen(want) ||
        memcmp(r.result.bytes.data, want, strlen(want)) != 0) {
        print_error("host %d: index=%" PRIu64 " code=%" PRIu64 " result=\"%.*s\"\n", i + 1, r.index,
                    r.code, (int)r.result.bytes.size, (const char *)r.result.bytes.data);
    }
    assert_int_equal(r.result.bytes.size, strlen(want));
    assert_memory_equal(r.result.bytes.data, want, strlen(want));
    bufslice_unref(r.result);
}

static void test_dev_starts_serves_and_restarts_without_flags(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(1);
    fixture_start_ok(f, 0, AGENT_BOOTSTRAP_DEV);
    fixture_wait_ready(f, 0);
    assert_int_equal(fixture_create_shard(f, 0, "c", "counter", 1, NULL), THOLE_OK);
    fixture_wait_shard(f, 0, "c", 1);
    count_once(f, 0, "1");
    struct uuid before, after;
    assert_true(agent_cluster(f->agents[0], &before));
    fixture_stop(f, 0);

    fixture_start_ok(f, 0, AGENT_BOOTSTRAP_NONE);
    fixture_wait_ready(f, 0);
    assert_true(agent_cluster(f->agents[0], &after));
    assert_true(uuid_equal(&before, &after));
    assert_int_equal(agent_incarnation(f->agents[0]), 2);
    count_once(f, 0, "2");
    fixture_free(f);
}

static void test_new_directory_without_flags_is_refused(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(1);
    struct thole_status st = {0};
    struct agent_options o = fixture_options(f, 0, AGENT_BOOTSTRAP_NONE);
    assert_int_equal(fixture_start(f, 0, &o, &st), THOLE_FAILED_PRECONDITION);
    assert_int_equal(st.reason, THOLE_REASON_NOT_READY);
    fixture_free(f);
}

static void test_port_in_use_is_told(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(2);
    struct thole_status st = {0};
    fixture_start_ok(f, 0, AGENT_BOOTSTRAP_DEV);
    struct agent_options o = fixture_options(f, 1, AGENT_BOOTSTRAP_DEV);
    o.listen = fixture_address(f, 0);
    assert_int_equal(fixture_start(f, 1, &o, &st), THOLE_UNAVAILABLE);
    assert_int_equal(st.reason, THOLE_REASON_ADDRESS_IN_USE);
    fixture_free(f);
}

static void test_locked_directory_is_refused(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(2);
    struct thole_status st = {0};
    fixture_start_ok(f, 0, AGENT_BOOTSTRAP_DEV);
    struct agent_options o = fixture_options(f, 1, AGENT_BOOTSTRAP_DEV);
    char *dir = fixture_dir(f, 0);
    o.data_dir = dir;
    o.name = NULL;
    assert_int_equal(fixture_start(f, 1, &o, &st), THOLE_FAILED_PRECONDITION);
    assert_int_equal(st.reason, THOLE_REASON_LOCKED);
    free(dir);
    fixture_free(f);
}

static void test_three_peers_form_one_cluster(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(3);
    for (int i = 0; i < 3; i++) {
        fixture_start_ok(f, i, AGENT_BOOTSTRAP_PEERS);
    }
    for (int i = 0; i < 3; i++) {
        fixture_wait_ready(f, i);
    }
    assert_same_cluster(f, 3);
    assert_int_equal(fixture_create_shard(f, 1, "c", "counter", 3, NULL), THOLE_OK);
    fixture_wait_shard(f, 0, "c", 3);
    count_once(f, 0, "1");
    count_once(f, 1, "2");
    count_once(f, 2, "3");
    for (int i = 0; i < 3; i++) {
        fixture_stop(f, i);
    }
    for (int i = 0; i < 3; i++) {
        fixture_start_ok(f, i, AGENT_BOOTSTRAP_NONE);
    }
    for (int i = 0; i < 3; i++) {
        fixture_wait_ready(f, i);
    }
    count_once(f, 2, "4");
    fixture_free(f);
}

static void test_two_of_three_peers_wait(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(3);
    struct uuid id;
    for (int i = 0; i < 2; i++) {
        fixture_start_ok(f, i, AGENT_BOOTSTRAP_PEERS);
    }
    assert_false(fixture_ready(f, 0, 1500));
    assert_false(agent_cluster(f->agents[0], &id));
    fixture_start_ok(f, 2, AGENT_BOOTSTRAP_PEERS);
    for (int i = 0; i < 3; i++) {
        fixture_wait_ready(f, i);
    }
    assert_same_cluster(f, 3);
    fixture_free(f);
}

/* ---- Death on the way ------------------------------------------------------------------------ */

struct death {
    const char *at;
    _Atomic bool dead;
};

static bool die_at(void *ctx, const char *name)
{
    struct death *d = ctx;
    if (strcmp(name, d->at) != 0) {
        return true;
    }
    atomic_store(&d->dead, true);
    return false;
}

static void peers_with_death_at(const char *step)
{
    struct fixture *f = fixture_new(3);
    struct death d = {.at = step};
    struct thole_status st = {0};
    struct agent_options o = fixture_options(f, 2, AGENT_BOOTSTRAP_PEERS);
    o.step = die_at;
    o.step_ctx = &d;
    fixture_start_ok(f, 0, AGENT_BOOTSTRAP_PEERS);
    fixture_start_ok(f, 1, AGENT_BOOTSTRAP_PEERS);
    assert_int_equal(fixture_start(f, 2, &o, &st), THOLE_OK);
    for (int k = 0; k < 1000 && !atomic_load(&d.dead); k++) {
        fixture_pause_ms(10);
    }
    assert_true(atomic_load(&d.dead));
    fixture_stop(f, 2);
    fixture_pause_ms(300); /* the other hosts go as far as they can */

    /* The host restarts with the same flags: all hosts form one cluster. */
    fixture_start_ok(f, 2, AGENT_BOOTSTRAP_PEERS);
    for (int i = 0; i < 3; i++) {
        fixture_wait_ready(f, i);
    }
    assert_same_cluster(f, 3);
    assert_int_equal(fixture_create_shard(f, 2, "c", "counter", 3, NULL), THOLE_OK);
    fixture_wait_shard(f, 2, "c", 3);
    count_once(f, 2, "1");
    fixture_free(f);
}

static void test_peer_dies_before_promise(void **state)
{
    (void)state;
    peers_with_death_at("before-promise");
}

static void test_peer_dies_with_promise_saved(void **state)
{
    (void)state;
    peers_with_death_at("promise-saved");
}

static void test_peer_dies_with_promise_told(void **state)
{
    (void)state;
    peers_with_death_at("promise-told");
}

static void test_peer_dies_when_all_have_promised(void **state)
{
    (void)state;
    peers_with_death_at("all-promised");
}

static void test_peer_dies_with_identity_saved(void **state)
{
    (void)state;
    peers_with_death_at("identity-saved");
}

static void test_peer_dies_with_replica_started(void **state)
{
    (void)state;
    peers_with_death_at("zero-started");
}

static void test_promise_binds_against_other_flags(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(3);
    struct thole_status st = {0};
    struct death d = {.at = "promise-told"};
    struct agent_options o = fixture_options(f, 2, AGENT_BOOTSTRAP_PEERS);
    o.step = die_at;
    o.step_ctx = &d;
    fixture_start_ok(f, 0, AGENT_BOOTSTRAP_PEERS);
    fixture_start_ok(f, 1, AGENT_BOOTSTRAP_PEERS);
    assert_int_equal(fixture_start(f, 2, &o, &st), THOLE_OK);
    for (int k = 0; k < 1000 && !atomic_load(&d.dead); k++) {
        fixture_pause_ms(10);
    }
    fixture_stop(f, 2);
    o = fixture_options(f, 2, AGENT_BOOTSTRAP_DEV);
    assert_int_equal(fixture_start(f, 2, &o, &st), THOLE_FAILED_PRECONDITION);
    assert_int_equal(st.reason, THOLE_REASON_WRONG_CLUSTER);
    fixture_free(f);
}

/* ---- Joining --------------------------------------------------------------------------------- */

static void join(struct fixture *f, int i)
{
    struct thole_status st = {0};
    struct agent_options o = fixture_options(f, i, AGENT_BOOTSTRAP_JOIN);
    o.addresses = fixture_address(f, 0);
    assert_int_equal(fixture_start(f, i, &o, &st), THOLE_OK);
    fixture_wait_ready(f, i);
}

static void test_join_grows_one_to_three_and_serves_everywhere(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(1);
    fixture_start_ok(f, 0, AGENT_BOOTSTRAP_DEV);
    fixture_wait_ready(f, 0);
    join(f, 1);
    join(f, 2);
    assert_same_cluster(f, 3);
    assert_int_equal(fixture_create_shard(f, 2, "c", "counter", 3, NULL), THOLE_OK);
    fixture_wait_shard(f, 0, "c", 3);
    count_once(f, 0, "1");
    count_once(f, 1, "2");
    count_once(f, 2, "3");

    /* Shard zero grows to three voters, so that it survives the loss of its first host. */
    fixture_wait_shard(f, 1, "zero", 3);
    fixture_free(f);
}

static void keep_request(void *ctx, struct bus_request *request)
{
    struct bus_request *_Atomic *kept = ctx;
    atomic_store(kept, request);
}

/* The contacted host answers late, as long as shard zero has no leader. */
static void test_stop_ends_a_join_that_is_not_answered(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(1);
    struct thole_status st = {0};
    struct bus *member = NULL;
    struct bus_request *_Atomic kept = NULL;
    const struct bus_options bo = {
        .listen_address = "127.0.0.1:0",
        .host_id = {{1}},
        .incarnation = 1,
        .handler = {.ctx = &kept, .request = keep_request},
    };
    assert_int_equal(bus_new(&bo, &member, &st), THOLE_OK);
    bus_start(member);
    struct agent_options o = fixture_options(f, 0, AGENT_BOOTSTRAP_JOIN);
    o.addresses = bus_address(member);
    assert_int_equal(fixture_start(f, 0, &o, &st), THOLE_OK);
    for (int i = 0; atomic_load(&kept) == NULL && i < 2000; i++) {
        fixture_pause_ms(10);
    }
    assert_non_null(atomic_load(&kept));
    uint64_t begin = clock_now(&clock_system);
    fixture_stop(f, 0);
    assert_true(clock_now(&clock_system) - begin < 2 * NS_PER_S);
    thole_status_set(&st, THOLE_UNAVAILABLE, THOLE_REASON_NONE, __FILE__, __LINE__, "too late");
    bus_answer_failure(atomic_load(&kept), &st);
    bus_stop(member, 0);
    bus_free(member);
    fixture_free(f);
}

static void test_join_another_cluster_with_used_directory_is_refused(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(1);
    struct thole_status st = {0};
    fixture_start_ok(f, 0, AGENT_BOOTSTRAP_DEV);
    fixture_start_ok(f, 1, AGENT_BOOTSTRAP_DEV);
    fixture_wait_ready(f, 0);
    fixture_wait_ready(f, 1);
    fixture_stop(f, 1);
    struct agent_options o = fixture_options(f, 1, AGENT_BOOTSTRAP_JOIN);
    o.addresses = fixture_address(f, 0);
    assert_int_equal(fixture_start(f, 1, &o, &st), THOLE_FAILED_PRECONDITION);
    assert_int_equal(st.reason, THOLE_REASON_WRONG_CLUSTER);
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dev_starts_serves_and_restarts_without_flags),
        cmocka_unit_test(test_new_directory_without_flags_is_refused),
        cmocka_unit_test(test_port_in_use_is_told),
        cmocka_unit_test(test_locked_directory_is_refused),
        cmocka_unit_test(test_three_peers_form_one_cluster),
        cmocka_unit_test(test_two_of_three_peers_wait),
        cmocka_unit_test(test_peer_dies_before_promise),
        cmocka_unit_test(test_peer_dies_with_promise_saved),
        cmocka_unit_test(test_peer_dies_with_promise_told),
        cmocka_unit_test(test_peer_dies_when_all_have_promised),
        cmocka_unit_test(test_peer_dies_with_identity_saved),
        cmocka_unit_test(test_peer_dies_with_replica_started),
        cmocka_unit_test(test_promise_binds_against_other_flags),
        cmocka_unit_test(test_join_grows_one_to_three_and_serves_everywhere),
        cmocka_unit_test(test_stop_ends_a_join_that_is_not_answered),
        cmocka_unit_test(test_join_another_cluster_with_used_directory_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
