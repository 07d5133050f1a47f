/* The persistent tree against sorted arrays: random changes, versions that stay alive, every
 * lookup. */
#include "base/rand.h"
#include "registry/registry_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define IDS 2000
#define VERSIONS 12

/* The content of a version: rows by id, NULL where there is no row. */
struct model {
    struct node *root;
    struct packed *rows[IDS + 1];
    uint32_t count;
};

static struct packed *row_of(uint64_t id, uint64_t revision)
{
    uint64_t marks[3] = {id, revision, 0}; /* see journal.c */
    struct packed *row = registry__packed_new(ROW_MARKS, sizeof marks);
    memcpy(row->data, marks, sizeof marks);
    return row;
}

static void put(struct model *m, uint64_t id, uint64_t revision)
{
    struct packed *row = row_of(id, revision);
    m->count += m->rows[id] == NULL;
    registry__packed_unref(m->rows[id]);
    m->rows[id] = row;
    registry__tree_put(&m->root, INDEX_JOURNAL, row);
}

static void take_out(struct model *m, uint64_t id)
{
    struct key key = registry__key_id(id);
    registry__tree_remove(&m->root, &key);
    m->count -= m->rows[id] != NULL;
    registry__packed_unref(m->rows[id]);
    m->rows[id] = NULL;
}

static void copy(struct model *to, const struct model *from)
{
    *to = *from;
    (void)registry__tree_ref(to->root);
    for (size_t i = 0; i <= IDS; i++) {
        if (to->rows[i] != NULL) {
            (void)registry__packed_ref(to->rows[i]);
        }
    }
}

static void clear(struct model *m)
{
    registry__tree_unref(m->root);
    for (size_t i = 0; i <= IDS; i++) {
        registry__packed_unref(m->rows[i]);
    }
    memset(m, 0, sizeof *m);
}

static void assert_agrees(const struct model *m)
{
    struct packed *before = NULL;
    uint32_t rank = 0;
    assert_int_equal(registry__tree_count(m->root), m->count);
    for (uint64_t id = 0; id <= IDS; id++) {
        struct key key = registry__key_id(id);
        assert_ptr_equal(registry__tree_get(m->root, &key), m->rows[id]);
        assert_ptr_equal(registry__tree_before(m->root, &key), before);
        assert_int_equal(registry__tree_rank(m->root, &key), rank);
        if (m->rows[id] != NULL) {
            assert_true(rank > 0 || registry__tree_first(m->root) == m->rows[id]);
            before = m->rows[id];
            rank++;
        }
    }
    struct packed *after = NULL;
    for (uint64_t id = IDS + 1; id-- > 0;) {
        struct key key = registry__key_id(id);
        assert_ptr_equal(registry__tree_after(m->root, &key), after);
        after = m->rows[id] != NULL ? m->rows[id] : after;
    }
}

/* Runs of ids are added and removed, so that nodes fill, split, shrink and merge. */
static void change(struct model *m, struct rand *r, uint64_t revision)
{
    uint64_t from = rand_below(r, IDS + 1);
    uint64_t count = rand_below(r, 3) == 0 ? rand_below(r, 300) : 1 + rand_below(r, 3);
    uint64_t step = 1 + rand_below(r, 5);
    bool remove = rand_below(r, 2) == 0;
    for (uint64_t i = 0; i < count && from + i * step <= IDS; i++) {
        if (remove) {
            take_out(m, from + i * step);
        } else {
            put(m, from + i * step, revision);
        }
    }
}

static void test_tree_random_changes_agree_with_arrays_in_every_version(void **state)
{
    (void)state;
    struct model *versions = calloc(VERSIONS, sizeof *versions);
    struct rand r;
    rand_seed(&r, 7);
    for (uint64_t i = 1; i <= 4000; i++) {
        struct model *to = &versions[rand_below(&r, VERSIONS)];
        const struct model *from = &versions[rand_below(&r, VERSIONS)];
        if (rand_below(&r, 10) == 0 && to != from) {
            clear(to);
            copy(to, from);
        }
        change(to, &r, i);
        if (i % 100 == 0) {
            for (size_t k = 0; k < VERSIONS; k++) {
                assert_agrees(&versions[k]);
            }
        }
    }
    for (size_t k = 0; k < VERSIONS; k++) {
        clear(&versions[k]);
        assert_agrees(&versions[k]);
    }
    free(versions);
}

static void test_tree_in_order_of_revision_is_searched_by_it(void **state)
{
    (void)state;
    struct model *m = calloc(1, sizeof *m);
    for (uint64_t id = 1; id <= IDS; id++) { /* three of each, every fourth is left out */
        put(m, id, (id + 2) / 3 + (id + 2) / 9);
    }
    for (uint64_t id = 1; id <= 500; id++) { /* a bounded array loses its first elements */
        take_out(m, id);
    }
    uint64_t id = 501;
    for (uint64_t revision = 0; revision <= registry__packed_revision(m->rows[IDS]); revision++) {
        while (id <= IDS && registry__packed_revision(m->rows[id]) <= revision) {
            id++;
        }
        assert_ptr_equal(registry__tree_after_revision(m->root, revision),
                         id <= IDS ? m->rows[id] : NULL);
    }
    assert_null(registry__tree_after_revision(NULL, 0));
    clear(m);
    free(m);
}

static void test_tree_absent_key_is_removed_without_effect(void **state)
{
    (void)state;
    struct model *m = calloc(1, sizeof *m);
    take_out(m, 5);
    assert_null(m->root);
    put(m, 5, 1);
    struct node *before = m->root;
    take_out(m, 6);
    assert_ptr_equal(m->root, before);
    clear(m);
    free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tree_random_changes_agree_with_arrays_in_every_version),
        cmocka_unit_test(test_tree_in_order_of_revision_is_searched_by_it),
        cmocka_unit_test(test_tree_absent_key_is_removed_without_effect),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
