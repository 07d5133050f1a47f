/* See http_routes.h. The table has all of etcd's calls, also those that no service has yet: they
 * are UNIMPLEMENTED until one is registered. */
#include "agent/doors/http_routes.h"

#include <stdio.h>
#include <string.h>

#define MAINTENANCE "/etcdserverpb.Maintenance/"
#define AUTH "/etcdserverpb.Auth/"

static const struct etcd_path {
    const char *url, *path;
} etcd_paths[] = {
    {"/kv/range", "/etcdserverpb.KV/Range"},
    {"/kv/rangestream", "/etcdserverpb.KV/RangeStream"},
    {"/kv/put", "/etcdserverpb.KV/Put"},
    {"/kv/deleterange", "/etcdserverpb.KV/DeleteRange"},
    {"/kv/txn", "/etcdserverpb.KV/Txn"},
    {"/kv/compaction", "/etcdserverpb.KV/Compact"},
    {"/watch", "/etcdserverpb.Watch/Watch"},
    {"/lease/grant", "/etcdserverpb.Lease/LeaseGrant"},
    {"/lease/revoke", "/etcdserverpb.Lease/LeaseRevoke"},
    {"/kv/lease/revoke", "/etcdserverpb.Lease/LeaseRevoke"},
    {"/lease/keepalive", "/etcdserverpb.Lease/LeaseKeepAlive"},
    {"/lease/timetolive", "/etcdserverpb.Lease/LeaseTimeToLive"},
    {"/kv/lease/timetolive", "/etcdserverpb.Lease/LeaseTimeToLive"},
    {"/lease/leases", "/etcdserverpb.Lease/LeaseLeases"},
    {"/kv/lease/leases", "/etcdserverpb.Lease/LeaseLeases"},
    {"/cluster/member/add", "/etcdserverpb.Cluster/MemberAdd"},
    {"/cluster/member/remove", "/etcdserverpb.Cluster/MemberRemove"},
    {"/cluster/member/update", "/etcdserverpb.Cluster/MemberUpdate"},
    {"/cluster/member/list", "/etcdserverpb.Cluster/MemberList"},
    {"/cluster/member/promote", "/etcdserverpb.Cluster/MemberPromote"},
    {"/maintenance/alarm", MAINTENANCE "Alarm"},
    {"/maintenance/status", MAINTENANCE "Status"},
    {"/maintenance/defragment", MAINTENANCE "Defragment"},
    {"/maintenance/hash", MAINTENANCE "Hash"},
    {"/maintenance/hashkv", MAINTENANCE "HashKV"},
    {"/maintenance/snapshot", MAINTENANCE "Snapshot"},
    {"/maintenance/transfer-leadership", MAINTENANCE "MoveLeader"},
    {"/maintenance/downgrade", MAINTENANCE "Downgrade"},
    {"/auth/enable", AUTH "AuthEnable"},
    {"/auth/disable", AUTH "AuthDisable"},
    {"/auth/status", AUTH "AuthStatus"},
    {"/auth/authenticate", AUTH "Authenticate"},
    {"/auth/user/add", AUTH "UserAdd"},
    {"/auth/user/get", AUTH "UserGet"},
    {"/auth/user/list", AUTH "UserList"},
    {"/auth/user/delete", AUTH "UserDelete"},
    {"/auth/user/changepw", AUTH "UserChangePassword"},
    {"/auth/user/grant", AUTH "UserGrantRole"},
    {"/auth/user/revoke", AUTH "UserRevokeRole"},
    {"/auth/role/add", AUTH "RoleAdd"},
    {"/auth/role/get", AUTH "RoleGet"},
    {"/auth/role/list", AUTH "RoleList"},
    {"/auth/role/delete", AUTH "RoleDelete"},
    {"/auth/role/grant", AUTH "RoleGrantPermission"},
    {"/auth/role/revoke", AUTH "RoleRevokePermission"},
    {"/lock/lock", "/v3lockpb.Lock/Lock"},
    {"/lock/unlock", "/v3lockpb.Lock/Unlock"},
    {"/election/campaign", "/v3electionpb.Election/Campaign"},
    {"/election/proclaim", "/v3electionpb.Election/Proclaim"},
    {"/election/leader", "/v3electionpb.Election/Leader"},
    {"/election/observe", "/v3electionpb.Election/Observe"},
    {"/election/resign", "/v3electionpb.Election/Resign"},
};
#define ETCD_PATHS (sizeof etcd_paths / sizeof etcd_paths[0])

const char *http_route_etcd(size_t i)
{
    return i < ETCD_PATHS ? etcd_paths[i].url : NULL;
}

static const char *after(const char *url, const char *prefix)
{
    size_t n = strlen(prefix);
    return strncmp(url, prefix, n) == 0 && url[n] == '/' ? url + n : NULL;
}

bool http_route_find(const char *url, struct http_route *ret)
{
    const char *own = after(url, "/v1"), *rest = after(url, "/v3");
    memset(ret, 0, sizeof *ret);
    if (own != NULL && strlen(own) < HTTP_PATH_BYTES / 2) {
        snprintf(ret->path, sizeof ret->path, "/thole.v1.%s", own + 1);
        return proto_method_find(ret->path, &ret->method);
    }
    rest = rest != NULL ? rest : after(url, "/v3beta");
    for (size_t i = 0; rest != NULL && i < ETCD_PATHS; i++) {
        if (strcmp(rest, etcd_paths[i].url) == 0) {
            snprintf(ret->path, sizeof ret->path, "%s", etcd_paths[i].path);
            ret->etcd = true;
            ret->stays_open = strcmp(rest, "/watch") == 0;
            ret->waits = strcmp(rest, "/lock/lock") == 0 || strcmp(rest, "/election/campaign") == 0;
            return proto_method_find(ret->path, &ret->method);
        }
    }
    return false;
}
