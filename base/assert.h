/* Assertions, on in every build. They state invariants of our own code. Data from a peer, a disk or
 * a user is never asserted on: it gets an error status. */
#ifndef BASE_ASSERT_H
#define BASE_ASSERT_H

__attribute__((noreturn)) void assert_fail(const char *expression, const char *file, int line);

#define ASSERT(e) (__builtin_expect(!(e), 0) ? assert_fail(#e, __FILE__, __LINE__) : (void)0)

/* Costly checks: debug, sanitizer and simulator builds only. */
#ifdef THOLE_SLOW_ASSERTS
#define ASSERT_SLOW(e) ASSERT(e)
#else
#define ASSERT_SLOW(e) ((void)sizeof(!(e)))
#endif

#endif
