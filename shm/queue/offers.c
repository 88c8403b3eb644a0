/*
 * offers.c - "node N has room, and your request is first": one bit per worker and node.
 *
 * Setting is a release and taking an acquire, so the worker sees what the process that offers
 * did before: the room it made.
 */
#include "shm/queue/offers.h"

#include "shm/segment.h"

void offers_set(struct scoreboard *board, unsigned worker, unsigned node)
{
    _Atomic uint64_t *words = segment_offers(board, worker);

    if (!board->writable || words == NULL || node >= board->geometry.n_nodes)
        return;
    atomic_fetch_or_explicit(&words[node / 64], UINT64_C(1) << node % 64, memory_order_acq_rel);
}

void offers_take(struct scoreboard *board, unsigned worker, struct node_set *nodes)
{
    _Atomic uint64_t *words = segment_offers(board, worker);

    if (!board->writable || words == NULL)
        return;
    for (uint32_t i = 0; i * 64 < board->geometry.n_nodes; i++) {
        /* A look first: mostly there is nothing, and the line stays shared. */
        if (atomic_load_explicit(&words[i], memory_order_relaxed) != 0)
            nodes->word[i] |= atomic_exchange_explicit(&words[i], 0, memory_order_acq_rel);
    }
}

void offers_clear_worker(struct scoreboard *board, unsigned worker)
{
    struct node_set nodes = {0};

    offers_take(board, worker, &nodes);
}
