/* Addresses of the other hosts, and the search for hosts that have moved.
 *
 * Addresses come from the registry, the peers file, the hellos of connections, and from peers that
 * relay what they know. The higher incarnation wins, because a host has one address per start. So a
 * row from before a move never overrides a hello, or a peer that received one.
 *
 * While a known host is not connected, a thread asks for its address: the connected peers, the
 * addresses of --peers and --join, and the missing host's last address. Names are resolved again
 * each time. While all hosts are connected the thread sleeps. */
#ifndef AGENT_JOIN_PEER_ADDRESSES_H
#define AGENT_JOIN_PEER_ADDRESSES_H

#include "agent/core/agent_internal.h"
#include "base/address.h"

/* RELAYED: by another host or a file. ROW: by the registry. HELLO: by the host itself. */
enum addresses_source { ADDRESSES_RELAYED, ADDRESSES_ROW, ADDRESSES_HELLO };

struct addresses *join__addresses_new(struct agent *a);
void join__addresses_start(
    struct addresses *as); /* starts its thread, idle until this host is a member */
void join__addresses_stop(struct addresses *as); /* after bus_stop */
void join__addresses_free(struct addresses *as); /* NULL is fine */

/* Any thread. An invalid address is ignored. */
void join__addresses_learn(struct addresses *as, const struct uuid *host, uint64_t incarnation,
                           const char *address, enum addresses_source source);
void join__addresses_forget(struct addresses *as, const struct uuid *host);
void join__addresses_wake(struct addresses *as); /* a host may have disconnected */
void join__addresses_serve(struct addresses *as,
                           struct bus_request *request); /* METHOD_ADDRESSES */

size_t join__addresses_list(struct addresses *as, char (**ret)[ADDRESS_BYTES]); /* malloced */

/* There are other hosts, and none of them is connected. */
bool join__addresses_all_down(struct addresses *as);

/* The peers file. */
bool join__addresses_changed(struct addresses *as); /* since the last save */
THOLE_MUST_CHECK enum thole_code join__addresses_save(struct addresses *as,
                                                      struct thole_status *st);

#endif
