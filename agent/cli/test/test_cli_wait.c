/* How `wait` interprets the messages of a cluster watch. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/cli/cmd_wait.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static upb_Arena *arena;

static thole_v1_WatchClusterResponse *message(void)
{
    return thole_v1_WatchClusterResponse_new(arena);
}

static void see_shard(struct wait_item *w, const char *name, uint64_t generation, bool ready)
{
    thole_v1_WatchClusterResponse *m = message();
    thole_v1_Shard *s = thole_v1_WatchClusterResponse_mutable_shard(m, arena);
    thole_v1_ShardStatus *status = thole_v1_Shard_mutable_status(s, arena);
    thole_v1_Condition *c = thole_v1_ShardStatus_add_conditions(status, arena);
    thole_v1_Shard_set_name(s, cli__sv(name));
    thole_v1_Shard_set_generation(s, generation);
    thole_v1_ShardStatus_set_observed_generation(status, generation);
    thole_v1_Condition_set_type(c, cli__sv("Ready"));
    thole_v1_Condition_set_status(c, ready);
    wait_observe(w, m);
}

static void see_replica(struct wait_item *w, uint64_t id, const char *host, int32_t phase)
{
    thole_v1_WatchClusterResponse *m = message();
    thole_v1_Replica *r = thole_v1_WatchClusterResponse_mutable_replica(m, arena);
    thole_v1_Replica_set_id(r, id);
    thole_v1_Replica_set_shard_id(r, 7);
    thole_v1_Replica_set_host(r, cli__sv(host));
    thole_v1_Replica_set_phase(r, phase);
    wait_observe(w, m);
}

static void see_host(struct wait_item *w, const char *name)
{
    thole_v1_WatchClusterResponse *m = message();
    thole_v1_Host_set_name(thole_v1_WatchClusterResponse_mutable_host(m, arena), cli__sv(name));
    wait_observe(w, m);
}

static void see_deleted(struct wait_item *w, const char *name)
{
    thole_v1_WatchClusterResponse *m = message();
    thole_v1_WatchClusterResponse_set_deleted(m, cli__sv(name));
    wait_observe(w, m);
}

static void see_bookmark(struct wait_item *w)
{
    thole_v1_WatchClusterResponse *m = message();
    thole_v1_WatchClusterResponse_set_bookmark(m, true);
    wait_observe(w, m);
}

static void test_a_shard_is_ready_at_its_generation(void **state)
{
    (void)state;
    struct wait_item w = {
        .kind = ROWS_SHARDS, .what = WAIT_READY, .name = "a", .generation = 3, .quiet = true};
    see_shard(&w, "b", 9, true);
    assert_false(w.done);
    see_shard(&w, "a", 2, true); /* an older spec was ready */
    assert_false(w.done);
    see_shard(&w, "a", 3, false);
    assert_false(w.done);
    see_shard(&w, "a", 3, true);
    assert_true(w.done);
    see_shard(&w, "a", 4, false); /* and is ready no more */
    assert_false(w.done);
}

static void test_what_is_not_in_the_snapshot_is_deleted(void **state)
{
    (void)state;
    struct wait_item w = {.kind = ROWS_SHARDS, .what = WAIT_DELETED, .name = "a", .quiet = true};
    see_shard(&w, "b", 1, true);
    assert_false(w.done);
    see_bookmark(&w);
    assert_true(w.done);
}

/* Changes can be lost between two snapshots, also that a row was deleted. */
static void test_what_is_not_in_a_later_snapshot_is_deleted(void **state)
{
    (void)state;
    struct wait_item w = {.kind = ROWS_SHARDS, .what = WAIT_DELETED, .name = "a", .quiet = true};
    see_shard(&w, "a", 1, true);
    see_bookmark(&w);
    wait_observe(&w, NULL);
    see_shard(&w, "b", 1, true);
    assert_false(w.done);
    see_bookmark(&w);
    assert_true(w.done);
    struct wait_item h = {.kind = ROWS_HOSTS, .what = WAIT_DRAINED, .name = "h1", .quiet = true};
    see_host(&h, "h1");
    see_replica(&h, 1, "h1", thole_v1_REPLICA_PHASE_RUNNING);
    see_bookmark(&h);
    assert_false(h.done);
    wait_observe(&h, NULL);
    see_host(&h, "h1");
    see_bookmark(&h);
    assert_true(h.done);
    map_deinit(&h.replicas);
}

static void test_a_row_is_deleted_when_it_says_so(void **state)
{
    (void)state;
    struct wait_item w = {.kind = ROWS_SHARDS, .what = WAIT_DELETED, .name = "a", .quiet = true};
    see_shard(&w, "a", 1, true);
    see_bookmark(&w);
    assert_false(w.done);
    see_deleted(&w, "shards/ab");
    see_deleted(&w, "hosts/a");
    see_deleted(&w, "shards/a/replicas/4");
    assert_false(w.done);
    see_deleted(&w, "shards/a");
    assert_true(w.done);
    struct wait_item r = {.kind = ROWS_REPLICAS, .what = WAIT_DELETED, .id = 12, .quiet = true};
    see_replica(&r, 12, "h1", thole_v1_REPLICA_PHASE_OUT);
    see_bookmark(&r);
    see_deleted(&r, "shards/a/replicas/1");
    assert_false(r.done);
    see_deleted(&r, "shards/a/replicas/12");
    assert_true(r.done);
}

static void test_a_host_is_drained_when_its_last_replica_is_gone(void **state)
{
    (void)state;
    struct wait_item w = {.kind = ROWS_HOSTS, .what = WAIT_DRAINED, .name = "h1", .quiet = true};
    see_host(&w, "h1");
    see_replica(&w, 1, "h1", thole_v1_REPLICA_PHASE_RUNNING);
    see_replica(&w, 2, "h1", thole_v1_REPLICA_PHASE_RUNNING);
    see_replica(&w, 3, "h2", thole_v1_REPLICA_PHASE_RUNNING);
    see_bookmark(&w);
    assert_false(w.done);
    see_replica(&w, 1, "h1", thole_v1_REPLICA_PHASE_GONE);
    see_bookmark(&w);
    assert_false(w.done);
    assert_non_null(strstr(w.told, "1 of 2 replicas moved"));
    see_deleted(&w, "shards/s/replicas/2");
    see_bookmark(&w);
    assert_true(w.done);
    map_deinit(&w.replicas);
}

static void test_a_replica_is_waited_for_until_it_runs(void **state)
{
    (void)state;
    struct wait_item w = {.kind = ROWS_REPLICAS, .what = WAIT_RUNNING, .id = 5, .quiet = true};
    see_replica(&w, 6, "h1", thole_v1_REPLICA_PHASE_RUNNING);
    see_replica(&w, 5, "h1", thole_v1_REPLICA_PHASE_CATCHING_UP);
    assert_false(w.done);
    see_replica(&w, 5, "h1", thole_v1_REPLICA_PHASE_RUNNING);
    assert_true(w.done);
}

static int setup(void **state)
{
    (void)state;
    arena = upb_Arena_New();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    upb_Arena_Free(arena);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_shard_is_ready_at_its_generation),
        cmocka_unit_test(test_what_is_not_in_the_snapshot_is_deleted),
        cmocka_unit_test(test_what_is_not_in_a_later_snapshot_is_deleted),
        cmocka_unit_test(test_a_row_is_deleted_when_it_says_so),
        cmocka_unit_test(test_a_host_is_drained_when_its_last_replica_is_gone),
        cmocka_unit_test(test_a_replica_is_waited_for_until_it_runs),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
