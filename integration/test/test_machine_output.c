/* `-o json` prints one document on stdout and nothing else, for every command. What `get` prints
 * can be applied again and changes nothing. Another JSON parser, python3's, reads the documents. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "integration/test/cluster.h"

static struct cluster *cluster;

static int setup(void **state)
{
    (void)state;
    cluster = cluster_new();
    cluster_start_peers(cluster, 2);
    apply_yaml(cluster, 0,
               "kind: Shard\nname: orders\nspec:\n  type: kv\n  voters: 1\n"
               "  leaderPreference: [{key: zone, operator: NOT_EXISTS}]\n---\n"
               "kind: ShardPool\nname: p\nspec: {count: 2, shard: {type: counter, voters: 1}}\n");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    cluster_free(cluster);
    return 0;
}

/* The Python expression holds for `d`, the document on the command's stdout. */
static void expect_document(const char *command, const char *holds)
{
    char line[4096], out[4096];
    snprintf(line, sizeof line,
             "'%s' --endpoints %s -o json %s 2>/dev/null | python3 -c '\n"
             "import json, re, sys\n"
             "text = sys.stdin.read()\n"
             "form = r\"\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d[.]\\d{3}Z\"\n"
             "time = lambda text: re.fullmatch(form, text)\n"
             "d = json.loads(text)\n"
             "sys.exit(0 if (%s) else text)' 2>&1",
             THOLE_PATH, cluster->hosts[0].address, command, holds);
    FILE *p = popen(line, "r");
    assert_non_null(p);
    size_t n = fread(out, 1, sizeof out - 1, p);
    out[n] = 0;
    int status = pclose(p);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fail_msg("thole -o json %s: not so: %s\n%s", command, holds, out);
    }
}

static void test_every_command_prints_one_document(void **state)
{
    (void)state;
    char file[256], command[512];
    snprintf(file, sizeof file, "%s/spec.yaml", cluster->dir);
    FILE *f = fopen(file, "w");
    assert_non_null(f);
    fputs("kind: Shard\nname: extra\nspec: {type: counter, voters: 1}\n", f);
    fclose(f);
    expect_document("version", "d[\"kind\"] == \"Version\" and d[\"version\"]");
    expect_document(
        "status", "d[\"ready\"] is True and len(d[\"hosts\"]) == 2 and len(d[\"shards\"]) == 4 and "
                  "d[\"zero\"][\"live\"] >= 1 and d[\"zero\"][\"mayFail\"] == "
                  "d[\"zero\"][\"live\"] - d[\"zero\"][\"voters\"] // 2 - 1");
    expect_document("get shards", "len(d) == 4 and all(s[\"kind\"] == \"Shard\" for s in d)");
    expect_document("get shard orders",
                    "d[\"spec\"][\"leaderPreference\"][0][\"operator\"] == \"NOT_EXISTS\" and "
                    "d[\"spec\"][\"leaseReads\"] is False and d[\"deleting\"] is False and "
                    "d[\"spec\"][\"witnesses\"] == 0 and time(d[\"createTime\"]) and "
                    "type(d[\"id\"]) is str and "
                    "all(type(c[\"status\"]) is bool for c in d[\"status\"][\"conditions\"])");
    expect_document("get hosts",
                    "all(h[\"spec\"][\"state\"] == \"ACTIVE\" and h[\"status\"][\"liveness\"] == "
                    "\"LIVE\" for h in d)");
    expect_document("get replicas", "all(r[\"role\"] and r[\"phase\"] for r in d)");
    expect_document("get events", "len(d) > 3 and all(time(e[\"time\"]) for e in d)");
    expect_document("get operations", "d == []");
    expect_document("members", "len(d) > 0");
    expect_document("describe shard orders",
                    "d[\"shard\"][\"name\"] == \"orders\" and len(d[\"replicas\"]) == 1 and "
                    "len(d[\"events\"]) > 0");
    expect_document("describe host h1", "d[\"host\"][\"name\"] == \"h1\"");
    expect_document("describe pool p", "d[\"pool\"][\"name\"] == \"p\"");
    snprintf(command, sizeof command, "diff -f %s", file);
    expect_document(command, "d[\"items\"][0][\"result\"] == \"created\"");
    snprintf(command, sizeof command, "apply --dry-run -f %s", file);
    expect_document(command, "d[\"items\"][0][\"dryRun\"] is True");
    snprintf(command, sizeof command, "apply --wait -f %s", file);
    expect_document(command, "d[\"items\"] == [{\"name\": \"shards/extra\", \"result\": "
                             "\"created\", \"dryRun\": False}]");
    expect_document("propose extra 'add 1'", "d[\"code\"] == \"0\" and d[\"text\"] == \"1\"");
    expect_document("query extra get", "d[\"text\"] == \"1\"");
    expect_document("propose extra 'add 0' --request-id a", "d[\"duplicate\"] is False");
    expect_document("propose extra 'add 0' --request-id a", "d[\"duplicate\"] is True");
    expect_document("session open extra", "int(d[\"session\"]) > 0");
    expect_document("session close extra 12345", "d[\"kind\"] == \"CloseSessionResponse\"");
    expect_document("kv put orders a 1", "d");
    expect_document("kv get orders a", "d");
    expect_document("kv get orders --prefix ''", "len(d) == 1");
    expect_document("delete shard extra --wait", "d[\"result\"] == \"deleted\"");
    expect_document("host cordon h2", "d[\"kind\"] == \"CORDON\" and d[\"state\"] == \"DONE\"");
    expect_document("host uncordon h2", "time(d[\"endTime\"])");
    expect_document("host drain h2 --dry-run", "d[\"message\"] == \"\"");
    expect_document("host drain h2 --wait", "d[\"state\"] == \"DONE\" and d[\"kind\"]");
    expect_document("host undrain h2", "d[\"state\"] == \"DONE\"");
    expect_document("get operations", "len(d) >= 4");
    snprintf(command, sizeof command, "snapshot save orders %s/snapshot", cluster->dir);
    expect_document(command, "d[\"shard\"] == \"orders\"");
    snprintf(command, sizeof command, "snapshot status %s/snapshot", cluster->dir);
    expect_document(command, "d[\"shard\"] == \"orders\" and time(d[\"time\"])");
}

static void test_what_is_printed_can_be_applied_and_changes_nothing(void **state)
{
    (void)state;
    static const char *const names[] = {"shard orders", "pool p", "host h1"};
    char line[1024], out[4096];
    for (size_t i = 0; i < 2 * sizeof names / sizeof *names; i++) {
        snprintf(line, sizeof line,
                 "'%s' --endpoints %s get %s -o %s | '%s' --endpoints %s apply -f - 2>&1",
                 THOLE_PATH, cluster->hosts[0].address, names[i / 2], i % 2 ? "json" : "yaml",
                 THOLE_PATH, cluster->hosts[0].address);
        FILE *p = popen(line, "r");
        assert_non_null(p);
        size_t n = fread(out, 1, sizeof out - 1, p);
        out[n] = 0;
        if (pclose(p) != 0 || strstr(out, " unchanged") == NULL) {
            fail_msg("%s: %s", line, out);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_command_prints_one_document),
        cmocka_unit_test(test_what_is_printed_can_be_applied_and_changes_nothing),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
