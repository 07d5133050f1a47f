/* What the parts of the log writer share, and the name that workers put on their lines. */
#ifndef BASE_LOG_INTERNAL_H
#define BASE_LOG_INTERNAL_H

#include "base/buf.h"
#include "base/log.h"

struct log_line {
    uint64_t wall_ms;
    enum log_level level;
    enum log_subject subject;
    const char *message;
    const char *host;   /* NULL: none */
    const char *thread; /* NULL: none */
    uint64_t shard_id;  /* 0: none */
    uint64_t replica_id;
};

extern const char *const log__level_names[];   /* lower case, by enum log_level */
extern const char *const log__subject_names[]; /* by enum log_subject */

/* Append one line with its newline. Whatever the message holds, the result is one line, and in
 * JSON it is valid UTF-8. */
void log__render_text(struct bytes *out, const struct log_line *line);
void log__render_json(struct bytes *out, const struct log_line *line);

/* The name on this thread's lines from now on (borrowed; NULL for none); returns the one before. */
const char *log__thread(const char *name);

#endif
