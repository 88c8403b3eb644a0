/*
 * budget.c - how much may be retried and hedged.
 *
 * A bucket is one word: tag of the model, second of the last use, and an amount: what is
 * missing from the bucket for retries, or what is in the one for hedges, so that zeroed memory
 * is a table of full ones and of empty ones.  It lives in one of WINDOW places that begin at
 * the model's home; places are reused but never become free again, so a search ends at the
 * first free one.
 */
#include "shm/share/budget.h"

#include "base/clock.h"
#include "shm/segment.h"

static_assert(BUDGET_MODELS == SB_BUDGET_MODELS, "new layout version");

#define WINDOW      8u
#define TRIES       16
#define AMOUNT(w)   ((uint32_t)(w)&0x3fffu)
#define USED_S(w)   ((uint32_t)(w) >> 14) /* 18 bits: three days */
#define USED_S_MASK 0x3ffffu
#define AHEAD_S     60u /* uses this far in the future are another worker's newer clock */
#define NO_PLACE    BUDGET_MODELS

/* The two tables. */
static _Atomic uint64_t *retries(const struct scoreboard *board)
{
    return segment_budgets(board);
}

static _Atomic uint64_t *hedges(const struct scoreboard *board)
{
    return segment_budgets(board) + BUDGET_MODELS;
}

static uint32_t tag_of(uint64_t model_hash)
{
    uint32_t tag = (uint32_t)(model_hash >> 32);

    return tag == 0 ? 1 : tag;
}

static uint64_t make_word(uint32_t tag, uint64_t now_mono_us, uint32_t amount)
{
    uint32_t used_s = (uint32_t)(now_mono_us / US_PER_S) & USED_S_MASK;

    return (uint64_t)tag << 32 | (uint64_t)used_s << 14 | amount;
}

static uint32_t amount_of(uint64_t word)
{
    uint32_t amount = AMOUNT(word);

    return amount < BUDGET_MAX_MILLI ? amount : BUDGET_MAX_MILLI;
}

/* The model's place and its word; NO_PLACE when it has none.  Then `spare` (may be NULL) is
 * where it could go: a free place, or the one unused for longest. */
static unsigned find(const _Atomic uint64_t *table, uint64_t model_hash, uint64_t now_mono_us,
                     uint64_t *word, unsigned *spare)
{
    uint32_t now_s = (uint32_t)(now_mono_us / US_PER_S), longest_s = 0;

    for (unsigned i = 0; i < WINDOW; i++) {
        unsigned place = (unsigned)(model_hash + i) % BUDGET_MODELS;
        uint64_t here = atomic_load_explicit(&table[place], memory_order_relaxed);
        uint32_t unused_s = (now_s - USED_S(here)) & USED_S_MASK;

        if (unused_s > USED_S_MASK - AHEAD_S)
            unused_s = 0;
        if (here >> 32 == tag_of(model_hash)) {
            *word = here;
            return place;
        }
        if (spare != NULL && (i == 0 || here == 0 || unused_s > longest_s)) {
            *spare = place;
            *word = here;
            longest_s = unused_s;
        }
        if (here == 0)
            break;
    }
    return NO_PLACE;
}

static uint32_t read_amount(const _Atomic uint64_t *table, uint64_t model_hash)
{
    uint64_t word;

    return find(table, model_hash, 0, &word, NULL) == NO_PLACE ? 0 : amount_of(word);
}

/* Takes `less` thousandths from the amount, then adds `more`, within 0 .. BUDGET_MAX_MILLI. One
 * that is empty or full already, the common case, is written once a second at most.  False:
 * there is less than `at_least`, or too many others were faster. */
static bool change(const struct scoreboard *board, _Atomic uint64_t *table, uint64_t model_hash,
                   uint64_t now_mono_us, uint32_t less, uint32_t more, uint32_t at_least)
{
    uint32_t second = (uint32_t)(now_mono_us / US_PER_S) & USED_S_MASK;

    for (int i = 0; board->writable && i < TRIES; i++) {
        uint64_t word = 0;
        unsigned spare = 0;
        unsigned place = find(table, model_hash, now_mono_us, &word, &spare);
        uint32_t now = place == NO_PLACE ? 0 : amount_of(word), next = now;

        if (now < at_least)
            return false;
        next -= less < next ? less : next;
        next = next + more < BUDGET_MAX_MILLI ? next + more : BUDGET_MAX_MILLI;
        if (next == now && (now == 0 || USED_S(word) == second))
            return true;
        if (atomic_compare_exchange_strong_explicit(
                &table[place == NO_PLACE ? spare : place], &word,
                make_word(tag_of(model_hash), now_mono_us, next), memory_order_relaxed,
                memory_order_relaxed))
            return true;
    }
    return false;
}

void budget_failure(struct scoreboard *board, uint64_t model_hash, uint64_t now_mono_us)
{
    (void)change(board, retries(board), model_hash, now_mono_us, 0, BUDGET_FAILURE_MILLI, 0);
}

void budget_success(struct scoreboard *board, uint64_t model_hash, uint64_t now_mono_us)
{
    (void)change(board, retries(board), model_hash, now_mono_us, BUDGET_SUCCESS_MILLI, 0, 0);
}

uint32_t budget_milli(const struct scoreboard *board, uint64_t model_hash)
{
    return BUDGET_MAX_MILLI - read_amount(retries(board), model_hash);
}

bool budget_allows(const struct scoreboard *board, uint64_t model_hash)
{
    return budget_milli(board, model_hash) > BUDGET_THRESHOLD_MILLI;
}

void budget_save(struct scoreboard *board, uint64_t model_hash, uint64_t now_mono_us,
                 uint32_t milli)
{
    (void)change(board, hedges(board), model_hash, now_mono_us, 0, milli, 0);
}

bool budget_spend(struct scoreboard *board, uint64_t model_hash, uint64_t now_mono_us)
{
    return change(board, hedges(board), model_hash, now_mono_us, BUDGET_HEDGE_MILLI, 0,
                  BUDGET_HEDGE_MILLI);
}
