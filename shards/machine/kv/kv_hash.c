/* HashKV: etcd's checksum of a store, CRC-32C over the name of its bucket and its records of keys.
 * A record up to the compacted revision counts only if it is what its key had at the hashed
 * revision. If no key existed then, etcd counts everything that compaction has left. */
#include <string.h>

#include "shards/machine/kv/kv_internal.h"

enum { HASH_HASH = 2, HASH_COMPACTED = 3, HASH_REVISION = 4 };
#define CRC32C_POLYNOMIAL 0x82f63b78u /* reflected */
#define ETCD_KEY_BYTES 18             /* revision 8, '_', sub 8, and 't' if it is a deletion */

struct crc {
    uint32_t table[256];
    uint32_t value;
};

static void crc_init(struct crc *c)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t v = i;
        for (int bit = 0; bit < 8; bit++) {
            v = v >> 1 ^ ((v & 1) != 0 ? CRC32C_POLYNOMIAL : 0);
        }
        c->table[i] = v;
    }
    c->value = UINT32_MAX;
}

static void crc_add(struct crc *c, struct slice s)
{
    uint32_t v = c->value;

    for (size_t i = 0; i < s.size; i++) {
        v = c->table[(v ^ s.data[i]) & 0xff] ^ v >> 8;
    }
    c->value = v;
}

static void crc_add_record(struct crc *c, const struct kv_change *change)
{
    uint8_t key[ETCD_KEY_BYTES];

    put_be64(key, (uint64_t)change->at.revision);
    key[8] = '_';
    put_be64(key + 9, change->at.sub);
    key[17] = 't';
    crc_add(c, slice_of(key, change->deletion ? ETCD_KEY_BYTES : ETCD_KEY_BYTES - 1));
    crc_add(c, change->encoded);
}

/* Whether the change is no deletion, and was not superseded at or below `revision`. */
static enum thole_code is_live(const struct kv_reader *r, const struct kv_change *c,
                               int64_t revision, bool *ret, struct thole_status *st)
{
    struct bytes key = {0};
    struct buf *stored = NULL;
    struct kv_past past = {0};
    struct kv_item item;

    *ret = false;
    if (c->deletion) {
        return THOLE_OK;
    }
    if (!kv__wire_item_decode(c->encoded, &item)) {
        return kv__damaged(st, "change");
    }
    kv__key_history(&key, item.key, c->at);
    enum thole_code code = kv__get(r, bytes_slice(&key), &stored, st);
    bytes_deinit(&key);
    if (code == THOLE_NOT_FOUND) {
        *ret = true; /* nothing superseded it */
        return THOLE_OK;
    }
    if (code == THOLE_OK && !kv__past_decode(slice_of(stored->data, stored->size), &past)) {
        code = kv__damaged(st, "version");
    }
    buf_unref(stored);
    *ret = past.next > revision;
    return code;
}

static enum thole_code any_key(const struct kv_reader *r, int64_t revision, bool *ret,
                               struct thole_status *st)
{
    static const uint8_t zero = 0;
    struct kv_keys all = {.from = {&zero, 1}};
    struct kv_item item;
    struct kv_scan *scan = kv__scan_new(r, &all, revision, false);

    *ret = kv__scan_next(scan, &item);
    enum thole_code code = kv__scan_status(scan, st);
    kv__scan_free(scan);
    return code;
}

static enum thole_code hash_up_to(const struct kv_reader *r, int64_t revision, uint32_t *ret,
                                  struct thole_status *st)
{
    int64_t compacted = r->state->compacted;
    struct crc crc;
    struct bytes from = {0}, to = {0};
    struct slice key, stored;
    bool any = false;
    enum thole_code code = any_key(r, revision, &any, st);

    crc_init(&crc);
    crc_add(&crc, slice_str("key"));
    kv__key_change(&from, (struct kv_at){0, 0});
    kv__key_change(&to, (struct kv_at){revision + 1, 0});
    struct state_iter *it = kv__iter(r, bytes_slice(&from), bytes_slice(&to));
    while (code == THOLE_OK && state_iter_next(it, &key, &stored)) {
        struct kv_change c;
        bool counts = true;
        if (!kv__parse_at(slice_of(key.data + 1, key.size - 1), &c.at) ||
            !kv__change_decode(stored, &c)) {
            code = kv__damaged(st, "change");
        } else if (c.at.revision <= compacted) {
            code = is_live(r, &c, any ? revision : compacted, &counts, st);
        }
        if (code == THOLE_OK && counts) {
            crc_add_record(&crc, &c);
        }
    }
    if (code == THOLE_OK) {
        code = state_iter_status(it, st);
    }
    state_iter_free(it);
    bytes_deinit(&from);
    bytes_deinit(&to);
    *ret = ~crc.value;
    return code;
}

enum thole_code kv__hash(const struct kv_reader *r, const etcdserverpb_HashKVRequest *m,
                         struct bytes *out, const struct kv_refusal **ret_refusal,
                         struct thole_status *st)
{
    int64_t revision = etcdserverpb_HashKVRequest_revision(m);
    uint32_t hash = 0;

    if (revision > 0 && revision < r->state->compacted) {
        *ret_refusal = &kv__compacted;
        return THOLE_OK;
    }
    if (revision > r->revision) {
        *ret_refusal = &kv__future;
        return THOLE_OK;
    }
    /* A negative revision is before all changes: etcd hashes none then. */
    revision = revision == 0 ? r->revision : revision < 0 ? 0 : revision;
    enum thole_code code = hash_up_to(r, revision, &hash, st);
    kv__wire_header(out, r->revision);
    kv__wire_number(out, HASH_HASH, hash);
    kv__wire_number(out, HASH_COMPACTED, (uint64_t)r->state->compacted);
    kv__wire_number(out, HASH_REVISION, (uint64_t)revision);
    return code;
}
