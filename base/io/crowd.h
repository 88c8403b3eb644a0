/*
 * crowd.h - who goes first when strangers have taken all the room.  Pure.
 *
 * A peer that has proven nothing yet is a member of a crowd, under the key of the address it
 * comes from (net_peer_key()).  When there is no room for another, the oldest member of the
 * address that has most goes: an address pays for its own crowd, and a newcomer has the time of
 * all the others to prove itself.
 */
#ifndef DROVER_BASE_CROWD_H
#define DROVER_BASE_CROWD_H

#include <stdint.h>
#include <sys/queue.h>

#include "base/attrs.h"

struct crowd_party; /* opaque: the members of one address */

struct crowd_member {
    struct crowd_party *party; /* NULL: in no crowd */
    uint64_t number;           /* in the order of joining */
    TAILQ_ENTRY(crowd_member) link;
};

/* Zero-initialised by its owner; holds memory only for members. */
struct crowd {
    LIST_HEAD(, crowd_party) parties;
    unsigned count; /* members */
    uint64_t last_number;
};

/* The member, embedded in what its owner keeps, is in no crowd.  DRV_ENOMEM. */
MUST_CHECK int crowd_join(struct crowd *crowd, struct crowd_member *member, uint64_t key);

/* It may be in no crowd. */
void crowd_leave(struct crowd *crowd, struct crowd_member *member);

/* The member that has to go first; NULL: the crowd is empty.  It stays a member. */
struct crowd_member *crowd_first_out(const struct crowd *crowd);

#endif
