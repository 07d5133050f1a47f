/* Addresses of hosts as text: "HOST:PORT", where HOST is an IPv4 address, an IPv6 address in
 * brackets, or a DNS name. Only address_place and address_source resolve names. */
#ifndef BASE_ADDRESS_H
#define BASE_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <thole/status.h>

#include "base/buf.h"

#define ADDRESS_BYTES 272 /* a DNS name of 253 bytes, colon, port, NUL; with room to spare */

/* ADDRESS_LISTEN: HOST may be empty or a wildcard (all interfaces), PORT may be 0 (any). */
enum address_use { ADDRESS_REACH, ADDRESS_LISTEN };

/* INVALID_ARGUMENT with a message that begins with `what` (an option, a field). */
THOLE_MUST_CHECK enum thole_code address_check(const char *what, struct slice address,
                                               enum address_use use, struct thole_status *st);
/* The same for each address of a list that is separated by commas, for ADDRESS_REACH. */
THOLE_MUST_CHECK enum thole_code address_check_list(const char *what, const char *addresses,
                                                    struct thole_status *st);
bool address_valid(struct slice address, enum address_use use);

/* The parts of "HOST:PORT", which need not be valid. False: there is no port, or too much text. */
struct address_parts {
    char host[ADDRESS_BYTES]; /* without brackets */
    char port[8];
    bool bracket;
};
bool address_split(struct slice address, struct address_parts *ret);

/* For valid addresses. */
bool address_is_wildcard(const char *address); /* all interfaces */
bool address_is_loopback(const char *address); /* 127.x.y.z, [::1], localhost */
/* Does an address belong to this machine (loopback does)? Resolves a name, which may take
 * seconds. */
enum address_place { ADDRESS_UNRESOLVED, ADDRESS_HERE, ADDRESS_ELSEWHERE };
enum address_place address_place(const char *address);
const char *address_port(const char *address); /* within it */
/* The IP address, with brackets if needed, from which this machine sends packets to `address`
 * (NULL: to the default route). False if there is no route. */
bool address_source(const char *address, char *ret, size_t size);

/* Split "HOST:PORT,HOST:PORT" (spaces are skipped) into at most `max` addresses, which point into
 * *ret_copy (malloced). Checks only that each has a host and a port. INVALID_ARGUMENT. */
THOLE_MUST_CHECK enum thole_code address_list_split(const char *list, char **ret_copy,
                                                    const char **ret, size_t max, size_t *ret_count,
                                                    struct thole_status *st);

#endif
