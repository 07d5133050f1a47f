/* Addresses of hosts as text. See address.h. */
#include "base/address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define NAME_BYTES_MAX 253
#define LABEL_BYTES_MAX 63
/* An address of the documentation range: routed by the default route; nothing is sent to it. */
#define ANYWHERE "192.0.2.1:9"

bool address_split(struct slice address, struct address_parts *ret)
{
    const char *text = (const char *)address.data;
    size_t colon = address.size;
    while (colon > 0 && text[colon - 1] != ':') {
        colon--;
    }
    if (colon == 0 || address.size >= ADDRESS_BYTES || memchr(text, '\0', address.size) != NULL) {
        return false;
    }
    size_t host = colon - 1, port = address.size - colon;
    if (port == 0 || port >= sizeof ret->port) {
        return false;
    }
    ret->bracket = host >= 2 && text[0] == '[' && text[host - 1] == ']';
    snprintf(ret->host, sizeof ret->host, "%.*s", (int)(ret->bracket ? host - 2 : host),
             text + ret->bracket);
    snprintf(ret->port, sizeof ret->port, "%.*s", (int)port, text + colon);
    return true;
}

static bool port_valid(const char *port, bool any)
{
    unsigned number = 0;
    if (strspn(port, "0123456789") != strlen(port) || strlen(port) > 5) {
        return false;
    }
    for (const char *p = port; *p; p++) {
        number = number * 10 + (unsigned)(*p - '0');
    }
    return number <= UINT16_MAX && (number > 0 || any);
}

static bool name_valid(const char *name)
{
    size_t size = strlen(name), label = 0;
    bool digits = true; /* the last label has only digits: then it is a malformed IPv4 address */
    if (size == 0 || size > NAME_BYTES_MAX) {
        return false;
    }
    for (size_t i = 0; i < size; i++) {
        char c = name[i];
        bool digit = c >= '0' && c <= '9';
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
        if (c == '.') {
            if (label == 0 || name[i - 1] == '-') {
                return false;
            }
            if (i + 1 < size) { /* a dot at the end is the root domain */
                label = 0;
                digits = true;
            }
            continue;
        }
        if ((!digit && !letter && c != '-') || (c == '-' && label == 0) ||
            ++label > LABEL_BYTES_MAX) {
            return false;
        }
        digits = digits && digit;
    }
    return !digits && name[size - 1] != '-';
}

static bool is_ip(const struct address_parts *p, struct in_addr *v4, struct in6_addr *v6)
{
    return p->bracket ? inet_pton(AF_INET6, p->host, v6) == 1
                      : inet_pton(AF_INET, p->host, v4) == 1;
}

static bool wildcard(const struct address_parts *p)
{
    struct in_addr v4 = {.s_addr = 1};
    struct in6_addr v6 = in6addr_loopback;
    if (p->host[0] == 0 && !p->bracket) {
        return true;
    }
    return is_ip(p, &v4, &v6) && (p->bracket ? memcmp(&v6, &in6addr_any, sizeof v6) == 0
                                             : v4.s_addr == htonl(INADDR_ANY));
}

bool address_valid(struct slice address, enum address_use use)
{
    struct address_parts p;
    struct in_addr v4;
    struct in6_addr v6;
    bool listen = use == ADDRESS_LISTEN;
    if (!address_split(address, &p) || !port_valid(p.port, listen)) {
        return false;
    }
    if (wildcard(&p)) {
        return listen;
    }
    return is_ip(&p, &v4, &v6) || (!p.bracket && name_valid(p.host));
}

enum thole_code address_check(const char *what, struct slice address, enum address_use use,
                              struct thole_status *st)
{
    char shown[72];
    size_t n = address.size < sizeof shown - 1 ? address.size : sizeof shown - 1;
    if (address_valid(address, use)) {
        return THOLE_OK;
    }
    for (size_t i = 0; i < n; i++) {
        shown[i] = (char)(address.data[i] >= ' ' && address.data[i] < 127 ? address.data[i] : '?');
    }
    shown[n] = 0;
    return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                      use == ADDRESS_LISTEN
                          ? "%s \"%s\": must be HOST:PORT or :PORT, where HOST is a name, an IPv4 "
                            "address or an IPv6 address in brackets, and PORT 0 (any) to 65535"
                          : "%s \"%s\": must be HOST:PORT where others reach a host: HOST a name, "
                            "an IPv4 address or an IPv6 address in brackets, PORT 1 to 65535",
                      what, shown);
}

enum thole_code address_check_list(const char *what, const char *addresses, struct thole_status *st)
{
    enum thole_code code = THOLE_OK;
    for (const char *p = addresses; p != NULL && code == THOLE_OK;) {
        const char *comma = strchr(p, ',');
        size_t n = comma != NULL ? (size_t)(comma - p) : strlen(p);
        code = address_check(what, slice_of(p, n), ADDRESS_REACH, st);
        p = comma != NULL ? comma + 1 : NULL;
    }
    return code;
}

bool address_is_wildcard(const char *address)
{
    struct address_parts p;
    return address_split(slice_str(address), &p) && wildcard(&p);
}

bool address_is_loopback(const char *address)
{
    struct address_parts p;
    struct in_addr v4 = {0};
    struct in6_addr v6 = in6addr_any;
    if (!address_split(slice_str(address), &p)) {
        return false;
    }
    if (is_ip(&p, &v4, &v6)) {
        return p.bracket ? memcmp(&v6, &in6addr_loopback, sizeof v6) == 0
                         : ntohl(v4.s_addr) >> 24 == 127;
    }
    return strcasecmp(p.host, "localhost") == 0;
}

/* Datagram sockets send nothing when bound or connected. */
static struct addrinfo *resolve(const char *address)
{
    struct address_parts p;
    struct addrinfo *all = NULL;
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_DGRAM};
    if (!address_split(slice_str(address), &p) || getaddrinfo(p.host, p.port, &hints, &all) != 0) {
        return NULL;
    }
    return all;
}

static void set_port(struct sockaddr_storage *a, uint16_t port)
{
    if (a->ss_family == AF_INET) {
        ((struct sockaddr_in *)(void *)a)->sin_port = htons(port);
    } else {
        ((struct sockaddr_in6 *)(void *)a)->sin6_port = htons(port);
    }
}

const char *address_port(const char *address)
{
    const char *colon = strrchr(address, ':');
    return colon != NULL ? colon + 1 : address + strlen(address);
}

enum address_place address_place(const char *address)
{
    bool here = address_is_loopback(address);
    struct addrinfo *all = here ? NULL : resolve(address);
    enum address_place other = all != NULL ? ADDRESS_ELSEWHERE : ADDRESS_UNRESOLVED;
    for (struct addrinfo *a = all; a != NULL && !here; a = a->ai_next) {
        struct sockaddr_storage any = {0};
        int fd = socket(a->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (fd < 0) {
            continue;
        }
        memcpy(&any, a->ai_addr, a->ai_addrlen);
        set_port(&any, 0);
        here = bind(fd, (struct sockaddr *)&any, a->ai_addrlen) == 0;
        close(fd);
    }
    if (all != NULL) {
        freeaddrinfo(all);
    }
    return here ? ADDRESS_HERE : other;
}

bool address_source(const char *address, char *ret, size_t size)
{
    bool found = false;
    struct addrinfo *all = resolve(address != NULL ? address : ANYWHERE);
    for (struct addrinfo *a = all; a != NULL && !found; a = a->ai_next) {
        struct sockaddr_storage own = {0};
        socklen_t own_size = sizeof own;
        char host[INET6_ADDRSTRLEN + 2];
        int fd = socket(a->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (fd < 0) {
            continue;
        }
        found = connect(fd, a->ai_addr, a->ai_addrlen) == 0 &&
                getsockname(fd, (struct sockaddr *)&own, &own_size) == 0 &&
                getnameinfo((struct sockaddr *)&own, own_size, host, sizeof host, NULL, 0,
                            NI_NUMERICHOST) == 0;
        close(fd);
        if (found) {
            found =
                snprintf(ret, size, own.ss_family == AF_INET6 ? "[%s]" : "%s", host) < (int)size;
        }
    }
    if (all != NULL) {
        freeaddrinfo(all);
    }
    return found;
}

enum thole_code address_list_split(const char *list, char **ret_copy, const char **ret, size_t max,
                                   size_t *ret_count, struct thole_status *st)
{
    char *copy = xstrdup(list), *save = NULL;
    size_t n = 0;
    for (char *p = strtok_r(copy, ", ", &save); p != NULL; p = strtok_r(NULL, ", ", &save)) {
        const char *colon = strrchr(p, ':');
        if (n == max || colon == NULL || colon == p || !colon[1] || strlen(p) >= ADDRESS_BYTES) {
            enum thole_code code = THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                                              n == max ? "too many addresses, from \"%.64s\" on"
                                                       : "\"%.64s\" is not HOST:PORT",
                                              p);
            free(copy);
            return code;
        }
        ret[n++] = p;
    }
    if (n == 0) {
        free(copy);
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "no address in \"%.64s\"", list);
    }
    *ret_copy = copy;
    *ret_count = n;
    return THOLE_OK;
}
