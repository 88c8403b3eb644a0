/*
 * checks.h - what a node's probe and its reports say of it, as events for the table.
 *
 * A check that passes does not outweigh the node's own report that it cannot serve, nor the
 * record of a node that comes and goes.
 */
#ifndef DROVER_HEALTH_NODES_CHECKS_H
#define DROVER_HEALTH_NODES_CHECKS_H

#include "proto/drover_common.pb-c.h"

struct member;
struct net_addr;

/* Starts (again) to probe the node at `addr`. */
void checks_start(struct member *member, const struct net_addr *addr);

/* Takes a load report: to the scoreboard, and the node at its word if it cannot serve. */
void checks_load(struct member *member, const Drover__V1__LoadReport *load);

#endif
