/* Packed rows: no field is lost, and a row that cannot be packed is kept unpacked. */
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
static struct row *full_shard(struct row_scope *d)
{
    struct row *row = registry__row_new(d, ROW_SHARD);
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

static struct slice encode(const void *msg, enum row_kind kind, upb_Arena *arena)
{
    return registry__encode(msg, registry__row_table(kind), arena);
}

/* However a row is stored, reads and edits show its original content, and its keys are known. */
static void assert_packs(struct row_scope *d, struct row *row, bool packs)
{
    struct registry_shard_buf buf; /* the largest */
    struct slice before = encode(row->msg, row->kind, d->arena);
    struct packed *p = registry__row_pack(row, &d->scratch);
    assert_int_equal(!p->whole, packs);
    memset(&buf, 0xee, sizeof buf); /* earlier content of the buffer does not matter */
    const void *msg = registry__packed_message(p, &buf);
    assert_true(slice_equal(before, encode(msg, row->kind, d->arena)));
    const struct row *open = registry__open(d, p);
    assert_true(slice_equal(before, encode(open->msg, row->kind, d->arena)));
    const struct row *copy = registry__row_copy(d, open);
    assert_true(slice_equal(before, encode(copy->msg, row->kind, d->arena)));
    if (row->kind == ROW_SHARD) {
        assert_int_equal(registry__packed_id(p), thole_v1_Shard_id(row->shard));
        assert_true(
            slice_equal(registry__packed_name(p), registry_str(thole_v1_Shard_name(row->shard))));
    } else if (row->kind == ROW_REPLICA) {
        struct uuid host = registry__packed_host(p);
        assert_int_equal(registry__packed_id(p), thole_v1_Replica_id(row->replica));
        assert_int_equal(registry__packed_shard(p), thole_v1_Replica_shard_id(row->replica));
        assert_true(uuid_equal(&host, &row->host_id));
    } else if (row->kind == ROW_EVENT) {
        assert_int_equal(registry__packed_id(p), row->sequence);
        assert_int_equal(registry__packed_revision(p), thole_v1_Event_revision(row->event));
    } else if (row->kind == ROW_REQUEST) {
        upb_StringView id = thole_registry_v1_RememberedRequest_request_id(row->request);
        assert_int_equal(registry__packed_id(p), row->sequence);
        assert_true(slice_equal(registry__packed_name(p), registry_str(id)));
    }
    if (row->kind == ROW_REPLICA) { /* an empty string has an address, too */
        assert_non_null(thole_v1_Replica_message(msg).data);
    }
    registry__packed_unref(p);
}

static int setup(void **state)
{
    static struct row_scope d;
    registry__scope_init(&d);
    *state = &d;
    return 0;
}

static int teardown(void **state)
{
    registry__scope_deinit(*state);
    assert_int_equal(registry__shared_count(), 0);
    return 0;
}

static void test_pack_full_shard_keeps_every_field(void **state)
{
    assert_packs(*state, full_shard(*state), true);
}

static void test_pack_empty_rows_stay_empty(void **state)
{
    assert_packs(*state, registry__row_new(*state, ROW_SHARD), true);
    assert_packs(*state, registry__row_new(*state, ROW_EVENT), true);
    assert_packs(*state, registry__row_new(*state, ROW_REQUEST), true);
    assert_packs(*state, registry__row_new(*state, ROW_REPLICA), false); /* without a host */
    assert_packs(*state, registry__row_new(*state, ROW_POOL), false);
}

#define HOST "be61c5f4-43bf-43a7-8007-1f639088bc38"

static struct row *replica(struct row_scope *d, uint64_t id, const char *shard, const char *message)
{
    struct row *row = registry__row_new(d, ROW_REPLICA);
    thole_v1_Replica_set_id(row->replica, id);
    thole_v1_Replica_set_shard_id(row->replica, id / 3);
    thole_v1_Replica_set_shard(row->replica, text(shard));
    thole_v1_Replica_set_host_id(row->replica, text(HOST));
    thole_v1_Replica_set_host(row->replica, text("h1"));
    thole_v1_Replica_set_phase(row->replica, -1); /* of a later version, perhaps */
    thole_v1_Replica_set_message(row->replica, text(message));
    thole_v1_Replica_set_revision(row->replica, UINT64_MAX);
    thole_v1_Replica_set_create_time_ms(row->replica, INT64_MIN);
    thole_v1_Replica_set_initial(row->replica, id % 2 == 0);
    assert_true(uuid_parse(registry_str(text(HOST)), &row->host_id));
    return row;
}

static void test_pack_replicas_know_their_keys(void **state)
{
    assert_packs(*state, replica(*state, 0, "zero", ""), true);
    assert_packs(*state, replica(*state, 2, "", "why it failed"), true);
    assert_packs(*state, replica(*state, UINT64_MAX, "a-shard", HOST), true);
    assert_packs(*state, replica(*state, 300, HOST, ""), true); /* a name as long as an id */
    struct row *row = replica(*state, 5, "", "");
    thole_v1_Replica_set_host(row->replica, text("a-long-name-of-a-host"));
    assert_packs(*state, row, true);
}

static void test_pack_histories_know_their_sequence(void **state)
{
    struct row *event = registry__row_new(*state, ROW_EVENT);
    event->sequence = 77;
    thole_v1_Event_set_revision(event->event, 12345);
    thole_v1_Event_set_object(event->event, text("shards/a"));
    thole_v1_Event_set_message(event->event, text("na\xc3\xafve"));
    assert_packs(*state, event, true);
    struct row *request = registry__row_new(*state, ROW_REQUEST);
    request->sequence = UINT64_MAX;
    thole_registry_v1_RememberedRequest_set_request_id(request->request, text(HOST));
    thole_registry_v1_RememberedRequest_set_code(request->request, 5);
    assert_packs(*state, request, true);
}

static void test_pack_row_with_unknown_fields_is_kept_whole(void **state)
{
    const char later[] = "\xf8\x07\x01"; /* field 127, as of a later version */
    struct row *row = full_shard(*state);
    thole_v1_ShardSpec *spec = thole_v1_Shard_mutable_spec(row->shard, row->arena);
    assert_true(_upb_Message_AddUnknown((upb_Message *)spec, later, 3, row->arena));
    assert_packs(*state, row, false);
}

static void test_pack_host_with_tags_is_kept_whole(void **state)
{
    struct row *row = registry__row_new(*state, ROW_HOST);
    thole_v1_HostSpec *spec = thole_v1_Host_mutable_spec(row->host, row->arena);
    assert_true(thole_v1_HostSpec_tags_set(spec, text("zone"), text("a"), row->arena));
    assert_packs(*state, row, false);
}

/* Larger than any buffer: no command creates such a row, but a snapshot may contain it. */
static void test_pack_row_that_is_too_large_is_kept_whole(void **state)
{
    struct row *row = full_shard(*state);
    for (uint64_t i = 0; i < 1000; i++) {
        thole_v1_InitialReplica *r = thole_v1_Shard_add_initial(row->shard, row->arena);
        thole_v1_InitialReplica_set_host_id(r, text(HOST));
    }
    assert_packs(*state, row, false);
}

static void test_pack_edits_leave_the_row_and_what_it_shares_alone(void **state)
{
    struct row_scope *d = *state;
    struct registry_shard_buf buf;
    struct row *row = full_shard(d);
    struct slice before = encode(row->msg, ROW_SHARD, d->arena);
    struct packed *p = registry__row_pack(row, &d->scratch);
    struct row *edit = registry__row_copy(d, registry__open(d, p));
    thole_v1_ShardSpec *spec = thole_v1_Shard_mutable_spec(edit->shard, edit->arena);
    thole_v1_ShardSpec_set_voters(spec, 5);
    assert_non_null(thole_v1_ShardSpec_add_non_voting(spec, edit->arena));
    assert_non_null(thole_v1_Shard_add_initial(edit->shard, edit->arena));
    assert_true(
        slice_equal(before, encode(registry__packed_message(p, &buf), ROW_SHARD, d->arena)));
    assert_packs(d, edit, true);
    registry__packed_unref(p);
}

static struct packed *with_parts(struct row_scope *d, const char *name, int64_t time_ms)
{
    struct row *row = full_shard(d);
    thole_v1_Shard_set_name(row->shard, text(name));
    thole_v1_ShardStatus *status = thole_v1_Shard_mutable_status(row->shard, row->arena);
    const char *types[] = {"Placed", "Ready"};
    for (int i = 0; i < 2; i++) {
        thole_v1_Condition *c = thole_v1_ShardStatus_add_conditions(status, row->arena);
        thole_v1_Condition_set_type(c, text(types[i]));
        thole_v1_Condition_set_message(c,
                                       text(HOST)); /* as long as an id, in a part that is shared */
        thole_v1_Condition_set_transition_time_ms(c, time_ms);
    }
    for (uint64_t i = 0; i < 2; i++) {
        thole_v1_InitialReplica *r = thole_v1_Shard_add_initial(row->shard, row->arena);
        thole_v1_InitialReplica_set_host_id(r, text(HOST));
    }
    thole_v1_Shard_set_pool(row->shard, text("many-shards"));
    thole_v1_ShardStatus_set_leader_host(status, text("h1")); /* as short as a reference */
    return registry__row_pack(row, &d->scratch);
}

static const thole_v1_ShardSpec *spec_of(const struct packed *p)
{
    struct registry_shard_buf buf;
    return thole_v1_Shard_spec(registry__packed_message(p, &buf));
}

/* A spec, two conditions of each time, a host id and a pool name are each stored once. They are
 * freed with the last row that refers to them. */
static void test_pack_rows_share_what_they_have_in_common(void **state)
{
    struct row_scope *d = *state;
    assert_int_equal(registry__shared_count(), 0);
    struct packed *a = with_parts(d, "a", 1);
    assert_int_equal(registry__shared_count(), 5);
    struct packed *b = with_parts(d, "b", 1);
    assert_int_equal(registry__shared_count(), 5);
    assert_ptr_equal(spec_of(a), spec_of(b));
    struct packed *c = with_parts(d, "c", 2);
    assert_int_equal(registry__shared_count(), 7);
    registry__packed_unref(a);
    assert_int_equal(registry__shared_count(), 7);
    registry__packed_unref(c);
    assert_int_equal(registry__shared_count(), 5);
    registry__packed_unref(b);
    assert_int_equal(registry__shared_count(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_pack_full_shard_keeps_every_field, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pack_empty_rows_stay_empty, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pack_replicas_know_their_keys, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pack_histories_know_their_sequence, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pack_row_with_unknown_fields_is_kept_whole, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_pack_host_with_tags_is_kept_whole, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pack_row_that_is_too_large_is_kept_whole, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_pack_edits_leave_the_row_and_what_it_shares_alone,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_pack_rows_share_what_they_have_in_common, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
