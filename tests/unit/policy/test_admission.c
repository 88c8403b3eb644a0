/* test_admission.c - which requests may wait, how long, and the Retry-After of the others. */
#include "policy/queue/admission.h"

#include <criterion/criterion.h>

#include "base/clock.h"

/* 8 slots, each held for 2 s: 4 places a second. */
static struct admission_queue eight_slots(uint32_t waiting)
{
    return (struct admission_queue){
        .max_waiting = 1000,
        .max_wait_us = 10 * US_PER_S,
        .waiting = waiting,
        .ahead = waiting,
        .slots = 8,
        .places_per_s = 4,
    };
}

Test(admission, the_queue_is_as_long_as_the_longest_wait_allows)
{
    struct admission_queue queue = eight_slots(39);

    cr_assert(admission_allows(&queue), "39 before it: served by the 40th place, after 10 s");
    cr_assert_eq(admission_wait_us(&queue), 10 * US_PER_S);
    queue = eight_slots(40);
    cr_assert_not(admission_allows(&queue));
    cr_assert_eq(admission_limit_us(&queue), 10 * US_PER_S);
}

Test(admission, while_others_are_rejected_it_is_as_long_as_there_are_slots)
{
    struct admission_queue queue = eight_slots(7);

    queue.overloaded = true;
    cr_assert(admission_allows(&queue));
    queue.ahead = queue.waiting = 8;
    cr_assert_not(admission_allows(&queue));
    cr_assert_eq(admission_limit_us(&queue), 2 * US_PER_S, "8 slots / 4 per second");
    queue.max_wait_us = US_PER_S;
    cr_assert_eq(admission_limit_us(&queue), US_PER_S, "never longer than configured");
}

Test(admission, the_short_queue_holds_a_second_of_work_at_least)
{
    struct admission_queue queue = eight_slots(39);

    queue.overloaded = true;
    queue.places_per_s = 40; /* each slot is held for 0.2 s */
    cr_assert_eq(admission_limit_us(&queue), US_PER_S);
    cr_assert(admission_allows(&queue), "the 40th place comes free after 1 s");
    queue.ahead = queue.waiting = 40;
    cr_assert_not(admission_allows(&queue));
}

Test(admission, a_request_before_most_is_judged_by_those_before_it)
{
    struct admission_queue queue = eight_slots(100);

    queue.ahead = 3;
    cr_assert(admission_allows(&queue));
    queue.max_waiting = 100;
    cr_assert_not(admission_allows(&queue), "the count holds for all");
}

Test(admission, as_many_as_there_are_slots_get_in_however_long_a_slot_is_held)
{
    struct admission_queue queue = eight_slots(7);

    queue.places_per_s = 0.01;
    cr_assert(admission_allows(&queue));
    queue.ahead = queue.waiting = 8;
    cr_assert_not(admission_allows(&queue));
}

Test(admission, with_nothing_known_only_the_count_decides)
{
    struct admission_queue queue = eight_slots(999);
    uint64_t last = 0;

    queue.places_per_s = 0;
    queue.overloaded = true;
    cr_assert(admission_allows(&queue));
    cr_assert_eq(admission_limit_us(&queue), 10 * US_PER_S);
    cr_assert_eq(admission_wait_us(&queue), 0);
    cr_assert_eq(admission_return_s(&queue, 50 * US_PER_S, 1, &last), 1);
    queue.waiting = 1000;
    cr_assert_not(admission_allows(&queue));
}

Test(admission, the_refused_are_asked_back_one_after_the_other)
{
    struct admission_queue queue = eight_slots(60);
    const uint64_t now = 100 * US_PER_S;
    uint64_t last = 0;

    /* 61 places take 15.25 s, of which it may wait 10: 5.25 s, and 0.25 s for its own place. */
    cr_assert_eq(admission_return_s(&queue, now, 1, &last), 6);
    cr_assert_eq(last, now + 5500000);
    cr_assert_eq(admission_return_s(&queue, now, 1, &last), 6);
    cr_assert_eq(last, now + 5750000);
    cr_assert_eq(admission_return_s(&queue, now, 1, &last), 6);
    cr_assert_eq(admission_return_s(&queue, now, 1, &last), 7, "6.25 s");
    /* One of two workers: every second place is for those that the other refuses. */
    cr_assert_eq(admission_return_s(&queue, now, 0.5, &last), 7, "6.75 s");
    cr_assert_eq(last, now + 6750000);
}

Test(admission, no_client_is_sent_away_for_longer_than_a_minute)
{
    struct admission_queue queue = eight_slots(60);
    const uint64_t now = 100 * US_PER_S;
    uint64_t last = now + 59 * US_PER_S + 900000;

    cr_assert_eq(admission_return_s(&queue, now, 1, &last), 60);
    cr_assert_eq(last, now + 60 * US_PER_S);
    cr_assert_eq(admission_seconds(0), 1);
    cr_assert_eq(admission_seconds(US_PER_S), 1);
    cr_assert_eq(admission_seconds(US_PER_S + 1), 2);
    cr_assert_eq(admission_seconds(UINT64_MAX), 3600);
}

/*
 * Three nodes.  "large" is on nodes 0, 1, 2, and 6 wait for it; "small" on 1 and 2, and 4 wait;
 * "mail" on 2 alone, and 3 wait.  So for node 0 wait 6/3 = 2; for node 1, 6/3 + 4/2 = 4; for
 * node 2, 6/3 + 4/2 + 3 = 7.
 */
static const uint16_t large[] = {0, 1, 2}, small[] = {1, 2}, mail[] = {2}, other[] = {0};

static void spread_three_models(double load[3])
{
    admission_spread(load, large, 3, 6);
    admission_spread(load, small, 2, 4);
    admission_spread(load, mail, 1, 3);
    admission_spread(load, NULL, 0, 99); /* no node serves it: it delays no request */
}

Test(admission, requests_for_any_model_on_its_nodes_are_before_a_newcomer)
{
    double load[3] = {0};

    spread_three_models(load);
    cr_assert_float_eq(load[0], 2, 1e-9);
    cr_assert_float_eq(load[1], 4, 1e-9);
    cr_assert_float_eq(load[2], 7, 1e-9);
    cr_expect_float_eq(admission_sum(load, large, 3), 13, 1e-9, "all that wait");
    cr_expect_float_eq(admission_sum(load, small, 2), 11, 1e-9, "but 2 of large's on node 0");
    cr_expect_float_eq(admission_sum(load, mail, 1), 7, 1e-9);
    cr_expect_float_eq(admission_sum(load, other, 1), 2, 1e-9, "a model nobody waits for");
}

Test(admission, a_model_without_waiting_requests_is_refused_for_what_others_wait)
{
    /* The one node of 2 slots, each held for 1 s, has 40 waiting requests for another model. */
    struct admission_queue queue = {
        .max_waiting = 100, .max_wait_us = 10 * US_PER_S, .slots = 2, .places_per_s = 2};
    double load[1] = {0};
    uint64_t last = 0;

    admission_spread(load, other, 1, 40);
    queue.ahead = admission_ahead(admission_sum(load, other, 1), 0, 0);
    cr_assert_not(admission_allows(&queue));
    /* The 41st place comes after 20.5 s; it may wait 10; 0.5 s for its own place. */
    cr_assert_eq(admission_wait_us(&queue), 20500000);
    cr_assert_eq(admission_return_s(&queue, 100 * US_PER_S, 1, &last), 11);
}

Test(admission, keys_are_seen_here_and_taken_to_be_alike_elsewhere)
{
    cr_expect_float_eq(admission_ahead(30, 0, 0), 30, 1e-9, "nothing here: behind all");
    cr_expect_float_eq(admission_ahead(20, 10, 10), 30, 1e-9, "the last here: behind all");
    cr_expect_float_eq(admission_ahead(20, 10, 0), 0, 1e-9, "the first here");
    cr_expect_float_eq(admission_ahead(20, 10, 4), 12, 1e-9, "4 here, so 8 of the 20");
    cr_expect_float_eq(admission_ahead(-1, 10, 4), 4, 1e-9, "sums of two instants");
}
