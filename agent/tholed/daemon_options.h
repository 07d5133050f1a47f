/* The daemon's options: one table makes the flags, the environment, the configuration file's keys
 * and the help. A flag beats the environment (THOLED_DATA_DIR for --data-dir), which beats the
 * file. */
#ifndef AGENT_THOLED_DAEMON_OPTIONS_H
#define AGENT_THOLED_DAEMON_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <thole/status.h>

#define OPTIONS_LIST_MAX 64

struct daemon_options {
    char *config, *data_dir, *listen, *advertise, *name, *peers, *join, *http, *log_level,
        *log_format;
    char *tags[OPTIONS_LIST_MAX];
    size_t tag_count;
    uint64_t suspect_after_ms, suspect_after_ms_max, dead_after_ms;
    uint64_t dev, election_timeout_ms, heartbeat_ms, loops, appliers, version, help;
    uint64_t snapshot_bytes_per_s;
};

/* INVALID_ARGUMENT with a message that names the option. `ret` is filled in any case. */
THOLE_MUST_CHECK enum thole_code options_read(int argc, char **argv, struct daemon_options *ret,
                                              struct thole_status *st);
void options_deinit(struct daemon_options *o);
void options_help(void);

/* daemon_config.c: calls `set` for each key and value (once per item of a list). */
THOLE_MUST_CHECK enum thole_code config_read(const char *path,
                                             enum thole_code (*set)(void *ctx, const char *key,
                                                                    const char *value,
                                                                    struct thole_status *st),
                                             void *ctx, struct thole_status *st);

#endif
