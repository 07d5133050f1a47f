/* The table of options, and the parser. Options stand anywhere on the line, since their names mean
 * the same with every command; which command may have which is checked when the command is
 * known. */
#include <stdlib.h>
#include <string.h>

#include "agent/cli/cli.h"

const struct cli_option cli_options[OPT_OPTIONS] = {
    [OPT_ENDPOINTS] = {"endpoints", 'e', OPTION_TEXT, "HOST:PORT,...", "127.0.0.1:7400",
                       "THOLE_ENDPOINTS", "hosts to talk to; the first that answers is used"},
    [OPT_COMMAND_TIMEOUT] = {"command-timeout", 0, OPTION_DURATION, "TIME", "10s",
                             "THOLE_COMMAND_TIMEOUT", "how long one call may take"},
    [OPT_OUTPUT] = {"output", 'o', OPTION_CHOICE, "table|wide|json|yaml|name", "table",
                    "THOLE_OUTPUT", "form of what is printed"},
    [OPT_HELP] = {"help", 'h', OPTION_FLAG, NULL, NULL, NULL, "explain the command"},
    [OPT_VERSION] = {"version", 'V', OPTION_FLAG, NULL, NULL, NULL, "print the version"},
    [OPT_FILE] = {"file", 'f', OPTION_TEXT, "FILE|DIR|-", NULL, NULL,
                  "specs, YAML or JSON; of a directory all *.yaml, *.yml, *.json; - is stdin"},
    [OPT_DRY_RUN] = {"dry-run", 0, OPTION_FLAG, NULL, NULL, NULL,
                     "let the server check everything, and change nothing"},
    [OPT_WAIT] = {"wait", 0, OPTION_FLAG, NULL, NULL, NULL, "wait until it is done"},
    [OPT_TIMEOUT] = {"timeout", 0, OPTION_DURATION, "TIME", "60s", NULL,
                     "how long to wait; 0 is for ever"},
    [OPT_WATCH] = {"watch", 'w', OPTION_FLAG, NULL, NULL, NULL, "go on with changes, until ^C"},
    [OPT_FOR] = {"for", 0, OPTION_CHOICE, "ready|formed|deleted|drained", "ready", NULL,
                 "what to wait for"},
    [OPT_STALE] = {"stale", 0, OPTION_FLAG, NULL, NULL, NULL,
                   "answer from local state, which may be behind"},
    [OPT_MAX_STALENESS] = {"max-staleness", 0, OPTION_DURATION, "TIME", NULL, NULL,
                           "with --stale: refuse if the replica is cut off for longer"},
    [OPT_TEXT] = {"text", 0, OPTION_TEXT, "TEXT", NULL, NULL, "payload"},
    [OPT_DATA_FILE] = {"data-file", 0, OPTION_TEXT, "FILE|-", NULL, NULL,
                       "payload: the bytes of a file, or of stdin"},
    [OPT_DATA_BASE64] = {"data-base64", 0, OPTION_TEXT, "BASE64", NULL, NULL,
                         "payload; the answer is base64 too"},
    [OPT_SESSION] = {"session", 0, OPTION_NUMBER, "ID", NULL, NULL,
                     "with --sequence: apply at most once, see `thole session open`"},
    [OPT_SEQUENCE] = {"sequence", 0, OPTION_NUMBER, "N", NULL, NULL,
                      "counts the session's proposals, from 1"},
    [OPT_FROM] = {"from", 0, OPTION_TEXT, "HOST", NULL, NULL, "the host that has it now"},
    [OPT_TO] = {"to", 0, OPTION_TEXT, "HOST|REPLICA", NULL, NULL,
                "where to: a host, or (leadership) a replica id, else the best one"},
    [OPT_SHARD] = {"shard", 0, OPTION_TEXT, "NAME", NULL, NULL, "only of this shard"},
    [OPT_HOST] = {"host", 0, OPTION_TEXT, "NAME", NULL, NULL, "only on this host"},
    [OPT_OBJECT] = {"object", 0, OPTION_TEXT, "OBJECT", NULL, NULL,
                    "only about this, such as shards/orders"},
    [OPT_SINCE] = {"since-revision", 0, OPTION_NUMBER, "REVISION", NULL, NULL,
                   "events that came after it"},
    [OPT_LIMIT] = {"limit", 0, OPTION_NUMBER, "N", NULL, NULL, "at most so many"},
    [OPT_NON_VOTING] = {"non-voting", 0, OPTION_FLAG, NULL, NULL, NULL,
                        "the replica does not vote"},
    [OPT_ALLOW_MISSING] = {"allow-missing", 0, OPTION_FLAG, NULL, NULL, NULL,
                           "it is fine if there is none"},
    [OPT_COUNT] = {"count", 0, OPTION_NUMBER, "N", NULL, NULL, "end after so many"},
    [OPT_MODE] = {"mode", 0, OPTION_CHOICE, "async|unary", "async", NULL,
                  "through the library's asynchronous calls, or unary gRPC"},
    [OPT_SHARDS] = {"shards", 0, OPTION_TEXT, "N|NAME,...", "4", NULL,
                    "bench-0, bench-1, ... (created if missing), or these"},
    [OPT_IN_FLIGHT] = {"in-flight", 0, OPTION_NUMBER, "N", "1000", NULL,
                       "proposals outstanding at any time"},
    [OPT_PAYLOAD] = {"payload", 0, OPTION_NUMBER, "BYTES", "16", NULL, "size of a proposal"},
    [OPT_READ_SHARE] = {"read-share", 0, OPTION_NUMBER, "PERCENT", "0", NULL,
                        "how many are linearizable queries"},
    [OPT_SECONDS] = {"seconds", 0, OPTION_NUMBER, "N", "10", NULL, "how long to measure"},
    [OPT_WARMUP] = {"warmup", 0, OPTION_NUMBER, "N", "2", NULL, "seconds before that"},
    [OPT_VOTERS] = {"voters", 0, OPTION_NUMBER, "N", NULL, NULL,
                    "of shards that it creates; 3, or 1 with fewer hosts"},
    [OPT_CLEANUP] = {"cleanup", 0, OPTION_FLAG, NULL, NULL, NULL, "delete those shards at the end"},
    [OPT_YES] = {"yes", 0, OPTION_FLAG, NULL, NULL, NULL,
                 "do it; without it only the plan is shown"},
    [OPT_NAME] = {"name", 0, OPTION_TEXT, "NAME", NULL, NULL,
                  "of the host; made from its new id without it"},
};

bool cli__option_global(enum cli_option_id id)
{
    return id >= OPT_ENDPOINTS && id <= OPT_VERSION;
}

enum cli_option_id cli__option_find(const char *name, size_t size)
{
    for (unsigned id = 1; id < OPT_OPTIONS; id++) {
        if (strlen(cli_options[id].name) == size && memcmp(cli_options[id].name, name, size) == 0) {
            return (enum cli_option_id)id;
        }
    }
    return OPT_NONE;
}

static enum cli_option_id find_letter(char letter)
{
    for (unsigned id = 1; id < OPT_OPTIONS; id++) {
        if (cli_options[id].letter != 0 && cli_options[id].letter == letter) {
            return (enum cli_option_id)id;
        }
    }
    return OPT_NONE;
}

static bool is_choice(const char *choices, const char *text)
{
    size_t size = strlen(text);
    for (const char *at = choices; at != NULL && size > 0; at = strchr(at, '|')) {
        at += *at == '|';
        if (strncmp(at, text, size) == 0 && (at[size] == '|' || at[size] == '\0')) {
            return true;
        }
    }
    return false;
}

bool cli__set(struct cli *c, enum cli_option_id id, const char *text, const char *from)
{
    const struct cli_option *o = &cli_options[id];
    struct cli_value *v = &c->values[id];
    bool ok = true;
    switch (o->kind) {
    case OPTION_FLAG:
        ok = is_choice("true|false", text);
        v->number = strcmp(text, "true") == 0;
        break;
    case OPTION_TEXT:
        break;
    case OPTION_NUMBER:
        ok = cli__parse_number(text, &v->number);
        break;
    case OPTION_DURATION:
        ok = cli__parse_duration(text, &v->number);
        break;
    case OPTION_CHOICE:
        ok = is_choice(o->value, text);
        break;
    }
    if (!ok) {
        cli__say_usage(c, "%s: \"%s\" is no %s", from, text,
                       o->kind == OPTION_FLAG       ? "true or false"
                       : o->kind == OPTION_NUMBER   ? "number"
                       : o->kind == OPTION_DURATION ? "time such as 500ms, 10s, 5m"
                                                    : o->value);
        return false;
    }
    v->set = true;
    v->text = text;
    return true;
}

/* ---- The parser ------------------------------------------------------------------------------ */

struct words {
    int argc;
    const char *const *argv;
    int at;
};

/* The value of an option whose text after "=" (or after its letter) is `inline_text`, if any. */
static bool take_value(struct cli *c, struct words *w, enum cli_option_id id,
                       const char *inline_text, const char *shown)
{
    const struct cli_option *o = &cli_options[id];
    const char *text = inline_text;
    if (o->kind == OPTION_FLAG) {
        text = text != NULL ? text : "true";
    } else if (text == NULL) {
        if (w->at + 1 >= w->argc) {
            cli__say_usage(c, "%s needs a value: %s", shown, o->value);
            return false;
        }
        text = w->argv[++w->at];
    }
    return cli__set(c, id, text, shown);
}

static bool take_long(struct cli *c, struct words *w, const char *word)
{
    const char *name = word + 2;
    const char *equals = strchr(name, '=');
    size_t size = equals != NULL ? (size_t)(equals - name) : strlen(name);
    enum cli_option_id id = cli__option_find(name, size);
    if (id == OPT_NONE) {
        cli__say_usage(c, "there is no option --%.*s", (int)size, name);
        return false;
    }
    char shown[40];
    snprintf(shown, sizeof shown, "--%s", cli_options[id].name);
    return take_value(c, w, id, equals != NULL ? equals + 1 : NULL, shown);
}

static bool take_short(struct cli *c, struct words *w, const char *word)
{
    for (const char *at = word + 1; *at != '\0'; at++) {
        enum cli_option_id id = find_letter(*at);
        char shown[4] = {'-', *at, '\0', '\0'};
        if (id == OPT_NONE) {
            cli__say_usage(c, "there is no option %s", shown);
            return false;
        }
        if (cli_options[id].kind != OPTION_FLAG) {
            return take_value(c, w, id, at[1] != '\0' ? at + 1 + (at[1] == '=') : NULL, shown);
        }
        if (!take_value(c, w, id, NULL, shown)) {
            return false;
        }
    }
    return true;
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
        if (c->values[id].set && !allowed) {
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
        return cli__say_usage(c, "\"%s\" is too much; usage: thole %s %s", c->args[max],
                              command->name, command->arguments);
    }
    return CLI_OK;
}

int cli__parse(struct cli *c, int argc, const char *const *argv)
{
    struct words w = {argc, argv, 1};
    bool options = true;
    c->args = xcalloc((size_t)argc + 1, sizeof *c->args);
    for (; w.at < argc; w.at++) {
        const char *word = argv[w.at];
        bool ok = true;
        if (options && strcmp(word, "--") == 0) {
            options = false;
        } else if (options && word[0] == '-' && word[1] == '-') {
            ok = take_long(c, &w, word);
        } else if (options && word[0] == '-' && word[1] != '\0') {
            ok = take_short(c, &w, word);
        } else {
            c->args[c->arg_count++] = word;
        }
        if (!ok) {
            return CLI_USAGE;
        }
    }
    if (c->arg_count == 0) {
        return CLI_OK;
    }
    const char *second = c->arg_count > 1 ? c->args[1] : NULL;
    c->command = cli__command_find(c->args[0], second);
    if (c->command == NULL) {
        return cli__say_usage(c, "there is no command \"%s%s%s\"", c->args[0],
                              second != NULL ? " " : "", second != NULL ? second : "");
    }
    size_t words = strchr(c->command->name, ' ') != NULL ? 2 : 1;
    memmove(c->args, c->args + words, (c->arg_count - words) * sizeof *c->args);
    c->arg_count -= words;
    c->args[c->arg_count] = NULL;
    return check_command(c);
}
