/* What a client can tell of a broken call: whether the server may have received it. */
#include <stdio.h>
#include <stdlib.h>

#include "bus/test/fixture.h"
#include "bus/test/proxy.h"

/* A bus behind a proxy, with one method that never replies by itself. */
struct scene {
    pthread_mutex_t mutex; /* below */
    struct bus_rpc *held[4];
    int held_count;

    struct host *h;
    struct proxy *proxy;
    struct bus_channel *c;
};

static void hold(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    struct scene *s = ctx;
    (void)message;
    pthread_mutex_lock(&s->mutex);
    ASSERT(s->held_count < 4);
    s->held[s->held_count++] = rpc;
    pthread_mutex_unlock(&s->mutex);
}

static struct scene *scene_new(bool two_addresses)
{
    struct scene *s = calloc(1, sizeof *s);
    struct thole_status st;
    char list[256];
    pthread_mutex_init(&s->mutex, NULL);
    s->h = host_alloc();
    struct bus_options o = host_options(s->h, 1, 9, 1, "127.0.0.1:0");
    assert_int_equal(bus_new(&o, &s->h->bus, &st), THOLE_OK);
    const struct bus_method methods[] = {
        {"/test.Test/Hold", BUS_RPC_UNARY, s, hold, NULL, 0},
        {"/test.Test/Watch", BUS_RPC_SERVER_STREAM, s, hold, NULL, 0},
    };
    bus_register(s->h->bus, methods, 2);
    bus_start(s->h->bus);
    s->proxy = proxy_new(bus_port(s->h->bus));
    snprintf(list, sizeof list, "%s%s", s->proxy->address, two_addresses ? ",127.0.0.1:1" : "");
    assert_int_equal(bus_channel_new(list, &s->c, &st), THOLE_OK);
    return s;
}

static void cut(struct scene *s)
{
    proxy_free(s->proxy);
    s->proxy = NULL;
}

static void scene_free(struct scene *s)
{
    if (s->proxy != NULL) {
        cut(s);
    }
    bus_channel_free(s->c);
    for (int i = 0; i < s->held_count; i++) {
        bus_rpc_reply(s->held[i], body_of("late"));
    }
    host_free(s->h);
    pthread_mutex_destroy(&s->mutex);
    free(s);
}

static void on_reply(void *ctx, const struct thole_status *st, struct bufslice reply)
{
    on_answer(ctx, st, reply, false);
}

static void call_that_breaks(bool two_addresses)
{
    struct scene *s = scene_new(two_addresses);
    struct outcome o, p;
    outcome_init(&o);
    bus_channel_call_async(s->c, "/test.Test/Hold", body_of("x"), 0, on_reply, &o);
    eventually(s, s->held_count == 1);
    cut(s);
    eventually(&o, o.done);
    assert_int_equal(o.st.code, THOLE_UNKNOWN);
    assert_int_equal(o.st.reason, THOLE_REASON_OUTCOME_UNKNOWN);
    /* Once the channel has noticed the cut, the next call is certain not to be sent. */
    do {
        outcome_init(&p);
        bus_channel_call_async(s->c, "/test.Test/Hold", body_of("x"), 0, on_reply, &p);
        eventually(&p, p.done);
    } while (p.st.reason == THOLE_REASON_OUTCOME_UNKNOWN);
    assert_int_equal(p.st.code, THOLE_UNAVAILABLE);
    assert_int_equal(p.st.reason, THOLE_REASON_UNREACHABLE);
    scene_free(s);
}

static void test_call_whose_connection_breaks_has_unknown_outcome(void **state)
{
    (void)state;
    call_that_breaks(false);
}

static void test_call_to_several_addresses_that_breaks_has_unknown_outcome(void **state)
{
    (void)state;
    call_that_breaks(true);
}

static void test_blocking_call_that_was_sent_times_out_with_unknown_outcome(void **state)
{
    (void)state;
    struct scene *s = scene_new(false);
    struct buf *reply;
    struct thole_status st;
    assert_int_equal(bus_channel_call(s->c, "/test.Test/Hold", slice_str("x"), 1000, &reply, &st),
                     THOLE_DEADLINE_EXCEEDED);
    assert_int_equal(locked(s, s->held_count), 1);
    assert_int_equal(st.reason, THOLE_REASON_OUTCOME_UNKNOWN);
    scene_free(s);
}

static void test_stream_that_breaks_has_unknown_outcome(void **state)
{
    (void)state;
    struct scene *s = scene_new(false);
    struct bus_stream *stream;
    struct buf *m;
    struct thole_status st;
    assert_int_equal(bus_channel_stream(s->c, "/test.Test/Watch", slice_str("x"), &stream, &st),
                     THOLE_OK);
    eventually(s, s->held_count == 1);
    cut(s);
    assert_int_equal(bus_stream_next(stream, WAIT_MS, &m, &st), THOLE_UNKNOWN);
    assert_int_equal(st.reason, THOLE_REASON_OUTCOME_UNKNOWN);
    bus_stream_free(stream);
    scene_free(s);
}

static void test_stream_that_cannot_connect_is_unreachable(void **state)
{
    (void)state;
    struct bus_channel *c;
    struct bus_stream *stream;
    struct buf *m;
    struct thole_status st;
    assert_int_equal(bus_channel_new("127.0.0.1:1", &c, &st), THOLE_OK);
    assert_int_equal(bus_channel_stream(c, "/test.Test/Watch", slice_str("x"), &stream, &st),
                     THOLE_OK);
    assert_int_equal(bus_stream_next(stream, WAIT_MS, &m, &st), THOLE_UNAVAILABLE);
    assert_int_equal(st.reason, THOLE_REASON_UNREACHABLE);
    bus_stream_free(stream);
    bus_channel_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_call_whose_connection_breaks_has_unknown_outcome),
        cmocka_unit_test(test_call_to_several_addresses_that_breaks_has_unknown_outcome),
        cmocka_unit_test(test_blocking_call_that_was_sent_times_out_with_unknown_outcome),
        cmocka_unit_test(test_stream_that_breaks_has_unknown_outcome),
        cmocka_unit_test(test_stream_that_cannot_connect_is_unreachable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
