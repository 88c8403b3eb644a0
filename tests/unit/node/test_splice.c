/* test_splice.c - the events of a continued answer, in the stream that the client reads. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "base/error.h"
#include "node/stream/meter.h"
#include "node/stream/splice.h"
#include "proto/drover_common.pb-c.h"
#include "stream_rig.h"

#define OP(name) DROVER__V1__OPERATION__OPERATION_##name

struct watch {
    struct splice splice;
    struct stream_meter o;
    struct buf shown;
    bool anew;
};

static void look(void *data, const struct sse_event *event)
{
    struct watch *w = data;
    struct sse_event changed;
    struct seen seen;

    cr_assert_eq(splice_event(&w->splice, event, &changed), 0);
    meter_event(&w->o, &changed, &seen);
    switch (splice_check(&w->splice, &w->o, &seen)) {
    case SPLICE_SHOW:
        buf_add(&w->shown, changed.raw, changed.raw_len);
        break;
    case SPLICE_HIDE:
        break;
    case SPLICE_ANEW:
        w->anew = true;
        break;
    }
}

static void splice(struct watch *w, const struct splice_config *config, const char *events)
{
    struct splice_config c = *config;

    memset(w, 0, sizeof(*w));
    if (c.id == NULL)
        c.id = "kept";
    if (c.text == NULL)
        c.text = "";
    c.text_len = strlen(c.text);
    cr_assert_eq(splice_init(&w->splice, &c), 0);
    meter_init(&w->o, c.operation, true);
    rig_events(SSE_EVENTS, events, look, w);
}

static void end(struct watch *w)
{
    splice_finish(&w->splice);
    meter_finish(&w->o);
    buf_finish(&w->shown);
}

static void expect(const struct splice_config *config, const char *events, const char *wanted)
{
    struct buf want = BUF_INIT;
    struct watch w;

    splice(&w, config, events);
    rig_add(&want, wanted);
    cr_assert_not(w.anew);
    cr_assert_str_eq(buf_cstr(&w.shown), buf_cstr(&want));
    buf_finish(&want);
    end(&w);
}

/* ---- chats ----------------------------------------------------------------------------- */

#define TAIL_AS(id, created)                                                                 \
    "'created':" created ",'id':'" id "','model':'tiny','system_fingerprint':'b1','object':" \
    "'chat.completion.chunk'"
#define DELTA_AS(id, created, delta)                                   \
    "data: {'choices':[{'finish_reason':null,'index':0,'delta':" delta \
    "}]," TAIL_AS(id, created) "}\n\n"

Test(splice, a_chat_keeps_id_and_time_begins_once_and_sums_its_usage)
{
    struct splice_config config = {.operation = OP(CHAT_COMPLETIONS),
                                   .id = "chatcmpl-old",
                                   .created = 1234567890123,
                                   .tokens = 5,
                                   .text = "One two three four five"};
    struct buf want = BUF_INIT;
    struct watch w;

    /* 22 prompt tokens, 21 of them cached, of which 5 were the answer's: 17, and 17 cached at
     * most.  2 output tokens and 5: 7.  17 + 7 = 24. */
    splice(&w, &config, RIG_LLAMA_CHAT);
    rig_add(
        &want,
        DELTA_AS("chatcmpl-old", "1234567890123", "{'content':'- '}") DELTA_AS(
            "chatcmpl-old", "1234567890123",
            "{'content':'`-h'}") "data: "
                                 "{'choices':[{'finish_reason':'length','index':0,'delta':{}}]"
                                 "," TAIL_AS("chatcmpl-old",
                                             "1234567890123") "}\n\n"
                                                              "data: {'choices':[]," TAIL_AS(
                                                                  "chatcmpl-old",
                                                                  "1234567890123") ",'usage':{'"
                                                                                   "completion_"
                                                                                   "tokens':7,'"
                                                                                   "prompt_"
                                                                                   "tokens':17,"
                                                                                   "'total_"
                                                                                   "tokens':24,"
                                                                                   "'prompt_"
                                                                                   "tokens_"
                                                                                   "details':{'"
                                                                                   "cached_"
                                                                                   "tokens':17}"
                                                                                   "},'timings'"
                                                                                   ":{'cache_n'"
                                                                                   ":21,"
                                                                                   "'prompt_ms'"
                                                                                   ":0.452}}"
                                                                                   "\n\ndata: "
                                                                                   "[DONE]"
                                                                                   "\n\n");
    cr_assert_str_eq(buf_cstr(&w.shown), buf_cstr(&want));
    cr_assert_str_eq(w.o.response_id, "chatcmpl-old");
    cr_assert_eq(w.o.created, 1234567890123);
    cr_assert_eq(w.o.tokens, 2);
    cr_assert_eq(w.o.usage.prompt_tokens, 17);
    cr_assert_eq(w.o.usage.cached_prompt_tokens, 17);
    cr_assert_eq(w.o.usage.output_tokens, 7);
    cr_assert_str_eq(buf_cstr(&w.o.text), "- `-h");
    buf_finish(&want);
    end(&w);
}

Test(splice, without_an_id_or_time_to_keep_the_engine_s_stay)
{
    struct splice_config config = {.operation = OP(CHAT_COMPLETIONS), .id = "", .tokens = 1};

    expect(&config, DELTA_AS("a", "7", "{'content':'x'}"),
           DELTA_AS("a", "7", "{'content':'x'}"));
}

Test(splice, a_prompt_smaller_than_what_was_given_counts_nothing)
{
    struct splice_config config = {.operation = OP(CHAT_COMPLETIONS), .tokens = 9};

    expect(&config,
           "data: {'choices':[],'usage':{'total_tokens':5,'prompt_tokens':4,"
           "'completion_tokens':1}}\n\n",
           "data: {'choices':[],'usage':{'total_tokens':10,'prompt_tokens':0,"
           "'completion_tokens':10}}\n\n");
    expect(&config, "data: {'choices':[],'usage':{'completion_tokens':1}}\n\n",
           "data: {'choices':[],'usage':{'completion_tokens':10}}\n\n");
    expect(&config, "data: {'choices':[],'usage':{'odd':1}}\n\n",
           "data: {'choices':[],'usage':{'odd':1}}\n\n");
}

Test(splice, roles_and_empty_events_are_hidden_wherever_they_come)
{
    struct splice_config config = {.operation = OP(CHAT_COMPLETIONS), .tokens = 1};

    expect(&config,
           "data: {'choices':[{'index':0,'delta':{'role':'assistant','content':''}}]}\n\n"
           "data: {'choices':[{'index':0,'delta':{'content':'a','role':'assistant'}}]}\n\n"
           "data: {'choices':[{'index':0,'delta':{'content':''}}]}\n\n"
           "data: {'choices':[{'index':0,'delta':{'content':'','role':'assistant'},"
           "'finish_reason':'stop'}]}\n\n",
           "data: {'choices':[{'index':0,'delta':{'content':'a'}}]}\n\n"
           "data: {'choices':[{'index':0,'delta':{'content':''},'finish_reason':'stop'}]}\n\n");
}

Test(splice, comments_line_ends_and_other_fields_stay)
{
    struct splice_config config = {.operation = OP(CHAT_COMPLETIONS), .tokens = 1};

    expect(
        &config,
        ": ping\r\n\r\nid: 4\r\ndata:{'id':'a','choices':[{'text':'x'}]}\r\nretry: 5\r\n\r\n",
        ": ping\r\n\r\nid: 4\r\ndata:{'id':'kept','choices':[{'text':'x'}]}\r\nretry: 5\r\n"
        "\r\n");
}

Test(splice, json_over_several_data_lines_becomes_one)
{
    struct splice_config config = {.operation = OP(CHAT_COMPLETIONS), .tokens = 1};

    expect(&config,
           "event: chunk\ndata: {'id':'a',\ndata: 'choices':[{'delta':{'content':'x'}}]}\n\n",
           "event: chunk\ndata: {'id':'kept', 'choices':[{'delta':{'content':'x'}}]}\n\n");
}

Test(splice, the_order_of_members_does_not_matter)
{
    struct splice_config config = {
        .operation = OP(CHAT_COMPLETIONS), .created = 8, .tokens = 4, .text = "abcd"};

    expect(&config,
           "data: {'usage':{'prompt_tokens':10,'completion_tokens':1,'total_tokens':11},"
           "'choices':[{'delta':{'content':'abcdef','role':'assistant'}}],'created':7,'id':'a'}"
           "\n\n",
           "data: {'usage':{'prompt_tokens':6,'completion_tokens':5,'total_tokens':11},"
           "'choices':[{'delta':{'content':'ef'}}],'created':8,'id':'kept'}\n\n");
}

Test(splice, errors_and_garbage_are_left_as_they_are)
{
    static const char events[] = "data: {'id':'a','error':{'message':'no'}}\n\n"
                                 "event: error\ndata: {'id':'a'}\n\n"
                                 "data: <html>\n\n";
    struct splice_config config = {.operation = OP(CHAT_COMPLETIONS), .tokens = 1};

    expect(&config, events, events);
}

/* ---- repeated text --------------------------------------------------------------------- */

Test(splice, text_that_the_engine_says_again_is_cut_off_its_first_event_only)
{
    struct splice_config config = {
        .operation = OP(CHAT_COMPLETIONS), .tokens = 4, .text = "The server is \"up\""};

    expect(
        &config,
        "data: {'choices':[{'delta':{'role':'assistant','content':null}}]}\n\n"
        "data: {'choices':[{'delta':{'content':'The server is \\u0022up\\u0022, s\\n'}}]}\n\n"
        "data: {'choices':[{'delta':{'content':'The server is \\u0022up\\u0022'}}]}\n\n",
        "data: {'choices':[{'delta':{'content':', s\\n'}}]}\n\n"
        "data: {'choices':[{'delta':{'content':'The server is \\u0022up\\u0022'}}]}\n\n");
}

Test(splice, an_event_that_only_repeats_is_no_output)
{
    struct splice_config config = {
        .operation = OP(COMPLETIONS), .tokens = 4, .text = "a b c d"};
    struct watch w;

    splice(&w, &config,
           "data: {'choices':[{'text':'a b c d'}]}\n\ndata: {'choices':[{'text':' e'}]}\n\n");
    cr_assert_eq(w.o.tokens, 1);
    cr_assert_str_eq(buf_cstr(&w.o.text), " e");
    cr_assert_str_eq(buf_cstr(&w.shown), "data: {\"choices\":[{\"text\":\" e\"}]}\n\n");
    end(&w);
}

Test(splice, a_part_of_the_text_is_not_a_repetition)
{
    static const char less[] = "data: {'choices':[{'delta':{'content':'The server'}}]}\n\n";
    static const char other[] =
        "data: {'choices':[{'delta':{'content':'The server was'}}]}\n\n";
    struct splice_config config = {
        .operation = OP(CHAT_COMPLETIONS), .tokens = 4, .text = "The server is"};

    expect(&config, less, less);
    expect(&config, other, other);
}

Test(splice, a_short_text_may_come_twice_unless_the_engine_is_known_to_repeat)
{
    static const char again[] = "data: {'choices':[{'delta':{'content':' ha ha'}}]}\n\n";
    struct splice_config config = {
        .operation = OP(CHAT_COMPLETIONS), .tokens = 1, .text = " ha"};

    expect(&config, again, again);
    config.repeats = true;
    expect(&config, again, "data: {'choices':[{'delta':{'content':' ha'}}]}\n\n");
}

/* ---- messages -------------------------------------------------------------------------- */

Test(splice, a_message_goes_on_in_its_open_block)
{
    struct splice_config config = {
        .operation = OP(MESSAGES), .tokens = 3, .text = "Well,", .repeats = true};
    struct buf want = BUF_INIT;
    struct watch w;

    /* 1 token of the prompt was read anew and 21 were cached; 3 of the 22 were the answer's:
     * 19.  2 output tokens and 3: 5. */
    splice(&w, &config, RIG_LLAMA_MESSAGES);
    rig_add(&want,
            "event: content_block_delta\n"
            "data: {'type':'content_block_delta','index':0,'delta':{'type':'text_delta','text':"
            "'-'}}\n\n"
            "event: ping\ndata: {'type':'ping'}\n\n"
            "event: content_block_delta\n"
            "data: {'type':'content_block_delta','index':0,'delta':{'type':'text_delta','text':"
            "' h'}}\n\n"
            "event: content_block_stop\ndata: {'type':'content_block_stop','index':0}\n\n"
            "event: message_delta\n"
            "data: {'type':'message_delta','delta':{'stop_reason':'max_tokens','stop_sequence':"
            "null},'usage':{'output_tokens':5}}\n\n"
            "event: message_stop\ndata: {'type':'message_stop'}\n\n");
    cr_assert_str_eq(buf_cstr(&w.shown), buf_cstr(&want));
    cr_assert_str_eq(w.o.response_id, "kept");
    cr_assert_eq(w.o.usage.prompt_tokens, 19);
    cr_assert_eq(w.o.usage.cached_prompt_tokens, 19);
    cr_assert_eq(w.o.usage.output_tokens, 5);
    cr_assert(w.o.done);
    buf_finish(&want);
    end(&w);
}

Test(splice, a_message_of_llama_server_repeats_however_short_the_text)
{
    struct splice_config config = {
        .operation = OP(MESSAGES), .tokens = 1, .text = "The", .repeats = true};

    expect(&config,
           "data: {'type':'content_block_start','index':0,'content_block':{'type':'text',"
           "'text':''}}\n\n"
           "data: {'type':'content_block_delta','index':0,'delta':{'type':'text_delta','text':"
           "'The server'}}\n\n",
           "data: {'type':'content_block_delta','index':0,'delta':{'type':'text_delta','text':"
           "' server'}}\n\n");
}

Test(splice, tokens_that_were_given_are_taken_from_the_fresh_ones_first)
{
    uint64_t fresh = 10, cached = 5;

    splice_less(4, &fresh, &cached);
    cr_assert(fresh == 6 && cached == 5);
    splice_less(8, &fresh, &cached);
    cr_assert(fresh == 0 && cached == 3);
    splice_less(8, &fresh, &cached);
    cr_assert(fresh == 0 && cached == 0);
}

/* ---- engines that do not go on --------------------------------------------------------- */

Test(splice, an_engine_that_thinks_or_calls_a_tool_first_began_anew)
{
    static const struct {
        int operation;
        const char *event;
    } cases[] = {
        {OP(CHAT_COMPLETIONS), "data: {'choices':[{'delta':{'reasoning_content':'Hm'}}]}\n\n"},
        {OP(CHAT_COMPLETIONS),
         "data: {'choices':[{'delta':{'tool_calls':[{'index':0}]}}]}\n\n"},
        {OP(MESSAGES), "data: {'type':'content_block_start','index':0,'content_block':{'type':"
                       "'thinking','thinking':''}}\n\n"},
        {OP(MESSAGES), "data: {'type':'content_block_start','index':0,'content_block':{'type':"
                       "'tool_use','name':'f'}}\n\n"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct splice_config config = {.operation = cases[i].operation, .tokens = 1};
        struct watch w;

        splice(&w, &config, cases[i].event);
        cr_assert(w.anew, "case %zu", i);
        cr_assert_eq(buf_size(&w.shown), 0);
        end(&w);
    }
}

/* ---- responses ------------------------------------------------------------------------- */

#define DELTA(id, text, more)                                                               \
    "data: {'type':'response.output_text.delta','item_id':'" id "','delta':'" text "'" more \
    "}\n\n"

Test(splice, a_response_of_llama_server_goes_on_with_its_ids_its_text_and_its_usage)
{
    struct splice_config config = {.operation = OP(RESPONSES),
                                   .id = "resp_kept",
                                   .item_id = "msg_kept",
                                   .tokens = 4,
                                   .text = "Well",
                                   .text_len = 4};

    /* It repeats the whole text in its last events, and in no delta. */
    expect(
        &config,
        "data: {'type':'response.created','response':{'id':'resp_2','status':'in_progress'}}"
        "\n\n"
        "data: {'type':'response.output_item.added','item':{'content':[],'id':'msg_2','type':"
        "'message'}}\n\n"
        "data: {'type':'response.content_part.added','item_id':'msg_2','part':{'type':"
        "'output_text','text':''}}\n\n" DELTA(
            "msg_2", ", no",
            "") "data: {'type':'response.output_text.done','item_id':'msg_2','text':'Well, "
                "no'}\n\n"
                "data: "
                "{'type':'response.completed','response':{'id':'resp_2','output':[{'type':"
                "'message','id':'msg_2','content':[{'type':'output_text','text':'Well, no'}]}],"
                "'usage':{'input_tokens':26,'output_tokens':2,'total_tokens':28,"
                "'input_tokens_details':{'cached_tokens':25}}}}\n\n",
        DELTA(
            "msg_kept", ", no",
            "") "data: {'type':'response.output_text.done','item_id':'msg_kept','text':'Well, "
                "no'}\n\n"
                "data: "
                "{'type':'response.completed','response':{'id':'resp_kept','output':[{'type':"
                "'message','id':'msg_kept','content':[{'type':'output_text','text':'Well, "
                "no'}]}],"
                "'usage':{'input_tokens':22,'output_tokens':6,'total_tokens':28,"
                "'input_tokens_details':{'cached_tokens':22}}}}\n\n");
}

Test(splice, a_response_that_says_its_own_part_at_the_end_is_completed_and_numbered_on)
{
    struct splice_config config = {.operation = OP(RESPONSES),
                                   .id = "resp_kept",
                                   .item_id = "msg_kept",
                                   .created = 5,
                                   .next_sequence = 7,
                                   .tokens = 2,
                                   .text = "a\"",
                                   .text_len = 2};

    expect(
        &config,
        "data: {'type':'response.created','sequence_number':0,'response':{'id':'r'}}\n\n" DELTA(
            "m", "b", ",'sequence_number':1")
            DELTA("m", "c",
                  ",'sequence_number':2") "data: "
                                          "{'type':'response.content_part.done','sequence_"
                                          "number':3,'item_id':'m','part':{"
                                          "'text':'bc'}}\n\n"
                                          "data: "
                                          "{'type':'response.output_item.done','sequence_"
                                          "number':4,'item':{'id':'m','type':"
                                          "'message','content':[{'text':'bc'}]}}\n\n"
                                          "data: "
                                          "{'type':'response.incomplete','sequence_number':5,'"
                                          "response':{'id':'r',"
                                          "'created_at':9}}\n\n",
        DELTA("msg_kept", "b", ",'sequence_number':7")
            DELTA("msg_kept", "c",
                  ",'sequence_number':8") "data: "
                                          "{'type':'response.content_part.done','sequence_"
                                          "number':9,'item_id':'msg_kept',"
                                          "'part':{'text':'a\\'bc'}}\n\n"
                                          "data: "
                                          "{'type':'response.output_item.done','sequence_"
                                          "number':10,'item':{'id':'msg_kept',"
                                          "'type':'message','content':[{'text':'a\\'bc'}]}}\n\n"
                                          "data: "
                                          "{'type':'response.incomplete','sequence_number':11,'"
                                          "response':{'id':'resp_kept',"
                                          "'created_at':5}}\n\n");
}

Test(splice, a_response_that_begins_with_something_else_does_not_go_on)
{
    static const char *const begun[] = {
        "data: {'type':'response.output_item.added','item':{'type':'reasoning','id':'r'}}\n\n",
        "data: {'type':'response.function_call_arguments.delta','delta':'{'}\n\n"};
    struct splice_config config = {.operation = OP(RESPONSES), .tokens = 1};

    for (size_t i = 0; i < ARRAY_LEN(begun); i++) {
        struct watch w;

        splice(&w, &config, begun[i]);
        cr_assert(w.anew, "case %zu", i);
        end(&w);
    }
}

/* ---- damaged streams ------------------------------------------------------------------- */

static void take(void *data, const struct sse_event *event)
{
    struct watch *w = data;
    struct sse_event changed;
    struct seen before, after;
    struct stream_meter o;

    cr_assert_eq(splice_event(&w->splice, event, &changed), 0);
    cr_assert_leq(changed.data_len, changed.raw_len);
    meter_init(&o, w->o.operation, false);
    meter_event(&o, event, &before);
    meter_finish(&o);
    meter_event(&w->o, &changed, &after);
    cr_assert_eq(before.kind == SEEN_GARBAGE, after.kind == SEEN_GARBAGE);
    cr_assert_eq(before.kind == SEEN_ERROR, after.kind == SEEN_ERROR);
    if (splice_check(&w->splice, &w->o, &after) == SPLICE_SHOW)
        buf_add(&w->shown, changed.raw, changed.raw_len);
}

Test(splice, damaged_events_stay_what_they_are_and_nothing_is_read_beyond_them)
{
    static const struct {
        int operation;
        const char *events;
    } streams[] = {{OP(CHAT_COMPLETIONS), RIG_LLAMA_CHAT},
                   {OP(MESSAGES), RIG_LLAMA_MESSAGES},
                   {OP(RESPONSES), RIG_LLAMA_RESPONSES}};

    srand(815);
    for (unsigned round = 0; round < 4000; round++) {
        struct splice_config config = {.operation = streams[round % 3].operation,
                                       .id = "kept",
                                       .created = 5,
                                       .tokens = (uint32_t)(rand() % 8),
                                       .text = "-",
                                       .item_id = "kept too",
                                       .text_len = 1,
                                       .repeats = true};
        struct watch w = {0};
        struct buf text = BUF_INIT;
        char *copy;

        rig_add(&text, streams[round % 3].events);
        for (int i = rand() % 6; i > 0; i--)
            buf_head(&text)[(size_t)rand() % buf_size(&text)] =
                (uint8_t)(rand() % 3 == 0 ? rand() % 256 : "{}[]\",:\n0\\"[rand() % 10]);
        copy = strndup((const char *)buf_head(&text), buf_size(&text));
        cr_assert_eq(splice_init(&w.splice, &config), 0);
        meter_init(&w.o, config.operation, true);
        rig_events(SSE_EVENTS, copy, take, &w);
        free(copy);
        buf_finish(&text);
        end(&w);
    }
}
