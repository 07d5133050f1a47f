/* Range. Options work in etcd's order: collect, leave out by revision, sort, cut. */
#include <stdlib.h>

#include "shards/machine/kv/kv_internal.h"

enum { RANGE_KVS = 2, RANGE_MORE = 3, RANGE_COUNT = 4 };

struct range {
    const struct kv_reader *r;
    const etcdserverpb_RangeRequest *m;
    struct kv_keys keys;
    int64_t revision;
    int64_t limit; /* 0: none */
    bool keys_only, filtered, sorted;
    int64_t count;
    bool more;
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
static bool enough(const struct range *g, int64_t matched)
{
    return g->limit != 0 && matched > g->limit;
}

static enum thole_code walk(struct range *g, struct bytes *out, struct thole_status *st)
{
    bool count_only = etcdserverpb_RangeRequest_count_only(g->m);
    bool with_values =
        !count_only && (!g->keys_only || g->filtered || g->sorted || g->revision < g->r->revision);
    /* Without order and bounds, etcd reads one item beyond the limit and sorts those. */
    bool sort_after_cut =
        g->sorted && !g->filtered &&
        etcdserverpb_RangeRequest_sort_order(g->m) == etcdserverpb_RangeRequest_NONE;
    bool counted = !g->keys.one && kv__count(g->r, &g->keys, g->revision, &g->count);
    int64_t matched = 0, walked = 0;
    struct kv_item item;

    if (counted && count_only) {
        return THOLE_OK;
    }
    struct kv_scan *scan = kv__scan_new(g->r, &g->keys, g->revision, with_values);
    while (kv__scan_next(scan, &item)) {
        walked++;
        if (count_only || (g->filtered && left_out(g->m, &item))) {
            continue;
        }
        matched++;
        if (g->sorted && !(sort_after_cut && matched > g->limit + 1 && g->limit != 0)) {
            remember(g, &item);
        } else if (!g->sorted && !enough(g, matched)) {
            append_item(g, &item, out);
        }
        if (counted && enough(g, matched) && (!g->sorted || sort_after_cut)) {
            break;
        }
    }
    enum thole_code code = kv__scan_status(scan, st);
    kv__scan_free(scan);
    if (!counted) {
        g->count = walked;
    }
    if (!counted && !g->sorted && (count_only || enough(g, matched))) {
        kv__count_scanned(g->r, walked - (count_only ? 0 : g->limit));
    }
    g->more = enough(g, matched);
    return code;
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

enum thole_code kv__range(const struct kv_reader *r, const etcdserverpb_RangeRequest *m,
                          struct bytes *out, const struct kv_refusal **ret_refusal,
                          struct thole_status *st)
{
    int64_t revision = etcdserverpb_RangeRequest_revision(m);
    int64_t limit = etcdserverpb_RangeRequest_limit(m);
    struct range g = {
        .r = r,
        .m = m,
        .keys = kv__keys(etcdserverpb_RangeRequest_key(m), etcdserverpb_RangeRequest_range_end(m)),
        .revision = revision > 0 ? revision : r->revision,
        .limit = limit > 0 ? limit : 0,
        .keys_only = etcdserverpb_RangeRequest_keys_only(m),
        .filtered = etcdserverpb_RangeRequest_min_mod_revision(m) != 0 ||
                    etcdserverpb_RangeRequest_max_mod_revision(m) != 0 ||
                    etcdserverpb_RangeRequest_min_create_revision(m) != 0 ||
                    etcdserverpb_RangeRequest_max_create_revision(m) != 0,
    };

    *ret_refusal = g.revision > r->revision           ? &kv__future
                   : g.revision < r->state->compacted ? &kv__compacted
                                                      : NULL;
    if (*ret_refusal != NULL) {
        return THOLE_OK;
    }
    /* Keys come in ascending order anyway. */
    g.sorted = etcdserverpb_RangeRequest_sort_target(m) != etcdserverpb_RangeRequest_KEY ||
               etcdserverpb_RangeRequest_sort_order(m) == etcdserverpb_RangeRequest_DESCEND;
    g.arena = g.sorted ? arena_new() : NULL;
    kv__wire_header(out, r->revision);
    enum thole_code code = walk(&g, out, st);
    if (g.sorted) {
        append_sorted(&g, out);
        arena_free(g.arena);
        free(g.items);
    }
    kv__wire_number(out, RANGE_MORE, g.more);
    kv__wire_number(out, RANGE_COUNT, (uint64_t)g.count);
    bytes_deinit(&g.scratch);
    return code;
}
