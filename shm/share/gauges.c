/*
 * gauges.c - requests in flight per node, and the claim of one more place.
 *
 * Each worker writes only its own word of a node's row, so nothing is ever lost or counted
 * twice, and a dead worker's share is exactly one column.  The price is that taking a place
 * needs a protocol, because no process can test and add in one step over the whole row.
 *
 * A claim: set the claiming bit in the own word, then look over the row.  Let H be the places
 * held in it, L and G the claimants with a lower and a greater worker number.
 *
 *   H >= cap                  full: give up
 *   H + L + 1 + G <= cap      room for all: turn the claiming bit into a held place
 *   H + L + 1 <= cap          room if the greater numbers step back: look again
 *   else                      step back (clear the bit) and look until there is room or it is
 *                             full, then start over
 *
 * Never more than cap holders.  Suppose cap + 1 places are held at some instant.  Each was
 * announced by setting a claiming bit, and from that store until its release it counts for one
 * in its word without a gap, because bit and place are exchanged in one store.  Setting the bit
 * and reading the row are sequentially consistent, so there is one order of all of them.  Take
 * the holder that set its bit last: its look over the row began after that, so it read every
 * other holder's word when that already counted, and found cap + 1.  But it went ahead only
 * after finding at most cap.  (A worker whose several requests sit in one word counts for each
 * of them, and the argument does not change.)
 *
 * The last place is not lost.  Among claimants that compete for it the lowest number never
 * steps back for another claimant, and each greater one does as soon as it has looked; after
 * that nothing stands in the way of the lowest.  No protocol of plain reads and writes can
 * finish when a competitor is stopped in the middle (that would be wait-free consensus), so
 * every look is counted and the claim fails in the end.  Such a failure passes: the stopped
 * process resumes, or is reaped and its column zeroed.  So a process that waits for a place
 * must also try again from time to time, not only at releases.
 *
 * Not the whole row is read but only the columns that were ever used, whose number only grows.
 * A worker raises it, if need be, before it sets its bit; that too is sequentially consistent,
 * so a look that began after the bit was set reads that far, and the argument above holds.
 *
 * A reader's sum over the row is no snapshot: a place that moves from one word to another
 * during the look may be seen twice.  Before giving up for "full", the row is read again until
 * two looks agree.
 */
#include "shm/share/gauges.h"

#include <sched.h>

#include "shm/segment.h"
#include "shm/seqlock.h"

/* Looks before a claim gives up; from SPINS on the processor is offered to others in between,
 * because the one we wait for may be waiting for this very processor. */
#define CLAIM_SPINS 64
#define CLAIM_LOOKS 96

struct look {
    uint32_t held;    /* H, the own included */
    uint32_t lower;   /* L */
    uint32_t greater; /* G */
};

static uint64_t make_word(uint32_t generation, uint32_t inflight, uint32_t charge_us)
{
    return (uint64_t)(uint16_t)generation << 48 | (uint64_t)inflight << 32 | charge_us;
}

/* The own word; one of another generation reads as an empty one of this. */
static uint64_t own_word(const _Atomic uint64_t *cell, uint32_t generation)
{
    uint64_t word = atomic_load_explicit(cell, memory_order_relaxed);

    if (SB_GAUGE_GENERATION(word) != (uint16_t)generation)
        word = make_word(generation, 0, 0);
    return word & ~SB_GAUGE_CLAIMING;
}

static struct look look_over(const struct scoreboard *board, const _Atomic uint64_t *row,
                             unsigned worker, uint32_t generation)
{
    uint32_t columns = segment_columns(board);
    struct look look = {0};

    for (uint32_t w = 0; w < columns; w++) {
        uint64_t word = atomic_load_explicit(&row[w], memory_order_seq_cst);

        if (SB_GAUGE_GENERATION(word) != (uint16_t)generation)
            continue;
        look.held += SB_GAUGE_INFLIGHT(word);
        if ((word & SB_GAUGE_CLAIMING) != 0) {
            look.lower += w < worker;
            look.greater += w > worker;
        }
    }
    return look;
}

/* The row and the own cell, or NULL: out of range, read-only, or not this node's row. */
static _Atomic uint64_t *row_for(struct scoreboard *board, unsigned worker, unsigned node,
                                 uint32_t generation)
{
    const struct sb_hot *hot = segment_hot(board, node);

    if (!board->writable || hot == NULL || worker >= board->geometry.n_workers ||
        segment_generation(hot) != generation)
        return NULL;
    return segment_gauges(board, node);
}

bool gauges_claim(struct scoreboard *board, unsigned worker, unsigned node, uint32_t generation,
                  uint32_t charge_us, uint32_t cap)
{
    _Atomic uint64_t *row = row_for(board, worker, node, generation);
    uint32_t full_before = UINT32_MAX; /* `held` of the last look, if that was full */
    bool claiming = true, won = false;
    uint64_t mine;
    uint32_t inflight, pending;

    if (row == NULL)
        return false;
    mine = own_word(&row[worker], generation);
    inflight = SB_GAUGE_INFLIGHT(mine);
    if (inflight == SB_GAUGE_MAX_INFLIGHT)
        return false;
    segment_use_column(board, worker);
    atomic_store_explicit(&row[worker], mine | SB_GAUGE_CLAIMING, memory_order_seq_cst);

    for (int i = 0; i < CLAIM_LOOKS && !won; i++) {
        struct look look = look_over(board, row, worker, generation);

        if (look.held >= cap) {
            if (look.held == full_before)
                break;
            full_before = look.held;
            continue;
        }
        full_before = UINT32_MAX;
        if (claiming && look.lower + look.greater + 1 <= cap - look.held) {
            won = true;
        } else if (claiming && look.lower + 1 > cap - look.held) {
            atomic_store_explicit(&row[worker], mine, memory_order_seq_cst);
            claiming = false;
        } else if (!claiming && look.lower + 1 <= cap - look.held) {
            atomic_store_explicit(&row[worker], mine | SB_GAUGE_CLAIMING, memory_order_seq_cst);
            claiming = true;
            continue; /* nothing to wait for: look at once */
        }
        if (!won && i < CLAIM_SPINS)
            seqlock_pause();
        else if (!won)
            (void)sched_yield();
    }
    if (won) {
        pending = SB_GAUGE_CHARGE_US(mine);
        pending = charge_us > UINT32_MAX - pending ? UINT32_MAX : pending + charge_us;
        mine = make_word(generation, inflight + 1, pending);
    }
    atomic_store_explicit(&row[worker], mine, memory_order_seq_cst);
    return won;
}

void gauges_enter(struct scoreboard *board, unsigned worker, unsigned node, uint32_t generation)
{
    _Atomic uint64_t *row = row_for(board, worker, node, generation);

    if (row != NULL && SB_GAUGE_GENERATION(atomic_load_explicit(
                           &row[worker], memory_order_relaxed)) != (uint16_t)generation)
        atomic_store_explicit(&row[worker], make_word(generation, 0, 0), memory_order_relaxed);
}

/* Takes from the own word, never below zero; leaves a word of another generation alone. */
static void give_back(struct scoreboard *board, unsigned worker, unsigned node,
                      uint32_t generation, uint32_t requests, uint32_t charge_us)
{
    _Atomic uint64_t *row = segment_gauges(board, node);
    uint64_t word;
    uint32_t inflight, pending;

    if (!board->writable || row == NULL || worker >= board->geometry.n_workers)
        return;
    word = atomic_load_explicit(&row[worker], memory_order_relaxed);
    if (SB_GAUGE_GENERATION(word) != (uint16_t)generation)
        return;
    inflight = SB_GAUGE_INFLIGHT(word);
    pending = SB_GAUGE_CHARGE_US(word);
    inflight -= requests < inflight ? requests : inflight;
    pending -= charge_us < pending ? charge_us : pending;
    /* Not only release: the gauge is stored before the queue heads are looked at
     * (shm/queue/queue_heads.c). */
    atomic_store_explicit(&row[worker], make_word(generation, inflight, pending),
                          memory_order_seq_cst);
}

void gauges_prefill_done(struct scoreboard *board, unsigned worker, unsigned node,
                         uint32_t generation, uint32_t charge_us)
{
    give_back(board, worker, node, generation, 0, charge_us);
}

void gauges_release(struct scoreboard *board, unsigned worker, unsigned node,
                    uint32_t generation, uint32_t charge_us)
{
    give_back(board, worker, node, generation, 1, charge_us);
}

/*
 * A routing decision adds up the rows of all nodes, so this is a good part of its cost: a row
 * is added up as if all its words were of the generation wanted and no claim were under way,
 * and only if that was wrong is it looked at word by word.  gauges_enter() keeps a word that no
 * claim has written yet from being wrong.
 *
 * Sequentially consistent for workers that publish a waiting request and then look here: they
 * see every place that was given back before its releaser looked.
 */
#define STEP 4u
static_assert(SB_CACHE_LINE / 8 % STEP == 0, "a row is a number of steps");
#define UNUSUAL (~(((uint64_t)SB_GAUGE_MAX_INFLIGHT << 32) | UINT32_MAX))

static struct gauge sum_carefully(const _Atomic uint64_t *row, uint32_t columns,
                                  uint32_t generation)
{
    struct gauge sum = {0};

    for (uint32_t w = 0; w < columns; w++) {
        uint64_t word = atomic_load_explicit(&row[w], memory_order_seq_cst);

        if (SB_GAUGE_GENERATION(word) != (uint16_t)generation)
            continue;
        sum.inflight += SB_GAUGE_INFLIGHT(word);
        sum.charged_us += SB_GAUGE_CHARGE_US(word);
    }
    return sum;
}

/* The sum of a row with nothing unusual in it. */
struct sums {
    uint64_t all; /* microseconds and, from bit 32 on, requests */
    uint64_t us;
    uint64_t unusual; /* bits of words that differ from what is wanted */
};

#if defined(__x86_64__) && !defined(DROVER_TSAN)
/*
 * Four words at a time, as many of the row as there are fours.  C has no atomic access to two
 * words, and none is meant: on x86-64 each aligned half of such a load is read in one piece,
 * and a load is ordered as a sequentially consistent one is, once the compiler keeps it in its
 * place.
 */
typedef uint64_t pair __attribute__((vector_size(16), may_alias));

static inline struct sums add_fours(const _Atomic uint64_t *row, uint32_t columns,
                                    uint64_t wanted)
{
    const pair want = {wanted, wanted}, low = {UINT32_MAX, UINT32_MAX};
    const volatile pair *at = (const volatile pair *)(const volatile void *)row;
    const volatile pair *end = at + columns / STEP * (STEP / 2);
    pair us = {0}, all = {0}, unusual = {0};

    atomic_signal_fence(memory_order_seq_cst);
    for (; at < end; at += STEP / 2) {
        pair a = at[0] ^ want, b = at[1] ^ want;

        unusual |= a | b;
        us += (a & low) + (b & low);
        all += a + b;
    }
    atomic_signal_fence(memory_order_seq_cst);
    return (struct sums){all[0] + all[1], us[0] + us[1], unusual[0] | unusual[1]};
}
#define FOURS(columns) ((columns) / STEP * STEP)
#else
static inline struct sums add_fours(const _Atomic uint64_t *row, uint32_t columns,
                                    uint64_t wanted)
{
    (void)row;
    (void)columns;
    (void)wanted;
    return (struct sums){0};
}
#define FOURS(columns) 0
#endif

static inline struct sums add_up(const _Atomic uint64_t *row, uint32_t columns, uint64_t wanted)
{
    struct sums sums = add_fours(row, columns, wanted);

    for (uint32_t w = FOURS(columns); w < columns; w++) {
        uint64_t word = atomic_load_explicit(&row[w], memory_order_seq_cst) ^ wanted;

        sums.unusual |= word;
        sums.us += word & UINT32_MAX;
        sums.all += word;
    }
    return sums;
}

struct gauge gauges_sum(const struct scoreboard *board, unsigned node, uint32_t generation)
{
    const _Atomic uint64_t *row = segment_gauges(board, node);
    uint32_t columns = segment_columns(board);
    struct sums sums;

    if (row == NULL)
        return (struct gauge){0};
    sums = add_up(row, columns, (uint64_t)(uint16_t)generation << 48);
    if ((sums.unusual & UNUSUAL) != 0)
        return sum_carefully(row, columns, generation);
    return (struct gauge){.inflight = (uint32_t)((sums.all - sums.us) >> 32),
                          .charged_us = sums.us};
}

void gauges_clear_worker(struct scoreboard *board, unsigned worker)
{
    if (!board->writable || worker >= board->geometry.n_workers)
        return;
    for (uint32_t node = 0; node < board->geometry.n_nodes; node++)
        segment_zero_word(segment_gauges(board, node) + worker);
}
