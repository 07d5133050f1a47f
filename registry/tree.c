/* A persistent AVL tree: each change copies the path to the root and shares the rest, so that any
 * number of versions live side by side. The height is at most 1.44 log2(n), which bounds the
 * recursion of every function here, release included: below 50 for any n that fits in memory. */
#include "registry/registry_internal.h"

#include <string.h>

int registry__key_compare(struct slice a, struct slice b)
{
    size_t size = a.size < b.size ? a.size : b.size;
    int order = size == 0 ? 0 : memcmp(a.data, b.data, size);
    if (order != 0) {
        return order;
    }
    return a.size < b.size ? -1 : a.size > b.size;
}

#define SHAPE_ANY 3

struct slice registry__node_key(const struct node *n)
{
    return n->shape == SHAPE_ANY ? slice_of(n->key + 1, n->key[0])
                                 : slice_of(n->key, 8 * (n->shape + (size_t)1));
}

static uint32_t shape_of(size_t key_size)
{
    return key_size % 8 == 0 && key_size <= 24 ? (uint32_t)(key_size / 8 - 1) : SHAPE_ANY;
}

struct node *registry__tree_ref(struct node *root)
{
    if (root != NULL) {
        atomic_fetch_add_explicit(&root->refs, 1, memory_order_relaxed);
    }
    return root;
}

void registry__tree_unref(struct node *root)
{
    /* Down the right spine by iteration, into left subtrees by recursion: bounded by the height. */
    while (root != NULL && atomic_fetch_sub_explicit(&root->refs, 1, memory_order_acq_rel) == 1) {
        struct node *right = root->right;
        registry__tree_unref(root->left);
        registry__row_unref(root->row);
        free(root);
        root = right;
    }
}

static uint32_t height(const struct node *n)
{
    return n == NULL ? 0 : n->height;
}

uint32_t registry__tree_count(const struct node *root)
{
    return root == NULL ? 0 : root->count;
}

/* Takes over `left` and `right`. */
static struct node *node_new(struct slice key, struct row *row, struct node *left,
                             struct node *right)
{
    ASSERT(key.size > 0 && key.size <= UINT8_MAX);
    uint32_t shape = shape_of(key.size);
    uint32_t count = 1 + registry__tree_count(left) + registry__tree_count(right);
    uint32_t below = height(left) > height(right) ? height(left) : height(right);
    size_t prefix = shape == SHAPE_ANY ? 1 : 0;
    struct node *n = xmalloc(sizeof(*n) + prefix + key.size);
    ASSERT(count <= REGISTRY_TREE_MAX);
    atomic_init(&n->refs, 1);
    n->row = registry__row_ref(row);
    n->left = left;
    n->right = right;
    n->count = count & REGISTRY_TREE_MAX;
    n->height = (below + 1) & 63;
    n->shape = shape & 3;
    n->key[0] = (uint8_t)key.size;
    memcpy(n->key + prefix, key.data, key.size);
    return n;
}

static struct node *rebuild(const struct node *from, struct node *left, struct node *right)
{
    return node_new(registry__node_key(from), from->row, left, right);
}

/* A node like `from` over `left` and `right` (taken over), whose heights differ by at most 2. */
static struct node *balance(const struct node *from, struct node *left, struct node *right)
{
    struct node *ret;
    if (height(left) > height(right) + 1) {
        ASSERT(left != NULL);
        struct node *inner = left->right;
        if (height(left->left) >= height(inner)) {
            struct node *low = rebuild(from, registry__tree_ref(inner), right);
            ret = rebuild(left, registry__tree_ref(left->left), low);
        } else {
            struct node *a =
                rebuild(left, registry__tree_ref(left->left), registry__tree_ref(inner->left));
            struct node *b = rebuild(from, registry__tree_ref(inner->right), right);
            ret = rebuild(inner, a, b);
        }
        registry__tree_unref(left);
        return ret;
    }
    if (height(right) > height(left) + 1) {
        ASSERT(right != NULL);
        struct node *inner = right->left;
        if (height(right->right) >= height(inner)) {
            struct node *low = rebuild(from, left, registry__tree_ref(inner));
            ret = rebuild(right, low, registry__tree_ref(right->right));
        } else {
            struct node *a = rebuild(from, left, registry__tree_ref(inner->left));
            struct node *b =
                rebuild(right, registry__tree_ref(inner->right), registry__tree_ref(right->right));
            ret = rebuild(inner, a, b);
        }
        registry__tree_unref(right);
        return ret;
    }
    return rebuild(from, left, right);
}

static struct node *put(struct node *n, struct slice key, struct row *row)
{
    if (n == NULL) {
        return node_new(key, row, NULL, NULL);
    }
    int order = registry__key_compare(key, registry__node_key(n));
    if (order == 0) {
        return node_new(key, row, registry__tree_ref(n->left), registry__tree_ref(n->right));
    }
    if (order < 0) {
        return balance(n, put(n->left, key, row), registry__tree_ref(n->right));
    }
    return balance(n, registry__tree_ref(n->left), put(n->right, key, row));
}

/* `key` is in the tree. */
static struct node *without(struct node *n, struct slice key)
{
    int order = registry__key_compare(key, registry__node_key(n));
    if (order < 0) {
        return balance(n, without(n->left, key), registry__tree_ref(n->right));
    }
    if (order > 0) {
        return balance(n, registry__tree_ref(n->left), without(n->right, key));
    }
    if (n->left == NULL) {
        return registry__tree_ref(n->right);
    }
    if (n->right == NULL) {
        return registry__tree_ref(n->left);
    }
    const struct node *next = registry__tree_first(n->right);
    return balance(next, registry__tree_ref(n->left), without(n->right, registry__node_key(next)));
}

void registry__tree_put(struct node **root, struct slice key, struct row *row)
{
    struct node *old = *root;
    *root = put(old, key, row);
    registry__tree_unref(old);
}

void registry__tree_remove(struct node **root, struct slice key)
{
    struct node *old = *root;
    if (registry__tree_get(old, key) == NULL) {
        return;
    }
    *root = without(old, key);
    registry__tree_unref(old);
}

struct row *registry__tree_get(const struct node *root, struct slice key)
{
    while (root != NULL) {
        int order = registry__key_compare(key, registry__node_key(root));
        if (order == 0) {
            return root->row;
        }
        root = order < 0 ? root->left : root->right;
    }
    return NULL;
}

const struct node *registry__tree_after(const struct node *root, struct slice key)
{
    const struct node *best = NULL;
    while (root != NULL) {
        if (registry__key_compare(registry__node_key(root), key) > 0) {
            best = root;
            root = root->left;
        } else {
            root = root->right;
        }
    }
    return best;
}

const struct node *registry__tree_before(const struct node *root, struct slice key)
{
    const struct node *best = NULL;
    while (root != NULL) {
        if (registry__key_compare(registry__node_key(root), key) < 0) {
            best = root;
            root = root->right;
        } else {
            root = root->left;
        }
    }
    return best;
}

const struct node *registry__tree_after_revision(const struct node *root, uint64_t revision)
{
    const struct node *best = NULL;
    while (root != NULL) {
        if (root->row->revision > revision) {
            best = root;
            root = root->left;
        } else {
            root = root->right;
        }
    }
    return best;
}

const struct node *registry__tree_first(const struct node *root)
{
    while (root != NULL && root->left != NULL) {
        root = root->left;
    }
    return root;
}

uint32_t registry__tree_rank(const struct node *root, struct slice key)
{
    uint32_t rank = 0;
    while (root != NULL) {
        if (registry__key_compare(registry__node_key(root), key) < 0) {
            rank += 1 + registry__tree_count(root->left);
            root = root->right;
        } else {
            root = root->left;
        }
    }
    return rank;
}

struct slice registry__key_uuid(struct key *k, const struct uuid *id)
{
    memcpy(k->bytes, id->bytes, sizeof(id->bytes));
    k->size = sizeof(id->bytes);
    return slice_of(k->bytes, k->size);
}

struct slice registry__key_u64(struct key *k, uint64_t a)
{
    put_be64(k->bytes, a);
    k->size = 8;
    return slice_of(k->bytes, k->size);
}

struct slice registry__key_u64_u64(struct key *k, uint64_t a, uint64_t b)
{
    put_be64(k->bytes, a);
    put_be64(k->bytes + 8, b);
    k->size = 16;
    return slice_of(k->bytes, k->size);
}

struct slice registry__key_uuid_u64(struct key *k, const struct uuid *id, uint64_t a)
{
    memcpy(k->bytes, id->bytes, sizeof(id->bytes));
    put_be64(k->bytes + sizeof(id->bytes), a);
    k->size = sizeof(id->bytes) + 8;
    return slice_of(k->bytes, k->size);
}
