/* Switches an injected bug on. */
#include <stdio.h>
#include <string.h>

#include "base/canary.h"
#include "shards/sim/sim.h"

enum canary canary_on = CANARY_none;

struct named_canary {
    const char *name;
    enum canary canary;
};

#define ROW(name, number) {#name, CANARY_##name},
static const struct named_canary all[] = {CANARY_LIST(ROW)};
static const struct named_canary of_hosts[] = {CANARY_HOST_LIST(ROW)};
#undef ROW

/* Two bugs with one number would be switched on together: this does not compile then. */
#define MEMBER(name, number) char number_##number;
struct numbers_differ {
    CANARY_LIST(MEMBER) CANARY_HOST_LIST(MEMBER)
};
#undef MEMBER

const char *sim_canary_name(int i)
{
    return i >= 0 && (size_t)i < sizeof all / sizeof all[0] ? all[i].name : NULL;
}

const char *sim_canary_of_hosts(int i)
{
    return i >= 0 && (size_t)i < sizeof of_hosts / sizeof of_hosts[0] ? of_hosts[i].name : NULL;
}

static void look_up(const struct named_canary *in, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(in[i].name, name) == 0) {
            canary_on = in[i].canary;
        }
    }
}

bool sim_canary_set(const char *name)
{
    canary_on = CANARY_none;
    if (name == NULL) {
        return true;
    }
    look_up(all, sizeof all / sizeof all[0], name);
    look_up(of_hosts, sizeof of_hosts / sizeof of_hosts[0], name);
    return canary_on != CANARY_none;
}

bool sim_canary_choose(const char *name, const char *(*name_of)(int i))
{
    for (int i = 0; name_of(i) != NULL; i++) {
        if (strcmp(name_of(i), name) == 0) {
            return sim_canary_set(name);
        }
    }
    (void)fprintf(stderr, "there is no canary \"%s\"; there are:\n", name);
    for (int i = 0; name_of(i) != NULL; i++) {
        (void)fprintf(stderr, "  %s\n", name_of(i));
    }
    return false;
}
