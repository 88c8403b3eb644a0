/*
 * model_queues.c - how many requests wait for each model, over all workers.
 *
 * Rows are an open hash table.  One is taken by a compare-and-swap of its hash from 0 and never
 * given back, so a search that meets a free row has seen all there is, and two workers that
 * take a row for the same model at once end up with the same one.
 */
#include "shm/queue/model_queues.h"

#include "shm/segment.h"

static_assert(MODEL_QUEUES_ROWS == SB_MODEL_QUEUES, "new layout version");

#define HASHED MODEL_QUEUES_OTHERS /* rows that are found by hash */

uint32_t model_queues_row(struct scoreboard *board, uint64_t model_hash)
{
    struct sb_model_queue *rows = segment_model_queues(board);

    if (model_hash == 0)
        model_hash = 1; /* 0 marks a free row */
    for (uint32_t i = 0; i < HASHED; i++) {
        uint32_t at = (uint32_t)((model_hash + i) % HASHED);
        uint64_t found = atomic_load_explicit(&rows[at].model_hash, memory_order_acquire);

        if (found == 0 && !board->writable)
            return MODEL_QUEUES_OTHERS;
        if (found == 0 &&
            atomic_compare_exchange_strong_explicit(&rows[at].model_hash, &found, model_hash,
                                                    memory_order_acq_rel, memory_order_acquire))
            return at;
        if (found == model_hash)
            return at;
    }
    return MODEL_QUEUES_OTHERS;
}

/* NULL: out of range, or a read-only handle. */
static _Atomic uint32_t *own_word(struct scoreboard *board, unsigned worker, uint32_t row)
{
    if (!board->writable || worker >= board->geometry.n_workers || row >= MODEL_QUEUES_ROWS)
        return NULL;
    return &segment_model_waiting(board, row)[worker];
}

/* One writer: a load and a store are enough. */
static void add(struct scoreboard *board, unsigned worker, uint32_t row, int step)
{
    _Atomic uint32_t *word = own_word(board, worker, row);
    uint32_t count;

    if (word == NULL)
        return;
    segment_use_column(board, worker);
    count = atomic_load_explicit(word, memory_order_relaxed);
    if (step < 0 && count == 0)
        return;
    atomic_store_explicit(word, step < 0 ? count - 1 : count + 1, memory_order_relaxed);
}

void model_queues_enter(struct scoreboard *board, unsigned worker, uint32_t row)
{
    add(board, worker, row, 1);
}

void model_queues_leave(struct scoreboard *board, unsigned worker, uint32_t row)
{
    add(board, worker, row, -1);
}

uint32_t model_queues_of(const struct scoreboard *board, unsigned worker, uint32_t row)
{
    if (worker >= board->geometry.n_workers || row >= MODEL_QUEUES_ROWS)
        return 0;
    return atomic_load_explicit(&segment_model_waiting(board, row)[worker],
                                memory_order_relaxed);
}

uint32_t model_queues_waiting(const struct scoreboard *board, uint32_t row)
{
    uint32_t columns = segment_columns(board), sum = 0;

    for (uint32_t w = 0; w < columns; w++) {
        uint32_t one = model_queues_of(board, w, row);

        sum = one > UINT32_MAX - sum ? UINT32_MAX : sum + one;
    }
    return sum;
}

void model_queues_refuse(struct scoreboard *board, uint32_t row, uint64_t now_mono_us)
{
    _Atomic uint64_t *word;
    uint64_t last;

    if (!board->writable || row >= MODEL_QUEUES_ROWS)
        return;
    word = &segment_model_queues(board)[row].refused_mono_us;
    last = atomic_load_explicit(word, memory_order_relaxed);
    while (last < now_mono_us &&
           !atomic_compare_exchange_weak_explicit(word, &last, now_mono_us,
                                                  memory_order_relaxed, memory_order_relaxed))
        ;
}

uint64_t model_queues_refused_mono_us(const struct scoreboard *board, uint32_t row)
{
    if (row >= MODEL_QUEUES_ROWS)
        return 0;
    return atomic_load_explicit(&segment_model_queues(board)[row].refused_mono_us,
                                memory_order_relaxed);
}

void model_queues_clear_worker(struct scoreboard *board, unsigned worker)
{
    for (uint32_t row = 0; row < MODEL_QUEUES_ROWS; row++) {
        _Atomic uint32_t *word = own_word(board, worker, row);

        if (word == NULL)
            return;
        /* A look first, to leave alone the cache lines that other workers are using. */
        if (atomic_load_explicit(word, memory_order_relaxed) != 0)
            atomic_store_explicit(word, 0, memory_order_relaxed);
    }
}
