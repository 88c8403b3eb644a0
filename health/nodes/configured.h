/*
 * configured.h - the nodes that the configuration names: at the start, and when it changes.
 *
 * New entries come, missing ones drain and go, changed ones change, the others are left in
 * peace.  An entry with a host name is as many nodes as that has addresses (names/names.h).
 */
#ifndef DROVER_HEALTH_NODES_CONFIGURED_H
#define DROVER_HEALTH_NODES_CONFIGURED_H

struct config;
struct node_table;

/* Takes over the static nodes of an earlier health process, and adds those that are missing.
 * Nothing is probed before the loop turns. */
void configured_start(struct node_table *table);

/* Takes another configuration, which must outlive the table or the next reload. */
void configured_reload(struct node_table *table, const struct config *config);

/* Ends what looks names up; the nodes stay.  NULL is allowed. */
void configured_stop(struct node_table *table);

#endif
