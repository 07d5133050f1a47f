/* Timers of machines: TICKs, sleep, changes of leaders, and the clocks that they go by. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shards/engine/test/harness.h"

#include <cmocka.h>

/* ---- A machine with alarms ------------------------------------------------------------------- */

#define ALARMS_MAX 4096

/* In memory: a command "alive N" or "wall N" sets an alarm in N ms, "many N" 2,500 of them. */
struct alarm_state {
    uint64_t
        due_ms[ALARMS_MAX]; /* by the time with a leader, in the order in which they were set */
    size_t count;
    uint64_t wall_due_ms; /* 0: none */
    uint64_t fired, ticks, fired_at_ms;
};
/* What the machine of each host holds; survives it, so that a test can look. */
static struct alarm_state shown[HOSTS_MAX];

struct alarm_machine {
    struct alarm_state s;
    struct alarm_state *shown;
};

static enum thole_code alarm_open(const struct thole_machine_env *env, void **ret,
                                  struct thole_status *st)
{
    (void)st;
    struct alarm_machine *m = xcalloc(1, sizeof *m);
    m->shown = &shown[env->replica_id - 1];
    *ret = m;
    return THOLE_OK;
}

static struct thole_due due_of(const struct alarm_state *s)
{
    struct thole_due due = {THOLE_NEVER, THOLE_NEVER};
    for (size_t i = 0; i < s->count; i++) {
        due.alive_ms = s->due_ms[i] < due.alive_ms ? s->due_ms[i] : due.alive_ms;
    }
    due.now_ms = s->wall_due_ms != 0 ? s->wall_due_ms : THOLE_NEVER;
    return due;
}

static void tick(struct alarm_state *s, const struct thole_entry *e)
{
    size_t kept = 0, done = 0;
    for (size_t i = 0; i < s->count; i++) {
        if (s->due_ms[i] <= e->alive_ms && done < THOLE_TICK_ITEMS_MAX) {
            done++;
        } else {
            s->due_ms[kept++] = s->due_ms[i];
        }
    }
    s->count = kept;
    if (s->wall_due_ms != 0 && s->wall_due_ms <= e->now_ms) {
        s->wall_due_ms = 0;
        done++;
    }
    s->fired += done;
    s->ticks++;
    s->fired_at_ms = e->alive_ms;
}

static void set(struct alarm_state *s, const struct thole_entry *e)
{
    char text[32] = "";
    memcpy(text, e->command.data, e->command.size < 31 ? e->command.size : 31);
    const char *number = strchr(text, ' ');
    uint64_t ms = number != NULL ? strtoull(number, NULL, 10) : 0;
    size_t n = strncmp(text, "many", 4) == 0 ? 2500 : strncmp(text, "alive", 5) == 0 ? 1 : 0;
    for (size_t i = 0; i < n; i++) {
        s->due_ms[s->count++] = e->alive_ms + ms;
    }
    if (strncmp(text, "wall", 4) == 0) {
        s->wall_due_ms = e->now_ms + ms;
    }
}

static enum thole_code alarm_apply(void *machine, struct thole_apply *b, struct thole_status *st)
{
    (void)st;
    struct alarm_machine *m = machine;
    for (size_t i = 0; i < b->entry_count; i++) {
        const struct thole_entry *e = thole_apply_entry(b, i);
        if (e->kind == THOLE_ENTRY_TICK) {
            tick(&m->s, e);
        } else {
            set(&m->s, e);
        }
    }
    b->due = due_of(&m->s);
    *m->shown = m->s;
    return THOLE_OK;
}

static enum thole_code alarm_query(void *machine, const void *view, struct thole_slice query,
                                   struct thole_sink *answer, struct thole_status *st)
{
    (void)machine, (void)view, (void)query, (void)answer, (void)st;
    return THOLE_OK;
}

static enum thole_code alarm_save(void *machine, const void *view, struct thole_save *to,
                                  struct thole_status *st)
{
    (void)view, (void)st;
    assert_true(to->index > 0 && !to->stopping(to));
    return to->out->write(to->out, &((struct alarm_machine *)machine)->s,
                          sizeof(struct alarm_state));
}

static enum thole_code alarm_restore(void *machine, struct thole_restore *from,
                                     struct thole_status *st)
{
    struct alarm_machine *m = machine;
    if (from->in->read(from->in, &m->s, sizeof m->s) != (int64_t)sizeof m->s) {
        return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "not a snapshot");
    }
    assert_true(from->index > 0 && from->term > 0 && !from->stopping(from));
    from->due = due_of(&m->s);
    *m->shown = m->s;
    return THOLE_OK;
}

static struct cluster *alarm_cluster(uint64_t seed)
{
    struct cluster *c = cluster_new(3, seed);
    memset(shown, 0, sizeof shown);
    for (int h = 0; h < 3; h++) {
        c->hosts[h].types_[0] = (struct thole_machine_type){
            .size = sizeof(struct thole_machine_type),
            .version = 1,
            .name = "tally",
            .open = alarm_open,
            .close = free,
            .apply = alarm_apply,
            .query = alarm_query,
            .save = alarm_save,
            .restore = alarm_restore,
        };
    }
    cluster_bootstrap(c, 3);
    return c;
}

static bool all_fired(struct cluster *c, uint64_t n)
{
    for (int h = 0; h < 3; h++) {
        if (c->hosts[h].engine != NULL && shown[h].fired != n) {
            return false;
        }
    }
    return true;
}

static int sleepers(struct cluster *c)
{
    int n = 0;
    for (int h = 0; h < 3; h++) {
        const struct replica *r =
            c->hosts[h].engine != NULL ? map_get(&c->hosts[h].engine->by_shard, SHARD) : NULL;
        n += r != NULL && r->core != NULL && raft_asleep(r->core);
    }
    return n;
}

/* ---- Tests ----------------------------------------------------------------------------------- */

static void test_timer_is_done_when_due_everywhere(void **state)
{
    (void)state;
    struct cluster *c = alarm_cluster(501);
    propose_ok(c, "alive 3000");
    propose_ok(c, "wall 4000");
    cluster_run(c, 2900);
    assert_true(all_fired(c, 0));
    RUN_UNTIL(c, 300, all_fired(c, 1));
    cluster_run(c, 600);
    assert_true(all_fired(c, 1));
    RUN_UNTIL(c, 600, all_fired(c, 2));
    assert_int_equal(shown[0].ticks, 2);
    assert_memory_equal(&shown[0], &shown[1], sizeof shown[0]);
    assert_memory_equal(&shown[0], &shown[2], sizeof shown[0]);
    cluster_free(c);
}

static void test_timer_many_due_at_once_take_several_ticks(void **state)
{
    (void)state;
    struct cluster *c = alarm_cluster(502);
    propose_ok(c, "many 1000");
    RUN_UNTIL(c, 2000, all_fired(c, 2500));
    const uint64_t ticks = (2500 + THOLE_TICK_ITEMS_MAX - 1) / THOLE_TICK_ITEMS_MAX;
    assert_int_equal(shown[0].ticks, ticks);
    cluster_run(c, 2000);
    assert_int_equal(shown[0].ticks, ticks); /* none without need */
    cluster_free(c);
}

static void test_timer_group_sleeps_until_it_is_due(void **state)
{
    (void)state;
    struct cluster *c = alarm_cluster(503);
    propose_ok(c, "alive 3600000");
    RUN_UNTIL(c, 10000, sleepers(c) == 3);
    cluster_run(c, 1000);
    uint64_t frames = c->control_frames;
    cluster_run(c, 600000);
    assert_int_equal(sleepers(c), 3);
    assert_true(c->control_frames - frames <= 6 * 6002); /* the hosts' beats */
    RUN_UNTIL(c, 3600000, all_fired(c, 1));
    RUN_UNTIL(c, 10000, sleepers(c) == 3);
    cluster_free(c);
}

static void test_timer_new_leader_arms_it(void **state)
{
    (void)state;
    struct cluster *c = alarm_cluster(504);
    propose_ok(c, "alive 20000");
    RUN_UNTIL(c, 10000, sleepers(c) == 3);
    host_crash(c, cluster_leader(c));
    cluster_run(c, 15000);
    assert_true(all_fired(c, 0));
    RUN_UNTIL(c, 10000, all_fired(c, 1));
    cluster_free(c);
}

/* The time with a leader stands still during an outage; the wall clock does not. */
static void test_timer_outage_expires_no_lease(void **state)
{
    (void)state;
    struct cluster *c = alarm_cluster(505);
    propose_ok(c, "alive 5000");
    propose_ok(c, "wall 30000");
    cluster_run(c, 1000);
    for (int h = 0; h < 3; h++) {
        host_crash(c, h);
    }
    cluster_run(c, 60000);
    for (int h = 0; h < 3; h++) {
        host_start(c, h);
    }
    cluster_wait_leader(c);
    RUN_UNTIL(c, 2000, all_fired(c, 1)); /* by the wall clock */
    cluster_run(c, 2500);
    assert_true(all_fired(c, 1));
    RUN_UNTIL(c, 4000, all_fired(c, 2));
    assert_true(shown[0].fired_at_ms < 20000);
    cluster_free(c);
}

static void test_timer_comes_with_a_snapshot(void **state)
{
    (void)state;
    struct cluster *c = alarm_cluster(506);
    int away = (cluster_wait_leader(c) + 1) % 3;
    host_crash(c, away);
    c->compact_log_bytes = 2048;
    c->keep_log_bytes = 1;
    for (int h = 0; h < 3; h++) { /* with the new options */
        if (h != away) {
            host_stop(c, h);
            host_start(c, h);
        }
    }
    propose_ok(c, "alive 15000");
    for (int i = 0; i < 200; i++) {
        propose_ok(c, "nothing");
    }
    host_start(c, away);
    RUN_UNTIL(c, 5000, status_of(c, away).snapshot_index > 0);
    struct done d = {0};
    engine_transfer(c->hosts[cluster_leader(c)].engine, SHARD, (uint64_t)away + 1, NULL, on_done,
                    &d);
    RUN_UNTIL(c, 5000, d.done && cluster_leader(c) == away);
    RUN_UNTIL(c, 20000, all_fired(c, 1));
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_timer_is_done_when_due_everywhere),
        cmocka_unit_test(test_timer_many_due_at_once_take_several_ticks),
        cmocka_unit_test(test_timer_group_sleeps_until_it_is_due),
        cmocka_unit_test(test_timer_new_leader_arms_it),
        cmocka_unit_test(test_timer_outage_expires_no_lease),
        cmocka_unit_test(test_timer_comes_with_a_snapshot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
