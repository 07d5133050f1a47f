/* tholed: a host of a cluster as a daemon. daemon_options.c has the options; libthole does the
 * rest, by its public API alone. */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <thole/thole.h>
#include <unistd.h>

#include "agent/doors/http.h"
#include "agent/tholed/daemon_options.h"
#include "agent/tholed/plugin.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"

enum {
    EXIT_OK = 0,
    EXIT_START = 1,
    EXIT_USAGE = 2,
    EXIT_DATA = 3,
    EXIT_ADDRESS = 4,
    EXIT_FAILED = 5,
    START_AGAIN = -1, /* not an exit code: the host is to be opened again */
};

struct daemon {
    struct options options; /* by enum daemon_option_id */
    struct thole *host;
    struct http *http;
    int wake_fd, signal_fd;
    int stop_fd; /* readable by the signals that end the process; never read */
    _Atomic bool failed;
    struct thole_status failure; /* written before `failed` */
    bool was_ready;              /* of the thread that reports readiness */
    /* The watchdog is fed after a read has passed through a loop and an applier, while the log's
     * disk answers. */
    _Atomic bool probe_running, probe_returned;
};

static int exit_code(const struct thole_status *st)
{
    switch ((int)st->reason) {
    case THOLE_REASON_LOCKED:
    case THOLE_REASON_FORMAT:
    case THOLE_REASON_CORRUPT:
    case THOLE_REASON_WRONG_CLUSTER:
    case THOLE_REASON_WRONG_HOST:
    case THOLE_REASON_DISK:
        return EXIT_DATA;
    case THOLE_REASON_TOO_LARGE: /* an option, or a file */
        return st->code == THOLE_INVALID_ARGUMENT ? EXIT_USAGE : EXIT_DATA;
    case THOLE_REASON_ADDRESS_IN_USE:
        return EXIT_ADDRESS;
    case THOLE_REASON_REMOVED:
    case THOLE_REASON_STALE_INCARNATION:
        return EXIT_FAILED; /* at the start as well as while running */
    default:
        return st->code == THOLE_INVALID_ARGUMENT ? EXIT_USAGE : EXIT_START;
    }
}

static int say(const struct thole_status *st, int code)
{
    char text[sizeof st->message + 48];
    snprintf(text, sizeof text, "tholed: %s%s\n", st->message,
             code == EXIT_USAGE ? "; see `tholed --help`" : "");
    log_print(text); /* does not block: an unread stderr must not delay the exit */
    return code;
}

static void wake(struct daemon *d)
{
    uint64_t one = 1;
    ssize_t n = write(d->wake_fd, &one, sizeof one);
    (void)n; /* a full counter wakes, too */
}

static void on_failed(void *ctx, const struct thole_status *st)
{
    struct daemon *d = ctx;
    d->failure = *st;
    atomic_store(&d->failed, true);
    wake(d);
}

/* ---- Start ----------------------------------------------------------------------------------- */

static const char *text_of(const struct daemon *d, enum daemon_option_id id)
{
    return d->options.values[id].text;
}

static uint32_t number_of(const struct daemon *d, enum daemon_option_id id)
{
    return (uint32_t)d->options.values[id].number; /* its `max` fits */
}

static enum thole_code configure_log(const struct daemon *d, struct thole_status *st)
{
    const struct option_value *level = &d->options.values[DAEMON_LOG_LEVEL];
    if (!log_configure_text(level->text)) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "%s \"%.64s\": must be error, warn, info or debug, and "
                          "SUBJECT=LEVEL after a comma, such as info,raft=debug",
                          level->origin, level->text);
    }
    bool json = strcmp(text_of(d, DAEMON_LOG_FORMAT), "json") == 0;
    log_set_json(json);
    if (!json && log_stderr_is_journal()) {
        (void)log_to_journal(LOG_JOURNAL_SOCKET); /* else lines go to it by stderr */
    }
    return THOLE_OK;
}

static enum thole_bootstrap bootstrap_of(const struct daemon *d)
{
    if (options_on(&d->options, DAEMON_DEV)) {
        return THOLE_BOOTSTRAP_DEV;
    }
    if (text_of(d, DAEMON_PEERS) != NULL) {
        return THOLE_BOOTSTRAP_PEERS;
    }
    return text_of(d, DAEMON_JOIN) != NULL ? THOLE_BOOTSTRAP_JOIN : THOLE_BOOTSTRAP_NONE;
}

/* Addresses at which to look for the cluster; NULL: none. */
static const char *seeds_of(const struct daemon *d)
{
    const char *peers = text_of(d, DAEMON_PEERS);
    return peers != NULL ? peers : text_of(d, DAEMON_JOIN);
}

/* NULL: off. */
static const char *http_of(const struct daemon *d)
{
    const char *http = text_of(d, DAEMON_HTTP);
    if (http == NULL) {
        return options_on(&d->options, DAEMON_DEV) ? "127.0.0.1:0" : NULL;
    }
    return strcmp(http, "off") == 0 ? NULL : http;
}

/* False: none was given. Some without the others is an error, which thole_start explains. */
static bool tls_of(const struct daemon *d, struct thole_tls *ret)
{
    *ret = (struct thole_tls){
        .size = sizeof *ret,
        .cert = text_of(d, DAEMON_TLS_CERT),
        .key = text_of(d, DAEMON_TLS_KEY),
        .ca = text_of(d, DAEMON_TLS_CA),
        .client_ca = text_of(d, DAEMON_TLS_CLIENT_CA),
        .crl = text_of(d, DAEMON_TLS_CRL),
    };
    return ret->cert != NULL || ret->key != NULL || ret->ca != NULL || ret->client_ca != NULL ||
           ret->crl != NULL;
}

/* Systemd and the log say when the host becomes ready, and for what it waits. */
static void on_ready(void *ctx, bool ready, const char *why)
{
    struct daemon *d = ctx;
    sd_notifyf(0, "STATUS=%s%s", ready ? "ready" : "not ready: ", why);
    if (ready && !d->was_ready) {
        LOG_INFO(DAEMON, "ready address=%s", thole_address(d->host));
    } else if (!ready && d->was_ready) {
        LOG_WARN(DAEMON, "not ready: %s; waiting", why);
    }
    d->was_ready = ready;
}

static enum thole_code open_host(struct daemon *d, struct thole_status *st)
{
    struct thole_tls tls;
    bool has_tls = tls_of(d, &tls), insecure = options_on(&d->options, DAEMON_INSECURE);
    if (!has_tls && http_of(d) != NULL &&
        thole_check_plain("http", http_of(d), insecure, st) != THOLE_OK) {
        return st->code;
    }
    const struct option_value *given = &d->options.values[DAEMON_TAG];
    const char **tags = xcalloc(given->item_count + 1, sizeof *tags); /* ends with NULL */
    for (size_t i = 0; i < given->item_count; i++) {
        tags[i] = given->items[i];
    }
    const struct thole_options o = {
        .size = sizeof o,
        .data_dir = text_of(d, DAEMON_DATA_DIR),
        .listen = text_of(d, DAEMON_LISTEN),
        .advertise = text_of(d, DAEMON_ADVERTISE),
        .name = text_of(d, DAEMON_NAME),
        .tags = tags,
        .bootstrap = bootstrap_of(d),
        .addresses = seeds_of(d),
        .election_timeout_ms = number_of(d, DAEMON_ELECTION_TIMEOUT_MS),
        .heartbeat_ms = number_of(d, DAEMON_HEARTBEAT_MS),
        .suspect_after_ms = number_of(d, DAEMON_SUSPECT_AFTER_MS),
        .suspect_after_ms_max = number_of(d, DAEMON_SUSPECT_AFTER_MS_MAX),
        .dead_after_ms = number_of(d, DAEMON_DEAD_AFTER_MS),
        .loops = number_of(d, DAEMON_LOOPS),
        .appliers = number_of(d, DAEMON_APPLIERS),
        .snapshot_bytes_per_s = d->options.values[DAEMON_SNAPSHOT_BYTES_PER_S].number,
        .tls = has_tls ? &tls : NULL,
        .insecure = insecure,
        .owns_process = true,
        .default_shard = true,
        .reflection_for_all = strcmp(text_of(d, DAEMON_REFLECTION), "all") == 0,
        .failed = on_failed,
        .ready = on_ready,
        .ctx = d,
        .stop_fd = d->stop_fd,
    };
    enum thole_code code = thole_new(&o, &d->host, st);
    free(tags);
    const struct option_value *plugins = &d->options.values[DAEMON_PLUGIN];
    for (size_t i = 0; i < plugins->item_count && code == THOLE_OK; i++) {
        code = plugin_load(d->host, plugins->items[i], st);
    }
    return code;
}

/* With --dev a start waits until the host is ready, so that the first command works at once. */
#define DEV_READY_MS 3000

static enum thole_code start(struct daemon *d, struct thole_status *st)
{
    enum thole_code code = configure_log(d, st);
    if (code == THOLE_OK) {
        sd_notifyf(0, "STATUS=opening %s", text_of(d, DAEMON_DATA_DIR));
        code = open_host(d, st);
    }
    if (code == THOLE_OK) {
        code = thole_start(d->host, st);
    }
    if (code == THOLE_OK) {
        (void)log_context_host(thole_host_name(d->host));
    }
    struct thole_status late;
    if (code == THOLE_OK && options_on(&d->options, DAEMON_DEV) &&
        thole_wait_ready(d->host, DEV_READY_MS, &late) != THOLE_OK) {
        LOG_WARN(DAEMON, "not ready yet: %s", late.message); /* its other hosts may be down */
    }
    if (code == THOLE_OK && http_of(d) != NULL) {
        code = http_new(d->host, http_of(d), &d->http, st);
    }
    return code;
}

/* Of a host that was started. */
static struct thole_host_state state_of(const struct daemon *d)
{
    struct thole_host_state s = {.size = sizeof s};
    struct thole_status st;
    if (thole_host_state(d->host, &s, &st) != THOLE_OK) {
        LOG_ERROR(DAEMON, "%s", st.message);
    }
    return s;
}

static void banner(struct daemon *d)
{
    const struct thole_host_state s = state_of(d);
    printf("tholed %s\n  host     %s (%s)\n  data     %s\n  grpc     %s\n", thole_version(),
           thole_host_name(d->host), s.id, text_of(d, DAEMON_DATA_DIR), thole_address(d->host));
    if (d->http != NULL) {
        printf("  http     http%s://%s/ (ui metrics livez readyz version; v1 v3: calls in JSON)\n",
               s.tls ? "s" : "", http_address(d->http));
    }
    printf("  security %s\n", s.tls       ? "TLS"
                              : s.exposed ? "NONE: plain text, and anybody who reaches it may do "
                                            "anything"
                                          : "plain text, for this machine only");
    if (s.member) {
        printf("  cluster  %s\n", s.cluster);
    } else {
        printf("  cluster  not a member yet (%s)\n",
               seeds_of(d) != NULL ? seeds_of(d) : "as promised");
    }
    printf("  try      thole --endpoints %s status\n", thole_address(d->host));
    fflush(stdout);
}

/* ---- The watchdog ---------------------------------------------------------------------------- */

static void probe_done(void *ctx, enum thole_code code)
{
    struct daemon *d = ctx;
    if (code != THOLE_DEADLINE_EXCEEDED) { /* a refusal shows that a loop runs, too */
        atomic_store(&d->probe_returned, true);
    }
    atomic_store(&d->probe_running, false);
}

/* Feed the watchdog for the probe that returned, and send the next one. */
static void watchdog(struct daemon *d, uint64_t interval_us)
{
    struct thole_status st;
    bool member = state_of(d).member;
    if (!member || atomic_exchange(&d->probe_returned, false)) {
        sd_notify(0, "WATCHDOG=1");
    }
    if (!member || atomic_exchange(&d->probe_running, true)) {
        return;
    }
    if (thole_probe(d->host, (uint32_t)(interval_us / 1000) + 1, probe_done, d, &st) != THOLE_OK) {
        atomic_store(&d->probe_running, false);
    }
}

/* ---- Run ------------------------------------------------------------------------------------- */

static void reload(struct daemon *d)
{
    struct thole_status st = {0};
    sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64,
               clock_now(&clock_system) / (NS_PER_S / 1000000));
    if (!state_of(d).tls) {
        LOG_INFO(DAEMON, "nothing to reload: there are no certificates, and options count at "
                         "start; tags and states of hosts are changed by `thole host`");
    } else if (thole_tls_reload(d->host, &st) == THOLE_OK) {
        LOG_INFO(DAEMON, "certificates were read again");
    } else {
        LOG_ERROR(DAEMON, "cannot read the certificates again: %s; keeping the old ones",
                  st.message);
    }
    if (d->http != NULL) {
        http_renew(d->http);
    }
    sd_notify(0, "READY=1");
}

#define RENEW_MS 5000

static int run(struct daemon *d)
{
    uint64_t watchdog_us = 0;
    int timeout_ms = -1;
    if (sd_watchdog_enabled(0, &watchdog_us) > 0 && watchdog_us > 0) {
        timeout_ms = (int)(watchdog_us / 4000) + 1;
    }
    /* The HTTP port does not look at certificate files itself, as the bus does. */
    const bool renews = d->http != NULL && state_of(d).tls;
    sd_notifyf(0, "READY=1\nMAINPID=%ld", (long)getpid());
    for (;;) {
        struct pollfd fds[] = {{.fd = d->signal_fd, .events = POLLIN},
                               {.fd = d->wake_fd, .events = POLLIN}};
        int n = poll(fds, 2,
                     renews && (timeout_ms < 0 || timeout_ms > RENEW_MS) ? RENEW_MS : timeout_ms);
        if (n < 0 && errno != EINTR) {
            return EXIT_FAILED;
        }
        if (atomic_load(&d->failed)) {
            bool again =
                d->failure.code == THOLE_UNAVAILABLE && d->failure.reason == THOLE_REASON_STOPPED;
            return again ? START_AGAIN : say(&d->failure, EXIT_FAILED);
        }
        struct signalfd_siginfo info;
        if (n > 0 && (fds[0].revents & POLLIN) && read(d->signal_fd, &info, sizeof info) > 0) {
            if (info.ssi_signo == SIGHUP) {
                reload(d);
                continue;
            }
            LOG_INFO(DAEMON, "stopping signal=%u", (unsigned)info.ssi_signo);
            return EXIT_OK;
        }
        if (timeout_ms > 0) {
            watchdog(d, watchdog_us);
        }
        if (renews) {
            http_renew(d->http);
        }
    }
}

static void stop(struct daemon *d, bool again)
{
    if (!again) {
        sd_notify(0, "STOPPING=1\nSTATUS=transferring leaderships, then closing");
    }
    http_free(d->http);
    thole_close(d->host);
    (void)log_context_host(NULL);
    d->http = NULL;
    d->host = NULL;
    d->was_ready = false;
    atomic_store(&d->failed, false);
}

static int start_and_run(struct daemon *d)
{
    struct thole_status st = {0};
    int rc;
    do {
        enum thole_code code = start(d, &st);
        if (code == THOLE_CANCELLED) {
            LOG_INFO(DAEMON, "%s", st.message);
            rc = EXIT_OK;
        } else if (code != THOLE_OK) {
            rc = say(&st, exit_code(&st));
        } else {
            banner(d);
            rc = run(d);
        }
        stop(d, rc == START_AGAIN);
    } while (rc == START_AGAIN);
    return rc;
}

/* Raise the soft limit of open files, which is meant for programs that use select: log segments and
 * RocksDB's tables are open files. */
static void allow_open_files(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) != 0) {
            LOG_WARN(DAEMON, "cannot raise the limit of open files: %s", strerror(errno));
        }
    }
}

int main(int argc, char **argv)
{
    struct thole_status st = {0};
    struct daemon *d = xcalloc(1, sizeof *d);
    int rc = EXIT_OK;
    umask(S_IRWXG | S_IRWXO); /* RocksDB creates its files with the mode that the umask leaves */
    if (daemon_options_read(argc, argv, &d->options, &st) != THOLE_OK) {
        rc = say(&st, EXIT_USAGE);
    } else if (options_on(&d->options, DAEMON_HELP)) {
        daemon_options_print_help();
    } else if (options_on(&d->options, DAEMON_VERSION)) {
        printf("tholed %s\n", thole_version());
    } else {
        sigset_t signals;
        sigemptyset(&signals);
        sigaddset(&signals, SIGTERM);
        sigaddset(&signals, SIGINT);
        d->stop_fd = signalfd(-1, &signals, SFD_CLOEXEC);
        sigaddset(&signals, SIGHUP);
        pthread_sigmask(SIG_BLOCK, &signals, NULL);
        signal(SIGPIPE, SIG_IGN);
        allow_open_files();
        signal(SIGXFSZ, SIG_IGN); /* a write beyond a file size limit then fails like any other */
        d->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC);
        d->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        rc = start_and_run(d);
        close(d->signal_fd);
        close(d->stop_fd);
        close(d->wake_fd);
    }
    options_deinit(&d->options);
    free(d);
    return rc;
}
