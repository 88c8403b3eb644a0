/* view.c - what the views share. */
#include "droverctl/view.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "droverctl/format/text.h"
#include "droverctl/processes.h"
#include "shm/scoreboard.h"

#define NAMES_SHOWN 12

const char *view_proc_kind(const struct scoreboard *board, unsigned process)
{
    if (process == procs_health_index(board))
        return "health";
    if (process == procs_master_index(board))
        return "master";
    return "worker";
}

void view_proc_name(char *out, const struct scoreboard *board, unsigned process)
{
    if (process < scoreboard_max_workers(board))
        (void)snprintf(out, VIEW_PROC_NAME_BYTES, "worker %u", process);
    else
        (void)snprintf(out, VIEW_PROC_NAME_BYTES, "%s", view_proc_kind(board, process));
}

void view_node_name(char *out, const struct scoreboard *board, unsigned node)
{
    struct node_info info;

    out[0] = '\0';
    if (nodes_read(board, node, &info))
        (void)strlcpy(out, info.name, NODE_NAME_BYTES);
}

void view_known_nodes(char *text, size_t cap, const struct scoreboard *board)
{
    struct buf names = BUF_INIT;
    unsigned listed = 0, more = 0;

    for (unsigned node = 0; node < scoreboard_max_nodes(board); node++) {
        char name[NODE_NAME_BYTES];

        view_node_name(name, board, node);
        if (name[0] == '\0')
            continue;
        if (listed == NAMES_SHOWN) {
            more++;
            continue;
        }
        buf_str(&names, listed++ == 0 ? "" : ", ");
        text_escape(&names, name, false);
    }
    if (more != 0)
        buf_printf(&names, ", and %u more", more);
    (void)strlcat(text, listed == 0 ? " (no nodes are known)" : " (known: ", cap);
    if (listed != 0) {
        (void)strlcat(text, buf_cstr(&names), cap);
        (void)strlcat(text, ")", cap);
    }
    buf_finish(&names);
}

int view_find_node(const struct view *view, const char *name, struct error *err)
{
    int node = nodes_find(view->board, name);
    char text[ERROR_TEXT_BYTES];

    if (node >= 0)
        return node;
    (void)snprintf(text, sizeof(text), "no node is called \"%.64s\"", name);
    view_known_nodes(text, sizeof(text), view->board);
    (void)error_set(err, DRV_ENOENT, "%s", text);
    return -1;
}

enum tone view_state_tone(enum node_state state)
{
    switch (state) {
    case NODE_UP:
        return TONE_GOOD;
    case NODE_JOINING:
    case NODE_PROBATION:
    case NODE_DRAINING:
        return TONE_WARN;
    case NODE_EJECTED:
    case NODE_DOWN:
        return TONE_BAD;
    case NODE_NONE:
    case NODE_GONE:
        return TONE_DIM;
    }
    return TONE_PLAIN;
}

/* drover.v1.Operation, by value. */
void view_add_warnings(struct view *view, const struct processes *processes)
{
    struct buf lines = BUF_INIT;

    processes_warn(&lines, processes);
    if (buf_size(&lines) != 0)
        buf_str(&view->out, "\n");
    for (const char *line = buf_cstr(&lines), *end; (end = strchr(line, '\n')) != NULL;
         line = end + 1) {
        style_add(&view->out, &view->style, TONE_BAD, "warning: ", 9);
        buf_add(&view->out, line, (size_t)(end - line) + 1);
    }
    buf_finish(&lines);
}
