/* Looking at the data directory of a host that does not run: `thole debug log|state`, `thole doctor
 * DIR`. None of them may change a byte, print a secret, or fall over damage. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "integration/test/cluster.h"

#define SECRET_CONFIG "c2VjcmV0LW9mLXRoZS1tYWNoaW5l"
#define DIGEST                                                                              \
    "cd %s && find . -printf '%%p %%m %%s %%T@\\n' | sort > %s/%s && find . -type f -exec " \
    "sha256sum {} + | sort >> %s/%s"

static char out[256 * 1024];

static void digest(const struct cluster *h, const char *name)
{
    shell(DIGEST, h->hosts[0].data_dir, h->dir, name, h->dir, name);
}

/* Runs `thole COMMAND`; returns its exit status. */
#define OFFLINE(c, ...) cli((c), 0, out, sizeof out, __VA_ARGS__)

static void has(const char *text)
{
    if (strstr(out, text) == NULL) {
        fail_msg("no \"%s\" in:\n%s", text, out);
    }
}

static void has_not(const char *text)
{
    assert_true(strlen(text) >= 6);
    if (strstr(out, text) != NULL) {
        fail_msg("\"%s\" in:\n%s", text, out);
    }
}

/* One host for all tests, which work on copies of its directory, or only look at it. */
static struct cluster *c;
static char token[128];

static int stop_a_host(void **state)
{
    (void)state;
    c = cluster_new();
    cluster_start_dev(c);
    apply_yaml(c, 0,
               "kind: Shard\nname: clicks\n"
               "spec: {type: counter, voters: 1, config: " SECRET_CONFIG "}\n");
    snprintf(token, sizeof token, "%.83s",
             strstr(cli_ok(c, 0, "token create --for ann"), "thole_"));
    cli_ok(c, 0, "kv put default colour blue");
    cli_ok(c, 0, "kv put default shape round");
    cli_ok(c, 0, "kv del default shape");
    cli_ok(c, 0, "session open default");
    cli_ok(c, 0, "propose clicks add 5");
    cli_ok(c, 0, "snapshot save clicks %s/clicks.snap", c->dir);
    cli_ok(c, 0, "snapshot restore %s/clicks.snap again --wait", c->dir);
    assert_int_equal(OFFLINE(c, "debug log %s", c->hosts[0].data_dir), 1);
    has("is locked by process");
    assert_int_equal(OFFLINE(c, "doctor %s", c->hosts[0].data_dir), 1);
    has("PROBLEM");
    has("is locked by process");
    host_stop(c, 0);
    return 0;
}

static int free_it(void **state)
{
    (void)state;
    cluster_free(c);
    return 0;
}

static void test_a_stopped_host_is_shown_and_not_changed(void **state)
{
    (void)state;
    const char *dir = c->hosts[0].data_dir;
    digest(c, "before");
    assert_int_equal(OFFLINE(c, "debug log %s", dir), 0);
    has("put colour, 4 bytes");
    has("delete shape");
    has("add 5");
    has("SESSION");
    has("opened under epoch 0");
    has("type counter version 1");
    has("members: 2 voter");
    has("\"createToken\":{\"id\":\"");
    has_not(token + 19); /* its secret */
    has_not("\"hash\"");
    has_not(SECRET_CONFIG);
    assert_int_equal(OFFLINE(c, "-o json debug log %s --shard zero", dir), 0);
    has("\"command\":{\"actor\":\"bootstrap\"");
    has_not("put colour");
    has_not("\"hash\"");
    has_not(SECRET_CONFIG);
    assert_int_equal(OFFLINE(c, "debug log %s --shard 1 --from-index 3 --limit 1", dir), 0);
    has("put shape, 5 bytes");
    has_not("put colour");
    has_not("delete shape");
    assert_int_equal(OFFLINE(c, "-o json debug state %s", dir), 0);
    has("\"type\":\"kv\"");
    has("\"keys\":\"1\"");
    has("\"sessions\":\"1\"");
    has("\"state\":\"database\"");
    has("\"state\":\"4-"); /* the restored counter begins with a snapshot file */
    assert_int_equal(OFFLINE(c, "debug state %s --keys", dir), 0);
    has("colour");
    assert_int_equal(OFFLINE(c, "debug state %s --verify", dir), 0);
    has("no problem found");
    assert_int_equal(OFFLINE(c, "doctor %s", dir), 0);
    has("no problem found");
    digest(c, "after");
    shell("diff %s/before %s/after", c->dir, c->dir);
    host_restart(c, 0); /* and it still serves */
    cluster_wait_ready(c, 0, 10000);
    assert_string_equal(cli_ok(c, 0, "kv get default colour"), "blue\n");
}

/* ---- Damage ---------------------------------------------------------------------------------- */

static void test_damage_is_located_and_explained(void **state)
{
    (void)state;
    char copy[256];
    const char *dir = c->hosts[0].data_dir;
    snprintf(copy, sizeof copy, "%s/copy", c->dir);
    shell("cp -a %s %s", dir, copy);
    shell("at=$(grep -abo 'add 5' %s/log/00000001.seg | head -1 | cut -d: -f1); printf X | "
          "dd of=%s/log/00000001.seg bs=1 seek=$at conv=notrunc status=none",
          copy, copy);
    assert_int_equal(OFFLINE(c, "debug log %s --verify", copy), 1);
    has("PROBLEM log/00000001.seg at ");
    has("replica 3 of shard 2: a record is damaged (run)");
    assert_int_equal(OFFLINE(c, "debug log %s", copy), 0);
    has("damaged: its checksum is wrong");
    has("put colour"); /* the others are shown */
    has("the log is damaged: --verify says where");
    shell("rm -r %s && cp -a %s %s && for f in %s/state/*.sst; do printf XXXX | dd "
          "of=$f bs=1 seek=20 conv=notrunc status=none; done",
          copy, dir, copy, copy);
    assert_int_equal(OFFLINE(c, "doctor %s", copy), 1);
    has("state of replica 2 of shard 1: ");
    has(".sst offset 0");
    has("the first damage in it: ");
    has("the log has all entries, so that nothing is lost");
    shell("rm -r %s && cp -a %s %s && for f in %s/snapshots/*.snap; do printf X | dd of=$f bs=1 "
          "seek=30 conv=notrunc status=none; done",
          copy, dir, copy, copy);
    assert_int_equal(OFFLINE(c, "doctor %s", copy), 1);
    has("PROBLEM snapshots/4-");
    has("is damaged");
    shell("rm -r %s && cp -a %s %s && chmod 755 %s && sed -i s/name/nome/ %s/identity", copy, dir,
          copy, copy, copy);
    assert_int_equal(OFFLINE(c, "doctor %s", copy), 1);
    has("PROBLEM identity: ");
    has("PROBLEM the directory: other users have access");
    shell("rm -r %s && cp -a %s %s && cd %s && rm log/ID && touch state/DAMAGED && echo x "
          ">force-zero && mkdir -m 700 state.damaged-1",
          copy, dir, copy, copy);
    assert_int_equal(OFFLINE(c, "doctor %s", copy), 1);
    has("PROBLEM log: it cannot be read: ");
    has("the host has found it damaged, and not salvaged it yet");
    has("PROBLEM force-zero: ");
    has("remark  force-zero: ");
    has("remark  state.damaged-1: ");
    assert_int_equal(OFFLINE(c, "doctor %s/log", copy), 3); /* not a data directory */
}

/* Any bytes in any file: a report, never a crash. */
static void test_random_bytes_are_survived(void **state)
{
    (void)state;
    char copy[256];
    uint64_t seed = 11;
    snprintf(copy, sizeof copy, "%s/copy", c->dir);
    /* Only the used part of the segment: the rest is zeros. */
    for (int round = 0; round < 15; round++) {
        char bytes[32];
        seed = hash64(&seed, sizeof seed, 3);
        uint64_t random = hash64(&seed, sizeof seed, 5);
        for (int n = 0; n < 6; n++) { /* in octal, for the shell */
            snprintf(bytes + 4 * n, 5, "\\%03o", (unsigned)(random >> (8 * n)) & 0xff);
        }
        shell("rm -rf %s; cp -a %s %s; f=$(find %s -type f -size +0 | sort | awk "
              "'{a[NR]=$0} END {print a[1+%u%%NR]}'); s=$(stat -c %%s $f); [ $s -lt 4000 ] || "
              "s=4000; printf '%s' | dd of=$f bs=1 seek=$((%u %% s)) conv=notrunc status=none",
              copy, c->hosts[0].data_dir, copy, copy, (unsigned)(seed >> 33), bytes,
              (unsigned)(seed & 0xffff));
        int status = OFFLINE(c, "doctor %s", copy);
        assert_true(status >= 0 && status <= 4);
        status = OFFLINE(c, "debug log %s", copy);
        assert_true(status >= 0 && status <= 4);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_damage_is_located_and_explained),
        cmocka_unit_test(test_random_bytes_are_survived),
        cmocka_unit_test(test_a_stopped_host_is_shown_and_not_changed), /* last: it restarts it */
    };
    return cmocka_run_group_tests(tests, stop_a_host, free_it);
}
