#include "agent/tholed/plugin.h"

#include <dlfcn.h>
#include <string.h>

typedef const struct thole_plugin *(*plugin_function)(void);

static enum thole_code refuse(struct thole_status *st, const char *path, const char *why)
{
    return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, "plugin %.80s: %.120s",
                      path, why);
}

/* What thole_register does not ask of a type, and a host needs. */
static bool is_complete(const struct thole_machine_type *t)
{
    bool persistent = (t->flags & THOLE_MACHINE_PERSISTENT) != 0;
    return t->version > 0 && t->save != NULL && t->restore != NULL &&
           (!persistent || t->flush != NULL);
}

static enum thole_code add_types(struct thole *host, const char *path,
                                 const struct thole_plugin *plugin, struct thole_status *st)
{
    if (plugin == NULL || plugin->size < sizeof *plugin || plugin->types == NULL) {
        return refuse(st, path, "its description is incomplete");
    }
    if (plugin->interface != THOLE_PLUGIN_INTERFACE) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "plugin %.80s: it was built for interface %u, this program has %d", path,
                          plugin->interface, THOLE_PLUGIN_INTERFACE);
    }
    for (const struct thole_machine_type *const *t = plugin->types; *t != NULL; t++) {
        struct thole_status why;
        if ((*t)->size < sizeof(struct thole_machine_type) || !is_complete(*t)) {
            return refuse(st, path, "a machine type lacks its size, its version or a function");
        }
        enum thole_code code = thole_register(host, *t, &why);
        if (code != THOLE_OK) {
            return THOLE_FAIL(st, code, why.reason, "plugin %.80s: %.120s", path, why.message);
        }
    }
    return THOLE_OK;
}

enum thole_code plugin_load(struct thole *host, const char *path, struct thole_status *st)
{
    plugin_function function;
    void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const char *why = object == NULL ? dlerror() : NULL;
    if (object == NULL) {
        return refuse(st, path, why != NULL ? why : "it cannot be loaded");
    }
    void *symbol = dlsym(object, "thole_plugin");
    if (symbol == NULL) {
        (void)dlclose(object);
        return refuse(st, path, "it does not define thole_plugin()");
    }
    memcpy(&function, &symbol, sizeof function); /* C has no cast from an object to a function */
    return add_types(host, path, function(), st);
}
