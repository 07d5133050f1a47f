/* Commands of machines that this program knows, decoded from the log. */
#include <string.h>
#include <upb/array.h>

#include "agent/cli/cmd_inspect.h"
#include "etcd/rpc.upb.h"
#include "proto/decode.h"
#include "proto/json.h"
#include "thole/kv/v1/kv.upb.h"
#include "thole/kv/v1/kv.upbdefs.h"
#include "thole/registry/v1/registry.upb.h"
#include "thole/registry/v1/registry.upbdefs.h"

#define KV_PROTO_BYTE 0x00 /* as proto/thole/kv/v1/kv.proto says */

/* Hashes of tokens, passwords, signing keys; configurations of machines are their users', and may
 * hold secrets. */
static bool is_secret(const upb_MessageDef *def, const upb_FieldDef *f)
{
    static const char *const names[] = {"hash", "config", "token", "password", "hashedPassword"};
    const char *name = upb_FieldDef_Name(f);
    bool named = false;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        named = named || strcmp(name, names[i]) == 0;
    }
    named = named || (strcmp(upb_MessageDef_FullName(def), "thole.kv.v1.AuthEnable") == 0 &&
                      strcmp(name, "key") == 0);
    upb_CType type = upb_FieldDef_CType(f);
    return named && !upb_FieldDef_IsRepeated(f) &&
           (type == kUpb_CType_Bytes || type == kUpb_CType_String);
}

static void hide_secrets(upb_Message *m, const upb_MessageDef *def, upb_Arena *arena)
{
    const upb_FieldDef *f;
    upb_MessageValue v;
    size_t it = (size_t)kUpb_Message_Begin;
    while (upb_Message_Next(m, def, NULL, &f, &v, &it)) {
        if (is_secret(def, f) && upb_FieldDef_CType(f) == kUpb_CType_String) {
            upb_Message_Set(
                m, f, (upb_MessageValue){.str_val = upb_StringView_FromString("hidden")}, arena);
        } else if (is_secret(def, f)) {
            upb_Message_ClearField(m, f); /* bytes: text would look like base64 of something */
        }
        if (upb_FieldDef_CType(f) != kUpb_CType_Message || upb_FieldDef_IsMap(f)) {
            continue;
        }
        const upb_MessageDef *sub = upb_FieldDef_MessageSubDef(f);
        size_t n = upb_FieldDef_IsRepeated(f) ? upb_Array_Size(v.array_val) : 1;
        for (size_t i = 0; i < n; i++) {
            const upb_Message *one =
                upb_FieldDef_IsRepeated(f) ? upb_Array_Get(v.array_val, i).msg_val : v.msg_val;
            hide_secrets((upb_Message *)(uintptr_t)one, sub, arena);
        }
    }
}

static thole_kv_v1_Command *decode_kv(const char *machine_type, struct slice payload,
                                      upb_Arena *arena)
{
    if (strcmp(machine_type, KV_MACHINE_TYPE) != 0 || payload.size == 0 ||
        payload.data[0] != KV_PROTO_BYTE) {
        return NULL;
    }
    return PROTO_DECODE(thole_kv_v1_Command, slice_of(payload.data + 1, payload.size - 1), arena);
}

bool inspect_kv_text(const char *machine_type, struct slice payload, struct bytes *out)
{
    upb_Arena *arena = upb_Arena_New();
    const thole_kv_v1_Command *m = decode_kv(machine_type, payload, arena);
    bool done =
        m != NULL && (thole_kv_v1_Command_has_put(m) || thole_kv_v1_Command_has_delete_range(m));
    if (done && thole_kv_v1_Command_has_put(m)) {
        const etcdserverpb_PutRequest *put = thole_kv_v1_Command_put(m);
        bytes_printf(out, "put %.*s, %zu bytes", CLI_SV(etcdserverpb_PutRequest_key(put)),
                     etcdserverpb_PutRequest_value(put).size);
    } else if (done) {
        const etcdserverpb_DeleteRangeRequest *range = thole_kv_v1_Command_delete_range(m);
        upb_StringView end = etcdserverpb_DeleteRangeRequest_range_end(range);
        bytes_printf(out, "delete %.*s%s%.*s", CLI_SV(etcdserverpb_DeleteRangeRequest_key(range)),
                     end.size > 0 ? " to before " : "", CLI_SV(end));
    }
    upb_Arena_Free(arena);
    return done;
}

bool inspect_command_json(struct cli *c, const char *machine_type, struct slice payload,
                          struct bytes *out)
{
    upb_Arena *arena = upb_Arena_New();
    const upb_MessageDef *def = NULL;
    size_t size = 0;
    char *bytes = NULL;
    if (strcmp(machine_type, "registry") == 0) {
        thole_registry_v1_Command *m = PROTO_DECODE(thole_registry_v1_Command, payload, arena);
        def = thole_registry_v1_Command_getmsgdef(c->pool);
        if (m != NULL) {
            hide_secrets((upb_Message *)m, def, arena);
            bytes = thole_registry_v1_Command_serialize(m, arena, &size);
        }
    } else {
        thole_kv_v1_Command *m = decode_kv(machine_type, payload, arena);
        def = thole_kv_v1_Command_getmsgdef(c->pool);
        if (m != NULL) {
            hide_secrets((upb_Message *)m, def, arena);
            bytes = thole_kv_v1_Command_serialize(m, arena, &size);
        }
    }
    bool done = bytes != NULL && proto_json_write(def, slice_of(bytes, size), false, out);
    upb_Arena_Free(arena);
    return done;
}
