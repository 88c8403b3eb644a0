/*
 * abilities.h - what a request needs of a node, and how well a node answers to it.  Pure.
 *
 * Nodes that serve one model differ in their context, in the images and sounds that they take,
 * in how they were started.  A lack bars a node from a request and is no failure.  The sources
 * are the engine's own word and the refusals of the last minutes (shm/share/taught.h).
 *
 * Tokens of a prompt are an estimate until an engine has counted them, so a context that is
 * probably too small only makes a node the last choice.
 */
#ifndef DROVER_POLICY_ABILITIES_H
#define DROVER_POLICY_ABILITIES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/kinds.h"

struct json_value;

/* A token is rarely longer. */
#define ABILITIES_BYTES_PER_TOKEN 8u
/* An answer is seldom longer, in tokens. */
#define ABILITIES_USUAL_OUTPUT 4096u

struct abilities_need {
    uint32_t flags;         /* bit (1 << enum ability) of what it cannot do without */
    bool stream;            /* its answer is to be one */
    uint64_t prompt_tokens; /* an estimate, or what an engine counted */
    uint64_t least_tokens;  /* the prompt has hardly fewer */
    uint64_t output_tokens; /* the most that the client wants; 0 = no limit is set */
    /* Ollama's num_ctx: the context to load the model with; 0 = the engine chooses. */
    uint32_t wanted_context;
};

/* Reads TOOLS, GRAMMAR, the output's limit and the wanted context from a checked body; the rest
 * of *need is the caller's. */
void abilities_read(struct abilities_need *need, const struct json_value *body);

/* A prompt of so many bytes of text, and about so many tokens with all that is in it. */
void abilities_prompt(struct abilities_need *need, uint64_t text_bytes, uint64_t tokens);

/* An engine has counted the prompt, as far as it cared to. */
void abilities_counted(struct abilities_need *need, uint64_t tokens);

/* Of a node that serves the model. */
struct abilities_known {
    uint32_t lacks;          /* bit (1 << enum ability) */
    uint32_t context_tokens; /* 0 = not known */
    /* 0 = its context is fixed.  Ollama's is the one that a request wants, up to this, for
     * which it loads the model anew; and it cuts a longer prompt without a word.  So a context
     * bars no request there, but a larger one elsewhere is better. */
    uint32_t largest_context;
};

#define ABILITIES_ANY_CONTEXT UINT32_MAX /* largest_context is not known */

/* Ollama's default where it has little memory, for a model that is not loaded. */
#define ABILITIES_DEFAULT_CONTEXT 4096u

/* The context that a node has for a request that wants this one; 0 = not known. */
MUST_CHECK uint32_t abilities_context(const struct abilities_known *known,
                                      uint32_t wanted_context);

/* Does the engine, which has the model in memory, load it anew for a request that wants this
 * context? */
MUST_CHECK bool abilities_reloads(const struct abilities_known *known, uint32_t wanted_context);

/*
 *   rank       when
 *   --------   ---------------------------------------------------------------------
 *   HOLDS      nothing is known to be missing
 *   TIGHT      the longest output that the client allows may not fit, but a usual one does
 *   CUTS       the prompt fits, but the output that the client wants may not
 *   DOUBTFUL   the prompt is probably larger than the context
 *   LACKS      it certainly is, or the node lacks something that the request needs
 */
enum abilities_rank {
    ABILITIES_HOLDS = 0,
    ABILITIES_TIGHT,
    ABILITIES_CUTS,
    ABILITIES_DOUBTFUL,
    ABILITIES_LACKS,
};
MUST_CHECK enum abilities_rank abilities_rank(const struct abilities_known *known,
                                              const struct abilities_need *need);

/*
 * A request goes to the nodes of the least score, and to TIGHT ones while those that hold it
 * have no room: few answers use a limit of 32,000 tokens, and clients that have to give one
 * give it always.  Where the prompt may not fit, the largest
 * context has the least.  ABILITIES_SCORE(rank) is the least score of a rank.
 */
#define ABILITIES_SCORE(rank) ((uint64_t)(rank) << 32)
MUST_CHECK uint64_t abilities_score(const struct abilities_known *known,
                                    const struct abilities_need *need);

#endif
