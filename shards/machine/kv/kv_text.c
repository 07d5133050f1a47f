/* The text form: see kv.proto. Parsed by bytes alone: no locale, no dependence on what follows. */
#include <inttypes.h>
#include <string.h>

#include "shards/machine/kv/kv_internal.h"

static struct slice strip_newline(struct slice in)
{
    if (in.size > 0 && in.data[in.size - 1] == '\n') {
        in.size--;
    }
    if (in.size > 0 && in.data[in.size - 1] == '\r') {
        in.size--;
    }
    return in;
}

/* The next word; false if there is none. `in` moves behind the space that ends it. */
static bool take_word(struct slice *in, struct slice *ret)
{
    const uint8_t *space = in->size > 0 ? memchr(in->data, ' ', in->size) : NULL;
    size_t n = space != NULL ? (size_t)(space - in->data) : in->size;

    if (n == 0) {
        return false;
    }
    *ret = slice_of(in->data, n);
    in->data += n + (space != NULL);
    in->size -= n + (space != NULL);
    return true;
}

static bool is(struct slice word, const char *text)
{
    return slice_equal(word, slice_str(text));
}

/* FROM or TO. "-" or a missing word: no bound. */
static struct slice take_bound(struct slice *in)
{
    struct slice word = {0};

    return take_word(in, &word) && !is(word, "-") ? word : (struct slice){0};
}

static bool take_key(struct slice *in, struct slice *ret)
{
    return take_word(in, ret) && ret->size <= KV_KEY_BYTES_MAX;
}

static bool take_limit(struct slice *in, uint32_t *ret)
{
    struct slice word;
    uint32_t v = 0;

    if (!take_word(in, &word)) {
        return true;
    }
    for (size_t i = 0; i < word.size; i++) {
        if (word.data[i] < '0' || word.data[i] > '9' || v > KV_RANGE_LIMIT_MAX) {
            return false;
        }
        v = v * 10 + (uint32_t)(word.data[i] - '0');
    }
    *ret = v < KV_RANGE_LIMIT_MAX ? v : KV_RANGE_LIMIT_MAX;
    return v > 0;
}

const char *kv__text_command(struct slice in, struct kv_op *op)
{
    struct slice word = {0};

    in = strip_newline(in);
    take_word(&in, &word);
    if (is(word, "put")) {
        op->kind = KV_PUT;
        if (!take_key(&in, &op->key)) {
            return "expected: put KEY VALUE";
        }
        op->value = in;
    } else if (is(word, "delete") || is(word, "get")) {
        op->kind = is(word, "get") ? KV_GET : KV_DELETE;
        if (!take_key(&in, &op->key) || in.size > 0) {
            return "expected: delete KEY, or get KEY";
        }
    } else if (is(word, "delete-range")) {
        op->kind = KV_DELETE_RANGE;
        op->limit = KV_RANGE_LIMIT_MAX;
        if (in.size == 0) { /* a bare word must not delete everything */
            return "expected: delete-range FROM [TO]; \"-\" is open";
        }
        op->key = take_bound(&in);
        op->to = take_bound(&in);
        return in.size > 0 ? "expected: delete-range FROM [TO]" : NULL;
    } else if (is(word, "cas")) {
        op->kind = KV_CAS;
        op->expect = KV_EXPECT_VALUE;
        if (!take_key(&in, &op->key) || !take_word(&in, &op->expect_value)) {
            return "expected: cas KEY EXPECTED VALUE";
        }
        op->value = in;
    } else if (is(word, "cas-absent")) {
        op->kind = KV_CAS;
        op->expect = KV_EXPECT_ABSENT;
        if (!take_key(&in, &op->key)) {
            return "expected: cas-absent KEY VALUE";
        }
        op->value = in;
    } else {
        return "commands: put KEY VALUE, get KEY, delete KEY, delete-range FROM [TO], "
               "cas KEY EXPECTED VALUE, cas-absent KEY VALUE";
    }
    return NULL;
}

const char *kv__text_query(struct slice in, struct kv_op *op)
{
    struct slice word = {0};

    in = strip_newline(in);
    take_word(&in, &word);
    if (is(word, "get")) {
        op->kind = KV_GET;
        return take_key(&in, &op->key) && in.size == 0 ? NULL : "expected: get KEY";
    }
    if (is(word, "range")) {
        op->kind = KV_RANGE;
        op->limit = KV_RANGE_LIMIT;
        op->key = take_bound(&in);
        op->to = take_bound(&in);
        return take_limit(&in, &op->limit) && in.size == 0 ? NULL
                                                           : "expected: range [FROM [TO [LIMIT]]]";
    }
    return "queries: get KEY, range [FROM [TO [LIMIT]]]";
}

void kv__text_result(const struct kv_result *r, struct bytes *out)
{
    bytes_clear(out);
    if (r->error != NULL) {
        bytes_printf(out, "error: %s", r->error);
        if (r->code == KV_CONFLICT && r->has_current) {
            bytes_append_str(out, ", it is: ");
            bytes_append_slice(out, r->current.value);
        } else if (r->code == KV_CONFLICT) {
            bytes_append_str(out, ", it does not exist");
        }
    } else if (r->counts_deleted) {
        bytes_printf(out, "deleted %" PRIu64 "%s", r->deleted, r->more ? ", there are more" : "");
    } else if (r->with_value) {
        bytes_append_slice(out, r->current.value);
    } else {
        bytes_printf(out, "ok mod_index=%" PRIu64 " version=%" PRIu64, r->current.mod_index,
                     r->current.version);
    }
}
