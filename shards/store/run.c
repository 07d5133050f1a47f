/* A run: consecutive entries of one replica in one record.
 *
 * Body: [hard state 32, if STORE_FLAG_HARD] then per entry
 *   [kind and flags 1][term delta varint][deltas of now_ms and alive_ms varints, if flagged]
 *   [session, sequence varints, if flagged][request id: size 1, bytes, if flagged]
 *   [payload size varint][payload]
 * Deltas are to the entry before, for the first one to 0. Space for the hard state is
 * reserved while building and closed up if unused: only the end of an update decides it. */
#include <string.h>

#include "base/assert.h"
#include "shards/store/record_internal.h"

#define ENTRY_HAS_SESSION 0x80
#define ENTRY_HAS_ID 0x40
#define ENTRY_HAS_STAMP 0x20 /* another one than the entry before */
#define ENTRY_KIND_MASK 0x0f

void store_run_begin(struct store_run_writer *w, struct bytes *out)
{
    *w = (struct store_run_writer){.out = out, .at = store__record_begin(out)};
    bytes_extend(out, STORE_HARD_BYTES);
}

void store_run_add(struct store_run_writer *w, const struct store_entry *e)
{
    size_t max = store_run_entry_bytes_max(e->payload.size);
    uint8_t *start = bytes_extend(w->out, max);
    uint8_t *p = start;
    bool session = e->session != 0 || e->sequence != 0;

    bool stamp = !raft_stamp_equal(e->stamp, w->stamp);

    ASSERT(e->term >= w->term && e->kind <= ENTRY_KIND_MASK);
    ASSERT(e->id.size <= LIMIT_REQUEST_ID_BYTES);
    ASSERT(raft_stamp_precedes(w->stamp, e->stamp));
    *p++ = (uint8_t)(e->kind | (session ? ENTRY_HAS_SESSION : 0) | (e->id.size ? ENTRY_HAS_ID : 0) |
                     (stamp ? ENTRY_HAS_STAMP : 0));
    p = put_varint(p, e->term - w->term);
    if (stamp) {
        p = put_varint(p, e->stamp.now_ms - w->stamp.now_ms);
        p = put_varint(p, e->stamp.alive_ms - w->stamp.alive_ms);
    }
    if (session) {
        p = put_varint(p, e->session);
        p = put_varint(p, e->sequence);
    }
    if (e->id.size > 0) {
        *p++ = (uint8_t)e->id.size;
        memcpy(p, e->id.data, e->id.size);
        p += e->id.size;
    }
    p = put_varint(p, e->payload.size);
    if (e->payload.size > 0) {
        memcpy(p, e->payload.data, e->payload.size);
        p += e->payload.size;
    }
    ASSERT((size_t)(p - start) <= max);
    w->out->size -= max - (size_t)(p - start);
    w->term = e->term;
    w->stamp = e->stamp;
    w->count++;
    if (e->kind == RAFT_ENTRY_CONFIG) {
        w->flags |= STORE_FLAG_CONFIG;
    }
}

void store_run_end(struct store_run_writer *w, struct slice key, const struct store_hard *hard)
{
    uint8_t *body = w->out->data + w->at + STORE_HEADER_BYTES;

    ASSERT(w->count > 0);
    if (hard != NULL) {
        store__hard_put(body, hard);
        w->flags |= STORE_FLAG_HARD;
    } else {
        w->out->size -= STORE_HARD_BYTES;
        memmove(body, body + STORE_HARD_BYTES, w->out->size - w->at - STORE_HEADER_BYTES);
    }
    store__record_seal(w->out, w->at, key, w->flags, w->count);
}

bool store_run_open(struct store_run_reader *r, struct slice key, struct slice value)
{
    struct store_run_reader n = {0};
    struct store_key_parts parts;

    if (!store_key_parse(key, &parts) || parts.kind != STORE_KIND_RUN || parts.first == 0 ||
        !store__record_open(key, value, &n.flags, &n.count, &n.rest) ||
        ((n.flags & STORE_FLAG_HARD) != 0 && !store__hard_take(&n.rest, &n.hard)) || n.count == 0 ||
        n.count > n.rest.size / 3 || parts.first > UINT64_MAX - n.count) {
        return false; /* an entry takes three bytes at least */
    }
    n.left = n.count;
    n.index = parts.first;
    *r = n;
    return true;
}

static bool take_id(struct slice *s, struct slice *ret)
{
    struct slice size;
    return slice_take(s, 1, &size) && size.data[0] > 0 && size.data[0] <= LIMIT_REQUEST_ID_BYTES &&
           slice_take(s, size.data[0], ret);
}

static bool take_stamp(struct slice *s, struct raft_stamp *stamp)
{
    uint64_t now, alive;

    if (!slice_take_varint(s, &now) || !slice_take_varint(s, &alive) ||
        now > UINT64_MAX - stamp->now_ms || alive > UINT64_MAX - stamp->alive_ms) {
        return false;
    }
    stamp->now_ms += now;
    stamp->alive_ms += alive;
    return true;
}

bool store_run_next(struct store_run_reader *r, struct store_entry *ret)
{
    struct store_entry e = {.index = r->index, .stamp = r->stamp};
    struct slice s = r->rest, kind;
    uint64_t delta, size;

    if (r->left == 0 || !slice_take(&s, 1, &kind) || !slice_take_varint(&s, &delta) ||
        delta > UINT64_MAX - r->term) {
        return false;
    }
    e.kind = kind.data[0] & ENTRY_KIND_MASK;
    e.term = r->term + delta;
    if ((kind.data[0] & ENTRY_HAS_STAMP) != 0 && !take_stamp(&s, &e.stamp)) {
        return false;
    }
    if ((kind.data[0] & ENTRY_HAS_SESSION) != 0 &&
        (!slice_take_varint(&s, &e.session) || !slice_take_varint(&s, &e.sequence))) {
        return false;
    }
    if ((kind.data[0] & ENTRY_HAS_ID) != 0 &&
        (e.kind != RAFT_ENTRY_COMMAND || e.session != 0 || !take_id(&s, &e.id))) {
        return false;
    }
    if ((kind.data[0] & ~(ENTRY_HAS_SESSION | ENTRY_HAS_ID | ENTRY_HAS_STAMP | ENTRY_KIND_MASK)) !=
            0 ||
        e.kind > RAFT_ENTRY_KIND_MAX || !slice_take_varint(&s, &size) || size > s.size ||
        !slice_take(&s, (size_t)size, &e.payload)) {
        return false;
    }
    r->rest = s;
    r->left--;
    r->index++;
    r->term = e.term;
    r->stamp = e.stamp;
    *ret = e;
    return true;
}
