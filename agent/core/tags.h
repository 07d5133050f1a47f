/* The tags that a host is started with: "key=value", or all of them as "k=v,k=v". */
#ifndef AGENT_CORE_TAGS_H
#define AGENT_CORE_TAGS_H

#include <thole/status.h>
#include <upb/upb.h>

#include "base/buf.h"
#include "thole/v1/resources.upb.h"

/* What is wrong with one tag; NULL: nothing. */
const char *agent__tags_problem(struct slice tag);
THOLE_MUST_CHECK enum thole_code agent__tags_check(const char *const *tags, size_t count,
                                                   struct thole_status *st);
/* `tags` is "k=v,k=v". */
void agent__tags_set(thole_v1_HostSpec *spec, const char *tags, upb_Arena *arena);

#endif
