/* Checks that code ends the process, as a broken invariant must. */
#ifndef BASE_TEST_DEATH_H
#define BASE_TEST_DEATH_H

#include <stdbool.h>

/* Run `f` in a child process; true if that aborts and says `text` on stderr. */
bool dies(void (*f)(void *arg), void *arg, const char *text);

#endif
