/* test_log_once.c - when a complaint about a node is logged again. */
#include <criterion/criterion.h>

#include "health/nodes/log_once.h"

#define AT      (100 * US_PER_S)
#define TIMEOUT NODE_REASON_PROBE_TIMEOUT
#define CONNECT NODE_REASON_CONNECT_FAILED

Test(once, two_reasons_by_turns_are_two_lines_a_minute)
{
    struct log_once once = {0};
    uint32_t missed = 7;

    cr_assert(log_once_allows(&once, NODE_UP, TIMEOUT, AT, &missed));
    cr_assert_eq(missed, 0);
    cr_assert(log_once_allows(&once, NODE_UP, CONNECT, AT + 1, &missed));
    cr_assert_eq(missed, 0);
    /* Ten times a second for 59 s. */
    for (uint64_t i = 1; i <= 590; i++)
        cr_assert_not(log_once_allows(&once, NODE_UP, i % 2 == 0 ? TIMEOUT : CONNECT,
                                      AT + i * US_PER_S / 10, &missed));
    cr_assert_not(log_once_allows(&once, NODE_UP, TIMEOUT, AT + 60 * US_PER_S - 1, &missed));
    cr_assert(log_once_allows(&once, NODE_UP, TIMEOUT, AT + 60 * US_PER_S, &missed));
    cr_assert_eq(missed, 591);
    cr_assert(log_once_allows(&once, NODE_UP, CONNECT, AT + 60 * US_PER_S, &missed));
    cr_assert_not(log_once_allows(&once, NODE_UP, TIMEOUT, AT + 61 * US_PER_S, &missed));
}

Test(once, another_state_is_logged_at_once_with_what_was_missed)
{
    struct log_once once = {0};
    uint32_t missed;

    cr_assert(log_once_allows(&once, NODE_UP, TIMEOUT, AT, &missed));
    cr_assert_not(log_once_allows(&once, NODE_UP, TIMEOUT, AT + 1, &missed));
    cr_assert_not(log_once_allows(&once, NODE_UP, TIMEOUT, AT + 2, &missed));
    cr_assert(log_once_allows(&once, NODE_DOWN, TIMEOUT, AT + 3, &missed));
    cr_assert_eq(missed, 2);
    cr_assert_not(log_once_allows(&once, NODE_DOWN, TIMEOUT, AT + 4, &missed));
}
