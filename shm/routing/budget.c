/*
 * budget.c - how much may be retried.
 *
 * A model's bucket is one word: tag, second of the last use, and what is missing from the
 * bucket, so that zeroed memory is a table of full buckets.  It lives in one of WINDOW places
 * that begin at the model's home; places are taken over but never become free again, so a
 * search ends at the first free one.
 */
#include "shm/routing/budget.h"

#include "base/clock.h"
#include "shm/segment.h"

#define WINDOW      8u
#define TRIES       16
#define MISSING(w)  ((uint32_t)(w)&0x3fffu)
#define USED_S(w)   ((uint32_t)(w) >> 14) /* 18 bits: three days */
#define USED_S_MASK 0x3ffffu
#define AHEAD_S     60u /* uses this far in the future are another worker's newer clock */
#define NO_PLACE    BUDGET_MODELS

static uint32_t tag_of(uint64_t model_hash)
{
    uint32_t tag = (uint32_t)(model_hash >> 32);

    return tag == 0 ? 1 : tag;
}

static uint64_t make_word(uint32_t tag, uint64_t now_mono_us, uint32_t missing)
{
    uint32_t used_s = (uint32_t)(now_mono_us / US_PER_S) & USED_S_MASK;

    return (uint64_t)tag << 32 | (uint64_t)used_s << 14 | missing;
}

static uint32_t missing_of(uint64_t word)
{
    uint32_t missing = MISSING(word);

    return missing < BUDGET_MAX_MILLI ? missing : BUDGET_MAX_MILLI;
}

static uint64_t load(const struct scoreboard *board, unsigned place)
{
    return atomic_load_explicit(&segment_budgets(board)[place], memory_order_relaxed);
}

/* The model's place and its word; NO_PLACE when it has none.  Then `spare` (may be NULL) is
 * where it could go: a free place, or the one unused for longest. */
static unsigned find(const struct scoreboard *board, uint64_t model_hash, uint64_t now_mono_us,
                     uint64_t *word, unsigned *spare)
{
    uint32_t now_s = (uint32_t)(now_mono_us / US_PER_S), longest_s = 0;

    for (unsigned i = 0; i < WINDOW; i++) {
        unsigned place = (unsigned)(model_hash + i) % BUDGET_MODELS;
        uint64_t here = load(board, place);
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

/* Takes `more` thousandths from the bucket, after putting `back` into it. */
static void change(struct scoreboard *board, uint64_t model_hash, uint64_t now_mono_us,
                   uint32_t back, uint32_t more)
{
    for (int i = 0; board->writable && i < TRIES; i++) {
        uint64_t word = 0;
        unsigned spare = 0;
        unsigned place = find(board, model_hash, now_mono_us, &word, &spare);
        uint32_t missing = place == NO_PLACE ? 0 : missing_of(word);

        if (back != 0 && missing == 0)
            return; /* it is full, or was never needed: the common case writes nothing */
        missing -= back < missing ? back : missing;
        missing += more;
        if (missing > BUDGET_MAX_MILLI)
            missing = BUDGET_MAX_MILLI;
        if (atomic_compare_exchange_strong_explicit(
                &segment_budgets(board)[place == NO_PLACE ? spare : place], &word,
                make_word(tag_of(model_hash), now_mono_us, missing), memory_order_relaxed,
                memory_order_relaxed))
            return;
    }
}

void budget_failure(struct scoreboard *board, uint64_t model_hash, uint64_t now_mono_us)
{
    change(board, model_hash, now_mono_us, 0, BUDGET_FAILURE_MILLI);
}

void budget_success(struct scoreboard *board, uint64_t model_hash, uint64_t now_mono_us)
{
    change(board, model_hash, now_mono_us, BUDGET_SUCCESS_MILLI, 0);
}

uint32_t budget_milli(const struct scoreboard *board, uint64_t model_hash)
{
    uint64_t word;

    if (find(board, model_hash, 0, &word, NULL) == NO_PLACE)
        return BUDGET_MAX_MILLI;
    return BUDGET_MAX_MILLI - missing_of(word);
}

bool budget_allows(const struct scoreboard *board, uint64_t model_hash)
{
    return budget_milli(board, model_hash) > BUDGET_THRESHOLD_MILLI;
}
