/* test_text.c - escaping, widths and short numbers. */
#include "droverctl/format/text.h"

#include <criterion/criterion.h>
#include <locale.h>
#include <string.h>

#include "base/clock.h"
#include "base/text/buf.h"

static void utf8_locale(void)
{
    cr_assert_not_null(setlocale(LC_CTYPE, "C.UTF-8"));
}

static void escapes_to(const char *text, bool utf8, const char *want)
{
    struct buf out = BUF_INIT;

    text_escape(&out, text, utf8);
    cr_assert_str_eq(buf_cstr(&out), want);
    buf_finish(&out);
}

Test(text, control_bytes_never_reach_the_terminal, .init = utf8_locale)
{
    escapes_to("plain name-1.2_3", true, "plain name-1.2_3");
    escapes_to("\x1b[2J", true, "\\x1b[2J");
    escapes_to("a\nb\rc\td", true, "a\\x0ab\\x0dc\\x09d");
    escapes_to("\x7f\x01", true, "\\x7f\\x01");
    escapes_to("\xc2\x9b", true, "\\xc2\\x9b");            /* CSI as one C1 character */
    escapes_to("\xe2\x80\xae!", true, "\\xe2\\x80\\xae!"); /* right-to-left override */
    escapes_to("\xe2\x80\x8b", true, "\\xe2\\x80\\x8b");   /* zero width space */
    escapes_to("\xef\xbb\xbf", true, "\\xef\\xbb\\xbf");
}

Test(text, every_single_byte_is_printable_after_escaping)
{
    for (unsigned byte = 1; byte < 256; byte++) {
        const char text[2] = {(char)byte, '\0'};
        struct buf out = BUF_INIT;

        text_escape(&out, text, byte % 2 == 0);
        for (const char *p = buf_cstr(&out); *p != '\0'; p++)
            cr_assert(*p >= 0x20 && *p < 0x7f, "%02x", byte);
        buf_finish(&out);
    }
}

Test(text, utf8_passes_where_it_can_be_shown_and_is_escaped_elsewhere, .init = utf8_locale)
{
    escapes_to("K\xc3\xbc"
               "che",
               true,
               "K\xc3\xbc"
               "che");
    escapes_to("K\xc3\xbc"
               "che",
               false, "K\\xc3\\xbcche");
    escapes_to("\xc3(", true, "\\xc3(");
    escapes_to("\xc0\xaf", true, "\\xc0\\xaf");          /* overlong */
    escapes_to("\xed\xa0\x80", true, "\\xed\\xa0\\x80"); /* surrogate */
    escapes_to("\xf4\x90\x80\x80", true, "\\xf4\\x90\\x80\\x80");
    escapes_to("ab\xe2\x82", true, "ab\\xe2\\x82"); /* cut short */
}

Test(text, columns_are_counted_as_the_terminal_does, .init = utf8_locale)
{
    const char *wide = "\xe6\xbc\xa2\xe5\xad\x97x"; /* two wide characters and an x */

    cr_assert_eq(text_columns("abc", 3), 3);
    cr_assert_eq(text_columns("\xc3\xbc", 2), 1);
    cr_assert_eq(text_columns(wide, strlen(wide)), 5);
    cr_assert_eq(text_prefix(wide, strlen(wide), 3), 3, "no half of a wide character");
    cr_assert_eq(text_prefix(wide, strlen(wide), 4), 6);
    cr_assert_eq(text_prefix("abc", 3, 10), 3);
    cr_assert_eq(text_prefix("abc", 3, 0), 0);
}

static void duration(uint64_t us, const char *want)
{
    char out[TEXT_SHORT_BYTES];

    cr_assert_str_eq(text_duration(out, us), want);
}

Test(text, durations_are_short_and_human)
{
    duration(0, "-");
    duration(250, "0.25ms");
    duration(9990, "9.99ms");
    duration(12800, "12.8ms");
    duration(99999, "99.9ms");
    duration(250000, "250ms");
    duration(999999, "999ms");
    duration(3200000, "3.2s");
    duration(59990000, "59.9s");
    duration(250 * US_PER_S, "4m10s");
    duration((3 * 3600 + 12 * 60 + 59) * US_PER_S, "3h12m");
    duration((5 * 24 + 4) * 3600 * US_PER_S, "5d4h");
    duration(UINT64_MAX, "years");
}

Test(text, an_age_is_none_without_a_beginning_and_zero_in_the_future)
{
    char out[TEXT_SHORT_BYTES];

    cr_assert_str_eq(text_age(out, 5000000, 0), "-");
    cr_assert_str_eq(text_age(out, 5000000, 1800000), "3.2s");
    cr_assert_str_eq(text_age(out, 5000000, 9000000), "0.0s");
    cr_assert_str_eq(text_age(out, 5000000, 5000000), "0.0s");
}

static void count(uint64_t n, const char *want)
{
    char out[TEXT_SHORT_BYTES];

    cr_assert_str_eq(text_count(out, n), want);
}

Test(text, counts_take_at_most_five_columns)
{
    count(0, "0");
    count(9999, "9999");
    count(10000, "10.0k");
    count(12345, "12.3k");
    count(99949, "99.9k");
    count(99950, "100k");
    count(999499, "999k");
    count(999500, "1.00M");
    count(4560000, "4.56M");
    count(123000000000, "123G");
    count(UINT64_MAX, "huge");
    for (uint64_t n = 1; n < UINT64_MAX / 3; n = n * 2 + n / 3 + 1) {
        char out[TEXT_SHORT_BYTES];

        cr_assert_leq(strlen(text_count(out, n)), 5, "%s", out);
    }
}

Test(text, rates_have_a_digit_after_the_point_when_small)
{
    char out[TEXT_SHORT_BYTES];

    cr_assert_str_eq(text_rate(out, 0), "0");
    cr_assert_str_eq(text_rate(out, -1), "0");
    cr_assert_str_eq(text_rate(out, 12.34), "12.3");
    cr_assert_str_eq(text_rate(out, 450.4), "450");
    cr_assert_str_eq(text_rate(out, 1e300), "huge");
}
