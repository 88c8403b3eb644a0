/* test_retry.c - one test per row of the table in policy/fault/retry.h. */
#include "policy/fault/retry.h"

#include <criterion/criterion.h>

/* A first attempt that failed before any content, with everything allowed. */
static struct retry_facts failed(void)
{
    return (struct retry_facts){
        .end = RETRY_END_FAILED,
        .budget_allows = true,
        .wait_left = true,
        .attempts = 1,
        .max_attempts = 3,
        .max_resumes = 2,
    };
}

/* An attempt that broke off after the client had seen plain text. */
static struct retry_facts broken_off(void)
{
    struct retry_facts facts = failed();

    facts.content_shown = true;
    facts.resumable = true;
    return facts;
}

Test(retry, without_a_client_there_is_nothing_left_to_do)
{
    struct retry_facts facts = failed();

    facts.client_gone = true;
    for (int end = RETRY_END_ANSWERED; end <= RETRY_END_NO_NODE_LEFT; end++) {
        facts.end = (enum retry_end)end;
        facts.other_runs = end % 2 == 0;
        cr_assert_eq(retry_decide(&facts), RETRY_DONE, "end %d", end);
    }
}

Test(retry, an_answer_that_is_whole_is_done_whatever_else_is_true)
{
    struct retry_facts facts = broken_off();

    facts.end = RETRY_END_ANSWERED;
    cr_assert_eq(retry_decide(&facts), RETRY_DONE);
    facts.other_runs = true;
    cr_assert_eq(retry_decide(&facts), RETRY_DONE);
}

Test(retry, a_request_that_a_node_refuses_fails_even_while_another_attempt_runs)
{
    struct retry_facts facts = failed();

    facts.end = RETRY_END_REFUSED;
    cr_assert_eq(retry_decide(&facts), RETRY_FAIL);
    facts.other_runs = true;
    cr_assert_eq(retry_decide(&facts), RETRY_FAIL);
}

Test(retry, the_other_of_two_attempts_goes_on_alone)
{
    struct retry_facts facts = failed();

    facts.other_runs = true;
    cr_assert_eq(retry_decide(&facts), RETRY_OTHER_GOES_ON);
    facts.end = RETRY_END_FULL;
    cr_assert_eq(retry_decide(&facts), RETRY_OTHER_GOES_ON);
    facts.attempts = facts.max_attempts;
    facts.budget_allows = false;
    cr_assert_eq(retry_decide(&facts), RETRY_OTHER_GOES_ON, "it needs neither");
}

Test(retry, an_answer_that_has_begun_waits_for_a_node_and_another_request_does_not)
{
    struct retry_facts facts = broken_off();

    facts.end = RETRY_END_NO_NODE_LEFT;
    cr_assert_eq(retry_decide(&facts), RETRY_WAIT_NODE);
    facts.wait_left = false;
    cr_assert_eq(retry_decide(&facts), RETRY_FAIL, "it has waited long enough");
    facts = failed();
    facts.end = RETRY_END_NO_NODE_LEFT;
    cr_assert_eq(retry_decide(&facts), RETRY_FAIL, "its client has seen nothing");
    facts.all_away = facts.wait_left = true;
    cr_assert_eq(retry_decide(&facts), RETRY_WAIT_NODE, "none has failed");
    facts.wait_left = false;
    cr_assert_eq(retry_decide(&facts), RETRY_FAIL, "it has waited long enough");
}

Test(retry, a_full_node_costs_no_attempt_and_needs_no_budget)
{
    struct retry_facts facts = failed();

    facts.end = RETRY_END_FULL;
    facts.attempts = facts.max_attempts;
    facts.budget_allows = false;
    cr_assert_eq(retry_decide(&facts), RETRY_PAUSE);
    facts.content_shown = true;
    cr_assert_eq(retry_decide(&facts), RETRY_PAUSE, "a resume that met a full node");
}

Test(retry, silence_without_a_sign_does_not_begin_the_same_work_elsewhere)
{
    struct retry_facts facts = failed();

    facts.end = RETRY_END_SILENT;
    cr_assert_eq(retry_decide(&facts), RETRY_FAIL);
    facts.other_runs = true;
    cr_assert_eq(retry_decide(&facts), RETRY_OTHER_GOES_ON);
    facts = broken_off();
    facts.end = RETRY_END_SILENT;
    cr_assert_eq(retry_decide(&facts), RETRY_RESUME, "the client has a part of it");
}

Test(retry, a_failure_before_content_is_repeated_within_attempts_and_budget)
{
    struct retry_facts facts = failed();

    cr_assert_eq(retry_decide(&facts), RETRY_AGAIN);
    facts.attempts = 2;
    cr_assert_eq(retry_decide(&facts), RETRY_AGAIN);
    facts.attempts = 3;
    cr_assert_eq(retry_decide(&facts), RETRY_FAIL, "that was the last");
    facts.attempts = 1;
    facts.budget_allows = false;
    cr_assert_eq(retry_decide(&facts), RETRY_FAIL, "retries are throttled");
}

Test(retry, plain_text_is_resumed_within_max_resumes_and_beyond_attempts_and_budget)
{
    struct retry_facts facts = broken_off();

    facts.attempts = 9;
    facts.budget_allows = false;
    cr_assert_eq(retry_decide(&facts), RETRY_RESUME);
    facts.resumes = 1;
    cr_assert_eq(retry_decide(&facts), RETRY_RESUME);
    facts.resumes = 2;
    cr_assert_eq(retry_decide(&facts), RETRY_FAIL, "twice is enough");
    facts.max_resumes = 0;
    facts.resumes = 0;
    cr_assert_eq(retry_decide(&facts), RETRY_FAIL, "it is switched off");
}

Test(retry, an_answer_beyond_plain_text_fails_once_it_was_shown)
{
    struct retry_facts facts = broken_off();

    facts.resumable = false;
    cr_assert_eq(retry_decide(&facts), RETRY_FAIL);
}

Test(retry, a_node_that_lacks_something_costs_no_attempt_and_needs_no_budget)
{
    struct retry_facts facts = failed();

    facts.end = RETRY_END_LACKS;
    facts.refusals = 1;
    facts.attempts = facts.max_attempts;
    facts.budget_allows = false;
    cr_assert_eq(retry_decide(&facts), RETRY_ELSEWHERE);
    facts.content_shown = true;
    cr_assert_eq(retry_decide(&facts), RETRY_ELSEWHERE, "a resume that met a small context");
    facts.refusals = RETRY_MAX_REFUSALS - 1;
    cr_assert_eq(retry_decide(&facts), RETRY_ELSEWHERE);
    facts.refusals = RETRY_MAX_REFUSALS;
    cr_assert_eq(retry_decide(&facts), RETRY_FAIL);
    facts.other_runs = true;
    cr_assert_eq(retry_decide(&facts), RETRY_OTHER_GOES_ON);
}

Test(retry, a_node_whose_engine_is_away_costs_no_attempt_and_needs_no_budget)
{
    struct retry_facts facts = failed();

    facts.end = RETRY_END_AWAY;
    facts.refusals = 2;
    facts.attempts = facts.max_attempts;
    facts.budget_allows = false;
    cr_assert_eq(retry_decide(&facts), RETRY_ELSEWHERE);
    facts.refusals = RETRY_MAX_REFUSALS;
    cr_assert_eq(retry_decide(&facts), RETRY_FAIL);
}

Test(retry, a_node_that_is_away_is_asked_again_after_seconds)
{
    cr_assert_eq(retry_away_until(1, 5000000), 6000000);
    cr_assert_eq(retry_away_until(2, 5000000), 7000000);
    cr_assert_eq(retry_away_until(4, 5000000), 13000000);
    cr_assert_eq(retry_away_until(RETRY_MAX_AWAY - 1, 5000000), 13000000);
    cr_assert_eq(retry_away_until(RETRY_MAX_AWAY, 5000000), UINT64_MAX);
}

Test(retry, requests_that_meet_a_node_away_together_come_back_together)
{
    for (uint64_t now = 5000001; now <= 5250000; now += 9973)
        cr_assert_eq(retry_away_until(1, now), 6250000);
}

Test(retry, a_request_that_an_engine_blames_is_tried_on_one_more)
{
    struct retry_facts facts = failed();

    facts.end = RETRY_END_BLAMED;
    facts.blamed = 1;
    cr_assert_eq(retry_decide(&facts), RETRY_AGAIN);
    facts.budget_allows = false;
    cr_assert_eq(retry_decide(&facts), RETRY_FAIL, "it counts as an attempt");
    facts.budget_allows = true;
    facts.blamed = 2;
    facts.attempts = 2;
    cr_assert_eq(retry_decide(&facts), RETRY_FAIL);
}

Test(retry, no_third_engine_gets_a_request_with_which_two_died)
{
    struct retry_facts facts = failed();

    facts.engines_died = 1;
    facts.attempts = 1;
    cr_assert_eq(retry_decide(&facts), RETRY_AGAIN);
    facts.engines_died = 2;
    facts.attempts = 2;
    cr_assert_eq(retry_decide(&facts), RETRY_FAIL);
    facts = broken_off();
    facts.engines_died = 1;
    cr_assert_eq(retry_decide(&facts), RETRY_RESUME);
    facts.engines_died = 2;
    facts.resumes = 1;
    cr_assert_eq(retry_decide(&facts), RETRY_FAIL, "after content, too");
    facts.engines_died = 0;
    cr_assert_eq(retry_decide(&facts), RETRY_RESUME, "nodes that were lost are no evidence");
}

Test(retry, a_refusal_without_a_known_reason_is_tried_elsewhere_and_costs_no_attempt)
{
    struct retry_facts facts = failed();

    facts.end = RETRY_END_UNSURE;
    facts.unsure = 1;
    facts.attempts = facts.max_attempts;
    facts.budget_allows = false;
    cr_assert_eq(retry_decide(&facts), RETRY_ELSEWHERE);
    facts.unsure = RETRY_MAX_REFUSALS - 1;
    cr_assert_eq(retry_decide(&facts), RETRY_ELSEWHERE);
    facts.unsure = RETRY_MAX_REFUSALS;
    cr_assert_eq(retry_decide(&facts), RETRY_FAIL);
    facts.other_runs = true;
    cr_assert_eq(retry_decide(&facts), RETRY_OTHER_GOES_ON);
}

Test(retry, an_answer_without_output_is_tried_on_four_nodes_at_most)
{
    struct retry_facts facts = failed();

    facts.end = RETRY_END_EMPTY;
    facts.unsure = 1;
    facts.attempts = facts.max_attempts;
    facts.budget_allows = false;
    cr_assert_eq(retry_decide(&facts), RETRY_ELSEWHERE);
    facts.unsure = RETRY_MAX_EMPTY;
    cr_assert_eq(retry_decide(&facts), RETRY_FAIL);
    facts.end = RETRY_END_NO_ANSWER;
    cr_assert_eq(retry_decide(&facts), RETRY_FAIL);
    facts.unsure = RETRY_MAX_EMPTY - 1;
    facts.trusted = RETRY_MAX_TRUSTED;
    cr_assert_eq(retry_decide(&facts), RETRY_ELSEWHERE, "a node's own, whoever it is");
}

Test(retry, two_nodes_that_do_well_otherwise_are_believed)
{
    struct retry_facts facts = failed();

    for (int end = RETRY_END_UNSURE; end <= RETRY_END_EMPTY; end++) {
        facts.end = (enum retry_end)end;
        facts.unsure = 2;
        facts.trusted = 1;
        cr_assert_eq(retry_decide(&facts), RETRY_ELSEWHERE);
        facts.trusted = RETRY_MAX_TRUSTED;
        cr_assert_eq(retry_decide(&facts), RETRY_FAIL);
    }
}
