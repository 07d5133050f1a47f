#include "base/process.h"

#include <stdatomic.h>

static atomic_bool own;

void process_own(void)
{
    atomic_store_explicit(&own, true, memory_order_relaxed);
}

bool process_is_own(void)
{
    return atomic_load_explicit(&own, memory_order_relaxed);
}
