/* stream_rig.h - for tests of streams: JSON with single quotes, and events from text. */
#ifndef DROVER_TESTS_STREAM_RIG_H
#define DROVER_TESTS_STREAM_RIG_H

#include <string.h>

#include "base/text/buf.h"
#include "node/stream/sse.h"

/* Appends `text` with every ' turned into ". */
static inline void rig_add(struct buf *out, const char *text)
{
    size_t from = out->len;

    buf_str(out, text);
    for (size_t i = from; i < out->len; i++)
        if (out->data[i] == '\'')
            out->data[i] = '"';
}

/* Calls `each` for every event of `text` (single quotes allowed). */
static inline void rig_events(enum sse_mode mode, const char *text,
                              void (*each)(void *data, const struct sse_event *event),
                              void *data)
{
    struct buf body = BUF_INIT;
    struct sse_event event;
    struct sse sse;

    rig_add(&body, text);
    sse_init(&sse, mode);
    if (sse_feed(&sse, buf_head(&body), buf_size(&body)) == 0)
        while (sse_next(&sse, &event) == 1)
            each(data, &event);
    sse_finish(&sse);
    buf_finish(&body);
}

/* llama-server's chat stream, in its odd order of members. */
#define RIG_LLAMA_TAIL                                                                 \
    "'created':7,'id':'chatcmpl-1','model':'tiny','system_fingerprint':'b1','object':" \
    "'chat.completion.chunk'"
#define RIG_LLAMA_DELTA(delta)                                                              \
    "data: {'choices':[{'finish_reason':null,'index':0,'delta':" delta "}]," RIG_LLAMA_TAIL \
    "}\n\n"
#define RIG_LLAMA_CHAT                                                                         \
    RIG_LLAMA_DELTA("{'role':'assistant','content':null}")                                     \
    RIG_LLAMA_DELTA("{'content':'- '}")                                                        \
    RIG_LLAMA_DELTA("{'content':'`-h'}")                                                       \
    "data: {'choices':[{'finish_reason':'length','index':0,'delta':{}}]," RIG_LLAMA_TAIL       \
    "}\n\n"                                                                                    \
    "data: {'choices':[]," RIG_LLAMA_TAIL                                                      \
    ",'usage':{'completion_tokens':2,'prompt_tokens':22,'total_tokens':24,"                    \
    "'prompt_tokens_details':{'cached_tokens':21}},'timings':{'cache_n':21,'prompt_ms':0.452}" \
    "}\n\ndata: [DONE]\n\n"

/* llama-server's stream of two prompts: it begins with null, and usage comes once per prompt.
 */
#define RIG_LLAMA_TEXT(index, text, reason, more)         \
    "data: {'choices':[{'text':'" text "','index':" index \
    ",'logprobs':null,'finish_reason':" reason            \
    "}],'created':7,'model':'tiny','object':'text_completion'" more ",'id':'chatcmpl-3'}\n\n"
#define RIG_LLAMA_PROMPTS                                                                      \
    "data: null\n\n" RIG_LLAMA_TEXT("1", "&", "null", "") RIG_LLAMA_TEXT("0", "D", "null", "") \
        RIG_LLAMA_TEXT("1", "q", "null", "") RIG_LLAMA_TEXT(                                   \
            "1", "", "'length'",                                                               \
            ",'usage':{'completion_tokens':2,'prompt_tokens':7,'total_tokens':9,"              \
            "'prompt_tokens_details':{'cached_tokens':6}}")                                    \
            RIG_LLAMA_TEXT("0", "p", "null", "") RIG_LLAMA_TEXT(                               \
                "0", "", "'length'",                                                           \
                ",'usage':{'completion_tokens':2,'prompt_tokens':10,'total_tokens':12,"        \
                "'prompt_tokens_details':{'cached_tokens':0}}") "data: [DONE]\n\n"

#define RIG_LLAMA_MESSAGES                                                                     \
    "event: message_start\n"                                                                   \
    "data: {'type':'message_start','message':{'id':'chatcmpl-2','type':'message','role':"      \
    "'assistant','content':[],'model':'tiny','stop_reason':null,'stop_sequence':null,'usage':" \
    "{'cache_read_input_tokens':21,'input_tokens':1,'output_tokens':0}}}\n\n"                  \
    "event: content_block_start\n"                                                             \
    "data: {'type':'content_block_start','index':0,'content_block':{'type':'text','text':''}}" \
    "\n\n"                                                                                     \
    "event: content_block_delta\n"                                                             \
    "data: {'type':'content_block_delta','index':0,'delta':{'type':'text_delta','text':'-'}}"  \
    "\n\n"                                                                                     \
    "event: ping\ndata: {'type':'ping'}\n\n"                                                   \
    "event: content_block_delta\n"                                                             \
    "data: {'type':'content_block_delta','index':0,'delta':{'type':'text_delta','text':' h'}}" \
    "\n\n"                                                                                     \
    "event: content_block_stop\ndata: {'type':'content_block_stop','index':0}\n\n"             \
    "event: message_delta\n"                                                                   \
    "data: {'type':'message_delta','delta':{'stop_reason':'max_tokens','stop_sequence':null}," \
    "'usage':{'output_tokens':2}}\n\n"                                                         \
    "event: message_stop\ndata: {'type':'message_stop'}\n\n"

#define RIG_LLAMA_RESPONSES                                                                    \
    "event: response.created\n"                                                                \
    "data: {'type':'response.created','response':{'id':'resp_1','object':'response','status':" \
    "'in_progress'}}\n\n"                                                                      \
    "event: response.output_item.added\n"                                                      \
    "data: {'type':'response.output_item.added','item':{'content':[],'id':'msg_1','role':"     \
    "'assistant','status':'in_progress','type':'message'}}\n\n"                                \
    "event: response.output_text.delta\n"                                                      \
    "data: {'type':'response.output_text.delta','item_id':'msg_1','delta':'-'}\n\n"            \
    "event: response.output_text.delta\n"                                                      \
    "data: {'type':'response.output_text.delta','item_id':'msg_1','delta':' h'}\n\n"           \
    "event: response.output_text.done\n"                                                       \
    "data: {'type':'response.output_text.done','item_id':'msg_1','text':'- h'}\n\n"            \
    "event: response.completed\n"                                                              \
    "data: {'type':'response.completed','response':{'id':'resp_1','object':'response',"        \
    "'created_at':7,'status':'completed','model':'tiny','output':[{'type':'message','status':" \
    "'completed','id':'msg_1','content':[{'type':'output_text','annotations':[],'logprobs':"   \
    "[],'text':'- h'}],'role':'assistant'}],'usage':{'input_tokens':22,'output_tokens':2,"     \
    "'total_tokens':24,'input_tokens_details':{'cached_tokens':21}}},'timings':{'cache_n':21}" \
    "}\n\n"

#define RIG_OLLAMA_CHAT                                                                 \
    "{'model':'m','created_at':'2026-11-23T00:00:00Z','message':{'role':'assistant',"   \
    "'content':'Hel'},'done':false}\n"                                                  \
    "{'model':'m','created_at':'2026-11-23T00:00:01Z','message':{'role':'assistant',"   \
    "'content':'lo'},'done':false}\n"                                                   \
    "{'model':'m','created_at':'2026-11-23T00:00:02Z','message':{'role':'assistant',"   \
    "'content':''},'done_reason':'stop','done':true,'total_duration':9007199254740993," \
    "'prompt_eval_count':26,'eval_count':2}\n"

#endif
