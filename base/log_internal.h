/* What the parts of the log writer share, and the name that workers put on their lines. */
#ifndef BASE_LOG_INTERNAL_H
#define BASE_LOG_INTERNAL_H

#include "base/buf.h"
#include "base/log.h"

/* Append one line with its newline. Whatever the message holds, the result is one line, and in
 * JSON it is valid UTF-8. */
void log__render_text(struct bytes *out, const struct log_line *line);
void log__render_json(struct bytes *out, const struct log_line *line);
/* A datagram of the journal's protocol: lines FIELD=text. */
void log__render_journal(struct bytes *out, const struct log_line *line);
/* False if the journal does not take it at once. */
bool log__journal_send(const struct log_line *line);

/* The message with names for numbers, and a NUL, into `out`. False: there are none, and nothing is
 * appended. */
bool log__add_names(const struct log_names *n, const char *message, struct bytes *out);

/* The name on this thread's lines from now on (borrowed; NULL for none); returns the one before. */
const char *log__thread(const char *name);

#endif
