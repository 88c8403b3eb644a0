/*
 * plans.c - requests that wait in a worker and are planned on a node.
 *
 * Words are relaxed: a plan that is seen a moment late makes an estimate worse and breaks no
 * promise.
 */
#include "shm/queue/plans.h"

#include <stdbool.h>

#include "shm/facts/procs.h"
#include "shm/segment.h"

static _Atomic uint64_t *own_word(struct scoreboard *board, unsigned worker, unsigned node)
{
    _Atomic uint64_t *row = segment_plans(board, node);

    if (!board->writable || row == NULL || worker >= board->geometry.n_workers)
        return NULL;
    return &row[worker];
}

static void store(_Atomic uint64_t *word, uint32_t generation, uint32_t count,
                  uint32_t charged_us)
{
    atomic_store_explicit(word,
                          count == 0 ? 0
                                     : (uint64_t)(uint16_t)generation << 48 |
                                           (uint64_t)count << 32 | charged_us,
                          memory_order_relaxed);
}

void plans_add(struct scoreboard *board, unsigned worker, unsigned node, uint32_t generation,
               uint32_t charge_us)
{
    _Atomic uint64_t *word = own_word(board, worker, node);
    uint32_t count = 0, charged = 0;
    uint64_t now;

    if (word == NULL)
        return;
    segment_use_column(board, worker);
    now = atomic_load_explicit(word, memory_order_relaxed);
    if (SB_GAUGE_GENERATION(now) == (uint16_t)generation) {
        count = SB_GAUGE_INFLIGHT(now);
        charged = SB_GAUGE_CHARGE_US(now);
    }
    count += count < SB_GAUGE_MAX_INFLIGHT;
    charged = charge_us > UINT32_MAX - charged ? UINT32_MAX : charged + charge_us;
    store(word, generation, count, charged);
}

void plans_drop(struct scoreboard *board, unsigned worker, unsigned node, uint32_t generation,
                uint32_t charge_us)
{
    _Atomic uint64_t *word = own_word(board, worker, node);
    uint32_t count, charged;
    uint64_t now;

    if (word == NULL)
        return;
    now = atomic_load_explicit(word, memory_order_relaxed);
    count = SB_GAUGE_INFLIGHT(now);
    charged = SB_GAUGE_CHARGE_US(now);
    if (SB_GAUGE_GENERATION(now) != (uint16_t)generation || count == 0)
        return;
    store(word, generation, count - 1, charged - (charge_us < charged ? charge_us : charged));
}

static bool stands_still(const struct scoreboard *board, unsigned worker, uint64_t now_mono_us)
{
    const struct sb_proc *proc = segment_proc(board, worker);
    uint64_t beat_mono_us =
        atomic_load_explicit(&proc->heartbeat_mono_us, memory_order_relaxed);

    return beat_mono_us < now_mono_us && now_mono_us - beat_mono_us > PLANS_STOPPED_US;
}

struct plans plans_sum(const struct scoreboard *board, unsigned node, uint32_t generation,
                       uint64_t now_mono_us)
{
    const _Atomic uint64_t *row = segment_plans(board, node);
    uint32_t columns = row == NULL ? 0 : segment_columns(board);
    struct plans sum = {0};

    for (uint32_t w = 0; w < columns; w++) {
        uint64_t word = atomic_load_explicit(&row[w], memory_order_relaxed);

        if (word == 0 || SB_GAUGE_GENERATION(word) != (uint16_t)generation ||
            stands_still(board, w, now_mono_us))
            continue;
        sum.count += SB_GAUGE_INFLIGHT(word);
        sum.charged_us += SB_GAUGE_CHARGE_US(word);
    }
    return sum;
}

void plans_clear_worker(struct scoreboard *board, unsigned worker)
{
    if (!board->writable || worker >= board->geometry.n_workers)
        return;
    for (uint32_t node = 0; node < board->geometry.n_nodes; node++)
        segment_zero_word(segment_plans(board, node) + worker);
}
