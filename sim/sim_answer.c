/* sim_answer.c - errors, embeddings, rankings and facts in each API's shape. */
#include "sim/sim_answer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/error.h"
#include "base/text/buf.h"
#include "base/text/json.h"
#include "sim/sim_prompt.h"

#define OP(name) SIM_OP_##name

#define DIMENSIONS 8
#define MAX_INPUTS 2048

bool sim_is_ollama(enum sim_operation operation)
{
    return operation == OP(OLLAMA_CHAT) || operation == OP(OLLAMA_GENERATE) ||
           operation == OP(OLLAMA_EMBED) || operation == OP(OLLAMA_EMBEDDINGS) ||
           operation == OP(OLLAMA_SHOW);
}

bool sim_is_anthropic(enum sim_operation operation)
{
    return operation == OP(MESSAGES) || operation == OP(COUNT_TOKENS);
}

void sim_error_body(struct buf *out, enum sim_operation operation, unsigned status,
                    const char *type, const char *code, const char *message)
{
    if (sim_is_ollama(operation)) {
        buf_str(out, "{\"error\":");
        json_quote_str(out, message);
    } else if (sim_is_anthropic(operation)) {
        buf_printf(out, "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":",
                   status >= 500   ? (status == 503 ? "overloaded_error" : "api_error")
                   : status == 404 ? "not_found_error"
                                   : "invalid_request_error");
        json_quote_str(out, message);
        buf_str(out, "}");
    } else {
        buf_str(out, "{\"error\":{\"message\":");
        json_quote_str(out, message);
        buf_printf(out, ",\"type\":\"%s\",\"param\":null,\"code\":", type);
        if (code != NULL)
            json_quote_str(out, code);
        else if (status >= 500)
            buf_printf(out, "%u", status); /* as llama-server does, for its own failures */
        else
            buf_str(out, "null");
        buf_str(out, "}");
    }
    buf_str(out, ",\"simulated\":true}");
}

/* ---- vectors --------------------------------------------------------------------------- */

/* A unit vector that depends on the model and the text alone. */
static void embed(float out[DIMENSIONS], const char *model, const void *text, size_t len)
{
    uint64_t seed = XXH3_64bits_withSeed(text, len, XXH3_64bits(model, strlen(model)));
    double v[DIMENSIONS], sum = 0;
    unsigned i;

    for (i = 0; i < DIMENSIONS; i++) {
        /* 53 bits of the hash, to -1 .. 1; never all zero in practice, but checked. */
        v[i] = (double)(XXH3_64bits(&(uint64_t){seed + i}, sizeof(uint64_t)) >> 11) /
                   (double)(UINT64_C(1) << 52) -
               1;
        sum += v[i] * v[i];
    }
    for (i = 0; i < DIMENSIONS; i++)
        out[i] = (float)(sum > 0 ? v[i] / sqrt(sum) : i == 0);
}

static void add_numbers(struct buf *out, const float v[DIMENSIONS])
{
    unsigned i;

    for (i = 0; i < DIMENSIONS; i++)
        buf_printf(out, "%c%.9g", i == 0 ? '[' : ',', (double)v[i]);
    buf_str(out, "]");
}

/* Little-endian 32-bit floats in base64, as OpenAI's clients ask for by default. */
static void add_base64(struct buf *out, const float v[DIMENSIONS])
{
    static const char DIGITS[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint8_t bytes[DIMENSIONS * 4 + 2] = {0};
    size_t n = DIMENSIONS * 4, i;

    for (i = 0; i < DIMENSIONS; i++) {
        uint32_t bits;

        memcpy(&bits, &v[i], sizeof(bits));
        bytes[4 * i] = (uint8_t)bits;
        bytes[4 * i + 1] = (uint8_t)(bits >> 8);
        bytes[4 * i + 2] = (uint8_t)(bits >> 16);
        bytes[4 * i + 3] = (uint8_t)(bits >> 24);
    }
    buf_str(out, "\"");
    for (i = 0; i < n; i += 3) {
        uint32_t three =
            (uint32_t)bytes[i] << 16 | (uint32_t)bytes[i + 1] << 8 | (uint32_t)bytes[i + 2];
        char four[4] = {DIGITS[three >> 18], DIGITS[three >> 12 & 63],
                        i + 1 < n ? DIGITS[three >> 6 & 63] : '=',
                        i + 2 < n ? DIGITS[three & 63] : '='};

        buf_add(out, four, sizeof(four));
    }
    buf_str(out, "\"");
}

/* ---- lists of inputs ------------------------------------------------------------------- */

/* Several inputs as a NULL-ended walk over a string, a list of strings, or of lists. */
static int check_inputs(const cJSON *input, const char *name, struct error *err)
{
    if (cJSON_IsString(input))
        return 0;
    if (!cJSON_IsArray(input) || input->child == NULL)
        return error_set(err, DRV_EINVAL, "'%s' must be a string or a list that is not empty",
                         name);
    if (cJSON_GetArraySize(input) > MAX_INPUTS && !cJSON_IsNumber(input->child))
        return error_set(err, DRV_EINVAL, "'%s' has more than %d elements", name, MAX_INPUTS);
    return 0;
}

/* One input is a string or a list of token ids; a list of anything else is several. */
static const cJSON *first_input(const cJSON *input)
{
    if (cJSON_IsArray(input) && !cJSON_IsNumber(input->child))
        return input->child;
    return input;
}

static const cJSON *next_input(const cJSON *input, const cJSON *at)
{
    return at == input ? NULL : at->next;
}

static void add_ident(struct buf *out, const struct sim_spec_model *model,
                      const struct sim_ident *ident)
{
    buf_printf(out, "\"model\":\"%s\",\"system_fingerprint\":\"%s\",\"simulated\":true",
               model->id, ident->fingerprint);
}

enum vector_form {
    FORM_OPENAI = 0,
    FORM_BASE64,
    FORM_OLLAMA,
};

/* The vectors of all inputs, separated by commas; returns their tokens. */
static uint32_t add_vectors(struct buf *out, const cJSON *input, enum vector_form form,
                            const struct sim_spec_model *model)
{
    struct buf text = BUF_INIT;
    const cJSON *at;
    uint32_t tokens = 0;
    unsigned i = 0;

    for (at = first_input(input); at != NULL; at = next_input(input, at), i++) {
        float v[DIMENSIONS];

        buf_reset(&text);
        sim_prompt_add(&text, at);
        tokens += sim_tokens(buf_size(&text));
        embed(v, model->id, buf_cstr(&text), buf_size(&text));
        buf_str(out, i == 0 ? "" : ",");
        if (form != FORM_OLLAMA)
            buf_printf(out, "{\"object\":\"embedding\",\"index\":%u,\"embedding\":", i);
        if (form == FORM_BASE64)
            add_base64(out, v);
        else
            add_numbers(out, v);
        buf_str(out, form != FORM_OLLAMA ? "}" : "");
    }
    if (text.failed)
        out->failed = true;
    buf_finish(&text);
    return tokens;
}

static int build_embeddings(struct buf *out, const cJSON *root,
                            const struct sim_spec_model *model, const struct sim_ident *ident,
                            uint32_t *tokens, struct error *err)
{
    const cJSON *input = cJSON_GetObjectItemCaseSensitive(root, "input");
    const cJSON *format = cJSON_GetObjectItemCaseSensitive(root, "encoding_format");
    bool base64 = cJSON_IsString(format) && strcmp(format->valuestring, "base64") == 0;
    int rc = check_inputs(input, "input", err);

    if (rc != 0)
        return rc;
    buf_str(out, "{\"object\":\"list\",\"data\":[");
    *tokens = add_vectors(out, input, base64 ? FORM_BASE64 : FORM_OPENAI, model);
    buf_printf(out, "],\"usage\":{\"prompt_tokens\":%u,\"total_tokens\":%u},", *tokens,
               *tokens);
    add_ident(out, model, ident);
    buf_str(out, "}");
    return 0;
}

static int build_ollama_embed(struct buf *out, enum sim_operation operation, const cJSON *root,
                              const struct sim_spec_model *model, const struct sim_ident *ident,
                              uint32_t *tokens, struct error *err)
{
    bool several = operation == OP(OLLAMA_EMBED);
    const char *name = several ? "input" : "prompt";
    const cJSON *input = cJSON_GetObjectItemCaseSensitive(root, name);
    int rc = check_inputs(input, name, err);

    if (rc != 0)
        return rc;
    if (!several && !cJSON_IsString(input))
        return error_set(err, DRV_EINVAL, "'prompt' must be a string");
    buf_str(out, several ? "{\"embeddings\":[" : "{\"embedding\":");
    *tokens = add_vectors(out, input, FORM_OLLAMA, model);
    buf_printf(out, "%s,\"prompt_eval_count\":%u,", several ? "]" : "", *tokens);
    add_ident(out, model, ident);
    buf_str(out, "}");
    return 0;
}

/* ---- ranking --------------------------------------------------------------------------- */

struct rank {
    double score;
    unsigned index;
};

static int by_score(const void *a, const void *b)
{
    const struct rank *x = a, *y = b;

    if (x->score != y->score)
        return x->score < y->score ? 1 : -1;
    return x->index < y->index ? -1 : x->index > y->index;
}

/* The cosine of the two texts' vectors, moved to 0 .. 1: no sense in it, but stable. */
static double score(const char *model, const char *query, const char *document, size_t len)
{
    float a[DIMENSIONS], b[DIMENSIONS];
    double dot = 0;
    unsigned i;

    embed(a, model, query, strlen(query));
    embed(b, model, document, len);
    for (i = 0; i < DIMENSIONS; i++)
        dot += (double)a[i] * (double)b[i];
    return (dot + 1) / 2;
}

static int build_rerank(struct buf *out, const cJSON *root, const struct sim_spec_model *model,
                        const struct sim_ident *ident, uint32_t *tokens, struct error *err)
{
    const cJSON *query = cJSON_GetObjectItemCaseSensitive(root, "query");
    const cJSON *documents = cJSON_GetObjectItemCaseSensitive(root, "documents");
    const cJSON *top = cJSON_GetObjectItemCaseSensitive(root, "top_n"), *at;
    struct buf text = BUF_INIT;
    struct rank *ranks;
    unsigned n = 0, i, shown;

    if (!cJSON_IsString(query))
        return error_set(err, DRV_EINVAL, "'query' is required");
    if (!cJSON_IsArray(documents) || documents->child == NULL ||
        cJSON_GetArraySize(documents) > MAX_INPUTS)
        return error_set(err, DRV_EINVAL, "'documents' must be a list of 1 to %d", MAX_INPUTS);
    ranks = calloc((size_t)cJSON_GetArraySize(documents), sizeof(*ranks));
    if (ranks == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    *tokens = 0;
    cJSON_ArrayForEach(at, documents)
    {
        const cJSON *inner = cJSON_GetObjectItemCaseSensitive(at, "text");

        buf_reset(&text);
        sim_prompt_add(&text, cJSON_IsString(inner) ? inner : at);
        *tokens += sim_tokens(buf_size(&text)) + sim_tokens(strlen(query->valuestring));
        ranks[n].score = score(model->id, query->valuestring, buf_cstr(&text), buf_size(&text));
        ranks[n].index = n;
        n++;
    }
    qsort(ranks, n, sizeof(*ranks), by_score);
    shown = cJSON_IsNumber(top) && top->valuedouble >= 1 && top->valuedouble < n
                ? (unsigned)top->valuedouble
                : n;
    buf_str(out, "{\"object\":\"list\",\"results\":[");
    for (i = 0; i < shown; i++)
        buf_printf(out, "%s{\"index\":%u,\"relevance_score\":%.9g}", i == 0 ? "" : ",",
                   ranks[i].index, ranks[i].score);
    buf_printf(out, "],\"usage\":{\"prompt_tokens\":%u,\"total_tokens\":%u},", *tokens,
               *tokens);
    add_ident(out, model, ident);
    buf_str(out, "}");
    if (text.failed)
        out->failed = true;
    buf_finish(&text);
    free(ranks);
    return 0;
}

/* ---- facts ----------------------------------------------------------------------------- */

static void build_show(struct buf *out, const struct sim_spec_model *model,
                       const struct sim_ident *ident)
{
    buf_printf(out,
               "{\"modelfile\":\"\",\"template\":\"\",\"details\":{\"parent_model\":\"\","
               "\"format\":\"simulated\",\"family\":\"simulated\",\"families\":[\"simulated\"],"
               "\"parameter_size\":\"0\",\"quantization_level\":\"none\"},\"model_info\":"
               "{\"general.architecture\":\"simulated\",\"simulated.context_length\":%u},"
               "\"capabilities\":[\"%s\"],",
               model->context, strstr(model->id, "embed") != NULL ? "embedding" : "completion");
    add_ident(out, model, ident);
    buf_str(out, "}");
}

int sim_answer_build(struct buf *out, enum sim_operation operation, const cJSON *root,
                     const struct sim_spec_model *model, const struct sim_ident *ident,
                     uint32_t *prompt_tokens, struct error *err)
{
    int rc = 0;

    *prompt_tokens = 1;
    if (operation == OP(EMBEDDINGS))
        rc = build_embeddings(out, root, model, ident, prompt_tokens, err);
    else if (operation == OP(RERANK))
        rc = build_rerank(out, root, model, ident, prompt_tokens, err);
    else if (operation == OP(OLLAMA_SHOW))
        build_show(out, model, ident);
    else
        rc = build_ollama_embed(out, operation, root, model, ident, prompt_tokens, err);
    if (rc == 0 && out->failed)
        rc = error_set(err, DRV_ENOMEM, "out of memory");
    return rc;
}
