/* thole.v1.Tokens. A secret is made here and is only in the answer: shard zero gets its hash. */
#include <string.h>

#include "agent/access/bearer.h"
#include "agent/services/services_internal.h"
#include "base/clock.h"

static upb_StringView copy_text(struct call *c, const void *text, size_t size)
{
    char *copy = upb_Arena_Malloc(c->arena, size);
    memcpy(copy, text, size);
    return (upb_StringView){copy, size};
}

static void created(struct call *c, const thole_registry_v1_Result *result)
{
    thole_v1_CreateTokenResponse *reply = thole_v1_CreateTokenResponse_new(c->arena);
    thole_v1_CreateTokenResponse_set_secret(reply, c->secret);
    thole_v1_CreateTokenResponse_set_token(
        reply, (thole_v1_Token *)(uintptr_t)thole_registry_v1_Result_token(result));
    services__call_reply(c, reply, &thole_v1_CreateTokenResponse_msginit);
}

/* A retry makes another token: the secret of the first answer is not stored, so it cannot be
 * repeated. */
void services__tokens_create(struct call *c)
{
    const thole_v1_CreateTokenRequest *q = c->request;
    upb_StringView user = thole_v1_CreateTokenRequest_user(q);
    int64_t life_ms = thole_v1_CreateTokenRequest_expire_after_ms(q);
    struct registry_violation v;
    services__call_about(c, "user", user);
    if (!services__call_checked(c, registry_check_user("user", registry_str(user), &v), &v)) {
        return;
    }
    if (life_ms <= 0 || life_ms > REGISTRY_TOKEN_LIFE_MS_MAX) {
        services__call_refuse(c, "expire_after_ms", "must be from 1 ms to 3650 days");
        return;
    }
    char text[BEARER_BYTES + 1];
    struct bearer b;
    bearer_new(text, &b);
    c->secret = copy_text(c, text, BEARER_BYTES);
    c->answer = created;
    thole_registry_v1_Operation *op = services__call_operation(c);
    thole_registry_v1_CreateToken *create =
        thole_registry_v1_Operation_mutable_create_token(op, c->arena);
    thole_registry_v1_CreateToken_set_id(create, copy_text(c, b.id, BEARER_ID_BYTES));
    thole_registry_v1_CreateToken_set_user(create, user);
    thole_registry_v1_CreateToken_set_hash(create, copy_text(c, b.hash, sizeof b.hash));
    thole_registry_v1_CreateToken_set_expire_time_ms(
        create, (int64_t)clock_system.wall_ms(&clock_system) + life_ms);
    services__call_command(c, op, (upb_StringView){NULL, 0}, false, NULL);
}

static void list_run(struct call *c)
{
    const thole_v1_ListTokensRequest *q = c->request;
    struct page p;
    struct bytes key = {0};
    if (!services__page_begin(&p, c, PAGE_TOKENS, thole_v1_ListTokensRequest_page_size(q),
                              thole_v1_ListTokensRequest_page_token(q), &key)) {
        bytes_deinit(&key);
        return;
    }
    struct slice last = bytes_slice(&key);
    const thole_v1_Token *row = NULL;
    while ((row = registry_next_token(c->view, last)) != NULL) {
        if (!services__page_add(&p, c, row, &thole_v1_Token_msginit)) {
            break;
        }
        last = registry_str(thole_v1_Token_id(row));
    }
    services__page_reply(&p, c, PAGE_TOKENS, row != NULL ? &last : NULL);
    bytes_deinit(&key);
}

void services__tokens_list(struct call *c)
{
    const thole_v1_ListTokensRequest *q = c->request;
    services__call_read(c, thole_v1_ListTokensRequest_stale(q), list_run);
}

void services__tokens_revoke(struct call *c)
{
    const thole_v1_RevokeTokenRequest *q = c->request;
    upb_StringView id = services__name_strip(thole_v1_RevokeTokenRequest_id(q), "tokens");
    services__call_about(c, "token", id);
    if (!services__call_name(c, "id", id) ||
        !services__call_request_id(c, thole_v1_RevokeTokenRequest_request_id(q))) {
        return;
    }
    thole_registry_v1_Operation *op = services__call_operation(c);
    thole_registry_v1_RevokeToken *revoke =
        thole_registry_v1_Operation_mutable_revoke_token(op, c->arena);
    thole_registry_v1_RevokeToken_set_id(revoke, id);
    services__call_command(c, op, thole_v1_RevokeTokenRequest_request_id(q), false,
                           &thole_v1_Token_msginit);
}
