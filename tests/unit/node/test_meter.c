/* test_meter.c - what counts as output, tokens, an end, an error. */
#include <criterion/criterion.h>

#include "node/stream/meter.h"
#include "proto/drover_common.pb-c.h"
#include "stream_rig.h"

#define OP(name) DROVER__V1__OPERATION__OPERATION_##name

struct watch {
    struct stream_meter o;
    char kinds[64]; /* one letter an event: . nothing, C content, D done, E error, G garbage */
    size_t n;
    unsigned usage_only;
    struct seen last;
};

static void look(void *data, const struct sse_event *event)
{
    struct watch *w = data;

    meter_event(&w->o, event, &w->last);
    w->kinds[w->n++] = ".CDEG"[w->last.kind];
    w->usage_only += w->last.usage_only;
}

static void observe(struct watch *w, int operation, const char *text)
{
    memset(w, 0, sizeof(*w));
    meter_init(&w->o, operation, true);
    rig_events(meter_is_ndjson(operation) ? SSE_LINES : SSE_EVENTS, text, look, w);
}

Test(meter, a_chat_of_llama_server_has_two_content_events_and_a_usage_event)
{
    struct watch w;

    observe(&w, OP(CHAT_COMPLETIONS), RIG_LLAMA_CHAT);
    cr_assert_str_eq(w.kinds, ".CC..D");
    cr_assert_eq(w.o.tokens, 2);
    cr_assert_eq(w.usage_only, 1);
    cr_assert(w.o.finished && w.o.done && w.o.plain);
    cr_assert_str_eq(w.o.response_id, "chatcmpl-1");
    cr_assert_eq(w.o.created, 7);
    cr_assert_eq(w.o.usage.prompt_tokens, 22);
    cr_assert_eq(w.o.usage.cached_prompt_tokens, 21);
    cr_assert_eq(w.o.usage.output_tokens, 2);
    cr_assert_str_eq(buf_cstr(&w.o.text), "- `-h");
    meter_finish(&w.o);
}

Test(meter, pings_roles_and_progress_are_not_output)
{
    struct watch w;

    observe(&w, OP(CHAT_COMPLETIONS),
            ":\n\n" RIG_LLAMA_DELTA("{'role':'assistant','content':null}") RIG_LLAMA_DELTA(
                "{'content':''}") "data: {'choices':[{'index':0,'delta':{'role':'assistant',"
                                  "'content':null}}],'prompt_progress':{'total':27}}\n\n");
    cr_assert_str_eq(w.kinds, "....");
    cr_assert_eq(w.o.tokens, 0);
    cr_assert_not(w.o.finished);
    meter_finish(&w.o);
}

Test(meter, reasoning_and_tool_calls_are_output_but_not_plain_text)
{
    struct watch w;

    observe(&w, OP(CHAT_COMPLETIONS), RIG_LLAMA_DELTA("{'reasoning_content':'hm'}"));
    cr_assert_str_eq(w.kinds, "C");
    cr_assert_not(w.o.plain);
    meter_finish(&w.o);
    observe(&w, OP(CHAT_COMPLETIONS),
            RIG_LLAMA_DELTA("{'tool_calls':[{'index':0,'function':{'name':'f'}}]}"));
    cr_assert_str_eq(w.kinds, "C");
    cr_assert_not(w.o.plain);
    meter_finish(&w.o);
}

Test(meter, an_answer_of_two_choices_is_whole_only_when_both_have_ended)
{
    struct watch w;

    observe(&w, OP(CHAT_COMPLETIONS),
            "data: {'choices':[{'index':0,'delta':{'content':'a'},'finish_reason':null}]}\n\n"
            "data: {'choices':[{'index':1,'delta':{'content':'b'},'finish_reason':null}]}\n\n"
            "data: {'choices':[{'index':0,'delta':{},'finish_reason':'stop'}]}\n\n");
    cr_assert_not(w.o.finished);
    cr_assert_not(w.o.plain);
    cr_assert_eq(w.o.tokens, 2);
    meter_finish(&w.o);
}

Test(meter, completions_carry_text_and_their_usage_in_the_last_choice)
{
    struct watch w;

    observe(&w, OP(COMPLETIONS),
            "data: {'choices':[{'text':' ex','index':0,'logprobs':null,'finish_reason':null}]}"
            "\n\n"
            "data: {'choices':[{'text':'','index':0,'logprobs':null,'finish_reason':'length'}],"
            "'usage':{'completion_tokens':1,'prompt_tokens':3}}\n\ndata: [DONE]\n\n");
    cr_assert_str_eq(w.kinds, "C.D");
    cr_assert_eq(w.usage_only, 0);
    cr_assert_eq(w.o.usage.prompt_tokens, 3);
    meter_finish(&w.o);
}

Test(meter, anthropic_usage_adds_the_cached_tokens_to_the_prompt)
{
    struct watch w;

    observe(&w, OP(MESSAGES), RIG_LLAMA_MESSAGES);
    cr_assert_str_eq(w.kinds, "..C.C..D");
    cr_assert_eq(w.o.usage.prompt_tokens, 22);
    cr_assert_eq(w.o.usage.cached_prompt_tokens, 21);
    cr_assert_eq(w.o.usage.output_tokens, 2);
    cr_assert_str_eq(buf_cstr(&w.o.text), "- h");
    meter_finish(&w.o);
}

Test(meter, events_of_responses_are_numbered_or_counted)
{
    struct watch w;

    observe(&w, OP(RESPONSES),
            "data: {'type':'response.created','response':{}}\n\n"
            ": ping\n\n"
            "data: {'type':'response.output_text.delta','delta':'a'}\n\n");
    cr_assert_eq(w.o.next_sequence, 2, "counted: the engine gives no numbers");
    meter_finish(&w.o);
    observe(&w, OP(RESPONSES),
            "data: {'type':'response.created','response':{},'sequence_number':4}\n\n"
            "data: {'type':'response.output_text.delta','delta':'a','sequence_number':9}\n\n");
    cr_assert_eq(w.o.next_sequence, 10);
    meter_finish(&w.o);
    observe(&w, OP(CHAT_COMPLETIONS), RIG_LLAMA_CHAT);
    cr_assert_eq(w.o.next_sequence, 0);
    meter_finish(&w.o);
}

Test(meter, responses_end_with_their_completed_event)
{
    struct watch w;

    observe(&w, OP(RESPONSES), RIG_LLAMA_RESPONSES);
    cr_assert_str_eq(w.kinds, "..CC.D");
    cr_assert(w.o.done);
    cr_assert_eq(w.o.usage.cached_prompt_tokens, 21);
    cr_assert_str_eq(w.o.response_id, "resp_1");
    meter_finish(&w.o);
}

Test(meter, ollama_ends_with_a_line_that_counts)
{
    struct watch w;

    observe(&w, OP(OLLAMA_CHAT), RIG_OLLAMA_CHAT);
    cr_assert_str_eq(w.kinds, "CCD");
    cr_assert_eq(w.o.usage.prompt_tokens, 26);
    meter_finish(&w.o);
}

Test(meter, errors_are_found_in_every_form_with_their_status)
{
    static const struct {
        const char *text;
        uint32_t status;
        const char *words;
    } cases[] = {
        {"data: {'error':{'code':500,'message':'broke','type':'server_error'}}\n\n", 500,
         "broke"},
        {"data: {'error':{'code':'400','message':'bad'}}\n\n", 400, "bad"},
        {"data: {'error':{'message':'bad','type':'invalid_request_error'}}\n\n", 400, "bad"},
        {"data: {'error':'text only'}\n\n", 0, "text only"},
        {"data: {'object':'error','message':'old vllm','code':400}\n\n", 400, "old vllm"},
        {"event: error\ndata: "
         "{'type':'error','error':{'type':'overloaded_error','message':'x'}}"
         "\n\n",
         529, "x"},
        {"error: {'code':503,'message':'old llama'}\n\n", 503, "old llama"},
        {"event: error\ndata: out of memory\n\n", 0, "out of memory"},
        {"data: {'error':true,'message':'flagged','status':429}\n\n", 429, "flagged"},
        {"data: [{'error':{'code':503,'message':'in a list'}}]\n\n", 503, "in a list"},
        {"data: {'error':{'type':'rate_limit_error','message':'slow'}}\n\n", 429, "slow"},
        {"data: {'choices':[{'index':0,'delta':{},'finish_reason':'error'}]}\n\n", 0,
         "the answer ended with finish_reason \"error\""},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct watch w;

        observe(&w, OP(CHAT_COMPLETIONS), cases[i].text);
        cr_assert_str_eq(w.kinds, "E", "case %zu", i);
        cr_assert_eq(w.last.error_status, cases[i].status, "case %zu", i);
        cr_assert_str_eq(w.last.error_text, cases[i].words, "case %zu", i);
        meter_finish(&w.o);
    }
}

Test(meter, text_that_is_no_json_is_garbage)
{
    struct watch w;

    observe(&w, OP(CHAT_COMPLETIONS), "data: {'choices':[\n\ndata: <html>\n\ndata: x7\n\n");
    cr_assert_str_eq(w.kinds, "GGG");
    meter_finish(&w.o);
}

Test(meter, null_and_other_json_that_is_no_object_holds_nothing)
{
    struct watch w;

    observe(&w, OP(COMPLETIONS),
            "data: null\n\ndata: 7\n\ndata: []\n\ndata: [null]\n\n"
            "data: 'x'\n\ndata: false\n\n");
    cr_assert_str_eq(w.kinds, "......");
    cr_assert(meter_is_empty(&w.o));
    meter_finish(&w.o);
}

Test(meter, a_list_is_as_many_events)
{
    struct watch w;

    observe(&w, OP(CHAT_COMPLETIONS),
            "data: [{'choices':[{'index':0,'delta':{'content':'a'}}]},{'choices':[{'index':0,"
            "'delta':{'content':'b'},'finish_reason':'stop'}]}]\n\n");
    cr_assert_str_eq(w.kinds, "C");
    cr_assert(w.o.finished && !w.o.plain);
    meter_finish(&w.o);
}

Test(meter, ways_to_say_that_there_is_no_error)
{
    static const char *const none[] = {"null", "''", "{}", "false", "[]", "0"};

    for (size_t i = 0; i < ARRAY_LEN(none); i++) {
        struct buf text = BUF_INIT;
        struct watch w;

        buf_printf(&text,
                   "data: {'error':%s,'choices':[{'index':0,'delta':{'content':'a'}}]}"
                   "\n\n",
                   none[i]);
        observe(&w, OP(CHAT_COMPLETIONS), buf_cstr(&text));
        cr_assert_str_eq(w.kinds, "C", "%s", none[i]);
        meter_finish(&w.o);
        buf_finish(&text);
    }
}

Test(meter, only_a_reason_ends_a_choice)
{
    static const struct {
        const char *reason;
        bool ends;
    } cases[] = {{"null", false},   {"''", false},      {"'null'", false},
                 {"'None'", false}, {"{}", false},      {"'stop'", true},
                 {"'abort'", true}, {"'length'", true}, {"{'type':'stop'}", true}};

    for (size_t i = 0; i < ARRAY_LEN(cases) * 2; i++) {
        struct buf text = BUF_INIT;
        struct watch w;

        if (i % 2 == 0)
            buf_printf(&text,
                       "data: {'choices':[{'index':0,'delta':{'content':'a'},'finish_reason':"
                       "%s}]}\n\n",
                       cases[i / 2].reason);
        else
            buf_printf(&text,
                       "data: {'choices':[{'index':0,'text':'a','finish_reason':%s}]}\n\n",
                       cases[i / 2].reason);
        observe(&w, OP(CHAT_COMPLETIONS), buf_cstr(&text));
        cr_assert_eq(w.o.finished, cases[i / 2].ends, "%s", cases[i / 2].reason);
        meter_finish(&w.o);
        buf_finish(&text);
    }
}

Test(meter, several_prompts_are_one_answer_with_their_usage_added_up)
{
    struct watch w;

    observe(&w, OP(COMPLETIONS), RIG_LLAMA_PROMPTS);
    cr_assert_str_eq(w.kinds, ".CCC.C.D");
    cr_assert(meter_sum_usage(&w.o));
    cr_assert_eq(w.o.usage.prompt_tokens, 17);
    cr_assert_eq(w.o.usage.cached_prompt_tokens, 6);
    cr_assert_eq(w.o.usage.output_tokens, 4);
    meter_finish(&w.o);
}

Test(meter, several_choices_are_finished_when_each_is)
{
    struct watch w;

    memset(&w, 0, sizeof(w));
    meter_init(&w.o, OP(COMPLETIONS), true);
    choices_expect(&w.o.choices, 2, 1);
    rig_events(SSE_EVENTS, RIG_LLAMA_TEXT("0", "a", "'stop'", ""), look, &w);
    cr_assert_not(w.o.finished, "the second prompt has no answer yet");
    rig_events(SSE_EVENTS, RIG_LLAMA_TEXT("1", "b", "null", ""), look, &w);
    cr_assert_not(w.o.finished);
    rig_events(SSE_EVENTS, RIG_LLAMA_TEXT("1", "", "'stop'", ""), look, &w);
    cr_assert(w.o.finished);
    meter_finish(&w.o);
}

Test(meter, an_end_without_output_and_without_a_reason_is_empty)
{
    struct watch w;

    observe(&w, OP(CHAT_COMPLETIONS),
            RIG_LLAMA_DELTA("{'role':'assistant','content':''}") "data: [DONE]\n\n");
    cr_assert(w.o.done && meter_is_empty(&w.o));
    meter_finish(&w.o);
    observe(&w, OP(CHAT_COMPLETIONS),
            "data: {'choices':[{'index':0,'delta':{},'finish_reason':'stop'}]}\n\n"
            "data: [DONE]\n\n");
    cr_assert_not(meter_is_empty(&w.o), "the model had nothing to say");
    meter_finish(&w.o);
    observe(&w, OP(OLLAMA_GENERATE), "{'model':'m','response':'','done':true}\n");
    cr_assert_not(meter_is_empty(&w.o));
    meter_finish(&w.o);
    observe(&w, OP(MESSAGES), "data: {'type':'message_stop'}\n\n");
    cr_assert(meter_is_empty(&w.o));
    meter_finish(&w.o);
}
