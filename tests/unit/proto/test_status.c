/* test_status.c - status codes and the small text forms. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/text/buf.h"
#include "proto/rpc/grpc/status.h"

Test(status, numbers_parse_only_in_their_canonical_form)
{
    static const struct {
        const char *text;
        enum grpc_status status;
    } cases[] = {
        {"0", GRPC_OK},       {"1", GRPC_CANCELLED},        {"9", GRPC_FAILED_PRECONDITION},
        {"10", GRPC_ABORTED}, {"16", GRPC_UNAUTHENTICATED}, {"17", GRPC_UNKNOWN},
        {"00", GRPC_UNKNOWN}, {"01", GRPC_UNKNOWN},         {"", GRPC_UNKNOWN},
        {"-1", GRPC_UNKNOWN}, {"1x", GRPC_UNKNOWN},         {"100", GRPC_UNKNOWN},
        {" 5", GRPC_UNKNOWN}};
    size_t i;

    for (i = 0; i < ARRAY_LEN(cases); i++)
        cr_expect_eq(grpc_status_parse(cases[i].text, strlen(cases[i].text)), cases[i].status,
                     "%s", cases[i].text);
}

Test(status, names_are_grpcs_and_strangers_are_unknown)
{
    cr_expect_str_eq(grpc_status_name(GRPC_UNAVAILABLE), "UNAVAILABLE");
    cr_expect_str_eq(grpc_status_name(GRPC_OK), "OK");
    cr_expect_str_eq(grpc_status_name((enum grpc_status)17), "UNKNOWN");
    cr_expect_str_eq(grpc_status_name((enum grpc_status) - 1), "UNKNOWN");
}

Test(status, http_statuses_map_as_published)
{
    cr_expect_eq(grpc_status_from_http(200), GRPC_UNKNOWN);
    cr_expect_eq(grpc_status_from_http(400), GRPC_INTERNAL);
    cr_expect_eq(grpc_status_from_http(401), GRPC_UNAUTHENTICATED);
    cr_expect_eq(grpc_status_from_http(403), GRPC_PERMISSION_DENIED);
    cr_expect_eq(grpc_status_from_http(404), GRPC_UNIMPLEMENTED);
    cr_expect_eq(grpc_status_from_http(418), GRPC_UNKNOWN);
    cr_expect_eq(grpc_status_from_http(429), GRPC_UNAVAILABLE);
    cr_expect_eq(grpc_status_from_http(431), GRPC_INTERNAL);
    cr_expect_eq(grpc_status_from_http(500), GRPC_UNKNOWN);
    cr_expect_eq(grpc_status_from_http(502), GRPC_UNAVAILABLE);
    cr_expect_eq(grpc_status_from_http(503), GRPC_UNAVAILABLE);
    cr_expect_eq(grpc_status_from_http(504), GRPC_UNAVAILABLE);
}

Test(status, resets_map_as_published)
{
    static const enum grpc_status expected[] = {
        GRPC_INTERNAL,         GRPC_INTERNAL,    GRPC_INTERNAL,
        GRPC_INTERNAL,         GRPC_INTERNAL,    GRPC_UNKNOWN /* STREAM_CLOSED: no mapping */,
        GRPC_INTERNAL,         GRPC_UNAVAILABLE, GRPC_CANCELLED,
        GRPC_INTERNAL,         GRPC_INTERNAL,    GRPC_RESOURCE_EXHAUSTED,
        GRPC_PERMISSION_DENIED};
    uint32_t code;

    for (code = 0; code < ARRAY_LEN(expected); code++)
        cr_expect_eq(grpc_status_from_h2(code), expected[code], "code %u", code);
    cr_expect_eq(grpc_status_from_h2(0xfffffffe), GRPC_UNKNOWN);
}

static void check_message(const char *plain, const char *encoded)
{
    struct buf out = BUF_INIT;

    grpc_message_encode(&out, plain);
    cr_expect_str_eq(buf_cstr(&out), encoded);
    buf_reset(&out);
    grpc_message_decode(&out, encoded, strlen(encoded));
    cr_expect_str_eq(buf_cstr(&out), plain);
    buf_finish(&out);
}

Test(status, messages_are_percent_encoded_and_come_back)
{
    check_message("", "");
    check_message("plain text $&~", "plain text $&~");
    check_message("100%\n", "100%25%0A");
    check_message("\x7f", "%7F");
    check_message("plein \xe2\x98\xba", "plein %E2%98%BA");
}

Test(status, decoding_a_message_never_fails)
{
    static const char *const cases[][2] = {{"%", "%"},         {"%4", "%4"},
                                           {"%zz", "%zz"},     {"%41", "A"},
                                           {"%4g%42", "%4gB"}, {"a%e2%98%ba", "a\xe2\x98\xba"},
                                           {"%%41", "%A"}};
    size_t i;

    for (i = 0; i < ARRAY_LEN(cases); i++) {
        struct buf out = BUF_INIT;

        grpc_message_decode(&out, cases[i][0], strlen(cases[i][0]));
        cr_expect_str_eq(buf_cstr(&out), cases[i][1]);
        buf_finish(&out);
    }
}

Test(status, timeouts_take_the_smallest_unit_that_fits_and_round_up)
{
    static const struct {
        uint64_t us;
        const char *text;
    } cases[] = {{0, "1n"},
                 {1, "1000n"},
                 {99999, "99999000n"},
                 {100000, "100000u"},
                 {99999999, "99999999u"},
                 {100000000, "100000m"},
                 {100000001, "100001m"},
                 {UINT64_C(99999999000), "99999999m"},
                 {UINT64_C(99999999001), "100000S"},
                 {UINT64_C(99999999000000), "99999999S"},
                 {UINT64_C(99999999000001), "1666667M"},
                 {UINT64_C(99999999) * 60000000 + 1, "1666667H"},
                 {UINT64_MAX, "99999999H"}};
    char text[GRPC_TIMEOUT_TEXT_BYTES];
    size_t i;

    for (i = 0; i < ARRAY_LEN(cases); i++) {
        grpc_timeout_encode(text, cases[i].us);
        cr_expect_str_eq(text, cases[i].text);
    }
}

Test(status, timeouts_parse_strictly)
{
    static const struct {
        const char *text;
        uint64_t us;
    } good[] = {{"1H", UINT64_C(3600000000)},
                {"2M", 120000000},
                {"3S", 3000000},
                {"4m", 4000},
                {"5u", 5},
                {"6n", 1},
                {"0n", 0},
                {"1001n", 2},
                {"00000001S", 1000000},
                {"99999999H", UINT64_C(359999996400000000)}};
    static const char *const bad[] = {"",    "S",   "1",    "1s",         "1h",  "-1S",
                                      "1 S", " 1S", "1.5S", "123456789S", "1SS", "+1S"};
    uint64_t us;
    size_t i;

    for (i = 0; i < ARRAY_LEN(good); i++) {
        cr_expect(grpc_timeout_decode(&us, good[i].text, strlen(good[i].text)));
        cr_expect_eq(us, good[i].us, "%s", good[i].text);
    }
    for (i = 0; i < ARRAY_LEN(bad); i++)
        cr_expect_not(grpc_timeout_decode(&us, bad[i], strlen(bad[i])), "%s", bad[i]);
}

Test(status, a_timeout_never_shrinks_on_its_way)
{
    uint64_t us, back;
    char text[GRPC_TIMEOUT_TEXT_BYTES];

    for (us = 1; us < UINT64_C(300000000000000000); us = us * 3 + 7) {
        grpc_timeout_encode(text, us);
        cr_assert(grpc_timeout_decode(&back, text, strlen(text)));
        cr_expect_geq(back, us);
        cr_expect_leq(back - us, us / 1000 + 1);
    }
}

Test(status, base64_is_sent_bare_and_taken_with_or_without_padding)
{
    static const struct {
        const char *text, *padded;
        size_t n;
        const char *bytes;
    } cases[] = {{"", "", 0, ""},
                 {"AA", "AA==", 1, "\0"},
                 {"AAE", "AAE=", 2, "\0\1"},
                 {"q6ur", "q6ur", 3, "\xab\xab\xab"},
                 {"+/+/", "+/+/", 3, "\xfb\xff\xbf"},
                 {"Zm9vYg", "Zm9vYg==", 4, "foob"}};
    size_t i;

    for (i = 0; i < ARRAY_LEN(cases); i++) {
        struct buf out = BUF_INIT;

        grpc_bin_encode(&out, cases[i].bytes, cases[i].n);
        cr_expect_str_eq(buf_cstr(&out), cases[i].text);
        buf_reset(&out);
        cr_expect(grpc_bin_decode(&out, cases[i].padded, strlen(cases[i].padded)));
        cr_expect(grpc_bin_decode(&out, cases[i].text, strlen(cases[i].text)));
        cr_expect_eq(buf_size(&out), 2 * cases[i].n);
        if (cases[i].n != 0)
            cr_expect_eq(memcmp(buf_head(&out), cases[i].bytes, cases[i].n), 0);
        buf_finish(&out);
    }
}

Test(status, base64_that_is_none_is_refused)
{
    static const char *const bad[] = {
        "A", "AAAAA", "A=", "AA=", "A A=", "AA-_", "====", "AAA=AAA="};
    size_t i;

    for (i = 0; i < ARRAY_LEN(bad); i++) {
        struct buf out = BUF_INIT;

        cr_expect_not(grpc_bin_decode(&out, bad[i], strlen(bad[i])), "%s", bad[i]);
        buf_finish(&out);
    }
}
