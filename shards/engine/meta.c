#include "shards/engine/meta.h"

#include <stdlib.h>
#include <string.h>

#define APPLIED_BYTES 32

struct meta_span {
    size_t key, key_size, value, value_size;
    bool remove;
};

void meta_list_clear(struct meta_list *l)
{
    l->count = 0;
    bytes_clear(&l->bytes);
}

void meta_list_deinit(struct meta_list *l)
{
    free(l->metas);
    free(l->spans);
    bytes_deinit(&l->bytes);
    *l = (struct meta_list){0};
}

static struct meta_span *add(struct meta_list *l, char kind, const uint64_t *numbers, size_t n)
{
    if (l->count == l->capacity) {
        l->capacity = l->capacity ? l->capacity * 2 : 16;
        l->spans = xrealloc(l->spans, l->capacity * sizeof l->spans[0]);
        l->metas = xrealloc(l->metas, l->capacity * sizeof l->metas[0]);
    }
    ASSERT(kind == 'a' || kind == 's' || kind == 'r' || kind == 'q');
    ASSERT(n <= 2);
    struct meta_span *s = &l->spans[l->count++];
    *s = (struct meta_span){.key = l->bytes.size, .key_size = 1 + 8 * n};
    uint8_t *p = bytes_extend(&l->bytes, s->key_size);
    *p++ = (uint8_t)kind;
    for (size_t i = 0; i < n; i++) {
        put_be64(p + 8 * i, numbers[i]);
    }
    s->value = l->bytes.size;
    return s;
}

void meta_add_applied(struct meta_list *l, uint64_t index, uint64_t term, struct raft_stamp stamp)
{
    struct meta_span *s = add(l, 'a', NULL, 0);
    uint8_t *p = bytes_extend(&l->bytes, APPLIED_BYTES);
    put_le64(p, index);
    put_le64(p + 8, term);
    put_le64(p + 16, stamp.now_ms);
    put_le64(p + 24, stamp.alive_ms);
    s->value_size = APPLIED_BYTES;
}

void meta_add_head(struct meta_list *l, const struct session *session)
{
    struct meta_span *s = add(l, 's', &session->id, 1);
    session_encode_head(session, &l->bytes);
    s->value_size = l->bytes.size - s->value;
}

void meta_remove_head(struct meta_list *l, uint64_t session)
{
    add(l, 's', &session, 1)->remove = true;
}

void meta_add_result(struct meta_list *l, uint64_t session, const struct session_result *r)
{
    uint64_t key[2] = {session, r->sequence};
    struct meta_span *s = add(l, 'r', key, 2);
    ASSERT(!r->reserved);
    session_encode_result(r, &l->bytes);
    s->value_size = l->bytes.size - s->value;
}

void meta_remove_result(struct meta_list *l, uint64_t session, uint64_t sequence)
{
    uint64_t key[2] = {session, sequence};
    add(l, 'r', key, 2)->remove = true;
}

void meta_add_answer(struct meta_list *l, const struct request_answer *r)
{
    struct meta_span *s = add(l, 'q', &r->index, 1);
    ASSERT(!r->reserved);
    session_encode_answer(r, &l->bytes);
    s->value_size = l->bytes.size - s->value;
}

void meta_remove_answer(struct meta_list *l, uint64_t index)
{
    add(l, 'q', &index, 1)->remove = true;
}

void meta_add_table(struct meta_list *l, const struct session_table *t)
{
    for (const struct session *s = t->oldest; s != NULL; s = s->newer) {
        meta_add_head(l, s);
        for (uint32_t i = 0; i < s->count; i++) {
            meta_add_result(l, s->id, &s->results[i]);
        }
    }
    for (const struct request_answer *r = t->ids.oldest; r != NULL; r = r->newer) {
        meta_add_answer(l, r);
    }
}

const struct thole_meta *meta_list_ready(struct meta_list *l)
{
    for (size_t i = 0; i < l->count; i++) {
        const struct meta_span *s = &l->spans[i];
        l->metas[i].key = (struct thole_slice){l->bytes.data + s->key, s->key_size};
        l->metas[i].value = s->remove
                                ? (struct thole_slice){NULL, 0}
                                : (struct thole_slice){l->bytes.data + s->value, s->value_size};
    }
    return l->metas;
}

bool meta_read(struct machine *m, struct slice key, struct slice value)
{
    if (key.size == 1 && key.data[0] == 'a' && value.size == APPLIED_BYTES) {
        m->applied = get_le64(value.data);
        m->applied_term = get_le64(value.data + 8);
        m->applied_stamp =
            (struct raft_stamp){get_le64(value.data + 16), get_le64(value.data + 24)};
        return true;
    }
    if (key.size == 9 && key.data[0] == 's') {
        return session_decode(&m->sessions, value);
    }
    if (key.size == 9 && key.data[0] == 'q') {
        return session_decode_answer(&m->sessions, value);
    }
    if (key.size == 17 && key.data[0] == 'r') {
        return session_decode_result(&m->sessions, get_be64(key.data + 1), value);
    }
    return false;
}
