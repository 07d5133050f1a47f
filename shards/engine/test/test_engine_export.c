/* Snapshots for users: exported from a replica, and groups founded on them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shards/engine/test/harness.h"

#include <cmocka.h>

#define PROPOSALS 300
#define NEW 3 /* the host of the founded group */

static void wait_done(struct cluster *c, const struct done *d)
{
    RUN_UNTIL(c, 20000, d->done);
}

static enum thole_code export(struct cluster *c, int h, uint64_t min_index,
                              struct engine_export *ret) {
    struct done d = {0}; engine_export(c->hosts[h].engine, SHARD, min_index, ret, on_done, &d);
    wait_done(c, &d);
    return d.st.code;
}

static enum thole_code seed(struct cluster *c, const char *name)
{
    struct done d = {0};
    engine_seed(c->hosts[NEW].engine, SHARD, name, on_done, &d);
    wait_done(c, &d);
    return d.st.code;
}

static uint64_t read_point(struct cluster *c, int h)
{
    struct op *o = op_new(c, ENGINE_READ_POINT, NULL);
    op_submit(o, h);
    op_wait(o);
    assert_int_equal(o->r.status.code, THOLE_OK);
    assert_int_equal(o->r.result.bytes.size, 0);
    uint64_t index = o->r.index;
    op_free(o);
    return index;
}

static struct buf *contents(const struct engine_export *x)
{
    struct thole_status st;
    struct buf *all = buf_new(x->size);
    assert_int_equal(x->ops->read(x->file, 0, all->data, all->size, &st), THOLE_OK);
    x->ops->close(x->file);
    return all;
}

static void put_seed(struct cluster *c, const char *name, const struct buf *bytes)
{
    struct thole_status st;
    struct engine_files *f = c->hosts[NEW].seeds;
    struct engine_file *file;
    assert_int_equal(f->ops->create(f, "new", true, &file, &st), THOLE_OK);
    assert_int_equal(f->ops->append(file, bytes->data, bytes->size, &st), THOLE_OK);
    assert_int_equal(f->ops->commit(file, name, &st), THOLE_OK);
}

static uint64_t session_of(struct cluster *c)
{
    struct op *o = op_open_session(c, cluster_wait_leader(c));
    op_wait(o);
    assert_int_equal(o->r.status.code, THOLE_OK);
    uint64_t id = o->r.code;
    op_free(o);
    return id;
}

static bool duplicate(struct cluster *c, uint64_t session, uint64_t sequence)
{
    struct op *o = op_propose_in(c, cluster_wait_leader(c), session, sequence, "x");
    op_wait(o);
    assert_int_equal(o->r.status.code, THOLE_OK);
    bool again = o->r.duplicate;
    op_free(o);
    return again;
}

/* Three voters with applied commands; their export is the seed "s". */
static struct cluster *exported(const char *machine, uint64_t seed_number, uint64_t *ret_session)
{
    struct cluster *c = cluster_new(4, seed_number);
    c->machine = machine;
    cluster_bootstrap(c, 3);
    for (int i = 0; i < PROPOSALS - 1; i++) {
        propose_ok(c, "some payload");
    }
    *ret_session = session_of(c);
    assert_false(duplicate(c, *ret_session, 5));
    int follower = (cluster_wait_leader(c) + 1) % 3;
    struct engine_export x;
    assert_int_equal(export(c, follower, read_point(c, follower), &x), THOLE_OK);
    assert_true(x.index >= PROPOSALS);
    struct buf *bytes = contents(&x);
    host_start(c, NEW);
    put_seed(c, "s", bytes);
    buf_unref(bytes);
    return c;
}

static void stop_others(struct cluster *c)
{
    for (int h = 0; h < NEW; h++) {
        host_stop(c, h);
    }
}

static void check_founded(const char *machine)
{
    uint64_t session;
    struct cluster *c = exported(machine, 51, &session);
    stop_others(c);
    host_join(c, NEW);
    assert_int_equal(seed(c, "s"), THOLE_OK);
    assert_int_equal(cluster_wait_leader(c), NEW);
    assert_int_equal(query_ok(c, NEW).count, PROPOSALS);
    assert_int_equal(status_of(c, NEW).epoch, 1);
    assert_true(duplicate(c, session, 5));
    assert_false(duplicate(c, session, 6));
    assert_true(session_of(c) >> SESSION_EPOCH_SHIFT == 1);
    assert_int_equal(seed(c, "s"), THOLE_OK); /* is in place already */
    host_crash(c, NEW);
    host_start(c, NEW);
    assert_int_equal(cluster_wait_leader(c), NEW);
    assert_int_equal(query_ok(c, NEW).count, PROPOSALS + 1);
    assert_true(duplicate(c, session, 6));
    cluster_free(c);
}

static void test_engine_founded_on_a_snapshot(void **state)
{
    (void)state;
    check_founded("tally");
    check_founded("tally-plain");
    check_founded("ledger");
}

/* The host is killed after each number of milliseconds: the export is absent afterwards, or
 * complete. */
static void check_crashes(const char *machine)
{
    for (uint64_t ms = 0; ms < 12; ms++) {
        uint64_t session;
        struct cluster *c = exported(machine, 52 + ms, &session);
        stop_others(c);
        host_join(c, NEW);
        cluster_run(c, 100);
        struct done *d = calloc(1, sizeof *d);
        engine_seed(c->hosts[NEW].engine, SHARD, "s", on_done, d);
        cluster_run(c, ms);
        host_crash(c, NEW);
        free(d);
        host_start(c, NEW);
        cluster_run(c, 100);
        if (!status_of(c, NEW).initialised) {
            assert_int_equal(seed(c, "s"), THOLE_OK);
        }
        assert_int_equal(cluster_wait_leader(c), NEW);
        assert_int_equal(query_ok(c, NEW).count, PROPOSALS);
        assert_true(duplicate(c, session, 5));
        if (strcmp(machine, "ledger") == 0) {
            assert_int_equal(ledger_disk_spaces(c->hosts[NEW].ledger), 1);
        }
        cluster_free(c);
    }
}

static void test_engine_crash_while_seeding(void **state)
{
    (void)state;
    check_crashes("tally");
    check_crashes("ledger");
}

static void test_engine_damaged_or_missing_seed_fails_the_replica(void **state)
{
    (void)state;
    uint64_t session;
    struct cluster *c = exported("tally", 70, &session);
    struct thole_status st;
    struct engine_files *f = c->hosts[NEW].seeds;
    struct engine_file *file;
    uint64_t size;
    assert_int_equal(f->ops->open(f, "s", &file, &size, &st), THOLE_OK);
    struct buf *bytes = buf_new(size);
    assert_int_equal(f->ops->read(file, 0, bytes->data, size, &st), THOLE_OK);
    f->ops->close(file);
    bytes->data[size / 2] ^= 1;
    put_seed(c, "damaged", bytes);
    buf_unref(bytes);
    host_join(c, NEW);
    cluster_run(c, 100);
    assert_int_equal(seed(c, "damaged"), THOLE_DATA_LOSS);
    assert_true(status_of(c, NEW).failed);
    host_crash(c, NEW);
    host_start(c, NEW);
    cluster_run(c, 100);
    assert_false(status_of(c, NEW).initialised);
    assert_int_equal(seed(c, "missing"), THOLE_NOT_FOUND);
    assert_true(status_of(c, NEW).failed);
    cluster_free(c);
}

static void test_engine_seed_of_another_machine_type_is_refused(void **state)
{
    (void)state;
    uint64_t session;
    struct cluster *c = exported("tally", 71, &session);
    c->machine = "ledger";
    host_join(c, NEW);
    cluster_run(c, 100);
    assert_int_equal(seed(c, "s"), THOLE_FAILED_PRECONDITION);
    cluster_free(c);
}

static void count_name(void *ctx, const char *name)
{
    (void)name;
    ++*(int *)ctx;
}

/* An existing file that is new enough is reused, not saved again. */
static void test_engine_export_reuses_a_file_that_is_new_enough(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(1, 72);
    struct engine_export x, y;
    cluster_bootstrap(c, 1);
    for (int i = 0; i < 10; i++) {
        propose_ok(c, "x");
    }
    uint64_t at = read_point(c, 0);
    assert_int_equal(export(c, 0, at, &x), THOLE_OK);
    assert_int_equal(export(c, 0, at, &y), THOLE_OK);
    assert_int_equal(x.index, at);
    assert_int_equal(y.index, at);
    propose_ok(c, "x");
    struct buf *first = contents(&x);
    buf_unref(contents(&y));
    assert_int_equal(export(c, 0, read_point(c, 0), &y), THOLE_OK);
    assert_int_equal(y.index, at + 1);
    buf_unref(contents(&y));
    buf_unref(first);
    int files = 0;
    c->hosts[0].files->ops->list(c->hosts[0].files, count_name, &files);
    assert_int_equal(files, 1);
    assert_int_equal(export(c, 0, at + 100, &y), THOLE_FAILED_PRECONDITION);
    cluster_free(c);
}

/* A snapshot is installed while another is saved for a user. The saved state belongs to a machine
 * that was replaced, so the export fails. */
static void test_engine_export_overtaken_by_a_snapshot_fails(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(1, 72);
    struct engine_export x;
    struct done d = {0};
    cluster_bootstrap(c, 1);
    propose_ok(c, "x");
    struct replica *r = engine__find_replica(c->hosts[0].engine, 1);
    r->saving = true; /* the export waits for it */
    engine_export(c->hosts[0].engine, SHARD, 1, &x, on_done, &d);
    cluster_run(c, 10);
    assert_false(d.done);
    struct task *t = engine__task_new(TASK_SAVE, r);
    t->machine = engine__machine_ref(r->machine);
    r->generation++;
    (void)worker_assume(r->loop->w);
    engine__snapshot_task_done(r->loop, t);
    (void)worker_assume(NULL);
    r->generation--;
    assert_true(d.done);
    assert_int_equal(d.st.code, THOLE_UNAVAILABLE);
    assert_null(x.file);
    replica_unref(r);
    cluster_free(c);
}

static void test_engine_export_of_a_damaged_file_saves_another(void **state)
{
    (void)state;
    struct thole_status st;
    struct cluster *c = cluster_new(1, 73);
    struct host *h = &c->hosts[0];
    struct engine_export x;
    cluster_bootstrap(c, 1);
    for (int i = 0; i < 10; i++) {
        propose_ok(c, "x");
    }
    uint64_t at = read_point(c, 0);
    assert_int_equal(export(c, 0, at, &x), THOLE_OK);
    struct buf *bytes = contents(&x);
    struct engine_file *file;
    char name[ENGINE_NAME_BYTES];
    struct replica *r = engine__find_replica(h->engine, 1);
    engine__snapshot_name(r, at, name);
    replica_unref(r);
    bytes->data[8] ^= 1;
    assert_int_equal(h->files->ops->create(h->files, "x", true, &file, &st), THOLE_OK);
    assert_int_equal(h->files->ops->append(file, bytes->data, bytes->size, &st), THOLE_OK);
    assert_int_equal(h->files->ops->commit(file, name, &st), THOLE_OK);
    bytes->data[8] ^= 1;
    assert_int_equal(export(c, 0, at, &x), THOLE_OK);
    struct buf *again = contents(&x);
    assert_int_equal(again->size, bytes->size);
    assert_memory_equal(again->data, bytes->data, bytes->size);
    buf_unref(again);
    buf_unref(bytes);
    cluster_free(c);
}

static void test_engine_export_of_a_persistent_machine_leaves_no_file(void **state)
{
    (void)state;
    struct cluster *c = cluster_new(1, 74);
    struct engine_export x;
    c->machine = "ledger";
    cluster_bootstrap(c, 1);
    propose_ok(c, "x");
    assert_int_equal(export(c, 0, read_point(c, 0), &x), THOLE_OK);
    cluster_run(c, 100);
    int files = 0;
    c->hosts[0].files->ops->list(c->hosts[0].files, count_name, &files);
    assert_int_equal(files, 0);
    buf_unref(contents(&x));
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_engine_founded_on_a_snapshot),
        cmocka_unit_test(test_engine_crash_while_seeding),
        cmocka_unit_test(test_engine_damaged_or_missing_seed_fails_the_replica),
        cmocka_unit_test(test_engine_seed_of_another_machine_type_is_refused),
        cmocka_unit_test(test_engine_export_reuses_a_file_that_is_new_enough),
        cmocka_unit_test(test_engine_export_overtaken_by_a_snapshot_fails),
        cmocka_unit_test(test_engine_export_of_a_damaged_file_saves_another),
        cmocka_unit_test(test_engine_export_of_a_persistent_machine_leaves_no_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
