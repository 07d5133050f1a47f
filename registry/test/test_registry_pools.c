/* Pools of shards through the machine's interface: steps, names in use, counting, dry runs, etags,
 * snapshots. */
#include "registry/test/registry_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

struct pool_args {
    uint32_t count, voters;
    const char *etag, *zone;
    bool validate_only;
    int32_t keys;
    bool protect;
};

static uint64_t apply_pool(struct fixture *f, const char *name, struct pool_args a)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_UpdatePool *u =
        thole_registry_v1_Operation_mutable_update_pool(cmd_op(&c), c.arena);
    thole_v1_ShardPoolSpec *spec = thole_registry_v1_UpdatePool_mutable_spec(u, c.arena);
    thole_v1_ShardSpec *shard = thole_v1_ShardPoolSpec_mutable_shard(spec, c.arena);
    thole_registry_v1_Command_set_validate_only(c.c, a.validate_only);
    thole_registry_v1_UpdatePool_set_name(u, upb_StringView_FromString(name));
    thole_registry_v1_UpdatePool_set_allow_missing(u, a.etag == NULL);
    thole_registry_v1_UpdatePool_set_etag(u,
                                          upb_StringView_FromString(a.etag != NULL ? a.etag : ""));
    thole_v1_ShardPoolSpec_set_count(spec, a.count);
    thole_v1_ShardPoolSpec_set_keys(spec, a.keys);
    fill_spec(shard, c.arena, a.voters, 0);
    thole_v1_ShardSpec_set_deletion_protection(shard, a.protect);
    if (a.zone != NULL) {
        thole_v1_Constraint *k = thole_v1_ShardSpec_add_constraints(shard, c.arena);
        thole_v1_Constraint_set_key(k, upb_StringView_FromString("zone"));
        thole_v1_Constraint_set_operator(k, thole_v1_CONSTRAINT_OPERATOR_IN);
        thole_v1_Constraint_add_values(k, upb_StringView_FromString(a.zone), c.arena);
    }
    return fixture_run(f, &c);
}

static uint64_t delete_pool(struct fixture *f, const char *name)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_DeletePool *d =
        thole_registry_v1_Operation_mutable_delete_pool(cmd_op(&c), c.arena);
    thole_registry_v1_DeletePool_set_name(d, upb_StringView_FromString(name));
    return fixture_run(f, &c);
}

static uint64_t reconcile(struct fixture *f, const char *name, uint64_t generation, uint32_t limit)
{
    struct cmd c = cmd_new("placement");
    thole_registry_v1_ReconcilePool *o =
        thole_registry_v1_Operation_mutable_reconcile_pool(cmd_op(&c), c.arena);
    thole_registry_v1_ReconcilePool_set_name(o, upb_StringView_FromString(name));
    thole_registry_v1_ReconcilePool_set_generation(o, generation);
    thole_registry_v1_ReconcilePool_set_limit(o, limit);
    return fixture_run(f, &c);
}

/* -1: there is no such pool. */
static int shards_of(struct fixture *f, const char *name)
{
    struct registry_shard_buf shard_buf;
    struct registry_view *v = registry_view_acquire(f->r);
    const thole_v1_ShardPool *p = registry_pool_by_name(v, slice_str(name));
    int count = p == NULL ? -1 : (int)thole_v1_ShardPoolStatus_shards(thole_v1_ShardPool_status(p));
    int found = 0;
    struct slice after = {0};
    const thole_v1_Shard *s;
    while ((s = registry_next_shard(v, after, &shard_buf)) != NULL) {
        after = registry_str(thole_v1_Shard_name(s));
        found += slice_equal(registry_str(thole_v1_Shard_pool(s)), slice_str(name));
    }
    assert_true(p == NULL ? found == 0 : found == count);
    registry_view_release(v);
    return count;
}

static uint64_t observed(struct fixture *f, const char *name)
{
    struct registry_view *v = registry_view_acquire(f->r);
    const thole_v1_ShardPool *p = registry_pool_by_name(v, slice_str(name));
    uint64_t generation =
        thole_v1_ShardPoolStatus_observed_generation(thole_v1_ShardPool_status(p));
    registry_view_release(v);
    return generation;
}

static void registry_pool_follows_in_bounded_steps(void **state)
{
    struct registry_shard_buf shard_buf;
    struct fixture *f = *state;
    assert_int_equal(apply_pool(f, "p", (struct pool_args){.count = 10, .voters = 1}), THOLE_OK);
    assert_int_equal(shards_of(f, "p"), 0);
    for (int done = 4; done <= 12; done += 4) {
        assert_int_equal(observed(f, "p"), 0);
        assert_int_equal(reconcile(f, "p", 1, 4), THOLE_OK);
        assert_int_equal(shards_of(f, "p"), done < 10 ? done : 10);
    }
    assert_int_equal(observed(f, "p"), 1);
    /* An older decision, or a repeated one, has no effect. */
    uint64_t revision = thole_registry_v1_Result_revision(f->result);
    assert_int_equal(reconcile(f, "p", 1, 4), THOLE_OK);
    assert_int_equal(thole_registry_v1_Result_revision(f->result), revision);
    /* A smaller size, while the pool is still growing. */
    assert_int_equal(apply_pool(f, "p", (struct pool_args){.count = 20, .voters = 1}), THOLE_OK);
    assert_int_equal(reconcile(f, "p", 2, 15), THOLE_OK);
    assert_int_equal(shards_of(f, "p"), 15);
    assert_int_equal(apply_pool(f, "p", (struct pool_args){.count = 3, .voters = 3}), THOLE_OK);
    assert_int_equal(reconcile(f, "p", 2, 100), THOLE_OK);
    assert_int_equal(shards_of(f, "p"), 15);
    assert_int_equal(reconcile(f, "p", 3, 100), THOLE_OK);
    assert_int_equal(shards_of(f, "p"), 3);
    struct registry_view *v = registry_view_acquire(f->r);
    const thole_v1_Shard *s = registry_shard_by_name(v, slice_str("p-2"), &shard_buf);
    assert_int_equal(thole_v1_ShardSpec_voters(thole_v1_Shard_spec(s)), 3);
    assert_int_equal(thole_v1_Shard_generation(s), 2);
    registry_view_release(v);
}

static void registry_pool_waits_for_a_name_that_is_being_deleted(void **state)
{
    struct registry_replica_buf replica_buf;
    struct fixture *f = *state;
    assert_int_equal(apply_pool(f, "p", (struct pool_args){.count = 2, .voters = 1}), THOLE_OK);
    assert_int_equal(reconcile(f, "p", 1, 100), THOLE_OK);
    assert_int_equal(do_place(f, 2, 0, 1), THOLE_OK); /* p-1 has a replica: not at once */
    assert_int_equal(apply_pool(f, "p", (struct pool_args){.count = 1, .voters = 1}), THOLE_OK);
    assert_int_equal(reconcile(f, "p", 2, 100), THOLE_OK);
    assert_int_equal(shards_of(f, "p"), 2);
    assert_int_equal(apply_pool(f, "p", (struct pool_args){.count = 3, .voters = 1}), THOLE_OK);
    assert_int_equal(reconcile(f, "p", 3, 100), THOLE_OK);
    assert_int_equal(reconcile(f, "p", 3, 100), THOLE_OK);
    assert_int_equal(observed(f, "p"), 2);
    struct registry_view *v = registry_view_acquire(f->r);
    uint64_t replica = thole_v1_Replica_id(registry_next_replica_of_shard(v, 2, 0, &replica_buf));
    registry_view_release(v);
    assert_int_equal(do_observe(f, replica, thole_v1_REPLICA_PHASE_GONE, 0), THOLE_OK);
    assert_int_equal(shards_of(f, "p"), 1);
    assert_int_equal(reconcile(f, "p", 3, 100), THOLE_OK);
    assert_int_equal(observed(f, "p"), 3);
    assert_int_equal(shards_of(f, "p"), 3);
}

static void registry_pool_that_is_protected_keeps_its_shards(void **state)
{
    struct fixture *f = *state;
    struct pool_args a = {.count = 3, .voters = 1, .protect = true};
    assert_int_equal(apply_pool(f, "p", a), THOLE_OK);
    assert_int_equal(reconcile(f, "p", 1, 100), THOLE_OK);
    assert_int_equal(delete_pool(f, "p"), THOLE_FAILED_PRECONDITION);
    a.count = 2;
    assert_int_equal(apply_pool(f, "p", a), THOLE_FAILED_PRECONDITION);
    a.count = 4;
    assert_int_equal(apply_pool(f, "p", a), THOLE_OK);
    assert_int_equal(reconcile(f, "p", 2, 100), THOLE_OK);
    assert_int_equal(shards_of(f, "p"), 4);
    a = (struct pool_args){.count = 2, .voters = 1}; /* one spec may lift it and shrink the pool */
    assert_int_equal(apply_pool(f, "p", a), THOLE_OK);
    assert_int_equal(reconcile(f, "p", 3, 100), THOLE_OK);
    assert_int_equal(shards_of(f, "p"), 2);
    assert_int_equal(delete_pool(f, "p"), THOLE_OK);
}

static void registry_pool_leaves_names_of_others_alone(void **state)
{
    struct registry_shard_buf shard_buf;
    struct fixture *f = *state;
    assert_int_equal(do_create_shard(f, "p-1", 1, 0), THOLE_OK);
    assert_int_equal(apply_pool(f, "p", (struct pool_args){.count = 3, .voters = 1}), THOLE_OK);
    assert_int_equal(reconcile(f, "p", 1, 100), THOLE_OK);
    assert_int_equal(shards_of(f, "p"), 2);
    struct registry_view *v = registry_view_acquire(f->r);
    const thole_v1_ShardPool *p = registry_pool_by_name(v, slice_str("p"));
    upb_StringView taken = thole_v1_ShardPoolStatus_name_taken(thole_v1_ShardPool_status(p));
    assert_true(slice_equal(registry_str(taken), slice_str("p-1")));
    registry_view_release(v);
    /* The same spec again: the pool tries its names again. */
    assert_int_equal(observed(f, "p"), 1);
    assert_int_equal(apply_pool(f, "p", (struct pool_args){.count = 3, .voters = 1}), THOLE_OK);
    assert_int_equal(observed(f, "p"), 0);
    assert_int_equal(reconcile(f, "p", 1, 100), THOLE_OK);
    assert_int_equal(shards_of(f, "p"), 2);
    /* The pool takes the name once it is free. */
    assert_int_equal(observed(f, "p"), 1);
    assert_int_equal(do_delete_shard(f, "p-1"), THOLE_OK);
    assert_int_equal(observed(f, "p"), 0);
    assert_int_equal(reconcile(f, "p", 1, 100), THOLE_OK);
    assert_int_equal(shards_of(f, "p"), 3);
    assert_int_equal(observed(f, "p"), 1);
    assert_int_equal(apply_pool(f, "p", (struct pool_args){.count = 3, .voters = 1}), THOLE_OK);
    assert_int_equal(observed(f, "p"), 1); /* nothing is missing */
    assert_int_equal(do_delete_shard(f, "p-1"), THOLE_FAILED_PRECONDITION);
    v = registry_view_acquire(f->r);
    p = registry_pool_by_name(v, slice_str("p"));
    assert_int_equal(thole_v1_ShardPoolStatus_name_taken(thole_v1_ShardPool_status(p)).size, 0);
    registry_view_release(v);
    assert_int_equal(delete_pool(f, "p"), THOLE_OK);
    assert_int_equal(reconcile(f, "p", 2, 100), THOLE_OK);
    assert_int_equal(do_create_shard(f, "p-1", 1, 0), THOLE_OK);
    assert_int_equal(apply_pool(f, "p", (struct pool_args){.count = 3, .voters = 1}), THOLE_OK);
    assert_int_equal(reconcile(f, "p", 1, 100), THOLE_OK);
    /* The pool's own shards are changed through the pool alone. */
    assert_int_equal(do_update_shard(f, "p-0", 3, 0, ""), THOLE_FAILED_PRECONDITION);
    assert_int_equal(do_delete_shard(f, "p-0"), THOLE_FAILED_PRECONDITION);
    assert_int_equal(delete_pool(f, "p"), THOLE_OK);
    assert_int_equal(reconcile(f, "p", 2, 100), THOLE_OK);
    assert_int_equal(shards_of(f, "p"), -1);
    v = registry_view_acquire(f->r);
    assert_non_null(registry_shard_by_name(v, slice_str("p-1"), &shard_buf));
    registry_view_release(v);
}

static void registry_pool_dry_run_says_whether_it_can_be_placed(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(
        apply_pool(f, "p", (struct pool_args){.count = 3, .voters = 3, .validate_only = true}),
        THOLE_OK);
    const thole_v1_ShardPool *p = thole_registry_v1_Result_pool(f->result);
    size_t n = 0;
    const thole_v1_Condition *const *c =
        thole_v1_ShardPoolStatus_conditions(thole_v1_ShardPool_status(p), &n);
    assert_int_equal(n, 1);
    assert_true(thole_v1_Condition_status(c[0]));
    assert_int_equal(apply_pool(f, "p",
                                (struct pool_args){
                                    .count = 3, .voters = 3, .zone = "z0", .validate_only = true}),
                     THOLE_OK);
    p = thole_registry_v1_Result_pool(f->result);
    c = thole_v1_ShardPoolStatus_conditions(thole_v1_ShardPool_status(p), &n);
    assert_false(thole_v1_Condition_status(c[0]));
    upb_StringView why = thole_v1_Condition_message(c[0]);
    assert_non_null(memmem(why.data, why.size, "zone in (z0) rules out 2", 24));
    assert_int_equal(shards_of(f, "p"), -1); /* no shard was created */
}

static void registry_pool_refuses_lost_updates_and_bad_specs(void **state)
{
    struct fixture *f = *state;
    char etag[32];
    assert_int_equal(apply_pool(f, "p", (struct pool_args){.count = 1, .voters = 1}), THOLE_OK);
    upb_StringView first = thole_v1_ShardPool_etag(thole_registry_v1_Result_pool(f->result));
    snprintf(etag, sizeof etag, "%.*s", (int)first.size, first.data);
    assert_int_equal(apply_pool(f, "p", (struct pool_args){.count = 2, .voters = 1, .etag = etag}),
                     THOLE_OK);
    assert_int_equal(apply_pool(f, "p", (struct pool_args){.count = 3, .voters = 1, .etag = etag}),
                     THOLE_ABORTED);
    assert_int_equal(apply_pool(f, "p", (struct pool_args){.count = 100001, .voters = 1}),
                     THOLE_INVALID_ARGUMENT);
    assert_int_equal(apply_pool(f, "p", (struct pool_args){.count = 1, .voters = 0}),
                     THOLE_INVALID_ARGUMENT);
    assert_int_equal(apply_pool(f, "P!", (struct pool_args){.count = 1, .voters = 1}),
                     THOLE_INVALID_ARGUMENT);
    assert_int_equal(delete_pool(f, "q"), THOLE_NOT_FOUND);
}

struct seen {
    int pools, gone;
};

static void on_pool(void *ctx, const thole_v1_ShardPool *row)
{
    struct seen *s = ctx;
    (void)row;
    s->pools++;
}

static void on_gone(void *ctx, const char *name)
{
    struct seen *s = ctx;
    s->gone += strcmp(name, "pools/p") == 0;
}

static void registry_pool_is_in_snapshots_and_changes(void **state)
{
    struct fixture *f = *state;
    struct bytes one = {0};
    struct bytes two = {0};
    struct thole_status st;
    struct registry_view *before = registry_view_acquire(f->r);
    assert_int_equal(apply_pool(f, "p", (struct pool_args){.count = 5, .voters = 1}), THOLE_OK);
    assert_int_equal(reconcile(f, "p", 1, 3), THOLE_OK);
    struct registry_view *after = registry_view_acquire(f->r);
    struct seen seen = {0};
    const struct registry_changes changes = {.ctx = &seen, .pool = on_pool, .gone = on_gone};
    assert_int_equal(registry_changes_since(after, registry_view_revision(before), &changes, &st),
                     THOLE_OK);
    assert_int_equal(seen.pools, 1);
    fixture_save(f, &one);
    struct fixture other;
    fixture_init(&other);
    assert_int_equal(fixture_restore(&other, bytes_slice(&one), &st), THOLE_OK);
    fixture_save(&other, &two);
    assert_true(slice_equal(bytes_slice(&one), bytes_slice(&two)));
    assert_int_equal(reconcile(&other, "p", 1, 100), THOLE_OK);
    assert_int_equal(shards_of(&other, "p"), 5);
    fixture_deinit(&other);
    assert_int_equal(delete_pool(f, "p"), THOLE_OK);
    assert_int_equal(reconcile(f, "p", 2, 100), THOLE_OK);
    struct registry_view *end = registry_view_acquire(f->r);
    assert_int_equal(registry_changes_since(end, registry_view_revision(after), &changes, &st),
                     THOLE_OK);
    assert_int_equal(seen.gone, 1);
    registry_view_release(before);
    registry_view_release(after);
    registry_view_release(end);
    bytes_deinit(&one);
    bytes_deinit(&two);
}

/* ---- Keys ------------------------------------------------------------------------------------ */

#define SLOTS thole_v1_POOL_KEYS_SLOTS

static uint32_t count_of(struct fixture *f, const char *name)
{
    struct registry_view *v = registry_view_acquire(f->r);
    const thole_v1_ShardPool *p = registry_pool_by_name(v, slice_str(name));
    uint32_t count = thole_v1_ShardPoolSpec_count(thole_v1_ShardPool_spec(p));
    registry_view_release(v);
    return count;
}

/* Fails unless the refusal names the field and has the text. */
static void assert_refused(struct fixture *f, uint64_t code, const char *field, const char *text)
{
    upb_StringView message = thole_registry_v1_Result_message(f->result);
    char copy[400] = "";
    assert_int_equal(code, THOLE_FAILED_PRECONDITION);
    memcpy(copy, message.data, message.size < sizeof copy ? message.size : sizeof copy - 1);
    assert_non_null(strstr(copy, text));
    assert_true(
        slice_equal(registry_str(thole_registry_v1_Result_field(f->result)), slice_str(field)));
}

static void registry_pool_with_keys_has_a_count_for_ever(void **state)
{
    struct fixture *f = *state;
    struct pool_args a = {.voters = 1, .keys = SLOTS};
    assert_int_equal(apply_pool(f, "k", a), THOLE_OK);
    assert_int_equal(count_of(f, "k"), 64);
    a.count = 65;
    assert_refused(f, apply_pool(f, "k", a), "spec.count", "from 64 to 65");
    a.count = 63;
    assert_refused(f, apply_pool(f, "k", a), "spec.count", "from 64 to 63");
    a.keys = 0; /* left out: the pool keeps its keys */
    assert_refused(f, apply_pool(f, "k", a), "spec.count", "has keys");
    a.count = 0;
    a.voters = 3;
    assert_int_equal(apply_pool(f, "k", a), THOLE_OK);
    a.keys = SLOTS;
    a.count = 64;
    assert_int_equal(apply_pool(f, "k", a), THOLE_OK);
    assert_int_equal(count_of(f, "k"), 64);
    /* Keys cannot come later. */
    assert_int_equal(apply_pool(f, "p", (struct pool_args){.count = 64, .voters = 1}), THOLE_OK);
    assert_refused(f, apply_pool(f, "p", a), "spec.keys", "cannot change");
    a.count = 16384;
    assert_int_equal(apply_pool(f, "most", a), THOLE_OK);
    a.count = 16385;
    assert_int_equal(apply_pool(f, "more", a), THOLE_INVALID_ARGUMENT);
    a.count = 1;
    a.keys = 2;
    assert_int_equal(apply_pool(f, "other", a), THOLE_INVALID_ARGUMENT);
}

static void registry_pool_with_keys_gives_its_shards_slots(void **state)
{
    static const uint32_t ranges[3][2] = {{0, 5461}, {5462, 10922}, {10923, 16383}};
    struct fixture *f = *state;
    struct registry_shard_buf shard_buf;
    assert_int_equal(apply_pool(f, "k", (struct pool_args){.count = 3, .voters = 1, .keys = SLOTS}),
                     THOLE_OK);
    assert_int_equal(apply_pool(f, "p", (struct pool_args){.count = 1, .voters = 1}), THOLE_OK);
    assert_int_equal(reconcile(f, "k", 1, 2), THOLE_OK);
    assert_int_equal(reconcile(f, "k", 1, 2), THOLE_OK);
    assert_int_equal(reconcile(f, "p", 1, 2), THOLE_OK);
    struct registry_view *v = registry_view_acquire(f->r);
    for (uint32_t i = 0; i < 3; i++) {
        char name[8];
        snprintf(name, sizeof name, "k-%u", (unsigned)i);
        const thole_v1_Shard *s = registry_shard_by_name(v, slice_str(name), &shard_buf);
        assert_true(thole_v1_Shard_has_slots(s));
        assert_int_equal(thole_v1_SlotRange_first(thole_v1_Shard_slots(s)), ranges[i][0]);
        assert_int_equal(thole_v1_SlotRange_last(thole_v1_Shard_slots(s)), ranges[i][1]);
    }
    const thole_v1_Shard *plain = registry_shard_by_name(v, slice_str("p-0"), &shard_buf);
    assert_false(thole_v1_Shard_has_slots(plain));
    registry_view_release(v);
    /* The rows, and what they were made from, survive a snapshot (state_check compares them). */
    struct bytes one = {0};
    struct thole_status st;
    struct fixture other;
    fixture_save(f, &one);
    fixture_init(&other);
    assert_int_equal(fixture_restore(&other, bytes_slice(&one), &st), THOLE_OK);
    assert_int_equal(count_of(&other, "k"), 3);
    fixture_deinit(&other);

    /* A file with a pool that no slot could belong to is refused: count 3 -> 0. */
    static const uint8_t name_k[] = {0x0a, 0x01, 'k', 0x1a}; /* then the spec's length */
    uint8_t *at = memmem(one.data, one.size, name_k, sizeof name_k);
    assert_non_null(at);
    at += sizeof name_k + 1;
    assert_memory_equal(at, "\x08\x03", 2);
    at[1] = 0;
    fixture_init(&other);
    assert_int_equal(fixture_restore(&other, bytes_slice(&one), &st), THOLE_DATA_LOSS);
    assert_non_null(strstr(st.message, "bad pool"));
    fixture_deinit(&other);
    bytes_deinit(&one);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup_three, fixture_teardown)

static bool awaits(struct fixture *f, const char *name)
{
    struct registry_shard_buf buf;
    struct registry_view *v = registry_view_acquire(f->r);
    const thole_v1_Shard *row = registry_shard_by_name(v, slice_str(name), &buf);
    assert_non_null(row);
    bool yes = thole_v1_Shard_awaits_restore(row);
    registry_view_release(v);
    return yes;
}

static uint64_t create_awaiting(struct fixture *f, const char *name, uint32_t count)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_CreatePool *p =
        thole_registry_v1_Operation_mutable_create_pool(cmd_op(&c), c.arena);
    thole_v1_ShardPoolSpec *spec = thole_registry_v1_CreatePool_mutable_spec(p, c.arena);
    thole_registry_v1_CreatePool_set_name(p, upb_StringView_FromString(name));
    thole_registry_v1_CreatePool_set_awaits_restore(p, true);
    thole_v1_ShardPoolSpec_set_count(spec, count);
    fill_spec(thole_v1_ShardPoolSpec_mutable_shard(spec, c.arena), c.arena, 1, 0);
    return fixture_run(f, &c);
}

/* Only shards that are created for the first time await data: one that was given up begins empty,
 * and so do those of a larger count later. */
static void registry_pool_that_awaits_restore_forms_no_shard_empty(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(create_awaiting(f, "p", 3), THOLE_OK);
    assert_int_equal(reconcile(f, "p", 1, 2), THOLE_OK);
    assert_true(awaits(f, "p-0") && awaits(f, "p-1"));
    assert_int_equal(do_delete_shard(f, "p-1"),
                     THOLE_OK); /* while the pool is still being created */
    assert_int_equal(reconcile(f, "p", 1, 100), THOLE_OK);
    assert_int_equal(shards_of(f, "p"), 3);
    assert_true(awaits(f, "p-0") && awaits(f, "p-2"));
    assert_false(awaits(f, "p-1"));
    assert_int_equal(apply_pool(f, "p", (struct pool_args){.count = 5, .voters = 1}), THOLE_OK);
    assert_int_equal(reconcile(f, "p", 2, 100), THOLE_OK);
    assert_false(awaits(f, "p-3") || awaits(f, "p-4"));
    assert_true(awaits(f, "p-0"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(registry_pool_follows_in_bounded_steps),
        TEST(registry_pool_waits_for_a_name_that_is_being_deleted),
        TEST(registry_pool_leaves_names_of_others_alone),
        TEST(registry_pool_that_is_protected_keeps_its_shards),
        TEST(registry_pool_dry_run_says_whether_it_can_be_placed),
        TEST(registry_pool_refuses_lost_updates_and_bad_specs),
        TEST(registry_pool_is_in_snapshots_and_changes),
        TEST(registry_pool_with_keys_has_a_count_for_ever),
        TEST(registry_pool_with_keys_gives_its_shards_slots),
        TEST(registry_pool_that_awaits_restore_forms_no_shard_empty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
