/* A new cluster from the registry of a lost cluster: what is kept, what is dropped. No shard of it
 * forms empty before an operator has confirmed that. */
#include "registry/placement/placement.h"
#include "registry/test/registry_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define HOST 9
#define FILE_NAME "0f3a-1"

struct both {
    struct fixture old, new;
    struct registry_refounded done;
};

static enum thole_code refound(struct both *b, const struct registry_refound *o,
                               struct thole_status *st)
{
    struct bytes in = {0}, out = {0};
    fixture_save(&b->old, &in);
    enum thole_code code = registry_refound(bytes_slice(&in), o, &out, &b->done, st);
    if (code == THOLE_OK) {
        struct thole_status why;
        assert_int_equal(fixture_restore(&b->new, bytes_slice(&out), &why), THOLE_OK);
    } else {
        assert_int_equal(out.size, 0);
    }
    bytes_deinit(&in);
    bytes_deinit(&out);
    return code;
}

static struct registry_refound options(void)
{
    return (struct registry_refound){.cluster = test_uuid(77),
                                     .host = test_uuid(HOST),
                                     .host_name = "h9",
                                     .seed_file = FILE_NAME,
                                     .index = 12,
                                     .time_ms = 1000};
}

static void refound_ok(struct both *b)
{
    struct registry_refound o = options();
    struct thole_status st = {0};
    if (refound(b, &o, &st) != THOLE_OK) {
        fail_msg("%s", st.message);
    }
    assert_int_equal(do_admit(&b->new, HOST, 1), THOLE_OK);
}

static int setup(void **state)
{
    static struct both b;
    memset(&b, 0, sizeof b);
    fixture_init(&b.old);
    fixture_init(&b.new);
    *state = &b;
    return do_bootstrap(&b.old, 3) == THOLE_OK ? 0 : -1;
}

static int teardown(void **state)
{
    struct both *b = *state;
    struct registry_view *v = registry_view_acquire(b->new.r);
    check_invariants(v);
    registry_view_release(v);
    fixture_deinit(&b->old);
    fixture_deinit(&b->new);
    return 0;
}

static uint64_t id_of(struct fixture *f, const char *name)
{
    struct registry_shard_buf shard_buf;
    struct registry_view *v = registry_view_acquire(f->r);
    const thole_v1_Shard *s = registry_shard_by_name(v, slice_str(name), &shard_buf);
    uint64_t id = s == NULL ? UINT64_MAX : thole_v1_Shard_id(s);
    registry_view_release(v);
    return id;
}

static bool awaits(struct fixture *f, const char *name)
{
    struct registry_shard_buf shard_buf;
    struct registry_view *v = registry_view_acquire(f->r);
    const thole_v1_Shard *s = registry_shard_by_name(v, slice_str(name), &shard_buf);
    assert_non_null(s);
    bool yes = thole_v1_Shard_awaits_restore(s);
    registry_view_release(v);
    return yes;
}

static size_t events(struct fixture *f, const char *reason)
{
    struct registry_event_buf event_buf;
    struct registry_view *v = registry_view_acquire(f->r);
    uint64_t it = 0;
    size_t n = 0;
    const thole_v1_Event *e;
    while ((e = registry_next_event(v, 0, &it, &event_buf)) != NULL) {
        n += slice_equal(registry_str(thole_v1_Event_reason(e)), slice_str(reason));
    }
    registry_view_release(v);
    return n;
}

static uint64_t restore_type(struct fixture *f, const char *name, const char *type)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_RestoreShard *o =
        thole_registry_v1_Operation_mutable_restore_shard(cmd_op(&c), c.arena);
    thole_v1_ShardSpec *spec = thole_registry_v1_RestoreShard_mutable_spec(o, c.arena);
    thole_registry_v1_RestoreShard_set_name(o, upb_StringView_FromString(name));
    fill_spec(spec, c.arena, 1, 0);
    thole_v1_ShardSpec_set_type(spec, upb_StringView_FromString(type));
    thole_v1_ShardSeed *seed = thole_registry_v1_RestoreShard_mutable_seed(o, c.arena);
    thole_v1_ShardSeed_set_host_id(seed, upb_StringView_FromString(test_uuid_text(HOST)));
    thole_v1_ShardSeed_set_file(seed, upb_StringView_FromString("0f3a-2"));
    return fixture_run(f, &c);
}

static uint64_t restore(struct fixture *f, const char *name)
{
    return restore_type(f, name, "kv");
}

static uint64_t last_operation(struct fixture *f)
{
    return thole_v1_Operation_id(thole_registry_v1_Result_operation(f->result));
}

static uint64_t cancel(struct fixture *f, uint64_t id)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_CancelOperation_set_id(
        thole_registry_v1_Operation_mutable_cancel_operation(cmd_op(&c), c.arena), id);
    return fixture_run(f, &c);
}

static uint64_t first_replica(struct fixture *f, uint64_t shard)
{
    struct registry_replica_buf replica_buf;
    struct registry_view *v = registry_view_acquire(f->r);
    const thole_v1_Replica *r = registry_next_replica_of_shard(v, shard, 0, &replica_buf);
    uint64_t id = r == NULL ? 0 : thole_v1_Replica_id(r);
    registry_view_release(v);
    return id;
}

static void pool(struct fixture *f, const char *name, uint32_t count, uint32_t limit)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_UpdatePool *u =
        thole_registry_v1_Operation_mutable_update_pool(cmd_op(&c), c.arena);
    thole_v1_ShardPoolSpec *spec = thole_registry_v1_UpdatePool_mutable_spec(u, c.arena);
    thole_registry_v1_UpdatePool_set_name(u, upb_StringView_FromString(name));
    thole_registry_v1_UpdatePool_set_allow_missing(u, true);
    thole_v1_ShardPoolSpec_set_count(spec, count);
    fill_spec(thole_v1_ShardPoolSpec_mutable_shard(spec, c.arena), c.arena, 1, 0);
    assert_int_equal(fixture_run(f, &c), THOLE_OK);
    struct registry_view *v = registry_view_acquire(f->r);
    uint64_t generation = thole_v1_ShardPool_generation(registry_pool_by_name(v, slice_str(name)));
    registry_view_release(v);
    c = cmd_new("placement");
    thole_registry_v1_ReconcilePool *o =
        thole_registry_v1_Operation_mutable_reconcile_pool(cmd_op(&c), c.arena);
    thole_registry_v1_ReconcilePool_set_name(o, upb_StringView_FromString(name));
    thole_registry_v1_ReconcilePool_set_generation(o, generation);
    thole_registry_v1_ReconcilePool_set_limit(o, limit);
    assert_int_equal(fixture_run(f, &c), THOLE_OK);
}

/* ---- Kept and dropped ------------------------------------------------------------------------ */

static void registry_refound_keeps_what_was_wanted_and_drops_what_was_there(void **state)
{
    struct registry_replica_buf replica_buf, replica_buf2;
    struct registry_shard_buf shard_buf, shard_buf2;
    struct both *b = *state;
    assert_int_equal(do_create_shard(&b->old, "orders", 3, 0), THOLE_OK);
    uint64_t id = id_of(&b->old, "orders");
    assert_int_equal(do_place(&b->old, id, 0, 3), THOLE_OK);
    assert_int_equal(do_formed(&b->old, id, first_replica(&b->old, id), 3), THOLE_OK);
    assert_int_equal(do_create_shard(&b->old, "going", 3, 0), THOLE_OK);
    assert_int_equal(do_place(&b->old, id_of(&b->old, "going"), 0, 3), THOLE_OK);
    assert_int_equal(do_delete_shard(&b->old, "going"), THOLE_OK);
    size_t before = events(&b->old, "ShardCreated");
    struct registry_view *was = registry_view_acquire(b->old.r);
    refound_ok(b);

    struct registry_view *v = registry_view_acquire(b->new.r);
    struct uuid cluster;
    assert_true(registry_view_cluster(v, &cluster));
    struct uuid expected = test_uuid(77);
    assert_true(uuid_equal(&cluster, &expected));
    assert_int_equal(b->done.hosts, 3);
    assert_int_equal(b->done.shards, 1);
    assert_int_equal(b->done.revision, registry_view_revision(was));
    /* Ids and revisions are beyond any that the old cluster can have assigned. */
    assert_true(b->done.replica_id > registry_next_replica_id(was) + 1000000);
    assert_true(registry_view_revision(v) > registry_view_revision(was) + 1000000);
    /* One host, one replica: shard zero's, founded on the file. */
    const thole_v1_Host *host = registry_next_host(v, (struct slice){0});
    assert_true(slice_equal(registry_str(thole_v1_Host_name(host)), slice_str("h9")));
    assert_null(registry_next_host(v, registry_str(thole_v1_Host_name(host))));
    const thole_v1_Replica *r = registry_next_replica(v, 0, &replica_buf);
    assert_int_equal(thole_v1_Replica_id(r), b->done.replica_id);
    assert_int_equal(thole_v1_Replica_shard_id(r), REGISTRY_SHARD_ID);
    assert_true(thole_v1_Replica_initial(r));
    assert_null(registry_next_replica(v, b->done.replica_id, &replica_buf2));
    const thole_v1_Shard *zero = registry_shard(v, REGISTRY_SHARD_ID, &shard_buf);
    assert_int_equal(thole_v1_ShardSpec_voters(thole_v1_Shard_spec(zero)), 1);
    assert_false(thole_v1_Shard_awaits_restore(zero));
    assert_true(slice_equal(registry_str(thole_v1_ShardSeed_file(thole_v1_Shard_seed(zero))),
                            slice_str(FILE_NAME)));
    /* The host's first report after its start is accepted, including its tags. */
    assert_int_equal(thole_v1_HostSpec_tags_size(thole_v1_Host_spec(host)), 2);

    const thole_v1_Shard *orders = registry_shard_by_name(v, slice_str("orders"), &shard_buf2);
    assert_int_equal(thole_v1_Shard_id(orders), id);
    assert_int_equal(thole_v1_ShardSpec_voters(thole_v1_Shard_spec(orders)), 3);
    assert_true(thole_v1_Shard_awaits_restore(orders));
    assert_false(thole_v1_ShardStatus_formed(thole_v1_Shard_status(orders)));
    assert_false(registry_has_shard_name(v, slice_str("going")));
    registry_view_release(v);
    registry_view_release(was);

    assert_int_equal(events(&b->new, "ShardCreated"), before);
    assert_int_equal(events(&b->new, "HostLost"), 3);
    assert_int_equal(events(&b->new, "RegistryRestored"), 1);
    assert_int_equal(do_create_shard(&b->new, "later", 1, 0), THOLE_OK);
    assert_true(id_of(&b->new, "later") > id + 1000000);
}

static void registry_refound_cancels_what_was_under_way(void **state)
{
    struct both *b = *state;
    struct cmd c = cmd_new("user");
    thole_registry_v1_StartOperation *o =
        thole_registry_v1_Operation_mutable_start_operation(cmd_op(&c), c.arena);
    thole_registry_v1_StartOperation_set_kind(o, thole_v1_OPERATION_KIND_DRAIN);
    thole_registry_v1_StartOperation_set_host(o, upb_StringView_FromString("h2"));
    assert_int_equal(fixture_run(&b->old, &c), THOLE_OK);
    uint64_t id = last_operation(&b->old);
    refound_ok(b);
    struct registry_view *v = registry_view_acquire(b->new.r);
    assert_int_equal(thole_v1_Operation_state(registry_operation(v, id)),
                     thole_v1_OPERATION_STATE_CANCELLED);
    registry_view_release(v);
}

static void registry_refound_refuses_what_is_no_registry(void **state)
{
    struct both *b = *state;
    struct bytes in = {0}, out = {0};
    struct registry_refound o = options();
    struct registry_refounded done;
    struct thole_status st = {0};
    fixture_save(&b->old, &in);
    assert_int_equal(registry_refound(slice_str("nonsense"), &o, &out, &done, &st),
                     THOLE_DATA_LOSS);
    for (size_t cut = 0; cut < in.size; cut++) { /* unpacked records are a valid registry, too */
        struct registry_refounded ignored;
        struct bytes some = {0};
        enum thole_code code = registry_refound(slice_of(in.data, cut), &o, &some, &ignored, &st);
        assert_true((code == THOLE_OK) == (some.size > 0));
        assert_true(code != THOLE_OK || cut > in.size / 3);
        bytes_deinit(&some);
    }
    o.host_name = "not a name";
    assert_int_equal(registry_refound(bytes_slice(&in), &o, &out, &done, &st),
                     THOLE_INVALID_ARGUMENT);
    fixture_deinit(&b->old);
    fixture_init(&b->old); /* never bootstrapped */
    o = options();
    assert_int_equal(refound(b, &o, &st), THOLE_DATA_LOSS);
    assert_int_equal(out.size, 0);
    bytes_deinit(&in);
}

/* ---- Shards that await their data ------------------------------------------------------------ */

static void registry_awaiting_shard_is_not_placed(void **state)
{
    struct registry_shard_buf shard_buf;
    struct both *b = *state;
    assert_int_equal(do_create_shard(&b->old, "orders", 1, 0), THOLE_OK);
    refound_ok(b);
    uint64_t id = id_of(&b->new, "orders");
    assert_int_equal(do_place(&b->new, id, HOST, 1), THOLE_FAILED_PRECONDITION);
    assert_int_equal(do_create_replica(&b->new, "orders", HOST, thole_v1_REPLICA_ROLE_NON_VOTING),
                     THOLE_FAILED_PRECONDITION);
    upb_Arena *arena = upb_Arena_New();
    struct registry_view *v = registry_view_acquire(b->new.r);
    thole_registry_v1_Command *c = thole_registry_v1_Command_new(arena);
    struct placement_options o = {0};
    struct placement_result r;
    size_t count = 0;
    const thole_v1_Shard *shard = registry_shard(v, id, &shard_buf);
    placement_decide(v, shard, &o, c, arena, &r);
    assert_int_equal(r.verdict, PLACEMENT_WAIT);
    assert_non_null(strstr(r.explanation, "restore a snapshot"));
    thole_registry_v1_Command_operations(c, &count);
    assert_int_equal(count, 0);
    assert_true(placement_conditions(v, shard, &r, c, arena));
    const thole_v1_ShardStatus *status =
        thole_registry_v1_ObserveShard_status(thole_registry_v1_Operation_observe_shard(
            thole_registry_v1_Command_operations(c, &count)[0]));
    const thole_v1_Condition *placed = thole_v1_ShardStatus_conditions(status, &count)[0];
    assert_false(thole_v1_Condition_status(placed));
    assert_true(
        slice_equal(registry_str(thole_v1_Condition_reason(placed)), slice_str("AwaitsRestore")));
    registry_view_release(v);
    upb_Arena_Free(arena);
}

static void registry_awaiting_shard_is_restored_under_its_spec_and_serves(void **state)
{
    struct registry_shard_buf shard_buf;
    struct both *b = *state;
    assert_int_equal(do_create_shard(&b->old, "orders", 3, 0), THOLE_OK);
    refound_ok(b);
    assert_int_equal(restore_type(&b->new, "orders", "counter"), THOLE_FAILED_PRECONDITION);
    uint64_t id = id_of(&b->new, "orders");
    assert_int_equal(restore(&b->new, "orders"), THOLE_OK);
    uint64_t operation = last_operation(&b->new);
    assert_int_equal(id_of(&b->new, "orders"), id);
    assert_int_equal(restore(&b->new, "orders"), THOLE_FAILED_PRECONDITION);
    assert_true(awaits(&b->new, "orders"));
    assert_int_equal(do_formed(&b->new, id, first_replica(&b->new, id), 3), THOLE_OK);
    assert_false(awaits(&b->new, "orders"));
    struct registry_view *v = registry_view_acquire(b->new.r);
    assert_int_equal(
        thole_v1_ShardSpec_voters(thole_v1_Shard_spec(registry_shard(v, id, &shard_buf))), 3);
    registry_view_release(v);
    assert_int_equal(cancel(&b->new, operation), THOLE_FAILED_PRECONDITION);
}

/* The replica of an aborted restore is removed; then the shard is as before, under another id. */
static void finish_removal(struct fixture *f, uint64_t replica)
{
    assert_int_equal(do_observe(f, replica, thole_v1_REPLICA_PHASE_GONE, 0), THOLE_OK);
}

static void registry_awaiting_shard_awaits_again_after_a_cancelled_restore(void **state)
{
    struct both *b = *state;
    assert_int_equal(do_create_shard(&b->old, "orders", 3, 0), THOLE_OK);
    refound_ok(b);
    uint64_t id = id_of(&b->new, "orders");
    assert_int_equal(restore(&b->new, "orders"), THOLE_OK);
    uint64_t replica = first_replica(&b->new, id);
    assert_int_equal(cancel(&b->new, last_operation(&b->new)), THOLE_OK);
    assert_int_equal(restore(&b->new, "orders"), THOLE_FAILED_PRECONDITION);
    finish_removal(&b->new, replica);
    assert_true(awaits(&b->new, "orders"));
    assert_true(id_of(&b->new, "orders") > id);
    assert_int_equal(first_replica(&b->new, id_of(&b->new, "orders")), 0);
    assert_int_equal(restore(&b->new, "orders"), THOLE_OK);
}

static void registry_awaiting_shard_awaits_again_after_a_failed_restore(void **state)
{
    struct registry_shard_buf shard_buf;
    struct both *b = *state;
    assert_int_equal(do_create_shard(&b->old, "orders", 3, 0), THOLE_OK);
    pool(&b->old, "p", 2, 100);
    refound_ok(b);
    static const char *const names[] = {"orders", "p-1"};
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(restore(&b->new, names[i]), THOLE_OK);
        uint64_t replica = first_replica(&b->new, id_of(&b->new, names[i]));
        struct cmd c = cmd_new("operations");
        thole_registry_v1_DeleteShard *d =
            thole_registry_v1_Operation_mutable_delete_shard(cmd_op(&c), c.arena);
        thole_registry_v1_DeleteShard_set_name(d, upb_StringView_FromString(names[i]));
        thole_registry_v1_DeleteShard_set_restore_failed(d, true);
        assert_int_equal(fixture_run(&b->new, &c), THOLE_OK);
        finish_removal(&b->new, replica);
        assert_true(awaits(&b->new, names[i]));
    }
    struct registry_view *v = registry_view_acquire(b->new.r);
    assert_true(slice_equal(
        registry_str(thole_v1_Shard_pool(registry_shard_by_name(v, slice_str("p-1"), &shard_buf))),
        slice_str("p")));
    registry_view_release(v);
}

static void registry_awaiting_shard_is_deleted_for_good(void **state)
{
    struct both *b = *state;
    assert_int_equal(do_create_shard(&b->old, "orders", 1, 0), THOLE_OK);
    assert_int_equal(do_create_shard(&b->old, "other", 1, 0), THOLE_OK);
    refound_ok(b);
    assert_int_equal(do_delete_shard(&b->new, "orders"), THOLE_OK);
    assert_int_equal(id_of(&b->new, "orders"), UINT64_MAX);
    assert_int_equal(do_create_shard(&b->new, "orders", 1, 0), THOLE_OK);
    assert_false(awaits(&b->new, "orders"));
    assert_int_equal(do_place(&b->new, id_of(&b->new, "orders"), HOST, 1), THOLE_OK);
    /* Also while an aborted restore is being rolled back. */
    assert_int_equal(restore(&b->new, "other"), THOLE_OK);
    uint64_t replica = first_replica(&b->new, id_of(&b->new, "other"));
    assert_int_equal(cancel(&b->new, last_operation(&b->new)), THOLE_OK);
    assert_int_equal(do_delete_shard(&b->new, "other"), THOLE_OK);
    finish_removal(&b->new, replica);
    assert_int_equal(id_of(&b->new, "other"), UINT64_MAX);
}

static void registry_awaiting_pool_is_whole_and_its_shards_are_given_up_one_by_one(void **state)
{
    struct both *b = *state;
    pool(&b->old, "p", 5, 2); /* p-2 and on are made after the snapshot */
    refound_ok(b);
    assert_int_equal(b->done.shards, 5);
    pool(&b->new, "p", 5, 100);
    for (uint32_t i = 0; i < 5; i++) {
        char name[16];
        snprintf(name, sizeof name, "p-%u", i);
        assert_true(awaits(&b->new, name));
    }
    uint64_t id = id_of(&b->new, "p-3");
    assert_int_equal(do_delete_shard(&b->new, "p-3"), THOLE_OK);
    assert_false(awaits(&b->new, "p-3"));
    assert_true(id_of(&b->new, "p-3") > id);
    assert_int_equal(do_delete_shard(&b->new, "p-3"), THOLE_FAILED_PRECONDITION);
    assert_true(awaits(&b->new, "p-4"));
    pool(&b->new, "p", 3, 100); /* after the pool shrinks, its other shards are gone permanently */
    assert_int_equal(id_of(&b->new, "p-4"), UINT64_MAX);
}

/* ---- Restored again -------------------------------------------------------------------------- */

/* The registry of `from` becomes that of `to`, which drops its own state. */
static void refound_into(struct both *b, struct fixture *from, struct fixture *to, uint8_t cluster)
{
    struct bytes in = {0}, out = {0};
    struct registry_refound o = options();
    struct thole_status st = {0};
    o.cluster = test_uuid(cluster);
    fixture_save(from, &in);
    if (registry_refound(bytes_slice(&in), &o, &out, &b->done, &st) != THOLE_OK) {
        fail_msg("%s", st.message);
    }
    fixture_deinit(to);
    fixture_init(to);
    assert_int_equal(fixture_restore(to, bytes_slice(&out), &st), THOLE_OK);
    assert_int_equal(do_admit(to, HOST, 1), THOLE_OK);
    bytes_deinit(&in);
    bytes_deinit(&out);
}

static bool has_seed(struct fixture *f, const char *name)
{
    struct registry_shard_buf shard_buf;
    struct registry_view *v = registry_view_acquire(f->r);
    const thole_v1_Shard *s = registry_shard_by_name(v, slice_str(name), &shard_buf);
    assert_non_null(s);
    bool yes = thole_v1_Shard_has_seed(s);
    assert_true(yes == (thole_v1_Shard_seed(s) != NULL));
    registry_view_release(v);
    return yes;
}

static void registry_refound_takes_what_was_restored_again_and_again(void **state)
{
    struct both *b = *state;
    assert_int_equal(do_create_shard(&b->old, "orders", 3, 0), THOLE_OK);
    assert_int_equal(do_create_shard(&b->old, "begun", 3, 0), THOLE_OK);
    refound_ok(b);
    for (uint8_t i = 0; i < 4; i++) {
        struct fixture *from = i % 2 == 0 ? &b->new : &b->old;
        struct fixture *to = i % 2 == 0 ? &b->old : &b->new;
        uint64_t id = id_of(from, "orders");
        assert_int_equal(restore(from, "orders"), THOLE_OK);
        assert_int_equal(do_formed(from, id, first_replica(from, id), 3), THOLE_OK);
        assert_int_equal(restore(from, "begun"), THOLE_OK); /* under way when the file was made */
        assert_true(has_seed(from, "orders"));
        refound_into(b, from, to, (uint8_t)(80 + i));
        assert_true(awaits(to, "orders"));
        assert_true(awaits(to, "begun"));
        assert_false(has_seed(to, "orders"));
        assert_false(has_seed(to, "begun"));
        assert_true(has_seed(to, REGISTRY_SHARD_NAME));
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(registry_refound_keeps_what_was_wanted_and_drops_what_was_there),
        TEST(registry_refound_cancels_what_was_under_way),
        TEST(registry_refound_refuses_what_is_no_registry),
        TEST(registry_refound_takes_what_was_restored_again_and_again),
        TEST(registry_awaiting_shard_is_not_placed),
        TEST(registry_awaiting_shard_is_restored_under_its_spec_and_serves),
        TEST(registry_awaiting_shard_awaits_again_after_a_cancelled_restore),
        TEST(registry_awaiting_shard_awaits_again_after_a_failed_restore),
        TEST(registry_awaiting_shard_is_deleted_for_good),
        TEST(registry_awaiting_pool_is_whole_and_its_shards_are_given_up_one_by_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
