/* Packed rows: nothing is lost, and what cannot be packed stays as it is. */
#include "registry/registry_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static upb_StringView text(const char *s)
{
    return upb_StringView_FromString(s);
}

static void add_constraint(thole_v1_Constraint *c, upb_Arena *a)
{
    thole_v1_Constraint_set_key(c, text("zone"));
    thole_v1_Constraint_set_operator(c, thole_v1_CONSTRAINT_OPERATOR_IN);
    assert_true(thole_v1_Constraint_add_values(c, text("a"), a));
    assert_true(thole_v1_Constraint_add_values(c, text(""), a));
    assert_true(thole_v1_Constraint_add_values(c, text("a longer value"), a));
}

/* Every kind of field, and arrays within arrays. */
static struct row *full_shard(void)
{
    struct row *row = registry__row_new(ROW_SHARD);
    upb_Arena *a = row->arena;
    thole_v1_Shard *s = row->shard;
    thole_v1_Shard_set_name(s, text("orders"));
    thole_v1_Shard_set_id(s, 7);
    thole_v1_Shard_set_revision(s, UINT64_MAX);
    thole_v1_Shard_set_create_time_ms(s, -5);
    thole_v1_Shard_set_deleting(s, true);
    thole_v1_ShardSpec *spec = thole_v1_Shard_mutable_spec(s, a);
    thole_v1_ShardSpec_set_type(spec, text("kv"));
    thole_v1_ShardSpec_set_config(spec, upb_StringView_FromDataAndSize("\0\1\2", 3));
    thole_v1_ShardSpec_set_voters(spec, 3);
    thole_v1_ReplicaGroup *group = thole_v1_ShardSpec_add_non_voting(spec, a);
    thole_v1_ReplicaGroup_set_cover(group, true);
    add_constraint(thole_v1_ReplicaGroup_add_constraints(group, a), a);
    (void)thole_v1_ShardSpec_add_non_voting(spec, a);
    add_constraint(thole_v1_ShardSpec_add_constraints(spec, a), a);
    assert_true(thole_v1_ShardSpec_add_spread(spec, text("rack"), a));
    (void)thole_v1_Shard_mutable_status(s, a); /* there, and empty */
    for (uint64_t i = 1; i <= 5; i++) {
        thole_v1_InitialReplica *initial = thole_v1_Shard_add_initial(s, a);
        thole_v1_InitialReplica_set_replica_id(initial, i);
        thole_v1_InitialReplica_set_host_id(initial, text("0123"));
    }
    return row;
}

static void assert_packs(struct row *row, bool packs)
{
    upb_Arena *scratch = upb_Arena_New();
    const upb_MiniTable *table = registry__row_table(row->kind);
    struct slice before = registry__encode(row->msg, table, scratch);
    registry__row_pack(row);
    assert_int_equal(row->arena == NULL, packs);
    assert_true(slice_equal(before, registry__encode(row->msg, table, scratch)));
    registry__row_pack(row); /* again: nothing */
    struct row *copy = registry__row_copy(row);
    assert_non_null(copy->arena); /* to be edited */
    assert_true(slice_equal(before, registry__encode(copy->msg, table, scratch)));
    registry__row_unref(copy);
    registry__row_unref(row);
    upb_Arena_Free(scratch);
}

static void test_pack_full_shard_keeps_every_field(void **state)
{
    (void)state;
    assert_packs(full_shard(), true);
}

static void test_pack_empty_rows_stay_empty(void **state)
{
    (void)state;
    assert_packs(registry__row_new(ROW_SHARD), true);
    assert_packs(registry__row_new(ROW_REPLICA), true);
}

static void test_pack_row_with_unknown_fields_is_left_alone(void **state)
{
    (void)state;
    const char later[] = "\xf8\x07\x01"; /* field 127, as of a later version */
    struct row *row = full_shard();
    thole_v1_ShardSpec *spec = thole_v1_Shard_mutable_spec(row->shard, row->arena);
    assert_true(_upb_Message_AddUnknown((upb_Message *)spec, later, 3, row->arena));
    assert_packs(row, false);
}

static void test_pack_host_with_tags_is_left_alone(void **state)
{
    (void)state;
    struct row *row = registry__row_new(ROW_HOST);
    thole_v1_HostSpec *spec = thole_v1_Host_mutable_spec(row->host, row->arena);
    assert_true(thole_v1_HostSpec_tags_set(spec, text("zone"), text("a"), row->arena));
    assert_packs(row, false);
}

static struct row *with_parts(const char *name, int64_t time_ms)
{
    static const char host[] = "be61c5f4-43bf-43a7-8007-1f639088bc38";
    struct row *row = full_shard();
    thole_v1_Shard_set_name(row->shard, text(name));
    thole_v1_ShardStatus *status = thole_v1_Shard_mutable_status(row->shard, row->arena);
    const char *types[] = {"Placed", "Ready"};
    for (int i = 0; i < 2; i++) {
        thole_v1_Condition *c = thole_v1_ShardStatus_add_conditions(status, row->arena);
        thole_v1_Condition_set_type(c, text(types[i]));
        thole_v1_Condition_set_message(c,
                                       text(host)); /* as long as an id, in a part that is shared */
        thole_v1_Condition_set_transition_time_ms(c, time_ms);
    }
    for (uint64_t i = 0; i < 2; i++) {
        thole_v1_InitialReplica *r = thole_v1_Shard_add_initial(row->shard, row->arena);
        thole_v1_InitialReplica_set_host_id(r, text(host));
    }
    return row;
}

/* A spec, two conditions of each time, an id of a host: held once, and as long as some row has them. */
static void test_pack_rows_share_what_they_have_in_common(void **state)
{
    (void)state;
    struct row *a = with_parts("a", 1);
    struct row *b = with_parts("b", 1);
    struct row *c = with_parts("c", 2);
    assert_int_equal(registry__shared_count(), 0);
    registry__row_pack(a);
    assert_int_equal(registry__shared_count(), 4);
    registry__row_pack(b);
    assert_int_equal(registry__shared_count(), 4);
    assert_ptr_equal(thole_v1_Shard_spec(a->shard), thole_v1_Shard_spec(b->shard));
    registry__row_pack(c);
    assert_int_equal(registry__shared_count(), 6);
    registry__row_unref(a);
    assert_int_equal(registry__shared_count(), 6);
    registry__row_unref(c);
    assert_int_equal(registry__shared_count(), 4);
    assert_packs(registry__row_copy(b), true);
    assert_int_equal(registry__shared_count(), 4);
    registry__row_unref(b);
    assert_int_equal(registry__shared_count(), 0);
    assert_packs(with_parts("d", 3), true);
    assert_int_equal(registry__shared_count(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pack_full_shard_keeps_every_field),
        cmocka_unit_test(test_pack_empty_rows_stay_empty),
        cmocka_unit_test(test_pack_row_with_unknown_fields_is_left_alone),
        cmocka_unit_test(test_pack_host_with_tags_is_left_alone),
        cmocka_unit_test(test_pack_rows_share_what_they_have_in_common),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
