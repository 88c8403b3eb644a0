/* test_slots.c - slots, queue, priorities, and what an engine shows of others. */
#include <criterion/criterion.h>

#include "node/slots.h"

Test(slots, slots_fill_then_the_queue_then_nothing)
{
    struct waiter w[4] = {0};
    struct slots a;

    slots_init(&a, 2, 1);
    cr_assert_eq(slots_ask(&a, &w[0]), SLOTS_ADMIT_NOW);
    cr_assert_eq(slots_ask(&a, &w[1]), SLOTS_ADMIT_NOW);
    cr_assert_eq(slots_ask(&a, &w[2]), SLOTS_ADMIT_QUEUED);
    cr_assert_eq(slots_ask(&a, &w[3]), SLOTS_ADMIT_FULL);
    cr_assert_null(slots_next(&a));
    slots_end(&a, &w[0], false, 1);
    cr_assert_eq(slots_next(&a), &w[2]);
    cr_assert_eq(a.active, 2);
    cr_assert_eq(a.queued, 0);
}

Test(slots, higher_priority_runs_first_and_equals_in_order)
{
    struct waiter w[5] = {
        {.priority = 0}, {.priority = 0}, {.priority = 5}, {.priority = 0}, {.priority = -1}};
    static const int order[] = {2, 1, 3, 4};
    struct slots a;

    slots_init(&a, 1, 8);
    for (int i = 0; i < 5; i++)
        cr_assert_eq(slots_ask(&a, &w[i]), i == 0 ? SLOTS_ADMIT_NOW : SLOTS_ADMIT_QUEUED);
    cr_assert_eq(slots_position(&a, &w[2]), 1);
    cr_assert_eq(slots_position(&a, &w[4]), 4);
    for (int i = 0; i < 4; i++) {
        slots_end(&a, i == 0 ? &w[0] : &w[order[i - 1]], false, 1);
        cr_assert_eq(slots_next(&a), &w[order[i]]);
    }
}

Test(slots, no_request_overtakes_the_queue_when_a_slot_is_free)
{
    struct waiter w[3] = {0};
    struct slots a;

    slots_init(&a, 1, 4);
    cr_assert_eq(slots_ask(&a, &w[0]), SLOTS_ADMIT_NOW);
    cr_assert_eq(slots_ask(&a, &w[1]), SLOTS_ADMIT_QUEUED);
    slots_end(&a, &w[0], false, 1);
    cr_assert_eq(slots_ask(&a, &w[2]), SLOTS_ADMIT_QUEUED);
    cr_assert_eq(slots_next(&a), &w[1]);
}

Test(slots, a_waiter_may_leave_twice)
{
    struct waiter w[2] = {0};
    struct slots a;

    slots_init(&a, 1, 1);
    cr_assert_eq(slots_ask(&a, &w[0]), SLOTS_ADMIT_NOW);
    cr_assert_eq(slots_ask(&a, &w[1]), SLOTS_ADMIT_QUEUED);
    slots_leave(&a, &w[1]);
    slots_leave(&a, &w[1]);
    cr_assert_eq(a.queued, 0);
}

Test(slots, a_cancelled_run_holds_its_slot_until_the_engine_shows_it_idle)
{
    struct waiter w[2] = {0};
    struct slots a;

    slots_init(&a, 1, 1);
    cr_assert_eq(slots_ask(&a, &w[0]), SLOTS_ADMIT_NOW);
    cr_assert_eq(slots_ask(&a, &w[1]), SLOTS_ADMIT_QUEUED);
    slots_end(&a, &w[0], true, 100);
    cr_assert_null(slots_next(&a));
    slots_looked(&a, 0, 99); /* asked before the cancellation: says nothing */
    cr_assert_null(slots_next(&a));
    slots_looked(&a, 1, 150); /* still at it */
    cr_assert_null(slots_next(&a));
    slots_looked(&a, 0, 200);
    cr_assert_eq(slots_next(&a), &w[1]);
}

Test(slots, a_run_that_lingers_is_not_waited_for_for_ever)
{
    struct slots a;
    struct waiter w = {0};

    slots_init(&a, 1, 0);
    cr_assert_eq(slots_ask(&a, &w), SLOTS_ADMIT_NOW);
    slots_end(&a, &w, true, 1);
    slots_looked(&a, 1, 2 + SLOTS_LINGER_MAX_US);
    cr_assert_eq(a.lingering, 0);
}

Test(slots, others_requests_count_when_two_looks_agree)
{
    struct waiter w[2] = {0};
    struct slots a;

    slots_init(&a, 2, 0);
    slots_looked(&a, 1, 10);
    cr_assert_eq(slots_busy(&a), 0);
    slots_looked(&a, 1, 20);
    cr_assert_eq(slots_busy(&a), 1);
    cr_assert_eq(slots_ask(&a, &w[0]), SLOTS_ADMIT_NOW);
    cr_assert_eq(slots_ask(&a, &w[1]), SLOTS_ADMIT_FULL);
    slots_looked(&a, 1, 30); /* ours is the one it shows */
    cr_assert_eq(slots_busy(&a), 1);
}

Test(slots, a_question_runs_while_every_slot_and_the_queue_are_taken)
{
    struct slots a;
    struct waiter first = {0}, second = {0}, third = {0};

    slots_init(&a, 1, 1);
    cr_assert_eq(slots_ask(&a, &first), SLOTS_ADMIT_NOW);
    cr_assert_eq(slots_ask(&a, &second), SLOTS_ADMIT_QUEUED);
    for (unsigned i = 0; i < SLOTS_MAX_QUESTIONS; i++)
        cr_assert(slots_question(&a), "question %u", i);
    cr_expect_not(slots_question(&a));
    cr_expect_eq(slots_ask(&a, &third), SLOTS_ADMIT_FULL);
    cr_expect_eq(slots_busy(&a), 1, "questions take no slot");
    slots_question_end(&a);
    cr_expect(slots_question(&a));
    slots_end(&a, &first, false, 1);
    cr_expect_eq(slots_next(&a), &second, "nor do they keep one from who waits");
}

Test(slots, an_engine_of_one_model_at_a_time_gets_one_model_at_a_time)
{
    struct waiter a1 = {.model = 1}, a2 = {.model = 1}, b = {.model = 2}, a3 = {.model = 1};
    struct slots a;

    slots_init(&a, 4, 4);
    cr_assert(slots_models(&a, 1, 0, 1));
    cr_assert_eq(slots_ask(&a, &a1), SLOTS_ADMIT_NOW);
    cr_assert_eq(slots_ask(&a, &a2), SLOTS_ADMIT_NOW);
    cr_assert_eq(slots_ask(&a, &b), SLOTS_ADMIT_QUEUED);
    cr_assert_eq(slots_ask(&a, &a3), SLOTS_ADMIT_QUEUED,
                 "or the other model never gets a turn");
    slots_end(&a, &a1, false, 1);
    cr_assert_null(slots_next(&a));
    slots_end(&a, &a2, false, 1);
    cr_assert_eq(slots_next(&a), &b);
    cr_assert_null(slots_next(&a));
    slots_end(&a, &b, false, 1);
    slots_retake(&a, &b); /* asked again at once */
    cr_assert_null(slots_next(&a));
    slots_end(&a, &b, false, 1);
    cr_assert_eq(slots_next(&a), &a3);
}

Test(slots, two_models_at_once_are_two_whatever_their_runs)
{
    struct waiter w[5] = {{.model = 1}, {.model = 1}, {.model = 2}, {.model = 2}, {.model = 3}};
    struct slots a;

    slots_init(&a, 8, 4);
    cr_assert(slots_models(&a, 2, 0, 1));
    for (unsigned i = 0; i < 4; i++)
        cr_assert_eq(slots_ask(&a, &w[i]), SLOTS_ADMIT_NOW);
    cr_assert_eq(slots_ask(&a, &w[4]), SLOTS_ADMIT_QUEUED);
    slots_end(&a, &w[0], false, 1);
    cr_assert_null(slots_next(&a));
    slots_end(&a, &w[1], false, 1);
    cr_assert_eq(slots_next(&a), &w[4]);
}

Test(slots, while_a_model_takes_another_s_place_only_models_that_run_get_more)
{
    struct waiter w[5] = {
        {.model = 1}, {.model = 2, .loads = true}, {.model = 3}, {.model = 1}, {.model = 3}};
    struct slots a;

    slots_init(&a, 8, 4);
    cr_assert(slots_models(&a, 3, 3, 1));
    cr_assert_eq(slots_ask(&a, &w[0]), SLOTS_ADMIT_NOW);
    cr_assert(slots_answered(&a, &w[0], 2));
    cr_assert_not(slots_answered(&a, &w[0], 2), "that is known");
    cr_assert_eq(slots_ask(&a, &w[1]), SLOTS_ADMIT_NOW);
    cr_assert_eq(slots_ask(&a, &w[3]), SLOTS_ADMIT_NOW, "its model runs");
    cr_assert(slots_answered(&a, &w[3], 2));
    cr_assert_eq(slots_ask(&a, &w[2]), SLOTS_ADMIT_QUEUED, "its model may be unloaded");
    cr_assert(slots_answered(&a, &w[1], 2));
    cr_assert_not(slots_answered(&a, &w[1], 2), "that is known");
    cr_assert_eq(slots_next(&a), &w[2]);
    cr_assert_eq(slots_ask(&a, &w[4]), SLOTS_ADMIT_NOW);
}

Test(slots, models_load_side_by_side_where_none_has_to_go)
{
    struct waiter w[3] = {
        {.model = 1, .loads = true}, {.model = 2, .loads = true}, {.model = 3, .loads = true}};
    struct slots a;

    slots_init(&a, 8, 4);
    cr_assert(slots_models(&a, 3, 1, 1));
    cr_assert_eq(slots_ask(&a, &w[0]), SLOTS_ADMIT_NOW);
    cr_assert_eq(slots_ask(&a, &w[1]), SLOTS_ADMIT_NOW);
    cr_assert_eq(slots_ask(&a, &w[2]), SLOTS_ADMIT_QUEUED);
    slots_end(&a, &w[0], false, 1); /* it has failed, and nothing was loaded */
    cr_assert_eq(slots_next(&a), &w[2]);
}

Test(slots, a_run_of_a_model_in_memory_keeps_no_other_of_them_waiting)
{
    struct waiter w[3] = {{.model = 1}, {.model = 2}, {.model = 1}};
    struct slots a;

    slots_init(&a, 8, 4);
    cr_assert(slots_models(&a, 2, 2, 1));
    cr_assert_eq(slots_ask(&a, &w[0]), SLOTS_ADMIT_NOW);
    cr_assert_eq(slots_ask(&a, &w[1]), SLOTS_ADMIT_NOW, "nothing has to go");
    cr_assert_eq(slots_ask(&a, &w[2]), SLOTS_ADMIT_NOW);
}

Test(slots, after_a_load_where_all_places_were_taken_any_idle_model_may_be_gone)
{
    struct waiter w[3] = {{.model = 1, .loads = true}, {.model = 2}, {.model = 3}};

    for (unsigned answers = 0; answers < 2; answers++) {
        struct slots a;

        slots_init(&a, 8, 4);
        cr_assert(slots_models(&a, 3, 3, 1));
        w[0].loads = true;
        cr_assert_eq(slots_ask(&a, &w[0]), SLOTS_ADMIT_NOW);
        if (answers != 0)
            cr_assert(slots_answered(&a, &w[0], 2));
        slots_end(&a, &w[0], false, 3);
        cr_assert_eq(slots_ask(&a, &w[1]), SLOTS_ADMIT_NOW);
        cr_assert_eq(slots_ask(&a, &w[2]), SLOTS_ADMIT_QUEUED);
        cr_assert(slots_models(&a, 3, 3, 4));
        slots_model(&a, 2, true);
        slots_model(&a, 3, true);
        cr_assert_eq(slots_next(&a), &w[2]);
    }
}

Test(slots, a_model_that_is_seen_to_load_has_its_place)
{
    struct waiter w[2] = {{.model = 1, .loads = true}, {.model = 2, .loads = true}};
    struct slots a;

    slots_init(&a, 8, 4);
    cr_assert(slots_models(&a, 2, 0, 1));
    cr_assert_eq(slots_ask(&a, &w[0]), SLOTS_ADMIT_NOW);
    cr_assert(slots_models(&a, 2, 1, 2));
    slots_model(&a, 1, true);
    cr_assert_eq(slots_ask(&a, &w[1]), SLOTS_ADMIT_NOW, "there is another place");
}

Test(slots, a_waiter_loads_its_model_if_the_last_look_does_not_show_it)
{
    struct waiter w[4] = {
        {.model = 1}, {.model = 4, .loads = true}, {.model = 2}, {.model = 3}};
    struct slots a;

    slots_init(&a, 8, 4);
    cr_assert(slots_models(&a, 4, 4, 1));
    cr_assert_eq(slots_ask(&a, &w[1]), SLOTS_ADMIT_NOW);
    cr_assert_eq(slots_ask(&a, &w[2]), SLOTS_ADMIT_QUEUED);
    cr_assert_eq(slots_ask(&a, &w[3]), SLOTS_ADMIT_QUEUED);
    cr_assert(slots_models(&a, 4, 4, 2));
    cr_assert(slots_models(&a, 4, 4, 3));
    slots_model(&a, 4, true); /* in the place of the first waiter's */
    slots_model(&a, 2, false);
    cr_assert_eq(slots_next(&a), &w[2]);
    cr_assert_null(slots_next(&a), "its model may be unloaded");
    slots_model(&a, 2, true);
    cr_assert_eq(slots_next(&a), &w[3]);
    cr_assert_eq(slots_ask(&a, &w[0]), SLOTS_ADMIT_NOW);
}

Test(slots, no_model_takes_a_place_while_a_request_is_on_its_way_to_another)
{
    struct waiter w[4] = {
        {.model = 1}, {.model = 3, .loads = true}, {.model = 1}, {.model = 4, .loads = true}};
    struct slots a;

    slots_init(&a, 8, 4);
    cr_assert(slots_models(&a, 3, 3, 1));
    cr_assert_eq(slots_ask(&a, &w[0]), SLOTS_ADMIT_NOW);
    cr_assert_eq(slots_ask(&a, &w[1]), SLOTS_ADMIT_QUEUED, "it may unload the other one");
    cr_assert_not(slots_models(&a, 3, 3, 1), "the same look");
    cr_assert_null(slots_next(&a));
    cr_assert(slots_answered(&a, &w[0], 2));
    cr_assert_eq(slots_next(&a), &w[1]);
    slots_end(&a, &w[1], false, 3);
    slots_end(&a, &w[0], false, 3);

    cr_assert(slots_models(&a, 3, 3, 4));
    cr_assert_eq(slots_ask(&a, &w[2]), SLOTS_ADMIT_NOW);
    cr_assert_eq(slots_ask(&a, &w[3]), SLOTS_ADMIT_QUEUED);
    cr_assert(slots_models(&a, 3, 3, 5));
    cr_assert_null(slots_next(&a), "that may have been asked before");
    cr_assert(slots_models(&a, 3, 3, 6));
    cr_assert_eq(slots_next(&a), &w[3], "without an answer, but it is there by now");
}

Test(slots, a_look_from_before_a_load_does_not_show_it)
{
    struct waiter w[3] = {
        {.model = 1, .loads = true}, {.model = 2, .loads = true}, {.model = 3, .loads = true}};
    struct slots a;

    slots_init(&a, 8, 4);
    cr_assert(slots_models(&a, 2, 0, 1));
    cr_assert_eq(slots_ask(&a, &w[0]), SLOTS_ADMIT_NOW);
    cr_assert(slots_answered(&a, &w[0], 10));
    slots_end(&a, &w[0], false, 11);
    cr_assert_not(slots_models(&a, 2, 0, 9));
    cr_assert_eq(slots_ask(&a, &w[1]), SLOTS_ADMIT_NOW);
    cr_assert_eq(slots_ask(&a, &w[2]), SLOTS_ADMIT_QUEUED, "both places are taken");
    cr_assert(slots_models(&a, 2, 0, 11)); /* it is gone */
    cr_assert_eq(slots_next(&a), &w[2]);
}
