/* The rights of one user, put together from all roles. */
#ifndef AGENT_ACCESS_RIGHTS_H
#define AGENT_ACCESS_RIGHTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "registry/registry.h"
#include "thole/v1/access.upb.h"

#define RIGHTS_KINDS thole_v1_ROLE_KIND_ANY /* one more than the last kind */

/* Bits: 1 << RoleVerb, 1 << DataRight. */
struct rights_pattern {
    uint32_t verbs;
    uint32_t kinds; /* bits: 1 << RoleKind; 0: data */
    char *pattern;
};
struct rights {
    uint32_t all[RIGHTS_KINDS];  /* verbs for all names of a kind */
    uint32_t some[RIGHTS_KINDS]; /* verbs for one name at least */
    uint32_t data_all, data_some;
    struct rights_pattern *patterns;
    size_t count;
};

/* Of this user, in this view; `everything`: all rights there are. */
void rights_init(struct rights *r, const struct registry_view *v, struct slice user,
                 bool everything);
void rights_deinit(struct rights *r);
/* An empty name: all names. */
bool rights_allow(const struct rights *r, int32_t verb, int32_t kind, struct slice name);
bool rights_allow_data(const struct rights *r, int32_t right, struct slice shard);
/* Does the pattern, in which * stands for any characters, fit the name? */
bool rights_pattern_fits(struct slice pattern, struct slice name);

#endif
