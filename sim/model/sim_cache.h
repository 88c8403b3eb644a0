/*
 * sim_cache.h - a set of prompt blocks with least-recently-used eviction.
 *
 * A block is named by the chained 64-bit hash of all the prompt up to its end, so finding block
 * i means that the whole beginning of the prompt is the same.  Pure; allocates in init only.
 */
#ifndef DROVER_SIM_CACHE_H
#define DROVER_SIM_CACHE_H

#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

struct sim_cache_entry;

struct sim_cache {
    struct sim_cache_entry
        *entries;            /* owned; `capacity` of them, and the list head at the end */
    uint32_t *buckets;       /* owned; index + 1 of a chain's first entry, 0 = none */
    uint32_t capacity, used; /* blocks */
    uint32_t bucket_mask;
};

/* DRV_ENOMEM; `capacity` 0 is a cache that never hits. */
MUST_CHECK int sim_cache_init(struct sim_cache *cache, uint32_t capacity);
void sim_cache_finish(struct sim_cache *cache);

/* The number of leading blocks in the cache.  Changes nothing. */
size_t sim_cache_peek(const struct sim_cache *cache, const uint64_t *blocks, size_t n);

/* The number of leading blocks in the cache; they count as used now, the first most recently,
 * so that a chain is forgotten from its end. */
size_t sim_cache_hit(struct sim_cache *cache, const uint64_t *blocks, size_t n);

/* Adds the blocks, evicting the least recently used ones. */
void sim_cache_insert(struct sim_cache *cache, const uint64_t *blocks, size_t n);

#endif
