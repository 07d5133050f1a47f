/* A preloaded shim: host names come from the file $THOLE_TEST_HOSTS instead of /etc/hosts, so a
 * test can move a name. gRPC's resolver (c-ares) reads the file at each look-up. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef FILE *(*open_fn)(const char *path, const char *mode);

static FILE *open_as(const char *symbol, const char *path, const char *mode)
{
    const char *other = getenv("THOLE_TEST_HOSTS");
    open_fn real;
    void *found = dlsym(RTLD_NEXT, symbol);
    memcpy(&real, &found, sizeof real);
    return real(other != NULL && strcmp(path, "/etc/hosts") == 0 ? other : path, mode);
}

/* NOLINTBEGIN(readability-inconsistent-declaration-parameter-name): libc's names are reserved */
FILE *fopen(const char *path, const char *mode)
{
    return open_as("fopen", path, mode);
}

FILE *fopen64(const char *path, const char *mode)
{
    return open_as("fopen64", path, mode);
}
/* NOLINTEND(readability-inconsistent-declaration-parameter-name) */
