/* test_ejections.c - what requests do at a node gives events, and nothing else happens. */
#include "health/ejections.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "shm/facts/nodes.h"
#include "shm/facts/outcomes.h"
#include "shm/scoreboard.h"

#define FAILURES 3

static struct scoreboard *board;
static unsigned node_row;
static struct ejections ejections;
static struct verdict verdict;
static bool allowed = true;
static uint64_t now_us = 1000 * US_PER_S;

static const struct ejections_rules rules = {
    .limits = {.failures = FAILURES,
               .success_pct = 80,
               .min_requests = 1000,
               .window_us = 30 * US_PER_S,
               .backoff_us = 4 * US_PER_S,
               .backoff_max_us = 60 * US_PER_S},
    .advance_us = US_PER_S,
    .ramp_us = 10 * US_PER_S,
};

static bool may_be_out(const void *data)
{
    (void)data;
    return allowed;
}

static struct odd_counts peer;

static struct odd_counts best_peer(const void *data)
{
    (void)data;
    return peer;
}

static enum node_event look(void)
{
    struct ejections_node node = {.name = "n",
                                  .node_id = node_row,
                                  .verdict = &verdict,
                                  .may_be_out = may_be_out,
                                  .best_peer = best_peer};
    struct ejections_event found = ejections_look(&ejections, board, &rules, &node, now_us);
    enum node_state before = verdict.state;

    (void)node_state_step(&verdict, found.event, found.why);
    if (verdict.state != before)
        ejections_turned(&ejections, board, node_row, before, verdict.state, now_us);
    return found.event;
}

static void fail(unsigned times)
{
    while (times-- != 0)
        outcomes_note(board, node_row, 1, OUTCOME_FAILED);
}

static void set_up(void)
{
    struct scoreboard_params params = {
        .max_nodes = 1, .max_workers = 1, .requests_per_worker = 1};
    struct error err = {0};
    char path[64];

    (void)snprintf(path, sizeof(path), "/tmp/drover-test-passive-%d", (int)getpid());
    cr_assert_eq(scoreboard_create(&board, path, &params, &err), 0, "%s", err.text);
    (void)unlink(path);
    cr_assert_eq(nodes_claim(board, 1), 0);
    node_state_init(&verdict, 1, 1);
    (void)node_state_step(&verdict, NODE_EVENT_PASS, NODE_REASON_NONE);
    cr_assert_eq(verdict.state, NODE_UP);
    ejections_init(&ejections, board, node_row, &rules, false, now_us);
}

static void tear_down(void)
{
    scoreboard_detach(board);
}

TestSuite(ejections, .init = set_up, .fini = tear_down);

Test(ejections, failures_in_a_row_eject_and_the_back_off_ends_in_a_trial)
{
    fail(FAILURES - 1);
    cr_assert_eq(look(), NODE_EVENT_NONE);
    fail(1);
    cr_assert_eq(look(), NODE_EVENT_EJECT);
    cr_assert_eq(verdict.reason, NODE_REASON_FAILURES);
    cr_assert_eq(look(), NODE_EVENT_NONE, "it is out");
    now_us += 4 * US_PER_S + 1; /* the longest that the first back-off can be */
    cr_assert_eq(look(), NODE_EVENT_PROBATION);
    cr_assert_eq(ejections_slots(&ejections, &rules, verdict.state, 8, now_us), 1);
}

Test(ejections, a_node_that_is_needed_is_kept_once_and_looked_at_again)
{
    allowed = false;
    fail(FAILURES);
    cr_assert_eq(look(), NODE_EVENT_KEEP);
    cr_assert_eq(verdict.state, NODE_UP);
    cr_assert_eq(look(), NODE_EVENT_NONE, "nothing is new");
    allowed = true;
    cr_assert_eq(look(), NODE_EVENT_NONE, "the share is looked at once a second");
    now_us += US_PER_S + 1;
    cr_assert_eq(look(), NODE_EVENT_EJECT);
}

Test(ejections, a_node_that_is_out_is_tried_early_when_it_is_needed)
{
    fail(FAILURES);
    cr_assert_eq(look(), NODE_EVENT_EJECT);
    allowed = false;
    cr_assert_eq(look(), NODE_EVENT_PROBATION);
}

Test(ejections, a_node_that_comes_back_opens_its_slots_one_by_one)
{
    ejections_turned(&ejections, board, node_row, NODE_DOWN, NODE_UP, now_us);
    cr_assert_eq(ejections_slots(&ejections, &rules, NODE_UP, 11, now_us), 1);
    cr_assert_eq(ejections_slots(&ejections, &rules, NODE_UP, 11, now_us + 5 * US_PER_S), 6);
    cr_assert_eq(ejections_slots(&ejections, &rules, NODE_UP, 11, now_us + 10 * US_PER_S), 11);
    ejections_turned(&ejections, board, node_row, NODE_JOINING, NODE_UP, now_us);
    cr_assert_eq(ejections_slots(&ejections, &rules, NODE_UP, 11, now_us), 11,
                 "a new one has no ramp");
}

/* ---- another health process ---- */

static void take_over(uint32_t slots_open)
{
    ejections = (struct ejections){0};
    ejections_init(&ejections, board, node_row, &rules, verdict.ejected != NODE_REASON_NONE,
                   now_us);
    ejections_take_over(&ejections, board, node_row, &rules, verdict.state, slots_open, 11,
                        now_us);
}

Test(ejections, a_trial_whose_result_was_not_seen_is_followed_by_another)
{
    fail(FAILURES);
    cr_assert_eq(look(), NODE_EVENT_EJECT);
    now_us += 4 * US_PER_S;
    cr_assert_eq(look(), NODE_EVENT_PROBATION);
    outcomes_note(board, node_row, 1, OUTCOME_PROBATION_OK);
    take_over(1);
    cr_assert_not(outcomes_probed(board, node_row), "a request may be sent");
    cr_assert_eq(look(), NODE_EVENT_NONE);
    outcomes_note(board, node_row, 1, OUTCOME_PROBATION_OK);
    cr_assert(outcomes_probed(board, node_row));
    cr_assert_eq(look(), NODE_EVENT_CLEAR);
}

Test(ejections, slots_go_on_opening_from_where_they_were)
{
    for (uint32_t open = 1; open <= 10; open++) {
        uint64_t left_us = (11 - open) * US_PER_S; /* a slot a second */

        take_over(open);
        cr_assert_eq(ejections_slots(&ejections, &rules, NODE_UP, 11, now_us), open);
        cr_assert_eq(ejections_slots(&ejections, &rules, NODE_UP, 11, now_us + left_us - 1),
                     10);
        cr_assert_eq(ejections_slots(&ejections, &rules, NODE_UP, 11, now_us + left_us), 11);
    }
    take_over(11);
    cr_assert_eq(ejections.ramp_mono_us, 0, "all are open");
}

static void contradict(unsigned times)
{
    while (times-- != 0)
        outcomes_note(board, node_row, 1, OUTCOME_CONTRADICTED);
}

Test(ejections, a_node_that_others_contradict_is_out_and_one_like_its_peers_is_not)
{
    peer = (struct odd_counts){.answered = 1, .contradicted = 30};
    contradict(30);
    cr_assert_eq(look(), NODE_EVENT_NONE, "all refuse alike");
    peer = (struct odd_counts){.answered = 30};
    cr_assert_eq(look(), NODE_EVENT_NONE, "not so soon after the last look at them");
    now_us += US_PER_S;
    cr_assert_eq(look(), NODE_EVENT_EJECT);
    cr_assert_eq(verdict.reason, NODE_REASON_ODD);
    now_us += 60 * US_PER_S;
    cr_assert_eq(look(), NODE_EVENT_PROBATION);
    outcomes_note(board, node_row, 1, OUTCOME_PROBATION_FAILED);
    cr_assert_eq(look(), NODE_EVENT_EJECT);
    cr_assert_eq(verdict.reason, NODE_REASON_ODD, "the reason stays");
}

Test(ejections, one_client_alone_makes_no_node_odd_that_answers_others)
{
    peer = (struct odd_counts){.answered = 60};
    contradict(30);
    for (unsigned i = 0; i < 30; i++)
        outcomes_note(board, node_row, 1, OUTCOME_OK);
    outcomes_note_client(board, node_row, 1, OUTCOME_CONTRADICTED, 1);
    outcomes_note_client(board, node_row, 1, OUTCOME_OK, 2);
    outcomes_note_client(board, node_row, 1, OUTCOME_OK, 3);
    cr_assert_eq(look(), NODE_EVENT_NONE);
    outcomes_note_client(board, node_row, 1, OUTCOME_CONTRADICTED, 2);
    now_us += US_PER_S;
    cr_assert_eq(look(), NODE_EVENT_EJECT, "two clients");
}

Test(ejections, an_odd_node_that_is_needed_is_kept_until_its_record_is_clean)
{
    peer = (struct odd_counts){.answered = 30};
    allowed = false;
    contradict(30);
    cr_assert_eq(look(), NODE_EVENT_KEEP);
    now_us += US_PER_S / 10;
    cr_assert_eq(look(), NODE_EVENT_NONE);
    now_us += US_PER_S;
    cr_assert_eq(look(), NODE_EVENT_NONE, "it says so once");
    now_us += 31 * US_PER_S;
    cr_assert_eq(look(), NODE_EVENT_CLEAR);
    allowed = true;
}
