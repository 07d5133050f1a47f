/* Reference counts. See ref.h. */
#include "base/ref.h"

#include "base/assert.h"

void ref_init(struct ref *r, uint32_t count)
{
    atomic_init(&r->count, count);
}

void ref_take(struct ref *r)
{
    uint32_t before = atomic_fetch_add_explicit(&r->count, 1, memory_order_relaxed);
    ASSERT(before > 0);
}

void ref_drop(struct ref *r, void (*release)(struct ref *r))
{
    uint32_t before = atomic_fetch_sub_explicit(&r->count, 1, memory_order_acq_rel);
    ASSERT(before > 0);
    if (before == 1) {
        release(r);
    }
}
