/* sim_reply.c - how a text becomes the events of a stream, or one answer. */
#include "sim/sim_reply.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/text/json.h"

#define OP(name) SIM_OP_##name

#define TOOL_ARGUMENTS "{\\\"simulated\\\":true}"

/* Up to the token's text, which keeps the same bytes in front of it in every run. */
static const char *const CHAT_BEFORE =
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"";
static const char *const COMPLETION_BEFORE = "data: {\"choices\":[{\"text\":\"";
static const char *const MESSAGES_BEFORE =
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,"
    "\"delta\":{\"type\":\"text_delta\",\"text\":\"";
static const char *const RESPONSES_BEFORE =
    "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\","
    "\"delta\":\"";
static const char *const TRANSCRIPT_BEFORE =
    "data: {\"type\":\"transcript.text.delta\",\"delta\":\"";
static const char *const OLLAMA_CHAT_BEFORE =
    "{\"message\":{\"role\":\"assistant\",\"content\":\"";
static const char *const OLLAMA_GENERATE_BEFORE = "{\"response\":\"";

/* ---- what every event carries ---------------------------------------------------------- */

static void add_marks(const struct sim_reply *reply, struct buf *out)
{
    buf_printf(out, "\"system_fingerprint\":\"%s\",\"simulated\":true",
               reply->ident->fingerprint);
}

static void add_created_at(const struct sim_reply *reply, struct buf *out)
{
    time_t wall = (time_t)reply->ident->created_s;
    struct tm tm;
    char text[32] = "1970-01-01T00:00:00Z";

    if (gmtime_r(&wall, &tm) != NULL)
        (void)strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
    buf_printf(out, "\"created_at\":\"%s\"", text);
}

/* The members of every object of this answer that name it: id, model, time. */
static void add_tail(const struct sim_reply *reply, struct buf *out, const char *object)
{
    const struct sim_ident *ident = reply->ident;

    switch (reply->request->operation) {
    case OP(CHAT_COMPLETIONS):
    case OP(COMPLETIONS):
        buf_printf(
            out, "\"id\":\"%s-%s\",\"object\":\"%s\",\"created\":%" PRIu64 ",\"model\":\"%s\",",
            reply->request->operation == OP(COMPLETIONS) ? "cmpl" : "chatcmpl", ident->random,
            object, ident->created_s, reply->request->model->id);
        break;
    case OP(OLLAMA_CHAT):
    case OP(OLLAMA_GENERATE):
        buf_printf(out, "\"model\":\"%s\",", reply->request->model->id);
        add_created_at(reply, out);
        buf_str(out, ",");
        break;
    default:
        break;
    }
    add_marks(reply, out);
}

static void tail(const struct sim_reply *reply, struct buf *out)
{
    buf_add(out, reply->after.data + reply->tail_at, reply->tail_len);
}

int sim_reply_init(struct sim_reply *reply, const struct sim_request *request,
                   const struct sim_ident *ident)
{
    struct buf *after = &reply->after;
    const char *object = "", *head = "", *end = "}\n\n";

    memset(reply, 0, sizeof(*reply));
    reply->request = request;
    reply->ident = ident;
    switch (request->operation) {
    case OP(CHAT_COMPLETIONS):
        reply->before = CHAT_BEFORE;
        head = "\"},\"finish_reason\":null}],";
        object = "chat.completion.chunk";
        break;
    case OP(COMPLETIONS):
        reply->before = COMPLETION_BEFORE;
        head = "\",\"index\":0,\"logprobs\":null,\"finish_reason\":null}],";
        object = "text_completion";
        break;
    case OP(MESSAGES):
        reply->before = MESSAGES_BEFORE;
        head = "\"},";
        break;
    case OP(RESPONSES):
        reply->before = RESPONSES_BEFORE;
        head = "\",";
        end = ""; /* the sequence number comes last */
        break;
    case OP(OLLAMA_CHAT):
        reply->before = OLLAMA_CHAT_BEFORE;
        head = "\"},\"done\":false,";
        end = "}\n";
        break;
    case OP(OLLAMA_GENERATE):
        reply->before = OLLAMA_GENERATE_BEFORE;
        head = "\",\"done\":false,";
        end = "}\n";
        break;
    default: /* transcriptions; the others give no text */
        reply->before = TRANSCRIPT_BEFORE;
        head = "\",";
        break;
    }
    reply->before_len = strlen(reply->before);
    if (!request->stream) /* one answer needs none of this */
        return 0;
    buf_str(after, head);
    if (request->operation == OP(RESPONSES))
        buf_printf(after,
                   "\"item_id\":\"msg_%s\",\"output_index\":0,\"content_index\":0,"
                   "\"logprobs\":[],",
                   ident->random);
    reply->tail_at = after->len;
    add_tail(reply, after, object);
    reply->tail_len = after->len - reply->tail_at;
    if (request->usage_event)
        buf_str(after, ",\"usage\":null");
    buf_str(after, end);
    if (after->failed) {
        sim_reply_finish(reply);
        return DRV_ENOMEM;
    }
    return 0;
}

void sim_reply_finish(struct sim_reply *reply)
{
    buf_finish(&reply->after);
}

const char *sim_reply_content_type(const struct sim_reply *reply)
{
    if (reply->request->stream)
        return sim_is_ollama(reply->request->operation) ? "application/x-ndjson"
                                                        : "text/event-stream";
    return reply->request->plain ? "text/plain; charset=utf-8"
                                 : "application/json; charset=utf-8";
}

/* ---- usage and reasons ----------------------------------------------------------------- */

static void add_usage(const struct sim_reply *reply, struct buf *out,
                      const struct sim_outcome *outcome)
{
    uint32_t in = reply->request->prompt_tokens;

    buf_printf(out,
               "\"usage\":{\"prompt_tokens\":%u,\"completion_tokens\":%u,\"total_tokens\":%u,"
               "\"prompt_tokens_details\":{\"cached_tokens\":%u}}",
               in, outcome->output_tokens, in + outcome->output_tokens, outcome->cached_tokens);
}

static const char *reason(const struct sim_reply *reply)
{
    if (reply->request->want == SIM_WANT_TOOL)
        return "tool_calls";
    return reply->request->cut ? "length" : "stop";
}

static void add_text(const struct sim_reply *reply, struct buf *out, uint32_t count)
{
    sim_text_add(out, &reply->request->place, count, !reply->request->plain);
}

/* ---- tokens ---------------------------------------------------------------------------- */

static void tool_event(struct sim_reply *reply, struct buf *out, uint32_t index)
{
    buf_str(out, "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,");
    if (index == 0) {
        buf_printf(out, "\"id\":\"call_%s\",\"type\":\"function\",\"function\":{\"name\":",
                   reply->ident->random);
        json_quote_str(out, reply->request->tool);
        buf_str(out, ",\"arguments\":\"\"}}]");
    } else {
        buf_str(out, "\"function\":{\"arguments\":\"" TOOL_ARGUMENTS "\"}}]");
    }
    buf_str(out, "},\"finish_reason\":null}],");
    tail(reply, out);
    buf_str(out, reply->request->usage_event ? ",\"usage\":null}\n\n" : "}\n\n");
}

/* As llama-server writes it: the token's id and bytes lie in its log probabilities. */
static void logprobs_event(struct sim_reply *reply, struct buf *out, uint32_t index)
{
    const struct sim_place *place = &reply->request->place;
    struct sim_token said =
        index == 0 ? sim_text_first(place) : sim_text_token(&place->text, place->index + index);
    struct sim_token token = sim_text_token(&place->text, place->index + index);
    const char *comma = "";

    buf_str(out, reply->before);
    buf_add(out, said.json, said.json_len);
    buf_printf(out, "\",\"index\":0,\"logprobs\":{\"content\":[{\"id\":%u,\"token\":\"",
               sim_text_id(&place->text, place->index + index));
    buf_add(out, token.json, token.json_len);
    buf_str(out, "\",\"bytes\":[");
    for (size_t i = 0; i < token.text_len; i++, comma = ",")
        buf_printf(out, "%s%u", comma, (unsigned)(uint8_t)token.text[i]);
    buf_str(out, "],\"logprob\":-0.5,\"top_logprobs\":[]}]},\"finish_reason\":null}],");
    tail(reply, out);
    buf_str(out, reply->request->usage_event ? ",\"usage\":null}\n\n" : "}\n\n");
}

void sim_reply_token(struct sim_reply *reply, struct buf *out, uint32_t index)
{
    const struct sim_place *place = &reply->request->place;
    struct sim_token token;
    uint8_t *to;

    if (reply->request->want == SIM_WANT_TOOL) {
        tool_event(reply, out, index);
        return;
    }
    if (reply->request->logprobs) {
        logprobs_event(reply, out, index);
        return;
    }
    token =
        index == 0 ? sim_text_first(place) : sim_text_token(&place->text, place->index + index);
    to = buf_reserve(out, reply->before_len + token.json_len + reply->after.len);
    if (to == NULL)
        return;
    memcpy(to, reply->before, reply->before_len);
    memcpy(to + reply->before_len, token.json, token.json_len);
    memcpy(to + reply->before_len + token.json_len, reply->after.data, reply->after.len);
    out->len += reply->before_len + token.json_len + reply->after.len;
    if (reply->request->operation == OP(RESPONSES))
        buf_printf(out, ",\"sequence_number\":%u}\n\n", reply->sequence++);
}

/* ---- OpenAI: chat completions, completions --------------------------------------------- */

static void chat_event(struct sim_reply *reply, struct buf *out, const char *choices,
                       const char *extra)
{
    buf_printf(out, "data: {\"choices\":[%s],", choices);
    tail(reply, out);
    buf_printf(out, "%s}\n\n", extra);
}

static void close_openai(struct sim_reply *reply, struct buf *out,
                         const struct sim_outcome *outcome)
{
    bool chat = reply->request->operation == OP(CHAT_COMPLETIONS);

    if (chat)
        buf_printf(out,
                   "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"%s\"}],",
                   reason(reply));
    else
        buf_printf(out,
                   "data: {\"choices\":[{\"text\":\"\",\"index\":0,\"logprobs\":null,"
                   "\"finish_reason\":\"%s\"}],",
                   reason(reply));
    tail(reply, out);
    buf_str(out, reply->request->usage_event ? ",\"usage\":null}\n\n" : "}\n\n");
    if (reply->request->usage_event) {
        buf_str(out, "data: {\"choices\":[],");
        tail(reply, out);
        buf_str(out, ",");
        add_usage(reply, out, outcome);
        buf_str(out, "}\n\n");
    }
    buf_str(out, "data: [DONE]\n\n");
}

static void whole_openai(struct sim_reply *reply, struct buf *out,
                         const struct sim_outcome *outcome)
{
    bool chat = reply->request->operation == OP(CHAT_COMPLETIONS);

    buf_str(out, "{\"choices\":[{\"index\":0,");
    if (reply->request->want == SIM_WANT_TOOL) {
        buf_printf(out,
                   "\"message\":{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{"
                   "\"id\":\"call_%s\",\"type\":\"function\",\"function\":{\"name\":",
                   reply->ident->random);
        json_quote_str(out, reply->request->tool);
        buf_str(out, ",\"arguments\":\"" TOOL_ARGUMENTS "\"}}]}");
    } else {
        buf_str(out,
                chat ? "\"message\":{\"role\":\"assistant\",\"content\":\"" : "\"text\":\"");
        add_text(reply, out, outcome->output_tokens);
        buf_str(out, chat ? "\"}" : "\",\"logprobs\":null");
    }
    buf_printf(out, ",\"finish_reason\":\"%s\"}],", reason(reply));
    add_tail(reply, out, chat ? "chat.completion" : "text_completion");
    buf_str(out, ",");
    add_usage(reply, out, outcome);
    buf_str(out, "}");
}

/* ---- Anthropic ------------------------------------------------------------------------- */

static const char *stop_reason(const struct sim_reply *reply)
{
    return reply->request->cut ? "max_tokens" : "end_turn";
}

/* A message up to its usage; "content" as given. */
static void message_head(const struct sim_reply *reply, struct buf *out)
{
    buf_printf(
        out, "\"id\":\"msg_%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"%s\",",
        reply->ident->random, reply->request->model->id);
}

/* Anthropic counts the cached tokens apart from the others. */
static void message_usage(const struct sim_reply *reply, struct buf *out, uint32_t cached,
                          uint32_t output)
{
    buf_printf(out,
               "\"usage\":{\"input_tokens\":%u,\"cache_read_input_tokens\":%u,"
               "\"cache_creation_input_tokens\":0,\"output_tokens\":%u}",
               reply->request->prompt_tokens - cached, cached, output);
}

static void open_messages(struct sim_reply *reply, struct buf *out, uint32_t cached)
{
    buf_str(out, "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{");
    message_head(reply, out);
    buf_str(out, "\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,");
    message_usage(reply, out, cached, 0);
    buf_str(out, "},");
    tail(reply, out);
    buf_str(out, "}\n\nevent: content_block_start\ndata: {\"type\":\"content_block_start\","
                 "\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"},");
    tail(reply, out);
    buf_str(out, "}\n\n");
}

static void close_messages(struct sim_reply *reply, struct buf *out,
                           const struct sim_outcome *outcome)
{
    buf_str(out,
            "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0,");
    tail(reply, out);
    buf_printf(out,
               "}\n\nevent: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{"
               "\"stop_reason\":\"%s\",\"stop_sequence\":null},",
               stop_reason(reply));
    message_usage(reply, out, outcome->cached_tokens, outcome->output_tokens);
    buf_str(out, ",");
    tail(reply, out);
    buf_str(out, "}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\",");
    tail(reply, out);
    buf_str(out, "}\n\n");
}

static void whole_messages(struct sim_reply *reply, struct buf *out,
                           const struct sim_outcome *outcome)
{
    buf_str(out, "{");
    message_head(reply, out);
    buf_str(out, "\"content\":[{\"type\":\"text\",\"text\":\"");
    add_text(reply, out, outcome->output_tokens);
    buf_printf(out, "\"}],\"stop_reason\":\"%s\",\"stop_sequence\":null,", stop_reason(reply));
    message_usage(reply, out, outcome->cached_tokens, outcome->output_tokens);
    buf_str(out, ",");
    add_tail(reply, out, "");
    buf_str(out, "}");
}

/* ---- OpenAI responses ------------------------------------------------------------------ */

static void begin_event(struct buf *out, const char *type)
{
    buf_printf(out, "event: %s\ndata: {\"type\":\"%s\",", type, type);
}

static void end_event(struct sim_reply *reply, struct buf *out)
{
    buf_str(out, ",");
    tail(reply, out);
    buf_printf(out, ",\"sequence_number\":%u}\n\n", reply->sequence++);
}

/* {"type":"output_text",...} with `count` tokens of text */
static void output_part(const struct sim_reply *reply, struct buf *out, uint32_t count)
{
    buf_str(out, "{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[],\"text\":\"");
    add_text(reply, out, count);
    buf_str(out, "\"}");
}

static void output_item(const struct sim_reply *reply, struct buf *out, const char *status,
                        const uint32_t *count)
{
    buf_printf(
        out,
        "{\"type\":\"message\",\"id\":\"msg_%s\",\"role\":\"assistant\",\"status\":\"%s\","
        "\"content\":[",
        reply->ident->random, status);
    if (count != NULL)
        output_part(reply, out, *count);
    buf_str(out, "]}");
}

/* The response object itself; without an outcome while it is still in progress. */
static void response_object(const struct sim_reply *reply, struct buf *out,
                            const struct sim_outcome *outcome)
{
    bool cut = reply->request->cut;
    const char *status = outcome == NULL ? "in_progress" : cut ? "incomplete" : "completed";

    buf_printf(out,
               "{\"id\":\"resp_%s\",\"object\":\"response\",\"created_at\":%" PRIu64
               ",\"status\":\"%s\",\"error\":null,\"incomplete_details\":%s,\"model\":\"%s\","
               "\"instructions\":null,\"metadata\":{},\"parallel_tool_calls\":true,"
               "\"temperature\":1,\"top_p\":1,\"tool_choice\":\"auto\",\"tools\":[],",
               reply->ident->random, reply->ident->created_s, status,
               outcome != NULL && cut ? "{\"reason\":\"max_output_tokens\"}" : "null",
               reply->request->model->id);
    add_marks(reply, out);
    buf_str(out, ",\"output\":[");
    if (outcome != NULL) {
        output_item(reply, out, status, &outcome->output_tokens);
        buf_printf(out,
                   "],\"usage\":{\"input_tokens\":%u,\"input_tokens_details\":{"
                   "\"cached_tokens\":%u},\"output_tokens\":%u,\"output_tokens_details\":{"
                   "\"reasoning_tokens\":0},\"total_tokens\":%u}}",
                   reply->request->prompt_tokens, outcome->cached_tokens,
                   outcome->output_tokens,
                   reply->request->prompt_tokens + outcome->output_tokens);
    } else {
        buf_str(out, "],\"usage\":null}");
    }
}

static void open_responses(struct sim_reply *reply, struct buf *out)
{
    const uint32_t none = 0;

    begin_event(out, "response.created");
    buf_str(out, "\"response\":");
    response_object(reply, out, NULL);
    end_event(reply, out);
    begin_event(out, "response.in_progress");
    buf_str(out, "\"response\":");
    response_object(reply, out, NULL);
    end_event(reply, out);
    begin_event(out, "response.output_item.added");
    buf_str(out, "\"output_index\":0,\"item\":");
    output_item(reply, out, "in_progress", NULL);
    end_event(reply, out);
    begin_event(out, "response.content_part.added");
    buf_printf(out, "\"item_id\":\"msg_%s\",\"output_index\":0,\"content_index\":0,\"part\":",
               reply->ident->random);
    output_part(reply, out, none);
    end_event(reply, out);
}

static void close_responses(struct sim_reply *reply, struct buf *out,
                            const struct sim_outcome *outcome)
{
    const char *status = reply->request->cut ? "incomplete" : "completed";

    begin_event(out, "response.output_text.done");
    buf_printf(out,
               "\"item_id\":\"msg_%s\",\"output_index\":0,\"content_index\":0,\"logprobs\":[],"
               "\"text\":\"",
               reply->ident->random);
    add_text(reply, out, outcome->output_tokens);
    buf_str(out, "\"");
    end_event(reply, out);
    begin_event(out, "response.content_part.done");
    buf_printf(out, "\"item_id\":\"msg_%s\",\"output_index\":0,\"content_index\":0,\"part\":",
               reply->ident->random);
    output_part(reply, out, outcome->output_tokens);
    end_event(reply, out);
    begin_event(out, "response.output_item.done");
    buf_str(out, "\"output_index\":0,\"item\":");
    output_item(reply, out, status, &outcome->output_tokens);
    end_event(reply, out);
    begin_event(out, reply->request->cut ? "response.incomplete" : "response.completed");
    buf_str(out, "\"response\":");
    response_object(reply, out, outcome);
    end_event(reply, out);
}

/* ---- Ollama and transcriptions --------------------------------------------------------- */

static void ollama_end(struct sim_reply *reply, struct buf *out,
                       const struct sim_outcome *outcome, uint32_t tokens_of_text)
{
    buf_str(out, reply->before);
    add_text(reply, out, tokens_of_text);
    buf_str(out, reply->request->operation == OP(OLLAMA_CHAT) ? "\"}" : "\"");
    buf_printf(out,
               ",\"done\":true,\"done_reason\":\"%s\",\"total_duration\":%" PRIu64
               ",\"load_duration\":0,\"prompt_eval_count\":%u,\"prompt_eval_duration\":%" PRIu64
               ",\"eval_count\":%u,\"eval_duration\":%" PRIu64 ",",
               reason(reply), (outcome->prompt_us + outcome->output_us) * 1000,
               reply->request->prompt_tokens, outcome->prompt_us * 1000, outcome->output_tokens,
               outcome->output_us * 1000);
    add_tail(reply, out, "");
    buf_str(out, "}");
}

static void close_transcript(struct sim_reply *reply, struct buf *out,
                             const struct sim_outcome *outcome)
{
    buf_str(out, "data: {\"type\":\"transcript.text.done\",\"text\":\"");
    add_text(reply, out, outcome->output_tokens);
    buf_str(out, "\",");
    tail(reply, out);
    buf_str(out, "}\n\ndata: [DONE]\n\n");
}

static void whole_transcript(struct sim_reply *reply, struct buf *out,
                             const struct sim_outcome *outcome)
{
    if (reply->request->plain) {
        add_text(reply, out, outcome->output_tokens);
        buf_str(out, "\n");
        return;
    }
    buf_str(out, "{\"text\":\"");
    add_text(reply, out, outcome->output_tokens);
    buf_printf(out,
               "\",\"usage\":{\"type\":\"tokens\",\"input_tokens\":%u,\"output_tokens\":%u,"
               "\"total_tokens\":%u},",
               reply->request->prompt_tokens, outcome->output_tokens,
               reply->request->prompt_tokens + outcome->output_tokens);
    add_marks(reply, out);
    buf_str(out, "}");
}

/* ---- by operation ---------------------------------------------------------------------- */

void sim_reply_open(struct sim_reply *reply, struct buf *out, uint32_t cached_tokens)
{
    switch (reply->request->operation) {
    case OP(CHAT_COMPLETIONS):
        chat_event(reply, out,
                   "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":null},"
                   "\"finish_reason\":null}",
                   reply->request->usage_event ? ",\"usage\":null" : "");
        break;
    case OP(MESSAGES):
        open_messages(reply, out, cached_tokens);
        break;
    case OP(RESPONSES):
        open_responses(reply, out);
        break;
    default:
        break;
    }
}

void sim_reply_close(struct sim_reply *reply, struct buf *out,
                     const struct sim_outcome *outcome)
{
    switch (reply->request->operation) {
    case OP(CHAT_COMPLETIONS):
    case OP(COMPLETIONS):
        close_openai(reply, out, outcome);
        break;
    case OP(MESSAGES):
        close_messages(reply, out, outcome);
        break;
    case OP(RESPONSES):
        close_responses(reply, out, outcome);
        break;
    case OP(OLLAMA_CHAT):
    case OP(OLLAMA_GENERATE):
        ollama_end(reply, out, outcome, 0);
        buf_str(out, "\n");
        break;
    default:
        close_transcript(reply, out, outcome);
        break;
    }
}

void sim_reply_whole(struct sim_reply *reply, struct buf *out,
                     const struct sim_outcome *outcome)
{
    switch (reply->request->operation) {
    case OP(CHAT_COMPLETIONS):
    case OP(COMPLETIONS):
        whole_openai(reply, out, outcome);
        break;
    case OP(MESSAGES):
        whole_messages(reply, out, outcome);
        break;
    case OP(RESPONSES):
        response_object(reply, out, outcome);
        break;
    case OP(OLLAMA_CHAT):
    case OP(OLLAMA_GENERATE):
        ollama_end(reply, out, outcome, outcome->output_tokens);
        break;
    default:
        whole_transcript(reply, out, outcome);
        break;
    }
}

void sim_reply_error(struct sim_reply *reply, struct buf *out, const char *message)
{
    enum sim_operation operation = reply->request->operation;

    if (!sim_is_ollama(operation))
        buf_str(out, sim_is_anthropic(operation) || operation == OP(RESPONSES)
                         ? "event: error\ndata: "
                         : "data: ");
    if (operation == OP(RESPONSES)) {
        buf_str(out,
                "{\"type\":\"error\",\"code\":\"server_error\",\"param\":null,\"message\":");
        json_quote_str(out, message);
        end_event(reply, out);
        return;
    }
    sim_error_body(out, operation, 500, "server_error", NULL, message);
    buf_str(out, sim_is_ollama(operation) ? "\n" : "\n\n");
}
