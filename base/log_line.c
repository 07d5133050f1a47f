/* How one log line looks: pure functions of its parts. Messages quote names and errors that come
 * from outside, so control characters are escaped: nobody can forge a line. */
#include <inttypes.h>
#include <time.h>

#include "base/log_internal.h"

const char *const log__level_names[] = {
    [LOG_LEVEL_ERROR] = "error",
    [LOG_LEVEL_WARN] = "warn",
    [LOG_LEVEL_INFO] = "info",
    [LOG_LEVEL_DEBUG] = "debug",
};

static const char *const level_labels[] = {
    [LOG_LEVEL_ERROR] = "ERROR",
    [LOG_LEVEL_WARN] = "WARN ",
    [LOG_LEVEL_INFO] = "INFO ",
    [LOG_LEVEL_DEBUG] = "DEBUG",
};

const char *const log__subject_names[] = {
    [LOG_BASE] = "base",         [LOG_STORE] = "store",     [LOG_RAFT] = "raft",
    [LOG_ENGINE] = "engine",     [LOG_MACHINE] = "machine", [LOG_BUS] = "bus",
    [LOG_REGISTRY] = "registry", [LOG_HOSTCTL] = "hostctl", [LOG_AGENT] = "agent",
    [LOG_DAEMON] = "daemon",
};

_Static_assert(sizeof(log__subject_names) / sizeof(log__subject_names[0]) == LOG_SUBJECT_COUNT,
               "every subject has a name");

static void append_time(struct bytes *out, uint64_t wall_ms)
{
    time_t seconds = (time_t)(wall_ms / 1000);
    struct tm t = {0};
    (void)gmtime_r(&seconds, &t);
    bytes_printf(out, "%04d-%02d-%02dT%02d:%02d:%02d.%03uZ", t.tm_year + 1900, t.tm_mon + 1,
                 t.tm_mday, t.tm_hour, t.tm_min, t.tm_sec, (unsigned)(wall_ms % 1000));
}

/* '\n' -> 'n'; 0 if the character has no short escape. */
static char short_escape(unsigned char c)
{
    switch (c) {
    case '\n':
        return 'n';
    case '\r':
        return 'r';
    case '\t':
        return 't';
    default:
        return 0;
    }
}

static bool is_control(unsigned char c)
{
    return c < 0x20 || c == 0x7f;
}

static void append_text(struct bytes *out, const char *s)
{
    for (; *s != '\0'; s++) {
        unsigned char c = (unsigned char)*s;
        if (!is_control(c))
            bytes_append(out, s, 1);
        else if (short_escape(c) != 0)
            bytes_printf(out, "\\%c", short_escape(c));
        else
            bytes_printf(out, "\\x%02x", c);
    }
}

/* The length of the UTF-8 character at `s`, or 0 if there is none: RFC 3629, so no overlong forms,
 * surrogates, or code points above 10FFFF. The NUL at the end stops a character that was cut. */
static unsigned utf8_length(const unsigned char *s)
{
    if (s[0] < 0x80)
        return 1;
    unsigned length = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4)
        return 0;
    unsigned char low = s[0] == 0xe0 ? 0xa0 : s[0] == 0xf0 ? 0x90 : 0x80;
    unsigned char high = s[0] == 0xed ? 0x9f : s[0] == 0xf4 ? 0x8f : 0xbf;
    if (s[1] < low || s[1] > high)
        return 0;
    for (unsigned i = 2; i < length; i++) {
        if (s[i] < 0x80 || s[i] > 0xbf)
            return 0;
    }
    return length;
}

static void append_json_string(struct bytes *out, const char *text)
{
    const unsigned char *s = (const unsigned char *)text;
    bytes_append_str(out, "\"");
    while (*s != '\0') {
        unsigned length = utf8_length(s);
        if (length == 0)
            bytes_append_str(out, "\\ufffd");
        else if (*s == '"' || *s == '\\')
            bytes_printf(out, "\\%c", *s);
        else if (is_control(*s) && short_escape(*s) != 0)
            bytes_printf(out, "\\%c", short_escape(*s));
        else if (is_control(*s))
            bytes_printf(out, "\\u%04x", (unsigned)*s);
        else
            bytes_append(out, s, length);
        s += length > 0 ? length : 1;
    }
    bytes_append_str(out, "\"");
}

void log__render_text(struct bytes *out, const struct log_line *line)
{
    append_time(out, line->wall_ms);
    bytes_printf(out, " %s %s  ", level_labels[line->level], log__subject_names[line->subject]);
    append_text(out, line->message);
    if (line->host != NULL) {
        bytes_append_str(out, " host=");
        append_text(out, line->host);
    }
    if (line->thread != NULL) {
        bytes_append_str(out, " thread=");
        append_text(out, line->thread);
    }
    if (line->shard_id != 0)
        bytes_printf(out, " shard=%" PRIu64, line->shard_id);
    if (line->replica_id != 0)
        bytes_printf(out, " replica=%" PRIu64, line->replica_id);
    bytes_append_str(out, "\n");
}

void log__render_json(struct bytes *out, const struct log_line *line)
{
    bytes_append_str(out, "{\"time\":\"");
    append_time(out, line->wall_ms);
    bytes_printf(out, "\",\"level\":\"%s\",\"subject\":\"%s\",\"message\":",
                 log__level_names[line->level], log__subject_names[line->subject]);
    append_json_string(out, line->message);
    if (line->host != NULL) {
        bytes_append_str(out, ",\"host\":");
        append_json_string(out, line->host);
    }
    if (line->thread != NULL) {
        bytes_append_str(out, ",\"thread\":");
        append_json_string(out, line->thread);
    }
    if (line->shard_id != 0)
        bytes_printf(out, ",\"shard\":%" PRIu64, line->shard_id);
    if (line->replica_id != 0)
        bytes_printf(out, ",\"replica\":%" PRIu64, line->replica_id);
    bytes_append_str(out, "}\n");
}
