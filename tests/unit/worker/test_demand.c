/* test_demand.c - what waits for each node, over all models, with the numbers worked out. */
#include "worker/select/demand.h"

#include "base/clock.h"
#include "shm/facts/nodes.h"
#include "shm/facts/stats.h"
#include "shm/share/model_queues.h"
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
    cr_expect_float_eq(demand_on(&s.demand, &s.model[LARGE]), 13, 1e-9);
    cr_expect_float_eq(demand_on(&s.demand, &s.model[SMALL]), 11, 1e-9, "4 of large's 6");
    cr_expect_float_eq(demand_on(&s.demand, &s.model[MAIL]), 7, 1e-9, "2 of 6, 2 of 4, and 3");
    cr_expect_float_eq(demand_own(&s.demand, &s.model[MAIL]), 2.0 / 3 + 3, 1e-9);
    cr_expect_float_eq(demand_part(&s.model[LARGE], &s.model[MAIL]), 1.0 / 3, 1e-9);
    cr_expect_float_eq(demand_part(&s.model[MAIL], &s.model[LARGE]), 1, 1e-9);
    tear_down();
}

Test(demand, a_node_that_is_down_serves_nobody_and_its_requests_count_elsewhere)
{
    set_up();
    enter(1, LARGE, 6);
    enter(1, MAIL, 3);
    nodes_set_state(s.board, 2, NODE_DOWN, NODE_REASON_PROBE_TIMEOUT, NOW);
    look();
    cr_expect_float_eq(demand_on(&s.demand, &s.model[LARGE]), 6, 1e-9);
    cr_expect_float_eq(demand_on(&s.demand, &s.model[SMALL]), 3, 1e-9, "6 over 2 nodes");
    cr_expect_float_eq(demand_on(&s.demand, &s.model[MAIL]), 0, 1e-9, "none serves it");
    cr_expect_float_eq(demand_part(&s.model[MAIL], &s.model[LARGE]), 0, 1e-9);
    s.node[1].reachable = false;
    look();
    cr_expect_float_eq(demand_on(&s.demand, &s.model[SMALL]), 0, 1e-9);
    tear_down();
}

Test(demand, places_come_free_at_the_rate_of_slots_by_holding_time)
{
    set_up();
    stats_average(s.board, 1, 1, STATS_AVG_HOLD_S, 2, 0.1);
    stats_average(s.board, 2, 1, STATS_AVG_HOLD_S, 0.5, 0.1);
    look();
    cr_expect_eq(s.model[LARGE].slots, 12);
    cr_expect_float_eq(s.model[LARGE].places_per_s, 4 / 2.0 + 4 / 0.5, 1e-3, "node 0: unknown");
    cr_expect_float_eq(s.model[MAIL].places_per_s, 8, 1e-3);
    tear_down();
}

Test(demand, sums_are_made_anew_after_a_while_and_not_for_every_request)
{
    set_up();
    enter(1, MAIL, 3);
    look();
    enter(1, MAIL, 1);
    demand_renew(&s.demand, s.board, 0, s.model, MODELS, s.now + DEMAND_RENEW_US - 1);
    cr_expect_float_eq(demand_on(&s.demand, &s.model[MAIL]), 3, 1e-9);
    look();
    cr_expect_float_eq(demand_on(&s.demand, &s.model[MAIL]), 4, 1e-9);
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
    cr_expect_float_eq(demand_on(&s.demand, &s.model[LARGE]), 8, 1e-9);
    cr_expect_float_eq(demand_on(&s.demand, &s.model[MAIL]), 6, 1e-9);
    tear_down();
}
