/* Hosts in three zones with racks: what a lost zone costs, what is replaced while it is away, and
 * that its return restores what the specs want. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "integration/test/load.h"

#define OUT_BYTES 65536

static const char zones[] = "abcabcc";
static const char racks[] = "1112223"; /* of the zone */

/* Hosts 0..n-1; the first three form the cluster. */
static struct cluster *zoned_cluster(int n)
{
    struct cluster *c = cluster_new();
    char peers[256];
    c->extra_args[0] = "--dead-after-ms";
    c->extra_args[1] = "4000";
    snprintf(peers, sizeof peers, "%s", cluster_endpoints(c, 3));
    for (int i = 0; i < n; i++) {
        char zone[16], rack[16];
        snprintf(zone, sizeof zone, "zone=%c", zones[i]);
        snprintf(rack, sizeof rack, "rack=%c%c", zones[i], racks[i]);
        host_start(c, i,
                   (const char *[]){"--name", c->hosts[i].name, "--listen", c->hosts[i].address,
                                    "--tag", zone, "--tag", rack, i < 3 ? "--peers" : "--join",
                                    i < 3 ? peers : c->hosts[0].address, NULL});
        if (i >= 2) { /* three can only become ready together */
            cluster_wait_ready(c, i, 30000);
        }
    }
    return c;
}

/* The hosts of a shard's replicas. */
struct census {
    int voters, witnesses, others; /* running */
    int zone_votes[3], zone_others[3];
    unsigned hosts,
        unsettled;  /* bits: hosts of those, and of replicas that are not there to stay */
    bool same_rack; /* two votes in one rack */
};

static bool take_census(struct cluster *c, int via, const char *shard, struct census *ret)
{
    char out[OUT_BYTES], role[32], phase[64];
    unsigned votes = 0;
    memset(ret, 0, sizeof *ret);
    if (cli(c, via, out, sizeof out, "get replicas --shard %s", shard) != 0) {
        return false;
    }
    char *rest = NULL;
    for (char *line = strtok_r(out, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        int i = 0;
        if (sscanf(line, " %*s %*s h%d %31s %63s", &i, role, phase) != 3) {
            continue;
        }
        i--;
        int zone = zones[i] - 'a';
        if (strcmp(phase, "running") != 0 || strstr(line, "(removing)") != NULL) {
            ret->unsettled |= 1u << i;
            continue;
        }
        ret->hosts |= 1u << i;
        ret->voters += strcmp(role, "voter") == 0;
        ret->witnesses += strcmp(role, "witness") == 0;
        if (strcmp(role, "non-voting") == 0) {
            ret->others++;
            ret->zone_others[zone]++;
            continue;
        }
        ret->zone_votes[zone]++;
        unsigned rack = 1u << (unsigned)(3 * zone + racks[i] - '1');
        ret->same_rack |= (votes & rack) != 0;
        votes |= rack;
    }
    return true;
}

/* The expected census: votes per zone, how many of them witnesses; the rest as a mask of zones. */
struct wanted {
    struct cluster *c;
    int via;
    const char *shard;
    int voters, witnesses;
    int most[3];      /* votes of a zone at most */
    int least[3];     /* and at least */
    int others[3];    /* non-voting replicas of a zone; -1: any */
    unsigned covered; /* hosts that all have one */
    unsigned dead;    /* hosts that have none; rows of them wait there to be deleted */
    struct census is; /* the last look */
};

static bool as_wanted(void *ctx)
{
    struct wanted *w = ctx;
    if (!take_census(w->c, w->via, w->shard, &w->is)) {
        return false;
    }
    bool good = (w->is.unsettled & ~w->dead) == 0 && !w->is.same_rack &&
                w->is.voters == w->voters && w->is.witnesses == w->witnesses &&
                (w->is.hosts & w->dead) == 0 && (w->is.hosts & w->covered) == w->covered;
    for (int z = 0; z < 3; z++) {
        good = good && w->is.zone_votes[z] <= w->most[z] && w->is.zone_votes[z] >= w->least[z] &&
               (w->others[z] < 0 || w->is.zone_others[z] == w->others[z]);
    }
    return good;
}

static void expect_placed(struct wanted w)
{
    char what[128];
    snprintf(what, sizeof what, "%s has its replicas where they are wanted", w.shard);
    eventually(60000, what, as_wanted, &w);
}

static const char specs[] =
    "kind: Shard\nname: orders\nspec:\n  type: kv\n  voters: 3\n  spread: [zone, rack]\n"
    "  leaderPreference: [{key: zone, operator: IN, values: [a]}]\n"
    "---\n"
    "kind: Shard\nname: wide\nspec: {type: kv, voters: 5, spread: [zone, rack]}\n"
    "---\n"
    "kind: Shard\nname: pinned\nspec:\n  type: kv\n  voters: 2\n  witnesses: 1\n  spread: [rack]\n"
    "  constraints: [{key: zone, operator: IN, values: [b, c]}]\n  nonVoting:\n"
    "    - {count: 1, constraints: [{key: zone, operator: IN, values: [a]}]}\n"
    "    - {cover: true, constraints: [{key: zone, operator: IN, values: [c]}]}\n";

/* With all zones there. A witness is not a copy, so the group that covers zone c may have a replica
 * on each host without a voter. */
static void expect_all_zones(struct cluster *c, int via)
{
    expect_placed(
        (struct wanted){.c = c, .via = via, .shard = "orders", .voters = 3, .most = {1, 1, 1}});
    expect_placed((struct wanted){
        .c = c, .via = via, .shard = "wide", .voters = 5, .most = {2, 2, 2}, .least = {1, 1, 1}});
    expect_placed((struct wanted){.c = c,
                                  .via = via,
                                  .shard = "pinned",
                                  .voters = 2,
                                  .witnesses = 1,
                                  .most = {0, 2, 3},
                                  .others = {1, 0, -1},
                                  .covered = 1u << 2 | 1u << 5 | 1u << 6});
    cli_ok(c, via, "wait --for ready shard/orders shard/wide shard/pinned --timeout 60s");
}

static bool leads_in_zone(void *ctx)
{
    struct expect *e = ctx;
    int leader = shard_leader(e->c, e->via, e->command);
    return leader >= 0 && zones[leader] == *e->needle;
}

static void expect_leader_in(struct cluster *c, int via, const char *shard, const char *zone)
{
    eventually(30000, "the leader is in the preferred zone", leads_in_zone,
               &(struct expect){.c = c, .via = via, .command = shard, .needle = zone});
}

/* The host runs the groups that the rows of the registry name, and no others. */
static bool runs_what_rows_say(void *ctx)
{
    struct expect *e = ctx;
    char out[OUT_BYTES], status[OUT_BYTES];
    return cli(e->c, e->via, out, sizeof out, "get replicas --host %s", e->c->hosts[e->via].name) ==
               0 &&
           cli(e->c, e->via, status, sizeof status, "status -o json") == 0 &&
           count_lines(out, "removing") == 0 &&
           count_text(status, "\"shardId\"") == count_lines(out, " running ");
}

static void test_lost_zone_is_made_up_for_and_its_return_restores_the_spread(void **state)
{
    (void)state;
    enum { VIA = 1, A1 = 0, A2 = 3 };
    const unsigned lost = 1u << A1 | 1u << A2;
    struct cluster *c = zoned_cluster(7);
    apply_yaml(c, VIA, specs);
    expect_all_zones(c, VIA);
    expect_leader_in(c, VIA, "orders", "a");
    expect_lines(c, VIA, "get replicas --shard zero", " voter ", 5);

    struct load *l = load_start(cluster_endpoints(c, 7), "orders", 4);
    load_wait_progress(l, 100, 10000);
    uint64_t killed = now_ms();
    host_kill(c, A1);
    host_kill(c, A2);
    load_wait_progress(l, 100, 10000);
    printf("orders serves after %" PRIu64 " ms\n", (now_ms() - killed));
    expect_lines(c, VIA, "get hosts", " dead ", 2);
    expect_placed((struct wanted){
        .c = c, .via = VIA, .shard = "orders", .voters = 3, .most = {0, 2, 2}, .dead = lost});
    expect_placed((struct wanted){
        .c = c, .via = VIA, .shard = "wide", .voters = 5, .most = {0, 2, 3}, .dead = lost});
    printf("made up for after %" PRIu64 " ms\n", (now_ms() - killed));
    /* A shard that needs zone a is not placed elsewhere, and says why. */
    expect_lines(c, VIA, "get events --object shards/pinned", "no host for 1 of 1 non-voting", 1);
    expect_lines(c, VIA, "get events --object shards/pinned", "h1 (dead), h2 (zone=b), h4 (dead)",
                 1);
    /* Five of the seven hosts are left, and five vote for shard zero. */
    expect_placed((struct wanted){.c = c,
                                  .via = VIA,
                                  .shard = "zero",
                                  .voters = 5,
                                  .most = {5, 5, 5},
                                  .others = {-1, -1, -1},
                                  .dead = lost});

    host_restart(c, A1);
    host_restart(c, A2);
    cluster_wait_ready(c, A1, 20000);
    cluster_wait_ready(c, A2, 20000);
    expect_lines(c, VIA, "get hosts", " live ", 7);
    expect_all_zones(c, VIA);
    expect_leader_in(c, VIA, "orders", "a");
    for (int i = A1; i <= A2; i += A2 - A1) {
        eventually(30000, "what is stale is gone from a host that is back", runs_what_rows_say,
                   &(struct expect){.c = c, .via = i});
    }
    printf("as before after %" PRIu64 " ms\n", (now_ms() - killed));
    struct load_report report;
    load_stop(l, &report);
    assert_int_equal(load_verify(l, cluster_endpoints(c, 7)), 0);
    load_free(l);
    cluster_free(c);
}

/* Members of shard zero as its leader has them; rows only say what is wanted. */
static bool zero_votes(void *ctx)
{
    struct expect *e = ctx;
    char out[OUT_BYTES];
    int leader = shard_leader(e->c, e->via, "zero");
    if (leader < 0 || cli(e->c, leader, out, sizeof out, "status -o json") != 0) {
        return false;
    }
    const char *zero = strstr(out, "\"shard\":\"zero\"");
    const char *votes = zero != NULL ? strstr(zero, "\"votes\":") : NULL;
    return votes != NULL && votes < strchr(zero, '}') && strncmp(votes + 8, e->needle, 1) == 0;
}

/* Five voters of shard zero, then three, and with only two hosts left still three, one of them
 * dead. */
static void test_shard_zero_shrinks_with_lost_hosts_and_grows_again(void **state)
{
    (void)state;
    enum { VIA = 2 };
    struct cluster *c = zoned_cluster(5);
    const struct wanted all = {.c = c, .via = VIA, .shard = "zero", .voters = 5, .most = {5, 5, 5}};
    expect_placed(all);
    host_kill(c, 0);
    host_kill(c, 3);
    expect_placed((struct wanted){.c = c,
                                  .via = VIA,
                                  .shard = "zero",
                                  .voters = 3,
                                  .most = {0, 3, 3},
                                  .dead = 1u << 0 | 1u << 3});
    eventually(20000, "three vote for shard zero", zero_votes,
               &(struct expect){.c = c, .via = VIA, .needle = "3"});
    int next = leader_of(c, VIA, "zero") == 1 ? 1 : 4;
    host_kill(c, next);
    expect_lines(c, VIA, "get hosts", " dead ", 3);
    apply_yaml(c, VIA, "kind: Shard\nname: late\nspec: {type: kv, voters: 1}\n");
    expect_lines(c, VIA, "get replicas --shard zero", " voter ", 3);
    host_restart(c, next);
    host_restart(c, 0);
    host_restart(c, 3);
    expect_placed(all);
    expect_lines(c, VIA, "get hosts", " live ", 5);
    cluster_free(c);
}

/* Does host `lines` have `needle` replicas, not counting that of shard zero? */
static bool has_replicas(void *ctx)
{
    struct expect *e = ctx;
    char out[OUT_BYTES];
    if (cli(e->c, e->via, out, sizeof out, "get replicas --host %s", e->c->hosts[e->lines].name) !=
        0) {
        return false;
    }
    return count_lines(out, " running") - count_lines(out, " zero ") == atoi(e->needle);
}

static void expect_replicas_on(struct cluster *c, int via, int i, const char *count)
{
    eventually(60000, "the host has as many replicas as it may", has_replicas,
               &(struct expect){.c = c, .via = via, .lines = i, .needle = count});
}

static void set_capacity(struct cluster *c, int i, int capacity)
{
    char yaml[200];
    snprintf(yaml, sizeof yaml,
             "kind: Host\nname: %s\nspec: {tags: {zone: %c, rack: %c%c}, capacity: %d}\n",
             c->hosts[i].name, zones[i], zones[i], racks[i], capacity);
    apply_yaml(c, 0, yaml);
}

/* Ten shards of three voters, on five hosts, have thirty replicas. */
static void test_capacity_bounds_hosts_also_when_others_are_lost(void **state)
{
    (void)state;
    struct cluster *c = zoned_cluster(5);
    char out[OUT_BYTES], path[300];
    set_capacity(c, 4, 3);
    apply_yaml(c, 0, "kind: ShardPool\nname: p\nspec: {count: 10, shard: {type: kv, voters: 3}}\n");
    expect_replicas_on(c, 0, 4, "3");
    for (int i = 0; i < 4; i++) {
        set_capacity(c, i, 8);
    }
    /* 35 replicas: one more shard fits, a second does not. */
    apply_yaml(c, 0, "kind: Shard\nname: fits\nspec: {type: kv, voters: 3}\n");
    snprintf(path, sizeof path, "%s/full.yaml", c->dir);
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    assert_true(fputs("kind: Shard\nname: full\nspec: {type: kv, voters: 3}\n", f) >= 0);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(cli(c, 0, out, sizeof out, "apply -f %s --dry-run", path), 1);
    assert_non_null(strstr(out, "full (capacity of the host)"));
    assert_int_equal(cli(c, 0, out, sizeof out, "apply -f %s --wait --timeout 2s", path), 4);
    /* Raise the capacity of one host: the waiting shard is placed. Lower it here: the host gives
     * replicas away. */
    for (int i = 1; i < 4; i++) {
        set_capacity(c, i, 20);
    }
    cli_ok(c, 0, "wait --for ready shard/full --timeout 30s");
    expect_replicas_on(c, 0, 4, "3");
    expect_lines(c, 0, "get hosts", " 3/3 ", 1);
    set_capacity(c, 4, 1);
    expect_replicas_on(c, 0, 4, "1");
    expect_lines(c, 2, "get hosts h5", " 1/1 ", 1);
    /* A host dies: its replicas go to hosts with room, none to the full host. */
    host_kill(c, 0);
    expect_lines(c, 1, "get hosts", " dead ", 1);
    expect_lines(c, 1, "get shards", " yes ", 13);
    expect_replicas_on(c, 1, 4, "1");
    expect_lines(c, 1, "get shards", "Unsatisfiable", 0);
    cluster_free(c);
}

static bool leads_elsewhere(void *ctx)
{
    struct expect *e = ctx;
    return shard_leader(e->c, e->via, e->command) > 0;
}

/* The leader is on the preferred host, moves elsewhere when that host stops, and returns with
 * it. */
static void test_leader_preference_is_followed_while_there_is_such_a_host(void **state)
{
    (void)state;
    enum { VIA = 2 };
    struct cluster *c = zoned_cluster(3);
    for (const char *zone = "abcba"; *zone; zone++) {
        char yaml[256];
        snprintf(yaml, sizeof yaml,
                 "kind: Shard\nname: s\nspec: {type: kv, voters: 3, leaderPreference: [{key: zone, "
                 "operator: IN, values: [%c]}]}\n",
                 *zone);
        apply_yaml(c, VIA, yaml);
        expect_leader_in(c, VIA, "s", zone);
    }
    cli_ok(c, VIA, "kv put s colour blue");
    host_kill(c, 0);
    cli_ok(c, VIA, "kv put s colour green");
    eventually(20000, "another host leads", leads_elsewhere,
               &(struct expect){.c = c, .via = VIA, .command = "s"});
    host_restart(c, 0);
    expect_leader_in(c, VIA, "s", "a");
    assert_non_null(strstr(cli_ok(c, 0, "kv get s colour"), "green"));
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lost_zone_is_made_up_for_and_its_return_restores_the_spread),
        cmocka_unit_test(test_shard_zero_shrinks_with_lost_hosts_and_grows_again),
        cmocka_unit_test(test_capacity_bounds_hosts_also_when_others_are_lost),
        cmocka_unit_test(test_leader_preference_is_followed_while_there_is_such_a_host),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
