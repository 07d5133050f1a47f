/* Messages for people: one line per error, with what to do about it. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "agent/cli/cli.h"

/* Data may contain control characters (C0, DEL, and C1 in UTF-8), and terminals obey them: show
 * them as \xNN, as libsmartcols does in tables. */
char *cli__vtext(const char *format, va_list args)
{
    char *raw = NULL;
    struct bytes out = {0};
    if (vasprintf(&raw, format, args) < 0) {
        return xstrdup("");
    }
    for (const unsigned char *c = (const unsigned char *)raw; *c != '\0'; c++) {
        bool c1 = c[0] == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0;
        if (*c < ' ' || *c == 0x7f || c1) {
            bytes_printf(&out, "\\x%02x", c1 ? *++c : *c);
        } else {
            bytes_append(&out, c, 1);
        }
    }
    free(raw);
    char *text = xstrndup((const char *)out.data, out.size);
    bytes_deinit(&out);
    return text;
}

void cli__line(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = cli__vtext(format, args);
    va_end(args);
    puts(text);
    free(text);
}

/* To standard error. */
static void say(const char *format, va_list args) __attribute__((format(printf, 1, 0)));
static void say(const char *format, va_list args)
{
    char *text = cli__vtext(format, args);
    fputs(text, stderr);
    free(text);
}

int cli__say_usage(const struct cli *c, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("thole: ", stderr);
    say(format, args);
    va_end(args);
    if (c != NULL && c->command != NULL) {
        fprintf(stderr, " (see `thole help %s`)\n", c->command->name);
    } else {
        fputs(" (see `thole help`)\n", stderr);
    }
    return CLI_USAGE;
}

int cli__say_failed(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("thole: ", stderr);
    say(format, args);
    va_end(args);
    fputc('\n', stderr);
    return CLI_FAILED;
}

void cli__note(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say(format, args);
    va_end(args);
    fputc('\n', stderr);
}

int cli__exit_of(enum thole_code code)
{
    switch (code) {
    case THOLE_OK:
        return CLI_OK;
    case THOLE_NOT_FOUND:
        return CLI_NOT_FOUND;
    case THOLE_UNAVAILABLE:
    case THOLE_DEADLINE_EXCEEDED:
    case THOLE_RESOURCE_EXHAUSTED:
        return CLI_UNAVAILABLE;
    case THOLE_UNKNOWN:
        return CLI_UNKNOWN;
    case THOLE_CANCELLED:
    case THOLE_INVALID_ARGUMENT:
    case THOLE_ALREADY_EXISTS:
    case THOLE_PERMISSION_DENIED:
    case THOLE_FAILED_PRECONDITION:
    case THOLE_ABORTED:
    case THOLE_OUT_OF_RANGE:
    case THOLE_UNIMPLEMENTED:
    case THOLE_INTERNAL:
    case THOLE_DATA_LOSS:
    case THOLE_UNAUTHENTICATED:
        break;
    }
    return CLI_FAILED;
}

/* What to do about it, by reason first, then by code. "" if the message already says so. */
static const char *advice(const struct thole_status *st)
{
    static const struct {
        enum thole_reason reason;
        const char *text;
    } by_reason[] = {
        {THOLE_REASON_UNREACHABLE, "is tholed running there? see --endpoints"},
        {THOLE_REASON_PEER_UNREACHABLE, "see `thole get hosts`; try again"},
        {THOLE_REASON_TOO_STALE, "use another host or a larger --max-staleness, or omit --stale"},
        {THOLE_REASON_NO_LEADER, "a majority of the shard's voters must be up; try again"},
        {THOLE_REASON_NOT_LEADER, "the leader is changing; try again"},
        {THOLE_REASON_DROPPED, "it was certainly not applied; try again"},
        {THOLE_REASON_OUTCOME_UNKNOWN, "it may have been applied; query before you repeat it"},
        {THOLE_REASON_QUEUE_FULL, "the host is busy; try again"},
        {THOLE_REASON_LOW_SPACE, "free space on the host's disk"},
        {THOLE_REASON_SESSION_EXPIRED, "open a new session"},
        {THOLE_REASON_TRANSFERRING, "try again"},
        {THOLE_REASON_CHANGE_IN_FLIGHT, "try again"},
        {THOLE_REASON_NO_SUCH_SHARD, "see `thole get shards` and `thole get pools`"},
        {THOLE_REASON_NO_SUCH_HOST, "see `thole get hosts`"},
        {THOLE_REASON_NO_SUCH_REPLICA, "see `thole get replicas`"},
        {THOLE_REASON_CERTIFICATE, "see --tls-ca, --tls-cert and --tls-key, and docs/security.md"},
        {THOLE_REASON_NO_SUCH_TYPE, "see the machine types in `thole get hosts -o wide`"},
        {THOLE_REASON_ETAG_MISMATCH, "the object was changed meanwhile; read it again"},
        {THOLE_REASON_STALE_REVISION, "the object was changed meanwhile; try again"},
        {THOLE_REASON_COMPACTED, "start again without a revision"},
        {THOLE_REASON_NOT_READY, "see `thole status`"},
        {THOLE_REASON_STOPPED, "the host is stopping; use another one"},
        {THOLE_REASON_LOCKED, "stop that process first"},
    };
    for (size_t i = 0; i < sizeof by_reason / sizeof by_reason[0]; i++) {
        if (by_reason[i].reason == st->reason) {
            return by_reason[i].text;
        }
    }
    if (st->code == THOLE_DEADLINE_EXCEEDED) {
        return "a change may still happen; --command-timeout gives more time";
    }
    return st->code == THOLE_UNAVAILABLE ? "try again" : "";
}

int cli__say_status(const char *what, const struct thole_status *st)
{
    const char *todo = advice(st);
    const char *reason =
        st->reason != THOLE_REASON_NONE ? thole_reason_name(st->reason) : thole_code_name(st->code);
    const char *message = st->message[0] != '\0' ? st->message : thole_code_name(st->code);
    (void)cli__say_failed("%s: %s (%s)%s%s", what, message, reason, todo[0] != '\0' ? "; " : "",
                          todo);
    return cli__exit_of(st->code);
}
