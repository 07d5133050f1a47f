/* Calls to the cluster. */
#include <stdlib.h>
#include <string.h>
#include <thole/thole.h>
#include <time.h>
#include <upb/encode.h>

#include "agent/cli/cli.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/uuid.h"
#include "bus/bus.h"
#include "proto/decode.h"

#define RETRY_MS 200

uint32_t cli__timeout_ms(const struct cli *c)
{
    uint64_t ms = cli_number(c, OPT_COMMAND_TIMEOUT);
    return ms == 0 || ms > UINT32_MAX ? UINT32_MAX : (uint32_t)ms;
}

void cli__tls_files(const struct cli *c, struct thole_tls *ret)
{
    *ret = (struct thole_tls){.size = sizeof *ret,
                              .cert = cli_text(c, OPT_TLS_CERT),
                              .key = cli_text(c, OPT_TLS_KEY),
                              .ca = cli_text(c, OPT_TLS_CA),
                              .token = c->token};
}

bool cli__has_tls(const struct cli *c)
{
    return cli_text(c, OPT_TLS_CERT) != NULL || cli_text(c, OPT_TLS_KEY) != NULL ||
           cli_text(c, OPT_TLS_CA) != NULL;
}

#define TOKEN_BYTES_MAX 4096

/* Must be one word, because it becomes a header. */
static bool is_token(const char *text)
{
    size_t n = strlen(text);
    for (size_t i = 0; i < n; i++) {
        if (text[i] <= ' ' || text[i] > '~') {
            return false;
        }
    }
    return n > 0 && n < TOKEN_BYTES_MAX;
}

/* The token from the option or variable, else from the file. Never shown in an error. */
static enum thole_code read_token(struct cli *c, struct thole_status *st)
{
    const char *path = cli_text(c, OPT_TOKEN_FILE);
    if (c->token != NULL || (cli_text(c, OPT_TOKEN) == NULL && path == NULL)) {
        return THOLE_OK;
    }
    if (cli_text(c, OPT_TOKEN) != NULL) {
        c->token = xstrdup(cli_text(c, OPT_TOKEN));
    } else {
        struct buf *b = NULL;
        enum thole_code code = file_read(path, TOKEN_BYTES_MAX, &b, st);
        if (code != THOLE_OK) {
            return code;
        }
        size_t n = b->size;
        while (n > 0 && (b->data[n - 1] == '\n' || b->data[n - 1] == '\r')) {
            n--;
        }
        c->token = xstrndup((const char *)b->data, n);
        buf_unref(b);
    }
    if (is_token(c->token)) {
        return THOLE_OK;
    }
    return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_TOKEN,
                      "%s: is no bearer token: one word, as `thole token create` prints it",
                      cli_text(c, OPT_TOKEN) != NULL ? "token" : path);
}

enum thole_code cli__open_channel(struct cli *c, const char *addresses, struct bus_channel **ret,
                                  struct thole_status *st)
{
    const struct bus_tls_files files = {.cert = cli_text(c, OPT_TLS_CERT),
                                        .key = cli_text(c, OPT_TLS_KEY),
                                        .ca = cli_text(c, OPT_TLS_CA)};
    enum thole_code code = THOLE_OK;
    if (cli__has_tls(c) && c->tls == NULL) {
        code = bus_tls_new(&files, false, &c->tls, st);
    }
    if (code == THOLE_OK) {
        code = read_token(c, st);
    }
    if (code == THOLE_OK && c->token != NULL) {
        code = bus_check_token(addresses, c->tls != NULL, st);
    }
    if (code == THOLE_OK) {
        code = bus_channel_new_tls(addresses, c->tls, ret, st);
    }
    if (code == THOLE_OK && c->token != NULL) {
        bus_channel_set_token(*ret, c->token);
    }
    return code;
}

enum thole_code cli__connect(struct cli *c, struct thole_status *st)
{
    if (c->channel != NULL) {
        return THOLE_OK;
    }
    return cli__open_channel(c, cli_text(c, OPT_ENDPOINTS), &c->channel, st);
}

bool cli__worth_a_retry(const struct thole_status *st)
{
    return st->code == THOLE_UNAVAILABLE && st->reason != THOLE_REASON_UNREACHABLE &&
           st->reason != THOLE_REASON_TOO_STALE && st->reason != THOLE_REASON_NONE;
}

/* Can the host's own view answer the command, and was --stale not given? */
static bool could_be_stale(const struct cli *c)
{
    return c->command != NULL && !cli_flag(c, OPT_STALE) &&
           memchr(c->command->options, OPT_STALE, sizeof c->command->options) != NULL;
}

void cli__explain_no_leader(const struct cli *c, const char *path, struct thole_status *st)
{
    static const char data[] = "/thole.v1.Data/";
    if (st->reason != THOLE_REASON_NO_LEADER || strncmp(path, data, sizeof data - 1) == 0) {
        return;
    }
    thole_status_set(st, st->code, st->reason, st->file, st->line, "shard zero has no leader%s",
                     could_be_stale(c) ? "; --stale shows what the called host knows" : "");
}

enum thole_code cli__call_in(struct cli *c, const char *path, const void *request,
                             const upb_MiniTable *request_kind, const upb_MiniTable *reply_kind,
                             upb_Arena *arena, void **ret, struct thole_status *st)
{
    char *bytes = NULL;
    size_t size = 0;
    if (cli__connect(c, st) != THOLE_OK) {
        return st->code;
    }
    if (upb_Encode(request, request_kind, 0, arena, &bytes, &size) != kUpb_EncodeStatus_Ok) {
        return THOLE_FAIL(st, THOLE_INTERNAL, THOLE_REASON_NONE, "cannot encode the request");
    }
    uint64_t begin = clock_now(&clock_system);
    struct buf *reply = NULL;
    for (;;) {
        uint64_t passed = (clock_now(&clock_system) - begin) / NS_PER_MS;
        uint64_t limit = cli__timeout_ms(c);
        uint32_t left = passed < limit ? (uint32_t)(limit - passed) : 1;
        if (bus_channel_call(c->channel, path, slice_of(bytes, size), left, &reply, st) ==
            THOLE_OK) {
            break;
        }
        if (!cli__worth_a_retry(st) || passed + RETRY_MS >= limit) {
            cli__explain_no_leader(c, path, st);
            return st->code;
        }
        cli__pause_ms(RETRY_MS);
    }
    void *message =
        proto_decode(reply_kind, slice_of(reply->data, reply->size), false, arena, NULL);
    buf_unref(reply);
    if (message == NULL) {
        return THOLE_FAIL(st, THOLE_INTERNAL, THOLE_REASON_NONE, "%s: the reply does not decode",
                          path);
    }
    *ret = message;
    return THOLE_OK;
}

void cli__deinit(struct cli *c)
{
    bus_channel_free(c->channel);
    bus_tls_unref(c->tls);
    free(c->token);
    if (c->pool != NULL) {
        upb_DefPool_Free(c->pool);
    }
    if (c->arena != NULL) {
        upb_Arena_Free(c->arena);
    }
    options_deinit(&c->options);
}

upb_StringView cli__request_id(struct cli *c)
{
    struct uuid id = uuid_random();
    char *text = upb_Arena_Malloc(c->arena, UUID_TEXT_BYTES);
    uuid_format(&id, text);
    return cli__sv(text);
}
