/* test_table.c - layout of tables and bars. */
#include "droverctl/format/table.h"

#include <criterion/criterion.h>
#include <locale.h>
#include <string.h>

#include "droverctl/format/text.h"

static const struct style plain = {.width = 80};

static void renders_to(struct table *table, const struct style *style, const char *want)
{
    struct buf out = BUF_INIT;

    table_render(table, style, &out);
    cr_assert_not(out.failed);
    cr_assert_str_eq(buf_cstr(&out), want);
    buf_finish(&out);
    table_finish(table);
}

Test(table, columns_line_up_and_lines_have_no_trailing_blanks)
{
    static const struct column columns[] = {
        {"NAME", false, 0, 0, 0}, {"N", true, 0, 0, 0}, {"STATE", false, 0, 0, 0}};
    struct table t;

    table_init(&t, columns, 3);
    table_text(&t, &plain, TONE_PLAIN, "a");
    table_printf(&t, TONE_PLAIN, "%d", 7);
    table_printf(&t, TONE_PLAIN, "UP");
    table_text(&t, &plain, TONE_PLAIN, "longer");
    table_printf(&t, TONE_PLAIN, "%d", 1234);
    table_printf(&t, TONE_PLAIN, "DRAINING");
    renders_to(&t, &plain,
               "NAME       N  STATE\n"
               "a          7  UP\n"
               "longer  1234  DRAINING\n");
}

Test(table, an_empty_text_is_a_dash_and_an_escape_is_harmless)
{
    static const struct column columns[] = {{"NAME", false, 0, 0, 0}};
    struct table t;

    table_init(&t, columns, 1);
    table_text(&t, &plain, TONE_PLAIN, "");
    table_text(&t, &plain, TONE_PLAIN, "\x1b]0;x\x07");
    renders_to(&t, &plain, "NAME\n-\n\\x1b]0;x\\x07\n");
}

Test(table, the_widest_column_that_may_be_cut_is_cut_first)
{
    static const struct column columns[] = {
        {"A", false, 4, 0, 0}, {"B", false, 4, 0, 0}, {"C", true, 0, 0, 0}};
    const struct style narrow = {.width = 20};
    struct table t;

    table_init(&t, columns, 3);
    table_text(&t, &narrow, TONE_PLAIN, "abcdefghijklmnopqrstuvwxyz");
    table_text(&t, &narrow, TONE_PLAIN, "short");
    table_printf(&t, TONE_PLAIN, "12345");
    /* 20 - 5 - 2 gaps of 2 = 11 columns for A and B; B needs 5 */
    renders_to(&t, &narrow,
               "A       B          C\n"
               "abcde~  short  12345\n");
}

Test(table, columns_that_may_go_are_left_out_when_cutting_is_not_enough)
{
    static const struct column columns[] = {{"A", false, 3, 0, 0},
                                            {"B", true, 0, 0, 1},
                                            {"C", true, 0, 0, 2},
                                            {"D", true, 0, 0, 0}};
    const struct style narrow = {.width = 12};
    struct table t;

    table_init(&t, columns, 4);
    table_text(&t, &narrow, TONE_PLAIN, "abcdef");
    table_printf(&t, TONE_PLAIN, "11");
    table_printf(&t, TONE_PLAIN, "2222");
    table_printf(&t, TONE_PLAIN, "333");
    renders_to(&t, &narrow,
               "A     B    D\n"
               "ab~  11  333\n");
}

Test(table, a_column_keeps_a_good_width_while_another_can_go)
{
    static const struct column columns[] = {
        {"A", false, 2, 5, 0}, {"B", true, 0, 0, 1}, {"C", true, 0, 0, 0}};
    const struct style narrow = {.width = 12}, narrower = {.width = 9};

    for (int i = 0; i < 2; i++) {
        struct table t;

        table_init(&t, columns, 3);
        table_text(&t, &narrow, TONE_PLAIN, "abcdefgh");
        table_printf(&t, TONE_PLAIN, "1111");
        table_printf(&t, TONE_PLAIN, "333");
        if (i == 0)
            renders_to(&t, &narrow, "A        C\nabcd~  333\n");
        else
            renders_to(&t, &narrower, "A       C\nabc~  333\n");
    }
}

Test(table, colour_appears_only_when_asked_for_and_takes_no_columns)
{
    static const struct column columns[] = {{"A", false, 0, 0, 0}, {"B", false, 0, 0, 0}};
    const struct style color = {.width = 80, .color = true};
    struct table t;

    table_init(&t, columns, 2);
    table_printf(&t, TONE_BAD, "x");
    table_printf(&t, TONE_PLAIN, "y");
    renders_to(&t, &color,
               "\x1b[1mA\x1b[0m  \x1b[1mB\x1b[0m\n"
               "\x1b[31mx\x1b[0m  y\n");
}

Test(table, wide_characters_line_up)
{
    static const struct column columns[] = {{"A", false, 2, 0, 0}, {"B", false, 0, 0, 0}};
    const struct style utf8 = {.width = 8, .utf8 = true};
    struct table t;

    cr_assert_not_null(setlocale(LC_CTYPE, "C.UTF-8"));
    table_init(&t, columns, 2);
    table_text(&t, &utf8, TONE_PLAIN, "\xe6\xbc\xa2\xe5\xad\x97\xe6\xbc\xa2\xe5\xad\x97");
    table_printf(&t, TONE_PLAIN, "x");
    /* 5 columns for A: two wide characters and the mark of the cut */
    renders_to(&t, &utf8,
               "A      B\n"
               "\xe6\xbc\xa2\xe5\xad\x97\xe2\x80\xa6  x\n");
}

static void bar_is(bool utf8, double fraction, const char *want)
{
    const struct style style = {.width = 80, .utf8 = utf8};
    struct buf out = BUF_INIT;

    style_bar(&out, &style, fraction, 10);
    cr_assert_str_eq(buf_cstr(&out), want, "%f: %s", fraction, buf_cstr(&out));
    buf_finish(&out);
}

Test(table, bars_are_as_long_as_their_share)
{
    bar_is(false, 0, "");
    bar_is(false, 0.5, "#####");
    bar_is(false, 1, "##########");
    bar_is(false, 7, "##########");
    bar_is(false, 0.0001, "#");                                 /* something is not nothing */
    bar_is(true, 0.25, "\xe2\x96\x88\xe2\x96\x88\xe2\x96\x8c"); /* two and a half */
    bar_is(true, 0.0001, "\xe2\x96\x8f");
    bar_is(true, 0.2, "\xe2\x96\x88\xe2\x96\x88");
}
