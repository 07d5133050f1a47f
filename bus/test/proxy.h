/* A TCP proxy on the loopback that a test can freeze, or cut. */
#ifndef BUS_TEST_PROXY_H
#define BUS_TEST_PROXY_H

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define PROXY_PAIRS_MAX 32

/* Forwards bytes between accepted connections and the port `to`, unless frozen. */
struct proxy {
    pthread_t thread;
    int listener;
    uint16_t to;
    char address[64];
    _Atomic bool frozen, stop;
    int fds[2 * PROXY_PAIRS_MAX + 1];
    nfds_t count;
};
struct proxy *proxy_new(uint16_t to);
void proxy_free(struct proxy *p); /* closes every connection */

#endif
