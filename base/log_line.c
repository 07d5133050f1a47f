/* The format of a log line: pure functions. Messages quote names and errors from outside, so
 * control characters are escaped and nobody can forge a line. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log_internal.h"

const char *const log_level_names[] = {
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

const char *const log_subject_names[] = {
    [LOG_BASE] = "base",         [LOG_STORE] = "store",     [LOG_RAFT] = "raft",
    [LOG_ENGINE] = "engine",     [LOG_MACHINE] = "machine", [LOG_BUS] = "bus",
    [LOG_REGISTRY] = "registry", [LOG_HOSTCTL] = "hostctl", [LOG_AGENT] = "agent",
    [LOG_DAEMON] = "daemon",
};

_Static_assert(sizeof log_subject_names / sizeof log_subject_names[0] == LOG_SUBJECT_COUNT,
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

static void append_text(struct bytes *out, struct slice text)
{
    for (size_t i = 0; i < text.size; i++) {
        unsigned char c = text.data[i];
        if (!is_control(c)) {
            bytes_append(out, &c, 1);
        } else if (short_escape(c) != 0) {
            bytes_printf(out, "\\%c", short_escape(c));
        } else {
            bytes_printf(out, "\\x%02x", c);
        }
    }
}

/* The length of the UTF-8 character at `s`, or 0 if there is none: RFC 3629, so no overlong forms,
 * surrogates, or code points above 10FFFF. The NUL at the end stops a character that was cut. */
static unsigned utf8_length(const unsigned char *s)
{
    if (s[0] < 0x80) {
        return 1;
    }
    unsigned length = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4) {
        return 0;
    }
    unsigned char low = s[0] == 0xe0 ? 0xa0 : s[0] == 0xf0 ? 0x90 : 0x80;
    unsigned char high = s[0] == 0xed ? 0x9f : s[0] == 0xf4 ? 0x8f : 0xbf;
    if (s[1] < low || s[1] > high) {
        return 0;
    }
    for (unsigned i = 2; i < length; i++) {
        if (s[i] < 0x80 || s[i] > 0xbf) {
            return 0;
        }
    }
    return length;
}

static void append_json_bytes(struct bytes *out, const char *text, size_t size)
{
    const unsigned char *s = (const unsigned char *)text;
    const unsigned char *end = size > 0 ? s + size : s; /* nothing may be NULL */
    bytes_append_str(out, "\"");
    while (s < end) {
        unsigned length = utf8_length(s);
        if (length == 0 || length > (size_t)(end - s)) {
            bytes_append_str(out, "\\ufffd");
            length = 1;
        } else if (*s == '"' || *s == '\\') {
            bytes_printf(out, "\\%c", *s);
        } else if (is_control(*s) && short_escape(*s) != 0) {
            bytes_printf(out, "\\%c", short_escape(*s));
        } else if (is_control(*s)) {
            bytes_printf(out, "\\u%04x", (unsigned)*s);
        } else {
            bytes_append(out, s, length);
        }
        s += length;
    }
    bytes_append_str(out, "\"");
}

static void append_json_string(struct bytes *out, const char *text)
{
    append_json_bytes(out, text, strlen(text));
}

/* ---- The key=value pairs of a message -------------------------------------------------------- */

#define PAIRS_MAX 24 /* of one message; further pairs stay in its text */

struct pair {
    const char *key, *value; /* in the message */
    size_t key_size, value_size;
};

struct parsed {
    struct pair pairs[PAIRS_MAX];
    size_t count;
    struct bytes text; /* the message without them */
};

static bool is_key_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
}

static bool has_key(const struct parsed *p, const char *key, size_t size)
{
    for (size_t i = 0; i < p->count; i++) {
        if (p->pairs[i].key_size == size && memcmp(p->pairs[i].key, key, size) == 0) {
            return true;
        }
    }
    return false;
}

/* Members that every line has. */
static bool is_reserved(const char *key, size_t size)
{
    static const char *const names[] = {"time", "level", "subject", "message", "host", "thread"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strlen(names[i]) == size && memcmp(names[i], key, size) == 0) {
            return true;
        }
    }
    return false;
}

/* A pair at `s`; returns its end, or NULL if there is none. */
static const char *parse_pair(const char *s, struct pair *ret)
{
    const char *at = s;
    while (is_key_char(*at)) {
        at++;
    }
    if (at == s || *at != '=') {
        return NULL;
    }
    *ret = (struct pair){.key = s, .key_size = (size_t)(at - s), .value = at + 1};
    at++;
    if (*at != '"') {
        at += strcspn(at, " ");
        while (at > ret->value &&
               strchr(";,:", at[-1]) != NULL) { /* belongs to the sentence, not to the value */
            at--;
        }
        ret->value_size = (size_t)(at - ret->value);
        return at;
    }
    ret->value++;
    for (at++; (at = strchr(at, '"')) != NULL; at++) {
        if (at[1] == '\0' || strchr(" ;,:", at[1]) != NULL) { /* else a quote inside the value */
            ret->value_size = (size_t)(at - ret->value);
            return at + 1;
        }
    }
    return NULL;
}

static void parse_message(const char *message, struct parsed *ret)
{
    const char *s = message;
    while (*s != '\0') {
        struct pair pair;
        bool at_word = s == message || s[-1] == ' ';
        const char *end = at_word && ret->count < PAIRS_MAX ? parse_pair(s, &pair) : NULL;
        if (end == NULL || is_reserved(pair.key, pair.key_size) ||
            has_key(ret, pair.key, pair.key_size)) {
            bytes_append(&ret->text, s, 1);
            s++;
            continue;
        }
        ret->pairs[ret->count++] = pair;
        s = end;
        if (ret->text.size > 0 && ret->text.data[ret->text.size - 1] == ' ') {
            ret->text.size--; /* the space before the pair; the one behind it stays */
        }
    }
}

static bool is_number(const struct pair *p)
{
    size_t digits = strspn(p->value, "0123456789");
    return p->value_size > 0 && digits == p->value_size && digits <= 20;
}

static bool find_name(const struct log_names *n, const struct pair *p,
                      char ret[static LOG_NAME_BYTES])
{
    char text[UUID_TEXT_BYTES];
    struct uuid id;
    if (p->value[-1] == '"') { /* it quotes somebody */
        return false;
    }
    if (p->key_size == 5 && memcmp(p->key, "shard", 5) == 0) {
        return is_number(p) && n->shard(n->ctx, strtoull(p->value, NULL, 10), ret);
    }
    if (p->value_size != UUID_TEXT_BYTES - 1) {
        return false;
    }
    memcpy(text, p->value, UUID_TEXT_BYTES - 1);
    text[UUID_TEXT_BYTES - 1] = '\0';
    return uuid_parse(slice_str(text), &id) && n->peer(n->ctx, &id, ret);
}

bool log__add_names(const struct log_names *n, const char *message, struct bytes *out)
{
    char name[LOG_NAME_BYTES];
    const char *rest = message;
    bool has_id = strstr(message, " shard_id=") != NULL; /* then the shard has its name, too */
    for (const char *s = message; *s != '\0';) {
        struct pair p;
        const char *end = s == message || s[-1] == ' ' ? parse_pair(s, &p) : NULL;
        bool named = end != NULL && has_id && p.key_size == 5 && memcmp(p.key, "shard", 5) == 0;
        if (end != NULL && !named && find_name(n, &p, name)) {
            bytes_append(out, rest, (size_t)(p.value - rest));
            bytes_printf(out, "%s %.*s_id=", name, (int)p.key_size, p.key);
            rest = p.value;
        }
        s = end != NULL ? end : s + 1;
    }
    if (rest == message) {
        return false;
    }
    bytes_append_str(out, rest);
    bytes_append(out, "", 1);
    return true;
}

/* As a number if every JSON reader keeps it exactly. */
static void append_json_value(struct bytes *out, const struct pair *p)
{
    size_t digits = 0;
    while (digits < p->value_size && p->value[digits] >= '0' && p->value[digits] <= '9') {
        digits++;
    }
    bool quoted = p->value[-1] == '"';
    bool number = !quoted && digits == p->value_size && digits > 0 && digits <= 15 &&
                  (digits == 1 || p->value[0] != '0');
    if (number) {
        bytes_append(out, p->value, p->value_size);
    } else {
        append_json_bytes(out, p->value, p->value_size);
    }
}

/* ---- Lines ----------------------------------------------------------------------------------- */

/* " host=h1", ",\"host\":\"h1\"", "THOLE_HOST=h1\n" */
enum form { FORM_TEXT, FORM_JSON, FORM_JOURNAL };

static void append_journal_key(struct bytes *out, const char *key, size_t size)
{
    bytes_append_str(out, "THOLE_");
    for (size_t i = 0; i < size; i++) {
        char c = key[i];
        bytes_append(out, &(char){c >= 'a' && c <= 'z' ? (char)(c - 'a' + 'A') : c}, 1);
    }
    bytes_append_str(out, "=");
}

/* A text, or if that is NULL a number. */
static void append_member(struct bytes *out, enum form form, const char *key, const char *text,
                          uint64_t number)
{
    if (form == FORM_JOURNAL) {
        append_journal_key(out, key, strlen(key));
    } else {
        bytes_printf(out, form == FORM_JSON ? ",\"%s\":" : " %s=", key);
    }
    if (text == NULL) {
        bytes_printf(out, "%" PRIu64, number);
    } else if (form == FORM_JSON) {
        append_json_string(out, text);
    } else {
        append_text(out, slice_str(text)); /* without a newline, which would end the field */
    }
    bytes_append_str(out, form == FORM_JOURNAL ? "\n" : "");
}

static void append_origin(struct bytes *out, enum form form, const struct log_line *line)
{
    if (line->host != NULL) {
        append_member(out, form, "host", line->host, 0);
    }
    if (line->thread != NULL) {
        append_member(out, form, "thread", line->thread, 0);
    }
}

/* The shard and the replica of the thread's context, unless the message has them. */
static void append_replica(struct bytes *out, enum form form, const struct log_line *line,
                           const struct parsed *parsed)
{
    if (line->shard_id != 0 && !has_key(parsed, "shard", 5)) {
        if (line->shard != NULL) {
            append_member(out, form, "shard", line->shard, 0);
        }
        append_member(out, form, line->shard != NULL ? "shard_id" : "shard", NULL, line->shard_id);
    }
    if (line->replica_id != 0 && !has_key(parsed, "replica", 7)) {
        append_member(out, form, "replica", NULL, line->replica_id);
    }
}

void log__render_text(struct bytes *out, const struct log_line *line)
{
    struct parsed parsed = {0};
    parse_message(line->message, &parsed);
    append_time(out, line->wall_ms);
    bytes_printf(out, " %s %s  ", level_labels[line->level], log_subject_names[line->subject]);
    append_text(out, slice_str(line->message));
    append_origin(out, FORM_TEXT, line);
    append_replica(out, FORM_TEXT, line, &parsed);
    bytes_append_str(out, "\n");
    bytes_deinit(&parsed.text);
}

void log__render_json(struct bytes *out, const struct log_line *line)
{
    struct parsed parsed = {0};
    parse_message(line->message, &parsed);
    bytes_append_str(out, "{\"time\":\"");
    append_time(out, line->wall_ms);
    bytes_printf(out, "\",\"level\":\"%s\",\"subject\":\"%s\",\"message\":",
                 log_level_names[line->level], log_subject_names[line->subject]);
    append_json_bytes(out, (const char *)parsed.text.data, parsed.text.size);
    append_origin(out, FORM_JSON, line);
    append_replica(out, FORM_JSON, line, &parsed);
    for (size_t i = 0; i < parsed.count; i++) {
        bytes_append_str(out, ",");
        append_json_bytes(out, parsed.pairs[i].key, parsed.pairs[i].key_size);
        bytes_append_str(out, ":");
        append_json_value(out, &parsed.pairs[i]);
    }
    bytes_append_str(out, "}\n");
    bytes_deinit(&parsed.text);
}

/* As systemd's journal takes it: a field on each line. */
void log__render_journal(struct bytes *out, const struct log_line *line)
{
    static const char priorities[] = {
        [LOG_LEVEL_ERROR] = '3',
        [LOG_LEVEL_WARN] = '4',
        [LOG_LEVEL_INFO] = '6',
        [LOG_LEVEL_DEBUG] = '7',
    };
    struct parsed parsed = {0};
    parse_message(line->message, &parsed);
    bytes_append_str(out, "MESSAGE=");
    append_text(out, slice_str(line->message));
    append_replica(out, FORM_TEXT, line, &parsed);
    bytes_printf(out,
                 "\nPRIORITY=%c\nTHOLE_SUBJECT=%s\nSYSLOG_IDENTIFIER=", priorities[line->level],
                 log_subject_names[line->subject]);
    append_text(out, slice_str(program_invocation_short_name));
    bytes_append_str(out, "\n");
    append_origin(out, FORM_JOURNAL, line);
    for (size_t i = 0; i < parsed.count; i++) {
        const struct pair *p = &parsed.pairs[i];
        append_journal_key(out, p->key, p->key_size);
        append_text(out, slice_of(p->value, p->value_size));
        bytes_append_str(out, "\n");
    }
    append_replica(out, FORM_JOURNAL, line, &parsed);
    bytes_deinit(&parsed.text);
}
