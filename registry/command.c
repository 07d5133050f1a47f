/* Commands as proposers make them. What becomes of one: apply_command.c. */
#include "registry/registry_internal.h"

void registry_command_stamp(thole_registry_v1_Command *c, const char *actor, int64_t time_ms,
                            upb_Arena *arena)
{
    thole_registry_v1_Command_set_actor(c, registry__dup_str(arena, actor));
    thole_registry_v1_Command_set_time_ms(c, time_ms);
}

thole_registry_v1_Command *registry_command_new(const char *actor, int64_t time_ms,
                                                upb_Arena *arena)
{
    thole_registry_v1_Command *c = thole_registry_v1_Command_new(arena);
    ASSERT(c != NULL && actor[0] != '\0');
    registry_command_stamp(c, actor, time_ms, arena);
    return c;
}

void registry_command_set_origin(thole_registry_v1_Command *c, const char *address,
                                 const char *method, upb_Arena *arena)
{
    thole_registry_v1_Command_set_address(c, registry__dup_str(arena, address));
    thole_registry_v1_Command_set_method(c, registry__dup_str(arena, method));
}

void registry_command_set_request_id(thole_registry_v1_Command *c, struct slice id,
                                     upb_Arena *arena)
{
    thole_registry_v1_Command_set_request_id(c, registry__dup(arena, id));
}

struct bufslice registry_command_encode(const thole_registry_v1_Command *c, upb_Arena *arena)
{
    struct slice bytes = registry__encode(c, &thole_registry_v1_Command_msginit, arena);
    struct buf *b = buf_copy(bytes.data, bytes.size);
    return (struct bufslice){.owner = b, .bytes = slice_of(b->data, b->size)};
}
