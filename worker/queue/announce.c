/* announce.c - the signals between a worker's queue and the other processes. */
#include "worker/queue/announce.h"

#include <unistd.h>

#include "policy/queue/open_node.h"
#include "policy/route/estimate.h"
#include "shm/facts/nodes.h"
#include "shm/facts/outcomes.h"
#include "shm/queue/offers.h"
#include "shm/queue/queue_heads.h"
#include "shm/scoreboard.h"
#include "shm/share/gauges.h"

/* One word.  True: it differs from what is published. */
static bool set_head(struct announce *a, unsigned node, uint32_t generation, uint64_t key)
{
    bool is_published = node_set_has(&a->published, node);

    if (is_published ? a->key[node] == key && a->generation[node] == generation : key == 0)
        return false;
    queue_heads_set(a->board, a->worker, node, generation, key);
    a->key[node] = key;
    a->generation[node] = generation;
    if (key == 0)
        node_set_remove(&a->published, node);
    else
        node_set_add(&a->published, node);
    return true;
}

void announce_heads(struct announce *a, const struct announce_heads *heads, uint32_t waiting,
                    struct node_set *look)
{
    struct node_set nodes = a->published;
    bool changed = false;
    int node;

    for (unsigned i = 0; i < NODE_SET_WORDS; i++)
        nodes.word[i] |= heads->nodes.word[i];
    while ((node = node_set_pop(&nodes)) != -1) {
        unsigned n = (unsigned)node;

        if (!node_set_has(&heads->nodes, n)) {
            changed |= set_head(a, n, a->generation[n], 0);
        } else if (set_head(a, n, heads->generation[n], heads->key[n])) {
            changed = true;
            node_set_add(look, n);
        }
    }
    if (!changed && a->total == waiting)
        return;
    a->total = waiting;
    queue_heads_set_total(a->board, a->worker, waiting);
}

bool announce_open(const struct announce *a, unsigned node, uint64_t now_mono_us,
                   uint32_t *generation)
{
    struct open_node facts = {.hold_us = a->hold_us};
    struct gauge gauge;
    struct node_hot hot;

    if (!nodes_hot(a->board, node, &hot))
        return false;
    facts.up = hot.state == NODE_UP;
    facts.on_probation = hot.state == NODE_PROBATION;
    if (!facts.up && !facts.on_probation)
        return false;
    facts.verdict_pending = facts.on_probation && outcomes_probed(a->board, node);
    facts.slots_now = hot.slots_now;
    gauge = gauges_sum(a->board, node, hot.generation);
    facts.sent = gauge.inflight;
    if (a->hold_us != 0)
        facts.left_s =
            estimate_backlog(gauge.charged_us, hot.work_mono_us, now_mono_us, a->times).left_s;
    *generation = hot.generation;
    return open_node_places(&facts) != 0;
}

bool announce_least_other(const struct announce *a, unsigned node, uint32_t generation,
                          uint64_t now_mono_us, struct queue_head *out)
{
    return queue_heads_least(a->board, node, generation, a->worker, now_mono_us, out);
}

bool announce_any_other(const struct announce *a)
{
    return queue_heads_any(a->board, a->worker);
}

void announce_offer(const struct announce *a, unsigned node, unsigned worker)
{
    static const uint64_t one = 1;

    offers_set(a->board, worker, node);
    /* A full eventfd is readable: the worker will take the bit. */
    if (a->wake_fds != NULL && write(a->wake_fds[worker], &one, sizeof(one)) == -1)
        return;
}

void announce_take_offers(const struct announce *a, struct node_set *look)
{
    offers_take(a->board, a->worker, look);
}
