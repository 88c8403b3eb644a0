/* test_decisions.c - the rings of routing decisions: found again, overwritten, after a crash.
 */
#include "shm/facts/decisions.h"

#include <math.h>

#include "board.h"
#include "shm/facts/procs.h"
#include "shm/reap.h"
#include "shm/segment.h"

static struct decision make(const char *id, uint32_t attempt, uint64_t at_mono_us)
{
    struct decision d = {.at_mono_us = at_mono_us,
                         .attempt = attempt,
                         .prompt_tokens = 1000,
                         .node = 1,
                         .name = "box1",
                         .candidates_total = 2,
                         .candidates = 2};

    (void)strlcpy(d.id, id, sizeof(d.id));
    (void)strlcpy(d.model, "qwen3", sizeof(d.model));
    d.candidate[0] = (struct decision_candidate){
        .node = 0, .name = "box0", .inflight = 4, .slots = 4, .cap = 6, .cost_s = 2.5f};
    d.candidate[1] = (struct decision_candidate){
        .node = 1, .name = "box1", .slots = 4, .cap = 6, .prefill_s = 0.25f, .cost_s = 0.25f};
    return d;
}

Test(decisions, a_decision_is_found_by_request_and_attempt)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 4, 2, 1), *reader;
    struct decision d, out;
    struct decision_cursor cursor = {0};

    d = make("req-a", 0, 100);
    decisions_add(board, 1, &d);
    d = make("req-b", 0, 150);
    decisions_add(board, 0, &d);
    d = make("req-a", 1, 200);
    d.node = DECISIONS_NO_NODE;
    d.name[0] = '\0';
    decisions_add(board, 1, &d);
    d = make("req-a", 1, 300);
    d.candidates = 1;
    decisions_add(board, 1, &d);
    cr_assert_eq(scoreboard_attach(&reader, t.path, NULL), 0);

    cr_assert(board_decision(reader, "req-a", 0, &out));
    cr_assert_eq(out.at_mono_us, 100);
    cr_assert_eq(out.worker, 1);
    cr_assert_eq(out.number, 0);
    cr_assert_str_eq(out.model, "qwen3");
    cr_assert_str_eq(out.name, "box1");
    cr_assert_eq(out.candidates, 2);
    cr_assert_str_eq(out.candidate[0].name, "box0");
    cr_assert_eq(out.candidate[0].inflight, 4);
    cr_assert_float_eq(out.candidate[0].cost_s, 2.5, 1e-9);
    cr_assert_float_eq(out.candidate[1].prefill_s, 0.25, 1e-9);
    cr_assert(board_decision(reader, "req-a", 1, &out));
    cr_assert_eq(out.at_mono_us, 300, "the last of two for the attempt");
    cr_assert_eq(out.candidates, 1);
    cr_assert_eq(out.candidates_total, 2);
    cr_assert_str_eq(out.candidate[1].name, "", "not there, so nothing of an older one");
    cr_assert(board_decision(reader, "req-a", BOARD_ANY_ATTEMPT, &out));
    cr_assert_eq(out.at_mono_us, 300);
    cr_assert_not(board_decision(reader, "req-a", 2, &out));
    cr_assert_not(board_decision(reader, "req", BOARD_ANY_ATTEMPT, &out));

    cr_assert(decisions_next(reader, "req-a", &cursor, &out));
    cr_assert_eq(out.at_mono_us, 100);
    cr_assert(decisions_next(reader, "req-a", &cursor, &out));
    cr_assert_eq(out.at_mono_us, 200);
    cr_assert_eq(out.node, DECISIONS_NO_NODE);
    cr_assert(decisions_next(reader, "req-a", &cursor, &out));
    cr_assert_eq(out.at_mono_us, 300);
    cr_assert_not(decisions_next(reader, "req-a", &cursor, &out));
    scoreboard_detach(reader);
    board_drop(&t, board);
}

Test(decisions, entries_of_the_same_instant_come_in_the_order_of_worker_and_number)
{
    static const struct {
        unsigned worker;
        uint64_t number;
    } want[] = {{0, 0}, {0, 1}, {1, 0}};
    struct temporary t;
    struct scoreboard *board = board_make(&t, 4, 2, 1);
    struct decision_cursor cursor = {0};
    struct decision d = make("x", 0, 5), out;

    decisions_add(board, 1, &d);
    decisions_add(board, 0, &d);
    decisions_add(board, 0, &d);
    for (size_t i = 0; i < ARRAY_LEN(want); i++) {
        cr_assert(decisions_next(board, "x", &cursor, &out));
        cr_assert_eq(out.worker, want[i].worker);
        cr_assert_eq(out.number, want[i].number);
    }
    cr_assert_not(decisions_next(board, "x", &cursor, &out));
    board_drop(&t, board);
}

Test(decisions, the_ring_keeps_the_last_256_also_of_a_worker_that_died)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 4, 2, 1);
    struct decision d, out;
    char id[32];

    procs_assign(board, 0, 1, false);
    for (uint32_t i = 0; i < 300; i++) {
        (void)snprintf(id, sizeof(id), "req-%u", i);
        d = make(id, 0, 1000 + i);
        decisions_add(board, 0, &d);
    }
    reap_process(board, 0);
    cr_assert_eq(decisions_count(board, 0), 300);
    cr_assert_not(board_decision(board, "req-43", 0, &out), "300 - 256 = 44");
    cr_assert(board_decision(board, "req-44", 0, &out));
    cr_assert(board_decision(board, "req-299", 0, &out));
    cr_assert_not(decisions_read(board, 0, 43, &out));
    cr_assert_not(decisions_read(board, 0, 300, &out));
    cr_assert(decisions_read(board, 0, 299, &out));

    /* The next one in the slot goes on, over what its predecessor left half-written. */
    segment_ring(board, 0)->entry[300 % 256].seq |= 1;
    cr_assert_not(board_decision(board, "req-44", 0, &out));
    d = make("next", 0, 5000);
    decisions_add(board, 0, &d);
    cr_assert(board_decision(board, "next", 0, &out));
    cr_assert_eq(out.number, 300);
    board_drop(&t, board);
}

Test(decisions, more_candidates_than_fit_are_cut_and_wild_numbers_made_harmless)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 4, 1, 1);
    struct decision d = make("x", 0, 1), out;

    memset(d.candidate, 0xff, sizeof(d.candidate)); /* floats: not a number */
    memset(d.model, 'm', sizeof(d.model));
    d.candidates = 4000;
    d.candidates_total = 4000;
    d.node = 4;
    decisions_add(board, 0, &d);
    cr_assert(board_decision(board, "x", 0, &out));
    cr_assert_eq(out.candidates, DECISIONS_CANDIDATES);
    cr_assert_eq(out.candidates_total, 4000);
    cr_assert_eq(out.node, DECISIONS_NO_NODE, "there are slots 0 to 3");
    cr_assert_eq(strlen(out.model), sizeof(out.model) - 1);
    for (unsigned i = 0; i < DECISIONS_CANDIDATES; i++) {
        cr_assert_eq(out.candidate[i].node, DECISIONS_NO_NODE);
        cr_assert_eq(strlen(out.candidate[i].name), DECISIONS_NAME_BYTES - 1);
        cr_assert_eq(out.candidate[i].cost_s, 0);
        cr_assert_eq(out.candidate[i].prefill_per_s, 0);
    }
    board_drop(&t, board);
}

Test(decisions, every_bar_has_a_name)
{
    cr_assert_str_eq(decision_exclusion_name(DECISION_EXCLUDED_FULL), "full");
    cr_assert_str_eq(decision_exclusion_name(DECISION_EXCLUDED_TRIED), "excluded");
    cr_assert_str_eq(decision_exclusion_name(DECISION_EXCLUDED_STATE), "state");
    cr_assert_str_eq(decision_exclusion_name(DECISION_EXCLUDED_LOADING), "loading");
    cr_assert_str_eq(decision_exclusion_name(DECISION_EXCLUDED_LOST), "lost");
    cr_assert_str_eq(decision_exclusion_name(DECISION_EXCLUDED_WAITED_FOR), "waited for");
    cr_assert_str_eq(decision_exclusion_name(DECISION_EXCLUDED_HOLD), "hold");
    cr_assert_str_eq(decision_exclusion_name((enum decision_exclusion)(1 << 20)), "unknown");
}
