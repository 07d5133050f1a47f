/* etcdctl's text of a transaction:
 *
 *     mod("key") > "0"            version, create, mod, value, lease; = != > <
 *     value("key") = "text"
 *
 *     put key "a value" --lease=ID --prev-kv
 *     get key [END] --prefix --from-key --keys-only --count-only --limit=N --rev=N
 *     del key [END] --prefix --from-key --prev-kv
 *
 *     get key
 *
 * Also Thole's own operations: add, min, max KEY NUMBER; append KEY TEXT. Words are separated by
 * blanks; "..." is one word with escapes, '...' one without. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "agent/cli/cmd_kv.h"
#include "thole/kv/v1/modify.upb.h"

#define WORDS_MAX 8

struct word {
    upb_StringView text;
    bool quoted;
};

#define WRONG(r, st, ...) line_wrong(r, st, __VA_ARGS__)

__attribute__((format(printf, 3, 4))) static enum thole_code line_wrong(
    const struct kv_txn_reader *r, struct thole_status *st, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = cli__vtext(format, args);
    va_end(args);
    enum thole_code code = THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                                      "line %u of the transaction: %s", r->line, text);
    free(text);
    return code;
}

/* ---- Words ----------------------------------------------------------------------------------- */

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static void skip_blanks(upb_StringView *at)
{
    while (at->size > 0 && is_blank(at->data[0])) {
        at->data++;
        at->size--;
    }
}

/* What is between quotes; `at` is behind them then. False: no second quote, or a wrong escape. */
static bool take_quoted(struct kv_txn_reader *r, upb_StringView *at, upb_StringView *ret)
{
    char quote = at->data[0];
    size_t end = 1;
    while (end < at->size && at->data[end] != quote) {
        end += quote == '"' && at->data[end] == '\\' ? 2 : 1;
    }
    if (end >= at->size) {
        return false;
    }
    upb_StringView inner = {at->data + 1, end - 1};
    struct bytes out = {0};
    bool ok = true;
    if (quote == '"') {
        ok = kv_unescape(inner, &out);
    } else {
        bytes_append(&out, inner.data, inner.size);
    }
    char *copy = upb_Arena_Malloc(r->arena, out.size + 1);
    if (out.size > 0) {
        memcpy(copy, out.data, out.size);
    }
    *ret = (upb_StringView){copy, out.size};
    bytes_deinit(&out);
    at->data += end + 1;
    at->size -= end + 1;
    return ok;
}

/* The next word, until a blank or a byte of `stop`. */
static bool take_word(struct kv_txn_reader *r, upb_StringView *at, const char *stop,
                      struct word *ret)
{
    skip_blanks(at);
    ret->quoted = at->size > 0 && (at->data[0] == '"' || at->data[0] == '\'');
    if (ret->quoted) {
        return take_quoted(r, at, &ret->text);
    }
    size_t size = 0;
    while (size < at->size && !is_blank(at->data[size]) && strchr(stop, at->data[size]) == NULL) {
        size++;
    }
    char *copy = upb_Arena_Malloc(r->arena, size + 1);
    memcpy(copy, at->data, size);
    ret->text = (upb_StringView){copy, size};
    at->data += size;
    at->size -= size;
    return true;
}

static bool word_is(upb_StringView word, const char *text)
{
    return upb_StringView_IsEqual(word, cli__sv(text));
}

static bool to_number(upb_StringView text, int64_t *ret)
{
    char copy[24], *end = NULL;
    if (text.size == 0 || text.size >= sizeof copy || is_blank(text.data[0])) {
        return false;
    }
    memcpy(copy, text.data, text.size);
    copy[text.size] = '\0';
    errno = 0;
    *ret = strtoll(copy, &end, 10);
    return *end == '\0' && errno == 0 && strlen(copy) == text.size;
}

static bool to_lease(upb_StringView text, int64_t *ret)
{
    char copy[20];
    if (text.size == 0 || text.size >= sizeof copy) {
        return false;
    }
    memcpy(copy, text.data, text.size);
    copy[text.size] = '\0';
    *ret = 0;
    return strlen(copy) == text.size && (strcmp(copy, "0") == 0 || kv_lease_id(copy, ret));
}

/* ---- Comparisons ----------------------------------------------------------------------------- */

static bool set_operand(etcdserverpb_Compare *m, upb_StringView target, upb_StringView operand)
{
    int64_t number = 0;
    if (word_is(target, "value") || word_is(target, "val")) {
        etcdserverpb_Compare_set_target(m, etcdserverpb_Compare_VALUE);
        etcdserverpb_Compare_set_value(m, operand);
        return true;
    }
    if (word_is(target, "lease")) {
        etcdserverpb_Compare_set_target(m, etcdserverpb_Compare_LEASE);
        bool ok = to_lease(operand, &number);
        etcdserverpb_Compare_set_lease(m, number);
        return ok;
    }
    bool ok = to_number(operand, &number);
    if (word_is(target, "version") || word_is(target, "ver")) {
        etcdserverpb_Compare_set_target(m, etcdserverpb_Compare_VERSION);
        etcdserverpb_Compare_set_version(m, number);
    } else if (word_is(target, "create") || word_is(target, "c")) {
        etcdserverpb_Compare_set_target(m, etcdserverpb_Compare_CREATE);
        etcdserverpb_Compare_set_create_revision(m, number);
    } else {
        etcdserverpb_Compare_set_target(m, etcdserverpb_Compare_MOD);
        etcdserverpb_Compare_set_mod_revision(m, number);
    }
    return ok;
}

static bool set_result(etcdserverpb_Compare *m, upb_StringView sign)
{
    static const struct {
        const char *text;
        int32_t result;
    } signs[] = {{"=", etcdserverpb_Compare_EQUAL},
                 {"==", etcdserverpb_Compare_EQUAL},
                 {"!=", etcdserverpb_Compare_NOT_EQUAL},
                 {">", etcdserverpb_Compare_GREATER},
                 {"<", etcdserverpb_Compare_LESS}};
    for (size_t i = 0; i < sizeof signs / sizeof signs[0]; i++) {
        if (word_is(sign, signs[i].text)) {
            etcdserverpb_Compare_set_result(m, signs[i].result);
            return true;
        }
    }
    return false;
}

static bool take_char(upb_StringView *at, char c)
{
    skip_blanks(at);
    bool found = at->size > 0 && at->data[0] == c;
    at->data += found;
    at->size -= found;
    return found;
}

static bool take_sign(upb_StringView *at, upb_StringView *ret)
{
    size_t size = 0;
    skip_blanks(at);
    while (size < at->size && strchr("=!<>~", at->data[size]) != NULL && at->data[size] != '\0') {
        size++;
    }
    *ret = (upb_StringView){at->data, size};
    at->data += size;
    at->size -= size;
    return size > 0;
}

static enum thole_code read_compare(struct kv_txn_reader *r, upb_StringView at,
                                    struct thole_status *st)
{
    static const char *const known[] = {"value", "val", "version", "ver",  "create",
                                        "c",     "mod", "m",       "lease"};
    upb_StringView sign = KV_NONE;
    struct word target, key, operand;
    etcdserverpb_Compare *m = etcdserverpb_TxnRequest_add_compare(r->txn, r->arena);
    bool is_known = false;

    if (!take_word(r, &at, "(", &target) || !take_char(&at, '(') || !take_word(r, &at, ")", &key) ||
        !take_char(&at, ')') || !take_sign(&at, &sign) || !take_word(r, &at, "", &operand)) {
        return WRONG(r, st, "a comparison is like mod(\"key\") > \"0\"");
    }
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        is_known = is_known || word_is(target.text, known[i]);
    }
    if (!is_known) {
        return WRONG(r, st, "compare value, version, create, mod or lease, not \"%.*s\"",
                     CLI_SV(target.text));
    }
    if (!set_result(m, sign)) {
        return WRONG(r, st, "compare with =, !=, > or <, not \"%.*s\"", CLI_SV(sign));
    }
    etcdserverpb_Compare_set_key(m, key.text);
    if (!set_operand(m, target.text, operand.text)) {
        return WRONG(r, st, "\"%.*s\" is no number%s", CLI_SV(operand.text),
                     word_is(target.text, "lease") ? ", in hexadecimal" : "");
    }
    skip_blanks(&at);
    return at.size == 0
               ? THOLE_OK
               : WRONG(r, st, "\"%.*s\" is too much; a line has one comparison", CLI_SV(at));
}

/* ---- Operations ------------------------------------------------------------------------------ */

struct operation {
    upb_StringView words[WORDS_MAX]; /* the verb and its arguments */
    size_t count;
    bool prefix, from_key, keys_only, count_only, prev_kv;
    int64_t limit, revision, lease;
};

static bool read_flag(struct operation *o, upb_StringView word)
{
    const struct {
        const char *name;
        bool *flag;
        int64_t *number;
    } flags[] = {{"--prefix", &o->prefix, NULL},       {"--from-key", &o->from_key, NULL},
                 {"--keys-only", &o->keys_only, NULL}, {"--count-only", &o->count_only, NULL},
                 {"--prev-kv", &o->prev_kv, NULL},     {"--limit", NULL, &o->limit},
                 {"--rev", NULL, &o->revision},        {"--lease", NULL, &o->lease}};
    const char *equal = memchr(word.data, '=', word.size);
    size_t size = equal != NULL ? (size_t)(equal - word.data) : word.size;
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        if (!word_is((upb_StringView){word.data, size}, flags[i].name) ||
            (flags[i].number != NULL) != (equal != NULL)) {
            continue;
        }
        if (flags[i].flag != NULL) {
            *flags[i].flag = true;
            return true;
        }
        upb_StringView value = {equal + 1, word.size - size - 1};
        return flags[i].number == &o->lease ? to_lease(value, flags[i].number)
                                            : to_number(value, flags[i].number);
    }
    return false;
}

static enum thole_code split(struct kv_txn_reader *r, upb_StringView at, struct operation *o,
                             struct thole_status *st)
{
    bool flags = true;
    for (skip_blanks(&at); at.size > 0; skip_blanks(&at)) {
        struct word word;
        if (!take_word(r, &at, "", &word)) {
            return WRONG(r, st, "a quote is not closed, or has a wrong escape");
        }
        if (flags && !word.quoted && word_is(word.text, "--")) {
            flags = false;
        } else if (flags && !word.quoted && word.text.size > 2 &&
                   memcmp(word.text.data, "--", 2) == 0) {
            if (!read_flag(o, word.text)) {
                return WRONG(r, st, "there is no option \"%.*s\" with such a value",
                             CLI_SV(word.text));
            }
        } else if (o->count == WORDS_MAX) {
            return WRONG(r, st, "too many words; quote a value with blanks");
        } else {
            o->words[o->count++] = word.text;
        }
    }
    return THOLE_OK;
}

static bool set_get(struct kv_txn_reader *r, const struct operation *o, upb_StringView end,
                    etcdserverpb_RequestOp *op)
{
    etcdserverpb_RangeRequest *m = etcdserverpb_RequestOp_mutable_request_range(op, r->arena);
    etcdserverpb_RangeRequest_set_key(m, o->words[1]);
    etcdserverpb_RangeRequest_set_range_end(m, end);
    etcdserverpb_RangeRequest_set_limit(m, o->limit);
    etcdserverpb_RangeRequest_set_revision(m, o->revision);
    etcdserverpb_RangeRequest_set_keys_only(m, o->keys_only);
    etcdserverpb_RangeRequest_set_count_only(m, o->count_only);
    return o->lease == 0 && !o->prev_kv;
}

static bool set_delete(struct kv_txn_reader *r, const struct operation *o, upb_StringView end,
                       etcdserverpb_RequestOp *op)
{
    etcdserverpb_DeleteRangeRequest *m =
        etcdserverpb_RequestOp_mutable_request_delete_range(op, r->arena);
    etcdserverpb_DeleteRangeRequest_set_key(m, o->words[1]);
    etcdserverpb_DeleteRangeRequest_set_range_end(m, end);
    etcdserverpb_DeleteRangeRequest_set_prev_kv(m, o->prev_kv);
    return o->lease == 0 && o->limit == 0 && o->revision == 0 && !o->keys_only && !o->count_only;
}

static enum thole_code set_range(struct kv_txn_reader *r, struct operation *o, bool get,
                                 etcdserverpb_RequestOp *op, struct thole_status *st)
{
    upb_StringView end = o->count > 2 ? o->words[2] : KV_NONE;
    if (o->count < 2 || o->count > 3 || (o->prefix && o->from_key) ||
        (o->count == 3 && (o->prefix || o->from_key))) {
        return WRONG(r, st, "usage: %s KEY [END] [--prefix|--from-key]", get ? "get" : "del");
    }
    if (o->prefix) {
        end = kv_prefix_end(r->arena, o->words[1]);
    } else if (o->from_key) {
        end = kv_no_end;
    }
    if (o->words[1].size == 0 && (o->prefix || o->from_key)) {
        o->words[1] = kv_no_end;
    }
    bool ok = get ? set_get(r, o, end, op) : set_delete(r, o, end, op);
    return ok ? THOLE_OK : WRONG(r, st, "%s has no such option", get ? "get" : "del");
}

static bool no_range(const struct operation *o)
{
    return !o->prefix && !o->from_key && !o->keys_only && !o->count_only && o->limit == 0 &&
           o->revision == 0;
}

static enum thole_code set_put(struct kv_txn_reader *r, const struct operation *o,
                               etcdserverpb_RequestOp *op, struct thole_status *st)
{
    etcdserverpb_PutRequest *m = etcdserverpb_RequestOp_mutable_request_put(op, r->arena);
    if (o->count != 3 || !no_range(o)) {
        return WRONG(r, st,
                     "usage: put KEY VALUE [--lease=ID] [--prev-kv]; quote a value with "
                     "blanks");
    }
    etcdserverpb_PutRequest_set_key(m, o->words[1]);
    etcdserverpb_PutRequest_set_value(m, o->words[2]);
    etcdserverpb_PutRequest_set_lease(m, o->lease);
    etcdserverpb_PutRequest_set_prev_kv(m, o->prev_kv);
    return THOLE_OK;
}

/* *ret_known: it is one of these verbs. */
static enum thole_code set_modify(struct kv_txn_reader *r, const struct operation *o,
                                  etcdserverpb_RequestOp *op, bool *ret_known,
                                  struct thole_status *st)
{
    static const char *const verbs[] = {"add", "min", "max", "append"};
    size_t verb = 0;
    int64_t number = 0;
    while (verb < 4 && !word_is(o->words[0], verbs[verb])) {
        verb++;
    }
    *ret_known = verb < 4;
    if (!*ret_known) {
        return THOLE_OK;
    }
    if (o->count != 3 || !no_range(o) || o->lease != 0 || o->prev_kv ||
        (verb < 3 && !to_number(o->words[2], &number))) {
        return WRONG(r, st, "usage: %s KEY %s", verbs[verb], verb < 3 ? "NUMBER" : "TEXT");
    }
    thole_kv_v1_ModifyRequest *m = etcdserverpb_RequestOp_mutable_request_modify(op, r->arena);
    thole_kv_v1_ModifyRequest_set_key(m, o->words[1]);
    switch (verb) {
    case 0:
        thole_kv_v1_ModifyRequest_set_add(m, number);
        break;
    case 1:
        thole_kv_v1_ModifyRequest_set_min(m, number);
        break;
    case 2:
        thole_kv_v1_ModifyRequest_set_max(m, number);
        break;
    default:
        thole_kv_v1_ModifyRequest_set_append(m, o->words[2]);
    }
    return THOLE_OK;
}

static enum thole_code read_operation(struct kv_txn_reader *r, upb_StringView at,
                                      struct thole_status *st)
{
    struct operation o = {0};
    bool known = true;
    enum thole_code code = split(r, at, &o, st);
    if (code != THOLE_OK) {
        return code;
    }
    etcdserverpb_RequestOp *op = r->section == KV_TXN_SUCCESS
                                     ? etcdserverpb_TxnRequest_add_success(r->txn, r->arena)
                                     : etcdserverpb_TxnRequest_add_failure(r->txn, r->arena);
    if (word_is(o.words[0], "get") || word_is(o.words[0], "del")) {
        return set_range(r, &o, word_is(o.words[0], "get"), op, st);
    }
    if (word_is(o.words[0], "put")) {
        return set_put(r, &o, op, st);
    }
    code = set_modify(r, &o, op, &known, st);
    return known ? code
                 : WRONG(r, st,
                         "operations are get, put, del, add, min, max and append, not "
                         "\"%.*s\"",
                         CLI_SV(o.words[0]));
}

/* ---- Lines ----------------------------------------------------------------------------------- */

void kv_txn_reader_init(struct kv_txn_reader *r, upb_Arena *arena)
{
    *r = (struct kv_txn_reader){.arena = arena, .txn = etcdserverpb_TxnRequest_new(arena)};
}

enum thole_code kv_txn_read_line(struct kv_txn_reader *r, struct slice line,
                                 struct thole_status *st)
{
    upb_StringView at = {(const char *)line.data, line.size};
    r->line++;
    skip_blanks(&at);
    if (at.size == 0) {
        r->section += r->section != KV_TXN_END;
        return THOLE_OK;
    }
    if (r->section == KV_TXN_END) {
        return WRONG(r, st, "a transaction has three parts, each ended by an empty line");
    }
    return r->section == KV_TXN_COMPARES ? read_compare(r, at, st) : read_operation(r, at, st);
}
