/* Repair.PlanRepair and Repair.RunRepair over gRPC, on a cluster that needs no repair. */
#include <stdio.h>
#include <string.h>

#include "agent/services/test/services_fixture.h"
#include "thole/v1/repair.upb.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

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

static const thole_v1_RepairPlan *plan(struct services_fixture *f, const char *shard)
{
    thole_v1_PlanRepairRequest *q = NEW(f, PlanRepairRequest);
    thole_v1_PlanRepairRequest_set_shard(q, sv(shard));
    return CALL(f, Repair, PlanRepair, q, RepairPlan);
}

static const thole_v1_RepairPlan *run(struct services_fixture *f, const char *shard,
                                      upb_StringView hash)
{
    thole_v1_RunRepairRequest *q = NEW(f, RunRepairRequest);
    thole_v1_RunRepairRequest_set_shard(q, sv(shard));
    thole_v1_RunRepairRequest_set_hash(q, hash);
    return CALL(f, Repair, RunRepair, q, RepairPlan);
}

static void test_repair_of_a_healthy_shard_is_refused(void **state)
{
    struct services_fixture *f = *state;
    size_t n = 0;
    assert_non_null(services_fixture_create(f, "sound", "kv"));
    services_fixture_wait_ready(f, "sound");
    const thole_v1_RepairPlan *p = plan(f, "shards/sound");
    assert_non_null(p);
    assert_false(thole_v1_RepairPlan_possible(p));
    assert_true(thole_v1_RepairPlan_refused_because(p).size > 0);
    const thole_v1_RepairReplica *const *all = thole_v1_RepairPlan_replicas(p, &n);
    assert_int_equal(n, 1);
    assert_true(thole_v1_RepairReplica_leads(all[0]));
    assert_true(thole_v1_RepairReplica_last_index(all[0]) > 0);
    assert_failed(f, run(f, "sound", thole_v1_RepairPlan_hash(p)), THOLE_FAILED_PRECONDITION,
                  THOLE_REASON_UNSATISFIABLE);
}

static void test_repair_needs_the_plan_that_was_seen(void **state)
{
    struct services_fixture *f = *state;
    assert_non_null(services_fixture_create(f, "seen", "kv"));
    services_fixture_wait_ready(f, "seen");
    assert_failed(f, run(f, "seen", sv("1234")), THOLE_ABORTED, THOLE_REASON_STALE_REVISION);
    assert_failed(f, run(f, "seen", sv("")), THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST);
    assert_failed(f, run(f, "seen", sv("no hash")), THOLE_INVALID_ARGUMENT,
                  THOLE_REASON_BAD_REQUEST);
}

static void test_repair_of_what_is_no_users_shard_says_so(void **state)
{
    struct services_fixture *f = *state;
    assert_failed(f, plan(f, "nonesuch"), THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD);
    assert_failed(f, plan(f, ""), THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST);
    assert_failed(f, plan(f, "zero"), THOLE_FAILED_PRECONDITION, THOLE_REASON_BAD_REQUEST);
    assert_non_null(strstr(f->st.message, "thole repair zero"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_repair_of_a_healthy_shard_is_refused),
        cmocka_unit_test(test_repair_needs_the_plan_that_was_seen),
        cmocka_unit_test(test_repair_of_what_is_no_users_shard_says_so),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
