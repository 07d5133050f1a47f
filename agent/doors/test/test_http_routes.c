/* Every call of the control plane has a path, etcd's paths are methods, and what a path reaches has
 * a rule that asks who calls: no path leads past the rights. */
#include <google/protobuf/descriptor.upb.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "agent/access/access.h"
#include "agent/doors/http_routes.h"
#include "proto/decode.h"
#include "thole_descriptors.h"

#define SV(s) (int)(s).size, (s).data

static void check_rule(const struct http_route *r, bool may_lack_one)
{
    const struct access_rule *rule = access_rule(r->path);
    if (rule == NULL && may_lack_one) {
        return; /* nobody serves it */
    }
    assert_non_null(rule);
    assert_true(rule->level == ACCESS_OBJECT || rule->level == ACCESS_DATA ||
                rule->level == ACCESS_USERS);
}

static void test_etcds_paths_are_methods_with_rules(void **state)
{
    (void)state;
    struct http_route r;
    char url[100];
    size_t n = 0;
    for (; http_route_etcd(n) != NULL; n++) {
        static const char *const versions[] = {"/v3", "/v3beta"};
        for (size_t v = 0; v < 2; v++) {
            snprintf(url, sizeof url, "%s%s", versions[v], http_route_etcd(n));
            if (!http_route_find(url, &r)) {
                fail_msg("%s leads to no method", url);
            }
            assert_true(r.etcd);
            check_rule(&r, true);
        }
    }
    assert_true(n > 40);
}

/* The URL of a method, and whether a path may reach its service. */
static bool url_of(const char *package, upb_StringView service, upb_StringView method, char *ret,
                   size_t size)
{
    snprintf(ret, size, "/v1/%.*s/%.*s", SV(service), SV(method));
    return strcmp(package, "thole.v1") == 0;
}

static size_t found;

static void check_service(const char *package, const google_protobuf_ServiceDescriptorProto *s)
{
    size_t n = 0;
    const google_protobuf_MethodDescriptorProto *const *m =
        google_protobuf_ServiceDescriptorProto_method(s, &n);
    for (size_t i = 0; i < n; i++) {
        char url[200];
        struct http_route r;
        bool ours = url_of(package, google_protobuf_ServiceDescriptorProto_name(s),
                           google_protobuf_MethodDescriptorProto_name(m[i]), url, sizeof url);
        if (http_route_find(url, &r) != ours) {
            fail_msg("%s of %s: %s", url, package, ours ? "has no path" : "has a path");
        }
        if (ours) {
            found++;
            check_rule(&r, false);
        }
    }
}

static void test_every_call_of_the_control_plane_has_a_path(void **state)
{
    (void)state;
    upb_Arena *arena = upb_Arena_New();
    const google_protobuf_FileDescriptorSet *set =
        PROTO_DECODE(google_protobuf_FileDescriptorSet,
                     slice_of(thole_descriptor_set, thole_descriptor_set_size), arena);
    size_t files = 0;
    assert_non_null(set);
    const google_protobuf_FileDescriptorProto *const *file =
        google_protobuf_FileDescriptorSet_file(set, &files);
    for (size_t i = 0; i < files; i++) {
        char package[100];
        size_t n = 0;
        snprintf(package, sizeof package, "%.*s",
                 SV(google_protobuf_FileDescriptorProto_package(file[i])));
        const google_protobuf_ServiceDescriptorProto *const *s =
            google_protobuf_FileDescriptorProto_service(file[i], &n);
        for (size_t k = 0; k < n; k++) {
            check_service(package, s[k]);
        }
    }
    assert_true(found > 50);
    upb_Arena_Free(arena);
}

static void test_other_paths_lead_nowhere(void **state)
{
    (void)state;
    static const char *const urls[] = {"",
                                       "/",
                                       "/v1",
                                       "/v1/",
                                       "/v1/Shards",
                                       "/v1/Shards/",
                                       "/v1/Shards/Nope",
                                       "/v1//GetShard",
                                       "/v1/../Shards/GetShard",
                                       "/v1/Shards/GetShard/",
                                       "/v1/bus.v1.Bus/Ask",
                                       "/v1/ServerReflection/ServerReflectionInfo",
                                       "/v2/kv/put",
                                       "/v3",
                                       "/v3/",
                                       "/v3/kv",
                                       "/v3/kv/Put",
                                       "/v3/KV/Put",
                                       "/v3betakv/put",
                                       "/thole.v1.Shards/GetShard"};
    struct http_route r;
    char url[400];
    for (size_t i = 0; i < sizeof urls / sizeof urls[0]; i++) {
        assert_false(http_route_find(urls[i], &r));
    }
    memset(url, 'x', sizeof url);
    memcpy(url, "/v1/", 4);
    url[sizeof url - 1] = '\0';
    assert_false(http_route_find(url, &r));
    url[300] = '/';
    assert_false(http_route_find(url, &r));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_etcds_paths_are_methods_with_rules),
        cmocka_unit_test(test_every_call_of_the_control_plane_has_a_path),
        cmocka_unit_test(test_other_paths_lead_nowhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
