/* Does a Txn put a key twice on one of its paths, or put and delete it? Clients decide how many
 * operations are compared, so they are sorted.
 *
 * The order is etcd's: in each list its deletions, then its nested transactions one by one, then
 * its puts. A put meets the deletions before it. The two branches of a nested transaction are never
 * taken together, so they do not meet. */
#include <stdlib.h>

#include "shards/machine/kv/kv_internal.h"

/* A branch: a list of operations. */
struct branch {
    const struct branch *parent; /* NULL: of the whole Txn */
    uint32_t depth;
    uint32_t txn; /* the same for both branches of a nested transaction */
};

struct put {
    struct slice key;
    const struct branch *branch;
    uint32_t place; /* in etcd's order, of all puts and deletions */
};

struct deletion {
    struct kv_keys keys;
    const struct branch *branch;
    uint32_t place;
};

struct operations {
    struct branch *branches;
    struct put *puts;
    struct deletion *deletions;
    size_t branch_count, put_count, deletion_count;
    uint32_t places, txns;
};

static struct slice put_key(const etcdserverpb_RequestOp *op)
{
    if (etcdserverpb_RequestOp_has_request_put(op)) {
        return kv__slice(etcdserverpb_PutRequest_key(etcdserverpb_RequestOp_request_put(op)));
    }
    if (etcdserverpb_RequestOp_has_request_modify(op)) {
        return kv__slice(thole_kv_v1_ModifyRequest_key(etcdserverpb_RequestOp_request_modify(op)));
    }
    return (struct slice){0};
}

static const struct branch *add_branch(struct operations *all, const struct branch *parent)
{
    struct branch *b = &all->branches[all->branch_count++];
    *b = (struct branch){
        .parent = parent, .depth = parent != NULL ? parent->depth + 1 : 0, .txn = all->txns};
    return b;
}

/* Like etcd, this takes the end "\0" literally: a put beside a deletion of everything passes. Both
 * are changes of the revision then. */
static void add_deletion(struct operations *all, const struct branch *branch,
                         const etcdserverpb_DeleteRangeRequest *m)
{
    struct kv_keys keys = {.from = kv__slice(etcdserverpb_DeleteRangeRequest_key(m)),
                           .to = kv__slice(etcdserverpb_DeleteRangeRequest_range_end(m))};
    keys.one = keys.to.size == 0;
    all->deletions[all->deletion_count++] =
        (struct deletion){.keys = keys, .branch = branch, .place = all->places++};
}

static void collect(struct operations *all, kv__operations ops, size_t n,
                    const struct branch *branch)
{
    for (size_t i = 0; i < n; i++) {
        if (etcdserverpb_RequestOp_has_request_delete_range(ops[i])) {
            add_deletion(all, branch, etcdserverpb_RequestOp_request_delete_range(ops[i]));
        }
    }
    for (size_t i = 0; i < n; i++) {
        if (!etcdserverpb_RequestOp_has_request_txn(ops[i])) {
            continue;
        }
        const etcdserverpb_TxnRequest *m = etcdserverpb_RequestOp_request_txn(ops[i]);
        size_t successes = 0, failures = 0;
        kv__operations success = etcdserverpb_TxnRequest_success(m, &successes);
        kv__operations failure = etcdserverpb_TxnRequest_failure(m, &failures);
        all->txns++;
        const struct branch *taken = add_branch(all, branch), *other = add_branch(all, branch);
        collect(all, success, successes, taken);
        collect(all, failure, failures, other);
    }
    for (size_t i = 0; i < n; i++) {
        struct slice key = put_key(ops[i]);
        if (key.size > 0) {
            all->puts[all->put_count++] =
                (struct put){.key = key, .branch = branch, .place = all->places++};
        }
    }
}

/* May both branches be taken? */
static bool are_together(const struct branch *a, const struct branch *b)
{
    const struct branch *below_a = NULL, *below_b = NULL;
    while (a != b) {
        bool up_a = a->depth >= b->depth, up_b = b->depth >= a->depth;
        if (up_a) {
            below_a = a;
            a = a->parent;
        }
        if (up_b) {
            below_b = b;
            b = b->parent;
        }
    }
    return below_a == NULL || below_b == NULL || below_a->txn != below_b->txn;
}

static int by_key(const void *a, const void *b)
{
    const struct put *p = a, *q = b;
    int order = slice_compare(p->key, q->key);
    return order != 0 ? order : (p->place > q->place) - (p->place < q->place);
}

/* Neighbours suffice. Let two puts of a key be made together, in different operations of one list.
 * A put between them is in another operation of that list, or in that of one of the two and so made
 * together with the other one. */
static bool is_put_twice(struct operations *all)
{
    qsort(all->puts, all->put_count, sizeof *all->puts, by_key);
    for (size_t i = 1; i < all->put_count; i++) {
        const struct put *p = &all->puts[i - 1], *q = &all->puts[i];
        if (slice_equal(p->key, q->key) && are_together(p->branch, q->branch)) {
            return true;
        }
    }
    return false;
}

static bool is_put_and_deleted(const struct operations *all)
{
    for (size_t i = 0; i < all->put_count; i++) {
        const struct put *p = &all->puts[i];
        for (size_t k = 0; k < all->deletion_count; k++) {
            const struct deletion *d = &all->deletions[k];
            if (d->place < p->place && kv__keys_contain(&d->keys, p->key) &&
                are_together(p->branch, d->branch)) {
                return true;
            }
        }
    }
    return false;
}

bool kv__is_apart(kv__operations ops, size_t n, size_t total)
{
    if (n == 0 || (n == 1 && !etcdserverpb_RequestOp_has_request_txn(ops[0]))) {
        return true; /* the usual Txn */
    }
    struct operations all = {.branches = xcalloc(2 * total + 1, sizeof(struct branch)),
                             .puts = xcalloc(total + 1, sizeof(struct put)),
                             .deletions = xcalloc(total + 1, sizeof(struct deletion))};
    collect(&all, ops, n, add_branch(&all, NULL));
    bool ok = !is_put_twice(&all) && !is_put_and_deleted(&all);
    free(all.branches);
    free(all.puts);
    free(all.deletions);
    return ok;
}
