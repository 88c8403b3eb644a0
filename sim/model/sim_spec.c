/* sim_spec.c - the settings of the simulated engine, and their text form. */
#include "sim/model/sim_spec.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

enum key {
    KEY_SLOTS,
    KEY_PREFILL,
    KEY_BASE_MS,
    KEY_SLOPE_MS,
    KEY_CHUNK,
    KEY_CACHE,
    KEY_BLOCK,
    KEY_CACHE_TOKENS,
    KEY_CACHE_BLOCKS,
    KEY_RATE,
    KEY_SPREAD,
    KEY_CTX,
    KEY_TOKENS,
    KEY_LENGTH,
    KEY_LOAD_MS,
    KEY_SPEED,
    KEY_SEED,
    KEY_NAME,
    KEY_FAIL,
    KEY_FAIL_AFTER,
    KEY_MODELS,
    KEY_MODEL,
    KEY_COUNT,
};

/* The numbers; the keys of text have max 0.  0 as `fallback` of CACHE_TOKENS, CACHE_BLOCKS and
 * BLOCK means: from the other settings. */
static const struct {
    const char *name;
    double min, max, fallback;
    bool whole;
} KEYS[KEY_COUNT] = {
    [KEY_SLOTS] = {"slots", 1, 65536, 4, true},
    [KEY_PREFILL] = {"prefill", 1, 1e9, 8000, false},
    [KEY_BASE_MS] = {"base_ms", 0, 60000, 12, false},
    [KEY_SLOPE_MS] = {"slope_ms", 0, 60000, 0.6, false},
    [KEY_CHUNK] = {"chunk", 1, 1000000, 512, true},
    [KEY_CACHE] = {"cache", 0, 0, 0, false},
    [KEY_BLOCK] = {"block", 1, 65536, 0, true},
    [KEY_CACHE_TOKENS] = {"cache_tokens", 1, 4e9, 0, true},
    [KEY_CACHE_BLOCKS] = {"cache_blocks", 1, 16777216, 0, true},
    [KEY_RATE] = {"rate", 0, 100000, 0, false},
    [KEY_SPREAD] = {"spread", 1, 1000, 1, true},
    [KEY_CTX] = {"ctx", 16, 1e9, 131072, true},
    [KEY_TOKENS] = {"tokens", 1, 1e9, 256, true},
    [KEY_LENGTH] = {"length", 0, 0, 0, false},
    [KEY_LOAD_MS] = {"load_ms", 0, 3600000, 0, true},
    [KEY_SPEED] = {"speed", 0.001, 10000, 1, false},
    [KEY_SEED] = {"seed", 0, 9e15, 0, true},
    [KEY_NAME] = {"name", 0, 0, 0, false},
    [KEY_FAIL] = {"fail", 0, 0, 0, false},
    [KEY_FAIL_AFTER] = {"fail_after", 0, 1e9, 0, true},
    [KEY_MODELS] = {"models", 0, 0, 0, false},
    [KEY_MODEL] = {"model", 0, 0, 0, false},
};

static const char *const FAULT_NAMES[] = {
    [SIM_FAULT_NONE] = "none",
    [SIM_FAULT_DIE] = "die",
    [SIM_FAULT_HANG] = "hang",
    [SIM_FAULT_SLOW] = "slow",
    [SIM_FAULT_GARBAGE] = "garbage",
    [SIM_FAULT_5XX] = "5xx",
    [SIM_FAULT_ERROR_FIRST] = "error_first",
    [SIM_FAULT_TRUNCATE] = "truncate",
    [SIM_FAULT_RESET] = "reset",
};

enum sim_fault_kind sim_fault_parse(const char *name)
{
    size_t i;

    for (i = 1; i < ARRAY_LEN(FAULT_NAMES); i++)
        if (strcmp(name, FAULT_NAMES[i]) == 0)
            return (enum sim_fault_kind)i;
    return SIM_FAULT_NONE;
}

const char *sim_fault_name(enum sim_fault_kind kind)
{
    return FAULT_NAMES[kind];
}

static int parse_number(double *out, const char *key, const char *value, double min, double max,
                        bool whole, struct error *err)
{
    char *end;
    double n;

    errno = 0;
    n = strtod(value, &end);
    if (end == value || *end != '\0' || errno != 0 || !isfinite(n) || n < min || n > max ||
        (whole && n != floor(n)))
        return error_set(err, DRV_EINVAL, "%s: \"%s\" is not a %s from %.15g to %.15g", key,
                         value, whole ? "whole number" : "number", min, max);
    *out = n;
    return 0;
}

/* NAME, NAME@CONTEXT or NAME@CONTEXT@LOAD_MS */
static int add_model(struct sim_spec *spec, const char *key, char *text, struct error *err)
{
    struct sim_spec_model *model = &spec->models[spec->n_models];
    char *name = strsep(&text, "@"), *context = strsep(&text, "@");
    double n;
    uint32_t i;
    int rc;

    if (spec->n_models == SIM_MAX_MODELS)
        return error_set(err, DRV_EINVAL, "%s: more than %d models", key, SIM_MAX_MODELS);
    if (*name == '\0')
        return error_set(err, DRV_EINVAL, "%s: a model has no name", key);
    if (strlcpy(model->id, name, sizeof(model->id)) >= sizeof(model->id))
        return error_set(err, DRV_EINVAL, "%s: the name \"%.40s...\" is longer than %d bytes",
                         key, name, SIM_MODEL_BYTES - 1);
    for (i = 0; i < spec->n_models; i++)
        if (strcmp(spec->models[i].id, model->id) == 0)
            return error_set(err, DRV_EINVAL, "%s: \"%s\" is there twice", key, name);
    for (i = 0; name[i] != '\0'; i++)
        if ((unsigned char)name[i] < 0x21 || name[i] == '"' || name[i] == '\\' ||
            (unsigned char)name[i] > 0x7e)
            return error_set(err, DRV_EINVAL, "%s: a model name holds byte 0x%02x", key,
                             (unsigned char)name[i]);
    model->context = 0;
    model->load_ms = 0;
    if (context != NULL) {
        rc = parse_number(&n, key, context, KEYS[KEY_CTX].min, KEYS[KEY_CTX].max, true, err);
        if (rc != 0)
            return rc;
        model->context = (uint32_t)n;
    }
    if (text != NULL) {
        rc = parse_number(&n, key, text, 0, KEYS[KEY_LOAD_MS].max, true, err);
        if (rc != 0)
            return rc;
        model->load_ms = (uint32_t)n;
    }
    spec->n_models++;
    return 0;
}

static int add_models(struct sim_spec *spec, const char *key, char *list, struct error *err)
{
    char *text;

    while ((text = strsep(&list, ";")) != NULL) {
        int rc = add_model(spec, key, text, err);

        if (rc != 0)
            return rc;
    }
    return 0;
}

static int parse_cache(struct sim_spec *spec, const char *value, struct error *err)
{
    if (strcmp(value, "none") == 0)
        spec->model.cache = SIM_CACHE_NONE;
    else if (strcmp(value, "block") == 0)
        spec->model.cache = SIM_CACHE_BLOCK;
    else if (strcmp(value, "slot") == 0)
        spec->model.cache = SIM_CACHE_SLOT;
    else
        return error_set(err, DRV_EINVAL, "cache: \"%s\" is none of block, slot, none", value);
    return 0;
}

static int parse_length(struct sim_spec *spec, const char *value, struct error *err)
{
    spec->to_limit = strcmp(value, "limit") == 0;
    if (!spec->to_limit && strcmp(value, "natural") != 0)
        return error_set(err, DRV_EINVAL, "length: \"%s\" is none of natural, limit", value);
    return 0;
}

/* KIND@COUNT */
static int parse_fail(struct sim_spec *spec, char *value, struct error *err)
{
    char *kind = strsep(&value, "@");
    double n = 1;
    int rc;

    spec->fault.kind = sim_fault_parse(kind);
    if (spec->fault.kind == SIM_FAULT_NONE)
        return error_set(err, DRV_EINVAL, "fail: \"%s\" is none of %s", kind, SIM_FAULT_NAMES);
    if (value != NULL) {
        rc = parse_number(&n, "fail", value, 1, 1e9, true, err);
        if (rc != 0)
            return rc;
    }
    spec->fault_at = (uint32_t)n;
    return 0;
}

static int parse_text(struct sim_spec *spec, enum key key, char *value, struct error *err)
{
    if (key == KEY_CACHE)
        return parse_cache(spec, value, err);
    if (key == KEY_LENGTH)
        return parse_length(spec, value, err);
    if (key == KEY_FAIL)
        return parse_fail(spec, value, err);
    if (key == KEY_MODELS || key == KEY_MODEL)
        return add_models(spec, KEYS[key].name, value, err);
    if (strlcpy(spec->name, value, sizeof(spec->name)) >= sizeof(spec->name))
        return error_set(err, DRV_EINVAL, "name: longer than %zu bytes",
                         sizeof(spec->name) - 1);
    return 0;
}

static int parse_pair(struct sim_spec *spec, double *numbers, bool *given, char *pair,
                      struct error *err)
{
    char *name = strsep(&pair, "=");
    unsigned key;

    for (key = 0; key < KEY_COUNT && strcmp(name, KEYS[key].name) != 0; key++)
        ;
    if (key == KEY_COUNT)
        return error_set(err, DRV_EINVAL, "%.40s: no such key", name);
    if (pair == NULL || *pair == '\0')
        return error_set(err, DRV_EINVAL, "%s: has no value", name);
    if (given[key] && key != KEY_MODEL)
        return error_set(err, DRV_EINVAL, "%s: is there twice", name);
    given[key] = true;
    if (KEYS[key].max == 0)
        return parse_text(spec, (enum key)key, pair, err);
    return parse_number(&numbers[key], name, pair, KEYS[key].min, KEYS[key].max,
                        KEYS[key].whole, err);
}

/* From the given values to those the engine uses. */
static void settle(struct sim_spec *spec, double *numbers, const bool *given)
{
    struct sim_model_config *model = &spec->model;
    double speed = numbers[KEY_SPEED];
    uint32_t i;

    if (!given[KEY_BLOCK])
        numbers[KEY_BLOCK] = model->cache == SIM_CACHE_SLOT ? 16 : 512;
    if (!given[KEY_CACHE_BLOCKS]) {
        double tokens = given[KEY_CACHE_TOKENS] ? numbers[KEY_CACHE_TOKENS] : 262144;

        numbers[KEY_CACHE_BLOCKS] = floor(tokens / numbers[KEY_BLOCK]);
        if (numbers[KEY_CACHE_BLOCKS] > KEYS[KEY_CACHE_BLOCKS].max)
            numbers[KEY_CACHE_BLOCKS] = KEYS[KEY_CACHE_BLOCKS].max;
    }
    model->slots = (uint32_t)numbers[KEY_SLOTS];
    model->prefill_tokens_per_s = numbers[KEY_PREFILL] * speed;
    model->base_us = numbers[KEY_BASE_MS] * 1000 / speed;
    model->slope_us = numbers[KEY_SLOPE_MS] * 1000 / speed;
    model->chunk_tokens = (uint32_t)numbers[KEY_CHUNK];
    model->block_tokens = (uint32_t)numbers[KEY_BLOCK];
    model->cache_blocks = (uint32_t)numbers[KEY_CACHE_BLOCKS];
    model->rate = numbers[KEY_RATE] * speed;
    model->spread = (uint32_t)numbers[KEY_SPREAD];
    spec->mean_tokens = (uint32_t)numbers[KEY_TOKENS];
    spec->load_ms = (uint32_t)(numbers[KEY_LOAD_MS] / speed);
    spec->seed = (uint64_t)numbers[KEY_SEED];
    spec->fault.after_tokens = (uint32_t)numbers[KEY_FAIL_AFTER];
    spec->fault.factor = 10;
    for (i = 0; i < spec->n_models; i++) {
        if (spec->models[i].context == 0)
            spec->models[i].context = (uint32_t)numbers[KEY_CTX];
        spec->models[i].load_ms = (uint32_t)(spec->models[i].load_ms / speed);
    }
}

static int check(const double *numbers, const bool *given, struct error *err)
{
    if (given[KEY_CACHE_TOKENS] && given[KEY_CACHE_BLOCKS])
        return error_set(err, DRV_EINVAL,
                         "cache_blocks: cache_tokens is given too; one of them is enough");
    if (given[KEY_SPREAD] && numbers[KEY_RATE] == 0)
        return error_set(err, DRV_EINVAL, "spread: needs rate");
    if (given[KEY_FAIL_AFTER] && !given[KEY_FAIL])
        return error_set(err, DRV_EINVAL, "fail_after: needs fail");
    return 0;
}

int sim_spec_parse(struct sim_spec *out, const char *text, struct error *err)
{
    char copy[4096], *rest = copy, *pair;
    double numbers[KEY_COUNT];
    bool given[KEY_COUNT] = {false};
    unsigned key;
    int rc;

    memset(out, 0, sizeof(*out));
    out->model.cache = SIM_CACHE_BLOCK;
    for (key = 0; key < KEY_COUNT; key++)
        numbers[key] = KEYS[key].fallback;
    if (strlcpy(copy, text, sizeof(copy)) >= sizeof(copy))
        return error_set(err, DRV_EINVAL, "the settings are longer than %zu bytes",
                         sizeof(copy) - 1);
    while (copy[0] != '\0' && (pair = strsep(&rest, ",")) != NULL) {
        rc = parse_pair(out, numbers, given, pair, err);
        if (rc != 0)
            return rc;
    }
    rc = check(numbers, given, err);
    if (rc == 0 && out->n_models == 0) {
        char models[] = "sim;sim-small;sim-embed";

        rc = add_models(out, "models", models, err);
    }
    if (rc == 0)
        settle(out, numbers, given);
    return rc;
}
