/* test_framing.c - the first bytes of a body say what it is, whatever the header says. */
#include <criterion/criterion.h>

#include "base/text/json.h"
#include "node/stream/framing.h"
#include "proto/drover_common.pb-c.h"
#include "stream_rig.h"

#define OP(name) DROVER__V1__OPERATION__OPERATION_##name

/* The framing of a text (single quotes allowed). */
static enum framing frame(int operation, const char *text, bool whole, enum framing claimed)
{
    struct buf body = BUF_INIT;
    enum framing framing;

    rig_add(&body, text);
    framing = framing_of(operation, buf_head(&body), buf_size(&body), whole, claimed);
    buf_finish(&body);
    return framing;
}

Test(framing, events_are_events_under_any_type)
{
    static const char *const texts[] = {
        "data: {}\n\n",        "data:{}",         "event: message_start\n",
        ": ping\n\n",          ":\n\n",           "id: 7\ndata: x",
        "retry: 1\n",          "\r\n\r\ndata: x", "error: {}\n",
        "\357\273\277data: {}"};

    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        cr_assert_eq(frame(OP(CHAT_COMPLETIONS), texts[i], false, FRAMING_UNDECIDED),
                     FRAMING_EVENTS, "case %zu", i);
        cr_assert_eq(frame(OP(OLLAMA_CHAT), texts[i], false, FRAMING_LINES), FRAMING_EVENTS,
                     "case %zu", i);
    }
}

Test(framing, it_waits_for_the_bytes_that_decide)
{
    static const char *const texts[] = {"", "\n", "d", "data", "\xef\xbb", "{", "{'a':1}", "["};

    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        cr_assert_eq(frame(OP(CHAT_COMPLETIONS), texts[i], false, FRAMING_UNDECIDED),
                     FRAMING_UNDECIDED, "case %zu", i);
}

Test(framing, pieces_on_lines_are_a_stream_and_a_whole_answer_is_a_document)
{
    cr_assert_eq(frame(OP(OLLAMA_CHAT), "{'message':{'content':'a'},'done':false}\n", false,
                       FRAMING_UNDECIDED),
                 FRAMING_LINES);
    cr_assert_eq(frame(OP(OLLAMA_CHAT), "{'message':{'content':'a'},'done':true}\n", false,
                       FRAMING_LINES),
                 FRAMING_DOCUMENT);
    cr_assert_eq(
        frame(OP(OLLAMA_GENERATE), "{'response':'a','done':false}", true, FRAMING_UNDECIDED),
        FRAMING_LINES, "and it was cut");
    cr_assert_eq(frame(OP(CHAT_COMPLETIONS), "{'choices':[{'delta':{'content':'a'}}]}\r\n",
                       false, FRAMING_UNDECIDED),
                 FRAMING_LINES);
    cr_assert_eq(frame(OP(COMPLETIONS), "{'object':'text_completion.chunk'}\n", false,
                       FRAMING_UNDECIDED),
                 FRAMING_LINES);
    cr_assert_eq(frame(OP(MESSAGES), "{'type':'message_start'}\n", false, FRAMING_UNDECIDED),
                 FRAMING_LINES);
    cr_assert_eq(
        frame(OP(MESSAGES), "{'type':'message','content':[]}\n", false, FRAMING_UNDECIDED),
        FRAMING_DOCUMENT);
    cr_assert_eq(
        frame(OP(RESPONSES), "{'type':'response.created'}\n", false, FRAMING_UNDECIDED),
        FRAMING_LINES);
    cr_assert_eq(frame(OP(CHAT_COMPLETIONS), "{\n  'choices': [\n", false, FRAMING_EVENTS),
                 FRAMING_DOCUMENT);
    cr_assert_eq(frame(OP(CHAT_COMPLETIONS), "{'error':{'code':500}}", true, FRAMING_EVENTS),
                 FRAMING_DOCUMENT);
}

Test(framing, a_line_that_is_neither_piece_nor_answer_waits_for_the_next)
{
    cr_assert_eq(frame(OP(OLLAMA_CHAT), "{'status':'loading'}\n", false, FRAMING_LINES),
                 FRAMING_LINES);
    cr_assert_eq(frame(OP(OLLAMA_CHAT), "{}\n", false, FRAMING_UNDECIDED), FRAMING_UNDECIDED);
    cr_assert_eq(frame(OP(OLLAMA_CHAT), "{}\n\n{", false, FRAMING_UNDECIDED), FRAMING_LINES);
    cr_assert_eq(frame(OP(OLLAMA_CHAT), "{}\nand so on", false, FRAMING_UNDECIDED),
                 FRAMING_DOCUMENT);
    cr_assert_eq(frame(OP(OLLAMA_CHAT), "{'error':'x'}\n", false, FRAMING_LINES),
                 FRAMING_DOCUMENT);
    cr_assert_eq(frame(OP(OLLAMA_CHAT), "{}\n", true, FRAMING_LINES), FRAMING_DOCUMENT);
}

Test(framing, a_page_is_none_of_them)
{
    cr_assert_eq(frame(OP(CHAT_COMPLETIONS), "\n<!DOCTYPE html>", false, FRAMING_EVENTS),
                 FRAMING_PAGE);
    cr_assert_eq(frame(OP(OLLAMA_CHAT), "<html>", false, FRAMING_LINES), FRAMING_PAGE);
}

Test(framing, other_text_is_what_the_header_says)
{
    cr_assert_eq(frame(OP(CHAT_COMPLETIONS), "x-field: 1\ndata: {}", false, FRAMING_EVENTS),
                 FRAMING_EVENTS);
    cr_assert_eq(frame(OP(CHAT_COMPLETIONS), "no healthy upstream", false, FRAMING_UNDECIDED),
                 FRAMING_DOCUMENT);
    cr_assert_eq(frame(OP(CHAT_COMPLETIONS), "", true, FRAMING_EVENTS), FRAMING_DOCUMENT);
}

Test(framing, types_that_promise_a_stream)
{
    cr_assert_eq(framing_claimed("text/event-stream; charset=utf-8"), FRAMING_EVENTS);
    cr_assert_eq(framing_claimed("application/x-ndjson"), FRAMING_LINES);
    cr_assert_eq(framing_claimed("application/jsonl"), FRAMING_LINES);
    cr_assert_eq(framing_claimed("application/json"), FRAMING_UNDECIDED);
    cr_assert_eq(framing_claimed(""), FRAMING_UNDECIDED);
}

Test(framing, an_answer_has_what_its_api_says)
{
    static const struct {
        int operation;
        const char *text;
        bool good;
    } cases[] = {
        {OP(CHAT_COMPLETIONS), "{'choices':[{'message':{}}]}", true},
        {OP(CHAT_COMPLETIONS), "{'choices':[]}", false},
        {OP(CHAT_COMPLETIONS), "{}", false},
        {OP(COMPLETIONS), "[]", false},
        {OP(COMPLETIONS), "null", false},
        {OP(MESSAGES), "{'type':'message','content':[]}", true},
        {OP(MESSAGES), "{'choices':[{}]}", false},
        {OP(RESPONSES), "{'object':'response','output':[]}", true},
        {OP(RESPONSES), "{'id':'resp_1','status':'queued'}", true},
        {OP(RESPONSES), "{'status':'ok'}", false},
        {OP(RESPONSES), "{'ok':true}", false},
        {OP(OLLAMA_CHAT), "{'message':{},'done':true}", true},
        {OP(OLLAMA_CHAT), "{'model':'m'}", false},
        {OP(OLLAMA_GENERATE), "{'response':'','done':true}", true},
        {OP(EMBEDDINGS), "{'data':[]}", true},
        {OP(EMBEDDINGS), "[{'embedding':[0.5]}]", true},
        {OP(EMBEDDINGS), "{'status':'ok'}", false},
        {OP(OLLAMA_EMBED), "{'embeddings':[[0.5]]}", true},
        {OP(OLLAMA_EMBEDDINGS), "{'embedding':[0.5]}", true},
        {OP(RERANK), "{'results':[]}", true},
        {OP(RERANK), "{'id':'a','scores':[0.5]}", true},
        {OP(RERANK), "{'status':'ok'}", false},
        {OP(RERANK), "{}", false},
        {OP(COUNT_TOKENS), "{'input_tokens':3}", true},
        {OP(COUNT_TOKENS), "{'tokens':3}", false},
        {OP(EMBEDDINGS), "'x'", false},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct buf text = BUF_INIT;
        struct json_value root;

        rig_add(&text, cases[i].text);
        cr_assert_eq(json_check(&root, buf_head(&text), buf_size(&text), NULL), 0);
        cr_assert_eq(framing_is_answer(cases[i].operation, &root), cases[i].good, "case %zu",
                     i);
        buf_finish(&text);
    }
}
