/* Included by every test file here: cmocka, the cluster, and a *solo* node. That is one core whose
 * peers are down: the test makes their messages, and finds its messages in `held`. */
#ifndef SHARDS_RAFT_TEST_RAFT_TEST_H
#define SHARDS_RAFT_TEST_RAFT_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "shards/raft/raft_internal.h"
#include "shards/raft/test/core_cluster.h"

/* Node 1 of `n` voters. Everything it sends is held. */
void solo_init(struct cluster *c, size_t n);
void solo_init_config(struct cluster *c, const struct raft_config *config);
/* Node 1 wins an election by the grants of its peers; `held` is empty afterwards. */
void solo_lead(struct cluster *c);
void solo_campaign(struct cluster *c); /* up to CANDIDATE: only real votes are missing */
struct raft_message msg(enum raft_message_kind kind, uint64_t from, uint64_t term);
/* An append to node 1 of entries with these terms after (index, log_term). */
struct raft_message append_msg(uint64_t from, uint64_t term, uint64_t index, uint64_t log_term,
                               uint64_t commit, const uint64_t *terms, uint32_t count);
enum thole_code give(struct cluster *c, struct raft_message m); /* receive, then settle */
enum thole_code give_ack(struct cluster *c, uint64_t from, uint64_t index);
/* Node 1, which leads with a quorum of itself and node 2, gets a learner that has everything. */
void solo_learn(struct cluster *c, uint64_t id);
/* The last message of this kind to this node that was sent and not forgotten, or NULL. */
const struct raft_message *sent(struct cluster *c, enum raft_message_kind kind, uint64_t to);
size_t sent_count(struct cluster *c, enum raft_message_kind kind);
void forget_sent(struct cluster *c);
struct raft_peer_status peer_of(struct cluster *c, uint64_t leader, uint64_t id);
uint64_t term_of(struct cluster *c, uint64_t id, uint64_t index);
enum verdict hold_all(struct cluster *c, const struct raft_message *m);

/* A configuration that is released at the end of its block. */
#define AUTO_CONFIG __attribute__((cleanup(raft_config_deinit))) struct raft_config

#define TEST(name) static void test_##name(void **state)
#define RUN(name) cmocka_unit_test(test_##name)

#endif
