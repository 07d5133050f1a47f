#include "bus/test/proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bus/test/fixture.h"

static int socket_to(uint16_t port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    ASSERT(fd >= 0);
    if (port == 0) {
        ASSERT(bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && listen(fd, 16) == 0);
    } else if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) {
        return -1;
    }
    return fd;
}

static void forward(struct proxy *p, nfds_t i)
{
    char bytes[65536];
    nfds_t other = i % 2 ? i + 1 : i - 1; /* pairs begin at 1 */
    ssize_t n = read(p->fds[i], bytes, sizeof bytes);
    for (ssize_t at = 0, m; n > 0 && at < n; at += m) {
        m = send(p->fds[other], bytes + at, (size_t)(n - at), MSG_NOSIGNAL);
        if (m <= 0) {
            n = 0;
        }
    }
    if (n > 0) {
        return;
    }
    for (nfds_t k = i < other ? i : other, end = k + 2; k < end; k++) {
        close(p->fds[k]);
        p->fds[k] = -1;
    }
}

static void *proxy_main(void *arg)
{
    struct proxy *p = arg;
    while (!atomic_load(&p->stop)) {
        struct pollfd polls[2 * PROXY_PAIRS_MAX + 1];
        for (nfds_t i = 0; i < p->count; i++) {
            polls[i] = (struct pollfd){.fd = p->fds[i], .events = POLLIN};
        }
        if (atomic_load(&p->frozen) || poll(polls, p->count, 10) <= 0) {
            pause_ms(1);
            continue;
        }
        nfds_t n = p->count;
        if (polls[0].revents && p->count + 2 <= 2 * PROXY_PAIRS_MAX + 1) {
            int in = accept(p->listener, NULL, NULL), out = socket_to(p->to);
            p->fds[p->count++] = in;
            p->fds[p->count++] = out;
        }
        for (nfds_t i = 1; i < n; i++) {
            if (polls[i].revents && p->fds[i] >= 0) {
                forward(p, i);
            }
        }
    }
    for (nfds_t i = 0; i < p->count; i++) {
        if (p->fds[i] >= 0) {
            close(p->fds[i]);
        }
    }
    return NULL;
}

struct proxy *proxy_new(uint16_t to)
{
    struct proxy *p = calloc(1, sizeof *p);
    struct sockaddr_in a = {0};
    socklen_t n = sizeof a;
    p->listener = p->fds[0] = socket_to(0);
    p->count = 1;
    p->to = to;
    ASSERT(getsockname(p->listener, (struct sockaddr *)&a, &n) == 0);
    snprintf(p->address, sizeof p->address, "127.0.0.1:%u", (unsigned)ntohs(a.sin_port));
    ASSERT(pthread_create(&p->thread, NULL, proxy_main, p) == 0);
    return p;
}

void proxy_free(struct proxy *p)
{
    atomic_store(&p->stop, true);
    pthread_join(p->thread, NULL);
    free(p);
}
