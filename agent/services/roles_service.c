/* thole.v1.Roles. */
#include "agent/services/services_internal.h"

static void no_such_role(struct call *c, upb_StringView name)
{
    struct thole_status st;
    (void)THOLE_FAIL(&st, THOLE_NOT_FOUND, THOLE_REASON_NONE, "role \"%.*s\" not found",
                     (int)name.size, name.data);
    services__call_fail(c, &st);
}

static void get_run(struct call *c)
{
    const thole_v1_GetRoleRequest *q = c->request;
    upb_StringView name = services__name_strip(thole_v1_GetRoleRequest_name(q), "roles");
    const thole_v1_Role *row = registry_role_by_name(c->view, registry_str(name));
    if (row == NULL) {
        no_such_role(c, name);
        return;
    }
    services__call_reply(c, row, &thole_v1_Role_msginit);
}

void services__roles_get(struct call *c)
{
    const thole_v1_GetRoleRequest *q = c->request;
    upb_StringView name = services__name_strip(thole_v1_GetRoleRequest_name(q), "roles");
    services__call_about(c, "role", name);
    if (services__call_name(c, "name", name)) {
        services__call_read(c, thole_v1_GetRoleRequest_stale(q), get_run);
    }
}

static void list_run(struct call *c)
{
    const thole_v1_ListRolesRequest *q = c->request;
    struct page p;
    struct bytes key = {0};
    if (!services__page_begin(&p, c, PAGE_ROLES, thole_v1_ListRolesRequest_page_size(q),
                              thole_v1_ListRolesRequest_page_token(q), &key)) {
        bytes_deinit(&key);
        return;
    }
    struct slice last = bytes_slice(&key);
    const thole_v1_Role *row = NULL;
    while ((row = registry_next_role(c->view, last)) != NULL) {
        if (!services__page_add(&p, c, row, &thole_v1_Role_msginit)) {
            break;
        }
        last = registry_str(thole_v1_Role_name(row));
    }
    services__page_reply(&p, c, PAGE_ROLES, row != NULL ? &last : NULL);
    bytes_deinit(&key);
}

void services__roles_list(struct call *c)
{
    const thole_v1_ListRolesRequest *q = c->request;
    services__call_read(c, thole_v1_ListRolesRequest_stale(q), list_run);
}

/* The checks of create and update. */
static bool check_role(struct call *c, const thole_v1_Role *role, upb_StringView request_id,
                       upb_StringView *ret_name)
{
    if (role == NULL) {
        services__call_refuse(c, "role", "is needed");
        return false;
    }
    *ret_name = services__name_strip(thole_v1_Role_name(role), "roles");
    services__call_about(c, "role", *ret_name);
    struct registry_violation v;
    bool ok = registry_check_name("role.name", registry_str(*ret_name), &v) &&
              registry_check_request_id(registry_str(request_id), &v) &&
              registry_check_role_spec("role.spec", thole_v1_Role_spec(role), &v);
    return services__call_checked(c, ok, &v);
}

void services__roles_create(struct call *c)
{
    const thole_v1_CreateRoleRequest *q = c->request;
    const thole_v1_Role *role = thole_v1_CreateRoleRequest_role(q);
    upb_StringView request_id = thole_v1_CreateRoleRequest_request_id(q);
    upb_StringView name;
    if (!check_role(c, role, request_id, &name)) {
        return;
    }
    thole_registry_v1_Operation *op = services__call_operation(c);
    thole_registry_v1_CreateRole *create =
        thole_registry_v1_Operation_mutable_create_role(op, c->arena);
    thole_registry_v1_CreateRole_set_name(create, name);
    thole_registry_v1_CreateRole_set_spec(create,
                                          (thole_v1_RoleSpec *)(uintptr_t)thole_v1_Role_spec(role));
    services__call_command(c, op, request_id, thole_v1_CreateRoleRequest_validate_only(q),
                           &thole_v1_Role_msginit);
}

static bool exists(const struct registry_view *v, struct slice name)
{
    return registry_role_by_name(v, name) != NULL;
}

void services__roles_update(struct call *c)
{
    const thole_v1_UpdateRoleRequest *q = c->request;
    const thole_v1_Role *role = thole_v1_UpdateRoleRequest_role(q);
    upb_StringView request_id = thole_v1_UpdateRoleRequest_request_id(q);
    upb_StringView name;
    if (!check_role(c, role, request_id, &name)) {
        return;
    }
    bool allow_missing = thole_v1_UpdateRoleRequest_allow_missing(q);
    if (!services__call_may_create(c, ACCESS_KIND(ROLES), name, exists, &allow_missing)) {
        return;
    }
    thole_registry_v1_Operation *op = services__call_operation(c);
    thole_registry_v1_UpdateRole *update =
        thole_registry_v1_Operation_mutable_update_role(op, c->arena);
    thole_registry_v1_UpdateRole_set_name(update, name);
    thole_registry_v1_UpdateRole_set_spec(update,
                                          (thole_v1_RoleSpec *)(uintptr_t)thole_v1_Role_spec(role));
    thole_registry_v1_UpdateRole_set_etag(update, thole_v1_Role_etag(role));
    thole_registry_v1_UpdateRole_set_allow_missing(update, allow_missing);
    services__call_command(c, op, request_id, thole_v1_UpdateRoleRequest_validate_only(q),
                           &thole_v1_Role_msginit);
}

void services__roles_delete(struct call *c)
{
    const thole_v1_DeleteRoleRequest *q = c->request;
    upb_StringView name = services__name_strip(thole_v1_DeleteRoleRequest_name(q), "roles");
    services__call_about(c, "role", name);
    if (!services__call_name(c, "name", name) ||
        !services__call_request_id(c, thole_v1_DeleteRoleRequest_request_id(q))) {
        return;
    }
    thole_registry_v1_Operation *op = services__call_operation(c);
    thole_registry_v1_DeleteRole *del =
        thole_registry_v1_Operation_mutable_delete_role(op, c->arena);
    thole_registry_v1_DeleteRole_set_name(del, name);
    thole_registry_v1_DeleteRole_set_etag(del, thole_v1_DeleteRoleRequest_etag(q));
    thole_registry_v1_DeleteRole_set_allow_missing(del,
                                                   thole_v1_DeleteRoleRequest_allow_missing(q));
    services__call_command(c, op, thole_v1_DeleteRoleRequest_request_id(q), false, NULL);
}
