/* The manual executor: order, virtual time, and its assertions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/buf.h"
#include "base/log_internal.h"
#include "base/rand.h"
#include "base/test/death.h"
#include "base/worker.h"

#define START_NS (5 * NS_PER_S)

/* A worker that records each turn as "name@milliseconds(messages) ". */
struct actor {
    struct executor *ex;
    struct worker *w;
    struct bytes *trace;
    const char *name;
    uint64_t period_ns; /* 0: no turn without messages */
    struct actor *target;
    struct worker_msg *pass; /* handed to target in the next turn */
    struct actor *victim;    /* stopped and freed in the next turn */
    struct actor *child;     /* started in the next turn */
    bool livelock;
};

static void actor_begin(struct actor *a);

static void actor_end(struct actor *a)
{
    worker_stop(a->w);
    worker_free(a->w);
    a->w = NULL;
}

static uint64_t act(void *ctx, struct msgq *batch, uint64_t now_ns)
{
    struct actor *a = ctx;
    assert_true(worker_is_current(a->w));
    assert_true(now_ns == clock_now(executor_clock(a->ex)));
    bytes_printf(a->trace, "%s@%d(%zu) ", a->name, (int)((now_ns - START_NS) / NS_PER_MS),
                 batch->count);
    while (msgq_pop(batch) != NULL) {
    }
    if (a->pass != NULL) {
        assert_true(worker_post(a->target->w, a->pass));
        a->pass = NULL;
    }
    if (a->victim != NULL) {
        actor_end(a->victim);
        assert_true(worker_is_current(a->w)); /* again, after the other worker's turns */
    }
    a->victim = NULL;
    if (a->child != NULL) {
        actor_begin(a->child);
    }
    a->child = NULL;
    if (a->livelock) {
        return now_ns;
    }
    return a->period_ns > 0 ? now_ns + a->period_ns : CLOCK_NEVER;
}

static void actor_begin(struct actor *a)
{
    a->w = worker_new(a->ex, a->name, 2, act, a);
}

static void kick(struct actor *a)
{
    static struct worker_msg messages[16];
    static unsigned next;
    assert_true(worker_post_internal(a->w, &messages[next++ % 16]));
}

static void assert_trace(struct bytes *trace, const char *expected)
{
    bytes_append(trace, "", 1);
    assert_string_equal((char *)trace->data, expected);
    bytes_clear(trace);
}

struct stage {
    struct executor *ex;
    struct bytes trace;
    struct actor a, b, c;
};

static void stage_init(struct stage *s)
{
    memset(s, 0, sizeof *s);
    s->ex = executor_manual_new(START_NS);
    s->a = (struct actor){.ex = s->ex, .trace = &s->trace, .name = "a"};
    s->b = (struct actor){.ex = s->ex, .trace = &s->trace, .name = "b"};
    s->c = (struct actor){.ex = s->ex, .trace = &s->trace, .name = "c"};
}

static void stage_deinit(struct stage *s)
{
    struct actor *actors[] = {&s->a, &s->b, &s->c};
    for (int i = 0; i < 3; i++) {
        if (actors[i]->w != NULL) {
            actor_end(actors[i]);
        }
    }
    bytes_deinit(&s->trace);
    executor_free(s->ex);
}

static void test_worker_manual_runs_in_creation_order_until_idle(void **state)
{
    (void)state;
    struct stage s;
    struct worker_msg m[2] = {{0}};
    stage_init(&s);
    actor_begin(&s.b);
    actor_begin(&s.a);
    actor_begin(&s.c);
    kick(&s.c);
    kick(&s.a);
    kick(&s.a);
    kick(&s.b);
    assert_int_equal(worker_depth(s.a.w), 2);
    assert_false(worker_is_current(s.a.w)); /* outside of turns */
    /* Backwards: b already had its turn in this pass. Forwards: c's turn is still to come. */
    s.a.target = &s.b;
    s.a.pass = &m[0];
    s.b.target = &s.c;
    s.b.pass = &m[1];
    assert_int_equal(executor_manual_run(s.ex, 10), 4);
    assert_trace(&s.trace, "b@0(1) a@0(2) c@0(2) b@0(1) ");
    assert_int_equal(executor_manual_run(s.ex, 0), 0);
    stage_deinit(&s);
}

static void test_worker_manual_advance_stops_at_each_deadline(void **state)
{
    (void)state;
    struct stage s;
    stage_init(&s);
    actor_begin(&s.a);
    actor_begin(&s.b);
    s.a.period_ns = 20 * NS_PER_MS;
    s.b.period_ns = 30 * NS_PER_MS;
    assert_true(executor_manual_next_deadline(s.ex) == CLOCK_NEVER);
    kick(&s.a);
    kick(&s.b);
    assert_true(executor_manual_next_deadline(s.ex) == START_NS); /* a worker has a message */
    executor_manual_advance(s.ex, START_NS, 2);
    assert_true(executor_manual_next_deadline(s.ex) == START_NS + 20 * NS_PER_MS);
    executor_manual_advance(s.ex, START_NS + 65 * NS_PER_MS, 100);
    assert_trace(&s.trace, "a@0(1) b@0(1) a@20(0) b@30(0) a@40(0) a@60(0) b@60(0) ");
    const struct clock *clock = executor_clock(s.ex);
    assert_true(clock_now(clock) == START_NS + 65 * NS_PER_MS);
    uint64_t wall_ms = clock->wall_ms(clock);
    s.a.period_ns = 0;
    s.b.period_ns = 0;
    executor_manual_advance(s.ex, START_NS + 1065 * NS_PER_MS, 100);
    assert_int_equal(clock->wall_ms(clock) - wall_ms, 1000);
    assert_trace(&s.trace, "a@80(0) b@90(0) ");
    executor_manual_advance(s.ex, CLOCK_NEVER,
                            1); /* no turn is requested: none happens at the end of time */
    assert_trace(&s.trace, "");
    stage_deinit(&s);
}

static void test_worker_manual_capacity_is_that_of_the_mailbox(void **state)
{
    (void)state;
    struct stage s;
    struct worker_msg m[4] = {{0}};
    stage_init(&s);
    actor_begin(&s.a);
    assert_true(worker_post(s.a.w, &m[0]));
    assert_true(worker_post(s.a.w, &m[1]));
    assert_false(worker_post(s.a.w, &m[2]));
    assert_true(worker_post_internal(s.a.w, &m[3]));
    executor_manual_run(s.ex, 1);
    assert_true(worker_post(s.a.w, &m[2]));
    executor_manual_run(s.ex, 1);
    assert_trace(&s.trace, "a@0(3) a@0(1) ");
    stage_deinit(&s);
}

static void test_worker_manual_stop_runs_the_final_turn(void **state)
{
    (void)state;
    struct stage s;
    struct worker_msg m = {0};
    stage_init(&s);
    actor_begin(&s.a);
    actor_begin(&s.b);
    s.a.period_ns = NS_PER_MS;
    kick(&s.a);
    worker_stop(s.a.w);
    worker_stop(s.b.w); /* had nothing waiting */
    assert_trace(&s.trace, "a@0(1) ");
    assert_false(worker_post(s.a.w, &m));
    /* The deadline of a stopped worker is void. */
    assert_true(executor_manual_next_deadline(s.ex) == CLOCK_NEVER);
    executor_manual_advance(s.ex, START_NS + NS_PER_S, 0);
    stage_deinit(&s);
}

static void test_worker_manual_turn_may_end_and_begin_other_workers(void **state)
{
    (void)state;
    struct stage s;
    stage_init(&s);
    actor_begin(&s.a);
    actor_begin(&s.b);
    kick(&s.a);
    kick(&s.b);
    s.a.victim = &s.b; /* the next one of the pass */
    s.a.child = &s.c;
    executor_manual_run(s.ex, 10);
    assert_null(s.b.w);
    kick(&s.c);
    executor_manual_run(s.ex, 10);
    assert_trace(&s.trace, "a@0(1) b@0(1) c@0(1) ");
    stage_deinit(&s);
}

static uint64_t log_turn(void *ctx, struct msgq *batch, uint64_t now_ns)
{
    (void)now_ns;
    while (msgq_pop(batch) != NULL) {
    }
    const char *name = log__thread(NULL);
    bytes_append_str(ctx, name != NULL ? name : "none");
    log__thread(name);
    return CLOCK_NEVER;
}

static void test_worker_manual_turn_logs_under_the_workers_name(void **state)
{
    (void)state;
    struct executor *ex = executor_manual_new(0);
    struct bytes name = {0};
    struct worker_msg m = {0};
    struct worker *w = worker_new(ex, "applier-1", 1, log_turn, &name);
    assert_true(worker_post(w, &m));
    executor_manual_run(ex, 1);
    assert_trace(&name, "applier-1");
    assert_null(log__thread(NULL));
    worker_stop(w);
    worker_free(w);
    bytes_deinit(&name);
    executor_free(ex);
}

/* The same seed must give the same run, to the byte. */
static void random_run(uint64_t seed, struct bytes *trace)
{
    struct stage s;
    struct rand r;
    stage_init(&s);
    rand_seed(&r, seed);
    struct actor *actors[] = {&s.a, &s.b, &s.c};
    for (int i = 0; i < 3; i++) {
        actors[i]->period_ns = rand_below(&r, 20) * NS_PER_MS;
        actor_begin(actors[i]);
    }
    for (uint64_t ms = 0; ms < 500; ms += rand_below(&r, 10)) {
        kick(actors[rand_below(&r, 3)]);
        executor_manual_advance(s.ex, START_NS + ms * NS_PER_MS, 1000);
    }
    bytes_append_slice(trace, bytes_slice(&s.trace));
    stage_deinit(&s);
}

static void test_worker_manual_same_calls_give_the_same_run(void **state)
{
    (void)state;
    struct bytes first = {0}, again = {0}, other = {0};
    random_run(1, &first);
    random_run(1, &again);
    random_run(2, &other);
    assert_true(first.size > 100);
    assert_true(slice_equal(bytes_slice(&first), bytes_slice(&again)));
    assert_false(slice_equal(bytes_slice(&first), bytes_slice(&other)));
    bytes_deinit(&first);
    bytes_deinit(&again);
    bytes_deinit(&other);
}

static void run_livelock(void *arg)
{
    struct stage *s = arg;
    s->a.livelock = true;
    kick(&s->a);
    executor_manual_run(s->ex, 1000);
}

static void advance_livelock(void *arg)
{
    struct stage *s = arg;
    s->a.livelock = true;
    kick(&s->a);
    executor_manual_advance(s->ex, START_NS + NS_PER_S, 1000);
}

static void stop_itself(void *arg)
{
    struct stage *s = arg;
    s->a.victim = &s->a;
    kick(&s->a);
    executor_manual_run(s->ex, 1000);
}

static void go_back(void *arg)
{
    executor_manual_advance(((struct stage *)arg)->ex, START_NS - 1, 1000);
}

static void free_running(void *arg)
{
    worker_free(((struct stage *)arg)->a.w);
}

static void free_executor_with_workers(void *arg)
{
    executor_free(((struct stage *)arg)->ex);
}

static void name_too_long(void *arg)
{
    struct stage *s = arg;
    (void)worker_new(s->ex, "sixteen-letters!", 1, act, &s->a);
}

static void test_worker_manual_misuse_is_refused(void **state)
{
    (void)state;
    struct stage s;
    stage_init(&s);
    actor_begin(&s.a);
    assert_true(dies(run_livelock, &s, "turns < max_turns"));
    assert_true(dies(advance_livelock, &s, "turns < max_turns"));
    assert_true(dies(stop_itself, &s, "!w->running"));
    assert_true(dies(go_back, &s, "to_ns >= m->now_ns"));
    assert_true(dies(free_running, &s, "w->stopped"));
    assert_true(dies(free_executor_with_workers, &s, "ex->workers"));
    assert_true(dies(name_too_long, &s, "size < sizeof w->name"));
    stage_deinit(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_worker_manual_runs_in_creation_order_until_idle),
        cmocka_unit_test(test_worker_manual_advance_stops_at_each_deadline),
        cmocka_unit_test(test_worker_manual_capacity_is_that_of_the_mailbox),
        cmocka_unit_test(test_worker_manual_stop_runs_the_final_turn),
        cmocka_unit_test(test_worker_manual_turn_may_end_and_begin_other_workers),
        cmocka_unit_test(test_worker_manual_turn_logs_under_the_workers_name),
        cmocka_unit_test(test_worker_manual_same_calls_give_the_same_run),
        cmocka_unit_test(test_worker_manual_misuse_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
