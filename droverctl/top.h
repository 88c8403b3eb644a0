/*
 * top.h - `top`: how Llama Drover is, live on a whole terminal.
 *
 * The same views as the other commands, made anew every second: status above, one of nodes,
 * requests, models and workers below.  Each picture maps the scoreboard afresh, so it goes on
 * through restarts and upgrades of the master.
 */
#ifndef DROVER_DROVERCTL_TOP_H
#define DROVER_DROVERCTL_TOP_H

#include <stdbool.h>

#include "base/attrs.h"

/* Runs until the operator leaves; an exit status.  `color`: the terminal may show colours. */
MUST_CHECK int top_run(const char *runtime_dir, bool color);

#endif
