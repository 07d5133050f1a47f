/* Options of a host: checked together, with defaults. */
#ifndef AGENT_CORE_AGENT_OPTIONS_H
#define AGENT_CORE_AGENT_OPTIONS_H

#include "agent/core/agent.h"

THOLE_MUST_CHECK enum thole_code agent__options_check(const struct agent_options *o,
                                                      struct thole_status *st);
/* Read the certificates, if there are any: a host with certificates has the name that they say. */
THOLE_MUST_CHECK enum thole_code agent__options_open_tls(struct agent *a, struct thole_status *st);
/* An address that was not given is the one of the last start, or derived from this machine. */
void agent__options_default_listen(struct agent *a);
/* Save the addresses for the next start, with the port that the bus bound. */
THOLE_MUST_CHECK enum thole_code agent__options_save_listen(struct agent *a,
                                                            struct thole_status *st);

#endif
