/* sim_cache.c - a set of prompt blocks with least-recently-used eviction. */
#include "sim/model/sim_cache.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

struct sim_cache_entry {
    uint64_t block;
    uint32_t prev,
        next;       /* in order of use; entries[capacity] is the head: next = most recent */
    uint32_t chain; /* index + 1 of the next entry in the bucket, 0 = end */
};

int sim_cache_init(struct sim_cache *cache, uint32_t capacity)
{
    uint32_t buckets = 16;

    memset(cache, 0, sizeof(*cache));
    while (buckets < capacity)
        buckets *= 2;
    cache->entries = calloc((size_t)capacity + 1, sizeof(*cache->entries));
    cache->buckets = calloc(buckets, sizeof(*cache->buckets));
    if (cache->entries == NULL || cache->buckets == NULL) {
        sim_cache_finish(cache);
        return DRV_ENOMEM;
    }
    cache->capacity = capacity;
    cache->bucket_mask = buckets - 1;
    cache->entries[capacity].prev = capacity;
    cache->entries[capacity].next = capacity;
    return 0;
}

void sim_cache_finish(struct sim_cache *cache)
{
    free(cache->entries);
    free(cache->buckets);
    memset(cache, 0, sizeof(*cache));
}

static uint32_t *bucket_of(const struct sim_cache *cache, uint64_t block)
{
    return &cache->buckets[block & cache->bucket_mask];
}

static bool find(const struct sim_cache *cache, uint64_t block, uint32_t *at)
{
    uint32_t i;

    for (i = *bucket_of(cache, block); i != 0; i = cache->entries[i - 1].chain)
        if (cache->entries[i - 1].block == block) {
            *at = i - 1;
            return true;
        }
    return false;
}

static void unlink_entry(struct sim_cache *cache, uint32_t at)
{
    struct sim_cache_entry *e = &cache->entries[at];

    cache->entries[e->prev].next = e->next;
    cache->entries[e->next].prev = e->prev;
}

static void link_first(struct sim_cache *cache, uint32_t at)
{
    struct sim_cache_entry *e = &cache->entries[at], *head = &cache->entries[cache->capacity];

    e->prev = cache->capacity;
    e->next = head->next;
    cache->entries[head->next].prev = at;
    head->next = at;
}

static void touch(struct sim_cache *cache, uint32_t at)
{
    unlink_entry(cache, at);
    link_first(cache, at);
}

/* Takes the least recently used entry out of its bucket and of the list. */
static uint32_t evict(struct sim_cache *cache)
{
    uint32_t at = cache->entries[cache->capacity].prev;
    uint32_t *slot = bucket_of(cache, cache->entries[at].block);

    while (*slot != at + 1)
        slot = &cache->entries[*slot - 1].chain;
    *slot = cache->entries[at].chain;
    unlink_entry(cache, at);
    return at;
}

size_t sim_cache_peek(const struct sim_cache *cache, const uint64_t *blocks, size_t n)
{
    size_t hit;
    uint32_t at;

    for (hit = 0; hit < n && find(cache, blocks[hit], &at); hit++)
        ;
    return hit;
}

size_t sim_cache_hit(struct sim_cache *cache, const uint64_t *blocks, size_t n)
{
    size_t hit = sim_cache_peek(cache, blocks, n), i;
    uint32_t at;

    for (i = hit; i-- > 0;)
        if (find(cache, blocks[i], &at))
            touch(cache, at);
    return hit;
}

void sim_cache_insert(struct sim_cache *cache, const uint64_t *blocks, size_t n)
{
    size_t i;

    if (n > cache->capacity)
        n = cache->capacity; /* the end would evict the beginning, without which it is no use */
    for (i = n; i-- > 0;) {
        uint32_t at, *slot;

        if (find(cache, blocks[i], &at)) {
            touch(cache, at);
            continue;
        }
        at = cache->used < cache->capacity ? cache->used++ : evict(cache);
        slot = bucket_of(cache, blocks[i]);
        cache->entries[at].block = blocks[i];
        cache->entries[at].chain = *slot;
        *slot = at + 1;
        link_first(cache, at);
    }
}
