/* The threaded executor. Where a test needs a busy worker, a semaphore holds the worker inside a
 * turn. No test depends on the speed of threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/buf.h"
#include "base/worker_internal.h"

enum kind { KIND_PLAIN, KIND_HOLD, KIND_SLEEP };

struct item {
    struct worker_msg msg;
    unsigned producer;
    unsigned number;
};

/* A worker that checks the order of each producer's messages. */
#define PRODUCERS 4
struct counter {
    struct worker *w;
    unsigned next[PRODUCERS]; /* the worker's */
    unsigned turns;
    unsigned empty_turns;
    uint64_t last_now_ns;
    uint64_t sleep_ns; /* KIND_SLEEP asks for a turn after this time */
    sem_t held;        /* posted when a turn meets KIND_HOLD, */
    sem_t go_on;       /* which then waits for this */
    sem_t woken;       /* posted by a turn without messages */
};

static struct item *item_of(struct worker_msg *m)
{
    return CONTAINER_OF(m, struct item, msg);
}

static uint64_t count_turn(void *ctx, struct msgq *batch, uint64_t now_ns)
{
    struct counter *c = ctx;
    uint64_t deadline_ns = CLOCK_NEVER;
    c->turns++;
    assert_true(worker_is_current(c->w));
    assert_true(now_ns >= c->last_now_ns);
    c->last_now_ns = now_ns;
    if (batch->head == NULL) {
        c->empty_turns++;
        sem_post(&c->woken);
    }
    struct worker_msg *m;
    while ((m = msgq_pop(batch)) != NULL) {
        struct item *item = item_of(m);
        if (m->kind == KIND_HOLD) {
            sem_post(&c->held);
            sem_wait(&c->go_on);
        } else if (m->kind == KIND_SLEEP) {
            deadline_ns = now_ns + c->sleep_ns;
        }
        assert_int_equal(item->number, c->next[item->producer]);
        c->next[item->producer]++;
        free(item);
    }
    return deadline_ns;
}

static struct worker_msg *item_new(enum kind kind, unsigned producer, unsigned number)
{
    struct item *item = xcalloc(1, sizeof *item);
    item->msg.kind = kind;
    item->producer = producer;
    item->number = number;
    return &item->msg;
}

static void counter_init(struct counter *c, struct executor *ex, size_t capacity)
{
    memset(c, 0, sizeof *c);
    sem_init(&c->held, 0, 0);
    sem_init(&c->go_on, 0, 0);
    sem_init(&c->woken, 0, 0);
    c->w = worker_new(ex, "counter", capacity, count_turn, c);
}

static void counter_deinit(struct counter *c)
{
    worker_stop(c->w);
    worker_stop(c->w); /* once more does nothing */
    worker_free(c->w);
    sem_destroy(&c->held);
    sem_destroy(&c->go_on);
    sem_destroy(&c->woken);
}

static void post_item(struct counter *c, enum kind kind, unsigned number)
{
    assert_true(worker_post(c->w, item_new(kind, 0, number)));
}

static void test_msgq_keeps_the_order(void **state)
{
    (void)state;
    struct worker_msg m[6] = {{0}};
    struct msgq a = {0}, b = {0};
    assert_null(msgq_pop(&a));
    msgq_concat(&a, &b);
    assert_null(a.head);
    for (int i = 0; i < 3; i++) {
        msgq_push(&b, &m[i]);
    }
    msgq_concat(&a, &b);
    assert_true(b.head == NULL && b.tail == NULL && b.count == 0);
    for (int i = 3; i < 6; i++) {
        msgq_push(&b, &m[i]);
    }
    msgq_concat(&a, &b);
    assert_int_equal(a.count, 6);
    for (int i = 0; i < 6; i++) {
        assert_ptr_equal(msgq_pop(&a), &m[i]);
    }
    assert_true(a.head == NULL && a.tail == NULL && a.count == 0);
    msgq_push(&a, &m[0]); /* usable again */
    assert_ptr_equal(msgq_pop(&a), &m[0]);
}

struct producer {
    struct counter *c;
    unsigned id;
    pthread_t thread;
};

#define ITEMS 5000

static void *produce(void *arg)
{
    struct producer *p = arg;
    for (unsigned i = 0; i < ITEMS; i++) {
        struct worker_msg *m = item_new(KIND_PLAIN, p->id, i);
        if (i % 3 == 0) {
            assert_true(worker_post_internal(p->c->w, m));
        } else {
            while (!worker_post(p->c->w, m)) {
                sched_yield();
            }
        }
    }
    return NULL;
}

static void test_worker_messages_of_each_thread_arrive_in_order(void **state)
{
    (void)state;
    struct executor *ex = executor_threaded_new(&clock_system);
    struct counter c;
    struct producer producers[PRODUCERS];
    counter_init(&c, ex, 100);
    for (unsigned i = 0; i < PRODUCERS; i++) {
        producers[i] = (struct producer){.c = &c, .id = i};
        assert_int_equal(pthread_create(&producers[i].thread, NULL, produce, &producers[i]), 0);
    }
    for (unsigned i = 0; i < PRODUCERS; i++) {
        pthread_join(producers[i].thread, NULL);
    }
    counter_deinit(&c);
    for (unsigned i = 0; i < PRODUCERS; i++) {
        assert_int_equal(c.next[i], ITEMS);
    }
    assert_int_equal(c.empty_turns, 0);
    executor_free(ex);
}

static void test_worker_capacity_counts_only_posted_messages(void **state)
{
    (void)state;
    struct executor *ex = executor_threaded_new(&clock_system);
    struct counter c;
    counter_init(&c, ex, 3);
    post_item(&c, KIND_HOLD, 0);
    sem_wait(&c.held); /* taken, so the mailbox is empty again */
    unsigned n = 1;
    assert_int_equal(worker_depth(c.w), 0);
    for (int i = 0; i < 5; i++) {
        assert_true(worker_post_internal(c.w, item_new(KIND_PLAIN, 0, n++)));
    }
    struct msgq q = {0};
    assert_true(worker_post_internal_q(c.w, &q));
    msgq_push(&q, item_new(KIND_PLAIN, 0, n++));
    msgq_push(&q, item_new(KIND_PLAIN, 0, n++));
    assert_true(worker_post_internal_q(c.w, &q));
    assert_null(q.head);
    for (int i = 0; i < 3; i++) {
        post_item(&c, KIND_PLAIN, n++);
    }
    struct worker_msg *refused = item_new(KIND_PLAIN, 0, n);
    assert_false(worker_post(c.w, refused));
    free(item_of(refused));
    assert_true(worker_post_internal(c.w, item_new(KIND_PLAIN, 0, n++)));
    assert_int_equal(worker_depth(c.w), 11);
    sem_post(&c.go_on);
    counter_deinit(&c);
    assert_int_equal(c.next[0], n);
    assert_int_equal(c.turns, 2); /* all queued messages were handled in one turn */
    executor_free(ex);
}

static void test_worker_awake_is_not_signalled(void **state)
{
    (void)state;
    struct executor *ex = executor_threaded_new(&clock_system);
    struct counter c;
    counter_init(&c, ex, 1000);
    post_item(&c, KIND_HOLD, 0);
    sem_wait(&c.held);
    uint64_t signals = atomic_load(&c.w->signals);
    assert_true(signals <= 1);
    for (unsigned i = 1; i < 1000; i++) {
        post_item(&c, KIND_PLAIN, i);
    }
    assert_int_equal(atomic_load(&c.w->signals), signals);
    sem_post(&c.go_on);
    counter_deinit(&c);
    assert_int_equal(c.next[0], 1000);
    executor_free(ex);
}

static bool is_asleep(struct worker *w)
{
    pthread_mutex_lock(&w->mutex);
    bool asleep = w->sleeping;
    pthread_mutex_unlock(&w->mutex);
    return asleep;
}

static void test_worker_posted_to_by_a_corked_thread_wakes_once_at_the_end(void **state)
{
    (void)state;
    struct executor *ex = executor_threaded_new(&clock_system);
    struct counter c;
    counter_init(&c, ex, 1000);
    while (!is_asleep(c.w)) {
        sched_yield();
    }
    uint64_t signals = atomic_load(&c.w->signals);
    cork_begin();
    for (unsigned i = 0; i < 1000; i++) {
        post_item(&c, KIND_PLAIN, i);
    }
    assert_true(is_asleep(c.w));
    assert_int_equal(worker_depth(c.w), 1000);
    cork_end();
    assert_int_equal(atomic_load(&c.w->signals), signals + 1);
    counter_deinit(&c);
    assert_int_equal(c.next[0], 1000);
    assert_int_equal(c.turns, 1);
    executor_free(ex);
}

static void *stop(void *arg)
{
    worker_stop(arg);
    return NULL;
}

static bool is_stopped(struct worker *w)
{
    struct msgq none = {0};
    return !worker_post_internal_q(w, &none);
}

static void test_worker_stop_handles_what_was_posted_before(void **state)
{
    (void)state;
    struct executor *ex = executor_threaded_new(&clock_system);
    struct counter c;
    counter_init(&c, ex, 100);
    post_item(&c, KIND_HOLD, 0);
    sem_wait(&c.held);
    for (unsigned i = 1; i <= 50; i++) {
        post_item(&c, KIND_PLAIN, i);
    }
    pthread_t stopper;
    assert_int_equal(pthread_create(&stopper, NULL, stop, c.w), 0);
    while (!is_stopped(c.w)) {
        sched_yield();
    }
    /* Later posts are refused, and the caller still owns their messages. */
    struct msgq q = {0};
    struct worker_msg *late = item_new(KIND_PLAIN, 0, 51);
    assert_false(worker_post(c.w, late));
    assert_false(worker_post_internal(c.w, late));
    msgq_push(&q, late);
    assert_false(worker_post_internal_q(c.w, &q));
    assert_ptr_equal(msgq_pop(&q), late);
    free(item_of(late));
    sem_post(&c.go_on);
    pthread_join(stopper, NULL);
    assert_int_equal(c.next[0], 51);
    assert_int_equal(c.turns, 2);
    worker_free(c.w);
    executor_free(ex);
}

static void test_worker_without_messages_never_runs(void **state)
{
    (void)state;
    struct executor *ex = executor_threaded_new(&clock_system);
    struct counter c;
    counter_init(&c, ex, 1);
    counter_deinit(&c);
    assert_int_equal(c.turns, 0);
    worker_free(NULL);
    executor_free(ex);
    executor_free(NULL);
}

/* A clock that differs from CLOCK_MONOTONIC, as CLOCK_BOOTTIME does after a suspend. */
static uint64_t shifted_monotonic_ns(const struct clock *c)
{
    (void)c;
    return clock_now(&clock_system) + 1000000 * NS_PER_S;
}

static uint64_t shifted_wall_ms(const struct clock *c)
{
    (void)c;
    return 0;
}

static bool wait_10s(sem_t *sem)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 10;
    return sem_timedwait(sem, &until) == 0;
}

static void test_worker_deadline_of_any_clock_is_kept(void **state)
{
    (void)state;
    static const struct clock shifted = {shifted_monotonic_ns, shifted_wall_ms};
    const struct clock *const clocks[] = {&clock_system, &shifted};
    for (int i = 0; i < 2; i++) {
        struct executor *ex = executor_threaded_new(clocks[i]);
        assert_ptr_equal(executor_clock(ex), clocks[i]);
        struct counter c;
        counter_init(&c, ex, 10);
        c.sleep_ns = 30 * NS_PER_MS;
        uint64_t start_ns = clock_now(clocks[i]);
        post_item(&c, KIND_SLEEP, 0);
        assert_true(wait_10s(&c.woken));
        assert_true(clock_now(clocks[i]) - start_ns >= c.sleep_ns);
        counter_deinit(&c);
        /* The turn without messages requested no further turn. */
        assert_int_equal(c.empty_turns, 1);
        assert_true(c.last_now_ns - start_ns >= c.sleep_ns);
        executor_free(ex);
    }
}

static void test_worker_message_before_the_deadline_is_handled_at_once(void **state)
{
    (void)state;
    struct executor *ex = executor_threaded_new(&clock_system);
    struct counter c;
    counter_init(&c, ex, 10);
    /* Further away than intermediate results can hold, as seconds or as a sum. */
    c.sleep_ns = CLOCK_NEVER - 1 - 2 * clock_now(&clock_system);
    post_item(&c, KIND_SLEEP, 0);
    post_item(&c, KIND_HOLD, 1);
    sem_wait(&c.held);
    sem_post(&c.go_on);
    post_item(&c, KIND_HOLD, 2);
    assert_true(wait_10s(&c.held));
    sem_post(&c.go_on);
    counter_deinit(&c);
    assert_int_equal(c.empty_turns, 0);
    executor_free(ex);
}

struct facts {
    char name[32];
    bool blocks_sigterm;
};

static uint64_t facts_turn(void *ctx, struct msgq *batch, uint64_t now_ns)
{
    (void)now_ns;
    struct facts *f = ctx;
    sigset_t blocked;
    while (msgq_pop(batch) != NULL) {
        pthread_getname_np(pthread_self(), f->name, sizeof f->name);
        pthread_sigmask(SIG_SETMASK, NULL, &blocked);
        f->blocks_sigterm = sigismember(&blocked, SIGTERM);
    }
    return CLOCK_NEVER;
}

static void test_worker_thread_has_its_name_and_no_signals(void **state)
{
    (void)state;
    struct executor *ex = executor_threaded_new(&clock_system);
    struct facts f = {{0}, false};
    struct worker_msg m = {0};
    struct worker *w = worker_new(ex, "fifteen-letters", 1, facts_turn, &f);
    sigset_t blocked;
    pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    assert_false(sigismember(&blocked, SIGTERM));
    assert_true(worker_post(w, &m));
    worker_stop(w);
    worker_free(w);
    assert_string_equal(f.name, "fifteen-letters");
    assert_true(f.blocks_sigterm);
    executor_free(ex);
}

static uint64_t tell_turn(void *ctx, struct msgq *batch, uint64_t now_ns)
{
    (void)now_ns;
    while (msgq_pop(batch) != NULL) {
        sem_post(ctx);
    }
    return CLOCK_NEVER;
}

struct post_job {
    struct worker *w;
    struct worker_msg msg;
};

static void *post_once(void *arg)
{
    struct post_job *job = arg;
    assert_true(worker_post(job->w, &job->msg));
    return NULL;
}

/* The worker is freed as soon as its message was handled. The thread that posted it may not yet
 * have returned from worker_post. */
static void test_worker_freed_after_its_message_survives_the_poster(void **state)
{
    (void)state;
    struct executor *ex = executor_threaded_new(&clock_system);
    for (int i = 0; i < 500; i++) {
        sem_t handled;
        sem_init(&handled, 0, 0);
        struct post_job job = {.w = worker_new(ex, "short", 1, tell_turn, &handled)};
        pthread_t poster;
        assert_int_equal(pthread_create(&poster, NULL, post_once, &job), 0);
        sem_wait(&handled);
        worker_stop(job.w);
        worker_free(job.w);
        pthread_join(poster, NULL);
        sem_destroy(&handled);
    }
    executor_free(ex);
}

/* Two workers that pass one message back and forth, so that each sleeps and wakes continually. */
#define PASSES 3000

struct player {
    struct worker *self;
    struct player *other;
    unsigned passes;
    sem_t *done;
};

static uint64_t pass_turn(void *ctx, struct msgq *batch, uint64_t now_ns)
{
    (void)now_ns;
    struct player *p = ctx;
    struct worker_msg *m;
    while ((m = msgq_pop(batch)) != NULL) {
        if (++p->passes == PASSES) {
            sem_post(p->done);
        } else {
            assert_true(worker_post_internal(p->other->self, m));
        }
    }
    return CLOCK_NEVER;
}

static void test_worker_wakes_whenever_it_is_posted_to(void **state)
{
    (void)state;
    struct executor *ex = executor_threaded_new(&clock_system);
    sem_t done;
    sem_init(&done, 0, 0);
    struct player a = {.done = &done}, b = {.done = &done, .other = &a};
    struct worker_msg ball = {0};
    a.other = &b;
    a.self = worker_new(ex, "a", 1, pass_turn, &a);
    b.self = worker_new(ex, "b", 1, pass_turn, &b);
    assert_true(worker_post(a.self, &ball));
    assert_true(wait_10s(&done));
    worker_stop(a.self);
    worker_stop(b.self);
    worker_free(a.self);
    worker_free(b.self);
    assert_int_equal(a.passes, PASSES);
    assert_int_equal(b.passes, PASSES - 1);
    sem_destroy(&done);
    executor_free(ex);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_msgq_keeps_the_order),
        cmocka_unit_test(test_worker_messages_of_each_thread_arrive_in_order),
        cmocka_unit_test(test_worker_capacity_counts_only_posted_messages),
        cmocka_unit_test(test_worker_awake_is_not_signalled),
        cmocka_unit_test(test_worker_posted_to_by_a_corked_thread_wakes_once_at_the_end),
        cmocka_unit_test(test_worker_stop_handles_what_was_posted_before),
        cmocka_unit_test(test_worker_without_messages_never_runs),
        cmocka_unit_test(test_worker_deadline_of_any_clock_is_kept),
        cmocka_unit_test(test_worker_message_before_the_deadline_is_handled_at_once),
        cmocka_unit_test(test_worker_thread_has_its_name_and_no_signals),
        cmocka_unit_test(test_worker_freed_after_its_message_survives_the_poster),
        cmocka_unit_test(test_worker_wakes_whenever_it_is_posted_to),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
