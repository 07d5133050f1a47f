/* libthole: the control plane, by the names of its methods. The handle is a gRPC client of its own
 * host, or of the hosts of a client: see docs/decisions/0024-one-door-to-the-control-plane.md. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/lib/api_internal.h"
#include "proto/json.h"

#define PATH_BYTES 160

struct thole_stream {
    struct bus_stream *stream;
    uint32_t encoding;
    char path[PATH_BYTES];
};

enum thole_code api__channel(struct thole *t, struct bus_channel **ret, struct thole_status *st)
{
    enum thole_code code = api__need_running(t, st);
    if (code != THOLE_OK) {
        return code;
    }
    pthread_mutex_lock(&t->lock);
    if (t->channel == NULL && t->is_client) {
        code = bus_channel_new_tls(api__client_addresses(t->client), api__client_tls(t->client),
                                   &t->channel, st);
        if (code == THOLE_OK && api__client_token(t->client) != NULL) {
            bus_channel_set_token(t->channel, api__client_token(t->client));
        }
    } else if (t->channel == NULL) {
        code = bus_channel_new_tls(agent_address(t->agent), agent_tls(t->agent), &t->channel, st);
    }
    *ret = t->channel;
    pthread_mutex_unlock(&t->lock);
    return code;
}

/* `ret` is the request's bytes and `path` the method's path. */
static enum thole_code prepare(const char *method, bool answers, uint32_t encoding,
                               struct slice request, struct bytes *ret,
                               char path[static PATH_BYTES], struct thole_status *st)
{
    struct proto_method m;
    char why[200] = "";
    snprintf(path, PATH_BYTES, "/thole.v1.%s", method != NULL ? method : "");
    if (encoding != THOLE_JSON && encoding != THOLE_PROTOBUF) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "encoding is unknown");
    }
    if (!proto_method_find(path, &m) || m.requests || m.answers != answers) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "\"%.64s\" is no method that answers with %s",
                          method != NULL ? method : "", answers ? "a stream" : "one message");
    }
    if (encoding == THOLE_PROTOBUF) {
        bytes_append(ret, request.data, request.size);
    } else if (!proto_json_read(m.request, &request, false, ret, why, sizeof why) ||
               request.size > 0) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, "request: %s",
                          why[0] != '\0' ? why : "something follows it");
    }
    return THOLE_OK;
}

/* Takes the reference. */
static enum thole_code give_answer(const char *path, uint32_t encoding, struct buf *reply,
                                   struct thole_answer *ret, struct thole_status *st)
{
    struct bytes out = {0};
    struct slice message = slice_of(reply->data, reply->size);
    struct proto_method m;
    bool ok = true;
    if (encoding == THOLE_JSON) {
        ok = proto_method_find(path, &m) && proto_json_write(m.answer, message, false, &out);
    } else {
        bytes_append(&out, message.data, message.size);
    }
    buf_unref(reply);
    if (!ok || ret == NULL) {
        bytes_deinit(&out);
    } else {
        *ret = (struct thole_answer){.size = out.size};
        bytes_append(&out, "", 1);
        ret->data = out.data;
    }
    return ok ? THOLE_OK
              : THOLE_FAIL(st, THOLE_INTERNAL, THOLE_REASON_NONE, "the answer does not decode");
}

enum thole_code thole_control(struct thole *t, const char *method, uint32_t encoding,
                              struct thole_slice request, uint32_t timeout_ms,
                              struct thole_answer *ret, struct thole_status *st)
{
    char path[PATH_BYTES];
    struct bytes bytes = {0};
    struct bus_channel *channel = NULL;
    struct buf *reply = NULL;
    struct thole_status failure = {0};
    enum thole_code code = prepare(method, false, encoding, slice_of(request.data, request.size),
                                   &bytes, path, &failure);
    if (code == THOLE_OK) {
        code = api__channel(t, &channel, &failure);
    }
    if (code == THOLE_OK) {
        code = bus_channel_call(channel, path, bytes_slice(&bytes),
                                timeout_ms != 0 ? timeout_ms : API_TIMEOUT_MS, &reply, &failure);
    }
    if (code == THOLE_OK) {
        code = give_answer(path, encoding, reply, ret, &failure);
    }
    bytes_deinit(&bytes);
    if (code != THOLE_OK && st != NULL) {
        *st = failure;
    }
    return code;
}

enum thole_code thole_stream_open(struct thole *t, const char *method, uint32_t encoding,
                                  struct thole_slice request, struct thole_stream **ret,
                                  struct thole_status *st)
{
    char path[PATH_BYTES];
    struct bytes bytes = {0};
    struct bus_channel *channel = NULL;
    struct bus_stream *stream = NULL;
    struct thole_status failure = {0};
    enum thole_code code = prepare(method, true, encoding, slice_of(request.data, request.size),
                                   &bytes, path, &failure);
    if (code == THOLE_OK) {
        code = api__channel(t, &channel, &failure);
    }
    if (code == THOLE_OK) {
        code = bus_channel_stream(channel, path, bytes_slice(&bytes), &stream, &failure);
    }
    if (code == THOLE_OK) {
        struct thole_stream *s = xcalloc(1, sizeof *s);
        s->stream = stream;
        s->encoding = encoding;
        snprintf(s->path, sizeof s->path, "%s", path);
        *ret = s;
    } else if (st != NULL) {
        *st = failure;
    }
    bytes_deinit(&bytes);
    return code;
}

enum thole_code thole_stream_next(struct thole_stream *s, uint32_t timeout_ms,
                                  struct thole_answer *ret, struct thole_status *st)
{
    struct buf *reply = NULL;
    struct thole_status failure = {0};
    if (bus_stream_next(s->stream, timeout_ms, &reply, &failure) == THOLE_OK) {
        return give_answer(s->path, s->encoding, reply, ret, st);
    }
    if (st != NULL) {
        *st = failure;
    }
    return failure.code;
}

void thole_stream_close(struct thole_stream *s)
{
    if (s != NULL) {
        bus_stream_free(s->stream);
        free(s);
    }
}
