/* `thole version`. */
#include <thole/thole.h>

#include "agent/cli/cli.h"

int cli__command_version(struct cli *c)
{
    if (cli__is_document(c)) {
        struct bytes out = {0};
        cli__document_begin(&out, "Version");
        cli__document_text(&out, "version", THOLE_VERSION);
        cli__document_end(c, &out);
    } else {
        printf("thole %s\n", THOLE_VERSION);
    }
    return cli__flush();
}
