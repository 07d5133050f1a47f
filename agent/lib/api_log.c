/* The public API's diagnostics: levels and the sink of log lines. */
#include "agent/lib/api_internal.h"
#include "base/log.h"

static struct {
    void (*line)(void *ctx, const struct thole_log_line *line);
    void *ctx;
} sink; /* under the lock of the log */

_Static_assert((int)THOLE_LOG_DEBUG == (int)LOG_LEVEL_DEBUG, "levels are the same");

enum thole_code thole_log_levels(const char *spec, struct thole_status *st)
{
    if (spec == NULL || !log_configure_text(spec)) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "\"%.64s\" is not a list of log levels; use for example info,raft=debug",
                          spec != NULL ? spec : "");
    }
    return THOLE_OK;
}

static void pass_on(void *ctx, const struct log_line *line)
{
    (void)ctx;
    const struct thole_log_line out = {
        .size = sizeof out,
        .level = (uint32_t)line->level,
        .wall_ms = line->wall_ms,
        .subject = log_subject_names[line->subject],
        .message = line->message,
        .host = line->host,
        .thread = line->thread,
        .shard_id = line->shard_id,
        .replica_id = line->replica_id,
        .shard = line->shard,
    };
    sink.line(sink.ctx, &out);
}

void thole_log_to(void (*line)(void *ctx, const struct thole_log_line *line), void *ctx)
{
    log_set_sink(NULL, NULL); /* after this the old sink gets no line */
    sink.line = line;
    sink.ctx = ctx;
    if (line != NULL) {
        log_set_sink(pass_on, NULL);
    }
}
