/* The log writer: levels, context, and one write(2) per line. Lines are for people: when stderr
 * does not take one, it is lost, since the program's work matters more. */
#include "base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log_internal.h"

#define MESSAGE_BYTES 2048 /* a longer message is cut, and ends in "..." */
#define LEVEL_COUNT (LOG_LEVEL_DEBUG + 1)

_Atomic uint8_t log_levels[LOG_SUBJECT_COUNT] = {
    [LOG_BASE] = LOG_LEVEL_INFO,     [LOG_STORE] = LOG_LEVEL_INFO,   [LOG_RAFT] = LOG_LEVEL_INFO,
    [LOG_ENGINE] = LOG_LEVEL_INFO,   [LOG_MACHINE] = LOG_LEVEL_INFO, [LOG_BUS] = LOG_LEVEL_INFO,
    [LOG_REGISTRY] = LOG_LEVEL_INFO, [LOG_HOSTCTL] = LOG_LEVEL_INFO, [LOG_AGENT] = LOG_LEVEL_INFO,
    [LOG_DAEMON] = LOG_LEVEL_INFO,
};
static atomic_bool json_lines;

/* Guards host_name, and keeps lines whole where one write is not (pipes, above 4 KiB). */
static pthread_mutex_t line_mutex = PTHREAD_MUTEX_INITIALIZER;
static char *host_name;

static _Thread_local uint64_t context_shard_id;
static _Thread_local uint64_t context_replica_id;
static _Thread_local const char *context_thread;

void log_configure(enum log_level level, bool json)
{
    for (size_t i = 0; i < LOG_SUBJECT_COUNT; i++)
        atomic_store_explicit(&log_levels[i], (uint8_t)level, memory_order_relaxed);
    log_set_json(json);
}

void log_set_json(bool json)
{
    atomic_store_explicit(&json_lines, json, memory_order_relaxed);
}

/* The index of a word among names, or count. */
static size_t find(struct slice word, const char *const *names, size_t count)
{
    size_t i = 0;
    while (i < count && !slice_equal(word, slice_str(names[i])))
        i++;
    return i;
}

/* One item of the text: "info" or "raft=debug". */
static bool apply_item(struct slice item, uint8_t levels[LOG_SUBJECT_COUNT])
{
    const uint8_t *equals = item.size > 0 ? memchr(item.data, '=', item.size) : NULL;
    struct slice subject = {0};
    if (equals != NULL) {
        (void)slice_take(&item, (size_t)(equals - item.data), &subject);
        item = slice_of(item.data + 1, item.size - 1);
    }
    size_t level = find(item, log__level_names, LEVEL_COUNT);
    if (level == LEVEL_COUNT)
        return false;
    if (equals == NULL) {
        memset(levels, (int)level, LOG_SUBJECT_COUNT);
        return true;
    }
    size_t i = find(subject, log__subject_names, LOG_SUBJECT_COUNT);
    if (i == LOG_SUBJECT_COUNT)
        return false;
    levels[i] = (uint8_t)level;
    return true;
}

bool log_configure_text(const char *spec)
{
    uint8_t levels[LOG_SUBJECT_COUNT];
    for (size_t i = 0; i < LOG_SUBJECT_COUNT; i++)
        levels[i] = atomic_load_explicit(&log_levels[i], memory_order_relaxed);
    for (;;) {
        size_t size = strcspn(spec, ",");
        if (!apply_item(slice_of(spec, size), levels))
            return false;
        if (spec[size] == '\0')
            break;
        spec += size + 1;
    }
    for (size_t i = 0; i < LOG_SUBJECT_COUNT; i++)
        atomic_store_explicit(&log_levels[i], levels[i], memory_order_relaxed);
    return true;
}

void log_set_host(const char *name)
{
    char *copy = name != NULL ? xstrdup(name) : NULL;
    pthread_mutex_lock(&line_mutex);
    char *old = host_name;
    host_name = copy;
    pthread_mutex_unlock(&line_mutex);
    free(old);
}

void log_context(uint64_t shard_id, uint64_t replica_id)
{
    context_shard_id = shard_id;
    context_replica_id = replica_id;
}

const char *log__thread(const char *name)
{
    const char *before = context_thread;
    context_thread = name;
    return before;
}

static void write_line(struct slice line)
{
    while (line.size > 0) {
        ssize_t n = write(STDERR_FILENO, line.data, line.size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return;
        line.data += n;
        line.size -= (size_t)n;
    }
}

void log_write(enum log_level level, enum log_subject subject, const char *format, ...)
{
    int errno_of_caller = errno;
    char message[MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    int size = vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    if (size < 0)
        message[0] = '\0';
    else if ((size_t)size >= sizeof(message))
        memcpy(message + sizeof(message) - sizeof("..."), "...", sizeof("..."));

    struct bytes out = {0};
    pthread_mutex_lock(&line_mutex);
    struct log_line line = {
        .wall_ms = clock_system.wall_ms(&clock_system),
        .level = level,
        .subject = subject,
        .message = message,
        .host = host_name,
        .thread = context_thread,
        .shard_id = context_shard_id,
        .replica_id = context_replica_id,
    };
    if (atomic_load_explicit(&json_lines, memory_order_relaxed))
        log__render_json(&out, &line);
    else
        log__render_text(&out, &line);
    write_line(bytes_slice(&out));
    pthread_mutex_unlock(&line_mutex);
    bytes_deinit(&out);
    errno = errno_of_caller;
}
