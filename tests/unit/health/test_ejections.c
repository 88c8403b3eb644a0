/* test_ejections.c - what requests do at a node gives events, and nothing else happens. */
#include "health/passive/passive.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "shm/nodes.h"
#include "shm/outcomes.h"
#include "shm/scoreboard.h"

#define FAILURES 3

static struct scoreboard *board;
static unsigned node_row;
static struct passive passive;
static struct verdict verdict;
static bool allowed = true;
static uint64_t now_us = 1000 * US_PER_S;

static const struct passive_rules rules = {
    .limits = {.failures = FAILURES,
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

static enum verdict_event look(void)
{
    struct passive_node node = {
        .name = "n", .slot = node_row, .verdict = &verdict, .may_be_out = may_be_out};
    struct passive_event found = passive_look(&passive, board, &rules, &node, now_us);
    enum node_state before = verdict.state;

    (void)verdict_step(&verdict, found.event, found.why);
    if (verdict.state != before)
        passive_turned(&passive, board, node_row, before, verdict.state, now_us);
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
    verdict_init(&verdict, 1, 1);
    (void)verdict_step(&verdict, VERDICT_PASS, NODE_REASON_NONE);
    cr_assert_eq(verdict.state, NODE_UP);
    passive_init(&passive, board, node_row, &rules, false, now_us);
}

static void tear_down(void)
{
    scoreboard_detach(board);
}

TestSuite(ejections, .init = set_up, .fini = tear_down);

Test(ejections, failures_in_a_row_eject_and_the_back_off_ends_in_a_trial)
{
    fail(FAILURES - 1);
    cr_assert_eq(look(), VERDICT_NONE);
    fail(1);
    cr_assert_eq(look(), VERDICT_EJECT);
    cr_assert_eq(verdict.reason, NODE_REASON_FAILURES);
    cr_assert_eq(look(), VERDICT_NONE, "it is out");
    now_us += 4 * US_PER_S + 1; /* the longest that the first back-off can be */
    cr_assert_eq(look(), VERDICT_TRY);
    cr_assert_eq(passive_slots(&passive, &rules, verdict.state, 8, now_us), 1);
}

Test(ejections, a_node_that_is_needed_is_spared_once_and_looked_at_again)
{
    allowed = false;
    fail(FAILURES);
    cr_assert_eq(look(), VERDICT_SPARE);
    cr_assert_eq(verdict.state, NODE_UP);
    cr_assert_eq(look(), VERDICT_NONE, "nothing is new");
    allowed = true;
    cr_assert_eq(look(), VERDICT_NONE, "the share is looked at once a second");
    now_us += US_PER_S + 1;
    cr_assert_eq(look(), VERDICT_EJECT);
}

Test(ejections, a_node_that_is_out_is_tried_early_when_it_is_needed)
{
    fail(FAILURES);
    cr_assert_eq(look(), VERDICT_EJECT);
    allowed = false;
    cr_assert_eq(look(), VERDICT_TRY);
}

Test(ejections, a_node_that_comes_back_opens_its_slots_one_by_one)
{
    passive_turned(&passive, board, node_row, NODE_DOWN, NODE_UP, now_us);
    cr_assert_eq(passive_slots(&passive, &rules, NODE_UP, 11, now_us), 1);
    cr_assert_eq(passive_slots(&passive, &rules, NODE_UP, 11, now_us + 5 * US_PER_S), 6);
    cr_assert_eq(passive_slots(&passive, &rules, NODE_UP, 11, now_us + 10 * US_PER_S), 11);
    passive_turned(&passive, board, node_row, NODE_JOINING, NODE_UP, now_us);
    cr_assert_eq(passive_slots(&passive, &rules, NODE_UP, 11, now_us), 11,
                 "a new one has no ramp");
}
