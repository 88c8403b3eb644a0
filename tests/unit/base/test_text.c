/* test_text.c - charsets, prefixes, UTF-8. */
#include "base/text/text.h"

#include <criterion/criterion.h>

Test(text, names_and_labels_have_their_charset_and_length)
{
    cr_expect(text_is_name("Box-1.a_b", 9));
    cr_expect_not(text_is_name("Box-1.a_b", 8));
    cr_expect_not(text_is_name("", 8));
    cr_expect_not(text_is_name("a b", 8));
    cr_expect_not(text_is_name("a/b", 8));
    cr_expect(text_is_label("qwen 2.5 \xc3\xbc/x:y", 32));
    cr_expect_not(text_is_label("", 32));
    cr_expect_not(text_is_label("12345", 4));
    cr_expect_not(text_is_label("a\nb", 32));
    cr_expect_not(text_is_label("a\x7f", 32));
    cr_expect_not(text_is_label("a\xc2\x85", 32)); /* a C1 control */
    cr_expect_not(text_is_label("a\xff", 32));
}

Test(text, utf8_knows_its_limits)
{
    cr_expect(text_is_utf8("\xf4\x8f\xbf\xbf", 4));     /* U+10FFFF */
    cr_expect_not(text_is_utf8("\xf4\x90\x80\x80", 4)); /* beyond */
    cr_expect_not(text_is_utf8("\xf0\x8f\xbf\xbf", 4)); /* overlong */
    cr_expect_not(text_is_utf8("\xe2\x98", 2));
    cr_expect(text_is_utf8("\xe2\x98\xba", 3));
    cr_expect_not(text_is_utf8("\x80", 1));
    cr_expect(text_is_utf8("", 0));
}

Test(text, printable_is_ascii_from_space_to_tilde)
{
    cr_expect(text_is_printable(" ~", 2));
    cr_expect(text_is_printable("", 0));
    cr_expect_not(text_is_printable("a\x1f", 2));
    cr_expect_not(text_is_printable("a\x7f", 2));
    cr_expect_not(text_is_printable("a\0b", 3));
    cr_expect_not(text_is_printable("\xc3\xbc", 2));
}

Test(text, a_prefix_is_not_taken_for_the_whole)
{
    cr_expect(text_starts_with("/v1/models", 10, "/v1"));
    cr_expect(text_starts_with("/v1", 3, "/v1"));
    cr_expect_not(text_starts_with("/v1", 2, "/v1"));
    cr_expect(text_equals("/v1x", 3, "/v1"));
    cr_expect_not(text_equals("/v1x", 4, "/v1"));
}
