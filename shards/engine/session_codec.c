/* Records of the dedupe table: thole.engine.v1.SnapshotSession, SessionResult, RequestAnswer. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/limits.h"
#include "proto/decode.h"
#include "shards/engine/session.h"
#include "thole/engine/v1/engine.upb.h"

#define RECORD_SPACE 1024 /* records with a small answer are encoded without an allocation */

static upb_StringView view_of(const struct buf *b)
{
    return b != NULL ? upb_StringView_FromDataAndSize((const char *)b->data, b->size)
                     : upb_StringView_FromDataAndSize(NULL, 0);
}

static void fill_result(thole_engine_v1_SessionResult *m, const struct session_result *r)
{
    thole_engine_v1_SessionResult_set_sequence(m, r->sequence);
    thole_engine_v1_SessionResult_set_index(m, r->index);
    thole_engine_v1_SessionResult_set_code(m, r->code);
    thole_engine_v1_SessionResult_set_result(m, view_of(r->result));
    thole_engine_v1_SessionResult_set_cut(m, r->cut);
    thole_engine_v1_SessionResult_set_answered(m, r->answer_bytes);
}

static void encode_session(const struct session *s, bool results, struct bytes *out)
{
    upb_Arena *arena = upb_Arena_New();
    thole_engine_v1_SnapshotSession *m = thole_engine_v1_SnapshotSession_new(arena);
    thole_engine_v1_SnapshotSession_set_id(m, s->id);
    thole_engine_v1_SnapshotSession_set_used(m, s->used);
    thole_engine_v1_SnapshotSession_set_floor(m, s->floor);
    for (uint32_t i = 0; results && i < s->count; i++) {
        thole_engine_v1_SessionResult *r = thole_engine_v1_SnapshotSession_add_results(m, arena);
        ASSERT(r != NULL);
        fill_result(r, &s->results[i]);
    }
    size_t size;
    char *data = thole_engine_v1_SnapshotSession_serialize(m, arena, &size);
    bytes_append(out, data, size);
    upb_Arena_Free(arena);
}

void session_encode(const struct session *s, struct bytes *out)
{
    encode_session(s, true, out);
}

void session_encode_head(const struct session *s, struct bytes *out)
{
    encode_session(s, false, out);
}

void session_encode_result(const struct session_result *r, struct bytes *out)
{
    _Alignas(16) char space[RECORD_SPACE];
    upb_Arena *arena = upb_Arena_Init(space, sizeof space, &upb_alloc_global);
    thole_engine_v1_SessionResult *m = thole_engine_v1_SessionResult_new(arena);
    fill_result(m, r);
    size_t size;
    char *data = thole_engine_v1_SessionResult_serialize(m, arena, &size);
    bytes_append(out, data, size);
    upb_Arena_Free(arena);
}

static void fill_answer(thole_engine_v1_RequestAnswer *m, const struct request_answer *r)
{
    thole_engine_v1_RequestAnswer_set_id(
        m, upb_StringView_FromDataAndSize((const char *)r->id, r->id_size));
    thole_engine_v1_RequestAnswer_set_index(m, r->index);
    thole_engine_v1_RequestAnswer_set_alive_ms(m, r->alive_ms);
    thole_engine_v1_RequestAnswer_set_code(m, r->code);
    thole_engine_v1_RequestAnswer_set_result(m, view_of(r->result));
    thole_engine_v1_RequestAnswer_set_cut(m, r->cut);
    thole_engine_v1_RequestAnswer_set_answered(m, r->answer_bytes);
}

void session_encode_request(const struct request_answer *r, struct bytes *out)
{
    _Alignas(16) char space[RECORD_SPACE];
    upb_Arena *arena = upb_Arena_Init(space, sizeof space, &upb_alloc_global);
    thole_engine_v1_SnapshotSession *m = thole_engine_v1_SnapshotSession_new(arena);
    fill_answer(thole_engine_v1_SnapshotSession_mutable_request(m, arena), r);
    size_t size;
    char *data = thole_engine_v1_SnapshotSession_serialize(m, arena, &size);
    bytes_append(out, data, size);
    upb_Arena_Free(arena);
}

void session_encode_answer(const struct request_answer *r, struct bytes *out)
{
    _Alignas(16) char space[RECORD_SPACE];
    upb_Arena *arena = upb_Arena_Init(space, sizeof space, &upb_alloc_global);
    thole_engine_v1_RequestAnswer *m = thole_engine_v1_RequestAnswer_new(arena);
    fill_answer(m, r);
    size_t size;
    char *data = thole_engine_v1_RequestAnswer_serialize(m, arena, &size);
    bytes_append(out, data, size);
    upb_Arena_Free(arena);
}

/* The session with this id, created if absent; NULL if there are too many. */
static struct session *obtain(struct session_table *t, uint64_t id)
{
    struct session *s = map_get(&t->by_id, id);
    if (s != NULL || t->by_id.count >= LIMIT_SESSIONS) {
        return s;
    }
    s = xcalloc(1, sizeof *s);
    s->id = id;
    (void)map_put(&t->by_id, id, s);
    return s;
}

static bool add_result(struct session_table *t, struct session *s,
                       const thole_engine_v1_SessionResult *m)
{
    uint64_t sequence = thole_engine_v1_SessionResult_sequence(m);
    upb_StringView result = thole_engine_v1_SessionResult_result(m);
    uint32_t at = s->count;
    while (at > 0 && s->results[at - 1].sequence >= sequence) {
        at--;
    }
    if (s->count >= LIMIT_SESSION_RESULTS || result.size > LIMIT_SESSION_RESULT_BYTES ||
        t->decoded + result.size > LIMIT_SESSION_ANSWERS_BYTES_MAX ||
        (at < s->count && s->results[at].sequence == sequence)) {
        return false;
    }
    if (s->count == s->capacity) {
        s->capacity = s->capacity ? s->capacity * 2 : 4;
        s->results = xrealloc(s->results, s->capacity * sizeof s->results[0]);
    }
    memmove(s->results + at + 1, s->results + at, (s->count - at) * sizeof s->results[0]);
    s->count++;
    s->results[at] = (struct session_result){
        .sequence = sequence,
        .index = thole_engine_v1_SessionResult_index(m),
        .code = thole_engine_v1_SessionResult_code(m),
        .result = result.size ? buf_copy(result.data, result.size) : NULL,
        .answer_bytes = thole_engine_v1_SessionResult_answered(m),
        .cut = thole_engine_v1_SessionResult_cut(m),
    };
    if (s->results[at].answer_bytes > t->answer_bytes) {
        t->answer_bytes = s->results[at].answer_bytes;
    }
    t->decoded += result.size;
    return true;
}

static bool add_answer(struct session_table *t, const thole_engine_v1_RequestAnswer *m)
{
    upb_StringView id = thole_engine_v1_RequestAnswer_id(m);
    upb_StringView result = thole_engine_v1_RequestAnswer_result(m);
    if (id.size == 0 || id.size > LIMIT_REQUEST_ID_BYTES ||
        result.size > LIMIT_SESSION_RESULT_BYTES ||
        t->decoded + result.size > LIMIT_SESSION_ANSWERS_BYTES_MAX) {
        return false;
    }
    struct request_answer *r = request_ids_add(t, slice_of(id.data, id.size));
    if (r == NULL) {
        return false;
    }
    r->index = thole_engine_v1_RequestAnswer_index(m);
    r->alive_ms = thole_engine_v1_RequestAnswer_alive_ms(m);
    r->code = thole_engine_v1_RequestAnswer_code(m);
    r->result = result.size ? buf_copy(result.data, result.size) : NULL;
    r->cut = thole_engine_v1_RequestAnswer_cut(m);
    r->answer_bytes = thole_engine_v1_RequestAnswer_answered(m);
    if (r->answer_bytes > t->answer_bytes) {
        t->answer_bytes = r->answer_bytes;
    }
    t->decoded += result.size;
    return true;
}

bool session_decode(struct session_table *t, struct slice in)
{
    upb_Arena *arena = upb_Arena_New();
    const thole_engine_v1_SnapshotSession *m =
        PROTO_DECODE(thole_engine_v1_SnapshotSession, in, arena);
    if (m != NULL && thole_engine_v1_SnapshotSession_has_request(m)) {
        bool added = add_answer(t, thole_engine_v1_SnapshotSession_request(m));
        upb_Arena_Free(arena);
        return added;
    }
    uint64_t id = m != NULL ? thole_engine_v1_SnapshotSession_id(m) : 0;
    struct session *s = id ? obtain(t, id) : NULL;
    bool ok = s != NULL;
    if (ok) {
        s->used = thole_engine_v1_SnapshotSession_used(m);
        s->floor = thole_engine_v1_SnapshotSession_floor(m);
        size_t n;
        const thole_engine_v1_SessionResult *const *results =
            thole_engine_v1_SnapshotSession_results(m, &n);
        for (size_t i = 0; i < n && ok; i++) {
            ok = add_result(t, s, results[i]);
        }
    }
    upb_Arena_Free(arena);
    return ok;
}

bool session_decode_result(struct session_table *t, uint64_t id, struct slice in)
{
    upb_Arena *arena = upb_Arena_New();
    const thole_engine_v1_SessionResult *m = PROTO_DECODE(thole_engine_v1_SessionResult, in, arena);
    struct session *s = m != NULL && id ? obtain(t, id) : NULL;
    bool ok = s != NULL && add_result(t, s, m);
    upb_Arena_Free(arena);
    return ok;
}

bool session_decode_answer(struct session_table *t, struct slice in)
{
    upb_Arena *arena = upb_Arena_New();
    const thole_engine_v1_RequestAnswer *m = PROTO_DECODE(thole_engine_v1_RequestAnswer, in, arena);
    bool ok = m != NULL && add_answer(t, m);
    upb_Arena_Free(arena);
    return ok;
}
