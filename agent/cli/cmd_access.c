/* Roles as text, and `thole token`. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "agent/cli/rows.h"
#include "proto/names.h"

static void show_values(const int32_t *values, size_t n, const char *(*name)(int32_t value),
                        struct bytes *out)
{
    for (size_t i = 0; i < n; i++) {
        bytes_printf(out, "%s%s", i > 0 ? ", " : "",
                     name(values[i]) != NULL ? name(values[i]) : "?");
    }
}

static void show_names(const upb_StringView *names, size_t n, struct bytes *out)
{
    for (size_t i = 0; i < n; i++) {
        bytes_printf(out, "%s%.*s", i > 0 ? ", " : "", CLI_SV(names[i]));
    }
}

void show_role_rule(const thole_v1_RoleRule *rule, struct bytes *out)
{
    size_t n = 0;
    const int32_t *values = thole_v1_RoleRule_verbs(rule, &n);
    show_values(values, n, proto_role_verb, out);
    bytes_append_str(out, " of ");
    values = thole_v1_RoleRule_kinds(rule, &n);
    show_values(values, n, proto_role_kind, out);
    const upb_StringView *names = thole_v1_RoleRule_names(rule, &n);
    if (n > 0) {
        bytes_append_str(out, " named ");
        show_names(names, n, out);
    }
}

void show_data_rule(const thole_v1_DataRule *rule, struct bytes *out)
{
    size_t n = 0;
    const int32_t *values = thole_v1_DataRule_rights(rule, &n);
    show_values(values, n, proto_data_right, out);
    bytes_append_str(out, " of shards ");
    const upb_StringView *names = thole_v1_DataRule_shards(rule, &n);
    show_names(names, n, out);
}

void show_members(const thole_v1_RoleSpec *spec, struct bytes *out)
{
    size_t n = 0;
    const upb_StringView *names = thole_v1_RoleSpec_members(spec, &n);
    show_names(names, n, out);
}

/* ---- Tokens ---------------------------------------------------------------------------------- */

int cli__command_token_create(struct cli *c)
{
    struct thole_status st;
    const thole_v1_CreateTokenResponse *reply = NULL;
    thole_v1_CreateTokenRequest *request = thole_v1_CreateTokenRequest_new(c->arena);
    if (!cli_given(c, OPT_FOR)) {
        return cli__say_usage(c, "--for USER is needed");
    }
    thole_v1_CreateTokenRequest_set_user(request, cli__sv(cli_text(c, OPT_FOR)));
    thole_v1_CreateTokenRequest_set_expire_after_ms(request, (int64_t)cli_number(c, OPT_EXPIRES));
    if (CLI_CALL(c, Tokens, CreateToken, request, &reply, CreateTokenResponse, &st)) {
        return cli__say_status("cannot create the token", &st);
    }
    const thole_v1_Token *token = thole_v1_CreateTokenResponse_token(reply);
    upb_StringView secret = thole_v1_CreateTokenResponse_secret(reply);
    if (cli__is_document(c)) {
        struct bytes out = {0};
        char *text = xstrndup(secret.data, secret.size);
        cli__document_begin(&out, "NewToken");
        cli__document_text(&out, "secret", text);
        cli__document_message(&out, "token", token, rows_def(c, ROWS_TOKENS));
        cli__document_end(c, &out);
        free(text);
        return cli__flush();
    }
    char until[32];
    int64_t expire_ms = token != NULL ? thole_v1_Token_expire_time_ms(token) : 0;
    printf("%.*s\n", CLI_SV(secret));
    if (token != NULL) {
        cli__note("token %.*s of user %.*s, until %s; it is not shown again",
                  CLI_SV(thole_v1_Token_id(token)), CLI_SV(thole_v1_Token_user(token)),
                  cli__time(expire_ms, until, sizeof until));
    }
    return cli__flush();
}

int cli__command_token_list(struct cli *c)
{
    struct thole_status st;
    struct rows rows;
    const struct rows_query q = {.kind = ROWS_TOKENS, .stale = cli_flag(c, OPT_STALE)};
    if (rows_list(c, &q, &rows, &st) != THOLE_OK) {
        return cli__say_status("cannot list", &st);
    }
    rows_show(c, &rows, true, false);
    rows_deinit(&rows);
    return cli__flush();
}

int cli__command_token_revoke(struct cli *c)
{
    struct thole_status st;
    const thole_v1_Token *row = NULL;
    thole_v1_RevokeTokenRequest *request = thole_v1_RevokeTokenRequest_new(c->arena);
    const char *id = cli__strip(c->args[0], "token");
    if (strncmp(id, "thole_", 6) == 0) {
        return cli__say_usage(c, "give the id of the token, as `thole token list` has it");
    }
    thole_v1_RevokeTokenRequest_set_id(request, cli__sv(id));
    thole_v1_RevokeTokenRequest_set_request_id(request, cli__request_id(c));
    if (CLI_CALL(c, Tokens, RevokeToken, request, &row, Token, &st)) {
        return cli__say_status("cannot revoke the token", &st);
    }
    if (cli__is_document(c)) {
        cli__document(c, rows_kind_name(ROWS_TOKENS), row, rows_def(c, ROWS_TOKENS));
        return cli__flush();
    }
    printf("tokens/%s revoked\n", id);
    return cli__flush();
}
