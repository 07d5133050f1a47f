/* Which replica gains a vote and which loses one, on simulated hosts. Groups of one voter with a
 * nearly empty log grow to three and five and shrink back, while hosts fail during each step.
 *
 * VOTES_SEEDS=N runs so many seeds, VOTES_SEED=N that one. */
#include "hostctl/test/cluster_fixture.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define SEEDS 30
#define STEPS 10

/* The newest configuration of the shard that a leader has in force; false if no leader exists. */
static bool config_of(struct cluster *h, uint64_t shard_id, struct raft_config *ret)
{
    uint64_t best = 0;
    for (uint64_t n = 0; n < CLUSTER_HOSTS; n++) {
        struct engine_replica_status status;
        struct raft_config c = {0};
        if (h->hosts[n].hostctl != NULL && !h->cut[n] &&
            engine_shard_status(h->hosts[n].engine, shard_id, &status) && status.leader_ready &&
            status.term > best && engine_shard_config(h->hosts[n].engine, shard_id, &c)) {
            best = status.term;
            raft_config_copy(ret, &c);
        }
        raft_config_deinit(&c);
    }
    return best > 0;
}

/* Runs, and checks all the time that the number of voters is odd. */
static void run_odd(struct cluster *h, const char *shard, uint64_t ms)
{
    uint64_t id = cluster_shard_id(h, shard);
    for (uint64_t t = 0; t < ms; t += 2) {
        struct raft_config c = {0};
        if (config_of(h, id, &c)) {
            uint32_t in = 0;
            uint32_t out = 0;
            for (uint32_t i = 0; i < c.member_count; i++) {
                in += c.members[i].role == RAFT_VOTER;
                out += c.members[i].outgoing_role == RAFT_VOTER;
            }
            assert_int_equal(in % 2, 1);
            assert_true(!c.joint || out % 2 == 1);
        }
        raft_config_deinit(&c);
        cluster_run(h, 2);
    }
}

#define RUN_ODD_UNTIL(h, shard, ms, condition)                       \
    do {                                                             \
        uint64_t until_ = cluster_now_ms(h) + (ms);                  \
        while (!(condition) && cluster_now_ms(h) < until_) {         \
            run_odd(h, shard, 20);                                   \
        }                                                            \
        if (!(condition)) {                                          \
            cluster_dump(h);                                         \
            fail_msg("not within %d ms: %s", (int)(ms), #condition); \
        }                                                            \
    } while (0)

static struct cluster *five_hosts(uint64_t seed)
{
    struct cluster *h = cluster_new(seed);
    cluster_bootstrap(h, 3);
    cluster_join(h, 3);
    cluster_join(h, 4);
    RUN_UNTIL(h, 20000, cluster_voters(h, "zero") == 5);
    return h;
}

static void shard_goes_from_odd_to_odd(void **state)
{
    static const uint32_t voters[] = {3, 5, 3, 1, 5, 1};
    (void)state;
    struct cluster *h = five_hosts(1);
    assert_int_equal(cluster_create(h, "a", 1, 0), THOLE_OK);
    RUN_UNTIL(h, 20000, cluster_settled(h, "a"));
    for (size_t i = 0; i < sizeof voters / sizeof voters[0]; i++) {
        assert_int_equal(cluster_update(h, "a", voters[i], 0), THOLE_OK);
        RUN_ODD_UNTIL(h, "a", 20000,
                      cluster_settled(h, "a") && cluster_voters(h, "a") == voters[i]);
        assert_true(cluster_add(h, "a", 1));
    }
    cluster_free(h);
}

static void shard_zero_goes_from_odd_to_odd(void **state)
{
    (void)state;
    struct cluster *h = cluster_new(2);
    cluster_bootstrap(h, 1);
    for (uint64_t n = 1; n < 5; n++) {
        cluster_join(h, n);
        RUN_ODD_UNTIL(h, "zero", 20000, cluster_settled(h, "zero"));
        RUN_ODD_UNTIL(h, "zero", 20000, cluster_voters(h, "zero") == (n == 4 ? 5 : n >= 2 ? 3 : 1));
    }
    /* A draining host keeps its vote: no other host could take it. */
    assert_int_equal(cluster_host_state(h, 1, thole_v1_HOST_STATE_DRAINING), THOLE_OK);
    assert_int_equal(cluster_host_state(h, 2, thole_v1_HOST_STATE_DRAINING), THOLE_OK);
    run_odd(h, "zero", 2000);
    assert_int_equal(cluster_voters(h, "zero"), 5);
    /* The voter of a dead host is removed, together with another voter. */
    cluster_stop(h, 3);
    RUN_ODD_UNTIL(h, "zero", 20000, cluster_voters(h, "zero") == 3);
    cluster_free(h);
}

static void host_but(struct cluster *h, uint64_t keep, int32_t state, uint64_t first, uint64_t last)
{
    for (uint64_t n = first; n <= last; n++) {
        if (n != keep) {
            assert_int_equal(cluster_host_state(h, n, state), THOLE_OK);
        }
    }
}

static uint64_t host_of_leader(struct cluster *h, const char *shard)
{
    uint64_t id = cluster_shard_id(h, shard);
    uint64_t n = 0;
    struct engine_replica_status status;
    while (n < CLUSTER_HOSTS &&
           !(h->hosts[n].hostctl != NULL && engine_shard_status(h->hosts[n].engine, id, &status) &&
             status.leader_ready)) {
        n++;
    }
    return n;
}

/* The other two hosts that may have replicas are cut off, and are not dead yet. */
static void silent_hosts_get_no_vote_and_are_let_go(void **state)
{
    (void)state;
    struct cluster *h = five_hosts(3);
    assert_int_equal(cluster_create(h, "a", 1, 0), THOLE_OK);
    RUN_UNTIL(h, 20000, cluster_settled(h, "a"));
    assert_true(cluster_add(h, "a", 1));
    uint64_t leader = host_of_leader(h, "a");
    uint64_t silent[2];
    size_t count = 0;
    for (uint64_t n = 0; n < 5 && count < 2; n++) {
        if (n != leader && n != cluster_zero_leader(h)) {
            silent[count++] = n;
        }
    }
    for (uint64_t n = 0; n < 5; n++) {
        if (n != leader && n != silent[0] && n != silent[1]) {
            host_but(h, UINT64_MAX, thole_v1_HOST_STATE_CORDONED, n, n);
        }
    }
    cluster_cut(h, silent[0], true);
    cluster_cut(h, silent[1], true);
    assert_int_equal(cluster_update(h, "a", 3, 0), THOLE_OK);
    run_odd(h, "a", CLUSTER_DEAD_MS / 2);
    assert_int_equal(cluster_voters(h, "a"), 1);
    assert_true(cluster_add(h, "a", 1));
    /* Reverted while the hosts are silent, and once more when they are dead. */
    for (int i = 0; i < 2; i++) {
        assert_int_equal(cluster_update(h, "a", 1, 0), THOLE_OK);
        run_odd(h, "a", CLUSTER_DEAD_MS);
        assert_int_equal(cluster_voters(h, "a"), 1);
        assert_true(cluster_add(h, "a", 1));
        assert_int_equal(cluster_update(h, "a", 3, 0), THOLE_OK);
        run_odd(h, "a", CLUSTER_DEAD_MS);
        assert_true(cluster_add(h, "a", 1));
    }
    cluster_cut(h, silent[0], false);
    cluster_cut(h, silent[1], false);
    RUN_ODD_UNTIL(h, "a", 60000, cluster_settled(h, "a") && cluster_voters(h, "a") == 3);
    cluster_free(h);
}

static void done(void *ctx, const struct thole_status *st)
{
    *(enum thole_code *)ctx = st->code;
}

/* RAFT_VOTER, RAFT_LEARNER, ...; -1: no member there. */
static int role_on(struct cluster *h, const char *shard, uint64_t host, uint64_t *ret_replica)
{
    struct raft_config c = {0};
    int role = -1;
    bool any = config_of(h, cluster_shard_id(h, shard), &c);
    for (uint32_t i = 0; any && i < c.member_count; i++) {
        if (memcmp(c.members[i].host, h->hosts[host].id.bytes, 16) == 0) {
            role = (int)c.members[i].role;
            *ret_replica = c.members[i].replica_id;
        }
    }
    raft_config_deinit(&c);
    return role;
}

/* One new host, and two voters to replace: a dead host's, and a draining host's. The leader is new,
 * and has not heard from the draining host yet. It must not take the draining host for the dead
 * one. */
static void new_leader_takes_no_vote_before_it_knows_who_answers(void **state)
{
    (void)state;
    struct cluster *h = five_hosts(4);
    uint64_t id, replica = 0;
    uint64_t others[4];
    size_t count = 0;
    assert_int_equal(cluster_create(h, "a", 5, 0), THOLE_OK);
    RUN_UNTIL(h, 20000, cluster_settled(h, "a"));
    id = cluster_shard_id(h, "a");
    uint64_t leader = host_of_leader(h, "a");
    for (uint64_t n = 0; n < 5; n++) {
        if (n != leader && n != cluster_zero_leader(h)) {
            others[count++] = n;
        }
    }
    uint64_t drains = others[0], dead = others[1], next = others[2];
    cluster_cut(h, dead, true);
    RUN_UNTIL(h, 20000, cluster_liveness(h, dead) == thole_v1_HOST_LIVENESS_DEAD);
    cluster_part(h, leader, 5, true);
    cluster_join(h, 5);
    RUN_UNTIL(h, 20000, role_on(h, "a", 5, &replica) == RAFT_LEARNER);
    assert_int_equal(cluster_host_state(h, drains, thole_v1_HOST_STATE_DRAINING), THOLE_OK);
    cluster_run(h, 300);
    assert_int_equal(role_on(h, "a", drains, &replica), RAFT_VOTER);
    assert_int_equal(role_on(h, "a", dead, &replica), RAFT_VOTER);
    assert_int_equal(role_on(h, "a", next, &replica), RAFT_VOTER);
    enum thole_code code = THOLE_UNKNOWN;
    h->mute[drains] = true;
    engine_transfer(h->hosts[leader].engine, id, replica, NULL, done, &code);
    RUN_UNTIL(h, 2000, host_of_leader(h, "a") == next);
    cluster_run(h, 150);
    h->mute[drains] = false;
    RUN_UNTIL(h, 20000, role_on(h, "a", 5, &replica) == RAFT_VOTER);
    assert_int_equal(role_on(h, "a", drains, &replica), RAFT_VOTER);
    assert_int_not_equal(role_on(h, "a", dead, &replica), RAFT_VOTER);
    cluster_free(h);
}

/* ---- Hosts fail in the middle of each step --------------------------------------------------- */

static uint64_t config_index(struct cluster *h, uint64_t shard_id)
{
    uint64_t index = 0;
    for (uint64_t n = 0; n < CLUSTER_HOSTS; n++) {
        struct engine_replica_status status;
        if (h->hosts[n].hostctl != NULL &&
            engine_shard_status(h->hosts[n].engine, shard_id, &status) &&
            status.config_index > index) {
            index = status.config_index;
        }
    }
    return index;
}

static void fail_host(struct cluster *h, uint64_t n, bool crash, bool fails)
{
    uint64_t replica;
    if (!crash) {
        cluster_cut(h, n, fails);
    } else if (fails) {
        cluster_stop(h, n);
    } else {
        cluster_start(h, n);
        memset(h->hosts[n].address_known, true, sizeof h->hosts[n].address_known);
        (void)cluster_admit(h, n, &replica);
    }
}

/* Without this host, does a majority of the voters know that it votes? Before that, the group needs
 * the host with the only vote. */
static bool others_suffice(struct cluster *h, uint64_t shard_id, uint64_t without)
{
    uint64_t index = config_index(h, shard_id);
    uint32_t voters = 0;
    uint32_t know = 0;
    for (uint64_t n = 0; n < CLUSTER_HOSTS; n++) {
        struct engine_replica_status status;
        struct raft_config c = {0};
        if (h->hosts[n].hostctl != NULL &&
            engine_shard_status(h->hosts[n].engine, shard_id, &status) &&
            status.config_index == index && engine_shard_config(h->hosts[n].engine, shard_id, &c)) {
            voters = c.joint ? 0 : raft_config_votes(&c);
            know += n != without && raft_config_is_voter(&c, status.replica_id);
        }
        raft_config_deinit(&c);
    }
    return know * 2 > voters && voters > 0;
}

/* One of the hosts fails at some point of the change to that many voters. If the other hosts
 * suffice, the shard accepts writes without it. */
static void fail_while_it_grows(struct cluster *h, uint32_t voters)
{
    struct rand *r = &h->rand;
    uint64_t id = cluster_shard_id(h, "a");
    uint64_t steps = rand_below(r, 6); /* configurations that come into force before */
    uint64_t index = config_index(h, id);
    uint64_t end = cluster_now_ms(h) + 3000;
    assert_int_equal(cluster_update(h, "a", voters, 0), THOLE_OK);
    while (steps > 0 && cluster_now_ms(h) < end) {
        run_odd(h, "a", 2);
        steps -= config_index(h, id) != index;
        index = config_index(h, id);
    }
    run_odd(h, "a", rand_below(r, 8));
    uint64_t n = rand_below(r, 5);
    bool crash = rand_chance(r, 0.5);
    bool dispensable = others_suffice(h, id, n);
    fail_host(h, n, crash, true);
    run_odd(h, "a", 2500); /* less than the grace period */
    if (dispensable) {
        RUN_ODD_UNTIL(h, "a", 5000, cluster_add(h, "a", 1));
    }
    fail_host(h, n, crash, false);
    RUN_ODD_UNTIL(h, "a", 60000, cluster_settled(h, "a") && cluster_voters(h, "a") == voters);
}

static void grow_in_trouble(uint64_t seed)
{
    struct cluster *h = five_hosts(seed);
    assert_int_equal(cluster_create(h, "a", 1, 0), THOLE_OK);
    RUN_UNTIL(h, 20000, cluster_settled(h, "a"));
    for (int i = 0; i < STEPS; i++) {
        fail_while_it_grows(h, cluster_voters(h, "a") == 1 && rand_chance(&h->rand, 0.7) ? 3 : 5);
        assert_int_equal(cluster_update(h, "a", rand_chance(&h->rand, 0.6) ? 1 : 3, 0), THOLE_OK);
        RUN_ODD_UNTIL(h, "a", 60000, cluster_settled(h, "a") && cluster_voters(h, "a") < 5);
    }
    cluster_free(h);
}

static void hosts_fail_while_a_shard_grows(void **state)
{
    (void)state;
    const char *only = getenv("VOTES_SEED");
    const char *count = getenv("VOTES_SEEDS");
    uint64_t seeds = count != NULL ? strtoull(count, NULL, 10) : SEEDS;
    for (uint64_t seed = 1; seed <= seeds && only == NULL; seed++) {
        print_message("seed %" PRIu64 "\n", seed);
        grow_in_trouble(seed);
    }
    if (only != NULL) {
        grow_in_trouble(strtoull(only, NULL, 10));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shard_goes_from_odd_to_odd),
        cmocka_unit_test(shard_zero_goes_from_odd_to_odd),
        cmocka_unit_test(silent_hosts_get_no_vote_and_are_let_go),
        cmocka_unit_test(new_leader_takes_no_vote_before_it_knows_who_answers),
        cmocka_unit_test(hosts_fail_while_a_shard_grows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
