/* The same engine on real threads, with the log on disk, RocksDB and real files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "shards/engine/test/machines.h"
#include "shards/engine/test/rig.h"
#include "shards/machine/builtin.h"

#include <cmocka.h>

#define SHARDS 8
#define CLIENTS 64

struct client {
    struct engine_request r;
    struct rig *rig;
    _Atomic bool done;
    uint64_t session, sequence, shard, acknowledged;
    bool opening;
};

static void on_done(struct engine_request *q)
{
    atomic_store(&CONTAINER_OF(q, struct client, r)->done, true);
}

static void submit(struct client *k, enum engine_request_kind kind, int h)
{
    struct buf *b = buf_copy("payload", 7);
    atomic_store(&k->done, false);
    k->r = (struct engine_request){
        .kind = kind,
        .shard_id = k->shard,
        .payload = {b, slice_of(b->data, b->size)},
        .session = kind == ENGINE_PROPOSE ? k->session : 0,
        .sequence = k->sequence,
        .deadline_ns = clock_now(&clock_system) + 5 * NS_PER_S,
        .done = on_done,
    };
    engine_submit(k->rig->hosts[h].engine, &k->r);
}

static void wait_done(struct client *k)
{
    for (int i = 0; !atomic_load(&k->done); i++) {
        assert_true(i < 200000);
        usleep(100);
    }
}

/* One step of every client: all requests are in flight together, then all are awaited. */
static void round_of(struct rig *r, struct client *clients)
{
    bool sent[CLIENTS] = {false};
    for (int i = 0; i < CLIENTS; i++) {
        struct client *k = &clients[i];
        int h = rig_leader(r, k->shard);
        sent[i] = h >= 0;
        if (sent[i]) {
            submit(k, k->session ? ENGINE_PROPOSE : ENGINE_OPEN_SESSION, h);
        }
    }
    for (int i = 0; i < CLIENTS; i++) {
        struct client *k = &clients[i];
        if (!sent[i]) {
            continue;
        }
        wait_done(k);
        if (k->r.status.code == THOLE_OK && !k->session) {
            k->session = k->r.code;
        } else if (k->r.status.code == THOLE_OK) {
            k->sequence++;
            k->acknowledged++;
        }
        bufslice_unref(k->r.result);
    }
}

static struct tally query(struct rig *r, uint64_t shard, int h)
{
    struct client k = {.rig = r, .shard = shard};
    struct tally t = {0};
    for (int tries = 0; tries < 300; tries++) {
        submit(&k, ENGINE_QUERY, h);
        wait_done(&k);
        bool ok = k.r.status.code == THOLE_OK;
        if (ok) {
            memcpy(&t, k.r.result.bytes.data, sizeof t);
        }
        bufslice_unref(k.r.result);
        if (ok) {
            return t;
        }
        usleep(20000);
    }
    fail_msg("no answer");
    return t;
}

static void check_states(struct rig *r, struct client *clients)
{
    for (int i = 0; i < CLIENTS; i++) { /* settle the unknown outcomes */
        uint64_t target = clients[i].acknowledged + 1;
        for (int tries = 0; clients[i].acknowledged < target; tries++) {
            assert_true(tries < 1000);
            round_of(r, clients);
        }
    }
    for (uint64_t shard = 1; shard <= SHARDS; shard++) {
        uint64_t total = 0;
        for (int i = 0; i < CLIENTS; i++) {
            total += clients[i].shard == shard ? clients[i].acknowledged : 0;
        }
        struct tally first = query(r, shard, 0);
        assert_int_equal(first.count, total);
        for (int h = 1; h < 3; h++) {
            assert_int_equal(query(r, shard, h).hash, first.hash);
        }
    }
}

static void run(const struct thole_machine_type *type, bool memory_log, uint32_t threads)
{
    char *directory = rig_directory();
    const struct thole_machine_type *types[] = {type, &machine_noop, NULL};
    struct rig_options o = {
        .directory = directory,
        .hosts = 3,
        .shards = SHARDS,
        .machine = type->name,
        .types = types,
        .memory_log = memory_log,
        .loops = threads,
        .appliers = threads,
        .compact_log_bytes = 8000,
        .keep_log_bytes = 1000,
    };
    log_configure(LOG_LEVEL_WARN, false);
    struct rig *r = rig_new(&o);
    struct client *clients = xcalloc(CLIENTS, sizeof *clients);
    rig_wait_leaders(r);
    for (int i = 0; i < CLIENTS; i++) {
        clients[i].rig = r;
        clients[i].shard = 1 + (uint64_t)i % SHARDS;
    }
    for (int i = 0; i < 60; i++) {
        round_of(r, clients);
    }
    for (int h = 0; h < 3; h++) {
        rig_stop_host(r, h);
        for (int i = 0; i < 40; i++) {
            round_of(r, clients);
        }
        rig_start_host(r, h);
        rig_wait_leaders(r);
    }
    check_states(r, clients);
    rig_free(r);
    free(clients);
    struct thole_status st;
    assert_int_equal(file_remove_tree(directory, &st), THOLE_OK);
    free(directory);
}

static void run_tally(bool memory_log, uint32_t threads)
{
    struct tally_ctx ctx = {.ballast = 10000};
    struct thole_machine_type tally = tally_type(&ctx);
    run(&tally, memory_log, threads);
}

static void test_engine_threads_memory_log(void **state)
{
    (void)state;
    run_tally(true, 1);
}

static void test_engine_threads_disk_log(void **state)
{
    (void)state;
    run_tally(false, 1);
}

static void test_engine_threads_several_loops(void **state)
{
    (void)state;
    run_tally(false, 3);
}

/* Hosts stop while they send each other frames. */
static void test_engine_threads_snapshots_in_streams(void **state)
{
    (void)state;
    struct ledger_disk *disk = ledger_disk_new();
    struct thole_machine_type ledger = ledger_type(disk);
    int64_t installed = metric_value(&engine_snapshots_installed);
    ledger_disk_set_ballast(disk, 6 * MIB);
    run(&ledger, false, 2);
    assert_true(metric_value(&engine_snapshots_installed) > installed);
    ledger_disk_free(disk);
}

/* ---- The key-value machine and the state database -------------------------------------------- */

static void kv_request(struct rig *r, struct client *k, enum engine_request_kind kind, int h,
                       const char *text)
{
    for (int tries = 0; tries < 500; tries++) {
        int at = h >= 0 ? h : rig_leader(r, k->shard);
        if (at < 0) {
            usleep(10000);
            continue;
        }
        struct buf *b = buf_copy(text, strlen(text));
        atomic_store(&k->done, false);
        k->r = (struct engine_request){
            .kind = kind,
            .shard_id = k->shard,
            .payload = {b, slice_of(b->data, b->size)},
            .session = kind == ENGINE_PROPOSE ? k->session : 0,
            .sequence = k->sequence,
            .deadline_ns = clock_now(&clock_system) + 2 * NS_PER_S,
            .done = on_done,
        };
        engine_submit(r->hosts[at].engine, &k->r);
        wait_done(k);
        if (k->r.status.code == THOLE_OK) {
            return;
        }
        usleep(10000);
    }
    fail_msg("no answer: %s", k->r.status.message);
}

static void put_many(struct rig *r, struct client *k, int n)
{
    for (int i = 0; i < n; i++) {
        char text[200];
        (void)snprintf(text, sizeof text, "put key-%d a value of some length, number %d", i % 20,
                       (int)k->sequence);
        kv_request(r, k, ENGINE_PROPOSE, -1, text);
        bufslice_unref(k->r.result);
        k->sequence++;
    }
}

static void check_equal(struct rig *r, struct client *k)
{
    for (int i = 0; i < 20; i++) {
        char text[32], first[256] = {0};
        (void)snprintf(text, sizeof text, "get key-%d", i);
        for (int h = 0; h < 3; h++) {
            kv_request(r, k, ENGINE_QUERY, h, text);
            struct slice answer = k->r.result.bytes;
            assert_in_range(answer.size, 1, sizeof first);
            if (h == 0) {
                memcpy(first, answer.data, answer.size);
            }
            assert_memory_equal(first, answer.data, answer.size);
            bufslice_unref(k->r.result);
        }
    }
}

static void test_engine_threads_kv_in_the_state_database(void **state)
{
    (void)state;
    char *directory = rig_directory();
    const struct thole_machine_type *types[] = {&machine_kv, NULL};
    struct rig_options o = {
        .directory = directory,
        .hosts = 3,
        .shards = 2,
        .machine = "kv",
        .types = types,
        .loops = 1,
        .appliers = 1,
        .compact_log_bytes = 8000,
        .keep_log_bytes = 1000,
    };
    log_configure(LOG_LEVEL_WARN, false);
    struct rig *r = rig_new(&o);
    struct client k = {.rig = r, .shard = 1};
    kv_request(r, &k, ENGINE_OPEN_SESSION, -1, "");
    k.session = k.r.code;
    put_many(r, &k, 100);
    int64_t installed = metric_value(&engine_snapshots_installed);
    for (int h = 0; h < 3; h++) {
        rig_stop_host(r, h);
        put_many(r, &k, 150);
        rig_start_host(r, h);
        check_equal(r, &k);
        k.sequence--; /* a retry of the last proposal */
        kv_request(r, &k, ENGINE_PROPOSE, -1, "put key-0 never");
        assert_true(k.r.duplicate);
        bufslice_unref(k.r.result);
        k.sequence++;
    }
    assert_true(metric_value(&engine_snapshots_installed) > installed);
    rig_free(r);
    struct thole_status st;
    assert_int_equal(file_remove_tree(directory, &st), THOLE_OK);
    free(directory);
}

/* ---- A machine with views that flushes by itself --------------------------------------------- */

static struct {
    struct thole_machine_type base;
    _Atomic int inside, overlaps, views, flushes;
} watched;

static void enter(_Atomic int *calls)
{
    (*calls)++;
    watched.overlaps += atomic_fetch_add(&watched.inside, 1) != 0;
}

static enum thole_code watched_view(void *machine, void **ret, struct thole_status *st)
{
    enter(&watched.views);
    enum thole_code code = watched.base.view_acquire(machine, ret, st);
    watched.inside--;
    return code;
}

static enum thole_code watched_flush(void *machine, struct thole_status *st)
{
    enter(&watched.flushes);
    usleep(2000);
    enum thole_code code = watched.base.flush(machine, st);
    watched.inside--;
    return code;
}

static void test_engine_threads_views_and_flushes_never_overlap(void **state)
{
    (void)state;
    char *directory = rig_directory();
    struct ledger_disk *disk = ledger_disk_new();
    watched.base = ledger_type(disk);
    struct thole_machine_type type = watched.base;
    type.view_acquire = watched_view;
    type.flush = watched_flush;
    const struct thole_machine_type *types[] = {&type, NULL};
    struct rig_options o = {
        .directory = directory,
        .hosts = 1,
        .shards = 1,
        .machine = "ledger",
        .types = types,
        .loops = 1,
        .appliers = 1,
        .compact_log_bytes = 2000,
        .keep_log_bytes = 500,
    };
    log_configure(LOG_LEVEL_WARN, false);
    struct rig *r = rig_new(&o);
    struct client k = {.rig = r, .shard = 1};
    kv_request(r, &k, ENGINE_OPEN_SESSION, -1, "");
    k.session = k.r.code;
    for (int i = 0; i < 300; i++) {
        put_many(r, &k, 1);
        kv_request(r, &k, ENGINE_QUERY, 0, "");
        bufslice_unref(k.r.result);
    }
    assert_true(watched.views >= 300 && watched.flushes > 5);
    assert_int_equal(watched.overlaps, 0);
    rig_free(r);
    ledger_disk_free(disk);
    struct thole_status st;
    assert_int_equal(file_remove_tree(directory, &st), THOLE_OK);
    free(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_engine_threads_memory_log),
        cmocka_unit_test(test_engine_threads_disk_log),
        cmocka_unit_test(test_engine_threads_several_loops),
        cmocka_unit_test(test_engine_threads_snapshots_in_streams),
        cmocka_unit_test(test_engine_threads_kv_in_the_state_database),
        cmocka_unit_test(test_engine_threads_views_and_flushes_never_overlap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
