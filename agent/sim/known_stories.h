/* Stories that were found, shrunk and understood once. Each ended in a failure before the product
 * was mended, and must not fail again, with any seed. */
#ifndef AGENT_SIM_KNOWN_STORIES_H
#define AGENT_SIM_KNOWN_STORIES_H

#include "agent/sim/story.h"

/* NULL: no story has this number, counted from 0. */
const char *known_story_name(int i);
/* The injected bug that brings the failure back. */
const char *known_story_canary(int i);
/* The seed only changes what is random while the story is played. */
void known_story_draw(int i, uint64_t seed, struct story *ret);

#endif
