/* outcomes.c - how requests end on each node. */
#include "shm/facts/outcomes.h"

#include "base/clock.h"
#include "base/hash.h"
#include "shm/segment.h"

static_assert(OUTCOMES == SB_OUTCOMES, "new layout version");

#define PROGRESS_STEP_US (100 * US_PER_MS)

static struct sb_outcomes *outcomes_for(struct scoreboard *board, unsigned node,
                                        uint32_t generation)
{
    const struct sb_hot *hot = segment_hot(board, node);

    if (!board->writable || hot == NULL || segment_generation(hot) != generation)
        return NULL;
    return segment_outcomes(board, node);
}

static void add(struct sb_outcomes *row, enum outcome what)
{
    atomic_fetch_add_explicit(&row->total[what], 1, memory_order_relaxed);
}

void outcomes_note(struct scoreboard *board, unsigned node, uint32_t generation,
                   enum outcome what)
{
    struct sb_outcomes *row = outcomes_for(board, node, generation);

    if (row == NULL || (unsigned)what >= OUTCOMES)
        return;
    add(row, what);
    if (what == OUTCOME_STALLED)
        add(row, OUTCOME_FAILED);
    if (what == OUTCOME_CONTRADICTED)
        return;
    if (what == OUTCOME_OK || what == OUTCOME_PROBATION_OK)
        atomic_store_explicit(&row->run, 0, memory_order_relaxed);
    else
        atomic_fetch_add_explicit(&row->run, 1, memory_order_relaxed);
}

void outcomes_note_client(struct scoreboard *board, unsigned node, uint32_t generation,
                          enum outcome what, uint64_t client)
{
    struct sb_outcomes *row = outcomes_for(board, node, generation);
    uint64_t bit = UINT64_C(1) << hash_spread(client) % 64;
    _Atomic uint64_t *clients;

    if (row == NULL || (what != OUTCOME_OK && what != OUTCOME_CONTRADICTED))
        return;
    clients = what == OUTCOME_OK ? &row->answered_clients : &row->contradicted_clients;
    if ((atomic_load_explicit(clients, memory_order_relaxed) & bit) == 0)
        atomic_fetch_or_explicit(clients, bit, memory_order_relaxed);
}

struct outcomes_clients outcomes_take_clients(struct scoreboard *board, unsigned node)
{
    struct sb_outcomes *row = board->writable ? segment_outcomes(board, node) : NULL;

    if (row == NULL)
        return (struct outcomes_clients){0};
    return (struct outcomes_clients){
        .answered = atomic_exchange_explicit(&row->answered_clients, 0, memory_order_relaxed),
        .contradicted =
            atomic_exchange_explicit(&row->contradicted_clients, 0, memory_order_relaxed),
    };
}

bool outcomes_note_unsure(struct scoreboard *board, unsigned node, uint32_t generation,
                          uint64_t now_mono_us)
{
    struct sb_outcomes *row = outcomes_for(board, node, generation);
    uint64_t progress, before;

    if (row == NULL)
        return false;
    progress = atomic_load_explicit(&row->progress_mono_us, memory_order_relaxed);
    before = atomic_exchange_explicit(&row->unsure_mono_us, now_mono_us, memory_order_relaxed);
    return progress > before && now_mono_us - progress < OUTCOMES_TRUST_US;
}

void outcomes_progress(struct scoreboard *board, unsigned node, uint32_t generation,
                       uint64_t now_mono_us)
{
    struct sb_outcomes *row = segment_outcomes(board, node);
    uint64_t before;

    if (row == NULL)
        return;
    before = atomic_load_explicit(&row->progress_mono_us, memory_order_relaxed);
    if (now_mono_us < before + PROGRESS_STEP_US ||
        outcomes_for(board, node, generation) == NULL)
        return;
    atomic_store_explicit(&row->progress_mono_us, now_mono_us, memory_order_relaxed);
}

/* Results of probations, in 32 bits. */
static uint32_t probations(const struct sb_outcomes *row)
{
    return (uint32_t)(atomic_load_explicit(&row->total[OUTCOME_PROBATION_OK],
                                           memory_order_relaxed) +
                      atomic_load_explicit(&row->total[OUTCOME_PROBATION_FAILED],
                                           memory_order_relaxed));
}

bool outcomes_probed(const struct scoreboard *board, unsigned node)
{
    const struct sb_outcomes *row = segment_outcomes(board, node);

    return row == NULL || probations(row) != atomic_load_explicit(&row->probations_judged,
                                                                  memory_order_relaxed);
}

void outcomes_begin_probation(struct scoreboard *board, unsigned node,
                              const struct outcomes *judged)
{
    struct sb_outcomes *row = board->writable ? segment_outcomes(board, node) : NULL;

    if (row != NULL)
        atomic_store_explicit(&row->probations_judged,
                              (uint32_t)(judged->total[OUTCOME_PROBATION_OK] +
                                         judged->total[OUTCOME_PROBATION_FAILED]),
                              memory_order_relaxed);
}

bool outcomes_note_loss(struct scoreboard *board, unsigned node, uint32_t generation,
                        uint64_t now_mono_us)
{
    if (outcomes_for(board, node, generation) == NULL)
        return false;
    return segment_new_event(&segment_hot(board, node)->lost_mono_us, now_mono_us,
                             OUTCOMES_LOSS_US);
}

uint64_t outcomes_lost_mono_us(const struct scoreboard *board, unsigned node)
{
    const struct sb_hot *hot = segment_hot(board, node);

    return hot == NULL ? 0 : atomic_load_explicit(&hot->lost_mono_us, memory_order_relaxed);
}

void outcomes_read(const struct scoreboard *board, unsigned node, struct outcomes *out)
{
    const struct sb_outcomes *row = segment_outcomes(board, node);

    *out = (struct outcomes){0};
    if (row == NULL)
        return;
    for (unsigned i = 0; i < OUTCOMES; i++)
        out->total[i] = atomic_load_explicit(&row->total[i], memory_order_relaxed);
    out->run = atomic_load_explicit(&row->run, memory_order_relaxed);
    out->progress_mono_us = atomic_load_explicit(&row->progress_mono_us, memory_order_relaxed);
}

void outcomes_zero(struct scoreboard *board, unsigned node)
{
    struct sb_outcomes *row = board->writable ? segment_outcomes(board, node) : NULL;

    if (row == NULL)
        return;
    for (unsigned i = 0; i < OUTCOMES; i++)
        atomic_store_explicit(&row->total[i], 0, memory_order_relaxed);
    atomic_store_explicit(&row->run, 0, memory_order_relaxed);
    atomic_store_explicit(&row->probations_judged, 0, memory_order_relaxed);
    atomic_store_explicit(&row->progress_mono_us, 0, memory_order_relaxed);
    atomic_store_explicit(&row->unsure_mono_us, 0, memory_order_relaxed);
    atomic_store_explicit(&row->answered_clients, 0, memory_order_relaxed);
    atomic_store_explicit(&row->contradicted_clients, 0, memory_order_relaxed);
    atomic_store_explicit(&segment_hot(board, node)->lost_mono_us, 0, memory_order_relaxed);
}
