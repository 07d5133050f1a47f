/* Any lines in the files of a data directory, with a valid checksum or without. The result is an
 * error, or content that survives a write and a read. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "agent/core/datadir.h"
#include "agent/core/textfile.h"
#include "base/assert.h"
#include "base/file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[64];

static void remove_dir(void)
{
    struct thole_status st;
    (void)!file_remove_tree(dir, &st);
}

static void peer(void *ctx, const struct uuid *host, uint64_t incarnation, const char *address)
{
    (void)ctx, (void)incarnation;
    ASSERT(!uuid_is_nil(host) && address[0] != '\0');
}

/* "kind 1\n" and the lines, sealed; or any bytes. */
static void put(const char *name, const char *kind, struct slice lines, bool sealed)
{
    char path[128];
    struct thole_status st;
    struct bytes out = {0};
    snprintf(path, sizeof path, "%s/%s", dir, name);
    bytes_append_slice(&out, lines);
    enum thole_code code = sealed ? textfile_write(path, kind, DATADIR_FORMAT, &out, &st)
                                  : file_write_atomic(path, lines, &st);
    bytes_deinit(&out);
    ASSERT(code == THOLE_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const files[][2] = {{"identity", "thole-host"},
                                           {"incarnation", "thole-incarnation"},
                                           {"promise", "thole-promise"},
                                           {"peers", "thole-peers"}};
    if (size == 0) {
        return 0;
    }
    static int stop_fd; /* readable: a start that would have to wait returns at once */
    if (dir[0] == '\0') {
        stop_fd = eventfd(1, EFD_CLOEXEC);
        ASSERT(stop_fd >= 0);
        snprintf(dir, sizeof dir, "%s/thole-fuzz-XXXXXX",
                 access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
        ASSERT(mkdtemp(dir) != NULL);
        atexit(remove_dir);
    }
    struct datadir d = {.path = dir, .lock_fd = -1}, opened;
    static struct identity identity;
    static struct member_list promise;
    struct thole_status st = {0};
    uint64_t incarnation = 0;
    struct lineage lineage;
    size_t which = data[0] % 4;
    struct slice lines = slice_of(data + 1, size - 1);
    put(files[which][0], files[which][1], lines, data[0] < 200);
    if (which == 0 && datadir_open(dir, NULL, &opened, &identity, &st) == THOLE_OK) {
        ASSERT(datadir_save_identity(&opened, &identity, &st) == THOLE_OK);
        datadir_close(&opened);
    }
    if (which == 1) {
        (void)!datadir_next_start(&d, 1000, &stop_fd, &incarnation, &lineage, &st);
    }
    if (which == 2) {
        (void)!datadir_load_promise(&d, &promise, &st);
    }
    if (which == 3) {
        datadir_load_peers(&d, peer, NULL);
    }
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, files[which][0]);
    unlink(path);
    return 0;
}
