/* test_nodes.c - the node table. */
#include "shm/facts/nodes.h"

#include "board.h"
#include "shm/facts/stats.h"
#include "shm/segment.h"

static int add_node(struct scoreboard *board, const char *name, uint64_t now_mono_us)
{
    struct node_info info = {.slots = 4, .models_count = 1};
    int node = nodes_claim(board, now_mono_us);

    cr_assert_geq(node, 0);
    (void)strlcpy(info.name, name, sizeof(info.name));
    (void)strlcpy(info.models[0].id, "llama", sizeof(info.models[0].id));
    nodes_publish(board, (unsigned)node, &info);
    return node;
}

Test(nodes, a_claimed_node_is_joining_and_shows_what_was_published)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 4, 1, 1);
    struct node_info info;
    struct node_status status;

    cr_assert_not(nodes_read(board, 0, &info));
    cr_assert_not(nodes_status(board, 0, &status));
    cr_assert_eq(add_node(board, "box1", 1000), 0);
    cr_assert(nodes_read(board, 0, &info));
    cr_assert_str_eq(info.name, "box1");
    cr_assert_eq(info.generation, 1);
    cr_assert_eq(info.slots, 4);
    cr_assert_str_eq(info.models[0].id, "llama");
    cr_assert(nodes_status(board, 0, &status));
    cr_assert_eq(status.state, NODE_JOINING);
    cr_assert_eq(status.reason, NODE_REASON_NEW);
    cr_assert_eq(status.since_mono_us, 1000);
    cr_assert_eq(status.slots_now, 4);
    cr_assert_eq(status.success_fraction, 1);
    board_drop(&t, board);
}

Test(nodes, slots_now_never_exceeds_the_slots)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);
    struct node_info info = {.name = "a", .slots = 8};
    struct node_status status;

    cr_assert_eq(nodes_claim(board, 1), 0);
    nodes_publish(board, 0, &info);
    nodes_set_slots_now(board, 0, 2);
    nodes_publish(board, 0, &info);
    cr_assert(nodes_status(board, 0, &status));
    cr_assert_eq(status.slots_now, 2);
    info.slots = 1;
    nodes_publish(board, 0, &info);
    cr_assert(nodes_status(board, 0, &status));
    cr_assert_eq(status.slots_now, 1);
    board_drop(&t, board);
}

Test(nodes, a_reason_has_an_age_of_its_own)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);
    struct node_status status;

    cr_assert_eq(add_node(board, "a", 1000), 0);
    cr_assert(nodes_status(board, 0, &status));
    cr_assert_eq(status.reason_mono_us, 1000);
    nodes_set_state(board, 0, NODE_JOINING, NODE_REASON_ENGINE_LOADING, 2000);
    cr_assert(nodes_status(board, 0, &status));
    cr_assert_eq(status.since_mono_us, 1000);
    cr_assert_eq(status.reason_mono_us, 2000);
    nodes_set_state(board, 0, NODE_JOINING, NODE_REASON_ENGINE_LOADING, 3000);
    cr_assert(nodes_status(board, 0, &status));
    cr_assert_eq(status.reason_mono_us, 2000);
    board_drop(&t, board);
}

Test(nodes, the_epoch_moves_with_states_and_names_and_not_with_load)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 2, 1, 1);
    unsigned node = (unsigned)add_node(board, "a", 1);
    uint64_t epoch = nodes_epoch(board);
    struct node_status status;

    nodes_set_load(board, node, 3, 2, 0.5f, 77);
    nodes_set_checked(board, node, 88, 250);
    cr_assert_eq(nodes_epoch(board), epoch);
    nodes_set_state(board, node, NODE_UP, NODE_REASON_PROBES_PASS, 99);
    cr_assert_eq(nodes_epoch(board), ++epoch);
    nodes_set_state(board, node, NODE_UP, NODE_REASON_PROBES_PASS, 100);
    cr_assert_eq(nodes_epoch(board), epoch, "nothing changed");
    cr_assert(nodes_status(board, node, &status));
    cr_assert_eq(status.since_mono_us, 99);
    cr_assert_eq(status.reason_mono_us, 99);
    cr_assert_eq(status.reported_running, 3);
    cr_assert_eq(status.reported_queued, 2);
    cr_assert_eq(status.kv_used_fraction, 0.5f);
    cr_assert_eq(status.report_mono_us, 77);
    cr_assert_eq(status.checked_mono_us, 88);
    cr_assert_eq(status.rtt_us, 250);
    nodes_set_drain_wanted(board, node, true);
    cr_assert_gt(nodes_epoch(board), epoch);
    board_drop(&t, board);
}

Test(nodes, a_new_node_in_a_row_has_a_new_generation_and_empty_statistics)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 2, 1, 1);

    cr_assert_eq(add_node(board, "a", 1), 0);
    cr_assert_eq(add_node(board, "b", 2), 1);
    cr_assert_eq(nodes_claim(board, 3), -1, "the table is full");
    stats_count(board, 0, 1, STATS_OK, 5);
    stats_note(board, 0, 1, STATS_E2E, 12345);
    nodes_set_state(board, 1, NODE_GONE, NODE_REASON_LEAVING, 10);
    nodes_set_state(board, 0, NODE_GONE, NODE_REASON_LEAVING, 20);
    cr_assert_eq(add_node(board, "c", 30), 1, "the one that left first makes room");
    cr_assert_eq(add_node(board, "d", 31), 0);
    cr_assert_eq(stats_read_counter(board, 0, STATS_OK), 0);
    stats_count(board, 0, 1, STATS_OK, 5);
    cr_assert_eq(stats_read_counter(board, 0, STATS_OK), 0, "of the old tenant");
    stats_count(board, 0, 2, STATS_OK, 5);
    cr_assert_eq(stats_read_counter(board, 0, STATS_OK), 5);
    board_drop(&t, board);
}

Test(nodes, a_search_prefers_the_living_to_the_gone)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 3, 1, 1);

    cr_assert_eq(add_node(board, "a", 1), 0);
    cr_assert_eq(nodes_find(board, "a"), 0);
    cr_assert_eq(nodes_find(board, "b"), -1);
    cr_assert_eq(nodes_find(board, ""), -1);
    nodes_set_state(board, 0, NODE_GONE, NODE_REASON_LEAVING, 2);
    cr_assert_eq(nodes_find(board, "a"), 0);
    cr_assert_eq(add_node(board, "a", 3), 1);
    cr_assert_eq(nodes_find(board, "a"), 1);
    nodes_release(board, 1);
    cr_assert_eq(nodes_find(board, "a"), 0);
    board_drop(&t, board);
}

Test(nodes, a_row_torn_by_a_dead_writer_is_unreadable_until_it_is_repaired)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 4, 1, 1);
    struct node_info info;

    cr_assert_eq(add_node(board, "whole", 1), 0);
    cr_assert_eq(add_node(board, "torn", 1), 1);
    cr_assert_eq(nodes_claim(board, 1), 2); /* and dies before it publishes */
    segment_node(board, 1)->seq |= 1u;
    cr_assert_not(nodes_read(board, 1, &info));
    cr_assert_eq(nodes_find(board, "torn"), -1);

    nodes_repair(board);
    cr_assert(nodes_read(board, 0, &info));
    cr_assert_str_eq(info.name, "whole");
    for (unsigned node = 0; node < 4; node++)
        cr_assert_eq(segment_node(board, node)->seq % 2, 0);
    cr_assert_eq(nodes_state(board, 1), NODE_NONE);
    cr_assert_eq(nodes_state(board, 2), NODE_NONE);
    cr_assert_eq(add_node(board, "torn", 2), 1);
    cr_assert(nodes_read(board, 1, &info));
    cr_assert_eq(info.generation, 2);
    board_drop(&t, board);
}
