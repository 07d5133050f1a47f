/* A shared library needs one source of its own; nearly everything is in the archives it is made
 * of. */
#include <thole/thole.h>

_Static_assert(THOLE_VERSION_MAJOR == 0, "the soname is made from the project's version");

/* Public functions of base/, some of which nothing else in the library calls. */
__attribute__((used)) static const void *const kept[] = {
    (const void *)thole_code_name,
    (const void *)thole_reason_name,
    (const void *)thole_reason_from_name,
    (const void *)thole_status_set,
};
