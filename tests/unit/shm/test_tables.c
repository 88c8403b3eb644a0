/* test_tables.c - the process table, the request tables and the statistics. */
#include "board.h"
#include "shm/facts/nodes.h"
#include "shm/facts/procs.h"
#include "shm/facts/requests.h"
#include "shm/facts/stats.h"
#include "shm/reap.h"
#include "shm/share/gauges.h"

Test(procs, a_slot_goes_from_free_to_running_and_back)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 2, 4);
    struct proc_view view;

    cr_assert_eq(procs_rows(board), 4);
    cr_assert_eq(procs_health_index(board), 2);
    cr_assert_eq(procs_master_index(board), 3);
    cr_assert_eq(procs_find_free(board), 0);
    procs_assign(board, 0, 5, false);
    cr_assert_eq(procs_find_free(board), 1);
    procs_assign(board, 1, 5, false);
    cr_assert_eq(procs_find_free(board), -1, "health and master are no workers");
    procs_set_pid(board, 0, 4711);
    procs_set_state(board, 0, PROC_RUNNING);
    procs_heartbeat(board, 0, 123);
    procs_count(board, 0, PROC_CONNECTIONS_OPEN, 3);
    procs_count(board, 0, PROC_CONNECTIONS_OPEN, -1);
    procs_count(board, 0, PROC_REQUESTS_TOTAL, 10);
    cr_assert(procs_read(board, 0, &view));
    cr_assert_eq(view.state, PROC_RUNNING);
    cr_assert_eq(view.pid, 4711);
    cr_assert_eq(view.generation, 5);
    cr_assert_eq(view.heartbeat_mono_us, 123);
    cr_assert_eq(view.counter[PROC_CONNECTIONS_OPEN], 2);
    cr_assert_eq(view.restarts, 0);
    reap_process(board, 0);
    cr_assert(procs_read(board, 0, &view));
    cr_assert_eq(view.state, PROC_FREE);
    cr_assert_eq(view.counter[PROC_CONNECTIONS_OPEN], 0);
    cr_assert_eq(view.counter[PROC_REQUESTS_TOTAL], 10, "a total survives");
    procs_assign(board, 0, 5, true);
    cr_assert(procs_read(board, 0, &view));
    cr_assert_eq(view.restarts, 1);
    cr_assert_eq(view.counter[PROC_REQUESTS_TOTAL], 0);
    board_drop(&t, board);
}

Test(requests, a_row_shows_its_request_until_it_is_closed)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 4, 2, 3);
    struct request_view view;
    uint32_t high;
    int row = requests_open(board, 1, "req-1", "llama", 77, 1000);

    cr_assert_eq(row, 0);
    requests_node(board, 1, row, 3, 2);
    requests_phase(board, 1, row, REQUEST_DECODE, 2000);
    requests_tokens(board, 1, row, 42);
    cr_assert(requests_read(board, 1, 0, &view));
    cr_assert_str_eq(view.id, "req-1");
    cr_assert_str_eq(view.model, "llama");
    cr_assert_eq(view.phase, REQUEST_DECODE);
    cr_assert_eq(view.node, 3);
    cr_assert_eq(view.attempt, 2);
    cr_assert_eq(view.tokens_out, 42);
    cr_assert_eq(view.prompt_tokens, 77);
    cr_assert_eq(view.opened_mono_us, 1000);
    cr_assert_eq(view.phase_mono_us, 2000);
    cr_assert_eq(requests_count(board, 1, &high), 1);
    cr_assert_eq(high, 1);
    cr_assert_eq(requests_count(board, 0, NULL), 0);
    requests_close(board, 1, row);
    requests_close(board, 1, row); /* twice is once */
    cr_assert_not(requests_read(board, 1, 0, &view));
    cr_assert_eq(requests_count(board, 1, &high), 0);
    cr_assert_eq(high, 1);
    board_drop(&t, board);
}

Test(requests, a_full_table_says_so_and_rows_are_used_again)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 3);
    uint32_t high;

    for (int i = 0; i < 3; i++)
        cr_assert_eq(requests_open(board, 0, "a", "b", 1, 1), i);
    cr_assert_eq(requests_open(board, 0, "a", "b", 1, 1), -1);
    requests_phase(board, 0, -1, REQUEST_SENT, 1);
    requests_node(board, 0, -1, 0, 0);
    requests_tokens(board, 0, -1, 1);
    requests_close(board, 0, -1);
    cr_assert_eq(requests_count(board, 0, NULL), 3);
    requests_close(board, 0, 1);
    cr_assert_eq(requests_open(board, 0, "c", "d", 1, 1), 1);
    cr_assert_eq(requests_count(board, 0, &high), 3);
    cr_assert_eq(high, 3);
    board_drop(&t, board);
}

Test(requests, long_names_are_cut_and_end)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);
    struct request_view view;
    char text[300];

    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    cr_assert_eq(requests_open(board, 0, text, text, 1, 1), 0);
    cr_assert(requests_read(board, 0, 0, &view));
    cr_assert_eq(strlen(view.id), REQUEST_ID_BYTES - 1);
    cr_assert_eq(strlen(view.model), REQUEST_MODEL_BYTES - 1);
    board_drop(&t, board);
}

Test(requests, clearing_a_dead_worker_leaves_the_others)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 2, 4);
    struct request_view view;

    cr_assert_eq(requests_open(board, 0, "a", "m", 1, 1), 0);
    cr_assert_eq(requests_open(board, 0, "b", "m", 1, 1), 1);
    cr_assert_eq(requests_open(board, 1, "c", "m", 1, 1), 0);
    requests_clear_worker(board, 0);
    cr_assert_eq(requests_count(board, 0, NULL), 0);
    cr_assert_not(requests_read(board, 0, 0, &view));
    cr_assert_not(requests_read(board, 0, 1, &view));
    cr_assert(requests_read(board, 1, 0, &view));
    cr_assert_str_eq(view.id, "c");
    board_drop(&t, board);
}

Test(stats, samples_and_counters_add_up)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 2, 1, 1);
    struct histogram h;

    cr_assert_eq(nodes_claim(board, 1), 0);
    for (uint64_t i = 0; i < 10; i++)
        stats_note(board, 0, 1, STATS_TTFT, 1000 + i);
    stats_note(board, 0, 1, STATS_CONNECT, 50);
    stats_read_histogram(board, 0, STATS_TTFT, &h);
    cr_assert_eq(h.count, 10);
    cr_assert_eq(h.sum_us, 10 * 1000 + 45);
    stats_read_histogram(board, 0, STATS_TPOT, &h);
    cr_assert_eq(h.count, 0);
    stats_count(board, 0, 1, STATS_OUTPUT_TOKENS, 700);
    stats_count(board, 0, 1, STATS_OUTPUT_TOKENS, 77);
    cr_assert_eq(stats_read_counter(board, 0, STATS_OUTPUT_TOKENS), 777);
    cr_assert_eq(stats_read_counter(board, 1, STATS_OUTPUT_TOKENS), 0);
    board_drop(&t, board);
}

Test(stats, an_average_takes_its_first_sample_whole_and_then_a_share)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);

    cr_assert_eq(nodes_claim(board, 1), 0);
    cr_assert_eq(stats_read_average(board, 0, STATS_AVG_HOLD_S), 0);
    stats_average(board, 0, 1, STATS_AVG_HOLD_S, 10, 0.1);
    cr_assert_float_eq(stats_read_average(board, 0, STATS_AVG_HOLD_S), 10, 1e-9);
    stats_average(board, 0, 1, STATS_AVG_HOLD_S, 20, 0.1);
    cr_assert_float_eq(stats_read_average(board, 0, STATS_AVG_HOLD_S), 11, 1e-9);
    stats_average(board, 0, 1, STATS_AVG_HOLD_S, 1.0 / 0.0, 0.1);
    cr_assert_float_eq(stats_read_average(board, 0, STATS_AVG_HOLD_S), 11, 1e-9);
    stats_average(board, 0, 2, STATS_AVG_HOLD_S, 99, 1);
    cr_assert_float_eq(stats_read_average(board, 0, STATS_AVG_HOLD_S), 11, 1e-9);
    board_drop(&t, board);
}
