/* Slots of keys: how a key finds its shard in a pool with keys. As in Redis Cluster, so that its
 * clients agree: slot = CRC16 (CCITT, XMODEM) of the key, modulo 16384; docs/specs.md, "Keys". */
#ifndef BASE_SLOT_H
#define BASE_SLOT_H

#include <stdint.h>

#include "base/buf.h"

#define SLOT_COUNT 16384

/* If the key has a '{', and a '}' after it with at least one byte between them, only the bytes
 * between the first '{' and the first '}' after it count: keys with the same tag share a slot. */
uint32_t slot_of_key(struct slice key);

/* Shard i of n owns the slots s with s * n / 16384 == i, rounded down: contiguous, and sizes differ
 * by at most one. n is 1 to 16384. */
uint32_t slot_shard(uint32_t slot, uint32_t shards);
void slot_range(uint32_t shard, uint32_t shards, uint32_t *ret_first, uint32_t *ret_last);

#endif
