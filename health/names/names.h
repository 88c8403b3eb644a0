/*
 * names.h - static nodes that are configured by host name: looked up again and again, and as
 * many nodes as the name has addresses.
 *
 * A source is one such entry of the configuration.  Each answer of the resolver is compared
 * with the nodes there are: a new address is a new node, a missing one drains and goes, the
 * others are left in peace; a machine that an operator has drained stays drained, under any
 * name of its node.  While the resolver gives no answer, everything stays as it was; a name
 * that never had one is a node without an address, so that people see it.
 */
#ifndef DROVER_HEALTH_NAMES_H
#define DROVER_HEALTH_NAMES_H

struct node;
struct dns_source; /* opaque; the table has a list of them */
struct node_table;

/* Begins to look after entry `index` of the configuration, whose host is a name. */
void names_add(struct node_table *table, unsigned index);

/* The source of the configured node `name`, or NULL. */
struct dns_source *names_find(const struct node_table *table, const char *name);

/* `node` was taken over and belongs to entry `index`. */
void names_adopt(struct node *node, unsigned index);

/* The next of the list table->sources. */
struct dns_source *names_next(const struct dns_source *source);
const char *names_name(const struct dns_source *source);

/* Ends it; its nodes stay, and belong to none.  NULL is allowed. */
void names_forget(struct dns_source *source);

#endif
