/* The machine type of the clients' shards; see register_machine.c. */
#ifndef AGENT_SIM_REGISTER_MACHINE_H
#define AGENT_SIM_REGISTER_MACHINE_H

#include "agent/sim/world.h"

#define REGISTER_TYPE "register"
#define REGISTER_KEYS 4
#define REGISTER_COMMAND_BYTES 16

/* From now on replicas below `first_replica`, except `kept`, may have other states. */
void register_split(uint64_t shard_id, uint64_t kept, uint64_t first_replica);
void register_executed(uint64_t shard_id, uint64_t replica_id, uint64_t count, uint64_t hash);

#endif
