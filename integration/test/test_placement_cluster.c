/* Specs end to end: five hosts in three zones, by files, dry runs, diffs, waits with progress,
 * pools, explanations of what cannot be placed, and the refusal of lost updates. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include <cmocka.h>

#include "integration/test/cluster.h"

#define OUT_BYTES 65536

static const char *write_spec(struct cluster *c, const char *text)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/spec.yaml", c->dir);
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
    return path;
}

static void expect(const char *out, const char *needle)
{
    if (strstr(out, needle) == NULL) {
        fail_msg("\"%s\" is not in:\n%s", needle, out);
    }
}

/* h1 and h4 in zone a, h2 and h5 in b, h3 in c. */
static void tag_hosts(struct cluster *c)
{
    static const char zones[] = "abcab";
    for (int i = 0; i < 5; i++) {
        char spec[160];
        snprintf(spec, sizeof spec, "kind: Host\nname: h%d\nspec: {tags: {zone: %c}}\n", i + 1,
                 zones[i]);
        cli_ok(c, i, "apply -f %s", write_spec(c, spec));
    }
}

/* The number of replicas of the shard on hosts of a zone. */
static int in_zone(struct cluster *c, const char *shard, const char *first, const char *second)
{
    const char *out = cli_ok(c, 0, "get replicas --shard %s", shard);
    return count_lines(out, first) + (second != NULL ? count_lines(out, second) : 0);
}

static struct cluster *five_hosts(void)
{
    struct cluster *c = cluster_new();
    cluster_start_peers(c, 3);
    cluster_join(c, 3, 0);
    cluster_join(c, 4, 1);
    tag_hosts(c);
    return c;
}

static void test_spread_spec_is_applied_and_followed(void **state)
{
    (void)state;
    struct cluster *c = five_hosts();
    char out[OUT_BYTES];
    const char *path = write_spec(c, "kind: Shard\nname: orders\nspec:\n  type: kv\n  voters: 3\n"
                                     "  spread: [zone]\n");
    assert_int_equal(cli(c, 0, out, sizeof out, "diff -f %s", path), 1);
    expect(out, "+ voters: 3");
    cli_ok(c, 0, "apply -f %s --dry-run", path);
    assert_int_equal(cli(c, 0, out, sizeof out, "describe shard orders"), 3);
    assert_int_equal(cli(c, 0, out, sizeof out, "apply -f %s --wait --timeout 30s", path), 0);
    expect(out, "shards/orders created");
    expect(out, "ready");
    assert_int_equal(cli(c, 0, out, sizeof out, "diff -f %s", path), 0);
    expect(cli_ok(c, 1, "apply -f %s", path), "unchanged");
    assert_int_equal(in_zone(c, "orders", "h1 ", "h4 "), 1);
    assert_int_equal(in_zone(c, "orders", "h2 ", "h5 "), 1);
    assert_int_equal(in_zone(c, "orders", "h3 ", NULL), 1);

    /* A witness, and a replica on every host of a zone. The other zones have one vote each. */
    path = write_spec(c, "kind: Shard\nname: orders\nspec:\n  type: kv\n  voters: 2\n"
                         "  witnesses: 1\n  spread: [zone]\n  nonVoting:\n    - cover: true\n"
                         "      constraints: [{key: zone, operator: IN, values: [b]}]\n"
                         "  leaderPreference: [{key: zone, operator: IN, values: [b]}]\n");
    cli_ok(c, 0, "apply -f %s --wait --timeout 40s", path);
    expect_lines(c, 0, "get replicas --shard orders", "witness", 1);
    expect_lines(c, 0, "get replicas --shard orders", "running", 4);
    assert_int_equal(in_zone(c, "orders", "h2 ", "h5 "), 2);
    assert_int_equal(in_zone(c, "orders", "h3 ", NULL), 1);
    expect(cli_ok(c, 2, "describe shard orders"), "Spread       zone");
    cli_ok(c, 2, "kv put orders colour blue");
    expect(cli_ok(c, 4, "kv get orders colour"), "blue");
    cli_ok(c, 0, "delete shard orders --wait --timeout 30s");
    cluster_free(c);
}

static void test_what_cannot_be_placed_is_explained(void **state)
{
    (void)state;
    struct cluster *c = five_hosts();
    char out[OUT_BYTES];
    const char *path =
        write_spec(c, "kind: Shard\nname: far\nspec:\n  type: kv\n  voters: 3\n  constraints:\n"
                      "    - {key: zone, operator: IN, values: [c, d]}\n");
    assert_int_equal(cli(c, 0, out, sizeof out, "apply -f %s --dry-run", path), 1);
    expect(out,
           "cannot be placed: no host for 2 of 3 voters; of 5 hosts: zone in (c, d) rules out 4");
    expect(out, "would nearly fit: h1 (zone=a), h2 (zone=b), h4 (zone=a), ...");
    assert_int_equal(cli(c, 0, out, sizeof out, "apply -f %s --wait --timeout 3s", path), 4);
    expect(out, "Unsatisfiable: no host for 2 of 3 voters");
    expect_lines(c, 0, "describe shard far", "zone in (c, d) rules out 4", 1);
    /* Hosts that begin to satisfy the spec get replicas. */
    cli_ok(c, 0, "apply -f %s",
           write_spec(c, "kind: Host\nname: h4\nspec: {tags: {zone: d}}\n---\n"
                         "kind: Host\nname: h5\nspec: {tags: {zone: d}, capacity: 2}\n"));
    cli_ok(c, 0, "wait --for ready shard/far --timeout 30s");

    /* A lost update is refused: the etag is that of an older spec. */
    char etag[64] = "";
    const char *shown = cli_ok(c, 0, "get shard far -o yaml");
    const char *at = strstr(shown, "etag: ");
    assert_non_null(at);
    (void)sscanf(at, "etag: %63s", etag);
    char spec[400];
    snprintf(
        spec, sizeof spec,
        "kind: Shard\nname: far\netag: %s\nspec: {type: kv, voters: 1, constraints: [{key: zone, "
        "operator: IN, values: [c, d]}]}\n",
        etag);
    cli_ok(c, 1, "apply -f %s", write_spec(c, spec));
    char *voters = strstr(spec, "voters: 1");
    memcpy(voters, "voters: 2", 9);
    assert_int_equal(cli(c, 0, out, sizeof out, "apply -f %s", write_spec(c, spec)), 1);
    expect(out, "etag");
    cluster_free(c);
}

static void test_pool_is_applied_waited_for_and_deleted(void **state)
{
    (void)state;
    struct cluster *c = five_hosts();
    char out[OUT_BYTES];
    const char *path = write_spec(c, "kind: ShardPool\nname: events\nspec:\n  count: 60\n"
                                     "  shard: {type: kv, voters: 3, spread: [zone]}\n");
    assert_int_equal(cli(c, 0, out, sizeof out, "diff -f %s", path), 1);
    expect(out, "+ count: 60");
    cli_ok(c, 0, "apply -f %s --dry-run", path);
    assert_int_equal(cli(c, 0, out, sizeof out, "apply -f %s --wait --timeout 60s", path), 0);
    expect(out, "pools/events created");
    expect(out, "all 60 shards are ready");
    expect(cli_ok(c, 2, "get pools"), "ready");
    expect(cli_ok(c, 2, "describe pool events"), "60, of which 60 are ready");
    cli_ok(c, 3, "kv put events-59 colour blue");
    assert_int_equal(in_zone(c, "events-7", "h1 ", "h4 "), 1);
    /* Shards of a pool change with the pool only. */
    assert_int_equal(cli(c, 0, out, sizeof out, "delete shard events-3"), 1);
    expect(out, "belongs to the pool");
    path = write_spec(c, "kind: ShardPool\nname: events\nspec:\n  count: 20\n"
                         "  shard: {type: kv, voters: 1, spread: [zone]}\n");
    assert_int_equal(cli(c, 0, out, sizeof out, "diff -f %s", path), 1);
    cli_ok(c, 0, "apply -f %s --wait --timeout 60s", path);
    expect_lines(c, 0, "get shards -o name", "shards/events-", 20);
    cli_ok(c, 0, "delete pool events --wait --timeout 60s");
    expect_lines(c, 0, "get shards -o name", "shards/events-", 0);
    assert_int_equal(cli(c, 0, out, sizeof out, "describe pool events"), 3);
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spread_spec_is_applied_and_followed),
        cmocka_unit_test(test_what_cannot_be_placed_is_explained),
        cmocka_unit_test(test_pool_is_applied_waited_for_and_deleted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
