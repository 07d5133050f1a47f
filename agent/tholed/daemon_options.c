/* The table of the daemon's options. See daemon_options.h. */
#include "agent/tholed/daemon_options.h"

#include <stdlib.h>
#include <string.h>

#include "base/address.h"

#define EXCLUSIVE_START 1 /* how a new host finds its cluster */

static enum thole_code check_listen(const char *origin, const char *text, struct thole_status *st)
{
    return address_check(origin, slice_str(text), ADDRESS_LISTEN, st);
}

static enum thole_code check_reach(const char *origin, const char *text, struct thole_status *st)
{
    return address_check(origin, slice_str(text), ADDRESS_REACH, st);
}

static enum thole_code check_addresses(const char *origin, const char *text,
                                       struct thole_status *st)
{
    return address_check_list(origin, text, st);
}

static enum thole_code check_http(const char *origin, const char *text, struct thole_status *st)
{
    return strcmp(text, "off") == 0 ? THOLE_OK : check_listen(origin, text, st);
}

static enum thole_code check_tag(const char *origin, const char *text, struct thole_status *st)
{
    if (strchr(text, '=') == NULL || text[0] == '=') {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "%s \"%.64s\": must be KEY=VALUE", origin, text);
    }
    return THOLE_OK;
}

const struct option_def daemon_options[DAEMON_OPTIONS] = {
    [DAEMON_DATA_DIR] = {.name = "data-dir",
                         .kind = OPTION_TEXT,
                         .value = "DIR",
                         .standard = "thole-data",
                         .environment = "THOLED_DATA_DIR",
                         .in_file = true,
                         .help = "directory that keeps everything"},
    [DAEMON_LISTEN] = {.name = "listen",
                       .kind = OPTION_TEXT,
                       .value = "[HOST]:PORT",
                       .environment = "THOLED_LISTEN",
                       .in_file = true,
                       .check = check_listen,
                       .help = "gRPC address for hosts, clients and the control plane (default: "
                               "as at the last start, or 127.0.0.1:7400)"},
    [DAEMON_ADVERTISE] =
        {.name = "advertise",
         .kind = OPTION_TEXT,
         .value = "HOST:PORT",
         .environment = "THOLED_ADVERTISE",
         .in_file = true,
         .check = check_reach,
         .help = "address at which others reach this host (default: as at the last start, or "
                 "the listen address)"},
    [DAEMON_NAME] = {.name = "name",
                     .kind = OPTION_TEXT,
                     .value = "NAME",
                     .environment = "THOLED_NAME",
                     .in_file = true,
                     .help =
                         "name of this host, kept in the data directory (default: host-XXXXXXXX)"},
    [DAEMON_TAG] = {.name = "tag",
                    .kind = OPTION_LIST,
                    .value = "KEY=VALUE",
                    .environment = "THOLED_TAG",
                    .in_file = true,
                    .check = check_tag,
                    .help = "tag of a new host, which constraints can name; may be repeated"},
    [DAEMON_PLUGIN] = {.name = "plugin",
                       .kind = OPTION_LIST,
                       .value = "FILE.so",
                       .environment = "THOLED_PLUGIN",
                       .in_file = true,
                       .help = "shared object with machine types; may be repeated"},
    [DAEMON_DEV] =
        {.name = "dev",
         .kind = OPTION_FLAG,
         .environment = "THOLED_DEV",
         .in_file = true,
         .exclusive = EXCLUSIVE_START,
         .help =
             "form a cluster of this host alone, which can grow later, with a shard \"default\" "
             "for etcd's clients"},
    [DAEMON_PEERS] =
        {.name = "peers",
         .kind = OPTION_TEXT,
         .value = "A,B,C",
         .environment = "THOLED_PEERS",
         .in_file = true,
         .exclusive = EXCLUSIVE_START,
         .check = check_addresses,
         .help = "form a cluster of these hosts, which include this one; later starts look for the "
                 "cluster there"},
    [DAEMON_JOIN] =
        {.name = "join",
         .kind = OPTION_TEXT,
         .value = "A[,B]",
         .environment = "THOLED_JOIN",
         .in_file = true,
         .exclusive = EXCLUSIVE_START,
         .check = check_addresses,
         .help = "join an existing cluster through one of these hosts; later starts look for the "
                 "cluster there"},
    [DAEMON_HTTP] =
        {.name = "http",
         .kind = OPTION_TEXT,
         .value = "[HOST]:PORT|off",
         .environment = "THOLED_HTTP",
         .in_file = true,
         .check = check_http,
         .help = "serve probes, metrics and calls in JSON (default: off; with --dev 127.0.0.1:0)"},
    [DAEMON_TLS_CERT] = {.name = "tls-cert",
                         .kind = OPTION_TEXT,
                         .value = "FILE",
                         .environment = "THOLED_TLS_CERT",
                         .in_file = true,
                         .help = "this host's certificate (PEM), which names it; see thole cert"},
    [DAEMON_TLS_KEY] = {.name = "tls-key",
                        .kind = OPTION_TEXT,
                        .value = "FILE",
                        .environment = "THOLED_TLS_KEY",
                        .in_file = true,
                        .help = "its private key (PEM, without a password)"},
    [DAEMON_TLS_CA] = {.name = "tls-ca",
                       .kind = OPTION_TEXT,
                       .value = "FILE",
                       .environment = "THOLED_TLS_CA",
                       .in_file = true,
                       .help = "CAs that sign certificates of hosts (PEM)"},
    [DAEMON_TLS_CLIENT_CA] =
        {.name = "tls-client-ca",
         .kind = OPTION_TEXT,
         .value = "FILE",
         .environment = "THOLED_TLS_CLIENT_CA",
         .in_file = true,
         .help = "CAs that sign certificates of users (default: those of --tls-ca)"},
    [DAEMON_TLS_CRL] = {.name = "tls-crl",
                        .kind = OPTION_TEXT,
                        .value = "FILE",
                        .environment = "THOLED_TLS_CRL",
                        .in_file = true,
                        .help = "certificates that these CAs revoked (CRLs in PEM)"},
    [DAEMON_INSECURE] = {.name = "insecure",
                         .kind = OPTION_FLAG,
                         .environment = "THOLED_INSECURE",
                         .in_file = true,
                         .help = "allow plain text at addresses that other machines reach"},
    [DAEMON_REFLECTION] = {.name = "reflection",
                           .kind = OPTION_CHOICE,
                           .value = "users|all",
                           .standard = "users",
                           .environment = "THOLED_REFLECTION",
                           .in_file = true,
                           .help = "who may ask over TLS which methods there are"},
    [DAEMON_LOG_LEVEL] =
        {.name = "log-level",
         .kind = OPTION_TEXT,
         .value = "SPEC",
         .standard = "info",
         .environment = "THOLED_LOG_LEVEL",
         .in_file = true,
         .help = "error, warn, info or debug, then levels of subjects, such as info,raft=debug"},
    [DAEMON_LOG_FORMAT] = {.name = "log-format",
                           .kind = OPTION_CHOICE,
                           .value = "text|json",
                           .standard = "text",
                           .environment = "THOLED_LOG_FORMAT",
                           .in_file = true,
                           .help = "form of log lines"},
    [DAEMON_ELECTION_TIMEOUT_MS] =
        {.name = "election-timeout-ms",
         .kind = OPTION_NUMBER,
         .value = "N",
         .standard = "500",
         .environment = "THOLED_ELECTION_TIMEOUT_MS",
         .in_file = true,
         .max = 600000,
         .help = "a follower starts an election after N to 2N ms without a leader"},
    [DAEMON_HEARTBEAT_MS] = {.name = "heartbeat-ms",
                             .kind = OPTION_NUMBER,
                             .value = "N",
                             .standard = "100",
                             .environment = "THOLED_HEARTBEAT_MS",
                             .in_file = true,
                             .max = 60000,
                             .help = "interval of heartbeats"},
    [DAEMON_SUSPECT_AFTER_MS] = {.name = "suspect-after-ms",
                                 .kind = OPTION_NUMBER,
                                 .value = "N",
                                 .standard = "1000",
                                 .environment = "THOLED_SUSPECT_AFTER_MS",
                                 .in_file = true,
                                 .max = 600000,
                                 .help = "shortest silence that makes a host suspect"},
    [DAEMON_SUSPECT_AFTER_MS_MAX] =
        {.name = "suspect-after-ms-max",
         .kind = OPTION_NUMBER,
         .value = "N",
         .environment = "THOLED_SUSPECT_AFTER_MS_MAX",
         .in_file = true,
         .max = 600000,
         .help =
             "longest silence before a host is suspect, however irregular it was (default: 10000)"},
    [DAEMON_DEAD_AFTER_MS] = {.name = "dead-after-ms",
                              .kind = OPTION_NUMBER,
                              .value = "N",
                              .standard = "30000",
                              .environment = "THOLED_DEAD_AFTER_MS",
                              .in_file = true,
                              .max = 604800000,
                              .help = "silence after which a host's replicas are replaced"},
    [DAEMON_LOOPS] = {.name = "loops",
                      .kind = OPTION_NUMBER,
                      .value = "N",
                      .environment = "THOLED_LOOPS",
                      .in_file = true,
                      .max = 256,
                      .help = "threads that run groups (default: by cores)"},
    [DAEMON_APPLIERS] = {.name = "appliers",
                         .kind = OPTION_NUMBER,
                         .value = "N",
                         .environment = "THOLED_APPLIERS",
                         .in_file = true,
                         .max = 256,
                         .help = "threads that apply entries (default: by cores)"},
    [DAEMON_SNAPSHOT_BYTES_PER_S] =
        {.name = "snapshot-bytes-per-s",
         .kind = OPTION_NUMBER,
         .value = "N",
         .standard = "0",
         .environment = "THOLED_SNAPSHOT_BYTES_PER_S",
         .in_file = true,
         .help = "limit of the bandwidth for snapshots to other hosts; 0: no limit"},
    [DAEMON_CONFIG] = {.name = "config",
                       .kind = OPTION_TEXT,
                       .value = "FILE",
                       .environment = "THOLED_CONFIG",
                       .help = "YAML file with these options as keys, without the dashes"},
    [DAEMON_VERSION] = {.name = "version",
                        .kind = OPTION_FLAG,
                        .help = "print the version and exit"},
    [DAEMON_HELP] = {.name = "help",
                     .letter = 'h',
                     .kind = OPTION_FLAG,
                     .help = "print this help and exit"},
};

enum thole_code daemon_options_read(int argc, char **argv, struct options *o,
                                    struct thole_status *st)
{
    options_init(o, daemon_options, DAEMON_OPTIONS);
    enum thole_code code = options_read_arguments(o, argc, (const char *const *)argv, st);
    if (code == THOLE_OK && o->argument_count > 0) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "\"%.64s\" is not an option", o->arguments[0]);
    }
    if (code != THOLE_OK || options_on(o, DAEMON_HELP) || options_on(o, DAEMON_VERSION)) {
        return code;
    }
    code = options_read_environment(o, st);
    const char *config = o->values[DAEMON_CONFIG].text;
    if (code == THOLE_OK && config != NULL) {
        code = options_read_file(o, config, st);
    }
    return code == THOLE_OK ? options_complete(o, st) : code;
}

static const char about[] =
    "A host of a Thole cluster. A data directory that has been used needs no other option.\n";
static const char settings[] =
    "A flag beats the environment ([THOLED_...]), which beats the file of --config (lines such as\n"
    "\"data-dir: DIR\").\n";
static const char exit_codes[] =
    "Exit codes: 0 stopped by a signal, 1 could not start, 2 wrong options, 3 data directory\n"
    "(locked, foreign, damaged, newer version, other cluster), 4 address in use, 5 failed while\n"
    "running (disk), or this host was removed from the cluster, or its data directory is a copy\n"
    "of another host's.\n";

void daemon_options_print_help(void)
{
    printf("Usage: tholed [OPTIONS]\n\n%s\nOptions:\n", about);
    for (size_t id = 0; id < DAEMON_OPTIONS; id++) {
        options_print_help(stdout, &daemon_options[id]);
    }
    printf("\n%s\n%s", settings, exit_codes);
}

void daemon_options_print_manual(FILE *out, const char *version)
{
    fprintf(out, ".TH THOLED 8 \"\" \"Thole %s\" \"Thole\"\n", version);
    fputs(".SH NAME\ntholed \\- a host of a Thole cluster\n"
          ".SH SYNOPSIS\n.B tholed\n[\\fIOPTIONS\\fR]\n.SH DESCRIPTION\n",
          out);
    options_print_roff(out, about);
    fputs(".PP\n", out);
    options_print_roff(out, settings);
    fputs(".SH OPTIONS\n", out);
    for (size_t id = 0; id < DAEMON_OPTIONS; id++) {
        options_print_manual(out, &daemon_options[id]);
    }
    fputs(".SH SIGNALS\n", out);
    options_print_roff(out, "SIGTERM and SIGINT transfer the leadership of this host's shards, "
                            "then end the daemon.\nSIGHUP reads the certificates again.\n");
    fputs(".SH \"EXIT STATUS\"\n", out);
    options_print_roff(out, exit_codes);
    fputs(".SH \"SEE ALSO\"\n.BR thole (1)\n", out);
}

void daemon_options_print_example(FILE *out, const char *data_dir)
{
    fprintf(out,
            "# Settings of tholed, see tholed(8). Each is a flag as well (--data-dir) and a\n"
            "# variable (THOLED_DATA_DIR). Lines in comments have the defaults, or show what a\n"
            "# value looks like.\n"
            "#\n"
            "# A new host needs one of dev, peers and join, which say how it finds its cluster; a\n"
            "# used data directory knows.\n\n"
            "# Directory that keeps everything.\ndata-dir: %s\n",
            data_dir);
    for (size_t id = 0; id < DAEMON_OPTIONS; id++) {
        if (id != DAEMON_DATA_DIR) {
            options_print_example(out, &daemon_options[id]);
        }
    }
}
