/* Placement on thousands of random clusters, each simulated until no replica moves any more. */
#include "base/rand.h"
#include "registry/placement/placement.h"
#include "registry/test/registry_fixture.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define VOTER thole_v1_REPLICA_ROLE_VOTER
#define NON_VOTING thole_v1_REPLICA_ROLE_NON_VOTING

/* ---- Deciding and simulating ----------------------------------------------------------------- */

static struct placement_result decide(struct fixture *f, uint64_t shard, bool conditions)
{
    struct registry_shard_buf shard_buf;
    struct placement_result ret = {.verdict = PLACEMENT_WAIT};
    struct registry_view *v = registry_view_acquire(f->r);
    const thole_v1_Shard *row = registry_shard(v, shard, &shard_buf);
    if (row != NULL) {
        struct cmd c = cmd_new("placement");
        placement_decide(v, row, NULL, c.c, c.arena, &ret);
        size_t count = 0;
        thole_registry_v1_Command_operations(c.c, &count);
        assert_int_equal(ret.verdict == PLACEMENT_ACT, count > 0);
        if (conditions) {
            placement_conditions(v, row, &ret, c.c, c.arena);
        }
        thole_registry_v1_Command_operations(c.c, &count);
        if (count > 0) {
            assert_int_equal(fixture_run(f, &c), THOLE_OK);
        } else {
            upb_Arena_Free(c.arena);
        }
    }
    registry_view_release(v);
    return ret;
}

static bool host_up(const struct registry_view *v, const thole_v1_Replica *r)
{
    struct slice name = registry_str(thole_v1_Replica_host(r));
    const thole_v1_Host *h = registry_host_by_name(v, name);
    return h != NULL &&
           thole_v1_HostStatus_liveness(thole_v1_Host_status(h)) != thole_v1_HOST_LIVENESS_DEAD;
}

/* One replica advances by one phase; false if no replica could. */
static bool simulate_one(struct fixture *f, uint64_t shard, struct rand *rng)
{
    struct registry_shard_buf shard_buf;
    struct registry_replica_buf replica_buf;
    struct registry_view *v = registry_view_acquire(f->r);
    uint64_t ids[128];
    int32_t phases[128];
    size_t count = 0;
    uint64_t id = 0;
    const thole_v1_Replica *r;
    const thole_v1_Shard *s = registry_shard(v, shard, &shard_buf);
    bool deleting = s != NULL && thole_v1_Shard_deleting(s);
    while ((r = registry_next_replica_of_shard(v, shard, id, &replica_buf)) != NULL &&
           count < 128) {
        id = thole_v1_Replica_id(r);
        bool remove = thole_v1_Replica_desired(r) == thole_v1_REPLICA_DESIRED_REMOVE;
        int32_t phase = thole_v1_Replica_phase(r);
        ids[count] = id;
        if (!remove && host_up(v, r) && phase != thole_v1_REPLICA_PHASE_RUNNING) {
            phases[count++] = thole_v1_REPLICA_PHASE_RUNNING;
        } else if (remove && phase != thole_v1_REPLICA_PHASE_OUT && !deleting) {
            phases[count++] = thole_v1_REPLICA_PHASE_OUT;
        } else if (remove && host_up(v, r)) {
            phases[count++] = thole_v1_REPLICA_PHASE_GONE;
        }
    }
    registry_view_release(v);
    if (count == 0) {
        return false;
    }
    size_t pick = rand_below(rng, count);
    assert_int_equal(do_observe(f, ids[pick], phases[pick], 1), THOLE_OK);
    return true;
}

struct counts {
    uint32_t voters, live, others, running, members;
};

/* The replicas that placement wants to run, and the members of the group that would answer. */
static struct counts count_shard(struct fixture *f, uint64_t shard)
{
    struct registry_replica_buf replica_buf;
    struct counts ret = {0};
    struct registry_view *v = registry_view_acquire(f->r);
    const thole_v1_Replica *r;
    uint64_t id = 0;
    while ((r = registry_next_replica_of_shard(v, shard, id, &replica_buf)) != NULL) {
        id = thole_v1_Replica_id(r);
        bool voter = thole_v1_Replica_role(r) == VOTER;
        if (thole_v1_Replica_desired(r) == thole_v1_REPLICA_DESIRED_RUN) {
            ret.voters += voter;
            ret.live += voter && thole_v1_Replica_phase(r) == thole_v1_REPLICA_PHASE_RUNNING &&
                        host_up(v, r);
            ret.others += !voter;
        }
        if (voter && thole_v1_Replica_phase(r) == thole_v1_REPLICA_PHASE_RUNNING) {
            ret.members++;
            ret.running += host_up(v, r);
        }
    }
    registry_view_release(v);
    return ret;
}

static struct placement_result settle(struct fixture *f, uint64_t shard, struct rand *rng)
{
    struct placement_result ret;
    for (int i = 0; i < 400; i++) {
        struct counts before = count_shard(f, shard);
        ret = decide(f, shard, rand_chance(rng, 0.5));
        struct counts after = count_shard(f, shard);
        /* Whatever placement removes, the live voters keep a majority of the voters. */
        if (shard != 0 && after.live < before.live) {
            assert_true(after.live * 2 > after.voters);
        }
        /* Shard zero's votes change all at once, to an odd number; but two of three may wait for
         * the third. */
        if (shard == 0 && after.voters != before.voters) {
            assert_true(after.voters % 2 == 1 || after.voters == 2);
        }
        do_formed(f, shard, 0, 0);
        bool moved = false;
        for (uint64_t n = rand_below(rng, 4); n > 0; n--) {
            moved |= simulate_one(f, shard, rng);
        }
        if (!moved && ret.verdict != PLACEMENT_ACT && !simulate_one(f, shard, rng)) {
            break;
        }
    }
    assert_int_not_equal(ret.verdict, PLACEMENT_ACT);
    /* Stable: deciding again changes nothing but, at most once, the conditions. */
    decide(f, shard, true);
    struct registry_view *v = registry_view_acquire(f->r);
    ret = decide(f, shard, true);
    struct registry_view *again = registry_view_acquire(f->r);
    assert_int_equal(registry_view_revision(v), registry_view_revision(again));
    check_invariants(again);
    registry_view_release(v);
    registry_view_release(again);
    return ret;
}

/* ---- Random clusters ------------------------------------------------------------------------- */

static uint64_t create_constrained(struct fixture *f, struct rand *rng, uint32_t voters,
                                   uint32_t others)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_CreateShard *s =
        thole_registry_v1_Operation_mutable_create_shard(cmd_op(&c), c.arena);
    thole_registry_v1_CreateShard_set_name(s, upb_StringView_FromString("s"));
    thole_v1_ShardSpec *spec = thole_registry_v1_CreateShard_mutable_spec(s, c.arena);
    thole_v1_ShardSpec_set_type(spec, upb_StringView_FromString("kv"));
    thole_v1_ShardSpec_set_voters(spec, voters);
    if (others > 0) {
        thole_v1_ReplicaGroup_set_count(thole_v1_ShardSpec_add_non_voting(spec, c.arena), others);
    }
    if (rand_chance(rng, 0.5)) {
        thole_v1_Constraint *k = thole_v1_ShardSpec_add_constraints(spec, c.arena);
        upb_StringView value = upb_StringView_FromString(rand_chance(rng, 0.5) ? "z0" : "z1");
        thole_v1_Constraint_set_key(k, upb_StringView_FromString("zone"));
        thole_v1_Constraint_set_operator(k, (int32_t)rand_between(rng, 1, 4));
        if (thole_v1_Constraint_operator(k) <= thole_v1_CONSTRAINT_OPERATOR_NOT_IN) {
            thole_v1_Constraint_add_values(k, value, c.arena);
        }
    }
    return fixture_run(f, &c);
}

static bool matches(const thole_v1_Host *h, const thole_v1_ShardSpec *spec)
{
    size_t count = 0;
    size_t failed;
    const thole_v1_Constraint *const *constraints = thole_v1_ShardSpec_constraints(spec, &count);
    return placement_host_matches(h, constraints, count, &failed);
}

static bool can_take(const thole_v1_Host *h, const thole_v1_ShardSpec *spec)
{
    return thole_v1_HostSpec_state(thole_v1_Host_spec(h)) == thole_v1_HOST_STATE_ACTIVE &&
           thole_v1_HostStatus_liveness(thole_v1_Host_status(h)) != thole_v1_HOST_LIVENESS_DEAD &&
           matches(h, spec);
}

/* After the cluster has settled: placed as wanted, or with an explanation. */
static void check_settled(struct fixture *f, const struct placement_result *result)
{
    struct registry_shard_buf shard_buf;
    struct registry_replica_buf replica_buf, replica_buf2;
    struct registry_view *v = registry_view_acquire(f->r);
    const thole_v1_Shard *s = registry_shard(v, 1, &shard_buf);
    const thole_v1_ShardSpec *spec = thole_v1_Shard_spec(s);
    uint32_t good[2] = {0};
    uint32_t mine_bad = 0;
    uint32_t users = 0;
    uint64_t id = 0;
    const thole_v1_Replica *r;
    while ((r = registry_next_replica_of_shard(v, 1, id, &replica_buf)) != NULL) {
        id = thole_v1_Replica_id(r);
        if (thole_v1_Replica_desired(r) != thole_v1_REPLICA_DESIRED_RUN) {
            continue;
        }
        const thole_v1_Host *h = registry_host_by_name(v, registry_str(thole_v1_Replica_host(r)));
        int32_t state = thole_v1_HostSpec_state(thole_v1_Host_spec(h));
        bool user = thole_v1_Replica_owner(r) == thole_v1_REPLICA_OWNER_USER;
        bool ok = host_up(v, r) && state <= thole_v1_HOST_STATE_CORDONED && matches(h, spec);
        good[thole_v1_Replica_role(r) == VOTER] += ok;
        mine_bad += !ok && !user;
        users += user;
    }
    size_t free_hosts = 0;
    struct slice name = {0};
    const thole_v1_Host *h;
    while ((h = registry_next_host(v, name)) != NULL) {
        name = registry_str(thole_v1_Host_name(h));
        bool used = false;
        id = 0;
        while ((r = registry_next_replica_of_shard(v, 1, id, &replica_buf2)) != NULL) {
            id = thole_v1_Replica_id(r);
            used |= slice_equal(registry_str(thole_v1_Replica_host(r)), name);
        }
        free_hosts += !used && can_take(h, spec);
    }
    uint32_t voters = thole_v1_ShardSpec_voters(spec);
    uint32_t others = registry_non_voting(spec);
    if (result->verdict == PLACEMENT_SETTLED) {
        assert_true(good[true] >= voters && good[false] >= others);
        assert_int_equal(mine_bad, 0);
        if (users == 0) {
            assert_int_equal(good[true], voters);
            assert_int_equal(good[false], others);
        }
    } else if (result->verdict == PLACEMENT_UNSATISFIABLE) {
        bool never = good[true] + good[false] == 0 && mine_bad == 0;
        assert_true(free_hosts == 0 || (never && free_hosts < voters));
        assert_true(strlen(result->explanation) > 0);
    } else if (result->verdict == PLACEMENT_WAIT) {
        /* Only for the replicas that a dead host still has to delete, or will run when it is
         * back. */
        bool dead = false;
        name = (struct slice){0};
        while ((h = registry_next_host(v, name)) != NULL) {
            name = registry_str(thole_v1_Host_name(h));
            dead |= thole_v1_HostStatus_liveness(thole_v1_Host_status(h)) ==
                    thole_v1_HOST_LIVENESS_DEAD;
        }
        assert_true(dead);
    }
    registry_view_release(v);
}

static void disturb(struct fixture *f, struct rand *rng, uint64_t hosts)
{
    uint64_t host = rand_below(rng, hosts);
    switch (rand_below(rng, 7)) {
    case 0:
        do_host_state(f, host, (int32_t)rand_between(rng, 1, 3));
        break;
    case 1:
        do_liveness(f, host, (int32_t)rand_between(rng, 1, 3));
        break;
    case 2:
        do_update_shard(f, "s", (uint32_t)rand_between(rng, 1, 5), (uint32_t)rand_below(rng, 3),
                        "");
        break;
    case 3:
        do_create_replica(f, "s", host, (int32_t)rand_between(rng, 1, 2));
        break;
    case 4:
        do_admit(f, hosts + rand_below(rng, 3), 5);
        break;
    case 5:
        if (rand_chance(rng, 0.3)) {
            do_delete_host(f, host);
        }
        break;
    default:
        for (uint64_t h = 0; h < hosts; h++) {
            do_liveness(f, h, thole_v1_HOST_LIVENESS_LIVE);
            do_host_state(f, h, thole_v1_HOST_STATE_ACTIVE);
        }
        break;
    }
}

static void test_placement_random_clusters_converge(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 2000; seed++) {
        struct fixture f;
        struct rand rng;
        rand_seed(&rng, seed);
        fixture_init(&f);
        uint64_t hosts = rand_between(&rng, 1, 9);
        do_bootstrap(&f, hosts);
        do_formed(&f, 0, 1, 1);
        assert_int_equal(create_constrained(&f, &rng, (uint32_t)rand_between(&rng, 1, 5),
                                            (uint32_t)rand_below(&rng, 3)),
                         THOLE_OK);
        for (uint64_t round = rand_between(&rng, 1, 5); round > 0; round--) {
            struct placement_result result = settle(&f, 1, &rng);
            check_settled(&f, &result);
            for (uint64_t n = rand_between(&rng, 1, 3); n > 0; n--) {
                disturb(&f, &rng, hosts);
            }
        }
        fixture_deinit(&f);
    }
}

static void check_zero(struct fixture *f, const struct placement_result *result)
{
    struct registry_replica_buf replica_buf;
    struct registry_view *v = registry_view_acquire(f->r);
    uint32_t active = 0;
    uint32_t good = 0;
    uint64_t id = 0;
    struct slice name = {0};
    const thole_v1_Host *h;
    const thole_v1_Replica *r;
    while ((h = registry_next_host(v, name)) != NULL) {
        name = registry_str(thole_v1_Host_name(h));
        active +=
            thole_v1_HostSpec_state(thole_v1_Host_spec(h)) == thole_v1_HOST_STATE_ACTIVE &&
            thole_v1_HostStatus_liveness(thole_v1_Host_status(h)) != thole_v1_HOST_LIVENESS_DEAD;
    }
    while ((r = registry_next_replica_of_shard(v, 0, id, &replica_buf)) != NULL) {
        id = thole_v1_Replica_id(r);
        h = registry_host_by_name(v, registry_str(thole_v1_Replica_host(r)));
        good += thole_v1_Replica_role(r) == VOTER &&
                thole_v1_HostSpec_state(thole_v1_Host_spec(h)) != thole_v1_HOST_STATE_REMOVED &&
                host_up(v, r);
    }
    uint32_t target = active >= 5 ? 5 : active >= 3 ? 3 : 1;
    if (result->verdict == PLACEMENT_SETTLED) {
        assert_true(good >= target);
    }
    registry_view_release(v);
}

static void test_placement_zero_follows_hosts(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 500; seed++) {
        struct fixture f;
        struct rand rng;
        rand_seed(&rng, seed);
        fixture_init(&f);
        do_bootstrap(&f, rand_between(&rng, 1, 3));
        uint64_t hosts = rand_between(&rng, 3, 8);
        for (uint64_t round = 0; round < 6; round++) {
            struct placement_result result = settle(&f, 0, &rng);
            check_zero(&f, &result);
            uint64_t host = rand_below(&rng, hosts);
            do_admit(&f, rand_below(&rng, hosts), 9);
            if (rand_chance(&rng, 0.5)) {
                do_liveness(&f, host, (int32_t)rand_between(&rng, 1, 3));
            } else if (rand_chance(&rng, 0.7)) {
                do_host_state(&f, host, (int32_t)rand_between(&rng, 1, 3));
            } else {
                do_delete_host(&f, host);
            }
        }
        fixture_deinit(&f);
    }
}

static uint32_t zero_votes_on(struct fixture *f, uint64_t host)
{
    struct registry_replica_buf replica_buf;
    struct registry_view *v = registry_view_acquire(f->r);
    struct uuid id = test_uuid(host);
    uint32_t votes = 0;
    uint64_t after = 0;
    const thole_v1_Replica *r;
    while ((r = registry_next_replica_of_host(v, &id, after, &replica_buf)) != NULL) {
        after = thole_v1_Replica_id(r);
        votes += thole_v1_Replica_shard_id(r) == 0 && thole_v1_Replica_role(r) == VOTER &&
                 thole_v1_Replica_desired(r) == thole_v1_REPLICA_DESIRED_RUN;
    }
    registry_view_release(v);
    return votes;
}

/* A draining host keeps its vote until another host has it. */
static void test_placement_zero_keeps_the_votes_of_draining_hosts(void **state)
{
    (void)state;
    struct fixture f;
    struct rand rng;
    rand_seed(&rng, 5);
    fixture_init(&f);
    do_bootstrap(&f, 3);
    (void)settle(&f, 0, &rng);
    assert_int_equal(count_shard(&f, 0).voters, 3);
    do_host_state(&f, 1, thole_v1_HOST_STATE_DRAINING);
    (void)settle(&f, 0, &rng);
    assert_int_equal(count_shard(&f, 0).voters, 3);
    do_host_state(&f, 2, thole_v1_HOST_STATE_DRAINING);
    (void)settle(&f, 0, &rng);
    assert_int_equal(count_shard(&f, 0).voters, 3);
    do_admit(&f, 3, 9);
    (void)settle(&f, 0, &rng);
    assert_int_equal(count_shard(&f, 0).voters, 3);
    assert_int_equal(zero_votes_on(&f, 3), 1);
    assert_int_equal(zero_votes_on(&f, 1) + zero_votes_on(&f, 2), 1);
    do_admit(&f, 4, 9);
    (void)settle(&f, 0, &rng);
    assert_int_equal(count_shard(&f, 0).voters, 3); /* draining hosts get no new votes */
    assert_int_equal(zero_votes_on(&f, 0) + zero_votes_on(&f, 3) + zero_votes_on(&f, 4), 3);
    do_delete_host(&f, 1);
    (void)settle(&f, 0, &rng);
    assert_int_equal(count_shard(&f, 0).voters, 3);
    assert_int_equal(zero_votes_on(&f, 1), 0);
    do_delete_host(&f, 2);
    (void)settle(&f, 0, &rng);
    assert_int_equal(zero_votes_on(&f, 0) + zero_votes_on(&f, 3) + zero_votes_on(&f, 4), 3);
    do_delete_host(&f, 3); /* two are left: one of them votes, not both */
    (void)settle(&f, 0, &rng);
    assert_int_equal(count_shard(&f, 0).voters, 1);
    fixture_deinit(&f);
}

/* A draining host that dies loses its vote. It gets it back when it lives again, if two voters are
 * left, which tolerate no failure. */
static void test_placement_zero_gives_a_third_vote_to_a_draining_host(void **state)
{
    (void)state;
    struct fixture f;
    struct rand rng;
    rand_seed(&rng, 5);
    fixture_init(&f);
    do_bootstrap(&f, 3);
    (void)settle(&f, 0, &rng);
    do_host_state(&f, 1, thole_v1_HOST_STATE_DRAINING);
    do_liveness(&f, 1, thole_v1_HOST_LIVENESS_DEAD);
    (void)settle(&f, 0, &rng);
    assert_int_equal(count_shard(&f, 0).voters, 2);
    do_liveness(&f, 1, thole_v1_HOST_LIVENESS_LIVE);
    (void)settle(&f, 0, &rng);
    assert_int_equal(count_shard(&f, 0).voters, 3);
    fixture_deinit(&f);
}

/* ---- Particular cases ------------------------------------------------------------------------ */

static void test_placement_balances_many_shards(void **state)
{
    struct registry_replica_buf replica_buf;
    (void)state;
    struct fixture f;
    struct rand rng;
    rand_seed(&rng, 3);
    fixture_init(&f);
    do_bootstrap(&f, 6);
    for (uint64_t i = 1; i <= 60; i++) {
        char name[16];
        snprintf(name, sizeof name, "s%" PRIu64, i);
        do_create_shard(&f, name, 3, 0);
        assert_int_equal(settle(&f, i, &rng).verdict, PLACEMENT_SETTLED);
    }
    struct registry_view *v = registry_view_acquire(f.r);
    for (uint64_t h = 0; h < 6; h++) {
        struct uuid id = test_uuid(h);
        size_t count = 0;
        uint64_t after = 0;
        const thole_v1_Replica *r;
        while ((r = registry_next_replica_of_host(v, &id, after, &replica_buf)) != NULL) {
            after = thole_v1_Replica_id(r);
            count++;
        }
        assert_in_range(count, 30, 32); /* 30 of users' shards and one of shard zero */
    }
    registry_view_release(v);
    fixture_deinit(&f);
}

static void test_placement_unsatisfiable_explains_constraint(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f);
    do_bootstrap(&f, 4);
    do_liveness(&f, 3, thole_v1_HOST_LIVENESS_DEAD);
    struct cmd c = cmd_new("user");
    thole_registry_v1_CreateShard *s =
        thole_registry_v1_Operation_mutable_create_shard(cmd_op(&c), c.arena);
    thole_registry_v1_CreateShard_set_name(s, upb_StringView_FromString("s"));
    thole_v1_ShardSpec *spec = thole_registry_v1_CreateShard_mutable_spec(s, c.arena);
    thole_v1_ShardSpec_set_type(spec, upb_StringView_FromString("kv"));
    thole_v1_ShardSpec_set_voters(spec, 3);
    thole_v1_Constraint *k = thole_v1_ShardSpec_add_constraints(spec, c.arena);
    thole_v1_Constraint_set_key(k, upb_StringView_FromString("zone"));
    thole_v1_Constraint_set_operator(k, thole_v1_CONSTRAINT_OPERATOR_IN);
    thole_v1_Constraint_add_values(k, upb_StringView_FromString("z0"), c.arena);
    assert_int_equal(fixture_run(&f, &c), THOLE_OK);
    struct placement_result result = decide(&f, 1, true);
    assert_int_equal(result.verdict, PLACEMENT_UNSATISFIABLE);
    assert_string_equal(
        result.explanation,
        "no host for 2 of 3 voters; of 4 hosts: zone in (z0) rules out 2, 1 dead; would "
        "nearly fit: h1 (zone=z1), h2 (zone=z2), h3 (dead)");
    fixture_deinit(&f);
}

static uint64_t replica_on(struct fixture *f, uint64_t shard, uint64_t host)
{
    struct registry_replica_buf replica_buf;
    struct registry_view *v = registry_view_acquire(f->r);
    struct uuid id = test_uuid(host);
    uint64_t after = 0;
    uint64_t found = 0;
    const thole_v1_Replica *r;
    while ((r = registry_next_replica_of_host(v, &id, after, &replica_buf)) != NULL) {
        after = thole_v1_Replica_id(r);
        found = thole_v1_Replica_shard_id(r) == shard ? after : found;
    }
    registry_view_release(v);
    return found;
}

static void fail_on(struct fixture *f, uint64_t shard, uint64_t host)
{
    uint64_t id = replica_on(f, shard, host);
    assert_int_equal(do_observe(f, id, thole_v1_REPLICA_PHASE_FAILED, 0), THOLE_OK);
}

static bool is_failing(struct fixture *f, uint64_t host)
{
    struct registry_view *v = registry_view_acquire(f->r);
    struct uuid id = test_uuid(host);
    bool failing = placement_host_is_failing(registry_host(v, &id));
    registry_view_release(v);
    return failing;
}

static uint64_t only_spare(struct fixture *f, uint64_t shard)
{
    const struct placement_options o = {.hold = true};
    struct registry_shard_buf shard_buf;
    struct registry_view *v = registry_view_acquire(f->r);
    uint64_t spare[LIMIT_MEMBERS];
    uint32_t wanted = 0;
    size_t count =
        placement_spare_voters(v, registry_shard(v, shard, &shard_buf), &o, spare, &wanted);
    registry_view_release(v);
    assert_int_equal(count, 1);
    return spare[0];
}

/* Four voters of which three are wanted, and a copy without vote. The replica that just gave its
 * vote away must stay the spare. Choosing another spare would mean giving that vote back. */
static void test_placement_spare_voter_stays_the_one_that_lost_its_vote(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f);
    do_bootstrap(&f, 4);
    assert_int_equal(do_create_shard(&f, "s", 4, 0), THOLE_OK);
    assert_int_equal(do_place(&f, 1, 0, 4), THOLE_OK);
    assert_int_equal(do_formed(&f, 1, replica_on(&f, 1, 1), 1), THOLE_OK);
    for (uint64_t host = 0; host < 4; host++) {
        uint64_t id = replica_on(&f, 1, host);
        assert_int_equal(do_observe(&f, id, thole_v1_REPLICA_PHASE_RUNNING, 0), THOLE_OK);
    }
    assert_int_equal(do_update_shard(&f, "s", 3, 1, ""), THOLE_OK);
    for (uint64_t host = 0; host < 4; host++) {
        uint64_t id = replica_on(&f, 1, host);
        assert_int_equal(do_observe(&f, id, thole_v1_REPLICA_PHASE_CATCHING_UP, 0), THOLE_OK);
        assert_int_equal(only_spare(&f, 1), id);
        assert_int_equal(do_observe(&f, id, thole_v1_REPLICA_PHASE_RUNNING, 0), THOLE_OK);
    }
    fixture_deinit(&f);
}

/* On h1, h2 and h3. */
static void create_placed(struct fixture *f, uint64_t shard)
{
    char name[16];
    snprintf(name, sizeof name, "s%" PRIu64, shard);
    assert_int_equal(do_create_shard(f, name, 3, 0), THOLE_OK);
    assert_int_equal(do_place(f, shard, 1, 3), THOLE_OK);
    assert_int_equal(do_formed(f, shard, replica_on(f, shard, 1), 1), THOLE_OK);
}

static void uncordon(struct fixture *f, const char *host)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_StartOperation *o =
        thole_registry_v1_Operation_mutable_start_operation(cmd_op(&c), c.arena);
    thole_registry_v1_StartOperation_set_kind(o, thole_v1_OPERATION_KIND_UNCORDON);
    thole_registry_v1_StartOperation_set_host(o, upb_StringView_FromString(host));
    assert_int_equal(fixture_run(f, &c), THOLE_OK);
}

static void test_placement_host_that_keeps_failing_gets_nothing_new(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f);
    do_bootstrap(&f, 4);
    /* One failure of the host fails its replicas: the cause may be over. */
    for (uint64_t shard = 1; shard <= 4; shard++) {
        create_placed(&f, shard);
    }
    for (uint64_t shard = 1; shard <= 4; shard++) {
        fail_on(&f, shard, 3);
    }
    assert_false(is_failing(&f, 3));
    /* A replica placed there afterwards fails as well, and so does the next one. */
    create_placed(&f, 5);
    fail_on(&f, 5, 3);
    create_placed(&f, 6);
    assert_false(is_failing(&f, 3));
    fail_on(&f, 6, 3);
    assert_true(is_failing(&f, 3));
    do_create_shard(&f, "s7", 4, 0);
    struct placement_result result = decide(&f, 7, true);
    assert_int_equal(result.verdict, PLACEMENT_UNSATISFIABLE);
    assert_string_equal(result.explanation,
                        "no host for 1 of 4 voters; of 4 hosts: 1 where replicas keep failing; "
                        "would nearly fit: h3 (where replicas keep failing)");
    /* The failed replicas are replaced elsewhere, or on the same host if there is no other. */
    do_host_state(&f, 0, thole_v1_HOST_STATE_CORDONED);
    for (uint64_t shard = 5; shard <= 6; shard++) {
        uint64_t failed = replica_on(&f, shard, 3);
        do_remove_replica(&f, failed);
        do_observe(&f, failed, thole_v1_REPLICA_PHASE_OUT, 1);
        do_observe(&f, failed, thole_v1_REPLICA_PHASE_GONE, 1);
        assert_int_equal(decide(&f, shard, true).verdict, PLACEMENT_ACT);
        assert_true((replica_on(&f, shard, 3) != 0) == (shard == 5));
        assert_true((replica_on(&f, shard, 0) != 0) == (shard == 6));
        do_host_state(&f, 0, thole_v1_HOST_STATE_ACTIVE);
    }
    uncordon(&f, "h3");
    assert_false(is_failing(&f, 3));
    assert_int_equal(decide(&f, 7, true).verdict, PLACEMENT_ACT);
    assert_true(replica_on(&f, 7, 3) != 0);
    fixture_deinit(&f);
}

/* A command that every replica fails on is no evidence against the hosts. */
static void test_placement_shard_that_fails_everywhere_counts_against_no_host(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f);
    do_bootstrap(&f, 4);
    for (uint64_t shard = 1; shard <= 6; shard++) {
        create_placed(&f, shard);
        for (uint64_t host = 1; host <= 3; host++) {
            fail_on(&f, shard, host);
        }
    }
    for (uint64_t host = 1; host <= 3; host++) {
        assert_false(is_failing(&f, host));
    }
    fixture_deinit(&f);
}

static void test_placement_promotes_before_it_places(void **state)
{
    (void)state;
    struct fixture f;
    struct rand rng;
    rand_seed(&rng, 3);
    fixture_init(&f);
    do_bootstrap(&f, 6);
    do_create_shard(&f, "s", 3, 2);
    assert_int_equal(settle(&f, 1, &rng).verdict, PLACEMENT_SETTLED);
    struct registry_view *v = registry_view_acquire(f.r);
    uint64_t next = registry_next_replica_id(v);
    registry_view_release(v);
    do_update_shard(&f, "s", 5, 0, "");
    assert_int_equal(settle(&f, 1, &rng).verdict, PLACEMENT_SETTLED);
    do_update_shard(&f, "s", 3, 2, "");
    assert_int_equal(settle(&f, 1, &rng).verdict, PLACEMENT_SETTLED);
    v = registry_view_acquire(f.r);
    assert_int_equal(registry_next_replica_id(v), next); /* the same five hosts throughout */
    registry_view_release(v);
    fixture_deinit(&f);
}

/* Three running voters, on h0, h1 and h2. */
static void create_on_three_hosts(struct fixture *f)
{
    do_bootstrap(f, 3);
    assert_int_equal(do_create_shard(f, "s", 3, 0), THOLE_OK);
    assert_int_equal(do_place(f, 1, 0, 3), THOLE_OK);
    assert_int_equal(do_formed(f, 1, replica_on(f, 1, 0), 1), THOLE_OK);
    for (uint64_t host = 0; host < 3; host++) {
        uint64_t id = replica_on(f, 1, host);
        assert_int_equal(do_observe(f, id, thole_v1_REPLICA_PHASE_RUNNING, 0), THOLE_OK);
    }
}

/* No other host is left. The deleted replica can only leave if the voter on the dead host leaves,
 * too: without it, the remaining one is no majority. A host that may come back is waited for. */
static void test_placement_voter_that_will_not_return_does_not_hold_up_another(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f);
    create_on_three_hosts(&f);
    uint64_t dead = replica_on(&f, 1, 2);
    do_remove_replica(&f, replica_on(&f, 1, 1));
    do_liveness(&f, 2, thole_v1_HOST_LIVENESS_DEAD);
    assert_int_not_equal(decide(&f, 1, true).verdict, PLACEMENT_ACT);
    assert_int_equal(replica_on(&f, 1, 2), dead);
    do_host_state(&f, 2, thole_v1_HOST_STATE_DRAINING);
    assert_int_equal(decide(&f, 1, true).verdict, PLACEMENT_ACT);
    assert_int_equal(count_shard(&f, 1).voters, 1);
    fixture_deinit(&f);
}

static bool has_condition(struct fixture *f, uint64_t shard, const char *type)
{
    struct registry_shard_buf buf;
    struct registry_view *v = registry_view_acquire(f->r);
    const thole_v1_ShardStatus *st = thole_v1_Shard_status(registry_shard(v, shard, &buf));
    size_t n = 0;
    const thole_v1_Condition *const *all = thole_v1_ShardStatus_conditions(st, &n);
    bool status = false;
    for (size_t i = 0; i < n; i++) {
        if (slice_equal(registry_str(thole_v1_Condition_type(all[i])), slice_str(type))) {
            status = thole_v1_Condition_status(all[i]);
        }
    }
    registry_view_release(v);
    return status;
}

/* The spec asks for the one voter that is left, but the two that are lost still vote. */
static void test_placement_quorum_lost_with_replicas_that_leave_is_not_ready(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f);
    create_on_three_hosts(&f);
    (void)decide(&f, 1, true);
    assert_true(has_condition(&f, 1, "Ready"));
    do_liveness(&f, 1, thole_v1_HOST_LIVENESS_DEAD);
    do_liveness(&f, 2, thole_v1_HOST_LIVENESS_DEAD);
    assert_int_equal(do_update_shard(&f, "s", 1, 0, ""), THOLE_OK);
    assert_int_equal(decide(&f, 1, true).verdict, PLACEMENT_ACT);
    assert_int_equal(count_shard(&f, 1).voters, 1);
    (void)decide(&f, 1, true);
    assert_false(has_condition(&f, 1, "Ready"));
    assert_true(has_condition(&f, 1, "Degraded"));
    fixture_deinit(&f);
}

static void test_placement_draining_voter_is_replaced_first(void **state)
{
    struct registry_replica_buf replica_buf, replica_buf2;
    (void)state;
    struct fixture f;
    struct rand rng;
    rand_seed(&rng, 3);
    fixture_init(&f);
    do_bootstrap(&f, 4);
    do_create_shard(&f, "s", 3, 0);
    settle(&f, 1, &rng);
    struct registry_view *v = registry_view_acquire(f.r);
    const thole_v1_Replica *r = registry_next_replica_of_shard(v, 1, 0, &replica_buf);
    uint64_t leaving = thole_v1_Replica_id(r);
    uint64_t host = (uint64_t)(thole_v1_Replica_host(r).data[1] - '0');
    registry_view_release(v);
    do_host_state(&f, host, thole_v1_HOST_STATE_DRAINING);
    assert_int_equal(decide(&f, 1, false).verdict, PLACEMENT_ACT);
    assert_int_equal(count_shard(&f, 1).voters, 4);
    assert_int_equal(decide(&f, 1, false).verdict, PLACEMENT_WAIT); /* until the new replica runs */
    assert_true(simulate_one(&f, 1, &rng));
    assert_int_equal(decide(&f, 1, false).verdict, PLACEMENT_ACT);
    v = registry_view_acquire(f.r);
    assert_int_equal(thole_v1_Replica_desired(registry_replica(v, leaving, &replica_buf2)),
                     thole_v1_REPLICA_DESIRED_REMOVE);
    registry_view_release(v);
    fixture_deinit(&f);
}

static void test_placement_extra_load_spreads_one_view(void **state)
{
    struct registry_shard_buf shard_buf;
    (void)state;
    struct fixture f;
    fixture_init(&f);
    do_bootstrap(&f, 4);
    do_create_shard(&f, "s", 1, 0);
    struct registry_view *v = registry_view_acquire(f.r);
    struct cmd c = cmd_new("placement");
    struct placement_result result;
    placement_decide(v, registry_shard(v, 1, &shard_buf), NULL, c.c, c.arena, &result);
    size_t count = 0;
    const thole_registry_v1_Operation *const *ops =
        thole_registry_v1_Command_operations(c.c, &count);
    assert_int_equal(count, 1);
    size_t placed = 0;
    thole_registry_v1_PlaceReplicas_replicas(thole_registry_v1_Operation_place_replicas(ops[0]),
                                             &placed);
    assert_int_equal(placed, 1);
    upb_Arena_Free(c.arena);
    registry_view_release(v);
    fixture_deinit(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_placement_random_clusters_converge),
        cmocka_unit_test(test_placement_zero_follows_hosts),
        cmocka_unit_test(test_placement_zero_keeps_the_votes_of_draining_hosts),
        cmocka_unit_test(test_placement_zero_gives_a_third_vote_to_a_draining_host),
        cmocka_unit_test(test_placement_balances_many_shards),
        cmocka_unit_test(test_placement_unsatisfiable_explains_constraint),
        cmocka_unit_test(test_placement_host_that_keeps_failing_gets_nothing_new),
        cmocka_unit_test(test_placement_spare_voter_stays_the_one_that_lost_its_vote),
        cmocka_unit_test(test_placement_shard_that_fails_everywhere_counts_against_no_host),
        cmocka_unit_test(test_placement_promotes_before_it_places),
        cmocka_unit_test(test_placement_voter_that_will_not_return_does_not_hold_up_another),
        cmocka_unit_test(test_placement_quorum_lost_with_replicas_that_leave_is_not_ready),
        cmocka_unit_test(test_placement_draining_voter_is_replaced_first),
        cmocka_unit_test(test_placement_extra_load_spreads_one_view),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
