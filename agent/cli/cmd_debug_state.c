/* `thole debug state`: the replicas of a host that does not run, and where their states are. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "agent/cli/cmd_inspect.h"

struct filter {
    bool has_shard;
    uint64_t shard_id;
};

static bool is_wanted(const struct filter *f, const struct inspect_replica *r)
{
    return !f->has_shard || f->shard_id == r->shard_id;
}

/* Of the replica: REMOVED, DAMAGED, or where its state is. */
static const char *place_of(const struct inspect_replica *r, const struct inspect_state *s)
{
    return r->removed                   ? "removed"
           : r->damaged                 ? "damaged"
           : r->witness                 ? "witness"
           : s->where == STATE_DATABASE ? "database"
           : s->where == STATE_SNAPSHOT ? s->snapshot
                                        : "log only";
}

/* ---- Documents ------------------------------------------------------------------------------- */

static void put_state(const struct inspect_replica *r, const struct inspect_state *s,
                      struct bytes *out)
{
    char time_text[40];
    cli__document_number(out, "applied", s->applied);
    if (s->now_ms != 0) {
        cli__document_text(out, "appliedTime",
                           cli__time((int64_t)s->now_ms, time_text, sizeof time_text));
    }
    cli__document_number(out, "bytes", s->bytes);
    cli__document_number(out, "sessions", s->sessions);
    cli__document_number(out, "requestIds", s->request_ids);
    if (s->where == STATE_DATABASE && s->kv.exists) {
        cli__document_number(out, "revision", (uint64_t)s->kv.revision);
        cli__document_number(out, "keys", s->kv.keys);
        cli__document_number(out, "leases", s->kv.leases);
        cli__document_number(out, "logicalBytes", s->kv.bytes);
        bytes_printf(out, ",\"auth\":%s", s->kv.auth ? "true" : "false");
    }
    if (s->problem[0] != '\0') {
        cli__document_text(out, "problem", s->problem);
    }
    cli__document_number(out, "generation", r->generation);
}

static void put_replica(struct inspect *i, const struct inspect_replica *r, struct bytes *out)
{
    struct inspect_state s;
    inspect_state_of(i, r, &s);
    bytes_printf(out, "{\"replica\":\"%" PRIu64 "\"", r->replica_id);
    cli__document_number(out, "shard", r->shard_id);
    cli__document_text(out, "state", place_of(r, &s));
    if (!r->removed && !r->damaged) {
        cli__document_text(out, "type", r->machine_type);
        bytes_printf(out, ",\"typeVersion\":%" PRIu32, r->machine_version);
        cli__document_number(out, "term", r->term);
        cli__document_number(out, "vote", r->vote);
        cli__document_number(out, "commit", r->commit);
        cli__document_number(out, "logStart", r->start_index);
        cli__document_number(out, "lastIndex", r->last_index);
        cli__document_number(out, "logBytes", r->log_bytes);
        put_state(r, &s, out);
    }
    bytes_append_str(out, "}");
}

static void print_document(struct cli *c, struct inspect *i, const struct filter *f)
{
    const struct inspect_replica *r;
    const struct identity *id = inspect_identity(i);
    struct bytes out = {0};
    bool first = true;
    cli__document_begin(&out, "DataDirectory");
    if (id != NULL) {
        char text[UUID_TEXT_BYTES];
        uuid_format(&id->host, text);
        cli__document_text(&out, "host", id->name);
        cli__document_text(&out, "hostId", text);
        uuid_format(&id->cluster, text);
        cli__document_text(&out, "cluster", uuid_is_nil(&id->cluster) ? "" : text);
    }
    bytes_append_str(&out, ",\"replicas\":[");
    for (size_t it = 0; (r = inspect_next_replica(i, &it)) != NULL;) {
        if (is_wanted(f, r)) {
            bytes_append_str(&out, first ? "" : ",");
            put_replica(i, r, &out);
            first = false;
        }
    }
    bytes_append_str(&out, "]");
    cli__document_end(c, &out);
}

/* ---- Tables ---------------------------------------------------------------------------------- */

static void put_row(struct inspect *i, const struct inspect_replica *r, struct cli_table *t)
{
    struct inspect_state s;
    char log_bytes[24], bytes[24], time_text[40] = "";
    bool shown = !r->removed && !r->damaged;
    inspect_state_of(i, r, &s);
    cli__table_row(t);
    cli__table_cell(t, "%" PRIu64, r->replica_id);
    cli__table_cell(t, "%" PRIu64, r->shard_id);
    cli__table_cell(t, "%s", r->machine_type);
    cli__table_cell(t, "%s", place_of(r, &s));
    cli__table_cell(t, shown ? "%" PRIu64 : "-", r->term);
    cli__table_cell(t, shown ? "%" PRIu64 "..%" PRIu64 : "-", r->start_index + 1, r->last_index);
    cli__table_cell(t, shown ? "%s" : "-", cli__bytes(r->log_bytes, log_bytes, sizeof log_bytes));
    cli__table_cell(t, shown ? "%" PRIu64 : "-", r->commit);
    cli__table_cell(t, s.where != STATE_NONE ? "%" PRIu64 : "-", s.applied);
    cli__table_cell(t, s.where != STATE_NONE ? "%s" : "-",
                    cli__bytes(s.bytes, bytes, sizeof bytes));
    cli__table_cell(t, s.kv.exists ? "%" PRIu64 : "-", s.kv.keys);
    cli__table_cell(t, s.kv.exists ? "%" PRId64 : "-", s.kv.revision);
    cli__table_cell(t, s.where == STATE_DATABASE ? "%" PRIu64 : "-", s.sessions);
    cli__table_cell(t, s.where == STATE_DATABASE ? "%" PRIu64 : "-", s.request_ids);
    cli__table_cell(t, shown ? "%" PRIu64 : "-", r->generation);
    cli__table_cell(t, "%s",
                    s.now_ms != 0 ? cli__time((int64_t)s.now_ms, time_text, sizeof time_text) : "");
    cli__table_cell(t, "%s", s.problem);
}

static void print_table(struct cli *c, struct inspect *i, const struct filter *f)
{
    static const char *const columns[] = {
        ">REPLICA",   ">SHARD",        "TYPE",         "STATE",         ">TERM",   ">LOG",
        ">BYTES",     ">COMMIT",       ">APPLIED",     ">SIZE",         ">KEYS",   "+>REVISION",
        "+>SESSIONS", "+>REQUEST-IDS", "+>GENERATION", "+APPLIED-TIME", "PROBLEM", NULL};
    const struct inspect_replica *r;
    struct cli_table *t = cli__table_new(cli__format(c) == FORMAT_WIDE, columns);
    for (size_t it = 0; (r = inspect_next_replica(i, &it)) != NULL;) {
        if (is_wanted(f, r)) {
            put_row(i, r, t);
        }
    }
    cli__table_print(t, NULL);
}

/* ---- Keys ------------------------------------------------------------------------------------ */

struct key_printer {
    struct cli *c;
    const struct inspect_replica *r;
    struct bytes out;
    uint64_t limit, printed;
};

static bool on_key(void *ctx, const struct kv_key_seen *k)
{
    struct key_printer *p = ctx;
    if (p->limit != 0 && p->printed >= p->limit) {
        return false;
    }
    if (cli__is_document(p->c)) {
        bytes_printf(&p->out, "%s{\"replica\":\"%" PRIu64 "\",\"key\":\"",
                     p->printed > 0 ? "," : "", p->r->replica_id);
        cli__base64_encode(k->key, &p->out);
        bytes_printf(&p->out,
                     "\",\"createRevision\":\"%" PRId64 "\",\"modRevision\":\"%" PRId64
                     "\",\"version\":\"%" PRId64 "\",\"lease\":\"%" PRId64 "\",\"bytes\":\"%" PRIu64
                     "\"}",
                     k->create, k->mod, k->version, k->lease, k->bytes);
    } else {
        if (p->printed == 0) {
            cli__line("%7s  %5s  %12s  %12s  %8s  %8s  KEY", "REPLICA", "SHARD", "CREATED",
                      "CHANGED", "VERSION", "BYTES");
        }
        cli__line("%7" PRIu64 "  %5" PRIu64 "  %12" PRId64 "  %12" PRId64 "  %8" PRId64
                  "  %8" PRIu64 "  %.*s",
                  p->r->replica_id, p->r->shard_id, k->create, k->mod, k->version, k->bytes,
                  (int)k->key.size, (const char *)k->key.data);
    }
    p->printed++;
    return true;
}

static int print_keys(struct cli *c, struct inspect *i, const struct filter *f)
{
    struct thole_status st;
    struct key_printer p = {.c = c, .limit = cli_number(c, OPT_LIMIT)};
    int result = CLI_OK;
    if (cli__is_document(c)) {
        cli__document_begin(&p.out, "Keys");
        bytes_append_str(&p.out, ",\"keys\":[");
    }
    for (size_t it = 0; (p.r = inspect_next_replica(i, &it)) != NULL && result == CLI_OK;) {
        if (is_wanted(f, p.r) && inspect_has_keys(p.r) &&
            inspect_keys(i, p.r, on_key, &p, &st) != THOLE_OK) {
            result = cli__say_status("cannot read the state database", &st);
        }
    }
    if (cli__is_document(c)) {
        bytes_append_str(&p.out, "]");
        cli__document_end(c, &p.out);
    }
    return result;
}

/* ---- The command ----------------------------------------------------------------------------- */

int cli__command_debug_state(struct cli *c)
{
    struct inspect *i = NULL;
    struct filter f;
    int result = inspect_shard(c, &f.has_shard, &f.shard_id);
    if (result == CLI_OK) {
        result = inspect_begin(c, &i);
    }
    if (result != CLI_OK) {
        return result;
    }
    if (cli_flag(c, OPT_VERIFY)) {
        return inspect_verify_all(c, i);
    }
    if (cli_flag(c, OPT_KEYS)) {
        result = print_keys(c, i, &f);
    } else if (cli__is_document(c)) {
        print_document(c, i, &f);
    } else {
        print_table(c, i, &f);
    }
    inspect_warn(i);
    inspect_close(i);
    return result == CLI_OK ? cli__flush() : result;
}
