/* The wire format in both directions, and the input that a reader refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rand.h"
#include "shards/engine/frame_codec.h"

#include <cmocka.h>

struct taken {
    struct out_msg messages[8];
    size_t count;
    struct stream_msg reply;
    uint64_t reply_from, reply_to;
    struct host_beat beat;
};

static void take_message(void *ctx, uint64_t shard, uint64_t to_incarnation, struct raft_message *m)
{
    struct taken *t = ctx;
    if (t->count == 8) {
        raft_message_deinit(m);
        return;
    }
    t->messages[t->count++] = (struct out_msg){shard, to_incarnation, *m};
}

static void take_reply(void *ctx, const struct stream_msg *m, uint64_t from, uint64_t to)
{
    struct taken *t = ctx;
    t->reply = *m;
    t->reply_from = from;
    t->reply_to = to;
}

static void take_beat(void *ctx, const struct host_beat *b)
{
    struct taken *t = ctx;
    t->beat = *b;
}

static void release(struct taken *t)
{
    for (size_t i = 0; i < t->count; i++) {
        raft_message_deinit(&t->messages[i].raft);
    }
    t->count = 0;
}

static struct raft_entry *entry(uint64_t index, uint64_t term, const char *text)
{
    struct buf *b = buf_copy(text, strlen(text));
    struct raft_entry *e = raft_entry_new(RAFT_ENTRY_COMMAND, index * 2, index * 3,
                                          (struct bufslice){b, slice_of(b->data, b->size)});
    e->index = index;
    e->term = term;
    return e;
}

static struct bufslice sample_frame(void)
{
    struct out_msg m[2] = {0};
    struct raft_entry *entries[4] = {entry(10, 3, "a"), entry(11, 3, ""), entry(12, 5, "ccc"),
                                     entry(13, 5, "a payload that is longer than sixteen bytes")};
    m[0].shard_id = 0;
    m[0].raft = (struct raft_message){.kind = RAFT_MSG_APPEND,
                                      .from = 1,
                                      .to = 2,
                                      .term = 5,
                                      .index = 9,
                                      .log_term = 3,
                                      .commit = 8,
                                      .entry_count = 4,
                                      .entries = entries};
    m[1].shard_id = UINT64_MAX;
    m[1].to_incarnation = 77;
    m[1].raft = (struct raft_message){.kind = RAFT_MSG_VOTE_REPLY,
                                      .reject = true,
                                      .transfer = true,
                                      .from = UINT64_MAX,
                                      .to = 1,
                                      .term = 300,
                                      .index = 1,
                                      .log_term = 2,
                                      .commit = 3,
                                      .commit_term = 4,
                                      .hint = 5,
                                      .context = 6};
    struct bufslice f = codec_frame(m, 2);
    for (int i = 0; i < 4; i++) {
        raft_entry_unref(entries[i]);
    }
    return f;
}

static enum thole_code read_with_id(size_t id_size, enum raft_entry_kind kind, uint64_t session,
                                    struct taken *t)
{
    static const uint8_t id[LIMIT_REQUEST_ID_BYTES] = "request";
    struct thole_status st;
    struct codec_sink sink = {t, take_message, take_reply, take_beat};
    struct raft_entry *e = raft_entry_new_with_id(slice_of(id, id_size),
                                                  (struct bufslice){.bytes = slice_str("command")});
    e->index = 5;
    e->term = 2;
    e->kind = (uint8_t)kind;
    e->session = session;
    struct out_msg m = {.shard_id = 1,
                        .raft = {.kind = RAFT_MSG_APPEND,
                                 .from = 1,
                                 .to = 2,
                                 .term = 2,
                                 .entry_count = 1,
                                 .entries = &e}};
    struct bufslice f = codec_frame(&m, 1);
    raft_entry_unref(e);
    enum thole_code code = codec_read_frame(f, &sink, &st);
    bufslice_unref(f);
    return code;
}

static void test_codec_frames_carry_request_ids(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 7, LIMIT_REQUEST_ID_BYTES};
    for (size_t i = 0; i < 3; i++) {
        struct taken t = {0};
        assert_int_equal(read_with_id(sizes[i], RAFT_ENTRY_COMMAND, 0, &t), THOLE_OK);
        const struct raft_entry *e = t.messages[0].raft.entries[0];
        assert_int_equal(raft_entry_id(e).size, sizes[i]);
        assert_memory_equal(raft_entry_id(e).data, "request", sizes[i] < 7 ? sizes[i] : 7);
        assert_true(slice_equal(e->payload.bytes, slice_str("command")));
        raft_message_deinit(&t.messages[0].raft);
    }
    /* Only a command without a session has one. */
    struct taken none = {0};
    assert_int_equal(read_with_id(7, RAFT_ENTRY_NOOP, 0, &none), THOLE_INVALID_ARGUMENT);
    assert_int_equal(read_with_id(7, RAFT_ENTRY_COMMAND, 9, &none), THOLE_INVALID_ARGUMENT);
    assert_int_equal(none.count, 0);
}

static void test_codec_frame_round_trip(void **state)
{
    (void)state;
    struct thole_status st;
    struct taken t = {0};
    struct codec_sink sink = {&t, take_message, take_reply, take_beat};
    struct bufslice f = sample_frame();
    assert_int_equal(codec_read_frame(f, &sink, &st), THOLE_OK);
    bufslice_unref(f); /* payloads keep it alive */
    assert_int_equal(t.count, 2);
    const struct raft_message *a = &t.messages[0].raft, *b = &t.messages[1].raft;
    assert_int_equal(a->kind, RAFT_MSG_APPEND);
    assert_int_equal(a->entry_count, 4);
    const uint64_t terms[] = {3, 3, 5, 5};
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(a->entries[i]->index, 10 + i);
        assert_int_equal(a->entries[i]->term, terms[i]);
        assert_int_equal(a->entries[i]->session, (10 + i) * 2);
        assert_int_equal(a->entries[i]->sequence, (10 + i) * 3);
    }
    assert_int_equal(a->entries[1]->payload.bytes.size, 0);
    assert_true(slice_equal(a->entries[2]->payload.bytes, slice_str("ccc")));
    assert_true(slice_equal(a->entries[3]->payload.bytes,
                            slice_str("a payload that is longer than sixteen bytes")));
    assert_true(t.messages[1].shard_id == UINT64_MAX && b->from == UINT64_MAX);
    assert_int_equal(t.messages[1].to_incarnation, 77);
    assert_true(b->reject && b->transfer);
    assert_int_equal(b->term + b->index + b->log_term + b->commit + b->commit_term + b->hint +
                         b->context,
                     300 + 1 + 2 + 3 + 4 + 5 + 6);
    release(&t);
}

static void test_codec_damaged_frames_are_refused_or_harmless(void **state)
{
    (void)state;
    struct rand r;
    rand_seed(&r, 1);
    int refused = 0;
    for (int i = 0; i < 20000; i++) {
        struct bufslice f = sample_frame();
        size_t flips = 1 + rand_below(&r, 4);
        for (size_t k = 0; k < flips; k++) {
            f.owner->data[rand_below(&r, f.bytes.size)] = (uint8_t)rand_u64(&r);
        }
        if (rand_chance(&r, 0.3)) {
            f.bytes.size = rand_below(&r, f.bytes.size);
        }
        struct taken t = {0};
        struct thole_status st;
        struct codec_sink sink = {&t, take_message, take_reply, take_beat};
        refused += codec_read_frame(f, &sink, &st) != THOLE_OK;
        release(&t);
        bufslice_unref(f);
    }
    assert_true(refused > 5000);
}

static void test_codec_reply_round_trip(void **state)
{
    (void)state;
    struct thole_status st;
    struct taken t = {0};
    struct codec_sink sink = {&t, take_message, take_reply, take_beat};
    struct stream_msg m = {.shard_id = 3,
                           .from = 1,
                           .to = 2,
                           .transfer = 9,
                           .received = 1234567,
                           .refused = true,
                           .gap = true};
    struct bufslice f = codec_reply_frame(&m);
    assert_int_equal(codec_read_frame(f, &sink, &st), THOLE_OK);
    assert_int_equal(t.reply.received, 1234567);
    assert_int_equal(t.reply.transfer, 9);
    assert_true(t.reply.refused && t.reply.gap && !t.reply.installed);
    assert_int_equal(t.reply_from, 2); /* sent by the snapshot's receiver */
    assert_int_equal(t.reply_to, 1);
    bufslice_unref(f);
}

static void test_codec_beat_round_trip(void **state)
{
    (void)state;
    struct thole_status st;
    struct taken t = {0};
    struct codec_sink sink = {&t, take_message, take_reply, take_beat};
    struct host_beat b = {.number = 5, .heard = UINT64_MAX, .all_woken = true};
    b.woken_count = BEAT_WOKEN_MAX;
    for (uint64_t i = 0; i < BEAT_WOKEN_MAX; i++) {
        b.woken[i] = i << 50;
    }
    struct bufslice f = codec_beat_frame(&b);
    assert_int_equal(codec_read_frame(f, &sink, &st), THOLE_OK);
    bufslice_unref(f);
    assert_true(t.beat.number == 5 && t.beat.heard == UINT64_MAX && t.beat.all_woken);
    assert_int_equal(t.beat.woken_count, BEAT_WOKEN_MAX);
    assert_memory_equal(t.beat.woken, b.woken, sizeof b.woken);
    b.number = 0;
    f = codec_beat_frame(&b);
    assert_int_equal(codec_read_frame(f, &sink, &st), THOLE_INVALID_ARGUMENT);
    bufslice_unref(f);
}

static void test_codec_too_many_woken_are_refused(void **state)
{
    (void)state;
    struct thole_status st;
    struct taken t = {0};
    struct codec_sink sink = {&t, take_message, take_reply, take_beat};
    struct bytes frame = {0};
    bytes_append(&frame, "\x1a", 1); /* beat: number 1, and one id too many, a byte each */
    bytes_append_varint(&frame, 2 + 2 + BEAT_WOKEN_MAX + 1);
    bytes_append(&frame, "\x08\x01\x1a", 3);
    bytes_append_varint(&frame, BEAT_WOKEN_MAX + 1);
    for (int i = 0; i <= BEAT_WOKEN_MAX; i++) {
        bytes_append(&frame, "\x07", 1);
    }
    assert_int_equal(codec_read_frame((struct bufslice){NULL, bytes_slice(&frame)}, &sink, &st),
                     THOLE_INVALID_ARGUMENT);
    assert_string_equal(st.message, "malformed heartbeat of a host");
    bytes_deinit(&frame);
}

static void test_codec_chunk_round_trip_and_damage(void **state)
{
    (void)state;
    struct thole_status st;
    struct codec_chunk c = {.shard_id = 1,
                            .from = 2,
                            .to = 3,
                            .term = 4,
                            .transfer = 5,
                            .index = 6,
                            .index_term = 7,
                            .offset = 8,
                            .config = slice_str("config"),
                            .data = slice_str("some bytes of a snapshot"),
                            .last = true,
                            .total_checksum = 99};
    struct bufslice f = codec_chunk_frame(&c);
    struct codec_chunk d;
    assert_int_equal(codec_read_chunk(f.bytes, &d, &st), THOLE_OK);
    assert_true(slice_equal(d.data, c.data) && slice_equal(d.config, c.config));
    assert_int_equal(d.offset + d.index + d.index_term + d.transfer, 8 + 6 + 7 + 5);
    assert_true(d.last && d.total_checksum == 99);
    codec_release(d.arena);
    uint8_t *at = memmem(f.owner->data, f.bytes.size, "bytes", 5);
    assert_non_null(at);
    *at ^= 1;
    assert_int_equal(codec_read_chunk(f.bytes, &d, &st), THOLE_DATA_LOSS);
    bufslice_unref(f);
    assert_int_equal(codec_read_chunk(slice_str("nonsense"), &d, &st), THOLE_INVALID_ARGUMENT);
    c.data = (struct slice){0}; /* would use memory and make no progress */
    struct bufslice empty = codec_chunk_frame(&c);
    assert_int_equal(codec_read_chunk(empty.bytes, &d, &st), THOLE_INVALID_ARGUMENT);
    bufslice_unref(empty);
}

static void test_codec_too_many_entries_are_refused(void **state)
{
    (void)state;
    /* Empty entries cost two bytes on the wire and much more in memory: their number is bounded. */
    struct thole_status st;
    struct taken t = {0};
    struct codec_sink sink = {&t, take_message, take_reply, take_beat};
    struct bytes inner = {0}, frame = {0};
    bytes_append(&inner, "\x08\x05\x20\x01\x28\x02", 6); /* kind, from, to */
    bytes_append(&inner, "\x6a\x04\x10\x01\x18\x01", 6); /* entry: index 1, term 1 */
    for (size_t i = 0; i < ENGINE_FRAME_ENTRIES_MAX; i++) {
        bytes_append(&inner, "\x6a\x00", 2);
    }
    bytes_append(&frame, "\x0a", 1);
    bytes_append_varint(&frame, inner.size);
    bytes_append_slice(&frame, bytes_slice(&inner));
    assert_int_equal(codec_read_frame((struct bufslice){NULL, bytes_slice(&frame)}, &sink, &st),
                     THOLE_INVALID_ARGUMENT);
    assert_int_equal(t.count, 0);
    bytes_deinit(&inner);
    bytes_deinit(&frame);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_codec_frame_round_trip),
        cmocka_unit_test(test_codec_frames_carry_request_ids),
        cmocka_unit_test(test_codec_damaged_frames_are_refused_or_harmless),
        cmocka_unit_test(test_codec_reply_round_trip),
        cmocka_unit_test(test_codec_beat_round_trip),
        cmocka_unit_test(test_codec_too_many_woken_are_refused),
        cmocka_unit_test(test_codec_chunk_round_trip_and_damage),
        cmocka_unit_test(test_codec_too_many_entries_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
