/* test_estimate.c - each rule of estimate.h, with the numbers worked out by hand. */
#include <criterion/criterion.h>
#include <math.h>

#include "policy/route/estimate.h"

/* Averages are floats: to six digits. */
#define NEAR(a, b) (fabs((double)(a) - (double)(b)) < 1e-6 * fmax(1, fabs((double)(b))))
#define SECOND     UINT64_C(1000000)

/* The constants before real engines: the numbers of each test follow from them. */
static const struct route_times real = {.guess_tokens_per_s = 1000,
                                        .silence_us = 1e6,
                                        .failure_least_s = 1,
                                        .event_us = SECOND,
                                        .trial_idle_us = 10 * SECOND,
                                        .trial_busy_us = 60 * SECOND,
                                        .regret_s = 0.1};

static struct estimate_speed speed(float tokens, float seconds)
{
    return (struct estimate_speed){.tokens = tokens, .seconds = seconds};
}

/* ---- the three ends ---- */

static struct estimate_end an_answer(void)
{
    return (struct estimate_end){
        .status = 200, .op_class = OP_CLASS_GENERATION, .had_slot = true, .content = true};
}

Test(ends, an_answer_teaches)
{
    struct estimate_end end = an_answer();

    cr_assert_eq(estimate_lesson(&end), ESTIMATE_ANSWER);
    end.op_class = OP_CLASS_EMBEDDING;
    cr_assert_eq(estimate_lesson(&end), ESTIMATE_ANSWER);
    end.status = 399;
    cr_assert_eq(estimate_lesson(&end), ESTIMATE_ANSWER);
}

Test(ends, an_answer_that_waited_for_a_slot_says_nothing_of_speed)
{
    struct estimate_end end = an_answer();

    end.had_slot = false;
    cr_assert_eq(estimate_lesson(&end), ESTIMATE_NOTHING);
}

Test(ends, a_refusal_teaches_nothing)
{
    struct estimate_end end = an_answer();

    end.status = 400;
    cr_assert_eq(estimate_lesson(&end), ESTIMATE_NOTHING);
    end.status = 413;
    cr_assert_eq(estimate_lesson(&end), ESTIMATE_NOTHING);
}

Test(ends, a_question_teaches_nothing_however_it_ends)
{
    struct estimate_end end = an_answer();

    end.op_class = OP_CLASS_QUESTION;
    cr_assert_eq(estimate_lesson(&end), ESTIMATE_NOTHING);
    end.node_failed = end.before = true;
    cr_assert_eq(estimate_lesson(&end), ESTIMATE_NOTHING);
}

Test(ends, a_failure_before_the_first_token_teaches_with_or_without_a_slot)
{
    struct estimate_end end = {.node_failed = true, .before = true, .had_slot = true};

    cr_assert_eq(estimate_lesson(&end), ESTIMATE_FAILURE);
    end.had_slot = false;
    cr_assert_eq(estimate_lesson(&end), ESTIMATE_FAILURE);
    end.before = false; /* what broke in the middle had its first token in time */
    cr_assert_eq(estimate_lesson(&end), ESTIMATE_NOTHING);
}

Test(ends, an_attempt_that_was_cancelled_or_excused_teaches_nothing)
{
    struct estimate_end end = {.before = true, .had_slot = true};

    cr_assert_eq(estimate_lesson(&end), ESTIMATE_NOTHING);
}

/* ---- samples ---- */

Test(samples, an_answer_counts_its_own_tokens_and_the_backlog_before_it)
{
    /* 300 tokens behind 0.5 s of work of a node that does 1000 a second: 800 in 0.9 s. */
    struct estimate_speed s = estimate_sample(300, 0.5, 1000, 0.9);

    cr_assert(NEAR(s.tokens, 800) && NEAR(s.seconds, 0.9));
}

Test(samples, the_first_is_taken_as_it_is_and_the_next_moves_a_tenth)
{
    struct estimate_speed s = estimate_learn(speed(0, 0), speed(800, 0.4f));

    cr_assert(NEAR(s.tokens, 800) && NEAR(s.seconds, 0.4));
    s = estimate_learn(s, speed(1800, 1.4f));
    /* 800 + 0.1 * 1000; 0.4 + 0.1 * 1.0 */
    cr_assert(NEAR(s.tokens, 900) && NEAR(s.seconds, 0.5));
}

Test(samples, a_sample_that_is_no_number_changes_nothing)
{
    const float bad[] = {NAN, INFINITY, -1, 0};

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct estimate_speed s = estimate_learn(speed(800, 0.4f), speed(100, bad[i]));

        cr_assert(NEAR(s.tokens, 800) && NEAR(s.seconds, 0.4), "%zu", i);
    }
    cr_assert(NEAR(estimate_learn(speed(800, 0.4f), speed(NAN, 1)).tokens, 800));
}

Test(samples, a_failure_is_ten_times_the_average_and_halves_the_speed)
{
    struct estimate_speed usual = speed(1000, 0.2f), s;

    s = estimate_failure(usual, speed(9000, 0.001f), &real);
    cr_assert(NEAR(s.tokens, 1000) && NEAR(s.seconds, 2));
    s = estimate_learn(usual, s);
    /* 1000 tokens in 0.9 * 0.2 + 0.1 * 2 = 0.38 s */
    cr_assert(NEAR(estimate_tokens_per_s(s, 0, &real), 1000 / 0.38));
}

Test(samples, failures_of_eight_requests_sent_together_do_not_multiply)
{
    struct estimate_speed usual = speed(1000, 0.2f), s = usual;

    /* Even if each were learned from: the sample stays 2 s, so T never passes it. */
    for (int i = 0; i < 8; i++)
        s = estimate_learn(s, estimate_failure(usual, speed(1000, 0.1f), &real));
    cr_assert(s.seconds < 2 && s.seconds > 1);
}

Test(samples, a_failure_takes_a_second_at_least)
{
    cr_assert(NEAR(estimate_failure(speed(10, 0.01f), speed(0, 0), &real).seconds, 1));
    /* Never measured: its own tokens, in the time that passed. */
    cr_assert(NEAR(estimate_failure(speed(0, 0), speed(500, 0.01f), &real).seconds, 1));
    cr_assert(NEAR(estimate_failure(speed(0, 0), speed(500, 7), &real).seconds, 7));
    cr_assert(NEAR(estimate_failure(speed(0, 0), speed(500, 7), &real).tokens, 500));
}

/* ---- speed and charge ---- */

Test(speed, it_is_learned_else_reported_else_guessed_and_has_a_floor)
{
    cr_assert(NEAR(estimate_tokens_per_s(speed(800, 0.4f), 5000, &real), 2000));
    cr_assert(NEAR(estimate_tokens_per_s(speed(0, 0), 5000, &real), 5000));
    cr_assert(NEAR(estimate_tokens_per_s(speed(0, 0), 0, &real), 1000));
    cr_assert(NEAR(estimate_tokens_per_s(speed(1, 1000), 0, &real), 1));
}

Test(charge, it_is_the_time_that_the_uncached_tokens_take)
{
    cr_assert_eq(estimate_charge_us(500, 2000), 250000);
    cr_assert_eq(estimate_charge_us(1, 1e9), 1, "never nothing");
    cr_assert_eq(estimate_charge_us(1e9, 1), 600 * SECOND, "nor so much that a sum overflows");
}

/* ---- backlog ---- */

Test(backlog, nothing_charged_is_nothing_left)
{
    struct estimate_backlog b = estimate_backlog(0, 0, 50 * SECOND, &real);

    cr_assert(NEAR(b.left_s, 0) && NEAR(b.slowdown, 1));
}

Test(backlog, time_works_it_off)
{
    /* 8 s charged; at it for 3 s. */
    struct estimate_backlog b = estimate_backlog(8 * SECOND, 97 * SECOND, 100 * SECOND, &real);

    cr_assert(NEAR(b.left_s, 5) && NEAR(b.slowdown, 1));
    b = estimate_backlog(8 * SECOND, 0, 100 * SECOND, &real);
    cr_assert(NEAR(b.left_s, 8), "it is not known since when");
}

Test(backlog, a_twentieth_is_left_whatever_has_passed)
{
    struct estimate_backlog b = estimate_backlog(4 * SECOND, 96 * SECOND, 100 * SECOND, &real);

    cr_assert(NEAR(b.left_s, 0.2) && NEAR(b.slowdown, 1));
}

Test(backlog, a_node_that_takes_three_times_as_long_is_three_times_slower)
{
    struct estimate_backlog b = estimate_backlog(4 * SECOND, 88 * SECOND, 100 * SECOND, &real);

    cr_assert(NEAR(b.left_s, 0.2) && NEAR(b.slowdown, 3));
}

Test(backlog, the_first_second_of_silence_says_nothing)
{
    /* 10 ms charged, 0.9 s of silence; then 2.5 s. */
    struct estimate_backlog b =
        estimate_backlog(SECOND / 100, 100 * SECOND - 9 * SECOND / 10, 100 * SECOND, &real);

    cr_assert(NEAR(b.slowdown, 1));
    b = estimate_backlog(SECOND / 100, 100 * SECOND - 25 * SECOND / 10, 100 * SECOND, &real);
    cr_assert(NEAR(b.slowdown, 2.5));
}

Test(backlog, a_clock_that_is_a_little_ahead_does_no_harm)
{
    struct estimate_backlog b = estimate_backlog(4 * SECOND, 101 * SECOND, 100 * SECOND, &real);

    cr_assert(NEAR(b.left_s, 4) && NEAR(b.slowdown, 1));
}

/* ---- trials ---- */

Test(trial, a_node_tried_in_the_last_ten_seconds_is_not_tried)
{
    cr_assert(estimate_regret_s(91 * SECOND, false, 100 * SECOND, &real) < 0);
    cr_assert(estimate_regret_s(101 * SECOND, false, 100 * SECOND, &real) < 0);
    cr_assert(estimate_regret_s(90 * SECOND, false, 100 * SECOND, &real) >= 0);
}

Test(trial, a_node_with_other_requests_is_not_tried_before_a_minute_is_over)
{
    cr_assert(estimate_regret_s(41 * SECOND, true, 100 * SECOND, &real) < 0);
    cr_assert(NEAR(estimate_regret_s(40 * SECOND, true, 100 * SECOND, &real), 0.35));
}

Test(trial, the_regret_grows_by_a_quarter_second_a_minute)
{
    cr_assert(NEAR(estimate_regret_s(1000 * SECOND, false, 1060 * SECOND, &real), 0.35));
    cr_assert(NEAR(estimate_regret_s(1000 * SECOND, false, 1600 * SECOND, &real), 2.6));
}
