/* Bytes: slices (borrowed), buffers (ref-counted, immutable once shared) and builders.
 *
 * A payload is allocated once per host as a `struct buf`; all its users (log cache, write batch,
 * wire frame, applier) hold references. Reference counts are atomic; the bytes are immutable once a
 * second reference exists. */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Borrowed bytes, valid as long as their owner says. `data` may be NULL only if size is 0. */
struct slice {
    const uint8_t *data;
    size_t size;
};

struct slice slice_of(const void *data, size_t size);
struct slice slice_str(const char *s); /* without the NUL */
bool slice_equal(struct slice a, struct slice b);
int slice_compare(struct slice a, struct slice b); /* memcmp order, shorter first */

struct buf {
    _Atomic uint32_t refs;
    size_t size;
    uint8_t data[];
};

struct buf *buf_new(size_t size); /* one reference, bytes uninitialised */
struct buf *buf_copy(const void *data, size_t size);
struct buf *buf_ref(struct buf *b); /* returns b; NULL passes through */
void buf_unref(struct buf *b);      /* NULL is fine */

/* A slice that keeps its owner alive. `owner` NULL means the bytes are static or borrowed. */
struct bufslice {
    struct buf *owner;
    struct slice bytes;
};
struct bufslice bufslice_ref(struct bufslice s);
void bufslice_unref(struct bufslice s);
/* A reference to the owner, or, without one, a copy of the bytes. Empty: nothing. */
struct bufslice bufslice_keep(struct bufslice s);

/* A growable byte builder. Zero-initialise, then append; release with bytes_deinit, or take the
 * result as a buf. Allocation failure aborts the process (see base/README.md). */
struct bytes {
    uint8_t *data;
    size_t size;
    size_t capacity;
};
void bytes_deinit(struct bytes *b);
void bytes_clear(struct bytes *b);                /* keeps the capacity */
uint8_t *bytes_extend(struct bytes *b, size_t n); /* returns where the n new bytes start */
void bytes_append(struct bytes *b, const void *data, size_t n);
void bytes_append_slice(struct bytes *b, struct slice s);
void bytes_append_str(struct bytes *b, const char *s);
void bytes_printf(struct bytes *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
struct slice bytes_slice(const struct bytes *b);
struct buf *bytes_to_buf(struct bytes *b); /* copies, and clears the builder */

/* Fixed-width big-endian (keys) and little-endian (records) access. */
void put_be64(uint8_t *p, uint64_t v);
uint64_t get_be64(const uint8_t *p);
void put_le32(uint8_t *p, uint32_t v);
uint32_t get_le32(const uint8_t *p);
void put_le64(uint8_t *p, uint64_t v);
uint64_t get_le64(const uint8_t *p);

/* LEB128 varints, as in protobuf: seven bits per byte, lowest first. Inline, because encoders of
 * entries spend their time here. */
#define VARINT_BYTES_MAX 10 /* ceil(64 / 7) */
static inline size_t varint_size(uint64_t v)
{
    return (size_t)(70 - __builtin_clzll(v | 1)) / 7; /* ceil(bits / 7), at least 1 */
}
/* Writes varint_size(v) bytes and returns their end. */
static inline uint8_t *put_varint(uint8_t *p, uint64_t v)
{
    while (v >= 0x80) {
        *p++ = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    *p++ = (uint8_t)v;
    return p;
}
void bytes_append_varint(struct bytes *b, uint64_t v);

/* Read from the front of `s`; false (and s untouched) if malformed or too short. A varint must have
 * its shortest form. */
bool slice_take_varint(struct slice *s, uint64_t *ret);
bool slice_take(struct slice *s, size_t n, struct slice *ret);

/* Allocation that ends the process on failure: see base/README.md. */
void *xcalloc(size_t n, size_t size);
void *xmalloc(size_t size);
void *xrealloc(void *p, size_t size);
char *xstrdup(const char *s);
char *xstrndup(const char *s, size_t n);
char *xasprintf(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
