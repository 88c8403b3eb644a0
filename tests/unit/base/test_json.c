/* test_json.c - base/text/json.c: what is accepted, what is found, what is kept. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/text/buf.h"
#include "base/text/json.h"
#include "base/text/json_check.h"
#include "base/text/json_scan.h"

/* Checks a copy that ends exactly at its allocation, so that ASan sees a read beyond it. */
static int check(const char *text, size_t n, struct error *err)
{
    char *copy = malloc(n == 0 ? 1 : n);
    struct json_value root;
    int rc;

    memcpy(copy, text, n);
    rc = json_check(&root, copy, n, err);
    if (rc == 0) {
        cr_assert(root.text >= copy && root.text + root.len <= copy + n);
        cr_assert_neq(root.type, JSON_NONE);
    } else {
        cr_assert_eq(rc, DRV_EINVAL);
        cr_assert_eq(root.type, JSON_NONE);
    }
    free(copy);
    return rc;
}

static bool good(const char *text)
{
    return check(text, strlen(text), NULL) == 0;
}

static struct json_value parse(const char *text)
{
    struct json_value root;

    cr_assert_eq(json_check(&root, text, strlen(text), NULL), 0, "%s", text);
    return root;
}

static bool text_is(const struct json_value *value, const char *text)
{
    return value->len == strlen(text) && memcmp(value->text, text, value->len) == 0;
}

static const char *const bodies[] = {
    ("{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"h\\u00e9 \\\"x\\\"\"}],"
     "\"stream\":true,\"n\":-1.5e+3,\"z\":null,\"e\":{},\"a\":[],\"f\":false}"),
    "[[1,2,{\"a\":[true,[]]}],\"\\ud83d\\ude00 and \xf0\x9f\x98\x80\"]",
    "\"a string that is longer than eight bytes, with a \\\\ in it\"",
};

Test(json, every_kind_of_value_is_accepted)
{
    static const char *const texts[] = {
        "0",
        "-0",
        "12",
        "-1.25",
        "1e9",
        "1E+9",
        "0.5e-10",
        "true",
        "false",
        "null",
        "\"\"",
        "[]",
        "{}",
        " [ ] ",
        "[1 , 2]",
        "\t{}\n",
        "\"\x7f\"",
        "\"\xff\xfe\"",
        "{\"\":0}",
        "[[],[[]]]",
        "{\"a\" : 1 , \"a\" : 2}",
        "\"\\b\\f\\n\\r\\t\\/\\\\\\\"\\u0000\"",
    };

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        cr_expect(good(texts[i]), "%s", texts[i]);
}

Test(json, text_that_rfc_8259_forbids_is_refused)
{
    static const char *const texts[] = {
        "",
        " ",
        "01",
        "-",
        "+1",
        ".5",
        "1.",
        "1e",
        "1e+",
        "0x10",
        "NaN",
        "Infinity",
        "-Infinity",
        "tru",
        "nul",
        "truex",
        "True",
        "'a'",
        "\"",
        "\"\\x\"",
        "\"\\u12g4\"",
        "\"\\u12\"",
        "\"a\nb\"",
        "\"\t\"",
        "[",
        "]",
        "[1,]",
        "[,1]",
        "[1 2]",
        "[1}",
        "{",
        "}",
        "{,}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{1:2}",
        "{\"a\" 1}",
        "{\"a\":1]",
        "{} {}",
        "1 2",
        "[] x",
        "\xef\xbb\xbf{}",
        "// c\n{}",
        "{\"a\":1,,\"b\":2}",
        "[\"\\\"]",
        "\"\x01\"",
    };

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        cr_expect(!good(texts[i]), "%s", texts[i]);
    cr_expect_eq(check("{}\0", 3, NULL), DRV_EINVAL, "NUL after the value");
    cr_expect_eq(check("[\0]", 3, NULL), DRV_EINVAL, "NUL outside a string");
    cr_expect_eq(check("\"\0\"", 3, NULL), DRV_EINVAL, "NUL inside a string");
    cr_expect_eq(check("\"\\\0\"", 4, NULL), DRV_EINVAL, "an escaped NUL byte");
}

Test(json, numbers_that_python_writes_are_read_of_engines_alone)
{
    static const char *const texts[] = {"[NaN,1]", "{\"a\":-Infinity}", "Infinity"};
    static const char *const wrong[] = {"[Nan]", "[-NaN]", "[Infinit]", "[N",
                                        "-I",    "[nan]",  "I"};
    struct json_value root, v;
    uint64_t n;
    double d;

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        cr_expect(json_check_lenient(&root, texts[i], strlen(texts[i])), "%s", texts[i]);
        cr_expect_not(good(texts[i]), "%s", texts[i]);
    }
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        cr_expect_not(json_check_lenient(&root, wrong[i], strlen(wrong[i])), "%s", wrong[i]);
    cr_assert(json_check_lenient(&root, texts[1], strlen(texts[1])));
    v = json_get(&root, "a");
    cr_expect_eq(v.type, JSON_NUMBER);
    cr_expect(text_is(&v, "-Infinity"));
    cr_expect_not(json_number(&d, &v) || json_uint(&n, &v, UINT64_MAX));
}

Test(json, a_control_character_is_found_at_each_place_of_a_long_string)
{
    for (size_t at = 1; at < 40; at++) {
        char text[42];

        memset(text, 'x', sizeof(text));
        text[0] = text[41] = '"';
        cr_assert_eq(check(text, sizeof(text), NULL), 0);
        text[at] = '\x1f';
        cr_assert_eq(check(text, sizeof(text), NULL), DRV_EINVAL, "at %zu", at);
        text[at] = '\x20';
        cr_assert_eq(check(text, sizeof(text), NULL), 0, "at %zu", at);
        text[at] = '\x80'; /* high bytes are not control characters */
        cr_assert_eq(check(text, sizeof(text), NULL), 0, "at %zu", at);
        text[at] = '"';
        cr_assert_eq(check(text, sizeof(text), NULL), DRV_EINVAL, "at %zu", at);
    }
}

Test(json, the_error_says_where_and_why)
{
    struct error err = {0};

    cr_expect_eq(check("{\"a\":1,\"b\"", 10, &err), DRV_EINVAL);
    cr_expect_str_eq(err.text, "at byte 10: unexpected end");
    cr_expect_eq(check("[1,2}", 5, &err), DRV_EINVAL);
    cr_expect_str_eq(err.text, "at byte 4: ',' or ']' expected");
    cr_expect_eq(check("[1] 2", 5, &err), DRV_EINVAL);
    cr_expect_str_eq(err.text, "at byte 4: bytes after the value");
}

Test(json, a_text_cut_at_any_byte_is_refused)
{
    for (size_t b = 0; b < sizeof(bodies) / sizeof(bodies[0]); b++) {
        size_t n = strlen(bodies[b]);

        for (size_t cut = 0; cut < n; cut++)
            cr_assert_eq(check(bodies[b], cut, NULL), DRV_EINVAL, "body %zu cut at %zu", b,
                         cut);
        cr_assert_eq(check(bodies[b], n, NULL), 0);
    }
}

Test(json, nesting_is_allowed_to_64_and_not_to_65)
{
    char text[3 * 65];

    for (size_t depth = 64; depth <= 65; depth++) {
        memset(text, '[', depth);
        memset(text + depth, ']', depth);
        cr_expect_eq(check(text, 2 * depth, NULL), depth == 64 ? 0 : DRV_EINVAL);
    }
    /* Objects and arrays in turn: each closing bracket must fit. */
    cr_expect(good("[{\"a\":[{\"b\":[{}]}]}]"));
    cr_expect(!good("[{\"a\":[{\"b\":[{]}]}]}"));
}

Test(json, ten_megabytes_of_open_brackets_end_at_once)
{
    size_t n = 10u << 20;
    char *text = malloc(n);
    struct json_value root;
    struct error err;

    memset(text, '[', n);
    cr_expect_eq(json_check(&root, text, n, &err), DRV_EINVAL);
    cr_expect_str_eq(err.text, "at byte 64: nested too deeply");
    for (size_t i = 0; i + 5 <= n; i += 5)
        memcpy(text + i, "{\"a\":", 5);
    cr_expect_eq(json_check(&root, text, n, &err), DRV_EINVAL);
    free(text);
}

Test(json, iteration_gives_members_in_order)
{
    struct json_value root = parse(bodies[0]), key, value;
    static const char *const names[] = {"\"model\"", "\"messages\"", "\"stream\"", "\"n\"",
                                        "\"z\"",     "\"e\"",        "\"a\"",      "\"f\""};
    static const enum json_type types[] = {JSON_STRING, JSON_ARRAY,  JSON_TRUE,  JSON_NUMBER,
                                           JSON_NULL,   JSON_OBJECT, JSON_ARRAY, JSON_FALSE};
    struct json_iter it;
    size_t i = 0;

    json_iter_init(&it, &root);
    for (; json_iter_next(&it, &key, &value); i++) {
        cr_assert_lt(i, 8);
        cr_expect(text_is(&key, names[i]));
        cr_expect_eq(value.type, types[i]);
    }
    cr_expect_eq(i, 8);
    value = json_get(&root, "n");
    cr_expect(text_is(&value, "-1.5e+3"));
    value = json_get(&root, "e");
    cr_expect(text_is(&value, "{}"));
}

Test(json, iteration_over_an_array_or_a_scalar)
{
    struct json_value root = parse(" [1 , \"a,]b\" , [2,[3]] ] "), key, value;
    struct json_iter it;

    json_iter_init(&it, &root);
    cr_assert(json_iter_next(&it, &key, &value));
    cr_expect_eq(key.type, JSON_NONE);
    cr_expect(text_is(&value, "1"));
    cr_assert(json_iter_next(&it, &key, &value));
    cr_expect(text_is(&value, "\"a,]b\""));
    cr_assert(json_iter_next(&it, &key, &value));
    cr_expect(text_is(&value, "[2,[3]]"));
    cr_expect(!json_iter_next(&it, &key, &value));
    cr_expect_eq(value.type, JSON_NONE);
    root = parse("\"x\"");
    json_iter_init(&it, &root);
    cr_expect(!json_iter_next(&it, &key, &value));
    cr_expect_eq(json_get(&root, "x").type, JSON_NONE);
}

Test(json, names_are_compared_after_decoding)
{
    struct json_value root = parse("{\"mod\\u0065l\":1,\"models\":2,\"mode\":3,\"\\u00e9\":4}");
    struct json_value value = json_get(&root, "model");

    cr_expect(text_is(&value, "1"));
    value = json_get(&root, "\xc3\xa9");
    cr_expect(text_is(&value, "4"));
    cr_expect_eq(json_get(&root, "odel").type, JSON_NONE);
    cr_expect_eq(json_get(&root, "").type, JSON_NONE);
}

Test(json, of_duplicates_the_last_counts)
{
    struct json_value root = parse("{\"a\":1,\"b\":{\"a\":9},\"\\u0061\":2,\"a\":3}");
    struct json_value value = json_get(&root, "a");

    cr_expect(text_is(&value, "3"));
}

Test(json, strings_are_decoded_to_utf_8)
{
    struct buf out = BUF_INIT;
    struct json_value v =
        parse("\"\\ud83d\\ude00|\\u00e9|\\n\\\\\\/\\\"|\\ud800|\\udc00x|\\ud800\\u0041\"");

    json_decode(&out, &v);
    cr_expect_str_eq(buf_cstr(&out),
                     "\xf0\x9f\x98\x80|\xc3\xa9|\n\\/\"|\xef\xbf\xbd|\xef\xbf\xbdx|\xef\xbf\xbd"
                     "A");
    buf_finish(&out);
}

Test(json, a_string_is_read_in_pieces_of_which_only_escapes_are_copies)
{
    struct json_value v = parse("\"plain\\ntext\\u00e9\""), none = {0};
    static const char *const expected[] = {"plain", "\n", "text", "\xc3\xa9"};
    struct json_pieces it;
    const char *piece;
    size_t n;

    json_pieces_init(&it, &v);
    for (size_t i = 0; i < ARRAY_LEN(expected); i++) {
        cr_assert(json_pieces_next(&it, &piece, &n));
        cr_expect(n == strlen(expected[i]) && memcmp(piece, expected[i], n) == 0, "piece %zu",
                  i);
        cr_expect_eq(i % 2 == 0, piece >= v.text && piece < v.text + v.len);
    }
    cr_expect(!json_pieces_next(&it, &piece, &n));
    v = parse("\"\"");
    json_pieces_init(&it, &v);
    cr_expect(!json_pieces_next(&it, &piece, &n));
    json_pieces_init(&it, &none);
    cr_expect(!json_pieces_next(&it, &piece, &n));
}

Test(json, a_name_is_printable_utf_8_that_fits)
{
    char name[8];
    struct json_value v = parse("\"qw\\u0065n-7\"");

    cr_expect(json_name(name, sizeof(name), &v));
    cr_expect_str_eq(name, "qwen-7");
    v = parse("\"1234567\"");
    cr_expect(json_name(name, sizeof(name), &v));
    v = parse("\"12345678\"");
    cr_expect(!json_name(name, sizeof(name), &v));
    static const char *const bad[] = {
        "\"\\u0000\"",  "\"a\\nb\"", "\"\x7f\"", "\"\\ud800\"", "\"\xff\"",
        "\"\xc0\xaf\"", "1",         "null",     "\"\\u0085\"", "\"\xed\xa0\x80\""};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        v = parse(bad[i]);
        cr_expect(!json_name(name, sizeof(name), &v), "%s", bad[i]);
    }
}

Test(json, numbers)
{
    struct json_value v = parse("-2.5e2");
    double d = 0;
    uint64_t u = 0;

    cr_expect(json_number(&d, &v));
    cr_expect_float_eq(d, -250.0, 0);
    cr_expect(!json_uint(&u, &v, UINT64_MAX));
    v = parse("1e999");
    cr_expect(!json_number(&d, &v));
    v = parse("18446744073709551615");
    cr_expect(json_uint(&u, &v, UINT64_MAX));
    cr_expect_eq(u, UINT64_MAX);
    cr_expect(!json_uint(&u, &v, UINT64_MAX - 1));
    v = parse("18446744073709551616");
    cr_expect(!json_uint(&u, &v, UINT64_MAX));
    v = parse("1.2e1");
    cr_expect(json_uint(&u, &v, 12));
    cr_expect_eq(u, 12);
    cr_expect(!json_uint(&u, &v, 11));
    v = parse("0.5");
    cr_expect(!json_uint(&u, &v, 9));
    v = parse("\"5\"");
    cr_expect(!json_uint(&u, &v, 9));
    cr_expect(!json_number(&d, &v));
}

Test(json, quoting_escapes_and_repairs)
{
    struct buf out = BUF_INIT;

    json_quote(&out,
               "a\"\\\n\t\x01\x7f\xc3\xa9\xff"
               "b\xc3\0z",
               14);
    cr_expect_str_eq(buf_cstr(&out), "\"a\\\"\\\\\\n\\t\\u0001\x7f\xc3\xa9\xef\xbf\xbd"
                                     "b\xef\xbf\xbd\\u0000z\"");
    cr_expect_eq(check((char *)buf_head(&out), buf_size(&out), NULL), 0);
    buf_finish(&out);
}

static void expect_edit(const char *text, const struct json_edit *edits, size_t n,
                        const char *expected)
{
    struct json_value root = parse(text);
    struct buf out = BUF_INIT;

    cr_assert_eq(json_edit(&out, &root, edits, n), 0);
    cr_expect_str_eq(buf_cstr(&out), expected, "%s -> %s", text, buf_cstr(&out));
    cr_expect(good(buf_cstr(&out)));
    buf_finish(&out);
}

Test(json, an_edit_keeps_every_other_byte)
{
    static const struct json_edit set[] = {{"model", "\"b\""}};
    static const struct json_edit drop[] = {{"x", NULL}};
    static const struct json_edit both[] = {{"model", "\"b\""}, {"x", NULL}, {"new", "1"}};

    expect_edit("{ \"a\" : [ 1 ,2 ] , \"model\" :\t\"a\" ,\n\"z\":1.0 }", set, 1,
                "{ \"a\" : [ 1 ,2 ] , \"model\" :\t\"b\" ,\n\"z\":1.0 }");
    expect_edit("{\"mod\\u0065l\":\"a\",\"model\":2}", set, 1,
                "{\"mod\\u0065l\":\"b\",\"model\":\"b\"}");
    expect_edit("{ \"a\":1 }", set, 1, "{\"model\":\"b\", \"a\":1 }");
    expect_edit("{}", set, 1, "{\"model\":\"b\"}");
    expect_edit("{ }", set, 1, "{\"model\":\"b\" }");
    expect_edit("{\"x\":1}", drop, 1, "{}");
    expect_edit("{\"x\":1, \"y\":2}", drop, 1, "{ \"y\":2}");
    expect_edit("{\"y\":2, \"x\":{\"x\":[1,2]}}", drop, 1, "{\"y\":2}");
    expect_edit("{\"y\":2, \"x\":1 , \"z\":3}", drop, 1, "{\"y\":2 , \"z\":3}");
    expect_edit("{\"x\":1,\"x\":2,\"y\":{\"x\":3}}", drop, 1, "{\"y\":{\"x\":3}}");
    expect_edit("{\"x\":1,\"model\":0}", both, 3, "{\"new\":1,\"model\":\"b\"}");
    expect_edit(bodies[0], NULL, 0, bodies[0]);
}

Test(json, only_objects_can_be_edited)
{
    struct json_value root = parse("[1]");
    struct buf out = BUF_INIT;

    cr_expect_eq(json_edit(&out, &root, NULL, 0), DRV_EINVAL);
    buf_finish(&out);
}

/* Every walker must survive any text that json_check() accepts; under ASan this is the fuzzer
 * that always runs. */
static void walk(const struct json_value *v, unsigned depth)
{
    struct json_value key, value;
    struct json_iter it;
    struct buf out = BUF_INIT;
    char name[16];
    double d;
    uint64_t u;

    json_decode(&out, v);
    (void)!json_name(name, sizeof(name), v);
    (void)!json_number(&d, v);
    (void)!json_uint(&u, v, 100);
    buf_finish(&out);
    if (depth > JSON_MAX_DEPTH)
        cr_assert_fail("deeper than the check allows");
    json_iter_init(&it, v);
    while (json_iter_next(&it, &key, &value)) {
        cr_assert_neq(value.type, JSON_NONE);
        cr_assert(value.text >= v->text && value.text + value.len <= v->text + v->len);
        walk(&value, depth + 1);
    }
}

Test(json, mutated_bodies_are_refused_or_walked_safely)
{
    static const char bytes[] = "\"\\{}[],:u0e-.tfn \x80\xff\0";
    unsigned seed = 1;
    unsigned accepted = 0;

    for (unsigned round = 0; round < 60000; round++) {
        const char *body = bodies[round % 3];
        size_t n = strlen(body);
        char *copy = malloc(n);
        struct json_value root;

        memcpy(copy, body, n);
        for (unsigned k = 0; k <= round % 4; k++) {
            size_t at = (size_t)rand_r(&seed) % n;

            copy[at] = bytes[(size_t)rand_r(&seed) % sizeof(bytes)];
        }
        if (json_check(&root, copy, n, NULL) == 0) {
            static const struct json_edit edits[] = {{"model", "1"}, {"n", NULL}, {"q", "[]"}};
            struct buf out = BUF_INIT;

            accepted++;
            walk(&root, 0);
            if (root.type == JSON_OBJECT) {
                cr_assert_eq(json_edit(&out, &root, edits, 3), 0);
                cr_assert_eq(check((char *)buf_head(&out), buf_size(&out), NULL), 0);
            }
            buf_finish(&out);
        }
        free(copy);
    }
    cr_expect_gt(accepted, 100);
}

Test(json, a_quote_a_backslash_and_a_control_character_are_found_wherever_they_stand)
{
    static const char SPECIAL[] = {'"', '\\', '\x1f', '\0'};
    static const char PLAIN[] = {' ', 'x', '\x7f', '\x80', '\xff'};
    char text[100];

    for (size_t before = 0; before < 50; before++) {
        for (size_t s = 0; s < sizeof(SPECIAL); s++) {
            for (size_t p = 0; p < sizeof(PLAIN); p++) {
                memset(text, PLAIN[p], sizeof(text));
                cr_assert_eq(json_scan_plain(text, text + before), text + before);
                text[before] = SPECIAL[s];
                cr_assert_eq(json_scan_plain(text, text + sizeof(text)), text + before);
            }
        }
    }
}

Test(json, many_members_are_picked_in_one_walk_and_the_last_of_each_counts)
{
    static const char body[] = "{\"a\":1,\"b\":[\"a\"],\"a\":2,\"c\":{\"d\":3}}";
    static const char *const names[] = {"c", "a", "d"};
    struct json_value root, found[3];

    cr_assert_eq(json_check(&root, body, sizeof(body) - 1, NULL), 0);
    json_pick(&root, names, found, 3);
    cr_assert_eq(found[0].type, JSON_OBJECT);
    cr_assert(found[1].len == 1 && *found[1].text == '2');
    cr_assert_eq(found[2].type, JSON_NONE, "it is a member of another");
    json_pick(&found[1], names, found, 3);
    cr_assert_eq(found[0].type, JSON_NONE, "a number has none");
}

/* ---- in pieces --------------------------------------------------------------------------- */

/* The same answer, however the text is cut, and from memory of its exact size each time. */
static void check_in_pieces(const char *text, size_t n, size_t step)
{
    struct json_value whole, root = {0};
    struct json_checker checker;
    struct error expected = {0}, err = {0};
    int rc = json_check(&whole, text, n, &expected);
    enum json_checked got = JSON_CHECK_MORE;

    json_checker_init(&checker, NULL, false);
    for (size_t at = 0; got == JSON_CHECK_MORE; at += step) {
        size_t have = at < n ? at : n;
        char *copy = malloc(have == 0 ? 1 : have);

        memcpy(copy, text, have);
        got = json_checker_go(&checker, copy, have, at >= n, &root, &err);
        if (got == JSON_CHECKED)
            cr_assert(root.text - copy == whole.text - text && root.len == whole.len);
        free(copy);
        cr_assert(got != JSON_CHECK_MORE || at < n);
    }
    cr_assert_eq(got == JSON_CHECKED, rc == 0, "%.*s in pieces of %zu", (int)n, text, step);
    cr_assert_eq(root.type, whole.type);
    cr_assert_str_eq(err.text, expected.text);
}

Test(json_pieces, a_text_may_come_in_pieces)
{
    static const char *const texts[] = {
        " {\"a\" : [1, -2.5e+7, true, false, null, {}, [ ]], \"b\\u00e9\\\\\":\"c\\n\"} ",
        "[0.1,01]",
        "[1e]",
        "[1.]",
        "-",
        "tru",
        "[truf]",
        "{\"a\"}",
        "{\"a\":}",
        "{,}",
        "[1,]",
        "{\"a\":1,}",
        "\"\\u12",
        "\"\\u12x4\"",
        "\"\\x\"",
        "\"a\nb\"",
        "[]]",
        "[}",
        "{]",
        "",
        "  ",
        "1 2",
        "nul",
        "123",
        "\"a",
        "[\"a\\",
    };

    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        for (size_t step = 1; step <= strlen(texts[i]) + 1; step++)
            check_in_pieces(texts[i], strlen(texts[i]), step);
    for (size_t i = 0; i < ARRAY_LEN(bodies); i++)
        for (size_t step = 1; step <= strlen(bodies[i]) + 1; step++)
            check_in_pieces(bodies[i], strlen(bodies[i]), step);
}

Test(json_pieces, accepted_bytes_are_not_looked_at_again)
{
    struct buf text = BUF_INIT;
    struct json_checker checker;
    struct json_value root;

    buf_str(&text, "[\"");
    for (size_t i = 0; i < 100000; i++)
        buf_add(&text, i % 7 == 0 ? "\\u0041" : "1,true", 6);
    json_checker_init(&checker, NULL, false);
    for (size_t n = 0; n < buf_size(&text); n += 1000) {
        cr_assert_eq(json_checker_go(&checker, buf_head(&text), n, false, &root, NULL),
                     JSON_CHECK_MORE);
        cr_assert(n - checker.done < 6, "%zu of %zu", checker.done, n);
    }
    buf_finish(&text);
}

Test(json_pieces, a_number_of_thousands_of_digits_is_none)
{
    char text[6000];
    struct json_checker checker;
    struct json_value root;
    struct error err = {0};

    memset(text, '7', sizeof(text));
    cr_assert_eq(check(text, sizeof(text), &err), DRV_EINVAL);
    json_checker_init(&checker, NULL, false);
    cr_assert_eq(json_checker_go(&checker, text, 3000, false, &root, &err), JSON_CHECK_MORE);
    cr_assert_eq(json_checker_go(&checker, text, 6000, false, &root, &err), JSON_CHECK_BAD);
    cr_assert(strstr(err.text, "digits") != NULL, "%s", err.text);
    cr_assert(check(text, 4000, NULL) == 0);
}

/* ---- long values ------------------------------------------------------------------------- */

static void add_many(struct buf *text, const char *what, size_t n)
{
    for (size_t i = 0; i < n; i++)
        buf_str(text, what);
}

Test(json_skips, a_walk_jumps_over_long_values)
{
    static const char *const names[] = {"a", "b", "c", "d", "z"};
    struct buf text = BUF_INIT;
    struct json_skips skips = {0};
    struct json_checker checker;
    struct json_value root, plain, with[5], without[5];

    buf_str(&text, " {\"a\":\"");
    add_many(&text, "x\\\"y", 20000);
    buf_str(&text, "\",\"b\":[1,{\"in\":\"");
    add_many(&text, "0123456789", 5000);
    buf_str(&text, "\"},[[\"");
    add_many(&text, "0123456789", 5000);
    buf_str(&text, "\"]]],\"c\":{\"d\":2},\"");
    add_many(&text, "key", 30000);
    buf_str(&text, "\":[");
    add_many(&text, "{\"a\":1},", 10000);
    buf_str(&text, "3],\"d\":[\"short\"],\"z\":9} ");
    cr_assert_eq(json_check(&plain, buf_head(&text), buf_size(&text), NULL), 0);
    json_checker_init(&checker, &skips, false);
    cr_assert_eq(json_checker_go(&checker, buf_head(&text), 70000, false, &root, NULL),
                 JSON_CHECK_MORE);
    cr_assert_eq(json_checker_go(&checker, buf_head(&text), buf_size(&text), true, &root, NULL),
                 JSON_CHECKED);
    cr_assert(root.text == plain.text && root.len == plain.len && root.skips == &skips);
    json_pick(&plain, names, without, 5);
    json_pick(&root, names, with, 5);
    for (size_t i = 0; i < 5; i++) {
        cr_assert_neq(with[i].type, JSON_NONE, "%s", names[i]);
        cr_assert(with[i].text == without[i].text && with[i].len == without[i].len);
    }
    /* The two strings and not what is hardly more than they; a, the name, its value. */
    cr_expect_eq(skips.count, 5, "%zu", skips.count);
    for (size_t i = 1; i < skips.count; i++)
        cr_assert(skips.list[i - 1].from < skips.list[i].from);
    json_skips_finish(&skips);
    buf_finish(&text);
}

Test(json_skips, they_are_few_whatever_the_nesting)
{
    struct buf text = BUF_INIT;
    struct json_skips skips = {0};
    struct json_checker checker;
    struct json_value root;

    buf_str(&text, "[");
    for (size_t i = 0; i < 40; i++) {
        add_many(&text, "[", 50);
        buf_str(&text, "\"");
        add_many(&text, "0123456789abcdef", 1024);
        buf_str(&text, "\"");
        add_many(&text, "]", 50);
        buf_str(&text, ",");
    }
    buf_str(&text, "1]");
    json_checker_init(&checker, &skips, false);
    cr_assert_eq(json_checker_go(&checker, buf_head(&text), buf_size(&text), true, &root, NULL),
                 JSON_CHECKED);
    cr_expect_leq(skips.count, buf_size(&text) / JSON_SKIP_BYTES);
    json_skips_finish(&skips);
    buf_finish(&text);
}
