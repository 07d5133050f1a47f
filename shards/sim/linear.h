/* Is a history of one register linearizable (Herlihy and Wing)? Decided while the history grows.
 *
 * The register has two operations: a swap (writes a value, returns the one before) and a read. Each
 * written value is unique in the history. Calls come in real-time order. The outcome of an
 * operation may stay unknown for ever ("open"): then it takes effect at any moment after its start,
 * or never.
 *
 * The search keeps every possible state (value, set of operations that took effect). It moves the
 * states over the returns, in order, as soon as all operations that began before are decided. It is
 * memoised. A state that another one dominates (the same, with fewer open operations used up) is
 * dropped. */
#ifndef SHARDS_SIM_LINEAR_H
#define SHARDS_SIM_LINEAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Open and concurrent operations at one moment; more is inconclusive. */
#define LINEAR_PENDING_MAX 64
/* Possibilities kept at one moment; more is inconclusive. */
#define LINEAR_STATES_MAX 4000

enum linear_verdict { LINEAR_OK, LINEAR_VIOLATION, LINEAR_INCONCLUSIVE };

struct linear;
struct linear *linear_new(uint64_t initial);
void linear_free(struct linear *l);

/* An operation begins; returns its number. */
uint64_t linear_swap(struct linear *l, uint64_t value);
uint64_t linear_read(struct linear *l);
/* It ended: with a result (the value before, or read), certainly without effect, or unknown. */
void linear_return(struct linear *l, uint64_t op, uint64_t result);
void linear_refused(struct linear *l, uint64_t op);
void linear_open(struct linear *l, uint64_t op);
/* Swaps that stay open; a key with many of them should be replaced. */
size_t linear_open_count(const struct linear *l);
/* The verdict so far; with `end` set, operations that have not returned are open. */
enum linear_verdict linear_check(struct linear *l, bool end);

#endif
