/* Hosts in this process for tests: temporary directories, loopback ports, bounded waits. */
#ifndef AGENT_CORE_TEST_AGENT_FIXTURE_H
#define AGENT_CORE_TEST_AGENT_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>
#include <thole/thole.h>

#include "agent/core/agent_internal.h"

#define FIXTURE_HOSTS_MAX 5

struct fixture {
    char dir[128];
    struct agent *agents[FIXTURE_HOSTS_MAX];
    uint16_t ports[FIXTURE_HOSTS_MAX];
    char peers[512]; /* of all ports */
};

/* Chooses ports for `n` hosts; starts no host. */
struct fixture *fixture_new(int n);
void fixture_free(struct fixture *f); /* stops the running hosts, deletes the directory */
const char *fixture_address(struct fixture *f, int i);
char *fixture_dir(struct fixture *f, int i); /* malloced */

/* Options of host i, to be changed by the test before fixture_start. Strings live as long as
 * `f`. */
struct agent_options fixture_options(struct fixture *f, int i, enum agent_bootstrap how);
enum thole_code fixture_start(struct fixture *f, int i, const struct agent_options *o,
                              struct thole_status *st);
void fixture_start_ok(struct fixture *f, int i, enum agent_bootstrap how);
void fixture_stop(struct fixture *f, int i);
bool fixture_ready(struct fixture *f, int i, uint32_t timeout_ms);
void fixture_wait_ready(struct fixture *f, int i);

/* Send one command or request through host i, and wait for its result. */
enum thole_code fixture_create_shard(struct fixture *f, int i, const char *name, const char *type,
                                     uint32_t voters, struct thole_status *st);
void fixture_wait_shard(struct fixture *f, int i, const char *name, uint32_t replicas);
uint64_t fixture_shard_id(struct fixture *f, int i, const char *name);
enum thole_code fixture_request(struct fixture *f, int i, enum router_kind kind, uint64_t shard_id,
                                const void *payload, size_t size, struct router_request *ret);
void fixture_pause_ms(uint32_t ms);

#endif
