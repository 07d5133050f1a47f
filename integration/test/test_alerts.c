/* Each rule of integration/monitoring/alerts.yaml is false while all is well, and true when its
 * fault is there. The rules are evaluated by integration/monitoring/evaluate. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "integration/test/pki.h"
#include "integration/test/scrape.h"

#define RULES "integration/monitoring/alerts.yaml"
#define SEEN_BYTES 4096

/* The alerts that fired in the tests before, one a line. */
static char seen[SEEN_BYTES];

/* The alerts that fire now, one a line. `option`: of evaluate. */
static const char *firing(struct cluster *c, int hosts, const char *option)
{
    static char out[SEEN_BYTES];
    char command[1500];
    int n = snprintf(command, sizeof command, "%s %s", EVALUATE_PATH, option);
    for (int i = 0; i < hosts; i++) {
        n += snprintf(command + n, sizeof command - (size_t)n, " http%s://%s:%d/metrics",
                      c->pki != NULL ? "s" : "", c->hosts[i].ip, HTTP_PORT);
    }
    FILE *f = popen(command, "re");
    assert_non_null(f);
    size_t size = fread(out, 1, sizeof out - 1, f);
    out[size] = '\0';
    assert_int_equal(pclose(f), 0);
    return out;
}

struct wanted {
    struct cluster *c;
    int hosts;
    const char *alert, *option;
};

static bool has_line(const char *text, const char *line)
{
    char wanted[128];
    snprintf(wanted, sizeof wanted, "%s\n", line);
    const char *at = strstr(text, wanted);
    return at != NULL && (at == text || at[-1] == '\n');
}

static bool fires(void *ctx)
{
    const struct wanted *w = ctx;
    return has_line(firing(w->c, w->hosts, w->option), w->alert);
}

static void expect_since(struct cluster *c, int hosts, const char *option, const char *alert)
{
    eventually(30000, alert, fires, &(struct wanted){c, hosts, alert, option});
    size_t size = strlen(seen);
    snprintf(seen + size, sizeof seen - size, "%s\n", alert);
}

static void expect(struct cluster *c, int hosts, const char *alert)
{
    expect_since(c, hosts, "", alert);
}

static bool is_quiet(void *ctx)
{
    const struct wanted *w = ctx;
    return firing(w->c, w->hosts, w->option)[0] == '\0';
}

static void expect_quiet(struct cluster *c, int hosts)
{
    eventually(30000, "no alert fires", is_quiet, &(struct wanted){c, hosts, NULL, ""});
}

static void test_faults_of_hosts_and_shards(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    char out[4096];
    c->http = true;
    c->tholed = THOLED_FLAKY_PATH;
    cluster_start_peers(c, 3);
    apply_yaml(c, 0, "kind: Shard\nname: orders\nspec: {type: kv, voters: 3}\n");
    apply_yaml(c, 0, "kind: Shard\nname: f\nspec: {type: flaky, voters: 3}\n");
    expect_quiet(c, 3);
    cli_ok(c, 0, "pause");
    expect(c, 3, "TholeControllersPaused");
    for (int i = 0; i < 60; i++) { /* some are refused: the next leader is not known yet */
        (void)cli(c, 0, out, sizeof out, "shard transfer-leader orders");
    }
    expect(c, 3, "TholeLeadersChangeOften");
    int follower = (leader_of(c, 0, "f") + 1) % 3;
    shell("touch %s/fail", c->hosts[follower].data_dir);
    cli_ok(c, follower, "propose f x");
    expect(c, 3, "TholeReplicasFailed"); /* while healing is paused */
    shell("rm %s/fail", c->hosts[follower].data_dir);
    cli_ok(c, 0, "resume");
    cli_ok(c, 0, "wait --for ready --timeout 60s shard/orders");
    host_kill(c, 2);
    expect(c, 3, "TholeHostDown");
    expect(c, 3, "TholeHostNotLive");
    expect(c, 3, "TholeShardsDegraded");
    host_kill(c, 1);
    expect(c, 3, "TholeNoRegistryLeader");
    expect(c, 3, "TholeHostNotReady");
    expect(c, 3, "TholeShardsNotReady");
    expect(c, 3, "TholeShardsWithoutLeader");
    cluster_free(c);
}

/* Proposals wait while the followers' processes stand still, for less than the time after which
 * their leader gives up. */
static void slow_proposal(struct cluster *c, int leader)
{
    for (int i = 0; i < 3; i++) {
        if (i != leader) {
            host_pause(c, i, true);
        }
    }
    shell("timeout 5 %s --endpoints %s propose orders 'put a 1' >/dev/null 2>&1 & sleep 0.7",
          THOLE_PATH, c->hosts[leader].address);
    for (int i = 0; i < 3; i++) {
        host_pause(c, i, false);
    }
}

static void test_faults_of_machines(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    char since[256], save[256];
    c->http = true;
    c->preload = FAULTY_DISK_PATH;
    cluster_start_peers(c, 3);
    apply_yaml(c, 0, "kind: Shard\nname: orders\nspec: {type: kv, voters: 3}\n");
    expect_quiet(c, 3);
    snprintf(save, sizeof save, "--save %s/before", c->dir);
    snprintf(since, sizeof since, "--from %s/before", c->dir);
    (void)firing(c, 3, save);
    for (int i = 0; i < 20 && !has_line(firing(c, 3, since), "TholeProposalsSlow"); i++) {
        slow_proposal(c, leader_of(c, 0, "orders"));
    }
    expect_since(c, 3, since, "TholeProposalsSlow");
    int hung = (leader_of(c, 0, "orders") + 1) % 3;
    (void)firing(c, 3, save);
    host_set_fault(c, hung, "", "hung", true);
    cli_ok(c, (hung + 1) % 3, "propose orders 'put a 1'");
    expect(c, 3, "TholeDiskStalled");
    host_set_fault(c, hung, "", "hung", false);
    expect_since(c, 3, since, "TholeLogWritesSlow");
    host_set_fault(c, 0, "", "low", true);
    cli_ok(c, 0, "propose orders 'put b 1'"); /* a write, which looks at the space */
    expect(c, 3, "TholeDiskLow");
    expect(c, 3, "TholeDiskFills");
    int open = (int)scrape_value(scrape(&c->hosts[1]), "process_open_fds");
    shell("prlimit --pid %d --nofile=%d:%d", (int)c->hosts[1].pid, open + 10, open + 10);
    expect(c, 3, "TholeDescriptorsShort");
    cluster_free(c);
}

static void test_faults_of_certificates(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    c->http = true;
    pki_make(c, 1);
    shell("rm %s/h1.crt %s/h1.key", pki, pki);
    shell("%s cert host h1 %s --dir %s --days 5 >/dev/null", THOLE_PATH, c->hosts[0].ip, pki);
    cluster_start_dev(c);
    expect(c, 1, "TholeCertificateExpires");
    shell("echo broken > %s/h1.crt", pki);
    expect(c, 1, "TholeCertificateNotReloaded");
    cluster_free(c);
}

static void test_every_rule_was_seen(void **state)
{
    (void)state;
    char line[512], name[64];
    int rules = 0;
    FILE *f = fopen(THOLE_TEST_SOURCE_DIR "/../../" RULES, "re");
    assert_non_null(f);
    while (fgets(line, sizeof line, f) != NULL) {
        if (sscanf(line, " - alert: %63[A-Za-z]", name) == 1) {
            rules++;
            if (!has_line(seen, name)) {
                fail_msg("no test shows that %s fires", name);
            }
        }
    }
    fclose(f);
    assert_true(rules > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_faults_of_hosts_and_shards),
        cmocka_unit_test(test_faults_of_machines),
        cmocka_unit_test(test_faults_of_certificates),
        cmocka_unit_test(test_every_rule_was_seen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
