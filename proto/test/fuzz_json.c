/* Any text as JSON of a message: refused, or bytes that decode (unless a string is not UTF-8),
 * whose JSON reads back as itself. The first byte chooses the message and whether unknown fields
 * count. */
#include <string.h>
#include <upb/def.h>

#include "base/assert.h"
#include "proto/decode.h"
#include "proto/json.h"

static const char *const paths[] = {
    "/etcdserverpb.KV/Txn",         "/etcdserverpb.Watch/Watch",   "/etcdserverpb.KV/Put",
    "/thole.v1.Shards/UpdateShard", "/thole.v1.Roles/UpdateRole",  "/thole.v1.Hosts/UpdateHost",
    "/thole.v1.Pools/CreatePool",   "/thole.v1.Events/ListEvents", "/thole.v1.Data/Propose",
    "/etcdserverpb.Auth/UserAdd",   "/v3lockpb.Lock/Lock",
};
#define PATHS (sizeof paths / sizeof paths[0])

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_again(const struct proto_method *m, const struct bytes *first, bool names)
{
    struct bytes wire = {0}, second = {0};
    char why[200];
    struct slice text = bytes_slice(first);
    bool ok = proto_json_read(m->request, &text, false, &wire, why, sizeof why);
    ASSERT(ok && text.size == 0);
    ok = proto_json_write(m->request, bytes_slice(&wire), names, &second);
    ASSERT(ok && first->size == second.size); /* the order in maps may change */
    bytes_deinit(&wire);
    bytes_deinit(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct proto_method m;
    char why[200];
    if (size == 0) {
        return 0;
    }
    bool names = data[0] & 1, lenient = data[0] & 2;
    bool found = proto_method_find(paths[data[0] / 4 % PATHS], &m);
    ASSERT(found);
    struct slice text = slice_of(data + 1, size - 1);
    struct bytes wire = {0}, first = {0};
    if (proto_json_read(m.request, &text, lenient, &wire, why, sizeof why)) {
        ASSERT(text.size < size && wire.size <= 64 * size);
        if (proto_json_write(m.request, bytes_slice(&wire), names, &first)) {
            read_again(&m, &first, names);
        }
    } else {
        ASSERT(why[0] != '\0' && strlen(why) < sizeof why);
    }
    bytes_deinit(&wire);
    bytes_deinit(&first);
    return 0;
}
