/* gather_rig.h - nodes in a scoreboard, and a request that looks for a place on one. */
#ifndef DROVER_TESTS_UNIT_WORKER_GATHER_RIG_H
#define DROVER_TESTS_UNIT_WORKER_GATHER_RIG_H

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "policy/route/times.h"
#include "proto/drover_common.pb-c.h"
#include "shm/facts/nodes.h"
#include "shm/facts/speeds.h"
#include "shm/facts/stats.h"
#include "shm/share/gauges.h"
#include "tests/unit/shm/board.h"
#include "worker/select/gather.h"
#include "worker/upstreams/upstreams.h"

#define NODES 20
#define NOW   (100 * US_PER_S)
#define CHAT  DROVER__V1__OPERATION__OPERATION_CHAT_COMPLETIONS
#define MODEL 77 /* its hash */

/* Idle nodes n0, n1, ...: 4 slots and 2 places beyond, 1000 tokens/s by their own
 * word, and nothing learned. */
struct scene {
    struct temporary t;
    struct scoreboard *board;
    struct upstream node[NODES];
    struct upstream_server server[NODES];
    struct upstream_model model;
    struct select_request request; /* 1000 tokens */
    struct route_times times;
    uint64_t random;
};
static struct scene s;
static struct eligible all;

static inline void set_up(unsigned nodes)
{
    memset(&s, 0, sizeof(s));
    s.board = board_make(&s.t, NODES, 3, 1);
    for (unsigned n = 0; n < nodes; n++) {
        struct node_info info = {.slots = 4, .queue = 2, .weight = 100};

        cr_assert_eq(nodes_claim(s.board, NOW), (int)n);
        (void)snprintf(info.name, sizeof(info.name), "n%u", n);
        nodes_publish(s.board, n, &info);
        nodes_set_state(s.board, n, NODE_UP, NODE_REASON_PROBES_PASS, NOW);
        cr_assert(nodes_read(s.board, n, &s.node[n].info));
        s.node[n].node_id = n;
        s.node[n].reachable = true;
        speeds_note_sent(s.board, speeds_take(s.board, MODEL, OP_CLASS_GENERATION), n, 1, NOW,
                         10 * US_PER_S);
        s.server[n] =
            (struct upstream_server){.node = &s.node[n],
                                     .model_hash = MODEL,
                                     .state = DROVER__V1__MODEL_STATE__MODEL_STATE_READY,
                                     .operations = UINT32_C(1) << CHAT,
                                     .node_id = n,
                                     .generation = 1,
                                     .slots = 4,
                                     .queue = 2,
                                     .weight = 100,
                                     .prefill_tokens_per_s = 1000};
    }
    s.model.servers = s.server;
    s.model.servers_count = nodes;
    s.times = route_times(1);
    s.request = (struct select_request){.policy = {.tokens = 1000},
                                        .operation = CHAT,
                                        .model_hash = MODEL,
                                        .now_mono_us = NOW,
                                        .times = &s.times};
}

static inline void tear_down(void)
{
    board_drop(&s.t, s.board);
}

static inline void gather(void)
{
    select_gather(&all, s.board, &s.model, &s.request);
}

/* The node that worker 0 gets a place on, or -1. */
static inline int claim(struct eligible_place *place)
{
    uint32_t cursor = 0;

    if (!select_claim(&all, s.board, 0, POLICY_FASTEST, &s.request, &cursor, &s.random, place))
        return -1;
    return (int)all.of[place->at].id;
}

/* Notes a learned speed, in tokens per second. */
static inline void learn(unsigned node, double speed)
{
    uint32_t row = speeds_take(s.board, MODEL, OP_CLASS_GENERATION);
    struct speed seen = speeds_read(s.board, row, node);

    cr_assert(speeds_swap(s.board, row, node, 1, &seen,
                          (struct speed){.tokens = (float)speed * 2, .seconds = 2}));
    stats_average(s.board, node, 1, STATS_AVG_HOLD_S, 8, 0.1);
}

static inline void hold_places(unsigned worker, unsigned node, unsigned n)
{
    while (n-- != 0)
        cr_assert(gauges_claim(s.board, worker, node, 1, 100 * US_PER_MS, 99));
}

#endif
