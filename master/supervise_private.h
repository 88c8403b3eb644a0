/* supervise_private.h - the parts of supervise.c that switch.c works with, too. */
#ifndef DROVER_MASTER_SUPERVISE_PRIVATE_H
#define DROVER_MASTER_SUPERVISE_PRIVATE_H

#include "master/supervise.h"

/* The one place that orders a child to end; an order that is no later than the last is ignored.
 * NULL is allowed. */
void supervise_order(const struct supervisor *sup, struct child *child, enum child_order order,
                     uint64_t now_mono_us);

/* Workers of every generation. */
unsigned supervise_workers_alive(const struct supervisor *sup);

/* Takes away the seats from `count` on; their children finish. */
void supervise_drop_seats(struct supervisor *sup, unsigned count);

/* Gives those that finish, and are older than `generation`, no more than the grace. */
void supervise_hurry(struct supervisor *sup, uint32_t generation);

/* Writes generation and number of workers to the scoreboard. */
void supervise_publish(const struct supervisor *sup);

#endif
