/* open_node.c - may a request that waits be sent to this node now? */
#include "policy/queue/open_node.h"

#include "policy/route/hold.h"

uint32_t open_node_places(const struct open_node *node)
{
    uint32_t slots = node->slots_now == 0 ? 1 : node->slots_now;

    if (node->on_probation)
        slots = node->verdict_pending ? 0 : 1;
    else if (!node->up || !hold_window_open(node->left_s, node->hold_us))
        slots = 0;
    return slots > node->sent ? slots - node->sent : 0;
}
