/* Switches an injected bug on. */
#include <string.h>

#include "base/canary.h"
#include "shards/sim/sim.h"

enum canary canary_on = CANARY_none;

static const struct {
    const char *name;
    enum canary canary;
} all[] = {
#define ROW(name, number) {#name, CANARY_##name},
    CANARY_LIST(ROW)
#undef ROW
};

const char *sim_canary_name(int i)
{
    return i >= 0 && (size_t)i < sizeof all / sizeof all[0] ? all[i].name : NULL;
}

bool sim_canary_set(const char *name)
{
    canary_on = CANARY_none;
    if (name == NULL) {
        return true;
    }
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        if (strcmp(all[i].name, name) == 0) {
            canary_on = all[i].canary;
        }
    }
    return canary_on != CANARY_none;
}
