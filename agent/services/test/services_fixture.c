#include "agent/services/test/services_fixture.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <upb/encode.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "proto/decode.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#define CALL_TIMEOUT_MS 15000

upb_StringView sv(const char *text)
{
    return upb_StringView_FromString(text);
}

struct services_fixture *services_fixture_new(void)
{
    struct services_fixture *f = xcalloc(1, sizeof *f);
    strcpy(f->dir, "/tmp/test-services-XXXXXX");
    log_configure(LOG_LEVEL_ERROR, false);
    assert_non_null(mkdtemp(f->dir));
    struct thole_options o = THOLE_OPTIONS_INIT;
    o.data_dir = f->dir;
    o.listen = "127.0.0.1:0";
    o.name = "h1";
    o.bootstrap = THOLE_BOOTSTRAP_DEV;
    if (thole_new(&o, &f->host, &f->st) != THOLE_OK || thole_start(f->host, &f->st) != THOLE_OK ||
        thole_wait_ready(f->host, 20000, &f->st) != THOLE_OK ||
        bus_channel_new(thole_address(f->host), &f->channel, &f->st) != THOLE_OK) {
        fail_msg("%s", f->st.message);
    }
    f->arena = upb_Arena_New();
    return f;
}

void services_fixture_free(struct services_fixture *f)
{
    bus_channel_free(f->channel);
    thole_close(f->host);
    assert_int_equal(file_remove_tree(f->dir, NULL), THOLE_OK);
    upb_Arena_Free(f->arena);
    free(f);
}

const void *services_fixture_call(struct services_fixture *f, const char *path, const void *request,
                                  const upb_MiniTable *request_kind,
                                  const upb_MiniTable *reply_kind)
{
    char *bytes = NULL;
    size_t size = 0;
    struct buf *reply = NULL;
    memset(&f->st, 0, sizeof f->st);
    assert_int_equal(upb_Encode(request, request_kind, 0, f->arena, &bytes, &size),
                     kUpb_EncodeStatus_Ok);
    if (bus_channel_call(f->channel, path, slice_of(bytes, size), CALL_TIMEOUT_MS, &reply,
                         &f->st) != THOLE_OK) {
        return NULL;
    }
    void *message =
        proto_decode(reply_kind, slice_of(reply->data, reply->size), false, f->arena, NULL);
    assert_non_null(message);
    buf_unref(reply);
    return message;
}

void assert_failed(struct services_fixture *f, const void *reply, enum thole_code code,
                   enum thole_reason reason)
{
    if (reply != NULL || f->st.code != code || f->st.reason != reason) {
        fail_msg("expected %s %s, got %s %s: %s", thole_code_name(code), thole_reason_name(reason),
                 reply != NULL ? "OK" : thole_code_name(f->st.code),
                 thole_reason_name(f->st.reason), f->st.message);
    }
}

const thole_v1_Shard *services_fixture_create(struct services_fixture *f, const char *name,
                                              const char *type)
{
    thole_v1_CreateShardRequest *q = NEW(f, CreateShardRequest);
    thole_v1_Shard *shard = thole_v1_CreateShardRequest_mutable_shard(q, f->arena);
    thole_v1_ShardSpec *spec = thole_v1_Shard_mutable_spec(shard, f->arena);
    thole_v1_Shard_set_name(shard, sv(name));
    thole_v1_ShardSpec_set_type(spec, sv(type));
    thole_v1_ShardSpec_set_voters(spec, 1);
    const thole_v1_Shard *reply = CALL(f, Shards, CreateShard, q, Shard);
    if (reply == NULL) {
        fail_msg("%s", f->st.message);
    }
    return reply;
}

void services_fixture_wait_ready(struct services_fixture *f, const char *name)
{
    if (thole_shard_wait_ready(f->host, name, 20000, &f->st) != THOLE_OK) {
        fail_msg("%s: %s", name, f->st.message);
    }
}
