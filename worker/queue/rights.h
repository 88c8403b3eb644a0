/* rights.h - which places a request may take beside the others that wait. */
#ifndef DROVER_WORKER_RIGHTS_H
#define DROVER_WORKER_RIGHTS_H

#include <stdbool.h>
#include <stdint.h>

#include "shm/share/node_set.h"

struct queue_rights {
    bool overcommit_only;   /* not meant for a slot: only places beyond the slots */
    struct node_set slots;  /* nodes where it may take a free slot */
    struct node_set beyond; /* nodes where it may take a place beyond the slots */
};

/* How many requests the node may hold, this one included, out of `cap`; `inflight` = none is
 * for this one.  No rights (NULL): nothing waits, and all are. */
static inline uint32_t queue_rights_cap(const struct queue_rights *rights, unsigned node,
                                        uint32_t inflight, uint32_t slots, uint32_t cap)
{
    bool may = true;

    if (rights != NULL && inflight < slots)
        may = !rights->overcommit_only && node_set_has(&rights->slots, node);
    else if (rights != NULL)
        may = node_set_has(&rights->beyond, node);
    return may || cap < inflight ? cap : inflight;
}

#endif
