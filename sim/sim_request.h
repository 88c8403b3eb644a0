/*
 * sim_request.h - what a request to the simulated engine asks for.
 *
 * Turns a body into what the engine needs to run it; the body is not needed afterwards.
 * Everything a client can get wrong ends here, as an error body in its API's shape.  Pure.
 */
#ifndef DROVER_SIM_REQUEST_H
#define DROVER_SIM_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/text/buf.h"
#include "sim/model/sim_operation.h"
#include "sim/model/sim_spec.h"
#include "sim/model/sim_text.h"
#include "sim/sim_answer.h"

#define SIM_MAX_BODY_BYTES (32u * 1024 * 1024)
#define SIM_TOOL_BYTES     65

enum sim_want {
    SIM_WANT_ERROR = 0, /* `body` with `status`, at once */
    SIM_WANT_FACTS,     /* `body`, at once */
    SIM_WANT_VECTORS,   /* `body`, after the prompt's prefill */
    SIM_WANT_TEXT,
    SIM_WANT_TOOL, /* one call of `tool` */
};

/* A request as a client sent it. */
struct sim_input {
    enum sim_operation operation;
    const char *content_type; /* NULL = none; only forms need one */
    const uint8_t *body;
    size_t body_len;
    uint32_t attempt; /* how often it was tried before, as the caller says */
};

struct sim_request {
    enum sim_want want;
    enum sim_operation operation;
    const struct sim_spec_model *model; /* borrowed from the spec; NULL iff ERROR */
    unsigned status;                    /* HTTP */
    struct buf body;                    /* owned */
    bool stream, usage_event;           /* usage_event: stream_options.include_usage */
    bool logprobs;                      /* in a stream of completions: has token ids */
    bool plain;                         /* transcription as text/plain */
    struct sim_place place;
    uint32_t prompt_tokens;
    uint32_t output_tokens; /* how many this run gives */
    bool cut;               /* a limit ends it, not the text */
    uint64_t *blocks;       /* owned */
    size_t n_blocks;
    char tool[SIM_TOOL_BYTES];
    struct sim_fault fault;
};

/*
 * Reads a request.  `scratch` is memory to work in.  DRV_ENOMEM is the only failure; whatever
 * is wrong with the request itself gives SIM_WANT_ERROR.  Release with sim_request_finish() in
 * any case.
 */
MUST_CHECK int sim_request_read(struct sim_request *out, const struct sim_spec *spec,
                                const struct sim_input *input, const struct sim_ident *ident,
                                struct buf *scratch);
void sim_request_finish(struct sim_request *request);

/* Does the model give texts?  One that does not has embeddings and rankings only. */
bool sim_makes_text(const struct sim_spec_model *model);

#endif
