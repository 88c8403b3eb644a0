/* worker.h - the entry of a worker process; all that the master sees of this folder. */
#ifndef DROVER_WORKER_WORKER_H
#define DROVER_WORKER_WORKER_H

#include <stdbool.h>

struct config;
struct holders;
struct scoreboard;

struct worker_params {
    const struct config *config; /* borrowed for the life of the process */
    struct scoreboard *board;    /* mapped by the master, writable */
    struct holders *holders;     /* likewise */
    unsigned worker;             /* this process's row in the process table, already assigned */
    int listen_fd; /* shared listening socket of the API, non-blocking; closed at the end */
    const int *wake_fds; /* an eventfd per worker: written by the process that frees a place */
    int parent_fd;       /* read end of a pipe: end of file means the master is gone */
    bool replaces; /* a worker that died: an access log that cannot be opened any more is no
                      reason not to serve */
};

/*
 * Runs until it is stopped; returns the exit status.  Called in the child, right after fork(),
 * with all signals blocked.  QUIT, WINCH: stop accepting, finish open requests, exit.  TERM,
 * INT: the same with config->shutdown_grace_ms as the limit, then end what is left with an
 * error event.  USR1: reopen logs. End of file on parent_fd: as TERM.
 */
int worker_main(const struct worker_params *params);

#endif
