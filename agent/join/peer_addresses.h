/* Where the other hosts are, and finding them again when they have moved.
 *
 * What is known comes from the registry, the peers file, the hosts themselves (each connection's
 * hello says where the caller is now), and from peers, who pass on what they know. Of two sources
 * the higher incarnation is right: a host has one address from its start to its end. So a row that
 * was written before a host moved never outranks what the host, or one that met it, says now.
 *
 * While a host that is known is not connected, a thread asks: the peers that are connected, the
 * addresses of --peers and --join, and whoever lives now where that host was last. Names are
 * resolved anew each time. When all are connected nothing is asked. */
#ifndef AGENT_JOIN_PEER_ADDRESSES_H
#define AGENT_JOIN_PEER_ADDRESSES_H

#include "agent/core/agent_internal.h"
#include "base/address.h"

/* ADDRESSES_HELLO: the host said so itself, in a connection. */
enum addresses_source { ADDRESSES_RELAYED, ADDRESSES_ROW, ADDRESSES_HELLO };

struct addresses *join__addresses_new(struct agent *a);
void join__addresses_start(struct addresses *as); /* its thread, idle until this host is a member */
void join__addresses_stop(struct addresses *as);  /* after the bus was stopped */
void join__addresses_free(struct addresses *as);  /* NULL is fine */

/* Any thread. An address that is none is ignored. */
void join__addresses_learn(struct addresses *as, const struct uuid *host, uint64_t incarnation,
                           const char *address, enum addresses_source source);
void join__addresses_forget(struct addresses *as, const struct uuid *host);
void join__addresses_wake(struct addresses *as); /* a host may have been lost */
void join__addresses_serve(struct addresses *as,
                           struct bus_request *request); /* METHOD_ADDRESSES */

size_t join__addresses_list(struct addresses *as, char (**ret)[ADDRESS_BYTES]); /* malloced */

/* The peers file. */
bool join__addresses_changed(struct addresses *as); /* since it was saved */
THOLE_MUST_CHECK enum thole_code join__addresses_save(struct addresses *as,
                                                      struct thole_status *st);

#endif
