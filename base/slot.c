/* See slot.h. */
#include "base/slot.h"

#include <string.h>

#include "base/assert.h"

/* Of the polynomial 0x1021, four bits at a time: 32 bytes of table instead of 512. */
static const uint16_t remainders[16] = {
    0x0000, 0x1021, 0x2042, 0x3063, 0x4084, 0x50a5, 0x60c6, 0x70e7,
    0x8108, 0x9129, 0xa14a, 0xb16b, 0xc18c, 0xd1ad, 0xe1ce, 0xf1ef,
};

static uint32_t crc16(struct slice bytes)
{
    uint32_t crc = 0;
    for (size_t i = 0; i < bytes.size; i++) {
        uint32_t byte = bytes.data[i];
        crc = (crc << 4 & 0xffff) ^ remainders[crc >> 12 ^ byte >> 4];
        crc = (crc << 4 & 0xffff) ^ remainders[crc >> 12 ^ (byte & 15)];
    }
    return crc;
}

static struct slice hashed_part(struct slice key)
{
    const uint8_t *open = key.size > 0 ? memchr(key.data, '{', key.size) : NULL;
    if (open == NULL) {
        return key;
    }
    const uint8_t *begin = open + 1;
    size_t left = key.size - (size_t)(begin - key.data);
    const uint8_t *end = left > 0 ? memchr(begin, '}', left) : NULL;
    return end == NULL || end == begin ? key : slice_of(begin, (size_t)(end - begin));
}

uint32_t slot_of_key(struct slice key)
{
    return crc16(hashed_part(key)) % SLOT_COUNT;
}

uint32_t slot_shard(uint32_t slot, uint32_t shards)
{
    ASSERT(slot < SLOT_COUNT && shards >= 1 && shards <= SLOT_COUNT);
    return slot * shards / SLOT_COUNT;
}

/* The first slot s with s * shards >= shard * SLOT_COUNT. */
static uint32_t first_slot(uint32_t shard, uint32_t shards)
{
    return (shard * SLOT_COUNT + shards - 1) / shards;
}

void slot_range(uint32_t shard, uint32_t shards, uint32_t *ret_first, uint32_t *ret_last)
{
    ASSERT(shards >= 1 && shards <= SLOT_COUNT && shard < shards);
    *ret_first = first_slot(shard, shards);
    *ret_last = first_slot(shard + 1, shards) - 1;
}
