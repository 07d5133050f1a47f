/* Contents of disks: copies of data directories and logs, and which data a lost disk costs. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/sim/play.h"
#include "base/assert.h"
#include "base/buf.h"
#include "base/file.h"
#include "base/map.h"
#include "shards/engine/engine.h"

#define SHARD_HOSTS_MAX 1024

/* ---- Images ---------------------------------------------------------------------------------- */

struct image_file {
    struct image_file *next;
    char *path; /* below the data directory */
    struct buf *bytes;
};

struct disk_image {
    struct image_file *files;
    struct log_store *log;
    struct uuid id;
    char name[16];
};

static void read_tree(const char *dir, const char *below, struct disk_image *image)
{
    char *path = xasprintf("%s/%s", dir, below);
    DIR *d = opendir(path);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        struct stat info;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) {
            continue;
        }
        char *name =
            below[0] == '\0' ? xasprintf("%s", e->d_name) : xasprintf("%s/%s", below, e->d_name);
        char *full = xasprintf("%s/%s", dir, name);
        struct thole_status st = {0};
        if (stat(full, &info) == 0 && S_ISDIR(info.st_mode)) {
            read_tree(dir, name, image);
        } else {
            struct image_file *f = xcalloc(1, sizeof *f);
            f->path = xasprintf("%s", name);
            enum thole_code code = file_read(full, SIZE_MAX, &f->bytes, &st);
            ASSERT(code == THOLE_OK);
            f->next = image->files;
            image->files = f;
        }
        free(full);
        free(name);
    }
    if (d != NULL) {
        closedir(d);
    }
    free(path);
}

struct disk_image *disk__image(const struct world_host *h)
{
    struct disk_image *image = xcalloc(1, sizeof *image);
    read_tree(h->dir, "", image);
    image->log = sim_log__copy(h->log);
    image->id = h->id;
    memcpy(image->name, h->name, sizeof image->name);
    return image;
}

static void write_file(const struct world_host *h, const struct image_file *f)
{
    struct thole_status st = {0};
    char *path = xasprintf("%s/%s", h->dir, f->path);
    char *end = strrchr(path, '/');
    *end = '\0';
    enum thole_code code = file_make_dirs(path, &st);
    *end = '/';
    if (code == THOLE_OK) {
        code = file_write_atomic(path, slice_of(f->bytes->data, f->bytes->size), &st);
    }
    ASSERT(code == THOLE_OK);
    free(path);
}

void disk__put(struct world_host *h, const struct disk_image *image)
{
    struct thole_status st = {0};
    ASSERT(h->life == NULL);
    enum thole_code code = file_remove_tree(h->dir, &st);
    ASSERT(code == THOLE_OK);
    if (image == NULL) {
        sim_log__replace(h->log, sim_log__copy(NULL));
        memset(&h->id, 0, sizeof h->id);
        snprintf(h->name, sizeof h->name, "h%d-%u", h->n + 1, (unsigned)++h->disks + 1);
        return;
    }
    for (const struct image_file *f = image->files; f != NULL; f = f->next) {
        write_file(h, f);
    }
    /* The image stays as it is: the host writes to a copy of its log. */
    sim_log__replace(h->log, sim_log__copy_of(image->log));
    h->id = image->id;
    memcpy(h->name, image->name, sizeof h->name);
}

/* ---- What a lost disk costs ------------------------------------------------------------------ */

/* The configuration that a host's replica was last seen to hold. It is on the host's disk. */
struct held {
    uint64_t shard_id, config_index;
    int host;
    struct raft_config config;
};
static struct held held[SHARD_HOSTS_MAX];
static size_t held_count;
static struct map damaged; /* ids of replicas whose data was damaged */
static struct map lost;    /* ids of shards */
static bool any_lost;

static void forget_host(int n)
{
    size_t kept = 0;
    for (size_t i = 0; i < held_count; i++) {
        if (held[i].host == n) {
            raft_config_deinit(&held[i].config);
        } else {
            held[kept++] = held[i];
        }
    }
    held_count = kept;
}

void disks__note(void)
{
    for (int n = 0; n < world__host_count(); n++) {
        const struct world_host *h = world__host(n);
        struct engine_replica_status *all = NULL;
        if (h->life == NULL || h->life->agent == NULL || h->stopping) {
            continue;
        }
        struct life *earlier = life__enter(h->life);
        struct engine *e = agent_engine(h->life->agent);
        size_t count = engine_replicas(e, &all);
        forget_host(n);
        for (size_t i = 0; i < count && held_count < SHARD_HOSTS_MAX; i++) {
            struct held x = {all[i].shard_id, all[i].config_index, n, {0}};
            if (engine_shard_config(e, x.shard_id, &x.config)) {
                held[held_count++] = x;
            }
        }
        free(all);
        life__leave(earlier);
    }
}

/* Does the disk of this member still have all that its replica has promised and acknowledged? */
static bool is_intact(const struct raft_member *m, int without)
{
    if (map_get(&damaged, m->replica_id) != NULL) {
        return false;
    }
    for (int n = 0; n < world__host_count(); n++) {
        if (n != without && memcmp(world__host(n)->id.bytes, m->host, sizeof m->host) == 0) {
            return true;
        }
    }
    return false;
}

/* Witnesses have no data, so they do not count. */
static bool half_survives(const struct raft_config *c, bool outgoing, int without)
{
    uint32_t votes = 0, intact = 0;
    for (uint32_t i = 0; i < c->member_count; i++) {
        uint8_t role = outgoing ? c->members[i].outgoing_role : c->members[i].role;
        votes += role == RAFT_VOTER || role == RAFT_WITNESS;
        intact += role == RAFT_VOTER && is_intact(&c->members[i], without);
    }
    return intact * 2 > votes;
}

/* The newest configuration may not be committed yet, so the one before it counts, too. */
bool disks__survives(uint64_t shard_id, int without)
{
    uint64_t newest = 0, second = 0;
    for (size_t i = 0; i < held_count; i++) {
        uint64_t index = held[i].shard_id == shard_id ? held[i].config_index : 0;
        if (index > newest) {
            second = newest;
            newest = index;
        } else if (index < newest && index > second) {
            second = index;
        }
    }
    if (newest == 0) {
        return false; /* nothing is known of the shard */
    }
    for (size_t i = 0; i < held_count; i++) {
        const struct held *x = &held[i];
        bool counts =
            x->shard_id == shard_id && (x->config_index == newest || x->config_index == second);
        if (counts && (!half_survives(&x->config, false, without) ||
                       (x->config.joint && !half_survives(&x->config, true, without)))) {
            return false;
        }
    }
    return true;
}

bool disks__can_serve(uint64_t shard_id)
{
    for (size_t i = 0; i < held_count; i++) {
        const struct raft_config *c = &held[i].config;
        if (held[i].shard_id == shard_id && half_survives(c, false, -1) &&
            (!c->joint || half_survives(c, true, -1))) {
            return true;
        }
    }
    return false;
}

bool disks__has_replica(int n, uint64_t shard_id)
{
    for (size_t i = 0; i < held_count; i++) {
        if (held[i].shard_id == shard_id && held[i].host == n) {
            return true;
        }
    }
    return false;
}

static void lose_shard(uint64_t shard_id)
{
    world__trace("shard %u has lost a quorum of its disks", (unsigned)shard_id);
    (void)map_put(&lost, shard_id, &lost);
    clients__lose_shard(shard_id);
}

bool disks__is_lost(uint64_t shard_id)
{
    return map_get(&lost, shard_id) != NULL;
}

bool disks__any_lost(void)
{
    return any_lost;
}

void disks__note_repaired(uint64_t shard_id)
{
    (void)map_remove(&lost, shard_id);
}

/* Report the shards that lose a quorum of disks with the host's. */
static void note_lost(int n)
{
    for (size_t i = 0; i < held_count; i++) {
        if (held[i].host == n && !disks__survives(held[i].shard_id, n)) {
            lose_shard(held[i].shard_id);
        }
    }
}

void disks__lose(int n)
{
    disks__note();
    note_lost(n);
    any_lost = true;
    host__crash(world__host(n), true);
    disk__put(world__host(n), NULL);
    forget_host(n);
}

bool disks__damage(int n, uint64_t shard_id)
{
    bool survives = true;
    disks__note();
    if (!disks__has_replica(n, shard_id)) {
        return false;
    }
    survives = disks__survives(shard_id, n);
    if (shard_id == 0 && !survives) {
        return false;
    }
    host__crash(world__host(n), false);
    uint64_t id = sim_log__damage(world__host(n)->log, shard_id);
    if (id == 0) {
        return false;
    }
    any_lost = true;
    (void)map_put(&damaged, id, &damaged);
    if (!survives) {
        lose_shard(shard_id);
    }
    return true;
}

bool disks__is_damaged(uint64_t replica_id)
{
    return map_get(&damaged, replica_id) != NULL;
}
