/* Options from flags, environment and file. See daemon_options.h. */
#include "agent/tholed/daemon_options.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"

enum kind { TEXT, LIST, NUMBER, SWITCH };
enum source { FROM_NOTHING, FROM_FILE, FROM_ENVIRONMENT, FROM_FLAG };

struct row {
    const char *name; /* without the dashes; the key in the file */
    const char *value;
    const char *help;
    enum kind kind;
    size_t offset;
    uint64_t max; /* NUMBER */
};

#define AT(field) offsetof(struct daemon_options, field)
static const struct row table[] = {
    {"data-dir", "DIR", "where everything is kept (default: thole-data)", TEXT, AT(data_dir), 0},
    {"listen", "[HOST]:PORT",
     "gRPC: hosts, clients, control plane (default: as before, or 127.0.0.1:7400)", TEXT,
     AT(listen), 0},
    {"advertise", "HOST:PORT",
     "where others reach this host (default: as before, or the listen address)", TEXT,
     AT(advertise), 0},
    {"name", "NAME", "name of this host (default: host-XXXXXXXX); kept in the data directory", TEXT,
     AT(name), 0},
    {"tag", "KEY=VALUE", "tag that constraints can name, of a new host; may be repeated", LIST,
     AT(tags), 0},
    {"dev", NULL, "begin a cluster of this host alone, which can grow later", SWITCH, AT(dev), 0},
    {"peers", "A,B,C",
     "begin a cluster of these hosts, this one among them; later: where to look for them", TEXT,
     AT(peers), 0},
    {"join", "A[,B]",
     "join an existing cluster through one of these hosts; later: where to look for it", TEXT,
     AT(join), 0},
    {"http", "[HOST]:PORT|off",
     "/metrics /livez /readyz /version (default: off; with --dev 127.0.0.1:0)", TEXT, AT(http), 0},
    {"log-level", "SPEC", "error, warn, info, debug; or info,raft=debug (default: info)", TEXT,
     AT(log_level), 0},
    {"log-format", "FORMAT", "text or json (default: text)", TEXT, AT(log_format), 0},
    {"election-timeout-ms", "N", "elections begin after N to 2N ms of silence (default: 500)",
     NUMBER, AT(election_timeout_ms), 600000},
    {"heartbeat-ms", "N", "interval of heartbeats (default: 100)", NUMBER, AT(heartbeat_ms), 60000},
    {"suspect-after-ms", "N", "least silence that makes a host suspect (default: 1000)", NUMBER,
     AT(suspect_after_ms), 600000},
    {"suspect-after-ms-max", "N", "most silence of a live host, however irregular (default: 10000)",
     NUMBER, AT(suspect_after_ms_max), 600000},
    {"dead-after-ms", "N", "silence after which a host's replicas are replaced (default: 30000)",
     NUMBER, AT(dead_after_ms), 604800000},
    {"loops", "N", "threads that run groups (default: by cores)", NUMBER, AT(loops), 256},
    {"appliers", "N", "threads that apply entries (default: by cores)", NUMBER, AT(appliers), 256},
    {"snapshot-bytes-per-s", "N",
     "most that snapshots to other hosts may take (default: 0, no cap)", NUMBER,
     AT(snapshot_bytes_per_s), UINT64_MAX},
    {"config", "FILE", "YAML with these options as keys, without dashes in front", TEXT, AT(config),
     0},
    {"version", NULL, "print the version and exit", SWITCH, AT(version), 0},
    {"help", NULL, "print this and exit", SWITCH, AT(help), 0},
};
#define ROWS (sizeof table / sizeof table[0])

struct reader {
    struct daemon_options *o;
    enum source current;
    enum source sources[ROWS];
};

static enum thole_code bad(struct thole_status *st, const struct row *r, const char *value,
                           const char *why)
{
    return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, "--%s \"%.64s\": %s",
                      r->name, value, why);
}

static enum thole_code set_number(const struct row *r, const char *value, uint64_t *to,
                                  struct thole_status *st)
{
    char *end = NULL;
    errno = 0;
    unsigned long long n = strtoull(value, &end, 10);
    if (errno != 0 || end == value || *end || value[0] == '-' || n > r->max) {
        return bad(st, r, value, "not a number in range");
    }
    *to = n;
    return THOLE_OK;
}

static enum thole_code set_switch(const struct row *r, const char *value, uint64_t *to,
                                  struct thole_status *st)
{
    bool on = strcmp(value, "true") == 0 || strcmp(value, "1") == 0 || strcmp(value, "yes") == 0;
    bool off = strcmp(value, "false") == 0 || strcmp(value, "0") == 0 || strcmp(value, "no") == 0;
    if (!on && !off) {
        return bad(st, r, value, "true or false");
    }
    *to = on;
    return THOLE_OK;
}

static enum thole_code add_tags(struct reader *rd, const struct row *r, const char *value,
                                bool replace, struct thole_status *st)
{
    struct daemon_options *o = rd->o;
    if (replace) {
        while (o->tag_count > 0) {
            free(o->tags[--o->tag_count]);
        }
    }
    char *copy = xstrdup(value), *save = NULL;
    enum thole_code code = THOLE_OK;
    for (char *p = strtok_r(copy, ",", &save); p != NULL && code == THOLE_OK;
         p = strtok_r(NULL, ",", &save)) {
        if (strchr(p, '=') == NULL || p[0] == '=') {
            code = bad(st, r, p, "not KEY=VALUE");
        } else if (o->tag_count == OPTIONS_LIST_MAX) {
            code = bad(st, r, p, "too many");
        } else {
            o->tags[o->tag_count++] = xstrdup(p);
        }
    }
    free(copy);
    return code;
}

static enum thole_code set_row(struct reader *rd, size_t i, const char *value,
                               struct thole_status *st)
{
    const struct row *r = &table[i];
    char *field = (char *)rd->o + r->offset;
    if (rd->sources[i] > rd->current) {
        return THOLE_OK; /* something stronger has spoken */
    }
    bool first = rd->sources[i] < rd->current;
    rd->sources[i] = rd->current;
    switch (r->kind) {
    case TEXT: {
        char **text = (char **)(void *)field;
        free(*text);
        *text = xstrdup(value);
        return THOLE_OK;
    }
    case NUMBER:
        return set_number(r, value, (uint64_t *)(void *)field, st);
    case SWITCH:
        return set_switch(r, value, (uint64_t *)(void *)field, st);
    case LIST:
        return add_tags(rd, r, value, first, st);
    }
    return THOLE_OK;
}

static const struct row *find(const char *name, size_t size, size_t *ret)
{
    for (size_t i = 0; i < ROWS; i++) {
        if (strlen(table[i].name) == size && strncmp(table[i].name, name, size) == 0) {
            *ret = i;
            return &table[i];
        }
    }
    return NULL;
}

static enum thole_code read_flags(struct reader *rd, int argc, char **argv, struct thole_status *st)
{
    rd->current = FROM_FLAG;
    for (int k = 1; k < argc; k++) {
        const char *arg = argv[k];
        size_t i;
        if (strcmp(arg, "-h") == 0) {
            arg = "--help";
        }
        if (strncmp(arg, "--", 2) != 0) {
            return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                              "\"%.64s\" is not an option; see --help", arg);
        }
        const char *name = arg + 2, *equals = strchr(name, '=');
        const struct row *r =
            find(name, equals != NULL ? (size_t)(equals - name) : strlen(name), &i);
        if (r == NULL) {
            return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                              "unknown option \"%.64s\"; see --help", arg);
        }
        const char *value = equals != NULL ? equals + 1 : r->kind == SWITCH ? "true" : argv[++k];
        if (value == NULL) {
            return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                              "option %s needs a value (%s)", arg, r->value);
        }
        enum thole_code code = set_row(rd, i, value, st);
        if (code != THOLE_OK) {
            return code;
        }
    }
    return THOLE_OK;
}

static enum thole_code read_environment(struct reader *rd, struct thole_status *st)
{
    rd->current = FROM_ENVIRONMENT;
    for (size_t i = 0; i < ROWS; i++) {
        char name[64];
        size_t n = (size_t)snprintf(name, sizeof name, "THOLED_%s", table[i].name);
        for (size_t k = 7; k < n; k++) {
            name[k] = name[k] == '-' ? '_' : (char)toupper((unsigned char)name[k]);
        }
        const char *value = getenv(name);
        if (value == NULL || !value[0]) {
            continue;
        }
        enum thole_code code = set_row(rd, i, value, st);
        if (code != THOLE_OK) {
            return code;
        }
    }
    return THOLE_OK;
}

static enum thole_code set_key(void *ctx, const char *key, const char *value,
                               struct thole_status *st)
{
    size_t i;
    const struct row *r = find(key, strlen(key), &i);
    if (r == NULL || r->offset == AT(config) || r->offset == AT(help) || r->offset == AT(version)) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "unknown key \"%.64s\" in the configuration file", key);
    }
    return set_row(ctx, i, value, st);
}

enum thole_code options_read(int argc, char **argv, struct daemon_options *ret,
                             struct thole_status *st)
{
    struct reader rd = {.o = ret};
    memset(ret, 0, sizeof *ret);
    enum thole_code code = read_flags(&rd, argc, argv, st);
    if (code == THOLE_OK) {
        code = read_environment(&rd, st);
    }
    if (code == THOLE_OK && ret->config != NULL) {
        rd.current = FROM_FILE;
        code = config_read(ret->config, set_key, &rd, st);
    }
    if (code == THOLE_OK && (ret->dev != 0) + (ret->peers != NULL) + (ret->join != NULL) > 1) {
        code = THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "--dev, --peers and --join exclude each other");
    }
    return code;
}

void options_deinit(struct daemon_options *o)
{
    for (size_t i = 0; i < ROWS; i++) {
        if (table[i].kind == TEXT) {
            free(*(char **)(void *)((char *)o + table[i].offset));
        }
    }
    for (size_t i = 0; i < o->tag_count; i++) {
        free(o->tags[i]);
    }
}

void options_help(void)
{
    printf("usage: tholed [OPTION]...\n\n"
           "A host of a Thole cluster. A data directory that has been used needs no other "
           "option.\n\n");
    for (size_t i = 0; i < ROWS; i++) {
        char left[64];
        snprintf(left, sizeof left, "--%s%s%s", table[i].name, table[i].value != NULL ? " " : "",
                 table[i].value != NULL ? table[i].value : "");
        printf("  %-28s %s\n", left, table[i].help);
    }
    printf(
        "\nEach option can be given in the environment (--data-dir as THOLED_DATA_DIR) or in the "
        "file\n"
        "of --config (data-dir: ...); a flag beats the environment, which beats the file.\n\n"
        "Exit codes: 0 stopped by a signal, 1 could not start, 2 wrong options, 3 data directory\n"
        "(locked, foreign, damaged, newer version, other cluster), 4 address in use, 5 failed "
        "while\n"
        "running (disk), or whenever it is found to be removed from the cluster or the copy of a "
        "disk.\n");
}
