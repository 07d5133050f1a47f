/* A list and a depth per thread. */
#include "base/cork.h"

#include <stddef.h>

#include "base/assert.h"

static _Thread_local struct {
    unsigned depth;
    struct cork_item *head, *tail;
} here;

void cork_begin(void)
{
    here.depth++;
}

void cork_flush(void)
{
    struct cork_item *item;
    while ((item = here.head) != NULL) {
        here.head = item->next;
        item->fn(item);
    }
}

void cork_end(void)
{
    ASSERT(here.depth > 0);
    if (here.depth == 1) {
        cork_flush();
        ASSERT(here.head == NULL);
    }
    here.depth--;
}

bool cork_is_on(void)
{
    return here.depth > 0;
}

bool cork_add(struct cork_item *item)
{
    if (here.depth == 0) {
        return false;
    }
    ASSERT(item->fn != NULL && (here.head == NULL || here.tail != item));
    item->next = NULL;
    if (here.head != NULL) {
        here.tail->next = item;
    } else {
        here.head = item;
    }
    here.tail = item;
    return true;
}
