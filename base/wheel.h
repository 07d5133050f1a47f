/* A hierarchical timer wheel with millisecond slots (Varghese and Lauck, 1987): arm and cancel are
 * O(1), and an empty wheel costs nothing. Not thread safe. Time is the caller's, in
 * milliseconds. */
#ifndef BASE_WHEEL_H
#define BASE_WHEEL_H

#include <stdbool.h>
#include <stdint.h>

struct wheel;

struct wheel_timer { /* embed; zero-initialise */
    struct wheel_timer *next, **prev;
    uint64_t due_ms;
};

struct wheel *wheel_new(uint64_t now_ms);
void wheel_free(struct wheel *w);
void wheel_arm(struct wheel *w, struct wheel_timer *t, uint64_t due_ms); /* re-arms if armed */
void wheel_cancel(struct wheel *w, struct wheel_timer *t);               /* fine if not armed */
bool wheel_armed(const struct wheel_timer *t);
/* Move to `now_ms` and take one timer that is due (disarmed), or NULL when none is left. */
struct wheel_timer *wheel_expire(struct wheel *w, uint64_t now_ms);
/* A lower bound of the next due time that is never later than it, or UINT64_MAX when empty. */
uint64_t wheel_next(const struct wheel *w);

#endif
