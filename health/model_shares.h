/*
 * model_shares.h - how many nodes each model has, and how many of these are UP.
 *
 * No ejection may leave less than half of a model's nodes.  The counts are made in one walk
 * over all nodes and kept while states change, so that asking costs one node's models and no
 * more.
 */
#ifndef DROVER_HEALTH_MODEL_SHARES_H
#define DROVER_HEALTH_MODEL_SHARES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "policy/fault/node_state.h"
#include "shm/facts/nodes.h"

struct model_share {
    const char *id; /* borrowed: of the first node that was counted; NULL = free */
    uint32_t total, serving;
};

/* Zero-initialised it is empty. */
struct model_shares {
    struct model_share *at; /* owned; a hash table */
    size_t cap;             /* 0 or a power of two */
    size_t count;
    bool failed; /* memory was short: nothing is allowed */
};

/* Frees what it holds; it is empty then. */
void model_shares_finish(struct model_shares *shares);

/* Forgets all nodes, and keeps the memory. */
void model_shares_clear(struct model_shares *shares);

/* Counts a node in this state.  `info` stays where it is, and as it is, until the next
 * model_shares_clear(). */
void model_shares_add(struct model_shares *shares, const struct node_info *info,
                      enum node_state state);

/* A node that was counted in state `from` is in state `to` now. */
void model_shares_move(struct model_shares *shares, const struct node_info *info,
                       enum node_state from, enum node_state to);

/* Would each model of this node, which was counted in `state`, keep half of its nodes without
 * it? */
bool model_shares_allow(const struct model_shares *shares, const struct node_info *info,
                        enum node_state state);

#endif
