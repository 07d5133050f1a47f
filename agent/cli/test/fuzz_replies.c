/* Any bytes as a server's reply to the command line: an error, or a reply that prints in every
 * format. */
#include <stdio.h>
#include <string.h>

#include "agent/cli/cli.h"
#include "agent/cli/cmd_kv.h"
#include "agent/cli/rows.h"
#include "base/assert.h"
#include "proto/decode.h"
#include "thole/v1/control.upbdefs.h"
#include "thole/v1/repair.upbdefs.h"
#include "thole/v1/snapshots.upb.h"
#include "thole/v1/snapshots.upbdefs.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const upb_MiniTable *const rows_tables[] = {
    &thole_v1_Host_msginit,  &thole_v1_Shard_msginit,     &thole_v1_Replica_msginit,
    &thole_v1_Event_msginit, &thole_v1_ShardPool_msginit, &thole_v1_Operation_msginit};

static void show_rows(struct cli *c, enum rows_kind kind, struct slice in, const char *format)
{
    struct rows rows = {.kind = kind};
    const void *row = proto_decode(rows_tables[kind], in, false, c->arena, NULL);
    if (row == NULL) {
        return;
    }
    char name[ROWS_NAME_BYTES];
    c->options.values[OPT_OUTPUT].text = format;
    rows_add(&rows, row);
    rows_show(c, &rows, true, false);
    rows_show(c, &rows, false, true);
    (void)rows_name(kind, row, name, sizeof name);
    rows_deinit(&rows);
}

static void show_message(struct cli *c, const upb_MiniTable *table, const upb_MessageDef *def,
                         struct slice in)
{
    struct bytes json = {0}, yaml = {0};
    const void *message = proto_decode(table, in, false, c->arena, NULL);
    if (message != NULL) {
        cli__json(message, def, &json);
        (void)cli__yaml("Reply", bytes_slice(&json), &yaml);
    }
    bytes_deinit(&json);
    bytes_deinit(&yaml);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const formats[] = {"table", "wide", "json", "yaml", "name"};
    static upb_DefPool *pool;
    if (pool == NULL) {
        pool = upb_DefPool_New();
        ASSERT(freopen("/dev/null", "w", stdout) != NULL);
    }
    if (size < 2) {
        return 0;
    }
    struct cli c = {.arena = upb_Arena_New(), .pool = pool};
    struct slice in = slice_of(data + 2, size - 2);
    options_init(&c.options, cli_options, OPT_OPTIONS);
    switch (data[0] % 10) {
    case 6:
        show_message(&c, &thole_v1_StatusResponse_msginit, thole_v1_StatusResponse_getmsgdef(pool),
                     in);
        break;
    case 7:
        show_message(&c, &thole_v1_WatchClusterResponse_msginit,
                     thole_v1_WatchClusterResponse_getmsgdef(pool), in);
        break;
    case 8:
        show_message(&c, &thole_v1_SnapshotFile_msginit, thole_v1_SnapshotFile_getmsgdef(pool), in);
        break;
    case 9:
        (void)kv_show_event(&c, (upb_StringView){(const char *)in.data, in.size});
        break;
    default:
        show_rows(&c, (enum rows_kind)(data[0] % 10), in, formats[data[1] % 5]);
    }
    options_deinit(&c.options);
    upb_Arena_Free(c.arena);
    return 0;
}
