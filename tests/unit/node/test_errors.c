/* test_errors.c - the side at fault for an engine's HTTP error. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/attrs.h"
#include "node/engine/errors.h"

static const struct {
    const char *body;
    unsigned http;
    bool usage_added;
    enum engine_error_action engine_error_action;
    enum grpc_status status;
} cases[] = {
    /* llama-server's 500s that are the client's doing */
    {"{\"error\":{\"code\":500,\"message\":\"[json.exception.parse_error.101] parse error at "
     "line "
     "1\",\"type\":\"server_error\"}}",
     500, false, ENGINE_ERROR_PASS_AS_400, GRPC_OK},
    {"{\"error\":{\"code\":500,\"message\":\"image input is not supported - hint: if this is "
     "unexpected, you may need to provide the mmproj\",\"type\":\"server_error\"}}",
     500, false, ENGINE_ERROR_PASS_AS_400, GRPC_OK},
    {"{\"error\":{\"code\":500,\"message\":\"'messages' is "
     "required\",\"type\":\"server_error\"}}",
     500, false, ENGINE_ERROR_PASS_AS_400, GRPC_OK},
    /* and one that is not */
    {"{\"error\":{\"code\":500,\"message\":\"Compute error.\",\"type\":\"server_error\"}}", 500,
     false, ENGINE_ERROR_FAIL, GRPC_INTERNAL},
    {"{\"error\":{\"message\":\"Loading model\",\"type\":\"unavailable_error\",\"code\":503}}",
     503, false, ENGINE_ERROR_FAIL, GRPC_RESOURCE_EXHAUSTED},
    {"{\"error\":{\"code\":400,\"message\":\"request (15613 tokens) exceeds the available "
     "context "
     "size (2048 tokens), try increasing it\",\"type\":\"exceed_context_size_error\"}}",
     400, false, ENGINE_ERROR_PASS, GRPC_OK},
    {"{\"error\":{\"message\":\"Invalid API "
     "Key\",\"type\":\"authentication_error\",\"code\":401}}",
     401, false, ENGINE_ERROR_FAIL, GRPC_UNAVAILABLE},
    {"{\"error\":{\"code\":501,\"message\":\"This server does not support embeddings.\"}}", 501,
     false, ENGINE_ERROR_FAIL, GRPC_UNIMPLEMENTED},
    {"{\"error\":{\"message\":\"File Not Found\",\"type\":\"not_found_error\",\"code\":404}}",
     404, false, ENGINE_ERROR_FAIL, GRPC_UNIMPLEMENTED},
    {"{\"detail\":\"Not Found\"}", 404, false, ENGINE_ERROR_FAIL, GRPC_UNIMPLEMENTED},
    {"404 page not found", 404, false, ENGINE_ERROR_FAIL, GRPC_UNIMPLEMENTED},
    {"{\"error\":{\"code\":400,\"message\":\"model 'nope' not found\"}}", 400, false,
     ENGINE_ERROR_FAIL, GRPC_NOT_FOUND},
    {"{\"error\":\"model 'x' not found\"}", 404, false, ENGINE_ERROR_FAIL, GRPC_NOT_FOUND},
    {"{\"error\":\"server busy, please try again. maximum pending requests exceeded\"}", 503,
     false, ENGINE_ERROR_FAIL, GRPC_RESOURCE_EXHAUSTED},
    {"{\"detail\":{\"msg\":\"Server is busy; please try again later.\",\"type\":"
     "\"service_unavailable\"}}",
     503, false, ENGINE_ERROR_FAIL, GRPC_RESOURCE_EXHAUSTED},
    {"{\"error\":{\"message\":\"no slot available\",\"code\":503}}", 503, false,
     ENGINE_ERROR_FAIL, GRPC_RESOURCE_EXHAUSTED},
    {"{\"error\":\"too many concurrent requests\"}", 500, false, ENGINE_ERROR_FAIL,
     GRPC_RESOURCE_EXHAUSTED},
    {"{}", 429, false, ENGINE_ERROR_FAIL, GRPC_RESOURCE_EXHAUSTED},
    {"<html>bad gateway</html>", 502, false, ENGINE_ERROR_FAIL, GRPC_UNAVAILABLE},
    {"{\"error\":{\"message\":\"unknown field stream_options\"}}", 400, true,
     ENGINE_ERROR_WITHOUT_USAGE, GRPC_OK},
    {"{\"error\":{\"message\":\"unknown field stream_options\"}}", 400, false,
     ENGINE_ERROR_PASS, GRPC_OK},
    {"{\"detail\":[{\"type\":\"extra_forbidden\",\"loc\":[\"body\",\"stream_options\"],"
     "\"msg\":\"Extra inputs are not permitted\"}]}",
     422, true, ENGINE_ERROR_WITHOUT_USAGE, GRPC_OK},
    {"{\"error\":\"create() got an unexpected keyword argument 'stream_options'\"}", 500, true,
     ENGINE_ERROR_WITHOUT_USAGE, GRPC_OK},
    /* FastAPI repeats what it was sent: that is no fault of the member */
    {"{\"detail\":[{\"type\":\"missing\",\"loc\":[\"body\",\"tools\"],\"msg\":\"Field "
     "required\",\"input\":{\"stream_options\":{\"include_usage\":true}}}]}",
     422, true, ENGINE_ERROR_PASS, GRPC_OK},
    /* the engine gave up waiting for a client that is still there */
    {"{\"error\":{\"message\":\"request timeout\"}}", 408, false, ENGINE_ERROR_FAIL,
     GRPC_UNAVAILABLE},
    {"", 499, false, ENGINE_ERROR_FAIL, GRPC_UNAVAILABLE},
    {"{\"error\":{\"message\":\"conflict\"}}", 409, false, ENGINE_ERROR_PASS, GRPC_OK},
};

Test(errors, every_known_answer_of_an_engine_is_judged_as_it_should)
{
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct engine_error v;

        engine_error_http(&v, cases[i].http, cases[i].body, strlen(cases[i].body),
                          cases[i].usage_added);
        cr_assert_eq(v.engine_error_action, cases[i].engine_error_action, "case %zu: %d", i,
                     (int)v.engine_error_action);
        if (v.engine_error_action == ENGINE_ERROR_FAIL)
            cr_assert_eq(v.status, cases[i].status, "case %zu: %s", i,
                         grpc_status_name(v.status));
    }
}

Test(errors, the_engine_s_words_are_kept)
{
    struct engine_error v;

    engine_error_http(&v, cases[3].http, cases[3].body, strlen(cases[3].body), false);
    cr_assert_str_eq(v.text, "the engine answered 500: Compute error.");
}

static enum grpc_status of_event(uint32_t status, const char *body)
{
    struct engine_error v;

    engine_error_event(&v, status, body, strlen(body));
    return v.engine_error_action == ENGINE_ERROR_FAIL ? v.status : GRPC_INVALID_ARGUMENT;
}

Test(errors, error_events_are_the_client_s_fault_only_when_they_say_so)
{
    cr_assert_eq(of_event(400, "{\"error\":\"no\"}"), GRPC_INVALID_ARGUMENT);
    cr_assert_eq(of_event(0, "{\"error\":\"no\"}"), GRPC_INTERNAL);
    cr_assert_eq(of_event(500, "{\"error\":\"no\"}"), GRPC_INTERNAL);
    cr_assert_eq(of_event(429, "{\"error\":\"no\"}"), GRPC_RESOURCE_EXHAUSTED);
    cr_assert_eq(of_event(529, "{\"error\":\"no\"}"), GRPC_RESOURCE_EXHAUSTED);
}

#define CAUSE(name) DROVER__V1__CAUSE__KIND__KIND_##name

static const struct {
    unsigned http;
    const char *body;
    Drover__V1__Cause__Kind cause;
    enum engine_error_action action;
    enum ability ability;
    uint64_t limit, needed;
} causes[] = {
    /* contexts */
    {400,
     "{\"error\":{\"code\":400,\"message\":\"request (15613 tokens) exceeds the available "
     "context "
     "size (2048 tokens), try increasing it\",\"type\":\"exceed_context_size_error\","
     "\"n_prompt_tokens\":15613,\"n_ctx\":2048}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_CONTEXT, 2048, 15613},
    {400,
     "{\"object\":\"error\",\"message\":\"This model's maximum context length is 4096 tokens. "
     "However, you requested 5000 tokens (4500 in the messages, 500 in the completion). Please "
     "reduce the length of the messages or completion.\",\"type\":\"BadRequestError\","
     "\"param\":null,\"code\":400}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_CONTEXT, 4096, 5000},
    {400,
     "{\"error\":{\"message\":\"'max_tokens' or 'max_completion_tokens' is too large: 5000. "
     "This "
     "model's maximum context length is 4096 tokens and your request has 12 input tokens (5000 "
     "> "
     "4096 - 12).\",\"type\":\"BadRequestError\",\"code\":400}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_CONTEXT, 4096, 5012},
    {400,
     "{\"error\":{\"message\":\"This model's maximum context length is 4096 tokens. However, "
     "you "
     "requested 500 output tokens and your prompt contains at least 4500 input tokens, for a "
     "total of at least 5000 tokens.\",\"code\":400}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_CONTEXT, 4096, 5000},
    {400,
     "{\"error\":{\"message\":\"This model's maximum context length is 8192 tokens. However, "
     "your "
     "messages resulted in 9001 tokens.\",\"type\":\"invalid_request_error\","
     "\"param\":\"messages\",\"code\":\"context_length_exceeded\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_CONTEXT, 8192, 9001},
    {400,
     "{\"error\":{\"message\":\"Your input exceeds "
     "it.\",\"code\":\"context_length_exceeded\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_CONTEXT, 0, 0},
    {400,
     "{\"object\":\"error\",\"message\":\"The input (5000 tokens) is longer than the model's "
     "context "
     "length (4096 tokens).\",\"code\":400}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_CONTEXT, 4096, 5000},
    {400,
     "{\"error\":{\"message\":\"Requested token count exceeds the model's maximum context "
     "length of "
     "4096 tokens. You requested a total of 5000 tokens: 4500 tokens from the input messages "
     "and 500 tokens for the completion.\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_CONTEXT, 4096, 5000},
    {400,
     "{\"error\":\"Trying to keep the first 4500 tokens when context the overflows. However, "
     "the "
     "model is loaded with context length of only 4096 tokens, which is not enough.\"}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_CONTEXT, 4096, 4500},
    {422,
     "{\"error\":\"Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. "
     "Given: 5000 `inputs` tokens and 20 `max_new_tokens`\"}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_CONTEXT, 4096, 5000},
    {400, "{\"error\":\"the input length exceeds the context length\"}", CAUSE(ABILITY),
     ENGINE_ERROR_PASS, ABILITY_CONTEXT, 0, 0},
    {400,
     "{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":\"prompt "
     "is too "
     "long: 210000 tokens > 200000 maximum\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_CONTEXT, 200000, 210000},
    {400,
     "{\"error\":{\"message\":\"The input token count (1200000) exceeds the maximum number of "
     "tokens "
     "allowed (1048576).\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_CONTEXT, 1048576, 1200000},
    {500,
     "{\"error\":{\"code\":500,\"message\":\"input (700 tokens) is too large to process. "
     "increase "
     "the physical batch size (current batch size: 512)\",\"type\":\"server_error\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS_AS_400, ABILITY_CONTEXT, 512, 700},
    /* images, sounds, tools */
    {500,
     "{\"error\":{\"code\":500,\"message\":\"image input is not supported - hint: if this is "
     "unexpected, you may need to provide the mmproj\",\"type\":\"server_error\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS_AS_400, ABILITY_VISION, 0, 0},
    {400,
     "{\"object\":\"error\",\"message\":\"At most 0 image(s) may be provided in one prompt.\"}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_VISION, 0, 0},
    {400, "{\"error\":{\"message\":\"At most 2 image(s) may be provided in one prompt.\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_VISION, 2, 0},
    {500, "{\"error\":\"this model is missing data required for image input\"}", CAUSE(ABILITY),
     ENGINE_ERROR_PASS_AS_400, ABILITY_VISION, 0, 0},
    {500,
     "{\"error\":{\"code\":500,\"message\":\"audio input is not supported - hint: if this is "
     "unexpected, you may need to provide the mmproj\",\"type\":\"server_error\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS_AS_400, ABILITY_AUDIO, 0, 0},
    {400, "{\"error\":\"registry.ollama.ai/library/x:latest does not support tools\"}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_TOOLS, 0, 0},
    {400,
     "{\"object\":\"error\",\"message\":\"\\\"auto\\\" tool choice requires "
     "--enable-auto-tool-choice and --tool-call-parser to be set\",\"code\":400}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_TOOLS, 0, 0},
    {400, "{\"error\":{\"message\":\"response_format json_schema is not supported\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_GRAMMAR, 0, 0},
    {400, "{\"error\":\"\\\"embed\\\" does not support chat\"}", CAUSE(ABILITY),
     ENGINE_ERROR_FAIL, ABILITY_OPERATION, 0, 0},
    {404, "{\"detail\":\"Not Found\"}", CAUSE(ABILITY), ENGINE_ERROR_FAIL, ABILITY_OPERATION, 0,
     0},
    {500, "{\"error\":{\"message\":\"Context size has been exceeded.\",\"code\":500}}",
     CAUSE(ENGINE_ERROR), ENGINE_ERROR_FAIL, ABILITY_NONE, 0, 0}, /* a full cache */
    {403,
     "{\"error\":{\"message\":\"Your chosen model requires moderation and your input was "
     "flagged\"}}",
     CAUSE(REQUEST), ENGINE_ERROR_PASS, ABILITY_NONE, 0, 0},
    {403, "<html>403 Forbidden</html>", CAUSE(REQUEST), ENGINE_ERROR_PASS, ABILITY_NONE, 0, 0},
    {400,
     "{\"error\":{\"message\":\"The provided JSON schema contains features not supported by "
     "xgrammar.\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_GRAMMAR, 1, 0},
    {400, "{\"error\":\"registry.ollama.ai/library/x:latest does not support insert\"}",
     CAUSE(UNSPECIFIED), ENGINE_ERROR_PASS, ABILITY_NONE, 0, 0},
    {422,
     "{\"detail\":[{\"loc\":[\"body\",\"messages\"],\"msg\":\"Input should be a valid "
     "list\",\"input\":\"maximum context length is 8 tokens\"}]}",
     CAUSE(UNSPECIFIED), ENGINE_ERROR_PASS, ABILITY_NONE, 0, 0},
    {413, "<html>413 Request Entity Too Large</html>", CAUSE(ABILITY), ENGINE_ERROR_PASS,
     ABILITY_MESSAGE_BYTES, 0, 0},
    /* credentials */
    {401, "{\"error\":\"unauthorized\",\"signin_url\":\"https://ollama.com/connect?x=1\"}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_ACCESS, 0, 0},
    {403, "{\"error\":{\"message\":\"Project has no access to model gpt-9\"}}", CAUSE(ABILITY),
     ENGINE_ERROR_PASS, ABILITY_ACCESS, 0, 0},
    {401, "{\"error\":{\"message\":\"Invalid API Key\",\"code\":401}}", CAUSE(ABILITY),
     ENGINE_ERROR_FAIL, ABILITY_ACCESS, 0, 0},
    /* the request's doing, or perhaps */
    {500, "{\"error\":{\"message\":\"Cannot fetch image\",\"code\":500}}", CAUSE(REQUEST),
     ENGINE_ERROR_PASS_AS_400, ABILITY_NONE, 0, 0},
    {500, "{\"error\":{\"message\":\"Failed to parse grammar\",\"code\":500}}",
     CAUSE(UNSPECIFIED), ENGINE_ERROR_PASS_AS_400, ABILITY_NONE, 0, 0},
    {500, "{\"error\":{\"message\":\"list index out of range\",\"code\":500}}",
     CAUSE(ENGINE_ERROR), ENGINE_ERROR_FAIL, ABILITY_NONE, 0, 0},
    {500, "{\"error\":{\"message\":\"failed to load model file\",\"code\":500}}",
     CAUSE(ENGINE_ERROR), ENGINE_ERROR_FAIL, ABILITY_NONE, 0, 0},
    /* of no node */
    {503, "{\"error\":\"server busy, please try again.  maximum pending requests exceeded\"}",
     CAUSE(UNSPECIFIED), ENGINE_ERROR_FAIL, ABILITY_NONE, 0, 0},
    {500, "proxy error: Could not establish connection", CAUSE(UNSPECIFIED), ENGINE_ERROR_FAIL,
     ABILITY_NONE, 0, 0},
    {400,
     "{\"error\":{\"code\":400,\"message\":\"model name=big is not running\",\"type\":"
     "\"invalid_request_error\"}}",
     CAUSE(UNSPECIFIED), ENGINE_ERROR_FAIL, ABILITY_NONE, 0, 0},
    {400, "{\"error\":{\"message\":\"my model is not running\"}}", CAUSE(UNSPECIFIED),
     ENGINE_ERROR_PASS, ABILITY_NONE, 0, 0},
    {400, "{\"error\":{\"message\":\"'temperature' must be a number\"}}", CAUSE(UNSPECIFIED),
     ENGINE_ERROR_PASS, ABILITY_NONE, 0, 0},
    /* what the engine repeats of a request are not its words */
    {400,
     "{\"error\":{\"message\":\"1 validation error:\\n  {'type': 'extra_forbidden', 'msg': "
     "'Extra "
     "inputs are not permitted', 'input': 'why is there a cuda error'}\",\"code\":400}}",
     CAUSE(UNSPECIFIED), ENGINE_ERROR_PASS, ABILITY_NONE, 0, 0},
    {400,
     "{\"error\":{\"message\":\"1 validation error:\\n  {'msg': 'Field required', 'input': "
     "{'a': "
     "'the model does not exist'}}\",\"code\":400}}",
     CAUSE(UNSPECIFIED), ENGINE_ERROR_PASS, ABILITY_NONE, 0, 0},
    {400,
     "{\"error\":{\"message\":\"messages.0 Field required [type=missing, input_value={'a': 'a "
     "maximum context length is 1024 tokens'}, input_type=dict]\"}}",
     CAUSE(UNSPECIFIED), ENGINE_ERROR_PASS, ABILITY_NONE, 0, 0},
    {500,
     "{\"error\":{\"code\":500,\"message\":\"Failed to parse messages: Missing 'role'; "
     "messages = "
     "[ { \\\"content\\\": \\\"context size\\\" } ]\"}}",
     CAUSE(UNSPECIFIED), ENGINE_ERROR_PASS_AS_400, ABILITY_NONE, 0, 0},
    /* contexts in other words */
    {400,
     "{\"error\": {\"message\": \"You passed 2049 input tokens and requested"
     " 500 output tokens. However, the model's context length is only 2048 t"
     "okens, resulting in a maximum input length of 1548 tokens. Please redu"
     "ce the length of the input prompt.\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_CONTEXT, 2048, 2549},
    {400,
     "{\"error\": {\"message\": \"You passed 300000 input characters and req"
     "uested 16 output tokens. However, the model's context length is only 2"
     "048 tokens, resulting in a maximum input length of 2032 tokens (at mos"
     "t 8192 characters).\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_CONTEXT, 2048, 0},
    {400,
     "{\"error\": {\"message\": \"This model's maximum context length is 262"
     "144 tokens. However, you requested 16 output tokens and your prompt co"
     "ntains 472970 input tokens.\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_CONTEXT, 262144, 472986},
    {400,
     "{\"error\": {\"message\": \"Prompt length 5000 exceeds the available c"
     "ontext size of 4096 tokens\", \"type\": \"invalid_request_error\", \"p"
     "aram\": null, \"code\": \"context_length_exceeded\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_CONTEXT, 4096, 5000},
    {400,
     "{\"error\": {\"message\": \"Initial job allocation requires 5120 cache"
     " tokens, which exceeds the available context size of 4096 tokens\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_CONTEXT, 4096, 5120},
    {500,
     "{\"error\": {\"message\": \"input (9000 tokens) is larger than the max"
     " context size (8192 tokens). skipping\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS_AS_400, ABILITY_CONTEXT, 8192, 9000},
    {400,
     "{\"error\": {\"message\": \"Input length (5000 tokens) exceeds the max"
     "imum allowed length (4090 tokens). Use a shorter input or enable --all"
     "ow-auto-truncate.\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_CONTEXT, 4090, 5000},
    {400,
     "{\"error\": {\"message\": \"Requested tokens (41003) exceed context wi"
     "ndow of 8192\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_CONTEXT, 8192, 41003},
    {400,
     "{\"error\": {\"message\": \"This model's maximum prompt length is 1310"
     "72 but the request contains 537812 tokens.\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_CONTEXT, 131072, 537812},
    {400,
     "{\"error\": {\"message\": \"prompt token count of 200000 exceeds the l"
     "imit of 128000\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_CONTEXT, 128000, 200000},
    {400,
     "{\"error\": {\"message\": \"Input tokens exceed the configured limit o"
     "f 272000 tokens. Your messages resulted in 509178 tokens.\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_CONTEXT, 272000, 509178},
    {400,
     "{\"error\": {\"message\": \"Input length 131393 exceeds the maximum al"
     "lowed input length of 131040 tokens.\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_CONTEXT, 131040, 131393},
    {400,
     "{\"error\": {\"message\": \"Your request exceeded model token limit: 8"
     "192 (requested: 9000)\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_CONTEXT, 8192, 9000},
    {400,
     "{\"error\": {\"message\": \"<400> InternalError.Algo.InvalidParameter:"
     " Range of input length should be [1, 98304]\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_CONTEXT, 98304, 0},
    {400,
     "{\"error\": {\"message\": \"This endpoint's maximum context length is "
     "131072 tokens. However, you requested about 200000 tokens (190000 of t"
     "ext input, 10000 in the output).\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_CONTEXT, 131072, 200000},
    {400,
     "{\"error\": {\"message\": \"Please reduce the length of the messages o"
     "r completion.\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_CONTEXT, 0, 0},
    {400,
     "{\"error\": {\"message\": \"the prompt is longer than the context leng"
     "th currently available to the model; shorten the prompt\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_CONTEXT, 0, 0},
    {422,
     "{\"error\": \"Input validation error: `inputs` must have less than 409"
     "5 tokens. Given: 5000\", \"error_type\": \"validation\"}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_CONTEXT, 4095, 5000},
    {500,
     "{\"object\": \"error\", \"message\": \"Internal server error: Requeste"
     "d token count exceeds the model's maximum context length of 4096 token"
     "s. You requested a total of 5000 tokens: 4500 tokens from the input me"
     "ssages and 500 tokens for the completion.\", \"type\": \"InternalServe"
     "rError\", \"code\": 500}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS_AS_400, ABILITY_CONTEXT, 4096, 5000},
    {500,
     "{\"error\":{\"code\":500,\"message\":\"the request exceeds the available context size, "
     "try "
     "increasing it\",\"type\":\"server_error\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS_AS_400, ABILITY_CONTEXT, 0, 0},
    /* images, sounds and tools in other words */
    {500,
     "{\"error\": {\"message\": \"video input is not supported - hint: if th"
     "is is unexpected, you may need to provide the mmproj\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS_AS_400, ABILITY_VISION, 0, 0},
    {500,
     "{\"error\": {\"message\": \"Multimodal data provided, but model does n"
     "ot support multimodal requests.\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS_AS_400, ABILITY_VISION, 0, 0},
    {422,
     "{\"error\": \"Input validation error: image modality is not supported\""
     ", \"error_type\": \"validation\"}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_VISION, 0, 0},
    {400,
     "{\"error\": {\"message\": \"Multimodal inputs are not supported when -"
     "-language-model-only is set; the encoder is not loaded.\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_VISION, 0, 0},
    {404,
     "{\"error\": {\"message\": \"No endpoints found that support image inpu"
     "t\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_VISION, 0, 0},
    {400,
     "{\"error\": {\"message\": \"messages.content.type is invalid, allowed "
     "values: ['text']\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_VISION, 0, 0},
    {404, "{\"error\": \"Only 'text' content type is supported.\"}", CAUSE(ABILITY),
     ENGINE_ERROR_PASS, ABILITY_VISION, 0, 0},
    {400,
     "{\"error\": {\"message\": \"Model does not support images. Please use "
     "a model that does.\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_VISION, 0, 0},
    {404,
     "{\"error\": {\"message\": \"No endpoints found that support input audi"
     "o\"}}",
     CAUSE(UNSPECIFIED), ENGINE_ERROR_PASS, ABILITY_NONE, 0, 0},
    {400,
     "{\"error\": {\"message\": \"The current model does not support audio i"
     "nput.\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_AUDIO, 0, 0},
    {400,
     "{\"error\": {\"message\": \"`tool calling` is not supported with this "
     "model\"}}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_TOOLS, 0, 0},
    {500, "{\"error\": {\"message\": \"tools param requires --jinja flag\"}}", CAUSE(ABILITY),
     ENGINE_ERROR_PASS_AS_400, ABILITY_TOOLS, 0, 0},
    {422,
     "{\"error\": \"Input validation error: grammar is not supported\", \"er"
     "ror_type\": \"validation\"}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_GRAMMAR, 0, 0},
    /* the model of another user of the engine */
    {401,
     "{\"detail\": \"Unable to switch model to big because an admin key isn'"
     "t provided\"}",
     CAUSE(ABILITY), ENGINE_ERROR_PASS, ABILITY_ACCESS, 0, 0},
    /* the engine's own end, said with a 4xx */
    {400,
     "{\"error\":\"The model has crashed without additional information. (Exit code: 134)\"}",
     CAUSE(ENGINE_DIED), ENGINE_ERROR_FAIL, ABILITY_NONE, 0, 0},
    /* what ran the request died of it, behind a server that lives */
    {500, "{\"error\":\"llama runner process has terminated: exit status 2\"}",
     CAUSE(ENGINE_DIED), ENGINE_ERROR_FAIL, ABILITY_NONE, 0, 0},
    {500,
     "{\"error\":\"model runner has unexpectedly stopped, this may be due to resource "
     "limitations or an internal error\"}",
     CAUSE(ENGINE_DIED), ENGINE_ERROR_FAIL, ABILITY_NONE, 0, 0},
    {500,
     "{\"error\":\"do encode request: Post \\\"http://127.0.0.1:36107/completion\\\": EOF\"}",
     CAUSE(ENGINE_DIED), ENGINE_ERROR_FAIL, ABILITY_NONE, 0, 0},
    {500,
     "{\"error\":{\"code\":500,\"message\":\"rpc error: code = Unavailable desc = error "
     "reading from server: EOF\"}}",
     CAUSE(ENGINE_DIED), ENGINE_ERROR_FAIL, ABILITY_NONE, 0, 0},
    {500,
     "{\"error\":{\"message\":\"EngineCore encountered an issue. See stack trace (above) for "
     "the "
     "root cause.\",\"code\":500}}",
     CAUSE(ENGINE_DIED), ENGINE_ERROR_FAIL, ABILITY_NONE, 0, 0},
    {500, "proxy error: Failed to read connection", CAUSE(ENGINE_DIED), ENGINE_ERROR_FAIL,
     ABILITY_NONE, 0, 0},
    /* ... or never came up */
    {500,
     "{\"error\":{\"code\":500,\"message\":\"model name=a failed to load\",\"type\":"
     "\"server_error\"}}",
     CAUSE(ENGINE_ERROR), ENGINE_ERROR_FAIL, ABILITY_NONE, 0, 0},
    /* ... or of an earlier one: it says so to each that follows */
    {500,
     "{\"error\":{\"message\":\"AsyncEngineDeadError: Background loop has errored "
     "already.\",\"code\":500}}",
     CAUSE(ENGINE_ERROR), ENGINE_ERROR_FAIL, ABILITY_NONE, 0, 0},
    {400, "{\"error\":\"Model unloaded.\"}", CAUSE(ENGINE_ERROR), ENGINE_ERROR_FAIL,
     ABILITY_NONE, 0, 0},
    {404, "{\"error\":\"[metal::malloc] Attempting to allocate 9 bytes\"}", CAUSE(ENGINE_ERROR),
     ENGINE_ERROR_FAIL, ABILITY_NONE, 0, 0},
    /* TGI: the server behind its router failed */
    {424,
     "{\"error\": \"Request failed during generation: Server error: CUDA err"
     "or\", \"error_type\": \"generation\"}",
     CAUSE(ENGINE_ERROR), ENGINE_ERROR_FAIL, ABILITY_NONE, 0, 0},
    {400,
     "{\"error\": {\"message\": \"Unrecognized request argument supplied: fo"
     "o\"}}",
     CAUSE(UNSPECIFIED), ENGINE_ERROR_PASS, ABILITY_NONE, 0, 0},
    {500, "{\"error\": {\"message\": \"Invalid JSON schema: unknown type\"}}",
     CAUSE(UNSPECIFIED), ENGINE_ERROR_PASS_AS_400, ABILITY_NONE, 0, 0},
};

Test(errors, a_refusal_names_what_the_engine_lacks_and_its_figures)
{
    for (size_t i = 0; i < ARRAY_LEN(causes); i++) {
        struct engine_error v;

        engine_error_http(&v, causes[i].http, causes[i].body, strlen(causes[i].body), false);
        cr_expect_eq(v.cause, causes[i].cause, "case %zu: cause %d", i, (int)v.cause);
        cr_expect_eq(v.engine_error_action, causes[i].action, "case %zu: action %d", i,
                     (int)v.engine_error_action);
        if (causes[i].cause != CAUSE(ABILITY))
            continue;
        cr_expect_eq(v.refusal.ability, causes[i].ability, "case %zu: ability %d", i,
                     (int)v.refusal.ability);
        cr_expect_eq(v.refusal.limit, causes[i].limit, "case %zu: limit %lu", i,
                     (unsigned long)v.refusal.limit);
        cr_expect_eq(v.refusal.needed, causes[i].needed, "case %zu: needed %lu", i,
                     (unsigned long)v.refusal.needed);
    }
}

/* Servers and paid APIs that have the same in words of their own. */
static const struct {
    enum ability ability;
    uint64_t limit;
    const char *text;
} other_words[] = {
    {ABILITY_VISION, 0, "messages[0].content must be a string"}, /* Groq */
    {ABILITY_VISION, 0, "Image input is not enabled for this model"},
    {ABILITY_VISION, 0, "Image input modality is not enabled for models/gemma-3-1b"},
    {ABILITY_VISION, 0, "Content type 'image_url' is not supported by model x"},
    {ABILITY_VISION, 0, "No vision adapter is loaded: this model cannot process images"},
    {ABILITY_VISION, 0, "Model does not have a vision encoder"},
    {ABILITY_AUDIO, 0, "Audio input modality is not enabled for models/gemma-3-1b"},
    {ABILITY_AUDIO, 0, "Content type 'input_audio' is not supported by model x"},
    {ABILITY_TOOLS, 0, "Function calling is not enabled for this model"},
    {ABILITY_TOOLS, 0, "`tools` is not supported with this model"},
    {ABILITY_TOOLS, 0, "Tool use is not enabled"},
    {ABILITY_GRAMMAR, 1,
     "'response_format.type' must be 'json_schema' or 'text'"},           /* LM Studio */
    {ABILITY_GRAMMAR, 1, "This response_format type is unavailable now"}, /* DeepSeek */
    {ABILITY_GRAMMAR, 0, "JSON mode is not enabled for this model"},
    {ABILITY_GRAMMAR, 0, "This model does not support response format"},
    {ABILITY_CONTEXT, 2048, "Input prompt (5000 tokens) is too long and exceeds limit of 2048"},
    {ABILITY_CONTEXT, 2048, "Prompt is longer than the context of 2048 tokens"},
    {ABILITY_NONE, 0, "'temperature' must be a number"},
    {ABILITY_NONE, 0, "the content filter is not enabled"},
    {ABILITY_NONE, 0, "cannot process images larger than 20 MB"},
};

Test(errors, other_words_for_what_an_engine_lacks_are_understood)
{
    for (size_t i = 0; i < ARRAY_LEN(other_words); i++) {
        struct engine_error v;
        char body[256];

        (void)snprintf(body, sizeof(body), "{\"error\":{\"message\":\"%s\"}}",
                       other_words[i].text);
        engine_error_http(&v, 400, body, strlen(body), false);
        cr_expect_eq(v.refusal.ability, other_words[i].ability, "%s: %d", other_words[i].text,
                     (int)v.refusal.ability);
        cr_expect_eq(v.refusal.limit, other_words[i].limit, "%s: %lu", other_words[i].text,
                     (unsigned long)v.refusal.limit);
    }
}

Test(errors, an_engine_that_lives_on_without_one_of_its_models_says_so)
{
    static const struct {
        const char *message;
        bool of_model;
    } rows[] = {
        {"proxy error: Failed to read connection", true},
        {"model name=a failed to load", true},
        {"llama runner process has terminated: exit status 2", true},
        {"EngineCore encountered an issue.", false}, /* the core of a vLLM is all of it */
        {"proxy error: Could not establish connection", false},
        {"internal error", false},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct engine_error v;

        engine_error_http(&v, 500, rows[i].message, strlen(rows[i].message), false);
        cr_expect_eq(v.of_model, rows[i].of_model, "%s", rows[i].message);
        engine_error_event(&v, 0, rows[i].message, strlen(rows[i].message));
        cr_expect_eq(v.of_model, rows[i].of_model, "%s", rows[i].message);
    }
}

Test(errors, words_that_a_router_appends_to_a_stream_are_found)
{
    static const char words[] = "proxy error: Failed to read connection";
    static const struct {
        const char *rest;
        bool found;
    } rows[] = {
        {"proxy error: Failed to read connection", true},
        {"data: {\"a\":\"bproxy error: Failed to read connection", true},
        {"data: {\"a\":1}\nproxy error: Failed to read connection", true},
        {"data: {\"text\":\"proxy error: Failed to read connection\"}", false},
        {"data: [DONE]", false},
        {"", false},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        cr_expect_eq(engine_error_appended(rows[i].rest, strlen(rows[i].rest)),
                     rows[i].found ? strlen(words) : 0, "case %zu", i);
}

/* The form of an error: %s is the message. */
static const char *const forms[] = {
    "{\"error\":{\"message\":\"%s\",\"type\":\"BadRequestError\",\"code\":400}}",
    "{\"object\":\"error\",\"message\":\"%s\",\"code\":400}",
    "{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":\"%s\"}}",
    "{\"error\":\"%s\"}",
    "{\"detail\":\"%s\"}",
};

static Drover__V1__Cause__Kind cause_of(unsigned http, const char *form, const char *message)
{
    struct engine_error v;
    char body[1024];

    (void)snprintf(body, sizeof(body), form, message);
    engine_error_http(&v, http, body, strlen(body), false);
    return v.cause;
}

static bool is_failure(Drover__V1__Cause__Kind cause)
{
    return cause == CAUSE(ENGINE_ERROR) || cause == CAUSE(ENGINE_DIED);
}

Test(errors, an_engine_s_own_end_is_known_in_each_form)
{
    static const char *const messages[] = {
        "The model has crashed without additional information. (Exit code: 134)",
        "Error in predict: The model has crashed",
        "Model unloaded.",
        "Failed to load model \\\"x\\\". Error: insufficient system resources",
        "CUDA error: invalid argument",
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "[METAL] Command buffer execution failed: Insufficient Memory (00000008)",
        "[metal::malloc] Attempting to allocate 9 bytes",
        "The engine can't go on: out of memory",
    };

    for (size_t f = 0; f < ARRAY_LEN(forms); f++)
        for (size_t i = 0; i < ARRAY_LEN(messages); i++) {
            cr_expect(is_failure(cause_of(400, forms[f], messages[i])), "%s", messages[i]);
            cr_expect(is_failure(cause_of(404, forms[f], messages[i])), "%s", messages[i]);
        }
}

Test(errors, words_that_an_error_repeats_of_the_request_blame_no_engine)
{
    static const char *const messages[] = {
        "[{'type': 'missing', 'loc': ('body', 'messages'), 'msg': 'Field required', 'input': "
        "{'prompt': 'CUDA error: out of memory'}}]",
        "1 validation error for Request\\nmessages\\n  Field required [type=missing, "
        "input_value={'x': 'my model has crashed'}, input_type=dict]",
        "2 validation errors: no such role, 'input': 'does not support tools'",
        "Invalid value: 'CUDA error'. Supported values are: 'text'",
        "Unsupported role: model has crashed",
        "messages.0.role: CUDA error",
        "`my model has crashed` is no role",
        "Failed to parse messages: no role; messages = [{'content': 'image input is not "
        "supported, out of memory'}]",
        "syntax error while parsing value; last read: 'maximum context length is 8 tokens'",
        "Your request of this length, which is quite a long one, was refused: out of memory",
    };

    for (size_t f = 0; f < ARRAY_LEN(forms); f++)
        for (size_t i = 0; i < ARRAY_LEN(messages); i++)
            cr_expect_eq(cause_of(400, forms[f], messages[i]), CAUSE(UNSPECIFIED), "%s",
                         messages[i]);
}

Test(errors, a_missing_operation_says_whether_only_its_stream_may_be_missing)
{
    static const struct {
        unsigned http;
        const char *body;
        bool perhaps_stream, own_words;
    } rows[] = {
        {405, "", true, false},
        {405, "{\"detail\":\"Method Not Allowed\"}", true, false},
        {501, "", true, false},
        {501, "{\"error\":{\"message\":\"not here\"}}", true, true},
        {501, "{\"error\":{\"message\":\"This server does not support embeddings.\"}}", false,
         true},
        {501, "<html>501</html>", true, false},
        {404, "{\"detail\":\"Not Found\"}", false, false},
        {400, "{\"error\":\"\\\"m\\\" does not support chat\"}", false, true},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct engine_error v;

        engine_error_http(&v, rows[i].http, rows[i].body, strlen(rows[i].body), false);
        cr_expect_eq(v.status, GRPC_UNIMPLEMENTED, "row %zu", i);
        cr_expect_eq(v.refusal.ability, ABILITY_OPERATION, "row %zu", i);
        cr_expect_eq(v.perhaps_stream, rows[i].perhaps_stream, "row %zu", i);
        cr_expect_eq(v.own_words, rows[i].own_words, "row %zu", i);
    }
}

Test(errors, an_engine_that_says_when_to_come_again_is_full)
{
    const char *body = "upstream connect error";
    struct engine_error v;

    engine_error_http(&v, 503, body, strlen(body), false);
    cr_assert_eq(v.status, GRPC_UNAVAILABLE);
    engine_error_says_when(&v, 503);
    cr_assert_eq(v.status, GRPC_RESOURCE_EXHAUSTED);
    cr_assert_eq(v.cause, CAUSE(UNSPECIFIED));
    engine_error_http(&v, 502, body, strlen(body), false);
    engine_error_says_when(&v, 502);
    cr_assert_eq(v.cause, CAUSE(ENGINE_ERROR));
}

Test(errors, a_key_that_the_engine_refuses_is_not_repeated_to_the_client)
{
    struct engine_error v;
    const char *body = "{\"error\":{\"message\":\"Incorrect API key provided: sk-ab**yz\"}}";

    engine_error_http(&v, 401, body, strlen(body), false);
    cr_assert_str_eq(v.text, "the engine refuses this node's API key");
}
