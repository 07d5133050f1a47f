/* Keys, values and events of kv shards as they are printed. */
#include <inttypes.h>
#include <stdio.h>

#include "agent/cli/cmd_kv.h"
#include "etcd/kv.upbdefs.h"
#include "proto/decode.h"

static void print_text(struct cli *c, const char *before, upb_StringView bytes)
{
    struct bytes out = {0};
    bytes_append_str(&out, before);
    kv_escape(bytes, cli_flag(c, OPT_HEX), &out);
    cli__print(bytes_slice(&out));
    bytes_deinit(&out);
}

void kv_show_item(struct cli *c, const mvccpb_KeyValue *item)
{
    print_text(c, "", mvccpb_KeyValue_key(item));
    print_text(c, " ", mvccpb_KeyValue_value(item));
    printf("\n");
}

static void show_wide(const struct kv_list *l, const mvccpb_KeyValue *item)
{
    print_text(l->c, "", mvccpb_KeyValue_key(item));
    printf(" version=%" PRIi64 " created=%" PRIi64 " changed=%" PRIi64,
           mvccpb_KeyValue_version(item), mvccpb_KeyValue_create_revision(item),
           mvccpb_KeyValue_mod_revision(item));
    if (mvccpb_KeyValue_lease(item) != 0) {
        printf(" lease=%" PRIx64, (uint64_t)mvccpb_KeyValue_lease(item));
    }
    if (!l->keys_only) {
        print_text(l->c, " ", mvccpb_KeyValue_value(item));
    }
    printf("\n");
}

void kv_list_add(struct kv_list *l, const mvccpb_KeyValue *const *items, size_t count)
{
    struct cli *c = l->c;
    for (size_t i = 0; i < count; i++) {
        if (cli__is_document(c)) {
            bytes_append_str(&l->document, l->document.size > 0 ? ",\n " : "");
            cli__json(items[i], mvccpb_KeyValue_getmsgdef(c->pool), &l->document);
        } else if (cli__format(c) == FORMAT_WIDE) {
            show_wide(l, items[i]);
        } else if (l->keys_only || cli__format(c) == FORMAT_NAME) {
            print_text(c, "", mvccpb_KeyValue_key(items[i]));
            printf("\n");
        } else {
            kv_show_item(c, items[i]);
        }
    }
}

void kv_print_document(struct cli *c, const struct bytes *items)
{
    struct bytes out = {0}, yaml = {0};
    if (cli__is_document(c)) {
        bytes_printf(&out, "[%.*s]\n", (int)items->size,
                     items->size > 0 ? (const char *)items->data : "");
        bool as_yaml = cli__format(c) == FORMAT_YAML && cli__yaml(NULL, bytes_slice(&out), &yaml);
        cli__print(bytes_slice(as_yaml ? &yaml : &out));
    }
    bytes_deinit(&out);
    bytes_deinit(&yaml);
}

int kv_list_end(struct kv_list *l)
{
    kv_print_document(l->c, &l->document);
    bytes_deinit(&l->document);
    return cli__flush();
}

void kv_show_decoded(struct cli *c, const mvccpb_Event *event)
{
    const mvccpb_KeyValue *item = mvccpb_Event_kv(event), *old = mvccpb_Event_prev_kv(event);
    bool put = mvccpb_Event_type(event) == mvccpb_Event_PUT;

    if (item == NULL || cli_data_shown(c, event, mvccpb_Event_getmsgdef(c->pool))) {
        return;
    }
    printf("%" PRIi64 " %s ", mvccpb_KeyValue_mod_revision(item), put ? "put" : "delete");
    print_text(c, "", mvccpb_KeyValue_key(item));
    if (put) {
        print_text(c, " ", mvccpb_KeyValue_value(item));
    }
    printf("\n");
    if (old != NULL) {
        printf("%" PRIi64 " was ", mvccpb_KeyValue_mod_revision(old));
        kv_show_item(c, old);
    }
}

bool kv_show_event(struct cli *c, upb_StringView bytes)
{
    upb_Arena *arena = upb_Arena_New();
    const mvccpb_Event *event = PROTO_DECODE(mvccpb_Event, slice_of(bytes.data, bytes.size), arena);

    if (event != NULL) {
        kv_show_decoded(c, event);
    }
    upb_Arena_Free(arena);
    return event != NULL;
}
