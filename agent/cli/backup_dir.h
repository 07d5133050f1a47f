/* The folder of `thole backup`: its lock, its manifests, its files. */
#ifndef AGENT_CLI_BACKUP_DIR_H
#define AGENT_CLI_BACKUP_DIR_H

#include "agent/cli/cli.h"
#include "agent/snapshots/backup.h"

struct backup_dir {
    const char *path;
    int lock_fd; /* -1: not locked */
    upb_Arena *arena;
    const thole_v1_Backup **all; /* ascending */
    size_t count;
    size_t unreadable; /* manifests that are damaged, or of another format */
    uint64_t newest;   /* highest number of any manifest; 0: none */
};

enum backup_dir_use { BACKUP_DIR_READ, BACKUP_DIR_WRITE };

/* Reads all manifests. For WRITE the folder is created if needed, and locked: FAILED_PRECONDITION
 * LOCKED if another backup runs. For READ it must exist. Names unreadable manifests on stderr. */
enum thole_code backup_dir_open(const char *path, enum backup_dir_use use, struct backup_dir *ret,
                                struct thole_status *st);
void backup_dir_close(struct backup_dir *d);

/* Malloced: the path of a file in the folder. */
char *backup_dir_path(const struct backup_dir *d, const char *name);
char *backup_dir_file(const struct backup_dir *d, const thole_v1_BackupFile *f);
/* Is the file there, with its size? */
bool backup_dir_has(const struct backup_dir *d, const thole_v1_BackupFile *f);
bool backup_dir_has_all(const struct backup_dir *d, const thole_v1_Backup *b);
/* Reads the file: is it the one of the manifest? NOT_FOUND; DATA_LOSS CORRUPT. */
enum thole_code backup_dir_check(const struct backup_dir *d, const thole_v1_BackupFile *f,
                                 upb_StringView cluster, struct thole_status *st);
/* The backup of --number, else the newest. NOT_FOUND: there is none. */
enum thole_code backup_dir_choose(const struct backup_dir *d, const struct cli *c,
                                  const thole_v1_Backup **ret, struct thole_status *st);

/* Writes the manifest; the backup exists then. */
enum thole_code backup_dir_add(struct backup_dir *d, const thole_v1_Backup *b,
                               struct thole_status *st);
/* Removes backups beyond the newest `keep` complete ones (0: none), then files that no manifest
 * names. With an unreadable manifest nothing is removed. `ret_removed`: how many backups. */
enum thole_code backup_dir_retain(struct backup_dir *d, size_t keep, size_t *ret_removed,
                                  struct thole_status *st);

#endif
