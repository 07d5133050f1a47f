/* A stranger on the loopback, in plain text, who knows the protocol and the cluster's id: what it
 * sends as a host does not end a host, a shard, or the say of a majority. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/buf.h"
#include "base/uuid.h"
#include "bus/bus.h"
#include "integration/test/cluster.h"
#include "thole/bus/v1/agent.upb.h"
#include "thole/v1/resources.upb.h"

#define ASK_MS 5000

static struct cluster *cluster_with_shard(void)
{
    struct cluster *c = cluster_new();
    cluster_start_peers(c, 3);
    apply_yaml(c, 0, "kind: Shard\nname: orders\nspec: {type: kv, voters: 3}\n");
    cli_ok(c, 0, "propose orders 'put a b'");
    return c;
}

static void still_works(struct cluster *c)
{
    for (int i = 0; i < 3; i++) {
        assert_true(host_running(c, i));
        cluster_wait_ready(c, i, 20000);
    }
    cli_ok(c, 1, "propose orders 'put c d'");
    expect_lines(c, 0, "get replicas --shard orders -o wide", "running", 3);
}

/* The number of a field after `from`. */
static uint64_t number_after(const char *from, const char *field)
{
    char name[64];
    snprintf(name, sizeof name, "\"%s\":\"", field);
    const char *at = strstr(from, name);
    assert_non_null(at);
    return strtoull(at + strlen(name), NULL, 10);
}

static struct bus *speak_as(struct cluster *c, const struct uuid *host, uint64_t incarnation)
{
    const struct bus_options o = {
        .host_id = *host,
        .cluster_id = cli_uuid(cli_ok(c, 0, "status -o json"), "clusterId"),
        .incarnation = incarnation,
        .lineage = {.start = 1, .oldest = incarnation - 1, .count = 1, .before = {2}},
        .clock = &clock_system,
    };
    struct thole_status st = {0};
    struct bus *b;
    assert_int_equal(bus_new(&o, &b, &st), THOLE_OK);
    bus_start(b);
    return b;
}

static void expect_refused(struct bus *b, const char *address, uint32_t method, struct slice body,
                           const char *why)
{
    struct thole_status st = {0};
    assert_int_not_equal(bus_ask(b, address, method, body, ASK_MS, NULL, NULL, &st), THOLE_OK);
    if (strstr(st.message, why) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", st.message, why);
    }
}

static void hang_up(struct bus *b)
{
    bus_stop(b, 0);
    bus_free(b);
}

/* With the last number that there is, h3 itself would be the stale one from then on. */
static void test_a_made_up_start_does_not_end_a_host(void **state)
{
    (void)state;
    struct cluster *c = cluster_with_shard();
    const struct uuid h3 = cli_uuid(cli_ok(c, 0, "get host h3 -o json"), "id");
    struct bus *b = speak_as(c, &h3, UINT64_MAX);
    for (int i = 0; i < 2; i++) {
        expect_refused(b, c->hosts[i].address, thole_bus_v1_METHOD_REACHES, slice_str("x"),
                       "is made up");
    }
    hang_up(b);
    host_stop(c, 2);
    host_restart(c, 2);
    still_works(c);
    cluster_free(c);
}

/* As `force` of the repair of a lost quorum would: everything in it is right but the need. */
static struct buf *force_of_follower(struct cluster *c, int *ret_host)
{
    static char json[65536];
    *ret_host = (leader_of(c, 0, "orders") + 1) % 3;
    snprintf(json, sizeof json, "%s", cli_ok(c, *ret_host, "status -o json"));
    const char *shard = strstr(json, "\"shard\":\"orders\"");
    assert_non_null(shard);
    const char *begin = shard;
    while (begin > json && *begin != '{') {
        begin--;
    }
    upb_Arena *arena = upb_Arena_New();
    thole_bus_v1_Force *f = thole_bus_v1_Force_new(arena);
    thole_bus_v1_Force_set_shard_id(f, number_after(begin, "shardId"));
    thole_bus_v1_Force_set_replica_id(f, number_after(begin, "replicaId"));
    thole_bus_v1_Force_set_epoch(f, 1);
    thole_bus_v1_Force_set_last_term(f, number_after(begin, "lastTerm"));
    thole_bus_v1_Force_set_last_index(f, number_after(begin, "lastIndex"));
    size_t size = 0;
    const char *bytes = thole_bus_v1_Force_serialize(f, arena, &size);
    struct buf *body = buf_copy(bytes, size);
    upb_Arena_Free(arena);
    return body;
}

static void test_a_healthy_follower_is_not_forced(void **state)
{
    (void)state;
    struct cluster *c = cluster_with_shard();
    const struct uuid stranger = uuid_random(), nobody = {{0}};
    int follower;
    struct buf *body = force_of_follower(c, &follower);
    struct slice force = slice_of(body->data, body->size);
    const char *address = c->hosts[follower].address;
    struct bus *b = speak_as(c, &nobody, 1);
    expect_refused(b, address, thole_bus_v1_METHOD_FORCE, force, "only hosts may call this method");
    hang_up(b);
    b = speak_as(c, &stranger, 1);
    struct buf *reply = NULL; /* of a host, the refusal is an answer */
    const char *const why = "so its quorum is not lost";
    struct thole_status st = {0};
    assert_int_equal(
        bus_ask(b, address, thole_bus_v1_METHOD_FORCE, force, ASK_MS, &reply, NULL, &st), THOLE_OK);
    assert_non_null(memmem(reply->data, reply->size, why, strlen(why)));
    buf_unref(reply);
    hang_up(b);
    buf_unref(body);
    still_works(c);
    cluster_free(c);
}

/* Its row would have the stranger's address and start. */
static void test_nobody_joins_for_another_host(void **state)
{
    (void)state;
    struct cluster *c = cluster_with_shard();
    const struct uuid stranger = uuid_random();
    char id[UUID_TEXT_BYTES];
    const struct uuid h3 = cli_uuid(cli_ok(c, 0, "get host h3 -o json"), "id");
    uuid_format(&h3, id);
    upb_Arena *arena = upb_Arena_New();
    thole_bus_v1_JoinRequest *q = thole_bus_v1_JoinRequest_new(arena);
    thole_v1_Host *row = thole_bus_v1_JoinRequest_mutable_host(q, arena);
    thole_v1_Host_set_id(row, upb_StringView_FromString(id));
    thole_v1_Host_set_name(row, upb_StringView_FromString("h3"));
    size_t size = 0;
    const char *bytes = thole_bus_v1_JoinRequest_serialize(q, arena, &size);
    struct bus *b = speak_as(c, &stranger, 1);
    expect_refused(b, c->hosts[0].address, thole_bus_v1_METHOD_JOIN, slice_of(bytes, size),
                   "a host may ask to join for itself only");
    hang_up(b);
    upb_Arena_Free(arena);
    still_works(c);
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_made_up_start_does_not_end_a_host),
        cmocka_unit_test(test_a_healthy_follower_is_not_forced),
        cmocka_unit_test(test_nobody_joins_for_another_host),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
