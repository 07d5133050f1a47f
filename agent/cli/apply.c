/* `thole apply` and `thole diff`. */
#include "agent/cli/apply.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <upb/decode.h>
#include <upb/encode.h>

#include "agent/cli/wait.h"

/* ---- Files ------------------------------------------------------------------------------------- */

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
        result = cli_say_failed("cannot read %s: %s", name, strerror(errno));
    } else if (!spec_parse(c->pool, c->arena, name, bytes_slice(&text), list, &error)) {
        result = cli_say_failed("%s", error.text);
    }
    bytes_deinit(&text);
    return result;
}

static int read_path(struct cli *c, const char *path, struct spec_list *list)
{
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return cli_say_failed("cannot read %s: %s", path, strerror(errno));
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
        return cli_say_failed("cannot read %s: %s", path, strerror(errno));
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
    const char *path = c->values[OPT_FILE].text;
    struct stat info;
    if (path == NULL) {
        return cli_say_usage(c, "-f FILE is needed");
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
        result = cli_say_failed("%s: there is no spec in it", path);
    }
    return result;
}

/* ---- What is there, and what is wanted ---------------------------------------------------------- */

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
    return copy_name(c, s->kind == SPEC_SHARD ? thole_v1_Shard_name((thole_v1_Shard *)s->row)
                                              : thole_v1_Host_name((thole_v1_Host *)s->row));
}

enum thole_code apply_current(struct cli *c, const struct spec *s, const void **ret,
                              struct thole_status *st)
{
    const char *name = apply_name(c, s);
    *ret = NULL;
    enum thole_code code = s->kind == SPEC_SHARD
                               ? rows_get_shard(c, name, false, (const thole_v1_Shard **)ret, st)
                               : rows_get_host(c, name, false, (const thole_v1_Host **)ret, st);
    return code == THOLE_NOT_FOUND && s->kind == SPEC_SHARD ? THOLE_OK : code;
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

bool apply_same(struct cli *c, const struct spec *s, const void *current)
{
    if (current == NULL) {
        return false;
    }
    if (s->kind == SPEC_SHARD) {
        const upb_MiniTable *kind = &thole_v1_ShardSpec_msginit;
        return upb_StringView_IsEqual(
            encoded(c, thole_v1_Shard_spec((thole_v1_Shard *)s->row), kind),
            encoded(c, thole_v1_Shard_spec(current), kind));
    }
    const thole_v1_HostSpec *is = thole_v1_Host_spec(current);
    thole_v1_HostSpec *wanted = thole_v1_Host_mutable_spec((thole_v1_Host *)s->row, c->arena);
    if (thole_v1_HostSpec_state(wanted) == 0 && is != NULL) { /* it stays as it is */
        thole_v1_HostSpec_set_state(wanted, thole_v1_HostSpec_state(is));
    }
    return upb_StringView_IsEqual(encoded(c, wanted, &thole_v1_HostSpec_msginit),
                                  encoded(c, is, &thole_v1_HostSpec_msginit));
}

/* ---- Apply ------------------------------------------------------------------------------------- */

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

static int apply_one(struct cli *c, const struct spec *s, uint64_t *ret_generation)
{
    struct thole_status st;
    const void *current = NULL;
    bool dry_run = cli_flag(c, OPT_DRY_RUN);
    const char *name = apply_name(c, s);
    char what[ROWS_NAME_BYTES];
    snprintf(what, sizeof(what), "%s:%zu: %s %s", s->source, s->line,
             s->kind == SPEC_SHARD ? "shard" : "host", name);
    if (apply_current(c, s, &current, &st) != THOLE_OK) {
        return cli_say_status(what, &st);
    }
    const char *verb = current == NULL ? "created" : "changed";
    if (apply_same(c, s, current)) {
        verb = "unchanged";
        *ret_generation = s->kind == SPEC_SHARD ? thole_v1_Shard_generation(current) : 0;
    } else if (s->kind == SPEC_SHARD) {
        const thole_v1_Shard *reply = NULL;
        if (send_shard(c, (thole_v1_Shard *)s->row, dry_run, &reply, &st) != THOLE_OK) {
            return cli_say_status(what, &st);
        }
        *ret_generation = thole_v1_Shard_generation(reply);
    } else if (send_host(c, (thole_v1_Host *)s->row, dry_run, &st) != THOLE_OK) {
        return cli_say_status(what, &st);
    }
    printf("%s/%s %s%s\n", s->kind == SPEC_SHARD ? "shards" : "hosts", name, verb,
           dry_run ? " (dry run)" : "");
    return CLI_OK;
}

int command_apply(struct cli *c)
{
    struct spec_list list = {0};
    int result = apply_read(c, &list);
    if (result != CLI_OK) { /* nothing is applied if not everything can be read */
        spec_list_deinit(&list);
        return result;
    }
    struct wait_item *items = xcalloc(list.count, sizeof(*items));
    size_t waiting = 0;
    for (size_t i = 0; i < list.count; i++) {
        uint64_t generation = 0;
        int one = apply_one(c, &list.items[i], &generation);
        result = result == CLI_OK ? one : result; /* the others are applied all the same */
        if (one == CLI_OK && list.items[i].kind == SPEC_SHARD) {
            items[waiting++] = (struct wait_item){.kind = ROWS_SHARDS,
                                                  .what = WAIT_READY,
                                                  .name = apply_name(c, &list.items[i]),
                                                  .generation = generation};
        }
    }
    fflush(stdout);
    if (result == CLI_OK && cli_flag(c, OPT_WAIT) && !cli_flag(c, OPT_DRY_RUN)) {
        result = wait_all(c, items, waiting, wait_timeout_ms(c));
    }
    free(items);
    spec_list_deinit(&list);
    return result == CLI_OK ? cli_flush() : result;
}
