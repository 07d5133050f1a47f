/* The text form: see kv.proto. Parsed by bytes alone: no locale, no dependence on what follows. */
#include <inttypes.h>
#include <string.h>

#include "shards/machine/kv/kv_internal.h"

#define RANGE_LIMIT 1000
#define RANGE_LIMIT_MAX 10000
#define RANGE_BYTES_MAX ((size_t)1 * MIB)

#define REFUSAL(name, code, text) static const struct kv_refusal name = {THOLE_##code, text}
REFUSAL(usage, INVALID_ARGUMENT,
        "commands: put KEY VALUE, get KEY, delete KEY, delete-range FROM [TO], "
        "cas KEY EXPECTED VALUE, cas-absent KEY VALUE, compact REVISION");
REFUSAL(usage_query, INVALID_ARGUMENT, "queries: get KEY, range [FROM [TO [LIMIT]]]");
REFUSAL(usage_put, INVALID_ARGUMENT, "expected: put KEY VALUE");
REFUSAL(usage_key, INVALID_ARGUMENT, "expected: delete KEY, or get KEY");
REFUSAL(usage_delete_range, INVALID_ARGUMENT, "expected: delete-range FROM [TO]; \"-\" is open");
REFUSAL(usage_cas, INVALID_ARGUMENT, "expected: cas KEY EXPECTED VALUE");
REFUSAL(usage_cas_absent, INVALID_ARGUMENT, "expected: cas-absent KEY VALUE");
REFUSAL(usage_compact, INVALID_ARGUMENT, "expected: compact REVISION");
REFUSAL(usage_range, INVALID_ARGUMENT, "expected: range [FROM [TO [LIMIT]]]");
REFUSAL(no_such_key, NOT_FOUND, "no such key");
#undef REFUSAL

/* ---- Words ----------------------------------------------------------------------------------- */

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

/* At most `most`; false if it is no number or 0. */
static bool parse_number(struct slice word, uint64_t most, uint64_t *ret)
{
    uint64_t v = 0;

    for (size_t i = 0; i < word.size; i++) {
        if (word.data[i] < '0' || word.data[i] > '9') {
            return false;
        }
        v = v > most / 10 ? most : v * 10 + (uint64_t)(word.data[i] - '0');
    }
    *ret = v < most ? v : most;
    return v > 0;
}

static struct kv_keys keys_of(struct slice from, struct slice to)
{
    static const uint8_t first = 0;

    return (struct kv_keys){.from = from.size > 0 ? from : slice_of(&first, 1), .to = to};
}

/* ---- Commands -------------------------------------------------------------------------------- */

static enum thole_code put(struct kv_exec *x, struct slice key, struct slice value,
                           const struct kv_item *old)
{
    struct kv_item item;

    kv__put(x, key, value, 0, old, &item);
    bytes_printf(&x->out, "ok revision=%" PRIi64 " version=%" PRIi64, item.mod, item.version);
    return THOLE_OK;
}

/* The refusal's text goes before what the key is. */
static void conflict(struct kv_exec *x, const struct kv_item *old)
{
    static const struct kv_refusal refusal = {THOLE_ABORTED, NULL};

    x->refusal = &refusal;
    bytes_append_str(&x->out, "error: not as expected, it ");
    if (old != NULL) {
        bytes_append_str(&x->out, "is: ");
        bytes_append_slice(&x->out, old->value);
    } else {
        bytes_append_str(&x->out, "does not exist");
    }
}

static enum thole_code delete_range(struct kv_exec *x, struct slice from, struct slice to,
                                    struct thole_status *st)
{
    struct kv_keys keys = keys_of(from, to);
    size_t deleted = 0;
    enum thole_code code = kv__delete_keys(x, &keys, &deleted, st);

    bytes_printf(&x->out, "deleted %zu", deleted);
    return code;
}

/* Commands on one key, whose present item is `old`. */
static enum thole_code on_key(struct kv_exec *x, struct slice word, struct slice key,
                              struct slice rest, struct slice expected, const struct kv_item *old)
{
    bool absent = is(word, "cas-absent");

    if (is(word, "get")) {
        x->refusal = old != NULL ? NULL : &no_such_key;
        bytes_append_slice(&x->out, old != NULL ? old->value : (struct slice){0});
        return THOLE_OK;
    }
    if (is(word, "delete")) {
        if (old != NULL) {
            kv__delete(x, old);
        }
        bytes_printf(&x->out, "deleted %d", old != NULL);
        return THOLE_OK;
    }
    if ((absent && old != NULL) ||
        (is(word, "cas") && (old == NULL || !slice_equal(old->value, expected)))) {
        conflict(x, old);
        return THOLE_OK;
    }
    x->refusal = kv__check_space(x, kv__change_bytes(key.size + rest.size));
    return x->refusal == NULL ? put(x, key, rest, old) : THOLE_OK;
}

/* What is wrong with the words of a command on one key. */
static const struct kv_refusal *parse_key(struct slice word, struct slice *in, struct slice *key,
                                          struct slice *expected)
{
    bool has_key = take_word(in, key);

    if (is(word, "get") || is(word, "delete")) {
        return has_key && in->size == 0 ? NULL : &usage_key;
    }
    if (is(word, "put")) {
        return has_key ? NULL : &usage_put;
    }
    if (is(word, "cas")) {
        return has_key && take_word(in, expected) ? NULL : &usage_cas;
    }
    return !is(word, "cas-absent") ? &usage : has_key ? NULL : &usage_cas_absent;
}

static enum thole_code compact(struct kv_exec *x, struct slice in)
{
    struct kv_state *state = &x->kv->state;
    uint64_t revision = 0;

    if (!parse_number(in, INT64_MAX, &revision)) {
        x->refusal = &usage_compact;
    } else if ((int64_t)revision <= state->compacted) {
        x->refusal = &kv__compacted;
    } else if ((int64_t)revision > state->revision) {
        x->refusal = &kv__future;
    } else {
        state->compacted = (int64_t)revision;
        bytes_append_str(&x->out, "ok");
    }
    return THOLE_OK;
}

static enum thole_code execute(struct kv_exec *x, struct slice in, struct thole_status *st)
{
    struct slice word = {0}, key = {0}, expected = {0}, from, to;
    struct kv_item old;
    bool found = false;

    in = strip_newline(in);
    take_word(&in, &word);
    if (x->kv->state.corrupt > 0) {
        x->refusal = &kv__corrupt;
        return THOLE_OK;
    }
    if (is(word, "compact")) {
        return compact(x, in);
    }
    if (is(word, "delete-range")) {
        if (in.size == 0) { /* a bare word must not delete everything */
            x->refusal = &usage_delete_range;
            return THOLE_OK;
        }
        from = take_bound(&in);
        to = take_bound(&in);
        x->refusal = in.size > 0 ? &usage_delete_range : NULL;
        return x->refusal == NULL ? delete_range(x, from, to, st) : THOLE_OK;
    }
    x->refusal = parse_key(word, &in, &key, &expected);
    if (x->refusal != NULL) {
        return THOLE_OK;
    }
    enum thole_code code =
        kv__get_latest(&x->reader, key, !is(word, "put"), x->arena, &old, &found, st);
    return code == THOLE_OK ? on_key(x, word, key, in, expected, found ? &old : NULL) : code;
}

enum thole_code kv__text_execute(struct kv_exec *x, struct slice in, struct thole_status *st)
{
    enum thole_code code = THOLE_OK;

    if (x->kv->state.auth.enabled) {
        x->refusal = &kv__user_empty;
    } else {
        code = execute(x, in, st);
    }
    if (x->refusal != NULL && x->refusal->text != NULL) {
        bytes_clear(&x->out);
        bytes_printf(&x->out, "error: %s", x->refusal->text);
    }
    return code;
}

/* ---- Queries --------------------------------------------------------------------------------- */

static enum thole_code get(const struct kv_reader *r, struct slice key, struct bytes *out,
                           const struct kv_refusal **ret_refusal, struct thole_status *st)
{
    struct arena *arena = arena_new();
    struct kv_item item;
    bool found = false;
    enum thole_code code = kv__get_latest(r, key, true, arena, &item, &found, st);

    if (code == THOLE_OK && found) {
        bytes_append_slice(out, item.value);
    } else {
        *ret_refusal = &no_such_key;
    }
    arena_free(arena);
    return code;
}

static enum thole_code range(const struct kv_reader *r, struct slice in, struct bytes *out,
                             const struct kv_refusal **ret_refusal, struct thole_status *st)
{
    struct slice from = take_bound(&in), to = take_bound(&in), word = {0};
    struct kv_keys keys = keys_of(from, to);
    uint64_t limit = RANGE_LIMIT, n = 0;
    struct kv_item item;

    if (take_word(&in, &word) && !parse_number(word, RANGE_LIMIT_MAX, &limit)) {
        in = word;
    }
    if (in.size > 0) {
        *ret_refusal = &usage_range;
        return THOLE_OK;
    }
    struct kv_scan *scan = kv__scan_new(r, &keys, r->revision, true);
    while (kv__scan_next(scan, &item)) {
        if (n == limit || (n > 0 && out->size + item.encoded.size > RANGE_BYTES_MAX)) {
            bytes_append_str(out, "(more from ");
            bytes_append_slice(out, item.key);
            bytes_append_str(out, ")\n");
            break;
        }
        bytes_append_slice(out, item.key);
        bytes_append_str(out, " ");
        bytes_append_slice(out, item.value);
        bytes_append_str(out, "\n");
        n++;
    }
    enum thole_code code = kv__scan_status(scan, st);
    kv__scan_free(scan);
    return code;
}

enum thole_code kv__text_query(const struct kv_reader *r, struct slice in, struct bytes *out,
                               const struct kv_refusal **ret_refusal, struct thole_status *st)
{
    struct slice word = {0}, key = {0};

    if (r->state->auth.enabled) {
        *ret_refusal = &kv__user_empty;
        return THOLE_OK;
    }
    in = strip_newline(in);
    take_word(&in, &word);
    if (is(word, "get")) {
        if (!take_word(&in, &key) || in.size > 0) {
            *ret_refusal = &usage_key;
            return THOLE_OK;
        }
        return get(r, key, out, ret_refusal, st);
    }
    if (is(word, "range")) {
        return range(r, in, out, ret_refusal, st);
    }
    *ret_refusal = &usage_query;
    return THOLE_OK;
}
