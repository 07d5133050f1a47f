/* Shared by the files of agent/options. */
#ifndef AGENT_OPTIONS_OPTIONS_INTERNAL_H
#define AGENT_OPTIONS_OPTIONS_INTERNAL_H

#include "agent/options/options.h"
#include "base/arena.h"

/* Has a stronger source than `source` given it? */
bool options__outranked(const struct options *o, size_t id, enum option_source source);
/* Check and store a value, or add to a list. `text` and `origin` are copied. */
enum thole_code options__set(struct options *o, size_t id, enum option_source source,
                             const char *origin, const char *text, struct thole_status *st);

#define OPTIONS_REFUSE(st, ...) \
    THOLE_FAIL((st), THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, __VA_ARGS__)

#endif
