/* test_usage.c - what each API key has used, counted by its name. */
#include <string.h>

#include "board.h"
#include "shm/facts/usage.h"

TestSuite(usage, .timeout = 60);

Test(usage, a_name_keeps_its_row_and_its_counts)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 2, 2, 4);
    struct usage_view view;

    cr_expect_not(usage_read(board, 0, &view), "a row that nobody claimed");
    cr_expect_eq(usage_claim(board, "alice"), 0);
    cr_expect_eq(usage_claim(board, "bob"), 1);
    usage_add(board, 0, USAGE_REQUESTS, 1);
    usage_add(board, 0, USAGE_PROMPT_TOKENS, 40);
    usage_add(board, -1, USAGE_REQUESTS, 1);
    cr_expect_eq(usage_claim(board, "alice"), 0, "a second worker, or after a reload");
    usage_add(board, 0, USAGE_REQUESTS, 1);
    cr_assert(usage_read(board, 0, &view));
    cr_expect_str_eq(view.name, "alice");
    cr_expect_eq(view.counter[USAGE_REQUESTS], 2);
    cr_expect_eq(view.counter[USAGE_PROMPT_TOKENS], 40);
    cr_expect_eq(view.counter[USAGE_OUTPUT_TOKENS], 0);
    cr_assert(usage_read(board, 1, &view));
    cr_expect_str_eq(view.name, "bob");
    cr_expect_eq(view.counter[USAGE_REQUESTS], 0);
    board_drop(&t, board);
}

Test(usage, names_beyond_the_last_row_are_not_counted)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 2, 2, 4);
    struct usage_view view;
    char name[USAGE_NAME_BYTES];

    for (unsigned i = 0; i < USAGE_ROWS; i++) {
        (void)snprintf(name, sizeof(name), "key-%u", i);
        cr_assert_eq(usage_claim(board, name), (int)i);
    }
    cr_expect_eq(usage_claim(board, "one-more"), -1);
    cr_expect_eq(usage_claim(board, "key-77"), 77);
    cr_expect_not(usage_read(board, USAGE_ROWS, &view));
    board_drop(&t, board);
}
