/* Random commands: results and state do not depend on the batch boundaries. Queries on views run
 * beside apply (under ThreadSanitizer, too). THOLE_SEED=n repeats a run. */
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/hash.h"
#include "base/rand.h"
#include "etcd/rpc.upb.h"
#include "shards/machine/builtin.h"
#include "shards/machine/test/machine_fixture.h"
#include "thole/kv/v1/kv.upb.h"
#include "thole/kv/v1/modify.upb.h"

enum { COMMANDS = 3000, BATCH_MAX = 40, COMMAND_BYTES = 64 };

static void random_command(struct rand *r, char out[COMMAND_BYTES])
{
    int a = (int)rand_below(r, 30), b = (int)rand_below(r, 30), v = (int)rand_below(r, 4);

    switch (rand_below(r, 8)) {
    case 0:
        snprintf(out, COMMAND_BYTES, "delete k%02d", a);
        break;
    case 1:
        snprintf(out, COMMAND_BYTES, "delete-range k%02d k%02d", a, b);
        break;
    case 2:
        snprintf(out, COMMAND_BYTES, "cas k%02d %d %d", a, v, b);
        break;
    case 3:
        snprintf(out, COMMAND_BYTES, "cas-absent k%02d %d", a, v);
        break;
    case 4:
        snprintf(out, COMMAND_BYTES, "get k%02d", a);
        break;
    default:
        snprintf(out, COMMAND_BYTES, "put k%02d %d", a, v);
        break;
    }
}

/* Apply [at, at + n) as one batch; mixes codes and results into `hash`. */
static uint64_t apply_batch(struct test_machine *t, char (*commands)[COMMAND_BYTES], size_t at,
                            size_t n, uint64_t hash)
{
    struct thole_entry e[BATCH_MAX] = {0};
    struct test_sink sinks[BATCH_MAX];

    for (size_t i = 0; i < n; i++) {
        e[i] = test_entry(at + i + 1, slice_str(commands[at + i]), &sinks[i]);
    }
    struct thole_apply batch = test_batch(e, n);
    assert_int_equal(t->type->apply(t->m, &batch, NULL), THOLE_OK);
    for (size_t i = 0; i < n; i++) {
        hash = hash64(sinks[i].out.data, sinks[i].out.size, hash + e[i].code);
        bytes_deinit(&sinks[i].out);
    }
    return hash;
}

static void test_kv_batching_changes_nothing(void **state)
{
    const char *text = getenv("THOLE_SEED");
    uint64_t seed = text != NULL ? strtoull(text, NULL, 10) : (uint64_t)time(NULL);
    static char commands[COMMANDS][COMMAND_BYTES];
    struct bytes first = {0}, second = {0};
    struct test_machine t, u;
    uint64_t a = 0, b = 0;
    struct rand r;

    (void)state;
    print_message("THOLE_SEED=%" PRIu64 "\n", seed);
    rand_seed(&r, seed);
    test_machine_init(&t, &machine_kv);
    test_machine_init(&u, &machine_kv);
    for (size_t i = 0; i < COMMANDS; i++) {
        random_command(&r, commands[i]);
    }
    for (size_t i = 0; i < COMMANDS; i++) {
        a = apply_batch(&t, commands, i, 1, a);
    }
    for (size_t i = 0, n; i < COMMANDS; i += n) {
        n = 1 + rand_below(&r, BATCH_MAX);
        n = n < COMMANDS - i ? n : COMMANDS - i;
        b = apply_batch(&u, commands, i, n, b);
        if (rand_chance(&r, 0.05)) {
            test_machine_reopen(&u);
        }
    }
    assert_true(a == b);
    test_save(&t, &first);
    test_save(&u, &second);
    assert_true(slice_equal(bytes_slice(&first), bytes_slice(&second)));
    bytes_deinit(&first);
    bytes_deinit(&second);
    test_machine_deinit(&t);
    test_machine_deinit(&u);
}

/* ---- Messages -------------------------------------------------------------------------------- */

static upb_StringView random_key(struct rand *r, upb_Arena *arena)
{
    char *key = upb_Arena_Malloc(arena, 8);

    snprintf(key, 8, "k%02d", (int)rand_below(r, 20));
    return upb_StringView_FromString(key);
}

/* Some values are too large to be stored with the latest key. */
static upb_StringView random_value(struct rand *r, upb_Arena *arena)
{
    size_t size = rand_chance(r, 0.1) ? 1500 : rand_below(r, 3);
    char *value = upb_Arena_Malloc(arena, size + 1);

    memset(value, '1', size);
    return (upb_StringView){value, size};
}

static void random_put(struct rand *r, etcdserverpb_PutRequest *m, upb_Arena *arena)
{
    etcdserverpb_PutRequest_set_key(m, random_key(r, arena));
    etcdserverpb_PutRequest_set_value(m, random_value(r, arena));
    etcdserverpb_PutRequest_set_lease(m, rand_chance(r, 0.3) ? (int64_t)rand_below(r, 4) : 0);
    etcdserverpb_PutRequest_set_prev_kv(m, rand_chance(r, 0.5));
}

static void random_txn(struct rand *r, etcdserverpb_TxnRequest *m, upb_Arena *arena)
{
    etcdserverpb_Compare *c = etcdserverpb_TxnRequest_add_compare(m, arena);
    etcdserverpb_Compare_set_key(c, random_key(r, arena));
    etcdserverpb_Compare_set_target(c, etcdserverpb_Compare_VERSION);
    etcdserverpb_Compare_set_version(c, (int64_t)rand_below(r, 3));
    random_put(r,
               etcdserverpb_RequestOp_mutable_request_put(
                   etcdserverpb_TxnRequest_add_success(m, arena), arena),
               arena);
    thole_kv_v1_ModifyRequest *modify = etcdserverpb_RequestOp_mutable_request_modify(
        etcdserverpb_TxnRequest_add_success(m, arena), arena);
    thole_kv_v1_ModifyRequest_set_key(modify, random_key(r, arena));
    thole_kv_v1_ModifyRequest_set_add(modify, 7);
    etcdserverpb_DeleteRangeRequest *d = etcdserverpb_RequestOp_mutable_request_delete_range(
        etcdserverpb_TxnRequest_add_failure(m, arena), arena);
    etcdserverpb_DeleteRangeRequest_set_key(d, random_key(r, arena));
    etcdserverpb_RangeRequest *range = etcdserverpb_RequestOp_mutable_request_range(
        etcdserverpb_TxnRequest_add_failure(m, arena), arena);
    etcdserverpb_RangeRequest_set_key(range, random_key(r, arena));
    etcdserverpb_RangeRequest_set_range_end(range, upb_StringView_FromString("k15"));
}

/* `at` is about how many revisions there are. */
static struct slice random_message(struct rand *r, size_t at, upb_Arena *arena)
{
    thole_kv_v1_Command *m = thole_kv_v1_Command_new(arena);
    size_t size = 0;

    switch (rand_below(r, 10)) {
    case 0: {
        etcdserverpb_CompactionRequest *c = thole_kv_v1_Command_mutable_compact(m, arena);
        etcdserverpb_CompactionRequest_set_revision(c, (int64_t)(at / 2));
        break;
    }
    case 1: {
        etcdserverpb_LeaseGrantRequest *g = thole_kv_v1_Command_mutable_lease_grant(m, arena);
        etcdserverpb_LeaseGrantRequest_set_ID(g, (int64_t)rand_below(r, 4));
        etcdserverpb_LeaseGrantRequest_set_TTL(g, 10);
        break;
    }
    case 2: {
        etcdserverpb_LeaseRevokeRequest *v = thole_kv_v1_Command_mutable_lease_revoke(m, arena);
        etcdserverpb_LeaseRevokeRequest_set_ID(v, (int64_t)rand_below(r, 4));
        break;
    }
    case 3: {
        etcdserverpb_DeleteRangeRequest *d = thole_kv_v1_Command_mutable_delete_range(m, arena);
        etcdserverpb_DeleteRangeRequest_set_key(d, random_key(r, arena));
        etcdserverpb_DeleteRangeRequest_set_range_end(d, random_key(r, arena));
        etcdserverpb_DeleteRangeRequest_set_prev_kv(d, true);
        break;
    }
    case 4:
    case 5:
    case 6:
        random_txn(r, thole_kv_v1_Command_mutable_txn(m, arena), arena);
        break;
    default:
        random_put(r, thole_kv_v1_Command_mutable_put(m, arena), arena);
        break;
    }
    char *data = thole_kv_v1_Command_serialize(m, arena, &size);
    uint8_t *bytes = upb_Arena_Malloc(arena, size + 1);
    bytes[0] = 0;
    memcpy(bytes + 1, data, size);
    return slice_of(bytes, size + 1);
}

static uint64_t apply_messages(struct test_machine *t, const struct slice *messages, size_t n,
                               size_t index, uint64_t hash)
{
    struct thole_entry e[BATCH_MAX] = {0};
    struct test_sink sinks[BATCH_MAX];

    for (size_t i = 0; i < n; i++) {
        e[i] = test_entry(index + i, messages[i], &sinks[i]);
    }
    struct thole_apply batch = test_batch(e, n);
    assert_int_equal(t->type->apply(t->m, &batch, NULL), THOLE_OK);
    for (size_t i = 0; i < n; i++) {
        hash = hash64(sinks[i].out.data, sinks[i].out.size, hash + e[i].code);
        bytes_deinit(&sinks[i].out);
    }
    return hash;
}

static void restore_elsewhere(struct test_machine *t)
{
    struct bytes snapshot = {0};

    test_save(t, &snapshot);
    t->type->close(t->m);
    t->env.generation++;
    assert_int_equal(t->type->open(&t->env, &t->m, NULL), THOLE_OK);
    assert_int_equal(test_restore(t, bytes_slice(&snapshot), 0, NULL), THOLE_OK);
    bytes_deinit(&snapshot);
}

/* One replica applies message by message. The other applies batches, restarts, and goes on from
 * snapshots. Answers and every record must be equal, whatever compaction has deleted so far. */
static void test_kv_messages_in_batches_and_from_snapshots(void **state)
{
    const char *text = getenv("THOLE_SEED");
    uint64_t seed = text != NULL ? strtoull(text, NULL, 10) : (uint64_t)time(NULL);
    static struct slice messages[COMMANDS];
    struct bytes first = {0}, second = {0};
    upb_Arena *arena = upb_Arena_New();
    struct test_machine t, u;
    uint64_t a = 0, b = 0;
    struct rand r;

    (void)state;
    print_message("THOLE_SEED=%" PRIu64 "\n", seed);
    rand_seed(&r, seed);
    test_machine_init(&t, &machine_kv);
    test_machine_init(&u, &machine_kv);
    for (size_t i = 0; i < COMMANDS; i++) {
        messages[i] = random_message(&r, i / 2, arena);
        a = apply_messages(&t, &messages[i], 1, i + 1, a);
    }
    for (size_t i = 0, n; i < COMMANDS; i += n) {
        n = 1 + rand_below(&r, BATCH_MAX);
        n = n < COMMANDS - i ? n : COMMANDS - i;
        b = apply_messages(&u, messages + i, n, i + 1, b);
        if (rand_chance(&r, 0.05)) {
            test_machine_reopen(&u);
        } else if (rand_chance(&r, 0.05)) {
            restore_elsewhere(&u);
        }
    }
    assert_true(a == b);
    test_save(&t, &first);
    test_save(&u, &second);
    assert_true(slice_equal(bytes_slice(&first), bytes_slice(&second)));
    bytes_deinit(&first);
    bytes_deinit(&second);
    test_machine_deinit(&t);
    test_machine_deinit(&u);
    upb_Arena_Free(arena);
}

/* ---- Beside apply ---------------------------------------------------------------------------- */

struct shared {
    struct test_machine *t;
    pthread_mutex_t lock; /* apply and view_acquire never overlap: the engine guarantees that */
    _Atomic bool stop;
    _Atomic uint64_t asked;
};

/* Both keys are always written in one batch, so every view has them equal. */
static void *ask(void *arg)
{
    struct shared *h = arg;
    const struct thole_machine_type *type = h->t->type;
    static const char *const queries[] = {"get a", "get b"};

    while (!h->stop) {
        struct test_sink out[2];
        void *view = NULL;

        pthread_mutex_lock(&h->lock);
        enum thole_code code = type->view_acquire(h->t->m, &view, NULL);
        pthread_mutex_unlock(&h->lock);
        for (int i = 0; i < 2 && code == THOLE_OK; i++) {
            test_sink_init(&out[i]);
            code =
                type->query(h->t->m, view, (struct thole_slice){queries[i], 5}, &out[i].base, NULL);
        }
        if (code != THOLE_OK || !slice_equal(bytes_slice(&out[0].out), bytes_slice(&out[1].out))) {
            abort(); /* not cmocka's assertion: this is another thread */
        }
        bytes_deinit(&out[0].out);
        bytes_deinit(&out[1].out);
        type->view_release(h->t->m, view);
        h->asked++;
    }
    return NULL;
}

static void test_kv_queries_beside_apply(void **state)
{
    static char commands[2][COMMAND_BYTES];
    struct test_machine t;
    struct shared h = {.t = &t};
    pthread_t threads[2];

    (void)state;
    test_machine_init(&t, &machine_kv);
    pthread_mutex_init(&h.lock, NULL);
    snprintf(commands[0], COMMAND_BYTES, "put a 0");
    snprintf(commands[1], COMMAND_BYTES, "put b 0");
    apply_batch(&t, commands, 0, 2, 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, ask, &h), 0);
    }
    for (int i = 1; i < 2000 || h.asked < 100; i++) {
        snprintf(commands[0], COMMAND_BYTES, "put a %d", i);
        snprintf(commands[1], COMMAND_BYTES, "put b %d", i);
        pthread_mutex_lock(&h.lock);
        apply_batch(&t, commands, 0, 2, 0);
        pthread_mutex_unlock(&h.lock);
    }
    h.stop = true;
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    pthread_mutex_destroy(&h.lock);
    test_machine_deinit(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kv_batching_changes_nothing),
        cmocka_unit_test(test_kv_messages_in_batches_and_from_snapshots),
        cmocka_unit_test(test_kv_queries_beside_apply),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
