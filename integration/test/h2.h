/* A client that does as little as HTTP/2 lets it: frames and calls by hand, in plain text. */
#ifndef INTEGRATION_TEST_H2_H
#define INTEGRATION_TEST_H2_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "integration/test/cluster.h"

#define H2_STREAMS_MAX 512
struct h2 {
    int fd;
    int64_t window, windows[H2_STREAMS_MAX];
    uint32_t streams; /* opened */
    uint8_t in[65536];
    size_t in_size;
    bool closed;
};

enum h2_type {
    H2_DATA,
    H2_HEADERS,
    H2_RST_STREAM = 3,
    H2_SETTINGS,
    H2_PING = 6,
    H2_WINDOW_UPDATE = 8,
    H2_CONTINUATION = 9,
};
#define H2_ACK 1
#define H2_END_HEADERS 4

void h2_dial(struct h2 *h, const struct host *host); /* connects, and no more */
void h2_open(struct h2 *h, const struct host *host); /* sends the preface and settings */
void h2_write(struct h2 *h, const void *data, size_t size);
void h2_frame(struct h2 *h, uint8_t type, uint8_t flags, uint32_t stream, struct slice body);
/* Read what arrives within `wait_ms`: windows are counted, settings and pings acknowledged. */
void h2_read(struct h2 *h, int wait_ms);
void h2_add_header(struct bytes *out, const char *name, const char *value);
/* The headers of a call, without an end of the stream. `encoding` may be NULL. */
uint32_t h2_call(struct h2 *h, const char *path, const char *encoding);
/* Send as much as the server accepts at once. Returns how much that is. */
size_t h2_send_some(struct h2 *h, uint32_t stream, struct slice data);
void h2_message_head(uint8_t head[5], bool compressed, size_t size);
void h2_send(struct h2 *h, uint32_t stream, bool compressed, struct slice body);

#endif
