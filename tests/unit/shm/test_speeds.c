/* test_speeds.c - speeds by model and class, and the instants that workers share. */
#include "shm/facts/speeds.h"

#include <math.h>

#include "base/clock.h"
#include "board.h"
#include "shm/facts/nodes.h"
#include "shm/segment.h"

#define GAP   (10 * US_PER_S)
#define MODEL UINT64_C(0xfedcba9876543210)

static struct speed read_speed(const struct scoreboard *board, uint64_t model,
                               enum op_class op_class, unsigned node)
{
    return speeds_read(board, speeds_find(board, model, op_class), node);
}

static bool write_speed(struct scoreboard *board, uint64_t model, unsigned node, float tokens)
{
    struct speed seen = read_speed(board, model, OP_CLASS_GENERATION, node);

    return speeds_swap(board, speeds_take(board, model, OP_CLASS_GENERATION), node, 1, &seen,
                       (struct speed){.tokens = tokens, .seconds = 1});
}

Test(speeds, each_model_and_class_of_a_node_has_its_own)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 2, 1, 1), *reader;

    cr_assert_eq(nodes_claim(board, 1), 0);
    cr_assert_eq(speeds_find(board, MODEL, OP_CLASS_GENERATION), SPEEDS_NO_ROW);
    cr_assert(write_speed(board, MODEL, 0, 100));
    cr_assert(write_speed(board, MODEL + 1, 0, 200));
    cr_assert_eq(scoreboard_attach(&reader, t.path, NULL), 0);
    cr_assert_float_eq(read_speed(reader, MODEL, OP_CLASS_GENERATION, 0).tokens, 100, 1e-6);
    cr_assert_float_eq(read_speed(reader, MODEL + 1, OP_CLASS_GENERATION, 0).tokens, 200, 1e-6);
    cr_assert_eq(speeds_find(reader, MODEL, OP_CLASS_EMBEDDING), SPEEDS_NO_ROW);
    cr_assert_float_eq(read_speed(reader, MODEL, OP_CLASS_GENERATION, 1).seconds, 0, 1e-6);
    cr_assert_float_eq(read_speed(reader, MODEL, OP_CLASS_GENERATION, 99).seconds, 0, 1e-6);
    scoreboard_detach(reader);
    board_drop(&t, board);
}

Test(speeds, more_models_than_rows_share_the_last_one)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);
    unsigned shared = 0;

    cr_assert_eq(nodes_claim(board, 1), 0);
    for (uint64_t model = 1; model <= 4 * SPEEDS_ROWS; model++) {
        uint64_t hash = model * UINT64_C(0x9e3779b97f4a7c15);
        uint32_t row = speeds_take(board, hash, OP_CLASS_GENERATION);

        cr_assert_leq(row, SPEEDS_ROWS);
        cr_assert_eq(speeds_find(board, hash, OP_CLASS_GENERATION), row);
        shared += row == SPEEDS_ROWS;
    }
    cr_assert_geq(shared, 3 * SPEEDS_ROWS);
    board_drop(&t, board);
}

Test(speeds, a_writer_that_was_overtaken_hears_what_is_there_now)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);
    struct speed seen = {0};
    uint32_t row;

    cr_assert_eq(nodes_claim(board, 1), 0);
    cr_assert(write_speed(board, MODEL, 0, 100));
    row = speeds_find(board, MODEL, OP_CLASS_GENERATION);
    cr_assert_not(speeds_swap(board, row, 0, 1, &seen, (struct speed){1, 1}));
    cr_assert_float_eq(seen.tokens, 100, 1e-6);
    cr_assert(speeds_swap(board, row, 0, 1, &seen, (struct speed){150, 1}));
    seen = (struct speed){150, 1};
    cr_assert_not(speeds_swap(board, row, 0, 2, &seen, (struct speed){1, 1}), "generation");
    cr_assert_not(speeds_swap(board, SPEEDS_NO_ROW, 0, 1, &seen, (struct speed){1, 1}));
    board_drop(&t, board);
}

Test(speeds, damaged_words_read_as_none)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY, -1, -0.0f};
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);
    uint32_t row = speeds_take(board, MODEL, OP_CLASS_GENERATION);

    cr_assert_eq(nodes_claim(board, 1), 0);
    for (size_t i = 0; i < 2 * sizeof(bad) / sizeof(bad[0]); i++) {
        float value = bad[i / 2];
        struct speed damaged = {.tokens = i % 2 == 0 ? value : 5,
                                .seconds = i % 2 == 0 ? 5 : value};
        struct speed read;
        uint64_t bits;

        memcpy(&bits, &damaged, sizeof(bits));
        segment_speeds(board, row)[0] = bits;
        read = speeds_read(board, row, 0);
        cr_assert(read.tokens == 0 && read.seconds == 0, "%zu", i);
    }
    board_drop(&t, board);
}

Test(speeds, the_clock_of_a_row_stands_while_no_request_comes)
{
    const uint64_t night = 8 * 3600 * US_PER_S;
    struct temporary t;
    struct scoreboard *board = board_make(&t, 2, 1, 1);
    uint32_t row = speeds_take(board, MODEL, OP_CLASS_GENERATION);
    struct speeds_view view = speeds_view(board, row);

    cr_assert_eq(nodes_claim(board, 1), 0);
    cr_assert_eq(nodes_claim(board, 1), 1);
    cr_assert_eq(speeds_now_us(view, 99 * US_PER_S, GAP), 10 * US_PER_S, "never sent");
    speeds_note_sent(board, row, 0, 1, 100 * US_PER_S, GAP);
    cr_assert_eq(speeds_tried_us(view, 0), 10 * US_PER_S);
    cr_assert_eq(speeds_now_us(view, 103 * US_PER_S, GAP), 13 * US_PER_S);
    speeds_note_sent(board, row, 1, 1, 104 * US_PER_S, GAP);
    speeds_note_sent(board, row, 1, 1, 104 * US_PER_S + 1, GAP);
    cr_assert_eq(speeds_tried_us(view, 1), 14 * US_PER_S);
    cr_assert_eq(speeds_now_us(view, 104 * US_PER_S + night, GAP), 24 * US_PER_S);
    speeds_note_sent(board, row, 1, 1, 104 * US_PER_S + night, GAP);
    cr_assert_eq(speeds_tried_us(view, 1), 24 * US_PER_S);
    cr_assert_eq(speeds_tried_us(view, 0), 10 * US_PER_S);
    cr_assert_eq(speeds_now_us(view, 100 * US_PER_S + night, GAP), 24 * US_PER_S,
                 "a clock behind");
    board_drop(&t, board);
}

Test(speeds, of_several_who_want_to_try_a_node_one_does)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);
    uint32_t row = speeds_take(board, MODEL, OP_CLASS_GENERATION);
    struct speeds_view view = speeds_view(board, row);

    cr_assert_eq(nodes_claim(board, 1), 0);
    cr_assert_eq(speeds_tried_us(view, 0), 0);
    cr_assert(speeds_take_trial(board, row, 0, 1, 0, 5000000));
    cr_assert_not(speeds_take_trial(board, row, 0, 1, 0, 5000001));
    cr_assert_eq(speeds_tried_us(view, 0), 5000000);
    speeds_note_sent(board, row, 0, 1, 90 * US_PER_S, GAP);
    cr_assert_eq(speeds_tried_us(view, 0), GAP);
    speeds_note_sent(board, row, 0, 2, 91 * US_PER_S, GAP);
    cr_assert_eq(speeds_tried_us(view, 0), GAP, "generation");
    cr_assert_eq(speeds_tried_us(view, 1), 0, "there is no such node");
    cr_assert_eq(speeds_now_us(speeds_view(board, SPEEDS_NO_ROW), 90 * US_PER_S, GAP), GAP);
    cr_assert_not(speeds_take_trial(board, SPEEDS_NO_ROW, 0, 1, 0, 5000000));
    board_drop(&t, board);
}

Test(speeds, a_request_for_one_model_is_no_try_of_another)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);
    uint32_t busy = speeds_take(board, MODEL, OP_CLASS_GENERATION);
    uint32_t other = speeds_take(board, MODEL + 1, OP_CLASS_GENERATION);

    cr_assert_eq(nodes_claim(board, 1), 0);
    speeds_note_sent(board, busy, 0, 1, 9000000, GAP);
    cr_assert_eq(speeds_tried_us(speeds_view(board, other), 0), 0);
    board_drop(&t, board);
}

Test(speeds, failures_within_a_second_are_one_event)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);

    cr_assert_eq(nodes_claim(board, 1), 0);
    cr_assert(speeds_note_failure(board, 0, 1, 7000000, US_PER_S));
    for (unsigned i = 0; i < 8; i++)
        cr_assert_not(speeds_note_failure(board, 0, 1, 7000000 + i, US_PER_S));
    cr_assert_not(speeds_note_failure(board, 0, 1, 6999000, US_PER_S), "a clock behind");
    cr_assert(speeds_note_failure(board, 0, 1, 8000000, US_PER_S));
    cr_assert_not(speeds_note_failure(board, 0, 2, 99000000, US_PER_S), "generation");
    board_drop(&t, board);
}

Test(speeds, a_new_node_in_the_slot_starts_without)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);
    struct node_hot hot;
    uint32_t row;

    cr_assert_eq(nodes_claim(board, 1), 0);
    cr_assert(write_speed(board, MODEL, 0, 100));
    row = speeds_take(board, MODEL, OP_CLASS_GENERATION);
    speeds_note_sent(board, row, 0, 1, 9000000, GAP);
    speeds_note_work(board, 0, 1, 9000000);
    cr_assert(speeds_note_failure(board, 0, 1, 9000000, US_PER_S));
    nodes_set_state(board, 0, NODE_GONE, NODE_REASON_LEAVING, 2);
    cr_assert_eq(nodes_claim(board, 3), 0);
    cr_assert_float_eq(read_speed(board, MODEL, OP_CLASS_GENERATION, 0).seconds, 0, 1e-6);
    cr_assert(nodes_hot(board, 0, &hot));
    cr_assert_eq(speeds_tried_us(speeds_view(board, row), 0), GAP, "it came just now");
    cr_assert_eq(hot.work_mono_us, 0);
    cr_assert(speeds_note_failure(board, 0, hot.generation, 9000001, US_PER_S));
    board_drop(&t, board);
}
