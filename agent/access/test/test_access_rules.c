/* Every method of every service has a rule, and every rule has a method: walks the descriptors that
 * reflection serves, and those of the bus. */
#include <google/protobuf/descriptor.upb.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "agent/access/access.h"
#include "proto/decode.h"
#include "thole/bus/v1/agent.upb.h"
#include "thole/bus/v1/agent.upbdefs.h"
#include "thole_descriptors.h"
#include "upb/def.h"

#define SV(s) (int)(s).size, (s).data

static size_t methods, missing;

/* Methods of etcd that no host serves: they end with UNIMPLEMENTED. */
static bool is_served(const char *path)
{
    static const char *const unserved[] = {"/etcdserverpb.Maintenance/Snapshot",
                                           "/etcdserverpb.Maintenance/MoveLeader",
                                           "/etcdserverpb.Maintenance/Downgrade"};
    for (size_t i = 0; i < sizeof unserved / sizeof unserved[0]; i++) {
        if (strncmp(path, unserved[i], strlen(unserved[i])) == 0) {
            return false;
        }
    }
    return true;
}

static void check_method(upb_StringView package, upb_StringView service, upb_StringView method)
{
    char path[200];
    snprintf(path, sizeof path, "/%.*s.%.*s/%.*s", SV(package), SV(service), SV(method));
    const struct access_rule *rule = access_rule(path);
    if (!is_served(path)) {
        assert_null(rule);
        return;
    }
    methods++;
    if (rule == NULL) {
        print_error("there is no rule for %s\n", path);
        missing++;
        return;
    }
    assert_string_equal(rule->method, path + 1);
    switch (rule->level) {
    case ACCESS_OBJECT:
        assert_in_range(rule->verb, thole_v1_ROLE_VERB_READ, thole_v1_ROLE_VERB_OPERATE);
        assert_in_range(rule->kind, thole_v1_ROLE_KIND_HOSTS, thole_v1_ROLE_KIND_TOKENS);
        break;
    case ACCESS_DATA:
        assert_in_range(rule->verb, thole_v1_DATA_RIGHT_READ, thole_v1_DATA_RIGHT_ADMIN);
        break;
    case ACCESS_PUBLIC: /* nothing else is for everybody */
        assert_memory_equal(path, "/grpc.health.v1.", 16);
        break;
    case ACCESS_BUS:
        assert_memory_equal(path, "/thole.bus.v1.", 14);
        break;
    case ACCESS_REFLECTION:
    case ACCESS_USERS:
        assert_memory_equal(path, "/grpc.reflection.", 17);
        break;
    case ACCESS_HOSTS:
        break;
    }
}

static void check_file(struct slice bytes)
{
    upb_Arena *arena = upb_Arena_New();
    const google_protobuf_FileDescriptorProto *file =
        PROTO_DECODE(google_protobuf_FileDescriptorProto, bytes, arena);
    assert_non_null(file);
    size_t n = 0;
    const google_protobuf_ServiceDescriptorProto *const *services =
        google_protobuf_FileDescriptorProto_service(file, &n);
    for (size_t i = 0; i < n; i++) {
        size_t count = 0;
        const google_protobuf_MethodDescriptorProto *const *all =
            google_protobuf_ServiceDescriptorProto_method(services[i], &count);
        for (size_t k = 0; k < count; k++) {
            check_method(google_protobuf_FileDescriptorProto_package(file),
                         google_protobuf_ServiceDescriptorProto_name(services[i]),
                         google_protobuf_MethodDescriptorProto_name(all[k]));
        }
    }
    upb_Arena_Free(arena);
}

static void test_access_every_method_has_a_rule(void **state)
{
    (void)state;
    struct slice rest = {thole_descriptor_set, thole_descriptor_set_size};
    uint64_t tag, size;
    struct slice bytes = {0};
    while (rest.size > 0) {
        assert_true(slice_take_varint(&rest, &tag) && slice_take_varint(&rest, &size) &&
                    slice_take(&rest, size, &bytes));
        check_file(bytes);
    }
    assert_int_equal(missing, 0);
    assert_int_equal(methods, access_rule_count());
}

static void test_access_unknown_methods_have_no_rule(void **state)
{
    (void)state;
    assert_null(access_rule("/thole.v1.Hosts/GiveEverything"));
    assert_null(access_rule("thole.v1.Hosts/GetHost"));
    assert_null(access_rule(""));
    assert_null(access_rule("/"));
}

/* Requests by Exchange and Ask: every value of the enumeration. */
static void test_access_every_request_has_a_rule(void **state)
{
    (void)state;
    upb_DefPool *pool = upb_DefPool_New();
    /* Loads the file, too. */
    assert_non_null(thole_bus_v1_Forward_getmsgdef(pool));
    const upb_EnumDef *def = upb_DefPool_FindEnumByName(pool, "thole.bus.v1.Method");
    assert_non_null(def);
    for (int i = 0; i < upb_EnumDef_ValueCount(def); i++) {
        int32_t method = upb_EnumValueDef_Number(upb_EnumDef_Value(def, i));
        const struct access_rule *rule = access_request_rule((uint32_t)method);
        if ((rule == NULL) != (method == thole_bus_v1_METHOD_UNSPECIFIED)) {
            fail_msg("method %d", (int)method);
        }
        bool for_clients =
            method == thole_bus_v1_METHOD_PROPOSE || method == thole_bus_v1_METHOD_QUERY ||
            method == thole_bus_v1_METHOD_ANSWER || method == thole_bus_v1_METHOD_WATCH ||
            method == thole_bus_v1_METHOD_PEER_BOOTSTRAP;
        assert_true(rule == NULL || (rule->level == ACCESS_HOSTS) == !for_clients);
    }
    assert_null(access_request_rule(4711));
    upb_DefPool_Free(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_access_every_method_has_a_rule),
        cmocka_unit_test(test_access_unknown_methods_have_no_rule),
        cmocka_unit_test(test_access_every_request_has_a_rule),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
