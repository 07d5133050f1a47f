/* Options of a host. They are checked together with the defaults before the host opens anything.
 * Also the addresses at which the host listens and is reached. */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/core/agent_internal.h"
#include "agent/core/agent_options.h"
#include "agent/core/tags.h"
#include "base/address.h"
#include "base/log.h"
#include "registry/validate.h"

static bool name_ok(const char *name)
{
    return registry_name_is_valid(slice_str(name));
}

static enum thole_code bad_time(struct thole_status *st, const char *what, uint32_t value,
                                const char *must, uint32_t bound)
{
    return THOLE_FAIL(
        st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
        "%s is %u ms, but must be %s %u ms; each of the two was given or is the default", what,
        (unsigned)value, must, (unsigned)bound);
}

/* Check the given times together with the defaults of the others. */
static enum thole_code check_times(const struct agent_options *o, struct thole_status *st)
{
    uint32_t election =
        o->election_timeout_ms ? o->election_timeout_ms : ENGINE_ELECTION_TIMEOUT_MS;
    uint32_t heartbeat = o->heartbeat_ms ? o->heartbeat_ms : ENGINE_HEARTBEAT_MS;
    uint32_t suspect = o->suspect_after_ms ? o->suspect_after_ms : HOSTCTL_SUSPECT_AFTER_MS;
    uint32_t dead = o->dead_after_ms ? o->dead_after_ms : HOSTCTL_DEAD_AFTER_MS;
    if (heartbeat > election / 3) {
        return bad_time(st, "the interval of heartbeats (heartbeat-ms)", heartbeat,
                        "at most a third of the election timeout (election-timeout-ms) of",
                        election);
    }
    if (dead <= suspect) {
        return bad_time(st, "the grace before a host is dead (dead-after-ms)", dead,
                        "more than the silence before it is suspect (suspect-after-ms), which is",
                        suspect);
    }
    if (o->suspect_after_ms_max && o->suspect_after_ms_max < suspect) {
        return bad_time(st, "the most silence of a live host (suspect-after-ms-max)",
                        o->suspect_after_ms_max, "at least the least (suspect-after-ms), which is",
                        suspect);
    }
    return THOLE_OK;
}

static enum thole_code check_reach(const struct agent_options *o, struct thole_status *st)
{
    bool peers = o->bootstrap == AGENT_BOOTSTRAP_PEERS, join = o->bootstrap == AGENT_BOOTSTRAP_JOIN;
    enum thole_code code = THOLE_OK;
    if (o->listen != NULL) {
        code = address_check("listen", slice_str(o->listen), ADDRESS_LISTEN, st);
    }
    if (code == THOLE_OK && o->listen != NULL && o->tls == NULL) {
        code = agent_check_plain("listen", o->listen, o->insecure, st);
    }
    if (code == THOLE_OK && o->advertise != NULL) {
        code = address_check("advertise", slice_str(o->advertise), ADDRESS_REACH, st);
    }
    if (code != THOLE_OK || !(peers || join)) {
        return code;
    }
    if (o->addresses == NULL || !o->addresses[0]) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "the addresses of other hosts are required");
    }
    return address_check_list(peers ? "peers" : "join", o->addresses, st);
}

enum thole_code agent__options_check(const struct agent_options *o, struct thole_status *st)
{
    if (o->data_dir == NULL || !o->data_dir[0]) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "a data directory is required");
    }
    if (o->name != NULL && !name_ok(o->name)) {
        return THOLE_FAIL(
            st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
            "host name \"%.64s\" is not valid: use lower case letters, digits, dots and "
            "dashes, at most %d",
            o->name, LIMIT_NAME_BYTES);
    }
    enum thole_code code = agent__tags_check(o->tags, o->tag_count, st);
    if (code != THOLE_OK) {
        return code;
    }
    for (size_t i = 0; i < o->type_count && code == THOLE_OK; i++) {
        code = agent_check_machine_type(o->types[i], st);
    }
    if (code != THOLE_OK) {
        return code;
    }
    if (o->type_count > AGENT_TYPES_MAX - 8) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_TOO_LARGE,
                          "more than %d machine types", AGENT_TYPES_MAX - 8);
    }
    code = check_times(o, st);
    return code == THOLE_OK ? check_reach(o, st) : code;
}

enum thole_code agent_check_machine_type(const struct thole_machine_type *type,
                                         struct thole_status *st)
{
    struct registry_violation v;
    if (type == NULL || type->size < offsetof(struct thole_machine_type, view_acquire) ||
        type->name == NULL || type->open == NULL || type->close == NULL || type->apply == NULL ||
        type->query == NULL) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "the machine type lacks its size, its name or a function");
    }
    if (THOLE_HAS(type, read_close) && ((type->read_open != NULL) != (type->read_next != NULL) ||
                                        (type->read_open != NULL) != (type->read_close != NULL) ||
                                        (type->read_open != NULL && type->view_acquire == NULL))) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "the machine type needs all of read_open, read_next, read_close and "
                          "view_acquire, or none of the first three");
    }
    if (!registry_check_machine_type("the name of the machine type", slice_str(type->name), &v)) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, v.reason, "the name of the machine type: %s",
                          v.message);
    }
    if (strcmp(type->name, REGISTRY_MACHINE_TYPE) == 0) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "the machine type \"%s\" is for shard zero alone", REGISTRY_MACHINE_TYPE);
    }
    return THOLE_OK;
}

enum thole_code agent_check_plain(const char *what, const char *address, bool insecure,
                                  struct thole_status *st)
{
    if (insecure || address_is_loopback(address)) {
        return THOLE_OK;
    }
    return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_CERTIFICATE,
                      "%s %.80s is reached from other machines, and without TLS anybody there may "
                      "do anything: give --tls-cert, --tls-key and --tls-ca (see `thole cert "
                      "--help`), or --insecure if that is meant",
                      what, address);
}

bool agent_exposed(const struct agent *a)
{
    return a->tls == NULL && !address_is_loopback(a->listen);
}

#define DAY_S 86400
#define DAYS_WARNED 30

/* The certificate determines the host's name. */
enum thole_code agent__options_open_tls(struct agent *a, struct thole_status *st)
{
    char name[LIMIT_NAME_BYTES + 32];
    if (a->o.tls == NULL) {
        return THOLE_OK;
    }
    enum thole_code code = bus_tls_new(a->o.tls, true, &a->tls, st);
    if (code != THOLE_OK) {
        return code;
    }
    bus_tls_name(a->tls, name, sizeof name);
    if (!name_ok(name)) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_CERTIFICATE,
                          "the certificate names the host \"%.64s\", which is no name of a host",
                          name);
    }
    if (a->o.name != NULL && strcmp(a->o.name, name) != 0) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_CERTIFICATE,
                          "the certificate is that of the host \"%.64s\", and this one shall be "
                          "\"%.64s\"",
                          name, a->o.name);
    }
    int64_t days = (bus_tls_expiry_s(a->tls) - (int64_t)time(NULL)) / DAY_S;
    if (days < DAYS_WARNED) {
        LOG_WARN(AGENT,
                 "the certificate of this host, or its CA's, ends soon days=%" PRId64
                 "; replace the files, no restart is needed",
                 days);
    }
    a->certified_name = xstrdup(name);
    a->o.name = a->certified_name;
    return THOLE_OK;
}

/* ---- Addresses ------------------------------------------------------------------------------- */

/* Returns the only address of --peers that is this machine's and has the listen port, or NULL. */
static char *own_of_peers(struct agent *a)
{
    char *copy = xstrdup(a->bootstrap == AGENT_BOOTSTRAP_PEERS ? a->addresses : "");
    char *save = NULL, *found = NULL;
    size_t n = 0;
    for (char *p = strtok_r(copy, ",", &save); p != NULL; p = strtok_r(NULL, ",", &save)) {
        if (strcmp(address_port(p), address_port(a->listen)) != 0 ||
            address_place(p) != ADDRESS_HERE) {
            continue;
        }
        n++;
        free(found);
        found = xstrdup(p);
    }
    free(copy);
    if (n != 1) {
        free(found);
        return NULL;
    }
    return found;
}

/* A wildcard cannot be advertised, so derive an address of this machine. Do not save it: the
 * machine may have another address at the next start. */
static void default_advertise(struct agent *a)
{
    char host[ADDRESS_BYTES];
    if (a->advertise != NULL || !address_is_wildcard(a->listen)) {
        return;
    }
    a->advertise_derived = true;
    a->advertise = own_of_peers(a);
    if (a->advertise != NULL) {
        return;
    }
    char *first = a->addresses != NULL ? xstrndup(a->addresses, strcspn(a->addresses, ",")) : NULL;
    if (!address_source(first, host, sizeof host) && !address_source(NULL, host, sizeof host)) {
        snprintf(host, sizeof host, "127.0.0.1");
    }
    free(first);
    a->advertise = xasprintf("%s:%s", host, address_port(a->listen));
    LOG_WARN(AGENT,
             "no address to advertise was given; using this machine's address=%s; "
             "give --advertise if other hosts cannot reach it",
             a->advertise);
}

void agent__options_default_listen(struct agent *a)
{
    const struct identity *i = &a->identity;
    if (a->listen == NULL) {
        a->listen = xstrdup(i->listen[0] ? i->listen : "127.0.0.1:7400");
    }
    if (a->advertise == NULL && i->advertise[0]) {
        a->advertise = xstrdup(i->advertise);
    }
    default_advertise(a);
}

enum thole_code agent__options_save_listen(struct agent *a, struct thole_status *st)
{
    struct identity i = a->identity;
    const char *colon = strrchr(a->listen, ':');
    snprintf(i.listen, sizeof i.listen, "%.*s:%u", colon != NULL ? (int)(colon - a->listen) : 0,
             a->listen, bus_port(a->bus));
    snprintf(i.advertise, sizeof i.advertise, "%s",
             a->advertise != NULL && !a->advertise_derived ? a->advertise : "");
    if (strcmp(i.listen, a->identity.listen) == 0 &&
        strcmp(i.advertise, a->identity.advertise) == 0) {
        return THOLE_OK;
    }
    enum thole_code code = datadir_save_identity(&a->dir, &i, st);
    if (code == THOLE_OK) {
        a->identity = i;
    }
    return code;
}
