/*
 * sim_request.c - requests to the simulated engine, and its settings.
 *
 * Input: a byte for the operation, then the body; operation 0: the text of the settings.
 */
#include "sim/sim_request.h"

#include "base/error.h"
#include "base/text/json.h"
#include "tests/fuzz/fuzz.h"

static struct sim_spec spec;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    struct error err = {0};

    (void)argc;
    (void)argv;
    MUST(sim_spec_parse(&spec, "slots=2,seed=1,ctx=512", &err) == 0);
    return 0;
}

static void read_settings(const uint8_t *bytes, size_t n)
{
    static struct sim_spec other;
    char *text = input_text(bytes, n);
    struct error err = {0};

    if (sim_spec_parse(&other, text, &err) != 0)
        MUST(err.text[0] != '\0');
    else
        MUST(other.n_models >= 1 && other.n_models <= SIM_MAX_MODELS);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct sim_ident ident = {"0123456789abcdef", "sim-01234567", 7};
    static struct buf scratch;
    struct input in = {data, size};
    unsigned operation = input_byte(&in) % SIM_OP_COUNT;
    char *body = input_copy(in.at, in.left);
    struct sim_input request = {.operation = (enum sim_operation)operation,
                                .content_type = "application/json",
                                .body = (const uint8_t *)body,
                                .body_len = in.left};
    struct sim_request out;
    struct json_value root;

    if (operation == 0)
        read_settings(in.at, in.left);
    MUST(sim_request_read(&out, &spec, &request, &ident, &scratch) == 0);
    if (out.want == SIM_WANT_ERROR)
        MUST(out.status >= 400 && buf_size(&out.body) != 0);
    else
        MUST(out.model != NULL);
    if (buf_size(&out.body) != 0)
        MUST(json_check(&root, buf_head(&out.body), buf_size(&out.body), NULL) == 0);
    sim_request_finish(&out);
    free(body);
    return 0;
}
