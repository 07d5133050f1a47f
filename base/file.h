/* Small durable files and directories: identities, promises, locks, staged snapshots. */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <sys/types.h>
#include <thole/status.h>

#include "base/buf.h"

/* Create the directory and its parents (mode 0700), syncing each parent. */
THOLE_MUST_CHECK enum thole_code file_make_dirs(const char *path, struct thole_status *st);
THOLE_MUST_CHECK enum thole_code file_sync_dir(const char *path, struct thole_status *st);
/* Replace `path` with these bytes, durably: temporary file, sync, rename, directory sync. */
THOLE_MUST_CHECK enum thole_code file_write_atomic(const char *path, struct slice bytes,
                                                   struct thole_status *st);
/* NOT_FOUND if absent; RESOURCE_EXHAUSTED if larger than max_bytes. */
THOLE_MUST_CHECK enum thole_code file_read(const char *path, size_t max_bytes, struct buf **ret,
                                           struct thole_status *st);
/* Take an exclusive lock; `*ret_fd` is closed to release it. FAILED_PRECONDITION/LOCKED if another
 * process holds it; the file holds the owner's pid, which the message names. */
THOLE_MUST_CHECK enum thole_code file_lock(const char *path, int *ret_fd, struct thole_status *st);
/* Keep others from taking the exclusive lock, without changing anything. NOT_FOUND if there is no
 * such file; FAILED_PRECONDITION/LOCKED as above. */
THOLE_MUST_CHECK enum thole_code file_lock_shared(const char *path, int *ret_fd,
                                                  struct thole_status *st);
/* Durable; OK if `path` does not exist. A symbolic link is removed, not followed. */
THOLE_MUST_CHECK enum thole_code file_remove_tree(const char *path, struct thole_status *st);
/* Free and total bytes of the file system that holds `path`. */
THOLE_MUST_CHECK enum thole_code file_space(const char *path, uint64_t *ret_free_bytes,
                                            uint64_t *ret_total_bytes, struct thole_status *st);

/* The permission bits of `path` that give its group or other users access; 0: none, or there is no
 * such file. A symbolic link has those of its target. */
mode_t file_shared_bits(const char *path);

/* Create a file for its owner only, in place of any other of that name. A descriptor, or -1 and
 * errno. */
int file_create(const char *path);
/* open(2); uses a reserved descriptor if there is no other. */
int file_open(const char *path, int flags, mode_t mode);
uint64_t file_descriptors_max(void); /* that the process may have open */

#endif
