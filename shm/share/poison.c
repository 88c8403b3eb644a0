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

/* Each entry is forgotten at `until`.  Its lowest bit is set where the request is poison, those
 * above it are the node whose engine died. */
#define NODE_SHIFT 1u
#define NODE_BITS  (UINT64_C(1023) << NODE_SHIFT)
static_assert(SB_MAX_NODES <= 1024, "a node has 10 bits");

static uint64_t until_of(uint64_t now_mono_us, unsigned node, bool poison)
{
    const uint64_t low = NODE_BITS | 1;

    return ((now_mono_us + POISON_US + low) & ~low) | (uint64_t)node << NODE_SHIFT | poison;
}

static bool is_of_node(uint64_t until, unsigned node)
{
    return (until & NODE_BITS) == (uint64_t)node << NODE_SHIFT;
}

static bool is_poison(uint64_t until)
{
    return (until & 1) != 0;
}

/* The entry of the request, or -1; *until is its. */
static int find(const struct sb_taught_head *head, uint64_t hash, uint64_t now_mono_us,
                uint64_t *until)
{
    for (unsigned i = 0; i < POISON_ENTRIES; i++) {
        *until = atomic_load_explicit(&head->poison[i].until_mono_us, memory_order_relaxed);
        if (*until > now_mono_us &&
            (atomic_load_explicit(&head->poison[i].crossed, memory_order_relaxed) ^ *until) ==
                hash)
            return (int)i;
    }
    return -1;
}

/* The one that goes: the oldest, those of one death first. */
static int find_oldest(const struct sb_taught_head *head)
{
    uint64_t least = UINT64_MAX;
    int at = 0;

    for (unsigned i = 0; i < POISON_ENTRIES; i++) {
        uint64_t until =
            atomic_load_explicit(&head->poison[i].until_mono_us, memory_order_relaxed);

        if (is_poison(until))
            until += POISON_US;
        if (until < least) {
            least = until;
            at = (int)i;
        }
    }
    return at;
}

static void put(struct sb_taught_head *head, int at, uint64_t hash, uint64_t until)
{
    atomic_store_explicit(&head->poison[at].until_mono_us, until, memory_order_relaxed);
    atomic_store_explicit(&head->poison[at].crossed, hash ^ until, memory_order_relaxed);
}

bool poison_note_death(struct scoreboard *board, const struct poison_request *request,
                       unsigned node, bool again, uint64_t now_mono_us)
{
    struct sb_taught_head *head = segment_taught_head(board);
    uint64_t hash, until, next;
    bool poison = false;
    int at;

    if (!board->writable)
        return false;
    hash = hash_of(key_of(head), request);
    at = find(head, hash, now_mono_us, &until);
    if (at == -1)
        at = find_oldest(head);
    else if (is_poison(until) || again || !is_of_node(until, node) ||
             now_mono_us + POISON_US >= until + POISON_APART_US)
        poison = true;
    else
        return false; /* the same death */
    next = until_of(now_mono_us, node, poison);
    put(head, at, hash, next);
    atomic_store_explicit(&head->poison_until_mono_us, next, memory_order_release);
    return poison;
}

void poison_forget(struct scoreboard *board, const struct poison_request *request,
                   uint64_t now_mono_us)
{
    struct sb_taught_head *head = segment_taught_head(board);
    uint64_t hash, until;
    int at;

    if (!board->writable)
        return;
    hash = hash_of(key_of(head), request);
    at = find(head, hash, now_mono_us, &until);
    if (at != -1 && !is_poison(until))
        put(head, at, 0, 0);
}

bool poison_is(const struct scoreboard *board, const struct poison_request *request,
               uint64_t now_mono_us)
{
    const struct sb_taught_head *head = segment_taught_head(board);
    uint64_t hash, until;

    if (atomic_load_explicit(&head->poison_until_mono_us, memory_order_acquire) <= now_mono_us)
        return false;
    hash = hash_of(atomic_load_explicit(&head->poison_key, memory_order_relaxed), request);
    return find(head, hash, now_mono_us, &until) != -1 && is_poison(until);
}
