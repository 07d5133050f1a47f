/* Checks that code aborts the process, as a broken invariant must. */
#ifndef BASE_TEST_DEATH_H
#define BASE_TEST_DEATH_H

#include <stdbool.h>

/* Runs `f` in a child process; true if the child aborts and writes `text` to stderr. */
bool dies(void (*f)(void *arg), void *arg, const char *text);

#endif
