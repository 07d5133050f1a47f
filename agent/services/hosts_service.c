/* thole.v1.Hosts. */
#include <string.h>

#include "agent/services/services_internal.h"

static void no_such_host(struct call *c, upb_StringView name)
{
    struct thole_status st;
    (void)THOLE_FAIL(&st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_HOST, "host \"%.*s\" not found",
                     (int)name.size, name.data);
    services__call_fail(c, &st);
}

static const thole_v1_Host *now(struct call *c, const thole_v1_Host *row)
{
    const struct availability_check check = agent_availability_begin(c->s->agent, c->view);
    return services__host_now(&check, row, c->arena);
}

static void get_run(struct call *c)
{
    const thole_v1_GetHostRequest *q = c->request;
    upb_StringView name = services__name_strip(thole_v1_GetHostRequest_name(q), "hosts");
    const thole_v1_Host *row = registry_host_by_name(c->view, registry_str(name));
    if (row == NULL) {
        no_such_host(c, name);
        return;
    }
    services__call_reply(c, now(c, row), &thole_v1_Host_msginit);
}

void services__hosts_get(struct call *c)
{
    const thole_v1_GetHostRequest *q = c->request;
    upb_StringView name = services__name_strip(thole_v1_GetHostRequest_name(q), "hosts");
    services__call_about(c, "host", name);
    if (services__call_name(c, "name", name)) {
        services__call_read(c, thole_v1_GetHostRequest_stale(q), get_run);
    }
}

static void list_run(struct call *c)
{
    const thole_v1_ListHostsRequest *q = c->request;
    struct page p;
    struct bytes key = {0};
    if (!services__page_begin(&p, c, PAGE_HOSTS, thole_v1_ListHostsRequest_page_size(q),
                              thole_v1_ListHostsRequest_page_token(q), &key)) {
        bytes_deinit(&key);
        return;
    }
    struct slice last = bytes_slice(&key);
    const thole_v1_Host *row = NULL;
    while ((row = registry_next_host(c->view, last)) != NULL) {
        if (!services__page_add(&p, c, now(c, row), &thole_v1_Host_msginit)) {
            break;
        }
        last = registry_str(thole_v1_Host_name(row));
    }
    services__page_reply(&p, c, PAGE_HOSTS, row != NULL ? &last : NULL);
    bytes_deinit(&key);
}

void services__hosts_list(struct call *c)
{
    const thole_v1_ListHostsRequest *q = c->request;
    services__call_read(c, thole_v1_ListHostsRequest_stale(q), list_run);
}

/* Propose the spec of the request, on condition of the etag. */
static void update_propose(struct call *c, upb_StringView etag)
{
    const thole_v1_UpdateHostRequest *q = c->request;
    const thole_v1_Host *host = thole_v1_UpdateHostRequest_host(q);
    thole_registry_v1_Operation *op = services__call_operation(c);
    thole_registry_v1_UpdateHost *update =
        thole_registry_v1_Operation_mutable_update_host(op, c->arena);
    thole_registry_v1_UpdateHost_set_name(update,
                                          services__name_strip(thole_v1_Host_name(host), "hosts"));
    thole_registry_v1_UpdateHost_set_spec(update,
                                          (thole_v1_HostSpec *)(uintptr_t)thole_v1_Host_spec(host));
    thole_registry_v1_UpdateHost_set_etag(update, etag);
    services__call_command(c, op, thole_v1_UpdateHostRequest_request_id(q),
                           thole_v1_UpdateHostRequest_validate_only(q), &thole_v1_Host_msginit);
}

/* No state was given: keep the row's state, on condition of the row's etag. */
static void update_keep_state(struct call *c)
{
    const thole_v1_UpdateHostRequest *q = c->request;
    const thole_v1_Host *host = thole_v1_UpdateHostRequest_host(q);
    upb_StringView name = services__name_strip(thole_v1_Host_name(host), "hosts");
    const thole_v1_Host *row = registry_host_by_name(c->view, registry_str(name));
    if (services__call_answered(c, thole_v1_UpdateHostRequest_request_id(q))) {
        update_propose(c, thole_v1_Host_etag(host));
        return;
    }
    if (row == NULL) {
        no_such_host(c, name);
        return;
    }
    int32_t state = thole_v1_HOST_STATE_ACTIVE;
    if (thole_v1_Host_spec(row) != NULL) {
        state = thole_v1_HostSpec_state(thole_v1_Host_spec(row));
    }
    thole_v1_HostSpec *spec = (thole_v1_HostSpec *)(uintptr_t)thole_v1_Host_spec(host);
    thole_v1_HostSpec_set_state(spec, state); /* the call owns the decoded request */
    upb_StringView etag = thole_v1_Host_etag(host);
    update_propose(c, etag.size > 0 ? etag : thole_v1_Host_etag(row));
}

void services__hosts_update(struct call *c)
{
    const thole_v1_UpdateHostRequest *q = c->request;
    const thole_v1_Host *host = thole_v1_UpdateHostRequest_host(q);
    if (host == NULL) {
        services__call_refuse(c, "host", "is needed");
        return;
    }
    upb_StringView name = services__name_strip(thole_v1_Host_name(host), "hosts");
    services__call_about(c, "host", name);
    struct registry_violation v;
    if (!services__call_name(c, "host.name", name) ||
        !services__call_request_id(c, thole_v1_UpdateHostRequest_request_id(q)) ||
        !services__call_checked(
            c, registry_check_host_spec("host.spec", thole_v1_Host_spec(host), &v), &v)) {
        return;
    }
    if (thole_v1_HostSpec_state(thole_v1_Host_spec(host)) == thole_v1_HOST_STATE_UNSPECIFIED) {
        services__call_read(c, false, update_keep_state);
        return;
    }
    update_propose(c, thole_v1_Host_etag(host));
}

void services__hosts_delete(struct call *c)
{
    const thole_v1_DeleteHostRequest *q = c->request;
    upb_StringView name = services__name_strip(thole_v1_DeleteHostRequest_name(q), "hosts");
    services__call_about(c, "host", name);
    if (!services__call_name(c, "name", name) ||
        !services__call_request_id(c, thole_v1_DeleteHostRequest_request_id(q))) {
        return;
    }
    thole_registry_v1_Operation *op = services__call_operation(c);
    thole_registry_v1_DeleteHost *del =
        thole_registry_v1_Operation_mutable_delete_host(op, c->arena);
    thole_registry_v1_DeleteHost_set_name(del, name);
    services__call_command(c, op, thole_v1_DeleteHostRequest_request_id(q), false, NULL);
}
