/* tholed as a service: what it says to systemd, when it feeds the watchdog, and its lines in the
 * journal. The sockets of both are ours. */
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "integration/test/cluster.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#define WATCHDOG_US "400000" /* it is fed four times as often */

/* Everything that came to a socket, one message a line. */
struct inbox {
    int fd;
    char text[65536];
    size_t size;
};

static void inbox_open(struct inbox *in, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    *in = (struct inbox){.fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)};
    assert_true(in->fd >= 0 && strlen(path) < sizeof address.sun_path);
    memcpy(address.sun_path, path, strlen(path) + 1);
    assert_int_equal(bind(in->fd, (struct sockaddr *)&address, sizeof address), 0);
}

static void inbox_read(struct inbox *in)
{
    ssize_t n;
    while (in->size + 4096 < sizeof in->text &&
           (n = recv(in->fd, in->text + in->size, 4095, 0)) > 0) {
        in->size += (size_t)n;
        in->text[in->size++] = '\n';
        in->text[in->size] = '\0';
    }
}

static void inbox_clear(struct inbox *in)
{
    inbox_read(in);
    in->size = 0;
    in->text[0] = '\0';
}

struct awaited {
    struct inbox *in;
    const char *text;
};

static bool has_come(void *ctx)
{
    const struct awaited *a = ctx;
    inbox_read(a->in);
    return strstr(a->in->text, a->text) != NULL;
}

static void expect_message(struct inbox *in, const char *text)
{
    eventually(20000, text, has_come, &(struct awaited){in, text});
}

static struct cluster *service_new(struct inbox *in)
{
    struct cluster *c = cluster_new();
    char path[256];
    snprintf(path, sizeof path, "%s/notify", c->dir);
    inbox_open(in, path);
    setenv("NOTIFY_SOCKET", path, 1);
    return c;
}

static void service_free(struct cluster *c, struct inbox *in)
{
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    cluster_free(c);
    close(in->fd);
}

static void test_starts_reloads_and_stops_are_announced(void **state)
{
    (void)state;
    struct inbox in;
    struct cluster *c = service_new(&in);
    cluster_start_dev(c);
    expect_message(&in, "STATUS=ready\n");
    const char *opening = strstr(in.text, "STATUS=opening "), *ready = strstr(in.text, "READY=1\n");
    assert_true(opening != NULL && ready != NULL && opening < ready);
    assert_null(strstr(in.text, "WATCHDOG=1"));
    inbox_clear(&in);
    kill(c->hosts[0].pid, SIGHUP);
    expect_message(&in, "RELOADING=1\nMONOTONIC_USEC=");
    expect_message(&in, "\nREADY=1\n");
    host_stop(c, 0);
    expect_message(&in, "STOPPING=1\nSTATUS=transferring leaderships");
    service_free(c, &in);
}

/* A host that waits for others serves, and its status says for what it waits. */
static void test_status_says_what_it_waits_for(void **state)
{
    (void)state;
    struct inbox in;
    struct cluster *c = service_new(&in);
    char peers[256];
    snprintf(peers, sizeof peers, "%s", cluster_endpoints(c, 3));
    host_start(
        c, 0,
        (const char *[]){"--name", "h1", "--listen", c->hosts[0].address, "--peers", peers, NULL});
    expect_message(&in, "READY=1\n");
    expect_message(&in, "STATUS=not ready: ");
    const char *why = strstr(in.text, "STATUS=not ready: ") + strlen("STATUS=not ready: ");
    assert_true(why[0] != '\n');
    service_free(c, &in);
}

/* The watchdog is fed while reads pass through the host and its log's disk answers. */
static void test_watchdog_is_fed_by_progress_alone(void **state)
{
    (void)state;
    struct inbox in;
    struct cluster *c = service_new(&in);
    c->preload = FAULTY_DISK_PATH;
    setenv("WATCHDOG_USEC", WATCHDOG_US, 1);
    cluster_start_dev(c);
    apply_yaml(c, 0, "kind: Shard\nname: orders\nspec: {type: kv, voters: 1}\n");
    inbox_clear(&in);
    expect_message(&in, "WATCHDOG=1\n");

    host_set_fault(c, 0, "", "hung", true);
    char out[4096];
    (void)cli(c, 0, out, sizeof out,
              "--command-timeout 2s kv put orders a b"); /* a write that hangs */
    inbox_clear(&in);
    for (uint64_t end = now_ms() + 1000; now_ms() < end;) {
        (void)poll(&(struct pollfd){.fd = in.fd, .events = POLLIN}, 1, 100);
        inbox_read(&in);
        assert_null(strstr(in.text, "WATCHDOG=1"));
    }

    host_set_fault(c, 0, "", "hung", false);
    expect_message(&in, "WATCHDOG=1\n");
    service_free(c, &in);
}

/* With stderr connected to the journal, lines go to its socket, with fields. The socket's place is
 * fixed, so that this needs a mount namespace. */
static void test_lines_in_the_journal_have_fields(void **state)
{
    (void)state;
    struct inbox notify, journal;
    struct stat st = {0};
    char stream[64];
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("tmpfs", "/run", "tmpfs", 0, NULL) != 0) {
        skip(); /* only root can */
    }
    shell("mkdir -p /run/systemd/journal");
    inbox_open(&journal, "/run/systemd/journal/socket");
    struct cluster *c = service_new(&notify);
    int log = open(c->hosts[0].log_path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    assert_true(log >= 0 && fstat(log, &st) == 0);
    close(log);
    snprintf(stream, sizeof stream, "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
    setenv("JOURNAL_STREAM", stream, 1);
    cluster_start_dev(c);
    expect_message(&journal, "MESSAGE=ready address=");
    assert_non_null(strstr(journal.text, "\nTHOLE_SUBJECT=daemon\nSYSLOG_IDENTIFIER=tholed\n"));
    assert_non_null(strstr(journal.text, "\nTHOLE_HOST=h1\n"));
    assert_non_null(strstr(journal.text, "\nTHOLE_ADDRESS="));
    assert_false(host_log_has(c, 0, "ready address="));
    unsetenv("JOURNAL_STREAM");
    service_free(c, &notify);
    close(journal.fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_starts_reloads_and_stops_are_announced),
        cmocka_unit_test(test_status_says_what_it_waits_for),
        cmocka_unit_test(test_watchdog_is_fed_by_progress_alone),
        cmocka_unit_test(test_lines_in_the_journal_have_fields),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
