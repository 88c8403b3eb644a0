/*
 * choose.h - finds a node for an exchange and claims a place there.
 *
 * Gathers who could serve it (model, operation, state, not excluded), what the scoreboard says
 * of each, and how much of the prompt each has seen; asks the policy; claims through the shared
 * gauges; and when another worker was faster, asks again about the rest.  Writes each decision
 * into the ring that `droverctl explain` shows.
 */
#ifndef DROVER_WORKER_CHOOSE_H
#define DROVER_WORKER_CHOOSE_H

#include <stdbool.h>

#include "base/attrs.h"

struct exchange;
struct exchange_core;
struct fleet_node;
struct leg;

enum choose_result {
    CHOOSE_CLAIMED = 0, /* *out is the node; its gauges count the request */
    CHOOSE_FULL,        /* some node could serve it, none may take it now */
    CHOOSE_ALL_FAILED,  /* every node that could has failed for this request */
    CHOOSE_NOBODY,      /* no node that could is up */
};
/* For a leg that is a hedge: one with a free slot, and not that of the other leg.
 * `beyond_slots`: only where all slots are taken, in a place that a cache match is worth. */
MUST_CHECK enum choose_result choose_node(struct leg *leg, bool beyond_slots,
                                          struct fleet_node **out);

/* Reads what routing needs of the request's prompt.  Once per exchange, before choose_node().
 */
void choose_read_prompt(struct exchange *x);

/* Is any node up and reachable that could take the request, whatever its load? */
bool choose_any_up(const struct exchange *x);
/* Is the request larger than any node of its model takes, those that are away included? */
bool choose_is_too_large(const struct exchange *x);

#endif
