/* What the commands on data directories share; `thole doctor DIR`. */
#include "agent/cli/cmd_inspect.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "agent/cli/findings.h"

int inspect_begin(struct cli *c, struct inspect **ret)
{
    struct thole_status st;
    if (inspect_open(c->args[0], ret, &st) != THOLE_OK) {
        return cli__say_status("cannot look at the data directory", &st);
    }
    return CLI_OK;
}

int inspect_shard(struct cli *c, bool *ret_given, uint64_t *ret_id)
{
    *ret_given = cli_given(c, OPT_SHARD);
    *ret_id = 0;
    if (!*ret_given) {
        return CLI_OK;
    }
    const char *text = cli__strip(cli_text(c, OPT_SHARD), "shard");
    char *end = NULL;
    errno = 0;
    if (strcmp(text, "zero") != 0) {
        *ret_id = strtoull(text, &end, 10);
    }
    if (end != NULL && (errno != 0 || *end != '\0' || text[0] < '0' || text[0] > '9')) {
        return cli__say_usage(c, "--shard takes an id or \"zero\" here: a data directory is read "
                                 "without the names of shard zero");
    }
    return CLI_OK;
}

static void on_finding(void *ctx, const struct inspect_finding *f)
{
    findings_add(ctx, f->problem, f->object, f->advice, f->what);
}

static void count_problem(void *ctx, const struct inspect_finding *f)
{
    size_t *n = ctx;
    *n += f->problem;
}

void inspect_warn(struct inspect *i)
{
    size_t n = 0;
    inspect_log_findings(i, count_problem, &n);
    if (n > 0) {
        cli__note("the log is damaged: --verify says where, and what to do");
    }
}

static void describe_sound(const struct inspect *i, const struct inspect_verified *v, char *ret,
                           size_t size)
{
    const struct identity *id = inspect_identity(i);
    snprintf(ret, size,
             "no problem found: host %s; %" PRIu64 " records of the log, %" PRIu64
             " of the state database, %" PRIu64 " snapshots",
             id != NULL ? id->name : "?", v->log_records, v->state_records, v->snapshots);
}

static int verify(struct cli *c, struct inspect *i, bool all)
{
    struct findings f = {.c = c};
    struct inspect_verified v;
    char sound[LIMIT_NAME_BYTES + 200];
    inspect_log_findings(i, on_finding, &f);
    inspect_verify(i, on_finding, &f, &v);
    if (all) {
        inspect_circumstances(i, on_finding, &f);
    }
    describe_sound(i, &v, sound, sizeof sound);
    inspect_close(i);
    return findings_end(&f, sound);
}

int inspect_verify_all(struct cli *c, struct inspect *i)
{
    return verify(c, i, false);
}

int inspect_doctor(struct cli *c, const char *path)
{
    struct thole_status st;
    struct inspect *i = NULL;
    if (inspect_open(path, &i, &st) == THOLE_OK) {
        return verify(c, i, true);
    }
    if (st.reason != THOLE_REASON_LOCKED) {
        return cli__say_status("cannot look at the data directory", &st);
    }
    struct findings f = {.c = c};
    findings_add(&f, true, path,
                 "If the host should run, `thole doctor` asks it. Else stop that process first, or "
                 "look at a copy of the directory.",
                 st.message);
    return findings_end(&f, "");
}
