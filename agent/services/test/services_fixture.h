/* One host in this process, and a client of its control plane over loopback. */
#ifndef AGENT_SERVICES_TEST_SERVICES_FIXTURE_H
#define AGENT_SERVICES_TEST_SERVICES_FIXTURE_H

#include <thole/status.h>
#include <thole/thole.h>
#include <upb/upb.h>

#include "bus/bus.h"
#include "thole/v1/control.upb.h"
#include "thole/v1/data.upb.h"
#include "thole/v1/resources.upb.h"

struct services_fixture {
    char dir[64];
    struct thole *host;
    struct bus_channel *channel;
    upb_Arena *arena;       /* of requests and replies */
    struct thole_status st; /* of the last call that failed */
};

struct services_fixture *services_fixture_new(void);
void services_fixture_free(struct services_fixture *f);

/* NULL: the call failed, and f->st has the error. */
const void *services_fixture_call(struct services_fixture *f, const char *path, const void *request,
                                  const upb_MiniTable *request_kind,
                                  const upb_MiniTable *reply_kind);
#define CALL(f, service, method, request, reply)                                                \
    ((const thole_v1_##reply *)services_fixture_call(                                           \
        (f), "/thole.v1." #service "/" #method, (request), &thole_v1_##method##Request_msginit, \
        &thole_v1_##reply##_msginit))
#define NEW(f, type) thole_v1_##type##_new((f)->arena)

const thole_v1_Shard *services_fixture_create(struct services_fixture *f, const char *name,
                                              const char *type);
void services_fixture_wait_ready(struct services_fixture *f, const char *name);
upb_StringView sv(const char *text);
/* Did the last call fail with this error? */
void assert_failed(struct services_fixture *f, const void *reply, enum thole_code code,
                   enum thole_reason reason);

#endif
