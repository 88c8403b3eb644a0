/* test_errors.c - the side at fault for an engine's HTTP error. */
#include <criterion/criterion.h>
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
     503, false, ENGINE_ERROR_FAIL, GRPC_UNAVAILABLE},
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
     false, ENGINE_ERROR_FAIL, GRPC_UNAVAILABLE},
    {"{}", 429, false, ENGINE_ERROR_FAIL, GRPC_RESOURCE_EXHAUSTED},
    {"<html>bad gateway</html>", 502, false, ENGINE_ERROR_FAIL, GRPC_UNAVAILABLE},
    {"{\"error\":{\"message\":\"unknown field stream_options\"}}", 400, true,
     ENGINE_ERROR_WITHOUT_USAGE, GRPC_OK},
    {"{\"error\":{\"message\":\"unknown field stream_options\"}}", 400, false,
     ENGINE_ERROR_PASS, GRPC_OK},
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

Test(errors, error_events_are_the_client_s_fault_only_when_they_say_so)
{
    cr_assert_eq(engine_error_event(400), GRPC_INVALID_ARGUMENT);
    cr_assert_eq(engine_error_event(0), GRPC_INTERNAL);
    cr_assert_eq(engine_error_event(500), GRPC_INTERNAL);
    cr_assert_eq(engine_error_event(429), GRPC_RESOURCE_EXHAUSTED);
    cr_assert_eq(engine_error_event(529), GRPC_UNAVAILABLE);
}
