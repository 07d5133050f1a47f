/* tholed: a host of a cluster as a daemon. daemon_options.c has the options; the agent does the
 * rest. */
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
#include <unistd.h>

#include "agent/core/agent.h"
#include "agent/services/services.h"
#include "agent/tholed/daemon_options.h"
#include "agent/tholed/http.h"
#include "base/log.h"
#include "base/process.h"

enum {
    EXIT_OK = 0,
    EXIT_START = 1,
    EXIT_USAGE = 2,
    EXIT_DATA = 3,
    EXIT_ADDRESS = 4,
    EXIT_FAILED = 5,
    START_AGAIN = -1, /* not an exit code: the agent requests a restart */
};

struct daemon {
    struct options options; /* by enum daemon_option_id */
    struct agent *agent;
    struct http *http;
    int wake_fd, signal_fd;
    int stop_fd; /* readable by the signals that end the process; never read */
    _Atomic bool failed, stopping;
    struct thole_status failure; /* written before `failed` */
    pthread_t status_thread;
    bool status_running;
    bool last_ready;
    char last_why[200];
    /* The watchdog is fed after a read has passed through a loop and an applier. */
    struct router_request probe;
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
    case THOLE_REASON_TOO_LARGE: /* a file */
        return EXIT_DATA;
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
    log_set_json(strcmp(text_of(d, DAEMON_LOG_FORMAT), "json") == 0);
    return THOLE_OK;
}

static enum agent_bootstrap bootstrap_of(const struct daemon *d)
{
    if (options_on(&d->options, DAEMON_DEV)) {
        return AGENT_BOOTSTRAP_DEV;
    }
    if (text_of(d, DAEMON_PEERS) != NULL) {
        return AGENT_BOOTSTRAP_PEERS;
    }
    return text_of(d, DAEMON_JOIN) != NULL ? AGENT_BOOTSTRAP_JOIN : AGENT_BOOTSTRAP_NONE;
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

/* False: none was given. Some without the others is an error, which agent_new explains. */
static bool tls_of(const struct daemon *d, struct bus_tls_files *ret)
{
    *ret = (struct bus_tls_files){
        .cert = text_of(d, DAEMON_TLS_CERT),
        .key = text_of(d, DAEMON_TLS_KEY),
        .ca = text_of(d, DAEMON_TLS_CA),
        .client_ca = text_of(d, DAEMON_TLS_CLIENT_CA),
        .crl = text_of(d, DAEMON_TLS_CRL),
    };
    return ret->cert != NULL || ret->key != NULL || ret->ca != NULL || ret->client_ca != NULL ||
           ret->crl != NULL;
}

static enum thole_code start(struct daemon *d, struct thole_status *st)
{
    struct bus_tls_files files;
    bool tls = tls_of(d, &files), insecure = options_on(&d->options, DAEMON_INSECURE);
    const struct option_value *tags = &d->options.values[DAEMON_TAG];
    enum thole_code code = configure_log(d, st);
    if (code == THOLE_OK && !tls && http_of(d) != NULL) {
        code = agent_check_plain("http", http_of(d), insecure, st);
    }
    if (code != THOLE_OK) {
        return code;
    }
    const struct agent_options ao = {
        .data_dir = text_of(d, DAEMON_DATA_DIR),
        .listen = text_of(d, DAEMON_LISTEN),
        .advertise = text_of(d, DAEMON_ADVERTISE),
        .name = text_of(d, DAEMON_NAME),
        .tags = tags->items,
        .tag_count = tags->item_count,
        .bootstrap = bootstrap_of(d),
        .addresses = seeds_of(d),
        .election_timeout_ms = number_of(d, DAEMON_ELECTION_TIMEOUT_MS),
        .heartbeat_ms = number_of(d, DAEMON_HEARTBEAT_MS),
        .suspect_after_ms = number_of(d, DAEMON_SUSPECT_AFTER_MS),
        .suspect_after_ms_max = number_of(d, DAEMON_SUSPECT_AFTER_MS_MAX),
        .dead_after_ms = number_of(d, DAEMON_DEAD_AFTER_MS),
        .loop_count = number_of(d, DAEMON_LOOPS),
        .applier_count = number_of(d, DAEMON_APPLIERS),
        .snapshot_bytes_per_s = d->options.values[DAEMON_SNAPSHOT_BYTES_PER_S].number,
        .tls = tls ? &files : NULL,
        .insecure = insecure,
        .services = services_register,
        .services_end = services_unregister,
        .failed = on_failed,
        .failed_ctx = d,
        .stop_fd = &d->stop_fd,
    };
    code = agent_new(&ao, &d->agent, st);
    if (code == THOLE_OK) {
        (void)log_context_host(agent_name(d->agent));
    }
    if (code == THOLE_OK && http_of(d) != NULL) {
        code = http_new(d->agent, http_of(d), &d->http, st);
    }
    return code;
}

static void banner(struct daemon *d)
{
    char id[UUID_TEXT_BYTES];
    struct uuid cluster;
    uuid_format(agent_host_id(d->agent), id);
    printf("tholed %s\n  host     %s (%s)\n  data     %s\n  grpc     %s\n", agent_version(),
           agent_name(d->agent), id, text_of(d, DAEMON_DATA_DIR), agent_address(d->agent));
    if (d->http != NULL) {
        printf("  http     http%s://%s/ (metrics livez readyz version)\n",
               agent_tls(d->agent) != NULL ? "s" : "", http_address(d->http));
    }
    printf("  security %s\n", agent_tls(d->agent) != NULL ? "TLS"
                              : agent_exposed(d->agent)
                                  ? "NONE: plain text, and anybody who reaches it may do anything"
                                  : "plain text, for this machine only");
    if (agent_cluster(d->agent, &cluster)) {
        uuid_format(&cluster, id);
        printf("  cluster  %s\n", id);
    } else {
        printf("  cluster  not a member yet (%s)\n",
               seeds_of(d) != NULL ? seeds_of(d) : "as promised");
    }
    printf("  try      thole --endpoints %s status\n", agent_address(d->agent));
    fflush(stdout);
}

/* ---- Status for people and systemd ----------------------------------------------------------- */

static bool status_changed(struct agent *a, void *ctx)
{
    struct daemon *d = ctx;
    char why[sizeof d->last_why] = "";
    bool ready = agent_is_ready(a, why, sizeof why);
    return atomic_load(&d->stopping) || ready != d->last_ready || strcmp(why, d->last_why) != 0;
}

static void *status_main(void *ctx)
{
    struct daemon *d = ctx;
    pthread_setname_np(pthread_self(), "status");
    (void)log_context_host(agent_name(d->agent));
    while (!atomic_load(&d->stopping) && !agent_is_stopping(d->agent)) {
        if (!agent_wait(d->agent, clock_now(&clock_system) + 3600 * NS_PER_S, status_changed, d)) {
            continue;
        }
        bool was = d->last_ready;
        d->last_ready = agent_is_ready(d->agent, d->last_why, sizeof d->last_why);
        if (d->last_ready) {
            d->last_why[0] = 0;
        }
        sd_notifyf(0, "STATUS=%s%s", d->last_ready ? "ready" : "not ready: ", d->last_why);
        if (d->last_ready && !was) {
            LOG_INFO(DAEMON, "ready address=%s", agent_address(d->agent));
        } else if (!d->last_ready && was && !atomic_load(&d->stopping)) {
            LOG_WARN(DAEMON, "not ready: %s; waiting", d->last_why);
        }
    }
    return NULL;
}

static void probe_done(struct router_request *r)
{
    struct daemon *d = CONTAINER_OF(r, struct daemon, probe);
    bufslice_unref(r->result);
    atomic_store(&d->probe_returned, true);
    atomic_store(&d->probe_running, false);
}

/* Feed the watchdog for the probe that returned, and send the next one. */
static void watchdog(struct daemon *d, uint64_t interval_us)
{
    struct uuid cluster;
    if (!agent_cluster(d->agent, &cluster) || atomic_exchange(&d->probe_returned, false)) {
        sd_notify(0, "WATCHDOG=1");
    }
    if (!agent_cluster(d->agent, &cluster) || atomic_exchange(&d->probe_running, true)) {
        return;
    }
    memset(&d->probe, 0, sizeof d->probe);
    d->probe.kind = ROUTER_QUERY;
    d->probe.shard_id = REGISTRY_SHARD_ID;
    d->probe.stale = true;
    d->probe.deadline_ns = clock_now(&clock_system) + interval_us * NS_PER_US;
    d->probe.done = probe_done;
    agent_route(d->agent, &d->probe);
}

/* ---- Run ------------------------------------------------------------------------------------- */

static void reload(struct daemon *d)
{
    struct thole_status st = {0};
    struct bus_tls *tls = agent_tls(d->agent);
    if (tls == NULL) {
        LOG_INFO(DAEMON, "nothing to reload: there are no certificates, and options count at "
                         "start; tags and states of hosts are changed by `thole host`");
    } else if (bus_tls_reload(tls, &st) == THOLE_OK) {
        LOG_INFO(DAEMON, "certificates were read again");
    } else {
        LOG_ERROR(DAEMON, "cannot read the certificates again: %s; keeping the old ones",
                  st.message);
    }
    if (d->http != NULL) {
        http_renew(d->http);
    }
}

#define RENEW_MS 5000

static int run(struct daemon *d)
{
    uint64_t watchdog_us = 0;
    int timeout_ms = -1;
    if (sd_watchdog_enabled(0, &watchdog_us) > 0 && watchdog_us > 0) {
        timeout_ms = (int)(watchdog_us / 4000) + 1;
    }
    if (pthread_create(&d->status_thread, NULL, status_main, d) == 0) {
        d->status_running = true;
    }
    /* The HTTP port does not look at certificate files itself, as the bus does. */
    const bool renews = d->http != NULL && agent_tls(d->agent) != NULL;
    sd_notifyf(0, "READY=1\nMAINPID=%ld", (long)getpid());
    for (;;) {
        struct pollfd fds[] = {{.fd = d->signal_fd, .events = POLLIN},
                               {.fd = d->wake_fd, .events = POLLIN}};
        int n = poll(fds, 2,
                     renews && (timeout_ms < 0 || timeout_ms > RENEW_MS) ? RENEW_MS : timeout_ms);
        if (n < 0 && errno != EINTR) {
            return EXIT_FAILED;
        }
        if (atomic_load(&d->failed) && agent_needs_restart(d->agent)) {
            return START_AGAIN;
        }
        if (atomic_load(&d->failed)) {
            return say(&d->failure, EXIT_FAILED);
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
        sd_notify(0, "STOPPING=1");
    }
    atomic_store(&d->stopping, true);
    if (d->agent != NULL) {
        agent_signal(d->agent);
    }
    if (d->status_running) {
        pthread_join(d->status_thread, NULL);
    }
    http_free(d->http);
    if (d->agent != NULL) {
        agent_stop(d->agent);
    }
    (void)log_context_host(NULL);
    agent_free(d->agent);
    d->http = NULL;
    d->agent = NULL;
    d->status_running = d->last_ready = false;
    atomic_store(&d->stopping, false);
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
    process_own();
    umask(S_IRWXG | S_IRWXO); /* RocksDB creates its files with the mode that the umask leaves */
    if (daemon_options_read(argc, argv, &d->options, &st) != THOLE_OK) {
        rc = say(&st, EXIT_USAGE);
    } else if (options_on(&d->options, DAEMON_HELP)) {
        daemon_options_print_help();
    } else if (options_on(&d->options, DAEMON_VERSION)) {
        printf("tholed %s\n", agent_version());
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
