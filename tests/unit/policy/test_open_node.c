/* test_open_node.c - each row of the table in open_node.h. */
#include "policy/queue/open_node.h"

#include <criterion/criterion.h>

static uint32_t places(struct open_node node)
{
    return open_node_places(&node);
}

Test(open_node, a_node_that_is_up_is_open_while_it_has_a_slot_free)
{
    cr_assert_eq(places((struct open_node){.up = true, .slots_now = 4}), 4);
    cr_assert_eq(places((struct open_node){.up = true, .slots_now = 4, .sent = 3}), 1);
    cr_assert_eq(places((struct open_node){.up = true, .slots_now = 4, .sent = 4}), 0);
}

Test(open_node, places_beyond_the_slots_do_not_open_it)
{
    cr_assert_eq(places((struct open_node){.up = true, .slots_now = 4, .sent = 5}), 0);
    cr_assert_eq(places((struct open_node){.up = true, .slots_now = 1, .sent = UINT32_MAX}), 0);
}

Test(open_node, a_ramp_opens_as_many_slots_as_it_has_come_to)
{
    cr_assert_eq(places((struct open_node){.up = true, .slots_now = 1}), 1);
    cr_assert_eq(places((struct open_node){.up = true, .slots_now = 1, .sent = 1}), 0);
}

Test(open_node, a_node_that_is_up_and_says_nothing_of_slots_has_one)
{
    cr_assert_eq(places((struct open_node){.up = true}), 1);
    cr_assert_eq(places((struct open_node){.up = true, .sent = 1}), 0);
}

Test(open_node, on_probation_it_is_open_for_one_request_whatever_its_slots)
{
    cr_assert_eq(places((struct open_node){.on_probation = true, .slots_now = 8}), 1);
    cr_assert_eq(places((struct open_node){.on_probation = true}), 1);
    cr_assert_eq(places((struct open_node){.on_probation = true, .slots_now = 8, .sent = 1}),
                 0);
}

Test(open_node, on_probation_it_is_closed_until_its_request_is_judged)
{
    cr_assert_eq(places((struct open_node){
                     .on_probation = true, .verdict_pending = true, .slots_now = 8}),
                 0);
}

Test(open_node, a_pending_verdict_does_not_close_a_node_that_is_up)
{
    cr_assert_eq(
        places((struct open_node){.up = true, .verdict_pending = true, .slots_now = 2}), 2);
}

Test(open_node, a_node_in_any_other_state_is_closed)
{
    cr_assert_eq(places((struct open_node){.slots_now = 8}), 0);
    cr_assert_eq(places((struct open_node){.verdict_pending = true, .slots_now = 8}), 0);
}

/* hold_us 1 s: open below one second of work that was sent, whatever else runs there. */
Test(open_node, a_node_that_is_up_is_closed_while_it_has_work_for_longer_than_the_hold)
{
    struct open_node node = {.up = true, .slots_now = 4, .sent = 1, .hold_us = 1000000};

    node.left_s = 0.999;
    cr_assert_eq(places(node), 3);
    node.left_s = 1;
    cr_assert_eq(places(node), 0);
    node.left_s = 30;
    node.hold_us = 0;
    cr_assert_eq(places(node), 3, "hold is off");
}

Test(open_node, many_that_have_their_first_token_do_not_close_the_window)
{
    cr_assert_eq(
        places((struct open_node){.up = true, .slots_now = 8, .sent = 7, .hold_us = 1000}), 1);
}

Test(open_node, on_probation_the_window_does_not_count)
{
    cr_assert_eq(places((struct open_node){
                     .on_probation = true, .slots_now = 8, .left_s = 9, .hold_us = 1000000}),
                 1);
}
