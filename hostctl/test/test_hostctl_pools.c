/* Pools, witnesses, and balance of replicas and leaders, over real engines. */
#include "hostctl/test/cluster_fixture.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static enum thole_code apply_pool(struct cluster *h, const char *name, uint32_t count,
                                  uint32_t voters)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_UpdatePool *u =
        thole_registry_v1_Operation_mutable_update_pool(cmd_op(&c), c.arena);
    thole_v1_ShardPoolSpec *spec = thole_registry_v1_UpdatePool_mutable_spec(u, c.arena);
    thole_v1_ShardSpec *shard = thole_v1_ShardPoolSpec_mutable_shard(spec, c.arena);
    thole_registry_v1_UpdatePool_set_name(u, upb_StringView_FromString(name));
    thole_registry_v1_UpdatePool_set_allow_missing(u, true);
    thole_v1_ShardPoolSpec_set_count(spec, count);
    fill_spec(shard, c.arena, voters, 0);
    thole_v1_ShardSpec_set_type(shard, upb_StringView_FromString("counter"));
    return cluster_command(h, &c);
}

static enum thole_code delete_pool(struct cluster *h, const char *name)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_DeletePool *d =
        thole_registry_v1_Operation_mutable_delete_pool(cmd_op(&c), c.arena);
    thole_registry_v1_DeletePool_set_name(d, upb_StringView_FromString(name));
    return cluster_command(h, &c);
}

/* The pool's shards follow its newest spec, have the wanted number, and are all ready. */
static bool pool_ready(struct cluster *h, const char *name, uint32_t count)
{
    struct registry_shard_buf shard_buf;
    struct registry_view *v = cluster_view(h);
    const thole_v1_ShardPool *p = registry_pool_by_name(v, slice_str(name));
    const thole_v1_ShardPoolStatus *status = p == NULL ? NULL : thole_v1_ShardPool_status(p);
    bool ready =
        p != NULL &&
        thole_v1_ShardPoolStatus_observed_generation(status) == thole_v1_ShardPool_generation(p) &&
        thole_v1_ShardPoolStatus_shards(status) == count &&
        thole_v1_ShardPoolStatus_ready(status) == count;
    uint32_t found = 0;
    struct slice after = {0};
    const thole_v1_Shard *s;
    while ((s = registry_next_shard(v, after, &shard_buf)) != NULL) {
        after = registry_str(thole_v1_Shard_name(s));
        found += slice_equal(registry_str(thole_v1_Shard_pool(s)), slice_str(name));
    }
    registry_view_release(v);
    return ready && found == count;
}

static bool pool_exists(struct cluster *h, const char *name)
{
    struct registry_view *v = cluster_view(h);
    bool exists = registry_pool_by_name(v, slice_str(name)) != NULL;
    registry_view_release(v);
    return exists;
}

static bool shard_exists(struct cluster *h, const char *name)
{
    return cluster_shard_id(h, name) != UINT64_MAX;
}

static void hostctl_pool_grows_changes_shrinks_and_goes(void **state)
{
    (void)state;
    struct cluster *h = cluster_new(30);
    cluster_bootstrap(h, 3);
    RUN_UNTIL(h, 20000, cluster_settled(h, "zero"));
    assert_int_equal(apply_pool(h, "p", 20, 1), THOLE_OK);
    RUN_UNTIL(h, 30000, pool_ready(h, "p", 20));
    assert_true(shard_exists(h, "p-0") && shard_exists(h, "p-19") && !shard_exists(h, "p-20"));
    assert_int_equal(apply_pool(h, "p", 25, 3), THOLE_OK);
    RUN_UNTIL(h, 60000, pool_ready(h, "p", 25));
    assert_int_equal(cluster_voters(h, "p-0"), 3);
    assert_int_equal(apply_pool(h, "p", 5, 3), THOLE_OK);
    RUN_UNTIL(h, 60000, pool_ready(h, "p", 5));
    assert_true(shard_exists(h, "p-4") && !shard_exists(h, "p-5"));
    /* A pool step waits for a name whose shard is still being deleted. */
    assert_int_equal(apply_pool(h, "p", 2, 3), THOLE_OK);
    assert_int_equal(apply_pool(h, "p", 8, 3), THOLE_OK);
    RUN_UNTIL(h, 60000, pool_ready(h, "p", 8));
    assert_int_equal(delete_pool(h, "p"), THOLE_OK);
    RUN_UNTIL(h, 60000, !pool_exists(h, "p") && !shard_exists(h, "p-0"));
    cluster_run(h, 3000);
    size_t before = h->proposals;
    cluster_run(h, 10000);
    assert_int_equal(h->proposals, before);
    cluster_free(h);
}

static void hostctl_pool_larger_than_a_step_is_made_in_steps(void **state)
{
    (void)state;
    struct cluster *h = cluster_new(31);
    cluster_bootstrap(h, 1);
    RUN_UNTIL(h, 20000, cluster_settled(h, "zero"));
    size_t before = h->proposals;
    assert_int_equal(apply_pool(h, "p", 600, 1), THOLE_OK);
    RUN_UNTIL(h, 60000, pool_ready(h, "p", 600));
    /* 3 steps, some dozens of commands for placement and reports: not one per shard. */
    assert_in_range(h->proposals - before, 3, 100);
    cluster_free(h);
}

static void hostctl_witness_votes_and_has_no_data(void **state)
{
    (void)state;
    struct cluster *h = cluster_new(32);
    cluster_bootstrap(h, 3);
    RUN_UNTIL(h, 20000, cluster_settled(h, "zero"));
    struct cmd c = cmd_new("user");
    thole_registry_v1_CreateShard *s =
        thole_registry_v1_Operation_mutable_create_shard(cmd_op(&c), c.arena);
    thole_v1_ShardSpec *spec = thole_registry_v1_CreateShard_mutable_spec(s, c.arena);
    thole_registry_v1_CreateShard_set_name(s, upb_StringView_FromString("a"));
    fill_spec(spec, c.arena, 2, 0);
    thole_v1_ShardSpec_set_type(spec, upb_StringView_FromString("counter"));
    thole_v1_ShardSpec_set_witnesses(spec, 1);
    assert_int_equal(cluster_command(h, &c), THOLE_OK);
    uint64_t id = cluster_shard_id(h, "a");
    struct raft_config config = {0};
    uint32_t voters = 0;
    uint32_t witnesses = 0;
    for (int i = 0; i < 500 && !(voters == 2 && witnesses == 1 && cluster_settled(h, "a")); i++) {
        cluster_run(h, 20);
        voters = witnesses = 0;
        for (uint64_t n = 0; n < 3; n++) {
            struct engine_replica_status local;
            if (engine_shard_status(h->hosts[n].engine, id, &local) && local.leader_ready &&
                engine_shard_config(h->hosts[n].engine, id, &config)) {
                for (uint32_t k = 0; k < config.member_count; k++) {
                    voters += config.members[k].role == RAFT_VOTER;
                    witnesses += config.members[k].role == RAFT_WITNESS;
                }
            }
        }
    }
    raft_config_deinit(&config);
    assert_int_equal(voters, 2);
    assert_int_equal(witnesses, 1);
    assert_true(cluster_settled(h, "a"));
    cluster_free(h);
}

/* The highest and the lowest count of any host. */
struct range {
    uint64_t least, most;
};

static struct range replicas_range(struct cluster *h, uint64_t hosts)
{
    struct range r = {UINT64_MAX, 0};
    for (uint64_t n = 0; n < hosts; n++) {
        uint64_t count = cluster_replicas_on(h, n);
        r.least = count < r.least ? count : r.least;
        r.most = count > r.most ? count : r.most;
    }
    return r;
}

static bool leads(struct cluster *h, uint64_t n, uint64_t shard_id)
{
    struct engine_replica_status s;
    return engine_shard_status(h->hosts[n].engine, shard_id, &s) && s.leader_ready;
}

static struct range leaders_range(struct cluster *h, uint64_t hosts)
{
    struct registry_shard_buf shard_buf;
    struct range r = {UINT64_MAX, 0};
    struct registry_view *v = cluster_view(h);
    for (uint64_t n = 0; n < hosts; n++) {
        char name[8];
        uint64_t count = 0;
        struct slice after = {0};
        const thole_v1_Shard *s;
        snprintf(name, sizeof name, "h%d", (int)n);
        while ((s = registry_next_shard(v, after, &shard_buf)) != NULL) {
            after = registry_str(thole_v1_Shard_name(s));
            struct slice leader =
                registry_str(thole_v1_ShardStatus_leader_host(thole_v1_Shard_status(s)));
            count += thole_v1_Shard_id(s) != 0 && slice_equal(leader, slice_str(name));
        }
        r.least = count < r.least ? count : r.least;
        r.most = count > r.most ? count : r.most;
    }
    registry_view_release(v);
    return r;
}

static void hostctl_new_host_gets_its_share_of_replicas_and_leaders(void **state)
{
    (void)state;
    struct cluster *h = cluster_new(33);
    cluster_bootstrap(h, 3);
    RUN_UNTIL(h, 20000, cluster_settled(h, "zero"));
    assert_int_equal(apply_pool(h, "p", 24, 3), THOLE_OK);
    RUN_UNTIL(h, 60000, pool_ready(h, "p", 24));
    RUN_UNTIL(h, 60000, leaders_range(h, 3).most - leaders_range(h, 3).least <= 1);
    uint64_t replica;
    cluster_join(h, 3);
    RUN_UNTIL(h, 200000,
              replicas_range(h, 4).most - replicas_range(h, 4).least <= 1 &&
                  pool_ready(h, "p", 24));
    RUN_UNTIL(h, 60000, leaders_range(h, 4).most - leaders_range(h, 4).least <= 1);
    /* And then the balance lasts. */
    cluster_run(h, 3000);
    struct registry_view *v = cluster_view(h);
    replica = registry_next_replica_id(v);
    registry_view_release(v);
    size_t before = h->proposals;
    cluster_run(h, 20000);
    assert_int_equal(h->proposals, before);
    v = cluster_view(h);
    assert_int_equal(registry_next_replica_id(v), replica);
    registry_view_release(v);
    /* 72 of users' replicas and 4 of shard zero: 18 had to move, and hardly more did. */
    assert_in_range(replica, 3 + 72 + 1 + 18, 3 + 72 + 1 + 18 + 4);
    cluster_free(h);
}

/* Three voters, led by h1 if it can. */
static uint64_t create_preferring(struct cluster *h)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_CreateShard *s =
        thole_registry_v1_Operation_mutable_create_shard(cmd_op(&c), c.arena);
    thole_v1_ShardSpec *spec = thole_registry_v1_CreateShard_mutable_spec(s, c.arena);
    thole_registry_v1_CreateShard_set_name(s, upb_StringView_FromString("a"));
    fill_spec(spec, c.arena, 3, 0);
    thole_v1_ShardSpec_set_type(spec, upb_StringView_FromString("counter"));
    thole_v1_Constraint *k = thole_v1_ShardSpec_add_leader_preference(spec, c.arena);
    thole_v1_Constraint_set_key(k, upb_StringView_FromString("zone"));
    thole_v1_Constraint_set_operator(k, thole_v1_CONSTRAINT_OPERATOR_IN);
    thole_v1_Constraint_add_values(k, upb_StringView_FromString("z1"), c.arena);
    assert_int_equal(cluster_command(h, &c), THOLE_OK);
    uint64_t id = cluster_shard_id(h, "a");
    RUN_UNTIL(h, 20000, leads(h, 1, id) && cluster_settled(h, "a"));
    return id;
}

static void hostctl_leader_goes_where_it_is_preferred(void **state)
{
    (void)state;
    struct cluster *h = cluster_new(34);
    cluster_bootstrap(h, 3); /* zones z0, z1, z2 */
    RUN_UNTIL(h, 20000, cluster_settled(h, "zero"));
    uint64_t id = create_preferring(h);
    /* Without h1 another host leads; h1 takes over again after its restart. */
    uint64_t replica;
    cluster_stop(h, 1);
    RUN_UNTIL(h, 20000, leads(h, 0, id) || leads(h, 2, id));
    cluster_start(h, 1);
    memset(h->hosts[1].address_known, true, sizeof h->hosts[1].address_known);
    RUN_UNTIL(h, 5000, cluster_admit(h, 1, &replica) == THOLE_OK);
    RUN_UNTIL(h, 30000, leads(h, 1, id));
    cluster_free(h);
}

/* The preferred replica has no data yet. Transfers to it would be started and aborted again and
 * again. */
static void hostctl_leader_stays_while_it_sends_a_snapshot(void **state)
{
    (void)state;
    struct cluster *h = cluster_new(35);
    h->snapshot_bytes_per_s = 2 * 1024; /* 16 KiB, a chunk, arrive 8 s after the start */
    cluster_bootstrap(h, 3);
    RUN_UNTIL(h, 20000, cluster_settled(h, "zero"));
    uint64_t id = create_preferring(h), replica;
    cluster_stop(h, 1);
    RUN_UNTIL(h, 20000, leads(h, 0, id) || leads(h, 2, id));
    int leader = leads(h, 0, id) ? 0 : 2;
    struct engine_replica_status s = {0};
    for (int i = 0; i < 100 && s.first_index < 100; i++) {
        assert_true(cluster_add(h, "a", 20));
        assert_true(engine_shard_status(h->hosts[leader].engine, id, &s));
    }
    cluster_start(h, 1);
    memset(h->hosts[1].address_known, true, sizeof h->hosts[1].address_known);
    RUN_UNTIL(h, 5000, cluster_admit(h, 1, &replica) == THOLE_OK);
    RUN_UNTIL(h, 20000, engine_shard_status(h->hosts[leader].engine, id, &s) && s.sends_snapshot);
    int steps = 0;
    for (; s.sends_snapshot && steps < 1000; steps++) {
        assert_true(cluster_add(h, "a", 1)); /* no command is refused */
        assert_true(engine_shard_status(h->hosts[leader].engine, id, &s));
        assert_int_equal(s.role, RAFT_LEADER);
    }
    assert_in_range(steps, 50, 999);
    RUN_UNTIL(h, 30000, leads(h, 1, id));
    cluster_free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hostctl_pool_grows_changes_shrinks_and_goes),
        cmocka_unit_test(hostctl_pool_larger_than_a_step_is_made_in_steps),
        cmocka_unit_test(hostctl_witness_votes_and_has_no_data),
        cmocka_unit_test(hostctl_new_host_gets_its_share_of_replicas_and_leaders),
        cmocka_unit_test(hostctl_leader_goes_where_it_is_preferred),
        cmocka_unit_test(hostctl_leader_stays_while_it_sends_a_snapshot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
