#include "integration/test/cluster.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <bsd/string.h>
#include <cmocka.h>

#include "base/buf.h"

#define CLI_OUTPUT_BYTES (256 * 1024)

void shell(const char *format, ...)
{
    char command[2000];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof command, format, args); // NOLINT(clang-analyzer-valist.Uninitialized)
    va_end(args);
    if (system(command) != 0) {
        fail_msg("failed: %s", command);
    }
}

uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

#define BLOCKS (48U * 250)    /* 127.1.0 to 127.48.249 */
#define EVERYWHERE_PORT 20000 /* plus the block: below the ports that the kernel gives away */
#define CLAIMED_ADDRESS "127.%u.%u.250" /* no host's: it is held while the cluster exists */

/* Claims a block of addresses that no other cluster of this machine has: it binds one of them. */
static unsigned claim_block(int *ret_fd)
{
    unsigned block = (unsigned)getpid() % BLOCKS;

    for (unsigned tries = 0; tries < BLOCKS; tries++, block = (block + 1) % BLOCKS) {
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(BUS_PORT)};
        char ip[16];
        snprintf(ip, sizeof ip, CLAIMED_ADDRESS, 1 + block / 250, block % 250);
        assert_int_equal(inet_pton(AF_INET, ip, &a.sin_addr), 1);
        *ret_fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        assert_true(*ret_fd >= 0);
        if (bind(*ret_fd, (struct sockaddr *)&a, sizeof a) == 0) {
            return block;
        }
        close(*ret_fd);
    }
    fail_msg("no block of addresses is free");
    return 0;
}

struct cluster *cluster_new(void)
{
    struct cluster *c = xcalloc(1, sizeof *c);
    const char *tmp = getenv("TMPDIR");
    snprintf(c->dir, sizeof c->dir, "%.150s/thole-test-XXXXXX", tmp != NULL ? tmp : "/tmp");
    assert_non_null(mkdtemp(c->dir));
    c->tholed = THOLED_PATH;
    unsigned block = claim_block(&c->claim_fd);
    c->everywhere_port = (uint16_t)(EVERYWHERE_PORT + block);
    for (int i = 0; i < HOSTS_MAX; i++) {
        struct host *h = &c->hosts[i];
        snprintf(h->name, sizeof h->name, "h%d", i + 1);
        snprintf(h->ip, sizeof h->ip, "127.%u.%u.%d", 1 + block / 250, block % 250, i + 1);
        snprintf(h->address, sizeof h->address, "%s:%d", h->ip, BUS_PORT);
        snprintf(h->data_dir, sizeof h->data_dir, "%s/%s", c->dir, h->name);
        snprintf(h->log_path, sizeof h->log_path, "%s/%s.log", c->dir, h->name);
    }
    return c;
}

static int remove_one(const char *path, const struct stat *s, int type, struct FTW *f)
{
    (void)s, (void)type, (void)f;
    return remove(path);
}

void cluster_free(struct cluster *c)
{
    for (int i = 0; i < HOSTS_MAX; i++) {
        if (c->hosts[i].pid) {
            host_kill(c, i);
        }
    }
    if (getenv("THOLE_KEEP") != NULL) {
        fprintf(stderr, "kept %s\n", c->dir);
    } else {
        nftw(c->dir, remove_one, 32, FTW_DEPTH | FTW_PHYS);
    }
    close(c->claim_fd);
    free(c);
}

static char last_output[4096]; /* of the last command, for show_logs */

static void show_logs(struct cluster *c)
{
    printf("--- the last command said\n%s", last_output);
    fflush(stdout);
    for (int i = 0; i < HOSTS_MAX; i++) {
        if (access(c->hosts[i].log_path, R_OK) != 0) {
            continue;
        }
        char command[512];
        snprintf(command, sizeof command, "echo '--- %s'; tail -n 15 '%s'", c->hosts[i].name,
                 c->hosts[i].log_path);
        if (system(command) != 0) {
            fprintf(stderr, "no log of %s\n", c->hosts[i].name);
        }
    }
}

static struct cluster *current; /* whose logs eventually() shows */

void host_start(struct cluster *c, int i, const char *const *args)
{
    struct host *h = &c->hosts[i];
    assert_int_equal(h->pid, 0);
    current = c;
    const char *argv[40];
    int n = 0;
    argv[n++] = c->tholed;
    argv[n++] = "--data-dir";
    argv[n++] = h->data_dir;
    for (; args != NULL && *args != NULL; args++) {
        argv[n++] = *args;
    }
    for (const char *const *e = c->extra_args; *e != NULL; e++) {
        argv[n++] = *e;
    }
    char ca[256], cert[256], key[256], http[40];
    if (c->http) {
        snprintf(http, sizeof http, "--http=%s:%d", h->ip, HTTP_PORT);
        argv[n++] = http;
    }
    if (c->pki != NULL) {
        snprintf(ca, sizeof ca, "--tls-ca=%s/ca.crt", c->pki);
        snprintf(cert, sizeof cert, "--tls-cert=%s/%s.crt", c->pki, h->name);
        snprintf(key, sizeof key, "--tls-key=%s/%s.key", c->pki, h->name);
        argv[n++] = ca;
        argv[n++] = cert;
        argv[n++] = key;
    }
    argv[n] = NULL;
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a failed test leaves none behind */
        int out = open(h->log_path, O_WRONLY | O_CREAT | O_APPEND, 0600);
        dup2(out, 1);
        dup2(out, 2);
        close(0);
        if (c->preload != NULL) {
            setenv("LOSE_UNSYNCED_DIR", c->dir, 1);
            setenv("LD_PRELOAD", c->preload, 1);
        }
        execv(c->tholed, (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    h->pid = pid;
}

void host_restart(struct cluster *c, int i)
{
    host_start(c, i, NULL);
}

void host_kill(struct cluster *c, int i)
{
    struct host *h = &c->hosts[i];
    assert_true(h->pid > 0);
    kill(h->pid, SIGKILL);
    waitpid(h->pid, NULL, 0);
    h->pid = 0;
}

int host_wait_exit(struct cluster *c, int i, int timeout_ms)
{
    struct host *h = &c->hosts[i];
    uint64_t deadline = now_ms() + (uint64_t)timeout_ms;
    int status;
    while (waitpid(h->pid, &status, WNOHANG) == 0) {
        if (now_ms() >= deadline) {
            show_logs(c);
            fail_msg("%s has not ended within %d ms", h->name, timeout_ms);
        }
        pause_ms(20);
    }
    h->pid = 0;
    return status;
}

void host_stop(struct cluster *c, int i)
{
    kill(c->hosts[i].pid, SIGTERM);
    int status = host_wait_exit(c, i, 20000);
    if (status != 0) {
        show_logs(c);
        fail_msg("%s ended with status %#x", c->hosts[i].name, (unsigned)status);
    }
}

void host_pause(struct cluster *c, int i, bool paused)
{
    kill(c->hosts[i].pid, paused ? SIGSTOP : SIGCONT);
}

bool host_running(struct cluster *c, int i)
{
    struct host *h = &c->hosts[i];
    if (h->pid && waitpid(h->pid, NULL, WNOHANG) == h->pid) {
        h->pid = 0;
    }
    return h->pid != 0;
}

long host_peak_mib(const struct cluster *c, int i)
{
    char path[64], line[256];
    long kib = 0;
    snprintf(path, sizeof path, "/proc/%d/status", (int)c->hosts[i].pid);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, "VmHWM:", 6) == 0) {
            kib = strtol(line + 6, NULL, 10);
        }
    }
    fclose(f);
    return kib / 1024;
}

void host_set_fault(const struct cluster *c, int i, const char *below, const char *what, bool on)
{
    shell("%s '%s%s.%s'", on ? "touch" : "rm", c->hosts[i].data_dir, below, what);
}

int host_dial(const struct host *h, uint16_t port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct timeval limit = {.tv_sec = 5};
    assert_int_equal(inet_pton(AF_INET, h->ip, &a.sin_addr), 1);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit), 0);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) {
        fail_msg("%s does not listen at %s:%d", h->name, h->ip, port);
    }
    return fd;
}

static FILE *open_client(const char *format, va_list args) __attribute__((format(printf, 1, 0)));
static FILE *open_client(const char *format, va_list args)
{
    char command[2048];
    int n = vsnprintf(command, sizeof command, format, args);
    assert_true(n > 0 && (size_t)n < sizeof command);
    assert_true(strlcat(command, " 2>&1", sizeof command) < sizeof command);
    FILE *client = popen(command, "re");
    assert_non_null(client);
    return client;
}

FILE *client_begin(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    FILE *client = open_client(format, args);
    va_end(args);
    return client;
}

int client_end(FILE *client, char *out, size_t out_size)
{
    size_t n = fread(out, 1, out_size - 1, client);
    out[n] = '\0';
    int status = pclose(client);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int run_client(char *out, size_t out_size, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    FILE *client = open_client(format, args);
    va_end(args);
    return client_end(client, out, out_size);
}

bool host_log_has(struct cluster *c, int i, const char *text)
{
    FILE *f = fopen(c->hosts[i].log_path, "r");
    if (f == NULL) {
        return false;
    }
    char line[4096];
    bool found = false;
    while (!found && fgets(line, sizeof line, f) != NULL) {
        found = strstr(line, text) != NULL;
    }
    fclose(f);
    return found;
}

void eventually(int timeout_ms, const char *what, bool (*predicate)(void *ctx), void *ctx)
{
    uint64_t deadline = now_ms() + (uint64_t)timeout_ms;
    while (!predicate(ctx)) {
        if (now_ms() >= deadline) {
            if (current != NULL) {
                show_logs(current);
            }
            fail_msg("not within %d ms: %s", timeout_ms, what);
        }
        pause_ms(20);
    }
}

const char *cluster_endpoints(struct cluster *c, int n)
{
    static char text[HOSTS_MAX * 34];
    text[0] = 0;
    for (int i = 0; i < n; i++) {
        strlcat(text, i ? "," : "", sizeof text);
        strlcat(text, c->hosts[i].address, sizeof text);
    }
    return text;
}

struct ready {
    struct cluster *c;
    int i;
};

static bool is_ready(void *ctx)
{
    struct ready *r = ctx;
    char out[4096];
    if (!host_running(r->c, r->i)) {
        show_logs(r->c);
        fail_msg("%s ended while it should start", r->c->hosts[r->i].name);
    }
    /* A linearizable read of shard zero proves that it has formed, has a leader, and that this host
     * is a member. */
    return cli(r->c, r->i, out, sizeof out, "get host %s", r->c->hosts[r->i].name) == 0;
}

void cluster_wait_ready(struct cluster *c, int i, int timeout_ms)
{
    eventually(timeout_ms, "host is ready", is_ready, &(struct ready){c, i});
}

void cluster_start_peers(struct cluster *c, int n)
{
    char peers[HOSTS_MAX * 34];
    snprintf(peers, sizeof peers, "%s", cluster_endpoints(c, n));
    for (int i = 0; i < n; i++) {
        host_start(c, i,
                   (const char *[]){"--name", c->hosts[i].name, "--listen", c->hosts[i].address,
                                    "--peers", peers, NULL});
    }
    for (int i = 0; i < n; i++) {
        cluster_wait_ready(c, i, 20000);
    }
}

struct cluster *cluster_of_peers(int n, const char *yaml)
{
    struct cluster *c = cluster_new();
    cluster_start_peers(c, n);
    apply_yaml(c, 0, yaml);
    return c;
}

void cluster_start_dev(struct cluster *c)
{
    host_start(c, 0,
               (const char *[]){"--name", c->hosts[0].name, "--listen", c->hosts[0].address,
                                "--dev", NULL});
    cluster_wait_ready(c, 0, 20000);
}

void cluster_join(struct cluster *c, int i, int through)
{
    host_start(c, i,
               (const char *[]){"--name", c->hosts[i].name, "--listen", c->hosts[i].address,
                                "--join", c->hosts[through].address, NULL});
    cluster_wait_ready(c, i, 20000);
}

static int cli_words(struct cluster *c, int i, char *out, size_t out_size, const char *words)
{
    char command[4608];
    snprintf(command, sizeof command, "'%s' --endpoints %s %s 2>&1", THOLE_PATH,
             c->hosts[i].address, words);
    FILE *p = popen(command, "r");
    assert_non_null(p);
    size_t n = fread(out, 1, out_size - 1, p);
    out[n] = 0;
    char rest[4096];
    while (fread(rest, 1, sizeof rest, p) > 0) { /* or it would be ended by SIGPIPE */
    }
    strlcpy(last_output, out, sizeof last_output);
    int status = pclose(p);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

int cli(struct cluster *c, int i, char *out, size_t out_size, const char *format, ...)
{
    char words[4096];
    va_list args;
    va_start(args, format);
    vsnprintf(words, sizeof words, format, args); // NOLINT(clang-analyzer-valist.Uninitialized)
    va_end(args);
    return cli_words(c, i, out, out_size, words);
}

const char *cli_ok(struct cluster *c, int i, const char *format, ...)
{
    static char out[CLI_OUTPUT_BYTES];
    char words[4096];
    va_list args;
    va_start(args, format);
    vsnprintf(words, sizeof words, format, args); // NOLINT(clang-analyzer-valist.Uninitialized)
    va_end(args);
    int status = cli_words(c, i, out, sizeof out, words);
    if (status != 0) {
        show_logs(c);
        fail_msg("thole %s: exit status %d: %s", words, status, out);
    }
    return out;
}

struct uuid cli_uuid(const char *json, const char *field)
{
    char name[64], text[UUID_TEXT_BYTES];
    struct uuid id;
    snprintf(name, sizeof name, "\"%s\":", field);
    const char *at = strstr(json, name);
    assert_non_null(at);
    at = strchr(at + strlen(name), '"') + 1;
    snprintf(text, sizeof text, "%.*s", UUID_TEXT_BYTES - 1, at);
    assert_true(uuid_parse(slice_str(text), &id));
    return id;
}

void apply_yaml(struct cluster *c, int i, const char *yaml)
{
    char path[256];
    snprintf(path, sizeof path, "%s/spec.yaml", c->dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(yaml, f);
    assert_int_equal(fclose(f), 0);
    cli_ok(c, i, "apply -f %s --wait --timeout 30s", path);
}

int shard_leader(struct cluster *c, int via, const char *shard)
{
    char out[16384];
    if (cli(c, via, out, sizeof out, "get shard %s -o json", shard) != 0) {
        return -1;
    }
    const char *at = strstr(out, "\"leaderHost\":");
    if (at == NULL || (at = strchr(at + 13, '"')) == NULL) {
        return -1;
    }
    at++;
    for (int i = 0; i < HOSTS_MAX; i++) {
        size_t n = strlen(c->hosts[i].name);
        if (strncmp(at, c->hosts[i].name, n) == 0 && at[n] == '"') {
            return i;
        }
    }
    return -1;
}

int count_text(const char *text, const char *needle)
{
    int n = 0;
    for (const char *at = text; (at = strstr(at, needle)) != NULL; at += strlen(needle)) {
        n++;
    }
    return n;
}

int count_lines(const char *text, const char *needle)
{
    int n = 0;
    for (const char *line = text; line != NULL && *line; line = strchr(line, '\n')) {
        line += *line == '\n';
        const char *end = strchr(line, '\n');
        const char *found = strstr(line, needle);
        n += found != NULL && (end == NULL || found < end);
    }
    return n;
}

static bool lines_match(void *ctx)
{
    struct expect *e = ctx;
    char out[CLI_OUTPUT_BYTES];
    return cli(e->c, e->via, out, sizeof out, "%s", e->command) == 0 &&
           count_lines(out, e->needle) == e->lines;
}

void expect_lines(struct cluster *c, int via, const char *command, const char *needle, int lines)
{
    struct expect e = {c, via, command, needle, lines};
    char what[256];
    snprintf(what, sizeof what, "`%s` has %d lines with \"%s\"", command, lines, needle);
    eventually(60000, what, lines_match, &e);
}

static bool says(void *ctx)
{
    const struct expect *e = ctx;
    char out[CLI_OUTPUT_BYTES];
    (void)cli(e->c, e->via, out, sizeof out, "%s", e->command);
    return strstr(out, e->needle) != NULL;
}

void expect_soon(struct cluster *c, int via, int ms, const char *command, const char *text)
{
    eventually(ms, text, says,
               &(struct expect){.c = c, .via = via, .command = command, .needle = text});
}

static bool has_leader(void *ctx)
{
    struct expect *e = ctx;
    e->lines = shard_leader(e->c, e->via, e->needle);
    return e->lines >= 0;
}

int leader_of(struct cluster *c, int via, const char *shard)
{
    struct expect e = {.c = c, .via = via, .needle = shard};
    eventually(20000, "the shard's leader is known", has_leader, &e);
    return e.lines;
}

static uint64_t bytes_found;

static int add_bytes(const char *path, const struct stat *s, int type, struct FTW *f)
{
    (void)path, (void)type, (void)f;
    bytes_found += (uint64_t)s->st_blocks * 512;
    return 0;
}

uint64_t directory_bytes(const char *path)
{
    bytes_found = 0;
    nftw(path, add_bytes, 32, FTW_PHYS);
    return bytes_found;
}

void copy_spoilt(const char *from, const char *to, size_t least_bytes, bool flip, long at)
{
    static char bytes[16 << 20];
    FILE *f = fopen(from, "rb");
    assert_non_null(f);
    size_t size = fread(bytes, 1, sizeof bytes, f);
    assert_true(size > least_bytes && size < sizeof bytes);
    assert_int_equal(fclose(f), 0);
    size_t place = at >= 0 ? (size_t)at : size - (size_t)-at;
    if (flip) {
        bytes[place] = (char)(bytes[place] ^ 1);
    }
    f = fopen(to, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, flip ? size : place, f), flip ? size : place);
    assert_int_equal(fclose(f), 0);
}
