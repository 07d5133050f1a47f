/* Between cork_begin and cork_end a thread defers effects that are cheaper when batched: waking the
 * workers to which it posted, sending queued messages. Only such effects are deferred, never state:
 * a posted message is in its mailbox, and a worker that is awake takes it at once.
 *
 * A corked thread must not wait for anything that depends on its deferred effects, so code that
 * blocks must not be corked. Scopes nest; the outermost one counts. */
#ifndef BASE_CORK_H
#define BASE_CORK_H

#include <stdbool.h>

struct cork_item { /* embed; must not move; added at most once until `fn` runs */
    struct cork_item *next;
    void (*fn)(struct cork_item *item);
};

void cork_begin(void);
void cork_end(void);   /* runs what was added, in order */
void cork_flush(void); /* the same, without ending the scope */
bool cork_is_on(void);
/* Run item->fn at the end of this thread's scope; false (nothing is kept) outside a scope. */
bool cork_add(struct cork_item *item);

#endif
