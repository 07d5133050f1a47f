/* The table of commands: the parser, the help and the completion are made from it. */
#include <string.h>

#include "agent/cli/cli.h"

const struct cli_command cli_commands[] = {
    {"status",
     "",
     "the cluster at a glance: hosts, shards, leaders, what is not ready",
     NULL,
     {0},
     command_status},
    {"get",
     "hosts|shards|pools|replicas|operations|events [NAME]",
     "list what there is",
     "With NAME only that one; replicas and operations are named by their id, events by their "
     "object.",
     {OPT_WATCH, OPT_SHARD, OPT_HOST, OPT_OBJECT, OPT_SINCE, OPT_LIMIT, OPT_STALE},
     command_get},
    {"describe",
     "host|shard|pool NAME",
     "everything about one: spec, conditions, replicas, events",
     NULL,
     {OPT_STALE},
     command_describe},
    {"apply",
     "",
     "make the cluster as the specs say",
     "A spec is a YAML or JSON document, several in a file separated by ---:\n\n"
     "  kind: Shard\n  name: orders\n  spec:\n    type: kv\n    voters: 3\n"
     "    constraints:\n      - {key: zone, operator: IN, values: [a, b]}\n\n"
     "or kind: ShardPool, with count and shard (the spec of each), or kind: Host, with tags, "
     "state\n"
     "and capacity. docs/specs.md has all of it. Names are as in the API, or in camelCase. With "
     "an etag\n"
     "the spec is only changed if nobody else did meanwhile.",
     {OPT_FILE, OPT_DRY_RUN, OPT_WAIT, OPT_TIMEOUT},
     command_apply},
    {"diff",
     "",
     "what apply would change; exits 0 if nothing, 1 if something, 2 or more on errors",
     NULL,
     {OPT_FILE},
     command_diff},
    {"delete",
     "shard|pool|replica|host NAME",
     "delete a shard, a pool with its shards, a replica (by id), or a drained host",
     NULL,
     {OPT_WAIT, OPT_TIMEOUT, OPT_ALLOW_MISSING},
     command_delete},
    {"wait",
     "KIND/NAME...",
     "wait for something to be so, such as `wait --for ready shard/orders`",
     NULL,
     {OPT_FOR, OPT_TIMEOUT},
     command_wait},
    {"propose",
     "SHARD [TEXT...]",
     "propose to a shard; prints the machine's answer",
     "What the text means is the machine's business; kv: \"put KEY VALUE\", counter: \"add 1\".",
     {OPT_TEXT, OPT_DATA_FILE, OPT_DATA_BASE64, OPT_SESSION, OPT_SEQUENCE},
     command_propose},
    {"query",
     "SHARD [TEXT...]",
     "ask a shard; linearizable unless --stale",
     "What the text means is the machine's business; kv: \"get KEY\", counter: \"get\".",
     {OPT_TEXT, OPT_DATA_FILE, OPT_DATA_BASE64, OPT_STALE, OPT_MAX_STALENESS},
     command_query},
    {"watch", "SHARD", "print a shard's changes as they happen", NULL, {OPT_COUNT}, command_watch},
    {"session open",
     "SHARD",
     "open a session, which makes proposals exactly-once",
     NULL,
     {0},
     command_session_open},
    {"kv put", "SHARD KEY VALUE", "set a key of a kv shard", NULL, {0}, command_kv_put},
    {"kv get",
     "SHARD KEY",
     "print a key's value; exits 3 if there is none",
     NULL,
     {OPT_STALE},
     command_kv_get},
    {"kv del", "SHARD KEY", "delete a key", NULL, {0}, command_kv_delete},
    {"kv range",
     "SHARD [FROM [TO]]",
     "print keys and values, from FROM up to before TO",
     NULL,
     {OPT_LIMIT, OPT_STALE},
     command_kv_range},
    {"kv cas",
     "SHARD KEY EXPECTED VALUE",
     "set a key if its value is EXPECTED",
     NULL,
     {0},
     command_kv_cas},
    {"shard transfer-leader",
     "NAME",
     "hand a shard's leadership to another voter",
     NULL,
     {OPT_TO},
     command_shard_transfer},
    {"shard move",
     "NAME",
     "move one of a shard's replicas to another host, where it then stays",
     "An operation. The new replica catches up and takes the old one's vote in one step. Refused, "
     "with\n"
     "the reason, if the other host does not satisfy the shard's spec as well.",
     {OPT_FROM, OPT_TO, OPT_WAIT, OPT_TIMEOUT, OPT_DRY_RUN},
     command_shard_move},
    {"rebalance",
     "",
     "give hosts equally many replicas and leaders, with the fewest moves",
     "An operation; also while balance is paused. Replicas that `thole shard move` placed may "
     "move, too.",
     {OPT_WAIT, OPT_TIMEOUT, OPT_DRY_RUN},
     command_rebalance},
    {"replica create",
     "SHARD HOST",
     "add a replica that placement counts and never removes",
     NULL,
     {OPT_NON_VOTING, OPT_WAIT, OPT_TIMEOUT},
     command_replica_create},
    {"replica delete",
     "ID",
     "remove a replica",
     NULL,
     {OPT_WAIT, OPT_TIMEOUT},
     command_replica_delete},
    {"host cordon", "NAME", "place nothing new on a host", NULL, {0}, command_host_cordon},
    {"host uncordon",
     "NAME",
     "let a host have replicas again, also if they kept failing",
     NULL,
     {0},
     command_host_uncordon},
    {"host drain",
     "NAME",
     "move leaders and then replicas away from a host",
     "An operation, which goes on whether it is watched or not: ^C only stops watching.\n"
     "`thole host undrain NAME` ends it.",
     {OPT_WAIT, OPT_TIMEOUT, OPT_DRY_RUN},
     command_host_drain},
    {"host undrain",
     "NAME",
     "end a drain: let the host have replicas again",
     NULL,
     {0},
     command_host_undrain},
    {"host decommission",
     "NAME",
     "drain a host and then remove it for ever",
     "An operation, which goes on whether it is watched or not: ^C only stops watching. The host\n"
     "is removed when nothing that was acknowledged depends on it: a dead one as soon as every\n"
     "shard has a majority of voters with all data on live hosts. Until then it can be cancelled.",
     {OPT_WAIT, OPT_TIMEOUT, OPT_DRY_RUN},
     command_host_decommission},
    {"operation wait",
     "ID",
     "wait for an operation's end, and show its progress",
     NULL,
     {OPT_TIMEOUT},
     command_operation_wait},
    {"operation cancel",
     "ID",
     "take back what an operation has not done yet",
     NULL,
     {0},
     command_operation_cancel},
    {"pause",
     "[CONTROLLER...]",
     "let controllers rest: placement, membership, balance; without any, all",
     NULL,
     {0},
     command_pause},
    {"resume", "", "end every pause", NULL, {0}, command_resume},
    {"members",
     "",
     "the members of shard zero, which holds the desired state",
     NULL,
     {0},
     command_members},
    {"repair shard",
     "NAME",
     "bring a shard back that lost its quorum for good",
     "Shows what the hosts that are left have, which replica would be kept, and what may be lost.\n"
     "Refused while a quorum is alive. What only the lost replicas had is gone.",
     {OPT_YES},
     command_repair_shard},
    {"repair zero",
     "DIR...",
     "the same for shard zero: reads data directories of stopped hosts, and marks one",
     "The next start of the marked host makes it the only voter of shard zero. All daemons of the\n"
     "cluster must be stopped; give all data directories that are left.",
     {OPT_YES},
     command_repair_zero},
    {"snapshot save",
     "SHARD FILE",
     "save a shard's state to a file; zero is the registry",
     "Through any host: what was acknowledged before is in it. FILE appears, or is replaced, when "
     "all of\n"
     "it is there and checked. With --stale a replica's own state, also when the shard has no "
     "quorum.",
     {OPT_STALE},
     command_snapshot_save},
    {"snapshot status",
     "FILE",
     "check a snapshot file, and say what is in it; needs no cluster",
     "Exits 1 if the file is damaged, cut, or no snapshot.",
     {0},
     command_snapshot_status},
    {"snapshot restore",
     "FILE NAME",
     "make a new shard of a snapshot",
     "NAME must be free, or await its data: nothing is overwritten. The host that is talked to "
     "gets the file and the first\n"
     "replica; placement adds the others. The spec is the one in the file, or that of -f (kind: "
     "Shard),\n"
     "with the same type. An operation, which can be cancelled until the new shard serves.",
     {OPT_FILE, OPT_WAIT, OPT_TIMEOUT},
     command_snapshot_restore},
    {"snapshot restore-zero",
     "FILE DIR",
     "make a data directory of a new cluster from a snapshot of the registry (zero); offline",
     "For when all hosts are lost. DIR must be empty or absent. Start tholed with it: a cluster "
     "of one\n"
     "host, with the shards, pools and events of the file, but no hosts and no data. Others join "
     "it. Each\n"
     "shard waits until its own snapshot is restored under its name, or until it is deleted.",
     {OPT_NAME},
     command_snapshot_restore_zero},
    {"bench",
     "",
     "load the cluster and measure",
     "Creates shards of type noop if they are missing. Prints proposals per second, latencies, "
     "and\n"
     "CPU seconds per million proposals of each host and of the load generator.",
     {OPT_MODE, OPT_SHARDS, OPT_IN_FLIGHT, OPT_PAYLOAD, OPT_READ_SHARE, OPT_SECONDS, OPT_WARMUP,
      OPT_VOTERS, OPT_CLEANUP, OPT_TIMEOUT},
     command_bench},
    {"completion",
     "SHELL",
     "print completion for bash: source <(thole completion bash)",
     NULL,
     {0},
     command_completion},
    {"version", "", "print the version of this program", NULL, {0}, command_version},
    {"help", "[COMMAND...]", "explain a command", NULL, {0}, command_help},
};
const size_t cli_command_count = sizeof cli_commands / sizeof cli_commands[0];

const struct cli_command *cli_command_find(const char *first, const char *second)
{
    size_t size = strlen(first);
    for (size_t i = 0; i < cli_command_count; i++) {
        const char *name = cli_commands[i].name;
        if (strcmp(name, first) == 0) {
            return &cli_commands[i];
        }
        if (second != NULL && strncmp(name, first, size) == 0 && name[size] == ' ' &&
            strcmp(name + size + 1, second) == 0) {
            return &cli_commands[i];
        }
    }
    return NULL;
}
