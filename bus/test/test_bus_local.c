/* Calls by other doors: all kinds, their bounds, refusals, cancellation and the end of the bus. */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/limits.h"
#include "base/metrics.h"
#include "bus/test/fixture.h"

struct world {
    struct host *h;
    pthread_mutex_t mutex; /* below */
    pthread_cond_t changed;
    uint64_t wakes;
    struct bus_rpc *held;
    bool cancelled, drained, full;
    bool released; /* the last call was */
    bool refuses;  /* authorise's answer */
    char seen[200];
};

static void lock(struct world *w)
{
    pthread_mutex_lock(&w->mutex);
}

static void unlock(struct world *w)
{
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->mutex);
}

/* ---- Methods --------------------------------------------------------------------------------- */

static void echo(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    struct world *w = ctx;
    struct slice shard = bus_rpc_metadata(rpc, "thole-shard");
    struct bus_identity id;
    bus_rpc_who(rpc, &id);
    lock(w);
    snprintf(w->seen, sizeof w->seen, "%s %.*s %.*s %d", bus_rpc_peer(rpc), (int)shard.size,
             (const char *)shard.data, (int)id.authorization.size,
             (const char *)id.authorization.data, (int)id.kind);
    unlock(w);
    struct buf *b = buf_copy(message.data, message.size);
    bus_rpc_reply(rpc, (struct bufslice){b, {b->data, b->size}});
}

static void fail_rich(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    struct thole_status st;
    (void)ctx;
    (void)message;
    thole_status_set(&st, THOLE_UNAVAILABLE, THOLE_REASON_NO_LEADER, __FILE__, __LINE__, "none");
    bus_rpc_fail(rpc, &st, 100, (const char *const[]){"leader", "h2", NULL});
}

static void note_cancel(void *ctx)
{
    struct world *w = ctx;
    lock(w);
    w->cancelled = true;
    unlock(w);
}

static void note_drained(void *ctx)
{
    struct world *w = ctx;
    lock(w);
    w->drained = true;
    unlock(w);
}

static void hold(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    struct world *w = ctx;
    (void)message;
    bus_rpc_on_cancel(rpc, note_cancel, w);
    lock(w);
    w->held = rpc;
    unlock(w);
}

static void flood(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    hold(ctx, rpc, message);
    bus_rpc_on_drained(rpc, note_drained, ctx);
    for (int i = 0; i < 1000; i++) {
        struct buf *b = buf_new(65536);
        memset(b->data, 0, b->size);
        if (!bus_rpc_send(rpc, (struct bufslice){b, {b->data, b->size}})) {
            struct world *w = ctx;
            lock(w);
            w->full = true;
            unlock(w);
            return;
        }
    }
    ASSERT(false);
}

static void bidi_message(void *ctx, struct bus_rpc *rpc, struct slice message)
{
    (void)ctx;
    struct buf *b = buf_copy(message.data, message.size);
    ASSERT(bus_rpc_send(rpc, (struct bufslice){b, {b->data, b->size}}));
}

static void bidi_end(void *ctx, struct bus_rpc *rpc)
{
    (void)ctx;
    bus_rpc_reply(rpc, (struct bufslice){0});
}

static enum thole_code authorise(void *ctx, struct bus_rpc *rpc, const char *path,
                                 struct bus_denial *ret)
{
    struct world *w = *(struct world **)ctx;
    (void)rpc;
    snprintf(ret->right, sizeof ret->right, "use of %s", path);
    return !w->refuses ? THOLE_OK
                       : THOLE_FAIL(&ret->st, THOLE_PERMISSION_DENIED, THOLE_REASON_NO_RIGHT, "no");
}

/* ---- A world --------------------------------------------------------------------------------- */

/* memory_bytes 0: the bus's usual amount. */
static struct world *world_of(size_t memory_bytes)
{
    static struct world *here;
    struct world *w = xcalloc(1, sizeof *w);
    struct thole_status st = {0};
    here = w;
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->changed, NULL);
    w->h = host_alloc();
    struct bus_options o = host_options(w->h, 1, 9, 1, "127.0.0.1:0");
    o.unary_slots = 4;
    o.memory_bytes = memory_bytes;
    o.handler = (struct bus_handler){.ctx = &here, .authorise = authorise};
    assert_int_equal(bus_new(&o, &w->h->bus, &st), THOLE_OK);
    const struct bus_method methods[] = {
        {.path = "/test.Test/Echo", .kind = BUS_RPC_UNARY, .ctx = w, .handle = echo},
        {.path = "/test.Test/Fail", .kind = BUS_RPC_UNARY, .ctx = w, .handle = fail_rich},
        {.path = "/test.Test/Hold", .kind = BUS_RPC_UNARY, .ctx = w, .handle = hold},
        {.path = "/test.Test/Watch", .kind = BUS_RPC_SERVER_STREAM, .ctx = w, .handle = hold},
        {.path = "/test.Test/Flood", .kind = BUS_RPC_SERVER_STREAM, .ctx = w, .handle = flood},
        {.path = "/test.Test/Bidi",
         .kind = BUS_RPC_BIDI_STREAM,
         .ctx = w,
         .handle = bidi_message,
         .end = bidi_end},
    };
    bus_register(w->h->bus, methods, sizeof methods / sizeof *methods);
    bus_start(w->h->bus);
    return w;
}

static struct world *world_new(void)
{
    return world_of(0);
}

static void world_free(struct world *w)
{
    bus_stop(w->h->bus, 0);
    bus_free(w->h->bus);
    pthread_mutex_destroy(&w->h->mutex);
    free(w->h);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->mutex);
    free(w);
}

static void wake(void *ctx)
{
    struct world *w = ctx;
    lock(w);
    w->wakes++;
    unlock(w);
}

static void released(void *ctx)
{
    struct world *w = ctx;
    lock(w);
    w->released = true;
    unlock(w);
}

static struct bus_call *begin_all(struct world *w, const char *path, const struct slice *messages,
                                  size_t count)
{
    const struct bus_header headers[] = {{"thole-shard", slice_str("orders")},
                                         {"authorization", slice_str("Bearer x")}};
    struct bus_call_options o = {.path = path,
                                 .peer = "ipv4:127.0.0.1:5",
                                 .headers = headers,
                                 .header_count = 2,
                                 .messages = messages,
                                 .message_count = count,
                                 .wake = wake,
                                 .released = released,
                                 .ctx = w};
    return bus_call_begin(w->h->bus, &o);
}

static struct bus_call *begin(struct world *w, const char *path, const char *const *texts)
{
    struct slice messages[4];
    size_t n = 0;
    for (; texts[n] != NULL; n++) {
        messages[n] = slice_str(texts[n]);
    }
    return begin_all(w, path, messages, n);
}

static struct bus_call *begin_one(struct world *w, const char *path)
{
    return begin(w, path, (const char *const[]){"hello", NULL});
}

/* The state once it is not `not`. */
static enum bus_call_state await(struct world *w, struct bus_call *c, enum bus_call_state not_this,
                                 struct bufslice *ret)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WAIT_MS / 1000;
    for (;;) {
        lock(w);
        uint64_t wakes = w->wakes;
        unlock(w);
        enum bus_call_state state = bus_call_take(c, ret);
        if (state != BUS_CALL_WAITS && state != not_this) {
            return state;
        }
        lock(w);
        while (w->wakes == wakes) {
            assert_int_equal(pthread_cond_timedwait(&w->changed, &w->mutex, &until), 0);
        }
        unlock(w);
    }
}

static void expect_message(struct world *w, struct bus_call *c, const char *text)
{
    struct bufslice m = {0};
    assert_int_equal(await(w, c, BUS_CALL_BEGUN, &m), BUS_CALL_MESSAGE);
    assert_true(slice_equal(m.bytes, slice_str(text)));
    bufslice_unref(m);
}

static void expect_end(struct world *w, struct bus_call *c, enum thole_code code,
                       enum thole_reason reason)
{
    struct bufslice m = {0};
    struct slice details;
    assert_int_equal(await(w, c, BUS_CALL_BEGUN, &m), BUS_CALL_ENDED);
    assert_int_equal(bus_call_status(c, &details)->code, code);
    assert_int_equal(bus_call_status(c, &details)->reason, reason);
    assert_int_equal(details.size > 0, code != THOLE_OK);
    bus_call_release(c);
}

static void await_flag(struct world *w, const bool *flag)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WAIT_MS / 1000;
    lock(w);
    while (!*flag) {
        assert_int_equal(pthread_cond_timedwait(&w->changed, &w->mutex, &until), 0);
    }
    unlock(w);
}

/* ---- Tests ----------------------------------------------------------------------------------- */

static void test_unary_calls_and_their_callers(void **state)
{
    (void)state;
    struct world *w = world_new();
    struct bus_call *c = begin_one(w, "/test.Test/Echo");
    expect_message(w, c, "hello");
    expect_end(w, c, THOLE_OK, THOLE_REASON_NONE);
    assert_string_equal(w->seen, "ipv4:127.0.0.1:5 orders Bearer x 0");
    expect_end(w, begin_one(w, "/test.Test/Fail"), THOLE_UNAVAILABLE, THOLE_REASON_NO_LEADER);
    expect_end(w, begin_one(w, "/test.Test/None"), THOLE_UNIMPLEMENTED, THOLE_REASON_NONE);
    world_free(w);
}

static bool has_line(const char *line)
{
    struct bytes text = {0};
    metrics_render(&text);
    bytes_append(&text, "", 1);
    bool found = strstr((const char *)text.data, line) != NULL;
    bytes_deinit(&text);
    return found;
}

static void test_unary_calls_are_in_the_metric_of_their_time(void **state)
{
    (void)state;
    struct world *w = world_new();
    char before[64], after[64];
    uint64_t n = 0;
    for (snprintf(before, sizeof before, "thole_rpc_unary_seconds_count 0\n"); !has_line(before);) {
        snprintf(before, sizeof before, "thole_rpc_unary_seconds_count %" PRIu64 "\n", ++n);
    }
    snprintf(after, sizeof after, "thole_rpc_unary_seconds_count %" PRIu64 "\n", n + 1);
    struct bus_call *c = begin_one(w, "/test.Test/Echo");
    expect_message(w, c, "hello");
    expect_end(w, c, THOLE_OK, THOLE_REASON_NONE);
    assert_true(has_line(after));
    c = begin(w, "/test.Test/Bidi", (const char *const[]){"a", NULL});
    expect_message(w, c, "a");
    expect_end(w, c, THOLE_OK, THOLE_REASON_NONE);
    assert_true(has_line(after));
    world_free(w);
}

static void test_methods_between_hosts_do_not_exist(void **state)
{
    (void)state;
    struct world *w = world_new();
    expect_end(w, begin_one(w, "/thole.bus.v1.Bus/Ask"), THOLE_UNIMPLEMENTED, THOLE_REASON_NONE);
    expect_end(w, begin_one(w, "/thole.bus.v1.Bus/Exchange"), THOLE_UNIMPLEMENTED,
               THOLE_REASON_NONE);
    world_free(w);
}

static void test_every_call_is_authorised(void **state)
{
    (void)state;
    static const char *const paths[] = {"/test.Test/Echo", "/test.Test/Watch", "/test.Test/Bidi"};
    struct world *w = world_new();
    w->refuses = true;
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        expect_end(w, begin_one(w, paths[i]), THOLE_PERMISSION_DENIED, THOLE_REASON_NO_RIGHT);
    }
    assert_string_equal(w->seen, "");
    world_free(w);
}

static void test_messages_in_both_directions(void **state)
{
    (void)state;
    struct world *w = world_new();
    struct bus_call *c = begin(w, "/test.Test/Bidi", (const char *const[]){"a", "b", "c", NULL});
    expect_message(w, c, "a");
    expect_message(w, c, "b");
    expect_message(w, c, "c");
    expect_end(w, c, THOLE_OK, THOLE_REASON_NONE);
    c = begin(w, "/test.Test/Bidi", (const char *const[]){NULL});
    expect_end(w, c, THOLE_OK, THOLE_REASON_NONE);
    world_free(w);
}

static void test_a_slow_door_meets_the_bound_and_the_handler_hears_of_room(void **state)
{
    (void)state;
    struct world *w = world_new();
    struct bus_call *c = begin_one(w, "/test.Test/Flood");
    struct bufslice m = {0};
    size_t bytes = 0;
    await_flag(w, &w->full);
    assert_int_equal(await(w, c, BUS_CALL_BEGUN, &m), BUS_CALL_MESSAGE);
    do {
        bytes += m.bytes.size;
        bufslice_unref(m);
    } while (await(w, c, BUS_CALL_WAITS, &m) == BUS_CALL_MESSAGE);
    assert_true(bytes >= 4 * MIB && bytes < 5 * MIB);
    await_flag(w, &w->drained);
    bus_call_release(c);
    await_flag(w, &w->cancelled);
    bus_rpc_reply(w->held, (struct bufslice){0});
    world_free(w);
}

static void test_streams_wait_for_memory_of_the_bus(void **state)
{
    (void)state;
    struct world *w = world_of(1 * MIB);
    struct bus_call *c = begin_one(w, "/test.Test/Flood");
    struct bufslice m = {0};
    size_t bytes = 0;
    await_flag(w, &w->full);
    assert_int_equal(await(w, c, BUS_CALL_BEGUN, &m), BUS_CALL_MESSAGE);
    do {
        bytes += m.bytes.size;
        bufslice_unref(m);
    } while (await(w, c, BUS_CALL_WAITS, &m) == BUS_CALL_MESSAGE);
    assert_int_equal(bytes, 1 * MIB);
    await_flag(w, &w->drained);
    bus_call_release(c);
    await_flag(w, &w->cancelled);
    bus_rpc_reply(w->held, (struct bufslice){0});
    world_free(w);
}

static void test_a_unary_answer_is_counted_once(void **state)
{
    (void)state;
    struct world *w = world_of(1 * MIB);
    uint8_t *large = xcalloc(1, 600 * KIB);
    struct slice messages[] = {slice_of(large, 600 * KIB), slice_of(large, 300 * KIB)};
    struct bus_call *calls[2];
    for (size_t i = 0; i < 2; i++) { /* they are answered in this order */
        calls[i] = begin_all(w, "/test.Test/Echo", &messages[i], 1);
    }
    for (size_t i = 2; i-- > 0;) {
        struct bufslice m = {0};
        assert_int_equal(await(w, calls[i], BUS_CALL_BEGUN, &m), BUS_CALL_MESSAGE);
        assert_true(slice_equal(m.bytes, messages[i]));
        bufslice_unref(m);
        expect_end(w, calls[i], THOLE_OK, THOLE_REASON_NONE);
    }
    free(large);
    world_free(w);
}

static void test_a_release_cancels_and_a_late_answer_is_dropped(void **state)
{
    (void)state;
    static const char *const paths[] = {"/test.Test/Hold", "/test.Test/Watch"};
    struct world *w = world_new();
    for (size_t i = 0; i < 2; i++) {
        w->held = NULL;
        w->cancelled = w->released = false;
        bus_call_release(begin_one(w, paths[i]));
        await_flag(w, &w->cancelled);
        bus_rpc_reply(w->held, i == 0 ? body_of("late") : (struct bufslice){0});
        await_flag(w, &w->released);
    }
    world_free(w);
}

static void test_calls_are_bounded(void **state)
{
    (void)state;
    struct world *w = world_new();
    struct bus_call *calls[4];
    struct bus_rpc *held[4];
    for (int i = 0; i < 4; i++) {
        w->held = NULL;
        calls[i] = begin_one(w, "/test.Test/Hold");
        for (bool there = false; !there;) {
            pause_ms(1);
            lock(w);
            there = w->held != NULL;
            held[i] = w->held;
            unlock(w);
        }
    }
    expect_end(w, begin_one(w, "/test.Test/Echo"), THOLE_RESOURCE_EXHAUSTED,
               THOLE_REASON_QUEUE_FULL);
    for (int i = 0; i < 4; i++) {
        bus_rpc_reply(held[i], body_of("x"));
        expect_message(w, calls[i], "x");
        expect_end(w, calls[i], THOLE_OK, THOLE_REASON_NONE);
    }
    struct bus_call *c = begin_one(w, "/test.Test/Echo");
    expect_message(w, c, "hello");
    expect_end(w, c, THOLE_OK, THOLE_REASON_NONE);
    world_free(w);
}

static void test_the_end_of_the_bus_ends_calls(void **state)
{
    (void)state;
    struct world *w = world_new();
    struct bus_call *c = begin_one(w, "/test.Test/Watch");
    struct bufslice m = {0};
    assert_int_equal(await(w, c, BUS_CALL_WAITS, &m), BUS_CALL_BEGUN);
    bus_stop(w->h->bus, 0);
    expect_end(w, c, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED);
    assert_true(w->cancelled);
    expect_end(w, begin_one(w, "/test.Test/Echo"), THOLE_UNAVAILABLE, THOLE_REASON_STOPPED);
    bus_rpc_reply(w->held, (struct bufslice){0});
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unary_calls_and_their_callers),
        cmocka_unit_test(test_unary_calls_are_in_the_metric_of_their_time),
        cmocka_unit_test(test_methods_between_hosts_do_not_exist),
        cmocka_unit_test(test_every_call_is_authorised),
        cmocka_unit_test(test_messages_in_both_directions),
        cmocka_unit_test(test_a_slow_door_meets_the_bound_and_the_handler_hears_of_room),
        cmocka_unit_test(test_streams_wait_for_memory_of_the_bus),
        cmocka_unit_test(test_a_unary_answer_is_counted_once),
        cmocka_unit_test(test_a_release_cancels_and_a_late_answer_is_dropped),
        cmocka_unit_test(test_calls_are_bounded),
        cmocka_unit_test(test_the_end_of_the_bus_ends_calls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
