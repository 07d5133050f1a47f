/* See json.h. */
#include "proto/json.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <upb/def.h>
#include <upb/json_encode.h>

#include "etcd/election.upbdefs.h"
#include "etcd/lock.upbdefs.h"
#include "etcd/rpc.upbdefs.h"
#include "google/rpc/error_details.upbdefs.h"
#include "google/rpc/status.upbdefs.h"
#include "proto/decode.h"
#include "thole/v1/access.upbdefs.h"
#include "thole/v1/control.upbdefs.h"
#include "thole/v1/data.upbdefs.h"
#include "thole/v1/diagnostics.upbdefs.h"
#include "thole/v1/operations.upbdefs.h"
#include "thole/v1/repair.upbdefs.h"
#include "thole/v1/snapshots.upbdefs.h"

#define NAME_BYTES 128

/* The definitions of all public services. Never changed once they are loaded, and never freed. */
static upb_DefPool *definitions;
static const upb_MessageDef *status_def;
static pthread_once_t loaded = PTHREAD_ONCE_INIT;

static void load(void)
{
    definitions = upb_DefPool_New();
    /* One message of a file loads the whole file. */
    (void)thole_v1_Role_getmsgdef(definitions);
    (void)thole_v1_GetHostRequest_getmsgdef(definitions);
    (void)thole_v1_ProposeRequest_getmsgdef(definitions);
    (void)thole_v1_GetOperationRequest_getmsgdef(definitions);
    (void)thole_v1_GetLogLevelsRequest_getmsgdef(definitions);
    (void)thole_v1_PlanRepairRequest_getmsgdef(definitions);
    (void)thole_v1_SaveSnapshotRequest_getmsgdef(definitions);
    (void)etcdserverpb_PutRequest_getmsgdef(definitions);
    (void)v3lockpb_LockRequest_getmsgdef(definitions);
    (void)v3electionpb_CampaignRequest_getmsgdef(definitions);
    (void)google_rpc_ErrorInfo_getmsgdef(definitions);
    status_def = google_rpc_Status_getmsgdef(definitions);
}

bool proto_method_find(const char *path, struct proto_method *ret)
{
    char service[NAME_BYTES];
    const char *slash = path[0] == '/' ? strchr(path + 1, '/') : NULL;
    (void)pthread_once(&loaded, load);
    if (slash == NULL || slash - path >= NAME_BYTES) {
        return false;
    }
    snprintf(service, sizeof service, "%.*s", (int)(slash - path - 1), path + 1);
    const upb_ServiceDef *s = upb_DefPool_FindServiceByName(definitions, service);
    const upb_MethodDef *m = s != NULL ? upb_ServiceDef_FindMethodByName(s, slash + 1) : NULL;
    if (m == NULL) {
        return false;
    }
    *ret = (struct proto_method){.request = upb_MethodDef_InputType(m),
                                 .answer = upb_MethodDef_OutputType(m),
                                 .requests = upb_MethodDef_ClientStreaming(m),
                                 .answers = upb_MethodDef_ServerStreaming(m)};
    return true;
}

const struct upb_MessageDef *proto_status_def(void)
{
    (void)pthread_once(&loaded, load);
    return status_def;
}

bool proto_json_write(const upb_MessageDef *def, struct slice message, bool proto_names,
                      struct bytes *ret)
{
    upb_Arena *arena = upb_Arena_New();
    void *decoded = proto_decode(upb_MessageDef_MiniTable(def), message, true, arena, NULL);
    int options = proto_names ? upb_JsonEncode_UseProtoNames : 0;
    upb_Status status;
    upb_Status_Clear(&status);
    if (decoded != NULL) {
        size_t before = ret->size, room = 2 * message.size + 256; /* a guess */
        char *text = (char *)bytes_extend(ret, room);
        size_t size = upb_JsonEncode(decoded, def, definitions, options, text, room, &status);
        ret->size = before;
        if (upb_Status_IsOk(&status) && size >= room) { /* the text ends with a zero byte */
            text = (char *)bytes_extend(ret, size + 1);
            (void)upb_JsonEncode(decoded, def, definitions, options, text, size + 1, &status);
            ret->size = before;
        }
        ret->size += upb_Status_IsOk(&status) ? size : 0;
    }
    upb_Arena_Free(arena);
    return decoded != NULL && upb_Status_IsOk(&status);
}
