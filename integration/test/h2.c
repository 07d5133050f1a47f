/* A client of HTTP/2 for tests. See h2.h. */
#include "integration/test/h2.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

static void put_be32(uint8_t *p, uint32_t v)
{
    uint8_t wide[8];
    put_be64(wide, v);
    memcpy(p, wide + 4, 4);
}

static uint32_t get_be32(const uint8_t *p)
{
    uint8_t wide[8] = {0};
    memcpy(wide + 4, p, 4);
    return (uint32_t)get_be64(wide);
}

void h2_write(struct h2 *h, const void *data, size_t size)
{
    for (const uint8_t *p = data; size > 0 && !h->closed;) {
        ssize_t n = send(h->fd, p, size, MSG_NOSIGNAL);
        if (n <= 0) {
            h->closed = true;
            return;
        }
        p += n;
        size -= (size_t)n;
    }
}

void h2_frame(struct h2 *h, uint8_t type, uint8_t flags, uint32_t stream, struct slice body)
{
    uint8_t head[9] = {(uint8_t)(body.size >> 16), (uint8_t)(body.size >> 8), (uint8_t)body.size,
                       type, flags};
    put_be32(head + 5, stream);
    h2_write(h, head, sizeof head);
    h2_write(h, body.data, body.size);
}

void h2_dial(struct h2 *h, const struct host *host)
{
    *h = (struct h2){.window = 65535, .fd = host_dial(host, BUS_PORT)};
}

void h2_open(struct h2 *h, const struct host *host)
{
    h2_dial(h, host);
    h2_write(h, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
    h2_frame(h, H2_SETTINGS, 0, 0, (struct slice){0});
}

/* Tracks the windows that the server grants; acknowledges its settings and pings. */
static void h2_take(struct h2 *h, const uint8_t *frame, size_t size)
{
    uint32_t stream = get_be32(frame + 5) & 0x7fffffff;
    struct slice body = slice_of(frame + 9, size - 9);
    if (frame[3] == H2_SETTINGS && !(frame[4] & H2_ACK)) {
        for (size_t i = 0; i + 6 <= body.size; i += 6) {
            bool initial = body.data[i] == 0 && body.data[i + 1] == 4;
            for (size_t s = 0; initial && s < H2_STREAMS_MAX; s++) {
                h->windows[s] += (int64_t)get_be32(body.data + i + 2) - 65535;
            }
        }
        h2_frame(h, H2_SETTINGS, H2_ACK, 0, (struct slice){0});
    } else if (frame[3] == H2_PING && !(frame[4] & H2_ACK)) {
        h2_frame(h, H2_PING, H2_ACK, 0, body);
    } else if (frame[3] == H2_WINDOW_UPDATE && stream == 0) {
        h->window += get_be32(body.data);
    } else if (frame[3] == H2_WINDOW_UPDATE && stream / 2 < H2_STREAMS_MAX) {
        h->windows[stream / 2] += get_be32(body.data);
    }
}

/* Reads what has arrived, for at most `ms`. */
void h2_read(struct h2 *h, int wait_ms)
{
    struct pollfd p = {.fd = h->fd, .events = POLLIN};
    while (!h->closed && poll(&p, 1, wait_ms) == 1) {
        ssize_t n = recv(h->fd, h->in + h->in_size, sizeof h->in - h->in_size, 0);
        h->closed = n <= 0;
        h->in_size += n > 0 ? (size_t)n : 0;
        size_t at = 0;
        while (h->in_size - at >= 9) {
            size_t size =
                9 + ((size_t)h->in[at] << 16 | (size_t)h->in[at + 1] << 8 | h->in[at + 2]);
            if (h->in_size - at < size) {
                break;
            }
            h2_take(h, h->in + at, size);
            at += size;
        }
        memmove(h->in, h->in + at, h->in_size - at);
        h->in_size -= at;
        wait_ms = 0;
    }
}

void h2_add_header(struct bytes *out, const char *name, const char *value)
{
    uint8_t n = (uint8_t)strlen(name), v = (uint8_t)strlen(value);
    bytes_append(out, "\0", 1); /* literal, not indexed */
    bytes_append(out, &n, 1);
    bytes_append_str(out, name);
    bytes_append(out, &v, 1);
    bytes_append_str(out, value);
}

uint32_t h2_call(struct h2 *h, const char *path, const char *encoding)
{
    struct bytes out = {0};
    h2_add_header(&out, ":method", "POST");
    h2_add_header(&out, ":scheme", "http");
    h2_add_header(&out, ":path", path);
    h2_add_header(&out, ":authority", "x");
    h2_add_header(&out, "content-type", "application/grpc");
    h2_add_header(&out, "te", "trailers");
    if (encoding != NULL) {
        h2_add_header(&out, "grpc-encoding", encoding);
    }
    uint32_t stream = h->streams++ * 2 + 1;
    assert_true(h->streams <= H2_STREAMS_MAX);
    h->windows[stream / 2] += 65535;
    h2_frame(h, H2_HEADERS, H2_END_HEADERS, stream, bytes_slice(&out));
    bytes_deinit(&out);
    return stream;
}

/* Sends as much as the server accepts at once. Returns how much that is. */
size_t h2_send_some(struct h2 *h, uint32_t stream, struct slice data)
{
    size_t sent = 0;
    h2_read(h, 0);
    while (sent < data.size && !h->closed) {
        int64_t window = h->windows[stream / 2] < h->window ? h->windows[stream / 2] : h->window;
        size_t n = data.size - sent < 16384 ? data.size - sent : 16384;
        n = (int64_t)n > window ? (window > 0 ? (size_t)window : 0) : n;
        if (n == 0) {
            break;
        }
        h2_frame(h, H2_DATA, 0, stream, slice_of(data.data + sent, n));
        h->windows[stream / 2] -= (int64_t)n;
        h->window -= (int64_t)n;
        sent += n;
    }
    return sent;
}

void h2_message_head(uint8_t head[5], bool compressed, size_t size)
{
    head[0] = compressed;
    put_be32(head + 1, (uint32_t)size);
}

void h2_send(struct h2 *h, uint32_t stream, bool compressed, struct slice body)
{
    struct bytes out = {0};
    uint8_t head[5];
    h2_message_head(head, compressed, body.size);
    bytes_append(&out, head, sizeof head);
    bytes_append_slice(&out, body);
    uint64_t begin = now_ms();
    for (size_t at = 0; at < out.size && !h->closed && now_ms() - begin < 3000;) {
        at += h2_send_some(h, stream, slice_of(out.data + at, out.size - at));
        if (at < out.size) {
            h2_read(h, 100);
        }
    }
    bytes_deinit(&out);
}
