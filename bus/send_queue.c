/* The send queue of a pipe: items in order, each one or two slices, bounded by the owner.
 *
 * A joining queue copies small items next to each other into a chunk, and one message may take many
 * of them (their encodings concatenate to a valid message); otherwise each item is a message. */
#include <grpc/byte_buffer_reader.h>
#include <stdlib.h>
#include <string.h>

#include "bus/bus_internal.h"

#define CHUNK_BYTES_MIN 512
#define CHUNK_BYTES_MAX (64 * KIB)
#define JOINED_BYTES_MAX (1 * MIB) /* of one message, unless a single item is larger */

static void unref_buf(void *p)
{
    buf_unref(p);
}

static grpc_slice slice_of_buf(struct buf *owner, const uint8_t *data, size_t size)
{
    /* gRPC does not write to the data; its API takes a plain pointer. */
    return grpc_slice_new_with_user_data((void *)(uintptr_t)data, size, unref_buf, owner);
}

struct bufslice bus__own(struct bufslice s)
{
    if (s.owner != NULL || s.bytes.size == 0) {
        return s;
    }
    struct buf *b = buf_copy(s.bytes.data, s.bytes.size);
    return (struct bufslice){b, slice_of(b->data, b->size)};
}

grpc_slice bus__slice_of(struct bufslice s)
{
    if (s.bytes.size == 0) {
        buf_unref(s.owner);
        return grpc_empty_slice();
    }
    if (s.owner != NULL && s.bytes.size >= BUS_COPY_BYTES_MAX) {
        return slice_of_buf(s.owner, s.bytes.data, s.bytes.size);
    }
    grpc_slice copy = grpc_slice_from_copied_buffer((const char *)s.bytes.data, s.bytes.size);
    buf_unref(s.owner);
    return copy;
}

struct buf *bus__buf_of(grpc_byte_buffer *bb)
{
    struct buf *out = buf_new(grpc_byte_buffer_length(bb));
    grpc_byte_buffer_reader reader;
    size_t at = 0;
    if (!grpc_byte_buffer_reader_init(&reader, bb)) {
        out->size = 0;
        return out;
    }
    grpc_slice *s;
    while (grpc_byte_buffer_reader_peek(&reader, &s)) {
        size_t n = GRPC_SLICE_LENGTH(*s);
        ASSERT(at + n <= out->size);
        memcpy(out->data + at, GRPC_SLICE_START_PTR(*s), n);
        at += n;
    }
    out->size = at;
    grpc_byte_buffer_reader_destroy(&reader);
    return out;
}

/* ---- Bounds ---------------------------------------------------------------------------------- */

void bus__queue_charge(struct bus_queue *q, size_t bytes)
{
    if (q->share != NULL) {
        atomic_fetch_add_explicit(&q->share->bytes, bytes - q->shared, memory_order_relaxed);
        q->shared = bytes;
    }
    bus__charge(q->budget, &q->charged, bytes);
}

/* See shared_bytes in bus.h. */
static bool share_is_full(const struct bus_share *share, size_t own, size_t bytes)
{
    size_t used = atomic_load_explicit(&share->bytes, memory_order_relaxed);
    size_t free = used < share->bytes_max ? share->bytes_max - used : 0;
    size_t limit = free / 64 > BUS_RPC_SHARE_BYTES_MIN ? free / 64 : BUS_RPC_SHARE_BYTES_MIN;
    if (own + bytes <= limit) {
        return false;
    }
    return own > 0 || (used > 0 && used + bytes > share->bytes_max / 2);
}

bool bus__queue_is_full(const struct bus_queue *q, size_t queued, size_t sending, bool busy,
                        size_t bytes)
{
    if (q->share != NULL) {
        return share_is_full(q->share, queued + sending, bytes);
    }
    if (queued > 0 && queued + bytes > q->bytes_max) {
        return true;
    }
    return busy && q->budget != NULL && !bus__has_room(q->budget, bytes);
}

bool bus__queue_has_drained(const struct bus_queue *q, size_t queued)
{
    return queued <= (q->share != NULL ? 0 : q->bytes_max / 2);
}

/* ---- The queue of a pipe --------------------------------------------------------------------- */

void bus__writer_init(struct bus_writer *w, bool join)
{
    *w = (struct bus_writer){.join = join, .chunk_size = CHUNK_BYTES_MIN};
}

static struct bus_out *at(struct bus_writer *w, size_t i)
{
    return &w->ring[(w->head + i) & (w->capacity - 1)];
}

static void push(struct bus_writer *w, grpc_slice s, uint32_t items)
{
    if (w->count == w->capacity) {
        size_t capacity = w->capacity ? w->capacity * 2 : 8;
        struct bus_out *ring = xmalloc(capacity * sizeof *ring);
        for (size_t i = 0; i < w->count; i++) {
            ring[i] = *at(w, i);
        }
        free(w->ring);
        w->ring = ring;
        w->capacity = capacity;
        w->head = 0;
    }
    ASSERT(w->count < w->capacity);
    w->count++;
    *at(w, w->count - 1) = (struct bus_out){s, items};
}

/* The chunk becomes an entry of the ring. */
static void seal(struct bus_writer *w)
{
    if (w->chunk == NULL) {
        return;
    }
    ASSERT(w->chunk_items > 0 && w->chunk_used <= w->chunk->size);
    push(w, slice_of_buf(w->chunk, w->chunk->data, w->chunk_used), w->chunk_items);
    w->chunk = NULL;
}

static void append(struct bus_writer *w, struct slice head, struct slice body)
{
    size_t n = head.size + body.size;
    if (w->chunk != NULL && w->chunk->size - w->chunk_used < n) {
        if (w->chunk_size < CHUNK_BYTES_MAX) {
            w->chunk_size *= 2;
        }
        seal(w);
    }
    if (w->chunk == NULL) {
        w->chunk = buf_new(n > w->chunk_size ? n : w->chunk_size);
        w->chunk_used = 0;
        w->chunk_items = 0;
    }
    ASSERT(n <= w->chunk->size - w->chunk_used);
    uint8_t *to = w->chunk->data + w->chunk_used;
    if (head.size > 0) {
        memcpy(to, head.data, head.size);
    }
    if (body.size > 0) {
        memcpy(to + head.size, body.data, body.size);
    }
    w->chunk_used += n;
    w->chunk_items++;
}

void bus__writer_put(struct bus_writer *w, struct slice head, struct bufslice body)
{
    w->bytes += head.size + body.bytes.size;
    w->queued++;
    if (body.owner != NULL && body.bytes.size >= BUS_COPY_BYTES_MAX) {
        seal(w);
        if (head.size > 0) {
            push(w, grpc_slice_from_copied_buffer((const char *)head.data, head.size), 0);
        }
        push(w, slice_of_buf(body.owner, body.bytes.data, body.bytes.size), 1);
        return;
    }
    if (w->join) {
        append(w, head, body.bytes);
    } else {
        grpc_slice s = grpc_slice_malloc(head.size + body.bytes.size);
        if (head.size > 0) {
            memcpy(GRPC_SLICE_START_PTR(s), head.data, head.size);
        }
        if (body.bytes.size > 0) {
            memcpy(GRPC_SLICE_START_PTR(s) + head.size, body.bytes.data, body.bytes.size);
        }
        push(w, s, 1);
    }
    buf_unref(body.owner);
}

bool bus__writer_empty(const struct bus_writer *w)
{
    return w->count == 0 && w->chunk == NULL;
}

void bus__writer_take(struct bus_writer *w, grpc_slice_buffer *ret)
{
    seal(w);
    ASSERT(w->count > 0);
    size_t taken = 0;
    bool whole = true; /* an item is never split */
    while (w->count > 0) {
        struct bus_out *o = at(w, 0);
        size_t n = GRPC_SLICE_LENGTH(o->slice);
        /* The head and the body of an item are one unit. */
        ASSERT(o->items > 0 || w->count > 1);
        size_t group = o->items == 0 ? n + GRPC_SLICE_LENGTH(at(w, 1)->slice) : n;
        if (whole && taken > 0 && (!w->join || taken + group > JOINED_BYTES_MAX)) {
            break;
        }
        grpc_slice_buffer_add(ret, o->slice);
        whole = o->items > 0;
        w->taken += o->items;
        taken += n;
        w->head = (w->head + 1) & (w->capacity - 1);
        w->count--;
    }
    ASSERT(whole && w->bytes >= taken && w->taken <= w->queued);
    w->bytes -= taken;
    if (w->chunk_size > CHUNK_BYTES_MIN && taken * 4 < w->chunk_size) {
        w->chunk_size /= 2;
    }
}

void bus__writer_clear(struct bus_writer *w)
{
    buf_unref(w->chunk);
    w->chunk = NULL;
    for (size_t i = 0; i < w->count; i++) {
        grpc_slice_unref(at(w, i)->slice);
    }
    w->count = 0;
    w->bytes = 0;
}

void bus__writer_deinit(struct bus_writer *w)
{
    bus__writer_clear(w);
    free(w->ring);
}
