#include "base/test/temp_dir.h"

#include <stdlib.h>

#include "base/assert.h"
#include "base/buf.h"
#include "base/file.h"

char *temp_dir_new(void)
{
    const char *parent = getenv("TMPDIR");
    char *path = xasprintf("%s/thole-test-XXXXXX", parent != NULL ? parent : "/tmp");
    ASSERT(mkdtemp(path) != NULL);
    return path;
}

void temp_dir_free(char *path)
{
    ASSERT(file_remove_tree(path, NULL) == THOLE_OK);
    free(path);
}

char *path_in(const char *dir, const char *name)
{
    return xasprintf("%s/%s", dir, name);
}
