/* test_taught.c - lessons about nodes: shared, bounded, and forgotten in time. */
#include "shm/share/taught.h"

#include "base/attrs.h"
#include "base/clock.h"
#include "board.h"
#include "shm/facts/nodes.h"

#define NOW (UINT64_C(100) * US_PER_S)

static struct lesson about(uint64_t model, enum ability ability, uint32_t detail)
{
    return (struct lesson){.model_hash = model, .ability = ability, .detail = detail};
}

static uint32_t found(const struct scoreboard *board, unsigned node, uint32_t generation,
                      struct lesson lesson, uint64_t now)
{
    uint64_t until = UINT64_MAX;
    uint32_t figure = taught_find(board, node, generation, &lesson, now, &until);

    cr_assert_eq(figure == 0, until == UINT64_MAX);
    return figure;
}

static void note(struct scoreboard *board, uint32_t generation, struct lesson lesson,
                 uint32_t figure, uint64_t now)
{
    taught_note(board, 0, generation, &lesson, figure, now);
}

Test(taught, a_lesson_is_about_one_ability_of_one_model_of_one_node)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 2, 1, 1), *reader;

    cr_assert_eq(nodes_claim(board, 1), 0);
    cr_assert_eq(nodes_claim(board, 1), 1);
    cr_assert_eq(scoreboard_attach(&reader, t.path, NULL), 0);
    note(board, 1, about(7, ABILITY_CONTEXT, 0), 2048, NOW);
    cr_expect_eq(found(reader, 0, 1, about(7, ABILITY_CONTEXT, 0), NOW), 2048);
    cr_expect_eq(found(reader, 0, 1, about(8, ABILITY_CONTEXT, 0), NOW), 0);
    cr_expect_eq(found(reader, 0, 1, about(7, ABILITY_VISION, 0), NOW), 0);
    cr_expect_eq(found(reader, 0, 1, about(7, ABILITY_CONTEXT, 1), NOW), 0);
    cr_expect_eq(found(reader, 1, 1, about(7, ABILITY_CONTEXT, 0), NOW), 0);
    scoreboard_detach(reader);
    board_drop(&t, board);
}

Test(taught, a_lesson_ends_with_its_time_with_the_node_and_with_news_of_the_engine)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);
    struct lesson blind = about(7, ABILITY_VISION, 0);
    struct node_info info = {.slots = 1, .models_count = 1};

    cr_assert_eq(nodes_claim(board, 1), 0);
    nodes_publish(board, 0, &info);
    note(board, 1, blind, 1, NOW);
    cr_expect_eq(found(board, 0, 1, blind, NOW + TAUGHT_US - 1), 1);
    cr_expect_eq(found(board, 0, 1, blind, NOW + TAUGHT_US), 0);
    cr_expect(taught_any(board, 0, 1, NOW + TAUGHT_US - 1));
    cr_expect_not(taught_any(board, 0, 1, NOW + TAUGHT_US));
    cr_expect_not(taught_any(board, 0, 2, NOW));
    cr_expect_eq(found(board, 0, 2, blind, NOW), 0, "another generation");
    info.prefill_tokens_per_s = 5;
    nodes_publish(board, 0, &info);
    cr_expect_eq(found(board, 0, 1, blind, NOW), 1, "its speed is nothing new");
    info.models[0].has = ABILITY_BIT(ABILITY_VISION);
    nodes_publish(board, 0, &info);
    cr_expect_eq(found(board, 0, 1, blind, NOW), 0);
    board_drop(&t, board);
}

Test(taught, the_epoch_moves_with_news_and_not_with_repetitions)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);
    struct lesson small = about(7, ABILITY_CONTEXT, 0);
    uint64_t epoch;

    cr_assert_eq(nodes_claim(board, 1), 0);
    epoch = taught_epoch(board);
    note(board, 1, small, 2048, NOW);
    cr_expect_gt(taught_epoch(board), epoch);
    epoch = taught_epoch(board);
    note(board, 1, small, 2048, NOW + 1);
    cr_expect_eq(taught_epoch(board), epoch);
    note(board, 1, small, 4096, NOW + 1);
    cr_expect_gt(taught_epoch(board), epoch);
    epoch = taught_epoch(board);
    note(board, 2, small, 1, NOW);
    cr_expect_eq(taught_epoch(board), epoch, "another generation");
    cr_assert(taught_forget(board, 0, 1, &small));
    cr_expect_gt(taught_epoch(board), epoch);
    cr_expect_eq(found(board, 0, 1, small, NOW), 0);
    epoch = taught_epoch(board);
    cr_expect_not(taught_forget(board, 0, 1, &small));
    cr_expect_eq(taught_epoch(board), epoch);
    board_drop(&t, board);
}

Test(taught, figures_that_are_hardly_larger_are_no_news)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);
    struct lesson small = about(7, ABILITY_CONTEXT, 0),
                  full = about(7, ABILITY_MESSAGE_BYTES, 0);
    uint64_t epoch;

    cr_assert_eq(nodes_claim(board, 1), 0);
    note(board, 1, small, 4096, NOW);
    note(board, 1, full, 1000000, NOW);
    epoch = taught_epoch(board);
    note(board, 1, small, 4300, NOW + 2);
    note(board, 1, full, 1000001, NOW + 3);
    note(board, 1, full, 9000000, NOW + 4);
    cr_expect_eq(taught_epoch(board), epoch);
    cr_expect_eq(found(board, 0, 1, small, NOW + 6), 4096);
    cr_expect_eq(found(board, 0, 1, full, NOW + 6), 1000000, "a larger one was refused, too");
    note(board, 1, full, 500000, NOW + 7);
    cr_expect_eq(found(board, 0, 1, full, NOW + 8), 500000);
    note(board, 1, full, 700000, NOW + 7 + TAUGHT_US);
    cr_expect_eq(found(board, 0, 1, full, NOW + 7 + TAUGHT_US), 700000, "the first is over");
    board_drop(&t, board);
}

Test(taught, any_smaller_figure_is_news)
{
    static const enum ability with_figure[] = {ABILITY_CONTEXT, ABILITY_MESSAGE_BYTES};
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);

    cr_assert_eq(nodes_claim(board, 1), 0);
    for (size_t i = 0; i < ARRAY_LEN(with_figure); i++) {
        struct lesson lesson = about(7, with_figure[i], 0);
        uint64_t epoch;

        note(board, 1, lesson, 32000, NOW);
        epoch = taught_epoch(board);
        note(board, 1, lesson, 31000, NOW + 1);
        cr_expect_eq(found(board, 0, 1, lesson, NOW + 2), 31000, "or it is asked again");
        note(board, 1, lesson, 30999, NOW + 3);
        cr_expect_eq(found(board, 0, 1, lesson, NOW + 4), 30999);
        cr_expect_eq(taught_epoch(board), epoch + 2);
    }
    board_drop(&t, board);
}

Test(taught, of_too_many_lessons_the_oldest_go)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);

    cr_assert_eq(nodes_claim(board, 1), 0);
    for (uint32_t i = 0; i <= TAUGHT_PER_NODE; i++)
        note(board, 1, about(i, ABILITY_TOOLS, 0), 1, NOW + i * US_PER_S);
    cr_expect_eq(found(board, 0, 1, about(0, ABILITY_TOOLS, 0), NOW), 0);
    for (uint32_t i = 1; i <= TAUGHT_PER_NODE; i++)
        cr_expect_eq(found(board, 0, 1, about(i, ABILITY_TOOLS, 0), NOW), 1, "%u", i);
    note(board, 1, about(1, ABILITY_TOOLS, 0), 1, NOW + 99 * US_PER_S);
    cr_expect_eq(found(board, 0, 1, about(2, ABILITY_TOOLS, 0), NOW), 1,
                 "a repeated lesson keeps its place");
    board_drop(&t, board);
}
