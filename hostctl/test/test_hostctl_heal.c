/* Replicas whose machine fails: only they stop, and they are rebuilt with growing pauses. */
#include "hostctl/test/cluster_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static struct cluster *hosts_with_flaky(uint64_t seed, uint64_t hosts, uint32_t voters)
{
    struct cluster *h = cluster_new(seed);
    cluster_bootstrap(h, 3);
    for (uint64_t n = 3; n < hosts; n++) {
        cluster_join(h, n);
    }
    assert_int_equal(cluster_create_type(h, "f", "flaky", voters, 0), THOLE_OK);
    assert_int_equal(cluster_create(h, "other", 3, 0), THOLE_OK);
    RUN_UNTIL(h, 20000, cluster_settled(h, "f") && cluster_settled(h, "other"));
    RUN_UNTIL(h, 20000, cluster_settled(h, "zero"));
    return h;
}

static uint64_t local_replica(struct cluster *h, uint64_t n, bool *ret_leads, bool *ret_failed)
{
    struct engine_replica_status s;
    if (!engine_shard_status(h->hosts[n].engine, cluster_shard_id(h, "f"), &s)) {
        return 0;
    }
    *ret_leads = s.leader_ready;
    *ret_failed = s.failed;
    return s.replica_id;
}

/* A host whose replica of "f" leads, or one whose replica follows. */
static uint64_t host_of_f(struct cluster *h, bool leads)
{
    bool l = false;
    bool failed = false;
    for (uint64_t n = 0; n < CLUSTER_HOSTS; n++) {
        if (h->hosts[n].hostctl != NULL && local_replica(h, n, &l, &failed) != 0 && l == leads) {
            return n;
        }
    }
    fail();
    return 0;
}

/* Counts events of a kind about any replica of "f"; the last message must contain the given
 * text. */
static size_t events_of_f(struct cluster *h, const char *reason, const char *part)
{
    struct registry_event_buf event_buf;
    struct registry_view *v = cluster_view(h);
    uint64_t it = 0;
    size_t count = 0;
    const thole_v1_Event *e;
    while ((e = registry_next_event(v, 0, &it, &event_buf)) != NULL) {
        struct slice object = registry_str(thole_v1_Event_object(e));
        upb_StringView message = thole_v1_Event_message(e);
        if (object.size >= 8 && memcmp(object.data, "shards/f", 8) == 0 &&
            slice_equal(registry_str(thole_v1_Event_reason(e)), slice_str(reason)) &&
            message.size > 0 && memmem(message.data, message.size, part, strlen(part)) != NULL) {
            count++;
        }
    }
    registry_view_release(v);
    return count;
}

static bool rebuilt_on(struct cluster *h, uint64_t n, uint64_t before)
{
    bool leads = false;
    bool failed = false;
    uint64_t id = local_replica(h, n, &leads, &failed);
    return id != 0 && id != before && !failed;
}

static void heal_failed_apply_is_rebuilt_on_the_only_host(void **state)
{
    (void)state;
    for (int leads = 0; leads < 2; leads++) {
        struct cluster *h = hosts_with_flaky(1, 3, 3);
        bool unused;
        bool failed;
        uint64_t n = host_of_f(h, leads);
        uint64_t before = local_replica(h, n, &unused, &failed);
        h->hosts[n].flaky_apply = true;
        (void)cluster_add(h, "f", 1);
        RUN_UNTIL(h, 5000, events_of_f(h, "ReplicaFailed", "a test fails apply") == 1);
        h->hosts[n].flaky_apply = false;
        assert_true(cluster_settled(h, "other"));
        RUN_UNTIL(h, 20000, rebuilt_on(h, n, before) && cluster_settled(h, "f"));
        assert_int_equal(events_of_f(h, "ReplicaRemoving", "it failed, and is rebuilt"), 1);
        assert_true(cluster_add(h, "f", 3));
        cluster_free(h);
    }
}

static void heal_goes_to_a_host_where_it_has_not_failed(void **state)
{
    (void)state;
    struct cluster *h = hosts_with_flaky(2, 5, 3);
    bool unused;
    bool failed = false;
    uint64_t n = host_of_f(h, false);
    h->hosts[n].flaky_apply = true;
    h->hosts[n].flaky_open = true;
    assert_true(cluster_add(h, "f", 1));
    RUN_UNTIL(h, 20000, events_of_f(h, "ReplicaFailed", "a test fails apply") == 1);
    RUN_UNTIL(h, 20000, local_replica(h, n, &unused, &failed) == 0 && cluster_settled(h, "f"));
    cluster_run(h, 60000);
    assert_int_equal(events_of_f(h, "ReplicaFailed", ""), 1);
    cluster_free(h);
}

/* Attempts on the same host come after 1, 2, 4, ... seconds, and stop at six for ten minutes. */
static void heal_machine_that_keeps_failing_is_tried_less_and_less(void **state)
{
    struct registry_shard_buf shard_buf;
    (void)state;
    struct cluster *h = hosts_with_flaky(3, 3, 3);
    char text[512];
    uint64_t n = host_of_f(h, false);
    h->hosts[n].flaky_apply = true;
    h->hosts[n].flaky_open = true;
    assert_true(cluster_add(h, "f", 1));
    cluster_run(h, 900);
    assert_int_equal(events_of_f(h, "ReplicaFailed", ""), 1);
    assert_int_equal(events_of_f(h, "ReplicaRemoving", ""), 0); /* within the first pause */
    cluster_run(h, 60000);
    assert_int_equal(events_of_f(h, "ReplicaFailed", ""), 6);
    assert_true(cluster_events(h, "shards/f", "ShardDegraded", text, sizeof text) >= 1);
    size_t before = h->proposals;
    cluster_run(h, 8 * 60000);
    assert_int_equal(h->proposals, before);
    struct registry_view *v = cluster_view(h);
    const thole_v1_Shard *shard = registry_shard_by_name(v, slice_str("f"), &shard_buf);
    size_t count = 0;
    bool failing = false;
    const thole_v1_Condition *const *c =
        thole_v1_ShardStatus_conditions(thole_v1_Shard_status(shard), &count);
    for (size_t i = 0; i < count; i++) {
        failing |= slice_equal(registry_str(thole_v1_Condition_reason(c[i])), slice_str("Failing"));
    }
    assert_true(failing);
    registry_view_release(v);
    assert_true(cluster_add(h, "f", 3)); /* the other replicas go on */
    /* When the machine works again, the next attempt succeeds. */
    h->hosts[n].flaky_apply = false;
    h->hosts[n].flaky_open = false;
    RUN_UNTIL(h, 4 * 60000, cluster_settled(h, "f"));
    cluster_free(h);
}

static void heal_never_takes_the_majority(void **state)
{
    (void)state;
    struct cluster *h = hosts_with_flaky(4, 5, 3);
    uint64_t n = host_of_f(h, false);
    for (uint64_t i = 0; i < 5; i++) {
        h->hosts[i].flaky_apply = i != n;
    }
    (void)cluster_add(h, "f", 1);
    cluster_run(h, 30000);
    assert_true(events_of_f(h, "ReplicaFailed", "") >= 1);
    assert_int_equal(events_of_f(h, "ReplicaRemoving", ""), 0);
    cluster_free(h);
}

/* The replacement cannot restore the snapshot either. The remaining members go on. */
static void heal_failed_restore_is_tried_elsewhere(void **state)
{
    (void)state;
    struct cluster *h = hosts_with_flaky(5, 5, 3);
    uint64_t n = host_of_f(h, false);
    for (uint64_t i = 0; i < 5; i++) {
        bool leads = false;
        bool failed = false;
        h->hosts[i].flaky_restore = local_replica(h, i, &leads, &failed) == 0;
    }
    for (int i = 0; i < 300; i++) { /* so that only a snapshot brings a new member up to date */
        assert_true(cluster_add(h, "f", 10));
    }
    h->hosts[n].flaky_apply = true;
    assert_true(cluster_add(h, "f", 1));
    RUN_UNTIL(h, 5000, events_of_f(h, "ReplicaFailed", "a test fails apply") == 1);
    h->hosts[n].flaky_apply = false;
    RUN_UNTIL(h, 60000, events_of_f(h, "ReplicaFailed", "a test fails restore") >= 1);
    RUN_UNTIL(h, 60000, cluster_settled(h, "f"));
    assert_true(cluster_add(h, "f", 3));
    cluster_free(h);
}

static bool says_quorum_lost(struct cluster *h)
{
    struct registry_shard_buf buf;
    struct registry_view *v = cluster_view(h);
    const thole_v1_Condition *c =
        registry_shard_condition(registry_shard(v, cluster_shard_id(h, "f"), &buf), "Degraded");
    bool says = c != NULL && thole_v1_Condition_status(c) &&
                slice_equal(registry_str(thole_v1_Condition_reason(c)), slice_str("QuorumLost"));
    registry_view_release(v);
    return says;
}

/* The only voter's host is drained, and the new replica fails before it has the vote. It counted
 * as half of the votes: the shard was called lost, and nothing was rebuilt. */
static void heal_new_replica_that_fails_before_its_vote(void **state)
{
    (void)state;
    struct cluster *h = hosts_with_flaky(6, 3, 1);
    uint64_t n = host_of_f(h, true);
    assert_true(cluster_add(h, "f", 10));
    for (uint64_t i = 0; i < 3; i++) { /* a new replica gets a snapshot */
        h->hosts[i].flaky_restore = true;
    }
    assert_int_equal(cluster_host_state(h, n, thole_v1_HOST_STATE_DRAINING), THOLE_OK);
    RUN_UNTIL(h, 10000, events_of_f(h, "ReplicaFailed", "a test fails restore") >= 1);
    cluster_run(h, 500);
    assert_false(says_quorum_lost(h));
    for (uint64_t i = 0; i < 3; i++) {
        h->hosts[i].flaky_restore = false;
    }
    RUN_UNTIL(h, 60000, cluster_settled(h, "f") && host_of_f(h, true) != n);
    assert_true(cluster_add(h, "f", 3));
    cluster_free(h);
}

/* The number of replicas that failed after this time, of any shard on any host. */
static size_t failed_since(struct cluster *h, int64_t after_ms)
{
    struct registry_event_buf event_buf;
    struct registry_view *v = cluster_view(h);
    uint64_t it = 0;
    size_t count = 0;
    const thole_v1_Event *e;
    while ((e = registry_next_event(v, 0, &it, &event_buf)) != NULL) {
        count += slice_equal(registry_str(thole_v1_Event_reason(e)), slice_str("ReplicaFailed")) &&
                 thole_v1_Event_time_ms(e) > after_ms;
    }
    registry_view_release(v);
    return count;
}

static int64_t wall_ms(struct cluster *h)
{
    struct registry_event_buf event_buf;
    struct registry_view *v = cluster_view(h);
    uint64_t it = 0;
    int64_t newest = 0;
    const thole_v1_Event *e;
    while ((e = registry_next_event(v, 0, &it, &event_buf)) != NULL) {
        newest = thole_v1_Event_time_ms(e) > newest ? thole_v1_Event_time_ms(e) : newest;
    }
    registry_view_release(v);
    return newest;
}

static bool all_settled(struct cluster *h, int shards)
{
    bool settled = true;
    for (int i = 0; i < shards; i++) {
        char name[16];
        snprintf(name, sizeof name, "f%d", i);
        settled &= cluster_settled(h, name);
    }
    return settled;
}

static void create_flaky(struct cluster *h, int n)
{
    char name[16];
    snprintf(name, sizeof name, "f%d", n);
    assert_int_equal(cluster_create_type(h, name, "flaky", 3, 0), THOLE_OK);
}

/* The failing host has few replicas, so balance would move replica after replica there without end.
 * Placement would do the same with new shards. */
static void heal_host_where_replicas_keep_failing_gets_nothing_new(void **state)
{
    enum { SHARDS = 8, MORE = 4, ALL = 16 };
    (void)state;
    struct cluster *h = cluster_new(6);
    int shards = 0;
    char text[512];
    cluster_bootstrap(h, 3);
    cluster_join(h, 3);
    while (shards < SHARDS) {
        create_flaky(h, shards++);
    }
    RUN_UNTIL(h, 60000, all_settled(h, SHARDS) && cluster_replicas_on(h, 3) >= 6);
    /* The host's disk fails: its replicas fail, and so do replicas placed there. */
    h->hosts[3].flaky_open = h->hosts[3].flaky_apply = true;
    for (int i = 0; i < SHARDS; i++) {
        snprintf(text, sizeof text, "f%d", i);
        (void)cluster_add(h, text, 1);
    }
    cluster_run(h, 60000);
    RUN_UNTIL(h, 60000, all_settled(h, SHARDS) && cluster_replicas_on(h, 3) == 1);
    while (shards < SHARDS + MORE) {
        create_flaky(h, shards++);
        cluster_run(h, 10000);
    }
    assert_int_equal(cluster_events(h, "hosts/h3", "HostFailing", text, sizeof text), 1);
    assert_non_null(strstr(text, "a test fails open"));
    RUN_UNTIL(h, 60000, all_settled(h, shards) && cluster_replicas_on(h, 3) == 1);
    int64_t since = wall_ms(h);
    size_t before = h->proposals;
    cluster_run(h, 15 * 60000);
    assert_int_equal(h->proposals, before);
    while (shards < ALL) {
        create_flaky(h, shards++);
    }
    RUN_UNTIL(h, 60000, all_settled(h, shards));
    assert_int_equal(cluster_replicas_on(h, 3), 1);
    /* The disk was repaired. After half an hour the host is tried again, with replicas that did not
     * fail there. */
    h->hosts[3].flaky_open = h->hosts[3].flaky_apply = false;
    assert_int_equal(cluster_events(h, "hosts/h3", "HostFailingEnded", text, sizeof text), 0);
    cluster_run(h, 20 * 60000);
    assert_int_equal(cluster_events(h, "hosts/h3", "HostFailingEnded", text, sizeof text), 1);
    RUN_UNTIL(h, 60000, cluster_replicas_on(h, 3) >= 1 + ALL - SHARDS - MORE);
    RUN_UNTIL(h, 60000, all_settled(h, shards));
    assert_int_equal(failed_since(h, since), 0);
    cluster_free(h);
}

/* A command that no replica can apply is the shard's fault: its hosts still accept other shards. */
static void heal_commands_that_fail_everywhere_count_against_no_host(void **state)
{
    enum { SHARDS = 8 };
    (void)state;
    struct cluster *h = cluster_new(7);
    char text[512];
    cluster_bootstrap(h, 3);
    for (int i = 0; i < SHARDS; i++) {
        snprintf(text, sizeof text, "f%d", i);
        assert_int_equal(cluster_create_type(h, text, "flaky", 3, 0), THOLE_OK);
        RUN_UNTIL(h, 60000, cluster_settled(h, text));
        for (uint64_t n = 0; n < 3; n++) {
            h->hosts[n].flaky_apply = true;
        }
        (void)cluster_add(h, text, 1);
        cluster_run(h, 5000);
        for (uint64_t n = 0; n < 3; n++) {
            h->hosts[n].flaky_apply = false;
        }
    }
    assert_true(failed_since(h, 0) >= 2 * SHARDS);
    for (int n = 0; n < 3; n++) {
        snprintf(text, sizeof text, "hosts/h%d", n);
        assert_int_equal(cluster_events(h, text, "HostFailing", text, sizeof text), 0);
    }
    cluster_free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heal_failed_apply_is_rebuilt_on_the_only_host),
        cmocka_unit_test(heal_goes_to_a_host_where_it_has_not_failed),
        cmocka_unit_test(heal_machine_that_keeps_failing_is_tried_less_and_less),
        cmocka_unit_test(heal_never_takes_the_majority),
        cmocka_unit_test(heal_failed_restore_is_tried_elsewhere),
        cmocka_unit_test(heal_new_replica_that_fails_before_its_vote),
        cmocka_unit_test(heal_host_where_replicas_keep_failing_gets_nothing_new),
        cmocka_unit_test(heal_commands_that_fail_everywhere_count_against_no_host),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
