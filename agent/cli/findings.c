/* Sentences about what is wrong. See findings.h. */
#include "agent/cli/findings.h"

static void add_json(struct findings *f, bool problem, const char *object, const char *advice,
                     const char *what)
{
    bytes_printf(&f->json,
                 "%s{\"severity\":\"%s\",\"object\":", f->problems + f->remarks > 0 ? "," : "",
                 problem ? "PROBLEM" : "REMARK");
    cli__json_string(slice_str(object), &f->json);
    bytes_append_str(&f->json, ",\"message\":");
    cli__json_string(slice_str(what), &f->json);
    bytes_append_str(&f->json, ",\"advice\":");
    cli__json_string(slice_str(advice), &f->json);
    bytes_append_str(&f->json, "}");
}

void findings_add(struct findings *f, bool problem, const char *object, const char *advice,
                  const char *what)
{
    if (cli__is_document(f->c)) {
        add_json(f, problem, object, advice, what);
    } else {
        cli__line("%s %s: %s", problem ? "PROBLEM" : "remark ", object, what);
        cli__line("        %s", advice);
    }
    f->problems += problem;
    f->remarks += !problem;
}

int findings_end(struct findings *f, const char *sound)
{
    if (cli__is_document(f->c)) {
        struct bytes out = {0};
        cli__document_begin(&out, "Diagnosis");
        bytes_append_str(&out, ",\"findings\":[");
        bytes_append(&out, f->json.data, f->json.size);
        bytes_append_str(&out, "]");
        cli__document_end(f->c, &out);
    } else if (f->problems == 0) {
        cli__line("%s", sound);
    } else {
        cli__note("%zu problems, %zu remarks", f->problems, f->remarks);
    }
    bytes_deinit(&f->json);
    int result = cli__flush();
    return result == CLI_OK && f->problems > 0 ? CLI_FAILED : result;
}
