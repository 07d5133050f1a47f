/* The daemon's options, by id; daemon_options.c has their table, agent/options reads them. */
#ifndef AGENT_THOLED_DAEMON_OPTIONS_H
#define AGENT_THOLED_DAEMON_OPTIONS_H

#include "agent/options/options.h"

enum daemon_option_id {
    DAEMON_DATA_DIR,
    DAEMON_LISTEN,
    DAEMON_ADVERTISE,
    DAEMON_NAME,
    DAEMON_TAG,
    DAEMON_PLUGIN,
    DAEMON_DEV,
    DAEMON_PEERS,
    DAEMON_JOIN,
    DAEMON_HTTP,
    DAEMON_TLS_CERT,
    DAEMON_TLS_KEY,
    DAEMON_TLS_CA,
    DAEMON_TLS_CLIENT_CA,
    DAEMON_TLS_CRL,
    DAEMON_INSECURE,
    DAEMON_REFLECTION,
    DAEMON_LOG_LEVEL,
    DAEMON_LOG_FORMAT,
    DAEMON_ELECTION_TIMEOUT_MS,
    DAEMON_HEARTBEAT_MS,
    DAEMON_SUSPECT_AFTER_MS,
    DAEMON_SUSPECT_AFTER_MS_MAX,
    DAEMON_DEAD_AFTER_MS,
    DAEMON_LOOPS,
    DAEMON_APPLIERS,
    DAEMON_SNAPSHOT_BYTES_PER_S,
    DAEMON_CONFIG,
    DAEMON_VERSION,
    DAEMON_HELP,
    DAEMON_OPTIONS, /* how many */
};
extern const struct option_def daemon_options[DAEMON_OPTIONS];

/* All sources, in their order; stops after the flags if help or version is wanted. INVALID_ARGUMENT
 * with a message that names the option. Release `o` in any case. */
THOLE_MUST_CHECK enum thole_code daemon_options_read(int argc, char **argv, struct options *o,
                                                     struct thole_status *st);
void daemon_options_print_help(void);
void daemon_options_print_manual(FILE *out, const char *version); /* tholed(8), as roff */
/* A configuration file with this data directory, and every other option in comments. */
void daemon_options_print_example(FILE *out, const char *data_dir);

#endif
