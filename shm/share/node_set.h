/* node_set.h - a set of rows of the node table, as bits. */
#ifndef DROVER_SHM_NODE_SET_H
#define DROVER_SHM_NODE_SET_H

#include <stdbool.h>
#include <stdint.h>

#define NODE_SET_NODES 1024u /* as many as the node table can have */
#define NODE_SET_WORDS (NODE_SET_NODES / 64)

struct node_set {
    uint64_t word[NODE_SET_WORDS]; /* node n is bit n % 64 of word n / 64 */
};

static inline void node_set_add(struct node_set *set, unsigned node)
{
    set->word[node / 64 % NODE_SET_WORDS] |= UINT64_C(1) << node % 64;
}

static inline void node_set_remove(struct node_set *set, unsigned node)
{
    set->word[node / 64 % NODE_SET_WORDS] &= ~(UINT64_C(1) << node % 64);
}

static inline bool node_set_has(const struct node_set *set, unsigned node)
{
    return (set->word[node / 64 % NODE_SET_WORDS] >> node % 64 & 1) != 0;
}

/* Takes the lowest node out of the set; -1 when it is empty. */
static inline int node_set_pop(struct node_set *set)
{
    for (unsigned i = 0; i < NODE_SET_WORDS; i++) {
        if (set->word[i] != 0) {
            int bit = __builtin_ctzll(set->word[i]);

            set->word[i] &= set->word[i] - 1;
            return (int)i * 64 + bit;
        }
    }
    return -1;
}

#endif
