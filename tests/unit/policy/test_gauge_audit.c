/* test_gauge_audit.c - when a difference between gauges and request tables is a violation. */
#include <criterion/criterion.h>

#include "policy/fault/gauge_audit.h"

static struct gauge_audit_look look(uint32_t gauge, uint32_t open, uint64_t traffic)
{
    return (struct gauge_audit_look){
        .generation = 1, .gauge = gauge, .open = open, .traffic = traffic};
}

static bool step(struct gauge_audit *inv, struct gauge_audit_look at)
{
    return gauge_audit_step(inv, &at);
}

Test(gauge_audit, one_look_is_never_enough)
{
    struct gauge_audit inv = {0};

    cr_assert_not(step(&inv, look(3, 0, 9)));
}

Test(gauge_audit, a_leaked_gauge_is_counted_once)
{
    struct gauge_audit inv = {0};

    (void)step(&inv, look(1, 0, 9));
    cr_assert(step(&inv, look(1, 0, 9)));
    cr_assert_not(step(&inv, look(1, 0, 9)));
    cr_assert_not(step(&inv, look(2, 1, 10)), "the same leak under traffic");
    cr_assert_not(step(&inv, look(2, 1, 10)));
}

Test(gauge_audit, it_is_counted_again_after_it_was_right)
{
    struct gauge_audit inv = {0};

    (void)step(&inv, look(1, 0, 9));
    cr_assert(step(&inv, look(1, 0, 9)));
    (void)step(&inv, look(0, 0, 9));
    cr_assert_not(step(&inv, look(1, 0, 12)));
    cr_assert(step(&inv, look(1, 0, 12)));
}

Test(gauge_audit, a_difference_while_requests_come_and_go_is_not_a_violation)
{
    struct gauge_audit inv = {0};

    for (uint64_t t = 0; t < 10; t++)
        cr_assert_not(step(&inv, look(5, 4, t)));
}

Test(gauge_audit, another_generation_of_the_row_starts_afresh)
{
    struct gauge_audit inv = {0};
    struct gauge_audit_look other = look(1, 0, 9);

    other.generation = 2;
    (void)step(&inv, look(1, 0, 9));
    cr_assert_not(step(&inv, other));
    cr_assert(step(&inv, other));
}

Test(gauge_audit, equal_numbers_are_fine_for_ever)
{
    struct gauge_audit inv = {0};

    for (int i = 0; i < 5; i++)
        cr_assert_not(step(&inv, look(7, 7, 3)));
}

Test(gauge_audit, a_request_that_is_ending_may_hold_its_place_or_not)
{
    struct gauge_audit inv = {0};
    struct gauge_audit_look at = look(2, 1, 3);

    at.ending = 1;
    for (int i = 0; i < 3; i++)
        cr_assert_not(step(&inv, at));
    at.gauge = 1;
    for (int i = 0; i < 3; i++)
        cr_assert_not(step(&inv, at));
    at.gauge = 3;
    (void)step(&inv, at);
    cr_assert(step(&inv, at), "one more than can be");
    at.gauge = 0;
    (void)step(&inv, at);
    cr_assert_not(step(&inv, at), "still wrong, and already counted");
}
