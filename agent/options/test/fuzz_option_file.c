/* Any bytes as a configuration file: an error with a message, or options. */
#include "agent/options/options.h"
#include "base/assert.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FLAG, TEXT, NUMBER, DURATION, CHOICE, LIST, OPTIONS };

static const struct option_def defs[OPTIONS] = {
    [FLAG] = {.name = "dev", .kind = OPTION_FLAG, .in_file = true, .exclusive = 1},
    [TEXT] = {.name = "join", .kind = OPTION_TEXT, .value = "A", .in_file = true, .exclusive = 1},
    [NUMBER] = {.name = "loops", .kind = OPTION_NUMBER, .value = "N", .in_file = true, .max = 256},
    [DURATION] = {.name = "pause", .kind = OPTION_DURATION, .value = "TIME", .in_file = true},
    [CHOICE] = {.name = "form", .kind = OPTION_CHOICE, .value = "text|json", .in_file = true},
    [LIST] = {.name = "tag", .kind = OPTION_LIST, .value = "KEY=VALUE", .in_file = true},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct options o;
    struct thole_status st = {0};
    options_init(&o, defs, OPTIONS);
    enum thole_code code = options_read_yaml(&o, "fuzz", slice_of(data, size), &st);
    if (code == THOLE_OK) {
        code = options_complete(&o, &st);
    }
    ASSERT(code == THOLE_OK || st.message[0] != '\0');
    ASSERT(o.values[NUMBER].number <= 256 && o.values[LIST].item_count <= OPTIONS_ITEMS_MAX);
    options_deinit(&o);
    return 0;
}
