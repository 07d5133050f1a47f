/* A program that embeds a Thole host with a state machine of its own: accounts, and transfers that
 * never overdraw.
 *
 *   cc ledger.c $(pkg-config --cflags --libs thole) -o ledger
 *   ./ledger DATA_DIRECTORY [LISTEN_ADDRESS]
 *
 * Run it twice with the same directory: the balances are still there. It serves the same gRPC port
 * as tholed while it runs, so `thole --endpoints ADDRESS query ledger "balance alice"` works too.
 *
 * Commands: "deposit NAME AMOUNT", "transfer FROM TO AMOUNT". Queries: "balance NAME", "total". */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thole/thole.h>

/* ---- The machine ----------------------------------------------------------------------------- */

#define ACCOUNTS_MAX 64
#define WORD 32

struct account {
    char name[WORD];
    uint64_t balance;
};

struct ledger {
    size_t count;
    struct account accounts[ACCOUNTS_MAX];
};

/* The values of thole_result.value. */
enum { DONE = 0, BAD_COMMAND = 1, NO_FUNDS = 2, FULL = 3 };

static struct account *find(const struct ledger *l, const char *name)
{
    for (size_t i = 0; i < l->count; i++) {
        if (strcmp(l->accounts[i].name, name) == 0) {
            return (struct account *)&l->accounts[i];
        }
    }
    return NULL;
}

static struct account *find_or_open(struct ledger *l, const char *name)
{
    struct account *a = find(l, name);
    if (a || l->count == ACCOUNTS_MAX) {
        return a;
    }
    a = &l->accounts[l->count++];
    snprintf(a->name, sizeof a->name, "%s", name);
    return a;
}

/* Payloads are untrusted bytes: refuse everything that is not exactly a command. Takes words of up
 * to WORD - 1 bytes, each ended by one space or the end, and nothing after the last one. */
static bool take_word(struct thole_slice *in, char word[WORD])
{
    const char *text = in->data;
    size_t n = 0;
    while (n < in->size && text[n] != ' ' && text[n] != 0) {
        n++;
    }
    if (n == 0 || n >= WORD || (n < in->size && text[n] == 0)) {
        return false;
    }
    memcpy(word, text, n);
    word[n] = 0;
    n += n < in->size;
    *in = (struct thole_slice){text + n, in->size - n};
    return true;
}

static bool take_amount(struct thole_slice *in, uint64_t *ret)
{
    char word[WORD];
    *ret = 0;
    if (!take_word(in, word) || strlen(word) > 18) { /* fits 64 bits */
        return false;
    }
    for (const char *p = word; *p; p++) {
        if (*p < '0' || *p > '9') {
            return false;
        }
        *ret = *ret * 10 + (uint64_t)(*p - '0');
    }
    return true;
}

static uint64_t deposit(struct ledger *l, const char *to, uint64_t amount)
{
    struct account *a = find_or_open(l, to);
    if (!a || amount > UINT64_MAX - a->balance) {
        return FULL;
    }
    a->balance += amount;
    return DONE;
}

static uint64_t run_command(struct ledger *l, struct thole_slice command)
{
    char verb[WORD], from[WORD], to[WORD];
    uint64_t amount;
    if (!take_word(&command, verb)) {
        return BAD_COMMAND;
    }
    if (strcmp(verb, "deposit") == 0) {
        return take_word(&command, to) && take_amount(&command, &amount) && command.size == 0
                   ? deposit(l, to, amount)
                   : BAD_COMMAND;
    }
    if (strcmp(verb, "transfer") != 0 || !take_word(&command, from) || !take_word(&command, to) ||
        !take_amount(&command, &amount) || command.size > 0) {
        return BAD_COMMAND;
    }
    struct account *a = find(l, from);
    if (!a || a->balance < amount) {
        return NO_FUNDS;
    }
    a->balance -= amount;
    uint64_t code = deposit(l, to, amount);
    if (code != DONE) {
        a->balance += amount;
    }
    return code;
}

static enum thole_code ledger_open(const struct thole_machine_env *env, void **ret_machine,
                                   struct thole_status *st)
{
    (void)env;
    *ret_machine = calloc(1, sizeof(struct ledger));
    return *ret_machine ? THOLE_OK
                        : THOLE_FAIL(st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_NONE, "no memory");
}

static void ledger_close(void *machine)
{
    free(machine);
}

static enum thole_code ledger_apply(void *machine, struct thole_apply *batch,
                                    struct thole_status *st)
{
    (void)st;
    for (size_t i = 0; i < batch->entry_count; i++) {
        struct thole_entry *e = thole_apply_entry(batch, i);
        e->code = run_command(machine, e->command);
    }
    return THOLE_OK;
}

static enum thole_code ledger_query(void *machine, const void *view, struct thole_slice query,
                                    struct thole_sink *answer, struct thole_status *st)
{
    (void)view;
    const struct ledger *l = machine;
    char verb[WORD], name[WORD], out[32];
    uint64_t value = 0;
    bool known = take_word(&query, verb);
    if (known && strcmp(verb, "balance") == 0 && take_word(&query, name) && query.size == 0) {
        const struct account *a = find(l, name);
        value = a ? a->balance : 0;
    } else if (known && strcmp(verb, "total") == 0 && query.size == 0) {
        for (size_t i = 0; i < l->count; i++) {
            value += l->accounts[i].balance;
        }
    } else {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "queries are \"balance NAME\" and \"total\"");
    }
    int n = snprintf(out, sizeof out, "%" PRIu64, value);
    return answer->write(answer, out, (size_t)n);
}

/* The engine checks snapshots for damage; the format is the machine's own. All hosts here have one
 * byte order. */
static enum thole_code ledger_save(void *machine, const void *view, struct thole_save *to,
                                   struct thole_status *st)
{
    struct thole_sink *out = to->out;
    (void)view, (void)st;
    return out->write(out, machine, sizeof(struct ledger));
}

static enum thole_code ledger_restore(void *machine, struct thole_restore *from,
                                      struct thole_status *st)
{
    struct thole_source *in = from->in;
    struct ledger l;
    size_t at = 0;
    for (int64_t n; at < sizeof l; at += (size_t)n) {
        if ((n = in->read(in, (char *)&l + at, sizeof l - at)) <= 0) {
            return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "the snapshot is cut");
        }
    }
    if (l.count > ACCOUNTS_MAX) {
        return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "too many accounts");
    }
    for (size_t i = 0; i < l.count; i++) {
        l.accounts[i].name[WORD - 1] = 0;
    }
    memcpy(machine, &l, sizeof l);
    return THOLE_OK;
}

static const struct thole_machine_type ledger_type = {
    .size = sizeof ledger_type,
    .version = 1,
    .name = "ledger",
    .open = ledger_open,
    .close = ledger_close,
    .apply = ledger_apply,
    .query = ledger_query, /* no views: the engine keeps queries and applies apart */
    .save = ledger_save,
    .restore = ledger_restore,
};

/* ---- The program ----------------------------------------------------------------------------- */

static int fail(const char *what, const struct thole_status *st)
{
    fprintf(stderr, "%s: %s (%s)\n", what, st->message, thole_reason_name(st->reason));
    return 1;
}

static enum thole_code call(struct thole *t, struct thole_shard *shard, uint32_t kind,
                            const char *text, struct thole_status *st)
{
    struct thole_op op = {.kind = kind, .shard = shard, .payload = {text, strlen(text)}};
    struct thole_answer answer;
    enum thole_code code = thole_call(t, &op, &answer, st);
    if (code != THOLE_OK) {
        return code;
    }
    if (kind == THOLE_PROPOSE) {
        printf("%-28s -> %s\n", text, answer.value == DONE ? "done" : "refused");
    } else {
        printf("%-28s -> %.*s\n", text, (int)answer.size, (const char *)answer.data);
    }
    free(answer.data);
    return THOLE_OK;
}

static int use(struct thole *t, struct thole_status *st)
{
    struct thole_shard_spec spec = {
        .size = sizeof spec, .name = "ledger", .type = "ledger", .voters = 1};
    struct thole_shard *shard = NULL;
    if (thole_wait_ready(t, 20000, st) != THOLE_OK) {
        return fail("waiting for the cluster", st);
    }
    if (thole_shard_apply(t, &spec, 10000, st) != THOLE_OK ||
        thole_shard_wait_ready(t, "ledger", 20000, st) != THOLE_OK ||
        thole_shard_open(t, "ledger", &shard, st) != THOLE_OK) {
        return fail("declaring the shard", st);
    }
    int rc = 0;
    if (call(t, shard, THOLE_PROPOSE, "deposit alice 100", st) != THOLE_OK ||
        call(t, shard, THOLE_PROPOSE, "transfer alice bob 30", st) != THOLE_OK ||
        call(t, shard, THOLE_PROPOSE, "transfer carol bob 1", st) != THOLE_OK ||
        call(t, shard, THOLE_QUERY, "balance bob", st) != THOLE_OK ||
        call(t, shard, THOLE_QUERY, "total", st) != THOLE_OK) {
        rc = fail("using the shard", st);
    }
    thole_shard_release(shard);
    return rc;
}

int main(int argc, char **argv)
{
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: %s DATA_DIRECTORY [LISTEN_ADDRESS]\n", argv[0]);
        return 2;
    }
    struct thole_status st = {0};
    struct thole_options options = THOLE_OPTIONS_INIT;
    options.data_dir = argv[1];
    options.listen = argc > 2 ? argv[2] : "127.0.0.1:0";
    options.bootstrap = THOLE_BOOTSTRAP_DEV; /* a used directory needs none, and ignores it */
    options.name = "ledger-host";

    struct thole *t = NULL;
    int rc = 0;
    if (thole_new(&options, &t, &st) != THOLE_OK ||
        thole_register(t, &ledger_type, &st) != THOLE_OK || thole_start(t, &st) != THOLE_OK) {
        rc = fail("starting", &st);
    } else {
        rc = use(t, &st);
    }
    thole_close(t);
    return rc;
}
