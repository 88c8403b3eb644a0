/* test_outcomes.c - what workers note of a node, and that a new node owes nothing. */
#include "shm/facts/outcomes.h"

#include "base/clock.h"
#include "board.h"
#include "shm/facts/nodes.h"

Test(outcomes, successes_and_failures_add_up_and_a_success_ends_the_run)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 2, 2, 1), *reader;
    struct outcomes o;

    cr_assert_eq(nodes_claim(board, 1), 0);
    outcomes_note(board, 0, 1, OUTCOME_FAILED);
    outcomes_note(board, 0, 1, OUTCOME_STALLED);
    outcomes_note(board, 0, 1, OUTCOME_PROBATION_FAILED);
    cr_assert_eq(scoreboard_attach(&reader, t.path, NULL), 0);
    outcomes_read(reader, 0, &o);
    cr_assert_eq(o.total[OUTCOME_FAILED], 2, "a stall is a failure");
    cr_assert_eq(o.total[OUTCOME_STALLED], 1);
    cr_assert_eq(o.total[OUTCOME_PROBATION_FAILED], 1);
    cr_assert_eq(o.run, 3);
    outcomes_note(board, 0, 1, OUTCOME_OK);
    outcomes_read(reader, 0, &o);
    cr_assert_eq(o.total[OUTCOME_OK], 1);
    cr_assert_eq(o.run, 0);
    outcomes_note(board, 0, 1, OUTCOME_FAILED);
    outcomes_note(board, 0, 1, OUTCOME_PROBATION_OK);
    outcomes_read(reader, 0, &o);
    cr_assert_eq(o.run, 0);
    outcomes_read(reader, 1, &o);
    cr_assert_eq(o.total[OUTCOME_FAILED], 0, "another node");
    outcomes_read(reader, 2, &o);
    cr_assert_eq(o.run, 0, "out of range");
    scoreboard_detach(reader);
    board_drop(&t, board);
}

Test(outcomes, the_past_of_an_earlier_generation_is_not_the_new_ones)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);
    struct outcomes o;

    cr_assert_eq(nodes_claim(board, 1), 0);
    outcomes_note(board, 0, 1, OUTCOME_FAILED);
    outcomes_progress(board, 0, 1, US_PER_S);
    nodes_release(board, 0);
    cr_assert_eq(nodes_claim(board, 2), 0);
    outcomes_read(board, 0, &o);
    cr_assert_eq(o.total[OUTCOME_FAILED], 0);
    cr_assert_eq(o.run, 0);
    cr_assert_eq(o.progress_mono_us, 0);
    outcomes_note(board, 0, 1, OUTCOME_FAILED);
    outcomes_progress(board, 0, 1, 2 * US_PER_S);
    outcomes_read(board, 0, &o);
    cr_assert_eq(o.run, 0, "generation 1 is over");
    cr_assert_eq(o.progress_mono_us, 0);
    board_drop(&t, board);
}

Test(outcomes, the_first_result_of_a_trial_ends_it_until_another_begins)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);
    const enum outcome results[] = {OUTCOME_PROBATION_OK, OUTCOME_PROBATION_FAILED};
    struct outcomes judged;

    cr_assert_eq(nodes_claim(board, 1), 0);
    cr_assert(outcomes_probed(board, 1), "out of range: send nothing there");
    for (unsigned i = 0; i < 2; i++) {
        outcomes_note(board, 0, 1, OUTCOME_OK);
        outcomes_note(board, 0, 1, OUTCOME_FAILED);
        cr_assert_not(outcomes_probed(board, 0), "these were sent before it");
        outcomes_note(board, 0, 1, results[i]);
        cr_assert(outcomes_probed(board, 0));
        outcomes_read(board, 0, &judged);
        outcomes_begin_probation(board, 0, &judged);
        cr_assert_not(outcomes_probed(board, 0));
    }
    outcomes_read(board, 0, &judged);
    outcomes_note(board, 0, 1,
                  OUTCOME_PROBATION_FAILED); /* a straggler, while health decides */
    outcomes_begin_probation(board, 0, &judged);
    cr_assert(outcomes_probed(board, 0), "it is not lost");
    board_drop(&t, board);
}

Test(outcomes, progress_is_known_to_within_100_ms_and_never_goes_back)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);
    struct outcomes o;

    cr_assert_eq(nodes_claim(board, 1), 0);
    outcomes_progress(board, 0, 1, 10 * US_PER_S);
    outcomes_progress(board, 0, 1, 10 * US_PER_S + 99999);
    outcomes_read(board, 0, &o);
    cr_assert_eq(o.progress_mono_us, 10 * US_PER_S);
    outcomes_progress(board, 0, 1, 10 * US_PER_S + 100000);
    outcomes_progress(board, 0, 1, 9 * US_PER_S);
    outcomes_read(board, 0, &o);
    cr_assert_eq(o.progress_mono_us, 10 * US_PER_S + 100000);
    board_drop(&t, board);
}

Test(outcomes, a_lost_connection_is_reported_once_a_second_by_all_workers_together)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 2, 2, 1);
    uint64_t now = 10 * US_PER_S;

    cr_assert_eq(nodes_claim(board, 1), 0);
    cr_assert_eq(outcomes_lost_mono_us(board, 0), 0);
    cr_assert(outcomes_note_loss(board, 0, 1, now), "the first to report it");
    cr_assert_eq(outcomes_lost_mono_us(board, 0), now);
    cr_assert_not(outcomes_note_loss(board, 0, 1, now), "another request of that connection");
    cr_assert_not(outcomes_note_loss(board, 0, 1, now - 50), "a clock that is behind");
    cr_assert_not(outcomes_note_loss(board, 0, 1, now + OUTCOMES_LOSS_US - 1));
    cr_assert_eq(outcomes_lost_mono_us(board, 0), now, "later reports do not prolong it");
    cr_assert(outcomes_note_loss(board, 0, 1, now + OUTCOMES_LOSS_US), "it was lost again");
    cr_assert_not(outcomes_note_loss(board, 1, 1, now), "no node is there");
    cr_assert_not(outcomes_note_loss(board, 2, 1, now), "out of range");
    cr_assert_eq(outcomes_lost_mono_us(board, 2), 0);
    board_drop(&t, board);
}

Test(outcomes, a_lost_connection_of_an_earlier_generation_is_no_event_of_the_new_one)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);

    cr_assert_eq(nodes_claim(board, 1), 0);
    cr_assert(outcomes_note_loss(board, 0, 1, US_PER_S));
    nodes_release(board, 0);
    cr_assert_eq(nodes_claim(board, 2), 0);
    cr_assert_eq(outcomes_lost_mono_us(board, 0), 0);
    cr_assert_not(outcomes_note_loss(board, 0, 1, 9 * US_PER_S), "generation 1 is over");
    cr_assert(outcomes_note_loss(board, 0, 2, US_PER_S + 1), "the new node's own");
    board_drop(&t, board);
}
