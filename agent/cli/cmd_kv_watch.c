/* `thole kv watch`: the changes of a kv shard from a revision on. They are read page by page
 * (EventsRequest), and Data.Watch only says that there are more. So nothing is lost or repeated
 * when a watch ends, a host fails, or the output is slow. */
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "agent/cli/cmd_data.h"
#include "agent/cli/cmd_kv.h"
#include "base/clock.h"
#include "bus/bus.h"
#include "proto/decode.h"

struct kv_watch {
    struct cli *c;
    struct kv_target target;
    thole_kv_v1_Query *query; /* of the next page */
    uint64_t index;           /* in the log, of the last page */
    uint64_t left;            /* events, see --count */
    struct bus_stream *stream;
};

/* CLI_OK, or the exit code of a failure that was reported. */
static int set_keys(struct cli *c, thole_kv_v1_EventsRequest *m)
{
    upb_StringView key = KV_NONE, end = KV_NONE;
    int code = kv_range_arguments(c, true, &key, &end);

    thole_kv_v1_EventsRequest_set_key(m, key);
    thole_kv_v1_EventsRequest_set_range_end(m, end);
    thole_kv_v1_EventsRequest_set_prev_kv(m, cli_flag(c, OPT_PREV_KV));
    thole_kv_v1_EventsRequest_set_start_revision(m, (int64_t)cli_number(c, OPT_REV));
    return code;
}

static void show_page(struct kv_watch *w, const thole_kv_v1_EventsResponse *page)
{
    size_t n = 0;
    const mvccpb_Event *const *events = thole_kv_v1_EventsResponse_events(page, &n);

    for (size_t i = 0; i < n && w->left > 0; i++) {
        kv_show_decoded(w->c, events[i]);
        w->left = fflush(stdout) == 0 ? w->left - 1 : 0;
    }
}

/* One page. `*ret_more`: the next one can be read at once. */
static int read_page(struct kv_watch *w, bool *ret_more)
{
    thole_kv_v1_EventsRequest *m = thole_kv_v1_Query_mutable_events(w->query, w->c->arena);
    const thole_kv_v1_EventsResponse *page = NULL;
    struct slice data = {0};
    int code = kv_query(w->c, &w->target, w->query, &data, &w->index);

    if (code != CLI_OK) {
        return code;
    }
    page = PROTO_DECODE(thole_kv_v1_EventsResponse, data, w->c->arena);
    if (page == NULL) {
        return kv_undecodable();
    }
    int64_t compacted = thole_kv_v1_EventsResponse_compact_revision(page);
    int64_t current = thole_kv_v1_EventsResponse_current_revision(page);
    bool from_now = thole_kv_v1_EventsRequest_start_revision(m) == 0;
    if (compacted != 0 && !from_now) {
        return cli__say_failed("revision %" PRIi64 " is compacted; watch from %" PRIi64 " on",
                               thole_kv_v1_EventsRequest_start_revision(m), compacted);
    }
    int64_t next = thole_kv_v1_EventsResponse_next_revision(page);
    if (from_now) {
        next = current + 1;
        cli__note("watching from revision %" PRIi64, next);
    } else {
        show_page(w, page);
    }
    thole_kv_v1_EventsRequest_set_start_revision(m, next);
    thole_kv_v1_EventsRequest_set_start_sub(m, thole_kv_v1_EventsResponse_next_sub(page));
    *ret_more = next <= current;
    return CLI_OK;
}

/* Pages up to the end of the history. Their memory is given back after each. */
static int read_pages(struct kv_watch *w)
{
    upb_Arena *const arena = w->c->arena;
    bool more = true;
    int code = CLI_OK;

    while (more && w->left > 0 && code == CLI_OK) {
        w->c->arena = upb_Arena_New();
        code = read_page(w, &more);
        upb_Arena_Free(w->c->arena);
        w->c->arena = arena;
    }
    return code;
}

/* Wait until the shard has applied more than the last page has. */
static enum thole_code await(struct kv_watch *w, struct slice request, struct thole_status *st)
{
    enum thole_code code = THOLE_OK;
    bool more = false;

    if (w->stream == NULL) {
        code = bus_channel_stream(w->c->channel, "/thole.v1.Data/Watch", request, &w->stream, st);
    }
    while (code == THOLE_OK && !more) {
        struct buf *b = NULL;
        code = bus_stream_next(w->stream, 24 * 3600 * 1000, &b, st);
        if (code != THOLE_OK) {
            break;
        }
        upb_Arena *arena = upb_Arena_New();
        const thole_v1_WatchResponse *m =
            PROTO_DECODE(thole_v1_WatchResponse, slice_of(b->data, b->size), arena);
        more = m == NULL || thole_v1_WatchResponse_index(m) > w->index;
        upb_Arena_Free(arena);
        buf_unref(b);
    }
    if (code != THOLE_OK) {
        bus_stream_free(w->stream);
        w->stream = NULL;
    }
    return code;
}

static int follow(struct kv_watch *w)
{
    struct thole_status st;
    size_t size = 0;
    thole_v1_WatchRequest *m = thole_v1_WatchRequest_new(w->c->arena);
    thole_v1_WatchRequest_set_shard(m, cli__sv(w->target.shard));
    thole_v1_WatchRequest_set_key(m, w->target.key);
    char *request = thole_v1_WatchRequest_serialize(m, w->c->arena, &size);
    int code = read_pages(w);

    while (code == CLI_OK && w->left > 0) {
        if (await(w, slice_of(request, size), &st) != THOLE_OK) {
            if (!cli__worth_a_retry(&st) && st.reason != THOLE_REASON_OUTCOME_UNKNOWN) {
                return cli__say_status("the watch ended", &st);
            }
            /* The query of the next page fails if the hosts stay away. */
            cli__pause_ms(200);
        }
        code = read_pages(w);
    }
    return code;
}

int cli__command_kv_watch(struct cli *c)
{
    struct kv_watch w = {
        .c = c,
        .query = thole_kv_v1_Query_new(c->arena),
        .left = cli_given(c, OPT_COUNT) ? cli_number(c, OPT_COUNT) : UINT64_MAX,
    };
    int code = set_keys(c, thole_kv_v1_Query_mutable_events(w.query, c->arena));

    if (code == CLI_OK) {
        code = kv_find_target(c, KV_NONE, &w.target);
    }
    if (code == CLI_OK) {
        code = follow(&w);
    }
    bus_stream_free(w.stream);
    return code == CLI_OK ? cli__flush() : code;
}
