/* A persistent B+ tree: a change copies the nodes on the way to the root and shares the others, so
 * that any number of versions exist side by side. A node without another reference is changed in
 * place, so the rows that one command changes copy a path once.
 *
 * Rows are in the leaves and have their keys. An inner node has, for each child, a borrowed
 * pointer to the child's first row (which lives as long as the child) and the number of rows below
 * it. Nodes are allocated to fit their entries. A node with few entries is joined with its
 * neighbour if both fit into one. All leaves are equally deep. The height bounds every recursion
 * here, and is small. */
#include "registry/rows/row.h"

#include <string.h>

#include "base/hash.h"

#define ENTRIES_MAX 32
#define ENTRIES_FEW 10 /* joined with a neighbour, if it fits */

struct node {
    _Alignas(8) _Atomic uint32_t refs;
    uint8_t index;  /* enum registry_index: what it is ordered by */
    uint8_t height; /* 0: a leaf */
    uint16_t count; /* entries: at least one */
};

struct leaf {
    struct node node;
    struct packed *rows[];
};

struct branch {
    struct node *child;
    const struct packed *first; /* in `child` */
    uint64_t rows;
};

struct inner {
    struct node node;
    struct branch branches[];
};

static struct packed **rows_of(struct node *n)
{
    return ((struct leaf *)n)->rows;
}

static struct branch *branches_of(struct node *n)
{
    return ((struct inner *)n)->branches;
}

static const struct packed *first_of(const struct node *n, size_t i)
{
    return n->height == 0 ? ((const struct leaf *)n)->rows[i]
                          : ((const struct inner *)n)->branches[i].first;
}

static size_t entry_bytes(const struct node *n)
{
    return n->height == 0 ? sizeof(struct packed *) : sizeof(struct branch);
}

static uint8_t *entry_at(struct node *n, size_t i)
{
    return (uint8_t *)(n + 1) + i * entry_bytes(n);
}

/* ---- Nodes ----------------------------------------------------------------------------------- */

struct node *registry__tree_ref(struct node *root)
{
    if (root != NULL) {
        atomic_fetch_add_explicit(&root->refs, 1, memory_order_relaxed);
    }
    return root;
}

void registry__tree_unref(struct node *root)
{
    if (root == NULL || atomic_fetch_sub_explicit(&root->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    for (size_t i = 0; i < root->count; i++) {
        if (root->height == 0) {
            registry__packed_unref(rows_of(root)[i]);
        } else {
            registry__tree_unref(branches_of(root)[i].child);
        }
    }
    free(root);
}

/* Without entries yet. */
static struct node *node_new(uint8_t index, uint8_t height, size_t room)
{
    struct node head = {.index = index, .height = height};
    struct node *n = xmalloc(sizeof *n + room * entry_bytes(&head));
    atomic_init(&n->refs, 1);
    n->index = index;
    n->height = height;
    n->count = 0;
    return n;
}

/* Takes over a reference. The returned node has no other reference, and room for `more` entries. */
static struct node *own(struct node *n, size_t more)
{
    if (atomic_load_explicit(&n->refs, memory_order_acquire) == 1) {
        return more == 0 ? n : xrealloc(n, sizeof *n + (n->count + more) * entry_bytes(n));
    }
    struct node *copy = node_new(n->index, n->height, n->count + more);
    memcpy(entry_at(copy, 0), entry_at(n, 0), n->count * entry_bytes(n));
    copy->count = n->count;
    for (size_t i = 0; i < n->count; i++) {
        if (n->height == 0) {
            (void)registry__packed_ref(rows_of(n)[i]);
        } else {
            (void)registry__tree_ref(branches_of(n)[i].child);
        }
    }
    registry__tree_unref(n);
    return copy;
}

/* Shrinks the allocation of an owned node to its entries. */
static struct node *fit(struct node *n)
{
    return xrealloc(n, sizeof *n + n->count * entry_bytes(n));
}

/* Makes a gap at `at`. The node has room for it. */
static void open_gap(struct node *n, size_t at)
{
    ASSERT(at <= n->count && n->count <= ENTRIES_MAX);
    memmove(entry_at(n, at + 1), entry_at(n, at), (n->count - at) * entry_bytes(n));
    n->count++;
}

static void close_gap(struct node *n, size_t at)
{
    ASSERT(at < n->count);
    memmove(entry_at(n, at), entry_at(n, at + 1), (n->count - at - 1) * entry_bytes(n));
    n->count--;
}

static void set_branch(struct node *n, size_t i, struct node *child)
{
    branches_of(n)[i] = (struct branch){
        .child = child, .first = first_of(child, 0), .rows = registry__tree_count(child)};
}

/* The number of entries that are not above `key`; the last of them may be equal. */
static size_t find(const struct node *n, const struct key *key, bool *ret_equal)
{
    size_t low = 0;
    size_t high = n->count;
    *ret_equal = false;
    while (low < high) {
        size_t middle = (low + high) / 2;
        int order =
            registry__packed_compare((enum registry_index)n->index, first_of(n, middle), key);
        if (order > 0) {
            high = middle;
        } else {
            low = middle + 1;
            if (order == 0) {
                *ret_equal = true;
                break;
            }
        }
    }
    return low;
}

/* ---- Changes --------------------------------------------------------------------------------- */

struct grown {
    struct node *node;
    struct node *above; /* the second half of a split node; NULL: it was not split */
};

/* Splits a full node. If the new entry is the last, more are expected at the end: leave a full
 * node behind, so that rows that arrive in order fill the tree. */
static struct grown split(struct node *n, size_t added)
{
    size_t keep = added + 1 == n->count ? n->count - 1u : n->count / 2u;
    struct node *above = node_new(n->index, n->height, n->count - keep);
    above->count = (uint16_t)(n->count - keep);
    memcpy(entry_at(above, 0), entry_at(n, keep), above->count * entry_bytes(n));
    n->count = (uint16_t)keep;
    ASSERT(n->count > 0 && above->count > 0 && above->count <= ENTRIES_MAX);
    return (struct grown){fit(n), above};
}

static struct grown put_in_leaf(struct node *n, const struct key *key, struct packed *row)
{
    bool equal;
    size_t at = find(n, key, &equal);
    (void)registry__packed_ref(row);
    if (equal) {
        n = own(n, 0);
        registry__packed_unref(rows_of(n)[at - 1]);
        rows_of(n)[at - 1] = row;
        return (struct grown){n, NULL};
    }
    n = own(n, 1);
    open_gap(n, at);
    rows_of(n)[at] = row;
    return n->count > ENTRIES_MAX ? split(n, at) : (struct grown){n, NULL};
}

/* Takes over a reference to `n`. */
static struct grown put(struct node *n, const struct key *key, struct packed *row)
{
    if (n->height == 0) {
        return put_in_leaf(n, key, row);
    }
    bool equal;
    size_t at = find(n, key, &equal);
    at -= at > 0;
    n = own(n, 0);
    struct grown below = put(branches_of(n)[at].child, key, row);
    set_branch(n, at, below.node);
    if (below.above == NULL) {
        return (struct grown){n, NULL};
    }
    n = own(n, 1);
    open_gap(n, ++at);
    set_branch(n, at, below.above);
    return n->count > ENTRIES_MAX ? split(n, at) : (struct grown){n, NULL};
}

void registry__tree_put(struct node **root, enum registry_index index, struct packed *row)
{
    struct key key = registry__packed_key(index, row);
    if (*root == NULL) {
        *root = node_new((uint8_t)index, 0, 1);
        (*root)->count = 1;
        rows_of(*root)[0] = registry__packed_ref(row);
        return;
    }
    struct grown top = put(*root, &key, row);
    *root = top.node;
    if (top.above != NULL) {
        struct node *higher = node_new((uint8_t)index, (uint8_t)(top.node->height + 1), 2);
        higher->count = 2;
        set_branch(higher, 0, top.node);
        set_branch(higher, 1, top.above);
        *root = higher;
        ASSERT(registry__tree_count(higher) <= REGISTRY_TREE_MAX);
    }
}

/* Joins child `at` of the owned node `n` with its neighbour, if their entries fit into one node. */
static void join(struct node *n, size_t at)
{
    size_t left = at > 0 ? at - 1 : at;
    if (n->count < 2) {
        return;
    }
    struct branch *b = branches_of(n) + left;
    size_t count = b[1].child->count;
    if (b[0].child->count + count > ENTRIES_MAX) {
        return;
    }
    struct node *into = own(b[0].child, count);
    struct node *from = own(b[1].child, 0);
    memcpy(entry_at(into, into->count), entry_at(from, 0), count * entry_bytes(from));
    ASSERT(into->height == from->height && into->count + count <= ENTRIES_MAX);
    into->count = (uint16_t)(into->count + count);
    free(from);
    close_gap(n, left + 1);
    set_branch(n, left, into);
}

/* Takes over a reference to `n`, which contains the key. NULL: no entry is left. */
static struct node *without(struct node *n, const struct key *key)
{
    bool equal;
    size_t at = find(n, key, &equal) - 1;
    n = own(n, 0);
    if (n->height == 0) {
        registry__packed_unref(rows_of(n)[at]);
        close_gap(n, at);
    } else {
        struct node *child = without(branches_of(n)[at].child, key);
        if (child == NULL) {
            close_gap(n, at);
        } else {
            set_branch(n, at, child);
            if (child->count < ENTRIES_FEW) {
                join(n, at);
            }
        }
    }
    if (n->count > 0) {
        return fit(n);
    }
    free(n);
    return NULL;
}

void registry__tree_remove(struct node **root, const struct key *key)
{
    if (registry__tree_get(*root, key) == NULL) {
        return;
    }
    *root = without(*root, key);
    while (*root != NULL && (*root)->height > 0 && (*root)->count == 1) {
        struct node *only = registry__tree_ref(branches_of(*root)[0].child);
        registry__tree_unref(*root);
        *root = only;
    }
}

/* ---- Looks ----------------------------------------------------------------------------------- */

uint32_t registry__tree_count(const struct node *root)
{
    uint64_t count = 0;
    for (size_t i = 0; root != NULL && root->height > 0 && i < root->count; i++) {
        count += ((const struct inner *)root)->branches[i].rows;
    }
    return root == NULL ? 0 : root->height == 0 ? root->count : (uint32_t)count;
}

static const struct node *child_of(const struct node *n, size_t i)
{
    return ((const struct inner *)n)->branches[i].child;
}

/* Callers may change the reference count only. */
static struct packed *given(const struct packed *row)
{
    return (struct packed *)(uintptr_t)row;
}

struct packed *registry__tree_get(const struct node *root, const struct key *key)
{
    while (root != NULL) {
        bool equal;
        size_t at = find(root, key, &equal);
        if (equal) {
            return given(first_of(root, at - 1));
        }
        root = at > 0 && root->height > 0 ? child_of(root, at - 1) : NULL;
    }
    return NULL;
}

struct packed *registry__tree_after(const struct node *root, const struct key *key)
{
    const struct packed *above = NULL;
    while (root != NULL) {
        bool equal;
        size_t at = find(root, key, &equal);
        above = at < root->count ? first_of(root, at) : above;
        root = at > 0 && root->height > 0 ? child_of(root, at - 1) : NULL;
    }
    return given(above);
}

struct packed *registry__tree_before(const struct node *root, const struct key *key)
{
    while (root != NULL) {
        bool equal;
        size_t at = find(root, key, &equal);
        at -= equal;
        if (at == 0) {
            return NULL;
        }
        if (root->height == 0) {
            return given(first_of(root, at - 1));
        }
        root = child_of(root, at - 1);
    }
    return NULL;
}

struct packed *registry__tree_after_revision(const struct node *root, uint64_t revision)
{
    const struct packed *above = NULL;
    while (root != NULL) {
        size_t low = 0;
        size_t high = root->count;
        while (low < high) {
            size_t middle = (low + high) / 2;
            if (registry__packed_revision(first_of(root, middle)) > revision) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        above = low < root->count ? first_of(root, low) : above;
        root = low > 0 && root->height > 0 ? child_of(root, low - 1) : NULL;
    }
    return given(above);
}

struct packed *registry__tree_first(const struct node *root)
{
    return root == NULL ? NULL : given(first_of(root, 0));
}

uint32_t registry__tree_rank(const struct node *root, const struct key *key)
{
    uint64_t rank = 0;
    while (root != NULL) {
        bool equal;
        size_t at = find(root, key, &equal);
        at -= equal;
        if (root->height == 0) {
            return (uint32_t)(rank + at);
        }
        for (size_t i = 0; i + 1 < at; i++) {
            rank += ((const struct inner *)root)->branches[i].rows;
        }
        root = at > 0 ? child_of(root, at - 1) : NULL;
    }
    return (uint32_t)rank;
}

/* ---- Checks ---------------------------------------------------------------------------------- */

static void check_node(const struct node *n, enum registry_index index)
{
    ASSERT(n->index == index && n->count > 0 && n->count <= ENTRIES_MAX);
    ASSERT(n->height <= REGISTRY_TREE_HEIGHT_MAX);
    ASSERT(atomic_load_explicit(&n->refs, memory_order_relaxed) > 0);
    for (size_t i = 0; i < n->count; i++) {
        if (i > 0) {
            struct key key = registry__packed_key(index, first_of(n, i));
            ASSERT(registry__packed_compare(index, first_of(n, i - 1), &key) < 0);
        }
        if (n->height > 0) {
            const struct branch *b = &((const struct inner *)n)->branches[i];
            ASSERT(b->child->height + 1 == n->height);
            ASSERT(b->first == first_of(b->child, 0) && b->rows == registry__tree_count(b->child));
            check_node(b->child, index);
        }
    }
}

/* The last row of a child comes before the first row of the next one. */
static void check_order(const struct node *root, enum registry_index index)
{
    const struct packed *row = registry__tree_first(root);
    uint32_t rows = 0;
    while (row != NULL) {
        struct key key = registry__packed_key(index, row);
        rows++;
        row = registry__tree_after(root, &key);
        ASSERT(row == NULL || registry__packed_compare(index, row, &key) > 0);
    }
    ASSERT(rows == registry__tree_count(root));
}

void registry__tree_check(const struct node *root, enum registry_index index)
{
    if (root != NULL) {
        check_node(root, index);
        check_order(root, index);
    }
}

uint64_t registry__tree_digest(const struct node *root, uint64_t seed)
{
    for (size_t i = 0; root != NULL && i < root->count; i++) {
        const struct packed *row = first_of(root, i);
        seed = root->height == 0 ? hash64(&row, sizeof(struct packed *), seed)
                                 : registry__tree_digest(child_of(root, i), seed);
    }
    return seed;
}
