/* Bodies of the exchanges between hosts: thole.bus.v1.Forward and ForwardReply. */
#ifndef AGENT_ROUTING_FORWARD_CODEC_H
#define AGENT_ROUTING_FORWARD_CODEC_H

#include <string.h>

#include "agent/core/agent.h"

/* Where a small body is written; a larger body gets a buffer of its own. */
struct forward_space {
    uint8_t bytes[512];
};
/* One copy of the payload. */
struct bufslice router_encode_forward(const struct router_request *r, const char *shard_name,
                                      struct forward_space *space);
struct forwarded {
    uint64_t shard_id;
    struct slice shard_name, payload, request_id; /* borrowed from the body */
    uint64_t session, sequence;
    bool open_session, close_session, stale, streamed;
    uint32_t max_staleness_ms, hops, slot_plus_1;
};
bool router_decode_forward(struct slice body, struct forwarded *ret);

struct forward_reply {
    uint64_t code, index, term;
    struct slice result; /* borrowed from the body when decoded */
    bool duplicate, forgotten;
    uint64_t leader_term;
    struct uuid leader_host;
    struct slice key;
    bool bookmark;
    uint64_t answer;             /* of a streamed query: the result comes by METHOD_ANSWER */
    bool end;                    /* METHOD_ANSWER: this was the last piece */
    struct thole_status failure; /* code THOLE_OK: none, and the other fields are undefined */
};
static inline void router_reply_init(struct forward_reply *f)
{
    memset(f, 0, offsetof(struct forward_reply, failure));
    f->failure.code = THOLE_OK;
}
struct bufslice router_encode_reply(const struct forward_reply *in, struct forward_space *space);
bool router_decode_reply(struct slice body, struct forward_reply *ret);

#endif
