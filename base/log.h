/* Log lines for people and machines: level and subject are checked before arguments are evaluated.
 * One line is one write to stderr: "2026-01-31T10:00:00.123Z INFO  raft  became leader term=4
 * shard=7 replica=12", or the same as one JSON object. Thread-safe. Arguments are key=value.
 * Nothing here waits for who reads stderr: lines that it does not take are lost, and counted. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

enum log_subject {
    LOG_BASE,
    LOG_STORE,
    LOG_RAFT,
    LOG_ENGINE,
    LOG_MACHINE,
    LOG_BUS,
    LOG_REGISTRY,
    LOG_HOSTCTL,
    LOG_AGENT,
    LOG_DAEMON,
    LOG_SUBJECT_COUNT,
};

void log_configure(enum log_level level, bool json);
/* "info", or "info,raft=debug,bus=warn"; false if a word is unknown. */
bool log_configure_text(const char *spec);
void log_set_json(bool json);
/* Shown on each line of this process, e.g. the host's name; copied; NULL for none. */
void log_set_host(const char *name);

/* Context of this thread's lines; 0 means none. Cheap: thread-local stores. */
void log_context(uint64_t shard_id, uint64_t replica_id);

/* Atomic, because the levels may change while threads log. */
extern _Atomic uint8_t log_levels[LOG_SUBJECT_COUNT];
void log_write(enum log_level level, enum log_subject subject, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Plain text for stderr, lost like a line when nobody reads. */
void log_print(const char *text);

static inline bool log_enabled(enum log_level level, enum log_subject subject)
{
    return atomic_load_explicit(&log_levels[subject], memory_order_relaxed) >= (uint8_t)level;
}

#define LOG_AT(level, subject, ...)                                   \
    do {                                                              \
        if (__builtin_expect(log_enabled((level), LOG_##subject), 0)) \
            log_write((level), LOG_##subject, __VA_ARGS__);           \
    } while (0)
#define LOG_ERROR(subject, ...) LOG_AT(LOG_LEVEL_ERROR, subject, __VA_ARGS__)
#define LOG_WARN(subject, ...) LOG_AT(LOG_LEVEL_WARN, subject, __VA_ARGS__)
#define LOG_INFO(subject, ...) LOG_AT(LOG_LEVEL_INFO, subject, __VA_ARGS__)
#define LOG_DEBUG(subject, ...) LOG_AT(LOG_LEVEL_DEBUG, subject, __VA_ARGS__)

#endif
