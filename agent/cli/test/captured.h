/* What a command would print, for tests of the output. */
#ifndef AGENT_CLI_TEST_CAPTURED_H
#define AGENT_CLI_TEST_CAPTURED_H

#include "agent/cli/cli.h"

/* The text that `print` writes to stdout, at most 4095 bytes; valid until the next call. */
char *captured(void (*print)(struct cli *c), struct cli *c);
/* As after `-o FORMAT`; end it with cli__deinit. */
struct cli cli_with(const char *format);

#endif
