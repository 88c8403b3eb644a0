/*
 * gauges.c - requests in flight per node: who may have one more place.
 *
 * Each worker writes only its own word of a node's row, so nothing is ever lost or counted
 * twice, and a dead worker's share is exactly one column.  The price is that taking a place
 * needs a protocol, because nobody can test and add in one step over the whole row.
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
 * that nothing stands in the way of the lowest.  What no protocol of plain reads and writes can
 * do is to finish when a competitor is stopped in the middle (that would be wait-free
 * consensus), so every look is counted and the claim fails in the end.  Such a failure passes:
 * the stopped process resumes, or is reaped and its column zeroed.  This is why whoever waits
 * for a place must also try again from time to time and not only at releases.
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
     * (shm/share/queue_heads.c). */
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
 * A routing decision adds up the rows of all nodes, so these two loops are most of its cost.
 * They take four words at a time, written out because compilers do not, with one branch for
 * all.  Looking a little beyond `columns` is harmless: each half of a row fills whole cache
 * lines, and what nobody has used is 0.
 */
#define STEP 4u
static_assert(SB_CACHE_LINE / 8 % STEP == 0, "half a row is a number of steps");

/* The upper 16 bits become 0 iff the word is of the generation wanted. */
static inline uint64_t load_gauge(const _Atomic uint64_t *word, uint64_t wanted)
{
    return (atomic_load_explicit(word, memory_order_seq_cst) ^ wanted) & ~SB_GAUGE_CLAIMING;
}

/* A word of another generation counts for nothing. */
static inline uint64_t only_wanted(uint64_t word)
{
    return word >> 48 == 0 ? word : 0;
}

/* Adds up `columns` words of a row.  Sequentially consistent for the sake of
 * shm/share/queue_heads.c: a worker that has published a request sees every place that was
 * given back before its releaser looked. */
static inline struct gauge sum_row(const _Atomic uint64_t *row, uint32_t columns,
                                   uint32_t generation)
{
    uint64_t wanted = (uint64_t)(uint16_t)generation << 48;
    uint64_t us = 0, all = 0; /* all: microseconds and, from bit 32 on, requests */

    for (const _Atomic uint64_t *end = row + columns; row < end; row += STEP) {
        uint64_t a = load_gauge(&row[0], wanted), b = load_gauge(&row[1], wanted);
        uint64_t c = load_gauge(&row[2], wanted), d = load_gauge(&row[3], wanted);

        if ((a | b | c | d) >> 48 != 0) {
            a = only_wanted(a);
            b = only_wanted(b);
            c = only_wanted(c);
            d = only_wanted(d);
        }
        us += (a & UINT32_MAX) + (b & UINT32_MAX) + (c & UINT32_MAX) + (d & UINT32_MAX);
        all += a + b + c + d;
    }
    return (struct gauge){.inflight = (uint32_t)((all - us) >> 32), .charged_us = us};
}

/* An instant has 48 bits and is not 0: less 1, it is less than this. */
#define NONE ((UINT64_C(1) << 48) - 1)

/* The instant less 1.  A word of another generation, or that says "none", becomes as great as
 * NONE or greater, and needs no branch of its own. */
static inline uint64_t load_oldest(const _Atomic uint64_t *word, uint64_t wanted)
{
    return (atomic_load_explicit(word, memory_order_relaxed) ^ wanted) - 1;
}

static inline uint64_t lesser(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* The least of the instants in the second half of a row; 0 = none. */
static inline uint64_t oldest_in(const _Atomic uint64_t *oldest, uint32_t columns,
                                 uint32_t generation)
{
    uint64_t wanted = (uint64_t)(uint16_t)generation << 48;
    uint64_t least = NONE; /* less 1 */

    for (const _Atomic uint64_t *end = oldest + columns; oldest < end; oldest += STEP) {
        uint64_t ab = lesser(load_oldest(&oldest[0], wanted), load_oldest(&oldest[1], wanted));
        uint64_t cd = lesser(load_oldest(&oldest[2], wanted), load_oldest(&oldest[3], wanted));

        least = lesser(least, lesser(ab, cd));
    }
    return least == NONE ? 0 : least + 1;
}

struct gauge gauges_sum(const struct scoreboard *board, unsigned node, uint32_t generation)
{
    const _Atomic uint64_t *row = segment_gauges(board, node);

    if (row == NULL)
        return (struct gauge){0};
    return sum_row(row, segment_columns(board), generation);
}

struct gauge gauges_sum_oldest(const struct scoreboard *board, unsigned node,
                               uint32_t generation)
{
    const _Atomic uint64_t *row = segment_gauges(board, node);
    uint32_t columns = segment_columns(board);
    struct gauge sum;

    if (row == NULL)
        return (struct gauge){0};
    sum = sum_row(row, columns, generation);
    if (sum.charged_us != 0) /* otherwise nobody waits there, and half the row is saved */
        sum.oldest_mono_us = oldest_in(row + segment_oldest_at(board), columns, generation);
    return sum;
}

void gauges_set_oldest(struct scoreboard *board, unsigned worker, unsigned node,
                       uint32_t generation, uint64_t since_mono_us)
{
    _Atomic uint64_t *row = row_for(board, worker, node, generation);
    _Atomic uint64_t *cell;
    uint64_t word = 0;

    if (row == NULL)
        return;
    cell = row + segment_oldest_at(board) + worker;
    if (since_mono_us != 0)
        word = (uint64_t)(uint16_t)generation << 48 | SB_OLDEST_MONO_US(since_mono_us);
    if (atomic_load_explicit(cell, memory_order_relaxed) == word)
        return; /* the readers keep their copy of the cache line */
    segment_use_column(board, worker);
    atomic_store_explicit(cell, word, memory_order_relaxed);
}

/* A look first, to leave alone the cache lines that other workers are using. */
static void zero_word(_Atomic uint64_t *word)
{
    if (atomic_load_explicit(word, memory_order_relaxed) != 0)
        atomic_store_explicit(word, 0, memory_order_release);
}

void gauges_clear_worker(struct scoreboard *board, unsigned worker)
{
    if (!board->writable || worker >= board->geometry.n_workers)
        return;
    for (uint32_t node = 0; node < board->geometry.n_nodes; node++) {
        _Atomic uint64_t *cell = segment_gauges(board, node) + worker;

        zero_word(cell);
        zero_word(cell + segment_oldest_at(board));
    }
}
