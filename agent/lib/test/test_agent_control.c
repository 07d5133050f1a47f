/* The control plane through the library, by a host and by a client. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thole/thole.h>

#include "agent/core/test/agent_fixture.h"

#include <cmocka.h>

struct world {
    struct fixture *f;
    struct thole *host, *client;
};

static int set_up(void **state)
{
    struct thole_status st = {0};
    struct world *w = calloc(1, sizeof *w);
    struct thole_options o = THOLE_OPTIONS_INIT;
    w->f = fixture_new(1);
    char *dir = fixture_dir(w->f, 0);
    o.data_dir = dir;
    o.listen = fixture_address(w->f, 0);
    o.name = "h1";
    o.bootstrap = THOLE_BOOTSTRAP_DEV;
    assert_int_equal(thole_new(&o, &w->host, &st), THOLE_OK);
    free(dir);
    assert_int_equal(thole_start(w->host, &st), THOLE_OK);
    assert_int_equal(thole_wait_ready(w->host, 20000, &st), THOLE_OK);
    assert_int_equal(thole_connect(thole_address(w->host), &w->client, &st), THOLE_OK);
    *state = w;
    return 0;
}

static int tear_down(void **state)
{
    struct world *w = *state;
    thole_close(w->client);
    thole_close(w->host);
    fixture_free(w->f);
    free(w);
    return 0;
}

static struct thole_slice text(const char *s)
{
    return (struct thole_slice){.data = s, .size = strlen(s)};
}

/* The answer, to be freed. */
static char *call(struct thole *t, const char *method, const char *json)
{
    struct thole_answer a = {0};
    struct thole_status st = {0};
    if (thole_control(t, method, THOLE_JSON, text(json), 20000, &a, &st) != THOLE_OK) {
        fail_msg("%s: %s", method, st.message);
    }
    assert_int_equal(strlen(a.data), a.size);
    return a.data;
}

static void call_has(struct thole *t, const char *method, const char *json, const char *want)
{
    char *answer = call(t, method, json);
    if (strstr(answer, want) == NULL) {
        fail_msg("%s answers %s", method, answer);
    }
    free(answer);
}

static void call_fails(struct thole *t, const char *method, const char *json, enum thole_code code,
                       const char *message)
{
    struct thole_status st = {0};
    assert_int_equal(thole_control(t, method, THOLE_JSON, text(json), 5000, NULL, &st), code);
    if (strstr(st.message, message) == NULL) {
        fail_msg("%s: %s", method, st.message);
    }
}

/* Everything that the typed functions lack: pools, all fields of a spec, transfers, operations. */
static void use_the_control_plane(struct thole *t, const char *name)
{
    char json[400];
    struct thole_status st = {0};
    snprintf(json, sizeof json,
             "{\"allowMissing\": true, \"pool\": {\"name\": \"p%s\", \"spec\": {\"count\": 2, "
             "\"keys\": \"POOL_KEYS_SLOTS\", \"shard\": {\"type\": \"kv\", \"voters\": 1}}}}",
             name);
    call_has(t, "Pools/UpdatePool", json, "\"count\":2");
    snprintf(json, sizeof json,
             "{\"shard\": {\"name\": \"%s\", \"spec\": {\"type\": \"kv\", \"voters\": 1, "
             "\"spread\": [\"zone\"], \"nonVoting\": [{\"cover\": true}], \"leaderPreference\": "
             "[{\"key\": \"zone\", \"operator\": \"CONSTRAINT_OPERATOR_EXISTS\"}]}}}",
             name);
    call_has(t, "Shards/CreateShard", json, "\"spread\":[\"zone\"]");
    assert_int_equal(thole_shard_wait_ready(t, name, 20000, &st), THOLE_OK);
    snprintf(json, sizeof json, "{\"shard\": \"%s\", \"host\": \"h1\"}", name);
    call_has(t, "Shards/TransferLeader", json, "\"leaderHost\":\"h1\"");
    call_has(t, "Operations/ListOperations", "{}", "{");
    snprintf(json, sizeof json, "{\"object\": \"shards/%s\"}", name);
    call_has(t, "Events/ListEvents", json, "ShardCreated");

    call_fails(t, "Shards/CreateShard", "{\"shard\": {\"name\": \"No\"}}", THOLE_INVALID_ARGUMENT,
               "shard.name");
    call_fails(t, "Shards/GetShard", "{\"name\": \"none\"}", THOLE_NOT_FOUND, "none");
    call_fails(t, "Shards/GetShard", "{\"nam\": \"x\"}", THOLE_INVALID_ARGUMENT, "request: ");
    call_fails(t, "Shards/GetShard", "{", THOLE_INVALID_ARGUMENT, "request: ");
    call_fails(t, "Shards/Nothing", "{}", THOLE_INVALID_ARGUMENT, "is no method");
    call_fails(t, "Shards", "{}", THOLE_INVALID_ARGUMENT, "is no method");
    call_fails(t, "Cluster/Watch", "{}", THOLE_INVALID_ARGUMENT, "is no method");
}

/* Start an operation, watch it, cancel it: the watch ends with it. */
static void run_an_operation(struct thole *t)
{
    struct thole_stream *s = NULL;
    struct thole_status st = {0};
    char json[80];
    char *pause =
        call(t, "Operations/PauseControllers", "{\"controllers\": [\"CONTROLLER_BALANCE\"]}");
    const char *id = strstr(pause, "\"id\":\"");
    assert_non_null(id);
    snprintf(json, sizeof json, "{\"id\": \"%d\"}", atoi(id + strlen("\"id\":\"")));
    free(pause);
    assert_int_equal(
        thole_stream_open(t, "Operations/WatchOperation", THOLE_JSON, text(json), &s, &st),
        THOLE_OK);
    struct thole_answer a = {0};
    assert_int_equal(thole_stream_next(s, 10000, &a, &st), THOLE_OK);
    assert_non_null(strstr(a.data, "RUNNING"));
    free(a.data);
    call_has(t, "Operations/CancelOperation", json, "CANCELLED");
    enum thole_code code = THOLE_OK;
    while (code == THOLE_OK) {
        code = thole_stream_next(s, 10000, NULL, &st);
    }
    assert_int_equal(code, THOLE_OUT_OF_RANGE);
    thole_stream_close(s);
}

static void test_control_by_a_host(void **state)
{
    struct world *w = *state;
    use_the_control_plane(w->host, "a");
    run_an_operation(w->host);
}

static void test_control_by_a_client(void **state)
{
    struct world *w = *state;
    use_the_control_plane(w->client, "b");
    run_an_operation(w->client);
}

static void test_control_in_protobuf(void **state)
{
    struct world *w = *state;
    struct thole_answer a = {0};
    struct thole_status st = {0};
    /* GetHostRequest{name: "h1"} -> Host{name: "h1", ...} */
    assert_int_equal(
        thole_control(w->client, "Hosts/GetHost", THOLE_PROTOBUF, text("\x0a\x02h1"), 0, &a, &st),
        THOLE_OK);
    assert_true(a.size > 4);
    assert_memory_equal(a.data, "\x0a\x02h1", 4);
    free(a.data);
    assert_int_equal(
        thole_control(w->client, "Hosts/GetHost", THOLE_PROTOBUF, text("\x0a\x09h1"), 0, &a, &st),
        THOLE_INVALID_ARGUMENT);
    assert_int_equal(thole_control(w->client, "Hosts/GetHost", 3, text(""), 0, &a, &st),
                     THOLE_INVALID_ARGUMENT);
}

/* True if the stream answers with `want` before it is silent or ends. */
static bool stream_has(struct thole_stream *s, const char *want)
{
    for (bool found = false;;) {
        struct thole_answer a = {0};
        struct thole_status st = {0};
        enum thole_code code = thole_stream_next(s, 10000, &a, &st);
        if (code != THOLE_OK) {
            print_message("the stream ends: %s\n", st.message);
            return false;
        }
        found = strstr(a.data, want) != NULL;
        free(a.data);
        if (found) {
            return true;
        }
    }
}

static void watch_leaders(struct thole *t, const char *name)
{
    struct thole_stream *s = NULL;
    struct thole_status st = {0};
    const struct thole_shard_spec spec = {
        .size = sizeof spec, .name = name, .type = "counter", .voters = 1};
    assert_int_equal(thole_stream_open(t, "Cluster/Watch", THOLE_JSON, text("{}"), &s, &st),
                     THOLE_OK);
    assert_true(stream_has(s, "\"bookmark\":true"));
    enum thole_code code = THOLE_OK;
    for (int tries = 0; tries < 100 && code == THOLE_OK; tries++) { /* until nothing changes */
        code = thole_stream_next(s, 200, NULL, &st);
    }
    assert_int_equal(code, THOLE_DEADLINE_EXCEEDED);
    assert_int_equal(thole_shard_create(t, &spec, 10000, &st), THOLE_OK);
    assert_true(stream_has(s, "\"leaderHost\":\"h1\"")); /* the leader of the new shard */
    thole_stream_close(s);

    /* A snapshot, in pieces, to the end. */
    char json[80];
    snprintf(json, sizeof json, "{\"shard\": \"%s\"}", name);
    assert_int_equal(thole_shard_wait_ready(t, name, 20000, &st), THOLE_OK);
    assert_int_equal(thole_stream_open(t, "Snapshots/SaveSnapshot", THOLE_PROTOBUF,
                                       (struct thole_slice){.data = "\x0a\x01x", .size = 3}, &s,
                                       &st),
                     THOLE_OK);
    assert_int_equal(thole_stream_next(s, 10000, NULL, &st), THOLE_NOT_FOUND);
    thole_stream_close(s);
    assert_int_equal(
        thole_stream_open(t, "Snapshots/SaveSnapshot", THOLE_JSON, text(json), &s, &st), THOLE_OK);
    int pieces = 0;
    while ((code = thole_stream_next(s, 10000, NULL, &st)) == THOLE_OK) {
        pieces++;
    }
    assert_int_equal(code, THOLE_OUT_OF_RANGE);
    assert_true(pieces > 0);
    thole_stream_close(s);
    thole_stream_close(NULL);
    assert_int_equal(thole_stream_open(t, "Shards/GetShard", THOLE_JSON, text("{}"), &s, &st),
                     THOLE_INVALID_ARGUMENT);
}

static void test_streams_by_a_host(void **state)
{
    struct world *w = *state;
    watch_leaders(w->host, "c");
}

static void test_streams_by_a_client(void **state)
{
    struct world *w = *state;
    watch_leaders(w->client, "d");
}

/* A snapshot in memory: what thole_snapshot_save gives, and thole_snapshot_restore reads. */
struct file {
    char bytes[1 << 20];
    size_t size, read;
    size_t stop_at; /* 0: never */
};

static bool write_piece(void *ctx, struct thole_slice piece)
{
    struct file *f = ctx;
    assert_true(piece.size <= sizeof f->bytes - f->size);
    memcpy(f->bytes + f->size, piece.data, piece.size);
    f->size += piece.size;
    return f->stop_at == 0 || f->size < f->stop_at;
}

static int64_t read_some(void *ctx, void *data, size_t size)
{
    struct file *f = ctx;
    size_t n = f->size - f->read < 7 ? f->size - f->read : 7; /* less than it asks for */
    assert_true(n <= size);
    if (f->stop_at != 0 && f->read >= f->stop_at) {
        return -1;
    }
    memcpy(data, f->bytes + f->read, n);
    f->read += n;
    return (int64_t)n;
}

static uint64_t count_of(struct thole *t, const char *name, uint32_t kind, const char *payload)
{
    struct thole_shard *shard = NULL;
    struct thole_answer a = {0};
    struct thole_status st = {0};
    assert_int_equal(thole_shard_open(t, name, &shard, &st), THOLE_OK);
    const struct thole_op op = {
        .kind = kind, .shard = shard, .payload = text(payload), .timeout_ms = 20000};
    if (thole_call(t, &op, &a, &st) != THOLE_OK) {
        fail_msg("%s: %s", name, st.message);
    }
    uint64_t value = kind == THOLE_PROPOSE ? a.value : strtoull(a.data, NULL, 10);
    free(a.data);
    thole_shard_release(shard);
    return value;
}

static void check_snapshots(struct thole *t, const char *from, const char *to)
{
    struct thole_status st = {0};
    uint64_t index = 0;
    struct thole_shard_spec spec = {.size = sizeof spec, .name = from, .type = "kv", .voters = 1};
    struct file *f = calloc(1, sizeof *f);
    assert_int_equal(thole_shard_create(t, &spec, 10000, &st), THOLE_OK);
    assert_int_equal(thole_shard_wait_ready(t, from, 20000, &st), THOLE_OK);
    (void)count_of(t, from, THOLE_PROPOSE, "put a 7");

    assert_int_equal(thole_snapshot_save(t, "none", 0, write_piece, f, NULL, &st), THOLE_NOT_FOUND);
    assert_int_equal(thole_snapshot_save(t, from, 2, write_piece, f, NULL, &st),
                     THOLE_INVALID_ARGUMENT);
    f->stop_at = 1;
    assert_int_equal(thole_snapshot_save(t, from, 0, write_piece, f, NULL, &st), THOLE_CANCELLED);
    f->stop_at = f->size = 0;
    assert_int_equal(thole_snapshot_save(t, from, THOLE_STALE, write_piece, f, &index, &st),
                     THOLE_OK);
    assert_true(index > 0 && f->size > 100);

    spec =
        (struct thole_shard_spec){.size = sizeof spec, .name = to, .type = "counter", .voters = 1};
    assert_int_equal(thole_snapshot_restore(t, from, &spec, read_some, f, 0, &st),
                     THOLE_INVALID_ARGUMENT); /* another name than the spec's */
    assert_int_equal(f->read, 0);
    assert_int_equal(thole_snapshot_restore(t, to, &spec, read_some, f, 0, &st),
                     THOLE_INVALID_ARGUMENT); /* another type than the file's */
    f->read = 0;
    f->stop_at = 20;
    assert_int_equal(thole_snapshot_restore(t, to, NULL, read_some, f, 0, &st), THOLE_CANCELLED);
    f->read = f->stop_at = 0;
    f->size -= 1;
    assert_int_equal(thole_snapshot_restore(t, to, NULL, read_some, f, 0, &st), THOLE_DATA_LOSS);
    f->read = 0;
    f->size += 1;
    f->bytes[f->size / 2] ^= 1;
    assert_int_equal(thole_snapshot_restore(t, to, NULL, read_some, f, 0, &st), THOLE_DATA_LOSS);
    f->read = 0;
    f->bytes[f->size / 2] ^= 1;
    spec.type = "kv";
    if (thole_snapshot_restore(t, to, &spec, read_some, f, 0, &st) != THOLE_OK) {
        fail_msg("restore: %s", st.message);
    }
    assert_int_equal(thole_shard_wait_ready(t, to, 20000, &st), THOLE_OK);
    assert_int_equal(count_of(t, to, THOLE_QUERY, "get a"), 7);
    f->read = 0;
    assert_int_equal(thole_snapshot_restore(t, to, NULL, read_some, f, 0, &st),
                     THOLE_ALREADY_EXISTS);
    free(f);
}

static void test_snapshots_by_a_host(void **state)
{
    struct world *w = *state;
    check_snapshots(w->host, "e", "e-again");
}

static void test_snapshots_by_a_client(void **state)
{
    struct world *w = *state;
    check_snapshots(w->client, "f", "f-again");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_control_by_a_host),     cmocka_unit_test(test_control_by_a_client),
        cmocka_unit_test(test_control_in_protobuf),   cmocka_unit_test(test_streams_by_a_host),
        cmocka_unit_test(test_streams_by_a_client),   cmocka_unit_test(test_snapshots_by_a_host),
        cmocka_unit_test(test_snapshots_by_a_client),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
