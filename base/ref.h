/* A reference count inside an object that frees itself. */
#ifndef BASE_REF_H
#define BASE_REF_H

#include <stdatomic.h>
#include <stdint.h>

struct ref {
    _Atomic uint32_t count;
};

void ref_init(struct ref *r, uint32_t count);
void ref_take(struct ref *r);
/* Gives one reference up; `release` is called with the last. */
void ref_drop(struct ref *r, void (*release)(struct ref *r));

#endif
