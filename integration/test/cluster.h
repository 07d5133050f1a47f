/* Clusters of real daemons for integration tests.
 *
 * Each cluster has a temporary directory and loopback addresses of its own (127.x.y.N), which it
 * claims by binding 127.x.y.250, so that tests can run beside each other. Helpers fail the test
 * (cmocka) with the
 * daemons' last log lines when something that must work does not. Not thread safe, except that
 * load threads (test/load.h) run beside it. */
#ifndef INTEGRATION_TEST_CLUSTER_H
#define INTEGRATION_TEST_CLUSTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "base/uuid.h"

#define HOSTS_MAX 8
#define BUS_PORT 7400
#define HTTP_PORT 7480
#define ELECTION_TIMEOUT_MS 500 /* tholed's default */

struct host {
    char name[16];
    char address[32]; /* of its gRPC port */
    char ip[16];
    char data_dir[256];
    char log_path[256];
    pid_t pid; /* 0: not running */
};

struct cluster {
    char dir[192];
    struct host hosts[HOSTS_MAX]; /* h1 is hosts[0] */
    const char *tholed;           /* which binary; the default is the product's */
    const char *preload;          /* a shim to preload into daemons, or NULL */
    const char *extra_args[8];    /* NULL-terminated; given to every daemon */
    bool http;                    /* they serve HTTP at HTTP_PORT of their addresses: scrape.h */
    const char *pki;              /* folder with ca.crt, h1.crt, h1.key, ...: TLS; or NULL */
    uint16_t everywhere_port;     /* no other cluster's: for a host that listens on all addresses */
    int claim_fd;                 /* holds its addresses */
};

struct cluster *cluster_new(void);
/* Kills the daemons that run and deletes the directory. With THOLE_KEEP=1 in the environment the
 * directory is kept and printed. */
void cluster_free(struct cluster *c);

/* Start one daemon with arguments beside its data directory; it may still be starting on return. */
void host_start(struct cluster *c, int i, const char *const *args);
/* A daemon that has been started before needs only its data directory. */
void host_restart(struct cluster *c, int i);
void host_kill(struct cluster *c, int i); /* SIGKILL, and wait */
void host_stop(struct cluster *c, int i); /* SIGTERM; must end with 0 within 20 s */
void host_pause(struct cluster *c, int i, bool paused);
bool host_running(struct cluster *c, int i); /* reaps it if it ended */
/* Waits for a daemon that is expected to end by itself; returns its exit status. */
int host_wait_exit(struct cluster *c, int i, int timeout_ms);
bool host_log_has(struct cluster *c, int i, const char *text);
/* A fault of shims/faulty_disk.c begins or ends. `below`: a folder of the data directory, or "". */
void host_set_fault(const struct cluster *c, int i, const char *below, const char *what, bool on);
/* A TCP connection, whose reads end after 5 s. */
int host_dial(const struct host *h, uint16_t port);
long host_peak_mib(const struct cluster *c, int i); /* the most memory that it has held */

/* Hosts 0..n-1 by --peers, ready when it returns. */
void cluster_start_peers(struct cluster *c, int n);
/* A new cluster of n such hosts, with the specs of `yaml` applied and ready. */
struct cluster *cluster_of_peers(int n, const char *yaml);
void cluster_start_dev(struct cluster *c);                /* host 0 by --dev, ready */
void cluster_join(struct cluster *c, int i, int through); /* host i joins; ready */
void cluster_wait_ready(struct cluster *c, int i, int timeout_ms);
/* "127.x.y.1:7400,127.x.y.2:7400,..." of the first n. */
const char *cluster_endpoints(struct cluster *c, int n);

/* Run `thole --endpoints <host i> ARGS...` (split at spaces; quoted by '...'); returns its exit
 * status; output (both streams) in `out`. */
int cli(struct cluster *c, int i, char *out, size_t out_size, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
/* The same; must succeed. Returns a static buffer. */
const char *cli_ok(struct cluster *c, int i, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Another program, in a shell; both of its streams can be read. */
FILE *client_begin(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Reads to its end. Returns its exit status; -1: a signal ended it. A Python client without its
 * modules exits with CLIENT_SKIPPED. */
#define CLIENT_SKIPPED 77
int client_end(FILE *client, char *out, size_t out_size);
int run_client(char *out, size_t out_size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The id in a field of the JSON that a command printed. */
struct uuid cli_uuid(const char *json, const char *field);
/* Apply a YAML text and wait until the shards are ready. */
void apply_yaml(struct cluster *c, int i, const char *yaml);

/* The host that leads a shard as far as host `via` knows; -1 if none. */
int shard_leader(struct cluster *c, int via, const char *shard);
/* The number of lines that contain `needle`; count_text: the number of its occurrences. */
int count_text(const char *text, const char *needle);
int count_lines(const char *text, const char *needle);

/* Wait until a command succeeds and prints that many lines with `needle`; fail the test if it takes
 * too long. The struct is for predicates of the same kind. */
struct expect {
    struct cluster *c;
    int via;
    const char *command, *needle;
    int lines;
};
void expect_lines(struct cluster *c, int via, const char *command, const char *needle, int lines);
/* The same until it prints `text`, within `ms`; whether it succeeds does not matter. */
void expect_soon(struct cluster *c, int via, int ms, const char *command, const char *text);
/* Wait until the shard has a leader, and return its host. */
int leader_of(struct cluster *c, int via, const char *shard);

/* Run a shell command; must succeed. */
void shell(const char *format, ...) __attribute__((format(printf, 1, 2)));
uint64_t now_ms(void);
/* Call `predicate` until it is true; fail the test after timeout_ms. */
void eventually(int timeout_ms, const char *what, bool (*predicate)(void *ctx), void *ctx);
uint64_t directory_bytes(const char *path);

/* Copies a file of more than `least_bytes` bytes: with the byte at `at` flipped, or cut before it.
 * Negative `at`: from the end. */
void copy_spoilt(const char *from, const char *to, size_t least_bytes, bool flip, long at);

#endif
