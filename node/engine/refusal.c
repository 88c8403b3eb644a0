/* refusal.c - what an engine lacks, read from the words of its refusal. */
#include "node/engine/refusal.h"

#include <ctype.h>
#include <string.h>

#include "base/attrs.h"
#include "base/text/json.h"
#include "base/text/text.h"

#define MAX_TOKENS UINT32_MAX

#define HAS_ANY(text, parts) text_has_any(text, parts, ARRAY_LEN(parts))

/* ---- figures --------------------------------------------------------------------------- */

static bool in_number(char c)
{
    return isdigit((unsigned char)c) || c == ',';
}

/* The number that begins here, with or without commas; 0 = there is none. */
static uint64_t number_at(const char *at)
{
    uint64_t value = 0;

    for (; isdigit((unsigned char)*at) || (value != 0 && *at == ','); at++) {
        if (*at != ',')
            value = value * 10 + (uint64_t)(*at - '0');
        if (value > MAX_TOKENS)
            return 0;
    }
    return value;
}

/* The number that follows the phrase at once; 0 = there is none. */
static uint64_t number_after(const char *text, const char *phrase)
{
    const char *at = strcasestr(text, phrase);

    return at == NULL ? 0 : number_at(at + strlen(phrase));
}

/* The number that ends where the phrase begins; 0 = there is none. */
static uint64_t number_before(const char *text, const char *phrase)
{
    const char *at = strcasestr(text, phrase);

    if (at == NULL)
        return 0;
    while (at > text && in_number(at[-1]))
        at--;
    return number_at(at);
}

/* That of the first phrase which has one. */
static uint64_t first_number(const char *text, const char *const *phrases, size_t n)
{
    uint64_t value = 0;

    for (size_t i = 0; i < n && value == 0; i++)
        value = number_after(text, phrases[i]);
    return value;
}

static uint64_t member(const struct json_value *object, const char *name)
{
    struct json_value value = json_get(object, name);
    uint64_t number;

    return value.type == JSON_NUMBER && json_uint(&number, &value, MAX_TOKENS) ? number : 0;
}

static void read_limit(struct refusal *out, const char *text)
{
    static const char *const phrases[] = {
        "context length is only ", /* vLLM */
        "context length is ",      /* vLLM, OpenAI */
        "context length of only ", /* LM Studio */
        "context length of ",      /* SGLang */
        "context length (",        /* SGLang */
        "context size (",          /* llama-server */
        "context size of ",
        "context window of ",
        "maximum model length of ", /* vLLM, of an encoder */
        "max_model_len ",
        "max_seq_len ",                /* TabbyAPI */
        "max_new_tokens` must be <= ", /* TGI */
        "must have less than ",        /* TGI */
        "current batch size: ",        /* llama-server, of embeddings */
        "too large for model with ",   /* Mistral */
        "number of tokens allowed (",  /* Gemini */
        "tokens > ",                   /* Anthropic */
        "max context size (",          /* llama-server, of embeddings */
        "prompt length is ",           /* xAI */
        "allowed length (",            /* SGLang */
        "allowed input length of ",    /* Poolside */
        "configured limit of ",        /* OpenAI */
        "exceeds the limit of ",       /* GitHub */
        "token limit: ",               /* Moonshot */
        "input length should be [1, ", /* Alibaba */
        "context limit of ",
        "exceeds limit of ",
        "context of ",
    };

    out->limit = first_number(text, phrases, ARRAY_LEN(phrases));
}

static void read_needed(struct refusal *out, const char *text)
{
    /* Prompt and output. */
    static const char *const totals[] = {
        "total of at least ", /* vLLM */
        "a total of ",        /* SGLang */
    };
    static const char *const phrases[] = {
        "you requested about ",  /* OpenRouter */
        "you requested ",        /* vLLM, OpenAI */
        "messages resulted in ", /* OpenAI */
        "requested tokens (",    /* llama-cpp-python */
        "requested: ",           /* Moonshot */
        "request contains ",     /* xAI */
        "request (",             /* llama-server */
        "the input (",           /* SGLang */
        "input (",               /* llama-server, of embeddings */
        "input prompt (",
        "input length (",       /* SGLang */
        "input length ",        /* Poolside */
        "prompt (length ",      /* vLLM */
        "prompt length ",       /* TabbyAPI */
        "allocation requires ", /* TabbyAPI */
        "keep the first ",      /* LM Studio */
        "prompt is too long: ", /* Anthropic */
        "prompt contains ",     /* Mistral */
        "token count of ",      /* GitHub */
        "token count (",        /* Gemini */
        "given: ",              /* TGI */
    };
    /* vLLM: the output is what is too much, and the prompt comes on top of it. */
    uint64_t output = number_after(text, "is too large: ");
    uint64_t input = number_before(text, " input tokens");

    if (output == 0)
        output = number_before(text, " output tokens");
    out->needed = first_number(text, totals, ARRAY_LEN(totals));
    if (out->needed == 0 && input != 0)
        out->needed = input + output;
    if (out->needed == 0 && strcasestr(text, " input characters") == NULL)
        out->needed = first_number(text, phrases, ARRAY_LEN(phrases));
}

/* The object that describes the error: older vLLM and SGLang have none of their own for it. */
static struct json_value error_of(const struct json_value *root)
{
    struct json_value error = json_get(root, "error");

    return error.type == JSON_OBJECT ? error : *root;
}

static void read_figures(struct refusal *out, const struct json_value *root, const char *text)
{
    struct json_value error = error_of(root);

    out->limit = member(&error, "n_ctx");
    out->needed = member(&error, "n_prompt_tokens");
    if (out->limit == 0)
        read_limit(out, text);
    if (out->needed == 0)
        read_needed(out, text);
    if (out->limit == 0 || out->needed < out->limit)
        out->needed = 0; /* of something else */
}

/* ---- texts ----------------------------------------------------------------------------- */

static bool lacks_context(const struct json_value *root, const char *text)
{
    static const char *const marks[] = {
        "context length",
        "context size",
        "context window",
        "context limit",
        "context_window_exceeded",
        "maximum model length",
        "maximum prompt length",
        "maximum allowed input length",
        "exceeds the maximum allowed length", /* SGLang */
        "max_model_len",
        "max_seq_len",
        "prompt is too long",
        "prompt too long",
        "input is too long",
        "must be at least 1, got -", /* vLLM: max_tokens after the prompt */
        "is too large to process",   /* llama-server: a batch of embeddings */
        "max_new_tokens` must be <=",
        "inputs` must have less than",
        "maximum number of tokens allowed",
        "reduce the length of the messages",
        "too large for model with",
        "model token limit",
        "input length should be",
        "tokens exceed the configured limit",
        "prompt token count of ", /* GitHub */
        "too long and exceeds limit of",
        "prompt is longer than the context",
    };
    struct json_value error = error_of(root);
    struct json_value code = json_get(&error, "code"), type = json_get(&error, "type");

    return json_equal(&code, "context_length_exceeded") ||
           json_equal(&type, "exceed_context_size_error") ||
           json_equal(&type, "context_length_exceeded") || HAS_ANY(text, marks);
}

static bool lacks_vision(const char *text)
{
    static const char *const marks[] = {
        "image input is not supported", /* llama-server */
        "video input is not supported",
        "not support multimodal",              /* llama-server, of completions */
        "multimodal inputs are not supported", /* SGLang */
        "image modality is not supported",     /* TGI */
        "video(s) may be provided",
        "not support images",
        "support image input", /* OpenRouter: no endpoint that does */
        "allowed values: ['text']",
        "image inputs are not supported",
        "images are not supported",
        "image(s) may be provided",              /* vLLM: at most so many */
        "not a multimodal model",                /* vLLM, SGLang */
        "missing data required for image input", /* Ollama */
        "does not support image",                /* LM Studio */
        "doesn't support image",
        "not support vision",
        "with vision support",                   /* TabbyAPI */
        "image_url is only supported by",        /* OpenAI */
        "unknown variant `image_url`",           /* servers in Rust */
        "only 'text' content type is supported", /* mlx_lm.server */
        "content must be a string",              /* Groq */
        "image input is not enabled",            /* Mistral */
        "image input modality is not enabled",   /* Gemini */
        "'image_url' is not supported",
        "model cannot process images",
        "not have a vision encoder",
    };

    return HAS_ANY(text, marks);
}

static bool lacks_audio(const char *text)
{
    static const char *const marks[] = {
        "audio input is not supported",
        "audio inputs are not supported",
        "audio modality is not supported",
        "audio(s) may be provided",
        "not support audio",
        "doesn't support audio",
        "unknown variant `input_audio`",
        "support audio input",
        "audio input is not enabled",
        "audio input modality is not enabled",
        "'input_audio' is not supported",
    };

    return HAS_ANY(text, marks);
}

static bool lacks_tools(const char *text)
{
    static const char *const marks[] = {
        "not support tool", /* Ollama */
        "doesn't support tool",
        "not support function call",
        "support tool use", /* OpenRouter: no endpoint that does */
        "tools are not supported",
        "tool calling is not supported",
        "tool calling` is not supported", /* Groq */
        "tool use is not supported",
        "tool choice requires", /* vLLM: --enable-auto-tool-choice */
        "enable-auto-tool-choice",
        "tools param requires", /* llama-server: --jinja */
        "tool_choice param requires",
        "tools` is not supported",
        "function calling is not enabled", /* Mistral */
        "tool calling is not enabled",
        "tool use is not enabled",
    };

    return HAS_ANY(text, marks);
}

static bool lacks_grammar(const char *text)
{
    static const char *const subjects[] = {
        "grammar",         "json_schema",       "json schema", "response_format",
        "response format", "structured output", "guided",      "json mode"};
    static const char *const refusals[] = {
        "not supported", "unsupported", "not support",
        "not enabled",   "unavailable", "must be 'json_schema'",
    };

    return HAS_ANY(text, subjects) && HAS_ANY(text, refusals);
}

static bool lacks_operation(const char *text)
{
    static const char *const marks[] = {
        "not support embedding",  "not support generate", /* Ollama */
        "not support chat",                               /* Ollama, vLLM */
        "not support completion",                         /* vLLM */
        "not support rerank",     "not support reranking",
        "not support pooling",    "not support transcription",
    };

    return HAS_ANY(text, marks);
}

/* "Response with id 'resp_1' not found." (vLLM, SGLang), "Previous response with id ... not
 * found." (OpenAI), and of conversations alike. */
static bool lacks_state(const struct json_value *root, const char *text)
{
    struct json_value error = error_of(root);
    struct json_value code = json_get(&error, "code");

    return json_equal(&code, "previous_response_not_found") ||
           ((strncasecmp(text, "response with id", 16) == 0 ||
             strncasecmp(text, "previous response with id", 25) == 0 ||
             strncasecmp(text, "conversation with id", 20) == 0) &&
            text_has(text, "not found"));
}

static enum ability lacked(const struct json_value *root, const char *text)
{
    if (lacks_state(root, text))
        return ABILITY_STATE;
    if (lacks_vision(text))
        return ABILITY_VISION;
    if (lacks_audio(text))
        return ABILITY_AUDIO;
    if (lacks_tools(text))
        return ABILITY_TOOLS;
    if (lacks_operation(text))
        return ABILITY_OPERATION;
    if (lacks_grammar(text))
        return ABILITY_GRAMMAR;
    return lacks_context(root, text) ? ABILITY_CONTEXT : ABILITY_NONE;
}

bool refusal_read(struct refusal *out, unsigned http_status, const void *body, size_t n,
                  const char *text)
{
    struct json_value root = {0};

    *out = (struct refusal){0};
    if (json_check(&root, body, n, NULL) != 0)
        root = (struct json_value){0};
    out->ability = lacked(&root, text);
    switch (out->ability) {
    case ABILITY_CONTEXT:
        read_figures(out, &root, text);
        break;
    case ABILITY_VISION:
    case ABILITY_AUDIO:
        out->limit = number_after(text, "at most ");
        break;
    case ABILITY_GRAMMAR:
        /* It has grammars, and lacks a feature, or a form, that this one uses. */
        out->limit = text_has(text, "feature") || text_has(text, "keyword") ||
                     text_has(text, "response_format.type") ||
                     text_has(text, "response_format type");
        break;
    case ABILITY_NONE:
        if (http_status == 413)
            out->ability = ABILITY_MESSAGE_BYTES;
        break;
    case ABILITY_TOOLS:
    case ABILITY_OPERATION:
    case ABILITY_MESSAGE_BYTES:
    case ABILITY_ACCESS:
    case ABILITY_STATE:
    case ABILITY_MODEL:
    case ABILITIES:
        break;
    }
    return out->ability != ABILITY_NONE;
}
