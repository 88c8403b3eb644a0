/*
 * handover.h - the messages between a master and its successor.
 *
 * Neither knows what the other was built from, so nothing here depends on the layout of the
 * scoreboard: a text of lines, of which unknown ones are skipped, and short messages over a
 * SOCK_SEQPACKET socket whose end of file means that the other one is gone.
 *
 *   successor: "started"        its health process runs: let go of the nodes that joined
 *              "nodes GOT OF"   so many of those in the handover text are UP with it
 *              "ready"          its workers serve, its files are in place
 *              "failed REASON"  it ends
 *   master:    "workers N"      an operator wants so many: replaces the handover text's number
 *              "reload"         ... the configuration read again, once you serve
 *              "reopen"         ... the log files opened again
 *              "go"             ready came in time: you go on alone
 *   successor: "finish", "stop", "die"
 *                               (after "ready") we were ordered to end, so both shall: when
 *                               your streams are done, within the grace, at once
 */
#ifndef DROVER_MASTER_UPGRADE_HANDOVER_H
#define DROVER_MASTER_UPGRADE_HANDOVER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attrs.h"
#include "master/upgrade/inherit.h"

struct buf;
struct error;

#define HANDOVER_NAME_BYTES    64
#define HANDOVER_MESSAGE_BYTES 512
#define HANDOVER_MAX_WORKERS   64

enum handover_state {
    HANDOVER_UP = 0,  /* serves: the successor waits for it */
    HANDOVER_DRAINED, /* an operator has drained it: so shall the successor */
};

struct handover_node {
    char name[HANDOVER_NAME_BYTES];
    enum handover_state state;
    bool done; /* the receiver's own: it is as it shall be */
};

struct handover {
    bool scaled;                       /* an operator has set the number of workers ... */
    unsigned workers;                  /* ... to this; else as the configuration says */
    bool activated[INHERIT_LISTENERS]; /* the socket is a service manager's */
    struct handover_node *nodes;       /* owned */
    size_t nodes_count;
};

void handover_finish(struct handover *handover);

/* DRV_ENOMEM. */
MUST_CHECK int handover_add_node(struct handover *handover, const char *name,
                                 enum handover_state state);

/* Check out->failed. */
void handover_encode(struct buf *out, const struct handover *handover);
/* Lines that make no sense are skipped.  DRV_ENOMEM. */
MUST_CHECK int handover_decode(struct handover *out, const char *text, size_t n,
                               struct error *err);

/* "3", 0 .. HANDOVER_MAX_WORKERS; false: *out is left alone. */
MUST_CHECK bool handover_workers(unsigned *out, const char *text);

/* One message; lost if the other end is gone or does not read. */
void handover_say(int channel, const char *word, const char *text);

/* One message: 1 and its text in `out`; 0: none now; -1: the other end is gone. */
MUST_CHECK int handover_hear(int channel, char out[HANDOVER_MESSAGE_BYTES]);

#endif
