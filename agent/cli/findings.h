/* What `thole doctor` and --verify found: sentences with what to do, as lines or as a document. */
#ifndef AGENT_CLI_FINDINGS_H
#define AGENT_CLI_FINDINGS_H

#include "agent/cli/cli.h"

struct findings {
    struct cli *c;
    size_t problems, remarks;
    struct bytes json; /* the elements of an array */
};
/* A sentence or two about `object`, and what to do. A remark is no problem, but worth a thought. */
void findings_add(struct findings *f, bool problem, const char *object, const char *advice,
                  const char *what);
/* Prints the document, or `sound` (a line) if there is no problem, and releases `f`. Returns
 * CLI_FAILED if there is a problem. */
int findings_end(struct findings *f, const char *sound);

#endif
