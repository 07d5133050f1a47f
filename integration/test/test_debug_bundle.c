/* `thole debug bundle`: what is in it, and what must not be. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "integration/test/pki.h"

#define SECRET_CONFIG "c2VjcmV0LW9mLXRoZS1tYWNoaW5l"

static void in_bundle(struct cluster *c, const char *file, const char *text)
{
    shell("tar xOf %s/b.tar thole-debug/%s | grep -aqF -- '%s'", c->dir, file, text);
}

static void not_in_bundle(struct cluster *c, const char *text)
{
    assert_true(strlen(text) >= 8);
    shell("! tar xOf %s/b.tar | grep -aqF -- '%s'", c->dir, text);
}

/* The second line of a PEM file: the first one of its content. */
static void no_key_of(struct cluster *c, const char *name)
{
    char path[400], line[256];
    snprintf(path, sizeof path, "%s/%s.key", pki, name);
    FILE *f = fopen(path, "re");
    assert_non_null(f);
    for (int i = 0; i < 2; i++) {
        assert_non_null(fgets(line, sizeof line, f));
        line[strcspn(line, "\n")] = '\0';
        not_in_bundle(c, line);
    }
    fclose(f);
}

static void test_bundle_has_every_host_and_no_secret(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    pki_make(c, 3);
    cluster_start_peers(c, 3);
    apply_yaml(c, 0,
               "kind: Shard\nname: orders\n"
               "spec: {type: kv, voters: 3, config: " SECRET_CONFIG "}\n"
               "---\nkind: ShardPool\nname: many\n"
               "spec: {count: 2, shard: {type: kv, voters: 1, config: " SECRET_CONFIG "}}\n");
    const char *token = pki_token(c, "ann", "1h");
    cli_ok(c, 0, "kv put orders colour secret-of-the-data");
    host_kill(c, 2);
    assert_string_not_equal(cli_ok(c, 0, "--command-timeout 1s debug bundle %s/b.tar", c->dir), "");
    in_bundle(c, "README.txt", "2 of 3 hosts answered.");
    in_bundle(c, "README.txt", "missing: hosts/h3/");
    for (int i = 0; i < 2; i++) {
        char file[64];
        snprintf(file, sizeof file, "hosts/%s/status.json", c->hosts[i].name);
        in_bundle(c, file, "\"version\":\"");
        snprintf(file, sizeof file, "hosts/%s/log.txt", c->hosts[i].name);
        in_bundle(c, file, "host started data_dir=");
        snprintf(file, sizeof file, "hosts/%s/metrics.txt", c->hosts[i].name);
        in_bundle(c, file, "# TYPE thole_build_info gauge");
        snprintf(file, sizeof file, "hosts/%s/settings.txt", c->hosts[i].name);
        in_bundle(c, file, "tls: yes");
        snprintf(file, sizeof file, "hosts/%s/files.txt", c->hosts[i].name);
        in_bundle(c, file, "log/00000001.seg");
    }
    in_bundle(c, "shards.jsonl", "\"name\":\"orders\"");
    in_bundle(c, "events.jsonl", "ShardCreated");
    in_bundle(c, "replicas.jsonl", "\"shard\":\"orders\"");
    not_in_bundle(c, token);
    not_in_bundle(c, token + 18); /* its secret */
    not_in_bundle(c, SECRET_CONFIG);
    not_in_bundle(c, "secret-of-the-machine");
    not_in_bundle(c, "secret-of-the-data");
    not_in_bundle(c, "PRIVATE KEY");
    no_key_of(c, "ca");
    no_key_of(c, "h1");
    no_key_of(c, "admin");
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bundle_has_every_host_and_no_secret),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
