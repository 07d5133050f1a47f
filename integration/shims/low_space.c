/* A preloaded shim that makes a disk seem full: a path below X has 16 MiB of free space while a
 * file "X.low" exists. Writes still succeed; only the answer about free space changes. */
// libc's parameter names are not ours.
// NOLINTBEGIN(readability-inconsistent-declaration-parameter-name)
#include <dlfcn.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define FREE_BYTES (16UL << 20)

static bool is_low(const char *path)
{
    char mark[PATH_MAX + 8];
    for (size_t size = strlen(path); size > 1 && size < PATH_MAX; size--) {
        if (path[size] != '\0' && path[size] != '/') {
            continue;
        }
        snprintf(mark, sizeof mark, "%.*s.low", (int)size, path);
        if (access(mark, F_OK) == 0) {
            return true;
        }
    }
    return false;
}

int statvfs(const char *path, struct statvfs *ret)
{
    int (*real)(const char *, struct statvfs *) = NULL;
    *(void **)&real = dlsym(RTLD_NEXT, "statvfs");
    int failed = real(path, ret);
    if (failed == 0 && is_low(path)) {
        ret->f_bavail = FREE_BYTES / ret->f_frsize;
    }
    return failed;
}
// NOLINTEND(readability-inconsistent-declaration-parameter-name)
