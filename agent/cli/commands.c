/* The table of commands: the parser, the help and the completion are made from it. */
#include <string.h>

#include "agent/cli/cli.h"

const struct cli_command cli_commands[] = {
    {"status",
     "",
     "show the cluster: hosts, shards, leaders, what is not ready",
     NULL,
     {0},
     cli__command_status},
    {"top",
     "",
     "show hosts and shards as they change: leaders, rates, lag, health, operations",
     "Follows the cluster's rows; load is asked of each host every two seconds. Keys: tab changes\n"
     "between shards, operations and events (since it began); s sorts, / filters, arrows scroll,\n"
     "q quits. A column per host says what it has of a shard: L leader, v voter, n non-voting,\n"
     "w witness, + not running yet, x being removed, ! failed, ? its host does not answer. LAG is\n"
     "what the slowest replica has not applied. Without a terminal it prints one screen.",
     {0},
     cli__command_top},
    {"doctor",
     "[DIR]",
     "say what is wrong with the cluster, or a data directory, and what to do about it",
     "Looks at shard zero, hosts, disks, clocks, certificates, versions, shards and\n"
     "operations, and calls every host at its own address. With DIR, the data directory of a\n"
     "host that does not run: verifies every checksum, and looks at modes, disk space, replicas\n"
     "and unfinished repairs; nothing in it is changed. Exits 0 if nothing is wrong (remarks do\n"
     "not count), 1 if something is.",
     {0},
     cli__command_doctor},
    {"get",
     "hosts|shards|pools|replicas|operations|events|roles|tokens [NAME]",
     "list objects",
     "With NAME only that object; a replica or operation has its id as NAME, events have their "
     "object.",
     {OPT_WATCH, OPT_SHARD, OPT_HOST, OPT_OBJECT, OPT_SINCE, OPT_LIMIT, OPT_STALE},
     cli__command_get},
    {"describe",
     "host|shard|pool|role NAME",
     "show one object: spec, conditions, replicas, events",
     NULL,
     {OPT_STALE},
     cli__command_describe},
    {"apply",
     "",
     "create or change objects as the specs say",
     "A spec is a YAML or JSON document, several in a file separated by ---:\n\n"
     "  kind: Shard\n  name: orders\n  spec:\n    type: kv\n    voters: 3\n"
     "    constraints:\n      - {key: zone, operator: IN, values: [a, b]}\n\n"
     "or kind: ShardPool, with count and shard (the spec of each), or kind: Host, with tags, "
     "state\n"
     "and capacity, or kind: Role, with rules, data and members; see docs/specs.md. Field names\n"
     "are as in the API, or in camelCase. With an etag the spec is changed only if nobody else\n"
     "has changed it meanwhile.",
     {OPT_FILE, OPT_DRY_RUN, OPT_WAIT, OPT_TIMEOUT},
     cli__command_apply},
    {"diff",
     "",
     "show what apply would change; exits 0 without differences, 1 with some, 2 or more on errors",
     NULL,
     {OPT_FILE},
     cli__command_diff},
    {"delete",
     "shard|pool|replica|host|role NAME",
     "delete a shard, a pool with its shards, a replica (by id), a drained host, or a role",
     NULL,
     {OPT_WAIT, OPT_TIMEOUT, OPT_ALLOW_MISSING},
     cli__command_delete},
    {"wait",
     "KIND/NAME...",
     "wait for a state, such as `wait --for ready shard/orders`",
     NULL,
     {OPT_FOR, OPT_TIMEOUT},
     cli__command_wait},
    {"propose",
     "SHARD [TEXT...]",
     "propose to a shard; prints the machine's answer",
     "The machine defines what the text means; kv: \"put KEY VALUE\", counter: \"add 1\".",
     {OPT_KEY, OPT_TEXT, OPT_DATA_FILE, OPT_DATA_BASE64, OPT_SESSION, OPT_SEQUENCE, OPT_REQUEST_ID},
     cli__command_propose},
    {"query",
     "SHARD [TEXT...]",
     "query a shard; linearizable without --stale",
     "The machine defines what the text means; kv: \"get KEY\", counter: \"get\".",
     {OPT_KEY, OPT_TEXT, OPT_DATA_FILE, OPT_DATA_BASE64, OPT_STALE, OPT_MAX_STALENESS, OPT_STREAM},
     cli__command_query},
    {"watch",
     "SHARD",
     "print a shard's changes as they happen",
     NULL,
     {OPT_KEY, OPT_COUNT},
     cli__command_watch},
    {"session open",
     "SHARD",
     "open a session, in which proposals are applied exactly once",
     NULL,
     {OPT_KEY},
     cli__command_session_open},
    {"session close",
     "SHARD SESSION",
     "close a session: the shard forgets its answers",
     "Succeeds if the session is not open.",
     {OPT_KEY},
     cli__command_session_close},
    {"kv put",
     "SHARD KEY [VALUE]",
     "set a key of a kv shard, or of a pool of them that has keys",
     "VALUE is text, @FILE the content of a file, @- (or no VALUE) stdin; a text that begins with\n"
     "@ is written with one @ more. Prints nothing, or with --prev-kv what the key was.",
     {OPT_LEASE, OPT_PREV_KV, OPT_IGNORE_VALUE, OPT_IGNORE_LEASE, OPT_ESCAPED, OPT_HEX, OPT_KEY},
     cli__command_kv_put},
    {"kv get",
     "SHARD [KEY [END]]",
     "print a key's value, or keys with values from KEY up to before END; without KEY all",
     "Of KEY alone the value, as it is; exits 3 if the key does not exist. Of several keys a line\n"
     "\"KEY VALUE\" each, in which bytes that are not text are \\xNN; -o wide adds revisions and\n"
     "leases, -o name leaves values out. All lines are of one revision.",
     {OPT_PREFIX, OPT_FROM_KEY, OPT_KEYS_ONLY, OPT_COUNT_ONLY, OPT_REV, OPT_LIMIT, OPT_SORT_BY,
      OPT_ORDER, OPT_ESCAPED, OPT_HEX, OPT_KEY, OPT_STALE},
     cli__command_kv_get},
    {"kv del",
     "SHARD KEY [END]",
     "delete a key, or keys from KEY up to before END",
     "Of KEY alone: exits 3 if the key does not exist.",
     {OPT_PREFIX, OPT_FROM_KEY, OPT_PREV_KV, OPT_ESCAPED, OPT_HEX, OPT_KEY},
     cli__command_kv_delete},
    {"kv cas",
     "SHARD KEY EXPECTED VALUE",
     "set a key if its value is EXPECTED",
     "EXPECTED and VALUE are as the VALUE of `thole kv put`.",
     {OPT_ESCAPED, OPT_KEY},
     cli__command_kv_cas},
    {"kv txn",
     "SHARD [FILE|-]",
     "compare, then do one of two lists of operations, in one revision",
     "Three parts, each ended by an empty line, as etcdctl has them: comparisons, operations if\n"
     "all of them are true, operations if not.\n\n"
     "  mod(\"key1\") > \"0\"\n"
     "  value(\"key2\") = \"old\"\n\n"
     "  put key2 \"a new one\"\n"
     "  add counter 1\n\n"
     "  get key1 --prefix\n\n"
     "Comparisons are of value, version, create, mod and lease, with =, !=, > and <. Operations\n"
     "are put, get and del with the options of their commands, and add, min, max and append,\n"
     "which make the new value from the old one. Prints SUCCESS or FAILURE, then what each\n"
     "operation answered.",
     {OPT_HEX, OPT_KEY},
     cli__command_kv_txn},
    {"kv watch",
     "SHARD [KEY [END]]",
     "print the changes of a key, of keys from KEY up to before END, or of all keys",
     "One line each: REVISION put KEY VALUE, or REVISION delete KEY. Nothing is lost or printed "
     "twice when hosts fail or the shard moves.",
     {OPT_REV, OPT_PREFIX, OPT_FROM_KEY, OPT_PREV_KV, OPT_COUNT, OPT_ESCAPED, OPT_HEX, OPT_KEY},
     cli__command_kv_watch},
    {"kv history",
     "SHARD KEY",
     "print the changes of a key that are still kept, oldest first",
     "As `thole kv watch` does. A compaction drops what was superseded before its revision.",
     {OPT_ESCAPED, OPT_HEX, OPT_KEY},
     cli__command_kv_history},
    {"kv compact",
     "SHARD REVISION",
     "drop what was superseded before a revision",
     "Reads and watches below it fail from then on.",
     {OPT_PHYSICAL, OPT_KEY},
     cli__command_kv_compact},
    {"kv status",
     "SHARD",
     "show a shard's revision, keys and size",
     NULL,
     {OPT_KEY, OPT_STALE},
     cli__command_kv_status},
    {"kv lease grant",
     "SHARD SECONDS",
     "create a lease, and print its id",
     "Keys that were put with --lease go with it, SECONDS after its last renewal. Time without a\n"
     "leader does not count.",
     {OPT_KEY},
     cli__command_kv_lease_grant},
    {"kv lease revoke",
     "SHARD LEASE",
     "delete a lease and its keys",
     NULL,
     {OPT_KEY},
     cli__command_kv_lease_revoke},
    {"kv lease timetolive",
     "SHARD LEASE",
     "show how much of a lease is left",
     NULL,
     {OPT_KEYS, OPT_HEX, OPT_KEY},
     cli__command_kv_lease_timetolive},
    {"kv lease list",
     "SHARD",
     "list the ids of leases",
     NULL,
     {OPT_KEY},
     cli__command_kv_lease_list},
    {"kv lease keep-alive",
     "SHARD LEASE",
     "renew a lease again and again, until ^C",
     NULL,
     {OPT_ONCE, OPT_KEY},
     cli__command_kv_lease_keep_alive},
    {"shard transfer-leader",
     "NAME",
     "transfer a shard's leadership to another voter",
     NULL,
     {OPT_TO},
     cli__command_shard_transfer},
    {"shard move",
     "NAME",
     "move one of a shard's replicas to another host and keep it there",
     "An operation. The new replica catches up, then replaces the old one as a voter in one\n"
     "step. Refused, with the reason, if the other host does not satisfy the shard's spec.",
     {OPT_FROM, OPT_TO, OPT_WAIT, OPT_TIMEOUT, OPT_DRY_RUN},
     cli__command_shard_move},
    {"rebalance",
     "",
     "even out replicas and leaders over hosts, with the fewest moves",
     "An operation; works while balance is paused. Replicas that `thole shard move` placed may "
     "move, too.",
     {OPT_WAIT, OPT_TIMEOUT, OPT_DRY_RUN},
     cli__command_rebalance},
    {"replica create",
     "SHARD HOST",
     "add a replica that placement counts and never removes",
     NULL,
     {OPT_NON_VOTING, OPT_WAIT, OPT_TIMEOUT},
     cli__command_replica_create},
    {"replica delete",
     "ID",
     "remove a replica",
     NULL,
     {OPT_WAIT, OPT_TIMEOUT},
     cli__command_replica_delete},
    {"host cordon", "NAME", "place no new replicas on a host", NULL, {0}, cli__command_host_cordon},
    {"host uncordon",
     "NAME",
     "let a host get replicas again, even if they kept failing there",
     NULL,
     {0},
     cli__command_host_uncordon},
    {"host drain",
     "NAME",
     "move leaders and then replicas away from a host",
     "An operation, which continues without a watcher: ^C only stops watching.\n"
     "`thole host undrain NAME` ends it.",
     {OPT_WAIT, OPT_TIMEOUT, OPT_DRY_RUN},
     cli__command_host_drain},
    {"host undrain",
     "NAME",
     "end a drain: let the host get replicas again",
     NULL,
     {0},
     cli__command_host_undrain},
    {"host decommission",
     "NAME",
     "drain a host, then remove it for ever",
     "An operation, which continues without a watcher: ^C only stops watching. The host is\n"
     "removed when no acknowledged write depends on it: a dead host as soon as every shard has\n"
     "a majority of voters with all data on live hosts. Until then the operation can be\n"
     "cancelled.",
     {OPT_WAIT, OPT_TIMEOUT, OPT_DRY_RUN},
     cli__command_host_decommission},
    {"host log-level",
     "NAME [LEVELS]",
     "show or change a host's log levels, until it restarts",
     "LEVELS is error, warn, info or debug, or a list with subjects: info,raft=debug,bus=warn.\n"
     "Subjects are base, store, raft, engine, machine, bus, registry, hostctl, agent, daemon.",
     {0},
     cli__command_host_log_level},
    {"operation wait",
     "ID",
     "wait for the end of an operation, and show its progress",
     NULL,
     {OPT_TIMEOUT},
     cli__command_operation_wait},
    {"operation cancel",
     "ID",
     "cancel the steps that an operation has not done yet",
     NULL,
     {0},
     cli__command_operation_cancel},
    {"pause",
     "[CONTROLLER...]",
     "pause controllers: placement, membership, balance; default: all",
     NULL,
     {0},
     cli__command_pause},
    {"resume", "", "end every pause", NULL, {0}, cli__command_resume},
    {"members",
     "",
     "show the members of shard zero, which holds the desired state",
     NULL,
     {0},
     cli__command_members},
    {"repair shard",
     "NAME",
     "repair a shard that lost its quorum for good",
     "Shows the data of the remaining hosts, which replica would be kept, and what may be\n"
     "lost. Refused while a quorum is alive. Writes that only the lost replicas had are gone.",
     {OPT_YES},
     cli__command_repair_shard},
    {"repair zero",
     "DIR...",
     "repair shard zero offline: reads data directories of stopped hosts, and marks one",
     "The next start of the marked host makes it the only voter of shard zero. Stop all\n"
     "daemons of the cluster first, and give all remaining data directories.",
     {OPT_YES},
     cli__command_repair_zero},
    {"snapshot save",
     "SHARD FILE",
     "save a shard's state to a file; zero is the registry",
     "Through any host. The file has every write that was acknowledged before. FILE is\n"
     "created, or replaced, when all data has arrived and is checked. With --stale it has one\n"
     "replica's own state, even if the shard has no quorum.",
     {OPT_STALE},
     cli__command_snapshot_save},
    {"snapshot status",
     "FILE",
     "check a snapshot file, and describe it; needs no cluster",
     "Exits 1 if the file is damaged, truncated, or not a snapshot.",
     {0},
     cli__command_snapshot_status},
    {"snapshot restore",
     "FILE NAME",
     "create a shard from a snapshot",
     "NAME must be free, or await its data: nothing is overwritten. The called host gets the\n"
     "file and the first replica; placement adds the others. The spec is that of the file, or\n"
     "of -f (kind: Shard) with the same type. An operation, which can be cancelled until the\n"
     "new shard serves.",
     {OPT_FILE, OPT_WAIT, OPT_TIMEOUT},
     cli__command_snapshot_restore},
    {"snapshot restore-zero",
     "FILE DIR",
     "create a new cluster's data directory from a snapshot of the registry (zero); offline",
     "For the loss of all hosts. DIR must be empty or absent. Start tholed with it: a cluster\n"
     "of one host, with the shards, pools and events of the file, without its hosts and data.\n"
     "Other hosts join it. Each shard waits until its snapshot is restored under its name, or\n"
     "it is deleted.",
     {OPT_NAME},
     cli__command_snapshot_restore_zero},
    {"backup list",
     "DIR",
     "list the backups in a folder; needs no cluster",
     "SAVED are the shards that the backup wrote itself; the others had not changed since the\n"
     "backup before. Exits 1 if a manifest is damaged.",
     {0},
     cli__command_backup_list},
    {"backup verify",
     "DIR",
     "read all backups in a folder, or that of --number, and check them; needs no cluster",
     "Exits 1 if a file is damaged or missing, after naming it.",
     {OPT_NUMBER},
     cli__command_backup_verify},
    {"backup",
     "DIR",
     "save the registry and all shards in a folder",
     "Every shard is saved with all writes that were acknowledged before. Shards that have not\n"
     "changed since the last backup in DIR are not read again. Killed at any instant, it leaves\n"
     "the earlier backups valid, and the next run goes on with what was saved. A shard without\n"
     "a leader is named, and its last saved state is kept: exit code 6.",
     {OPT_KEEP, OPT_PARALLEL},
     cli__command_backup},
    {"restore",
     "DIR",
     "restore a backup into a new cluster: roles, pools, shards with their data",
     "Of the backup of --number, else the newest. All its files are checked before anything is\n"
     "changed, and a cluster that has shards of its own is refused. Each shard serves when its\n"
     "file is loaded; placement adds the other replicas. Run it again to go on after it was\n"
     "stopped: what is restored stays. With --dry-run it only checks. --timeout is for one\n"
     "shard. A shard that cannot be restored is named: exit code 6.",
     {OPT_NUMBER, OPT_PARALLEL, OPT_DRY_RUN, OPT_TIMEOUT},
     cli__command_restore},
    {"bench",
     "",
     "load the cluster and measure it",
     "Creates missing shards with type noop. Prints proposals per second, latencies, and CPU\n"
     "seconds per million proposals of each host and of the load generator.",
     {OPT_MODE, OPT_SHARDS, OPT_IN_FLIGHT, OPT_PAYLOAD, OPT_READ_SHARE, OPT_SECONDS, OPT_WARMUP,
      OPT_VOTERS, OPT_CLEANUP, OPT_TIMEOUT},
     cli__command_bench},
    {"token create",
     "",
     "make a bearer token for a user, and print it: it is shown only this once",
     "Whoever has it calls as that user: --token-file, THOLE_TOKEN, or \"authorization: Bearer "
     "TOKEN\" from\n"
     "other clients. The roles that have the user as a member say what it may do.",
     {OPT_FOR, OPT_EXPIRES},
     cli__command_token_create},
    {"token list",
     "",
     "list bearer tokens: whose they are, and until when",
     NULL,
     {OPT_STALE},
     cli__command_token_list},
    {"token revoke",
     "ID",
     "end a bearer token for good, on every host within a second",
     NULL,
     {0},
     cli__command_token_revoke},
    {"cert ca",
     "CLUSTER",
     "make a CA for a cluster: ca.crt and ca.key",
     "CLUSTER is a word for the cluster, which its certificates carry. Keep ca.key away from the "
     "hosts; they\n"
     "need ca.crt. Nothing is ever overwritten. docs/security.md has the set-up, and that with a "
     "CA of your own.",
     {OPT_DIR, OPT_DAYS},
     cli__command_cert_ca},
    {"cert host",
     "NAME [ADDRESS...]",
     "make a certificate for a host: NAME.crt and NAME.key",
     "NAME becomes the host's name. ADDRESS are the DNS names and IP addresses at which clients "
     "reach it, without\n"
     "ports; NAME, localhost, 127.0.0.1 and ::1 are always among them.",
     {OPT_DIR, OPT_DAYS},
     cli__command_cert_host},
    {"cert client",
     "NAME",
     "make a certificate for a user: NAME.crt and NAME.key",
     "Call with --tls-ca ca.crt --tls-cert NAME.crt --tls-key NAME.key, or set THOLE_TLS_CA, "
     "THOLE_TLS_CERT and\n"
     "THOLE_TLS_KEY.",
     {OPT_DIR, OPT_DAYS},
     cli__command_cert_client},
    {"cert revoke",
     "FILE",
     "revoke a certificate: adds it to ca.crl",
     "FILE is a certificate (NAME.crt) that the CA signed. Give ca.crl to the hosts (--tls-crl); "
     "they read it\n"
     "again when it is replaced.",
     {OPT_DIR},
     cli__command_cert_revoke},
    {"debug bundle",
     "FILE",
     "write what a report of a problem needs into a tar file",
     "Of every host that answers: status, metrics, newest log lines, options, files of the data\n"
     "directory; of the cluster: hosts, shards with conditions, pools, replicas, operations,\n"
     "events. It contains names, addresses and paths, and neither keys and tokens nor data and\n"
     "configurations of shards.",
     {0},
     cli__command_debug_bundle},
    {"debug log",
     "DIR",
     "list the records of the log in the data directory of a host that does not run",
     "Every record of the log's files in their order, also those that are replaced, and the\n"
     "entries in them: WHERE is file+offset, SHARD and REPLICA are ids. Commands of shard zero\n"
     "and of kv shards are decoded; passwords, tokens and configurations of machines are left\n"
     "out. Nothing in the directory is changed.",
     {OPT_SHARD, OPT_FROM_INDEX, OPT_LIMIT, OPT_VERIFY},
     cli__command_debug_log},
    {"debug state",
     "DIR",
     "show the replicas in the data directory of a host that does not run",
     "Term, commit and log of each replica; where its state is (the database, or a snapshot\n"
     "file) and up to which index, with bytes, keys and sessions. SHARD is an id; the log behind\n"
     "APPLIED is applied at the next start. Nothing in the directory is changed.",
     {OPT_SHARD, OPT_KEYS, OPT_LIMIT, OPT_VERIFY},
     cli__command_debug_state},
    {"completion",
     "bash|zsh|fish [WORD...]",
     "print completion for a shell, such as: source <(thole completion bash)",
     "With WORDs (after --) it prints what may stand in place of the last WORD: the scripts of\n"
     "all shells ask for that.",
     {0},
     cli__command_completion},
    {"version", "", "print the version of this program", NULL, {0}, cli__command_version},
    {"help", "[COMMAND...]", "explain a command", NULL, {0}, cli__command_help},
};
const size_t cli_command_count = sizeof cli_commands / sizeof cli_commands[0];

size_t cli__name_words(const char *name)
{
    size_t count = 1;
    for (; *name != '\0'; name++) {
        count += *name == ' ';
    }
    return count;
}

bool cli__name_begins(const char *name, const char *const *words, size_t count, const char **ret)
{
    for (size_t i = 0; i < count; i++) {
        size_t size = strlen(words[i]);
        if (strncmp(name, words[i], size) != 0 || (name[size] != ' ' && name[size] != '\0') ||
            (name[size] == '\0' && i + 1 < count)) {
            return false;
        }
        name += size + (name[size] == ' ');
    }
    *ret = name;
    return true;
}

const struct cli_command *cli__command_find(const char *const *words, size_t count)
{
    const struct cli_command *found = NULL;
    size_t most = 0;
    for (size_t i = 0; i < cli_command_count; i++) {
        const char *rest = NULL;
        size_t own = cli__name_words(cli_commands[i].name);
        if (own > most && own <= count &&
            cli__name_begins(cli_commands[i].name, words, own, &rest)) {
            found = &cli_commands[i];
            most = own;
        }
    }
    return found;
}
