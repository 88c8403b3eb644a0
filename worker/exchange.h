/*
 * exchange.h - an inference request from the moment it is valid to its last byte.
 *
 * An exchange waits for a node with room, claims a place in the gauges, runs attempts until one
 * gives content, relays, and writes one line of access log.  Nothing of an answer is shown to
 * the client before its first content byte (or its end): until then a failed attempt is
 * followed by another on a node not yet tried, and the client sees only time.  After it, a
 * plain text goes on elsewhere from where it stopped.
 *
 *   WAITING    no node has room; in the line of its model
 *   RUNNING    an attempt is under way
 *
 *   HOPING     every node that could go on with its answer has failed for it; in no line, so
 *              that it holds up nobody, it looks for a moment whether one comes (back)
 *
 *   ANSWERED   everything has been given to the responder, which may still be writing
 */
#ifndef DROVER_WORKER_EXCHANGE_H
#define DROVER_WORKER_EXCHANGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/loop.h"
#include "proto/wire.h"

struct config;
struct exchange; /* opaque */
struct fleet;
struct fleet_node;
struct infer_request;
struct log_sink;
struct scoreboard;
struct wait_line;

/* What all exchanges of a process share. */
struct exchange_core {
    struct loop *loop;
    const struct config *config;
    struct scoreboard *board;
    unsigned slot; /* own column of the gauges */
    struct fleet *fleet;
    struct log_sink *access_log;
    struct wire_arena arena;
    const int *wake_fds; /* an eventfd per worker slot, for waiting.c; borrowed */

    /* private to exchange.c, choose.c and waiting.c */
    struct exchange *first, *last; /* all */
    size_t open_count;
    struct wait_line *lines; /* owned; one per model that somebody waits for here */
    size_t waiting_count;
    struct deferred wake;
    struct timer wake_timer; /* while anything waits */
    uint64_t random;         /* state of the tie-breaker */
};

void exchange_core_init(struct exchange_core *core);
void exchange_core_finish(struct exchange_core *core);

/* Takes a valid request; the answer is the exchange's business from here on. */
void exchange_start(struct exchange_core *core, struct infer_request *request);

/* Something about the fleet, or a place elsewhere, changed: looks at the waiting ones at the
 * end of this turn. */
void exchange_wake(struct exchange_core *core);

size_t exchange_open(const struct exchange_core *core);

/* The time is up: ends every exchange with 503, or with an error event if it has begun. */
void exchange_stop_all(struct exchange_core *core);

#endif
