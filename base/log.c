/* The log writer: levels, context, one write(2) per line. If stderr does not take a line at once,
 * the line is dropped and counted: the program must not wait for its log. */
#include "base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/log_internal.h"
#include "base/metrics.h"

/* A pipe that poll reports as writable takes this much without blocking. */
#define PIECE_BYTES 4096
#define MESSAGE_BYTES 2048 /* a longer message is cut, and ends in "..." */
#define LEVEL_COUNT (LOG_LEVEL_DEBUG + 1)

_Atomic uint8_t log_levels[LOG_SUBJECT_COUNT] = {
    [LOG_BASE] = LOG_LEVEL_INFO,     [LOG_STORE] = LOG_LEVEL_INFO,   [LOG_RAFT] = LOG_LEVEL_INFO,
    [LOG_ENGINE] = LOG_LEVEL_INFO,   [LOG_MACHINE] = LOG_LEVEL_INFO, [LOG_BUS] = LOG_LEVEL_INFO,
    [LOG_REGISTRY] = LOG_LEVEL_INFO, [LOG_HOSTCTL] = LOG_LEVEL_INFO, [LOG_AGENT] = LOG_LEVEL_INFO,
    [LOG_DAEMON] = LOG_LEVEL_INFO,
};
static atomic_bool json_lines;

static METRIC_DEFINE_COUNTER(metric_lost, "thole_log_lost_lines_total",
                             "Log lines that standard error did not take at once");

/* Guards the variables below, and keeps lines whole when one write is not enough (pipes, above 4
 * KiB). */
static pthread_mutex_t line_mutex = PTHREAD_MUTEX_INITIALIZER;
static log_sink_fn line_sink;
static void *line_sink_ctx;
static uint64_t lost; /* since the last line that was written */
static bool torn;     /* the last line was cut: stderr was full in its middle */

/* The newest lines: a ring. `recent_total` counts the bytes ever written to it. */
static uint8_t recent[LOG_RECENT_BYTES];
static uint64_t recent_total;

static pthread_rwlock_t names_lock = PTHREAD_RWLOCK_INITIALIZER;
static struct log_names *all_names;

static _Thread_local const char *context_host;
static _Thread_local uint64_t context_shard_id;
static _Thread_local uint64_t context_replica_id;
static _Thread_local const char *context_thread;

void log_configure(enum log_level level, bool json)
{
    for (size_t i = 0; i < LOG_SUBJECT_COUNT; i++) {
        atomic_store_explicit(&log_levels[i], (uint8_t)level, memory_order_relaxed);
    }
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
    while (i < count && !slice_equal(word, slice_str(names[i]))) {
        i++;
    }
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
    size_t level = find(item, log_level_names, LEVEL_COUNT);
    if (level == LEVEL_COUNT) {
        return false;
    }
    if (equals == NULL) {
        memset(levels, (int)level, LOG_SUBJECT_COUNT);
        return true;
    }
    size_t i = find(subject, log_subject_names, LOG_SUBJECT_COUNT);
    if (i == LOG_SUBJECT_COUNT) {
        return false;
    }
    levels[i] = (uint8_t)level;
    return true;
}

bool log_configure_text(const char *spec)
{
    uint8_t levels[LOG_SUBJECT_COUNT];
    for (size_t i = 0; i < LOG_SUBJECT_COUNT; i++) {
        levels[i] = atomic_load_explicit(&log_levels[i], memory_order_relaxed);
    }
    for (;;) {
        size_t size = strcspn(spec, ",");
        if (!apply_item(slice_of(spec, size), levels)) {
            return false;
        }
        if (spec[size] == '\0') {
            break;
        }
        spec += size + 1;
    }
    for (size_t i = 0; i < LOG_SUBJECT_COUNT; i++) {
        atomic_store_explicit(&log_levels[i], levels[i], memory_order_relaxed);
    }
    return true;
}

void log_levels_text(char ret[static LOG_LEVELS_BYTES])
{
    uint8_t levels[LOG_SUBJECT_COUNT], counts[LEVEL_COUNT] = {0}, most = LOG_LEVEL_INFO;
    for (size_t i = 0; i < LOG_SUBJECT_COUNT; i++) {
        levels[i] = atomic_load_explicit(&log_levels[i], memory_order_relaxed);
        counts[levels[i]]++;
    }
    for (size_t level = 0; level < LEVEL_COUNT; level++) {
        most = counts[level] > counts[most] ? (uint8_t)level : most;
    }
    size_t size = (size_t)snprintf(ret, LOG_LEVELS_BYTES, "%s", log_level_names[most]);
    for (size_t i = 0; i < LOG_SUBJECT_COUNT && size < LOG_LEVELS_BYTES; i++) {
        if (levels[i] != most) {
            size += (size_t)snprintf(ret + size, LOG_LEVELS_BYTES - size, ",%s=%s",
                                     log_subject_names[i], log_level_names[levels[i]]);
        }
    }
}

void log_names_add(struct log_names *n)
{
    pthread_rwlock_wrlock(&names_lock);
    n->next = all_names;
    all_names = n;
    pthread_rwlock_unlock(&names_lock);
}

void log_names_remove(struct log_names *n)
{
    pthread_rwlock_wrlock(&names_lock);
    struct log_names **at = &all_names;
    while (*at != n) { /* it was added */
        ASSERT(*at != NULL);
        at = &(*at)->next;
    }
    *at = n->next;
    pthread_rwlock_unlock(&names_lock);
}

void log_set_sink(log_sink_fn sink, void *ctx)
{
    pthread_mutex_lock(&line_mutex);
    line_sink = sink;
    line_sink_ctx = ctx;
    pthread_mutex_unlock(&line_mutex);
}

const char *log_context_host(const char *name)
{
    const char *before = context_host;
    context_host = name;
    return before;
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

/* Never blocks, whatever stderr is. Its flags must not be changed: other processes may share the
 * open file. */
static ssize_t write_piece(const uint8_t *data, size_t size)
{
    ssize_t n = send(STDERR_FILENO, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n >= 0 || errno != ENOTSOCK) {
        return n;
    }
    struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (poll(&p, 1, 0) != 1 || !(p.revents & POLLOUT)) {
        errno = EAGAIN;
        return -1;
    }
    return write(STDERR_FILENO, data, size < PIECE_BYTES ? size : PIECE_BYTES);
}

/* False if not all bytes were written. */
static bool write_all(struct slice text)
{
    size_t size = text.size;
    while (text.size > 0) {
        ssize_t n = write_piece(text.data, text.size);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            break;
        }
        text.data += n;
        text.size -= (size_t)n;
    }
    torn = torn || (text.size > 0 && text.size < size);
    return text.size == 0;
}

static bool is_json(void)
{
    return atomic_load_explicit(&json_lines, memory_order_relaxed);
}

/* The first line after dropped ones says how many were dropped. */
static bool write_lost(uint64_t wall_ms)
{
    char message[96];
    struct bytes out = {0};
    snprintf(message, sizeof message,
             "log lines were lost lines=%" PRIu64 " why=\"standard error was not read\"", lost);
    const struct log_line line = {
        .wall_ms = wall_ms, .level = LOG_LEVEL_WARN, .subject = LOG_BASE, .message = message};
    if (torn) {
        bytes_append_str(&out, "\n");
    }
    (is_json() ? log__render_json : log__render_text)(&out, &line);
    bool taken = write_all(bytes_slice(&out));
    bytes_deinit(&out);
    if (taken) {
        lost = 0;
    }
    torn = torn && !taken;
    return taken;
}

static void write_line(struct slice line, uint64_t wall_ms)
{
    if ((lost == 0 || write_lost(wall_ms)) && write_all(line)) {
        return;
    }
    lost++;
    metric_add(&metric_lost, 1);
}

void log_print(const char *text)
{
    pthread_mutex_lock(&line_mutex);
    (void)write_all(slice_str(text));
    pthread_mutex_unlock(&line_mutex);
}

static void write_stderr(const struct log_line *line, struct slice text)
{
    struct bytes out = {0};
    if (is_json()) {
        log__render_json(&out, line);
        text = bytes_slice(&out);
    }
    write_line(text, line->wall_ms);
    bytes_deinit(&out);
}

/* ---- The newest lines ------------------------------------------------------------------------ */

static void keep(struct slice text)
{
    for (size_t done = 0, n; done < text.size; done += n) {
        size_t at = (size_t)(recent_total % LOG_RECENT_BYTES);
        n = text.size - done < LOG_RECENT_BYTES - at ? text.size - done : LOG_RECENT_BYTES - at;
        memcpy(recent + at, text.data + done, n);
        recent_total += n;
    }
}

void log_recent(struct bytes *out)
{
    pthread_mutex_lock(&line_mutex);
    size_t end = (size_t)(recent_total % LOG_RECENT_BYTES), from = 0;
    if (recent_total >= LOG_RECENT_BYTES) { /* the oldest line is cut: begin with the next one */
        const uint8_t *newline = memchr(recent + end, '\n', LOG_RECENT_BYTES - end);
        if (newline != NULL) {
            bytes_append(out, newline + 1, (size_t)(recent + LOG_RECENT_BYTES - newline - 1));
        } else {
            newline = memchr(recent, '\n', end); /* lines are shorter than the ring */
            from = newline != NULL ? (size_t)(newline + 1 - recent) : end;
        }
    }
    bytes_append(out, recent + from, end - from);
    pthread_mutex_unlock(&line_mutex);
}

/* Names are looked up before the log's lock is taken. */
static void add_names(struct log_line *line, struct bytes *message,
                      char shard[static LOG_NAME_BYTES])
{
    if (line->host == NULL) {
        return;
    }
    pthread_rwlock_rdlock(&names_lock);
    const struct log_names *n = all_names;
    while (n != NULL && strcmp(n->host, line->host) != 0) {
        n = n->next;
    }
    if (n != NULL) {
        line->shard = line->shard_id != 0 && n->shard(n->ctx, line->shard_id, shard) ? shard : NULL;
        line->message =
            log__add_names(n, line->message, message) ? (const char *)message->data : line->message;
    }
    pthread_rwlock_unlock(&names_lock);
}

void log_write(enum log_level level, enum log_subject subject, const char *format, ...)
{
    int errno_of_caller = errno;
    char message[MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    int size = vsnprintf(message, sizeof message, format, args);
    va_end(args);
    if (size < 0) {
        message[0] = '\0';
    } else if ((size_t)size >= sizeof message) {
        memcpy(message + sizeof message - sizeof "...", "...", sizeof "...");
    }

    char shard[LOG_NAME_BYTES];
    struct bytes named = {0}, text = {0};
    struct log_line line = {
        .wall_ms = clock_system.wall_ms(&clock_system),
        .level = level,
        .subject = subject,
        .message = message,
        .host = context_host,
        .thread = context_thread,
        .shard_id = context_shard_id,
        .replica_id = context_replica_id,
    };
    add_names(&line, &named, shard);
    log__render_text(&text, &line);
    pthread_mutex_lock(&line_mutex);
    keep(bytes_slice(&text));
    if (line_sink != NULL) {
        line_sink(line_sink_ctx, &line);
    } else if (!log__journal_send(&line)) {
        write_stderr(&line, bytes_slice(&text));
    }
    pthread_mutex_unlock(&line_mutex);
    bytes_deinit(&text);
    bytes_deinit(&named);
    errno = errno_of_caller;
}
