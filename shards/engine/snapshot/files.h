/* Snapshot files through a vtable, so that the harness can keep them in memory. Names are flat (no
 * directories). The real implementation uses one directory of the file system.
 *
 * A file is written once, from its start. It gets its final name only when it is complete and
 * durable: commit syncs it, renames it and syncs the directory. After a crash, a file that was not
 * committed is garbage. A file that is not needed after a crash may be created as not durable:
 * commit only renames it, and a crash leaves it whole, cut, damaged or absent. One thread at a time
 * uses a file. */
#ifndef SHARDS_ENGINE_SNAPSHOT_FILES_H
#define SHARDS_ENGINE_SNAPSHOT_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <thole/status.h>

#include "base/buf.h"

struct engine_file;
struct engine_files;

struct engine_files_ops {
    void (*free)(struct engine_files *f);
    /* An empty file for writing; replaces one of that name. UNAVAILABLE DISK. */
    enum thole_code (*create)(struct engine_files *f, const char *name, bool durable,
                              struct engine_file **ret, struct thole_status *st);
    enum thole_code (*append)(struct engine_file *file, const void *data, size_t size,
                              struct thole_status *st);
    /* It becomes `final_name`, durably if it was created so. The file is closed, and removed on
     * failure. */
    enum thole_code (*commit)(struct engine_file *file, const char *final_name,
                              struct thole_status *st);
    /* Close and remove a file that was created and not committed. */
    void (*discard)(struct engine_file *file);
    /* Open a committed file for reading. It stays readable after `remove`. NOT_FOUND. */
    enum thole_code (*open)(struct engine_files *f, const char *name, struct engine_file **ret,
                            uint64_t *ret_size, struct thole_status *st);
    /* Exactly `size` bytes at `offset`, or DATA_LOSS CORRUPT. */
    enum thole_code (*read)(struct engine_file *file, uint64_t offset, void *data, size_t size,
                            struct thole_status *st);
    void (*close)(struct engine_file *file);
    void (*remove)(struct engine_files *f, const char *name); /* fine if absent */
    void (*list)(struct engine_files *f, void (*each)(void *ctx, const char *name), void *ctx);
    enum thole_code (*space)(struct engine_files *f, uint64_t *ret_free_bytes,
                             struct thole_status *st);
};

struct engine_files {
    const struct engine_files_ops *ops;
};

/* Below `directory`, which is created. */
THOLE_MUST_CHECK enum thole_code engine_files_disk_new(const char *directory,
                                                       struct engine_files **ret,
                                                       struct thole_status *st);
/* In memory, for harnesses: survives the engine, like a disk. Thread-safe. */
struct engine_files *engine_files_memory_new(void);
void engine_files_memory_set_free_bytes(struct engine_files *f, uint64_t free_bytes);

#endif
