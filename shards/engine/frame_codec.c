/* Raft frames. The other messages are in snapshot_codec.c. */
#include "shards/engine/frame_codec.h"

#include <stdlib.h>
#include <string.h>

#include "proto/decode.h"
#include "thole/engine/v1/engine.upb.h"

/* ---- Writing --------------------------------------------------------------------------------- */

enum { WIRE_VARINT = 0, WIRE_BYTES = 2 };

/* For field numbers below 16, whose tag is one byte. 0 is not encoded. */
static size_t field_size(uint64_t v)
{
    return v ? 1 + varint_size(v) : 0;
}

static uint8_t *put_field(uint8_t *p, unsigned number, uint64_t v)
{
    ASSERT(number < 16);
    if (v == 0) {
        return p;
    }
    *p++ = (uint8_t)(number << 3 | WIRE_VARINT);
    return put_varint(p, v);
}

/* For field numbers from 16 on, whose tag is two bytes. */
static uint8_t *put_far_field(uint8_t *p, unsigned number, uint64_t v)
{
    if (v == 0) {
        return p;
    }
    p = put_varint(p, number << 3 | WIRE_VARINT);
    return put_varint(p, v);
}

static size_t bytes_field_size(size_t n)
{
    return 1 + varint_size(n) + n;
}

static uint8_t *put_bytes_head(uint8_t *p, unsigned number, size_t n)
{
    *p++ = (uint8_t)(number << 3 | WIRE_BYTES);
    return put_varint(p, n);
}

static bool has_stamp(const struct raft_entry *e, const struct raft_entry *before)
{
    return before == NULL || !raft_stamp_equal(e->stamp, before->stamp);
}

/* Index on the first entry only, term and times where they change: see the proto. */
static size_t entry_size(const struct raft_entry *e, const struct raft_entry *before)
{
    size_t n = field_size(e->kind) + field_size(e->session) + field_size(e->sequence);
    if (before == NULL) {
        n += field_size(e->index);
    }
    if (before == NULL || before->term != e->term) {
        n += field_size(e->term);
    }
    if (e->payload.bytes.size) {
        n += bytes_field_size(e->payload.bytes.size);
    }
    if (e->id_size) {
        n += bytes_field_size(e->id_size);
    }
    if (has_stamp(e, before)) {
        n += field_size(e->stamp.now_ms) + field_size(e->stamp.alive_ms);
    }
    return n;
}

static uint8_t *put_entry(uint8_t *p, const struct raft_entry *e, const struct raft_entry *before)
{
    p = put_field(p, 1, e->kind);
    if (before == NULL) {
        p = put_field(p, 2, e->index);
    }
    if (before == NULL || before->term != e->term) {
        p = put_field(p, 3, e->term);
    }
    p = put_field(p, 4, e->session);
    p = put_field(p, 5, e->sequence);
    size_t n = e->payload.bytes.size;
    if (n) {
        p = put_bytes_head(p, 6, n);
        memcpy(p, e->payload.bytes.data, n);
        p += n;
    }
    if (e->id_size) {
        p = put_bytes_head(p, 7, e->id_size);
        memcpy(p, raft_entry_id(e).data, e->id_size);
        p += e->id_size;
    }
    if (has_stamp(e, before)) {
        p = put_field(p, 14, e->stamp.now_ms);
        p = put_field(p, 15, e->stamp.alive_ms);
    }
    return p;
}

static size_t message_size(const struct out_msg *o)
{
    const struct raft_message *m = &o->raft;
    size_t n = field_size(m->kind) + field_size(m->reject) + field_size(m->transfer) +
               field_size(m->from) + field_size(m->to) + field_size(m->term) +
               field_size(m->index) + field_size(m->log_term) + field_size(m->commit) +
               field_size(m->commit_term) + field_size(m->hint) + field_size(m->context) +
               field_size(o->shard_id) + field_size(o->to_incarnation);
    n += m->epoch ? 1 + field_size(m->epoch) : 0;
    n += m->sent_ms ? 1 + field_size(m->sent_ms) : 0;
    for (uint32_t i = 0; i < m->entry_count; i++) {
        n += bytes_field_size(entry_size(m->entries[i], i ? m->entries[i - 1] : NULL));
    }
    return n;
}

static uint8_t *put_message(uint8_t *p, const struct out_msg *o)
{
    const struct raft_message *m = &o->raft;
    p = put_field(p, 1, m->kind);
    p = put_field(p, 2, m->reject);
    p = put_field(p, 3, m->transfer);
    p = put_field(p, 4, m->from);
    p = put_field(p, 5, m->to);
    p = put_field(p, 6, m->term);
    p = put_field(p, 7, m->index);
    p = put_field(p, 8, m->log_term);
    p = put_field(p, 9, m->commit);
    p = put_field(p, 10, m->commit_term);
    p = put_field(p, 11, m->hint);
    p = put_field(p, 12, m->context);
    for (uint32_t i = 0; i < m->entry_count; i++) {
        const struct raft_entry *before = i ? m->entries[i - 1] : NULL;
        p = put_bytes_head(p, 13, entry_size(m->entries[i], before));
        p = put_entry(p, m->entries[i], before);
    }
    p = put_field(p, 14, o->shard_id);
    p = put_field(p, 15, o->to_incarnation);
    p = put_far_field(p, 16, m->epoch);
    return put_far_field(p, 17, m->sent_ms);
}

size_t codec_weight(const struct raft_message *m)
{
    size_t n = 128;
    for (uint32_t i = 0; i < m->entry_count; i++) {
        n += raft_entry_size(m->entries[i]);
    }
    return n;
}

struct bufslice codec_frame(const struct out_msg *messages, size_t n)
{
    size_t total = 0;
    for (size_t i = 0; i < n; i++) {
        total += bytes_field_size(message_size(&messages[i]));
    }
    struct buf *b = buf_new(total);
    uint8_t *p = b->data;
    for (size_t i = 0; i < n; i++) {
        p = put_bytes_head(p, 1, message_size(&messages[i]));
        p = put_message(p, &messages[i]);
    }
    ASSERT(p == b->data + total);
    return (struct bufslice){b, slice_of(b->data, total)};
}

/* ---- Reading --------------------------------------------------------------------------------- */

static struct raft_entry *read_entry(struct bufslice frame, const thole_engine_v1_Entry *m)
{
    upb_StringView data = thole_engine_v1_Entry_payload(m);
    const uint8_t *p = (const uint8_t *)data.data;
    const uint8_t *begin = frame.bytes.data, *end = begin + frame.bytes.size;
    struct bufslice payload = {NULL, slice_of(p, data.size)};
    /* Copied if it is small, or if upb did not alias it. */
    if (data.size > RAFT_ENTRY_COPIED_BYTES && frame.owner != NULL && p >= begin && p < end) {
        payload.owner = buf_ref(frame.owner);
    }
    upb_StringView id = thole_engine_v1_Entry_request_id(m);
    if (id.size > 0) {
        return raft_entry_new_with_id(slice_of(id.data, id.size), payload);
    }
    return raft_entry_new((enum raft_entry_kind)thole_engine_v1_Entry_kind(m),
                          thole_engine_v1_Entry_session(m), thole_engine_v1_Entry_sequence(m),
                          payload);
}

static bool has_valid_id(const thole_engine_v1_Entry *m)
{
    size_t size = thole_engine_v1_Entry_request_id(m).size;
    return size == 0 || (size <= LIMIT_REQUEST_ID_BYTES && thole_engine_v1_Entry_session(m) == 0 &&
                         thole_engine_v1_Entry_kind(m) == RAFT_ENTRY_COMMAND);
}

static bool read_entries(struct bufslice frame, const thole_engine_v1_RaftMessage *m,
                         struct raft_message *ret, size_t *budget)
{
    size_t n;
    const thole_engine_v1_Entry *const *entries = thole_engine_v1_RaftMessage_entries(m, &n);
    if (n == 0) {
        return true;
    }
    if (n > *budget) {
        return false;
    }
    *budget -= n;
    uint64_t index = thole_engine_v1_Entry_index(entries[0]), term = 0;
    struct raft_stamp stamp = {0};
    if (index == 0 || index > UINT64_MAX - n) {
        return false;
    }
    ret->entries = xmalloc(n * sizeof(struct raft_entry *));
    for (size_t i = 0; i < n; i++) {
        uint64_t given = thole_engine_v1_Entry_term(entries[i]);
        term = given ? given : term;
        if (thole_engine_v1_Entry_kind(entries[i]) > RAFT_ENTRY_KIND_MAX || term == 0 ||
            thole_engine_v1_Entry_payload(entries[i]).size > LIMIT_PAYLOAD_BYTES ||
            !has_valid_id(entries[i])) {
            return false;
        }
        uint64_t now_ms = thole_engine_v1_Entry_now_ms(entries[i]);
        uint64_t alive_ms = thole_engine_v1_Entry_alive_ms(entries[i]);
        if (now_ms != 0 || alive_ms != 0) {
            stamp = (struct raft_stamp){now_ms, alive_ms};
        }
        struct raft_entry *e = read_entry(frame, entries[i]);
        e->stamp = stamp;
        e->index = index + i;
        e->term = term;
        ret->entries[ret->entry_count++] = e;
    }
    return true;
}

static bool read_message(struct bufslice frame, const thole_engine_v1_RaftMessage *m,
                         struct raft_message *ret, size_t *budget)
{
    uint32_t kind = thole_engine_v1_RaftMessage_kind(m);
    if (kind == 0 || kind > RAFT_MSG_KIND_MAX) {
        return false;
    }
    *ret = (struct raft_message){
        .kind = (uint8_t)kind,
        .reject = thole_engine_v1_RaftMessage_reject(m),
        .transfer = thole_engine_v1_RaftMessage_transfer(m),
        .from = thole_engine_v1_RaftMessage_from(m),
        .to = thole_engine_v1_RaftMessage_to(m),
        .term = thole_engine_v1_RaftMessage_term(m),
        .index = thole_engine_v1_RaftMessage_index(m),
        .log_term = thole_engine_v1_RaftMessage_log_term(m),
        .commit = thole_engine_v1_RaftMessage_commit(m),
        .commit_term = thole_engine_v1_RaftMessage_commit_term(m),
        .hint = thole_engine_v1_RaftMessage_hint(m),
        .context = thole_engine_v1_RaftMessage_context(m),
        .epoch = thole_engine_v1_RaftMessage_epoch(m),
        .sent_ms = thole_engine_v1_RaftMessage_sent_ms(m),
    };
    if (ret->from == 0 || ret->to == 0) {
        return false;
    }
    if (read_entries(frame, m, ret, budget)) {
        return true;
    }
    if (ret->entry_count == 0) {
        free(ret->entries);
    }
    raft_message_deinit(ret);
    return false;
}

static void read_reply(const thole_engine_v1_SnapshotReply *m, const struct codec_sink *sink)
{
    struct stream_msg s = {
        .shard_id = thole_engine_v1_SnapshotReply_shard(m),
        .transfer = thole_engine_v1_SnapshotReply_transfer(m),
        .received = thole_engine_v1_SnapshotReply_received(m),
        .installed = thole_engine_v1_SnapshotReply_installed(m),
        .refused = thole_engine_v1_SnapshotReply_refused(m),
        .gap = thole_engine_v1_SnapshotReply_gap(m),
    };
    sink->reply(sink->ctx, &s, thole_engine_v1_SnapshotReply_from(m),
                thole_engine_v1_SnapshotReply_to(m));
}

static bool read_beat(const thole_engine_v1_HostBeat *m, const struct codec_sink *sink)
{
    size_t n;
    const uint64_t *woken = thole_engine_v1_HostBeat_woken(m, &n);
    struct host_beat b = {
        .number = thole_engine_v1_HostBeat_number(m),
        .heard = thole_engine_v1_HostBeat_heard(m),
        .all_woken = thole_engine_v1_HostBeat_all_woken(m),
        .low_space = thole_engine_v1_HostBeat_low_space(m),
        .critical_space = thole_engine_v1_HostBeat_critical_space(m),
        .wall_ms = thole_engine_v1_HostBeat_wall_ms(m),
        .wrong_clock = thole_engine_v1_HostBeat_wrong_clock(m),
        .woken_count = (uint32_t)n,
    };
    if (b.number == 0 || n > BEAT_WOKEN_MAX) {
        return false;
    }
    if (n > 0) {
        memcpy(b.woken, woken, n * sizeof b.woken[0]);
    }
    sink->beat(sink->ctx, &b);
    return true;
}

static enum thole_code read_all(struct bufslice frame, const thole_engine_v1_RaftFrame *m,
                                const struct codec_sink *sink, struct thole_status *st)
{
    size_t n, budget = ENGINE_FRAME_ENTRIES_MAX;
    const thole_engine_v1_RaftMessage *const *messages = thole_engine_v1_RaftFrame_messages(m, &n);
    for (size_t i = 0; i < n; i++) {
        struct raft_message raft;
        if (!read_message(frame, messages[i], &raft, &budget)) {
            return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                              "malformed message %zu of %zu in a frame", i, n);
        }
        sink->message(sink->ctx, thole_engine_v1_RaftMessage_shard(messages[i]),
                      thole_engine_v1_RaftMessage_to_incarnation(messages[i]), &raft);
    }
    const thole_engine_v1_SnapshotReply *const *replies =
        thole_engine_v1_RaftFrame_snapshot_replies(m, &n);
    for (size_t i = 0; i < n; i++) {
        read_reply(replies[i], sink);
    }
    const thole_engine_v1_HostBeat *beat = thole_engine_v1_RaftFrame_beat(m);
    if (beat != NULL && !read_beat(beat, sink)) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "malformed heartbeat of a host");
    }
    return THOLE_OK;
}

enum thole_code codec_read_frame(struct bufslice frame, const struct codec_sink *sink,
                                 struct thole_status *st)
{
    if (frame.bytes.size > LIMIT_FRAME_BYTES) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_TOO_LARGE, "frame of %zu bytes",
                          frame.bytes.size);
    }
    upb_Arena *arena = upb_Arena_New();
    const thole_engine_v1_RaftFrame *m =
        PROTO_DECODE_ALIAS(thole_engine_v1_RaftFrame, frame.bytes, arena);
    enum thole_code code = m != NULL ? read_all(frame, m, sink, st)
                                     : THOLE_FAIL(st, THOLE_INVALID_ARGUMENT,
                                                  THOLE_REASON_BAD_REQUEST, "unreadable frame");
    upb_Arena_Free(arena);
    return code;
}
