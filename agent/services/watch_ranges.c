/* An interval tree: a treap ordered by the range's begin, where each node knows the greatest end
 * below it. Watchers of the same range share a node, so a tree of many equal watchers is small. */
#include "agent/services/watch_ranges.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

struct watch_range {
    struct watch_range *left, *right;
    uint64_t priority;
    struct watch_keys keys; /* its bytes follow the struct */
    struct watch_keys last; /* of the ranges below and this one, that which ends last */
    TAILQ_HEAD(, watch_interest) interests;
};

/* ---- Ranges of keys -------------------------------------------------------------------------- */

static int compare_ends(const struct watch_keys *a, const struct watch_keys *b)
{
    if (a->no_end || b->no_end) {
        return (int)a->no_end - (int)b->no_end;
    }
    return slice_compare(a->to, b->to);
}

static int compare(const struct watch_keys *a, const struct watch_keys *b)
{
    int c = slice_compare(a->from, b->from);

    return c != 0 ? c : compare_ends(a, b);
}

static bool ends_before(const struct watch_keys *k, struct slice key)
{
    return !k->no_end && slice_compare(k->to, key) <= 0;
}

bool services__watch_keys_contain(const struct watch_keys *k, struct slice key)
{
    return slice_compare(k->from, key) <= 0 && !ends_before(k, key);
}

struct watch_keys services__watch_keys_join(const struct watch_keys *a, const struct watch_keys *b)
{
    struct watch_keys ret = compare_ends(a, b) < 0 ? *b : *a;

    ret.from = slice_compare(a->from, b->from) < 0 ? a->from : b->from;
    return ret;
}

/* ---- The tree -------------------------------------------------------------------------------- */

static void update(struct watch_range *n)
{
    n->last = n->keys;
    if (n->left != NULL && compare_ends(&n->left->last, &n->last) > 0) {
        n->last = n->left->last;
    }
    if (n->right != NULL && compare_ends(&n->right->last, &n->last) > 0) {
        n->last = n->right->last;
    }
}

/* Divide the tree into what is before `at` and what is not. */
static void split(struct watch_range *t, const struct watch_keys *at, struct watch_range **ret_left,
                  struct watch_range **ret_right)
{
    if (t == NULL) {
        *ret_left = *ret_right = NULL;
        return;
    }
    if (compare(&t->keys, at) < 0) {
        split(t->right, at, &t->right, ret_right);
        *ret_left = t;
    } else {
        split(t->left, at, ret_left, &t->left);
        *ret_right = t;
    }
    update(t);
}

static struct watch_range *merge(struct watch_range *left, struct watch_range *right)
{
    if (left == NULL || right == NULL) {
        return left != NULL ? left : right;
    }
    if (left->priority > right->priority) {
        left->right = merge(left->right, right);
        update(left);
        return left;
    }
    right->left = merge(left, right->left);
    update(right);
    return right;
}

static struct watch_range *insert(struct watch_range *t, struct watch_range *n)
{
    if (t == NULL || n->priority > t->priority) {
        split(t, &n->keys, &n->left, &n->right);
        update(n);
        return n;
    }
    struct watch_range **side = compare(&n->keys, &t->keys) < 0 ? &t->left : &t->right;
    *side = insert(*side, n);
    update(t);
    return t;
}

static struct watch_range *detach(struct watch_range *t, const struct watch_range *n)
{
    ASSERT(t != NULL);
    if (t == n) {
        return merge(t->left, t->right);
    }
    struct watch_range **side = compare(&n->keys, &t->keys) < 0 ? &t->left : &t->right;
    *side = detach(*side, n);
    update(t);
    return t;
}

static struct watch_range *find(const struct watch_ranges *r, const struct watch_keys *keys)
{
    struct watch_range *t = r->root;

    while (t != NULL) {
        int c = compare(keys, &t->keys);
        if (c == 0) {
            break;
        }
        t = c < 0 ? t->left : t->right;
    }
    return t;
}

static struct slice copy(uint8_t *to, struct slice s)
{
    if (s.size > 0) {
        memcpy(to, s.data, s.size);
    }
    return slice_of(to, s.size);
}

void services__watch_ranges_add(struct watch_ranges *r, const struct watch_keys *keys,
                                struct watch_interest *i)
{
    struct watch_range *n = find(r, keys);

    ASSERT(i->range == NULL);
    if (n == NULL) {
        n = xcalloc(1, sizeof *n + keys->from.size + keys->to.size);
        uint8_t *bytes = (uint8_t *)(n + 1);
        n->keys.from = copy(bytes, keys->from);
        n->keys.to = copy(bytes + keys->from.size, keys->to);
        n->keys.no_end = keys->no_end;
        TAILQ_INIT(&n->interests);
        if (r->root == NULL) {
            rand_seed(&r->random, 1);
        }
        n->priority = rand_u64(&r->random);
        r->root = insert(r->root, n);
    }
    i->range = n;
    TAILQ_INSERT_TAIL(&n->interests, i, link);
}

void services__watch_ranges_remove(struct watch_ranges *r, struct watch_interest *i)
{
    struct watch_range *n = i->range;

    TAILQ_REMOVE(&n->interests, i, link);
    i->range = NULL;
    if (TAILQ_EMPTY(&n->interests)) {
        r->root = detach(r->root, n);
        free(n);
    }
}

struct watch_keys services__watch_interest_keys(const struct watch_interest *i)
{
    return i->range->keys;
}

static void match(const struct watch_range *t, struct slice key,
                  void (*found)(void *ctx, struct watch_interest *i), void *ctx)
{
    struct watch_interest *i;

    if (t == NULL || ends_before(&t->last, key)) {
        return;
    }
    match(t->left, key, found, ctx);
    if (slice_compare(t->keys.from, key) > 0) {
        return;
    }
    if (!ends_before(&t->keys, key)) {
        TAILQ_FOREACH (i, &t->interests, link) {
            found(ctx, i);
        }
    }
    match(t->right, key, found, ctx);
}

void services__watch_ranges_match(const struct watch_ranges *r, struct slice key,
                                  void (*found)(void *ctx, struct watch_interest *i), void *ctx)
{
    match(r->root, key, found, ctx);
}
