/* health.h - the entry of the health process; all that the master sees of this folder. */
#ifndef DROVER_HEALTH_HEALTH_H
#define DROVER_HEALTH_HEALTH_H

#include <stdbool.h>

struct config;
struct scoreboard;

struct health_params {
    const struct config
        *config;              /* borrowed; replaced by health's own copy at the first reload */
    struct scoreboard *board; /* mapped by the master, writable */
    unsigned process;         /* this process's row in the process table */
    int admin_fd;             /* listening, or -1 */
    int registry_fd;          /* listening, or -1 */
    int config_fd;  /* memfd, re-read at HUP: the text of the active config, a NUL, its file */
    int command_fd; /* datagram socket: control requests (drain, undrain) from the master,
                    each answered with one control reply */
    int parent_fd;  /* read end of a pipe: end of file means the master is gone */
    bool admin_later; /* the admin listener is another process's until HEALTH_OPEN_ADMIN */
    bool nodes_left;  /* HEALTH_LEAVE_NODES was said to a process before this one */
};

/* The master's orders in an upgrade, as the value of the queued signal HEALTH_ORDER_SIGNAL. */
#define HEALTH_ORDER_SIGNAL SIGRTMIN
enum health_order {
    HEALTH_LEAVE_NODES = 1, /* nodes that joined shall join another process: close the registry
                               and keep them as if they were configured */
    HEALTH_LEAVE_ADMIN,     /* close the admin listener */
    HEALTH_OPEN_ADMIN,      /* after admin_later: open it */
};

/* Runs until it is stopped; returns the exit status.  Called in the child, right after fork(),
 * with all signals blocked.  HUP: re-read config_fd.  TERM, INT, QUIT: exit.  USR1: reopen
 * logs. */
int health_main(const struct health_params *params);

#endif
