/* Range. Options work in etcd's order: collect, leave out by revision, sort, cut.
 *
 * The answer is whole, or in pieces: then each piece is a RangeResponse, and so are all pieces
 * together, one after the other. The first has the header, the last `more` and `count`. */
#include <stdlib.h>

#include "proto/decode.h"
#include "shards/machine/kv/kv_internal.h"

enum { RANGE_KVS = 2, RANGE_MORE = 3, RANGE_COUNT = 4 };

#define RANGE_BYTES_MAX (LIMIT_RESULT_BYTES + 1) /* is too large already */

struct range {
    const struct kv_reader *r;
    const etcdserverpb_RangeRequest *m;
    struct kv_keys keys;
    int64_t revision;
    int64_t limit; /* 0: none */
    bool keys_only, count_only, filtered, sorted, sort_after_cut;
    bool counted; /* `count` is known without a scan */
    int64_t count, matched, walked;
    struct kv_scan *scan; /* NULL: not needed */
    struct bytes scratch;
    /* Sorted answers */
    struct arena *arena;
    struct kv_item *items;
    size_t item_count, item_capacity;
};

static bool left_out(const etcdserverpb_RangeRequest *m, const struct kv_item *item)
{
    int64_t min_mod = etcdserverpb_RangeRequest_min_mod_revision(m);
    int64_t max_mod = etcdserverpb_RangeRequest_max_mod_revision(m);
    int64_t min_create = etcdserverpb_RangeRequest_min_create_revision(m);
    int64_t max_create = etcdserverpb_RangeRequest_max_create_revision(m);

    return (min_mod != 0 && item->mod < min_mod) || (max_mod != 0 && item->mod > max_mod) ||
           (min_create != 0 && item->create < min_create) ||
           (max_create != 0 && item->create > max_create);
}

static void append_item(struct range *g, const struct kv_item *item, struct bytes *out)
{
    if (!g->keys_only) {
        kv__wire_message(out, RANGE_KVS, item->encoded);
        return;
    }
    struct kv_item key = *item;
    key.value = (struct slice){0};
    bytes_clear(&g->scratch);
    kv__wire_item(&g->scratch, &key);
    kv__wire_message(out, RANGE_KVS, bytes_slice(&g->scratch));
}

static void remember(struct range *g, const struct kv_item *item)
{
    if (g->item_count == g->item_capacity) {
        g->item_capacity = g->item_capacity * 2 + 16;
        g->items = xrealloc(g->items, g->item_capacity * sizeof *g->items);
    }
    struct kv_item *copy = &g->items[g->item_count++];
    *copy = *item;
    copy->encoded = arena_copy(g->arena, item->encoded);
    /* It decoded before. Its slices must point into the copy. */
    (void)kv__wire_item_decode(copy->encoded, copy);
}

/* ---- Order ----------------------------------------------------------------------------------- */

static int by_key(const void *a, const void *b)
{
    return slice_compare(((const struct kv_item *)a)->key, ((const struct kv_item *)b)->key);
}

/* Equal items stay in the order of their keys, so that every replica answers the same. */
#define BY(name, expression)                                       \
    static int by_##name(const void *pa, const void *pb)           \
    {                                                              \
        const struct kv_item *a = pa, *b = pb;                     \
        int order = (expression);                                  \
        return order != 0 ? order : slice_compare(a->key, b->key); \
    }
BY(version, kv__compare_i64(a->version, b->version))
BY(create, kv__compare_i64(a->create, b->create))
BY(mod, kv__compare_i64(a->mod, b->mod))
BY(value, slice_compare(a->value, b->value))
BY(version_down, kv__compare_i64(b->version, a->version))
BY(create_down, kv__compare_i64(b->create, a->create))
BY(mod_down, kv__compare_i64(b->mod, a->mod))
BY(value_down, slice_compare(b->value, a->value))
#undef BY
static int by_key_down(const void *a, const void *b)
{
    return by_key(b, a);
}

static void sort_items(struct range *g)
{
    static int (*const up[])(const void *, const void *) = {by_key, by_version, by_create, by_mod,
                                                            by_value};
    static int (*const down[])(const void *, const void *) = {
        by_key_down, by_version_down, by_create_down, by_mod_down, by_value_down};
    int target = etcdserverpb_RangeRequest_sort_target(g->m);
    bool descend = etcdserverpb_RangeRequest_sort_order(g->m) == etcdserverpb_RangeRequest_DESCEND;

    if (g->item_count > 0) {
        qsort(g->items, g->item_count, sizeof *g->items, descend ? down[target] : up[target]);
    }
}

/* ---- Collecting ------------------------------------------------------------------------------ */

/* Whether the answer needs no more items, if the count is known otherwise. */
static bool enough(const struct range *g)
{
    return g->limit != 0 && g->matched > g->limit;
}

static void walk_begin(struct range *g)
{
    bool with_values = !g->count_only &&
                       (!g->keys_only || g->filtered || g->sorted || g->revision < g->r->revision);

    /* Without order and bounds, etcd reads one item beyond the limit and sorts those. */
    g->sort_after_cut =
        g->sorted && !g->filtered &&
        etcdserverpb_RangeRequest_sort_order(g->m) == etcdserverpb_RangeRequest_NONE;
    g->counted = !g->keys.one && kv__count(g->r, &g->keys, g->revision, &g->count);
    if (!g->counted || !g->count_only) {
        g->scan = kv__scan_new(g->r, &g->keys, g->revision, with_values);
    }
}

static void take(struct range *g, const struct kv_item *item, struct bytes *out)
{
    g->walked++;
    if (g->count_only || (g->filtered && left_out(g->m, item))) {
        return;
    }
    g->matched++;
    if (g->sorted && !(g->sort_after_cut && g->limit != 0 && g->matched > g->limit + 1)) {
        remember(g, item);
    } else if (!g->sorted && !enough(g)) {
        append_item(g, item, out);
    }
}

/* Returns false at the end. Stops after `items`, or once `out` has `bytes`. */
static bool walk(struct range *g, size_t items, size_t bytes, struct bytes *out)
{
    struct kv_item item;

    while (g->scan != NULL && items-- > 0 && out->size < bytes) {
        if (!kv__scan_next(g->scan, &item)) {
            return false;
        }
        take(g, &item, out);
        if (g->counted && enough(g) && (!g->sorted || g->sort_after_cut)) {
            return false;
        }
    }
    return g->scan != NULL;
}

static void append_sorted(struct range *g, struct bytes *out)
{
    size_t n = g->item_count;

    sort_items(g);
    if (g->limit != 0 && n > (uint64_t)g->limit) {
        n = (size_t)g->limit;
    }
    for (size_t i = 0; i < n; i++) {
        append_item(g, &g->items[i], out);
    }
}

static enum thole_code walk_end(struct range *g, struct bytes *out, struct thole_status *st)
{
    enum thole_code code = g->scan != NULL ? kv__scan_status(g->scan, st) : THOLE_OK;

    if (!g->counted) {
        g->count = g->walked;
    }
    if (!g->counted && !g->sorted && (g->count_only || enough(g))) {
        kv__count_scanned(g->r, g->walked - (g->count_only ? 0 : g->limit));
    }
    if (g->sorted) {
        append_sorted(g, out);
    }
    kv__wire_number(out, RANGE_MORE, enough(g));
    kv__wire_number(out, RANGE_COUNT, (uint64_t)g->count);
    return code;
}

/* ---- Whole answers --------------------------------------------------------------------------- */

static void range_init(struct range *g, const struct kv_reader *r,
                       const etcdserverpb_RangeRequest *m)
{
    int64_t revision = etcdserverpb_RangeRequest_revision(m);
    int64_t limit = etcdserverpb_RangeRequest_limit(m);

    *g = (struct range){
        .r = r,
        .m = m,
        .keys = kv__keys(etcdserverpb_RangeRequest_key(m), etcdserverpb_RangeRequest_range_end(m)),
        .revision = revision > 0 ? revision : r->revision,
        .limit = limit > 0 ? limit : 0,
        .keys_only = etcdserverpb_RangeRequest_keys_only(m),
        .count_only = etcdserverpb_RangeRequest_count_only(m),
        .filtered = etcdserverpb_RangeRequest_min_mod_revision(m) != 0 ||
                    etcdserverpb_RangeRequest_max_mod_revision(m) != 0 ||
                    etcdserverpb_RangeRequest_min_create_revision(m) != 0 ||
                    etcdserverpb_RangeRequest_max_create_revision(m) != 0,
        /* Keys come in ascending order anyway. */
        .sorted = etcdserverpb_RangeRequest_sort_target(m) != etcdserverpb_RangeRequest_KEY ||
                  etcdserverpb_RangeRequest_sort_order(m) == etcdserverpb_RangeRequest_DESCEND,
    };
    g->arena = g->sorted ? arena_new() : NULL;
}

static void range_deinit(struct range *g)
{
    kv__scan_free(g->scan);
    if (g->arena != NULL) {
        arena_free(g->arena);
    }
    free(g->items);
    bytes_deinit(&g->scratch);
}

static const struct kv_refusal *refusal_of(const struct range *g)
{
    return g->revision > g->r->revision           ? &kv__future
           : g->revision < g->r->state->compacted ? &kv__compacted
                                                  : NULL;
}

enum thole_code kv__range(const struct kv_reader *r, const etcdserverpb_RangeRequest *m,
                          struct bytes *out, const struct kv_refusal **ret_refusal,
                          struct thole_status *st)
{
    enum thole_code code = THOLE_OK;
    struct range g;

    range_init(&g, r, m);
    *ret_refusal = refusal_of(&g);
    if (*ret_refusal == NULL) {
        kv__wire_header(out, r->revision);
        walk_begin(&g);
        /* An unsorted answer stops at the limit. */
        if (walk(&g, SIZE_MAX, RANGE_BYTES_MAX, out)) {
            *ret_refusal = &kv__too_large;
        } else {
            code = walk_end(&g, out, st);
        }
    }
    range_deinit(&g);
    return code;
}

/* ---- Answers in pieces ----------------------------------------------------------------------- */

/* Bounds the work of one call, if few items are answered. */
#define PIECE_ITEMS_MAX 20000

struct range_reader {
    struct kv_reader r;
    upb_Arena *arena; /* of the query, with a copy of its bytes */
    struct range g;
    bool begun;
};

enum thole_code kv__read_open(void *machine, const void *view, struct thole_slice query,
                              void **ret_reader, struct thole_status *st)
{
    const struct kv_view *v = view;
    const uint8_t *in = query.data;
    enum thole_code code = THOLE_OK;

    if (query.size == 0 || in[0] != KV_PROTO_BYTE) {
        return THOLE_OK;
    }
    upb_Arena *arena = upb_Arena_New();
    const thole_kv_v1_Query *q =
        PROTO_DECODE(thole_kv_v1_Query, slice_of(in + 1, query.size - 1), arena);
    if (q == NULL || thole_kv_v1_Query_op_case(q) != thole_kv_v1_Query_op_range) {
        upb_Arena_Free(arena);
        return THOLE_OK;
    }
    struct range_reader *p = xcalloc(1, sizeof *p);
    const etcdserverpb_RangeRequest *m = thole_kv_v1_Query_range(q);
    p->arena = arena;
    p->r = (struct kv_reader){
        .kv = machine, .view = v->db, .state = &v->state, .revision = v->state.revision};
    range_init(&p->g, &p->r, m);
    const struct kv_refusal *refusal = NULL;
    code = kv__admit_query(&p->r, q, &refusal, st);
    refusal = refusal != NULL ? refusal : refusal_of(&p->g);
    if (code == THOLE_OK && refusal != NULL) {
        code = THOLE_FAIL(st, refusal->code, THOLE_REASON_NONE, "%s", refusal->text);
    }
    if (code != THOLE_OK || p->g.sorted) { /* sorting needs all of it: `query` answers */
        kv__read_close(machine, p);
        return code;
    }
    *ret_reader = p;
    return THOLE_OK;
}

enum thole_code kv__read_next(void *machine, void *reader, size_t bytes, struct thole_sink *piece,
                              bool *ret_end, struct thole_status *st)
{
    struct range_reader *p = reader;
    struct bytes out = {0};
    enum thole_code code = THOLE_OK;

    (void)machine;
    if (!p->begun) {
        p->begun = true;
        kv__wire_header(&out, p->r.revision);
        walk_begin(&p->g);
    }
    if (!walk(&p->g, PIECE_ITEMS_MAX, bytes, &out)) {
        *ret_end = true;
        code = walk_end(&p->g, &out, st);
    }
    if (code == THOLE_OK && out.size > 0) {
        code = piece->write(piece, out.data, out.size);
    }
    bytes_deinit(&out);
    return code;
}

void kv__read_close(void *machine, void *reader)
{
    struct range_reader *p = reader;

    (void)machine;
    range_deinit(&p->g);
    upb_Arena_Free(p->arena);
    free(p);
}
