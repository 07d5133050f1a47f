/* See json.h. */
#include "proto/json.h"

#include <stdio.h>
#include <string.h>
#include <upb/def.h>
#include <upb/encode.h>
#include <upb/json_decode.h>
#include <upb/json_encode.h>
#include <upb/reflection.h>

#include "proto/decode.h"
#include "thole/v1/access.upbdefs.h"
#include "thole/v1/control.upbdefs.h"
#include "thole/v1/data.upbdefs.h"
#include "thole/v1/operations.upbdefs.h"
#include "thole/v1/repair.upbdefs.h"
#include "thole/v1/snapshots.upbdefs.h"

#define NAME_BYTES 128

/* NULL: there is none. */
static const upb_MethodDef *find(upb_DefPool *pool, const char *method)
{
    char service[NAME_BYTES];
    const char *slash = strchr(method, '/');
    if (slash == NULL || slash - method > NAME_BYTES / 2) {
        return NULL;
    }
    /* One message of a file loads the whole file. */
    (void)thole_v1_Role_getmsgdef(pool);
    (void)thole_v1_GetHostRequest_getmsgdef(pool);
    (void)thole_v1_ProposeRequest_getmsgdef(pool);
    (void)thole_v1_GetOperationRequest_getmsgdef(pool);
    (void)thole_v1_PlanRepairRequest_getmsgdef(pool);
    (void)thole_v1_SaveSnapshotRequest_getmsgdef(pool);
    snprintf(service, sizeof service, "thole.v1.%.*s", (int)(slash - method), method);
    const upb_ServiceDef *s = upb_DefPool_FindServiceByName(pool, service);
    return s != NULL ? upb_ServiceDef_FindMethodByName(s, slash + 1) : NULL;
}

enum proto_method proto_method_of(const char *method)
{
    upb_DefPool *pool = upb_DefPool_New();
    const upb_MethodDef *m = find(pool, method);
    enum proto_method kind = m == NULL || upb_MethodDef_ClientStreaming(m) ? PROTO_NO_METHOD
                             : upb_MethodDef_ServerStreaming(m)            ? PROTO_ANSWERS
                                                                           : PROTO_UNARY;
    upb_DefPool_Free(pool);
    return kind;
}

bool proto_json_request(const char *method, struct slice json, struct bytes *ret, char *ret_why,
                        size_t why_size)
{
    upb_DefPool *pool = upb_DefPool_New();
    upb_Arena *arena = upb_Arena_New();
    const upb_MethodDef *m = find(pool, method);
    upb_Status status;
    upb_Status_Clear(&status);
    snprintf(ret_why, why_size, "there is no method %s", method);
    bool ok = m != NULL;
    if (ok) {
        char *bytes = NULL;
        size_t size = 0;
        const upb_MessageDef *def = upb_MethodDef_InputType(m);
        upb_Message *message = upb_Message_New(def, arena);
        ok = upb_JsonDecode((const char *)json.data, json.size, message, def, pool, 0, arena,
                            &status) &&
             upb_Encode(message, upb_MessageDef_MiniTable(def), 0, arena, &bytes, &size) ==
                 kUpb_EncodeStatus_Ok;
        if (ok) {
            bytes_append(ret, bytes, size);
        } else {
            snprintf(ret_why, why_size, "%s", upb_Status_ErrorMessage(&status));
        }
    }
    upb_Arena_Free(arena);
    upb_DefPool_Free(pool);
    return ok;
}

bool proto_json_answer(const char *method, struct slice message, struct bytes *ret)
{
    upb_DefPool *pool = upb_DefPool_New();
    upb_Arena *arena = upb_Arena_New();
    const upb_MethodDef *m = find(pool, method);
    const upb_MessageDef *def = m != NULL ? upb_MethodDef_OutputType(m) : NULL;
    void *decoded = def != NULL
                        ? proto_decode(upb_MessageDef_MiniTable(def), message, false, arena, NULL)
                        : NULL;
    upb_Status status;
    upb_Status_Clear(&status);
    if (decoded != NULL) {
        size_t size = upb_JsonEncode(decoded, def, pool, 0, NULL, 0, &status);
        char *text = (char *)bytes_extend(ret, size + 1); /* ends with a zero byte */
        (void)upb_JsonEncode(decoded, def, pool, 0, text, size + 1, &status);
        ret->size--;
    }
    upb_Arena_Free(arena);
    upb_DefPool_Free(pool);
    return decoded != NULL && upb_Status_IsOk(&status);
}
