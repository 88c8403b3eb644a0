/* test_empty.c - one test per row of the table in policy/fault/empty.h. */
#include "policy/fault/empty.h"

#include <criterion/criterion.h>
#include <string.h>

#include "base/text/json.h"

#define ASKED "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

static bool explained(const char *body, const char *reason, uint32_t output_tokens)
{
    struct json_value root;

    cr_assert_eq(json_check(&root, body, strlen(body), NULL), 0, "%s", body);
    return empty_is_explained(&root, reason, output_tokens);
}

Test(empty, an_end_without_output_is_not_explained_by_itself)
{
    static const char *const reasons[] = {"stop",      "STOP", "end_turn", "eos",
                                          "completed", "-",    "",         "length?"};

    for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++) {
        cr_expect(!explained("{" ASKED "}", reasons[i], 0), "%s", reasons[i]);
        cr_expect(!explained("{" ASKED ",\"max_tokens\":9,\"keep_alive\":\"5m\",\"stop\":null,"
                             "\"suffix\":null,\"options\":{}}",
                             reasons[i], 1));
    }
    cr_expect(!explained("{\"prompt\":\"hi\",\"keep_alive\":-1}", "stop", 0));
    cr_expect(!explained("{\"input\":\"hi\"}", "completed", 0));
    cr_expect(!explained("{\"input\":[{\"role\":\"user\",\"content\":\"hi\"}]}", "stop", 0));
}

Test(empty, some_reasons_to_end_say_why)
{
    static const char *const reasons[] = {
        "content_filter", "refusal",     "tool_calls", "tool_use",   "function_call",
        "stop_sequence",  "in_progress", "queued",     "pause_turn", "SAFETY"};

    for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++)
        cr_expect(explained("{" ASKED "}", reasons[i], 0), "%s", reasons[i]);
}

Test(empty, a_limit_counts_where_output_was_counted)
{
    static const char *const reasons[] = {"length", "max_tokens", "max_output_tokens"};

    for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++) {
        cr_expect(explained("{" ASKED "}", reasons[i], 7), "%s", reasons[i]);
        cr_expect(!explained("{" ASKED "}", reasons[i], 0), "%s: no engine ran", reasons[i]);
    }
}

Test(empty, no_output_was_wanted)
{
    cr_expect(explained("{" ASKED ",\"max_tokens\":0}", "stop", 0));
    cr_expect(explained("{" ASKED ",\"max_completion_tokens\":0}", "stop", 0));
    cr_expect(explained("{\"input\":\"hi\",\"max_output_tokens\":0}", "completed", 0));
    cr_expect(explained("{\"prompt\":\"hi\",\"n_predict\":0}", "stop", 0));
    cr_expect(explained("{" ASKED ",\"options\":{\"num_predict\":0}}", "stop", 0));
    cr_expect(!explained("{" ASKED ",\"options\":{\"num_predict\":-1}}", "stop", 0));
}

Test(empty, a_model_was_loaded_or_unloaded)
{
    cr_expect(explained("{\"model\":\"m\",\"keep_alive\":0}", "", 0));
    cr_expect(explained("{\"model\":\"m\",\"keep_alive\":\"0s\"}", "unload", 0));
    cr_expect(!explained("{" ASKED ",\"keep_alive\":0}", "stop", 0), "it is asked something");
    cr_expect(!explained("{" ASKED "}", "load", 0));
    cr_expect(explained("{\"model\":\"m\",\"messages\":[]}", "stop", 0));
    cr_expect(explained("{\"model\":\"m\",\"prompt\":\"\"}", "stop", 0));
    cr_expect(explained("{\"model\":\"m\"}", "stop", 0));
}

Test(empty, a_gap_may_need_nothing)
{
    cr_expect(explained("{\"prompt\":\"a\",\"suffix\":\"b\"}", "stop", 0));
    cr_expect(explained("{\"prompt\":\"a\",\"input_suffix\":\"b\"}", "stop", 0));
    cr_expect(!explained("{\"prompt\":\"a\",\"suffix\":\"\"}", "stop", 0));
}

Test(empty, an_answer_that_has_begun_or_a_result_may_be_the_last_word)
{
    cr_expect(
        explained("{\"messages\":[{\"role\":\"user\"},{\"role\":\"assistant\"}]}", "stop", 0));
    cr_expect(explained("{\"messages\":[{\"role\":\"tool\",\"content\":\"4\"}]}", "stop", 0));
    cr_expect(explained(
        "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"tool_result\"}]}]}",
        "end_turn", 0));
    cr_expect(explained("{\"input\":[{\"type\":\"function_call_output\"}]}", "completed", 0));
    cr_expect(
        !explained("{\"messages\":[{\"role\":\"assistant\"},{\"role\":\"user\"}]}", "stop", 0));
}

Test(empty, an_immediate_stop_counts_where_output_was_counted)
{
    cr_expect(explained("{" ASKED ",\"stop\":\"x\"}", "stop", 1));
    cr_expect(explained("{" ASKED ",\"stop\":[\"x\"]}", "stop", 3));
    cr_expect(explained("{" ASKED ",\"stop_sequences\":[\"x\"]}", "end_turn", 1));
    cr_expect(explained("{" ASKED ",\"options\":{\"stop\":[\"x\"]}}", "stop", 1));
    cr_expect(!explained("{" ASKED ",\"stop\":[\"x\"]}", "stop", 0), "no engine ran");
    cr_expect(!explained("{" ASKED ",\"stop\":[]}", "stop", 1));
}
