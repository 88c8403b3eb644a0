/*
 * addresses.h - the addresses of a host name, and what the node at each is called.  Pure.
 *
 * Only addresses of the first one's family count: a machine with an IPv4 and an IPv6 address is
 * one machine, and the resolver puts the family that works first.
 */
#ifndef DROVER_HEALTH_ADDRESSES_H
#define DROVER_HEALTH_ADDRESSES_H

#include <stdbool.h>
#include <stddef.h>

#include "base/io/net.h"
#include "shm/facts/nodes.h"

#define ADDRESSES_MAX 64u

struct addresses {
    unsigned count; /* different ones, sorted by their text */
    struct address {
        char text[NODE_ADDRESS_BYTES]; /* "10.0.0.5:9100" */
        struct net_addr addr;
    } at[ADDRESSES_MAX];
};

/* Takes what the resolver said, in any order, with any repetitions; of more than ADDRESSES_MAX
 * the first count. */
void addresses_set(struct addresses *out, const struct net_addr *list, size_t n);

/*
 * The name of the node at one of `count` addresses of the configured node `name`: `name`
 * when there is one address, else `name-ADDRESS`.  So it does not depend on the order of the
 * addresses, nor on which others there are.  The colons of IPv6 become underscores, and a name
 * that is too long loses its end, not its address.
 */
void addresses_name(char out[NODE_NAME_BYTES], const char *name, const struct address *address,
                    unsigned count);

/* Is the address with this text among them? */
bool addresses_has(const struct addresses *addresses, const char *text);

/* Could addresses_name() have made `derived` of `name`? */
bool addresses_is_name(const char *derived, const char *name);

#endif
