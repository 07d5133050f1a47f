/* Shared by the files of the command line.
 *
 * Two tables, of commands and of options (commands.c, cli_options.c), make the parser, the help and
 * the completion. A command gets a `struct cli` with its arguments and options, writes data to
 * stdout and messages to stderr, and returns an exit code. */
#ifndef AGENT_CLI_CLI_H
#define AGENT_CLI_CLI_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <thole/status.h>
#include <upb/reflection.h>
#include <upb/upb.h>

#include "agent/options/options.h"
#include "base/buf.h"

/* Documented in docs/operations.md and in `thole help`. */
enum cli_exit {
    CLI_OK = 0,
    CLI_FAILED = 1,
    CLI_USAGE = 2,
    CLI_NOT_FOUND = 3,
    CLI_UNAVAILABLE = 4, /* no answer, no leader, or a timeout: try again */
    CLI_UNKNOWN = 5,     /* the outcome is unknown: the change may have happened */
    CLI_PARTIAL = 6,     /* backup and restore: some shards could not be saved or restored */
};

/* ---- Options (cli_options.c) ----------------------------------------------------------------- */

enum cli_option_id {
    OPT_NONE,
    /* Global. */
    OPT_ENDPOINTS,
    OPT_COMMAND_TIMEOUT,
    OPT_TLS_CA,
    OPT_TLS_CERT,
    OPT_TLS_KEY,
    OPT_TOKEN,
    OPT_TOKEN_FILE,
    OPT_OUTPUT,
    OPT_HELP,
    OPT_VERSION,
    /* Of some commands. */
    OPT_FILE,
    OPT_DRY_RUN,
    OPT_WAIT,
    OPT_TIMEOUT,
    OPT_WATCH,
    OPT_FOR,
    OPT_STALE,
    OPT_MAX_STALENESS,
    OPT_STREAM,
    OPT_TEXT,
    OPT_DATA_FILE,
    OPT_DATA_BASE64,
    OPT_KEY,
    OPT_SESSION,
    OPT_SEQUENCE,
    OPT_REQUEST_ID,
    OPT_FROM,
    OPT_TO,
    OPT_SHARD,
    OPT_HOST,
    OPT_OBJECT,
    OPT_SINCE,
    OPT_LIMIT,
    OPT_PREFIX,
    OPT_FROM_KEY,
    OPT_PREV_KV,
    OPT_REV,
    OPT_KEYS_ONLY,
    OPT_COUNT_ONLY,
    OPT_SORT_BY,
    OPT_ORDER,
    OPT_ESCAPED,
    OPT_HEX,
    OPT_LEASE,
    OPT_IGNORE_VALUE,
    OPT_IGNORE_LEASE,
    OPT_ONCE,
    OPT_PHYSICAL,
    OPT_NON_VOTING,
    OPT_ALLOW_MISSING,
    OPT_COUNT,
    OPT_MODE,
    OPT_SHARDS,
    OPT_IN_FLIGHT,
    OPT_PAYLOAD,
    OPT_READ_SHARE,
    OPT_SECONDS,
    OPT_WARMUP,
    OPT_VOTERS,
    OPT_CLEANUP,
    OPT_YES,
    OPT_NAME,
    OPT_DIR,
    OPT_DAYS,
    OPT_EXPIRES,
    OPT_VERIFY,
    OPT_KEYS,
    OPT_FROM_INDEX,
    OPT_KEEP,
    OPT_PARALLEL,
    OPT_NUMBER,
    OPT_OPTIONS, /* how many */
};

extern const struct option_def cli_options[OPT_OPTIONS];

struct cli;
struct thole_tls;
#define CLI_COMMAND_OPTIONS_MAX 16
struct cli_command {
    const char *name;      /* one to three words */
    const char *arguments; /* "SHARD KEY [VALUE]"; "..." after the last takes any number */
    const char *summary;
    const char *text; /* a longer help text; NULL: none */
    uint8_t options[CLI_COMMAND_OPTIONS_MAX];
    int (*run)(struct cli *c);
};
extern const struct cli_command cli_commands[];
extern const size_t cli_command_count;

struct cli {
    const struct cli_command *command;
    const char **args; /* the command's arguments, within options.arguments */
    size_t arg_count;
    struct options options; /* by enum cli_option_id */

    upb_DefPool *pool;
    upb_Arena *arena; /* lives as long as the process */
    struct bus_channel *channel;
    struct bus_tls *tls;             /* NULL: no TLS, or not read yet */
    char *token;                     /* NULL: none, or not read yet */
    struct cli_table_layout *layout; /* while watching */
};

/* Global options are allowed with every command. */
bool cli__option_global(enum cli_option_id id);
/* Flags and arguments; OK, or CLI_USAGE with a message on stderr. `c` is zeroed before. */
int cli__parse(struct cli *c, int argc, const char *const *argv);
/* Then environment, file and defaults, for what was not set. `config_path` NULL: the usual one. */
int cli__read_settings(struct cli *c, const char *config_path);
void cli__deinit(struct cli *c);
/* "shards/orders", "shard/orders" -> "orders" */
const char *cli__strip(const char *name, const char *kind);

static inline bool cli_flag(const struct cli *c, enum cli_option_id id)
{
    return c->options.values[id].number != 0;
}

/* NULL if it was not given and has no default. */
static inline const char *cli_text(const struct cli *c, enum cli_option_id id)
{
    return c->options.values[id].text;
}

static inline uint64_t cli_number(const struct cli *c, enum cli_option_id id)
{
    return c->options.values[id].number;
}

static inline bool cli_given(const struct cli *c, enum cli_option_id id)
{
    return options_given(&c->options, id);
}

/* ---- Words (words.c) ------------------------------------------------------------------------- */

/* Malloced. Control characters are shown as \xNN: everything printed from data passes through
 * it. */
char *cli__vtext(const char *format, va_list args) __attribute__((format(printf, 1, 0)));
/* The same on stdout, with a newline. */
void cli__line(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* One line on stderr: "thole: ...". Returns the code. */
int cli__say_usage(const struct cli *c, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
int cli__say_failed(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Prints what failed, the server's reason, and what to do. */
int cli__say_status(const char *what, const struct thole_status *st);
int cli__exit_of(enum thole_code code);
/* Progress and hints on stderr, without a prefix. */
void cli__note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Help (help.c), the manual page (manual.c), completion (cmd_completion.c). */
extern const char cli__about[], cli__settings[], cli__exit_codes[];
void cli__print_manual(FILE *out);
void cli__help_all(FILE *out);
void cli__help_command(FILE *out, const struct cli_command *command);
/* The command with the longest name that the words begin with. */
const struct cli_command *cli__command_find(const char *const *words, size_t count);
size_t cli__name_words(const char *name); /* how many words the name of a command has */
/* Are these the first words of the name? `*ret` is the rest of it. */
bool cli__name_begins(const char *name, const char *const *words, size_t count, const char **ret);
int cli__command_help(struct cli *c);
int cli__command_completion(struct cli *c);
/* NULL: not a shell that there is a script for. */
const char *cli__completion_script(const char *shell);
int cli__command_version(struct cli *c);

/* ---- Units (units.c) ------------------------------------------------------------------------- */

void cli__pause_ms(uint64_t ms);

/* "5s", "3m", "2h", "4d": for tables. */
const char *cli__age(int64_t since_ms, char *ret, size_t size);
const char *cli__time(int64_t time_ms, char *ret, size_t size);
const char *cli__bytes(uint64_t bytes, char *ret, size_t size);
bool cli__base64_decode(const char *text, size_t size, struct bytes *out);
void cli__base64_encode(struct slice bytes, struct bytes *out);

/* ---- Calls (cluster_client.c) ---------------------------------------------------------------- */

THOLE_MUST_CHECK enum thole_code cli__open_channel(struct cli *c, const char *addresses,
                                                   struct bus_channel **ret,
                                                   struct thole_status *st);
bool cli__has_tls(const struct cli *c);
void cli__tls_files(const struct cli *c,
                    struct thole_tls *ret); /* borrowed; after cli__open_channel */
enum thole_code cli__connect(struct cli *c, struct thole_status *st);
/* One unary call. Waits for a leader for as long as the command may take. The reply is in
 * `arena`. */
enum thole_code cli__call_in(struct cli *c, const char *path, const void *request,
                             const upb_MiniTable *request_kind, const upb_MiniTable *reply_kind,
                             upb_Arena *arena, void **ret, struct thole_status *st);
/* Did the call certainly change nothing, and may a retry succeed soon? */
bool cli__worth_a_retry(const struct thole_status *st);
uint32_t cli__timeout_ms(const struct cli *c);
/* Explains a failed call at `path` once more: NO_LEADER of the control plane is about shard zero,
 * and the command may have --stale. */
void cli__explain_no_leader(const struct cli *c, const char *path, struct thole_status *st);
/* A new request id, which makes it safe to repeat the request. */
upb_StringView cli__request_id(struct cli *c);

#define CLI_CALL(c, service, method, request, ret_reply, reply_type, st)                \
    cli__call_in((c), "/thole.v1." #service "/" #method, (request),                     \
                 &thole_v1_##method##Request_msginit, &thole_v1_##reply_type##_msginit, \
                 (c)->arena, (void **)(ret_reply), (st))

/* ---- Output (output.c, yaml_out.c, table.c) -------------------------------------------------- */

enum cli_format { FORMAT_TABLE, FORMAT_WIDE, FORMAT_JSON, FORMAT_YAML, FORMAT_NAME };
enum cli_format cli__format(const struct cli *c);
/* Without a newline. The format is described in json_out.c and docs/specs.md. */
void cli__json(const void *message, const upb_MessageDef *def, struct bytes *out);
void cli__json_string(struct slice s, struct bytes *out);
/* Is the output one document (-o json, yaml), with nothing else on stdout? */
bool cli__is_document(const struct cli *c);
/* {"kind": KIND, and the fields of the message}; cli__document prints it. */
void cli__json_object(const char *kind, const void *message, const upb_MessageDef *def,
                      struct bytes *out);
void cli__document(struct cli *c, const char *kind, const void *message, const upb_MessageDef *def);
/* The same in pieces. Members between the two calls begin with a comma. */
void cli__document_begin(struct bytes *out, const char *kind);
void cli__document_text(struct bytes *out, const char *name, const char *value);
void cli__document_number(struct bytes *out, const char *name, uint64_t value);
void cli__document_message(struct bytes *out, const char *name, const void *message,
                           const upb_MessageDef *def);
void cli__document_end(struct cli *c, struct bytes *out);
/* A block of YAML; `kind` (may be NULL) is its first line. False if `json` is not JSON. */
bool cli__yaml(const char *kind, struct slice json, struct bytes *out);
void cli__print(struct slice bytes); /* to stdout */
int cli__flush(void);                /* CLI_FAILED if stdout could not be written */

/* Consecutive tables, as with --watch: one header, and columns that only grow. */
#define CLI_TABLE_COLUMNS_MAX 24
struct cli_table_layout {
    bool begun;
    size_t widths[CLI_TABLE_COLUMNS_MAX];
};

struct cli_table;
/* Column names, NULL at the end; "+NAME" is only shown wide, ">NAME" is aligned right. */
struct cli_table *cli__table_new(bool wide, const char *const *columns);
void cli__table_row(struct cli_table *t);
void cli__table_cell(struct cli_table *t, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void cli__table_print(struct cli_table *t,
                      struct cli_table_layout *layout); /* frees `t`; layout NULL: a single table */

/* Strings of protobuf messages for printf: "%.*s", CLI_SV(v). */
#define CLI_SV(v) (int)(v).size, (v).data != NULL ? (v).data : ""
upb_StringView cli__sv(const char *text);

/* ---- Commands -------------------------------------------------------------------------------- */

int cli__command_status(struct cli *c);
int cli__command_members(struct cli *c);
int cli__command_doctor(struct cli *c);
int cli__command_top(struct cli *c);
int cli__command_apply(struct cli *c);
int cli__command_diff(struct cli *c);
int cli__command_get(struct cli *c);
int cli__command_describe(struct cli *c);
int cli__command_delete(struct cli *c);
int cli__command_wait(struct cli *c);
int cli__command_propose(struct cli *c);
int cli__command_query(struct cli *c);
int cli__command_watch(struct cli *c);
int cli__command_session_open(struct cli *c);
int cli__command_session_close(struct cli *c);
int cli__command_kv_put(struct cli *c);
int cli__command_kv_get(struct cli *c);
int cli__command_kv_delete(struct cli *c);
int cli__command_kv_txn(struct cli *c);
int cli__command_kv_watch(struct cli *c);
int cli__command_kv_history(struct cli *c);
int cli__command_kv_compact(struct cli *c);
int cli__command_kv_status(struct cli *c);
int cli__command_kv_lease_grant(struct cli *c);
int cli__command_kv_lease_revoke(struct cli *c);
int cli__command_kv_lease_timetolive(struct cli *c);
int cli__command_kv_lease_list(struct cli *c);
int cli__command_kv_lease_keep_alive(struct cli *c);
int cli__command_kv_cas(struct cli *c);
int cli__command_shard_transfer(struct cli *c);
int cli__command_replica_create(struct cli *c);
int cli__command_replica_delete(struct cli *c);
int cli__command_host_cordon(struct cli *c);
int cli__command_host_uncordon(struct cli *c);
int cli__command_host_drain(struct cli *c);
int cli__command_repair_shard(struct cli *c);
int cli__command_repair_zero(struct cli *c);
int cli__command_host_undrain(struct cli *c);
int cli__command_host_log_level(struct cli *c);
int cli__command_debug_bundle(struct cli *c);
int cli__command_debug_log(struct cli *c);
int cli__command_debug_state(struct cli *c);
int cli__command_host_decommission(struct cli *c);
int cli__command_shard_move(struct cli *c);
int cli__command_rebalance(struct cli *c);
int cli__command_operation_wait(struct cli *c);
int cli__command_operation_cancel(struct cli *c);
int cli__command_pause(struct cli *c);
int cli__command_resume(struct cli *c);
int cli__command_snapshot_save(struct cli *c);
int cli__command_snapshot_status(struct cli *c);
int cli__command_snapshot_restore(struct cli *c);
int cli__command_snapshot_restore_zero(struct cli *c);
int cli__command_backup(struct cli *c);
int cli__command_restore(struct cli *c);
int cli__command_backup_list(struct cli *c);
int cli__command_backup_verify(struct cli *c);
int cli__command_bench(struct cli *c);
int cli__command_token_create(struct cli *c);
int cli__command_token_list(struct cli *c);
int cli__command_token_revoke(struct cli *c);
int cli__command_cert_ca(struct cli *c);
int cli__command_cert_host(struct cli *c);
int cli__command_cert_client(struct cli *c);
int cli__command_cert_revoke(struct cli *c);

#endif
