/* All operations at once, from many threads, while one of three hosts is restarted again and again.
 * Each exchange ends exactly once, calls keep working, and stopping leaks nothing. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/rand.h"
#include "bus/test/fixture.h"

#define HOSTS 3
#define WORKERS 4
#define RUN_MS 2500

struct work {
    pthread_t thread;
    uint64_t seed;
};

static struct host *hosts[HOSTS]; /* the last host is replaced under this lock */
static pthread_rwlock_t hosts_lock = PTHREAD_RWLOCK_INITIALIZER;
static _Atomic bool stop;
static _Atomic uint64_t started, ended, succeeded;

static void on_end(void *ctx, const struct thole_status *st, struct bufslice body, bool more)
{
    _Atomic int *ends = ctx;
    (void)body;
    if (more) {
        return;
    }
    ASSERT(atomic_fetch_add(ends, 1) == 0);
    atomic_fetch_add(&ended, 1);
    if (st->code == THOLE_OK) {
        atomic_fetch_add(&succeeded, 1);
    }
    free((void *)ends);
}

static void one_exchange(struct rand *r, struct host *from, const struct host *to)
{
    static const uint32_t methods[] = {METHOD_ECHO,  METHOD_ECHO, METHOD_FAIL,
                                       METHOD_THREE, METHOD_HOLD, METHOD_FLOOD};
    uint32_t method = methods[rand_below(r, 6)];
    if (method == METHOD_FLOOD && !rand_chance(r, 0.02)) {
        method = METHOD_ECHO;
    }
    struct buf *body = buf_new(rand_chance(r, 0.1) ? 50000 : rand_below(r, 100));
    memset(body->data, 'x', body->size);
    atomic_fetch_add(&started, 1);
    uint64_t id =
        bus_exchange(from->bus, &to->id, method, (struct bufslice){body, {body->data, body->size}},
                     rand_chance(r, 0.5) ? (uint32_t)rand_below(r, 30) + 1 : 0, on_end,
                     calloc(1, sizeof(_Atomic int)));
    if (method == METHOD_HOLD || rand_chance(r, 0.1)) {
        bus_exchange_cancel(from->bus, &to->id, id);
    }
}

static void one_frame(struct rand *r, struct host *from, const struct host *to)
{
    struct buf *f = buf_new(8 + rand_below(r, 4000));
    memset(f->data, 0, f->size);
    bus_send(from->bus, &to->id, (enum bus_lane)rand_between(r, 1, 3),
             (struct bufslice){f, {f->data, f->size}});
}

static void *work_main(void *arg)
{
    struct work *w = arg;
    struct rand r;
    struct thole_status st;
    rand_seed(&r, w->seed);
    while (!atomic_load(&stop)) {
        pthread_rwlock_rdlock(&hosts_lock);
        struct host *from = hosts[rand_below(&r, HOSTS)], *to = hosts[rand_below(&r, HOSTS)];
        for (int i = 0; i < 20; i++) {
            if (rand_chance(&r, 0.5)) {
                one_exchange(&r, from, to);
            } else {
                one_frame(&r, from, to);
            }
        }
        if (rand_chance(&r, 0.02)) {
            bus_peer_remove(from->bus, &to->id);
        }
        enum thole_code code = bus_peer_set(from->bus, &to->id, to->address, &st);
        ASSERT(code == THOLE_OK);
        if (rand_chance(&r, 0.1)) {
            host_release(to);
        }
        pthread_rwlock_unlock(&hosts_lock);
        pause_ms(1);
    }
    return NULL;
}

static void *call_main(void *arg)
{
    struct bus_channel *c = arg;
    const uint8_t none = 0;
    uint64_t calls = 0;
    while (!atomic_load(&stop)) {
        struct thole_status st;
        struct buf *reply;
        if (bus_channel_call(c, "/grpc.health.v1.Health/Check", (struct slice){&none, 0}, 20000,
                             &reply, &st) != THOLE_OK) {
            return NULL; /* the call count reports it */
        }
        buf_unref(reply);
        calls++;
    }
    return (void *)(uintptr_t)(calls > 0);
}

static void test_everything_at_once(void **state)
{
    (void)state;
    struct work work[WORKERS];
    struct thole_status st;
    struct bus_channel *c;
    pthread_t caller;
    void *called;
    for (uint8_t i = 0; i < HOSTS; i++) {
        hosts[i] = host_new((uint8_t)(i + 1), 9, 1, NULL);
    }
    assert_int_equal(bus_channel_new(hosts[0]->address, &c, &st), THOLE_OK);
    pthread_create(&caller, NULL, call_main, c);
    for (uint64_t i = 0; i < WORKERS; i++) {
        work[i].seed = i;
        pthread_create(&work[i].thread, NULL, work_main, &work[i]);
    }
    uint64_t end = now_ms() + RUN_MS;
    for (uint64_t incarnation = 2; now_ms() < end; incarnation++) {
        pause_ms(100);
        char address[64];
        pthread_rwlock_wrlock(&hosts_lock);
        struct host *old = hosts[HOSTS - 1];
        snprintf(address, sizeof address, "%s", incarnation % 2 ? "127.0.0.1:0" : old->address);
        host_free(old);
        hosts[HOSTS - 1] = host_new(HOSTS, 9, incarnation, address);
        pthread_rwlock_unlock(&hosts_lock);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < WORKERS; i++) {
        pthread_join(work[i].thread, NULL);
    }
    pthread_join(caller, &called);
    assert_non_null(called);
    bus_channel_free(c);
    for (int i = 0; i < HOSTS; i++) {
        host_free(hosts[i]);
    }
    assert_int_equal(atomic_load(&started), atomic_load(&ended));
    assert_true(atomic_load(&succeeded) > 0);
    print_message("exchanges=%" PRIu64 " succeeded=%" PRIu64 "\n", atomic_load(&ended),
                  atomic_load(&succeeded));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_everything_at_once)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
