/* test_as_stream.c - an answer in one document becomes what the engine streams. */
#include <cjson/cJSON.h>
#include <criterion/criterion.h>

#include "base/error.h"
#include "base/text/json.h"
#include "node/answer/as_stream.h"
#include "node/stream/assemble.h"
#include "node/stream/meter.h"
#include "proto/drover_common.pb-c.h"
#include "stream_rig.h"

#define OP(name) DROVER__V1__OPERATION__OPERATION_##name

/* Writes `document` (single quotes allowed) as events. */
static int write(struct buf *out, int operation, const char *document, bool usage)
{
    struct buf text = BUF_INIT;
    struct json_value root;
    int rc;

    rig_add(&text, document);
    cr_assert_eq(json_check(&root, buf_head(&text), buf_size(&text), NULL), 0);
    rc = as_stream_write(out, operation, &root, usage);
    buf_finish(&text);
    return rc;
}

static void expect(int operation, const char *document, bool usage, const char *stream)
{
    struct buf out = BUF_INIT, wanted = BUF_INIT;

    rig_add(&wanted, stream);
    cr_assert_eq(write(&out, operation, document, usage), 0);
    cr_assert_str_eq(buf_cstr(&out), buf_cstr(&wanted));
    buf_finish(&out);
    buf_finish(&wanted);
}

struct rig {
    struct stream_meter o;
    struct assembler *a;
};

static void add(void *data, const struct sse_event *event)
{
    struct rig *rig = data;
    struct seen seen;

    meter_event(&rig->o, event, &seen);
    cr_assert(seen.kind != SEEN_ERROR && seen.kind != SEEN_GARBAGE && !seen.ignored);
    if (seen.root.type != JSON_NONE)
        cr_assert_eq(assembler_add(rig->a, &seen.root), 0);
}

/* The document's events are whole, and put together they are the document again. */
static void expect_same(int operation, const char *document)
{
    struct buf stream = BUF_INIT, again = BUF_INIT, wanted = BUF_INIT;
    struct error err = {0};
    cJSON *got_json, *want_json;
    struct rig rig;

    meter_init(&rig.o, operation, false);
    rig.a = assembler_create(operation);
    cr_assert_not_null(rig.a);
    cr_assert_eq(write(&stream, operation, document, true), 0);
    rig_events(meter_is_ndjson(operation) ? SSE_LINES : SSE_EVENTS, buf_cstr(&stream), add,
               &rig);
    cr_assert(rig.o.done, "no end: %s", buf_cstr(&stream));
    cr_assert_not(meter_is_empty(&rig.o));
    cr_assert_eq(assembler_write(rig.a, &again, &err), 0, "%s", err.text);
    rig_add(&wanted, document);
    got_json = cJSON_Parse(buf_cstr(&again));
    want_json = cJSON_Parse(buf_cstr(&wanted));
    cr_assert(cJSON_Compare(got_json, want_json, true), "got %s", buf_cstr(&again));
    cJSON_Delete(got_json);
    cJSON_Delete(want_json);
    assembler_destroy(rig.a);
    meter_finish(&rig.o);
    buf_finish(&stream);
    buf_finish(&again);
    buf_finish(&wanted);
}

#define SAID "'id':'c','created':1,'model':'tiny'"
#define CHAT                                                                                 \
    "{" SAID ",'object':'chat.completion','choices':[{'index':0,'message':{'role':"          \
    "'assistant','content':'Hello'},'finish_reason':'length'}],'usage':{'prompt_tokens':3}," \
    "'timings':{'x':1}}"
#define CHAT_EVENTS                                                                       \
    "data: {'choices':[{'delta':{'role':'assistant','content':'Hello'},'index':0,"        \
    "'finish_reason':null}]," SAID ",'object':'chat.completion.chunk','timings':{'x':1}}" \
    "\n\n"                                                                                \
    "data: {" SAID ",'object':'chat.completion.chunk','choices':[{'index':0,'delta':{},"  \
    "'finish_reason':'length'}]}\n\n"

Test(as_stream, a_chat_is_its_message_then_its_end)
{
    expect(OP(CHAT_COMPLETIONS), CHAT, false, CHAT_EVENTS "data: [DONE]\n\n");
    expect(OP(CHAT_COMPLETIONS), CHAT, true,
           CHAT_EVENTS "data: {" SAID ",'object':'chat.completion.chunk','choices':[],'usage':"
                       "{'prompt_tokens':3}}\n\ndata: [DONE]\n\n");
}

#define NO_USAGE "{'input_tokens':0,'output_tokens':0}"

Test(as_stream, a_document_without_a_reason_gets_the_usual_one)
{
    expect(OP(CHAT_COMPLETIONS), "{'choices':[{'message':{'tool_calls':[{'id':'a'},{}]}}]}",
           true,
           "data: {'choices':[{'delta':{'tool_calls':[{'index':0,'id':'a'},{'index':1}]},"
           "'finish_reason':null,'index':0}],'object':'chat.completion.chunk'}\n\n"
           "data: {'object':'chat.completion.chunk','choices':[{'index':0,'delta':{},"
           "'finish_reason':'tool_calls'}]}\n\ndata: [DONE]\n\n");
    expect(OP(CHAT_COMPLETIONS), "{'choices':[{'index':7}]}", true,
           "data: {'choices':[{'delta':{},'finish_reason':null,'index':7}],'object':"
           "'chat.completion.chunk'}\n\n"
           "data: {'object':'chat.completion.chunk','choices':[{'index':7,'delta':{},"
           "'finish_reason':'stop'}]}\n\ndata: [DONE]\n\n");
    expect(OP(MESSAGES), "{'content':[{'type':'tool_use','input':{'x':1}}]}", false,
           "event: message_start\ndata: {'type':'message_start','message':{'stop_reason':null,"
           "'stop_sequence':null,'usage':" NO_USAGE ",'content':[]}}\n\n"
           "event: content_block_start\ndata: {'type':'content_block_start','index':0,"
           "'content_block':{'type':'tool_use','input':{}}}\n\n"
           "event: content_block_delta\ndata: {'type':'content_block_delta','index':0,'delta':{"
           "'type':'input_json_delta','partial_json':'{\\'x\\':1}'}}\n\n"
           "event: content_block_stop\ndata: {'type':'content_block_stop','index':0}\n\n"
           "event: message_delta\ndata: {'type':'message_delta','delta':{'stop_reason':"
           "'tool_use','stop_sequence':null},'usage':" NO_USAGE "}\n\n"
           "event: message_stop\ndata: {'type':'message_stop'}\n\n");
    expect(OP(OLLAMA_CHAT), "{'message':{'content':'x'}}", false,
           "{'done':true,'message':{'content':'x'}}\n");
}

Test(as_stream, choices_without_an_index_are_counted)
{
    expect(OP(COMPLETIONS), "{'choices':[{'text':'a'},{'text':'b'}]}", false,
           "data: {'choices':[{'finish_reason':null,'index':0,'text':'a'},{'finish_reason':"
           "null,'index':1,'text':'b'}]}\n\n"
           "data: {'object':'text_completion','choices':[{'index':0,'text':'','logprobs':null,"
           "'finish_reason':'stop'},{'index':1,'text':'','logprobs':null,'finish_reason':"
           "'stop'}]}\n\ndata: [DONE]\n\n");
}

Test(as_stream, a_response_comes_item_by_item)
{
    struct buf out = BUF_INIT;
    static const char *const names[] = {"created",
                                        "output_item.added",
                                        "output_item.done",
                                        "output_item.added",
                                        "content_part.added",
                                        "output_text.delta",
                                        "output_text.done",
                                        "content_part.done",
                                        "content_part.added",
                                        "refusal.done",
                                        "content_part.done",
                                        "output_item.done",
                                        "output_item.added",
                                        "function_call_arguments.delta",
                                        "function_call_arguments.done",
                                        "output_item.done",
                                        "incomplete"};
    const char *at;

    cr_assert_eq(
        write(
            &out, OP(RESPONSES),
            "{'id':'r','status':'incomplete','output':[{'type':'reasoning','id':'rs','summary':"
            "[{'type':'summary_text','text':'t'}]},{'type':'message','id':'m','status':"
            "'completed','content':[{'type':'output_text','text':'Hi','annotations':[]},{"
            "'type':'refusal','refusal':''}]},{'type':'function_call','id':'f','arguments':"
            "'{}','name':'g'}]}",
            false),
        0);
    at = buf_cstr(&out);
    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        char head[160];

        (void)snprintf(head, sizeof(head),
                       "event: response.%s\ndata: {\"type\":\"response.%s\","
                       "\"sequence_number\":%u",
                       names[i], names[i], i);
        cr_assert_eq(strncmp(at, head, strlen(head)), 0, "not %s: %.300s", names[i], at);
        at = strstr(at, "\n\n") + 2;
    }
    cr_assert_str_empty(at);
    cr_assert_not_null(strstr(buf_cstr(&out),
                              "\"item_id\":\"m\",\"output_index\":1,\"content_index\":0,"
                              "\"delta\":\"Hi\"}"));
    buf_finish(&out);
}

Test(as_stream, the_events_make_the_document_again)
{
    expect_same(OP(CHAT_COMPLETIONS), CHAT);
    expect_same(
        OP(CHAT_COMPLETIONS),
        "{'id':'c','object':'chat.completion','choices':[{'index':0,'message':{'role':"
        "'assistant','content':null,'tool_calls':[{'id':'a','type':'function','function':{"
        "'name':'f','arguments':'{}'}},{'id':'b','type':'function','function':{'name':'g',"
        "'arguments':'{}'}}]},'finish_reason':'tool_calls'},{'index':1,'message':{'role':"
        "'assistant','content':'b','reasoning_content':'r'},'logprobs':{'content':[{'token':"
        "'b'}]},'finish_reason':'stop'}]}");
    expect_same(OP(COMPLETIONS),
                "{'id':'c','object':'text_completion','choices':[{'index':0,'text':'x\\ny',"
                "'logprobs':null,'finish_reason':'stop'}],'usage':{'prompt_tokens':3}}");
    expect_same(
        OP(MESSAGES),
        "{'id':'m','type':'message','role':'assistant','model':'x','content':["
        "{'type':'thinking','thinking':'hm','signature':'s'},{'type':'text','text':'Hi',"
        "'citations':[{'cited_text':'z'}]},{'type':'redacted_thinking','data':'zz'},"
        "{'type':'tool_use','id':'t','name':'f','input':{'a':[1]}}],'stop_reason':"
        "'stop_sequence','stop_sequence':'X','usage':{'input_tokens':3,'output_tokens':"
        "2}}");
    expect_same(
        OP(RESPONSES),
        "{'id':'r','object':'response','status':'completed','output':[{'type':'message',"
        "'id':'m','content':[{'type':'output_text','text':'Hi'}]}],'usage':{"
        "'input_tokens':3,'output_tokens':2}}");
    expect_same(OP(OLLAMA_CHAT),
                "{'model':'m','message':{'role':'assistant','content':'Hello'},"
                "'done':true,'eval_count':2}");
    expect_same(OP(OLLAMA_GENERATE), "{'model':'m',\n 'response':'Hello',\r\n\t'done':true}\n");
}

Test(as_stream, a_document_written_for_people_is_one_line_an_event)
{
    struct buf out = BUF_INIT;

    cr_assert_eq(write(&out, OP(COMPLETIONS),
                       "{\n  'choices': [\r\n    { 'text': 'x' }\n  ]\n, 'x': [\n]}\n", true),
                 0);
    cr_assert_null(strchr(buf_cstr(&out), '\r'));
    for (const char *at = buf_cstr(&out); *at != '\0'; at = strstr(at, "\n\n") + 2)
        cr_assert_eq(strncmp(at, "data: ", 6), 0, "%s", at);
    buf_finish(&out);
}

/* Short elements, or members of one name, must not cost many bytes each. */
Test(as_stream, a_document_costs_no_hundred_times_its_size)
{
    struct buf text = BUF_INIT, out = BUF_INIT;
    static const char *const lists[] = {"{\"choices\":[", "{\"content\":[", "{\"output\":["};
    static const int operations[] = {OP(CHAT_COMPLETIONS), OP(MESSAGES), OP(RESPONSES)};

    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        buf_reset(&text);
        buf_str(&text, lists[i]);
        for (unsigned n = 0; n < 5000; n++)
            buf_str(&text, "{},");
        buf_str(&text, "{}]}");
        cr_assert_eq(write(&out, operations[i], buf_cstr(&text), false), DRV_EINVAL);
    }
    buf_reset(&text);
    buf_str(&text, "{");
    for (unsigned n = 0; n < 1000; n++)
        buf_str(&text, "\"choices\":1,");
    buf_str(&text, "\"choices\":[{\"message\":{\"content\":\"");
    for (unsigned n = 0; n < 1000; n++)
        buf_str(&text, "0123456789");
    buf_str(&text, "\"}}]}");
    buf_reset(&out);
    cr_assert_eq(write(&out, OP(CHAT_COMPLETIONS), buf_cstr(&text), false), 0);
    cr_assert(buf_size(&out) < 2 * buf_size(&text));
    buf_finish(&text);
    buf_finish(&out);
}

Test(as_stream, a_document_without_an_end_is_no_stream)
{
    struct buf out = BUF_INIT, text = BUF_INIT;

    cr_assert_eq(write(&out, OP(RESPONSES), "{'id':'r','status':'queued'}", false), DRV_EINVAL);
    cr_assert_eq(write(&out, OP(RESPONSES), "{'output':[7]}", false), DRV_EINVAL);
    cr_assert_eq(write(&out, OP(CHAT_COMPLETIONS), "{'choices':[7]}", false), DRV_EINVAL);
    cr_assert_eq(write(&out, OP(MESSAGES), "{'content':['x']}", false), DRV_EINVAL);
    buf_printf(&text, "{'output':[{'id':'%0300d'}]}", 0);
    cr_assert_eq(write(&out, OP(RESPONSES), buf_cstr(&text), false), DRV_EINVAL);
    buf_finish(&out);
    buf_finish(&text);
}
