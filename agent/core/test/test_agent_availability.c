/* Readiness of shards and hosts: conditions, gRPC health and the library's waits report the current
 * state, and how long a shard has been unavailable. */
#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "agent/core/availability.h"
#include "agent/core/test/agent_fixture.h"
#include "agent/lib/api_internal.h"
#include "bus/channel.h"

#include <cmocka.h>

#define WAIT_NS (20 * NS_PER_S)
#define FREE_BYTES (16 * MIB) /* while all disks are nearly full */

/* ---- Disks ----------------------------------------------------------------------------------- */

static _Atomic bool disks_low;

// NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name)
int statvfs(const char *path, struct statvfs *ret)
{
    int (*real)(const char *, struct statvfs *) = NULL;
    *(void **)&real = dlsym(RTLD_NEXT, "statvfs");
    int failed = real(path, ret);
    if (failed == 0 && atomic_load(&disks_low)) {
        ret->f_bavail = FREE_BYTES / ret->f_frsize;
    }
    return failed;
}

/* ---- Looking --------------------------------------------------------------------------------- */

enum { UNKNOWN, SERVING, NOT_SERVING };

static int health_of(struct fixture *f, int i, const char *service)
{
    struct thole_status st;
    struct bytes request = {0};
    struct bus_channel *channel = NULL;
    struct buf *reply = NULL;
    int have = UNKNOWN;
    bytes_append_varint(&request, 1 << 3 | 2); /* HealthCheckRequest.service */
    bytes_append_varint(&request, strlen(service));
    bytes_append_str(&request, service);
    assert_int_equal(bus_channel_new(agent_address(f->agents[i]), &channel, &st), THOLE_OK);
    if (bus_channel_call(channel, "/grpc.health.v1.Health/Check", bytes_slice(&request), 5000,
                         &reply, &st) == THOLE_OK) {
        have = reply->size == 2 ? reply->data[1] : UNKNOWN;
        buf_unref(reply);
    }
    bus_channel_free(channel);
    bytes_deinit(&request);
    return have;
}

static void expect_health(struct fixture *f, int i, const char *service, int want)
{
    int have = -1;
    for (uint64_t end = clock_now(&clock_system) + WAIT_NS;
         have != want && clock_now(&clock_system) < end; fixture_pause_ms(20)) {
        have = health_of(f, i, service);
    }
    if (have != want) {
        fail_msg("host %d: health of %s is %d instead of %d", i + 1, service, have, want);
    }
}

/* Wait until 12 looks in a row, at all hosts, say the same: at first the shard may be led by a host
 * that has not looked at its disk yet. */
static void expect_lasting(struct fixture *f, const char *service, int want)
{
    int same = 0;
    for (uint64_t end = clock_now(&clock_system) + WAIT_NS;
         same < 12 && clock_now(&clock_system) < end; fixture_pause_ms(20)) {
        same = health_of(f, same % 3, service) == want ? same + 1 : 0;
    }
    if (same < 12) {
        fail_msg("health of %s does not stay %d", service, want);
    }
}

static struct shard_availability look(struct fixture *f, int i, const char *shard)
{
    struct registry_shard_buf buf;
    struct shard_availability now = {0};
    struct registry_view *v = registry_view_acquire(agent_registry(f->agents[i]));
    const struct availability_check check = agent_availability_begin(f->agents[i], v);
    const thole_v1_Shard *row = registry_shard_by_name(v, slice_str(shard), &buf);
    assert_non_null(row);
    agent_check_shard(&check, row, &now);
    registry_view_release(v);
    return now;
}

/* Wait until the shard has been unavailable for this reason for at least `ms`. */
static void expect_unavailable(struct fixture *f, int i, const char *shard, const char *reason,
                               uint64_t ms)
{
    struct shard_availability now = {.available = true};
    for (uint64_t end = clock_now(&clock_system) + WAIT_NS; clock_now(&clock_system) < end;
         fixture_pause_ms(20)) {
        now = look(f, i, shard);
        if (!now.available && strcmp(now.reason, reason) == 0 && now.age_ms >= ms) {
            return;
        }
    }
    fail_msg("host %d: %s is %s: %s", i + 1, shard, now.available ? "served" : now.reason,
             now.message);
}

static enum thole_code wait_shard(struct fixture *f, int i, const char *shard, uint32_t ms)
{
    struct thole_status st;
    struct thole t = {.agent = f->agents[i]};
    return thole_shard_wait_ready(&t, shard, ms, &st);
}

static struct fixture *cluster(int n)
{
    struct fixture *f = fixture_new(n);
    atomic_store(&disks_low, false);
    for (int i = 0; i < n; i++) {
        fixture_start_ok(f, i, AGENT_BOOTSTRAP_PEERS);
    }
    for (int i = 0; i < n; i++) {
        fixture_wait_ready(f, i);
    }
    assert_int_equal(fixture_create_shard(f, 0, "c", "counter", 3, NULL), THOLE_OK);
    assert_int_equal(wait_shard(f, 0, "c", 20000), THOLE_OK);
    return f;
}

/* ---- Tests ----------------------------------------------------------------------------------- */

static void test_a_shard_that_no_disk_can_take_is_not_ready(void **state)
{
    (void)state;
    struct fixture *f = cluster(3);
    for (int i = 0; i < 3; i++) {
        expect_health(f, i, "shard/c", SERVING);
    }
    expect_health(f, 0, "", SERVING);
    atomic_store(&disks_low, true);
    for (int i = 0; i < 3; i++) {
        expect_health(f, i, "shard/c", NOT_SERVING);
    }
    expect_health(f, 0, "", NOT_SERVING); /* shard zero cannot be written, either */
    expect_lasting(f, "shard/c", NOT_SERVING);
    expect_unavailable(f, 0, "c", "LowSpace", 500);
    const struct shard_availability now = look(f, 0, "c");
    char age[48];
    snprintf(age, sizeof age, "; last confirmed %.1f s ago", (double)now.age_ms / 1000);
    assert_non_null(strstr(now.message, age));
    assert_int_equal(wait_shard(f, 0, "c", 300), THOLE_DEADLINE_EXCEEDED);
    assert_false(fixture_ready(f, 0, 0));
    atomic_store(&disks_low, false);
    for (int i = 0; i < 3; i++) {
        expect_health(f, i, "shard/c", SERVING);
    }
    assert_int_equal(wait_shard(f, 0, "c", 20000), THOLE_OK);
    fixture_wait_ready(f, 0);
    fixture_free(f);
}

static void test_a_host_that_is_left_alone_says_how_old_its_view_is(void **state)
{
    (void)state;
    struct fixture *f = cluster(3);
    fixture_stop(f, 2);
    fixture_stop(f, 1);
    expect_unavailable(f, 0, "c", "ViewOld", 300);
    expect_health(f, 0, "shard/c", NOT_SERVING);
    expect_health(f, 0, "", NOT_SERVING);
    assert_int_equal(wait_shard(f, 0, "c", 300), THOLE_DEADLINE_EXCEEDED);
    fixture_start_ok(f, 1, AGENT_BOOTSTRAP_NONE);
    assert_int_equal(wait_shard(f, 0, "c", 20000), THOLE_OK);
    expect_health(f, 0, "shard/c", SERVING);
    fixture_free(f);
}

/* The view is current: three of the five hosts are up, one of them without a replica. */
static void test_a_quorum_that_is_silent_is_so_since_its_hosts_are(void **state)
{
    (void)state;
    struct fixture *f = cluster(5);
    int other = -1, stopped = 0;
    uint64_t shard = fixture_shard_id(f, 0, "c"), begin = 0;
    for (int i = 0; i < 5; i++) {
        struct engine_replica_status s;
        if (!engine_shard_status(agent_engine(f->agents[i]), shard, &s)) {
            other = i;
        } else if (stopped < 2) {
            stopped++;
            begin = clock_now(&clock_system);
            fixture_stop(f, i);
        }
    }
    assert_true(other >= 0 && stopped == 2);
    expect_unavailable(f, other, "c", "QuorumSilent", 400);
    struct shard_availability now = look(f, other, "c");
    assert_true(now.age_ms <= (clock_now(&clock_system) - begin) / NS_PER_MS);
    assert_true(now.silent == 2 && now.silent_ms >= now.age_ms);
    assert_int_equal(wait_shard(f, other, "c", 100), THOLE_DEADLINE_EXCEEDED);
    fixture_wait_ready(f, other);
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_shard_that_no_disk_can_take_is_not_ready),
        cmocka_unit_test(test_a_host_that_is_left_alone_says_how_old_its_view_is),
        cmocka_unit_test(test_a_quorum_that_is_silent_is_so_since_its_hosts_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
