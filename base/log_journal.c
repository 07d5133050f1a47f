/* Log lines with fields, for systemd's journal. One line is one datagram; like stderr, the journal
 * is never waited for. */
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log_internal.h"

static atomic_int journal_fd = -1;

bool log_stderr_is_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM"); /* "DEVICE:INODE" */
    uintmax_t device = 0, inode = 0;
    struct stat st;
    return stream != NULL && sscanf(stream, "%" SCNuMAX ":%" SCNuMAX, &device, &inode) == 2 &&
           fstat(STDERR_FILENO, &st) == 0 && st.st_dev == device && st.st_ino == inode;
}

bool log_to_journal(const char *socket_path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(socket_path) >= sizeof address.sun_path) {
        return false;
    }
    memcpy(address.sun_path, socket_path, strlen(socket_path) + 1);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof address) != 0) {
        close(fd);
        fd = -1;
    }
    int before = atomic_exchange(&journal_fd, fd);
    if (before >= 0) {
        close(before);
    }
    return fd >= 0;
}

bool log__journal_send(const struct log_line *line)
{
    int fd = atomic_load(&journal_fd);
    if (fd < 0) {
        return false;
    }
    struct bytes out = {0};
    log__render_journal(&out, line);
    ssize_t n;
    do {
        n = send(fd, out.data, out.size, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    bytes_deinit(&out);
    return n >= 0;
}
