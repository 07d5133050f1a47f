/* The metrics of daemons: the first scrape has what docs/metrics.md lists, and nothing else; labels
 * are bounded; gauges follow what happens. */
#include <ctype.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <thole/thole.h>

#include "integration/test/scrape.h"

#define TOP_SHARDS 20
#define NAMES_MAX 512

struct names {
    char *all[NAMES_MAX];
    size_t count;
};

static void add(struct names *n, const char *name, size_t size)
{
    assert_true(n->count < NAMES_MAX);
    n->all[n->count++] = strndup(name, size);
}

static bool has(const struct names *n, const char *name)
{
    for (size_t i = 0; i < n->count; i++) {
        if (strcmp(n->all[i], name) == 0) {
            return true;
        }
    }
    return false;
}

static void clear(struct names *n)
{
    for (size_t i = 0; i < n->count; i++) {
        free(n->all[i]);
    }
    n->count = 0;
}

static void read_families(const char *text, struct names *ret)
{
    for (const char *at = text; (at = strstr(at, "# TYPE ")) != NULL; at += 7) {
        add(ret, at + 7, strcspn(at + 7, " "));
    }
}

/* The names before the colon of each item. */
static void read_documented(struct names *ret)
{
    char line[1024];
    FILE *f = fopen(THOLE_TEST_SOURCE_DIR "/../../docs/metrics.md", "r");
    assert_non_null(f);
    bool names = false;
    while (fgets(line, sizeof line, f) != NULL) {
        names = strncmp(line, "- `", 3) == 0 || (names && strncmp(line, "  ", 2) == 0);
        char *at = line, *end = strstr(line, "`: ");
        end = end != NULL                    ? end + 1
              : strstr(line, "`:\n") != NULL ? strstr(line, "`:\n") + 1
                                             : NULL;
        while (names && (at = strchr(at, '`')) != NULL && (end == NULL || at < end)) {
            add(ret, at + 1, strcspn(at + 1, "`{"));
            at = strchr(at + 1, '`') + 1;
        }
        names = names && end == NULL;
    }
    fclose(f);
}

static void test_first_scrape_has_what_is_documented(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    struct names documented = {0}, scraped = {0};
    c->http = true;
    cluster_start_dev(c);
    read_families(scrape(&c->hosts[0]), &scraped);
    read_documented(&documented);
    assert_true(documented.count > 100);
    for (size_t i = 0; i < documented.count; i++) {
        if (!has(&scraped, documented.all[i])) {
            fail_msg("%s is documented, and not in the first scrape", documented.all[i]);
        }
    }
    for (size_t i = 0; i < scraped.count; i++) {
        if (!has(&documented, scraped.all[i])) {
            fail_msg("%s is not in docs/metrics.md", scraped.all[i]);
        }
    }
    clear(&documented);
    clear(&scraped);
    cluster_free(c);
}

static void add_ones(struct thole *t, const char *shard, int times)
{
    struct thole_shard *s = NULL;
    struct thole_status st = {0};
    assert_int_equal(thole_shard_open(t, shard, &s, &st), THOLE_OK);
    const struct thole_op op = {.kind = THOLE_PROPOSE, .shard = s, .payload = {"add 1", 5}};
    for (int i = 0; i < times; i++) {
        if (thole_call(t, &op, NULL, &st) != THOLE_OK) {
            fail_msg("%s", st.message);
        }
    }
    thole_shard_release(s);
}

static void test_series_of_shards_are_the_busiest_ones(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    c->http = true;
    cluster_start_dev(c);
    apply_yaml(
        c, 0,
        "kind: ShardPool\nname: many\nspec: {count: 30, shard: {type: counter, voters: 1}}\n---\n"
        "kind: Shard\nname: busy\nspec: {type: counter, voters: 1}\n");
    struct thole *t = NULL;
    struct thole_status st = {0};
    assert_int_equal(thole_connect(c->hosts[0].address, &t, &st), THOLE_OK);
    for (int i = 0; i < 30; i++) {
        char name[16];
        snprintf(name, sizeof name, "many-%d", i);
        add_ones(t, name, 1);
    }
    add_ones(t, "busy", 5);
    thole_close(t);
    const char *text = scrape(&c->hosts[0]);
    assert_int_equal(count_text(text, "\nthole_shard_proposals_total{"), TOP_SHARDS);
    assert_true(scrape_value(text, "thole_shard_proposals_total{shard=\"busy\"}") == 5);
    assert_true(scrape_value(text, "thole_type_proposals_total{type=\"counter\"}") == 35);
    assert_true(scrape_value(text, "thole_shards{type=\"counter\"}") == 31);
    assert_true(scrape_value(text, "thole_shards_not_ready{type=\"counter\"}") == 0);
    /* And shard zero, and the one that --dev makes. */
    assert_true(scrape_value(text, "thole_replicas{role=\"leader\"}") == 33);
    assert_true(scrape_value(text, "thole_engine_proposal_seconds_count") >= 35);
    assert_true(isinf(scrape_value(text, "thole_tls_certificate_left_seconds")));
    cluster_free(c);
}

struct wanted {
    const struct host *h;
    const char *series;
    double value;
};

static bool is_scraped(void *ctx)
{
    const struct wanted *w = ctx;
    double value;
    return scrape_find(scrape(w->h), w->series, &value) && value == w->value;
}

static void expect(struct cluster *c, int i, const char *series, double value)
{
    eventually(20000, series, is_scraped, &(struct wanted){&c->hosts[i], series, value});
}

static void test_gauges_follow_a_host_that_dies(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    c->http = true;
    cluster_start_peers(c, 3);
    apply_yaml(c, 0, "kind: Shard\nname: orders\nspec: {type: kv, voters: 3}\n");
    expect(c, 0, "thole_hosts{liveness=\"live\"}", 3);
    expect(c, 0, "thole_shards_degraded{type=\"kv\"}", 0);
    host_kill(c, 2);
    expect(c, 0, "thole_hosts{liveness=\"live\"}", 2);
    expect(c, 0, "thole_shards_degraded{type=\"kv\"}", 1);
    expect(c, 0, "thole_shards_without_leader{type=\"kv\"}", 0); /* elected anew if need be */
    expect(c, 0, "thole_registry_leader_known", 1);
    host_kill(c, 1);
    expect(c, 0, "thole_registry_leader_known", 0);
    expect(c, 0, "thole_host_ready", 0);
    expect(c, 0, "thole_shards_not_ready{type=\"kv\"}", 1);
    assert_true(scrape_value(scrape(&c->hosts[0]), "thole_registry_view_age_seconds") > 0);
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_scrape_has_what_is_documented),
        cmocka_unit_test(test_series_of_shards_are_the_busiest_ones),
        cmocka_unit_test(test_gauges_follow_a_host_that_dies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
