/*
 * static_node.h - a node that the configuration names: what its entry says of it.
 *
 * configured.h has the list of entries and the effect of a reload on it.
 */
#ifndef DROVER_HEALTH_NODES_STATIC_NODE_H
#define DROVER_HEALTH_NODES_STATIC_NODE_H

#include <openssl/ssl.h>
#include <stdbool.h>

#include "base/attrs.h"

struct config;
struct config_node;
struct config_tls;
struct node;
struct node_table;

/* The entry called `name`, or -1. */
int static_node_index(const struct config *config, const char *name);

/* Do two entries lead to the same machine by the same means? */
bool static_node_same_peer(const struct config_node *a, const struct config_node *b);

/* A new node for entry `index` of the configuration, called `name`, which still needs an
 * address; NULL when there is no room. */
struct node *static_node_add(struct node_table *table, unsigned index, const char *name);

/* A node of an earlier health process is the node of entry `index`.  False: no memory. */
MUST_CHECK bool static_node_take_over(struct node *node, unsigned index);

/* Its entry, `before` until now, says the same node with other slots, queue, weight or place in
 * the list. */
void static_node_update(struct node *node, const struct config_node *before, unsigned index);

/* Loads the files anew.  A probe keeps its context for as long as it lives: changes go into
 * that context.  Files that cannot be used change nothing. */
void static_node_renew_tls(SSL_CTX **tls, const struct config_tls *config, const char *whose);

#endif
