/* test_aliases.c - what droverctl knows of the configuration's aliases. */
#include "shm/aliases.h"

#include "base/attrs.h"
#include "base/config/config.h"
#include "board.h"

Test(aliases, a_reader_sees_those_that_were_published_last)
{
    struct config_alias first[] = {{(char *)(uintptr_t) "gpt", (char *)(uintptr_t) "llama"},
                                   {(char *)(uintptr_t) "old", (char *)(uintptr_t) "qwen"}};
    struct config_alias second[] = {{(char *)(uintptr_t) "new", (char *)(uintptr_t) "llama"}};
    struct config config = {.aliases = first, .aliases_count = ARRAY_LEN(first)};
    struct alias_view view;
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1), *reader;

    cr_assert_eq(scoreboard_attach(&reader, t.path, NULL), 0);
    cr_expect_not(aliases_read(reader, 0, &view));
    aliases_publish(board, &config);
    cr_assert(aliases_read(reader, 1, &view));
    cr_expect_str_eq(view.name, "old");
    cr_expect_str_eq(view.model, "qwen");
    cr_expect_not(aliases_read(reader, 2, &view));
    config = (struct config){.aliases = second, .aliases_count = ARRAY_LEN(second)};
    aliases_publish(board, &config);
    cr_assert(aliases_read(reader, 0, &view));
    cr_expect_str_eq(view.name, "new");
    cr_expect_not(aliases_read(reader, 1, &view));
    aliases_publish(reader, &config); /* it may not, and does not */
    scoreboard_detach(reader);
    board_drop(&t, board);
}

Test(aliases, a_damaged_table_is_read_with_bounds)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);
    struct sb_aliases *table = segment_aliases(board);
    struct alias_view view;

    atomic_store(&table->count, UINT32_MAX);
    for (unsigned i = 0; i < SB_ALIAS_BYTES / 8; i++)
        atomic_store(&table->alias[0][i], UINT64_MAX);
    cr_assert(aliases_read(board, 0, &view));
    cr_expect_eq(strlen(view.name), sizeof(view.name) - 1);
    cr_expect_eq(strlen(view.model), sizeof(view.model) - 1);
    cr_expect_not(aliases_read(board, ALIASES_MAX, &view));
    board_drop(&t, board);
}
