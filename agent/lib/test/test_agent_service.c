/* What a program needs that runs a host as a service, as tholed does, by the public API. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <thole/thole.h>
#include <unistd.h>

#include "agent/core/test/agent_fixture.h"

#include <cmocka.h>

struct heard {
    _Atomic int ready, unready, probes;
    _Atomic int probe_code;
};

static void on_ready(void *ctx, bool ready, const char *why)
{
    struct heard *h = ctx;
    assert_true(ready == (why[0] == '\0'));
    atomic_fetch_add(ready ? &h->ready : &h->unready, 1);
}

static void on_probe(void *ctx, enum thole_code code)
{
    struct heard *h = ctx;
    atomic_store(&h->probe_code, (int)code);
    atomic_fetch_add(&h->probes, 1);
}

static void wait_for(_Atomic int *count, int least)
{
    for (int tries = 0; tries < 2000 && atomic_load(count) < least; tries++) {
        fixture_pause_ms(10);
    }
    assert_in_range(atomic_load(count), least, 1000);
}

static struct thole *new_host(struct fixture *f, uint32_t bootstrap, struct heard *h,
                              uint32_t election_timeout_ms, int stop_fd)
{
    struct thole_options o = THOLE_OPTIONS_INIT;
    struct thole_status st = {0};
    struct thole *t = NULL;
    char *dir = fixture_dir(f, 0);
    o.data_dir = dir;
    o.listen = fixture_address(f, 0);
    o.addresses = fixture_address(f, 1);
    o.bootstrap = bootstrap;
    o.election_timeout_ms = election_timeout_ms;
    o.ready = on_ready;
    o.ctx = h;
    o.stop_fd = stop_fd;
    assert_int_equal(thole_new(&o, &t, &st), THOLE_OK);
    free(dir);
    return t;
}

static void test_service_knows_its_host(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(2);
    struct heard h = {0};
    struct thole_status st = {0};
    struct thole_host_state s = {.size = sizeof s};
    struct thole *t = new_host(f, THOLE_BOOTSTRAP_DEV, &h, 0, 0);
    assert_int_equal(thole_host_state(t, &s, &st), THOLE_FAILED_PRECONDITION);
    assert_int_equal(thole_probe(t, 1000, on_probe, &h, &st), THOLE_FAILED_PRECONDITION);
    assert_int_equal(thole_start(t, &st), THOLE_OK);
    assert_int_equal(thole_wait_ready(t, 20000, &st), THOLE_OK);
    wait_for(&h.ready, 1);
    assert_int_equal(thole_host_state(t, &s, &st), THOLE_OK);
    assert_true(s.member && s.registry && s.ready && !s.tls && !s.exposed);
    assert_string_equal(s.waiting_for, "");
    assert_int_equal(strlen(s.id), THOLE_ID_BYTES - 1);
    assert_int_equal(strlen(s.cluster), THOLE_ID_BYTES - 1);
    assert_int_equal(s.incarnation, 1);

    /* A program built against a library with fewer members gets these, and no byte more. */
    struct thole_host_state older;
    memset(&older, 0x5a, sizeof older);
    older.size = offsetof(struct thole_host_state, waiting_for);
    assert_int_equal(thole_host_state(t, &older, &st), THOLE_OK);
    assert_true(older.member && older.ready);
    assert_int_equal(older.waiting_for[0], 0x5a);

    assert_int_equal(thole_probe(t, 5000, on_probe, &h, &st), THOLE_OK);
    wait_for(&h.probes, 1);
    assert_int_equal(atomic_load(&h.probe_code), THOLE_OK);
    char *metrics = thole_metrics(t);
    assert_non_null(strstr(metrics, "\nthole_router_local_total "));
    free(metrics);

    /* Plain text. */
    assert_int_equal(thole_tls_reload(t, &st), THOLE_FAILED_PRECONDITION);
    assert_int_equal(thole_tls_pem(t, NULL, NULL), 0);
    assert_int_equal(thole_check_plain("http", "127.0.0.1:80", false, &st), THOLE_OK);
    assert_int_equal(thole_check_plain("http", "0.0.0.0:80", false, &st), THOLE_INVALID_ARGUMENT);
    assert_non_null(strstr(st.message, "http"));
    assert_int_equal(thole_check_plain("http", "0.0.0.0:80", true, &st), THOLE_OK);
    thole_close(t);
    assert_int_equal(atomic_load(&h.ready), 1);
    fixture_free(f);
}

static void test_service_may_release_views_and_shards_after_the_end(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(2);
    struct heard h = {0};
    struct thole_status st = {0};
    struct thole_view *views[3] = {NULL};
    struct thole_shard *shard = NULL;
    struct thole *t = new_host(f, THOLE_BOOTSTRAP_DEV, &h, 0, 0);
    assert_int_equal(thole_start(t, &st), THOLE_OK);
    assert_int_equal(thole_wait_ready(t, 20000, &st), THOLE_OK);
    assert_int_equal(thole_shard_open(t, "s", &shard, &st), THOLE_OK);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(thole_view_acquire(t, false, 0, &views[i], &st), THOLE_OK);
    }
    struct thole_host_info host = {.size = sizeof host};
    assert_true(thole_view_next_host(views[1], &host));
    thole_view_release(views[1]);
    thole_close(t);
    host.name[0] = '\0';
    struct thole_shard_info info = {.size = sizeof info};
    struct thole_replica_info replica = {.size = sizeof replica};
    for (int i = 0; i < 3; i += 2) {
        assert_false(thole_view_next_host(views[i], &host));
        assert_false(thole_view_next_shard(views[i], &info));
        assert_false(thole_view_next_replica(views[i], &replica));
        assert_false(thole_view_shard(views[i], "zero", &info));
        assert_int_equal(thole_view_revision(views[i]), 0);
        thole_view_release(views[i]);
    }
    thole_shard_release(shard);
    fixture_free(f);
}

/* A host that cannot join says so, and is not ready; its end is not held up. */
static void test_service_hears_what_its_host_waits_for(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(2);
    struct heard h = {0};
    struct thole_status st = {0};
    struct thole_host_state s = {.size = sizeof s};
    struct thole *t = new_host(f, THOLE_BOOTSTRAP_JOIN, &h, 0, 0);
    assert_int_equal(thole_start(t, &st), THOLE_OK);
    wait_for(&h.unready, 1);
    assert_int_equal(thole_host_state(t, &s, &st), THOLE_OK);
    assert_true(!s.member && !s.ready);
    assert_true(strlen(s.waiting_for) > 0);
    assert_string_equal(s.cluster, "");
    thole_close(t);
    assert_int_equal(atomic_load(&h.ready), 0);
    fixture_free(f);
}

/* A host that promised a longer election timeout waits that long at its next start, unless the
 * program stops. */
static void test_service_that_stops_ends_a_wait_at_the_start(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(2);
    struct heard h = {0};
    struct thole_status st = {0};
    int stop_fd = eventfd(1, EFD_CLOEXEC); /* readable */
    struct thole *t = new_host(f, THOLE_BOOTSTRAP_DEV, &h, 60000, 0);
    assert_int_equal(thole_start(t, &st), THOLE_OK);
    thole_close(t);
    t = new_host(f, THOLE_BOOTSTRAP_DEV, &h, 500, stop_fd);
    assert_int_equal(thole_start(t, &st), THOLE_CANCELLED);
    thole_close(t);
    close(stop_fd);
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_service_knows_its_host),
        cmocka_unit_test(test_service_may_release_views_and_shards_after_the_end),
        cmocka_unit_test(test_service_hears_what_its_host_waits_for),
        cmocka_unit_test(test_service_that_stops_ends_a_wait_at_the_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
