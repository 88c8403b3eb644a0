/* speeds.c - what routing has learned of the nodes: speeds, and when each was last tried. */
#include "shm/facts/speeds.h"

#include <string.h>

#include "shm/segment.h"

static_assert(SPEEDS_ROWS == SB_SPEEDS_ROWS, "new layout version");

#define PROBES 8u
/* Instants that are only compared with seconds need not be newer than this: other workers keep
 * their copy of the cache line. */
#define FRESH_US UINT64_C(100000)

/* ---- rows ------------------------------------------------------------------------------ */

static uint64_t owner_of(uint64_t model_hash, enum op_class op_class)
{
    uint64_t owner = model_hash ^ (uint64_t)(op_class + 1) * UINT64_C(0x9e3779b97f4a7c15);

    return owner == 0 ? 1 : owner;
}

/* By the high bits. */
static uint32_t first_probe(uint64_t owner)
{
    return (uint32_t)((owner >> 32) * SPEEDS_ROWS >> 32);
}

static inline uint64_t owner_at(const struct scoreboard *board, uint32_t row)
{
    return atomic_load_explicit(&segment_speed_owners(board)[row], memory_order_relaxed);
}

uint32_t speeds_find(const struct scoreboard *board, uint64_t model_hash,
                     enum op_class op_class)
{
    uint64_t owner = owner_of(model_hash, op_class);
    uint32_t row = first_probe(owner);

    for (uint32_t i = 0; i < PROBES; i++, row = (row + 1) % SPEEDS_ROWS) {
        uint64_t there = owner_at(board, row);

        if (there == owner)
            return row;
        if (there == 0)
            return SPEEDS_NO_ROW;
    }
    return SPEEDS_ROWS; /* that of the rest */
}

uint32_t speeds_take(struct scoreboard *board, uint64_t model_hash, enum op_class op_class)
{
    uint64_t owner = owner_of(model_hash, op_class);
    uint32_t row = first_probe(owner);

    if (!board->writable)
        return SPEEDS_NO_ROW;
    for (uint32_t i = 0; i < PROBES; i++, row = (row + 1) % SPEEDS_ROWS) {
        uint64_t there = 0;

        if (owner_at(board, row) == owner ||
            atomic_compare_exchange_strong_explicit(&segment_speed_owners(board)[row], &there,
                                                    owner, memory_order_relaxed,
                                                    memory_order_relaxed) ||
            there == owner)
            return row;
    }
    return SPEEDS_ROWS;
}

/* ---- speeds ---------------------------------------------------------------------------- */

static uint64_t to_bits(struct speed speed)
{
    uint64_t bits;

    static_assert(sizeof(speed) == sizeof(bits), "a speed is one word");
    memcpy(&bits, &speed, sizeof(bits));
    return bits;
}

struct speeds_view speeds_view(const struct scoreboard *board, uint32_t row)
{
    return (struct speeds_view){.words = segment_speeds(board, row),
                                .tries = segment_tries(board, row),
                                .nodes = row <= SPEEDS_ROWS ? board->geometry.n_nodes : 0};
}

struct speed speeds_read(const struct scoreboard *board, uint32_t row, unsigned node)
{
    return speeds_at(speeds_view(board, row), node);
}

/* The hot line for writing, if `generation` is still the row's.  A sample under way while the
 * row changes hands may land with the new node, which is harmless. */
static struct sb_hot *hot_for(struct scoreboard *board, unsigned node, uint32_t generation)
{
    struct sb_hot *hot = segment_hot(board, node);

    return board->writable && hot != NULL && segment_generation(hot) == generation ? hot : NULL;
}

bool speeds_swap(struct scoreboard *board, uint32_t row, unsigned node, uint32_t generation,
                 struct speed *seen, struct speed next)
{
    _Atomic uint64_t *words = segment_speeds(board, row);
    struct speed now;
    uint64_t bits;

    if (words == NULL || hot_for(board, node, generation) == NULL)
        return false;
    bits = atomic_load_explicit(&words[node], memory_order_relaxed);
    now = speeds_read(board, row, node);
    if (memcmp(&now, seen, sizeof(now)) == 0 &&
        atomic_compare_exchange_strong_explicit(&words[node], &bits, to_bits(next),
                                                memory_order_relaxed, memory_order_relaxed))
        return true;
    *seen = speeds_read(board, row, node);
    return false;
}

/* ---- instants -------------------------------------------------------------------------- */

/* Sets an instant, unless it is nearly that already. */
static void note(_Atomic uint64_t *word, uint64_t now_mono_us)
{
    uint64_t before = atomic_load_explicit(word, memory_order_relaxed);

    if (now_mono_us >= before + FRESH_US)
        atomic_store_explicit(word, now_mono_us, memory_order_relaxed);
}

void speeds_note_sent(struct scoreboard *board, uint32_t row, unsigned node,
                      uint32_t generation, uint64_t now_mono_us)
{
    _Atomic uint64_t *words = segment_tries(board, row);

    if (words != NULL && hot_for(board, node, generation) != NULL)
        note(&words[node], now_mono_us);
}

bool speeds_take_trial(struct scoreboard *board, uint32_t row, unsigned node,
                       uint32_t generation, uint64_t tried_mono_us, uint64_t now_mono_us)
{
    _Atomic uint64_t *words = segment_tries(board, row);

    return words != NULL && hot_for(board, node, generation) != NULL &&
           atomic_compare_exchange_strong_explicit(&words[node], &tried_mono_us, now_mono_us,
                                                   memory_order_relaxed, memory_order_relaxed);
}

void speeds_note_work(struct scoreboard *board, unsigned node, uint32_t generation,
                      uint64_t now_mono_us)
{
    struct sb_hot *hot = hot_for(board, node, generation);

    if (hot != NULL)
        atomic_store_explicit(&hot->work_mono_us, now_mono_us, memory_order_relaxed);
}

bool speeds_note_failure(struct scoreboard *board, unsigned node, uint32_t generation,
                         uint64_t now_mono_us, uint64_t event_us)
{
    struct sb_hot *hot = hot_for(board, node, generation);

    return hot != NULL && segment_new_event(&hot->failed_mono_us, now_mono_us, event_us);
}

/* ---- for a new node -------------------------------------------------------------------- */

/* An unused page stays without memory. */
static void zero(_Atomic uint64_t *word)
{
    if (atomic_load_explicit(word, memory_order_relaxed) != 0)
        atomic_store_explicit(word, 0, memory_order_relaxed);
}

void speeds_zero(struct scoreboard *board, unsigned node)
{
    struct sb_hot *hot = segment_hot(board, node);

    if (!board->writable || hot == NULL)
        return;
    for (uint32_t row = 0; row <= SPEEDS_ROWS; row++) {
        if (row != SPEEDS_ROWS && owner_at(board, row) == 0)
            continue;
        zero(&segment_speeds(board, row)[node]);
        zero(&segment_tries(board, row)[node]);
    }
    atomic_store_explicit(&hot->work_mono_us, 0, memory_order_relaxed);
    atomic_store_explicit(&hot->failed_mono_us, 0, memory_order_relaxed);
}
