/* The machine types that every host has. */
#ifndef SHARDS_MACHINE_BUILTIN_H
#define SHARDS_MACHINE_BUILTIN_H

#include <thole/machine.h>

extern const struct thole_machine_type machine_kv;      /* persistent, see kv/README.md */
extern const struct thole_machine_type machine_counter; /* the example of how to write one */
extern const struct thole_machine_type machine_noop;    /* for benchmarks and comparisons */

#define MACHINE_BUILTIN_COUNT 3
extern const struct thole_machine_type *const machine_builtin[MACHINE_BUILTIN_COUNT];

#endif
