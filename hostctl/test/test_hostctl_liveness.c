/* Which hosts are reported suspect and dead, and why, over real engines in virtual time. The
 * smallest threshold is 500 ms here, the grace period CLUSTER_DEAD_MS. */
#include "hostctl/test/cluster_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static struct cluster *five_hosts(uint64_t seed)
{
    struct cluster *h = cluster_new(seed);
    cluster_bootstrap(h, 3);
    cluster_join(h, 3);
    cluster_join(h, 4);
    assert_int_equal(cluster_create(h, "a", 3, 0), THOLE_OK);
    RUN_UNTIL(h, 20000, cluster_settled(h, "a") && cluster_settled(h, "zero"));
    RUN_UNTIL(h, 20000, cluster_voters(h, "zero") == 5 && cluster_settled(h, "zero"));
    cluster_run(h, 2000);
    return h;
}

/* A host that does not lead shard zero. */
static uint64_t other_host(struct cluster *h)
{
    return cluster_zero_leader(h) == 0 ? 1 : 0;
}

static size_t events(struct cluster *h, uint64_t n, const char *reason, char *ret, size_t size)
{
    char object[16];
    snprintf(object, sizeof object, "hosts/h%d", (int)n);
    ret[0] = '\0';
    return cluster_events(h, object, reason, ret, size);
}

static uint64_t without_vote(struct cluster *h, uint64_t but)
{
    struct registry_replica_buf replica_buf;
    struct registry_view *v = cluster_view(h);
    uint64_t ret = UINT64_MAX;
    uint64_t after = 0;
    const thole_v1_Replica *r;
    while ((r = registry_next_replica_of_shard(v, REGISTRY_SHARD_ID, after, &replica_buf)) !=
           NULL) {
        after = thole_v1_Replica_id(r);
        uint64_t n = (uint64_t)(thole_v1_Replica_host(r).data[1] - '0');
        ret = thole_v1_Replica_role(r) == thole_v1_REPLICA_ROLE_NON_VOTING && n != but ? n : ret;
    }
    registry_view_release(v);
    assert_int_not_equal(ret, UINT64_MAX);
    return ret;
}

static void liveness_short_silence_is_no_event(void **state)
{
    (void)state;
    struct cluster *h = five_hosts(1);
    char text[256];
    uint64_t n = other_host(h);
    for (int i = 0; i < 10; i++) {
        h->mute[n] = true;
        cluster_run(h, 250); /* and up to two heartbeats */
        h->mute[n] = false;
        cluster_run(h, 1000);
    }
    assert_int_equal(events(h, n, "HostSuspect", text, sizeof text), 0);
    cluster_free(h);
}

static void liveness_silence_is_suspect_then_heard_again(void **state)
{
    (void)state;
    struct cluster *h = five_hosts(2);
    char text[256];
    uint64_t n = other_host(h);
    h->mute[n] = true;
    RUN_UNTIL(h, 1000, cluster_liveness(h, n) == thole_v1_HOST_LIVENESS_SUSPECT);
    assert_int_equal(events(h, n, "HostSuspect", text, sizeof text), 1);
    assert_non_null(strstr(text, "expected within 0.5 s; its connection stands"));
    h->mute[n] = false;
    cluster_run(h, 300);
    assert_int_equal(cluster_liveness(h, n), thole_v1_HOST_LIVENESS_SUSPECT); /* not yet steady */
    RUN_UNTIL(h, 2000, cluster_liveness(h, n) == thole_v1_HOST_LIVENESS_LIVE);
    assert_int_equal(events(h, n, "HostLive", text, sizeof text), 1);
    assert_non_null(strstr(text, "heard again for 0.5 s"));
    cluster_free(h);
}

static void liveness_killed_process_is_noticed_faster_than_silence(void **state)
{
    (void)state;
    struct cluster *h = five_hosts(3);
    char text[256];
    uint64_t n = other_host(h);
    cluster_stop(h, n);
    RUN_UNTIL(h, 400, cluster_liveness(h, n) == thole_v1_HOST_LIVENESS_SUSPECT);
    events(h, n, "HostSuspect", text, sizeof text);
    assert_non_null(strstr(text, "it has not been connected for 0."));
    assert_non_null(strstr(text, "3 others do not reach it either"));
    RUN_UNTIL(h, CLUSTER_DEAD_MS, cluster_liveness(h, n) == thole_v1_HOST_LIVENESS_DEAD);
    events(h, n, "HostDead", text, sizeof text);
    assert_non_null(strstr(text, "more than the grace of 3.0 s"));
    cluster_free(h);
}

static void liveness_host_that_others_reach_is_not_dead(void **state)
{
    (void)state;
    struct cluster *h = five_hosts(4);
    char text[256];
    uint64_t n = other_host(h);
    uint64_t leader = cluster_zero_leader(h);
    size_t replicas = cluster_replicas_on(h, n);
    cluster_part(h, leader, n, true);
    RUN_UNTIL(h, 2000, cluster_liveness(h, n) == thole_v1_HOST_LIVENESS_SUSPECT);
    events(h, n, "HostSuspect", text, sizeof text);
    assert_non_null(strstr(text, " reaches it"));
    cluster_run(h, 4 * CLUSTER_DEAD_MS);
    assert_int_not_equal(cluster_liveness(h, n), thole_v1_HOST_LIVENESS_DEAD);
    assert_int_equal(events(h, n, "HostDead", text, sizeof text), 0);
    assert_int_equal(cluster_replicas_on(h, n), replicas);
    /* Once no host can reach it, it is dead. */
    cluster_stop(h, n);
    RUN_UNTIL(h, 2 * CLUSTER_DEAD_MS, cluster_liveness(h, n) == thole_v1_HOST_LIVENESS_DEAD);
    cluster_free(h);
}

/* A new leader's grace period begins with its term, and a dead host stays dead. */
static void liveness_new_leader_keeps_the_dead_and_shortens_no_grace(void **state)
{
    (void)state;
    struct cluster *h = five_hosts(5);
    char text[256];
    uint64_t leader = cluster_zero_leader(h);
    uint64_t dead = (leader + 1) % 5;
    uint64_t silent;
    cluster_stop(h, dead);
    RUN_UNTIL(h, 2 * CLUSTER_DEAD_MS, cluster_liveness(h, dead) == thole_v1_HOST_LIVENESS_DEAD);
    RUN_UNTIL(h, 20000, cluster_settled(h, "zero") && cluster_voters(h, "zero") == 3);
    silent = without_vote(h, dead); /* the next leader does not depend on it */
    cluster_stop(h, silent);
    cluster_run(h, CLUSTER_DEAD_MS - 600);
    cluster_cut(h, leader, true);
    RUN_UNTIL(h, 10000, cluster_zero_leader(h) != UINT64_MAX);
    cluster_run(h, CLUSTER_DEAD_MS - 600);
    assert_int_not_equal(cluster_liveness(h, silent), thole_v1_HOST_LIVENESS_DEAD);
    assert_int_equal(cluster_liveness(h, dead), thole_v1_HOST_LIVENESS_DEAD);
    assert_int_equal(events(h, dead, "HostSuspect", text, sizeof text), 1);
    cluster_free(h);
}

/* A host that crashed together with the leader is suspect before its vote may be counted on. */
static void liveness_new_leader_suspects_who_is_not_connected(void **state)
{
    (void)state;
    struct cluster *h = five_hosts(8);
    char text[256];
    uint64_t leader = cluster_zero_leader(h);
    uint64_t other = (leader + 1) % 5;
    cluster_stop(h, leader);
    cluster_stop(h, other);
    RUN_UNTIL(h, 10000, cluster_zero_leader(h) != UINT64_MAX);
    RUN_UNTIL(h, 400,
              cluster_liveness(h, leader) == thole_v1_HOST_LIVENESS_SUSPECT &&
                  cluster_liveness(h, other) == thole_v1_HOST_LIVENESS_SUSPECT);
    assert_int_equal(events(h, other, "HostSuspect", text, sizeof text), 1);
    assert_non_null(strstr(text, "it has not been connected for"));
    cluster_free(h);
}

/* The host is admitted before the leader receives a heartbeat from it. */
static void liveness_started_host_is_suspected_once(void **state)
{
    (void)state;
    struct cluster *h = five_hosts(7);
    char text[256];
    uint64_t n = other_host(h);
    uint64_t replica;
    cluster_stop(h, n);
    cluster_run(h, 1000);
    h->mute[n] = true;
    cluster_start(h, n);
    memset(h->hosts[n].address_known, true, sizeof h->hosts[n].address_known);
    assert_int_equal(cluster_admit(h, n, &replica), THOLE_OK);
    cluster_run(h, 200);
    h->mute[n] = false;
    cluster_run(h, 3000);
    assert_int_equal(events(h, n, "HostSuspect", text, sizeof text), 1);
    assert_int_equal(events(h, n, "HostLive", text, sizeof text), 1);
    cluster_free(h);
}

/* The host returns at the edge of its grace period, again and again: it is never dead, and no
 * replica moves. */
static void liveness_host_at_the_edge_of_its_grace_moves_nothing(void **state)
{
    (void)state;
    struct cluster *h = five_hosts(6);
    char text[256];
    uint64_t n = other_host(h);
    for (int i = 0; i < 5; i++) {
        h->mute[n] = true;
        cluster_run(h, CLUSTER_DEAD_MS - 200);
        h->mute[n] = false;
        cluster_run(h, 200);
    }
    RUN_UNTIL(h, 5000, cluster_liveness(h, n) == thole_v1_HOST_LIVENESS_LIVE);
    assert_int_equal(events(h, n, "HostDead", text, sizeof text), 0);
    assert_int_equal(events(h, n, "HostSuspect", text, sizeof text), 1);
    cluster_free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(liveness_short_silence_is_no_event),
        cmocka_unit_test(liveness_silence_is_suspect_then_heard_again),
        cmocka_unit_test(liveness_killed_process_is_noticed_faster_than_silence),
        cmocka_unit_test(liveness_host_that_others_reach_is_not_dead),
        cmocka_unit_test(liveness_new_leader_keeps_the_dead_and_shortens_no_grace),
        cmocka_unit_test(liveness_new_leader_suspects_who_is_not_connected),
        cmocka_unit_test(liveness_started_host_is_suspected_once),
        cmocka_unit_test(liveness_host_at_the_edge_of_its_grace_moves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
