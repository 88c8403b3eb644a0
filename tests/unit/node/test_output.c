/* test_output.c - which answers have no output, and the reason that they give. */
#include "node/body/output.h"

#include <criterion/criterion.h>
#include <string.h>

#include "base/text/json.h"
#include "proto/drover_common.pb-c.h"

#define OP(name) DROVER__V1__OPERATION__OPERATION_##name

static struct json_value parse(const char *text)
{
    struct json_value root;

    cr_assert_eq(json_check(&root, text, strlen(text), NULL), 0, "%s", text);
    return root;
}

static bool has(int operation, const char *text)
{
    struct json_value root = parse(text);

    return output_in_answer(operation, &root);
}

#define MESSAGE(members) "{\"choices\":[{\"message\":{\"role\":\"assistant\"," members "}}]}"

Test(output, members_that_say_nothing_are_no_output)
{
    static const char *const empty[] = {
        MESSAGE("\"content\":\"\""),
        MESSAGE("\"content\":null"),
        MESSAGE("\"content\":[]"),
        MESSAGE("\"content\":[{\"type\":\"text\",\"text\":\"\"}]"),
        MESSAGE("\"content\":\"\",\"tool_calls\":[],\"refusal\":null,\"annotations\":[],"
                "\"audio\":null,\"function_call\":null,\"reasoning_content\":\"\""),
        "{\"choices\":[{\"finish_reason\":\"stop\"}]}",
        "{\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}"};

    for (size_t i = 0; i < sizeof(empty) / sizeof(empty[0]); i++)
        cr_expect(!has(OP(CHAT_COMPLETIONS), empty[i]), "%s", empty[i]);
    cr_expect(!has(OP(COMPLETIONS), "{\"choices\":[{\"text\":\"\"}]}"));
    cr_expect(!has(OP(MESSAGES), "{\"content\":[]}"));
    cr_expect(!has(OP(MESSAGES), "{\"content\":[{\"type\":\"text\",\"text\":\"\"}]}"));
    cr_expect(!has(OP(RESPONSES), "{\"output\":[]}"));
    cr_expect(!has(OP(RESPONSES), "{\"output\":[{\"type\":\"message\",\"content\":["
                                  "{\"type\":\"output_text\",\"text\":\"\"}]}]}"));
    cr_expect(!has(OP(OLLAMA_CHAT), "{\"message\":{\"role\":\"assistant\",\"content\":\"\"}}"));
    cr_expect(!has(OP(OLLAMA_GENERATE), "{\"response\":\"\",\"context\":[1,2],\"done\":true}"));
}

Test(output, members_that_are_no_text_are_output)
{
    static const char *const some[] = {
        MESSAGE("\"content\":\"a\""),
        MESSAGE("\"content\":null,\"tool_calls\":[{\"function\":{\"name\":\"f\"}}]"),
        MESSAGE("\"content\":null,\"refusal\":\"no\""),
        MESSAGE("\"content\":\"\",\"reasoning_content\":\"hm\""),
        MESSAGE("\"content\":null,\"audio\":{\"data\":\"AA\"}"),
        MESSAGE("\"content\":null,\"images\":[{\"url\":\"x\"}]"),
        MESSAGE("\"content\":\"\",\"thoughts_of_tomorrow\":\"hm\""),
        MESSAGE("\"content\":[{\"type\":\"image\"}]"),
        "{\"choices\":[{\"message\":{\"content\":\"\"}},{\"message\":{\"content\":\"b\"}}]}"};

    for (size_t i = 0; i < sizeof(some) / sizeof(some[0]); i++)
        cr_expect(has(OP(CHAT_COMPLETIONS), some[i]), "%s", some[i]);
    cr_expect(has(OP(COMPLETIONS), "{\"choices\":[{\"text\":\"a\"}]}"));
    cr_expect(has(OP(MESSAGES), "{\"content\":[{\"type\":\"tool_use\",\"name\":\"f\"}]}"));
    cr_expect(has(OP(MESSAGES), "{\"content\":[{\"type\":\"thinking\",\"thinking\":\"h\"}]}"));
    cr_expect(has(OP(MESSAGES), "{\"content\":[{\"type\":\"redacted_thinking\"}]}"));
    cr_expect(has(OP(RESPONSES), "{\"output\":[{\"type\":\"reasoning\",\"summary\":[]}]}"));
    cr_expect(has(OP(RESPONSES), "{\"output\":[{\"type\":\"function_call\",\"name\":\"f\"}]}"));
    cr_expect(has(OP(RESPONSES), "{\"output\":[{\"type\":\"message\",\"content\":["
                                 "{\"type\":\"refusal\",\"refusal\":\"no\"}]}]}"));
    cr_expect(has(OP(OLLAMA_CHAT), "{\"message\":{\"content\":\"\",\"thinking\":\"h\"}}"));
    cr_expect(has(OP(OLLAMA_GENERATE), "{\"response\":\"\",\"thinking\":\"h\"}"));
    cr_expect(has(OP(EMBEDDINGS), "{}"), "other operations are not looked at");
}

static void expect_reason(int operation, const char *text, const char *reason)
{
    struct json_value root = parse(text);
    char out[OUTPUT_REASON_BYTES];

    output_reason(out, operation, &root);
    cr_expect_str_eq(out, reason, "%s", text);
}

Test(output, the_reason_is_the_engine_s_own_word)
{
    expect_reason(OP(CHAT_COMPLETIONS), "{\"choices\":[{\"finish_reason\":\"stop\"}]}", "stop");
    expect_reason(OP(CHAT_COMPLETIONS), "{\"choices\":[{\"finish_reason\":{\"type\":\"x\"}}]}",
                  "");
    expect_reason(OP(CHAT_COMPLETIONS), "{\"choices\":[{}]}", "");
    expect_reason(OP(MESSAGES), "{\"stop_reason\":\"end_turn\"}", "end_turn");
    expect_reason(OP(RESPONSES), "{\"status\":\"incomplete\"}", "incomplete");
    expect_reason(OP(OLLAMA_CHAT), "{\"done_reason\":\"load\"}", "load");
    expect_reason(OP(OLLAMA_CHAT),
                  "{\"done_reason\":\"a reason that is too long to be one, surely\"}", "");
}
