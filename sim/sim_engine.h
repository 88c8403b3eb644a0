/*
 * sim_engine.h - the simulated engine: takes requests and gives their answers piece by piece.
 *
 * sim_http.c puts HTTP on top.  Events come from the loop, never from inside a function below,
 * and their receiver must not call back into the engine.
 */
#ifndef DROVER_SIM_ENGINE_H
#define DROVER_SIM_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "sim/model/sim_spec.h"
#include "sim/sim_request.h"

struct error;
struct loop;
struct sim_engine; /* opaque */
struct sim_run;    /* opaque: one request */

/* The end of a run. */
enum sim_end {
    SIM_END_OK = 0,  /* the answer is complete as HTTP sees it */
    SIM_END_RESET,   /* a fault: the connection is to break */
    SIM_END_GARBAGE, /* a fault: what comes is to be no HTTP; nothing came before */
};

struct sim_events {
    /* `content_type` is static.  Comes before any body. */
    void (*on_head)(void *data, unsigned status, const char *content_type);
    void (*on_body)(void *data, const uint8_t *bytes, size_t n); /* borrowed for the call */
    void (*on_end)(void *data, enum sim_end end);                /* the run is gone */
};

/* `spec` is a comma-separated list of key=value (docs/simulated-engine.md); "" is all defaults.
 * DRV_EINVAL and DRV_ENOMEM, with `err` set. */
MUST_CHECK int sim_engine_create(struct sim_engine **out, struct loop *loop, const char *spec,
                                 struct error *err);

/* Runs that are left end without an event.  NULL is fine. */
void sim_engine_destroy(struct sim_engine *engine);

/* Begins a request; the input is not needed afterwards.  DRV_ENOMEM. */
MUST_CHECK int sim_run_start(struct sim_run **out, struct sim_engine *engine,
                             const struct sim_input *input, const struct sim_events *events,
                             void *data);

/* Ends a run without an event; its slot is free at once. */
void sim_run_cancel(struct sim_run *run);

/* A paused run gets no more tokens, though it keeps its slot: as in a real engine when its
 * socket is full. */
void sim_run_pause(struct sim_run *run, bool paused);

/* ---- its facts about itself ------------------------------------------------------------ */

enum sim_model_state {
    SIM_MODEL_LOADED = 0,
    SIM_MODEL_UNLOADED, /* its first request loads it */
    SIM_MODEL_LOADING,
};

/* Counts since the start, and the present load. */
struct sim_status {
    bool loading; /* the engine itself: it answers nothing yet */
    uint32_t running, queued;
    uint64_t progress;                     /* prompt and output tokens worked on */
    uint64_t prompt_tokens, output_tokens; /* of prefills and answers that ended; cached prompt
                                              tokens are not in it */
    uint64_t prompt_us, output_us;         /* what these took, summed over requests */
};

const struct sim_spec *sim_engine_spec(const struct sim_engine *engine);
struct sim_status sim_engine_status(const struct sim_engine *engine);

/* Of model number `index` of the settings. */
enum sim_model_state sim_engine_model_state(const struct sim_engine *engine, uint32_t index);

#endif
