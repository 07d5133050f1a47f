/* Any bytes as the daemon's configuration file: an error that says so, or options. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "agent/tholed/daemon_options.h"
#include "base/assert.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char path[64];

static void remove_file(void)
{
    unlink(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (path[0] == '\0') {
        snprintf(path, sizeof path, "%s/thole-fuzz-XXXXXX",
                 access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
        int fd = mkstemp(path);
        ASSERT(fd >= 0);
        close(fd);
        atexit(remove_file);
    }
    FILE *f = fopen(path, "w");
    ASSERT(f != NULL && fwrite(data, 1, size, f) == size && fclose(f) == 0);
    char program[] = "tholed", flag[] = "--config";
    char *argv[] = {program, flag, path, NULL};
    struct daemon_options o = {0};
    struct thole_status st = {0};
    enum thole_code code = options_read(3, argv, &o, &st);
    ASSERT(code == THOLE_OK || st.message[0] != '\0');
    options_deinit(&o);
    return 0;
}
