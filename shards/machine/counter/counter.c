/* The counter: one number, kept in memory. It is the example of how to write a state machine, so
 * its comments say more than elsewhere; machine.h is the reference.
 *
 * Commands: text "add N" (N may be negative) and "get"; or nine bytes, 0x01 and a little-endian
 * two's complement number to add. The first byte tells the form, so that a command of another
 * machine is refused and not taken for a number. Answers have the form of the question: text, or
 * the eight bytes of the number. Addition wraps around.
 * Queries: text "get", or an empty one for eight bytes. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "shards/machine/builtin.h"

#define SNAPSHOT_BYTES 8
#define CODE_INVALID 1
#define BINARY_FORM 0x01 /* the first byte of a command; no text begins with it */
#define BINARY_BYTES 9
#define TEXT_BYTES_MAX 63

struct counter {
    uint64_t value; /* unsigned, so that overflow is defined and equal on every replica */
};

/* One machine per replica. Nothing to load: an in-memory machine starts empty, and the engine
 * restores a snapshot and applies the log again. */
static enum thole_code counter_open(const struct thole_machine_env *env, void **ret,
                                    struct thole_status *st)
{
    (void)env, (void)st;
    *ret = xcalloc(1, sizeof(struct counter));
    return THOLE_OK;
}

static void counter_close(void *machine)
{
    free(machine);
}

/* ---- Commands -------------------------------------------------------------------------------- */

enum op { OP_BAD, OP_ADD, OP_GET };

/* Own parsing rather than strtoll: it must not depend on the locale or on what follows the
 * slice. */
static bool parse_number(const char *p, size_t size, uint64_t *ret)
{
    bool negative = size > 0 && p[0] == '-';
    uint64_t v = 0;
    size_t i = negative;

    if (i == size || size - i > 19) {
        return false;
    }
    for (; i < size; i++) {
        if (p[i] < '0' || p[i] > '9') {
            return false;
        }
        v = v * 10 + (uint64_t)(p[i] - '0');
    }
    if (v > (uint64_t)INT64_MAX + negative) {
        return false;
    }
    *ret = negative ? 0 - v : v;
    return true;
}

static enum op parse(struct thole_slice in, bool *ret_text, uint64_t *ret_amount)
{
    const char *p = in.data;
    size_t size = in.size;

    *ret_text = size == 0 || p[0] != BINARY_FORM;
    if (!*ret_text) {
        if (size != BINARY_BYTES) {
            return OP_BAD;
        }
        *ret_amount = get_le64((const uint8_t *)p + 1);
        return OP_ADD;
    }
    if (size > 0 && p[size - 1] == '\n') {
        size--;
    }
    if (size == 3 && memcmp(p, "get", 3) == 0) {
        return OP_GET;
    }
    if (size > 4 && memcmp(p, "add ", 4) == 0 && parse_number(p + 4, size - 4, ret_amount)) {
        return OP_ADD;
    }
    return OP_BAD;
}

static enum thole_code answer_value(struct thole_sink *out, uint64_t value, bool text)
{
    char buffer[TEXT_BYTES_MAX + 1];

    if (text) {
        int n = snprintf(buffer, sizeof buffer, "%" PRId64, (int64_t)value);
        return out->write(out, buffer, (size_t)n);
    }
    put_le64((uint8_t *)buffer, value);
    return out->write(out, buffer, 8);
}

/* Called with batches of committed entries, in log order, one batch at a time. */
static enum thole_code counter_apply(void *machine, struct thole_apply *batch,
                                     struct thole_status *st)
{
    struct counter *c = machine;

    for (size_t i = 0; i < batch->entry_count; i++) {
        struct thole_entry *e = thole_apply_entry(batch, i);
        uint64_t amount = 0;
        bool text = true;
        enum thole_code code;

        switch (parse(e->command, &text, &amount)) {
        case OP_ADD:
            c->value += amount;
            /* Watchers get the new value for each change. */
            if (batch->watch != NULL) {
                uint8_t event[8];
                put_le64(event, c->value);
                batch->watch->event(batch->watch, e->index, (struct thole_slice){"counter", 7},
                                    (struct thole_slice){event, sizeof event});
            }
            code = answer_value(e->result, c->value, text);
            break;
        case OP_GET:
            code = answer_value(e->result, c->value, text);
            break;
        case OP_BAD:
        default:
            /* A bad command is not a failure of the machine: every replica gives this answer. */
            e->code = CODE_INVALID;
            code = e->result->write(e->result, "expected: add N, or get", 23);
            break;
        }
        if (code != THOLE_OK) {
            return THOLE_FAIL(st, code, THOLE_REASON_NONE, "writing a result");
        }
    }
    return THOLE_OK;
}

/* ---- Views: queries and snapshots run beside apply, on a copy of the state ------------------- */

static enum thole_code counter_view_acquire(void *machine, void **ret, struct thole_status *st)
{
    struct counter *view = xmalloc(sizeof *view);

    (void)st;
    *view = *(struct counter *)machine;
    *ret = view;
    return THOLE_OK;
}

static void counter_view_release(void *machine, void *view)
{
    (void)machine;
    free(view);
}

static enum thole_code counter_query(void *machine, const void *view, struct thole_slice query,
                                     struct thole_sink *answer, struct thole_status *st)
{
    const struct counter *c = view;
    uint64_t ignored;
    bool text = false;

    (void)machine;
    if (query.size > 0 && parse(query, &text, &ignored) != OP_GET) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "the counter's queries are \"get\" and nothing at all");
    }
    return answer_value(answer, c->value, text);
}

/* ---- Snapshots ------------------------------------------------------------------------------- */

static enum thole_code counter_save(void *machine, const void *view, struct thole_save *to,
                                    struct thole_status *st)
{
    struct thole_sink *out = to->out;
    uint8_t bytes[SNAPSHOT_BYTES];

    (void)machine, (void)st;
    put_le64(bytes, ((const struct counter *)view)->value);
    return out->write(out, bytes, sizeof bytes); /* the engine adds a checksum */
}

static enum thole_code counter_restore(void *machine, struct thole_restore *from,
                                       struct thole_status *st)
{
    struct thole_source *in = from->in;
    struct counter *c = machine;
    uint8_t bytes[SNAPSHOT_BYTES + 1];
    size_t have = 0;
    int64_t n;

    while (have < sizeof bytes && (n = in->read(in, bytes + have, sizeof bytes - have)) > 0) {
        have += (size_t)n;
    }
    if (have != SNAPSHOT_BYTES) {
        return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "not a counter's snapshot");
    }
    c->value = get_le64(bytes);
    return THOLE_OK;
}

const struct thole_machine_type machine_counter = {
    .size = sizeof(struct thole_machine_type),
    .version = 1,
    .name = "counter",
    .open = counter_open,
    .close = counter_close,
    .apply = counter_apply,
    .query = counter_query,
    .view_acquire = counter_view_acquire,
    .view_release = counter_view_release,
    .save = counter_save,
    .restore = counter_restore,
};
