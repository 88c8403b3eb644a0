/* test_resume.c - which answers can be continued, and what is asked of the engine. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "base/error.h"
#include "node/body/resume.h"
#include "proto/drover_common.pb-c.h"
#include "stream_rig.h"

#define OP(name)   DROVER__V1__OPERATION__OPERATION_##name
#define KIND(name) DROVER__V1__ENGINE_KIND__ENGINE_KIND_##name

/* ---- which ---------------------------------------------------------------------------- */

static bool possible(int operation, const char *body)
{
    struct buf text = BUF_INIT;
    struct json_value root;
    bool answer;

    rig_add(&text, body);
    cr_assert_eq(json_check(&root, buf_head(&text), buf_size(&text), NULL), 0, "%s", body);
    answer = resume_possible(operation, &root);
    buf_finish(&text);
    return answer;
}

/* A chat that ends with the user, and these members. */
static bool chat_with(const char *members)
{
    char body[512];

    (void)snprintf(body, sizeof(body),
                   "{'messages':[{'role':'assistant','content':'yes?'},"
                   "{'role':'user','content':'hi'}],'stream':true%s}",
                   members);
    return possible(OP(CHAT_COMPLETIONS), body);
}

Test(resume, a_plain_chat_a_text_prompt_and_a_message_can_be_continued)
{
    cr_assert(chat_with(""));
    cr_assert(possible(OP(COMPLETIONS), "{'prompt':'Once'}"));
    cr_assert(possible(OP(COMPLETIONS), "{'prompt':''}"));
    cr_assert(possible(OP(MESSAGES), "{'system':'s','messages':[{'role':'user'}]}"));
}

Test(resume, other_operations_cannot)
{
    static const char body[] = "{'prompt':'a','input':'a','messages':[{'role':'user'}]}";
    static const int others[] = {0, OP(EMBEDDINGS), OP(OLLAMA_CHAT), 99, -1};

    for (size_t i = 0; i < ARRAY_LEN(others); i++)
        cr_assert_not(possible(others[i], body), "operation %d", others[i]);
}

Test(resume, a_response_can_be_continued_when_its_request_holds_all_of_its_state)
{
    static const char *const others[] = {
        "{'input':'a','previous_response_id':'r'}",
        "{'input':'a','conversation':'c'}",
        "{'input':'a','background':true}",
        "{'input':'a','tools':[{}]}",
        "{'input':'a','include':['x']}",
        "{'input':'a','prompt':{'id':'p'}}",
        "{'input':[]}",
        "{'input':[{'role':'assistant'}]}",
        "{'input':[{'type':'function_call_output'}]}",
        "{'input':'a','text':{'format':{'type':'json_schema'}}}"};

    cr_assert(
        possible(OP(RESPONSES), "{'input':'a','store':true,'previous_response_id':null}"));
    cr_assert(possible(OP(RESPONSES),
                       "{'input':[{'role':'user','content':'a'}],'text':{'format':"
                       "{'type':'text'}}}"));
    for (size_t i = 0; i < ARRAY_LEN(others); i++)
        cr_assert_not(possible(OP(RESPONSES), others[i]), "%s", others[i]);
    cr_assert(resume_engine_can(KIND(LLAMA_SERVER), OP(RESPONSES)));
    cr_assert_not(resume_engine_can(KIND(VLLM), OP(RESPONSES)));
}

Test(resume, options_that_say_no_are_no_obstacle)
{
    static const char *const harmless[] = {",'tools':[]",
                                           ",'tools':null",
                                           ",'logprobs':false",
                                           ",'n':1",
                                           ",'best_of':null",
                                           ",'response_format':{'type':'text'}",
                                           ",'response_format':null",
                                           ",'echo':false",
                                           ",'suffix':''",
                                           ",'grammar':''",
                                           ",'top_logprobs':0",
                                           ",'modalities':['text']",
                                           ",'thinking':{'type':'disabled'}",
                                           ",'add_generation_prompt':true",
                                           ",'continue_final_message':false",
                                           ",'temperature':0.5,'seed':7,'stop':['x']",
                                           ",'max_tokens':10,'chat_template_kwargs':{}"};

    for (size_t i = 0; i < ARRAY_LEN(harmless); i++)
        cr_assert(chat_with(harmless[i]), "%s", harmless[i]);
}

Test(resume, options_that_make_more_of_an_answer_than_its_text_are_obstacles)
{
    static const char *const obstacles[] = {",'tools':[{'type':'function'}]",
                                            ",'functions':[{'name':'f'}]",
                                            ",'response_format':{'type':'json_object'}",
                                            ",'response_format':{'type':'json_schema'}",
                                            ",'response_format':'json'",
                                            ",'response_format':{}",
                                            ",'grammar':'root ::= x'",
                                            ",'json_schema':{'type':'object'}",
                                            ",'guided_json':{'type':'object'}",
                                            ",'guided_choice':['a','b']",
                                            ",'structured_outputs':{'regex':'a'}",
                                            ",'logprobs':true",
                                            ",'top_logprobs':2",
                                            ",'n_probs':1",
                                            ",'n':2",
                                            ",'n':'2'",
                                            ",'n':1,'n':3",
                                            ",'best_of':2",
                                            ",'echo':true",
                                            ",'suffix':'end'",
                                            ",'modalities':['text','audio']",
                                            ",'audio':{'voice':'a'}",
                                            ",'thinking':{'type':'enabled'}",
                                            ",'continue_final_message':true",
                                            ",'add_generation_prompt':false",
                                            ",'return_token_ids':true"};

    for (size_t i = 0; i < ARRAY_LEN(obstacles); i++)
        cr_assert_not(chat_with(obstacles[i]), "%s", obstacles[i]);
}

Test(resume, an_answer_that_itself_continues_a_message_is_not_continued)
{
    cr_assert_not(
        possible(OP(CHAT_COMPLETIONS),
                 "{'messages':[{'role':'user'},{'role':'assistant','content':'A'}]}"));
    cr_assert_not(possible(OP(MESSAGES),
                           "{'messages':[{'role':'user'},{'role':'assistant','content':["
                           "{'type':'image'}]}]}"));
}

Test(resume, bodies_without_the_input_of_their_operation_are_not_continued)
{
    static const char *const chats[] = {"{}",
                                        "{'messages':[]}",
                                        "{'messages':'hi'}",
                                        "{'messages':['hi']}",
                                        "{'messages':[{'role':1}]}",
                                        "[]"};
    static const char *const prompts[] = {"{}",
                                          "{'prompt':['a']}",
                                          "{'prompt':[1,2]}",
                                          "{'prompt':null}",
                                          "{'prompt':'a','logprobs':0}",
                                          "{'prompt':'a','logprobs':5}"};

    for (size_t i = 0; i < ARRAY_LEN(chats); i++)
        cr_assert_not(possible(OP(CHAT_COMPLETIONS), chats[i]), "%s", chats[i]);
    for (size_t i = 0; i < ARRAY_LEN(prompts); i++)
        cr_assert_not(possible(OP(COMPLETIONS), prompts[i]), "%s", prompts[i]);
}

Test(resume, engines_continue_what_they_are_known_to)
{
    cr_assert(resume_engine_can(KIND(LLAMA_SERVER), OP(CHAT_COMPLETIONS)));
    cr_assert(resume_engine_can(KIND(LLAMA_SERVER), OP(MESSAGES)));
    cr_assert(resume_engine_can(KIND(VLLM), OP(CHAT_COMPLETIONS)));
    cr_assert(resume_engine_can(KIND(SGLANG), OP(COMPLETIONS)));
    cr_assert(resume_engine_can(KIND(SIMULATED), OP(MESSAGES)));
    cr_assert_not(resume_engine_can(KIND(VLLM), OP(MESSAGES)));
    cr_assert_not(resume_engine_can(KIND(OLLAMA), OP(CHAT_COMPLETIONS)));
    cr_assert_not(resume_engine_can(KIND(OPENAI), OP(COMPLETIONS)));
    cr_assert(resume_engine_repeats(KIND(LLAMA_SERVER), OP(MESSAGES)));
    cr_assert_not(resume_engine_repeats(KIND(LLAMA_SERVER), OP(CHAT_COMPLETIONS)));
    cr_assert_not(resume_engine_repeats(KIND(SIMULATED), OP(MESSAGES)));
}

Test(resume, replacement_characters_at_the_end_are_not_given_to_the_engine)
{
    cr_assert_eq(resume_text_len("caf\xc3\xa9"), 5);
    cr_assert_eq(resume_text_len("ab\xef\xbf\xbd"), 2);
    cr_assert_eq(resume_text_len("ab\xef\xbf\xbd\xef\xbf\xbd"), 2);
    cr_assert_eq(resume_text_len("\xef\xbf\xbd"
                                 "b"),
                 4);
    cr_assert_eq(resume_text_len("\xef\xbf\xbd"), 0);
    cr_assert_eq(resume_text_len(""), 0);
}

/* ---- the body -------------------------------------------------------------------------- */

/* As resume_body(), of a text. */
static int resume_text(struct buf *out, const void *body, size_t n,
                       const struct resume_request *request, bool *over, struct error *err)
{
    struct json_value root;
    int rc = json_check(&root, body, n, err);

    return rc != 0 ? rc : resume_body(out, &root, request, over, err);
}

/* True when a limit is reached. */
static bool expect(int operation, const char *body, const char *text, uint32_t tokens,
                   const char *wanted)
{
    struct resume_request request = {
        .operation = operation, .text = text, .text_len = strlen(text), .tokens = tokens};
    struct buf in = BUF_INIT, out = BUF_INIT, want = BUF_INIT;
    struct error err = {0};
    bool over;

    rig_add(&in, body);
    cr_assert_eq(resume_text(&out, buf_head(&in), buf_size(&in), &request, &over, &err), 0,
                 "%s", err.text);
    if (wanted != NULL) {
        rig_add(&want, wanted);
        cr_assert_str_eq(buf_cstr(&out), buf_cstr(&want));
    }
    buf_finish(&in);
    buf_finish(&out);
    buf_finish(&want);
    return over;
}

Test(resume, a_chat_gets_the_text_as_its_last_message_and_keeps_every_other_byte)
{
    cr_assert_not(expect(
        OP(CHAT_COMPLETIONS),
        "{ 'stream' : true, 'messages':[ {'role':'user', 'content':'hi'} ],  'odd':1.50e1 }",
        "The server", 2,
        "{'continue_final_message':true,'add_generation_prompt':false, 'stream' : true, "
        "'messages':[ {'role':'user', 'content':'hi'} ,{'role':'assistant','content':'The "
        "server'}],  'odd':1.50e1 }"));
}

Test(resume, flags_of_the_clients_own_are_replaced_where_they_stand)
{
    (void)expect(OP(CHAT_COMPLETIONS),
                 "{'add_generation_prompt':true,'messages':[{'role':'user'}],"
                 "'continue_final_message':null}",
                 "A", 1,
                 "{'add_generation_prompt':false,'messages':[{'role':'user'},{'role':"
                 "'assistant','content':'A'}],'continue_final_message':true}");
}

Test(resume, a_message_is_continued_by_its_last_turn_alone)
{
    (void)expect(OP(MESSAGES), "{'max_tokens':50,'messages':[{'role':'user'}]}", "A", 8,
                 "{'max_tokens':42,'messages':[{'role':'user'},{'role':'assistant','content':"
                 "'A'}]}");
}

Test(resume, a_prompt_is_lengthened_inside_its_quotes)
{
    struct buf out = BUF_INIT;
    struct resume_request request = {
        .operation = OP(COMPLETIONS), .text = "b\"\n\xc3\xa9", .text_len = 5, .tokens = 3};
    static const char body[] = "{\"prompt\":\"a\\u00e9\\\\\",\"n\":1}";
    struct error err = {0};
    bool over;

    cr_assert_eq(resume_text(&out, body, strlen(body), &request, &over, &err), 0);
    cr_assert_not(over);
    cr_assert_str_eq(buf_cstr(&out), "{\"prompt\":\"a\\u00e9\\\\b\\\"\\n\xc3\xa9\",\"n\":1}");
    buf_finish(&out);
}

Test(resume, token_ids_follow_the_prompt_in_a_list)
{
    static const char body[] = "{\"n\":1, \"prompt\" : \"a\\\"\",\"max_tokens\":9}";
    static const uint32_t ids[] = {372, 0, UINT32_MAX};
    struct resume_request request = {.operation = OP(COMPLETIONS),
                                     .text = "b",
                                     .text_len = 1,
                                     .tokens = 3,
                                     .token_ids = ids,
                                     .token_ids_count = 3};
    struct buf out = BUF_INIT;
    struct error err = {0};
    bool over;

    cr_assert_eq(resume_text(&out, body, strlen(body), &request, &over, &err), 0);
    cr_assert_str_eq(buf_cstr(&out),
                     "{\"n\":1, \"prompt\" : [\"a\\\"\",372,0,4294967295],\"max_tokens\":6}");
    buf_finish(&out);
}

Test(resume, ids_are_for_completions_of_engines_that_take_them)
{
    cr_assert(resume_engine_knows_ids(KIND(LLAMA_SERVER), OP(COMPLETIONS)));
    cr_assert(resume_engine_knows_ids(KIND(SIMULATED), OP(COMPLETIONS)));
    cr_assert_not(resume_engine_knows_ids(KIND(LLAMA_SERVER), OP(CHAT_COMPLETIONS)));
    cr_assert_not(resume_engine_knows_ids(KIND(LLAMA_SERVER), OP(MESSAGES)));
    cr_assert_not(resume_engine_knows_ids(KIND(OLLAMA), OP(COMPLETIONS)));
    cr_assert_not(resume_engine_knows_ids(KIND(OPENAI), OP(COMPLETIONS)));
}

Test(resume, the_text_follows_the_input_as_an_item_of_the_assistant)
{
    cr_assert_not(expect(
        OP(RESPONSES), "{'input':'Hi','max_output_tokens':9}", "A", 3,
        "{'continue_final_message':true,'add_generation_prompt':false,'input':[{'role':'user',"
        "'content':'Hi'},{'type':'message','role':'assistant','content':[{'type':'output_text',"
        "'text':'A'}]}],'max_output_tokens':6}"));
    cr_assert_not(expect(
        OP(RESPONSES), "{'input':[{'role':'user','content':[]}]}", "A", 3,
        "{'continue_final_message':true,'add_generation_prompt':false,'input':[{'role':'user',"
        "'content':[]},{'type':'message','role':'assistant','content':[{'type':'output_text',"
        "'text':'A'}]}]}"));
    cr_assert(expect(OP(RESPONSES), "{'input':'Hi','max_output_tokens':3}", "A", 3, NULL));
}

Test(resume, limits_are_lowered_by_the_tokens_that_were_given)
{
    cr_assert_not(expect(OP(COMPLETIONS), "{'max_tokens':50,'prompt':'a'}", "b", 49,
                         "{'max_tokens':1,'prompt':'ab'}"));
    cr_assert_not(
        expect(OP(COMPLETIONS),
               "{'prompt':'a','max_completion_tokens':30,'n_predict':20,'min_tokens':5}", "b",
               7, "{'prompt':'ab','max_completion_tokens':23,'n_predict':13,'min_tokens':0}"));
    cr_assert_not(expect(OP(COMPLETIONS), "{'prompt':'a','min_tokens':9}", "b", 7,
                         "{'prompt':'ab','min_tokens':2}"));
}

Test(resume, limits_that_are_none_stay)
{
    cr_assert_not(expect(OP(COMPLETIONS), "{'prompt':'a','max_tokens':null,'n_predict':-1}",
                         "b", 7, "{'prompt':'ab','max_tokens':null,'n_predict':-1}"));
    cr_assert_not(expect(OP(COMPLETIONS), "{'prompt':'a','max_tokens':0}", "b", 7,
                         "{'prompt':'ab','max_tokens':0}"));
}

Test(resume, an_answer_at_one_of_its_limits_is_over)
{
    cr_assert(expect(OP(COMPLETIONS), "{'max_tokens':50,'prompt':'a'}", "b", 50, NULL));
    cr_assert(expect(OP(COMPLETIONS), "{'max_tokens':50,'prompt':'a'}", "b", 51, NULL));
    cr_assert(expect(OP(CHAT_COMPLETIONS),
                     "{'max_tokens':50,'max_completion_tokens':5,'messages':[{'role':'user'}]}",
                     "b", 5, NULL));
}

Test(resume, without_text_only_the_limits_change)
{
    (void)expect(OP(CHAT_COMPLETIONS), "{'messages':[{'role':'user'}],'max_tokens':5}", "", 2,
                 "{'messages':[{'role':'user'}],'max_tokens':3}");
    (void)expect(OP(CHAT_COMPLETIONS), "{ 'messages':[{'role':'user'}]}", "", 0,
                 "{ 'messages':[{'role':'user'}]}");
}

Test(resume, requests_that_cannot_be_continued_are_refused)
{
    static const char *const bad[] = {"", "[]", "{\"prompt\":[1]}",
                                      "{\"prompt\":\"a\",\"n\":2}", "{\"prompt\":\"a\""};
    struct resume_request request = {
        .operation = OP(COMPLETIONS), .text = "b", .text_len = 1, .tokens = 1};

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct buf out = BUF_INIT;
        struct error err = {0};
        bool over;

        cr_assert_eq(resume_text(&out, bad[i], strlen(bad[i]), &request, &over, &err),
                     DRV_EINVAL, "case %zu", i);
        cr_assert_neq(err.text[0], '\0');
        buf_finish(&out);
    }
}

/* ---- the end --------------------------------------------------------------------------- */

static void expect_last(int operation, const char *body, const char *wanted)
{
    struct resume_last last = {.operation = operation,
                               .id = "x-1",
                               .created = 7,
                               .prompt_tokens = 10,
                               .output_tokens = 32,
                               .text = "ab",
                               .text_len = 2,
                               .item_id = "msg-1",
                               .next_sequence = 9};
    struct buf in = BUF_INIT, out = BUF_INIT, want = BUF_INIT;
    struct json_value root;

    rig_add(&in, body);
    rig_add(&want, wanted);
    cr_assert_eq(json_check(&root, buf_head(&in), buf_size(&in), NULL), 0);
    resume_last_events(&out, &root, &last);
    cr_assert_str_eq(buf_cstr(&out), buf_cstr(&want));
    buf_finish(&in);
    buf_finish(&out);
    buf_finish(&want);
}

Test(resume, the_last_events_of_a_chat_end_it_and_have_usage_if_asked)
{
    expect_last(OP(CHAT_COMPLETIONS), "{'model':'m'}",
                "data: {'id':'x-1','object':'chat.completion.chunk','created':7,'model':'m',"
                "'choices':[{'index':0,'delta':{},'logprobs':null,'finish_reason':'length'}]}"
                "\n\ndata: [DONE]\n\n");
    expect_last(OP(COMPLETIONS), "{'model':'m','stream_options':{'include_usage':true}}",
                "data: {'id':'x-1','object':'text_completion','created':7,'model':'m',"
                "'choices':[{'index':0,'text':'','logprobs':null,'finish_reason':'length'}]}"
                "\n\n"
                "data: {'id':'x-1','object':'text_completion','created':7,'model':'m',"
                "'choices':[],'usage':{'prompt_tokens':10,'completion_tokens':32,"
                "'total_tokens':42}}\n\ndata: [DONE]\n\n");
}

Test(resume, the_last_events_of_a_message_close_its_block)
{
    expect_last(OP(MESSAGES), "{}",
                "event: content_block_stop\ndata: {'type':'content_block_stop','index':0}\n\n"
                "event: message_delta\ndata: {'type':'message_delta','delta':{'stop_reason':"
                "'max_tokens','stop_sequence':null},'usage':{'output_tokens':32}}\n\n"
                "event: message_stop\ndata: {'type':'message_stop'}\n\n");
}

Test(resume, the_last_events_of_a_response_close_all_that_is_open_and_go_on_counting)
{
    expect_last(
        OP(RESPONSES), "{'model':'m'}",
        "event: response.output_text.done\ndata: {'type':'response.output_text.done',"
        "'sequence_number':9,'item_id':'msg-1','output_index':0,'content_index':0,'text':'ab'}"
        "\n\n"
        "event: response.content_part.done\ndata: {'type':'response.content_part.done',"
        "'sequence_number':10,'item_id':'msg-1','output_index':0,'content_index':0,'part':{'"
        "type':"
        "'output_text','annotations':[],'text':'ab'}}\n\n"
        "event: response.output_item.done\ndata: {'type':'response.output_item.done',"
        "'sequence_number':11,'output_index':0,'item':{'type':'message','id':'msg-1','role':"
        "'assistant','status':'incomplete','content':[{'type':'output_text','annotations':[],"
        "'text':'ab'}]}}\n\n"
        "event: response.incomplete\ndata: {'type':'response.incomplete','sequence_number':12,"
        "'response':{'id':'x-1','object':'response','created_at':7,'model':'m','status':"
        "'incomplete','error':null,'incomplete_details':{'reason':'max_output_tokens'},'output'"
        ":["
        "{'type':'message','id':'msg-1','role':'assistant','status':'incomplete','content':[{"
        "'type':'output_text','annotations':[],'text':'ab'}]}],'usage':{'input_tokens':10,"
        "'output_tokens':32,'total_tokens':42}}}\n\n");
}

/* ---- damaged bodies -------------------------------------------------------------------- */

Test(resume, a_damaged_body_is_refused_or_becomes_another_json_object)
{
    static const char body[] =
        "{'messages':[{'role':'user','content':'hi'}],'max_tokens':50,'prompt':'a\\u00e9','"
        "input':[{'role':'user'}],"
        "'response_format':{'type':'text'},'n':1,'stream_options':{'include_usage':true}}";
    static const int operations[] = {OP(CHAT_COMPLETIONS), OP(COMPLETIONS), OP(MESSAGES),
                                     OP(RESPONSES)};
    unsigned continued = 0;

    srand(4711);
    for (unsigned round = 0; round < 6000; round++) {
        struct resume_request request = {.operation = operations[round % 4],
                                         .text = "\"\\\x01x",
                                         .text_len = 4,
                                         .tokens = (uint32_t)(rand() % 60)};
        struct buf in = BUF_INIT, out = BUF_INIT;
        struct error err = {0};
        struct json_value root;
        char *exact; /* its end is where the sanitizer looks */
        size_t n;
        bool over;
        int rc;

        rig_add(&in, body);
        n = round % 5 == 0 ? (size_t)rand() % buf_size(&in) : buf_size(&in);
        exact = malloc(n + 1);
        memcpy(exact, buf_head(&in), n);
        exact = realloc(exact, n == 0 ? 1 : n);
        for (int i = rand() % 3; i > 0 && n != 0; i--)
            exact[(size_t)rand() % n] =
                (char)(rand() % 4 == 0 ? rand() % 256 : "{}[]\",:\\0e"[rand() % 10]);
        rc = resume_text(&out, exact, n, &request, &over, &err);
        cr_assert(rc == 0 || rc == DRV_EINVAL);
        if (rc == 0) {
            cr_assert_eq(json_check(&root, buf_head(&out), buf_size(&out), NULL), 0, "%s",
                         buf_cstr(&out));
            cr_assert_eq(root.type, JSON_OBJECT);
            continued++;
        }
        free(exact);
        buf_finish(&in);
        buf_finish(&out);
    }
    cr_assert_gt(continued, 500); /* the damage did not just break all of them */
}
