/* Requests with a key to a pool: over gRPC, and by handles of the library on hosts and clients. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/services/test/services_fixture.h"
#include "base/limits.h"
#include "base/slot.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#define SHARDS 5
#define KEYS 60

/* count 0: as the server chooses. */
static const thole_v1_ShardPool *update_pool(struct services_fixture *f, const char *name,
                                             uint32_t count, bool keys)
{
    thole_v1_UpdatePoolRequest *q = NEW(f, UpdatePoolRequest);
    thole_v1_ShardPool *pool = thole_v1_UpdatePoolRequest_mutable_pool(q, f->arena);
    thole_v1_ShardPoolSpec *spec = thole_v1_ShardPool_mutable_spec(pool, f->arena);
    thole_v1_ShardSpec *shard = thole_v1_ShardPoolSpec_mutable_shard(spec, f->arena);
    thole_v1_UpdatePoolRequest_set_allow_missing(q, true);
    thole_v1_ShardPool_set_name(pool, sv(name));
    thole_v1_ShardPoolSpec_set_count(spec, count);
    thole_v1_ShardPoolSpec_set_keys(spec, keys ? thole_v1_POOL_KEYS_SLOTS
                                               : thole_v1_POOL_KEYS_UNSPECIFIED);
    thole_v1_ShardSpec_set_type(shard, sv("counter"));
    thole_v1_ShardSpec_set_voters(shard, 1);
    return CALL(f, Pools, UpdatePool, q, ShardPool);
}

static const thole_v1_ShardPool *get_pool(struct services_fixture *f, const char *name)
{
    thole_v1_GetPoolRequest *q = NEW(f, GetPoolRequest);
    thole_v1_GetPoolRequest_set_name(q, sv(name));
    return CALL(f, Pools, GetPool, q, ShardPool);
}

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

static void make_pool(struct services_fixture *f, const char *name, uint32_t count, bool keys)
{
    assert_non_null(update_pool(f, name, count, keys));
    for (int tries = 0; tries < 1000; tries++) {
        const thole_v1_ShardPool *pool = get_pool(f, name);
        assert_non_null(pool);
        if (thole_v1_ShardPoolStatus_ready(thole_v1_ShardPool_status(pool)) == count) {
            return;
        }
        pause_ms(20);
    }
    fail_msg("the pool is not ready");
}

static void delete_pool(struct services_fixture *f, const char *name)
{
    thole_v1_DeletePoolRequest *q = NEW(f, DeletePoolRequest);
    thole_v1_DeletePoolRequest_set_name(q, sv(name));
    assert_non_null(CALL(f, Pools, DeletePool, q, DeletePoolResponse));
    for (int tries = 0; tries < 1000; tries++) {
        if (get_pool(f, name) == NULL) {
            return;
        }
        pause_ms(20);
    }
    fail_msg("the pool is not gone");
}

static const thole_v1_ProposeResponse *propose(struct services_fixture *f, const char *name,
                                               upb_StringView key)
{
    thole_v1_ProposeRequest *q = NEW(f, ProposeRequest);
    thole_v1_ProposeRequest_set_shard(q, sv(name));
    thole_v1_ProposeRequest_set_key(q, key);
    thole_v1_ProposeRequest_set_text(q, sv("add 1"));
    return CALL(f, Data, Propose, q, ProposeResponse);
}

/* The counter of a shard, or -1. */
static long query(struct services_fixture *f, const char *name, upb_StringView key)
{
    thole_v1_QueryRequest *q = NEW(f, QueryRequest);
    thole_v1_QueryRequest_set_shard(q, sv(name));
    thole_v1_QueryRequest_set_key(q, key);
    thole_v1_QueryRequest_set_text(q, sv("get"));
    const thole_v1_QueryResponse *r = CALL(f, Data, Query, q, QueryResponse);
    if (r == NULL) {
        return -1;
    }
    char text[32] = "";
    upb_StringView data = thole_v1_QueryResponse_data(r);
    memcpy(text, data.data, data.size < sizeof text ? data.size : sizeof text - 1);
    return atol(text);
}

static const char *key_of(int i, char ret[static 16])
{
    snprintf(ret, 16, "key%d", i);
    return ret;
}

/* How often the keys are in the shard i of n. */
static long keys_of(uint32_t i, uint32_t n)
{
    long count = 0;
    for (int k = 0; k < KEYS; k++) {
        char key[16];
        count += slot_shard(slot_of_key(slice_str(key_of(k, key))), n) == i;
    }
    return count;
}

static void assert_counts(struct services_fixture *f, const char *pool, uint32_t shards, long times)
{
    for (uint32_t i = 0; i < shards; i++) {
        char name[32];
        snprintf(name, sizeof name, "%s-%u", pool, (unsigned)i);
        assert_int_equal(query(f, name, sv("")), times * keys_of(i, shards));
    }
}

/* ---- Over gRPC ------------------------------------------------------------------------------- */

static void test_a_key_finds_the_shard_that_owns_its_slot(void **state)
{
    struct services_fixture *f = *state;
    make_pool(f, "k", SHARDS, true);
    for (int i = 0; i < KEYS; i++) {
        char key[16];
        assert_non_null(propose(f, "k", sv(key_of(i, key))));
    }
    assert_counts(f, "k", SHARDS, 1);
    uint32_t shard = slot_shard(slot_of_key(slice_str("key7")), SHARDS);
    assert_int_equal(query(f, "k", sv("key7")), keys_of(shard, SHARDS));
    assert_int_equal(query(f, "k", sv("any{key7}tag")), keys_of(shard, SHARDS));

    /* A session belongs to the shard of its key. */
    thole_v1_OpenSessionRequest *o = NEW(f, OpenSessionRequest);
    thole_v1_OpenSessionRequest_set_shard(o, sv("k"));
    thole_v1_OpenSessionRequest_set_key(o, sv("key7"));
    const thole_v1_OpenSessionResponse *session =
        CALL(f, Data, OpenSession, o, OpenSessionResponse);
    assert_non_null(session);
    for (int i = 0; i < 2; i++) {
        thole_v1_ProposeRequest *q = NEW(f, ProposeRequest);
        thole_v1_ProposeRequest_set_shard(q, sv("k"));
        thole_v1_ProposeRequest_set_key(q, sv("key7"));
        thole_v1_ProposeRequest_set_text(q, sv("add 1"));
        thole_v1_ProposeRequest_set_session(q, thole_v1_OpenSessionResponse_session(session));
        thole_v1_ProposeRequest_set_sequence(q, 1);
        const thole_v1_ProposeResponse *r = CALL(f, Data, Propose, q, ProposeResponse);
        assert_non_null(r);
        assert_int_equal(thole_v1_ProposeResponse_duplicate(r), i == 1);
    }
}

/* `field` and `code` of the failure of a proposal. */
static void assert_refused(struct services_fixture *f, const char *name, upb_StringView key,
                           enum thole_code code, enum thole_reason reason, const char *message)
{
    assert_failed(f, propose(f, name, key), code, reason);
    if (strstr(f->st.message, message) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", f->st.message, message);
    }
}

static void test_wrong_keys_are_refused_with_the_reason(void **state)
{
    struct services_fixture *f = *state;
    make_pool(f, "keyed", 2, true);
    make_pool(f, "plain", 1, false);
    assert_refused(f, "keyed", sv(""), THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                   "key: is needed: \"keyed\" is a pool with keys");
    assert_refused(f, "plain", sv("a"), THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                   "key: must be left out: \"plain\" is not a pool with keys");
    assert_refused(f, "keyed-0", sv("a"), THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                   "key: must be left out: \"keyed-0\" is not a pool with keys");
    assert_refused(f, "none", sv("a"), THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD,
                   "pool \"none\" not found");
    assert_refused(f, "plain", sv(""), THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD,
                   "name one of its shards, \"plain-0\"");
    assert_refused(f, "none", sv(""), THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD,
                   "shard \"none\" not found");
    static char large[LIMIT_KEY_BYTES + 1];
    memset(large, 'k', sizeof large);
    assert_non_null(propose(f, "keyed", (upb_StringView){large, LIMIT_KEY_BYTES}));
    assert_refused(f, "keyed", (upb_StringView){large, sizeof large}, THOLE_INVALID_ARGUMENT,
                   THOLE_REASON_TOO_LARGE, "key: has 65537 bytes");
    assert_failed(f, update_pool(f, "keyed", 3, true), THOLE_FAILED_PRECONDITION,
                  THOLE_REASON_BAD_REQUEST);
}

/* The pool's third shard cannot be created: a shard of another owner has its name, and must not get
 * the pool's requests. */
static void test_a_foreign_shard_gets_no_requests_of_the_pool(void **state)
{
    struct services_fixture *f = *state;
    services_fixture_create(f, "partly-2", "counter");
    services_fixture_wait_ready(f, "partly-2");
    assert_non_null(update_pool(f, "partly", 3, true));
    int refused = 0;
    for (int i = 0; i < KEYS; i++) {
        char key[16];
        bool foreign = slot_shard(slot_of_key(slice_str(key_of(i, key))), 3) == 2;
        for (int tries = 0; tries < 200 && !foreign; tries++) {
            if (propose(f, "partly", sv(key)) != NULL) {
                break;
            }
            pause_ms(20); /* the others are being created */
        }
        if (foreign) {
            assert_refused(f, "partly", sv(key), THOLE_UNAVAILABLE, THOLE_REASON_NOT_READY,
                           "the pool has not created its shard \"partly-2\" yet");
            refused++;
        }
    }
    assert_true(refused > 0);
    assert_int_equal(query(f, "partly-2", sv("")), 0);
}

/* ---- By the library -------------------------------------------------------------------------- */

static void propose_all(struct thole *t, struct thole_shard *pool)
{
    for (int i = 0; i < KEYS; i++) {
        char key[16];
        struct thole_status st = {0};
        const struct thole_op op = {.kind = THOLE_PROPOSE,
                                    .shard = pool,
                                    .payload = {.data = "add 1", .size = 5},
                                    .key = {.data = key_of(i, key), .size = strlen(key)}};
        if (thole_call(t, &op, NULL, &st) != THOLE_OK) {
            fail_msg("%s: %s", key, st.message);
        }
    }
}

struct seen {
    _Atomic int bookmarks, events, ended;
};

static void on_event(void *ctx, uint64_t index, struct thole_slice key, struct thole_slice event,
                     bool bookmark)
{
    struct seen *s = ctx;
    (void)index;
    (void)key;
    (void)event;
    s->bookmarks += bookmark;
    s->events += !bookmark;
}

static void on_end(void *ctx, const struct thole_status *st)
{
    struct seen *s = ctx;
    (void)st;
    s->ended++;
}

static void wait_for(_Atomic int *count)
{
    for (int tries = 0; tries < 1000 && *count == 0; tries++) {
        pause_ms(10);
    }
    assert_true(*count > 0);
}

/* Handles that were opened with a key, and watches. */
static void check_opened_with_key(struct thole *t, struct services_fixture *f)
{
    struct thole_shard *s = NULL;
    struct thole_status st = {0};
    const struct thole_slice key = {.data = "key7", .size = 4};
    uint64_t id = 0, session = 0;
    struct seen seen = {0};
    const struct thole_watcher w = {.ctx = &seen, .event = on_event, .ended = on_end};
    long before = query(f, "k", sv("key7"));
    assert_int_equal(thole_shard_open_key(t, "k", key, &s, &st), THOLE_OK);
    assert_int_equal(thole_watch(t, s, &w, &id, &st), THOLE_OK);
    wait_for(&seen.bookmarks);
    assert_int_equal(thole_session_open(t, s, 5000, &session, &st), THOLE_OK);
    struct thole_op op = {.kind = THOLE_PROPOSE,
                          .shard = s,
                          .payload = {.data = "add 1", .size = 5},
                          .session = session,
                          .sequence = 1};
    for (int i = 0; i < 2; i++) {
        struct thole_answer answer = {0};
        assert_int_equal(thole_call(t, &op, &answer, &st), THOLE_OK);
        assert_int_equal(answer.duplicate, i == 1);
        free(answer.data);
    }
    wait_for(&seen.events);
    assert_int_equal(query(f, "k", sv("key7")), before + 1);
    op.key = key; /* which key? */
    assert_int_equal(thole_call(t, &op, NULL, &st), THOLE_INVALID_ARGUMENT);
    thole_unwatch(t, id);
    wait_for(&seen.ended);
    thole_shard_release(s);
}

static void test_handles_of_a_pool_find_shards_by_key(void **state)
{
    struct services_fixture *f = *state;
    struct thole *client = NULL;
    struct thole_shard *by_host = NULL, *by_client = NULL;
    struct thole_status st = {0};
    make_pool(f, "k", SHARDS, true);
    assert_int_equal(thole_connect(thole_address(f->host), &client, &st), THOLE_OK);
    assert_int_equal(thole_shard_open(f->host, "k", &by_host, &st), THOLE_OK);
    assert_int_equal(thole_shard_open(client, "k", &by_client, &st), THOLE_OK);
    for (int times = 1; times <= 4; times += 2) {
        propose_all(f->host, by_host);
        propose_all(client, by_client);
        assert_counts(f, "k", SHARDS, times + 1);
    }
    check_opened_with_key(f->host, f);
    check_opened_with_key(client, f);

    struct thole_op op = {.kind = THOLE_QUERY, .shard = by_client};
    assert_int_equal(thole_call(client, &op, NULL, &st), THOLE_INVALID_ARGUMENT);
    op.shard = by_host;
    assert_int_equal(thole_call(f->host, &op, NULL, &st), THOLE_INVALID_ARGUMENT);

    /* Another pool gets the name, with another count: what the handles know is void, and no
     * operation may reach the shard that owned the key in the first pool. */
    delete_pool(f, "k");
    make_pool(f, "k", 2 * SHARDS, true);
    propose_all(f->host, by_host);
    propose_all(client, by_client);
    assert_counts(f, "k", 2 * SHARDS, 2);
    struct thole_shard *again = thole_shard_ref(by_client);
    thole_shard_release(by_client);
    propose_all(client, again);
    thole_shard_release(by_host);
    thole_close(client);
    thole_shard_release(again); /* a handle may outlive what it was opened on */
}

static int setup(void **state)
{
    *state = services_fixture_new();
    return 0;
}

static int teardown(void **state)
{
    services_fixture_free(*state);
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_key_finds_the_shard_that_owns_its_slot),
        TEST(test_wrong_keys_are_refused_with_the_reason),
        TEST(test_a_foreign_shard_gets_no_requests_of_the_pool),
        TEST(test_handles_of_a_pool_find_shards_by_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
