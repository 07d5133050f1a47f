/* Stubs for TLS: the simulated network has no intruders, so hosts run without certificates. */
#include "agent/sim/sim_bus.h"
#include "base/assert.h"

enum thole_code bus_tls_new(const struct bus_tls_files *files, bool host, struct bus_tls **ret,
                            struct thole_status *st)
{
    (void)files;
    (void)host;
    (void)ret;
    return THOLE_FAIL(st, THOLE_UNIMPLEMENTED, THOLE_REASON_NONE, "no TLS is simulated");
}

void bus_tls_unref(struct bus_tls *t)
{
    ASSERT(t == NULL);
}

void bus_tls_name(struct bus_tls *t, char *ret, size_t size)
{
    ASSERT(t != NULL && size > 0);
    ret[0] = '\0';
}

int64_t bus_tls_expiry_s(struct bus_tls *t)
{
    ASSERT(t != NULL);
    return 0;
}
