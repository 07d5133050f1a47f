/* Objects of one size that are made by one thread and released by another, again and again: the
 * case in which malloc is at its slowest. Any thread may take and give. */
#ifndef BASE_POOL_H
#define BASE_POOL_H

#include <pthread.h>
#include <stddef.h>

struct pool {
    pthread_mutex_t mutex; /* below */
    void *free;
    size_t count;

    size_t size, max; /* of an object; objects that are kept */
};

void pool_init(struct pool *p, size_t object_bytes, size_t max);
void pool_deinit(struct pool *p); /* every object was given back */
void *pool_take(struct pool *p);  /* uninitialised */
void pool_give(struct pool *p, void *object);

#endif
