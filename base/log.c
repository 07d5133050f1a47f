#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"

/* A line longer than this is cut, so that it can be one write. */
#define LINE_BYTES 2048
#define MESSAGE_BYTES 1536

static const char *const subject_names[LOG_SUBJECT_COUNT] = {
    [LOG_BASE] = "base",         [LOG_STORE] = "store",     [LOG_RAFT] = "raft",
    [LOG_ENGINE] = "engine",     [LOG_MACHINE] = "machine", [LOG_BUS] = "bus",
    [LOG_REGISTRY] = "registry", [LOG_HOSTCTL] = "hostctl", [LOG_AGENT] = "agent",
    [LOG_DAEMON] = "daemon",
};
static const char *const level_names[] = {"ERROR", "WARN", "INFO", "DEBUG"};
static const char *const level_words[] = {"error", "warn", "info", "debug"};

#define DEFAULT LOG_LEVEL_INFO
uint8_t log_levels[LOG_SUBJECT_COUNT] = {DEFAULT, DEFAULT, DEFAULT, DEFAULT, DEFAULT,
                                         DEFAULT, DEFAULT, DEFAULT, DEFAULT, DEFAULT};
static _Atomic bool as_json;
static char host_name[64];
static _Thread_local uint64_t context_shard, context_replica;

void log_configure(enum log_level level, bool json)
{
    memset(log_levels, (int)level, sizeof log_levels);
    log_set_json(json);
}

void log_set_json(bool json)
{
    as_json = json;
}

static int find_word(const char *const *words, int count, const char *s, size_t n)
{
    for (int i = 0; i < count; i++)
        if (strlen(words[i]) == n && strncmp(words[i], s, n) == 0)
            return i;
    return -1;
}

bool log_configure_text(const char *spec)
{
    uint8_t levels[LOG_SUBJECT_COUNT];
    memcpy(levels, log_levels, sizeof levels);
    while (*spec) {
        size_t n = strcspn(spec, ",");
        const char *equals = memchr(spec, '=', n);
        const char *word = equals ? equals + 1 : spec;
        int level = find_word(level_words, 4, word, (size_t)(spec + n - word));
        if (level < 0)
            return false;
        if (!equals) {
            memset(levels, level, sizeof levels);
        } else {
            int subject = find_word(subject_names, LOG_SUBJECT_COUNT, spec, (size_t)(equals - spec));
            if (subject < 0)
                return false;
            levels[subject] = (uint8_t)level;
        }
        spec += n + (spec[n] == ',');
    }
    memcpy(log_levels, levels, sizeof levels);
    return true;
}

void log_set_host(const char *name)
{
    snprintf(host_name, sizeof host_name, "%s", name ? name : "");
}

void log_context(uint64_t shard_id, uint64_t replica_id)
{
    context_shard = shard_id;
    context_replica = replica_id;
}

static size_t append(char *line, size_t at, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static size_t append(char *line, size_t at, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line + at, LINE_BYTES - at, format, args);
    va_end(args);
    size_t end = at + (size_t)(n > 0 ? n : 0);
    return end < LINE_BYTES ? end : LINE_BYTES - 1;
}

static size_t append_escaped(char *line, size_t at, const char *s)
{
    /* Room for the closing quote, brace and newline stays. */
    for (; *s && at + 16 < LINE_BYTES; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\') {
            line[at++] = '\\';
            line[at++] = (char)c;
        } else if (c < 0x20) {
            at = append(line, at, "\\u%04x", c);
        } else {
            line[at++] = (char)c;
        }
    }
    return at;
}

static void format_time(char *out, size_t size)
{
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    size_t n = strftime(out, size, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out + n, size - n, ".%03ldZ", now.tv_nsec / 1000000);
}

static size_t format_text(char *line, const char *time, enum log_level level,
                          enum log_subject subject, const char *message)
{
    size_t n = append(line, 0, "%s %-5s %-8s %s", time, level_names[level], subject_names[subject],
                      message);
    if (context_replica)
        n = append(line, n, " shard=%llu replica=%llu", (unsigned long long)context_shard,
                   (unsigned long long)context_replica);
    if (host_name[0])
        n = append(line, n, " host=%s", host_name);
    /* One record is one line, whatever a message contains. */
    for (size_t i = 0; i < n; i++)
        if (line[i] == '\n' || line[i] == '\r')
            line[i] = ' ';
    return n;
}

static size_t format_json(char *line, const char *time, enum log_level level,
                          enum log_subject subject, const char *message)
{
    size_t n = append(line, 0, "{\"time\":\"%s\",\"level\":\"%s\",\"subject\":\"%s\"", time,
                      level_words[level], subject_names[subject]);
    if (context_replica)
        n = append(line, n, ",\"shard\":%llu,\"replica\":%llu", (unsigned long long)context_shard,
                   (unsigned long long)context_replica);
    if (host_name[0]) {
        n = append(line, n, ",\"host\":\"");
        n = append_escaped(line, n, host_name);
        n = append(line, n, "\"");
    }
    n = append(line, n, ",\"message\":\"");
    n = append_escaped(line, n, message);
    return append(line, n, "\"}");
}

void log_write(enum log_level level, enum log_subject subject, const char *format, ...)
{
    char message[MESSAGE_BYTES], time[40], line[LINE_BYTES + 1];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    format_time(time, sizeof time);
    size_t n = (as_json ? format_json : format_text)(line, time, level, subject, message);
    line[n++] = '\n';
    /* Nowhere to report a failure to. */
    ssize_t written = write(STDERR_FILENO, line, n);
    (void)written;
}
