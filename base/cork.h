/* Between cork_begin and cork_end a thread saves up what is cheaper done once for many: waking the
 * workers it posted to, sending what it queued. Only such effects are held back, never state: a
 * message that was posted is in its mailbox, and a worker that is awake takes it at once.
 *
 * Nothing that a corked thread waits for may depend on what it holds back, so code that blocks must
 * not be corked. Scopes nest; the outermost one counts. */
#ifndef BASE_CORK_H
#define BASE_CORK_H

#include <stdbool.h>

struct cork_item { /* embed; stays where it is, and is added once, until `fn` runs */
    struct cork_item *next;
    void (*fn)(struct cork_item *item);
};

void cork_begin(void);
void cork_end(void);   /* runs what was added, in order */
void cork_flush(void); /* the same, and the scope goes on */
bool cork_is_on(void);
/* Run item->fn at the end of this thread's scope; false (and nothing kept) outside of one. */
bool cork_add(struct cork_item *item);

#endif
