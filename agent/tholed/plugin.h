/* Machine types from shared objects: `tholed --plugin FILE.so`. */
#ifndef AGENT_THOLED_PLUGIN_H
#define AGENT_THOLED_PLUGIN_H

#include <thole/thole.h>

/* Load the object, which is never unloaded, and register its types on a host that is not started.
 * INVALID_ARGUMENT or ALREADY_EXISTS, with a message that says what is wrong: no plugin, another
 * interface, a type that is incomplete or exists. */
THOLE_MUST_CHECK enum thole_code plugin_load(struct thole *host, const char *path,
                                             struct thole_status *st);

#endif
