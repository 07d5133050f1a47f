/* How many keys a range has, without a scan: a counted tree of the latest keys, in memory. It is
 * built by the first query after one that had to scan many keys only to count them; from then on
 * each apply brings it up to date. A count as of an earlier revision is the count of now, corrected
 * by the changes since then.
 *
 * Threads: queries run beside apply. The lock guards everything in struct kv_counts. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "shards/machine/kv/kv_internal.h"

/* A correction looks at so many changes at most. */
#define CORRECTION_CHANGES_MAX 10000
#define CATCH_UP_ROUNDS 3
/* About 100 bytes each, for keys of 40 bytes. */
#define TREE_KEYS_MAX 4000000
/* A tree that nobody asked for during so many changes of it is dropped. */
#define TREE_UNUSED_CHANGES_MAX 1000000

/* ---- The tree: a treap with sizes. Priorities come from the keys, so no order makes it deep. - */

struct node {
    struct node *left, *right;
    uint32_t size; /* of this subtree */
    uint32_t key_size;
    uint64_t priority;
    uint8_t key[];
};

static struct slice key_of(const struct node *n)
{
    return slice_of(n->key, n->key_size);
}

static uint32_t size_of(const struct node *n)
{
    return n != NULL ? n->size : 0;
}

static void resize(struct node *n)
{
    n->size = 1 + size_of(n->left) + size_of(n->right);
}

/* Keys below `key` to the left, the others to the right. Depth: that of the tree, O(log n). */
static void split(struct node *n, struct slice key, struct node **left, struct node **right)
{
    if (n == NULL) {
        *left = *right = NULL;
    } else if (slice_compare(key_of(n), key) < 0) {
        split(n->right, key, &n->right, right);
        *left = n;
        resize(n);
    } else {
        split(n->left, key, left, &n->left);
        *right = n;
        resize(n);
    }
}

static struct node *merge(struct node *a, struct node *b)
{
    if (a == NULL || b == NULL) {
        return a != NULL ? a : b;
    }
    struct node *top = a->priority > b->priority ? a : b;
    if (top == a) {
        a->right = merge(a->right, b);
    } else {
        b->left = merge(a, b->left);
    }
    resize(top);
    return top;
}

static void insert(struct node **root, struct slice key)
{
    struct node *n = xmalloc(sizeof *n + key.size), *left, *right;

    *n = (struct node){
        .size = 1, .key_size = (uint32_t)key.size, .priority = hash64(key.data, key.size, 0)};
    memcpy(n->key, key.data, key.size);
    split(*root, key, &left, &right);
    *root = merge(merge(left, n), right);
}

static void remove_key(struct node **root, struct slice key)
{
    while (*root != NULL) {
        struct node *n = *root;
        int order = slice_compare(key, key_of(n));
        if (order == 0) {
            *root = merge(n->left, n->right);
            free(n);
            return;
        }
        n->size--; /* the key is below: changes come from the store's own records */
        root = order < 0 ? &n->left : &n->right;
    }
}

/* Keys below `key`. */
static uint32_t rank(const struct node *n, struct slice key)
{
    uint32_t below = 0;

    while (n != NULL) {
        if (slice_compare(key_of(n), key) < 0) {
            below += 1 + size_of(n->left);
            n = n->right;
        } else {
            n = n->left;
        }
    }
    return below;
}

/* By rotation, so that no stack grows. */
static void tree_free(struct node *n)
{
    while (n != NULL) {
        if (n->left == NULL) {
            struct node *right = n->right;
            free(n);
            n = right;
        } else {
            struct node *left = n->left;
            n->left = left->right;
            left->right = n;
            n = left;
        }
    }
}

static int64_t count_in(const struct node *root, const struct kv_keys *keys)
{
    uint32_t end = keys->to.size > 0 ? rank(root, keys->to) : size_of(root);
    uint32_t start = rank(root, keys->from);

    return end > start ? end - start : 0;
}

/* ---- The machine's counts -------------------------------------------------------------------- */

struct kv_counts {
    pthread_mutex_t lock;
    bool wanted;   /* applies collect what they change */
    bool building; /* by a query */
    bool built;
    struct node *root;
    int64_t revision; /* of what is in the database; of the tree, if it is built */
    int64_t compacted;
    uint64_t unused; /* changes since the tree was last asked */
};

struct kv_counts *kv__counts_new(void)
{
    struct kv_counts *c = xcalloc(1, sizeof *c);

    pthread_mutex_init(&c->lock, NULL);
    return c;
}

static void drop(struct kv_counts *c)
{
    tree_free(c->root);
    c->root = NULL;
    c->built = c->wanted = false;
}

void kv__counts_free(struct kv_counts *c)
{
    if (c != NULL) {
        drop(c);
        pthread_mutex_destroy(&c->lock);
        free(c);
    }
}

void kv__counts_reset(struct kv *kv)
{
    struct kv_counts *c = kv->counts;

    pthread_mutex_lock(&c->lock);
    drop(c);
    c->revision = kv->state.revision;
    c->compacted = kv->state.compacted;
    pthread_mutex_unlock(&c->lock);
}

/* ---- Apply ----------------------------------------------------------------------------------- */

void kv__count_begin(struct kv_exec *x)
{
    struct kv_counts *c = x->kv->counts;

    pthread_mutex_lock(&c->lock);
    x->counting = c->wanted;
    pthread_mutex_unlock(&c->lock);
}

static void collect(struct kv_exec *x, struct slice key, bool added)
{
    if (!x->counting) {
        return;
    }
    if (x->delta_count == x->delta_capacity) {
        x->delta_capacity = x->delta_capacity * 2 + 32;
        x->deltas = xrealloc(x->deltas, x->delta_capacity * sizeof *x->deltas);
    }
    x->deltas[x->delta_count++] =
        (struct kv_delta){.key_at = x->delta_bytes.size, .key_size = key.size, .added = added};
    bytes_append_slice(&x->delta_bytes, key);
}

void kv__count_add(struct kv_exec *x, struct slice key)
{
    collect(x, key, true);
}

void kv__count_remove(struct kv_exec *x, struct slice key)
{
    collect(x, key, false);
}

void kv__count_commit(struct kv_exec *x)
{
    struct kv_counts *c = x->kv->counts;

    pthread_mutex_lock(&c->lock);
    c->revision = x->kv->state.revision;
    c->compacted = x->kv->state.compacted;
    c->unused += x->delta_count;
    if (c->built && (!x->counting || c->unused > TREE_UNUSED_CHANGES_MAX)) {
        drop(c); /* built while this batch was under way, or not asked any more */
    }
    for (size_t i = 0; i < x->delta_count && c->built; i++) {
        const struct kv_delta *d = &x->deltas[i];
        struct slice key = slice_of(x->delta_bytes.data + d->key_at, d->key_size);
        if (d->added) {
            insert(&c->root, key);
        } else {
            remove_key(&c->root, key);
        }
    }
    pthread_mutex_unlock(&c->lock);
}

/* ---- Queries --------------------------------------------------------------------------------- */

/* How the keys changed in (after, upto], read from the database as it is. */
struct since {
    int64_t after, upto;
    size_t changes_max;
    const struct kv_keys *keys; /* for `net`; NULL: all */
    struct node **root;         /* where to make the changes; may be NULL */
    int64_t net;                /* keys that came, minus those that went */
};

static bool walk_since(const struct kv_reader *r, struct since *s)
{
    struct kv_reader now = {.kv = r->kv, .state = r->state, .revision = s->upto};
    struct bytes from = {0}, to = {0};
    struct slice key, stored;
    size_t changes = 0;
    bool ok = true;

    kv__key_change(&from, (struct kv_at){s->after + 1, 0});
    kv__key_change(&to, (struct kv_at){s->upto + 1, 0});
    struct state_iter *it = kv__iter(&now, bytes_slice(&from), bytes_slice(&to));
    while (ok && state_iter_next(it, &key, &stored)) {
        struct kv_change change;
        struct kv_item item;
        ok = ++changes <= s->changes_max && kv__change_decode(stored, &change) &&
             kv__wire_item_decode(change.encoded, &item);
        if (!ok || (!change.deletion && change.previous.revision != 0)) {
            continue;
        }
        if (s->keys == NULL || kv__keys_contain(s->keys, item.key)) {
            s->net += change.deletion ? -1 : 1;
        }
        if (s->root != NULL && change.deletion) {
            remove_key(s->root, item.key);
        } else if (s->root != NULL) {
            insert(s->root, item.key);
        }
    }
    ok = ok && state_iter_status(it, NULL) == THOLE_OK;
    state_iter_free(it);
    bytes_deinit(&from);
    bytes_deinit(&to);
    return ok;
}

/* Makes the changes after *at in the tree, up to the database's revision; *at is then that one. */
static bool catch_up(const struct kv_reader *r, int64_t *at, int64_t upto, size_t changes_max,
                     struct node **root)
{
    struct since s = {.after = *at, .upto = upto, .changes_max = changes_max, .root = root};

    *at = upto;
    return walk_since(r, &s);
}

/* Builds the tree from the view, and brings it up to date: first beside applies, and the last bit
 * while none can finish. */
static void build(const struct kv_reader *r, struct kv_counts *c)
{
    static const uint8_t zero = 0;
    struct kv_keys all = {.from = {&zero, 1}};
    struct node *root = NULL;
    struct kv_item item;
    struct kv_scan *scan = kv__scan_new(r, &all, r->revision, false);

    while (kv__scan_next(scan, &item)) {
        insert(&root, item.key);
    }
    bool ok = kv__scan_status(scan, NULL) == THOLE_OK;
    int64_t at = r->revision;
    kv__scan_free(scan);
    for (int round = 0; round < CATCH_UP_ROUNDS && ok; round++) {
        pthread_mutex_lock(&c->lock);
        int64_t upto = c->revision;
        pthread_mutex_unlock(&c->lock);
        ok = catch_up(r, &at, upto, SIZE_MAX, &root);
    }
    pthread_mutex_lock(&c->lock);
    ok = ok && c->wanted && catch_up(r, &at, c->revision, CORRECTION_CHANGES_MAX, &root) &&
         c->compacted <= r->revision;
    c->building = false;
    if (ok) {
        c->root = root;
        c->built = true;
        c->unused = 0;
    } else {
        tree_free(root);
    }
    pthread_mutex_unlock(&c->lock);
}

/* Whether this query should build the tree. */
static bool shall_build(const struct kv_reader *r, struct kv_counts *c)
{
    pthread_mutex_lock(&c->lock);
    bool build_it = c->wanted && !c->built && !c->building && r->state->keys <= TREE_KEYS_MAX;
    c->building = c->building || build_it;
    pthread_mutex_unlock(&c->lock);
    return build_it;
}

void kv__count_scanned(const struct kv_reader *r, int64_t keys)
{
    struct kv_counts *c = r->kv->counts;

    if (r->batch == NULL && keys >= KV_COUNT_SCAN_MAX) {
        pthread_mutex_lock(&c->lock);
        c->wanted = true;
        pthread_mutex_unlock(&c->lock);
    }
}

/* The tree has the keys of a later revision, or of the same. */
static bool ask_tree(const struct kv_reader *r, const struct kv_keys *keys, int64_t revision,
                     int64_t *ret)
{
    struct kv_counts *c = r->kv->counts;
    struct since s = {.after = revision, .keys = keys, .changes_max = CORRECTION_CHANGES_MAX};

    if (shall_build(r, c)) {
        build(r, c);
    }
    pthread_mutex_lock(&c->lock);
    bool ok = c->built && c->revision >= revision;
    if (ok) {
        *ret = count_in(c->root, keys);
        s.upto = c->revision;
        c->unused = 0;
    }
    pthread_mutex_unlock(&c->lock);
    if (!ok || s.upto == revision) {
        return ok;
    }
    ok = walk_since(r, &s);
    *ret -= s.net;
    /* What a compaction drops meanwhile is missing in the walk. */
    pthread_mutex_lock(&c->lock);
    ok = ok && c->compacted <= revision;
    pthread_mutex_unlock(&c->lock);
    return ok;
}

bool kv__count(const struct kv_reader *r, const struct kv_keys *keys, int64_t revision,
               int64_t *ret)
{
    static const uint8_t zero = 0;

    if (keys->one) {
        return false;
    }
    if (revision == r->revision && keys->to.size == 0 &&
        slice_compare(keys->from, slice_of(&zero, 1)) <= 0) {
        *ret = (int64_t)r->state->keys;
        return true;
    }
    return r->batch == NULL && ask_tree(r, keys, revision, ret);
}
