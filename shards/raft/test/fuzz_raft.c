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

/* Small numbers name existing things, large ones may overflow: both from one byte. */
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
        .epoch = take_number(in) >> 2,
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

static void fuzz_snapshot(struct raft *r, struct slice *in, uint64_t now_ms)
{
    struct raft_config c = {0};
    struct slice encoded = {.data = in->data, .size = in->size < 64 ? in->size : 64};
    uint64_t from = take_number(in);
    uint64_t term = take_number(in);
    uint64_t index = take_number(in);
    bool install = false;

    if (raft_config_decode(encoded, &c, NULL) != THOLE_OK) {
        raft_config_deinit(&c);
        c = voters(3);
        c.epoch = take_number(in) >> 2;
    }
    enum thole_code code = raft_snapshot_received(
        r, from, term, index, take_number(in), (struct raft_stamp){0}, &c, now_ms, &install, NULL);
    ASSERT(code == THOLE_OK || !install);
    raft_config_deinit(&c);
}

static void propose(struct raft *r, uint64_t n, uint64_t now_ms)
{
    struct raft_entry *e = raft_entry_new(RAFT_ENTRY_COMMAND, 0, n, (struct bufslice){0});
    uint64_t first;

    if (raft_propose(r, &e, 1, now_ms, 0, &first, NULL) != THOLE_OK) {
        raft_entry_unref(e);
    }
}

static void change_members(struct raft *r, struct slice *in, uint64_t now_ms)
{
    struct raft_change change = {.revision = take_number(in), .item_count = 1};
    uint64_t index;

    change.items[0].op = (uint8_t)take_number(in);
    change.items[0].replica_id = take_number(in);
    (void)!raft_change_membership(r, &change, now_ms, &index, NULL);
}

/* What a caller may do beside feeding messages. */
static void fuzz_call(struct raft *r, uint64_t what, struct slice *in, uint64_t now_ms)
{
    switch (what) {
    case 0:
        raft_campaign(r, now_ms);
        break;
    case 1:
        raft_compact(r, take_number(in));
        break;
    case 2:
        (void)!raft_force(r, take_number(in), now_ms, NULL);
        break;
    case 3:
        (void)!raft_forget_leader(r, now_ms, NULL);
        break;
    case 4:
        (void)!raft_read(r, now_ms, now_ms, NULL);
        break;
    case 5:
        (void)!raft_transfer(r, take_number(in), now_ms, NULL);
        break;
    case 6:
        raft_clock(r, now_ms * 1000000);
        break;
    case 7:
        raft_wake(r, take_number(in), now_ms);
        break;
    case 8:
        raft_unreachable(r, take_number(in));
        break;
    case 9:
        fuzz_snapshot(r, in, now_ms);
        break;
    case 10:
        propose(r, now_ms, now_ms);
        break;
    default:
        change_members(r, in, now_ms);
        break;
    }
}

static void fuzz_receive(struct slice in)
{
    uint64_t kind = take_number(&in);
    struct raft_config c = kind == 3 ? (struct raft_config){0} : voters(kind == 4 ? 1 : 3);
    struct raft_options o = {.replica_id = 1,
                             .seed = 1,
                             .election_timeout_ms = 100,
                             .heartbeat_ms = 10,
                             .sleep_after_ms = kind == 1 ? 30 : 0,
                             .cache_bytes = 256,
                             .pre_vote = true,
                             .check_quorum = true,
                             .lease = kind == 2,
                             .witness = kind == 5};
    struct raft_boot b = {.config = &c};
    uint64_t now_ms = 0;
    struct raft *r = NULL;
    enum thole_code code = raft_new(&o, &b, &r, NULL);

    ASSERT(code == THOLE_OK);
    while (in.size > 0) {
        uint64_t what = take_number(&in);
        now_ms += what & 3;
        if (what < 9) {
            fuzz_message(r, &in, now_ms);
        } else if (what == 9) {
            fuzz_call(r, take_number(&in), &in, now_ms);
        } else if (what == 11) {
            raft_tick(r, now_ms += 50);
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
