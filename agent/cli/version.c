/* `thole version`. */
#include <thole/thole.h>

#include "agent/cli/cli.h"

int command_version(struct cli *c)
{
    (void)c;
    printf("thole %s\n", THOLE_VERSION);
    return cli_flush();
}
