/* Exchanges and asks: replies, failures, cancellation, deadlines, and peers that disconnect. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "bus/bus_internal.h"
#include "bus/test/fixture.h"

/* A busy machine may need more than one attempt. */
static void reach(struct host *a, struct host *b)
{
    struct outcome o;
    host_knows(a, b);
    do {
        ask(a, b, METHOD_ECHO, "", 0, &o);
        eventually(&o, o.done);
        pause_ms(1);
    } while (o.st.code != THOLE_OK);
}

static void test_answers_failures_and_watches(void **state)
{
    (void)state;
    struct host *a = host_new(1, 9, 1, NULL), *b = host_new(2, 9, 1, NULL);
    struct outcome o, p, q, r, s;
    host_knows(a, b); /* sent before the peer is connected: waits */
    ask(a, b, METHOD_ECHO, "hello", 0, &o);
    ask(a, b, METHOD_FAIL, "", 0, &p);
    ask(a, b, METHOD_THREE, "", 0, &q);
    ask(a, b, METHOD_DEADLINE, "", 5000, &r);
    ask(a, b, METHOD_FROM, "", 0, &s);
    eventually(&o, o.done);
    assert_int_equal(o.st.code, THOLE_OK);
    assert_string_equal(o.body, "hello");
    eventually(&p, p.done);
    assert_int_equal(p.st.code, THOLE_ABORTED);
    assert_int_equal(p.st.reason, THOLE_REASON_ETAG_MISMATCH);
    assert_string_equal(p.st.message, "no");
    eventually(&q, q.done);
    assert_int_equal(q.answers, 2);
    assert_string_equal(q.body, "2");
    eventually(&r, r.done);
    assert_string_equal(r.body, "some");
    eventually(&s, s.done);
    assert_int_equal(s.size, 16);
    assert_memory_equal(s.body, a->id.bytes, 16);
    host_free(a);
    host_free(b);
}

static void test_many_at_once_are_matched(void **state)
{
    (void)state;
    enum { N = 5000 };
    struct host *a = host_new(1, 9, 1, NULL), *b = host_new(2, 9, 1, NULL);
    struct outcome *all = calloc(N, sizeof *all);
    reach(a, b);
    for (int i = 0; i < N; i++) {
        char body[1500];
        snprintf(body, sizeof body, "%d", i);
        if (i % 7 == 0) { /* some of them large enough to be referenced, not copied */
            memset(body, 'a' + i % 26, sizeof body);
            body[sizeof body - 1] = '\0';
        }
        ask(a, b, METHOD_ECHO, body, 0, &all[i]);
    }
    for (int i = 0; i < N; i++) {
        eventually(&all[i], all[i].done);
        assert_int_equal(all[i].st.code, THOLE_OK);
        if (i % 7 == 0) {
            assert_int_equal(all[i].size, 1499);
            assert_int_equal(all[i].body[1000], 'a' + i % 26);
        } else {
            assert_int_equal(atoi(all[i].body), i);
        }
    }
    assert_true(locked(b, b->requests) > N);
    free(all);
    host_free(a);
    host_free(b);
}

static void test_large_bodies(void **state)
{
    (void)state;
    struct host *a = host_new(1, 9, 1, NULL), *b = host_new(2, 9, 1, NULL);
    struct outcome o[3];
    reach(a, b);
    eventually(a, a->ups == 1);
    for (int i = 0; i < 3; i++) {
        struct buf *big = buf_new(4 * 1024 * 1024 + (i == 2));
        memset(big->data, 'b', big->size);
        outcome_init(&o[i]);
        bus_exchange(a->bus, &b->id, METHOD_ECHO, (struct bufslice){big, {big->data, big->size}}, 0,
                     on_answer, &o[i]);
    }
    for (int i = 0; i < 2; i++) {
        eventually(&o[i], o[i].done);
        assert_int_equal(o[i].st.code, THOLE_OK);
        assert_int_equal(o[i].size, 4 * 1024 * 1024);
    }
    eventually(&o[2], o[2].done);
    assert_int_equal(o[2].st.code, THOLE_RESOURCE_EXHAUSTED);
    assert_int_equal(o[2].st.reason, THOLE_REASON_TOO_LARGE);
    host_free(a);
    host_free(b);
}

static uint64_t cpu_ms(void)
{
    struct timespec t;
    assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t), 0);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* A client with 60,000 watches disconnects. */
static void test_many_open_requests_of_a_lost_caller_are_cancelled_quickly(void **state)
{
    (void)state;
    enum { N = 60000 };
    struct host *a = host_new(1, 9, 1, NULL), *b = host_new(2, 9, 1, NULL);
    struct outcome *all = calloc(N, sizeof *all);
    reach(a, b);
    for (int i = 0; i < N; i++) {
        ask(a, b, METHOD_HOLD, "", 0, &all[i]);
    }
    eventually(b, b->held_count == N);
    uint64_t begin = cpu_ms();
    host_free(a);
    eventually(b, b->cancels == N);
    assert_true(cpu_ms() - begin < 2000);
    host_free(b);
    free(all);
}

/* Host ids cost nothing to forge. Forged ids must not fill a host's memory, nor evict its real
 * peers. */
static void test_forged_host_ids_are_forgotten_before_peers(void **state)
{
    (void)state;
    enum { N = 3000 };
    struct host *b = host_new(2, 9, 1, NULL), *peer = host_new(3, 9, 7, NULL);
    reach(b, peer); /* b has seen a's start 7 */
    uint64_t begin = cpu_ms();
    for (int i = 0; i < N; i++) {
        struct bus_hello h = {.cluster = uuid_of(9), .incarnation = 1};
        struct thole_status st;
        put_le32(h.host.bytes, (uint32_t)i + 1);
        assert_int_equal(bus__admit(b->bus, &h, NULL, "", true, &st), THOLE_OK);
    }
    assert_true(cpu_ms() - begin < 2000);
    assert_in_range(locked(b->bus, b->bus->seen_count), 1024, 1026);
    struct bus_hello old = {.host = peer->id, .cluster = uuid_of(9), .incarnation = 6};
    struct thole_status st;
    /* Not final, because the registry has recorded neither start. */
    assert_int_equal(bus__admit(b->bus, &old, NULL, "", true, &st), THOLE_UNAVAILABLE);
    assert_int_equal(st.reason, THOLE_REASON_NOT_READY);
    host_free(peer);
    host_free(b);
}

static void test_cancel_reaches_the_callee(void **state)
{
    (void)state;
    struct host *a = host_new(1, 9, 1, NULL), *b = host_new(2, 9, 1, NULL);
    struct outcome o;
    reach(a, b);
    uint64_t id = ask(a, b, METHOD_HOLD, "", 0, &o);
    eventually(b, b->held_count == 1);
    bus_exchange_cancel(a->bus, &b->id, id);
    eventually(&o, o.done);
    assert_int_equal(o.st.code, THOLE_CANCELLED);
    assert_int_equal(o.st.reason, THOLE_REASON_OUTCOME_UNKNOWN);
    eventually(b, b->cancels == 1);
    host_release(b); /* goes nowhere */
    bus_exchange_cancel(a->bus, &b->id, id);
    bus_exchange_cancel(a->bus, &b->id, 12345);
    ask(a, b, METHOD_ECHO, "still there", 0, &o);
    eventually(&o, o.done);
    assert_string_equal(o.body, "still there");
    host_free(a);
    host_free(b);
}

static void test_time_limit(void **state)
{
    (void)state;
    struct host *a = host_new(1, 9, 1, NULL), *b = host_new(2, 9, 1, NULL);
    struct outcome o;
    reach(a, b);
    eventually(a, a->ups == 1);
    uint64_t began = now_ms();
    ask(a, b, METHOD_HOLD, "", 100, &o);
    eventually(&o, o.done);
    assert_true(now_ms() - began >= 99);
    assert_int_equal(o.st.code, THOLE_DEADLINE_EXCEEDED);
    assert_int_equal(o.st.reason, THOLE_REASON_OUTCOME_UNKNOWN);
    eventually(b, b->cancels == 1);
    host_free(a);
    host_free(b);
}

static void test_killed_peer_leaves_the_outcome_unknown(void **state)
{
    (void)state;
    struct host *a = host_new(1, 9, 1, NULL), *b = host_new(2, 9, 1, NULL);
    struct outcome o, later;
    reach(a, b);
    ask(a, b, METHOD_HOLD, "", 0, &o);
    eventually(b, b->held_count == 1);
    struct host gone = *b;
    host_free(b);
    eventually(&o, o.done);
    assert_int_equal(o.st.code, THOLE_UNKNOWN);
    assert_int_equal(o.st.reason, THOLE_REASON_OUTCOME_UNKNOWN);
    ask(a, &gone, METHOD_ECHO, "", 0, &later);
    eventually(&later, later.done);
    assert_int_equal(later.st.code, THOLE_UNAVAILABLE);
    assert_int_equal(later.st.reason, THOLE_REASON_UNREACHABLE);
    host_free(a);
}

static void test_removed_or_unknown_peer_fails_them(void **state)
{
    (void)state;
    struct host *a = host_new(1, 9, 1, NULL), *b = host_new(2, 9, 1, NULL);
    struct outcome o;
    ask(a, b, METHOD_ECHO, "", 0, &o);
    eventually(&o, o.done);
    assert_int_equal(o.st.reason, THOLE_REASON_UNREACHABLE);
    reach(a, b);
    ask(a, b, METHOD_HOLD, "", 0, &o);
    eventually(b, b->held_count == 1);
    bus_peer_remove(a->bus, &b->id);
    eventually(&o, o.done);
    assert_int_equal(o.st.reason, THOLE_REASON_OUTCOME_UNKNOWN);
    eventually(b, b->cancels == 1);
    host_free(a);
    host_free(b);
}

static void test_caller_that_stops_reading_slows_the_callee(void **state)
{
    (void)state;
    struct host *a = host_new(1, 9, 1, NULL), *b = host_new(2, 9, 1, NULL);
    struct outcome o;
    reach(a, b);
    ask(a, b, METHOD_FLOOD, "", 0, &o);
    eventually(&o, o.done);
    assert_string_equal(o.body, "full");
    host_free(a);
    host_free(b);
}

static void test_exchange_with_self(void **state)
{
    (void)state;
    struct host *a = host_new(1, 9, 1, NULL);
    struct outcome o;
    ask(a, a, METHOD_ECHO, "me", 0, &o);
    eventually(&o, o.done);
    assert_string_equal(o.body, "me");
    ask(a, a, METHOD_THREE, "", 0, &o);
    eventually(&o, o.done);
    assert_int_equal(o.answers, 2);
    ask(a, a, METHOD_FAIL, "", 0, &o);
    eventually(&o, o.done);
    assert_int_equal(o.st.reason, THOLE_REASON_ETAG_MISMATCH);
    ask(a, a, METHOD_HOLD, "", 50, &o);
    eventually(&o, o.done);
    assert_int_equal(o.st.code, THOLE_DEADLINE_EXCEEDED);
    eventually(a, a->cancels == 1);
    uint64_t id = ask(a, a, METHOD_HOLD, "", 0, &o);
    bus_exchange_cancel(a->bus, &a->id, id);
    eventually(&o, o.done);
    assert_int_equal(o.st.code, THOLE_CANCELLED);
    ask(a, a, METHOD_FLOOD, "", 0, &o);
    eventually(&o, o.done);
    assert_string_equal(o.body, "full");
    struct outcome last;
    ask(a, a, METHOD_HOLD, "", 0, &last); /* open when it stops */
    host_free(a);
    assert_true(last.done);
    assert_int_not_equal(last.st.code, THOLE_OK);
}

static void test_client_without_host_id(void **state)
{
    (void)state;
    struct host *b = host_new(2, 9, 1, NULL), *c = host_alloc();
    struct bus_options o = host_options(c, 0, 0, 0, NULL);
    host_open(c, &o);
    struct outcome out;
    reach(c, b);
    ask(c, b, METHOD_FROM, "", 1000, &out);
    eventually(&out, out.done);
    assert_int_equal(out.st.code, THOLE_OK);
    assert_int_equal(out.size, 0);
    eventually(c, c->ups == 1);
    host_free(c);
    host_free(b);
}

static enum thole_code ask_text(struct host *a, const char *address, uint32_t method,
                                const char *body, uint32_t timeout_ms, char *ret_text,
                                struct bus_ask_peer *ret_peer, struct thole_status *st)
{
    struct buf *reply = NULL;
    enum thole_code code =
        bus_ask(a->bus, address, method, slice_str(body), timeout_ms, &reply, ret_peer, st);
    if (code == THOLE_OK) {
        memcpy(ret_text, reply->data, reply->size);
        ret_text[reply->size] = '\0';
        buf_unref(reply);
    }
    return code;
}

static void test_ask(void **state)
{
    (void)state;
    struct host *a = host_new(1, 0, 1, NULL), *b = host_new(2, 9, 3, NULL);
    struct host *c = host_new(3, 8, 1, NULL);
    struct bus_ask_peer peer;
    struct thole_status st;
    char text[64];
    assert_int_equal(ask_text(a, b->address, METHOD_ECHO, "may I?", 2000, text, &peer, &st),
                     THOLE_OK);
    assert_string_equal(text, "may I?");
    assert_memory_equal(peer.host_id.bytes, b->id.bytes, 16);
    assert_int_equal(peer.cluster_id.bytes[0], 9);
    assert_int_equal(peer.incarnation, 3);
    assert_int_equal(ask_text(a, b->address, METHOD_FAIL, "", 2000, text, NULL, &st),
                     THOLE_ABORTED);
    assert_int_equal(st.reason, THOLE_REASON_ETAG_MISMATCH);
    assert_int_equal(ask_text(c, b->address, METHOD_ECHO, "", 2000, text, NULL, &st),
                     THOLE_FAILED_PRECONDITION);
    assert_int_equal(st.reason, THOLE_REASON_WRONG_CLUSTER);
    assert_int_equal(ask_text(a, "127.0.0.1:1", METHOD_ECHO, "", 2000, text, NULL, &st),
                     THOLE_UNAVAILABLE);
    assert_int_equal(st.reason, THOLE_REASON_UNREACHABLE);
    assert_int_equal(ask_text(a, b->address, METHOD_HOLD, "", 100, text, NULL, &st),
                     THOLE_DEADLINE_EXCEEDED);
    eventually(b, b->cancels == 1);
    host_free(a);
    host_free(b);
    host_free(c);
}

struct asker {
    struct host *from, *to;
    atomic_bool enough;
    struct thole_status last;
};

static void *ask_again_and_again(void *ctx)
{
    struct asker *a = ctx;
    char text[64];
    do {
        (void)ask_text(a->from, a->to->address, METHOD_HOLD, "", WAIT_MS, text, NULL, &a->last);
    } while (!atomic_load(&a->enough));
    return NULL;
}

static void test_ask_while_the_bus_stops_is_refused(void **state)
{
    (void)state;
    struct asker a = {.from = host_new(1, 9, 1, NULL), .to = host_new(2, 9, 1, NULL)};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, ask_again_and_again, &a), 0);
    eventually(a.to, a.to->held_count > 0);
    bus_stop(a.from->bus, 0);
    atomic_store(&a.enough, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(a.last.code, THOLE_UNAVAILABLE);
    assert_int_equal(a.last.reason, THOLE_REASON_STOPPED);
    host_free(a.from);
    host_free(a.to);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers_failures_and_watches),
        cmocka_unit_test(test_many_at_once_are_matched),
        cmocka_unit_test(test_large_bodies),
        cmocka_unit_test(test_many_open_requests_of_a_lost_caller_are_cancelled_quickly),
        cmocka_unit_test(test_forged_host_ids_are_forgotten_before_peers),
        cmocka_unit_test(test_cancel_reaches_the_callee),
        cmocka_unit_test(test_time_limit),
        cmocka_unit_test(test_killed_peer_leaves_the_outcome_unknown),
        cmocka_unit_test(test_removed_or_unknown_peer_fails_them),
        cmocka_unit_test(test_caller_that_stops_reading_slows_the_callee),
        cmocka_unit_test(test_exchange_with_self),
        cmocka_unit_test(test_client_without_host_id),
        cmocka_unit_test(test_ask),
        cmocka_unit_test(test_ask_while_the_bus_stops_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
