/* Frames between hosts: order, bounds, reconnection, and refused peers. */
#include "bus/test/fixture.h"
#include "bus/test/proxy.h"

#include <stdio.h>
#include <stdlib.h>

static void send_all(struct host *a, const struct host *b, enum bus_lane lane, uint64_t n,
                     size_t size)
{
    for (uint64_t i = 0; i < n; i++) {
        for (;;) {
            struct buf *f = buf_new(size);
            memset(f->data, 7, size);
            put_le64(f->data, i);
            enum thole_code code =
                bus_send(a->bus, &b->id, lane, (struct bufslice){f, {f->data, size}});
            if (code == THOLE_OK) {
                break;
            }
            assert_int_equal(code, THOLE_RESOURCE_EXHAUSTED);
            pause_ms(1);
        }
    }
}

static void test_lanes_under_load_keep_order(void **state)
{
    (void)state;
    struct host *a = host_new(1, 9, 1, NULL), *b = host_new(2, 9, 1, NULL);
    host_knows(a, b);
    eventually(a, a->ups == 1);
    assert_true(bus_peer_up(a->bus, &b->id));
    send_all(a, b, BUS_LANE_APPEND, 20000, 64);
    send_all(a, b, BUS_LANE_CONTROL, 20000, 20);
    eventually(b, b->frames == 40000);
    for (int i = 0; i < 100; i++) { /* its connection may come up a little later */
        if (bus_send(a->bus, &b->id, BUS_LANE_SNAPSHOT, body_of("12345678")) != THOLE_OK) {
            pause_ms(10);
        } else {
            break;
        }
    }
    eventually(b, b->frames == 40001);
    assert_int_equal(locked(b, b->disorder), 1); /* the last one's number */
    host_free(a);
    host_free(b);
}

static void test_large_frames_arrive_whole(void **state)
{
    (void)state;
    struct host *a = host_new(1, 9, 1, NULL), *b = host_new(2, 9, 1, NULL);
    host_knows(a, b);
    eventually(a, a->ups == 1);
    send_all(a, b, BUS_LANE_APPEND, 8, 4 * 1024 * 1024);
    eventually(b, b->frames == 8);
    assert_int_equal(locked(b, b->disorder), 0);
    assert_int_equal(locked(b, b->bytes), 8 * 4 * 1024 * 1024);
    host_free(a);
    host_free(b);
}

static void test_oversize_frame_is_refused(void **state)
{
    (void)state;
    struct host *a = host_new(1, 9, 1, NULL), *b = host_new(2, 9, 1, NULL);
    host_knows(a, b);
    eventually(a, a->ups == 1);
    struct buf *f = buf_new(4 * 1024 * 1024 + 1);
    memset(f->data, 0, f->size);
    assert_int_equal(
        bus_send(a->bus, &b->id, BUS_LANE_APPEND, (struct bufslice){f, {f->data, f->size}}),
        THOLE_RESOURCE_EXHAUSTED);
    frame_send(a, b, BUS_LANE_APPEND, 0, 8);
    eventually(b, b->frames == 1);
    host_free(a);
    host_free(b);
}

static void test_full_queue_refuses(void **state)
{
    (void)state;
    struct host *a = host_alloc(), *b = host_new(2, 9, 1, NULL);
    struct bus_options o = host_options(a, 1, 9, 1, "127.0.0.1:0");
    o.peer_queue_bytes = 256 * 1024;
    host_open(a, &o);
    host_knows(a, b);
    eventually(a, a->ups == 1);
    /* The receiver's thread blocks in its handler. */
    pthread_mutex_lock(&b->mutex);
    bool refused = false;
    uint64_t sent = 0;
    for (int i = 0; i < 100000 && !refused; i++) {
        struct buf *f = buf_new(65536);
        memset(f->data, 0, f->size);
        put_le64(f->data, sent);
        enum thole_code code =
            bus_send(a->bus, &b->id, BUS_LANE_APPEND, (struct bufslice){f, {f->data, f->size}});
        refused = code == THOLE_RESOURCE_EXHAUSTED;
        sent += code == THOLE_OK;
    }
    pthread_mutex_unlock(&b->mutex);
    assert_true(refused);
    eventually(b, b->frames == sent);
    assert_int_equal(locked(b, b->disorder), 0);
    host_free(a);
    host_free(b);
}

static void test_unknown_peer_drops(void **state)
{
    (void)state;
    struct host *a = host_new(1, 9, 1, NULL);
    struct uuid nobody = uuid_of(7);
    assert_int_equal(bus_send(a->bus, &nobody, BUS_LANE_CONTROL, body_of("x")), THOLE_UNAVAILABLE);
    assert_false(bus_peer_up(a->bus, &nobody));
    struct thole_status st;
    struct uuid nil = uuid_of(0);
    assert_int_equal(bus_peer_set(a->bus, &nil, "127.0.0.1:1", &st), THOLE_INVALID_ARGUMENT);
    assert_int_equal(bus_peer_set(a->bus, &nobody, "nonsense", &st), THOLE_INVALID_ARGUMENT);
    bus_peer_remove(a->bus, &nobody);
    host_free(a);
}

static void test_frames_to_self_loop_back(void **state)
{
    (void)state;
    struct host *a = host_new(1, 9, 5, NULL);
    assert_true(bus_peer_up(a->bus, &a->id));
    for (uint64_t i = 0; i < 1000; i++) {
        frame_send(a, a, BUS_LANE_CONTROL, i, 16);
    }
    eventually(a, a->frames == 1000);
    assert_int_equal(locked(a, a->disorder), 0);
    assert_int_equal(locked(a, a->last_incarnation), 5);
    host_free(a);
}

static void test_restarted_peer_is_reconnected(void **state)
{
    (void)state;
    struct host *a = host_new(1, 9, 1, NULL), *b = host_new(2, 9, 1, NULL);
    host_knows(a, b);
    eventually(a, a->ups == 1);
    char address[64];
    memcpy(address, b->address, sizeof address);
    host_free(b);
    eventually(a, a->downs == 1);
    b = host_new(2, 9, 2, address);
    uint64_t began = now_ms();
    eventually(a, a->ups == 2);
    assert_true(now_ms() - began < 5000);
    assert_int_equal(locked(a, a->up_incarnation), 2);
    frame_send(a, b, BUS_LANE_APPEND, 0, 8);
    eventually(b, b->frames == 1);
    host_free(a);
    host_free(b);
}

static void test_late_peer_and_moved_peer_are_found(void **state)
{
    (void)state;
    struct host *a = host_new(1, 9, 1, NULL), *b = host_new(2, 9, 1, NULL);
    struct thole_status st;
    assert_int_equal(bus_peer_set(a->bus, &b->id, "127.0.0.1:1", &st), THOLE_OK);
    host_knows(a, b);
    eventually(a, a->ups == 1);
    struct host *c = host_new(2, 9, 2, NULL); /* the same host at another address */
    host_knows(a, c);
    eventually(a, a->ups == 2);
    frame_send(a, c, BUS_LANE_CONTROL, 0, 8);
    eventually(c, c->frames == 1);
    bus_peer_remove(a->bus, &b->id);
    eventually(a, a->downs == 2);
    assert_int_equal(bus_send(a->bus, &b->id, BUS_LANE_CONTROL, body_of("x")), THOLE_UNAVAILABLE);
    host_free(a);
    host_free(b);
    host_free(c);
}

/* ---- A network that falls silent ------------------------------------------------------------- */

static void test_silent_peer_is_down_and_comes_back(void **state)
{
    (void)state;
    struct host *a = host_new(1, 9, 1, NULL), *b = host_new(2, 9, 1, NULL);
    struct proxy *p = proxy_new(bus_port(b->bus));
    struct thole_status st;
    struct outcome o;
    assert_int_equal(bus_peer_set(a->bus, &b->id, p->address, &st), THOLE_OK);
    eventually(a, a->ups >= 1);
    ask(a, b, METHOD_HOLD, "", 0, &o);
    eventually(b, b->held_count >= 1);
    int downs = locked(a, a->downs);
    uint64_t began = now_ms();
    atomic_store(&p->frozen, true);
    eventually(a, a->downs > downs);
    assert_true(now_ms() - began < 10000); /* 1.5 s on an idle machine */
    eventually(&o, o.done);
    assert_int_equal(o.st.reason, THOLE_REASON_OUTCOME_UNKNOWN);
    int ups = locked(a, a->ups);
    atomic_store(&p->frozen, false);
    eventually(a, a->ups > ups);
    host_free(a);
    host_free(b);
    proxy_free(p);
}

/* An exchange that is refused together with the peer's streams reports that it was not
 * delivered. */
static void expect_refused(struct host *a, struct host *b)
{
    struct outcome o;
    host_knows(a, b);
    ask(a, b, METHOD_ECHO, "hello", 0, &o);
    eventually(&o, o.done);
    assert_int_equal(o.st.code, THOLE_UNAVAILABLE);
    assert_int_equal(o.st.reason, THOLE_REASON_UNREACHABLE);
    assert_false(bus_peer_up(a->bus, &b->id));
    assert_int_equal(locked(a, a->ups), 0);
    assert_int_equal(locked(b, b->requests), 0);
}

static void test_wrong_cluster_is_refused(void **state)
{
    (void)state;
    struct host *a = host_new(1, 8, 1, NULL), *b = host_new(2, 9, 1, NULL);
    expect_refused(a, b);
    struct uuid right = uuid_of(9);
    bus_set_cluster(a->bus, &right);
    eventually(a, a->ups == 1);
    host_free(a);
    host_free(b);
}

static void test_wrong_host_is_refused(void **state)
{
    (void)state;
    struct host *a = host_new(1, 9, 1, NULL), *b = host_new(2, 9, 1, NULL);
    b->id = uuid_of(3); /* the id that a expects */
    expect_refused(a, b);
    host_free(a);
    host_free(b);
}

static void test_stale_incarnation_is_refused(void **state)
{
    (void)state;
    struct host *old = host_new(1, 9, 4, NULL), *b = host_new(2, 9, 1, NULL);
    host_knows(old, b);
    eventually(old, old->ups == 1);
    struct host *young = host_new(1, 9, 5, NULL);
    host_knows(young, b);
    eventually(young, young->ups == 1);
    eventually(old, old->downs == 1); /* its streams were ended, and it may not reconnect */
    struct outcome o;
    do { /* its stream for exchanges may end a little later than its lanes */
        ask(old, b, METHOD_ECHO, "x", 0, &o);
        eventually(&o, o.done);
    } while (o.st.code != THOLE_UNAVAILABLE);
    assert_int_equal(o.st.reason, THOLE_REASON_UNREACHABLE);
    assert_true(bus_peer_up(young->bus, &b->id));
    host_free(old);
    host_free(young);
    host_free(b);
}

/* A host whose records are old accepts the copy of a disk. When it knows better, it must not refuse
 * the original for that. */
static void test_original_is_accepted_after_its_copy(void **state)
{
    (void)state;
    struct host *b = host_new(2, 9, 1, NULL), *copy = host_alloc(), *original = host_alloc();
    struct bus_options o = host_options(copy, 1, 9, 7, "127.0.0.1:0");
    o.lineage = (struct lineage){.start = 70, .oldest = 1, .count = 1, .before = {10}};
    host_open(copy, &o);
    host_knows(copy, b);
    eventually(copy, copy->ups == 1);
    o = host_options(original, 1, 9, 3, "127.0.0.1:0");
    o.lineage = (struct lineage){.start = 30, .oldest = 1, .count = 2, .before = {10, 20}};
    host_open(original, &o);
    host_knows(original, b);
    pause_ms(500);
    pthread_mutex_lock(&b->mutex);
    b->recorded_incarnation = 1; /* both follow this start: neither of them is told to end */
    b->recorded_number = 10;
    pthread_mutex_unlock(&b->mutex);
    pause_ms(500);
    assert_int_equal(original->refusals + original->ups, 0);
    pthread_mutex_lock(&b->mutex);
    b->recorded_incarnation = 2;
    b->recorded_number = 20;
    pthread_mutex_unlock(&b->mutex);
    eventually(original, original->ups == 1);
    eventually(copy, copy->downs == 1 && copy->refusals > 0);
    host_free(copy);
    host_free(original);
    host_free(b);
}

static void test_admit_refuses(void **state)
{
    (void)state;
    struct host *a = host_new(1, 9, 1, NULL), *b = host_new(2, 9, 1, NULL);
    b->refuse = THOLE_PERMISSION_DENIED;
    expect_refused(a, b);
    host_free(a);
    host_free(b);
}

static void test_stop_with_peers_connected_takes_no_grace(void **state)
{
    (void)state;
    struct host *a = host_new(1, 9, 1, NULL), *b = host_new(2, 9, 1, NULL);
    struct outcome o;
    host_knows(a, b);
    host_knows(b, a);
    eventually(a, a->ups == 1);
    eventually(b, b->ups == 1);
    ask(b, a, METHOD_ECHO, "x", 0, &o);
    eventually(&o, o.done);
    ask(a, b, METHOD_ECHO, "x", 0, &o);
    eventually(&o, o.done);
    uint64_t began = now_ms();
    bus_stop(a->bus, WAIT_MS);
    assert_true(now_ms() - began < WAIT_MS / 2);
    eventually(b, b->downs == 1);
    host_free(a);
    host_free(b);
}

/* A connection attempt may be under way on the loop while the bus stops. It must not start a batch
 * on a queue that was shut down, which would abort the process. */
static void test_bus_that_stops_while_it_connects_ends_well(void **state)
{
    (void)state;
    for (int round = 0; round < 200; round++) {
        /* Without a server, which would take time to stop. */
        const struct bus_options o = {.advertise_address = "127.0.0.1:2",
                                      .host_id = uuid_random(),
                                      .cluster_id = uuid_random(),
                                      .incarnation = 1,
                                      .version = "test",
                                      .clock = &clock_system};
        struct bus *b = NULL;
        struct thole_status st;
        assert_int_equal(bus_new(&o, &b, &st), THOLE_OK);
        bus_start(b);
        for (int i = 0; i < 8; i++) {
            struct uuid host = uuid_random();
            assert_int_equal(bus_peer_set(b, &host, "127.0.0.1:1", &st), THOLE_OK);
        }
        bus_stop(b, 0);
        bus_free(b);
    }
}

/* Incarnations are counted by starts: accepting a number that was never reached would lock out the
 * host itself. */
static void test_a_made_up_incarnation_is_refused(void **state)
{
    (void)state;
    struct host *a = host_new(1, 9, 1, NULL), *b = host_new(2, 9, 3, NULL);
    host_knows(a, b);
    host_knows(b, a);
    eventually(b, b->ups == 1);
    struct host *liar = host_alloc();
    struct bus_options o = host_options(liar, 1, 9, UINT64_MAX, "127.0.0.1:0");
    struct thole_status st = {0};
    host_open(liar, &o);
    assert_int_equal(
        bus_ask(liar->bus, b->address, METHOD_ECHO, slice_str("x"), WAIT_MS, NULL, NULL, &st),
        THOLE_INVALID_ARGUMENT);
    assert_non_null(strstr(st.message, "is made up"));
    host_knows(liar, b);
    struct outcome out;
    ask(liar, b, METHOD_ECHO, "hello", 500, &out);
    eventually(&out, out.done);
    assert_int_not_equal(out.st.code, THOLE_OK);
    host_free(liar);
    struct outcome good;
    ask(a, b, METHOD_ECHO, "hello", WAIT_MS, &good);
    eventually(&good, good.done);
    assert_int_equal(good.st.code, THOLE_OK);
    assert_int_equal(locked(b, b->downs), 0);
    host_free(a);
    host_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bus_that_stops_while_it_connects_ends_well),
        cmocka_unit_test(test_lanes_under_load_keep_order),
        cmocka_unit_test(test_large_frames_arrive_whole),
        cmocka_unit_test(test_oversize_frame_is_refused),
        cmocka_unit_test(test_full_queue_refuses),
        cmocka_unit_test(test_unknown_peer_drops),
        cmocka_unit_test(test_frames_to_self_loop_back),
        cmocka_unit_test(test_restarted_peer_is_reconnected),
        cmocka_unit_test(test_late_peer_and_moved_peer_are_found),
        cmocka_unit_test(test_silent_peer_is_down_and_comes_back),
        cmocka_unit_test(test_wrong_cluster_is_refused),
        cmocka_unit_test(test_wrong_host_is_refused),
        cmocka_unit_test(test_stale_incarnation_is_refused),
        cmocka_unit_test(test_original_is_accepted_after_its_copy),
        cmocka_unit_test(test_admit_refuses),
        cmocka_unit_test(test_stop_with_peers_connected_takes_no_grace),
        cmocka_unit_test(test_a_made_up_incarnation_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
