/* Encodings of configurations and changes: a version byte, then varints. They are on disks and
 * wires (docs/formats.md), so a field is only ever added with a new version. */
#include <stdlib.h>
#include <string.h>

#include "shards/raft/config_history.h"

enum {
    CONFIG_VERSION = 2,
    CHANGE_VERSION = 2,
    FLAG_JOINT = 1,
    FLAG_AUTO_LEAVE = 2,
};
#define HOST_BYTES 16
#define RAFT_EPOCH_MAX (UINT64_MAX / 4)

static enum thole_code malformed(struct thole_status *st, const char *what, const char *field)
{
    return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, "%s: malformed %s",
                      what, field);
}

/* A varint that fits the small field it is for. */
static bool take_small(struct slice *s, uint64_t max, uint64_t *ret)
{
    uint64_t v;

    if (!slice_take_varint(s, &v) || v > max) {
        return false;
    }
    *ret = v;
    return true;
}

static bool take_host(struct slice *s, uint8_t host[HOST_BYTES])
{
    struct slice h;

    if (!slice_take(s, HOST_BYTES, &h)) {
        return false;
    }
    memcpy(host, h.data, HOST_BYTES);
    return true;
}

void raft_config_encode(const struct raft_config *c, struct bytes *out)
{
    uint64_t flags = (c->joint ? FLAG_JOINT : 0) | (c->auto_leave ? FLAG_AUTO_LEAVE : 0);

    bytes_append_varint(out, CONFIG_VERSION);
    bytes_append_varint(out, flags);
    bytes_append_varint(out, c->revision);
    bytes_append_varint(out, c->epoch);
    bytes_append_varint(out, c->member_count);
    for (uint32_t i = 0; i < c->member_count; i++) {
        const struct raft_member *m = &c->members[i];
        bytes_append_varint(out, m->replica_id);
        bytes_append(out, m->host, HOST_BYTES);
        bytes_append_varint(out, m->role);
        bytes_append_varint(out, m->outgoing_role);
        bytes_append_varint(out, m->learner_next ? 1 : 0);
    }
    bytes_append_varint(out, c->removed_count);
    for (uint32_t i = 0; i < c->removed_count; i++) {
        bytes_append_varint(out, c->removed[i]);
    }
}

static bool take_member(struct slice *s, struct raft_member *m)
{
    uint64_t role;
    uint64_t outgoing;
    uint64_t next;

    if (!slice_take_varint(s, &m->replica_id) || !take_host(s, m->host) ||
        !take_small(s, RAFT_WITNESS, &role) || !take_small(s, RAFT_WITNESS, &outgoing) ||
        !take_small(s, 1, &next)) {
        return false;
    }
    m->role = (uint8_t)role;
    m->outgoing_role = (uint8_t)outgoing;
    m->learner_next = next == 1;
    return true;
}

static bool take_removed(struct slice *s, struct raft_config *c)
{
    uint64_t count;

    /* Each tombstone takes at least a byte, which bounds what a lie can make us allocate. */
    if (!take_small(s, s->size, &count) || count > UINT32_MAX) {
        return false;
    }
    if (count == 0) {
        return true;
    }
    c->removed = xcalloc(count, sizeof *c->removed);
    c->removed_count = (uint32_t)count;
    for (uint64_t i = 0; i < count; i++) {
        if (!slice_take_varint(s, &c->removed[i])) {
            return false;
        }
    }
    return true;
}

static bool take_config(struct slice *s, struct raft_config *c)
{
    uint64_t version;
    uint64_t flags;
    uint64_t count;

    if (!take_small(s, CONFIG_VERSION, &version) || version != CONFIG_VERSION ||
        !take_small(s, FLAG_JOINT | FLAG_AUTO_LEAVE, &flags) ||
        !slice_take_varint(s, &c->revision) || !take_small(s, RAFT_EPOCH_MAX, &c->epoch) ||
        !take_small(s, LIMIT_MEMBERS, &count)) {
        return false;
    }
    c->joint = (flags & FLAG_JOINT) != 0;
    c->auto_leave = (flags & FLAG_AUTO_LEAVE) != 0;
    for (uint32_t i = 0; i < count; i++) {
        if (!take_member(s, raft_config_insert(c, i))) {
            return false;
        }
    }
    return take_removed(s, c) && s->size == 0;
}

enum thole_code raft_config_decode(struct slice in, struct raft_config *ret,
                                   struct thole_status *st)
{
    struct raft_config c = {0};
    enum thole_code code = THOLE_OK;

    if (!take_config(&in, &c)) {
        code = malformed(st, "configuration", "encoding");
        goto done;
    }
    code = raft__config_validate(&c, st);
    if (code != THOLE_OK) {
        goto done;
    }
    raft_config_deinit(ret);
    *ret = c;
    return THOLE_OK;
done:
    raft_config_deinit(&c);
    return code;
}

void raft_change_encode(const struct raft_change *c, struct bytes *out)
{
    bytes_append_varint(out, CHANGE_VERSION);
    bytes_append_varint(out, c->revision);
    bytes_append_varint(out, c->epoch);
    bytes_append_varint(out, c->item_count);
    for (uint32_t i = 0; i < c->item_count; i++) {
        bytes_append_varint(out, c->items[i].op);
        bytes_append_varint(out, c->items[i].replica_id);
        bytes_append(out, c->items[i].host, HOST_BYTES);
    }
}

enum thole_code raft_change_decode(struct slice in, struct raft_change *ret,
                                   struct thole_status *st)
{
    struct raft_change c = {0};
    uint64_t version;
    uint64_t count;

    if (!take_small(&in, CHANGE_VERSION, &version) || version != CHANGE_VERSION ||
        !slice_take_varint(&in, &c.revision) || !take_small(&in, RAFT_EPOCH_MAX, &c.epoch) ||
        !take_small(&in, RAFT_CHANGE_ITEMS_MAX, &count)) {
        return malformed(st, "membership change", "header");
    }
    c.item_count = (uint32_t)count;
    for (uint32_t i = 0; i < c.item_count; i++) {
        uint64_t op;
        if (!take_small(&in, RAFT_CHANGE_DEMOTE, &op) || op < RAFT_CHANGE_ADD_LEARNER ||
            !slice_take_varint(&in, &c.items[i].replica_id) || !take_host(&in, c.items[i].host)) {
            return malformed(st, "membership change", "item");
        }
        c.items[i].op = (uint8_t)op;
    }
    if (in.size != 0) {
        return malformed(st, "membership change", "end");
    }
    *ret = c;
    return THOLE_OK;
}
