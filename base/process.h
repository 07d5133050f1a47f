/* Whose process is it? In a program's own process a library leaves process-wide settings alone; in
 * one that is there for Thole alone, it may tune the allocator and the libraries beneath. */
#ifndef BASE_PROCESS_H
#define BASE_PROCESS_H

#include <stdbool.h>

void process_own(void); /* once, before anything else is opened; any thread */
bool process_is_own(void);

#endif
