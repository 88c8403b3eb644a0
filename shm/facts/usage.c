/*
 * usage.c - the usage of each API key.
 *
 * A row is taken by putting the name's hash into its `owner`, by compare-and-swap.  Every claim
 * of a row writes the name, even if it is there: all write the same bytes, so neither the order
 * nor a writer's death matters.  A reader accepts a name only if its hash is the row's.
 */
#include "shm/facts/usage.h"

#include <string.h>

#include "base/hash.h"
#include "shm/segment.h"
#include "shm/seqlock.h"

static_assert(USAGE_ROWS == SB_USAGE_ROWS, "new layout version");
static_assert(USAGE_COUNTERS == SB_USAGE_COUNTERS, "new layout version");
static_assert(USAGE_NAME_BYTES == SB_USAGE_NAME_BYTES, "new layout version");

/* The row is ours, or its owner's name is the same. */
static bool take(struct sb_usage *row, uint64_t hash)
{
    uint64_t owner = 0;

    return atomic_compare_exchange_strong_explicit(
               &row->owner, &owner, hash, memory_order_relaxed, memory_order_relaxed) ||
           owner == hash;
}

int usage_claim(struct scoreboard *board, const char *name)
{
    char text[USAGE_NAME_BYTES] = "";
    uint64_t hash = hash_text(name);

    if (!board->writable || strlcpy(text, name, sizeof(text)) >= sizeof(text))
        return -1;
    for (unsigned i = 0; i < USAGE_ROWS; i++) {
        struct sb_usage *row = segment_usage(board, i);

        if (!take(row, hash))
            continue;
        seqlock_store(row->name, text, sizeof(text));
        return (int)i;
    }
    return -1;
}

void usage_add(struct scoreboard *board, int row, enum usage_counter which, uint64_t n)
{
    struct sb_usage *usage = row < 0 ? NULL : segment_usage(board, (unsigned)row);

    if (usage == NULL || !board->writable || (unsigned)which >= USAGE_COUNTERS)
        return;
    atomic_fetch_add_explicit(&usage->counter[which], n, memory_order_relaxed);
}

bool usage_read(const struct scoreboard *board, unsigned row, struct usage_view *out)
{
    const struct sb_usage *usage = segment_usage(board, row);
    uint64_t owner;

    if (usage == NULL)
        return false;
    owner = atomic_load_explicit(&usage->owner, memory_order_relaxed);
    seqlock_load(out->name, usage->name, sizeof(out->name));
    out->name[sizeof(out->name) - 1] = '\0';
    for (unsigned i = 0; i < USAGE_COUNTERS; i++)
        out->counter[i] = atomic_load_explicit(&usage->counter[i], memory_order_relaxed);
    return owner != 0 && hash_text(out->name) == owner;
}
