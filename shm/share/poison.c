/*
 * poison.c - the requests of the last minute under which engines died.
 *
 * An entry is two words: until when, and the hash crossed with that.  Of two workers that write
 * one place at once either is found, or none (shm/share/taught.c says why).
 */
#include "shm/share/poison.h"

#include <stdlib.h>
#include <xxhash.h>

#include "base/hash.h"
#include "shm/segment.h"

static_assert(POISON_ENTRIES == SB_POISON, "new layout version");

/* The key; the first who needs one draws it. */
static uint64_t key_of(struct sb_taught_head *head)
{
    uint64_t key = atomic_load_explicit(&head->poison_key, memory_order_relaxed), drawn;

    if (key != 0)
        return key;
    drawn = ((uint64_t)arc4random() << 32 | arc4random()) | 1;
    return atomic_compare_exchange_strong(&head->poison_key, &key, drawn) ? drawn : key;
}

static uint64_t hash_of(uint64_t key, const struct poison_request *request)
{
    uint64_t seed = hash_spread(key ^ request->model_hash) ^ (uint64_t)request->operation;

    return XXH3_64bits_withSeed(request->body, request->n, seed);
}

void poison_note(struct scoreboard *board, const struct poison_request *request,
                 uint64_t now_mono_us)
{
    struct sb_taught_head *head = segment_taught_head(board);
    uint64_t until = now_mono_us + POISON_US, least = UINT64_MAX, hash;
    unsigned at = 0;

    if (!board->writable)
        return;
    hash = hash_of(key_of(head), request);
    for (unsigned i = 0; i < POISON_ENTRIES; i++) {
        uint64_t then =
            atomic_load_explicit(&head->poison[i].until_mono_us, memory_order_relaxed);

        if (then < least) {
            least = then;
            at = i;
        }
    }
    atomic_store_explicit(&head->poison[at].until_mono_us, until, memory_order_relaxed);
    atomic_store_explicit(&head->poison[at].crossed, hash ^ until, memory_order_relaxed);
    atomic_store_explicit(&head->poison_until_mono_us, until, memory_order_release);
}

bool poison_is(const struct scoreboard *board, const struct poison_request *request,
               uint64_t now_mono_us)
{
    const struct sb_taught_head *head = segment_taught_head(board);
    uint64_t hash;

    if (atomic_load_explicit(&head->poison_until_mono_us, memory_order_acquire) <= now_mono_us)
        return false;
    hash = hash_of(atomic_load_explicit(&head->poison_key, memory_order_relaxed), request);
    for (unsigned i = 0; i < POISON_ENTRIES; i++) {
        uint64_t until =
            atomic_load_explicit(&head->poison[i].until_mono_us, memory_order_relaxed);

        if (until > now_mono_us &&
            (atomic_load_explicit(&head->poison[i].crossed, memory_order_relaxed) ^ until) ==
                hash)
            return true;
    }
    return false;
}
