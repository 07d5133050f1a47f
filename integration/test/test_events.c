/* Events over the command line and gRPC: resumed by revision and by object. A resumption is refused
 * when later events are no longer kept. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bus/bus.h"
#include "integration/test/cluster.h"
#include "proto/decode.h"
#include "thole/v1/control.upb.h"

/* Reads WatchEvents until its first bookmark. Returns the number of events and the bookmark's
 * revision. */
static enum thole_code watch_once(struct cluster *c, uint64_t after, const char *object,
                                  size_t *ret_events, uint64_t *ret_revision)
{
    struct thole_status st = {0};
    struct bus_channel *channel = NULL;
    struct bus_stream *s = NULL;
    upb_Arena *arena = upb_Arena_New();
    thole_v1_WatchEventsRequest *q = thole_v1_WatchEventsRequest_new(arena);
    thole_v1_WatchEventsRequest_set_after_revision(q, after);
    thole_v1_WatchEventsRequest_set_object(q, upb_StringView_FromString(object));
    size_t size = 0;
    char *bytes = thole_v1_WatchEventsRequest_serialize(q, arena, &size);
    assert_int_equal(bus_channel_new(c->hosts[0].address, &channel, &st), THOLE_OK);
    assert_int_equal(
        bus_channel_stream(channel, "/thole.v1.Events/WatchEvents", slice_of(bytes, size), &s, &st),
        THOLE_OK);
    *ret_events = 0;
    enum thole_code code = THOLE_OK;
    bool bookmark = false;
    while (code == THOLE_OK && !bookmark) {
        struct buf *b = NULL;
        code = bus_stream_next(s, 10000, &b, &st);
        const thole_v1_WatchEventsResponse *m =
            code == THOLE_OK
                ? PROTO_DECODE(thole_v1_WatchEventsResponse, slice_of(b->data, b->size), arena)
                : NULL;
        bookmark = m != NULL && thole_v1_WatchEventsResponse_bookmark(m);
        *ret_events += m != NULL && !bookmark;
        if (bookmark) {
            *ret_revision = thole_v1_WatchEventsResponse_revision(m);
        }
        if (b != NULL) {
            buf_unref(b);
        }
    }
    bus_stream_free(s);
    bus_channel_free(channel);
    upb_Arena_Free(arena);
    if (code != THOLE_OK) {
        assert_int_equal(st.reason, THOLE_REASON_COMPACTED);
    }
    return code;
}

static void test_events_are_resumed_by_revision_and_by_object(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    size_t all = 0, news = 0, about = 0;
    uint64_t at = 0, later = 0;
    cluster_start_dev(c);
    apply_yaml(c, 0, "kind: Shard\nname: one\nspec: {type: kv, voters: 1}\n");
    assert_int_equal(watch_once(c, 0, "", &all, &at), THOLE_OK);
    assert_true(all > 0);
    apply_yaml(c, 0, "kind: Shard\nname: two\nspec: {type: kv, voters: 1}\n");
    assert_int_equal(watch_once(c, at, "", &news, &later), THOLE_OK);
    assert_int_equal(watch_once(c, at, "shards/two", &about, &later), THOLE_OK);
    assert_true(about > 0 && about <= news);
    assert_int_equal(watch_once(c, at, "shards/one", &about, &later), THOLE_OK);
    assert_int_equal(about, 0);
    assert_int_equal(watch_once(c, later, "", &about, &later), THOLE_OK);
    /* The same through the command line. */
    const char *out = cli_ok(c, 0, "get events --since-revision %" PRIu64 " -o wide", at);
    assert_int_equal(count_lines(out, "shards/one"), 0);
    assert_true(count_lines(out, "shards/two") > 0);
    assert_int_equal(count_lines(cli_ok(c, 0, "get events --object shards/two"), "shards/one"), 0);
    cluster_free(c);
}

/* Reads one page of ListEvents with one event, and returns the token of the next page. */
static enum thole_code list_once(struct cluster *c, uint64_t after, const char *token,
                                 char ret_token[static 128])
{
    struct thole_status st = {0};
    struct bus_channel *channel = NULL;
    struct buf *reply = NULL;
    upb_Arena *arena = upb_Arena_New();
    thole_v1_ListEventsRequest *q = thole_v1_ListEventsRequest_new(arena);
    thole_v1_ListEventsRequest_set_after_revision(q, after);
    thole_v1_ListEventsRequest_set_page_size(q, 1);
    thole_v1_ListEventsRequest_set_page_token(q, upb_StringView_FromString(token));
    size_t size = 0;
    char *bytes = thole_v1_ListEventsRequest_serialize(q, arena, &size);
    assert_int_equal(bus_channel_new(c->hosts[0].address, &channel, &st), THOLE_OK);
    enum thole_code code = bus_channel_call(channel, "/thole.v1.Events/ListEvents",
                                            slice_of(bytes, size), 10000, &reply, &st);
    if (code == THOLE_OK) {
        const thole_v1_ListEventsResponse *m =
            PROTO_DECODE(thole_v1_ListEventsResponse, slice_of(reply->data, reply->size), arena);
        upb_StringView next = thole_v1_ListEventsResponse_next_page_token(m);
        assert_true(next.size > 0 && next.size < 128);
        snprintf(ret_token, 128, "%.*s", (int)next.size, next.data);
        buf_unref(reply);
    } else {
        assert_int_equal(st.reason, THOLE_REASON_COMPACTED);
    }
    bus_channel_free(channel);
    upb_Arena_Free(arena);
    return code;
}

/* The command line reports the gap in one line and continues with the oldest event that is kept. */
static void expect_told(struct cluster *c, uint64_t after)
{
    static char out[4 * 1024 * 1024];
    assert_int_equal(
        cli(c, 0, out, sizeof out, "get events --since-revision %" PRIu64 " --limit 20", after), 0);
    assert_int_equal(count_lines(out, "were dropped: the oldest kept event"), 1);
    assert_int_equal(count_lines(out, "shards/many-"), 20);
    /* A watch never ends by itself: `head` closes its output. */
    (void)cli(c, 0, out, sizeof out,
              "--version; timeout 60 '%s' --endpoints %s get events -w --since-revision %" PRIu64
              " 2>&1 "
              "| head -n 30",
              THOLE_PATH, c->hosts[0].address, after);
    assert_int_equal(count_lines(out, "were dropped: the oldest kept event"), 1);
    assert_true(count_lines(out, "shards/many-") > 0);
}

/* A pool of shards that no host can take makes an event for each shard, and no replicas. */
static void test_events_that_are_no_longer_kept_are_refused(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    size_t n = 0;
    uint64_t early = 0, newest = 0;
    char path[256], token[128], other[128];
    cluster_start_dev(c);
    apply_yaml(c, 0, "kind: Shard\nname: one\nspec: {type: kv, voters: 1}\n");
    assert_int_equal(watch_once(c, 0, "", &n, &early), THOLE_OK);
    assert_int_equal(list_once(c, 0, "", token), THOLE_OK);
    snprintf(path, sizeof path, "%s/pool.yaml", c->dir);
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    assert_true(fputs("kind: ShardPool\nname: many\nspec:\n  count: 10500\n  shard:\n    type: kv\n"
                      "    voters: 1\n    constraints: [{key: nowhere, operator: EXISTS}]\n",
                      f) >= 0);
    assert_int_equal(fclose(f), 0);
    cli_ok(c, 0, "apply -f %s", path);
    expect_lines(c, 0, "get pool many", " 10500   10500 ", 1); /* wanted, and made */
    assert_int_equal(watch_once(c, early, "", &n, &newest), THOLE_OUT_OF_RANGE);
    assert_int_equal(list_once(c, early, "", other), THOLE_OUT_OF_RANGE);
    assert_int_equal(list_once(c, 0, token, other), THOLE_OUT_OF_RANGE); /* the next page */
    expect_told(c, early);
    /* A list from the beginning has as many events as are kept, and a watch continues from
     * there. */
    assert_int_equal(watch_once(c, 0, "", &n, &newest), THOLE_OK);
    assert_true(n > 9000 && n <= 10000);
    assert_int_equal(watch_once(c, newest, "", &n, &newest), THOLE_OK);
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_events_are_resumed_by_revision_and_by_object),
        cmocka_unit_test(test_events_that_are_no_longer_kept_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
