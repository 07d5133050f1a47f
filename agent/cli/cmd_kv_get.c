/* `thole kv get` and `history`: keys of a shard as they are or were, and the changes of one key. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "agent/cli/cmd_kv.h"
#include "etcd/kv.upbdefs.h"
#include "etcd/rpc.upbdefs.h"
#include "proto/decode.h"

#define RANGE_PAGE 1000

/* ---- get ------------------------------------------------------------------------------------- */

static const char *const targets[] = {"key", "version", "create", "modify", "value"};

/* CLI_OK, or the exit code of a failure that was reported. */
static int read_range(struct cli *c, etcdserverpb_RangeRequest *m)
{
    const char *order = cli_text(c, OPT_ORDER), *by = cli_text(c, OPT_SORT_BY);
    upb_StringView key = KV_NONE, end = KV_NONE;
    int code = kv_range_arguments(c, true, &key, &end);
    int32_t target = etcdserverpb_RangeRequest_KEY;

    for (size_t i = 0; by != NULL && i < sizeof targets / sizeof targets[0]; i++) {
        target = strcmp(targets[i], by) == 0 ? (int32_t)i : target;
    }
    if (order != NULL || by != NULL) {
        etcdserverpb_RangeRequest_set_sort_order(m, order != NULL && strcmp(order, "descend") == 0
                                                        ? etcdserverpb_RangeRequest_DESCEND
                                                        : etcdserverpb_RangeRequest_ASCEND);
    }
    etcdserverpb_RangeRequest_set_sort_target(m, target);
    etcdserverpb_RangeRequest_set_key(m, key);
    etcdserverpb_RangeRequest_set_range_end(m, end);
    etcdserverpb_RangeRequest_set_revision(m, (int64_t)cli_number(c, OPT_REV));
    etcdserverpb_RangeRequest_set_keys_only(m, cli_flag(c, OPT_KEYS_ONLY));
    etcdserverpb_RangeRequest_set_count_only(m, cli_flag(c, OPT_COUNT_ONLY));
    return code;
}

static int ask(struct cli *c, const struct kv_target *t, const etcdserverpb_RangeRequest *range,
               const etcdserverpb_RangeResponse **ret)
{
    struct slice data = {0};
    thole_kv_v1_Query *q = thole_kv_v1_Query_new(c->arena);
    thole_kv_v1_Query_set_range(q, (etcdserverpb_RangeRequest *)range);
    int code = kv_query(c, t, q, &data, NULL);
    if (code != CLI_OK) {
        return code;
    }
    *ret = PROTO_DECODE(etcdserverpb_RangeResponse, data, c->arena);
    return *ret != NULL ? CLI_OK : kv_undecodable();
}

static int get_count(struct cli *c, const struct kv_target *t, const etcdserverpb_RangeRequest *m)
{
    const etcdserverpb_RangeResponse *answer = NULL;
    int code = ask(c, t, m, &answer);
    if (code != CLI_OK) {
        return code;
    }
    if (!cli_data_shown(c, answer, etcdserverpb_RangeResponse_getmsgdef(c->pool))) {
        cli__line("%" PRIi64, etcdserverpb_RangeResponse_count(answer));
    }
    return cli__flush();
}

static int get_one(struct cli *c, const struct kv_target *t, const etcdserverpb_RangeRequest *m)
{
    const etcdserverpb_RangeResponse *answer = NULL;
    int code = ask(c, t, m, &answer);
    if (code != CLI_OK) {
        return code;
    }
    size_t n = 0;
    const mvccpb_KeyValue *const *items = etcdserverpb_RangeResponse_kvs(answer, &n);
    if (n == 0) {
        (void)cli__say_failed("there is no such key: %s", c->args[1]);
        return CLI_NOT_FOUND;
    }
    bool value = cli__format(c) == FORMAT_TABLE && !cli_flag(c, OPT_KEYS_ONLY);
    if (cli_data_shown(c, items[0], mvccpb_KeyValue_getmsgdef(c->pool))) {
        return cli__flush();
    }
    if (!value) {
        struct kv_list list = {.c = c, .keys_only = cli_flag(c, OPT_KEYS_ONLY)};
        kv_list_add(&list, items, 1);
        return kv_list_end(&list);
    }
    if (cli_flag(c, OPT_HEX)) {
        struct bytes out = {0};
        kv_escape(mvccpb_KeyValue_value(items[0]), true, &out);
        cli_data_print((upb_StringView){(const char *)out.data, out.size}, false, true);
        bytes_deinit(&out);
    } else {
        cli_data_print(mvccpb_KeyValue_value(items[0]), false, true);
    }
    return cli__flush();
}

/* The key that follows `key` in order: the key and a zero byte. */
static upb_StringView next_key(struct cli *c, upb_StringView key)
{
    char *next = upb_Arena_Malloc(c->arena, key.size + 1);
    memcpy(next, key.data, key.size);
    next[key.size] = '\0';
    return (upb_StringView){next, key.size + 1};
}

/* Page by page, all of the revision of the first. Another order than that of keys is made by the
 * shard, in one answer. */
static int get_many(struct cli *c, const struct kv_target *t, etcdserverpb_RangeRequest *m)
{
    struct kv_list list = {.c = c, .keys_only = cli_flag(c, OPT_KEYS_ONLY)};
    bool paged = etcdserverpb_RangeRequest_sort_order(m) == etcdserverpb_RangeRequest_NONE;
    uint64_t left = cli_given(c, OPT_LIMIT) ? cli_number(c, OPT_LIMIT) : UINT64_MAX;
    uint64_t page = paged ? RANGE_PAGE : INT64_MAX;
    bool more = left > 0;
    int code = CLI_OK;

    while (more && code == CLI_OK) {
        const etcdserverpb_RangeResponse *answer = NULL;
        etcdserverpb_RangeRequest_set_limit(m, (int64_t)(left < page ? left : page));
        code = ask(c, t, m, &answer);
        if (code != CLI_OK) {
            break;
        }
        size_t n = 0;
        const mvccpb_KeyValue *const *items = etcdserverpb_RangeResponse_kvs(answer, &n);
        const etcdserverpb_ResponseHeader *header = etcdserverpb_RangeResponse_header(answer);
        kv_list_add(&list, items, n);
        if (etcdserverpb_RangeRequest_revision(m) == 0 && header != NULL) {
            etcdserverpb_RangeRequest_set_revision(m, etcdserverpb_ResponseHeader_revision(header));
        }
        left -= n < left ? n : left;
        more = etcdserverpb_RangeResponse_more(answer) && n > 0 && left > 0;
        if (more) {
            etcdserverpb_RangeRequest_set_key(m, next_key(c, mvccpb_KeyValue_key(items[n - 1])));
        }
    }
    if (code != CLI_OK) {
        bytes_deinit(&list.document);
        return code;
    }
    return kv_list_end(&list);
}

int cli__command_kv_get(struct cli *c)
{
    struct kv_target t;
    etcdserverpb_RangeRequest *m = etcdserverpb_RangeRequest_new(c->arena);
    int code = read_range(c, m);
    bool one = etcdserverpb_RangeRequest_range_end(m).size == 0;
    if (code == CLI_OK) {
        code = kv_find_target(c, one ? etcdserverpb_RangeRequest_key(m) : KV_NONE, &t);
    }
    if (code != CLI_OK) {
        return code;
    }
    return cli_flag(c, OPT_COUNT_ONLY) ? get_count(c, &t, m)
           : one                       ? get_one(c, &t, m)
                                       : get_many(c, &t, m);
}

/* ---- history --------------------------------------------------------------------------------- */

struct history {
    struct cli *c;
    struct kv_target target;
    upb_StringView key;
    struct bytes document; /* with -o json and yaml: one list */
    size_t shown;
};

static void add_event(struct history *h, const mvccpb_Event *event)
{
    struct cli *c = h->c;
    h->shown++;
    if (cli__is_document(c)) {
        bytes_append_str(&h->document, h->document.size > 0 ? ",\n " : "");
        cli__json(event, mvccpb_Event_getmsgdef(c->pool), &h->document);
    } else {
        kv_show_decoded(c, event);
    }
}

/* What the key was at the compacted revision, if it was changed before that: the changes from there
 * on lack it. */
static int add_oldest(struct history *h, int64_t compacted)
{
    struct cli *c = h->c;
    const etcdserverpb_RangeResponse *answer = NULL;
    etcdserverpb_RangeRequest *m = etcdserverpb_RangeRequest_new(c->arena);
    etcdserverpb_RangeRequest_set_key(m, h->key);
    etcdserverpb_RangeRequest_set_revision(m, compacted);
    int code = compacted > 0 ? ask(c, &h->target, m, &answer) : CLI_OK;
    if (code != CLI_OK || answer == NULL) {
        return code;
    }
    size_t n = 0;
    const mvccpb_KeyValue *const *items = etcdserverpb_RangeResponse_kvs(answer, &n);
    if (n > 0 && mvccpb_KeyValue_mod_revision(items[0]) < compacted) {
        mvccpb_Event *event = mvccpb_Event_new(c->arena);
        mvccpb_Event_set_kv(event, (mvccpb_KeyValue *)items[0]);
        add_event(h, event);
    }
    return CLI_OK;
}

/* The changes from a revision on, page by page. */
static int add_changes(struct history *h, int64_t revision)
{
    struct cli *c = h->c;
    thole_kv_v1_Query *q = thole_kv_v1_Query_new(c->arena);
    thole_kv_v1_EventsRequest *m = thole_kv_v1_Query_mutable_events(q, c->arena);
    bool more = true;
    thole_kv_v1_EventsRequest_set_key(m, h->key);
    thole_kv_v1_EventsRequest_set_start_revision(m, revision);
    while (more) {
        struct slice data = {0};
        size_t n = 0;
        int code = kv_query(c, &h->target, q, &data, NULL);
        if (code != CLI_OK) {
            return code;
        }
        const thole_kv_v1_EventsResponse *page =
            PROTO_DECODE(thole_kv_v1_EventsResponse, data, c->arena);
        if (page == NULL) {
            return kv_undecodable();
        }
        if (thole_kv_v1_EventsResponse_compact_revision(page) != 0) {
            return cli__say_failed("the shard was compacted meanwhile; run the command again");
        }
        const mvccpb_Event *const *events = thole_kv_v1_EventsResponse_events(page, &n);
        for (size_t i = 0; i < n; i++) {
            add_event(h, events[i]);
        }
        int64_t next = thole_kv_v1_EventsResponse_next_revision(page);
        thole_kv_v1_EventsRequest_set_start_revision(m, next);
        thole_kv_v1_EventsRequest_set_start_sub(m, thole_kv_v1_EventsResponse_next_sub(page));
        more = next <= thole_kv_v1_EventsResponse_current_revision(page);
    }
    return CLI_OK;
}

static int show_history(struct history *h)
{
    struct cli *c = h->c;
    struct slice data = {0};
    thole_kv_v1_Query *q = thole_kv_v1_Query_new(c->arena);
    (void)thole_kv_v1_Query_mutable_status(q, c->arena);
    int code = kv_query(c, &h->target, q, &data, NULL);
    if (code != CLI_OK) {
        return code;
    }
    const thole_kv_v1_StoreStatus *m = PROTO_DECODE(thole_kv_v1_StoreStatus, data, c->arena);
    if (m == NULL) {
        return kv_undecodable();
    }
    int64_t compacted = thole_kv_v1_StoreStatus_compact_revision(m);
    code = add_oldest(h, compacted);
    return code == CLI_OK ? add_changes(h, compacted > 0 ? compacted : 1) : code;
}

int cli__command_kv_history(struct cli *c)
{
    struct history h = {.c = c};
    int code = kv_key_argument(c, 1, &h.key);
    if (code == CLI_OK && h.key.size == 0) {
        code = cli__say_usage(c, "KEY is empty");
    }
    if (code == CLI_OK) {
        code = kv_find_target(c, h.key, &h.target);
    }
    if (code == CLI_OK) {
        code = show_history(&h);
    }
    if (code == CLI_OK && h.shown == 0) {
        (void)cli__say_failed("no revision of this key is kept: %s", c->args[1]);
        code = CLI_NOT_FOUND;
    }
    if (code == CLI_OK) {
        kv_print_document(c, &h.document);
        code = cli__flush();
    }
    bytes_deinit(&h.document);
    return code;
}
