/* test_upload.c - bodies that come in parts share a limit, in the order in which they began. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/error.h"
#include "node/body/upload.h"

static size_t take(struct upload *upload, size_t n)
{
    static const uint8_t part[100];
    size_t release;

    cr_assert_eq(upload_take(upload, part, n, n + 2, &release), 0);
    return release;
}

Test(upload, parts_are_gathered_and_no_more_than_was_said)
{
    struct uploads uploads;
    struct upload one = {0};
    size_t release;

    uploads_init(&uploads, 100);
    cr_assert_eq(upload_begin(&uploads, &one, 6), 0);
    cr_assert_eq(upload_take(&one, (const uint8_t *)"abcd", 4, 6, &release), 0);
    cr_assert_eq(release, 6, "the whole message, and not only its part");
    cr_assert_eq(upload_take(&one, (const uint8_t *)"efg", 3, 5, &release), DRV_EINVAL);
    cr_assert_eq(upload_take(&one, (const uint8_t *)"ef", 2, 4, &release), 0);
    cr_assert_eq(one.have, one.size);
    cr_assert_eq(memcmp(one.bytes, "abcdef", 6), 0);
    upload_end(&one);
    cr_assert_eq(uploads.reserved_bytes, 0);
    upload_end(&one);
}

Test(upload, one_that_has_no_room_gets_no_window_until_others_have_left)
{
    struct uploads uploads;
    struct upload a = {0}, b = {0}, c = {0};

    uploads_init(&uploads, 100);
    cr_assert_eq(upload_begin(&uploads, &a, 60), 0);
    cr_assert_eq(upload_begin(&uploads, &b, 50), 0);
    cr_assert_eq(upload_begin(&uploads, &c, 10), 0);
    cr_assert_not(a.waits);
    cr_assert(b.waits);
    cr_assert(c.waits, "there is room for it, but it came later");
    cr_assert_eq(upload_position(&b), 0);
    cr_assert_eq(upload_position(&c), 1);
    cr_assert_eq(take(&a, 10), 12);
    cr_assert_eq(take(&b, 10), 0);
    cr_assert_eq(take(&b, 10), 0);
    cr_assert_null(uploads_next(&uploads));
    upload_drop(&a);
    cr_assert_null(uploads_next(&uploads), "its copy may still be there");
    upload_end(&a);
    cr_assert_eq(uploads_next(&uploads), &b);
    cr_assert_eq(b.withheld_bytes, 24);
    cr_assert_eq(take(&b, 10), 12);
    cr_assert_eq(uploads_next(&uploads), &c);
    cr_assert_null(uploads_next(&uploads));
    upload_end(&b);
    upload_end(&c);
    cr_assert_eq(uploads.reserved_bytes, 0);
}

Test(upload, one_alone_has_room_whatever_its_size_and_one_that_leaves_early_takes_none)
{
    struct uploads uploads;
    struct upload a = {0}, b = {0}, c = {0};

    uploads_init(&uploads, 100);
    cr_assert_eq(upload_begin(&uploads, &a, 1000), 0);
    cr_assert_not(a.waits);
    cr_assert_eq(upload_begin(&uploads, &b, 1), 0);
    cr_assert_eq(upload_begin(&uploads, &c, 1), 0);
    upload_end(&b);
    upload_end(&a);
    cr_assert_eq(uploads_next(&uploads), &c);
    upload_end(&c);
    cr_assert_eq(uploads.reserved_bytes, 0);
}
