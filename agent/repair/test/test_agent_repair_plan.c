/* Which replica a repair keeps, and when it must keep none. */
#include "agent/repair/shard_repair.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Replicas 1.. of which the first `voters` vote, all in one configuration. */
static struct repair_plan *plan_new(size_t replicas, size_t voters)
{
    struct repair_plan *p = xcalloc(1, sizeof *p);
    p->shard_id = 7;
    p->count = replicas;
    for (size_t i = 0; i < replicas; i++) {
        struct repair_replica *r = &p->replicas[i];
        r->replica_id = i + 1;
        snprintf(r->host, sizeof r->host, "h%zu", i + 1);
        for (uint32_t k = 0; k < replicas; k++) {
            struct raft_member *m = raft_config_insert(&r->config, k);
            m->replica_id = k + 1;
            m->role = k < voters ? RAFT_VOTER : RAFT_LEARNER;
        }
    }
    return p;
}

static void answers(struct repair_plan *p, size_t i, uint64_t term, uint64_t index)
{
    p->replicas[i].answered = true;
    p->replicas[i].last_term = term;
    p->replicas[i].last_index = index;
}

static void plan_free(struct repair_plan *p)
{
    for (size_t i = 0; i < p->count; i++) {
        raft_config_deinit(&p->replicas[i].config);
    }
    free(p);
}

static void repair_plan_chooses_by_term_before_index(void **state)
{
    (void)state;
    struct repair_plan *p = plan_new(5, 5);
    answers(p, 3, 4, 900);
    answers(p, 4, 5, 100);
    repair_decide(p);
    assert_true(p->possible);
    assert_int_equal(p->chosen, 4);
    assert_int_equal(p->epoch, 1);
    assert_non_null(strstr(p->consequence, "h1, h2, h3"));
    assert_null(strstr(p->consequence, "h4"));
    p->replicas[3].epoch = 1; /* a group that was forced before is newer than any term */
    repair_decide(p);
    assert_int_equal(p->chosen, 3);
    assert_int_equal(p->epoch, 2);
    plan_free(p);
}

static void repair_plan_with_a_quorum_alive_is_refused(void **state)
{
    (void)state;
    struct repair_plan *p = plan_new(4, 3);
    answers(p, 0, 1, 10);
    answers(p, 3, 1, 20); /* a learner has a longer log, and no vote */
    repair_decide(p);
    assert_true(p->possible);
    assert_int_equal(p->chosen, 3);
    answers(p, 1, 1, 10);
    repair_decide(p);
    assert_false(p->possible);
    assert_non_null(strstr(p->refused, "2 of 3"));
    snprintf(p->replicas[1].problem, sizeof p->replicas[1].problem, "failed"); /* is not a voter */
    repair_decide(p);
    assert_true(p->possible);
    plan_free(p);
}

static void repair_plan_of_a_joint_configuration_needs_both_quorums_alive(void **state)
{
    (void)state;
    struct repair_plan *p = plan_new(4, 4);
    for (size_t i = 0; i < 4; i++) {
        p->replicas[i].config.joint = true;
        for (uint32_t k = 0; k < 4; k++) { /* 1, 2, 3 -> 1, 2, 4 */
            struct raft_member *m = &p->replicas[i].config.members[k];
            m->role = k == 2 ? 0 : RAFT_VOTER;
            m->outgoing_role = k == 3 ? 0 : RAFT_VOTER;
        }
    }
    answers(p, 0, 1, 10);
    answers(p, 3, 1, 10);
    repair_decide(p); /* two of the three new voters, one of the three old voters */
    assert_true(p->possible);
    answers(p, 1, 1, 10);
    repair_decide(p);
    assert_false(p->possible);
    plan_free(p);
}

static void repair_plan_without_data_or_with_a_leader_is_refused(void **state)
{
    (void)state;
    struct repair_plan *p = plan_new(3, 3);
    repair_decide(p);
    assert_false(p->possible);
    assert_int_equal(p->chosen, p->count);
    answers(p, 0, 1, 10);
    p->replicas[0].witness = true;
    repair_decide(p);
    assert_false(p->possible);
    p->replicas[0].witness = false;
    p->replicas[0].leads = true;
    repair_decide(p);
    assert_false(p->possible);
    assert_non_null(strstr(p->refused, "leads"));
    plan_free(p);
}

static void repair_plan_hash_changes_with_what_it_rests_on(void **state)
{
    (void)state;
    struct repair_plan *p = plan_new(3, 3);
    answers(p, 0, 1, 10);
    repair_decide(p);
    uint64_t hash = p->hash;
    p->replicas[0].applied = 5;
    repair_decide(p);
    assert_int_equal(p->hash, hash);
    p->replicas[0].last_index++;
    repair_decide(p);
    assert_int_not_equal(p->hash, hash);
    p->replicas[0].last_index--;
    answers(p, 1, 1, 1);
    repair_decide(p);
    assert_int_not_equal(p->hash, hash);
    plan_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(repair_plan_chooses_by_term_before_index),
        cmocka_unit_test(repair_plan_with_a_quorum_alive_is_refused),
        cmocka_unit_test(repair_plan_of_a_joint_configuration_needs_both_quorums_alive),
        cmocka_unit_test(repair_plan_without_data_or_with_a_leader_is_refused),
        cmocka_unit_test(repair_plan_hash_changes_with_what_it_rests_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
