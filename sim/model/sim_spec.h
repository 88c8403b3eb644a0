/*
 * sim_spec.h - the settings of the simulated engine, and their text form.
 *
 * docs/simulated-engine.md is the reference of the keys.  Durations and speeds in the struct
 * are real ones: `speed` is already applied.
 */
#ifndef DROVER_SIM_SPEC_H
#define DROVER_SIM_SPEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "sim/model/sim_model.h"

struct error;

#define SIM_MODEL_BYTES 128
#define SIM_MAX_MODELS  64

enum sim_fault_kind {
    SIM_FAULT_NONE = 0,
    SIM_FAULT_DIE,         /* the process ends */
    SIM_FAULT_HANG,        /* no more output, the slot stays taken */
    SIM_FAULT_SLOW,        /* a token in every `factor`-th step only */
    SIM_FAULT_GARBAGE,     /* bytes that are no answer */
    SIM_FAULT_5XX,         /* status 500; once output began, as ERROR_FIRST */
    SIM_FAULT_ERROR_FIRST, /* status 200, and then an error event */
    SIM_FAULT_TRUNCATE,    /* ends properly for HTTP, but without its last events */
    SIM_FAULT_RESET,       /* the connection breaks */
};

struct sim_fault {
    enum sim_fault_kind kind;
    uint32_t after_tokens; /* output tokens of this run before it happens */
    uint32_t factor;       /* of SLOW */
};

struct sim_spec_model {
    char id[SIM_MODEL_BYTES];
    uint32_t context; /* tokens */
    uint32_t load_ms; /* != 0: not loaded before its first request */
};

struct sim_spec {
    struct sim_model_config model;
    char name[64];          /* "" = none; matched by "only_node" */
    uint32_t mean_tokens;   /* of a text: its own length is half of it up to 1.5 times it */
    bool to_limit;          /* a request's limit is its length, and mean_tokens without one */
    uint32_t load_ms;       /* from start to the first answer */
    uint64_t seed;          /* of ids and nonces; 0 = random */
    struct sim_fault fault; /* of request number fault_at, counted from 1 */
    uint32_t fault_at;
    uint32_t n_models;
    struct sim_spec_model models[SIM_MAX_MODELS];
};

/* Parses "key=value,...".  DRV_EINVAL: `err` names the key, the fault and the expected value.
 */
MUST_CHECK int sim_spec_parse(struct sim_spec *out, const char *text, struct error *err);

/* The kind called `name` ("die", "5xx", ...), or SIM_FAULT_NONE. */
enum sim_fault_kind sim_fault_parse(const char *name);
const char *sim_fault_name(enum sim_fault_kind kind);
#define SIM_FAULT_NAMES "die, hang, slow, garbage, 5xx, error_first, truncate, reset"

#endif
