/* Work where a shard leads: it starts once, moves with the leadership, and is over before it could
 * be doubted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thole/thole.h>

#include "agent/core/test/agent_fixture.h"

#include <cmocka.h>

#define HOSTS 3

struct work {
    _Atomic uint64_t term; /* 0: does not run */
    _Atomic uint64_t starts, stops;
    _Atomic bool wrong; /* two at a time, or another term */
};

struct world {
    struct fixture *f;
    struct thole *hosts[HOSTS];
    struct thole_shard *shards[HOSTS];
    struct work works[HOSTS];
    uint64_t ids[HOSTS];
};

static void start_work(void *ctx, uint64_t term)
{
    struct work *w = ctx;
    if (term == 0 || atomic_exchange(&w->term, term) != 0) {
        atomic_store(&w->wrong, true);
    }
    atomic_fetch_add(&w->starts, 1);
}

static void stop_work(void *ctx, uint64_t term)
{
    struct work *w = ctx;
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL); /* the work takes a while to end */
    atomic_fetch_add(&w->stops, 1);
    if (atomic_exchange(&w->term, 0) != term) {
        atomic_store(&w->wrong, true);
    }
}

static struct thole *start_host(struct fixture *f, int i)
{
    static const char *const names[] = {"h1", "h2", "h3"};
    struct thole_options o = THOLE_OPTIONS_INIT;
    struct thole_status st = {0};
    struct thole *t = NULL;
    char *dir = fixture_dir(f, i);
    o.data_dir = dir;
    o.listen = fixture_address(f, i);
    o.name = names[i];
    o.bootstrap = i == 0 ? THOLE_BOOTSTRAP_DEV : THOLE_BOOTSTRAP_JOIN;
    o.addresses = i == 0 ? NULL : fixture_address(f, 0);
    o.election_timeout_ms = 400;
    o.heartbeat_ms = 80;
    assert_int_equal(thole_new(&o, &t, &st), THOLE_OK);
    free(dir);
    if (thole_start(t, &st) != THOLE_OK || thole_wait_ready(t, 20000, &st) != THOLE_OK) {
        fail_msg("host does not start: %s", st.message);
    }
    return t;
}

static int set_up(void **state)
{
    struct thole_status st = {0};
    struct world *w = calloc(1, sizeof *w);
    const struct thole_shard_spec spec = {
        .size = sizeof spec, .name = "c", .type = "counter", .voters = HOSTS};
    w->f = fixture_new(HOSTS);
    for (int i = 0; i < HOSTS; i++) {
        w->hosts[i] = start_host(w->f, i);
    }
    if (thole_shard_create(w->hosts[0], &spec, 10000, &st) != THOLE_OK ||
        thole_shard_wait_ready(w->hosts[0], "c", 20000, &st) != THOLE_OK) {
        fail_msg("shard: %s", st.message);
    }
    for (int i = 0; i < HOSTS; i++) {
        const struct thole_leader_work work = {
            .size = sizeof work, .ctx = &w->works[i], .start = start_work, .stop = stop_work};
        assert_int_equal(thole_shard_open(w->hosts[i], "c", &w->shards[i], &st), THOLE_OK);
        assert_int_equal(thole_on_lead(w->hosts[i], w->shards[i], &work, &w->ids[i], &st),
                         THOLE_OK);
    }
    *state = w;
    return 0;
}

static int tear_down(void **state)
{
    struct world *w = *state;
    for (int i = 0; i < HOSTS; i++) {
        thole_shard_release(w->shards[i]);
        thole_close(w->hosts[i]);
        assert_false(atomic_load(&w->works[i].wrong));
        assert_int_equal(atomic_load(&w->works[i].term), 0);
        assert_int_equal(atomic_load(&w->works[i].starts), atomic_load(&w->works[i].stops));
    }
    fixture_free(w->f);
    free(w);
    return 0;
}

/* The one host whose work runs; -1: none within the time. */
static int runs_at(struct world *w, int other_than)
{
    for (int n = 0; n < 1000; n++) {
        for (int i = 0; i < HOSTS; i++) {
            if (i != other_than && atomic_load(&w->works[i].term) != 0) {
                return i;
            }
        }
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    }
    return -1;
}

static bool stops_at(struct world *w, int i)
{
    for (int n = 0; n < 1000 && atomic_load(&w->works[i].term) != 0; n++) {
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    }
    return atomic_load(&w->works[i].term) == 0;
}

static void test_work_moves_with_the_leadership(void **state)
{
    struct world *w = *state;
    struct thole_status st = {0};
    struct thole_answer a = {0};
    char request[64];
    int first = runs_at(w, -1);
    assert_true(first >= 0);
    uint64_t term = atomic_load(&w->works[first].term);
    (void)snprintf(request, sizeof request, "{\"shard\":\"c\",\"host\":\"h%d\"}",
                   (first + 1) % HOSTS + 1);
    if (thole_control(w->hosts[0], "Shards/TransferLeader", THOLE_JSON,
                      (struct thole_slice){request, strlen(request)}, 20000, &a, &st) != THOLE_OK) {
        fail_msg("transfer: %s", st.message);
    }
    free(a.data);
    int second = runs_at(w, first);
    assert_true(second >= 0);
    assert_true(stops_at(w, first));
    assert_true(atomic_load(&w->works[second].term) > term);
}

static void test_registration_that_ends_stops_its_work(void **state)
{
    struct world *w = *state;
    struct thole_status st = {0};
    int at = runs_at(w, -1);
    assert_true(at >= 0);
    uint64_t term = atomic_load(&w->works[at].term);
    thole_off_lead(w->hosts[at], w->ids[at]);
    thole_off_lead(w->hosts[at], w->ids[at]); /* unknown now */
    assert_int_equal(atomic_load(&w->works[at].term), 0);
    const struct thole_leader_work work = {
        .size = sizeof work, .ctx = &w->works[at], .start = start_work, .stop = stop_work};
    assert_int_equal(thole_on_lead(w->hosts[at], w->shards[at], &work, &w->ids[at], &st), THOLE_OK);
    assert_int_equal(runs_at(w, -1), at);
    assert_int_equal(atomic_load(&w->works[at].term), term); /* the leadership is the same one */
}

static void test_bad_registrations_are_refused(void **state)
{
    struct world *w = *state;
    struct thole_status st = {0};
    struct thole *client = NULL;
    uint64_t id = 0;
    struct thole_leader_work work = {.size = sizeof work, .start = start_work, .stop = stop_work};
    assert_int_equal(thole_on_lead(w->hosts[0], w->shards[1], &work, &id, &st),
                     THOLE_INVALID_ARGUMENT);
    work.stop = NULL;
    assert_int_equal(thole_on_lead(w->hosts[0], w->shards[0], &work, &id, &st),
                     THOLE_INVALID_ARGUMENT);
    assert_int_equal(thole_connect(fixture_address(w->f, 0), &client, &st), THOLE_OK);
    assert_int_equal(thole_on_lead(client, w->shards[0], &work, &id, &st),
                     THOLE_FAILED_PRECONDITION);
    thole_close(client);
}

/* The last test: it closes hosts. The host that stays leads, or not, but nobody confirms it. */
static void test_work_moves_when_hosts_close_and_stops_without_a_majority(void **state)
{
    struct world *w = *state;
    for (int left = HOSTS; left > 1; left--) {
        int at = runs_at(w, -1);
        assert_true(at >= 0);
        thole_close(w->hosts[at]);
        w->hosts[at] = NULL;
        assert_int_equal(atomic_load(&w->works[at].term), 0);
    }
    for (int i = 0; i < HOSTS; i++) {
        assert_true(stops_at(w, i));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_work_moves_with_the_leadership),
        cmocka_unit_test(test_registration_that_ends_stops_its_work),
        cmocka_unit_test(test_bad_registrations_are_refused),
        cmocka_unit_test(test_work_moves_when_hosts_close_and_stops_without_a_majority),
    };
    return cmocka_run_group_tests_name("lead", tests, set_up, tear_down);
}
