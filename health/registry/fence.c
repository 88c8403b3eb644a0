/* fence.c - which processes held a node's name before. */
#include "health/registry/fence.h"

#include <string.h>

static int find(const struct fence *fence, const char *name, const uint8_t instance_id[16])
{
    for (unsigned i = 0; i < FENCE_PLACES; i++) {
        const struct fence_place *place = &fence->place[i];

        if (memcmp(place->instance_id, instance_id, sizeof(place->instance_id)) == 0 &&
            strcmp(place->name, name) == 0)
            return (int)i;
    }
    return -1;
}

void fence_lost(struct fence *fence, const char *name, const uint8_t instance_id[16])
{
    struct fence_place *place = &fence->place[fence->next];

    if (find(fence, name, instance_id) != -1)
        return;
    (void)strlcpy(place->name, name, sizeof(place->name));
    memcpy(place->instance_id, instance_id, sizeof(place->instance_id));
    fence->next = (fence->next + 1) % FENCE_PLACES;
}

void fence_holds(struct fence *fence, const char *name, const uint8_t instance_id[16])
{
    int at = find(fence, name, instance_id);

    if (at != -1)
        memset(&fence->place[at], 0, sizeof(fence->place[at]));
}

bool fence_is_older(const struct fence *fence, const char *name, const uint8_t instance_id[16])
{
    return find(fence, name, instance_id) != -1;
}
