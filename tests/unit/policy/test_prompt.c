/* test_prompt.c - equal prompts have equal hashes, whatever the spelling; different ones do
 * not. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/attrs.h"
#include "base/text/json.h"
#include "policy/route/prompt.h"

#define WINDOW 64

static struct prompt read_body(const char *model, const char *body)
{
    struct prompt p;
    struct json_value root;

    cr_assert_eq(json_check(&root, body, strlen(body), NULL), 0, "not JSON: %s", body);
    prompt_read(&p, model, &root, WINDOW);
    return p;
}

/* Leading windows that two prompts share. */
static uint32_t shared(const struct prompt *a, const struct prompt *b)
{
    uint32_t n = 0;

    while (n < a->count && n < b->count && a->hash[n] == b->hash[n])
        n++;
    return n;
}

#define LONG_TEXT                                                                      \
    "It was a dark and stormy night; the rain fell in torrents, except at occasional " \
    "intervals, when it was checked by a violent gust of wind which swept up the streets."

Test(prompt, spelling_of_the_json_does_not_matter)
{
    struct prompt a = read_body("m", "{\"model\":\"m\",\"messages\":[{\"role\":\"user\","
                                     "\"content\":\"" LONG_TEXT "\"}]}");
    struct prompt b = read_body("m", "{ \"messages\" : [ { \"content\" : \"\\u0049t was"
                                     "" LONG_TEXT "\" , \"role\":\"user\" } ], \"x\": 1 }");
    struct prompt c =
        read_body("m", "{\"messages\":[ {\"content\":[{\"type\":\"text\",\"text\":\"" LONG_TEXT
                       "\"}],\"role\":\"us\\u0065r\"} ],\"temperature\":0.5}");

    cr_assert(a.count >= 2);
    cr_assert_eq(shared(&a, &c), a.count);
    cr_assert_eq(a.count, c.count);
    cr_assert_eq(a.bytes, c.bytes);
    cr_assert_eq(shared(&a, &b), 0, "different text must differ in the first window");
}

Test(prompt, a_longer_conversation_begins_like_the_shorter)
{
    struct prompt one =
        read_body("m", "{\"messages\":[{\"role\":\"user\",\"content\":\"" LONG_TEXT "\"}]}");
    struct prompt two =
        read_body("m", "{\"messages\":[{\"role\":\"user\",\"content\":\"" LONG_TEXT "\"},"
                       "{\"role\":\"assistant\",\"content\":\"" LONG_TEXT "\"},"
                       "{\"role\":\"user\",\"content\":\"and then?\"}]}");

    cr_assert(two.count > one.count);
    cr_assert_eq(shared(&one, &two), one.count);
}

Test(prompt, tools_and_system_come_first)
{
    struct prompt plain =
        read_body("m", "{\"messages\":[{\"role\":\"user\",\"content\":\"" LONG_TEXT "\"}]}");
    struct prompt tools =
        read_body("m", "{\"messages\":[{\"role\":\"user\",\"content\":\"" LONG_TEXT "\"}],"
                       "\"tools\":[{\"name\":\"f\"}]}");
    struct prompt spaced =
        read_body("m", "{\"tools\":[ { \"name\" : \"f\" } ],"
                       "\"messages\":[{\"role\":\"user\",\"content\":\"" LONG_TEXT "\"}]}");
    struct prompt system = read_body(
        "m",
        "{\"system\":\"be brief\",\"messages\":[{\"role\":\"user\",\"content\":\"" LONG_TEXT
        "\"}]}");

    cr_assert_eq(shared(&plain, &tools), 0);
    cr_assert_eq(shared(&plain, &system), 0);
    cr_assert_eq(shared(&tools, &spaced), tools.count);
}

Test(prompt, models_have_nothing_in_common)
{
    struct prompt a = read_body("a", "{\"prompt\":\"" LONG_TEXT "\"}");
    struct prompt b = read_body("b", "{\"prompt\":\"" LONG_TEXT "\"}");

    cr_assert(a.count > 0);
    cr_assert_eq(shared(&a, &b), 0);
}

Test(prompt, where_a_message_ends_matters)
{
    struct prompt a = read_body(
        "m", "{\"messages\":[{\"role\":\"user\",\"content\":\"ab\"},{\"role\":\"user\","
             "\"content\":\"c" LONG_TEXT "\"}]}");
    struct prompt b = read_body(
        "m", "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"user\","
             "\"content\":\"bc" LONG_TEXT "\"}]}");

    cr_assert_eq(shared(&a, &b), 0);
}

Test(prompt, the_unfinished_window_is_left_out)
{
    struct prompt p = read_body("m", "{\"prompt\":\"short\"}");

    cr_assert_eq(p.count, 0);
    cr_assert_eq(p.bytes, 2 + 5, "mark and text");
}

/* A chat with a picture of 60,000 bytes, all `letter`, and then a text. */
static struct prompt read_picture(char letter, const char *text)
{
    static char body[70000];
    char data[60001];

    memset(data, letter, sizeof(data) - 1);
    data[sizeof(data) - 1] = '\0';
    (void)snprintf(body, sizeof(body),
                   "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\","
                   "\"image_url\":{\"url\":\"data:image/png;base64,%s\"}},"
                   "{\"type\":\"text\",\"text\":\"%s\"}]}]}",
                   data, text);
    return read_body("m", body);
}

Test(prompt, pictures_count_as_a_picture_and_not_as_their_bytes)
{
    struct prompt p = read_picture('A', LONG_TEXT), other = read_picture('B', LONG_TEXT);
    struct prompt next = read_picture('A', "another question about the same picture");

    cr_assert(p.bytes < 8192, "%llu", (unsigned long long)p.bytes);
    cr_assert_eq(shared(&p, &other), 0, "another picture");
    cr_assert_eq(p.count, p.bytes / WINDOW, "a window is worth as much as one of text");
    cr_assert_geq(shared(&p, &next), 4096 / WINDOW, "all of the picture is the same");
    cr_assert_leq(shared(&p, &next), 4096 / WINDOW + 1);
}

Test(prompt, a_picture_that_a_tool_gives_counts_as_one)
{
    static const char *const outputs[] = {
        "[{\"type\":\"input_image\",\"image_url\":\"data:image/png;base64,%s\"}]",
        "{\"type\":\"computer_screenshot\",\"image_url\":\"data:image/png;base64,%s\"}",
    };
    static char body[70000];
    char data[60001], output[61000];

    memset(data, 'A', sizeof(data) - 1);
    data[sizeof(data) - 1] = '\0';
    for (size_t i = 0; i < ARRAY_LEN(outputs); i++) {
        struct prompt p;

        (void)snprintf(output, sizeof(output), i == 0 ? outputs[0] : outputs[1], data);
        (void)snprintf(body, sizeof(body),
                       "{\"input\":[{\"type\":\"function_call_output\",\"call_id\":\"c\","
                       "\"output\":%s}]}",
                       output);
        p = read_body("m", body);
        cr_assert(p.pictures);
        cr_assert_lt(p.bytes, 8192);
        cr_assert_lt(p.text_bytes, 100, "%llu", (unsigned long long)p.text_bytes);
    }
}

Test(prompt, a_very_long_prompt_is_named_as_far_as_there_is_room)
{
    static char body[PROMPT_MAX_WINDOWS * WINDOW + 4096];
    size_t n = (size_t)snprintf(body, sizeof(body), "{\"prompt\":\"");
    struct prompt p;

    memset(body + n, 'x', PROMPT_MAX_WINDOWS * WINDOW + 1000);
    memcpy(body + n + PROMPT_MAX_WINDOWS * WINDOW + 1000, "\"}", 3);
    p = read_body("m", body);
    cr_assert_eq(p.count, PROMPT_MAX_WINDOWS);
    cr_assert_eq(p.bytes, 2 + PROMPT_MAX_WINDOWS * WINDOW + 1000);
}

Test(prompt, the_ratio_of_bytes_to_tokens_follows_what_engines_count)
{
    /* 3000 bytes were 1000 tokens: a tenth of the way from 4 to 3. */
    cr_assert_float_eq(prompt_learn_ratio(4, 3000, 1000), 3.5, 1e-9);
    cr_assert_float_eq(prompt_learn_ratio(4, 300, 100), 3.9, 1e-9, "a tenth at least");
    cr_assert_float_eq(prompt_learn_ratio(4, 9000, 3000), 3.5, 1e-9, "a half at most");
    cr_assert_float_eq(prompt_learn_ratio(4, 1000, 10), 5.2, 1e-9, "100 counts as 16");
    cr_assert_float_eq(prompt_learn_ratio(4, 10, 1000), 2.5, 1e-9, "0.01 counts as 1");
}
