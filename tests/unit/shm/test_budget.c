/* test_budget.c - the retry throttle (10 tokens, a failure costs 1, a success gives 0.1) and
 * the savings for hedges. */
#include "shm/share/budget.h"

#include "base/clock.h"
#include "board.h"
#include "shm/segment.h"

#define NOW (UINT64_C(100) * US_PER_S)

Test(budget, five_failures_in_a_row_stop_the_retries_and_a_success_resumes_them)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1), *reader;

    cr_assert_eq(scoreboard_attach(&reader, t.path, NULL), 0);
    cr_assert(budget_allows(board, 7));
    cr_assert_eq(budget_milli(board, 7), 10000);
    for (uint32_t i = 1; i <= 4; i++) {
        budget_failure(board, 7, NOW);
        cr_assert_eq(budget_milli(reader, 7), 10000 - 1000 * i);
        cr_assert(budget_allows(reader, 7));
    }
    budget_failure(board, 7, NOW);
    cr_assert_eq(budget_milli(reader, 7), 5000);
    cr_assert_not(budget_allows(reader, 7), "more than half is needed, not half");
    budget_success(board, 7, NOW);
    cr_assert_eq(budget_milli(reader, 7), 5100);
    cr_assert(budget_allows(reader, 7));
    cr_assert(budget_allows(reader, 8), "another model has its own");
    scoreboard_detach(reader);
    board_drop(&t, board);
}

Test(budget, the_bucket_has_a_bottom_and_a_brim)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);

    for (int i = 0; i < 50; i++)
        budget_failure(board, 7, NOW);
    cr_assert_eq(budget_milli(board, 7), 0);
    for (int i = 0; i < 50; i++)
        budget_success(board, 7, NOW);
    cr_assert_eq(budget_milli(board, 7), 5000);
    cr_assert_not(budget_allows(board, 7));
    for (int i = 0; i < 70; i++)
        budget_success(board, 7, NOW);
    cr_assert_eq(budget_milli(board, 7), 10000, "50 would have been enough");
    board_drop(&t, board);
}

Test(budget, a_model_that_never_fails_takes_no_place)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);

    budget_success(board, 7, NOW);
    for (unsigned i = 0; i < BUDGET_MODELS; i++)
        cr_assert_eq(segment_budgets(board)[i], 0);
    board_drop(&t, board);
}

/* All of these begin their search at the same place. */
static uint64_t crowded(uint64_t i)
{
    return (i + 1) << 32;
}

Test(budget, where_there_is_no_room_the_one_unused_for_longest_makes_it)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);

    for (uint64_t i = 0; i < 8; i++)
        budget_failure(board, crowded(i), NOW + i * US_PER_S);
    for (uint64_t i = 0; i < 8; i++)
        cr_assert_eq(budget_milli(board, crowded(i)), 9000);
    budget_failure(board, crowded(0), NOW + 8 * US_PER_S); /* so now 1 is the oldest */
    budget_failure(board, crowded(8), NOW + 9 * US_PER_S);
    cr_assert_eq(budget_milli(board, crowded(8)), 9000);
    cr_assert_eq(budget_milli(board, crowded(1)), 10000, "forgotten: full again");
    cr_assert_eq(budget_milli(board, crowded(0)), 8000);
    for (uint64_t i = 2; i < 8; i++)
        cr_assert_eq(budget_milli(board, crowded(i)), 9000);
    board_drop(&t, board);
}

Test(budget, a_use_in_the_near_future_is_not_taken_for_an_old_one)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);

    for (uint64_t i = 0; i < 8; i++)
        budget_failure(board, crowded(i), i == 5 ? NOW + 2 * US_PER_S : NOW - i * US_PER_S);
    budget_failure(board, crowded(8), NOW);
    cr_assert_eq(budget_milli(board, crowded(7)), 10000);
    cr_assert_eq(budget_milli(board, crowded(5)), 9000);
    board_drop(&t, board);
}

Test(budget, a_hedge_needs_what_twenty_answers_save_at_5_percent)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1), *reader;

    cr_assert_eq(scoreboard_attach(&reader, t.path, NULL), 0);
    cr_assert_not(budget_spend(board, 7, NOW), "the bucket is empty at first");
    for (int i = 0; i < 19; i++)
        budget_save(board, 7, NOW, 50);
    cr_assert_not(budget_spend(board, 7, NOW));
    budget_save(board, 7, NOW, 50);
    cr_assert_not(budget_spend(reader, 7, NOW), "a reader spends nothing");
    cr_assert(budget_spend(board, 7, NOW));
    cr_assert_not(budget_spend(board, 7, NOW));
    cr_assert_eq(budget_milli(reader, 7), 10000, "retries have a bucket of their own");
    scoreboard_detach(reader);
    board_drop(&t, board);
}

Test(budget, at_most_ten_hedges_are_saved_up)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);
    int hedges = 0;

    for (int i = 0; i < 1000; i++)
        budget_save(board, 7, NOW + (uint64_t)i * US_PER_S, 50);
    while (budget_spend(board, 7, NOW))
        hedges++;
    cr_assert_eq(hedges, 10);
    cr_assert_not(budget_spend(board, 8, NOW), "another model has its own");
    board_drop(&t, board);
}
