/* `thole version`. */
#include <thole/thole.h>

#include "agent/cli/cli.h"

int command_version(struct cli *c)
{
    if (cli_is_document(c)) {
        struct bytes out = {0};
        cli_document_begin(&out, "Version");
        cli_document_text(&out, "version", THOLE_VERSION);
        cli_document_end(c, &out);
    } else {
        printf("thole %s\n", THOLE_VERSION);
    }
    return cli_flush();
}
