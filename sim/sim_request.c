/* sim_request.c - what a request to the simulated engine asks for. */
#include "sim/sim_request.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/error.h"
#include "base/text/form.h"
#include "sim/sim_prompt.h"

#define OP(name)  SIM_OP_##name
#define BIT(name) (1u << OP(name))

#define EMBED_OPERATIONS                                                          \
    (BIT(EMBEDDINGS) | BIT(RERANK) | BIT(OLLAMA_EMBED) | BIT(OLLAMA_EMBEDDINGS) | \
     BIT(OLLAMA_SHOW))

/* Sound of a token: 20 ms at 16,000 samples of 16 bits a second. */
#define AUDIO_TOKEN_BYTES 640

/* Being read: the request, and what reading it needs. */
struct request_reader {
    struct sim_request *out;
    const struct sim_spec *spec;
    const struct sim_input *input;
    const struct sim_ident *ident;
    struct buf *scratch;
    const cJSON *root; /* NULL for a form */
    uint32_t natural;  /* tokens of the whole text, from its first on */
    uint32_t limit;    /* tokens of this run at most */
};

bool sim_makes_text(const struct sim_spec_model *model)
{
    return strstr(model->id, "embed") == NULL && strstr(model->id, "rerank") == NULL;
}

static bool can(const struct sim_spec_model *model, enum sim_operation operation)
{
    return (1u << operation & EMBED_OPERATIONS) != 0 || sim_makes_text(model);
}

static int refuse_code(struct request_reader *r, unsigned status, const char *code,
                       const char *message)
{
    struct sim_request *out = r->out;

    out->want = SIM_WANT_ERROR;
    out->status = status;
    buf_reset(&out->body);
    sim_error_body(&out->body, out->operation, status, "invalid_request_error", code, message);
    return DRV_EINVAL;
}

static int refuse(struct request_reader *r, const char *message)
{
    return refuse_code(r, 400, NULL, message);
}

static const cJSON *member(const cJSON *object, const char *name)
{
    return cJSON_GetObjectItemCaseSensitive(object, name);
}

/* A count from a member; false when it is missing, null or negative (-1 means no limit). */
static bool count_of(const cJSON *object, const char *name, uint32_t *out)
{
    const cJSON *number = member(object, name);

    if (!cJSON_IsNumber(number) || !(number->valuedouble >= 0))
        return false;
    *out = number->valuedouble > 1e9 ? 1000000000 : (uint32_t)number->valuedouble;
    return true;
}

static int select_model(struct request_reader *r, const char *name, size_t len)
{
    const struct sim_spec *spec = r->spec;
    uint32_t i;
    char text[256];

    for (i = 0; i < spec->n_models; i++) {
        const struct sim_spec_model *model = &spec->models[i];

        if (name != NULL && (strlen(model->id) != len || memcmp(model->id, name, len) != 0))
            continue;
        if (name == NULL && !can(model, r->out->operation))
            continue;
        if (!can(model, r->out->operation)) {
            (void)snprintf(text, sizeof(text), "the model '%s' does not do this", model->id);
            return refuse(r, text);
        }
        r->out->model = model;
        return 0;
    }
    (void)snprintf(text, sizeof(text), "the model '%.*s' does not exist",
                   len > 100 ? 100 : (int)len, name == NULL ? "" : name);
    return refuse_code(r, 404, "model_not_found", text);
}

/* ---- drover_sim ------------------------------------------------------------------------ */

static int read_fault(struct request_reader *r, const cJSON *extras)
{
    struct sim_fault *fault = &r->out->fault;
    const cJSON *kind = member(extras, "fault"), *node = member(extras, "only_node");
    uint32_t attempt;

    if (kind == NULL)
        return 0;
    if (!cJSON_IsString(kind) || sim_fault_parse(kind->valuestring) == SIM_FAULT_NONE)
        return refuse(r, "'drover_sim.fault' must be one of " SIM_FAULT_NAMES);
    if (cJSON_IsString(node) && strcmp(node->valuestring, r->spec->name) != 0)
        return 0;
    if (count_of(extras, "only_attempt", &attempt) && attempt != r->input->attempt)
        return 0;
    fault->kind = sim_fault_parse(kind->valuestring);
    fault->after_tokens = 0;
    fault->factor = 10;
    (void)count_of(extras, "after_tokens", &fault->after_tokens);
    (void)count_of(extras, "factor", &fault->factor);
    return 0;
}

/* ---- text ------------------------------------------------------------------------------ */

/* The limit that the client set, in the words of its API. */
static void read_limit(struct request_reader *r)
{
    const cJSON *root = r->root;

    switch (r->out->operation) {
    case OP(OLLAMA_CHAT):
    case OP(OLLAMA_GENERATE):
        root = member(root, "options");
        (void)count_of(root, "num_predict", &r->limit);
        break;
    case OP(RESPONSES):
        (void)count_of(root, "max_output_tokens", &r->limit);
        break;
    default:
        if (!count_of(root, "max_completion_tokens", &r->limit) &&
            !count_of(root, "max_tokens", &r->limit))
            (void)count_of(root, "n_predict", &r->limit);
        break;
    }
}

static int check_context(struct request_reader *r)
{
    const struct sim_request *out = r->out;
    char text[160];

    if (out->prompt_tokens < out->model->context)
        return 0;
    (void)snprintf(text, sizeof(text),
                   "the request (%u tokens) exceeds the available context size (%u tokens)",
                   out->prompt_tokens, out->model->context);
    return refuse_code(r, 400, "context_length_exceeded", text);
}

/* The length of a text that nothing cuts, from half to 1.5 times the mean.  It hangs on the
 * text alone, so an answer that another engine continues ends where it would have ended here.
 */
static uint32_t natural_length(const struct sim_spec *spec, const struct sim_text *text)
{
    if (spec->to_limit)
        return spec->mean_tokens;
    return spec->mean_tokens - spec->mean_tokens / 2 +
           (uint32_t)((text->key >> 16) % (spec->mean_tokens + 1));
}

/* The length of the answer, and its end reason. */
static void settle_length(struct request_reader *r, bool natural_given)
{
    struct sim_request *out = r->out;
    uint32_t room = out->model->context - out->prompt_tokens;
    uint32_t at = out->place.index;

    if (!natural_given && r->spec->to_limit && r->limit != UINT32_MAX)
        out->output_tokens = UINT32_MAX;
    else
        out->output_tokens = r->natural > at ? r->natural - at : 0;
    if (r->limit < out->output_tokens) {
        out->output_tokens = r->limit;
        out->cut = true;
    }
    if (room < out->output_tokens) {
        out->output_tokens = room;
        out->cut = true;
    }
}

/* The part of the answer that the prompt already holds counts as the tokens it was given as, so
 * that an answer in two parts costs as many tokens as one. */
static void count_given(struct request_reader *r, bool prompt_given)
{
    struct sim_request *out = r->out;
    const struct sim_place *place = &out->place;
    size_t bytes = place->skip;

    if (place->index == 0 && place->skip == 0)
        return;
    for (uint32_t i = 0; i < place->index; i++)
        bytes += sim_text_token(&place->text, i).text_len;
    if (!prompt_given)
        out->prompt_tokens = sim_tokens(buf_size(r->scratch) - bytes);
    out->prompt_tokens += place->index + (place->skip != 0);
}

static int make_blocks(struct request_reader *r, const struct buf *text)
{
    struct sim_request *out = r->out;
    size_t bytes = (size_t)r->spec->model.block_tokens * SIM_TOKEN_BYTES;
    size_t n = buf_size(text) / bytes;

    if (r->spec->model.cache == SIM_CACHE_NONE || n == 0)
        return 0;
    out->blocks = malloc(n * sizeof(*out->blocks));
    if (out->blocks == NULL)
        return DRV_ENOMEM;
    out->n_blocks =
        sim_blocks(out->blocks, n, XXH3_64bits(out->model->id, strlen(out->model->id)),
                   buf_head(text), buf_size(text), r->spec->model.block_tokens);
    return 0;
}

/* "required", or the name of a function: one call is asked for. */
static void read_tools(struct request_reader *r)
{
    const cJSON *tools = member(r->root, "tools"), *choice = member(r->root, "tool_choice");
    const cJSON *name = member(member(choice, "function"), "name");

    if (r->out->operation != OP(CHAT_COMPLETIONS) || !cJSON_IsArray(tools) ||
        tools->child == NULL)
        return;
    if (cJSON_IsString(choice) && strcmp(choice->valuestring, "required") == 0)
        name = member(member(tools->child, "function"), "name");
    if (!cJSON_IsString(name))
        return;
    r->out->want = SIM_WANT_TOOL;
    (void)strlcpy(r->out->tool, name->valuestring, sizeof(r->out->tool));
    r->out->output_tokens = 2; /* the call's head, and its arguments */
    r->out->cut = false;
}

static int read_text(struct request_reader *r)
{
    struct sim_request *out = r->out;
    const cJSON *extras = member(r->root, "drover_sim"), *stream = member(r->root, "stream");
    const cJSON *n = member(r->root, "n");
    struct sim_prompt prompt = {.text = r->scratch};
    struct error err = {0};
    bool natural_given, prompt_given;
    uint32_t probabilities;
    int rc = sim_prompt_build(&prompt, out->operation, r->root, &err);

    if (rc == DRV_EINVAL)
        return refuse(r, err.text);
    if (rc != 0)
        return rc;
    if (cJSON_IsNumber(n) && n->valuedouble > 1)
        return refuse(r, "'n' is more than 1; the simulated engine gives one choice");
    out->stream = cJSON_IsBool(stream) ? cJSON_IsTrue(stream) : sim_is_ollama(out->operation);
    out->usage_event = cJSON_IsTrue(member(member(r->root, "stream_options"), "include_usage"));
    out->logprobs = out->stream && out->operation == OP(COMPLETIONS) &&
                    count_of(r->root, "logprobs", &probabilities) && probabilities != 0;
    out->prompt_tokens = sim_tokens(buf_size(r->scratch));
    prompt_given = count_of(extras, "prompt_tokens", &out->prompt_tokens);
    if (prompt_given && out->prompt_tokens == 0)
        out->prompt_tokens = 1;
    if (out->operation == OP(COUNT_TOKENS)) {
        out->want = SIM_WANT_FACTS;
        buf_printf(&out->body,
                   "{\"input_tokens\":%u,\"system_fingerprint\":\"%s\","
                   "\"simulated\":true}",
                   out->prompt_tokens, r->ident->fingerprint);
        return 0;
    }
    out->place = sim_text_find(out->model->id, buf_cstr(r->scratch), buf_size(r->scratch),
                               prompt.answer_at, prompt.known);
    count_given(r, prompt_given);
    rc = check_context(r);
    if (rc != 0)
        return rc;
    r->natural = natural_length(r->spec, &out->place.text);
    natural_given = count_of(extras, "tokens", &r->natural);
    r->limit = UINT32_MAX;
    read_limit(r);
    out->want = SIM_WANT_TEXT;
    settle_length(r, natural_given);
    read_tools(r);
    return make_blocks(r, r->scratch);
}

/* ---- other bodies ---------------------------------------------------------------------- */

static int read_vectors(struct request_reader *r)
{
    struct sim_request *out = r->out;
    struct error err = {0};
    int rc = sim_answer_build(&out->body, out->operation, r->root, out->model, r->ident,
                              &out->prompt_tokens, &err);

    if (rc == DRV_EINVAL)
        return refuse(r, err.text);
    out->want = out->operation == OP(OLLAMA_SHOW) ? SIM_WANT_FACTS : SIM_WANT_VECTORS;
    out->stream = false; /* whatever the client asked for */
    (void)count_of(member(r->root, "drover_sim"), "prompt_tokens", &out->prompt_tokens);
    if (out->prompt_tokens == 0)
        out->prompt_tokens = 1;
    return rc;
}

static int read_json(struct request_reader *r, cJSON *root)
{
    const char *name_key = "model";
    const cJSON *name = member(root, name_key);
    int rc;

    r->root = root;
    if (r->out->operation == OP(OLLAMA_SHOW) && name == NULL)
        name = member(root, "name");
    if (name != NULL && !cJSON_IsNull(name) && !cJSON_IsString(name))
        return refuse(r, "'model' must be a string");
    rc = select_model(r, cJSON_IsString(name) ? name->valuestring : NULL,
                      cJSON_IsString(name) ? strlen(name->valuestring) : 0);
    if (rc == 0)
        rc = read_fault(r, member(root, "drover_sim"));
    if (rc != 0)
        return rc;
    if (1u << r->out->operation & EMBED_OPERATIONS)
        return read_vectors(r);
    return read_text(r);
}

/* The text of a recording depends on its bytes alone, not on the form around them. */
static int read_form(struct request_reader *r)
{
    const struct sim_input *input = r->input;
    struct sim_request *out = r->out;
    const char *file, *name, *format;
    size_t file_len, name_len, format_len;
    uint64_t hash;
    int rc;

    if (!form_find(input->content_type, input->body, input->body_len, "file", &file, &file_len))
        return refuse(r, "the form has no 'file'");
    if (!form_find(input->content_type, input->body, input->body_len, "model", &name,
                   &name_len)) {
        name = NULL;
        name_len = 0;
    }
    rc = select_model(r, name, name_len);
    if (rc != 0)
        return rc;
    if (form_find(input->content_type, input->body, input->body_len, "response_format", &format,
                  &format_len))
        out->plain = format_len == 4 && memcmp(format, "text", 4) == 0;
    if (form_find(input->content_type, input->body, input->body_len, "stream", &format,
                  &format_len))
        out->stream = format_len == 4 && memcmp(format, "true", 4) == 0;
    hash = XXH3_64bits(file, file_len);
    out->place = sim_text_find(out->model->id, &hash, sizeof(hash), sizeof(hash), true);
    out->prompt_tokens = file_len / AUDIO_TOKEN_BYTES > 1000000
                             ? 1000000
                             : (uint32_t)(file_len / AUDIO_TOKEN_BYTES) + 1;
    out->output_tokens = natural_length(r->spec, &out->place.text);
    out->want = SIM_WANT_TEXT;
    return 0;
}

int sim_request_read(struct sim_request *out, const struct sim_spec *spec,
                     const struct sim_input *input, const struct sim_ident *ident,
                     struct buf *scratch)
{
    struct request_reader reader = {
        .out = out, .spec = spec, .input = input, .ident = ident, .scratch = scratch};
    cJSON *root = NULL;
    int rc;

    memset(out, 0, sizeof(*out));
    out->operation = input->operation;
    out->status = 200;
    buf_reset(scratch);
    if (input->operation == SIM_OP_NONE || input->operation >= SIM_OP_COUNT) {
        rc = refuse_code(&reader, 404, NULL, "no such endpoint");
    } else if (input->body_len > SIM_MAX_BODY_BYTES) {
        rc = refuse_code(&reader, 413, NULL, "the body is too large");
    } else if (input->operation == OP(TRANSCRIPTIONS)) {
        rc = read_form(&reader);
    } else {
        root = cJSON_ParseWithLength((const char *)input->body, input->body_len);
        rc = cJSON_IsObject(root) ? read_json(&reader, root)
                                  : refuse(&reader, "the body is not a JSON object");
    }
    cJSON_Delete(root);
    if (rc == DRV_EINVAL)
        rc = 0; /* refused: the body says why */
    return out->body.failed ? DRV_ENOMEM : rc;
}

void sim_request_finish(struct sim_request *request)
{
    buf_finish(&request->body);
    free(request->blocks);
    request->blocks = NULL;
}
