#include "shards/machine/builtin.h"

const struct thole_machine_type *const machine_builtin[MACHINE_BUILTIN_COUNT] = {
    &machine_kv,
    &machine_counter,
    &machine_noop,
};
