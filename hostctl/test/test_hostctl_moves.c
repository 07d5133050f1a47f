/* Leadership transfers: their targets, the leaders that stay, and an event for each transfer. */
#include "base/test/shifted_clock.h"
#include "hostctl/test/cluster_fixture.h"
#include "shards/engine/engine_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define SHARDS 4

static uint64_t leader_host(struct cluster *h, const char *shard)
{
    struct registry_shard_buf buf;
    struct registry_view *v = cluster_view(h);
    const thole_v1_Shard *row = registry_shard_by_name(v, slice_str(shard), &buf);
    upb_StringView name = thole_v1_ShardStatus_leader_host(thole_v1_Shard_status(row));
    uint64_t n = name.size == 2 ? (uint64_t)(name.data[1] - '0') : UINT64_MAX;
    registry_view_release(v);
    return n;
}

static size_t led_by(struct cluster *h, uint64_t n)
{
    size_t led = 0;
    for (int i = 0; i < SHARDS; i++) {
        char name[16];
        snprintf(name, sizeof name, "s%d", i);
        led += leader_host(h, name) == n;
    }
    return led;
}

static struct cluster *cluster_of_three(uint64_t seed)
{
    struct cluster *h = cluster_new(seed);
    cluster_bootstrap(h, 3);
    for (int i = 0; i < SHARDS; i++) {
        char name[16];
        snprintf(name, sizeof name, "s%d", i);
        assert_int_equal(cluster_create(h, name, 3, 0), THOLE_OK);
        RUN_UNTIL(h, 20000, cluster_settled(h, name));
    }
    cluster_run(h, 10000);
    return h;
}

static void done(void *ctx, const struct thole_status *st)
{
    *(enum thole_code *)ctx = st->code;
}

/* As the service does: the transfer, then its record. */
static void user_moves(struct cluster *h, const char *shard, uint64_t to)
{
    struct registry_replica_buf buf;
    uint64_t id = cluster_shard_id(h, shard), target = 0, after = 0;
    struct registry_view *v = cluster_view(h);
    const thole_v1_Replica *r;
    while ((r = registry_next_replica_of_shard(v, id, after, &buf)) != NULL) {
        after = thole_v1_Replica_id(r);
        target = thole_v1_Replica_host(r).data[1] == (char)('0' + to) ? after : target;
    }
    registry_view_release(v);
    enum thole_code code = THOLE_UNKNOWN;
    engine_transfer(h->hosts[leader_host(h, shard)].engine, id, target, NULL, done, &code);
    RUN_UNTIL(h, 2000, code != THOLE_UNKNOWN);
    assert_int_equal(code, THOLE_OK);
    char host[16];
    snprintf(host, sizeof host, "h%d", (int)to);
    struct cmd c = cmd_new("user");
    thole_registry_v1_StartOperation *o =
        thole_registry_v1_Operation_mutable_start_operation(cmd_op(&c), c.arena);
    thole_registry_v1_StartOperation_set_kind(o, thole_v1_OPERATION_KIND_TRANSFER_LEADER);
    thole_registry_v1_StartOperation_set_shard(o, upb_StringView_FromString(shard));
    thole_registry_v1_StartOperation_set_to(o, upb_StringView_FromString(host));
    assert_int_equal(cluster_command(h, &c), THOLE_OK);
}

static size_t moved_by(struct cluster *h, const char *by)
{
    size_t n = 0;
    for (int i = 0; i < SHARDS; i++) {
        char name[32];
        char last[256] = "";
        snprintf(name, sizeof name, "shards/s%d", i);
        n += cluster_events(h, name, "LeaderMoved", last, sizeof last) > 0 &&
             strstr(last, by) != NULL;
    }
    return n;
}

static void test_balance_leaves_what_a_user_moved_until_hosts_change(void **state)
{
    (void)state;
    struct cluster *h = cluster_of_three(71);
    for (int i = 0; i < SHARDS; i++) {
        char name[16];
        snprintf(name, sizeof name, "s%d", i);
        if (leader_host(h, name) != 0) {
            user_moves(h, name, 0);
        } else {
            user_moves(h, name, 1);
            RUN_UNTIL(h, 2000, leader_host(h, name) == 1);
            user_moves(h, name, 0);
        }
    }
    RUN_UNTIL(h, 5000, led_by(h, 0) == SHARDS);
    cluster_run(h, 20000);
    assert_int_equal(led_by(h, 0), SHARDS);
    /* Another host joins: balance may work again. */
    cluster_join(h, 3);
    RUN_UNTIL(h, 30000, led_by(h, 0) < SHARDS);
    RUN_UNTIL(h, 5000, moved_by(h, "by balance: its host led") > 0);
    cluster_free(h);
}

static void test_low_space_moves_leaders_with_events_and_none_back(void **state)
{
    (void)state;
    struct cluster *h = cluster_of_three(72);
    uint64_t n = cluster_zero_leader(h);
    size_t led = led_by(h, n);
    char last[256] = "";
    char name[16];
    snprintf(name, sizeof name, "hosts/h%d", (int)n);
    engine_files_memory_set_free_bytes(h->hosts[n].files, 1000);
    RUN_UNTIL(h, 3000, cluster_zero_leader(h) != n && led_by(h, n) == 0);
    RUN_UNTIL(h, 3000, cluster_events(h, name, "HostLowSpace", last, sizeof last) == 1);
    RUN_UNTIL(h, 3000, moved_by(h, "by disk: its disk is nearly full, or hangs") == led);
    assert_int_equal(cluster_events(h, "shards/zero", "LeaderMoved", last, sizeof last), 1);
    cluster_run(h, 10000);
    assert_int_equal(led_by(h, n), 0);
    /* Shard zero works, and no replica is placed on a host whose disk is full. */
    assert_int_equal(cluster_create(h, "new", 1, 0), THOLE_OK);
    RUN_UNTIL(h, 10000, cluster_settled(h, "new"));
    assert_true(leader_host(h, "new") != n);
    engine_files_memory_set_free_bytes(h->hosts[n].files, UINT64_MAX);
    RUN_UNTIL(h, 3000, cluster_events(h, name, "HostDiskOk", last, sizeof last) == 1);
    cluster_free(h);
}

static void test_wrong_clock_moves_leaders_with_events_and_none_back(void **state)
{
    (void)state;
    struct cluster *h = cluster_of_three(75);
    uint64_t n = cluster_zero_leader(h);
    size_t led = led_by(h, n);
    char last[256] = "";
    char name[16];
    struct shifted_clock clock;
    shifted_clock_init(&clock, executor_clock(h->ex), 15000);
    snprintf(name, sizeof name, "hosts/h%d", (int)n);
    h->hosts[n].engine->clock = &clock.clock;
    RUN_UNTIL(h, 8000, cluster_zero_leader(h) != n && led_by(h, n) == 0);
    RUN_UNTIL(h, 3000, cluster_events(h, name, "HostClockWrong", last, sizeof last) == 1);
    assert_non_null(strstr(last, "15.0 s ahead of"));
    RUN_UNTIL(h, 3000, moved_by(h, "by clock: its wall clock differs") == led);
    cluster_run(h, 10000);
    assert_int_equal(led_by(h, n), 0);
    h->hosts[n].engine->clock = clock.of;
    RUN_UNTIL(h, 6000, cluster_events(h, name, "HostClockOk", last, sizeof last) == 1);
    cluster_free(h);
}

/* No other host could lead: shard zero stays writable, so that an operator can act. */
static void test_low_space_alone_leaves_shard_zero_at_work(void **state)
{
    (void)state;
    struct cluster *h = cluster_new(73);
    cluster_bootstrap(h, 1);
    assert_int_equal(cluster_create(h, "a", 1, 0), THOLE_OK);
    RUN_UNTIL(h, 20000, cluster_settled(h, "a"));
    cluster_run(h, 2000);
    engine_files_memory_set_free_bytes(h->hosts[0].files, 100 << 20);
    assert_true(cluster_add(h, "a", 1)); /* the write detects the lost leadership */
    cluster_run(h, 3000);
    assert_false(cluster_add(h, "a", 1));
    assert_int_equal(cluster_create(h, "b", 1, 0), THOLE_OK);
    engine_files_memory_set_free_bytes(h->hosts[0].files, 1000);
    cluster_run(h, 3000);
    assert_int_not_equal(cluster_create(h, "c", 1, 0), THOLE_OK);
    cluster_free(h);
}

/* The only remaining voter lost its leadership: the row reports that. */
static void test_leader_without_a_quorum_takes_its_report_back(void **state)
{
    (void)state;
    struct cluster *h = cluster_new(74);
    cluster_bootstrap(h, 3);
    cluster_join(h, 3);
    cluster_join(h, 4);
    RUN_UNTIL(h, 30000, cluster_settled(h, "zero") && cluster_voters(h, "zero") == 5);
    assert_int_equal(cluster_create(h, "s0", 3, 0), THOLE_OK);
    RUN_UNTIL(h, 20000, cluster_settled(h, "s0"));
    uint64_t leads = leader_host(h, "s0");
    for (uint64_t n = 0, stopped = 0; n < 5 && stopped < 2; n++) {
        if (n != leads && cluster_replicas_on(h, n) > 1) {
            cluster_stop(h, n);
            stopped++;
        }
    }
    RUN_UNTIL(h, 5000, leader_host(h, "s0") == UINT64_MAX);
    cluster_free(h);
}

/* Counts the shard's transfers, including those that share an event. */
static size_t recorded(struct cluster *h)
{
    struct registry_event_buf buf;
    struct registry_view *v = cluster_view(h);
    uint64_t it = 0;
    size_t moves = 0;
    const thole_v1_Event *e;
    while ((e = registry_next_event(v, 0, &it, &buf)) != NULL) {
        if (upb_StringView_IsEqual(thole_v1_Event_object(e),
                                   upb_StringView_FromString("shards/s0")) &&
            upb_StringView_IsEqual(thole_v1_Event_reason(e),
                                   upb_StringView_FromString("LeaderMoved"))) {
            moves += thole_v1_Event_count(e) > 0 ? thole_v1_Event_count(e) : 1;
        }
    }
    registry_view_release(v);
    return moves;
}

static void note_move(struct cluster *h, uint64_t n, uint64_t to)
{
    hostctl_leader_moved(h->hosts[n].hostctl, cluster_shard_id(h, "s0"), 1, to,
                         ENGINE_MOVE_SHUTDOWN);
}

/* While shard zero is unavailable, transfers wait to be recorded. */
static void test_moves_are_recorded_when_shard_zero_is_back(void **state)
{
    (void)state;
    struct cluster *h = cluster_of_three(75);
    size_t before = recorded(h);
    h->refuse = 1;
    note_move(h, 0, 2);
    cluster_run(h, 3000);
    note_move(h, 0, 3); /* while the first command is retried again and again */
    cluster_run(h, 3000);
    assert_int_equal(recorded(h), before);
    h->refuse = 0;
    RUN_UNTIL(h, 3000, recorded(h) == before + 2);
    cluster_run(h, 3000);
    assert_int_equal(recorded(h), before + 2);
    cluster_free(h);
}

/* The command was applied and its answer was lost: the retry changes nothing. */
static void test_a_move_is_recorded_once_although_its_answer_is_lost(void **state)
{
    (void)state;
    struct cluster *h = cluster_of_three(76);
    size_t before = recorded(h);
    h->lose = 1;
    note_move(h, 0, 2);
    cluster_run(h, 3000);
    assert_int_equal(recorded(h), before + 1);
    h->lose = 0;
    note_move(h, 0, 3);
    RUN_UNTIL(h, 3000, recorded(h) == before + 2);
    cluster_run(h, 3000);
    assert_int_equal(recorded(h), before + 2);
    cluster_free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_balance_leaves_what_a_user_moved_until_hosts_change),
        cmocka_unit_test(test_low_space_moves_leaders_with_events_and_none_back),
        cmocka_unit_test(test_wrong_clock_moves_leaders_with_events_and_none_back),
        cmocka_unit_test(test_low_space_alone_leaves_shard_zero_at_work),
        cmocka_unit_test(test_leader_without_a_quorum_takes_its_report_back),
        cmocka_unit_test(test_moves_are_recorded_when_shard_zero_is_back),
        cmocka_unit_test(test_a_move_is_recorded_once_although_its_answer_is_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
