/* The files of ui/, made into arrays by the build. */
#ifndef AGENT_DOORS_UI_PAGES_H
#define AGENT_DOORS_UI_PAGES_H

#include <stddef.h>

extern const unsigned char ui_page_index_html[], ui_page_ui_css[], ui_page_ui_js[],
    ui_page_ui_model_js[];
extern const size_t ui_page_index_html_size, ui_page_ui_css_size, ui_page_ui_js_size,
    ui_page_ui_model_js_size;

#endif
