/* grpc.health.v1 of a host whose shards are created, deleted, and created again under the same
 * names. */
#include "agent/services/test/services_fixture.h"

#include "base/buf.h"
#include "base/clock.h"
#include "grpc/health/v1/health.upb.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define SHARDS 24
#define ROUNDS 4
#define WAIT_NS (20 * NS_PER_S)

static int setup(void **state)
{
    *state = services_fixture_new();
    return 0;
}

static int teardown(void **state)
{
    services_fixture_free(*state);
    return 0;
}

static const char *name_of(int i)
{
    static char name[16];
    snprintf(name, sizeof name, "s%d", i);
    return name;
}

/* 0: no shard has that name. */
static int health_of(struct services_fixture *f, const char *shard)
{
    char name[64];
    snprintf(name, sizeof name, "shard/%s", shard);
    grpc_health_v1_HealthCheckRequest *q = grpc_health_v1_HealthCheckRequest_new(f->arena);
    grpc_health_v1_HealthCheckRequest_set_service(q, sv(name));
    const grpc_health_v1_HealthCheckResponse *reply = services_fixture_call(
        f, "/grpc.health.v1.Health/Check", q, &grpc_health_v1_HealthCheckRequest_msginit,
        &grpc_health_v1_HealthCheckResponse_msginit);
    if (reply == NULL) {
        assert_int_equal(f->st.code, THOLE_NOT_FOUND);
        return 0;
    }
    return grpc_health_v1_HealthCheckResponse_status(reply);
}

static void expect_health(struct services_fixture *f, const char *shard, int want)
{
    int have = -1;
    for (uint64_t end = clock_now(&clock_system) + WAIT_NS;
         have != want && clock_now(&clock_system) < end;) {
        have = health_of(f, shard);
    }
    if (have != want) {
        fail_msg("shard/%s: %d instead of %d", shard, have, want);
    }
}

static void delete_shard(struct services_fixture *f, const char *name)
{
    thole_v1_DeleteShardRequest *q = NEW(f, DeleteShardRequest);
    thole_v1_DeleteShardRequest_set_name(q, sv(name));
    assert_non_null(CALL(f, Shards, DeleteShard, q, DeleteShardResponse));
}

/* As soon as the name is free. */
static void create_again(struct services_fixture *f, const char *name)
{
    thole_v1_CreateShardRequest *q = NEW(f, CreateShardRequest);
    thole_v1_Shard *shard = thole_v1_CreateShardRequest_mutable_shard(q, f->arena);
    thole_v1_ShardSpec *spec = thole_v1_Shard_mutable_spec(shard, f->arena);
    thole_v1_Shard_set_name(shard, sv(name));
    thole_v1_ShardSpec_set_type(spec, sv("counter"));
    thole_v1_ShardSpec_set_voters(spec, 1);
    const thole_v1_Shard *row = NULL;
    for (uint64_t end = clock_now(&clock_system) + WAIT_NS;
         row == NULL && clock_now(&clock_system) < end;) {
        row = CALL(f, Shards, CreateShard, q, Shard);
    }
    assert_non_null(row);
}

static void test_health_of_a_deleted_shard_is_not_found(void **state)
{
    struct services_fixture *f = *state;
    services_fixture_create(f, "once", "counter");
    services_fixture_create(f, "stays", "counter");
    expect_health(f, "once", grpc_health_v1_HealthCheckResponse_SERVING);
    expect_health(f, "stays", grpc_health_v1_HealthCheckResponse_SERVING);
    delete_shard(f, "once");
    expect_health(f, "once", 0);
    expect_health(f, "stays", grpc_health_v1_HealthCheckResponse_SERVING);
}

/* The name belongs to the new shard, whenever the host notices that the old shard is gone. */
static void test_health_of_a_shard_made_again_is_its_own(void **state)
{
    struct services_fixture *f = *state;
    char other[32];
    for (int i = 0; i < SHARDS; i++) {
        services_fixture_create(f, name_of(i), "counter");
    }
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < SHARDS; i++) {
            delete_shard(f, name_of(i));
        }
        for (int i = 0; i < SHARDS; i++) {
            create_again(f, name_of(i));
        }
        for (int i = 0; i < SHARDS; i++) {
            services_fixture_wait_ready(f, name_of(i));
            expect_health(f, name_of(i), grpc_health_v1_HealthCheckResponse_SERVING);
        }
        /* Once the host serves the other shards, it has noticed every removal. */
        for (int i = 0; i < 2; i++) {
            snprintf(other, sizeof other, "other-%d-%d", round, i);
            services_fixture_create(f, other, "counter");
            expect_health(f, other, grpc_health_v1_HealthCheckResponse_SERVING);
        }
        for (int i = 0; i < SHARDS; i++) {
            assert_int_equal(health_of(f, name_of(i)), grpc_health_v1_HealthCheckResponse_SERVING);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_health_of_a_deleted_shard_is_not_found),
        cmocka_unit_test(test_health_of_a_shard_made_again_is_its_own),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
