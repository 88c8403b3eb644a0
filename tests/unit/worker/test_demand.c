/* test_demand.c - what waits for each node, over all models, with the numbers worked out. */
#include "worker/select/demand.h"

#include "base/clock.h"
#include "shm/facts/nodes.h"
#include "shm/facts/procs.h"
#include "shm/facts/stats.h"
#include "shm/queue/model_queues.h"
#include "shm/queue/queue_heads.h"
#include "tests/unit/shm/board.h"
#include "worker/upstreams/upstreams.h"

#define NODES   3u
#define MODELS  3u
#define WORKERS 2u
#define NOW     (100 * US_PER_S)

enum { LARGE, SMALL, MAIL };

/* "large" is on nodes 0, 1, 2; "small" on 1 and 2; "mail" on 2.  A node has 4 slots. */
struct scene {
    struct temporary t;
    struct scoreboard *board;
    struct upstream node[NODES];
    struct upstream_server server[MODELS][NODES];
    struct upstream_model model[MODELS];
    struct demand demand;
    uint64_t now;
};
static struct scene s;

static void set_up(void)
{
    memset(&s, 0, sizeof(s));
    s.board = board_make(&s.t, NODES, WORKERS, 1);
    s.now = NOW;
    for (unsigned n = 0; n < NODES; n++) {
        struct node_info info = {.slots = 4};

        cr_assert_eq(nodes_claim(s.board, NOW), (int)n);
        nodes_publish(s.board, n, &info);
        nodes_set_state(s.board, n, NODE_UP, NODE_REASON_PROBES_PASS, NOW);
        s.node[n].reachable = true;
    }
    for (unsigned m = 0; m < MODELS; m++) {
        s.model[m].servers = s.server[m];
        s.model[m].queue_row = model_queues_row(s.board, 10 + m);
        for (unsigned n = m; n < NODES; n++)
            s.server[m][s.model[m].servers_count++] =
                (struct upstream_server){.node = &s.node[n], .node_id = n, .generation = 1};
    }
}

static void enter(unsigned worker, unsigned model, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        model_queues_enter(s.board, worker, s.model[model].queue_row);
}

static void look(void)
{
    s.now += DEMAND_RENEW_US;
    demand_renew(&s.demand, s.board, 0, s.model, MODELS, s.now);
    for (unsigned m = 0; m < MODELS; m++)
        demand_measure(&s.model[m], s.board, s.now);
}

static void tear_down(void)
{
    board_drop(&s.t, s.board);
}

Test(demand, requests_for_all_models_on_its_nodes_are_before_a_newcomer_each_in_part)
{
    set_up();
    enter(0, LARGE, 2);
    enter(1, LARGE, 4);
    enter(1, SMALL, 4);
    enter(0, MAIL, 3);
    look();
    cr_expect_float_eq(demand_on(&s.demand, &s.model[LARGE].serving), 13, 1e-9);
    cr_expect_float_eq(demand_on(&s.demand, &s.model[SMALL].serving), 11, 1e-9,
                       "4 of large's 6");
    cr_expect_float_eq(demand_on(&s.demand, &s.model[MAIL].serving), 7, 1e-9,
                       "2 of 6, 2 of 4, and 3");
    cr_expect_float_eq(demand_own(&s.demand, &s.model[MAIL].serving), 2.0 / 3 + 3, 1e-9);
    cr_expect_float_eq(demand_part(&s.model[LARGE], &s.model[MAIL]), 1.0 / 3, 1e-9);
    cr_expect_float_eq(demand_part(&s.model[MAIL], &s.model[LARGE]), 1, 1e-9);
    tear_down();
}

Test(demand, a_node_that_is_down_serves_no_request_and_its_requests_count_elsewhere)
{
    set_up();
    enter(1, LARGE, 6);
    enter(1, MAIL, 3);
    nodes_set_state(s.board, 2, NODE_DOWN, NODE_REASON_PROBE_TIMEOUT, NOW);
    look();
    cr_expect_float_eq(demand_on(&s.demand, &s.model[LARGE].serving), 6, 1e-9);
    cr_expect_float_eq(demand_on(&s.demand, &s.model[SMALL].serving), 3, 1e-9,
                       "6 over 2 nodes");
    cr_expect_float_eq(demand_on(&s.demand, &s.model[MAIL].serving), 0, 1e-9, "none serves it");
    cr_expect_float_eq(demand_part(&s.model[MAIL], &s.model[LARGE]), 0, 1e-9);
    s.node[1].reachable = false;
    look();
    cr_expect_float_eq(demand_on(&s.demand, &s.model[SMALL].serving), 0, 1e-9);
    tear_down();
}

Test(demand, places_come_free_at_the_rate_of_slots_by_holding_time)
{
    set_up();
    stats_average(s.board, 1, 1, STATS_AVG_HOLD_S, 2, 0.1);
    stats_average(s.board, 2, 1, STATS_AVG_HOLD_S, 0.5, 0.1);
    look();
    cr_expect_eq(s.model[LARGE].slots, 12);
    cr_expect_float_eq(s.model[LARGE].places_per_s[OP_CLASS_GENERATION],
                       (4 / 2.0 + 4 / 0.5) * 12 / 8, 1e-3,
                       "node 0 is not known: it counts as the others do");
    cr_expect_float_eq(s.model[MAIL].places_per_s[OP_CLASS_GENERATION], 8, 1e-3);
    tear_down();
}

Test(demand, a_request_waits_by_the_holding_times_of_its_own_class)
{
    set_up();
    /* 4 slots each: chats hold one for 10 s, embeddings for 50 ms. */
    stats_average(s.board, 1, 1, stats_hold_of(OP_CLASS_GENERATION), 10, 0.1);
    for (unsigned i = 0; i < 100; i++)
        stats_average(s.board, 1, 1, stats_hold_of(OP_CLASS_EMBEDDING), 0.05, 0.1);
    stats_average(s.board, 2, 1, stats_hold_of(OP_CLASS_GENERATION), 5, 0.1);
    look();
    cr_expect_float_eq(s.model[SMALL].places_per_s[OP_CLASS_GENERATION], 4 / 10.0 + 4 / 5.0,
                       1e-3);
    cr_expect_float_eq(s.model[SMALL].places_per_s[OP_CLASS_EMBEDDING], 8 / 0.05, 1e-3);
    cr_expect_float_eq(s.model[MAIL].places_per_s[OP_CLASS_EMBEDDING], 0, 1e-9,
                       "of its node nothing is known");
    tear_down();
}

Test(demand, sums_are_made_anew_after_a_while_and_not_for_every_request)
{
    set_up();
    enter(1, MAIL, 3);
    look();
    enter(1, MAIL, 1);
    demand_renew(&s.demand, s.board, 0, s.model, MODELS, s.now + DEMAND_RENEW_US - 1);
    cr_expect_float_eq(demand_on(&s.demand, &s.model[MAIL].serving), 3, 1e-9);
    look();
    cr_expect_float_eq(demand_on(&s.demand, &s.model[MAIL].serving), 4, 1e-9);
    tear_down();
}

Test(demand, models_that_share_the_last_row_share_what_waits_there)
{
    set_up();
    s.model[SMALL].queue_row = MODEL_QUEUES_OTHERS;
    s.model[MAIL].queue_row = MODEL_QUEUES_OTHERS;
    enter(1, SMALL, 8);
    look();
    /* 4 for each of the two: 2 on node 1, and 2 + 4 on node 2. */
    cr_expect_float_eq(demand_on(&s.demand, &s.model[LARGE].serving), 8, 1e-9);
    cr_expect_float_eq(demand_on(&s.demand, &s.model[MAIL].serving), 6, 1e-9);
    tear_down();
}

/* Requests of worker 1 for "mail" that wait on node 2, in front of a newcomer in worker 0. */
static double others_before(uint64_t key)
{
    struct node_set outranked;

    demand_outranked(&s.model[MAIL], s.board, 0, key, s.now, &outranked);
    return demand_on(&s.demand, &outranked) - demand_own(&s.demand, &outranked);
}

Test(demand, requests_of_other_workers_are_before_a_newcomer_only_if_one_has_a_lower_key)
{
    struct node_set outranked;

    set_up();
    procs_assign(s.board, 1, 1, false);
    procs_set_state(s.board, 1, PROC_RUNNING);
    procs_heartbeat(s.board, 1, NOW + DEMAND_RENEW_US);
    enter(1, MAIL, 40);
    enter(0, MAIL, 2);
    queue_heads_set(s.board, 1, 2, 1, 5000);
    look();
    cr_expect_float_eq(others_before(5001), 40, 1e-9);
    cr_expect_float_eq(others_before(5000), 0, 1e-9, "of equals the newcomer is not behind");
    cr_expect_float_eq(others_before(4000), 0, 1e-9, "it is more urgent than all of them");
    demand_outranked(&s.model[LARGE], s.board, 0, 5001, s.now, &outranked);
    cr_expect(node_set_has(&outranked, 2));
    cr_expect_not(node_set_has(&outranked, 0) || node_set_has(&outranked, 1));
    demand_outranked(&s.model[MAIL], s.board, 1, 5001, s.now, &outranked);
    cr_expect_not(node_set_has(&outranked, 2), "a worker's own requests are no others");
    queue_heads_set(s.board, 1, 2, 2, 5000);
    cr_expect_float_eq(others_before(5001), 0, 1e-9, "the word is of another generation");
    tear_down();
}
