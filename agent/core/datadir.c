/* The data directory: opening, locking and the small files in it. See datadir.h. */
#include "agent/core/datadir.h"

#include <bsd/string.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/core/textfile.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"

#define LOCK_WAIT_MS 3000
#define LOCK_RETRY_MS 20

char *datadir_file(const struct datadir *d, const char *name)
{
    return xasprintf("%s/%s", d->path, name);
}

/* ---- Members --------------------------------------------------------------------------------- */

static void members_write(struct bytes *out, const struct member_list *l)
{
    for (uint32_t i = 0; i < l->count; i++) {
        char id[UUID_TEXT_BYTES];
        uuid_format(&l->members[i].host, id);
        bytes_printf(out, "member %s %s %s %s\n", id, l->members[i].name, l->members[i].address,
                     l->members[i].tags);
    }
}

static bool member_read(struct member_list *l, char *words)
{
    if (l->count == DATADIR_MEMBERS_MAX) {
        return false;
    }
    struct member *m = &l->members[l->count];
    char *save = NULL;
    const char *id = strtok_r(words, " ", &save);
    const char *name = strtok_r(NULL, " ", &save);
    const char *address = strtok_r(NULL, " ", &save);
    const char *tags = strtok_r(NULL, "", &save);
    if (tags != NULL && strlen(tags) >= sizeof m->tags) {
        return false;
    }
    if (id == NULL || name == NULL || address == NULL || !uuid_parse(slice_str(id), &m->host) ||
        strlen(name) >= sizeof m->name || strlen(address) >= sizeof m->address) {
        return false;
    }
    snprintf(m->name, sizeof m->name, "%s", name);
    snprintf(m->address, sizeof m->address, "%s", address);
    snprintf(m->tags, sizeof m->tags, "%s", tags != NULL ? tags : "");
    l->count++;
    return true;
}

/* ---- Identity -------------------------------------------------------------------------------- */

static bool copy_word(char *to, size_t size, const char *value)
{
    return strlcpy(to, value, size) < size;
}

static bool identity_line(void *ctx, const char *key, char *value)
{
    struct identity *i = ctx;
    if (strcmp(key, "host") == 0) {
        return uuid_parse(slice_str(value), &i->host);
    }
    if (strcmp(key, "name") == 0) {
        return copy_word(i->name, sizeof i->name, value);
    }
    if (strcmp(key, "listen") == 0) {
        return copy_word(i->listen, sizeof i->listen, value);
    }
    if (strcmp(key, "advertise") == 0) {
        return copy_word(i->advertise, sizeof i->advertise, value);
    }
    if (strcmp(key, "cluster") == 0) {
        return uuid_parse(slice_str(value), &i->cluster);
    }
    if (strcmp(key, "zero-replica") == 0) {
        return sscanf(value, "%" SCNu64, &i->zero_replica) == 1;
    }
    if (strcmp(key, "zero-seed") == 0) {
        return copy_word(i->zero_seed, sizeof i->zero_seed, value);
    }
    if (strcmp(key, "zero-created") == 0) {
        i->zero_created = strcmp(value, "yes") == 0;
        return true;
    }
    if (strcmp(key, "member") == 0) {
        return member_read(&i->first, value);
    }
    return false;
}

enum thole_code datadir_save_identity(struct datadir *d, const struct identity *i,
                                      struct thole_status *st)
{
    char id[UUID_TEXT_BYTES];
    struct bytes out = {0};
    ASSERT(!uuid_is_nil(&i->host) && d->lock_fd >= 0);
    uuid_format(&i->host, id);
    bytes_printf(&out, "host %s\nname %s\n", id, i->name);
    if (i->listen[0]) {
        bytes_printf(&out, "listen %s\n", i->listen);
    }
    if (i->advertise[0]) {
        bytes_printf(&out, "advertise %s\n", i->advertise);
    }
    if (!uuid_is_nil(&i->cluster)) {
        uuid_format(&i->cluster, id);
        bytes_printf(&out, "cluster %s\nzero-replica %" PRIu64 "\nzero-created %s\n", id,
                     i->zero_replica, i->zero_created ? "yes" : "no");
        if (i->zero_seed[0]) {
            bytes_printf(&out, "zero-seed %s\n", i->zero_seed);
        }
        members_write(&out, &i->first);
    }
    char *path = datadir_file(d, "identity");
    enum thole_code code = textfile_write(path, "thole-host", DATADIR_FORMAT, &out, st);
    free(path);
    return code;
}

static enum thole_code load_identity(struct datadir *d, struct identity *ret,
                                     struct thole_status *st)
{
    char *path = datadir_file(d, "identity");
    struct identity *i = xcalloc(1, sizeof *i);
    enum thole_code code = textfile_read(path, "thole-host", DATADIR_FORMAT, identity_line, i, st);
    if (code == THOLE_OK && uuid_is_nil(&i->host)) {
        code = THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "%s has no host id", path);
    }
    if (code == THOLE_OK) {
        i->first.cluster = i->first.count > 0 ? i->cluster : (struct uuid){{0}};
        *ret = *i;
    }
    free(i);
    free(path);
    return code;
}

static void new_identity(const char *name, struct identity *ret)
{
    memset(ret, 0, sizeof *ret);
    ret->host = uuid_random();
    if (name != NULL) {
        snprintf(ret->name, sizeof ret->name, "%s", name);
    } else {
        snprintf(ret->name, sizeof ret->name, "host-%02x%02x%02x%02x", ret->host.bytes[0],
                 ret->host.bytes[1], ret->host.bytes[2], ret->host.bytes[3]);
    }
}

/* ---- Open ------------------------------------------------------------------------------------ */

/* Is there any file but those written before the identity (LOCK, temporary files)? */
static bool holds_something_else(const char *path, char *ret_name, size_t size)
{
    DIR *dir = opendir(path);
    bool found = false;
    for (struct dirent *e; dir != NULL && !found && (e = readdir(dir)) != NULL;) {
        const char *n = e->d_name;
        bool ours = strcmp(n, ".") == 0 || strcmp(n, "..") == 0 || strcmp(n, "LOCK") == 0 ||
                    strcmp(n, "lost+found") == 0 || strncmp(n, "identity", 8) == 0;
        if (!ours) {
            snprintf(ret_name, size, "%s", n);
            found = true;
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return found;
}

static enum thole_code open_identity(struct datadir *d, const char *name, struct identity *ret,
                                     struct thole_status *st)
{
    struct thole_status why = {0};
    enum thole_code code = load_identity(d, ret, &why);
    if (code == THOLE_OK) {
        if (name != NULL && strcmp(name, ret->name) != 0) {
            return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_WRONG_HOST,
                              "data directory %s belongs to host \"%s\", not \"%s\"", d->path,
                              ret->name, name);
        }
        return THOLE_OK;
    }
    if (code != THOLE_NOT_FOUND) {
        if (st != NULL) {
            *st = why;
        }
        return code;
    }
    char other[256];
    if (holds_something_else(d->path, other, sizeof other)) {
        return THOLE_FAIL(
            st, THOLE_FAILED_PRECONDITION, THOLE_REASON_FORMAT,
            "%s is not a Thole data directory: it has no identity, but holds \"%.64s\"", d->path,
            other);
    }
    new_identity(name, ret);
    return datadir_save_identity(d, ret, st);
}

/* Any user who can write here can impersonate this host or destroy its data. */
static enum thole_code check_mode(const char *path, struct thole_status *st)
{
    struct stat info;
    if (stat(path, &info) != 0) {
        return THOLE_FAIL(st, THOLE_PERMISSION_DENIED, THOLE_REASON_DISK,
                          "cannot read the mode of %s: %s", path, strerrordesc_np(errno));
    }
    if (info.st_mode & S_IWOTH) {
        return THOLE_FAIL(
            st, THOLE_FAILED_PRECONDITION, THOLE_REASON_DISK,
            "every user can write to the data directory %s: run \"chmod go-w %s\" first", path,
            path);
    }
    if (info.st_mode & (S_IRWXG | S_IRWXO)) {
        LOG_WARN(AGENT,
                 "other users have access to the data directory path=%s mode=%04o; run \"chmod "
                 "go-rwx %s\"",
                 path, (unsigned)info.st_mode & 07777, path);
    }
    return THOLE_OK;
}

/* The host creates files and directories for its own user only. But copies and backups may have
 * other modes, and symbolic links may lead out of the directory, whose mode then protects
 * nothing. */
static void warn_of_shared_entries(const char *path)
{
    char example[256] = "";
    size_t count = 0;
    DIR *dir = opendir(path);
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        bool entry = strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
        char *full = xasprintf("%s/%s", path, e->d_name);
        if (entry && file_shared_bits(full) != 0 && count++ == 0) {
            snprintf(example, sizeof example, "%s", e->d_name);
        }
        free(full);
    }
    if (dir != NULL) {
        closedir(dir);
    }
    if (count > 0) {
        LOG_WARN(AGENT,
                 "other users have access to files in the data directory path=%s count=%zu "
                 "example=\"%s\"; run \"chmod -R go-rwx %s\"",
                 path, count, example, path);
    }
}

/* A killed process keeps its lock while its memory is torn down, and has no /proc/PID/exe any more:
 * who starts the host again at once must not be refused. */
static enum thole_code lock_dir(struct datadir *d, struct thole_status *st)
{
    char *lock = datadir_file(d, "LOCK");
    struct thole_status mine = {0};
    uint64_t end = clock_now(&clock_system) + LOCK_WAIT_MS * NS_PER_MS;
    enum thole_code code = file_lock(lock, &d->lock_fd, &mine);
    while (code != THOLE_OK && mine.reason == THOLE_REASON_LOCKED &&
           clock_now(&clock_system) < end) {
        (void)poll(NULL, 0, LOCK_RETRY_MS);
        code = file_lock(lock, &d->lock_fd, &mine);
    }
    if (code != THOLE_OK && st != NULL) {
        *st = mine;
    }
    free(lock);
    return code;
}

enum thole_code datadir_open(const char *path, const char *name, struct datadir *ret,
                             struct identity *ret_identity, struct thole_status *st)
{
    enum thole_code code = file_make_dirs(path, st);
    if (code == THOLE_OK) {
        code = check_mode(path, st);
    }
    if (code != THOLE_OK) {
        return code;
    }
    struct datadir d = {.path = xstrdup(path), .lock_fd = -1};
    /* Refuse a foreign directory before writing anything into it. */
    char other[256];
    char *identity = datadir_file(&d, "identity");
    if (access(identity, F_OK) != 0 && holds_something_else(path, other, sizeof other)) {
        code =
            THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_FORMAT,
                       "%s is not a Thole data directory: it has no identity, but holds \"%.64s\"",
                       path, other);
    }
    free(identity);
    if (code == THOLE_OK) {
        code = lock_dir(&d, st);
    }
    if (code == THOLE_OK) {
        code = open_identity(&d, name, ret_identity, st);
    }
    if (code == THOLE_OK) {
        warn_of_shared_entries(path);
        *ret = d;
    } else {
        datadir_close(&d);
    }
    return code;
}

enum thole_code datadir_look(const char *path, struct datadir *ret, struct identity *ret_identity,
                             struct thole_status *ret_why, struct thole_status *st)
{
    struct datadir d = {.path = xstrdup(path), .lock_fd = -1};
    char *lock = datadir_file(&d, "LOCK"), *identity = datadir_file(&d, "identity"),
         *log = datadir_file(&d, "log");
    enum thole_code code = THOLE_OK;
    if (access(identity, F_OK) != 0 && access(log, F_OK) != 0) {
        code = THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_FORMAT,
                          "%s is not a data directory of a host", path);
    }
    if (code == THOLE_OK && access(lock, F_OK) == 0) { /* a copy may come without it */
        code = file_lock_shared(lock, &d.lock_fd, st);
    }
    if (code == THOLE_OK) {
        memset(ret_identity, 0, sizeof *ret_identity);
        *ret_why = (struct thole_status){0};
        ret_why->code = load_identity(&d, ret_identity, ret_why);
        *ret = d;
    } else {
        datadir_close(&d);
    }
    free(lock);
    free(identity);
    free(log);
    return code;
}

void datadir_close(struct datadir *d)
{
    if (d->path != NULL && d->lock_fd >= 0) {
        close(d->lock_fd);
    }
    d->lock_fd = -1;
    free(d->path);
    d->path = NULL;
}

/* ---- Incarnation ----------------------------------------------------------------------------- */

struct start_history {
    uint64_t incarnation;
    uint64_t election_timeout_ms;
    uint64_t admitted; /* the last start that the registry accepted, as far as is known here */
    size_t count;
    struct recorded_start {
        uint64_t incarnation, number;
    } starts[LINEAGE_MAX + 1]; /* oldest first */
};

static bool start_history_line(void *ctx, const char *key, char *value)
{
    struct start_history *l = ctx;
    if (strcmp(key, "incarnation") == 0) {
        return sscanf(value, "%" SCNu64, &l->incarnation) == 1;
    }
    if (strcmp(key, "admitted") == 0) {
        return sscanf(value, "%" SCNu64, &l->admitted) == 1;
    }
    if (strcmp(key, "start") == 0) {
        struct recorded_start *s = &l->starts[l->count];
        return l->count++ <= LINEAGE_MAX &&
               sscanf(value, "%" SCNu64 " %" SCNx64, &s->incarnation, &s->number) == 2 &&
               s->number != 0;
    }
    return strcmp(key, "election_timeout_ms") == 0 &&
           sscanf(value, "%" SCNu64, &l->election_timeout_ms) == 1 &&
           l->election_timeout_ms <= UINT32_MAX;
}

/* A starting replica votes for nobody for one election timeout, because it may have promised its
 * leader that long before it ended (decision 8). A promise with a longer timeout is waited out
 * here. */
static enum thole_code wait_out_promises(uint64_t promised_ms, uint64_t election_timeout_ms,
                                         const int *stop_fd, struct thole_status *st)
{
    if (promised_ms <= election_timeout_ms) {
        return THOLE_OK;
    }
    uint64_t now = clock_now(&clock_system);
    uint64_t end = now + (promised_ms - election_timeout_ms) * NS_PER_MS;
    LOG_INFO(AGENT, "waiting out promises made with the longer election timeout ms=%" PRIu64,
             (end - now) / NS_PER_MS);
    for (; now < end; now = clock_now(&clock_system)) {
        struct pollfd stop = {.fd = stop_fd != NULL ? *stop_fd : -1, .events = POLLIN};
        uint64_t left_ms = (end - now) / NS_PER_MS + 1;
        if (poll(&stop, 1, left_ms < 60000 ? (int)left_ms : 60000) > 0) {
            return THOLE_FAIL(st, THOLE_CANCELLED, THOLE_REASON_STOPPED,
                              "stopped while waiting out promises made with the longer election "
                              "timeout of the last start");
        }
    }
    return THOLE_OK;
}

static enum thole_code load_start_history(const struct datadir *d, struct start_history *ret,
                                          struct thole_status *st)
{
    struct thole_status why = {0};
    char *path = datadir_file(d, "incarnation");
    memset(ret, 0, sizeof *ret);
    enum thole_code code =
        textfile_read(path, "thole-incarnation", DATADIR_FORMAT, start_history_line, ret, &why);
    free(path);
    if (code == THOLE_NOT_FOUND) {
        return THOLE_OK;
    }
    if (code != THOLE_OK && st != NULL) {
        *st = why;
    }
    return code;
}

enum thole_code datadir_look_at_starts(const struct datadir *d, uint64_t *ret_incarnation,
                                       uint64_t *ret_admitted, struct thole_status *st)
{
    struct start_history l;
    enum thole_code code = load_start_history(d, &l, st);
    if (code == THOLE_OK) {
        *ret_incarnation = l.incarnation;
        *ret_admitted = l.admitted;
    }
    return code;
}

static enum thole_code save_start_history(struct datadir *d, const struct start_history *l,
                                          struct thole_status *st)
{
    struct bytes out = {0};
    bytes_printf(&out,
                 "incarnation %" PRIu64 "\nelection_timeout_ms %" PRIu64 "\nadmitted %" PRIu64 "\n",
                 l->incarnation, l->election_timeout_ms, l->admitted);
    for (size_t i = 0; i < l->count; i++) {
        bytes_printf(&out, "start %" PRIu64 " %016" PRIx64 "\n", l->starts[i].incarnation,
                     l->starts[i].number);
    }
    char *path = datadir_file(d, "incarnation");
    enum thole_code code = textfile_write(path, "thole-incarnation", DATADIR_FORMAT, &out, st);
    free(path);
    return code;
}

static uint64_t random_number(void)
{
    struct uuid u = uuid_random();
    uint64_t n = get_be64(u.bytes) ^ get_be64(u.bytes + 8);
    return n != 0 ? n : 1;
}

/* The registry knows this host by a start since the last admitted one, so none of these may be
 * dropped: beyond LINEAGE_MAX of them, new starts share the last number. */
static void add_start(struct start_history *l)
{
    l->incarnation++;
    if (l->count > LINEAGE_MAX && l->starts[0].incarnation >= l->admitted) {
        return;
    }
    if (l->count > LINEAGE_MAX) {
        memmove(&l->starts[0], &l->starts[1], --l->count * sizeof l->starts[0]);
    }
    l->starts[l->count++] = (struct recorded_start){l->incarnation, random_number()};
}

static void lineage_of(const struct start_history *l, struct lineage *ret)
{
    ASSERT(l->count > 0 && l->count <= LINEAGE_MAX + 1);
    memset(ret, 0, sizeof *ret);
    ret->start = l->starts[l->count - 1].number;
    ret->oldest = l->starts[0].incarnation;
    ret->count = l->count - 1;
    for (size_t i = 0; i < ret->count; i++) {
        ret->before[i] = l->starts[i].number;
    }
}

enum thole_code datadir_admitted(struct datadir *d, uint64_t incarnation, struct thole_status *st)
{
    struct start_history l;
    enum thole_code code = load_start_history(d, &l, st);
    if (code != THOLE_OK || l.admitted >= incarnation) {
        return code;
    }
    l.admitted = incarnation;
    return save_start_history(d, &l, st);
}

enum thole_code datadir_next_start(struct datadir *d, uint32_t election_timeout_ms,
                                   const int *stop_fd, uint64_t *ret_incarnation,
                                   struct lineage *ret_lineage, struct thole_status *st)
{
    struct start_history l;
    enum thole_code code = load_start_history(d, &l, st);
    if (code == THOLE_OK) {
        code = wait_out_promises(l.election_timeout_ms, election_timeout_ms, stop_fd, st);
    }
    if (code != THOLE_OK) {
        return code;
    }
    add_start(&l);
    l.election_timeout_ms = election_timeout_ms;
    code = save_start_history(d, &l, st);
    if (code == THOLE_OK) {
        *ret_incarnation = l.incarnation;
        lineage_of(&l, ret_lineage);
    }
    return code;
}

/* ---- Promise --------------------------------------------------------------------------------- */

static bool promise_line(void *ctx, const char *key, char *value)
{
    struct member_list *l = ctx;
    if (strcmp(key, "cluster") == 0) {
        return uuid_parse(slice_str(value), &l->cluster);
    }
    return strcmp(key, "member") == 0 && member_read(l, value);
}

enum thole_code datadir_load_promise(struct datadir *d, struct member_list *ret,
                                     struct thole_status *st)
{
    struct thole_status why = {0};
    struct member_list *l = xcalloc(1, sizeof *l);
    char *path = datadir_file(d, "promise");
    enum thole_code code =
        textfile_read(path, "thole-promise", DATADIR_FORMAT, promise_line, l, &why);
    if (code == THOLE_NOT_FOUND) {
        memset(l, 0, sizeof *l);
        code = THOLE_OK;
    } else if (code != THOLE_OK && st != NULL) {
        *st = why;
    }
    if (code == THOLE_OK) {
        *ret = *l;
    }
    free(path);
    free(l);
    return code;
}

enum thole_code datadir_save_promise(struct datadir *d, const struct member_list *l,
                                     struct thole_status *st)
{
    char *path = datadir_file(d, "promise");
    enum thole_code code = THOLE_OK;
    if (access(path, F_OK) == 0) {
        code = THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_EXISTS,
                          "%s exists: this host has already promised to form a cluster", path);
    } else {
        char id[UUID_TEXT_BYTES];
        struct bytes out = {0};
        uuid_format(&l->cluster, id);
        bytes_printf(&out, "cluster %s\n", id);
        members_write(&out, l);
        code = textfile_write(path, "thole-promise", DATADIR_FORMAT, &out, st);
    }
    free(path);
    return code;
}

/* ---- Addresses ------------------------------------------------------------------------------- */

struct peers_reader {
    datadir_peer_fn each;
    void *ctx;
};

static bool peer_line(void *ctx, const char *key, char *value)
{
    struct peers_reader *r = ctx;
    struct uuid host;
    char *address = NULL;
    uint64_t incarnation = strtoull(value, &address, 10);
    if (uuid_parse(slice_str(key), &host) && address != value && *address == ' ') {
        r->each(r->ctx, &host, incarnation, address + 1);
    }
    return true;
}

void datadir_load_peers(struct datadir *d, datadir_peer_fn each, void *ctx)
{
    struct peers_reader r = {.each = each, .ctx = ctx};
    char *path = datadir_file(d, "peers");
    /* Best effort: the registry has the addresses, too. */
    enum thole_code code = textfile_read(path, "thole-peers", DATADIR_FORMAT, peer_line, &r, NULL);
    (void)code;
    free(path);
}

enum thole_code datadir_save_peers(struct datadir *d, struct slice lines, struct thole_status *st)
{
    struct bytes out = {0};
    bytes_append_slice(&out, lines);
    char *path = datadir_file(d, "peers");
    enum thole_code code = textfile_write(path, "thole-peers", DATADIR_FORMAT, &out, st);
    free(path);
    return code;
}
