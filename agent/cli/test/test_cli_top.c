/* The screens of `thole top`, from rows and load as hosts send them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "agent/cli/top.h"

#define ROWS 24
#define COLUMNS 80

struct rig {
    struct top_model m;
    struct top_view v;
    upb_Arena *arena;
    char screen[16384];
};

static thole_v1_WatchClusterResponse *message(struct rig *r)
{
    return thole_v1_WatchClusterResponse_new(r->arena);
}

static void see_host(struct rig *r, const char *name, int32_t liveness)
{
    thole_v1_WatchClusterResponse *w = message(r);
    thole_v1_Host *h = thole_v1_WatchClusterResponse_mutable_host(w, r->arena);
    thole_v1_Host_set_name(h, cli__sv(name));
    thole_v1_HostSpec_set_state(thole_v1_Host_mutable_spec(h, r->arena),
                                thole_v1_HOST_STATE_ACTIVE);
    thole_v1_HostStatus_set_liveness(thole_v1_Host_mutable_status(h, r->arena), liveness);
    top_model_see(&r->m, w);
}

static void see_shard(struct rig *r, uint64_t id, const char *name, bool ready)
{
    thole_v1_WatchClusterResponse *w = message(r);
    thole_v1_Shard *s = thole_v1_WatchClusterResponse_mutable_shard(w, r->arena);
    thole_v1_Shard_set_id(s, id);
    thole_v1_Shard_set_name(s, cli__sv(name));
    thole_v1_ShardSpec_set_type(thole_v1_Shard_mutable_spec(s, r->arena), cli__sv("kv"));
    thole_v1_ShardStatus *st = thole_v1_Shard_mutable_status(s, r->arena);
    thole_v1_ShardStatus_set_leader_host(st, cli__sv("h1"));
    thole_v1_Condition *c = thole_v1_ShardStatus_add_conditions(st, r->arena);
    thole_v1_Condition_set_type(c, cli__sv("Ready"));
    thole_v1_Condition_set_status(c, ready);
    thole_v1_Condition_set_reason(c, cli__sv("Waiting"));
    thole_v1_Condition_set_message(
        c, cli__sv("one of its voting replicas is on a host that does not answer \x1b[31m now"));
    top_model_see(&r->m, w);
}

static void see_replica(struct rig *r, uint64_t id, uint64_t shard, const char *host)
{
    thole_v1_WatchClusterResponse *w = message(r);
    thole_v1_Replica *p = thole_v1_WatchClusterResponse_mutable_replica(w, r->arena);
    thole_v1_Replica_set_id(p, id);
    thole_v1_Replica_set_shard_id(p, shard);
    thole_v1_Replica_set_host(p, cli__sv(host));
    thole_v1_Replica_set_role(p, thole_v1_REPLICA_ROLE_VOTER);
    thole_v1_Replica_set_phase(p, thole_v1_REPLICA_PHASE_RUNNING);
    top_model_see(&r->m, w);
}

static void see_operation(struct rig *r, uint64_t id)
{
    thole_v1_WatchClusterResponse *w = message(r);
    thole_v1_Operation_set_id(thole_v1_WatchClusterResponse_mutable_operation(w, r->arena), id);
    top_model_see(&r->m, w);
}

static void see_event(struct rig *r, const char *object)
{
    thole_v1_WatchClusterResponse *w = message(r);
    thole_v1_Event_set_object(thole_v1_WatchClusterResponse_mutable_event(w, r->arena),
                              cli__sv(object));
    top_model_see(&r->m, w);
}

static void see_bookmark(struct rig *r)
{
    thole_v1_WatchClusterResponse *w = message(r);
    thole_v1_WatchClusterResponse_set_bookmark(w, true);
    top_model_see(&r->m, w);
}

static void see_deleted(struct rig *r, const char *name)
{
    thole_v1_WatchClusterResponse *w = message(r);
    thole_v1_WatchClusterResponse_set_deleted(w, cli__sv(name));
    top_model_see(&r->m, w);
}

static void see_load(struct rig *r, const char *host, uint64_t replica, uint64_t shard,
                     const char *role, uint64_t commit, uint64_t applied)
{
    thole_v1_StatusResponse *s = thole_v1_StatusResponse_new(r->arena);
    thole_v1_LocalReplica *l = thole_v1_StatusResponse_add_replicas(s, r->arena);
    thole_v1_LocalReplica_set_replica_id(l, replica);
    thole_v1_LocalReplica_set_shard_id(l, shard);
    thole_v1_LocalReplica_set_role(l, cli__sv(role));
    thole_v1_LocalReplica_set_commit(l, commit);
    thole_v1_LocalReplica_set_applied(l, applied);
    top_model_load(&r->m, host, s);
}

static const char *draw(struct rig *r)
{
    struct bytes out = {0};
    top_draw(&r->m, &r->v, &out);
    assert_true(out.size < sizeof r->screen);
    memcpy(r->screen, out.data, out.size);
    r->screen[out.size] = '\0';
    bytes_deinit(&out);
    return r->screen;
}

/* Begins with `begin`, and its number of lines is right. */
static void expect_line(struct rig *r, const char *begin)
{
    char wanted[128];
    snprintf(wanted, sizeof wanted, "\n%s", begin);
    if (strstr(draw(r), wanted) == NULL) {
        fail_msg("no line begins with \"%s\" in:\n%s", begin, r->screen);
    }
}

static int setup(void **state)
{
    struct rig *r = calloc(1, sizeof *r);
    assert_non_null(r);
    top_model_init(&r->m);
    r->arena = upb_Arena_New();
    r->v = (struct top_view){.columns = COLUMNS, .rows = ROWS};
    see_host(r, "h2", thole_v1_HOST_LIVENESS_LIVE);
    see_host(r, "h1", thole_v1_HOST_LIVENESS_LIVE);
    see_host(r, "h3", thole_v1_HOST_LIVENESS_SUSPECT);
    see_shard(r, 1, "orders", true);
    see_shard(r, 2, "billing", false);
    for (uint64_t i = 0; i < 3; i++) {
        char host[3] = {'h', (char)('1' + i), '\0'};
        see_replica(r, 10 + i, 1, host);
    }
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct rig *r = *state;
    top_model_clear(&r->m);
    upb_Arena_Free(r->arena);
    free(r->m.hosts);
    free(r);
    return 0;
}

static void test_top_fits_the_terminal(void **state)
{
    struct rig *r = *state;
    for (unsigned columns = 80; columns <= 200; columns += 40) {
        int lines = 0;
        r->v.columns = columns;
        for (const char *s = draw(r); *s != '\0'; lines++) {
            const char *end = strstr(s, "\x1b[K");
            assert_non_null(end);
            assert_true((size_t)(end - s) <= columns);
            s = strncmp(end + 3, "\r\n", 2) == 0 ? end + 5 : end + 3;
        }
        assert_int_equal(lines, ROWS);
        assert_null(strstr(r->screen, "\x1b[31m")); /* what rows say cannot draw */
    }
}

static void test_top_shows_problems_first(void **state)
{
    struct rig *r = *state;
    assert_non_null(strstr(draw(r), "hosts 2/3 live  shards 1/2 ready"));
    assert_true(strstr(r->screen, "\nbilling ") < strstr(r->screen, "\norders "));
    expect_line(r, "orders       kv       h1         L v ?");
    r->v.sort = TOP_BY_NAME;
    see_shard(r, 3, "aaa", true);
    draw(r);
    assert_true(strstr(r->screen, "\naaa ") < strstr(r->screen, "\nbilling "));
    see_deleted(r, "shards/aaa");
    assert_null(strstr(draw(r), "\naaa "));
    see_deleted(r, "shards/orders/replicas/11");
    expect_line(r, "orders       kv       h1         L . ?");
    see_deleted(r, "hosts/h2");
    assert_non_null(strstr(draw(r), "hosts 1/2 live"));
}

static void test_top_counts_the_hosts_that_do_not_fit(void **state)
{
    struct rig *r = *state;
    for (int i = 4; i <= 15; i++) {
        char name[8];
        snprintf(name, sizeof name, "h%d", i);
        see_host(r, name, thole_v1_HOST_LIVENESS_LIVE);
    }
    expect_line(r, "    ... and 5 more");
    r->v.rows = 12; /* seven hosts, and lines for the rest */
    expect_line(r, "    ... and 8 more");
}

/* A new snapshot replaces the rows; deletions between the two were not seen. */
static void test_top_forgets_rows_that_a_later_snapshot_has_not(void **state)
{
    struct rig *r = *state;
    see_operation(r, 7);
    see_event(r, "shards/orders");
    see_bookmark(r);
    assert_true(r->m.complete);
    top_model_see(&r->m, NULL);
    assert_false(r->m.complete);
    see_host(r, "h1", thole_v1_HOST_LIVENESS_LIVE);
    see_shard(r, 2, "billing", true);
    see_replica(r, 20, 2, "h1");
    see_bookmark(r);
    assert_non_null(strstr(draw(r), "hosts 1/1 live  shards 1/1 ready"));
    assert_non_null(strstr(r->screen, "operations 0"));
    assert_null(strstr(r->screen, "\norders "));
    expect_line(r, "1   h1                   live      active                    1        1");
    r->v.pane = TOP_EVENTS_PANE;
    assert_non_null(strstr(draw(r), "shards/orders")); /* history, not a row */
}

static void test_top_rate_and_lag_are_of_the_leader(void **state)
{
    struct rig *r = *state;
    see_load(r, "h1", 10, 1, "leader", 100, 100);
    see_load(r, "h2", 11, 1, "follower", 100, 60);
    top_model_settle(&r->m);
    expect_line(r, "orders       kv       h1         L v ?        0     40");
    struct top_shard *s = map_get(&r->m.shards, 2);
    assert_non_null(s);
    s->at_ns -= 2000000000; /* two seconds later */
    see_load(r, "h1", 10, 1, "leader", 1000100, 1000100);
    see_load(r, "h2", 11, 1, "follower", 1000100, 1000100);
    top_model_settle(&r->m);
    assert_true(s->rate > 100000 && s->rate < 500001);
    assert_int_equal(s->lag, 0);
    /* Another one leads. */
    see_load(r, "h2", 11, 1, "leader", 1000100, 1000100);
    expect_line(r, "orders       kv       h2         v L ?");
}

/* The last row is on the line above the foot, and a key up shows one more. */
static void expect_end(struct rig *r, const char *last, const char *above)
{
    char wanted[128];
    assert_true(top_key(&r->v, TOP_KEY_END));
    expect_line(r, last);
    snprintf(wanted, sizeof wanted, "\n%s", last);
    const char *row = strstr(r->screen, wanted);
    const char *foot = strstr(row + 1, "\n");
    assert_non_null(foot);
    assert_null(strchr(foot + 1, '\n'));
    expect_line(r, above);
    assert_true(top_key(&r->v, TOP_KEY_UP));
    assert_null(strstr(draw(r), wanted));
    expect_line(r, above);
}

static void test_top_keys(void **state)
{
    struct rig *r = *state;
    assert_true(top_key(&r->v, '/'));
    for (const char *s = "ordq"; *s != '\0'; s++) {
        assert_true(top_key(&r->v, *s)); /* a filter, not the end */
    }
    assert_true(top_key(&r->v, 0x7f));
    assert_true(top_key(&r->v, '\r'));
    expect_line(r, "orders ");
    assert_null(strstr(r->screen, "\nbilling "));
    assert_true(top_key(&r->v, '/'));
    assert_true(top_key(&r->v, 0x1b));
    expect_line(r, "billing ");
    for (int i = 0; i < 100; i++) {
        assert_true(top_key(&r->v, TOP_KEY_DOWN));
    }
    expect_line(r, "billing "); /* all fit: it does not scroll away */
    for (uint64_t i = 1; i <= 40; i++) {
        char object[32];
        snprintf(object, sizeof object, "shards/s%" PRIu64, i);
        see_shard(r, 100 + i, object + 7, true);
        see_operation(r, i);
        see_event(r, object);
    }
    expect_end(r, "s40 ", "s39 ");
    assert_true(top_key(&r->v, '\t'));
    expect_line(r, "ID     OPERATION");
    expect_end(r, "1      ", "2      ");
    assert_true(top_key(&r->v, '\t'));
    expect_line(r, "TIME      OBJECT");
    expect_end(r, "-  shards/s1\x1b", "-  shards/s2\x1b");
    assert_false(top_key(&r->v, 'q'));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_top_fits_the_terminal, setup, teardown),
        cmocka_unit_test_setup_teardown(test_top_shows_problems_first, setup, teardown),
        cmocka_unit_test_setup_teardown(test_top_counts_the_hosts_that_do_not_fit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_top_forgets_rows_that_a_later_snapshot_has_not, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_top_rate_and_lag_are_of_the_leader, setup, teardown),
        cmocka_unit_test_setup_teardown(test_top_keys, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
