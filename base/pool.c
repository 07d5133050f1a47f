/* A list of free objects. Under sanitizers every object comes from malloc, so that they can track
 * it. */
#include "base/pool.h"

#include <stdlib.h>

#include "base/assert.h"
#include "base/buf.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define KEEPS 0
#else
#define KEEPS 1
#endif

struct free_object {
    struct free_object *next;
};

void pool_init(struct pool *p, size_t object_bytes, size_t max)
{
    ASSERT(object_bytes >= sizeof(struct free_object));
    *p = (struct pool){.size = object_bytes, .max = KEEPS ? max : 0};
    pthread_mutex_init(&p->mutex, NULL);
}

void pool_deinit(struct pool *p)
{
    struct free_object *o = p->free;
    while (o != NULL) {
        struct free_object *next = o->next;
        free(o);
        o = next;
    }
    pthread_mutex_destroy(&p->mutex);
}

void *pool_take(struct pool *p)
{
    pthread_mutex_lock(&p->mutex);
    struct free_object *o = p->free;
    ASSERT((o != NULL) == (p->count > 0));
    if (o != NULL) {
        p->free = o->next;
        p->count--;
    }
    pthread_mutex_unlock(&p->mutex);
    return o != NULL ? (void *)o : xmalloc(p->size);
}

void pool_give(struct pool *p, void *object)
{
    struct free_object *o = object;
    ASSERT(o != NULL);
    pthread_mutex_lock(&p->mutex);
    bool keep = p->count < p->max;
    if (keep) {
        o->next = p->free;
        p->free = o;
        p->count++;
    }
    pthread_mutex_unlock(&p->mutex);
    if (!keep) {
        free(object);
    }
}
