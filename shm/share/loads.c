/*
 * loads.c - at most one load of a model on a node at a time.
 *
 * A claim is one word: a tag of model and generation, its owner, and when it ends.  Only its
 * owner takes a live claim away (and health and the master, when node or worker are gone):
 * otherwise a process that ends one load could remove the claim that another is just making.
 *
 * A claimant looks at all words of the node, takes a free one by compare-and-swap, and looks at
 * the others again; if one of them has the same tag it steps back.  All of that is sequentially
 * consistent, so of two that took different words for the same model the later sees the
 * earlier, and there are never two.  (Both may see each other and step back: then neither loads
 * until one tries again.  It needs two simultaneous claims and another model's claim that ends
 * between their looks, or else they would have competed for the same word.)
 */
#include "shm/share/loads.h"

#include "base/clock.h"
#include "base/hash.h"
#include "shm/segment.h"

static_assert(LOADS_PER_NODE == SB_LOADS_PER_NODE, "new layout version");

#define TAG(w)      ((w) >> 40)
#define TAG_MASK    0xffffffu
#define OWNER(w)    ((unsigned)((w) >> 32) & 0xffu)
#define END(w)      ((uint32_t)(w))
#define UNIT_US     (16 * US_PER_MS) /* of END(): it wraps after two years */
#define MAX_HOLD_US (UINT64_C(86400) * US_PER_S)

static uint64_t tag_of(uint64_t model_hash, uint32_t generation)
{
    uint64_t tag = ((model_hash ^ (generation * HASH_GOLDEN)) * HASH_GOLDEN) >> 40 & TAG_MASK;

    return tag == 0 ? 1 : tag;
}

static bool word_live(uint64_t word, uint64_t now_mono_us)
{
    return word != 0 && (int32_t)(END(word) - (uint32_t)(now_mono_us / UNIT_US)) > 0;
}

static uint64_t load(const struct sb_loads *loads, unsigned i)
{
    return atomic_load_explicit(&loads->word[i], memory_order_seq_cst);
}

static bool swap(struct sb_loads *loads, unsigned i, uint64_t from, uint64_t to)
{
    return atomic_compare_exchange_strong_explicit(&loads->word[i], &from, to,
                                                   memory_order_seq_cst, memory_order_relaxed);
}

/* Is there a live claim with this tag in a word other than `except`? */
static bool tag_live(const struct sb_loads *loads, uint64_t tag, unsigned except,
                     uint64_t now_mono_us)
{
    for (unsigned i = 0; i < LOADS_PER_NODE; i++) {
        uint64_t word = load(loads, i);

        if (i != except && TAG(word) == tag && word_live(word, now_mono_us))
            return true;
    }
    return false;
}

static struct sb_loads *loads_for(const struct scoreboard *board, unsigned node,
                                  uint32_t generation)
{
    const struct sb_hot *hot = segment_hot(board, node);

    if (hot == NULL || segment_generation(hot) != generation)
        return NULL;
    return segment_loads(board, node);
}

bool loads_claim(struct scoreboard *board, unsigned worker, unsigned node, uint32_t generation,
                 uint64_t model_hash, uint64_t now_mono_us, uint64_t hold_us)
{
    struct sb_loads *loads = board->writable ? loads_for(board, node, generation) : NULL;
    uint64_t tag = tag_of(model_hash, generation), mine;

    if (loads == NULL || worker >= board->geometry.n_workers ||
        tag_live(loads, tag, LOADS_PER_NODE, now_mono_us))
        return false;
    if (hold_us > MAX_HOLD_US)
        hold_us = MAX_HOLD_US;
    mine =
        tag << 40 | (uint64_t)worker << 32 | (uint32_t)((now_mono_us + hold_us) / UNIT_US + 1);
    for (unsigned i = 0; i < LOADS_PER_NODE; i++) {
        uint64_t word = load(loads, i);

        if (word_live(word, now_mono_us) || !swap(loads, i, word, mine)) {
            if (TAG(load(loads, i)) == tag)
                return false; /* it came since the first look */
            continue;
        }
        if (!tag_live(loads, tag, i, now_mono_us))
            return true;
        (void)swap(loads, i, mine, 0);
        return false;
    }
    return false;
}

void loads_done(struct scoreboard *board, unsigned worker, unsigned node, uint32_t generation,
                uint64_t model_hash)
{
    struct sb_loads *loads = board->writable ? loads_for(board, node, generation) : NULL;
    uint64_t tag = tag_of(model_hash, generation);

    for (unsigned i = 0; loads != NULL && i < LOADS_PER_NODE; i++) {
        uint64_t word = load(loads, i);

        if (TAG(word) == tag && OWNER(word) == worker)
            (void)swap(loads, i, word, 0);
    }
}

void loads_clear_worker(struct scoreboard *board, unsigned worker)
{
    for (uint32_t node = 0; board->writable && node < board->geometry.n_nodes; node++) {
        struct sb_loads *loads = segment_loads(board, node);

        for (unsigned i = 0; i < LOADS_PER_NODE; i++) {
            uint64_t word = load(loads, i);

            if (word != 0 && OWNER(word) == worker)
                (void)swap(loads, i, word, 0);
        }
    }
}

bool loads_blocked(const struct scoreboard *board, unsigned node, uint32_t generation,
                   uint64_t model_hash, uint64_t now_mono_us)
{
    const struct sb_loads *loads = loads_for(board, node, generation);
    unsigned live = 0;

    if (loads == NULL)
        return false;
    for (unsigned i = 0; i < LOADS_PER_NODE; i++)
        live += word_live(load(loads, i), now_mono_us);
    return live == LOADS_PER_NODE ||
           tag_live(loads, tag_of(model_hash, generation), LOADS_PER_NODE, now_mono_us);
}

void loads_zero(struct scoreboard *board, unsigned node)
{
    struct sb_loads *loads = board->writable ? segment_loads(board, node) : NULL;

    for (unsigned i = 0; loads != NULL && i < LOADS_PER_NODE; i++)
        atomic_store_explicit(&loads->word[i], 0, memory_order_seq_cst);
}
