/* Each operation and each invariant, through the machine's own interface. */
#include "registry/registry_internal.h"
#include "registry/test/registry_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define VOTER thole_v1_REPLICA_ROLE_VOTER
#define NON_VOTING thole_v1_REPLICA_ROLE_NON_VOTING

static int setup(void **state)
{
    static struct fixture f;
    fixture_init(&f);
    *state = &f;
    return 0;
}

#define EXPECT(f, expr, code, reason)                   \
    do {                                                \
        assert_int_equal((expr), (code));               \
        assert_string_equal(fixture_reason(f), reason); \
    } while (0)
#define EXPECT_OK(f, expr) EXPECT(f, expr, THOLE_OK, "")

/* On the three hosts. */
static void zero_serves(struct fixture *f)
{
    EXPECT_OK(f, do_formed(f, 0, 1, 1));
    for (uint64_t id = 1; id <= 3; id++) {
        EXPECT_OK(f, do_observe(f, id, thole_v1_REPLICA_PHASE_RUNNING, 0));
    }
}

static const thole_v1_Replica *replica_row(struct fixture *f, uint64_t id)
{
    static struct registry_replica_buf bufs[4]; /* of the last four */
    static size_t next;
    struct registry_view *v = registry_view_acquire(f->r);
    const thole_v1_Replica *r = registry_replica(v, id, &bufs[next++ % 4]);
    registry_view_release(v); /* the machine's own view keeps it until the next command */
    return r;
}

static const thole_v1_Shard *shard_row(struct fixture *f, uint64_t id)
{
    static struct registry_shard_buf bufs[4];
    static size_t next;
    struct registry_view *v = registry_view_acquire(f->r);
    const thole_v1_Shard *s = registry_shard(v, id, &bufs[next++ % 4]);
    registry_view_release(v);
    return s;
}

static const thole_v1_Host *host_row(struct fixture *f, uint64_t n)
{
    struct registry_view *v = registry_view_acquire(f->r);
    struct uuid id = test_uuid(n);
    const thole_v1_Host *h = registry_host(v, &id);
    registry_view_release(v);
    return h;
}

static uint64_t revision(struct fixture *f)
{
    struct registry_view *v = registry_view_acquire(f->r);
    uint64_t r = registry_view_revision(v);
    registry_view_release(v);
    return r;
}

static void test_bootstrap_makes_cluster_once(void **state)
{
    struct registry_shard_buf shard_buf;
    struct registry_replica_buf replica_buf;
    struct fixture *f = *state;
    EXPECT(f, do_create_shard(f, "a", 1, 0), THOLE_FAILED_PRECONDITION, "NOT_READY");
    EXPECT_OK(f, do_bootstrap(f, 3));
    assert_int_equal(revision(f), 1);
    struct registry_view *v = registry_view_acquire(f->r);
    struct uuid cluster;
    assert_true(registry_view_cluster(v, &cluster));
    assert_memory_equal(cluster.bytes, "0123456789abcdef", 16);
    const thole_v1_Shard *zero = registry_shard_by_name(v, slice_str("zero"), &shard_buf);
    size_t count = 0;
    thole_v1_Shard_initial(zero, &count);
    assert_int_equal(count, 3);
    for (uint64_t i = 0; i < 3; i++) {
        const thole_v1_Replica *r = registry_replica(v, i + 1, &replica_buf);
        assert_true(thole_v1_Replica_initial(r));
        assert_int_equal(thole_v1_Replica_role(r), VOTER);
        char name[8];
        snprintf(name, sizeof name, "h%d", (int)i);
        assert_true(slice_equal(registry_str(thole_v1_Replica_host(r)), slice_str(name)));
    }
    assert_int_equal(registry_next_replica_id(v), 4);
    registry_view_release(v);
    EXPECT_OK(f, do_bootstrap(f, 1));
    assert_int_equal(revision(f), 1);

    struct cmd c = cmd_new("user");
    thole_registry_v1_Bootstrap *b =
        thole_registry_v1_Operation_mutable_bootstrap(cmd_op(&c), c.arena);
    thole_registry_v1_Bootstrap_set_cluster_id(
        b, upb_StringView_FromDataAndSize("another cluster!", 16));
    fill_host(thole_registry_v1_Bootstrap_add_hosts(b, c.arena), c.arena, 7, 1);
    EXPECT(f, fixture_run(f, &c), THOLE_FAILED_PRECONDITION, "WRONG_CLUSTER");
}

static void test_admit_new_host_gets_replica_of_zero(void **state)
{
    struct fixture *f = *state;
    EXPECT_OK(f, do_admit(f, 3, 5));
    const thole_v1_Replica *r = replica_row(f, 4);
    assert_int_equal(thole_v1_Replica_role(r), NON_VOTING);
    assert_int_equal(thole_v1_Replica_owner(r), thole_v1_REPLICA_OWNER_PLACEMENT);
    assert_false(thole_v1_Replica_initial(r));
    uint64_t before = revision(f);
    EXPECT_OK(f, do_admit(f, 3, 5)); /* the answer was lost, and the host retries */
    assert_int_equal(revision(f), before);
    EXPECT_OK(f, do_admit(f, 3, 6));
    assert_int_equal(thole_v1_HostStatus_incarnation(thole_v1_Host_status(host_row(f, 3))), 6);
    assert_null(replica_row(f, 5));
    EXPECT(f, do_admit(f, 3, 4), THOLE_ABORTED, "STALE_INCARNATION");
}

static void test_admit_taken_name_is_refused(void **state)
{
    struct fixture *f = *state;
    struct cmd c = cmd_new("host");
    thole_registry_v1_AdmitHost *a =
        thole_registry_v1_Operation_mutable_admit_host(cmd_op(&c), c.arena);
    thole_v1_Host *host = thole_registry_v1_AdmitHost_mutable_host(a, c.arena);
    fill_host(host, c.arena, 9, 1);
    thole_v1_Host_set_name(host, upb_StringView_FromString("h1"));
    EXPECT(f, fixture_run(f, &c), THOLE_ALREADY_EXISTS, "EXISTS");
}

static uint64_t admit_as(struct fixture *f, uint64_t n, const char *name)
{
    struct cmd c = cmd_new("host");
    thole_registry_v1_AdmitHost *a =
        thole_registry_v1_Operation_mutable_admit_host(cmd_op(&c), c.arena);
    thole_v1_Host *host = thole_registry_v1_AdmitHost_mutable_host(a, c.arena);
    fill_host(host, c.arena, n, 1);
    thole_v1_Host_set_name(host, upb_StringView_FromString(name));
    return fixture_run(f, &c);
}

/* A host whose disk was lost returns under another id. Its name is free once the removal of the old
 * host has begun. That removal cannot end before the new host is there. */
static void test_name_of_a_removed_host_is_free_before_it_is_gone(void **state)
{
    struct fixture *f = *state;
    zero_serves(f);
    EXPECT_OK(f, do_liveness(f, 2, thole_v1_HOST_LIVENESS_DEAD));
    EXPECT(f, admit_as(f, 22, "h2"), THOLE_FAILED_PRECONDITION, "EXISTS");
    EXPECT_OK(f, do_delete_host(f, 2));
    EXPECT_OK(f, admit_as(f, 22, "h2"));
    upb_StringView name = thole_v1_Host_name(host_row(f, 2));
    assert_true(slice_equal(registry_str(name), slice_str("h2.aabb0000")));
    name = thole_v1_Replica_host(replica_row(f, 3));
    assert_true(slice_equal(registry_str(name), slice_str("h2.aabb0000")));
    struct registry_view *v = registry_view_acquire(f->r);
    struct uuid id = test_uuid(22);
    assert_ptr_equal(registry_host_by_name(v, slice_str("h2")), registry_host(v, &id));
    check_invariants(v);
    registry_view_release(v);
}

/* Two processes of one incarnation: the second is a copy. */
static void test_admit_of_the_same_start_elsewhere_is_refused(void **state)
{
    struct fixture *f = *state;
    EXPECT_OK(f, do_admit(f, 3, 5));
    struct cmd c = cmd_new("host");
    thole_registry_v1_AdmitHost *a =
        thole_registry_v1_Operation_mutable_admit_host(cmd_op(&c), c.arena);
    thole_v1_Host *host = thole_registry_v1_AdmitHost_mutable_host(a, c.arena);
    fill_host(host, c.arena, 3, 5);
    thole_v1_HostStatus_set_address(thole_v1_Host_mutable_status(host, c.arena),
                                    upb_StringView_FromString("10.9.9.9:7000"));
    EXPECT(f, fixture_run(f, &c), THOLE_ABORTED, "STALE_INCARNATION");
}

static void test_events_that_flood_are_kept_once_with_their_number(void **state)
{
    struct registry_event_buf event_buf;
    struct fixture *f = *state;
    for (int i = 0; i < 20; i++) {
        EXPECT_OK(f, do_liveness(f, 1, thole_v1_HOST_LIVENESS_SUSPECT));
        EXPECT_OK(f, do_liveness(f, 1, thole_v1_HOST_LIVENESS_LIVE));
    }
    EXPECT_OK(f, do_liveness(f, 0, thole_v1_HOST_LIVENESS_SUSPECT));
    struct registry_view *v = registry_view_acquire(f->r);
    uint32_t events = 0;
    uint32_t times = 0;
    uint64_t it = 0;
    uint64_t revision = 0;
    const thole_v1_Event *e;
    while ((e = registry_next_event(v, 0, &it, &event_buf)) != NULL) {
        assert_true(thole_v1_Event_revision(e) >= revision);
        revision = thole_v1_Event_revision(e);
        if (slice_equal(registry_str(thole_v1_Event_object(e)), slice_str("hosts/h1")) &&
            slice_equal(registry_str(thole_v1_Event_reason(e)), slice_str("HostSuspect"))) {
            uint32_t count = thole_v1_Event_count(e);
            times += count > 0 ? count : 1;
            events++;
            assert_true(count == 0 || thole_v1_Event_first_time_ms(e) > 0);
        }
    }
    assert_int_equal(events, 3);
    assert_int_equal(times, 20);
    check_invariants(v);
    registry_view_release(v);
}

static void record_move(struct fixture *f, const char *actor, const char *by)
{
    struct cmd c = cmd_new(actor);
    thole_registry_v1_RecordLeaderMove *m =
        thole_registry_v1_Operation_mutable_record_leader_move(cmd_op(&c), c.arena);
    thole_registry_v1_RecordLeaderMove_set_shard_id(m, 1);
    thole_registry_v1_RecordLeaderMove_set_by(m, upb_StringView_FromString(by));
    EXPECT_OK(f, fixture_run(f, &c));
}

static void test_repeated_events_of_one_actor_do_not_hide_those_of_another(void **state)
{
    struct registry_event_buf event_buf;
    struct fixture *f = *state;
    EXPECT_OK(f, do_create_shard(f, "orders", 3, 0));
    for (int i = 0; i < 6; i++) {
        record_move(f, "host/h1", "balance");
        if (i % 2 == 1) {
            record_move(f, "user", "user");
        }
    }
    struct registry_view *v = registry_view_acquire(f->r);
    uint32_t users = 0, hosts = 0;
    uint64_t it = 0;
    const thole_v1_Event *e;
    while ((e = registry_next_event(v, 0, &it, &event_buf)) != NULL) {
        if (slice_equal(registry_str(thole_v1_Event_reason(e)), slice_str("LeaderMoved"))) {
            bool user = slice_equal(registry_str(thole_v1_Event_actor(e)), slice_str("user"));
            users += user;
            hosts += !user;
        }
    }
    assert_int_equal(users, 3);
    assert_int_equal(hosts, 3);
    check_invariants(v);
    registry_view_release(v);
}

static void test_host_spec_etag_and_generation(void **state)
{
    struct fixture *f = *state;
    char etag[32] = {0};
    upb_StringView e = thole_v1_Host_etag(host_row(f, 0));
    memcpy(etag, e.data, e.size);
    EXPECT_OK(f, do_liveness(f, 0, thole_v1_HOST_LIVENESS_SUSPECT));
    assert_int_equal(thole_v1_Host_generation(host_row(f, 0)), 1);
    EXPECT_OK(f, do_host_state(f, 0, thole_v1_HOST_STATE_CORDONED));
    assert_int_equal(thole_v1_Host_generation(host_row(f, 0)), 2);
    uint64_t before = revision(f);
    EXPECT_OK(f, do_host_state(f, 0, thole_v1_HOST_STATE_CORDONED));
    assert_int_equal(revision(f), before);
    struct cmd c = cmd_new("user");
    thole_registry_v1_UpdateHost *u =
        thole_registry_v1_Operation_mutable_update_host(cmd_op(&c), c.arena);
    thole_registry_v1_UpdateHost_set_name(u, upb_StringView_FromString("h0"));
    thole_registry_v1_UpdateHost_mutable_spec(u, c.arena);
    thole_registry_v1_UpdateHost_set_etag(u, upb_StringView_FromString(etag));
    EXPECT(f, fixture_run(f, &c), THOLE_ABORTED, "ETAG_MISMATCH");
    EXPECT(f, do_host_state(f, 0, thole_v1_HOST_STATE_REMOVED), THOLE_INVALID_ARGUMENT,
           "BAD_REQUEST");
    EXPECT(f, do_host_state(f, 8, thole_v1_HOST_STATE_ACTIVE), THOLE_NOT_FOUND, "NO_SUCH_HOST");
}

/* upb does not validate strings in maps: one tag that is not UTF-8 breaks every standard client. */
static void test_tags_that_are_no_text_are_refused(void **state)
{
    struct fixture *f = *state;
    static const char *const bad[] = {"caf\xe9", "a\nb", "\x7f"};
    for (size_t i = 0; i < 2 * sizeof bad / sizeof bad[0]; i++) {
        upb_StringView text = upb_StringView_FromString(bad[i / 2]);
        upb_StringView fine = upb_StringView_FromString("fine");
        struct cmd c = cmd_new("user");
        thole_registry_v1_UpdateHost *u =
            thole_registry_v1_Operation_mutable_update_host(cmd_op(&c), c.arena);
        thole_registry_v1_UpdateHost_set_name(u, upb_StringView_FromString("h0"));
        thole_v1_HostSpec_tags_set(thole_registry_v1_UpdateHost_mutable_spec(u, c.arena),
                                   i % 2 == 0 ? text : fine, i % 2 == 0 ? fine : text, c.arena);
        EXPECT(f, fixture_run(f, &c), THOLE_INVALID_ARGUMENT, "BAD_REQUEST");
        upb_StringView message = thole_registry_v1_Result_message(f->result);
        assert_memory_equal(message.data, "spec.tags: ", 11);
    }
}

static void test_observe_host_stale_incarnation_is_refused(void **state)
{
    struct fixture *f = *state;
    EXPECT_OK(f, do_admit(f, 0, 2));
    struct cmd c = cmd_new("host/h0");
    thole_registry_v1_ObserveHost *o =
        thole_registry_v1_Operation_mutable_observe_host(cmd_op(&c), c.arena);
    thole_registry_v1_ObserveHost_set_host_id(o, upb_StringView_FromString(test_uuid_text(0)));
    thole_v1_HostStatus *s = thole_registry_v1_ObserveHost_mutable_status(o, c.arena);
    thole_v1_HostStatus_set_incarnation(s, 1);
    thole_v1_HostStatus_set_liveness(s, thole_v1_HOST_LIVENESS_DEAD);
    EXPECT(f, fixture_run(f, &c), THOLE_ABORTED, "STALE_INCARNATION");
    EXPECT_OK(f, do_liveness(f, 0, thole_v1_HOST_LIVENESS_DEAD));
    upb_StringView address = thole_v1_HostStatus_address(thole_v1_Host_status(host_row(f, 0)));
    assert_true(slice_equal(registry_str(address), slice_str("10.0.0.0:7000")));
}

static void test_delete_host_leaves_tombstone_after_last_replica(void **state)
{
    struct fixture *f = *state;
    zero_serves(f);
    EXPECT_OK(f, do_delete_host(f, 2));
    EXPECT(f, do_admit(f, 2, 9), THOLE_FAILED_PRECONDITION, "REMOVED");
    EXPECT_OK(f, do_remove_replica(f, 3));
    EXPECT_OK(f, do_observe(f, 3, thole_v1_REPLICA_PHASE_OUT, 77));
    assert_null(replica_row(f, 3));
    const thole_v1_Host *tombstone = host_row(f, 2);
    assert_non_null(tombstone);
    assert_int_equal(thole_v1_Host_name(tombstone).size, 0);
    struct registry_view *v = registry_view_acquire(f->r);
    assert_null(registry_host_by_name(v, slice_str("h2")));
    registry_view_release(v);
    EXPECT(f, do_admit(f, 2, 9), THOLE_FAILED_PRECONDITION, "REMOVED");
    /* The name is free for another machine. */
    struct cmd c = cmd_new("host");
    thole_registry_v1_AdmitHost *a =
        thole_registry_v1_Operation_mutable_admit_host(cmd_op(&c), c.arena);
    thole_v1_Host *host = thole_registry_v1_AdmitHost_mutable_host(a, c.arena);
    fill_host(host, c.arena, 22, 1);
    thole_v1_Host_set_name(host, upb_StringView_FromString("h2"));
    EXPECT_OK(f, fixture_run(f, &c));
}

static void test_delete_last_host_is_refused(void **state)
{
    struct fixture *f = *state;
    EXPECT_OK(f, do_bootstrap(f, 1));
    EXPECT(f, do_delete_host(f, 0), THOLE_FAILED_PRECONDITION, "UNSATISFIABLE");
}

static void test_create_shard_checks_name_and_spec(void **state)
{
    struct fixture *f = *state;
    EXPECT_OK(f, do_create_shard(f, "orders", 3, 0));
    EXPECT(f, do_create_shard(f, "orders", 3, 0), THOLE_ALREADY_EXISTS, "EXISTS");
    EXPECT(f, do_create_shard(f, "zero", 3, 0), THOLE_ALREADY_EXISTS, "EXISTS");
    EXPECT(f, do_create_shard(f, "Bad", 3, 0), THOLE_INVALID_ARGUMENT, "BAD_REQUEST");
    EXPECT(f, do_create_shard(f, "-x", 3, 0), THOLE_INVALID_ARGUMENT, "BAD_REQUEST");
    EXPECT(f, do_create_shard(f, "", 3, 0), THOLE_INVALID_ARGUMENT, "BAD_REQUEST");
    EXPECT(f, do_create_shard(f, "a", 0, 0), THOLE_INVALID_ARGUMENT, "BAD_REQUEST");
    EXPECT(f, do_create_shard(f, "a", 99, 0), THOLE_INVALID_ARGUMENT, "BAD_REQUEST");
    EXPECT(f, do_create_shard(f, "a", 3, 99), THOLE_INVALID_ARGUMENT, "BAD_REQUEST");
    assert_int_equal(thole_v1_Shard_id(shard_row(f, 1)), 1);
    assert_null(shard_row(f, 2));
}

static void test_update_shard_follows_etag(void **state)
{
    struct fixture *f = *state;
    EXPECT_OK(f, do_create_shard(f, "orders", 3, 0));
    char etag[32] = {0};
    upb_StringView e = thole_v1_Shard_etag(shard_row(f, 1));
    memcpy(etag, e.data, e.size);
    EXPECT_OK(f, do_formed(f, 1, 9, 4)); /* a status does not change the etag */
    EXPECT_OK(f, do_update_shard(f, "orders", 5, 1, etag));
    assert_int_equal(thole_v1_Shard_generation(shard_row(f, 1)), 2);
    EXPECT(f, do_update_shard(f, "orders", 7, 1, etag), THOLE_ABORTED, "ETAG_MISMATCH");
    uint64_t before = revision(f);
    EXPECT_OK(f, do_update_shard(f, "orders", 5, 1, ""));
    assert_int_equal(revision(f), before);
    EXPECT(f, do_update_shard(f, "none", 5, 1, ""), THOLE_NOT_FOUND, "NO_SUCH_SHARD");
    EXPECT(f, do_update_shard(f, "zero", 5, 1, ""), THOLE_FAILED_PRECONDITION, "BAD_REQUEST");
    EXPECT(f, do_delete_shard(f, "zero"), THOLE_FAILED_PRECONDITION, "BAD_REQUEST");
}

static uint64_t do_with_leases(struct fixture *f, const char *name, bool create)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_Operation *op = cmd_op(&c);
    thole_v1_ShardSpec *spec;
    if (create) {
        thole_registry_v1_CreateShard *s =
            thole_registry_v1_Operation_mutable_create_shard(op, c.arena);
        thole_registry_v1_CreateShard_set_name(s, upb_StringView_FromString(name));
        spec = thole_registry_v1_CreateShard_mutable_spec(s, c.arena);
    } else {
        thole_registry_v1_UpdateShard *s =
            thole_registry_v1_Operation_mutable_update_shard(op, c.arena);
        thole_registry_v1_UpdateShard_set_name(s, upb_StringView_FromString(name));
        spec = thole_registry_v1_UpdateShard_mutable_spec(s, c.arena);
    }
    thole_v1_ShardSpec_set_type(spec, upb_StringView_FromString("kv"));
    thole_v1_ShardSpec_set_voters(spec, 3);
    thole_v1_ShardSpec_set_lease_reads(spec, true);
    return fixture_run(f, &c);
}

/* All voters must agree on the value, so it is unchanged; leaving it out is no change. */
static void test_lease_reads_cannot_change(void **state)
{
    struct fixture *f = *state;
    EXPECT_OK(f, do_with_leases(f, "with", true));
    EXPECT_OK(f, do_update_shard(f, "with", 5, 0, ""));
    assert_true(thole_v1_ShardSpec_lease_reads(thole_v1_Shard_spec(shard_row(f, 1))));
    EXPECT_OK(f, do_with_leases(f, "with", false));
    EXPECT_OK(f, do_create_shard(f, "without", 3, 0));
    EXPECT(f, do_with_leases(f, "without", false), THOLE_FAILED_PRECONDITION, "BAD_REQUEST");
    assert_false(thole_v1_ShardSpec_lease_reads(thole_v1_Shard_spec(shard_row(f, 2))));
}

static uint64_t do_protect(struct fixture *f, const char *name, bool protect)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_UpdateShard *s =
        thole_registry_v1_Operation_mutable_update_shard(cmd_op(&c), c.arena);
    thole_registry_v1_UpdateShard_set_name(s, upb_StringView_FromString(name));
    thole_v1_ShardSpec *spec = thole_registry_v1_UpdateShard_mutable_spec(s, c.arena);
    thole_v1_ShardSpec_set_voters(spec, 3);
    thole_v1_ShardSpec_set_deletion_protection(spec, protect);
    return fixture_run(f, &c);
}

static void test_protected_shard_is_deleted_only_after_a_change_of_its_spec(void **state)
{
    struct fixture *f = *state;
    EXPECT_OK(f, do_create_shard(f, "orders", 3, 0));
    EXPECT_OK(f, do_protect(f, "orders", true));
    EXPECT(f, do_delete_shard(f, "orders"), THOLE_FAILED_PRECONDITION, "BAD_REQUEST");
    assert_false(thole_v1_Shard_deleting(shard_row(f, 1)));
    EXPECT_OK(f, do_protect(f, "orders", false));
    EXPECT_OK(f, do_delete_shard(f, "orders"));
}

static void test_first_placement_writes_initial_list(void **state)
{
    struct fixture *f = *state;
    EXPECT_OK(f, do_create_shard(f, "orders", 3, 0));
    EXPECT(f, do_create_replica(f, "orders", 0, VOTER), THOLE_FAILED_PRECONDITION, "NOT_READY");
    EXPECT(f, do_place_one(f, 1, 0, NON_VOTING), THOLE_INVALID_ARGUMENT, "BAD_REQUEST");
    EXPECT_OK(f, do_place(f, 1, 0, 2));
    size_t count = 0;
    const thole_v1_InitialReplica *const *initial = thole_v1_Shard_initial(shard_row(f, 1), &count);
    assert_int_equal(count, 2);
    assert_int_equal(thole_v1_InitialReplica_replica_id(initial[0]), 4);
    assert_int_equal(thole_v1_InitialReplica_replica_id(initial[1]), 5);
    EXPECT_OK(f, do_place(f, 1, 2, 1));
    thole_v1_Shard_initial(shard_row(f, 1), &count);
    assert_int_equal(count, 2);
    assert_false(thole_v1_Replica_initial(replica_row(f, 6)));
    EXPECT(f, do_place(f, 1, 2, 1), THOLE_ALREADY_EXISTS, "EXISTS");
    EXPECT(f, do_place(f, 1, 9, 1), THOLE_NOT_FOUND, "NO_SUCH_HOST");
    EXPECT(f, do_create_replica(f, "orders", 1, NON_VOTING), THOLE_ALREADY_EXISTS, "EXISTS");
}

static void test_members_are_not_edited_before_formed(void **state)
{
    struct fixture *f = *state;
    EXPECT_OK(f, do_create_shard(f, "orders", 3, 0));
    EXPECT_OK(f, do_place(f, 1, 0, 3));
    EXPECT(f, do_remove_replica(f, 4), THOLE_FAILED_PRECONDITION, "NOT_READY");
    EXPECT(f, do_set_role(f, 4, NON_VOTING), THOLE_FAILED_PRECONDITION, "NOT_READY");
    EXPECT_OK(f, do_formed(f, 1, 4, 1));
    EXPECT_OK(f, do_set_role(f, 4, NON_VOTING));
    EXPECT_OK(f, do_remove_replica(f, 5));
    EXPECT(f, do_remove_replica(f, 6), THOLE_FAILED_PRECONDITION, "UNSATISFIABLE");
    EXPECT(f, do_set_role(f, 6, NON_VOTING), THOLE_FAILED_PRECONDITION, "UNSATISFIABLE");
    EXPECT(f, do_set_role(f, 5, NON_VOTING), THOLE_FAILED_PRECONDITION, "REMOVED");
    EXPECT(f, do_remove_replica(f, 1), THOLE_FAILED_PRECONDITION, "BAD_REQUEST");
    EXPECT(f, do_remove_replica(f, 99), THOLE_NOT_FOUND, "NO_SUCH_REPLICA");
}

static void test_removal_is_a_handshake(void **state)
{
    struct fixture *f = *state;
    EXPECT_OK(f, do_create_shard(f, "orders", 3, 0));
    EXPECT_OK(f, do_place(f, 1, 0, 3));
    EXPECT_OK(f, do_formed(f, 1, 4, 1));
    EXPECT_OK(f, do_observe(f, 4, thole_v1_REPLICA_PHASE_RUNNING, 0));
    EXPECT(f, do_observe(f, 4, thole_v1_REPLICA_PHASE_OUT, 9), THOLE_FAILED_PRECONDITION,
           "BAD_REQUEST");
    EXPECT(f, do_observe(f, 4, thole_v1_REPLICA_PHASE_GONE, 0), THOLE_FAILED_PRECONDITION,
           "BAD_REQUEST");
    EXPECT_OK(f, do_remove_replica(f, 4));
    EXPECT(f, do_observe(f, 4, thole_v1_REPLICA_PHASE_GONE, 0), THOLE_FAILED_PRECONDITION,
           "BAD_REQUEST");
    EXPECT(f, do_place(f, 1, 0, 1), THOLE_ALREADY_EXISTS, "EXISTS");
    EXPECT_OK(f, do_observe(f, 4, thole_v1_REPLICA_PHASE_OUT, 9));
    assert_int_equal(thole_v1_Replica_out_index(replica_row(f, 4)), 9);
    EXPECT_OK(f, do_observe(f, 4, thole_v1_REPLICA_PHASE_RUNNING, 0)); /* late: ignored */
    assert_int_equal(thole_v1_Replica_phase(replica_row(f, 4)), thole_v1_REPLICA_PHASE_OUT);
    EXPECT_OK(f, do_place(f, 1, 0, 1)); /* the host is free again, under another id */
    EXPECT_OK(f, do_observe(f, 4, thole_v1_REPLICA_PHASE_GONE, 0));
    assert_null(replica_row(f, 4));
    uint64_t before = revision(f);
    EXPECT_OK(f, do_observe(f, 4, thole_v1_REPLICA_PHASE_GONE, 0));
    assert_int_equal(revision(f), before);
    EXPECT(f, do_observe(f, 99, thole_v1_REPLICA_PHASE_RUNNING, 0), THOLE_NOT_FOUND,
           "NO_SUCH_REPLICA");
}

static uint64_t do_retire(struct fixture *f, uint64_t replica)
{
    struct cmd c = cmd_new("host/h0");
    thole_registry_v1_RetireReplica *r =
        thole_registry_v1_Operation_mutable_retire_replica(cmd_op(&c), c.arena);
    thole_registry_v1_RetireReplica_set_replica_id(r, replica);
    thole_registry_v1_RetireReplica_set_out_index(r, 77);
    thole_registry_v1_RetireReplica_set_epoch(r, 1);
    return fixture_run(f, &c);
}

static void test_retired_replica_is_out_whatever_was_wanted(void **state)
{
    struct fixture *f = *state;
    EXPECT_OK(f, do_create_shard(f, "a", 3, 0));
    EXPECT_OK(f, do_place(f, 1, 0, 3)); /* replicas 4, 5, 6 */
    EXPECT_OK(f, do_formed(f, 1, 4, 1));
    EXPECT_OK(f, do_retire(f, 5));
    const thole_v1_Replica *r = replica_row(f, 5);
    assert_int_equal(thole_v1_Replica_desired(r), thole_v1_REPLICA_DESIRED_REMOVE);
    assert_int_equal(thole_v1_Replica_phase(r), thole_v1_REPLICA_PHASE_OUT);
    assert_int_equal(thole_v1_Replica_out_index(r), 77);
    EXPECT_OK(f, do_retire(f, 5)); /* again: nothing changes */
    EXPECT_OK(f, do_observe(f, 5, thole_v1_REPLICA_PHASE_GONE, 0));
    assert_null(replica_row(f, 5));
    EXPECT_OK(f, do_retire(f, 5));
    EXPECT(f, do_retire(f, 99), THOLE_NOT_FOUND, "NO_SUCH_REPLICA");
    /* Shard zero's replica is retired too, although its host stays; the host may get another
     * replica. */
    EXPECT_OK(f, do_retire(f, 3));
    EXPECT_OK(f, do_observe(f, 3, thole_v1_REPLICA_PHASE_GONE, 0));
    EXPECT_OK(f, do_place_one(f, 0, 2, NON_VOTING));
}

static uint64_t do_repair_zero(struct fixture *f, uint64_t epoch)
{
    struct cmd c = cmd_new("repair");
    thole_registry_v1_RepairZero_set_epoch(
        thole_registry_v1_Operation_mutable_repair_zero(cmd_op(&c), c.arena), epoch);
    return fixture_run(f, &c);
}

static bool is_lost(struct fixture *f, uint64_t replica)
{
    struct registry_view *v = registry_view_acquire(f->r);
    bool lost = registry_replica_is_lost(v, replica);
    registry_view_release(v);
    return lost;
}

static void test_repair_of_zero_skips_ids_that_may_be_in_use(void **state)
{
    struct registry_shard_buf shard_buf;
    struct fixture *f = *state;
    struct bytes saved = {0};
    struct thole_status st;
    EXPECT_OK(f, do_create_shard(f, "a", 3, 0));
    EXPECT_OK(f, do_place(f, 1, 0, 3)); /* replicas 4, 5, 6 */
    assert_false(is_lost(f, 7));
    uint64_t before = revision(f);
    EXPECT_OK(f, do_repair_zero(f, 2));
    assert_true(revision(f) > before + 1000000);
    before = revision(f);
    EXPECT_OK(f, do_repair_zero(f, 2));
    EXPECT_OK(f, do_repair_zero(f, 1));
    assert_int_equal(revision(f), before);
    assert_false(is_lost(f, 6));
    assert_true(is_lost(f, 7));
    fixture_save(f, &saved);
    assert_int_equal(fixture_restore(f, slice_of(saved.data, saved.size), &st), THOLE_OK);
    assert_true(is_lost(f, 7));
    EXPECT_OK(f, do_create_shard(f, "b", 1, 0));
    struct registry_view *v = registry_view_acquire(f->r);
    uint64_t shard = thole_v1_Shard_id(registry_shard_by_name(v, slice_str("b"), &shard_buf));
    uint64_t next = registry_next_replica_id(v);
    registry_view_release(v);
    assert_true(shard > 1000000 && next > 1000000);
    EXPECT_OK(f, do_place(f, shard, 0, 1));
    assert_non_null(replica_row(f, next));
    assert_false(is_lost(f, next));
    bytes_deinit(&saved);
}

/* Only the failed replica is replaced: otherwise every host keeps its replica of shard zero. */
static void test_failed_replica_of_zero_is_replaced(void **state)
{
    struct fixture *f = *state;
    EXPECT_OK(f, do_observe(f, 3, thole_v1_REPLICA_PHASE_RUNNING, 0));
    EXPECT_OK(f, do_formed(f, 0, 1, 1));
    EXPECT(f, do_remove_replica(f, 3), THOLE_FAILED_PRECONDITION, "BAD_REQUEST");
    EXPECT_OK(f, do_admit_failed(f, 2, 1, 3));
    assert_int_equal(thole_v1_Replica_phase(replica_row(f, 3)), thole_v1_REPLICA_PHASE_FAILED);
    EXPECT_OK(f, do_admit_failed(f, 2, 1, 2)); /* another host's */
    assert_int_not_equal(thole_v1_Replica_phase(replica_row(f, 2)), thole_v1_REPLICA_PHASE_FAILED);
    EXPECT_OK(f, do_remove_replica(f, 3));
    EXPECT_OK(f, do_observe(f, 3, thole_v1_REPLICA_PHASE_OUT, 9));
    assert_null(replica_row(f, 4));
    EXPECT_OK(f, do_admit_failed(f, 2, 1, 3));
    assert_non_null(replica_row(f, 4));
}

static void test_shard_deletion_skips_out_and_drops_row_last(void **state)
{
    struct fixture *f = *state;
    EXPECT_OK(f, do_create_shard(f, "orders", 3, 0));
    EXPECT_OK(f, do_place(f, 1, 0, 3));
    EXPECT_OK(f, do_delete_shard(f, "orders"));
    EXPECT_OK(f, do_delete_shard(f, "orders"));
    EXPECT(f, do_place(f, 1, 0, 1), THOLE_FAILED_PRECONDITION, "REMOVED");
    EXPECT(f, do_update_shard(f, "orders", 1, 0, ""), THOLE_FAILED_PRECONDITION, "REMOVED");
    EXPECT(f, do_create_shard(f, "orders", 1, 0), THOLE_ALREADY_EXISTS, "EXISTS");
    for (uint64_t id = 4; id <= 6; id++) {
        assert_non_null(shard_row(f, 1));
        EXPECT_OK(f, do_observe(f, id, thole_v1_REPLICA_PHASE_GONE, 0));
    }
    assert_null(shard_row(f, 1));
    EXPECT_OK(f, do_create_shard(f, "orders", 1, 0));
    assert_non_null(shard_row(f, 2)); /* ids are not used again */
    EXPECT_OK(f, do_delete_shard(f, "orders"));
    assert_null(shard_row(f, 2)); /* no replica was placed: the shard goes at once */
}

static void test_reports_of_wrong_host_or_incarnation_are_refused(void **state)
{
    struct fixture *f = *state;
    static const struct {
        uint64_t host, incarnation;
        enum thole_code code;
    } cases[] = {{0, 1, THOLE_OK}, {1, 1, THOLE_FAILED_PRECONDITION}, {0, 0, THOLE_ABORTED}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cmd c = cmd_new("host/x");
        thole_registry_v1_ObserveReplica *o =
            thole_registry_v1_Operation_mutable_observe_replica(cmd_op(&c), c.arena);
        thole_registry_v1_ObserveReplica_set_replica_id(o, 1);
        thole_registry_v1_ObserveReplica_set_phase(o, thole_v1_REPLICA_PHASE_RUNNING);
        thole_registry_v1_ObserveReplica_set_reporter_host_id(
            o, upb_StringView_FromString(test_uuid_text(cases[i].host)));
        thole_registry_v1_ObserveReplica_set_reporter_incarnation(o, cases[i].incarnation);
        assert_int_equal(fixture_run(f, &c), cases[i].code);
    }
}

static void test_observe_shard_lower_term_is_ignored(void **state)
{
    struct fixture *f = *state;
    EXPECT_OK(f, do_formed(f, 0, 2, 5));
    EXPECT_OK(f, do_formed(f, 0, 1, 4));
    const thole_v1_ShardStatus *s = thole_v1_Shard_status(shard_row(f, 0));
    assert_int_equal(thole_v1_ShardStatus_leader_replica(s), 2);
    EXPECT(f, do_formed(f, 7, 1, 1), THOLE_NOT_FOUND, "NO_SUCH_SHARD");
}

static void test_conditions_keep_transition_time(void **state)
{
    struct fixture *f = *state;
    static const bool steps[] = {false, false, true};
    int64_t times[3];
    for (size_t i = 0; i < 3; i++) {
        struct cmd c = cmd_new("placement");
        thole_registry_v1_ObserveShard *o =
            thole_registry_v1_Operation_mutable_observe_shard(cmd_op(&c), c.arena);
        thole_v1_ShardStatus *s = thole_registry_v1_ObserveShard_mutable_status(o, c.arena);
        thole_v1_Condition *condition = thole_v1_ShardStatus_add_conditions(s, c.arena);
        thole_v1_Condition_set_type(condition, upb_StringView_FromString("Ready"));
        thole_v1_Condition_set_status(condition, steps[i]);
        thole_v1_Condition_set_message(condition,
                                       upb_StringView_FromString(i == 0 ? "first" : "then"));
        EXPECT_OK(f, fixture_run(f, &c));
        size_t count = 0;
        const thole_v1_Condition *const *have =
            thole_v1_ShardStatus_conditions(thole_v1_Shard_status(shard_row(f, 0)), &count);
        assert_int_equal(count, 1);
        times[i] = thole_v1_Condition_transition_time_ms(have[0]);
    }
    assert_int_equal(times[0], times[1]);
    assert_true(times[2] > times[1]);
}

static void test_expected_revision_and_decided_at_guard(void **state)
{
    struct fixture *f = *state;
    EXPECT_OK(f, do_create_shard(f, "orders", 3, 0));
    uint64_t seen = thole_v1_Shard_revision(shard_row(f, 1));
    EXPECT_OK(f, do_update_shard(f, "orders", 5, 0, ""));
    struct cmd c = cmd_new("user");
    thole_registry_v1_Operation *op = cmd_op(&c);
    thole_registry_v1_Operation_set_expected_revision(op, seen);
    thole_registry_v1_DeleteShard_set_name(
        thole_registry_v1_Operation_mutable_delete_shard(op, c.arena),
        upb_StringView_FromString("orders"));
    EXPECT(f, fixture_run(f, &c), THOLE_ABORTED, "STALE_REVISION");
    c = cmd_new("placement");
    thole_registry_v1_Command_set_decided_at(c.c, seen);
    thole_registry_v1_PlaceReplicas *p =
        thole_registry_v1_Operation_mutable_place_replicas(cmd_op(&c), c.arena);
    thole_registry_v1_PlaceReplicas_set_shard_id(p, 1);
    thole_registry_v1_Placed *placed = thole_registry_v1_PlaceReplicas_add_replicas(p, c.arena);
    thole_registry_v1_Placed_set_host_id(placed, upb_StringView_FromString(test_uuid_text(0)));
    thole_registry_v1_Placed_set_role(placed, VOTER);
    EXPECT(f, fixture_run(f, &c), THOLE_ABORTED, "STALE_REVISION");
}

static void test_command_is_all_or_nothing(void **state)
{
    struct fixture *f = *state;
    struct bytes before = {0};
    struct bytes after = {0};
    fixture_save(f, &before);
    struct cmd c = cmd_new("user");
    thole_registry_v1_CreateShard *s =
        thole_registry_v1_Operation_mutable_create_shard(cmd_op(&c), c.arena);
    thole_registry_v1_CreateShard_set_name(s, upb_StringView_FromString("a"));
    thole_v1_ShardSpec *spec = thole_registry_v1_CreateShard_mutable_spec(s, c.arena);
    thole_v1_ShardSpec_set_type(spec, upb_StringView_FromString("kv"));
    thole_v1_ShardSpec_set_voters(spec, 3);
    thole_registry_v1_DeleteShard_set_name(
        thole_registry_v1_Operation_mutable_delete_shard(cmd_op(&c), c.arena),
        upb_StringView_FromString("none"));
    EXPECT(f, fixture_run(f, &c), THOLE_NOT_FOUND, "NO_SUCH_SHARD");
    fixture_save(f, &after);
    assert_true(slice_equal(bytes_slice(&before), bytes_slice(&after)));
    bytes_deinit(&before);
    bytes_deinit(&after);
}

static struct cmd create_with_id(const char *name, const char *request_id, bool validate_only)
{
    struct cmd c = cmd_new("user");
    thole_registry_v1_Command_set_request_id(c.c, upb_StringView_FromString(request_id));
    thole_registry_v1_Command_set_validate_only(c.c, validate_only);
    thole_registry_v1_CreateShard *s =
        thole_registry_v1_Operation_mutable_create_shard(cmd_op(&c), c.arena);
    thole_registry_v1_CreateShard_set_name(s, upb_StringView_FromString(name));
    thole_v1_ShardSpec *spec = thole_registry_v1_CreateShard_mutable_spec(s, c.arena);
    thole_v1_ShardSpec_set_type(spec, upb_StringView_FromString("kv"));
    thole_v1_ShardSpec_set_voters(spec, 1);
    return c;
}

static void test_request_id_gets_first_answer(void **state)
{
    struct fixture *f = *state;
    struct cmd c = create_with_id("a", "req-1", false);
    EXPECT_OK(f, fixture_run(f, &c));
    uint64_t first = thole_registry_v1_Result_revision(f->result);
    c = create_with_id("a", "req-1", false);
    EXPECT_OK(f, fixture_run(f, &c));
    assert_int_equal(thole_registry_v1_Result_revision(f->result), first);
    assert_true(thole_registry_v1_Result_has_shard(f->result));
    c = create_with_id("a", "req-2", false);
    EXPECT(f, fixture_run(f, &c), THOLE_ALREADY_EXISTS, "EXISTS");
    /* Forgotten after 1024 newer ids. */
    for (int i = 0; i < 1024; i++) {
        char id[32];
        snprintf(id, sizeof id, "other-%d", i);
        c = create_with_id("a", id, false);
        assert_int_equal(fixture_run(f, &c), THOLE_ALREADY_EXISTS);
    }
    c = create_with_id("a", "req-1", false);
    EXPECT(f, fixture_run(f, &c), THOLE_ALREADY_EXISTS, "EXISTS");
}

static void test_validate_only_changes_nothing(void **state)
{
    struct fixture *f = *state;
    uint64_t before = revision(f);
    struct cmd c = create_with_id("a", "req-1", true);
    EXPECT_OK(f, fixture_run(f, &c));
    assert_true(thole_registry_v1_Result_has_shard(f->result));
    assert_int_equal(revision(f), before);
    assert_null(shard_row(f, 1));
    c = create_with_id("a", "req-1", false);
    EXPECT_OK(f, fixture_run(f, &c));
    assert_non_null(shard_row(f, 1));
}

static void test_malformed_commands_are_refused(void **state)
{
    struct fixture *f = *state;
    EXPECT(f, fixture_apply(f, slice_str("\xff\xff not a message")), THOLE_INVALID_ARGUMENT,
           "BAD_REQUEST");
    EXPECT(f, fixture_apply(f, slice_of(NULL, 0)), THOLE_INVALID_ARGUMENT, "BAD_REQUEST");
    struct cmd c = cmd_new("user");
    cmd_op(&c);
    EXPECT(f, fixture_run(f, &c), THOLE_INVALID_ARGUMENT, "BAD_REQUEST");
    c = cmd_new("user");
    thole_registry_v1_Operation_mutable_admit_host(cmd_op(&c), c.arena);
    EXPECT(f, fixture_run(f, &c), THOLE_INVALID_ARGUMENT, "BAD_REQUEST");
    c = cmd_new("user");
    thole_registry_v1_Operation_mutable_create_shard(cmd_op(&c), c.arena);
    EXPECT(f, fixture_run(f, &c), THOLE_INVALID_ARGUMENT, "BAD_REQUEST");
}

/* UpdateHost of a host with one tag, whose map entry has an unknown field 15. Every replica of
 * shard zero replays its log at each start, so such an entry must not abort the process. */
static void test_command_that_upb_cannot_digest_is_refused(void **state)
{
    struct fixture *f = *state;
    uint8_t bytes[128] = "\x32\x48\x22\x46\x12\x44\x0a\x42\x0a\x3e";
    memset(bytes + 10, 'k', 62);
    bytes[72] = 0x78;
    bytes[73] = 0x01;
    EXPECT(f, fixture_apply(f, slice_of(bytes, 74)), THOLE_INVALID_ARGUMENT, "BAD_REQUEST");
}

static void test_user_replica_and_draining_host(void **state)
{
    struct fixture *f = *state;
    EXPECT_OK(f, do_create_shard(f, "orders", 1, 0));
    EXPECT_OK(f, do_place(f, 1, 0, 1));
    EXPECT_OK(f, do_host_state(f, 1, thole_v1_HOST_STATE_DRAINING));
    EXPECT(f, do_create_replica(f, "orders", 1, NON_VOTING), THOLE_FAILED_PRECONDITION,
           "UNSATISFIABLE");
    EXPECT(f, do_place(f, 1, 1, 1), THOLE_FAILED_PRECONDITION, "UNSATISFIABLE");
    EXPECT_OK(f, do_create_replica(f, "orders", 2, NON_VOTING));
    assert_int_equal(thole_v1_Replica_owner(replica_row(f, 5)), thole_v1_REPLICA_OWNER_USER);
    EXPECT(f, do_create_replica(f, "zero", 2, NON_VOTING), THOLE_FAILED_PRECONDITION,
           "BAD_REQUEST");
    EXPECT(f, do_create_replica(f, "orders", 2, 0), THOLE_INVALID_ARGUMENT, "BAD_REQUEST");
}

static void test_query_empty_gives_revision(void **state)
{
    struct fixture *f = *state;
    struct sink {
        struct thole_sink sink;
    };
    EXPECT_OK(f, do_create_shard(f, "orders", 1, 0));
    struct thole_status st;
    void *view = NULL;
    assert_int_equal(f->type->view_acquire(f->machine, &view, &st), THOLE_OK);
    struct thole_slice bad = {"x", 1};
    assert_int_equal(f->type->query(f->machine, view, bad, NULL, &st), THOLE_INVALID_ARGUMENT);
    f->type->view_release(f->machine, view);
    assert_int_equal(revision(f), 2);
    assert_int_equal(f->published, 2);
}

static uint64_t shard_named(struct fixture *f, const char *name, uint32_t *ret_replicas)
{
    struct registry_shard_buf shard_buf;
    struct registry_view *v = registry_view_acquire(f->r);
    uint64_t id = thole_v1_Shard_id(registry_shard_by_name(v, slice_str(name), &shard_buf));
    *ret_replicas = (uint32_t)count_replicas(v, id);
    registry_view_release(v);
    return id;
}

static void test_shard_that_cannot_form_begins_again_when_all_its_hosts_are_removed(void **state)
{
    struct fixture *f = *state;
    uint32_t replicas = 0;
    assert_int_equal(do_create_shard(f, "orders", 1, 0), THOLE_OK);
    uint64_t id = shard_named(f, "orders", &replicas);
    assert_int_equal(do_place(f, id, 2, 1), THOLE_OK);
    zero_serves(f);
    assert_int_equal(do_delete_host(f, 2), THOLE_FAILED_PRECONDITION); /* the shard may form */
    assert_int_equal(do_liveness(f, 2, thole_v1_HOST_LIVENESS_DEAD), THOLE_OK);
    assert_int_equal(do_delete_host(f, 2), THOLE_OK);
    uint64_t again = shard_named(f, "orders", &replicas);
    assert_true(again > id);
    assert_int_equal(replicas, 0);
    assert_int_equal(do_place(f, again, 1, 1), THOLE_OK);
}

static void test_shard_that_formed_or_has_a_replica_left_is_not_begun_again(void **state)
{
    struct registry_replica_buf replica_buf;
    struct fixture *f = *state;
    uint32_t replicas = 0;
    assert_int_equal(do_create_shard(f, "formed", 1, 0), THOLE_OK);
    assert_int_equal(do_create_shard(f, "left", 3, 0), THOLE_OK);
    uint64_t formed = shard_named(f, "formed", &replicas);
    uint64_t left = shard_named(f, "left", &replicas);
    assert_int_equal(do_place(f, formed, 2, 1), THOLE_OK);
    struct registry_view *v = registry_view_acquire(f->r);
    uint64_t leader =
        thole_v1_Replica_id(registry_next_replica_of_shard(v, formed, 0, &replica_buf));
    registry_view_release(v);
    assert_int_equal(do_formed(f, formed, leader, 1), THOLE_OK);
    assert_int_equal(do_place(f, left, 0, 3), THOLE_OK);
    assert_int_equal(do_liveness(f, 1, thole_v1_HOST_LIVENESS_DEAD), THOLE_OK);
    assert_int_equal(do_liveness(f, 2, thole_v1_HOST_LIVENESS_DEAD), THOLE_OK);
    assert_int_equal(do_delete_host(f, 2), THOLE_FAILED_PRECONDITION);
    assert_int_equal(do_delete_host(f, 1), THOLE_OK);
    assert_int_equal(shard_named(f, "formed", &replicas), formed);
    assert_int_equal(replicas, 1);
    assert_int_equal(shard_named(f, "left", &replicas), left);
    assert_int_equal(replicas, 3);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup_three, fixture_teardown)
#define TEST_EMPTY(name) cmocka_unit_test_setup_teardown(name, setup, fixture_teardown)

/* The proposer's time is compared, and must not overflow (UBSan detects that). */
static void test_extreme_times_are_compared_as_far_as_they_can(void **state)
{
    (void)state;
    assert_int_equal(registry__ms_between(1000, 1500), 500);
    assert_true(registry__ms_between(INT64_MIN, INT64_MAX) == INT64_MAX);
    assert_true(registry__ms_between(INT64_MAX, INT64_MIN) == INT64_MIN);
    assert_true(registry__ms_between(-1, INT64_MAX) == INT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_EMPTY(test_bootstrap_makes_cluster_once),
        TEST(test_admit_new_host_gets_replica_of_zero),
        TEST(test_admit_taken_name_is_refused),
        TEST(test_events_that_flood_are_kept_once_with_their_number),
        TEST(test_repeated_events_of_one_actor_do_not_hide_those_of_another),
        TEST(test_name_of_a_removed_host_is_free_before_it_is_gone),
        TEST(test_admit_of_the_same_start_elsewhere_is_refused),
        TEST(test_host_spec_etag_and_generation),
        TEST(test_tags_that_are_no_text_are_refused),
        TEST(test_observe_host_stale_incarnation_is_refused),
        TEST(test_extreme_times_are_compared_as_far_as_they_can),
        TEST(test_delete_host_leaves_tombstone_after_last_replica),
        TEST_EMPTY(test_delete_last_host_is_refused),
        TEST(test_create_shard_checks_name_and_spec),
        TEST(test_retired_replica_is_out_whatever_was_wanted),
        TEST(test_repair_of_zero_skips_ids_that_may_be_in_use),
        TEST(test_failed_replica_of_zero_is_replaced),
        TEST(test_update_shard_follows_etag),
        TEST(test_lease_reads_cannot_change),
        TEST(test_protected_shard_is_deleted_only_after_a_change_of_its_spec),
        TEST(test_first_placement_writes_initial_list),
        TEST(test_members_are_not_edited_before_formed),
        TEST(test_removal_is_a_handshake),
        TEST(test_shard_deletion_skips_out_and_drops_row_last),
        TEST(test_reports_of_wrong_host_or_incarnation_are_refused),
        TEST(test_observe_shard_lower_term_is_ignored),
        TEST(test_conditions_keep_transition_time),
        TEST(test_expected_revision_and_decided_at_guard),
        TEST(test_command_is_all_or_nothing),
        TEST(test_request_id_gets_first_answer),
        TEST(test_validate_only_changes_nothing),
        TEST(test_malformed_commands_are_refused),
        TEST(test_command_that_upb_cannot_digest_is_refused),
        TEST(test_user_replica_and_draining_host),
        TEST(test_shard_that_cannot_form_begins_again_when_all_its_hosts_are_removed),
        TEST(test_shard_that_formed_or_has_a_replica_left_is_not_begun_again),
        TEST(test_query_empty_gives_revision),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
