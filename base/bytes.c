/* The byte builder, and integers as bytes. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/buf.h"

#define CAPACITY_MIN 64

void bytes_deinit(struct bytes *b)
{
    if (b == NULL) {
        return;
    }
    free(b->data);
    *b = (struct bytes){0};
}

void bytes_clear(struct bytes *b)
{
    b->size = 0;
}

static void reserve(struct bytes *b, size_t n)
{
    ASSERT(n <= SIZE_MAX / 2 - b->size);
    size_t needed = b->size + n;
    if (needed <= b->capacity) {
        return;
    }
    size_t capacity = b->capacity < CAPACITY_MIN ? CAPACITY_MIN : b->capacity * 2;
    if (capacity < needed) {
        capacity = needed;
    }
    b->data = xrealloc(b->data, capacity);
    b->capacity = capacity;
}

uint8_t *bytes_extend(struct bytes *b, size_t n)
{
    /* At least one byte of room, so that the result is a pointer even for n == 0. */
    reserve(b, n > 0 ? n : 1);
    ASSERT(n <= b->capacity - b->size);
    uint8_t *start = b->data + b->size;
    b->size += n;
    return start;
}

void bytes_append(struct bytes *b, const void *data, size_t n)
{
    if (n > 0) {
        memcpy(bytes_extend(b, n), data, n);
    }
}

void bytes_append_slice(struct bytes *b, struct slice s)
{
    bytes_append(b, s.data, s.size);
}

void bytes_append_str(struct bytes *b, const char *s)
{
    bytes_append(b, s, strlen(s));
}

void bytes_printf(struct bytes *b, const char *format, ...)
{
    reserve(b, CAPACITY_MIN);
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    size_t room = b->capacity - b->size;
    int size = vsnprintf((char *)b->data + b->size, room, format, args);
    ASSERT(size >= 0);
    if ((size_t)size >= room) {
        reserve(b, (size_t)size + 1);
        size = vsnprintf((char *)b->data + b->size, (size_t)size + 1, format, again);
        ASSERT(size >= 0);
    }
    va_end(again);
    va_end(args);
    b->size += (size_t)size;
}

struct slice bytes_slice(const struct bytes *b)
{
    return (struct slice){.data = b->data, .size = b->size};
}

struct buf *bytes_to_buf(struct bytes *b)
{
    struct buf *copy = buf_copy(b->data, b->size);
    bytes_clear(b);
    return copy;
}

void put_be64(uint8_t *p, uint64_t v)
{
    v = __builtin_bswap64(v);
    put_le64(p, v);
}

uint64_t get_be64(const uint8_t *p)
{
    return __builtin_bswap64(get_le64(p));
}

/* Portable; compilers turn it into a single move. */
void put_le32(uint8_t *p, uint32_t v)
{
    for (unsigned i = 0; i < 4; i++) {
        p[i] = (uint8_t)(v >> (8 * i));
    }
}

uint32_t get_le32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

void put_le64(uint8_t *p, uint64_t v)
{
    put_le32(p, (uint32_t)v);
    put_le32(p + 4, (uint32_t)(v >> 32));
}

uint64_t get_le64(const uint8_t *p)
{
    return (uint64_t)get_le32(p) | (uint64_t)get_le32(p + 4) << 32;
}

void bytes_append_varint(struct bytes *b, uint64_t v)
{
    uint8_t text[VARINT_BYTES_MAX];
    bytes_append(b, text, (size_t)(put_varint(text, v) - text));
}

bool slice_take_varint(struct slice *s, uint64_t *ret)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < VARINT_BYTES_MAX && i < s->size; i++) {
        uint8_t byte = s->data[i];
        if (i == VARINT_BYTES_MAX - 1 && byte > 1) {
            return false; /* more than 64 bits */
        }
        v |= (uint64_t)(byte & 0x7f) << (7 * i);
        if (byte < 0x80) {
            /* One encoding per value, so that equal records have equal checksums. */
            if (byte == 0 && i > 0) {
                return false;
            }
            s->data += i + 1;
            s->size -= i + 1;
            *ret = v;
            return true;
        }
    }
    return false;
}
