/* Answers in pieces: through this host, another one and a client; what is left of them when they
 * end early. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thole/thole.h>

#include "agent/core/answers.h"
#include "agent/core/test/agent_fixture.h"
#include "proto/decode.h"
#include "thole/v1/data.upb.h"

#include <cmocka.h>

/* ---- A machine whose answers have as many bytes as the query asks for ------------------------ */

#define PIECE_BYTES (300 * KIB)

static _Atomic int views, readers; /* that are open, in all hosts of this process */

struct blob_reader {
    uint64_t left, at;
    bool skipped; /* a call that makes nothing */
};

static enum thole_code blob_open(const struct thole_machine_env *env, void **ret,
                                 struct thole_status *st)
{
    (void)env, (void)st;
    *ret = malloc(1);
    return THOLE_OK;
}

static void blob_close(void *machine)
{
    free(machine);
}

static enum thole_code blob_apply(void *machine, struct thole_apply *batch, struct thole_status *st)
{
    (void)machine, (void)batch, (void)st;
    return THOLE_OK;
}

static enum thole_code blob_query(void *machine, const void *view, struct thole_slice query,
                                  struct thole_sink *answer, struct thole_status *st)
{
    (void)machine, (void)view, (void)query, (void)st;
    return answer->write(answer, "whole", 5);
}

static enum thole_code blob_view_acquire(void *machine, void **ret, struct thole_status *st)
{
    (void)machine, (void)st;
    atomic_fetch_add(&views, 1);
    *ret = malloc(1);
    return THOLE_OK;
}

static void blob_view_release(void *machine, void *view)
{
    (void)machine;
    atomic_fetch_sub(&views, 1);
    free(view);
}

static enum thole_code blob_save(void *machine, const void *view, struct thole_save *to,
                                 struct thole_status *st)
{
    (void)machine, (void)view, (void)to, (void)st;
    return THOLE_OK;
}

static enum thole_code blob_restore(void *machine, struct thole_restore *from,
                                    struct thole_status *st)
{
    (void)machine, (void)from, (void)st;
    return THOLE_OK;
}

static enum thole_code blob_read_open(void *machine, const void *view, struct thole_slice query,
                                      void **ret, struct thole_status *st)
{
    char text[32] = "";
    (void)machine, (void)view;
    if (query.size == 0) {
        return THOLE_OK;
    }
    memcpy(text, query.data, query.size < sizeof text - 1 ? query.size : sizeof text - 1);
    if (text[0] == '!') {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_NONE, "not a number");
    }
    struct blob_reader *r = calloc(1, sizeof *r);
    r->left = strtoull(text, NULL, 10);
    atomic_fetch_add(&readers, 1);
    *ret = r;
    return THOLE_OK;
}

static uint8_t blob_byte(uint64_t at)
{
    return (uint8_t)(at * 131 >> 3);
}

static enum thole_code blob_read_next(void *machine, void *reader, size_t bytes,
                                      struct thole_sink *piece, bool *ret_end,
                                      struct thole_status *st)
{
    static uint8_t data[PIECE_BYTES]; /* the worker of each host makes the same bytes */
    struct blob_reader *r = reader;
    (void)machine, (void)bytes;
    r->skipped = !r->skipped;
    if (r->skipped) {
        return THOLE_OK;
    }
    if (r->at >= 100 * MIB) {
        return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_NONE, "enough");
    }
    size_t n = r->left < sizeof data ? (size_t)r->left : sizeof data;
    for (size_t i = 0; i < n; i++) {
        data[i] = blob_byte(r->at + i);
    }
    r->at += n;
    r->left -= n;
    *ret_end = r->left == 0;
    return piece->write(piece, data, n);
}

static void blob_read_close(void *machine, void *reader)
{
    (void)machine;
    atomic_fetch_sub(&readers, 1);
    free(reader);
}

static const struct thole_machine_type blob = {
    .size = sizeof(struct thole_machine_type),
    .version = 1,
    .name = "blob",
    .open = blob_open,
    .close = blob_close,
    .apply = blob_apply,
    .query = blob_query,
    .view_acquire = blob_view_acquire,
    .view_release = blob_view_release,
    .save = blob_save,
    .restore = blob_restore,
    .read_open = blob_read_open,
    .read_next = blob_read_next,
    .read_close = blob_read_close,
};

/* ---- Two hosts and a client; the only replica is on the first host --------------------------- */

struct world {
    struct fixture *f;
    struct thole *hosts[2], *client;
};

static struct thole *start_host(struct fixture *f, int i)
{
    struct thole_options o = THOLE_OPTIONS_INIT;
    struct thole_status st = {0};
    struct thole *t = NULL;
    char *dir = fixture_dir(f, i);
    o.data_dir = dir;
    o.listen = fixture_address(f, i);
    o.name = i == 0 ? "h1" : "h2";
    o.bootstrap = i == 0 ? THOLE_BOOTSTRAP_DEV : THOLE_BOOTSTRAP_JOIN;
    o.addresses = i == 0 ? NULL : fixture_address(f, 0);
    o.election_timeout_ms = 200;
    o.heartbeat_ms = 40;
    o.tags = (const char *const[]){i == 0 ? "place=data" : "place=door", NULL};
    assert_int_equal(thole_new(&o, &t, &st), THOLE_OK);
    free(dir);
    assert_int_equal(thole_register(t, &blob, &st), THOLE_OK);
    if (thole_start(t, &st) != THOLE_OK || thole_wait_ready(t, 20000, &st) != THOLE_OK) {
        fail_msg("host does not start: %s", st.message);
    }
    return t;
}

static void make_shard(struct world *w, const char *name)
{
    struct thole_status st = {0};
    const struct thole_constraint here = {
        .key = "place", .op = THOLE_IN, .values = (const char *const[]){"data", NULL}};
    const struct thole_shard_spec spec = {.size = sizeof spec,
                                          .name = name,
                                          .type = "blob",
                                          .voters = 1,
                                          .constraints = &here,
                                          .constraint_count = 1};
    if (thole_shard_create(w->client, &spec, 10000, &st) != THOLE_OK ||
        thole_shard_wait_ready(w->client, name, 20000, &st) != THOLE_OK) {
        fail_msg("shard: %s", st.message);
    }
}

static int set_up(void **state)
{
    struct thole_status st = {0};
    struct world *w = calloc(1, sizeof *w);
    w->f = fixture_new(2);
    w->hosts[0] = start_host(w->f, 0);
    w->hosts[1] = start_host(w->f, 1);
    if (thole_connect(fixture_address(w->f, 1), &w->client, &st) != THOLE_OK) {
        fail_msg("client does not connect: %s", st.message);
    }
    make_shard(w, "b");
    *state = w;
    return 0;
}

static int tear_down(void **state)
{
    struct world *w = *state;
    thole_close(w->client);
    thole_close(w->hosts[1]);
    thole_close(w->hosts[0]);
    fixture_free(w->f);
    free(w);
    assert_int_equal(atomic_load(&readers), 0);
    assert_int_equal(atomic_load(&views), 0);
    return 0;
}

static bool nothing_open(void)
{
    for (int i = 0; i < 1000; i++) {
        if (atomic_load(&readers) == 0 && atomic_load(&views) == 0) {
            return true;
        }
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    return false;
}

/* ---- Reading --------------------------------------------------------------------------------- */

struct reading {
    uint64_t bytes, stop_at; /* 0: read to the end */
    size_t pieces;
    bool wrong;
    char text[16]; /* the first bytes */
};

static bool take(void *ctx, struct thole_slice piece)
{
    struct reading *r = ctx;
    const uint8_t *data = piece.data;
    if (r->bytes == 0) {
        memcpy(r->text, data, piece.size < sizeof r->text ? piece.size : sizeof r->text - 1);
    }
    for (size_t i = 0; i < piece.size; i++) {
        r->wrong = r->wrong || data[i] != blob_byte(r->bytes + i);
    }
    r->bytes += piece.size;
    r->pieces++;
    return r->stop_at == 0 || r->bytes < r->stop_at;
}

static enum thole_code read_text(struct thole *t, const char *shard, const char *query,
                                 struct reading *r, struct thole_status *st)
{
    struct thole_shard *s = NULL;
    uint64_t index = 0;
    assert_int_equal(thole_shard_open(t, shard, &s, st), THOLE_OK);
    const struct thole_op op = {
        .kind = THOLE_QUERY, .shard = s, .payload = {query, strlen(query)}, .timeout_ms = 10000};
    enum thole_code code = thole_query_stream(t, &op, take, r, &index, st);
    assert_true(code != THOLE_OK || index > 0);
    thole_shard_release(s);
    return code;
}

static void test_answers_of_any_size_come_through_every_door(void **state)
{
    struct world *w = *state;
    static const char *const sizes[] = {"1", "307200", "307201", "20000000"};
    struct thole *const doors[] = {w->hosts[0], w->hosts[1], w->client};
    for (size_t i = 0; i < 12; i++) {
        struct reading r = {0};
        struct thole_status st = {0};
        if (read_text(doors[i % 3], "b", sizes[i / 3], &r, &st) != THOLE_OK) {
            fail_msg("%s", st.message);
        }
        assert_int_equal(r.bytes, atoi(sizes[i / 3]));
        assert_false(r.wrong);
    }
    assert_true(nothing_open());
}

static void test_answer_in_one_piece_is_left_to_the_query(void **state)
{
    struct world *w = *state;
    struct thole *const doors[] = {w->hosts[0], w->hosts[1], w->client};
    for (size_t i = 0; i < 3; i++) {
        struct reading r = {0};
        struct thole_status st = {0};
        assert_int_equal(read_text(doors[i], "b", "", &r, &st), THOLE_OK);
        assert_string_equal(r.text, "whole");
        assert_int_equal(r.pieces, 1);
    }
    assert_true(nothing_open());
}

static void test_errors_of_the_machine_reach_the_reader(void **state)
{
    struct world *w = *state;
    struct thole *const doors[] = {w->hosts[0], w->hosts[1], w->client};
    for (size_t i = 0; i < 3; i++) {
        struct reading r = {0};
        struct thole_status st = {0};
        assert_int_equal(read_text(doors[i], "b", "!", &r, &st), THOLE_INVALID_ARGUMENT);
        assert_string_equal(st.message, "not a number");
        assert_int_equal(read_text(doors[i], "b", "200000000", &r, &st), THOLE_UNAVAILABLE);
        assert_string_equal(st.message, "enough");
        assert_true(r.bytes >= 100 * MIB && r.bytes < 101 * MIB);
        assert_int_equal(read_text(doors[i], "nothing", "1", &r, &st), THOLE_NOT_FOUND);
    }
    assert_true(nothing_open());
}

static void test_reader_that_stops_leaves_nothing(void **state)
{
    struct world *w = *state;
    struct thole *const doors[] = {w->hosts[0], w->hosts[1], w->client};
    for (size_t i = 0; i < 3; i++) {
        struct reading r = {.stop_at = MIB};
        struct thole_status st = {0};
        assert_int_equal(read_text(doors[i], "b", "90000000", &r, &st), THOLE_CANCELLED);
        assert_true(r.bytes < 2 * MIB);
        assert_true(nothing_open());
    }
}

struct deleting {
    struct reading r;
    struct world *w;
};

static bool take_and_delete(void *ctx, struct thole_slice piece)
{
    struct deleting *d = ctx;
    if (d->r.pieces == 3) {
        assert_int_equal(thole_shard_delete(d->w->hosts[0], "gone", 10000, NULL), THOLE_OK);
        assert_true(nothing_open()); /* although this reader has not read to the end */
    }
    return take(&d->r, piece);
}

static void test_removed_replica_ends_its_answers(void **state)
{
    struct world *w = *state;
    struct deleting d = {.w = w};
    struct thole_status st = {0};
    struct thole_shard *s = NULL;
    make_shard(w, "gone");
    assert_int_equal(thole_shard_open(w->client, "gone", &s, &st), THOLE_OK);
    const struct thole_op op = {.kind = THOLE_QUERY, .shard = s, .payload = {"90000000", 8}};
    assert_int_equal(thole_query_stream(w->client, &op, take_and_delete, &d, NULL, &st),
                     THOLE_UNAVAILABLE);
    assert_int_equal(st.reason, THOLE_REASON_STOPPED);
    thole_shard_release(s);
}

/* ---- Over gRPC ------------------------------------------------------------------------------- */

static struct bus_stream *begin(struct bus_channel *c, const char *query)
{
    struct bus_stream *stream = NULL;
    struct thole_status st;
    size_t size = 0;
    upb_Arena *arena = upb_Arena_New();
    thole_v1_QueryRequest *q = thole_v1_QueryRequest_new(arena);
    thole_v1_QueryRequest_set_shard(q, upb_StringView_FromString("b"));
    thole_v1_QueryRequest_set_text(q, upb_StringView_FromString(query));
    const char *bytes = thole_v1_QueryRequest_serialize(q, arena, &size);
    assert_int_equal(
        bus_channel_stream(c, "/thole.v1.Data/QueryStream", slice_of(bytes, size), &stream, &st),
        THOLE_OK);
    upb_Arena_Free(arena);
    return stream;
}

static void test_grpc_client_sets_the_pace(void **state)
{
    struct world *w = *state;
    struct bus_channel *c = NULL;
    struct thole_status st = {0};
    uint64_t bytes = 0;
    assert_int_equal(bus_channel_new(fixture_address(w->f, 1), &c, &st), THOLE_OK);
    struct bus_stream *stream = begin(c, "60000000");
    for (;;) {
        struct buf *b = NULL;
        enum thole_code code = bus_stream_next(stream, 20000, &b, &st);
        if (code != THOLE_OK) {
            assert_int_equal(code, THOLE_OUT_OF_RANGE);
            assert_int_equal(st.reason, THOLE_REASON_NONE);
            break;
        }
        if (bytes == 0) { /* it waits for the client: the reader is still there */
            nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
            assert_int_equal(atomic_load(&readers), 1);
        }
        upb_Arena *arena = upb_Arena_New();
        const thole_v1_QueryStreamResponse *m =
            PROTO_DECODE(thole_v1_QueryStreamResponse, slice_of(b->data, b->size), arena);
        assert_non_null(m);
        assert_true(thole_v1_QueryStreamResponse_index(m) > 0);
        bytes += thole_v1_QueryStreamResponse_data(m).size;
        upb_Arena_Free(arena);
        buf_unref(b);
    }
    assert_int_equal(bytes, 60000000);
    bus_stream_free(stream);
    assert_true(nothing_open());
    bus_channel_free(c);
}

static void test_cancelled_call_ends_its_answer(void **state)
{
    struct world *w = *state;
    struct bus_channel *c = NULL;
    struct thole_status st = {0};
    struct buf *b = NULL;
    assert_int_equal(bus_channel_new(fixture_address(w->f, 1), &c, &st), THOLE_OK);
    struct bus_stream *stream = begin(c, "90000000");
    assert_int_equal(bus_stream_next(stream, 20000, &b, &st), THOLE_OK);
    buf_unref(b);
    bus_stream_free(stream);
    assert_true(nothing_open());
    bus_channel_free(c);
}

static void test_host_serves_a_bounded_number_of_answers(void **state)
{
    struct world *w = *state;
    struct bus_channel *c = NULL;
    struct bus_stream *streams[LIMIT_READERS];
    struct thole_status st = {0};
    struct reading r = {0};
    assert_int_equal(bus_channel_new(fixture_address(w->f, 0), &c, &st), THOLE_OK);
    for (int i = 0; i < LIMIT_READERS; i++) {
        struct buf *b = NULL;
        streams[i] = begin(c, "90000000");
        assert_int_equal(bus_stream_next(streams[i], 20000, &b, &st), THOLE_OK);
        buf_unref(b);
    }
    assert_int_equal(read_text(w->client, "b", "1", &r, &st), THOLE_RESOURCE_EXHAUSTED);
    assert_int_equal(st.reason, THOLE_REASON_QUEUE_FULL);
    for (int i = 0; i < LIMIT_READERS; i++) {
        bus_stream_free(streams[i]);
    }
    assert_true(nothing_open());
    assert_int_equal(read_text(w->client, "b", "1", &r, &st), THOLE_OK);
    bus_channel_free(c);
}

/* ---- Time ------------------------------------------------------------------------------------ */

static void aborted(void *ctx, const struct thole_status *st, struct bufslice piece, bool end)
{
    assert_false(end);
    assert_int_equal(piece.bytes.size, 0);
    *(enum thole_code *)ctx = st->code;
}

static void test_answer_that_nobody_reads_is_forgotten(void **state)
{
    struct executor *ex = executor_manual_new(1);
    struct bus *b = NULL;
    struct thole_status st = {0};
    uint64_t id = 0, shard = 0;
    enum thole_code code = THOLE_OK;
    const struct bus_options o = {.version = "1", .clock = executor_clock(ex)};
    (void)state;
    assert_int_equal(bus_new(&o, &b, &st), THOLE_OK);
    struct answers *a = answers_new(ex, b);
    struct router_request r = {
        .shard_id = 7, .answer_id = 5, .answer_host = {{1}}}; /* of a host that nobody knows */
    assert_int_equal(answers_add(a, &r, &id, &st), THOLE_OK);
    executor_manual_run(ex, 100);
    executor_manual_advance(ex, (LIMIT_ANSWER_IDLE_MS - 1) * NS_PER_MS, 100);
    assert_true(answers_shard(a, id, &shard));
    assert_int_equal(shard, 7);
    executor_manual_advance(ex, (LIMIT_ANSWER_IDLE_MS + 1) * NS_PER_MS, 100);
    assert_false(answers_shard(a, id, &shard));
    answers_next(a, id, aborted, &code);
    assert_int_equal(code, THOLE_ABORTED);
    answers_stop(a);
    bus_stop(b, 0);
    answers_free(a);
    bus_free(b);
    executor_free(ex);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers_of_any_size_come_through_every_door),
        cmocka_unit_test(test_answer_in_one_piece_is_left_to_the_query),
        cmocka_unit_test(test_errors_of_the_machine_reach_the_reader),
        cmocka_unit_test(test_reader_that_stops_leaves_nothing),
        cmocka_unit_test(test_removed_replica_ends_its_answers),
        cmocka_unit_test(test_grpc_client_sets_the_pace),
        cmocka_unit_test(test_cancelled_call_ends_its_answer),
        cmocka_unit_test(test_host_serves_a_bounded_number_of_answers),
        cmocka_unit_test(test_answer_that_nobody_reads_is_forgotten),
    };
    return cmocka_run_group_tests_name("answers", tests, set_up, tear_down);
}
