/* Hosts, Shards, Replicas, Events and Cluster.Status, called over gRPC: replies and errors. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/services/test/services_fixture.h"
#include "base/limits.h"
#include "base/metrics.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static int setup(void **state)
{
    *state = services_fixture_new();
    return 0;
}

static int teardown(void **state)
{
    services_fixture_free(*state);
    return 0;
}

/* ---- Hosts ----------------------------------------------------------------------------------- */

static const thole_v1_Host *get_host(struct services_fixture *f, const char *name)
{
    thole_v1_GetHostRequest *q = NEW(f, GetHostRequest);
    thole_v1_GetHostRequest_set_name(q, sv(name));
    return CALL(f, Hosts, GetHost, q, Host);
}

static void test_hosts_are_found_by_name(void **state)
{
    struct services_fixture *f = *state;
    const thole_v1_Host *h = get_host(f, "h1");
    assert_non_null(h);
    assert_true(upb_StringView_IsEqual(thole_v1_Host_name(h), sv("h1")));
    assert_non_null(get_host(f, "hosts/h1"));
    assert_failed(f, get_host(f, "h2"), THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_HOST);
    assert_failed(f, get_host(f, ""), THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST);
    assert_failed(f, get_host(f, "No Name"), THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST);
    assert_non_null(strstr(f->st.message, "name: "));
    const thole_v1_ListHostsResponse *list =
        CALL(f, Hosts, ListHosts, NEW(f, ListHostsRequest), ListHostsResponse);
    size_t n = 0;
    assert_non_null(list);
    (void)thole_v1_ListHostsResponse_hosts(list, &n);
    assert_int_equal(n, 1);
    assert_true(thole_v1_ListHostsResponse_revision(list) > 0);
}

static const thole_v1_Host *set_host(struct services_fixture *f, int32_t state, const char *tag,
                                     const char *etag)
{
    thole_v1_UpdateHostRequest *q = NEW(f, UpdateHostRequest);
    thole_v1_Host *host = thole_v1_UpdateHostRequest_mutable_host(q, f->arena);
    thole_v1_HostSpec *spec = thole_v1_Host_mutable_spec(host, f->arena);
    thole_v1_Host_set_name(host, sv("h1"));
    thole_v1_Host_set_etag(host, sv(etag));
    thole_v1_HostSpec_set_state(spec, state);
    thole_v1_HostSpec_tags_set(spec, sv("zone"), sv(tag), f->arena);
    return CALL(f, Hosts, UpdateHost, q, Host);
}

static void test_hosts_specs_are_updated_and_guarded(void **state)
{
    struct services_fixture *f = *state;
    const thole_v1_Host *before = get_host(f, "h1");
    char etag[64];
    snprintf(etag, sizeof etag, "%.*s", (int)thole_v1_Host_etag(before).size,
             thole_v1_Host_etag(before).data);
    const thole_v1_Host *h = set_host(f, thole_v1_HOST_STATE_CORDONED, "a", etag);
    assert_non_null(h);
    assert_int_equal(thole_v1_HostSpec_state(thole_v1_Host_spec(h)), thole_v1_HOST_STATE_CORDONED);
    assert_true(thole_v1_Host_generation(h) > thole_v1_Host_generation(before));
    /* The etag is stale now. */
    assert_failed(f, set_host(f, thole_v1_HOST_STATE_ACTIVE, "b", etag), THOLE_ABORTED,
                  THOLE_REASON_ETAG_MISMATCH);
    /* A state that is left out is unchanged. */
    h = set_host(f, thole_v1_HOST_STATE_UNSPECIFIED, "b", "");
    assert_non_null(h);
    assert_int_equal(thole_v1_HostSpec_state(thole_v1_Host_spec(h)), thole_v1_HOST_STATE_CORDONED);
    assert_failed(f, set_host(f, thole_v1_HOST_STATE_REMOVED, "b", ""), THOLE_INVALID_ARGUMENT,
                  THOLE_REASON_BAD_REQUEST);
    assert_non_null(set_host(f, thole_v1_HOST_STATE_ACTIVE, "b", ""));
    thole_v1_UpdateHostRequest *q = NEW(f, UpdateHostRequest);
    assert_failed(f, CALL(f, Hosts, UpdateHost, q, Host), THOLE_INVALID_ARGUMENT,
                  THOLE_REASON_BAD_REQUEST);
}

static void test_tags_that_are_no_text_are_refused(void **state)
{
    struct services_fixture *f = *state;
    static const char *const bad[] = {"caf\xe9", "a\nb", "\x1b[1m"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_failed(f, set_host(f, thole_v1_HOST_STATE_ACTIVE, bad[i], ""),
                      THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST);
        assert_non_null(strstr(f->st.message, "spec.tags: "));
    }
}

static void test_a_live_host_is_not_deleted(void **state)
{
    struct services_fixture *f = *state;
    thole_v1_DeleteHostRequest *q = NEW(f, DeleteHostRequest);
    thole_v1_DeleteHostRequest_set_name(q, sv("h1"));
    const void *reply = CALL(f, Hosts, DeleteHost, q, DeleteHostResponse);
    assert_null(reply);
    assert_int_equal(f->st.code, THOLE_FAILED_PRECONDITION);
}

/* ---- Shards ---------------------------------------------------------------------------------- */

static const thole_v1_Shard *get_shard(struct services_fixture *f, const char *name, bool stale)
{
    thole_v1_GetShardRequest *q = NEW(f, GetShardRequest);
    thole_v1_GetShardRequest_set_name(q, sv(name));
    thole_v1_GetShardRequest_set_stale(q, stale);
    return CALL(f, Shards, GetShard, q, Shard);
}

struct shard_args {
    const char *name, *type, *etag, *request_id;
    uint32_t voters, non_voting;
    bool validate_only, allow_missing;
};

static thole_v1_Shard *fill_shard(struct services_fixture *f, thole_v1_Shard *shard,
                                  const struct shard_args *a)
{
    thole_v1_ShardSpec *spec = thole_v1_Shard_mutable_spec(shard, f->arena);
    thole_v1_Shard_set_name(shard, sv(a->name));
    thole_v1_Shard_set_etag(shard, sv(a->etag != NULL ? a->etag : ""));
    thole_v1_ShardSpec_set_type(spec, sv(a->type));
    thole_v1_ShardSpec_set_voters(spec, a->voters);
    if (a->non_voting > 0) {
        thole_v1_ReplicaGroup_set_count(thole_v1_ShardSpec_add_non_voting(spec, f->arena),
                                        a->non_voting);
    }
    return shard;
}

static const thole_v1_Shard *create(struct services_fixture *f, struct shard_args a)
{
    thole_v1_CreateShardRequest *q = NEW(f, CreateShardRequest);
    fill_shard(f, thole_v1_CreateShardRequest_mutable_shard(q, f->arena), &a);
    thole_v1_CreateShardRequest_set_validate_only(q, a.validate_only);
    thole_v1_CreateShardRequest_set_request_id(q, sv(a.request_id != NULL ? a.request_id : ""));
    return CALL(f, Shards, CreateShard, q, Shard);
}

static const thole_v1_Shard *update(struct services_fixture *f, struct shard_args a)
{
    thole_v1_UpdateShardRequest *q = NEW(f, UpdateShardRequest);
    fill_shard(f, thole_v1_UpdateShardRequest_mutable_shard(q, f->arena), &a);
    thole_v1_UpdateShardRequest_set_validate_only(q, a.validate_only);
    thole_v1_UpdateShardRequest_set_allow_missing(q, a.allow_missing);
    return CALL(f, Shards, UpdateShard, q, Shard);
}

static void test_shards_are_created_and_found(void **state)
{
    struct services_fixture *f = *state;
    const thole_v1_Shard *s = create(f, (struct shard_args){"made", "counter", .voters = 1});
    assert_non_null(s);
    assert_true(thole_v1_Shard_id(s) > 0);
    assert_true(thole_v1_Shard_etag(s).size > 0);
    assert_failed(f, create(f, (struct shard_args){"made", "counter", .voters = 1}),
                  THOLE_ALREADY_EXISTS, THOLE_REASON_EXISTS);
    assert_non_null(get_shard(f, "made", false));
    assert_non_null(get_shard(f, "shards/made", true));
    assert_non_null(get_shard(f, "zero", true));
    assert_failed(f, get_shard(f, "other", false), THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD);
}

static void test_bad_shard_specs_name_the_field(void **state)
{
    struct services_fixture *f = *state;
    static const struct {
        struct shard_args args;
        const char *field;
    } bad[] = {
        {{"x", "", .voters = 1}, "spec.type: "},
        {{"x", "counter", .voters = 0}, "spec.voters: "},
        {{"x", "counter", .voters = 1000}, "spec.voters: "},
        {{"x", "counter", .voters = 3, .non_voting = 100}, "spec.non_voting: "},
        {{"", "counter", .voters = 3}, "shard.name: "},
        {{"UPPER", "counter", .voters = 3}, "shard.name: "},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_failed(f, create(f, bad[i].args), THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST);
        assert_non_null(strstr(f->st.message, bad[i].field));
    }
    char id[200];
    memset(id, 'x', sizeof id - 1);
    id[sizeof id - 1] = '\0';
    assert_failed(f, create(f, (struct shard_args){"x", "counter", .voters = 1, .request_id = id}),
                  THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST);
    assert_failed(f, CALL(f, Shards, CreateShard, NEW(f, CreateShardRequest), Shard),
                  THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST);
}

static void test_a_dry_run_changes_nothing(void **state)
{
    struct services_fixture *f = *state;
    const struct shard_args a = {"dry", "counter", .voters = 1, .validate_only = true};
    assert_non_null(create(f, a));
    assert_failed(f, get_shard(f, "dry", false), THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD);
}

static void test_a_repeated_request_gets_the_first_answer(void **state)
{
    struct services_fixture *f = *state;
    const struct shard_args a = {"idem", "counter", .voters = 1, .request_id = "request-1"};
    const thole_v1_Shard *first = create(f, a);
    const thole_v1_Shard *second = create(f, a);
    assert_non_null(first);
    assert_non_null(second);
    assert_int_equal(thole_v1_Shard_id(first), thole_v1_Shard_id(second));
}

/* Of the whole process. */
static uint64_t refused(void)
{
    static const char name[] = "\nthole_control_refused_total ";
    struct bytes out = {0};
    metrics_render(&out);
    bytes_append(&out, "", 1);
    const char *at = strstr((const char *)out.data, name);
    assert_non_null(at);
    uint64_t count = strtoul(at + strlen(name), NULL, 10);
    bytes_deinit(&out);
    return count;
}

static void test_updates_follow_the_etag(void **state)
{
    struct services_fixture *f = *state;
    uint64_t before = refused();
    char etag[64];
    assert_failed(f, update(f, (struct shard_args){"upd", "counter", .voters = 1}), THOLE_NOT_FOUND,
                  THOLE_REASON_NO_SUCH_SHARD);
    const thole_v1_Shard *s =
        update(f, (struct shard_args){"upd", "counter", .voters = 1, .allow_missing = true});
    assert_non_null(s);
    snprintf(etag, sizeof etag, "%.*s", (int)thole_v1_Shard_etag(s).size,
             thole_v1_Shard_etag(s).data);
    const thole_v1_Shard *changed = update(
        f, (struct shard_args){"upd", "counter", .voters = 1, .non_voting = 1, .etag = etag});
    assert_non_null(changed);
    assert_int_equal(thole_v1_Shard_generation(changed), thole_v1_Shard_generation(s) + 1);
    assert_failed(f, update(f, (struct shard_args){"upd", "counter", .voters = 1, .etag = etag}),
                  THOLE_ABORTED, THOLE_REASON_ETAG_MISMATCH);
    const thole_v1_Shard *other = update(f, (struct shard_args){"upd", "kv", .voters = 1});
    assert_null(other); /* the type cannot change */
    assert_int_equal(refused() - before, 3);
}

static void delete_shard(struct services_fixture *f, const char *name)
{
    thole_v1_DeleteShardRequest *q = NEW(f, DeleteShardRequest);
    thole_v1_DeleteShardRequest_set_name(q, sv(name));
    const void *reply = CALL(f, Shards, DeleteShard, q, DeleteShardResponse);
    assert_non_null(reply);
}

static void test_shards_are_deleted(void **state)
{
    struct services_fixture *f = *state;
    thole_v1_DeleteShardRequest *q = NEW(f, DeleteShardRequest);
    thole_v1_DeleteShardRequest_set_name(q, sv("missing"));
    assert_failed(f, CALL(f, Shards, DeleteShard, q, DeleteShardResponse), THOLE_NOT_FOUND,
                  THOLE_REASON_NO_SUCH_SHARD);
    thole_v1_DeleteShardRequest_set_allow_missing(q, true);
    assert_non_null(CALL(f, Shards, DeleteShard, q, DeleteShardResponse));
    services_fixture_create(f, "brief", "noop");
    services_fixture_wait_ready(f, "brief");
    delete_shard(f, "brief");
    thole_v1_DeleteShardRequest_set_name(q, sv("zero"));
    assert_null(CALL(f, Shards, DeleteShard, q, DeleteShardResponse));
}

static void test_pages_cover_everything_once(void **state)
{
    struct services_fixture *f = *state;
    for (int i = 0; i < 7; i++) {
        char name[32];
        snprintf(name, sizeof name, "page-%d", i);
        services_fixture_create(f, name, "noop");
    }
    upb_StringView token = {NULL, 0};
    size_t seen = 0, pages = 0;
    do {
        thole_v1_ListShardsRequest *q = NEW(f, ListShardsRequest);
        thole_v1_ListShardsRequest_set_page_size(q, 3);
        thole_v1_ListShardsRequest_set_page_token(q, token);
        const thole_v1_ListShardsResponse *list =
            CALL(f, Shards, ListShards, q, ListShardsResponse);
        assert_non_null(list);
        size_t n = 0;
        const thole_v1_Shard *const *rows = thole_v1_ListShardsResponse_shards(list, &n);
        assert_true(n <= 3);
        for (size_t i = 0; i < n; i++) {
            upb_StringView name = thole_v1_Shard_name(rows[i]);
            seen += name.size == 6 && memcmp(name.data, "page-", 5) == 0;
        }
        token = thole_v1_ListShardsResponse_next_page_token(list);
        pages++;
    } while (token.size > 0);
    assert_int_equal(seen, 7);
    assert_true(pages >= 3);
    thole_v1_ListShardsRequest *q = NEW(f, ListShardsRequest);
    thole_v1_ListShardsRequest_set_page_size(q, -1);
    assert_failed(f, CALL(f, Shards, ListShards, q, ListShardsResponse), THOLE_INVALID_ARGUMENT,
                  THOLE_REASON_BAD_REQUEST);
    thole_v1_ListShardsRequest_set_page_size(q, 100000);
    assert_non_null(CALL(f, Shards, ListShards, q, ListShardsResponse));
    thole_v1_ListShardsRequest_set_page_token(q, sv("forged!"));
    assert_failed(f, CALL(f, Shards, ListShards, q, ListShardsResponse), THOLE_INVALID_ARGUMENT,
                  THOLE_REASON_BAD_REQUEST);
}

static void test_a_lone_voter_cannot_hand_over(void **state)
{
    struct services_fixture *f = *state;
    services_fixture_create(f, "lone", "noop");
    services_fixture_wait_ready(f, "lone");
    thole_v1_TransferLeaderRequest *q = NEW(f, TransferLeaderRequest);
    thole_v1_TransferLeaderRequest_set_shard(q, sv("lone"));
    assert_null(CALL(f, Shards, TransferLeader, q, TransferLeaderResponse));
    thole_v1_TransferLeaderRequest_set_replica_id(q, 99999);
    assert_failed(f, CALL(f, Shards, TransferLeader, q, TransferLeaderResponse), THOLE_NOT_FOUND,
                  THOLE_REASON_NO_SUCH_REPLICA);
    thole_v1_TransferLeaderRequest_set_shard(q, sv("missing"));
    assert_failed(f, CALL(f, Shards, TransferLeader, q, TransferLeaderResponse), THOLE_NOT_FOUND,
                  THOLE_REASON_NO_SUCH_SHARD);
}

/* ---- Replicas, events, status ---------------------------------------------------------------- */

static size_t count_replicas(struct services_fixture *f, const char *shard, const char *host)
{
    thole_v1_ListReplicasRequest *q = NEW(f, ListReplicasRequest);
    thole_v1_ListReplicasRequest_set_shard(q, sv(shard));
    thole_v1_ListReplicasRequest_set_host(q, sv(host));
    const thole_v1_ListReplicasResponse *list =
        CALL(f, Replicas, ListReplicas, q, ListReplicasResponse);
    size_t n = 0;
    if (list == NULL) {
        return SIZE_MAX;
    }
    (void)thole_v1_ListReplicasResponse_replicas(list, &n);
    return n;
}

static void test_replicas_are_filtered(void **state)
{
    struct services_fixture *f = *state;
    services_fixture_create(f, "rep", "noop");
    services_fixture_wait_ready(f, "rep");
    assert_int_equal(count_replicas(f, "rep", ""), 1);
    assert_int_equal(count_replicas(f, "rep", "h1"), 1);
    assert_true(count_replicas(f, "", "h1") >= 2);
    assert_int_equal(count_replicas(f, "", ""), count_replicas(f, "", "h1"));
    assert_int_equal(count_replicas(f, "missing", ""), SIZE_MAX);
    assert_int_equal(f->st.code, THOLE_NOT_FOUND);
    assert_int_equal(count_replicas(f, "rep", "missing"), SIZE_MAX);
    assert_int_equal(f->st.reason, THOLE_REASON_NO_SUCH_HOST);
    /* A second replica on the same host is refused. */
    thole_v1_CreateReplicaRequest *q = NEW(f, CreateReplicaRequest);
    thole_v1_CreateReplicaRequest_set_shard(q, sv("rep"));
    thole_v1_CreateReplicaRequest_set_host(q, sv("h1"));
    assert_null(CALL(f, Replicas, CreateReplica, q, Replica));
    thole_v1_CreateReplicaRequest_set_host(q, sv("missing"));
    assert_failed(f, CALL(f, Replicas, CreateReplica, q, Replica), THOLE_NOT_FOUND,
                  THOLE_REASON_NO_SUCH_HOST);
    thole_v1_DeleteReplicaRequest *d = NEW(f, DeleteReplicaRequest);
    assert_failed(f, CALL(f, Replicas, DeleteReplica, d, DeleteReplicaResponse),
                  THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST);
    thole_v1_DeleteReplicaRequest_set_id(d, 99999);
    assert_failed(f, CALL(f, Replicas, DeleteReplica, d, DeleteReplicaResponse), THOLE_NOT_FOUND,
                  THOLE_REASON_NO_SUCH_REPLICA);
}

static void test_events_come_in_pages(void **state)
{
    struct services_fixture *f = *state;
    services_fixture_create(f, "evt", "noop");
    services_fixture_wait_ready(f, "evt");
    size_t all = 0, paged = 0, about = 0;
    thole_v1_ListEventsRequest *q = NEW(f, ListEventsRequest);
    thole_v1_ListEventsRequest_set_page_size(q, 1000);
    const thole_v1_ListEventsResponse *list = CALL(f, Events, ListEvents, q, ListEventsResponse);
    assert_non_null(list);
    (void)thole_v1_ListEventsResponse_events(list, &all);
    upb_StringView token = {NULL, 0};
    thole_v1_ListEventsRequest_set_page_size(q, 2);
    do {
        size_t n = 0;
        thole_v1_ListEventsRequest_set_page_token(q, token);
        list = CALL(f, Events, ListEvents, q, ListEventsResponse);
        assert_non_null(list);
        (void)thole_v1_ListEventsResponse_events(list, &n);
        paged += n;
        token = thole_v1_ListEventsResponse_next_page_token(list);
    } while (token.size > 0);
    assert_true(paged >= all && all >= 3);
    thole_v1_ListEventsRequest *one = NEW(f, ListEventsRequest);
    thole_v1_ListEventsRequest_set_object(one, sv("shards/evt"));
    list = CALL(f, Events, ListEvents, one, ListEventsResponse);
    const thole_v1_Event *const *events = thole_v1_ListEventsResponse_events(list, &about);
    assert_true(about >= 2 && about < all);
    for (size_t i = 0; i < about; i++) {
        assert_memory_equal(thole_v1_Event_object(events[i]).data, "shards/evt", 10);
    }
}

static void test_status_knows_itself(void **state)
{
    struct services_fixture *f = *state;
    services_fixture_create(f, "stat", "noop");
    services_fixture_wait_ready(f, "stat");
    const thole_v1_StatusResponse *s =
        CALL(f, Cluster, Status, NEW(f, StatusRequest), StatusResponse);
    assert_non_null(s);
    assert_true(thole_v1_StatusResponse_ready(s));
    assert_int_equal(thole_v1_StatusResponse_cluster_id(s).size, 36);
    assert_true(
        upb_StringView_IsEqual(thole_v1_Host_name(thole_v1_StatusResponse_host(s)), sv("h1")));
    assert_true(thole_v1_StatusResponse_cpu_seconds(s) > 0);
    size_t n = 0;
    const thole_v1_LocalReplica *const *r = thole_v1_StatusResponse_replicas(s, &n);
    bool found = false;
    for (size_t i = 0; i < n; i++) {
        found |= upb_StringView_IsEqual(thole_v1_LocalReplica_shard(r[i]), sv("stat")) &&
                 upb_StringView_IsEqual(thole_v1_LocalReplica_role(r[i]), sv("leader"));
    }
    assert_true(found);
}

static void test_bytes_that_do_not_decode_are_refused(void **state)
{
    struct services_fixture *f = *state;
    static const char *const paths[] = {
        "/thole.v1.Shards/GetShard", "/thole.v1.Shards/CreateShard", "/thole.v1.Data/Propose",
        "/thole.v1.Data/Query",      "/thole.v1.Data/OpenSession",   "/thole.v1.Data/CloseSession",
    };
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        struct buf *reply = NULL;
        assert_int_equal(bus_channel_call(f->channel, paths[i], slice_of("\x0a\xff\xff", 3), 5000,
                                          &reply, &f->st),
                         THOLE_INVALID_ARGUMENT);
    }
}

/* UpdateHostRequest{host{spec{tags: an entry with an unknown field}}}: 70 bytes for which this
 * version of upb writes out of bounds. */
static void test_tags_that_upb_cannot_digest_are_refused(void **state)
{
    struct services_fixture *f = *state;
    uint8_t bytes[70] = "\x0a\x44\x1a\x42\x0a\x40\x0a\x3c";
    struct buf *reply = NULL;
    memset(bytes + 8, 'k', 60);
    bytes[68] = 0x78;
    bytes[69] = 0x01;
    assert_int_equal(bus_channel_call(f->channel, "/thole.v1.Hosts/UpdateHost",
                                      slice_of(bytes, sizeof bytes), 5000, &reply, &f->st),
                     THOLE_INVALID_ARGUMENT);
    assert_non_null(strstr(f->st.message, "the entry of a map"));
    assert_non_null(get_host(f, "h1"));
}

/* UpdateHostRequest{host{name, spec{}, status{machine_types: a million without a field}}}: 2 MB
 * that would decode to 60 MB. */
static void test_a_request_of_too_many_parts_is_refused(void **state)
{
    enum { PARTS = 1000000 };
    struct services_fixture *f = *state;
    struct bytes parts = {0}, host = {0}, request = {0};
    struct buf *reply = NULL;
    for (size_t i = 0; i < PARTS; i++) {
        bytes_append(&parts, "\x2a\x00", 2);
    }
    bytes_append(&host, "\x0a\x02h1\x1a\x00\x22", 7);
    bytes_append_varint(&host, parts.size);
    bytes_append_slice(&host, bytes_slice(&parts));
    bytes_append(&request, "\x0a", 1);
    bytes_append_varint(&request, host.size);
    bytes_append_slice(&request, bytes_slice(&host));
    assert_int_equal(bus_channel_call(f->channel, "/thole.v1.Hosts/UpdateHost",
                                      bytes_slice(&request), 5000, &reply, &f->st),
                     THOLE_INVALID_ARGUMENT);
    assert_non_null(strstr(f->st.message, "too many parts"));
    bytes_deinit(&parts);
    bytes_deinit(&host);
    bytes_deinit(&request);
}

/* An error message is never longer than clients accept. */
static void test_names_of_any_length_are_refused_as_such(void **state)
{
    struct services_fixture *f = *state;
    static const size_t sizes[] = {LIMIT_NAME_BYTES + 1, 8000, 1000000};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char *name = xmalloc(sizes[i] + 1);
        memset(name, 'x', sizes[i]);
        name[sizes[i]] = '\0';
        assert_failed(f, get_shard(f, name, false), THOLE_INVALID_ARGUMENT,
                      THOLE_REASON_BAD_REQUEST);
        free(name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hosts_are_found_by_name),
        cmocka_unit_test(test_hosts_specs_are_updated_and_guarded),
        cmocka_unit_test(test_tags_that_are_no_text_are_refused),
        cmocka_unit_test(test_a_live_host_is_not_deleted),
        cmocka_unit_test(test_shards_are_created_and_found),
        cmocka_unit_test(test_bad_shard_specs_name_the_field),
        cmocka_unit_test(test_a_dry_run_changes_nothing),
        cmocka_unit_test(test_a_repeated_request_gets_the_first_answer),
        cmocka_unit_test(test_updates_follow_the_etag),
        cmocka_unit_test(test_shards_are_deleted),
        cmocka_unit_test(test_pages_cover_everything_once),
        cmocka_unit_test(test_a_lone_voter_cannot_hand_over),
        cmocka_unit_test(test_replicas_are_filtered),
        cmocka_unit_test(test_events_come_in_pages),
        cmocka_unit_test(test_status_knows_itself),
        cmocka_unit_test(test_bytes_that_do_not_decode_are_refused),
        cmocka_unit_test(test_tags_that_upb_cannot_digest_are_refused),
        cmocka_unit_test(test_a_request_of_too_many_parts_is_refused),
        cmocka_unit_test(test_names_of_any_length_are_refused_as_such),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
