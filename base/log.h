/* Log lines for people and machines: level and subject are checked before arguments are evaluated.
 * One line is one write to stderr: "2026-01-31T10:00:00.123Z INFO  raft  became leader term=4
 * shard=7 replica=12", or one JSON object in which each key=value of the message is a member. A
 * value with spaces is quoted: error="no such file". Numbers get names where a host knows them:
 * shard=7 becomes shard=orders shard_id=7, peer=UUID becomes peer=h2 peer_id=UUID. Thread-safe.
 * Nothing here waits for who reads stderr: lines that it does not take are lost, and counted. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/uuid.h"

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
/* The levels as such a text, which sets the same levels. */
#define LOG_LEVELS_BYTES 256
void log_levels_text(char ret[static LOG_LEVELS_BYTES]);
/* Appends the newest lines as text, whole ones, at most LOG_RECENT_BYTES, oldest first. */
#define LOG_RECENT_BYTES (256 * 1024)
void log_recent(struct bytes *out);
/* Is stderr connected to systemd's journal, as a service's is? */
bool log_stderr_is_journal(void);
/* Lines go to the socket of systemd's journal, with level, shard, replica and each key=value of the
 * message as fields (THOLE_SHARD and so on). A line that the journal does not take at once goes to
 * stderr. False: there is no such socket. Call it before other threads log. */
#define LOG_JOURNAL_SOCKET "/run/systemd/journal/socket"
bool log_to_journal(const char *socket_path);
/* Lines go to `sink` instead of stderr; NULL: to stderr again. One line at a time, on the thread
 * that logs; the sink must be quick and must not log. The line is valid until it returns. */
struct log_line;
typedef void (*log_sink_fn)(void *ctx, const struct log_line *line);
void log_set_sink(log_sink_fn sink, void *ctx);

/* Who knows the names for the lines of one host: see log_context_host. Called on any thread, under
 * no lock of the log; must be quick and must not log. */
#define LOG_NAME_BYTES 129
struct log_names {
    const char *host;
    void *ctx;
    /* False: unknown. */
    bool (*shard)(void *ctx, uint64_t id, char ret[static LOG_NAME_BYTES]);
    bool (*peer)(void *ctx, const struct uuid *id, char ret[static LOG_NAME_BYTES]);
    struct log_names *next;
};
void log_names_add(struct log_names *n);
void log_names_remove(struct log_names *n); /* after this it is not called */

/* Context of this thread's lines; 0 means none. Cheap: thread-local stores. */
void log_context(uint64_t shard_id, uint64_t replica_id);
/* The host for which this thread works; NULL: none. Borrowed. Returns the one before. */
const char *log_context_host(const char *name);

struct log_line {
    uint64_t wall_ms;
    enum log_level level;
    enum log_subject subject;
    const char *message;
    const char *host;   /* NULL: none */
    const char *thread; /* NULL: none */
    uint64_t shard_id;  /* 0: none */
    uint64_t replica_id;
    const char *shard; /* its name; NULL: unknown */
};
extern const char *const log_level_names[];   /* lower case, by enum log_level */
extern const char *const log_subject_names[]; /* by enum log_subject */

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

#define LOG_AT(level, subject, ...)                                     \
    do {                                                                \
        if (__builtin_expect(log_enabled((level), LOG_##subject), 0)) { \
            log_write((level), LOG_##subject, __VA_ARGS__);             \
        }                                                               \
    } while (0)
#define LOG_ERROR(subject, ...) LOG_AT(LOG_LEVEL_ERROR, subject, __VA_ARGS__)
#define LOG_WARN(subject, ...) LOG_AT(LOG_LEVEL_WARN, subject, __VA_ARGS__)
#define LOG_INFO(subject, ...) LOG_AT(LOG_LEVEL_INFO, subject, __VA_ARGS__)
#define LOG_DEBUG(subject, ...) LOG_AT(LOG_LEVEL_DEBUG, subject, __VA_ARGS__)

#endif
