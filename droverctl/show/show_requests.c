/* show_requests.c - `requests`: the open requests, the oldest first. */
#include <inttypes.h>
#include <stdlib.h>

#include "base/clock.h"
#include "droverctl/format/emit.h"
#include "droverctl/format/text.h"
#include "droverctl/view.h"
#include "shm/facts/requests.h"
#include "shm/scoreboard.h"

struct open_request {
    unsigned worker;
    struct request_view view;
};

struct request_rows {
    struct open_request *row; /* owned */
    size_t len, cap;
    bool failed; /* out of memory */
};

static void collect(struct request_rows *list, const struct scoreboard *board)
{
    for (unsigned w = 0; w < scoreboard_max_workers(board); w++) {
        uint32_t high;

        (void)requests_count(board, w, &high);
        for (uint32_t row = 0; row < high && !list->failed; row++) {
            struct request_view view;

            if (!requests_read(board, w, row, &view))
                continue;
            if (list->len == list->cap) {
                size_t cap = list->cap == 0 ? 64 : list->cap * 2;
                struct open_request *grown = reallocarray(list->row, cap, sizeof(*grown));

                if (grown == NULL) {
                    list->failed = true;
                    return;
                }
                list->row = grown;
                list->cap = cap;
            }
            list->row[list->len++] = (struct open_request){.worker = w, .view = view};
        }
    }
}

static int older_first(const void *a, const void *b)
{
    const struct open_request *x = a, *y = b;

    if (x->view.opened_mono_us != y->view.opened_mono_us)
        return x->view.opened_mono_us < y->view.opened_mono_us ? -1 : 1;
    return (x->worker > y->worker) - (x->worker < y->worker);
}

static void request_json(struct view *view, const struct open_request *open)
{
    const struct request_view *r = &open->view;
    struct buf *out = &view->out;
    char node[NODE_NAME_BYTES];

    view_node_name(node, view->board, r->node);
    emit_object(out, NULL);
    emit_text(out, "id", r->id);
    emit_uint(out, "worker", open->worker);
    emit_text(out, "model", r->model);
    if (node[0] != '\0')
        emit_text(out, "node", node);
    else
        emit_null(out, "node");
    emit_uint(out, "attempt", r->attempt);
    emit_text(out, "phase", request_phase_name(r->phase));
    emit_uint(out, "age_ms", clock_age_ms(view->now_mono_us, r->opened_mono_us));
    emit_uint(out, "phase_age_ms", clock_age_ms(view->now_mono_us, r->phase_mono_us));
    emit_uint(out, "prompt_tokens", r->prompt_tokens);
    emit_uint(out, "tokens_out", r->tokens_out);
    emit_end_object(out);
}

static void request_row(struct view *view, struct table *table, const struct open_request *open)
{
    const struct request_view *r = &open->view;
    char node[NODE_NAME_BYTES], a[TEXT_SHORT_BYTES];

    view_node_name(node, view->board, r->node);
    table_text(table, &view->style, TONE_PLAIN, r->id);
    table_text(table, &view->style, TONE_PLAIN, r->model);
    table_text(table, &view->style, TONE_PLAIN, node);
    table_printf(table, r->phase == REQUEST_QUEUED ? TONE_WARN : TONE_PLAIN, "%s",
                 request_phase_name(r->phase));
    table_printf(table, TONE_PLAIN, "%s", text_age(a, view->now_mono_us, r->opened_mono_us));
    table_printf(table, TONE_PLAIN, "%s", text_age(a, view->now_mono_us, r->phase_mono_us));
    table_printf(table, TONE_PLAIN, "%s", text_count(a, r->prompt_tokens));
    table_printf(table, TONE_PLAIN, "%s", text_count(a, r->tokens_out));
    table_printf(table, r->attempt == 0 ? TONE_PLAIN : TONE_WARN, "%s",
                 text_count(a, (uint64_t)r->attempt + 1));
    table_printf(table, TONE_PLAIN, "%u", open->worker);
}

void show_requests(struct view *view)
{
    static const struct column columns[] = {
        {"ID", false, 12, 16, 0},  {"MODEL", false, 8, 16, 0}, {"NODE", false, 6, 12, 0},
        {"PHASE", false, 0, 0, 0}, {"AGE", true, 0, 0, 0},     {"IN PHASE", true, 0, 0, 1},
        {"PROMPT", true, 0, 0, 2}, {"OUT", true, 0, 0, 0},     {"TRY", true, 0, 0, 3},
        {"WORKER", true, 0, 0, 4}};
    struct request_rows list = {0};
    struct table table;

    table_init(&table, columns, ARRAY_LEN(columns));
    collect(&list, view->board);
    if (list.len != 0)
        qsort(list.row, list.len, sizeof(*list.row), older_first);
    if (view->json) {
        emit_object(&view->out, NULL);
        emit_array(&view->out, "requests");
    }
    for (size_t i = 0; i < list.len; i++) {
        if (view->json)
            request_json(view, &list.row[i]);
        else
            request_row(view, &table, &list.row[i]);
    }
    if (view->json) {
        emit_end_array(&view->out);
        emit_end_object(&view->out);
    } else if (list.len == 0) {
        buf_str(&view->out, "No request is open.\n");
    } else {
        table_render(&table, &view->style, &view->out);
    }
    if (list.failed)
        view->out.failed = true;
    table_finish(&table);
    free(list.row);
}
