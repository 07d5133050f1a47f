/* The options of `thole`, and which command may have which. An option means the same with every
 * command, so flags may stand before the command. agent/options has the parser. */
#include <stdlib.h>
#include <string.h>

#include "agent/cli/cli.h"
#include "agent/cli/cmd_bench.h"
#include "base/address.h"

/* As bus_channel_new reads them: separated by commas, with or without blanks. */
static enum thole_code check_endpoints(const char *origin, const char *text,
                                       struct thole_status *st)
{
    char *copy = xstrdup(text), *save = NULL;
    char *endpoint = strtok_r(copy, ", ", &save);
    enum thole_code code = THOLE_OK;
    if (endpoint == NULL) {
        code = address_check(origin, slice_str(text), ADDRESS_REACH, st);
    }
    for (; endpoint != NULL && code == THOLE_OK; endpoint = strtok_r(NULL, ", ", &save)) {
        code = address_check(origin, slice_str(endpoint), ADDRESS_REACH, st);
    }
    free(copy);
    return code;
}

const struct option_def cli_options[OPT_OPTIONS] = {
    [OPT_ENDPOINTS] = {.name = "endpoints",
                       .letter = 'e',
                       .kind = OPTION_TEXT,
                       .value = "HOST:PORT,...",
                       .standard = "127.0.0.1:7400",
                       .environment = "THOLE_ENDPOINTS",
                       .in_file = true,
                       .check = check_endpoints,
                       .help = "hosts to call; the first that answers is used"},
    [OPT_COMMAND_TIMEOUT] = {.name = "command-timeout",
                             .kind = OPTION_DURATION,
                             .value = "TIME",
                             .standard = "10s",
                             .environment = "THOLE_COMMAND_TIMEOUT",
                             .in_file = true,
                             .help = "longest time that one call may take"},
    [OPT_TLS_CA] = {.name = "tls-ca",
                    .kind = OPTION_TEXT,
                    .value = "FILE",
                    .environment = "THOLE_TLS_CA",
                    .in_file = true,
                    .help = "call over TLS: CAs that sign certificates of hosts (PEM)"},
    [OPT_TLS_CERT] = {.name = "tls-cert",
                      .kind = OPTION_TEXT,
                      .value = "FILE",
                      .environment = "THOLE_TLS_CERT",
                      .in_file = true,
                      .help = "certificate of the user who calls (PEM); see thole cert user"},
    [OPT_TLS_KEY] = {.name = "tls-key",
                     .kind = OPTION_TEXT,
                     .value = "FILE",
                     .environment = "THOLE_TLS_KEY",
                     .in_file = true,
                     .help = "its private key (PEM, without a password)"},
    [OPT_TOKEN] = {.name = "token",
                   .kind = OPTION_TEXT,
                   .value = "TOKEN",
                   .environment = "THOLE_TOKEN",
                   .help = "bearer token of the user who calls; see thole token create. Others on "
                           "this machine may see arguments: prefer the variable or the file"},
    [OPT_TOKEN_FILE] = {.name = "token-file",
                        .kind = OPTION_TEXT,
                        .value = "FILE",
                        .environment = "THOLE_TOKEN_FILE",
                        .in_file = true,
                        .help = "file with the bearer token"},
    [OPT_OUTPUT] = {.name = "output",
                    .letter = 'o',
                    .kind = OPTION_CHOICE,
                    .value = "table|wide|json|yaml|name",
                    .standard = "table",
                    .environment = "THOLE_OUTPUT",
                    .in_file = true,
                    .help = "output format"},
    [OPT_HELP] = {.name = "help",
                  .letter = 'h',
                  .kind = OPTION_FLAG,
                  .help = "explain the command"},
    [OPT_VERSION] = {.name = "version",
                     .letter = 'V',
                     .kind = OPTION_FLAG,
                     .help = "print the version"},
    [OPT_FILE] = {.name = "file",
                  .letter = 'f',
                  .kind = OPTION_TEXT,
                  .value = "FILE|DIR|-",
                  .help =
                      "specs, YAML or JSON; of a directory all *.yaml, *.yml, *.json; - is stdin"},
    [OPT_DRY_RUN] = {.name = "dry-run",
                     .kind = OPTION_FLAG,
                     .help = "let the server check the request and change nothing"},
    [OPT_WAIT] = {.name = "wait", .kind = OPTION_FLAG, .help = "wait until it is done"},
    [OPT_TIMEOUT] = {.name = "timeout",
                     .kind = OPTION_DURATION,
                     .value = "TIME",
                     .standard = "60s",
                     .help = "longest time to wait; 0 waits for ever"},
    [OPT_WATCH] = {.name = "watch",
                   .letter = 'w',
                   .kind = OPTION_FLAG,
                   .help = "then print changes as they happen, until ^C"},
    [OPT_FOR] = {.name = "for",
                 .kind = OPTION_TEXT,
                 .value = "STATE|USER",
                 .help = "state to wait for: ready (the default), formed, deleted or drained; of a "
                         "token: its user"},
    [OPT_STALE] = {.name = "stale",
                   .kind = OPTION_FLAG,
                   .help = "answer from the called host's state, which may be behind"},
    [OPT_MAX_STALENESS] =
        {.name = "max-staleness",
         .kind = OPTION_DURATION,
         .value = "TIME",
         .help = "with --stale: refuse if the replica has not heard from a leader for longer"},
    [OPT_STREAM] = {.name = "stream",
                    .kind = OPTION_FLAG,
                    .help = "write an answer of any size to standard output, as it comes"},
    [OPT_TEXT] = {.name = "text", .kind = OPTION_TEXT, .value = "TEXT", .help = "payload"},
    [OPT_DATA_FILE] = {.name = "data-file",
                       .kind = OPTION_TEXT,
                       .value = "FILE|-",
                       .help = "payload: the bytes of a file, or of stdin"},
    [OPT_DATA_BASE64] = {.name = "data-base64",
                         .kind = OPTION_TEXT,
                         .value = "BASE64",
                         .help = "payload in base64; the answer is base64, too"},
    [OPT_KEY] = {.name = "key",
                 .kind = OPTION_TEXT,
                 .value = "KEY",
                 .help = "SHARD is a pool with keys: its shard that owns the key's slot"},
    [OPT_SESSION] = {.name = "session",
                     .kind = OPTION_NUMBER,
                     .value = "ID",
                     .help = "with --sequence: apply at most once, see `thole session open`"},
    [OPT_SEQUENCE] = {.name = "sequence",
                      .kind = OPTION_NUMBER,
                      .value = "N",
                      .help = "number of the proposal in its session, from 1"},
    [OPT_REQUEST_ID] = {.name = "request-id",
                        .kind = OPTION_TEXT,
                        .value = "ID",
                        .help = "apply at most once: a repeat within two minutes gets the first "
                                "answer"},
    [OPT_FROM] = {.name = "from",
                  .kind = OPTION_TEXT,
                  .value = "HOST",
                  .help = "host that has the replica now"},
    [OPT_TO] = {.name = "to",
                .kind = OPTION_TEXT,
                .value = "HOST|REPLICA",
                .help =
                    "target host, or the id of the replica that shall lead; default: the best one"},
    [OPT_SHARD] = {.name = "shard",
                   .kind = OPTION_TEXT,
                   .value = "SHARD",
                   .help = "only of this shard"},
    [OPT_HOST] = {.name = "host",
                  .kind = OPTION_TEXT,
                  .value = "HOST",
                  .help = "only on this host"},
    [OPT_OBJECT] = {.name = "object",
                    .kind = OPTION_TEXT,
                    .value = "OBJECT",
                    .help = "only events about this object, such as shards/orders"},
    [OPT_SINCE] = {.name = "since-revision",
                   .kind = OPTION_NUMBER,
                   .value = "REVISION",
                   .help = "only events after this revision"},
    [OPT_LIMIT] = {.name = "limit", .kind = OPTION_NUMBER, .value = "N", .help = "print at most N"},
    [OPT_PREFIX] = {.name = "prefix", .kind = OPTION_FLAG, .help = "all keys that begin with KEY"},
    [OPT_FROM_KEY] = {.name = "from-key", .kind = OPTION_FLAG, .help = "KEY and all keys after it"},
    [OPT_PREV_KV] = {.name = "prev-kv",
                     .kind = OPTION_FLAG,
                     .help = "with what each key was before the change"},
    [OPT_REV] = {.name = "rev",
                 .kind = OPTION_NUMBER,
                 .value = "REVISION",
                 .help = "get: keys as they were at this revision; watch: begin with its "
                         "changes (without it: from now on)"},
    [OPT_KEYS_ONLY] = {.name = "keys-only", .kind = OPTION_FLAG, .help = "keys without values"},
    [OPT_COUNT_ONLY] = {.name = "count-only",
                        .kind = OPTION_FLAG,
                        .help = "print only how many keys there are"},
    [OPT_SORT_BY] = {.name = "sort-by",
                     .kind = OPTION_CHOICE,
                     .value = "key|version|create|modify|value",
                     .help = "sort by this; the whole answer has then at most 3.25 MiB"},
    [OPT_ORDER] = {.name = "order",
                   .kind = OPTION_CHOICE,
                   .value = "ascend|descend",
                   .help = "sort so; the whole answer has then at most 3.25 MiB"},
    [OPT_ESCAPED] = {.name = "escaped",
                     .kind = OPTION_FLAG,
                     .help = "arguments with keys and values have escapes: \\xNN, \\n, \\t, "
                             "\\\\"},
    [OPT_HEX] = {.name = "hex",
                 .kind = OPTION_FLAG,
                 .help = "print every byte of keys and values as \\xNN"},
    [OPT_LEASE] = {.name = "lease",
                   .kind = OPTION_TEXT,
                   .value = "LEASE",
                   .help = "attach the key to this lease, see `thole kv lease grant`"},
    [OPT_IGNORE_VALUE] = {.name = "ignore-value",
                          .kind = OPTION_FLAG,
                          .help = "keep the value of the key, which must exist"},
    [OPT_IGNORE_LEASE] = {.name = "ignore-lease",
                          .kind = OPTION_FLAG,
                          .help = "keep the lease of the key, which must exist"},
    [OPT_ONCE] = {.name = "once", .kind = OPTION_FLAG, .help = "renew it once"},
    [OPT_PHYSICAL] = {.name = "physical",
                      .kind = OPTION_FLAG,
                      .help = "wait until what was dropped is gone"},
    [OPT_NON_VOTING] = {.name = "non-voting",
                        .kind = OPTION_FLAG,
                        .help = "create a replica that does not vote"},
    [OPT_ALLOW_MISSING] = {.name = "allow-missing",
                           .kind = OPTION_FLAG,
                           .help = "succeed if the object does not exist"},
    [OPT_COUNT] = {.name = "count",
                   .kind = OPTION_NUMBER,
                   .value = "N",
                   .help = "end after N changes"},
    [OPT_MODE] = {.name = "mode",
                  .kind = OPTION_CHOICE,
                  .value = "async|unary",
                  .standard = "async",
                  .help = "use the library's asynchronous calls, or unary gRPC"},
    [OPT_SHARDS] = {.name = "shards",
                    .kind = OPTION_TEXT,
                    .value = "N|NAME,...",
                    .standard = "4",
                    .help = "use bench-0, bench-1, ... (created if missing), or the named shards"},
    [OPT_IN_FLIGHT] = {.name = "in-flight",
                       .kind = OPTION_NUMBER,
                       .min = 1,
                       .max = BENCH_IN_FLIGHT_MAX,
                       .value = "N",
                       .standard = "1000",
                       .help = "requests in flight at any time"},
    [OPT_PAYLOAD] = {.name = "payload",
                     .kind = OPTION_NUMBER,
                     .max = 1 << 20,
                     .value = "BYTES",
                     .standard = "16",
                     .help = "size of a proposal"},
    [OPT_READ_SHARE] = {.name = "read-share",
                        .kind = OPTION_NUMBER,
                        .max = 100,
                        .value = "PERCENT",
                        .standard = "0",
                        .help = "share of requests that are linearizable queries"},
    [OPT_SECONDS] = {.name = "seconds",
                     .kind = OPTION_NUMBER,
                     .value = "N",
                     .min = 1,
                     .max = 86400,
                     .standard = "10",
                     .help = "how long to measure"},
    [OPT_WARMUP] = {.name = "warmup",
                    .kind = OPTION_NUMBER,
                    .value = "N",
                    .max = 86400,
                    .standard = "2",
                    .help = "seconds of load before the measurement"},
    [OPT_VOTERS] = {.name = "voters",
                    .kind = OPTION_NUMBER,
                    .value = "N",
                    .help = "voters of shards that it creates; default: 3, or 1 with fewer hosts"},
    [OPT_CLEANUP] = {.name = "cleanup",
                     .kind = OPTION_FLAG,
                     .help = "delete the created shards at the end"},
    [OPT_YES] = {.name = "yes",
                 .kind = OPTION_FLAG,
                 .help = "do it; without this flag only the plan is shown"},
    [OPT_NAME] = {.name = "name",
                  .kind = OPTION_TEXT,
                  .value = "NAME",
                  .help = "name of the new host; default: made from its id"},
    [OPT_DIR] = {.name = "dir",
                 .kind = OPTION_TEXT,
                 .value = "DIR",
                 .standard = ".",
                 .help = "folder of the CA (ca.crt, ca.key) and of what is made"},
    [OPT_VERIFY] = {.name = "verify",
                    .kind = OPTION_FLAG,
                    .help = "verify every checksum of the directory, and say what is damaged"},
    [OPT_KEYS] = {.name = "keys",
                  .kind = OPTION_FLAG,
                  .help = "also list the keys: of kv shards, or of the lease"},
    [OPT_FROM_INDEX] = {.name = "from-index",
                        .kind = OPTION_NUMBER,
                        .value = "N",
                        .help = "only entries from this index on"},
    [OPT_EXPIRES] = {.name = "expires",
                     .kind = OPTION_DURATION,
                     .value = "TIME",
                     .standard = "90d",
                     .max = UINT64_C(3650) * 24 * 3600 * 1000,
                     .help = "how long the token is valid, at most 3650d"},
    [OPT_DAYS] = {.name = "days",
                  .kind = OPTION_NUMBER,
                  .value = "N",
                  .min = 1,
                  .max = 36500,
                  .help = "how long it is valid (default: 365, a CA 3650)"},
    [OPT_KEEP] = {.name = "keep",
                  .kind = OPTION_NUMBER,
                  .value = "N",
                  .max = 1000000,
                  .help = "then remove all backups before the newest N complete ones; 0: none"},
    [OPT_PARALLEL] = {.name = "parallel",
                      .kind = OPTION_NUMBER,
                      .value = "N",
                      .min = 1,
                      .max = 16,
                      .standard = "4",
                      .help = "shards at a time"},
    [OPT_NUMBER] = {.name = "number",
                    .kind = OPTION_NUMBER,
                    .value = "N",
                    .help = "the backup of this number"},
};

/* Global options are allowed with every command. */
bool cli__option_global(enum cli_option_id id)
{
    return id >= OPT_ENDPOINTS && id <= OPT_VERSION;
}

/* How many arguments a command takes, from their description. */
static void count_arguments(const char *text, size_t *ret_min, size_t *ret_max)
{
    *ret_min = *ret_max = 0;
    for (const char *at = text; *at != '\0';) {
        size_t size = strcspn(at, " ");
        if (at[0] != '[') {
            ++*ret_min;
        }
        ++*ret_max;
        if (memmem(at, size, "...", 3) != NULL) {
            *ret_max = SIZE_MAX;
        }
        at += size + (at[size] == ' ');
    }
}

static int check_command(struct cli *c)
{
    const struct cli_command *command = c->command;
    for (unsigned id = 1; id < OPT_OPTIONS; id++) {
        bool allowed = cli__option_global((enum cli_option_id)id) ||
                       memchr(command->options, (int)id, sizeof command->options) != NULL;
        if (options_given(&c->options, id) && !allowed) {
            return cli__say_usage(c, "`thole %s` has no option --%s", command->name,
                                  cli_options[id].name);
        }
    }
    if (cli_flag(c, OPT_HELP)) {
        return CLI_OK;
    }
    size_t min = 0, max = 0;
    count_arguments(command->arguments, &min, &max);
    if (c->arg_count < min) {
        return cli__say_usage(c, "usage: thole %s %s", command->name, command->arguments);
    }
    if (c->arg_count > max) {
        return cli__say_usage(c, "unexpected argument \"%s\"; usage: thole %s %s", c->args[max],
                              command->name, command->arguments);
    }
    return CLI_OK;
}

int cli__parse(struct cli *c, int argc, const char *const *argv)
{
    struct thole_status st;
    options_init(&c->options, cli_options, OPT_OPTIONS);
    if (options_read_arguments(&c->options, argc, argv, &st) != THOLE_OK) {
        return cli__say_usage(c, "%s", st.message);
    }
    c->args = c->options.arguments;
    c->arg_count = c->options.argument_count;
    if (c->arg_count == 0) {
        return CLI_OK;
    }
    const char *second = c->arg_count > 1 ? c->args[1] : NULL;
    c->command = cli__command_find(c->args, c->arg_count);
    if (c->command == NULL) {
        return cli__say_usage(c, "there is no command \"%s%s%s\"", c->args[0],
                              second != NULL ? " " : "", second != NULL ? second : "");
    }
    size_t words = cli__name_words(c->command->name);
    c->args += words;
    c->arg_count -= words;
    return check_command(c);
}

/* False if neither XDG_CONFIG_HOME nor HOME is set. */
static bool default_config_path(char *ret, size_t size)
{
    const char *base = getenv("XDG_CONFIG_HOME");
    const char *home = getenv("HOME");
    if (base != NULL && base[0] == '/') {
        snprintf(ret, size, "%s/thole/config.yaml", base);
    } else if (home != NULL) {
        snprintf(ret, size, "%s/.config/thole/config.yaml", home);
    } else {
        return false;
    }
    return true;
}

int cli__read_settings(struct cli *c, const char *config_path)
{
    struct thole_status st;
    struct options *o = &c->options;
    char standard[512];
    if (config_path == NULL && default_config_path(standard, sizeof standard)) {
        config_path = standard;
    }
    enum thole_code code = options_read_environment(o, &st);
    if (code == THOLE_OK && config_path != NULL) {
        code = options_read_file(o, config_path, &st);
        code = code == THOLE_NOT_FOUND ? THOLE_OK : code; /* the file is optional */
    }
    if (code == THOLE_OK) {
        code = options_complete(o, &st);
    }
    return code == THOLE_OK ? CLI_OK : cli__say_usage(c, "%s", st.message);
}
