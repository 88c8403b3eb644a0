/* crowd.c - who goes first when strangers have taken all the room. */
#include "base/io/crowd.h"

#include <stddef.h>
#include <stdlib.h>

#include "base/error.h"

struct crowd_party {
    LIST_ENTRY(crowd_party) link;       /* in crowd->parties */
    TAILQ_HEAD(, crowd_member) members; /* oldest first */
    uint64_t key;
    unsigned count; /* not 0 */
};

static struct crowd_party *find(const struct crowd *crowd, uint64_t key)
{
    struct crowd_party *party;

    LIST_FOREACH(party, &crowd->parties, link)
        if (party->key == key)
            break;
    return party;
}

int crowd_join(struct crowd *crowd, struct crowd_member *member, uint64_t key)
{
    struct crowd_party *party = find(crowd, key);

    if (party == NULL) {
        party = calloc(1, sizeof(*party));
        if (party == NULL)
            return DRV_ENOMEM;
        party->key = key;
        TAILQ_INIT(&party->members);
        LIST_INSERT_HEAD(&crowd->parties, party, link);
    }
    member->party = party;
    member->number = ++crowd->last_number;
    TAILQ_INSERT_TAIL(&party->members, member, link);
    party->count++;
    crowd->count++;
    return 0;
}

void crowd_leave(struct crowd *crowd, struct crowd_member *member)
{
    struct crowd_party *party = member->party;

    if (party == NULL)
        return;
    TAILQ_REMOVE(&party->members, member, link);
    member->party = NULL;
    crowd->count--;
    if (--party->count != 0)
        return;
    LIST_REMOVE(party, link);
    free(party);
}

struct crowd_member *crowd_first_out(const struct crowd *crowd)
{
    struct crowd_party *party;
    struct crowd_member *first = NULL;

    LIST_FOREACH(party, &crowd->parties, link) {
        struct crowd_member *oldest = TAILQ_FIRST(&party->members);

        if (first == NULL || party->count > first->party->count ||
            (party->count == first->party->count && oldest->number < first->number))
            first = oldest;
    }
    return first;
}
