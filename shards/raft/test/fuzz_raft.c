/* libFuzzer: the decoders, and raft_receive with arbitrary messages. The first byte chooses. The
 * core must answer with a status, and keep its own invariants, whatever a peer or a disk sends. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "shards/raft/raft.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_config(struct slice in)
{
    struct raft_config c = {0};
    struct raft_config back = {0};
    struct bytes out = {0};

    if (raft_config_decode(in, &c, NULL) == THOLE_OK) {
        raft_config_encode(&c, &out);
        ASSERT(raft_config_decode(bytes_slice(&out), &back, NULL) == THOLE_OK);
        ASSERT(raft_config_equal(&c, &back));
    }
    bytes_deinit(&out);
    raft_config_deinit(&c);
    raft_config_deinit(&back);
}

static struct raft_config voters(uint32_t n)
{
    struct raft_config c = {0};

    for (uint32_t i = 0; i < n; i++) {
        *raft_config_insert(&c, i) = (struct raft_member){.replica_id = i + 1, .role = RAFT_VOTER};
    }
    return c;
}

static void fuzz_change(struct slice in)
{
    struct raft_config c = voters(2);
    struct raft_config to = {0};
    struct raft_change change;

    if (raft_change_decode(in, &change, NULL) == THOLE_OK &&
        raft_change_apply(&c, &change, &to, NULL) == THOLE_OK) {
        struct bytes out = {0};
        raft_config_encode(&to, &out);
        ASSERT(raft_config_decode(bytes_slice(&out), &c, NULL) == THOLE_OK); /* it is valid */
        bytes_deinit(&out);
    }
    raft_config_deinit(&c);
    raft_config_deinit(&to);
}

/* Small numbers are likely to mean something, large ones to overflow: both from one byte. */
static uint64_t take_number(struct slice *in)
{
    struct slice b;

    if (!slice_take(in, 1, &b)) {
        return 0;
    }
    return b.data[0] < 250 ? b.data[0] & 15 : UINT64_MAX >> ((b.data[0] - 250) * 2);
}

static struct raft_entry *take_entry(struct slice *in)
{
    struct slice rest = {.data = in->data, .size = in->size < 24 ? in->size : 24};
    enum raft_entry_kind kind = (enum raft_entry_kind)(take_number(in) & 7);
    struct bufslice payload = {0};

    if (kind == RAFT_ENTRY_CONFIG) {
        payload.owner = buf_copy(rest.data, rest.size);
        payload.bytes = (struct slice){.data = payload.owner->data, .size = rest.size};
    }
    struct raft_entry *e = raft_entry_new(kind, 0, 0, payload);
    e->index = take_number(in);
    e->term = take_number(in);
    return e;
}

static void fuzz_message(struct raft *r, struct slice *in, uint64_t now_ms)
{
    struct raft_message m = {
        .kind = (uint8_t)take_number(in),
        .from = take_number(in),
        .to = 1,
        .term = take_number(in),
        .index = take_number(in),
        .log_term = take_number(in),
        .commit = take_number(in),
        .commit_term = take_number(in),
        .hint = take_number(in),
        .context = take_number(in),
    };
    uint64_t flags = take_number(in);
    uint64_t count = flags >> 2 & 3;

    m.reject = (flags & 1) != 0;
    m.transfer = (flags & 2) != 0;
    if (count > 0 && m.kind == RAFT_MSG_APPEND) {
        m.entries = xmalloc(count * sizeof(struct raft_entry *));
        for (; m.entry_count < count; m.entry_count++) {
            m.entries[m.entry_count] = take_entry(in);
        }
    }
    enum thole_code code = raft_receive(r, &m, now_ms, NULL);
    ASSERT(code == THOLE_OK || code == THOLE_INVALID_ARGUMENT || code == THOLE_DATA_LOSS);
    ASSERT(m.entry_count == 0);
}

static void carry_out(struct raft *r, uint64_t now_ms)
{
    struct raft_update u;

    raft_harvest(r, &u);
    uint64_t applied = u.apply_last;
    if (u.persist != 0) {
        raft_persisted(r, u.persist, now_ms);
    }
    if (applied != 0) {
        raft_applied(r, applied);
    }
}

static void fuzz_receive(struct slice in)
{
    struct raft_config c = voters(3);
    struct raft_options o = {.replica_id = 1,
                             .seed = 1,
                             .election_timeout_ms = 100,
                             .heartbeat_ms = 10,
                             .cache_bytes = 256,
                             .pre_vote = true,
                             .check_quorum = true};
    struct raft_boot b = {.config = &c};
    uint64_t now_ms = 0;
    struct raft *r = NULL;
    enum thole_code code = raft_new(&o, &b, &r, NULL);

    ASSERT(code == THOLE_OK);
    while (in.size > 0) {
        uint64_t what = take_number(&in);
        now_ms += what & 3;
        if (what < 10) {
            fuzz_message(r, &in, now_ms);
        } else if (what == 10) {
            raft_campaign(r, now_ms);
        } else if (what == 11) {
            raft_tick(r, now_ms += 50);
        } else if (what == 12) {
            raft_compact(r, take_number(&in));
        } else {
            carry_out(r, now_ms);
        }
    }
    carry_out(r, now_ms);
    raft_free(r);
    raft_config_deinit(&c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    struct slice in = {.data = data + 1, .size = size - 1};
    switch (data[0] % 3) {
    case 0:
        fuzz_config(in);
        break;
    case 1:
        fuzz_change(in);
        break;
    default:
        fuzz_receive(in);
        break;
    }
    return 0;
}
