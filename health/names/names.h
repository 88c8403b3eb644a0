/*
 * names.h - static nodes that are configured by host name: looked up again and again, and as
 * many nodes as the name has addresses.
 *
 * A source is one such entry of the configuration.  Each answer of the resolver is compared
 * with the members there are: a new address is a new member, a missing one drains and goes, the
 * others are left in peace; a machine that an operator has drained stays drained, under any
 * name of its node.  While the resolver gives no answer, everything stays as it was; a name
 * that never had one is a member without an address, so that people see it.
 */
#ifndef DROVER_HEALTH_NAMES_H
#define DROVER_HEALTH_NAMES_H

struct member;
struct source; /* opaque; the table has a list of them */
struct table;

/* Begins to look after entry `index` of the configuration, whose host is a name. */
void names_add(struct table *table, unsigned index);

/* The source of the configured node `name`, or NULL. */
struct source *names_find(const struct table *table, const char *name);

/* `member` was taken over and belongs to entry `index`. */
void names_adopt(struct member *member, unsigned index);

/* The next of the list, for those who go through table->sources. */
struct source *names_next(const struct source *source);
const char *names_name(const struct source *source);

/* Ends it; its members stay, and belong to none.  NULL is allowed. */
void names_forget(struct source *source);

#endif
