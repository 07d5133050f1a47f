/* propose, query, watch, session. Payloads are bytes for the machine; here they are text or
 * base64. */
#include "agent/cli/cmd_data.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "agent/cli/cmd_kv.h"
#include "agent/cli/rows.h"
#include "base/clock.h"
#include "base/limits.h"
#include "base/text.h"
#include "bus/bus.h"
#include "proto/decode.h"
#include "thole/v1/data.upbdefs.h"

/* Read slightly more than a host accepts, so that the host refuses it. */
#define FILE_BYTES_MAX (2 * LIMIT_PAYLOAD_BYTES)
#define PIECE_MS 60000 /* of a streamed answer */

bool cli_data_read_file(const char *path, struct bytes *to)
{
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
    if (f == NULL) {
        cli__say_failed("cannot open %s: %s", path, strerror(errno));
        return false;
    }
    size_t n;
    do {
        n = fread(bytes_extend(to, 64 * KIB), 1, 64 * KIB, f);
        to->size -= 64 * KIB - n;
    } while (n > 0 && to->size < FILE_BYTES_MAX);
    bool ok = !ferror(f);
    if (!ok) {
        cli__say_failed("cannot read %s", path);
    }
    if (f != stdin) {
        fclose(f);
    }
    return ok;
}

static upb_StringView key_option(struct cli *c)
{
    const char *key = cli_text(c, OPT_KEY);
    return key != NULL ? cli__sv(key) : (upb_StringView){NULL, 0};
}

/* The arguments after the shard, with a space between, or an option. */
static bool read_payload(struct cli *c, struct payload *ret)
{
    const char *text = cli_text(c, OPT_TEXT), *data = cli_text(c, OPT_DATA_BASE64);
    const char *file = cli_text(c, OPT_DATA_FILE);
    struct bytes joined = {0};
    ret->base64 = data != NULL;
    ret->key = key_option(c);
    if ((c->arg_count > 1) + (text != NULL) + (data != NULL) + (file != NULL) > 1) {
        cli__say_usage(c,
                       "give the payload once: as arguments, --text, --data-file or --data-base64");
        return false;
    }
    if (file != NULL && !cli_data_read_file(file, &joined)) {
        bytes_deinit(&joined);
        return false;
    }
    if (data != NULL && !cli__base64_decode(data, strlen(data), &joined)) {
        cli__say_usage(c, "--data-base64: the value is not base64");
        return false;
    }
    if (text != NULL) {
        bytes_append_str(&joined, text);
    }
    for (size_t i = 1; i < c->arg_count; i++) {
        bytes_append_str(&joined, i > 1 ? " " : "");
        bytes_append_str(&joined, c->args[i]);
    }
    char *copy = upb_Arena_Malloc(c->arena, joined.size + 1);
    if (joined.size > 0) {
        memcpy(copy, joined.data, joined.size);
    }
    ret->bytes = (upb_StringView){copy, joined.size};
    ret->text = !ret->base64 && text_is_utf8(slice_of(copy, joined.size));
    bytes_deinit(&joined);
    return true;
}

/* Text that is safe to show on a terminal: no control characters except tabs and newlines. */
static bool is_plain(upb_StringView bytes)
{
    for (size_t i = 0; i < bytes.size; i++) {
        uint8_t b = (uint8_t)bytes.data[i];
        if ((b < 0x20 && b != '\n' && b != '\t') || b == 0x7f) {
            return false;
        }
    }
    return text_is_utf8(slice_of(bytes.data, bytes.size));
}

/* Print a machine's bytes. Bytes that are not text are quoted on a terminal, and written as they
 * are to a pipe. */
void cli_data_print(upb_StringView bytes, bool base64, bool newline)
{
    struct bytes out = {0};
    bool raw = newline && !isatty(STDOUT_FILENO);
    if (base64) {
        cli__base64_encode(slice_of(bytes.data, bytes.size), &out);
    } else if (raw || is_plain(bytes)) {
        bytes_append(&out, bytes.data, bytes.size);
    } else {
        for (size_t i = 0; i < bytes.size; i++) {
            uint8_t b = (uint8_t)bytes.data[i];
            bytes_printf(&out, b >= 0x20 && b < 0x7f && b != '\\' ? "%c" : "\\x%02x", b);
        }
    }
    if (newline && (out.size == 0 || out.data[out.size - 1] != '\n')) {
        bytes_append_str(&out, "\n");
    }
    cli__print(bytes_slice(&out));
    bytes_deinit(&out);
}

bool cli_data_shown(struct cli *c, const void *message, const upb_MessageDef *def)
{
    if (cli__is_document(c)) {
        cli__document(c, upb_MessageDef_Name(def), message, def);
        return true;
    }
    return false;
}

enum thole_code cli_data_propose(struct cli *c, const char *shard, const struct payload *p,
                                 const thole_v1_ProposeResponse **ret, struct thole_status *st)
{
    thole_v1_ProposeRequest *request = thole_v1_ProposeRequest_new(c->arena);
    thole_v1_ProposeRequest_set_shard(request, cli__sv(shard));
    thole_v1_ProposeRequest_set_key(request, p->key);
    if (p->text) {
        thole_v1_ProposeRequest_set_text(request, p->bytes);
    } else {
        thole_v1_ProposeRequest_set_data(request, p->bytes);
    }
    thole_v1_ProposeRequest_set_session(request, cli_number(c, OPT_SESSION));
    thole_v1_ProposeRequest_set_sequence(request, cli_number(c, OPT_SEQUENCE));
    const char *id = cli_text(c, OPT_REQUEST_ID);
    if (id != NULL) {
        thole_v1_ProposeRequest_set_request_id(request, cli__sv(id));
    }
    return CLI_CALL(c, Data, Propose, request, ret, ProposeResponse, st);
}

static thole_v1_QueryRequest *query_request(struct cli *c, const char *shard,
                                            const struct payload *p)
{
    thole_v1_QueryRequest *request = thole_v1_QueryRequest_new(c->arena);
    thole_v1_QueryRequest_set_shard(request, cli__sv(shard));
    thole_v1_QueryRequest_set_key(request, p->key);
    if (p->text) {
        thole_v1_QueryRequest_set_text(request, p->bytes);
    } else {
        thole_v1_QueryRequest_set_data(request, p->bytes);
    }
    thole_v1_QueryRequest_set_stale(request, cli_flag(c, OPT_STALE));
    thole_v1_QueryRequest_set_max_staleness_ms(request, (uint32_t)cli_number(c, OPT_MAX_STALENESS));
    return request;
}

enum thole_code cli_data_query(struct cli *c, const char *shard, const struct payload *p,
                               const thole_v1_QueryResponse **ret, struct thole_status *st)
{
    thole_v1_QueryRequest *request = query_request(c, shard, p);
    enum thole_code code = CLI_CALL(c, Data, Query, request, ret, QueryResponse, st);
    if (code != THOLE_OK && st->reason == THOLE_REASON_OUTCOME_UNKNOWN) {
        st->reason = THOLE_REASON_NONE; /* a query changes nothing, so it can be repeated */
        st->code = code == THOLE_UNKNOWN ? THOLE_UNAVAILABLE : code;
    }
    return code != THOLE_OK ? st->code : THOLE_OK;
}

int cli_data_failed(const char *what, const struct cli *c, const struct thole_status *st)
{
    char text[LIMIT_NAME_BYTES + 64];
    snprintf(text, sizeof text, "the %s shards/%.*s failed", what, LIMIT_NAME_BYTES,
             cli__strip(c->args[0], "shard"));
    return cli__say_status(text, st);
}

int cli__command_propose(struct cli *c)
{
    struct thole_status st;
    struct payload p;
    const thole_v1_ProposeResponse *reply = NULL;
    if (!read_payload(c, &p)) {
        return CLI_USAGE;
    }
    if (cli_data_propose(c, cli__strip(c->args[0], "shard"), &p, &reply, &st) != THOLE_OK) {
        return cli_data_failed("proposal to", c, &st);
    }
    if (!cli_data_shown(c, reply, thole_v1_ProposeResponse_getmsgdef(c->pool))) {
        upb_StringView data = thole_v1_ProposeResponse_data(reply);
        if (data.size > 0) {
            cli_data_print(data, p.base64, true);
        }
        if (thole_v1_ProposeResponse_code(reply) != 0) {
            (void)cli__say_failed("the machine refused the proposal: code %" PRIu64,
                                  thole_v1_ProposeResponse_code(reply));
        }
        if (thole_v1_ProposeResponse_forgotten(reply)) {
            cli__note("the proposal was applied before; its answer is not remembered");
        } else if (thole_v1_ProposeResponse_duplicate(reply)) {
            cli__note("the proposal was applied before; this is the remembered answer");
        }
    }
    int result = cli__flush();
    return result == CLI_OK && thole_v1_ProposeResponse_code(reply) != 0 ? CLI_FAILED : result;
}

static enum thole_code print_piece(struct slice message, struct thole_status *st)
{
    enum thole_code code = THOLE_OK;
    upb_Arena *arena = upb_Arena_New();
    const thole_v1_QueryStreamResponse *m =
        PROTO_DECODE_ALIAS(thole_v1_QueryStreamResponse, message, arena);
    if (m != NULL) {
        upb_StringView data = thole_v1_QueryStreamResponse_data(m);
        cli__print(slice_of(data.data, data.size));
    }
    if (m == NULL) {
        code = THOLE_FAIL(st, THOLE_INTERNAL, THOLE_REASON_NONE, "the host's answer is malformed");
    } else if (fflush(stdout) != 0) {
        code =
            THOLE_FAIL(st, THOLE_CANCELLED, THOLE_REASON_NONE, "cannot write: %s", strerror(errno));
    }
    upb_Arena_Free(arena);
    return code;
}

static int query_stream(struct cli *c, const struct payload *p)
{
    struct thole_status st;
    struct bus_stream *stream = NULL;
    size_t size = 0;
    thole_v1_QueryRequest *request = query_request(c, cli__strip(c->args[0], "shard"), p);
    const char *bytes = thole_v1_QueryRequest_serialize(request, c->arena, &size);
    enum thole_code code = cli__connect(c, &st);
    if (code == THOLE_OK) {
        code = bus_channel_stream(c->channel, "/thole.v1.Data/QueryStream", slice_of(bytes, size),
                                  &stream, &st);
    }
    while (code == THOLE_OK) {
        struct buf *b = NULL;
        code = bus_stream_next(stream, PIECE_MS, &b, &st);
        if (code == THOLE_OK) {
            code = print_piece(slice_of(b->data, b->size), &st);
        }
        buf_unref(b);
    }
    bus_stream_free(stream);
    if (code != THOLE_OUT_OF_RANGE || st.reason != THOLE_REASON_NONE) { /* the regular end */
        return cli_data_failed("query of", c, &st);
    }
    return cli__flush();
}

int cli__command_query(struct cli *c)
{
    struct thole_status st;
    struct payload p;
    const thole_v1_QueryResponse *reply = NULL;
    if (!read_payload(c, &p)) {
        return CLI_USAGE;
    }
    if (cli_flag(c, OPT_STREAM)) {
        return query_stream(c, &p);
    }
    if (cli_data_query(c, cli__strip(c->args[0], "shard"), &p, &reply, &st) != THOLE_OK) {
        return cli_data_failed("query of", c, &st);
    }
    if (!cli_data_shown(c, reply, thole_v1_QueryResponse_getmsgdef(c->pool))) {
        cli_data_print(thole_v1_QueryResponse_data(reply), p.base64, true);
    }
    return cli__flush();
}

int cli__command_session_open(struct cli *c)
{
    struct thole_status st;
    const thole_v1_OpenSessionResponse *reply = NULL;
    thole_v1_OpenSessionRequest *request = thole_v1_OpenSessionRequest_new(c->arena);
    thole_v1_OpenSessionRequest_set_shard(request, cli__sv(cli__strip(c->args[0], "shard")));
    thole_v1_OpenSessionRequest_set_key(request, key_option(c));
    if (CLI_CALL(c, Data, OpenSession, request, &reply, OpenSessionResponse, &st)) {
        return cli__say_status("cannot open a session", &st);
    }
    if (!cli_data_shown(c, reply, thole_v1_OpenSessionResponse_getmsgdef(c->pool))) {
        printf("%" PRIu64 "\n", thole_v1_OpenSessionResponse_session(reply));
    }
    return cli__flush();
}

int cli__command_session_close(struct cli *c)
{
    struct thole_status st;
    uint64_t session = 0;
    const thole_v1_CloseSessionResponse *reply = NULL;
    if (!options_parse_number(c->args[1], &session) || session == 0) {
        cli__say_usage(c, "SESSION is the number that `thole session open` printed");
        return CLI_USAGE;
    }
    thole_v1_CloseSessionRequest *request = thole_v1_CloseSessionRequest_new(c->arena);
    thole_v1_CloseSessionRequest_set_shard(request, cli__sv(cli__strip(c->args[0], "shard")));
    thole_v1_CloseSessionRequest_set_key(request, key_option(c));
    thole_v1_CloseSessionRequest_set_session(request, session);
    if (CLI_CALL(c, Data, CloseSession, request, &reply, CloseSessionResponse, &st)) {
        return cli__say_status("cannot close the session", &st);
    }
    (void)cli_data_shown(c, reply, thole_v1_CloseSessionResponse_getmsgdef(c->pool));
    return cli__flush();
}

/* ---- Watch ----------------------------------------------------------------------------------- */

static void show_event(struct cli *c, bool kv, const thole_v1_WatchResponse *event)
{
    if (kv && kv_show_event(c, thole_v1_WatchResponse_event(event))) {
        return;
    }
    if (cli_data_shown(c, event, thole_v1_WatchResponse_getmsgdef(c->pool))) {
        return;
    }
    printf("%" PRIu64 " ", thole_v1_WatchResponse_index(event));
    cli_data_print(thole_v1_WatchResponse_key(event), false, false);
    upb_StringView value = thole_v1_WatchResponse_event(event);
    if (value.size > 0) {
        printf(" ");
        cli_data_print(value, false, false);
    }
    printf("\n");
}

/* Runs until the stream fails, --count is reached, or stdout is closed. */
static enum thole_code watch_loop(struct cli *c, bool kv, struct bus_stream *stream,
                                  bool *ret_begun, struct thole_status *st)
{
    uint64_t left = cli_given(c, OPT_COUNT) ? cli_number(c, OPT_COUNT) : UINT64_MAX;
    while (left > 0) {
        struct buf *b = NULL;
        if (bus_stream_next(stream, 24 * 3600 * 1000, &b, st) != THOLE_OK) {
            return st->code;
        }
        upb_Arena *arena = upb_Arena_New();
        const thole_v1_WatchResponse *event =
            PROTO_DECODE(thole_v1_WatchResponse, slice_of(b->data, b->size), arena);
        if (event != NULL && thole_v1_WatchResponse_bookmark(event)) {
            if (!*ret_begun) {
                cli__note("watching from index %" PRIu64, thole_v1_WatchResponse_index(event));
            }
            *ret_begun = true;
        } else if (event != NULL) {
            show_event(c, kv, event);
            left = fflush(stdout) == 0 ? left - 1 : 0;
        }
        upb_Arena_Free(arena);
        buf_unref(b);
    }
    return THOLE_OK;
}

int cli__command_watch(struct cli *c)
{
    struct thole_status st;
    const char *shard = cli__strip(c->args[0], "shard");
    thole_v1_WatchRequest *request = thole_v1_WatchRequest_new(c->arena);
    thole_v1_WatchRequest_set_shard(request, cli__sv(shard));
    thole_v1_WatchRequest_set_key(request, key_option(c));
    const thole_v1_ShardSpec *spec = rows_spec_of(c, shard, NULL);
    bool kv = spec != NULL && upb_StringView_IsEqual(thole_v1_ShardSpec_type(spec), cli__sv("kv"));
    size_t size = 0;
    char *bytes = thole_v1_WatchRequest_serialize(request, c->arena, &size);
    bool begun = false;
    uint64_t end_ns = clock_now(&clock_system) + cli__timeout_ms(c) * NS_PER_MS;
    enum thole_code code = cli__connect(c, &st);
    while (code == THOLE_OK) {
        struct bus_stream *stream = NULL;
        code = bus_channel_stream(c->channel, "/thole.v1.Data/Watch", slice_of(bytes, size),
                                  &stream, &st);
        if (code == THOLE_OK) {
            code = watch_loop(c, kv, stream, &begun, &st);
        }
        bus_stream_free(stream);
        /* A watch that has not begun is retried like a call. */
        if (code == THOLE_OK || begun || !cli__worth_a_retry(&st) ||
            clock_now(&clock_system) >= end_ns) {
            break;
        }
        cli__pause_ms(200);
        code = THOLE_OK;
    }
    return code == THOLE_OK ? cli__flush() : cli__say_status("the watch ended", &st);
}
