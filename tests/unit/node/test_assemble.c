/* test_assemble.c - streamed answers become what the engine answers without streaming. */
#include <cjson/cJSON.h>
#include <criterion/criterion.h>

#include "base/error.h"
#include "node/stream/assemble.h"
#include "node/stream/meter.h"
#include "proto/drover_common.pb-c.h"
#include "stream_rig.h"

#define OP(name) DROVER__V1__OPERATION__OPERATION_##name

struct rig {
    struct stream_meter o;
    struct assembler *a;
    unsigned refused; /* events that the assembler did not take */
};

static void add(void *data, const struct sse_event *event)
{
    struct rig *rig = data;
    struct seen seen;

    meter_event(&rig->o, event, &seen);
    if (seen.root.type != JSON_NONE)
        cr_assert_eq(assembler_add(rig->a, &seen.root), 0);
}

/* The answer made of `stream` must be, as JSON, `wanted`. */
static void expect(int operation, const char *stream, const char *wanted)
{
    struct buf out = BUF_INIT, want = BUF_INIT;
    struct error err = {0};
    cJSON *got_json, *want_json;
    struct rig rig;

    meter_init(&rig.o, operation, false);
    rig.a = assembler_create(operation);
    cr_assert_not_null(rig.a);
    rig_events(meter_is_ndjson(operation) ? SSE_LINES : SSE_EVENTS, stream, add, &rig);
    if (meter_sum_usage(&rig.o))
        assembler_set_usage(rig.a, &rig.o.usage);
    cr_assert_eq(assembler_write(rig.a, &out, &err), 0, "%s", err.text);
    rig_add(&want, wanted);
    got_json = cJSON_Parse(buf_cstr(&out));
    want_json = cJSON_Parse(buf_cstr(&want));
    cr_assert_not_null(got_json, "not JSON: %s", buf_cstr(&out));
    cr_assert_not_null(want_json);
    cr_assert(cJSON_Compare(got_json, want_json, true), "got %s", buf_cstr(&out));
    cJSON_Delete(got_json);
    cJSON_Delete(want_json);
    assembler_destroy(rig.a);
    meter_finish(&rig.o);
    buf_finish(&out);
    buf_finish(&want);
}

Test(assemble, a_chat_stream_of_llama_server_is_its_whole_answer)
{
    expect(
        OP(CHAT_COMPLETIONS), RIG_LLAMA_CHAT,
        "{'choices':[{'finish_reason':'length','index':0,'message':{'role':'assistant',"
        "'content':'- `-h'}}],'created':7,'model':'tiny','system_fingerprint':'b1','object':"
        "'chat.completion','usage':{'completion_tokens':2,'prompt_tokens':22,'total_tokens':24,"
        "'prompt_tokens_details':{'cached_tokens':21}},'id':'chatcmpl-1','timings':{'cache_n':"
        "21,'prompt_ms':0.452}}");
}

Test(assemble, choices_keep_apart_and_logprobs_are_joined)
{
    expect(
        OP(CHAT_COMPLETIONS),
        "data: {'id':'x','choices':[{'index':1,'delta':{'content':'b'},'logprobs':{'content':"
        "[{'token':'b'}]},'finish_reason':null}]}\n\n"
        "data: {'id':'x','choices':[{'index':0,'delta':{'role':'assistant','content':'a'},"
        "'logprobs':{'content':[{'token':'a'}]},'finish_reason':null}]}\n\n"
        "data: {'id':'x','choices':[{'index':0,'delta':{'content':'A'},'logprobs':{'content':"
        "[{'token':'A'}]},'finish_reason':'stop'},{'index':1,'delta':{},'finish_reason':"
        "'length'}]}\n\n",
        "{'id':'x','choices':[{'index':0,'finish_reason':'stop','logprobs':{'content':["
        "{'token':'a'},{'token':'A'}]},'message':{'role':'assistant','content':'aA'}},"
        "{'index':1,'finish_reason':'length','logprobs':{'content':[{'token':'b'}]},"
        "'message':{'role':'assistant','content':'b'}}]}");
}

/* The deltas of a chat, one event each, must become this message. */
static void expect_message(const char *const *deltas, size_t count, const char *message)
{
    struct buf stream = BUF_INIT, wanted = BUF_INIT;

    for (size_t i = 0; i < count; i++)
        buf_printf(&stream, "data: {'choices':[{'index':0,'delta':%s}]}\n\n", deltas[i]);
    buf_str(&stream, "data: {'choices':[{'index':0,'delta':{},'finish_reason':'stop'}]}\n\n");
    buf_printf(&wanted, "{'choices':[{'index':0,'finish_reason':'stop','message':%s}]}",
               message);
    expect(OP(CHAT_COMPLETIONS), buf_cstr(&stream), buf_cstr(&wanted));
    buf_finish(&stream);
    buf_finish(&wanted);
}

#define CALL(index, id, name, arguments)                                             \
    "{'tool_calls':[{'index':" index ",'id':'" id "','type':'function','function':{" \
    "'name':'" name "','arguments':'" arguments "'}}]}"
#define MORE(arguments) "{'tool_calls':[{'index':0,'function':{'arguments':'" arguments "'}}]}"
#define WANTED(id, name, arguments)                                                          \
    "{'id':'" id "','type':'function','function':{'name':'" name "','arguments':'" arguments \
    "'}}"

Test(assemble, another_id_is_another_call_whatever_its_index)
{
    static const char *const ollama[] = {CALL("0", "a", "f", "{\\'x\\':1}"),
                                         CALL("0", "b", "f", "{\\'x\\':2}")};
    static const char *const in_one[] = {"{'tool_calls':[{'index':0,'id':'a','type':'function',"
                                         "'function':{'name':'f','arguments':"
                                         "'{}'}},{'index':0,'id':'b','type':'function','"
                                         "function':{'name':'g','arguments':'{}'}}]}"};
    static const char *const pieces[] = {CALL("0", "a", "f", ""), MORE("{\\'x\\'"), MORE(":1}"),
                                         CALL("0", "b", "f", ""), MORE("{\\'x\\':2}")};
    static const char *const repeated[] = {CALL("0", "a", "f", "{\\'x\\'"),
                                           CALL("0", "a", "f", ":1}"), CALL("0", "a", "f", "")};

    expect_message(ollama, ARRAY_LEN(ollama),
                   "{'role':'assistant','content':null,'tool_calls':[" WANTED(
                       "a", "f", "{\\'x\\':1}") "," WANTED("b", "f", "{\\'x\\':2}") "]}");
    expect_message(in_one, ARRAY_LEN(in_one),
                   "{'role':'assistant','content':null,'tool_calls':[" WANTED(
                       "a", "f", "{}") "," WANTED("b", "g", "{}") "]}");
    expect_message(pieces, ARRAY_LEN(pieces),
                   "{'role':'assistant','content':null,'tool_calls':[" WANTED(
                       "a", "f", "{\\'x\\':1}") "," WANTED("b", "f", "{\\'x\\':2}") "]}");
    expect_message(repeated, ARRAY_LEN(repeated),
                   "{'role':'assistant','content':null,'tool_calls':[" WANTED(
                       "a", "f", "{\\'x\\':1}") "]}");
}

#define BARE(name, arguments) \
    "{'tool_calls':[{'function':{'name':'" name "','arguments':'" arguments "'}}]}"
#define BARE_WANTED(name, arguments) \
    "{'type':'function','function':{'name':'" name "','arguments':'" arguments "'}}"

Test(assemble, without_ids_a_call_begins_after_whole_arguments)
{
    static const char *const names[] = {BARE("f", "{\\'x\\':\\'}\\'"), BARE("f", "}"),
                                        BARE("g", "{}")};
    static const char *const same[] = {BARE("f", "{\\'x\\':1}"), BARE("f", ""),
                                       BARE("f", "{\\'x\\':2}")};

    expect_message(names, ARRAY_LEN(names),
                   "{'role':'assistant','content':null,'tool_calls':[" BARE_WANTED(
                       "f", "{\\'x\\':\\'}\\'}") "," BARE_WANTED("g", "{}") "]}");
    expect_message(same, ARRAY_LEN(same),
                   "{'role':'assistant','content':null,'tool_calls':[" BARE_WANTED(
                       "f", "{\\'x\\':1}") "," BARE_WANTED("f", "{\\'x\\':2}") "]}");
}

Test(assemble, the_call_of_the_old_functions_api_is_merged)
{
    static const char *const deltas[] = {
        "{'role':'assistant','content':null,'function_call':{'name':'f','arguments':''}}",
        "{'function_call':{'arguments':'{\\'x\\':'}}", "{'function_call':{'arguments':'1}'}}"};

    expect_message(deltas, ARRAY_LEN(deltas),
                   "{'role':'assistant','content':null,'function_call':{'name':'f',"
                   "'arguments':'{\\'x\\':1}'}}");
}

Test(assemble, reasoning_and_audio_grow)
{
    static const char *const deltas[] = {
        "{'reasoning_content':'h'}", "{'reasoning_content':'m','reasoning':'x'}",
        "{'audio':{'id':'a','data':'QUJD'}}", "{'audio':{'data':'REVG','transcript':'b'}}",
        "{'audio':{'transcript':'y','expires_at':7}}"};

    expect_message(
        deltas, ARRAY_LEN(deltas),
        "{'role':'assistant','content':null,'reasoning_content':'hm','reasoning':'x',"
        "'audio':{'id':'a','data':'QUJDREVG','transcript':'by','expires_at':7}}");
}

Test(assemble, the_reason_is_one_that_was_given)
{
    expect(OP(CHAT_COMPLETIONS),
           "data: {'choices':[{'index':0,'delta':{'content':'a'},'finish_reason':''}]}\n\n"
           "data: {'choices':[{'index':0,'delta':{},'finish_reason':'length'}]}\n\n"
           "data: {'choices':[{'index':0,'delta':{},'finish_reason':'null'}]}\n\n",
           "{'choices':[{'index':0,'finish_reason':'length','message':{'role':'assistant',"
           "'content':'a'}}]}");
    expect(OP(CHAT_COMPLETIONS),
           "data: {'choices':[{'index':0,'delta':{'content':'a'},'finish_reason':''}]}\n\n"
           "data: [DONE]\n\n",
           "{'choices':[{'index':0,'finish_reason':'stop','message':{'role':'assistant',"
           "'content':'a'}}]}");
}

Test(assemble, several_prompts_of_llama_server_are_one_answer)
{
    expect(
        OP(COMPLETIONS), RIG_LLAMA_PROMPTS,
        "{'choices':[{'index':0,'text':'Dp','logprobs':null,'finish_reason':'length'},"
        "{'index':1,'text':'&q','logprobs':null,'finish_reason':'length'}],'created':7,"
        "'model':'tiny','object':'text_completion','id':'chatcmpl-3','usage':{"
        "'completion_tokens':4,'prompt_tokens':17,'total_tokens':21,'prompt_tokens_details':{"
        "'cached_tokens':6}}}");
}

Test(assemble, a_list_is_as_many_events)
{
    expect(OP(CHAT_COMPLETIONS),
           "data: [{'choices':[{'index':0,'delta':{'content':'a'}}]},null,{'choices':[{'index':"
           "0,'delta':{'content':'b'},'finish_reason':'stop'}]}]\n\n",
           "{'choices':[{'index':0,'finish_reason':'stop','message':{'role':'assistant',"
           "'content':'ab'}}]}");
}

Test(assemble, blocks_that_share_an_index_keep_apart)
{
    expect(
        OP(MESSAGES),
        "data: {'type':'message_start','message':{'id':'m','usage':{'input_tokens':1}}}\n\n"
        "data: {'type':'content_block_start','index':0,'content_block':{'type':'tool_use',"
        "'id':'t','name':'f','input':{}}}\n\n"
        "data: {'type':'content_block_delta','index':0,'delta':{'type':'input_json_delta',"
        "'partial_json':'{\\'a\\':1}'}}\n\n"
        "data: {'type':'content_block_start','index':0,'content_block':{'type':'tool_use',"
        "'id':'u','name':'g','input':{}}}\n\n"
        "data: {'type':'content_block_delta','index':0,'delta':{'type':'input_json_delta',"
        "'partial_json':'{\\'a\\':2}'}}\n\n"
        "data: {'type':'message_stop'}\n\n",
        "{'id':'m','content':[{'type':'tool_use','id':'t','name':'f','input':{'a':1}},"
        "{'type':'tool_use','id':'u','name':'g','input':{'a':2}}],'usage':{'input_tokens':1}}");
}

Test(assemble, tool_calls_are_merged_by_index)
{
    expect(
        OP(CHAT_COMPLETIONS),
        "data: {'choices':[{'index':0,'delta':{'role':'assistant','content':null}}]}\n\n"
        "data: {'choices':[{'index':0,'delta':{'tool_calls':[{'index':0,'id':'c1','type':"
        "'function','function':{'name':'get','arguments':''}}]}}]}\n\n"
        "data: {'choices':[{'index':0,'delta':{'tool_calls':[{'index':0,'function':{"
        "'arguments':'{\\'ci'}}]}}]}\n\n"
        "data: {'choices':[{'index':0,'delta':{'tool_calls':[{'index':1,'id':'c2','type':"
        "'function','function':{'name':'put','arguments':'{}'}}]}}]}\n\n"
        "data: {'choices':[{'index':0,'delta':{'tool_calls':[{'index':0,'function':{"
        "'arguments':'ty\\':1}'}}]}}]}\n\n"
        "data: {'choices':[{'index':0,'delta':{},'finish_reason':'tool_calls'}]}\n\n",
        "{'choices':[{'index':0,'finish_reason':'tool_calls','message':{'role':'assistant',"
        "'content':null,'tool_calls':[{'id':'c1','type':'function','function':{'name':'get',"
        "'arguments':'{\\'city\\':1}'}},{'id':'c2','type':'function','function':{'name':'put',"
        "'arguments':'{}'}}]}}]}");
}

Test(assemble, reasoning_refusal_and_unknown_members_are_kept)
{
    expect(
        OP(CHAT_COMPLETIONS),
        "data: {'choices':[{'index':0,'delta':{'role':'assistant','reasoning_content':'hm'}}],"
        "'service_tier':'x'}\n\n"
        "data: {'choices':[{'index':0,'delta':{'reasoning_content':' so'}}]}\n\n"
        "data: {'choices':[{'index':0,'delta':{'refusal':'no'},'matched_stop':3,"
        "'finish_reason':'stop'}],'usage':null}\n\n",
        "{'choices':[{'index':0,'matched_stop':3,'finish_reason':'stop','message':{'role':"
        "'assistant','content':null,'reasoning_content':'hm so','refusal':'no'}}],"
        "'service_tier':'x','usage':null}");
}

Test(assemble, escapes_survive_even_when_a_pair_is_cut_in_two)
{
    expect(
        OP(CHAT_COMPLETIONS),
        "data: {'choices':[{'index':0,'delta':{'role':'assistant','content':'a\\n\\ud83d'}}]}"
        "\n\n"
        "data: {'choices':[{'index':0,'delta':{'content':'\\ude00z'},'finish_reason':'stop'}]}"
        "\n\n",
        "{'choices':[{'index':0,'finish_reason':'stop','message':{'role':'assistant',"
        "'content':'a\\n\\ud83d\\ude00z'}}]}");
}

Test(assemble, completions_join_text_and_keep_a_null_for_no_logprobs)
{
    expect(OP(COMPLETIONS),
           "data: {'choices':[{'text':' ex','index':0,'logprobs':null,'finish_reason':null}],"
           "'created':7,'object':'text_completion','id':'c'}\n\n"
           "data: {'choices':[{'text':'po','index':0,'logprobs':null,'finish_reason':null}],"
           "'created':7,'object':'text_completion','id':'c'}\n\n"
           "data: {'choices':[{'text':'','index':0,'logprobs':null,'finish_reason':'length'}],"
           "'created':7,'object':'text_completion','id':'c','usage':{'completion_tokens':2},"
           "'timings':{'cache_n':2}}\n\ndata: [DONE]\n\n",
           "{'choices':[{'text':' expo','index':0,'logprobs':null,'finish_reason':'length'}],"
           "'created':7,'object':'text_completion','usage':{'completion_tokens':2},'id':'c',"
           "'timings':{'cache_n':2}}");
    expect(
        OP(COMPLETIONS),
        "data: {'choices':[{'text':'a','index':0,'logprobs':{'tokens':['a'],'text_offset':[0]},"
        "'finish_reason':null}]}\n\n"
        "data: {'choices':[{'text':'b','index':0,'logprobs':{'tokens':['b'],'text_offset':[1]},"
        "'finish_reason':null}]}\n\n"
        "data: {'choices':[{'text':'','index':0,'logprobs':null,'finish_reason':'stop'}]}\n\n",
        "{'choices':[{'text':'ab','index':0,'logprobs':{'tokens':['a','b'],'text_offset':[0,1]"
        "},'finish_reason':'stop'}]}");
}

Test(assemble, a_message_of_llama_server_is_its_whole_answer)
{
    expect(
        OP(MESSAGES), RIG_LLAMA_MESSAGES,
        "{'id':'chatcmpl-2','type':'message','role':'assistant','content':[{'type':'text',"
        "'text':'- h'}],'model':'tiny','stop_reason':'max_tokens','stop_sequence':null,'usage':"
        "{'cache_read_input_tokens':21,'input_tokens':1,'output_tokens':2}}");
}

Test(assemble, members_beside_the_first_event_s_message_are_kept)
{
    expect(
        OP(MESSAGES),
        "data: {'type':'message_start','message':{'id':'m','type':'message','model':'x',"
        "'usage':{'input_tokens':1}},'model':'y','usage':null,'none':null,'simulated':true,"
        "'system_fingerprint':'f'}\n\n"
        "data: {'type':'message_delta','delta':{'stop_reason':'end_turn'},'usage':{"
        "'output_tokens':9}}\n\ndata: {'type':'message_stop'}\n\n",
        "{'id':'m','type':'message','model':'x','simulated':true,'system_fingerprint':'f',"
        "'stop_reason':'end_turn','content':[],'usage':{'input_tokens':1,'output_tokens':9}}");
}

Test(assemble, the_input_of_a_tool_use_is_parsed)
{
    expect(OP(MESSAGES),
           "data: {'type':'message_start','message':{'id':'m','content':[],'usage':{"
           "'input_tokens':1}}}\n\n"
           "data: {'type':'content_block_start','index':0,'content_block':{'type':'thinking',"
           "'thinking':'','signature':''}}\n\n"
           "data: {'type':'content_block_delta','index':0,'delta':{'type':'thinking_delta',"
           "'thinking':'so'}}\n\n"
           "data: {'type':'content_block_delta','index':0,'delta':{'type':'signature_delta',"
           "'signature':'sig'}}\n\n"
           "data: {'type':'content_block_start','index':1,'content_block':{'type':'tool_use',"
           "'id':'t','name':'f','input':{}}}\n\n"
           "data: {'type':'content_block_delta','index':1,'delta':{'type':'input_json_delta',"
           "'partial_json':'{\\'a\\':'}}\n\n"
           "data: {'type':'content_block_delta','index':1,'delta':{'type':'input_json_delta',"
           "'partial_json':'[1,2]}'}}\n\n"
           "data: {'type':'content_block_start','index':2,'content_block':{'type':'tool_use',"
           "'id':'u','name':'g','input':{}}}\n\n"
           "data: {'type':'message_delta','delta':{'stop_reason':'tool_use'},'usage':{"
           "'output_tokens':9}}\n\ndata: {'type':'message_stop'}\n\n",
           "{'id':'m','stop_reason':'tool_use','content':[{'type':'thinking','thinking':'so',"
           "'signature':'sig'},{'type':'tool_use','id':'t','name':'f','input':{'a':[1,2]}},"
           "{'type':'tool_use','id':'u','name':'g','input':{}}],'usage':{'input_tokens':1,"
           "'output_tokens':9}}");
}

Test(assemble, the_completed_response_is_the_answer)
{
    expect(
        OP(RESPONSES), RIG_LLAMA_RESPONSES,
        "{'id':'resp_1','object':'response','created_at':7,'status':'completed','model':'tiny',"
        "'output':[{'type':'message','status':'completed','id':'msg_1','content':[{'type':"
        "'output_text','annotations':[],'logprobs':[],'text':'- h'}],'role':'assistant'}],"
        "'usage':{'input_tokens':22,'output_tokens':2,'total_tokens':24,"
        "'input_tokens_details':{'cached_tokens':21}}}");
}

Test(assemble, ollama_answers_grow_into_the_last_line)
{
    expect(
        OP(OLLAMA_CHAT), RIG_OLLAMA_CHAT,
        "{'model':'m','created_at':'2026-11-23T00:00:02Z','message':{'role':'assistant',"
        "'content':'Hello'},'done_reason':'stop','done':true,'total_duration':9007199254740993,"
        "'prompt_eval_count':26,'eval_count':2}");
    expect(OP(OLLAMA_GENERATE),
           "{'model':'m','response':'a','done':false}\n"
           "{'model':'m','response':'b','done':false}\n"
           "{'model':'m','response':'','done':true,'context':[1,2]}\n",
           "{'model':'m','response':'ab','done':true,'context':[1,2]}");
}

Test(assemble, a_number_keeps_all_its_digits)
{
    struct buf out = BUF_INIT;
    struct rig rig;

    meter_init(&rig.o, OP(OLLAMA_CHAT), false);
    rig.a = assembler_create(OP(OLLAMA_CHAT));
    rig_events(SSE_LINES, RIG_OLLAMA_CHAT, add, &rig);
    cr_assert_eq(assembler_write(rig.a, &out, NULL), 0);
    cr_assert_not_null(strstr(buf_cstr(&out), ":9007199254740993,"));
    assembler_destroy(rig.a);
    buf_finish(&out);
}

Test(assemble, an_empty_stream_is_no_answer)
{
    struct assembler *a = assembler_create(OP(CHAT_COMPLETIONS));
    struct buf out = BUF_INIT;
    struct error err = {0};

    cr_assert_eq(assembler_write(a, &out, &err), DRV_EINVAL);
    assembler_destroy(a);
    buf_finish(&out);
}

Test(assemble, an_absurd_index_is_refused)
{
    static const char text[] = "{\"choices\":[{\"index\":4000000,\"delta\":{}}]}";
    struct assembler *a = assembler_create(OP(CHAT_COMPLETIONS));
    struct json_value root;

    cr_assert_eq(json_check(&root, text, sizeof(text) - 1, NULL), 0);
    cr_assert_eq(assembler_add(a, &root), DRV_EINVAL);
    assembler_destroy(a);
}

/* A small generator whose numbers are the same on every machine. */
static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static void add_if_taken(void *data, const struct sse_event *event)
{
    struct rig *rig = data;
    struct seen seen;

    meter_event(&rig->o, event, &seen);
    if (seen.root.type != JSON_NONE)
        rig->refused += assembler_add(rig->a, &seen.root) != 0;
}

Test(assemble, an_answer_is_json_or_none_for_any_text_of_an_engine)
{
    static const struct {
        int operation;
        const char *stream;
    } seeds[] = {
        {OP(CHAT_COMPLETIONS), RIG_LLAMA_CHAT}, {OP(COMPLETIONS), RIG_LLAMA_CHAT},
        {OP(MESSAGES), RIG_LLAMA_MESSAGES},     {OP(RESPONSES), RIG_LLAMA_RESPONSES},
        {OP(OLLAMA_CHAT), RIG_OLLAMA_CHAT},     {OP(OLLAMA_GENERATE), RIG_OLLAMA_CHAT},
    };
    static const char alphabet[] = "'{}[]:,0123456789nulltruefalse\\ud83d\n\r :xindexcontent";
    unsigned answers = 0;
    uint32_t state = 1;

    for (unsigned round = 0; round < 6000; round++) {
        char text[4096];
        size_t n = strlcpy(text, seeds[round % ARRAY_LEN(seeds)].stream, sizeof(text));
        struct buf out = BUF_INIT;
        struct json_value root;
        struct rig rig = {0};

        cr_assert_lt(n, sizeof(text));
        for (uint32_t changes = next_random(&state) % 6; changes != 0; changes--)
            text[next_random(&state) % n] =
                alphabet[next_random(&state) % (sizeof(alphabet) - 1)];
        meter_init(&rig.o, seeds[round % ARRAY_LEN(seeds)].operation, true);
        rig.a = assembler_create(rig.o.operation);
        cr_assert_not_null(rig.a);
        rig_events(meter_is_ndjson(rig.o.operation) ? SSE_LINES : SSE_EVENTS, text,
                   add_if_taken, &rig);
        if (assembler_write(rig.a, &out, NULL) == 0) {
            answers++;
            cr_assert_eq(json_check(&root, buf_head(&out), buf_size(&out), NULL), 0,
                         "from %s\ncame %s", text, buf_cstr(&out));
        }
        assembler_destroy(rig.a);
        meter_finish(&rig.o);
        buf_finish(&out);
    }
    cr_assert_gt(answers, 3000);
}
