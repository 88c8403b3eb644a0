/* test_api_keys.c - the file of API keys, and the keys it accepts. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/secure/api_keys.h"
#include "base/text/buf.h"

TestSuite(api_keys, .timeout = 60);

/* printf %s abc | sha256sum, and of "xyz". */
#define ABC "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
#define XYZ "sha256:3608bca1e44ea6c4d268eb6db02260269892c0b42b86bbf1e77a6fa16c3c9282"

static struct api_keys keys;
static struct error err;

static int parse(const char *text)
{
    static char copy[65536];

    api_keys_finish(&keys);
    (void)strlcpy(copy, text, sizeof(copy));
    return api_keys_parse(&keys, copy, &err);
}

static int find(const char *key)
{
    return api_keys_find(&keys, key, strlen(key));
}

Test(api_keys, a_key_is_found_by_its_digest_and_nothing_else)
{
    cr_assert_eq(parse("# who may\n\nalice " ABC "\n  bob\t" XYZ "  \r\n"), 0, "%s", err.text);
    cr_assert_eq(keys.count, 2);
    cr_expect_str_eq(keys.list[0].name, "alice");
    cr_expect_str_eq(keys.list[1].name, "bob");
    cr_expect_eq(find("abc"), 0);
    cr_expect_eq(find("xyz"), 1);
    cr_expect_eq(find("abd"), -1);
    cr_expect_eq(find(""), -1);
    cr_expect_eq(find("alice"), -1);
    /* The digest is no key, though a reader of the file may try it. */
    cr_expect_eq(find(ABC), -1);
    cr_expect_eq(find(strchr(ABC, ':') + 1), -1);
    api_keys_finish(&keys);
}

Test(api_keys, mistakes_in_a_file_are_said_by_line_without_its_text)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "holds no key"},
        {"# nothing\n", "holds no key"},
        {"alice\n", "line 1: after the name there must be sha256:"},
        {"\nalice secret\n", "line 2: after the name there must be sha256:"},
        {"alice sha256:ba78\n", "line 1: after the name"},
        {"alice " ABC "0\n", "line 1: after the name"},
        {"alice sha256:ga7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n",
         "line 1: after the name"},
        {"alice " ABC " x\n", "line 1: more than a name and a digest"},
        {"al/ice " ABC "\n", "line 1: a name is"},
        {"alice " ABC "\nalice " XYZ "\n", "line 2: there is a key 'alice' already"},
        {"alice " ABC "\nbob " ABC "\n", "line 2: the same key as 'alice'"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        cr_expect_eq(parse(cases[i].text), DRV_EINVAL, "case %zu", i);
        cr_expect_not_null(strstr(err.text, cases[i].says), "%s: %s", cases[i].text, err.text);
        cr_expect_null(strstr(err.text, "secret"));
        cr_expect_null(keys.list);
        cr_expect_eq(find("abc"), -1);
    }
}

Test(api_keys, there_are_at_most_as_many_as_metrics_may_have_labels)
{
    struct buf text = BUF_INIT;

    for (unsigned i = 0; i < API_KEYS_MAX; i++)
        buf_printf(&text, "k%u sha256:%064x\n", i, i);
    cr_expect_eq(parse(buf_cstr(&text)), 0, "%s", err.text);
    cr_expect_eq(keys.count, API_KEYS_MAX);
    buf_printf(&text, "one-more " ABC "\n");
    cr_expect_eq(parse(buf_cstr(&text)), DRV_EINVAL);
    cr_expect_str_eq(err.text, "line 257: more than 256 keys");
    buf_finish(&text);
}

Test(api_keys, a_made_key_opens_by_the_line_made_for_it)
{
    char first[API_KEY_TEXT_BYTES], second[API_KEY_TEXT_BYTES];
    struct buf line = BUF_INIT;

    api_key_make(first);
    api_key_make(second);
    /* The prefix, and 256 bits at 6 bits a character. */
    cr_expect_eq(strlen(first), strlen("sk-drover-") + 43);
    cr_expect_str_neq(first, second);
    api_key_line(&line, "carol", first);
    cr_assert_eq(parse(buf_cstr(&line)), 0, "%s", err.text);
    cr_expect_eq(find(first), 0);
    cr_expect_eq(find(second), -1);
    buf_finish(&line);
    api_keys_finish(&keys);
}
