/*
 * view.h - what every view of the scoreboard gets, and what they share.
 *
 * A view writes its whole answer into view->out; main.c prints it.  So an answer is printed
 * whole or, when the file is truncated meanwhile, not at all.
 */
#ifndef DROVER_DROVERCTL_VIEW_H
#define DROVER_DROVERCTL_VIEW_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/text/buf.h"
#include "droverctl/format/table.h"
#include "shm/facts/nodes.h"
#include "shm/facts/procs.h"

struct error;
struct processes;
struct scoreboard;

/* Exit statuses; documented in droverctl(1). */
enum {
    EXIT_STATUS_OK = 0,
    EXIT_STATUS_FAILED = 1,
    EXIT_STATUS_USAGE = 2,
    EXIT_STATUS_NOT_RUNNING = 3,
};

struct view {
    const struct scoreboard *board;
    uint64_t now_mono_us;
    bool json;
    struct style style;
    struct buf out;
};

/* "worker 3", "health", "master". */
#define VIEW_PROC_NAME_BYTES 24
void view_proc_name(char *out, const struct scoreboard *board, unsigned process);
const char *view_proc_kind(const struct scoreboard *board, unsigned process);

/* The name of a node by its id, or "" when it has none. */
void view_node_name(char *out, const struct scoreboard *board, unsigned node);

/* The id of a node, or -1 with `err` naming the known nodes. */
MUST_CHECK int view_find_node(const struct view *view, const char *name, struct error *err);
/* Appends " (known: a, b, c)" to a text of `cap` bytes. */
void view_known_nodes(char *text, size_t cap, const struct scoreboard *board);

enum tone view_state_tone(enum node_state state);

/* Appends what is wrong with the processes, a line each. */
void view_add_warnings(struct view *view, const struct processes *processes);

/* The views.  DRV_ENOENT: no such node or request; DRV_EINVAL: no such histogram. */
void show_status(struct view *view);
void show_workers(struct view *view);
void show_requests(struct view *view);
void show_nodes(struct view *view);
void show_models(struct view *view);
MUST_CHECK int show_node(struct view *view, const char *name, struct error *err);
MUST_CHECK int show_explain(struct view *view, const char *id, struct error *err);
MUST_CHECK int show_histogram(struct view *view, const char *name, const char *which,
                              struct error *err);

#endif
