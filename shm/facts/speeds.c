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

static uint64_t get(const _Atomic uint64_t *word)
{
    return atomic_load_explicit(word, memory_order_relaxed);
}

/* The clock of a row: what it showed, and when it was set to that.  A worker that dies between
 * the two words loses a gap. */
struct clock {
    _Atomic uint64_t *us, *set_mono_us;
};

static struct clock clock_of(const struct scoreboard *board, _Atomic uint64_t *tries)
{
    static_assert(SB_CLOCK_WORDS == 2, "the same");
    return (struct clock){.us = &tries[board->geometry.n_nodes],
                          .set_mono_us = &tries[board->geometry.n_nodes + 1]};
}

/* Sets the clock, unless it shows nearly that already. */
static void set_clock(struct clock clock, uint64_t now_mono_us, uint64_t gap_us)
{
    uint64_t before = get(clock.set_mono_us);

    if (now_mono_us >= before + FRESH_US &&
        atomic_compare_exchange_strong_explicit(clock.set_mono_us, &before, now_mono_us,
                                                memory_order_relaxed, memory_order_relaxed))
        (void)atomic_fetch_add_explicit(clock.us, speeds_gap_us(before, now_mono_us, gap_us),
                                        memory_order_relaxed);
}

void speeds_note_sent(struct scoreboard *board, uint32_t row, unsigned node,
                      uint32_t generation, uint64_t now_mono_us, uint64_t gap_us)
{
    _Atomic uint64_t *words = segment_tries(board, row);
    struct speeds_view view = {.tries = words, .nodes = board->geometry.n_nodes};
    uint64_t now_us;

    if (words == NULL || hot_for(board, node, generation) == NULL)
        return;
    set_clock(clock_of(board, words), now_mono_us, gap_us);
    now_us = speeds_now_us(view, now_mono_us, gap_us);
    if (now_us >= get(&words[node]) + FRESH_US)
        atomic_store_explicit(&words[node], now_us, memory_order_relaxed);
}

bool speeds_take_trial(struct scoreboard *board, uint32_t row, unsigned node,
                       uint32_t generation, uint64_t tried_us, uint64_t now_us)
{
    _Atomic uint64_t *words = segment_tries(board, row);

    return words != NULL && hot_for(board, node, generation) != NULL &&
           atomic_compare_exchange_strong_explicit(&words[node], &tried_us, now_us,
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
static void set(_Atomic uint64_t *word, uint64_t value)
{
    if (get(word) != value)
        atomic_store_explicit(word, value, memory_order_relaxed);
}

void speeds_zero(struct scoreboard *board, unsigned node)
{
    struct sb_hot *hot = segment_hot(board, node);

    if (!board->writable || hot == NULL)
        return;
    for (uint32_t row = 0; row <= SPEEDS_ROWS; row++) {
        _Atomic uint64_t *tries = segment_tries(board, row);

        if (row != SPEEDS_ROWS && owner_at(board, row) == 0)
            continue;
        set(&segment_speeds(board, row)[node], 0);
        set(&tries[node], get(clock_of(board, tries).us));
    }
    atomic_store_explicit(&hot->work_mono_us, 0, memory_order_relaxed);
    atomic_store_explicit(&hot->failed_mono_us, 0, memory_order_relaxed);
}
