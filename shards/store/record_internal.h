/* Shared by record.c and run.c: the header, and the hard state inside other records. */
#ifndef SHARDS_STORE_RECORD_INTERNAL_H
#define SHARDS_STORE_RECORD_INTERNAL_H

#include "base/hash.h"
#include "shards/store/record.h"

#define STORE_HARD_BYTES 32

/* Reserves the header. Returns where in `out` the record begins, for store__record_seal. */
size_t store__record_begin(struct bytes *out);
void store__record_seal(struct bytes *out, size_t at, struct slice key, uint8_t flags,
                        uint32_t count);
bool store__record_open(struct slice key, struct slice value, uint8_t *ret_flags,
                        uint32_t *ret_count, struct slice *ret_body);
void store__hard_put(uint8_t *p, const struct store_hard *h);
bool store__hard_take(struct slice *body, struct store_hard *ret);

#endif
