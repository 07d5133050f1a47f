/* The largest proposals and answers through every door, at every host: two of three forward. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/limits.h"
#include "integration/test/cluster.h"
#include "integration/test/scrape.h"

#define HOSTS 3
#define ROOM 256 /* for the key, and what stands around key and value in a request */

static const char shard_yaml[] = "kind: Shard\nname: default\nspec: {type: kv, voters: 3}\n";

static void write_value(const struct cluster *c, const char *name, const char *before, size_t size)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", c->dir, name);
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    fputs(before, f);
    for (size_t i = 0; i < size; i++) {
        fputc((int)('a' + i % 23), f);
    }
    assert_int_equal(fclose(f), 0);
}

/* Each door writes the value, and gives it back; so does every other one. */
static void check_doors(struct cluster *c, int i)
{
    const char *dir = c->dir, *at = c->hosts[i].address;

    cli_ok(c, i, "kv put default cli @%s/value", dir);
    cli_ok(c, i, "propose default --data-file %s/command", dir);
    shell("curl -sf http://%s:%d/v3/kv/put --data-binary @%s/json >%s/out", c->hosts[i].ip,
          HTTP_PORT, dir, dir);
    shell("'%s' -e %s kv get default cli | tr -d '\\n' | cmp - %s/value", THOLE_PATH, at, dir);
    shell("'%s' -e %s kv get default text | tr -d '\\n' | cmp - %s/value", THOLE_PATH, at, dir);
    shell("curl -sf http://%s:%d/v3/kv/range -d '{\"key\":\"anNvbg==\"}' | "
          "grep -qF \"$(head -c 100000 %s/base64)\"",
          c->hosts[i].ip, HTTP_PORT, dir);
    shell("'%s' -e %s kv get default json | tr -d '\\n' | cmp - %s/value", THOLE_PATH, at, dir);
}

/* etcd's own client: a value, its previous one, and a watcher that sees both in one event. */
static void check_etcdctl(struct cluster *c, int i)
{
    const char *dir = c->dir, *at = c->hosts[i].address;
    const int value = LIMIT_PAYLOAD_BYTES - ROOM;

    shell("export ETCDCTL_API=3; etcdctl --endpoints %s put key <%s/value", at, dir);
    shell("export ETCDCTL_API=3; etcdctl --endpoints %s put key --prev-kv <%s/value >%s/out", at,
          dir, dir);
    shell("test $(wc -c <%s/out) -gt %d", dir, value);
    shell("export ETCDCTL_API=3; etcdctl --endpoints %s get key --print-value-only | "
          "tr -d '\\n' | cmp - %s/value",
          at, dir);
    shell("export ETCDCTL_API=3; etcdctl --endpoints %s get key -w fields | "
          "sed -n 's/^\"Revision\" : //p' >%s/revision",
          at, dir);
    shell("export ETCDCTL_API=3; rm -f %s/seen; mkfifo %s/seen; etcdctl --endpoints %s watch key "
          "--prev-kv --rev $(cat %s/revision) >%s/seen & watcher=$!; "
          "head -c %d %s/seen | wc -c | grep -qx %d; seen=$?; kill $watcher; exit $seen",
          dir, dir, at, dir, dir, 2 * value, dir, 2 * value);
    shell("export ETCDCTL_API=3; ! etcdctl --endpoints %s put key <%s/over 2>%s/refused", at, dir,
          dir);
    shell("grep -q 'etcdserver: request is too large' %s/refused", dir);
}

static void test_largest_requests_pass_every_door(void **state)
{
    char out[4096];
    (void)state;
    struct cluster *c = cluster_new();
    c->http = true;
    cluster_start_peers(c, HOSTS);
    apply_yaml(c, 0, shard_yaml);
    write_value(c, "value", "", LIMIT_PAYLOAD_BYTES - ROOM);
    write_value(c, "command", "put text ", LIMIT_PAYLOAD_BYTES - ROOM);
    write_value(c, "over", "", LIMIT_PAYLOAD_BYTES);
    write_value(c, "much", "put text ", LIMIT_PAYLOAD_BYTES);
    shell("base64 -w0 <%s/value >%s/base64", c->dir, c->dir);
    shell("(printf '{\"key\":\"anNvbg==\",\"value\":\"'; cat %s/base64; printf '\"}') >%s/json",
          c->dir, c->dir);
    for (int i = 0; i < HOSTS; i++) {
        check_doors(c, i);
    }
    if (system("command -v etcdctl >/dev/null") == 0) {
        for (int i = 0; i < HOSTS; i++) {
            check_etcdctl(c, i);
        }
    }
    assert_int_not_equal(cli(c, 1, out, sizeof out, "propose default --data-file %s/much", c->dir),
                         0);
    assert_non_null(strstr(out, "1572864"));

    /* The logs have records of that size: every host recovers its own. */
    for (int i = 0; i < HOSTS; i++) {
        host_kill(c, i);
    }
    for (int i = 0; i < HOSTS; i++) {
        host_restart(c, i);
    }
    for (int i = 0; i < HOSTS; i++) {
        cluster_wait_ready(c, i, 20000);
        check_doors(c, i);
    }
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_largest_requests_pass_every_door),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
