/* The public API: a host, a client of it, batches, sessions, watches, views. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thole/thole.h>
#include <time.h>

#include "agent/core/test/agent_fixture.h"
#include "shards/machine/builtin.h"

#include <cmocka.h>

struct world {
    struct fixture *f;
    struct thole *host, *client;
    struct thole_shard *on_host, *on_client;
};

static struct thole *start_host(struct fixture *f, int i, const char *name)
{
    struct thole_options o = THOLE_OPTIONS_INIT;
    struct thole_status st = {0};
    struct thole *t = NULL;
    char *dir = fixture_dir(f, i);
    o.data_dir = dir;
    o.listen = fixture_address(f, i);
    o.name = name;
    o.bootstrap = THOLE_BOOTSTRAP_DEV;
    o.election_timeout_ms = 200;
    o.heartbeat_ms = 40;
    o.tags = (const char *const[]){"zone=a", NULL};
    assert_int_equal(thole_new(&o, &t, &st), THOLE_OK);
    free(dir);
    if (thole_start(t, &st) != THOLE_OK || thole_wait_ready(t, 20000, &st) != THOLE_OK) {
        fail_msg("host does not start: %s", st.message);
    }
    return t;
}

static int set_up(void **state)
{
    struct thole_status st = {0};
    struct world *w = calloc(1, sizeof *w);
    w->f = fixture_new(1);
    w->host = start_host(w->f, 0, "h1");
    if (thole_connect(fixture_address(w->f, 0), &w->client, &st) != THOLE_OK) {
        fail_msg("client does not connect: %s", st.message);
    }
    const struct thole_shard_spec spec = {
        .size = sizeof spec, .name = "c", .type = "counter", .voters = 1};
    if (thole_shard_create(w->client, &spec, 10000, &st) != THOLE_OK ||
        thole_shard_wait_ready(w->host, "c", 20000, &st) != THOLE_OK) {
        fail_msg("shard: %s", st.message);
    }
    assert_int_equal(thole_shard_open(w->host, "c", &w->on_host, &st), THOLE_OK);
    assert_int_equal(thole_shard_open(w->client, "c", &w->on_client, &st), THOLE_OK);
    *state = w;
    return 0;
}

static int tear_down(void **state)
{
    struct world *w = *state;
    thole_shard_release(w->on_host);
    thole_shard_release(w->on_client);
    thole_close(w->client);
    thole_close(w->host);
    fixture_free(w->f);
    free(w);
    return 0;
}

static struct thole_op add(struct thole_shard *s, const char *text)
{
    return (struct thole_op){
        .kind = THOLE_PROPOSE, .shard = s, .payload = {.data = text, .size = strlen(text)}};
}

static void call_is(struct thole *t, const struct thole_op *op, const char *want)
{
    struct thole_answer a;
    struct thole_status st = {0};
    if (thole_call(t, op, &a, &st) != THOLE_OK) {
        fail_msg("call: %s", st.message);
    }
    assert_string_equal(a.data, want);
    free(a.data);
}

static void test_host_and_client_propose_and_query(void **state)
{
    struct world *w = *state;
    struct thole_op a = add(w->on_host, "add 2"), b = add(w->on_client, "add 3");
    call_is(w->host, &a, "2");
    call_is(w->client, &b, "5");
    struct thole_op q = {.kind = THOLE_QUERY, .payload = {.data = "get", .size = 3}};
    q.shard = w->on_host;
    call_is(w->host, &q, "5");
    q.shard = w->on_client;
    call_is(w->client, &q, "5");
    q.flags = THOLE_STALE;
    call_is(w->client, &q, "5");
}

static void test_unknown_shard_is_not_found(void **state)
{
    struct world *w = *state;
    struct thole_shard *s;
    struct thole_status st = {0};
    assert_int_equal(thole_shard_open(w->client, "nothing", &s, NULL), THOLE_OK);
    struct thole_op op = add(s, "add 1");
    assert_int_equal(thole_call(w->client, &op, NULL, &st), THOLE_NOT_FOUND);
    assert_int_equal(st.reason, THOLE_REASON_NO_SUCH_SHARD);
    thole_shard_release(s);
    assert_int_equal(thole_shard_open(w->client, "Not A Name", &s, NULL), THOLE_INVALID_ARGUMENT);
}

static void delete_and_wait(struct thole *t, const char *name)
{
    struct thole_status st = {0};
    bool there = true;
    assert_int_equal(thole_shard_delete(t, name, 10000, &st), THOLE_OK);
    for (int i = 0; there && i < 1000; i++) {
        struct thole_view *v;
        struct thole_shard_info info = {.size = sizeof info};
        assert_int_equal(thole_view_acquire(t, true, 10000, &v, &st), THOLE_OK);
        there = thole_view_shard(v, name, &info);
        thole_view_release(v);
        if (there) {
            fixture_pause_ms(10);
        }
    }
    assert_false(there);
}

/* A handle that was used before finds the shard that has the name now, at its first request. */
static void test_created_again_shard_is_found_by_old_handles(void **state)
{
    struct world *w = *state;
    struct thole *handles[] = {w->host, w->client};
    struct thole_shard *shards[2];
    struct thole_status st = {0};
    const struct thole_shard_spec spec = {
        .size = sizeof spec, .name = "again", .type = "counter", .voters = 1};
    for (int round = 0; round < 2; round++) {
        assert_int_equal(thole_shard_create(w->host, &spec, 10000, &st), THOLE_OK);
        assert_int_equal(thole_shard_wait_ready(w->host, "again", 20000, &st), THOLE_OK);
        for (int i = 0; i < 2; i++) {
            if (round == 0) {
                assert_int_equal(thole_shard_open(handles[i], "again", &shards[i], &st), THOLE_OK);
            }
            struct thole_op op = add(shards[i], "add 1");
            call_is(handles[i], &op, i == 0 ? "1" : "2");
        }
        delete_and_wait(w->host, "again");
    }
    struct thole_op op = add(shards[0], "add 1");
    assert_int_equal(thole_call(handles[0], &op, NULL, &st), THOLE_NOT_FOUND);
    thole_shard_release(shards[0]);
    thole_shard_release(shards[1]);
}

#define BATCH 500
struct batch {
    _Atomic int done, failed, calls;
    bool seen[BATCH];
};

static void collect(void *ctx, const struct thole_result *results, size_t count)
{
    struct batch *b = ctx;
    for (size_t i = 0; i < count; i++) {
        size_t k = (size_t)(uintptr_t)results[i].user;
        if (results[i].code != THOLE_OK || b->seen[k]) {
            atomic_fetch_add(&b->failed, 1);
        }
        b->seen[k] = true;
    }
    atomic_fetch_add(&b->calls, 1);
    atomic_fetch_add(&b->done, (int)count);
}

static void submit_batch(struct thole *t, struct thole_shard *s)
{
    struct batch *b = calloc(1, sizeof *b);
    struct thole_op *ops = calloc(BATCH, sizeof *ops);
    struct thole_status st = {0};
    for (size_t i = 0; i < BATCH; i++) {
        ops[i] = add(s, "add 1");
        ops[i].user = (void *)(uintptr_t)i;
    }
    assert_int_equal(thole_submit(t, ops, BATCH, collect, b, &st), THOLE_OK);
    for (int k = 0; k < 2000 && atomic_load(&b->done) < BATCH; k++) {
        fixture_pause_ms(5);
    }
    assert_int_equal(atomic_load(&b->done), BATCH);
    assert_int_equal(atomic_load(&b->failed), 0);
    assert_true(atomic_load(&b->calls) < BATCH);
    free(ops);
    free(b);
}

static void test_batches_complete_once_each(void **state)
{
    struct world *w = *state;
    submit_batch(w->host, w->on_host);
    submit_batch(w->client, w->on_client);
}

static void test_session_applies_a_retry_once(void **state)
{
    struct world *w = *state;
    struct thole_status st = {0};
    struct thole_answer a, b;
    uint64_t session = 0;
    if (thole_session_open(w->client, w->on_client, 5000, &session, &st) != THOLE_OK) {
        fail_msg("session: %s", st.message);
    }
    assert_int_not_equal(session, 0);
    struct thole_op op = add(w->on_client, "add 100");
    op.session = session;
    op.sequence = 1;
    assert_int_equal(thole_call(w->client, &op, &a, &st), THOLE_OK);
    assert_false(a.duplicate);
    op.shard = w->on_host;
    assert_int_equal(thole_call(w->host, &op, &b, &st), THOLE_OK);
    assert_true(b.duplicate);
    assert_int_equal(a.size, b.size);
    assert_memory_equal(a.data, b.data, a.size);
    free(a.data);
    free(b.data);
    op.session = 12345678;
    assert_int_equal(thole_call(w->host, &op, NULL, &st), THOLE_FAILED_PRECONDITION);
    assert_int_equal(st.reason, THOLE_REASON_SESSION_EXPIRED);
}

static void test_request_id_applies_a_retry_once(void **state)
{
    struct world *w = *state;
    struct thole_status st = {0};
    struct thole_answer a, b;
    struct thole_op op = add(w->on_client, "add 1000");
    op.request_id = (struct thole_slice){"once\0more", 9};
    assert_int_equal(thole_call(w->client, &op, &a, &st), THOLE_OK);
    assert_false(a.duplicate);
    op.shard = w->on_host;
    assert_int_equal(thole_call(w->host, &op, &b, &st), THOLE_OK);
    assert_true(b.duplicate && !b.forgotten);
    assert_int_equal(a.index, b.index);
    assert_int_equal(a.size, b.size);
    assert_memory_equal(a.data, b.data, a.size);
    free(a.data);
    free(b.data);
    op.session = op.sequence = 1;
    assert_int_equal(thole_call(w->host, &op, NULL, &st), THOLE_INVALID_ARGUMENT);
    op.session = op.sequence = 0;
    op.request_id = (struct thole_slice){"longer than sixty-four bytes: 0123456789 0123456789 "
                                         "0123456789 0123456789",
                                         73};
    assert_int_equal(thole_call(w->host, &op, NULL, &st), THOLE_INVALID_ARGUMENT);
    assert_int_equal(st.reason, THOLE_REASON_TOO_LARGE);
}

static void test_session_is_closed(void **state)
{
    struct world *w = *state;
    struct thole_status st = {0};
    uint64_t session = 0;
    assert_int_equal(thole_session_open(w->client, w->on_client, 5000, &session, &st), THOLE_OK);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(thole_session_close(w->client, w->on_client, session, 5000, &st),
                         THOLE_OK);
    }
    struct thole_op op = add(w->on_client, "add 1");
    op.session = session;
    op.sequence = 1;
    assert_int_equal(thole_call(w->client, &op, NULL, &st), THOLE_FAILED_PRECONDITION);
    assert_int_equal(st.reason, THOLE_REASON_SESSION_EXPIRED);
    assert_int_equal(thole_session_close(w->client, w->on_client, 0, 5000, &st),
                     THOLE_INVALID_ARGUMENT);
}

/* ---- Watches --------------------------------------------------------------------------------- */

struct seen {
    _Atomic int bookmarks, events, ended;
    enum thole_code why;
};

static void on_event(void *ctx, uint64_t index, struct thole_slice key, struct thole_slice event,
                     bool bookmark)
{
    struct seen *s = ctx;
    (void)index;
    (void)key;
    (void)event;
    atomic_fetch_add(bookmark ? &s->bookmarks : &s->events, 1);
}

static void on_ended(void *ctx, const struct thole_status *st)
{
    struct seen *s = ctx;
    s->why = st->code;
    atomic_fetch_add(&s->ended, 1);
}

static void wait_for(_Atomic int *value, int at_least)
{
    for (int k = 0; k < 2000 && atomic_load(value) < at_least; k++) {
        fixture_pause_ms(5);
    }
    assert_true(atomic_load(value) >= at_least);
}

static void watch_works(struct thole *t, struct thole_shard *s, const char *kv_put)
{
    struct seen seen = {0};
    struct thole_status st = {0};
    const struct thole_watcher w = {.ctx = &seen, .event = on_event, .ended = on_ended};
    uint64_t id = 0;
    assert_int_equal(thole_watch(t, s, &w, &id, &st), THOLE_OK);
    wait_for(&seen.bookmarks, 1);
    if (kv_put != NULL) {
        struct thole_op op = add(s, kv_put);
        assert_int_equal(thole_call(t, &op, NULL, &st), THOLE_OK);
        wait_for(&seen.events, 1);
    }
    thole_unwatch(t, id);
    wait_for(&seen.ended, 1);
    assert_int_equal(seen.why, THOLE_CANCELLED);
    thole_unwatch(t, id);
}

static void test_watch_sees_changes_and_ends_once(void **state)
{
    struct world *w = *state;
    struct thole_status st = {0};
    struct thole_shard *h, *c;
    const struct thole_shard_spec spec = {
        .size = sizeof spec, .name = "k", .type = "kv", .voters = 1};
    assert_int_equal(thole_shard_apply(w->client, &spec, 10000, &st), THOLE_OK);
    assert_int_equal(thole_shard_wait_ready(w->client, "k", 20000, &st), THOLE_OK);
    assert_int_equal(thole_shard_open(w->host, "k", &h, NULL), THOLE_OK);
    assert_int_equal(thole_shard_open(w->client, "k", &c, NULL), THOLE_OK);
    watch_works(w->host, h, "put colour blue");
    watch_works(w->client, c, "put colour red");
    watch_works(w->client, w->on_client, NULL);
    thole_shard_release(h);
    thole_shard_release(c);
}

/* ---- Views ----------------------------------------------------------------------------------- */

static void test_view_walks_hosts_shards_and_replicas(void **state)
{
    struct world *w = *state;
    struct thole_status st = {0};
    struct thole_view *v = NULL;
    struct thole_host_info h = {.size = sizeof h};
    struct thole_shard_info s = {.size = sizeof s};
    struct thole_replica_info r = {.size = sizeof r};
    int shards = 0, replicas = 0;
    assert_int_equal(thole_view_acquire(w->client, false, 0, &v, &st), THOLE_FAILED_PRECONDITION);
    assert_int_equal(thole_view_acquire(w->host, true, 5000, &v, &st), THOLE_OK);
    assert_true(thole_view_revision(v) > 0);
    assert_true(thole_view_next_host(v, &h));
    assert_string_equal(h.name, "h1");
    assert_string_equal(h.address, thole_address(w->host));
    assert_false(thole_view_next_host(v, &h));
    while (thole_view_next_shard(v, &s)) {
        shards++;
    }
    while (thole_view_next_replica(v, &r)) {
        replicas++;
    }
    assert_true(shards >= 2 && replicas >= 2);
    assert_true(thole_view_shard(v, "c", &s));
    assert_string_equal(s.type, "counter");
    assert_true(s.formed);
    assert_false(thole_view_shard(v, "nothing", &s));
    thole_view_release(v);
}

/* Log lines come from many threads, one at a time. */
struct logged {
    int of_h1, of_x1, of_none;
    int x1_leads_zero, x1_raft_debug;
    char unnamed[256];
};

static void note_line(void *ctx, const struct thole_log_line *line)
{
    struct logged *l = ctx;
    bool x1 = line->host != NULL && strcmp(line->host, "x1") == 0;
    bool raft = strcmp(line->subject, "raft") == 0;
    l->of_x1 += x1;
    l->of_h1 += line->host != NULL && strcmp(line->host, "h1") == 0;
    l->of_none += line->host == NULL;
    if (line->host == NULL) {
        snprintf(l->unnamed, sizeof l->unnamed, "%s", line->message);
    }
    l->x1_leads_zero += x1 && raft && line->level == THOLE_LOG_INFO &&
                        strstr(line->message, "became leader shard=zero ") != NULL;
    l->x1_raft_debug += x1 && raft && line->level == THOLE_LOG_DEBUG && line->replica_id != 0;
}

static void test_log_lines_name_the_host_they_are_of(void **state)
{
    struct world *w = *state;
    struct thole_status st = {0};
    struct logged logged = {0};
    assert_int_equal(thole_log_levels("loud", &st), THOLE_INVALID_ARGUMENT);
    assert_int_equal(thole_log_levels("info,raft=debug,hostctl=debug", &st), THOLE_OK);
    thole_log_to(note_line, &logged);
    struct thole *x1 = start_host(w->f, 1, "x1");
    const struct thole_shard_spec spec = {
        .size = sizeof spec, .name = "logged", .type = "counter", .voters = 1};
    assert_int_equal(thole_shard_create(w->host, &spec, 10000, &st), THOLE_OK);
    assert_int_equal(thole_shard_wait_ready(w->host, "logged", 20000, &st), THOLE_OK);
    thole_close(x1);
    thole_log_to(NULL, NULL);
    assert_int_equal(thole_log_levels("error", &st), THOLE_OK);
    if (logged.of_none > 0) {
        fail_msg("%d lines name no host, the last one: %s", logged.of_none, logged.unnamed);
    }
    assert_true(logged.of_h1 > 0 && logged.of_x1 > 0);
    assert_int_equal(logged.x1_leads_zero, 1);
    assert_true(logged.x1_raft_debug > 0);
}

static void test_client_waits_for_a_shard_with_the_longest_name(void **state)
{
    struct world *w = *state;
    struct thole_status st = {0};
    char name[THOLE_NAME_BYTES];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    const struct thole_shard_spec spec = {
        .size = sizeof spec, .name = name, .type = "counter", .voters = 1};
    assert_int_equal(thole_shard_create(w->client, &spec, 10000, &st), THOLE_OK);
    if (thole_shard_wait_ready(w->client, name, 20000, &st) != THOLE_OK) {
        fail_msg("%s", st.message);
    }
}

/* Processor time of this process, in ms. */
static uint64_t cpu_ms(void)
{
    struct timespec t;
    assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t), 0);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* A refused connection fails at once, and is not retried at once. */
static void test_client_that_waits_for_a_dead_host_rests(void **state)
{
    struct world *w = *state;
    struct thole_status st = {0};
    struct thole *client = NULL;
    struct thole *host = start_host(w->f, 2, "y1");
    assert_int_equal(thole_connect(fixture_address(w->f, 2), &client, &st), THOLE_OK);
    thole_close(host);
    uint64_t before = cpu_ms();
    assert_int_equal(thole_wait_ready(client, 2000, &st), THOLE_DEADLINE_EXCEEDED);
    assert_in_range(cpu_ms() - before, 0, 600);
    thole_close(client);
}

/* At the door, by the rule for the types of a spec. */
static void names_of_machine_types_are_checked(struct thole *t)
{
    static char longest[65], too_long[66];
    static const char *const bad[] = {too_long, "", "Kv", "k v", "caf\xc3\xa9", "registry"};
    struct thole_status st = {0};
    struct thole_machine_type type = machine_counter;
    memset(longest, 'a', 64);
    memset(too_long, 'a', 65);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        type.name = bad[i];
        assert_int_equal(thole_register(t, &type, &st), THOLE_INVALID_ARGUMENT);
        assert_int_equal(st.reason, THOLE_REASON_BAD_REQUEST);
    }
    type.name = longest;
    assert_int_equal(thole_register(t, &type, &st), THOLE_OK);
    assert_int_equal(thole_register(t, &type, &st), THOLE_ALREADY_EXISTS);
}

static void test_options_and_order_are_checked(void **state)
{
    struct world *w = *state;
    struct thole *t = NULL;
    struct thole_status st = {0};
    struct thole_options o = THOLE_OPTIONS_INIT;
    assert_string_equal(thole_version(), THOLE_VERSION);
    assert_int_equal(thole_new(&o, &t, &st), THOLE_INVALID_ARGUMENT);
    o.data_dir = "/nowhere";
    o.size = 0;
    assert_int_equal(thole_new(&o, &t, &st), THOLE_INVALID_ARGUMENT);
    o.size = sizeof o;
    assert_int_equal(thole_new(&o, &t, &st), THOLE_OK);
    struct thole_op op = add(w->on_host, "add 1");
    assert_int_equal(thole_call(t, &op, NULL, &st), THOLE_FAILED_PRECONDITION);
    names_of_machine_types_are_checked(t);
    thole_close(t);
    assert_int_equal(thole_register(w->host, &(struct thole_machine_type){0}, &st),
                     THOLE_FAILED_PRECONDITION);
    assert_int_equal(thole_start(w->host, &st), THOLE_FAILED_PRECONDITION);
    t = NULL;
    assert_int_equal(thole_connect("127.0.0.1:1", &t, &st), THOLE_UNAVAILABLE);
    assert_int_equal(thole_connect("nonsense", &t, &st), THOLE_INVALID_ARGUMENT);
}

/* Names, tags and specs that no standard client could read back, or that could not be stored. */
static void test_bad_text_is_refused_with_its_field(void **state)
{
    struct world *w = *state;
    static const char *const tags[] = {"zone",      "=a",       "zone=caf\xe9", "z\xff=a",
                                       "zone=a\nb", "zone=a b", "zone=\x1b[1m", "zone=a,b"};
    struct thole_options o = THOLE_OPTIONS_INIT;
    struct thole_status st = {0};
    struct thole *t = NULL;
    char text[200] = "zone=";
    memset(text + 5, 'a', 129);
    o.data_dir = "/nowhere";
    for (size_t i = 0; i <= sizeof tags / sizeof *tags; i++) {
        const char *one = i < sizeof tags / sizeof *tags ? tags[i] : text;
        o.tags = (const char *const[]){one, NULL};
        assert_int_equal(thole_new(&o, &t, &st), THOLE_OK);
        assert_int_equal(thole_start(t, &st), THOLE_INVALID_ARGUMENT);
        assert_non_null(strstr(st.message, "tag "));
        thole_close(t);
    }
    o.tags = (const char *const[]){"zone=a", "zone=b", NULL};
    assert_int_equal(thole_new(&o, &t, &st), THOLE_OK);
    assert_int_equal(thole_start(t, &st), THOLE_INVALID_ARGUMENT);
    assert_non_null(strstr(st.message, "twice"));
    thole_close(t);
    o.tags = NULL;
    o.name = "h%1";
    assert_int_equal(thole_new(&o, &t, &st), THOLE_OK);
    assert_int_equal(thole_start(t, &st), THOLE_INVALID_ARGUMENT);
    assert_non_null(strstr(st.message, "host name"));
    thole_close(t);

    struct thole_constraint k = {.key = "caf\xe9"};
    struct thole_shard_spec s = {.size = sizeof s, .name = "x%y", .type = "noop", .voters = 1};
    assert_int_equal(thole_shard_create(w->client, &s, 1000, &st), THOLE_INVALID_ARGUMENT);
    assert_non_null(strstr(st.message, "spec.name: \"x%y\""));
    s.name = "x";
    s.type = "a\nb";
    assert_int_equal(thole_shard_apply(w->host, &s, 1000, &st), THOLE_INVALID_ARGUMENT);
    assert_non_null(strstr(st.message, "spec.type: "));
    s.type = "noop";
    s.constraints = &k;
    s.constraint_count = 1;
    assert_int_equal(thole_shard_create(w->host, &s, 1000, &st), THOLE_INVALID_ARGUMENT);
    assert_non_null(strstr(st.message, "spec.constraints[0].key: is not valid UTF-8"));
    k = (struct thole_constraint){.key = "a", .values = (const char *const[]){"\xff", NULL}};
    assert_int_equal(thole_shard_create(w->host, &s, 1000, &st), THOLE_INVALID_ARGUMENT);
    assert_non_null(strstr(st.message, "spec.constraints[0].values: "));
    assert_int_equal(thole_shard_delete(w->client, "\xff", 1000, &st), THOLE_INVALID_ARGUMENT);
    assert_int_equal(thole_replica_create(w->host, "x", "\n", 1, 1000, NULL, &st),
                     THOLE_INVALID_ARGUMENT);
    assert_int_equal(thole_shard_wait_ready(w->client, "", 1000, &st), THOLE_INVALID_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_host_and_client_propose_and_query),
        cmocka_unit_test(test_unknown_shard_is_not_found),
        cmocka_unit_test(test_created_again_shard_is_found_by_old_handles),
        cmocka_unit_test(test_batches_complete_once_each),
        cmocka_unit_test(test_session_applies_a_retry_once),
        cmocka_unit_test(test_request_id_applies_a_retry_once),
        cmocka_unit_test(test_session_is_closed),
        cmocka_unit_test(test_watch_sees_changes_and_ends_once),
        cmocka_unit_test(test_view_walks_hosts_shards_and_replicas),
        cmocka_unit_test(test_client_waits_for_a_shard_with_the_longest_name),
        cmocka_unit_test(test_client_that_waits_for_a_dead_host_rests),
        cmocka_unit_test(test_log_lines_name_the_host_they_are_of),
        cmocka_unit_test(test_options_and_order_are_checked),
        cmocka_unit_test(test_bad_text_is_refused_with_its_field),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
