/* Compiled as C11 and as C++11 and later, with all warnings: a program that includes each header of
 * libthole, and begins as programs do. */
#include <thole/machine.h>
#include <thole/status.h>
#include <thole/thole.h>

int main(void)
{
    struct thole_options options = THOLE_OPTIONS_INIT;
    struct thole *host;
    struct thole_status st;
    options.data_dir = "data";
    if (thole_new(&options, &host, &st) != THOLE_OK) {
        return st.message[0] != '\0';
    }
    thole_close(host);
    return 0;
}
