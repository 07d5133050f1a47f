/* `thole debug log`: the records of the log of a host that does not run. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "agent/cli/cmd_inspect.h"

#define TEXT_SHOWN_BYTES 100 /* of a payload that is text */

struct log_printer {
    struct cli *c;
    uint64_t limit, printed; /* limit 0: none */
};

/* ---- Documents ------------------------------------------------------------------------------- */

static void put_command(struct cli *c, const struct inspect_record *r, struct bytes *out)
{
    struct bytes json = {0};
    if (inspect_command_json(c, r->machine_type, r->payload, &json)) {
        bytes_append_str(out, ",\"command\":");
        bytes_append_slice(out, bytes_slice(&json));
    } else {
        bytes_append_str(out, ",\"payload\":\"");
        cli__base64_encode(r->payload, out);
        bytes_append_str(out, "\"");
    }
    bytes_deinit(&json);
}

static void put_entry(struct cli *c, const struct inspect_record *r, struct bytes *out)
{
    char time_text[40];
    bytes_printf(out, ",\"logEpoch\":%" PRIu32, r->epoch);
    cli__document_number(out, "index", r->index);
    cli__document_number(out, "term", r->term);
    cli__document_text(out, "time", cli__time((int64_t)r->now_ms, time_text, sizeof time_text));
    if (r->session != 0) {
        cli__document_number(out, "session", r->session);
        cli__document_number(out, "sequence", r->sequence);
    }
    if (r->request_id.size > 0) {
        bytes_append_str(out, ",\"requestId\":\"");
        cli__base64_encode(r->request_id, out);
        bytes_append_str(out, "\"");
    }
    if (r->payload.size > 0) {
        put_command(c, r, out);
    }
}

/* The members of a JSON object, and its end. */
static void put_record(struct cli *c, const struct inspect_record *r, struct bytes *out)
{
    bytes_append_str(out, "{\"kind\":");
    cli__json_string(slice_str(r->kind), out);
    cli__document_text(out, "file", r->file);
    bytes_printf(out, ",\"offset\":%" PRIu32, r->offset);
    cli__document_number(out, "write", r->write);
    cli__document_number(out, "bytes", r->bytes);
    if (r->replica_id != 0) {
        cli__document_number(out, "replica", r->replica_id);
        cli__document_number(out, "shard", r->shard_id);
    }
    if (r->entry) {
        put_entry(c, r, out);
    }
    if (r->copy) {
        bytes_append_str(out, ",\"copy\":true");
    }
    if (r->damaged) {
        bytes_append_str(out, ",\"damaged\":true");
    }
    if (r->text[0] != '\0') {
        cli__document_text(out, "text", r->text);
    }
    bytes_append_str(out, "}");
}

static void print_document(struct log_printer *p, const struct inspect_record *r)
{
    struct bytes out = {0}, yaml = {0};
    put_record(p->c, r, &out);
    if (cli__format(p->c) == FORMAT_YAML && cli__yaml(NULL, bytes_slice(&out), &yaml)) {
        cli__print(slice_str(p->printed > 0 ? "---\n" : ""));
        cli__print(bytes_slice(&yaml));
    } else {
        cli__print(slice_str(p->printed > 0 ? ",\n " : "["));
        cli__print(bytes_slice(&out));
    }
    bytes_deinit(&out);
    bytes_deinit(&yaml);
}

/* ---- Lines ----------------------------------------------------------------------------------- */

static bool is_text(struct slice s)
{
    for (size_t i = 0; i < s.size; i++) {
        if (s.data[i] < 0x20 || s.data[i] > 0x7e) {
            return false;
        }
    }
    return s.size > 0;
}

static void describe(struct log_printer *p, const struct inspect_record *r, struct bytes *out)
{
    if (r->copy) {
        bytes_append_str(out, "copy ");
    }
    if (r->session != 0 && r->payload.size > 0) {
        bytes_printf(out, "session %" PRIu64 " sequence %" PRIu64 " ", r->session, r->sequence);
    }
    bytes_append_str(out, r->text);
    if (r->payload.size == 0 || inspect_kv_text(r->machine_type, r->payload, out) ||
        inspect_command_json(p->c, r->machine_type, r->payload, out)) {
        return;
    }
    if (is_text(r->payload) && r->payload.size <= TEXT_SHOWN_BYTES) {
        bytes_append_slice(out, r->payload);
    } else if (is_text(r->payload)) {
        bytes_append(out, r->payload.data, TEXT_SHOWN_BYTES);
        bytes_append_str(out, "...");
    } else {
        bytes_printf(out, "of a machine that this program cannot decode");
    }
}

static void print_line(struct log_printer *p, const struct inspect_record *r)
{
    char time_text[40] = "-", index[24] = "-", term[24] = "-", epoch[16] = "-", replica[24] = "-",
         shard[24] = "-";
    struct bytes what = {0};
    if (r->entry) {
        snprintf(index, sizeof index, "%" PRIu64, r->index);
        snprintf(term, sizeof term, "%" PRIu64, r->term);
        snprintf(epoch, sizeof epoch, "%" PRIu32, r->epoch);
        (void)cli__time((int64_t)r->now_ms, time_text, sizeof time_text);
    }
    if (r->replica_id != 0) {
        snprintf(replica, sizeof replica, "%" PRIu64, r->replica_id);
        snprintf(shard, sizeof shard, "%" PRIu64, r->shard_id);
    }
    describe(p, r, &what);
    bytes_append(&what, "", 1);
    if (p->printed == 0) {
        cli__line("%-21s  %5s  %7s  %5s  %8s  %5s  %-8s  %-24s  %7s  CONTENT", "WHERE", "SHARD",
                  "REPLICA", "EPOCH", "INDEX", "TERM", "KIND", "TIME", "BYTES");
    }
    cli__line("%s+%-8" PRIu32 "  %5s  %7s  %5s  %8s  %5s  %-8s  %-24s  %7" PRIu64 "%s%s", r->file,
              r->offset, shard, replica, epoch, index, term, r->kind, time_text, r->bytes,
              what.size > 1 ? "  " : "", (const char *)what.data);
    bytes_deinit(&what);
}

/* ---- The command ----------------------------------------------------------------------------- */

static void on_record(void *ctx, const struct inspect_record *r)
{
    struct log_printer *p = ctx;
    if (p->limit != 0 && p->printed >= p->limit) {
        return;
    }
    if (cli__is_document(p->c)) {
        print_document(p, r);
    } else {
        print_line(p, r);
    }
    p->printed++;
}

static int list(struct cli *c, struct inspect *i, const struct inspect_log_filter *filter)
{
    struct thole_status st;
    struct log_printer p = {.c = c, .limit = cli_number(c, OPT_LIMIT)};
    if (inspect_log(i, filter, on_record, &p, &st) != THOLE_OK) {
        return cli__say_status("cannot read the log", &st);
    }
    if (cli__format(c) == FORMAT_JSON) {
        cli__print(slice_str(p.printed > 0 ? "]\n" : "[]\n"));
    }
    inspect_warn(i);
    return cli__flush();
}

int cli__command_debug_log(struct cli *c)
{
    struct inspect *i = NULL;
    struct inspect_log_filter filter = {.from = cli_number(c, OPT_FROM_INDEX)};
    int result = inspect_shard(c, &filter.has_shard, &filter.shard_id);
    if (result == CLI_OK) {
        result = inspect_begin(c, &i);
    }
    if (result != CLI_OK) {
        return result;
    }
    if (cli_flag(c, OPT_VERIFY)) {
        return inspect_verify_all(c, i);
    }
    result = list(c, i, &filter);
    inspect_close(i);
    return result;
}
