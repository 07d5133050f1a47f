/* A shared library needs one source of its own; everything is in the archives it is made of. */
#include <thole/thole.h>

_Static_assert(THOLE_VERSION_MAJOR == 0,
               "lib/CMakeLists.txt takes the soname from the project's version");
