/*
 * sim_answer.h - the answers of the simulated engine, surface by surface.
 *
 * Errors in each API's own shape, the answers that are no text (embeddings, rankings, facts
 * about a model), and the engine's identity: every answer says that it is simulated, and
 * carries a nonce of its own in system_fingerprint.  Pure.
 */
#ifndef DROVER_SIM_ANSWER_H
#define DROVER_SIM_ANSWER_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"
#include "sim/model/sim_operation.h"
#include "sim/model/sim_spec.h"

struct buf;
struct error;

/* Of one run. */
struct sim_ident {
    char random[33];      /* the variable part of ids */
    char fingerprint[13]; /* "sim-" and eight hexadecimal digits */
    uint64_t created_s;   /* on the wall */
};

/* Is the operation of Ollama's API, or of Anthropic's? */
bool sim_is_ollama(enum sim_operation operation);
bool sim_is_anthropic(enum sim_operation operation);

/* An error body in the shape of the operation's API.  `code` may be NULL. */
void sim_error_body(struct buf *out, enum sim_operation operation, unsigned status,
                    const char *type, const char *code, const char *message);

/*
 * The whole answer of an operation that gives no text: EMBEDDINGS, RERANK, OLLAMA_EMBED,
 * OLLAMA_EMBEDDINGS, OLLAMA_SHOW.  *prompt_tokens is its cost.  DRV_EINVAL with words for
 * the client; DRV_ENOMEM.
 */
MUST_CHECK int sim_answer_build(struct buf *out, enum sim_operation operation,
                                const cJSON *root, const struct sim_spec_model *model,
                                const struct sim_ident *ident, uint32_t *prompt_tokens,
                                struct error *err);

#endif
