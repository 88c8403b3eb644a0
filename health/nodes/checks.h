/*
 * checks.h - what a node's probe and its reports say of it, as events for the table.
 *
 * A check that passes does not outweigh the node's own report that it cannot serve, nor the
 * record of a node that comes and goes.
 */
#ifndef DROVER_HEALTH_NODES_CHECKS_H
#define DROVER_HEALTH_NODES_CHECKS_H

#include "proto/drover_common.pb-c.h"

struct node;
struct net_addr;

/* Starts (again) to probe the node at `addr`. */
void checks_start(struct node *node, const struct net_addr *addr);

/* Takes a load report: to the scoreboard, and the node at its word if it cannot serve. */
void checks_load(struct node *node, const Drover__V1__LoadReport *load);

/* The node reported its models anew: one without any may have some now. */
void checks_models(struct node *node);

#endif
