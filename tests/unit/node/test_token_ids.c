/* test_token_ids.c - ids out of llama-server's log probabilities, and the events without them.
 */
#include <criterion/criterion.h>

#include "node/stream/token_ids.h"
#include "stream_rig.h"

/* An event of completions as a llama-server writes it, with and without log probabilities. */
#define EVENT(text, logprobs)                                                         \
    "data: {'choices':[{'text':'" text "','index':0,'logprobs':" logprobs             \
    ",'finish_reason':null}],'created':7,'model':'tiny','object':'text_completion','" \
    "id':'c-1'}\n\n"
#define TOKEN(id, bytes) \
    "{'id':" id ",'token':'','bytes':[" bytes "],'logprob':-1.09,'top_logprobs':[]}"
#define TOLD(text, id, bytes) EVENT(text, "{'content':[" TOKEN(id, bytes) "]}")
#define LAST                                                                                  \
    "data: {'choices':[{'text':'','index':0,'logprobs':null,'finish_reason':'length'}],'id':" \
    "'c-1'}\n\ndata: [DONE]\n\n"

struct watch {
    struct token_ids ids;
    struct buf shown;
};

static void look(void *data, const struct sse_event *event)
{
    struct watch *w = data;
    struct sse_event out;

    cr_assert_eq(token_ids_event(&w->ids, event, &out), 0);
    buf_add(&w->shown, out.raw, out.raw_len);
    /* The data lies where it should in the changed bytes. */
    cr_assert_eq(out.raw_len - event->raw_len, out.data_len - event->data_len);
    if (!event->comment)
        cr_assert_eq(memcmp(out.raw, "data: ", 6) | memcmp(out.data - 6, "data: ", 6), 0);
}

/* Feeds `text`; what is shown must be `want`. */
static void watch(struct watch *w, const char *text, const char *want)
{
    struct buf wanted = BUF_INIT;

    memset(w, 0, sizeof(*w));
    token_ids_init(&w->ids);
    rig_events(SSE_EVENTS, text, look, w);
    rig_add(&wanted, want);
    cr_assert_str_eq(buf_cstr(&w->shown), buf_cstr(&wanted));
    buf_finish(&wanted);
}

static void drop(struct watch *w)
{
    token_ids_finish(&w->ids);
    buf_finish(&w->shown);
}

Test(token_ids, an_event_is_what_it_would_have_been_and_its_ids_are_known)
{
    struct watch w;
    const uint32_t *list;
    size_t n;

    watch(&w, TOLD(" ex", "372", "32,101,120") ": ping\n\n" TOLD("po", "647", "112,111") LAST,
          EVENT(" ex", "null") ": ping\n\n" EVENT("po", "null") LAST);
    list = token_ids_of_text(&w.ids, &n);
    cr_assert_eq(n, 2);
    cr_assert(list[0] == 372 && list[1] == 647);
    token_ids_taken(&w.ids);
    cr_assert_null(token_ids_of_text(&w.ids, &n));
    cr_assert_eq(n, 0);
    cr_assert_not(w.ids.lost);
    drop(&w);
}

Test(token_ids, several_tokens_may_be_in_one_event)
{
    struct watch w;
    const uint32_t *list;
    size_t n;

    watch(&w, EVENT("\\u00e9a", "{'content':[" TOKEN("5", "195,169") "," TOKEN("6", "97") "]}"),
          EVENT("\\u00e9a", "null"));
    list = token_ids_of_text(&w.ids, &n);
    cr_assert_eq(n, 2);
    cr_assert(list[0] == 5 && list[1] == 6);
    drop(&w);
}

/* Of a llama of four one-byte tokens only the last is reported: F0 9F A6 99 against 99. */
Test(token_ids, text_that_is_more_than_its_ids_loses_them_for_good)
{
    static const char *const bad[] = {
        TOLD("\xf0\x9f\xa6\x99", "153", "153"),
        TOLD("ab", "7", "97"),
        TOLD("a", "7", "97,98"),
        EVENT("a", "null"),
        EVENT("a", "{'content':[]}"),
        EVENT("a", "{'content':[{'token':'a','bytes':[97]}]}"),
        EVENT("a", "{'content':[{'id':-1,'bytes':[97]}]}"),
        EVENT("a", "{'content':[{'id':4294967296,'bytes':[97]}]}"),
        EVENT("a", "{'content':[{'id':7,'bytes':[353]}]}"),
        EVENT("a", "{'content':[{'id':7,'bytes':'a'}]}"),
    };

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct buf text = BUF_INIT;
        struct watch w = {0};
        size_t n;

        token_ids_init(&w.ids);
        buf_str(&text, TOLD("x", "1", "120"));
        buf_str(&text, bad[i]);
        buf_str(&text, TOLD("y", "2", "121"));
        rig_events(SSE_EVENTS, buf_cstr(&text), look, &w);
        cr_assert_null(token_ids_of_text(&w.ids, &n), "%s", bad[i]);
        cr_assert_eq(n, 0);
        cr_assert_null(strstr(buf_cstr(&w.shown), "content"), "%s", buf_cstr(&w.shown));
        buf_finish(&text);
        drop(&w);
    }
}

Test(token_ids, text_that_is_no_event_of_completions_is_left_alone)
{
    struct watch w;

    watch(
        &w,
        "data: {'error':{'code':500}}\n\ndata: nonsense\n\ndata: {'choices':[],'usage':{}}\n\n",
        "data: {'error':{'code':500}}\n\ndata: nonsense\n\ndata: "
        "{'choices':[],'usage':{}}\n\n");
    cr_assert_not(w.ids.lost);
    drop(&w);
}
