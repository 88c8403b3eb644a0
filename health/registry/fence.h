/*
 * fence.h - which processes held a node's name before, and may not take it back.  Pure.
 *
 * Two processes that claim one name cannot both be right.  The one that came later is: the
 * operator started it.  An instance that lost its name, to another or because its lease ran
 * out, is remembered here; when it shows up again (after a network that was cut, say) while
 * another holds the name, it is an older one.  There is no clock in this: the order in which
 * this coordinator met them is all that counts.  The oldest memory makes room for the newest.
 */
#ifndef DROVER_HEALTH_FENCE_H
#define DROVER_HEALTH_FENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "shm/facts/nodes.h"

#define FENCE_PLACES 1024u

struct fence_place {
    char name[NODE_NAME_BYTES];
    uint8_t instance_id[16];
};

struct fence {
    struct fence_place place[FENCE_PLACES];
    unsigned next;
};

/* The instance does not hold the name any more. */
void fence_lost(struct fence *fence, const char *name, const uint8_t instance_id[16]);

/* It holds it (again). */
void fence_holds(struct fence *fence, const char *name, const uint8_t instance_id[16]);

/* Did it hold the name once, and lose it? */
bool fence_is_older(const struct fence *fence, const char *name, const uint8_t instance_id[16]);

#endif
