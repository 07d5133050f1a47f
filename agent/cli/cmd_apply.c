/* `thole apply` and `thole diff`. */
#include "agent/cli/cmd_apply.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <upb/encode.h>

#include "agent/cli/cmd_wait.h"
#include "thole/v1/access.upbdefs.h"
#include "thole/v1/resources.upbdefs.h"

/* ---- Files ----------------------------------------------------------------------------------- */

static int read_stream(struct cli *c, FILE *file, const char *name, struct spec_list *list)
{
    struct bytes text = {0};
    struct spec_error error;
    size_t n = 0;
    do {
        uint8_t *at = bytes_extend(&text, 65536);
        n = fread(at, 1, 65536, file);
        text.size -= 65536 - n;
    } while (n > 0 && text.size <= SPEC_BYTES_MAX);
    int result = CLI_OK;
    if (ferror(file)) {
        result = cli__say_failed("cannot read %s: %s", name, strerror(errno));
    } else if (!spec_parse(c->pool, c->arena, name, bytes_slice(&text), list, &error)) {
        result = cli__say_failed("%s", error.text);
    }
    bytes_deinit(&text);
    return result;
}

static int read_path(struct cli *c, const char *path, struct spec_list *list)
{
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return cli__say_failed("cannot read %s: %s", path, strerror(errno));
    }
    int result = read_stream(c, file, path, list);
    fclose(file);
    return result;
}

static int is_spec_file(const struct dirent *entry)
{
    const char *dot = strrchr(entry->d_name, '.');
    return entry->d_name[0] != '.' && dot != NULL &&
           (strcmp(dot, ".yaml") == 0 || strcmp(dot, ".yml") == 0 || strcmp(dot, ".json") == 0);
}

static int read_directory(struct cli *c, const char *path, struct spec_list *list)
{
    struct dirent **entries = NULL;
    int n = scandir(path, &entries, is_spec_file, alphasort);
    if (n < 0) {
        return cli__say_failed("cannot read %s: %s", path, strerror(errno));
    }
    int result = CLI_OK;
    for (int i = 0; i < n; i++) {
        char *file = xasprintf("%s/%s", path, entries[i]->d_name);
        if (result == CLI_OK) {
            result = read_path(c, file, list);
        }
        free(file);
        free(entries[i]);
    }
    free(entries);
    return result;
}

int apply_read(struct cli *c, struct spec_list *list)
{
    const char *path = cli_text(c, OPT_FILE);
    struct stat info;
    if (path == NULL) {
        return cli__say_usage(c, "-f FILE is needed");
    }
    int result = CLI_OK;
    if (strcmp(path, "-") == 0) {
        result = read_stream(c, stdin, "stdin", list);
    } else if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
        result = read_directory(c, path, list);
    } else {
        result = read_path(c, path, list);
    }
    if (result == CLI_OK && list->count == 0) {
        result = cli__say_failed("%s: there is no spec in it", path);
    }
    return result;
}

/* ---- What is there, and what is wanted ------------------------------------------------------- */

static const char *copy_name(struct cli *c, upb_StringView name)
{
    char *copy = upb_Arena_Malloc(c->arena, name.size + 1);
    if (name.size > 0) {
        memcpy(copy, name.data, name.size);
    }
    copy[name.size] = '\0';
    return copy;
}

const char *apply_name(struct cli *c, const struct spec *s)
{
    upb_StringView name = {NULL, 0};
    switch (s->kind) {
    case SPEC_SHARD:
        name = thole_v1_Shard_name((thole_v1_Shard *)s->row);
        break;
    case SPEC_HOST:
        name = thole_v1_Host_name((thole_v1_Host *)s->row);
        break;
    case SPEC_POOL:
        name = thole_v1_ShardPool_name((thole_v1_ShardPool *)s->row);
        break;
    case SPEC_ROLE:
        name = thole_v1_Role_name((thole_v1_Role *)s->row);
        break;
    }
    return copy_name(c, name);
}

enum rows_kind apply_kind(const struct spec *s)
{
    return s->kind == SPEC_SHARD  ? ROWS_SHARDS
           : s->kind == SPEC_POOL ? ROWS_POOLS
           : s->kind == SPEC_ROLE ? ROWS_ROLES
                                  : ROWS_HOSTS;
}

const char *apply_resource(struct cli *c, const struct spec *s, char *ret, size_t size)
{
    (void)c;
    return rows_name(apply_kind(s), s->row, ret, size);
}

enum thole_code apply_current(struct cli *c, const struct spec *s, const void **ret,
                              struct thole_status *st)
{
    const char *name = apply_name(c, s);
    *ret = NULL;
    switch (s->kind) {
    case SPEC_HOST:
        return rows_get_host(c, name, false, (const thole_v1_Host **)ret, st);
    case SPEC_SHARD:
        (void)rows_get_shard(c, name, false, (const thole_v1_Shard **)ret, st);
        break;
    case SPEC_POOL:
        (void)rows_get_pool(c, name, false, (const thole_v1_ShardPool **)ret, st);
        break;
    case SPEC_ROLE:
        (void)rows_get_role(c, name, false, (const thole_v1_Role **)ret, st);
        break;
    }
    return *ret != NULL || st->code == THOLE_NOT_FOUND ? THOLE_OK : st->code;
}

const void *apply_spec(struct cli *c, const struct spec *s, const void *row,
                       const upb_MiniTable **ret_kind, const upb_MessageDef **ret_def)
{
    const upb_MiniTable *kind = NULL;
    const upb_MessageDef *def = NULL;
    const void *spec = NULL;
    switch (s->kind) {
    case SPEC_SHARD:
        kind = &thole_v1_ShardSpec_msginit;
        def = thole_v1_ShardSpec_getmsgdef(c->pool);
        spec = row != NULL ? thole_v1_Shard_spec(row) : NULL;
        break;
    case SPEC_HOST:
        kind = &thole_v1_HostSpec_msginit;
        def = thole_v1_HostSpec_getmsgdef(c->pool);
        spec = row != NULL ? thole_v1_Host_spec(row) : NULL;
        break;
    case SPEC_POOL:
        kind = &thole_v1_ShardPoolSpec_msginit;
        def = thole_v1_ShardPoolSpec_getmsgdef(c->pool);
        spec = row != NULL ? thole_v1_ShardPool_spec(row) : NULL;
        break;
    case SPEC_ROLE:
        kind = &thole_v1_RoleSpec_msginit;
        def = thole_v1_RoleSpec_getmsgdef(c->pool);
        spec = row != NULL ? thole_v1_Role_spec(row) : NULL;
        break;
    }
    if (ret_kind != NULL) {
        *ret_kind = kind;
    }
    if (ret_def != NULL) {
        *ret_def = def;
    }
    return spec;
}

static upb_StringView encoded(struct cli *c, const void *message, const upb_MiniTable *kind)
{
    char *bytes = NULL;
    size_t size = 0;
    if (message != NULL) {
        (void)upb_Encode(message, kind, kUpb_EncodeOption_Deterministic, c->arena, &bytes, &size);
    }
    return (upb_StringView){bytes, size};
}

/* The rules of a built-in role cannot change, and may be left out. */
static void fill_in_role(struct cli *c, thole_v1_Role *row, const thole_v1_Role *current)
{
    thole_v1_RoleSpec *wanted = thole_v1_Role_mutable_spec(row, c->arena);
    size_t rules = 0, data = 0;
    (void)thole_v1_RoleSpec_rules(wanted, &rules);
    (void)thole_v1_RoleSpec_data(wanted, &data);
    if (!thole_v1_Role_builtin(current) || rules + data > 0) {
        return;
    }
    const thole_v1_RoleRule *const *rule = thole_v1_RoleSpec_rules(rows_role_spec(current), &rules);
    const thole_v1_DataRule *const *data_rule =
        thole_v1_RoleSpec_data(rows_role_spec(current), &data);
    thole_v1_RoleRule **to = thole_v1_RoleSpec_resize_rules(wanted, rules, c->arena);
    thole_v1_DataRule **to_data = thole_v1_RoleSpec_resize_data(wanted, data, c->arena);
    for (size_t i = 0; i < rules; i++) {
        to[i] = (thole_v1_RoleRule *)(uintptr_t)rule[i];
    }
    for (size_t i = 0; i < data; i++) {
        to_data[i] = (thole_v1_DataRule *)(uintptr_t)data_rule[i];
    }
}

/* Fields that cannot change, and a host's state, keep their value if the spec leaves them out. */
static void fill_in(struct cli *c, const struct spec *s, const void *current)
{
    const thole_v1_ShardSpec *is = NULL;
    thole_v1_ShardSpec *wanted = NULL;
    if (s->kind == SPEC_HOST) {
        const thole_v1_HostSpec *host = thole_v1_Host_spec(current);
        thole_v1_HostSpec *spec = thole_v1_Host_mutable_spec((thole_v1_Host *)s->row, c->arena);
        if (thole_v1_HostSpec_state(spec) == 0 && host != NULL) {
            thole_v1_HostSpec_set_state(spec, thole_v1_HostSpec_state(host));
        }
        return;
    }
    if (s->kind == SPEC_ROLE) {
        fill_in_role(c, (thole_v1_Role *)s->row, current);
        return;
    }
    if (s->kind == SPEC_SHARD) {
        is = thole_v1_Shard_spec(current);
        wanted = thole_v1_Shard_mutable_spec((thole_v1_Shard *)s->row, c->arena);
    } else {
        is = rows_pool_shard_spec(current);
        wanted = thole_v1_ShardPoolSpec_mutable_shard(
            thole_v1_ShardPool_mutable_spec((thole_v1_ShardPool *)s->row, c->arena), c->arena);
    }
    if (is != NULL && thole_v1_ShardSpec_type(wanted).size == 0) {
        thole_v1_ShardSpec_set_type(wanted, thole_v1_ShardSpec_type(is));
    }
    if (is != NULL && thole_v1_ShardSpec_config(wanted).size == 0) {
        thole_v1_ShardSpec_set_config(wanted, thole_v1_ShardSpec_config(is));
    }
}

bool apply_same(struct cli *c, const struct spec *s, const void *current)
{
    const upb_MiniTable *kind = NULL;
    if (current == NULL) {
        return false;
    }
    fill_in(c, s, current);
    const void *is = apply_spec(c, s, current, &kind, NULL);
    return upb_StringView_IsEqual(encoded(c, apply_spec(c, s, s->row, NULL, NULL), kind),
                                  encoded(c, is, kind));
}

int apply_deleting(const char *what, const struct spec *s, const void *current)
{
    bool deleting = false;
    const char *kind = "";
    switch (s->kind) {
    case SPEC_SHARD:
        kind = "shard";
        deleting = current != NULL && thole_v1_Shard_deleting(current);
        break;
    case SPEC_POOL:
        kind = "pool";
        deleting = current != NULL && thole_v1_ShardPool_deleting(current);
        break;
    case SPEC_ROLE: /* a role is deleted at once */
        break;
    case SPEC_HOST:
        kind = "host";
        deleting = current != NULL && thole_v1_Host_spec(current) != NULL &&
                   thole_v1_HostSpec_state(rows_host_spec(current)) == thole_v1_HOST_STATE_REMOVED;
        break;
    }
    if (!deleting) {
        return CLI_OK;
    }
    return cli__say_failed("%s: the %s is being deleted; apply it again when it is gone: "
                           "thole wait --for deleted",
                           what, kind);
}

/* ---- Apply ----------------------------------------------------------------------------------- */

static enum thole_code send_shard(struct cli *c, thole_v1_Shard *row, bool dry_run,
                                  const thole_v1_Shard **ret, struct thole_status *st)
{
    thole_v1_UpdateShardRequest *request = thole_v1_UpdateShardRequest_new(c->arena);
    thole_v1_UpdateShardRequest_set_shard(request, row);
    thole_v1_UpdateShardRequest_set_allow_missing(request, true);
    thole_v1_UpdateShardRequest_set_validate_only(request, dry_run);
    return CLI_CALL(c, Shards, UpdateShard, request, ret, Shard, st);
}

static enum thole_code send_host(struct cli *c, thole_v1_Host *row, bool dry_run,
                                 struct thole_status *st)
{
    const thole_v1_Host *reply = NULL;
    thole_v1_UpdateHostRequest *request = thole_v1_UpdateHostRequest_new(c->arena);
    thole_v1_UpdateHostRequest_set_host(request, row);
    thole_v1_UpdateHostRequest_set_validate_only(request, dry_run);
    return CLI_CALL(c, Hosts, UpdateHost, request, &reply, Host, st);
}

static enum thole_code send_pool(struct cli *c, thole_v1_ShardPool *row, bool dry_run,
                                 const thole_v1_ShardPool **ret, struct thole_status *st)
{
    thole_v1_UpdatePoolRequest *request = thole_v1_UpdatePoolRequest_new(c->arena);
    thole_v1_UpdatePoolRequest_set_pool(request, row);
    thole_v1_UpdatePoolRequest_set_allow_missing(request, true);
    thole_v1_UpdatePoolRequest_set_validate_only(request, dry_run);
    return CLI_CALL(c, Pools, UpdatePool, request, ret, ShardPool, st);
}

struct applied {
    uint64_t generation;
    const thole_v1_Condition *placed; /* dry runs: can the shards be placed? */
};

static enum thole_code send_role(struct cli *c, thole_v1_Role *row, bool dry_run,
                                 struct applied *ret, struct thole_status *st)
{
    const thole_v1_Role *reply = NULL;
    thole_v1_UpdateRoleRequest *request = thole_v1_UpdateRoleRequest_new(c->arena);
    thole_v1_UpdateRoleRequest_set_role(request, row);
    thole_v1_UpdateRoleRequest_set_allow_missing(request, true);
    thole_v1_UpdateRoleRequest_set_validate_only(request, dry_run);
    enum thole_code code = CLI_CALL(c, Roles, UpdateRole, request, &reply, Role, st);
    ret->generation = code == THOLE_OK ? thole_v1_Role_generation(reply) : 0;
    return code;
}

static enum thole_code send(struct cli *c, const struct spec *s, struct applied *ret,
                            struct thole_status *st)
{
    bool dry_run = cli_flag(c, OPT_DRY_RUN);
    const thole_v1_Shard *shard = NULL;
    const thole_v1_ShardPool *pool = NULL;
    const thole_v1_Condition *const *conditions = NULL;
    enum thole_code code = THOLE_OK;
    size_t n = 0;
    switch (s->kind) {
    case SPEC_HOST:
        return send_host(c, (thole_v1_Host *)s->row, dry_run, st);
    case SPEC_ROLE:
        return send_role(c, (thole_v1_Role *)s->row, dry_run, ret, st);
    case SPEC_SHARD:
        code = send_shard(c, (thole_v1_Shard *)s->row, dry_run, &shard, st);
        if (code == THOLE_OK) {
            ret->generation = thole_v1_Shard_generation(shard);
            conditions = thole_v1_ShardStatus_conditions(rows_shard_status(shard), &n);
        }
        break;
    case SPEC_POOL:
        code = send_pool(c, (thole_v1_ShardPool *)s->row, dry_run, &pool, st);
        if (code == THOLE_OK) {
            ret->generation = thole_v1_ShardPool_generation(pool);
            conditions = thole_v1_ShardPoolStatus_conditions(rows_pool_status(pool), &n);
        }
        break;
    }
    ret->placed = dry_run && n > 0 ? conditions[0] : NULL;
    return code;
}

static uint64_t generation_of(const struct spec *s, const void *row)
{
    return s->kind == SPEC_SHARD  ? thole_v1_Shard_generation(row)
           : s->kind == SPEC_POOL ? thole_v1_ShardPool_generation(row)
           : s->kind == SPEC_ROLE ? thole_v1_Role_generation(row)
                                  : thole_v1_Host_generation(row);
}

/* Every name of the pool was tried, and some belong to other shards. Then an unchanged spec is sent
 * all the same: the pool tries its names again. */
static bool lacks_shards(const struct spec *s, const void *row)
{
    if (s->kind != SPEC_POOL || row == NULL) {
        return false;
    }
    const thole_v1_ShardPoolStatus *status = rows_pool_status(row);
    upb_StringView taken = thole_v1_ShardPoolStatus_name_taken(status);
    if (taken.size > 0) {
        fprintf(stderr,
                "pools/%.*s: only %" PRIu32 " of %" PRIu32 " shards exist: shards/%.*s is a shard "
                "that is not of the pool; the pool takes the name when that is deleted\n",
                CLI_SV(thole_v1_ShardPool_name(row)), thole_v1_ShardPoolStatus_shards(status),
                thole_v1_ShardPoolSpec_count(rows_pool_spec(row)), CLI_SV(taken));
    }
    return thole_v1_ShardPoolStatus_observed_generation(status) ==
               thole_v1_ShardPool_generation(row) &&
           thole_v1_ShardPoolStatus_shards(status) <
               thole_v1_ShardPoolSpec_count(rows_pool_spec(row));
}

/* Print one line, or add one member to the document's list. */
static void tell_applied(struct cli *c, const char *resource, const char *verb, bool dry_run,
                         struct bytes *document)
{
    if (!cli__is_document(c)) {
        printf("%s %s%s\n", resource, verb, dry_run ? " (dry run)" : "");
        return;
    }
    bytes_append_str(document, document->size > 0 ? "," : "");
    bytes_append_str(document, "{\"name\":");
    cli__json_string(slice_str(resource), document);
    bytes_printf(document, ",\"result\":\"%s\",\"dryRun\":%s}", verb, dry_run ? "true" : "false");
}

static int apply_one(struct cli *c, const struct spec *s, uint64_t *ret_generation,
                     struct bytes *document)
{
    struct thole_status st;
    struct applied applied = {0};
    const void *current = NULL;
    char resource[ROWS_NAME_BYTES], what[ROWS_NAME_BYTES + 300];
    apply_resource(c, s, resource, sizeof resource);
    snprintf(what, sizeof what, "%.250s:%zu: %s", s->source, s->line, resource);
    if (apply_current(c, s, &current, &st) != THOLE_OK) {
        return cli__say_status(what, &st);
    }
    if (apply_deleting(what, s, current) != CLI_OK) {
        return CLI_FAILED;
    }
    const char *verb = current == NULL ? "created" : "changed";
    bool dry_run = cli_flag(c, OPT_DRY_RUN);
    bool same = apply_same(c, s, current);
    if (same) {
        verb = "unchanged";
        applied.generation = generation_of(s, current);
    }
    /* A dry run checks the placement even if nothing changes. */
    bool needed = !same || dry_run || lacks_shards(s, current);
    if (needed && send(c, s, &applied, &st) != THOLE_OK) {
        return cli__say_status(what, &st);
    }
    *ret_generation = applied.generation;
    tell_applied(c, resource, verb, dry_run, document);
    if (applied.placed != NULL && !thole_v1_Condition_status(applied.placed)) {
        fflush(stdout);
        return cli__say_failed("%s: cannot be placed: %.*s", what,
                               CLI_SV(thole_v1_Condition_message(applied.placed)));
    }
    return CLI_OK;
}

int cli__command_apply(struct cli *c)
{
    struct spec_list list = {0};
    int result = apply_read(c, &list);
    if (result != CLI_OK) { /* nothing is applied unless all specs can be read */
        spec_list_deinit(&list);
        return result;
    }
    struct wait_item *items = xcalloc(list.count, sizeof *items);
    size_t waiting = 0;
    struct bytes document = {0}, out = {0};
    for (size_t i = 0; i < list.count; i++) {
        uint64_t generation = 0;
        int one = apply_one(c, &list.items[i], &generation, &document);
        result = result == CLI_OK ? one : result; /* the other specs are still applied */
        if (one == CLI_OK && list.items[i].kind != SPEC_HOST && list.items[i].kind != SPEC_ROLE) {
            items[waiting++] = (struct wait_item){.kind = apply_kind(&list.items[i]),
                                                  .what = WAIT_READY,
                                                  .name = apply_name(c, &list.items[i]),
                                                  .generation = generation};
        }
    }
    if (cli__is_document(c)) {
        cli__document_begin(&out, "Applied");
        bytes_printf(&out, ",\"items\":[%.*s]", (int)document.size,
                     document.size > 0 ? (const char *)document.data : "");
        cli__document_end(c, &out);
    }
    bytes_deinit(&document);
    fflush(stdout);
    if (result == CLI_OK && cli_flag(c, OPT_WAIT) && !cli_flag(c, OPT_DRY_RUN)) {
        result = wait_all(c, items, waiting, wait_timeout_ms(c));
    }
    free(items);
    spec_list_deinit(&list);
    return result == CLI_OK ? cli__flush() : result;
}
