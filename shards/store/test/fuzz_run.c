/* Records from a disk: the input is [what 1][key 21][record]. The checksum is corrected first;
 * otherwise no input would pass it. Every decoder must then accept or refuse the record. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "shards/store/record_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 + STORE_RUN_KEY_BYTES + STORE_HEADER_BYTES) {
        return 0;
    }
    struct slice key = slice_of(data + 1, STORE_RUN_KEY_BYTES);
    struct bytes b = {0};
    struct store_key_parts parts;
    struct store_run_reader r;
    struct store_entry e;
    struct store_start start;
    struct store_identity_record id;
    struct store_hard hard;
    struct slice value;
    uint64_t index = 0, count = 0;

    store_key_parse(slice_of(data, size % 32), &parts);
    bytes_append(&b, data + 1 + STORE_RUN_KEY_BYTES, size - 1 - STORE_RUN_KEY_BYTES);
    if ((data[0] & 1) != 0) {
        store__record_seal(&b, 0, key, b.data[1], get_le32(b.data + 4));
    }
    value = bytes_slice(&b);
    if (store_run_open(&r, key, value)) {
        index = r.index;
        while (store_run_next(&r, &e)) {
            ASSERT(e.index == index++ && e.payload.size <= size);
            count++;
        }
        ASSERT(count <= size);
    }
    store_decode_start(key, value, &start);
    store_decode_identity(key, value, &id);
    store_decode_hard(key, value, &hard);
    store_decode_host(key, value, &value);
    bytes_deinit(&b);
    return 0;
}
